"""ELF relocatable object files, read and written for any class, byte order and machine.

Sources: the System V gABI chapters 4 and 5 (headers, sections, symbols, relocation), and the LLVM extensions page for the
`SHT_LLVM_*` types.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mlf.errors import ObjectError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]

ET_REL = 1
EM_MIPS = 8
EM_ARM = 40
EM_RISCV = 243
MACHINE_NAMES = {
    3: "i386",
    8: "MIPS",
    20: "PowerPC",
    40: "ARM",
    42: "SuperH",
    62: "x86-64",
    94: "Xtensa",
    183: "AArch64",
    243: "RISC-V",
}

SHT_NULL = 0
SHT_PROGBITS = 1
SHT_SYMTAB = 2
SHT_STRTAB = 3
SHT_RELA = 4
SHT_NOTE = 7
SHT_NOBITS = 8
SHT_REL = 9
SHT_INIT_ARRAY = 14
SHT_FINI_ARRAY = 15
SHT_PREINIT_ARRAY = 16
SHT_GROUP = 17
SHT_SYMTAB_SHNDX = 18

SHF_WRITE = 0x1
SHF_ALLOC = 0x2
SHF_EXECINSTR = 0x4
SHF_LINK_ORDER = 0x80
SHF_GROUP = 0x200
SHF_TLS = 0x400
SHF_COMPRESSED = 0x800
SHF_GNU_RETAIN = 0x200000

SHN_LORESERVE = 0xFF00
SHN_XINDEX = 0xFFFF
# Special section indices as Symbols keeps them: negative, so that no count of sections can reach them.
ABSOLUTE = -1
COMMON = -2
_SPECIAL = {0xFFF1: ABSOLUTE, 0xFFF2: COMMON}
_SPECIAL_BACK = {value: key for key, value in _SPECIAL.items()}

STB_LOCAL = 0
STB_GLOBAL = 1
STB_WEAK = 2
STV_HIDDEN = 2
STT_OBJECT = 1
STT_SECTION = 3
STT_FILE = 4
STT_TLS = 6

MAGIC = b"\x7fELF"
LLVM_BITCODE_MAGIC = b"BC\xc0\xde"
# What is in a file is read, not mapped, so that larger alignments in it would only be padding.
_FILE_ALIGNMENT = 16
_MAX_NAMES = 1 << 26  # names may share their ends, so that a small table could ask for any amount of memory
_MAX_SECTIONS = 200_000  # one for each function and datum of a model has some thousand
_MAX_SYMBOLS = 1_000_000  # each costs a Python string


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What an ELF header says of the machine: class, byte order, `e_machine`, `e_flags`, OS ABI."""

    is_64: bool
    is_big_endian: bool
    number: int
    flags: int = 0
    os_abi: int = 0

    @property
    def order(self) -> str:
        """The byte order as `struct` and numpy write it."""
        return ">" if self.is_big_endian else "<"

    @property
    def name(self) -> str:
        """The name of the instruction set."""
        return MACHINE_NAMES.get(self.number, f"machine {self.number}")

    def __str__(self) -> str:
        return f"{'64' if self.is_64 else '32'}-bit {'big' if self.is_big_endian else 'little'}-endian {self.name}"

    def is_compatible(self, other: Machine) -> bool:
        """Tell whether objects of both can be in one program, flags apart."""
        return (self.is_64, self.is_big_endian, self.number) == (other.is_64, other.is_big_endian, other.number)

    @property
    def symbol_dtype(self) -> np.dtype[np.void]:
        """The layout of a symbol table entry."""
        o = self.order
        if self.is_64:
            fields = [
                ("name", o + "u4"),
                ("info", "u1"),
                ("other", "u1"),
                ("section", o + "u2"),
                ("value", o + "u8"),
                ("size", o + "u8"),
            ]
        else:
            fields = [
                ("name", o + "u4"),
                ("value", o + "u4"),
                ("size", o + "u4"),
                ("info", "u1"),
                ("other", "u1"),
                ("section", o + "u2"),
            ]
        return np.dtype(fields)

    def relocation_dtype(self, section_type: int) -> np.dtype[np.void]:
        """The layout of an entry of a `SHT_REL` or `SHT_RELA` section."""
        word = self.order + ("u8" if self.is_64 else "u4")
        fields = [("offset", word), ("info", word)]
        if section_type == SHT_RELA:
            fields.append(("addend", word.replace("u", "i")))
        return np.dtype(fields)

    @property
    def symbol_shift(self) -> int:
        """How far the symbol index lies to the left in `r_info`."""
        return 32 if self.is_64 else 8


