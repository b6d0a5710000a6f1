"""`description.toml`: the few facts with which any C, C++ or object code becomes a module.

    [model]
    name = "kws"                   # of the module: a small letter, then small letters, digits and _
    interface = "c"                # `c` (structs of pointers, the default) or `packed` (TVM's packed functions)
    operators = "unpacked"         # `unpacked` (plain pointers, the default); `packed`: `function` is a packed function itself

    [entry]
    function = "kws_predict"       # what runs the model; in C++ code it is `extern "C"`
    arguments = ["samples", "scores", 32, "arena"]    # tensors, pools and whole numbers in call order
    returns = "status"             # `status` (an int, 0 is success) or `void` (always succeeds); the default is `status`
    header = "kws.h"               # optional: declares `function`, in C; needed where a number is passed

    [code]
    sources = ["src/*.c"]          # .c, .cc, .cpp, .cxx; here and below: paths and globs, relative to this file
    headers = ["src/*.h"]          # all files that sources and headers include
    include_directories = ["src"]  # optional: where `#include` looks, in order; else the folders of the sources
    objects = ["lib/*.o"]          # compiled code, all of it for one machine; also libraries, lib/*.a
    definitions = {NDEBUG = "1"}   # macros, as after a compiler's -D
    allocates_bytes = 4096         # what the code asks of TVMBackendAllocWorkspace at most, where it is TVM's and does

    [[inputs]]                     # in the order of the archive's structs; [[outputs]] in the same way
    name = "samples"
    dtype = "int8"                 # TVM's words: int8 ... uint64, float16 ... float64, bfloat16, bool, int4, uint4, ...
    shape = [1, 64]
    quantization = {scale = 0.5, zero_point = -3}     # optional

    [[pools]]                      # memory that `function` takes besides tensors
    name = "arena"
    kind = "workspace"             # `workspace` (the default) or `constant`
    memory = "internal"            # `internal`: a buffer in the archive's code; `external`: the caller's
    size_bytes = 2048
    alignment_bytes = 16           # optional, a power of two
    file = "weights.bin"           # of a constant pool, instead of its size: what the caller must put there

    [parameters]                   # optional: weights that are no code
    file = "kws.npz"               # or .params; names and order are kept

    [[tests]]                      # optional: golden data, .npz files whose keys are tensor names
    inputs = "in.npz"
    outputs = "out.npz"
    rtol = 1e-5                    # integers are compared exactly
    atol = 1e-6
    name = "silence"               # optional

Elements of int4 and uint4 take a byte each, as in TVM's C code. Where the code defines `tvmgen_<name>_run` itself, in TVM's
form, `function` names it and `arguments` are left out.
"""

from __future__ import annotations

