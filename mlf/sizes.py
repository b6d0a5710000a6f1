"""What objects take of flash and RAM: by section, by function, and in a firmware that holds them.

Bytes are counted as GNU `size` counts them: what is never written is text, what is written and has content is data, the
rest bss. What a firmware holds is found as its linker finds it: copies of a COMDAT group are one, equal literals too, each
section begins at its alignment, and with `--gc-sections` only what is reached is there.

Sources: gABI chapter 4 (groups, `SHF_MERGE`, `SHF_LINK_ORDER`, `SHF_GNU_RETAIN`), the manual of GNU ld for what it keeps, Arm's
EHABI32 section 5 for tables of the unwinder.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mlf.objects import elf
from mlf.objects.fold import FOLD_PREFIX
from mlf.objects.resolve import RELOCATION_TYPES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from mlf.objects.elf import ElfObject, Section

_SHF_MERGE, _SHF_STRINGS = 0x10, 0x20
_STT_FUNC = 2
# Linkers keep these although nothing refers to them: start-up code walks the arrays, tools read the notes.
_KEPT_TYPES = (elf.SHT_INIT_ARRAY, elf.SHT_FINI_ARRAY, elf.SHT_PREINIT_ARRAY, elf.SHT_NOTE)
_ARM_EXIDX = 0x70000001  # entries of two words: a function's place, and how to unwind it
_CANTUNWIND = 1
_LIFTED_PREFIX = "mlf.const."  # then the unit's name, then the constant's


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes of memory as GNU `size` counts them: constants are text."""

    text_bytes: int = 0
    data_bytes: int = 0
    bss_bytes: int = 0

    @property
    def flash_bytes(self) -> int:
        """Text, and data, which start-up code copies from there."""
        return self.text_bytes + self.data_bytes

    def document(self) -> dict[str, int]:
        """Give the sizes with flash and RAM."""
        return {
            "bss_bytes": self.bss_bytes,
            "data_bytes": self.data_bytes,
            "flash_bytes": self.flash_bytes,
            "ram_bytes": self.data_bytes + self.bss_bytes,
            "text_bytes": self.text_bytes,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSizes:
    """What a firmware holds of a library.

    The sizes are those in its image: with the padding before sections, without literals that linkers find to be equal.
    """

    sizes: Sizes
    flash_padding_bytes: int
    ram_padding_bytes: int
    merged_bytes: int

    def document(self) -> dict[str, int]:
        """Give the sizes and what the image adds to and takes from those of its sections."""
        return {
            **self.sizes.document(),
            "flash_padding_bytes": self.flash_padding_bytes,
            "merged_bytes": self.merged_bytes,
            "ram_padding_bytes": self.ram_padding_bytes,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSize:
    """A function: its code, and the constants and variables to which no other function refers."""

    name: str
    role: str
    code_bytes: int
    constants_bytes: int
    ram_bytes: int

    def document(self) -> dict[str, Any]:
        """Give the function as the documents have it."""
        return {
            "code_bytes": self.code_bytes, "constants_bytes": self.constants_bytes, "name": self.name,
            "ram_bytes": self.ram_bytes, "role": self.role,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedData:
    """Constants or variables to which several functions refer."""

    name: str
    flash_bytes: int
    ram_bytes: int
    functions: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Give the data as the documents have them."""
        return {
            "flash_bytes": self.flash_bytes, "functions": list(self.functions), "name": self.name, "ram_bytes": self.ram_bytes,
        }  # fmt: skip


def kind_of(section: Section) -> str:
    """Tell what GNU `size` counts an allocated section as: `text`, `data` or `bss`."""
    if section.flags & elf.SHF_EXECINSTR or not section.flags & elf.SHF_WRITE:
        return "text"
    return "bss" if section.type == elf.SHT_NOBITS else "data"


def measure(item: ElfObject) -> Sizes:
    """Sum the allocated sections of an object."""
    return _sum_of(section for section in item.sections if section.flags & elf.SHF_ALLOC)


def _sum_of(sections: Iterable[Section]) -> Sizes:
    totals = dict.fromkeys(("text", "data", "bss"), 0)
    for section in sections:
        totals[kind_of(section)] += section.size_bytes
    return Sizes(text_bytes=totals["text"], data_bytes=totals["data"], bss_bytes=totals["bss"])


def section_totals(item: ElfObject) -> list[dict[str, Any]]:
    """Sum an object's sections by name, without the names of functions and data that compilers append."""
    totals: dict[tuple[str, str], int] = defaultdict(int)
    names = _names_by_section(item)
    for place, section in enumerate(item.sections):
        if section.flags & elf.SHF_ALLOC and section.size_bytes:
            totals[_stem(section, names[place]), kind_of(section)] += section.size_bytes
    return [{"kind": kind, "name": name, "size_bytes": size} for (name, kind), size in sorted(totals.items())]


def _names_by_section(item: ElfObject) -> dict[int, list[str]]:
    names: dict[int, list[str]] = defaultdict(list)
    for name, home in zip(item.symbols.names, item.symbols.section.tolist(), strict=True):
        if home > 0 and name:
            names[home].append(name)
    return names


def _stem(section: Section, names: Iterable[str]) -> str:
    """Give the name of a section without that of what is in it; TVM's names may have been replaced by the model's."""
    if section.flags & elf.SHF_EXECINSTR and section.name.startswith(".text."):
        return ".text"
    if section.flags & elf.SHF_LINK_ORDER:  # the name of the section that it belongs to follows
        return section.name.partition(".text")[0] or section.name
    before, found, _ = section.name.partition(".tvmgen_")
    if found and before:
        return before
    return next(
        (section.name.removesuffix(f".{name}") for name in names if section.name.endswith(f".{name}")), section.name
    )


class Image:
    """The members of a library as the linker of a firmware sees them; a place is a member and the index of a section."""

    def __init__(self, members: Mapping[str, ElfObject]) -> None:
        self.members = members
        self.groups: dict[str, list[tuple[str, int]]] = {}  # of each signature the group that is kept
        self.discarded: set[tuple[str, int]] = set()
        self.homes: dict[str, tuple[str, int]] = {}
        self.edges: dict[tuple[str, int], set[tuple[str, int]]] = defaultdict(set)
        for member, item in members.items():
            self._take_groups(member, item)
        for member, item in members.items():
            self._take_names(member, item)
        for member, item in members.items():
            self._follow_references(member, item)

    def _take_groups(self, member: str, item: ElfObject) -> None:
        for section in item.sections:
            if section.type == elf.SHT_GROUP:
                words = np.frombuffer(section.data, item.machine.order + "u4").tolist()
                places = [(member, place) for place in words[1:]]
                if item.symbols.names[section.info] in self.groups:
                    self.discarded.update(places)
                else:
                    self.groups[item.symbols.names[section.info]] = places
                for place in places:
                    self.edges[place].update(places)

    def _take_names(self, member: str, item: ElfObject) -> None:
        symbols = item.symbols
        for symbol in range(symbols.local_count, len(symbols)):
            place = (member, int(symbols.section[symbol]))
            if place[1] > 0 and place not in self.discarded:
                self.homes.setdefault(symbols.names[symbol], place)

    def _follow_references(self, member: str, item: ElfObject) -> None:
        for user, symbol in _references(item):
            home = self._home(member, item, symbol)
            if home:
                self.edges[member, user].add(home)
        for place, section in enumerate(item.sections):
            if section.flags & elf.SHF_LINK_ORDER:
                self.edges[member, section.link].add((member, place))

    def _home(self, member: str, item: ElfObject, symbol: int) -> tuple[str, int] | None:
        if symbol >= item.symbols.local_count:
            return self.homes.get(item.symbols.names[symbol])
        home = int(item.symbols.section[symbol])
        return (member, home) if home > 0 else None

    def everything(self, members: Collection[str] | None = None) -> set[tuple[str, int]]:
        """Give all of these members, or of all, as they are in a firmware that is linked without `--gc-sections`."""
        chosen = self.members if members is None else members
        places = {(member, place) for member in chosen for place in range(len(self.members[member].sections))}
        return self._allocated(places)

    def reached(self, roots: Iterable[str]) -> set[tuple[str, int]]:
        """Give what a firmware that refers to these names keeps with `--gc-sections`."""
        open_places = [self.homes[name] for name in roots if name in self.homes]
        found = set(open_places)
        pulled: set[str] = set()
        while open_places:
            place = open_places.pop()
            following = set(self.edges[place])
            if place[0] not in pulled:
                pulled.add(place[0])
                following |= set(self._kept(place[0]))
            open_places += following - found
            found |= following
        return self._allocated(found)

    def _kept(self, member: str) -> Iterator[tuple[str, int]]:
        for place, section in enumerate(self.members[member].sections):
            if section.type in _KEPT_TYPES or section.flags & elf.SHF_GNU_RETAIN:
                yield member, place

    def _allocated(self, places: set[tuple[str, int]]) -> set[tuple[str, int]]:
        return {place for place in places - self.discarded if self._section(place).flags & elf.SHF_ALLOC}

    def _section(self, place: tuple[str, int]) -> Section:
        return self.members[place[0]].sections[place[1]]

    def sum(self, places: Iterable[tuple[str, int]]) -> Sizes:
        """Sum sections, each for itself."""
        return _sum_of(self._section(place) for place in places)

    def sizes(self, places: Collection[tuple[str, int]]) -> ImageSizes:
        """Lay sections out in the order of the library, code, constants, data and bss each together."""
        order = {member: number for number, member in enumerate(self.members)}
        rows: dict[tuple[str, bool], list[Section]] = defaultdict(list)
        literals: dict[tuple[object, ...], list[Section]] = defaultdict(list)
        for place in sorted(places, key=lambda place: (order[place[0]], place[1])):
            section = self._section(place)
            if section.flags & (_SHF_MERGE | elf.SHF_WRITE) == _SHF_MERGE and section.entry_size:
                literals[section.flags, section.entry_size, section.alignment].append(section)
            else:
                rows[kind_of(section), bool(section.flags & elf.SHF_EXECINSTR)].append(section)
        merged = sum(_repeated_bytes(sections) for sections in literals.values())
        merged += sum(section.size_bytes for section in rows["text", False] if _is_empty_unwinding(section))
        rows["text", False] += [section for sections in literals.values() for section in sections]
        padding = dict.fromkeys(("text", "data", "bss"), 0)
        for (kind, _), sections in rows.items():
            padding[kind] += _padding_bytes(sections)
        plain = self.sum(places)
        return ImageSizes(
            sizes=Sizes(
                text_bytes=plain.text_bytes + padding["text"] - merged, data_bytes=plain.data_bytes + padding["data"],
                bss_bytes=plain.bss_bytes + padding["bss"],
            ),
            flash_padding_bytes=padding["text"] + padding["data"], ram_padding_bytes=padding["data"] + padding["bss"],
            merged_bytes=merged,
        )  # fmt: skip


def _is_empty_unwinding(section: Section) -> bool:
    """Tell whether a table says of functions only that they cannot be unwound: linkers keep one entry of neighbours."""
    words = bytes(section.data) if section.type == _ARM_EXIDX and len(section.data) % 8 == 0 else b""
    ends = {words[start + 4 : start + 8] for start in range(0, len(words), 8)}
    return ends <= {_CANTUNWIND.to_bytes(4, "little"), _CANTUNWIND.to_bytes(4, "big")} and bool(ends)


def _padding_bytes(sections: Iterable[Section]) -> int:
    """Count what lies between sections, one behind the other, because of their alignment."""
    end = padding = 0
    for section in sections:
        gap = -end % section.alignment
        end += gap + section.size_bytes
        padding += gap
    return padding


def _repeated_bytes(sections: Iterable[Section]) -> int:
    """Count the literals of mergeable sections of one kind that are there before."""
    seen: set[bytes] = set()
    repeated = 0
    for section in sections:
        for literal in _literals(section):
            repeated += len(literal) if literal in seen else 0
            seen.add(literal)
    return repeated


def _literals(section: Section) -> Iterator[bytes]:
    """Cut a section into its literals; strings with the padding behind them."""
    data, width = bytes(section.data), section.entry_size
    if not section.flags & _SHF_STRINGS:
        yield from (data[start : start + width] for start in range(0, len(data), width))
        return
    start = 0
    while start < len(data):
        end = start
        while end < len(data) and any(data[end : end + width]):
            end += width
        end += width
        end += -end % section.alignment
        yield data[start:end]
        start = end


def _references(item: ElfObject) -> Iterator[tuple[int, int]]:
    """Give each pair of a section and a symbol to which it refers."""
    shift = item.machine.symbol_shift
    for section in item.sections:
        if section.type in RELOCATION_TYPES:
            for symbol in np.unique(item.relocations(section)["info"] >> shift).tolist():
                yield section.info, symbol


@dataclass(slots=True, kw_only=True)
class _Piece:
    """What lies in a section from one symbol to the next."""

    name: str
    section: Section
    size_bytes: int
    is_function: bool


class _Pieces:
    """An object cut into functions and data, and who of them refers to whom."""

    def __init__(self, item: ElfObject) -> None:
        self.item = item
        self.pieces: list[_Piece] = []
        self.starts: dict[int, list[int]] = {}  # of a section's pieces
        self.first: dict[int, int] = {}  # the index of a section's first piece
        for place, marks in self._marks().items():
            self._cut(place, sorted(marks.items()))
        self._give_followers()
        self.references = self._find_references()

    def _marks(self) -> dict[int, dict[int, str]]:
        """Give the places in allocated sections at which functions and data begin, with their names."""
        symbols = self.item.symbols
        marks: dict[int, dict[int, str]] = {
            place: {0: ""} for place, section in enumerate(self.item.sections) if section.flags & elf.SHF_ALLOC and section.size_bytes
        }  # fmt: skip
        for symbol in np.flatnonzero(symbols.section > 0).tolist():
            place, kind = int(symbols.section[symbol]), int(symbols.info[symbol]) & 15
            if (
                place in marks
                and kind in (_STT_FUNC, elf.STT_OBJECT)
                and not symbols.names[symbol].startswith((FOLD_PREFIX, "."))
            ):
                marks[place][self._offset(symbol)] = symbols.names[symbol]
        return marks

    def _offset(self, symbol: int) -> int:
        """Give where in its section a symbol is; the lowest bit of a function's value tells Thumb code."""
        symbols = self.item.symbols
        value = int(symbols.value[symbol])
        is_thumb = self.item.machine.number == elf.EM_ARM and int(symbols.info[symbol]) & 15 == _STT_FUNC
        return value & ~1 if is_thumb else value

    def _cut(self, place: int, marks: list[tuple[int, str]]) -> None:
        section = self.item.sections[place]
        ends = [start for start, _ in marks[1:]] + [section.size_bytes]
        self.first[place] = len(self.pieces)
        self.starts[place] = [start for start, _ in marks]
        is_code = bool(section.flags & elf.SHF_EXECINSTR)
        for (start, name), end in zip(marks, ends, strict=True):
            size = max(end, start) - start
            self.pieces.append(_Piece(name=name or section.name, section=section, size_bytes=size, is_function=is_code))

    def _give_followers(self) -> None:
        """Count a section that belongs to one of code, such as its unwind table, with that."""
        for place, section in enumerate(self.item.sections):
            if section.flags & elf.SHF_LINK_ORDER and place in self.first and section.link in self.first:
                self.pieces[self.first[section.link]].size_bytes += section.size_bytes
                self.pieces[self.first[place]].size_bytes = 0

    def _at(self, place: int, offset: int) -> int:
        return self.first[place] + int(np.searchsorted(self.starts[place], offset, side="right")) - 1

    def _find_references(self) -> dict[int, set[int]]:
        found: dict[int, set[int]] = defaultdict(set)
        shift = self.item.machine.symbol_shift
        for section in self.item.sections:
            if section.type not in RELOCATION_TYPES or section.info not in self.first:
                continue
            entries = self.item.relocations(section)
            for offset, symbol in zip(entries["offset"].tolist(), (entries["info"] >> shift).tolist(), strict=True):
                found[self._at(section.info, offset)].update(self._meant(symbol))
        return found

    def _meant(self, symbol: int) -> range:
        """Give the pieces that a symbol stands for: without a name of its own, all of its section, any of which may be meant."""
        symbols = self.item.symbols
        place = int(symbols.section[symbol])
        if place not in self.first:
            return range(0)
        if int(symbols.info[symbol]) & 15 in (_STT_FUNC, elf.STT_OBJECT):
            piece = self._at(place, self._offset(symbol))
            return range(piece, piece + 1)
        return range(self.first[place], self.first[place] + len(self.starts[place]))

    def users(self) -> dict[int, list[int]]:
        """Give for each piece of data the functions that refer to it, also by way of other data."""
        users: dict[int, list[int]] = defaultdict(list)
        for function, piece in enumerate(self.pieces):
            if piece.is_function:
                for data in self._data_of(function):
                    users[data].append(function)
        return users

    def _data_of(self, function: int) -> set[int]:
        found: set[int] = set()
        open_pieces = [function]
        while open_pieces:
            following = {other for other in self.references[open_pieces.pop()] if not self.pieces[other].is_function}
            open_pieces += following - found
            found |= following
        return found


def break_down(
    item: ElfObject, roles: Mapping[str, str], *, except_section: str
) -> tuple[list[FunctionSize], list[SharedData]]:
    """Tell what each function of an object takes, and what several of them share.

    `roles` are by name; a function without one is an `operator`. Left out is the section of this name, and data to which
    no function refers.
    """
    cut = _Pieces(item)
    own: dict[int, list[_Piece]] = defaultdict(list)
    shared = []
    for data, users in sorted(cut.users().items()):
        piece = cut.pieces[data]
        if piece.section.name == except_section:
            continue
        if len(users) == 1:
            own[users[0]].append(piece)
        else:
            shared.append(_shared(piece, sorted(cut.pieces[user].name for user in users)))
    functions = [
        _function(piece, own[number], roles.get(piece.name, "operator"))
        for number, piece in enumerate(cut.pieces)
        if piece.is_function and piece.size_bytes
    ]
    return sorted(functions, key=lambda one: one.name), sorted(shared, key=lambda one: one.name)


def _memory(piece: _Piece) -> tuple[int, int]:
    kind = kind_of(piece.section)
    return piece.size_bytes if kind != "bss" else 0, piece.size_bytes if kind != "text" else 0


def _shared(piece: _Piece, functions: Iterable[str]) -> SharedData:
    flash, ram = _memory(piece)
    return SharedData(name=spoken(piece.name), flash_bytes=flash, ram_bytes=ram, functions=tuple(functions))


def _function(piece: _Piece, data: Iterable[_Piece], role: str) -> FunctionSize:
    memory = [_memory(one) for one in data]
    return FunctionSize(
        name=piece.name, role=role, code_bytes=piece.size_bytes, constants_bytes=sum(flash for flash, _ in memory),
        ram_bytes=sum(ram for _, ram in memory),
    )  # fmt: skip


def spoken(name: str) -> str:
    """Give the name of a lifted constant as the code had it."""
    return name.split(".", 3)[-1] if name.startswith(_LIFTED_PREFIX) else name


def unfolded(item: ElfObject) -> ElfObject:
    """Give an object in which functions that were folded have the names that they had before."""
    symbols = item.symbols
    places = list(zip(symbols.section.tolist(), symbols.value.tolist(), strict=True))
    at = {
        places[symbol]: symbols.names[symbol]
        for symbol in np.flatnonzero((symbols.info & 15 == _STT_FUNC) & (symbols.section > 0)).tolist()
        if not symbols.names[symbol].startswith(FOLD_PREFIX)
    }
    names = [
        at.get(place, name) if name.startswith(FOLD_PREFIX) else name
        for name, place in zip(symbols.names, places, strict=True)
    ]
    return replace(item, symbols=replace(symbols, names=names))


def global_functions(item: ElfObject) -> list[str]:
    """List the functions that an object defines for others."""
    symbols = item.symbols
    kinds = symbols.info & 15
    return sorted(
        symbols.names[symbol]
        for symbol in np.flatnonzero((kinds == _STT_FUNC) & (symbols.section > 0)).tolist()
        if symbol >= symbols.local_count
    )
