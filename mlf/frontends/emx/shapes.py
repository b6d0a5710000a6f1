"""Shape inference for models with operators of Microsoft's domain, which onnx itself does not know.

Each is replaced, in a copy that only serves inference, by operators of ONNX that have the same shape and type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_MICROSOFT = "com.microsoft"
# By operator: one of ONNX with the same shape, and which of the inputs it gets.
_TWINS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), ("Add", (0, 3))),
    **dict.fromkeys(
        ("BiasGelu", "FastGelu", "Gelu", "QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax", "QuickGelu"), ("Identity", (0,))
    ),
    "DequantizeLinear": ("DequantizeLinear", (0, 1, 2)),
    "DynamicQuantizeMatMul": ("MatMul", (0, 1)),
    "FusedConv": ("Conv", (0, 1, 2)),
    "FusedGemm": ("Gemm", (0, 1, 2)),
    "MatMulIntegerToFloat": ("MatMul", (0, 1)),
    "QGemm": ("Gemm", (0, 3)),
    "QLinearAveragePool": ("AveragePool", (0,)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
    "QLinearWhere": ("Where", (0, 1, 4)),
    "QuantizeLinear": ("QuantizeLinear", (0, 1, 2)),
}  # fmt: skip
_QGEMM_INPUTS = 9  # with the scale and zero point of its output; without them it gives float32
_ATTRIBUTES = frozenset(
    "alpha auto_pad axis beta ceil_mode count_include_pad dilations group kernel_shape pads strides transA transB".split()
)


def infer_shapes(model: Any) -> Any:
    """Give a ModelProto the shapes and types of all its values as far as they can be inferred."""
    import onnx  # noqa: PLC0415

    shadow = type(model).FromString(model.SerializeToString())
    del shadow.graph.node[:]
    for node in model.graph.node:
        shadow.graph.node.extend(_twins(node))
    _forget_open_shapes(shadow.graph)
    inferred = onnx.shape_inference.infer_shapes(shadow, data_prop=True)
    del model.graph.value_info[:]
    model.graph.value_info.extend(item for item in inferred.graph.value_info if not item.name.endswith(_HELPER))
    for item, found in zip(model.graph.output, inferred.graph.output, strict=True):
        item.CopyFrom(found)
    return model


_HELPER = "/mlf_type"  # at the end of the name of a value that only inference knows


def _forget_open_shapes(graph: Any) -> None:
    """Drop declared shapes that are not all numbers: what is inferred is better."""
    known = [item for item in graph.value_info if _is_fixed(item)]
    kept = [type(item).FromString(item.SerializeToString()) for item in known]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    for item in graph.output:
        if not _is_fixed(item):
            item.type.tensor_type.ClearField("shape")


def _is_fixed(item: Any) -> bool:
    shape = item.type.tensor_type.shape
    return item.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in shape.dim)


def _twins(node: Any) -> list[Any]:
    """Give the nodes that stand for a node in inference: itself if onnx knows it."""
    from onnx import TensorProto, helper  # noqa: PLC0415

    if node.domain != _MICROSOFT or _is_channels_last(node):
        return [node]
    if node.op_type == "QLinearConcat":  # scale and zero point of the output, then a triple for each input
        return [_twin(node, "Concat", range(2, len(node.input), 3), node.output[0])]
    if node.op_type not in _TWINS:
        return [node]
    operator, places = _TWINS[node.op_type]
    gives_float = node.op_type == "MatMulIntegerToFloat" or (
        node.op_type == "QGemm" and len(node.input) < _QGEMM_INPUTS
    )
    if not gives_float:
        return [_twin(node, operator, places, node.output[0])]
    between = node.output[0] + _HELPER
    cast = helper.make_node("Cast", [between], [node.output[0]], to=TensorProto.FLOAT)
    return [_twin(node, operator, places, between), cast]


def _is_channels_last(node: Any) -> bool:
    return any(attribute.name == "channels_last" and attribute.i for attribute in node.attribute)


def _twin(node: Any, operator: str, places: Any, output: str) -> Any:
    from onnx import helper  # noqa: PLC0415

    twin = helper.make_node(operator, [node.input[place] for place in places if place < len(node.input)], [output])
    twin.attribute.extend(attribute for attribute in node.attribute if attribute.name in _ATTRIBUTES)
    return twin
