"""Constant folding: what a model computes from its weights alone becomes a weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlf.frontends.emx.shapes import infer_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping

# Whose results at compile time are beyond doubt: they move numbers or compute with shapes.
_FOLDED = frozenset(
    """Add And Cast Concat ConstantOfShape DequantizeLinear Div Equal Expand Flatten Floor Gather Greater Identity Less Max
    Min Mul Neg NonZero Not Or Range ReduceMax ReduceMin ReduceProd ReduceSum Reshape Shape Size Slice Split Sqrt Squeeze Sub Tile
    Transpose Unsqueeze Where""".split()
)
_MAX_GROWTH = 4  # of what folding makes out of weights: int8 becomes float32
_SMALL_BYTES = 4096  # a result that may always be folded
_ROUNDS = 50  # of folding and inference; each needs a constant that the one before made


def folded(model: Any) -> Any:
    """Infer shapes and compute what is constant, in turn until nothing is new."""
    for _ in range(_ROUNDS):
        model = infer_shapes(model)
        if not _fold(model):
            break
    return model


def _fold(model: Any) -> bool:
    """Compute the nodes whose inputs are all constants; tell whether there were any."""
    from onnx import numpy_helper  # noqa: PLC0415

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {item.name: item for item in (*graph.input, *graph.value_info)}
    kept = []
    for node in graph.node:
        given = _constant_inputs(node, constants, shapes)
        results = None if given is None else _evaluated(model, node, given)
        if results is None:
            kept.append(node)
            continue
        for name, array in zip(node.output, results, strict=True):
            tensor = numpy_helper.from_array(array, name)
            constants[name] = tensor
            graph.initializer.append(tensor)
    is_new = len(kept) < len(graph.node)
    keep(graph.node, kept)
    return is_new


def _constant_inputs(node: Any, constants: Mapping[str, Any], shapes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give the arrays that a node computes with; None if it must run later."""
    import numpy as np  # noqa: PLC0415
    from onnx import numpy_helper  # noqa: PLC0415

    if node.op_type not in _FOLDED or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in ("Shape", "Size") and node.input[0] in shapes:
        tensor = shapes[node.input[0]].type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            # Only the shape counts; the strides of 0 make it cost nothing.
            return {node.input[0]: np.broadcast_to(np.float32(0), [dim.dim_value for dim in tensor.shape.dim])}
    if any(name and name not in constants for name in node.input):
        return None
    return {name: numpy_helper.to_array(constants[name]) for name in node.input if name}


def _evaluated(model: Any, node: Any, given: Mapping[str, Any]) -> list[Any] | None:
    """Compute a node with onnx's own reference; None where that is impossible or makes the weights too large."""
    import numpy as np  # noqa: PLC0415
    from onnx import TensorProto, helper  # noqa: PLC0415
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

    inputs = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in given]
    outputs = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in node.output]
    alone = helper.make_model(helper.make_graph([node], "fold", inputs, outputs), opset_imports=model.opset_import)
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(alone).run(None, dict(given))
    except Exception:  # noqa: BLE001 - whatever the reference cannot compute is left to emx
        return None
    arrays = [np.asarray(result) for result in results]
    size = sum(array.nbytes for array in arrays)
    is_small = size <= max(_SMALL_BYTES, _MAX_GROWTH * sum(array.nbytes for array in given.values()))
    return arrays if is_small and all(array.dtype.kind in "biuf" for array in arrays) else None


def keep(field: Any, items: list[Any]) -> None:
    """Let a repeated field hold these of its items only."""
    copies = [type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(copies)
