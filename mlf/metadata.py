"""`metadata.json` of the Model Library Format: what each version says, as one value.

The keys of versions 1 to 7 are those that TVM's `model_library_format.py` wrote between March 2021 and December 2024, among
them what it added without a new number; version 8 is described in `schemas/README.md`.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlf.errors import UnsupportedError
from mlf.naming import C_IDENTIFIER
from mlf.strictjson import Node, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

READABLE_VERSIONS = (1, 2, 3, 4, 5, 6, 7, 8)
LATEST_VERSION = READABLE_VERSIONS[-1]
ROLES = ("source", "include", "object", "parameters", "graph", "ir", "test", "runtime", "template", "other")
STYLES = ("full-model", "operator")
# What version 8 adds to a module of version 7.
V8_MODULE_KEYS = ("api", "code", "entrypoints", "inputs", "outputs", "pools", "tests")
_MAX_EXTENTS = 64  # dimensions of a tensor; no compiler makes ten
_DTYPE = re.compile(r"[a-z]+[a-z0-9_]*")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_IDENTITY = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """How the integers of a tensor stand for real numbers: (integer - zero_point) * scale."""

    scale: float
    zero_point: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output in its place of the call; None where nothing tells."""

    name: str
    c_name: str
    dtype: str | None
    shape: tuple[int, ...] | None
    size_bytes: int | None
    quantization: Quantization | None = None


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
class ObjectCode:
    """The machine that a module's objects are for, as their ELF headers and attributes say."""

    machine: str
    bits: int
    byte_order: str
    abi: str | None
    float_abi: str | None

    def __str__(self) -> str:
        parts = [f"{self.bits}-bit {self.byte_order}-endian {self.machine}", self.abi]
        parts.append(f"{self.float_abi} floats" if self.float_abi else None)
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What a module's code is written in, and how it is compiled.

    `language` is `c`, `c++` or `object`; `definitions` are macros with their values.
    """

    language: str
    definitions: tuple[tuple[str, str], ...] = ()
    object: ObjectCode | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenTest:
    """Golden inputs and outputs of a module, members that numpy wrote, and how far a run may be from them."""

    name: str
    inputs: str
    outputs: str
    rtol: float
    atol: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorMetadata:
    """What versions 1 to 7 say of an input or output: its dtype and size; the order of tensors is lost."""

    dtype: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferMetadata:
    """What an operator-style archive says of a parameter of a function; inputs and outputs are not told apart."""

    size_bytes: int
    shape: tuple[int, ...]
    dtype: str
    name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredFacts:
    """What version 8 says of a module on top of version 7."""

    interface: str
    operators: str | None
    code: Code
    entrypoints: Mapping[str, str]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    pools: tuple[Pool, ...]
    tests: tuple[GoldenTest, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleMetadata:
    """What metadata says of one module; None where a version or a release does not say it.

    `operators` are the functions that it lists, `operator_workspaces` the bytes that it says they allocate, `buffers` their parameters in an operator-style archive. `document` holds
    the module's keys as version 7 spells them.
    """

    name: str
    style: str
    executors: tuple[str, ...]
    targets: tuple[str, ...]
    workspace_bytes: int | None
    constants_bytes: int | None
    inputs: Mapping[str, TensorMetadata] | None
    outputs: Mapping[str, TensorMetadata] | None
    operators: tuple[str, ...]
    operator_workspaces: Mapping[str, int]
    buffers: Mapping[str, tuple[BufferMetadata, ...]]
    document: Mapping[str, object]
    declared: DeclaredFacts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """What version 8 says of a member: its content by digest, its role, and the module that it belongs to."""

    path: str
    size_bytes: int
    sha256: str
    role: str
    module: str | None

    def document(self) -> dict[str, object]:
        """Give it as metadata.json holds it."""
        return {
            "module": self.module, "path": self.path, "role": self.role, "sha256": self.sha256, "size_bytes": self.size_bytes,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """A whole `metadata.json`; `members` is None before version 8. `document` is the decoded text."""

    version: int
    modules: tuple[ModuleMetadata, ...]
    members: tuple[Descriptor, ...] | None
    identity: str | None
    document: Mapping[str, object]


def identity_of(document: Mapping[str, object]) -> str:
    """Give the identity of a version-8 document: the digest of all that it says, except which program wrote it.

    It covers every member by digest, and no compression or order of the tar changes it.
    """
    covered = {key: value for key, value in document.items() if key not in ("generator", "identity")}
    text = json.dumps(covered, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def parse_metadata(document: object, *, where: str) -> Metadata:
    """Read a decoded `metadata.json`.

    Raises MetadataError, naming the place in the document, where it is not what its version must be, and UnsupportedError
    for a version or style that nobody knows.
    """
    node = Node(document, where=where, document="metadata.json")
    version = node.integer("version")
    if version not in READABLE_VERSIONS:
        known = f"{READABLE_VERSIONS[0]} to {READABLE_VERSIONS[-1]}"
        raise UnsupportedError(f"metadata.json has version {version}; versions {known} can be read", where=where)
    members = tuple(_descriptor(item) for item in node.children("members")) if version >= 8 else None
    identity = node.text("identity", _IDENTITY, "`sha256:` and 64 hexadecimal digits") if version >= 8 else None
    return Metadata(
        version=version, modules=_modules(node, version), members=members, identity=identity, document=node.value
    )


def _modules(node: Node, version: int) -> tuple[ModuleMetadata, ...]:
    is_flat = version < 7 or (version == 7 and _style(node) == "operator")
    if is_flat:  # one module, its keys at the top
        return (_module(node, node.text("model_name"), version),)
    modules = node.child("modules")
    names = sorted(modules.keys())
    if not names:
        node.fail("`modules` is empty, expected at least one module")
    return tuple(_module(modules.child(name), name, version) for name in names)


def _workspace(operator: Node) -> int:
    """Give the largest workspace of an operator; it is listed by device."""
    if "workspace" not in operator:
        return 0
    sizes = [item.optional_size("workspace_size_bytes") for item in operator.children("workspace")]
    return max((size for size in sizes if size is not None), default=0)


def _style(node: Node) -> str:
    style = node.text("style") if "style" in node else "full-model"  # version 4 introduced it
    if style not in STYLES:
        raise UnsupportedError(
            f"metadata.json has the style {shown(style)}; `full-model` and `operator` can be read", where=node.where
        )
    return style


def _module(node: Node, name: str, version: int) -> ModuleMetadata:
    style = _style(node)
    document = _as_version_7(node, version)
    current = Node(document, where=node.where, document=node.document, path=node.path)
    memory = current.child("memory")
    functions = memory.child("functions") if style == "full-model" and "functions" in memory else None
    mains = functions.children("main") if functions else []
    main = mains[0] if mains else None
    if main:
        main.optional_size("io_size_bytes")  # nobody needs it, but damaged is damaged
    operators = functions.children("operator_functions") if functions else []
    buffers = {key: _buffers(memory, key) for key in sorted(memory.keys())} if style == "operator" else {}
    return ModuleMetadata(
        name=name,
        style=style,
        executors=current.texts("executors"),
        targets=current.texts("target"),
        workspace_bytes=main.optional_size("workspace_size_bytes") if main else None,
        constants_bytes=main.optional_size("constants_size_bytes") if main else None,
        inputs=_tensors(main, "inputs"),
        outputs=_tensors(main, "outputs"),
        operators=tuple(operator.text("function_name") for operator in operators) or tuple(buffers),
        operator_workspaces={operator.text("function_name"): _workspace(operator) for operator in operators},
        buffers=buffers,
        document=document,
        declared=_declared(node) if version >= 8 else None,
    )


def _as_version_7(node: Node, version: int) -> dict[str, object]:
    """Give a module's keys with the names and types that version 7 has for them; unknown keys stay."""
    dropped = V8_MODULE_KEYS if version >= 8 else () if node.path else ("version",)
    document = {key: value for key, value in node.value.items() if key not in dropped}
    document.setdefault("style", "full-model")
    if version < 5:
        node.texts("runtimes")
        document["executors"] = document.pop("runtimes")
    if version < 6:
        document["target"] = _target_list(node)
    elif "target" not in document:
        document["target"] = []
    if version == 1:
        node.children("memory")
        document["memory"] = {"sids": document["memory"]} if document.get("memory") else {}
    return document


