"""Integer operators that ONNX needs and TensorFlow Lite has not: sums that become floats, averages with a scale of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlf.frontends.tvm.loops import shape_of, te_module
from mlf.frontends.tvm.quantized_elements import broadcast
from mlf.frontends.tvm.quantized_layers import is_padded
from mlf.frontends.tvm.releases import load_tvm
from mlf.frontends.tvm.requantization import Requantization

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlf.frontends.tvm.quantized_layers import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Release(Requantization):
    """How sums leave integer arithmetic: as they are if `dtype` is "int32", as floats, times a factor, if it is "float32".

    Operators take it in place of a Requantization. `bounds` clip the floats.
    """

    bounds: tuple[float | None, float | None] = (None, None)

    def apply(self, total: Any, tables: Sequence[Any] = (), channel: Any = 0) -> Any:  # TVM has no types
        """Give the expression of an output for a sum."""
        if self.dtype == "int32":
            return total.astype("int32")
        tirx = load_tvm().tirx
        factor = tables[0][channel] if tables else tirx.const(self.factors[0] / self.divisor, "float32")
        value = total.astype("float32") * factor
        low, high = self.bounds
        value = value if low is None else tirx.max(value, tirx.const(low, "float32"))
        return value if high is None else tirx.min(value, tirx.const(high, "float32"))


def quantize(x: Any, *, scale: float, requantization: Requantization) -> Any:
    """Make integers of floats: x / scale, rounded with ties to even, plus the zero point, clipped."""
    divisor = load_tvm().tirx.const(scale, "float32")
    return te_module().compute(shape_of(x), lambda *place: requantization.rounded(x[place] / divisor), name="quantize")


def _centred(value: Any, zero_point: int) -> Any:
    value = value.astype("int32")
    return value - zero_point if zero_point else value


def add(
    left: Any, right: Any, *, factors: tuple[float, float], zero_points: tuple[int, int], requantization: Requantization
) -> Any:
    """Add two tensors of integers, each times its factor, in single precision; the requantization's own factor is 1."""
    shape, readers = broadcast(left, right)
    tirx = load_tvm().tirx

    def compute(*place: Any) -> Any:
        terms = [
            _centred(read(place), zero_point).astype("float32") * tirx.const(factor, "float32")
            for read, zero_point, factor in zip(readers, zero_points, factors, strict=True)
        ]
        return requantization.apply(terms[0] + terms[1])

    return te_module().compute(shape, compute, name="add")


def _share(corner: tuple[Any, Any], image: tuple[int, int], size: tuple[int, int], factor: float) -> Any:
    """Divide a factor by how many taps of a window are inside of an image, whose first tap is at `corner`."""
    tirx = load_tvm().tirx
    counts = [
        tirx.min(first + taps, extent) - tirx.max(first, 0)
        for first, taps, extent in zip(corner, size, image, strict=True)
    ]
    return tirx.const(factor, "float32") / (counts[0] * counts[1]).astype("float32")


def average_pool2d(
    x: Any,
    *,
    size: tuple[int, int],
    window: Window,
    zero_point: int,
    counts_padding: bool,
    requantization: Requantization,
) -> Any:
    """Give the mean of what a window, which is not dilated, shows of each channel of an image NHWC, requantized in floats.

    What lies outside of the image counts as 0 if it `counts_padding`, and not at all otherwise.
    """
    te, tirx = te_module(), load_tvm().tirx
    batch, height, width, channels = shape_of(x)
    padded = is_padded(window, (height, width), size)
    ky, kx = te.reduce_axis((0, size[0]), "ky"), te.reduce_axis((0, size[1]), "kx")

    def corner(y: Any, column: Any) -> tuple[Any, Any]:
        return y * window.strides[0] - window.padding[0], column * window.strides[1] - window.padding[1]

    def value(n: Any, y: Any, column: Any, channel: Any) -> Any:
        top, left = corner(y, column)
        row, place = top + ky, left + kx
        found = _centred(x[n, row, place, channel], zero_point)
        if not padded:
            return found
        inside = tirx.all(row >= 0, row < height, place >= 0, place < width)
        return tirx.if_then_else(inside, found, tirx.const(0, "int32"))

    shape = (batch, *window.output((height, width), size), channels)
    total = te.compute(shape, lambda *place: te.sum(value(*place), axis=[ky, kx]), name="total")
    if padded and not counts_padding:
        return te.compute(
            shape, lambda n, y, column, channel: requantization.apply(total[n, y, column, channel], ({0: _share(corner(y, column), (height, width), size, requantization.factors[0])},)),
            name="average_pool2d",
        )  # fmt: skip
    averaged = replace(requantization, divisor=size[0] * size[1])
    return te.compute(shape, lambda *place: averaged.apply(total[place]), name="average_pool2d")
