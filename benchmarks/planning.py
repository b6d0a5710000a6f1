"""How small the arenas of `mlf.planner` are and how long planning takes, for 10,000 buffers of every kind that makes it hard.

`python benchmarks/planning.py` plans each case in turn with mlf and with its rival, the largest buffer first and each in
the lowest gap, as TVM's `hill_climb` begins (its `greedy_by_size` leaves gaps empty). It prints the best time of each and
by how much each arena exceeds the lower bound. The exit status is 1 if a promise of mlf is missed.
"""

from __future__ import annotations

import random
import sys
import time
from typing import TYPE_CHECKING

from mlf.planner import Buffer, check_placement, plan_buffers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Facts = tuple[int, int, int]  # size, first and last step

COUNT = 10_000
ROUNDS = 3
# What mlf promises.
MAX_SECONDS = 2.0
NETWORK_EXCESS = 0.01  # over the lower bound
LARGEST = 1 << 16


def chance() -> random.Random:
    return random.Random(1)  # noqa: S311  # no secret


def chain() -> Iterator[Facts]:
    """Operators that read what the one before made and need some memory while they run."""
    sizes = chance()
    for step in range(COUNT // 2):
        yield sizes.randint(1, LARGEST), step, step + 1
        yield sizes.randint(1, LARGEST), step, step


def long_skips() -> Iterator[Facts]:
    """A chain in which every tenth tensor is read again up to a hundred operators later."""
    lives = chance()
    for step in range(COUNT):
        yield lives.randint(1, LARGEST), step, step + (1 if step % 10 else lives.randint(1, 100))


def branches() -> Iterator[Facts]:
    """Cells of four branches of three operators each, whose ends are joined."""
    sizes = chance()
    for cell in range(COUNT // 13):
        start = 13 * cell
        yield sizes.randint(1, LARGEST), start, start + 10
        for branch in range(4):
            step = start + 3 * branch
            yield from (
                (sizes.randint(1, LARGEST), step + 1, step + 2),
                (sizes.randint(1, LARGEST), step + 2, step + 3),
            )
            yield sizes.randint(1, LARGEST), step + 3, start + 13


def around(length: int) -> Iterator[Facts]:
    """Lives of up to `length` steps that begin anywhere."""
    lives = chance()
    for _ in range(COUNT):
        first = lives.randrange(COUNT)
        yield lives.randint(1, LARGEST), first, first + lives.randint(0, length)


def anywhere() -> Iterator[Facts]:
    lives = chance()
    for _ in range(COUNT):
        first, last = sorted(lives.sample(range(2 * COUNT), 2))
        yield lives.randint(1, LARGEST), first, last


def all_at_once() -> Iterator[Facts]:
    sizes = chance()
    return ((sizes.randint(1, LARGEST), 0, 1) for _ in range(COUNT))


def nested() -> Iterator[Facts]:
    sizes = chance()
    return ((sizes.randint(1, LARGEST), step, 2 * COUNT - step) for step in range(COUNT))


def stairs() -> Iterator[Facts]:
    sizes = chance()
    return ((sizes.randint(1, LARGEST), step, step + COUNT // 2) for step in range(COUNT))


NETWORKS: dict[str, Callable[[], Iterator[Facts]]] = {
    "a chain": chain,
    "a chain with long skips": long_skips,
    "cells of four branches": branches,
}
HARD: dict[str, Callable[[], Iterator[Facts]]] = {
    "lives of up to 20 steps": lambda: around(20),
    "lives of up to 190 steps": lambda: around(190),
    "lives of up to 2,500 steps": lambda: around(2500),
    "any two steps": anywhere,
    "all at once": all_at_once,
    "one within the other": nested,
    "half of all steps each": stairs,
}


def buffers_of(facts: Iterator[Facts]) -> list[Buffer]:
    return [
        Buffer(name=str(number), size_bytes=size, first=first, last=last)
        for number, (size, first, last) in enumerate(facts)
    ]


def largest_first(buffers: Sequence[Buffer]) -> int:
    """Put each buffer into the lowest gap; what is placed is kept sorted, so that the search ends at the gap."""
    placed: list[tuple[int, int, int, int]] = []
    arena = 0
    for buffer in sorted(buffers, key=lambda it: -it.size_bytes):
        size, first, last, mask = buffer.size_bytes, buffer.first, buffer.last, buffer.alignment_bytes - 1
        lowest = 0
        for start, end, begins, ends in placed:
            if begins > last or ends < first:
                continue
            if lowest + size <= start:
                break
            lowest = max(lowest, (end + mask) & ~mask)
        placed.append((lowest, lowest + size, first, last))
        placed.sort()  # of a list that is sorted but for its end, which takes one pass
        arena = max(arena, lowest + size)
    return arena


def timed(plan: Callable[[], int]) -> tuple[float, int]:
    start = time.perf_counter()
    arena = plan()
    return time.perf_counter() - start, arena


def measure(name: str, buffers: list[Buffer], *, is_network: bool) -> bool:
    """Plan with both in turn and print the row; True if every promise is kept."""
    plan = plan_buffers(buffers)
    check_placement(buffers, plan.offsets)
    bound = plan.lower_bound_bytes
    rounds = [
        (timed(lambda: plan_buffers(buffers).size_bytes), timed(lambda: largest_first(buffers))) for _ in range(ROUNDS)
    ]
    (seconds, arena), (rival_seconds, rival_arena) = (min(column) for column in zip(*rounds, strict=True))
    is_kept = (
        seconds < MAX_SECONDS and arena <= rival_arena and (not is_network or arena <= bound * (1 + NETWORK_EXCESS))
    )
    print(
        f"{name:<28} {len(buffers):>6}   mlf {seconds:6.2f} s  +{arena / bound - 1:6.2%}"
        f"   largest first {rival_seconds:6.2f} s  +{rival_arena / bound - 1:6.2%}   {'kept' if is_kept else 'MISSED'}",
        flush=True,
    )
    return is_kept


def main() -> None:
    print(f"best of {ROUNDS}; arenas are given as what they exceed the lower bound by")
    kept = [measure(name, buffers_of(make()), is_network=True) for name, make in NETWORKS.items()]
    kept += [measure(name, buffers_of(make()), is_network=False) for name, make in HARD.items()]
    sys.exit(not all(kept))


if __name__ == "__main__":
    main()
