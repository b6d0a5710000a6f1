"""Which memory the models of a library run in: what each needs, who shares with whom, and where it lies.

Models that never run at the same time share one arena, as large as the largest needs; those that may interrupt each other
get disjoint memory. Several memories of a board hold an arena each or more.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlf.csource import WORKSPACE_ALIGNMENT_BYTES
from mlf.errors import LinkError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ARENA_STYLES = ("shared", "private", "external")
ARENA_SECTION = ".bss.noinit.tvm"  # TVM's own name for memory that start-up code need not clear
_SYMBOL_DIGITS = 8  # of the digest in an arena's name: two libraries of one firmware must not share by chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """A memory of the board, and how much of it arenas may take."""

    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArenaOptions:
    """How the memory of a library is laid out.

    `style` is `shared`, `private` or `external`; `concurrent` are groups of models that may interrupt each other;
    `memories` are in order of preference; `places` assigns models to memories by hand; `sections` gives sections of the
    object file by the name of a memory, or for `arena`.
    """

    style: str = "shared"
    concurrent: tuple[tuple[str, ...], ...] = ()
    memories: tuple[Memory, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)
    sections: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A piece of a model's memory with a place of its own: a pool, or what its program was planned to need."""

    name: str
    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArenaNeed:
    """What a model needs of an arena: blocks, and behind them what it allocates.

    `source` says where the allocated bytes are from: `code`, `metadata` or `measured`, or `none` if there are none. What
    is allocated is rounded up to `unit_bytes`.
    """

    model: str
    blocks: tuple[Block, ...]
    allocator_bytes: int
    alignment_bytes: int
    source: str
    unit_bytes: int = WORKSPACE_ALIGNMENT_BYTES

    @property
    def static_bytes(self) -> int:
        """Where the blocks end, and the allocator begins if there is one."""
        end = max((block.offset_bytes + block.size_bytes for block in self.blocks), default=0)
        return _aligned(end, self.unit_bytes) if self.allocator_bytes else end

    @property
    def size_bytes(self) -> int:
        """All that the model needs."""
        return self.static_bytes + self.allocator_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Arena:
    """Memory that one or more models run in. `memory` is None where the board has one only."""

    symbol: str
    models: tuple[str, ...]
    size_bytes: int
    alignment_bytes: int
    section: str
    memory: str | None
    is_external: bool
    units_bytes: tuple[int, ...]

    def allocator(self, unit_bytes: int) -> str:
        """Give the function that serves allocations in these units."""
        return f"{self.symbol}_allocate_{unit_bytes}"

    @property
    def member(self) -> str:
        """The name of the member of the library that holds it."""
        return f"{self.symbol}.o"


def lay_out(
    model: str,
    pieces: Sequence[tuple[str, int, int]],
    *,
    allocator_bytes: int,
    source: str,
    unit_bytes: int = WORKSPACE_ALIGNMENT_BYTES,
) -> ArenaNeed | None:
    """Give each of `pieces` (name, bytes, alignment) its place; None if there is no need of memory at all."""
    blocks: list[Block] = []
    end = 0
    for name, size, alignment in sorted(pieces, key=lambda piece: (-piece[2], piece[0])):  # no gaps between them
        offset = _aligned(end, alignment)
        blocks.append(Block(name=name, offset_bytes=offset, size_bytes=size))
        end = offset + size
    if end == 0 and allocator_bytes == 0:
        return None
    return ArenaNeed(
        model=model, blocks=tuple(blocks), allocator_bytes=allocator_bytes, source=source if allocator_bytes else "none",
        alignment_bytes=max([unit_bytes, *(piece[2] for piece in pieces)]), unit_bytes=unit_bytes,
    )  # fmt: skip


