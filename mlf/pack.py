"""The one writer of archives: the same members give the same bytes, anywhere and at any time.

Version 8 is plain ustar: regular files alone, `metadata.json` first, the rest sorted by bytes. Versions 1 to 7 have the
form that their consumers look for: names that begin with `./`, and an entry for each folder. No owner, no mode of this
machine, no time but SOURCE_DATE_EPOCH gets in.
"""

from __future__ import annotations

import re
import tarfile
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Protocol

from mlf.archive import METADATA_NAME
from mlf.errors import ArchiveError, OutputError
from mlf.files import replace_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from mlf.archive import Archive

_FILE_MODE = 0o644
_FOLDER_MODE = 0o755
# Fixed, because they are part of the bytes: the level that packs weights best in acceptable time, one thread.
_ZSTD_LEVEL = 19
_GZIP_LEVEL = 9
_GZIP_WBITS = 16 + zlib.MAX_WBITS  # zlib's way to say: the largest window, and a gzip header without name and time
_MAX_EPOCH = 8**11 - 1  # of the eleven octal digits of a ustar header
_LEGACY_VERSIONS = range(1, 8)
_MAX_NAME_BYTES = 255  # as the reader allows; two ustar fields could hold one more
# Letters, digits and a few signs; no hidden file, no dot at an end, no device of Windows.
_COMPONENT = (
    r"(?!(?i:con|prn|aux|nul|com[1-9]|lpt[1-9])(?:[./]|\Z))[A-Za-z0-9_+@-](?:[A-Za-z0-9._+@-]*[A-Za-z0-9_+@-])?"
)
PORTABLE_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
"""The names that members of version 8 may have: those that every tar reader and file system takes for the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedMember:
    """A member of an archive to be: its name, and its content as pieces, which are asked for when they are needed."""

    name: str
    size_bytes: int
    pieces: Callable[[], Iterable[bytes]]


def member_of_bytes(name: str, content: bytes) -> PackedMember:
    """Make a member of a content in memory."""
    return PackedMember(name=name, size_bytes=len(content), pieces=lambda: (content,))


def member_of_archive(archive: Archive, name: str, *, new_name: str | None = None) -> PackedMember:
    """Make a member of one of an open archive, under another name if wanted."""
    return PackedMember(name=new_name or name, size_bytes=archive.size_bytes(name), pieces=lambda: archive.chunks(name))


def write_archive(path: Path, members: Sequence[PackedMember], *, version: int, epoch_s: int = 0) -> None:
    """Write an archive of a version to `path`, compressed if its name ends in `.zst`, `.gz` or `.tgz`.

    `epoch_s` is the time of all members. The file is written beside `path` and moved there when it is complete. Raises
    OutputError where it cannot be, also for a member whose name no archive of this version can hold, and ArchiveError for a
    member that is not as large as it was.
    """
    entries = _entries(members, version, min(max(epoch_s, 0), _MAX_EPOCH), where=str(path))

    def write(file: IO[bytes]) -> None:
        for piece in _compressed(_tar(entries), path.suffix):
            file.write(piece)

    replace_files({path: write})


def _entries(
    members: Sequence[PackedMember], version: int, epoch_s: int, *, where: str
) -> list[tuple[bytes, PackedMember | None]]:
    """Make the header of every entry, in order; a folder has no member."""
    prefix = "./" if version in _LEGACY_VERSIONS else ""
    ordered = sorted(members, key=lambda member: (not prefix and member.name != METADATA_NAME, member.name))
    entries: list[tuple[bytes, PackedMember | None]] = []
    seen: set[str] = set()
    for member in ordered:
        _check_name(member.name, where, is_portable=not prefix)
        header = _header(prefix + member.name, member.size_bytes, epoch_s, where)
        for folder in _folders(member.name, seen) if prefix else ():
            entries.append((_header(prefix + folder, None, epoch_s, where), None))
        entries.append((header, member))
    return entries


def _check_name(name: str, where: str, *, is_portable: bool) -> None:
    if len(name) > _MAX_NAME_BYTES:
        raise OutputError(
            f"cannot hold the member {name!r}: its name has more than {_MAX_NAME_BYTES} bytes", where=where
        )
    if is_portable and not PORTABLE_NAME.fullmatch(name):
        raise OutputError(
            f"cannot hold the member {name!r}: names in version 8 have letters, digits and `_+@.-`, no dot at an end of a "
            "component, and no device of Windows",
            where=where,
        )


def _folders(name: str, seen: set[str]) -> Iterator[str]:
    """Give the folders above a member that had no entry yet, the root's first."""
    parts = name.split("/")[:-1]
    for depth in range(len(parts) + 1):
        folder = "/".join(parts[:depth])
        if folder not in seen:
            seen.add(folder)
            yield folder


def _header(name: str, size_bytes: int | None, epoch_s: int, where: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.mtime = epoch_s
    if size_bytes is None:
        info.type, info.mode = tarfile.DIRTYPE, _FOLDER_MODE
    else:
        info.size, info.mode = size_bytes, _FILE_MODE
    try:
        return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    except (ValueError, UnicodeError) as error:
        raise OutputError(
            f"cannot hold the member {name.removeprefix('./')!r}: its name does not fit a ustar header", where=where
        ) from error


def _tar(entries: Iterable[tuple[bytes, PackedMember | None]]) -> Iterator[bytes]:
    size_bytes = 0
    for header, member in entries:
        yield header
        size_bytes += len(header)
        if member is not None:
            yield from _content(member)
            yield bytes(-member.size_bytes % tarfile.BLOCKSIZE)
            size_bytes += member.size_bytes + -member.size_bytes % tarfile.BLOCKSIZE
    end = 2 * tarfile.BLOCKSIZE
    yield bytes(end + -(size_bytes + end) % tarfile.RECORDSIZE)


def _content(member: PackedMember) -> Iterator[bytes]:
    size_bytes = 0
    for piece in member.pieces():
        size_bytes += len(piece)
        yield piece
    if size_bytes != member.size_bytes:
        message = f"changed while it was read: it had {member.size_bytes} bytes, and gave {size_bytes}"
        raise ArchiveError(message, where=member.name)


class _Compressor(Protocol):
    """What `zlib` and `zstandard` have in common."""

    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


def _compressed(pieces: Iterable[bytes], suffix: str) -> Iterator[bytes]:
    compressor = _compressor(suffix)
    if compressor is None:
        yield from pieces
        return
    for piece in pieces:
        yield compressor.compress(piece)
    yield compressor.flush()


def _compressor(suffix: str) -> _Compressor | None:
    """Choose no file-like one: such an object writes once more when it is dropped, and what it writes to may be closed."""
    if suffix == ".zst":
        import zstandard  # noqa: PLC0415  # most archives are not compressed

        compressor: _Compressor = zstandard.ZstdCompressor(
            level=_ZSTD_LEVEL, write_checksum=True, threads=0
        ).compressobj()
        return compressor
    return zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_WBITS) if suffix in (".gz", ".tgz") else None
