"""Thumb and ARM: the Arm Architecture Reference Manuals for Armv8-M and Armv7-A."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlf.objects.instructions import (
    STACK_POINTER,
    Event,
    Kind,
    Stream,
    Value,
    decode,
    listed_bytes,
    shifted,
    signed,
    starts_of,
    whole_words,
)

if TYPE_CHECKING:
    from mlf.objects.instructions import Handler, Integers, Rows, Text, Words

_FRAME_POINTERS = (7, 11)
_CALLER_SAVED = (0, 1, 2, 3, 12, 14)


def find_events(text: Text) -> list[Event]:
    """Find the instructions that matter, in the order of their addresses."""
    found = decode(text, _thumb_words(text), _THUMB, _trace_thumb, _FRAME_POINTERS)
    if any(mode == "a" for _, _, mode in text.spans):
        words = whole_words(text, "a", text.order)
        found = sorted(found + decode(text, words, _A32, _trace_a32, _FRAME_POINTERS), key=lambda event: event.at)
    return found


def _thumb_words(text: Text) -> tuple[Integers, Words]:
    """Give Thumb instructions, the first half in the upper 16 bits."""
    halves = np.frombuffer(text.data, text.order + "u2").astype(np.uint32)
    is_wide = (halves >= 0xE800) & (halves < 0x10000)
    places = starts_of(is_wide, text.is_code(2, mode=""))
    following = np.append(halves, np.uint32(0))[places + 1]
    words = halves[places] << 16 | np.where(is_wide[places], following, 0)
    return places * 2, words.astype(np.uint32)


def _thumb_pop(s: Stream, index: int, word: int) -> Event:
    if word & 1 << 24:
        return s.event(index, Kind.RETURN)
    return s.event(index, Kind.GROW, -listed_bytes(word >> 16 & 0xFF))


def _thumb_pop_wide(s: Stream, index: int, word: int) -> Event:
    if word & 0x8000:
        return s.event(index, Kind.RETURN)
    return s.event(index, Kind.GROW, -listed_bytes(word & 0x7FFF))


def _thumb_load_post(s: Stream, index: int, word: int) -> Event:
    if word >> 12 & 15 == 15:
        return s.event(index, Kind.RETURN)
    return s.event(index, Kind.GROW, -(word & 0xFF))


def _thumb_add_high(s: Stream, index: int, word: int) -> Event | None:
    target, source = word >> 16 & 7 | word >> 20 & 8, word >> 19 & 15
    if target == 13:
        return s.grow_by(index, source, -1)
    if target == 15:
        return s.event(index, Kind.JUMP_POINTER)
    value = s.trace(index, target) if source == 13 else None
    return s.copy(index, target, value.offset) if value and value.base is None else None


def _thumb_move_high(s: Stream, index: int, word: int) -> Event | None:
    target, source = word >> 16 & 7 | word >> 20 & 8, word >> 19 & 15
    if target == 13:
        return s.set_from(index, source)
    if target == 15:
        return s.event(index, Kind.RETURN if source == 14 else Kind.JUMP_POINTER)
    return s.copy(index, target, 0) if source == 13 else None


def _thumb_bx(s: Stream, index: int, word: int) -> Event:
    """`bx lr` returns, and so does a register that the return address was just popped to."""
    register = word >> 19 & 15
    recent = s.words[max(0, index - 4) : index]
    is_popped = register < 8 and any(w >> 25 == 0xBC00 >> 9 and w >> 16 & 1 << register for w in recent)
    is_loaded = any(w & 0xFFFF0F00 == 0xF85D0B00 and w >> 12 & 15 == register for w in recent)
    return s.event(index, Kind.RETURN if register == 14 or is_popped or is_loaded else Kind.JUMP_POINTER)


def _thumb_branch(s: Stream, index: int, word: int) -> Event | None:
    condition = word >> 24 & 15
    if condition >= 14:  # UDF and SVC
        return s.event(index, Kind.RETURN) if condition == 14 else None
    return s.go(index, Kind.BRANCH, 4 + 2 * signed(word >> 16, 8))


def _thumb_compare_branch(s: Stream, index: int, word: int) -> Event:
    return s.go(index, Kind.BRANCH, 4 + (word >> 19 & 0x40 | word >> 18 & 0x3E))


def _thumb_branch_wide(s: Stream, index: int, word: int) -> Event | None:
    if word >> 23 & 7 == 7:  # no condition but other instructions
        return None
    halves = (
        word >> 26 << 19 & 1 << 19
        | (word >> 11 & 1) << 18
        | (word >> 13 & 1) << 17
        | word >> 5 & 0x1F800
        | word & 0x7FF
    )
    return s.go(index, Kind.BRANCH, 4 + 2 * signed(halves, 20))


def _thumb_far(s: Stream, index: int, word: int, kind: Kind) -> Event:
    sign = word >> 26 & 1
    first, second = (word >> 13 & 1) ^ sign ^ 1, (word >> 11 & 1) ^ sign ^ 1
    halves = sign << 23 | first << 22 | second << 21 | (word >> 16 & 0x3FF) << 11 | word & 0x7FF
    return s.go(index, kind, 4 + 2 * signed(halves, 24))


def _thumb_immediate(word: int) -> int:
    """Give the constant of a wide data-processing instruction: 8 bits repeated or rotated, or 12 plain bits."""
    code = (word >> 26 & 1) << 11 | (word >> 12 & 7) << 8 | word & 0xFF
    if word & 1 << 25:
        return code
    if code < 0x400:
        return (code & 0xFF) * (1, 0x00010001, 0x01000100, 0x01010101)[code >> 8]
    value, turn = code & 0x7F | 0x80, code >> 7
    return (value >> turn | value << (32 - turn)) & 0xFFFFFFFF


def _thumb_arithmetic(s: Stream, index: int, word: int, sign: int) -> Event | None:
    """Add a constant, with the stack pointer on either side."""
    target, source, amount = word >> 8 & 15, word >> 16 & 15, sign * _thumb_immediate(word)
    if target == 13:
        return s.event(index, Kind.GROW, -amount) if source == 13 else s.set_from(index, source, amount)
    return s.copy(index, target, amount) if target != 15 else None  # CMN and CMP


def _thumb_arithmetic_register(s: Stream, index: int, word: int, sign: int) -> Event:
    is_shifted = word & 0x70F0 != 0
    if word >> 16 & 15 != 13 or is_shifted:
        return s.event(index, Kind.DYNAMIC)
    return s.grow_by(index, word & 15, -sign)


def _thumb_condition(s: Stream, index: int, word: int) -> Event | None:
    mask = word >> 16 & 15
    return s.event(index, Kind.CONDITION, 4 - ((mask & -mask).bit_length() - 1)) if mask else None


_THUMB: Rows = (
    (0xFE000000, 0xB4000000, lambda s, i, w: s.event(i, Kind.GROW, listed_bytes(w >> 16 & 0x1FF))),  # PUSH
    (0xFE000000, 0xBC000000, _thumb_pop),
    (0xFF800000, 0xB0000000, lambda s, i, w: s.event(i, Kind.GROW, -(w >> 14 & 0x1FC))),  # ADD SP
    (0xFF800000, 0xB0800000, lambda s, i, w: s.event(i, Kind.GROW, w >> 14 & 0x1FC)),  # SUB SP
    (0xF8000000, 0xA8000000, lambda s, i, w: s.copy(i, w >> 24 & 7, w >> 14 & 0x3FC)),  # ADD Rd, SP
    (0xFF000000, 0x44000000, _thumb_add_high),
    (0xFF000000, 0x46000000, _thumb_move_high),
    (0xFF800000, 0x47000000, _thumb_bx),
    (0xFF800000, 0x47800000, lambda s, i, _: s.event(i, Kind.CALL_POINTER)),  # BLX Rm
    (0xF0000000, 0xD0000000, _thumb_branch),
    (0xF8000000, 0xE0000000, lambda s, i, w: s.go(i, Kind.JUMP, 4 + 2 * signed(w >> 16, 11))),  # B
    (0xF5000000, 0xB1000000, _thumb_compare_branch),
    (0xFF000000, 0xBF000000, _thumb_condition),
    (0xFFFF0000, 0xE92D0000, lambda s, i, w: s.event(i, Kind.GROW, listed_bytes(w & 0xFFFF))),  # PUSH.W
    (0xFFFF0000, 0xE8BD0000, _thumb_pop_wide),
    (0xFF70F000, 0xF850F000, lambda s, i, _: s.event(i, Kind.JUMP_POINTER)),  # LDR PC
    (0xFFFF0F00, 0xF84D0D00, lambda s, i, w: s.event(i, Kind.GROW, w & 0xFF)),  # STR [SP, #-n]!
    (0xFFFF0F00, 0xF85D0B00, _thumb_load_post),
    (0xFFFF0000, 0xE96D0000, lambda s, i, w: s.event(i, Kind.GROW, (w & 0xFF) * 4)),  # STRD [SP, #-n]!
    (0xFFFF0000, 0xE8FD0000, lambda s, i, w: s.event(i, Kind.GROW, -(w & 0xFF) * 4)),  # LDRD [SP], #n
    (0xFFBF0E00, 0xED2D0A00, lambda s, i, w: s.event(i, Kind.GROW, (w & 0xFF) * 4)),  # VPUSH
    (0xFFBF0E00, 0xECBD0A00, lambda s, i, w: s.event(i, Kind.GROW, -(w & 0xFF) * 4)),  # VPOP
    *(
        (mask, value | operation, handler)
        for operation, handler in (
            (0xF1000000, lambda s, i, w: _thumb_arithmetic(s, i, w, 1)),  # ADD.W
            (0xF1A00000, lambda s, i, w: _thumb_arithmetic(s, i, w, -1)),  # SUB.W
            (0xF2000000, lambda s, i, w: _thumb_arithmetic(s, i, w, 1)),  # ADDW
            (0xF2A00000, lambda s, i, w: _thumb_arithmetic(s, i, w, -1)),  # SUBW
        )
        for mask, value in ((0xFBEF8000, 0x000D0000), (0xFBE08F00, 0x00000D00))
    ),
    (0xFFE08F00, 0xEB000D00, lambda s, i, w: _thumb_arithmetic_register(s, i, w, 1)),  # ADD.W SP
    (0xFFE08F00, 0xEBA00D00, lambda s, i, w: _thumb_arithmetic_register(s, i, w, -1)),  # SUB.W SP
    (0xF800D000, 0xF0008000, _thumb_branch_wide),
    (0xF800D000, 0xF0009000, lambda s, i, w: _thumb_far(s, i, w, Kind.JUMP)),  # B.W
    (0xF800D000, 0xF000D000, lambda s, i, w: _thumb_far(s, i, w, Kind.CALL)),  # BL
    (0xF800D001, 0xF000C000, lambda s, i, w: _thumb_far(s, i, w, Kind.CALL)),  # BLX
    (0xFFF0FFE0, 0xE8D0F000, lambda s, i, _: s.event(i, Kind.JUMP_POINTER)),  # TBB, TBH
)


def _trace_thumb(s: Stream, place: int, register: int, value: Value | None) -> Value | None:
    """Follow what one instruction does to a register."""
    word = s.words[place]
    return (_trace_wide if word >> 29 == 7 else _trace_narrow)(s, place, register, value)


def _trace_narrow(s: Stream, place: int, register: int, value: Value | None) -> Value | None:
    half = s.words[place] >> 16
    target, source = half & 7, half >> 3 & 7
    upper, byte = half >> 8 & 7, half & 0xFF
    group = half >> 11
    if group == 0x04 and upper == register:  # MOVS
        return Value(None, byte)
    if group in (0x06, 0x07) and upper == register:  # ADDS, SUBS with 8 bits
        return value and value.plus(byte if group == 0x06 else -byte)
    if group == 0x09 and upper == register:  # LDR from the literals
        return s.literal((s.starts[place] + 4 & ~3) + byte * 4)
    if group == 0x15 and upper == register:  # ADD Rd, SP
        return Value(STACK_POINTER, byte * 4)
    if group <= 0x01 and target == register:  # LSLS, LSRS
        return shifted(value, half >> 6 & 31, is_left=group == 0) if source == register else None
    if half >> 10 == 0x07 and target == register:  # ADDS, SUBS with 3 bits
        amount = half >> 6 & 7
        start = value if source == register else Value(source, 0)
        return start and start.plus(-amount if half & 0x200 else amount)
    if half >> 6 == 0x109 and target == register:  # NEGS
        return Value(None, -value.offset) if value and value.base is None and source == register else None
    if half >> 8 == 0x46 and (half & 7 | half >> 4 & 8) == register:  # MOV
        return Value(STACK_POINTER if half >> 3 & 15 == 13 else half >> 3 & 15, 0)
    return None if _narrow_writes(half, register) else value


def _narrow_writes(half: int, register: int) -> bool:
    """Tell whether an instruction may write a register; yes where in doubt."""
    group = half >> 12
    if half >> 7 == 0x8F:  # BLX
        return register in _CALLER_SAVED
    if half >> 10 == 0x11:  # with high registers
        return register == (half & 7 | half >> 4 & 8)
    if group in (2, 3, 9, 10) or half >> 11 == 0x09:
        return register == half >> 8 & 7
    if group < 9:
        return register == half & 7
    if group == 11:
        is_popped = half >> 9 == 0x5E and half >> register & 1 != 0
        return is_popped or (half >> 8 in (0xB2, 0xBA) and register == half & 7)
    return group == 12


def _trace_wide(s: Stream, place: int, register: int, value: Value | None) -> Value | None:
    word = s.words[place]
    if word & 0xF800C000 == 0xF000C000:  # BL
        return None if register in _CALLER_SAVED else value
    if word & 0xFF7F0000 == 0xF85F0000 and word >> 12 & 15 == register:  # LDR from the literals
        return s.literal((s.starts[place] + 4 & ~3) + (word & 0xFFF) * (1 if word & 1 << 23 else -1))
    if word >> 8 & 15 != register or word >> 28 != 15 or word & 0x8000:
        return None if _wide_writes(word, register) else value
    source, half = word >> 16 & 15, word >> 4 & 0xF000 | word & 0xFF | word >> 4 & 0x700 | word >> 15 & 0x800
    operation = word >> 20 & 0x3E if not word & 1 << 25 else word >> 20 & 0x3F
    if operation == 0x24:  # MOVW
        return Value(None, half)
    if operation == 0x2C:  # MOVT
        return Value(None, signed(half << 16 | value.offset & 0xFFFF, 32)) if value and value.base is None else None
    if operation in (0x04, 0x06) and source == 15:  # MOV, MVN
        constant = _thumb_immediate(word)
        return Value(None, signed(constant if operation == 0x04 else ~constant, 32))
    if operation in (0x10, 0x1A, 0x20, 0x2A):  # ADD, SUB
        start = value if source == register else Value(STACK_POINTER if source == 13 else source, 0)
        return start and start.plus(_thumb_immediate(word) * (1 if operation in (0x10, 0x20) else -1))
    return _rounded_thumb(word, operation, value if source in (register, 15) else None)


def _wide_writes(word: int, register: int) -> bool:
    """Tell whether an instruction may write a register; yes where in doubt."""
    group = word >> 24
    if group in (0xEC, 0xED):  # vectors to and from memory
        return register == word >> 16 & 15
    if group & 0xEC == 0xEC:  # arithmetic on vectors, which may give a number
        return group & 1 == 0 and register == word >> 12 & 15
    return register in (word >> 8 & 15, word >> 12 & 15)


def _rounded_thumb(word: int, operation: int, value: Value | None) -> Value | None:
    """BFC and BIC clear the lowest bits."""
    if value is None or value.base is None:
        return None
    if operation == 0x36 and not word & 0x70C0:
        return value._replace(alignment=2 << (word & 31))
    cleared = _thumb_immediate(word) + 1
    return value._replace(alignment=cleared) if operation == 0x02 and not cleared & cleared - 1 else None


def _a32_pop(s: Stream, index: int, word: int) -> Event:
    return s.event(index, Kind.RETURN) if word & 0x8000 else s.event(index, Kind.GROW, -listed_bytes(word & 0x7FFF))


def _a32_load_post(s: Stream, index: int, word: int) -> Event:
    return s.event(index, Kind.RETURN) if word >> 12 & 15 == 15 else s.event(index, Kind.GROW, -(word & 0xFFF))


def _a32_immediate(word: int) -> int:
    value, turn = word & 0xFF, word >> 7 & 0x1E
    return (value >> turn | value << (32 - turn)) & 0xFFFFFFFF


def _a32_arithmetic(s: Stream, index: int, word: int, sign: int) -> Event:
    target, source, amount = word >> 12 & 15, word >> 16 & 15, sign * _a32_immediate(word)
    if target != 13:
        return s.copy(index, target, amount)
    return s.event(index, Kind.GROW, -amount) if source == 13 else s.set_from(index, source, amount)


def _a32_arithmetic_register(s: Stream, index: int, word: int, sign: int) -> Event:
    if word >> 16 & 15 != 13 or word & 0xFF0:
        return s.event(index, Kind.DYNAMIC)
    return s.grow_by(index, word & 15, -sign)


def _a32_branch(s: Stream, index: int, word: int) -> Event:
    offset = 8 + 4 * signed(word, 24)
    if word >> 24 & 1 or word >> 28 == 15:
        return s.go(index, Kind.CALL, offset)
    return s.go(index, Kind.JUMP if word >> 28 == 14 else Kind.BRANCH, offset)


def _conditional(handler: Handler) -> Handler:
    """Mark what is executed on a condition."""

    def handle(s: Stream, index: int, word: int) -> Event | None:
        event = handler(s, index, word)
        return event and event._replace(is_conditional=word >> 28 != 14)

    return handle


_A32: Rows = tuple(
    (mask, value, _conditional(handler))
    for mask, value, handler in (
        (0x0C50F000, 0x0410F000, lambda s, i, _: s.event(i, Kind.JUMP_POINTER)),  # LDR PC
        (0x0DEFF000, 0x008FF000, lambda s, i, _: s.event(i, Kind.JUMP_POINTER)),  # ADD PC, PC, Rm
        (0x0FFF0000, 0x092D0000, lambda s, i, w: s.event(i, Kind.GROW, listed_bytes(w & 0xFFFF))),  # PUSH
        (0x0FFF0000, 0x08BD0000, _a32_pop),
        (0x0FFF0000, 0x052D0000, lambda s, i, w: s.event(i, Kind.GROW, w & 0xFFF)),  # STR [SP, #-n]!
        (0x0FFF0000, 0x049D0000, _a32_load_post),
        (0x0FBF0E00, 0x0D2D0A00, lambda s, i, w: s.event(i, Kind.GROW, (w & 0xFF) * 4)),  # VPUSH
        (0x0FBF0E00, 0x0CBD0A00, lambda s, i, w: s.event(i, Kind.GROW, -(w & 0xFF) * 4)),  # VPOP
        (0x0FEF0000, 0x028D0000, lambda s, i, w: _a32_arithmetic(s, i, w, 1)),  # ADD Rd, SP
        (0x0FE0F000, 0x0280D000, lambda s, i, w: _a32_arithmetic(s, i, w, 1)),  # ADD SP
        (0x0FEF0000, 0x024D0000, lambda s, i, w: _a32_arithmetic(s, i, w, -1)),  # SUB Rd, SP
        (0x0FE0F000, 0x0240D000, lambda s, i, w: _a32_arithmetic(s, i, w, -1)),  # SUB SP
        (0x0FE0F010, 0x0080D000, lambda s, i, w: _a32_arithmetic_register(s, i, w, 1)),
        (0x0FE0F010, 0x0040D000, lambda s, i, w: _a32_arithmetic_register(s, i, w, -1)),
        (0x0FFFFFF0, 0x01A0D000, lambda s, i, w: s.set_from(i, w & 15)),  # MOV SP
        (0x0FFF0FFF, 0x01A0000D, lambda s, i, w: s.copy(i, w >> 12 & 15, 0)),  # MOV Rd, SP
        (
            0x0FFFFFF0,
            0x01A0F000,
            lambda s, i, w: s.event(i, Kind.RETURN if w & 15 == 14 else Kind.JUMP_POINTER),
        ),  # MOV PC
        (0x0FE0FFFF, 0x07C0D01F, lambda s, i, w: Event(s.starts[i], Kind.SET, alignment=2 << (w >> 16 & 31))),  # BFC SP
        (
            0x0FEFF000,
            0x03CDD000,
            lambda s, i, w: Event(s.starts[i], Kind.SET, alignment=_a32_immediate(w) + 1),
        ),  # BIC SP
        (0x0FFFFFF0, 0x012FFF10, lambda s, i, w: s.event(i, Kind.RETURN if w & 15 == 14 else Kind.JUMP_POINTER)),  # BX
        (0x0FFFFFF0, 0x012FFF30, lambda s, i, _: s.event(i, Kind.CALL_POINTER)),  # BLX
        (0x0E000000, 0x0A000000, _a32_branch),
    )
)


def _trace_a32(s: Stream, place: int, register: int, value: Value | None) -> Value | None:
    word = s.words[place]
    if word >> 12 & 15 != register:
        return None if word & 0x0F000000 == 0x0B000000 and register in _CALLER_SAVED else value
    half = word >> 4 & 0xF000 | word & 0xFFF
    if word & 0x0FF00000 == 0x03000000:  # MOVW
        return Value(None, half)
    if word & 0x0FF00000 == 0x03400000:  # MOVT
        return Value(None, signed(half << 16 | value.offset & 0xFFFF, 32)) if value and value.base is None else None
    if word & 0x0FEF0000 in (0x03A00000, 0x03E00000):  # MOV, MVN
        return Value(None, signed(_a32_immediate(word) ^ -(word >> 22 & 1), 32))
    if word & 0x0F7F0000 == 0x051F0000:  # LDR from the literals
        return s.literal(s.starts[place] + 8 + (word & 0xFFF) * (1 if word & 1 << 23 else -1))
    if word & 0x0FE00000 in (0x02400000, 0x02800000):  # SUB, ADD
        source = word >> 16 & 15
        start = value if source == register else Value(STACK_POINTER if source == 13 else source, 0)
        return start and start.plus(_a32_immediate(word) * (1 if word & 1 << 23 else -1))
    return None
