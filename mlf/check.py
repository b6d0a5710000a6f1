"""Judging an archive: version, schema, then meaning. Every fault is a finding with a stable code; none hides another.

Nothing is executed or compiled. An archive that cannot be opened has one finding, because what cannot be parsed safely
tells nothing more; a module that cannot be read has one too, and the others are judged.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import zipfile
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from mlf import codegen
from mlf.archive import METADATA_NAME, open_archive
from mlf.errors import (
    ArchiveError,
    InputError,
    MetadataError,
    NameClashError,
    ObjectError,
    SourceError,
    TensorError,
    UnsupportedError,
)
from mlf.metadata import LATEST_VERSION, READABLE_VERSIONS, Descriptor, identity_of, parse_metadata
from mlf.naming import MODEL_NAME, check_model_name, find_clashes
from mlf.pack import PORTABLE_NAME
from mlf.reading import member_places, read_modules
from mlf.resources import bundled
from mlf.strictjson import load_json, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import jsonschema

    from mlf.archive import Archive
    from mlf.metadata import GoldenTest, Metadata, Tensor
    from mlf.module import Module
    from mlf.params import Param

    Progress = Callable[[str], None]

ERROR = "error"
WARNING = "warning"
NOTE = "note"
CODES: Mapping[str, str] = {
    "archive-missing": ERROR,
    "archive-unreadable": ERROR,
    "code-language": ERROR,
    "code-missing": ERROR,
    "entrypoint-missing": ERROR,
    "findings-cut": NOTE,
    "graph-invalid": ERROR,
    "graph-missing": ERROR,
    "identity": ERROR,
    "api-interface": ERROR,
    "macro-size": WARNING,
    "member-digest": ERROR,
    "member-missing": ERROR,
    "member-module": ERROR,
    "member-name": ERROR,
    "member-order": WARNING,
    "member-self": ERROR,
    "member-size": ERROR,
    "member-twice": ERROR,
    "member-undescribed": ERROR,
    "member-unknown": NOTE,
    "member-unreadable": ERROR,
    "metadata-invalid": ERROR,
    "metadata-json": ERROR,
    "metadata-missing": ERROR,
    "model-name": WARNING,
    "module-count": ERROR,
    "module-invalid": ERROR,
    "module-name": WARNING,
    "name-clash": ERROR,
    "name-invalid": ERROR,
    "object-code": ERROR,
    "object-invalid": ERROR,
    "object-mixed": ERROR,
    "object-target": WARNING,
    "operator-missing": ERROR,
    "api-operators": ERROR,
    "parameters-invalid": ERROR,
    "parameters-lacking": ERROR,
    "parameters-mismatch": ERROR,
    "parameters-missing": WARNING,
    "parameters-overrun": WARNING,
    "parameters-unused": WARNING,
    "pool-kind": ERROR,
    "pool-missing": ERROR,
    "pool-size": ERROR,
    "registry-conflict": WARNING,
    "schema": ERROR,
    "source-invalid": ERROR,
    "symbol-clash": WARNING,
    "tensor-dtype": ERROR,
    "tensor-names": WARNING,
    "tensor-shape": ERROR,
    "tensor-size": ERROR,
    "test-invalid": ERROR,
    "test-missing": ERROR,
    "version": ERROR,
    "workspace-size": ERROR,
}
"""Every code of a finding, with its severity; a code keeps its meaning for ever."""
_RANK = {ERROR: 0, WARNING: 1, NOTE: 2}
_MAX_FINDINGS = 1000  # of one archive; who reads more than the first ten has another problem
_MAX_MODULES = 1000  # every one is judged against all members; an archive of TVM has a few
_MAX_GOLDEN_BYTES = 64 << 20  # unpacked, of a file of arrays; no microcontroller takes that much at once
_ARRAY_HEADER_BYTES = 4096  # more than numpy and zip together put around an array
_SHOWN_CHARACTERS = 200  # of each part of a finding
# Members without which a module cannot be read, so that a missing one is the only fault to tell of it.
_NEEDED_ROLES = ("source", "include", "object", "parameters", "graph")
# Roles of members that are part of one module; a header may serve several.
_MODULE_ROLES = ("source", "object", "parameters", "graph")
# The entrypoints, of which an ahead-of-time compiled module has one.
_WAYS_IN = ("run", "tvm_module_main", "descriptor")
# What TVM's C runtime allocates for these is less than what it copies.
_OVERRUN_BY_CRT = ("bool", "int4", "uint4")
# The `.params` file of a model whose weights are all in its code, as most are; for any other numpy is imported.
_NO_PARAMETERS = struct.pack("<4Q", 0xF7E58D4F05049CB7, 0, 0, 0)
# Why a module cannot be read: the error, its code, the role of the member at fault where one module has one, what is expected.
_FAULTS: tuple[tuple[type[InputError], str, str, str], ...] = (
    (ObjectError, "object-invalid", "", "a relocatable ELF object"),
    (TensorError, "parameters-invalid", "parameters", "a list of tensors as TVM writes it"),
    (SourceError, "source-invalid", "", "code of a form that TVM generates"),
    (MetadataError, "graph-invalid", "graph", "the JSON of TVM's graph executor"),
    (ArchiveError, "member-unreadable", "", "a member that can be read"),
    (InputError, "module-invalid", "", "a module that mlf can read"),
)
# What LLVM's target triples begin with, by the machine of an ELF header.
_TRIPLES = {
    "ARM": ("arm", "thumb"), "AArch64": ("aarch64", "arm64"), "x86-64": ("x86_64", "amd64"), "RISC-V": ("riscv",),
    "i386": ("i386", "i486", "i586", "i686"), "MIPS": ("mips",), "Xtensa": ("xtensa",), "PowerPC": ("powerpc", "ppc"),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A fault: its stable code, how bad it is (`error`, `warning`, `note`), where, and what was got and expected.

    As text it is one line, whatever names an archive holds.
    """

    code: str
    severity: str
    place: str
    got: str
    expected: str

    def __str__(self) -> str:
        text = f"{self.severity}[{self.code}] {self.place}: {self.got}, expected {self.expected}"
        return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found in one archive, the worst first.

    `version` and `identity` are None where the archive does not get that far; `identity` is what its content has, which
    need not be what it says.
    """

    archive: str
    version: int | None
    identity: str | None
    findings: tuple[Finding, ...]

    def count(self, severity: str) -> int:
        """Count the findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def is_good(self, *, strict: bool = False) -> bool:
        """Tell whether there is no error, and with `strict` no warning either."""
        return self.count(ERROR) == 0 and not (strict and self.count(WARNING))


