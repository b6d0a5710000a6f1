"""Try mutated inputs against every reader: `python tests/fuzz.py [--count N] [--seed N] [--jobs N] [--kind KIND,...]`.

A reader has to accept an input or refuse it with an error of ours, within a second, and without touching a file that it was
not given; and a tar that it accepts must hold for it what it holds for `tarfile`. Where that fails, the input is saved and the
exit status is 1. Kind, seed and index of a case determine its input, so `--replay KIND:SEED:INDEX` makes it again; only
the objects that kind `object` begins with depend on the compilers of the machine.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import io
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tarfile
import tempfile
import time
import traceback
import zlib
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import archives
import toolbox
import zstandard
from archives import RELEASES, Network
from elftools.elf.elffile import ELFFile

from mlf.archive import open_archive
from mlf.errors import (
    ArchiveError,
    LinkError,
    MetadataError,
    MlfError,
    ObjectError,
    SourceError,
    TensorError,
    UnsupportedError,
)
from mlf.metadata import identity_of, parse_metadata
from mlf.objects.ar import ArMember, read_ar, write_ar
from mlf.objects.elf import Machine, data_object, parse_object, write_object
from mlf.objects.merge import merge_objects
from mlf.params import parse_params, render_params
from mlf.reading import read_modules
from mlf.strictjson import load_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from random import Random
    from types import FrameType

    from mlf.objects.elf import ElfObject

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
_LABEL = "case"  # of the input, in messages
_COMPANION = "whole.o"  # what an object is merged with
_LOST_SECONDS = 30.0  # of processor time, in code that does not let Python handle the alarm
_MEMORY_BYTES = 2 << 30  # beyond what the process has when it starts
_CHUNK_CASES = 250
_EXAMPLES = 3  # that are saved of each fault


# Tars of our own making: what a test or a mutation wants in them, right or wrong.

BLOCK = 512
END = bytes(2 * BLOCK)
POSIX = b"ustar\x0000"
GNU = b"ustar  \0"
FIELDS = {
    "name": (0, 100),
    "mode": (100, 108),
    "uid": (108, 116),
    "gid": (116, 124),
    "size": (124, 136),
    "mtime": (136, 148),
    "checksum": (148, 156),
    "kind": (156, 157),
    "linkname": (157, 257),
    "magic": (257, 265),
    "devmajor": (329, 337),
    "devminor": (337, 345),
    "prefix": (345, 500),
}


def header(name: bytes, size: int = 0, kind: bytes = b"0", **fields: bytes) -> bytes:
    """Make one ustar header, with whatever a test wants in it and a right checksum unless that is given."""
    content = {"name": name, "mode": b"0000644", "size": b"%011o" % size, "kind": kind, "magic": POSIX} | fields
    block = bytearray(BLOCK)
    for key, value in content.items():
        start, stop = FIELDS[key]
        block[start:stop] = value.ljust(stop - start, b"\0")
    return bytes(block) if "checksum" in fields else signed(bytes(block))


def signed(block: bytes) -> bytes:
    """Give a header its right checksum."""
    blank = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(blank) + block[156:]


def member(name: bytes, data: bytes = b"", kind: bytes = b"0", **fields: bytes) -> bytes:
    """Make a header with its padded content."""
    return header(name, len(data), kind, **fields) + data + bytes(-len(data) % BLOCK)


def pax(**records: bytes) -> bytes:
    """Make a pax header for the member that follows."""
    return member(b"././@PaxHeader", b"".join(record(key.encode(), value) for key, value in records.items()), b"x")


def record(key: bytes, value: bytes) -> bytes:
    """Make a pax record, which begins with its own length."""
    body = b" %b=%b\n" % (key, value)
    length = len(body) + 1
    while len(b"%d" % length + body) != length:
        length += 1
    return b"%d" % length + body


def stdlib_tar(
    files: Mapping[str, bytes], *, form: Literal[0, 1, 2] = tarfile.USTAR_FORMAT, mtime: float = 0, root: str = ""
) -> bytes:
    """Make a tar with the standard library; `root` is put before each name, and its directory is added if given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        directories = {str(parent) for name in files for parent in Path(name).parents} if root else set()
        for directory in sorted(directories):
            entry = tarfile.TarInfo("." if directory == "." else root + directory)
            entry.type, entry.mtime, entry.mode = tarfile.DIRTYPE, mtime, 0o755
            tar.addfile(entry)
        for name, data in sorted(files.items()):
            entry = tarfile.TarInfo(root + name)
            entry.size, entry.mtime, entry.uname, entry.gname = len(data), mtime, "root", "root"
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def trimmed(tar: bytes) -> bytes:
    """Give a tar without the long run of zeros at its end."""
    content = tar.rstrip(b"\0")
    return content + bytes(-len(content) % BLOCK) + END


def listed_by_tarfile(tar: bytes) -> list[tuple[str, bytes]]:
    """List the files of a tar and what is in them as the standard library reads them, in the order of their names."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as opened:
        for entry in opened:
            content = opened.extractfile(entry) if entry.isreg() else None
            if content is not None:
                found.append((entry.name.removeprefix("./"), content.read()))
    return sorted(found)


# Mutations.

_BYTES = (0, 1, 0x20, 0x2D, 0x2F, 0x39, 0x7F, 0x80, 0xFF)
_NUMBERS = tuple(2**power + near for power in (0, 3, 8, 15, 16, 31, 32, 53, 63, 64) for near in (-1, 0, 1))


def damaged(rng: Random, data: bytes, other: bytes) -> bytes:
    """Change, delete, insert or repeat a few bytes anywhere, cut the rest off, or go on with the end of another input."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        place = rng.randrange(len(changed) + 1)
        size = rng.choice((1, 1, 2, 4, 8, 1 + rng.randrange(64)))
        match rng.randrange(16):
            case 0:
                del changed[place : place + size]
            case 1:
                changed[place:place] = changed[place : place + size]
            case 2:
                changed[place:place] = rng.randbytes(size)
            case 3:
                del changed[place:]
            case 4:
                changed[place:] = other[rng.randrange(len(other) + 1) :]
            case 5 | 6:
                width = rng.choice((1, 2, 4, 8))
                changed[place : place + width] = (rng.choice(_NUMBERS) % (1 << 8 * width)).to_bytes(width, "little")
            case 7 | 8 | 9 if place < len(changed):
                changed[place] ^= 1 << rng.randrange(8)
            case _:
                changed[place : place + 1] = bytes([rng.choice((*_BYTES, rng.randrange(256)))])
    return bytes(changed)


