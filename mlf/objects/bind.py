"""Change what the names of an object mean, before objects are merged.

A model's code asks for memory by names: an allocator that it does not define, a buffer of its own, constants that only its
wrapper sees. Here these names are tied to what a library has in their place.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mlf.errors import ObjectError
from mlf.objects import elf
from mlf.objects.elf import Section

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy.typing as npt

    from mlf.objects.elf import ElfObject

_SHF_MERGE = 0x10  # linkers merge such sections by name, and literals are not worth a place of their own
_ARM_EXIDX = 0x70000001  # SHT_ARM_EXIDX
_NONE = 0  # R_<machine>_NONE of every machine


def rename(item: ElfObject, names: Mapping[str, str]) -> None:
    """Give the global names of an object that `names` lists, defined or not, their new ones."""
    symbols = item.symbols
    first = symbols.local_count
    symbols.names[first:] = [names.get(name, name) for name in symbols.names[first:]]


def publish(item: ElfObject, symbol: str, name: str, *, offset_bytes: int = 0) -> bool:
    """Define the global `name` where a symbol of the object is, or so far behind it; False if it defines no such symbol."""
    symbols = item.symbols
    found = [index for index, text in enumerate(symbols.names) if text == symbol and int(symbols.section[index]) > 0]
    if not found:
        return False
    at = found[-1]  # a global one of this name comes after local ones
    _append(
        item, name, info=elf.STB_GLOBAL << 4 | elf.STT_OBJECT, section=int(symbols.section[at]),
        value=int(symbols.value[at]) + offset_bytes, size=max(int(symbols.size[at]) - offset_bytes, 0),
    )  # fmt: skip
    return True


def buffer_sections(item: ElfObject, buffers: Collection[str]) -> dict[int, Section]:
    """Find the sections that hold the local variables of these names, by their index."""
    symbols = item.symbols
    places = {
        int(symbols.section[index])
        for index in range(1, symbols.local_count)
        if symbols.names[index] in buffers and int(symbols.section[index]) > 0
    }
    return {place: item.sections[place] for place in sorted(places)}


def retarget(item: ElfObject, section: int, label: str) -> dict[str, int]:
    """Turn a section of the object into memory from elsewhere.

    Whatever refers to it refers to undefined names afterwards, `<label>_<offset>`; they are given with their offsets from
    the beginning of that memory, which must be as large and as aligned as the section. Addends stay as they are.
    """
    symbols = item.symbols
    inside = np.flatnonzero(symbols.section == section).tolist()
    wanted: dict[str, int] = {}
    moved = np.arange(len(symbols))
    for index in inside:
        offset = int(symbols.value[index])
        name = f"{label}_{offset}"
        if name not in wanted:
            wanted[name] = offset
            _append(item, name, info=elf.STB_GLOBAL << 4, section=0, value=0, size=0)
        moved[index] = item.symbols.names.index(name)
    _move_references(item, moved)
    return wanted


def _move_references(item: ElfObject, moved: npt.NDArray[np.int64]) -> None:
    """Let every relocation refer to another symbol."""
    shift = item.machine.symbol_shift
    for section in item.sections:
        if section.type not in (elf.SHT_REL, elf.SHT_RELA):
            continue
        entries = item.relocations(section).copy()
        old = (entries["info"] >> shift).astype(np.int64)
        if len(old) and int(old.max()) >= len(moved):
            raise ObjectError(
                "the object file is damaged: a relocation against a symbol that does not exist", where=item.label
            )
        kind = entries["info"] & ((1 << shift) - 1)
        entries["info"] = (moved[old].astype(entries["info"].dtype) << shift) | kind
        section.data = entries.tobytes()


def keep_with(item: ElfObject, function: str, name: str) -> None:
    """Keep what the global `name` is as long as `function` is kept, by a relocation that changes nothing."""
    symbols = item.symbols
    section = int(symbols.section[symbols.names.index(function, symbols.local_count)])
    if name not in symbols.names:
        _append(item, name, info=elf.STB_GLOBAL << 4, section=0, value=0, size=0)
    symbol = item.symbols.names.index(name, symbols.local_count)
    table = next((s for s in item.sections if s.type in (elf.SHT_REL, elf.SHT_RELA) and s.info == section), None)
    if table is None:
        kind = elf.SHT_REL if item.machine.number == elf.EM_ARM else elf.SHT_RELA
        dtype = item.machine.relocation_dtype(kind)
        prefix = ".rel" if kind == elf.SHT_REL else ".rela"
        table = Section(
            name=prefix + item.sections[section].name, type=kind, info=section, entry_size=dtype.itemsize, alignment=8 if item.machine.is_64 else 4,
        )  # fmt: skip
        item.sections.append(table)
    entries = np.zeros(1, item.machine.relocation_dtype(table.type))
    entries["info"] = (symbol << item.machine.symbol_shift) | _NONE
    table.data = bytes(table.data) + entries.tobytes()
    table.size_bytes = len(table.data)


def _append(item: ElfObject, name: str, *, info: int, section: int, value: int, size: int) -> None:
    old = item.symbols
    item.symbols = replace(
        old, names=[*old.names, name], info=np.append(old.info, np.uint8(info)), other=np.append(old.other, np.uint8(0)),
        section=np.append(old.section, section), value=np.append(old.value, np.uint64(value)), size=np.append(old.size, np.uint64(size)),
    )  # fmt: skip


def place_constants(item: ElfObject, section: str, *, is_asked: bool) -> None:
    """Put the constants of an object into sections of another name, each for itself as before.

    Unless it `is_asked` for, those keep their place that the code put anywhere: only the sections move that a compiler
    named after the one constant in each.
    """
    symbols = item.symbols
    own = {f".rodata.{name}" for name, place in zip(symbols.names, symbols.section.tolist(), strict=True) if place > 0}
    for old in item.sections:
        is_constant = old.type == elf.SHT_PROGBITS and old.flags & elf.SHF_ALLOC and old.name.startswith(".rodata")
        if not is_constant or old.flags & (elf.SHF_WRITE | elf.SHF_EXECINSTR | _SHF_MERGE):
            continue
        if is_asked or old.name in own:
            old.name = section


def drop_unwind_tables(item: ElfObject) -> None:
    """Leave out the tables by which exceptions pass through Arm code: no model throws, and they would need an unwinder."""
    for section in item.sections:
        if section.type == _ARM_EXIDX or section.name.startswith(".ARM.extab"):
            section.type = elf.SHT_NULL


def without_content(item: ElfObject, symbol: str) -> None:
    """Let the section that holds a variable take no room in flash, whatever its name makes of it in the compiler's eyes."""
    symbols = item.symbols
    section = item.sections[int(symbols.section[symbols.names.index(symbol)])]
    section.type, section.data = elf.SHT_NOBITS, b""
