"""Operators that rearrange numbers, or pick the largest of some: they are done on the integers, whatever these stand for."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mlf.frontends.tvm import quantized_layers, quantized_moves
from mlf.frontends.tvm.fixedpoint import limits
from mlf.frontends.tvm.qdq_layouts import (
    axis_in,
    from_image,
    has_layout,
    image_of,
    numbers_of,
    pool_window,
    reduced,
    type_shape,
)
from mlf.frontends.tvm.qdq_values import Constant, Integers, Joined, Lookup, Moved, Padding, Real, last_shape
from mlf.frontends.tvm.releases import load_tvm, shape_and_dtype, type_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlf.frontends.tvm.qdq import Rewriter
    from mlf.frontends.tvm.qdq_values import LayoutName

_PADDED = re.compile(r"T\.if_then_else\(.*, \w+\[([^\]]*)\], T\.\w+\(\"?([^\"()]+)\"?\)\)$", re.MULTILINE)
_OFFSET = re.compile(r"\w+(?: - (?:T\.int\d+\()?(?P<number>\d+)\)?)?")


def padding_of(function: Any) -> tuple[list[int], float] | None:
    """Find in loops that pad how much stands in front of each axis, and the number that is put there.

    TVM's script of the loops is the same in all releases, unlike the nodes that they are made of.
    """
    found = _PADDED.findall(function.script())
    if len(found) != 1:
        return None
    indices, number = found[0]
    offsets = [_OFFSET.fullmatch(index) for index in indices.split(", ")]
    known = [int(offset["number"] or 0) for offset in offsets if offset is not None]
    return (known, float(number)) if len(known) == len(offsets) else None


# Types and constants.


def _moved(value: Any, move: Callable[[Integers], Integers], *, needs_order: bool = False) -> Any:
    """Rearrange a value; one that takes the largest of several needs a function that grows with its integers."""
    if isinstance(value, Integers):
        return move(value)
    if isinstance(value, Lookup):
        return None if needs_order and not value.is_monotone else replace(value, source=move(value.source))
    if isinstance(value, Real) and not isinstance(value, Constant):
        return Moved(value=value, move=move)
    return None


def reshape(rewriter: Rewriter, variable: Any, _: Any, arguments: Sequence[Any]) -> Any:
    """Take any operator that only changes the shape."""
    value, shape = rewriter.value(arguments[0]), type_shape(variable)
    if isinstance(value, Constant):
        return value.rearranged(lambda array: array.reshape(shape))
    return _moved(value, lambda integers: rewriter.reshaped(integers, shape))


def permute(rewriter: Rewriter, variable: Any, call: Any, arguments: Sequence[Any]) -> Any:
    """Take a permutation of axes; between the two usual layouts of images it costs nothing."""
    value, shape = rewriter.value(arguments[0]), type_shape(variable)
    given = call.attrs.axes
    rank = len(shape)
    order = tuple(reversed(range(rank))) if given is None else tuple(int(axis) % rank for axis in given)
    if isinstance(value, Constant):
        return value.rearranged(lambda array: array.transpose(order))

    def move(integers: Integers) -> Integers:
        moved = partial(Integers, shape=shape, dtype=integers.dtype, origin=integers, scale=integers.scale)
        if order == (0, *range(2, rank), 1):
            return moved(forms={"plain": rewriter.form(integers, "last")})
        if order == (0, rank - 1, *range(1, rank - 1)):
            return moved(forms={"last": rewriter.form(integers, "plain")}, preferred="last")
        plain = rewriter.form(integers, "plain")
        return moved(forms={"plain": rewriter.builder.emit(rewriter.relax.op.permute_dims(plain, list(order)))})

    return _moved(value, move)


def max_pool(rewriter: Rewriter, variable: Any, call: Any, arguments: Sequence[Any]) -> Any:
    """Take a maximum pool that is not dilated."""
    if not has_layout(call.attrs, ("NCHW", "NCW")) or any(int(step) != 1 for step in call.attrs.dilation):
        return None
    shape = type_shape(variable)

    def move(integers: Integers) -> Integers:
        size, window = pool_window(call.attrs, integers.shape, shape)
        low, high = limits(integers.dtype)
        function = partial(quantized_layers.pool2d, kind="max", size=size, window=window, low=low, high=high)
        made = rewriter.emit(function, image_of(rewriter, integers), name=f"max_pool2d_{integers.dtype}")
        pooled = from_image(rewriter, made, shape, integers.dtype)
        pooled.origin, pooled.scale = integers, integers.scale
        return pooled

    return _moved(rewriter.value(arguments[0]), move, needs_order=True)


def maximum(rewriter: Rewriter, variable: Any, call: Any, arguments: Sequence[Any]) -> Any:
    """Take a maximum over axes."""
    shape = type_shape(variable)

    def move(integers: Integers) -> Integers:
        largest = reduced(rewriter, integers, call, shape, None, 0)
        largest.origin, largest.scale = integers, integers.scale
        return largest

    return _moved(rewriter.value(arguments[0]), move, needs_order=True)


def pad(rewriter: Rewriter, variable: Any, call: Any, arguments: Sequence[Any]) -> Any:
    """Take a padding with one number, which a convolution behind it may take over."""
    value, shape = rewriter.value(arguments[0]), type_shape(variable)
    found = padding_of(rewriter.module[call.args[0]])
    if found is None or not isinstance(value, (Integers, Lookup)):
        return None
    before, number = found
    source = value if isinstance(value, Integers) else value.source
    integer = int(number) if isinstance(value, Integers) else _integer_of(value, number)
    if integer is None or len(before) != len(source.shape):
        return None
    after = tuple(extent - inner - first for extent, inner, first in zip(shape, source.shape, before, strict=True))
    if min(*before, *after) < 0:
        return None
    padding = Padding(inner=source, before=tuple(before), after=after, value=integer)
    padded = Integers(
        shape=shape, dtype=source.dtype, preferred=source.preferred, padding=padding, origin=source, scale=source.scale
    )
    padded.make = lambda layout: _padded(rewriter, padding, layout)
    return padded if isinstance(value, Integers) else replace(value, source=padded)


def _integer_of(value: Lookup, number: float) -> int | None:
    """Find the integer that stands for a number, the zero point if that does."""
    low, _ = limits(value.source.dtype)
    places = [int(place) + low for place in np.flatnonzero(value.table == np.float32(number))]
    return value.zero_point if value.zero_point in places else next(iter(places), None)


def _padded(rewriter: Rewriter, padding: Padding, layout: LayoutName) -> Any:
    before, after = (last_shape(item) if layout == "last" else item for item in (padding.before, padding.after))
    function = partial(quantized_moves.pad, before=before, after=after, value=padding.value)
    return rewriter.emit(function, rewriter.form(padding.inner, layout), name=f"pad_{padding.inner.dtype}")


def concat(rewriter: Rewriter, variable: Any, call: Any, arguments: Sequence[Any]) -> Any:
    """Take tensors side by side."""
    parts, shape = rewriter.value(arguments[0]), type_shape(variable)
    axis = int(call.attrs.axis) % len(shape)

    def join(integers: Sequence[Integers]) -> Integers:
        layout: LayoutName = "last" if all(item.preferred == "last" for item in integers) else "plain"
        function = partial(quantized_moves.concatenate, axis=axis_in(axis, len(shape), layout))
        forms = [rewriter.form(item, layout) for item in integers]
        dtype = integers[0].dtype
        made = rewriter.emit(function, *forms, name=f"concatenate_{dtype}")
        return Integers(shape=shape, dtype=dtype, preferred=layout, forms={layout: made}, scale=integers[0].scale)

    if not isinstance(parts, tuple) or not parts:
        return None
    if all(isinstance(item, Integers) for item in parts):
        return join(parts) if len({item.dtype for item in parts}) == 1 else None
    if all(isinstance(item, Lookup) and _is_like(item, parts[0]) for item in parts):
        return replace(parts[0], source=join([item.source for item in parts]))
    return Joined(parts=parts, join=join) if all(isinstance(item, Real) for item in parts) else None


def _is_like(value: Lookup, other: Any) -> bool:
    return (
        isinstance(other, Lookup)
        and (value.source.dtype, value.dtype, value.scale, value.zero_point)
        == (other.source.dtype, other.dtype, other.scale, other.zero_point)
        and np.array_equal(value.table, other.table)
    )


def slice_(rewriter: Rewriter, variable: Any, _: Any, arguments: Sequence[Any]) -> Any:
    """Take a strided slice."""
    shape = type_shape(variable)
    axes = [int(axis) for axis in numbers_of(arguments[1].fields)] if hasattr(arguments[1], "fields") else None
    if axes is None:
        return None

    def move(integers: Integers) -> Integers:
        rank = len(shape)
        layout: LayoutName = "last" if integers.preferred == "last" else "plain"
        places = [axis_in(axis % rank, rank, layout) for axis in axes]
        sliced = rewriter.relax.op.strided_slice(rewriter.form(integers, layout), places, *arguments[2:])
        made = rewriter.builder.emit(sliced)
        return Integers(
            shape=shape,
            dtype=integers.dtype,
            preferred=layout,
            forms={layout: made},
            origin=integers,
            scale=integers.scale,
        )

    return _moved(rewriter.value(arguments[0]), move)


def split(rewriter: Rewriter, variable: Any, call: Any, arguments: Sequence[Any]) -> Any:
    """Take a tensor apart."""
    value = rewriter.value(arguments[0])
    if not isinstance(value, (Integers, Lookup)):
        return None
    source = value if isinstance(value, Integers) else value.source
    rank = len(source.shape)
    layout: LayoutName = "last" if source.preferred == "last" else "plain"
    axis = axis_in(int(call.attrs.axis) % rank, rank, layout)
    given = call.attrs.indices_or_sections
    sections = [int(item) for item in given] if hasattr(given, "__len__") else int(given)
    whole = rewriter.builder.emit(rewriter.relax.op.split(rewriter.form(source, layout), sections, axis))
    parts = []
    for index, type_ in enumerate(type_of(variable).fields):
        made = rewriter.builder.emit(rewriter.relax.TupleGetItem(whole, index))
        shape = tuple(shape_and_dtype(type_)[0])
        part = Integers(
            shape=shape, dtype=source.dtype, preferred=layout, forms={layout: made}, origin=source, scale=source.scale
        )
        parts.append(part if isinstance(value, Integers) else replace(value, source=part))
    return tuple(parts)


def take(rewriter: Rewriter, variable: Any, call: Any, arguments: Sequence[Any]) -> Any:
    """Take slices that integers name."""
    values = [rewriter.value(item) for item in arguments[:2]]
    if (
        all(isinstance(value, Constant) for value in values)
        and values[0].scales is None
        and call.attrs.axis is not None
    ):
        return Constant(
            array=np.asarray(np.take(values[0].array, values[1].array, axis=int(call.attrs.axis), mode="wrap"))
        )
    return plain(rewriter, variable, call, arguments)


def shape_of(_rewriter: Rewriter, _variable: Any, _call: Any, arguments: Sequence[Any]) -> Any:
    """Give the shape of a tensor without computing the tensor."""
    shape, _dtype = shape_and_dtype(type_of(arguments[0]))
    return load_tvm().relax.ShapeExpr(shape) if all(isinstance(extent, int) for extent in shape) else None


def shape_array(rewriter: Rewriter, _variable: Any, _call: Any, arguments: Sequence[Any]) -> Constant | None:
    """Take a shape as an array."""
    shape = rewriter.value(arguments[0])
    if not isinstance(shape, load_tvm().relax.ShapeExpr):
        return None
    extents = [int(extent) for extent in shape.values]
    return Constant(array=np.array(extents, "int64"))


def plain(rewriter: Rewriter, variable: Any, call: Any, arguments: Sequence[Any]) -> Any:
    """Let the operator itself rearrange the integers, in the plain layout."""
    shape = type_shape(variable)

    def move(integers: Integers) -> Integers:
        others = [rewriter.expression(item) for item in arguments[1:]]
        made = rewriter.builder.emit(
            rewriter.relax.Call(call.op, [rewriter.form(integers, "plain"), *others], call.attrs)
        )
        return Integers(shape=shape, dtype=integers.dtype, forms={"plain": made}, origin=integers, scale=integers.scale)

    return _moved(rewriter.value(arguments[0]), move)