@cache
def _tars() -> tuple[bytes, ...]:
    """Give tars of all the kinds that are read, and some that are refused for one thing."""
    files = {"a/" + "d" * 110 + "/x.c": b"int x;", "metadata.json": b"{}", "p": b"\1" * 600, "empty": b""}
    short = {name: data for name, data in files.items() if len(name) < 100}
    read = [
        stdlib_tar(files, form=tarfile.USTAR_FORMAT),
        stdlib_tar(files, form=tarfile.PAX_FORMAT, mtime=1.5, root="./"),
        stdlib_tar(short, form=tarfile.GNU_FORMAT, mtime=1.5, root="./"),
        pax(path=b"./src/" + b"n" * 200, mtime=b"1.25") + member(b"short", b"1") + member(b"last", b"\0" * 513) + END,
        member(b"x.c", b"int x;", prefix=b"./a/" + b"d" * 150) + member(b"a", b"old", b"\0") + END,
    ]
    refused = [
        *(member(b"m", kind=b"%c" % kind, linkname=b"../x") + member(b"n", b"1") + END for kind in b"12367"),
        *(member(b"m", b"long\0", kind, magic=GNU) + member(b"n", b"1") + END for kind in (b"L", b"K", b"S")),
        pax(size=b"1") + member(b"m", b"22") + END,
        member(b"g", record(b"path", b"x"), b"g") + member(b"m", b"1") + END,
        member(b"m", b"1") + member(b"./m", b"2") + member(b"M") + END,
        member(b"m", b"1") + END + member(b"n", b"2") + END,
        (DATA / "hang.tar").read_bytes(),
    ]
    return tuple(trimmed(tar) for tar in (*read * 8, *refused))


@cache
def _samples() -> tuple[bytes, ...]:
    return tuple(trimmed(path.read_bytes()) for path in sorted((ROOT / "samples").glob("*.tar")))


_NAMES = (
    b"", b".", b"./", b"/", b"..", b"../x", b"a/../b", b"a//b", b"a/", b"a", b"./a", b"A", b"C:x", b"nul.c", b"a\\b", b"a\nb",
    b"metadata.json", b"n" * 100, b"\xc3\xa9", b"\xff", b"a ", b"a.", b"x\0y", *[b"./src/%c.c" % letter for letter in b"abcdefgh"],
)  # fmt: skip
_FIELD_VALUES = (
    b"", b"\x80", b"\xff" * 12, b"\x80" + bytes(10) + b"\1", b"7" * 12, b"0" * 12, b"\0" * 12, b" 1", b"1 ", b"-1", b"1\0" + b"7", b"00000001000\0",
    b"0000644\0", b"0001750 ", b"  1750 \0", b"14346220125\0",
)  # fmt: skip
_RECORDS = {
    b"path": (b"q", b"./q", b"metadata.json", b"a\0b", b"", b"\xff", b"../x", b"d/", b"n" * 300),
    b"size": (b"0", b"1", b"99999999999"),
    b"linkpath": (b"/etc",),
    b"mtime": (b"1.5", b"x"),
    b"uid": (b"-1", b"4000000"),
    b"hdrcharset": (b"BINARY",),
    b"GNU.sparse.major": (b"1",),
    b"GNU.sparse.name": (b"n",),
}


def _mutated_tar(rng: Random) -> bytes:
    """Change a tar in ways that damage or an attacker might; mostly with checksums made right again."""
    data = bytearray(rng.choice(_samples() if rng.random() < 0.1 else _tars()))
    for change in rng.choices(list(_TAR_CHANGES), list(_TAR_CHANGES.values()), k=rng.choice((1, 1, 1, 2, 3))):
        change(rng, data)
    return _resigned(bytes(data)) if rng.random() < 0.9 else bytes(data)


