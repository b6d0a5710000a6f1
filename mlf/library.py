"""The library as a value: members, headers and JSON document; its check, and how it is written."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from mlf.build import ARGUMENTS_MEMBER, DESCRIPTOR_SECTION, REGISTRY_MEMBER
from mlf.errors import InputError, LinkError, ObjectError, OutputError, reason_of
from mlf.externals import is_allowed
from mlf.files import replace_files, scratch_folder
from mlf.linker import link, plan_link
from mlf.metadata import pool_document
from mlf.naming import DEFAULT_LIBRARY
from mlf.objects.ar import ArMember, read_ar, write_ar
from mlf.objects.elf import STB_LOCAL, parse_object
from mlf.objects.fold import FOLD_PREFIX
from mlf.report import arena_document, model_document, render_json
from mlf.sizes import Image, break_down, global_functions, measure, section_totals, spoken, unfolded
from mlf.stack import worst_stacks
from mlf.strictjson import Node, load_json

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from mlf.build import Built, BuiltModel
    from mlf.linker import LinkPlan, LinkRequest, Progress
    from mlf.objects.elf import ElfObject
    from mlf.objects.fold import FoldedSection
    from mlf.stack import StackUse
    from mlf.toolchain import Compiler

    Objects = Mapping[str, ElfObject]

SCHEMA = "mlf-library-v1"
INCLUDE = "include"
_BY_ARRAYS = "run_by_arrays"  # the function by which the registry calls a model
_DOCUMENT_MAX_BYTES = 64 << 20  # of a library of hundreds of models


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A finished library: the archive's bytes, headers by their path below `include/`, and the JSON document."""

    data: bytes
    headers: Mapping[str, str]
    document: Mapping[str, Any]


def assemble(built: Built, plan: LinkPlan) -> Library:
    """Check what the models need and put the library together.

    Raises LinkError for a name that nothing can be expected to supply, for a library that defines anything but what was
    promised, and for one that is larger than its budget; ObjectError for objects that are not of the target's machine.
    """
    support = set(chain.from_iterable(item.exports for item in built.support.values()))
    _check_needs(built, plan, support)
    _check_machines(built)
    parts = [(model.plan.member, model.merged) for model in built.models] + list(built.support.items())
    members = [ArMember(name=name, data=merged.data, symbols=merged.exports) for name, merged in parts]
    data = write_ar(members)
    objects = {name: parse_object(content, name) for name, content in read_ar(data, "the library")}
    _check_definitions(objects, members)
    document = _Documents(built, plan, objects).library()
    hint = "see what takes most: run `mlf size` on the library without a budget"
    check_budget(document["totals"], plan.options.budget_bytes, where=plan.output.name, hint=hint)
    return Library(data=data, headers=built.headers, document=document)


def check_budget(
    sizes: Mapping[str, int], budget_bytes: Mapping[str, int], *, where: str, hint: str | None = None
) -> None:
    """Raise LinkError where `flash_bytes` or `ram_bytes` of `sizes` are over the budget for `flash` or `ram`."""
    over = [
        f"{kind} is {sizes[f'{kind}_bytes']} bytes, the budget {limit}"
        for kind, limit in sorted(budget_bytes.items())
        if sizes[f"{kind}_bytes"] > limit
    ]
    if over:
        raise LinkError("; ".join(over), where=where, hint=hint)


def _check_needs(built: Built, plan: LinkPlan, support: Collection[str]) -> None:
    missing = [
        f"{model.plan.name} ({model.plan.module.archive}): {' and '.join(item.needed_by)} needs `{item.name}`"
        for model in built.models
        for item in model.merged.undefined
        if not item.is_weak
        and item.name not in support
        and not is_allowed(item.name, declared=model.families, extra=plan.options.externs)
    ]
    if missing:
        raise LinkError(
            f"nothing supplies what the models need:\n{chr(10).join(missing)}",
            hint="if the firmware has it, say so: --extern NAME",
        )


def _check_machines(built: Built) -> None:
    """The support objects were compiled for the target, so every model's objects must be of its machine."""
    target = next(iter(built.support.values())).machine
    for model in built.models:
        if not model.merged.machine.is_compatible(target):
            raise ObjectError(
                f"its objects are for {model.merged.machine}, the target is {target}", where=f"{model.plan.name} ({model.plan.module.archive})"
            )  # fmt: skip


