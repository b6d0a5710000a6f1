"""Models that really interrupt each other, in threads and in interrupts of emulated cores, and what a failing one leaves."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from archives import RELEASES, STYLES, Network, expected, members, random_inputs, write

from mlf import api
from mlf.arrays import load_arrays
from mlf.boards import build_firmware, run_firmware
from mlf.linker import LinkPlan, LinkRequest, PlannedModel, link, plan_link
from mlf.options import link_options
from mlf.toolchain import compiler_for, run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from mlf.toolchain import Finished

    Arrays = Mapping[str, npt.NDArray[Any]]

ROOT = Path(__file__).parent.parent
FIRMWARE = ROOT / "tests" / "firmware"
SAMPLES = ROOT / "samples"
POINTS = 97  # at which a model is interrupted, from its first instructions to its last
RUNS = 2000  # of each of two threads
# A core of which every instruction takes 64 ns: the timers of the boards count in 40, 62.5 and 100 ns.
STEADY = ("-icount", "shift=6")
TIMEOUT_S = 120.0
ROLES = ("first", "second")
STATE_BYTES = 12  # of the guard, on 32-bit cores
LENT_BYTES = 64  # to which call.h rounds what it lends


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """An archive with inputs and the outputs that they must give."""

    name: str
    archive: Path
    inputs: Arrays
    outputs: Arrays
    rtol: float = 0.0
    atol: float = 0.0

    def check(self, results: Sequence[bytes]) -> None:
        assert len(results) == len(self.outputs)
        for wanted, content in zip(self.outputs.values(), results, strict=True):
            np.testing.assert_allclose(
                np.frombuffer(content, wanted.dtype), wanted.ravel(), rtol=self.rtol, atol=self.atol
            )


def sample(name: str) -> Model:
    inputs, outputs = (load_arrays(SAMPLES / f"{name}.{kind}.npz") for kind in ("inputs", "outputs"))
    return Model(
        name=name, archive=SAMPLES / f"{name}.tar", inputs=inputs, outputs=outputs, rtol=1e-5, atol=1e-6,
    )  # fmt: skip


@pytest.fixture
def models(real_archives: Path) -> dict[str, Model]:
    """The samples and the real archives of one module, by name."""
    found = {name: sample(name) for name in ("tone", "glyph", "motor")}
    for case in json.loads((real_archives / "cases.json").read_text())["cases"]:
        if len(case["modules"]) == 1:
            inputs, outputs = (load_arrays(real_archives / case[kind]) for kind in ("inputs", "outputs"))
            rtol, atol = (0.0, 0.0) if case["exact"] else (case["rtol"], case["atol"])
            found[case["case"]] = Model(
                name=case["case"], archive=real_archives / case["archive"], inputs=inputs, outputs=outputs, rtol=rtol, atol=atol
            )  # fmt: skip
    return found


def linked(folder: Path, names: Sequence[Model], target: str, style: str, cflags: Sequence[str] = ()) -> LinkPlan:
    """Link models, called `m0`, `m1` in this order; `style` is `concurrent` or an arena style."""
    requests = [LinkRequest(path=model.archive, name=f"m{index}") for index, model in enumerate(names)]
    groups = {"concurrent": [",".join(request.name or "" for request in requests)]}.get(style, [])
    options = link_options(
        arena="shared" if style == "concurrent" else style, concurrent=groups, externs=["__tsan_*", "__asan_*", "__ubsan_*"]
    )  # fmt: skip
    compiler = compiler_for(target, cflags=cflags)
    plan = plan_link(requests, output=folder / "libmodels.a", compiler=compiler, options=options)
    link(plan)
    return plan


def case_header(plan: LinkPlan, models: Sequence[Model], **numbers: int) -> str:
    """Write the arrays that `call.h` asks for; one model can be both."""
    text = '#include "mlf/models.h"\n' + "".join(f"#define {name} {value}\n" for name, value in numbers.items())
    for role, model, planned in zip(ROLES, models, _both(plan), strict=True):
        interface = planned.interface
        text += f"#define {role.upper()}_MODEL mlf_model_{planned.name}\n"
        arrays = [model.inputs[tensor.name].tobytes() for tensor in interface.inputs]
        for index, data in enumerate(arrays):
            text += f"static const uint8_t {role}_input_{index}[] __attribute__((aligned(64))) = {{{', '.join(map(str, data))}}};\n"
        pointers = ", ".join(f"(void*){role}_input_{index}" for index in range(len(arrays)))
        text += f"static void* const {role}_inputs[] = {{{pointers}}};\n"
        outputs = sum(_lent(tensor.size_bytes or 0) for tensor in interface.outputs)
        pools = sum(_lent(pool.size_bytes or 0) for pool in interface.external_pools)
        text += f"static uint8_t {role}_memory[{outputs + pools}] __attribute__((aligned(64)));\n"
        text += f"static uint8_t {role}_expected[{outputs}];\n"
    return text + "".join(_arena_ranges(role, planned) for role, planned in zip(ROLES, _both(plan), strict=True))


def _lent(size_bytes: int) -> int:
    return -(-size_bytes // LENT_BYTES) * LENT_BYTES


def _both(plan: LinkPlan) -> tuple[PlannedModel, PlannedModel]:
    return plan.models[0], plan.models[-1]


def _arena_ranges(role: str, model: PlannedModel) -> str:
    """Name the memory of the library that a run of this model may change."""
    if model.arena is None:
        return f"#define {role.upper()}_ARENA {{0, 0}}\n"
    symbol, size = model.arena.symbol, model.arena.size_bytes
    return (
        f"extern const uint8_t {symbol}[{STATE_BYTES}], {symbol}_memory[{size}];\n"
        f"#define {role.upper()}_ARENA {{{symbol}, {STATE_BYTES}}}, {{{symbol}_memory, {size}}}\n"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a program said: outputs by role, and counts."""

    outputs: Mapping[str, Sequence[bytes]]
    counts: Mapping[str, int]


