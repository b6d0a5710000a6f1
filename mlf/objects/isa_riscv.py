"""RISC-V, 32 and 64 bits, with compressed instructions: the unprivileged ISA with Zca and Zcmp."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from mlf.objects.instructions import STACK_POINTER, Event, Kind, Stream, Value, decode, shifted, signed, starts_of

if TYPE_CHECKING:
    from mlf.objects.instructions import Integers, Rows, Text, Words

_FRAME_POINTERS = (8,)
_MILLICODE = re.compile(r"__riscv_(?:save|restore)_(\d{1,2})")
# libgcc's routines for more than four registers first make room for all, then give back what is too much.
_MILLICODE_BYTES = {False: 64, True: 112}
_CALLS = (18, 19)  # R_RISCV_CALL, R_RISCV_CALL_PLT: of a pair of auipc and jalr


def find_events(text: Text) -> list[Event]:
    """Find the instructions that matter, in the order of their addresses."""
    rows = _RISCV + (() if text.is_64 else _RISCV_32) + (_ZCMP if text.has_zcmp else ())
    return decode(text, _riscv_words(text), rows, _trace_riscv, _FRAME_POINTERS)


def _riscv_words(text: Text) -> tuple[Integers, Words]:
    halves = np.frombuffer(text.data, "<u2").astype(np.uint32)
    is_wide = halves & 3 == 3
    places = starts_of(is_wide, text.is_code(2, mode=""))
    following = np.append(halves, np.uint32(0))[places + 1]
    words = halves[places] | np.where(is_wide[places], following, 0) << 16
    return places * 2, words.astype(np.uint32)


def _field(word: int, *parts: tuple[int, int, int]) -> int:
    """Gather a scattered constant: each part is (lowest bit in the word, number of bits, lowest bit in the constant)."""
    return sum((word >> low & (1 << count) - 1) << to for low, count, to in parts)


_ADDI16SP = ((12, 1, 9), (3, 2, 7), (5, 1, 6), (2, 1, 5), (6, 1, 4))
_ADDI4SPN = ((7, 4, 6), (11, 2, 4), (5, 1, 3), (6, 1, 2))
_C_IMMEDIATE = ((12, 1, 5), (2, 5, 0))
_C_JUMP = ((12, 1, 11), (8, 1, 10), (9, 2, 8), (6, 1, 7), (7, 1, 6), (2, 1, 5), (11, 1, 4), (3, 3, 1))
_C_BRANCH = ((12, 1, 8), (5, 2, 6), (2, 1, 5), (10, 2, 3), (3, 2, 1))
_JUMP = ((31, 1, 20), (12, 8, 12), (20, 1, 11), (21, 10, 1))
_BRANCH = ((31, 1, 12), (7, 1, 11), (25, 6, 5), (8, 4, 1))


def _riscv_addi(s: Stream, index: int, word: int) -> Event | None:
    target, source, amount = word >> 7 & 31, word >> 15 & 31, signed(word >> 20, 12)
    if target == 2:
        return s.event(index, Kind.GROW, -amount) if source == 2 else s.set_from(index, source, amount)
    return s.copy(index, target, amount)


def _riscv_add(s: Stream, index: int, word: int) -> Event:
    sign = 1 if word >> 30 & 1 else -1
    first, second = word >> 15 & 31, word >> 20 & 31
    if first == 2:
        return s.grow_by(index, second, sign)
    if second == 2 and sign < 0:
        return s.grow_by(index, first, sign)
    value = s.trace(index, second)
    if value is None or value.base is not None:
        return s.event(index, Kind.DYNAMIC)
    return s.set_from(index, first, -sign * value.offset)


def _riscv_align(s: Stream, index: int, word: int) -> Event:
    """ANDI SP and AND SP, of SP itself or of a register."""
    mask: int | None = signed(word >> 20, 12)
    if word >> 5 & 1:
        value = s.trace(index, word >> 20 & 31)
        mask = value.offset if value and value.base is None else None
    if mask is None or mask >= 0 or -mask & -mask - 1:
        return s.event(index, Kind.DYNAMIC)
    source = word >> 15 & 31
    if source == 2:
        return Event(s.starts[index], Kind.SET, alignment=-mask)
    return s.set_from(index, source, alignment=-mask)


def _riscv_go(s: Stream, index: int, offset: int, link: int) -> Event:
    """Call or jump; libgcc's routines that save and restore registers move the stack pointer for their caller."""
    event = s.go(index, Kind.CALL if link else Kind.JUMP, offset)
    millicode = _MILLICODE.fullmatch(event.target) if isinstance(event.target, str) else None
    if millicode is None:
        return event
    if not link:
        return s.event(index, Kind.RETURN)
    registers = int(millicode[1]) + 1
    peak = _MILLICODE_BYTES[s.text.is_64] if registers > 4 or s.text.is_64 else 0
    return s.event(index, Kind.GROW, _saved_bytes(registers, is_64=s.text.is_64))._replace(peak=peak)


