"""Operators of integer TensorFlow Lite models that compute each element of their output from one element of their inputs.

Functions of one 8-bit tensor are tables of 256 bytes, computed at import.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mlf.frontends.tvm import fixedpoint, quantized_elements
from mlf.frontends.tvm.tflite_nodes import (
    ACTIVATIONS,
    Unsupported,
    require_scale,
    scale_of,
    single,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlf.frontends.tvm.requantization import Requantization
    from mlf.frontends.tvm.tflite import Importer
    from mlf.frontends.tvm.tflite_nodes import Node
    from mlf.frontends.tvm.tflite_reader import FileTensor


def _add(*, is_difference: bool) -> Callable[[Importer, Node], Any]:
    def handle(importer: Importer, node: Node) -> Any:
        operands = (node.input(0), node.input(1))
        (left, left_zero), (right, right_zero) = map(scale_of, operands)
        requantization = importer.requantization(node.output, [1.0], activation=node.option("FusedActivationFunction"))
        if node.output.dtype == "int16" and node.option("PotScaleInt16", 1) and _are_powers(*operands, node.output):
            raise Unsupported("adds integers of 16 bits whose scales are powers of two")
        function = partial(
            quantized_elements.add, scales=(left, right), zero_points=(left_zero, right_zero), is_difference=is_difference,
            output_scale=scale_of(node.output)[0], requantization=requantization,
        )  # fmt: skip
        name = "subtract" if is_difference else "add"
        return importer.emit(function, *map(importer.expression, operands), name=f"{name}_{node.output.dtype}")

    return handle


def _are_powers(*tensors: FileTensor) -> bool:
    return all(abs(math.log2(tensor.scales[0]) - round(math.log2(tensor.scales[0]))) < 1e-3 for tensor in tensors)


def _multiply(importer: Importer, node: Node) -> Any:
    operands = (node.input(0), node.input(1))
    (left, left_zero), (right, right_zero) = map(scale_of, operands)
    left, right, output = single(left, right, scale_of(node.output)[0])
    requantization = importer.requantization(
        node.output, [float(left * right / output)], activation=node.option("FusedActivationFunction")
    )
    function = partial(quantized_elements.multiply, zero_points=(left_zero, right_zero), requantization=requantization)
    return importer.emit(function, *map(importer.expression, operands), name=f"multiply_{node.output.dtype}")


def _extremum(*, is_maximum: bool) -> Callable[[Importer, Node], Any]:
    def handle(importer: Importer, node: Node) -> Any:
        operands = (node.input(0), node.input(1))
        for operand in operands:
            require_scale(operand, node.output)
        name = "maximum" if is_maximum else "minimum"
        function = partial(quantized_elements.extremum, is_maximum=is_maximum)
        return importer.emit(function, *map(importer.expression, operands), name=f"{name}_{node.output.dtype}")

    return handle


def _prelu(importer: Importer, node: Node) -> Any:
    source, slopes = node.input(0), node.input(1)
    (scale, zero), (slope_scale, slope_zero) = scale_of(source), scale_of(slopes)
    scale, slope_scale, output = single(scale, slope_scale, scale_of(node.output)[0])
    function = partial(
        quantized_elements.prelu, zero_points=(zero, slope_zero), positive=importer.requantization(node.output, [float(scale / output)]),
        negative=importer.requantization(node.output, [float(scale * slope_scale / output)]),
    )  # fmt: skip
    return importer.emit(
        function, importer.expression(source), importer.expression(slopes), name=f"prelu_{source.dtype}"
    )


def _tabulated(importer: Importer, node: Node, table: Any) -> Any:
    """Look 8-bit integers up in a table that holds the output of each."""
    source = node.input(0)
    word = node.operator.name.lower()
    return importer.emit(quantized_elements.lookup, importer.expression(source), table, name=f"{word}_{source.dtype}")


def _require_bytes(tensor: FileTensor) -> None:
    scale_of(tensor)
    if tensor.dtype == "int16":
        raise Unsupported("is of the type `INT16`, expected integers of 8 bits")


def _function(function: Callable[[Any], Any]) -> Callable[[Importer, Node], Any]:
    def handle(importer: Importer, node: Node) -> Any:
        source = node.input(0)
        _require_bytes(source)
        (scale, zero_point), (output_scale, output_zero) = scale_of(source), scale_of(node.output)
        table = fixedpoint.function_table(
            function, source.dtype, input_scale=scale, input_zero_point=zero_point, output_scale=output_scale,
            output_zero_point=output_zero,
        )  # fmt: skip
        return _tabulated(importer, node, table)

    return handle


def _hard_swish(importer: Importer, node: Node) -> Any:
    source = node.input(0)
    _require_bytes(source)
    (scale, zero_point), (output_scale, output_zero) = scale_of(source), scale_of(node.output)
    table = fixedpoint.hard_swish_table(
        source.dtype,
        input_scale=scale,
        input_zero_point=zero_point,
        output_scale=output_scale,
        output_zero_point=output_zero,
    )
    return _tabulated(importer, node, table)


def _relu(activation: str) -> Callable[[Importer, Node], Any]:
    def handle(importer: Importer, node: Node) -> Any:
        source = node.input(0)
        (scale, zero_point), (output_scale, _) = scale_of(source), scale_of(node.output)
        requantization = importer.requantization(
            node.output, [float(np.divide(*single(scale, output_scale)))], activation=ACTIVATIONS.index(activation)
        )
        if scale_of(source) == scale_of(node.output):
            function = partial(quantized_elements.clip, low=requantization.low, high=requantization.high)
            return importer.emit(function, importer.expression(source), name=f"relu_{source.dtype}")
        return _rescaled(importer, node, zero_point, requantization)

    return handle


def _rescaled(importer: Importer, node: Node, zero_point: int, requantization: Requantization) -> Any:
    source = node.input(0)
    if source.dtype != "int16":
        values = fixedpoint.all_values(source.dtype) - zero_point
        return _tabulated(importer, node, requantization.of_array(values))
    function = partial(quantized_elements.requantize, input_zero_point=zero_point, requantization=requantization)
    return importer.emit(function, importer.expression(source), name=f"{node.operator.name.lower()}_{source.dtype}")


def _leaky_relu(importer: Importer, node: Node) -> Any:
    source = node.input(0)
    _require_bytes(source)
    scale, alpha, output = single(scale_of(source)[0], node.option("Alpha", 0.0), scale_of(node.output)[0])
    values = fixedpoint.all_values(source.dtype) - scale_of(source)[1]
    positive = importer.requantization(node.output, [float(scale / output)]).of_array(values)
    slope = float(scale * alpha / output)
    negative = importer.requantization(node.output, [abs(slope)]).of_array(values if slope >= 0 else -values)
    return _tabulated(importer, node, np.where(values >= 0, positive, negative))


def _abs(importer: Importer, node: Node) -> Any:
    source = node.input(0)
    _require_bytes(source)
    (scale, zero_point), (output_scale, output_zero) = scale_of(source), scale_of(node.output)
    values = np.abs(fixedpoint.all_values(source.dtype) - zero_point)
    if scale == output_scale:
        return _tabulated(importer, node, fixedpoint.clipped(values + output_zero, source.dtype))
    requantization = importer.requantization(node.output, [float(np.divide(*single(scale, output_scale)))])
    return _tabulated(importer, node, requantization.of_array(values))


def _quantize(importer: Importer, node: Node) -> Any:
    source = node.input(0)
    scale, zero_point = scale_of(node.output)
    if source.dtype == "float32":
        function = partial(quantized_elements.quantize, scale=scale, zero_point=zero_point, dtype=node.output.dtype)
        return importer.emit(function, importer.expression(source), name=f"quantize_{node.output.dtype}")
    if scale_of(source) == scale_of(node.output) and source.dtype == node.output.dtype:
        return importer.expression(source)
    requantization = importer.requantization(node.output, [scale_of(source)[0] / scale])
    return _rescaled(importer, node, scale_of(source)[1], requantization)


def _dequantize(importer: Importer, node: Node) -> Any:
    source = node.input(0)
    scale, zero_point = scale_of(source)
    function = partial(quantized_elements.dequantize, scale=scale, zero_point=zero_point)
    return importer.emit(function, importer.expression(source), name=f"dequantize_{source.dtype}")


ELEMENTS: Mapping[str, Callable[[Importer, Node], Any]] = {
    "ABS": _abs,
    "ADD": _add(is_difference=False),
    "DEQUANTIZE": _dequantize,
    "HARD_SWISH": _hard_swish,
    "LEAKY_RELU": _leaky_relu,
    "LOGISTIC": _function(fixedpoint.logistic),
    "MAXIMUM": _extremum(is_maximum=True),
    "MINIMUM": _extremum(is_maximum=False),
    "MUL": _multiply,
    "PRELU": _prelu,
    "QUANTIZE": _quantize,
    "RELU": _relu("RELU"),
    "RELU6": _relu("RELU6"),
    "RELU_N1_TO_1": _relu("RELU_N1_TO_1"),
    "SUB": _add(is_difference=True),
    "TANH": _function(fixedpoint.tanh),
}