def report(text: str) -> Report:
    words = [line.split(" ") for line in text.splitlines()]
    outputs = {role: [bytes.fromhex(value) for name, value in words if name == role] for role in ROLES}
    return Report(outputs=outputs, counts={name: int(value) for name, value in words if name not in outputs})


# Threads.


def run_threads(
    folder: Path, chosen: Sequence[Model], style: str, cflags: Sequence[str], *, least_busy: int = 0
) -> Mapping[str, int]:
    plan = linked(folder, chosen[:1] if chosen[0] is chosen[1] else chosen, "host", style, cflags)
    numbers = {"RUNS": RUNS, "LEAST_BUSY": least_busy, "MOST_TURNS": 20 * RUNS}
    (folder / "case.h").write_text(case_header(plan, chosen, **numbers))
    compiler, include = plan.compiler, f"-I{folder / 'include'}"
    compiler.compile(str(FIRMWARE / "threads.c"), "threads.o", cwd=folder, extra=("-I.", include, "-pthread"))
    compiler.link(["threads.o", "libmodels.a"], "threads", cwd=folder, extra=("-pthread", *compiler.libraries()))
    program = ["env", "TSAN_OPTIONS=halt_on_error=1", str(folder / "threads")]
    finished = run(program, cwd=folder, timeout_s=TIMEOUT_S)
    assert (finished.status, finished.stderr) == (0, ""), finished.stdout
    found = report(finished.stdout)
    for role, model in zip(ROLES, chosen, strict=True):
        model.check(found.outputs[role])
    assert found.counts["least"] >= RUNS
    return found.counts


THREAD_PAIRS = (
    ("tone", "glyph"),
    ("glyph", "motor"),
    ("conv-alloc", "dense-usmp"),
    ("dense-packed", "int8-graph"),
    ("named-packed-usmp", "dense-graph-linked"),
)
THREAD_SANITIZER = ("-fsanitize=thread", "-g")
ADDRESS_SANITIZER = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")


