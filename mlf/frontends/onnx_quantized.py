"""ONNX's quantized operators (QLinearConv, QGemm, ...) as the operators they stand for between dequantizing and quantizing.

Importers and the rewriting to integers then know one form of quantized models. What an operator is:
https://onnx.ai/onnx/operators/ and https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]
    Rewrite = Callable[["_Builder", Any], bool]

_DOMAINS = ("", "ai.onnx", "com.microsoft")
_INT32 = 6  # onnx.TensorProto.INT32
_AXES_ARE_INPUT = 18  # the opset since which ReduceMean takes its axes as an input
_QUANTIZED_TYPES = (2, 3, 6)  # of elements that the standard's own (De)QuantizeLinear knows: uint8, int8, int32


def to_qdq(proto: Any) -> Any:  # onnx has no types
    """Give a model without quantized operators; one that has none is given back. What is not understood stays as it is."""
    import onnx  # noqa: PLC0415  # optional

    if not any(node.domain in _DOMAINS and node.op_type in _REWRITES for node in proto.graph.node):
        return proto
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    builder = _Builder(made)
    for node in made.graph.node:
        rewrite = _REWRITES.get(node.op_type) if node.domain in _DOMAINS else None
        if rewrite is None or not rewrite(builder, node):
            builder.nodes.append(node)
    nodes = [_copied(node) for node in builder.nodes]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def _copied(node: Any) -> Any:
    copy = type(node)()
    copy.CopyFrom(node)
    return copy


@dataclass(slots=True)
class _Builder:
    """Writes the nodes of the new graph, and constants for them."""

    proto: Any
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        from onnx import helper, numpy_helper  # noqa: PLC0415

        graph = self.proto.graph
        self.constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(helper.get_attribute_value(node.attribute[0]))
        self.names = {name for node in graph.node for name in (*node.input, *node.output)} | set(self.constants)

    @property
    def opset(self) -> int:
        return next((int(item.version) for item in self.proto.opset_import if item.domain in ("", "ai.onnx")), 1)

    def name(self, wanted: str) -> str:
        """Give a name that no tensor has yet."""
        number, found = 0, wanted
        while found in self.names:
            number += 1
            found = f"{wanted}_{number}"
        self.names.add(found)
        return found

    def constant(self, array: Array, wanted: str) -> str:
        """Add a constant and give its name."""
        from onnx import numpy_helper  # noqa: PLC0415

        name = self.name(wanted)
        self.constants[name] = array
        self.proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def add(self, operator: str, inputs: Sequence[str], output: str, *, name: str = "", **attributes: Any) -> str:
        """Add a node and give the name of its output."""
        from onnx import helper  # noqa: PLC0415

        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=name, **attributes))
        return output

    def dequantize(self, tensor: str, scale: str, zero_point: str = "", *, axis: int | None = None) -> str:
        """Make real numbers of integers; `axis` counts if there are several scales."""
        inputs = [tensor, scale, *([zero_point] if zero_point else [])]
        output = self.name(f"{tensor}_dequantized")
        if axis is None or self.constants.get(scale, np.zeros(1)).size == 1:
            return self.add("DequantizeLinear", inputs, output)
        return self.add("DequantizeLinear", inputs, output, axis=axis)

    def quantized(
        self, node: Any, operator: str, inputs: Sequence[str], scale: str, zero_point: str, **attributes: Any
    ) -> bool:
        """Add the operator that a quantized one stands for, and quantize its output."""
        real = self.add(operator, inputs, self.name(f"{node.output[0]}_real"), name=node.name, **attributes)
        self.add("QuantizeLinear", [real, scale, *([zero_point] if zero_point else [])], node.output[0])
        return True

    def bias(self, bias: str, scales: Sequence[str]) -> str | None:
        """Dequantize a bias, whose scale is the product of two; None if these are not known."""
        known = [self.constants[scale] for scale in scales if scale in self.constants]
        if len(known) != len(scales):
            return None
        product = np.prod(np.broadcast_arrays(*known), axis=0, dtype=np.float32)
        product = product.reshape(-1) if product.size > 1 else product.reshape(())
        scale = self.constant(product.astype(np.float32), f"{bias}_scale")
        zero_point = self.constant(np.zeros(self.constants[scale].shape, np.int32), f"{bias}_zero_point")
        return self.dequantize(bias, scale, zero_point, axis=0)


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper  # noqa: PLC0415

    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _input(node: Any, place: int) -> str:
    return str(node.input[place]) if place < len(node.input) else ""


def _conv(builder: _Builder, node: Any) -> bool:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = node.input[:8]
    bias = _input(node, 8)
    real_bias = builder.bias(bias, (x_scale, w_scale)) if bias else ""
    if real_bias is None:
        return False
    inputs = [builder.dequantize(x, x_scale, x_zero), builder.dequantize(w, w_scale, w_zero, axis=0)]
    inputs += [real_bias] if real_bias else []
    return builder.quantized(node, "Conv", inputs, y_scale, y_zero, **_attributes(node))


def _matmul(builder: _Builder, node: Any) -> bool:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = node.input[:8]
    rank = builder.constants[b].ndim if b in builder.constants else 2
    inputs = [builder.dequantize(a, a_scale, a_zero), builder.dequantize(b, b_scale, b_zero, axis=rank - 1)]
    return builder.quantized(node, "MatMul", inputs, y_scale, y_zero)


def _gemm(builder: _Builder, node: Any) -> bool:
    a, a_scale, a_zero, b, b_scale, b_zero = node.input[:6]
    bias, y_scale, y_zero = (_input(node, place) for place in (6, 7, 8))
    attributes = _attributes(node)
    alpha = float(attributes.pop("alpha", 1.0))
    if alpha != 1:
        known = builder.constants.get(a_scale)
        if known is None:
            return False
        a_scale = builder.constant((known * np.float32(alpha)).astype(np.float32), f"{a_scale}_times_alpha")
    real_bias = builder.bias(bias, (a_scale, b_scale)) if bias else ""
    if real_bias is None:
        return False
    axis = 0 if attributes.get("transB") else 1
    inputs = [builder.dequantize(a, a_scale, a_zero), builder.dequantize(b, b_scale, b_zero, axis=axis)]
    inputs += [real_bias] if real_bias else []
    if not y_scale:
        builder.add("Gemm", inputs, node.output[0], name=node.name, **attributes)
        return True
    return builder.quantized(node, "Gemm", inputs, y_scale, y_zero, **attributes)


def _of_two(operator: str) -> Rewrite:
    def rewrite(builder: _Builder, node: Any) -> bool:
        inputs = [builder.dequantize(*node.input[:3]), builder.dequantize(*node.input[3:6])]
        return builder.quantized(node, operator, inputs, node.input[6], _input(node, 7))

    return rewrite


def _of_one(operator: str, *, changed: Callable[[_Builder, dict[str, Any]], list[str] | None] | None = None) -> Rewrite:
    """Rewrite an operator with one input; `changed` mends its attributes and gives more inputs, or None if it cannot."""

    def rewrite(builder: _Builder, node: Any) -> bool:
        attributes = _attributes(node)
        if attributes.pop("channels_last", 0):
            return False
        more = changed(builder, attributes) if changed else []
        if more is None:
            return False
        inputs = [builder.dequantize(*node.input[:3]), *more]
        return builder.quantized(node, operator, inputs, node.input[3], _input(node, 4), **attributes)

    return rewrite


def _softmax(builder: _Builder, attributes: dict[str, Any]) -> list[str] | None:
    """Softmax means other rows since opset 13; the attribute says which is meant."""
    meant = int(attributes.pop("opset", builder.opset))
    is_same = (meant < 13) == (builder.opset < 13)
    return [] if is_same or attributes.get("axis") == -1 else None


def _reduce(builder: _Builder, attributes: dict[str, Any]) -> list[str] | None:
    if builder.opset < _AXES_ARE_INPUT or "axes" not in attributes:
        return []
    return [builder.constant(np.array(attributes.pop("axes"), np.int64), "axes")]


def _concat(builder: _Builder, node: Any) -> bool:
    inputs = [builder.dequantize(*node.input[place : place + 3]) for place in range(2, len(node.input), 3)]
    return builder.quantized(node, "Concat", inputs, node.input[0], node.input[1], **_attributes(node))


def _where(builder: _Builder, node: Any) -> bool:
    inputs = [node.input[0], builder.dequantize(*node.input[1:4]), builder.dequantize(*node.input[4:7])]
    return builder.quantized(node, "Where", inputs, node.input[7], _input(node, 8))


def _conv_integer(builder: _Builder, node: Any) -> bool:
    """Write sums of products as a convolution of 32-bit integers."""
    x, w = (_widened(builder, node, place) for place in (0, 1))
    builder.add("Conv", [x, w], node.output[0], name=node.name, **_attributes(node))
    return True


def _widened(builder: _Builder, node: Any, place: int) -> str:
    """Give an input of 8-bit integers, less its zero point, as 32-bit integers."""
    tensor, zero_point = node.input[place], _input(node, place + 2)
    widened = builder.add("Cast", [tensor], builder.name(f"{tensor}_widened"), to=_INT32)
    if not zero_point:
        return widened
    known = builder.constants.get(zero_point)
    if known is not None and known.size > 1:  # one per output channel
        shaped = (
            known.reshape(-1, *[1] * (builder.constants[tensor].ndim - 1)) if tensor in builder.constants else known
        )
        zero_point = builder.constant(shaped, f"{zero_point}_shaped")
    zero = builder.add("Cast", [zero_point], builder.name(f"{zero_point}_widened"), to=_INT32)
    return builder.add("Sub", [widened, zero], builder.name(f"{tensor}_centred"))


def _standard(builder: _Builder, node: Any) -> bool:
    """Take ONNX Runtime's own (de)quantizing for the standard's, where both know the type."""
    from onnx import helper  # noqa: PLC0415

    zero_point = builder.constants.get(_input(node, 2))
    if node.domain != "com.microsoft" or zero_point is None:
        return False
    if helper.np_dtype_to_tensor_dtype(zero_point.dtype) not in _QUANTIZED_TYPES:
        return False
    builder.add(node.op_type, node.input, node.output[0], name=node.name, **_attributes(node))
    return True


_REWRITES: Mapping[str, Rewrite] = {
    "ConvInteger": _conv_integer,
    "DequantizeLinear": _standard,
    "QGemm": _gemm,
    "QLinearAdd": _of_two("Add"),
    "QLinearAveragePool": _of_one("AveragePool"),
    "QLinearConcat": _concat,
    "QLinearConv": _conv,
    "QLinearGlobalAveragePool": _of_one("GlobalAveragePool"),
    "QLinearLeakyRelu": _of_one("LeakyRelu"),
    "QLinearMatMul": _matmul,
    "QLinearMul": _of_two("Mul"),
    "QLinearReduceMean": _of_one("ReduceMean", changed=_reduce),
    "QLinearSigmoid": _of_one("Sigmoid"),
    "QLinearSoftmax": _of_one("Softmax", changed=_softmax),
    "QLinearWhere": _where,
    "QuantizeLinear": _standard,
}
