"""Names and memory of objects tied to what a library has in their place, judged by GNU ld and by running the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from toolbox import AARCH64, CORTEX_M3, HOST, RV32, ask, compile_c, link, main_object, run_main

from mlf.errors import ObjectError
from mlf.objects import bind, elf
from mlf.objects.elf import parse_object
from mlf.objects.merge import merge_objects

if TYPE_CHECKING:
    from pathlib import Path

    from toolbox import Target

    from mlf.objects.elf import ElfObject

TARGETS = pytest.mark.parametrize("target", [HOST, CORTEX_M3, RV32, AARCH64], ids=lambda target: target.name)

CODE = """
static unsigned char first[24] __attribute__((section(".bss.noinit.tvm"), aligned(16)));
static unsigned char second[40] __attribute__((section(".bss.noinit.tvm"), aligned(16)));
int fill(int value) {
  int i;
  for (i = 0; i < 24; ++i) first[i] = (unsigned char)(value + i);
  for (i = 0; i < 40; ++i) second[i] = (unsigned char)(value - i);
  return first[23] + 256 * second[39];
}
unsigned char* where(int which) { return which ? &second[1] : first; }
"""


def compiled(text: str, target: Target, label: str = "code.c") -> ElfObject:
    return parse_object(compile_c(text, target, "-ffunction-sections", "-fdata-sections", "-w"), label)


def merged(items: list[ElfObject], *exports: str) -> bytes:
    return merge_objects(items, exports={name: name for name in exports}, unique="m").data


@TARGETS
def test_buffers_of_the_code_move_to_memory_from_elsewhere(target: Target) -> None:
    code, arena = (
        compiled(CODE, target),
        compiled("unsigned char memory[128] __attribute__((nocommon, aligned(16)));", target, "arena.c"),
    )
    ((place, section),) = bind.buffer_sections(code, {"first", "second"}).items()

    wanted = bind.retarget(code, place, "memory_in")
    for name, offset in wanted.items():
        assert bind.publish(arena, "memory", name, offset_bytes=16 + offset)
    data = merged([code, arena], "fill", "where", "memory")
    body = """
      extern unsigned char memory[128];
      unsigned char* where(int);
      put(fill(100)); put(fill(100) == memory[16 + 23] + 256 * (unsigned char)(100 - 39) || where(0) != memory + 16);
      put((int)(where(0) - memory) >= 16 && (int)(where(1) - memory) < 128);
    """

    assert section.size_bytes >= 24 + 40
    assert run_main(body, [data], target) == f"{123 + 256 * 61}\n1\n1\n"


@TARGETS
def test_a_name_is_given_to_what_only_the_object_sees(target: Target) -> None:
    code = compiled("static const int table[4] = {3, 5, 7, 9}; const int* mine(void) { return table; }", target)

    assert bind.publish(code, "table", "shared_table")
    assert not bind.publish(code, "nothing", "shared_nothing")

    body = "extern const int shared_table[4]; const int* mine(void); put(shared_table[2]); put(mine() == shared_table);"
    assert run_main(body, [merged([code], "mine", "shared_table")], target) == "7\n1\n"


@TARGETS
def test_renaming_reaches_definitions_and_references(target: Target) -> None:
    code = compiled("int helper(int x) { return x + 1; } int run(int x) { return helper(x); }", target)
    user = compiled("int tvm_run(int); int other(int x) { return tvm_run(x) * 2; }", target, "user.c")

    bind.rename(code, {"run": "tvm_run"})

    assert run_main("int other(int); put(other(4));", [merged([code, user], "other")], target) == "10\n"


@TARGETS
@pytest.mark.parametrize("has_relocations", [True, False], ids=["calls", "calls-nothing"])
def test_data_that_is_kept_with_a_function_survives_garbage_collection(
    target: Target, tmp_path: Path, *, has_relocations: bool
) -> None:
    text = (
        "int helper(int); int run(int x) { return helper(x); }" if has_relocations else "int run(int x) { return x; }"
    )
    code = compiled(text + " int helper(int x) { return x; } int unused(void) { return 1; }", target)
    data = elf.data_object("descriptor", code.machine, [("descriptor", b"MARK-MARK-MARK-M", 4)], section=".rodata.mlf")

    bind.keep_with(code, "run", "descriptor")
    objects = [merged([code, data], "run", "unused")]
    used = link([main_object("int run(int); put(run(1));", target), *objects], target, tmp_path / "used")
    unused = link([main_object("int unused(void); put(unused());", target), *objects], target, tmp_path / "unused")

    assert b"MARK-MARK-MARK-M" in used.read_bytes()
    assert b"MARK-MARK-MARK-M" not in unused.read_bytes()


@TARGETS
def test_constants_move_to_another_section_one_by_one(target: Target) -> None:
    text = """
      static const int one[64] = {1, 2, 3}; static const int two[64] = {4, 5, 6};
      static const int kept[64] __attribute__((section(".rodata.fast"))) = {7};
      int get(int i) { return one[i] + two[i] + kept[i]; }
    """

    def names(*, is_asked: bool) -> list[str]:
        code = compiled(text, target)
        bind.place_constants(code, ".ext", is_asked=is_asked)
        wide = ask("readelf", merged([code], "get"), "-SW").splitlines()
        return sorted(word for line in wide for word in line.split() if word.startswith((".ext", ".rodata.")))

    assert names(is_asked=False) == [".ext", ".ext", ".rodata.fast"]
    assert names(is_asked=True) == [".ext", ".ext", ".ext"]


def test_tables_for_exceptions_are_left_out() -> None:
    code = compiled("int other(int); int run(int x) { return other(x) + 1; }", CORTEX_M3)
    whole = parse_object(
        compile_c("int other(int); int run(int x) { return other(x) + 1; }", CORTEX_M3, "-funwind-tables"), "code.c"
    )
    assert [section.name for section in whole.sections if "exidx" in section.name and section.type not in (8, 9)] != []

    bind.drop_unwind_tables(whole)

    assert "exidx" not in ask("readelf", merged([whole], "run"), "-SW")
    assert code.machine == whole.machine


def test_a_damaged_relocation_is_told() -> None:
    code = compiled(CODE, HOST)
    table = next(section for section in code.sections if section.type == elf.SHT_RELA)
    entries = code.relocations(table).copy()
    entries["info"] |= 0xFFFF << 32
    table.data = entries.tobytes()
    ((place, _),) = bind.buffer_sections(code, {"first"}).items()

    with pytest.raises(ObjectError) as failure:
        bind.retarget(code, place, "memory")

    assert str(failure.value) == (
        "code.c: the object file is damaged: a relocation against a symbol that does not exist"
    )
