"""Places the buffers of a program in one arena, so that those alive at the same time do not overlap and it stays small.

Finding the smallest arena is NP-hard, but the largest sum of sizes alive at once is a bound that is nearly always reached.
Three ways are tried until one reaches it: the lowest free span of time gets the longest buffer that fits into it; the
largest buffer is placed first, as low as possible; and that order is then repaired: a buffer that would end too high
moves before one that is in its way, and what it thereby displaces is placed again.

All work is counted, never timed, and chance comes from a generator of our own: equal buffers give an equal plan everywhere.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from mlf.errors import LinkError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Numbers: TypeAlias = "NDArray[np.int64]"

_MAX_TOTAL_BYTES: Final = 1 << 60  # of sizes and alignments together, so that no offset leaves 64 bits
_MAX_PAIRS: Final = 1_000_000  # alive at once, up to which lists of them cost less than a look at every buffer
_VISITS_PER_BUFFER: Final = 20_000  # of a repair; networks of a hundred tensors take up to a third of them
_MAX_VISITS: Final = 2_000_000  # in all, some 0.7 s
_PLACEMENT_VISITS: Final = 8  # what placing a buffer that has no neighbours costs, measured in neighbours
_RANK_STEP: Final = 1 << 60  # between neighbours in the order: so many halvings until all ranks are spread anew
_NO_LIMIT: Final = 1 << 62  # above all offsets
# Knuth's generator for MMIX; of its bits the upper ones are good.
_RANDOM_FACTOR: Final = 6364136223846793005
_RANDOM_TERM: Final = 1442695040888963407
_RANDOM_MASK: Final = (1 << 64) - 1
_RANDOM_SHIFT: Final = 33


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """A piece of memory that is needed from the step `first` to the step `last`, both included.

    Steps are the operators in the order in which they run. The alignment is a power of two. A buffer of size 0 takes no
    room and overlaps nothing.
    """

    name: str
    size_bytes: int
    first: int
    last: int
    alignment_bytes: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Where each buffer lies in an arena of `size_bytes`, which itself must be aligned to `alignment_bytes`.

    `offsets` are in the order of the buffers. No placement whatever needs less than `lower_bound_bytes`: at the fullest
    step the buffers need the sum of their sizes, and between buffers of a common alignment the padding as well.
    """

    offsets: tuple[int, ...]
    size_bytes: int
    alignment_bytes: int
    lower_bound_bytes: int


def plan_buffers(buffers: Sequence[Buffer], *, known: Sequence[Sequence[int]] = ()) -> MemoryPlan:
    """Place all buffers; the arena is never larger than with one of the `known` placements, each an offset per buffer.

    A known placement is kept where nothing smaller is found. The size depends neither on names nor on the order of the
    buffers. Raises LinkError for a buffer that cannot be placed anywhere and for a known placement that is wrong.
    """
    _check_buffers(buffers)
    for offsets in known:
        check_placement(buffers, offsets)
    order = sorted((i for i, buffer in enumerate(buffers) if buffer.size_bytes), key=lambda i: _facts(buffers[i]))
    lives = _lives([buffers[i] for i in order])
    bound = _lower_bound(lives)
    placements = [tuple(offsets) for offsets in known]
    limit = min((_extent(buffers, offsets) for offsets in placements), default=_NO_LIMIT)
    found = _smallest(lives, bound, limit)
    if found is not None:
        at = dict(zip(order, found, strict=True))
        placements = [tuple(at.get(i, 0) for i in range(len(buffers)))]
    best = min(placements, key=lambda offsets: _extent(buffers, offsets))
    return MemoryPlan(
        offsets=best,
        size_bytes=_extent(buffers, best),
        alignment_bytes=max((buffer.alignment_bytes for buffer in buffers), default=1),
        lower_bound_bytes=bound,
    )


