"""ONNX files: read, their open dimensions closed, constants among their inputs found, and their nodes named."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlf.errors import InputError, ToolError, UnsupportedError, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_DOMAINS = ("", "ai.onnx")
_NO_NUMBERS = ("string", "complex64", "complex128")


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxModel:
    """A model whose inputs all have a known shape.

    `inputs` and `outputs` are the names of its tensors in order, without initializers, which old models list as inputs too.
    `proto` is onnx's ModelProto, `nodes` are those of its graph, `notes` what was decided for the user.
    """

    proto: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Any, ...]
    notes: tuple[str, ...]


def load_onnx(path: Path, *, hint: str) -> OnnxModel:
    """Read an ONNX file, with its weights; a first dimension that is open becomes 1.

    Raises InputError for a damaged file, UnsupportedError for other open dimensions and for inputs that are no tensors,
    ToolError, with `hint`, if the package onnx is missing.
    """
    try:
        import onnx  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ToolError("the Python package onnx is not installed", hint=hint) from error
    try:
        proto = onnx.load(str(path))
        _give_types(onnx, proto)
        onnx.checker.check_model(proto)
    except OSError as error:
        raise InputError(f"cannot be read: {reason_of(error)}", where=path.name) from error
    except Exception as error:
        reason = _reason(error).replace(f"{path.parent}/", "")
        raise InputError(f"is no ONNX model that can be read: {reason}", where=path.name) from error
    notes = tuple(_close_shapes(proto, path.name))
    known = {item.name for item in proto.graph.initializer} | {
        item.values.name for item in proto.graph.sparse_initializer
    }
    return OnnxModel(
        proto=proto, inputs=tuple(item.name for item in proto.graph.input if item.name not in known),
        outputs=tuple(item.name for item in proto.graph.output), nodes=tuple(proto.graph.node), notes=notes,
    )  # fmt: skip


def _reason(error: Exception) -> str:
    """Give the first paragraph of what onnx says, in one line."""
    first = str(error).strip().partition("\n\n")[0]
    return " ".join(first.split()).rstrip(".") or type(error).__name__


def _give_types(onnx: Any, proto: Any) -> None:
    """Infer the types of outputs that have none, as some tools leave them."""
    untyped = [item for item in proto.graph.output if item.type.WhichOneof("value") is None]
    if not untyped:
        return
    with contextlib.suppress(Exception):  # onnx raises classes of its own; what is left without a type is refused
        known = {item.name: item for item in onnx.shape_inference.infer_shapes(proto).graph.output}
        for item in untyped:
            item.type.CopyFrom(known[item.name].type)


def _close_shapes(proto: Any, where: str) -> Iterator[str]:
    known = {item.name for item in proto.graph.initializer}
    for item in proto.graph.input:
        if item.name in known:
            continue
        kind = item.type.WhichOneof("value")
        if kind != "tensor_type":
            words = (kind or "unknown").replace("_type", "")
            raise UnsupportedError(f"input `{item.name}` is no tensor but of the type {words}", where=where)
        tensor = item.type.tensor_type
        word = _element_type(tensor.elem_type)
        if word in _NO_NUMBERS:
            raise UnsupportedError(
                f"input `{item.name}` has elements of the type {word}, which are no numbers of C", where=where
            )
        if not tensor.HasField("shape"):
            raise UnsupportedError(f"input `{item.name}` has no shape", where=where, hint="export the model with fixed shapes")  # fmt: skip
        yield from _close_shape(item.name, tensor.shape.dim, where)


def _element_type(number: int) -> str:
    from onnx import TensorProto  # noqa: PLC0415

    return str(TensorProto.DataType.Name(number)).lower()


def _close_shape(name: str, dimensions: Any, where: str) -> Iterator[str]:
    for index, dimension in enumerate(dimensions):
        if dimension.HasField("dim_value") and dimension.dim_value > 0:
            continue
        if dimension.HasField("dim_value") and dimension.dim_value == 0:
            continue
        word = dimension.dim_param or "?"
        if index > 0:
            raise UnsupportedError(
                f"input `{name}` has the open dimension `{word}` at {index}", where=where, hint="export the model with fixed shapes"
            )  # fmt: skip
        dimension.dim_value = 1
        yield f"input `{name}`: its first dimension, `{word}`, is 1"


def node_label(node: Any, nodes: Sequence[Any]) -> str:
    """Name a node as its model does, with its operator; one without a name by its number and its output."""
    operator = node.op_type if node.domain in _DOMAINS else f"{node.domain}.{node.op_type}"
    if node.name:
        return f"node `{node.name}` (`{operator}`)"
    number = next((index for index, item in enumerate(nodes) if item is node or item.output == node.output), None)
    place = "" if number is None else f" {number}"
    outputs = ", ".join(f"`{name}`" for name in node.output)
    return f"node{place} (`{operator}`), which gives {outputs}"
