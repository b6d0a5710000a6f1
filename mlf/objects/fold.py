"""Let the linker of the firmware store constants and functions that several models hold alike only once.

Every section that can be shared becomes a COMDAT group whose signature is made from its content, and what refers to it
from outside does so by names that each copy of the group defines. Any linker then keeps one copy, be the models in one
library or in several, with and without `--gc-sections`; nothing has to be compared again.

Why that is harmless: a group is read-only; its name stands for its bytes, its relocations, what those refer to, and the
places in it that others refer to. Code is shared only if all that refers to it are calls and jumps, so that no program can
tell that its address became another's. Within a model two equal sections stay two, each with a name of its own. A linker
script that places a function of one model by its section name places the copy that all share.

Sources: gABI chapter 4 (section groups, `SHF_MERGE`), the psABI supplements of the machines for relocation types.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlf.naming import mangle
from mlf.objects import elf
from mlf.objects.elf import ABSOLUTE, ElfObject, Section, Symbols
from mlf.objects.resolve import RELOCATION_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]
    Flags = npt.NDArray[np.bool_]

FOLD_PREFIX = "mlf_fold_"
# A group costs nothing in an image, and 150 to 200 bytes in a library. Of what 54 real models share, smaller sections were
# 50 bytes of 120,000 on one machine and none on two, those from 16 to 32 bytes 1,664, 168 and none.
LEAST_BYTES = 16
_SCHEME = "mlf fold 1"  # part of every digest: to change what one covers is to change this
_DIGEST_DIGITS = 32
_GRP_COMDAT = 1
_SHF_MERGE, _SHF_STRINGS = 0x10, 0x20
_STT_FUNC = 2
_PLAIN_SYMBOLS = (0, elf.STT_OBJECT, _STT_FUNC, elf.STT_SECTION)
# Linkers give what these refer to in a discarded group the value 0, or that of the copy they kept, and say nothing.
_DEBUG_PREFIXES = (".debug", ".zdebug", ".stab", ".pdr")
_TABLE_NAMES = (".strtab", ".shstrtab")
_TABLE_TYPES = (elf.SHT_NULL, elf.SHT_SYMTAB, elf.SHT_SYMTAB_SHNDX)

_EM_X86_64, _EM_AARCH64 = 62, 183
# Relocations that only pass control on. Those of x86-64 mean any distance: there the opcode before them decides. Of other
# machines no code is shared.
_CALLS: Mapping[int, tuple[int, ...]] = {
    elf.EM_MIPS: (4, 10),  # 26, PC16
    elf.EM_ARM: (10, 28, 29, 30, 51, 52, 102, 103),  # THM_CALL, CALL, JUMP24, THM_JUMP24, THM_JUMP19, 6, 11, 8
    _EM_X86_64: (2, 4),  # PC32, PLT32
    _EM_AARCH64: (279, 280, 282, 283),  # TSTBR14, CONDBR19, JUMP26, CALL26
    elf.EM_RISCV: (16, 17, 18, 19, 44, 45),  # BRANCH, JAL, CALL, CALL_PLT, RVC_BRANCH, RVC_JUMP
}
# Relocations against labels in the same section that make no address of it: the second half of a pair, whose first half,
# at the label, says what is meant.
_LABELS: Mapping[int, tuple[int, ...]] = {elf.EM_RISCV: (24, 25)}  # PCREL_LO12_I, PCREL_LO12_S
_X86_CALLS = (b"\xe8", b"\xe9")  # call, jmp
_X86_CONDITIONAL, _X86_CONDITIONS = b"\x0f", tuple(bytes([code]) for code in range(0x80, 0x90))  # jcc


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedSection:
    """A section that became a group: how often it is in the library, and the names that its content is known by."""

    digest: str
    section: str
    size_bytes: int
    is_code: bool
    models: tuple[str, ...]
    what: tuple[str, ...]

    @property
    def saved_bytes(self) -> int:
        """What the image is smaller by, padding apart."""
        return (len(self.models) - 1) * self.size_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """Objects by model, rewritten, and all groups in them, also those of one model, which other libraries may share."""

    data: Mapping[str, bytes]
    groups: tuple[FoldedSection, ...]

    @property
    def saved_bytes(self) -> int:
        """What an image that holds all models is smaller by, padding apart."""
        return sum(group.saved_bytes for group in self.groups)


def fold_objects(
    objects: Mapping[str, bytes], *, least_bytes: int = LEAST_BYTES, except_section: str | None = None
) -> Folded:
    """Put the shareable sections of merged objects, given by model, into groups named by their content.

    Each object is one that `merge_objects` made, so that its global definitions are its entrypoints, which are never
    shared. `least_bytes` is the size from which on a section gets a group; equal ones meet only if they have one. Sections of
    the name `except_section` get none.

    Raises ObjectError for what is no object file.
    """
    models = {
        name: _Model(name, elf.parse_object(objects[name], name), least_bytes, except_section)
        for name in sorted(objects)
    }
    return Folded(data={name: models[name].rewritten() for name in objects}, groups=_groups(models))


def _groups(models: Mapping[str, _Model]) -> tuple[FoldedSection, ...]:
    owners: dict[str, dict[str, int]] = {}
    for name, model in models.items():
        for place, digest in model.digests.items():
            owners.setdefault(digest, {})[name] = place
    found = [_folded_section(digest, models, places) for digest, places in owners.items()]
    return tuple(sorted(found, key=lambda group: (group.section, group.digest)))


def _folded_section(digest: str, models: Mapping[str, _Model], places: Mapping[str, int]) -> FoldedSection:
    first, place = next(iter(places.items()))
    section = models[first].item.sections[place]
    return FoldedSection(
        digest=digest,
        section=section.name,
        size_bytes=section.size_bytes,
        is_code=bool(section.flags & elf.SHF_EXECINSTR),
        models=tuple(places),
        what=tuple(sorted({name for model, at in places.items() for name in models[model].names_in(at)})),
    )


class _Point(NamedTuple):
    """A place in a section that others refer to, and what linkers go by there: Thumb bit, calling convention."""

    value: int
    is_function: bool
    other: int

    def symbol(self, digest: str) -> str:
        if self == _START:
            return FOLD_PREFIX + digest
        return f"{FOLD_PREFIX}{digest}_{self.value:x}{'f' * self.is_function}{f'_{self.other:x}' if self.other else ''}"


_START = _Point(0, False, 0)


class _References(NamedTuple):
    """The entries of a relocation section: what they apply to, their types, symbols, and the sections of those.

    `unit` is the section that leads the group to which `user` would belong: itself, or the one that it follows.
    """

    place: int
    user: int
    unit: int
    entries: npt.NDArray[np.void]
    kinds: Integers
    symbols: Integers
    homes: Integers


class _Model:
    """One object: finds what can be shared, names it, writes the object anew."""

    def __init__(self, name: str, item: ElfObject, least_bytes: int, except_section: str | None) -> None:
        self.name = name
        self.item = item
        self.references = [self._read(place, s) for place, s in enumerate(item.sections) if s.type in RELOCATION_TYPES]
        self.by_unit: dict[int, list[_References]] = {}
        for found in self.references:
            self.by_unit.setdefault(found.unit, []).append(found)
        self.followers: dict[int, list[int]] = {}
        for place, section in enumerate(item.sections):
            if section.flags & elf.SHF_LINK_ORDER:
                self.followers.setdefault(section.link, []).append(place)
        self.symbols_in: dict[int, list[int]] = {}
        for symbol, home in enumerate(item.symbols.section.tolist()):
            self.symbols_in.setdefault(home, []).append(symbol)
        self.points: dict[int, set[_Point]] = {}
        self.digests: dict[int, str] = {}
        self._note_points()
        candidates = {place for place in self.points if item.sections[place].name != except_section}
        self._name_all({place for place in candidates if self._has_form(place, least_bytes)} - self._pinned())

    def _read(self, place: int, section: Section) -> _References:
        entries, shift = self.item.relocations(section), self.item.machine.symbol_shift
        symbols: Integers = (entries["info"] >> shift).astype(np.int64)
        kinds: Integers = (entries["info"] & ((1 << shift) - 1)).astype(np.int64)
        user = self.item.sections[section.info]
        unit = user.link if user.flags & elf.SHF_LINK_ORDER else section.info
        return _References(place, section.info, unit, entries, kinds, symbols, self.item.symbols.section[symbols])

    def names_in(self, place: int) -> list[str]:
        """Give the names that the compiler knew a section's content by."""
        names = (self.item.symbols.names[symbol] for symbol in self.symbols_in.get(place, ()))
        return [name for name in names if name and not name.startswith(("$", "."))]

    def _is_allocated(self, place: int) -> bool:
        return bool(self.item.sections[place].flags & elf.SHF_ALLOC)

    def _is_code(self, place: int) -> bool:
        return bool(self.item.sections[place].flags & elf.SHF_EXECINSTR)

    def _point(self, symbol: int) -> _Point:
        symbols = self.item.symbols
        kind, other = int(symbols.info[symbol]) & 15, int(symbols.other[symbol]) & ~3
        return _Point(int(symbols.value[symbol]), kind == _STT_FUNC, other)

    def _note_points(self) -> None:
        """Note where program and data refer into other sections; what nothing refers to is there for its place."""
        for found in self.references:
            if not self._is_allocated(found.user) or found.user != found.unit or self._is_unwinding(found.user):
                continue
            outside = (found.homes > 0) & (found.homes != found.user)
            for symbol in np.unique(found.symbols[outside]).tolist():
                self.points.setdefault(int(self.item.symbols.section[symbol]), {_START}).add(self._point(symbol))

    def _is_unwinding(self, place: int) -> bool:
        return self.item.sections[place].name == ".eh_frame"

    def _has_form(self, place: int, least_bytes: int) -> bool:
        section = self.item.sections[place]
        if section.type != elf.SHT_PROGBITS or section.flags & ~elf.SHF_EXECINSTR != elf.SHF_ALLOC:
            return False
        if section.size_bytes < max(least_bytes, 1) or not section.name.startswith("."):
            return False  # linkers gather a section whose name is an identifier, so that its neighbours matter
        points = [self._point(s) for s in self.symbols_in[place] if int(self.item.symbols.info[s]) & 15 == _STT_FUNC]
        # A function can take the address of another of its section without a relocation.
        return not self._is_code(place) or len({point.value for point in points}) == 1

    def _pinned(self) -> set[int]:
        """Give the sections that must stay as they are, whatever is in them."""
        symbols = self.item.symbols
        pinned = set(symbols.section[symbols.local_count :].tolist())
        pinned |= set(symbols.section[~np.isin(symbols.info & 15, _PLAIN_SYMBOLS)].tolist())
        for found in self.references:
            pinned |= self._pinned_by(found)
        return pinned

    def _pinned_by(self, found: _References) -> set[int]:
        """Give what must stay because of who refers to it, or how."""
        if not self._is_allocated(found.user):
            is_debug = self.item.sections[found.user].name.startswith(_DEBUG_PREFIXES)
            return set() if is_debug else set(found.homes.tolist())
        if self._is_unwinding(found.user):
            return set(found.homes.tolist())
        if found.user != found.unit:  # unwind tables of Arm are of the group of their code, and of no use to others
            return {found.unit} if set(found.homes.tolist()) - {0, found.unit} else set()
        passes = self._passes_control(found)
        return {place for place in set(found.homes[~passes].tolist()) if place > 0 and self._is_code(place)}

    def _passes_control(self, found: _References) -> Flags:
        """Tell of each reference whether it is a call, a jump, or otherwise no use of an address as a value."""
        machine = self.item.machine.number
        calls: Flags = np.isin(found.kinds, _CALLS.get(machine, ())) & self._is_code(found.user)
        if machine == _EM_X86_64:
            data = self.item.sections[found.user].data
            for row in np.flatnonzero(calls).tolist():
                calls[row] = _is_x86_call(data, int(found.entries["offset"][row]))
        labels: Flags = np.isin(found.kinds, _LABELS.get(machine, ())) & (found.homes == found.user)
        return calls | labels

    def _name_all(self, candidates: set[int]) -> None:
        """Name sections after all that they refer to; those that never are refer to what cannot be shared, or in a circle.

        Equal sections are named in the same round, so that their numbers follow their order in the object.
        """
        needs = {place: self._needs(place) for place in sorted(candidates)}
        numbers: Counter[str] = Counter()
        while ready := [place for place, others in needs.items() if others <= self.digests.keys()]:
            for place in ready:
                del needs[place]
                content = self._digest(place)
                numbers[content] += 1
                self.digests[place] = _hash([content, numbers[content]])

    def _needs(self, place: int) -> set[int]:
        """Give the other sections that must be named before `place`; one that never will be stands for what cannot be."""
        needs: set[int] = set()
        for found in self.by_unit.get(place, ()):
            for symbol in np.unique(found.symbols[(found.homes > 0) & (found.homes != place)]).tolist():
                if self._entry(symbol) is None:
                    needs.add(int(self.item.symbols.section[symbol]))
        return needs

    def _entry(self, symbol: int) -> bytes | None:
        """Give the content of the entry of a mergeable section that a symbol stands for; linkers share those themselves."""
        symbols = self.item.symbols
        section = self.item.sections[int(symbols.section[symbol])]
        width = section.entry_size
        is_constant = section.flags & (_SHF_MERGE | elf.SHF_WRITE) == _SHF_MERGE and width > 0
        if not is_constant or int(symbols.info[symbol]) & 15 == elf.STT_SECTION or self._is_relocated(symbol):
            return None
        data, start = bytes(section.data), int(symbols.value[symbol])
        if start % width:
            return None
        if not section.flags & _SHF_STRINGS:
            return data[start : start + width]
        end = start
        while end < len(data) and any(data[end : end + width]):
            end += width
        return data[start:end]

    def _is_relocated(self, symbol: int) -> bool:
        return int(self.item.symbols.section[symbol]) in self.by_unit

    def _digest(self, place: int) -> str:
        section, machine = self.item.sections[place], self.item.machine
        facts: list[object] = [
            _SCHEME,
            (machine.is_64, machine.is_big_endian, machine.number, machine.flags, machine.os_abi),
            (self._stem(place), section.flags, section.alignment, section.size_bytes),
            sorted(tuple(point) for point in self.points[place]),
            self._mapping(place) if self._is_code(place) else [],
            hashlib.sha256(section.data).digest(),
        ]
        for follower in (self.item.sections[at] for at in self.followers.get(place, ())):
            facts.append((follower.type, follower.flags, follower.alignment, bytes(follower.data)))
        for found in self.by_unit.get(place, ()):
            facts.append((self._relocation_facts(found), self.item.sections[found.place].type, found.user == place))
        return _hash(facts)

    def _relocation_facts(self, found: _References) -> list[object]:
        identities = {symbol: self._identity(symbol, found.unit) for symbol in np.unique(found.symbols).tolist()}
        columns = [found.entries["offset"].tolist(), found.kinds.tolist()]
        if "addend" in (found.entries.dtype.names or ()):
            columns.append(found.entries["addend"].tolist())
        return [columns, [identities[symbol] for symbol in found.symbols.tolist()]]

    def _identity(self, symbol: int, unit: int) -> tuple[object, ...]:
        """Say what a symbol stands for in a way that is the same in every object."""
        symbols = self.item.symbols
        home = int(symbols.section[symbol])
        if home == 0:
            return ("undefined", symbols.names[symbol], int(symbols.info[symbol]), int(symbols.other[symbol]))
        if home == ABSOLUTE:
            return ("absolute", *self._point(symbol))
        if home == unit:
            return ("self", *self._point(symbol))
        entry = self._entry(symbol)
        if entry is None:
            return ("section", self.digests[home], *self._point(symbol))
        section = self.item.sections[home]
        return ("entry", section.name, section.flags, section.alignment, section.entry_size, entry)

    def _mapping(self, place: int) -> list[tuple[int, str]]:
        """Give the marks of code and data in code, by which linkers swap bytes and disassemblers read."""
        symbols = self.item.symbols
        marks = [s for s in self.symbols_in.get(place, ()) if symbols.names[s].startswith("$")]
        return sorted((int(symbols.value[s]), symbols.names[s].partition(".")[0]) for s in marks)

    def _stem(self, place: int) -> str:
        """Give the name of a section without that of its function or datum, which compilers append.

        TVM's names begin with that of the module, which a merge replaces by the model's in symbols alone.
        """
        name, prefix = self.item.sections[place].name, mangle(self.name, "")
        for symbol in self.names_in(place):
            if name.endswith("." + symbol):
                return name[: -len(symbol)]
            before, _, after = name.partition(".tvmgen_")
            if symbol.startswith(prefix) and after.endswith("_" + symbol[len(prefix) :]):
                return before + "."
        return name

    def rewritten(self) -> bytes:
        """Give the object with its groups."""
        places = [p for p, s in enumerate(self.item.sections) if not _is_table(s)]
        shared = sorted(self.digests)
        moved = np.zeros(len(self.item.sections), np.int64)
        moved[places] = np.arange(len(places)) + 1 + len(shared)
        symbols, names = self._symbols(moved)
        groups = [self._group(place, moved, names[place, _START]) for place in shared]
        members = {member for place in shared for member in self._members(place)}
        sections = [self._moved(place, moved, members) for place in places]
        for found in self.references:
            if self._is_allocated(found.user):
                sections[int(moved[found.place]) - 1 - len(shared)].data = self._pointed(found, names)
        null = Section(name="", type=elf.SHT_NULL)
        return elf.write_object(self.item.machine, [null, *groups, *sections], symbols)

    def _symbols(self, moved: Integers) -> tuple[Symbols, dict[tuple[int, _Point], int]]:
        """Add the names of the groups to the symbols, weak, so that copies which lost their group do not clash."""
        old = self.item.symbols
        added = [(place, point) for place in sorted(self.digests) for point in sorted(self.points[place])]
        kinds = [_STT_FUNC if point.is_function else 0 for _, point in added]
        symbols = Symbols(
            names=[*old.names, *(point.symbol(self.digests[place]) for place, point in added)],
            info=_extended(old.info, [elf.STB_WEAK << 4 | kind for kind in kinds]),
            other=_extended(old.other, [point.other | elf.STV_HIDDEN for _, point in added]),
            section=_extended(np.where(old.section > 0, moved[old.section], old.section), [moved[p] for p, _ in added]),
            value=_extended(old.value, [point.value for _, point in added]),
            size=_extended(old.size, [0] * len(added)),
            local_count=old.local_count,
        )
        return symbols, {key: len(old) + number for number, key in enumerate(added)}

    def _group(self, place: int, moved: Integers, signature: int) -> Section:
        members = self._members(place)
        words = np.array([_GRP_COMDAT, *moved[members].tolist()], self.item.machine.order + "u4")
        return Section(
            name=".group", type=elf.SHT_GROUP, data=words.tobytes(), size_bytes=words.nbytes, info=signature,
            alignment=4, entry_size=4,
        )  # fmt: skip

    def _members(self, place: int) -> list[int]:
        """Give all sections of a group."""
        return [place, *self.followers.get(place, ()), *(found.place for found in self.by_unit.get(place, ()))]

    def _moved(self, place: int, moved: Integers, members: set[int]) -> Section:
        """Give a section with the indices of others as they are now."""
        section = self.item.sections[place]
        is_relocations = section.type in RELOCATION_TYPES
        return replace(
            section,
            flags=section.flags | elf.SHF_GROUP if place in members else section.flags,
            link=int(moved[section.link]),
            info=int(moved[section.info]) if is_relocations else section.info,
        )

    def _pointed(self, found: _References, names: Mapping[tuple[int, _Point], int]) -> bytes:
        """Give relocations that refer to other sections' groups by name; addends stay, as a name has its symbol's value."""
        entries, shift = found.entries.copy(), self.item.machine.symbol_shift
        for symbol in np.unique(found.symbols).tolist():
            home = int(self.item.symbols.section[symbol])
            if home != found.unit and home in self.digests:
                rows = found.symbols == symbol
                kinds = found.kinds[rows].astype(entries["info"].dtype)
                entries["info"][rows] = names[home, self._point(symbol)] << shift | kinds
        return entries.tobytes()


def _is_x86_call(data: bytes | memoryview, offset: int) -> bool:
    before = bytes(data[max(offset - 2, 0) : offset])
    return before[-1:] in _X86_CALLS or (before[:1] == _X86_CONDITIONAL and before[1:] in _X86_CONDITIONS)


def _is_table(section: Section) -> bool:
    """Whether a section is one that writing an object makes anew."""
    return section.type in _TABLE_TYPES or (section.type == elf.SHT_STRTAB and section.name in _TABLE_NAMES)


def _extended(column: npt.NDArray[Any], added: Sequence[int]) -> npt.NDArray[Any]:
    return np.concatenate([column, np.array(added, column.dtype)])


def _hash(facts: Sequence[object]) -> str:
    """Name facts; their text is the same in every process and on every machine."""
    return hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()[:_DIGEST_DIGITS]
