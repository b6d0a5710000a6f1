"""How much stack the entrypoints of a model need at worst, from its object file alone.

The depth of each function and of its calls comes from the machine code (`mlf.objects.frames`); what is added up here is
the deepest path from an entrypoint down. Not counted is what an interrupt puts on the same stack.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlf.errors import ObjectError
from mlf.objects.abi import object_abi
from mlf.objects.frames import DECODED_MACHINES, EM_ARM, EM_RISCV, EM_X86_64, Call, Function, read_code

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlf.objects.elf import ElfObject

# The System V ABI lets a function that calls none write that far below the stack pointer without moving it.
_RED_ZONE_BYTES = {EM_X86_64: 128}
# What functions outside need, in bytes: the most of each kind that this module found in libgcc 12.2, newlib 3.3 (Cortex-M0,
# M3, M4, M7, M23, M33, M55) and picolibc 1.8 (RV32I, RV32IMAC, RV32IMAFC, RV64IMAC, RV64GC, AArch64) as Debian 12 has them,
# and in glibc 2.36 for the last column. Columns: ARM, RV32, RV64, each with soft and with hard floats; any other machine.
_OTHER = 6
_FLAT = "(?:floor|ceil|trunc|round|fabs|fmax|fmin|copysign|rint|nearbyint|sqrt)"
_EXPONENTIAL = "(?:exp|log|tanh|expm1|log1p|erf)"
_TRIGONOMETRIC = "(?:sin|cos|tan|sincos)"
_ELEMENTARY = (
    "(?:acosh?|asinh?|atan[2h]?|cbrt|cosh|sinh|erfc|exp2|exp10|fdim|fma|fmod|frexp|hypot|ilogb|ldexp|l?lrint|l?lround|log10|log2|logb|"
    "modf|nextafter|pow|remainder|remquo|scalbl?n)"
)
_OPERATION = "(?:add|sub|mul|div|neg|eq|ne|lt|le|gt|ge|unord|cmp)"
_SINGLE_SUPPORT = rf"__aeabi_c?f(?:add|r?sub|mul|div|neg|r?cmp\w+|2u?iz)|__aeabi_u?i2f|__{_OPERATION}sf[23]|__fix(?:uns)?sfsi|__float(?:un)?sisf"
_DOUBLE_SUPPORT = (
    rf"__aeabi_c?d(?:add|r?sub|mul|div|neg|r?cmp\w+|2u?iz)|__aeabi_(?:u?i2d|f2d|d2f)|__{_OPERATION}df[23]|__fix(?:uns)?dfsi|"
    r"__float(?:un)?sidf|__extendsfdf2|__truncdfsf2"
)
_FLOAT_SUPPORT = (  # halves, and integers of 64 bits
    r"__aeabi_[fd]2\w+|__aeabi_u?l2[fd]|__gnu_[fdh]2[fdh]_\w+|"
    r"__(?:fix|fixuns|float|floatun|extend|trunc)(?:[sdbh]f|[sd]i){1,2}2?|__(?:eq|ne)hf2"
)
_INTEGER_SUPPORT = (
    r"__aeabi_u?(?:idiv|idivmod|ldivmod)|__aeabi_(?:lmul|llsl|lasr|llsr|u?lcmp)|"
    r"__(?:div|mod|udiv|umod|divmod|udivmod|mul|ashl|ashr|lshr|clz|ctz|ffs|popcount|parity|bswap|abs|neg|u?cmp|clrsb)[sdt]i[234]?"
)
_TYPICAL: tuple[tuple[re.Pattern[str], tuple[int, ...]], ...] = tuple(
    (re.compile(pattern), sizes)
    for pattern, sizes in (
        (r"mem(?:cpy|set|move|cmp)|__aeabi_mem\w+", (36, 16, 0, 0, 0, 0, 16)),
        (_INTEGER_SUPPORT, (96, 52, 80, 16, 0, 0, 56)),
        (_SINGLE_SUPPORT, (36, 32, 48, 48, 64, 80, 56)),
        (_DOUBLE_SUPPORT, (72, 32, 80, 48, 64, 80, 56)),
        (_FLOAT_SUPPORT, (104, 56, 64, 80, 64, 80, 56)),
        (f"{_FLAT}f", (72, 16, 112, 64, 128, 64, 80)),
        (f"{_EXPONENTIAL}f", (96, 48, 160, 64, 224, 80, 80)),
        (f"{_ELEMENTARY}f", (144, 88, 192, 112, 256, 80, 144)),
        (f"{_TRIGONOMETRIC}f", (568, 504, 624, 560, 800, 704, 640)),
        (_FLAT, (136, 88, 112, 112, 128, 64, 80)),
        (_EXPONENTIAL, (192, 128, 208, 192, 224, 80, 80)),
        (_ELEMENTARY, (264, 176, 224, 192, 256, 80, 144)),
        (_TRIGONOMETRIC, (904, 836, 944, 944, 1040, 928, 880)),
        ("[lt]gammaf?", (256, 192, 288, 256, 320, 208, 704)),
    )
)
_NODE = re.compile(r'^node: \{ title: "([^"]+)" label: "((?:[^"\\]|\\.)*)"', re.MULTILINE)
_FRAME = re.compile(r"\\n(\d+) bytes \((?:static|dynamic,bounded)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class StackUse:
    """The stack that an entrypoint needs at worst, in bytes, from its call on.

    `path` is the deepest chain of calls, from the entrypoint down. `is_bounded` is False where it may need more than
    `size_bytes`, for a reason that `notes` give; other notes say what was assumed.
    """

    entrypoint: str
    size_bytes: int
    is_bounded: bool
    path: tuple[str, ...]
    notes: tuple[str, ...]


def worst_stacks(
    item: ElfObject,
    entrypoints: Sequence[str],
    *,
    frames: Mapping[str, int] | None = None,
    callees: Mapping[str, int] | None = None,
) -> tuple[StackUse, ...]:
    """Give the worst-case stack of each entrypoint of an object.

    `frames` are what a compiler told of the frames of functions, in bytes, for those of which the code does not tell;
    `callees` what functions outside the object need in all. For those of compilers' support libraries and libm that are
    not among them, what they typically need is assumed.

    Raises ObjectError if the object does not define an entrypoint.
    """
    graph = _Graph(item, frames or {}, callees or {})
    return tuple(graph.use(name) for name in entrypoints)


def read_callgraph_info(text: str) -> Mapping[str, int]:
    """Read the sizes of frames, in bytes, from a file that gcc writes with `-fcallgraph-info=su`.

    Names are those of the symbols, without the file before the name of a static function and the `*` before one that the
    source gives in assembler. Functions whose frame has no fixed bound are left out; of several of one name the largest
    counts.
    """
    sizes: dict[str, int] = {}
    for title, label in _NODE.findall(text):
        frame = _FRAME.search(label)
        if frame:
            name = title.rpartition(":")[2].removeprefix("*")
            sizes[name] = max(int(frame[1]), sizes.get(name, 0))
    return sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Note:
    """Why a sum is what it is; `is_bounding` if it is an upper bound all the same."""

    text: str
    is_bounding: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Need:
    """What a function needs with all that it calls, and the callee on the deepest path."""

    size_bytes: int
    callee: int | str | None = None


class _Graph:
    """The functions of an object and their calls; a callee is an index, or the name of a function outside."""

    def __init__(self, item: ElfObject, frames: Mapping[str, int], callees: Mapping[str, int]) -> None:
        self.item = item
        self.frames = frames
        self.callees = callees
        self.column = _column(item)
        code = read_code(item)
        self.pointer = len(code.functions)
        self.functions = (*code.functions, _any_function(code.taken))
        self.is_decoded = item.machine.number in DECODED_MACHINES
        ordered = sorted(
            enumerate(code.functions), key=lambda pair: pair[1].is_global
        )  # of a name, the global one counts
        self.numbers = {name: index for index, one in ordered for name in one.aliases}
        self.calls: dict[int, tuple[Call, ...]] = {}
        self.notes: dict[int, list[_Note]] = {}
        self.needs: dict[int, _Need] = {}

    def use(self, name: str) -> StackUse:
        """Sum up what is below one entrypoint."""
        number = self.numbers.get(name)
        if number is None:
            raise ObjectError(f"defines no function `{name}`", where=self.item.label)
        self._settle(number)
        notes = self._notes_below(number)
        return StackUse(
            entrypoint=name,
            size_bytes=self.needs[number].size_bytes + _RED_ZONE_BYTES.get(self.item.machine.number, 0),
            is_bounded=all(note.is_bounding for note in notes),
            path=(name, *self._path_below(number)),
            notes=tuple(sorted({note.text for note in notes})),
        )

    def _settle(self, root: int) -> None:
        """Find the need of a function and of all below it; a call back up the path is noted and counts nothing."""
        path = {} if root in self.needs else {root: self._open_calls(root)}
        while path:
            number = next(reversed(path))
            call = next(path[number], None)
            if call is None:
                path.pop(number)
                self.needs[number] = self._need(number)
            elif isinstance(call.callee, str) or call.callee in self.needs:
                continue
            elif call.callee not in path:
                path[call.callee] = self._open_calls(call.callee)
            elif not call.is_inward:
                self.notes[number].append(self._recursion(number, call.callee))

    def _open_calls(self, number: int) -> Iterator[Call]:
        """Work out what a function calls, and what is to be noted of it."""
        function = self.functions[number]
        notes = [] if self.is_decoded else [self._unread_note()]
        calls = function.calls
        if function.pointer_depth_bytes is not None:
            calls += (Call(depth_bytes=function.pointer_depth_bytes, callee=self.pointer),)
            notes.append(self._pointer_note(function))
        if self._is_open(function):
            calls = tuple(replace(call, depth_bytes=self._depth(function)) for call in calls)
            notes += [] if self._told(function) is not None else [_frame_note(function)]
        self.calls[number] = calls
        self.notes[number] = notes + [note for call in calls for note in self._outside(call.callee)[1]]
        return iter(calls)

    def _is_open(self, function: Function) -> bool:
        """Tell whether the code leaves the depth of a function open."""
        return function.depth_bytes is None or function.is_dynamic

    def _told(self, function: Function) -> int | None:
        return max((self.frames[name] for name in function.aliases if name in self.frames), default=None)

    def _depth(self, function: Function) -> int:
        told = self._told(function) if self._is_open(function) else None
        return max(function.depth_bytes or 0, told or 0)

    def _need(self, number: int) -> _Need:
        found = _Need(size_bytes=self._depth(self.functions[number]))
        for call in self.calls[number]:
            below = self._need_of(call.callee)
            if below is not None and call.depth_bytes + below > found.size_bytes:
                found = _Need(size_bytes=call.depth_bytes + below, callee=call.callee)
        return found

    def _need_of(self, callee: int | str) -> int | None:
        if isinstance(callee, str):
            return self._outside(callee)[0]
        return self.needs[callee].size_bytes if callee in self.needs else None

    def _outside(self, callee: int | str) -> tuple[int | None, tuple[_Note, ...]]:
        """Give what a function outside the object needs, and what is to be said of it."""
        if isinstance(callee, int):
            return None, ()
        if callee in self.callees:
            return self.callees[callee], ()
        size = _typical_need(callee, self.column)
        if size is None:
            return None, (_Note(text=f"the stack that `{callee}` needs is not known"),)
        return size, (_Note(text=f"`{callee}` is assumed to need {size} bytes", is_bounding=True),)

    def _pointer_note(self, function: Function) -> _Note:
        calls = f"`{function.name}` calls through a pointer"
        if not self.functions[self.pointer].calls:
            return _Note(text=f"{calls}, and the object takes no function's address")
        return _Note(text=f"{calls}: any function whose address the object takes is assumed", is_bounding=True)

    def _unread_note(self) -> _Note:
        return _Note(text=f"{self.item.machine.name} instructions are not read, so calls through pointers are not seen")

    def _recursion(self, number: int, callee: int) -> _Note:
        if self.pointer in (number, callee):
            name = self.functions[min(number, callee)].name
            return _Note(text=f"`{name}` may call itself through a pointer")
        name, other = self.functions[number].name, self.functions[callee].name
        return _Note(
            text=f"`{name}` calls itself" if number == callee else f"`{name}` calls `{other}`, which is its caller"
        )

    def _path_below(self, number: int) -> Iterator[str]:
        callee = self.needs[number].callee
        while isinstance(callee, int):
            if callee != self.pointer:
                yield self.functions[callee].name
            callee = self.needs[callee].callee
        if callee is not None:
            yield callee

    def _notes_below(self, root: int) -> set[_Note]:
        seen, left, notes = {root}, [root], set()
        while left:
            number = left.pop()
            notes.update(self.notes[number])
            below = {call.callee for call in self.calls[number] if isinstance(call.callee, int)} - seen
            seen |= below
            left += below
        return notes


def _any_function(pointed: Sequence[int | str]) -> Function:
    """Stand for the callee of a call through a pointer, which is any function whose address the object takes."""
    calls = tuple(Call(depth_bytes=0, callee=callee) for callee in pointed)
    return Function(
        name="",
        aliases=frozenset(),
        is_global=False,
        depth_bytes=0,
        is_dynamic=False,
        calls=calls,
        pointer_depth_bytes=None,
    )


def _frame_note(function: Function) -> _Note:
    if function.is_dynamic:
        return _Note(text=f"only a run knows how much memory `{function.name}` takes from the stack")
    return _Note(text=f"the frame of `{function.name}` is not known")


def _typical_need(name: str, column: int) -> int | None:
    """Give what a function of libgcc or of a C library typically needs; None if it is of no known kind."""
    return next((sizes[column] for pattern, sizes in _TYPICAL if pattern.fullmatch(name)), None)


def _column(item: ElfObject) -> int:
    """Choose the column of the table by instruction set and by whether floats are passed in their own registers."""
    is_soft = object_abi(item)[1] in (None, "soft")
    first = {EM_ARM: 0, EM_RISCV: 4 if item.machine.is_64 else 2}.get(item.machine.number)
    return _OTHER if first is None else first + (not is_soft)
