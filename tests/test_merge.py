from __future__ import annotations

import io
import re
import sys
import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import toolbox
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from toolbox import AARCH64, ARM_BIG, CLANG, CORTEX_M3, HOST, MIPS, OBJECTS, RV32, ZIG, Target

from mlf.errors import LinkError, ObjectError
from mlf.objects.elf import Section, parse_object
from mlf.objects.merge import MergedObject, Undefined, merge_objects

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parent.parent
LONG_NAME = "n" * 300
RUNNABLE = (HOST, CLANG, CORTEX_M3, RV32, AARCH64, MIPS, ARM_BIG, ZIG)
FEW = (HOST, CORTEX_M3, RV32)
CXX_TARGETS = (HOST, CLANG, CORTEX_M3, RV32)


def each(targets: tuple[Target, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("target", targets, ids=lambda target: target.name)


def compiled(files: Mapping[str, str], target: Target, *flags: str, language: str = "c") -> dict[str, bytes]:
    return {
        name: toolbox.compile_source(text, target, *flags, language=language) for name, text in sorted(files.items())
    }


def merged(text: str, target: Target, *flags: str, unique: str = "a") -> MergedObject:
    """A model of one C file whose entrypoint `run` becomes `<unique>_run`."""
    return toolbox.merge_files(compiled({"model.o": text}, target, *flags), {"run": f"{unique}_run"}, unique)


def numbers(output: str) -> list[int]:
    return [int(line) for line in output.split()]


def sections_of(data: bytes) -> list[str]:
    return [section.name for section in ELFFile(io.BytesIO(data)).iter_sections()]


def flags_of(data: bytes, name: str) -> int:
    (flags,) = {section["sh_flags"] for section in ELFFile(io.BytesIO(data)).iter_sections() if section.name == name}
    return int(flags)


def names_of(data: bytes) -> set[str]:
    return {symbol.name for symbol in toolbox.symbol_table(data).iter_symbols()}


# Two models of the same two files: every name is the same, every body differs by SEED.


def c_objects(target: Target, seed: int, *flags: str) -> dict[str, bytes]:
    text = ("kws12", "vww34")[seed - 1]
    macros = (f"-DSEED={seed}", f'-DSEED_TEXT="{seed}"', f"-DLONG_NAME={LONG_NAME}", f'-DTEXT="{text}"')
    files = {f"{part}.o": (OBJECTS / f"model_{part}.c").read_text() for part in ("main", "operators")}
    return compiled(files, target, *macros, *flags)


@cache
def c_model(target: Target, seed: int, *flags: str) -> MergedObject:
    name = "ab"[seed - 1]
    objects = c_objects(target, seed, *flags)
    return toolbox.merge_files(objects, {"run": f"{name}_run"}, name, rename_local=f"{name}.{{}}".format)


C_BEHAVIOURS = {
    "static_buffers_stay_apart": (0, 21, 41, 32),
    "common_is_shared_in_a_model_only_and_keeps_the_largest_size_and_alignment": (1, 1, 1, 11),
    "first_weak_definition_of_each_model_wins": (2, 11, 21, 11),
    "strong_definition_overrides_a_weak_one_of_the_model": (3, 13, 23, 13),
    "weak_undefined_is_null": (4, 41, 42, 41),
    "alias_is_the_function_of_its_own_model": (5, 14, 24, 14),
    "constructors_run_once_in_order_of_priority": (6, 123, 223, 123),
    "absolute_symbol_keeps_its_value": (7, 0x1231, 0x1232, 0x1231),
    "static_functions_of_one_name_stay_apart": (8, 101007, 102014, 101007),
    "long_and_utf8_names_resolve": (9, 1001, 2002, 1001),
    "sections_with_start_and_stop_symbols_stay_apart": (10, 1203, 2403, 1203),
    "tables_of_function_pointers_are_relocated": (11, 32, 59, 32),
    "string_literals_survive": (12, ord("k") * 1000 + ord("2"), ord("v") * 1000 + ord("4"), ord("k") * 1000 + ord("2")),
    "constant_pool_without_const_is_readable": (13, 5, 6, 5),
}


@cache
def c_results(target: Target) -> list[int]:
    objects = [c_model(target, 1).data, c_model(target, 2).data]
    last = len(C_BEHAVIOURS)
    return numbers(
        toolbox.run_main(
            f"for (int i = 0; i < {last}; ++i) {{ put(a_run(i)); put(b_run(i)); put(a_run(i)); }}", objects, target
        )
    )


@each(RUNNABLE)
@pytest.mark.parametrize("behaviour", C_BEHAVIOURS)
def test_two_models_of_the_same_names(behaviour: str, target: Target) -> None:
    number, *expected = C_BEHAVIOURS[behaviour]
    assert c_results(target)[3 * number : 3 * number + 3] == expected


@each(RUNNABLE)
def test_common_section_is_as_large_and_as_aligned_as_any_object_asks(target: Target) -> None:
    elf = ELFFile(io.BytesIO(c_model(target, 1).data))
    (section,) = (section for section in elf.iter_sections() if section.name == ".bss.scratch")
    asked = [
        symbol["st_value"]
        for data in c_objects(target, 1).values()
        for symbol in toolbox.symbol_table(data).iter_symbols()
        if symbol["st_shndx"] == "SHN_COMMON" and symbol.name == "scratch"
    ]
    assert len(asked) == 2
    assert (section["sh_size"], section["sh_addralign"], section["sh_type"]) == (4 * 32, max(asked), "SHT_NOBITS")


@cache
def cpp_model(target: Target, seed: int, *flags: str) -> MergedObject:
    name = "ab"[seed - 1]
    files = {f"{part}.o": (OBJECTS / f"model_{part}.cpp").read_text() for part in ("first", "second")}
    objects = compiled(files, target, f"-DSEED={seed}", "-std=c++17", f"-I{OBJECTS}", *flags, language="c++")
    return toolbox.merge_files(objects, {"run": f"{name}_run"}, name)


CPP_BEHAVIOURS = {
    "inline_functions_and_their_statics": (0, 23, 43, 27),
    "templates_and_their_static_members": (1, 203, 406, 207),
    "constructors_and_destructors_in_groups": (2, 22, 44, 22),
    "virtual_calls": (3, 105, 210, 105),
    "inline_static_variables": (4, 2, 3, 3),
    "global_constructors": (5, 11, 22, 11),
}


@cache
def cpp_results(target: Target) -> list[int]:
    objects = [cpp_model(target, 1).data, cpp_model(target, 2).data]
    body = f"for (int i = 0; i < {len(CPP_BEHAVIOURS)}; ++i) {{ put(a_run(i)); put(b_run(i)); put(a_run(i)); }}"
    return numbers(toolbox.run_main(body, objects, target, language="c++"))


@each(CXX_TARGETS)
@pytest.mark.parametrize("behaviour", CPP_BEHAVIOURS)
def test_two_cpp_models_of_the_same_names(behaviour: str, target: Target) -> None:
    number, *expected = CPP_BEHAVIOURS[behaviour]
    assert cpp_results(target)[3 * number : 3 * number + 3] == expected


def throwing_model(target: Target, seed: int) -> MergedObject:
    name = "ab"[seed - 1]
    files = {f"{part}.o": (OBJECTS / f"model_{part}.cpp").read_text() for part in ("catch", "throw")}
    objects = compiled(files, target, f"-DSEED={seed}", f"-I{OBJECTS}", language="c++")
    return toolbox.merge_files(objects, {"run": f"{name}_run"}, name)


@pytest.mark.parametrize("linker", ["bfd", "gold", "lld"])
@each((HOST, CLANG))
def test_exceptions_are_caught_inside_their_model(target: Target, linker: str) -> None:
    objects = [throwing_model(target, seed).data for seed in (1, 2)]
    output = toolbox.run_main(
        "put(a_run(0)); put(b_run(0)); put(a_run(5));", objects, target, f"-fuse-ld={linker}", language="c++"
    )
    # run(x): (x thrown ? x * SEED * 10 + SEED : 0) for x and x + 1, times 100, and SEED for each of two frames undone
    assert numbers(output) == [1102, 2204, (51 + 61) * 100 + 2]


def test_fixture_has_groups_of_joint_constructors() -> None:
    text = (OBJECTS / "model_first.cpp").read_text()
    groups = toolbox.ask(
        "readelf",
        toolbox.compile_source(text, CORTEX_M3, "-DSEED=1", "-std=c++17", f"-I{OBJECTS}", language="c++"),
        "--section-groups",
        "--wide",
    )
    assert re.search(r"\[_ZN5ValueC5EP[il]\]", groups)
    assert "[_ZN5ValueD5Ev]" in groups


def test_unique_global_of_gcc_becomes_local() -> None:
    text = (OBJECTS / "model_first.cpp").read_text()
    flags = ("-DSEED=1", "-std=c++17", f"-I{OBJECTS}")
    assert "UNIQUE" in toolbox.ask("readelf", toolbox.compile_source(text, HOST, *flags, language="c++"), "-sW")
    assert "UNIQUE" not in toolbox.ask("readelf", cpp_model(HOST, 1).data, "-sW")


def test_unwind_entry_of_a_discarded_function_does_not_describe_its_twin() -> None:
    frames = toolbox.ask("readelf", throwing_model(HOST, 1).data, "--relocs", "--wide")
    text = [line for line in frames.splitlines() if ".text._Z7guardediPi" in line and "R_X86_64_PC32" in line]
    assert len(text) == 1


def test_joined_unwind_tables_have_no_end_in_between() -> None:
    files = {"a.o": "int other(void); int run(void) { return other() + 1; }", "b.o": "int other(void) { return 2; }"}
    items = [parse_object(data, label) for label, data in compiled(files, HOST).items()]
    for item in items:
        (table,) = (section for section in item.sections if section.name == ".eh_frame")
        while table.size_bytes % table.alignment == 0:
            table.alignment *= 2
    model = merge_objects(items, exports={"run": "a_run"}, unique="a")
    frames = toolbox.ask("readelf", model.data, "--debug-dump=frames")
    assert frames.count("FDE") == 2
    assert "ZERO terminator" not in frames


WITH_EXCEPTION_TABLE = """
  .section .text.{name},"ax",%progbits
  .globl {name}
  .type {name}, %function
{name}:
  .cfi_startproc
  .cfi_personality 0x1b, personality
  .cfi_lsda 0x1b, table_of_{name}
  ret
  .cfi_endproc
  .section .gcc_except_table.{name},"a",%progbits
table_of_{name}:
  .quad {refers_to}
"""


def test_exception_table_of_code_that_only_an_exception_table_needs_is_kept() -> None:
    # In the order in which one pass over the objects would miss it.
    files = {
        "a.o": WITH_EXCEPTION_TABLE.format(name="handler", refers_to=0),
        "b.o": WITH_EXCEPTION_TABLE.format(name="run", refers_to="data")
        + '  .section .data.data,"aw",%progbits\n  .globl data\ndata: .quad handler\n',
    }
    model = toolbox.merge_files(compiled(files, HOST, language="assembler"), {"run": "a_run"})
    assert ".gcc_except_table.handler" in [section.name for section in parse_object(model.data, "a.o").sections]


TLS_MODEL = """
__thread int counter = SEED; static __thread int zeroed[8]; __thread int tentative;
int run(int what) { tentative += 10; zeroed[what] += 1; return counter++ * 1000 + tentative + zeroed[what]; }
"""


@each((HOST, CLANG, CORTEX_M3, RV32))
def test_thread_local_variables_stay_apart(target: Target) -> None:
    models = [merged(TLS_MODEL, target, f"-DSEED={seed}", unique=name).data for seed, name in ((1, "a"), (2, "b"))]
    assert numbers(toolbox.run_main("put(a_run(0)); put(b_run(0)); put(a_run(0));", models, target)) == [
        1011,
        2011,
        2022,
    ]


IFUNC_MODEL = """
static int one(void) { return SEED * 3; }
static void *choose(void) { return one; }
int chosen(void) __attribute__((ifunc("choose")));
int run(int what) { return chosen() + what; }
"""


def test_indirect_functions_are_chosen_per_model() -> None:
    models = [merged(IFUNC_MODEL, HOST, f"-DSEED={seed}", unique=name).data for seed, name in ((1, "a"), (2, "b"))]
    assert numbers(toolbox.run_main("put(a_run(0)); put(b_run(0)); put(a_run(1));", models, HOST)) == [3, 6, 4]


@each(FEW)
def test_common_wins_over_a_weak_definition(target: Target) -> None:
    files = {
        "weak.o": "__attribute__((weak)) int value[2] = {7, 8}; int first(void) { return value[0]; }",
        "common.o": "int value[16]; int first(void); int run(int what) { return first() * 10 + value[what]; }",
    }
    expected = [0]
    objects = compiled(files, target)
    plain = [*objects.values()]
    assert numbers(toolbox.run_main("put(run(15));", plain, target)) == expected  # as GNU ld resolves them
    mine = toolbox.merge_files(dict(reversed(objects.items())), {"run": "a_run"})
    assert numbers(toolbox.run_main("put(a_run(15));", [mine.data], target)) == expected


@each(FEW)
def test_local_common_of_llvm_objcopy_gets_storage_of_its_own(target: Target, tmp_path: Path) -> None:
    text = "int storage[8]; int run(int what) { return storage[what] += SEED; }"
    models = []
    for seed, name in ((1, "a"), (2, "b")):
        path = tmp_path / f"{name}.o"
        path.write_bytes(toolbox.compile_c(text, target, f"-DSEED={seed}"))
        toolbox.run(["llvm-objcopy", "--keep-global-symbol=run", path])
        models.append(toolbox.merge_files({"model.o": path.read_bytes()}, {"run": f"{name}_run"}, name).data)
    assert "COM" not in toolbox.ask("readelf", models[0], "-sW")
    assert numbers(toolbox.run_main("put(a_run(7)); put(b_run(7)); put(a_run(7));", models, target)) == [1, 2, 2]


def test_common_with_an_alignment_that_is_no_power_of_two_is_refused() -> None:
    item = parse_object(toolbox.compile_c("int storage; int run(void) { return storage; }", HOST), "model.o")
    item.symbols.value[item.symbols.names.index("storage")] = 3
    with pytest.raises(ObjectError) as caught:
        merge_objects([item], exports={"run": "a_run"}, unique="a")
    assert str(caught.value) == "model.o: the object file is damaged: `storage` has an alignment of 3"


# What is global, what is undefined


@each(RUNNABLE)
def test_entrypoint_is_the_only_global(target: Target) -> None:
    assert toolbox.defined_globals(c_model(target, 1).data) == ["a_run"]


@each(CXX_TARGETS)
def test_entrypoint_is_the_only_global_of_a_cpp_model(target: Target) -> None:
    assert toolbox.defined_globals(cpp_model(target, 1).data) == ["a_run"]


def test_weak_or_hidden_entrypoint_becomes_an_ordinary_global() -> None:
    model = merged('__attribute__((weak, visibility("hidden"))) int run(void) { return 1; }', HOST)
    (line,) = (line for line in toolbox.ask("readelf", model.data, "-sW").splitlines() if "a_run" in line)
    assert line.split()[3:6] == ["FUNC", "GLOBAL", "DEFAULT"]


NEEDY = {
    "first.o": """
        extern int needed(int), both(int); extern int optional(int) __attribute__((weak));
        int second(int), *place(void);
        int dead(void) { return needed(1) + dead_only(); }
        int run(int what) { return needed(what) + both(what) + (optional ? optional(what) : 0) + second(what); }
    """,
    "second.o": "extern int both(int); int second(int x) { return both(x); }",
}
NEEDED = (
    Undefined(name="both", is_weak=False, needed_by=("first.o", "second.o")),
    Undefined(name="needed", is_weak=False, needed_by=("first.o",)),
    Undefined(name="optional", is_weak=True, needed_by=("first.o",)),
)


@each(FEW)
def test_undefined_names_are_those_that_live_code_needs(target: Target) -> None:
    model = toolbox.merge_files(compiled(NEEDY, target, "-w"), {"run": "a_run"})
    assert model.undefined == NEEDED
    assert toolbox.undefined_names(model.data) == ["both", "needed", "optional weak"]


@each(FEW)
def test_name_that_only_dead_code_needs_strongly_stays_weak(target: Target) -> None:
    text = """
        extern int probe(void) __attribute__((weak)); int run(int x) { return probe ? probe() : x + 5; }
    """
    other = "extern int probe(void); int dead(void) { return probe(); }"
    model = toolbox.merge_files(compiled({"live.o": text, "other.o": other}, target), {"run": "a_run"})
    assert model.undefined == (Undefined(name="probe", is_weak=True, needed_by=("live.o",)),)
    assert numbers(toolbox.run_main("put(a_run(1));", [model.data], target)) == [6]


def test_bounds_of_a_section_that_the_model_does_not_have_are_undefined() -> None:
    model = merged("extern int __start_items[]; int run(void) { return __start_items[0]; }", HOST)
    assert model.undefined == (Undefined(name="__start_items", is_weak=False, needed_by=("model.o",)),)


def test_every_doubly_defined_name_is_reported_with_its_owners() -> None:
    files = {
        "a.o": "int run(void) { return 1; } int table = 1;",
        "b.o": "int run(void) { return 2; } int other;",
        "c.o": "int table = 2; int run(void) { return 3; }",
    }
    with pytest.raises(LinkError) as caught:
        toolbox.merge_files(compiled(files, HOST), {"run": "a_run"}, where="kws.tar")
    assert str(caught.value) == "kws.tar: defined more than once: `run` in a.o and b.o and c.o; `table` in a.o and c.o"


def test_missing_entrypoints_are_named() -> None:
    files = compiled({"a.o": "extern int run(void); int other(void) { return run(); }"}, HOST)
    with pytest.raises(LinkError) as caught:
        toolbox.merge_files(files, {"run": "a_run", "init": "a_init"}, where="kws.tar")
    assert str(caught.value) == "kws.tar: no object of the model defines its entrypoint `init` and `run`"


def test_merge_of_nothing_is_refused() -> None:
    with pytest.raises(LinkError) as caught:
        merge_objects([], exports={}, unique="a", where="kws.tar")
    assert str(caught.value) == "kws.tar: there is no object to merge"


@pytest.mark.parametrize(
    ("first", "second", "facts"),
    [
        (HOST, CORTEX_M3, ("32-bit little-endian ARM", "64-bit little-endian x86-64")),
        (CORTEX_M3, ARM_BIG, ("32-bit big-endian ARM", "32-bit little-endian ARM")),
        (RV32, MIPS, ("32-bit big-endian MIPS", "32-bit little-endian RISC-V")),
    ],
    ids=["machine", "byte-order", "both"],
)
def test_objects_of_different_machines_are_refused(first: Target, second: Target, facts: tuple[str, str]) -> None:
    files = {
        "first.o": toolbox.compile_c("int run(void) { return 1; }", first),
        "second.o": toolbox.compile_c("int other(void) { return 1; }", second),
    }
    with pytest.raises(ObjectError) as caught:
        toolbox.merge_files(files, {"run": "a_run"})
    assert str(caught.value) == f"second.o: is for {facts[0]}, first.o for {facts[1]}"


def test_objects_of_different_riscv_float_abis_are_refused() -> None:
    files = {
        "first.o": toolbox.compile_c("int run(void) { return 1; }", RV32),
        "second.o": toolbox.compile_c("int other(void) { return 1; }", RV32, "-march=rv32imafc", "-mabi=ilp32f"),
    }
    with pytest.raises(ObjectError) as caught:
        toolbox.merge_files(files, {"run": "a_run"})
    assert str(caught.value) == "second.o: has the ELF flags 0x3, first.o has 0x1"
    assert caught.value.hint == "compile both with the same ABI"


def test_compressed_and_other_riscv_code_go_together() -> None:
    files = {
        "first.o": toolbox.compile_c("int other(void); int run(void) { return other(); }", RV32, "-march=rv32im"),
        "second.o": toolbox.compile_c("int other(void) { return 9; }", RV32),
    }
    model = toolbox.merge_files(files, {"run": "a_run"})
    assert "Flags:                             0x1, RVC" in toolbox.ask("readelf", model.data, "-h")
    assert numbers(toolbox.run_main("put(a_run());", [model.data], RV32)) == [9]


def test_position_independent_mips_code_is_refused() -> None:
    target = replace(MIPS, cc=("mips-linux-gnu-gcc", "-mabicalls", "-fpic", "-ffreestanding"))
    files = {"model.o": toolbox.compile_c("int run(void) { return 1; }", target)}
    with pytest.raises(ObjectError) as caught:
        toolbox.merge_files(files, {"run": "a_run"})
    assert str(caught.value) == "model.o: is position-independent MIPS code, in which names cannot be made local"
    assert caught.value.hint == "compile it with -mno-abicalls -fno-pic"


OUTSIDE_A_GROUP = """
  .section .text.inline,"axG",%progbits,inline_function,comdat
  .weak inline_function
inline_function:
inside:
  .skip 4
  .section .data.{name},"aw",%progbits
  .globl {name}
{name}:
  .long inside
"""


def test_reference_into_a_discarded_group_is_refused() -> None:
    files = {
        f"{name}.o": toolbox.compile_source(OUTSIDE_A_GROUP.format(name=name), CORTEX_M3, language="assembler")
        for name in ("first", "second")
    }
    with pytest.raises(ObjectError) as caught:
        toolbox.merge_files(files, {"first": "a", "second": "b"})
    assert str(caught.value) == (
        "second.o: .data.second refers to `inside` in a section that another object's COMDAT group replaced"
    )


# Link-time optimisation


@each((HOST, CORTEX_M3))
def test_slim_lto_object_is_refused(target: Target) -> None:
    files = {"slim.o": toolbox.compile_c("int run(void) { return 1; }", target, "-flto", "-fno-fat-lto-objects")}
    with pytest.raises(ObjectError) as caught:
        toolbox.merge_files(files, {"run": "a_run"})
    assert str(caught.value) == "slim.o: holds LTO bytecode instead of machine code"
    assert caught.value.hint == "compile it with -fno-lto or -ffat-lto-objects"


@each((HOST, CORTEX_M3, RV32))
def test_fat_lto_objects_are_merged_as_machine_code(target: Target) -> None:
    files = {
        "first.o": "int other(int); int run(int x) { return other(x) + SEED; }",
        "second.o": "static int calls; int other(int x) { return x * 10 + SEED * 100 + ++calls; }",
    }
    models = []
    for seed, name in ((1, "a"), (2, "b")):
        objects = compiled(files, target, f"-DSEED={seed}", "-flto", "-ffat-lto-objects")
        assert any(section.startswith(".gnu.lto_") for section in sections_of(objects["first.o"]))
        models.append(toolbox.merge_files(objects, {"run": f"{name}_run"}, name).data)
    assert not [section for section in sections_of(models[0]) if "lto" in section]
    assert not [name for name in names_of(models[0]) if "lto" in name]
    output = toolbox.run_main("put(a_run(1)); put(b_run(1)); put(a_run(1));", models, target, "-flto")
    assert numbers(output) == [112, 213, 113]


def test_bytecode_section_of_a_fat_llvm_object_is_dropped() -> None:
    item = parse_object(toolbox.compile_c("int run(void) { return 1; }", CLANG), "model.o")
    item.sections.append(Section(name=".llvm.lto", type=0x6FFF4C0C, flags=0x80000000, data=b"BC", size_bytes=2))
    model = merge_objects([item], exports={"run": "a_run"}, unique="a")
    assert ".llvm.lto" not in sections_of(model.data)


def test_llvm_bitcode_is_refused() -> None:
    with pytest.raises(ObjectError) as caught:
        parse_object(toolbox.compile_c("int run(void) { return 1; }", CLANG, "-flto"), "model.o")
    assert str(caught.value) == "model.o: is LLVM bitcode, not an object file"
    assert caught.value.hint == "compile it without -flto"


# Constants and section facts

POOL = """
static struct { int weights[4]; } pool __attribute__((section(".rodata.tvm"), aligned(16))) = {{1, 2, 3, 4}};
static struct { int* place; } pointers __attribute__((section(".rodata.pointers"))) = {pool.weights + 2};
int run(int what) { return pool.weights[what] * 10 + *pointers.place; }
"""


@each(FEW)
def test_writable_constants_without_relocations_become_read_only(target: Target) -> None:
    flags = ("-w", "-fno-toplevel-reorder")
    before = toolbox.compile_c(POOL, target, *flags)
    after = merged(POOL, target, *flags).data
    assert [flags_of(before, name) & 1 for name in (".rodata.tvm", ".rodata.pointers")] == [1, 1]
    assert [flags_of(after, name) & 1 for name in (".rodata.tvm", ".rodata.pointers")] == [0, 1]


# Dead code

DEAD = """
int small(int x) { return x + 1; }
int dead_table[1000] = {1};
int dead(int x) { return dead_table[x] + other_dead(x); }
static int (*used_table[])(int) = {small};
int other_dead(int x) { return dead(x); }
int run(int x) { return (*(int (**volatile)(int))&used_table[0])(x); }
"""


@each(FEW)
def test_what_no_entrypoint_reaches_is_dropped(target: Target) -> None:
    model = merged(DEAD, target, "-w")
    sections = parse_object(model.data, "a.o").sections
    names = {section.name.split(".")[-1] for section in sections if section.size_bytes}
    assert names >= {"run", "small"}
    assert not names & {"dead", "other_dead", "dead_table"}
    assert model.dropped_bytes > 4000
    assert not names_of(model.data) & {"dead", "other_dead", "dead_table"}


def gnu_merged(objects: Mapping[str, bytes], target: Target, directory: Path, unique: str) -> bytes:
    """The same by GNU ld and objcopy, as far as they can."""
    paths = [directory / name for name in objects]
    for path, data in zip(paths, objects.values(), strict=True):
        path.write_bytes(data)
    made = directory / "gnu.o"
    unmerged = [f"--unique={name}" for name in (".text", ".data", ".bss", ".rodata")]
    toolbox.run(
        [f"{target.prefix}ld", *target.ld_flags, "-r", "-d", "--gc-sections", "-u", "run", "-e", "run", "--unique", *unmerged,
         "--force-group-allocation", *paths, "-o", made]
    )  # fmt: skip
    toolbox.run([f"{target.prefix}objcopy", f"--redefine-sym=run={unique}_run", made])
    toolbox.run([f"{target.prefix}objcopy", f"--keep-global-symbol={unique}_run", made])
    return made.read_bytes()


def image_size(program: Path, target: Target) -> int:
    lines = toolbox.run([f"{target.prefix}size", program]).splitlines()
    return int(lines[1].split()[3])


@each((*FEW, AARCH64, MIPS, ARM_BIG))
def test_image_is_not_larger_than_with_gnu_ld_and_objcopy(target: Target, tmp_path: Path) -> None:
    files = {
        "main.o": DEAD + "int shared[10]; extern int helper(int); int more(int x) { return helper(x) + shared[x]; }",
        "helper.o": "int shared[20]; int helper(int x) { return shared[x] + 1; } int unused(int x) { return x * 3; }",
    }
    objects = compiled(files, target, "-w")
    main = toolbox.main_object("put(a_run(1));", target)
    sizes = []
    for name, data in (
        ("mine", toolbox.merge_files(objects, {"run": "a_run"}).data),
        ("gnu", gnu_merged(objects, target, tmp_path, "a")),
    ):
        program = toolbox.link([main, data], target, tmp_path / name)
        assert numbers(toolbox.execute(program, target)) == [2]
        sizes.append(image_size(program, target))
    mine, gnu = sizes
    assert mine <= gnu


@each(FEW)
def test_constructor_that_nothing_refers_to_is_kept(target: Target) -> None:
    files = {
        "main.o": "int started; int run(void) { return started; }",
        "ctor.o": "extern int started; __attribute__((constructor)) static void start(void) { started += 7; }",
    }
    model = toolbox.merge_files(compiled(files, target), {"run": "a_run"})
    assert numbers(toolbox.run_main("put(a_run());", [model.data], target)) == [7]


def test_retained_section_is_kept() -> None:
    text = '__attribute__((retain, used, section("keepsake"))) static const int mark = 5; int run(void) { return 1; }'
    assert "keepsake" in [section.name for section in parse_object(merged(text, HOST).data, "a.o").sections]


def test_stack_sizes_of_dropped_functions_are_dropped() -> None:
    text = "int dead(int x) { volatile int t[9] = {x}; return t[1]; } int run(int x) { return x; }"
    model = merged(text, CLANG, "-fstack-size-section")
    assert sections_of(model.data).count(".stack_sizes") == 1


# Debug information

DEBUG_MODEL = """static int buffer[8];
__attribute__((noinline)) int counted_operator(int x) {{
  buffer[x] += {seed};
  return buffer[x];
}}
int dead(int x) {{
  for (int i = 0; i < x; ++i) buffer[i] = counted_operator(i);
  return x;
}}


__attribute__((noinline)) int {name}_only(int x) {{ return counted_operator(x) + 1; }}
int run(int x) {{
  return {name}_only(x) + 1;
}}
"""
DWARF_TARGETS = (HOST, CLANG, CORTEX_M3, RV32, AARCH64, MIPS)


SECOND_DEBUG = "int second(int x) { return x; }\nint third(int x) {\n  return second(x) * 3; }\n"


@cache
def debug_objects(target: Target, name: str, *flags: str) -> dict[str, bytes]:
    text = DEBUG_MODEL.format(name=name, seed=len(name))
    return {
        "model.o": toolbox.compile_source(text, target, "-g", *flags, name=name),
        "second.o": toolbox.compile_source(SECOND_DEBUG, target, "-g", *flags, name="second"),
    }


@cache
def debug_image(target: Target, *flags: str) -> bytes:
    models = [
        toolbox.merge_files(
            debug_objects(target, name, *flags), {"run": f"{name}_run"}, name, rename_local=f"{name}.{{}}".format
        ).data
        for name in ("kws", "vww")
    ]
    return linked("put(kws_run(1)); put(vww_run(1));", models, target)


def linked(body: str, objects: list[bytes], target: Target) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        main = toolbox.main_object(body, target)
        return toolbox.link([main, *objects], target, Path(directory, "image")).read_bytes()


def addresses(image: bytes) -> dict[str, int]:
    elf = ELFFile(io.BytesIO(image))
    thumb = elf["e_machine"] == "EM_ARM"  # whose lowest bit of a function's address tells the instruction set
    symbols = toolbox.symbol_table(image).iter_symbols()
    return {symbol.name: symbol["st_value"] & (-2 if thumb else -1) for symbol in symbols}


def places(image: bytes, target: Target, *names: str) -> list[str]:
    """Give the `file:line` that the toolchain finds for each symbol."""
    found = addresses(image)
    text = toolbox.ask(f"{target.prefix}addr2line", image, *(f"{found[name]:#x}" for name in names), "-e")
    return [line.rpartition("/")[2].split(" ")[0] for line in text.splitlines()]


DWARF = pytest.mark.parametrize("dwarf", ["-gdwarf-4", "-gdwarf-5"])


@each(DWARF_TARGETS)
@DWARF
def test_addresses_resolve_to_the_lines_of_their_own_model(target: Target, dwarf: str) -> None:
    names = ("kws_run", "vww_run", "kws.kws_only", "kws.counted_operator", "vww.counted_operator")
    found = places(debug_image(target, dwarf), target, *names)
    # The first line of the function or of its body, as the compiler likes.
    assert found[0] in {"kws.c:13", "kws.c:14"}
    assert found[1] in {"vww.c:13", "vww.c:14"}
    assert found[2] == "kws.c:12"
    assert found[3] in {"kws.c:2", "kws.c:3"}
    assert found[4] in {"vww.c:2", "vww.c:3"}


@each(DWARF_TARGETS)
@DWARF
def test_debug_information_reads_without_new_warnings(target: Target, dwarf: str) -> None:
    plain = linked("put(run(1));", list(debug_objects(target, "kws", dwarf).values()), target)
    warnings = [
        {line for line in toolbox.ask("readelf", image, "--debug-dump").splitlines() if "arning" in line}
        for image in (debug_image(target, dwarf), plain)
    ]
    assert warnings[0] <= warnings[1]


def function_starts(image: bytes) -> dict[str, set[int]]:
    """Give the addresses at which the debug information says that functions of each name begin."""
    starts: dict[str, set[int]] = {}
    for unit in ELFFile(io.BytesIO(image)).get_dwarf_info().iter_CUs():
        for entry in unit.iter_DIEs():
            if entry.tag == "DW_TAG_subprogram" and "DW_AT_low_pc" in entry.attributes:
                named = entry
                while "DW_AT_name" not in named.attributes:
                    named = named.get_DIE_from_attribute("DW_AT_abstract_origin")
                starts.setdefault(named.attributes["DW_AT_name"].value.decode(), set()).add(low_pc(unit, entry))
    return starts


def low_pc(unit: Any, entry: Any) -> int:
    value = entry.attributes["DW_AT_low_pc"]
    if value.form != "DW_FORM_addrx":
        return int(value.value)
    return int(unit.dwarfinfo.get_addr(unit, value.raw_value))


@each(DWARF_TARGETS)
@DWARF
def test_dropped_functions_have_no_address_in_the_debug_information(target: Target, dwarf: str) -> None:
    image = debug_image(target, dwarf)
    starts, found = function_starts(image), addresses(image)
    assert starts["dead"] == {0}
    assert starts["third"] == {0}
    assert starts["run"] == {found["kws_run"], found["vww_run"]}


@each(FEW)
def test_compressed_debug_information_survives(target: Target) -> None:
    objects = debug_objects(target, "kws", "-gz")
    model = toolbox.merge_files(objects, {"run": "kws_run"}, rename_local="kws.{}".format)
    assert flags_of(model.data, ".debug_info") == 0x800
    assert places(linked("put(kws_run(1));", [model.data], target), target, "kws.kws_only") == ["kws.c:12"]


def test_local_names_are_renamed_but_not_files_sections_and_mapping_symbols() -> None:
    text = """
        static int (*volatile pointer)(int); static int helper(int x) { return x; }
        int run(int x) { pointer = helper; return pointer(x + 0x12345678); }
    """
    model = toolbox.merge_files(compiled({"m.o": text}, CORTEX_M3), {"run": "a_run"}, rename_local="kws.{}".format)
    names = names_of(model.data)
    assert {"kws.helper", "kws.pointer", "$t", "$d", "source.c", "a_run"} <= names
    assert not {name for name in names if "$" in name} - {"$t", "$d"}
    sections = [line.split() for line in toolbox.ask("readelf", model.data, "-sW").splitlines() if "SECTION" in line]
    assert not [line for line in sections if "kws" in line[-1]]


def test_local_labels_of_the_assembler_keep_their_names() -> None:
    text = "extern int other(int); int run(int x) { if (x) return other(x) + other(x + 1); return 3; }"
    model = toolbox.merge_files(compiled({"m.o": text}, RV32, "-g"), {"run": "a_run"}, rename_local="kws.{}".format)
    assert [name for name in names_of(model.data) if name.startswith(".L")]
    assert not [name for name in names_of(model.data) if ".L" in name[1:]]


# The judgement of other linkers and readers


def all_models() -> dict[str, tuple[Target, MergedObject]]:
    c = {f"c-{target.name}": (target, c_model(target, 1)) for target in RUNNABLE}
    return c | {f"cpp-{target.name}": (target, cpp_model(target, 1)) for target in CXX_TARGETS}


@each(RUNNABLE)
def test_gnu_ld_and_readelf_accept_a_c_model_without_a_word(target: Target, tmp_path: Path) -> None:
    accepted(c_model(target, 1, "-g").data, target, tmp_path)


@each(CXX_TARGETS)
def test_gnu_ld_and_readelf_accept_a_cpp_model_without_a_word(target: Target, tmp_path: Path) -> None:
    accepted(cpp_model(target, 1, "-g").data, target, tmp_path)


def accepted(data: bytes, target: Target, directory: Path) -> None:
    path = directory / "merged.o"
    path.write_bytes(data)
    for linker in (f"{target.prefix}ld", "ld.lld"):
        if linker == "ld.lld" and target is ARM_BIG:
            continue  # it knows no big-endian Arm
        assert toolbox.run([linker, *target.ld_flags, "-r", path, "-o", directory / "again.o"]) == ""
    text = toolbox.run(["readelf", "-a", "--wide", path])
    assert not [line for line in text.splitlines() if "arning" in line or "rror:" in line]


@each(RUNNABLE)
def test_symbols_and_sections_are_sound_to_another_reader(target: Target) -> None:
    data = c_model(target, 1, "-g").data
    elf, table = ELFFile(io.BytesIO(data)), toolbox.symbol_table(data)
    symbols = list(table.iter_symbols())
    bindings = [symbol["st_info"]["bind"] for symbol in symbols]
    local_count = table["sh_info"]
    assert set(bindings[:local_count]) == {"STB_LOCAL"}
    assert "STB_LOCAL" not in bindings[local_count:]
    for symbol in symbols:
        if isinstance(symbol["st_shndx"], int) and symbol["st_info"]["type"] != "STT_TLS":
            assert symbol["st_value"] <= elf.get_section(symbol["st_shndx"])["sh_size"] | 1
    for section in elf.iter_sections():
        if isinstance(section, RelocationSection):
            size = elf.get_section(section["sh_info"])["sh_size"]
            assert all(r["r_offset"] < size and r["r_info_sym"] < len(symbols) for r in section.iter_relocations())


@each((HOST, CLANG))
def test_lld_links_the_models(target: Target) -> None:
    objects = [c_model(target, 1).data, c_model(target, 2).data]
    assert numbers(toolbox.run_main("put(a_run(0)); put(b_run(0)); put(a_run(6));", objects, target, "-fuse-ld=lld", "-Wl,-z,nostart-stop-gc")) == [
        21, 41, 123,
    ]  # fmt: skip


MERGE_AND_HASH = """
import hashlib, sys
from mlf.objects.elf import parse_object
from mlf.objects.merge import merge_objects
objects = [parse_object(open(path, "rb").read(), "m.o") for path in sys.argv[1:]]
print(hashlib.sha256(merge_objects(objects, exports={"run": "a_run"}, unique="a").data).hexdigest())
"""


@each(FEW)
def test_same_objects_give_the_same_bytes_in_every_process(target: Target, tmp_path: Path) -> None:
    paths = []
    for name, data in c_objects(target, 1, "-g").items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(data)
    hashes = [
        toolbox.run([sys.executable, "-c", MERGE_AND_HASH, *paths], cwd=ROOT, environment={"PYTHONHASHSEED": seed})
        for seed in ("1", "2")
    ]
    assert hashes[0] == hashes[1]


# Many sections

MANY = 65_400  # more than the 65,279 that a section index of 16 bits can tell apart


def many_functions(returns: str, word: str) -> str:
    functions = [
        f'.section .text.f{n},"ax",%progbits\n.type f{n}, %function\nf{n}: {returns.format(n=n)}\n' for n in range(MANY)
    ]
    table = "".join(f"{word} f{n}\n" for n in range(MANY))
    return f'{"".join(functions)}.section .data.table,"aw",%progbits\n.globl table\ntable:\n{table}'


@pytest.mark.parametrize(
    ("target", "returns", "word"),
    [
        (HOST, "movl ${n}, %eax; ret", ".quad"),
        (CORTEX_M3, "movw r0, #{n}; bx lr", ".word"),
        (RV32, "li a0, {n}; ret", ".word"),
    ],
    ids=["host", "cortex-m3", "rv32imac"],
)
def test_more_sections_than_16_bits_can_number(target: Target, returns: str, word: str) -> None:
    text = many_functions(returns, word)
    note = '.section .note.GNU-stack,"",%progbits\n' if target is HOST else ""
    files = {
        "table.o": toolbox.compile_source(text + note, target, language="assembler"),
        "main.o": toolbox.compile_c("extern int (*table[])(void); int run(int x) { return table[x](); }", target),
    }
    start = time.process_time()
    model = toolbox.merge_files(files, {"run": "a_run"})
    assert time.process_time() - start < 10
    header = toolbox.ask("readelf", model.data, "--file-header")
    assert int(re.findall(r"Number of section headers: +0 \((\d+)\)", header)[0]) > MANY
    body = f"put(a_run(100)); put(a_run({MANY - 200})); put(a_run({MANY - 1}));"
    assert numbers(toolbox.run_main(body, [model.data], target)) == [100, MANY - 200, MANY - 1]
