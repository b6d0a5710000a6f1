from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "samples"
sys.path.insert(0, str(SAMPLES))

from make_samples import Sample, make_samples  # noqa: E402 - a script's folder is on no path before

NAMES = ("tone", "glyph", "motor")
GUARD = 0xA5  # what lies behind a pool, and must stay there

RUNTIME = """
#include "tvm/runtime/c_backend_api.h"
static uint8_t memory[1 << 16] __attribute__((aligned(16)));
uint64_t in_use, most_in_use;
void* TVMBackendAllocWorkspace(int type, int id, uint64_t size, int code, int bits) {
  void* block = memory + in_use;
  in_use += (size + 15) / 16 * 16;
  most_in_use = in_use > most_in_use ? in_use : most_in_use;
  return in_use <= sizeof memory ? block : 0;
}
int TVMBackendFreeWorkspace(int type, int id, void* block) {
  in_use = (uint64_t)((uint8_t*)block - memory);
  return 0;
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A sample's code as a shared object."""

    sample: Sample
    library: ctypes.CDLL
    metadata: Mapping[str, Any]
    pool: Any  # uint8 array: what the application gives, and 64 guard bytes

    @property
    def main(self) -> dict[str, Any]:
        return dict(self.metadata["modules"]["default"]["memory"]["functions"]["main"][0])

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        model = self.sample.model
        given = [np.ascontiguousarray(inputs[tensor.name]) for tensor in model.inputs]
        outputs = {tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in model.outputs}
        groups = [given, list(outputs.values())] + ([[self.pool]] if model.memory == "external" else [])
        structs = [(ctypes.c_void_p * len(group))(*(array.ctypes.data for array in group)) for group in groups]
        assert self.library.tvmgen_default_run(*structs) == 0
        return outputs


def member(name: str, path: str) -> str:
    with tarfile.open(SAMPLES / f"{name}.tar") as archive:
        file = archive.extractfile(path)
        assert file is not None
        return file.read().decode()


@pytest.fixture(scope="module")
def samples() -> dict[str, Sample]:
    return {sample.name: sample for sample in make_samples()}


@pytest.fixture(scope="module", params=NAMES)
def compiled(request: pytest.FixtureRequest, samples: dict[str, Sample], tmp_path_factory: Any) -> Compiled:
    name: str = request.param
    folder = tmp_path_factory.mktemp(name)
    for path in ("src/default_lib0.c", "src/default_lib1.c", "include/tvmgen_default.h"):
        (folder / Path(path).name).write_text(member(name, f"./codegen/host/{path}"))
    (folder / "runtime.c").write_text(RUNTIME)
    command = [
        "gcc",
        "-std=gnu11",
        "-O2",
        "-shared",
        "-fPIC",
        "-Wl,-Bsymbolic",
        f"-I{ROOT}/mlf/runtime/include",
        "-I.",
        "-o",
        "model.so",
    ]
    sources = ["default_lib0.c", "default_lib1.c", "runtime.c", "-lm"]
    subprocess.run([*command, *sources], cwd=folder, check=True, capture_output=True)
    metadata = json.loads(member(name, "./metadata.json"))
    main = metadata["modules"]["default"]["memory"]["functions"]["main"][0]
    pool = np.full(main["workspace_size_bytes"] + 64, GUARD, np.uint8)
    return Compiled(sample=samples[name], library=ctypes.CDLL(str(folder / "model.so")), metadata=metadata, pool=pool)


