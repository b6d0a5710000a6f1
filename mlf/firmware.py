"""Finds the models in firmware: ELF files, libraries of objects, Intel HEX and dumps of flash.

What lies beside each model in flash is the descriptor of `descriptor.py`; this module says where in the image it is.
"""

from __future__ import annotations

import io
import stat
import struct
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from mlf.descriptor import find
from mlf.errors import ArchiveError, InputError, ObjectError, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from mlf.descriptor import Found, ModelDescriptor

_ELF_MAGIC = b"\x7fELF"
_AR_MAGIC = b"!<arch>\n"
_THIN_AR_MAGIC = b"!<thin>\n"
_PT_LOAD = 1
_MAX_SEGMENTS = 1000  # that are loaded; firmware has less than ten
_MAX_IMAGE_BYTES = 512 << 20  # of a file, which is read into memory; as for an archive
_HEX_LINE_BYTES = 1024  # the longest record has 521 characters
_HEX_EXTENSIONS = {2: 4, 4: 16}  # record type: how far the two bytes it holds are shifted to give a base address
_HEX_DATA, _HEX_END = 0, 1
_HEX_TYPES = range(6)
_MAX_REGIONS = 100_000  # of an Intel HEX file that do not touch; firmware has some ten


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a descriptor lies: from the start of the file, and in the memory of the machine; None where nothing tells."""

    offset: int | None
    address: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareModel:
    """A model in an image, and every place with a copy of its descriptor."""

    descriptor: ModelDescriptor
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareFault:
    """A place with a descriptor that cannot be read, and why."""

    place: Place
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """The models of an image; `form` is `elf`, `ar`, `ihex` or `raw`, `machine` what an ELF header says."""

    label: str
    form: str
    machine: str | None
    models: tuple[FirmwareModel, ...]
    faults: tuple[FirmwareFault, ...]


def read_firmware(path: Path) -> Firmware | None:
    """Find the models of a firmware image or a library.

    ELF files, `ar` archives and Intel HEX are told by their first bytes; of any other file None is given if no descriptor is
    in it, so also of a directory. Raises ArchiveError if the file cannot be read or is larger than 512 MiB, InputError for a
    damaged Intel HEX, ObjectError for an `ar` archive that only names its members.
    """
    data = _content(path)
    if data is None:
        return None
    if data.startswith(_THIN_AR_MAGIC):
        raise ObjectError("is a thin archive, which only names its members", where=path.name)
    if data.startswith(_ELF_MAGIC):
        machine, segments = _elf_facts(data)
        placed = [(Place(offset=it.offset, address=_address(it.offset, segments)), it) for it in find(data)]
        return _firmware(path.name, "elf", placed, machine=machine)
    if _hex_record(data[:_HEX_LINE_BYTES].partition(b"\n")[0]) is not None:
        regions = _hex_regions(data, path.name)
        return _firmware(path.name, "ihex", [item for start, region in regions for item in _in_region(start, region)])
    placed = [(Place(offset=it.offset, address=None), it) for it in find(data)]
    if data.startswith(_AR_MAGIC) or placed:
        return _firmware(path.name, "ar" if data.startswith(_AR_MAGIC) else "raw", placed)
    return None


def _content(path: Path) -> bytes | None:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return None
        if status.st_size > _MAX_IMAGE_BYTES:
            raise ArchiveError(f"has {status.st_size} bytes; at most {_MAX_IMAGE_BYTES} are allowed", where=path.name)
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ArchiveError("no such file", where=path.name) from error
    except OSError as error:
        raise ArchiveError(f"cannot be read: {reason_of(error)}", where=path.name) from error


def _firmware(label: str, form: str, placed: Iterable[tuple[Place, Found]], *, machine: str | None = None) -> Firmware:
    """Put the copies of one descriptor together; models are sorted by name, what else they say decides between equal ones."""
    places: dict[ModelDescriptor, list[Place]] = {}
    faults = []
    for place, found in placed:
        if found.descriptor is None:
            faults.append(FirmwareFault(place=place, text=found.fault or ""))
        else:
            places.setdefault(found.descriptor, []).append(place)
    models = sorted(places, key=lambda it: (it.name, it.module, it.identity))
    return Firmware(
        label=label, form=form, machine=machine, faults=tuple(faults),
        models=tuple(FirmwareModel(descriptor=model, places=tuple(places[model])) for model in models),
    )  # fmt: skip


def _elf_facts(data: bytes) -> tuple[str | None, list[tuple[int, int, int]]]:
    """Give the machine of an ELF file, and of what is loaded (offset, size, address); nothing of a damaged one.

    Sources: the System V gABI, chapters 4 (ELF header) and 5 (program header).
    """
    from mlf.objects.elf import Machine  # noqa: PLC0415  # numpy

    if data[4:5] not in (b"\1", b"\2") or data[5:6] not in (b"\1", b"\2"):
        return None, []
    is_64, order = data[4] == 2, ">" if data[5] == 2 else "<"
    try:
        number, table = struct.unpack_from(f"{order}2xH4x{'8xQ' if is_64 else '4xI'}", data, 16)
        entry_size, count = struct.unpack_from(f"{order}HH", data, 54 if is_64 else 42)
    except struct.error:
        return None, []
    machine = str(Machine(is_64=is_64, is_big_endian=order == ">", number=number))
    rows = (_segment(data, table + index * entry_size, order, is_64=is_64) for index in range(count))
    return machine, list(islice((row for row in rows if row), _MAX_SEGMENTS))


def _segment(data: bytes, start: int, order: str, *, is_64: bool) -> tuple[int, int, int] | None:
    try:
        if is_64:
            kind, offset, address, size = struct.unpack_from(f"{order}I4xQQ8xQ", data, start)
        else:
            kind, offset, address, size = struct.unpack_from(f"{order}III4xI", data, start)
    except (struct.error, OverflowError):
        return None
    return (offset, size, address) if kind == _PT_LOAD else None


def _address(offset: int, segments: Sequence[tuple[int, int, int]]) -> int | None:
    return next((base + offset - start for start, size, base in segments if start <= offset < start + size), None)


def _in_region(start: int, region: bytearray) -> Iterator[tuple[Place, Found]]:
    for found in find(region):
        yield Place(offset=None, address=start + found.offset), found


def _hex_regions(data: bytes, label: str) -> list[tuple[int, bytearray]]:
    """Give what an Intel HEX file holds, as pieces of memory that do not touch, sorted by address.

    Source: Intel, Hexadecimal Object File Format Specification, revision A, 1988.
    """
    regions: list[tuple[int, bytearray]] = []
    for address, content in _hex_data(data, label):
        if regions and address == regions[-1][0] + len(regions[-1][1]):
            regions[-1][1].extend(content)
            continue
        if len(regions) == _MAX_REGIONS:
            raise InputError(f"has more than {_MAX_REGIONS} pieces that do not touch", where=label)
        regions.append((address, bytearray(content)))
    joined: list[tuple[int, bytearray]] = []
    for start, region in sorted(regions, key=lambda it: it[0]):
        if joined and start == joined[-1][0] + len(joined[-1][1]):
            joined[-1][1].extend(region)
        else:
            joined.append((start, region))
    return joined


def _hex_data(data: bytes, label: str) -> Iterator[tuple[int, bytes]]:
    """Yield (address, content) of the data records up to the one that ends the file."""
    base = 0
    for number, line in enumerate(io.BytesIO(data), 1):
        if not line.strip():
            continue
        record = _hex_record(line)
        if record is None:
            raise InputError(f"line {number} is not a sound Intel HEX record", where=label)
        kind, content = record[3], record[4:-1]
        if kind == _HEX_END:
            return
        if kind == _HEX_DATA:
            yield base + int.from_bytes(record[1:3], "big"), content
        elif kind in _HEX_EXTENSIONS:
            base = int.from_bytes(content, "big") << _HEX_EXTENSIONS[kind]
    raise InputError("is cut off: it has no Intel HEX record that ends it", where=label)


def _hex_record(line: bytes) -> bytes | None:
    """Give the bytes of a record; None if the line is none, or its length, type or checksum is wrong."""
    digits = line.rstrip()
    if not digits.startswith(b":") or len(digits) > _HEX_LINE_BYTES or not digits.isascii():
        return None
    try:
        record = bytes.fromhex(digits[1:].decode())
    except ValueError:
        return None
    is_whole = len(record) > 4 and len(record) == record[0] + 5 and len(digits) == 2 * len(record) + 1
    if not is_whole or sum(record) & 0xFF or record[3] not in _HEX_TYPES:
        return None
    return record if record[3] not in _HEX_EXTENSIONS or record[0] == 2 else None
