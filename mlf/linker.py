"""Many archives to one firmware library.

`plan_link` reads and decides; `link` compiles, merges and writes. The library's members are one object per model, which
defines that model's entrypoints and nothing else, one for each arena, one for the check of packed arguments, and one for
the registry.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from mlf import codegen
from mlf.archive import open_archive
from mlf.arenas import ArenaOptions, lay_out, plan_arenas
from mlf.codegen import DEFAULT_REGISTRY
from mlf.entry import tensor_arguments
from mlf.errors import LinkError, NameClashError, UnsupportedError
from mlf.files import scratch_folder
from mlf.glue import ARENA_POOL, PROGRAM_BLOCK
from mlf.metadata import Pool
from mlf.module import Argument, MainCall
from mlf.naming import DEFAULT_LIBRARY, check_clashes, check_model_name, suggest_model_name
from mlf.operators import operator_models
from mlf.reading import read_modules

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlf.archive import Archive
    from mlf.arenas import Arena, ArenaNeed
    from mlf.codegen import ModelInterface
    from mlf.library import Library
    from mlf.module import Module
    from mlf.programcode import ProgramCode
    from mlf.toolchain import Compiler

    Progress = Callable[[str], None]

_TRIAL = "trial.a"
_UNKNOWN_BYTES = 4096  # a first guess, of which measuring takes a multiple
ALLOCATOR = "TVMBackendAllocWorkspace"
CODE_BLOCK = "code"  # of an arena: the buffers that the code refers to itself


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
class LinkOptions:
    """How models are put together.

    `constants` gives the sections for constants by model, for all of them under the empty name; `is_folded` lets equal
    constants and code of several models be stored once; `registry` is the stem of the registry's header; `externs` are
    patterns of names that the firmware supplies; `budget_bytes` says how much `flash` and `ram` there is.
    """

    arenas: ArenaOptions = field(default_factory=ArenaOptions)
    constants: Mapping[str, str] = field(default_factory=dict)
    is_folded: bool = True
    registry: str = DEFAULT_REGISTRY
    externs: tuple[str, ...] = ()
    budget_bytes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedModel:
    """A model of the library to be: its interface, its module, how its code is entered, and the memory that it gets.

    `program` is there for a module without a main function of its own.
    """

    interface: ModelInterface
    module: Module
    path: Path
    call: MainCall
    program: ProgramCode | None
    need: ArenaNeed | None
    arena: Arena | None

    @property
    def name(self) -> str:
        """The model's name in the library."""
        return self.interface.name

    @property
    def member(self) -> str:
        """The name of the model's member in the library."""
        return f"{self.interface.prefix}.o"

    @property
    def entrypoints(self) -> dict[str, str]:
        """The model's global functions, by what they are for."""
        roles = ["run", "tvm_module_main"]
        roles += ["map_inputs", "map_outputs"] if self.interface.io_places else []
        roles += ["get_c_metadata"] if self.interface.has_c_metadata else []
        return {role: f"{self.interface.prefix}_{role}" for role in roles}


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkPlan:
    """Everything that a link will do, decided; models are sorted by name.

    A library that `is_measured` remembers how much of its arena was in use.
    """

    models: tuple[PlannedModel, ...]
    arenas: tuple[Arena, ...]
    compiler: Compiler
    output: Path
    options: LinkOptions
    is_measured: bool = False


def plan_link(
    requests: Sequence[LinkRequest], *, output: Path, compiler: Compiler, options: LinkOptions | None = None
) -> LinkPlan:
    """Read the archives and decide on names, entrypoints and memory.

    Raises NameClashError for names that cannot stand together, UnsupportedError for modules that no library could be right
    with, LinkError for memory that is not there, and what reading an archive raises.
    """
    if not requests:
        raise LinkError("there is nothing to link", hint="give at least one archive: `mlf link NAME=ARCHIVE`")
    options = options or LinkOptions()
    chosen = [pair for request in requests for pair in chosen_modules(request)]
    refuse_equal_names(chosen, ending=() if output == Path(DEFAULT_LIBRARY) else ("-o", str(output)))
    planned = [_measured(_planned(request, module, options), compiler) for request, module in chosen]
    models = sorted(planned, key=lambda model: model.name)
    check_clashes([codegen.generated_names(model.interface, owner=model.module.archive) for model in models])
    _check_model_names(models, options)
    needs = [model.need for model in models if model.need]
    arenas = plan_arenas(needs, options.arenas, library=output.name)
    return LinkPlan(
        models=_with_arenas(models, arenas), arenas=arenas, compiler=compiler, output=output, options=options
    )


def chosen_modules(request: LinkRequest) -> list[tuple[LinkRequest, Module]]:
    """Read the modules that a request asks for; raises LinkError if they are not there, or cannot all have its name."""
    with open_archive(request.path) as archive:
        read = read_modules(archive, is_thorough=True)
        modules = tuple(chain.from_iterable(_models_of(module, archive) for module in read))
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


def _models_of(module: Module, archive: Archive) -> tuple[Module, ...]:
    return operator_models(module, archive) if module.style == "operator" else (module,)


