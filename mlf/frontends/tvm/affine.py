"""Batch norms, biases and constant factors behind a convolution or matrix product become part of its weights.

They cost a pass over the tensor and hinder fusing; folded they cost nothing. Also computes what depends on constants alone,
and takes limits that are one number into the code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mlf.frontends.tvm.releases import constant_array, is_constant, load_tvm, name_of, shape_and_dtype, type_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    Array = NDArray[Any]

_ELEMENTWISE = ("relax.add", "relax.subtract", "relax.multiply", "relax.divide")
_ON_CONSTANTS: Mapping[str, Callable[..., Any]] = {
    "relax.add": np.add,
    "relax.subtract": np.subtract,
    "relax.multiply": np.multiply,
    "relax.divide": np.divide,
    "relax.sqrt": np.sqrt,
    "relax.rsqrt": lambda value: 1 / np.sqrt(value),
    "relax.negative": np.negative,
}
_ON_ANY_CONSTANTS: Mapping[str, Callable[..., Any]] = {"relax.isnan": np.isnan, "relax.where": np.where}
# What the loops of a limit do that TVM's importer of Clip writes: the larger or the smaller of an element and a number.
_LIMIT = re.compile(r" *\w+\[(?P<place>.+)\] = T\.(?P<operator>max|min)\(\w+\[(?P=place)\], \w+\[\(\)\]\)")
_LIMITED = 2  # arguments: what is limited, and the limit
_RESHAPING = ("relax.expand_dims", "relax.reshape", "relax.squeeze")
_SMALLEST_FACTOR = 1e-30  # a factor that close to zero may leave nothing of the weights


@dataclass(frozen=True, slots=True, kw_only=True)
class _Linear:
    """A convolution or matrix product that is not emitted yet: its weights may still change."""

    call: Any
    data: Any
    weight: Array
    weight_axis: int
    bias: Array | None
    axis: int
    rank: int
    name: str


def fold_affine(module: Any) -> Any:
    """Rewrite `main`; a module whose `main` is no plain sequence of bindings stays as it is."""
    tvm = load_tvm()
    relax = tvm.relax
    function = module["main"]
    if not isinstance(function.body, relax.SeqExpr):
        return module
    builder = relax.BlockBuilder()
    folder = _Folder(module, builder, _uses(function))
    with builder.function("main", list(function.params)):
        with builder.dataflow():
            output = builder.emit_output(folder.rewrite(function))
        builder.emit_func_output(output)
    made = builder.get()
    for variable, other in module.functions.items():
        if variable.name_hint != "main":
            made.update_func(variable, other)
    return made


def _uses(function: Any) -> Callable[[Any], int]:
    """Count how often each variable is read."""
    relax = load_tvm().relax
    found: dict[Any, int] = {}

    def count(node: Any) -> None:
        if isinstance(node, relax.Var):
            found[node] = found.get(node, 0) + 1
        elif isinstance(node, relax.Tuple):
            for item in node.fields:
                count(item)
        elif isinstance(node, relax.TupleGetItem):
            count(node.tuple_value)
        elif isinstance(node, relax.Call):
            for item in node.args:
                count(item)

    for block in function.body.blocks:
        for binding in block.bindings:
            count(binding.value)
    count(function.body.body)
    return lambda variable: found.get(variable, 0)


class _Folder:
    def __init__(self, module: Any, builder: Any, uses: Callable[[Any], int]) -> None:
        self.module = module
        self.relax = load_tvm().relax
        self.builder = builder
        self.uses = uses
        self.found: dict[Any, Any] = {}

    def rewrite(self, function: Any) -> Any:
        for block in function.body.blocks:
            for binding in block.bindings:
                self.found[binding.var] = self._bound(binding.var, binding.value)
        return self._expression(function.body.body)

    def _bound(self, variable: Any, value: Any) -> Any:
        if isinstance(value, self.relax.Tuple):
            return tuple(self._seen(item) for item in value.fields)
        if isinstance(value, self.relax.TupleGetItem):
            whole = self._seen(value.tuple_value)
            if isinstance(whole, tuple):
                return whole[value.index]
        if isinstance(value, (self.relax.Var, np.ndarray)) or is_constant(value):
            return self._seen(value)
        if isinstance(value, self.relax.Call):
            known = self._known(value)
            if known is not None:
                return known
            linear = self._linear(variable, value)
            linear = self._folded(value) if linear is None else linear
            if linear is not None:
                return linear
        return self._emit(variable, value)

    def _seen(self, node: Any) -> Any:
        return self.found.get(node, node) if isinstance(node, self.relax.Var) else node

    def _array(self, node: Any) -> Array | None:
        found = self._seen(node)
        return np.asarray(constant_array(found)) if is_constant(found) else None

    def _known(self, call: Any) -> Any:
        """Compute a call whose tensors are all constant, if it is one of a few that occur around weights."""
        name = str(getattr(call.op, "name", ""))
        if name in _RESHAPING or name in ("relax.permute_dims", "relax.astype", "relax.broadcast_to"):
            array = self._array(call.args[0])
            return None if array is None else self._rearranged(name, array, call)
        if name in _ON_ANY_CONSTANTS:
            arrays = [self._array(item) for item in call.args]
            return None if any(item is None for item in arrays) else self.relax.const(_ON_ANY_CONSTANTS[name](*arrays))
        if name not in _ON_CONSTANTS:
            return None
        arrays = [self._array(item) for item in call.args]
        if any(item is None or item.dtype != np.float32 for item in arrays):
            return None
        with np.errstate(all="ignore"):
            return self.relax.const(np.asarray(_ON_CONSTANTS[name](*arrays), np.float32))

    def _rearranged(self, name: str, array: Array, call: Any) -> Any:
        shape, dtype = shape_and_dtype(type_of(call))
        if not all(isinstance(extent, int) for extent in shape):
            return None
        if name == "relax.astype":
            return self.relax.const(array.astype(dtype)) if _is_widening(array.dtype, dtype) else None
        if name == "relax.broadcast_to":
            return self.relax.const(np.ascontiguousarray(np.broadcast_to(array, shape)))
        if name in _RESHAPING:
            return self.relax.const(np.ascontiguousarray(array.reshape(shape)))
        axes = call.attrs.axes
        order = None if axes is None else [int(axis) for axis in axes]
        return self.relax.const(np.ascontiguousarray(array.transpose(order)))

    def _linear(self, variable: Any, call: Any) -> _Linear | None:
        """Take a convolution or matrix product with constant weights apart."""
        name = str(getattr(call.op, "name", ""))
        if name not in ("relax.nn.conv1d", "relax.nn.conv2d", "relax.matmul"):
            return None
        weight = self._array(call.args[1])
        shape, dtype = shape_and_dtype(type_of(variable))
        if weight is None or (str(weight.dtype), dtype) != ("float32", "float32"):
            return None
        weight_axis, axis = weight.ndim - 1, len(shape) - 1
        if name != "relax.matmul":
            weight_axis, axis = str(call.attrs.kernel_layout).find("O"), str(call.attrs.out_layout).find("C")
        elif weight.ndim != 2:
            return None
        if min(weight_axis, axis) < 0 or shape[axis] != weight.shape[weight_axis]:
            return None  # such as a depthwise kernel of TensorFlow, whose channels are two axes
        return _Linear(
            call=call, data=self._expression(call.args[0]), weight=weight, weight_axis=weight_axis, bias=None, axis=axis,
            rank=len(shape), name=name_of(variable),
        )  # fmt: skip

    def _folded(self, call: Any) -> _Linear | None:
        """Fold a sum, difference, product or quotient with a constant into what it is applied to."""
        name = str(getattr(call.op, "name", ""))
        if name not in _ELEMENTWISE:
            return None
        for index in (0, 1):
            linear, constant = self._seen(call.args[index]), self._array(call.args[1 - index])
            if isinstance(linear, _Linear) and constant is not None and self.uses(call.args[index]) == 1:
                values = _per_channel(constant, linear)
                return None if values is None else _applied(linear, name, values, is_first=index == 0)
        return None

    def _limited(self, call: Any) -> Any:
        """Give a limit that is one number to TVM's own operator, which writes it into the code; None for anything else."""
        if str(getattr(call.op, "name", "")) != "relax.call_tir":
            return None
        arguments = list(getattr(call.args[1], "fields", ()))
        limit = self._array(arguments[1]) if len(arguments) == _LIMITED else None
        if limit is None or limit.ndim:
            return None
        found = _LIMIT.fullmatch(self.module[call.args[0]].script().rstrip().splitlines()[-1])
        if found is None:
            return None
        operator = self.relax.op.maximum if found["operator"] == "max" else self.relax.op.minimum
        return operator(self._expression(arguments[0]), self._seen(arguments[1]))

    def _emit(self, variable: Any, value: Any) -> Any:
        limited = self._limited(value) if isinstance(value, self.relax.Call) else None
        if limited is not None:
            return self.builder.emit(limited, name_of(variable))
        if isinstance(value, self.relax.Call):
            arguments = [self._expression(item) for item in value.args]
            value = self.relax.Call(value.op, arguments, value.attrs, getattr(value, "sinfo_args", None) or getattr(value, "ty_args", None))  # fmt: skip
        elif isinstance(value, self.relax.TupleGetItem):
            value = self.relax.TupleGetItem(self._expression(value.tuple_value), value.index)
        return self.builder.emit(value, name_of(variable))

    def _expression(self, node: Any) -> Any:
        """Give an expression of the new function; whatever waited is emitted now."""
        if isinstance(node, self.relax.Tuple):
            return self.relax.Tuple([self._expression(item) for item in node.fields])
        found = self._seen(node)
        if isinstance(found, tuple):
            return self.relax.Tuple([self._made(item) for item in found])
        made = self._made(found)
        if made is not found:
            self.found[node] = made
        return made

    def _made(self, found: Any) -> Any:
        if not isinstance(found, _Linear):
            return found
        call = found.call
        weight = self.relax.const(np.ascontiguousarray(found.weight, np.float32))
        made = self.builder.emit(self.relax.Call(call.op, [found.data, weight], call.attrs), found.name)
        if found.bias is None:
            return made
        shape = [1] * found.rank
        shape[found.axis] = -1
        bias = self.relax.const(np.ascontiguousarray(found.bias.reshape(shape), np.float32))
        return self.builder.emit(self.relax.op.add(made, bias))


