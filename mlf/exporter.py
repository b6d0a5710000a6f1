"""Any code with a short description becomes an archive of version 8.

Sources are another archive, what TVM left behind, or a folder with a `description.toml` (`mlf.frontends.description`). The
API style decides which entrypoints exist and which are generated (`mlf.frontends.described`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlf import layout, manifest
from mlf.archive import METADATA_NAME, open_archive
from mlf.converter import draft_conversion
from mlf.errors import InputError, TensorError, UnsupportedError
from mlf.files import scratch_folder
from mlf.frontends.described import draft_described
from mlf.frontends.description import DESCRIPTION_NAME, GoldenFiles, parse_description, read_description
from mlf.frontends.scan import describe_folder
from mlf.frontends.table import listed
from mlf.frontends.tvm_folder import find_tvm_folder, stage
from mlf.metadata import LATEST_VERSION, GoldenTest, golden_document, identity_of, parse_metadata
from mlf.pack import member_of_bytes
from mlf.reading import read_contents
from mlf.strictjson import load_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlf.archive import Archive
    from mlf.converter import ArchiveDraft, Note
    from mlf.frontends.description import Description
    from mlf.metadata import ModuleMetadata, Tensor
    from mlf.pack import PackedMember

__all__ = ["Export", "GoldenFiles", "describe_folder", "export"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """An archive that was written: its file name, identity and modules, how many files it holds, and what is worth a note."""

    archive: str
    version: int
    identity: str
    modules: tuple[str, ...]
    member_count: int
    notes: tuple[Note, ...]


def export(
    source: Path, *, output: Path, name: str | None = None, golden: Sequence[GoldenFiles] = (), epoch_s: int = 0
) -> Export:
    """Write `source` as an archive of version 8 to `output`.

    `source` is an archive of any version, packed or unpacked; a folder that TVM left behind; a description, or a folder
    with one; or a folder of code that needs none. `name` is the model's: for an archive it chooses one of its modules.
    `golden` are tests that are added to those of the source. Raises InputError, which lists every fault of a description
    or of the code, TensorError for golden data that does not fit, OutputError, and what reading an archive raises.
    """
    if source.is_file() and source.suffix == ".toml":
        return _export_described(read_description(source, name=name), output, golden, epoch_s)
    if not source.is_dir() or (source / METADATA_NAME).exists():
        return _export_archive(source, output, name, golden, epoch_s)
    if (source / DESCRIPTION_NAME).exists():
        return _export_described(read_description(source / DESCRIPTION_NAME, name=name), output, golden, epoch_s)
    found = find_tvm_folder(source)
    if found is None:
        return _export_described(_guessed(source, name), output, golden, epoch_s)
    with scratch_folder() as scratch:
        staged, passed = scratch / "staged" / source.resolve().name, scratch / source.resolve().name
        stage(found, name=name, into=staged)
        with open_archive(staged) as archive:
            draft = draft_conversion(archive, to=7)
            draft.write(passed)
        made = _export_archive(passed, output, None, golden, epoch_s)
    return replace(made, notes=(*draft.notes, *made.notes))


def _guessed(folder: Path, name: str | None) -> Description:
    """Describe a folder by what its files tell for sure; what they do not is an error that lists it."""
    label = folder.resolve().name
    text = describe_folder(folder)
    try:
        return parse_description(text, label=label, folder=folder, name=name)
    except InputError as error:
        message = f"has no {DESCRIPTION_NAME}, and its files do not tell everything: {error.message}"
        raise InputError(
            message, where=label, hint=f"`mlf export --init {folder}`, then fill in what is marked"
        ) from error


def _export_archive(
    source: Path, output: Path, name: str | None, golden: Sequence[GoldenFiles], epoch_s: int
) -> Export:
    with open_archive(source) as archive:
        own = _without(archive, source, output)
        draft = _with_tests(draft_conversion(own, to=LATEST_VERSION, module=name), golden, where=archive.label)
        draft.write(output, epoch_s=epoch_s)
    return _made(draft, output)


def _without(archive: Archive, source: Path, output: Path) -> Archive:
    """Leave out a file that an earlier export wrote into the folder that is exported."""
    if archive.form != "directory" or source.resolve() not in output.resolve().parents:
        return archive
    own = output.resolve().relative_to(source.resolve()).as_posix()
    return replace(archive, members=tuple(member for member in archive.members if member.name != own))


def _export_described(description: Description, output: Path, golden: Sequence[GoldenFiles], epoch_s: int) -> Export:
    draft = draft_described(description)
    draft = _with_tests(draft, (*description.tests, *golden), where=description.label)
    with scratch_folder() as scratch:  # what mlf itself could not read again is never written
        checked = scratch / f"{description.name}.tar"
        draft.write(checked)
        read_contents(checked)
    draft.write(output, epoch_s=epoch_s)
    return _made(draft, output)


def _made(draft: ArchiveDraft, output: Path) -> Export:
    return Export(
        archive=output.name, version=draft.version, identity=draft.identity or "", modules=draft.modules,
        member_count=len(draft.members) + 1, notes=draft.notes,
    )  # fmt: skip


def _with_tests(draft: ArchiveDraft, golden: Sequence[GoldenFiles], *, where: str) -> ArchiveDraft:
    """Add golden data to the one module of an archive to be."""
    if not golden:
        return draft
    document: Any = load_json(draft.metadata.decode(), where=METADATA_NAME)
    metadata = parse_metadata(document, where=METADATA_NAME)
    if len(draft.modules) != 1:
        names = ", ".join(f"`{module}`" for module in draft.modules)
        raise UnsupportedError(f"has the modules {names}; golden data belongs to one", where=where, hint="choose it: `--name NAME`")  # fmt: skip
    module = metadata.modules[0]
    tests, members = _golden_members(module, golden, where=where)
    keys = dict(document["modules"][module.name])
    keys["tests"] = [*keys.get("tests", []), *map(golden_document, tests)]
    described = [manifest.describe_member(member, role="test", module=module.name) for member in members]
    text = manifest.render_version_8({module.name: keys}, (*(metadata.members or ()), *described))
    rendered: Any = load_json(text.decode(), where=METADATA_NAME)
    return replace(draft, metadata=text, members=(*draft.members, *members), identity=identity_of(rendered))


def _golden_members(
    module: ModuleMetadata, golden: Sequence[GoldenFiles], *, where: str
) -> tuple[list[GoldenTest], list[PackedMember]]:
    """Read golden data and check it against the tensors; TensorError lists every array that does not fit."""
    from mlf.arrays import array_faults, load_arrays, npz_bytes  # noqa: PLC0415  # numpy

    facts = module.declared
    tensors: dict[str, tuple[Tensor, ...]] = {"inputs": facts.inputs, "outputs": facts.outputs} if facts else {}
    used = {test.name for test in facts.tests} if facts else set()
    tests, members, faults = [], [], []
    for item in golden:
        name = item.name or next(name for number in range(1, 10**6) if (name := f"golden{number}") not in used)
        if name in used:
            faults.append(f"there are two tests called `{name}`")
        used.add(name)
        paths = {}
        for kind, expected in tensors.items():
            file: Path = getattr(item, kind)
            arrays = load_arrays(file)
            faults += [f"{file.name}: {fault}" for fault in array_faults(expected, arrays, kind=kind.removesuffix("s"))]
            paths[kind] = f"{layout.TEST_DIRECTORY}{module.name}/{name}.{kind}.npz"
            members.append(member_of_bytes(paths[kind], npz_bytes(arrays)))
        tests.append(GoldenTest(name=name, inputs=paths["inputs"], outputs=paths["outputs"], rtol=item.rtol, atol=item.atol))  # fmt: skip
    if faults:
        raise TensorError(f"golden data: {listed(faults)}", where=where)
    return tests, members
