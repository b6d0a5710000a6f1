"""The functions of an object: how deep each one's stack is, and which functions it calls at which depth.

Read from the machine code alone. The stack pointer is followed along every path through a function from its first
instruction, so that calls after an epilogue, in last place, count with what is still on the stack.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from mlf.objects import elf, isa_aarch64, isa_arm, isa_riscv, isa_x86
from mlf.objects.instructions import STACK_POINTER, Event, Kind, Reference, Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mlf.objects.elf import ElfObject, Section

EM_ARM, EM_X86_64, EM_AARCH64, EM_RISCV = 40, 62, 183, 243
_DECODERS: Mapping[int, Callable[[Text], list[Event]]] = {
    EM_ARM: isa_arm.find_events,
    EM_X86_64: isa_x86.find_events,
    EM_AARCH64: isa_aarch64.find_events,
    EM_RISCV: isa_riscv.find_events,
}
DECODED_MACHINES = frozenset(_DECODERS)
_STT_FUNC = 2
# To what the procedure call standards align the stack pointer where a function begins.
_ENTRY_ALIGNMENT = {EM_ARM: 8, EM_X86_64: 16, EM_AARCH64: 16, EM_RISCV: 16}
_ENTRY_BYTES = {EM_X86_64: 8}  # the return address, which the caller pushes
_SECTION_ALIGNMENT = 16  # of sections laid out here
_SECTION_GAP = 32  # zeros after each, so that an instruction that is cut off reads no other section
_TABLES = (".eh_frame", ".ARM.exidx", ".ARM.extab", ".gcc_except_table")  # of the unwinder
# Relocations that say where another relocation is, or how far two labels are apart.
_RISCV_NO_ADDRESS = frozenset((24, 25, *range(33, 41), 43, *range(51, 57)))  # PCREL_LO12, ADD, SUB, ALIGN, RELAX, SET
_ARM_WORDS = frozenset((2, 38))  # ABS32, TARGET1
_X86_PC_BIAS = 4  # addends count from behind a displacement of 4 bytes
_X86_PC_TYPES = frozenset((2, 4, 9, 41, 42))  # PC32, PLT32, GOTPCREL, GOTPCRELX, REX_GOTPCRELX
_ENDS = frozenset((Kind.JUMP, Kind.JUMP_POINTER, Kind.RETURN))
# The stack pointer goes down in a loop if an instruction is met with a greater depth again and again.
_MAX_VISITS = 8
_UNNAMED = "code without a symbol"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call: the depth of the stack at it, and the index of a function of the object or the name of another.

    `is_inward` marks a jump into the middle of the callee, which may lead back: gcc sets the unlikely part of a function
    apart as one of its own.
    """

    depth_bytes: int
    callee: int | str
    is_inward: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function of an object; sizes are in bytes.

    `is_global` says that other objects can name it. `depth_bytes` is the deepest that the stack is in it, with the return
    address where calling pushes one; None where the instructions cannot be read. `pointer_depth_bytes` is the deepest at
    which it calls through a pointer, None if it does not. `is_dynamic` says that it takes memory from the stack whose size
    only a run knows.
    """

    name: str
    aliases: frozenset[str]
    is_global: bool
    depth_bytes: int | None
    is_dynamic: bool
    calls: tuple[Call, ...]
    pointer_depth_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """The functions of an object, and those whose address it takes: indices, and names of undefined symbols."""

    functions: tuple[Function, ...]
    taken: tuple[int | str, ...]


@dataclass(slots=True, kw_only=True)
class _Span:
    """A function's place in the text."""

    name: str
    start: int
    end: int
    aliases: set[str] = field(default_factory=set)
    is_global: bool = False
    runs_on: bool = False  # into the function that begins at its end


def read_code(item: ElfObject) -> Code:
    """Read the functions of an object; for a machine that is not known, every reference to a function counts as a call."""
    return _Reader(item).read()


