"""What the variables of a quantized model stand for while it is rewritten: integers, and real numbers that are not computed yet."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from mlf.frontends.tvm import fixedpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mlf.frontends.tvm.requantization import Requantization

    Array = NDArray[Any]

# "plain" is the model's own order of axes; "last" has the channels, axis 1, behind all others; "flat" is "last" as rows of
# a matrix, so that its columns are in another order than the model's.
LayoutName: TypeAlias = Literal["plain", "last", "flat"]
_INT8 = (-128, 127)
_BIAS_TOLERANCE = 1e-5  # of the scale of a bias, which is a product that was rounded to single precision


@dataclass(slots=True, eq=False, kw_only=True)
class Integers:
    """A tensor of 8-bit integers, or whatever a kernel makes, as expressions of Relax in one or several layouts.

    `shape` is that of the plain layout. What has no form in a layout is made by `make`, or else by moving another form.
    `scale` is the scale and the zero point that the model says they have; `origin` is the tensor that they were moved from.
    """

    shape: tuple[int, ...]
    dtype: str
    preferred: LayoutName = "plain"
    forms: dict[LayoutName, Any] = field(default_factory=dict)
    make: Callable[[LayoutName], Any] | None = None
    scale: tuple[float, int] | None = None
    origin: Integers | None = None
    image: Integers | None = None
    padding: Padding | None = None

    @property
    def is_trivial(self) -> bool:
        """Tell whether the channels-last layout has its elements in the plain order."""
        return len(self.shape) < 3 or self.shape[1] == 1 or math.prod(self.shape[2:]) == 1

    def describe(self, scale: float, zero_point: int) -> None:
        """Note the scale of these integers and of all that they were moved from, where none is known."""
        found: Integers | None = self
        while found is not None and found.scale is None:
            found.scale = (scale, zero_point)
            found = found.origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """What a tensor was before it was padded with an integer; one number per axis of the plain layout."""

    inner: Integers
    before: tuple[int, ...]
    after: tuple[int, ...]
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The integers that real numbers are to become; `ties` go to even numbers or away from zero."""

    scale: float
    zero_point: int
    dtype: str
    low: int
    high: int
    ties: Literal["even", "away"]

    def quantized(self, values: Array) -> Array:
        """Quantize real numbers, which are not NaN, as 64-bit integers."""
        scaled = np.asarray(values, "float32") / np.float32(self.scale)
        bounds = (np.float32(self.low - self.zero_point), np.float32(self.high - self.zero_point))
        limited = np.clip(scaled, *bounds)
        rounded = np.rint(limited) if self.ties == "even" else fixedpoint.round_half_away(limited)
        return np.asarray(rounded.astype("int64") + self.zero_point)

    def clipped(self, low: float | None, high: float | None) -> Target:
        """Give the target of numbers that are clipped before they are quantized."""
        smallest = self.low if low is None else int(self.quantized(np.array(low)))
        largest = self.high if high is None else int(self.quantized(np.array(high)))
        return replace(self, low=smallest, high=largest)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Lookup:
    """A function of one tensor of 8-bit integers, as its 256 values, the smallest integer's first.

    `scale` and `zero_point` are those of the integers; `dtype` is "float32", or "int32" for integers that were widened.
    """

    source: Integers
    table: Array
    scale: float
    zero_point: int
    dtype: str = "float32"

    @property
    def plain(self) -> Array:
        """Give the numbers that the integers stand for."""
        return dequantized(fixedpoint.all_values(self.source.dtype), self.scale, self.zero_point)

    @property
    def clip_bounds(self) -> tuple[int, int] | None:
        """Give the integers to clip to if the function does nothing but that; None for any other function."""
        plain = self.plain
        inside = np.flatnonzero(plain == self.table)
        if not len(inside):
            return None
        first, last = int(inside[0]), int(inside[-1])
        low = fixedpoint.limits(self.source.dtype)[0]
        is_clip = np.array_equal(self.table, np.clip(plain, plain[first], plain[last]))
        return (first + low, last + low) if is_clip else None

    @property
    def is_monotone(self) -> bool:
        """Tell whether the function never falls."""
        return bool((np.diff(self.table) >= 0).all())