def _is_widening(source: np.dtype[Any], target: str) -> bool:
    """Tell whether numpy and C agree on a conversion: one that keeps every value."""
    return target in ("float32", "float64", "int32", "int64") and np.can_cast(source, target, "safe")


def _per_channel(constant: Array, linear: _Linear) -> Array | None:
    """Give a constant as one value per output channel; None if it varies along another axis."""
    channels = linear.weight.shape[linear.weight_axis]
    if constant.dtype != np.float32 or constant.ndim > linear.rank:
        return None
    shape = (1,) * (linear.rank - constant.ndim) + constant.shape
    if any(extent != (channels if axis == linear.axis else 1) for axis, extent in enumerate(shape) if extent != 1):
        return None
    return np.broadcast_to(constant.reshape(-1), (channels,)).astype(np.float64)


def _applied(linear: _Linear, name: str, values: Array, *, is_first: bool) -> _Linear | None:
    """Apply `linear op values`, or `values op linear` unless it `is_first`, to weights and bias."""
    bias = np.zeros(len(values)) if linear.bias is None else linear.bias.astype(np.float64)
    if name == "relax.divide" and not is_first:
        return None
    if name in ("relax.multiply", "relax.divide"):
        factor = values if name == "relax.multiply" else 1 / values
        if not np.isfinite(factor).all() or (np.abs(factor) < _SMALLEST_FACTOR).any():
            return None
        has_bias = linear.bias is not None
        return replace(linear, weight=_scaled(linear, factor), bias=bias * factor if has_bias else None)
    if name == "relax.add":
        return replace(linear, bias=bias + values)
    if is_first:
        return replace(linear, bias=bias - values)
    return replace(linear, weight=_scaled(linear, -np.ones(len(values))), bias=values - bias)


def _scaled(linear: _Linear, factor: Array) -> Array:
    shape = [1] * linear.weight.ndim
    shape[linear.weight_axis] = -1
    return linear.weight.astype(np.float64) * factor.reshape(shape)