def validate(path: Path) -> Verdict:
    """Judge the archive at `path`; raises OutputError only, where a compressed one cannot be unpacked to a temporary file."""
    try:
        with open_archive(path) as archive:
            return _Validator(archive).verdict()
    except ArchiveError as error:
        return Verdict(archive=error.where or path.name, version=None, identity=None, findings=(_unopened(error),))


def _unopened(error: ArchiveError) -> Finding:
    is_missing = isinstance(error.__cause__, FileNotFoundError)
    return Finding(
        code="archive-missing" if is_missing else "archive-unreadable", severity=ERROR, place="archive",
        got=_short(error.message), expected="a tar, tar.gz or tar.zst of sound structure, or a directory",
    )  # fmt: skip


def validate_all(paths: Sequence[Path], *, jobs: int = 1, progress: Progress | None = None) -> Iterator[Verdict]:
    """Judge archives in the order of `paths`, `jobs` at a time in processes of their own; raises what `validate` raises."""
    if jobs <= 1 or len(paths) <= 1:
        for path in paths:
            if progress:
                progress(f"validating {path.name}")
            yield validate(path)
        return
    from mlf.parallel import in_processes  # noqa: PLC0415  # multiprocessing

    yield from in_processes(validate, paths, jobs=min(jobs, len(paths)), progress=progress)