@dataclass(slots=True, kw_only=True, eq=False)
class Section:
    """One section; `data` is empty for `SHT_NOBITS`, whose size is `size_bytes` all the same."""

    name: str
    type: int = SHT_PROGBITS
    flags: int = 0
    data: bytes | memoryview = b""
    size_bytes: int = 0
    link: int = 0
    info: int = 0
    alignment: int = 1
    entry_size: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Symbols:
    """A symbol table as columns; entry 0 is the null symbol, the first `local_count` are local.

    `section` holds real section indices, `ABSOLUTE`, `COMMON`, or 0 for an undefined symbol.
    """

    names: list[str]
    info: npt.NDArray[np.uint8]
    other: npt.NDArray[np.uint8]
    section: Integers
    value: npt.NDArray[np.uint64]
    size: npt.NDArray[np.uint64]
    local_count: int

    def __len__(self) -> int:
        return len(self.names)

    def defined_names(self) -> list[str]:
        """List the global and weak names that the object defines."""
        return [name for name, section in self._globals() if section != 0]

    def undefined_names(self) -> list[str]:
        """List the names that the object needs."""
        return [name for name, section in self._globals() if section == 0]

    def needed_names(self) -> list[str]:
        """List the undefined names that must be found somewhere; weak ones need not."""
        strong = (self.info[self.local_count :] >> 4 == STB_GLOBAL).tolist()
        return [
            name
            for (name, section), is_strong in zip(self._globals(), strong, strict=True)
            if section == 0 and is_strong
        ]

    def _globals(self) -> Iterator[tuple[str, int]]:
        return zip(self.names[self.local_count :], self.section[self.local_count :].tolist(), strict=True)


@dataclass(slots=True, kw_only=True, eq=False)
class ElfObject:
    """A relocatable object; `label` names it in messages."""

    label: str
    machine: Machine
    sections: list[Section]
    symbols: Symbols

    def relocations(self, section: Section) -> npt.NDArray[np.void]:
        """Give the entries of a relocation section as a structured array."""
        return np.frombuffer(section.data, self.machine.relocation_dtype(section.type))


def parse_object(data: bytes | memoryview, label: str) -> ElfObject:
    """Read an ELF relocatable object.

    Raises ObjectError, which names `label`, for anything else: LLVM bitcode, an executable, a damaged file.
    """
    try:
        return _Reader(memoryview(data), label).read()
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise ObjectError("the object file is damaged", where=label) from error


