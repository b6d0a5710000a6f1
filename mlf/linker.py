"""Many archives to one firmware library.

`plan_link` reads and decides; `link` compiles, merges and writes. The library's members are one object per model, which
defines that model's entrypoints and nothing else, and one for the registry.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mlf import codegen
from mlf.archive import open_archive
from mlf.csource import without_registry
from mlf.errors import CompileError, LinkError, NameClashError, ObjectError, ToolError, UnsupportedError
from mlf.files import scratch_folder
from mlf.layout import INCLUDE_DIRECTORY
from mlf.naming import DEFAULT_LIBRARY, check_clashes, check_model_name, mangle, mangle_model, suggest_model_name
from mlf.reading import read_modules
from mlf.toolchain import RUNTIME, is_machine_fault, own_words, run_many

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mlf.archive import Archive
    from mlf.codegen import ModelInterface
    from mlf.constants import LiftedConstant
    from mlf.library import Library, ModelObject, Registry
    from mlf.module import Module
    from mlf.toolchain import Command, Compiler

    Progress = Callable[[str], None]

_ALLOCATOR = "TVMBackendAllocWorkspace"
_WORKSPACE_UNIT = "mlf workspace"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRequest:
    """One `[NAME=]ARCHIVE[:MODULE]` of the command line."""

    path: Path
    name: str | None = None
    module: str | None = None


def parse_request(text: str) -> LinkRequest:
    """Take `[NAME=]ARCHIVE[:MODULE]` apart; a file whose own name holds `=` or `:` is found all the same."""
    if Path(text).exists():
        return LinkRequest(path=Path(text))
    name: str | None
    name, equals, rest = text.partition("=")
    if not equals or "/" in name or "\\" in name:
        name, rest = None, text
    path, colon, module = rest.rpartition(":")
    if not colon or Path(rest).exists():
        path, module = rest, ""
    return LinkRequest(path=Path(path), name=name, module=module or None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedModel:
    """A model of the library to be: its interface, its module, and which symbols become its entrypoints."""

    interface: ModelInterface
    module: Module
    path: Path
    exports: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """The model's name in the library."""
        return self.interface.name

    @property
    def member(self) -> str:
        """The name of the model's member in the library."""
        return f"{self.interface.prefix}.o"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkPlan:
    """Everything that a link will do, decided; models are sorted by name."""

    models: tuple[PlannedModel, ...]
    compiler: Compiler
    output: Path


def plan_link(requests: Sequence[LinkRequest], *, output: Path, compiler: Compiler) -> LinkPlan:
    """Read the archives and decide on names and entrypoints.

    Raises NameClashError for names that cannot stand together, UnsupportedError for modules of a style that cannot be
    linked, and what reading an archive raises.
    """
    if not requests:
        raise LinkError("there is nothing to link", hint="give at least one archive: `mlf link NAME=ARCHIVE`")
    chosen = [pair for request in requests for pair in _chosen_modules(request)]
    _refuse_equal_names(chosen, output)
    models = sorted((_planned(request, module) for request, module in chosen), key=lambda model: model.name)
    check_clashes([codegen.generated_names(model.interface, owner=model.module.archive) for model in models])
    return LinkPlan(models=tuple(models), compiler=compiler, output=output)


def _chosen_modules(request: LinkRequest) -> list[tuple[LinkRequest, Module]]:
    with open_archive(request.path) as archive:
        modules = read_modules(archive, is_thorough=True)
        label = archive.label
    names = ", ".join(f"`{module.name}`" for module in modules)
    if request.module is not None:
        found = [module for module in modules if module.name == request.module]
        if not found:
            raise LinkError(f"has no module `{request.module}`; it has {names}", where=label)
        return [(request, found[0])]
    if request.name is not None and len(modules) > 1:
        hint = f"name one of them: `{request.name}={request.path}:{modules[0].name}`"
        raise LinkError(
            f"has {len(modules)} modules ({names}), which cannot all be called `{request.name}`", where=label, hint=hint
        )
    return [(request, module) for module in modules]


def _library_name(request: LinkRequest, module: Module) -> str:
    """Take the given name, else the module's in small letters, as TVM's header has it."""
    return request.name if request.name is not None else module.name.lower()


