"""The same models through every release of TVM that mlf knows, each in the Python that has it; and what other releases are told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx_nets import assert_close, expected, node, numbers, onnx_model, save, value

from mlf.frontends.compiled import CompiledModel
from mlf.frontends.tvm.releases import KNOWN_RELEASES, load_tvm, version
from mlf.program import Call, Program, Value

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parent.parent
OLDER = KNOWN_RELEASES[:-1]
X = numbers(1, 3, 6, 5)
# Compiles every model of a folder and prints what run_models needs.
SCRIPT = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from mlf.frontends.tvm import compile_file, compile_relax
from mlf.frontends.tvm.releases import version
def document(model):
    values = [{**asdict(item), "content": item.content.hex()} for item in model.program.values]
    calls = [asdict(call) for call in model.program.calls]
    tensors = [[[item.name, item.dtype, item.shape, item.size_bytes] for item in part] for part in (model.inputs, model.outputs)]
    program = {"values": values, "calls": calls, "inputs": model.program.inputs, "outputs": model.program.outputs}
    return {"operators": model.operators, "prototypes": model.prototypes, "program": program, "tensors": tensors, "generator": model.generator}
def relax_module():
    import tvm
    from tvm import relax
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorStructInfo((2, 3), "float32") if hasattr(relax, "TensorStructInfo") else relax.TensorType((2, 3), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(builder.emit(relax.op.tanh(x)))
        builder.emit_func_output(y)
    return builder.get()
models = {path.stem: compile_file(path, name=path.stem, rounding="float") for path in sorted(Path(sys.argv[1]).glob("*.onnx"))}
made = {name: document(model) for name, model in models.items()}
made["relax"] = document(compile_relax(relax_module(), name="relax"))
print(json.dumps({"version": version(), "models": made}))
"""


def models() -> Mapping[str, tuple[Any, Mapping[str, Any]]]:
    """Give models by name, with their inputs: what differs between the releases is in one of them."""
    convolution = [
        node("Conv", "x w b", "c", pads=[1, 1, 1, 1]), node("BatchNormalization", "c s b s v", "n"), node("Relu", "n", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]), node("Flatten", "p", "f"), node("MatMul", "f m", "l"),
        node("Softmax", "l", "y"),
    ]  # fmt: skip
    weights = {
        "w": numbers(4, 3, 3, 3), "b": numbers(4, seed=1), "s": numbers(4, seed=2), "v": np.abs(numbers(4, seed=3)) + 0.5,
        "m": numbers(24, 5, seed=4),
    }  # fmt: skip
    functions = [
        node("Abs", "x", "a"), node("Sqrt", "a", "q"), node("Reciprocal", "q", "i"), node("Clip", "i - top", "j"), node("Sigmoid", "j", "s"),
        node("Softplus", "s", "p"), node("Erf", "p", "y"), node("IsNaN", "x", "z"), node("ArgMax", "x", "k", axis=3),
    ]  # fmt: skip
    outputs = [value("y", [1, 3, 6, 5]), value("z", [1, 3, 6, 5], 9), value("k", [1, 3, 6, 1], 7)]
    return {
        "convolution": (onnx_model(convolution, [value("x", X.shape)], [value("y", [1, 5])], **weights), {"x": X}),
        "functions": (onnx_model(functions, [value("x", X.shape)], outputs, top=np.float32(3)), {"x": X}),
        "attention": (
            onnx_model(
                [
                    node("MatMul", "x q", "a"), node("Transpose", "a", "t", perm=[0, 1, 3, 2]), node("MatMul", "a t", "s"),
                    node("Softmax", "s", "p"), node("LayerNormalization", "p g", "n"), node("Split", "n", "y z", axis=2),
                ],
                [value("x", X.shape)], [value("y", [1, 3, 3, 6]), value("z", [1, 3, 3, 6])], q=numbers(5, 4), g=numbers(6), opset=17,
            ),
            {"x": X},
        ),
    }  # fmt: skip


def python_of(release: str) -> Path:
    if release == KNOWN_RELEASES[-1]:
        return Path(sys.executable)
    python = ROOT / ".cache" / f"tvm-{release}" / "bin" / "python"
    if not python.exists():
        pytest.fail(f"no Python with TVM {release} in .cache; `bash tests/run.sh` makes it", pytrace=False)
    return python


