"""Quantized ONNX models against onnxruntime: within one unit everywhere, and integers from end to end."""

from __future__ import annotations

import itertools
import re
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import operator_helpers
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlf.api import inspect
from mlf.exporter import export
from mlf.frontends.choice import ModelOptions
from mlf.frontends.onnx_quantized import to_qdq
from mlf.frontends.tvm.importers import import_model
from mlf.frontends.tvm.releases import constant_array, is_constant, shape_and_dtype, type_of
from mlf.metadata import Quantization
from mlf.reference import Tolerance, check_model, find_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from mlf.reference import OutputDeviation

    Array = npt.NDArray[Any]
    Case = Callable[["Net"], str]

DTYPES = ("int8", "uint8")
RUNS = 4
OPSET = 17


@dataclass
class Net:
    """An ONNX model that is being built; tensors are called by their names."""

    dtype: str = "int8"
    opset: int = OPSET
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))
    count: int = 0

    def name(self) -> str:
        self.count += 1
        return f"t{self.count}"

    def op(self, operator: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> str:
        names = [self.name() for _ in range(outputs)]
        self.nodes.append(
            helper.make_node(operator, list(inputs), names, domain=domain, name=f"n_{names[0]}", **attributes)
        )
        return names[0] if outputs == 1 else " ".join(names)

    def constant(self, array: Any, dtype: str = "float32") -> str:
        name = self.name()
        self.constants.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def input(self, *shape: int, dtype: str = "float32") -> str:
        name = f"x{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, onnx_type(dtype), shape))
        return name

    def zero_point(self, dtype: str) -> int:
        return int(self.rng.integers(-40, 40)) + (128 if dtype == "uint8" else 0)

    def quantize(
        self, real: str, scale: float = 0.05, zero_point: int | None = None, dtype: str = ""
    ) -> tuple[str, str, str]:
        """Give the names of the integers, their scale and their zero point."""
        dtype = dtype or self.dtype
        zero = self.zero_point(dtype) if zero_point is None else zero_point
        scale_name, zero_name = self.constant(scale), self.constant(zero, dtype)
        return self.op("QuantizeLinear", real, scale_name, zero_name), scale_name, zero_name

    def again(self, real: str, scale: float = 0.05, zero_point: int | None = None) -> str:
        """Quantize and dequantize."""
        return self.op("DequantizeLinear", *self.quantize(real, scale, zero_point))

    def real(self, *shape: int, scale: float = 0.02, zero_point: int | None = None) -> str:
        return self.again(self.input(*shape), scale, zero_point)

    def weights(self, *shape: int, axis: int | None = 0, dtype: str = "int8", zero_point: int = 0) -> str:
        low, high = (-127, 128) if dtype == "int8" else (0, 256)
        array = self.rng.integers(low, high, shape)
        channels = () if axis is None else (shape[axis],)
        scale = self.rng.uniform(0.002, 0.01, channels)
        zero = np.full(channels, zero_point)
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        inputs = (self.constant(array, dtype), self.constant(scale), self.constant(zero, dtype))
        return self.op("DequantizeLinear", *inputs, **attributes)

    def output(self, name: str, dtype: str) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, onnx_type(dtype), None))

    def model(self) -> Any:
        graph = helper.make_graph(self.nodes, "net", self.inputs, self.outputs, self.constants)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def onnx_type(dtype: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options)


def inputs_for(runtime: Any, runs: int = RUNS) -> Iterator[dict[str, Array]]:
    rng = np.random.default_rng(9)
    for _ in range(runs):
        yield {item.name: values(item.shape, item.type, rng) for item in runtime.get_inputs()}


def values(shape: Sequence[int], type_: str, rng: np.random.Generator) -> Array:
    dtype = type_.removeprefix("tensor(").removesuffix(")")
    if dtype == "float":
        return np.asarray(rng.normal(0, 1.2, shape), "float32")
    limits = np.iinfo(dtype)
    return np.asarray(rng.integers(limits.min, limits.max, shape, dtype, endpoint=True))


def machine(module: Any) -> Callable[..., list[Array]]:
    """Compile a module of Relax for this machine."""
    import tvm  # noqa: PLC0415

    operator_helpers.teach_jit()
    compiled = tvm.relax.VirtualMachine(tvm.relax.build(module, "llvm"), tvm.cpu())

    def run(*inputs: Array) -> list[Array]:
        result = compiled["main"](*(tvm.runtime.tensor(array) for array in inputs))
        return [result.numpy()] if hasattr(result, "numpy") else [item.numpy() for item in result]

    return run


def units(expected: Array, got: Array) -> Array:
    assert (expected.shape, expected.dtype) == (got.shape, got.dtype)
    return np.asarray(np.abs(expected.astype("int64") - got.astype("int64")))


def saved(net: Net, folder: Path) -> Path:
    """Write a model, with the shapes of its outputs as onnxruntime finds them: onnx does not know all operators."""
    path, model = folder / "net.onnx", net.model()
    onnx.save(model, path)
    for item, found in zip(model.graph.output, session(path).get_outputs(), strict=True):
        item.CopyFrom(helper.make_tensor_value_info(item.name, item.type.tensor_type.elem_type, found.shape))
    onnx.save(model, path)
    return path


