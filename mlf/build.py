"""From a link plan to objects: lay sources out, compile them, bind their memory, merge, fold.

Everything of a model is merged to one object; the arenas, the check of packed arguments and the registry are objects of
their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mlf import __version__, codegen, glue
from mlf.archive import open_archive
from mlf.converter import archive_identity
from mlf.csource import with_separate_constants, without_descriptor, without_registry, without_wrapper
from mlf.descriptor import ModelDescriptor, encode
from mlf.errors import CompileError, ObjectError, ToolError
from mlf.externals import declared_families
from mlf.layout import INCLUDE_DIRECTORY
from mlf.linker import ALLOCATOR, CODE_BLOCK, own_pools
from mlf.naming import mangle, mangle_model
from mlf.objects import bind, elf, merge
from mlf.objects.abi import incompatibility, object_facts
from mlf.objects.ar import MAGIC as AR_MAGIC
from mlf.objects.ar import select_members
from mlf.objects.fold import Folded, fold_objects
from mlf.stack import read_callgraph_info
from mlf.toolchain import RUNTIME, is_machine_fault, own_words, run_many

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mlf.archive import Archive
    from mlf.arenas import Arena
    from mlf.codegen import RegistryNames
    from mlf.constants import LiftedConstant
    from mlf.linker import LinkPlan, PlannedModel
    from mlf.objects.elf import ElfObject
    from mlf.objects.merge import MergedObject
    from mlf.toolchain import Command, Compiler

    Progress = Callable[[str], None]

CONSTANT_SECTION = ".rodata.tvm"
DESCRIPTOR_SECTION = ".rodata.mlf"
ARGUMENTS_MEMBER = "mlf_arguments.o"
REGISTRY_MEMBER = "mlf_models.o"
_RELEASE = "TVMBackendFreeWorkspace"
_GLUE = "mlf_glue.c"
_BACKEND = "mlf_backend.c"
_DESCRIPTOR = "mlf_descriptor"
_INCLUDES = tuple(f"-I{RUNTIME / name}" for name in ("glue", "public", "include"))


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltModel:
    """A model of the plan, the object that it became, and the backend libraries that it may ask for."""

    plan: PlannedModel
    merged: MergedObject
    identity: str
    families: frozenset[str]
    descriptor_bytes: int
    frames: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """Everything that a library is put together from; `support` are objects of mlf's own by member name."""

    models: tuple[BuiltModel, ...]
    support: Mapping[str, MergedObject]
    headers: Mapping[str, str]
    registry: RegistryNames
    folded: Folded | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """A file to compile, relative to the folder of its owner, and what messages call it."""

    source: str
    label: str
    extra: tuple[str, ...] = ()

    @property
    def output(self) -> str:
        return f"{self.source}.o"


def build(plan: LinkPlan, scratch: Path, *, jobs: int, report: Progress) -> Built:
    """Build the objects of a library below `scratch`; raises CompileError, LinkError, ObjectError or ToolError."""
    builders = [_ModelBuilder(model, plan, scratch / model.name) for model in plan.models]
    support = _Support(plan, scratch / ".support", builders)  # no model's name begins with a dot
    _compile_all([*builders, support], plan.compiler, jobs, report)
    target = support.target()
    models = []
    for builder in builders:
        report(f"merging {builder.model.name}")
        models.append(builder.merge(target))
    folded = None
    if plan.options.is_folded:
        report("folding")
        merged = {model.plan.name: model.merged.data for model in models}
        folded = fold_objects(merged, except_section=DESCRIPTOR_SECTION)  # each descriptor is another model's
        models = [replace(model, merged=replace(model.merged, data=folded.data[model.plan.name])) for model in models]
    return Built(
        models=tuple(models), support=support.merged(models), headers=support.headers, registry=support.registry, folded=folded
    )  # fmt: skip


