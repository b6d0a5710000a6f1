"""The C of a compiled model: weights keep their bits, names are C's, and what no operator writes is copied."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

import mlf
from mlf.exporter import _export_compiled
from mlf.frontends.compiled import CompiledModel
from mlf.metadata import Quantization, Tensor
from mlf.modelcode import _rows, model_code
from mlf.naming import sanitize_tensor_name
from mlf.program import Call, Program, Value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    Array = npt.NDArray[Any]

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2")
ADD = """#include <stdint.h>

void {name}(const float* restrict a, const float* restrict b, float* restrict c) {{
  for (int32_t i = 0; i < 4; ++i) {{
    c[i] = a[i] + b[i];
  }}
}}
"""
PROTOTYPE = "void {name}(const float* restrict a, const float* restrict b, float* restrict c);"
X = np.array([1, 2, 3, 4], np.float32)
W = np.array([0.5, -1, 8, 0], np.float32)
EXTREMES: Mapping[str, Sequence[Any]] = {
    "float32": [0.0, -0.0, 1e-45, -1e-45, 1.17549421e-38, 1.17549435e-38, 3.40282347e38, np.inf, -np.inf, np.nan, 1 / 3, 16777217, 1e10],
    "float64": [0.0, -0.0, 5e-324, -5e-324, 2.2250738585072009e-308, 1.7976931348623157e308, np.inf, -np.inf, np.nan, 1 / 3],
    "int8": [-128, -1, 0, 127], "uint8": [0, 255], "int16": [-32768, 32767], "uint16": [0, 65535],
    "int32": [-(2**31), -(2**31) + 1, -1, 2**31 - 1], "uint32": [0, 2**31 - 1, 2**31, 2**32 - 1],
    "int64": [-(2**63), -(2**63) + 1, -(2**31) - 1, -(2**31), -1, 2**31 - 1, 2**31, 2**63 - 1],
    "uint64": [0, 2**31, 2**63, 2**64 - 1], "bool": [False, True, True],
}  # fmt: skip


def tensor(name: str, shape: tuple[int, ...] = (4,), dtype: str = "float32") -> Tensor:
    size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return Tensor(name=name, c_name=sanitize_tensor_name(name), dtype=dtype, shape=shape, size_bytes=size_bytes)


def parameter(array: Array, name: str = "w") -> Value:
    array = np.asarray(array)
    content = array.tobytes()
    return Value(
        name=name, dtype=str(array.dtype), shape=array.shape, size_bytes=len(content), kind="parameter", content=content
    )


def plain(kind: Any, name: str = "t", **facts: Any) -> Value:
    return Value(name=name, dtype="float32", shape=(4,), size_bytes=16, kind=kind, **facts)


def compiled(
    values: Sequence[Value],
    calls: Sequence[tuple[int, int, int]],
    inputs: Mapping[str, int],
    outputs: Sequence[tuple[str, int]],
    **types: Any,
) -> CompiledModel:
    """Make a model of sums; a call gives the places of two terms and of the sum."""
    name = "tvmgen_net_add"
    program = Program(
        where="net", values=tuple(values), inputs=tuple(inputs.values()), outputs=tuple(place for _, place in outputs),
        calls=tuple(Call(function=name, convention="unpacked", arguments=item, written=item[2:], has_status=False) for item in calls),
    )  # fmt: skip
    made = tuple(tensor(item, values[place].shape, values[place].dtype) for item, place in outputs)
    return CompiledModel(
        inputs=tuple(tensor(item, values[place].shape, values[place].dtype) for item, place in inputs.items()), outputs=made,
        program=program, operators=ADD.format(name=name) if calls else "", prototypes={name: PROTOTYPE.format(name=name)} if calls else {},
        generator="nothing", **types,
    )  # fmt: skip


def sum_model(inputs: str = "x", output: str = "y") -> CompiledModel:
    return compiled([plain("input"), parameter(W), plain("temporary")], [(0, 1, 2)], {inputs: 0}, [(output, 2)])


def run(model: CompiledModel, folder: Path, *arrays: Array, is_packed: bool = False) -> list[Array]:
    """Export a model and run it, all of it compiled as strictly as can be."""
    archive = folder / "net.tar"
    _export_compiled(model, "net", "net", None, output=archive, golden=(), is_packed=is_packed, epoch_s=0)
    given_ = dict(zip((item.name for item in model.inputs), arrays, strict=True))
    return list(mlf.run(archive, given_, cflags=STRICT).outputs.values())


def both(model: CompiledModel, folder: Path, *arrays: Array) -> list[Array]:
    """Run a model unpacked and packed, which must give the same."""
    results = [run(model, folder, *arrays, is_packed=is_packed) for is_packed in (False, True)]
    for first, second in zip(*results, strict=True):
        np.testing.assert_array_equal(first, second)
    return results[0]


# Weights.


def test_constants_of_all_types_keep_their_bits(tmp_path: Path) -> None:
    arrays = {dtype: np.array(items, dtype) for dtype, items in EXTREMES.items()}
    values = [plain("input"), *(parameter(array, dtype) for dtype, array in arrays.items())]
    outputs = [(dtype, place) for place, dtype in enumerate(arrays, 1)]
    got = run(compiled(values, [], {"x": 0}, outputs), tmp_path, X)
    for array, result in zip(arrays.values(), got, strict=True):
        assert result.dtype == array.dtype
        np.testing.assert_array_equal(result, array)
        np.testing.assert_array_equal(np.signbit(result), np.signbit(array)) if array.dtype.kind == "f" else None


@settings(max_examples=60, deadline=None)
@given(arrays_of.arrays(np.uint32, st.integers(1, 40)).map(lambda bits: bits.view(np.float32)))
def test_any_float_is_written_with_all_its_bits(array: Array) -> None:
    texts = _rows("float32", array.tobytes()).replace("\n", "").split(",")
    words = {"NAN": np.nan, "INFINITY": np.inf, "-INFINITY": -np.inf}
    back = [words.get(text.strip()) for text in texts]
    read = [
        float.fromhex(text.strip().removesuffix("f")) if item is None else item
        for item, text in zip(back, texts, strict=True)
    ]
    np.testing.assert_array_equal(np.array(read, np.float32), array)
    finite = np.isfinite(array)
    assert np.array(read, np.float32)[finite].tobytes() == array[finite].tobytes()


def test_a_constant_without_elements_is_one_zero() -> None:
    assert _rows("float32", b"") == "  0"


def test_equal_constants_are_one_array_unless_their_types_differ() -> None:
    zero = np.zeros(4, np.float32)
    values = [
        plain("input"),
        parameter(zero),
        parameter(zero.reshape(2, 2)),
        parameter(zero.view(np.int32)),
        plain("temporary"),
        plain("temporary"),
    ]
    outputs = [("y", 4), ("z", 5), ("k", 3)]
    code = model_code(compiled(values, [(0, 1, 4), (0, 2, 5)], {"x": 0}, outputs), name="net")
    assert re.findall(r"static const (\w+) (\w+)\[4\]", code.main) == [
        ("float", "tvmgen_net_constant_0"), ("int32_t", "tvmgen_net_constant_1"),
    ]  # fmt: skip


# What goes in and out.


def test_sums_through_the_arena(tmp_path: Path) -> None:
    values = [plain("input"), parameter(W), plain("temporary"), plain("temporary"), plain("temporary")]
    model = compiled(values, [(0, 1, 2), (2, 0, 3), (3, 2, 4)], {"x": 0}, [("y", 4)])
    np.testing.assert_array_equal(both(model, tmp_path, X)[0], (X + W + X) + (X + W))
    code = model_code(model, name="net")
    assert code.pool is not None
    assert (code.pool.size_bytes, code.pool.alignment_bytes, code.lower_bound_bytes) == (32, 16, 32)


def test_an_input_that_nothing_reads(tmp_path: Path) -> None:
    values = [plain("input"), plain("input"), parameter(W), plain("temporary")]
    model = compiled(values, [(1, 2, 3)], {"unread": 0, "x": 1}, [("y", 3)])
    np.testing.assert_array_equal(both(model, tmp_path, X * 9, X)[0], X + W)


def test_outputs_that_are_inputs_constants_or_the_same(tmp_path: Path) -> None:
    values = [plain("input"), parameter(W), plain("temporary"), plain("input", alias_of=0)]
    outputs = [("in", 0), ("out", 2), ("again", 2), ("weights", 1), ("shaped", 3)]
    got = both(compiled(values, [(0, 1, 2)], {"x": 0}, outputs), tmp_path, X)
    for array, right in zip(got, [X, X + W, X + W, W, X], strict=True):
        np.testing.assert_array_equal(array, right)


def test_an_output_that_is_also_read(tmp_path: Path) -> None:
    values = [plain("input"), parameter(W), plain("temporary"), plain("temporary")]
    got = both(compiled(values, [(0, 1, 2), (2, 2, 3)], {"x": 0}, [("first", 2), ("second", 3)]), tmp_path, X)
    np.testing.assert_array_equal(got, [X + W, 2 * (X + W)])


def test_a_model_without_inputs_or_operators(tmp_path: Path) -> None:
    model = compiled([parameter(W)], [], {}, [("w", 0)])
    np.testing.assert_array_equal(run(model, tmp_path)[0], W)
    assert model_code(model, name="net").pool is None


def test_a_result_of_an_alias_is_the_memory_itself(tmp_path: Path) -> None:
    values = [plain("input"), parameter(W), plain("temporary"), plain("temporary", alias_of=2)]
    model = compiled(values, [(0, 1, 2)], {"x": 0}, [("y", 3)])
    assert "memcpy" not in model_code(model, name="net").main
    np.testing.assert_array_equal(both(model, tmp_path, X)[0], X + W)


# Names.

NAMES = (
    "0", "int", "x:0", "x_0", "", "ä", "main", "memcpy", "NULL", "NAN", "INFINITY", "INT32_MIN", "inputs", "outputs", "arguments", "args",
    "global_workspace", "global_workspace_0_var", "tvmgen_net_add", "tvmgen_net_constant_0", "tvmgen_net_run", "int8_t", "bool", "true",
    "float", "double", "half", "type_codes", "num_args", "restrict", "inline", "class", "this", "DLTensor", "TVMValue", "set_argument", "linux",
    "workspace", "serving_default_x:0", "StatefulPartitionedCall:0", "a/b", "a.b", "a b", "a*/b", 'a"b', "unix",
)  # fmt: skip


@pytest.mark.parametrize("is_packed", [False, True])
def test_any_name_of_a_tensor_gives_c(tmp_path: Path, *, is_packed: bool) -> None:
    values = [plain("input") for _ in NAMES] + [
        parameter(W),
        plain("temporary"),
        parameter(np.array([np.inf, 1, 2, 3], np.float32)),
    ]
    inputs = {name: place for place, name in enumerate(NAMES)}
    count = len(NAMES)
    model = compiled(values, [(0, count, count + 1)], inputs, [("0", count + 1), ("copy", 5), ("weights", count + 2)])
    got = run(model, tmp_path, *(X + place for place in range(count)), is_packed=is_packed)
    np.testing.assert_array_equal(got, [X + W, X + 5, [np.inf, 1, 2, 3]])


@pytest.mark.parametrize("name", ["0", "int", "x:0", "memcpy", "NULL", "linux"])
def test_an_input_and_an_output_of_one_name(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "net.tar"
    _export_compiled(sum_model(name, name), "net", "net", None, output=archive, golden=(), is_packed=False, epoch_s=0)
    module = mlf.inspect(archive).modules[0]
    assert [item.name for item in (*module.inputs, *module.outputs)] == [name, name]
    assert len({item.c_name for item in (*module.inputs, *module.outputs)}) == 2
    np.testing.assert_array_equal(mlf.run(archive, {name: X}, cflags=STRICT).outputs[name], X + W)


# Packed operators.


def test_packed_operators_stand_in_front_of_plain_ones() -> None:
    code = model_code(sum_model(), name="net", is_packed=True)
    assert re.findall(r"^static void (\w+)\(", code.operators, re.MULTILINE) == ["tvmgen_net_add_plain"]
    assert re.findall(r"^int32_t (\w+)\(", code.operators, re.MULTILINE) == ["tvmgen_net_add"]
    assert "if (num_args != 3) {" in code.operators


@pytest.mark.parametrize("is_packed", [False, True])
def test_the_code_is_strict_c99(tmp_path: Path, *, is_packed: bool) -> None:
    import mlf.codegen as codegen  # noqa: PLC0415, PLR0402

    code = model_code(sum_model(), name="net", is_packed=is_packed)
    (tmp_path / "operators.c").write_text(code.operators)
    include = codegen.TEMPLATES.parent / "runtime" / "include"
    command = ["gcc", *STRICT, "-I", str(include), "-c", "operators.c"]
    if not is_packed:
        subprocess.run(command, cwd=tmp_path, check=True)
    assert code.operators.startswith("/* Operators of model `net`: generated by nothing and mlf, do not edit. */\n")


# The header.


def test_quantization_is_in_the_header_for_c_and_cpp(tmp_path: Path) -> None:
    model = sum_model("x:0", "scores")
    model = replace(
        model, inputs=(replace(model.inputs[0], quantization=Quantization(scale=0.1, zero_point=-128)),),
        outputs=(replace(model.outputs[0], quantization=Quantization(scale=1 / 3, zero_point=7)),),
    )  # fmt: skip
    archive = tmp_path / "net.tar"
    _export_compiled(model, "net", "net", None, output=archive, golden=(), is_packed=False, epoch_s=0)
    mlf.link([str(archive)], output=tmp_path / "libmodels.a")
    text = """#include <stdio.h>
#include "tvmgen_net.h"
static int is_near(double number, double other) { return number - other < 1e-9 && other - number < 1e-9; }
int main(void) {
  return !(is_near(TVMGEN_NET_X_0_SCALE, 0.10000000149011612) && TVMGEN_NET_X_0_ZERO_POINT - 1 == -129
    && is_near(TVMGEN_NET_SCORES_SCALE, 0.3333333432674408) && TVMGEN_NET_SCORES_ZERO_POINT == 7 && TVMGEN_NET_SCORES_SIZE == 16);
}
"""
    headers = next(tmp_path.rglob("tvmgen_net.h")).parent
    for compiler, suffix, standard in (("gcc", "c", "-std=c99"), ("g++", "cpp", "-std=c++11")):
        source = tmp_path / f"use.{suffix}"
        source.write_text(text)
        flags = [standard, "-Wall", "-Wextra", "-Werror", "-pedantic", "-I", str(headers)]
        subprocess.run([compiler, *flags, str(source), "-o", str(tmp_path / "use")], check=True)
        assert subprocess.run([str(tmp_path / "use")], check=False).returncode == 0