def assert_same(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert set(actual) == set(expected)
    for name, values in expected.items():
        exact = values.dtype.kind != "f"
        np.testing.assert_allclose(actual[name], values, rtol=0 if exact else 1e-5, atol=0 if exact else 1e-6)


def test_script_writes_the_committed_files_byte_for_byte(tmp_path: Path) -> None:
    subprocess.run([sys.executable, SAMPLES / "make_samples.py", tmp_path], check=True, capture_output=True)

    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    assert sorted(made) == sorted(f"{name}.{kind}" for name in NAMES for kind in ("tar", "inputs.npz", "outputs.npz"))
    assert {name: made[name] == (SAMPLES / name).read_bytes() for name in made} == dict.fromkeys(made, True)


@pytest.mark.parametrize("name", NAMES)
def test_model_recognises_what_it_was_not_fitted_to(samples: dict[str, Sample], name: str) -> None:
    sample = samples[name]
    scores = sample.model.outputs[0].name
    answers = [sample.reference(example)[scores].argmax() for example in sample.examples]

    assert np.mean(np.equal(answers, sample.labels)) > 0.95


def test_compiled_code_gives_the_golden_outputs_twice(compiled: Compiled) -> None:
    name = compiled.sample.name
    inputs, outputs = (dict(np.load(SAMPLES / f"{name}.{kind}.npz")) for kind in ("inputs", "outputs"))

    for _ in range(2):
        assert_same(compiled.run(inputs), outputs)


def test_compiled_code_agrees_with_the_reference_on_every_example(compiled: Compiled) -> None:
    for example in compiled.sample.examples:
        assert_same(compiled.run(example), compiled.sample.reference(example))


def test_code_keeps_to_the_workspace_that_it_declares(compiled: Compiled) -> None:
    compiled.run(compiled.sample.examples[0])

    in_use, most = (ctypes.c_uint64.in_dll(compiled.library, name).value for name in ("in_use", "most_in_use"))
    declared = compiled.main["workspace_size_bytes"]
    assert in_use == 0
    assert most <= declared
    assert (most > 0) == (compiled.sample.name == "tone")
    assert (compiled.pool[declared:] == GUARD).all()
    assert (compiled.pool[:declared] != GUARD).any() == (compiled.sample.name == "motor")


def test_header_and_metadata_declare_the_same_sizes(compiled: Compiled) -> None:
    header = member(compiled.sample.name, "./codegen/host/include/tvmgen_default.h")
    macros = {name: int(size) for name, size in re.findall(r"#define TVMGEN_DEFAULT_(\w+)_SIZE (\d+)", header)}

    tensors = {**compiled.main["inputs"], **compiled.main["outputs"]}
    expected = {name.upper(): tensor["size"] for name, tensor in tensors.items()}
    expected["WORKSPACE"] = compiled.main["workspace_size_bytes"]
    if compiled.sample.name == "motor":
        expected["SRAM_WORKSPACE_POOL"] = expected["WORKSPACE"]
    assert macros == expected


@pytest.mark.parametrize("name", NAMES)
def test_archive_has_the_members_of_a_c_interface_archive(name: str) -> None:
    with tarfile.open(SAMPLES / f"{name}.tar") as archive:
        members = [(info.name, oct(info.mode), info.uname, info.mtime) for info in archive]

    folder, file = "0o755", "0o644"
    assert members == [
        (path, mode, "root", 0)
        for path, mode in (
            (".", "0o700"),
            ("./codegen", folder),
            ("./codegen/host", folder),
            ("./codegen/host/include", folder),
            ("./codegen/host/include/tvmgen_default.h", file),
            ("./codegen/host/src", folder),
            ("./codegen/host/src/default_lib0.c", file),
            ("./codegen/host/src/default_lib1.c", file),
            ("./metadata.json", file),
            ("./parameters", folder),
            ("./parameters/default.params", file),
            ("./src", folder),
            ("./src/default.relay", file),
        )
    ]


def test_tone_and_glyph_define_the_same_names_for_different_code() -> None:
    functions = []
    for name in ("tone", "glyph"):
        code = member(name, "./codegen/host/src/default_lib1.c")
        functions.append(
            dict(re.findall(r"^TVM_DLL int32_t (\w+)(\([^;{]*\) \{\n.*?\n\})$", code, re.DOTALL | re.MULTILINE))
        )
    shared = sorted(functions[0].keys() & functions[1].keys())

    assert shared == [
        "tvmgen_default___tvm_main__",
        "tvmgen_default_fused_nn_contrib_dense_pack_add",
        "tvmgen_default_fused_nn_softmax",
    ]
    assert all(functions[0][name] != functions[1][name] for name in shared)


def test_call_order_of_motor_is_not_the_alphabetical_order_of_its_metadata() -> None:
    header = member("motor", "./codegen/host/include/tvmgen_default.h")
    main = json.loads(member("motor", "./metadata.json"))["modules"]["default"]["memory"]["functions"]["main"][0]

    assert re.findall(r"void\* (\w+);", header) == ["vibration", "current", "wear", "load", "sram"]
    assert [*main["inputs"], *main["outputs"]] == ["current", "vibration", "load", "wear"]


HEADER = """
#include <stdint.h>
#define TVMGEN_{upper}_{input_upper}_SIZE {size}
struct tvmgen_{name}_inputs {{ void* {input}; }};
struct tvmgen_{name}_outputs {{ void* output; }};
int32_t tvmgen_{name}_run(struct tvmgen_{name}_inputs* inputs, struct tvmgen_{name}_outputs* outputs);
"""

MODEL = """
#include "tvmgen_{name}.h"
int32_t tvmgen_{name}_run(struct tvmgen_{name}_inputs* inputs, struct tvmgen_{name}_outputs* outputs) {{
  const float* first = inputs->{input};
  float* output = outputs->output;
  for (int index = 0; index < 4; ++index) output[index] = {answer};
  return {status};
}}
"""


def run_firmware(folder: Path, *, answer: str = "first[0]", status: str = "0") -> tuple[int, str]:
    """The application with models that all answer the same; it expects 0.25 everywhere. Gives exit status and text."""
    golden = "static const float golden_{}[{}] = {{0.25f, 0.25f, 0.25f, 0.25f}};\n"
    tensors = {"tone_samples": 64, "tone_output": 4, "glyph_picture": 144, "glyph_output": 4}
    (folder / "golden.h").write_text("".join(golden.format(name, count) for name, count in tensors.items()))
    for name, tensor, size in (("tone", "samples", 256), ("glyph", "picture", 576)):
        names = {"name": name, "upper": name.upper(), "input": tensor, "input_upper": tensor.upper(), "size": size}
        (folder / f"tvmgen_{name}.h").write_text(HEADER.format(**names))
        (folder / f"{name}.c").write_text(MODEL.format(**names, answer=answer, status=status))
    command = ["gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I.", "-o", "firmware"]
    sources = [str(SAMPLES / "firmware/main.c"), "tone.c", "glyph.c"]
    subprocess.run([*command, *sources], cwd=folder, check=True, capture_output=True)
    done = subprocess.run([folder / "firmware"], check=False, capture_output=True, text=True)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("answer", "deviation"),
    [("first[0]", "0.0e+00"), ("first[0] + 5e-6f", "5.0e-06"), ("first[0] + (index == 1) * 9.954e-6f", "1.0e-05")],
)
def test_firmware_accepts_small_deviations(tmp_path: Path, answer: str, deviation: str) -> None:
    best = 1 if "index" in answer else 0
    lines = [f"{name}: class {best} (0.250), largest deviation {deviation}\n" for name in ("tone", "glyph", "tone")]

    assert run_firmware(tmp_path, answer=answer) == (0, "".join(lines))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("first[0] + 2e-5f", "class 0 (0.250), largest deviation 2.0e-05, too large"),
        ("0.0f / (first[0] - 0.25f)", "class 0 (0.000), largest deviation 1.0e+00, too large"),
        ("first[0] + index * 1e30f", "class 3 (0.000), largest deviation 1.0e+00, too large"),
    ],
)
def test_firmware_refuses_wrong_answers(tmp_path: Path, answer: str, told: str) -> None:
    text = "".join(f"{name}: {told}\n" for name in ("tone", "glyph", "tone"))

    assert run_firmware(tmp_path, answer=answer) == (1, text)


def test_firmware_tells_of_a_model_that_reports_failure(tmp_path: Path) -> None:
    assert run_firmware(tmp_path, status="-1") == (1, "tone: failed\nglyph: failed\ntone: failed\n")
