"""Integer TensorFlow Lite models as Relax modules of integer operators, bit-equal to LiteRT's reference kernels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mlf.errors import UnsupportedError, UsageError
from mlf.frontends.tvm.imported import ImportedModel
from mlf.frontends.tvm.quantized_layers import OPAQUE
from mlf.frontends.tvm.releases import load_tvm, shape_and_dtype, tensor_type, type_of
from mlf.frontends.tvm.requantization import Requantization
from mlf.frontends.tvm.tflite_elements import ELEMENTS
from mlf.frontends.tvm.tflite_layers import LAYERS
from mlf.frontends.tvm.tflite_moves import FOLDS, MOVES
from mlf.frontends.tvm.tflite_nodes import INTEGERS, Node, Unsupported, activation_range, scale_of
from mlf.frontends.tvm.tflite_reader import read_model
from mlf.metadata import Quantization, Tensor
from mlf.naming import sanitize_tensor_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from mlf.frontends.tvm.requantization import Arithmetic
    from mlf.frontends.tvm.tflite_reader import FileModel, FileOperator, FileTensor

ROUNDINGS = ("tflite", "float")
_HANDLERS = {**LAYERS, **ELEMENTS, **MOVES}
_NO_INTEGER_FORM = "has no integer form that mlf knows"
_KEEPS_STATE = "keeps state between runs"
_CALLS_SUBGRAPH = "calls another subgraph"
# What numpy, TVM and arithmetic raise for an operator whose options, shapes and constants do not fit each other.
_CONTRADICTIONS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_REFUSALS = {
    "ASSIGN_VARIABLE": _KEEPS_STATE, "CALL_ONCE": _CALLS_SUBGRAPH, "IF": _CALLS_SUBGRAPH, "READ_VARIABLE": _KEEPS_STATE,
    "VAR_HANDLE": _KEEPS_STATE, "WHILE": _CALLS_SUBGRAPH,
}  # fmt: skip


def import_quantized(data: bytes, *, where: str, rounding: str = "tflite") -> ImportedModel | None:
    """Import a model file whose activations are integers; None if it has none.

    `rounding` is "tflite" or "float". Raises InputError for a damaged file, UnsupportedError that names the operator and
    its output for what has no integer operator here, UsageError for a rounding that is unknown.
    """
    if rounding not in ROUNDINGS:
        raise UsageError(
            f"the rounding `{rounding}` is unknown, expected {' or '.join(f'`{item}`' for item in ROUNDINGS)}"
        )
    model = read_model(data, where=where)
    if not _has_integer_activations(model):
        return None
    return Importer(model, where, rounding).run()


def _has_integer_activations(model: FileModel) -> bool:
    written = {place for operator in model.operators for place in operator.outputs} | set(model.inputs)
    return any(tensor.dtype in INTEGERS and bool(tensor.scales) and tensor.index in written for tensor in model.tensors)


class Importer:
    """Builds `main` of a module; the handlers of operators ask it for tensors and hand it what they compute."""

    def __init__(self, model: FileModel, where: str, rounding: str) -> None:
        self.model = model
        self.where = where
        self.rounding = rounding
        self.relax = load_tvm().relax
        self.builder = self.relax.BlockBuilder()
        self.values: dict[int, Any] = {}

    def run(self) -> ImportedModel:
        """Build `main`, operator by operator."""
        tensors = self.model.tensors
        inputs = [self._input(tensors[place]) for place in self.model.inputs]
        failure: UnsupportedError | None = None
        with self.builder.function("main", [self.values[place] for place in self.model.inputs]):
            with self.builder.dataflow():
                try:
                    results = self._results()
                except UnsupportedError as error:  # raised below: TVM complains of functions that are left unfinished
                    failure, results = error, [self.builder.emit(self.relax.const(0))]
                output = self.builder.emit_output(results[0] if len(results) == 1 else self.relax.Tuple(results))
            self.builder.emit_func_output(output)
        if failure is not None:
            raise failure
        outputs = tuple(self._described(tensors[place], self.shape_of(tensors[place])) for place in self.model.outputs)
        return ImportedModel(module=self.builder.get(), inputs=tuple(inputs), outputs=outputs)

    def _results(self) -> list[Any]:
        """Add all operators and give the outputs, each as a variable."""
        for operator in self.model.operators:
            if operator.name in _REFUSALS and operator.outputs:
                self._add(operator)  # refuses it: state has a name, which tells more than the call that sets it up
        for operator in self.model.operators:
            self._add(operator)
        try:
            return [self._result(self.model.tensors[place]) for place in self.model.outputs]
        except Unsupported as error:
            raise UnsupportedError(f"the model {error}", where=self.where) from error

    def _result(self, tensor: FileTensor) -> Any:
        value = self.expression(tensor)
        _, dtype = shape_and_dtype(type_of(value))
        if dtype != tensor.dtype:
            raise Unsupported(
                f"gives `{tensor.name}` as `{dtype}`, but says that it is of the type `{tensor.type_name}`"
            )
        return self.builder.emit(value)

    def _input(self, tensor: FileTensor) -> Tensor:
        if not tensor.dtype:
            self._fail(f"input `{tensor.name}` has the type `{tensor.type_name}`")
        shape = tuple(max(extent, 1) for extent in tensor.shape)
        self.values[tensor.index] = self.relax.Var(f"input_{len(self.values)}", tensor_type(shape, tensor.dtype))
        return self._described(tensor, shape)

    def _described(self, tensor: FileTensor, shape: tuple[int, ...]) -> Tensor:
        quantization = None
        if len(tensor.scales) == 1 and tensor.dtype in INTEGERS:
            quantization = Quantization(scale=tensor.scales[0], zero_point=tensor.zero_points[0])
        return Tensor(
            name=tensor.name, c_name=sanitize_tensor_name(tensor.name), dtype=tensor.dtype, shape=shape,
            size_bytes=math.prod(shape) * np.dtype(tensor.dtype).itemsize, quantization=quantization,
        )  # fmt: skip

    def _fail(self, message: str) -> NoReturn:
        raise UnsupportedError(message, where=self.where)

    def _add(self, operator: FileOperator) -> None:
        tensors = self.model.tensors
        outputs = tuple(tensors[place] for place in operator.outputs)
        inputs = tuple(tensors[place] if place >= 0 else None for place in operator.inputs)
        what = f"`{operator.name}`," + (f" which gives `{outputs[0].name}`," if outputs else "")
        try:
            results = self._computed(Node(operator, inputs, outputs))
            for tensor, value in zip(outputs, results, strict=True):
                self.values[tensor.index] = value
        except Unsupported as error:
            self._fail(f"operator {operator.index}, {what} {error}")
        except _CONTRADICTIONS as error:
            message = f"operator {operator.index}, {what} contradicts its tensors"
            raise UnsupportedError(message, where=self.where) from error

    def _computed(self, node: Node) -> tuple[Any, ...]:
        name = node.operator.name
        if name in _REFUSALS:
            raise Unsupported(_REFUSALS[name])
        result = self._folded(node)
        if result is None:
            if name not in _HANDLERS:
                raise Unsupported(_NO_INTEGER_FORM)
            result = _HANDLERS[name](self, node)
        return result if isinstance(result, tuple) else (result,)

    def _folded(self, node: Node) -> Any:
        """Compute an operator on constants at once, which shapes and sizes are made of; None if it cannot be."""
        fold = FOLDS.get(node.operator.name)
        if fold is None or not node.inputs:
            return None
        arrays = [self.constant(tensor) if tensor else None for tensor in node.inputs]
        if any(array is None for array in arrays) or any(tensor.scales for tensor in node.outputs):
            return None
        return fold(node, *arrays)

    # What handlers use.

    def constant(self, tensor: FileTensor) -> Any:
        """Give the array of a tensor that is known at import, None of any other."""
        if tensor.index in self.values:
            value = self.values[tensor.index]
            return value if isinstance(value, np.ndarray) else None
        return tensor.data

    def numbers(self, tensor: FileTensor, what: str) -> tuple[int, ...]:
        """Give the integers of a tensor that must be known at import."""
        array = self.constant(tensor)
        if array is None:
            raise Unsupported(f"takes its {what} from `{tensor.name}`, which is not known before the model runs")
        return tuple(int(item) for item in array.ravel())

    def array(self, tensor: FileTensor, what: str) -> Any:
        """Give the array of a tensor that must be known at import."""
        array = self.constant(tensor)
        if array is None:
            raise Unsupported(f"takes its {what} from `{tensor.name}`, which is not known before the model runs")
        return array

    def expression(self, tensor: FileTensor) -> Any:
        """Give a tensor as an expression of Relax."""
        array = self.constant(tensor)
        if array is not None:
            return self.relax.const(array)
        if tensor.index not in self.values:
            raise Unsupported(f"reads `{tensor.name}`, which nothing gives")
        return self.values[tensor.index]

    def shape_of(self, tensor: FileTensor) -> tuple[int, ...]:
        """Give the shape of a tensor as it was computed, which files with an unknown batch size do not hold."""
        array = self.constant(tensor)
        if array is not None:
            return tuple(array.shape)
        extents, _ = shape_and_dtype(type_of(self.expression(tensor)))
        return tuple(int(extent) for extent in extents)

    def emit(self, function: Callable[..., Any], *values: Any, name: str) -> Any:
        """Call an operator of tensor expressions; arrays among its arguments become constants."""
        arguments = [self.relax.const(value) if isinstance(value, np.ndarray) else value for value in values]
        return self.builder.emit_te(function, *arguments, primfunc_name_hint=name, primfunc_attrs=dict(OPAQUE))

    def call(self, expression: Any) -> Any:
        """Bind an expression of Relax's own operators to a variable."""
        return self.builder.emit(expression)

    def requantization(
        self, output: FileTensor, factors: Sequence[float], *, activation: int = 0, arithmetic: Arithmetic = "twice",
        largest_sum: int = 0,
    ) -> Requantization:  # fmt: skip
        """Describe how sums become the integers of `output`, in arithmetic like LiteRT's unless floats are wanted."""
        _, zero_point = scale_of(output)
        low, high = activation_range(output, activation)
        return Requantization(
            factors=tuple(factors), zero_point=zero_point, low=low, high=high, dtype=output.dtype, largest_sum=largest_sum,
            arithmetic=arithmetic if self.rounding == "tflite" else "float",
        )  # fmt: skip
