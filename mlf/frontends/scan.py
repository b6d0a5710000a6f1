"""A first `description.toml` from what the files of a folder tell.

What is written is certain: one function that can be the model, the types of its parameters, the arrays of golden data. The
rest is left to a person, in lines that begin with `# ?`.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlf import codegen
from mlf.errors import InputError, MlfError, UnsupportedError, reason_of
from mlf.frontends.declarations import CFunction, CParameter, functions, includes, number_macros, plain_code
from mlf.frontends.description import DTYPE_BYTES, OBJECT_SUFFIXES, SOURCE_SUFFIXES
from mlf.frontends.tvm_folder import find_tvm_folder
from mlf.naming import suggest_model_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    Arrays = Mapping[str, npt.NDArray[Any]]

_HEADER_SUFFIXES = (".h", ".hh", ".hpp", ".inc")
_MOST_FILES = 10_000  # what an archive may hold
_MOST_SOURCE_BYTES = 256 << 20  # of one member of an archive
_MOST_CANDIDATES = 20  # to show
_MEMORY = re.compile(r"(?i)(?:^|_)(?:arena|scratch|workspace|work|buffer|buf|mem|memory|pool|tmp|temp)(?:_|[0-9]|$)")
# Names of golden data: what stands before and after the word for inputs.
_GOLDEN = re.compile(r"(?P<stem>.*?)(?P<word>inputs?|in)(?P<rest>[0-9_.-]*)\.npz")
_OUTPUT_WORDS = {"inputs": ("outputs", "output"), "input": ("output", "outputs"), "in": ("out",)}
_FUNCTION_SYMBOL = 2  # STT_FUNC


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    path: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A function that may be the model, and the header that declares it."""

    function: CFunction
    header: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    name: str
    dtype: str | None
    shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """What the description says of the function; arguments are not complete where one of them is a guess."""

    declaration: str
    function: str
    arguments: tuple[str | int, ...]
    is_complete: bool
    returns: str
    header: str | None


def describe_folder(folder: Path) -> str:
    """Write the text of a `description.toml` for the code in `folder`, as far as its files tell.

    Raises InputError if the folder cannot be read or holds no code, UnsupportedError for one that needs no description.
    """
    label = folder.resolve().name
    try:
        if not folder.is_dir():
            raise InputError("is no folder", where=label)
        if find_tvm_folder(folder):
            hint = f"`mlf export {folder} -o model.tar`"
            raise UnsupportedError("is code of TVM, which needs no description", where=label, hint=hint)
        scan = _Scan(folder, label)
    except OSError as error:
        raise InputError(f"cannot be read: {reason_of(error)}", where=label) from error
    return codegen.description_text(scan.values())


