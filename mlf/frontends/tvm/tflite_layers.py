"""Operators of integer TensorFlow Lite models that sum up: convolutions, layers, pools, reductions and the softmax.

The scale of an output is computed as LiteRT's reference kernels do, in single precision where they do: one bit of a factor
changes results.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mlf.frontends.tvm import fixedpoint, quantized_elements, quantized_layers
from mlf.frontends.tvm.quantized_layers import Window
from mlf.frontends.tvm.tflite_nodes import (
    Unsupported,
    activation_range,
    image_of,
    require_scale,
    reshaped,
    scale_of,
    single,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlf.frontends.tvm.requantization import Arithmetic, Requantization
    from mlf.frontends.tvm.tflite import Importer
    from mlf.frontends.tvm.tflite_nodes import Node
    from mlf.frontends.tvm.tflite_reader import FileTensor

_SAME = 0  # tflite.Padding


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weights:
    """The constants of an operator with weights; `array` has the output channels first."""

    array: Any
    zero_point: int
    bias: Any
    requantization: Requantization


def _weights(
    importer: Importer, node: Node, places: tuple[int, int, int], *, axis: int, is_layer: bool = False
) -> _Weights:
    """Read weights, bias and scales; `places` are those of the input, the weights and the bias among the node's inputs."""
    source, kernel = node.input(places[0]), node.input(places[1])
    array = importer.array(kernel, "weights")
    if array.dtype not in (np.int8, np.uint8):
        raise Unsupported(f"has weights of the type `{kernel.type_name}`, expected integers of 8 bits")
    channels = array.shape[axis]
    if len(kernel.scales) not in (1, channels):
        raise Unsupported(f"has weights with {len(kernel.scales)} scales for {channels} channels")
    if not all(0 <= scale < math.inf for scale in kernel.scales):
        raise Unsupported("has weights with scales that are no numbers from 0")
    if len(set(kernel.zero_points)) != 1:
        raise Unsupported("has weights with a zero point per channel")
    bias_tensor = node.optional(places[2])
    bias = None if bias_tensor is None else importer.array(bias_tensor, "bias")
    largest_sum = _largest_sum(array, kernel.zero_points[0], bias, source, axis)
    arithmetic = _arithmetic(source, bias, is_layer=is_layer)
    return _Weights(
        array=array, zero_point=kernel.zero_points[0], bias=_bias(bias, channels, largest_sum),
        requantization=importer.requantization(
            node.output, _factors(source, kernel, node.output), activation=node.option("FusedActivationFunction"),
            arithmetic=arithmetic, largest_sum=largest_sum,
        ),
    )  # fmt: skip


def _arithmetic(source: FileTensor, bias: Any, *, is_layer: bool) -> Arithmetic:
    if is_layer and source.dtype != "uint8":
        return "once"
    return "wide" if source.dtype == "int16" and (bias is None or bias.dtype == np.int64) else "twice"


def _largest_sum(weights: Any, zero_point: int, bias: Any, source: FileTensor, axis: int) -> int:
    """Give what no sum of products and bias, folded or not, exceeds."""
    low, high = fixedpoint.limits(source.dtype)
    largest_input = max(abs(low), abs(high)) + abs(scale_of(source)[1])
    others = tuple(place for place in range(weights.ndim) if place != axis)
    magnitudes = np.abs(weights.astype("int64") - zero_point).sum(axis=others)
    return int(magnitudes.max()) * largest_input + (
        0 if bias is None else int(np.abs(bias.astype("int64")).max(initial=0))
    )


def _factors(source: FileTensor, kernel: FileTensor, output: FileTensor) -> list[float]:
    """Give the scales of sums against that of the output; unsigned ones are multiplied in single precision."""
    input_scale, output_scale = scale_of(source)[0], scale_of(output)[0]
    if source.dtype == "uint8" and len(kernel.scales) == 1:
        left, right = single(input_scale, kernel.scales[0])
        return [float(left * right) / output_scale]
    factors = [input_scale * scale / output_scale for scale in kernel.scales]
    return factors[:1] if len(set(factors)) == 1 else factors


def _bias(bias: Any, channels: int, largest_sum: int) -> Any:
    """Give the bias in the type that all sums fit in."""
    bias = np.zeros(channels, "int64") if bias is None else bias.ravel()
    return bias.astype("int32" if largest_sum < 1 << 31 else "int64")


