"""The JSON of TVM's graph executor: which tensors go in and out, which operators are called, who shares storage.

Sizes are taken from the graph, because `memory.sids` of `metadata.json` mixes up storage ids and entries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlf.csource import DTYPE_SIZES_BYTES
from mlf.strictjson import Node

if TYPE_CHECKING:
    from collections.abc import Sequence

_SPELLINGS = {"uint1": "bool"}  # of dtypes, in graphs and elsewhere
_MAX_NODES = 100_000  # a compiled network has some hundred
_MAX_EXTENTS = 64  # dimensions of a tensor; no compiler makes ten
_MAX_DIGITS = 9  # of the numbers that attributes hold as text; they count tensors
_RESHAPE = "__nop"  # what a node calls that gives its input another shape, without code


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphEntry:
    """A tensor of the graph: the node that gives it, its type, and where it is stored."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    storage_id: int

    @property
    def size_bytes(self) -> int | None:
        """Its size, None for a dtype that nobody knows."""
        width = DTYPE_SIZES_BYTES.get(self.dtype)
        return None if width is None else math.prod(self.shape) * width


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNode:
    """A node: `kind` is its `op`, `inputs` and `outputs` are places in the graph's `entries`.

    `function` is what an operator calls, None for any other kind. `input_count` and `output_count` are what its attributes
    say, None where they say nothing; `is_flat` tells that the function expects tensors of one dimension.
    """

    name: str
    kind: str
    function: str | None
    inputs: tuple[int, ...]
    outputs: range
    input_count: int | None
    output_count: int | None
    is_flat: bool

    @property
    def is_reshape(self) -> bool:
        """Tell whether its output is its input in another shape, so that no function is called."""
        return self.function == _RESHAPE


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A graph: `member` is its name in the archive, `entries` are all tensors in the order of the `nodes` that give them.

    `argument_places` tells which entries are inputs and parameters, `head_places` which are outputs, both in call order.
    `device_types` has the numbers of the devices that hold tensors; it is empty where the graph says none.
    """

    member: str
    nodes: tuple[GraphNode, ...]
    entries: tuple[GraphEntry, ...]
    argument_places: tuple[int, ...]
    head_places: tuple[int, ...]
    device_types: tuple[int, ...]
    storage_bytes: int | None

    @property
    def arguments(self) -> tuple[GraphEntry, ...]:
        """Its inputs and parameters, in their order."""
        return tuple(self.entries[place] for place in self.argument_places)

    @property
    def outputs(self) -> tuple[GraphEntry, ...]:
        """Its heads."""
        return tuple(self.entries[place] for place in self.head_places)

    @property
    def operators(self) -> tuple[str, ...]:
        """What is called, each function once, in the order of the first calls."""
        called = (node.function for node in self.nodes if node.function and not node.is_reshape)
        return tuple(dict.fromkeys(called))


def parse_graph(document: object, *, where: str, name: str) -> Graph:
    """Read the decoded graph JSON of the member `name`; raises MetadataError, naming the place, where it is none."""
    return _GraphReader(Node(document, where=where, document=name)).read()


class _GraphReader:
    def __init__(self, node: Node) -> None:
        self.node = node
        self.nodes = node.children("nodes")
        if len(self.nodes) > _MAX_NODES:
            node.fail(f"`nodes` has {len(self.nodes)} items; at most {_MAX_NODES} are allowed")
        self.names = [item.text("name") for item in self.nodes]
        self.attributes = node.child("attrs")
        self.first_entries = self._whole_numbers(node.sequence("node_row_ptr"), "an item of `node_row_ptr`")
        rows = self.first_entries
        if len(rows) != len(self.nodes) + 1 or rows[0] != 0 or sorted(rows) != rows:
            node.fail(f"`node_row_ptr` is not {len(self.nodes) + 1} ascending numbers from 0 on, one for each node and the end")  # fmt: skip

    def read(self) -> Graph:
        entries = self._entries()
        arguments = self._whole_numbers(self.node.sequence("arg_nodes"), "an item of `arg_nodes`")
        places = tuple(self._entry(index, 0, "arg_nodes") for index in arguments)
        return Graph(
            member=self.node.document,
            nodes=tuple(map(self._graph_node, range(len(self.nodes)))),
            entries=tuple(entries),
            argument_places=places,
            head_places=self._references(self.node, "heads"),
            device_types=self._device_types(),
            storage_bytes=self._storage_bytes(entries, places),
        )

    def _graph_node(self, index: int) -> GraphNode:
        node = self.nodes[index]
        kind = node.text("op")
        attributes = node.child("attrs") if kind == "tvm_op" else None
        return GraphNode(
            name=self.names[index], kind=kind, function=attributes.text("func_name") if attributes else None,
            inputs=self._references(node, "inputs") if "inputs" in node else (),
            outputs=range(self.first_entries[index], self.first_entries[index + 1]),
            input_count=_number(attributes, "num_inputs"), output_count=_number(attributes, "num_outputs"),
            is_flat=bool(_number(attributes, "flatten_data")),
        )  # fmt: skip

    def _device_types(self) -> tuple[int, ...]:
        if "device_index" not in self.attributes:
            return ()
        return tuple(
            sorted(set(self._whole_numbers(self._attribute("device_index"), "an item of `attrs.device_index`")))
        )

    def _entries(self) -> list[GraphEntry]:
        dtypes = [self._dtype(item) for item in self._attribute("dltype")]
        shapes = [self._shape(item) for item in self._attribute("shape")]
        storage = self._whole_numbers(self._attribute("storage_id"), "an item of `attrs.storage_id`")
        count = self.first_entries[-1]
        if not len(dtypes) == len(shapes) == len(storage) == count:
            self.node.fail(f"`attrs` has {len(dtypes)} dtypes, {len(shapes)} shapes and {len(storage)} storage ids for {count} tensors")  # fmt: skip
        owners = [
            name
            for name, start, end in zip(self.names, self.first_entries, self.first_entries[1:], strict=False)
            for _ in range(start, end)
        ]
        return [
            GraphEntry(name=name, dtype=dtype, shape=shape, storage_id=sid)
            for name, dtype, shape, sid in zip(owners, dtypes, shapes, storage, strict=True)
        ]

    def _attribute(self, key: str) -> list[object]:
        """Give the values of an attribute, which stand behind the name of their type."""
        values = self.attributes.sequence(key)
        if len(values) != 2 or not isinstance(values[1], list):
            self.node.refuse(f"`attrs.{key}`", values, "a type and a list")
        return list(values[1])

    def _dtype(self, value: object) -> str:
        if not isinstance(value, str):
            self.node.refuse("an item of `attrs.dltype`", value, "a dtype")
        return _SPELLINGS.get(value, value)

    def _shape(self, value: object) -> tuple[int, ...]:
        if not isinstance(value, list):
            self.node.refuse("an item of `attrs.shape`", value, "a list of extents")
        if len(value) > _MAX_EXTENTS:
            self.node.fail(f"an item of `attrs.shape` has {len(value)} extents; at most {_MAX_EXTENTS} are allowed")
        if any(isinstance(extent, int) and extent < 0 for extent in value):
            self.node.fail(
                "an item of `attrs.shape` has a negative extent: only tensors of fixed shapes can be planned"
            )
        return tuple(self._whole_numbers(value, "an extent of `attrs.shape`"))

    def _whole_numbers(self, values: Sequence[object], place: str) -> list[int]:
        numbers = [item for item in values if isinstance(item, int) and not isinstance(item, bool) and item >= 0]
        if len(numbers) != len(values):
            wrong = next(item for item in values if isinstance(item, bool) or not isinstance(item, int) or item < 0)
            self.node.refuse(place, wrong, "a whole number")
        return numbers

    def _entry(self, node: int, output: int, place: str) -> int:
        if node >= len(self.nodes) or self.first_entries[node] + output >= self.first_entries[node + 1]:
            self.node.fail(f"`{place}` names output {output} of node {node}, which is not there")
        return self.first_entries[node] + output

    def _references(self, node: Node, key: str) -> tuple[int, ...]:
        """Find the entries that a list of nodes and their outputs names."""
        place = node.at(key).strip("`")
        found = []
        for item in node.sequence(key):
            if not isinstance(item, list) or len(item) < 2:
                self.node.refuse(f"an item of `{place}`", item, "a node and an output")
            source, output = self._whole_numbers(item[:2], f"a number in `{place}`")
            found.append(self._entry(source, output, place))
        return tuple(found)

    def _storage_bytes(self, entries: list[GraphEntry], arguments: tuple[int, ...]) -> int | None:
        """Sum the storage that is neither an input nor a parameter; each is as large as the largest that shares it."""
        given = {entries[place].storage_id for place in arguments}
        sizes: dict[int, int] = {}
        for entry in entries:
            if entry.storage_id in given:
                continue
            if entry.size_bytes is None:
                return None
            sizes[entry.storage_id] = max(sizes.get(entry.storage_id, 0), entry.size_bytes)
        return sum(sizes.values())


def _number(attributes: Node | None, key: str) -> int | None:
    """Read a number that an operator's attributes hold as text; None where there is none."""
    if attributes is None or attributes.is_null(key):
        return None
    text = attributes.text(key)
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS):
        attributes.refuse(attributes.at(key), text, "a number in quotation marks")
    return int(text)
