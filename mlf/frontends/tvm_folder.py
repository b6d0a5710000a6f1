"""A folder as TVM leaves it behind, without its `metadata.json`: files in the archive's layout, or all in one folder.

The names of the files and the code tell the model's name, its executor and its API; what they do not tell is a fault.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from mlf import csource, layout
from mlf.archive import METADATA_NAME, open_archive
from mlf.errors import InputError
from mlf.frontends.table import listed
from mlf.naming import header_name, macro, mangle, mangle_model
from mlf.reading import read_modules

if TYPE_CHECKING:
    from pathlib import Path

_CODE = re.compile(r"(?:(?P<model>.+)_)?lib[0-9]{1,6}\.(?P<kind>c|cc|cpp|o)")
_CODE_DIRECTORIES = (layout.SOURCE_DIRECTORY, layout.OBJECT_DIRECTORY)
_GRAPH_NAME = re.compile(r".*\.graph|graph\.json")
_WITHOUT = "is code of TVM without metadata.json"
_MAINS = frozenset(("run", "main", "tvm_module_main", "descriptor"))
_STAGED_VERSION = 6  # the last that says of one module what can be told without its memory


@dataclass(frozen=True, slots=True, kw_only=True)
class TvmFolder:
    """The files of a folder by the names that they have in an archive, and the models whose code is among them."""

    folder: Path
    files: tuple[tuple[str, Path], ...]
    models: tuple[str, ...]


def find_tvm_folder(folder: Path) -> TvmFolder | None:
    """Look for TVM's code in a folder; None if its files do not have the names that TVM gives them."""
    if (folder / "codegen" / "host").is_dir():
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        files = [(path.relative_to(folder).as_posix(), path) for path in paths]
    else:
        files = [(name, path) for path in sorted(folder.iterdir()) if path.is_file() for name in [_placed(path.name)] if name]  # fmt: skip
    known = [(name, path) for name, path in files if name.startswith(("codegen/", "executor-config/", "runtime-config/", "parameters/", "src/", "relay.txt"))]  # fmt: skip
    code = [name for name, _ in known if name.startswith(_CODE_DIRECTORIES) and _CODE.fullmatch(PurePosixPath(name).name)]  # fmt: skip
    if not code or not any(b"tvm" in path.read_bytes() for name, path in known if name in code):
        return None
    found = (_CODE.fullmatch(PurePosixPath(name).name) for name in code)
    models = {match["model"] for match in found if match and match["model"]}
    return TvmFolder(folder=folder, files=tuple(known), models=tuple(sorted(models)))


def _placed(name: str) -> str | None:
    """Give the name in an archive of a file that lies in a folder with all others."""
    code = _CODE.fullmatch(name)
    if code:
        return (layout.OBJECT_DIRECTORY if code["kind"] == "o" else layout.SOURCE_DIRECTORY) + name
    if re.fullmatch(r"tvmgen_.*\.h", name):
        return layout.INCLUDE_DIRECTORY + name
    if name.endswith(".params"):
        return layout.PARAMETER_DIRECTORY + name
    if _GRAPH_NAME.fullmatch(name):
        return f"executor-config/graph/{name}"
    return f"src/{name}" if name.endswith(".relay") or name == "relay.txt" else None


def stage(found: TvmFolder, *, name: str | None, into: Path) -> None:
    """Copy the files of one model to the new folder `into`, and write the metadata of version 6 that they tell.

    Raises InputError, which lists everything that the files do not tell, and what reading a module raises.
    """
    label = found.folder.resolve().name
    model = _chosen(found, name, label)
    places = layout.places([target for target, _ in found.files], found.models or (model,))
    for (target, path), place in zip(found.files, places, strict=True):
        if place.module in (model, None):
            (into / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, into / target)
    faults = _missing_parts(into, model)
    if faults:
        raise InputError(f"{_WITHOUT}: {listed(faults)}", where=label)
    executors = ["graph"] if any((into / "executor-config" / "graph").glob("*")) else ["aot"]
    document = {
        "executors": executors, "memory": {}, "model_name": model, "style": "full-model", "target": ["c"], "version": _STAGED_VERSION,
    }  # fmt: skip
    _write_metadata(into, document)
    _complete(into, document, label)


def _write_metadata(folder: Path, document: dict[str, object]) -> None:
    (folder / METADATA_NAME).write_text(json.dumps(document), encoding="utf-8")


def _chosen(found: TvmFolder, name: str | None, label: str) -> str:
    if name is not None and (name in found.models or not found.models):
        return name
    if name is None and len(found.models) == 1:
        return found.models[0]
    if not found.models:
        raise InputError("its files do not tell the model's name", where=label, hint="give it: `--name NAME`")
    names = ", ".join(f"`{model}`" for model in found.models)
    what = f"has no model `{name}`; it has {names}" if name else f"has the models {names}"
    raise InputError(what, where=label, hint=f"choose one: `--name {found.models[0]}`")


def _missing_parts(folder: Path, model: str) -> list[str]:
    """List the files without which the code of a model cannot be understood."""
    sources = [path for path in sorted((folder / layout.SOURCE_DIRECTORY).glob("*")) if path.is_file()]
    texts = {path.name: path.read_text(encoding="utf-8", errors="replace") for path in sources}
    header = layout.INCLUDE_DIRECTORY + header_name(model)
    faults = []
    for name, text in texts.items():
        if csource.parse_wrapper(text, mangle(model, "run")) and not (folder / header).is_file():
            faults.append(f"there is no {header}, which {name} includes")
    return faults


def _complete(folder: Path, document: dict[str, object], label: str) -> None:
    """Say how much memory the model needs, where the header alone tells; a fault where nothing does."""
    with open_archive(folder) as archive:
        (module,) = read_modules(archive, is_thorough=True)
        if module.graph is None and not _MAINS & set(module.entrypoints):
            graph = f"and there is no executor-config/graph/{module.name}.graph"
            raise InputError(f"{_WITHOUT}: nothing in the code runs the model `{module.name}`, {graph}", where=label)
        if module.workspace_bytes is not None:
            return
        text = archive.read_text(module.header) if module.header else ""
    facts = csource.parse_header(text, mangle_model(module.name).lower()) if text else None
    size_bytes = facts.macros.get(macro(module.name, "WORKSPACE_SIZE")) if facts else None
    if size_bytes is None:
        message = f"{_WITHOUT}: nothing tells how much memory TVMBackendAllocWorkspace must serve"
        raise InputError(message, where=label, hint="write a description.toml with `allocates_bytes` in [code]")
    sizes = {"constants_size_bytes": module.constants_bytes or 0, "device": 1, "workspace_size_bytes": size_bytes}
    sizes["io_size_bytes"] = sum(tensor.size_bytes or 0 for tensor in (*module.inputs, *module.outputs))
    _write_metadata(folder, {**document, "memory": {"functions": {"main": [sizes], "operator_functions": []}}})
