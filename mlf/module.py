"""One compiled model, whatever the version and the release that wrote its archive.

Facts are taken from the code where the code has them: the order of tensors from the header's structs and the wrapper's
call, sizes from Relay's types, macros and the loops that write a tensor, pools and workspace from their definitions. What
metadata says otherwise is kept as a finding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlf import csource
from mlf.archive import METADATA_NAME, load_json
from mlf.errors import ArchiveError, SourceError
from mlf.metadata import parse_metadata
from mlf.naming import header_name, macro, mangle, mangle_model, sanitize_tensor_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlf.archive import Archive
    from mlf.metadata import ModuleMetadata, TensorMetadata

SOURCE_DIRECTORY = "codegen/host/src/"
OBJECT_DIRECTORY = "codegen/host/lib/"
INCLUDE_DIRECTORY = "codegen/host/include/"
# Weights as text make a source member large; `inspect` reads the end of such a member, where TVM prints the main function.
LARGE_SOURCE_BYTES = 1 << 20
_TAIL_BYTES = 512 << 10
# Each output costs a pass over the main function; no compiled model has this many.
_MOST_SEARCHED_OUTPUTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output in its place of the call; None where neither code nor metadata tells."""

    name: str
    c_name: str
    dtype: str | None
    shape: tuple[int, ...] | None
    size_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A named piece of memory: `workspace` or `constant`, inside the code or passed by the caller."""

    name: str
    kind: str
    size_bytes: int | None
    alignment_bytes: int
    is_internal: bool
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A fact on which metadata, or a macro of the header, and the code disagree."""

    place: str
    said: str
    code: str
    source: str = METADATA_NAME

    def __str__(self) -> str:
        return f"{self.place}: {self.source} says {self.said}, the code says {self.code}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A compiled model of an archive.

    `allocator_bytes` is what it asks of TVMBackendAllocWorkspace at most, with each block rounded up to 16 bytes: 0 if it
    never asks, None if the code does not tell. `sources` and `objects` are member names.
    """

    name: str
    version: int
    archive: str
    executors: tuple[str, ...]
    interface: str
    operators: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    pools: tuple[Pool, ...]
    devices: tuple[str, ...]
    entrypoints: Mapping[str, str]
    allocator_bytes: int | None
    constants_bytes: int | None
    metadata: ModuleMetadata
    sources: tuple[str, ...]
    objects: tuple[str, ...]
    header: str | None
    maps_io: bool
    findings: tuple[Finding, ...]

    @property
    def workspace_bytes(self) -> int | None:
        """The memory that the model needs while it runs: its workspace pools and what it allocates."""
        sizes = [pool.size_bytes for pool in self.pools if pool.kind == "workspace"] + [self.allocator_bytes]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else self.metadata.workspace_bytes

    @property
    def memory_styles(self) -> tuple[str, ...]:
        """How workspace reaches the model: `internal`, `external`, `allocator`, any of them together, or none."""
        workspace = [pool for pool in self.pools if pool.kind == "workspace"]
        styles = [
            ("internal", any(pool.is_internal for pool in workspace)),
            ("external", any(not pool.is_internal for pool in workspace)),
            ("allocator", self.allocator_bytes != 0),
        ]
        return tuple(style for style, used in styles if used)


def read_modules(archive: Archive, *, is_thorough: bool = False) -> tuple[Module, ...]:
    """Read the modules of an archive, sorted by name.

    Members over a MiB are read in part unless `is_thorough`; nothing is executed or compiled. Raises ArchiveError,
    MetadataError or SourceError.
    """
    if METADATA_NAME not in archive:
        raise ArchiveError("has no metadata.json, so it is no Model Library Format archive", where=archive.label)
    document = load_json(archive.read_text(METADATA_NAME), where=archive.label)
    metadata = parse_metadata(document, where=archive.label)
    return tuple(
        _Reader(archive, metadata.version, module, is_thorough=is_thorough).read() for module in metadata.modules
    )


class _Reader:
    """Gathers the evidence on one module and weighs it."""

    def __init__(self, archive: Archive, version: int, metadata: ModuleMetadata, *, is_thorough: bool) -> None:
        self.archive = archive
        self.version = version
        self.metadata = metadata
        self.is_thorough = is_thorough
        self.is_partial = False
        self.lacks_functions = False
        self.findings: list[Finding] = []
        self.prefix = mangle_model(metadata.name)
        self.run = mangle(metadata.name, "run")

    def read(self) -> Module:
        self.sources = self._members(SOURCE_DIRECTORY, r"(?:c|cc|cpp)")
        objects = self._members(OBJECT_DIRECTORY, r"o")
        self.texts = [self._source(name) for name in self.sources]
        self.functions: dict[str, csource.Function] = {}
        for text in self.texts:
            self.functions.update(csource.functions(text))
        self.header = self._header()
        self.wrapper = next(filter(None, (csource.parse_wrapper(text, self.run) for text in self.texts)), None)
        self.relay = self._relay()
        self.said = {kind: self._said(kind) for kind in ("inputs", "outputs")}
        self.said_sizes = {kind: {item.size_bytes for _, item in said.values()} for kind, said in self.said.items()}
        main = self._main()
        self.parameters = self._parameters(main)
        return Module(
            name=self.metadata.name,
            version=self.version,
            archive=self.archive.label,
            executors=self.metadata.executors,
            interface="c" if self.header else "packed",
            operators="packed" if self._has_packed_operators(main) else "unpacked",
            inputs=self._inputs(),
            outputs=self._outputs(main),
            pools=self._pools(),
            devices=self.header.devices if self.header else (),
            entrypoints=self._entrypoints(main),
            allocator_bytes=self._allocator_bytes(main, objects),
            constants_bytes=None if self.is_partial else sum(csource.constant_bytes(text) for text in self.texts),
            metadata=self.metadata,
            sources=self.sources,
            objects=objects,
            header=self._header_member() if self.header else None,
            maps_io=self.header.maps_io if self.header else False,
            findings=tuple(self.findings),
        )

    def _members(self, directory: str, extension: str) -> tuple[str, ...]:
        """Find the members `<module>_lib<N>.<extension>` of this module, in the order of N."""
        pattern = re.compile(rf"{re.escape(directory)}{re.escape(self.metadata.name)}_lib(\d+)\.{extension}")
        found = [
            (int(m[1]), m[0]) for m in map(pattern.fullmatch, (member.name for member in self.archive.members)) if m
        ]
        return tuple(name for _, name in sorted(found))

    def _source(self, name: str) -> str:
        size = next(member.size_bytes for member in self.archive.members if member.name == name)
        if self.is_thorough or size <= LARGE_SOURCE_BYTES:
            return self.archive.read_text(name)
        self.is_partial = True
        tail = self.archive.read(name, offset=size - _TAIL_BYTES).decode("utf-8", "replace")
        # TVM prints all constants first, so a tail that begins inside one holds every function.
        self.lacks_functions |= not csource.begins_in_constant(tail)
        return tail

    def _header_member(self) -> str:
        return INCLUDE_DIRECTORY + header_name(self.metadata.name)

    def _header(self) -> csource.HeaderFacts | None:
        name = self._header_member()
        if name not in self.archive:
            return None
        header = csource.parse_header(self.archive.read_text(name), self.prefix.lower())
        if header is None:
            raise SourceError(f"{name} declares no `struct {self.prefix.lower()}_inputs`", where=self.archive.label)
        return header

    def _main(self) -> csource.Function | None:
        names = [self.wrapper.main] if self.wrapper else []
        names += [f"{self.prefix}___tvm_main__", f"{self.prefix}_run_model"]
        return next((self.functions[name] for name in names if name in self.functions), None)

    def _entrypoints(self, main: csource.Function | None) -> dict[str, str]:
        found = {"run": self.run} if self.header or self.run in self.functions else {}
        return found | ({"main": main.name} if main else {})

    def _has_packed_operators(self, main: csource.Function | None) -> bool:
        return any(function.is_packed for function in ([main] if main else self.functions.values()))

    def _relay(self) -> tuple[tuple[csource.RelayTensor, ...], tuple[csource.RelayTensor, ...]]:
        for name in (f"src/{self.metadata.name}.relay", "src/relay.txt"):
            if name in self.archive:
                return csource.parse_relay(self.archive.read_text(name))
        return (), ()

    def _said(self, kind: str) -> dict[str, tuple[str, TensorMetadata]]:
        """Find what metadata says of the tensors of a kind by their C names, with the names that they have."""
        tensors: Mapping[str, TensorMetadata] = getattr(self.metadata, kind) or {}
        fields: tuple[str, ...] = getattr(self.header, kind) if self.header else ()
        generic = ["output"] if len(fields) == 1 else [f"output{index}" for index in range(len(fields))]
        if kind == "outputs" and sorted(tensors) == sorted(generic):  # TVM 0.11 called all outputs so
            return {field: (field, tensors[name]) for field, name in zip(fields, generic, strict=True)}
        return {sanitize_tensor_name(name): (name, tensor) for name, tensor in tensors.items()}

    def _parameters(self, main: csource.Function | None) -> dict[tuple[str, str], csource.Parameter]:
        """Find the parameter of main for each field of the C interface's structs, which the wrapper may reorder."""
        if self.header is None or main is None or main.is_packed or self.header.maps_io:
            return {}
        order = self.wrapper or self.header
        fields = [("inputs", name) for name in order.inputs] + [("outputs", name) for name in order.outputs]
        return dict(zip(fields, main.parameters, strict=False))

    def _inputs(self) -> tuple[Tensor, ...]:
        by_name = {tensor.name: tensor for tensor in self.relay[0]}
        by_c_name: dict[str, csource.RelayTensor | None] = {}
        for tensor in self.relay[0]:  # weights are parameters too, and one may share an input's C name
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
        results = self.relay[1]
        order = self._order("outputs")
        tensors = []
        for index, c_name in enumerate(order):
            known = results[index] if len(results) == len(order) else None
            parameter = self.parameters.get(("outputs", c_name))
            code = None
            if main and parameter and parameter.name and index < _MOST_SEARCHED_OUTPUTS:
                code = csource.output_extent(self.functions, main, parameter.name)
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
        relay = tuple(sanitize_tensor_name(tensor.name) for tensor in self.relay[0]) if kind == "inputs" else ()
        ordered = tuple(name for name in dict.fromkeys(relay) if name in declared)
        return ordered if len(ordered) == len(declared) else tuple(declared)

    def _compare_names(self, kind: str, fields: Sequence[str]) -> None:
        names = sorted(getattr(self.metadata, kind) or {})
        if names and sorted(fields) != sorted(map(sanitize_tensor_name, names)):
            self.findings.append(Finding(place=kind, said=", ".join(names), code=", ".join(fields)))

    def _tensor(self, kind: str, c_name: str, known: csource.RelayTensor | None, code: csource.Extent | None) -> Tensor:
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
            self.findings.append(Finding(place=place, said=declared.dtype, code=dtype or "nothing"))
        if size != declared.size_bytes:
            self.findings.append(Finding(place=place, said=_bytes(declared.size_bytes), code=_bytes(size)))

    def _compare_macro(self, place: str, c_name: str, declared: TensorMetadata | None, evidence: int | None) -> None:
        said = self._macro(c_name)
        if said is not None and evidence is not None and said != evidence:
            self.findings.append(Finding(place=place, said=_bytes(said), code=_bytes(evidence), source="the header"))
        if said is not None and evidence is None and declared and said != declared.size_bytes:
            self.findings.append(Finding(place=place, said=_bytes(declared.size_bytes), code=_bytes(said)))

    def _pools(self) -> tuple[Pool, ...]:
        internal = [
            Pool(
                name=pool.name,
                kind="workspace",
                size_bytes=pool.size_bytes,
                alignment_bytes=pool.alignment_bytes,
                is_internal=True,
            )
            for text in self.texts
            for pool in csource.internal_pools(text)
        ]
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

    def _allocator_bytes(self, main: csource.Function | None, objects: tuple[str, ...]) -> int | None:
        if objects:
            return None
        if self.lacks_functions:
            return 0 if self._is_planned() else None
        if not any("TVMBackendAllocWorkspace(" in function.body for function in self.functions.values()):
            return 0
        need = csource.allocator_need(self.functions, main.name) if main else None
        least = csource.allocator_need(self.functions, main.name, alignment=1) if main else None
        said = self.metadata.workspace_bytes
        if least is not None and said is not None and said < least:
            self.findings.append(Finding(place="workspace", said=_bytes(said), code=_bytes(least)))
        return need

    def _is_planned(self) -> bool:
        """Tell whether memory is in pools, and nothing that was read allocates; TVM plans all memory or none."""
        pools = any(pool.kind == "workspace" for pool in self._pools())
        return pools and not any("TVMBackendAllocWorkspace(" in text for text in self.texts)


def _bytes(size: int | None) -> str:
    return "nothing" if size is None else f"{size} bytes"