def check_placement(buffers: Sequence[Buffer], offsets: Sequence[int]) -> None:
    """Raise LinkError if the offsets are not one for each buffer, aligned, and without an overlap of what is alive at once."""
    if len(offsets) != len(buffers):
        raise LinkError(f"a placement has {len(offsets)} offsets for {len(buffers)} buffers")
    for buffer, offset in zip(buffers, offsets, strict=True):
        if offset < 0 or offset % buffer.alignment_bytes:
            raise LinkError(
                f"buffer `{buffer.name}` is placed at {offset}, which is not a multiple of {buffer.alignment_bytes} from 0 on"
            )
    placed: list[tuple[int, int]] = []
    for step, ends, index in _events(buffers):
        item = (offsets[index], index)
        place = bisect_left(placed, item)
        if ends:
            del placed[place]
            continue
        for _, other in placed[max(place - 1, 0) : place + 1]:
            _check_pair(buffers, offsets, (other, index), step)
        placed.insert(place, item)


def _events(buffers: Sequence[Buffer]) -> list[tuple[int, bool, int]]:
    """Give the steps at which buffers begin and end to live; a buffer that ends in a step is still there for those that begin."""
    starts = [(buffer.first, False, i) for i, buffer in enumerate(buffers) if buffer.size_bytes]
    return sorted(starts + [(buffer.last, True, i) for i, buffer in enumerate(buffers) if buffer.size_bytes])


def _check_pair(buffers: Sequence[Buffer], offsets: Sequence[int], pair: tuple[int, int], step: int) -> None:
    low, high = sorted(pair, key=lambda i: (offsets[i], i))
    if offsets[low] + buffers[low].size_bytes > offsets[high]:
        raise LinkError(
            f"buffers `{buffers[low].name}` and `{buffers[high].name}` are both alive in step {step}"
            f" and both hold byte {offsets[high]}"
        )


def _check_buffers(buffers: Sequence[Buffer]) -> None:
    for buffer in buffers:
        if buffer.size_bytes < 0:
            raise LinkError(f"buffer `{buffer.name}` has a size of {buffer.size_bytes}")
        if buffer.first > buffer.last:
            raise LinkError(f"buffer `{buffer.name}` is alive from step {buffer.first} to step {buffer.last}")
        if buffer.alignment_bytes < 1 or buffer.alignment_bytes & (buffer.alignment_bytes - 1):
            raise LinkError(
                f"buffer `{buffer.name}` has an alignment of {buffer.alignment_bytes}, which is not a power of two"
            )
    total = sum(buffer.size_bytes + buffer.alignment_bytes for buffer in buffers)
    if total > _MAX_TOTAL_BYTES:
        raise LinkError(f"{len(buffers)} buffers take {total} bytes; at most {_MAX_TOTAL_BYTES} can be planned")


def _facts(buffer: Buffer) -> tuple[int, ...]:
    """Give all that tells two buffers apart: largest first, and of equal size the one that lives longest."""
    return (-buffer.size_bytes, buffer.first - buffer.last, buffer.first, buffer.alignment_bytes)