def compared(path: Path, rounding: str = "float") -> tuple[Any, list[tuple[Array, Array]]]:
    """Import a model and run it; gives what was imported, and pairs of onnxruntime's outputs and ours."""
    imported = import_model(path, rounding=rounding)
    runtime, run = session(path), machine(imported.module)
    pairs = []
    for given in inputs_for(runtime):
        pairs += list(zip(runtime.run(None, given), run(*given.values()), strict=True))
    return imported, pairs


def floats(module: Any) -> list[str]:
    """List the operators that compute floats."""
    found = []
    for block in module["main"].body.blocks:
        for binding in block.bindings:
            operator = getattr(binding.value, "op", None)
            type_ = type_of(binding.var)
            if operator is not None and hasattr(type_, "dtype") and shape_and_dtype(type_)[1].startswith("float"):
                name = str(operator.name)
                found.append(str(binding.value.args[0].name_hint) if name == "relax.call_tir" else name)
    return found


def constants(module: Any) -> list[Array]:
    found = []

    def visit(node: Any) -> None:
        if is_constant(node):
            found.append(np.asarray(constant_array(node)))
        for item in getattr(node, "fields", ()):
            visit(item)

    for block in module["main"].body.blocks:
        for binding in block.bindings:
            for argument in getattr(binding.value, "args", ()):
                visit(argument)
    return found


def conv(*shape: int, weights: Sequence[int], per_channel: bool = True, dtype: str = "int8", zero_point: int = 0, bias: str = "", **attributes: Any) -> Case:  # fmt: skip
    def build(net: Net) -> str:
        x = net.real(*shape)
        w = net.weights(*weights, axis=0 if per_channel else None, dtype=dtype, zero_point=zero_point)
        more = [net.constant(net.rng.normal(size=weights[0]))] if bias == "float" else []
        return net.op("Conv", x, w, *more, **attributes)

    return build


def of(operator: str, *shape: int, **attributes: Any) -> Case:
    return lambda net: net.op(operator, net.real(*shape), **attributes)


def two(operator: str, first: Sequence[int], second: Sequence[int]) -> Case:
    return lambda net: net.op(operator, net.real(*first), net.real(*second, scale=0.03))


def chain(shape: Sequence[int], *steps: Callable[[Net, str], str]) -> Case:
    def build(net: Net) -> str:
        value = net.real(*shape)
        for step in steps:
            value = step(net, value)
        return value

    return build


def step(operator: str, *constants_: tuple[Any, str], **attributes: Any) -> Callable[[Net, str], str]:
    return lambda net, value: net.op(
        operator, value, *(net.constant(array, dtype) for array, dtype in constants_), **attributes
    )


def again(scale: float = 0.05) -> Callable[[Net, str], str]:
    return lambda net, value: net.again(value, scale)


def convolved(*weights: int, **attributes: Any) -> Callable[[Net, str], str]:
    return lambda net, value: net.op("Conv", value, net.weights(*weights), **attributes)


def gemm(net: Net) -> str:
    bias = net.op("DequantizeLinear", net.constant(net.rng.integers(-900, 900, 4), "int32"), net.constant(0.0001))
    return net.op("Gemm", net.real(3, 20), net.weights(4, 20), bias, transB=1)


def matmul_with_bias(net: Net) -> str:
    product = net.op("MatMul", net.real(2, 5, 20), net.weights(20, 7, axis=1))
    return net.op("Add", product, net.constant(net.rng.normal(size=7)))


def add_of_constant(net: Net) -> str:
    return net.op("Add", net.real(1, 4, 3, 3), net.weights(4, 1, 1, axis=None))


def joined(first: float, second: float, *, axis: int) -> Case:
    def build(net: Net) -> str:
        parts = [net.real(1, 3, 4, 5, scale=scale, zero_point=zero) for scale, zero in ((first, 10), (second, 10))]
        return net.op("Concat", *parts, axis=axis)

    return build


def joined_sums(net: Net) -> str:
    x = net.real(1, 3, 6, 6)
    parts = [net.op("Conv", x, net.weights(channels, 3, 1, 1)) for channels in (4, 6)]
    return net.op("Relu", net.op("Concat", *parts, axis=1))


def split_and_swapped(net: Net) -> str:
    halves = net.op("Split", net.real(1, 6, 4, 4), outputs=2, axis=1).split()
    return net.op("Concat", *reversed(halves), axis=1)


def hard_swish(net: Net) -> str:
    value = net.real(1, 4, 3, 3)
    return net.op("Mul", value, net.op("HardSigmoid", value, alpha=1 / 6, beta=0.5))


def gelu(net: Net) -> str:
    value = net.real(2, 30)
    inner = net.op("Erf", net.op("Div", value, net.constant(np.sqrt(2))))
    return net.op("Mul", net.op("Mul", value, net.op("Add", inner, net.constant(1))), net.constant(0.5))