class _Reader:
    """Reads one object; every offset is checked against the file before it is used."""

    def __init__(self, data: memoryview, label: str) -> None:
        self.data = data
        self.label = label

    def read(self) -> ElfObject:
        self.machine, table_offset, count, names_index = self._header()
        rows = self._section_rows(table_offset, count)
        if len(rows) and count == 0:
            names_index = rows[0][6] if names_index == SHN_XINDEX else names_index
        if rows and names_index >= len(rows):
            raise self._damaged(f"section names are in section {names_index} of {len(rows)}")
        sections = [self._section(row) for row in rows]
        if rows:
            names = self._names(sections[names_index], [row[0] for row in rows])
            for section, name in zip(sections, names, strict=True):
                section.name = name
        for section in sections:
            self._check_references(section, len(sections))
        symbols = self._symbols(sections)
        _store_local_common(sections, symbols)
        return ElfObject(label=self.label, machine=self.machine, sections=sections, symbols=symbols)

    def _damaged(self, what: str) -> ObjectError:
        return ObjectError(f"the object file is damaged: {what}", where=self.label)

    def _header(self) -> tuple[Machine, int, int, int]:
        magic = bytes(self.data[:4])
        if magic == LLVM_BITCODE_MAGIC:
            raise ObjectError("is LLVM bitcode, not an object file", where=self.label, hint="compile it without -flto")
        if magic != MAGIC:
            raise ObjectError(f"is not an ELF object file: it begins with {magic!r}", where=self.label)
        ident = bytes(self.data[:16])
        if ident[4:5] not in (b"\1", b"\2") or ident[5:6] not in (b"\1", b"\2"):
            raise self._damaged("unknown ELF class or byte order")
        is_64 = ident[4] == 2
        order = ">" if ident[5] == 2 else "<"
        head = struct.unpack_from(order + ("HHIQQQIHHHHHH" if is_64 else "HHIIIIIHHHHHH"), self.data, 16)
        kind, number, _, _, _, table_offset, flags, _, _, _, entry_size, count, names_index = head
        if kind != ET_REL:
            raise ObjectError(
                f"is not a relocatable object: its ELF type is {kind}, expected {ET_REL}", where=self.label
            )
        if table_offset and entry_size != (64 if is_64 else 40):
            raise self._damaged(f"section headers of {entry_size} bytes")
        if is_64 and number == EM_MIPS:
            raise ObjectError("64-bit MIPS objects cannot be merged", where=self.label)
        machine = Machine(is_64=is_64, is_big_endian=ident[5] == 2, number=number, flags=flags, os_abi=ident[7])
        return machine, table_offset, count, names_index

    def _section_rows(self, table_offset: int, count: int) -> list[tuple[int, ...]]:
        if not table_offset:
            return []
        form = struct.Struct(self.machine.order + ("IIQQQQIIQQ" if self.machine.is_64 else "IIIIIIIIII"))
        if count == 0:  # more than 65,279 sections: the real count is the size of section 0
            count = form.unpack_from(self.data, table_offset)[5]
        end = table_offset + count * form.size
        if count > _MAX_SECTIONS or end > len(self.data):
            raise self._damaged(f"a table of {count} sections does not fit the file")
        return list(form.iter_unpack(self.data[table_offset:end]))

    def _section(self, row: tuple[int, ...]) -> Section:
        _, kind, flags, _, offset, size, link, info, alignment, entry_size = row
        data: bytes | memoryview = b""
        if kind not in (SHT_NULL, SHT_NOBITS):
            if offset + size > len(self.data):
                raise self._damaged("a section lies outside the file")
            data = self.data[offset : offset + size]
        if alignment & (alignment - 1):
            raise self._damaged(f"a section alignment of {alignment}")
        return Section(
            name="", type=kind, flags=flags, data=data, size_bytes=0 if kind == SHT_NULL else size, link=link, info=info,
            alignment=max(alignment, 1), entry_size=entry_size,
        )  # fmt: skip

    def _check_references(self, section: Section, count: int) -> None:
        is_relocations = section.type in (SHT_REL, SHT_RELA)
        if is_relocations and len(section.data) % self.machine.relocation_dtype(section.type).itemsize:
            raise self._damaged(f"{section.name} ends inside a relocation")
        if section.type == SHT_GROUP and (not section.data or len(section.data) % 4):
            raise self._damaged(f"a group of {len(section.data)} bytes")
        if section.link >= count:
            raise self._damaged(f"{section.name} is linked to section {section.link} of {count}")

    def _symbols(self, sections: list[Section]) -> Symbols:
        tables = [section for section in sections if section.type == SHT_SYMTAB]
        if not tables:
            return no_symbols()
        table = tables[0]
        rows = np.frombuffer(table.data, self.machine.symbol_dtype)
        if len(rows) > _MAX_SYMBOLS:
            raise self._damaged(f"it has {len(rows)} symbols; at most {_MAX_SYMBOLS} are allowed")
        index = self._section_indices(rows["section"], sections)
        if not 0 < table.info <= len(rows):
            raise self._damaged(f"{table.info} local symbols of {len(rows)}")
        return Symbols(
            names=self._names(sections[table.link], rows["name"].tolist()),
            info=rows["info"].copy(),
            other=rows["other"].copy(),
            section=index,
            value=rows["value"].astype(np.uint64),
            size=rows["size"].astype(np.uint64),
            local_count=table.info,
        )

    def _names(self, table: Section, offsets: Sequence[int]) -> list[str]:
        strings = bytes(table.data)
        names: dict[int, str] = {}
        total = 0
        for offset in offsets:
            if offset not in names:
                names[offset] = _string(strings, offset)
                total += len(names[offset])
            if total > _MAX_NAMES:
                raise self._damaged(f"its names are longer than {_MAX_NAMES} characters together")
        return [names[offset] for offset in offsets]

    def _section_indices(self, raw: npt.NDArray[np.uint16], sections: list[Section]) -> Integers:
        index: Integers = raw.astype(np.int64)
        special = index >= SHN_LORESERVE
        extended = index == SHN_XINDEX
        for number in np.unique(index[special & ~extended]).tolist():
            if number not in _SPECIAL:
                raise ObjectError(
                    f"a symbol has the special section index {number:#x}, which cannot be merged", where=self.label
                )
            index[index == number] = _SPECIAL[number]
        if extended.any():
            tables = [section for section in sections if section.type == SHT_SYMTAB_SHNDX]
            if not tables:
                raise self._damaged("no .symtab_shndx for its extended section indices")
            index[extended] = np.frombuffer(tables[0].data, self.machine.order + "u4")[extended]
        if len(index) and int(index.max()) >= len(sections):
            raise self._damaged("a symbol lies in a section that does not exist")
        return index


