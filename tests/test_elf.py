from __future__ import annotations

import io
import struct
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import toolbox
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from hypothesis import given
from hypothesis import strategies as st
from toolbox import AARCH64, ARM_BIG, CLANG, CORTEX_M3, HOST, MIPS, OBJECTS, RV32, ZIG, Target

from mlf.errors import ObjectError
from mlf.objects import elf
from mlf.objects.elf import Machine, Section, Symbols, data_object, no_symbols, parse_object, write_object

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TARGETS = (HOST, CLANG, CORTEX_M3, RV32, AARCH64, MIPS, ARM_BIG, ZIG)
SOURCE = """
int common[9]; static int buffer[4]; extern int other(int); extern int optional(int) __attribute__((weak));
__asm__(".globl absolute\\n .set absolute, 77");
__attribute__((visibility("hidden"))) int hidden = 3;
static const char* text = "text";
int run(int x) { return other(buffer[x]) + common[x] + hidden + (optional ? optional(x) : 0) + text[x]; }
"""
MACHINES = [
    Machine(is_64=is_64, is_big_endian=is_big, number=number)
    for is_64, is_big, number in [(False, False, 40), (False, True, 8), (True, False, 62), (True, True, 183)]
]


def each(targets: tuple[Target, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("target", targets, ids=lambda target: target.name)


def section_facts(data: bytes) -> list[tuple[object, ...]]:
    """What an independent reader says of the sections, but for where they lie in the file and what makes them tables."""
    return [
        (s.name, s["sh_type"], s["sh_flags"], s["sh_size"], s["sh_info"], max(s["sh_addralign"], 1), s["sh_entsize"],
         s.data() if s["sh_type"] not in ("SHT_NOBITS", "SHT_NULL") else b"")
        for s in ELFFile(io.BytesIO(data)).iter_sections()
        if s["sh_type"] not in ("SHT_SYMTAB", "SHT_STRTAB", "SHT_SYMTAB_SHNDX")
    ]  # fmt: skip


def symbol_facts(data: bytes) -> list[tuple[object, ...]]:
    file = ELFFile(io.BytesIO(data))
    return [
        (s.name, s.entry["st_info"], s.entry["st_other"], s["st_value"], s["st_size"],
         file.get_section(s["st_shndx"]).name if isinstance(s["st_shndx"], int) else s["st_shndx"])
        for s in toolbox.symbol_table(data).iter_symbols()
    ]  # fmt: skip


def relocation_facts(data: bytes) -> list[tuple[str, list[tuple[int, ...]]]]:
    return [
        (s.name, [(r["r_offset"], r["r_info_sym"], r["r_info_type"], r.entry.get("r_addend", 0)) for r in s.iter_relocations()])
        for s in ELFFile(io.BytesIO(data)).iter_sections()
        if isinstance(s, RelocationSection)
    ]  # fmt: skip


def compiled(target: Target, *flags: str) -> bytes:
    return toolbox.compile_c(SOURCE, target, *flags)


# Reading


@each(TARGETS)
def test_header_is_read_as_another_reader_reads_it(target: Target) -> None:
    theirs, mine = ELFFile(io.BytesIO(compiled(target))), parse_object(compiled(target), "model.o").machine
    assert (mine.is_64, mine.is_big_endian, mine.flags) == (
        theirs.elfclass == 64, not theirs.little_endian, theirs["e_flags"],
    )  # fmt: skip
    assert struct.unpack_from(mine.order + "H", compiled(target), 18) == (mine.number,)


@each(TARGETS)
def test_sections_are_read_as_another_reader_reads_them(target: Target) -> None:
    data = compiled(target, "-g")
    theirs = list(ELFFile(io.BytesIO(data)).iter_sections())
    mine = parse_object(data, "model.o").sections
    assert [
        (s.name, s.flags, s.size_bytes, s.link, s.info, s.alignment, s.entry_size, bytes(s.data)) for s in mine
    ] == [
        (s.name, s["sh_flags"], s["sh_size"], s["sh_link"], s["sh_info"], max(s["sh_addralign"], 1), s["sh_entsize"],
         s.data() if s["sh_type"] not in ("SHT_NOBITS", "SHT_NULL") else b"")
        for s in theirs
    ]  # fmt: skip


@each(TARGETS)
def test_symbols_are_read_as_another_reader_reads_them(target: Target) -> None:
    data = compiled(target, "-g")
    special = {"SHN_UNDEF": 0, "SHN_ABS": elf.ABSOLUTE, "SHN_COMMON": elf.COMMON}
    theirs = list(toolbox.symbol_table(data).iter_symbols())
    mine = parse_object(data, "model.o")
    # Where pyelftools gives a section symbol the name of its section, the table has none.
    names = ["" if s["st_info"]["type"] == "STT_SECTION" else s.name for s in theirs]
    types = [0 if kind == elf.STT_SECTION else 1 for kind in (mine.symbols.info & 15).tolist()]
    assert [name * is_named for name, is_named in zip(mine.symbols.names, types, strict=True)] == names
    assert mine.symbols.value.tolist() == [s["st_value"] for s in theirs]
    assert mine.symbols.size.tolist() == [s["st_size"] for s in theirs]
    assert mine.symbols.section.tolist() == [special.get(s["st_shndx"], s["st_shndx"]) for s in theirs]
    assert mine.symbols.local_count == [s["st_info"]["bind"] for s in theirs].index("STB_GLOBAL")
    assert {"common", "absolute", "hidden", "run", "other", "optional"} <= set(names)


@each(TARGETS)
def test_relocations_are_read_as_another_reader_reads_them(target: Target) -> None:
    data = compiled(target, "-g")
    item = parse_object(data, "model.o")
    shift = item.machine.symbol_shift
    mine = [
        (section.name, [
            (int(r["offset"]), int(r["info"]) >> shift, int(r["info"]) & ((1 << shift) - 1),
             int(r["addend"]) if section.type == elf.SHT_RELA else 0)
            for r in item.relocations(section)
        ])
        for section in item.sections
        if section.type in (elf.SHT_REL, elf.SHT_RELA)
    ]  # fmt: skip
    assert mine == relocation_facts(data)
    assert sum(len(entries) for _, entries in mine) > 5


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (HOST, "64-bit little-endian x86-64"),
        (CORTEX_M3, "32-bit little-endian ARM"),
        (MIPS, "32-bit big-endian MIPS"),
        (RV32, "32-bit little-endian RISC-V"),
        (AARCH64, "64-bit little-endian AArch64"),
    ],
    ids=lambda value: value.name if isinstance(value, Target) else "",
)
def test_machine_is_named(target: Target, words: str) -> None:
    assert str(parse_object(compiled(target), "model.o").machine) == words


