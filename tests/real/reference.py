"""What the models of `make_archives.py` compute, in numpy alone: the judge of every archive.

Real numbers are float64. Quantized ones are int64, so that integer results are exact.
Images are batch, channel, row, column; weights are output channel, input channel, row, column.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[Any]"

# A scale becomes a Q0.31 number and a power of two.
FRACTION_BITS = 31


def conv2d(x: Array, weights: Array, *, stride: int = 1, padding: int = 0, groups: int = 1) -> Array:
    """The cross-correlation of `x`, padded with zeros, with `weights`, in the number type of `x`."""
    edge = (padding, padding)
    padded = np.pad(x, ((0, 0), (0, 0), edge, edge))
    rows, columns = weights.shape[2:]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (1, 1, rows, columns))
    windows = windows[:, :, ::stride, ::stride, 0, 0]
    parts = zip(np.split(windows, groups, axis=1), np.split(weights.astype(x.dtype), groups), strict=True)
    return np.concatenate([np.einsum("nchwrs,ocrs->nohw", part, kernel) for part, kernel in parts], axis=1)


def max_pool(x: Array, size: int) -> Array:
    """The largest number of every square of `size` by `size`; the squares do not overlap."""
    batch, channels, rows, columns = x.shape
    squares = x.reshape(batch, channels, rows // size, size, columns // size, size)
    return np.asarray(squares.max(axis=(3, 5)))


def sigmoid(x: Array) -> Array:
    """The logistic function."""
    return np.asarray(1 / (1 + np.exp(-x)))


def erf(x: Array) -> Array:
    """The error function."""
    return np.asarray(np.vectorize(math.erf)(x))


def softmax(x: Array) -> Array:
    """The softmax along the last axis."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def per_channel(values: Array, rank: int) -> Array:
    """`values`, one per channel or one for all, shaped to meet an array of `rank` whose axis 1 is the channel."""
    return values.reshape(-1, *[1] * (rank - 2))


def fixed_point(scale: float) -> tuple[int, int]:
    """The integers `multiplier` and `exponent` with `scale` = multiplier * 2**(exponent - 31), nearly."""
    fraction, exponent = math.frexp(scale)
    multiplier = math.floor(fraction * 2**FRACTION_BITS + 0.5)
    if multiplier == 2**FRACTION_BITS:
        return multiplier // 2, exponent + 1
    return multiplier, exponent


def rescale(x: Array, scale: float) -> Array:
    """`x` times `scale` in fixed point, halves rounded up: the rounding that TVM names `UPWARD`."""
    multiplier, exponent = fixed_point(scale)
    shift = FRACTION_BITS - min(exponent, 0)
    raised = x.astype(np.int64) << max(exponent, 0)
    return np.asarray((raised * multiplier + (1 << (shift - 1))) >> shift)


def requantize(x: Array, input_scales: Array, *, scale: float, zero: int) -> Array:
    """The int8 numbers, as int64, of the accumulators `x`: one of `input_scales` per channel, or one for all.

    The scales are rounded to float32 first, as the compiler stores them.
    """
    ratios = input_scales.astype(np.float32).astype(np.float64) / np.float64(np.float32(scale))
    channels = np.split(x, len(ratios), axis=1)
    scaled = [rescale(channel, float(ratio)) for channel, ratio in zip(channels, ratios, strict=True)]
    return np.asarray(np.clip(np.concatenate(scaled, axis=1) + zero, -128, 127))
