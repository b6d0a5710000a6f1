"""`metadata.json` of the Model Library Format: what each version says, as one value.

The keys of each version are those that TVM's `model_library_format.py` wrote (versions 5 to 7: TVM 0.8 to 0.18).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlf.errors import MetadataError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

READABLE_VERSIONS = (5, 6, 7)
_SHOWN_CHARACTERS = 40  # of a wrong value, in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorMetadata:
    """What metadata says of an input or output: its dtype and size; the order of tensors is lost."""

    dtype: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleMetadata:
    """What metadata says of one module; None where a version or a release does not say it."""

    name: str
    executors: tuple[str, ...]
    targets: tuple[str, ...]
    workspace_bytes: int | None
    constants_bytes: int | None
    io_bytes: int | None
    inputs: Mapping[str, TensorMetadata] | None
    outputs: Mapping[str, TensorMetadata] | None
    operators: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """A whole `metadata.json`."""

    version: int
    modules: tuple[ModuleMetadata, ...] = field(default=())


def parse_metadata(document: object, *, where: str) -> Metadata:
    """Read a decoded `metadata.json`.

    Raises MetadataError, naming the place in the document, where it is not what its version must be, and UnsupportedError
    for a version or style that cannot be read.
    """
    node = _Node(document, where)
    version = node.integer("version")
    if version not in READABLE_VERSIONS:
        known = f"{READABLE_VERSIONS[0]} to {READABLE_VERSIONS[-1]}"
        raise UnsupportedError(f"metadata.json has version {version}; versions {known} can be read", where=where)
    style = node.text("style") if "style" in node.value else "full-model"
    if style == "operator":
        raise UnsupportedError("is an operator-style archive, which holds no model", where=where)
    if style != "full-model":
        raise UnsupportedError(f"metadata.json has the style {_shown(style)}; `full-model` can be read", where=where)
    if version < 7:  # one module, its keys at the top
        return Metadata(version=version, modules=(_module(node, node.text("model_name")),))
    modules = node.child("modules")
    names = sorted(modules.keys())
    if not names:
        raise MetadataError("metadata.json: `modules` is empty, expected at least one module", where=where)
    return Metadata(version=version, modules=tuple(_module(modules.child(name), name) for name in names))


def _module(node: _Node, name: str) -> ModuleMetadata:
    memory = node.child("memory")
    functions = memory.child("functions") if "functions" in memory.keys() else None  # noqa: SIM118  # a method of ours
    mains = functions.children("main") if functions else []
    main = mains[0] if mains else None
    operators = functions.children("operator_functions") if functions else []
    return ModuleMetadata(
        name=name,
        executors=node.texts("executors"),
        targets=node.texts("target") if "target" in node.value else (),
        workspace_bytes=main.optional_size("workspace_size_bytes") if main else None,
        constants_bytes=main.optional_size("constants_size_bytes") if main else None,
        io_bytes=main.optional_size("io_size_bytes") if main else None,
        inputs=_tensors(main, "inputs"),
        outputs=_tensors(main, "outputs"),
        operators=tuple(operator.text("function_name") for operator in operators),
    )


def _tensors(main: _Node | None, key: str) -> dict[str, TensorMetadata] | None:
    if main is None or key not in main.value:
        return None
    table = main.child(key)
    return {
        name: TensorMetadata(dtype=table.child(name).text("dtype"), size_bytes=table.child(name).size("size"))
        for name in sorted(table.keys())
    }


class _Node:
    """A JSON object and its place in the document, so that an error can name the place."""

    def __init__(self, value: object, where: str, path: str = "") -> None:
        self.where = where
        self.path = path
        self.value: dict[str, Any] = (
            value
            if isinstance(value, dict)
            else self._wrong(f"`{path}`" if path else "the document", value, "an object")
        )

    def _wrong(self, path: str, value: object, expected: str) -> Any:  # noqa: ANN401  # never returns
        raise MetadataError(f"metadata.json: {path} is {_shown(value)}, expected {expected}", where=self.where)

    def _at(self, key: str) -> str:
        return f"`{self.path}.{key}`" if self.path else f"`{key}`"

    def _required(self, key: str) -> object:
        if key not in self.value:
            raise MetadataError(f"metadata.json: {self._at(key)} is missing", where=self.where)
        return self.value[key]

    def keys(self) -> list[str]:
        return list(self.value)

    def text(self, key: str) -> str:
        value = self._required(key)
        return value if isinstance(value, str) else str(self._wrong(self._at(key), value, "a string"))

    def integer(self, key: str) -> int:
        value = self._required(key)
        if isinstance(value, bool) or not isinstance(value, int):
            self._wrong(self._at(key), value, "a whole number")
        return int(str(value))

    def size(self, key: str) -> int:
        value = self.integer(key)
        return value if value >= 0 else int(self._wrong(self._at(key), value, "a size in bytes"))

    def optional_size(self, key: str) -> int | None:
        return self.size(key) if key in self.value else None

    def sequence(self, key: str) -> list[object]:
        value = self._required(key)
        return value if isinstance(value, list) else list(self._wrong(self._at(key), value, "a list"))

    def texts(self, key: str) -> tuple[str, ...]:
        """Read a list of strings, or the strings of an object, which `target` was before version 6."""
        value = self._required(key)
        items = list(value.values()) if isinstance(value, dict) else self.sequence(key)
        for item in items:
            if not isinstance(item, str):
                self._wrong(f"an item of {self._at(key)}", item, "a string")
        return tuple(str(item) for item in items)

    def child(self, key: str) -> _Node:
        return _Node(self._required(key), self.where, self._at(key).strip("`"))

    def children(self, key: str) -> list[_Node]:
        items = self.sequence(key) if key in self.value else []
        return [_Node(item, self.where, f"{self._at(key).strip('`')}[{index}]") for index, item in enumerate(items)]


def _shown(value: object) -> str:
    """Describe a value of the document as JSON spells it."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value, ensure_ascii=False)
    return f"`{text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + '...'}`"