@pytest.mark.parametrize("style", ["concurrent", "private"])
@pytest.mark.parametrize("pair", THREAD_PAIRS, ids="+".join)
def test_models_with_memory_of_their_own_run_in_two_threads_at_once(
    models: dict[str, Model], tmp_path: Path, pair: tuple[str, str], style: str
) -> None:
    counts = run_threads(tmp_path, [models[name] for name in pair], style, THREAD_SANITIZER)

    assert counts["busy"] == 0


@pytest.mark.parametrize("pair", [("tone", "glyph"), ("conv-alloc", "dense-usmp"), ("dense-packed", "int8-graph")], ids="+".join)  # fmt: skip
def test_a_shared_arena_is_busy_for_the_other_thread_and_nobody_gives_wrong_numbers(
    models: dict[str, Model], tmp_path: Path, pair: tuple[str, str]
) -> None:
    counts = run_threads(tmp_path, [models[name] for name in pair], "shared", THREAD_SANITIZER, least_busy=10)

    assert counts["busy"] >= 10


def test_one_model_in_two_threads_is_right_or_busy(models: dict[str, Model], tmp_path: Path) -> None:
    counts = run_threads(tmp_path, [models["tone"]] * 2, "private", THREAD_SANITIZER, least_busy=10)

    assert counts["busy"] >= 10


def test_a_model_that_needs_nothing_of_the_library_runs_in_two_threads_at_once(
    models: dict[str, Model], tmp_path: Path
) -> None:
    counts = run_threads(tmp_path, [models["motor"]] * 2, "shared", THREAD_SANITIZER)

    assert counts["busy"] == 0


@pytest.mark.parametrize("style", ["concurrent", "shared"])
def test_no_thread_leaves_its_memory(models: dict[str, Model], tmp_path: Path, style: str) -> None:
    counts = run_threads(tmp_path, [models["tone"], models["int8-graph"]], style, ADDRESS_SANITIZER)

    assert style == "shared" or counts["busy"] == 0


# Interrupts.


def run_interrupted(
    folder: Path, chosen: Sequence[Model], target: str, style: str, cflags: Sequence[str] = ()
) -> Mapping[str, int]:
    plan = linked(folder, chosen[:1] if chosen[0] is chosen[1] else chosen, target, style, cflags)
    (folder / "case.h").write_text(case_header(plan, chosen, POINTS=POINTS))
    board = plan.compiler.target.board
    assert board is not None
    include = (f"-I{folder / 'include'}", f"-I{FIRMWARE}")
    build_firmware(plan.compiler, [FIRMWARE / "preempt.c"], ["libmodels.a"], "firmware", folder=folder, extra=include)
    steady = replace(board, emulator_arguments=(*board.emulator_arguments, *STEADY))
    finished = run_firmware(steady, "firmware", folder=folder, timeout_s=TIMEOUT_S)
    assert (finished.status, finished.stderr) == (0, ""), finished.stdout
    found = report(finished.stdout)
    for role, model in zip(ROLES, chosen, strict=True):
        model.check(found.outputs[role])
    assert found.counts["fired"] >= 0.95 * POINTS
    return found.counts


BOARD_PAIRS = (
    ("cortex-m4", "tone", "glyph"),
    ("cortex-m4", "glyph", "tone"),
    ("cortex-m4", "int8-graph", "dense-packed"),
    ("cortex-m4", "dense-llvm-cortex-m4", "named-packed-usmp"),
    ("cortex-m0", "tone", "glyph"),
    ("cortex-m0", "glyph", "tone"),
    ("rv32imac", "tone", "glyph"),
)
board_pairs = pytest.mark.parametrize(("target", "first", "second"), BOARD_PAIRS)


@board_pairs
def test_a_model_in_an_interrupt_of_another_is_right_if_they_are_concurrent(
    models: dict[str, Model], tmp_path: Path, target: str, first: str, second: str
) -> None:
    counts = run_interrupted(tmp_path, [models[first], models[second]], target, "concurrent")

    assert (counts["busy"], counts["wrong"], counts["changed"]) == (0, 0, 0)