def run_python(python: Path, *words: str | Path, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{path}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([str(python), *map(str, words)], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """Give what each release makes of all models."""
    folder = tmp_path_factory.mktemp("models")
    for name, (model, _) in models().items():
        save(folder / f"{name}.onnx", model)
    done = {release: run_python(python_of(release), "-c", SCRIPT, folder) for release in KNOWN_RELEASES}
    assert {release: (item.returncode, item.stderr) for release, item in done.items()} == dict.fromkeys(
        KNOWN_RELEASES, (0, "")
    )
    return {release: json.loads(item.stdout) for release, item in done.items()}


def compiled(document: Mapping[str, Any]) -> CompiledModel:
    from mlf.metadata import Tensor  # noqa: PLC0415

    values = [
        Value(**{**item, "shape": tuple(item["shape"]), "content": bytes.fromhex(item["content"])})
        for item in document["program"]["values"]
    ]
    calls = [
        Call(**{**item, "arguments": tuple(item["arguments"]), "written": tuple(item["written"])})
        for item in document["program"]["calls"]
    ]
    inputs, outputs = (
        tuple(
            Tensor(name=name, c_name=name, dtype=dtype, shape=tuple(shape), size_bytes=size)
            for name, dtype, shape, size in part
        )
        for part in document["tensors"]
    )
    program = Program(
        where="net",
        values=tuple(values),
        calls=tuple(calls),
        inputs=tuple(document["program"]["inputs"]),
        outputs=tuple(document["program"]["outputs"]),
    )
    return CompiledModel(
        inputs=inputs,
        outputs=outputs,
        program=program,
        operators=document["operators"],
        prototypes=document["prototypes"],
        generator="",
    )


@pytest.mark.parametrize("release", KNOWN_RELEASES)
def test_every_release_is_the_one_that_is_meant(made: Mapping[str, Any], release: str) -> None:
    assert made[release]["version"].startswith(f"{release}.")
    assert {item["generator"] for item in made[release]["models"].values()} == {
        f"apache-tvm {made[release]['version']}"
    }


@pytest.mark.parametrize("release", KNOWN_RELEASES)
def test_every_release_gives_the_numbers_of_onnxruntime(made: Mapping[str, Any], tmp_path: Path, release: str) -> None:
    from onnx_nets import run_models  # noqa: PLC0415

    given = [(compiled(made[release]["models"][name]), arrays) for name, (_, arrays) in models().items()]
    relax = numbers(2, 3)
    results = run_models([*given, (compiled(made[release]["models"]["relax"]), {"x": relax})], tmp_path)
    for (name, (model, arrays)), got in zip(models().items(), results, strict=False):
        assert_close(got, expected(save(tmp_path / f"{name}.onnx", model), arrays))
    assert_close(results[-1], [np.tanh(relax)])


@pytest.mark.parametrize("release", OLDER)
def test_every_release_makes_the_same_calls_with_the_same_memory(made: Mapping[str, Any], release: str) -> None:
    def shape_of(item: Mapping[str, Any]) -> Any:
        calls = [(len(call["arguments"]), len(call["written"])) for call in item["program"]["calls"]]
        return calls, sorted(entry["size_bytes"] for entry in item["program"]["values"])

    newest = {name: shape_of(item) for name, item in made[KNOWN_RELEASES[-1]]["models"].items()}
    assert {name: shape_of(item) for name, item in made[release]["models"].items()} == newest


# Releases that mlf does not know, and TVMs that do not load.

ASK = """
from mlf.errors import MlfError
from mlf.frontends.tvm.releases import load_tvm
try:
    load_tvm()
except MlfError as error:
    print(type(error).__name__, error, error.hint, sep="|")
"""
KNOWN = "mlf knows 0.25, 0.26, 0.27: pip install 'mlf[tvm]'"
FFI = "the libraries of its wheels do not fit together: pip install 'apache-tvm-ffi==0.1.12' for 0.25, or `mlf[tvm]`"


def said_of(folder: Path, **files: str) -> str:
    """Give what is said of a package `tvm` with these modules."""
    for name, text in files.items():
        path = folder / "tvm" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    done = run_python(Path(sys.executable), "-c", ASK, path=folder)
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.parametrize("number", ["0.24.0", "0.28.0", "1.0.dev3", "0.2.7"])
def test_a_release_that_mlf_does_not_know_is_told(tmp_path: Path, number: str) -> None:
    said = said_of(tmp_path, __init__=f"__version__ = {number!r}\n", relax="", s_tir="", tirx="")
    assert said == f"ToolError|Apache TVM {number} is a release that mlf does not know|{KNOWN}"


def test_an_old_tvm_without_the_parts_that_mlf_needs_is_told(tmp_path: Path) -> None:
    said = said_of(tmp_path, __init__="__version__ = '0.16.0'\n", relax="")
    assert said == f"ToolError|Apache TVM does not load: No module named 'tvm.s_tir'|{KNOWN}"


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (
            "raise OSError('libtvm.so: undefined symbol: TVMFFIErrorSetRaised\\nmore')",
            "libtvm.so: undefined symbol: TVMFFIErrorSetRaised",
        ),
        ("raise ImportError('cannot import name core')", "cannot import name core"),
        ("raise AttributeError('no register_object')", "no register_object"),
        ("raise OSError", "OSError"),
    ],
)
def test_libraries_that_do_not_fit_together_are_told(tmp_path: Path, failure: str, words: str) -> None:
    assert said_of(tmp_path, __init__=failure) == f"ToolError|Apache TVM does not load: {words}|{FFI}"


def test_a_tvm_whose_own_package_is_missing_is_told(tmp_path: Path) -> None:
    said = said_of(tmp_path, __init__="import tvm_ffi_that_is_not_there\n")
    assert said == f"ToolError|Apache TVM does not load: No module named 'tvm_ffi_that_is_not_there'|{KNOWN}"


def test_no_tvm_at_all_is_told(tmp_path: Path) -> None:
    block = "import sys\nsys.modules['tvm'] = None\n"
    done = run_python(Path(sys.executable), "-c", block + ASK, path=tmp_path)
    assert done.stdout.strip() == "ToolError|Apache TVM is not installed|pip install 'mlf[tvm]'"


def test_this_python_has_the_newest_release() -> None:
    assert version().startswith(f"{KNOWN_RELEASES[-1]}.")
    assert load_tvm() is load_tvm()
