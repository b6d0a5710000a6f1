"""The one reader of Model Library Format archives: a tar, plain or compressed with gzip or zstd, or a directory.

An archive is hostile until it has been read. Its names, sizes and structure are checked when it is opened; nothing is
ever extracted by path; a member's content is read when it is asked for.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Protocol, final

from mlf.errors import ArchiveError, OutputError, reason_of
from mlf.ustar import iterate_ustar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

METADATA_NAME = "metadata.json"

_MIB = 1 << 20
_NAME_BYTES = 255  # what two ustar fields (155 and 100) can hold, and the longest file name of common file systems
_SPOOL_BYTES = 8 * _MIB  # most unpacked archives stay in memory; larger ones go to the disk
# One step of decompression: zstd makes at most 128 KiB of 4 bytes, so a step cannot make more than 32 MiB.
_STEP_BYTES = 1024
_CHUNK_BYTES = 1 << 18  # of a member that is read piece by piece; it stays in a processor's cache
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_GZIP_WBITS = 16 + zlib.MAX_WBITS  # zlib's way to say: a gzip header and the largest window
_TEMPORARY_NAME = re.compile(r"\.mlf-[0-9a-f]{16}")  # what a killed run of `mlf.files` leaves
_ZIP_END_MAGIC = b"PK\x05\x06"
_ZIP_END_BYTES = 22  # the record without its comment; the comment's length is in its last two bytes
_ZIP_COMMENT_BYTES = 0xFFFF

# Each pattern finds one fault of a name; the first that does is reported, so the order is from precise to general.
_NAME_FAULTS = tuple(
    (re.compile(pattern), fault)
    for pattern, fault in (
        (r"\A\Z", "has an empty name"),
        (rf"\A(?s:.){{{_NAME_BYTES + 1}}}", f"has a name of more than {_NAME_BYTES} bytes"),
        (r"[\0-\x1f\x7f]", "has a control character in its name"),
        (r"\\", "has a backslash in its name"),
        (r"\A/", "has an absolute name"),
        (r"\A[A-Za-z]:", "names a drive"),
        (r"(?:\A|/)\.\.(?:/|\Z)", "leaves the archive"),
        (r"(?:\A|/)\.?(?:/|\Z)", "has an empty or `.` component in its name"),
        (r"(?i)(?:\A|/)(?:con|prn|aux|nul|com[1-9]|lpt[1-9]) *(?:\.|/|\Z)", "has the name of a Windows device"),
        (r"(?:\A|/) |[ .](?:/|\Z)", "has a name component with a space at an end or a dot at its end"),
        (r"[^A-Za-z0-9_+@.,=~ /-]", "has a character in its name other than letters, digits, space and `_+@.,=~-`"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much an archive may ask of its reader; the defaults are far above any compiled model."""

    member_count: int = 10_000  # files and directories; a TVM archive with its runtime has some hundred
    member_bytes: int = 256 * _MIB  # weights of the largest models that a microcontroller's flash could hold
    metadata_bytes: int = 4 * _MIB  # of `metadata.json`, which is parsed in memory at some ten times its size
    archive_bytes: int = 512 * _MIB  # of the file, and of what it unpacks to
    expansion_ratio: int = 200  # unpacked to packed; weights of zeros compress well, bombs a hundred times better
    expansion_floor_bytes: int = 16 * _MIB  # no ratio is asked for below this: it costs nobody anything
    window_bytes: int = 128 * _MIB  # of zstd; what its own decoder grants to a stream without being told to


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A regular file in an archive; `name` is a POSIX path without a leading `./`."""

    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a member's content lies: in a file that is opened to read it, or in an unpacked copy of the archive."""

    source: Path | IO[bytes]
    offset: int
    size_bytes: int

    def chunks(self, start: int, stop: int, step: int) -> Iterator[bytes]:
        if not isinstance(self.source, Path):
            yield from self._chunks_from(self.source, start, stop, step)
            return
        with self.source.open("rb", buffering=0) as file:
            yield from self._chunks_from(file, start, stop, step)

    def _chunks_from(self, file: IO[bytes], start: int, stop: int, step: int) -> Iterator[bytes]:
        file.seek(self.offset + start)
        while start < stop:
            piece = file.read(min(step, stop - start))
            if not piece:
                return
            start += len(piece)
            yield piece


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Archive:
    """An archive whose structure has been found sound; `open_archive` makes it.

    `label` is the file name that messages use, `form` is `tar`, `tar.gz`, `tar.zst` or `directory`, `members` are the
    regular files sorted by name. Close it, or use it in a `with` statement: a compressed one holds a temporary file.
    """

    label: str
    form: str
    members: tuple[Member, ...]
    _places: Mapping[str, _Place] = field(repr=False)
    _unpacked: IO[bytes] | None = field(repr=False)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back the temporary file of a compressed archive; no member can be read from it afterwards."""
        if self._unpacked is not None:
            self._unpacked.close()

    def size_bytes(self, name: str) -> int:
        """Give the size of the member `name`; ArchiveError if there is none."""
        return self._place(name).size_bytes

    def read(self, name: str, *, offset: int = 0, size_bytes: int | None = None) -> bytes:
        """Read the content of the member `name` from byte `offset` on, all of it or at most `size_bytes`.

        Raises ArchiveError if there is none or its file has shrunk since.
        """
        return b"".join(self._pieces(name, offset, size_bytes, _MIB * 256))

    def chunks(self, name: str) -> Iterator[bytes]:
        """Read the content of the member `name` piece by piece; raises what `read` raises."""
        return self._pieces(name, 0, None, _CHUNK_BYTES)

    def _place(self, name: str) -> _Place:
        place = self._places.get(name)
        if place is None:
            raise ArchiveError(f"has no member {name!r}", where=self.label)
        return place

    def _pieces(self, name: str, offset: int, size_bytes: int | None, step: int) -> Iterator[bytes]:
        place = self._place(name)
        stop = place.size_bytes if size_bytes is None else min(place.size_bytes, offset + size_bytes)
        got = 0
        try:
            for piece in place.chunks(offset, stop, step):
                got += len(piece)
                yield piece
        except OSError as error:
            raise ArchiveError(f"member {name!r} cannot be read: {reason_of(error)}", where=self.label) from error
        if got != max(0, stop - offset):
            raise ArchiveError(
                f"member {name!r} has shrunk since the archive was opened: {got} bytes are left of {stop - offset}",
                where=self.label,
            )

    def read_text(self, name: str) -> str:
        """Read the member `name` as UTF-8; ArchiveError if it is missing or not UTF-8."""
        try:
            return self.read(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ArchiveError(f"member {name!r} is not UTF-8 at byte {error.start}", where=self.label) from error


def open_archive(path: Path, *, limits: Limits = Limits()) -> Archive:
    """Check the structure of the archive or unpacked directory at `path`, and list its members.

    The form is told by content, not by name. ArchiveError if `path` cannot be read or is not an archive that this
    reader accepts; OutputError if a compressed one cannot be unpacked to a temporary file.
    """
    label = _label(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return _open_directory(path, _Index(label, limits))
        if not stat.S_ISREG(status.st_mode):
            raise ArchiveError("is neither a regular file nor a directory", where=label)
        return _open_file(path, status.st_size, _Index(label, limits))
    except FileNotFoundError as error:
        raise ArchiveError("no such file", where=label) from error
    except OSError as error:
        raise ArchiveError(f"cannot be read: {reason_of(error)}", where=label) from error


def _label(path: Path) -> str:
    """The last component of `path`, also where it is spelled `.` or `..`."""
    return path.name if path.name.strip(".") else path.resolve().name or "archive"


class _Index:
    """The members found so far, whatever the form of the archive."""

    def __init__(self, label: str, limits: Limits) -> None:
        self.label = label
        self.limits = limits
        self._entries: list[tuple[str, bool]] = []
        self._places: dict[str, _Place] = {}
        self._size_bytes = 0

    def error(self, message: str) -> ArchiveError:
        return ArchiveError(message, where=self.label)

    def add(self, name: str, place: _Place | None) -> None:
        """Take in a file, or a directory if it has no place."""
        fault = next((fault for pattern, fault in _NAME_FAULTS if pattern.search(name)), None)
        if fault is not None:
            raise self.error(f"member {name[:_NAME_BYTES]!r} {fault}")
        if len(self._entries) == self.limits.member_count:
            raise self.error(f"has more than {self.limits.member_count} members")
        self._entries.append((name, place is None))
        if place is not None:
            self._places[name] = place
            self._check_size(name, place.size_bytes)

    def archive(self, form: str, unpacked: IO[bytes] | None = None) -> Archive:
        self._check_clashes()
        places = MappingProxyType(self._places)
        members = tuple(Member(name=name, size_bytes=places[name].size_bytes) for name in sorted(places))
        return Archive(label=self.label, form=form, members=members, _places=places, _unpacked=unpacked)

    def _check_size(self, name: str, size_bytes: int) -> None:
        limit = self.limits.metadata_bytes if name == METADATA_NAME else self.limits.member_bytes
        if size_bytes > limit:
            raise self.error(f"member {name!r} has {size_bytes} bytes; at most {limit} are allowed")
        self._size_bytes += size_bytes
        if self._size_bytes > self.limits.archive_bytes:
            raise self.error(f"has more than {self.limits.archive_bytes} bytes in its members")

    def _check_clashes(self) -> None:
        """No two names are one on some file system. Sorted with `/` first, a clash is between neighbours."""
        entries = sorted(self._entries, key=lambda entry: entry[0].casefold().replace("/", "\0"))
        for (name, is_directory), (other, other_is_directory) in pairwise(entries):
            parts = zip(name.split("/"), other.split("/"), strict=False)
            part, other_part = next(((a, b) for a, b in parts if a != b), ("", ""))
            if part.casefold() != other_part.casefold():
                continue
            if part != other_part:
                raise self.error(f"members {name!r} and {other!r} differ only in case")
            if name == other and is_directory == other_is_directory:
                raise self.error(f"member {name!r} occurs twice")
            if name == other or not is_directory:
                raise self.error(f"member {name!r} is both a file and a directory")


def _open_directory(root: Path, index: _Index) -> Archive:
    pending = [""]
    while pending:
        directory = pending.pop()
        with os.scandir(root / directory) as found:
            entries = sorted(islice(found, index.limits.member_count + 1), key=lambda entry: entry.name)
        for entry in entries:
            name = directory + entry.name
            if _TEMPORARY_NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                continue
            if entry.is_dir(follow_symlinks=False):
                index.add(name, None)
                pending.append(f"{name}/")
            else:
                _check_regular(entry, name, index)
                size_bytes = entry.stat(follow_symlinks=False).st_size
                index.add(name, _Place(source=Path(entry.path), offset=0, size_bytes=size_bytes))
    return index.archive("directory")


def _check_regular(entry: os.DirEntry[str], name: str, index: _Index) -> None:
    if not entry.is_file(follow_symlinks=False):
        what = "a symbolic link" if entry.is_symlink() else "a device, FIFO or socket"
        raise index.error(f"member {name!r} is {what}; only files and directories are allowed")


def _open_file(path: Path, size_bytes: int, index: _Index) -> Archive:
    if size_bytes > index.limits.archive_bytes:
        raise index.error(f"has {size_bytes} bytes; at most {index.limits.archive_bytes} are allowed")
    with path.open("rb") as file:
        start = file.read(_STEP_BYTES)
        if _ends_like_a_zip(file, size_bytes):
            raise index.error("is a zip archive, or can be read as one")
        file.seek(0)
        if start.startswith(_GZIP_MAGIC):
            return _open_compressed(file, size_bytes, index, zlib.decompressobj(_GZIP_WBITS), form="tar.gz")
        if start.startswith(_ZSTD_MAGIC):
            return _open_compressed(file, size_bytes, index, _zstd_decompressor(start, index), form="tar.zst")
        _index_tar(file, path, index)
    return index.archive("tar")


def _ends_like_a_zip(file: IO[bytes], size_bytes: int) -> bool:
    """Whether an end record of a zip, with its comment, ends where the file does.

    A zip that is a member of a tar (`.npz`, say) is followed by padding, so it does not count.
    """
    file.seek(max(0, size_bytes - _ZIP_END_BYTES - _ZIP_COMMENT_BYTES))
    tail = file.read()
    ends = (match.start() + _ZIP_END_BYTES for match in re.finditer(re.escape(_ZIP_END_MAGIC), tail))
    return any(end <= len(tail) and int.from_bytes(tail[end - 2 : end], "little") == len(tail) - end for end in ends)


def _index_tar(file: IO[bytes], source: Path | IO[bytes], index: _Index) -> None:
    for entry in iterate_ustar(file, label=index.label):
        name = entry.name.removeprefix("./")
        if not entry.is_directory:
            index.add(name, _Place(source=source, offset=entry.offset, size_bytes=entry.size_bytes))
        elif name not in (".", ""):  # the entry of the root, which TVM wrote first
            index.add(name.removesuffix("/"), None)


class _Decompressor(Protocol):
    """What `zlib` and `zstandard` have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _zstd_decompressor(start: bytes, index: _Index) -> _Decompressor:
    import zstandard  # noqa: PLC0415 - most archives are not compressed

    try:
        window_bytes = zstandard.get_frame_parameters(start).window_size
    except zstandard.ZstdError as error:
        raise index.error("is damaged: its zstd header cannot be read") from error
    if window_bytes > index.limits.window_bytes:
        raise index.error(
            f"needs a zstd window of {window_bytes} bytes; at most {index.limits.window_bytes} are allowed"
        )
    return zstandard.ZstdDecompressor(max_window_size=index.limits.window_bytes).decompressobj()


