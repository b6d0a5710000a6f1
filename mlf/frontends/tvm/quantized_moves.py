"""Operators that move, repeat or blend integers, as tensor expressions and loops of TVM, bit-equal to TensorFlow Lite's reference kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlf.frontends.tvm.loops import axes_of, dtype_of, grid, loops, script_builder, shape_of, te_module, tirx_module
from mlf.frontends.tvm.requantization import cast, const

if TYPE_CHECKING:
    from collections.abc import Sequence


def resize_nearest(x: Any, rows: Any, columns: Any) -> Any:
    """Give an image NHWC of which each row and column is the one that the arrays name."""
    batch, _, _, channels = shape_of(x)
    shape = (batch, shape_of(rows)[0], shape_of(columns)[0], channels)
    return te_module().compute(
        shape, lambda n, y, column, channel: x[n, rows[y], columns[column], channel], name="resize_nearest"
    )


def resize_bilinear(x: Any, rows: Any, columns: Any) -> Any:
    """Blend four pixels of an image NHWC: the arrays hold the first, the second and the share of the second of 1024."""
    batch, _, _, channels = shape_of(x)
    dtype = dtype_of(x)
    shape = (batch, shape_of(rows)[0], shape_of(columns)[0], channels)
    tirx = tirx_module()

    def compute(n: Any, y: Any, column: Any, channel: Any) -> Any:
        def line(row: Any) -> Any:
            left, right = (cast(x[n, row, columns[column, side], channel], "int32") for side in (0, 1))
            return left * (1024 - columns[column, 2]) + right * columns[column, 2]

        total = line(rows[y, 0]) * (1024 - rows[y, 2]) + line(rows[y, 1]) * rows[y, 2]
        half = tirx.if_then_else(total > 0, const(1 << 19, "int32"), const(-(1 << 19), "int32"))
        return cast(tirx.truncdiv(total + half, const(1 << 20, "int32")), dtype)

    return te_module().compute(shape, compute, name="resize_bilinear")


def mirror_pad(x: Any, *, before: Sequence[int], after: Sequence[int], repeats_border: bool) -> Any:
    """Pad a tensor with its own mirror image, of which the border is a part or not."""
    inner = shape_of(x)
    shape = [extent + first + last for extent, first, last in zip(inner, before, after, strict=True)]
    border = 1 if repeats_border else 0
    tirx = tirx_module()

    def at(index: Any, extent: int, first: int, last: int) -> Any:
        place = index - first
        if first:
            place = tirx.if_then_else(place < 0, -place - border, place)
        return tirx.if_then_else(place >= extent, 2 * extent - 2 + border - place, place) if last else place

    return te_module().compute(shape, lambda *place: x[tuple(map(at, place, inner, before, after))], name="mirror_pad")


def pad(x: Any, *, before: Sequence[int], after: Sequence[int], value: int) -> Any:
    """Surround a tensor with one value."""
    inner, dtype = shape_of(x), dtype_of(x)
    shape = [extent + first + last for extent, first, last in zip(inner, before, after, strict=True)]

    def body(source: Any, output: Any) -> None:
        builder = script_builder()
        with builder.serial(1):
            with grid(**axes_of(shape)) as place:
                output[place] = const(value, dtype)
            with grid(**axes_of(inner)) as place:
                output[tuple(index + first for index, first in zip(place, before, strict=True))] = source[place]

    return loops("pad", shape, dtype, {"source": x}, body)


def concatenate(*tensors: Any, axis: int) -> Any:
    """Join tensors along an axis."""
    shape = list(shape_of(tensors[0]))
    shape[axis] = sum(shape_of(tensor)[axis] for tensor in tensors)

    def body(*buffers: Any) -> None:
        *sources, output = buffers
        builder = script_builder()
        with builder.serial(1):
            start = 0
            for tensor, source in zip(tensors, sources, strict=True):
                with grid(**axes_of(shape_of(tensor))) as place:
                    moved = [index + start if item == axis else index for item, index in enumerate(place)]
                    output[tuple(moved)] = source[place]
                start += shape_of(tensor)[axis]

    sources = {f"source_{index}": tensor for index, tensor in enumerate(tensors)}
    return loops("concatenate", shape, dtype_of(tensors[0]), sources, body)


def strided_slice(x: Any, *, starts: Sequence[int], steps: Sequence[int], extents: Sequence[int]) -> Any:
    """Take every so many places of each axis from a start on."""
    return te_module().compute(
        tuple(extents),
        lambda *place: x[tuple(start + index * step for start, index, step in zip(starts, place, steps, strict=True))],
        name="strided_slice",
    )


def gather(x: Any, places: Any, *, axis: int) -> Any:
    """Take those slices along an axis that integers name."""
    shape, chosen = shape_of(x), shape_of(places)
    rank = len(chosen)

    def compute(*place: Any) -> Any:
        index = places[place[axis : axis + rank]]
        return x[(*place[:axis], index, *place[axis + rank :])]

    return te_module().compute((*shape[:axis], *chosen, *shape[axis + 1 :]), compute, name="gather")
