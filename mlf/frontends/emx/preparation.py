"""An ONNX file made ready for emx: shapes fixed, constants folded, and what no C for microcontrollers can hold refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlf import csource
from mlf.errors import UnsupportedError
from mlf.frontends.emx.dialect import in_dialect, refuse_faults, rename_values
from mlf.frontends.emx.emission import place
from mlf.frontends.emx.recurrent import with_forward_layers
from mlf.frontends.emx.shapes import infer_shapes
from mlf.frontends.onnx_folding import fold_constants, keep
from mlf.frontends.onnx_model import load_onnx

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_HINT = "pip install 'mlf[emx]'"
_RANDOM = frozenset(
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli SampleOp".split()
)
# How many results these give depends on the data, and their code writes as many; Loop is in question by its count.
_OPEN_SHAPES = frozenset("Compress Loop NonMaxSuppression NonZero Unique".split())
# Operators that begin so work on sequences, optional values and strings, or need libraries.
_NOT_TENSORS = tuple("ConcatFromSequence ImageDecoder Optional Regex Sequence SplitToSequence String Tokenizer".split())
_INITIALIZERS_ALONE = 4  # the version of the format from which on initialisers need not be inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorType:
    """The type of an input or output of a model."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A model for emx, which has only the outputs that an operator computes.

    `inputs` and `outputs` are all, in the order of the file, `computed` the outputs of `model`; `constants` holds those that
    are constants. `names` gives the names of the file for those in `model`.
    """

    model: Any
    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    computed: tuple[str, ...]
    constants: Mapping[str, bytes]
    names: Mapping[str, str]
    notes: tuple[str, ...]


def prepare(path: Path, *, where: str) -> Prepared:
    """Read and prepare the file at `path`, which messages call `where`.

    Raises InputError for a file that is no model, UnsupportedError for dynamic shapes other than the batch, for values that
    are no tensors of numbers and for random operators.
    """
    loaded = load_onnx(path, hint=_HINT)
    model = _without_texts(loaded.proto)
    graph = model.graph
    _name_nodes(graph)
    _constants_to_initializers(graph)
    keep(graph.input, [item for item in graph.input if item.name in loaded.inputs])
    _check_values(graph, where=where)
    for node in _all_nodes(graph):
        _check_node(node, where=where)
    _simplify(graph, where=where)
    keep(graph.node, with_forward_layers(infer_shapes(model).graph, where=where))
    model = fold_constants(model, infer=infer_shapes, are_weights_folded=True)
    _check_counts(model.graph, where=where)
    _check_types(model.graph, where=where)
    inputs = tuple(_tensor_type(item, "input", where=where) for item in model.graph.input)
    outputs = tuple(_tensor_type(item, "output", where=where) for item in model.graph.output)
    constants = _take_given_outputs(model.graph, inputs)
    computed = tuple(item.name for item in model.graph.output)
    refuse_faults(model.graph, opset=_opset(model), where=where)
    keep(model.graph.node, in_dialect(model.graph))
    names = rename_values(model.graph)
    return Prepared(
        model=model, inputs=inputs, outputs=outputs, computed=computed, constants=constants, names=names,
        notes=loaded.notes,
    )  # fmt: skip


def _opset(model: Any) -> int:
    """Give the version of ONNX's own operators."""
    return max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=1)


def _without_texts(model: Any) -> Any:
    """Give a model with the functions that it defines in place, and without what does not belong into code."""
    if model.functions:
        import onnx.inliner  # noqa: PLC0415

        model = onnx.inliner.inline_local_functions(model)
    model.ir_version = max(model.ir_version, _INITIALIZERS_ALONE)
    for field in ("producer_name", "producer_version", "domain", "doc_string", "metadata_props"):
        model.ClearField(field)
    model.graph.ClearField("doc_string")
    return model


