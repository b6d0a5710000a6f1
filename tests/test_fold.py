from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import toolbox
from toolbox import AARCH64, ARM_BIG, CLANG, CORTEX_M3, HOST, MIPS, OBJECTS, RV32, ZIG, Target

from mlf.errors import ObjectError
from mlf.objects import elf
from mlf.objects.ar import ArMember, write_ar
from mlf.objects.elf import parse_object
from mlf.objects.fold import FOLD_PREFIX, Folded, FoldedSection, fold_objects

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RUNNABLE = (HOST, CLANG, CORTEX_M3, RV32, AARCH64, MIPS, ARM_BIG, ZIG)
FEW = (HOST, CORTEX_M3, RV32)
# How the library's own objects are compiled: unwind tables are dead weight, and tie code to themselves.
NO_TABLES = ("-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fno-exceptions")
PADDING_BYTES = 32  # the largest alignment of what the compilers of these tests make


def each(targets: tuple[Target, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("target", targets, ids=lambda target: target.name)


def model(text: str, target: Target, *flags: str, name: str, language: str = "c") -> bytes:
    """A model of one file whose entrypoint `run` becomes `<name>_run`."""
    data = toolbox.compile_source(text, target, *NO_TABLES, *flags, language=language)
    return toolbox.merge_files({"model.o": data}, {"run": f"{name}_run"}, name).data


def models(text: str, target: Target, *flags: str, names: str = "ab") -> dict[str, bytes]:
    """Models of one source, told apart by `SEED`, which counts from 1."""
    return {name: model(text, target, f"-DSEED={seed}", *flags, name=name) for seed, name in enumerate(names, start=1)}


def shared(folded: Folded) -> list[FoldedSection]:
    return [group for group in folded.groups if len(group.models) > 1]


def what(folded: Folded) -> list[str]:
    """The names of what is stored once for several models, without numbers that compilers append."""
    return sorted({name.partition(".")[0] for group in shared(folded) for name in group.what})


def numbers(output: str) -> list[int]:
    return [int(line) for line in output.split()]


def results(body: str, objects: Sequence[bytes], target: Target, *flags: str) -> list[int]:
    return numbers(toolbox.run_main(body, objects, target, *flags))


def text_bytes(body: str, objects: Sequence[bytes], target: Target, *flags: str) -> int:
    """What GNU `size` says of code and constants of a program."""
    with tempfile.TemporaryDirectory() as directory:
        main = toolbox.main_object(body, target)
        program = toolbox.link([main, *objects], target, Path(directory, "program"), *flags)
        return int(toolbox.run(["size", program]).splitlines()[1].split()[0])


def kept_copies(body: str, objects: Sequence[bytes], target: Target, needle: bytes, *flags: str) -> int:
    with tempfile.TemporaryDirectory() as directory:
        main = toolbox.main_object(body, target)
        return toolbox.link([main, *objects], target, Path(directory, "program"), *flags).read_bytes().count(needle)


# Two models that differ in SEED alone: a table, an operator that reads it, one that calls another, and own state.
OPERATORS = r"""
#define NOINLINE __attribute__((noinline, noclone))
static const int weights[256] = {0x11223344, 3, 5, 7, 9, 11, 13, 0x55667788};
static const int bias[16] = {SEED, 2, 3};
static volatile int calls;
static NOINLINE int sum(const int* from, int count) {
  int total = 0;
  for (int i = 0; i < count; ++i) total += from[i] * (i + 3) + (total >> 3);
  return total;
}
static NOINLINE int dense(int x) { return sum(weights + (x & 7), 16) * 3 + weights[x & 3] + sum(weights, 9); }
static NOINLINE int add(int x) { return sum(bias, 16) + bias[x & 1] * 100; }
static NOINLINE int count(void) { calls = calls + SEED; return calls * 7 + (calls >> 5) * 3; }
int run(int x) { return dense(x) + add(x) * 3 + count(); }
"""
RUN_BOTH = "for (int i = 0; i < 9; ++i) { put(a_run(i)); put(b_run(i)); }"


@cache
def expected_numbers() -> list[int]:
    found = results(RUN_BOTH, list(models(OPERATORS, HOST).values()), HOST)
    assert len(set(found)) == 18
    return found


@each(RUNNABLE)
def test_folded_models_give_the_same_numbers(target: Target) -> None:
    folded = fold_objects(models(OPERATORS, target))
    assert results(RUN_BOTH, list(folded.data.values()), target) == expected_numbers()


@each(RUNNABLE)
def test_equal_constants_and_operators_are_shared_and_different_ones_are_not(target: Target) -> None:
    folded = fold_objects(models(OPERATORS, target))
    assert what(folded) == ["dense", "sum", "weights"]


@each(RUNNABLE)
@pytest.mark.parametrize("collected", [True, False], ids=["gc", "no-gc"])
def test_image_is_smaller_by_what_was_said(target: Target, collected: bool) -> None:
    flags = () if collected else ("-Wl,--no-gc-sections",)
    plain = models(OPERATORS, target)
    folded = fold_objects(plain)
    smaller = text_bytes(RUN_BOTH, list(plain.values()), target, *flags) - text_bytes(
        RUN_BOTH, list(folded.data.values()), target, *flags
    )
    assert folded.saved_bytes > 1024
    assert abs(smaller - folded.saved_bytes) <= PADDING_BYTES * len(shared(folded))


def test_report_says_what_is_shared_by_whom() -> None:
    folded = fold_objects(models(OPERATORS, CORTEX_M3, names="abc"))
    (weights,) = [group for group in shared(folded) if group.what == ("weights",)]
    assert re.fullmatch("[0-9a-f]{32}", weights.digest)
    assert (weights.section, weights.size_bytes, weights.is_code) == (".rodata.weights", 1024, False)
    assert (weights.models, weights.saved_bytes) == (("a", "b", "c"), 2048)
    assert [group.is_code for group in folded.groups if group.what == ("dense",)] == [True]
    assert folded.saved_bytes == sum(2 * group.size_bytes for group in shared(folded))


def test_content_of_one_model_has_a_group_for_other_libraries() -> None:
    folded = fold_objects(models(OPERATORS, CORTEX_M3, names="a"))
    assert {group.what for group in folded.groups} == {("weights",), ("bias",), ("sum",), ("dense",), ("add",)}
    assert (folded.saved_bytes, {group.models for group in folded.groups}) == (0, {("a",)})


# Other linkers


def linker_flags(linker: str, folder: Path) -> tuple[str, ...]:
    """Arguments that make a compiler link with another linker; of lld, gcc knows only one for its own machine."""
    if linker in ("bfd", "gold"):
        return (f"-fuse-ld={linker}",)
    command = "ld.lld" if linker == "lld" else f"'{sys.executable}' -m ziglang ld.lld"
    script = folder / "ld"
    script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    script.chmod(0o755)
    return (f"-B{folder}",)


BY_LINKER = [
    *((target, linker) for target in (HOST, CLANG) for linker in ("gold", "lld", "zig")),
    (AARCH64, "gold"),
    (AARCH64, "lld"),
    (CORTEX_M3, "lld"),
    (CORTEX_M3, "zig"),
    (RV32, "zig"),
    (ZIG, "lld"),
    (ZIG, "zig"),
]


@pytest.mark.parametrize(("target", "linker"), BY_LINKER, ids=lambda value: getattr(value, "name", value))
def test_other_linkers_keep_one_copy(target: Target, linker: str, tmp_path: Path) -> None:
    flags = linker_flags(linker, tmp_path)
    plain = models(OPERATORS, target, "-g")
    folded = fold_objects(plain)
    assert results(RUN_BOTH, list(folded.data.values()), target, *flags) == expected_numbers()
    smaller = text_bytes(RUN_BOTH, list(plain.values()), target, *flags) - text_bytes(
        RUN_BOTH, list(folded.data.values()), target, *flags
    )
    assert abs(smaller - folded.saved_bytes) <= PADDING_BYTES * len(shared(folded))


@each(RUNNABLE)
def test_debug_information_of_a_dropped_copy_draws_no_warning(target: Target) -> None:
    folded = fold_objects(models(OPERATORS, target, "-g", "-ggdb3"))
    assert what(folded) == ["dense", "sum", "weights"]
    assert results(RUN_BOTH, list(folded.data.values()), target) == expected_numbers()


# Two libraries


@each(FEW)
@pytest.mark.parametrize("whole", [True, False], ids=["whole-archive", "by-name"])
def test_two_libraries_in_one_program_fold_with_each_other(target: Target, whole: bool, tmp_path: Path) -> None:
    plain = models(OPERATORS, target)
    apart = {name: fold_objects({name: data}) for name, data in plain.items()}
    together = fold_objects(plain)
    paths = []
    for name, folded in apart.items():
        member = ArMember(name=f"{name}.o", data=folded.data[name], symbols=(f"{name}_run",))
        paths.append(tmp_path / f"lib{name}.a")
        paths[-1].write_bytes(write_ar([member]))
    words = [str(path) for path in paths]
    flags = ["-Wl,--whole-archive", *words, "-Wl,--no-whole-archive"] if whole else words
    assert results(RUN_BOTH, [], target, *flags) == expected_numbers()
    difference = text_bytes(RUN_BOTH, [], target, *flags) - text_bytes(RUN_BOTH, list(together.data.values()), target)
    assert abs(difference) <= PADDING_BYTES


def test_libraries_folded_apart_name_equal_content_alike() -> None:
    plain = models(OPERATORS, RV32)
    apart = {name: {g.digest for g in fold_objects({name: data}).groups} for name, data in plain.items()}
    assert apart["a"] & apart["b"] == {group.digest for group in shared(fold_objects(plain))}


@each(FEW)
def test_models_that_share_all_but_their_entrypoints_link(target: Target) -> None:
    data = {name: model(OPERATORS, target, "-DSEED=1", name=name) for name in "ab"}
    folded = fold_objects(data)
    assert what(folded) == ["add", "bias", "dense", "sum", "weights"]
    found = results(RUN_BOTH, list(folded.data.values()), target)
    assert found[::2] == found[1::2] == expected_numbers()[::2]


# What must stay apart


IDENTITIES = r"""
static __attribute__((noinline, noclone)) int first(int x) { int t = x; for (int i = 0; i < x; ++i) t += i ^ t; return t; }
static __attribute__((noinline, noclone)) int second(int x) { int t = x; for (int i = 0; i < x; ++i) t += i ^ t; return t; }
static const int one[16] = {1, 2, 3}, other[16] = {1, 2, 3};
static void* volatile taken[3];
static int (*volatile called)(int) = first;
void* run(int which) {
  taken[0] = (void*)second; taken[1] = (void*)one; taken[2] = (void*)other;
  return which == 3 ? (void*)called : which == 4 ? (void*)(long)first(second(3)) : taken[which];
}
"""


@each(RUNNABLE)
def test_function_whose_address_is_taken_keeps_it(target: Target) -> None:
    data = models(IDENTITIES, target)
    folded = fold_objects(data)
    assert what(folded) == ["one", "other"]
    body = """
      extern void *a_run(int), *b_run(int);
      put(a_run(0) == b_run(0)); put(a_run(3) == b_run(3)); put(a_run(0) == a_run(3)); put(a_run(4) == b_run(4));
    """
    assert results(body, list(folded.data.values()), target) == [0, 0, 0, 1]


@each(RUNNABLE)
def test_equal_constants_of_one_model_stay_two_and_meet_those_of_another_in_order(target: Target) -> None:
    data = models(IDENTITIES, target)
    folded = fold_objects(data)
    assert sorted(group.what for group in shared(folded)) == [("one",), ("other",)]
    body = """
      extern void *a_run(int), *b_run(int);
      put(a_run(1) == a_run(2)); put(b_run(1) == b_run(2)); put(a_run(1) == b_run(1)); put(a_run(2) == b_run(2));
    """
    assert results(body, list(folded.data.values()), target) == [0, 0, 1, 1]


CALLS_OUT = r"""
extern int outside(int);
static __attribute__((noinline, noclone)) int ask(int x) { return outside(x * 3 + 1) * 5 + outside(x) + (x << 4); }
int run(int x) { return ask(x) * SEED; }
"""


@each(RUNNABLE)
def test_functions_that_call_different_names_stay_apart(target: Target) -> None:
    data = {name: model(CALLS_OUT, target, "-DSEED=1", f"-Doutside=outside_{name}", name=name) for name in ("a", "b")}
    outside = toolbox.compile_c("int outside_a(int x) { return x; }\nint outside_b(int x) { return x + 1000; }", target)
    folded = fold_objects(data)
    assert shared(folded) == []
    assert results("put(a_run(2)); put(b_run(2));", [outside, *folded.data.values()], target) == [69, 6069]


@each(RUNNABLE)
def test_functions_that_call_the_same_name_outside_are_shared(target: Target) -> None:
    data = models(CALLS_OUT, target)
    outside = toolbox.compile_c("int outside(int x) { return x; }", target)
    folded = fold_objects(data)
    assert what(folded) == ["ask"]
    assert results("put(a_run(2)); put(b_run(2));", [outside, *folded.data.values()], target) == [69, 138]


ADDENDS = r"""
static const int table[64] = {10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22};
static __attribute__((noinline, noclone)) int look(int x) {
  const int* from = table + 4 * SEED;
  int total = 0;
  for (int i = 0; i < x; ++i) total += from[i] * (total + 1) + from[i + 1];
  return total;
}
int run(int x) { return look(x); }
"""


@each(RUNNABLE)
def test_functions_that_differ_in_an_addend_alone_stay_apart(target: Target) -> None:
    plain = models(ADDENDS, target)
    folded = fold_objects(plain)
    assert what(folded) == ["table"]
    assert results("put(a_run(3)); put(b_run(3));", list(folded.data.values()), target) == results(
        "put(a_run(3)); put(b_run(3));", list(plain.values()), target
    )


EDGES = r"""
static const int table[64] = {10, 11, 12, [63] = 99};
static const int* volatile edges[] = {table - 2, table + 64, table + 65};
int run(int which) { return which == 0 ? edges[0][2] : edges[which][-which]; }
"""


@each(RUNNABLE)
def test_addresses_before_and_past_a_shared_constant_stay_right(target: Target) -> None:
    folded = fold_objects(models(EDGES, target, "-Wno-array-bounds"))
    assert what(folded) == ["table"]
    body = "for (int i = 0; i < 3; ++i) { put(a_run(i)); put(b_run(i)); }"
    assert results(body, list(folded.data.values()), target) == [10, 10, 99, 99, 99, 99]


RECURSION = r"""
#define NOINLINE __attribute__((noinline, noclone))
static NOINLINE int odd(int x, int t);
static NOINLINE int even(int x, int t) { return x < 1 ? t : odd(x - 1, t * 3 + x) + t; }
static NOINLINE int odd(int x, int t) { return x < 1 ? -t : even(x - 1, t * 5 - x) - t; }
static NOINLINE int self(int x) { return x < 2 ? x : self(x - 1) + 2 * self(x - 2) + (x & 5); }
int run(int x) { return even(x, 1) * SEED + self(x); }
"""


@each(RUNNABLE)
def test_functions_that_call_each_other_stay_apart(target: Target) -> None:
    plain = models(RECURSION, target, "-fno-optimize-sibling-calls")
    folded = fold_objects(plain)
    assert what(folded) == ["self"]
    body = "put(a_run(5)); put(b_run(6));"
    assert results(body, list(folded.data.values()), target) == results(body, list(plain.values()), target)


def test_function_with_a_table_of_its_labels_stays_apart() -> None:
    text = r"""
    extern int outside(int);
    static __attribute__((noinline, noclone)) int choose(int x) {
      switch (x) { case 0: return outside(7); case 1: return outside(2) + 1; case 2: return outside(9) * 2;
        case 3: return outside(1) - 5; case 4: return outside(3) ^ 9; case 5: return outside(6) | 64; }
      return x;
    }
    int run(int x) { return choose(x) + SEED; }
    """
    plain = models(text, HOST)
    folded = fold_objects(plain)
    assert b"\0.rodata" in plain["a"]
    assert folded.groups == ()


def test_functions_with_different_string_literals_stay_apart() -> None:
    text = """
    static __attribute__((noinline, noclone)) const char* say(int x) { return x * x * x > 100 ? "beginning " TEXT : "end"; }
    const char* run(int x) { return say(x) + SEED; }
    """
    same = {name: model(text, RV32, "-DSEED=1", '-DTEXT="x"', name=name) for name in "ab"}
    different = {name: model(text, RV32, "-DSEED=1", f'-DTEXT="{name}"', name=name) for name in "ab"}
    assert (what(fold_objects(same)), what(fold_objects(different))) == (["say"], [])


def test_functions_with_different_float_literals_stay_apart() -> None:
    text = """
    static __attribute__((noinline, noclone)) double scale(double x) { return x * FACTOR + x * x / (1 + x * x); }
    double run(double x) { return scale(x) + SEED; }
    """
    same = {name: model(text, HOST, f"-DSEED={seed}", "-DFACTOR=0.3", name=name) for seed, name in enumerate("ab")}
    different = {name: model(text, HOST, "-DSEED=1", f"-DFACTOR=0.{seed}", name=name) for seed, name in enumerate("ab")}
    assert (what(fold_objects(same)), what(fold_objects(different))) == (["scale"], [])


def test_entrypoint_is_never_shared() -> None:
    text = """
    __attribute__((noinline, noclone)) int run(int x) { int t = 0; for (int i = 0; i < x; ++i) t = t * 3 + i; return t; }
    int twice(int x) { return run(x) + run(x + 1) * SEED; }
    """
    data = {}
    for seed, name in enumerate("ab", start=1):
        made = {"model.o": toolbox.compile_c(text, CORTEX_M3, *NO_TABLES, f"-DSEED={seed}")}
        data[name] = toolbox.merge_files(made, {"run": f"{name}_run", "twice": f"{name}_twice"}, name).data
    assert fold_objects(data).groups == ()


def test_two_functions_in_one_section_stay_apart() -> None:
    text = """
    #define PAIR __attribute__((noinline, noclone, section(".text.pair")))
    static PAIR int one(int x) { int t = 0; for (int i = 0; i < x; ++i) t = t * 3 + i; return t; }
    static PAIR int other(int x) { int t = 9; for (int i = 0; i < x; ++i) t = t * 5 - i; return t; }
    int run(int x) { return one(x) + other(x) * SEED; }
    """
    assert fold_objects(models(text, CORTEX_M3)).groups == ()


def test_writable_data_and_code_that_uses_it_stay_apart() -> None:
    text = """
    static int state[64] = {5};
    static __attribute__((noinline, noclone)) int step(int x) { return state[x & 63] = state[(x + 1) & 63] * 3 + x; }
    int run(int x) { return step(x); }
    """
    assert fold_objects(models(text, HOST)).groups == ()


@each((HOST, AARCH64, RV32))
def test_code_with_unwind_tables_stays_apart(target: Target) -> None:
    tables = ("-fasynchronous-unwind-tables", "-funwind-tables")
    plain = models(OPERATORS, target, *tables)
    assert any(section.name == ".eh_frame" for section in parse_object(plain["a"], "a").sections)
    folded = fold_objects(plain)
    assert what(folded) == ["weights"]
    assert results(RUN_BOTH, list(folded.data.values()), target) == expected_numbers()


@pytest.mark.parametrize("linker", ["bfd", "lld", "zig"])
def test_arm_unwind_tables_go_with_their_code(linker: str, tmp_path: Path) -> None:
    plain = models(OPERATORS, CORTEX_M3, "-funwind-tables")
    assert any(section.name.startswith(".ARM.exidx") for section in parse_object(plain["a"], "a").sections)
    folded = fold_objects(plain)
    assert what(folded) == ["dense", "sum", "weights"]
    personality = toolbox.compile_c("void __aeabi_unwind_cpp_pr0(void) {}", CORTEX_M3)
    flags = linker_flags(linker, tmp_path)
    assert results(RUN_BOTH, [personality, *folded.data.values()], CORTEX_M3, *flags) == expected_numbers()


def arm_model(body: str, name: str) -> bytes:
    """A model in assembler, whose entrypoint calls `odd`."""
    text = f"""
    .syntax unified
    .thumb
    .text
    .globl run
    .type run, %function
    run: bl odd
    .section .text.odd, "ax", %progbits
    .type odd, %function
    odd:
    {body}
    """
    made = toolbox.compile_source(text, CORTEX_M3, language="assembler")
    return toolbox.merge_files({"model.o": made}, {"run": f"{name}_run"}, name).data


def test_arm_code_with_an_unwind_table_of_its_own_stays_apart() -> None:
    body = ".fnstart\npush {r4, lr}\n.save {r4, lr}\n" + "nop\n" * 8
    body += "pop {r4, pc}\n.personality own\n.handlerdata\n.word 7\n.fnend"
    data = {name: arm_model(body, name) for name in "ab"}
    assert b".ARM.extab" in data["a"]
    assert fold_objects(data).groups == ()


def test_content_in_a_section_of_another_name_stays_apart() -> None:
    text = (
        "__attribute__((section(PLACE))) static const int table[64] = {1, 2};\nint run(int x) { return table[x & 7]; }"
    )
    data = {
        name: model(text, CORTEX_M3, f'-DPLACE="{place}"', name=name)
        for name, place in {"a": ".rodata.fast", "b": ".rodata.tvm", "c": ".rodata.fast"}.items()
    }
    (group,) = shared(fold_objects(data))
    assert (group.models, group.section) == (("a", "c"), ".rodata.fast")


def test_functions_of_one_body_and_two_names_are_shared() -> None:
    body = "(int x) { int t = 9; for (int i = 0; i < x; ++i) t = t * 3 + (i ^ t); return t; }"
    data = {}
    for name, old in {"kws": "default", "vww": "vww", "own": None}.items():
        function = f"tvmgen_{old}_fused_add" if old else "mine"
        text = (
            f"static __attribute__((noinline, noclone)) int {function}{body} int run(int x) {{ return {function}(x); }}"
        )
        made = {"model.o": toolbox.compile_c(text, CORTEX_M3, *NO_TABLES)}
        data[name] = toolbox.merge_files(
            made,
            {"run": f"tvmgen_{name}_run"},
            name,
            rename_local=partial(re.sub, "default", name),
        ).data
    (group,) = fold_objects(data).groups
    assert group.models == ("kws", "own", "vww")
    assert group.what == ("mine", "tvmgen_kws_fused_add", "tvmgen_vww_fused_add")


def test_functions_that_read_different_places_of_a_shared_constant_stay_apart() -> None:
    text = """
    __asm__(".section .rodata.pair,\\"a\\",@progbits\\nfirst: .long 1,2,3,4\\nsecond: .long 5,6,7,8\\n.text\\n");
    extern const int first[4], second[4];
    static __attribute__((noinline, noclone)) int look(int x) { return PLACE[x & 3] * 3 + PLACE[(x + 1) & 3] * 7; }
    int run(int x) { return look(x) + first[x & 1] + second[x & 1]; }
    """
    data = {
        name: model(text, RV32, f"-DPLACE={place}", name=name) for name, place in {"a": "first", "b": "second"}.items()
    }
    folded = fold_objects(data)
    assert what(folded) == ["first", "second"]
    assert results("put(a_run(0)); put(b_run(0));", list(folded.data.values()), RV32) == [23, 63]


def test_code_and_data_of_equal_bytes_stay_apart() -> None:
    code = "movs r0, r0\n" * 8
    bodies = {"a": f"bx lr\nnop\n{code}", "b": "bx lr\nnop\n" + ".word 0\n" * 4, "c": f"bx lr\nnop\n{code}"}
    data = {name: arm_model(body, name) for name, body in bodies.items()}
    assert [group.models for group in fold_objects(data).groups if len(group.models) > 1] == [("a", "c")]
    assert len({group.digest for group in fold_objects(data).groups}) == 2


def test_code_of_equal_bytes_and_different_arm_unwind_tables_stays_apart() -> None:
    body = ".fnstart\npush {r4, lr}\n.save {SAVED, lr}\n" + "nop\n" * 8 + "pop {r4, pc}\n.fnend"
    saved = {"a": "r4", "b": "r4, r5", "c": "r4"}
    data = {name: arm_model(body.replace("SAVED", registers), name) for name, registers in saved.items()}
    (both,) = shared(fold_objects(data))
    assert both.models == ("a", "c")


def test_smaller_sections_than_the_least_stay_as_they_are() -> None:
    plain = models(OPERATORS, CORTEX_M3)
    assert what(fold_objects(plain, least_bytes=1025)) == []
    assert what(fold_objects(plain, least_bytes=1024)) == ["weights"]


@pytest.mark.parametrize("target", [CORTEX_M3, HOST, RV32], ids=lambda target: target.name)
def test_alignment_is_part_of_what_must_be_equal(target: Target) -> None:
    text = "_Alignas(ALIGN) static const int table[64] = {1, 2};\nint run(int x) { return table[x & 7]; }"
    data = {name: model(text, target, f"-DALIGN={align}", name=name) for name, align in {"a": 64, "b": 128}.items()}
    assert shared(fold_objects(data)) == []


def test_machine_is_part_of_the_name() -> None:
    text = "static const int table[64] = {1, 2};\nint run(int x) { return table[x & 7]; }"
    found = [fold_objects({"a": model(text, target, name="a")}).groups for target in (CORTEX_M3, RV32, AARCH64, MIPS)]
    digests = [group.digest for groups in found for group in groups if group.what == ("table",)]
    assert len(set(digests)) == len(digests) == 4


def test_float_abi_of_riscv_is_part_of_the_name() -> None:
    text = "static const int table[64] = {1, 2};\nint run(int x) { return table[x & 7]; }"
    abis = (("-march=rv32imac", "-mabi=ilp32"), ("-march=rv32imafc", "-mabi=ilp32f"))
    data = {name: model(text, RV32, *abi, name=name) for name, abi in zip("ab", abis, strict=True)}
    assert shared(fold_objects(data)) == []


def test_places_that_others_refer_to_are_part_of_the_name() -> None:
    # A copy must define every name that the references of a dropped one need.
    text = """
    __asm__(".section .rodata.pair,\\"a\\",%progbits\\nfirst: .long 1,2,3,4\\nsecond: .long 5,6,7,8\\n.text\\n");
    extern const int first[4], second[4];
    int run(int x) { return SEED == 1 ? first[x & 3] + second[x & 3] : first[x & 3]; }
    """
    plain = models(text, RV32)
    folded = fold_objects(plain)
    assert [group.what for group in folded.groups] == [("first", "second")] * 2
    assert results("put(a_run(1)); put(b_run(1));", list(folded.data.values()), RV32) == [8, 2]


# The objects


@each(RUNNABLE)
def test_objects_are_sound_to_readelf(target: Target) -> None:
    for data in fold_objects(models(OPERATORS, target, "-g")).data.values():
        said = toolbox.ask("readelf", data, "-aW")
        assert re.findall("(?i)(?:warning|error|corrupt|out of range).*", said) == []
        assert said.count("COMDAT group section") == 5


@each(FEW)
def test_objects_define_their_entrypoint_and_hidden_names_alone(target: Target) -> None:
    symbols = parse_object(fold_objects(models(OPERATORS, target)).data["a"], "a").symbols
    defined = {
        (name.startswith(FOLD_PREFIX), int(symbols.info[at]) >> 4, int(symbols.other[at]) & 3)
        for at, name in enumerate(symbols.names)
        if at >= symbols.local_count and symbols.section[at] != 0
    }
    assert defined == {(False, elf.STB_GLOBAL, 0), (True, elf.STB_WEAK, 2)}


@each(FEW)
def test_bytes_do_not_depend_on_the_order_of_the_models(target: Target) -> None:
    plain = models(OPERATORS, target)
    one, other = fold_objects(plain), fold_objects(dict(reversed(plain.items())))
    assert one.groups == other.groups
    assert dict(one.data) == dict(other.data)
    assert (list(one.data), list(other.data)) == (["a", "b"], ["b", "a"])


def test_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    plain = models(OPERATORS, RV32)
    (tmp_path / "a.o").write_bytes(plain["a"])
    script = (
        "import sys, pathlib; from mlf.objects.fold import fold_objects\n"
        "sys.stdout.buffer.write(fold_objects({'a': pathlib.Path(sys.argv[1]).read_bytes()}).data['a'])"
    )
    argv = [sys.executable, "-c", script, str(tmp_path / "a.o")]
    done = subprocess.run(argv, check=True, capture_output=True, cwd=Path(__file__).parent.parent)
    assert done.stdout == fold_objects(plain).data["a"]


@each(RUNNABLE)
@pytest.mark.parametrize("flags", [(), ("--force-group-allocation",)], ids=["groups", "no-groups"])
def test_partial_link_of_folded_objects(target: Target, flags: tuple[str, ...], tmp_path: Path) -> None:
    folded = fold_objects(models(OPERATORS, target))
    for name, data in folded.data.items():
        (tmp_path / f"{name}.o").write_bytes(data)
    linker = [f"{target.prefix}ld", *target.ld_flags, "-r", *flags]
    toolbox.run([*linker, "a.o", "b.o", "-o", "both.o"], cwd=tmp_path)
    assert results(RUN_BOTH, [(tmp_path / "both.o").read_bytes()], target) == expected_numbers()


@each(FEW)
def test_copies_that_lost_their_groups_do_not_clash(target: Target, tmp_path: Path) -> None:
    made = []
    for name, data in fold_objects(models(OPERATORS, target)).data.items():
        (tmp_path / f"{name}.o").write_bytes(data)
        linker = [f"{target.prefix}ld", *target.ld_flags, "-r", "--force-group-allocation"]
        toolbox.run([*linker, f"{name}.o", "-o", f"{name}1.o"], cwd=tmp_path)
        made.append((tmp_path / f"{name}1.o").read_bytes())
    assert results(RUN_BOTH, made, target) == expected_numbers()


@pytest.mark.parametrize("linker", ["bfd", "gold", "lld", "zig"])
def test_folded_objects_go_into_a_shared_library(linker: str, tmp_path: Path) -> None:
    folded = fold_objects(models(OPERATORS, HOST, "-fPIC"))
    assert what(folded) == ["dense", "sum", "weights"]
    for name, data in folded.data.items():
        (tmp_path / f"{name}.o").write_bytes(data)
    flags = linker_flags(linker, tmp_path)
    toolbox.run(["gcc", "-shared", "-Wl,--fatal-warnings", *flags, "a.o", "b.o", "-o", "libboth.so"], cwd=tmp_path)
    exported = toolbox.run(["nm", "-D", "--defined-only", tmp_path / "libboth.so"]).split()[2::3]
    assert sorted(name for name in exported if not name.startswith("_")) == ["a_run", "b_run"]
    flags = (str(tmp_path / "libboth.so"), f"-Wl,-rpath,{tmp_path}")
    assert results(RUN_BOTH, [], HOST, *flags) == expected_numbers()


@each(FEW)
def test_one_copy_of_a_shared_constant_is_in_the_image(target: Target) -> None:
    plain = models(OPERATORS, target)
    needle = (0x11223344).to_bytes(4, "little") + (3).to_bytes(4, "little")
    assert kept_copies(RUN_BOTH, list(plain.values()), target, needle) == 2
    assert kept_copies(RUN_BOTH, list(fold_objects(plain).data.values()), target, needle) == 1


# The two models of the merge's tests: aliases, tables of functions, weak and gathered sections, constructors.


def trap_models(target: Target, *flags: str) -> dict[str, bytes]:
    made = {}
    for seed, name in enumerate("ab", start=1):
        macros = (f"-DSEED={seed}", f'-DSEED_TEXT="{seed}"', "-DLONG_NAME=long_name", '-DTEXT="text"')
        files = {
            f"{part}.o": toolbox.compile_c((OBJECTS / f"model_{part}.c").read_text(), target, *macros, *flags)
            for part in ("main", "operators")
        }
        made[name] = toolbox.merge_files(files, {"run": f"{name}_run"}, name, rename_local=f"{name}.{{}}".format).data
    return made


@each(RUNNABLE)
def test_models_full_of_traps_give_the_same_numbers(target: Target) -> None:
    plain: Mapping[str, bytes] = trap_models(target, *NO_TABLES)
    folded = fold_objects(plain, least_bytes=1)
    body = "for (int i = 0; i < 14; ++i) { put(a_run(i)); put(b_run(i)); put(a_run(i)); }"
    assert folded.groups
    assert results(body, list(folded.data.values()), target) == results(body, list(plain.values()), target)


@each(FEW)
def test_a_section_that_is_excepted_stays_and_so_does_what_refers_to_it(target: Target) -> None:
    kept = OPERATORS.replace("int weights[256]", 'int weights[256] __attribute__((section(".rodata.kept")))')
    plain = models(kept, target)
    assert what(fold_objects(plain)) == ["dense", "sum", "weights"]
    folded = fold_objects(plain, except_section=".rodata.kept")
    assert what(folded) == ["sum"]
    assert results(RUN_BOTH, list(folded.data.values()), target) == expected_numbers()


def test_no_models_fold_to_nothing() -> None:
    assert fold_objects({}) == Folded(data={}, groups=())


def test_no_object_file_is_refused() -> None:
    with pytest.raises(ObjectError) as caught:
        fold_objects({"kws": b"text"})
    assert str(caught.value) == "kws: is not an ELF object file: it begins with b'text'"
