"""Recurrent layers that run backwards, as layers that run forwards on a reversed input.

emx 1.4.0 stores what a backward LSTM gives at the wrong steps, and refuses GRU and RNN with any direction at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlf.errors import UnsupportedError
from mlf.frontends.emx.emission import place

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_OPERATORS = ("GRU", "LSTM", "RNN")
# Inputs that have a part for each direction, by their places: W, R, B, the initial states, and the peepholes of LSTM.
_BY_DIRECTION = (1, 2, 3, 5, 6, 7)
_LENGTHS = 4  # the place of the input with the length of each sequence
_PREFIX = "mlf_reversed"


def with_forward_layers(graph: Any, *, where: str) -> list[Any]:
    """Give the nodes of a graph with known shapes, every recurrent layer running forwards; constants join the graph.

    Raises UnsupportedError for backward layers with the batch first, sequences of several lengths or activations of their own.
    """
    steps = {item.name: _steps(item) for item in (*graph.input, *graph.value_info)}
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type not in _OPERATORS or node.domain not in ("", "ai.onnx"):
            nodes.append(node)
            continue
        found = [attribute for attribute in node.attribute if attribute.name == "direction"]
        direction = found[0].s.decode("utf-8", "replace") if found else "forward"
        if found:
            node.attribute.remove(found[0])
        if direction == "forward":
            nodes.append(node)
            continue
        count = steps.get(node.input[0], 0)
        _check(node, direction, count, where=where)
        nodes.extend(_Split(graph, node, count).nodes(2 if direction == "bidirectional" else 1))
    return nodes


def _steps(item: Any) -> int:
    """Give the first extent of a value, 0 if nobody knows it."""
    dims = item.type.tensor_type.shape.dim
    return dims[0].dim_value if dims else 0


def _check(node: Any, direction: str, steps: int, *, where: str) -> None:
    given = {attribute.name: attribute for attribute in node.attribute}
    what = "" if steps else "an unknown number of steps"
    if "layout" in given and given["layout"].i:
        what = "the batch first"
    elif len(node.input) > _LENGTHS and node.input[_LENGTHS]:
        what = "sequences of several lengths"
    elif direction == "bidirectional" and {"activations", "activation_alpha", "activation_beta"} & set(given):
        what = "activations of its own"
    if what:
        raise UnsupportedError(f"{place(node.op_type, node.name)} runs {direction} with {what}, which no front end does right", where=where)  # fmt: skip


class _Split:
    """The layers, one for each direction, that a layer becomes."""

    def __init__(self, graph: Any, node: Any, steps: int) -> None:
        self.graph = graph
        self.node = node
        self.backwards = range(steps - 1, -1, -1)
        self.prefix = f"{_PREFIX}/{node.name}"
        self.made: list[Any] = []

    def nodes(self, directions: int) -> list[Any]:
        """Make the nodes; the last direction is backward."""
        parts = [list(self._layer(index, directions)) for index in range(directions)]
        for place_, name in enumerate(self.node.output):
            if (
                name
            ):  # of Y, which has steps in front, the second dimension is the direction; of the last states the first
                self._add("Concat", [part[place_] for part in parts], name, axis=1 if place_ == 0 else 0)
        return self.made

    def _layer(self, index: int, directions: int) -> Iterator[str]:
        """Make the layer of one direction; give the names of its outputs."""
        is_backward = index == directions - 1
        inputs = list(self.node.input)
        if is_backward:
            inputs[0] = self._gather(inputs[0], "x", self.backwards)
        for place_ in _BY_DIRECTION:
            if directions > 1 and place_ < len(inputs) and inputs[place_]:
                inputs[place_] = self._gather(inputs[place_], f"{place_}_{index}", [index])
        outputs = [f"{self.prefix}/{index}/{name}" if name else "" for name in self.node.output]
        layer = type(self.node).FromString(self.node.SerializeToString())
        del layer.input[:], layer.output[:]
        layer.input.extend(inputs)
        layer.output.extend(outputs)
        layer.name = f"{self.node.name}_{index}"
        self.made.append(layer)
        for place_, name in enumerate(outputs):
            yield self._gather(name, "y", self.backwards) if name and place_ == 0 and is_backward else name

    def _gather(self, name: str, label: str, indices: Sequence[int]) -> str:
        """Take parts of a value along its first dimension: the only operator for it that all versions of ONNX have alike."""
        from onnx import TensorProto, helper  # noqa: PLC0415

        output, places = f"{self.prefix}/{label}", f"{self.prefix}/{label}_places"
        self.graph.initializer.append(helper.make_tensor(places, TensorProto.INT64, [len(indices)], indices))
        self._add("Gather", [name, places], output, axis=0)
        return output

    def _add(self, operator: str, inputs: Sequence[str], output: str, **attributes: int) -> None:
        from onnx import helper  # noqa: PLC0415

        self.made.append(
            helper.make_node(operator, inputs, [output], name=f"{self.node.name}_{operator.lower()}", **attributes)
        )