def _store_local_common(sections: list[Section], symbols: Symbols) -> None:
    """Give local COMMON symbols, which llvm-objcopy makes and GNU ld cannot link, zeroed sections of their own."""
    for symbol in np.flatnonzero(symbols.section[: symbols.local_count] == COMMON).tolist():
        sections.append(
            Section(
                name=f".bss.{symbols.names[symbol]}",
                type=SHT_NOBITS,
                flags=SHF_ALLOC | SHF_WRITE,
                size_bytes=int(symbols.size[symbol]),
                alignment=max(int(symbols.value[symbol]), 1),
            )
        )
        symbols.section[symbol] = len(sections) - 1
        symbols.value[symbol] = 0


def no_symbols() -> Symbols:
    """Give a symbol table that holds only the null symbol."""
    return Symbols(
        names=[""], info=np.zeros(1, np.uint8), other=np.zeros(1, np.uint8), section=np.zeros(1, np.int64),
        value=np.zeros(1, np.uint64), size=np.zeros(1, np.uint64), local_count=1,
    )  # fmt: skip


def data_object(label: str, machine: Machine, blobs: Sequence[tuple[str, bytes, int]], *, section: str) -> ElfObject:
    """Make an object of read-only data: each of `blobs` is (symbol, bytes, alignment) and gets a section of its own."""
    sections = [Section(name="", type=SHT_NULL)]
    sections += [
        Section(name=section, flags=SHF_ALLOC, data=data, size_bytes=len(data), alignment=alignment)
        for _, data, alignment in blobs
    ]
    count = len(blobs) + 1
    symbols = Symbols(
        names=["", *(name for name, _, _ in blobs)],
        info=np.array([0] + [STB_GLOBAL << 4 | STT_OBJECT] * len(blobs), np.uint8),
        other=np.zeros(count, np.uint8),
        section=np.arange(count, dtype=np.int64),
        value=np.zeros(count, np.uint64),
        size=np.array([0, *(len(data) for _, data, _ in blobs)], np.uint64),
        local_count=1,
    )
    return ElfObject(label=label, machine=machine, sections=sections, symbols=symbols)


def _string(table: bytes, offset: int) -> str:
    return table[offset : table.index(b"\0", offset)].decode("utf-8", "surrogateescape")


class _StringTable:
    """Collects strings and gives their offsets; equal strings are stored once."""

    def __init__(self) -> None:
        self.offsets = {"": 0}
        self.parts = [b"\0"]
        self.size = 1

    def add(self, text: str) -> int:
        offset = self.offsets.get(text)
        if offset is None:
            offset = self.offsets[text] = self.size
            encoded = text.encode("utf-8", "surrogateescape") + b"\0"
            self.parts.append(encoded)
            self.size += len(encoded)
        return offset

    def section(self, name: str) -> Section:
        return Section(name=name, type=SHT_STRTAB, data=b"".join(self.parts), size_bytes=self.size)


