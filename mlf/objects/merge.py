"""Merge the objects of one model into one object that defines its entrypoints and nothing else.

A partial link done on values: COMDAT groups are chosen, symbols resolved, COMMON storage allocated, sections that no
entrypoint reaches dropped, entrypoints renamed, every other definition made local, relocations rewritten. The objects may
be of any ELF class, byte order and machine; nothing of a toolchain is needed.

Sources: gABI chapters 4 and 5 (binding, COMMON, groups, `SHF_LINK_ORDER`); what GNU `ld -r` makes of the same inputs judges
it in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mlf.errors import LinkError, ObjectError
from mlf.objects import elf
from mlf.objects.elf import ABSOLUTE, COMMON, ElfObject, Machine, Section, Symbols

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

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
# Hold symbol table indices, link-time hints or bytecode, which a merge makes stale (linking.md 3, pitfall 11).
_DROPPED_TYPES = {0x6FFF4C01, 0x6FFF4C02, 0x6FFF4C03, 0x6FFF4C04, 0x6FFF4C09, 0x6FFF4C0C}
_LTO_PREFIXES = (".gnu.lto_", ".gnu.debuglto_")
_SLIM_LTO_SYMBOL = "__gnu_lto_slim"
_FAT_LTO_SYMBOL = "__gnu_lto_v1"
_TABLE_TYPES = {elf.SHT_NULL, elf.SHT_SYMTAB, elf.SHT_SYMTAB_SHNDX, elf.SHT_GROUP}
_RELOCATION_TYPES = {elf.SHT_REL, elf.SHT_RELA}
_KEPT_TYPES = {elf.SHT_INIT_ARRAY, elf.SHT_FINI_ARRAY, elf.SHT_PREINIT_ARRAY, elf.SHT_NOTE}
_KEPT_NAMES = (".init_array", ".fini_array", ".preinit_array", ".ctors", ".dtors", ".init", ".fini")
# In these a pair of zeros ends a list, so that a dropped address must read 1 (as GNU ld writes it).
_LIST_SECTIONS = (".debug_ranges", ".debug_loc")
_EDGES = ("__start_", "__stop_")
_GRP_COMDAT = 1
_MIPS_PIC = 2
_RISCV_RVC = 1  # compressed code and other code mix freely
_ARM_FLOAT = 0x600  # soft and hard float; recent LLVM writes them into objects, GNU as does not


@dataclass(frozen=True, slots=True, kw_only=True)
class Undefined:
    """A name that the merged object needs from elsewhere, and the labels of the objects that need it."""

    name: str
    is_weak: bool
    needed_by: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionSize:
    """An allocated section of the merged object: its name, flags and size in memory."""

    name: str
    size_bytes: int
    is_writable: bool
    is_code: bool
    occupies_file: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedObject:
    """A merged object: its bytes, its machine, what it defines and needs, and what it occupies."""

    data: bytes
    machine: Machine
    exports: tuple[str, ...]
    undefined: tuple[Undefined, ...]
    sections: tuple[SectionSize, ...]
    dropped_bytes: int


def merge_objects(
    objects: Sequence[ElfObject],
    *,
    exports: Mapping[str, str],
    unique: str,
    rename_local: Callable[[str], str] = str,
    where: str | None = None,
) -> MergedObject:
    """Merge `objects` into one whose only global definitions are the values of `exports`, by their old names.

    `unique` is a C identifier, different for each model; it keeps sections apart that a linker gathers by name
    (`__start_NAME`). `rename_local` gives the names under which localised symbols stay visible to a debugger.

    Raises ObjectError for objects that do not go together, and LinkError for a missing or doubly defined name.
    """
    for item in objects:
        _refuse_bytecode(item)
        _refuse_mips_pic(item)
    merge = _Merge(list(objects), exports, where)
    merge.choose_groups()
    merge.resolve()
    merge.allocate_common()
    merge.mark_reachable()
    return _Writer(merge, unique, rename_local).write()


def _refuse_bytecode(item: ElfObject) -> None:
    """Refuse slim LTO objects; fat ones hold machine code too (linking.md 3, pitfall 8)."""
    if _SLIM_LTO_SYMBOL in item.symbols.names:
        raise ObjectError(
            "holds LTO bytecode instead of machine code",
            where=item.label,
            hint="compile it with -fno-lto or -ffat-lto-objects",
        )


def _refuse_mips_pic(item: ElfObject) -> None:
    """Refuse code that loads addresses from a GOT: `R_MIPS_GOT16` means something else for a local symbol."""
    if item.machine.number == elf.EM_MIPS and item.machine.flags & _MIPS_PIC:
        raise ObjectError(
            "is position-independent MIPS code, in which names cannot be made local",
            where=item.label,
            hint="compile it with -mno-abicalls -fno-pic",
        )


@dataclass(slots=True)
class _Definition:
    """How a global name is resolved so far; a higher rank wins."""

    rank: int
    object: int
    symbol: int


# A COMMON symbol beats a weak definition (gABI 4, "Symbol Table"); the names from _WEAK on have storage.
_WEAK_REFERENCE, _REFERENCE, _WEAK, _COMMON, _STRONG = range(5)


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


class _Merge:
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
        self.definitions: dict[str, _Definition] = {}
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
            if section.type in _RELOCATION_TYPES and not self.kept[self.relocated(place)]:
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
                if known is not None and rank == known.rank == _STRONG:
                    clashes.setdefault(name, {self.objects[known.object].label}).add(item.label)
                elif known is None or rank > known.rank:
                    self.definitions[name] = _Definition(rank, number, symbol)
        if clashes:
            found = "; ".join(f"`{name}` in {' and '.join(sorted(owners))}" for name, owners in sorted(clashes.items()))
            raise LinkError(f"defined more than once: {found}", where=self.where)
        missing = [name for name in self.exports if name not in self.definitions or self.definitions[name].rank < _WEAK]
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
        ranks = np.where(weak, _WEAK, _STRONG)
        ranks[section == COMMON] = _COMMON
        ranks[undefined] = np.where(weak[undefined], _WEAK_REFERENCE, _REFERENCE)
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
            if self.definitions[name].rank == _COMMON:
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
        if definition.rank == _COMMON:
            return self.common[name]
        section = int(self.objects[definition.object].symbols.section[definition.symbol])
        if definition.rank < _WEAK or section == ABSOLUTE:
            return -1
        return self.place(definition.object, section)

    def gathered(self) -> dict[str, list[int]]:
        """Give the sections whose bounds the model asks for by `__start_NAME`, by NAME; linkers gather those by name alone."""
        asked = {_bounded_section(name) for name, found in self.definitions.items() if found.rank < _WEAK} - {""}
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

    def __init__(self, merge: _Merge, targets: list[Integers]) -> None:
        self.merge = merge
        self.targets = targets
        self.alive = [False] * len(merge.sections)
        self.work: list[int] = []
        self.relocations: dict[int, list[int]] = {}
        self.followers: dict[int, list[int]] = {}
        for place, section in enumerate(merge.sections):
            if not merge.kept[place]:
                continue
            if section.type in _RELOCATION_TYPES:
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
            symbols = _symbol_indices(self.merge, relocation)
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


def _bounded_section(name: str) -> str:
    """Give NAME of `__start_NAME` or `__stop_NAME`, and of any other name nothing."""
    return next((name[len(edge) :] for edge in _EDGES if name.startswith(edge)), "")


def _bounds(symbols: Symbols, gathered: Mapping[str, list[int]]) -> dict[int, list[int]]:
    """Give the sections that each `__start_NAME` and `__stop_NAME` of a symbol table stands for."""
    if not gathered:
        return {}
    names = ((symbol, _bounded_section(symbols.names[symbol])) for symbol in range(symbols.local_count, len(symbols)))
    return {symbol: gathered[name] for symbol, name in names if name in gathered}


def _symbol_indices(merge: _Merge, relocation: int) -> Integers:
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


def _symbol_name(item: ElfObject, symbol: int) -> str:
    """Give the name of a symbol as a message shows it; section symbols have none of their own."""
    section = int(item.symbols.section[symbol])
    return item.symbols.names[symbol] or (item.sections[section].name if section > 0 else "")


class _Writer:
    """Lays out what a merge decided to keep, and writes it."""

    def __init__(self, merge: _Merge, unique: str, rename_local: Callable[[str], str]) -> None:
        self.merge = merge
        self.unique = unique
        self.rename_local = rename_local
        self.output: list[Section] = [Section(name="", type=elf.SHT_NULL, alignment=1)]
        self.places = np.zeros(len(merge.sections), np.int64)  # number of a section -> its index in the output
        self.shift: dict[int, int] = {}  # number of an .eh_frame section -> where it begins in the joined one
        self.maps: list[Integers] = []
        self.used: dict[str, bool] = {}
        self.borrowed: list[list[int]] = []  # by object: symbols that only a section's twin still has
        self.gathered = merge.gathered()
        self.relocated = {
            merge.relocated(place)
            for place, section in enumerate(merge.sections)
            if merge.kept[place] and section.type in _RELOCATION_TYPES
        }

    def write(self) -> MergedObject:
        self._place_sections()
        symbols = self._build_symbols()
        self._write_relocations()
        self._point_links()
        data = elf.write_object(self.merge.machine, self.output, symbols)
        return MergedObject(
            data=data,
            machine=self.merge.machine,
            exports=tuple(sorted(self.merge.exports.values())),
            undefined=self._undefined(),
            sections=tuple(_section_size(s) for s in self.output if s.flags & elf.SHF_ALLOC),
            dropped_bytes=self._dropped_bytes(),
        )

    def _place_sections(self) -> None:
        merge = self.merge
        unwind: int | None = None
        for place, section in enumerate(merge.sections):
            if not merge.kept[place] or section.type in _RELOCATION_TYPES:
                continue
            if section.name == ".eh_frame" and unwind is not None:
                self._join_unwind(place, unwind)
                continue
            if section.name == ".eh_frame":
                unwind = place
                self.shift[place] = 0
            self.places[place] = len(self.output)
            self.output.append(self._output_section(place, section))

    def _output_section(self, place: int, section: Section) -> Section:
        flags = section.flags & ~elf.SHF_GROUP
        name = f"{section.name}__{self.unique}" if section.name in self.gathered else section.name
        if name.startswith(".rodata") and section.type == elf.SHT_PROGBITS and place not in self.relocated:
            flags &= ~elf.SHF_WRITE  # TVM up to 0.16 forgot the `const` of its constant pool
        return replace(section, name=name, flags=flags)

    def _join_unwind(self, place: int, first: int) -> None:
        """Append an .eh_frame to the first: GNU ld edits only one of an object, and keeps dead code for the others.

        Nothing may come between, for a word of zeros would end the table; compilers fill theirs up to the alignment.
        """
        target = self.output[self.places[first]]
        self.shift[place] = len(target.data)
        target.data = b"".join([target.data, self.merge.sections[place].data])
        target.size_bytes = len(target.data)
        self.places[place] = self.places[first]

    def _build_symbols(self) -> Symbols:
        rows: list[_Row] = [_Row("", 0, 0, 0, 0, 0)]
        self.used = self._used_names()
        names_by_object: dict[int, list[str]] = {}
        for name, definition in sorted(self.merge.definitions.items()):
            names_by_object.setdefault(definition.object, []).append(name)
        global_rows: list[_Row] = []
        index: dict[str, int] = {}
        for number in range(len(self.merge.objects)):
            self.maps.append(self._local_rows(number, rows))
            # Beside the locals of their object, so that they belong to its STT_FILE symbol, which linkers' messages name.
            for name in names_by_object.get(number, ()):
                row = self._global_row(name)
                if row is None:
                    continue
                if row.info >> 4 == elf.STB_LOCAL:
                    index[name] = len(rows)
                    rows.append(row)
                else:
                    index[name] = -len(global_rows) - 1  # known once the locals are counted
                    global_rows.append(row)
        local_count = len(rows)
        resolved = {name: number if number >= 0 else local_count - number - 1 for name, number in index.items()}
        for number, item in enumerate(self.merge.objects):
            names = item.symbols.names[item.symbols.local_count :]
            self.maps[number][item.symbols.local_count :] = [resolved.get(name, 0) for name in names]
        return _columns(rows + global_rows, local_count)

    def _local_rows(self, number: int, rows: list[_Row]) -> Integers:
        symbols = self.merge.objects[number].symbols
        mapping: Integers = np.zeros(len(symbols), np.int64)
        borrowed: list[int] = []
        for symbol in range(1, symbols.local_count):
            row = self._local_row(number, symbol)
            if row is None:
                continue
            mapping[symbol] = len(rows)
            rows.append(row)
            if row.section > 0 and not self.merge.kept[self.merge.place(number, int(symbols.section[symbol]))]:
                borrowed.append(symbol)
        self.borrowed.append(borrowed)
        return mapping

    def _local_row(self, number: int, symbol: int) -> _Row | None:
        symbols = self.merge.objects[number].symbols
        section, value = int(symbols.section[symbol]), int(symbols.value[symbol])
        info, name = int(symbols.info[symbol]), symbols.names[symbol]
        if section == 0 or name == _FAT_LTO_SYMBOL:
            return None
        if section > 0:
            place = self._surviving(self.merge.place(number, section))
            section = int(self.places[place])
            if section == 0:
                return None
            value += self.shift.get(place, 0) if info & 15 != elf.STT_SECTION else 0
        # `$t` tells disassemblers the instruction set; linkers strip labels by the `.L` at their beginning.
        if info & 15 not in (elf.STT_SECTION, elf.STT_FILE) and not name.startswith(("$", ".")):
            name = self.rename_local(name)
        return _Row(name, info, int(symbols.other[symbol]), section, value, int(symbols.size[symbol]))

    def _surviving(self, place: int) -> int:
        """Give the section that stands for a discarded COMDAT member in debug information: its twin in the kept group."""
        return place if self.merge.kept[place] else self.merge.twins.get(place, place)

    def _used_names(self) -> dict[str, bool]:
        """Find the undefined names that allocated sections need, and whether any of them needs more than a weak one."""
        used: dict[str, bool] = {}
        for item, symbol in self._references():
            name = item.symbols.names[symbol]
            used[name] = used.get(name, False) or int(item.symbols.info[symbol]) >> 4 != elf.STB_WEAK
        return used

    def _references(self) -> Iterator[tuple[ElfObject, int]]:
        """Give each undefined symbol that a relocation of a kept, allocated section mentions, with its object."""
        merge = self.merge
        for place, section in enumerate(merge.sections):
            if not merge.kept[place] or section.type not in _RELOCATION_TYPES:
                continue
            if not merge.sections[merge.relocated(place)].flags & elf.SHF_ALLOC:
                continue
            item = merge.objects[int(merge.owner[place])]
            for symbol in _symbol_indices(merge, place).tolist():
                if symbol >= item.symbols.local_count and merge.definitions[item.symbols.names[symbol]].rank < _WEAK:
                    yield item, symbol

    def _global_row(self, name: str) -> _Row | None:
        merge, definition = self.merge, self.merge.definitions[name]
        symbols, symbol = merge.objects[definition.object].symbols, definition.symbol
        info, other = int(symbols.info[symbol]), int(symbols.other[symbol])
        if definition.rank < _WEAK:
            if name not in self.used:
                return None
            binding = elf.STB_GLOBAL if self.used[name] else elf.STB_WEAK
            return _Row(self._bound_name(name), binding << 4 | info & 15, other, 0, 0, 0)
        other &= ~3  # a hidden entrypoint could not be called from another object
        binding = elf.STB_GLOBAL if name in merge.exports else elf.STB_LOCAL
        visible = merge.exports[name] if name in merge.exports else self.rename_local(name)
        if definition.rank == _COMMON:
            place = merge.common[name]
            kind = elf.STT_TLS if merge.sections[place].flags & elf.SHF_TLS else elf.STT_OBJECT
            return self._defined_row(visible, binding << 4 | kind, other, place, 0, merge.sections[place].size_bytes)
        value, size = int(symbols.value[symbol]), int(symbols.size[symbol])
        if int(symbols.section[symbol]) == ABSOLUTE:
            return _Row(visible, binding << 4 | info & 15, other, ABSOLUTE, value, size)
        return self._defined_row(visible, binding << 4 | info & 15, other, merge.defining_place(name), value, size)

    def _defined_row(self, name: str, info: int, other: int, place: int, value: int, size: int) -> _Row | None:
        section = int(self.places[place])
        return _Row(name, info, other, section, value + self.shift.get(place, 0), size) if section else None

    def _bound_name(self, name: str) -> str:
        """Follow a gathered section to its new name."""
        return f"{name}__{self.unique}" if _bounded_section(name) in self.gathered else name

    def _write_relocations(self) -> None:
        joined: dict[int, list[npt.NDArray[np.void]]] = {}
        for place, section in enumerate(self.merge.sections):
            if not self.merge.kept[place] or section.type not in _RELOCATION_TYPES:
                continue
            target = self.merge.relocated(place)
            entries = self._rewritten(place, target)
            index = int(self.places[target])
            if target in self.shift:
                joined.setdefault(section.type, []).append(entries)
                if len(joined[section.type]) > 1:
                    continue
            self.output.append(
                replace(section, flags=section.flags & ~elf.SHF_GROUP, data=entries.tobytes(), info=index)
            )
        for kind, parts in joined.items():
            made = next(s for s in self.output if s.type == kind and self.output[s.info].name == ".eh_frame")
            made.data = np.concatenate(parts).tobytes()
            made.size_bytes = len(made.data)

    def _rewritten(self, place: int, target: int) -> npt.NDArray[np.void]:
        """Give the entries of a relocation section with the symbol indices of the merged object."""
        number = int(self.merge.owner[place])
        item, shift = self.merge.objects[number], self.merge.machine.symbol_shift
        _symbol_indices(self.merge, place)
        entries = item.relocations(self.merge.sections[place]).copy()
        old = (entries["info"] >> shift).astype(np.int64)
        new = self.maps[number][old]
        if self.borrowed[number] and self.merge.sections[target].flags & elf.SHF_ALLOC:
            new[np.isin(old, self.borrowed[number])] = 0
        lost = (old != 0) & (new == 0)
        kind = entries["info"] & ((1 << shift) - 1)
        entries["info"] = (new.astype(entries["info"].dtype) << shift) | kind
        if lost.any():
            self._bury(place, target, entries, lost, old)
        entries["offset"] += self.shift.get(target, 0)
        if target in self.shift:
            self._shift_section_symbols(number, entries, old)
        return entries

    def _shift_section_symbols(self, number: int, entries: npt.NDArray[np.void], old: Integers) -> None:
        """Correct references from unwind tables to their own section by its section symbol."""
        symbols = self.merge.objects[number].symbols
        for symbol in np.unique(old).tolist():
            place = self.merge.place(number, int(symbols.section[symbol])) if int(symbols.section[symbol]) > 0 else -1
            if (
                self.shift.get(place)
                and int(symbols.info[symbol]) & 15 == elf.STT_SECTION
                and "addend" in (entries.dtype.names or ())
            ):
                entries["addend"][old == symbol] += self.shift[place]

    def _bury(
        self, place: int, target: int, entries: npt.NDArray[np.void], lost: npt.NDArray[np.bool_], old: Integers
    ) -> None:
        """Turn references to what was dropped into no relocation at all, as `ld -r` does.

        Linkers drop the unwind entries that this leaves without code, and debuggers read the value as "gone".
        """
        section = self.merge.sections[target]
        if section.name == ".eh_frame":
            pass
        elif section.flags & elf.SHF_ALLOC:
            item = self.merge.objects[int(self.merge.owner[place])]
            raise ObjectError(
                f"{section.name} refers to `{_symbol_name(item, int(old[lost][0]))}` in a section that another object's"
                " COMDAT group replaced",
                where=item.label,
            )
        else:
            self._bury_in_place(self.output[int(self.places[target])], entries[lost], place)
        entries["info"][lost] = 0  # R_<machine>_NONE of every machine
        if "addend" in (entries.dtype.names or ()):
            entries["addend"][lost] = 0

    def _bury_in_place(self, section: Section, entries: npt.NDArray[np.void], place: int) -> None:
        if section.flags & elf.SHF_COMPRESSED:
            return  # the offsets are those of the uncompressed data
        gone = 1 if section.name in _LIST_SECTIONS else 0
        if "addend" in (entries.dtype.names or ()) and not gone:
            return
        # The fields of a machine without addends are 32-bit words; with them the lists hold addresses.
        size = 8 if "addend" in (entries.dtype.names or ()) and self.merge.machine.is_64 else 4
        word = gone.to_bytes(size, "big" if self.merge.machine.is_big_endian else "little")
        data = bytearray(section.data)
        for offset in entries["offset"].tolist():
            if offset + size > len(data):
                label = self.merge.objects[int(self.merge.owner[place])].label
                raise ObjectError("the object file is damaged: a relocation outside its section", where=label)
            data[offset : offset + size] = word
        section.data = bytes(data)

    def _point_links(self) -> None:
        """Point `sh_link` of ordered sections at their new partner."""
        for place, section in enumerate(self.merge.sections[: len(self.merge.owner)]):
            index = int(self.places[place])
            if index and section.link and section.type not in _RELOCATION_TYPES:
                linked = self.merge.place(int(self.merge.owner[place]), section.link)
                self.output[index].link = int(self.places[linked])

    def _undefined(self) -> tuple[Undefined, ...]:
        users: dict[str, set[str]] = {}
        for item, symbol in self._references():
            users.setdefault(item.symbols.names[symbol], set()).add(item.label)
        return tuple(
            Undefined(name=name, is_weak=not self.used[name], needed_by=tuple(sorted(labels)))
            for name, labels in sorted(users.items())
            if _bounded_section(name) not in self.gathered
        )

    def _dropped_bytes(self) -> int:
        pairs = zip(self.merge.sections, self.merge.kept, strict=True)
        return sum(section.size_bytes for section, kept in pairs if section.flags & elf.SHF_ALLOC and not kept)


@dataclass(frozen=True, slots=True)
class _Row:
    """A symbol of the merged object."""

    name: str
    info: int
    other: int
    section: int
    value: int
    size: int


def _columns(rows: list[_Row], local_count: int) -> Symbols:
    return Symbols(
        names=[row.name for row in rows],
        info=np.array([row.info for row in rows], np.uint8),
        other=np.array([row.other for row in rows], np.uint8),
        section=np.array([row.section for row in rows], np.int64),
        value=np.array([row.value for row in rows], np.uint64),
        size=np.array([row.size for row in rows], np.uint64),
        local_count=local_count,
    )


def _section_size(section: Section) -> SectionSize:
    return SectionSize(
        name=section.name,
        size_bytes=section.size_bytes,
        is_writable=bool(section.flags & elf.SHF_WRITE),
        is_code=bool(section.flags & elf.SHF_EXECINSTR),
        occupies_file=section.type != elf.SHT_NOBITS,
    )