import math
import posixpath
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlf.csource import C_TYPES, DTYPE_SIZES_BYTES, WORKSPACE_ALIGNMENT_BYTES
from mlf.errors import InputError, NameClashError, reason_of
from mlf.frontends.table import Table, listed, load_toml, shown
from mlf.metadata import Pool, Quantization, Tensor
from mlf.naming import C_IDENTIFIER, KEYWORDS, check_model_name, mangle, sanitize_tensor_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DESCRIPTION_NAME = "description.toml"
# A step of float32 is 6e-8 of a number; sums in another order differ by some hundred steps, and near zero by more.
DEFAULT_RTOL = 1e-5
DEFAULT_ATOL = 1e-6
# One byte per element, as in TVM's C code and .params files.
DTYPE_BYTES: Mapping[str, int] = {**DTYPE_SIZES_BYTES, "int4": 1, "uint4": 1, "float8_e4m3fn": 1, "float8_e5m2": 1}
SOURCE_SUFFIXES = (".c", ".cc", ".cpp", ".cxx")
OBJECT_SUFFIXES = (".o", ".obj", ".a")
_DESCRIPTION_BYTES = 1 << 20  # a thousand tensors need a tenth of it
_BUFFER_BYTES = 1 << 30  # of a tensor or pool; no microcontroller has that much memory
_MOST_EXTENTS = 64
_MOST_FILES = 10_000  # what an archive may hold
_MOST_INTEGER = 2**31 - 1  # of a number that is passed: an int holds it on every target
_TEST_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenFiles:
    """Golden inputs and outputs in `.npz` files; without a name it gets a number. Integers are compared exactly."""

    inputs: Path
    outputs: Path
    rtol: float = DEFAULT_RTOL
    atol: float = DEFAULT_ATOL
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The function that runs the model, and what it is called with; `arguments` are C names and numbers."""

    function: str
    arguments: tuple[str | int, ...] = ()
    returns: str = "status"
    header: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A description whose every fact has been checked, except against the code.

    Files are POSIX paths relative to `folder`, sorted; `label` is what messages call the description.
    """

    label: str
    folder: Path
    name: str
    interface: str
    operators: str
    entry: Entry
    sources: tuple[str, ...]
    headers: tuple[str, ...]
    include_directories: tuple[str, ...]
    objects: tuple[str, ...]
    definitions: tuple[tuple[str, str], ...]
    allocates_bytes: int | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    pools: tuple[Pool, ...]
    parameters: str | None
    tests: tuple[GoldenFiles, ...]

    @property
    def is_called(self) -> bool:
        """Tell whether an entrypoint must be generated that calls the function, which then is not one itself."""
        return self.operators == "unpacked" and self.entry.function not in entrypoint_names(self.name).values()


def entrypoint_names(model: str) -> dict[str, str]:
    """Give the entrypoints that version 8 may have for a model, by interface."""
    return {"c": mangle(model, "run"), "packed": mangle(model, "tvm_module_main")}