class _Scan:
    """What one folder holds."""

    def __init__(self, folder: Path, label: str) -> None:
        self.folder = folder
        self.label = label
        files = sorted(_files(folder))
        self.objects = [path for path in files if path.endswith(OBJECT_SUFFIXES)]
        self.arrays = [path for path in files if path.endswith(".npz")]
        self.weights = [path for path in files if path.endswith(".params")]
        sources = [self._file(path) for path in files if path.endswith(SOURCE_SUFFIXES)]
        self.headers = [self._file(path) for path in files if path.endswith(_HEADER_SUFFIXES)]
        self.macros = {key: value for file in (*sources, *self.headers) for key, value in number_macros(file.text).items()}  # fmt: skip
        found = {file.path: functions(file.text, self.macros) for file in (*sources, *self.headers)}
        self.functions = found
        self.programs = [file.path for file in sources if any(item.name == "main" for item in found[file.path])]
        self.sources = [file for file in sources if file.path not in self.programs]
        if not self.sources and not self.objects:
            raise InputError(f"holds no code: expected files that end in {', '.join((*SOURCE_SUFFIXES, *OBJECT_SUFFIXES))}", where=label)  # fmt: skip

    def _file(self, path: str) -> _File:
        full = self.folder / path
        if full.stat().st_size > _MOST_SOURCE_BYTES:
            raise InputError(f"{path} has more than {_MOST_SOURCE_BYTES} bytes", where=self.label)
        return _File(path=path, text=full.read_bytes().decode("utf-8", "replace"))

    def values(self) -> dict[str, object]:
        """Give what the template says."""
        candidates = self._candidates()
        golden = self._golden()
        entry = self._entry(candidates[0]) if len(candidates) == 1 else None
        inputs, outputs, pools = self._roles(candidates[0].function) if len(candidates) == 1 else ((), (), ())
        if golden:
            inputs, outputs = (_typed(tensors, arrays) for tensors, arrays in zip((inputs, outputs), golden[0][2:], strict=True))  # fmt: skip
        if entry and not self._is_complete(candidates[0].function, inputs, outputs):
            entry = replace(entry, is_complete=False)
        gaps = [entry is None or not entry.is_complete, not inputs, not outputs, bool(pools)]
        gaps += [tensor.dtype is None or tensor.shape is None for tensor in (*inputs, *outputs)]
        return {
            "toml": _toml, "has_gaps": any(gaps), "name": self._name(candidates), "entry": entry, "inputs": inputs, "outputs": outputs,
            "candidates": [_declaration(item.function) for item in candidates[:_MOST_CANDIDATES]] + self._symbols(), "pools": pools,
            "sources": [file.path for file in self.sources], "headers": self._included(), "objects": self.objects,
            "include_directories": (), "parameters": self.weights[0] if len(self.weights) == 1 else None,
            "tests": [(item[0], item[1]) for item in golden], "programs": self.programs,
        }  # fmt: skip

    def _name(self, candidates: Sequence[_Candidate]) -> str:
        return suggest_model_name(candidates[0].function.name if len(candidates) == 1 else self.label)

    def _candidates(self) -> list[_Candidate]:
        """List the functions with inputs and outputs that nothing in the folder calls."""
        found: dict[str, _Candidate] = {}
        for file in (*self.sources, *self.headers):
            for item in self.functions[file.path]:
                known = found.get(item.name)
                header = file.path if file in self.headers and not item.is_definition else None
                if _can_be_model(item):
                    function = known.function if known and not item.is_definition else item
                    found[item.name] = _Candidate(function=function, header=header or (known.header if known else None))
        called = [item for item in found.values() if self._is_called(item.function.name)]
        return [item for item in found.values() if item not in called] or called

    def _is_called(self, name: str) -> bool:
        texts = [plain_code(file.text) for file in (*self.sources, *self.headers) if name in file.text]
        mentioned = sum(len(re.findall(rf"\b{name}\s*\(", text)) for text in texts)
        declared = sum(item.name == name for items in self.functions.values() for item in items)
        programs = sum(item.name == name for path in self.programs for item in self.functions[path])
        return mentioned > declared - programs

    def _symbols(self) -> list[str]:
        """List the functions that objects define, where there are no sources to say more."""
        if self.sources or not self.objects:
            return []
        from mlf.objects.elf import parse_object  # noqa: PLC0415  # numpy

        names: list[str] = []
        for path in self.objects:
            symbols = parse_object((self.folder / path).read_bytes(), path).symbols
            first = symbols.local_count
            rows = zip(
                symbols.names[first:], symbols.info[first:].tolist(), symbols.section[first:].tolist(), strict=True
            )
            names += [name for name, info, section in rows if info & 15 == _FUNCTION_SYMBOL and section != 0]
        return sorted(names)[:_MOST_CANDIDATES]

    def _entry(self, candidate: _Candidate) -> _Entry:
        function = candidate.function
        arguments = tuple(item.name if item.is_pointer and item.name else 0 for item in function.parameters)
        return _Entry(
            declaration=_declaration(function), function=function.name, arguments=arguments, header=candidate.header,
            is_complete=all(item.is_pointer and item.name for item in function.parameters), returns=function.returns,
        )  # fmt: skip

    def _roles(self, function: CFunction) -> tuple[tuple[_Tensor, ...], tuple[_Tensor, ...], tuple[Any, ...]]:
        """Tell inputs, outputs and memory apart: inputs are constant, memory has a name that says so."""
        pointers = [item for item in function.parameters if item.is_pointer and item.name]
        tensors = {item.name: _Tensor(name=item.name, dtype=item.dtype, shape=item.shape) for item in pointers}
        inputs = tuple(tensors[item.name] for item in pointers if item.is_const)
        memory = [item for item in pointers if not item.is_const and _MEMORY.search(item.name)]
        outputs = tuple(tensors[item.name] for item in pointers if not item.is_const and item not in memory)
        return inputs, outputs, tuple({"name": item.name, "size_bytes": _size_bytes(item)} for item in memory)

    def _is_complete(self, function: CFunction, inputs: Sequence[_Tensor], outputs: Sequence[_Tensor]) -> bool:
        """Tell whether the tensors' names, which golden data may have replaced, are those of the parameters."""
        names = {item.name for item in function.parameters}
        return all(tensor.name in names for tensor in (*inputs, *outputs)) and all(
            item.is_pointer and item.name for item in function.parameters
        )

    def _included(self) -> list[str]:
        """List the headers that the sources include, and what those include."""
        by_path = {file.path: file for file in self.headers}
        pending, found = list(self.sources), set()
        while pending:
            file = pending.pop()
            for name, _ in includes(file.text):
                near = posixpath.normpath(posixpath.join(posixpath.dirname(file.path), name))
                same = [path for path in by_path if path == near] or [path for path in by_path if f"/{path}".endswith(f"/{name}")]  # fmt: skip
                for path in same:
                    if path not in found:
                        found.add(path)
                        pending.append(by_path[path])
        return sorted(found)

    def _golden(self) -> list[tuple[str, str, Arrays, Arrays]]:
        """Find pairs of files with golden data, by their names."""
        from mlf.arrays import load_arrays  # noqa: PLC0415  # numpy

        pairs: list[tuple[str, str, Arrays, Arrays]] = []
        for path in self.arrays:
            folder, _, name = path.rpartition("/")
            found = _GOLDEN.fullmatch(name)
            for word in _OUTPUT_WORDS[found["word"]] if found else ():
                other = posixpath.join(folder, f"{found['stem']}{word}{found['rest']}.npz") if found else ""
                if other in self.arrays:
                    try:
                        arrays = [load_arrays(self.folder / item) for item in (path, other)]
                    except MlfError:
                        break
                    pairs.append((path, other, arrays[0], arrays[1]))
                    break
        return pairs