class _Reader:
    """Lays the executable sections out one after another, decodes them, and cuts the result into functions."""

    def __init__(self, item: ElfObject) -> None:
        self.item = item
        self.bases: dict[int, int] = {}  # section -> address
        self.data = self._lay_out()
        self.symbol_addresses = self._place_symbols()
        self.spans = self._find_functions()
        self.starts = [span.start for span in self.spans]
        self.is_undefined = (item.symbols.section == 0).tolist()
        self.references: dict[int, Reference] = {}
        self.addresses: list[Reference] = []  # in data
        self._read_relocations()

    def read(self) -> Code:
        machine = self.item.machine
        decoder = _DECODERS.get(machine.number)
        text = Text(
            is_64=machine.is_64, order=machine.order, data=self.data, spans=self._code_spans(), functions=frozenset(self.starts), references=self.references,
            has_zcmp=any(s.name == ".riscv.attributes" and b"_zcmp" in bytes(s.data) for s in self.item.sections),
        )  # fmt: skip
        events = decoder(text) if decoder else []
        places = [event.at for event in events]
        functions = []
        for span in self.spans:
            if decoder is None:
                functions.append(self._unread(span))
                continue
            own = events[bisect_left(places, span.start) : bisect_left(places, span.end)]
            functions.append(self._walked(span, own))
        return Code(functions=tuple(functions), taken=self._taken(text.followed if decoder else set(self.references)))

    def _lay_out(self) -> bytes:
        parts: list[bytes | memoryview] = []
        position = 0
        for index, section in enumerate(self.item.sections):
            if section.flags & elf.SHF_EXECINSTR and section.flags & elf.SHF_ALLOC and section.data:
                self.bases[index] = position
                padding = -len(section.data) % _SECTION_ALIGNMENT + _SECTION_GAP
                parts += [section.data, bytes(padding)]
                position += len(section.data) + padding
        return b"".join(parts)

    def _place_symbols(self) -> list[int | None]:
        """Give the address of each symbol that lies in code."""
        symbols = self.item.symbols
        is_arm = self.item.machine.number == EM_ARM
        placed: list[int | None] = []
        for section, value, info in zip(
            symbols.section.tolist(), symbols.value.tolist(), symbols.info.tolist(), strict=True
        ):
            base = self.bases.get(section)
            if base is None or value > len(self.item.sections[section].data):
                placed.append(None)
                continue
            is_thumb = is_arm and info & 15 == _STT_FUNC and value & 1
            placed.append(base + value - is_thumb)
        return placed

    def _find_functions(self) -> list[_Span]:
        """Find functions by their symbols; one that begins inside another ends that, which then runs into it."""
        symbols = self.item.symbols
        kinds = symbols.info & 15
        found: dict[int, _Span] = {}
        for symbol in np.flatnonzero((kinds == _STT_FUNC) & (symbols.section > 0)).tolist():
            start = self.symbol_addresses[symbol]
            if start is None:
                continue
            section = int(symbols.section[symbol])
            limit = self.bases[section] + len(self.item.sections[section].data)
            size = int(symbols.size[symbol])
            span = found.setdefault(start, _Span(name=symbols.names[symbol], start=start, end=start))
            span.end = max(span.end, min(start + size if size else limit, limit))
            span.aliases.add(symbols.names[symbol])
            if symbol >= symbols.local_count:
                span.name, span.is_global = symbols.names[symbol], True
        spans = sorted(found.values(), key=lambda span: span.start)
        for span, following in pairwise(spans):
            span.runs_on = span.end > following.start
            span.end = min(span.end, following.start)
        return spans

    def _code_spans(self) -> list[tuple[int, int, str]]:
        """Cut sections where mapping symbols (`$t`, `$d.3`) say that another instruction set or data begins."""
        marks = dict.fromkeys(self.bases.values(), "t")
        ends = [base + len(self.item.sections[section].data) for section, base in self.bases.items()]
        for symbol, name in enumerate(self.item.symbols.names):
            if name.startswith("$") and name[1:2] in ("a", "d", "t", "x"):
                address = self.symbol_addresses[symbol]
                if address is not None:
                    marks[address] = name[1]
        places = sorted({*marks, *ends})
        modes = [(start, end, marks.get(start, "d")) for start, end in pairwise(places)]
        return [(start, end, mode) for start, end, mode in modes if mode != "d"]

    def _read_relocations(self) -> None:
        sections = self.item.sections
        for section in sections:
            if section.type not in (elf.SHT_REL, elf.SHT_RELA) or not 0 < section.info < len(sections):
                continue
            target = sections[section.info]
            if section.info in self.bases:
                base = self.bases[section.info]
                self.references.update((base + at, found) for at, found in self._references(section, target))
            elif target.flags & elf.SHF_ALLOC and not target.name.startswith(_TABLES):
                self.addresses += [found for _, found in self._references(section, target)]

    def _references(self, section: Section, target: Section) -> Iterator[tuple[int, Reference]]:
        machine, symbols = self.item.machine, self.item.symbols
        entries = self.item.relocations(section)
        has_addends = section.type == elf.SHT_RELA
        addends = entries["addend"].tolist() if has_addends else [None] * len(entries)
        kinds = (entries["info"] & ((1 << machine.symbol_shift) - 1)).tolist()
        numbers = (entries["info"] >> machine.symbol_shift).tolist()
        for at, number, kind, addend in zip(entries["offset"].tolist(), numbers, kinds, addends, strict=True):
            if not 0 < number < len(symbols) or (machine.number == EM_RISCV and kind in _RISCV_NO_ADDRESS):
                continue
            address = self.symbol_addresses[number]
            if self.is_undefined[number]:
                yield at, Reference(symbols.names[number], addend, kind)
            elif address is not None:
                yield at, Reference(address, self._addend(target, at, kind, addend), kind)

    def _addend(self, target: Section, at: int, kind: int, addend: int | None) -> int | None:
        """Give what a relocation adds, made relative to where instructions count from."""
        machine = self.item.machine
        if addend is not None:
            return addend + (_X86_PC_BIAS if machine.number == EM_X86_64 and kind in _X86_PC_TYPES else 0)
        if machine.number == EM_ARM and kind not in _ARM_WORDS:
            return None
        data = bytes(target.data[at : at + 4])
        return int.from_bytes(data, "little" if machine.order == "<" else "big") & ~(machine.number == EM_ARM)

    def _taken(self, followed: set[int]) -> tuple[int | str, ...]:
        """List the functions that something else than a call refers to."""
        others = [reference for at, reference in self.references.items() if at not in followed]
        found: set[int | str] = set()
        for reference in (*others, *self.addresses):
            target = reference.target
            if isinstance(target, str):
                found.add(target)
                continue
            index = bisect_left(self.starts, target + (reference.addend or 0))
            if index < len(self.starts) and self.starts[index] == target + (reference.addend or 0):
                found.add(index)
        return tuple(sorted(found, key=lambda place: (isinstance(place, str), place)))

    def _function_at(self, address: int) -> int | None:
        """Give the function that an address lies in."""
        index = bisect_right(self.starts, address) - 1
        return index if index >= 0 and address < max(self.spans[index].end, self.starts[index] + 1) else None

    def _walked(self, span: _Span, events: Sequence[Event]) -> Function:
        number = self.item.machine.number
        walk = _Walk(events, span, entry_bytes=_ENTRY_BYTES.get(number, 0), entry_alignment=_ENTRY_ALIGNMENT[number])
        walk.run()
        return Function(
            name=span.name, aliases=frozenset(span.aliases), is_global=span.is_global, depth_bytes=walk.deepest, is_dynamic=walk.is_dynamic,
            calls=self._calls(walk), pointer_depth_bytes=walk.pointer_depth,
        )  # fmt: skip

    def _calls(self, walk: _Walk) -> tuple[Call, ...]:
        """Give whom a function calls, at the greatest depth each."""
        deepest: dict[tuple[int | str, bool], int] = {}
        for target, depth in walk.leaving.items():
            callee = target if isinstance(target, str) else self._function_at(target)
            key = (
                _UNNAMED if callee is None else callee,
                self._is_inward(target, callee) and target not in walk.called,
            )
            deepest[key] = max(depth, deepest.get(key, 0))
        ordered = sorted(deepest, key=lambda key: (isinstance(key[0], str), key))
        return tuple(Call(depth_bytes=deepest[key], callee=key[0], is_inward=key[1]) for key in ordered)

    def _is_inward(self, target: int | str, callee: int | str | None) -> bool:
        return isinstance(callee, int) and target != self.starts[callee]

    def _unread(self, span: _Span) -> Function:
        callees: set[int | str] = set()
        for at in range(span.start, span.end):
            reference = self.references.get(at)
            if reference is None:
                continue
            index = reference.target if isinstance(reference.target, str) else self._function_at(reference.target)
            if index is not None:
                callees.add(index)
        ordered = sorted(callees, key=lambda place: (isinstance(place, str), place))
        return Function(
            name=span.name, aliases=frozenset(span.aliases), is_global=span.is_global, depth_bytes=None, is_dynamic=False, pointer_depth_bytes=None,
            calls=tuple(Call(depth_bytes=0, callee=callee) for callee in ordered),
        )  # fmt: skip


