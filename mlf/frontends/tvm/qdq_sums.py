"""Convolutions, matrix products, means: sums of products of integers, which are requantized or leave as floats."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mlf.frontends.tvm import qdq_kernels, quantized_layers
from mlf.frontends.tvm.qdq_kernels import Release
from mlf.frontends.tvm.qdq_layouts import (
    axes_of,
    from_image,
    has_layout,
    image_of,
    image_shape,
    pairs,
    pool_window,
    reduced,
    type_dtype,
    type_shape,
    window_of,
)
from mlf.frontends.tvm.qdq_values import Constant, Integers, Operand, Sum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlf.frontends.tvm.qdq import Rewriter
    from mlf.frontends.tvm.qdq_values import Array
    from mlf.frontends.tvm.quantized_layers import Window
    from mlf.frontends.tvm.requantization import Requantization

_MOST = (1 << 31) - 1  # that a sum of 32 bits can be
_LARGEST_INPUT = 255  # a difference of two 8-bit integers


def _unpadded(operand: Operand, window: Window) -> tuple[Operand, Window]:
    """Take over what the input was padded with into the window that moves over it."""
    padding = operand.integers.padding
    if padding is None or padding.value != operand.zero_point or any(padding.before[:2] + padding.after[:2]):
        return operand, window
    around = (*pairs(padding.before[2:], 0), *pairs(padding.after[2:], 0))
    total = tuple(first + second for first, second in zip(window.padding, around, strict=True))
    return replace(operand, integers=padding.inner), replace(window, padding=total)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Convolution:
    """A convolution of an image with weights OIHW, as many groups as their I fits into the channels."""

    operand: Operand
    array: Array
    weight_zero_point: int
    window: Window

    def emitted(self, rewriter: Rewriter, bias: Array, requantization: Requantization) -> Any:
        """Add the kernel that suits and give its output, NHWC."""
        source, dtype = image_of(rewriter, self.operand.integers), self.operand.integers.dtype
        is_depthwise = self.array.shape[1] == 1 and self.operand.integers.shape[1] > 1
        kind, make = ("depthwise_conv2d", self._depthwise) if is_depthwise else ("conv2d", self._full)
        function, kernel, start = make(bias, requantization)
        return rewriter.emit(function, source, kernel, start, *requantization.tables(), name=f"{kind}_{dtype}")

    def _folded(self, bias: Array) -> Array:
        zero_point = self.operand.zero_point
        folded = quantized_layers.folded_bias(bias, self.array, zero_point, weight_zero_point=self.weight_zero_point)
        return np.asarray(folded)

    def _full(self, bias: Array, requantization: Requantization) -> tuple[Any, Array, Array]:
        image, size = image_shape(self.operand.integers.shape)[1:3], self.array.shape[2:4]
        is_padded = quantized_layers.is_padded(self.window, image, (size[0], size[1]))
        function = partial(
            quantized_layers.conv2d, window=self.window, requantization=requantization,
            input_zero_point=self.operand.zero_point if is_padded else 0, weight_zero_point=self.weight_zero_point,
        )  # fmt: skip
        start = bias if is_padded else self._folded(bias)
        return function, np.ascontiguousarray(self.array.transpose(0, 2, 3, 1)), start

    def _depthwise(self, bias: Array, requantization: Requantization) -> tuple[Any, Array, Array]:
        function = partial(
            quantized_layers.depthwise_conv2d, window=self.window, requantization=requantization,
            padding_value=self.operand.zero_point, weight_zero_point=self.weight_zero_point,
        )  # fmt: skip
        return function, np.ascontiguousarray(self.array[:, 0].transpose(1, 2, 0)), self._folded(bias)


def conv(rewriter: Rewriter, variable: Any, call: Any, arguments: Sequence[Any]) -> Sum | None:
    """Take a convolution of one or two dimensions with constant weights."""
    operand, constant = rewriter.operand(rewriter.value(arguments[0])), rewriter.value(arguments[1])
    if operand is None or not isinstance(constant, Constant) or type_dtype(variable) not in ("float32", "int32"):
        return None
    weights = constant.weights(0)
    if weights is None or not has_layout(call.attrs, ("NCHW", "NCW"), ("OIHW", "OIW")):
        return None
    if _largest(weights.array, weights.zero_point) > _MOST:
        return None
    operand, window = _unpadded(operand, window_of(call.attrs))
    array, shape = weights.array, type_shape(variable)
    array = array.reshape(*array.shape[:2], 1, -1) if array.ndim == 3 else array
    convolution = _Convolution(operand=operand, array=array, weight_zero_point=weights.zero_point, window=window)

    def kernel(bias: Array | None, requantization: Requantization) -> Integers:
        start = np.zeros(shape[1], "int32") if bias is None else bias
        made = convolution.emitted(rewriter, start, requantization)
        return from_image(rewriter, made, shape, requantization.dtype)

    return Sum(
        kernel=kernel, shape=shape, input_scale=operand.scale, channel_scales=weights.scales, channel_axis=1,
        dtype=type_dtype(variable),
    )  # fmt: skip


def _largest(array: Array, zero_point: int) -> int:
    """Give what no sum of products with 8-bit integers exceeds; `array` has the output channels first."""
    magnitudes = np.abs(array.astype("int64") - zero_point).reshape(array.shape[0], -1).sum(axis=1)
    return int(magnitudes.max(initial=0)) * _LARGEST_INPUT


def conv_transpose(rewriter: Rewriter, variable: Any, call: Any, arguments: Sequence[Any]) -> Sum | None:
    """Take a transposed convolution, not dilated and of one group, with constant weights."""
    operand, constant = rewriter.operand(rewriter.value(arguments[0])), rewriter.value(arguments[1])
    if operand is None or not isinstance(constant, Constant) or type_dtype(variable) != "float32":
        return None
    weights, window, shape = constant.weights(1), window_of(call.attrs), type_shape(variable)
    if weights is None or not has_layout(call.attrs, ("NCHW",), ("IOHW",)):
        return None
    if (
        int(call.attrs.groups) != 1
        or window.dilations != (1, 1)
        or _largest(weights.array.swapaxes(0, 1), weights.zero_point) > _MOST
    ):
        return None
    array = np.ascontiguousarray(weights.array.transpose(1, 2, 3, 0))

    def kernel(bias: Array | None, requantization: Requantization) -> Integers:
        function = partial(
            quantized_layers.transpose_conv, window=window, output_size=(shape[2], shape[3]), input_zero_point=operand.zero_point,
            weight_zero_point=weights.zero_point, requantization=requantization,
        )  # fmt: skip
        start = np.zeros(shape[1], "int32") if bias is None else bias
        source, name = rewriter.form(operand.integers, "last"), f"transpose_conv_{operand.integers.dtype}"
        made = rewriter.emit(function, source, array, start, *requantization.tables(), name=name)
        return from_image(rewriter, made, shape, requantization.dtype)

    return Sum(kernel=kernel, shape=shape, input_scale=operand.scale, channel_scales=weights.scales, channel_axis=1)


def matmul(rewriter: Rewriter, variable: Any, _: Any, arguments: Sequence[Any]) -> Sum | None:
    """Take a matrix product, with constant weights or with another tensor of integers."""
    values = [rewriter.value(item) for item in arguments]
    left, dtype = rewriter.operand(values[0]), type_dtype(variable)
    if left is None or dtype not in ("float32", "int32"):
        return None
    weights = values[1].weights(1) if isinstance(values[1], Constant) and values[1].array.ndim == 2 else None
    if weights is None or len(left.integers.shape) < 2:
        return _stacked_matmul(rewriter, variable, left, rewriter.operand(values[1]))
    if _largest(weights.array.T, weights.zero_point) > _MOST:
        return None
    shape = type_shape(variable)

    def kernel(bias: Array | None, requantization: Requantization) -> Integers:
        rows, array = _rows(rewriter, left.integers, weights.array.T)
        start = np.zeros(shape[-1], "int32") if bias is None else bias
        folded = quantized_layers.folded_bias(start, array, left.zero_point, weight_zero_point=weights.zero_point)
        function = partial(
            quantized_layers.fully_connected, requantization=requantization, weight_zero_point=weights.zero_point
        )
        name = f"fully_connected_{left.integers.dtype}"
        made = rewriter.emit(function, rows, array, folded, *requantization.tables(), name=name)
        made = made if len(shape) == 2 else rewriter.builder.emit(rewriter.relax.op.reshape(made, shape))
        return Integers(shape=shape, dtype=requantization.dtype, forms={"plain": made})

    return Sum(
        kernel=kernel,
        shape=shape,
        input_scale=left.scale,
        channel_scales=weights.scales,
        channel_axis=len(shape) - 1,
        dtype=dtype,
    )


def _rows(rewriter: Rewriter, integers: Integers, array: Array) -> tuple[Any, Array]:
    """Give the rows of a matrix, and weights OI in the order of its columns."""
    if integers.image is not None:
        shape = integers.image.shape
        order = np.moveaxis(np.arange(math.prod(shape[1:])).reshape(shape[1:]), 0, -1).reshape(-1)
        return rewriter.form(integers, "flat"), np.ascontiguousarray(array[:, order])
    plain, depth = rewriter.form(integers, "plain"), integers.shape[-1]
    if len(integers.shape) != 2:
        plain = rewriter.builder.emit(rewriter.relax.op.reshape(plain, (math.prod(integers.shape) // depth, depth)))
    return plain, np.ascontiguousarray(array)


def _stacked_matmul(rewriter: Rewriter, variable: Any, left: Operand, right: Operand | None) -> Sum | None:
    """Multiply stacks of matrices, none of which is known before the model runs."""
    if right is None or min(len(left.integers.shape), len(right.integers.shape)) < 2:
        return None
    shapes = [item.integers.shape for item in (left, right)]
    stacks = [math.prod(item[:-2]) for item in shapes]
    if shapes[0][:-2] != shapes[1][:-2] and 1 not in stacks:
        return None
    shape = type_shape(variable)

    def kernel(_: Array | None, requantization: Requantization) -> Integers:
        op, builder = rewriter.relax.op, rewriter.builder
        operands = [
            builder.emit(op.reshape(rewriter.form(item.integers, "plain"), (count, *item.integers.shape[-2:])))
            for item, count in zip((left, right), stacks, strict=True)
        ]
        function = partial(
            quantized_layers.batch_matmul, zero_points=(left.zero_point, right.zero_point), transposed=(False, False),
            requantization=requantization,
        )  # fmt: skip
        made = rewriter.emit(function, *operands, name=f"batch_matmul_{left.integers.dtype}")
        return Integers(shape=shape, dtype=requantization.dtype, forms={"plain": builder.emit(op.reshape(made, shape))})

    return Sum(
        kernel=kernel, shape=shape, input_scale=left.scale, channel_scales=np.array([right.scale], "float32"),
        dtype=type_dtype(variable),
    )  # fmt: skip


def mean(rewriter: Rewriter, variable: Any, call: Any, arguments: Sequence[Any]) -> Sum | None:
    """Take a mean over axes."""
    operand, shape = rewriter.operand(rewriter.value(arguments[0])), type_shape(variable)
    if operand is None or type_dtype(variable) != "float32":
        return None
    axes = axes_of(call.attrs, len(operand.integers.shape))
    count = math.prod(operand.integers.shape[axis] for axis in axes)

    def kernel(_: Array | None, requantization: Requantization) -> Integers:
        divided = replace(requantization, divisor=count)
        return reduced(rewriter, operand.integers, call, shape, divided, operand.zero_point * count)

    return Sum(kernel=kernel, shape=shape, input_scale=operand.scale, channel_scales=np.ones(1, "float32"))


def average_pool(rewriter: Rewriter, variable: Any, call: Any, arguments: Sequence[Any]) -> Sum | None:
    """Take an average pool that is not dilated."""
    operand, shape, attributes = rewriter.operand(rewriter.value(arguments[0])), type_shape(variable), call.attrs
    if operand is None or type_dtype(variable) != "float32" or not has_layout(attributes, ("NCHW", "NCW")):
        return None
    size, window = pool_window(attributes, operand.integers.shape, shape)
    counts_padding = bool(attributes.count_include_pad)
    if window.dilations != (1, 1) or (counts_padding and bool(attributes.ceil_mode)):
        return None
    source, zero_point = operand.integers, operand.zero_point
    varies = not counts_padding and quantized_layers.is_padded(window, image_shape(source.shape)[1:3], size)

    def kernel(_: Array | None, requantization: Requantization) -> Integers:
        function: Any = partial(
            qdq_kernels.average_pool2d, size=size, window=window, zero_point=zero_point, counts_padding=counts_padding,
            requantization=replace(requantization, arithmetic="float") if varies else requantization,
        )  # fmt: skip
        if _is_plain_average(requantization, source, zero_point) and not counts_padding:
            function = partial(
                quantized_layers.pool2d,
                kind="average",
                size=size,
                window=window,
                low=requantization.low,
                high=requantization.high,
            )
        made = rewriter.emit(function, image_of(rewriter, source), name=f"average_pool2d_{source.dtype}")
        return from_image(rewriter, made, shape, requantization.dtype)

    return Sum(kernel=kernel, shape=shape, input_scale=operand.scale, channel_scales=np.ones(1, "float32"))


def _is_plain_average(requantization: Requantization, source: Integers, zero_point: int) -> bool:
    """Tell whether a pool in fixed point changes neither the scale nor the zero point."""
    if requantization.arithmetic == "float" or isinstance(requantization, Release):
        return False
    given = (source.dtype, zero_point, 1.0)
    return (requantization.dtype, requantization.zero_point, requantization.factors[0]) == given