def _target_list(node: Node) -> list[object]:
    """Give the targets of an object keyed by device numbers, which `target` was before version 6, in their order."""
    if "target" not in node:
        return []
    targets = node.child("target")
    for key in targets.keys():  # noqa: SIM118  # a method of ours
        targets.text(key)
    return [targets.value[key] for key in sorted(targets.keys(), key=_device_order)]


def _device_order(key: str) -> tuple[int, str]:
    return len(key), key  # as numbers, whatever stands there


def _tensors(main: Node | None, key: str) -> dict[str, TensorMetadata] | None:
    if main is None or key not in main:
        return None
    table = main.child(key)
    return {
        name: TensorMetadata(dtype=table.child(name).text("dtype"), size_bytes=table.child(name).size("size"))
        for name in sorted(table.keys())
    }


def _buffers(memory: Node, key: str) -> tuple[BufferMetadata, ...]:
    return tuple(
        BufferMetadata(
            size_bytes=item.size("size_bytes"),
            shape=item.shape("shape") or (),
            dtype=item.text("dtype"),
            name=None if item.is_null("input_binding") else item.text("input_binding"),
        )
        for item in memory.children(key)
    )


def _descriptor(node: Node) -> Descriptor:
    role = node.text("role")
    if role not in ROLES:
        node.refuse(node.at("role"), role, f"one of {', '.join(ROLES)}")
    return Descriptor(
        path=node.text("path"), size_bytes=node.size("size_bytes"), sha256=node.text("sha256", _DIGEST, "64 hexadecimal digits"),
        role=role, module=None if node.is_null("module") else node.text("module"),
    )  # fmt: skip


