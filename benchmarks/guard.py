"""What a library adds to a call of a model, in instructions.

`python benchmarks/guard.py [ARCHIVE...]`, by default with the samples, compiles each archive by hand and with mlf, with the
same flags and the same allocator, and counts the instructions of a call that begins in TVM's wrapper and of the same call
of the library: on this machine with callgrind, on a Cortex-M4 and a Cortex-M0 with QEMU, in which every instruction takes
the same time. The exit status is 1 if a call of the C interface takes more than 20 instructions longer; one with packed
arguments is also checked for what they are.
"""

from __future__ import annotations

import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlf.archive import open_archive
from mlf.boards import build_firmware, run_firmware
from mlf.codegen import render, run_structs
from mlf.linker import LinkRequest, link, plan_link
from mlf.naming import mangle_model
from mlf.toolchain import RUNTIME, compiler_for, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlf.linker import LinkPlan
    from mlf.metadata import Tensor

SAMPLES = Path(__file__).parent.parent / "samples"
TARGETS = ("host", "cortex-m4", "cortex-m0")
PROMISED = 20
STEADY = ("-icount", "shift=6")  # 64 ns for every instruction; a timer of the board counts them
TIMEOUT_S = 300.0
HAND, LIBRARY = "hand", "library"

_CODES = {"f": 2, "i": 0, "u": 1, "b": 1}

_HOST = r"""
#include <string.h>
__attribute__((noinline)) int32_t measured(int32_t (*call)(void)) { return call(); }
int main(int argc, char** argv) {
  int32_t (*call)(void) = argc > 1 && !strcmp(argv[1], "hand") ? by_hand : by_library;
  return call() != 0 || measured(call) != 0;
}
"""

_BOARD = r"""
#include "board.h"
#define SYST_CSR (*(volatile uint32_t*)0xe000e010)
#define SYST_RVR (*(volatile uint32_t*)0xe000e014)
#define SYST_CVR (*(volatile uint32_t*)0xe000e018)
enum { MOST = 0xffffff, KNOWN = 1000 };

static __attribute__((noinline, naked)) int32_t none(void) { __asm("movs r0, #0\n\tbx lr"); }
static __attribute__((noinline, naked)) int32_t known(void) { __asm(".rept 1000\n\tnop\n\t.endr\n\tmovs r0, #0\n\tbx lr"); }

static uint32_t ticks(int32_t (*call)(void), uint32_t count) {
  int32_t status = 0;
  SYST_RVR = MOST;
  SYST_CVR = 0;
  SYST_CSR = 5;
  while (count--) status |= call();
  if (status != 0) board_exit(1);
  return MOST - SYST_CVR;
}

static void tell(const char* name, uint32_t number) {
  char text[12], *digit = text + 11;
  *digit = '\0';
  do *--digit = (char)('0' + number % 10u);
  while (number /= 10u);
  board_puts(name);
  board_puts(" ");
  board_puts(digit);
  board_puts("\n");
}

int main(void) {
  uint32_t once = ticks(by_hand, 1), count = MOST / 2 / (once + 1);
  if (count > 1000) count = 1000;
  tell("count", count);
  tell("unit", ticks(known, 1000) - ticks(none, 1000));
  tell("none", ticks(none, count));
  tell("hand", ticks(by_hand, count));
  tell("library", ticks(by_library, count));
  return 0;
}
"""


def program(plan: LinkPlan) -> str:
    """Write C that calls the model by hand and from the library with the same pointers."""
    model = plan.models[0]
    interface, module = model.interface, model.module
    tensors = (*interface.inputs, *interface.outputs)
    pools = interface.external_pools
    names = [f"tensor{index}" for index in range(len(tensors))] + [pool.name for pool in pools]
    sizes = [tensor.size_bytes for tensor in tensors] + [pool.size_bytes for pool in pools]
    text = '#include "tvm/runtime/c_runtime_api.h"\n#include "tvmgen_x.h"\n'
    if module.header:
        text += f'#include "by_hand/{Path(module.header).name}"\n'
    text += "".join(f"static uint8_t {name}[{size}] __attribute__((aligned(64)));\n" for name, size in zip(names, sizes, strict=True))  # fmt: skip
    if module.header:
        inputs = len(interface.inputs)
        groups = {"inputs": names[:inputs], "outputs": names[inputs : len(tensors)], "workspace_pools": names[len(tensors) :]}  # fmt: skip
        return text + "".join(
            _struct_call(function, prefix, {kind: groups[kind] for kind in run_structs(interface)})
            for function, prefix in (("by_hand", mangle_model(module.name)), ("by_library", "tvmgen_x"))
        )
    taken = "void*, void*, int, void*, void*, void*"
    text += f"int32_t {module.entrypoints['tvm_module_main']}({taken});\n{_tensors(tensors, names)}"
    return text + "".join(
        f"static __attribute__((noinline)) int32_t {function}(void) {{\n"
        f"  return {main}((void*)values, (void*)codes, {len(names)}, &result, (void*)&result_code, 0);\n}}\n"
        for function, main in (("by_hand", module.entrypoints["tvm_module_main"]), ("by_library", "tvmgen_x_tvm_module_main"))
    )  # fmt: skip


def _struct_call(function: str, prefix: str, groups: dict[str, list[str]]) -> str:
    lines = [f"  struct {prefix}_{kind} {kind} = {{{', '.join(names)}}};\n" for kind, names in groups.items()]
    given = ", ".join(f"&{kind}" for kind in groups)
    return f"static __attribute__((noinline)) int32_t {function}(void) {{\n{''.join(lines)}  return {prefix}_run({given});\n}}\n"  # fmt: skip


