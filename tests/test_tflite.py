"""Every operator of integer TensorFlow Lite models against LiteRT's reference kernels, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import operator_helpers
import pytest
from tflite_models import Graph, Op, Spec, constant, model_file

import mlf
from mlf.errors import InputError, MlfError, UnsupportedError, UsageError
from mlf.frontends.tvm.tflite import import_quantized
from mlf.metadata import Quantization, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    Case = Callable[[np.random.Generator], Graph]

SEEDS = range(3)
RUNS = 5  # inputs for each model, of all values, smooth and at the ends
NONE, RELU, RELU_N1_TO_1, RELU6 = range(4)
SAME, VALID = range(2)


def reference_outputs(data: bytes, inputs: Sequence[Any]) -> list[Any]:
    """Run a model with LiteRT's reference kernels."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType  # noqa: PLC0415

    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    for detail, array in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], array)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def compiled(data: bytes, **options: Any) -> Callable[[Sequence[Any]], list[Any]]:
    """Import a model and compile it for this machine."""
    import tvm  # noqa: PLC0415
    from tvm import relax  # noqa: PLC0415

    operator_helpers.teach_jit()
    imported = import_quantized(data, where="model.tflite", **options)
    assert imported is not None
    machine = relax.VirtualMachine(relax.build(imported.module, "llvm"), tvm.cpu())

    def run(inputs: Sequence[Any]) -> list[Any]:
        result = machine["main"](*(tvm.runtime.tensor(array) for array in inputs))
        return [result.numpy()] if hasattr(result, "numpy") else [item.numpy() for item in result]

    return run


def inputs_of(graph: Graph, rng: np.random.Generator) -> Iterator[list[Any]]:
    specs = [spec for name in graph.inputs for spec in graph.tensors if spec.name == name]
    for run in range(RUNS):
        yield [values(spec, rng, run) for spec in specs]


def values(spec: Spec, rng: np.random.Generator, run: int) -> Any:
    if spec.dtype == "float32":
        return rng.normal(0, 10.0 ** (run - 2), spec.shape).astype("float32")
    low, high = np.iinfo(spec.dtype).min, np.iinfo(spec.dtype).max
    if run == 0:
        return rng.choice(np.array([low, high], spec.dtype), spec.shape)
    if run == 1:
        steps = rng.normal(0, (high - low) / 64, int(np.prod(spec.shape))).cumsum()
        return np.clip(steps, low, high).astype(spec.dtype).reshape(spec.shape)
    return rng.integers(low, high, spec.shape, spec.dtype, endpoint=True)


def assert_equal(graph: Graph, rng: np.random.Generator) -> None:
    data = model_file(graph)
    run = compiled(data)
    for inputs in inputs_of(graph, rng):
        expected = reference_outputs(data, inputs)
        actual = run(inputs)
        assert [(item.shape, item.dtype) for item in actual] == [(item.shape, item.dtype) for item in expected]
        for left, right in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(left, right)


def tensor(rng: np.random.Generator, name: str, shape: Sequence[int], dtype: str = "int8", **fields: Any) -> Spec:
    """Make a tensor with a scale and a zero point of no particular kind."""
    if dtype == "float32":
        return Spec(name=name, shape=tuple(shape), dtype=dtype)
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    zero_point = 0 if dtype == "int16" else int(rng.integers(low, high, endpoint=True))
    scale = float(np.float32(rng.uniform(0.01, 0.2) / (1 if dtype != "int16" else 256)))
    given = {"scales": (scale,), "zero_points": (zero_point,), **fields}
    return Spec(name=name, shape=tuple(shape), dtype=dtype, **given)


def same(spec: Spec, name: str, shape: Sequence[int]) -> Spec:
    return Spec(name=name, shape=tuple(shape), dtype=spec.dtype, scales=spec.scales, zero_points=spec.zero_points)


def single(
    name: str, inputs: Sequence[Spec | None], output: Spec | Sequence[Spec], kind: str = "", **options: Any
) -> Graph:
    """Make a model of one operator; constants among its inputs are no inputs of the model."""
    outputs = [output] if isinstance(output, Spec) else list(output)
    given = [spec for spec in inputs if spec is not None]
    names = tuple(None if spec is None else spec.name for spec in inputs)
    operator = Op(name=name, inputs=names, outputs=tuple(spec.name for spec in outputs), options=options, kind=kind)
    return Graph(
        tensors=(*given, *outputs), operators=(operator,), inputs=tuple(spec.name for spec in given if spec.data is None),
        outputs=tuple(spec.name for spec in outputs),
    )  # fmt: skip


def weights(
    rng: np.random.Generator, shape: Sequence[int], axis: int, *, dtype: str = "int8", is_per_channel: bool = True
) -> Spec:
    count = shape[axis] if is_per_channel else 1
    scales = tuple(float(np.float32(item)) for item in rng.uniform(0.0005, 0.02, count))
    low = 0 if dtype == "uint8" else -127
    data = rng.integers(low, 255 if dtype == "uint8" else 127, shape, dtype, endpoint=True)
    return Spec(
        name="weights", shape=tuple(shape), dtype=dtype, data=data, scales=scales, axis=axis,
        zero_points=(int(rng.integers(0, 255)) if dtype == "uint8" else 0,),
    )  # fmt: skip


def bias(rng: np.random.Generator, count: int, source: Spec, kernel: Spec) -> Spec:
    scales = tuple(float(np.float32(source.scales[0]) * np.float32(scale)) for scale in kernel.scales)
    dtype = "int64" if source.dtype == "int16" else "int32"
    return constant("bias", rng.integers(-3000, 3000, count), dtype, scales=scales)


