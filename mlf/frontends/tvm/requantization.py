"""How sums of products become the integers of a tensor, as expressions of TVM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mlf.frontends.tvm import fixedpoint
from mlf.frontends.tvm.fixedpoint import limits, quantize_multiplier, reduced_multiplier
from mlf.frontends.tvm.helpers import call
from mlf.frontends.tvm.releases import load_tvm

if TYPE_CHECKING:
    from collections.abc import Sequence

Arithmetic = Literal["twice", "once", "wide", "float"]
_FRACTION_BITS = {"twice": 31, "once": 31, "wide": 15}  # of multipliers


@dataclass(frozen=True, slots=True, kw_only=True)
class Requantization:
    """How sums become the integers of a tensor: times a factor, one or one per channel, plus the zero point, clipped.

    The `arithmetic` is one of four. "twice": 31-bit fixed point that is rounded twice, TensorFlow Lite's for most operators.
    "once": what the product of a factor in double precision gives, rounded with ties away from zero, by integers that give
    the same for all sums up to `largest_sum`; LiteRT's for fully connected layers. "wide": 15-bit fixed point, TensorFlow
    Lite's for sums of 64 bits. "float": a product in single precision, ties to even, as ONNX Runtime has it.
    """

    factors: tuple[float, ...]
    zero_point: int
    low: int
    high: int
    dtype: str
    arithmetic: Arithmetic = "twice"
    largest_sum: int = 0
    divisor: int = 1  # of the factors: TensorFlow Lite rounds multiplier / divisor to an integer

    def tables(self) -> tuple[Any, ...]:
        """Give the arrays that hold what differs from channel to channel; operators take them as their last tensors."""
        import numpy as np  # noqa: PLC0415

        if len(self.factors) == 1:
            return ()
        if self.arithmetic == "float":
            return (np.array(self.factors, "float32"),)
        multipliers, shifts = self.fixed()
        table = np.array(multipliers, "int32" if max(multipliers) <= fixedpoint.INT32_MAX else "int64")
        steps = self._places(shifts)
        steps = (*steps[:1], *([place - 1 for place in places] if min(places) else places for places in steps[1:]))
        return (table, *(np.array(places, "uint8") for places in steps if len(set(places)) > 1))

    def _places(self, shifts: Sequence[int]) -> tuple[list[int], ...]:
        """Give by how many places products are shifted right for each channel, in one step or in two."""
        bits = _FRACTION_BITS[self.arithmetic]
        if self.arithmetic != "twice":
            return ([bits - shift for shift in shifts],)
        return [bits - max(shift, 0) for shift in shifts], [max(-shift, 0) for shift in shifts]

    def fixed(self) -> tuple[list[int], list[int]]:
        """Give the multipliers and shifts of fixed-point arithmetic: multiplier * 2**(shift - 31)."""
        if self.arithmetic == "once":
            bounds = (self.low - self.zero_point, self.high - self.zero_point)
            multipliers, shifts = fixedpoint.step_multipliers(self.factors, bounds, self.largest_sum)
        else:
            multipliers, shifts = map(list, zip(*(self._pair(factor) for factor in self.factors), strict=True))
        used = next((shift for multiplier, shift in zip(multipliers, shifts, strict=True) if multiplier), 0)
        # A factor of 0 takes a shift that another has: it makes 0 with any.
        return multipliers, [
            shift if multiplier else used for multiplier, shift in zip(multipliers, shifts, strict=True)
        ]

    def _pair(self, factor: float) -> tuple[int, int]:
        multiplier, shift = quantize_multiplier(factor)
        if self.arithmetic == "wide":
            return reduced_multiplier(multiplier), shift
        if self.divisor == 1:
            return multiplier, shift
        places = min(self.divisor.bit_length() - 1, 32, 31 + shift)
        return (multiplier << places) // self.divisor, shift - places

    def of_array(self, totals: Any) -> Any:  # numpy arrays
        """Give the outputs for an array of sums, with the one factor that there is, in "twice" or "float" arithmetic."""
        import numpy as np  # noqa: PLC0415

        if self.arithmetic == "float":
            scaled = np.rint(totals.astype("float32") * np.float32(self.factors[0] / self.divisor)).astype("int64")
        else:
            (multiplier,), (shift,) = self.fixed()
            scaled = fixedpoint.multiply(totals, multiplier, shift)
        return np.clip(scaled + self.zero_point, self.low, self.high).astype(self.dtype)

    def apply(self, total: Any, tables: Sequence[Any] = (), channel: Any = 0) -> Any:  # TVM has no types
        """Give the expression of an output for a sum; `tables` are the tensors of `tables()`, `channel` a place in them."""
        if self.arithmetic == "float":
            factor = tables[0][channel] if tables else const(self.factors[0] / self.divisor, "float32")
            return self.rounded(cast(total, "float32") * factor)
        multipliers, shifts = self.fixed()
        tables = list(tables)
        is_long = max(multipliers) > fixedpoint.INT32_MAX
        multiplier = tables.pop(0)[channel] if tables else const(multipliers[0], "int64" if is_long else "int32")
        steps = self._places(shifts)
        differing = [tables.pop(0)[channel] if len(set(places)) > 1 else None for places in steps]
        value = _scaled(total, multiplier, steps, differing, word="long" if is_long else self.arithmetic)
        return self.clip(value + self.zero_point if self.zero_point else value)

    def clip(self, value: Any) -> Any:
        """Clip an expression of 32 bits and make it an integer of the output."""
        return clipped(value, self.low, self.high, self.dtype)

    def rounded(self, value: Any) -> Any:
        """Give the integer of the output for a float in its units, ties to even."""
        low, high = float(self.low - self.zero_point), float(self.high - self.zero_point)
        if low == 0 and high > 0:
            value = call("float32", "at_most", call("float32", "relu", value), const(high, "float32"))
        else:
            value = call("float32", "clip_float", value, const(low, "float32"), const(high, "float32"))
        return cast(round_to_even(value) + self.zero_point, self.dtype)


def _scaled(total: Any, multiplier: Any, steps: Sequence[Sequence[int]], tables: Sequence[Any], *, word: str) -> Any:
    """Multiply a sum and shift it in one step or two, by places that are known or, if they differ, by expressions.

    An expression for the second step is less by one if none of its places is 0.
    """
    first = steps[0][0] if tables[0] is None else tables[0]
    if word != "twice":
        return call("int32", f"fixed_scale_{word}", total, multiplier, first)
    is_plain = tables[0] is None and first == _FRACTION_BITS[word]
    second = steps[1][0] - 1 if tables[1] is None else tables[1]
    if is_plain and min(steps[1]):
        return call("int32", "fixed_scale", total, multiplier, second)
    value = high_product(total, multiplier) if is_plain else call("int32", "fixed_scale_once", total, multiplier, first)
    if min(steps[1]):
        return call("int32", "fixed_shift", value, second)
    return value if tables[1] is None else call("int32", "fixed_shift_any", value, second)


def clipped(value: Any, low: int, high: int, dtype: str) -> Any:
    """Clip an expression of 32 bits and make it an integer of a type."""
    if (low, high) == limits(dtype) and dtype in ("int8", "uint8", "int16"):
        return call(dtype, f"clip_{dtype}", value)
    return cast(call("int32", "clip_int32", value, low, high), dtype)


def multiplied(value: Any, multiplier: int, shift: int) -> Any:
    """Multiply 32 bits by a fixed-point factor and round twice."""
    steps = [_FRACTION_BITS["twice"] - max(shift, 0)], [max(-shift, 0)]
    return _scaled(value, const(multiplier, "int32"), steps, (None, None), word="twice")


def high_product(left: Any, right: Any) -> Any:
    """Give the upper half of twice a product of 32-bit numbers, rounded, ties towards plus infinity."""
    return call("int32", "fixed_product", left, right)


def round_to_even(value: Any) -> Any:
    """Round a float below 2**22 to an integer of 32 bits, ties to even, without the C library."""
    return call("int32", "round_even", value)


def round_half_away(value: Any) -> Any:
    """Round a float that fits 31 bits to an integer of 32 bits, ties away from zero."""
    return call("int32", "round_away", value)


def const(value: float, dtype: str) -> Any:
    """Make a number of a type of TVM."""
    return load_tvm().tirx.const(value, dtype)


def cast(value: Any, dtype: str) -> Any:
    """Convert an expression."""
    return value.astype(dtype)