def _files(folder: Path) -> Iterator[str]:
    """List the files below a folder that are not hidden, as POSIX paths; links are not followed."""
    count = 0
    for directory, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in names:
            path = os.path.relpath(os.path.join(directory, name), folder).replace(os.sep, "/")  # noqa: PTH118  # what os.walk gives
            count += 1
            if count > _MOST_FILES:
                raise InputError(f"has more than {_MOST_FILES} files", where=folder.resolve().name)
            if not name.startswith(".") and path.isprintable() and "\\" not in path:
                yield path


def _can_be_model(function: CFunction) -> bool:
    pointers = [item for item in function.parameters if item.is_pointer]
    written = [item for item in pointers if not item.is_const and not _MEMORY.search(item.name)]
    return (
        not function.is_static
        and function.name != "main"
        and function.returns in ("void", "status")
        and any(item.is_const for item in pointers)
        and bool(written)
    )


def _size_bytes(parameter: CParameter) -> int | None:
    width = DTYPE_BYTES.get(parameter.dtype or "")
    return parameter.elements * width if parameter.elements and width else None


def _typed(tensors: Sequence[_Tensor], arrays: Arrays) -> tuple[_Tensor, ...]:
    """Complete tensors by golden data: of the same names, or where there are no tensors, by the data alone."""
    if not tensors:
        return tuple(_Tensor(name=name, dtype=_dtype(array), shape=array.shape) for name, array in arrays.items())
    return tuple(
        _Tensor(name=item.name, dtype=item.dtype or _dtype(arrays[item.name]), shape=arrays[item.name].shape)
        if item.name in arrays
        else item
        for item in tensors
    )


def _dtype(array: npt.NDArray[Any]) -> str | None:
    return array.dtype.name if array.dtype.name in DTYPE_BYTES else None


def _declaration(function: CFunction) -> str:
    kinds = {"void": "void", "status": "int", "other": "..."}
    parameters = ", ".join(_parameter(item) for item in function.parameters)
    return f"{kinds[function.returns]} {function.name}({parameters})"


def _parameter(parameter: CParameter) -> str:
    words = [word for word in ("const" if parameter.is_const else "", parameter.dtype or "?") if word]
    extents = "".join(f"[{extent}]" for extent in parameter.shape or ())
    star = "*" if parameter.is_pointer and not extents else ""
    return f"{' '.join(words)}{star} {parameter.name or '?'}{extents}"


def _toml(value: object) -> str:
    """Write text, numbers and lists of them in TOML."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