def _compile_all(owners: Iterable[_ModelBuilder | _Support], compiler: Compiler, jobs: int, report: Progress) -> None:
    """Compile every file of every owner; raise CompileError with the words on each file that failed."""
    places: list[str] = []

    def commands() -> Iterator[Command]:
        for owner in owners:
            report(f"compiling {owner.name}")
            for unit in owner.units():
                places.append(f"{owner.where}: {unit.label}: ")
                yield compiler.compile_command(unit.source, unit.output, cwd=owner.folder, extra=unit.extra)

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


class _Support:
    """Prepares what models share: their arenas, the check of packed arguments, the registry, all headers.

    The models' builders give their units first: the registry's symbols hold a digest of the identities that they read.
    """

    name = "the library"
    where = "the library"

    def __init__(self, plan: LinkPlan, folder: Path, builders: Sequence[_ModelBuilder]) -> None:
        self.plan = plan
        self.folder = folder
        self.builders = builders
        self.interfaces = [model.interface for model in plan.models]

    @cached_property
    def registry(self) -> RegistryNames:
        """The names of the registry."""
        identities = {builder.name: builder.identity for builder in self.builders}
        return codegen.registry_names(self.plan.options.registry, identities)

    @cached_property
    def headers(self) -> dict[str, str]:
        """All headers by their path below `include/`."""
        found = {interface.header: codegen.model_header(interface) for interface in self.interfaces}
        found[self.registry.header] = codegen.models_header(self.interfaces, self.registry)
        for path in ("mlf/model.h", "tvm/runtime/c_runtime_api.h", "dlpack/dlpack.h"):
            owner = "public" if path.startswith("mlf") else "include"
            found[path] = (RUNTIME / owner / path).read_text(encoding="utf-8")
        return found

    def _sources(self) -> dict[str, str]:
        """Give the sources by the member that each becomes."""
        found = {
            arena.member: codegen.render("arena.c.j2", {"arena": arena, "is_measured": self.plan.is_measured})
            for arena in self.plan.arenas
        }
        found[ARGUMENTS_MEMBER] = (RUNTIME / "glue" / "mlf_arguments.c").read_text(encoding="utf-8")
        found[REGISTRY_MEMBER] = codegen.models_source(self.interfaces, self.registry)
        return found

    def units(self) -> Iterator[_Unit]:
        """Write the sources and headers; gives each source."""
        for name, text in self.headers.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(text, encoding="utf-8")
        for member, text in self._sources().items():
            source = member.removesuffix(".o") + ".c"
            (self.folder / source).write_text(text, encoding="utf-8")
            # What the registry defines may be asked for from outside of a shared object that the library is part of.
            visible = ("-fvisibility=default",) if member == REGISTRY_MEMBER else ()
            yield _Unit(source=source, label=source, extra=("-I.", *_INCLUDES, *visible))

    def _object(self, member: str) -> ElfObject:
        return elf.parse_object((self.folder / f"{member.removesuffix('.o')}.c.o").read_bytes(), member)

    def target(self) -> ElfObject:
        """Give an object that the target's compiler made, to compare others with."""
        return self._object(ARGUMENTS_MEMBER)

    def merged(self, models: Iterable[BuiltModel]) -> dict[str, MergedObject]:
        """Give the objects with the promised names alone; an arena also defines what models name inside it."""
        wanted = {item.name for model in models for item in model.merged.undefined}
        made = {arena.member: self._arena(arena, wanted) for arena in self.plan.arenas}
        made[ARGUMENTS_MEMBER] = _hidden(self._object(ARGUMENTS_MEMBER), [glue.CHECK_ARGUMENTS], is_weak=True)
        registry = {name: name for name in (self.registry.models_symbol, self.registry.find_symbol)}
        made[REGISTRY_MEMBER] = merge.merge_objects(
            [self._object(REGISTRY_MEMBER)], exports=registry, unique="registry"
        )
        return made

    def _arena(self, arena: Arena, wanted: set[str]) -> MergedObject:
        item = self._object(arena.member)
        bind.without_content(item, f"{arena.symbol}_memory")
        names = [arena.symbol, f"{arena.symbol}_memory"]
        functions = [*map(arena.allocator, arena.units_bytes), f"{arena.symbol}_free"]
        names += [name for name in functions if name in wanted]
        names += [f"{arena.symbol}_peak"] if self.plan.is_measured else []
        inside = re.compile(rf"{arena.symbol}_at([0-9]+)")
        for name in sorted(wanted):
            found = inside.fullmatch(name)
            if found:
                bind.publish(item, f"{arena.symbol}_memory", name, offset_bytes=int(found[1]))
                names.append(name)
        return _hidden(item, names)


