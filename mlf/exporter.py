"""Any code with a short description becomes an archive of version 8.

Sources are another archive, what TVM left behind, or a folder with a `description.toml` (`mlf.frontends.description`). The
API style decides which entrypoints exist and which are generated (`mlf.frontends.described`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mlf import layout, manifest
from mlf.archive import METADATA_NAME, open_archive
from mlf.birth import check_birth
from mlf.converter import Note, draft_conversion
from mlf.errors import InputError, TensorError, UnsupportedError
from mlf.files import scratch_folder
from mlf.frontends.choice import ModelOptions, compile_model, is_model_file
from mlf.frontends.described import draft_described
from mlf.frontends.description import (
    DESCRIPTION_NAME,
    Description,
    Entry,
    GoldenFiles,
    parse_description,
    read_description,
)
from mlf.frontends.scan import describe_folder
from mlf.frontends.table import listed
from mlf.frontends.tvm_folder import find_tvm_folder, stage
from mlf.metadata import LATEST_VERSION, GoldenTest, golden_document, identity_of, parse_metadata
from mlf.naming import check_model_name, mangle, suggest_model_name, unique_c_names
from mlf.pack import member_of_bytes
from mlf.reading import read_contents
from mlf.strictjson import load_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mlf.archive import Archive
    from mlf.converter import ArchiveDraft
    from mlf.frontends.compiled import CompiledModel
    from mlf.linker import Progress
    from mlf.metadata import ModuleMetadata, Tensor
    from mlf.modelcode import ModelCode
    from mlf.pack import PackedMember
    from mlf.reference import BirthCheck

__all__ = ["Export", "GoldenFiles", "ModelOptions", "describe_folder", "export", "export_relax"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """An archive that was written: its file name, identity and modules, how many files it holds, and what is worth a note.

    `check` tells of a trained model how far its C is from the runtime of its format, None if that was not asked.
    """

    archive: str
    version: int
    identity: str
    modules: tuple[str, ...]
    member_count: int
    notes: tuple[Note, ...]
    check: BirthCheck | None = None


def export(  # noqa: PLR0913  # what a person may want to say
    source: Path,
    *,
    output: Path,
    name: str | None = None,
    golden: Sequence[GoldenFiles] = (),
    model: ModelOptions | None = None,
    epoch_s: int = 0,
    progress: Progress | None = None,
) -> Export:
    """Write `source` as an archive of version 8 to `output`.

    `source` is a trained model (`.onnx`, `.tflite`, `.pt2`), which is compiled as `model` says; an archive of any version,
    packed or unpacked; a folder that TVM left behind; a description, or a folder with one; or a folder of code that needs
    none. `name` is the model's: for an archive it chooses one of its modules. `golden` are tests that are added to those of
    the source. Raises InputError, which lists every fault of a description or of the code, TensorError for golden data that
    does not fit, OutputError, what reading an archive raises, and for a model what `export_model` raises.
    """
    if is_model_file(source):
        return export_model(source, output=output, name=name, golden=golden, options=model, epoch_s=epoch_s, progress=progress)  # fmt: skip
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


def export_model(  # noqa: PLR0913  # what a person may want to say
    source: Path,
    *,
    output: Path,
    name: str | None = None,
    golden: Sequence[GoldenFiles] = (),
    options: ModelOptions | None = None,
    epoch_s: int = 0,
    progress: Progress | None = None,
) -> Export:
    """Compile a trained model to C and write that as an archive.

    Raises UnsupportedError for what no front end can compile, ToolError where none is installed, DeviationError if the C
    does not compute what the file's own runtime does.
    """
    told, options = progress or (lambda _: None), options or ModelOptions()
    chosen = name or suggest_model_name(source.stem)
    check_model_name(chosen, where=source.name)
    told(f"compiling {source.name}")
    compiled = compile_model(source, name=chosen, options=options)
    told(f"checking {source.name}")
    return _export_compiled(
        compiled, chosen, source.name, partial(check_birth, source=source, options=options), output=output, golden=golden,
        is_packed=options.operators == "packed", epoch_s=epoch_s,
    )  # fmt: skip


def export_relax(  # what a person may want to say
    module: Any,  # noqa: ANN401  # a tvm.IRModule; TVM is optional
    *,
    output: Path,
    name: str,
    golden: Sequence[GoldenFiles] = (),
    options: ModelOptions | None = None,
    epoch_s: int = 0,
) -> Export:
    """Compile a module of TVM's Relax to C and write that as an archive; raises what `export_model` raises."""
    from mlf.frontends.tvm import compile_relax  # noqa: PLC0415

    check_model_name(name, where=output.name)
    options = options or ModelOptions()
    compiled = compile_relax(module, name=name, level=options.level, is_scheduled=options.is_scheduled)
    return _export_compiled(
        compiled, name, name, None, output=output, golden=golden, is_packed=options.operators == "packed", epoch_s=epoch_s
    )  # fmt: skip