def _open_compressed(
    file: IO[bytes], size_bytes: int, index: _Index, decompressor: _Decompressor, *, form: str
) -> Archive:
    unpacked = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - the archive closes it
    try:
        _unpack(_decompressed(file, size_bytes, index, decompressor), unpacked, index)
        _index_tar(unpacked, unpacked, index)
    except BaseException:
        with suppress(OSError):  # on a full disk closing fails again
            unpacked.close()
        raise
    return index.archive(form, unpacked)


def _unpack(pieces: Iterator[bytes], unpacked: IO[bytes], index: _Index) -> None:
    try:
        for piece in pieces:  # `writelines` would let all of it grow in memory before it looks at the size
            unpacked.write(piece)
        unpacked.flush()
    except OSError as error:
        message = f"cannot be unpacked to a temporary file: {reason_of(error)}"
        raise OutputError(message, where=index.label) from error


def _decompressed(file: IO[bytes], size_bytes: int, index: _Index, decompressor: _Decompressor) -> Iterator[bytes]:
    """Yield the one compressed stream that the file is, up to the limit for its size."""
    limits = index.limits
    limit = min(limits.archive_bytes, max(limits.expansion_floor_bytes, limits.expansion_ratio * size_bytes))
    left = limit
    while not decompressor.eof:
        step = file.read(_STEP_BYTES)
        if not step:
            raise index.error("is truncated: its compressed data does not end")
        piece = _decompress(step, index, decompressor)
        left -= len(piece)
        if left < 0:
            raise index.error(f"unpacks to more than {limit} bytes, the limit for {size_bytes} compressed ones")
        yield piece
    if decompressor.unused_data or file.read(1):
        raise index.error("has data after the end of its compressed data")


def _decompress(step: bytes, index: _Index, decompressor: _Decompressor) -> bytes:
    import zstandard  # noqa: PLC0415 - most archives are not compressed

    try:
        return decompressor.decompress(step)
    except (zlib.error, zstandard.ZstdError) as error:
        raise index.error("is damaged: its compressed data cannot be decoded") from error
