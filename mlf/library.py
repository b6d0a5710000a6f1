"""The library as a value: members, headers and JSON document; its check, and how it is written."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlf import codegen
from mlf.errors import LinkError, ObjectError, OutputError
from mlf.externals import is_allowed
from mlf.objects.ar import ArMember, read_ar, write_ar
from mlf.objects.elf import STB_LOCAL, parse_object
from mlf.objects.merge import MergedObject, merge_objects
from mlf.report import render_json, tensor_document
from mlf.toolchain import RUNTIME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlf.link import PlannedModel
    from mlf.module import Pool
    from mlf.toolchain import Compiler

SCHEMA = "mlf-library-v1"
INCLUDE = "include"
_REGISTRY = "mlf_models"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelObject:
    """A model of the plan and the object that it became."""

    plan: PlannedModel
    merged: MergedObject

    @property
    def member(self) -> str:
        """The name of the model's member in the library."""
        return f"{self.plan.interface.prefix}.o"


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


def assemble(models: Sequence[ModelObject], compiler: Compiler, *, scratch: Path) -> Library:
    """Check what the models need, add headers and registry, and put the library together.

    Raises LinkError for a name that nothing can be expected to supply, and for a library that defines anything but its
    entrypoints.
    """
    _check_needs(models)
    interfaces = [model.plan.interface for model in models]
    headers = {interface.header: codegen.model_header(interface) for interface in interfaces}
    headers["mlf/models.h"] = codegen.models_header(interfaces)
    registry = _registry(models, headers, compiler, scratch)
    _check_machines(models, registry)
    members = [ArMember(name=model.member, data=model.merged.data, symbols=model.merged.exports) for model in models]
    members.append(ArMember(name=f"{_REGISTRY}.o", data=registry.data, symbols=registry.exports))
    data = write_ar(members)
    _check_definitions(data, members)
    return Library(data=data, headers=headers, document=_document(models, registry, compiler))


def _registry(
    models: Sequence[ModelObject], headers: Mapping[str, str], compiler: Compiler, scratch: Path
) -> MergedObject:
    folder = scratch / ".registry"  # no model's name begins with a dot
    for name, text in headers.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    source = codegen.models_source([model.plan.interface for model in models])
    (folder / f"{_REGISTRY}.c").write_text(source, encoding="utf-8")
    compiler.compile(f"{_REGISTRY}.c", f"{_REGISTRY}.o", cwd=folder, extra=("-I.", f"-I{RUNTIME / 'include'}"))
    item = parse_object((folder / f"{_REGISTRY}.o").read_bytes(), f"{_REGISTRY}.c")
    names = [_REGISTRY, "mlf_find_model", *(f"mlf_model_{model.plan.name}" for model in models)]
    return merge_objects([item], exports={name: name for name in names}, unique="registry")


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


def _document(models: Sequence[ModelObject], registry: MergedObject, compiler: Compiler) -> dict[str, Any]:
    sizes = [measure(model.merged) for model in models]
    total = Sizes(
        text_bytes=sum(size.text_bytes for size in sizes),
        data_bytes=sum(size.data_bytes for size in sizes),
        bss_bytes=sum(size.bss_bytes for size in sizes),
    )
    return {
        "compiler": {"family": compiler.family, "version": compiler.version},
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
    module, interface = model.plan.module, model.plan.interface
    return {
        "archive": module.archive,
        "dropped_bytes": model.merged.dropped_bytes,
        "entrypoints": {"run": interface.run_symbol},
        "header": interface.header,
        "inputs": [tensor_document(tensor) for tensor in interface.inputs],
        "member": model.member,
        "memory_styles": list(module.memory_styles),
        "module": module.name,
        "name": interface.name,
        "needs": sorted(item.name for item in model.merged.undefined),
        "outputs": [tensor_document(tensor) for tensor in interface.outputs],
        "pools": [_pool_document(pool) for pool in interface.external_pools],
        "sizes": sizes.document(),
        "symbols": list(model.merged.exports),
        "version": module.version,
        "workspace_bytes": interface.workspace_bytes,
    }


def _pool_document(pool: Pool) -> dict[str, Any]:
    return {
        "alignment_bytes": pool.alignment_bytes, "data": pool.data.hex() if pool.data else None, "kind": pool.kind, "name": pool.name,
        "size_bytes": pool.size_bytes,
    }  # fmt: skip


def document_path(output: Path) -> Path:
    """Give the path of the JSON document that belongs to a library."""
    return output.with_suffix(".json")


def write(library: Library, output: Path) -> None:
    """Write a library to `output`, its headers to `include/` and its document beside it.

    Each file is written beside its place first and moved there when all are complete; OutputError leaves nothing behind.
    """
    document = {**library.document, "library": output.name}
    contents = {output.parent / INCLUDE / name: text.encode() for name, text in library.headers.items()}
    contents[document_path(output)] = render_json(document).encode()
    contents[output] = library.data
    replace_files(contents)


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Write several files, all or none of them as far as a file system allows; raise OutputError if one cannot be."""
    staged: list[tuple[str, Path]] = []
    current = Path()
    try:
        for path, content in contents.items():
            current = path
            staged.append((_stage(path, content), path))
        for temporary, path in staged:
            current = path
            os.replace(temporary, path)  # noqa: PTH105  # of two strings, one system call
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror}", where=str(current)) from error
    finally:
        for temporary, _ in staged:
            Path(temporary).unlink(missing_ok=True)


def _stage(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(21, "it is a directory")
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o644)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return temporary
