"""What an ONNX graph computes from constants and known shapes alone is computed here: importers want numbers, not graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]

_DOMAINS = ("", "ai.onnx")
# Weights stay integers, chance stays chance, and a folded sequence would be no tensor.
_WEIGHTS = "DequantizeLinear"
_KEPT = frozenset({_WEIGHTS, "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli", "SequenceConstruct", "SequenceEmpty", "Optional", "Loop", "Scan"})  # fmt: skip
_MOST_BYTES = 1 << 20  # that a node may make of fewer: a filled tensor is better computed than stored
_MOST_GROWTH = 4  # of weights: bytes become float32
_DROPOUT_INPUTS = 2  # the third, if there is one, says whether the model is in training
_MOST_ROUNDS = 20  # each finds the shapes that the constants of the round before give


def fold_constants(proto: Any, *, infer: Callable[[Any], Any] | None = None, are_weights_folded: bool = False) -> Any:
    """Give a model in which constant nodes are initializers, and nothing is left that no output needs.

    `infer` gives a model with the shapes that can be told, by default onnx does. Weights that a QDQ model holds as integers
    become floats only if `are_weights_folded`.
    """
    import onnx  # noqa: PLC0415  # optional

    infer = infer or _inferred
    folded = onnx.ModelProto()
    folded.CopyFrom(proto)
    _drop_constant_inputs(folded)
    _drop_dropouts(folded.graph)
    for _ in range(_MOST_ROUNDS):
        inferred = infer(folded)
        if not _fold_once(inferred, kept_types=_KEPT - {_WEIGHTS} if are_weights_folded else _KEPT):
            folded = inferred
            break
        folded = inferred
    _drop_unused(folded)
    return folded


def _inferred(proto: Any) -> Any:
    """Infer shapes where that works; a model whose shapes contradict each other is for the importer to refuse."""
    import onnx  # noqa: PLC0415

    try:
        return onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except Exception:  # noqa: BLE001  # onnx raises classes of its own without a common base
        return proto


def _drop_constant_inputs(proto: Any) -> None:
    known = {item.name for item in proto.graph.initializer}
    kept = [item for item in proto.graph.input if item.name not in known]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)


def _drop_dropouts(graph: Any) -> None:
    """Make what a dropout does outside of training plain: it passes its input on."""
    for node in graph.node:
        if node.op_type == "Dropout" and len(node.input) <= _DROPOUT_INPUTS and not any(node.output[1:]):
            node.op_type = "Identity"
            del node.input[1:], node.output[1:], node.attribute[:]


def _fold_once(proto: Any, *, kept_types: frozenset[str]) -> bool:
    """Turn the nodes that can be computed now into initializers; tells whether there was one."""
    from onnx import numpy_helper  # noqa: PLC0415

    graph = proto.graph
    known = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    shapes = dict(_shapes(graph))
    kept = []
    for node in graph.node:
        results = _computed(proto, node, known, shapes) if node.op_type not in kept_types else None
        if results is None:
            kept.append(node)
            continue
        for name, array in zip(node.output, results, strict=True):
            known[name] = array
            graph.initializer.append(numpy_helper.from_array(array, name))
    is_changed = len(kept) < len(graph.node)
    if is_changed:
        keep(graph.node, kept)
    return is_changed


def keep(field: Any, items: Sequence[Any]) -> None:
    """Let a repeated field hold these of its items only."""
    copies = [_copied(item) for item in items]
    del field[:]
    field.extend(copies)


def _copied(item: Any) -> Any:
    copy = type(item)()
    copy.CopyFrom(item)
    return copy


def _shapes(graph: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    for item in (*graph.input, *graph.value_info, *graph.output):
        tensor = item.type.tensor_type
        if tensor.HasField("shape") and all(dimension.HasField("dim_value") for dimension in tensor.shape.dim):
            yield item.name, tuple(dimension.dim_value for dimension in tensor.shape.dim)


def _computed(
    proto: Any,
    node: Any,
    known: Mapping[str, Array],
    shapes: Mapping[str, tuple[int, ...]],
) -> list[Array] | None:
    """Compute a node from what is known; None if that is not enough, or if it is better left as it is."""
    if node.domain not in _DOMAINS:
        return None
    if node.op_type in ("Shape", "Size") and node.input[0] in shapes:
        return [_shape_of(node, shapes[node.input[0]])]
    if not all(not name or name in known for name in node.input):
        return None
    if not node.input and node.op_type != "Constant":
        return None
    results = _evaluated(proto, node, {name: known[name] for name in node.input if name})
    if results is None or len(results) != len(node.output):
        return None
    given = sum(known[name].nbytes for name in node.input if name)
    made = sum(item.nbytes for item in results)
    return results if node.op_type == "Constant" or made <= max(_MOST_GROWTH * given, _MOST_BYTES) else None


def _shape_of(node: Any, shape: tuple[int, ...]) -> Array:
    if node.op_type == "Size":
        return np.array(np.prod(shape, dtype=np.int64), np.int64)
    limits = {item.name: item.i for item in node.attribute}
    return np.array(shape[limits.get("start", 0) : limits.get("end", len(shape))], np.int64)


def _evaluated(proto: Any, node: Any, inputs: Mapping[str, Array]) -> list[Array] | None:
    """Run one node as onnx's own reference does; None if that cannot."""
    from onnx import TensorProto, helper  # noqa: PLC0415
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

    try:
        tensors = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape) for name, array in inputs.items()]  # fmt: skip
        outputs = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in node.output]
        graph = helper.make_graph([node], "node", tensors, outputs)
        model = helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(model).run(None, dict(inputs))
    except Exception:  # noqa: BLE001  # whatever it does not know is left to the front end
        return None
    arrays = [np.asarray(item) for item in results]
    return arrays if all(array.dtype.kind in "fiub" for array in arrays) else None


def _drop_unused(proto: Any) -> None:
    """Drop nodes and initializers that no output needs, and what is said of their values."""
    graph = proto.graph
    needed = {item.name for item in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(_read(node))
    keep(graph.node, nodes[::-1])
    made = {name for node in nodes for name in node.output}
    keep(graph.value_info, [item for item in graph.value_info if item.name in made])
    keep(graph.initializer, [item for item in graph.initializer if item.name in needed])


def _read(node: Any) -> Iterator[str]:
    """List what a node reads, also in the graphs that it holds."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            for inner in graph.node:
                yield from _read(inner)
            yield from (item.name for item in graph.output)
