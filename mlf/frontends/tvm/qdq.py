"""Models that compute in floats between dequantize and quantize, as ONNX's QDQ models do, become integer arithmetic.

The model is read in order. Real numbers whose integers are known are not computed but remembered (`qdq_values`); when they
are quantized again, one integer kernel does all that lies between. What is needed as floats after all is computed as the
model says. Images have their channels last inside, because kernels are faster so.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mlf.frontends.tvm import fixedpoint, qdq_kernels, quantized_elements
from mlf.frontends.tvm.qdq_kernels import Release
from mlf.frontends.tvm.qdq_operators import BINARY, CLIPS, HANDLERS, UNARY, foreign_operator
from mlf.frontends.tvm.qdq_values import (
    Clipped,
    Constant,
    Integers,
    Joined,
    Lookup,
    Moved,
    Operand,
    Pair,
    Real,
    Sum,
    Target,
    last_shape,
)  # fmt: skip
from mlf.frontends.tvm.quantized_layers import OPAQUE
from mlf.frontends.tvm.releases import constant_array, is_constant, load_tvm, name_of, shape_and_dtype, type_of
from mlf.frontends.tvm.requantization import Requantization
from mlf.metadata import Quantization

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlf.frontends.tvm.imported import ImportedModel
    from mlf.frontends.tvm.qdq_values import Array, LayoutName
    from mlf.metadata import Tensor

_BYTES = ("int8", "uint8")
_QUANTIZING = ("relax.quantize", "relax.dequantize")
_COARSEST_BIAS = 1 / 16  # of a unit of the output, that a bias may be off by half of


def make_integer(imported: ImportedModel, *, rounding: str) -> ImportedModel:
    """Rewrite `main` of an imported model in integers where it quantizes; any other model is given back as it is.

    `rounding` is "float", as ONNX Runtime rounds, or "tflite", fixed point.
    """
    function = imported.module["main"]
    if not _is_quantized(function):
        return imported
    builder = load_tvm().relax.BlockBuilder()
    rewriter = Rewriter(builder, imported.module, rounding)
    with builder.function("main", list(function.params)):
        with builder.dataflow():
            output = builder.emit_output(rewriter.rewrite(function))
        builder.emit_func_output(output)
    module = builder.get()
    for variable, other in imported.module.functions.items():
        if variable.name_hint != "main":
            module.update_func(variable, other)
    module = load_tvm().relax.transform.DeadCodeElimination()(module)
    inputs = [rewriter.found.get(item) for item in function.params]
    outputs = rewriter.outputs(function)
    return replace(
        imported,
        module=module,
        inputs=_described(imported.inputs, inputs),
        outputs=_described(imported.outputs, outputs),
    )


def _is_quantized(function: Any) -> bool:
    """Tell whether a function is a plain sequence of bindings of fixed shapes, and quantizes or widens 8-bit integers."""
    relax = load_tvm().relax
    if not isinstance(function.body, relax.SeqExpr):
        return False
    bindings = [binding for block in function.body.blocks for binding in block.bindings]
    if any(not isinstance(binding, relax.VarBinding) or isinstance(binding.value, relax.If) for binding in bindings):
        return False
    return any(_operator(binding.value) in (*_QUANTIZING, "relax.astype") for binding in bindings)


def _operator(value: Any) -> str:
    return str(getattr(getattr(value, "op", None), "name", ""))


def _described(tensors: Sequence[Tensor], found: Sequence[Any]) -> tuple[Tensor, ...]:
    """Put the quantization into the description of those tensors that are integers."""
    described = []
    for tensor, item in zip(tensors, found, strict=True):
        if isinstance(item, Integers) and item.scale is not None:
            scale, zero_point = item.scale
            described.append(replace(tensor, quantization=Quantization(scale=scale, zero_point=zero_point)))
        else:
            described.append(tensor)
    return tuple(described)


class Rewriter:
    """Rewrites one function; `found` has what each of its variables stands for: Integers, a Real, a tuple or an expression."""

    def __init__(self, builder: Any, module: Any, rounding: str) -> None:
        self.relax = load_tvm().relax
        self.builder = builder
        self.module = module
        self.is_fixed = rounding == "tflite"
        self.found: dict[Any, Any] = {}
        self.original: dict[Any, Any] = {}
        self.made: dict[Any, Any] = {}
        self.done: dict[tuple[Any, float, int, str], Integers] = {}

    def rewrite(self, function: Any) -> Any:
        """Rewrite all bindings; gives the expression of the result."""
        for parameter in function.params:
            shape, dtype = shape_and_dtype(type_of(parameter))
            if dtype in _BYTES and _is_fixed(shape):
                self.found[parameter] = Integers(shape=tuple(shape), dtype=dtype, forms={"plain": parameter})
        for block in function.body.blocks:
            for binding in block.bindings:
                self.original[binding.var] = binding.value
                self.found[binding.var] = self._bound(binding.var, binding.value)
        return self.expression(function.body.body)

    def outputs(self, function: Any) -> list[Any]:
        """Give what the outputs stand for."""
        result = function.body.body
        found = self.value(result)
        if isinstance(found, tuple):
            return list(found)
        return [self.value(item) for item in found.fields] if isinstance(found, self.relax.Tuple) else [found]

    def _bound(self, variable: Any, node: Any) -> Any:
        if isinstance(node, self.relax.Tuple):
            return tuple(self.value(item) for item in node.fields)
        if isinstance(node, self.relax.TupleGetItem):
            whole = self.value(node.tuple_value)
            return whole[node.index] if isinstance(whole, tuple) else self._emitted(variable)
        if isinstance(node, self.relax.Call):
            made = self._of_call(variable, node)
            return self._emitted(variable) if made is None else made
        return self.value(node)

    def _of_call(self, variable: Any, call: Any) -> Any:
        """Find what a call stands for; None if it is to be computed as it is."""
        name, arguments = _operator(call), list(call.args)
        if not name.startswith("relax.shape") and not all(_is_fixed(shape) for shape in _shapes(type_of(variable))):
            return None
        if name == "relax.call_tir":
            name, arguments = foreign_operator(self.module, call)
        if name == "relax.quantize":
            return self._quantize(variable, call)
        if name in UNARY or name in BINARY:
            return self._elementwise(name, call, arguments)
        handler = HANDLERS.get(name)
        return handler(self, variable, call, arguments) if handler else None

    # Nodes of the function.

    def value(self, node: Any) -> Any:
        """Give what a node stands for."""
        if isinstance(node, self.relax.Var):
            return self.found.get(node, node)
        if is_constant(node):
            return Constant(array=np.asarray(constant_array(node)))
        if isinstance(node, self.relax.Tuple):
            return tuple(self.value(item) for item in node.fields)
        return node

    def expression(self, node: Any) -> Any:
        """Give an expression of the new function for a node of the old one; what was not computed yet is computed now."""
        if isinstance(node, self.relax.Tuple):
            return self.relax.Tuple([self.expression(item) for item in node.fields])
        if not isinstance(node, self.relax.Var) or node not in self.found:
            return node
        if node not in self.made:
            self.made[node] = self._computed(node, self.found[node])
        return self.made[node]

    def _computed(self, variable: Any, found: Any) -> Any:
        if isinstance(found, Integers):
            return self.form(found, "plain")
        if isinstance(found, Lookup):
            floats = self._released_lookup(found)
            return self._emitted(variable) if floats is None else floats
        if isinstance(found, Sum) and found.is_exact:
            return self.form(self._released(found), "plain")
        if isinstance(found, Clipped) and isinstance(found.value, Sum) and found.value.is_exact:
            return self.form(self._released(found.value, (found.low, found.high)), "plain")
        if isinstance(found, Constant) and found.scales is None:
            return self.relax.const(found.array)
        is_expression = not isinstance(found, (tuple, Sum, Pair, Clipped, Moved, Joined, Constant))
        return found if is_expression else self._emitted(variable)

    def _emitted(self, variable: Any) -> Any:
        """Compute a variable as the model does."""
        node = self.original[variable]
        if isinstance(node, self.relax.Tuple):
            return self.expression(node)
        if isinstance(node, self.relax.TupleGetItem):
            return self.builder.emit(
                self.relax.TupleGetItem(self.expression(node.tuple_value), node.index), name_of(variable)
            )
        if not isinstance(node, self.relax.Call):
            return self.expression(node)
        types = getattr(node, "sinfo_args", None) or getattr(node, "ty_args", None)
        arguments = [self.expression(item) for item in node.args]
        return self.builder.emit(self.relax.Call(node.op, arguments, node.attrs, types), name_of(variable))

    def emit(self, function: Callable[..., Any], *values: Any, name: str) -> Any:
        """Call a kernel; arrays among its arguments become constants."""
        arguments = [self.relax.const(value) if isinstance(value, np.ndarray) else value for value in values]
        return self.builder.emit_te(function, *arguments, primfunc_name_hint=name, primfunc_attrs=dict(OPAQUE))

    # Integers and their layouts.

    def form(self, integers: Integers, layout: LayoutName) -> Any:
        """Give integers as an expression in a layout."""
        if layout not in integers.forms:
            make = integers.make or partial(self._converted, integers)
            integers.forms[layout] = make(layout)
        return integers.forms[layout]

    def _converted(self, integers: Integers, layout: LayoutName) -> Any:
        (given, expression), rank = next(iter(integers.forms.items())), len(integers.shape)
        if layout == "plain":
            shape, order = integers.shape, [0, rank - 1, *range(1, rank - 1)]
        else:
            shape, order = last_shape(integers.shape), [0, *range(2, rank), 1]
        if given == layout or rank < 3:
            return expression
        moved = (
            self.relax.op.reshape(expression, shape)
            if integers.is_trivial
            else self.relax.op.permute_dims(expression, order)
        )
        return self.builder.emit(moved)

    def map(self, integers: Integers, function: Callable[..., Any], *values: Any, name: str, dtype: str) -> Integers:
        """Apply a kernel to each integer, in the layout that they have."""
        if integers.image is not None:
            return self.reshaped(self.map(integers.image, function, *values, name=name, dtype=dtype), integers.shape)
        layout = integers.preferred
        made = self.emit(function, self.form(integers, layout), *values, name=name)
        return Integers(shape=integers.shape, dtype=dtype, preferred=layout, forms={layout: made})

    def reshaped(self, integers: Integers, shape: tuple[int, ...]) -> Integers:
        """Give integers another shape; rows of an image whose channels are last become "flat"."""
        source = integers if integers.image is None else integers.image
        if source.preferred != "last" or source.is_trivial or len(shape) != 2 or shape[0] != source.shape[0]:
            plain = self.builder.emit(self.relax.op.reshape(self.form(source, "plain"), shape))
            return Integers(shape=shape, dtype=source.dtype, forms={"plain": plain}, origin=source, scale=source.scale)

        def make(layout: LayoutName) -> Any:
            inner = self.form(source, "last" if layout == "flat" else "plain")
            return self.builder.emit(self.relax.op.reshape(inner, shape))

        return Integers(
            shape=shape,
            dtype=source.dtype,
            preferred="flat",
            make=make,
            image=source,
            origin=source,
            scale=source.scale,
        )

    # Quantization.

    def _quantize(self, variable: Any, call: Any) -> Integers | None:
        target = self._target(variable, call)
        if target is None:
            return None
        key = (call.args[0], target.scale, target.zero_point, target.dtype)
        if key not in self.done:
            value = self.value(call.args[0])
            result = None if not isinstance(value, Real) else self.quantized(value, target)
            if result is None:
                result = self._quantized_floats(call.args[0], target)
            result.scale = (target.scale, target.zero_point) if result.scale is None else result.scale
            self.done[key] = result
        return self.done[key]

    def _target(self, variable: Any, call: Any) -> Target | None:
        scale, zero_point = (self.value(item) for item in call.args[1:3])
        _, dtype = shape_and_dtype(type_of(variable))
        _, source = shape_and_dtype(type_of(call.args[0]))
        if (
            dtype not in _BYTES
            or source != "float32"
            or not isinstance(scale, Constant)
            or not isinstance(zero_point, Constant)
        ):
            return None
        if scale.number is None or zero_point.number is None:
            return None
        low, high = fixedpoint.limits(dtype)
        return Target(
            scale=float(scale.number), zero_point=int(zero_point.number), dtype=dtype, low=low, high=high,
            ties="away" if self.is_fixed else "even",
        )  # fmt: skip

    def _quantized_floats(self, node: Any, target: Target) -> Integers:
        """Quantize what is computed in floats; the kernel may be fused with what makes them."""
        function: Any = partial(
            qdq_kernels.quantize, scale=target.scale, requantization=self._requantization(target, np.ones(1))
        )
        if self.is_fixed:
            function = partial(
                quantized_elements.quantize, scale=target.scale, zero_point=target.zero_point, dtype=target.dtype
            )
        made = self.builder.emit_te(function, self.expression(node), primfunc_name_hint=f"quantize_{target.dtype}")
        shape = tuple(shape_and_dtype(type_of(node))[0])
        preferred: LayoutName = "last" if len(shape) == 4 else "plain"
        return Integers(shape=shape, dtype=target.dtype, preferred=preferred, forms={"plain": made})

    def quantized(self, value: Real, target: Target) -> Integers | None:
        """Quantize a real number by an integer kernel; None if there is none."""
        if isinstance(value, Lookup):
            return self._quantized_lookup(value, target)
        if isinstance(value, Sum):
            return self._quantized_sum(value, target)
        if isinstance(value, Pair):
            return self._quantized_pair(value, target)
        if isinstance(value, Clipped):
            return self.quantized(value.value, target.clipped(value.low, value.high))
        if isinstance(value, Moved):
            inner = self.quantized(value.value, target)
            return None if inner is None else value.move(inner)
        if isinstance(value, Joined):
            parts = [self.quantized(part, target) for part in value.parts]
            known = [part for part in parts if part is not None]
            return value.join(known) if len(known) == len(parts) else None
        array = target.quantized(value.real).astype(target.dtype)
        return Integers(shape=array.shape, dtype=target.dtype, forms={"plain": self.relax.const(array)})

    def _quantized_lookup(self, value: Lookup, target: Target) -> Integers | None:
        if np.isnan(value.table).any():
            return None
        table, own = target.quantized(value.table), fixedpoint.all_values(value.source.dtype)
        if target.dtype == value.source.dtype:
            if np.array_equal(table, own):
                return value.source
            low, high = int(table.min()), int(table.max())
            if np.array_equal(table, np.clip(own, low, high)):
                return self._clipped(value.source, low, high)
        return self.map(
            value.source,
            quantized_elements.lookup,
            table.astype(target.dtype),
            name=f"lookup_{target.dtype}",
            dtype=target.dtype,
        )

    def _clipped(self, source: Integers, low: int, high: int) -> Integers:
        function = partial(quantized_elements.clip, low=low, high=high)
        return self.map(source, function, name=f"clip_{source.dtype}", dtype=source.dtype)

    def _requantization(self, target: Target, factors: Array) -> Requantization:
        return Requantization(
            factors=tuple(float(factor) for factor in factors), zero_point=target.zero_point, low=target.low, high=target.high,
            dtype=target.dtype, arithmetic="twice" if self.is_fixed else "float",
        )  # fmt: skip

    def _quantized_sum(self, value: Sum, target: Target) -> Integers | None:
        if self.is_fixed:
            factors: Array = value.scales / target.scale
        else:  # as ONNX Runtime computes them
            factors = np.float32(value.input_scale) * value.channel_scales / np.float32(target.scale)
        if value.dtype != "float32" or (not value.is_exact and factors.max() > _COARSEST_BIAS):
            return None
        return value.kernel(value.bias, self._requantization(target, factors))

    def _released(self, value: Sum, bounds: tuple[float | None, float | None] = (None, None)) -> Integers:
        factors = tuple(float(factor) for factor in np.float32(value.input_scale) * value.channel_scales)
        release = Release(
            factors=factors, zero_point=0, low=0, high=0, dtype=value.dtype, arithmetic="float", bounds=bounds
        )
        return value.kernel(value.bias, release)

    def _released_lookup(self, value: Lookup) -> Any:
        """Compute the numbers that integers stand for; None for a function of them."""
        if not np.array_equal(value.table, value.plain):
            return None
        source = self.form(value.source, "plain")
        if value.dtype != "float32":
            widened = self.builder.emit(self.relax.op.astype(source, value.dtype))
            zero_point = self.relax.const(np.array(value.zero_point, value.dtype))
            return self.builder.emit(self.relax.op.subtract(widened, zero_point)) if value.zero_point else widened
        scale = self.relax.const(np.array(value.scale, "float32"))
        zero_point = self.relax.const(np.array(value.zero_point, value.source.dtype))
        return self.builder.emit(self.relax.op.dequantize(source, scale, zero_point, axis=0, out_dtype="float32"))

    def operand(self, value: Any) -> Operand | None:
        """Give a value as integers of one scale; a function that only clips is computed for that, on integers."""
        if isinstance(value, Constant):
            return value.operand(self.relax.const)
        if not isinstance(value, Lookup):
            return None
        zero_point = value.zero_point
        if value.dtype == "int32":
            zero_point = int(fixedpoint.limits(value.source.dtype)[0] - value.table[0])
            value = replace(value, zero_point=zero_point)
        bounds = value.clip_bounds
        if bounds is None:
            return None
        is_whole = bounds == fixedpoint.limits(value.source.dtype)
        source = value.source if is_whole else self._clipped(value.source, *bounds)
        return Operand(integers=source, scale=value.scale, zero_point=zero_point)

    # Element by element.

    def _elementwise(self, name: str, call: Any, arguments: Sequence[Any]) -> Any:
        """Apply a function to the tables of what is known of its arguments, or remember it for later."""
        values = [self.value(item) for item in arguments]
        if name in UNARY and isinstance(values[0], Lookup) and values[0].dtype == "float32":
            with np.errstate(all="ignore"):
                table = np.asarray(UNARY[name](values[0].table, call), "float32")
            return replace(values[0], table=table)
        if name in UNARY:
            return self._later_clipped(name, call, values[0])
        if not all(isinstance(item, Real) for item in values) or len(values) != 2:
            return None
        if all(isinstance(item, Constant) for item in values):
            return self._of_constants(name, values)
        return self._of_table(name, values) or self._of_sum(name, values) or self._pair(name, values)

    def _later_clipped(self, name: str, call: Any, value: Any) -> Clipped | None:
        if name not in CLIPS or not isinstance(value, Real) or isinstance(value, (Constant, Lookup)):
            return None
        low, high = CLIPS[name](call)
        return Clipped(value=value, low=low, high=high)

    def _of_constants(self, name: str, values: Sequence[Constant]) -> Constant | None:
        arrays = [item.real for item in values]
        if arrays[0].dtype != arrays[1].dtype:
            return None
        with np.errstate(all="ignore"):
            return Constant(array=np.asarray(BINARY[name](*arrays), arrays[0].dtype))

    def _of_table(self, name: str, values: Sequence[Real]) -> Lookup | None:
        """Combine a table with a number, or with another table of the same integers."""
        known = next((item for item in values if isinstance(item, Lookup)), None)
        if known is None:
            return None
        tables = []
        for item in values:
            if isinstance(item, Lookup) and item.source is known.source and item.dtype == known.dtype:
                tables.append(item.table)
            elif isinstance(item, Constant) and item.number is not None and item.array.ndim <= len(known.source.shape):
                tables.append(np.asarray(item.number))
            else:
                return None
        if known.dtype == "int32" and name not in ("relax.add", "relax.subtract"):
            return None
        with np.errstate(all="ignore"):
            return replace(known, table=np.asarray(BINARY[name](*tables), known.table.dtype))

    def _of_sum(self, name: str, values: Sequence[Real]) -> Real | None:
        """Add to sums, scale or clip them."""
        for value, other in (tuple(values), tuple(reversed(values))):
            if isinstance(value, Constant) or not isinstance(other, Constant):
                continue
            if name in ("relax.maximum", "relax.minimum") and other.number is not None:
                low, high = (float(other.number), None) if name == "relax.maximum" else (None, float(other.number))
                return None if isinstance(value, Lookup) else Clipped(value=value, low=low, high=high)
            if not isinstance(value, Sum):
                return None
            if name == "relax.add":
                return value.with_bias(other)
            if name == "relax.multiply" and value.dtype == "float32" and other.number is not None and other.number > 0:
                return replace(value, input_scale=value.input_scale * float(other.number))
        return None

    def _pair(self, name: str, values: Sequence[Real]) -> Pair | None:
        kinds: dict[str, Literal["add", "subtract", "multiply"]] = {
            "relax.add": "add", "relax.subtract": "subtract", "relax.multiply": "multiply",
        }  # fmt: skip
        if name not in kinds or any(getattr(item, "dtype", "float32") != "float32" for item in values):
            return None
        rank = max((len(item.source.shape) for item in values if isinstance(item, Lookup)), default=0)
        left, right = (self.operand(_ranked(item, rank)) for item in values)
        if left is None or right is None:
            return None
        shape = np.broadcast_shapes(left.integers.shape, right.integers.shape)
        return Pair(kind=kinds[name], left=left, right=right, shape=shape)

    def _quantized_pair(self, value: Pair, target: Target) -> Integers:
        operands = (value.left, value.right)
        ranks = {len(item.integers.shape) for item in operands}
        is_last = len(ranks) == 1 and any(item.integers.preferred == "last" for item in operands)
        layout: LayoutName = "last" if is_last else "plain"
        forms = [self.form(item.integers, layout) for item in operands]
        made = self.emit(self._pair_kernel(value, target), *forms, name=f"{value.kind}_{target.dtype}")
        return Integers(shape=value.shape, dtype=target.dtype, preferred=layout, forms={layout: made})

    def _pair_kernel(self, value: Pair, target: Target) -> Callable[..., Any]:
        scales, zero_points = (value.left.scale, value.right.scale), (value.left.zero_point, value.right.zero_point)
        if value.kind == "multiply":
            product = np.float32(scales[0]) * np.float32(scales[1]) / np.float32(target.scale)
            return partial(
                quantized_elements.multiply,
                zero_points=zero_points,
                requantization=self._requantization(target, np.array([product])),
            )
        requantization = self._requantization(target, np.ones(1))
        if self.is_fixed:
            return partial(
                quantized_elements.add, scales=scales, zero_points=zero_points, is_difference=value.kind == "subtract",
                output_scale=target.scale, requantization=requantization,
            )  # fmt: skip
        left, right = (float(np.float32(scale) / np.float32(target.scale)) for scale in scales)
        factors = (left, -right if value.kind == "subtract" else right)
        return partial(qdq_kernels.add, factors=factors, zero_points=zero_points, requantization=requantization)


def _is_fixed(shape: Sequence[Any]) -> bool:
    return all(isinstance(extent, int) for extent in shape)


def _shapes(type_: Any) -> list[Sequence[Any]]:
    fields = getattr(type_, "fields", None)
    if fields is not None:
        return [shape for item in fields for shape in _shapes(item)]
    return [shape_and_dtype(type_)[0]] if hasattr(type_, "dtype") and hasattr(type_, "shape") else [("?",)]


def _ranked(value: Any, rank: int) -> Any:
    """Give a constant as many axes as what it is combined with has."""
    if not isinstance(value, Constant) or value.array.ndim >= rank:
        return value
    return value.rearranged(lambda array: array.reshape((1,) * (rank - array.ndim) + array.shape))
