"""x86-64: volume 2 of the Intel 64 and IA-32 Architectures Software Developer's Manual, appendix A (opcode maps)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mlf.objects.instructions import STACK_POINTER, Event, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlf.objects.instructions import Text

_RSP, _RBP = 4, 5
# What compilers keep the stack pointer in: the frame pointer, and two for frames that are aligned to more than 16 bytes.
_FRAME_POINTERS = (_RBP, 10, 13)
_PREFIXES = frozenset(b"\x66\xf2\xf3\xf0\x2e\x36\x3e\x26\x64\x65\x67")
_LONGEST = 15  # bytes of an instruction


def _set(text: str) -> frozenset[int]:
    """Read ranges such as `00-03 84`."""
    ranges = [part.partition("-") for part in text.split()]
    return frozenset(n for low, _, high in ranges for n in range(int(low, 16), int(high or low, 16) + 1))


_MODRM = _set(
    "00-03 08-0b 10-13 18-1b 20-23 28-2b 30-33 38-3b 63 69 6b 80 81 83-8f c0 c1 c6 c7 d0-d3 d8-df f6 f7 fe ff"
)
_BYTE = _set("04 0c 14 1c 24 2c 34 3c 6a 6b 70-7f 80 83 a8 b0-b7 c0 c1 c6 cd e0-e7 eb")
_WORD = _set("05 0d 15 1d 25 2d 35 3d 68 69 81 a9 c7 b8-bf")  # 4 bytes, or 2 after a prefix 66
_LONG = _set("e8 e9")
_NO_MODRM_0F = _set("05-09 0b 0e 30-37 77 80-8f a0-a2 a8-aa c8-cf")
_BYTE_0F = _set("70-73 a4 ac ba c2 c4-c6")


_FLOW = _set("70-7f e0-e3 e8 e9 eb 0f80-0f8f")
_STOPS = _set("c2 c3 cc f4 0f0b")  # RET, INT3, HLT, UD2
_MEANINGFUL = _FLOW | _STOPS | _set("01 03 29 2b 50-5f 68 6a 81 83 89 8b 8d c9 ff")


class _Instruction(NamedTuple):
    """An instruction taken apart: `opcode` has its map above 8 bits, `modrm` is -1 where there is none."""

    start: int
    end: int
    opcode: int
    rex: int
    modrm: int
    body: int  # where the bytes after the opcode begin

    @property
    def register(self) -> int:
        return (self.modrm >> 3 & 7) + (self.rex << 1 & 8)

    @property
    def other(self) -> int:
        """The register that the lower bits of ModRM name."""
        return (self.modrm & 7) + (self.rex << 3 & 8)


def find_events(text: Text) -> list[Event]:
    """Find the instructions that matter, in the order of their addresses."""
    return [
        event for start, end, _ in text.spans for one in _instructions(text, start, end) for event in _event(text, one)
    ]


def _instructions(text: Text, start: int, end: int) -> Iterator[_Instruction]:
    """Take instructions apart one after another; a function begins where its symbol says, whatever lies before it."""
    at = start
    while at < end:
        one = _instruction(text.data, at)
        if one.opcode in _MEANINGFUL:
            yield one
        at = one.end
        if not text.functions.isdisjoint(range(one.start + 1, at)):
            at = min(place for place in range(one.start + 1, at) if place in text.functions)


def _instruction(data: bytes, start: int) -> _Instruction:
    at = start
    while data[at] in _PREFIXES and at - start < _LONGEST:
        at += 1
    is_short = 0x66 in data[start:at]
    rex = data[at] if data[at] & 0xF0 == 0x40 else 0
    at += rex != 0
    opcode, at = _opcode(data, at)
    body = at
    modrm = -1
    if _has_modrm(opcode):
        modrm = data[at]
        at += _modrm_bytes(modrm, data[at + 1])
    at += _immediate_bytes(opcode, modrm, rex, is_short=is_short)
    return _Instruction(start, at, opcode, rex, modrm, body)


def _opcode(data: bytes, at: int) -> tuple[int, int]:
    """Give the opcode with its map (0, 0f, 38, 3a, or 10 and more for vector encodings), and where it ends."""
    first = data[at]
    if first == 0x0F:
        second = data[at + 1]
        if second in (0x38, 0x3A):
            return second << 8 | data[at + 2], at + 3
        return 0x0F00 | second, at + 2
    if first == 0xC5:
        return 0x1100 | data[at + 2], at + 3
    if first == 0xC4:
        return 0x1000 + ((data[at + 1] & 31) << 8) | data[at + 3], at + 4
    if first == 0x62:
        return 0x1000 + ((data[at + 1] & 7) << 8) | data[at + 4], at + 5
    return first, at + 1


def _has_modrm(opcode: int) -> bool:
    if opcode < 0x100:
        return opcode in _MODRM
    if opcode >> 8 == 0x0F:
        return opcode & 0xFF not in _NO_MODRM_0F
    return opcode != 0x1177  # VZEROUPPER


def _modrm_bytes(modrm: int, following: int) -> int:
    """Give the bytes of ModRM, SIB and displacement."""
    mode, base = modrm >> 6, modrm & 7
    if mode == 3:
        return 1
    size = 1
    if base == 4:
        size, base = 2, following & 7
    return size + (4 if mode == 2 or (mode == 0 and base == 5) else mode)


def _immediate_bytes(opcode: int, modrm: int, rex: int, *, is_short: bool) -> int:
    group, low = opcode >> 8, opcode & 0xFF
    if group == 0x0F:
        return 4 if 0x80 <= low <= 0x8F else int(low in _BYTE_0F)
    if group:
        return int(group in (0x3A, 0x13) or (group == 0x11 and low in _BYTE_0F))
    if low in (0xF6, 0xF7):  # TEST alone of these has one
        return 0 if modrm & 0x30 else 1 if low == 0xF6 else 2 if is_short else 4
    if low in _BYTE or low in _LONG:
        return 1 if low in _BYTE else 4
    if low in _WORD:
        return 8 if rex & 8 and low >= 0xB8 and low < 0xC0 else 2 if is_short and not rex & 8 else 4
    return {0xC2: 2, 0xCA: 2, 0xC8: 3, 0xA0: 8, 0xA1: 8, 0xA2: 8, 0xA3: 8}.get(low, 0)


def _event(text: Text, one: _Instruction) -> Iterator[Event]:
    at, opcode = one.start, one.opcode
    if 0x50 <= opcode < 0x60:
        yield Event(at, Kind.GROW, 8 if opcode < 0x58 else -8)
    elif opcode in (0x68, 0x6A):
        yield Event(at, Kind.GROW, 8)
    elif opcode in _FLOW:
        yield from _flow(text, one)
    elif opcode in _STOPS:
        yield Event(at, Kind.RETURN)
    elif opcode == 0xC9:  # LEAVE
        yield Event(at, Kind.SET, 8, _RBP)
    elif opcode == 0xFF:
        yield from _indirect(text, one)
    elif opcode in (0x81, 0x83) and one.modrm >> 6 == 3 and one.other == _RSP:
        yield from _arithmetic(text, one)
    elif opcode in (0x01, 0x03, 0x29, 0x2B, 0x89, 0x8B) and one.modrm >> 6 == 3:
        yield from _register(one)
    elif opcode == 0x8D and one.modrm >> 6 != 3:
        yield from _address(text, one)


def _flow(text: Text, one: _Instruction) -> Iterator[Event]:
    size = one.end - one.body
    decoded = one.end + int.from_bytes(text.data[one.body : one.end], "little", signed=True)
    kind = Kind.CALL if one.opcode == 0xE8 else Kind.JUMP if one.opcode in (0xE9, 0xEB) else Kind.BRANCH
    target = text.target(one.start, decoded, one.body) if size == 4 else decoded
    yield Event(one.start, kind, target=target)


def _indirect(text: Text, one: _Instruction) -> Iterator[Event]:
    operation = one.modrm >> 3 & 7
    if operation == 6:  # PUSH
        yield Event(one.start, Kind.GROW, 8)
    if operation not in (2, 4):
        return
    place = one.body + 1
    if one.modrm & 0xC7 == 5 and place in text.references:  # through the global offset table
        kind = Kind.CALL if operation == 2 else Kind.JUMP
        target = text.target(one.start, 0, place)
        if isinstance(target, str) or target in text.functions:
            yield Event(one.start, kind, target=target)
            return
    yield Event(one.start, Kind.CALL_POINTER if operation == 2 else Kind.JUMP_POINTER)


def _arithmetic(text: Text, one: _Instruction) -> Iterator[Event]:
    amount = int.from_bytes(text.data[one.body + 1 : one.end], "little", signed=True)
    operation = one.modrm >> 3 & 7
    if operation in (0, 5):  # ADD, SUB
        yield Event(one.start, Kind.GROW, amount if operation else -amount)
    elif operation == 4 and amount < 0 and not -amount & -amount - 1:  # AND
        yield Event(one.start, Kind.SET, alignment=-amount)
    elif operation in (1, 4, 6):
        yield Event(one.start, Kind.DYNAMIC)


def _register(one: _Instruction) -> Iterator[Event]:
    """ADD, SUB and MOV between registers."""
    source, target = one.register, one.other
    if one.opcode & 2:
        source, target = target, source
    is_move = one.opcode in (0x89, 0x8B)
    if target == _RSP:
        is_known = is_move and source in _FRAME_POINTERS
        yield Event(one.start, Kind.SET, 0, source) if is_known else Event(one.start, Kind.DYNAMIC)
    elif source == _RSP and is_move:
        yield Event(one.start, Kind.COPY, 0, target)


def _address(text: Text, one: _Instruction) -> Iterator[Event]:
    """LEA between the stack pointer and other registers."""
    mode, base, has_sib = one.modrm >> 6, one.other, one.modrm & 7 == 4
    if has_sib:
        sib = text.data[one.body + 1]
        base = (sib & 7) + (one.rex << 3 & 8)
        has_index = sib >> 3 & 7 != 4 or bool(one.rex & 2)
        if has_index or (mode == 0 and sib & 7 == 5):
            base = -2
    offset = int.from_bytes(text.data[one.body + 1 + has_sib : one.end], "little", signed=True) if mode else 0
    if one.register == _RSP:
        is_known = base in (*_FRAME_POINTERS, _RSP)
        known = Event(one.start, Kind.SET, offset, STACK_POINTER if base == _RSP else base)
        yield known if is_known else Event(one.start, Kind.DYNAMIC)
    elif base == _RSP:
        yield Event(one.start, Kind.COPY, offset, one.register)
