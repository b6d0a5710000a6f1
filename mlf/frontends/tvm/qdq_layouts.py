"""Shapes, axes and windows of operators on images whose channels may be last."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mlf.frontends.tvm import quantized_elements
from mlf.frontends.tvm.qdq_values import Integers, last_shape
from mlf.frontends.tvm.quantized_layers import Window
from mlf.frontends.tvm.releases import shape_and_dtype, type_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlf.frontends.tvm.qdq import Rewriter
    from mlf.frontends.tvm.qdq_values import LayoutName
    from mlf.frontends.tvm.requantization import Requantization


def type_dtype(variable: Any) -> str:
    """Give the type of the elements of a variable."""
    return shape_and_dtype(type_of(variable))[1]


def type_shape(variable: Any) -> tuple[int, ...]:
    """Give the shape of a variable, which is fixed."""
    return tuple(int(extent) for extent in shape_and_dtype(type_of(variable))[0])


def numbers_of(nodes: Sequence[Any]) -> list[float]:
    """Give numbers among the arguments of a call; up to 0.25 they are wrapped once more."""
    inner = [getattr(node, "value", node) for node in nodes]
    return [float(getattr(node, "value", node)) for node in inner]


def axis_in(axis: int, rank: int, layout: LayoutName) -> int:
    """Give where an axis of the plain layout is in another."""
    if layout == "plain" or axis == 0 or rank < 3:
        return axis
    return rank - 1 if axis == 1 else axis - 1


def pairs(values: Sequence[Any], default: int) -> tuple[int, int]:
    """Give the numbers of rows and columns; an operator on one axis has one row."""
    numbers = [int(value) for value in values]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (default, numbers[0])


def window_of(attributes: Any) -> Window:
    """Give the window of a convolution or a pool."""
    numbers = [int(item) for item in attributes.padding]
    half = len(numbers) // 2
    before, after = pairs(numbers[:half], 0), pairs(numbers[half:], 0)
    return Window(
        strides=pairs(attributes.strides, 1), dilations=pairs(attributes.dilation, 1), padding=(*before, *after)
    )


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Give the shape of a tensor of three or four axes as that of an image NHWC."""
    batch, *spatial, channels = last_shape(shape)
    height, width = pairs(spatial, 1)
    return batch, height, width, channels


def image_of(rewriter: Rewriter, integers: Integers) -> Any:
    """Give a tensor of three or four axes as an image NHWC."""
    expression = rewriter.form(integers, "last")
    if len(integers.shape) == 4:
        return expression
    return rewriter.builder.emit(rewriter.relax.op.reshape(expression, image_shape(integers.shape)))


def from_image(rewriter: Rewriter, expression: Any, shape: tuple[int, ...], dtype: str) -> Integers:
    """Take an image NHWC for a tensor of three or four axes."""
    if len(shape) != 4:
        expression = rewriter.builder.emit(rewriter.relax.op.reshape(expression, last_shape(shape)))
    return Integers(shape=shape, dtype=dtype, preferred="last", forms={"last": expression})


def has_layout(attributes: Any, layouts: Sequence[str], kernel: Sequence[str] = ()) -> bool:
    """Tell whether the layouts that an operator names are among those given."""
    if kernel:
        return str(attributes.data_layout) in layouts and str(attributes.kernel_layout) in kernel
    return str(attributes.layout) in layouts


def pool_window(attributes: Any, shape: tuple[int, ...], output: tuple[int, ...]) -> tuple[tuple[int, int], Window]:
    """Give the size and the window of a pool, the window so far beyond the image that the output has the shape it has."""
    size, window = pairs(attributes.pool_size, 1), window_of(attributes)
    image, wanted = image_shape(shape)[1:3], image_shape(output)[1:3]
    after = []
    for axis in (0, 1):
        reach = (wanted[axis] - 1) * window.strides[axis] + window.dilations[axis] * (size[axis] - 1) + 1
        after.append(reach - image[axis] - window.padding[axis])
    return size, replace(window, padding=(*window.padding[:2], max(after[0], 0), max(after[1], 0)))


def axes_of(attributes: Any, rank: int) -> tuple[int, ...]:
    """Give the axes that a reduction is over, in order."""
    axes = range(rank) if attributes.axis is None else (int(axis) % rank for axis in attributes.axis)
    return tuple(sorted(axes))


def reduced(
    rewriter: Rewriter, integers: Integers, call: Any, shape: tuple[int, ...], requantization: Requantization | None, offset: int
) -> Integers:  # fmt: skip
    """Sum integers over axes, or find their maximum, in the layout that they have if the result has one of ours."""
    rank, keeps_axes = len(integers.shape), bool(call.attrs.keepdims)
    axes = axes_of(call.attrs, rank)
    is_last = integers.preferred == "last" and (keeps_axes or axes == tuple(range(2, rank)))
    layout: LayoutName = "last" if is_last else "plain"
    places = tuple(sorted(axis_in(axis, rank, layout) for axis in axes))
    dtype = integers.dtype if requantization is None else requantization.dtype
    name = f"reduce_max_{dtype}" if requantization is None else f"mean_{dtype}"
    function = partial(
        quantized_elements.reduce, axes=places, keeps_axes=keeps_axes, offset=offset, requantization=requantization
    )
    made = rewriter.emit(function, rewriter.form(integers, layout), name=name)
    kept: LayoutName = layout if keeps_axes else "plain"
    return Integers(shape=shape, dtype=dtype, preferred=kept, forms={kept: made})