def _declared(node: Node) -> DeclaredFacts:
    api, entrypoints = node.child("api"), node.child("entrypoints")
    return DeclaredFacts(
        interface=_choice(api, "interface", ("c", "packed")),
        operators=None if api.is_null("operators") else _choice(api, "operators", ("unpacked", "packed")),
        code=_code(node.child("code")),
        entrypoints={role: _identifier(entrypoints, role) for role in sorted(entrypoints.keys())},
        inputs=tuple(tensor_of(item) for item in node.children("inputs")),
        outputs=tuple(tensor_of(item) for item in node.children("outputs")),
        pools=tuple(pool_of(item) for item in node.children("pools")),
        tests=tuple(_golden(item) for item in node.children("tests")),
    )


def _choice(node: Node, key: str, choices: tuple[str, ...]) -> str:
    value = node.text(key)
    if value not in choices:
        node.refuse(node.at(key), value, " or ".join(f"`{choice}`" for choice in choices))
    return value


def _identifier(node: Node, key: str) -> str:
    return node.text(key, C_IDENTIFIER, "a C identifier")


def _code(node: Node) -> Code:
    definitions = node.child("definitions") if "definitions" in node else None
    for name in definitions.keys() if definitions else []:
        if not C_IDENTIFIER.fullmatch(name):
            node.refuse(f"a key of {node.at('definitions')}", name, "a C identifier")
    return Code(
        language=_choice(node, "language", ("c", "c++", "object")),
        definitions=tuple((name, definitions.text(name)) for name in sorted(definitions.keys())) if definitions else (),
        object=None if node.is_null("object") else _object_code(node.child("object")),
    )


def _object_code(node: Node) -> ObjectCode:
    bits = node.integer("bits")
    if bits not in (32, 64):
        node.refuse(node.at("bits"), bits, "32 or 64")
    return ObjectCode(
        machine=node.text("machine"), bits=bits, byte_order=_choice(node, "byte_order", ("little", "big")),
        abi=None if node.is_null("abi") else node.text("abi"), float_abi=None if node.is_null("float_abi") else node.text("float_abi"),
    )  # fmt: skip


