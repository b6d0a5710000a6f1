"""Integer operators that work element by element, as tensor expressions of TVM, bit-equal to TensorFlow Lite's reference kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from mlf.frontends.tvm.fixedpoint import limits, quantize_multiplier
from mlf.frontends.tvm.helpers import call
from mlf.frontends.tvm.loops import dtype_of, shape_of, te_module, tirx_module
from mlf.frontends.tvm.requantization import cast, clipped, const, multiplied, round_half_away, round_to_even

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlf.frontends.tvm.requantization import Requantization

_ELEMENTWISE_SHIFTS = {"int8": 20, "uint8": 20, "int16": 15}  # that sums of two tensors gain before they are scaled


def broadcast(*tensors: Any) -> tuple[tuple[int, ...], tuple[Callable[[Sequence[Any]], Any], ...]]:
    """Give the shape that tensors have together, and for each a function that reads it there."""
    shapes = [shape_of(tensor) for tensor in tensors]
    rank = max(len(shape) for shape in shapes)
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    common = tuple(max(extents) for extents in zip(*padded, strict=True))

    def reader(tensor: Any, shape: tuple[int, ...]) -> Callable[[Sequence[Any]], Any]:
        def read(place: Sequence[Any]) -> Any:
            own = place[rank - len(shape) :]
            return tensor[tuple(0 if extent == 1 else index for index, extent in zip(own, shape, strict=True))]

        return read

    return common, tuple(reader(tensor, shape) for tensor, shape in zip(tensors, shapes, strict=True))


def add(  # noqa: PLR0913  # two scales, two zero points and those of the output
    left: Any, right: Any, *, scales: tuple[float, float], zero_points: tuple[int, int], is_difference: bool, output_scale: float,
    requantization: Requantization,
) -> Any:  # fmt: skip
    """Add two tensors, or subtract the second, of which each has its own scale; the factors of `requantization` are unused."""
    shape, readers = broadcast(left, right)
    shift = _ELEMENTWISE_SHIFTS[dtype_of(left)]
    largest = 2 * max(scales)
    factors = [quantize_multiplier(scale / largest) for scale in scales]
    result = quantize_multiplier(largest / ((1 << shift) * output_scale))

    def scaled(index: int, place: Sequence[Any]) -> Any:
        value = (cast(readers[index](place), "int32") - zero_points[index]) * (1 << shift)
        return multiplied(value, *factors[index])

    def compute(*place: Any) -> Any:
        first, second = scaled(0, place), scaled(1, place)
        total = first - second if is_difference else first + second
        return requantization.clip(multiplied(total, *result) + requantization.zero_point)

    return te_module().compute(shape, compute, name="subtract" if is_difference else "add")


def multiply(left: Any, right: Any, *, zero_points: tuple[int, int], requantization: Requantization) -> Any:
    """Multiply two tensors."""
    shape, readers = broadcast(left, right)

    def compute(*place: Any) -> Any:
        first, second = (cast(reader(place), "int32") - zero for reader, zero in zip(readers, zero_points, strict=True))
        return requantization.apply(first * second)

    return te_module().compute(shape, compute, name="multiply")


def extremum(left: Any, right: Any, *, is_maximum: bool) -> Any:
    """Give the larger or the smaller of each two integers of one scale."""
    shape, readers = broadcast(left, right)
    pick = tirx_module().max if is_maximum else tirx_module().min
    name = "maximum" if is_maximum else "minimum"
    return te_module().compute(shape, lambda *place: pick(readers[0](place), readers[1](place)), name=name)


def prelu(
    x: Any, slopes: Any, *, zero_points: tuple[int, int], positive: Requantization, negative: Requantization
) -> Any:
    """Scale what is positive by one factor, and what is negative by another and by a slope."""
    shape, readers = broadcast(x, slopes)

    def compute(*place: Any) -> Any:
        value = cast(readers[0](place), "int32") - zero_points[0]
        slope = cast(readers[1](place), "int32") - zero_points[1]
        return tirx_module().if_then_else(value >= 0, positive.apply(value), negative.apply(value * slope))

    return te_module().compute(shape, compute, name="prelu")


def reduce(
    x: Any, *, axes: tuple[int, ...], keeps_axes: bool, offset: int, requantization: Requantization | None
) -> Any:
    """Sum over axes, less `offset`, and requantize the sums; without a requantization, give the largest instead."""
    te = te_module()
    shape = shape_of(x)
    summed = {axis: te.reduce_axis((0, shape[axis]), f"k{axis}") for axis in axes}
    kept = [axis for axis in range(len(shape)) if axis not in summed]
    out_shape = [1 if axis in summed else shape[axis] for axis in range(len(shape)) if keeps_axes or axis not in summed]

    def at(place: Sequence[Any]) -> Any:
        own = dict(zip(range(len(shape)), place, strict=True)) if keeps_axes else dict(zip(kept, place, strict=True))
        return x[tuple(summed.get(axis, own.get(axis, 0)) for axis in range(len(shape)))]

    if requantization is None:
        return te.compute(out_shape, lambda *place: te.max(at(place), axis=list(summed.values())), name="reduce_max")
    total = te.compute(
        out_shape, lambda *place: te.sum(cast(at(place), "int32"), axis=list(summed.values())), name="total"
    )
    return te.compute(out_shape, lambda *place: requantization.apply(total[place] - offset), name="reduce_sum")


def lookup(x: Any, table: Any) -> Any:
    """Give what a table of 256 numbers holds for 8-bit integers, beginning with the smallest."""
    low, _ = limits(dtype_of(x))
    return te_module().compute(shape_of(x), lambda *place: table[cast(x[place], "int32") - low], name="lookup")


def clip(x: Any, *, low: int, high: int) -> Any:
    """Clip integers."""
    tirx = tirx_module()
    dtype = dtype_of(x)
    return te_module().compute(
        shape_of(x), lambda *place: tirx.max(tirx.min(x[place], const(high, dtype)), const(low, dtype)), name="clip"
    )


def requantize(x: Any, *, input_zero_point: int, requantization: Requantization) -> Any:
    """Give the integers of another scale, zero point or type that stand for the same numbers."""
    return te_module().compute(
        shape_of(x), lambda *place: requantization.apply(cast(x[place], "int32") - input_zero_point), name="requantize"
    )


def quantize(x: Any, *, scale: float, zero_point: int, dtype: str, ties: Literal["even", "away"] = "away") -> Any:
    """Make integers of floats: x / scale, rounded, plus the zero point, clipped."""
    low, high = limits(dtype)
    tirx = tirx_module()
    # Anything beyond gives the same after the last clip, and fits 32 bits.
    bounds = [const(float(bound - zero_point), "float32") for bound in (low - 1, high + 1)]
    rounded = round_half_away if ties == "away" else round_to_even

    def compute(*place: Any) -> Any:
        value = call("float32", "clip_float", tirx.div(x[place], const(scale, "float32")), *bounds)
        return clipped(rounded(value) + zero_point, low, high, dtype)

    return te_module().compute(shape_of(x), compute, name="quantize")


def dequantize(x: Any, *, scale: float, zero_point: int) -> Any:
    """Make floats of integers."""
    factor = const(scale, "float32")
    return te_module().compute(
        shape_of(x), lambda *place: cast(cast(x[place], "int32") - zero_point, "float32") * factor, name="dequantize"
    )
