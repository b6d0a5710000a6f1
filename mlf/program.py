"""A compiled network as tensors and calls of operators, before it is C, and where its tensors live while it runs.

Front ends make a Program, `mlf.programcode` writes it as C.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from mlf.csource import WORKSPACE_ALIGNMENT_BYTES
from mlf.planner import Buffer, plan_buffers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlf.planner import MemoryPlan


ValueKind: TypeAlias = Literal["input", "parameter", "linked", "temporary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A tensor of a program.

    An `input` is the caller's; a `parameter` has its bytes as `content`; a `linked` one is in the code, which gives it out
    by its `storage_id`; a `temporary` is written by a call. A value with `alias_of` has the memory and the kind of that
    value, which is no alias itself. `storage_id` tells which temporaries the compiler wanted in one place, if it did.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    kind: ValueKind
    alias_of: int | None = None
    storage_id: int | None = None
    content: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call of an operator, which returns 0 if it succeeded, or nothing if it has no `status`.

    `arguments` are places in the program's values, in the order of the call; `written` are those that it writes. A `packed`
    operator takes DLTensors, of one dimension each if `is_flat`; an `unpacked` one takes plain pointers.
    """

    function: str
    convention: Literal["packed", "unpacked"]
    arguments: tuple[int, ...]
    written: tuple[int, ...]
    is_flat: bool = False
    has_status: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A network: its calls in order, and the values that its `inputs` and `outputs` are; messages call it `where`.

    A value may be an output more than once, and an input or a parameter may be one. `lookup` is the packed function that
    gives out linked parameters; `alignment_bytes` is what the operators expect of parameters and temporaries;
    `storage_bytes` is what the compiler planned for all that it computes, None if it planned nothing.
    """

    where: str
    values: tuple[Value, ...]
    calls: tuple[Call, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    lookup: str | None = None
    alignment_bytes: int = WORKSPACE_ALIGNMENT_BYTES
    storage_bytes: int | None = None

    def root(self, place: int) -> int:
        """Give the value whose memory the value at `place` has: itself, or what it is an alias of."""
        alias = self.values[place].alias_of
        return place if alias is None else alias


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the values of a program live that are not the caller's inputs and no parameters.

    `in_outputs` gives for a value the output in whose memory it is written at once, `offsets` for all other temporaries
    their place in the arena. `copies` are the outputs that nothing writes, each with the value that it is a copy of.
    """

    in_outputs: Mapping[int, int]
    copies: tuple[tuple[int, int], ...]
    offsets: Mapping[int, int]
    arena_bytes: int
    alignment_bytes: int
    lower_bound_bytes: int


def lay_out(program: Program) -> Layout:
    """Find memory for what a program computes, never more than the compiler's own storage would take."""
    in_outputs: dict[int, int] = {}
    copies = []
    for index, place in enumerate(program.outputs):
        root = program.root(place)
        if program.values[root].kind == "temporary" and root not in in_outputs:
            in_outputs[root] = index
        else:
            copies.append((index, root))
    buffers = dict(_buffers(program, in_outputs))
    plan = _plan(program, buffers)
    return Layout(
        in_outputs=in_outputs, copies=tuple(copies), offsets=dict(zip(buffers, plan.offsets, strict=True)),
        arena_bytes=plan.size_bytes, alignment_bytes=plan.alignment_bytes, lower_bound_bytes=plan.lower_bound_bytes,
    )  # fmt: skip


def _buffers(program: Program, in_outputs: Mapping[int, int]) -> Iterator[tuple[int, Buffer]]:
    """List the temporaries for the arena: each is alive from the first to the last call that names it or an alias of it."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for step, call in enumerate(program.calls):
        for place in call.arguments:
            root = program.root(place)
            first.setdefault(root, step)
            last[root] = step
    for root in sorted(first):
        value = program.values[root]
        if value.kind == "temporary" and root not in in_outputs:
            yield root, Buffer(
                name=value.name, size_bytes=max(value.size_bytes, 1), first=first[root], last=last[root],
                alignment_bytes=program.alignment_bytes,
            )  # fmt: skip


def _plan(program: Program, buffers: Mapping[int, Buffer]) -> MemoryPlan:
    storage = _storage_offsets(program, buffers)
    return plan_buffers(tuple(buffers.values()), known=() if storage is None else (storage,))


def _storage_offsets(program: Program, buffers: Mapping[int, Buffer]) -> tuple[int, ...] | None:
    """Place buffers as the compiler did, one storage behind the other; None where it did not, or shared too much."""
    storages: dict[int, int] = {}
    sizes: dict[int, int] = {}
    ends: dict[int, int] = {}
    for root, buffer in sorted(buffers.items(), key=lambda item: item[1].first):
        storage = program.values[root].storage_id
        if storage is None or ends.get(storage, -1) >= buffer.first:
            return None
        storages[root], ends[storage] = storage, buffer.last
        sizes[storage] = max(sizes.get(storage, 0), buffer.size_bytes)
    offsets: dict[int, int] = {}
    end = 0
    for storage in sorted(sizes):
        offsets[storage] = end
        end += -(-sizes[storage] // program.alignment_bytes) * program.alignment_bytes
    return tuple(offsets[storages[root]] for root in buffers)