def tensor_of(node: Node) -> Tensor:
    """Read a tensor of version 8, which documents of libraries spell in the same way."""
    shape = node.shape("shape")
    if shape is not None and len(shape) > _MAX_EXTENTS:
        node.fail(f"{node.at('shape')} has {len(shape)} extents; at most {_MAX_EXTENTS} are allowed")
    return Tensor(
        name=node.text("name"),
        c_name=_identifier(node, "c_name"),
        dtype=None if node.is_null("dtype") else node.text("dtype", _DTYPE, "a dtype"),
        shape=shape,
        size_bytes=node.optional_size("size_bytes"),
        quantization=None if node.is_null("quantization") else _quantization(node.child("quantization")),
    )


def _quantization(node: Node) -> Quantization:
    return Quantization(scale=node.number("scale"), zero_point=node.integer("zero_point"))


def pool_of(node: Node) -> Pool:
    """Read a pool of version 8."""
    alignment = node.size("alignment_bytes")
    if alignment.bit_count() != 1:
        node.refuse(node.at("alignment_bytes"), alignment, "a power of two")
    return Pool(
        name=_identifier(node, "name"),
        kind=_choice(node, "kind", ("workspace", "constant")),
        size_bytes=node.optional_size("size_bytes"),
        alignment_bytes=alignment,
        is_internal=node.boolean("is_internal"),
    )


def _golden(node: Node) -> GoldenTest:
    rtol, atol = node.number("rtol"), node.number("atol")
    for key, value in (("rtol", rtol), ("atol", atol)):
        if value < 0:
            node.refuse(node.at(key), value, "a tolerance")
    return GoldenTest(
        name=node.text("name"), inputs=node.text("inputs"), outputs=node.text("outputs"), rtol=rtol, atol=atol
    )


def tensor_document(tensor: Tensor) -> dict[str, Any]:
    """Describe an input or output as version 8 and the documents of libraries do."""
    document: dict[str, Any] = {
        "c_name": tensor.c_name,
        "dtype": tensor.dtype,
        "name": tensor.name,
        "shape": list(tensor.shape) if tensor.shape is not None else None,
        "size_bytes": tensor.size_bytes,
    }
    if tensor.quantization:
        document["quantization"] = {
            "scale": tensor.quantization.scale,
            "zero_point": tensor.quantization.zero_point,
        }
    return document


def pool_document(pool: Pool) -> dict[str, Any]:
    """Describe a pool as version 8 and the documents of libraries do."""
    return {
        "alignment_bytes": pool.alignment_bytes,
        "is_internal": pool.is_internal,
        "kind": pool.kind,
        "name": pool.name,
        "size_bytes": pool.size_bytes,
    }


def code_document(code: Code) -> dict[str, Any]:
    """Describe a module's code as version 8 does."""
    machine = code.object
    document: dict[str, Any] = {"language": code.language, "object": None}
    if machine:
        document["object"] = {
            "abi": machine.abi, "bits": machine.bits, "byte_order": machine.byte_order, "float_abi": machine.float_abi,
            "machine": machine.machine,
        }  # fmt: skip
    if code.definitions:
        document["definitions"] = dict(code.definitions)
    return document


def declared_document(facts: DeclaredFacts) -> dict[str, Any]:
    """Give the keys that version 8 adds to a module."""
    document: dict[str, Any] = {
        "api": {"interface": facts.interface, "operators": facts.operators},
        "code": code_document(facts.code),
        "entrypoints": dict(sorted(facts.entrypoints.items())),
        "inputs": [tensor_document(tensor) for tensor in facts.inputs],
        "outputs": [tensor_document(tensor) for tensor in facts.outputs],
        "pools": [pool_document(pool) for pool in facts.pools],
    }
    if facts.tests:
        document["tests"] = [golden_document(test) for test in facts.tests]
    return document


def golden_document(test: GoldenTest) -> dict[str, Any]:
    """Describe golden data as version 8 does."""
    return {"atol": test.atol, "inputs": test.inputs, "name": test.name, "outputs": test.outputs, "rtol": test.rtol}
