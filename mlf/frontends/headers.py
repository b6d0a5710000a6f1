"""Where the headers of a model go: an archive has one include directory, and every `#include` must still find its file."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlf.frontends.declarations import includes
from mlf.pack import PORTABLE_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeFile:
    """A source or header: its path relative to the folder of the description, and its text."""

    path: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Include:
    """An `#include` that means a file of the folder."""

    includer: str
    name: str
    is_quoted: bool
    path: str


def place_headers(
    sources: Sequence[CodeFile], headers: Sequence[CodeFile], *, directories: Sequence[str], folder: Path
) -> tuple[dict[str, str], list[str]]:
    """Decide on the path of each header below the include directory; gives the paths by file, and every fault.

    A header that all sources include by one name gets that name; others are relative to the longest of `directories` (by
    default the folders of the sources) that they are in. Noted are files that are included and not listed, and an
    `#include` that would find nothing or another file.
    """
    searched = list(directories) or [".", *sorted({posixpath.dirname(file.path) or "." for file in sources})]
    placer = _Placer(sources, headers, searched, folder)
    return placer.paths, placer.faults()


class _Placer:
    def __init__(
        self, sources: Sequence[CodeFile], headers: Sequence[CodeFile], directories: Sequence[str], folder: Path
    ) -> None:
        self.sources = {file.path for file in sources}
        self.headers = {file.path for file in headers}
        self.directories = directories
        self.folder = folder
        self.found = [found for file in (*sources, *headers) for found in self._includes(file)]
        self.paths = {file.path: self._path(file.path) for file in headers}

    def _includes(self, file: CodeFile) -> Iterator[_Include]:
        for name, is_quoted in includes(file.text):
            near = [posixpath.dirname(file.path)] if is_quoted else []
            paths = [posixpath.normpath(posixpath.join(directory, name)) for directory in (*near, *self.directories)]
            path = next((path for path in paths if self._is_there(path)), None)
            if path is not None:
                yield _Include(includer=file.path, name=name, is_quoted=is_quoted, path=path)

    def _is_there(self, path: str) -> bool:
        return path in self.headers or path in self.sources or (self.folder / path).is_file()

    def _path(self, header: str) -> str:
        names = {posixpath.normpath(item.name) for item in self.found if item.path == header and item.includer in self.sources}  # fmt: skip
        if len(names) == 1 and not any(name.startswith(("..", "/")) for name in names):
            return names.pop()
        above = [directory for directory in self.directories if directory == "." or header.startswith(f"{directory}/")]
        if header.startswith("../") and set(above) <= {"."}:
            return posixpath.basename(header)
        return posixpath.relpath(header, max(above, key=lambda directory: (directory != ".", len(directory)), default="."))  # fmt: skip

    def faults(self) -> list[str]:
        """List headers that would be one file or have a bad name, and every `#include` that would not find its file."""
        faults, owners = [], dict[str, str]()
        for header, path in self.paths.items():
            other = owners.setdefault(path, header)
            if other != header:
                fix = "name their folder in one of the includes"
                faults.append(f"{other} and {header} would both be the header {path}: {fix}")
            if not PORTABLE_NAME.fullmatch(path):
                faults.append(
                    f"{path} would be a header whose name has other characters than letters, digits and `_+@.-`"
                )
        return faults or [fault for item in self.found for fault in self._fault(item)]

    def _fault(self, item: _Include) -> Iterator[str]:
        said = f"{item.includer} includes `{item.name}`"
        if item.path in self.sources:
            yield f"{said}, which is one of the sources; list {item.path} under `headers` alone"
        elif item.path not in self.headers:
            yield f"{said}, but [code] `headers` does not list {item.path}"
        elif self._in_archive(item) != item.path:
            path = self.paths[item.path]
            yield f"{said}, but in the archive {item.path} is the header {path}: include it by that name everywhere"

    def _in_archive(self, item: _Include) -> str | None:
        """Give the header that an `#include` finds in the archive, whose sources are in a folder without headers."""
        by_path: Mapping[str, str] = {path: header for header, path in self.paths.items()}
        near = (
            [posixpath.dirname(self.paths[item.includer])] if item.is_quoted and item.includer in self.headers else []
        )
        names = [posixpath.normpath(posixpath.join(directory, item.name)) for directory in (*near, "")]
        return next((by_path[name] for name in names if name in by_path), None)