def read_description(path: Path, *, name: str | None = None) -> Description:
    """Read and check the description at `path`; `name` is the model's if it is not the one that stands there.

    Raises InputError, whose message lists every fault with its place.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_DESCRIPTION_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot be read: {reason_of(error)}", where=path.name) from error
    if len(data) > _DESCRIPTION_BYTES:
        raise InputError(f"has more than {_DESCRIPTION_BYTES} bytes", where=path.name)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 at byte {error.start}", where=path.name) from error
    return parse_description(text, label=path.name, folder=path.parent, name=name)


def parse_description(text: str, *, label: str, folder: Path, name: str | None = None) -> Description:
    """Check the text of a description whose paths are relative to `folder`; raises InputError as `read_description` does."""
    reader = _Reader(load_toml(text, label), label, folder)
    description = reader.read(name)
    if reader.faults:
        raise InputError(listed(reader.faults), where=label)
    return description


class _Reader:
    """Reads one document and gathers its faults."""

    def __init__(self, document: Mapping[str, Any], label: str, folder: Path) -> None:
        self.faults: list[str] = []
        self.top = Table(document, "", self.faults)
        self.label = label
        self.folder = folder

    def read(self, name: str | None) -> Description:
        model, interface, operators = self._model(name)
        inputs, outputs = (self._tensors(key) for key in ("inputs", "outputs"))
        pools = tuple(self._pool(table) for table in self.top.tables("pools"))
        entry = self._entry()
        parameters = self.top.table("parameters")
        description = Description(
            label=self.label, folder=self.folder, name=model, interface=interface, operators=operators, entry=entry, inputs=inputs,
            outputs=outputs, pools=pools, tests=self._tests(), parameters=self._file(parameters, "file") if parameters else None,
            **self._code(entry),
        )  # fmt: skip
        for table in (parameters, self.top):
            if table:
                table.end()
        self._check_names(description)
        self._check_call(description)
        return description

    def _model(self, name: str | None) -> tuple[str, str, str]:
        table = self.top.table("model", is_required=True)
        if table is None:
            return "", "c", "unpacked"
        given = table.text("name") if name is None or table.has("name") else name
        interface, operators = table.choice("interface", ("c", "packed"), "c"), table.choice("operators", ("unpacked", "packed"), "unpacked")  # fmt: skip
        table.end()
        if (interface, operators) == ("c", "packed"):
            fix = '`operators = "packed"` do not take: change one of them'
            table.fault(f'`interface = "c"` passes plain pointers, which {fix}')
            operators = "unpacked"
        try:
            return check_model_name(name or given, where=self.label) if name or given else "", interface, operators
        except NameClashError as error:
            table.fault(f"`name`: {error.message}")
            return "", interface, operators

    def _entry(self) -> Entry:
        table = self.top.table("entry", is_required=True)
        if table is None:
            return Entry(function="")
        function = table.text("function", None, C_IDENTIFIER, "a C identifier")
        if function in KEYWORDS:
            table.refuse("function", "a name that is no keyword of C or C++")
        arguments = table.sequence("arguments", (str, int), "names and whole numbers")
        wide = [item for item in arguments if isinstance(item, int) and not -_MOST_INTEGER <= item <= _MOST_INTEGER]
        for number in wide:
            table.fault(f"`arguments` has `{number}`, which does not fit an int of 32 bits")
        returns = table.choice("returns", ("status", "void"), "status")
        header = self._file(table, "header") if table.has("header") else None
        table.end()
        return Entry(function=function, arguments=tuple(arguments), returns=returns, header=header)

    def _code(self, entry: Entry) -> dict[str, Any]:
        table = self.top.table("code", is_required=True)
        if table is None:
            keys = ("sources", "headers", "include_directories", "objects", "definitions")
            return {**dict.fromkeys(keys, ()), "allocates_bytes": None}
        files = {key: self._files(table, key) for key in ("sources", "headers", "objects")}
        if not files["sources"] and not files["objects"]:
            table.fault("names neither `sources` nor `objects`")
        for key, suffixes in (("sources", SOURCE_SUFFIXES), ("objects", OBJECT_SUFFIXES)):
            for file in files[key]:
                if not file.endswith(suffixes):
                    table.fault(f"`{key}`: {file} ends in none of {', '.join(suffixes)}")
        if entry.header:
            files["headers"] = tuple(sorted({*files["headers"], entry.header}))
        directories = tuple(posixpath.normpath(item) for item in table.sequence("include_directories", str, "folders"))
        for directory in directories:
            if not self._relative(table, "include_directories", directory) or not _is_there(
                self.folder / directory, is_folder=True
            ):
                table.fault(f"`include_directories`: there is no folder {directory}")
        found = {
            **files, "include_directories": directories, "definitions": self._definitions(table),
            "allocates_bytes": table.integer("allocates_bytes", 0, _BUFFER_BYTES) if table.has("allocates_bytes") else None,
        }  # fmt: skip
        table.end()
        return found

    def _definitions(self, table: Table) -> tuple[tuple[str, str], ...]:
        if not table.has("definitions"):
            return ()
        values = table.values["definitions"]
        inner = Table(values, f"{table.place} `definitions`:", self.faults)
        for name, value in inner.values.items():
            if not C_IDENTIFIER.fullmatch(name):
                inner.fault(f"{shown(name)} is no C identifier")
            if isinstance(value, bool) or not isinstance(value, str | int) or re.search(r"[\0\n]", str(value)):
                inner.refuse(name, "text of one line or a whole number")
        return tuple((name, str(value)) for name, value in sorted(inner.values.items()))

    def _tensors(self, key: str) -> tuple[Tensor, ...]:
        tables = self.top.tables(key)
        if not tables and key not in self.top.values:
            self.top.fault(f"[[{key}]] is missing: a model has at least one")
        return tuple(self._tensor(table) for table in tables)

    def _tensor(self, table: Table) -> Tensor:
        name = table.text("name")
        dtype = table.text("dtype", None, re.compile("|".join(DTYPE_BYTES)), f"one of {', '.join(sorted(DTYPE_BYTES))}")
        shape = table.sequence("shape", int, "extents")
        if "shape" not in table.values:
            table.refuse("shape", "a list of extents")
        if any(extent < 1 for extent in shape) or len(shape) > _MOST_EXTENTS:
            table.fault(f"`shape` is {shape}, expected at most {_MOST_EXTENTS} extents of at least 1")
            shape = []
        size_bytes = math.prod(shape) * DTYPE_BYTES.get(dtype, 1)
        if size_bytes > _BUFFER_BYTES:
            table.fault(f"has {size_bytes} bytes; at most {_BUFFER_BYTES} are allowed")
        quantization = self._quantization(table)
        table.end()
        return Tensor(
            name=name, c_name=sanitize_tensor_name(name), dtype=dtype, shape=tuple(shape), size_bytes=size_bytes,
            quantization=quantization,
        )  # fmt: skip

    def _quantization(self, table: Table) -> Quantization | None:
        if not table.has("quantization"):
            return None
        inner = Table(table.values["quantization"], f"{table.place} `quantization`:", self.faults)
        scale, zero_point = inner.number("scale"), inner.integer("zero_point", -(2**31), 2**32 - 1)
        if scale == 0 and "scale" in inner.values:
            inner.refuse("scale", "a number above 0")
        inner.end()
        return Quantization(scale=scale, zero_point=zero_point)

    def _pool(self, table: Table) -> Pool:
        name = table.text("name", None, C_IDENTIFIER, "a C identifier")
        kind = table.choice("kind", ("workspace", "constant"), "workspace")
        is_internal = table.choice("memory", ("internal", "external")) == "internal"
        alignment = table.integer("alignment_bytes", 1, 1 << 16, WORKSPACE_ALIGNMENT_BYTES)
        if alignment.bit_count() != 1:
            table.refuse("alignment_bytes", "a power of two")
        data = b""
        if kind == "constant":
            data = self._content(table)
            if is_internal:
                table.fault('is constant and internal: constants inside the code are code; use `memory = "external"`')
        size_bytes = len(data) if kind == "constant" else table.integer("size_bytes", 1, _BUFFER_BYTES)
        if not is_internal and alignment > WORKSPACE_ALIGNMENT_BYTES:
            table.fault(
                f"`alignment_bytes` is {alignment}; callers align external pools to {WORKSPACE_ALIGNMENT_BYTES}"
            )
        table.end()
        return Pool(name=name, kind=kind, size_bytes=size_bytes, alignment_bytes=alignment, is_internal=is_internal, data=data)  # fmt: skip

    def _content(self, table: Table) -> bytes:
        """Read what a constant pool holds."""
        file = self._file(table, "file")
        if not file:
            return b""
        try:
            data = (self.folder / file).read_bytes()
        except OSError as error:
            table.fault(f"`file`: {file} cannot be read: {reason_of(error)}")
            return b""
        if not data:
            table.fault(f"`file`: {file} is empty")
        return data

    def _tests(self) -> tuple[GoldenFiles, ...]:
        tests = []
        for table in self.top.tables("tests"):
            inputs, outputs = (self.folder / self._file(table, key) for key in ("inputs", "outputs"))
            rtol, atol = table.number("rtol", DEFAULT_RTOL), table.number("atol", DEFAULT_ATOL)
            name = table.text("name", None, _TEST_NAME, "letters, digits, _ and -") if table.has("name") else None
            table.end()
            tests.append(GoldenFiles(inputs=inputs, outputs=outputs, rtol=rtol, atol=atol, name=name))
        return tuple(tests)

    def _file(self, table: Table, key: str) -> str:
        """Give the path of a file that there is."""
        path = posixpath.normpath(table.text(key) or ".")
        if path != "." and self._relative(table, key, path) and not _is_there(self.folder / path):
            table.fault(f"`{key}`: there is no file {path}")
        return path if path != "." else ""

    def _files(self, table: Table, key: str) -> tuple[str, ...]:
        """Give the files that paths and globs name, sorted."""
        found: set[str] = set()
        for pattern in table.sequence(key, str, "paths"):
            if not self._relative(table, key, pattern):
                continue
            try:
                paths = list(self.folder.glob(pattern)) if _GLOB.search(pattern) else [self.folder / pattern]
                files = [path for path in paths if _is_there(path)]
            except (ValueError, OSError) as error:
                table.fault(f"`{key}`: {shown(pattern)} is no path or glob: {error}")
                continue
            if not files:
                table.fault(f"`{key}`: there is no file {pattern}")
            found |= {posixpath.relpath(path.as_posix(), self.folder.as_posix()) for path in files}
        if len(found) > _MOST_FILES:
            table.fault(f"`{key}` has {len(found)} files; at most {_MOST_FILES} are allowed")
        return tuple(sorted(found))

    def _relative(self, table: Table, key: str, path: str) -> bool:
        if path and not path.startswith("/") and "\\" not in path and "\0" not in path:
            return True
        table.fault(f"`{key}`: {shown(path)} is no path relative to the description, with `/` between its parts")
        return False

    def _check_names(self, description: Description) -> None:
        """Note names that C cannot have or that two things share."""
        owners: dict[str, str] = {description.entry.function: f"the function `{description.entry.function}`"}
        named = [(f"[[inputs]] `{item.name}`", item.c_name) for item in description.inputs]
        named += [(f"[[outputs]] `{item.name}`", item.c_name) for item in description.outputs]
        named += [(f"[[pools]] `{item.name}`", item.name) for item in description.pools]
        for place, name in named:
            if not name:
                continue
            if not C_IDENTIFIER.fullmatch(name) or name in KEYWORDS or name in C_TYPES:
                self.faults.append(f"{place} is called `{name}` in C, which is no name that C can give it")
            elif name in owners:
                self.faults.append(f"{place} is called `{name}` in C, as is {owners[name]}")
            owners.setdefault(name, place)
        names = [test.name for test in description.tests if test.name]
        for twice in sorted({name for name in names if names.count(name) > 1}):
            self.faults.append(f"[[tests]] two have the name `{twice}`")

    def _check_call(self, description: Description) -> None:
        """Note a call that cannot be: arguments that are missing or too many, or that no generated code can pass."""
        entry, values = description.entry, self.top.values.get("entry")
        if not entry.function or not description.name or not isinstance(values, dict):
            return
        if not description.is_called:
            if entry.arguments:
                self.faults.append(f"[entry] `arguments` are given, but `{entry.function}` is an entrypoint itself")
            return
        if "arguments" not in values:
            self.faults.append("[entry] `arguments` is missing")
        elif entry.arguments or values["arguments"] == []:  # else they are no list of names and numbers
            self._check_arguments(description)
        if description.interface == "packed" and any(not pool.is_internal for pool in description.pools):
            fix = 'use `memory = "internal"` or `interface = "c"`'
            self.faults.append(f"[[pools]] are external, which the packed interface cannot pass: {fix}")

    def _check_arguments(self, description: Description) -> None:
        """Note arguments that name nothing, and tensors and pools that no argument names."""
        entry = description.entry
        tensors = [item.name for item in (*description.inputs, *description.outputs)]
        known = [name for name in (*tensors, *(pool.name for pool in description.pools)) if name]
        for item in entry.arguments:
            if isinstance(item, str) and item not in known:
                self.faults.append(f"[entry] `arguments` has `{item}`, which is no input, output or pool")
        for name in known:
            if name not in entry.arguments:
                self.faults.append(f"[entry] `arguments` does not pass `{name}`")
        if entry.header is None and any(isinstance(item, int) for item in entry.arguments):
            what = "whose type only a declaration tells: `header` must name one"
            self.faults.append(f"[entry] `arguments` passes a number, {what}")


def call_names(description: Description) -> Entry:
    """Give the entry with its arguments as C calls them."""
    names = {item.name: item.c_name for item in (*description.inputs, *description.outputs)}
    arguments = tuple(names.get(item, item) if isinstance(item, str) else item for item in description.entry.arguments)
    return replace(description.entry, arguments=arguments)


def _is_there(path: Path, *, is_folder: bool = False) -> bool:
    """Tell whether there is a file or folder; none has a name that the system does not take."""
    try:
        return path.is_dir() if is_folder else path.is_file()
    except (OSError, ValueError):
        return False
