"""Fixed-point arithmetic as TensorFlow Lite's reference kernels do it, on arrays: what tables are computed with at import.

Products are rounded twice: to 31 bits with ties towards plus infinity, then to fewer bits with ties away from zero
(https://github.com/google/gemmlowp/blob/master/fixedpoint/fixedpoint.h).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

INT32_MAX = (1 << 31) - 1
LOW_BITS = 22  # 31 + 22 are the 53 of double precision
_MOST_STEPS = 1 << 10  # results of 8 bits are checked one by one, those of 16 bits are not
_SMALLEST_SHIFT = -31  # a smaller factor makes 0 of every 32-bit number
# What is added to a rounded multiplier until it suits: one more sends ties away from zero.
_MULTIPLIER_CHANGES = (0, 1, -1, 2, -2, 3, -3)
_SOFTMAX_INTEGER_BITS = 5  # of the distances from the largest input: exp(-32) is 0 in 31 bits
_SOFTMAX_FRACTION_BITS = 31 - _SOFTMAX_INTEGER_BITS
# exp(-2 ** i) for i from -2, with 31 bits.
_EXPONENTIALS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
_EXP_OF_MINUS_EIGHTH = 1895147668
_ONE_THIRD = 715827883


def quantize_multiplier(factor: float) -> tuple[int, int]:
    """Give a factor from 0 as (multiplier, shift): multiplier / 2**31 * 2**shift, the multiplier of 31 bits."""
    if not factor:
        return 0, 0
    fraction, shift = math.frexp(factor)
    multiplier = math.floor(fraction * (1 << 31) + 0.5)
    if multiplier == 1 << 31:
        multiplier, shift = multiplier // 2, shift + 1
    return (0, 0) if shift < _SMALLEST_SHIFT else (multiplier, shift)


def reduced_multiplier(multiplier: int) -> int:
    """Round a multiplier of 31 bits to the 15 bits that sums of 64 bits are multiplied by."""
    return (multiplier + (1 << 15)) >> 16 if multiplier < 0x7FFF0000 else 0x7FFF


def step_multipliers(
    factors: Sequence[float], bounds: tuple[int, int], largest_sum: int
) -> tuple[list[int], list[int]]:
    """Give multipliers and shifts so that (sum * multiplier + half) >> (31 - shift) rounds as double precision does.

    There the product with a factor is rounded to 53 bits, then with ties away from zero. Integers of 31 bits are taken if
    they give the same results, between `bounds`, for all sums up to `largest_sum`: both grow with the sum, so it is enough
    that they reach each result at the same sum. Otherwise the multipliers have LOW_BITS more, all bits of a factor.
    """
    pairs = [_short_multiplier(factor, bounds, largest_sum) for factor in factors]
    if any(pair is None for pair in pairs):
        pairs = [_long_multiplier(factor) for factor in factors]
    found = [pair for pair in pairs if pair is not None]
    return [multiplier for multiplier, _ in found], [shift for _, shift in found]


def _short_multiplier(factor: float, bounds: tuple[int, int], largest_sum: int) -> tuple[int, int] | None:
    if bounds[1] - bounds[0] > _MOST_STEPS or largest_sum > INT32_MAX:
        return None
    if not factor:
        return 0, 0
    exponent = math.frexp(factor)[1]
    wanted = [_first_sum(factor, result, largest_sum) for result in range(bounds[0] + 1, bounds[1] + 1)]
    exact = round(Fraction(factor) * Fraction(2) ** (31 - exponent))
    for change in _MULTIPLIER_CHANGES:
        multiplier = exact + change
        if multiplier <= INT32_MAX and _reaches(multiplier, 31 - exponent, bounds[0] + 1, wanted, largest_sum):
            return multiplier, exponent
    return None


def _long_multiplier(factor: float) -> tuple[int, int]:
    """Give the factor itself, larger by the smallest step: that sends ties away from zero."""
    exponent = math.frexp(factor)[1] if factor else 0
    return int(Fraction(factor) * Fraction(2) ** (31 + LOW_BITS - exponent)) + (1 if factor else 0), exponent


def _first_sum(factor: float, result: int, largest_sum: int) -> int:
    """Give the smallest sum whose product with the factor rounds to `result` or more, at most one beyond the largest."""
    guess = math.floor((result - 0.5) / factor) - 1
    guess = max(min(guess, largest_sum), -largest_sum)
    while guess <= largest_sum and _rounded(guess * factor) < result:
        guess += 1
    while guess > -largest_sum and _rounded((guess - 1) * factor) >= result:
        guess -= 1
    return guess


def _rounded(value: float) -> int:
    whole = math.floor(abs(value))
    magnitude = whole + (abs(value) - whole >= 0.5)
    return magnitude if value >= 0 else -magnitude


def _reaches(multiplier: int, places: int, first: int, wanted: Sequence[int], largest_sum: int) -> bool:
    half = 1 << (places - 1)
    for result, expected in enumerate(wanted, first):
        reached = -(
            (half - (result << places)) // multiplier
        )  # the smallest sum with sum * multiplier + half >= result << places
        if max(min(reached, largest_sum + 1), -largest_sum) != expected:
            return False
    return True


def high_product(left: Any, right: Any) -> Any:  # numbers or arrays, also below
    """Give the upper half of twice a product of 32-bit numbers, rounded."""
    return (np.asarray(left, "int64") * np.asarray(right, "int64") + (1 << 30)) >> 31


def divide_by_power(value: Any, exponent: int) -> Any:
    """Divide by 2**exponent, ties away from zero."""
    value = np.asarray(value, "int64")
    if not exponent:
        return value
    return (value + (1 << (exponent - 1)) - (value < 0)) >> exponent


def multiply(value: Any, multiplier: int, shift: int) -> Any:
    """Multiply integers by a factor that `quantize_multiplier` gave."""
    value = np.asarray(value, "int64")
    return divide_by_power(high_product(value << max(shift, 0), multiplier), max(-shift, 0))


def round_half_away(value: Any) -> Any:
    """Round as C's `round` does."""
    return np.trunc(value + np.copysign(0.5, value)) if value.dtype == np.float64 else _round_half_away(value)


