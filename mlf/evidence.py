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
from mlf.errors import ArchiveError, ObjectError, SourceError
from mlf.graph import parse_graph
from mlf.metadata import Code, ObjectCode, Pool, Tensor
from mlf.module import Finding, Module
from mlf.naming import header_name, macro, mangle, mangle_model, sanitize_tensor_name
from mlf.strictjson import load_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlf.archive import Archive
    from mlf.graph import Graph
    from mlf.metadata import DeclaredFacts, ModuleMetadata, TensorMetadata

# Weights as text make a source member large; `inspect` reads the end of such a member, where TVM prints the main function.
LARGE_SOURCE_BYTES = 1 << 20
_TAIL_BYTES = 512 << 10
# Of what is parsed whole in Python: headers and Relay text, whose weights are elsewhere, and the graph's JSON.
_TEXT_BYTES = 16 << 20
_GRAPH_BYTES = 4 << 20
# Each output costs a pass over the main function; no compiled model has this many.
_MOST_SEARCHED_OUTPUTS = 64
_ALLOCATOR = "TVMBackendAllocWorkspace"
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
            has_registry=any(csource.has_registry(text) for text in self.texts),
            is_partial=self.is_partial,
            findings=(),
        )
        return replace(self._declared(module), findings=tuple(self.findings))

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
        names = [name for name in self.objects if name.endswith(".o")]
        small = [name for name in names if self.is_thorough or self.archive.size_bytes(name) <= LARGE_SOURCE_BYTES]
        self.is_partial |= len(small) < len(self.objects)
        if not small:
            return
        from mlf.objects.abi import object_abi  # noqa: PLC0415  # numpy
        from mlf.objects.elf import parse_object  # noqa: PLC0415

        for name in small:
            data = self.archive.read(name)
            try:
                item = parse_object(data, name)
            except ObjectError as error:
                raise ObjectError(
                    f"{error.where}: {error.message}", where=self.archive.label, hint=error.hint
                ) from error
            machine, (abi, float_abi) = item.machine, object_abi(item)
            self.object_code = ObjectCode(
                machine=machine.name, bits=64 if machine.is_64 else 32, byte_order="big" if machine.is_big_endian else "little",
                abi=abi, float_abi=float_abi,
            )  # fmt: skip
            self.checks_arguments |= _PACKED_CHECK in data
            self.symbols |= frozenset(item.symbols.defined_names())
            self.needs |= frozenset(item.symbols.undefined_names())

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
        found = {role: name for role, name in known.items() if name in self._defined() or role == "run"}
        return found | ({"descriptor": self.descriptor.name} if self.descriptor else {})

    def _defined(self) -> frozenset[str]:
        return frozenset(self.functions) | self.symbols

    def _operator_style(self, main: csource.Function | None) -> str | None:
        """Tell how operators are called; None where there are objects alone, and they do not tell."""
        known = [main] if main else list(self.functions.values())
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
            return described[0], tuple(replace(item, name="") for item in described[1])
        return self._relay_inputs(relay[0]), relay[1]

    def _counts(self) -> tuple[int, int] | None:
        """Count inputs and outputs where no header names them: what a descriptor says, or what main's operators write."""
        if self.descriptor:
            return self.descriptor.input_count, self.descriptor.output_count
        if self.header or self.main is None or self.lacks_functions:
            return None
        main = self.plain[self.main.name]
        names = [item.name for item in main.parameters if not _POOL_PARAMETER.fullmatch(item.name)]
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
        return {sanitize_tensor_name(name): (name, tensor) for name, tensor in tensors.items()}

    def _parameters(self, main: csource.Function | None) -> dict[tuple[str, str], csource.Parameter]:
        """Find the parameter of main for each field of the C interface's structs, which the wrapper may reorder."""
        if main is None or (self.header and self.header.maps_io):
            return {}
        order = self.wrapper or self.header
        names = {kind: getattr(order, kind) if order else self._typed_names(kind) for kind in ("inputs", "outputs")}
        fields = [(kind, name) for kind in ("inputs", "outputs") for name in names[kind]]
        return dict(zip(fields, self.plain[main.name].parameters, strict=False))

    def _inputs(self) -> tuple[Tensor, ...]:
        by_name = {tensor.name: tensor for tensor in self.typed[0]}
        by_c_name: dict[str, csource.TypedTensor | None] = {}
        for tensor in self.typed[0]:  # weights are parameters too, and one may share an input's C name
            c_name = sanitize_tensor_name(tensor.name)
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
        return ordered if len(ordered) == len(declared) or not declared else tuple(declared)

    def _typed_names(self, kind: str) -> tuple[str, ...]:
        """Give C names in call order where no header tells them."""
        if self.metadata.style == "operator":
            return ()
        if kind == "inputs":
            return tuple(sanitize_tensor_name(tensor.name) for tensor in self.typed[0])
        own = tuple(map(sanitize_tensor_name, csource.relay_output_names(self.relay_text)))
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
        return (*internal, *external)

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
        if not any(_ALLOCATED.search(text) for text in self.texts):
            return 0
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
        if self.is_partial or (self.objects and not self.graph):
            return None
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


_POOL_PARAMETER = re.compile(r"\w+_[0-9]+_var|device_context_\w+")  # which main takes beside tensors
_ALLOCATED = re.compile(rf"(?<!\bvoid\* ){_ALLOCATOR}\(")  # a call, not a declaration


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
