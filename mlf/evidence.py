"""What the members of an archive tell of a module, weighed.

Facts are taken from the code where the code has them: the order of tensors from the header's structs and the wrapper's
call, sizes from Relay's types, the executor's graph, macros and the loops that write a tensor, pools and workspace from
their definitions. What metadata says otherwise is kept as a finding. Version 8 holds these facts itself; there they are
compared.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from mlf import csource, layout
from mlf.archive import METADATA_NAME
from mlf.entry import POOL_PARAMETER, find_call
from mlf.errors import ArchiveError, ObjectError, SourceError
from mlf.graph import parse_graph
from mlf.metadata import Code, ObjectCode, Pool, Tensor
from mlf.module import Argument, Finding, IoPlace, MainCall, Module
from mlf.naming import header_name, macro, mangle, mangle_model, sanitize_tensor_name
from mlf.strictjson import load_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mlf.archive import Archive
    from mlf.graph import Graph
    from mlf.metadata import DeclaredFacts, ModuleMetadata, TensorMetadata
    from mlf.objects.elf import ElfObject

# Weights as text make a source member large; `inspect` reads the end of such a member, where TVM prints the main function.
LARGE_SOURCE_BYTES = 1 << 20
_TAIL_BYTES = 512 << 10
# Of what is parsed whole in Python: headers and Relay text, whose weights are elsewhere, and the graph's JSON.
_TEXT_BYTES = 16 << 20
_GRAPH_BYTES = 4 << 20
# Each output costs a pass over the main function; no compiled model has this many.
_MOST_SEARCHED_OUTPUTS = 64
_ALLOCATOR = "TVMBackendAllocWorkspace"
# What LLVM code says where it checks a tensor; TVM 0.9 named no function but `arg`.
_ASSERTED = re.compile(
    rb"(?P<function>\w{1,200})\.(?P<tensor>\w{1,200})\.(?P<what>ndim|dtype) is expected to (?:equal|be) (?P<value>\w{1,20})"
)
# What LLVM code with packed arguments says where it checks their number; unpacked code has nothing to check.
_PACKED_CHECK = b"num_args should be"


class ModuleReader:
    """Gathers the evidence on one module and weighs it."""

    def __init__(
        self,
        archive: Archive,
        version: int,
        metadata: ModuleMetadata,
        members: Sequence[layout.Place],
        *,
        is_thorough: bool,
    ) -> None:
        self.archive = archive
        self.version = version
        self.metadata = metadata
        self.members = members
        self.is_thorough = is_thorough
        self.is_partial = False
        self.lacks_functions = False
        self.findings: list[Finding] = []
        self.unordered: set[str] = set()
        self.prefix = mangle_model(metadata.name)
        self.run = mangle(metadata.name, "run")

    def read(self) -> Module:
        """Give the module; raises ArchiveError, MetadataError, SourceError, ObjectError or TensorError."""
        self._gather()
        main = self.main
        self.parameters = self._parameters(main)
        module = Module(
            name=self.metadata.name,
            version=self.version,
            archive=self.archive.label,
            style=self.metadata.style,
            executors=self.metadata.executors,
            interface="c" if self.header else "packed",
            operators=self._operator_style(main),
            code=Code(language=self._language(), object=self.object_code),
            inputs=self._inputs(),
            outputs=self._outputs(main),
            pools=self._pools(),
            devices=self.header.devices if self.header else (),
            entrypoints=self._entrypoints(main),
            allocator_bytes=self._allocator_bytes(main),
            constants_bytes=self._constants_bytes(),
            metadata=self.metadata,
            graph=self.graph,
            sources=self.sources,
            objects=self.objects,
            includes=self._named("include"),
            header=self._header_member() if self.header else None,
            parameters=next(iter(self._named("parameters")), None),
            tests=(),
            defined=self.symbols.union(*map(csource.global_functions, self.texts)),
            maps_io=self.header.maps_io if self.header else False,
            call=None,
            io_places=(),
            has_registry=any(csource.has_registry(text) for text in self.texts),
            is_partial=self.is_partial,
            findings=(),
        )
        whole = self._declared(self._completed(module))
        plain = self.plain[main.name] if main else None
        return replace(
            whole, unordered=() if whole.metadata.declared else tuple(sorted(self.unordered)), findings=tuple(self.findings), io_places=self._io_places(whole),
            call=self._with_ranks(whole, find_call(whole, self.wrapper, plain, is_packed=main.is_packed if main else False)),
        )  # fmt: skip

    def _completed(self, module: Module) -> Module:
        """Fill in what only objects tell of outputs."""
        if not self.asserted or module.graph:
            return module
        outputs = (replace(item, dtype=item.dtype or self._asserted(item, "dtype")) for item in module.outputs)
        return replace(module, outputs=tuple(outputs))

    def _asserted(self, tensor: Tensor, what: str) -> str | None:
        """Give what the code of objects insists on, if all that checks a tensor of this name insists on the same."""
        mains = {function for function, _ in self.asserted if function.endswith("__tvm_main__")}
        functions = (*sorted(mains), "arg")  # main may have had another name when the object was made
        names = (
            (tensor.c_name, "output") if tensor.c_name == "output0" else (tensor.c_name,)
        )  # as main calls the only one
        keys = ((function, f"{name}.{what}") for function in functions for name in names)
        found = next((self.asserted[key] for key in keys if key in self.asserted), set())
        return next(iter(found)) if len(found) == 1 else None

    def _with_rank(self, module: Module, item: Argument) -> Argument:
        if item.kind not in ("input", "output"):
            return item
        rank = self._asserted((module.inputs if item.kind == "input" else module.outputs)[item.index], "ndim")
        return replace(item, rank=int(rank)) if rank and rank.isdecimal() else item

    def _with_ranks(self, module: Module, call: MainCall | None) -> MainCall | None:
        if call is None or not self.asserted:
            return call
        return replace(call, arguments=tuple(self._with_rank(module, item) for item in call.arguments))

    def _io_places(self, module: Module) -> tuple[IoPlace, ...]:
        """Find in which pools inputs and outputs lie where the caller does not pass them."""
        if not module.maps_io:
            return ()
        pools = {pool.name: index for index, pool in enumerate(module.pools)}
        places: list[IoPlace] = []
        for kind, tensors in (("inputs", module.inputs), ("outputs", module.outputs)):
            found = self._io_map(kind)
            for tensor in tensors:
                pool, offset = found.get(tensor.c_name, ("", 0))
                if pool in pools:
                    places.append(IoPlace(pool=pools[pool], offset_bytes=offset))
        return tuple(places) if len(places) == len(module.inputs) + len(module.outputs) else ()

    def _gather(self) -> None:
        self.sources = tuple(sorted(self._named("source"), key=layout.source_order))
        self.objects = tuple(sorted(self._named("object"), key=layout.source_order))
        self.texts = [self._source(name) for name in self.sources]
        self.functions: dict[str, csource.Function] = {}
        for text in self.texts:
            self.functions.update(csource.functions(text))
        self.symbols: frozenset[str] = frozenset()
        self.needs: frozenset[str] = frozenset()
        self.object_code: ObjectCode | None = None
        self.checks_arguments = False
        self.asserted: dict[tuple[str, str], set[str]] = {}
        self._read_objects()
        self.header = self._header()
        self.wrapper = next(filter(None, (csource.parse_wrapper(text, self.run) for text in self.texts)), None)
        self.relay_text = next((self._text(name) for name in self._named("ir")), "")
        self.graph = self._graph()
        self.main = self._main()
        self.plain = csource.plain_functions(self.functions)
        self.descriptor = next(filter(None, map(csource.parse_descriptor, self.texts)), None)
        self.counts = self._counts()
        self.is_linked = any("__tvm_param__" in text for text in self.texts)
        self.typed = self._typed()
        self.c_names = {kind: self._unique_names(kind) for kind in ("inputs", "outputs")}
        self.said = {kind: self._said(kind) for kind in ("inputs", "outputs")}
        self.said_sizes = {kind: {item.size_bytes for _, item in said.values()} for kind, said in self.said.items()}

    def _named(self, role: str) -> tuple[str, ...]:
        return tuple(item.name for item in self.members if item.role == role)

    def _text(self, name: str, limit: int = _TEXT_BYTES) -> str:
        size = self.archive.size_bytes(name)
        if size > limit:
            raise ArchiveError(
                f"member {name!r} has {size} bytes; at most {limit} are allowed", where=self.archive.label
            )
        return self.archive.read_text(name)

    def _source(self, name: str) -> str:
        size = self.archive.size_bytes(name)
        if self.is_thorough or size <= LARGE_SOURCE_BYTES:
            return self.archive.read_text(name)
        self.is_partial = True
        tail = self.archive.read(name, offset=size - _TAIL_BYTES).decode("utf-8", "replace")
        # TVM prints all constants first, so a tail that begins inside one holds every function.
        self.lacks_functions |= not csource.begins_in_constant(tail)
        return tail

    def _read_objects(self) -> None:
        """Read the symbols and the machine of the objects; large ones are left unless the reader is thorough."""
        small = [
            name for name in self.objects if self.is_thorough or self.archive.size_bytes(name) <= LARGE_SOURCE_BYTES
        ]
        self.is_partial |= len(small) < len(self.objects)
        if not small:
            return
        from mlf.objects.ar import objects_of  # noqa: PLC0415

        for name in small:
            data = self.archive.read(name)
            try:
                items = objects_of(data, name)
            except ObjectError as error:
                raise ObjectError(
                    f"{error.where}: {error.message}", where=self.archive.label, hint=error.hint
                ) from error
            for item in items:
                self.object_code = _object_code(item)
                self.symbols |= frozenset(item.symbols.defined_names())
                self.needs |= frozenset(item.symbols.undefined_names())
            self.checks_arguments |= _PACKED_CHECK in data
            for found in _ASSERTED.finditer(data):
                function, tensor, what, value = (found[key].decode() for key in ("function", "tensor", "what", "value"))
                self.asserted.setdefault((function, f"{tensor}.{what}"), set()).add(value)

    def _header_member(self) -> str:
        wanted = header_name(self.metadata.name)
        return next((name for name in self._named("include") if name.rpartition("/")[2] == wanted), "")

    def _header(self) -> csource.HeaderFacts | None:
        name = self._header_member()
        if not name:
            return None
        header = csource.parse_header(self._text(name), self.prefix.lower())
        if header is None:
            raise SourceError(f"{name} declares no `struct {self.prefix.lower()}_inputs`", where=self.archive.label)
        return header

    def _main(self) -> csource.Function | None:
        names = [self.wrapper.main] if self.wrapper else []
        names += [f"{self.prefix}___tvm_main__", f"{self.prefix}_run_model", "tvm__run_func"]
        return next((self.functions[name] for name in names if name in self.functions), None)

    def _entrypoints(self, main: csource.Function | None) -> dict[str, str]:
        """Find the functions of the code that a caller may want, by what they are for."""
        if self.graph or self.metadata.style == "operator":
            known = {}
        elif self.header:
            known = {"run": self.run, "main": main.name if main else f"{self.prefix}___tvm_main__"}
        else:
            own = (
                self.run,
                mangle(self.metadata.name, "tvm_module_main"),
            )  # TVM's name, and the one that mlf generates
            packed = [name for name in own if name in self._defined()]
            packed += [main.name] if main and main.is_packed else []
            packed += [f"{self.prefix}___tvm_main__"] if self.checks_arguments else []
            known = {"tvm_module_main": packed[0]} if packed else {}
            known |= {"main": main.name} if main else {}
        known |= {
            "get_c_metadata": f"{self.prefix}_get_c_metadata", "map_inputs": f"{self.prefix}_map_inputs",
            "map_outputs": f"{self.prefix}_map_outputs", "lookup_linked_param": "_lookup_linked_param",
        }  # fmt: skip
        certain = {"run", "map_inputs", "map_outputs"} if self.header and self.header.maps_io else {"run"}
        found = {role: name for role, name in known.items() if name in self._defined() or role in certain}
        return found | ({"descriptor": self.descriptor.name} if self.descriptor else {})

    def _defined(self) -> frozenset[str]:
        return frozenset(self.functions) | self.symbols

    def _operator_style(self, main: csource.Function | None) -> str | None:
        """Tell how operators are called; None where there are objects alone, and they do not tell."""
        known = list(self.functions.values())
        if main:
            called = set(re.findall(r"\w+", main.body))
            known = [main, *(function for function in known if function.name in called)]
        if known:
            return "packed" if any(function.is_packed for function in known) else "unpacked"
        if self.header:  # TVM never put packed operators behind it
            return "unpacked"
        return "packed" if self.checks_arguments else None

    def _language(self) -> str:
        if not self.sources and self.objects:
            return "object"
        return "c++" if any(not name.endswith(".c") for name in self.sources) else "c"

    def _graph(self) -> Graph | None:
        name = next(iter(self._named("graph")), None)
        if name is None:
            return None
        document = load_json(self._text(name, limit=_GRAPH_BYTES), where=f"{self.archive.label}: {name}")
        return parse_graph(document, where=self.archive.label, name=name)

    def _typed(self) -> tuple[tuple[csource.TypedTensor, ...], tuple[csource.TypedTensor, ...]]:
        """Find typed inputs and outputs in call order: the graph's, those of `get_c_metadata`, Relay's."""
        relay = csource.parse_relay(self.relay_text)
        if self.graph:
            weights = self._parameter_names()
            inputs = tuple(
                csource.TypedTensor(name=item.name, dtype=item.dtype, shape=item.shape)
                for item in self.graph.arguments
                if item.name not in weights
            )
            outputs = (csource.TypedTensor(name="", dtype=item.dtype, shape=item.shape) for item in self.graph.outputs)
            return inputs, tuple(outputs)
        described = None if self.header else next(filter(None, map(csource.parse_c_metadata, self.texts)), None)
        if described:
            return _with_own_names(described[0], relay[0]), tuple(replace(item, name="") for item in described[1])
        return self._relay_inputs(relay[0]), relay[1]

    def _counts(self) -> tuple[int, int] | None:
        """Count inputs and outputs where no header names them: what a descriptor says, or what main's operators write."""
        if self.descriptor:
            return self.descriptor.input_count, self.descriptor.output_count
        if self.header or self.main is None or self.lacks_functions:
            return None
        main = self.plain[self.main.name]
        names = [item.name for item in main.parameters if not POOL_PARAMETER.fullmatch(item.name)]
        if len(names) > _MOST_SEARCHED_OUTPUTS:
            return None
        written = [csource.is_output(self.plain, main, name) for name in names]
        return None if None in written else (written.count(False), written.count(True))

    def _relay_inputs(self, tensors: tuple[csource.TypedTensor, ...]) -> tuple[csource.TypedTensor, ...]:
        """Give Relay's parameters, if they are the inputs; where weights are among them, nothing tells which."""
        said, count = self.metadata.inputs, self.counts[0] if self.counts else len(tensors)
        if self.header or said or count >= len(tensors):
            return tensors
        names = ("input",) if count == 1 else tuple(f"input{index}" for index in range(count))
        return tuple(csource.TypedTensor(name=name, dtype="", shape=None) for name in names)

    def _parameter_names(self) -> frozenset[str]:
        """Name the weights of a graph: in the file for them, or linked into the code."""
        linked = {name for text in self.texts for name in re.findall(r"\b__tvm_param__(\w+)\[", text)}
        for member in self._named("parameters"):
            from mlf.params import read_names  # noqa: PLC0415  # numpy

            linked |= set(read_names(self.archive.read(member, size_bytes=LARGE_SOURCE_BYTES), where=f"{self.archive.label}: {member}"))  # fmt: skip
        return frozenset(linked)

    def _said(self, kind: str) -> dict[str, tuple[str, TensorMetadata]]:
        """Find what metadata says of the tensors of a kind by their C names, with the names that they have."""
        tensors: Mapping[str, TensorMetadata] = getattr(self.metadata, kind) or {}
        fields: tuple[str, ...] = getattr(self.header, kind) if self.header else ()
        if kind == "outputs" and sorted(tensors) == sorted(_generic(len(fields))):  # TVM 0.11 called all outputs so
            names = _generic(len(fields))
            return {field: (field, tensors[name]) for field, name in zip(fields, names, strict=True)}
        return {self._c_name(kind, name): (name, tensor) for name, tensor in tensors.items()}

    def _c_name(self, kind: str, name: str) -> str:
        """Give the C name of a tensor; behind the packed interface two of a kind may come to one, which a number tells apart."""
        return self.c_names[kind].get(name) or sanitize_tensor_name(name)

    def _unique_names(self, kind: str) -> dict[str, str]:
        if self.header:  # TVM refused to write one
            return {}
        typed = [tensor.name for tensor in self.typed[0]] if kind == "inputs" else []
        declared: Mapping[str, TensorMetadata] = getattr(self.metadata, kind) or {}
        unique: dict[str, str] = {}
        known = declared or [*typed, *csource.relay_output_names(self.relay_text)]
        order = {name: index for index, name in enumerate(typed)}
        for name in sorted(dict.fromkeys(known), key=lambda name: order.get(name, len(order))):
            plain = c_name = sanitize_tensor_name(name)
            number = 1
            while c_name in unique.values():
                c_name, number = f"{plain}_{number}", number + 1
            unique[name] = c_name
        return unique

    def _parameters(self, main: csource.Function | None) -> dict[tuple[str, str], csource.Parameter]:
        """Find the parameter of main for each field of the C interface's structs, which the wrapper may reorder."""
        if main is None:
            return {}
        if self.header and self.header.maps_io:
            return self._variables(main)
        order = self.wrapper or self.header
        names = {kind: getattr(order, kind) if order else self._typed_names(kind) for kind in ("inputs", "outputs")}
        fields = [(kind, name) for kind in ("inputs", "outputs") for name in names[kind]]
        return dict(zip(fields, self.plain[main.name].parameters, strict=False))

    def _variables(self, main: csource.Function) -> dict[tuple[str, str], csource.Parameter]:
        """Find the variable of main for each tensor that lies in a pool."""
        variables = csource.pool_variables(main.body)
        found = {}
        for kind in ("inputs", "outputs"):
            for field, place in self._io_map(kind).items():
                if place in variables:
                    found[kind, field] = csource.Parameter(name=variables[place], dtype=None)
        return found

    def _io_map(self, kind: str) -> dict[str, tuple[str, int]]:
        """Read in which pool each input or output lies, and where."""
        function = mangle(self.metadata.name, f"map_{kind}")
        return {key: value for text in self.texts for key, value in csource.parse_io_map(text, function).items()}

    def _inputs(self) -> tuple[Tensor, ...]:
        by_name = {tensor.name: tensor for tensor in self.typed[0]}
        by_c_name: dict[str, csource.TypedTensor | None] = {}
        for tensor in self.typed[0]:  # weights are parameters too, and one may share an input's C name
            c_name = self._c_name("inputs", tensor.name)
            by_c_name[c_name] = None if c_name in by_c_name else tensor
        tensors = []
        for c_name in self._order("inputs"):
            name, _ = self.said["inputs"].get(c_name, ("", None))
            known = by_name.get(name) or by_c_name.get(c_name)
            parameter = self.parameters.get(("inputs", c_name))
            code = csource.Extent(dtype=parameter.dtype, elements=0) if parameter and parameter.dtype else None
            tensors.append(self._tensor("inputs", c_name, known, code))
        return tuple(tensors)

    def _outputs(self, main: csource.Function | None) -> tuple[Tensor, ...]:
        results = self.typed[1]
        order = self._order("outputs")
        if not self.header and order != self._typed_names("outputs"):
            results = ()  # whose place in the call nothing tells
        tensors = []
        for index, c_name in enumerate(order):
            known = results[index] if len(results) == len(order) else None
            parameter = self.parameters.get(("outputs", c_name))
            code = None
            if main and parameter and parameter.name and index < _MOST_SEARCHED_OUTPUTS:
                code = csource.output_extent(self.plain, self.plain[main.name], parameter.name)
            tensors.append(self._tensor("outputs", c_name, known, code))
        return tuple(tensors)

    def _order(self, kind: str) -> tuple[str, ...]:
        """Give the struct fields of `inputs` or `outputs` in their order, which metadata loses: its is alphabetical."""
        declared = self.said[kind]
        if self.header:
            fields: tuple[str, ...] = getattr(self.header, kind)
            called: tuple[str, ...] = getattr(self.wrapper, kind) if self.wrapper else fields
            if sorted(called) != sorted(fields) and not self.header.maps_io:
                raise SourceError(
                    f"{self.run} passes the {kind} {', '.join(called)}, the header declares {', '.join(fields)}",
                    where=self.archive.label,
                )
            self._compare_names(kind, fields)
            return fields
        known = self._typed_names(kind)
        ordered = tuple(name for name in dict.fromkeys(known) if name in declared or not declared)
        if len(ordered) == len(declared) or not declared:
            return ordered
        self.unordered |= {kind} if len(declared) > 1 else set()
        return tuple(declared)

    def _typed_names(self, kind: str) -> tuple[str, ...]:
        """Give C names in call order where no header tells them."""
        if self.metadata.style == "operator":
            return ()
        if kind == "inputs":
            return tuple(self._c_name(kind, tensor.name) for tensor in self.typed[0])
        own = tuple(self._c_name(kind, name) for name in csource.relay_output_names(self.relay_text))
        count = len(self.said["outputs"]) or len(self.typed[1]) or (self.counts[1] if self.counts else 0)
        generic = [own, _generic(count), ("output0",)]
        return next((names for names in generic if names and set(names) >= set(self.said["outputs"])), ())

    def _compare_names(self, kind: str, fields: Sequence[str]) -> None:
        names = sorted(getattr(self.metadata, kind) or {})
        if names and sorted(fields) != sorted(map(sanitize_tensor_name, names)):
            self.findings.append(
                Finding(kind="tensor-names", place=kind, said=", ".join(names), code=", ".join(fields))
            )

    def _tensor(self, kind: str, c_name: str, known: csource.TypedTensor | None, code: csource.Extent | None) -> Tensor:
        """Weigh what Relay's types, the code, the header's macros and metadata say, in this order of trust."""
        name, declared = self.said[kind].get(c_name, (known.name if known and known.name else c_name, None))
        dtypes = [known.dtype if known else None, code.dtype if code else None, declared.dtype if declared else None]
        dtype = next((item for item in dtypes if item), None)
        width = csource.DTYPE_SIZES_BYTES.get(dtype or "")
        written = code.elements * width if code and code.elements and width else None
        evidence = known.size_bytes if known and known.size_bytes is not None else written
        sizes = [evidence, self._macro_size(kind, c_name), declared.size_bytes if declared else None]
        size = next((item for item in sizes if item is not None), None)
        if declared:
            self._compare(f"{kind}.{name}", declared, dtype, size)
        self._compare_macro(f"{kind}.{name} macro", c_name, declared, evidence)
        return Tensor(name=name, c_name=c_name, dtype=dtype, shape=known.shape if known else None, size_bytes=size)

    def _macro(self, c_name: str) -> int | None:
        return self.header.macros.get(macro(self.metadata.name, c_name, "SIZE")) if self.header else None

    def _macro_size(self, kind: str, c_name: str) -> int | None:
        """Give the size that the header's macro says; TVM 0.11 printed garbage there, which metadata betrays."""
        size = self._macro(c_name)
        _, declared = self.said[kind].get(c_name, ("", None))
        said = {declared.size_bytes} if declared else self.said_sizes[kind]
        return size if size is not None and size >= 0 and (not said or size in said) else None

    def _compare(self, place: str, declared: TensorMetadata, dtype: str | None, size: int | None) -> None:
        if dtype != declared.dtype:
            self.findings.append(
                Finding(kind="tensor-dtype", place=place, said=declared.dtype, code=dtype or "nothing")
            )
        if size != declared.size_bytes:
            self._finding("tensor-size", place, declared.size_bytes, size)

    def _compare_macro(self, place: str, c_name: str, declared: TensorMetadata | None, evidence: int | None) -> None:
        said = self._macro(c_name)
        if said is not None and evidence is not None and said != evidence:
            self._finding("macro-size", place, said, evidence, source="the header")
        if said is not None and evidence is None and declared and said != declared.size_bytes:
            self._finding("macro-size", place, declared.size_bytes, said)

    def _pools(self) -> tuple[Pool, ...]:
        internal = [
            Pool(
                name=pool.name, kind=kind, size_bytes=pool.size_bytes, alignment_bytes=pool.alignment_bytes, is_internal=True
            )
            for kind, find in (("workspace", csource.internal_pools), ("constant", csource.constant_pools))
            for text in self.texts
            for pool in find(text)
        ]  # fmt: skip
        external = [self._external_pool(name) for name in self.header.pools] if self.header else []
        return (*internal, *external, *self._unpassed_pools({pool.name for pool in internal}))

    def _unpassed_pools(self, internal: set[str]) -> Iterator[Pool]:
        """Give the pools that main takes and no wrapper passes: TVM forgot them behind the packed interface."""
        if self.header or self.main is None:
            return
        sizes = {name: size for text in self.texts for name, size in csource.pool_sizes(text).items()}
        for parameter in self.plain[self.main.name].parameters:
            found = POOL_PARAMETER.fullmatch(parameter.name)
            if found is None or found["pool"] is None or found["pool"] in internal:
                continue
            yield Pool(
                name=found["pool"], kind="workspace", size_bytes=sizes.get(found["whole"]), is_internal=False,
                alignment_bytes=csource.WORKSPACE_ALIGNMENT_BYTES,
            )  # fmt: skip

    def _external_pool(self, name: str) -> Pool:
        header = self.header
        macros, data = (header.macros, header.pool_data) if header else ({}, {})
        constant = macro(self.metadata.name, name, "CONSTANT_POOL_SIZE")
        is_constant = constant in macros
        size = macros.get(constant if is_constant else macro(self.metadata.name, name, "WORKSPACE_POOL_SIZE"))
        content = data.get(macro(self.metadata.name, name), b"") if is_constant else b""
        if content and len(content) != size:
            raise SourceError(
                f"{self._header_member()} has {len(content)} bytes for the constant pool `{name}`, its size is {size}",
                where=self.archive.label,
            )
        return Pool(
            name=name,
            kind="constant" if is_constant else "workspace",
            size_bytes=size if size is not None and size >= 0 else None,
            alignment_bytes=csource.WORKSPACE_ALIGNMENT_BYTES,
            is_internal=False,
            data=content,
        )

    def _allocator_bytes(self, main: csource.Function | None) -> int | None:
        if self.objects and (self.is_partial or _ALLOCATOR in self.needs):
            return None
        if self.lacks_functions:
            return 0 if self._is_planned() else None
        allocating = [text for text in self.texts if _ALLOCATED.search(text)]
        if not allocating:
            return 0
        if any(csource.global_functions(text) - self.functions.keys() for text in allocating):
            return None  # who allocates is of a form that is not read
        starts = [main.name] if main else list(self.graph.operators if self.graph else self.metadata.operators)
        needs = [csource.allocator_need(self.functions, name) for name in starts]
        leasts = [csource.allocator_need(self.functions, name, alignment=1) for name in starts]
        least = max((item for item in leasts if item is not None), default=None)
        said = self.metadata.workspace_bytes
        if least is not None and said is not None and said < least:
            self._finding("workspace-size", "workspace", said, least)
        known = [item for item in needs if item is not None]
        return max(known) if known and len(known) == len(needs) else None

    def _finding(self, kind: str, place: str, said: int | None, code: int | None, source: str = METADATA_NAME) -> None:
        self.findings.append(Finding(kind=kind, place=place, said=_bytes(said), code=_bytes(code), source=source))

    def _is_planned(self) -> bool:
        """Tell whether memory is in pools, and nothing that was read allocates; TVM plans all memory or none."""
        pools = any(pool.kind == "workspace" for pool in self._pools())
        return pools and not any(f"{_ALLOCATOR}(" in text for text in self.texts)

    def _constants_bytes(self) -> int | None:
        if self.objects and not self.graph:
            return None
        if self.is_partial:  # only version 8 tells it in a way that can be believed
            return self.metadata.constants_bytes if self.metadata.declared else None
        if self.graph and not self.is_linked:
            inputs = {tensor.name for tensor in self.typed[0]}
            sizes = [item.size_bytes for item in self.graph.arguments if item.name not in inputs]
            weights = None if None in sizes else sum(size or 0 for size in sizes)
        else:
            weights = 0
        return None if weights is None else weights + sum(csource.constant_bytes(text) for text in self.texts)

    def _declared(self, module: Module) -> Module:
        """Put the facts of version 8 in the place of those that were found, and note where they differ."""
        facts = self.metadata.declared
        if facts is None:
            return module
        # A header keeps what it said, as every member does; readers of version 8 need not believe it.
        self.findings = [item for item in self.findings if item.kind == "macro-size"] + list(
            _differences(facts, module)
        )
        data = {pool.name: pool.data for pool in module.pools}
        return replace(
            module,
            interface=facts.interface,
            operators=facts.operators,
            code=facts.code,
            inputs=facts.inputs,
            outputs=facts.outputs,
            pools=tuple(replace(pool, data=data.get(pool.name, b"")) for pool in facts.pools),
            entrypoints=facts.entrypoints,
            tests=facts.tests,
        )


