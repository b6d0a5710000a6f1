"""Decide what a merged object holds: which COMDAT groups, definitions and COMMON storage, and which sections are needed.

Sources: gABI chapters 4 and 5 (binding, COMMON, groups, `SHF_LINK_ORDER`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from mlf.errors import LinkError, ObjectError
from mlf.objects import elf
from mlf.objects.elf import ABSOLUTE, COMMON, ElfObject, Machine, Section, Symbols

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]

# One of these is enough for a whole object: attributes of the ABI, notes for the linker, the compiler's name.
_ONCE = {
    ".comment",
    ".note.GNU-stack",
    ".ARM.attributes",
    ".riscv.attributes",
    ".MIPS.abiflags",
    ".reginfo",
    ".gnu.attributes",
    ".pdr",
}
# Hold symbol table indices, link-time hints or bytecode, which a merge makes stale.
_DROPPED_TYPES = {0x6FFF4C01, 0x6FFF4C02, 0x6FFF4C03, 0x6FFF4C04, 0x6FFF4C09, 0x6FFF4C0C}
_LTO_PREFIXES = (".gnu.lto_", ".gnu.debuglto_")
_TABLE_TYPES = {elf.SHT_NULL, elf.SHT_SYMTAB, elf.SHT_SYMTAB_SHNDX, elf.SHT_GROUP}
RELOCATION_TYPES = {elf.SHT_REL, elf.SHT_RELA}
_KEPT_TYPES = {elf.SHT_INIT_ARRAY, elf.SHT_FINI_ARRAY, elf.SHT_PREINIT_ARRAY, elf.SHT_NOTE}
_KEPT_NAMES = (".init_array", ".fini_array", ".preinit_array", ".ctors", ".dtors", ".init", ".fini")
_EDGES = ("__start_", "__stop_")
_GRP_COMDAT = 1
_RISCV_RVC = 1  # compressed code and other code mix freely
_ARM_FLOAT = 0x600  # soft and hard float; recent LLVM writes them into objects, GNU as does not


@dataclass(slots=True)
class Definition:
    """How a global name is resolved so far; a higher rank wins."""

    rank: int
    object: int
    symbol: int


class Rank(IntEnum):
    """How good a definition of a name is; the higher wins, and those from WEAK on have storage.

    A COMMON symbol beats a weak definition (gABI 4, "Symbol Table").
    """

    WEAK_REFERENCE = 0
    REFERENCE = 1
    WEAK = 2
    COMMON = 3
    STRONG = 4


@dataclass(slots=True)
class _CommonSize:
    size: int
    alignment: int
    is_tls: bool


def _common_alignment(item: ElfObject, symbol: int) -> int:
    alignment = int(item.symbols.value[symbol])
    if alignment & (alignment - 1):
        name = item.symbols.names[symbol]
        raise ObjectError(f"the object file is damaged: `{name}` has an alignment of {alignment}", where=item.label)
    return alignment


class Selection:
    """Decides what the merged object holds.

    Sections are numbered through all objects: `base[o] + i` is section i of object o, and COMMON storage comes after them.
    """

    def __init__(self, objects: list[ElfObject], exports: Mapping[str, str], where: str | None) -> None:
        if not objects:
            raise LinkError("there is no object to merge", where=where)
        self.objects = objects
        self.exports = exports
        self.where = where
        self.machine = _common_machine(objects)
        self.sections = [section for item in objects for section in item.sections]
        self.owner = np.repeat(np.arange(len(objects)), [len(item.sections) for item in objects])
        self.base = np.concatenate([[0], np.cumsum([len(item.sections) for item in objects])]).astype(np.int64)
        self.kept = [_is_wanted(section) for section in self.sections]
        self.groups: list[list[int]] = []
        self.twins: dict[int, int] = {}
        self.definitions: dict[str, Definition] = {}
        self.common: dict[str, int] = {}
        self._keep_once()

    def place(self, number: int, index: int) -> int:
        """Give the number of section `index` of object `number`."""
        return int(self.base[number]) + index

    def _keep_once(self) -> None:
        seen: set[str] = set()
        for place, section in enumerate(self.sections):
            if section.name in _ONCE and self.kept[place]:
                self.kept[place] = section.name not in seen
                seen.add(section.name)

    def choose_groups(self) -> None:
        """Of COMDAT groups with one signature keep the first, as every linker does."""
        first: dict[str, list[int]] = {}
        for number, item in enumerate(self.objects):
            for section in item.sections:
                if section.type != elf.SHT_GROUP:
                    continue
                words = np.frombuffer(section.data, item.machine.order + "u4").astype(np.int64)
                members = [self.place(number, index) for index in words[1:].tolist() if index < len(item.sections)]
                signature = _group_signature(item, section)
                if words[0] & _GRP_COMDAT and signature in first:
                    self._discard(members, first[signature])
                else:
                    self.groups.append(members)
                    if words[0] & _GRP_COMDAT:
                        first[signature] = members
        self._drop_orphan_relocations()

    def _discard(self, members: list[int], winners: list[int]) -> None:
        by_name = {self.sections[place].name: place for place in winners}
        for place in members:
            self.kept[place] = False
            twin = by_name.get(self.sections[place].name)
            if twin is not None and self.sections[twin].size_bytes == self.sections[place].size_bytes:
                self.twins[place] = twin

    def _drop_orphan_relocations(self) -> None:
        for place, section in enumerate(self.sections):
            if section.type in RELOCATION_TYPES and not self.kept[self.relocated(place)]:
                self.kept[place] = False

    def relocated(self, place: int) -> int:
        """Give the number of the section that the relocation section `place` applies to."""
        number = int(self.owner[place])
        index = self.sections[place].info
        if index >= len(self.objects[number].sections):
            raise ObjectError(
                "the object file is damaged: relocations for a section that does not exist",
                where=self.objects[number].label,
            )
        return self.place(number, index)

    def resolve(self) -> None:
        """Find the definition of every global name; report every name that has two."""
        clashes: dict[str, set[str]] = {}
        for number, item in enumerate(self.objects):
            symbols = item.symbols
            ranks = self._ranks(number, item)
            for symbol in range(symbols.local_count, len(symbols)):
                name, rank = symbols.names[symbol], ranks[symbol - symbols.local_count]
                known = self.definitions.get(name)
                if known is not None and rank == known.rank == Rank.STRONG:
                    clashes.setdefault(name, {self.objects[known.object].label}).add(item.label)
                elif known is None or rank > known.rank:
                    self.definitions[name] = Definition(rank, number, symbol)
        if clashes:
            found = "; ".join(f"`{name}` in {' and '.join(sorted(owners))}" for name, owners in sorted(clashes.items()))
            raise LinkError(f"defined more than once: {found}", where=self.where)
        missing = [
            name for name in self.exports if name not in self.definitions or self.definitions[name].rank < Rank.WEAK
        ]
        if missing:
            names = " and ".join(f"`{name}`" for name in sorted(missing))
            raise LinkError(f"no object of the model defines its entrypoint {names}", where=self.where)

    def _ranks(self, number: int, item: ElfObject) -> list[int]:
        symbols, first = item.symbols, item.symbols.local_count
        section = symbols.section[first:]
        weak = (symbols.info[first:] >> 4) == elf.STB_WEAK
        kept = np.array(self.kept[self.base[number] : self.base[number + 1]] or [False], bool)
        gone = (section > 0) & ~kept[np.maximum(section, 0)]
        undefined = (section == 0) | gone
        ranks = np.where(weak, Rank.WEAK, Rank.STRONG)
        ranks[section == COMMON] = Rank.COMMON
        ranks[undefined] = np.where(weak[undefined], Rank.WEAK_REFERENCE, Rank.REFERENCE)
        found: list[int] = ranks.tolist()
        return found

    def allocate_common(self) -> None:
        """Give each COMMON name of the model a zeroed section of its own, as large and as aligned as any object asks."""
        sizes: dict[str, _CommonSize] = {}
        for item in self.objects:
            symbols = item.symbols
            for symbol in np.flatnonzero(symbols.section == COMMON).tolist():
                name = symbols.names[symbol]
                known = sizes.setdefault(name, _CommonSize(0, 1, int(symbols.info[symbol] & 15) == elf.STT_TLS))
                known.size = max(known.size, int(symbols.size[symbol]))
                known.alignment = max(known.alignment, _common_alignment(item, symbol))
        for name, size in sorted(sizes.items()):
            if self.definitions[name].rank == Rank.COMMON:
                self.common[name] = self._add_common(name, size)

    def _add_common(self, name: str, size: _CommonSize) -> int:
        flags = elf.SHF_ALLOC | elf.SHF_WRITE | (elf.SHF_TLS if size.is_tls else 0)
        prefix = ".tbss." if size.is_tls else ".bss."
        self.sections.append(
            Section(
                name=prefix + name, type=elf.SHT_NOBITS, flags=flags, size_bytes=size.size, alignment=size.alignment
            )
        )
        self.kept.append(True)
        return len(self.sections) - 1

    def target_places(self, number: int) -> Integers:
        """Give for each symbol of an object the number of the section that it resolves to, or -1."""
        symbols = self.objects[number].symbols
        local = np.where(symbols.section > 0, symbols.section + self.base[number], -1)
        for symbol in range(symbols.local_count, len(symbols)):
            local[symbol] = self.defining_place(symbols.names[symbol])
        return local

    def defining_place(self, name: str) -> int:
        """Give the number of the section that defines a global name, or -1."""
        definition = self.definitions[name]
        if definition.rank == Rank.COMMON:
            return self.common[name]
        section = int(self.objects[definition.object].symbols.section[definition.symbol])
        if definition.rank < Rank.WEAK or section == ABSOLUTE:
            return -1
        return self.place(definition.object, section)

    def gathered(self) -> dict[str, list[int]]:
        """Give the sections whose bounds the model asks for by `__start_NAME`, by NAME; linkers gather those by name alone."""
        asked = {bounded_section(name) for name, found in self.definitions.items() if found.rank < Rank.WEAK} - {""}
        places: dict[str, list[int]] = {}
        for place, section in enumerate(self.sections):
            if section.name in asked and self.kept[place]:
                places.setdefault(section.name, []).append(place)
        return places

    def mark_reachable(self) -> None:
        """Keep the allocated sections that the entrypoints need, directly or not; drop the rest."""
        targets = [self.target_places(number) for number in range(len(self.objects))]
        marker = _Marker(self, targets)
        for name in self.exports:
            marker.mark(self.defining_place(name))
        for place, section in enumerate(self.sections):
            if self.kept[place] and _is_root(section):
                marker.mark(place)
        marker.run()
        for place, section in enumerate(self.sections):
            unwind = section.name == ".eh_frame" and marker.has_live_code(place)
            if section.flags & elf.SHF_ALLOC and not marker.alive[place] and not unwind:
                self.kept[place] = False
        for place, section in enumerate(self.sections[: len(self.owner)]):
            if section.flags & elf.SHF_LINK_ORDER and not section.flags & elf.SHF_ALLOC:
                self.kept[place] &= self.kept[self.place(int(self.owner[place]), section.link)]
        self._drop_orphan_relocations()


class _Marker:
    """The work list of the reachability pass."""

    def __init__(self, merge: Selection, targets: list[Integers]) -> None:
        self.merge = merge
        self.targets = targets
        self.alive = [False] * len(merge.sections)
        self.work: list[int] = []
        self.relocations: dict[int, list[int]] = {}
        self.followers: dict[int, list[int]] = {}
        for place, section in enumerate(merge.sections):
            if not merge.kept[place]:
                continue
            if section.type in RELOCATION_TYPES:
                self.relocations.setdefault(merge.relocated(place), []).append(place)
            elif section.flags & elf.SHF_LINK_ORDER:
                linked = merge.place(int(merge.owner[place]), section.link)
                self.followers.setdefault(linked, []).append(place)
        gathered = merge.gathered()
        self.bounds = [_bounds(item.symbols, gathered) for item in merge.objects]
        for group in merge.groups:
            allocated = [place for place in group if merge.sections[place].flags & elf.SHF_ALLOC]
            for place in allocated:
                self.followers.setdefault(place, []).extend(allocated)

    def mark(self, place: int) -> None:
        if place >= 0 and self.merge.kept[place] and not self.alive[place]:
            self.alive[place] = True
            self.work.append(place)

    def run(self) -> None:
        """Follow references until nothing new is alive."""
        self._drain()
        unwind = [p for p, s in enumerate(self.merge.sections) if s.name == ".eh_frame" and self.merge.kept[p]]
        while found := [place for place in unwind if self.has_live_code(place)]:
            unwind = [place for place in unwind if place not in found]
            self._mark_tables(found)
            self._drain()

    def _mark_tables(self, unwind: list[int]) -> None:
        # Unwind tables name the code they describe, which must not keep it alive, and exception tables, which they need.
        for place in unwind:
            for target in self.referenced(place):
                if not self.merge.sections[target].flags & elf.SHF_EXECINSTR:
                    self.mark(target)

    def _drain(self) -> None:
        while self.work:
            place = self.work.pop()
            for target in [*self.referenced(place), *self.followers.get(place, ())]:
                self.mark(target)

    def referenced(self, place: int) -> list[int]:
        """Give the sections that the relocations of a section point into."""
        found: set[int] = set()
        for relocation in self.relocations.get(place, ()):
            number = int(self.merge.owner[relocation])
            symbols = symbol_indices(self.merge, relocation)
            found.update(np.unique(self.targets[number][symbols]).tolist())
            for symbol in self.bounds[number].keys() & symbols.tolist() if self.bounds[number] else ():
                found.update(self.bounds[number][symbol])
        found.discard(-1)
        return sorted(found)

    def has_live_code(self, place: int) -> bool:
        """Tell whether any code of the object that holds section `place` is alive."""
        if place >= len(self.merge.owner):
            return False
        number = int(self.merge.owner[place])
        places = range(int(self.merge.base[number]), int(self.merge.base[number + 1]))
        return any(self.alive[p] and self.merge.sections[p].flags & elf.SHF_EXECINSTR for p in places)


def bounded_section(name: str) -> str:
    """Give NAME of `__start_NAME` or `__stop_NAME`, and of any other name nothing."""
    return next((name[len(edge) :] for edge in _EDGES if name.startswith(edge)), "")


def _bounds(symbols: Symbols, gathered: Mapping[str, list[int]]) -> dict[int, list[int]]:
    """Give the sections that each `__start_NAME` and `__stop_NAME` of a symbol table stands for."""
    if not gathered:
        return {}
    names = ((symbol, bounded_section(symbols.names[symbol])) for symbol in range(symbols.local_count, len(symbols)))
    return {symbol: gathered[name] for symbol, name in names if name in gathered}


def symbol_indices(merge: Selection, relocation: int) -> Integers:
    """Give the distinct symbol indices of a relocation section, checked against the symbol table."""
    item = merge.objects[int(merge.owner[relocation])]
    indices: Integers = np.unique(
        item.relocations(merge.sections[relocation])["info"] >> merge.machine.symbol_shift
    ).astype(np.int64)
    if len(indices) and int(indices[-1]) >= len(item.symbols):
        raise ObjectError(
            "the object file is damaged: a relocation against a symbol that does not exist", where=item.label
        )
    return indices


def _is_wanted(section: Section) -> bool:
    if section.type in _TABLE_TYPES or section.type in _DROPPED_TYPES or section.name.startswith(_LTO_PREFIXES):
        return False
    return section.type != elf.SHT_STRTAB or section.name not in (".strtab", ".shstrtab")


def _is_root(section: Section) -> bool:
    if not section.flags & elf.SHF_ALLOC:
        return False
    if section.flags & elf.SHF_GNU_RETAIN or section.type in _KEPT_TYPES:
        return True
    return any(section.name == name or section.name.startswith(name + ".") for name in _KEPT_NAMES)


def _group_signature(item: ElfObject, group: Section) -> str:
    if group.info >= len(item.symbols):
        raise ObjectError("the object file is damaged: a group has no signature", where=item.label)
    if int(item.symbols.info[group.info]) & 15 == elf.STT_SECTION:
        return item.sections[int(item.symbols.section[group.info])].name
    return item.symbols.names[group.info]


def _common_machine(objects: list[ElfObject]) -> Machine:
    """Give the machine of all objects, with the flags that describe them together."""
    first = objects[0]
    flags = first.machine.flags
    for item in objects[1:]:
        if not item.machine.is_compatible(first.machine):
            raise ObjectError(f"is for {item.machine}, {first.label} for {first.machine}", where=item.label)
        if not _flags_agree(first.machine.number, flags, item.machine.flags):
            raise ObjectError(
                f"has the ELF flags {item.machine.flags:#x}, {first.label} has {flags:#x}",
                where=item.label,
                hint="compile both with the same ABI",
            )
        flags |= item.machine.flags
    return replace(first.machine, flags=flags, os_abi=max(item.machine.os_abi for item in objects))


def _flags_agree(machine: int, one: int, other: int) -> bool:
    if machine == elf.EM_RISCV:
        return one & ~_RISCV_RVC == other & ~_RISCV_RVC
    if machine == elf.EM_ARM and not (one & _ARM_FLOAT and other & _ARM_FLOAT):
        return one & ~_ARM_FLOAT == other & ~_ARM_FLOAT
    return one == other
