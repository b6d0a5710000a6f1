"""One compiled model of an archive, whatever the version and the release that wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlf.archive import METADATA_NAME
from mlf.csource import WORKSPACE_ALIGNMENT_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlf.graph import Graph
    from mlf.metadata import Code, GoldenTest, ModuleMetadata, Pool, Tensor

_OBJECT_ALIGNMENTS_BYTES = {"x86-64": 64, "i386": 64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A fact on which two of an archive's parts disagree.

    `kind` says which fact; `said` is what `source` says, `code` what the code does.
    """

    kind: str
    place: str
    said: str
    code: str
    source: str = METADATA_NAME

    def __str__(self) -> str:
        return f"{self.place}: {self.source} says {self.said}, the code says {self.code}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """What a model's main function is given at one place: which of the module's inputs, outputs, pools or devices.

    `kind` is `input`, `output`, `pool` or `device`, or `program`: memory for a program of which mlf made the main function.
    `rank` is the number of dimensions that the code insists on, where it says so.
    """

    kind: str
    index: int
    rank: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MainCall:
    """How a module's code is entered.

    `convention` is `unpacked` (pointers to data), `packed` (TVM's packed arguments, each a DLTensor) or `structs` (the C
    interface's own, for which there is no list of arguments).
    """

    function: str
    convention: str
    arguments: tuple[Argument, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IoPlace:
    """Where an input or output lies that has no memory of its own: which of the module's pools, and the offset in it."""

    pool: int
    offset_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A compiled model of an archive, or the functions of an operator-style one.

    `allocator_bytes` is what it asks of TVMBackendAllocWorkspace at most, with each block rounded up to 16 bytes: 0 if it
    never asks, None if the code does not tell. `operators` is None where only objects could tell and do not. `sources`,
    `objects`, `includes`, `header` and `parameters` are member names; `defined` are the functions that the code defines.
    `call` is None where no function runs the whole model, or none was found; `io_places` tells of each input and then of
    each output in which pool it lies, if they lie there. `unordered` are `inputs` or `outputs` whose order nothing tells.
    """

    name: str
    version: int
    archive: str
    style: str
    executors: tuple[str, ...]
    interface: str
    operators: str | None
    code: Code
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    pools: tuple[Pool, ...]
    devices: tuple[str, ...]
    entrypoints: Mapping[str, str]
    allocator_bytes: int | None
    constants_bytes: int | None
    metadata: ModuleMetadata
    graph: Graph | None
    sources: tuple[str, ...]
    objects: tuple[str, ...]
    includes: tuple[str, ...]
    header: str | None
    parameters: str | None
    tests: tuple[GoldenTest, ...]
    defined: frozenset[str]
    maps_io: bool
    call: MainCall | None
    io_places: tuple[IoPlace, ...]
    has_registry: bool
    is_partial: bool
    findings: tuple[Finding, ...]
    unordered: tuple[str, ...] = ()

    @property
    def alignment_bytes(self) -> int:
        """How memory for its tensors must be aligned.

        TVM's LLVM code generator trusts in the alignment that TVM's own allocator gives; vectors of x86 fault without it.
        """
        return _OBJECT_ALIGNMENTS_BYTES.get(
            self.code.object.machine if self.code.object else "", WORKSPACE_ALIGNMENT_BYTES
        )

    @property
    def workspace_bytes(self) -> int | None:
        """The memory that the model needs while it runs: its workspace pools, its executor's storage, what it allocates."""
        sizes = [pool.size_bytes for pool in self.pools if pool.kind == "workspace"] + [self.allocator_bytes]
        if self.graph:
            sizes.append(self.graph.storage_bytes)
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else self.metadata.workspace_bytes

    @property
    def memory_styles(self) -> tuple[str, ...]:
        """How workspace reaches the model: `internal`, `external`, `allocator`, `executor`, any of them together, or none."""
        workspace = [pool for pool in self.pools if pool.kind == "workspace"]
        styles = [
            ("internal", any(pool.is_internal for pool in workspace)),
            ("external", any(not pool.is_internal for pool in workspace)),
            ("allocator", self.allocator_bytes != 0),
            ("executor", self.graph is not None),
        ]
        return tuple(style for style, used in styles if used)