def _block(rng: Random, data: bytes | bytearray) -> int:
    """Give where some block begins, or the end."""
    return rng.randrange(len(data) // BLOCK + 1) * BLOCK


def _cut(rng: Random, data: bytearray) -> None:
    data[rng.randrange(len(data) + 1) : _block(rng, data)] = b""


def _repeat_blocks(rng: Random, data: bytearray) -> None:
    place, start = _block(rng, data), _block(rng, data)
    data[place:place] = data[start : start + rng.randint(1, 4) * BLOCK]


def _remove_blocks(rng: Random, data: bytearray) -> None:
    place = _block(rng, data)
    del data[place : place + rng.randint(1, 2) * BLOCK]


def _swap_blocks(rng: Random, data: bytearray) -> None:
    one, two = sorted((_block(rng, data), _block(rng, data)))
    first, second = data[one : one + BLOCK], data[two : two + BLOCK]
    data[two : two + BLOCK], data[one : one + BLOCK] = first, second


def _splice(rng: Random, data: bytearray) -> None:
    other = rng.choice(_tars())
    data[_block(rng, data) :] = other[_block(rng, other) :]


def _append(rng: Random, data: bytearray) -> None:
    data += rng.choice((b"x", bytes(BLOCK), rng.choice(_tars())))


def _change_byte(rng: Random, data: bytearray) -> None:
    place = rng.randrange(len(data) + 1)
    data[place : place + 1] = bytes([rng.choice((*_BYTES, rng.randrange(256)))])


def _insert_extension(rng: Random, data: bytearray) -> None:
    """Put a header that describes the next member before a block, or a GNU record that does."""
    place = _block(rng, data)
    keys = rng.choices(list(_RECORDS), [8, *[1] * (len(_RECORDS) - 1)], k=rng.randint(1, 2))
    records = b"".join(record(key, rng.choice(_RECORDS[key])) for key in keys)
    records = damaged(rng, records, b"") if rng.random() < 0.2 else records
    extension = member(b"././@PaxHeader", records, rng.choice((b"x", b"x", b"g")))
    if rng.random() < 0.2:
        kind, magic = rng.choice((b"L", b"K")), rng.choice((POSIX, GNU))
        extension = member(b"././@LongLink", rng.choice(_NAMES) + b"\0", kind, magic=magic)
    data[place:place] = extension


def _insert_member(rng: Random, data: bytearray) -> None:
    place = rng.choice(_headers(data) or [0])
    data[place:place] = member(rng.choice(_NAMES), rng.randbytes(rng.randrange(1100)), rng.choice((b"0", b"\0")))


def _headers(data: bytearray) -> list[int]:
    return [match.start() - 257 for match in re.finditer(rb"ustar", data) if match.start() % BLOCK == 257]


def _edit_field(rng: Random, data: bytearray) -> None:
    headers = _headers(data)
    if not headers:
        return
    place = rng.choice(headers)
    key = rng.choice(("name", "name", "size", "size", "kind", *FIELDS))
    start, stop = FIELDS[key]
    size = rng.choice((0, 1, 511, 512, 513, 1024, len(data), 8**11 - 1, rng.randrange(1 << 12)))
    values: dict[str, tuple[bytes, ...]] = {
        "name": (*_NAMES, bytes(data[(copied := rng.choice(headers)) : copied + 100])),
        "prefix": _NAMES,
        "size": (*_FIELD_VALUES, *[b"%011o" % size] * 8),
        "kind": tuple(b"%c" % kind for kind in b"0157xgLKSVX\0 "),
        "magic": (POSIX, GNU, b"ustar\x00 0", b"ustar\0\0\0", b""),
    }
    value = rng.choice(values.get(key, _FIELD_VALUES))[: stop - start]
    data[place + start : place + stop] = value.ljust(stop - start, rng.choice((b"\0", b" ")))


_TAR_CHANGES: Mapping[Callable[[Random, bytearray], None], int] = {  # with how often each is made
    _cut: 1, _repeat_blocks: 1, _remove_blocks: 1, _swap_blocks: 1, _splice: 1, _append: 1, _change_byte: 2, _insert_extension: 2, _insert_member: 3,
    _edit_field: 5,
}  # fmt: skip


def _resigned(data: bytes) -> bytes:
    blocks = [data[start : start + BLOCK] for start in range(0, len(data), BLOCK)]
    return b"".join(signed(block) if block[257:262] == b"ustar" and len(block) == BLOCK else block for block in blocks)


def _gzipped(rng: Random, data: bytes) -> bytes:
    """Compress with the fields that a gzip header may have."""
    compressor = zlib.compressobj(
        rng.choice((0, 1, 1, 9) if len(data) < 1 << 20 else (1,)), zlib.DEFLATED, -zlib.MAX_WBITS
    )
    flags = rng.choice((0, 0, 0, 0x08, 0x0C, 0x10, rng.randrange(32)))
    fields = (b"\2\0xx" if flags & 4 else b"") + (b"n\0" if flags & 8 else b"") + (b"c\0" if flags & 16 else b"")
    start = b"\x1f\x8b\x08%c\0\0\0\0\0\xff" % flags + fields
    start += struct.pack("<H", zlib.crc32(start) & 0xFFFF) if flags & 2 else b""
    body = compressor.compress(data) + compressor.flush()
    return start + body + struct.pack("<II", zlib.crc32(data), len(data))


def _zstandard(rng: Random, data: bytes) -> bytes:
    """Compress with the fields that a zstd frame may have."""
    compressor = zstandard.ZstdCompressor(
        level=rng.choice((1, 3)), write_checksum=rng.random() < 0.5, write_content_size=rng.random() < 0.5
    )
    frame: bytes = compressor.compress(data)
    return frame


@cache
def _large() -> tuple[bytes, ...]:
    """Give what is small until it is unpacked: a tar that does not stay in memory, and more than may be unpacked."""
    size = 9 << 20
    return (member(b"weights", bytes(size)) + END, bytes(17 << 20))


def _packed(rng: Random, pack: Callable[[Random, bytes], bytes]) -> bytes:
    if rng.random() < 0.002:
        return pack(rng, rng.choice(_large()))
    whole = pack(rng, _mutated_tar(rng) if rng.random() < 0.6 else rng.choice(_tars()))
    if rng.random() < 0.4:
        return whole
    return damaged(rng, whole, pack(rng, rng.choice(_tars())))


def _mutated_gzip(rng: Random) -> bytes:
    return _packed(rng, _gzipped)


def _mutated_zstd(rng: Random) -> bytes:
    return _packed(rng, _zstandard)


def _version_8() -> dict[str, Any]:
    (module,) = archives.metadata([Network()])["modules"].values()
    tensor = {"name": "x:0", "c_name": "x_0", "dtype": "int8", "shape": [1, 8], "size_bytes": 8}
    module |= {
        "api": {"interface": "c", "operators": "unpacked"},
        "code": {
            "language": "object",
            "definitions": {"NDEBUG": "1"},
            "object": {"machine": "ARM", "bits": 32, "byte_order": "little", "abi": "eabi5", "float_abi": None},
        },
        "entrypoints": {"run": "tvmgen_default_run", "main": "tvmgen_default___tvm_main__"},
        "inputs": [{**tensor, "quantization": {"scale": 0.5, "zero_point": -3}}],
        "outputs": [{**tensor, "dtype": None, "shape": None, "size_bytes": None}],
        "pools": [{"name": "sram", "kind": "workspace", "size_bytes": 64, "alignment_bytes": 16, "is_internal": False}],
        "tests": [{"name": "t", "inputs": "tests/i.npz", "outputs": "tests/o.npz", "rtol": 0, "atol": 1e-6}],
    }
    source = {"path": "a/default_lib0.c", "size_bytes": 9, "sha256": "0" * 64, "role": "source", "module": "default"}
    document = {"version": 8, "generator": "mlf 0.1.0", "members": [source], "modules": {"default": module}}
    return {**document, "identity": identity_of(document)}


@cache
def _documents() -> tuple[str, ...]:
    """Give a `metadata.json` of every version and style."""
    found = [archives.metadata([Network(release=release)]) for release in RELEASES.values()]
    sids = [{"storage_id": 0, "size_bytes": 8, "input_binding": "x"}, {"storage_id": 1, "size_bytes": 4}]
    fifth = found[0]
    fourth = {key: value for key, value in fifth.items() if key != "executors"} | {"version": 4, "runtimes": ["aot"]}
    second = {key: value for key, value in fourth.items() if key != "style"} | {"version": 2, "runtimes": ["graph"]}
    second["memory"] = {**second["memory"], "sids": sids}
    buffer = {"size_bytes": 8, "shape": [2, 4], "dtype": "int8", "input_binding": None}
    operator = {**fourth, "style": "operator", "memory": {"add": [buffer, buffer]}, "runtimes": []}
    latest = {**operator, "version": 7, "executors": [], "target": ["c"]}
    found += [fourth, {**second, "version": 3}, second, {**second, "version": 1, "memory": sids}, operator, latest]
    return tuple(json.dumps(document) for document in (*found, _version_8(), _version_8(), _version_8()))


_VALUES: tuple[object, ...] = (
    None, True, False, 0, -1, 1, 2, 8, 16, 32, 2**53, 2**63, 2**64 - 1, 10**20, -(10**25), 0.5, -0.0, 1e308, "", "\0", "c", "x y", "\ud800", "\u202e", "é",
    "../x", "a" * 5000, "int8", "full-model", "operator", "sha256:" + "f" * 64, [], {}, [[]], [{}], {"": {}}, {"1": 1}, ["c"], [1, -1],
)  # fmt: skip
_KEYS = ("", "name", "version", "style", "modules", "size_bytes", "__class__", "\0", "é", "a.b", "1")
_FRAGMENTS = (
    "NaN", "-Infinity", "1e999", "9" * 21, "-", "00", "1.", '"', "\\", "\\ud800", "\ufeff", "//", "/**/", "'", ",", ":", "{", "}", "[", "]", "null", "\n",
    '"version": 8,', '"version":1,"version":2,', "[" * 70 + "]" * 70, '{"a":' * 70 + "1" + "}" * 70, "[" * 5000, "\t", "\x0b", "true", "1e5",
)  # fmt: skip


def _places(node: object) -> Iterator[tuple[Any, Any]]:
    """Give every object and list of a document with each of its keys or indices."""
    items: Iterable[tuple[Any, object]] = ()
    if isinstance(node, dict):
        items = node.items()
    if isinstance(node, list):
        items = enumerate(node)
    for key, child in items:
        yield node, key
        yield from _places(child)


def _mutated_document(rng: Random, text: str) -> str:
    """Replace, delete, repeat, exchange or add values of a JSON document."""
    document = json.loads(text)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = list(_places(document))
        if not places:
            break
        node, key = rng.choice(places)
        match rng.randrange(8):
            case 0:
                del node[key]
            case 1 if isinstance(node, list):
                node.insert(key, copy.deepcopy(node[key]))
            case 1 | 2 if isinstance(node, dict):
                node[rng.choice(_KEYS)] = copy.deepcopy(rng.choice((node[key], rng.choice(_VALUES))))
            case 3:
                other, place = rng.choice(places)
                node[key] = copy.deepcopy(other[place])
            case 4 if isinstance(node[key], int):
                node[key] += rng.choice((-1, 1, 1000))
            case _:
                node[key] = copy.deepcopy(rng.choice(_VALUES))
    return json.dumps(document, indent=rng.choice((None, 2)))


def _mutated_metadata(rng: Random) -> bytes:
    text = rng.choice(_documents())
    if rng.random() < 0.8:
        text = _mutated_document(rng, text)
    if rng.random() < 0.3:
        for _ in range(rng.choice((1, 1, 2, 4))):
            place = rng.randrange(len(text) + 1)
            text = text[:place] + rng.choice((*_FRAGMENTS, "")) + text[place + rng.randrange(3) :]
    return text.encode("utf-8", "replace")


_DTYPES = ((0, 8), (0, 32), (0, 4), (1, 1), (1, 8), (2, 16), (2, 32), (2, 64), (4, 16), (3, 64), (6, 8), (200, 7))


def _parameter(rng: Random) -> bytes:
    """Make a tensor of a `.params` file, mostly with a size that fits its shape."""
    code, bits = rng.choice(_DTYPES)
    shape = rng.choice(([1] * 40, *[[rng.choice((0, 1, 2, 3, 5)) for _ in range(rank)] for rank in (0, 1, 1, 2, 3)]))
    size = (bits + 7) // 8
    for extent in shape:
        size *= extent
    if rng.random() < 0.1:
        shape.append(rng.choice((-1, 2**31, 2**62, 2**63 - 1)))
    data = rng.randbytes(size) if bits > 1 else bytes(size)
    head = struct.pack("<QQiiiBBH", 0xDD5E40F096B4A13F, 0, 1, 0, len(shape), code, bits, rng.choice((1, 1, 1, 1, 4)))
    said = len(data) if rng.random() < 0.95 else rng.choice(_NUMBERS) % 2**63
    return head + struct.pack(f"<{len(shape)}q", *shape) + struct.pack("<q", said) + data


def _parameters(rng: Random) -> bytes:
    count = rng.choice((0, 1, 2, 2, 3))
    names = [rng.choice((b"p%d" % index, b"p%d" % index, b"p0", b"", b"\xff", b"n" * 90)) for index in range(count)]
    pieces = [struct.pack("<QQQ", 0xF7E58D4F05049CB7, 0, count)]
    pieces += [struct.pack("<Q", len(name)) + name for name in names]
    pieces += [struct.pack("<Q", count), *(_parameter(rng) for _ in names)]
    return b"".join(pieces)


def _mutated_params(rng: Random) -> bytes:
    data = _parameters(rng)
    return damaged(rng, data, _parameters(rng)) if rng.random() < 0.6 else data


@dataclass(frozen=True, slots=True)
class _Object:
    """An object to damage, and where its headers, symbols and relocations have their fields: offset and width."""

    data: bytes
    fields: tuple[tuple[int, int], ...]
    order: Literal["little", "big"]


_CALLER = "static int b[4]; extern int other(int); int c; int run(int x) { return other(b[x]) + c; }"
_CALLED = "int c; static int called; int other(int x) { return x + ++called + c; }"


@cache
def _objects() -> tuple[tuple[_Object, ...], tuple[ElfObject, ...]]:
    """Give objects to damage, and whole ones that go together with them; those of missing compilers are missing too."""
    machine = Machine(is_64=False, is_big_endian=True, number=94)
    made = data_object("made.o", machine, [("run", b"1234", 4), ("second", b"5", 1)], section=".rodata.tvm")
    seeds = [_fields_of(write_object(machine, made.sections, made.symbols))]
    companions: list[ElfObject] = []
    for target in (toolbox.HOST, toolbox.CORTEX_M3, toolbox.RV32, toolbox.MIPS, toolbox.CLANG):
        flags = ("-fstack-size-section",) if target is toolbox.CLANG else ("-g",)
        try:
            seeds.append(_fields_of(toolbox.compile_source(_CALLER, target, *flags)))
            companion = toolbox.compile_source(_CALLED, target, *flags)
        except FileNotFoundError:
            continue
        if target is not toolbox.CLANG:  # its objects go together with those of the host's compiler
            companions.append(parse_object(companion, _COMPANION))
        if target is toolbox.HOST:
            macros = ("-DSEED=1", f"-I{toolbox.OBJECTS}")
            catching, throwing = (
                toolbox.compile_source(
                    (toolbox.OBJECTS / f"model_{part}.cpp").read_text(), target, *macros, language="c++"
                )
                for part in ("catch", "throw")
            )
            seeds.append(_fields_of(catching))
            companions.append(parse_object(throwing, _COMPANION))
    return tuple(seeds), tuple(companions)


def _fields_of(data: bytes) -> _Object:
    elf = ELFFile(io.BytesIO(data))
    wide = 8 if elf.elfclass == 64 else 4
    fields = [(16, 2), (18, 2), (wide * 3 + 16, 4), *((wide * 3 + 28 + 2 * index, 2) for index in range(6))]
    start, entry = elf["e_shoff"], elf["e_shentsize"]
    fields += [(place, 4) for place in range(start, start + entry * elf.num_sections(), 4)] * 2
    widths = {"SHT_SYMTAB": (1, 2, 4), "SHT_REL": (4,), "SHT_RELA": (4,), "SHT_GROUP": (4,)}
    for section in elf.iter_sections():
        first, size = section["sh_offset"], section["sh_size"]
        for width in widths.get(section["sh_type"], ()):
            fields += [(place, width) for place in range(first, first + size, width)]
    return _Object(data, tuple(fields), "little" if elf.little_endian else "big")


def _mutated_object(rng: Random) -> bytes:
    seeds, _ = _objects()
    seed = rng.choice(seeds)
    if rng.random() < 0.25:
        return damaged(rng, seed.data, rng.choice(seeds).data)
    data = bytearray(seed.data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        place, width = rng.choice(seed.fields)
        now, other = (
            int.from_bytes(data[start : start + width], seed.order) for start in (place, rng.choice(seed.fields)[0])
        )
        near = now + rng.choice((-1, 1, 4, 16))
        number = rng.choice((*_NUMBERS, len(data), near, near, near, other, rng.randrange(40)))
        data[place : place + width] = (number % (1 << 8 * width)).to_bytes(width, seed.order)
    return bytes(data)


@cache
def _ars() -> tuple[bytes, ...]:
    files = [{"one.o": b"odd", "a_rather_long_member_name.o": b"12345678", "three.o": b"\x7fELF"}, {"one.o": b""}, {}]
    made = [write_ar([ArMember(name=name, data=data) for name, data in members.items()]) for members in files]
    bsd = b"!<arch>\n%-16s%-12d%-6d%-6d%-8d%-10d`\nname.o\0\0data" % (b"#1/8", 0, 0, 0, 0, 12)
    return (*made, bsd)


def _mutated_ar(rng: Random) -> bytes:
    return damaged(rng, rng.choice(_ars()), rng.choice(_ars()))


_GRAPH = {
    "nodes": [
        {"op": "null", "name": "x", "inputs": []},
        {"op": "null", "name": "p0", "inputs": []},
        {
            "op": "tvm_op", "name": "tvmgen_default_fused_add", "inputs": [[0, 0, 0], [1, 0, 0]],
            "attrs": {"func_name": "tvmgen_default_fused_add", "flatten_data": "0", "num_inputs": "2", "num_outputs": "1"},
        },
    ],
    "arg_nodes": [0, 1],
    "heads": [[2, 0, 0]],
    "attrs": {"dltype": ["list_str", ["float32"] * 3], "shape": ["list_shape", [[1, 8]] * 3], "storage_id": ["list_int", [0, 1, 2]]},
    "node_row_ptr": [0, 1, 2, 3],
}  # fmt: skip


@cache
def _models() -> tuple[dict[str, bytes], ...]:
    """Give the members of archives of several releases and memory styles, one of them for the graph executor."""
    networks = [
        Network(release=RELEASES["0.8.0"]),
        Network(release=RELEASES["0.9.0"], memory="internal"),
        Network(memory="external", devices=("npu",)),
        Network(memory="constant", model="kws"),
        Network(interface="packed"),
    ]
    graph = Network(memory="alloc", interface="packed")
    document = archives.metadata([graph])
    document["modules"]["default"]["executors"] = ["graph"]
    members = archives.members(graph) | {
        "metadata.json": json.dumps(document).encode(),
        "executor-config/graph/default.graph": json.dumps(_GRAPH).encode(),
    }
    return (*(archives.members(network) for network in networks), members)


_TOKENS = (
    *'(){}[];,*/%&=+-<>0123456789 \n"\\aT_#:.?', "/*", "*/", "//", "\\\n", "struct ", "void*", "void* a;", "#define A ", "int32_t f(", "TVM_DLL ",
    "static const float a[9] = {", "__attribute__((", "aligned(", "TVMBackendAllocWorkspace(1, 0, (uint64_t)9, 0, 8)", "for (int32_t i = 0; i < 9; ++i) {",
    "return tvmgen_default___tvm_main__(", "Tensor[(1, 8), float32]", "/* ty=", "def @main(", "%x: ", "->", "9" * 30, "\0", "é", "\u2028",
)  # fmt: skip


def _mutated_text(rng: Random, text: str, other: str) -> str:
    """Change characters, tokens, lines or numbers of code, or go on with other code."""
    for _ in range(rng.choice((1, 1, 2, 4, 10))):
        place = rng.randrange(len(text) + 1)
        lines = text.split("\n")
        one, two = rng.randrange(len(lines)), rng.randrange(len(lines))
        match rng.randrange(16):
            case 0:
                del lines[one]
                text = "\n".join(lines)
            case 1:
                lines.insert(one, lines[two])
                text = "\n".join(lines)
            case 2:
                lines[one], lines[two] = lines[two], lines[one]
                text = "\n".join(lines)
            case 3:
                text = text[:place]
            case 4:
                text = text[:place] + other[rng.randrange(len(other) + 1) :]
            case 5 | 6 | 7 | 8 if numbers := list(re.finditer("[0-9]+", text)):
                number = rng.choice(numbers)
                text = text[: number.start()] + str(rng.choice(_NUMBERS)) + text[number.end() :]
            case 9 if rng.random() < 0.1:
                token = rng.choice(_TOKENS)
                text = text[:place] + token * rng.randrange((1 << 16) // len(token)) + text[place:]
            case _:
                text = text[:place] + rng.choice(_TOKENS) + text[place + rng.randrange(5) :]
    return text


def _mutated_module(rng: Random) -> bytes:
    members = dict(rng.choice(_models()))
    for name in rng.sample(sorted(members), rng.choice((1, 1, 2))):
        if name.endswith(".params"):
            members[name] = _mutated_params(rng)
            continue
        text = members[name].decode()
        if name.endswith((".json", ".graph")) and rng.random() < 0.8:
            text = _mutated_document(rng, text)
        else:
            text = _mutated_text(rng, text, rng.choice(list(members.values())).decode("utf-8", "replace"))
        if name.endswith(".c") and rng.random() < 0.01:  # readers look only at the end of a large source
            text = f"static const int8_t weights[{1 << 20}] = {{\n{'1, ' * (1 << 19)}\n}};\n{text}"
        data = text.encode("utf-8", "replace")
        members[name] = damaged(rng, data, b"") if rng.random() < 0.05 else data
    return b"".join(member(name.encode(), data) for name, data in sorted(members.items())) + END


# Readers, and what must be true of an input that they accept.


class Disagreement(Exception):  # noqa: N818 - a finding, no error of a program
    """Two ways to read one input do not give the same."""


def _expect(mine: object, theirs: object, what: str) -> None:
    if mine != theirs:
        raise Disagreement(what)


def _read_archive(data: bytes, folder: Path, unpack: Callable[[bytes], bytes]) -> None:
    path = folder / _LABEL
    path.write_bytes(data)
    with open_archive(path) as archive:
        mine = [(item.name, archive.read(item.name)) for item in archive.members]
        sizes = [item.size_bytes for item in archive.members]
        pieces = [b"".join(archive.chunks(name)) for name, _ in mine]
    _expect(sizes, [len(content) for _, content in mine], "members have other sizes than they say")
    _expect(pieces, [content for _, content in mine], "members read in pieces are not what they are as a whole")
    try:
        theirs = listed_by_tarfile(unpack(data))
    except Exception as error:
        raise Disagreement(f"tarfile refuses it: {type(error).__name__}") from error
    _expect([name for name, _ in mine], [name for name, _ in theirs], "tarfile lists other names")
    _expect(mine, theirs, "tarfile reads other contents")


def _read_tar(data: bytes, folder: Path) -> None:
    _read_archive(data, folder, bytes)


def _read_gzip(data: bytes, folder: Path) -> None:
    _read_archive(data, folder, gzip.decompress)


def _read_zstd(data: bytes, folder: Path) -> None:
    _read_archive(data, folder, _unpacked_zstd)


def _unpacked_zstd(data: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as stream:
        unpacked: bytes = stream.read()
        return unpacked


def _read_metadata(data: bytes, _: Path) -> None:
    text = data.decode()
    document = load_json(text, where=_LABEL)
    _expect(document, json.loads(text), "the json module reads another document")
    identity_of(parse_metadata(document, where=_LABEL).document)


def _read_params(data: bytes, _: Path) -> None:
    rendered = render_params(parse_params(data, where=_LABEL))
    _expect(rendered, data, "rendered parameters are not the bytes that were read")


def _read_object(data: bytes, _: Path) -> None:
    item = parse_object(data, _LABEL)
    companions = _objects()[1]
    together = [item, *(whole for whole in companions if whole.machine.is_compatible(item.machine))]
    model = merge_objects(together, exports={"run": "a_run"}, unique="a", where=_LABEL)
    written = parse_object(model.data, "merged.o").symbols
    _expect("a_run" in written.names[written.local_count :], True, "the merged object does not define its entrypoint")


def _read_ar(data: bytes, _: Path) -> None:
    read_ar(data, _LABEL)


def _read_module(data: bytes, folder: Path) -> None:
    path = folder / _LABEL
    path.write_bytes(data)
    with open_archive(path) as archive:
        read_modules(archive)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of input: how one is made, how it is read, and the errors with which it may be refused.

    `read` may write in the folder that it is given. It raises Disagreement where the input reads in two ways, is at fault
    if it takes longer than `most_seconds`, and is stopped after `hang_seconds`.
    """

    name: str
    make: Callable[[Random], bytes]
    read: Callable[[bytes, Path], None]
    refusals: tuple[type[MlfError], ...]
    most_seconds: float = 1.0
    hang_seconds: float = 10.0


_MODULE_REFUSALS = (ArchiveError, MetadataError, SourceError, TensorError, UnsupportedError)
KINDS = (
    Kind(name="tar", make=_mutated_tar, read=_read_tar, refusals=(ArchiveError,)),
    Kind(name="gzip", make=_mutated_gzip, read=_read_gzip, refusals=(ArchiveError,)),
    Kind(name="zstd", make=_mutated_zstd, read=_read_zstd, refusals=(ArchiveError,)),
    Kind(name="metadata", make=_mutated_metadata, read=_read_metadata, refusals=(MetadataError, UnsupportedError)),
    Kind(name="params", make=_mutated_params, read=_read_params, refusals=(TensorError,)),
    Kind(name="object", make=_mutated_object, read=_read_object, refusals=(ObjectError, LinkError)),
    Kind(name="ar", make=_mutated_ar, read=_read_ar, refusals=(ObjectError,)),
    Kind(name="module", make=_mutated_module, read=_read_module, refusals=_MODULE_REFUSALS),
)


def case(kind: Kind, seed: int, index: int) -> bytes:
    """Make the input of a case; it is always the same."""
    return kind.make(random.Random(f"{kind.name}:{seed}:{index}"))  # noqa: S311 - not for secrets


# One case, watched.


class _Stop(BaseException):
    """Ends a reader; no Exception, because a reader might catch that."""


# How many paths the events have that change files, and how events begin that reach beyond files.
_CHANGES = {
    "os.chmod": 1, "os.chown": 1, "os.link": 2, "os.mkdir": 1, "os.remove": 1, "os.rename": 2, "os.rmdir": 1, "os.symlink": 2, "os.truncate": 1,
    "os.utime": 1, "shutil.rmtree": 1, "tempfile.mkdtemp": 1, "tempfile.mkstemp": 1,
}  # fmt: skip
_LISTINGS = ("os.listdir", "os.scandir")
_BEYOND = (
    "subprocess.", "socket.", "os.chdir", "os.exec", "os.fork", "os.kill", "os.posix_spawn", "os.putenv", "os.spawn", "os.system", "pty.",
)  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Guard:
    """Stops a reader that runs inside it and writes outside `folder`, reads outside it and Python's own files, or runs a program."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.breach: str | None = None
        self._is_active = False
        self._writable = (os.path.realpath(folder),)
        readable = (str(folder), str(ROOT), sys.prefix, sys.base_prefix, *filter(None, sys.path))
        self._readable = tuple(map(os.path.realpath, readable))
        sys.addaudithook(self._hook)  # for the rest of the process: Python has no way to take it back

    def __enter__(self) -> None:
        self.breach = None
        self._is_active = True

    def __exit__(self, *_: object) -> None:
        self._is_active = False

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_active:
            return
        if event == "open":
            path, _, flags = arguments
            self._check(event, path, self._writable if flags & _WRITES else self._readable)
        elif event in _LISTINGS:
            self._check(event, arguments[0], self._readable)
        elif event in _CHANGES:
            for path in arguments[: _CHANGES[event]]:
                self._check(event, path, self._writable)
        elif event.startswith(_BEYOND):
            self._stop(f"{event} {arguments[:1]}")

    def _check(self, event: str, path: object, roots: Sequence[str]) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a file that is open already
        real = os.path.realpath(os.fsdecode(path))
        if not any(real == root or real.startswith(root + os.sep) for root in roots):
            self._stop(f"{event} {real}")

    def _stop(self, what: str) -> None:
        self.breach = what
        raise _Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a case: `fault` is empty, or a word for its class, a colon and what happened."""

    is_accepted: bool
    words: str
    fault: str
    seconds: float


def examine(kind: Kind, data: bytes, guard: Guard) -> Outcome:
    """Read one input and judge what the reader does."""
    is_accepted, words, fault = False, "", ""
    start = time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, kind.hang_seconds)
    signal.setitimer(signal.ITIMER_VIRTUAL, _LOST_SECONDS)
    try:
        with guard:
            kind.read(data, guard.folder)
        is_accepted = True
    except kind.refusals as error:
        words = str(error)
        fault = _fault_of_words(error)
    except Disagreement as error:
        fault = f"disagreement: {error}"
    except (Exception, _Stop) as error:  # noqa: BLE001 - whatever it is, it is what the run is for
        words = traceback.format_exc()
        fault = _fault_of(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    seconds = time.perf_counter() - start
    if guard.breach:
        fault = f"outside: {guard.breach}"
    elif seconds >= kind.hang_seconds:
        fault = f"slow: does not end in {kind.hang_seconds:g} s"
    return Outcome(is_accepted=is_accepted, words=words, fault=fault, seconds=seconds)


def _fault_of_words(error: MlfError) -> str:
    """A refusal names the file at fault, perhaps a member of it, in text that any stream can take."""
    if (error.where or "").split(":")[0] not in (_LABEL, _COMPANION):
        return f"foreign: a refusal names {error.where!r}"
    return "foreign: a refusal is no Unicode text" if re.search("[\ud800-\udfff]", str(error)) else ""


def _fault_of(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = next((frame for frame in reversed(frames) if f"{os.sep}mlf{os.sep}" in frame.filename), frames[-1])
    return f"foreign: {type(error).__name__} in {Path(place.filename).name}:{place.lineno} {place.name}"


def _patiently(kind: Kind, data: bytes, guard: Guard) -> Outcome:
    """Examine an input again if it was slow: a busy machine may hold up a run or two, but hardly three."""
    for _ in range(3):
        outcome = examine(kind, data, guard)
        if outcome.fault or outcome.seconds <= kind.most_seconds:
            return outcome
    return replace(outcome, fault=f"slow: takes more than {kind.most_seconds:g} s")


# Many cases.


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of many cases of a kind: how many, the slowest in seconds with its index, the indices of each fault."""

    tried: int = 0
    accepted: int = 0
    refused: int = 0
    slowest: tuple[float, int] = (0.0, 0)
    faults: dict[str, list[int]] = field(default_factory=dict)

    def count(self, index: int, outcome: Outcome) -> None:
        self.tried += 1
        self.accepted += outcome.is_accepted and not outcome.fault
        self.refused += not outcome.is_accepted and not outcome.fault
        self.slowest = max(self.slowest, (outcome.seconds, index))
        if outcome.fault:
            self.faults.setdefault(outcome.fault, []).append(index)

    def add(self, other: Tally) -> None:
        self.tried += other.tried
        self.accepted += other.accepted
        self.refused += other.refused
        self.slowest = max(self.slowest, other.slowest)
        for fault, indices in other.faults.items():
            self.faults.setdefault(fault, []).extend(indices)


_process: dict[str, Guard] = {}


def _prepare(scratch: Path) -> None:
    """Make a process ready to run cases: nothing that they do may reach the machine."""
    folder = scratch / str(os.getpid())
    folder.mkdir()
    tempfile.tempdir = str(folder)
    sys.dont_write_bytecode = True
    signal.signal(signal.SIGALRM, _give_up)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one tells it when to end
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + _MEMORY_BYTES,) * 2)
    _process["guard"] = Guard(folder)


def _give_up(_: int, __: FrameType | None) -> None:
    raise _Stop


def _run_chunk(kind: Kind, seed: int, indices: range) -> Tally:
    guard, tally = _process["guard"], Tally()
    note = guard.folder.with_suffix(".now")
    with note.open("w") as file:
        for index in indices:
            os.pwrite(file.fileno(), b"%-60s" % f"{kind.name}:{seed}:{index}".encode(), 0)
            tally.count(index, _patiently(kind, case(kind, seed, index), guard))
    note.unlink()
    return tally


def run(kinds: Sequence[Kind], *, count: int, seed: int, jobs: int) -> Iterator[tuple[Kind, Tally]]:
    """Run `count` cases of each kind in `jobs` processes, and give what became of them, kind by kind.

    A process that dies ends the run: the last tally that is given has a fault for each case that was running then.
    """
    memory = Path("/dev/shm")  # noqa: S108 - where a file costs no time
    scratch = Path(tempfile.mkdtemp(prefix="mlf-fuzz-", dir=memory if memory.is_dir() else None))
    context = multiprocessing.get_context("spawn")
    try:
        pool = ProcessPoolExecutor(jobs, context, _prepare, (scratch,))
        chunks = [range(start, min(start + _CHUNK_CASES, count)) for start in range(0, count, _CHUNK_CASES)]
        pending = [(kind, [pool.submit(_run_chunk, kind, seed, chunk) for chunk in chunks]) for kind in kinds]
        try:
            for kind, futures in pending:
                tally = Tally()
                for future in futures:
                    tally.add(future.result())
                yield kind, tally
        finally:
            pool.shutdown(cancel_futures=True)
    except BrokenProcessPool:
        notes = sorted(scratch.glob("*.now"))
        if not notes:
            raise
        yield from (_lost(note, kinds) for note in notes)
    finally:
        shutil.rmtree(scratch)


def _lost(note: Path, kinds: Sequence[Kind]) -> tuple[Kind, Tally]:
    """Give a case that was running when a process died."""
    name, _, index = note.read_text().strip().split(":")
    faults = {"foreign: a process died, perhaps of this case": [int(index)]}
    return next(kind for kind in kinds if kind.name == name), Tally(tried=1, faults=faults)


# The command line.


def main(arguments: Sequence[str] | None = None, kinds: Sequence[Kind] = KINDS) -> int:
    """Run or replay cases of `kinds`; give the exit status."""
    by_name = {kind.name: kind for kind in kinds}
    parser = argparse.ArgumentParser(description="Try mutated inputs against every reader.")
    parser.add_argument("--count", type=int, default=1_000_000, help="cases of all kinds together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--kind", default=",".join(by_name), help="kinds, with commas between them")
    parser.add_argument("--save", type=Path, default=ROOT / ".cache" / "fuzz", help="folder for inputs with a fault")
    parser.add_argument("--replay", type=_named_case, metavar="KIND:SEED:INDEX", help="run this case alone")
    given = parser.parse_args(arguments)
    names = given.kind.split(",") if given.replay is None else [given.replay[0]]
    for name in names:
        if name not in by_name:
            parser.error(f"unknown kind {name!r}; there are {', '.join(by_name)}")
    if given.replay:
        return _replay(by_name[names[0]], given.replay[1], given.replay[2], given.save)
    return _run([by_name[name] for name in names], given)


def _named_case(text: str) -> tuple[str, int, int]:
    name, seed, index = text.split(":")
    return name, int(seed), int(index)


def _run(kinds: Sequence[Kind], given: argparse.Namespace) -> int:
    _say(f"{'kind':<10}{'tried':>9}{'accepted':>10}{'refused':>9}{'disagree':>10}{'faults':>8}{'slowest':>10}")
    status = 0
    for kind, tally in run(kinds, count=-(-given.count // len(kinds)), seed=given.seed, jobs=given.jobs):
        counts = {fault: len(indices) for fault, indices in sorted(tally.faults.items())}
        disagreements = sum(count for fault, count in counts.items() if fault.startswith("disagreement"))
        numbers = f"{tally.tried:>9}{tally.accepted:>10}{tally.refused:>9}{disagreements:>10}{sum(counts.values()):>8}"
        _say(f"{kind.name:<10}{numbers}{tally.slowest[0]:>8.3f} s ({kind.name}:{given.seed}:{tally.slowest[1]})")
        for fault, count in counts.items():
            status = 1
            _say(f"{fault} ({count} times)")
            for index in sorted(tally.faults[fault])[:_EXAMPLES]:
                _say(f"  {_saved(kind, given.seed, index, given.save)} (--replay {kind.name}:{given.seed}:{index})")
    return status


def _replay(kind: Kind, seed: int, index: int, folder: Path) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        data = case(kind, seed, index)
        path = _saved(kind, seed, index, folder)
        _prepare(Path(scratch))
        outcome = examine(kind, data, _process["guard"])
    _say(f"{path}: {outcome.fault or ('accepted' if outcome.is_accepted else 'refused')} in {outcome.seconds:.3f} s")
    _say(outcome.words)
    return 1 if outcome.fault else 0


def _saved(kind: Kind, seed: int, index: int, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind.name}-{seed}-{index}"
    path.write_bytes(case(kind, seed, index))
    return path


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
