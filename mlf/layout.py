"""Where each version of the format keeps what: the role of a member by its name, and its name by its role.

TVM named files by position (`lib<N>`), later by module (`<module>_lib<N>`), and moved two folders; the contents are the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlf.naming import header_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SOURCE_DIRECTORY = "codegen/host/src/"
OBJECT_DIRECTORY = "codegen/host/lib/"
INCLUDE_DIRECTORY = "codegen/host/include/"
PARAMETER_DIRECTORY = "parameters/"
TEST_DIRECTORY = "tests/"
_GRAPH_DIRECTORY = "executor-config/graph/"
_OLD_GRAPH_DIRECTORY = "runtime-config/graph/"  # before version 5
_SOURCE_SUFFIXES = (".c", ".cc", ".cpp")
_OBJECT_SUFFIXES = (".o", ".a")
_LIBRARY_FILE = re.compile(r"(?:(?P<module>.+)_)?lib(?P<number>[0-9]{1,6})(?P<suffix>\.[a-z]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The role of a member, and the module that it belongs to; None if that is the archive."""

    name: str
    role: str
    module: str | None


def places(names: Iterable[str], modules: Sequence[str]) -> tuple[Place, ...]:
    """Tell the role and module of each member of an archive of version 1 to 7 that holds `modules`."""
    known = frozenset(modules)
    headers = {header_name(module): module for module in reversed(modules)}
    return tuple(_place(name, known, headers) for name in names)


def _place(name: str, modules: frozenset[str], headers: Mapping[str, str]) -> Place:
    only = next(iter(modules)) if len(modules) == 1 else None
    folder, _, file = name.rpartition("/")
    folder += "/"
    module = only
    if name.startswith((SOURCE_DIRECTORY, OBJECT_DIRECTORY)):
        found = _LIBRARY_FILE.fullmatch(file)
        suffixes, role = (
            (_SOURCE_SUFFIXES, "source") if name.startswith(SOURCE_DIRECTORY) else (_OBJECT_SUFFIXES, "object")
        )
        owner = found["module"] if found else None
        # Version 2 had no module's name in front, which only one module can do without.
        module = only if found and owner is None else _known(owner, modules)
        role = role if module is not None and name.endswith(suffixes) else "other"
    elif name.startswith(INCLUDE_DIRECTORY):
        role, module = "include", module or headers.get(file)
    elif folder == PARAMETER_DIRECTORY and file.endswith(".params"):
        role, module = "parameters", module or _known(file.removesuffix(".params"), modules)
    elif folder in (_GRAPH_DIRECTORY, _OLD_GRAPH_DIRECTORY):
        role, module = "graph", module or _known(file.removesuffix(".graph"), modules)
    elif name == "relay.txt" or (folder == "src/" and re.fullmatch(r"tir-[0-9]+\.txt|relay\.txt|.*\.relay", file)):
        role, module = "ir", module or _known(file.removesuffix(".relay"), modules)
    else:
        role = {"runtime": "runtime", "templates": "template"}.get(name.split("/", 1)[0], "other")
        module = None
    return Place(name=name, role=role, module=module)


def _known(module: str | None, modules: frozenset[str]) -> str | None:
    return module if module in modules else None


def source_order(name: str) -> tuple[int, str]:
    """Sort sources and objects by their number, which TVM gave them."""
    found = _LIBRARY_FILE.fullmatch(name.rpartition("/")[2])
    return (int(found["number"]) if found else 0, name)


def placed(place: Place, *, version: int, style: str) -> str:
    """Give the name that a member has in `version`; files that every version keeps in one place keep their name."""
    folder, _, file = place.name.rpartition("/")
    module = place.module
    if module is None:
        return place.name
    if place.role in ("source", "object"):
        found = _LIBRARY_FILE.fullmatch(file)
        prefix = f"{module}_" if version >= 3 and style == "full-model" else ""
        return f"{folder}/{prefix}lib{found['number']}{found['suffix']}" if found else place.name
    if place.role == "graph":
        folder = _GRAPH_DIRECTORY if version >= 5 else _OLD_GRAPH_DIRECTORY
        return f"{folder}{module}.graph" if version >= 7 else f"{folder}graph.json"
    if place.role == "ir" and style == "full-model":
        return f"src/{module}.relay" if version >= 7 else "src/relay.txt" if version >= 4 else "relay.txt"
    return place.name
