"""Two libraries in one firmware: no name of one is in the way of the other, and what is equal in both is stored once."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from elftools.elf.elffile import ELFFile

from mlf import api
from mlf.arrays import load_arrays
from mlf.boards import build_firmware, run_firmware
from mlf.linker import LinkRequest, link, plan_link
from mlf.objects.ar import read_ar
from mlf.options import link_options
from mlf.toolchain import compiler_for, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlf.toolchain import Compiler, Finished

SAMPLES = Path(__file__).parent.parent / "samples"
TARGETS = ("host", "cortex-m4", "rv32imac")
TIMEOUT_S = 60.0
# What a build may say of libraries: nothing, that unused parts go, that all parts stay, both. Firmware of boards is always
# built so that unused parts go.
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
MIXED = "headers of two libraries: give one of them another name, `mlf link --registry NAME`"
GC, WHOLE = "-Wl,--gc-sections", "-Wl,--whole-archive"
BUILDS = (
    *(("host", flags) for flags in ((), (GC,), (WHOLE,), (GC, WHOLE))),
    *((target, flags) for target in TARGETS[1:] for flags in ((), (WHOLE,))),
)

_PROGRAM = r"""
#include <string.h>
#include "mlf/models.h"
#include "mlf/audio.h"
#include "arrays.h"

static uint8_t result[64] __attribute__((aligned(64)));

static int call(const struct mlf_model* model, const void* input, const float* expected, unsigned count) {
  void* inputs[] = {(void*)input};
  void* outputs[] = {result};
  unsigned i;
  if (!model || model->run(inputs, outputs, NULL, NULL) != 0) return 1;
  for (i = 0; i < count; ++i) {
    float distance = ((float*)result)[i] - expected[i];
    if (distance > 1e-5f || distance < -1e-5f) return 1;
  }
  return 0;
}