def library_name(request: LinkRequest, module: Module) -> str:
    """Take the given name, else the module's in small letters, as TVM's header has it."""
    return request.name if request.name is not None else module.name.lower()


def refuse_equal_names(chosen: Sequence[tuple[LinkRequest, Module]], *, ending: Sequence[str] = ()) -> None:
    """Raise NameClashError for two models of one name, with a command that would work; `ending` are its last words."""
    owners: dict[str, list[tuple[LinkRequest, Module]]] = {}
    for request, module in chosen:
        owners.setdefault(library_name(request, module), []).append((request, module))
    clash = next((name for name, pairs in sorted(owners.items()) if len(pairs) > 1), None)
    if clash is None:
        return
    first, *_, last = owners[clash]
    command = _naming_command(chosen, ending)
    raise NameClashError(
        f"{first[0].path} and {last[0].path} both hold a model called `{clash}`; give each a name of its own: `{command}`"
    )


def _naming_command(chosen: Sequence[tuple[LinkRequest, Module]], ending: Sequence[str]) -> str:
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
    return " ".join(["mlf", "link", *words, *map(shlex.quote, ending)])


def _planned(request: LinkRequest, module: Module, options: LinkOptions) -> PlannedModel:
    name = check_model_name(library_name(request, module), where=str(request.path))
    interface = codegen.model_interface(name, module)
    program = _program(request, module)
    call = _program_call(module, program) if program else module.call
    _refuse(module, call)
    need = _need(name, module, call, program)
    interface = replace(interface, workspace_bytes=_workspace_bytes(interface, need))
    if options.arenas.style == "external" and need:
        _refuse_own_memory(module, call)
        lent = Pool(
            name=ARENA_POOL, kind="workspace", size_bytes=need.size_bytes, alignment_bytes=need.alignment_bytes, is_internal=False
        )  # fmt: skip
        interface = replace(interface, external_pools=(*interface.external_pools, lent))
    return PlannedModel(
        interface=interface, module=module, path=request.path, call=call or MainCall(function="", convention=""), program=program,
        need=need, arena=None,
    )  # fmt: skip


def _measured(model: PlannedModel, compiler: Compiler) -> PlannedModel:
    """Put what a model allocates when it runs in the place of what metadata says, where the model can run here."""
    need = model.need
    if need is None or need.source not in ("metadata", "unknown"):
        return model
    from mlf import measure  # noqa: PLC0415  # numpy and the object code

    if not measure.can_run(compiler):
        return _known(model)
    trial = measure.generous(model, need.allocator_bytes, is_host=compiler.target.is_host)
    arenas = plan_arenas([trial.need] if trial.need else [], ArenaOptions(), library=_TRIAL)
    plan = LinkPlan(
        models=_with_arenas([trial], arenas), arenas=arenas, compiler=compiler, output=Path(_TRIAL), options=LinkOptions(is_folded=False, externs=("*",)),
        is_measured=True,
    )  # fmt: skip
    found = measure.measured_allocation(plan)
    if found is None:
        return _known(model)
    need = replace(need, allocator_bytes=found, source="measured")
    return replace(
        model, need=need, interface=replace(model.interface, workspace_bytes=_workspace_bytes(model.interface, need))
    )


def _known(model: PlannedModel) -> PlannedModel:
    """Raise LinkError if nothing tells what the model allocates."""
    if model.need and model.need.source == "unknown":
        raise LinkError(
            f"nothing tells how much memory {ALLOCATOR} must serve", where=model.module.archive,
            hint="it can be measured where the target can run: install its emulator",
        )  # fmt: skip
    return model


def _workspace_bytes(interface: ModelInterface, need: ArenaNeed | None) -> int:
    """Sum the memory that a model uses while it runs: what it is lent, and what it has of an arena."""
    lent = sum(pool.size_bytes or 0 for pool in interface.external_pools if pool.kind == "workspace")
    return lent + (need.size_bytes if need else 0)


def _program(request: LinkRequest, module: Module) -> ProgramCode | None:
    """Make a main function for a module that has none."""
    if module.graph is None:
        return None
    from mlf.frontends.graph import program_of_graph  # noqa: PLC0415  # numpy
    from mlf.programcode import program_code  # noqa: PLC0415

    with open_archive(request.path) as archive:
        return program_code(program_of_graph(module, archive))


def _program_call(module: Module, program: ProgramCode) -> MainCall:
    memory = (Argument(kind="program", index=0),) if program.arena_bytes else ()
    return MainCall(function="execute", convention="unpacked", arguments=(*tensor_arguments(module), *memory))