@board_pairs
def test_a_shared_arena_is_busy_in_an_interrupt_and_nothing_is_touched(
    models: dict[str, Model], tmp_path: Path, target: str, first: str, second: str
) -> None:
    counts = run_interrupted(tmp_path, [models[first], models[second]], target, "shared")

    assert counts["busy"] >= 0.9 * counts["fired"]
    assert (counts["wrong"], counts["changed"]) == (0, 0)


@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m0", "rv32imac"])
def test_a_model_that_interrupts_itself_is_busy(models: dict[str, Model], tmp_path: Path, target: str) -> None:
    counts = run_interrupted(tmp_path, [models["tone"]] * 2, target, "private")

    assert counts["busy"] >= 0.9 * counts["fired"]
    assert (counts["wrong"], counts["changed"]) == (0, 0)


def test_a_model_that_needs_nothing_of_the_library_interrupts_any(models: dict[str, Model], tmp_path: Path) -> None:
    counts = run_interrupted(tmp_path, [models["tone"], models["motor"]], "cortex-m4", "shared")

    assert (counts["busy"], counts["wrong"], counts["changed"]) == (0, 0, 0)


@pytest.mark.parametrize("style", ["concurrent", "shared"])
def test_a_risc_v_core_without_atomics_is_as_safe(models: dict[str, Model], tmp_path: Path, style: str) -> None:
    without = ("-march=rv32im", "-mabi=ilp32")
    counts = run_interrupted(tmp_path, [models["tone"], models["glyph"]], "rv32imac", style, without)

    assert counts["busy"] >= 0.9 * counts["fired"] if style == "shared" else counts["busy"] == 0
    assert (counts["wrong"], counts["changed"]) == (0, 0)


# Models that fail.

BAD = 4096.0  # in the input `zeta`, where the model notices
GREEDY = ("(uint64_t)1200", f"(uint64_t)(1200 + 4000 * (((float*)p0)[0] > {BAD}f))")
DEFIANT = ("((float*)scratch)[i]", f"if (((float*)p0)[0] > {BAD}f) return -1; ((float*)scratch)[i]")
FORMS = {
    "0.8.0": Network(release=RELEASES["0.8.0"], **STYLES["aot-c"]),
    "c": Network(**STYLES["aot-c"]),
    "packed": Network(**STYLES["aot-packed"]),
    "graph": Network(**STYLES["graph"]),
}
BOARDS_AND_HOST = ("host", "cortex-m4", "rv32imac")


def changed(folder: Path, network: Network, change: tuple[str, str]) -> Model:
    """Write an archive whose operator `pick` is another one where its input is bad."""
    content = members(network)
    (name,) = [name for name, data in content.items() if name.endswith(".c") and change[0].encode() in data]
    data = content[name].replace(change[0].encode(), change[1].encode())
    archive = write(folder / "changed.tar", {**content, name: data})
    inputs = random_inputs(network, 1)
    return Model(name="changed", archive=archive, inputs=inputs, outputs=expected(inputs, network))


_GREEDY = """
#include <stdint.h>
void* TVMBackendAllocWorkspace(int, int, unsigned long long, int, int);
int TVMBackendFreeWorkspace(int, int, void*);
STATUS greedy(const float* zeta, float* twice) {
  int n = zeta[0] > BAD ? 8192 : 64, i;
  char* scratch = TVMBackendAllocWorkspace(1, 0, n, 0, 8);
  if (!scratch) return -1;
  for (i = 0; i < n; ++i) scratch[i] = 1;
  for (i = 0; i < 4; ++i) twice[i] = 2 * zeta[i] * scratch[i];
  return TVMBackendFreeWorkspace(1, 0, scratch);
}
"""
_DESCRIPTION = """
[model]
name = "greedy"
[entry]
function = "greedy"
arguments = ["zeta", "twice"]
returns = "status"
[code]
sources = ["greedy.c"]
allocates_bytes = 64
[[inputs]]
name = "zeta"
dtype = "float32"
shape = [4]
[[outputs]]
name = "twice"
dtype = "float32"
shape = [4]
"""


