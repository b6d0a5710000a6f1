"""`metadata.json` of each version, written.

The form of versions 1 to 7 is TVM's own, byte by byte, so that an archive comes back from version 8 as it was.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from mlf import __version__
from mlf.metadata import Descriptor, identity_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlf.pack import PackedMember

GENERATOR = f"mlf {__version__}"
# The order in which TVM wrote the keys of an operator-style archive.
_OPERATOR_KEYS = ("version", "model_name", "export_datetime", "memory", "target", "executors", "runtimes", "style")
# Device types of DLPack by the kind of a target, the first word of its text; all others run on the processor.
_DEVICES = {
    "cuda": 2, "opencl": 4, "vulkan": 7, "metal": 8, "rocm": 10, "ext_dev": 12, "hexagon": 16,
}  # fmt: skip
_CPU_DEVICE = 1


def describe_member(member: PackedMember, *, role: str, module: str | None) -> Descriptor:
    """Describe a member by its digest, which is found by reading it once."""
    digest = hashlib.sha256()
    for piece in member.pieces():
        digest.update(piece)
    return Descriptor(
        path=member.name, size_bytes=member.size_bytes, sha256=digest.hexdigest(), role=role, module=module
    )


def render_version_8(modules: Mapping[str, Mapping[str, Any]], members: Iterable[Descriptor]) -> bytes:
    """Write metadata of version 8 from the modules' keys and the descriptors of all other members."""
    document: dict[str, Any] = {
        "generator": GENERATOR,
        "members": [item.document() for item in sorted(members, key=lambda item: item.path.encode())],
        "modules": modules,
        "version": 8,
    }
    document["identity"] = identity_of(document)
    return (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def render_legacy(version: int, modules: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Write metadata of version 1 to 7 from modules whose keys version 7 has; before 7, and for operators, there is one."""
    first = next(iter(modules.values()))
    if first["style"] == "operator":
        document = legacy_document(version, first)
        ordered = {key: document[key] for key in _OPERATOR_KEYS if key in document}
        return json.dumps({**ordered, **document}).encode()
    if version == 7:
        return json.dumps({"modules": modules, "version": 7}, indent=2, sort_keys=True).encode()
    return json.dumps(legacy_document(version, first), indent=2, sort_keys=True).encode()


def legacy_document(version: int, module: Mapping[str, Any]) -> dict[str, Any]:
    """Give the flat document of one module, with the names and types that `version` has for its keys."""
    document: dict[str, Any] = {**module, "version": version}
    if version < 6:
        document["target"] = {str(device): text for device, text in device_targets(module["target"])}
    if version < 5:
        document["runtimes"] = document.pop("executors")
    if version < 4:
        del document["style"]
    if version < 2:
        document["memory"] = module["memory"].get("sids", [])
    elif version < 7 and module["style"] == "full-model":
        document["memory"] = _without_tensors(module["memory"])
    return document


def _without_tensors(memory: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the tensors of main, which came with version 7."""
    functions = dict(memory.get("functions", {}))
    if "main" in functions:
        functions["main"] = [
            {key: value for key, value in main.items() if key not in ("inputs", "outputs")}
            for main in functions["main"]
        ]
    return {**memory, "functions": functions} if functions else dict(memory)


def device_targets(targets: Sequence[str]) -> list[tuple[int, str]]:
    """Give the device type of each target text."""
    return [(_DEVICES.get(text.split(" ", 1)[0], _CPU_DEVICE), text) for text in targets]