def _refuse(module: Module, call: MainCall | None) -> None:
    """Refuse what cannot be right in a library, with every reason."""
    reasons = []
    if not module.sources and not module.objects:
        raise LinkError(f"module `{module.name}` holds no code", where=module.archive)
    if call is None:
        reasons.append("has no main function of a known form")
    names = {True: "inputs", False: "outputs"}
    for is_input, tensors in ((True, module.inputs), (False, module.outputs)):
        dynamic = [tensor.name for tensor in tensors if tensor.size_bytes is None]
        if dynamic:
            reasons.append(f"has {names[is_input]} of unknown size: {', '.join(dynamic)}")
    reasons += [f"does not tell the order of its {kind}" for kind in module.unordered if module.style != "operator"]
    if module.maps_io and not module.io_places:
        reasons.append("does not tell where in its pools the inputs and outputs lie")
    reasons += _overlaps(module)
    if reasons:
        raise UnsupportedError(f"module `{module.name}` {'; it '.join(reasons)}", where=module.archive)


def _overlaps(module: Module) -> list[str]:
    """Tell of outputs that lie in the same place of a pool, where the last that is written destroys the others."""
    places = list(zip(module.outputs, module.io_places[len(module.inputs) :], strict=False))
    return [
        f"puts the outputs `{one.name}` and `{other.name}` into the same memory"
        for index, (one, here) in enumerate(places)
        for other, there in places[index + 1 :]
        if here.pool == there.pool
        and here.offset_bytes < there.offset_bytes + (other.size_bytes or 0)
        and there.offset_bytes < here.offset_bytes + (one.size_bytes or 0)
    ]


def _need(name: str, module: Module, call: MainCall | None, program: ProgramCode | None) -> ArenaNeed | None:
    """Work out what a model needs of an arena: pools inside its code, its program's plan, what it allocates."""
    own = own_pools(module, call)
    pieces = [
        (pool.name, pool.size_bytes or 0, pool.alignment_bytes)
        for pool in module.pools
        if pool.is_internal and pool.kind == "workspace" and pool.name not in own
    ]
    if own:
        alignment = max(pool.alignment_bytes for pool in own.values())
        sizes = [pool.size_bytes or 0 for pool in own.values()]
        size = sum(-(-size // alignment) * alignment for size in sizes) if len(sizes) > 1 else sizes[0]
        pieces.append((CODE_BLOCK, size, alignment))
    if program and program.arena_bytes:
        pieces.append((PROGRAM_BLOCK, program.arena_bytes, program.alignment_bytes))
    if module.allocator_bytes is not None:
        return lay_out(name, pieces, allocator_bytes=module.allocator_bytes, source="code")
    stated = _stated_allocation(module)
    source = "unknown" if stated is None else "metadata"
    size = _UNKNOWN_BYTES if stated is None else stated
    return lay_out(name, pieces, allocator_bytes=size, source=source, unit_bytes=module.alignment_bytes)


def own_pools(module: Module, call: MainCall | None) -> dict[str, Pool]:
    """Give the workspace pools that the code refers to itself, which nobody passes to main, by name."""
    passed = {module.pools[item.index].name for item in (call.arguments if call else ()) if item.kind == "pool"}
    return {
        pool.name: pool
        for pool in module.pools
        if pool.is_internal and pool.kind == "workspace" and pool.name not in passed
    }


def _stated_allocation(module: Module) -> int | None:
    """Give what metadata says that the code allocates: of a graph its most demanding operator, else all of main."""
    if module.graph is None:
        return module.metadata.workspace_bytes
    return max(module.metadata.operator_workspaces.values(), default=module.metadata.workspace_bytes)


def _refuse_own_memory(module: Module, call: MainCall | None) -> None:
    """An application can lend only memory that is passed to main."""
    own = own_pools(module, call)
    if own:
        raise UnsupportedError(
            f"module `{module.name}` refers to its workspace `{next(iter(own))}` from inside its code, so nobody can lend it",
            where=module.archive, hint="link it with --arena shared or private",
        )  # fmt: skip


def _with_arenas(models: Sequence[PlannedModel], arenas: Sequence[Arena]) -> tuple[PlannedModel, ...]:
    by_model = {name: arena for arena in arenas for name in arena.models}
    return tuple(replace(model, arena=by_model.get(model.name)) for model in models)


def _check_model_names(models: Sequence[PlannedModel], options: LinkOptions) -> None:
    """Every model that an option names must be there."""
    known = {model.name for model in models}
    named = [("--concurrent", name) for group in options.arenas.concurrent for name in group]
    named += [("--place", name) for name in options.arenas.places]
    named += [("--section", name) for name in options.constants if name]
    wrong = [f"{option} names `{name}`" for option, name in named if name not in known]
    if wrong:
        raise LinkError(f"{', '.join(wrong)}; the models are {', '.join(sorted(known))}")


def link(plan: LinkPlan, *, progress: Progress | None = None, jobs: int | None = None) -> Library:
    """Build the library that `plan` describes and write it, its headers and its JSON document.

    Nothing is written unless everything is right. Raises CompileError, LinkError, ObjectError, ToolError or OutputError.
    """
    from mlf import build, library  # noqa: PLC0415  # numpy and the object code, which a dry run does not need

    report = progress or (lambda _: None)
    with scratch_folder() as scratch:
        built = build.build(plan, scratch, jobs=jobs or os.cpu_count() or 1, report=report)
        report("writing the library")
        made = library.assemble(built, plan)
    library.write(made, plan.output)
    return made