def write_object(machine: Machine, sections: Sequence[Section], symbols: Symbols) -> bytes:
    """Write an object; `sections` holds the null section first and no symbol or string tables.

    The symbol table and its string tables are made here and follow the given sections; relocation and group sections are
    pointed at the symbol table.
    """
    symbol_table = len(sections)
    pointed = [replace(s, link=symbol_table) if s.type in (SHT_REL, SHT_RELA, SHT_GROUP) else s for s in sections]
    everything = [*pointed, *_symbol_sections(machine, symbols, symbol_table)]
    names = _StringTable()
    offsets = [names.add(section.name) for section in everything]
    offsets.append(names.add(".shstrtab"))
    everything.append(names.section(".shstrtab"))
    return _assemble(machine, everything, offsets)


def _symbol_sections(machine: Machine, symbols: Symbols, symbol_table: int) -> list[Section]:
    strings = _StringTable()
    rows = np.zeros(len(symbols), machine.symbol_dtype)
    rows["name"] = [strings.add(name) for name in symbols.names]
    rows["info"], rows["other"] = symbols.info, symbols.other
    rows["value"], rows["size"] = symbols.value, symbols.size
    index = symbols.section.copy()
    extended = index >= SHN_LORESERVE
    for special, number in _SPECIAL_BACK.items():
        index[symbols.section == special] = number
    index[extended] = SHN_XINDEX
    rows["section"] = index
    made = [
        Section(
            name=".symtab", type=SHT_SYMTAB, data=rows.tobytes(), size_bytes=rows.nbytes, link=symbol_table + 1,
            info=symbols.local_count, alignment=8 if machine.is_64 else 4, entry_size=rows.dtype.itemsize,
        ),
        strings.section(".strtab"),
    ]  # fmt: skip
    if extended.any():
        wide = np.where(extended, symbols.section, 0).astype(machine.order + "u4").tobytes()
        made.append(
            Section(
                name=".symtab_shndx",
                type=SHT_SYMTAB_SHNDX,
                data=wide,
                size_bytes=len(wide),
                link=symbol_table,
                alignment=4,
                entry_size=4,
            )
        )
    return made


def _assemble(machine: Machine, sections: list[Section], name_offsets: list[int]) -> bytes:
    header_size, entry_size = (64, 64) if machine.is_64 else (52, 40)
    parts: list[bytes | memoryview] = []
    position = header_size
    rows = []
    form = struct.Struct(machine.order + ("IIQQQQIIQQ" if machine.is_64 else "IIIIIIIIII"))
    for section, name in zip(sections, name_offsets, strict=True):
        padding = 0 if section.type in (SHT_NULL, SHT_NOBITS) else -position % min(section.alignment, _FILE_ALIGNMENT)
        parts += [bytes(padding), section.data]
        offset = position + padding if section.type != SHT_NULL else 0
        position += padding + len(section.data)
        alignment = section.alignment if section.type != SHT_NULL else 0
        rows.append(
            [
                name,
                section.type,
                section.flags,
                0,
                offset,
                section.size_bytes,
                section.link,
                section.info,
                alignment,
                section.entry_size,
            ]
        )
    padding = -position % 8
    parts.append(bytes(padding))
    count, names_index = len(sections), len(sections) - 1
    if count >= SHN_LORESERVE:
        rows[0][5], count = count, 0
    if names_index >= SHN_LORESERVE:
        rows[0][6], names_index = names_index, SHN_XINDEX
    parts += [form.pack(*row) for row in rows]
    ident = MAGIC + bytes([1 + machine.is_64, 1 + machine.is_big_endian, 1, machine.os_abi]) + bytes(8)
    head = struct.pack(
        machine.order + ("HHIQQQIHHHHHH" if machine.is_64 else "HHIIIIIHHHHHH"),
        ET_REL, machine.number, 1, 0, 0, position + padding, machine.flags, header_size, 0, 0, entry_size, count, names_index,
    )  # fmt: skip
    return b"".join([ident, head, *parts])