def _check_definitions(objects: Objects, members: Sequence[ArMember]) -> None:
    """Check the finished library, read back: every global definition must be one that was promised, and must be there once.

    Groups of equal content (`mlf_fold_...`) are there for linkers to keep one of.
    """
    promised = {member.name: set(member.symbols) for member in members}
    owners: dict[str, list[str]] = {}
    for name, item in objects.items():
        symbols = item.symbols
        for index in range(symbols.local_count, len(symbols)):
            is_defined = int(symbols.section[index]) != 0 and int(symbols.info[index]) >> 4 != STB_LOCAL
            if is_defined and not symbols.names[index].startswith(FOLD_PREFIX):
                owners.setdefault(symbols.names[index], []).append(name)
    twice = [f"`{symbol}` in {' and '.join(names)}" for symbol, names in sorted(owners.items()) if len(names) > 1]
    if twice:
        raise LinkError(f"the library would define more than once: {'; '.join(twice)}")
    stray = [
        f"`{symbol}` in {names[0]}" for symbol, names in sorted(owners.items()) if symbol not in promised[names[0]]
    ]
    if stray:
        raise LinkError(f"the library would define names that were not promised: {'; '.join(stray)}")


class _Documents:
    """Describes a finished library, from its plan and from the objects in it."""

    def __init__(self, built: Built, plan: LinkPlan, objects: Objects) -> None:
        self.built = built
        self.plan = plan
        self.objects = objects
        self.image = Image(objects)
        self.callees = self._callees()

    def library(self) -> dict[str, Any]:
        """Give the whole document."""
        plan, folded = self.plan, self.built.folded
        everything = self.image.sizes(self.image.everything(self.objects.keys() - {REGISTRY_MEMBER}))
        return {
            "arenas": [arena_document(arena, measure(self.objects[arena.member])) for arena in plan.arenas],
            "arguments": {"member": ARGUMENTS_MEMBER, "sizes": measure(self.objects[ARGUMENTS_MEMBER]).document()},
            "compiler": {"family": plan.compiler.family, "version": plan.compiler.version},
            "folded": [_folded_document(group) for group in (folded.groups if folded else ()) if len(group.models) > 1],
            "library": plan.output.name,
            "linked": {role: self.image.sizes(self.image.reached(names)).document() for role, names in self._calls().items()},
            "machine": str(self.objects[REGISTRY_MEMBER].machine),
            "models": [self._model(model) for model in self.built.models],
            "registry": {
                "header": self.built.registry.header, "member": REGISTRY_MEMBER, "sizes": measure(self.objects[REGISTRY_MEMBER]).document(),
                "symbols": list(self.built.support[REGISTRY_MEMBER].exports),
            },
            "saved": _saved_document(self.built, plan),
            "schema": SCHEMA,
            "target": plan.compiler.target.name,
            "totals": everything.document(),
        }  # fmt: skip

    def _calls(self) -> dict[str, list[str]]:
        """Give what firmware refers to that calls every model in one of the ways that there are."""
        own = [model.entrypoints for model in self.plan.models]
        return {
            "registry": list(self.built.support[REGISTRY_MEMBER].exports),
            "run": [names["run"] for names in own],
            "tvm_module_main": [names["tvm_module_main"] for names in own],
        }

    def _callees(self) -> dict[str, int]:
        """Give the stack that the functions need which models call in other members."""
        needs: dict[str, int] = {}
        for member in self.built.support.keys() - {REGISTRY_MEMBER}:
            item = self.objects[member]
            needs |= {use.entrypoint: use.size_bytes for use in worst_stacks(item, global_functions(item))}
        return needs

    def _model(self, model: BuiltModel) -> dict[str, Any]:
        item = unfolded(self.objects[model.plan.member])
        sizes, entrypoints = measure(item), model.plan.entrypoints
        alone = Image({model.plan.member: self.objects[model.plan.member]})  # what others have alike counts for each
        linked = {role: alone.sum(alone.reached([entrypoints[role]])) for role in ("run", "tvm_module_main")}
        roles = {name: role for role, name in entrypoints.items()}
        operators, shared = break_down(item, {**roles, _BY_ARRAYS: "registry"}, except_section=DESCRIPTOR_SECTION)
        return {
            **model_document(model.plan),
            "descriptor_bytes": model.descriptor_bytes,
            "dropped_bytes": model.merged.dropped_bytes,
            "identity": model.identity,
            "linked": {role: found.document() for role, found in linked.items()},
            "needs": sorted(item.name for item in model.merged.undefined),
            "operators": [one.document() for one in operators],
            "pools": [
                {**pool_document(pool), "data": pool.data.hex() if pool.data else None}
                for pool in model.plan.interface.external_pools
            ],
            "registry_bytes": sizes.flash_bytes - alone.sum(alone.reached(roles)).flash_bytes,
            "sections": section_totals(item),
            "shared": [one.document() for one in shared],
            "sizes": sizes.document(),
            "stack": [
                _stack_document(roles[use.entrypoint], use)
                for use in worst_stacks(item, sorted(roles), callees=self.callees, frames=model.frames)
            ],
            "symbols": list(model.merged.exports),
        }


