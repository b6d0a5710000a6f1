"""From one version of the format to another: the members keep their bytes, `metadata.json` and some names change.

Every version is read as version 7 has its keys (`metadata.py`); version 8 adds what the code tells (`module.py`). What had
to be inferred on the way up, and what is lost on the way down, is noted.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlf import layout, manifest
from mlf.archive import METADATA_NAME, open_archive
from mlf.errors import MlfError, UnsupportedError, UsageError
from mlf.metadata import (
    LATEST_VERSION,
    READABLE_VERSIONS,
    DeclaredFacts,
    declared_document,
    identity_of,
    parse_metadata,
)
from mlf.pack import PackedMember, member_of_archive, member_of_bytes, write_archive
from mlf.reading import member_places, read_metadata, read_modules
from mlf.strictjson import load_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from mlf.archive import Archive
    from mlf.layout import Place
    from mlf.metadata import Metadata, Tensor
    from mlf.module import Module

_CPU = 1
_NO_DATE = "1970-01-01 00:00:00Z"  # what was not exported by TVM has no date, but older versions ask for one


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What an operation did beside moving bytes.

    It `inferred` a fact, `lost` one, or `kept` what the version has otherwise; it `compiled` a trained model, or left it
    `unchecked`.
    """

    kind: str
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind} {self.place}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """A finished conversion; `identity` is None below version 8."""

    source: str
    from_version: int
    to_version: int
    modules: tuple[str, ...]
    identity: str | None
    notes: tuple[Note, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveDraft:
    """An archive to be: its metadata and its other members."""

    version: int
    metadata: bytes
    members: tuple[PackedMember, ...]
    modules: tuple[str, ...]
    identity: str | None
    notes: tuple[Note, ...]

    def write(self, output: Path, *, epoch_s: int = 0) -> None:
        """Write it; raises OutputError."""
        metadata = member_of_bytes(METADATA_NAME, self.metadata)
        write_archive(output, (metadata, *self.members), version=self.version, epoch_s=epoch_s)


def convert(source: Path, *, to: int, output: Path, module: str | None = None, epoch_s: int = 0) -> Conversion:
    """Write the archive `source`, or one module of it, as version `to`.

    Raises UnsupportedError where that version cannot hold it, OutputError, and what reading an archive raises.
    """
    if to not in READABLE_VERSIONS:
        raise UsageError(
            f"there is no version {to}; versions {READABLE_VERSIONS[0]} to {LATEST_VERSION} can be written"
        )
    with open_archive(source) as archive:
        from_version = read_metadata(archive).version  # before the archive itself may be replaced
        draft = draft_conversion(archive, to=to, module=module)
        draft.write(output, epoch_s=epoch_s)
        return Conversion(
            source=archive.label,
            from_version=from_version,
            to_version=to,
            modules=draft.modules,
            identity=draft.identity,
            notes=draft.notes,
        )


def draft_conversion(archive: Archive, *, to: int, module: str | None = None) -> ArchiveDraft:
    """Decide what the archive, or one module of it, is in version `to`; `archive` must be open while it is written."""
    metadata = read_metadata(archive)
    chosen = _chosen(archive, metadata, module)
    wanted = {item.name for item in chosen.modules}
    places = tuple(
        place for place in member_places(archive, metadata) if place.module is None or place.module in wanted
    )
    modules = tuple(item for item in read_modules(archive, is_thorough=True, metadata=metadata) if item.name in wanted)
    return _Converter(archive, chosen, modules, places, to).draft()


def archive_identity(archive: Archive) -> str:
    """Give the identity of an archive; of one before version 8 that which it would have in version 8."""
    identity = read_metadata(archive).identity or draft_conversion(archive, to=LATEST_VERSION).identity
    return identity or ""  # a draft of version 8 has one


def _chosen(archive: Archive, metadata: Metadata, module: str | None) -> Metadata:
    if module is None:
        return metadata
    found = tuple(item for item in metadata.modules if item.name == module)
    if not found:
        names = ", ".join(f"`{item.name}`" for item in metadata.modules)
        raise UnsupportedError(f"has no module `{module}`; it has {names}", where=archive.label)
    return replace(metadata, modules=found)


class _Converter:
    """Holds what one conversion knows, and gathers its notes."""

    def __init__(
        self, archive: Archive, metadata: Metadata, modules: tuple[Module, ...], places: tuple[Place, ...], to: int
    ) -> None:
        self.archive = archive
        self.metadata = metadata
        self.modules = modules
        self.to = to
        self.notes: list[Note] = []
        kept = [place for place in places if not _is_original(place.name)]
        self.places = [place for place in kept if place.role != "test" or to >= LATEST_VERSION]

    def draft(self) -> ArchiveDraft:
        self._refuse_impossible()
        names = {place.name: self._new_name(place) for place in self.places}
        self._note_names(names)
        documents = {module.name: self._document(module) for module in self.modules}
        members = [member_of_archive(self.archive, old, new_name=new) for old, new in names.items()]
        if self.to == LATEST_VERSION:
            text, members = self._version_8(documents, members)
        else:
            self._note_losses()
            text = self._original(documents) or manifest.render_legacy(self.to, documents)
        identity = None
        if self.to == LATEST_VERSION:
            document: Any = load_json(text.decode(), where=METADATA_NAME)
            identity = identity_of(document)
        return ArchiveDraft(
            version=self.to, metadata=text, members=tuple(members), modules=tuple(documents), identity=identity, notes=tuple(self.notes)
        )  # fmt: skip

    def _refuse_impossible(self) -> None:
        names = ", ".join(f"`{module.name}`" for module in self.modules)
        if len(self.modules) > 1 and self.to < 7:
            raise UnsupportedError(
                f"has {len(self.modules)} modules ({names}); version {self.to} can hold one",
                where=self.archive.label,
                hint=f"convert one of them: `{self.archive.label}:{self.modules[0].name}`",
            )
        operators = [module.name for module in self.modules if module.style == "operator"]
        if operators and self.to < 4:
            raise UnsupportedError(
                f"is an operator-style archive, which version {self.to} cannot hold; version 4 is the first that can",
                where=self.archive.label,
            )

    def _new_name(self, place: Place) -> str:
        module = next((module for module in self.modules if module.name == place.module), None)
        if module is None or module.version == self.to:
            return place.name
        return layout.placed(place, version=self.to, style=module.style)

    def _note_names(self, names: Mapping[str, str]) -> None:
        twice = sorted(name for name, count in Counter(names.values()).items() if count > 1)
        if twice:
            raise UnsupportedError(
                f"has two members that would both be called {twice[0]!r} in version {self.to}", where=self.archive.label
            )
        if self.metadata.version <= 2 < self.to:
            text = "the code keeps the names that it had before version 3, without a model's name in front"
            self.notes.append(Note(kind="kept", place="symbols", text=text))

    def _document(self, module: Module) -> dict[str, Any]:
        """Give the keys of version 7, complete."""
        document: dict[str, Any] = dict(module.metadata.document)
        if self.to < LATEST_VERSION:
            document.setdefault("export_datetime", _NO_DATE)
        if self.metadata.version < 7 <= self.to and module.style == "full-model":
            document["memory"] = {**document["memory"], "functions": self._functions(module, document["memory"])}
        if self.metadata.version < 2 <= self.to < 7:
            document["memory"] = {**document["memory"], "functions": self._functions(module, document["memory"])}
        return document

    def _functions(self, module: Module, memory: Mapping[str, Any]) -> dict[str, Any]:
        """Complete `memory.functions`, which version 1 lacks, and the tensors of main, which TVM 0.11 introduced."""
        functions = dict(memory.get("functions", {}))
        if "main" not in functions:
            sizes = {
                "constants_size_bytes": module.constants_bytes or 0,
                "io_size_bytes": sum(tensor.size_bytes or 0 for tensor in (*module.inputs, *module.outputs)),
                "workspace_size_bytes": module.workspace_bytes or 0,
            }
            functions["main"] = [{"device": _CPU, **sizes}]
            text = ", ".join(f"{key} {value}" for key, value in sizes.items())
            self.notes.append(Note(kind="inferred", place=f"{module.name}: memory.functions.main", text=text))
        names = module.graph.operators if module.graph else ()
        functions.setdefault("operator_functions", [{"function_name": name, "workspace": []} for name in names])
        if self.to >= 7 and functions["main"]:
            functions["main"] = [self._with_tensors(module, functions["main"][0]), *functions["main"][1:]]
        return functions

    def _with_tensors(self, module: Module, main: Mapping[str, Any]) -> dict[str, Any]:
        tables: dict[str, Any] = {}
        for kind, tensors in (("inputs", module.inputs), ("outputs", module.outputs)):
            if kind not in main and all(tensor.dtype and tensor.size_bytes is not None for tensor in tensors):
                tables[kind] = {tensor.name: {"dtype": tensor.dtype, "size": tensor.size_bytes} for tensor in tensors}
        return {**main, **tables}

    def _version_8(
        self, documents: Mapping[str, dict[str, Any]], members: list[PackedMember]
    ) -> tuple[bytes, list[PackedMember]]:
        for module in self.modules:
            self.notes += _inferences(module)
        modules = {
            module.name: {**documents[module.name], **declared_document(facts_of(module))} for module in self.modules
        }
        roles = {self._new_name(place): place for place in self.places}
        original = self.archive.read(METADATA_NAME)
        if self.metadata.version < self.to and self._rendered_again(documents) != original:
            members = [*members, member_of_bytes(original_name(self.metadata.version), original)]
        described = [
            manifest.describe_member(member, role=roles[member.name].role, module=roles[member.name].module)
            if member.name in roles
            else manifest.describe_member(member, role="other", module=None)
            for member in members
        ]
        return manifest.render_version_8(modules, described), members

    def _rendered_again(self, documents: Mapping[str, Mapping[str, Any]]) -> bytes:
        """Write the old metadata as a later conversion would, to which version 8 gives the keys in another order."""
        stored = json.loads(json.dumps(documents, sort_keys=True))
        return manifest.render_legacy(self.metadata.version, stored)

    def _original(self, documents: Mapping[str, Mapping[str, Any]]) -> bytes | None:
        """Give the metadata that the archive had in this version before, if it still says the same."""
        name = original_name(self.to)
        if self.metadata.version != LATEST_VERSION or name not in self.archive:
            return None
        text = self.archive.read(name)
        try:
            before = parse_metadata(load_json(text.decode(), where=name), where=name)
        except (MlfError, UnicodeDecodeError):
            return None
        same = {module.name: dict(module.document) for module in before.modules} == documents
        return text if same else None

    def _note_losses(self) -> None:
        if self.metadata.version == LATEST_VERSION:
            for module in self.modules:
                self.notes += _losses(module)
        if self.to < 6 <= self.metadata.version:
            self._note_targets()
        steps = (
            (4, "style", "the style; what is older is read as full-model"),
            (2, "memory.functions", "sizes of workspace, constants, inputs and outputs"),
        )
        for version, place, text in steps:
            if self.to < version <= self.metadata.version:
                self.notes.append(Note(kind="lost", place=place, text=text))

    def _note_targets(self) -> None:
        for module in self.modules:
            found = manifest.device_targets(module.metadata.targets)
            kept = dict(found)
            for device, text in found:
                if kept[device] != text:
                    note = f"`{text}`: version {self.to} holds one target for device {device}"
                    self.notes.append(Note(kind="lost", place=f"{module.name}: target", text=note))


def original_name(version: int) -> str:
    """Name the member in which version 8 keeps an older metadata.json that it could not write again byte by byte."""
    return f"metadata-v{version}.json"


def _is_original(name: str) -> bool:
    return name in {original_name(version) for version in READABLE_VERSIONS}


def facts_of(module: Module) -> DeclaredFacts:
    """Give what version 8 says of a module that was read from any version."""
    return DeclaredFacts(
        interface=module.interface, operators=module.operators, code=module.code, entrypoints=module.entrypoints,
        inputs=module.inputs, outputs=module.outputs, pools=module.pools, tests=module.tests,
    )  # fmt: skip


def _inferences(module: Module) -> Iterator[Note]:
    """Note which facts of a module its old metadata did not say, or said wrongly."""
    if module.version >= LATEST_VERSION:
        return
    for finding in module.findings:
        text = f"{finding.code}, as the code says; {finding.source} says {finding.said}"
        yield Note(kind="inferred", place=f"{module.name}: {finding.place}", text=text)
    for kind, tensors in (("inputs", module.inputs), ("outputs", module.outputs)):
        said = getattr(module.metadata, kind)
        yield from _order_notes(module, kind, tensors, said)
        for tensor in tensors:
            yield from _tensor_notes(f"{module.name}: {kind}.{tensor.name}", tensor, is_said=bool(said))
    for pool in module.pools:
        where = "inside the code" if pool.is_internal else "passed by the caller"
        size = "of unknown size" if pool.size_bytes is None else f"{pool.size_bytes} bytes"
        text = f"{pool.kind}, {size}, {where}"
        yield Note(kind="inferred", place=f"{module.name}: pools.{pool.name}", text=text)
    if module.style == "full-model" and module.operators is None:
        yield Note(kind="inferred", place=f"{module.name}: api.operators", text="unknown: its objects do not tell")


def _order_notes(module: Module, kind: str, tensors: Sequence[Tensor], said: object) -> Iterator[Note]:
    names = [tensor.name for tensor in tensors]
    text = None
    if kind in module.unordered and module.style != "operator":  # whose tensors are of many functions
        text = f"{', '.join(names)}, as metadata.json sorts them; nothing tells the true one"
    elif len(names) > 1 and names != sorted(names) and said:
        text = f"{', '.join(names)}; metadata.json sorts them"
    if text:
        yield Note(kind="inferred", place=f"{module.name}: order of {kind}", text=text)


def _tensor_notes(place: str, tensor: Tensor, *, is_said: bool) -> Iterator[Note]:
    if tensor.size_bytes is None or tensor.dtype is None:
        yield Note(kind="inferred", place=place, text="unknown: nothing tells its type and size")
    elif not is_said:
        yield Note(kind="inferred", place=place, text=f"{tensor.dtype}, {tensor.size_bytes} bytes")


def _losses(module: Module) -> Iterator[Note]:
    """Note what version 8 says of a module that no older version can."""
    for kind, tensors in (("inputs", module.inputs), ("outputs", module.outputs)):
        names = [tensor.name for tensor in tensors]
        if len(names) > 1 and names != sorted(names):
            yield Note(kind="lost", place=f"{module.name}: order of {kind}", text=", ".join(names))
        for tensor in tensors:
            if tensor.quantization:
                text = f"scale {tensor.quantization.scale}, zero point {tensor.quantization.zero_point}"
                yield Note(kind="lost", place=f"{module.name}: {kind}.{tensor.name}: quantization", text=text)
    for name, value in module.code.definitions:
        yield Note(kind="lost", place=f"{module.name}: code.definitions", text=f"{name}={value}")
    for test in module.tests:
        yield Note(kind="lost", place=f"{module.name}: tests", text=test.name)