class _Validator:
    """Gathers the findings on one open archive."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.found: list[Finding] = []
        self.version: int | None = None
        self.identity: str | None = None

    def verdict(self) -> Verdict:
        document = self._document()
        if document is not None:
            self._check_schema(document)
            metadata = self._metadata(document)
            if self.version == LATEST_VERSION:
                members = _descriptors(document)
                self._check_described(document, members)
            else:
                members = _placed(self.archive, metadata) if metadata else []
                self._note_unknown(members)
            if metadata:
                self._check_modules(metadata, members)
        return Verdict(
            archive=self.archive.label, version=self.version, identity=self.identity, findings=self._findings()
        )

    def _findings(self) -> tuple[Finding, ...]:
        """Sort what was found, the worst first; what is left out is told."""
        found = sorted(
            set(self.found), key=lambda item: (_RANK[item.severity], item.code, item.place, item.got, item.expected)
        )
        if len(found) <= _MAX_FINDINGS:
            return tuple(found)
        cut = Finding(
            code="findings-cut", severity=NOTE, place="archive", got=f"more than {_MAX_FINDINGS} findings",
            expected=f"no more; these are the first {_MAX_FINDINGS}",
        )  # fmt: skip
        return (*found[:_MAX_FINDINGS], cut)

    def add(self, code: str, place: str, got: str, expected: str, *, severity: str | None = None) -> None:
        """Keep a finding; its severity is that of its code unless told otherwise."""
        self.found.append(
            Finding(
                code=code, severity=severity or CODES.get(code, ERROR), place=_short(place), got=_short(got), expected=_short(expected)
            )
        )  # fmt: skip

    # The document.

    def _document(self) -> Mapping[str, Any] | None:
        if METADATA_NAME not in self.archive:
            self.add(
                "metadata-missing", METADATA_NAME, "no such member", "one, as every Model Library Format archive has"
            )
            return None
        try:
            document = load_json(self.archive.read_text(METADATA_NAME), where=self.archive.label)
        except (ArchiveError, MetadataError) as error:
            self.add("metadata-json", METADATA_NAME, error.message, "strict JSON in UTF-8")
            return None
        if not isinstance(document, dict):
            self.add("metadata-json", METADATA_NAME, shown(document), "an object")
            return None
        return document if self._has_version(document) else None

    def _has_version(self, document: Mapping[str, Any]) -> bool:
        version = document.get("version")
        if isinstance(version, int) and not isinstance(version, bool) and version in READABLE_VERSIONS:
            self.version = version
            return True
        got = shown(version) if "version" in document else "no such key"
        expected = f"a version from {READABLE_VERSIONS[0]} to {LATEST_VERSION}"
        self.add("version", f"{METADATA_NAME}: version", got, expected)
        return False

    def _check_schema(self, document: Mapping[str, Any]) -> None:
        for error in _schema(self.version or LATEST_VERSION).iter_errors(document):
            got, expected = _schema_words(error)
            self.add("schema", f"{METADATA_NAME}: {_json_place(error.absolute_path)}", got, expected)
            if len(self.found) > _MAX_FINDINGS:
                return

    def _metadata(self, document: Mapping[str, Any]) -> Metadata | None:
        """Read the metadata, or of those modules that can be read: one that cannot hides no fault of another."""
        modules = document.get("modules")
        if isinstance(modules, dict) and len(modules) > _MAX_MODULES:
            self.add("module-count", f"{METADATA_NAME}: modules", f"{len(modules)} modules", f"at most {_MAX_MODULES}")
            return None
        try:
            return parse_metadata(document, where=self.archive.label)
        except (MetadataError, UnsupportedError) as error:
            if not self.found:  # the schema says it with more detail
                got = error.message.removeprefix(f"{METADATA_NAME}: ")
                self.add("metadata-invalid", METADATA_NAME, got, f"what version {self.version} has there")
        if not isinstance(modules, dict):
            return None
        sound = {name: module for name, module in modules.items() if self._parsed(document, {name: module})}
        return self._parsed(document, sound)

    def _parsed(self, document: Mapping[str, Any], modules: Mapping[str, Any]) -> Metadata | None:
        """Read some modules of a document whose other keys may be wrong."""
        rest = {"identity": f"sha256:{'0' * 64}", "members": [], "modules": modules}
        try:
            return parse_metadata({**document, **rest}, where=self.archive.label)
        except (MetadataError, UnsupportedError):
            return None

    # Members.

    def _note_unknown(self, members: Iterable[Descriptor]) -> None:
        for item in members:
            if item.role == "other" or (item.module is None and item.role not in ("runtime", "template")):
                got = "a file that belongs to no module"
                self.add("member-unknown", item.path, got, "a name that the format has")

    def _check_described(self, document: Mapping[str, Any], descriptors: Sequence[Descriptor]) -> None:
        """Check what version 8 says of its members, and of itself."""
        if isinstance(document.get("members"), list):
            self._check_cover(descriptors)
        self._check_names_of_members(descriptors)
        self._check_digests(descriptors)
        self._check_owners(document, descriptors)
        self.identity = identity_of(document)
        said = document.get("identity")
        if said != self.identity:
            got = said if isinstance(said, str) and said else shown(said)
            self.add("identity", f"{METADATA_NAME}: identity", got, f"{self.identity}, as its content has")

    def _check_cover(self, descriptors: Sequence[Descriptor]) -> None:
        counts = Counter(item.path for item in descriptors)
        present = {member.name for member in self.archive.members} - {METADATA_NAME}
        if counts.pop(METADATA_NAME, 0):
            self.add("member-self", METADATA_NAME, "a descriptor", "none: it cannot hold its own digest")
        for path, count in counts.items():
            if count > 1:
                self.add("member-twice", path, f"{count} descriptors", "one descriptor for each member")
            if path not in present:
                self.add("member-missing", path, "no such member", "every member that metadata.json describes")
        for path in present - counts.keys():
            self.add("member-undescribed", path, "no descriptor", "one for every member but metadata.json")

    def _check_names_of_members(self, descriptors: Sequence[Descriptor]) -> None:
        for member in self.archive.members:
            if not PORTABLE_NAME.fullmatch(member.name):
                odd = "".join(sorted(set(re.findall(r"[^A-Za-z0-9._+@/-]", member.name))))
                got = f"a name with {odd!r}" if odd else "a name with a dot at an end of a component"
                self.add("member-name", member.name, got, "letters, digits and `_+@.-`, no dot at an end")
        paths = [item.path for item in descriptors]
        if paths != sorted(paths, key=str.encode):
            place = f"{METADATA_NAME}: members"
            self.add("member-order", place, "not sorted", "descriptors sorted by the bytes of their paths")

    def _check_digests(self, descriptors: Sequence[Descriptor]) -> None:
        sizes = {member.name: member.size_bytes for member in self.archive.members}
        digests: dict[str, str | None] = {}  # a member is hashed once, however often it is described
        for item in descriptors:
            size = sizes.get(item.path)
            if size is None or item.path == METADATA_NAME:
                continue
            if item.size_bytes != size:
                self.add("member-size", item.path, f"{size} bytes", f"{item.size_bytes}, as metadata.json says")
                continue
            if item.path not in digests:
                digests[item.path] = self._digest(item.path)
            if digests[item.path] not in (None, item.sha256):
                expected = f"{item.sha256}, as metadata.json says"
                self.add("member-digest", item.path, f"sha256 {digests[item.path]}", expected)

    def _digest(self, path: str) -> str | None:
        digest = hashlib.sha256()
        try:
            for piece in self.archive.chunks(path):
                digest.update(piece)
        except ArchiveError as error:
            self.add("member-unreadable", path, error.message, "a member that can be read")
            return None
        return digest.hexdigest()

    def _check_owners(self, document: Mapping[str, Any], descriptors: Sequence[Descriptor]) -> None:
        modules = document.get("modules")
        known = modules if isinstance(modules, dict) else {}
        for item in descriptors:
            if item.module is not None and item.module not in known:
                self.add("member-module", item.path, f"module {item.module!r}", "a module of the archive")
            elif item.module is None and item.role in _MODULE_ROLES:
                self.add("member-module", item.path, f"a {item.role} of no module", "the module that it is part of")

    # Modules.

    def _check_modules(self, metadata: Metadata, members: Iterable[Descriptor]) -> None:
        modules = [module for part in _parts(metadata, members) for module in self._read(part)]
        for module in modules:
            place = f"module {_short(module.name)}"
            self._check_code(module, place)
            self._check_facts(module, place)
            self._check_symbols(module, place)
            self._check_parameters(module, place)
            self._check_objects(module, place)
            for test in module.tests:
                self._check_test(module, test, f"{place}: test {_short(test.name)}")
        self._check_names(modules)

    def _read(self, part: Metadata) -> tuple[Module, ...]:
        lost = [item for item in part.members or () if item.path not in self.archive]
        if any(item.role in _NEEDED_ROLES for item in lost):  # a finding tells of each
            return ()
        there = tuple(item for item in part.members or () if item.path in self.archive)
        try:
            return read_modules(self.archive, is_thorough=True, metadata=replace(part, members=there))
        except InputError as error:
            self._add_fault(part.modules[0].name, there, error)
            return ()

    def _add_fault(self, module: str, members: Iterable[Descriptor], error: InputError) -> None:
        """Report why a module cannot be read, in the place of the member at fault if that is known."""
        code, role, expected = next(texts for kind, *texts in _FAULTS if isinstance(error, kind))
        place, got = f"module {_short(module)}", error.message
        for item in members:
            if item.role == role or got.startswith(f"{item.path}: "):
                place, got = item.path, got.removeprefix(f"{item.path}: ")
                break
        self.add(code, place, got, expected)

    def _check_code(self, module: Module, place: str) -> None:
        said = module.metadata.document.get("model_name")
        if said != module.name:
            self.add("module-name", f"{place}: model_name", shown(said), f"`{module.name}`, as its key says")
        if not module.sources and not module.objects:
            self.add("code-missing", place, "no source and no object", "its code")
        if "graph" in module.executors and module.graph is None:
            self.add("graph-missing", place, "no graph", "one, for the graph executor")
        if module.parameters is None and module.style == "full-model" and module.version < LATEST_VERSION:
            self.add("parameters-missing", place, "no .params file", "one, if only an empty one")
        if module.has_registry and module.header:
            got = "the registry of a system library declares its entrypoint a second time, with other arguments"
            self.add("registry-conflict", place, got, "one or the other; `mlf link` leaves the registry out")

    def _check_facts(self, module: Module, place: str) -> None:
        for item in module.findings:
            got, expected = f"{item.source} says {item.said}", f"{item.code}, as the code says"
            if item.kind == "pool-missing":
                is_listed = item.code == "none"
                got = "metadata.json lists it" if is_listed else "metadata.json does not list it"
                expected = "a pool that the code has" if is_listed else "every pool that the code has"
            self.add(item.kind, f"{place}: {item.place}", got, expected)

    def _check_symbols(self, module: Module, place: str) -> None:
        if not module.sources and not module.objects:
            return
        if "aot" in module.executors and module.entrypoints.keys().isdisjoint(_WAYS_IN):
            expected = f"one of {', '.join(f'`{role}`' for role in _WAYS_IN)}"
            self.add("entrypoint-missing", place, "no entrypoint", expected)
        for role, name in sorted(module.entrypoints.items()):
            if name not in module.defined and role != "descriptor":  # that is a variable
                self.add("entrypoint-missing", f"{place}: {role}", f"no function `{name}`", "one in the code")
        calls = dict.fromkeys(module.graph.operators if module.graph else (), "the graph calls it")
        calls |= dict.fromkeys(module.metadata.operators, "metadata.json lists it")
        for name, reason in calls.items():
            if name not in module.defined:
                self.add("operator-missing", place, f"no function `{name}`", f"one, because {reason}")

    def _check_parameters(self, module: Module, place: str) -> None:
        if module.parameters is None:
            return
        params: Sequence[Param] = ()
        try:
            data = self.archive.read(module.parameters)
            if data != _NO_PARAMETERS:
                from mlf.params import parse_params  # noqa: PLC0415  # numpy

                params = parse_params(data, where=self.archive.label)
        except (ArchiveError, TensorError) as error:
            self.add("parameters-invalid", module.parameters, error.message, "a list of tensors as TVM writes it")
            return
        if module.graph:
            self._check_graph_parameters(module, params, place)

    def _check_graph_parameters(self, module: Module, params: Sequence[Param], place: str) -> None:
        entries = {item.name: item for item in module.graph.arguments} if module.graph else {}
        for param in params:
            where = f"{module.parameters}: {param.name}"
            entry = entries.pop(param.name, None)
            got = f"{param.dtype} {_extents(param.array.shape)}"
            if entry is None:
                self.add("parameters-unused", where, got, "a name that the graph has")
            elif (entry.dtype, entry.shape) != (param.dtype, param.array.shape):
                self.add("parameters-mismatch", where, got, f"{entry.dtype} {_extents(entry.shape)}, as the graph says")
            if param.dtype in _OVERRUN_BY_CRT:
                expected = "a type for which TVM's C runtime allocates enough memory"
                self.add("parameters-overrun", where, param.dtype, expected)
        inputs = {tensor.name for tensor in module.inputs}
        if "lookup_linked_param" in module.entrypoints:  # the code gives what the file lacks
            return
        for name in entries.keys() - inputs:
            got = f"neither an input nor in {module.parameters}"
            self.add("parameters-lacking", f"{place}: {_short(name)}", got, "a value for every argument of the graph")

    def _check_objects(self, module: Module, place: str) -> None:
        declared = module.metadata.declared
        if declared and (module.sources or module.objects):
            language = _language(module)
            if declared.code.language != language:
                got = f"metadata.json says {declared.code.language}"
                self.add("code-language", f"{place}: code.language", got, f"{language}, as the members' names say")
            if declared.code.object and not module.objects:
                got = f"metadata.json says {declared.code.object.machine}"
                self.add("object-code", f"{place}: code.object", got, "null, because there are no objects")
        machine = module.code.object
        known = _TRIPLES.get(machine.machine) if machine else None
        for target in module.metadata.targets:
            triple = re.search(r"-mtriple=([a-z0-9_]+)", target)
            if triple and known and machine and not triple[1].startswith(known):
                got = f"objects for {machine.machine}"
                self.add("object-target", place, got, f"objects for {triple[1]}, as the target says")
        self._check_machines(module)

    def _check_machines(self, module: Module) -> None:
        """All objects of a module must be for one machine: they become one object."""
        if len(module.objects) < 2:
            return
        from mlf.objects.elf import parse_object  # noqa: PLC0415  # numpy

        names = [name for name in module.objects if name.endswith(".o")]
        machines = [parse_object(self.archive.read(name), name).machine for name in names]
        for name, machine in zip(names[1:], machines[1:], strict=True):
            if not machine.is_compatible(machines[0]):
                self.add("object-mixed", name, str(machine), f"{machines[0]}, as {names[0]}")

    def _check_test(self, module: Module, test: GoldenTest, place: str) -> None:
        for kind, name in (("inputs", test.inputs), ("outputs", test.outputs)):
            if name not in self.archive:
                self.add("test-missing", f"{place}: {kind}", f"no member {name!r}", "golden data")
                continue
            tensors: tuple[Tensor, ...] = getattr(module, kind)
            for fault in _golden_faults(self.archive, name, tensors, kind.removesuffix("s")):
                got, _, expected = fault.partition(", expected ")
                self.add("test-invalid", f"{place}: {kind}", got, expected or f"an .npz file of the model's {kind}")

    # Names.

    def _check_names(self, modules: Sequence[Module]) -> None:
        generated = []
        for module in modules:
            place = f"module {_short(module.name)}"
            self._check_model_name(module.name, place)
            sizeless = [pool.name for pool in module.pools if not pool.is_internal and pool.size_bytes is None]
            for name in sizeless:
                self.add("pool-size", f"{place}: pools.{name}", "no size", "a size, because the caller must lend it")
            if module.style != "full-model" or sizeless:
                continue
            invalid = codegen.invalid_names(module)
            if invalid:
                severity = None if module.interface == "c" else WARNING  # TVM calls by position there
                got = f"tensors or pools have names that C cannot have: {', '.join(invalid)}"
                self.add("name-invalid", place, got, "names that C can have", severity=severity)
                continue
            interface = codegen.model_interface(module.name.lower(), module)
            generated.append(codegen.generated_names(interface, owner=place))
        for clash in find_clashes(generated):
            self.add("name-clash", "modules", clash, "different names")
        self._check_globals(modules)

    def _check_model_name(self, name: str, place: str) -> None:
        try:
            check_model_name(name, where=self.archive.label)
        except NameClashError:
            is_reserved = bool(MODEL_NAME.fullmatch(name))
            expected = "no keyword, and no name of the library's own" if is_reserved else "small letters, digits and _"
            self.add("model-name", place, shown(name), f"{expected}; `mlf link` can give it another")

    def _check_globals(self, modules: Sequence[Module]) -> None:
        """Two modules that define one name cannot be linked as they lie; `mlf link` hides such names."""
        owners: dict[str, str] = {}
        for module in modules:
            for name in sorted(module.defined):
                other = owners.setdefault(name, module.name)
                if other != module.name:
                    got = f"modules {_short(other)} and {_short(module.name)} both define `{name}`"
                    self.add("symbol-clash", "modules", got, "different names, or `mlf link`")


def _descriptors(document: Mapping[str, Any]) -> list[Descriptor]:
    """Take the descriptors that can be used; the schema judges the others."""
    members = document.get("members")
    forms = {"path": str, "size_bytes": int, "sha256": str, "role": str}
    return [
        Descriptor(**{key: item[key] for key in forms}, module=item.get("module"))
        for item in (members if isinstance(members, list) else ())
        if isinstance(item, dict)
        and all(isinstance(item.get(key), kind) for key, kind in forms.items())
        and isinstance(item.get("module"), str | None)
    ]


def _placed(archive: Archive, metadata: Metadata) -> list[Descriptor]:
    """Give the members of an archive before version 8 as version 8 would, but for their digests."""
    return [
        Descriptor(path=place.name, size_bytes=0, sha256="", role=place.role, module=place.module)
        for place in member_places(archive, metadata)
    ]


def _parts(metadata: Metadata, members: Iterable[Descriptor]) -> Iterator[Metadata]:
    """Take an archive apart into modules, each with its own members, so that reading one costs what it has."""
    own: dict[str | None, list[Descriptor]] = defaultdict(list)
    for item in members:
        own[item.module].append(item)
    for module in metadata.modules:
        yield replace(metadata, modules=(module,), members=tuple(own[module.name]))


def _language(module: Module) -> str:
    if not module.sources:
        return "object"
    return "c" if all(name.endswith(".c") for name in module.sources) else "c++"


@cache
def _schema(version: int) -> jsonschema.Draft202012Validator:
    import jsonschema  # noqa: PLC0415  # 100 ms

    path = bundled("schemas") / f"metadata-v{version}.schema.json"
    return jsonschema.Draft202012Validator(json.loads(path.read_text(encoding="utf-8")))


def _schema_words(error: jsonschema.ValidationError) -> tuple[str, str]:
    """Say what a document has in a place, and what its schema expects there."""
    value: Any = error.validator_value
    words: dict[str, Callable[[], str]] = {
        "type": lambda: " or ".join(map(_kind, value if isinstance(value, list) else [value])),
        "enum": lambda: "one of " + ", ".join(f"`{json.dumps(item)}`" for item in value),
        "const": lambda: f"`{json.dumps(value)}`",
        "pattern": lambda: f"text that matches `{value}`",
        "minimum": lambda: f"at least {value}",
        "exclusiveMinimum": lambda: f"more than {value}",
        "minLength": lambda: f"at least {value} characters",
        "maxLength": lambda: f"at most {value} characters",
        "minProperties": lambda: f"at least {value} keys",
        "maxItems": lambda: f"at most {value} items",
    }
    if error.validator == "required":
        missing = re.match(r"'(.*)' is", error.message)  # of the several that the schema requires
        return f"no key `{missing[1] if missing else ''}`", "that key"
    if error.validator == "not":
        return shown(error.instance), _unwanted(value)
    instance: Any = error.instance
    got = f"{len(instance)} of them" if error.validator in ("minProperties", "maxItems") else shown(instance)
    return got, words.get(str(error.validator), lambda: f"what `{error.validator}` of the schema says")()


_KINDS = {"object": "an object", "array": "a list", "string": "a string", "integer": "a whole number", "null": "`null`"}


def _kind(word: str) -> str:
    return _KINDS.get(word, f"a {word}")


def _unwanted(schema: Mapping[str, Any]) -> str:
    """Say what a schema excludes."""
    if "pattern" in schema:
        return f"text in which nothing matches `{schema['pattern']}`"
    return "no " + ", ".join(f"`{key}`" for key in schema.get("required", ()))


def _json_place(path: Iterable[str | int]) -> str:
    """Name a place in a document as one would write it in code."""
    place = "".join(_step(item) for item in path)
    return place.removeprefix(".") or "the document"


def _step(key: str | int) -> str:
    if isinstance(key, str) and re.fullmatch(r"[\w:/-]+", key):
        return f".{key}"
    return f"[{json.dumps(key)}]"


def _golden_faults(archive: Archive, name: str, tensors: Sequence[Tensor], kind: str) -> Iterator[str]:
    """Find what is wrong with a file of arrays; nothing is unpacked that the tensors could not hold."""
    from mlf.arrays import array_faults, read_arrays  # noqa: PLC0415  # numpy

    sizes = [tensor.size_bytes for tensor in tensors]
    needed = sum(size for size in sizes if size is not None) if None not in sizes else _MAX_GOLDEN_BYTES
    most = min(needed, _MAX_GOLDEN_BYTES) + _ARRAY_HEADER_BYTES * (len(sizes) + 1)
    try:
        data = io.BytesIO(archive.read(name, size_bytes=most + 1))
        fault = _zip_fault(data, most)
        if fault:
            yield fault
            return
        arrays = read_arrays(data, where=name)
    except InputError as error:
        yield error.message
        return
    yield from array_faults(tensors, arrays, kind=kind)


def _zip_fault(data: io.BytesIO, most: int) -> str | None:
    """Tell why a file is not worth unpacking; whether it can be is for the reader of arrays to say."""
    if len(data.getbuffer()) > most:
        return f"has more than {most} bytes, which is more than the tensors have"
    try:
        with zipfile.ZipFile(data) as members:
            found = members.infolist()
    except (zipfile.BadZipFile, ValueError, RuntimeError):
        return None
    if any(item.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for item in found):
        return "is compressed in a way that numpy does not write"  # and that has no bound
    size = sum(item.file_size for item in found)
    return f"unpacks to {size} bytes, which is more than the tensors have" if size > most else None


def _extents(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