def _round_half_away(value: Any) -> Any:
    return round_half_away(value.astype("float64")).astype("float32")


def softmax_table(*, beta: float, input_scale: float) -> Any:
    """Give exp(-beta * input_scale * i) for i = 0, 1, ... with 31 bits, as far as it counts: at most 256 numbers."""
    factor = min(beta * input_scale * (1 << _SOFTMAX_FRACTION_BITS), float(INT32_MAX))
    multiplier, shift = quantize_multiplier(factor)
    shift = max(shift, 0)
    farthest = math.floor(((1 << _SOFTMAX_INTEGER_BITS) - 1) * (1 << _SOFTMAX_FRACTION_BITS) / (1 << shift))
    distances = -np.arange(min(farthest, 255) + 1, dtype="int64")
    return exponential(high_product(distances << shift, multiplier)).astype("int32")


def exponential(value: Any) -> Any:
    """Give exp of numbers from -32 to 0, with 26 fractional bits, as fractions of 31 bits."""
    quarter = 1 << (_SOFTMAX_FRACTION_BITS - 2)
    rest = (value & (quarter - 1)) - quarter
    result = _exponential_of_small(rest << _SOFTMAX_INTEGER_BITS)
    remainder = rest - value
    for index, factor in enumerate(_EXPONENTIALS):
        bit = 1 << (_SOFTMAX_FRACTION_BITS - 2 + index)
        result = np.where(remainder & bit, high_product(result, factor), result)
    return np.where(value == 0, INT32_MAX, result)


def _exponential_of_small(value: Any) -> Any:
    """Give exp of numbers from -1/4 to 0: its series around -1/8, four terms."""
    offset = value + (1 << 28)
    square = high_product(offset, offset)
    cube = high_product(square, offset)
    fourth = high_product(square, square)
    terms = high_product(divide_by_power(fourth, 2) + cube, _ONE_THIRD) + square
    return _EXP_OF_MINUS_EIGHTH + high_product(_EXP_OF_MINUS_EIGHTH, offset + divide_by_power(terms, 1))


def limits(dtype: str) -> tuple[int, int]:
    """Give the smallest and the largest number of an integer type."""
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def all_values(dtype: str) -> Any:
    """List all numbers of an 8-bit type, as 64-bit integers."""
    low, high = limits(dtype)
    return np.arange(low, high + 1, dtype="int64")


def clipped(values: Any, dtype: str) -> Any:
    """Clip 64-bit integers to a type."""
    return np.clip(values, *limits(dtype)).astype(dtype)


def function_table(
    function: Callable[[Any], Any], dtype: str, *, input_scale: float, input_zero_point: int, output_scale: float, output_zero_point: int,
) -> Any:  # fmt: skip
    """Tabulate a function of real numbers for all numbers of an 8-bit type, in single precision."""
    real = np.float32(input_scale) * (all_values(dtype) - input_zero_point).astype("float32")
    inverse = np.float32(1) / np.float32(output_scale)
    rounded = round_half_away(function(real).astype("float32") * inverse)
    return clipped((rounded + np.float32(output_zero_point)).astype("int64"), dtype)


def logistic(value: Any) -> Any:
    """Give the logistic function in single precision."""
    exponential_ = np.exp(-value.astype("float64")).astype("float32")
    return np.float32(1) / (np.float32(1) + exponential_)


def tanh(value: Any) -> Any:
    """Give the hyperbolic tangent in single precision."""
    return np.tanh(value.astype("float64")).astype("float32")


def hard_swish_table(
    dtype: str, *, input_scale: float, input_zero_point: int, output_scale: float, output_zero_point: int
) -> Any:
    """Tabulate x * min(max(x + 3, 0), 6) / 6 as 16-bit arithmetic gives it; the output's scale is at least the input's / 128."""
    fine = np.float32(1 / 128) * np.float32(input_scale)
    output_multiplier, output_shift = quantize_multiplier(float(fine / np.float32(output_scale)))
    gate_multiplier, gate_shift = quantize_multiplier(float(fine / np.float32(3 / 32768)))
    value = (all_values(dtype) - input_zero_point) * 128
    scaled = _high_product_16(value, reduced_multiplier(output_multiplier))
    gate = _clip_16(value << (gate_shift - 1)) if gate_shift > 0 else value
    gate = _high_product_16(gate, reduced_multiplier(gate_multiplier))
    gate = _clip_16(gate << 1) if gate_shift > 0 else divide_by_power(gate, -gate_shift)
    gate = (gate + (1 << 15)) >> 1
    product = np.trunc((gate * scaled) / (1 << 15)).astype("int64")
    return clipped(divide_by_power(product, -output_shift) + output_zero_point, dtype)


def _high_product_16(left: Any, right: int) -> Any:
    return (left * right + (1 << 14)) >> 15


def _clip_16(value: Any) -> Any:
    return np.clip(value, -(1 << 15), (1 << 15) - 1)
