"""Writing files: each is whole or not there, and temporary ones are gone afterwards."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import signal
import tempfile
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mlf.errors import OutputError, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    Writer = Callable[[IO[bytes]], None]

_NO_PLACE = "cannot be written: it is a directory or a device"
_MAX_LINKS = 40  # that Linux follows in a path
# What lies here stands for a device or a process's open file; its name must never become a file's.
_SYSTEM_FOLDERS = (Path("/dev"), Path("/proc"))
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def replace_files(contents: Mapping[Path, bytes | Writer]) -> None:
    """Write several files, all or none of them as far as a file system allows; raise OutputError if one cannot be.

    A content is bytes or a function that writes it. Each is written beside its place first; an interrupt comes before the
    first is moved there or after the last. A symbolic link stays, and what it points to is replaced, unless that is a device
    or an open file by its number.
    """
    places: dict[Path, Path] = {}
    staged: dict[Path, Path] = {}
    made: list[Path] = []
    current = Path()
    try:
        for current in contents:
            places[current] = _followed(current)
            staged[current] = places[current].parent / f".mlf-{secrets.token_hex(8)}"
        for current, temporary in staged.items():
            _make_folder(temporary.parent, made)
            _stage(current, temporary, contents[current])
        with uninterrupted():
            for current, temporary in staged.items():
                temporary.replace(places[current])
            made.clear()
    except OSError as error:
        reason = reason_of(error)
        raise OutputError(f"cannot be written: {reason}", where=str(current)) from error
    finally:
        with uninterrupted():
            _remove(staged.values(), made)


def _followed(path: Path) -> Path:
    """Give what a symbolic link points to, unless the way there passes a system folder.

    Any other path stays as it is, for a folder above it may be closed to us.
    """
    place = path
    for _ in range(_MAX_LINKS):
        if not os.path.islink(place):  # noqa: PTH114  # a Path's raises some errors
            return place
        place = _real(place, path)
        place = _real(place.parent / place.readlink(), path)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _real(link: Path, path: Path) -> Path:
    """Give a link or what it points to by the folder in which it really lies, which is no system folder."""
    folder = Path(os.path.realpath(link.parent))
    if any(folder.is_relative_to(system) for system in _SYSTEM_FOLDERS):
        raise OutputError(_NO_PLACE, where=str(path))
    return folder / link.name


def _make_folder(folder: Path, made: list[Path]) -> None:
    """Make a folder and those above it, and note which were made."""
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        made.append(missing)
        missing.mkdir(exist_ok=True)


def _stage(path: Path, temporary: Path, content: bytes | Writer) -> None:
    if path.exists() and not path.is_file():
        raise OutputError(_NO_PLACE, where=str(path))
    with temporary.open("xb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            content(file)
        file.flush()
        os.fsync(file.fileno())  # a power cut between the two must not leave an empty file under the final name


def _remove(files: Iterable[Path], folders: Sequence[Path]) -> None:
    """Remove what a failure left; a folder in which something else lies by now stays."""
    for file in files:
        with suppress(OSError):
            file.unlink()
    for folder in reversed(folders):
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back signals that would interrupt a change in its middle; the first that came is raised afterwards."""
    if threading.current_thread() is not threading.main_thread():  # no signal is handled in another thread
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in INTERRUPTS}
    for number in handlers:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give a folder for temporary files that is gone afterwards; OutputError where they cannot be written."""
    folder = None
    try:
        with uninterrupted():
            folder = Path(tempfile.mkdtemp(prefix="mlf-")).resolve()
        yield folder
    except OSError as error:
        message = f"cannot use a temporary file: {reason_of(error)}"
        raise OutputError(message, hint="let TMPDIR name a folder with more room") from error
    finally:
        if folder is not None:
            with uninterrupted():
                shutil.rmtree(folder, ignore_errors=True)
