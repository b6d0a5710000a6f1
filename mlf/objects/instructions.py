"""The few instructions that move the stack pointer or the flow of control, found in machine code.

Everything else is skipped, so that this is no disassembler. The instruction sets are in modules of their own, as tables of
bit patterns with what each means; here is what they share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]
    Words = npt.NDArray[np.uint32]
    Flags = npt.NDArray[np.bool_]
    Target = int | str
    Handler = Callable[["Stream", int, int], "Event | None"]
    Rows = tuple[tuple[int, int, Handler], ...]
    Tracer = Callable[["Stream", int, int, "Value | None"], "Value | None"]

STACK_POINTER = -1  # as the `register` of an event
# How far back the value of a register is looked for; compilers make the size of a frame just before they use it.
_LOOK_BACK = 64
_MAX_TRACES = 1 << 18  # in an object; a function has some, and code that is nothing else would take hours


class Kind(Enum):
    """What an instruction does."""

    GROW = auto()  # the stack grows by `value` bytes, and for a moment by `peak`
    SET = auto()  # the stack pointer becomes `register` + `value`, rounded down to a multiple of `alignment`
    COPY = auto()  # `register` becomes the stack pointer + `value`
    DYNAMIC = auto()  # the stack pointer moves by what only a run knows
    BRANCH = auto()  # perhaps to `target`
    JUMP = auto()
    CALL = auto()
    CALL_POINTER = auto()
    JUMP_POINTER = auto()  # through a table, or a call in last place
    RETURN = auto()  # or a trap: what follows is reached from elsewhere
    CONDITION = auto()  # the next `value` instructions are executed on a condition


class Event(NamedTuple):
    """An instruction that matters; `target` is an address, or the name of an undefined symbol."""

    at: int
    kind: Kind
    value: int = 0
    register: int = STACK_POINTER
    alignment: int = 1
    target: Target = 0
    is_conditional: bool = False
    peak: int = 0


class Reference(NamedTuple):
    """What a relocation refers to; the addend is None where the instruction holds it."""

    target: Target
    addend: int | None
    type: int


@dataclass(slots=True, kw_only=True)
class Text:
    """The executable sections of an object, laid out one after another.

    `spans` are (start, end, mode) of what is code, sorted; mode `a` is ARM, anything else the usual instruction set.
    `functions` are where functions begin; `references` are relocations by place, and `followed` collects those of them
    that a call or a jump used.
    """

    is_64: bool
    order: str
    data: bytes
    spans: Sequence[tuple[int, int, str]]
    functions: AbstractSet[int]
    references: Mapping[int, Reference]
    has_zcmp: bool = False
    followed: set[int] = field(default_factory=set)

    def target(self, at: int, decoded: int, place: int | None = None) -> Target:
        """Find where the instruction at `at` goes, whose own bits say `decoded`; `place` is that of its relocation."""
        place = at if place is None else place
        reference = self.references.get(place)
        if reference is None:
            return decoded
        self.followed.add(place)
        if isinstance(reference.target, str):
            return reference.target
        return reference.target + (decoded - at if reference.addend is None else reference.addend)

    def is_code(self, unit_bytes: int, *, mode: str) -> Flags:
        """Tell of each unit of the data whether it is code, of ARM's 32-bit instruction set for mode `a` and else not."""
        flags = np.zeros(len(self.data) // unit_bytes, np.bool_)
        for start, end, kind in self.spans:
            if (kind == "a") == (mode == "a"):
                flags[start // unit_bytes : end // unit_bytes] = True
        return flags


class Value(NamedTuple):
    """What a register holds: a constant (no base), or a base register and an offset, perhaps rounded down."""

    base: int | None
    offset: int
    alignment: int = 1

    def plus(self, amount: int) -> Value | None:
        """Add a constant; None if the value was rounded before."""
        return self._replace(offset=self.offset + amount) if self.alignment == 1 or not amount else None


@dataclass(slots=True, kw_only=True)
class Stream:
    """Instructions as numbers, in the order of their addresses."""

    text: Text
    starts: list[int]
    words: list[int]
    trace_one: Tracer
    frame_pointers: tuple[int, ...]
    traces: int = 0

    def event(self, index: int, kind: Kind, value: int = 0, register: int = STACK_POINTER) -> Event:
        """Make an event of an instruction."""
        return Event(self.starts[index], kind, value, register)

    def go(self, index: int, kind: Kind, offset: int) -> Event:
        """Make a jump or a call; its own bits give the offset, which a relocation overrides."""
        at = self.starts[index]
        return Event(at, kind, target=self.text.target(at, at + offset))

    def grow_by(self, index: int, register: int, sign: int) -> Event:
        """The stack grows by what a register holds, times `sign`."""
        value = self.trace(index, register)
        if value is None or value.base is not None:
            return self.event(index, Kind.DYNAMIC)
        return self.event(index, Kind.GROW, sign * value.offset)

    def set_from(self, index: int, register: int, offset: int = 0, alignment: int = 1) -> Event:
        """The stack pointer comes from a register: the frame pointer, or what was just computed from it."""
        value: Value | None = Value(register, 0)
        if register not in self.frame_pointers:
            value = self.trace(index, register)
        value = value and value.plus(offset)
        if value is None or value.base not in (*self.frame_pointers, STACK_POINTER):
            return self.event(index, Kind.DYNAMIC)
        return Event(self.starts[index], Kind.SET, value.offset, value.base, max(alignment, value.alignment))

    def copy(self, index: int, register: int, offset: int) -> Event:
        """A register becomes the stack pointer and a constant."""
        return self.event(index, Kind.COPY, offset, register)

    def trace(self, index: int, register: int) -> Value | None:
        """Find what a register holds before an instruction, from those just before it; None if they do not tell."""
        value: Value | None = None
        self.traces += 1
        if self.traces > _MAX_TRACES:
            return None
        for place in range(max(0, index - _LOOK_BACK), index):
            if self.starts[place] in self.text.functions:
                value = None
            value = self.trace_one(self, place, register, value)
        return value

    def literal(self, at: int) -> Value | None:
        """Give a constant that lies in the code."""
        if at in self.text.references or not 0 <= at <= len(self.text.data) - 4:
            return None
        return Value(None, int(np.frombuffer(self.text.data, self.text.order + "i4", 1, at)[0]))


def decode(
    text: Text, code: tuple[Integers, Words], rows: Rows, trace: Tracer, frame_pointers: tuple[int, ...]
) -> list[Event]:
    """Hand each instruction to the last row whose mask and value it fits."""
    starts, words = code
    fitting = np.zeros(len(words), np.uint8)
    for number, (mask, value, _) in enumerate(rows, 1):
        fitting[words & np.uint32(mask) == value] = number
    hits = np.flatnonzero(fitting)
    stream = Stream(
        text=text, starts=starts.tolist(), words=words.tolist(), trace_one=trace, frame_pointers=frame_pointers
    )
    events: list[Event] = []
    last_conditional = -1
    for index, number in zip(hits.tolist(), fitting[hits].tolist(), strict=True):
        event = rows[number - 1][2](stream, index, stream.words[index])
        if event is None:
            continue
        if event.kind is Kind.CONDITION:
            last_conditional = index + event.value
            continue
        events.append(event._replace(is_conditional=True) if index <= last_conditional else event)
    return events


def whole_words(text: Text, mode: str, order: str) -> tuple[Integers, Words]:
    """Give instructions of 32 bits and where they are."""
    words = np.frombuffer(text.data, order + "u4").astype(np.uint32)
    places = np.flatnonzero(text.is_code(4, mode=mode))
    return places * 4, words[places]


def starts_of(is_wide: Flags, is_code: Flags) -> Integers:
    """Find where instructions of one or two halves begin.

    After a half that is no first half of two an instruction begins; after a run of halves that look like first halves,
    every second one is, so that the number of those before tells.
    """
    places = np.arange(len(is_wide))
    last_narrow = np.maximum.accumulate(np.where(is_wide & is_code, -1, places))
    before = np.concatenate((np.array([-1]), last_narrow))[:-1]
    return np.flatnonzero(is_code & ((places - before) % 2 == 1))


def signed(value: int, bits: int) -> int:
    """Take the lowest bits of a number for one in two's complement."""
    return (value & (1 << bits) - 1) - ((value >> (bits - 1) & 1) << bits)


def listed_bytes(registers: int) -> int:
    """Give what the registers of a mask take, 4 bytes each."""
    return registers.bit_count() * 4


def shifted(value: Value | None, count: int, *, is_left: bool) -> Value | None:
    """Shift a constant; to the right and back, it rounds down."""
    if value is None:
        return None
    if value.base is None:
        return Value(None, value.offset << count) if is_left else None
    return (
        value
        if is_left and value.alignment == 1 << count
        else None
        if is_left
        else value._replace(alignment=1 << count)
    )