def image_of_a_matrix(net: Net) -> str:
    image = net.op("Conv", net.real(1, 3, 6, 6), net.weights(4, 3, 3, 3))
    rows = net.op("Flatten", net.op("Tanh", net.again(image)))
    return net.op("MatMul", net.again(rows, 1 / 128, 0 if net.dtype == "int8" else 128), net.weights(64, 5, axis=1))


def conv_transpose(net: Net) -> str:
    return net.op("ConvTranspose", net.real(1, 3, 4, 5), net.weights(3, 4, 3, 3, axis=None), strides=[2, 2], pads=[1, 1, 0, 1], output_padding=[1, 0])  # fmt: skip


INTEGER_CASES: Mapping[str, Case] = {
    "conv": conv(1, 3, 7, 8, weights=(5, 3, 3, 3)),
    "conv per tensor": conv(2, 3, 7, 8, weights=(4, 3, 3, 3), per_channel=False, strides=[2, 1]),
    "conv padded": conv(1, 3, 7, 8, weights=(4, 3, 3, 3), pads=[1, 0, 2, 1], strides=[2, 2]),
    "conv dilated": conv(1, 3, 9, 9, weights=(4, 3, 3, 3), pads=[2, 2, 2, 2], dilations=[2, 2]),
    "conv of groups": conv(1, 6, 5, 5, weights=(4, 3, 3, 3), group=2, pads=[1, 1, 1, 1]),
    "conv 1x1": conv(1, 8, 4, 4, weights=(6, 8, 1, 1)),
    "conv automatically padded": conv(1, 3, 8, 7, weights=(4, 3, 3, 3), auto_pad="SAME_UPPER", kernel_shape=[3, 3], strides=[2, 2]),
    "conv with a bias of floats": conv(1, 3, 7, 8, weights=(4, 3, 3, 3), bias="float"),
    "conv with unsigned weights": conv(1, 3, 7, 8, weights=(4, 3, 3, 3), per_channel=False, dtype="uint8", zero_point=117),
    "conv with an odd zero point": conv(1, 3, 7, 8, weights=(4, 3, 3, 3), per_channel=False, zero_point=-100, pads=[1, 1, 1, 1]),
    "conv of rows": conv(1, 3, 12, weights=(4, 3, 5), pads=[2, 1], strides=[2]),
    "depthwise conv": conv(1, 6, 7, 7, weights=(6, 1, 3, 3), group=6, pads=[1, 1, 1, 1]),
    "depthwise conv of rows": conv(1, 6, 9, weights=(12, 1, 3), group=6, pads=[1, 1]),
    "depthwise conv with a multiplier": conv(1, 3, 7, 7, weights=(6, 1, 3, 3), group=3, strides=[2, 2]),
    "transposed conv": conv_transpose,
    "gemm": gemm,
    "matmul with a bias": matmul_with_bias,
    "matmul of inputs": two("MatMul", (2, 4, 6), (2, 6, 3)),
    "matmul with one matrix": two("MatMul", (2, 3, 4, 6), (6, 5)),
    "flattened image": image_of_a_matrix,
    "add": two("Add", (1, 4, 3, 3), (1, 4, 3, 3)),
    "add of a row": two("Add", (1, 4, 3, 3), (3,)),
    "add of a constant": add_of_constant,
    "subtract": two("Sub", (1, 4, 3, 3), (1, 4, 1, 1)),
    "multiply": two("Mul", (1, 4, 3, 3), (1, 4, 3, 3)),
    "relu": of("Relu", 2, 9),
    "leaky relu": of("LeakyRelu", 2, 9, alpha=0.2),
    "sigmoid": of("Sigmoid", 2, 9),
    "tanh": of("Tanh", 1, 4, 3, 3),
    "elu": of("Elu", 2, 9),
    "hard swish": hard_swish,
    "gelu": gelu,
    "clip": chain((1, 3, 5, 5), convolved(4, 3, 3, 3), step("Clip", (0, "float32"), (0.7, "float32"))),
    "relu behind a conv": chain((1, 3, 5, 5), convolved(4, 3, 3, 3), step("Relu")),
    "relu in front of a conv": chain((1, 3, 5, 5), step("Relu"), convolved(4, 3, 3, 3)),
    "reshape behind a conv": chain((1, 3, 5, 5), convolved(4, 3, 3, 3), step("Reshape", ([1, 4, 9], "int64"))),
    "scaled conv": chain((1, 3, 5, 5), convolved(4, 3, 3, 3), step("Mul", (0.5, "float32"))),
    "max pool": of("MaxPool", 1, 3, 7, 7, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "max pool rounded up": of("MaxPool", 1, 3, 6, 6, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "max pool of rows": of("MaxPool", 1, 3, 8, kernel_shape=[2], strides=[2]),
    "average pool": of("AveragePool", 1, 3, 6, 6, kernel_shape=[2, 2], strides=[2, 2]),
    "average pool padded": of("AveragePool", 1, 3, 6, 6, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
    "average pool with its padding": of("AveragePool", 1, 3, 6, 6, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    "average pool of rows": of("AveragePool", 1, 3, 8, kernel_shape=[3], strides=[2]),
    "global average pool": of("GlobalAveragePool", 1, 3, 6, 5),
    "global max pool": of("GlobalMaxPool", 1, 3, 6, 5),
    "mean": of("ReduceMean", 2, 3, 6, 5, axes=[1], keepdims=0),
    "mean behind a conv": chain((1, 3, 5, 5), convolved(4, 3, 3, 3), again(), step("ReduceMean", axes=[2, 3], keepdims=0)),
    "concat of one scale": joined(0.02, 0.02, axis=2),
    "concat": joined(0.02, 0.03, axis=1),
    "concat of sums": joined_sums,
    "pad": chain((1, 3, 4, 4), step("Pad", ([0, 0, 1, 2, 0, 0, 0, 1], "int64"))),
    "pad in front of a conv": chain((1, 3, 6, 6), step("Pad", ([0, 0, 0, 0, 0, 0, 1, 1], "int64")), convolved(4, 3, 3, 3, strides=[2, 2])),
    "slice": chain((1, 6, 4, 4), convolved(6, 6, 1, 1), again(), step("Slice", ([1, 0], "int64"), ([5, 3], "int64"), ([1, 2], "int64"), ([2, 1], "int64"))),
    "split": split_and_swapped,
    "transpose": of("Transpose", 2, 3, 4, 5, perm=[3, 1, 0, 2]),
    "channels first": chain((1, 5, 6, 3), step("Transpose", perm=[0, 3, 1, 2]), again(), convolved(4, 3, 3, 3), again(), step("Transpose", perm=[0, 2, 3, 1])),
    "gather": chain((3, 5), step("Gather", ([2, 0], "int64"), axis=0)),
    "squeeze": chain((1, 3, 6, 6), convolved(4, 3, 6, 6), step("Squeeze", ([2, 3], "int64"))),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", INTEGER_CASES)
def test_an_operator_is_done_in_integers_within_one_unit(case: str, dtype: str, tmp_path: Path) -> None:
    net = Net(dtype=dtype)
    net.output(net.quantize(INTEGER_CASES[case](net), 0.03)[0], dtype)
    imported, pairs = compared(saved(net, tmp_path))
    assert floats(imported.module) == []
    assert max(int(units(*pair).max()) for pair in pairs) <= 1
    assert len(np.unique([got for _, got in pairs])) > 4


FLOAT_CASES: Mapping[str, Case] = {
    "max pool dilated": of("MaxPool", 1, 3, 7, 7, kernel_shape=[2, 2], dilations=[2, 2]),
    "softmax": of("Softmax", 2, 9),
    "layer norm": chain((2, 9), step("LayerNormalization", (np.linspace(0.5, 1.5, 9), "float32"))),
    "sigmoid behind a conv": chain((1, 3, 5, 5), convolved(4, 3, 3, 3), step("Sigmoid")),
    "mirrored pad": chain((1, 3, 4, 4), step("Pad", ([0, 0, 1, 1, 0, 0, 1, 1], "int64"), mode="reflect")),
    "sum over channels": of("ReduceSum", 1, 3, 4, 4),
    "weights in floats": chain((1, 3, 5, 5), step("Conv", (np.linspace(-1, 1, 81).reshape(3, 3, 3, 3), "float32"))),
    "nearest resizing": chain((1, 3, 4, 4), step("Resize", ([], "float32"), ([1, 1, 2, 2], "float32"))),
    "product with a bias of floats": lambda net: net.op("Add", net.op("MatMul", net.real(2, 3, 4), net.real(2, 4, 5)), net.constant(np.arange(5) / 7)),
}  # fmt: skip


@pytest.mark.parametrize("case", FLOAT_CASES)
def test_an_operator_without_integer_form_is_done_in_floats_within_one_unit(case: str, tmp_path: Path) -> None:
    net = Net()
    net.output(net.quantize(FLOAT_CASES[case](net), 0.03)[0], "int8")
    imported, pairs = compared(saved(net, tmp_path))
    assert floats(imported.module) != []
    assert max(int(units(*pair).max()) for pair in pairs) <= 1


def test_fixed_point_differs_by_one_unit_at_most(tmp_path: Path) -> None:
    net = Net()
    value = net.op("Relu", net.op("Conv", net.real(1, 3, 7, 7), net.weights(4, 3, 3, 3), pads=[1, 1, 1, 1]))
    net.output(net.quantize(value, 0.03)[0], "int8")
    imported, pairs = compared(saved(net, tmp_path), rounding="tflite")
    assert not any(array.dtype == np.float32 for array in constants(imported.module))
    assert max(int(units(*pair).max()) for pair in pairs) <= 1


@pytest.mark.parametrize(
    "case", ["add", "multiply", "average pool", "average pool padded", "global average pool", "concat", "sigmoid"]
)
def test_operators_in_fixed_point_are_within_one_unit(case: str, tmp_path: Path) -> None:
    net = Net()
    net.output(net.quantize(INTEGER_CASES[case](net), 0.03)[0], "int8")
    imported, pairs = compared(saved(net, tmp_path), rounding="tflite")
    assert floats(imported.module) == []
    assert max(int(units(*pair).max()) for pair in pairs) <= 1


def test_a_model_without_quantization_is_left_as_it_is(tmp_path: Path) -> None:
    net = Net()
    net.output(net.op("Relu", net.input(2, 3)), "float32")
    imported, pairs = compared(saved(net, tmp_path))
    assert floats(imported.module) == ["relax.nn.relu"]
    assert all(np.array_equal(*pair) for pair in pairs)


def test_sums_that_are_not_quantized_again_leave_as_floats_and_weights_stay_integers(tmp_path: Path) -> None:
    net = Net()
    net.output(net.op("Relu", net.op("Conv", net.real(1, 3, 7, 7), net.weights(4, 3, 3, 3))), "float32")
    imported, pairs = compared(saved(net, tmp_path))
    assert [(array.shape, str(array.dtype)) for array in constants(imported.module)] == [
        ((4, 3, 3, 3), "int8"), ((4,), "int32"), ((4,), "float32"),
    ]  # fmt: skip
    for expected, got in pairs:
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_unsigned_weights_become_signed_and_lose_their_zero_point(tmp_path: Path) -> None:
    net = Net()
    weights = net.weights(4, 3, 3, 3, dtype="uint8", zero_point=128, axis=None)
    net.output(net.quantize(net.op("Conv", net.real(1, 3, 7, 7), weights))[0], "int8")
    imported, pairs = compared(saved(net, tmp_path))
    assert [str(array.dtype) for array in constants(imported.module)] == ["int8", "int32"]
    assert max(int(units(*pair).max()) for pair in pairs) <= 1


def test_an_image_is_rearranged_at_the_edges_alone(tmp_path: Path) -> None:
    net = Net()
    value = net.again(net.op("Conv", net.real(1, 3, 8, 8), net.weights(4, 3, 3, 3)))
    value = net.again(net.op("MaxPool", value, kernel_shape=[2, 2]))
    value = net.again(net.op("Add", value, net.op("Relu", value)))
    net.output(net.quantize(net.op("Conv", value, net.weights(6, 4, 1, 1)))[0], "int8")
    imported, _ = compared(saved(net, tmp_path))
    moves = [binding.value.attrs.axes for block in imported.module["main"].body.blocks for binding in block.bindings if str(getattr(binding.value, "op", "")).count("permute_dims")]  # fmt: skip
    assert [[int(axis) for axis in axes] for axes in moves] == [[0, 2, 3, 1], [0, 3, 1, 2]]


def test_padding_becomes_a_part_of_the_convolution_behind_it(tmp_path: Path) -> None:
    net = Net()
    net.output(net.quantize(INTEGER_CASES["pad in front of a conv"](net))[0], "int8")
    imported, _ = compared(saved(net, tmp_path))
    names = [variable.name_hint for variable in imported.module.get_global_vars()]
    assert sorted(names) == ["conv2d_int8", "main", "quantize_int8"]


def test_inputs_and_outputs_of_integers_have_their_quantization(tmp_path: Path) -> None:
    net = Net()
    value = net.op(
        "DequantizeLinear", net.input(1, 3, 6, 6, dtype="uint8"), net.constant(0.5), net.constant(7, "uint8")
    )
    sums = net.op("Conv", value, net.weights(4, 3, 3, 3))
    net.output(net.quantize(sums, 0.25, -3, "int8")[0], "int8")
    net.output(net.op("Sigmoid", value), "float32")
    imported, pairs = compared(saved(net, tmp_path))
    assert [item.quantization for item in imported.inputs] == [Quantization(scale=0.5, zero_point=7)]
    assert [item.quantization for item in imported.outputs] == [Quantization(scale=0.25, zero_point=-3), None]
    assert max(float(np.abs(expected.astype("float64") - got).max()) for expected, got in pairs) <= 1


def test_the_scale_of_an_input_is_found_behind_what_only_moves_it(tmp_path: Path) -> None:
    net = Net()
    moved = net.op("Reshape", net.input(2, 6, dtype="int8"), net.constant([3, 4], "int64"))
    net.output(net.op("DequantizeLinear", moved, net.constant(0.5), net.constant(-2, "int8")), "float32")
    imported, pairs = compared(saved(net, tmp_path))
    assert [item.quantization for item in imported.inputs] == [Quantization(scale=0.5, zero_point=-2)]
    assert all(np.array_equal(*pair) for pair in pairs)


@pytest.mark.parametrize("operator", ["MaxPool", "Transpose", "Concat"])
def test_operators_on_integers_themselves_stay_on_integers(operator: str, tmp_path: Path) -> None:
    net = Net()
    integers = net.input(1, 3, 6, 6, dtype="int8")
    known: dict[str, dict[str, Any]] = {"MaxPool": {"kernel_shape": [2, 2]}, "Concat": {"axis": 1}}
    attributes = known.get(operator, {})
    inputs = [integers] * (2 if operator == "Concat" else 1)
    net.output(net.quantize(net.op("DequantizeLinear", net.op(operator, *inputs, **attributes), net.constant(0.1), net.constant(3, "int8")), 0.2)[0], "int8")  # fmt: skip
    imported, pairs = compared(saved(net, tmp_path))
    assert floats(imported.module) == []
    assert max(int(units(*pair).max()) for pair in pairs) <= 1


# ONNX's own quantized operators.


def parameters(net: Net, scale: float, dtype: str = "") -> tuple[str, str]:
    dtype = dtype or net.dtype
    return net.constant(scale), net.constant(net.zero_point(dtype), dtype)


def qlinear(operator: str, *shape: int, domain: str = "com.microsoft", **attributes: Any) -> Case:
    def build(net: Net) -> str:
        return net.op(operator, *net.quantize(net.input(*shape)), *parameters(net, 0.03), domain=domain, **attributes)

    return build


def qlinear_two(operator: str) -> Case:
    def build(net: Net) -> str:
        parts = [*net.quantize(net.input(2, 3, 4)), *net.quantize(net.input(3, 1), 0.03)]
        return net.op(operator, *parts, *parameters(net, 0.06), domain="com.microsoft")

    return build


def qlinear_conv(net: Net) -> str:
    scales = net.constant(net.rng.uniform(0.002, 0.01, 4))
    weights = (
        net.constant(net.rng.integers(-127, 128, (4, 3, 3, 3)), "int8"),
        scales,
        net.constant(np.zeros(4), "int8"),
    )
    bias = net.constant(net.rng.integers(-900, 900, 4), "int32")
    return net.op(
        "QLinearConv",
        *net.quantize(net.input(1, 3, 6, 6), 0.02),
        *weights,
        *parameters(net, 0.03),
        bias,
        pads=[1, 1, 1, 1],
    )


def qlinear_matmul(net: Net) -> str:
    weights = (net.constant(net.rng.integers(-127, 128, (6, 5)), "int8"), net.constant(0.01), net.constant(0, "int8"))
    return net.op("QLinearMatMul", *net.quantize(net.input(4, 6), 0.02), *weights, *parameters(net, 0.03))


def qgemm(*, is_quantized: bool) -> Case:
    def build(net: Net) -> str:
        weights = (
            net.constant(net.rng.integers(-127, 128, (5, 6)), "int8"),
            net.constant(np.linspace(0.01, 0.02, 5)),
            net.constant(np.zeros(5), "int8"),
        )
        bias = net.constant(net.rng.integers(-900, 900, 5), "int32")
        output = parameters(net, 0.03) if is_quantized else ()
        return net.op(
            "QGemm",
            *net.quantize(net.input(4, 6), 0.02),
            *weights,
            bias,
            *output,
            domain="com.microsoft",
            alpha=0.5,
            transB=1,
        )

    return build  # fmt: skip


def qlinear_concat(net: Net) -> str:
    parts = [*net.quantize(net.input(2, 3)), *net.quantize(net.input(2, 4), 0.03)]
    return net.op("QLinearConcat", *parameters(net, 0.04), *parts, domain="com.microsoft", axis=1)


QLINEAR_CASES: Mapping[str, Case] = {
    "QLinearConv": qlinear_conv,
    "QLinearMatMul": qlinear_matmul,
    "QGemm": qgemm(is_quantized=True),
    "QLinearAdd": qlinear_two("QLinearAdd"),
    "QLinearMul": qlinear_two("QLinearMul"),
    "QLinearSigmoid": qlinear("QLinearSigmoid", 2, 9),
    "QLinearLeakyRelu": qlinear("QLinearLeakyRelu", 2, 9, alpha=0.3),
    "QLinearGlobalAveragePool": qlinear("QLinearGlobalAveragePool", 1, 3, 5, 6),
    "QLinearAveragePool": qlinear("QLinearAveragePool", 1, 3, 6, 6, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 0]),
    "QLinearConcat": qlinear_concat,
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", QLINEAR_CASES)
def test_a_quantized_operator_of_onnx_is_done_in_integers(case: str, dtype: str, tmp_path: Path) -> None:
    net = Net(dtype=dtype)
    net.output(QLINEAR_CASES[case](net), dtype)
    imported, pairs = compared(saved(net, tmp_path))
    assert floats(imported.module) == []
    assert max(int(units(*pair).max()) for pair in pairs) <= 1
    assert len(np.unique([got for _, got in pairs])) > 4


@pytest.mark.parametrize("case", ["QLinearConv", "QLinearMatMul", "QGemm"])
def test_sums_are_rounded_as_onnxruntime_rounds_them(case: str, tmp_path: Path) -> None:
    net = Net()
    net.output(QLINEAR_CASES[case](net), "int8")
    _, pairs = compared(saved(net, tmp_path))
    assert all(np.array_equal(*pair) for pair in pairs)


def test_a_gemm_without_output_scale_gives_floats(tmp_path: Path) -> None:
    net = Net()
    net.output(qgemm(is_quantized=False)(net), "float32")
    imported, pairs = compared(saved(net, tmp_path))
    assert floats(imported.module) == ["fully_connected_int8"]
    for expected, got in pairs:
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operator", ["ConvInteger", "MatMulInteger"])
def test_sums_of_integers_are_exact_and_weights_stay_small(operator: str, dtype: str, tmp_path: Path) -> None:
    net = Net()
    shape, weights = ((1, 3, 6, 6), (4, 3, 3, 3)) if operator == "ConvInteger" else ((4, 6), (6, 5))
    x, w = net.input(*shape, dtype=dtype), net.constant(net.rng.integers(-127, 128, weights), "int8")
    attributes: dict[str, Any] = {"pads": [1, 1, 1, 1]} if operator == "ConvInteger" else {}
    net.output(net.op(operator, x, w, net.constant(9, dtype), net.constant(-3, "int8"), **attributes), "int32")
    imported, pairs = compared(saved(net, tmp_path))
    assert str(constants(imported.module)[0].dtype) == "int8"
    assert all(np.array_equal(*pair) for pair in pairs)


def test_a_model_that_is_quantized_as_it_runs_is_right(tmp_path: Path) -> None:
    net = Net()
    integers, scale, zero_point = net.op("DynamicQuantizeLinear", net.input(4, 6), outputs=3).split()
    weights = net.constant(net.rng.integers(-127, 128, (6, 5)), "int8")
    sums = net.op(
        "Cast", net.op("MatMulInteger", integers, weights, zero_point, net.constant(0, "int8")), to=TensorProto.FLOAT
    )
    net.output(net.op("Mul", sums, scale), "float32")
    _, pairs = compared(saved(net, tmp_path))
    for expected, got in pairs:
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_model_without_quantized_operators_is_given_back() -> None:
    net = Net()
    net.output(net.op("Relu", net.input(2, 3)), "float32")
    model = net.model()
    assert to_qdq(model) is model


def test_an_operator_that_is_not_understood_stays() -> None:
    net = Net()
    net.output(qlinear("QLinearGlobalAveragePool", 1, 3, 5, 6, channels_last=1)(net), "int8")
    assert [node.op_type for node in to_qdq(net.model()).graph.node] == ["QuantizeLinear", "QLinearGlobalAveragePool"]


# Whole networks, as onnxruntime quantizes them, in C.


def network(kind: str) -> tuple[Any, Sequence[int]]:
    net = Net()
    if kind == "mlp":
        value = net.input(2, 20)
        for rows, columns in ((20, 32), (32, 16), (16, 5)):
            value = float_layer(net, "Gemm", value, (columns, rows), transB=1)
            value = value if columns == 5 else net.op("Relu", value)
    else:
        value = float_cnn(net)
    net.output(value, "float32")
    return net.model(), [dimension.dim_value for dimension in net.inputs[0].type.tensor_type.shape.dim]


def float_layer(net: Net, operator: str, value: str, shape: Sequence[int], **attributes: Any) -> str:
    weights = net.rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
    return net.op(operator, value, net.constant(weights), net.constant(net.rng.normal(size=shape[0])), **attributes)


def float_cnn(net: Net) -> str:
    first = net.op(
        "Relu", float_layer(net, "Conv", net.input(1, 3, 16, 16), (8, 3, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2])
    )
    value = float_layer(net, "Conv", first, (8, 1, 3, 3), group=8, pads=[1, 1, 1, 1])
    value = net.op("Clip", value, net.constant(0), net.constant(6))
    value = net.op("Add", float_layer(net, "Conv", value, (8, 8, 1, 1)), first)
    value = net.op("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2])
    value = net.op("Relu", float_layer(net, "Conv", value, (16, 4, 3, 3), group=2, pads=[0, 0, 1, 1]))
    value = net.op("AveragePool", value, kernel_shape=[2, 2], strides=[1, 1], pads=[1, 1, 0, 0])
    value = float_layer(net, "Conv", value, (16, 16, 3, 3), dilations=[2, 2], pads=[2, 2, 2, 2])
    value = net.op("Mul", value, net.op("Sigmoid", value))
    return float_layer(net, "Gemm", net.op("Flatten", net.op("GlobalAveragePool", value)), (10, 16), transB=1)


def quantized(folder: Path, kind: str, style: str, dtype: str, *, per_channel: bool) -> Path:
    """Quantize a network as onnxruntime does."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static  # noqa: PLC0415

    model, shape = network(kind)
    onnx.save(model, folder / "float.onnx")
    rng = np.random.default_rng(4)
    samples = iter([{"x0": rng.normal(size=shape).astype("float32")} for _ in range(8)])

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Any:
            return next(samples, None)

    path = folder / "net.onnx"
    quantize_static(
        folder / "float.onnx", path, Reader(), quant_format=QuantFormat[style], per_channel=per_channel,
        activation_type=QuantType[{"int8": "QInt8", "uint8": "QUInt8"}[dtype]], weight_type=QuantType.QInt8,
    )  # fmt: skip
    return path


def without_edges(path: Path) -> Path:
    """Take the first quantizing and the last dequantizing off a model, so that its input and output are integers."""
    model = onnx.load(path)
    graph = model.graph
    first = next(node for node in graph.node if node.input[0] == graph.input[0].name)
    last = next(node for node in graph.node if node.output[0] == graph.output[0].name)
    types = {item.name: item.data_type for item in graph.initializer}
    graph.input[0].CopyFrom(
        helper.make_tensor_value_info(first.output[0], types[first.input[2]], shape_of(graph.input[0]))
    )
    graph.output[0].CopyFrom(
        helper.make_tensor_value_info(last.input[0], types[last.input[2]], shape_of(graph.output[0]))
    )
    graph.node.remove(first)
    graph.node.remove(last)
    stripped = path.with_name("integers.onnx")
    onnx.save(model, stripped)
    return stripped


def shape_of(tensor: Any) -> list[int]:
    return [dimension.dim_value for dimension in tensor.type.tensor_type.shape.dim]


def archive_of(path: Path, rounding: str = "float") -> Path:
    archive = path.with_suffix(".tar")
    export(path, output=archive, name="net", model=ModelOptions(front_end="tvm", rounding=rounding, is_checked=False))
    return archive


def deviation(path: Path, archive: Path) -> OutputDeviation:
    """Run the C of a model with one output beside onnxruntime."""
    reference = find_reference(path)
    assert reference is not None
    given = tuple(inputs_for(session(path), 16))
    return check_model(archive, "net", reference, given, tolerance=Tolerance(units=1)).deviations[0]


def c_of(archive: Path) -> str:
    with tarfile.open(archive) as tar:
        files = [
            tar.extractfile(item)
            for item in sorted(tar.getmembers(), key=lambda item: item.name)
            if item.name.endswith(".c")
        ]
        return "".join(file.read().decode() for file in files if file is not None)


NETWORKS = list(itertools.product(("cnn", "mlp"), ("QDQ", "QOperator"), DTYPES, (False, True)))


@pytest.mark.parametrize(("kind", "style", "dtype", "per_channel"), NETWORKS)
def test_a_quantized_network_is_within_one_unit_of_onnxruntime(
    kind: str, style: str, dtype: str, per_channel: bool, tmp_path: Path
) -> None:
    path = without_edges(quantized(tmp_path, kind, style, dtype, per_channel=per_channel))
    found = deviation(path, archive_of(path))
    assert found.dtype == dtype
    assert found.largest <= 1
    # The runtime computes QDQ models in floats and only QOperator models in integers, as we do both.
    assert found.unequal_share <= (0.15 if style == "QDQ" else 0)


@pytest.mark.parametrize("style", ["QDQ", "QOperator"])
def test_a_network_with_floats_at_its_edges_is_within_one_unit(style: str, tmp_path: Path) -> None:
    path = quantized(tmp_path, "cnn", style, "int8", per_channel=True)
    graph = onnx.load(path).graph
    last = next(node for node in graph.node if node.output[0] == graph.output[0].name)
    scale = next(numpy_helper.to_array(item) for item in graph.initializer if item.name == last.input[1])
    assert deviation(path, archive_of(path)).largest <= 1.001 * float(scale)


def test_a_network_in_fixed_point_is_near_to_onnxruntime(tmp_path: Path) -> None:
    path = without_edges(quantized(tmp_path, "mlp", "QDQ", "int8", per_channel=True))
    assert deviation(path, archive_of(path, "tflite")).largest <= 1


def test_no_floats_are_left_of_a_network_but_factors(tmp_path: Path) -> None:
    text = c_of(archive_of(without_edges(quantized(tmp_path, "cnn", "QDQ", "int8", per_channel=True))))
    counts = [int(count) for count in re.findall(r"static const float \w+\[(\d+)\]", text)]
    assert sorted(counts) == [8, 8, 8, 10, 16, 16]  # one per output channel
    assert re.findall(r"(?<!const )\bfloat\*", text) == []


def test_a_network_in_fixed_point_has_no_floats(tmp_path: Path) -> None:
    text = c_of(archive_of(without_edges(quantized(tmp_path, "mlp", "QDQ", "uint8", per_channel=True)), "tflite"))
    assert re.findall(r"\b(?:float|double)\b", text) == []


def test_the_metadata_tells_the_quantization(tmp_path: Path) -> None:
    path = without_edges(quantized(tmp_path, "mlp", "QDQ", "int8", per_channel=False))
    module = inspect(archive_of(path)).modules[0]
    assert [item.quantization is not None for item in (*module.inputs, *module.outputs)] == [True, True]


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    path = quantized(tmp_path, "mlp", "QDQ", "int8", per_channel=True)
    first = archive_of(path).read_bytes()
    assert archive_of(path).read_bytes() == first
