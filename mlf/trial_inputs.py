"""Inputs with which a model is tried: always the same ones, over the range that the model was made for where its file tells."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mlf.arrays import numpy_dtype
from mlf.errors import TensorError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from mlf.arrays import Arrays
    from mlf.metadata import Tensor

Range: TypeAlias = "tuple[float, float]"

DEFAULT_INPUT_COUNT = 8
_SEED = 5
_ZEROS = 2  # the place of the set of zeros
_TERMS = 12  # so many uniform numbers have the variance 1 together
# Of what are likely indices or masks: at first small enough for almost any axis, then for most.
_INDEX_LIMITS = (2, 8)
# Integers of this size hold quantised values, over all of their range.
_QUANTISED_BYTES = 2
_DEVIATIONS = 6  # that a range is wide for inputs around its middle: nearly all are inside


def input_ranges(model: Path) -> Mapping[str, Range]:
    """Tell between which numbers the float inputs lie that a model turns into integers at once, as its file says.

    Inputs of other numbers saturate, and a check with them would prove little. A file that cannot be read tells nothing.
    """
    readers = {".onnx": _onnx_ranges, ".tflite": _tflite_ranges}
    reader = readers.get(model.suffix)
    try:
        return dict(reader(model)) if reader else {}
    except Exception:  # noqa: BLE001  # the runtimes raise classes of their own; inputs are no more than a guess
        return {}


def _onnx_ranges(model: Path) -> Iterator[tuple[str, Range]]:
    import onnx  # noqa: PLC0415  # optional

    graph = onnx.load(str(model)).graph
    known = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    inputs = {item.name for item in graph.input}
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in inputs and node.input[1] in known:
            zero_point = known[node.input[2]] if len(node.input) > 2 else np.uint8(0)
            if zero_point.size == 1:
                yield node.input[0], _range(float(known[node.input[1]].ravel()[0]), int(zero_point.ravel()[0]), zero_point.dtype)  # fmt: skip


def _tflite_ranges(model: Path) -> Iterator[tuple[str, Range]]:
    from ai_edge_litert import interpreter  # noqa: PLC0415  # optional

    session = interpreter.Interpreter(model_path=str(model))
    tensors = {item["index"]: item for item in session.get_tensor_details()}
    inputs = {item["index"]: item["name"] for item in session.get_input_details()}
    for operator in session._get_ops_details():  # noqa: SLF001  # nothing else tells what reads a tensor
        source = operator["inputs"][0] if len(operator["inputs"]) else None
        if operator["op_name"] == "QUANTIZE" and source in inputs:
            result = tensors[operator["outputs"][0]]
            scale, zero_point = result["quantization"]
            yield inputs[source], _range(scale, zero_point, np.dtype(result["dtype"]))


def _range(scale: float, zero_point: int, dtype: np.dtype[Any]) -> Range:
    limits = np.iinfo(dtype)
    return (limits.min - zero_point) * scale, (limits.max - zero_point) * scale


def _spread(values: npt.NDArray[Any], range_: Range | None, *, is_uniform: bool) -> npt.NDArray[Any]:
    """Move numbers in [0, 1), or around 0 with the deviation 1, into a range."""
    if range_ is None:
        return values
    low, high = range_
    moved = low + values * (high - low) if is_uniform else (low + high) / 2 + values * (high - low) / _DEVIATIONS
    return np.clip(moved, low, high)


def generate_inputs(
    inputs: Sequence[Tensor], count: int = DEFAULT_INPUT_COUNT, *, ranges: Mapping[str, Range] | None = None
) -> tuple[Arrays, ...]:
    """Make `count` sets of inputs, always the same ones; TensorError for a tensor without a shape.

    Floats have in turn about the standard normal distribution and are uniform in [0, 1). The third set is all zeros, which
    a quantised tensor writes as its zero point. Integers of 8 and 16 bits have their full range; wider ones, which are
    likely to be indices, are below 2 in the first set and below 8 in the others. A float whose range is known is spread over it.
    """
    unknown = [tensor.name for tensor in inputs if tensor.shape is None or tensor.dtype is None]
    if unknown:
        names = ", ".join(f"`{name}`" for name in unknown)
        raise TensorError(f"nothing tells the type and shape of {names}, for which inputs were to be made")
    return tuple(
        {
            tensor.name: _generated(tensor, number, place, (ranges or {}).get(tensor.name))
            for place, tensor in enumerate(inputs)
        }
        for number in range(count)
    )


def _generated(tensor: Tensor, number: int, place: int, range_: Range | None) -> npt.NDArray[Any]:
    dtype, shape = numpy_dtype(tensor), tensor.shape or ()
    # The bits of this generator are the same in every numpy, what its distributions make of them need not be.
    bits = np.random.PCG64([_SEED, number, place])
    if number == _ZEROS:
        zero_point = tensor.quantization.zero_point if tensor.quantization else 0
        return np.full(shape, zero_point, dtype)
    size = math.prod(shape)
    if dtype.kind == "f":
        terms = 1 if number % 2 else _TERMS
        uniform = (bits.random_raw(terms * size) >> np.uint64(40)) * 2.0**-24  # what float32 holds without rounding
        flat = uniform if terms == 1 else uniform.reshape(terms, size).sum(axis=0) - _TERMS / 2
        return _spread(flat, range_, is_uniform=terms == 1).astype(dtype).reshape(shape)
    raw = bits.random_raw(size)
    if dtype.kind == "b":
        raw = raw >> np.uint64(63)
    elif dtype.itemsize > _QUANTISED_BYTES:
        raw = raw % np.uint64(_INDEX_LIMITS[min(number, 1)])
    return raw.astype(dtype).reshape(shape)
