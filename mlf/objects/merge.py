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

from mlf.errors import ObjectError
from mlf.objects import elf
from mlf.objects.elf import ABSOLUTE, ElfObject, Machine, Section, Symbols
from mlf.objects.resolve import RELOCATION_TYPES, Rank, Selection, bounded_section, symbol_indices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]

_SLIM_LTO_SYMBOL = "__gnu_lto_slim"
_FAT_LTO_SYMBOL = "__gnu_lto_v1"
# In these a pair of zeros ends a list, so that a dropped address must read 1 (as GNU ld writes it).
_LIST_SECTIONS = (".debug_ranges", ".debug_loc")
_MIPS_PIC = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Undefined:
    """A name that the merged object needs from elsewhere, and the labels of the objects that need it."""

    name: str
    is_weak: bool
    needed_by: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedObject:
    """A merged object: its bytes, its machine, what it defines and needs, and how much was left out."""

    data: bytes
    machine: Machine
    exports: tuple[str, ...]
    undefined: tuple[Undefined, ...]
    dropped_bytes: int


def merge_objects(  # noqa: PLR0913  # what may be said of the names of the result
    objects: Sequence[ElfObject],
    *,
    exports: Mapping[str, str],
    unique: str,
    rename_local: Callable[[str], str] = str,
    where: str | None = None,
    is_hidden: bool = False,
    is_weak: bool = False,
) -> MergedObject:
    """Merge `objects` into one whose only global definitions are the values of `exports`, by their old names.

    `unique` is a C identifier, different for each model; it keeps sections apart that a linker gathers by name
    (`__start_NAME`). `rename_local` gives the names under which localised symbols stay visible to a debugger. What
    `is_hidden` can be named by other objects of one program, but not by a shared object around it; of what `is_weak` a
    program may have several that are the same.

    Raises ObjectError for objects that do not go together, and LinkError for a missing or doubly defined name.
    """
    for item in objects:
        _refuse_bytecode(item)
        _refuse_mips_pic(item)
    merge = Selection(list(objects), exports, where)
    merge.choose_groups()
    merge.resolve()
    merge.allocate_common()
    merge.mark_reachable()
    binding = elf.STB_WEAK if is_weak else elf.STB_GLOBAL
    return _Writer(merge, unique, rename_local, binding, elf.STV_HIDDEN if is_hidden else 0).write()


def _refuse_bytecode(item: ElfObject) -> None:
    """Refuse slim LTO objects; fat ones hold machine code too."""
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


def _symbol_name(item: ElfObject, symbol: int) -> str:
    """Give the name of a symbol as a message shows it; section symbols have none of their own."""
    section = int(item.symbols.section[symbol])
    return item.symbols.names[symbol] or (item.sections[section].name if section > 0 else "")


class _Writer:
    """Lays out what a merge decided to keep, and writes it."""

    def __init__(
        self, merge: Selection, unique: str, rename_local: Callable[[str], str], binding: int, visibility: int
    ) -> None:
        self.binding = binding
        self.visibility = visibility
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
            if merge.kept[place] and section.type in RELOCATION_TYPES
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
            dropped_bytes=self._dropped_bytes(),
        )

    def _place_sections(self) -> None:
        merge = self.merge
        unwind: int | None = None
        for place, section in enumerate(merge.sections):
            if not merge.kept[place] or section.type in RELOCATION_TYPES:
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
                if row is None and name in self.merge.exports:
                    label = self.merge.objects[number].label
                    raise ObjectError(f"defines `{name}` in a section that holds no code and no data", where=label)
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
            if not merge.kept[place] or section.type not in RELOCATION_TYPES:
                continue
            if not merge.sections[merge.relocated(place)].flags & elf.SHF_ALLOC:
                continue
            item = merge.objects[int(merge.owner[place])]
            for symbol in symbol_indices(merge, place).tolist():
                if (
                    symbol >= item.symbols.local_count
                    and merge.definitions[item.symbols.names[symbol]].rank < Rank.WEAK
                ):
                    yield item, symbol

    def _global_row(self, name: str) -> _Row | None:
        merge, definition = self.merge, self.merge.definitions[name]
        symbols, symbol = merge.objects[definition.object].symbols, definition.symbol
        info, other = int(symbols.info[symbol]), int(symbols.other[symbol])
        if definition.rank < Rank.WEAK:
            if name not in self.used:
                return None
            binding = elf.STB_GLOBAL if self.used[name] else elf.STB_WEAK
            return _Row(self._bound_name(name), binding << 4 | info & 15, other, 0, 0, 0)
        other = other & ~3 | (self.visibility if name in merge.exports else 0)  # whatever the compiler was told
        binding = self.binding if name in merge.exports else elf.STB_LOCAL
        visible = merge.exports[name] if name in merge.exports else self.rename_local(name)
        if definition.rank == Rank.COMMON:
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
        return f"{name}__{self.unique}" if bounded_section(name) in self.gathered else name

    def _write_relocations(self) -> None:
        joined: dict[int, list[npt.NDArray[np.void]]] = {}
        for place, section in enumerate(self.merge.sections):
            if not self.merge.kept[place] or section.type not in RELOCATION_TYPES:
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
        symbol_indices(self.merge, place)
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
            if index and section.link and section.type not in RELOCATION_TYPES:
                linked = self.merge.place(int(self.merge.owner[place]), section.link)
                self.output[index].link = int(self.places[linked])

    def _undefined(self) -> tuple[Undefined, ...]:
        users: dict[str, set[str]] = {}
        for item, symbol in self._references():
            users.setdefault(item.symbols.names[symbol], set()).add(item.label)
        return tuple(
            Undefined(name=name, is_weak=not self.used[name], needed_by=tuple(sorted(labels)))
            for name, labels in sorted(users.items())
            if bounded_section(name) not in self.gathered
        )

    def _dropped_bytes(self) -> int:
        pairs = zip(self.merge.sections, self.merge.kept, strict=True)
        return sum(
            section.size_bytes
            for section, kept in pairs
            if section.flags & elf.SHF_ALLOC and section.type != elf.SHT_NOBITS and not kept
        )


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
