"""Operators of Relax on numbers whose integers are known: functions of one number, types, and who does the others."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mlf.frontends.tvm import qdq_moves, qdq_sums
from mlf.frontends.tvm.fixedpoint import all_values
from mlf.frontends.tvm.qdq_layouts import numbers_of, type_dtype
from mlf.frontends.tvm.qdq_values import Constant, Integers, Lookup, Real, Sum, dequantized
from mlf.frontends.tvm.releases import load_tvm

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlf.frontends.tvm.qdq import Rewriter
    from mlf.frontends.tvm.qdq_values import Array

    Handler: TypeAlias = Callable[["Rewriter", Any, Any, Sequence[Any]], Any]

_BYTES = ("int8", "uint8")
_FLOAT = re.compile(r"T\.float32\(\"?(?P<number>[^\"()]+)\"?\)")
_FOREIGN = re.compile(r"(?P<operator>maximum|minimum|pad)\d*")


# Element by element.


def _clip_bounds(call: Any) -> tuple[float | None, float | None]:
    low, high = numbers_of(call.args[1:3])
    return low, high


def _erf(values: Array) -> Array:
    return np.array([math.erf(value) for value in values])


def _logistic(values: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-values)))


def _in_double(function: Callable[[Array], Array]) -> Callable[[Array, Any], Array]:
    return lambda values, _: function(values.astype("float64"))


# Functions of real numbers, of a table and of the call; results are rounded to single precision.
UNARY: Mapping[str, Callable[[Array, Any], Array]] = {
    "relax.abs": _in_double(np.abs),
    "relax.ceil": _in_double(np.ceil),
    "relax.clip": lambda values, call: np.clip(values, *_clip_bounds(call)),
    "relax.cos": _in_double(np.cos),
    "relax.erf": _in_double(_erf),
    "relax.exp": _in_double(np.exp),
    "relax.floor": _in_double(np.floor),
    "relax.log": _in_double(np.log),
    "relax.negative": _in_double(np.negative),
    "relax.nn.gelu": _in_double(lambda values: values * (1 + _erf(values / math.sqrt(2))) / 2),
    "relax.nn.leakyrelu": lambda values, call: np.where(values > 0, values, values * np.float32(call.attrs.alpha)),
    "relax.nn.relu": _in_double(lambda values: np.maximum(values, 0)),
    "relax.nn.silu": _in_double(lambda values: values * _logistic(values)),
    "relax.rsqrt": _in_double(lambda values: 1 / np.sqrt(values)),
    "relax.sigmoid": _in_double(_logistic),
    "relax.sin": _in_double(np.sin),
    "relax.sqrt": _in_double(np.sqrt),
    "relax.square": _in_double(np.square),
    "relax.tanh": _in_double(np.tanh),
}
# Those that only clip, as bounds.
CLIPS: Mapping[str, Callable[[Any], tuple[float | None, float | None]]] = {
    "relax.clip": _clip_bounds,
    "relax.nn.relu": lambda _: (0.0, None),
}
BINARY: Mapping[str, Callable[[Array, Array], Array]] = {
    "relax.add": np.add,
    "relax.divide": np.divide,
    "relax.maximum": np.maximum,
    "relax.minimum": np.minimum,
    "relax.multiply": np.multiply,
    "relax.power": np.power,
    "relax.subtract": np.subtract,
}


# Operators that TVM's importers write as loops at once.


def foreign_operator(module: Any, call: Any) -> tuple[str, list[Any]]:
    """Give the name and the arguments of the operator that a call of loops stands for; no name for any that is not known."""
    found = _FOREIGN.fullmatch(call.args[0].name_hint)
    arguments = list(call.args[1].fields) if hasattr(call.args[1], "fields") else [call.args[1]]
    if found is None:
        return "", arguments
    operator = found["operator"]
    if operator == "pad":
        return "pad", arguments
    if len(arguments) == 1:  # the other is in the loops
        immediates = _immediates(module[call.args[0]])
        arguments += [load_tvm().relax.const(np.float32(number)) for number in immediates]
    return (f"relax.{operator}" if len(arguments) == 2 else ""), arguments


def _immediates(function: Any) -> list[float]:
    return [float(found["number"]) for found in _FLOAT.finditer(function.script())]


def _dequantize(rewriter: Rewriter, variable: Any, call: Any, arguments: Sequence[Any]) -> Real | None:
    source, scale, zero_point = (rewriter.value(item) for item in arguments[:3])
    if not isinstance(scale, Constant) or not isinstance(zero_point, Constant) or type_dtype(variable) != "float32":
        return None
    if isinstance(source, Constant):
        return _dequantized_constant(source, scale.array, zero_point.array, int(call.attrs.axis))
    if not isinstance(source, Integers) or scale.number is None or zero_point.number is None:
        return None
    factor, zero = float(scale.number), int(zero_point.number)
    source.describe(factor, zero)
    table = dequantized(all_values(source.dtype), factor, zero)
    return Lookup(source=source, table=table, scale=factor, zero_point=zero)


def _dequantized_constant(source: Constant, scale: Array, zero_point: Array, axis: int) -> Constant | None:
    array = source.array
    if array.dtype.kind not in "iu" or source.scales is not None:
        return None
    shape = [1] * array.ndim
    if scale.size > 1:
        if scale.ndim != 1 or scale.size != array.shape[axis]:
            return None
        shape[axis] = scale.size
    zeros = zero_point.astype("int64")
    zeros = np.broadcast_to(zeros.reshape(-1), (scale.size,)) if zeros.size == 1 else zeros
    if zeros.size != scale.size:
        return None
    scales = np.broadcast_to(scale.astype("float32").reshape(shape), array.shape)
    return Constant(array=array, scales=scales, zero_points=np.broadcast_to(zeros.reshape(shape), array.shape))


def _astype(rewriter: Rewriter, variable: Any, _: Any, arguments: Sequence[Any]) -> Real | None:
    value, dtype = rewriter.value(arguments[0]), type_dtype(variable)
    if isinstance(value, Integers) and value.dtype in _BYTES and dtype in ("int32", "float32"):
        table = all_values(value.dtype).astype("float32")
        return Lookup(source=value, table=table, scale=1.0, zero_point=0, dtype=dtype)
    if isinstance(value, (Sum, Lookup)) and value.dtype == "int32" and dtype in ("int32", "float32"):
        return replace(value, dtype=dtype)
    if isinstance(value, Constant) and value.scales is None and np.can_cast(value.array.dtype, dtype, "safe"):
        return Constant(array=value.array.astype(dtype))
    return None


def _of_constants(function: Callable[..., Array]) -> Handler:
    def handle(rewriter: Rewriter, variable: Any, _: Any, arguments: Sequence[Any]) -> Constant | None:
        values = [rewriter.value(item) for item in arguments]
        if not all(isinstance(value, Constant) and value.scales is None for value in values):
            return None
        return Constant(array=np.asarray(function(*(value.array for value in values)), type_dtype(variable)))

    return handle


HANDLERS: Mapping[str, Handler] = {
    "pad": qdq_moves.pad,
    "relax.astype": _astype,
    "relax.broadcast_to": qdq_moves.plain,
    "relax.concat": qdq_moves.concat,
    "relax.dequantize": _dequantize,
    "relax.expand_dims": qdq_moves.reshape,
    "relax.flatten": qdq_moves.reshape,
    "relax.isnan": _of_constants(np.isnan),
    "relax.max": qdq_moves.maximum,
    "relax.mean": qdq_sums.mean,
    "relax.less": _of_constants(np.less),
    "relax.matmul": qdq_sums.matmul,
    "relax.nn.avg_pool1d": qdq_sums.average_pool,
    "relax.nn.avg_pool2d": qdq_sums.average_pool,
    "relax.nn.conv1d": qdq_sums.conv,
    "relax.nn.conv2d": qdq_sums.conv,
    "relax.nn.conv2d_transpose": qdq_sums.conv_transpose,
    "relax.nn.max_pool1d": qdq_moves.max_pool,
    "relax.nn.max_pool2d": qdq_moves.max_pool,
    "relax.permute_dims": qdq_moves.permute,
    "relax.repeat": qdq_moves.plain,
    "relax.reshape": qdq_moves.reshape,
    "relax.shape_of": qdq_moves.shape_of,
    "relax.shape_to_tensor": qdq_moves.shape_array,
    "relax.split": qdq_moves.split,
    "relax.squeeze": qdq_moves.reshape,
    "relax.strided_slice": qdq_moves.slice_,
    "relax.take": qdq_moves.take,
    "relax.tile": qdq_moves.plain,
    "relax.where": _of_constants(np.where),
}