class _Walk:
    """Follows the stack pointer through a function; depths are bytes below where it was before the call."""

    def __init__(self, events: Sequence[Event], span: _Span, *, entry_bytes: int, entry_alignment: int) -> None:
        self.events = events
        self.places = [event.at for event in events]
        self.span = span
        self.entry_bytes = entry_bytes
        self.entry_alignment = entry_alignment
        self.deepest = entry_bytes
        self.is_dynamic = False
        self.pointer_depth: int | None = None
        self.leaving: dict[int | str, int] = {}  # targets outside, with the greatest depth
        self.called: set[int | str] = set()  # those of them that return here
        self.reached = [-1] * len(events)  # the depth at each event
        self.visits = [0] * len(events)
        self.registers: dict[int, int] = {}  # the depth of the address that each holds
        self.jump_depth: int | None = None  # at a jump through a pointer
        self.pending = [(0, entry_bytes)]

    def run(self) -> None:
        """Follow every path; a jump through a pointer is a table if code is left that nothing else leads to."""
        self._follow_all()
        if self.jump_depth is not None and -1 not in self.reached:
            self.pointer_depth = max(self.jump_depth, self.pointer_depth or 0)
        for index in range(len(self.events)):
            if self.reached[index] < 0:
                self.pending.append((index, self.deepest if self.jump_depth is None else self.jump_depth))
                self._follow_all()

    def _follow_all(self) -> None:
        while self.pending:
            self._follow(*self.pending.pop())

    def _follow(self, index: int, depth: int) -> None:
        while index < len(self.events):
            if depth <= self.reached[index]:
                return
            if self.visits[index] == _MAX_VISITS:
                self.is_dynamic = True
                return
            self.visits[index] += 1
            self.reached[index] = depth
            event = self.events[index]
            self.deepest = max(self.deepest, depth + event.peak)
            depth = self._moved(event, depth)
            self.deepest = max(self.deepest, depth)
            self._note_target(event, depth)
            if event.kind in _ENDS and not event.is_conditional:
                return
            index += 1
        if self.span.runs_on:
            self._leave(self.span.end, depth)

    def _moved(self, event: Event, depth: int) -> int:
        """Give the depth after an instruction."""
        if event.kind is Kind.GROW:
            is_undone = event.is_conditional and event.value < 0  # before a return on the same condition
            return depth if is_undone else max(depth + event.value, self.entry_bytes)
        if event.kind is Kind.COPY:
            self.registers[event.register] = depth - event.value
        elif event.kind is Kind.SET:
            base = depth if event.register == STACK_POINTER else self.registers.get(event.register)
            if base is not None:
                return self._aligned(max(base - event.value, self.entry_bytes), event.alignment)
            self.is_dynamic = True
        elif event.kind is Kind.DYNAMIC:
            self.is_dynamic = True
        return depth

    def _aligned(self, depth: int, alignment: int) -> int:
        """Add the most that rounding the stack pointer down can take, given how it was aligned at the entry."""
        known = min(self.entry_alignment, alignment)
        return depth + alignment - known + -depth % known

    def _note_target(self, event: Event, depth: int) -> None:
        if event.kind is Kind.CALL:
            self._leave(event.target, depth)
            self.called.add(event.target)
        elif event.kind in (Kind.BRANCH, Kind.JUMP):
            if isinstance(event.target, int) and self.span.start <= event.target < self.span.end:
                self.pending.append((bisect_left(self.places, event.target), depth))
            else:
                self._leave(event.target, depth)
        elif event.kind is Kind.CALL_POINTER:
            self.pointer_depth = max(depth, self.pointer_depth or 0)
        elif event.kind is Kind.JUMP_POINTER:
            self.jump_depth = max(depth, self.jump_depth or 0)

    def _leave(self, target: int | str, depth: int) -> None:
        self.leaving[target] = max(depth, self.leaving.get(target, 0))