def _hidden(item: ElfObject, names: Iterable[str], *, is_weak: bool = False) -> MergedObject:
    """Give an object with these names, which only libraries themselves use; what `is_weak` is the same in all of them."""
    exports = {name: name for name in names}
    return merge.merge_objects([item], exports=exports, unique="library", is_hidden=True, is_weak=is_weak)


class _ModelBuilder:
    """Prepares one model in a folder of its own, and merges what the compiler makes of it."""

    def __init__(self, model: PlannedModel, plan: LinkPlan, folder: Path) -> None:
        self.model = model
        self.plan = plan
        self.folder = folder
        self.name = model.name
        self.where = f"{model.name} ({model.module.archive})"
        self.compiled: list[_Unit] = []
        self.prebuilt: list[tuple[str, bytes]] = []
        self.constants: list[LiftedConstant] = []
        self.include_names: set[str] = set()
        self.identity = ""

    def units(self) -> Iterator[_Unit]:
        """Lay out the sources, their large constants lifted; gives each file as soon as it can be compiled."""
        yield self._glue_unit()
        with open_archive(self.model.path) as archive:
            self.identity = archive_identity(archive)
            self.prebuilt = [(PurePosixPath(name).name, archive.read(name)) for name in self.model.module.objects]
            for unit in self._units(archive):
                self.compiled.append(unit)
                yield unit

    def _glue_unit(self) -> _Unit:
        model = self.model
        self.folder.mkdir(parents=True)
        text = glue.glue_source(
            glue.GlueModel(
                interface=model.interface, module=model.module, call=model.call, need=model.need, program=model.program.text if model.program else None,
                is_external=bool(model.arena and model.arena.is_external),
            )
        )  # fmt: skip
        (self.folder / "glue").mkdir()
        (self.folder / "glue" / _GLUE).write_text(text, encoding="utf-8")
        (self.folder / "glue" / model.interface.header).write_text(
            codegen.model_header(model.interface), encoding="utf-8"
        )
        return _Unit(source=f"glue/{_GLUE}", label=_GLUE, extra=_INCLUDES)

    def _units(self, archive: Archive) -> Iterator[_Unit]:
        module = self.model.module
        include = self.folder / "include"
        include.mkdir()
        self._write_headers(archive, include)
        definitions = [f"-D{name}={value}" for name, value in module.code.definitions]
        extra = ("-Iinclude", f"-I{RUNTIME / 'include'}", *definitions)
        for member in module.sources:
            path = PurePosixPath(member)
            text = archive.read_text(member)
            self.include_names |= set(_INCLUDED.findall(text))
            self._write_source(path.name, self._plain(text))
            half = self.plan.compiler.half_flags if _HALF.search(text) else ()
            yield _Unit(source=path.name, label=path.name, extra=(*extra, *half))
        if self.prebuilt:
            (self.folder / _BACKEND).write_bytes((RUNTIME / "glue" / _BACKEND).read_bytes())
            yield _Unit(source=_BACKEND, label=_BACKEND, extra=extra)

    def _plain(self, text: str) -> str:
        """Leave out what nobody needs and what may not compile: TVM's registry, and its wrapper around main."""
        module, call = self.model.module, self.model.call
        text = with_separate_constants(without_descriptor(without_registry(text)))
        if module.graph or call.convention == "structs" or module.maps_io:
            return text
        own = {pool.name for pool in module.pools if pool.is_internal and re.search(rf"\b{pool.name}\b", text)}
        return without_wrapper(text, run=mangle(module.name, "run"), main=call.function, pools=own)

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

    def merge(self, target: ElfObject) -> BuiltModel:
        """Merge the compiled units, the lifted constants and the archive's own objects into the model's member."""
        try:
            return self._merge(target)
        except ObjectError as error:
            where = f"{self.where}: {error.where}" if error.where != self.where else self.where
            raise ObjectError(error.message, where=where, hint=error.hint) from error

    def _merge(self, target: ElfObject) -> BuiltModel:
        entry = elf.parse_object((self.folder / "glue" / f"{_GLUE}.o").read_bytes(), _GLUE)
        code = [elf.parse_object(self._compiled(unit), unit.label) for unit in self.compiled]
        code += self._prebuilt_objects(code, target)
        for item in (entry, *code):
            bind.drop_unwind_tables(item)
        self._bind_entry(entry, code)
        self._bind_memory(code)
        descriptor = self._descriptor()
        exports = self._exports()
        for role in ("run", "tvm_module_main"):
            bind.keep_with(entry, self.model.entrypoints[role], _DESCRIPTOR)
        blobs = self._blobs(entry)
        code += [elf.data_object("constants", entry.machine, blobs, section=CONSTANT_SECTION)] if blobs else []
        self._place_constants(code)
        described = elf.data_object(
            "descriptor", entry.machine, [(_DESCRIPTOR, descriptor, 4)], section=DESCRIPTOR_SECTION
        )
        objects = [entry, *code, described]
        merged = merge.merge_objects(
            objects, exports=exports, unique=self.model.name, where=self.where, rename_local=self._renamed
        )
        return BuiltModel(
            plan=self.model, merged=merged, identity=self.identity, families=self._families(), descriptor_bytes=len(descriptor),
            frames=self._frames(),
        )  # fmt: skip

    def _renamed(self, name: str) -> str:
        """Give a local symbol the prefix of the model's name in the library."""
        old, new = mangle_model(self.model.module.name) + "_", mangle(self.model.name, "")
        return new + name[len(old) :] if name.startswith(old) else name

    def _frames(self) -> dict[str, int]:
        """Read what the compiler said of the stack of each function; clang and zig say nothing."""
        found: dict[str, int] = {}
        for path in sorted(self.folder.rglob("*.ci")):
            for name, size in read_callgraph_info(path.read_text(encoding="utf-8", errors="replace")).items():
                found[self._renamed(name)] = max(size, found.get(self._renamed(name), 0))
        return found

    def _compiled(self, unit: _Unit) -> bytes:
        return (self.folder / unit.output).read_bytes()

    def _prebuilt_objects(self, code: Iterable[ElfObject], target: ElfObject) -> list[ElfObject]:
        """Read the archive's own objects, of libraries among them what is needed; all must be for the target."""
        objects = [elf.parse_object(data, name) for name, data in self.prebuilt if not data.startswith(AR_MAGIC)]
        for name, data in self.prebuilt:
            if data.startswith(AR_MAGIC):
                known = [*code, *objects]
                wanted = {self.model.call.function, *chain.from_iterable(item.symbols.needed_names() for item in known)}
                defined = set(chain.from_iterable(item.symbols.defined_names() for item in known))
                parts = select_members(data, name, wanted, defined=defined)
                objects += [elf.parse_object(member, f"{name}({part})") for part, member in parts]
        facts = object_facts(target)
        for item in objects:
            reason = incompatibility(object_facts(item), facts)
            if reason:
                raise ObjectError(reason, where=item.label)
        return objects

    def _exports(self) -> dict[str, str]:
        """Give the entrypoints by the names that they have before the merge."""
        model = self.model
        own = {name: name for role, name in model.entrypoints.items() if role in ("run", "tvm_module_main")}
        theirs = {
            self._inner(model.module.entrypoints[role]): name
            for role, name in model.entrypoints.items()
            if role not in ("run", "tvm_module_main")
        }
        registry = f"mlf_model_{model.name}"
        return {**own, **theirs, registry: registry}

    def _inner(self, name: str) -> str:
        """Give the name of a function of the archive once the glue has taken names of its own."""
        return f"{name}.inner" if name in self.model.entrypoints.values() else name

    def _bind_entry(self, entry: ElfObject, code: Iterable[ElfObject]) -> None:
        """Let the glue call the model's main, and give it the constants and the memory that it passes."""
        model = self.model
        names = {glue.MAIN: self._inner(model.call.function)}
        if model.arena:
            names |= {glue.ARENA_STATE: model.arena.symbol, glue.ARENA_MEMORY: f"{model.arena.symbol}_memory"}
        taken = {name: f"{name}.inner" for name in model.entrypoints.values()}
        for item in code:
            bind.rename(item, taken)
        for pool in model.module.pools:
            if pool.is_internal and pool.kind == "constant":
                lifted = [constant.symbol for constant in self.constants if constant.symbol.endswith(f".{pool.name}")]
                names[glue.constant_name(pool.name)] = lifted[0] if lifted else glue.constant_name(pool.name)
                if not lifted:
                    any(bind.publish(item, pool.name, glue.constant_name(pool.name)) for item in code)
        bind.rename(entry, names)

    def _bind_memory(self, code: Iterable[ElfObject]) -> None:
        """Let the code allocate from the arena, and put the buffers inside it there."""
        arena, need = self.model.arena, self.model.need
        if arena is None or need is None:
            return
        names = own_pools(self.model.module, self.model.call)
        block = next((block for block in need.blocks if block.name == CODE_BLOCK), None)
        used = 0
        for item in code:
            bind.rename(item, {ALLOCATOR: arena.allocator(need.unit_bytes), _RELEASE: f"{arena.symbol}_free"})
            for place, section in bind.buffer_sections(item, names).items() if block else ():
                start = -(-used // section.alignment) * section.alignment
                used = start + section.size_bytes
                if block is None or used > block.size_bytes:
                    message = f"{section.name} holds more than the workspace {' and '.join(sorted(names))}"
                    raise ObjectError(message, where=item.label)
                self._retarget(item, place, arena.symbol, block.offset_bytes + start)

    @staticmethod
    def _retarget(item: ElfObject, place: int, arena: str, base: int) -> None:
        wanted = bind.retarget(item, place, f"{arena}_in{place}")
        bind.rename(item, {name: f"{arena}_at{base + offset}" for name, offset in wanted.items()})

    def _blobs(self, entry: ElfObject) -> list[tuple[str, bytes, int]]:
        big = entry.machine.is_big_endian
        lifted = [(item.symbol, item.payload_for(big_endian=big), item.alignment) for item in self.constants]
        return [*lifted, *(self.model.program.constants if self.model.program else ())]

    def _place_constants(self, objects: Iterable[ElfObject]) -> None:
        """Put constants where they are wanted: in TVM's section, whose name linker scripts know, if nowhere else."""
        wanted = self.plan.options.constants.get(self.model.name, self.plan.options.constants.get(""))
        for item in objects:
            bind.place_constants(item, wanted or CONSTANT_SECTION, is_asked=bool(wanted))

    def _families(self) -> frozenset[str]:
        """Name the libraries that the code says it needs: by its headers, and by the devices that it drives."""
        families = declared_families(self.include_names)
        return families | {"device-hooks"} if self.model.module.devices else families

    def _descriptor(self) -> bytes:
        model = self.model
        return encode(
            ModelDescriptor(
                name=model.name, module=model.module.name, format_version=model.module.version, identity=self.identity,
                inputs=model.interface.inputs, outputs=model.interface.outputs, arena_bytes=model.need.size_bytes if model.need else 0,
                entrypoints=tuple(model.entrypoints), mlf_version=__version__,
            )
        )  # fmt: skip


_INCLUDED = re.compile(r"^[ \t]*#[ \t]*include[ \t]*[<\"]([^>\"\n]{1,200})[>\"]", re.MULTILINE)
_HALF = re.compile(r"\bhalf\b")  # TVM's word for a 16-bit float, which it defines nowhere