def described(folder: Path, status: str) -> Model:
    """Make an archive of C that asks for more memory than its description says, where its input is bad."""
    (folder / "code").mkdir()
    (folder / "code" / "greedy.c").write_text(_GREEDY.replace("STATUS", status).replace("BAD", f"{BAD}f"))
    (folder / "code" / "description.toml").write_text(_DESCRIPTION)
    api.export(folder / "code", output=folder / "described.tar")
    zeta = np.arange(4, dtype=np.float32)
    return Model(
        name="described", archive=folder / "described.tar", inputs={"zeta": zeta}, outputs={"twice": 2 * zeta}
    )  # fmt: skip


def run_failing(folder: Path, chosen: Sequence[Model], target: str) -> tuple[list[int], Mapping[str, int]]:
    """Give the statuses of the runs with a bad input, without their sign, and the counts."""
    cflags = ADDRESS_SANITIZER if target == "host" else ()
    plan = linked(folder, chosen, target, "shared", cflags)
    interface, inputs = plan.models[0].interface, dict(chosen[0].inputs)
    name = next(iter(inputs))
    inputs[name] = np.full_like(inputs[name], 2 * BAD)
    text = case_header(plan, chosen)
    for index, tensor in enumerate(interface.inputs):
        data = ", ".join(map(str, inputs[tensor.name].tobytes()))
        text += f"static const uint8_t bad_input_{index}[] __attribute__((aligned(64))) = {{{data}}};\n"
    pointers = ", ".join(f"(void*)bad_input_{index}" for index in range(len(interface.inputs)))
    (folder / "case.h").write_text(f"{text}static void* const bad_inputs[] = {{{pointers}}};\n")
    finished = _built_and_run(plan, "failing.c", folder)
    assert (finished.status, finished.stderr) == (0, ""), finished.stdout
    lines = [line.split(" ") for line in finished.stdout.splitlines()]
    found = report("\n".join(" ".join(words) for words in lines if words[0] != "minus"))
    for role, model in zip(ROLES, chosen, strict=True):
        model.check(found.outputs[role])
    return [int(words[1]) for words in lines if words[0] == "minus"], found.counts


def _built_and_run(plan: LinkPlan, source: str, folder: Path) -> Finished:
    compiler, board = plan.compiler, plan.compiler.target.board
    include = (f"-I{folder / 'include'}", f"-I{FIRMWARE}")
    if board is not None:
        build_firmware(compiler, [FIRMWARE / source], ["libmodels.a"], "firmware", folder=folder, extra=include)
        return run_firmware(board, "firmware", folder=folder, timeout_s=TIMEOUT_S)
    compiler.compile(str(FIRMWARE / source), "main.o", cwd=folder, extra=("-I.", *include, "-DIS_HOST"))
    compiler.link(["main.o", "libmodels.a"], "firmware", cwd=folder, extra=compiler.libraries())
    return run([str(folder / "firmware")], cwd=folder, timeout_s=TIMEOUT_S)


@pytest.mark.parametrize("target", BOARDS_AND_HOST)
@pytest.mark.parametrize("form", [*FORMS, "int", "int32_t"])
def test_a_model_that_asks_for_more_than_its_arena_has_is_told_so_and_harms_nobody(
    tmp_path: Path, form: str, target: str
) -> None:
    first = changed(tmp_path, FORMS[form], GREEDY) if form in FORMS else described(tmp_path, form)

    statuses, counts = run_failing(tmp_path, [first, sample("glyph")], target)

    assert statuses == [102, 102, 102]
    assert counts == {"changed": 0, "wrong": 0}


@pytest.mark.parametrize("target", BOARDS_AND_HOST)
@pytest.mark.parametrize("form", ["c", "packed", "graph"])
def test_a_model_that_fails_leaves_the_arena_to_the_next(tmp_path: Path, form: str, target: str) -> None:
    first = changed(tmp_path, FORMS[form], DEFIANT)

    statuses, counts = run_failing(tmp_path, [first, sample("glyph")], target)

    assert statuses == [1, 1, 1]
    assert counts == {"changed": 0, "wrong": 0}
