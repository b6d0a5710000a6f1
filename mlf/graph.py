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
class Graph:
    """A graph: `arguments` are inputs and parameters in their order, `outputs` the heads, `operators` what is called."""

    arguments: tuple[GraphEntry, ...]
    outputs: tuple[GraphEntry, ...]
    operators: tuple[str, ...]
    storage_bytes: int | None


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
        return Graph(
            arguments=tuple(entries[self._entry(index, 0, "arg_nodes")] for index in arguments),
            outputs=tuple(self._heads(entries)),
            operators=tuple(self._operators()),
            storage_bytes=self._storage_bytes(entries, set(arguments)),
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

    def _heads(self, entries: list[GraphEntry]) -> list[GraphEntry]:
        found = []
        for item in self.node.sequence("heads"):
            if not isinstance(item, list) or len(item) < 2:
                self.node.refuse("an item of `heads`", item, "a node and an output")
            node, output = self._whole_numbers(item[:2], "a number in `heads`")
            found.append(entries[self._entry(node, output, "heads")])
        return found

    def _operators(self) -> list[str]:
        calls = [item.child("attrs").text("func_name") for item in self.nodes if item.text("op") == "tvm_op"]
        return [name for name in dict.fromkeys(calls) if name != "__nop"]  # what reshapes without code is called so

    def _storage_bytes(self, entries: list[GraphEntry], arguments: set[int]) -> int | None:
        """Sum the storage that is neither an input nor a parameter; each is as large as the largest that shares it."""
        given = {entries[self.first_entries[index]].storage_id for index in arguments}
        sizes: dict[int, int] = {}
        for entry in entries:
            if entry.storage_id in given:
                continue
            if entry.size_bytes is None:
                return None
            sizes[entry.storage_id] = max(sizes.get(entry.storage_id, 0), entry.size_bytes)
        return sum(sizes.values())
