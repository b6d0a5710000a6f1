"""Writing files: each is whole or not there, and temporary ones are gone afterwards."""

from __future__ import annotations

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

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def replace_files(contents: Mapping[Path, bytes | Writer]) -> None:
    """Write several files, all or none of them as far as a file system allows; raise OutputError if one cannot be.

    A content is bytes or a function that writes it. Each is written beside its place first; an interrupt comes before the
    first is moved there or after the last. A symbolic link stays, and what it points to is replaced.
    """
    places = {path: _followed(path) for path in contents}
    staged = {path: place.parent / f".mlf-{secrets.token_hex(8)}" for path, place in places.items()}
    made: list[Path] = []
    current = Path()
    try:
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
    """Give what a symbolic link points to; any other path stays as it is, for a folder above it may be closed to us."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else path  # noqa: PTH114  # a Path's raises some errors


def _make_folder(folder: Path, made: list[Path]) -> None:
    """Make a folder and those above it, and note which were made."""
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        made.append(missing)
        missing.mkdir(exist_ok=True)


def _stage(path: Path, temporary: Path, content: bytes | Writer) -> None:
    if path.exists() and not path.is_file():
        raise OutputError("cannot be written: it is a directory or a device", where=str(path))
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
