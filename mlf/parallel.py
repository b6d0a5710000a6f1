"""Work on several inputs at a time, in processes."""

from __future__ import annotations

import multiprocessing
import signal
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Generic, TypeVar

from mlf.errors import ToolError
from mlf.files import INTERRUPTS, uninterrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkProcess
    from pathlib import Path

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Worker:
    """A process that answers every path that it is sent; `channel` is our end of the pipe to it."""

    process: ForkProcess
    channel: Connection


def in_processes(
    work: Callable[[Path], Result],
    paths: Sequence[Path],
    *,
    jobs: int,
    progress: Callable[[str], None] | None = None,
) -> Iterator[Result]:
    """Give what `work` makes of each path, in their order; what it raises comes out here in its turn.

    The processes are copies of this one, which costs them no imports; it must have no other thread. They end with the
    iterator, at once where it is left early. ToolError if one of them dies.
    """
    crew: _Crew[Result] = _Crew(paths)
    try:
        crew.hire(work, jobs)
        for index, path in enumerate(paths):
            if progress:
                progress(f"waiting for {path.name}")
            yield crew.result(index)
    finally:
        crew.dismiss()


class _Crew(Generic[Result]):
    """The processes, which path each of them works on, and what is done."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self.next = 0
        self.done: dict[int, Result | Exception] = {}
        self.working: dict[Connection, int] = {}
        self.workers: list[_Worker] = []

    def hire(self, work: Callable[[Path], Result], jobs: int) -> None:
        """Start processes and give each its first path."""
        for _ in range(jobs):
            with uninterrupted():  # a copy must not act on what interrupts this process
                self.workers.append(_start(work))
        for worker in self.workers:
            self._send(worker.channel)

    def result(self, index: int) -> Result:
        """Wait for the result of a path."""
        while index not in self.done:
            for channel in wait(list(self.working)):
                self._receive(channel)  # type: ignore[arg-type]  # of a list of connections it gives connections
        found = self.done.pop(index)
        if isinstance(found, Exception):
            raise found
        return found

    def dismiss(self) -> None:
        """End the processes; they write nothing, so that nothing can be half-written."""
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()
            worker.channel.close()

    def _send(self, channel: Connection) -> None:
        if self.next < len(self.paths):
            self.working[channel] = self.next
            with suppress(ConnectionError):  # of one that was killed; no answer comes, which tells the same
                channel.send(self.paths[self.next])
            self.next += 1

    def _receive(self, channel: Connection) -> None:
        index = self.working.pop(channel)
        try:
            self.done[index] = channel.recv()
        except (EOFError, ConnectionError):
            message = "the process that worked on it was killed, perhaps for lack of memory"
            self.done[index] = ToolError(message, where=self.paths[index].name, hint="try fewer at a time with -j 1")
            return
        self._send(channel)


def _start(work: Callable[[Path], Result]) -> _Worker:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(work, ours, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process=process, channel=ours)


def _serve(work: Callable[[Path], Result], ours: Connection, theirs: Connection) -> None:
    """Answer paths until there are no more. Interrupts are for the process that asked for the work: it ends this one."""
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    ours.close()
    with suppress(EOFError, OSError):  # nobody is there any more
        while True:
            theirs.send(_answer(work, theirs.recv()))


def _answer(work: Callable[[Path], Result], path: Path) -> Result | Exception:
    try:
        return work(path)
    except Exception as error:  # noqa: BLE001  # it is raised again where the result is asked for
        return error
