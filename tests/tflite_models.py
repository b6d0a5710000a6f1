"""Small TensorFlow Lite models as the tests need them, written with the format's own package."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import flatbuffers
import numpy as np
import tflite

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_IDENTIFIER = b"TFL3"
_SCHEMA = 3
_PLACEHOLDER_OPERATORS = 127  # the largest code that the old, 8-bit field of an operator holds


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A tensor; constant if it has `data`, quantized if it has `scales`."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "int8"
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = (0,)
    axis: int = 0
    data: Any = None
    signature: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Op:
    """An operator: its name, its tensors by name (None for one left out), and its options in the format's words."""

    name: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    kind: str = ""  # of the options: `Conv2DOptions`


@dataclass(frozen=True, kw_only=True)
class Graph:
    tensors: tuple[Spec, ...]
    operators: tuple[Op, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def constant(name: str, values: Any, dtype: str = "int32", **fields: Any) -> Spec:
    array = np.asarray(values, dtype)
    return Spec(name=name, shape=array.shape, dtype=dtype, data=array, **fields)


def model_file(*graphs: Graph) -> bytes:
    """Give the bytes of a model with these subgraphs, the main one first."""
    return _Writer().write(graphs)


class _Writer:
    def __init__(self) -> None:
        self.builder = flatbuffers.Builder(1024)
        self.buffers: list[bytes] = [b""]  # the first is nobody's
        self.codes: list[int] = []

    def write(self, graphs: Sequence[Graph]) -> bytes:
        subgraphs = [self._graph(graph) for graph in graphs]
        subgraph_list = self._offsets(subgraphs)
        buffers = self._offsets([self._buffer(data) for data in self.buffers])
        codes = self._offsets([self._code(code) for code in self.codes])
        model = self._table(
            "Model", {"Version": _SCHEMA, "OperatorCodes": codes, "Subgraphs": subgraph_list, "Buffers": buffers}
        )
        self.builder.Finish(model, _IDENTIFIER)
        return bytes(self.builder.Output())

    def _table(self, kind: str, fields: Mapping[str, Any]) -> int:
        getattr(tflite, f"{kind}Start")(self.builder)
        for name, value in fields.items():
            getattr(tflite, f"{kind}Add{name}")(self.builder, value)
        return int(getattr(tflite, f"{kind}End")(self.builder))

    def _offsets(self, offsets: Sequence[int]) -> int:
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return int(self.builder.EndVector())

    def _numbers(self, values: Sequence[Any], dtype: str) -> int:
        return int(self.builder.CreateNumpyVector(np.asarray(values, dtype)))

    def _buffer(self, data: bytes) -> int:
        if not data:
            return self._table("Buffer", {})
        self.builder.StartVector(1, len(data), 16)
        self.builder.head -= len(data)
        self.builder.Bytes[self.builder.head : self.builder.head + len(data)] = data
        vector = self.builder.EndVector()
        return self._table("Buffer", {"Data": vector})

    def _code(self, code: int) -> int:
        old = min(code, _PLACEHOLDER_OPERATORS)
        return self._table("OperatorCode", {"DeprecatedBuiltinCode": old, "Version": 1, "BuiltinCode": code})

    def _graph(self, graph: Graph) -> int:
        places = {tensor.name: index for index, tensor in enumerate(graph.tensors)}
        tensors = self._offsets([self._tensor(tensor) for tensor in graph.tensors])
        operators = self._offsets([self._operator(operator, places) for operator in graph.operators])
        inputs = self._numbers([places[name] for name in graph.inputs], "int32")
        outputs = self._numbers([places[name] for name in graph.outputs], "int32")
        return self._table(
            "SubGraph", {"Tensors": tensors, "Inputs": inputs, "Outputs": outputs, "Operators": operators}
        )

    def _tensor(self, tensor: Spec) -> int:
        name = self.builder.CreateString(tensor.name)
        fields: dict[str, Any] = {"Shape": self._numbers(tensor.shape, "int32"), "Name": name}
        fields["Type"] = getattr(tflite.TensorType, tensor.dtype.upper())
        if tensor.signature:
            fields["ShapeSignature"] = self._numbers(tensor.signature, "int32")
        if tensor.scales:
            zeros = tensor.zero_points * (len(tensor.scales) // len(tensor.zero_points))
            quantization = {
                "Scale": self._numbers(tensor.scales, "float32"),
                "ZeroPoint": self._numbers(zeros, "int64"),
            }
            fields["Quantization"] = self._table(
                "QuantizationParameters", {**quantization, "QuantizedDimension": tensor.axis}
            )
        if tensor.data is not None:
            fields["Buffer"] = len(self.buffers)
            self.buffers.append(np.ascontiguousarray(tensor.data).tobytes())
        return self._table("Tensor", fields)

    def _operator(self, operator: Op, places: Mapping[str, int]) -> int:
        code = getattr(tflite.BuiltinOperator, operator.name)
        if code not in self.codes:
            self.codes.append(code)
        inputs = self._numbers([-1 if name is None else places[name] for name in operator.inputs], "int32")
        outputs = self._numbers([places[name] for name in operator.outputs], "int32")
        fields = {"OpcodeIndex": self.codes.index(code), "Inputs": inputs, "Outputs": outputs}
        if operator.kind:
            options = {
                name: self._numbers(value, "int32") if isinstance(value, (list, tuple)) else value
                for name, value in operator.options.items()
            }
            fields["BuiltinOptions"] = self._table(operator.kind, options)
            fields["BuiltinOptionsType"] = getattr(tflite.BuiltinOptions, operator.kind)
        return self._table("Operator", fields)
