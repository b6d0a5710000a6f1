"""TensorFlow Lite model files as plain values: the tensors and operators of one subgraph."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlf.errors import InputError, ToolError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

_IDENTIFIER = b"TFL3"
_MOST_OPERATORS = (
    100_000  # far more than any network for small machines has; a damaged count is refused before it is walked
)
_ARRAY_DTYPES = {
    "BOOL": "bool", "FLOAT16": "float16", "FLOAT32": "float32", "FLOAT64": "float64", "INT8": "int8", "INT16": "int16",
    "INT32": "int32", "INT64": "int64", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTensor:
    """A tensor of a subgraph; `data` is its array if it is constant, `dtype` "" for types that have none.

    `scales` and `zero_points` have one entry, or one for each place along `axis`; none if the tensor is not quantized.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    type_name: str
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int
    data: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOperator:
    """An operator: places of tensors, -1 for those that it does without, and its options by the names of the format."""

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileModel:
    """The main subgraph of a file."""

    tensors: tuple[FileTensor, ...]
    operators: tuple[FileOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_model(data: bytes, *, where: str) -> FileModel:
    """Read a model file; raises InputError if it is damaged or none, ToolError without the package that knows the format."""
    try:
        import tflite  # noqa: PLC0415  # optional
    except ModuleNotFoundError as error:
        raise ToolError("the package `tflite` is not installed", hint="pip install 'mlf[tvm]'") from error
    if data[4:8] != _IDENTIFIER:
        raise InputError(f"begins with {data[4:8]!r} behind 4 bytes, expected {_IDENTIFIER!r} of a TensorFlow Lite model", where=where)  # fmt: skip
    try:
        return _Reader(tflite, data, where).model()
    except (
        struct.error,
        IndexError,
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
        OverflowError,
        UnicodeDecodeError,
    ) as error:
        raise InputError("is a damaged TensorFlow Lite model", where=where) from error


class _Reader:
    def __init__(self, tflite: Any, data: bytes, where: str) -> None:
        self.tflite = tflite
        self.where = where
        self.data = data
        self.root = tflite.Model.GetRootAsModel(data, 0)
        self.types = {value: name for name, value in vars(tflite.TensorType).items() if isinstance(value, int)}
        self.operators = {value: name for name, value in vars(tflite.BuiltinOperator).items() if isinstance(value, int)}
        self.options = {value: name for name, value in vars(tflite.BuiltinOptions).items() if isinstance(value, int)}

    def model(self) -> FileModel:
        graph = self.root.Subgraphs(0)
        if graph is None or graph.OperatorsLength() > _MOST_OPERATORS or graph.TensorsLength() > _MOST_OPERATORS:
            raise ValueError
        tensors = tuple(self._tensor(index, graph.Tensors(index)) for index in range(graph.TensorsLength()))
        operators = tuple(self._operator(index, graph.Operators(index)) for index in range(graph.OperatorsLength()))
        inputs = tuple(int(graph.Inputs(index)) for index in range(graph.InputsLength()))
        outputs = tuple(int(graph.Outputs(index)) for index in range(graph.OutputsLength()))
        for place in (*inputs, *outputs, *(place for item in operators for place in (*item.inputs, *item.outputs))):
            if not -1 <= place < len(tensors):
                raise ValueError
        return FileModel(tensors=tensors, operators=operators, inputs=inputs, outputs=outputs)

    def _tensor(self, index: int, item: Any) -> FileTensor:
        type_name = self.types.get(item.Type(), str(item.Type()))
        dtype = _ARRAY_DTYPES.get(type_name, "")
        shape = tuple(int(item.Shape(axis)) for axis in range(item.ShapeLength()))
        if item.Sparsity() is not None:
            name = (item.Name() or b"").decode()
            hint = "convert the model without sparse storage of its weights"
            raise UnsupportedError(f"tensor `{name}` is stored without its zeros (`DENSIFY`)", where=self.where, hint=hint)  # fmt: skip
        quantization = item.Quantization()
        count = quantization.ScaleLength() if quantization else 0
        zeros = quantization.ZeroPointLength() if quantization else 0
        zero_points = tuple(int(quantization.ZeroPoint(place)) for place in range(zeros))
        return FileTensor(
            index=index, name=(item.Name() or b"").decode(), shape=shape, dtype=dtype, type_name=type_name,
            scales=tuple(float(quantization.Scale(place)) for place in range(count)),
            zero_points=zero_points or (0,) * count,
            axis=int(quantization.QuantizedDimension()) if quantization else 0, data=self._array(item, dtype, shape),
        )  # fmt: skip

    def _array(self, item: Any, dtype: str, shape: tuple[int, ...]) -> Any:
        import numpy as np  # noqa: PLC0415

        buffer = self.root.Buffers(item.Buffer()) if item.Buffer() else None
        if buffer is None or not dtype:
            return None
        if buffer.DataLength():
            return np.frombuffer(buffer.DataAsNumpy().tobytes(), dtype).reshape(shape)
        if buffer.Size():  # behind the flatbuffer, in files beyond 2 GB
            return np.frombuffer(self.data[buffer.Offset() : buffer.Offset() + buffer.Size()], dtype).reshape(shape)
        return np.zeros(shape, dtype) if 0 in shape and not item.IsVariable() else None

    def _operator(self, index: int, item: Any) -> FileOperator:
        code = self.root.OperatorCodes(item.OpcodeIndex())
        number = max(int(code.BuiltinCode()), int(code.DeprecatedBuiltinCode()))
        name = self.operators.get(number, f"operator {number}")
        if name == "CUSTOM":
            name = (code.CustomCode() or b"CUSTOM").decode()
        return FileOperator(
            index=index, name=name, inputs=tuple(int(item.Inputs(place)) for place in range(item.InputsLength())),
            outputs=tuple(int(item.Outputs(place)) for place in range(item.OutputsLength())), options=self._options(item),
        )  # fmt: skip

    def _options(self, item: Any) -> Mapping[str, Any]:
        """Read all options of an operator, whatever kind it is: scalars by their names, lists as tuples."""
        table = item.BuiltinOptions()
        kind = self.options.get(item.BuiltinOptionsType())
        if table is None or kind is None or not hasattr(self.tflite, kind):
            return {}
        options = getattr(self.tflite, kind)()
        options.Init(table.Bytes, table.Pos)
        names = [name for name in dir(options) if name[0].isupper() and name not in ("Init", "GetRootAs")]
        found: dict[str, Any] = {}
        for name in sorted(names):
            if name.endswith(("AsNumpy", "IsNone", "Length", "BufferHasIdentifier")) or name.startswith("GetRootAs"):
                continue
            if f"{name}Length" in names:
                found[name] = tuple(
                    int(getattr(options, name)(place)) for place in range(getattr(options, f"{name}Length")())
                )
            else:
                found[name] = getattr(options, name)()
        return found
