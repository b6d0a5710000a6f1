"""AArch64: the Arm Architecture Reference Manual for Armv8-A."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlf.objects.instructions import STACK_POINTER, Event, Kind, Stream, Value, decode, signed, whole_words

if TYPE_CHECKING:
    from mlf.objects.instructions import Rows, Text

_FRAME_POINTERS = (29,)
_CALLER_SAVED = 19  # registers below


def find_events(text: Text) -> list[Event]:
    """Find the instructions that matter, in the order of their addresses."""
    return decode(text, whole_words(text, "", "<"), _A64, _trace_a64, _FRAME_POINTERS)


def _a64_single(s: Stream, index: int, word: int) -> Event:
    return s.event(index, Kind.GROW, -signed(word >> 12, 9))


def _a64_pair(s: Stream, index: int, word: int) -> Event:
    size = 4 << (word >> 30) if word & 1 << 26 else 4 << (word >> 31)
    return s.event(index, Kind.GROW, -signed(word >> 15, 7) * size)


def _a64_arithmetic(s: Stream, index: int, word: int) -> Event:
    target, source = word & 31, word >> 5 & 31
    amount = _a64_immediate(word)
    if target != 31:
        return s.copy(index, target, amount)
    return s.event(index, Kind.GROW, -amount) if source == 31 else s.set_from(index, source, amount)


def _a64_immediate(word: int) -> int:
    amount = (word >> 10 & 0xFFF) << (12 if word & 1 << 22 else 0)
    return -amount if word & 1 << 30 else amount


def _a64_arithmetic_register(s: Stream, index: int, word: int) -> Event:
    if word >> 5 & 31 != 31 or word >> 10 & 7:
        return s.event(index, Kind.DYNAMIC)
    return s.grow_by(index, word >> 16 & 31, 1 if word & 1 << 30 else -1)


def _a64_align(s: Stream, index: int, word: int) -> Event:
    mask = _a64_bits(word)
    alignment = -mask & mask
    if mask + alignment != 1 << 64:
        return s.event(index, Kind.DYNAMIC)
    source = word >> 5 & 31
    if source == 31:
        return Event(s.starts[index], Kind.SET, alignment=alignment)
    return s.set_from(index, source, alignment=alignment)


def _a64_bits(word: int) -> int:
    """Give the constant of a logical instruction: a rotated run of ones, repeated over 64 bits."""
    ones, turn, is_long = word >> 10 & 63, word >> 16 & 63, word >> 22 & 1
    size = 1 << max((is_long << 6 | ~ones & 63).bit_length() - 1, 1)
    run = (1 << (ones & size - 1) + 1) - 1
    turn &= size - 1
    element = (run >> turn | run << (size - turn)) & (1 << size) - 1
    return sum(element << shift for shift in range(0, 64, size))


def _a64_register_branch(s: Stream, index: int, word: int) -> Event | None:
    kind = {0: Kind.JUMP_POINTER, 1: Kind.CALL_POINTER, 2: Kind.RETURN}.get(word >> 21 & 7)
    return s.event(index, kind) if kind else None


_A64: Rows = (
    (0x3A8003E0, 0x288003E0, _a64_pair),  # STP and LDP that write SP back
    (0x3B2007E0, 0x380007E0, _a64_single),  # STR and LDR that write SP back
    (0xBF8003E0, 0x910003E0, _a64_arithmetic),  # ADD and SUB from SP
    (0xBF80001F, 0x9100001F, _a64_arithmetic),  # ADD and SUB to SP
    (0xBFE0001F, 0x8B20001F, _a64_arithmetic_register),
    (0xFF80001F, 0x9200001F, _a64_align),  # AND SP
    (0xFFA0F81F, 0x0420501F, lambda s, i, _: s.event(i, Kind.DYNAMIC)),  # ADDVL, ADDPL: vectors of unknown length
    (0xFC000000, 0x14000000, lambda s, i, w: s.go(i, Kind.JUMP, 4 * signed(w, 26))),  # B
    (0xFC000000, 0x94000000, lambda s, i, w: s.go(i, Kind.CALL, 4 * signed(w, 26))),  # BL
    (0xFF000000, 0x54000000, lambda s, i, w: s.go(i, Kind.BRANCH, 4 * signed(w >> 5, 19))),  # B.cond
    (0x7E000000, 0x34000000, lambda s, i, w: s.go(i, Kind.BRANCH, 4 * signed(w >> 5, 19))),  # CBZ, CBNZ
    (0x7E000000, 0x36000000, lambda s, i, w: s.go(i, Kind.BRANCH, 4 * signed(w >> 5, 14))),  # TBZ, TBNZ
    (0xFE1FF000, 0xD61F0000, _a64_register_branch),
    (0xFFE0001F, 0xD4200000, lambda s, i, _: s.event(i, Kind.RETURN)),  # BRK
)


def _trace_a64(s: Stream, place: int, register: int, value: Value | None) -> Value | None:
    word = s.words[place]
    if word >> 26 == 0x25:  # BL
        return None if register < _CALLER_SAVED else value
    if word & 31 != register:
        return value
    half, shift = word >> 5 & 0xFFFF, word >> 17 & 0x30
    if word & 0x7F800000 == 0x52800000:  # MOVZ
        return Value(None, half << shift)
    if word & 0x7F800000 == 0x12800000:  # MOVN
        return Value(None, ~(half << shift))
    if word & 0x7F800000 == 0x72800000 and value and value.base is None:  # MOVK
        return Value(None, value.offset & ~(0xFFFF << shift) | half << shift)
    if word & 0x7F8003E0 == 0x320003E0:  # ORR with the zero register
        return Value(None, _a64_bits(word))
    if word & 0xBF800000 == 0x91000000:  # ADD, SUB
        source = word >> 5 & 31
        start = value if source == register else Value(STACK_POINTER if source == 31 else source, 0)
        return start and start.plus(_a64_immediate(word))
    return None
