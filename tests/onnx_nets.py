"""Small ONNX models, and their compiled C run on this machine under sanitizers, every tensor in memory of its own."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from mlf.frontends.compiled import CompiledModel

    Array = npt.NDArray[Any]
    Arrays = Mapping[str, Array]

FLOAT, DOUBLE, INT8, INT32, INT64, BOOL = (
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL,
)  # fmt: skip
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
SANITIZED = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
_OPSET = 17
_HARNESS = """#include <stdint.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline void* taken(size_t size) {
  char* memory = malloc(size);
  if (fread(memory, 1, size, stdin) != size) { exit(3); }
  return memory;
}
static inline void* empty(size_t size) { return memset(malloc(size), 0xa5, size); }
static inline void give(const void* memory, size_t size) { fwrite(memory, 1, size, stdout); }
"""


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    """Make a node; names of tensors are words, and `-` stands for one that is left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(operator, names, outputs.split(), **attributes)


def value(name: str, shape: Sequence[int | str | None], dtype: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def onnx_model(
    nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], *, opset: Any = _OPSET, **weights: Any
) -> Any:
    """Make a model; its weights are initializers."""
    values = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def save(path: Path, model: Any) -> Path:
    onnx.save(model, path)
    return path


def expected(path: Path, arrays: Arrays) -> list[Array]:
    """Give what onnxruntime computes, each operator as the standard defines it."""
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [np.asarray(item) for item in session.run(None, dict(arrays))]


def run_models(
    models: Sequence[tuple[CompiledModel, Arrays]], folder: Path, *, flags: Sequence[str] = SANITIZED
) -> list[list[Array]]:
    """Run the calls of compiled models, of different names, in one program; gives the outputs of each."""
    folder.mkdir(parents=True, exist_ok=True)
    calls, data, files = [], [], []
    for number, (model, arrays) in enumerate(models):
        files.append(f"operators_{number}.c")
        (folder / files[-1]).write_text(model.operators)
        calls.append(_calls(model, f"m{number}"))
        data.append(_content(model, arrays))
    prototypes = "".join(f"{_plain(text)}\n" for model, _ in models for text in model.prototypes.values())
    bodies = "".join(f"  {line}\n" for lines in calls for line in lines)
    (folder / "harness.c").write_text(f"{_HARNESS}{prototypes}int main(void) {{\n{bodies}  return 0;\n}}\n")
    command = ["gcc", *STRICT, *flags, *files, "harness.c", "-o", "program", "-lm"]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    done = subprocess.run([str(folder / "program")], input=b"".join(data), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return _split(done.stdout, [model for model, _ in models])


def _plain(prototype: str) -> str:
    """Let the harness pass any pointer."""
    return re.sub(r"\brestrict ", "", prototype)


def _calls(model: CompiledModel, prefix: str) -> list[str]:
    """List the statements: memory of exactly the size of each value, calls, and outputs written."""
    program = model.program
    lines = []
    for place, item in enumerate(program.values):
        if item.alias_of is None:
            source = "empty" if item.kind == "temporary" else "taken"
            lines.append(f"void* {prefix}_{place} = {source}({item.size_bytes});")
    for call in program.calls:
        places = ", ".join(f"{prefix}_{program.root(place)}" for place in call.arguments)
        lines.append(f"{call.function}({places});")
    for place in program.outputs:
        lines.append(f"give({prefix}_{program.root(place)}, {program.values[place].size_bytes});")
    lines += [f"free({prefix}_{place});" for place, item in enumerate(program.values) if item.alias_of is None]
    return lines


def _content(model: CompiledModel, arrays: Arrays) -> bytes:
    program = model.program
    given = {
        place: np.ascontiguousarray(arrays[tensor.name]).tobytes()
        for place, tensor in zip(program.inputs, model.inputs, strict=True)
    }
    kept = [
        (place, item) for place, item in enumerate(program.values) if item.alias_of is None and item.kind != "temporary"
    ]
    return b"".join(given.get(place, item.content) for place, item in kept)


def _split(data: bytes, models: Sequence[CompiledModel]) -> list[list[Array]]:
    results, at = [], 0
    for model in models:
        arrays = []
        for tensor in model.outputs:
            size_bytes = tensor.size_bytes or 0
            flat = np.frombuffer(data[at : at + size_bytes], tensor.dtype)
            arrays.append(flat.reshape(tensor.shape or ()))
            at += size_bytes
        results.append(arrays)
    assert at == len(data)
    return results


def assert_close(got: Sequence[Array], right: Sequence[Array], *, relative: float = 1e-5) -> None:
    """Compare floats relative to the largest magnitude of the output, all else exactly."""
    assert len(got) == len(right)
    for left, item in zip(got, right, strict=True):
        assert (left.dtype, left.shape) == (item.dtype, item.shape)
        if item.dtype.kind == "f":
            finite = np.abs(item[np.isfinite(item)])
            np.testing.assert_allclose(left, item, rtol=0, atol=relative * float(finite.max(initial=0)))
        else:
            np.testing.assert_array_equal(left, item)