def _refuse_equal_names(chosen: Sequence[tuple[LinkRequest, Module]], output: Path) -> None:
    owners: dict[str, list[tuple[LinkRequest, Module]]] = {}
    for request, module in chosen:
        owners.setdefault(_library_name(request, module), []).append((request, module))
    clash = next((name for name, pairs in sorted(owners.items()) if len(pairs) > 1), None)
    if clash is None:
        return
    first, *_, last = owners[clash]
    command = _naming_command(chosen, output)
    raise NameClashError(
        f"{first[0].path} and {last[0].path} both hold a model called `{clash}`; give each a name of its own: `{command}`"
    )


def _naming_command(chosen: Sequence[tuple[LinkRequest, Module]], output: Path) -> str:
    """Write the command that would work, with names made of the file names where names are missing."""
    words: list[str] = []
    used: set[str] = set()
    alone = {request: sum(other is request for other, _ in chosen) == 1 for request, _ in chosen}
    for request, module in chosen:
        wanted = request.name or suggest_model_name(request.path.name.split(".")[0] if alone[request] else module.name)
        name, number = wanted, 2
        while name in used:
            name, number = f"{wanted}_{number}", number + 1
        used.add(name)
        suffix = "" if alone[request] and request.module is None else f":{module.name}"
        words.append(shlex.quote(f"{name}={request.path}{suffix}"))
    target = [] if output == Path(DEFAULT_LIBRARY) else ["-o", shlex.quote(str(output))]
    return " ".join(["mlf", "link", *words, *target])


def _planned(request: LinkRequest, module: Module) -> PlannedModel:
    name = check_model_name(_library_name(request, module), where=str(request.path))
    _refuse_unsupported(module)
    interface = codegen.model_interface(name, module)
    return PlannedModel(
        interface=interface, module=module, path=request.path, exports=((module.entrypoints["run"], interface.run_symbol),)
    )  # fmt: skip


def _refuse_unsupported(module: Module) -> None:
    what = None
    if module.style == "operator":
        what = "holds operators and no model"
    elif "aot" not in module.executors:
        what = f"is for the {' and '.join(module.executors) or 'unknown'} executor"
    elif module.interface != "c" or "run" not in module.entrypoints:
        what = "has the packed interface"
    elif module.operators != "unpacked":
        what = "has packed operators behind the C interface"
    elif module.devices:
        what = f"drives devices ({', '.join(module.devices)})"
    elif module.maps_io:
        what = "keeps its inputs and outputs in its workspace pools"
    if what:
        message = f"module `{module.name}` {what}; ahead-of-time modules with the C interface can be linked"
        raise UnsupportedError(message, where=module.archive)
    if not module.sources and not module.objects:
        raise LinkError(f"module `{module.name}` holds no code", where=module.archive)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """A file to compile, relative to the model's folder, and what messages call it."""

    source: str
    label: str
    extra: tuple[str, ...] = ()

    @property
    def output(self) -> str:
        return f"{self.source}.o"


def link(plan: LinkPlan, *, progress: Progress | None = None, jobs: int | None = None) -> Library:
    """Build the library that `plan` describes and write it, its headers and its JSON document.

    Nothing is written unless everything is right. Raises CompileError, LinkError, ObjectError, ToolError or OutputError.
    """
    from mlf import library  # noqa: PLC0415  # brings numpy and the object code, which a dry run does not need

    report = progress or (lambda _: None)
    with scratch_folder() as scratch:
        builders = [_ModelBuilder(model, plan.compiler, scratch / model.name) for model in plan.models]
        # No model's name begins with a dot, so the registry's folder is free.
        registry = library.write_registry([model.interface for model in plan.models], scratch / ".registry")
        _compile_all(builders, registry, plan.compiler, jobs or os.cpu_count() or 1, report)
        models = []
        for builder in builders:
            report(f"merging {builder.model.name}")
            models.append(builder.merge())
        report("writing the library")
        made = library.assemble(models, registry, plan.compiler, name=plan.output.name)
    library.write(made, plan.output)
    return made


def _compile_all(
    builders: Sequence[_ModelBuilder], registry: Registry, compiler: Compiler, jobs: int, report: Progress
) -> None:
    """Compile every file of every model, and the registry; raise CompileError with the words on each file that failed."""
    places = ["the registry: "]

    def commands() -> Iterator[Command]:
        yield registry.command(compiler)
        for builder in builders:
            report(f"compiling {builder.model.name}")
            for unit in builder.units():
                places.append(f"{builder.where}: {unit.label}: ")
                yield compiler.compile_command(unit.source, unit.output, cwd=builder.folder, extra=unit.extra)

    finished = run_many(commands(), jobs=jobs)
    failed = [
        f"{place}{compiler.name} cannot compile it:\n{own_words(result)}"
        for place, result in zip(places, finished, strict=True)
        if result.status != 0
    ]
    if any(is_machine_fault(result) for result in finished):
        raise ToolError("\n".join(failed))
    if failed:
        raise CompileError("\n".join(failed))


