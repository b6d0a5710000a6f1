"""The forms of ONNX that emx takes, and what it takes but gets wrong.

Each entry was found by comparing emx 1.4.0 with onnx's operator tests and with onnxruntime. What it does wrong is refused
with a reason; what it does not know in one form is written in another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlf.errors import UnsupportedError
from mlf.frontends.emx.emission import place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_STANDARD = ("", "ai.onnx")
_HARDMAX_BY_AXIS = 13  # the version of the operators from which on Hardmax looks along one axis alone
_ONE_TENSOR = 6  # inputs of Adam with one tensor: rate, step, and the tensor, its gradient and two moments
_LENGTHS = 6  # the place of the input of Attention with the number of valid keys


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What decides on a node: its inputs, attributes, the types of the graph's values and the version of the operators."""

    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    types: Mapping[str, Any]
    opset: int

    def is_set(self, name: str) -> bool:
        return name in self.attributes and bool(self.attributes[name].i)

    def text(self, name: str) -> str:
        return self.attributes[name].s.decode("utf-8", "replace") if name in self.attributes else ""

    def rank(self, place: int) -> int | None:
        found = self.types.get(self.inputs[place])
        return None if found is None else len(found.shape.dim)

    def is_signed(self) -> bool:
        from onnx import TensorProto  # noqa: PLC0415

        signed = (TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64)
        return self.inputs[0] in self.types and self.types[self.inputs[0]].elem_type in signed

    def has_shifted_broadcast(self) -> bool:
        """Tell whether the second operand lies along other axes than the last, as operators before version 7 can."""
        if not self.is_set("broadcast") or "axis" not in self.attributes:
            return False
        ranks = [len(self.types[name].shape.dim) if name in self.types else -1 for name in self.inputs]
        axis = self.attributes["axis"].i
        return -1 in ranks or (axis if axis >= 0 else axis + ranks[0]) + ranks[1] != ranks[0]


# Operator (empty: any), what makes emx compile it wrongly, and how.
_FAULTS: tuple[tuple[str, Callable[[_Seen], bool], str], ...] = (
    ("ArrayFeatureExtractor", lambda seen: seen.rank(0) == 1, "it takes rows of what has none"),
    ("Adam", lambda seen: len(seen.inputs) > _ONE_TENSOR, "it mixes up the parts of several tensors"),
    ("Attention", lambda seen: any(seen.inputs[_LENGTHS:]) and seen.is_set("is_causal"), "its mask ignores the number of valid keys"),
    ("BitShift", lambda seen: seen.is_signed(), "C does not define shifts of signed numbers"),
    (
        "GridSample", lambda seen: seen.text("mode") in ("bicubic", "cubic") and seen.text("padding_mode") == "border",
        "cubic interpolation moves points onto the border before it looks at their neighbours",
    ),
    ("Hardmax", lambda seen: seen.opset < _HARDMAX_BY_AXIS, f"before operator set {_HARDMAX_BY_AXIS} it looks at all axes from its own on"),
    ("SpaceToDepth", lambda seen: seen.text("mode") == "CRD", "it ignores the mode `CRD`"),
    ("", lambda seen: seen.has_shifted_broadcast(), "it ignores the axis of a broadcast"),
    ("BatchNormalization", lambda seen: "spatial" in seen.attributes and not seen.is_set("spatial"), "it ignores `spatial`"),
)  # fmt: skip


def refuse_faults(graph: Any, *, opset: int, where: str) -> None:  # messages of onnx have no types
    """Raise UnsupportedError for the first node for which emx gives wrong code without a word; all shapes are known."""
    types = {item.name: item.type.tensor_type for item in (*graph.input, *graph.value_info, *graph.output)}
    types |= {tensor.name: _type_of(tensor) for tensor in graph.initializer}
    for node in graph.node:
        given = {attribute.name: attribute for attribute in node.attribute}
        seen = _Seen(inputs=tuple(node.input), attributes=given, types=types, opset=opset)
        for operator, is_wrong, reason in _FAULTS:
            if operator in ("", node.op_type) and is_wrong(seen):
                raise UnsupportedError(f"emx compiles {place(node.op_type, node.name)} wrongly: {reason}", where=where)