def extent(image: int, size: int, stride: int, dilation: int, padding: int) -> int:
    return -(-image // stride) if padding == SAME else (image - dilation * (size - 1) - 1) // stride + 1


def convolution(
    image: Sequence[int], size: Sequence[int], outputs: int, *, padding: int = SAME, strides: Sequence[int] = (1, 1),
    dilations: Sequence[int] = (1, 1), activation: int = NONE, dtype: str = "int8", is_per_channel: bool = True,
    groups: int = 1,
) -> Case:  # fmt: skip
    def make(rng: np.random.Generator) -> Graph:
        source = tensor(rng, "input", (1, *image), dtype)
        kernel = weights(
            rng,
            (outputs, *size, image[2] // groups),
            0,
            dtype="uint8" if dtype == "uint8" else "int8",
            is_per_channel=is_per_channel,
        )
        shape = [extent(image[axis], size[axis], strides[axis], dilations[axis], padding) for axis in (0, 1)]
        result = tensor(
            rng,
            "output",
            (1, *shape, outputs),
            dtype,
            scales=(float(np.float32(rng.uniform(0.2, 2.0) * source.scales[0] * 16)),),
        )
        return single(
            "CONV_2D", (source, kernel, bias(rng, outputs, source, kernel)), result, "Conv2DOptions",
            Padding=padding, StrideH=strides[0], StrideW=strides[1], DilationHFactor=dilations[0], DilationWFactor=dilations[1],
            FusedActivationFunction=activation,
        )  # fmt: skip

    return make


def channels_apart(rng: np.random.Generator) -> Graph:
    """Make a convolution whose channels have the factors from far above 1 to almost 0."""
    graph = convolution((5, 4, 3), (1, 1), 8)(rng)
    scales = tuple(float(np.float32(item)) for item in (3.0, 1.0, 0.5, 0.01, 1e-4, 1e-6, 1e-9, 1e-12))
    changed: Mapping[str, Any] = {
        "weights": {"scales": scales},
        "bias": {"scales": scales},
        "input": {"scales": (1.0,)},
        "output": {"scales": (2.0,)},
    }
    return replace(graph, tensors=tuple(replace(spec, **changed[spec.name]) for spec in graph.tensors))


def small_factors(rng: np.random.Generator) -> Graph:
    graph = convolution((5, 4, 3), (1, 1), 8)(rng)
    scales = tuple(float(np.float32(10.0 ** -(index + 1))) for index in range(8))
    return replace(
        graph, tensors=tuple(replace(spec, scales=scales) if len(spec.scales) == 8 else spec for spec in graph.tensors)
    )


def depthwise(
    image: Sequence[int], size: Sequence[int], times: int = 1, *, padding: int = SAME, strides: Sequence[int] = (1, 1),
    dilations: Sequence[int] = (1, 1), activation: int = NONE, dtype: str = "int8", is_per_channel: bool = True,
) -> Case:  # fmt: skip
    def make(rng: np.random.Generator) -> Graph:
        source = tensor(rng, "input", (2, *image), dtype)
        outputs = image[2] * times
        kernel = weights(
            rng, (1, *size, outputs), 3, dtype="uint8" if dtype == "uint8" else "int8", is_per_channel=is_per_channel
        )
        shape = [extent(image[axis], size[axis], strides[axis], dilations[axis], padding) for axis in (0, 1)]
        result = tensor(rng, "output", (2, *shape, outputs), dtype)
        return single(
            "DEPTHWISE_CONV_2D", (source, kernel, bias(rng, outputs, source, kernel)), result, "DepthwiseConv2DOptions",
            Padding=padding, StrideH=strides[0], StrideW=strides[1], DilationHFactor=dilations[0], DilationWFactor=dilations[1],
            FusedActivationFunction=activation, DepthMultiplier=times,
        )  # fmt: skip

    return make


def transposed(image: Sequence[int], size: Sequence[int], outputs: int, strides: Sequence[int], padding: int) -> Case:
    def make(rng: np.random.Generator) -> Graph:
        source = tensor(rng, "input", (1, *image))
        kernel = weights(rng, (outputs, *size, image[2]), 0)
        shape = [
            1,
            *(
                image[axis] * strides[axis] + (0 if padding == SAME else max(size[axis] - strides[axis], 0))
                for axis in (0, 1)
            ),
            outputs,
        ]
        return single(
            "TRANSPOSE_CONV", (constant("shape", shape), kernel, source, bias(rng, outputs, source, kernel)), tensor(rng, "output", shape),
            "TransposeConvOptions", Padding=padding, StrideH=strides[0], StrideW=strides[1],
        )  # fmt: skip

    return make


def layer(
    shape: Sequence[int], outputs: int, *, keeps: bool = False, is_per_channel: bool = False, has_bias: bool = True,
    activation: int = NONE, dtype: str = "int8",
) -> Case:  # fmt: skip
    def make(rng: np.random.Generator) -> Graph:
        source = tensor(rng, "input", shape, dtype)
        kernel = weights(
            rng, (outputs, shape[-1]), 0, dtype="uint8" if dtype == "uint8" else "int8", is_per_channel=is_per_channel
        )
        rows = int(np.prod(shape[:-1]))
        result = tensor(rng, "output", (*shape[:-1], outputs) if keeps else (rows, outputs), dtype)
        return single(
            "FULLY_CONNECTED", (source, kernel, bias(rng, outputs, source, kernel) if has_bias else None), result,
            "FullyConnectedOptions", KeepNumDims=keeps, FusedActivationFunction=activation,
        )  # fmt: skip

    return make


def pool(  # noqa: PLR0917  # what a pool takes
    name: str,
    image: Sequence[int],
    size: Sequence[int],
    strides: Sequence[int],
    padding: int,
    activation: int = NONE,
    dtype: str = "int8",
) -> Case:
    def make(rng: np.random.Generator) -> Graph:
        source = tensor(rng, "input", (1, *image), dtype)
        shape = [extent(image[axis], size[axis], strides[axis], 1, padding) for axis in (0, 1)]
        return single(
            name, (source,), same(source, "output", (1, *shape, image[2])), "Pool2DOptions", Padding=padding, StrideH=strides[0],
            StrideW=strides[1], FilterHeight=size[0], FilterWidth=size[1], FusedActivationFunction=activation,
        )  # fmt: skip

    return make


def binary(
    name: str, kind: str = "", left: Sequence[int] = (2, 3, 4), right: Sequence[int] = (2, 3, 4), *, dtype: str = "int8",
    has_one_scale: bool = False, is_constant: bool = False, **options: Any,
) -> Case:  # fmt: skip
    def make(rng: np.random.Generator) -> Graph:
        first, second = tensor(rng, "left", left, dtype), tensor(rng, "right", right, dtype)
        second = same(first, "right", right) if has_one_scale else second
        if is_constant:
            low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
            data = rng.integers(low, high, tuple(right), dtype, endpoint=True)
            second = Spec(
                name="right",
                shape=second.shape,
                dtype=dtype,
                scales=second.scales,
                zero_points=second.zero_points,
                data=data,
            )
        shape = np.broadcast_shapes(tuple(left), tuple(right))
        result = same(first, "output", shape) if has_one_scale else tensor(rng, "output", shape, dtype)
        return single(name, (first, second), result, kind, **options)

    return make


def unary(
    name: str, kind: str = "", *, dtype: str = "int8", scales: Sequence[float] = (), zero: int = 0, **options: Any
) -> Case:
    """Make an operator of one input; `scales` and `zero` are those that an output must have."""

    def make(rng: np.random.Generator) -> Graph:
        fields: Mapping[str, Any] = {"scales": tuple(scales), "zero_points": (zero,)} if scales else {}
        return single(
            name,
            (tensor(rng, "input", (2, 3, 64), dtype),),
            tensor(rng, "output", (2, 3, 64), dtype, **fields),
            kind,
            **options,
        )

    return make


def hard_swish(rng: np.random.Generator) -> Graph:
    source = tensor(rng, "input", (1, 256))
    return single(
        "HARD_SWISH",
        (source,),
        tensor(rng, "output", (1, 256), scales=(source.scales[0] * float(rng.uniform(0.3, 1)),)),
        "HardSwishOptions",
    )


def unscaled(
    name: str,
    shape: Sequence[int],
    output: Sequence[int],
    *constants: Any,
    kind: str = "",
    dtype: str = "int8",
    **options: Any,
) -> Case:
    """Make an operator that only moves data; `constants` are its further inputs."""

    def make(rng: np.random.Generator) -> Graph:
        source = tensor(rng, "input", shape, dtype)
        further = [constant(f"constant_{index}", item) for index, item in enumerate(constants)]
        return single(name, (source, *further), same(source, "output", output), kind, **options)

    return make


def reduction(name: str, shape: Sequence[int], axes: Sequence[int], *, keeps: bool, dtype: str = "int8") -> Case:
    def make(rng: np.random.Generator) -> Graph:
        source = tensor(rng, "input", shape, dtype)
        chosen = {axis % len(shape) for axis in axes}
        wanted = [1 if axis in chosen else size for axis, size in enumerate(shape) if keeps or axis not in chosen]
        result = same(source, "output", wanted) if name == "REDUCE_MAX" else tensor(rng, "output", wanted, dtype)
        return single(name, (source, constant("axes", axes)), result, "ReducerOptions", KeepDims=keeps)

    return make


def padded_with_value(rng: np.random.Generator) -> Graph:
    source = tensor(rng, "input", (2, 3, 4))
    value = constant("value", rng.integers(-128, 127, 1), "int8", scales=source.scales, zero_points=source.zero_points)
    return single(
        "PADV2",
        (source, constant("padding", [[1, 0], [0, 2], [3, 1]]), value),
        same(source, "output", (3, 5, 8)),
        "PadV2Options",
    )


def split(rng: np.random.Generator) -> Graph:
    source = tensor(rng, "input", (2, 6, 3))
    parts = [same(source, f"output_{index}", (2, 2, 3)) for index in range(3)]
    return single("SPLIT", (constant("axis", 1), source), parts, "SplitOptions", NumSplits=3)


def split_unevenly(rng: np.random.Generator) -> Graph:
    source = tensor(rng, "input", (2, 6, 3))
    parts = [same(source, "first", (2, 1, 3)), same(source, "second", (2, 5, 3))]
    return single(
        "SPLIT_V", (source, constant("sizes", [1, -1]), constant("axis", -2)), parts, "SplitVOptions", NumSplits=2
    )


def packed(rng: np.random.Generator) -> Graph:
    left, right = (tensor(rng, name, (2, 3)) for name in ("left", "right"))
    return single(
        "PACK",
        (left, same(left, "right", right.shape)),
        same(left, "output", (2, 2, 3)),
        "PackOptions",
        Axis=1,
        ValuesCount=2,
    )


def unpacked(rng: np.random.Generator) -> Graph:
    source = tensor(rng, "input", (2, 3, 4))
    parts = [same(source, f"output_{index}", (2, 4)) for index in range(3)]
    return single("UNPACK", (source,), parts, "UnpackOptions", Axis=1, Num=3)


def joined(dtype: str, axis: int) -> Case:
    def make(rng: np.random.Generator) -> Graph:
        source = tensor(rng, "left", (2, 3, 4), dtype)
        other, wanted = [2, 3, 4], [2, 3, 4]
        other[axis] = 5
        wanted[axis] += 5
        return single(
            "CONCATENATION",
            (source, same(source, "right", other)),
            same(source, "output", wanted),
            "ConcatenationOptions",
            Axis=axis,
        )

    return make


def requantized(source_dtype: str, dtype: str) -> Case:
    def make(rng: np.random.Generator) -> Graph:
        return single(
            "QUANTIZE",
            (tensor(rng, "input", (3, 100), source_dtype),),
            tensor(rng, "output", (3, 100), dtype),
            "QuantizeOptions",
        )

    return make


def dequantized(dtype: str) -> Case:
    def make(rng: np.random.Generator) -> Graph:
        result = Spec(name="output", shape=(3, 100), dtype="float32")
        return single("DEQUANTIZE", (tensor(rng, "input", (3, 100), dtype),), result, "DequantizeOptions")

    return make


def matmul(left: Sequence[int], right: Sequence[int], output: Sequence[int], **options: bool) -> Case:
    def make(rng: np.random.Generator) -> Graph:
        result = tensor(rng, "output", output, scales=(float(rng.uniform(0.05, 0.5)),))
        return single(
            "BATCH_MATMUL",
            (tensor(rng, "left", left), tensor(rng, "right", right)),
            result,
            "BatchMatMulOptions",
            **options,
        )

    return make


def softmax(shape: Sequence[int], scale: float | None = None, dtype: str = "int8", beta: float = 1.0) -> Case:
    def make(rng: np.random.Generator) -> Graph:
        source = tensor(rng, "input", shape, dtype, **({} if scale is None else {"scales": (scale,)}))
        low = int(np.iinfo(dtype).min)
        result = tensor(rng, "output", shape, dtype, scales=(1 / 256,), zero_points=(low,))
        return single("SOFTMAX", (source,), result, "SoftmaxOptions", Beta=beta)

    return make


def prelu(rng: np.random.Generator) -> Graph:
    slopes = tensor(rng, "slopes", (1, 1, 5))
    data = rng.integers(-128, 127, (1, 1, 5), "int8", endpoint=True)
    known = Spec(name="slopes", shape=slopes.shape, scales=slopes.scales, zero_points=slopes.zero_points, data=data)
    return single("PRELU", (tensor(rng, "input", (1, 4, 3, 5)), known), tensor(rng, "output", (1, 4, 3, 5)))


def resized(name: str, image: Sequence[int], size: Sequence[int], *, is_aligned: bool, is_centered: bool) -> Case:
    kind = "ResizeBilinearOptions" if "BILINEAR" in name else "ResizeNearestNeighborOptions"
    return unscaled(
        name, (1, *image), (1, *size, image[2]), size, kind=kind, AlignCorners=is_aligned, HalfPixelCenters=is_centered
    )


CASES: dict[str, Case] = {
    "ABS": unary("ABS", "AbsOptions"),
    "ADD": binary("ADD", "AddOptions"),
    "ADD of a row": binary("ADD", "AddOptions", (2, 3, 4), (4,), FusedActivationFunction=RELU6),
    "ADD of a constant": binary(
        "ADD", "AddOptions", (1, 3, 4), (1, 1, 4), is_constant=True, FusedActivationFunction=RELU
    ),
    "ADD uint8": binary("ADD", "AddOptions", dtype="uint8"),
    "ADD int16": binary("ADD", "AddOptions", dtype="int16", PotScaleInt16=False),
    "AVERAGE_POOL_2D": pool("AVERAGE_POOL_2D", (7, 6, 5), (2, 3), (2, 1), VALID),
    "AVERAGE_POOL_2D of all": pool("AVERAGE_POOL_2D", (7, 6, 5), (7, 6), (1, 1), VALID),
    "AVERAGE_POOL_2D padded": pool("AVERAGE_POOL_2D", (7, 6, 5), (3, 3), (2, 2), SAME, RELU),
    "AVERAGE_POOL_2D uint8": pool("AVERAGE_POOL_2D", (7, 6, 5), (3, 3), (2, 2), SAME, dtype="uint8"),
    "AVERAGE_POOL_2D int16": pool("AVERAGE_POOL_2D", (7, 6, 5), (3, 3), (2, 2), SAME, dtype="int16"),
    "BATCH_MATMUL": matmul((2, 3, 4), (2, 4, 5), (2, 3, 5)),
    "BATCH_MATMUL transposed": matmul((1, 2, 4, 3), (1, 2, 5, 4), (1, 2, 3, 5), AdjX=True, AdjY=True),
    "CONCATENATION": joined("int8", 2),
    "CONCATENATION uint8": joined("uint8", 0),
    "CONV_2D": convolution((8, 9, 4), (3, 3), 8),
    "CONV_2D of factors far apart": channels_apart,
    "CONV_2D of small factors": small_factors,
    "CONV_2D of points": convolution((5, 4, 16), (1, 1), 6, activation=RELU),
    "CONV_2D strided": convolution((9, 8, 3), (3, 5), 7, strides=(2, 3), activation=RELU6),
    "CONV_2D valid": convolution((9, 8, 3), (3, 2), 4, padding=VALID, activation=RELU_N1_TO_1),
    "CONV_2D dilated": convolution((11, 12, 3), (3, 3), 4, dilations=(2, 3)),
    "CONV_2D dilated, valid": convolution((11, 12, 3), (3, 3), 4, dilations=(2, 3), padding=VALID),
    "CONV_2D in groups": convolution((6, 5, 8), (3, 3), 12, groups=4),
    "CONV_2D of one channel": convolution((20, 10, 1), (10, 4), 16, strides=(2, 2)),
    "CONV_2D with one scale": convolution((6, 5, 8), (3, 3), 10, is_per_channel=False),
    "CONV_2D uint8": convolution((6, 5, 8), (3, 3), 10, is_per_channel=False, dtype="uint8"),
    "CONV_2D int16": convolution((6, 5, 8), (3, 3), 10, dtype="int16"),
    "DEPTHWISE_CONV_2D": depthwise((7, 8, 6), (3, 3)),
    "DEPTHWISE_CONV_2D strided": depthwise((9, 8, 6), (3, 3), strides=(2, 2), activation=RELU6),
    "DEPTHWISE_CONV_2D valid": depthwise((9, 8, 6), (4, 3), padding=VALID, activation=RELU),
    "DEPTHWISE_CONV_2D dilated": depthwise((9, 8, 3), (3, 3), dilations=(2, 2)),
    "DEPTHWISE_CONV_2D several times": depthwise((9, 8, 3), (3, 5), 4),
    "DEPTHWISE_CONV_2D of a large window": depthwise((20, 12, 1), (10, 8), 8, strides=(2, 2)),
    "DEPTHWISE_CONV_2D with one scale": depthwise((7, 8, 6), (3, 3), is_per_channel=False),
    "DEPTHWISE_CONV_2D uint8": depthwise((7, 8, 6), (3, 3), is_per_channel=False, dtype="uint8"),
    "DEPTHWISE_CONV_2D int16": depthwise((7, 8, 6), (3, 3), dtype="int16"),
    "DEPTH_TO_SPACE": unscaled("DEPTH_TO_SPACE", (1, 2, 3, 12), (1, 4, 6, 3), kind="DepthToSpaceOptions", BlockSize=2),
    "DEQUANTIZE": dequantized("int8"),
    "DEQUANTIZE uint8": dequantized("uint8"),
    "DEQUANTIZE int16": dequantized("int16"),
    "EXPAND_DIMS": unscaled("EXPAND_DIMS", (2, 3), (2, 1, 3), 1, kind="ExpandDimsOptions"),
    "FULLY_CONNECTED": layer((3, 40), 8),
    "FULLY_CONNECTED with a scale per channel": layer((1, 70), 10, is_per_channel=True, activation=RELU),
    "FULLY_CONNECTED without bias": layer((2, 9), 7, has_bias=False, activation=RELU6),
    "FULLY_CONNECTED that keeps dimensions": layer((2, 3, 20), 5, keeps=True),
    "FULLY_CONNECTED of several dimensions": layer((2, 3, 20), 5),
    "FULLY_CONNECTED uint8": layer((3, 40), 8, dtype="uint8"),
    "FULLY_CONNECTED int16": layer((3, 40), 8, dtype="int16"),
    "GATHER": unscaled("GATHER", (3, 4, 5), (3, 2, 5), [3, 1], kind="GatherOptions", Axis=1),
    "HARD_SWISH": hard_swish,
    "LEAKY_RELU": unary("LEAKY_RELU", "LeakyReluOptions", Alpha=0.1),
    "LEAKY_RELU uint8": unary("LEAKY_RELU", "LeakyReluOptions", dtype="uint8", Alpha=0.3),
    "LOGISTIC": unary("LOGISTIC", scales=(1 / 256,), zero=-128),
    "LOGISTIC uint8": unary("LOGISTIC", scales=(1 / 256,), dtype="uint8"),
    "MAXIMUM": binary("MAXIMUM", "MaximumMinimumOptions", right=(4,), has_one_scale=True),
    "MAX_POOL_2D": pool("MAX_POOL_2D", (7, 6, 5), (2, 2), (2, 2), VALID),
    "MAX_POOL_2D padded": pool("MAX_POOL_2D", (7, 6, 5), (3, 2), (2, 2), SAME, RELU6),
    "MAX_POOL_2D uint8": pool("MAX_POOL_2D", (7, 6, 5), (3, 2), (2, 2), SAME, dtype="uint8"),
    "MEAN": reduction("MEAN", (1, 5, 6, 7), (1, 2), keeps=True),
    "MEAN of the last": reduction("MEAN", (2, 5, 6), (-1,), keeps=False),
    "MEAN uint8": reduction("MEAN", (1, 5, 6, 7), (1, 2), keeps=False, dtype="uint8"),
    "MEAN int16": reduction("MEAN", (1, 5, 6, 7), (1, 2), keeps=False, dtype="int16"),
    "MINIMUM": binary("MINIMUM", "MaximumMinimumOptions", has_one_scale=True),
    "MIRROR_PAD": unscaled("MIRROR_PAD", (3, 4), (6, 9), [[1, 2], [3, 2]], kind="MirrorPadOptions", Mode=0),
    "MIRROR_PAD symmetric": unscaled("MIRROR_PAD", (3, 4), (6, 9), [[1, 2], [3, 2]], kind="MirrorPadOptions", Mode=1),
    "MUL": binary("MUL", "MulOptions"),
    "MUL of channels": binary("MUL", "MulOptions", (1, 3, 4, 5), (1, 1, 1, 5), FusedActivationFunction=RELU),
    "MUL uint8": binary("MUL", "MulOptions", dtype="uint8"),
    "MUL int16": binary("MUL", "MulOptions", dtype="int16"),
    "PACK": packed,
    "PAD": unscaled("PAD", (1, 3, 4, 2), (1, 6, 5, 2), [[0, 0], [1, 2], [0, 1], [0, 0]], kind="PadOptions"),
    "PADV2": padded_with_value,
    "PRELU": prelu,
    "QUANTIZE of floats": requantized("float32", "int8"),
    "QUANTIZE of floats to uint8": requantized("float32", "uint8"),
    "QUANTIZE of floats to int16": requantized("float32", "int16"),
    "QUANTIZE to another scale": requantized("int8", "int8"),
    "QUANTIZE to unsigned": requantized("int8", "uint8"),
    "QUANTIZE to signed": requantized("uint8", "int8"),
    "QUANTIZE to 16 bits": requantized("int8", "int16"),
    "QUANTIZE from 16 bits": requantized("int16", "int8"),
    "REDUCE_MAX": reduction("REDUCE_MAX", (2, 5, 6), (1,), keeps=True),
    "RELU": unary("RELU"),
    "RELU uint8": unary("RELU", dtype="uint8"),
    "RELU int16": unary("RELU", dtype="int16"),
    "RELU of one scale": unscaled("RELU", (2, 3, 50), (2, 3, 50)),
    "RELU6": unary("RELU6"),
    "RELU_N1_TO_1": unary("RELU_N1_TO_1"),
    "RESHAPE": unscaled("RESHAPE", (2, 3, 4), (6, 4), [-1, 4], kind="ReshapeOptions"),
    "RESHAPE by option": unscaled("RESHAPE", (2, 3, 4), (4, 6), kind="ReshapeOptions", NewShape=[4, 6]),
    "RESIZE_BILINEAR": resized("RESIZE_BILINEAR", (5, 4, 3), (9, 11), is_aligned=False, is_centered=False),
    "RESIZE_BILINEAR aligned": resized("RESIZE_BILINEAR", (5, 4, 3), (9, 11), is_aligned=True, is_centered=False),
    "RESIZE_BILINEAR centered": resized("RESIZE_BILINEAR", (5, 4, 3), (9, 3), is_aligned=False, is_centered=True),
    "RESIZE_NEAREST_NEIGHBOR": resized(
        "RESIZE_NEAREST_NEIGHBOR", (5, 4, 3), (9, 11), is_aligned=False, is_centered=False
    ),
    "RESIZE_NEAREST_NEIGHBOR aligned": resized(
        "RESIZE_NEAREST_NEIGHBOR", (5, 4, 3), (9, 3), is_aligned=True, is_centered=False
    ),
    "RESIZE_NEAREST_NEIGHBOR centered": resized(
        "RESIZE_NEAREST_NEIGHBOR", (5, 4, 3), (9, 3), is_aligned=False, is_centered=True
    ),
    "SLICE": unscaled("SLICE", (3, 4, 5), (2, 4, 3), [1, 0, 2], [2, -1, 3], kind="SliceOptions"),
    "SOFTMAX": softmax((3, 10)),
    "SOFTMAX of many": softmax((2, 3, 400), 0.02),
    "SOFTMAX of far distances": softmax((4, 12), 1.1),
    "SOFTMAX with beta": softmax((4, 12), beta=0.25),
    "SOFTMAX uint8": softmax((4, 12), dtype="uint8"),
    "SPACE_TO_DEPTH": unscaled("SPACE_TO_DEPTH", (1, 4, 6, 3), (1, 2, 3, 12), kind="SpaceToDepthOptions", BlockSize=2),
    "SPLIT": split,
    "SPLIT_V": split_unevenly,
    "SQUEEZE": unscaled("SQUEEZE", (1, 3, 1, 4), (1, 3, 4), kind="SqueezeOptions", SqueezeDims=[2]),
    "STRIDED_SLICE": unscaled(
        "STRIDED_SLICE",
        (6, 5, 4),
        (2, 5),
        [1, 0, -1],
        [5, 0, 0],
        [2, 1, 1],
        kind="StridedSliceOptions",
        EndMask=2,
        ShrinkAxisMask=4,
    ),
    "STRIDED_SLICE backwards": unscaled(
        "STRIDED_SLICE", (6, 5), (3, 5), [5, 4], [0, 0], [-2, -1], kind="StridedSliceOptions", EndMask=2
    ),
    "SUB": binary("SUB", "SubOptions"),
    "SUB of a row": binary("SUB", "SubOptions", (4,), (2, 3, 4), FusedActivationFunction=RELU),
    "SUB uint8": binary("SUB", "SubOptions", dtype="uint8"),
    "SUM uint8": reduction("SUM", (2, 5, 6), (1,), keeps=False, dtype="uint8"),
    "TANH": unary("TANH", scales=(1 / 128,), zero=0),
    "TANH uint8": unary("TANH", scales=(1 / 128,), zero=128, dtype="uint8"),
    "TRANSPOSE": unscaled("TRANSPOSE", (2, 3, 4, 5), (2, 5, 3, 4), [0, 3, 1, 2], kind="TransposeOptions"),
    "TRANSPOSE int16": unscaled("TRANSPOSE", (2, 3, 4), (4, 3, 2), [2, 1, 0], kind="TransposeOptions", dtype="int16"),
    "TRANSPOSE_CONV": transposed((4, 3, 5), (3, 3), 6, (2, 2), SAME),
    "TRANSPOSE_CONV valid": transposed((4, 3, 5), (3, 2), 4, (2, 1), VALID),
    "UNPACK": unpacked,
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", sorted(CASES))
def test_an_operator_gives_the_bits_of_the_reference_kernel(name: str, seed: int) -> None:
    rng = np.random.default_rng((seed, *name.encode()))
    assert_equal(CASES[name](rng), rng)


def test_an_operator_of_constants_alone_is_left_to_the_firmware(tmp_path: Path) -> None:
    """TVM would fold it by running it on this machine, which has not the C that it calls."""
    rng = np.random.default_rng(7)
    left, right = (constant(name, rng.integers(-128, 127, 6), "int8", scales=(0.1,), zero_points=(3,)) for name in "ab")
    given = tensor(rng, "given", (6,))
    both, output = tensor(rng, "both", (6,)), tensor(rng, "output", (6,))
    operators = (
        Op(name="ADD", inputs=("a", "b"), outputs=("both",), kind="AddOptions"),
        Op(name="MUL", inputs=("given", "both"), outputs=("output",), kind="MulOptions"),
    )
    graph = Graph(
        tensors=(left, right, given, both, output), operators=operators, inputs=("given",), outputs=("output",)
    )
    (tmp_path / "net.tflite").write_bytes(model_file(graph))

    code = "import sys, mlf; mlf.export(sys.argv[1], output=sys.argv[2], model=mlf.ModelOptions(is_checked=True))"
    subprocess.run([sys.executable, "-c", code, tmp_path / "net.tflite", tmp_path / "net.tar"], check=True)

    array = rng.integers(-128, 127, 6, "int8")
    (expected,) = reference_outputs(model_file(graph), [array])
    np.testing.assert_array_equal(mlf.run(tmp_path / "net.tar", {"given": array}).outputs["output"], expected)


def as_signed(spec: Spec) -> Spec:
    zero_points = tuple(item - 128 for item in spec.zero_points)
    return replace(spec, dtype="int8", zero_points=zero_points) if spec.dtype == "uint8" else spec


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sum_of_signed_integers_is_that_of_the_unsigned_ones_128_above(seed: int) -> None:
    # LiteRT 2.3's reference kernel takes signed integers for unsigned ones.
    rng = np.random.default_rng(seed)
    unsigned = reduction("SUM", (2, 5, 6), (1,), keeps=False, dtype="uint8")(rng)
    signed = replace(unsigned, tensors=tuple(map(as_signed, unsigned.tensors)))
    run = compiled(model_file(signed))
    for (inputs,) in inputs_of(unsigned, rng):
        (expected,) = reference_outputs(model_file(unsigned), [inputs])
        (actual,) = run([(inputs.astype("int16") - 128).astype("int8")])
        np.testing.assert_array_equal(actual, expected.astype("int16") - 128)


def conv_model(rng: np.random.Generator, **fields: Any) -> Graph:
    graph = convolution((6, 5, 8), (3, 3), 10)(rng)
    return replace(
        graph, tensors=tuple(replace(spec, **fields) if spec.name == "input" else spec for spec in graph.tensors)
    )


def test_tensors_have_the_names_shapes_and_scales_of_the_file() -> None:
    source = Spec(name="serving/x:0", shape=(1, 4), scales=(0.25,), zero_points=(-3,), signature=(-1, 4))
    result = Spec(name="Identity", shape=(1, 4), dtype="float32", signature=(-1, 4))
    imported = import_quantized(
        model_file(single("DEQUANTIZE", (source,), result, "DequantizeOptions")), where="model.tflite"
    )
    assert imported is not None
    assert imported.inputs == (
        Tensor(
            name="serving/x:0", c_name="serving_x_0", dtype="int8", shape=(1, 4), size_bytes=4,
            quantization=Quantization(scale=0.25, zero_point=-3),
        ),
    )  # fmt: skip
    assert imported.outputs == (
        Tensor(name="Identity", c_name="Identity", dtype="float32", shape=(1, 4), size_bytes=16, quantization=None),
    )


def test_a_model_of_floats_is_left_to_others() -> None:
    source, result = (Spec(name=name, shape=(2, 3), dtype="float32") for name in ("input", "output"))
    assert import_quantized(model_file(single("RELU", (source,), result)), where="model.tflite") is None


def chain(tensors: Sequence[Spec], operators: Sequence[Op], inputs: Sequence[str], outputs: Sequence[str]) -> Graph:
    return Graph(tensors=tuple(tensors), operators=tuple(operators), inputs=tuple(inputs), outputs=tuple(outputs))


def test_shapes_that_a_model_computes_are_folded() -> None:
    """Keras writes this for a Reshape behind an unknown batch size."""
    rng = np.random.default_rng(0)
    source = tensor(rng, "input", (1, 12), signature=(-1, 12))
    tensors = [
        source, Spec(name="shape", shape=(2,), dtype="int32"), constant("begin", [0]), constant("end", [1]), constant("step", [1]),
        Spec(name="batch", shape=(), dtype="int32"), constant("three", 3), constant("four", 4), Spec(name="wanted", shape=(3,), dtype="int32"),
        same(source, "output", (1, 3, 4)),
    ]  # fmt: skip
    operators = [
        Op(name="SHAPE", inputs=("input",), outputs=("shape",), kind="ShapeOptions", options={"OutType": 2}),
        Op(
            name="STRIDED_SLICE", inputs=("shape", "begin", "end", "step"), outputs=("batch",), kind="StridedSliceOptions",
            options={"ShrinkAxisMask": 1},
        ),
        Op(name="PACK", inputs=("batch", "three", "four"), outputs=("wanted",), kind="PackOptions", options={"ValuesCount": 3}),
        Op(name="RESHAPE", inputs=("input", "wanted"), outputs=("output",), kind="ReshapeOptions"),
    ]  # fmt: skip
    assert_equal(chain(tensors, operators, ["input"], ["output"]), rng)


def test_a_model_may_have_several_inputs_and_outputs() -> None:
    rng = np.random.default_rng(0)
    left, right = tensor(rng, "left", (2, 3)), tensor(rng, "right", (2, 3))
    total, product = tensor(rng, "total", (2, 3)), tensor(rng, "product", (2, 3))
    operators = [
        Op(name="MUL", inputs=("left", "right"), outputs=("product",), kind="MulOptions"),
        Op(name="ADD", inputs=("left", "product"), outputs=("total",), kind="AddOptions"),
    ]
    assert_equal(chain([left, right, total, product], operators, ["right", "left"], ["total", "product", "left"]), rng)


def test_an_operator_is_a_function_of_its_own_that_is_not_fused() -> None:
    import tvm  # noqa: PLC0415

    imported = import_quantized(model_file(conv_model(np.random.default_rng(0))), where="model.tflite")
    assert imported is not None
    functions = {
        name.name_hint: item for name, item in imported.module.functions.items() if isinstance(item, tvm.tirx.PrimFunc)
    }
    assert {name: int(item.attrs["op_pattern"]) for name, item in functions.items()} == {"conv2d_int8": 8}


def test_the_same_model_gives_the_same_module() -> None:
    data = model_file(conv_model(np.random.default_rng(0)))
    first, second = (import_quantized(data, where="model.tflite") for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.module.script() == second.module.script()


@pytest.mark.parametrize("name", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MUL", "MEAN"])
def test_rounding_of_floats_differs_by_one_at_most(name: str) -> None:
    rng = np.random.default_rng(0)
    graph = CASES[name](rng)
    data = model_file(graph)
    run = compiled(data, rounding="float")
    for inputs in inputs_of(graph, rng):
        (expected,) = reference_outputs(data, inputs)
        assert np.abs(run(inputs)[0].astype("int32") - expected).max() <= 1


def refusal(data: bytes, **options: Any) -> MlfError:
    with pytest.raises(MlfError) as caught:
        import_quantized(data, where="model.tflite", **options)
    return caught.value


def test_an_operator_without_an_integer_form_is_named_with_its_output() -> None:
    source = Spec(name="x", shape=(2, 3), scales=(0.5,))
    error = refusal(model_file(single("EXP", (source,), replace(source, name="dense/Exp"), "ExpOptions")))
    assert isinstance(error, UnsupportedError)
    assert str(error) == "model.tflite: operator 0, `EXP`, which gives `dense/Exp`, has no integer form that mlf knows"


def test_state_between_runs_is_refused() -> None:
    source = Spec(name="x", shape=(2, 3), scales=(0.5,))
    tensors = [source, Spec(name="model/stream", shape=(), dtype="resource"), replace(source, name="y")]
    operators = [
        Op(name="VAR_HANDLE", inputs=(), outputs=("model/stream",), kind="VarHandleOptions"),
        Op(name="READ_VARIABLE", inputs=("model/stream",), outputs=("y",)),
    ]
    error = refusal(model_file(chain(tensors, operators, ["x"], ["y"])))
    assert str(error) == "model.tflite: operator 0, `VAR_HANDLE`, which gives `model/stream`, keeps state between runs"


def test_a_call_of_another_subgraph_is_refused() -> None:
    source = Spec(name="x", shape=(2, 3), scales=(0.5,))
    main = chain(
        [source],
        [Op(name="CALL_ONCE", inputs=(), outputs=(), kind="CallOnceOptions", options={"InitSubgraphIndex": 1})],
        ["x"],
        ["x"],
    )
    error = refusal(model_file(main, chain([], [], [], [])))
    assert str(error) == "model.tflite: operator 0, `CALL_ONCE`, calls another subgraph"


def test_a_size_that_is_not_known_is_named() -> None:
    source = Spec(name="x", shape=(2, 3), scales=(0.5,))
    sizes = Spec(name="sizes", shape=(2,), dtype="int32")
    graph = single("RESHAPE", (source, sizes), replace(source, name="y"), "ReshapeOptions")
    expected = (
        "operator 0, `RESHAPE`, which gives `y`, takes its shape from `sizes`, which is not known before the model runs"
    )
    assert refusal(model_file(graph)).message == expected


def test_weights_that_are_not_known_are_named() -> None:
    graph = layer((3, 40), 8)(np.random.default_rng(0))
    unknown = tuple(replace(spec, data=None) if spec.name == "weights" else spec for spec in graph.tensors)
    error = refusal(model_file(replace(graph, tensors=unknown, inputs=("input", "weights"))))
    assert error.message == (
        "operator 0, `FULLY_CONNECTED`, which gives `output`, takes its weights from `weights`, which is not known before the model runs"
    )


def test_a_pool_that_changes_the_scale_is_refused() -> None:
    source = Spec(name="x", shape=(1, 4, 4, 2), scales=(0.5,), zero_points=(1,))
    result = Spec(name="y", shape=(1, 2, 2, 2), scales=(0.25,))
    graph = single(
        "MAX_POOL_2D", (source,), result, "Pool2DOptions", StrideH=2, StrideW=2, FilterHeight=2, FilterWidth=2
    )
    assert refusal(model_file(graph)).message == (
        "operator 0, `MAX_POOL_2D`, which gives `y`, changes the scale from (0.5, 1) to (0.25, 0)"
    )


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_a_scale_that_is_no_positive_number_is_refused(scale: float) -> None:
    source = Spec(name="x", shape=(2, 3), scales=(scale,))
    graph = single("DEQUANTIZE", (source,), Spec(name="y", shape=(2, 3), dtype="float32"), "DequantizeOptions")
    expected = f"operator 0, `DEQUANTIZE`, which gives `y`, has `x` with the scale {scale}, expected a number above 0"
    assert refusal(model_file(graph)).message == expected


def test_a_file_of_another_format_is_refused() -> None:
    error = refusal(b"no flatbuffer at all")
    assert isinstance(error, InputError)
    assert str(error) == "model.tflite: begins with b'latb' behind 4 bytes, expected b'TFL3' of a TensorFlow Lite model"


@pytest.mark.parametrize("kept", [8, 20, 100, 400])
def test_a_damaged_file_is_refused(kept: int) -> None:
    data = model_file(conv_model(np.random.default_rng(0)))
    assert str(refusal(data[:kept])) == "model.tflite: is a damaged TensorFlow Lite model"


def test_a_rounding_that_is_unknown_is_refused() -> None:
    error = refusal(b"", rounding="up")
    assert isinstance(error, UsageError)
    assert error.message == "the rounding `up` is unknown, expected `tflite` or `float`"
