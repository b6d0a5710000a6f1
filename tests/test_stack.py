from __future__ import annotations

import random
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from toolbox import CORTEX_M3, HOST, MIPS, RV32, ZIG, Target, compile_c, compile_source, merge_files, run

from mlf.boards import build_firmware, run_firmware
from mlf.errors import ObjectError
from mlf.linker import LinkRequest, link, plan_link
from mlf.objects.ar import read_ar
from mlf.objects.elf import SHF_EXECINSTR, ElfObject, parse_object
from mlf.objects.frames import Function, read_code
from mlf.runner import open_library
from mlf.stack import StackUse, read_callgraph_info, worst_stacks
from mlf.toolchain import RUNTIME, compiler_for

if TYPE_CHECKING:
    from collections.abc import Mapping

SAMPLES = Path(__file__).parent.parent / "samples"

_ARM = ("arm-none-eabi-gcc", "-mthumb")
_RISCV = ("riscv64-unknown-elf-gcc", "-mcmodel=medany")
_CLANG_ARM = ("clang", "--target=arm-none-eabi", "-mthumb")
COMPILERS = {
    "cortex-m0": (*_ARM, "-mcpu=cortex-m0"),
    "cortex-m4": (*_ARM, "-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
    "cortex-m33": (*_ARM, "-mcpu=cortex-m33", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"),
    "cortex-m55": (*_ARM, "-mcpu=cortex-m55", "-mfloat-abi=hard", "-mfpu=auto"),
    "arm": ("arm-none-eabi-gcc", "-marm", "-mcpu=cortex-a9"),
    "arm-big-endian": ("arm-none-eabi-gcc", "-marm", "-march=armv7-a", "-mbig-endian"),
    "rv32imac": (*_RISCV, "-march=rv32imac", "-mabi=ilp32"),
    "rv64imac": (*_RISCV, "-march=rv64imac", "-mabi=lp64"),
    "rv64gc": (*_RISCV, "-march=rv64gc", "-mabi=lp64d"),
    "aarch64": ("aarch64-linux-gnu-gcc",),
    "x86-64": ("gcc", "-fPIC"),
    "clang-cortex-m0": (*_CLANG_ARM, "-mcpu=cortex-m0"),
    "clang-cortex-m4": (*_CLANG_ARM, "-mcpu=cortex-m4"),
    "clang-rv32imac": ("clang", "--target=riscv32-unknown-elf", "-march=rv32imac", "-mabi=ilp32"),
    "clang-aarch64": ("clang", "--target=aarch64-none-elf"),
}
FLAGS = (
    "-g0",
    "-ffreestanding",
    "-fbuiltin",
    "-w",
    "-std=gnu99",
    "-fno-asynchronous-unwind-tables",
    "-ffunction-sections",
)

FRAMES = """
extern void use(void*);
extern int give(int, int, int, int, int, int, int, int, int, int, int, int);
extern double scale(double);
int leaf(int a) { return a + 1; }
int small(int a) { char b[100]; use(b); return a + b[3]; }
int page(int a) { char b[5000]; use(b); return a + b[3]; }
int huge(int a) { char b[70000]; use(b); return a + b[3]; }
int last(int a) { char b[40]; use(b); return leaf(b[1]); }
int early(int a) { char b[600]; if (!a) return 3; use(b); return a > 9 ? b[1] : give(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, a); }
int many(int a) { return give(a, a + 1, a + 2, a * 3, a * 4, a * 5, a * 6, a * 7, a * 8, a * 9, a - 1, a - 2) + a; }
double floats(double a, double b) { double c = scale(a), d = scale(b); return scale(c + d) * c + d * scale(a * b) + a + b; }
int choose(int a) {
  char b[64];
  switch (a) {
    case 1: use(b); return 7;
    case 2: use(b + 1); use(b); return 9;
    case 3: return leaf(a) * 3;
    case 4: use(b + 4); return b[2];
    case 5: use(b + 5); return b[a];
    default: return 0;
  }
}
int dynamic(int a) { char b[a]; use(b); return b[1]; }
"""


def parse(data: bytes) -> ElfObject:
    return parse_object(data, "made.o")


def functions(item: ElfObject) -> dict[str, Function]:
    return {function.name: function for function in read_code(item).functions}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An object, and the frames that its compiler told: bytes, and whether only a run knows them."""

    item: ElfObject
    frames: Mapping[str, tuple[int, bool]]


def compile_told(source: Path, compiler: tuple[str, ...], folder: Path, *flags: str) -> Told:
    made = folder / f"{source.stem}.o"
    run([*compiler, *FLAGS, *flags, "-fstack-usage", "-c", source, "-o", made], cwd=folder)
    lines = [line.split("\t") for line in made.with_suffix(".su").read_text().splitlines()]
    frames = {name.rpartition(":")[2]: (int(size), kind == "dynamic") for name, size, kind in lines}
    return Told(item=parse(made.read_bytes()), frames=frames)


def use_of(source: str, target: Target, name: str = "entry", *flags: str) -> StackUse:
    return worst_stacks(parse(compile_c(source, target, "-O2", *flags)), [name])[0]


@pytest.mark.parametrize("level", ["-O0", "-O2", "-Os"])
@pytest.mark.parametrize("name", COMPILERS)
def test_the_depth_of_every_function_is_what_its_compiler_tells(name: str, level: str, tmp_path: Path) -> None:
    (tmp_path / "frames.c").write_text(FRAMES)
    told = compile_told(tmp_path / "frames.c", COMPILERS[name], tmp_path, level)
    found = {name: (one.depth_bytes, one.is_dynamic) for name, one in functions(told.item).items()}
    assert found["dynamic"][1]
    assert {**found, "dynamic": None} == {**told.frames, "dynamic": None}


@pytest.mark.parametrize(
    "name", ["cortex-m0", "cortex-m4", "cortex-m55", "rv32imac", "aarch64", "x86-64", "clang-cortex-m4"]
)
def test_the_depths_of_operators_that_a_compiler_wrote_are_what_gcc_tells(
    name: str, real_archives: Path, tmp_path: Path
) -> None:
    count = 0
    for case in ("conv-usmp", "int8-usmp", "lstm-usmp"):
        with tarfile.open(real_archives / f"{case}.tar") as archive:
            archive.extractall(tmp_path / case, filter="data")
        host = tmp_path / case / "codegen" / "host"
        for source in sorted((host / "src").glob("*.c")):
            headers = ("-I", str(host / "include"), "-I", str(RUNTIME / "include"), "-idirafter", str(RUNTIME / "libc"))
            told = compile_told(source, COMPILERS[name], tmp_path, "-O2", *headers)
            found = {name: (one.depth_bytes, one.is_dynamic) for name, one in functions(told.item).items()}
            assert found == told.frames
            count += len(found)
    assert count > 20


def test_clang_leaves_out_the_return_address_that_calling_pushes_on_x86(tmp_path: Path) -> None:
    (tmp_path / "frames.c").write_text(FRAMES)
    told = compile_told(tmp_path / "frames.c", ("clang",), tmp_path, "-O2")
    found = functions(told.item)
    assert {name: found[name].depth_bytes for name in ("leaf", "small", "page", "huge")} == {
        name: told.frames[name][0] + 8 for name in ("leaf", "small", "page", "huge")
    }


def test_rounding_the_stack_pointer_down_counts_with_the_most_it_can_take(tmp_path: Path) -> None:
    (tmp_path / "aligned.c").write_text(
        "extern void use(void*); int f(int a) { char b[40] __attribute__((aligned(64))); use(b); return b[1]; }"
    )
    for name in ("clang-cortex-m0", "clang-cortex-m4"):  # at the entry the stack pointer is a multiple of 8
        told = compile_told(tmp_path / "aligned.c", COMPILERS[name], tmp_path, "-O2")
        assert functions(told.item)["f"].depth_bytes == 64 + 56
    for name in ("clang-aarch64", "clang-rv32imac"):
        told = compile_told(tmp_path / "aligned.c", COMPILERS[name], tmp_path, "-O2")
        assert functions(told.item)["f"].depth_bytes == 64 + 48


def test_millicode_counts_with_what_it_takes_for_a_moment() -> None:
    source = """
    extern int give(int);
    int few(int a) { return give(a) + give(a + 1); }
    int many(int a, int b, int c, int d) { return give(a) * a + give(b) * b + give(c) * c + give(d) * d; }
    """
    found = functions(parse(compile_c(source, RV32, "-Os", "-msave-restore")))
    assert (found["few"].depth_bytes, found["many"].depth_bytes) == (16, 64)
    assert [(call.callee, call.depth_bytes) for call in found["many"].calls] == [("give", 32)]


def test_push_and_pop_of_several_registers_are_read_on_risc_v() -> None:
    target = Target(
        name="zcmp", cc=(*ZIG.cc[:4], "-target", "riscv32-freestanding-none", "-mcpu=generic_rv32+m+a+zca+zcmp", "-g0"),
    )  # fmt: skip
    source = """
    extern int give(int); extern void use(char*);
    int f(int a, int b, int c) { return give(a) + give(b) * give(c) + a * b * c; }
    int g(int a, int b, int c) { char d[200]; use(d); return give(a) + give(b) * give(c) + a * b * c + d[3]; }
    """
    found = functions(parse(compile_c(source, target, "-Os", "-ffreestanding", "-fno-sanitize=all")))
    assert (found["f"].depth_bytes, found["g"].depth_bytes) == (32, 240)


CHAIN = """
extern void use(char*);
__attribute__((noinline)) static int below(int a) { volatile char b[100]; b[a] = 1; return b[a]; }
__attribute__((noinline)) static int wide(int a) { volatile char b[400]; b[a] = 1; return b[a]; }
__attribute__((noinline)) static int middle(int a) { volatile char b[40]; b[a] = 2; return below(a) + b[a]; }
int entry(int a) { return middle(a) + wide(a) + 1; }
int other(int a) { return below(a) + 1; }
"""


@pytest.mark.parametrize("name", ["cortex-m0", "cortex-m4", "rv32imac", "rv64imac", "aarch64", "x86-64"])
def test_the_worst_path_is_summed_up_from_the_entrypoint_down(name: str, tmp_path: Path) -> None:
    (tmp_path / "chain.c").write_text(CHAIN)
    told = compile_told(tmp_path / "chain.c", COMPILERS[name], tmp_path, "-O2")
    entry, other = worst_stacks(told.item, ["entry", "other"])
    red_zone = 128 if name == "x86-64" else 0
    sizes = {name: size + red_zone for name, (size, _) in told.frames.items()}
    assert (entry.path, entry.size_bytes) == (("entry", "wide"), sizes["wide"] + told.frames["entry"][0])
    assert (other.path, other.size_bytes) == (("other", "below"), sizes["below"] + told.frames["other"][0])
    assert (entry.is_bounded, entry.notes) == (True, ())


def test_calls_are_found_where_the_assembler_resolved_them() -> None:
    for target in (CORTEX_M3, RV32, HOST):
        item = parse(compile_c(CHAIN, target, "-O2", "-fno-function-sections"))
        assert worst_stacks(item, ["entry"])[0].path == ("entry", "wide")


def test_a_call_in_last_place_counts_without_the_frame_that_is_gone() -> None:
    source = """
    extern void use(char*);
    __attribute__((noinline)) int big(int a) { volatile char b[400]; b[a] = 1; return b[a]; }
    int entry(int a) { char b[200]; use(b); return big(b[0]); }
    """
    item = parse(compile_c(source, CORTEX_M3, "-O2"))
    use = worst_stacks(item, ["entry"], callees={"use": 0})[0]
    assert (use.path, use.size_bytes) == (("entry", "big"), functions(item)["big"].depth_bytes)


def test_the_unlikely_part_of_a_function_is_no_recursion() -> None:
    source = """
    __attribute__((cold, noinline)) int rare(int a) { volatile char b[300]; b[a] = 1; return b[a]; }
    extern int give(int);
    int entry(int a) { int c = give(a); if (c) c += rare(a) + rare(c); return give(c) + c; }
    """
    item = parse(compile_c(source, HOST, "-O2"))
    assert "entry.cold" in functions(item)
    use = worst_stacks(item, ["entry"], callees={"give": 8})[0]
    assert (use.is_bounded, use.notes, use.path) == (True, (), ("entry", "entry.cold", "rare"))


@pytest.mark.parametrize("target", [CORTEX_M3, RV32, HOST], ids=lambda target: target.name)
def test_recursion_has_no_bound(target: Target) -> None:
    itself = use_of("int entry(int a) { volatile int b = a; return a ? entry(a - 1) * b : 1; }", target)
    assert (itself.is_bounded, itself.notes) == (False, ("`entry` calls itself",))
    source = """
    int other(int a);
    __attribute__((noinline)) int entry(int a) { volatile int b = a; return a ? other(a - 1) + b : b; }
    __attribute__((noinline)) int other(int a) { volatile int b = a; return a ? entry(a - 1) + b : b; }
    """
    mutual = use_of(source, target, "entry", "-fno-optimize-sibling-calls")
    assert (mutual.is_bounded, mutual.path) == (False, ("entry", "other"))
    assert mutual.notes == ("`other` calls `entry`, which is its caller",)


DYNAMIC = "extern void use(char*); int entry(int a) { char b[a]; use(b); return b[0]; }"


def test_memory_whose_size_only_a_run_knows_has_no_bound() -> None:
    item = parse(compile_c(DYNAMIC, CORTEX_M3, "-O2"))
    use = worst_stacks(item, ["entry"], callees={"use": 100})[0]
    assert (use.is_bounded, use.size_bytes) == (False, 108)
    assert use.notes == ("only a run knows how much memory `entry` takes from the stack",)


def test_the_bound_that_a_compiler_told_is_used_where_the_code_has_none() -> None:
    item = parse(compile_c(DYNAMIC, CORTEX_M3, "-O2"))
    use = worst_stacks(item, ["entry"], frames={"entry": 264}, callees={"use": 100})[0]
    assert (use.is_bounded, use.size_bytes, use.notes) == (True, 364, ())


def test_what_a_compiler_told_does_not_replace_what_the_code_says() -> None:
    item = parse(compile_c(CHAIN, CORTEX_M3, "-O2"))
    assert worst_stacks(item, ["entry"], frames={"wide": 9}) == worst_stacks(item, ["entry"])


def test_functions_outside_count_what_is_given_or_assumed_or_are_noted() -> None:
    source = """
    extern float expf(float); extern int known(int), unknown(int);
    int entry(float a) { volatile int b = known(1); return (int)expf(a) + unknown(b) + b; }
    """
    item = parse(compile_c(source, CORTEX_M3, "-O2"))
    frame = functions(item)["entry"].depth_bytes or 0
    use = worst_stacks(item, ["entry"], callees={"known": 1000, "expf": 50})[0]
    assert (use.size_bytes, use.path, use.is_bounded) == (frame + 1000, ("entry", "known"), False)
    assert use.notes == (
        "`__aeabi_f2iz` is assumed to need 36 bytes",
        "the stack that `unknown` needs is not known",
    )
    bounded = worst_stacks(item, ["entry"], callees={"known": 0, "unknown": 0})[0]
    assert (bounded.is_bounded, bounded.path) == (True, ("entry", "expf"))
    assert "`expf` is assumed to need 96 bytes" in bounded.notes


POINTERS = """
__attribute__((noinline)) static int big(int a) { volatile char b[400]; b[a] = 1; return b[a]; }
__attribute__((noinline)) static int small(int a) { volatile char b[40]; b[a] = 1; return b[a]; }
int (*const table[])(int) = {small, big};
int entry(int a) { return table[a](a) + 1; }
"""


@pytest.mark.parametrize("target", [CORTEX_M3, RV32, HOST], ids=lambda target: target.name)
def test_a_call_through_a_pointer_may_reach_every_function_whose_address_is_taken(target: Target) -> None:
    use = use_of(POINTERS, target)
    assert (use.path, use.is_bounded) == (("entry", "big"), True)
    assert use.notes == ("`entry` calls through a pointer: any function whose address the object takes is assumed",)


@pytest.mark.parametrize("target", [CORTEX_M3, RV32, HOST], ids=lambda target: target.name)
def test_a_call_through_a_pointer_from_outside_has_no_bound(target: Target) -> None:
    for call in ("f(1) + 1", "f(1)"):  # the second one in last place, a jump
        use = use_of(f"int entry(int (*f)(int)) {{ return {call}; }}", target)
        assert use.is_bounded is False
        assert use.notes == ("`entry` calls through a pointer, and the object takes no function's address",)


def test_a_function_that_may_call_itself_through_a_pointer_has_no_bound() -> None:
    source = "int entry(int); int (*other)(int) = entry; int entry(int a) { return a ? other(a - 1) + 1 : 0; }"
    use = use_of(source, CORTEX_M3)
    assert (use.is_bounded, use.path) == (False, ("entry",))
    assert "`entry` may call itself through a pointer" in use.notes


def test_a_table_of_jumps_is_no_call_through_a_pointer() -> None:
    cases = " ".join(f"case {n}: give({n * 7}); use(b + {n}); break;" for n in range(12))
    source = f"""
    extern void use(char*); extern int give(int);
    int entry(int a) {{ char b[60]; switch (a) {{ {cases} default: return 4; }} return b[a]; }}
    """
    for target in (CORTEX_M3, RV32, HOST):
        item = parse(compile_c(source, target, "-O2", "-fno-jump-tables"))
        tables = parse(compile_c(source, target, "-O2"))
        for one in (item, tables):
            use = worst_stacks(one, ["entry"], callees={"use": 0, "give": 0})[0]
            assert (use.is_bounded, use.notes) == (True, ())


def test_a_merged_object_gives_the_same() -> None:
    merged = merge_files({"a.o": compile_c(CHAIN, CORTEX_M3, "-O2")}, {"entry": "tvmgen_kws_run"})
    before = use_of(CHAIN, CORTEX_M3)
    use = worst_stacks(parse(merged.data), ["tvmgen_kws_run"])[0]
    assert (use.size_bytes, use.path[1:]) == (before.size_bytes, before.path[1:])


def test_instructions_that_are_not_read_leave_the_frames_to_the_compiler() -> None:
    item = parse(compile_c(CHAIN, MIPS, "-O2"))
    frames = {"entry": 40, "middle": 80, "below": 100, "wide": 50}
    note = "MIPS instructions are not read, so calls through pointers are not seen"
    use = worst_stacks(item, ["entry"], frames=frames)[0]
    assert (use.size_bytes, use.path) == (220, ("entry", "middle", "below"))
    assert (use.is_bounded, use.notes) == (False, (note,))
    assert worst_stacks(item, ["other"])[0].notes == (
        note,
        "the frame of `below` is not known",
        "the frame of `other` is not known",
    )


def test_the_global_function_of_a_name_is_the_entrypoint() -> None:
    first = "int entry(int a) { return a; }"
    second = "__attribute__((used)) static int entry(int a) { volatile char b[400]; b[a] = 1; return b[a]; } int keep;"
    merged = merge_files(
        {
            "a.o": compile_c(first, CORTEX_M3, "-O2"),
            "b.o": compile_c(f"{second} void *held = entry;", CORTEX_M3, "-O2"),
        },
        {"entry": "entry", "held": "held"},
    )
    assert worst_stacks(parse(merged.data), ["entry"])[0].size_bytes == 0


def test_an_entrypoint_that_is_missing_is_an_error() -> None:
    item = parse(compile_c(CHAIN, CORTEX_M3, "-O2"))
    with pytest.raises(ObjectError) as caught:
        worst_stacks(item, ["absent"])
    assert str(caught.value) == "made.o: defines no function `absent`"


def test_the_sizes_that_gcc_tells_are_read_by_symbol(tmp_path: Path) -> None:
    source = """
    extern void use(char*);
    extern int outside(int) __asm__("renamed");
    __attribute__((noinline)) static int fixed(int a) { char b[100]; use(b); return b[a]; }
    int entry(int a) { return fixed(a) + outside(a); }
    int open_end(int a) { char b[a]; use(b); return b[0]; }
    int named(int a) __asm__("other_name");
    int named(int a) { char b[60]; use(b); return b[a]; }
    """
    (tmp_path / "source.c").write_text(source)
    run([*COMPILERS["cortex-m4"], "-O2", "-fcallgraph-info=su", "-c", "source.c"], cwd=tmp_path)
    text = (tmp_path / "source.ci").read_text()
    assert read_callgraph_info(text) == {"fixed": 112, "entry": 16, "other_name": 72}


def test_of_two_functions_of_one_name_the_larger_frame_counts_and_a_bounded_one_is_a_bound() -> None:
    text = r"""graph: { title: "a.c"
node: { title: "a.c:f" label: "f\na.c:1:1\n16 bytes (static)\n0 dynamic objects" }
node: { title: "b.c:f" label: "f\nb.c:1:1\n96 bytes (dynamic,bounded)" }
node: { title: "b.c:g" label: "g\nb.c:1:1\n96 bytes (dynamic)" }
node: { title: "memcpy" label: "memcpy\n<built-in>" shape : ellipse }
edge: { sourcename: "a.c:f" targetname: "memcpy" label: "a.c:2:3" }
}
"""
    assert read_callgraph_info(text) == {"f": 96}


def test_no_code_makes_the_reading_fail() -> None:
    objects = [
        compile_source(FRAMES, target, "-O2", "-w")
        for target in (CORTEX_M3, RV32, HOST, Target(name="aarch64", cc=("aarch64-linux-gnu-gcc",)))
    ]
    dice = random.Random(4)  # noqa: S311 - no secret, and the same each time
    for data in objects * 40:
        item = parse(data)
        for section in item.sections:
            if section.flags & SHF_EXECINSTR and section.data:
                section.data = dice.randbytes(len(section.data))
        item.symbols.size[1:] = np.array(dice.choices([0, 1, 2, 7, 64, 1 << 31], k=len(item.symbols) - 1), np.uint64)
        assert len(worst_stacks(item, ["leaf", "huge"])) == 2


WATCH = """
#include <stdint.h>
#include "board.h"
#define UNUSED UINT32_C(0x5ac3e187)
extern uint32_t __stack_limit[];
int32_t %(run)s(void** inputs, void** outputs);

static uint8_t memory[1 << 16] __attribute__((aligned(64)));

__attribute__((noinline)) static uint32_t watched(void** inputs, void** outputs) {
  volatile uint32_t* word;
  volatile uint32_t* here;
  __asm__ volatile("mov %%0, sp" : "=r"(here));
  for (word = __stack_limit; word < here; ++word) *word = UNUSED;
  if (%(run)s(inputs, outputs) != 0) return 0;
  for (word = __stack_limit; *word == UNUSED; ++word) {}
  return (uint32_t)((uintptr_t)here - (uintptr_t)word);
}

int main(void) {
  static const uint32_t sizes[] = {%(sizes)s};
  void* blocks[sizeof sizes / sizeof sizes[0]];
  uint32_t index, used = 0;
  for (index = 0; index < sizeof sizes / sizeof sizes[0]; ++index) {
    blocks[index] = memory + used;
    used += (sizes[index] + 63) & ~63u;
  }
  if (used > sizeof memory) return 1;
  used = watched(blocks, blocks + %(inputs)d);
  return board_write_file("used", &used, sizeof used);
}
"""


@pytest.mark.parametrize("name", ["tone", "glyph"])
def test_a_model_takes_the_stack_that_was_foretold(name: str, tmp_path: Path) -> None:
    compiler = compiler_for("cortex-m4")
    request = LinkRequest(path=SAMPLES / f"{name}.tar", name=name)
    link(plan_link([request], output=tmp_path / "libmodels.a", compiler=compiler))
    model = open_library(tmp_path / "libmodels.json", name)
    interface = model.interface
    assert not interface.external_pools
    members = {member: parse(bytes(data)) for member, data in read_ar(model.library.read_bytes(), "libmodels.a")}
    support = {
        use.entrypoint: use.size_bytes
        for member, item in members.items()
        if member != model.member
        for use in worst_stacks(item, [name for name in item.symbols.defined_names() if name in functions(item)])
    }
    foretold = worst_stacks(members[model.member], [interface.run_symbol], callees=support)[0]

    sizes = ", ".join(str(tensor.size_bytes) for tensor in (*interface.inputs, *interface.outputs))
    source = WATCH % {"run": interface.run_symbol, "sizes": sizes, "inputs": len(interface.inputs)}
    (tmp_path / "main.c").write_text(source)
    build_firmware(compiler, [tmp_path / "main.c"], ["libmodels.a"], "firmware.elf", folder=tmp_path)
    assert compiler.target.board is not None
    finished = run_firmware(compiler.target.board, "firmware.elf", folder=tmp_path, timeout_s=60)
    assert finished.status == 0, finished
    used = int.from_bytes((tmp_path / "used").read_bytes(), "little")
    assert foretold.is_bounded
    # What is assumed of expf and memset is more than they take; the lowest words of a frame may serve alignment alone.
    assert 0 < used <= foretold.size_bytes <= used + 40