def _extent(buffers: Sequence[Buffer], offsets: Sequence[int]) -> int:
    used = (offset + buffer.size_bytes for buffer, offset in zip(buffers, offsets, strict=True) if buffer.size_bytes)
    return max(used, default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lives:
    """Buffers as columns, largest first; steps are numbered anew, only those in which a buffer begins to live."""

    sizes: Numbers
    firsts: Numbers
    lasts: Numbers
    alignments: Numbers

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def steps(self) -> int:
        """How many steps there are."""
        return int(self.lasts.max(initial=-1)) + 1

    @property
    def pairs(self) -> int:
        """How many pairs are alive at the same time."""
        begun = np.sort(self.firsts).searchsorted(
            self.lasts, "right"
        )  # before it ends, itself and all earlier ones too
        return int(begun.sum()) - len(self) * (len(self) + 1) // 2


def _lives(buffers: Sequence[Buffer]) -> _Lives:
    """Two buffers share a step if and only if they share one in which one of them begins, so the others can go."""
    starts = sorted({buffer.first for buffer in buffers})
    return _Lives(
        sizes=np.array([buffer.size_bytes for buffer in buffers], np.int64),
        firsts=np.array([bisect_left(starts, buffer.first) for buffer in buffers], np.int64),
        lasts=np.array([bisect_right(starts, buffer.last) - 1 for buffer in buffers], np.int64),
        alignments=np.array([buffer.alignment_bytes for buffer in buffers], np.int64),
    )


def _lower_bound(lives: _Lives) -> int:
    """Sum up each step, once for each alignment over the buffers that have it or a larger one.

    All of these begin at a multiple of it, so each takes its size rounded up, but for the highest, which needs no padding
    behind it; that may be the one with the most padding. Padding is of no use to them, but may hold less aligned buffers:
    those are left out.
    """
    bound = 0
    for alignment in np.unique(lives.alignments):
        chosen = np.flatnonzero(lives.alignments >= alignment)
        padding = -lives.sizes[chosen] % alignment
        needs = np.zeros(lives.steps + 1, np.int64)
        np.add.at(needs, lives.firsts[chosen], lives.sizes[chosen] + padding)
        np.subtract.at(needs, lives.lasts[chosen] + 1, lives.sizes[chosen] + padding)
        most = np.zeros_like(needs)
        for i in np.argsort(padding, kind="stable"):
            most[lives.firsts[chosen[i]] : lives.lasts[chosen[i]] + 1] = padding[i]
        bound = max(bound, int((needs.cumsum() - most).max()))
    return bound


def _smallest(lives: _Lives, bound: int, limit: int) -> list[int] | None:
    """Give the offsets of the smallest arena found below `limit`, None if there was none."""
    best = _by_lowest_span(lives, limit)
    if best is not None:
        limit = int((np.array(best, np.int64) + lives.sizes).max(initial=0))
    if limit <= bound:
        return best
    better = _Repair(lives, bound, limit).run() if lives.pairs <= _MAX_PAIRS else _by_size(lives, limit)
    return best if better is None else better


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _by_lowest_span(lives: _Lives, limit: int) -> list[int] | None:
    """Fill the lowest span of steps with the longest buffer that lives in it only, or raise it to the lower of its sides.

    After the best-fit heuristic of Burke, Kendall and Whitwell for cutting stock, with the steps as the width.
    """
    heights = np.zeros(lives.steps, np.int64)
    offsets = [0] * len(lives)
    waiting = np.lexsort((-lives.sizes, lives.firsts - lives.lasts))
    firsts, lasts = lives.firsts[waiting], lives.lasts[waiting]
    count = len(waiting)
    while count:
        start = int(heights.argmin())
        height = int(heights[start])
        end = start + _run_length(heights[start:])
        fits = (firsts >= start) & (lasts < end)
        place = int(fits.argmax())
        if not fits[place]:
            heights[start:end] = min(heights[side] for side in (start - 1, end) if 0 <= side < len(heights))
            continue
        buffer = int(waiting[place])
        offsets[buffer] = _aligned(height, int(lives.alignments[buffer]))
        top = offsets[buffer] + int(lives.sizes[buffer])
        if top >= limit:
            return None
        heights[firsts[place] : lasts[place] + 1] = top
        firsts[place] = -1  # no span reaches as far, so it fits into none
        count -= 1
        if count * 2 < len(waiting):
            left = firsts >= 0
            waiting, firsts, lasts = waiting[left], firsts[left], lasts[left]
    return offsets


def _run_length(values: Numbers) -> int:
    """Count how often the first value stands at the beginning."""
    others = values != values[0]
    place = int(others.argmax())
    return place if others[place] else len(values)


def _by_size(lives: _Lives, limit: int) -> list[int] | None:
    """Place the largest buffer first, each in the lowest gap that holds it; looks at all buffers at once for each one."""
    firsts, lasts, starts, ends = placed = np.zeros((4, len(lives)), np.int64)  # a column each, sorted by `starts`
    offsets: list[int] = []
    columns = (lives.sizes, lives.firsts, lives.lasts, lives.alignments)
    for count, (size, first, last, alignment) in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        near = np.flatnonzero((firsts[:count] <= last) & (lasts[:count] >= first))
        free = np.zeros(len(near) + 1, np.int64)
        np.maximum.accumulate(ends[near], out=free[1:])
        free = (free + (alignment - 1)) & -alignment
        gaps = np.append(starts[near], _NO_LIMIT) - free
        offset = int(free[(gaps >= size).argmax()])
        if offset + size >= limit:
            return None
        offsets.append(offset)
        place = int(starts[:count].searchsorted(offset))
        placed[:, place + 1 : count + 1] = placed[:, place:count]
        placed[:, place] = first, last, offset, offset + size
    return offsets


class _Repair:
    """An order of the buffers that is changed until placing them in it, each as low as possible, stays below a limit.

    A buffer that cannot end below the limit moves before one of those in its way, chosen by chance; of its neighbours, those
    that now come after it are taken out and placed again. All others stay where they are, so a change costs as much in a
    network of ten thousand tensors as in one of a hundred. When all are placed, the limit falls to what they take.
    """

    def __init__(self, lives: _Lives, bound: int, limit: int) -> None:
        self.bound = bound
        self.limit = limit
        self.sizes: list[int] = lives.sizes.tolist()
        self.alignments: list[int] = lives.alignments.tolist()
        self.neighbours = _neighbours(lives)
        self.offsets = [-1] * len(lives)  # -1 for those that are waiting
        self.ranks = [(place + 1) * _RANK_STEP for place in range(len(lives))]
        self.order = list(self.ranks)
        self.waiting = [(rank, i) for i, rank in enumerate(self.ranks)]
        self.random = 0

    def run(self) -> list[int] | None:
        """Give the offsets of the smallest arena found below the limit, None if there was none."""
        best = None
        visits = min(_MAX_VISITS, _VISITS_PER_BUFFER * len(self.sizes))
        while visits > 0:
            if not self.waiting:
                best = list(self.offsets)
                self._lower_limit()
                if self.limit <= self.bound:
                    break
            buffer = heappop(self.waiting)[1]
            offsets = self.offsets
            near = sorted([(offsets[i], i) for i in self.neighbours[buffer] if offsets[i] >= 0])
            visits -= len(near) + _PLACEMENT_VISITS
            if not self._place(buffer, near):
                self._move(buffer, near)
        return best

    def _lower_limit(self) -> None:
        ends = [offset + size for offset, size in zip(self.offsets, self.sizes, strict=True)]
        self.limit = max(ends)
        for buffer, end in enumerate(ends):
            if end == self.limit:
                self._take_out(buffer)

    def _take_out(self, buffer: int) -> None:
        self.offsets[buffer] = -1
        heappush(self.waiting, (self.ranks[buffer], buffer))

    def _place(self, buffer: int, near: list[tuple[int, int]]) -> bool:
        """Place it in the lowest gap between its placed neighbours, if it ends below the limit there."""
        size, mask = self.sizes[buffer], self.alignments[buffer] - 1
        lowest = 0
        for offset, neighbour in near:
            if lowest + size <= offset:
                break
            end = offset + self.sizes[neighbour]
            if end > lowest:
                lowest = (end + mask) & ~mask
        if lowest + size >= self.limit:
            return False
        self.offsets[buffer] = lowest
        return True

    def _move(self, buffer: int, near: list[tuple[int, int]]) -> None:
        """Move it before one of its placed neighbours; there is one, as alone it ends below any limit above the bound."""
        other = near[self._below(len(near))][1]
        del self.order[bisect_left(self.order, self.ranks[buffer])]
        place = bisect_left(self.order, self.ranks[other])
        before = self.order[place - 1] if place else 0
        rank = (before + self.order[place]) // 2
        self.order.insert(place, rank)
        self.ranks[buffer] = rank
        for _, neighbour in near:
            if self.ranks[neighbour] > rank:
                self._take_out(neighbour)
        self._take_out(buffer)
        if rank - before < 2:
            self._spread_ranks()

    def _spread_ranks(self) -> None:
        """Number the order anew, as there is no room left between two ranks; a heap of them stays one."""
        spread = {rank: (place + 1) * _RANK_STEP for place, rank in enumerate(self.order)}
        self.order = list(spread.values())
        self.ranks = [spread[rank] for rank in self.ranks]
        self.waiting = [(spread[rank], buffer) for rank, buffer in self.waiting]

    def _below(self, count: int) -> int:
        self.random = (self.random * _RANDOM_FACTOR + _RANDOM_TERM) & _RANDOM_MASK
        return (self.random >> _RANDOM_SHIFT) % count


def _neighbours(lives: _Lives) -> list[list[int]]:
    """List for each buffer those that share a step with it."""
    found: list[list[int]] = [[] for _ in range(len(lives))]
    firsts, lasts = lives.firsts.tolist(), lives.lasts.tolist()
    alive: list[int] = []
    for buffer in lives.firsts.argsort(kind="stable").tolist():
        alive = [i for i in alive if lasts[i] >= firsts[buffer]]
        for i in alive:
            found[i].append(buffer)
        found[buffer].extend(alive)
        alive.append(buffer)
    return found