def dequantized(integers: Array, scale: float, zero_point: int) -> Array:
    """Give the real numbers that integers stand for, in single precision."""
    return (integers.astype("int64") - zero_point).astype("float32") * np.float32(scale)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Sum:
    """A convolution, a matrix product or a mean: sums of integers times `input_scale` and the scale of their channel.

    The `kernel` makes the sums with a bias and a requantization. `bias` is in units of the sums and None if there is none;
    it is not `is_exact` if it was rounded to them. A sum without `channel_axis` takes no bias. `dtype` is that of the model:
    "float32", or "int32" for sums that were never scaled.
    """

    kernel: Callable[[Array | None, Requantization], Integers]
    shape: tuple[int, ...]
    input_scale: float
    channel_scales: Array
    channel_axis: int | None = None
    bias: Array | None = None
    is_exact: bool = True
    dtype: str = "float32"

    @property
    def scales(self) -> Array:
        """Give the scale of the sums of each channel, in double precision."""
        return self.input_scale * self.channel_scales.astype("float64")

    def with_bias(self, constant: Constant) -> Sum | None:
        """Add numbers that differ from channel to channel at most; None if they differ otherwise."""
        if self.channel_axis is None:
            return None
        channels = self.shape[self.channel_axis]
        values = constant.real.astype("float64")
        shape = (1,) * (len(self.shape) - values.ndim) + values.shape
        if len(shape) > len(self.shape) or any(
            extent != 1 for axis, extent in enumerate(shape) if axis != self.channel_axis
        ):
            return None
        if shape[self.channel_axis] not in (1, channels):
            return None
        scales = np.broadcast_to(self.scales, (channels,))
        wanted = np.broadcast_to(values.reshape(-1), (channels,)) / scales
        total = np.rint(wanted)
        if np.abs(total).max(initial=0) >= 1 << 30:
            return None
        is_exact = bool(np.allclose(total, wanted, rtol=_BIAS_TOLERANCE, atol=_BIAS_TOLERANCE))
        known = 0 if self.bias is None else self.bias.astype("int64")
        return replace(self, bias=(total.astype("int64") + known).astype("int32"), is_exact=self.is_exact and is_exact)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """Integers with their scale and zero point."""

    integers: Integers
    scale: float
    zero_point: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Pair:
    """The sum, difference or product of two tensors, which are broadcast to `shape`."""

    kind: Literal["add", "subtract", "multiply"]
    left: Operand
    right: Operand
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Clipped:
    """A value that is clipped; None is no bound."""

    value: Real
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Moved:
    """A value whose elements are rearranged, which can as well be done after they are quantized."""

    value: Real
    move: Callable[[Integers], Integers]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Joined:
    """Values side by side."""

    parts: tuple[Real, ...]
    join: Callable[[Sequence[Integers]], Integers]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Constant:
    """Numbers of the model: `array`, less its zero points, times its scales, which have the shape of the array."""

    array: Array
    scales: Array | None = None
    zero_points: Array | None = None

    @property
    def real(self) -> Array:
        """Give the numbers themselves; those without scales in their own type."""
        if self.scales is None or self.zero_points is None:
            return self.array
        return (self.array.astype("int64") - self.zero_points).astype("float32") * self.scales

    @property
    def number(self) -> Any:
        """Give the only number of a constant of one element, None of any other."""
        return self.real.reshape(-1)[0] if self.array.size == 1 else None

    def rearranged(self, change: Callable[[Array], Array]) -> Constant:
        """Move the elements."""
        moved = [None if item is None else change(item) for item in (self.array, self.scales, self.zero_points)]
        return Constant(array=np.asarray(moved[0]), scales=moved[1], zero_points=moved[2])

    def weights(self, axis: int) -> Weights | None:
        """Take it as 8-bit weights that have a scale per place along `axis` at most; None if it is anything else."""
        if self.array.dtype.kind not in "iu":
            return None
        scales = np.ones(1, "float32") if self.scales is None else _along(self.scales, axis)
        centred = self.array.astype("int64") - (0 if self.zero_points is None else self.zero_points)
        low, high = int(centred.min(initial=0)), int(centred.max(initial=0))
        if scales is None or high - low > _INT8[1] - _INT8[0]:
            return None
        zero_point = 0 if low >= _INT8[0] and high <= _INT8[1] else _INT8[0] - low
        return Weights(array=(centred + zero_point).astype("int8"), zero_point=zero_point, scales=scales)

    def operand(self, layout: Callable[[Array], Any]) -> Operand | None:
        """Take it as a tensor of 8-bit integers with one scale; `layout` makes an expression of an array."""
        if self.array.dtype not in (np.int8, np.uint8) or self.scales is None or self.zero_points is None:
            return None
        if np.ptp(self.scales) or np.ptp(self.zero_points):
            return None
        integers = Integers(
            shape=self.array.shape,
            dtype=str(self.array.dtype),
            make=lambda name: layout(channels_last(self.array, name)),
        )
        return Operand(integers=integers, scale=float(self.scales.flat[0]), zero_point=int(self.zero_points.flat[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Weights as signed 8-bit integers, one zero point, and one scale or one per output channel."""

    array: Array
    zero_point: int
    scales: Array


def _along(values: Array, axis: int) -> Array | None:
    """Give numbers that are the same along all axes but one, as one number if they are the same along that too."""
    if not values.size:
        return None
    first = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    if (first != first[:, :1]).any():
        return None
    column = np.ascontiguousarray(first[:, 0], "float32")
    return column[:1] if (column == column[0]).all() else column


def last_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Give a shape with the channels behind all other axes."""
    return (shape[0], *shape[2:], shape[1]) if len(shape) > 2 else shape


def channels_last(array: Array, layout: LayoutName) -> Array:
    """Give an array of the plain layout in another."""
    return np.ascontiguousarray(np.moveaxis(array, 1, -1)) if layout == "last" else array


Real: TypeAlias = Lookup | Sum | Pair | Clipped | Moved | Joined | Constant
