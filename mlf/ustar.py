"""A strict parser of ustar, the tar format of POSIX 1988, as far as Model Library Format archives use it.

Tar readers disagree on extensions and on damaged headers, and hostile archives live on that. So only what compilers
wrote is read: files and directories, octal numbers, and pax headers (POSIX 2001) with a path or times; all else is
refused by name. Of the payloads only the padding is looked at: listing an archive costs one or two reads a member.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from mlf.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_BLOCK_BYTES = 512
_ZERO_BLOCK = bytes(_BLOCK_BYTES)
_CHUNK_BYTES = 1 << 16

_NAME = slice(0, 100)
_CHECKSUM = slice(148, 156)
_KIND = slice(156, 157)
_MAGIC = slice(257, 265)
_PREFIX = slice(345, 500)
_NUMBERS = {
    "mode": slice(100, 108),
    "uid": slice(108, 116),
    "gid": slice(116, 124),
    "size": slice(124, 136),
    "mtime": slice(136, 148),
    "checksum": _CHECKSUM,
    "devmajor": slice(329, 337),
    "devminor": slice(337, 345),
}
_POSIX_MAGIC = b"ustar\x0000"
_GNU_MAGIC = b"ustar  \0"  # the default of Python's tarfile up to 3.7
_OCTAL = re.compile(rb" *([0-7]+)[ \0]*|\0*")  # GNU tar skips a member whose size is blanks alone
_BASE_256_FLAG = 0x80  # of the first byte of a number

_PAX_KIND = b"x"
_PAX_BYTES = 4096  # a path, three times and an owner need some 500
_PAX_TIME = re.compile(rb"-?[0-9]{1,19}(?:\.[0-9]{1,19})?")
_PAX_NUMBER = re.compile(rb"[0-9]{1,19}")
_PAX_TEXT = re.compile(rb"(?s:.*)")
_PAX_KEYS = {
    "path": _PAX_TEXT, "mtime": _PAX_TIME, "atime": _PAX_TIME, "ctime": _PAX_TIME, "uid": _PAX_NUMBER, "gid": _PAX_NUMBER,
    "uname": _PAX_TEXT, "gname": _PAX_TEXT,
}  # fmt: skip
_PAX_RECORD = re.compile(rb"([1-9][0-9]{0,3}) ([^=\n]+)=")
_FILE_KINDS = (b"0", b"\0")
_DIRECTORY_KIND = b"5"
_OTHER_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"7": "a contiguous file",
    b"K": "a GNU long link name",
    b"L": "a GNU long name",
    b"S": "a sparse file",
    b"g": "a global pax header",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class UstarEntry:
    """A file or directory of a tar: its name as the archive spells it, and where its content lies in the tar."""

    name: str
    is_directory: bool
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    name: str
    kind: bytes
    offset: int
    size_bytes: int

    @property
    def payload(self) -> int:
        return self.offset + _BLOCK_BYTES

    @property
    def end(self) -> int:
        return self.payload + self.size_bytes + -self.size_bytes % _BLOCK_BYTES


def iterate_ustar(file: IO[bytes], *, label: str) -> Iterator[UstarEntry]:
    """Yield the entries of the seekable tar `file` in its order; ArchiveError for anything outside the profile.

    What follows the last entry is checked after it has been yielded, so use no entry before the iterator has ended.
    The file's position must not matter to the caller; the iterator sets it before each read of its own.
    """
    return _Reader(file, label).entries()


class _Reader:
    def __init__(self, file: IO[bytes], label: str) -> None:
        self._file = file
        self._label = label
        file.seek(0, os.SEEK_END)
        self._size = file.tell()  # a spooled file's `seek` returns nothing on Python 3.10

    def entries(self) -> Iterator[UstarEntry]:
        offset = 0
        while (header := self._header(offset)) is not None:
            name = None
            if header.kind == _PAX_KIND:
                name = self._pax_path(header)
                header = self._described_by(header)
            yield self._entry(header, header.name if name is None else name)
            offset = header.end
        self._check_tail(offset)

    def _error(self, message: str) -> ArchiveError:
        return ArchiveError(message, where=self._label)

    def _read(self, offset: int, size_bytes: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size_bytes)

    def _header(self, offset: int) -> _Header | None:
        """Read the header at `offset`, or None if the end marker begins there."""
        block = self._read(offset, _BLOCK_BYTES)
        if block == _ZERO_BLOCK:
            return None
        self._check_magic(block, offset)
        name = _text(block[_NAME])
        numbers = {key: self._number(block[place], key, name) for key, place in _NUMBERS.items()}
        # The sum is over the header with eight spaces in place of the checksum.
        total = sum(block) - sum(block[_CHECKSUM]) + 8 * ord(" ")
        if numbers["checksum"] != total:
            raise self._error(f"header at byte {offset} has the checksum {numbers['checksum']}, expected {total}")
        return _Header(
            name=self._with_prefix(name, block), kind=block[_KIND], offset=offset, size_bytes=numbers["size"]
        )

    def _check_magic(self, block: bytes, offset: int) -> None:
        if block[_MAGIC] in (_POSIX_MAGIC, _GNU_MAGIC) and len(block) == _BLOCK_BYTES:
            return
        if offset == 0:
            raise self._error("is neither a tar archive nor one compressed with gzip or zstd")
        if len(block) < _BLOCK_BYTES:
            raise self._error(f"is truncated: it ends at byte {self._size} without an end marker")
        raise self._error(f"header at byte {offset} is not a ustar header")

    def _number(self, raw: bytes, key: str, name: str) -> int:
        match = _OCTAL.fullmatch(raw)
        if match is not None:
            return int(match[1] or b"0", 8)
        if raw[0] & _BASE_256_FLAG:
            raise self._error(f"member {name!r} has a base-256 number in its `{key}` field, expected octal")
        raise self._error(f"member {name!r} has {raw!r} in its `{key}` field, expected octal")

    def _with_prefix(self, name: str, block: bytes) -> str:
        prefix = block[_PREFIX]
        if block[_MAGIC] == _GNU_MAGIC:  # other fields lie here; readers that take them for a prefix see other names
            if any(prefix):
                raise self._error(f"member {name!r} has GNU extension fields in its header")
            return name
        return f"{_text(prefix)}/{name}" if prefix[0] else name

    def _pax_path(self, header: _Header) -> str | None:
        if header.size_bytes > _PAX_BYTES:
            raise self._error(
                f"pax header at byte {header.offset} has {header.size_bytes} bytes; at most {_PAX_BYTES} are allowed"
            )
        self._check_extent(header, f"pax header at byte {header.offset}")
        records = self._pax_records(self._read(header.payload, header.size_bytes), header.offset)
        path = records.get("path")
        if path is None:
            return None
        if b"\0" in path:
            raise self._error(f"pax header at byte {header.offset} has a NUL in its `path`")
        return _text(path)

    def _pax_records(self, data: bytes, offset: int) -> dict[str, bytes]:
        records: dict[str, bytes] = {}
        while data:
            match = _PAX_RECORD.match(data)
            length = int(match[1]) if match else 0
            if match is None or not match.end() < length <= len(data) or data[length - 1 : length] != b"\n":
                raise self._error(f"pax header at byte {offset} has a malformed record")
            key = _text(match[2])
            if key not in _PAX_KEYS:
                raise self._error(
                    f"pax header at byte {offset} has a record {key!r}, expected one of {_listed(_PAX_KEYS)}"
                )
            if key in records:
                raise self._error(f"pax header at byte {offset} has two records {key!r}")
            records[key] = data[match.end() : length - 1]
            if not _PAX_KEYS[key].fullmatch(records[key]):
                raise self._error(f"pax header at byte {offset} has {records[key]!r} as its `{key}`, expected a number")
            data = data[length:]
        return records

    def _described_by(self, pax: _Header) -> _Header:
        header = self._header(pax.end)
        if header is None or header.kind == _PAX_KIND:
            raise self._error(f"pax header at byte {pax.offset} describes no member")
        return header

    def _entry(self, header: _Header, name: str) -> UstarEntry:
        is_directory = header.kind == _DIRECTORY_KIND
        if not is_directory and header.kind not in _FILE_KINDS:
            what = _OTHER_KINDS.get(header.kind, f"of the type {header.kind!r}")
            raise self._error(f"member {name!r} is {what}; only files and directories are allowed")
        if not is_directory and header.name.endswith("/") and not name.endswith("/"):
            # An old tar would take the header for a directory's.
            raise self._error(
                f"member {name!r} has a pax path, and a header with the name {header.name!r} of a directory"
            )
        if is_directory and header.size_bytes:
            raise self._error(f"directory {name!r} has {header.size_bytes} bytes of content, expected none")
        self._check_extent(header, f"member {name!r}")
        return UstarEntry(name=name, is_directory=is_directory, offset=header.payload, size_bytes=header.size_bytes)

    def _check_extent(self, header: _Header, what: str) -> None:
        """The payload lies in the file, and so does its padding, which is zeros."""
        if header.end > self._size:
            left = self._size - header.payload
            raise self._error(f"{what} is truncated: {left} bytes are left of {header.end - header.payload}")
        stop = header.payload + header.size_bytes
        if any(self._read(stop, header.end - stop)):
            raise self._error(f"{what} has padding that is not zero")

    def _check_tail(self, offset: int) -> None:
        if self._size - offset < 2 * _BLOCK_BYTES:
            raise self._error(f"is truncated: it ends at byte {self._size} in its end marker")
        self._file.seek(offset)
        while chunk := self._file.read(_CHUNK_BYTES):
            if chunk != bytes(len(chunk)):
                place = offset + len(chunk) - len(chunk.lstrip(b"\0"))
                raise self._error(f"has data after its end marker, at byte {place}")
            offset += len(chunk)


def _text(raw: bytes) -> str:
    """Decode up to the first NUL; what is not UTF-8 stays visible, for the check of names to refuse."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(f"`{key}`" for key in keys)