class _ModelBuilder:
    """Prepares one model in a folder of its own, and merges what the compiler makes of it."""

    def __init__(self, model: PlannedModel, compiler: Compiler, folder: Path) -> None:
        self.model = model
        self.compiler = compiler
        self.folder = folder
        self.where = f"{model.name} ({model.module.archive})"
        self.compiled: list[_Unit] = []
        self.prebuilt: list[tuple[str, bytes]] = []
        self.constants: list[LiftedConstant] = []

    def units(self) -> Iterator[_Unit]:
        """Lay out the sources, their large constants lifted; gives each file as soon as it can be compiled."""
        with open_archive(self.model.path) as archive:
            self.prebuilt = [(PurePosixPath(name).name, archive.read(name)) for name in self.model.module.objects]
            for unit in self._units(archive):
                self.compiled.append(unit)
                yield unit

    def _units(self, archive: Archive) -> Iterator[_Unit]:
        module = self.model.module
        include = self.folder / "include"
        include.mkdir(parents=True)
        self._write_headers(archive, include)
        definitions = [f"-D{name}={value}" for name, value in module.code.definitions]
        extra = ("-Iinclude", f"-I{RUNTIME / 'include'}", *definitions)
        for member in module.sources:
            path = PurePosixPath(member)
            text = archive.read_text(member)
            self._write_source(path.name, without_registry(text) if module.header else text)
            yield _Unit(source=path.name, label=path.name, extra=extra)
        if module.allocator_bytes != 0:
            yield self._workspace_unit()

    def _write_headers(self, archive: Archive, include: Path) -> None:
        module = self.model.module
        for member in module.includes:
            path = include / member.removeprefix(INCLUDE_DIRECTORY)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(member))
        if module.header and module.name != module.name.lower():
            # TVM's header is in small letters, but the code asks for one with the module's own and for its names.
            prefix = mangle_model(module.name)
            text = re.sub(rf"\b{re.escape(prefix.lower())}_", f"{prefix}_", archive.read_text(module.header))
            (include / f"{prefix}.h").write_text(text, encoding="utf-8")

    def _write_source(self, name: str, text: str) -> None:
        from mlf.constants import lift_constants  # noqa: PLC0415  # numpy

        lifted = lift_constants(text, unit=PurePosixPath(name).stem)
        self.constants += lifted.constants
        (self.folder / name).write_text(lifted.text, encoding="utf-8")

    def _workspace_unit(self) -> _Unit:
        module = self.model.module
        size = module.allocator_bytes if module.allocator_bytes is not None else module.metadata.workspace_bytes
        if size is None:
            raise LinkError(f"nothing tells how much memory {_ALLOCATOR} must serve", where=module.archive)
        (self.folder / "mlf_workspace.c").write_bytes((RUNTIME / "workspace.c").read_bytes())
        return _Unit(
            source="mlf_workspace.c",
            label=_WORKSPACE_UNIT,
            extra=(f"-DMLF_WORKSPACE_BYTES={max(size, 1)}",),
        )

    def merge(self) -> ModelObject:
        """Merge the compiled units, the lifted constants and the archive's own objects into the model's member."""
        try:
            return self._merge()
        except ObjectError as error:
            raise ObjectError(error.message, where=f"{self.where}: {error.where}", hint=error.hint) from error

    def _merge(self) -> ModelObject:
        from mlf import library  # noqa: PLC0415  # numpy
        from mlf.objects import elf, merge  # noqa: PLC0415  # numpy

        objects = [elf.parse_object((self.folder / unit.output).read_bytes(), unit.label) for unit in self.compiled]
        objects += [elf.parse_object(data, name) for name, data in self.prebuilt]
        if self.constants:
            machine = objects[0].machine
            blobs = [
                (item.symbol, item.payload_for(big_endian=machine.is_big_endian), item.alignment)
                for item in self.constants
            ]
            objects.append(elf.data_object("lifted constants", machine, blobs, section=".rodata.tvm"))
        old, new = mangle_model(self.model.module.name) + "_", mangle(self.model.name, "")
        merged = merge.merge_objects(
            objects,
            exports=dict(self.model.exports),
            unique=self.model.name,
            rename_local=lambda name: new + name[len(old) :] if name.startswith(old) else name,
            where=self.where,
        )
        return library.ModelObject(plan=self.model, merged=merged)
