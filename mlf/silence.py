"""What libraries print is not for the users of mlf: their importers and runtimes talk on streams that they do not own."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_STDERR = 2


@contextmanager
def silenced() -> Iterator[None]:
    """Send nowhere what is written to stdout and stderr, and what native code writes to stderr."""
    sys.stdout.flush()
    sys.stderr.flush()
    with _without_stderr(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield


@contextmanager
def _without_stderr() -> Iterator[None]:
    try:
        kept = os.dup(_STDERR)
    except OSError:  # there is no stderr
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, _STDERR)
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)
        os.close(nowhere)