def _stack_document(role: str, use: StackUse) -> dict[str, Any]:
    return {
        "entrypoint": role, "is_bounded": use.is_bounded, "notes": list(use.notes), "path": list(use.path), "size_bytes": use.size_bytes,
    }  # fmt: skip


def _folded_document(group: FoldedSection) -> dict[str, Any]:
    return {
        "is_code": group.is_code, "models": list(group.models), "saved_bytes": group.saved_bytes, "section": group.section,
        "size_bytes": group.size_bytes, "symbols": sorted({spoken(name) for name in group.what}),
    }  # fmt: skip


def _saved_document(built: Built, plan: LinkPlan) -> dict[str, int]:
    """Say what was saved against models that each bring their own memory and keep all that was compiled."""
    separate = sum(model.need.size_bytes for model in plan.models if model.need)
    shared = sum(arena.size_bytes for arena in plan.arenas if not arena.is_external)
    return {
        "dropped_bytes": sum(model.merged.dropped_bytes for model in built.models),
        "folded_bytes": built.folded.saved_bytes if built.folded else 0,
        "shared_bytes": separate - shared if plan.options.arenas.style != "external" else 0,
    }


def document_path(output: Path) -> Path:
    """Give the path of the JSON document that belongs to a library."""
    return output.with_suffix(".json")


def link_alone(request: LinkRequest, compiler: Compiler, *, progress: Progress | None = None) -> Node:
    """Link the models of an archive, which nobody keeps, and give the document; raises what `plan_link` and `link` do."""
    with scratch_folder() as folder:
        plan = plan_link([request], output=folder / DEFAULT_LIBRARY, compiler=compiler)
        document = link(plan, progress=progress).document
    return Node(document, where=request.path.name, document="is not the document of a library", error=InputError)


def read_document(path: Path) -> Node:
    """Read the JSON document of a library; InputError if it cannot be read or is none."""
    try:
        with path.open("rb") as file:
            data = file.read(_DOCUMENT_MAX_BYTES + 1)
        text = data.decode()
    except OSError as error:
        raise InputError(f"cannot be read: {reason_of(error)}", where=path.name) from error
    except UnicodeDecodeError as error:
        raise InputError("is not UTF-8", where=path.name) from error
    document = load_json(text, where=path.name) if len(data) <= _DOCUMENT_MAX_BYTES else None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise InputError(f"is not the document of a library: expected the schema `{SCHEMA}`", where=path.name)
    return Node(document, where=path.name, document="is not the document of a library", error=InputError)


def write(library: Library, output: Path) -> None:
    """Write a library to `output`, its headers to `include/` and its document beside it.

    Each file is written beside its place first and moved there when all are complete; OutputError leaves nothing behind.
    """
    if not output.name or output.suffix == ".json":
        raise OutputError("is no name for a library, whose document is the .json file beside it", where=str(output))
    contents = {output.parent / INCLUDE / name: text.encode() for name, text in library.headers.items()}
    # An archive's file name may be no Unicode text, which JSON cannot hold.
    contents[document_path(output)] = render_json(library.document).encode("utf-8", "replace")
    contents[output] = library.data
    replace_files(contents)