def _tensors(tensors: Sequence[Tensor], names: Sequence[str]) -> str:
    """Write packed arguments; the shapes are known wherever the interface is packed."""
    text, rows = "", []
    for name, tensor in zip(names, tensors, strict=True):
        found = re.fullmatch(r"([a-z])[a-z]*(\d*)", tensor.dtype or "")
        code, bits = (_CODES[found[1]], int(found[2] or 1)) if found else (0, 8)
        shape = tensor.shape or ()
        text += f"static int64_t shape_{name}[] = {{{', '.join(map(str, shape)) or '0'}}};\n"
        rows.append(f"{{{name}, {{kDLCPU, 0}}, {len(shape)}, {{{code}, {bits}, 1}}, shape_{name}, 0, 0}}")
    text += f"static DLTensor arguments[] = {{{', '.join(rows)}}};\n"
    values = ", ".join(f"{{.v_handle = &arguments[{index}]}}" for index in range(len(tensors)))
    codes = ", ".join(["kTVMDLTensorHandle"] * len(tensors))
    return f"{text}static TVMValue values[] = {{{values}}}, result;\nstatic int codes[] = {{{codes}}}, result_code;\n"


def compile_by_hand(plan: LinkPlan, folder: Path) -> list[str]:
    """Compile what the archive holds, as it is, with the flags of a library."""
    model = plan.models[0]
    place = folder / "by_hand"
    place.mkdir()
    flags, objects = _allocator(plan, place, folder)
    with open_archive(model.path) as archive:
        if model.module.header:
            (place / Path(model.module.header).name).write_bytes(archive.read(model.module.header))
        for member in model.module.sources:
            name = Path(member).name
            (place / name).write_bytes(archive.read(member))
            extra = (f"-I{place}", f"-I{RUNTIME / 'include'}", *flags)
            plan.compiler.compile(str(place / name), f"by_hand/{name}.o", cwd=folder, extra=extra)
            objects.append(f"by_hand/{name}.o")
    return objects


def _allocator(plan: LinkPlan, place: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Compile a library's allocator for code by hand; gives the flags by which the code calls it, and its object."""
    need = plan.models[0].need
    if need is None or not need.allocator_bytes:
        return [], []
    arena = replace(plan.arenas[0], symbol="by_hand")
    (place / "arena.c").write_text(render("arena.c.j2", {"arena": arena, "is_measured": False}))
    plan.compiler.compile(str(place / "arena.c"), "by_hand/arena.o", cwd=folder, extra=(f"-I{RUNTIME / 'glue'}",))
    names = {"Alloc": arena.allocator(need.unit_bytes), "Free": "by_hand_free"}
    return [f"-DTVMBackend{what}Workspace={name}" for what, name in names.items()], ["by_hand/arena.o"]


def count(archive: Path, target: str, folder: Path) -> dict[str, float]:
    """Give the instructions of a call by hand and of the library, and whether it has packed arguments."""
    plan = plan_link([LinkRequest(path=archive, name="x")], output=folder / "libmodels.a", compiler=compiler_for(target))  # fmt: skip
    link(plan)
    is_packed = {"is_packed": float(plan.models[0].module.header is None)}
    objects = [*compile_by_hand(plan, folder), "libmodels.a"]
    compiler, board, include = plan.compiler, plan.compiler.target.board, f"-I{folder / 'include'}"
    (folder / "main.c").write_text(program(plan) + (_HOST if board is None else _BOARD))
    if board is None:
        compiler.compile("main.c", "main.o", cwd=folder, extra=("-I.", include))
        compiler.link(["main.o", *objects], "program", cwd=folder, extra=compiler.libraries())
        return {**is_packed, **{who: _callgrind(folder, who) for who in (HAND, LIBRARY)}}
    build_firmware(compiler, [folder / "main.c"], objects, "firmware", folder=folder, extra=(include,))
    steady = replace(board, emulator_arguments=(*board.emulator_arguments, *STEADY))
    said = run_firmware(steady, "firmware", folder=folder, timeout_s=TIMEOUT_S).stdout
    ticks = {name: int(number) for name, number in (line.split() for line in said.splitlines())}
    per_instruction = ticks["unit"] / 1000 / 1000
    return {
        **is_packed,
        **{who: (ticks[who] - ticks["none"]) / ticks["count"] / per_instruction for who in (HAND, LIBRARY)},
    }


def _callgrind(folder: Path, who: str) -> float:
    argv = ["valgrind", "--tool=callgrind", "--toggle-collect=measured", "--callgrind-out-file=/dev/null", str(folder / "program"), who]  # fmt: skip
    finished = run(argv, cwd=folder, timeout_s=TIMEOUT_S)
    found = re.search(r"Collected : (\d+)", finished.stderr)
    if finished.status != 0 or found is None:
        raise SystemExit(f"callgrind failed:\n{finished.stderr}")
    return float(found[1])


def main() -> int:
    """Print the table; gives the exit status."""
    archives = [Path(text) for text in sys.argv[1:]] or [SAMPLES / f"{name}.tar" for name in ("tone", "glyph", "motor")]
    is_kept = True
    print(f"{'archive':<26} {'target':<10} {'by hand':>10} {'library':>10} {'added':>6}")
    for archive in archives:
        for target in TARGETS:
            with tempfile.TemporaryDirectory() as scratch:
                found = count(archive, target, Path(scratch).resolve())
            added = round(found[LIBRARY]) - round(found[HAND])
            is_kept &= added <= PROMISED or found["is_packed"] != 0
            print(
                f"{archive.name:<26} {target:<10} {found[HAND]:>10.0f} {found[LIBRARY]:>10.0f} {added:>+6}", flush=True
            )
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