def _saved_bytes(registers: int, *, is_64: bool) -> int:
    """Give what `ra` and some registers take on the stack, which stays aligned to 16 bytes."""
    return -(-registers * (8 if is_64 else 4) // 16) * 16


def _riscv_auipc(s: Stream, index: int, word: int) -> Event | None:
    """Find a call of two instructions by its relocation, or by its halves if the assembler filled them in."""
    following = s.words[index + 1] if index + 1 < len(s.words) else 0
    register = word >> 7 & 31
    if following & 0x707F != 0x67 or following >> 15 & 31 != register:
        return None
    reference = s.text.references.get(s.starts[index])
    if reference is not None and reference.type not in _CALLS:
        return None
    offset = signed(word & 0xFFFFF000, 32) + signed(following >> 20, 12)
    return _riscv_go(s, index, offset, following >> 7 & 31)


def _riscv_jalr(s: Stream, index: int, word: int) -> Event | None:
    link, register = word >> 7 & 31, word >> 15 & 31
    before = s.words[index - 1] if index else 0
    if before & 0xFFF == register << 7 | 0x17 and _riscv_auipc(s, index - 1, before):
        return None
    if link:
        return s.event(index, Kind.CALL_POINTER)
    return s.event(index, Kind.RETURN if register in (1, 5) else Kind.JUMP_POINTER)


def _riscv_move(s: Stream, index: int, word: int) -> Event | None:
    """C.MV and C.JR."""
    target, source = word >> 7 & 31, word >> 2 & 31
    if source == 0:
        return s.event(index, Kind.RETURN if target in (1, 5) else Kind.JUMP_POINTER)
    if target == 2:
        return s.set_from(index, source)
    return s.copy(index, target, 0) if source == 2 else None


def _riscv_add_compressed(s: Stream, index: int, word: int) -> Event | None:
    """C.ADD, C.JALR and C.EBREAK."""
    target, source = word >> 7 & 31, word >> 2 & 31
    if source == 0:
        return s.event(index, Kind.CALL_POINTER if target else Kind.RETURN)
    return s.grow_by(index, source, -1) if target == 2 else None


def _riscv_save(s: Stream, index: int, word: int, kind: Kind, sign: int = 1) -> Event:
    """CM.PUSH and CM.POP: `ra` and some saved registers, and up to 48 bytes more."""
    listed = word >> 4 & 15
    registers = 13 if listed == 15 else listed - 3
    size = _saved_bytes(registers, is_64=s.text.is_64) + 16 * (word >> 2 & 3)
    return s.event(index, kind, sign * size)


_RISCV: Rows = (
    (0xEF83, 0x0101, lambda s, i, w: s.event(i, Kind.GROW, -signed(_field(w, *_C_IMMEDIATE), 6))),  # C.ADDI SP
    (0xEF83, 0x6101, lambda s, i, w: s.event(i, Kind.GROW, -signed(_field(w, *_ADDI16SP), 10))),
    (0xE003, 0x0000, lambda s, i, w: s.copy(i, 8 + (w >> 2 & 7), _field(w, *_ADDI4SPN))),
    (0xFFFF, 0x0000, lambda s, i, _: s.event(i, Kind.RETURN)),  # C.UNIMP
    (0xF003, 0x8002, _riscv_move),
    (0xF003, 0x9002, _riscv_add_compressed),
    (0xE003, 0xA001, lambda s, i, w: s.go(i, Kind.JUMP, signed(_field(w, *_C_JUMP), 12))),
    (0xC003, 0xC001, lambda s, i, w: s.go(i, Kind.BRANCH, signed(_field(w, *_C_BRANCH), 9))),
    (0x000FF07F, 0x00010013, _riscv_addi),  # from SP
    (0x00007FFF, 0x00000113, _riscv_addi),  # to SP
    (0xBE007FFF, 0x00000133, _riscv_add),  # ADD SP, SUB SP
    (0x00007FFF, 0x00007113, _riscv_align),
    (0xFE007FFF, 0x00007133, _riscv_align),
    (0x0000007F, 0x0000006F, lambda s, i, w: _riscv_go(s, i, signed(_field(w, *_JUMP), 21), w >> 7 & 31)),
    (0x0000007F, 0x00000017, _riscv_auipc),
    (0x0000707F, 0x00000067, _riscv_jalr),
    (0x0000007F, 0x00000063, lambda s, i, w: s.go(i, Kind.BRANCH, signed(_field(w, *_BRANCH), 13))),
    (0xFFFFFFFF, 0x00100073, lambda s, i, _: s.event(i, Kind.RETURN)),  # EBREAK
    (0xFFFFFFFF, 0xC0001073, lambda s, i, _: s.event(i, Kind.RETURN)),  # UNIMP
)
_RISCV_32: Rows = ((0xE003, 0x2001, lambda s, i, w: s.go(i, Kind.CALL, signed(_field(w, *_C_JUMP), 12))),)  # C.JAL
_ZCMP: Rows = (
    (0xFF03, 0xB802, lambda s, i, w: _riscv_save(s, i, w, Kind.GROW)),
    (0xFF03, 0xBA02, lambda s, i, w: _riscv_save(s, i, w, Kind.GROW, -1)),
    (0xFD03, 0xBC02, lambda s, i, w: _riscv_save(s, i, w, Kind.RETURN)),
)


def _trace_riscv(s: Stream, place: int, register: int, value: Value | None) -> Value | None:
    word = s.words[place]
    return (_trace_riscv_32 if word & 3 == 3 else _trace_compressed)(s, word, register, value)


def _trace_riscv_32(_: Stream, word: int, register: int, value: Value | None) -> Value | None:
    operation = word & 0x7F
    if operation in (0x67, 0x6F) and word >> 7 & 31:  # a call
        return None if register in range(5, 8) or register in range(10, 18) or register > 27 else value
    if word >> 7 & 31 != register or operation in (0x23, 0x27, 0x63):
        return value
    source, amount = word >> 15 & 31, signed(word >> 20, 12)
    if operation == 0x37:  # LUI
        return Value(None, signed(word & 0xFFFFF000, 32))
    if word & 0x707F == 0x1013 and source == register:  # SLLI
        return shifted(value, word >> 20 & 63, is_left=True)
    if word & 0x7077 != 0x13:  # ADDI, ADDIW
        return None
    start = value if source == register else Value(None, 0) if source == 0 else Value(source, 0)
    return Value(STACK_POINTER, amount) if source == 2 else start and start.plus(amount)


def _trace_compressed(s: Stream, word: int, register: int, value: Value | None) -> Value | None:
    group, target, amount = word & 0xE003, word >> 7 & 31, signed(_field(word, *_C_IMMEDIATE), 6)
    if (group == 0x2001 and not s.text.is_64) or word & 0xF07F == 0x9002:  # C.JAL, C.JALR
        return _trace_riscv_32(s, 0xEF, register, value)
    if (group & 3 == 1 and group >= 0xA000) or (group & 3 != 1 and group >= 0xA000):  # jumps, branches, stores
        return value
    if group == 0x0000:
        is_target = 8 + (word >> 2 & 7) == register
        return Value(STACK_POINTER, _field(word, *_ADDI4SPN)) if is_target else value
    if target != register:
        return None if register in (8 + (word >> 2 & 7), 8 + (word >> 7 & 7)) else value
    if group in (0x0001, 0x2001):  # C.ADDI, C.ADDIW
        return value and value.plus(amount)
    if group in (0x4001, 0x6001):  # C.LI, C.LUI
        return Value(None, amount << (12 if group == 0x6001 else 0))
    if group == 0x0002:  # C.SLLI
        return shifted(value, amount & 63, is_left=True)
    source = word >> 2 & 31
    return Value(STACK_POINTER if source == 2 else source, 0) if word & 0xF003 == 0x8002 and source else None
