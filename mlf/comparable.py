"""What an archive says, in a form that can be compared: facts as rows of tables, weights and functions by digest.

Functions are free of white space, comments and the model's name; weights are found in C arrays, pools of constants and
`.params` alike; objects are their loaded sections.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from mlf import csource
from mlf.archive import open_archive
from mlf.arrays import read_arrays
from mlf.constants import MAX_HEAD_CHARS, lift_constants
from mlf.converter import original_name
from mlf.errors import ObjectError
from mlf.metadata import LATEST_VERSION, READABLE_VERSIONS
from mlf.naming import mangle_model
from mlf.objects import ar, elf
from mlf.params import parse_params
from mlf.reading import member_places, read_metadata, read_modules
from mlf.strictjson import load_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mlf.archive import Archive
    from mlf.layout import Place
    from mlf.metadata import GoldenTest, Tensor
    from mlf.module import Module

    Facets = Mapping[str, str | None]

_SINCE_VERSION_8 = ("definition", "test")  # what no older version can say
_ROLES_OF_MODULES = ("source", "include", "object", "parameters", "graph", "ir")
_ORIGINALS = frozenset(map(original_name, READABLE_VERSIONS))
_SHORT_DIGITS = 8  # of a digest, to a reader
SHOWN_CHARACTERS = 80  # of a declaration
_MOST_CODE_CHARACTERS = 16 << 20  # without constants no compiled model has a tenth; longer text is compared as one
_POOL_ALIGNMENT_BYTES = 16  # between the constants of a pool

_LITERAL = r"\"[^\"\\\n]*(?:\\.[^\"\\\n]*)*\"?|'[^'\\\n]*(?:\\.[^'\\\n]*)*'?"
_COMMENT = re.compile(rf"({_LITERAL})|//[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_BLOCK_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)", re.DOTALL)
_RELAY_VERSION = re.compile(r"\A\s*#\[version = [^\]\n]*\]")
_LINKAGE = re.compile(r"^[ \t]*#[ \t]*ifdef __cplusplus\s+(?:extern \"C\"[\s{]*|\}\s*)#[ \t]*endif", re.MULTILINE)
_EVENT = re.compile(rf"{_LITERAL}|^[ \t]*#[^\n]*|[{{}};]", re.DOTALL | re.MULTILINE)
_TRANSPARENT = re.compile(r"extern \"C\"|(?:inline )?namespace(?: \w+)?")
_SPACE = re.compile(r"\s+")
_SPACED_MARK = re.compile(r" ?([^\w ]) ?")
_WHITE = dict.fromkeys(map(ord, " \t\r\n\f\v"))
_ATTRIBUTE = re.compile(r"__attribute__\(\([^;{}]{0,200}?\)\)")
_CALLED = re.compile(r"\b(\w+)\(")
_EXPORTED = re.compile(r"^(?:TVM_DLL |extern\"C\" ?)+")
_LIFTED = re.compile(r"__asm__\(\"(mlf\.const\.[^\"]*)\"\)")
_ARRAY = re.compile(r"\b(\w+) (\w+)((?:\[[0-9]+\])+)")
_INTERNAL_POOL = re.compile(r"static uint8_t (\w+)\[[0-9]+\]")
_POOL_CUT = re.compile(r"void\*(\w+)=\(&\((\w+?)_[0-9]{1,9}_var\[([0-9]{1,12})\]\)\)")
_DESCRIPTION = "kTvmgenMetadata"  # what `get_c_metadata` gives is a copy of facts that are compared anyway
_HEADER_FACT = re.compile(r"#define \w+_(?:SIZE -?[0-9]+|CONSTANT_POOL_DATA\b.*)|struct tvmgen_\w+\{[^{}]*\}")


@dataclass(slots=True, kw_only=True)
class Table:
    """Facts by kind and place; a facet is None where the archive does not tell it.

    `silent` are the kinds of which the absence says nothing. The number in a key tells places of one name apart.
    """

    rows: dict[tuple[str, str, int], Facets] = field(default_factory=dict)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    silent: set[str] = field(default_factory=set)

    def add(self, kind: str, place: str, facets: Facets) -> None:
        """Add a row; rows of one kind and place are told apart by their number."""
        self.counts[kind, place] += 1
        self.rows[kind, place, self.counts[kind, place]] = facets


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A weight: by digest of its bytes, and by one that trailing zeros do not change.

    `source` is a source member, a constant pool that the caller passes, or `""` for the file of parameters, where names
    have a meaning. `identifier` is what code calls it. A pool does not tell a dtype, nor where the padding begins.
    """

    source: str
    identifier: str
    dtype: str | None
    shape: tuple[int, ...] | None
    size_bytes: int
    digest: str
    stripped: str

    @property
    def name(self) -> str:
        """Its name without what TVM put around it."""
        return self.identifier.removeprefix("__tvm_param__").removesuffix("_let")

    @property
    def padded_bytes(self) -> int:
        """Its size in a pool."""
        return self.size_bytes + -self.size_bytes % _POOL_ALIGNMENT_BYTES

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape)) if self.shape else None
        words = (self.dtype, shape, f"{self.size_bytes} bytes sha256 {self.digest[:_SHORT_DIGITS]}")
        return " ".join(word for word in words if word)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleFacts:
    """What is compared of a module. `functions` have (source, text) by name; `declarations` are those of a place."""

    module: Module
    table: Table
    weights: tuple[Weight, ...]
    functions: Mapping[str, Sequence[tuple[str, str]]]
    declarations: Mapping[str, frozenset[str]]
    symbols: frozenset[str]

    @property
    def is_opaque(self) -> bool:
        """Tell whether objects hide weights and functions."""
        return _is_opaque(self.module)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """An archive: its modules by name, and the digests of its other members by role and name."""

    label: str
    version: int
    modules: Mapping[str, ModuleFacts]
    files: Mapping[str, Mapping[str, str]]


