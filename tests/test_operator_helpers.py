"""The C functions that integer operators call, against whole numbers and fractions of Python, which do not overflow."""

from __future__ import annotations

import ctypes
import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import operator_helpers
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mlf.frontends.tvm.helpers import definitions, functions

if TYPE_CHECKING:
    from collections.abc import Callable

INT32 = st.integers(-(1 << 31), (1 << 31) - 1)
MULTIPLIERS = st.integers(1 << 30, (1 << 31) - 1)
PLACES = st.integers(0, 30)
KINDS: dict[str, Any] = {"int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "int": ctypes.c_int, "float": ctypes.c_float, "int8_t": ctypes.c_int8, "uint8_t": ctypes.c_uint8, "int16_t": ctypes.c_int16}  # fmt: skip


def function(name: str) -> Callable[..., float]:
    """Give a function as C declares it."""
    head = functions()[name].split("static inline ")[1].split(") {")[0]
    result, _, rest = head.partition(" ")
    found = operator_helpers.load()[name]
    found.restype = KINDS[result]
    found.argtypes = [KINDS[item.rpartition(" ")[0]] for item in rest.split("(")[1].split(", ")]
    return found


def upwards(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def away(value: Fraction) -> int:
    return upwards(value) if value > 0 else -upwards(-value)


@given(left=INT32, right=MULTIPLIERS)
@example(left=-(1 << 31), right=(1 << 31) - 1)
@example(left=1, right=1 << 30)
@example(left=-1, right=1 << 30)
def test_a_product_is_rounded_upwards(left: int, right: int) -> None:
    assert function("fixed_product")(left, right) == upwards(Fraction(left * right, 1 << 31))


@given(value=INT32, places=PLACES)
@example(value=3, places=0)
@example(value=-3, places=0)
@example(value=(1 << 31) - 1, places=30)
@example(value=(1 << 31) - 1, places=0)
@example(value=1 - (1 << 31), places=0)
def test_a_shift_is_rounded_away_from_zero(value: int, places: int) -> None:
    assume(value > -(1 << 31))  # no product is that small
    assert function("fixed_shift")(value, places) == away(Fraction(value, 2 << places))
    assert function("fixed_shift_any")(value, places) == (away(Fraction(value, 1 << places)) if places else value)


@given(total=INT32, multiplier=MULTIPLIERS, places=PLACES)
def test_a_sum_is_scaled_in_two_steps(total: int, multiplier: int, places: int) -> None:
    product = upwards(Fraction(total * multiplier, 1 << 31))
    assert function("fixed_scale")(total, multiplier, places) == away(Fraction(product, 2 << places))


@given(total=INT32, multiplier=MULTIPLIERS, places=st.integers(31, 62))
def test_a_sum_is_scaled_in_one_step(total: int, multiplier: int, places: int) -> None:
    assume(abs(total * multiplier) + (1 << (places - 1)) < 1 << 63)
    expected = upwards(Fraction(total * multiplier, 1 << places))
    assert function("fixed_scale_once")(total, multiplier, places) == expected


@given(
    total=st.integers(-(1 << 47), 1 << 47), multiplier=st.integers(1 << 14, (1 << 15) - 1), places=st.integers(15, 46)
)
def test_a_sum_of_64_bits_is_scaled(total: int, multiplier: int, places: int) -> None:
    expected = upwards(Fraction(total * multiplier, 1 << places))
    assume(abs(expected) < 1 << 31)
    assert function("fixed_scale_wide")(total, multiplier, places) == expected


@given(
    total=st.integers(-(1 << 31), 1 << 31), multiplier=st.integers(1 << 52, (1 << 53) - 1), places=st.integers(31, 60)
)
def test_a_long_multiplier_loses_its_last_bits_only(total: int, multiplier: int, places: int) -> None:
    exact = Fraction(total * multiplier, 1 << (places + 22))
    assume(abs(exact) < (1 << 31) - 1)
    assert abs(function("fixed_scale_long")(total, multiplier, places) - exact) <= Fraction(1, 2) + Fraction(
        1, 1 << places
    )


@given(total=st.integers(-(1 << 30), 1 << 30), count=st.integers(1, 1 << 16))
@example(total=5, count=2)
@example(total=-5, count=2)
@example(total=0, count=3)
def test_an_average_is_rounded_away_from_zero(total: int, count: int) -> None:
    assert function("fixed_average")(total, count) == away(Fraction(total, count))


@given(st.floats(-(2.0**22), 2.0**22, width=32))
@example(0.5)
@example(1.5)
@example(-2.5)
@example(0.49999997)
def test_floats_are_rounded(value: float) -> None:
    assert function("round_even")(value) == np.rint(np.float32(value))
    assert function("round_away")(value) == away(Fraction(value))


@given(value=INT32, bounds=st.tuples(INT32, INT32).map(sorted))
def test_integers_are_clipped(value: int, bounds: list[int]) -> None:
    assert function("clip_int32")(value, *bounds) == min(max(value, bounds[0]), bounds[1])
    for name, dtype in (("clip_int8", np.int8), ("clip_uint8", np.uint8), ("clip_int16", np.int16)):
        info = np.iinfo(dtype)
        assert function(name)(value) == min(max(value, info.min), info.max)


@pytest.mark.parametrize(
    ("value", "clipped"), [(-7.0, -2.0), (1.5, 1.5), (9.0, 3.0), (math.inf, 3.0), (-math.inf, -2.0), (math.nan, 3.0)]
)
def test_floats_are_clipped_and_what_is_no_number_is_large(value: float, clipped: float) -> None:
    assert function("clip_float")(value, -2.0, 3.0) == clipped


FLOATS = st.floats(width=32, allow_nan=False)


@given(FLOATS)
@example(-0.0)
@example(math.inf)
@example(-math.inf)
def test_what_is_negative_becomes_zero(value: float) -> None:
    found = function("relu")(value)
    assert found == max(value, 0.0)
    assert math.copysign(1, found) == 1


@given(value=FLOATS, limit=st.floats(0, exclude_min=True, width=32))
@example(value=-math.inf, limit=6.0)
@example(value=math.inf, limit=6.0)
@example(value=-(2.0**-149), limit=2.0**-149)
def test_what_is_above_a_limit_becomes_the_limit(value: float, limit: float) -> None:
    assert function("at_most")(value, limit) == min(value, limit)


def test_what_is_no_number_stays_none() -> None:
    assert math.isnan(function("relu")(math.nan))


def test_an_operator_gets_the_functions_it_calls_and_what_they_call() -> None:
    found = [
        text.split("static inline ")[1].split("(")[0].split()[1] for text in definitions("y = fixed_scale(x, 3, 4);\n")
    ]
    assert found == ["fixed_product", "fixed_shift", "fixed_scale"]
    assert definitions("y = x;\n") == []


def test_a_name_that_ends_like_a_function_is_no_call() -> None:
    """Compilers would warn of a function that nothing calls."""
    assert definitions("void tvmgen_net_relu(const int8_t* restrict x) {\n  tvmgen_net_clip_int8(x);\n}\n") == []