def _window(node: Node, image: tuple[int, int], size: tuple[int, int]) -> Window:
    strides = (node.option("StrideH"), node.option("StrideW"))
    dilations = (node.option("DilationHFactor", 1), node.option("DilationWFactor", 1))
    if min(*strides, *dilations) < 1:
        raise Unsupported(f"has the strides {strides} and the dilations {dilations}")
    if node.option("Padding") != _SAME:
        return Window(strides=strides, dilations=dilations)
    before, after = [], []
    for axis in (0, 1):
        steps = -(-image[axis] // strides[axis])
        total = max((steps - 1) * strides[axis] + dilations[axis] * (size[axis] - 1) + 1 - image[axis], 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return Window(strides=strides, dilations=dilations, padding=(*before, *after))


def _conv2d(importer: Importer, node: Node) -> Any:
    source = node.input(0)
    weights = _weights(importer, node, (0, 1, 2), axis=0)
    image, size = image_of(importer, source), weights.array.shape[1:3]
    window = _window(node, image, size)
    zero_point, bias = scale_of(source)[1], weights.bias
    if not quantized_layers.is_padded(window, image, size):
        bias = quantized_layers.folded_bias(bias, weights.array, zero_point, weight_zero_point=weights.zero_point)
        zero_point = 0
    function = partial(
        quantized_layers.conv2d, window=window, requantization=weights.requantization, input_zero_point=zero_point,
        weight_zero_point=weights.zero_point,
    )  # fmt: skip
    return importer.emit(
        function,
        importer.expression(source),
        weights.array,
        bias,
        *weights.requantization.tables(),
        name=f"conv2d_{source.dtype}",
    )


def _depthwise_conv2d(importer: Importer, node: Node) -> Any:
    source = node.input(0)
    weights = _weights(importer, node, (0, 1, 2), axis=3)
    zero_point = scale_of(source)[1]
    by_channel = weights.array.transpose(3, 0, 1, 2)
    bias = quantized_layers.folded_bias(weights.bias, by_channel, zero_point, weight_zero_point=weights.zero_point)
    function = partial(
        quantized_layers.depthwise_conv2d, window=_window(node, image_of(importer, source), weights.array.shape[1:3]),
        requantization=weights.requantization, padding_value=zero_point, weight_zero_point=weights.zero_point,
    )  # fmt: skip
    return importer.emit(
        function, importer.expression(source), weights.array[0], bias, *weights.requantization.tables(),
        name=f"depthwise_conv2d_{source.dtype}",
    )  # fmt: skip


def _fully_connected(importer: Importer, node: Node) -> Any:
    source = node.input(0)
    if node.option("WeightsFormat"):
        raise Unsupported("has shuffled weights")
    weights = _weights(importer, node, (0, 1, 2), axis=0, is_layer=True)
    outputs, depth = weights.array.shape
    shape = importer.shape_of(source)
    bias = quantized_layers.folded_bias(
        weights.bias, weights.array, scale_of(source)[1], weight_zero_point=weights.zero_point
    )
    rows = reshaped(importer, importer.expression(source), shape, (math.prod(shape) // depth, depth))
    function = partial(
        quantized_layers.fully_connected, requantization=weights.requantization, weight_zero_point=weights.zero_point
    )
    result = importer.emit(
        function, rows, weights.array, bias, *weights.requantization.tables(), name=f"fully_connected_{source.dtype}"
    )
    if not node.option("KeepNumDims"):
        return result
    return reshaped(importer, result, None, (*shape[:-1], outputs))


def _transpose_conv(importer: Importer, node: Node) -> Any:
    source = node.input(2)
    weights = _weights(importer, node, (2, 1, 3), axis=0)
    _, height, width, _ = importer.numbers(node.input(0), "shape")
    size = weights.array.shape[1:3]
    window = _window(node, (height, width), size)
    function = partial(
        quantized_layers.transpose_conv, window=window, output_size=(height, width), input_zero_point=scale_of(source)[1],
        weight_zero_point=weights.zero_point, requantization=weights.requantization,
    )  # fmt: skip
    return importer.emit(
        function, importer.expression(source), weights.array, weights.bias, *weights.requantization.tables(),
        name=f"transpose_conv_{source.dtype}",
    )  # fmt: skip


def _batch_matmul(importer: Importer, node: Node) -> Any:
    left, right = node.input(0), node.input(1)
    (left_scale, left_zero), (right_scale, right_zero) = scale_of(left), scale_of(right)
    factor = float(np.multiply(*single(left_scale, right_scale))) / scale_of(node.output)[0]
    shapes = [importer.shape_of(tensor) for tensor in (left, right)]
    stacks = [math.prod(shape[:-2]) for shape in shapes]
    if shapes[0][:-2] != shapes[1][:-2] and 1 not in stacks:
        raise Unsupported(f"has stacks of matrices of the shapes {shapes[0]} and {shapes[1]}")
    operands = [
        reshaped(importer, importer.expression(tensor), shape, (count, *shape[-2:]))
        for tensor, shape, count in zip((left, right), shapes, stacks, strict=True)
    ]
    function = partial(
        quantized_layers.batch_matmul, zero_points=(left_zero, right_zero), transposed=(bool(node.option("AdjX")), bool(node.option("AdjY"))),
        requantization=importer.requantization(node.output, [factor], arithmetic="wide" if left.dtype == "int16" else "twice"),
    )  # fmt: skip
    result = importer.emit(function, *operands, name=f"batch_matmul_{left.dtype}")
    outer = max(shapes, key=lambda shape: (math.prod(shape[:-2]), len(shape)))[:-2]
    rows = shapes[0][-1 if node.option("AdjX") else -2]
    columns = shapes[1][-2 if node.option("AdjY") else -1]
    return reshaped(importer, result, None, (*outer, rows, columns))


# Pools, reductions and the softmax.


def _pool(kind: Literal["average", "max"]) -> Callable[[Importer, Node], Any]:
    def handle(importer: Importer, node: Node) -> Any:
        source = node.input(0)
        require_scale(source, node.output)
        size = (node.option("FilterHeight"), node.option("FilterWidth"))
        low, high = activation_range(node.output, node.option("FusedActivationFunction"))
        window = _window(node, image_of(importer, source), size)
        function = partial(quantized_layers.pool2d, kind=kind, size=size, window=window, low=low, high=high)
        return importer.emit(function, importer.expression(source), name=f"{kind}_pool2d_{source.dtype}")

    return handle


def _axes(importer: Importer, node: Node, rank: int) -> tuple[int, ...]:
    axes = {axis % rank for axis in importer.numbers(node.input(1), "axes")}
    return tuple(sorted(axes))


def _reduce(kind: str) -> Callable[[Importer, Node], Any]:
    def handle(importer: Importer, node: Node) -> Any:
        source = node.input(0)
        shape = importer.shape_of(source)
        axes = _axes(importer, node, len(shape))
        requantization, offset = None, 0
        if kind == "reduce_max":
            require_scale(source, node.output)
        else:
            count = math.prod(shape[axis] for axis in axes)
            scale, zero_point = scale_of(source)
            requantization = importer.requantization(node.output, [scale / scale_of(node.output)[0]])
            if kind == "mean":
                requantization = replace(requantization, divisor=count)
            offset = zero_point * count
        function = partial(
            quantized_elements.reduce,
            axes=axes,
            keeps_axes=bool(node.option("KeepDims")),
            offset=offset,
            requantization=requantization,
        )
        return importer.emit(function, importer.expression(source), name=f"{kind}_{source.dtype}")

    return handle


def _softmax(importer: Importer, node: Node) -> Any:
    source = node.input(0)
    if source.dtype not in ("int8", "uint8") or node.output.dtype != source.dtype:
        raise Unsupported(f"is of the type `{source.type_name}`, expected integers of 8 bits")
    if importer.shape_of(source)[-1] >= 1 << quantized_layers.SUM_BITS:
        raise Unsupported(
            f"is over {importer.shape_of(source)[-1]} numbers, expected less than {1 << quantized_layers.SUM_BITS}"
        )
    table = fixedpoint.softmax_table(beta=float(node.option("Beta", 1.0)), input_scale=scale_of(source)[0])
    shape = importer.shape_of(source)
    rows = reshaped(importer, importer.expression(source), shape, (math.prod(shape[:-1]), shape[-1]))
    result = importer.emit(quantized_layers.softmax, rows, table, name=f"softmax_{source.dtype}")
    return reshaped(importer, result, None, shape)


LAYERS: Mapping[str, Callable[[Importer, Node], Any]] = {
    "AVERAGE_POOL_2D": _pool("average"),
    "BATCH_MATMUL": _batch_matmul,
    "CONV_2D": _conv2d,
    "DEPTHWISE_CONV_2D": _depthwise_conv2d,
    "FULLY_CONNECTED": _fully_connected,
    "MAX_POOL_2D": _pool("max"),
    "MEAN": _reduce("mean"),
    "REDUCE_MAX": _reduce("reduce_max"),
    "SOFTMAX": _softmax,
    "SUM": _reduce("sum"),
    "TRANSPOSE_CONV": _transpose_conv,
}