def _aligned(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment


def plan_arenas(needs: Sequence[ArenaNeed], options: ArenaOptions, *, library: str) -> tuple[Arena, ...]:
    """Decide who shares what: models that must be in one memory are placed first, then the largest first.

    Raises LinkError for names that no model or memory has, and for memories that are too small.
    """
    _check_names(options)
    drafts: list[_Draft] = []
    for need in sorted(needs, key=lambda need: (need.model not in options.places, -need.size_bytes, need.model)):
        _place(need, drafts, options)
    digest = hashlib.sha256(repr((library, sorted(map(repr, needs)), repr(options))).encode()).hexdigest()
    symbol = f"mlf_arena_{digest[:_SYMBOL_DIGITS]}"
    ordered = sorted(drafts, key=lambda draft: sorted(draft.models))
    return tuple(
        draft.arena(f"{symbol}_{number}" if len(ordered) > 1 else symbol, options)
        for number, draft in enumerate(ordered)
    )


def _check_names(options: ArenaOptions) -> None:
    memories = [memory.name for memory in options.memories]
    unknown = [name for name in options.places.values() if name not in memories]
    if unknown:
        known = ", ".join(memories) or "none"
        raise LinkError(f"there is no memory `{unknown[0]}`; there are {known}", hint="name it: --memory NAME=SIZE")
    twice = [name for name in memories if memories.count(name) > 1]
    if twice:
        raise LinkError(f"the memory `{twice[0]}` is given twice")


@dataclass(slots=True)
class _Draft:
    """An arena while models are put into it."""

    memory: Memory | None
    models: list[str]
    size_bytes: int
    alignment_bytes: int
    units_bytes: set[int]

    def growth(self, need: ArenaNeed) -> int:
        """Give the bytes that it would take more with another model."""
        size, alignment = max(self.size_bytes, need.size_bytes), max(self.alignment_bytes, need.alignment_bytes)
        return _aligned(size, alignment) - _taken(self)

    def add(self, need: ArenaNeed) -> None:
        """Put another model into it."""
        self.models.append(need.model)
        self.size_bytes = max(self.size_bytes, need.size_bytes)
        self.alignment_bytes = max(self.alignment_bytes, need.alignment_bytes)
        self.units_bytes.add(need.unit_bytes)

    def arena(self, symbol: str, options: ArenaOptions) -> Arena:
        name = self.memory.name if self.memory else None
        section = options.sections.get("arena", ARENA_SECTION)
        if name:
            section = options.sections.get(name, f"{ARENA_SECTION}.{name}")
        return Arena(
            symbol=symbol, models=tuple(sorted(self.models)), size_bytes=self.size_bytes, alignment_bytes=self.alignment_bytes,
            section=section, memory=name, is_external=options.style == "external", units_bytes=tuple(sorted(self.units_bytes)),
        )  # fmt: skip


def _place(need: ArenaNeed, drafts: list[_Draft], options: ArenaOptions) -> None:
    memories = _candidates(need, options)
    shared = [draft for draft in drafts if options.style == "shared" and _may_share(need.model, draft.models, options)]
    fitting = [draft for draft in shared if draft.memory in memories and _fits(need, draft, drafts)]
    if fitting:
        best = min(fitting, key=lambda draft: (draft.growth(need), draft.size_bytes, sorted(draft.models)))
        best.add(need)
        return
    room = {memory: _room(memory, drafts) for memory in memories if memory is not None}
    open_memories = {memory: left for memory, left in room.items() if left >= _taken(need)}
    if room and not open_memories:
        shown = ", ".join(f"`{memory.name}` has {left} left" for memory, left in room.items())
        raise LinkError(
            f"no memory has room for `{need.model}`, which needs {need.size_bytes} bytes: {shown}",
            hint="give more with --memory, or let fewer models run at the same time",
        )
    chosen = min(open_memories, key=lambda memory: open_memories[memory]) if open_memories else None
    drafts.append(_Draft(memory=chosen, models=[], size_bytes=0, alignment_bytes=1, units_bytes=set()))
    drafts[-1].add(need)


def _taken(need: ArenaNeed | _Draft) -> int:
    """Give the bytes of a memory that something takes with its alignment."""
    return _aligned(need.size_bytes, need.alignment_bytes)


def _fits(need: ArenaNeed, draft: _Draft, drafts: Sequence[_Draft]) -> bool:
    """Tell whether the draft's memory has room for what the model would add to it."""
    return draft.memory is None or draft.growth(need) <= _room(draft.memory, drafts)


def _candidates(need: ArenaNeed, options: ArenaOptions) -> list[Memory | None]:
    if options.style == "external" or not options.memories:
        return [None]
    wanted = options.places.get(need.model)
    return [memory for memory in options.memories if wanted in (None, memory.name)]


def _room(memory: Memory, drafts: Sequence[_Draft]) -> int:
    return memory.size_bytes - sum(_taken(draft) for draft in drafts if draft.memory == memory)


def _may_share(model: str, others: Sequence[str], options: ArenaOptions) -> bool:
    return not any(model in group and other in group for group in options.concurrent for other in others)