def test_machine_without_a_name_is_a_number() -> None:
    assert str(Machine(is_64=False, is_big_endian=True, number=999)) == "32-bit big-endian machine 999"


# Writing


def rewritten(data: bytes, *, label: str = "model.o") -> bytes:
    item = parse_object(data, label)
    tables = (elf.SHT_SYMTAB, elf.SHT_STRTAB, elf.SHT_SYMTAB_SHNDX)
    kept = [index for index, section in enumerate(item.sections) if section.type not in tables]
    places = {old: new for new, old in enumerate(kept)}
    for index in kept:
        section = item.sections[index]
        if section.type in (elf.SHT_REL, elf.SHT_RELA):
            section.info = places[section.info]
        elif section.flags & elf.SHF_LINK_ORDER:
            section.link = places[section.link]
    item.symbols.section = np.array([places[i] if i > 0 else i for i in item.symbols.section.tolist()], np.int64)
    return write_object(item.machine, [item.sections[index] for index in kept], item.symbols)


@each(TARGETS)
def test_rewritten_object_holds_the_same_facts(target: Target) -> None:
    before, after = compiled(target, "-g"), rewritten(compiled(target, "-g"))

    def apart_from_targets(facts: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        return [(*fact[:4], *fact[5:]) if fact[1] in ("SHT_REL", "SHT_RELA") else fact for fact in facts]

    assert apart_from_targets(section_facts(after)) == apart_from_targets(section_facts(before))
    assert symbol_facts(after) == symbol_facts(before)
    assert relocation_facts(after) == relocation_facts(before)


@each(TARGETS)
def test_rewritten_object_reads_without_a_warning(target: Target) -> None:
    text = toolbox.ask("readelf", rewritten(compiled(target, "-g")), "-a", "--wide")
    assert not [line for line in text.splitlines() if "arning" in line or "rror:" in line]


@each((HOST, CORTEX_M3, RV32, AARCH64, MIPS, ARM_BIG))
def test_rewritten_object_links_and_runs(target: Target) -> None:
    data = rewritten(toolbox.compile_c("static int b[3] = {1, 2, 3}; int run(int x) { return b[x] += 10; }", target))
    assert toolbox.run_main("put(run(1)); put(run(1));", [data], target) == "12\n22\n"


def test_groups_survive_rewriting() -> None:
    flags = ("-DSEED=1", "-std=c++17", f"-I{OBJECTS}")
    data = toolbox.compile_source((OBJECTS / "model_first.cpp").read_text(), CORTEX_M3, *flags, language="c++")
    before = {line for line in toolbox.ask("readelf", data, "-gW").splitlines() if "COMDAT" in line}
    item = parse_object(data, "model.o")
    tables = [item.sections.pop().type for _ in range(3)]
    assert tables == [elf.SHT_STRTAB, elf.SHT_STRTAB, elf.SHT_SYMTAB]  # last, so that no index changes
    after = toolbox.ask("readelf", write_object(item.machine, item.sections, item.symbols), "-gW").splitlines()
    assert before
    assert {line for line in after if "COMDAT" in line} == before


def symbols(count: int, sections: list[int]) -> Symbols:
    return Symbols(
        names=["", *(f"s{number}" for number in range(count))],
        info=np.array([0] + [elf.STB_GLOBAL << 4] * count, np.uint8),
        other=np.zeros(count + 1, np.uint8),
        section=np.array([0, *sections], np.int64),
        value=np.zeros(count + 1, np.uint64),
        size=np.zeros(count + 1, np.uint64),
        local_count=1,
    )


# The null section and the three or four of the tables come on top; 0xff00 is the first index that needs an extension.
@pytest.mark.parametrize("machine", [MACHINES[0], MACHINES[3]], ids=str)
@pytest.mark.parametrize("count", [0xFEFB, 0xFEFC, 0xFEFD, 0xFF00])
def test_counts_around_the_reserved_indices(machine: Machine, count: int) -> None:
    sections = [Section(name="", type=elf.SHT_NULL)]
    sections += [Section(name=f".s{number}", flags=elf.SHF_ALLOC) for number in range(count)]
    ends = [1, min(count, 0xFEFF), count]
    data = write_object(machine, sections, symbols(4, [*ends, elf.ABSOLUTE]))
    theirs = ELFFile(io.BytesIO(data))
    extended = count >= 0xFF00
    total = count + 4 + extended
    assert theirs["e_shnum"] == (total if total < 0xFF00 else 0)
    assert theirs["e_shstrndx"] == (total - 1 if total - 1 < 0xFF00 else 0xFFFF)
    assert theirs.num_sections() == total
    assert theirs.get_section(theirs.get_shstrndx()).name == ".shstrtab"
    assert [s["st_shndx"] for s in toolbox.symbol_table(data).iter_symbols()][3] == (0xFFFF if extended else count)
    mine = parse_object(data, "many.o")
    assert mine.symbols.section.tolist() == [0, *ends, elf.ABSOLUTE]
    assert [mine.sections[index].name for index in ends] == [f".s{index - 1}" for index in ends]
    listing = toolbox.ask("readelf", data, "--file-header", "--symbols", "--wide")
    assert "arning" not in listing
    assert f" {count} s2" in listing


@st.composite
def objects(draw: st.DrawFn) -> tuple[Machine, list[Section], Symbols]:
    machine = draw(st.sampled_from(MACHINES))
    text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
    contents = draw(st.lists(st.tuples(text, st.binary(max_size=40), st.sampled_from([1, 2, 8, 64, 4096])), max_size=6))
    sections = [Section(name="", type=elf.SHT_NULL)]
    for name, data, alignment in contents:
        sections.append(Section(name=name, data=data, size_bytes=len(data), flags=elf.SHF_ALLOC, alignment=alignment))
    places = st.sampled_from([0, elf.ABSOLUTE, *range(1, len(sections))])
    number = st.integers(0, 2**64 - 1 if machine.is_64 else 2**32 - 1)
    rows = draw(st.lists(st.tuples(text, st.integers(0, 255), places, number, number), max_size=6))
    table = Symbols(
        names=["", *(row[0] for row in rows)],
        info=np.array([0, *(row[1] for row in rows)], np.uint8),
        other=np.zeros(len(rows) + 1, np.uint8),
        section=np.array([0, *(row[2] for row in rows)], np.int64),
        value=np.array([0, *(row[3] for row in rows)], np.uint64),
        size=np.array([0, *(row[4] for row in rows)], np.uint64),
        local_count=draw(st.integers(1, len(rows) + 1)),
    )
    return machine, sections, table


@given(objects())
def test_what_is_written_is_read(given_object: tuple[Machine, list[Section], Symbols]) -> None:
    machine, sections, table = given_object
    item = parse_object(write_object(machine, sections, table), "written.o")
    assert item.machine == machine
    found = item.sections[: len(sections)]
    assert [(s.name, bytes(s.data), s.alignment) for s in found] == [(s.name, s.data, s.alignment) for s in sections]
    assert item.symbols.names == table.names
    assert item.symbols.local_count == table.local_count
    for column in ("info", "other", "section", "value", "size"):
        assert getattr(item.symbols, column).tolist() == getattr(table, column).tolist()


def test_name_that_is_not_utf8_is_written_as_it_was_read() -> None:
    machine = MACHINES[0]
    sections = [Section(name="", type=elf.SHT_NULL), Section(name=".caf\udce9")]
    data = write_object(machine, sections, no_symbols())
    assert b".caf\xe9\0" in data
    assert parse_object(data, "x.o").sections[1].name == ".caf\udce9"


def test_huge_alignment_does_not_make_a_huge_file() -> None:
    sections = [Section(name="", type=elf.SHT_NULL)]
    sections += [Section(name=".data", data=b"x", size_bytes=1, flags=elf.SHF_ALLOC, alignment=1 << 30)] * 2
    data = write_object(MACHINES[2], sections, no_symbols())
    assert len(data) < 2000
    assert [s["sh_addralign"] for s in ELFFile(io.BytesIO(data)).iter_sections() if s.name == ".data"] == [1 << 30] * 2


@each((HOST, CORTEX_M3, RV32, AARCH64, MIPS, ARM_BIG))
def test_data_object_links_and_reads_as_constants(target: Target) -> None:
    machine = parse_object(compiled(target), "model.o").machine
    blobs = [("weights", bytes(range(1, 40)), 16), ("biases", b"\7\x08", 64)]
    item = data_object("data.o", machine, blobs, section=".rodata.tvm")
    data = write_object(machine, item.sections, item.symbols)
    facts = [s for s in ELFFile(io.BytesIO(data)).iter_sections() if s.name == ".rodata.tvm"]
    assert [(s["sh_flags"], s["sh_size"], s["sh_addralign"]) for s in facts] == [(2, 39, 16), (2, 2, 64)]
    assert toolbox.defined_globals(data) == ["biases", "weights"]
    user = toolbox.compile_c(
        "extern const unsigned char weights[], biases[];"
        "int run(int x) { return x == 0 ? weights[38] : x == 1 ? biases[1] : (int)((__UINTPTR_TYPE__)weights & 15); }",
        target,
    )
    program = "put(run(0)); put(run(1)); put(run(2));"
    note = ("-Wl,-z,noexecstack",)  # the data object says nothing of the stack
    assert toolbox.run_main(program, [user, data], target, *note) == "39\n8\n0\n"


def test_local_common_becomes_a_zeroed_section(tmp_path: Path) -> None:
    path = tmp_path / "model.o"
    path.write_bytes(toolbox.compile_c("int storage[5]; int run(void) { return storage[0]; }", CORTEX_M3))
    toolbox.run(["llvm-objcopy", "--keep-global-symbol=run", path])
    item = parse_object(path.read_bytes(), "model.o")
    symbol = item.symbols.names.index("storage")
    section = item.sections[int(item.symbols.section[symbol])]
    assert (section.name, section.type, section.size_bytes, section.alignment) == (
        ".bss.storage",
        elf.SHT_NOBITS,
        20,
        4,
    )
    assert int(item.symbols.value[symbol]) == 0


# Refusing


SMALL = toolbox.compile_c("static int b; int c; int run(int x) { return b + c + x; }", CORTEX_M3)


def header_of(data: bytes, name: str) -> int:
    """Give where the header of a section lies in a 32-bit file."""
    file = ELFFile(io.BytesIO(data))
    return int(file["e_shoff"]) + 40 * next(n for n, s in enumerate(file.iter_sections()) if s.name == name)


def patched(data: bytes, place: int, form: str, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(form, changed, place, value)
    return bytes(changed)


def symbol_place(data: bytes, name: str) -> int:
    table = toolbox.symbol_table(data)
    return int(table["sh_offset"]) + 16 * next(n for n, s in enumerate(table.iter_symbols()) if s.name == name)


COUNT = ELFFile(io.BytesIO(SMALL)).num_sections()
SYMBOL_COUNT = toolbox.symbol_table(SMALL).num_symbols()
# sh_offset, sh_size, sh_link, sh_info, sh_addralign of a 32-bit section header
OFFSET, SIZE, LINK, INFO, ALIGNMENT = 16, 20, 24, 28, 32

BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is not an ELF object file: it begins with b''"),
    "text": (lambda: b"int main;", "is not an ELF object file: it begins with b'int '"),
    "bitcode": (lambda: b"BC\xc0\xde" + bytes(60), "is LLVM bitcode, not an object file"),
    "header_cut": (lambda: SMALL[:30], "the object file is damaged"),
    "class_3": (lambda: patched(SMALL, 4, "B", 3), "the object file is damaged: unknown ELF class or byte order"),
    "byte_order_0": (lambda: patched(SMALL, 5, "B", 0), "the object file is damaged: unknown ELF class or byte order"),
    "executable": (
        lambda: patched(SMALL, 16, "<H", 2),
        "is not a relocatable object: its ELF type is 2, expected 1",
    ),
    "header_size": (lambda: patched(SMALL, 46, "<H", 64), "the object file is damaged: section headers of 64 bytes"),
    "many_sections": (
        lambda: patched(SMALL, 48, "<H", 60000),
        "the object file is damaged: a table of 60000 sections does not fit the file",
    ),
    "names_outside": (
        lambda: patched(SMALL, 50, "<H", 500),
        f"the object file is damaged: section names are in section 500 of {COUNT}",
    ),
    "section_outside": (
        lambda: patched(SMALL, header_of(SMALL, ".text.run") + OFFSET, "<I", 1 << 30),
        "the object file is damaged: a section lies outside the file",
    ),
    "alignment_3": (
        lambda: patched(SMALL, header_of(SMALL, ".text.run") + ALIGNMENT, "<I", 3),
        "the object file is damaged: a section alignment of 3",
    ),
    "link_outside": (
        lambda: patched(SMALL, header_of(SMALL, ".rel.text.run") + LINK, "<I", 99),
        f"the object file is damaged: .rel.text.run is linked to section 99 of {COUNT}",
    ),
    "relocations_cut": (
        lambda: patched(SMALL, header_of(SMALL, ".rel.text.run") + SIZE, "<I", 7),
        "the object file is damaged: .rel.text.run ends inside a relocation",
    ),
    "locals_outside": (
        lambda: patched(SMALL, header_of(SMALL, ".symtab") + INFO, "<I", 99),
        f"the object file is damaged: 99 local symbols of {SYMBOL_COUNT}",
    ),
    "symbol_outside": (
        lambda: patched(SMALL, symbol_place(SMALL, "run") + 14, "<H", 4000),
        "the object file is damaged: a symbol lies in a section that does not exist",
    ),
    "symbol_special": (
        lambda: patched(SMALL, symbol_place(SMALL, "run") + 14, "<H", 0xFF03),
        "a symbol has the special section index 0xff03, which cannot be merged",
    ),
    "symbol_extended": (
        lambda: patched(SMALL, symbol_place(SMALL, "run") + 14, "<H", 0xFFFF),
        "the object file is damaged: no .symtab_shndx for its extended section indices",
    ),
    "symbol_name_outside": (
        lambda: patched(SMALL, symbol_place(SMALL, "run"), "<I", 1 << 20),
        "the object file is damaged",
    ),
    "mips_64": (
        lambda: write_object(Machine(is_64=True, is_big_endian=True, number=8), [Section(name="", type=0)], no_symbols()),
        "64-bit MIPS objects cannot be merged",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_bad_object_is_refused(fault: str) -> None:
    make, message = BAD[fault]
    with pytest.raises(ObjectError) as caught:
        parse_object(make(), "model.o")
    assert str(caught.value) == f"model.o: {message}"


def test_group_that_is_cut_is_refused() -> None:
    sections = [
        Section(name="", type=elf.SHT_NULL),
        Section(name=".group", type=elf.SHT_GROUP, data=b"123", size_bytes=3),
    ]
    with pytest.raises(ObjectError) as caught:
        parse_object(write_object(MACHINES[0], sections, no_symbols()), "model.o")
    assert str(caught.value) == "model.o: the object file is damaged: a group of 3 bytes"


def test_program_is_refused(tmp_path: Path) -> None:
    program = toolbox.link([toolbox.main_object("", HOST)], HOST, tmp_path / "program")
    with pytest.raises(ObjectError) as caught:
        parse_object(program.read_bytes(), "program")
    assert str(caught.value) == "program: is not a relocatable object: its ELF type is 3, expected 1"


def test_names_that_share_one_long_end_are_refused_before_they_fill_memory() -> None:
    length, count = 1 << 20, 2000
    table = Section(name=".strtab", type=elf.SHT_STRTAB, data=b"x" * length + b"\0", size_bytes=length + 1)
    rows = np.zeros(count, MACHINES[0].symbol_dtype)
    rows["name"] = range(count)
    entries = Section(
        name=".symtab", type=elf.SHT_SYMTAB, data=rows.tobytes(), size_bytes=rows.nbytes, link=1, info=count
    )
    start = time.process_time()
    with pytest.raises(ObjectError) as caught:
        parse_object(write_object(MACHINES[0], [Section(name="", type=0), table, entries], no_symbols()), "bomb.o")
    assert (
        str(caught.value)
        == "bomb.o: the object file is damaged: its names are longer than 67108864 characters together"
    )
    assert time.process_time() - start < 2


def test_every_truncation_is_refused() -> None:
    for size in range(len(SMALL)):
        with pytest.raises(ObjectError):
            parse_object(SMALL[:size], "cut.o")
