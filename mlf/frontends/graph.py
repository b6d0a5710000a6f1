"""An archive of TVM's graph executor as a Program: the graph's JSON, the weights in `.params`, the packed operators.

What the graph executor would do when it starts is done here once: weights are found by their names, storage is planned,
and every operator gets its tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlf.errors import InputError, LinkError, MetadataError, TensorError, UnsupportedError
from mlf.naming import C_IDENTIFIER, KEYWORDS
from mlf.program import Call, Program, Value

if TYPE_CHECKING:
    from typing import NoReturn

    from mlf.archive import Archive
    from mlf.graph import Graph, GraphEntry, GraphNode
    from mlf.module import Module
    from mlf.params import Param
    from mlf.program import ValueKind

_CPU = 1  # DLPack's number
_MAX_TENSOR_BYTES = (1 << 31) - 1  # what a 32-bit machine can address with signed offsets


def program_of_graph(module: Module, archive: Archive) -> Program:
    """Build the program of a module with a graph, which `archive` holds.

    Raises LinkError for operators that the code does not define, TensorError for parameters that do not fit the graph,
    UnsupportedError for graphs that need more than a CPU and operators, MetadataError for graphs that contradict
    themselves or the module's inputs.
    """
    if module.graph is None:
        raise UnsupportedError(f"module `{module.name}` has no graph", where=archive.label)
    return _Builder(module, module.graph, _params(module, archive), archive.label).build()


def _params(module: Module, archive: Archive) -> dict[str, Param]:
    if module.parameters is None:
        return {}
    from mlf.params import parse_params  # noqa: PLC0415  # numpy

    params = parse_params(archive.read(module.parameters), where=f"{archive.label}: {module.parameters}")
    return {param.name: param for param in params}


class _Builder:
    def __init__(self, module: Module, graph: Graph, params: dict[str, Param], where: str) -> None:
        self.module = module
        self.graph = graph
        self.params = params
        self.where = where
        self.lookup = module.entrypoints.get("lookup_linked_param")
        self.values: list[Value] = []
        self.calls: list[Call] = []

    def build(self) -> Program:
        self._check_module()
        for node in self.graph.nodes:
            self._add(node)
        inputs = tuple(place for place in self.graph.argument_places if self.values[place].kind == "input")
        self._check_interface(inputs)
        return Program(
            where=self.where, values=tuple(self.values), calls=tuple(self.calls), inputs=inputs,
            outputs=self.graph.head_places, lookup=self.lookup, storage_bytes=self.graph.storage_bytes,
            alignment_bytes=self.module.alignment_bytes,
        )  # fmt: skip

    def _fail(self, error: type[InputError], message: str) -> NoReturn:
        raise error(f"{self.graph.member}: {message}", where=self.where)

    def _check_module(self) -> None:
        if self.module.operators == "unpacked":
            self._fail(UnsupportedError, "the operators take plain pointers, but a graph calls packed ones")
        devices = self.graph.device_types
        if devices and devices != (_CPU,):
            listed = ", ".join(map(str, devices))
            self._fail(
                UnsupportedError, f"tensors are on devices of the types {listed}, expected {_CPU} alone, the CPU"
            )
        arguments = [node.outputs.start for node in self.graph.nodes if node.kind == "null"]
        if sorted(self.graph.argument_places) != arguments:
            self._fail(MetadataError, "`arg_nodes` does not name the nodes of kind `null`, each of them once")

    def _check_interface(self, inputs: tuple[int, ...]) -> None:
        """Refuse a graph whose tensors are not those that callers of the module will pass."""
        found = [self.values[place].name for place in inputs]
        said = [tensor.name for tensor in self.module.inputs]
        if found != said:
            self._fail(MetadataError, f"the inputs are {_listed(found)}, the module's are {_listed(said)}")
        heads = self.graph.head_places
        if len(heads) != len(self.module.outputs):
            self._fail(MetadataError, f"there are {len(heads)} outputs, the module has {len(self.module.outputs)}")
        tensors = (*self.module.inputs, *self.module.outputs)
        for place, tensor in zip((*inputs, *heads), tensors, strict=True):
            size_bytes = self.values[place].size_bytes
            if tensor.size_bytes != size_bytes:
                self._fail(
                    MetadataError, f"`{tensor.name}` has {size_bytes} bytes, the module's has {tensor.size_bytes}"
                )

    def _add(self, node: GraphNode) -> None:
        for place in node.outputs:
            self._check_type(node, self.graph.entries[place])
        if node.kind == "null":
            self._add_argument(node)
        elif node.kind == "tvm_op":
            self._check_operator(node)
            self._add_operator(node)
        else:
            self._fail(UnsupportedError, f"node `{node.name}` is a `{node.kind}`, expected `null` or `tvm_op`")

    def _check_type(self, node: GraphNode, entry: GraphEntry) -> None:
        if entry.size_bytes is None:
            self._fail(
                UnsupportedError, f"node `{node.name}` gives a tensor of `{entry.dtype}`, which has no known size"
            )
        if max((entry.size_bytes, *entry.shape)) > _MAX_TENSOR_BYTES:
            self._fail(UnsupportedError, f"node `{node.name}` gives a tensor of more than {_MAX_TENSOR_BYTES} bytes")

    def _add_argument(self, node: GraphNode) -> None:
        if len(node.outputs) != 1:
            self._fail(MetadataError, f"node `{node.name}` is an argument of {len(node.outputs)} tensors, expected one")
        entry = self.graph.entries[node.outputs.start]
        param = self.params.get(node.name)
        if param is not None:
            self.values.append(_value(entry, kind="parameter", content=self._content(param, entry)))
            return
        is_linked = self.lookup is not None and node.name not in {tensor.name for tensor in self.module.inputs}
        self.values.append(_value(entry, kind="linked" if is_linked else "input"))

    def _content(self, param: Param, entry: GraphEntry) -> bytes:
        if (param.dtype, param.array.shape) != (entry.dtype, entry.shape):
            raise TensorError(
                f"{self.module.parameters}: parameter `{param.name}` is `{param.dtype}` of shape {param.array.shape}, "
                f"expected `{entry.dtype}` of shape {entry.shape} as in {self.graph.member}",
                where=self.where,
            )
        return param.array.tobytes()

    def _check_operator(self, node: GraphNode) -> None:
        counts = (("inputs", len(node.inputs), node.input_count), ("outputs", len(node.outputs), node.output_count))
        for kind, count, said in counts:
            if said is not None and said != count:
                self._fail(MetadataError, f"node `{node.name}` has {count} {kind}, its `num_{kind}` says {said}")
        if any(place >= node.outputs.start for place in node.inputs):
            self._fail(MetadataError, f"node `{node.name}` reads a tensor that is not computed before")
        function = node.function or ""
        if node.is_reshape:
            return
        if not self.module.is_partial and function not in self.module.defined:
            self._fail(LinkError, f"node `{node.name}` calls `{function}`, which the code does not define")
        if not C_IDENTIFIER.fullmatch(function) or function in KEYWORDS:
            self._fail(UnsupportedError, f"node `{node.name}` calls `{function}`, which is no name of a C function")

    def _add_operator(self, node: GraphNode) -> None:
        alias = self._reshaped(node) if node.is_reshape else None
        for place in node.outputs:
            name = node.name if len(node.outputs) == 1 else f"{node.name}:{place - node.outputs.start}"
            kind: ValueKind = "temporary" if alias is None else self.values[alias].kind
            self.values.append(_value(self.graph.entries[place], kind=kind, name=name, alias_of=alias))
        if alias is None:
            written = tuple(node.outputs)
            self.calls.append(
                Call(
                    function=node.function or "", convention="packed", arguments=(*node.inputs, *written), written=written,
                    is_flat=node.is_flat,
                )
            )  # fmt: skip

    def _reshaped(self, node: GraphNode) -> int:
        """Find the value whose memory a reshape shares."""
        if (len(node.inputs), len(node.outputs)) != (1, 1):
            self._fail(
                UnsupportedError,
                f"node `{node.name}` reshapes {len(node.inputs)} tensors to {len(node.outputs)}, expected one to one",
            )
        source, target = node.inputs[0], node.outputs.start
        sizes = [self.graph.entries[place].size_bytes for place in (source, target)]
        if sizes[0] != sizes[1]:
            self._fail(MetadataError, f"node `{node.name}` reshapes {sizes[0]} bytes to {sizes[1]}")
        alias = self.values[source].alias_of
        return source if alias is None else alias


def _value(
    entry: GraphEntry,
    *,
    kind: ValueKind,
    name: str | None = None,
    alias_of: int | None = None,
    content: bytes = b"",
) -> Value:
    return Value(
        name=name or entry.name, dtype=entry.dtype, shape=entry.shape, size_bytes=entry.size_bytes or 0, kind=kind,
        alias_of=alias_of, storage_id=entry.storage_id, content=content,
    )  # fmt: skip


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"
