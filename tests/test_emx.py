"""ONNX models through emx, compiled with the host's C compiler and compared with onnxruntime."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlf.errors import InputError, UnsupportedError
from mlf.frontends.emx import compile_onnx
from mlf.program import lay_out

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlf.frontends.compiled import CompiledModel

FLOAT, INT64, UINT8, INT8, BOOL = (
    TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8, TensorProto.INT8, TensorProto.BOOL,
)  # fmt: skip
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2")
OPSETS = {"": 17, "com.microsoft": 1, "my.own": 1, "ai.onnx.preview.training": 1}


def run(argv: Sequence[str | Path], *, cwd: Path | None = None, **environment: str) -> str:
    """Run a program that must succeed; give what it printed."""
    words = [str(word) for word in argv]
    return subprocess.run(
        words, cwd=cwd, env={**os.environ, **environment}, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def tensor(name: str, shape: Sequence[int | str], dtype: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def numbers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def save(
    path: Path, nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], *, opset: int = 17, **weights: Any
) -> Path:
    """Write a model of these nodes; its weights are initialisers."""
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), constants)
    opsets = [helper.make_opsetid(domain, version) for domain, version in {**OPSETS, "": opset}.items()]
    file = path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), file)
    return file


def compiled(file: Path) -> CompiledModel:
    return compile_onnx(file, name="net", where="net.onnx")


def execute(model: CompiledModel, directory: Path, arrays: Sequence[Any]) -> list[Any]:
    """Run a compiled model: its operators as a shared library, all values in memory of their own."""
    source, library = directory / "ops.c", directory / f"ops{len(list(directory.glob('*.so')))}.so"
    source.write_text(model.operators or "typedef int nothing;\n")
    run(["gcc", *STRICT, "-shared", "-fPIC", source, "-o", library, "-lm"])
    functions = ctypes.CDLL(str(library))
    program = model.program
    memory = [ctypes.create_string_buffer(value.content, max(value.size_bytes, 1)) for value in program.values]
    for place, array, type_ in zip(program.inputs, arrays, model.inputs, strict=True):
        data = np.asarray(array, type_.dtype).tobytes()
        assert len(data) == program.values[place].size_bytes == type_.size_bytes
        memory[place].raw = data or b"\0"
    for call in program.calls:
        assert not call.has_status
        functions[call.function](*(memory[program.root(place)] for place in call.arguments))
    given = [
        (memory[program.root(place)].raw, type_) for place, type_ in zip(program.outputs, model.outputs, strict=True)
    ]
    return [np.frombuffer(raw[: type_.size_bytes], type_.dtype).reshape(type_.shape) for raw, type_ in given]


def assert_as_onnxruntime(file: Path, *arrays: Any, units: int = 0) -> CompiledModel:
    """Compare all outputs: floats within 1e-5 of the largest, integers within `units`."""
    model = compiled(file)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    expected = session.run(None, dict(zip(names, arrays, strict=True)))
    for got, right in zip(execute(model, file.parent, arrays), expected, strict=True):
        assert (got.dtype, got.shape) == (right.dtype, right.shape)
        if right.dtype.kind == "f":
            np.testing.assert_allclose(got, right, rtol=0, atol=1e-5 * max(1.0, float(np.abs(right).max(initial=0))))
        else:
            assert np.abs(got.astype(np.int64) - right.astype(np.int64)).max(initial=0) <= units
    return model


def test_convolution_with_its_weights_as_parameters(tmp_path: Path) -> None:
    weights = numbers(4, 3, 3, 3, seed=1)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"], name="second"),
    ]
    file = save(tmp_path, nodes, [tensor("x", [1, 3, 8, 8])], [tensor("y", [1, 4, 8, 8])], w=weights, b=numbers(4))
    model = assert_as_onnxruntime(file, numbers(1, 3, 8, 8, seed=2))
    assert [call.function for call in model.program.calls] == ["tvmgen_net_node0_first", "tvmgen_net_node1_second"]
    assert weights.tobytes() in [value.content for value in model.program.values if value.kind == "parameter"]
    assert model.generator == "emx-onnx-cgen 1.4.0"


def test_every_prototype_is_the_declaration_of_a_global_function(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "x"], ["a"]), helper.make_node("Sigmoid", ["a"], ["y"])]
    model = compiled(save(tmp_path, nodes, [tensor("x", [2, 3])], [tensor("y", [2, 3])]))
    source, made = tmp_path / "ops.c", tmp_path / "ops.o"
    source.write_text("".join(f"#include <stdint.h>\n{text}\n" for text in model.prototypes.values()) + model.operators)
    run(["gcc", *STRICT, "-c", source, "-o", made])
    defined = re.findall(r"^\S+ [A-Z] (\w+)$", run(["nm", "--defined-only", made]), re.MULTILINE)
    assert sorted(defined) == sorted(model.prototypes) == ["tvmgen_net_node0_a", "tvmgen_net_node1_y"]
    assert model.prototypes["tvmgen_net_node1_y"] == (
        "void tvmgen_net_node1_y(const float input0[restrict 2][3], float output[restrict 2][3]);"
    )


@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
def test_recurrent_layer_in_both_directions_keeps_its_state_in_the_arena(tmp_path: Path, operator: str) -> None:
    gates, hidden, steps, width = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator], 96, 5, 6
    node = helper.make_node(
        operator, ["x", "w", "r", "b"], ["y", "last"], hidden_size=hidden, direction="bidirectional"
    )
    file = save(
        tmp_path, [node], [tensor("x", [steps, 1, width])], [tensor("y", [steps, 2, 1, hidden]), tensor("last", [2, 1, hidden])],
        w=numbers(2, gates * hidden, width), r=numbers(2, gates * hidden, hidden, seed=3) * 0.1, b=numbers(2, 2 * gates * hidden),
    )  # fmt: skip
    model = assert_as_onnxruntime(file, numbers(steps, 1, width, seed=4))
    scratch = {value.name.rpartition("_y_")[2] for value in model.program.values}
    assert {"0_H_prev", "0_H_next", "1_H_prev", "1_H_next"} <= scratch
    assert not re.search(rf"^ +float \w+(?:\[\d+\])*\[{hidden}\];", model.operators, re.MULTILINE)


@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_recurrent_layer_in_one_direction(tmp_path: Path, operator: str, direction: str) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator]
    node = helper.make_node(operator, ["x", "w", "r", "", "", "h"], ["y", "last"], hidden_size=3, direction=direction)
    file = save(
        tmp_path, [node], [tensor("x", [4, 2, 5])], [tensor("last", [1, 2, 3]), tensor("y", [4, 1, 2, 3])],
        w=numbers(1, gates * 3, 5), r=numbers(1, gates * 3, 3), h=numbers(1, 2, 3, seed=8),
    )  # fmt: skip
    assert_as_onnxruntime(file, numbers(4, 2, 5, seed=4))


def test_large_scratch_of_an_operator_is_written_by_its_call_alone(tmp_path: Path) -> None:
    node = helper.make_node("LSTM", ["x", "w", "r"], ["", "y"], hidden_size=128)
    file = save(
        tmp_path, [node], [tensor("x", [1, 1, 2])], [tensor("y", [1, 1, 128])], w=numbers(1, 512, 2), r=numbers(1, 512, 128)
    )  # fmt: skip
    (call,) = compiled(file).program.calls
    values = compiled(file).program.values
    added = [place for place in call.written if values[place].name != "y"]
    assert [values[place].size_bytes for place in added] == [512] * 4
    assert call.arguments[-4:] == tuple(added)


def test_quantized_convolution_gives_the_same_integers(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).integers(-100, 100, (2, 1, 3, 3)).astype(np.int8)
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    file = save(
        tmp_path, [helper.make_node("QLinearConv", names, ["y"])], [tensor("x", [1, 1, 6, 6], UINT8)],
        [tensor("y", [1, 2, 4, 4], UINT8)], xs=np.float32(0.02), xz=np.uint8(128), w=weights, ws=np.float32(0.01),
        wz=np.int8(0), ys=np.float32(0.05), yz=np.uint8(120),
    )  # fmt: skip
    pixels = np.random.default_rng(1).integers(0, 256, (1, 1, 6, 6)).astype(np.uint8)
    assert_as_onnxruntime(file, pixels, units=1)


def test_shapes_behind_operators_of_microsoft_are_inferred(tmp_path: Path) -> None:
    scales: dict[str, Any] = {"s": np.float32(0.1), "z": np.uint8(100)}
    pool = helper.make_node(
        "QLinearAveragePool", ["x", "s", "z", "s", "z"], ["p"], domain="com.microsoft", kernel_shape=[2, 2], strides=[2, 2]
    )  # fmt: skip
    add = helper.make_node("QLinearAdd", ["p", "s", "z", "p", "s", "z", "s", "z"], ["a"], domain="com.microsoft")
    flatten = helper.make_node("Flatten", ["a"], ["f"])
    dequantize = helper.make_node("DequantizeLinear", ["f", "s", "z"], ["y"])
    file = save(
        tmp_path, [pool, add, flatten, dequantize], [tensor("x", [1, 2, 4, 4], UINT8)], [tensor("y", [1, 8])], **scales
    )
    pixels = np.random.default_rng(1).integers(60, 140, (1, 2, 4, 4)).astype(np.uint8)
    model = compiled(file)
    assert [call.function for call in model.program.calls] == [
        "tvmgen_net_node0_p", "tvmgen_net_node1_a", "tvmgen_net_node3_y",
    ]  # fmt: skip
    right = onnxruntime.InferenceSession(str(file)).run(None, {"x": pixels})[0]
    np.testing.assert_allclose(
        execute(model, tmp_path, [pixels])[0], right, rtol=0, atol=0.2001
    )  # one unit of the pool, added to itself


def test_reshapes_are_aliases_and_no_calls(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Reshape", ["a", "shape"], ["b"]),
        helper.make_node("Unsqueeze", ["b", "axes"], ["c"]),
        helper.make_node("Identity", ["c"], ["d"]),
        helper.make_node("Neg", ["d"], ["y"]),
    ]
    file = save(
        tmp_path, nodes, [tensor("x", [2, 6])], [tensor("y", [1, 3, 4])], shape=np.array([3, -1]), axes=np.array([0])
    )
    model = assert_as_onnxruntime(file, numbers(2, 6))
    assert [call.function for call in model.program.calls] == ["tvmgen_net_node0_a", "tvmgen_net_node4_y"]
    (root,) = {value.alias_of for value in model.program.values if value.alias_of is not None}
    assert model.program.calls[0].written == (root,)
    assert lay_out(model.program).arena_bytes == 48


def test_output_that_is_a_reshaped_input(tmp_path: Path) -> None:
    nodes = [helper.make_node("Flatten", ["x"], ["y"])]
    model = assert_as_onnxruntime(
        save(tmp_path, nodes, [tensor("x", [1, 2, 3])], [tensor("y", [1, 6])]), numbers(1, 2, 3)
    )
    assert not model.program.calls
    assert model.operators == ""


def test_outputs_that_are_inputs_and_constants(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["y"])]
    outputs = [tensor("x", [3]), tensor("w", [2]), tensor("y", [3])]
    model = assert_as_onnxruntime(save(tmp_path, nodes, [tensor("x", [3])], outputs, w=numbers(2)), numbers(3, seed=5))
    assert [item.name for item in model.outputs] == ["x", "w", "y"]
    assert [model.program.values[place].kind for place in model.program.outputs] == ["input", "parameter", "temporary"]


def test_model_without_any_operator(tmp_path: Path) -> None:
    file = save(tmp_path, [], [tensor("x", [2])], [tensor("x", [2])])
    model = compiled(file)
    np.testing.assert_array_equal(execute(model, tmp_path, [numbers(2)])[0], numbers(2))


def test_several_outputs_of_one_operator(tmp_path: Path) -> None:
    node = helper.make_node("Split", ["x", "parts"], ["a", "b"], axis=1)
    file = save(
        tmp_path, [node], [tensor("x", [2, 5])], [tensor("b", [2, 3]), tensor("a", [2, 2])], parts=np.array([2, 3])
    )
    assert_as_onnxruntime(file, numbers(2, 5))


def test_scalars_have_no_dimensions(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["x", "k"], ["m"]), helper.make_node("ReduceSum", ["m"], ["y"], keepdims=0)]
    file = save(tmp_path, nodes, [tensor("x", [4]), tensor("k", [])], [tensor("y", [])])
    model = assert_as_onnxruntime(file, numbers(4), np.array(2.5, np.float32))
    assert [(item.shape, item.size_bytes) for item in (*model.inputs, *model.outputs)] == [((4,), 16), ((), 4), ((), 4)]


@pytest.mark.parametrize(
    ("dtype", "values"),
    [("float64", [1.5, -2.25]), ("int64", [-(2**40), 2**40]), ("int32", [-5, 7]), ("uint8", [3, 200])],
)  # fmt: skip
def test_numbers_of_other_types(tmp_path: Path, dtype: str, values: list[float]) -> None:
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [helper.make_node("Where", ["c", "x", "w"], ["y"])]
    file = save(
        tmp_path, nodes, [tensor("c", [2], BOOL), tensor("x", [2], code)], [tensor("y", [2], code)], w=np.array([1, 2], dtype)
    )  # fmt: skip
    assert_as_onnxruntime(file, np.array([True, False]), np.array(values, dtype))


def test_truth_values_go_in_and_out(tmp_path: Path) -> None:
    nodes = [helper.make_node("And", ["a", "w"], ["b"]), helper.make_node("Not", ["b"], ["y"])]
    file = save(tmp_path, nodes, [tensor("a", [2], BOOL)], [tensor("y", [2], BOOL)], w=np.array([True, False]))
    assert_as_onnxruntime(file, np.array([True, True]))


@pytest.mark.parametrize("value", [-128, 0, 127])
def test_weight_of_one_byte(tmp_path: Path, value: int) -> None:
    nodes = [helper.make_node("DequantizeLinear", ["x", "s", "z"], ["y"])]
    file = save(tmp_path, nodes, [tensor("x", [2], INT8)], [tensor("y", [2])], s=np.float32(0.5), z=np.int8(value))
    assert_as_onnxruntime(file, np.array([-3, 100], np.int8))


def test_weights_keep_every_bit(tmp_path: Path) -> None:
    odd = np.array([0x00000001, 0x80000000, 0x7F7FFFFF, 0x3F800001, 0x7F800000], np.uint32).view(np.float32)
    file = save(tmp_path, [helper.make_node("Max", ["x", "w"], ["y"])], [tensor("x", [5])], [tensor("y", [5])], w=odd)
    assert [value.content for value in compiled(file).program.values if value.kind == "parameter"] == [odd.tobytes()]


def test_initialiser_that_is_also_an_input_is_a_constant(tmp_path: Path) -> None:
    file = save(tmp_path, [helper.make_node("Add", ["x", "w"], ["y"])], [tensor("x", [2]), tensor("w", [2])], [tensor("y", [2])], w=numbers(2))  # fmt: skip
    model = compiled(file)
    assert [item.name for item in model.inputs] == ["x"]
    np.testing.assert_allclose(execute(model, tmp_path, [numbers(2, seed=1)])[0], numbers(2) + numbers(2, seed=1))


def test_what_is_constant_is_computed_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "one"], ["n"], axis=0),
        helper.make_node("Concat", ["minus", "n"], ["to"], axis=0),
        helper.make_node("Transpose", ["x"], ["t"]),
        helper.make_node("Reshape", ["t", "to"], ["y"]),
    ]
    file = save(
        tmp_path, nodes, [tensor("x", [3, 2])], [tensor("y", ["a", "b"])], one=np.array([1]), minus=np.array([-1])
    )
    model = assert_as_onnxruntime(file, numbers(3, 2))
    assert [call.function for call in model.program.calls] == ["tvmgen_net_node0_t"]
    assert model.outputs[0].shape == (3, 2)


def test_open_batch_becomes_one_with_a_note(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Flatten", ["a"], ["y"])]
    model = compiled(save(tmp_path, nodes, [tensor("x", ["N", 2, 3])], [tensor("y", ["N", 6])]))
    assert model.notes == ("input `x`: its first dimension, `N`, is 1",)
    assert (model.inputs[0].shape, model.outputs[0].shape) == ((1, 2, 3), (1, 6))


def test_slices_may_go_backwards(tmp_path: Path) -> None:
    names = ["x", "starts", "ends", "axes", "steps"]
    file = save(
        tmp_path, [helper.make_node("Slice", names, ["y"])], [tensor("x", [4, 7])], [tensor("y", [2, 3])],
        starts=np.array([1, -1]), ends=np.array([3, -100]), axes=np.array([0, 1]), steps=np.array([1, -3]),
    )  # fmt: skip
    assert_as_onnxruntime(file, numbers(4, 7))


def test_parts_of_a_split_that_are_not_equal(tmp_path: Path) -> None:
    node = helper.make_node("Split", ["x"], ["a", "b"], axis=0, split=[1, 4])
    file = save(tmp_path, [node], [tensor("x", [5])], [tensor("a", [1]), tensor("b", [4])], opset=11)
    assert_as_onnxruntime(file, numbers(5))


def test_names_that_emx_uses_for_its_own_variables(tmp_path: Path) -> None:
    node = helper.make_node("GridSample", ["i0", "i1"], ["acc"])
    file = save(
        tmp_path, [node], [tensor("i0", [1, 1, 3, 4]), tensor("i1", [1, 2, 2, 2])], [tensor("acc", [1, 1, 2, 2])]
    )
    grid = np.random.default_rng(5).uniform(-1, 1, (1, 2, 2, 2)).astype(np.float32)
    model = assert_as_onnxruntime(file, numbers(1, 1, 3, 4), grid)
    assert [item.name for item in (*model.inputs, *model.outputs)] == ["i0", "i1", "acc"]


def test_names_that_are_no_c_and_collide(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Neg", ["a.b"], ["a/b"], name="x y/é"),
        helper.make_node("Abs", ["a/b"], ["int"], name="for"),
    ]
    model = assert_as_onnxruntime(save(tmp_path, nodes, [tensor("a.b", [2])], [tensor("int", [2])]), numbers(2))
    assert [(item.name, item.c_name) for item in (*model.inputs, *model.outputs)] == [("a.b", "a_b"), ("int", "int")]


def test_dropout_that_drops_nothing_is_no_call(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Dropout", ["a"], ["y"])]
    model = assert_as_onnxruntime(save(tmp_path, nodes, [tensor("x", [3])], [tensor("y", [3])]), numbers(3))
    assert [call.function for call in model.program.calls] == ["tvmgen_net_node0_a"]


def test_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    node = helper.make_node("GRU", ["x", "w", "r"], ["", "h"], hidden_size=80)
    nodes = [node, helper.make_node("Softmax", ["h"], ["s"]), helper.make_node("Pow", ["s", "s"], ["y"])]
    file = save(
        tmp_path, nodes, [tensor("x", [1, 1, 2])], [tensor("y", [1, 1, 80])], w=numbers(1, 240, 2), r=numbers(1, 240, 80)
    )  # fmt: skip
    program = (
        "import sys, pathlib; from mlf.frontends.emx import compile_onnx\n"
        "print(compile_onnx(pathlib.Path(sys.argv[1]), name='net', where='net.onnx'))"
    )
    texts = {run([sys.executable, "-c", program, file], PYTHONHASHSEED=seed) for seed in ("1", "2")}
    assert len(texts) == 1
    assert "20" + "26" not in texts.pop()  # the year


def test_no_file_is_left_behind(tmp_path: Path) -> None:
    file = save(tmp_path, [helper.make_node("Neg", ["x"], ["y"])], [tensor("x", [2])], [tensor("y", [2])])
    program = "import sys, pathlib; from mlf.frontends.emx import compile_onnx\ncompile_onnx(pathlib.Path('net.onnx'), name='net', where='')"
    before = sorted(path.name for path in tmp_path.iterdir())
    run([sys.executable, "-c", program], cwd=tmp_path, PYTHONDONTWRITEBYTECODE="1")
    assert sorted(path.name for path in tmp_path.iterdir()) == before == [file.name]


def refusal(file: Path) -> str:
    with pytest.raises(UnsupportedError) as caught:
        compiled(file)
    return str(caught.value)


def test_refuses_other_open_dimensions(tmp_path: Path) -> None:
    file = save(
        tmp_path, [helper.make_node("Neg", ["x"], ["y"])], [tensor("x", [1, "length"])], [tensor("y", [1, "length"])]
    )
    assert refusal(file) == "net.onnx: input `x` has the open dimension `length` at 1"


def test_refuses_float16_and_names_who_uses_it(tmp_path: Path) -> None:
    half = TensorProto.FLOAT16
    file = save(
        tmp_path, [helper.make_node("Neg", ["x"], ["y"], name="n")], [tensor("x", [2], half)], [tensor("y", [2], half)]
    )
    assert refusal(file) == "net.onnx: the tensor `x` is float16, which C99 does not have; see node `n` (`Neg`)"


def test_refuses_float16_inside(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), helper.make_node("Cast", ["h"], ["y"], to=FLOAT),
    ]  # fmt: skip
    file = save(tmp_path, nodes, [tensor("x", [2])], [tensor("y", [2])])
    assert refusal(file) == "net.onnx: the tensor `h` is float16, which C99 does not have; see node `h` (`Cast`)"


def test_refuses_sequences(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("SplitToSequence", ["x"], ["s"], name="cut"),
        helper.make_node("ConcatFromSequence", ["s"], ["y"], axis=0),
    ]
    file = save(tmp_path, nodes, [tensor("x", [2, 2])], [tensor("y", [2, 2])])
    assert refusal(file) == "net.onnx: node `cut` (`SplitToSequence`) works on values that are no tensors of numbers"


def test_refuses_strings(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["s"], to=TensorProto.STRING, name="print"),
        helper.make_node("Cast", ["s"], ["y"], to=FLOAT, name="scan"),
    ]
    file = save(tmp_path, nodes, [tensor("x", [1])], [tensor("y", [1])])
    assert (
        refusal(file) == "net.onnx: the tensor `s` is of the type string, expected numbers; see node `print` (`Cast`)"
    )


def test_refuses_chance(tmp_path: Path) -> None:
    file = save(tmp_path, [helper.make_node("RandomUniformLike", ["x"], ["y"], name="dice")], [tensor("x", [2])], [tensor("y", [2])])  # fmt: skip
    assert refusal(file) == "net.onnx: node `dice` (`RandomUniformLike`) is random: no two runs agree"


def test_refuses_tensors_without_elements(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], name="sum", keepdims=0)]
    file = save(tmp_path, nodes, [tensor("x", [2, 0])], [tensor("y", [])])
    assert refusal(file) == "net.onnx: the tensor `x` has no elements; see node `sum` (`ReduceSum`)"


def test_refuses_dropout_that_may_drop(tmp_path: Path) -> None:
    nodes = [helper.make_node("Dropout", ["x", "", "train"], ["y"], name="drop")]
    file = save(tmp_path, nodes, [tensor("x", [2]), tensor("train", [], BOOL)], [tensor("y", [2])])
    assert refusal(file) == "net.onnx: node `drop` (`Dropout`) is random: no two runs agree"


def test_refuses_results_whose_number_depends_on_data_even_if_the_model_says_it(tmp_path: Path) -> None:
    file = save(tmp_path, [helper.make_node("NonZero", ["x"], ["y"], name="find")], [tensor("x", [4])], [tensor("y", [1, 2], INT64)])  # fmt: skip
    assert refusal(file) == (
        "net.onnx: node `find` (`NonZero`) gives as many results as the data has, expected a fixed number"
    )


def test_refuses_what_emx_does_not_know_with_the_node(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["a"]),
        helper.make_node("Frobnicate", ["a"], ["y"], name="odd", domain="my.own"),
    ]
    file = save(tmp_path, nodes, [tensor("x", [2])], [tensor("y", [2])])
    assert refusal(file) == "net.onnx: emx cannot compile node `odd` (`Frobnicate`): it has no such operator"


def test_refuses_with_the_reason_of_emx(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="dense")]
    file = save(tmp_path, nodes, [tensor("x", [1, 3])], [tensor("y", [1, 2])], w=numbers(4, 2))
    assert refusal(file) == (
        "net.onnx: emx cannot compile node `dense` (`MatMul`): MatMul inner dimensions must match, got (1, 3) and (4, 2)"
    )


def test_refuses_what_emx_does_wrong(tmp_path: Path) -> None:
    types = (TensorProto.INT32, TensorProto.INT32)
    node = helper.make_node("BitShift", ["x", "by"], ["y"], name="shift", direction="LEFT")
    inputs = [tensor("x", [2], types[0]), tensor("by", [2], types[1])]
    file = save(tmp_path, [node], inputs, [tensor("y", [2], types[0])], opset=11)
    assert refusal(file) == (
        "net.onnx: emx compiles node `shift` (`BitShift`) wrongly: C does not define shifts of signed numbers"
    )


def test_refuses_hardmax_of_old_operator_sets(tmp_path: Path) -> None:
    node = helper.make_node("Hardmax", ["x"], ["y"], name="pick", axis=1)
    file = save(tmp_path, [node], [tensor("x", [2, 3, 4])], [tensor("y", [2, 3, 4])], opset=11)
    assert refusal(file) == (
        "net.onnx: emx compiles node `pick` (`Hardmax`) wrongly: "
        "before operator set 13 it looks at all axes from its own on"
    )


def test_broadcast_along_the_last_axes_of_old_operator_sets(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["x", "w"], ["y"], broadcast=1, axis=1)
    file = save(tmp_path, [node], [tensor("x", [2, 3])], [tensor("y", [2, 3])], opset=6, w=numbers(3))
    np.testing.assert_allclose(execute(compiled(file), tmp_path, [numbers(2, 3)])[0], numbers(2, 3) + numbers(3))


def test_refuses_broadcast_along_other_axes_of_old_operator_sets(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["x", "w"], ["y"], name="bias", broadcast=1, axis=0)
    file = save(tmp_path, [node], [tensor("x", [3, 3])], [tensor("y", [3, 3])], opset=6, w=numbers(3))
    assert refusal(file) == "net.onnx: emx compiles node `bias` (`Add`) wrongly: it ignores the axis of a broadcast"


def test_refuses_calls_with_mixed_up_arguments(tmp_path: Path) -> None:
    names = [f"{letter}{number}" for letter in "xgvh" for number in (1, 2)]
    node = helper.make_node(
        "Adam", ["r", "t", *names], [f"{name}n" for name in names if name[0] != "g"], name="train",
        domain="ai.onnx.preview.training",
    )  # fmt: skip
    inputs = [tensor("r", []), tensor("t", [], INT64), *(tensor(name, [3]) for name in names)]
    file = save(tmp_path, [node], inputs, [tensor("x1n", [3])])
    assert (
        refusal(file)
        == "net.onnx: emx compiles node `train` (`Adam`) wrongly: it mixes up the parts of several tensors"
    )


def test_refuses_names_that_would_end_a_comment(tmp_path: Path) -> None:
    file = save(tmp_path, [helper.make_node("Neg", ["x"], ["y"], name="*/ int evil; /*")], [tensor("x", [2])], [tensor("y", [2])])  # fmt: skip
    assert refusal(file) == (
        "net.onnx: node `*/ int evil; /*` (`Neg`) has `*/` in a name or an attribute, which ends comments in C"
    )


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    file.write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"^net\.onnx: is no ONNX model that can be read"):
        compiled(file)


def test_code_is_for_32_bit_machines_too(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("TopK", ["x", "k"], ["v", "i"]),
        helper.make_node("CumSum", ["v", "axis"], ["s"]),
        helper.make_node("QuantizeLinear", ["s", "scale", "zero"], ["y"]),
        helper.make_node("Resize", ["z", "", "scales"], ["r"], mode="cubic"),
    ]
    file = save(
        tmp_path, nodes, [tensor("x", [9]), tensor("z", [2, 2])],
        [tensor("y", [4], UINT8), tensor("i", [4], INT64), tensor("r", [4, 4])], k=np.array([4]), axis=np.array(0),
        scale=np.float32(0.1), zero=np.uint8(7), scales=np.array([2, 2], np.float32),
    )  # fmt: skip
    model = assert_as_onnxruntime(file, numbers(9), numbers(2, 2))
    source = tmp_path / "cross.c"
    source.write_text(model.operators)
    run(["arm-none-eabi-gcc", "-mcpu=cortex-m4", *STRICT, "-Wvla", "-c", source, "-o", tmp_path / "cross.o"])