def read_side(path: Path) -> Side:
    """Read all that is compared of an archive; raises what `open_archive` and `read_modules` raise, and TensorError."""
    with open_archive(path) as archive:
        metadata = read_metadata(archive)
        places = member_places(archive, metadata)
        modules = read_modules(archive, is_thorough=True, metadata=metadata)
        own: dict[str | None, list[Place]] = defaultdict(list)
        for place in places:
            own[place.module].append(place)
        facts = {module.name: _Reader(archive, module, own[module.name]).read() for module in modules}
        known = {name for module in modules for test in module.tests for name in (test.inputs, test.outputs)}
        return Side(
            label=archive.label, version=metadata.version, modules=facts, files=_files(archive, places, set(facts), known)
        )  # fmt: skip


def _files(archive: Archive, places: Iterable[Place], modules: set[str], known: set[str]) -> dict[str, dict[str, str]]:
    """Digest the members that are compared as bytes: those that are no module's code, weights or tests."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for place in places:
        is_read = place.module in modules and place.role in _ROLES_OF_MODULES
        if is_read or place.name in known or place.name in _ORIGINALS:
            continue
        digest = hashlib.sha256()
        for chunk in archive.chunks(place.name):
            digest.update(chunk)
        found[place.role][_own_name(place.name, place.module)] = digest.hexdigest()
    return found


def _own_name(name: str, module: str | None) -> str:
    """Give a member's name without the name of its module in front of the file's."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + (file.removeprefix(f"{module}_") if module else file)


