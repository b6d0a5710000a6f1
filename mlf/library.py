"""The library as a value: members, headers and JSON document; its check, and how it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlf import codegen
from mlf.errors import LinkError, ObjectError, OutputError
from mlf.externals import is_allowed
from mlf.files import replace_files
from mlf.metadata import pool_document
from mlf.objects.ar import ArMember, read_ar, write_ar
from mlf.objects.elf import STB_LOCAL, parse_object
from mlf.objects.merge import MergedObject, merge_objects
from mlf.report import model_document, render_json
from mlf.toolchain import RUNTIME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlf.codegen import ModelInterface
    from mlf.linker import PlannedModel
    from mlf.toolchain import Command, Compiler

SCHEMA = "mlf-library-v1"
INCLUDE = "include"
_REGISTRY = "mlf_models"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelObject:
    """A model of the plan and the object that it became."""

    plan: PlannedModel
    merged: MergedObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A finished library: the archive's bytes, headers by their path below `include/`, and the JSON document."""

    data: bytes
    headers: Mapping[str, str]
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes of a member as GNU `size` counts them: constants are text."""

    text_bytes: int
    data_bytes: int
    bss_bytes: int

    def document(self) -> dict[str, int]:
        """Give the sizes with flash and RAM: data lies in flash too, from where start-up code copies it."""
        return {
            "bss_bytes": self.bss_bytes,
            "data_bytes": self.data_bytes,
            "flash_bytes": self.text_bytes + self.data_bytes,
            "ram_bytes": self.data_bytes + self.bss_bytes,
            "text_bytes": self.text_bytes,
        }


def measure(merged: MergedObject) -> Sizes:
    """Sum the allocated sections of an object."""
    text = data = bss = 0
    for section in merged.sections:
        if section.is_code or not section.is_writable:
            text += section.size_bytes
        elif section.occupies_file:
            data += section.size_bytes
        else:
            bss += section.size_bytes
    return Sizes(text_bytes=text, data_bytes=data, bss_bytes=bss)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """The registry of all models, laid out to be compiled in `folder`."""

    models: tuple[str, ...]
    headers: Mapping[str, str]
    folder: Path

    def command(self, compiler: Compiler) -> Command:
        """Give the command that compiles it."""
        search = ("-I.", f"-I{RUNTIME / 'include'}")
        return compiler.compile_command(f"{_REGISTRY}.c", f"{_REGISTRY}.o", cwd=self.folder, extra=search)

    def merged(self) -> MergedObject:
        """Give its object, with the promised names alone, once it is compiled."""
        item = parse_object((self.folder / f"{_REGISTRY}.o").read_bytes(), f"{_REGISTRY}.c")
        names = [_REGISTRY, "mlf_find_model", *(f"mlf_model_{name}" for name in self.models)]
        return merge_objects([item], exports={name: name for name in names}, unique="registry")


def write_registry(interfaces: Sequence[ModelInterface], folder: Path) -> Registry:
    """Write the registry's source and all headers below `folder`."""
    headers = {interface.header: codegen.model_header(interface) for interface in interfaces}
    headers["mlf/models.h"] = codegen.models_header(interfaces)
    for name, text in {**headers, f"{_REGISTRY}.c": codegen.models_source(interfaces)}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return Registry(models=tuple(interface.name for interface in interfaces), headers=headers, folder=folder)


def assemble(models: Sequence[ModelObject], registry: Registry, compiler: Compiler, *, name: str) -> Library:
    """Check what the models need and put the library called `name` together.

    Raises LinkError for a name that nothing can be expected to supply, and for a library that defines anything but its
    entrypoints; ObjectError for objects that are not of the target's machine.
    """
    _check_needs(models)
    merged = registry.merged()
    _check_machines(models, merged)
    members = [
        ArMember(name=model.plan.member, data=model.merged.data, symbols=model.merged.exports) for model in models
    ]
    members.append(ArMember(name=f"{_REGISTRY}.o", data=merged.data, symbols=merged.exports))
    data = write_ar(members)
    _check_definitions(data, members)
    return Library(data=data, headers=registry.headers, document=_document(models, merged, compiler, name))


def _check_needs(models: Sequence[ModelObject]) -> None:
    missing = [
        f"{model.plan.name} ({model.plan.module.archive}): {' and '.join(item.needed_by)} needs `{item.name}`"
        for model in models
        for item in model.merged.undefined
        if not item.is_weak and not is_allowed(item.name)
    ]
    if missing:
        raise LinkError(f"nothing supplies what the models need:\n{chr(10).join(missing)}")


def _check_machines(models: Sequence[ModelObject], registry: MergedObject) -> None:
    """The registry was compiled for the target, so every model's objects must be of its machine."""
    for model in models:
        if not model.merged.machine.is_compatible(registry.machine):
            raise ObjectError(
                f"its objects are for {model.merged.machine}, the target is {registry.machine}", where=f"{model.plan.name} ({model.plan.module.archive})"
            )  # fmt: skip


def _check_definitions(data: bytes, members: Sequence[ArMember]) -> None:
    """Read the finished library back: every global definition must be one that was promised, and must be there once."""
    promised = {member.name: set(member.symbols) for member in members}
    owners: dict[str, list[str]] = {}
    for name, content in read_ar(data, "the library"):
        symbols = parse_object(content, name).symbols
        for index in range(symbols.local_count, len(symbols)):
            if int(symbols.section[index]) != 0 and int(symbols.info[index]) >> 4 != STB_LOCAL:
                owners.setdefault(symbols.names[index], []).append(name)
    twice = [f"`{symbol}` in {' and '.join(names)}" for symbol, names in sorted(owners.items()) if len(names) > 1]
    if twice:
        raise LinkError(f"the library would define more than once: {'; '.join(twice)}")
    stray = [
        f"`{symbol}` in {names[0]}" for symbol, names in sorted(owners.items()) if symbol not in promised[names[0]]
    ]
    if stray:
        raise LinkError(f"the library would define names that were not promised: {'; '.join(stray)}")


def _document(models: Sequence[ModelObject], registry: MergedObject, compiler: Compiler, name: str) -> dict[str, Any]:
    sizes = [measure(model.merged) for model in models]
    total = Sizes(
        text_bytes=sum(size.text_bytes for size in sizes),
        data_bytes=sum(size.data_bytes for size in sizes),
        bss_bytes=sum(size.bss_bytes for size in sizes),
    )
    return {
        "compiler": {"family": compiler.family, "version": compiler.version},
        "library": name,
        "machine": str(registry.machine),
        "models": [_model_document(model, size) for model, size in zip(models, sizes, strict=True)],
        "registry": {
            "header": "mlf/models.h", "member": f"{_REGISTRY}.o", "sizes": measure(registry).document(), "symbols": list(registry.exports),
        },
        "schema": SCHEMA,
        "target": compiler.target.name,
        "totals": total.document(),
    }  # fmt: skip


def _model_document(model: ModelObject, sizes: Sizes) -> dict[str, Any]:
    return {
        **model_document(model.plan),
        "dropped_bytes": model.merged.dropped_bytes,
        "needs": sorted(item.name for item in model.merged.undefined),
        "pools": [
            {**pool_document(pool), "data": pool.data.hex() if pool.data else None}
            for pool in model.plan.interface.external_pools
        ],
        "sizes": sizes.document(),
        "symbols": list(model.merged.exports),
    }


def document_path(output: Path) -> Path:
    """Give the path of the JSON document that belongs to a library."""
    return output.with_suffix(".json")


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