int main(void) {
  int i;
  if (MLF_MODEL_COUNT != 2 || MLF_AUDIO_MODEL_COUNT != 2) return 1;
  if (strcmp(mlf_models[0]->name, "glyph") || strcmp(mlf_models[1]->name, "tone_a")) return 2;
  if (strcmp(mlf_audio_models[0]->name, "knock") || strcmp(mlf_audio_models[1]->name, "tone_b")) return 3;
  if (mlf_find_model("tone_b") || mlf_audio_find_model("tone_a") || mlf_audio_find_model("")) return 4;
  for (i = 0; i < 3; ++i) {
    if (call(mlf_find_model("tone_a"), tone_input, tone_output, 4)) return 5;
    if (call(mlf_audio_find_model("tone_b"), tone_input, tone_output, 4)) return 6;
    if (call(mlf_find_model("glyph"), glyph_input, glyph_output, 4)) return 7;
  }
  return 0;
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Two:
    """Two linked libraries, in folders `a` and `b` of one folder."""

    folder: Path
    compiler: Compiler

    @property
    def includes(self) -> tuple[str, ...]:
        return tuple(f"-I{self.folder / name / 'include'}" for name in ("a", "b"))

    @property
    def libraries(self) -> tuple[str, ...]:
        return ("a/libmodels.a", "b/libmodels.a")


def two_libraries(
    folder: Path, target: str, *, is_folded: bool = True, registries: Sequence[str] = ("models", "audio")
) -> Two:
    """Link `tone` into both, under another name in each, and a model of its own into each."""
    knock = folder / "knock.tar"
    api.export(SAMPLES / "described", output=knock)
    contents = (
        {"tone_a": SAMPLES / "tone.tar", "glyph": SAMPLES / "glyph.tar"},
        {"tone_b": SAMPLES / "tone.tar", "knock": knock},
    )
    compiler = compiler_for(target)
    for name, models, registry in zip(("a", "b"), contents, registries, strict=True):
        requests = [LinkRequest(path=path, name=model) for model, path in models.items()]
        options = link_options(is_folded=is_folded, registry=registry)
        link(plan_link(requests, output=folder / name / "libmodels.a", compiler=compiler, options=options))
    return Two(folder=folder, compiler=compiler)


def arrays(folder: Path) -> None:
    """Write what the samples take and give as C."""
    text = "#include <stdint.h>\n"
    for name in ("tone", "glyph"):
        for kind in ("input", "output"):
            (array,) = load_arrays(SAMPLES / f"{name}.{kind}s.npz").values()
            listed = ", ".join(f"{float(value)!r}f" for value in array.ravel())
            text += f"static const float {name}_{kind}[] = {{{listed}}};\n"
    (folder / "arrays.h").write_text(text)


def build(two: Two, program: str, flags: Sequence[str], *, other: str = "") -> Path:
    """Build firmware around both libraries, of a file or two."""
    sources = {"main.c": program, **({"other.c": other} if other else {})}
    for name, text in sources.items():
        (two.folder / name).write_text(text)
    objects = (*flags, *two.libraries, "-Wl,--no-whole-archive")
    if two.compiler.target.board is not None:
        build_firmware(
            two.compiler,
            [two.folder / name for name in sources],
            objects,
            "firmware",
            folder=two.folder,
            extra=two.includes,
        )
        return two.folder / "firmware"
    for name in sources:
        two.compiler.compile(name, f"{name}.o", cwd=two.folder, extra=("-I.", *two.includes))
    two.compiler.link(
        [*(f"{name}.o" for name in sources), *objects], "firmware", cwd=two.folder, extra=two.compiler.libraries()
    )
    return two.folder / "firmware"


def start(two: Two) -> Finished:
    board = two.compiler.target.board
    if board is not None:
        return run_firmware(board, "firmware", folder=two.folder, timeout_s=TIMEOUT_S)
    return run([str(two.folder / "firmware")], cwd=two.folder, timeout_s=TIMEOUT_S)


def flash_bytes(image: Path) -> int:
    """Sum what an image holds in read-only memory."""
    with image.open("rb") as file:
        return sum(
            section["sh_size"]
            for section in ELFFile(file).iter_sections()
            if section["sh_flags"] & 2 and not section["sh_flags"] & 1 and section["sh_type"] != "SHT_NOBITS"
        )


def constants(library: Path, model: str) -> list[bytes]:
    """Give the sections with the model's weights."""
    data = dict(read_ar(library.read_bytes(), library.name))[f"tvmgen_{model}.o"]
    sections = ELFFile(io.BytesIO(data)).iter_sections()
    return [section.data() for section in sections if section.name.startswith(".rodata.tvm")]


@pytest.mark.parametrize(("target", "flags"), BUILDS)
def test_both_registries_find_their_models_which_give_their_numbers(
    tmp_path: Path, target: str, flags: tuple[str, ...]
) -> None:
    two = two_libraries(tmp_path, target)
    arrays(tmp_path)

    build(two, _PROGRAM, flags)

    assert start(two).status == 0


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")], ids="-".join)
def test_headers_of_both_fit_into_one_file_in_any_order(tmp_path: Path, target: str, order: tuple[str, str]) -> None:
    two = two_libraries(tmp_path, target)
    headers = {"a": "mlf/models.h", "b": "mlf/audio.h"}
    text = "".join(f'#include "{headers[name]}"\n' for name in order) * 2
    (tmp_path / "both.c").write_text(text + "int main(void) { return MLF_MODEL_COUNT - MLF_AUDIO_MODEL_COUNT; }\n")
    include = [f"-I{tmp_path / name / 'include'}" for name in order]

    finished = run(
        [*two.compiler.command, "-ffreestanding", *STRICT, *include, "-c", "both.c", "-o", "both.o"],
        cwd=tmp_path, timeout_s=TIMEOUT_S,
    )  # fmt: skip

    assert (finished.status, finished.stderr) == (0, "")


@pytest.mark.parametrize("target", TARGETS)
def test_weights_that_are_in_both_are_in_the_firmware_once(tmp_path: Path, target: str) -> None:
    two = two_libraries(tmp_path, target)
    arrays(tmp_path)

    image = build(two, _PROGRAM, (GC,))

    first, second = (constants(tmp_path / path, f"tone_{path[0]}") for path in two.libraries)
    assert first == second
    assert sum(map(len, first)) > 2000
    image_data = image.read_bytes()
    assert {image_data.count(weights) for weights in first if len(weights) >= 64} == {1}


@pytest.mark.parametrize("target", TARGETS)
def test_folding_across_libraries_saves_at_least_the_weights(tmp_path: Path, target: str) -> None:
    sizes = {}
    for is_folded in (True, False):
        folder = tmp_path / str(is_folded)
        folder.mkdir()
        arrays(folder)
        two = two_libraries(folder, target, is_folded=is_folded)
        sizes[is_folded] = flash_bytes(build(two, _PROGRAM, (GC,)))
        weights = sum(map(len, constants(folder / two.libraries[0], "tone_a")))

    assert sizes[False] - sizes[True] >= weights


def test_models_of_both_that_nobody_calls_are_not_in_the_firmware(tmp_path: Path) -> None:
    two = two_libraries(tmp_path, "cortex-m4")
    empty = "int main(void) { return 0; }\n"
    one = '#include "tvmgen_knock.h"\nint main(void) { return tvmgen_knock_run(0, 0) == 5; }\n'

    nothing = flash_bytes(build(two, empty, (GC,)))
    everything = flash_bytes(build(two, empty, (GC, WHOLE)))
    knock = flash_bytes(build(two, one, (GC,)))

    assert everything == nothing
    assert nothing < knock < nothing + 1500


_HALF = r"""
#include <string.h>
#include "%(folder)s/include/mlf/models.h"

int %(folder)s_is_right(void) {
  const char* const names[] = {"%(first)s", "%(second)s", NULL};
  int i;
  for (i = 0; names[i]; ++i) {
    if (strcmp(mlf_models[i]->name, names[i]) || mlf_find_model(names[i]) != mlf_models[i]) return 0;
  }
  return MLF_MODEL_COUNT == i && !mlf_find_model("%(stranger)s");
}
"""


@pytest.mark.parametrize(("target", "flags"), BUILDS)
def test_two_libraries_that_keep_the_default_registry_each_find_their_own_models(
    tmp_path: Path, target: str, flags: tuple[str, ...]
) -> None:
    two = two_libraries(tmp_path, target, registries=("models", "models"))
    program = _HALF % {"folder": "a", "first": "glyph", "second": "tone_a", "stranger": "tone_b"}
    other = _HALF % {"folder": "b", "first": "knock", "second": "tone_b", "stranger": "tone_a"}
    main = "int b_is_right(void);\nint main(void) { return a_is_right() && b_is_right() ? 0 : 1; }\n"

    build(two, program + main, flags, other=other)

    assert start(two).status == 0


@pytest.mark.parametrize("command", ["gcc", "g++", "clang", "clang++", "arm-none-eabi-gcc"])
def test_headers_of_two_registries_of_one_name_in_one_file_are_an_error(tmp_path: Path, command: str) -> None:
    two_libraries(tmp_path, "host", registries=("audio", "audio"))
    headers = {name: f'#include "{name}/include/mlf/audio.h"\n' for name in ("a", "b")}
    source = tmp_path / ("both.cpp" if command.endswith("++") else "both.c")
    said = []
    for order in ("aa", "ab", "ba"):
        source.write_text("".join(headers[name] for name in order))
        finished = run([command, "-ffreestanding", "-c", source.name], cwd=tmp_path, timeout_s=TIMEOUT_S)
        said.append((finished.status, "error" in finished.stderr, MIXED in finished.stderr))

    assert said == [(0, False, False), (1, True, True), (1, True, True)]


def test_the_same_models_give_the_same_names_and_others_give_others(tmp_path: Path) -> None:
    symbols = []
    for number, path in enumerate(("tone.tar", "tone.tar", "glyph.tar")):
        output = tmp_path / str(number) / "libmodels.a"
        request = LinkRequest(path=SAMPLES / path, name="net")
        document = link(plan_link([request], output=output, compiler=compiler_for("host"))).document
        symbols.append(document["registry"]["symbols"])
        header = (output.parent / "include" / "mlf" / "models.h").read_text()
        assert re.findall(r"#define (mlf_\w+) (mlf_\w+)$", header, re.MULTILINE) == [
            ("mlf_models", symbols[-1][1]), ("mlf_find_model", symbols[-1][0])
        ]  # fmt: skip

    assert symbols[0] == symbols[1] != symbols[2]
    assert [re.sub("[0-9a-f]{8}$", "", name) for name in symbols[2]] == ["mlf_find_model_", "mlf_models_"]


def test_models_of_two_libraries_without_registries_are_called_by_their_entrypoints(tmp_path: Path) -> None:
    two = two_libraries(tmp_path, "cortex-m4", registries=("models", "models"))
    arrays(tmp_path)
    program = """
#include "tvmgen_tone_a.h"
#include "tvmgen_tone_b.h"
#include "arrays.h"

int main(void) {
  float first[4], second[4];
  int i;
  struct tvmgen_tone_a_inputs inputs = {(void*)tone_input};
  struct tvmgen_tone_a_outputs outputs = {first};
  struct tvmgen_tone_b_inputs other_inputs = {(void*)tone_input};
  struct tvmgen_tone_b_outputs other_outputs = {second};
  if (tvmgen_tone_a_run(&inputs, &outputs) != 0 || tvmgen_tone_b_run(&other_inputs, &other_outputs) != 0) return 1;
  for (i = 0; i < 4; ++i) {
    float distance = first[i] - tone_output[i];
    if (distance > 1e-5f || distance < -1e-5f || first[i] != second[i]) return 2;
  }
  return 0;
}
"""

    build(two, program, ())

    assert start(two).status == 0