def _type_of(tensor: Any) -> Any:
    from onnx import helper  # noqa: PLC0415

    return helper.make_tensor_type_proto(tensor.data_type, tensor.dims).tensor_type


def in_dialect(graph: Any) -> list[Any]:
    """Give the nodes of a graph with known shapes in the forms that emx takes; constants that they need join the graph."""
    return [node for old in graph.node for node in _Form(graph, old).nodes()]


class _Form:
    """A node in another form."""

    def __init__(self, graph: Any, node: Any) -> None:
        self.graph = graph
        self.node = node

    def nodes(self) -> Sequence[Any]:
        """Give the nodes that stand for it, itself if it may stay."""
        if self.node.domain not in _STANDARD:
            return (self.node,)
        if self.node.op_type == "Split" and len(self.node.input) == 1:
            return self._split()
        if self.node.op_type == "Slice":
            return self._slice()
        if self.node.op_type == "Resize" and len(self.node.input) == 2:  # version 10, which works as Upsample does
            self.node.op_type = "Upsample"
        return (self.node,)

    def _split(self) -> Sequence[Any]:
        """Give the sizes of the parts as an input: emx makes equal parts otherwise."""
        axis = next((item.i for item in self.node.attribute if item.name == "axis"), 0)
        shapes = [self._shape(name) for name in self.node.output]
        if all(shapes):
            self.node.input.append(self._constant("parts", [shape[axis] for shape in shapes]))
            kept = [item for item in self.node.attribute if item.name == "axis"]
            del self.node.attribute[:]
            self.node.attribute.extend(kept)
        return (self.node,)

    def _slice(self) -> Sequence[Any]:
        """Take the elements one by one along the axes if a step is negative, which emx does not know."""
        bounds = [self._values(name) for name in self.node.input[1:]]
        shape = self._shape(self.node.input[0])
        if len(bounds) < 4 or not shape or not all(bounds) or min(bounds[3]) > 0:
            return (self.node,)
        made, source = [], self.node.input[0]
        for number, (start, end, axis, step) in enumerate(zip(*bounds, strict=True)):
            places = self._constant(f"places_{number}", range(shape[axis])[start:end:step])
            is_last = number == len(bounds[0]) - 1
            target = self.node.output[0] if is_last else f"{self.node.output[0]}/mlf_{number}"
            made.append(self._gather(source, places, target, axis, number))
            source = target
        return made

    def _gather(self, source: str, places: str, target: str, axis: int, number: int) -> Any:
        from onnx import helper  # noqa: PLC0415

        return helper.make_node("Gather", [source, places], [target], name=f"{self.node.name}_{number}", axis=axis)

    def _shape(self, name: str) -> list[int]:
        for item in (*self.graph.input, *self.graph.value_info, *self.graph.output):
            if item.name == name and item.type.tensor_type.HasField("shape"):
                return [dim.dim_value for dim in item.type.tensor_type.shape.dim]
        return []

    def _values(self, name: str) -> list[int]:
        from onnx import numpy_helper  # noqa: PLC0415

        found = [tensor for tensor in self.graph.initializer if tensor.name == name]
        return [int(value) for value in numpy_helper.to_array(found[0]).ravel()] if found else []

    def _constant(self, label: str, values: Sequence[int]) -> str:
        from onnx import TensorProto, helper  # noqa: PLC0415

        name = f"{self.node.output[0]}/mlf_{label}"
        self.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))
        return name


def rename_values(graph: Any) -> Mapping[str, str]:
    """Give every value a plain name, for emx makes variables of some; give the old names by the new ones."""
    names: dict[str, str] = {}
    owners = (*graph.input, *graph.initializer, *graph.output, *graph.value_info)
    for name in [item.name for item in owners] + [name for node in graph.node for name in node.output]:
        if name:
            names.setdefault(name, f"tensor_{len(names)}")
    for item in owners:
        item.name = names[item.name]
    _rename_nodes(graph, names)
    return {new: old for old, new in names.items()}


def _rename_nodes(graph: Any, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for field in (node.input, node.output):
            renamed = [names.get(name, name) for name in field]
            del field[:]
            field.extend(renamed)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                own = {item.name for item in (*inner.input, *inner.initializer)}
                own |= {name for item in inner.node for name in item.output}
                _rename_nodes(inner, {old: new for old, new in names.items() if old not in own})