_ALLOCATED = re.compile(rf"(?<!\bvoid\* ){_ALLOCATOR}\(")  # a call, not a declaration


def _object_code(item: ElfObject) -> ObjectCode:
    """Say which machine an object is for."""
    from mlf.objects.abi import object_abi  # noqa: PLC0415  # numpy

    machine, (abi, float_abi) = item.machine, object_abi(item)
    return ObjectCode(
        machine=machine.name, bits=64 if machine.is_64 else 32, byte_order="big" if machine.is_big_endian else "little", abi=abi,
        float_abi=float_abi,
    )  # fmt: skip


def _with_own_names(
    described: tuple[csource.TypedTensor, ...], relay: tuple[csource.TypedTensor, ...]
) -> tuple[csource.TypedTensor, ...]:
    """Give tensors that bear C names the names that Relay has for them, where it has the same tensors."""
    if [item.name for item in described] != [sanitize_tensor_name(item.name) for item in relay]:
        return described
    return tuple(replace(item, name=own.name) for item, own in zip(described, relay, strict=True))


def _generic(count: int) -> tuple[str, ...]:
    """Name outputs as TVM does where the model has no names for them."""
    return ("output",) if count == 1 else tuple(f"output{index}" for index in range(count))


def _differences(facts: DeclaredFacts, module: Module) -> Iterable[Finding]:
    """List where what version 8 says of a module is not what its code says; what the code does not say is no difference."""
    pairs: list[tuple[str, str, object, object]] = [
        ("api-interface", "api.interface", facts.interface, module.interface),
        ("api-operators", "api.operators", facts.operators, module.operators),
        ("object-code", "code.object", facts.code.object, module.code.object),
    ]
    for kind in ("inputs", "outputs"):
        said: tuple[Tensor, ...] = getattr(facts, kind)
        found: tuple[Tensor, ...] = getattr(module, kind)
        if module.header is None:  # then the code often has the order, and never the names
            places = {tensor.c_name: index for index, tensor in enumerate(said)}
            found = tuple(sorted(found, key=lambda tensor: places.get(tensor.c_name, len(places))))  # used at once
        pairs.append(("tensor-names", kind, _names(said), _names(found)))
        if _names(said) == _names(found):
            for ours, theirs in zip(said, found, strict=True):
                place = f"{kind}.{ours.name}"
                pairs += [
                    ("tensor-dtype", place, ours.dtype, theirs.dtype),
                    ("tensor-size", place, ours.size_bytes, theirs.size_bytes),
                    ("tensor-shape", place, ours.shape, theirs.shape),
                ]
    pools = {pool.name: pool for pool in module.pools}
    for pool in facts.pools:
        found_pool = pools.get(pool.name)
        if found_pool is None and not module.is_partial:
            pairs.append(("pool-missing", f"pools.{pool.name}", "a pool", "none"))
        if found_pool:
            place = f"pools.{pool.name}"
            pairs.append(("pool-size", place, pool.size_bytes, found_pool.size_bytes))
            pairs.append(("pool-kind", place, _pool_kind(pool), _pool_kind(found_pool)))
    declared = {pool.name for pool in facts.pools}
    pairs += [("pool-missing", f"pools.{name}", "none", "a pool") for name in sorted(pools.keys() - declared)]
    for kind, place, stated, read in pairs:
        if stated != read and read is not None and read != "":
            yield Finding(kind=kind, place=place, said=_shown(stated), code=_shown(read))


def _pool_kind(pool: Pool) -> str:
    return f"{pool.kind}, {'inside the code' if pool.is_internal else 'passed by the caller'}"


def _names(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(tensor.c_name for tensor in tensors)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value)) or "scalar"
    if isinstance(value, int) and not isinstance(value, bool):
        return _bytes(value)
    return str(value)


def _bytes(size: int | None) -> str:
    return "nothing" if size is None else f"{size} bytes"