def _export_compiled(  # noqa: PLR0913  # all that an archive of a model is made of
    compiled: CompiledModel,
    name: str,
    label: str,
    check: Callable[[Path, str], BirthCheck | str] | None,
    *,
    output: Path,
    golden: Sequence[GoldenFiles],
    is_packed: bool,
    epoch_s: int,
) -> Export:
    with scratch_folder() as scratch:
        draft = _draft_compiled(compiled, name, label, scratch, is_packed=is_packed)
        checked = scratch / f"{name}.tar"
        draft.write(checked)
        read_contents(checked)  # what mlf itself could not read again is never written
        said = check(checked, name) if check else ""
        birth = None if isinstance(said, str) else said
        own = _golden_of(birth, scratch) if birth and birth.is_judged else ()
        draft = _with_tests(draft, (*own, *golden), where=label)
        texts = birth.notes if birth else (said,) if isinstance(said, str) and said else ()
        notes = tuple(Note(kind="unchecked", place=name, text=text) for text in texts)
        draft.write(output, epoch_s=epoch_s)
    made = _made(draft, output)
    return replace(made, notes=(*made.notes, *notes), check=birth)


def _golden_of(birth: BirthCheck, folder: Path) -> tuple[GoldenFiles, ...]:
    """Keep the first inputs of a check, and what belongs to them, as golden data."""
    from mlf.arrays import npz_bytes  # noqa: PLC0415  # numpy

    files = {"inputs": folder / "golden.inputs.npz", "outputs": folder / "golden.outputs.npz"}
    files["inputs"].write_bytes(npz_bytes(birth.golden_inputs))
    files["outputs"].write_bytes(npz_bytes(birth.golden_outputs))
    return (GoldenFiles(inputs=files["inputs"], outputs=files["outputs"], rtol=0.0, atol=birth.golden_atol),)


def _draft_compiled(compiled: CompiledModel, name: str, label: str, folder: Path, *, is_packed: bool) -> ArchiveDraft:
    from mlf.modelcode import model_code  # noqa: PLC0415  # numpy

    compiled = _with_c_names(compiled)
    code = model_code(compiled, name=name, is_packed=is_packed)
    sources = {"main.c": code.main, "operators.c": code.operators}
    for file, text in sources.items():
        (folder / file).write_text(text)
    description = Description(
        label=label, folder=folder, name=name, interface="packed" if is_packed else "c",
        operators="packed" if is_packed else "unpacked",
        entry=Entry(function=mangle(name, "tvm_module_main" if is_packed else "run")),
        sources=tuple(sources), headers=(), include_directories=(), objects=(), definitions=(), allocates_bytes=None,
        inputs=compiled.inputs, outputs=compiled.outputs, pools=(code.pool,) if code.pool else (), parameters=None, tests=(),
    )  # fmt: skip
    texts = (f"with {compiled.generator}", *compiled.notes, _memory_text(code))
    notes = tuple(Note(kind="compiled", place=name, text=text) for text in texts)
    draft = draft_described(description)
    return replace(draft, notes=(*notes, *draft.notes))


def _memory_text(code: ModelCode) -> str:
    """Tell what the model needs while it runs, and how much of that no plan could spare."""
    size_bytes = code.pool.size_bytes or 0 if code.pool else 0
    above = size_bytes - code.lower_bound_bytes
    spare = f", {above} above the least possible" if above else ", the least possible"
    return f"its workspace takes {size_bytes} bytes{spare}" if size_bytes else "it takes no workspace"


def _with_c_names(compiled: CompiledModel) -> CompiledModel:
    """Give tensors names in C: models call theirs `0`, `x:1` or `int`, and an input as an output."""
    names = iter(unique_c_names([tensor.name for tensor in (*compiled.inputs, *compiled.outputs)]))
    inputs = tuple(replace(tensor, c_name=next(names)) for tensor in compiled.inputs)
    return replace(
        compiled, inputs=inputs, outputs=tuple(replace(tensor, c_name=next(names)) for tensor in compiled.outputs)
    )


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