def _all_nodes(graph: Any) -> Iterator[Any]:
    """Give the nodes of a graph and of the graphs in their attributes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _all_nodes(inner)


def _name_nodes(graph: Any) -> None:
    """Name what has no name after its first output, which a user finds in the model as well."""
    for node in _all_nodes(graph):
        node.ClearField("doc_string")
        if not node.name:
            node.name = next((name for name in node.output if name), node.op_type)


def _constants_to_initializers(graph: Any) -> None:
    """Make initialisers of the nodes `Constant` that hold numbers."""
    from onnx import helper  # noqa: PLC0415

    kept = []
    for node in graph.node:
        value = helper.get_attribute_value(node.attribute[0]) if node.op_type == "Constant" and node.attribute else None
        tensor = _tensor_of(node.attribute[0].name, value) if value is not None else None
        if tensor is None:
            kept.append(node)
            continue
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
    keep(graph.node, kept)


def _tensor_of(attribute: str, value: Any) -> Any:
    import numpy as np  # noqa: PLC0415
    from onnx import TensorProto, numpy_helper  # noqa: PLC0415

    if attribute == "value":
        return TensorProto.FromString(value.SerializeToString())
    dtypes = {"value_float": "float32", "value_floats": "float32", "value_int": "int64", "value_ints": "int64"}
    return numpy_helper.from_array(np.array(value, dtypes[attribute])) if attribute in dtypes else None


def _check_values(graph: Any, *, where: str) -> None:
    for item in (*graph.input, *graph.output, *graph.value_info):
        kind = item.type.WhichOneof("value")
        if kind is None and item.name:
            continue  # inference finds it
        if kind != "tensor_type":
            word = str(kind).removesuffix("_type").replace("_", " ")
            raise UnsupportedError(
                f"`{item.name}` is of the type {word}, expected a tensor{_user(graph, item.name)}", where=where
            )
        _check_dtype(graph, item.name, item.type.tensor_type.elem_type, where=where)


def _check_types(graph: Any, *, where: str) -> None:
    """Refuse values, inferred ones among them, with elements that C99 does not have, or without any."""
    for tensor in graph.initializer:
        _check_dtype(graph, tensor.name, tensor.data_type, where=where)
    known = {tensor.name for tensor in graph.initializer}
    for item in (*graph.input, *graph.value_info, *graph.output):
        if item.name in known:
            continue
        type_ = item.type.tensor_type
        _check_dtype(graph, item.name, type_.elem_type, where=where)
        if any(dim.HasField("dim_value") and not dim.dim_value for dim in type_.shape.dim):
            raise UnsupportedError(f"the tensor `{item.name}` has no elements{_user(graph, item.name)}", where=where)


def _user(graph: Any, name: str) -> str:
    """Name the node that gives or takes a value, for a message."""
    for node in graph.node:
        if name in node.output or name in node.input:
            return f"; see {place(node.op_type, node.name)}"
    return ""


def _check_dtype(graph: Any, name: str, element_type: int, *, where: str) -> None:
    from onnx import TensorProto  # noqa: PLC0415

    word = TensorProto.DataType.Name(element_type).lower()
    if word in ("float16", "bfloat16"):
        hint = "convert the model to float32"
        raise UnsupportedError(
            f"the tensor `{name}` is {word}, which C99 does not have{_user(graph, name)}", where=where, hint=hint
        )
    if word == "string" or word.startswith("complex"):
        raise UnsupportedError(
            f"the tensor `{name}` is of the type {word}, expected numbers{_user(graph, name)}", where=where
        )


def _check_node(node: Any, *, where: str) -> None:
    where_in = place(node.op_type, node.name)
    if node.op_type in _RANDOM:
        raise UnsupportedError(f"{where_in} is random: no two runs agree", where=where)
    if node.op_type == "Gradient":
        raise UnsupportedError(f"{where_in} is for training", where=where)
    if node.op_type.startswith(_NOT_TENSORS):
        raise UnsupportedError(f"{where_in} works on values that are no tensors of numbers", where=where)
    # emx repeats names and attributes in comments of its code. It replaces `If` by the nodes in it.
    if "*/" in (node.name if node.op_type == "If" else str(node)):
        raise UnsupportedError(f"{where_in} has `*/` in a name or an attribute, which ends comments in C", where=where)


def _check_counts(graph: Any, *, where: str) -> None:
    """Refuse nodes whose results have a size that only a run tells, whatever the model says of them."""
    constants = {tensor.name for tensor in graph.initializer}
    for node in _all_nodes(graph):
        if node.op_type not in _OPEN_SHAPES or node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type == "Loop" and node.input[0] in constants:
            continue
        if node.op_type == "Compress" and node.input[1] in constants:
            continue
        raise UnsupportedError(
            f"{place(node.op_type, node.name)} gives as many results as the data has, expected a fixed number", where=where,
            hint="cut the model before this node",
        )  # fmt: skip


def _check_fixed(item: Any, kind: str, *, where: str) -> None:
    tensor = item.type.tensor_type
    if not tensor.HasField("shape"):
        raise UnsupportedError(f"the {kind} `{item.name}` has no shape, expected a fixed one", where=where)
    for index, dim in enumerate(tensor.shape.dim):
        if not dim.HasField("dim_value") or dim.dim_value < 0:
            symbol = f" (`{dim.dim_param}`)" if dim.dim_param and not dim.dim_param.startswith("unk__") else ""
            raise UnsupportedError(f"dimension {index}{symbol} of the {kind} `{item.name}` is dynamic, expected a fixed size", where=where)  # fmt: skip


def _tensor_type(item: Any, kind: str, *, where: str) -> TensorType:
    from onnx import TensorProto  # noqa: PLC0415

    _check_fixed(item, kind, where=where)
    word = TensorProto.DataType.Name(item.type.tensor_type.elem_type).lower()
    dtype = {"float": "float32", "double": "float64"}.get(word, word)
    if dtype not in csource.DTYPE_SIZES_BYTES:
        raise UnsupportedError(f"the {kind} `{item.name}` is {dtype}, which C99 does not have", where=where)
    return TensorType(
        name=item.name, dtype=dtype, shape=tuple(dim.dim_value for dim in item.type.tensor_type.shape.dim)
    )


def _simplify(graph: Any, *, where: str) -> None:
    """Make `Identity` of each `Dropout` that drops nothing, and leave out empty inputs of `Resize`.

    emx would seed a generator for the first and takes the second for given. Raises UnsupportedError for a `Dropout` that
    may drop something.
    """
    known = {tensor.name: tensor for tensor in graph.initializer}
    used = {name for node in _all_nodes(graph) for name in node.input} | {item.name for item in graph.output}
    empty = {name for name, tensor in known.items() if 0 in tensor.dims}
    for node in graph.node:
        if node.op_type == "Resize":
            given = [name if name not in empty else "" for name in node.input]
            del node.input[:]
            node.input.extend(given)
        if node.op_type != "Dropout":
            continue
        training = node.input[2] if len(node.input) > 2 else ""
        if training and (training not in known or _is_true(known[training])):
            raise UnsupportedError(f"{place(node.op_type, node.name)} is random: no two runs agree", where=where)
        if not set(node.output[1:]) & used:
            node.op_type = "Identity"
            _keep_first(node)


def _is_true(tensor: Any) -> bool:
    from onnx import numpy_helper  # noqa: PLC0415

    return bool(numpy_helper.to_array(tensor).any())


def _keep_first(node: Any) -> None:
    del node.input[1:]
    del node.output[1:]
    del node.attribute[:]


def _take_given_outputs(graph: Any, inputs: tuple[TensorType, ...]) -> dict[str, bytes]:
    """Take the outputs out that no operator computes: emx gives wrong code for them."""
    from onnx import numpy_helper  # noqa: PLC0415

    constants = {tensor.name: tensor for tensor in graph.initializer}
    given = {tensor.name for tensor in inputs} | set(constants)
    taken = {item.name for item in graph.output} & set(constants)
    keep(graph.output, [item for item in graph.output if item.name not in given])
    return {name: numpy_helper.to_array(constants[name]).tobytes() for name in taken}
