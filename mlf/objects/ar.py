"""`ar` archives: written in the GNU format with no owner, no dates and a symbol index, as `ar rcsD` does; read as linkers do.

Source: ar(5), and GNU binutils' documentation of the `//` long-name and `/` index members.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlf.errors import ObjectError
from mlf.objects import elf

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

MAGIC = b"!<arch>\n"
THIN_MAGIC = b"!<thin>\n"
_HEADER_SIZE = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class ArMember:
    """A member of an archive and the names that it defines for other objects."""

    name: str
    data: bytes
    symbols: tuple[str, ...] = ()


def write_ar(members: Sequence[ArMember]) -> bytes:
    """Write an archive whose bytes depend on nothing but `members` and their order."""
    names, long_names = _member_names(members)
    index = _symbol_index(members, long_names)
    parts = [MAGIC, index, long_names]
    for member, name in zip(members, names, strict=True):
        parts += [_header(name, len(member.data)), member.data, b"\n" * (len(member.data) & 1)]
    return b"".join(parts)


def _header(name: bytes, size: int, *, mode: bytes = b"644") -> bytes:
    return b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (name, 0, 0, 0, mode, size)


def _member_names(members: Sequence[ArMember]) -> tuple[list[bytes], bytes]:
    names, table = [], bytearray()
    for member in members:
        encoded = member.name.encode("utf-8", "surrogateescape")
        if len(encoded) <= 15:  # 16 with the slash that ends a name
            names.append(encoded + b"/")
        else:
            names.append(b"/%d" % len(table))
            table += encoded + b"/\n"
    if not table:
        return names, b""
    table += b"\n" * (len(table) & 1)
    return names, b"%-48s%-10d`\n" % (b"//", len(table)) + table


def _symbol_index(members: Sequence[ArMember], long_names: bytes) -> bytes:
    owners = [number for number, member in enumerate(members) for _ in member.symbols]
    strings = b"".join(
        symbol.encode("utf-8", "surrogateescape") + b"\0" for member in members for symbol in member.symbols
    )
    if not owners and not any(member.data[:4] == elf.MAGIC for member in members):
        return b""  # GNU ar writes an index, be it empty, as soon as there is an object
    size = 4 + 4 * len(owners) + len(strings)
    padding = size & 1
    position = len(MAGIC) + _HEADER_SIZE + size + padding + len(long_names)
    offsets = []
    for member in members:
        offsets.append(position)
        position += _HEADER_SIZE + len(member.data) + (len(member.data) & 1)
    table = struct.pack(f">I{len(owners)}I", len(owners), *(offsets[number] for number in owners))
    return _header(b"/", size + padding, mode=b"0") + table + strings + bytes(padding)


def read_ar(data: bytes | memoryview, label: str) -> tuple[tuple[str, memoryview], ...]:
    """Give the (name, data) of each member of a GNU or BSD archive, in order, without its indices.

    Raises ObjectError, which names `label`, for a thin or damaged archive.
    """
    view = memoryview(data)
    if bytes(view[:8]) == THIN_MAGIC:
        raise ObjectError("is a thin archive, which only names its members", where=label)
    if bytes(view[:8]) != MAGIC:
        raise ObjectError("is not an ar archive", where=label)
    try:
        return tuple(_members(view))
    except (ValueError, IndexError) as error:
        raise ObjectError("the ar archive is damaged", where=label) from error


def objects_of(data: bytes, label: str) -> tuple[elf.ElfObject, ...]:
    """Give the object that a file is, or all that are in it if it is an archive.

    Raises ObjectError, which names `label` and the member, for anything else.
    """
    if not data.startswith((MAGIC, THIN_MAGIC)):
        return (elf.parse_object(data, label),)
    return tuple(elf.parse_object(content, f"{label}({name})") for name, content in read_ar(data, label))


def select_members(
    data: bytes | memoryview, label: str, wanted: Collection[str], *, defined: Collection[str] = ()
) -> tuple[tuple[str, bytes], ...]:
    """Give the members that a linker would take from an archive, as (name, data) in their order in it.

    It takes each member that defines a `wanted` name, then those that define what these need, until there is nothing new;
    of several that define a name the first one. Names in `defined` are there already. A weak reference takes no member.

    Raises ObjectError, which names `label` and the member, for a thin or damaged archive and for a member of any kind but
    an ELF object.
    """
    members = [(name, bytes(content)) for name, content in read_ar(data, label)]
    symbols = [elf.parse_object(content, f"{label}({name})").symbols for name, content in members]
    offered = [frozenset(item.defined_names()) for item in symbols]
    taken: set[int] = set()
    there, missing = set(defined), set(wanted).difference(defined)
    is_new = True
    while is_new:
        is_new = False
        for index, item in enumerate(symbols):
            if index in taken or missing.isdisjoint(offered[index]):
                continue
            is_new = True
            taken.add(index)
            there |= offered[index]
            missing = (missing | set(item.needed_names())) - there
    return tuple(members[index] for index in sorted(taken))


def _members(view: memoryview) -> list[tuple[str, memoryview]]:
    found: list[tuple[str, memoryview]] = []
    position, long_names = len(MAGIC), b""
    while position < len(view):
        head = bytes(view[position : position + _HEADER_SIZE])
        size = _number(head[48:58].strip())
        start = position + _HEADER_SIZE
        if head[58:] != b"`\n" or start + size > len(view):
            raise ValueError(position)
        name, data = head[:16].rstrip(), view[start : start + size]
        position = start + size + (size & 1)
        if name == b"//":
            long_names = bytes(data)
        elif name not in (b"/", b"/SYM64/"):
            found.append(_named(name, data, long_names))
    return [member for member in found if not member[0].startswith("__.SYMDEF")]


def _named(name: bytes, data: memoryview, long_names: bytes) -> tuple[str, memoryview]:
    if name.startswith(b"#1/"):  # BSD: the name lies in front of the data
        length = _number(name[3:])
        if length > len(data):
            raise ValueError(length)
        return bytes(data[:length]).rstrip(b"\0").decode("utf-8", "surrogateescape"), data[length:]
    if name[:1] == b"/":
        start = _number(name[1:])
        name = long_names[start : long_names.index(b"\n", start)]
    return name.rstrip(b"/").decode("utf-8", "surrogateescape"), data


def _number(digits: bytes) -> int:
    """Read a decimal number; `int` alone would also take signs and underscores."""
    if not digits.isdigit():
        raise ValueError(digits)
    return int(digits)
