"""Operators of a TensorFlow Lite model with their tensors, and what the handlers of several of them use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlf.frontends.tvm import fixedpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlf.frontends.tvm.tflite import Importer
    from mlf.frontends.tvm.tflite_reader import FileOperator, FileTensor

INTEGERS = ("int8", "uint8", "int16")
ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")


@dataclass(frozen=True, slots=True)
class Node:
    """An operator with its tensors: None for an input that it does without."""

    operator: FileOperator
    inputs: tuple[FileTensor | None, ...]
    outputs: tuple[FileTensor, ...]

    def input(self, index: int) -> FileTensor:
        """Give an input that must be there."""
        found = self.optional(index)
        if found is None:
            raise Unsupported(f"has no input {index}")
        return found

    def optional(self, index: int) -> FileTensor | None:
        """Give an input that may be missing."""
        return self.inputs[index] if index < len(self.inputs) else None

    @property
    def output(self) -> FileTensor:
        """Give the only output."""
        return self.outputs[0]

    def option(self, name: str, default: Any = 0) -> Any:
        """Give an option by its name in the format."""
        return self.operator.options.get(name, default)


class Unsupported(Exception):  # noqa: N818  # becomes an UnsupportedError as soon as it is known which operator it is of
    """Why an operator cannot be imported."""


def scale_of(tensor: FileTensor) -> tuple[float, int]:
    """Give the scale and the zero point of a tensor that has one of each."""
    if tensor.dtype not in INTEGERS:
        raise Unsupported(f"has `{tensor.name}` of the type `{tensor.type_name}`, expected integers of 8 or 16 bits")
    if len(tensor.scales) != 1:
        raise Unsupported(f"has `{tensor.name}` with {len(tensor.scales)} scales, expected one")
    scale = tensor.scales[0]
    if not 0 < scale < math.inf:
        raise Unsupported(f"has `{tensor.name}` with the scale {scale}, expected a number above 0")
    return scale, tensor.zero_points[0]


def activation_range(tensor: FileTensor, activation: int) -> tuple[int, int]:
    """Give the smallest and largest integer of an output behind a fused activation."""
    low, high = fixedpoint.limits(tensor.dtype)
    name = ACTIVATIONS[activation] if 0 <= activation < len(ACTIVATIONS) else str(activation)
    bounds = {"NONE": (None, None), "RELU": (0.0, None), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}.get(name)
    if bounds is None:
        raise Unsupported(f"has the fused activation `{name}`")
    scale, zero_point = scale_of(tensor)
    if bounds[0] is not None:
        low = max(low, zero_point + _steps(bounds[0], scale))
    if bounds[1] is not None:
        high = min(high, zero_point + _steps(bounds[1], scale))
    return low, high


def _steps(value: float, scale: float) -> int:
    return int(fixedpoint.round_half_away(np.float32(value) / np.float32(scale)))


def single(*numbers: float) -> list[Any]:
    """Give numbers in single precision, in which their products and quotients are computed then."""
    return [np.float32(number) for number in numbers]


def require_scale(source: FileTensor, output: FileTensor) -> None:
    """Refuse an operator that does not compute but changes the scale or zero point."""
    if scale_of(source) != scale_of(output):
        raise Unsupported(f"changes the scale from {scale_of(source)} to {scale_of(output)}")


def reshaped(importer: Importer, value: Any, shape: Sequence[int] | None, wanted: Sequence[int]) -> Any:
    """Give a value another shape; `shape` is what it has, None if it is to be reshaped in any case."""
    if shape is not None and tuple(shape) == tuple(wanted):
        return value
    return importer.call(importer.relax.op.reshape(value, [int(extent) for extent in wanted]))


def image_of(importer: Importer, source: FileTensor) -> tuple[int, int]:
    """Give the rows and columns of an image."""
    _, height, width, _ = importer.shape_of(source)
    return height, width
