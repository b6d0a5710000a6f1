"""Operators of TensorFlow Lite models that move data, and those that shapes are computed with, on constants."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mlf.frontends.tvm import fixedpoint, quantized_moves
from mlf.frontends.tvm.tflite_nodes import (
    Unsupported,
    image_of,
    require_scale,
    reshaped,
    scale_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlf.frontends.tvm.tflite import Importer
    from mlf.frontends.tvm.tflite_nodes import Node
    from mlf.frontends.tvm.tflite_reader import FileTensor

_REFLECT = 0  # tflite.MirrorPadMode
_INT64 = 4  # tflite.TensorType


def _reshape(importer: Importer, node: Node) -> Any:
    source = node.input(0)
    shape = importer.shape_of(source)
    wanted: Sequence[int] = node.option("NewShape", ())
    if node.optional(1) is not None:
        wanted = importer.numbers(node.input(1), "shape")
    known = math.prod(extent for extent in wanted if extent != -1)
    wanted = [math.prod(shape) // known if extent == -1 else extent for extent in wanted]
    if math.prod(wanted) != math.prod(shape):
        raise Unsupported(f"makes the shape {tuple(wanted)} of {shape}")
    return reshaped(importer, importer.expression(source), shape, wanted)


def _squeeze(importer: Importer, node: Node) -> Any:
    shape = importer.shape_of(node.input(0))
    axes = {axis % len(shape) for axis in node.option("SqueezeDims", ())}
    wanted = [extent for axis, extent in enumerate(shape) if not (axis in axes if axes else extent == 1)]
    return reshaped(importer, importer.expression(node.input(0)), shape, wanted)


def _expand_dims(importer: Importer, node: Node) -> Any:
    shape = list(importer.shape_of(node.input(0)))
    (axis,) = importer.numbers(node.input(1), "axis")
    shape.insert(axis % (len(shape) + 1), 1)
    return reshaped(importer, importer.expression(node.input(0)), None, shape)


def _transpose(importer: Importer, node: Node) -> Any:
    axes = importer.numbers(node.input(1), "axes")
    return importer.call(importer.relax.op.permute_dims(importer.expression(node.input(0)), list(axes)))


def _pad(importer: Importer, node: Node) -> Any:
    source = node.input(0)
    amounts = importer.numbers(node.input(1), "padding")
    value = scale_of(source)[1] if source.scales else 0
    if node.optional(2) is not None:
        (value,) = importer.numbers(node.input(2), "value")
    function = partial(quantized_moves.pad, before=amounts[::2], after=amounts[1::2], value=value)
    return importer.emit(function, importer.expression(source), name=f"pad_{source.dtype}")


def _mirror_pad(importer: Importer, node: Node) -> Any:
    source = node.input(0)
    amounts = importer.numbers(node.input(1), "padding")
    function = partial(
        quantized_moves.mirror_pad,
        before=amounts[::2],
        after=amounts[1::2],
        repeats_border=node.option("Mode") != _REFLECT,
    )
    return importer.emit(function, importer.expression(source), name=f"mirror_pad_{source.dtype}")


def _strided_slice(importer: Importer, node: Node) -> Any:
    source = node.input(0)
    shape = importer.shape_of(source)
    given = [importer.numbers(node.input(place), "places") for place in (1, 2, 3)]
    slices = slice_places(node, shape, *given)
    kept = [len(range(*item)) for item in slices]
    function = partial(
        quantized_moves.strided_slice,
        starts=[item[0] for item in slices],
        steps=[item[2] for item in slices],
        extents=kept,
    )
    result = importer.emit(function, importer.expression(source), name=f"strided_slice_{source.dtype}")
    dropped = node.option("ShrinkAxisMask")
    return reshaped(importer, result, kept, [extent for axis, extent in enumerate(kept) if not dropped >> axis & 1])


def slice_places(
    node: Node, shape: Sequence[int], begins: Sequence[int], ends: Sequence[int], steps: Sequence[int]
) -> list[tuple[int, int, int]]:
    """Give start, end and step of a strided slice along each axis."""
    if node.option("EllipsisMask") or node.option("NewAxisMask"):
        raise Unsupported("has an ellipsis or a new axis")
    places = []
    for axis, extent in enumerate(shape):
        if axis >= len(begins):
            places.append((0, extent, 1))
            continue
        begin: int | None = None if node.option("BeginMask") >> axis & 1 else begins[axis]
        end: int | None = None if node.option("EndMask") >> axis & 1 else ends[axis]
        if node.option("Offset") and begin is not None and end is not None:
            end += begin
        if node.option("ShrinkAxisMask") >> axis & 1:
            start = begins[axis] % extent
            places.append((start, start + 1, 1))
            continue
        places.append(slice(begin, end, steps[axis]).indices(extent))
    return places


def _slice(importer: Importer, node: Node) -> Any:
    source = node.input(0)
    starts = importer.numbers(node.input(1), "places")
    shape = importer.shape_of(source)
    sizes = importer.numbers(node.input(2), "sizes")
    extents = [extent - start if size == -1 else size for extent, start, size in zip(shape, starts, sizes, strict=True)]
    return _part(importer, source, starts, extents, "slice")


def _part(importer: Importer, source: FileTensor, starts: Sequence[int], extents: Sequence[int], name: str) -> Any:
    function = partial(
        quantized_moves.strided_slice, starts=list(starts), steps=[1] * len(starts), extents=list(extents)
    )
    return importer.emit(function, importer.expression(source), name=f"{name}_{source.dtype}")


def _parts(importer: Importer, source: FileTensor, axis: int, sizes: Sequence[int]) -> tuple[Any, ...]:
    shape = importer.shape_of(source)
    results, start = [], 0
    for size in sizes:
        starts = [start if place == axis else 0 for place in range(len(shape))]
        extents = [size if place == axis else extent for place, extent in enumerate(shape)]
        results.append(_part(importer, source, starts, extents, "split"))
        start += size
    return tuple(results)


def _split(importer: Importer, node: Node) -> Any:
    source = node.input(1)
    shape = importer.shape_of(source)
    axis = importer.numbers(node.input(0), "axis")[0] % len(shape)
    count = len(node.outputs)
    return _parts(importer, source, axis, [shape[axis] // count] * count)


def _split_v(importer: Importer, node: Node) -> Any:
    source = node.input(0)
    shape = importer.shape_of(source)
    axis = importer.numbers(node.input(2), "axis")[0] % len(shape)
    sizes = importer.numbers(node.input(1), "sizes")
    rest = shape[axis] - sum(size for size in sizes if size != -1)
    return _parts(importer, source, axis, [rest if size == -1 else size for size in sizes])


def _pack(importer: Importer, node: Node) -> Any:
    tensors = [tensor for tensor in node.inputs if tensor is not None]
    shape = importer.shape_of(tensors[0])
    axis = node.option("Axis") % (len(shape) + 1)
    wanted = (*shape[:axis], 1, *shape[axis:])
    values = [reshaped(importer, importer.expression(tensor), None, wanted) for tensor in tensors]
    return _joined(importer, node, values, axis)


def _unpack(importer: Importer, node: Node) -> Any:
    source = node.input(0)
    shape = importer.shape_of(source)
    axis = node.option("Axis") % len(shape)
    parts = _parts(importer, source, axis, [1] * shape[axis])
    return tuple(reshaped(importer, part, None, (*shape[:axis], *shape[axis + 1 :])) for part in parts)


def _concatenation(importer: Importer, node: Node) -> Any:
    if node.option("FusedActivationFunction"):
        raise Unsupported("has a fused activation")
    tensors = [tensor for tensor in node.inputs if tensor is not None]
    values = []
    for tensor in tensors:
        if node.output.scales:
            require_scale(tensor, node.output)
        values.append(importer.expression(tensor))
    return _joined(importer, node, values, node.option("Axis") % len(importer.shape_of(tensors[0])))


def _joined(importer: Importer, node: Node, values: Sequence[Any], axis: int) -> Any:
    return importer.emit(
        partial(quantized_moves.concatenate, axis=axis), *values, name=f"concatenate_{node.output.dtype}"
    )


def _gather(importer: Importer, node: Node) -> Any:
    source, places = node.input(0), node.input(1)
    if node.option("BatchDims"):
        raise Unsupported("gathers batch by batch")
    axis = node.option("Axis") % len(importer.shape_of(source))
    return importer.emit(
        partial(quantized_moves.gather, axis=axis),
        importer.expression(source),
        importer.expression(places),
        name=f"gather_{source.dtype}",
    )


def _blocks(*, is_to_depth: bool) -> Callable[[Importer, Node], Any]:
    def handle(importer: Importer, node: Node) -> Any:
        source, size = node.input(0), node.option("BlockSize")
        batch, height, width, channels = importer.shape_of(source)
        if is_to_depth:
            inner = (batch, height // size, size, width // size, size, channels)
            outer = (batch, height // size, width // size, size * size * channels)
            axes = [0, 1, 3, 2, 4, 5]
        else:
            inner = (batch, height, width, size, size, channels // size**2)
            outer = (batch, height * size, width * size, channels // size**2)
            axes = [0, 1, 3, 2, 4, 5]
        value = reshaped(importer, importer.expression(source), None, inner)
        return reshaped(importer, importer.call(importer.relax.op.permute_dims(value, axes)), None, outer)

    return handle


def _resize_nearest(importer: Importer, node: Node) -> Any:
    source = node.input(0)
    image, sizes = image_of(importer, source), _sizes(importer, node)
    is_aligned, is_centered = bool(node.option("AlignCorners")), bool(node.option("HalfPixelCenters"))
    lines = [
        nearest_places(image[axis], sizes[axis], is_aligned=is_aligned, is_centered=is_centered) for axis in (0, 1)
    ]
    return importer.emit(
        quantized_moves.resize_nearest, importer.expression(source), *lines, name=f"resize_nearest_{source.dtype}"
    )


def _sizes(importer: Importer, node: Node) -> tuple[int, ...]:
    sizes = importer.numbers(node.input(1), "size")
    if len(sizes) != 2 or min(sizes) < 1:
        raise Unsupported(f"makes an image of the size {sizes}")
    return sizes


def nearest_places(extent: int, wanted: int, *, is_aligned: bool, is_centered: bool) -> Any:
    """Give the row or column that each one of a resized image is taken from."""
    aligned = is_aligned and wanted > 1
    scale = np.float32(extent - 1 if aligned else extent) / np.float32(wanted - 1 if aligned else wanted)
    places = (np.arange(wanted).astype("float32") + np.float32(0.5 if is_centered else 0)) * scale
    places = fixedpoint.round_half_away(places) if is_aligned else np.floor(places)
    return np.clip(places.astype("int32"), 0, extent - 1)


def _resize_bilinear(importer: Importer, node: Node) -> Any:
    source = node.input(0)
    if source.dtype != "int8":
        raise Unsupported(f"is of the type `{source.type_name}`, expected `INT8`")
    image, sizes = image_of(importer, source), _sizes(importer, node)
    is_aligned, is_centered = bool(node.option("AlignCorners")), bool(node.option("HalfPixelCenters"))
    lines = [
        bilinear_places(image[axis], sizes[axis], is_aligned=is_aligned, is_centered=is_centered) for axis in (0, 1)
    ]
    return importer.emit(
        quantized_moves.resize_bilinear, importer.expression(source), *lines, name=f"resize_bilinear_{source.dtype}"
    )


def bilinear_places(extent: int, wanted: int, *, is_aligned: bool, is_centered: bool) -> Any:
    """Give for each row or column of a resized image the two that it blends, and the share of the second of 1024."""
    aligned = is_aligned and wanted > 1
    divisor = wanted - 1 if aligned else wanted
    scale = ((extent - 1 if aligned else extent) * 1024 + divisor // 2) // divisor
    places = np.arange(wanted, dtype="int32") * scale + (scale // 2 - 512 if is_centered else 0)
    first = np.maximum(np.trunc(places / 1024), 0).astype("int32")
    second = np.minimum(np.trunc((places + 1023) / 1024), extent - 1).astype("int32")
    return np.stack([first, second, places - 1024 * first], axis=1).astype("int32")


# What shapes are computed with: on constants, by numpy.


def _shape(importer: Importer, node: Node) -> Any:
    return np.array(importer.shape_of(node.input(0)), "int64" if node.option("OutType") == _INT64 else "int32")


def _fold_strided_slice(node: Node, array: Any, begins: Any, ends: Any, steps: Any) -> Any:
    slices = slice_places(node, array.shape, *(item.ravel().tolist() for item in (begins, ends, steps)))
    taken = (
        array[tuple(np.arange(*item) for item in slices)]
        if len(slices) == 1
        else array[np.ix_(*(range(*item) for item in slices))]
    )
    dropped = tuple(axis for axis in range(array.ndim) if node.option("ShrinkAxisMask") >> axis & 1)
    return taken.squeeze(dropped)


def _fold_reduce_prod(node: Node, array: Any, axes: Any) -> Any:
    return array.prod(axis=tuple(axes.ravel().tolist()), keepdims=bool(node.option("KeepDims")), dtype=array.dtype)


FOLDS: Mapping[str, Callable[..., Any]] = {
    "ADD": lambda _, left, right: left + right,
    "CAST": lambda node, array: array.astype(node.output.dtype),
    "CONCATENATION": lambda node, *arrays: np.concatenate(arrays, node.option("Axis")),
    "EXPAND_DIMS": lambda _, array, axis: np.expand_dims(array, int(axis)),
    "GATHER": lambda node, array, places: np.take(array, places, node.option("Axis")),
    "MAXIMUM": lambda _, left, right: np.maximum(left, right),
    "MINIMUM": lambda _, left, right: np.minimum(left, right),
    "MUL": lambda _, left, right: left * right,
    "PACK": lambda node, *arrays: np.stack(arrays, node.option("Axis")),
    "REDUCE_PROD": _fold_reduce_prod,
    "SQUEEZE": lambda node, array: array.squeeze(tuple(node.option("SqueezeDims", ())) or None),
    "STRIDED_SLICE": _fold_strided_slice,
    "SUB": lambda _, left, right: left - right,
}

MOVES: Mapping[str, Callable[[Importer, Node], Any]] = {
    "CONCATENATION": _concatenation,
    "DEPTH_TO_SPACE": _blocks(is_to_depth=False),
    "EXPAND_DIMS": _expand_dims,
    "GATHER": _gather,
    "MIRROR_PAD": _mirror_pad,
    "PACK": _pack,
    "PAD": _pad,
    "PADV2": _pad,
    "RESHAPE": _reshape,
    "RESIZE_BILINEAR": _resize_bilinear,
    "RESIZE_NEAREST_NEIGHBOR": _resize_nearest,
    "SHAPE": _shape,
    "SLICE": _slice,
    "SPACE_TO_DEPTH": _blocks(is_to_depth=True),
    "SPLIT": _split,
    "SPLIT_V": _split_v,
    "SQUEEZE": _squeeze,
    "STRIDED_SLICE": _strided_slice,
    "TRANSPOSE": _transpose,
    "UNPACK": _unpack,
}