class _Reader:
    """Reads what is compared of one module of an open archive."""

    def __init__(self, archive: Archive, module: Module, places: Sequence[Place]) -> None:
        self.archive = archive
        self.module = module
        self.places = places
        self.table = Table()
        self.weights: list[Weight] = []
        self.functions: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self.declarations: dict[str, set[str]] = defaultdict(set)
        self.symbols: set[str] = set()
        self.arrays: dict[str, dict[str, str]] = {}
        self.pools = {pool.name for pool in module.pools if pool.is_internal}
        name = mangle_model(module.name)
        words = {re.escape(word) for word in (name, name.lower(), name.upper())}
        self._model_name = re.compile(rf"\b(?:{'|'.join(sorted(words))})(?=_|\.h\b)")

    def read(self) -> ModuleFacts:
        self._facts()
        for name in self.module.sources:
            self._source(name)
        self._headers()
        self._pool_weights()
        for name in self._named("parameters"):
            self._parameters(name)
        for name in self.module.objects:
            self._object(name)
        self._graph_and_ir()
        for test in self.module.tests:
            self._test(test)
        code = frozenset(
            item for item in self.declarations.pop("code", set()) if _function_name(item) not in self.functions
        )
        headers = {place: frozenset(items) for place, items in self.declarations.items()}
        return ModuleFacts(
            module=self.module, table=self.table, weights=tuple(self.weights), functions=self.functions,
            declarations={"code": code, **headers}, symbols=frozenset(self.symbols),
        )  # fmt: skip

    def _named(self, role: str) -> list[str]:
        return [place.name for place in self.places if place.role == role]

    def _neutral(self, words: str) -> str:
        """Take the model's name out of the names of its code."""
        return self._model_name.sub(lambda found: "TVMGEN" if found[0].isupper() else "tvmgen", words)

    def _facts(self) -> None:
        module, add = self.module, self.table.add
        add("style", "style", {"": module.style})
        add("executor", "executors", {"": ", ".join(sorted(module.executors)) or "none"})
        add("target", "targets", {"": "; ".join(map(str.strip, module.metadata.targets)) or None})
        add("api", "interface", {"": module.interface})
        add("api", "operators", {"": module.operators})
        add("api", "devices", {"": ", ".join(module.devices) or "none"})
        add("api", "registry", {"": "in the code" if module.has_registry else "none"})
        add("code", "language", {"": module.code.language})
        for name, value in module.code.definitions:
            add("definition", name, {"": value})
        for role, symbol in module.entrypoints.items():
            add("entrypoint", role, {"": self._neutral(symbol).removeprefix("tvmgen_")})
        self._machine()
        self._memory()
        self._tensors()

    def _machine(self) -> None:
        machine = self.module.code.object
        if machine:
            facets = {
                "machine": machine.machine, "class": f"{machine.bits}-bit", "order": f"{machine.byte_order}-endian",
                "abi": machine.abi, "floats": machine.float_abi,
            }  # fmt: skip
            self.table.add("machine", "objects", facets)

    def _memory(self) -> None:
        module, add = self.module, self.table.add
        for pool in module.pools:
            holder = "inside the code" if pool.is_internal else "passed by the caller"
            alignment = _bytes(pool.alignment_bytes)
            facets = {"": pool.kind, "size": _bytes(pool.size_bytes), "alignment": alignment, "place": holder}
            add("pool", pool.name, facets)
        is_hidden = module.allocator_bytes is None or (_is_opaque(module) and not module.graph)  # in objects
        style = None if is_hidden else " and ".join(module.memory_styles) or "none"
        size = None if is_hidden and not module.workspace_bytes else module.workspace_bytes
        add("workspace", "workspace", {"size": _bytes(size), "style": style})
        passed = [pool.size_bytes or 0 for pool in module.pools if pool.kind == "constant" and not pool.is_internal]
        constants = None if module.constants_bytes is None else module.constants_bytes + sum(passed)
        add("constants", "constants", {"size": _bytes(constants)})

    def _tensors(self) -> None:
        module = self.module
        for kind, tensors in (("input", module.inputs), ("output", module.outputs)):
            for tensor in tensors:
                self.table.add(kind, tensor.c_name, _tensor_facets(tensor))
        for function, buffers in module.metadata.buffers.items():
            for index, buffer in enumerate(buffers):
                facets = {
                    "dtype": buffer.dtype,
                    "shape": _shape(buffer.shape),
                    "size": _bytes(buffer.size_bytes),
                    "name": buffer.name,
                }
                self.table.add("buffer", f"{self._neutral(function)}[{index}]", facets)
        if dependencies := module.metadata.document.get("external_dependencies"):
            canonical = json.dumps(dependencies, sort_keys=True)
            self.table.add("dependency", "external_dependencies", {"": f"sha256 {shortened(canonical)}"})
        self._silences()

    def _silences(self) -> None:
        """Say of which facts the absence tells nothing: older versions have no place for them, objects hide them."""
        module = self.module
        if module.version >= LATEST_VERSION:
            return
        self.table.silent.update(_SINCE_VERSION_8)
        if not module.header:
            empty = [kind for kind in ("input", "output") if not getattr(module, f"{kind}s")]
            self.table.silent.update(empty)
        if _is_opaque(module):
            self.table.silent.add("pool")

    def _source(self, name: str) -> None:
        """Take a source apart: constants, functions, and what else it declares."""
        lifted = lift_constants(csource.without_registry(self.archive.read_text(name)), unit="unit", threshold_bytes=0)
        source = _own_name(name, self.module.name).rpartition("/")[2]
        constants = {constant.symbol: constant for constant in lifted.constants}
        for function, whole in _items(lifted.text):
            found, item = _LIFTED.search(whole), self._neutral(_EXPORTED.sub("", whole))
            if found and found[1] in constants:
                constant = constants[found[1]]
                self.weights += _lifted_weights(source, item, constant.payload, constant.elements)
            elif function:
                self.functions[self._neutral(function)].append((source, item))
            elif _DESCRIPTION not in item and not self._is_pool(item):
                self.declarations["code"].add(item)

    def _is_pool(self, item: str) -> bool:
        found = _INTERNAL_POOL.search(item)
        return found is not None and found[1] in self.pools

    def _headers(self) -> None:
        for name in self.module.includes:
            place = self._neutral(name.rpartition("/")[2])
            for _, item in _items(self.archive.read_text(name)):
                neutral = self._neutral(item)
                if not (name == self.module.header and _is_header_fact(neutral)):
                    self.declarations[place].add(neutral)

    def _pool_weights(self) -> None:
        """Cut the constant pools that a caller passes where the code takes the address of a constant."""
        pools = {pool.name: pool.data for pool in self.module.pools if pool.data}
        cuts: dict[str, dict[int, str]] = {name: {0: name} for name in pools}
        texts = (words for function in self.functions.values() for _, words in function) if pools else ()
        for words in texts:
            for found in _POOL_CUT.finditer(words):
                if found[2] in cuts:
                    cuts[found[2]][int(found[3])] = found[1]
        for name, data in pools.items():
            offsets = sorted(offset for offset in cuts[name] if offset < len(data))
            for start, end in pairwise([*offsets, len(data)]):
                self.weights.append(_weight(name, cuts[name][start], data[start:end]))

    def _parameters(self, name: str) -> None:
        where = f"{self.archive.label}: {name}"
        for item in parse_params(self.archive.read(name), where=where):
            weight = _weight("", item.name, item.array.tobytes(), dtype=item.dtype, shape=item.array.shape)
            self.weights.append(weight)

    def _object(self, name: str) -> None:
        data = self.archive.read(name)
        label = _own_name(name, self.module.name).rpartition("/")[2]
        try:
            members = ar.read_ar(data, name) if data.startswith(ar.MAGIC) else ((None, memoryview(data)),)
            for member, content in members:
                self._object_code(content, f"{label}({member})" if member else label, name)
        except ObjectError as error:
            message = f"{error.where}: {error.message}"
            raise ObjectError(message, where=self.archive.label, hint=error.hint) from error

    def _object_code(self, content: memoryview, place: str, where: str) -> None:
        if content[:4] != elf.MAGIC:
            self.table.add("object-changed", place, {"": _sized(len(content), _digest(content))})
            return
        item = elf.parse_object(content, where)
        if sum(len(section.data) for section in item.sections) > len(content):
            raise ObjectError("the object file is damaged: its sections overlap", where=where)
        self.symbols.update(map(self._neutral, item.symbols.defined_names()))
        for section, said in _sections(item, self._neutral):
            self.table.add("object-changed", f"{place} {section}", {"": said})

    def _graph_and_ir(self) -> None:
        for name in self._named("graph"):
            graph: Any = load_json(self.archive.read_text(name), where=self.archive.label)
            canonical = self._neutral(json.dumps(_without_hashes(graph), sort_keys=True))
            said = f"{counted(len(graph['nodes']), 'node')} sha256 {shortened(canonical)}"
            self.table.add("graph-changed", "graph", {"": said})
        for name in self._named("ir"):
            file = name.rpartition("/")[2]
            place = file if file.startswith("tir-") else "relay"
            said = _compact(_BLOCK_COMMENT.sub(" ", _RELAY_VERSION.sub("", self.archive.read_text(name))))
            self.table.add("relay-changed", place, {"": f"sha256 {shortened(self._neutral(said))}"})

    def _test(self, test: GoldenTest) -> None:
        facets = {"": f"rtol {test.rtol:g} atol {test.atol:g}"}
        for kind, name in (("inputs", test.inputs), ("outputs", test.outputs)):
            if name not in self.arrays:  # several tests may share one
                self.arrays[name] = self._described_arrays(name)
            facets |= {f"{kind}.{array}": said for array, said in self.arrays[name].items()}
        self.table.add("test", test.name, facets)

    def _described_arrays(self, name: str) -> dict[str, str]:
        found = {}
        for key, array in read_arrays(
            io.BytesIO(self.archive.read(name)), where=f"{self.archive.label}: {name}"
        ).items():
            digest = _digest(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
            found[key] = f"{array.dtype.name} {_shape(array.shape)} sha256 {digest[:_SHORT_DIGITS]}"
        return found


def _is_opaque(module: Module) -> bool:
    """Whether code and weights are in objects alone."""
    return bool(module.objects) and not module.sources


def _tensor_facets(tensor: Tensor) -> Facets:
    scale = tensor.quantization
    return {
        "name": tensor.name if tensor.name != tensor.c_name else None,
        "dtype": tensor.dtype,
        "shape": _shape(tensor.shape),
        "size": _bytes(tensor.size_bytes),
        "quantization": f"scale {scale.scale:g} zero point {scale.zero_point}" if scale else None,
    }


def _bytes(size: int | None) -> str | None:
    return None if size is None else f"{size} bytes"


def _shape(shape: tuple[int, ...] | None) -> str | None:
    return None if shape is None else "x".join(map(str, shape)) or "scalar"


def _digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def shortened(words: str) -> str:
    """Give the digits of a text's digest that are shown."""
    return _digest(words.encode("utf-8", "surrogatepass"))[:_SHORT_DIGITS]


def _sized(size_bytes: int, digest: str) -> str:
    return f"{size_bytes} bytes sha256 {digest[:_SHORT_DIGITS]}"


def _without_hashes(value: object) -> object:
    """Leave out the hashes of operators, which the executor does not read and which change with the compiler's build."""
    if isinstance(value, list):
        return [_without_hashes(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_hashes(item) for key, item in value.items() if key != "hash"}
    return value


def _weight(
    source: str, identifier: str, data: bytes, *, dtype: str | None = None, shape: tuple[int, ...] | None = None
) -> Weight:
    return Weight(
        source=source, identifier=identifier, dtype=dtype, shape=shape, size_bytes=len(data), digest=_digest(data),
        stripped=_digest(data.rstrip(b"\0")),
    )  # fmt: skip


def _lifted_weights(
    source: str, item: str, payload: bytes, elements: Sequence[tuple[int, int, int]]
) -> Iterator[Weight]:
    """Give the arrays of a lifted constant, whose declaration is `item`: one, or those of a constant pool."""
    arrays = _ARRAY.findall(item)
    if len(arrays) != len(elements):
        yield _weight(source, item[:SHOWN_CHARACTERS], payload)
        return
    for (kind, name, _), (offset, width, count) in zip(arrays, elements, strict=True):
        if _DESCRIPTION not in name:
            data = payload[offset : offset + width * count]
            yield _weight(source, name, data, dtype=csource.C_TYPES.get(kind, kind))


def _compact(words: str) -> str:
    """Give a text without the white space that tells nothing."""
    if len(words) > _MOST_CODE_CHARACTERS:
        return words.translate(_WHITE)
    return _SPACED_MARK.sub(r"\1", _SPACE.sub(" ", words)).strip()


def _items(code: str) -> Iterator[tuple[str, str]]:
    """List what a C file holds at file scope, as (name of a function or nothing, compact text)."""
    if len(code) > _MOST_CODE_CHARACTERS:
        yield "", _digest(_compact(code).encode())
        return
    plain = _COMMENT.sub(lambda found: found[1] or " ", code.replace("\\\r\n", " ").replace("\\\n", " "))
    for head, whole in _split(_LINKAGE.sub(" ", plain)):
        item = _compact(whole) if whole.strip() else ""
        if item and item != "#endif":
            yield _function_name(head), item


def _split(plain: str) -> Iterator[tuple[str, str]]:
    """Split C without comments into directives, declarations and functions; a function comes with its head."""
    depth = start = brace = 0
    for found in _EVENT.finditer(plain):
        mark = found[0][0]
        if depth == 0 and found[0].lstrip().startswith("#"):
            yield "", plain[start : found.start()]
            yield "", found[0]
            start = found.end()
        elif mark == "{":
            if depth == 0 and _TRANSPARENT.fullmatch(_head(plain, start, found.start()).strip()):
                start = found.end()
                continue
            brace = found.start() if depth == 0 else brace
            depth += 1
        elif mark == "}":
            if depth == 1 and _function_name(_head(plain, start, brace)):
                yield plain[start:brace], plain[start : found.end()]
                start = found.end()
            start = found.end() if depth == 0 else start
            depth = max(depth - 1, 0)
        elif mark == ";" and depth == 0:
            yield "", plain[start : found.start()]
            start = found.end()
    yield "", plain[start:]


def _head(plain: str, start: int, brace: int) -> str:
    """Give what stands before a brace; nothing if it is longer than any head, so that no text is looked at for ever."""
    return plain[start:brace] if brace - start <= MAX_HEAD_CHARS else ""


def _function_name(head: str) -> str:
    """Give the name in the head of a function, or in its declaration; nothing if it is no function's."""
    if not head.rstrip().endswith(")"):
        return ""
    bare = _ATTRIBUTE.sub("", _compact(head)).strip()
    found = _CALLED.search(bare) if bare.endswith(")") and "=" not in bare else None
    return found[1] if found else ""


def _is_header_fact(item: str) -> bool:
    """Whether a part of a model's header says what is compared as tensors, pools and entrypoints."""
    return _HEADER_FACT.fullmatch(item) is not None or _function_name(item).startswith("tvmgen_")


def _sections(item: elf.ElfObject, neutral: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """Describe what of an object is loaded, by section: size, and the digest of its bytes and relocations."""
    relocations: dict[int, list[elf.Section]] = defaultdict(list)
    for section in item.sections:
        if section.type in (elf.SHT_REL, elf.SHT_RELA):
            relocations[section.info].append(section)
    symbol = cache(lambda number: _digest(_symbol_name(item, number, neutral).encode("utf-8", "surrogateescape")))
    sizes: Counter[str] = Counter()
    digests: dict[str, Any] = defaultdict(hashlib.sha256)
    for index, section in enumerate(item.sections):
        name = neutral(section.name)
        if not _is_loaded(section) or name.startswith((".eh_frame", ".ARM.ex")):  # how to unwind the stack
            continue
        sizes[name] += section.size_bytes
        digests[name].update(f"{section.type} {section.flags} {section.size_bytes}\n".encode())
        digests[name].update(section.data)
        for table in relocations[index]:
            digests[name].update(_relocation_bytes(item, table, symbol))
    for name in sorted(sizes):
        yield name, _sized(sizes[name], digests[name].hexdigest())


def _is_loaded(section: elf.Section) -> bool:
    return bool(section.flags & elf.SHF_ALLOC) and section.type != elf.SHT_NOTE and section.size_bytes > 0


def _relocation_bytes(item: elf.ElfObject, table: elf.Section, symbol: Callable[[int], str]) -> bytes:
    """Give what relocations say in a form that neither their order nor the symbols' numbers change."""
    rows = item.relocations(table)
    rows = rows[np.argsort(rows["offset"], kind="stable")]
    info, shift = rows["info"].astype(np.uint64), item.machine.symbol_shift
    numbers, index = np.unique(info >> np.uint64(shift), return_inverse=True)
    if len(numbers) and int(numbers[-1]) >= len(item.symbols):
        raise ObjectError("the object file is damaged: a relocation names no symbol", where=item.label)
    symbols = [symbol(number) for number in numbers.tolist()]
    ranks = {name: rank for rank, name in enumerate(sorted(set(symbols)))}
    columns = [
        rows["offset"],
        info & np.uint64((1 << shift) - 1),
        np.array([ranks[name] for name in symbols], int)[index],
    ]
    columns += [rows["addend"]] if table.type == elf.SHT_RELA else []
    return b"".join(column.astype("<i8").tobytes() for column in columns) + "".join(ranks).encode()


def _symbol_name(item: elf.ElfObject, number: int, neutral: Callable[[str], str]) -> str:
    """Name a symbol as its name does, a section's as its section."""
    symbols = item.symbols
    if symbols.names[number] or symbols.section[number] <= 0:
        return neutral(symbols.names[number])
    return f"{neutral(item.sections[int(symbols.section[number])].name)}+{int(symbols.value[number])}"


def counted(count: int, word: str) -> str:
    """Give a number and the word for what it counts."""
    return f"{count} {word}{'' if count == 1 else 's'}"
