"""What `mlf validate` finds: for each code an archive that has the fault, and one beside it that has not."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from archives import EMPTY_PARAMS, RELEASES, SNAPSHOTS, STYLES, Arrays, Members, Network, members, write
from jsonschema import Draft202012Validator
from toolbox import CORTEX_M3, RV32, Target, compile_c

from mlf.archive import open_archive
from mlf.arrays import npz_bytes
from mlf.check import CODES, ERROR, NOTE, WARNING, Finding, Verdict, validate, validate_all
from mlf.converter import convert
from mlf.errors import ToolError, UnsupportedError
from mlf.metadata import identity_of
from mlf.params import Param, render_params

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Change = Callable[[Members, dict[str, Any]], object]

ROOT = Path(__file__).parent.parent
TONE, GLYPH, MOTOR = (ROOT / "samples" / f"{name}.tar" for name in ("tone", "glyph", "motor"))
LIB0, LIB1 = "codegen/host/src/default_lib0.c", "codegen/host/src/default_lib1.c"
OBJECT = "codegen/host/lib/default_lib2.o"
HEADER = "codegen/host/include/tvmgen_default.h"
PARAMS, GRAPH_JSON = "parameters/default.params", "executor-config/graph/default.graph"
GRAPH = Network(**STYLES["graph"])
PLAIN = Network()
POOLED = Network(memory="external")
TWO = (Network(model="one"), Network(model="two"))
BOMB_BYTES = 64 << 20
CPU_SECONDS = 6  # for what is hostile; the work on a slow machine takes some tenths of it, what is quadratic minutes
INTERRUPT_SECONDS = 1
PROGRAM_SECONDS = 30  # a program that hangs must fail its test, not stop the run


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A fault: archives of `networks` in a version, `change` puts it in, `neighbour` something like it that is right."""

    name: str
    version: int = 7
    networks: tuple[Network, ...] = (PLAIN,)
    change: Change
    findings: tuple[Finding, ...]
    neighbour: Change | None = None


def finding(code: str, place: str, got: str, expected: str, severity: str | None = None) -> Finding:
    return Finding(code=code, severity=severity or CODES[code], place=place, got=got, expected=expected)


def sealed(content: Members, document: dict[str, Any]) -> None:
    """Give a document of version 8 the digests and the identity that fit; members without a descriptor stay so."""
    for item in document["members"]:
        if item["path"] in content:
            data = content[item["path"]]
            item |= {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    document["members"].sort(key=lambda item: item["path"])
    document["identity"] = identity_of(document)


def described(content: Members, document: dict[str, Any], name: str, data: bytes, **keys: Any) -> None:
    """Put a member into an archive of version 8, with its descriptor."""
    content[name] = data
    document["members"].append({"path": name, "role": "test", "module": None, **keys})


def version_8(content: Members, folder: Path) -> Members:
    """Convert an archive; gives its members."""
    convert(write(folder / "before.tar", content), to=8, output=folder / "after.tar")
    with open_archive(folder / "after.tar") as archive:
        return {member.name: archive.read(member.name) for member in archive.members}


def edited(content: Members, change: Change) -> Members:
    content = dict(content)
    document = json.loads(content["metadata.json"])
    change(content, document)
    if "metadata.json" in content:
        content["metadata.json"] = json.dumps(document).encode()
    return content


def made(folder: Path, change: Change, version: int = 7, networks: Sequence[Network] = (PLAIN,)) -> Path:
    content = members(*networks)
    content = version_8(content, folder) if version == 8 else content
    return write(folder / "archive.tar", edited(content, change))


def found(path: Path) -> tuple[Finding, ...]:
    return validate(path).findings


def seal(change: Change) -> Change:
    """Make a change of version 8 that renews digests and identity too."""

    def both(content: Members, document: dict[str, Any]) -> None:
        change(content, document)
        sealed(content, document)

    return both


def module(document: dict[str, Any], name: str = "default") -> dict[str, Any]:
    return dict(document["modules"])[name]  # type: ignore[no-any-return]


def main(document: dict[str, Any]) -> dict[str, Any]:
    return module(document)["memory"]["functions"]["main"][0]  # type: ignore[no-any-return]


def setting(value: Any, *path: str | int) -> Change:
    """Make a change that sets a value in the document, in the module if the path does not begin with `/`."""

    def change(_: Members, document: dict[str, Any]) -> None:
        node: Any = document if path[0] == "/" else module(document)
        *steps, last = path[1:] if path[0] == "/" else path
        for step in steps:
            node = node[step]
        node[last] = value

    return change


def removing(*path: str | int) -> Change:
    def change(_: Members, document: dict[str, Any]) -> None:
        node: Any = document if path[0] == "/" else module(document)
        *steps, last = path[1:] if path[0] == "/" else path
        for step in steps:
            node = node[step]
        del node[last]

    return change


def replacing(name: str, old: bytes, new: bytes) -> Change:
    def change(content: Members, _: dict[str, Any]) -> None:
        assert old in content[name]
        content[name] = content[name].replace(old, new)

    return change


def adding(name: str, data: bytes) -> Change:
    return lambda content, _: content.update({name: data})


def dropping(name: str) -> Change:
    return lambda content, _: content.pop(name)


def every(*changes: Change) -> Change:
    def change(content: Members, document: dict[str, Any]) -> None:
        for item in changes:
            item(content, document)

    return change


def graph(edit: Callable[[dict[str, Any]], object]) -> Change:
    """Make a change of the graph."""

    def change(content: Members, _: dict[str, Any]) -> None:
        document = json.loads(content[GRAPH_JSON])
        edit(document)
        content[GRAPH_JSON] = json.dumps(document).encode()

    return change


def params(**arrays: Any) -> bytes:
    """Make a `.params` file; a dtype that numpy lacks stands before its array."""
    return render_params(
        [
            Param(name=name, dtype=dtype, array=array)
            for name, (dtype, array) in {
                key: value if isinstance(value, tuple) else (str(value.dtype), value) for key, value in arrays.items()
            }.items()
        ]
    )


WEIGHT = np.zeros((1, 8), np.float32)
FITTING: Arrays = {"zeta:0": np.zeros((1, 8), np.float32), "alpha-b": np.zeros((2, 4), np.int8)}
ANSWER: Arrays = {"scores": np.zeros((1, 4), np.int32), "hidden": np.zeros((1, 8), np.float32)}


def golden(
    inputs: bytes = npz_bytes(FITTING), outputs: bytes = npz_bytes(ANSWER), *, name: str = "tests/in.npz"
) -> Change:
    """Make a change of version 8 that adds golden data; `name` is what metadata calls the inputs."""

    def change(content: Members, document: dict[str, Any]) -> None:
        described(content, document, "tests/in.npz", inputs)
        described(content, document, "tests/out.npz", outputs)
        test = {"name": "first", "inputs": name, "outputs": "tests/out.npz", "rtol": 0, "atol": 0}
        module(document)["tests"] = [test]

    return seal(change)


def npy(header: str, data: bytes = bytes(32)) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + data


def zipped(content: Members, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def packed(npz: bytes) -> bytes:
    """Compress what an `.npz` file holds."""
    with zipfile.ZipFile(io.BytesIO(npz)) as archive:
        return zipped({name: archive.read(name) for name in archive.namelist()}, zipfile.ZIP_DEFLATED)


def elf(*names: str, target: Target = CORTEX_M3) -> bytes:
    return compile_c("".join(f"int {name}(void) {{ return 0; }}\n" for name in names), target, "-Os", "-w")


def with_object(data: bytes, name: str = OBJECT) -> Change:
    """Make a change of version 8 that adds an object, and says what machine it is for."""
    machine = {"machine": "ARM", "bits": 32, "byte_order": "little", "abi": "eabi5", "float_abi": "soft"}

    def change(content: Members, document: dict[str, Any]) -> None:
        described(content, document, name, data, role="object", module="default")
        module(document)["code"]["object"] = machine

    return change


def no_change(*_: object) -> None:
    """Leave an archive whose network itself has the fault."""


DOCUMENT = (
    Case(
        name="no metadata",
        change=dropping("metadata.json"),
        findings=(
            finding("metadata-missing", "metadata.json", "no such member", "one, as every Model Library Format archive has"),
        ),
    ),
    Case(
        name="a version that nobody knows",
        change=setting(9, "/", "version"),
        findings=(finding("version", "metadata.json: version", "`9`", "a version from 1 to 8"),),
    ),
    Case(
        name="no version",
        change=removing("/", "version"),
        findings=(finding("version", "metadata.json: version", "no such key", "a version from 1 to 8"),),
    ),
    Case(
        name="a version that is no number",
        change=setting(True, "/", "version"),
        findings=(finding("version", "metadata.json: version", "`true`", "a version from 1 to 8"),),
    ),
    Case(
        name="a missing key",
        change=removing("target"),
        findings=(finding("schema", "metadata.json: modules.default", "no key `target`", "that key"),),
    ),
    Case(
        name="a wrong type",
        change=setting(["c", 1], "target"),
        findings=(finding("schema", "metadata.json: modules.default.target[1]", "`1`", "a string"),),
        neighbour=setting(["c", "llvm"], "target"),
    ),
    Case(
        name="a wrong type where two are right",
        version=8,
        change=seal(setting(1, "outputs", 0, "dtype")),
        findings=(finding("schema", "metadata.json: modules.default.outputs[0].dtype", "`1`", "a string or `null`"),),
        neighbour=seal(setting(None, "outputs", 0, "shape")),
    ),
    Case(
        name="a wrong constant",
        change=setting("operator", "style"),
        findings=(finding("schema", "metadata.json: modules.default.style", '`"operator"`', '`"full-model"`'),),
    ),
    Case(
        name="a wrong choice",
        version=8,
        change=seal(setting("d", "code", "language")),
        findings=(
            finding(
                "schema", "metadata.json: modules.default.code.language", '`"d"`', 'one of `"c"`, `"c++"`, `"object"`'
            ),
        ),
    ),
    Case(
        name="a negative size",
        change=setting(-1, "memory", "functions", "main", 0, "io_size_bytes"),
        findings=(
            finding(
                "schema", "metadata.json: modules.default.memory.functions.main[0].io_size_bytes", "`-1`", "at least 0"
            ),
        ),
        neighbour=setting(0, "memory", "functions", "main", 0, "io_size_bytes"),
    ),
    Case(
        name="text of a wrong form",
        version=8,
        change=seal(setting("9a", "entrypoints", "main")),
        findings=(
            finding(
                "schema", "metadata.json: modules.default.entrypoints.main", '`"9a"`', "text that matches `^[A-Za-z_][A-Za-z0-9_]*$`"
            ),
        ),
    ),
    Case(
        name="a control character",
        version=8,
        change=seal(setting([{"name": "a", "inputs": "a\x1b.npz", "outputs": "b.npz", "rtol": 0, "atol": 0}], "tests")),
        findings=(
            finding(
                "schema", "metadata.json: modules.default.tests[0].inputs", '`"a\\u001b.npz"`',
                "text in which nothing matches `[\\x00-\\x1f\\x7f]`",
            ),
            finding("test-missing", "module default: test a: inputs", "no member 'a\\x1b.npz'", "golden data"),
            finding("test-missing", "module default: test a: outputs", "no member 'b.npz'", "golden data"),
        ),
    ),
    Case(
        name="no modules",
        change=setting({}, "/", "modules"),
        findings=(finding("schema", "metadata.json: modules", "0 of them", "at least 1 keys"),),
    ),
    Case(
        name="an odd key",
        change=setting({"dtype": 1, "size": 32}, "memory", "functions", "main", 0, "inputs", "a.b\n"),
        findings=(
            finding(
                "schema", 'metadata.json: modules.default.memory.functions.main[0].inputs["a.b\\n"].dtype', "`1`", "a string"
            ),
        ),
    ),
    Case(
        name="what the schema cannot say",
        version=8,
        change=seal(setting([1] * 65, "outputs", 0, "shape")),
        findings=(
            finding(
                "metadata-invalid", "metadata.json",
                "`modules.default.outputs[0].shape` has 65 extents; at most 64 are allowed",
                "what version 8 has there",
            ),
        ),
    ),
    Case(
        name="too many modules",
        change=lambda _, document: document["modules"].update({f"m{number}": module(document) for number in range(1000)}),
        findings=(finding("module-count", "metadata.json: modules", "1001 modules", "at most 1000"),),
    ),
)  # fmt: skip

MEMBERS = (
    Case(
        name="a file of no role",
        change=adding("notes.txt", b"?"),
        findings=(finding("member-unknown", "notes.txt", "a file that belongs to no module", "a name that the format has"),),
        neighbour=adding("runtime/notes.txt", b"?"),
    ),
    Case(
        name="a source of no module",
        change=adding("codegen/host/src/other_lib0.c", b"?"),
        findings=(
            finding(
                "member-unknown", "codegen/host/src/other_lib0.c", "a file that belongs to no module", "a name that the format has"
            ),
        ),
        neighbour=adding("codegen/host/src/default_lib2.c", b";"),
    ),
    Case(
        name="a changed byte",
        version=8,
        change=replacing(PARAMS, EMPTY_PARAMS, EMPTY_PARAMS[:-1] + b"\1"),
        findings=(
            finding(
                "member-digest", PARAMS, f"sha256 {hashlib.sha256(EMPTY_PARAMS[:-1] + bytes([1])).hexdigest()}",
                f"{hashlib.sha256(EMPTY_PARAMS).hexdigest()}, as metadata.json says",
            ),
            finding(
                "parameters-invalid", PARAMS,
                "list: count of tensors at byte 24 is 72057594037927936, expected 0 as of names",
                "a list of tensors as TVM writes it",
            ),
        ),
    ),
    Case(
        name="another size",
        version=8,
        change=adding(PARAMS, EMPTY_PARAMS + params(p0=WEIGHT)),
        findings=(
            finding("member-size", PARAMS, "162 bytes", "32, as metadata.json says"),
            finding(
                "parameters-invalid", PARAMS, "130 bytes follow the last parameter at byte 32, expected none",
                "a list of tensors as TVM writes it",
            ),
        ),
        neighbour=seal(adding(PARAMS, params(p0=WEIGHT))),
    ),
    Case(
        name="a missing member",
        version=8,
        change=dropping("src/default.relay"),
        findings=(
            finding("member-missing", "src/default.relay", "no such member", "every member that metadata.json describes"),
        ),
    ),
    Case(
        name="missing code",
        version=8,
        change=dropping(LIB1),
        findings=(finding("member-missing", LIB1, "no such member", "every member that metadata.json describes"),),
    ),
    Case(
        name="a member that nobody described",
        version=8,
        change=adding("notes.txt", b"?"),
        findings=(finding("member-undescribed", "notes.txt", "no descriptor", "one for every member but metadata.json"),),
        neighbour=seal(lambda content, document: described(content, document, "notes.txt", b"?", role="other")),
    ),
    Case(
        name="a member described twice",
        version=8,
        change=seal(lambda _, document: document["members"].append(dict(document["members"][0]))),
        findings=(finding("member-twice", HEADER, "2 descriptors", "one descriptor for each member"),),
    ),
    Case(
        name="metadata that describes itself",
        version=8,
        change=seal(lambda content, document: described(content, document, "metadata.json", b"{}", role="other")),
        findings=(
            finding("member-self", "metadata.json", "a descriptor", "none: it cannot hold its own digest"),
            finding(
                "schema", "metadata.json: members[3].path", '`"metadata.json"`', "text in which nothing matches `^metadata\\.json$|[\\x00-\\x1f\\x7f]`"
            ),
        ),
    ),
    Case(
        name="a name that not every file system has",
        version=8,
        change=seal(lambda content, document: described(content, document, "src/a b~1.txt", b"?", role="other")),
        findings=(finding("member-name", "src/a b~1.txt", "a name with ' ~'", "letters, digits and `_+@.-`, no dot at an end"),),
        neighbour=seal(lambda content, document: described(content, document, "src/a-b_1.txt", b"?", role="other")),
    ),
    Case(
        name="a hidden name",
        version=8,
        change=seal(lambda content, document: described(content, document, "src/.a", b"?", role="other")),
        findings=(
            finding(
                "member-name", "src/.a", "a name with a dot at an end of a component", "letters, digits and `_+@.-`, no dot at an end"
            ),
        ),
        neighbour=seal(lambda content, document: described(content, document, "src/a.b", b"?", role="other")),
    ),
    Case(
        name="descriptors in another order",
        version=8,
        change=every(
            lambda _, document: document["members"].reverse(),
            lambda _, document: document.update(identity=identity_of(document)),
        ),
        findings=(
            finding("member-order", "metadata.json: members", "not sorted", "descriptors sorted by the bytes of their paths"),
        ),
    ),
    Case(
        name="a member of a module that is not there",
        version=8,
        change=seal(
            lambda content, document: described(content, document, "notes.txt", b"?", role="other", module="second")
        ),
        findings=(finding("member-module", "notes.txt", "module 'second'", "a module of the archive"),),
        neighbour=seal(
            lambda content, document: described(content, document, "notes.txt", b"?", role="other", module="default")
        ),
    ),
    Case(
        name="a source that no module has",
        version=8,
        change=seal(lambda content, document: described(content, document, "more.c", b";", role="source")),
        findings=(finding("member-module", "more.c", "a source of no module", "the module that it is part of"),),
        neighbour=seal(
            lambda content, document: described(content, document, "more.c", b";", role="source", module="default")
        ),
    ),
    Case(
        name="a source that is no text",
        change=adding("codegen/host/src/default_lib2.c", b"\xff"),
        findings=(
            finding(
                "member-unreadable", "module default", "member 'codegen/host/src/default_lib2.c' is not UTF-8 at byte 0",
                "a member that can be read",
            ),
        ),
        neighbour=adding("codegen/host/src/default_lib2.c", "/* ü */".encode()),
    ),
)  # fmt: skip

CODE = (
    Case(
        name="no code",
        change=every(dropping(LIB0), dropping(LIB1), dropping(HEADER)),
        findings=(finding("code-missing", "module default", "no source and no object", "its code"),),
    ),
    Case(
        name="no graph",
        networks=(GRAPH,),
        change=dropping(GRAPH_JSON),
        findings=(finding("graph-missing", "module default", "no graph", "one, for the graph executor"),),
    ),
    Case(
        name="no weights",
        change=dropping(PARAMS),
        findings=(finding("parameters-missing", "module default", "no .params file", "one, if only an empty one"),),
    ),
    Case(
        name="a registry beside the C interface",
        change=no_change,
        networks=(Network(has_system_lib=True),),
        findings=(
            finding(
                "registry-conflict", "module default",
                "the registry of a system library declares its entrypoint a second time, with other arguments",
                "one or the other; `mlf link` leaves the registry out",
            ),
        ),
    ),
    Case(
        name="another name than the key",
        change=setting("other", "model_name"),
        findings=(finding("module-name", "module default: model_name", '`"other"`', "`default`, as its key says"),),
    ),
    Case(
        name="a header without the inputs",
        change=replacing(HEADER, b"struct tvmgen_default_inputs {", b"struct inputs {"),
        findings=(
            finding(
                "source-invalid", "module default",
                "codegen/host/include/tvmgen_default.h declares no `struct tvmgen_default_inputs`",
                "code of a form that TVM generates",
            ),
        ),
    ),
    Case(
        name="a language that the sources are not in",
        version=8,
        change=seal(setting("c++", "code", "language")),
        findings=(
            finding(
                "code-language", "module default: code.language", "metadata.json says c++", "c, as the members' names say"
            ),
        ),
        neighbour=seal(
            every(
                lambda content, document: described(content, document, "a.cc", b";", role="source", module="default"),
                setting("c++", "code", "language"),
            )
        ),
    ),
    Case(
        name="a size that the code does not have",
        change=lambda _, document: main(document)["inputs"]["zeta:0"].update(size=99),
        findings=(
            finding("tensor-size", "module default: inputs.zeta:0", "metadata.json says 99 bytes", "32 bytes, as the code says"),
        ),
    ),
    Case(
        name="a type that the code does not have",
        change=lambda _, document: main(document)["inputs"]["zeta:0"].update(dtype="int32"),
        findings=(finding("tensor-dtype", "module default: inputs.zeta:0", "metadata.json says int32", "float32, as the code says"),),
    ),
    Case(
        name="other names than those of the code",
        change=lambda _, document: main(document)["outputs"].update(more={"dtype": "int8", "size": 1}),
        findings=(
            finding("tensor-names", "module default: outputs", "metadata.json says hidden, more, scores", "scores, hidden, as the code says"),
        ),
    ),
    Case(
        name="a macro with another size",
        change=replacing(HEADER, b"TVMGEN_DEFAULT_HIDDEN_SIZE 32", b"TVMGEN_DEFAULT_HIDDEN_SIZE 31"),
        findings=(finding("macro-size", "module default: outputs.hidden macro", "the header says 31 bytes", "32 bytes, as the code says"),),
    ),
    Case(
        name="less workspace than the code asks for",
        change=setting(1231, "memory", "functions", "main", 0, "workspace_size_bytes"),
        findings=(
            finding("workspace-size", "module default: workspace", "metadata.json says 1231 bytes", "1232 bytes, as the code says"),
        ),
        neighbour=setting(1233, "memory", "functions", "main", 0, "workspace_size_bytes"),
    ),
    Case(
        name="another shape than that of the code",
        version=8,
        change=seal(setting([8, 1], "inputs", 0, "shape")),
        findings=(finding("tensor-shape", "module default: inputs.zeta:0", "metadata.json says 8x1", "1x8, as the code says"),),
    ),
    Case(
        name="another interface than that of the code",
        version=8,
        change=seal(setting("packed", "api", "interface")),
        findings=(finding("api-interface", "module default: api.interface", "metadata.json says packed", "c, as the code says"),),
    ),
    Case(
        name="operators of another kind than those of the code",
        version=8,
        change=seal(setting("packed", "api", "operators")),
        findings=(finding("api-operators", "module default: api.operators", "metadata.json says packed", "unpacked, as the code says"),),
    ),
    Case(
        name="a pool that the code does not have",
        version=8,
        change=seal(
            lambda _, document: module(document)["pools"].append(
                {"name": "p", "kind": "workspace", "size_bytes": 8, "alignment_bytes": 16, "is_internal": True}
            )
        ),
        findings=(finding("pool-missing", "module default: pools.p", "metadata.json lists it", "a pool that the code has"),),
    ),
    Case(
        name="a pool that is left out",
        version=8,
        networks=(POOLED,),
        change=seal(lambda _, document: module(document)["pools"].clear()),
        findings=(
            finding("pool-missing", "module default: pools.sram", "metadata.json does not list it", "every pool that the code has"),
        ),
    ),
    Case(
        name="a pool in another place",
        version=8,
        networks=(POOLED,),
        change=seal(setting(True, "pools", 0, "is_internal")),
        findings=(
            finding(
                "pool-kind",
                "module default: pools.sram",
                "metadata.json says workspace, inside the code",
                "workspace, passed by the caller, as the code says",
            ),
        ),
    ),
    Case(
        name="a pool of another size",
        version=8,
        networks=(POOLED,),
        change=seal(setting(1231, "pools", 0, "size_bytes")),
        findings=(finding("pool-size", "module default: pools.sram", "metadata.json says 1231 bytes", "1232 bytes, as the code says"),),
    ),
    Case(
        name="a pool of no size",
        networks=(POOLED,),
        change=replacing(HEADER, b"SRAM_WORKSPACE_POOL_SIZE 1232", b"SRAM_WORKSPACE_POOL_SIZE -1"),
        findings=(finding("pool-size", "module default: pools.sram", "no size", "a size, because the caller must lend it"),),
    ),
    Case(
        name="an entrypoint that the code does not have",
        change=replacing(LIB0, b"int32_t tvmgen_default_run(", b"int32_t tvmgen_default_go("),
        findings=(
            finding("entrypoint-missing", "module default: run", "no function `tvmgen_default_run`", "one in the code"),
        ),
    ),
    Case(
        name="an entrypoint that the document made up",
        version=8,
        change=seal(setting("nobody", "entrypoints", "map_inputs")),
        findings=(finding("entrypoint-missing", "module default: map_inputs", "no function `nobody`", "one in the code"),),
        neighbour=seal(setting("tvmgen_default_fused_add", "entrypoints", "warm_up")),
    ),
    Case(
        name="no entrypoint",
        networks=(Network(interface="packed"),),
        change=dropping(LIB0),
        findings=(
            finding("entrypoint-missing", "module default", "no entrypoint", "one of `run`, `tvm_module_main`, `descriptor`"),
        ),
    ),
    Case(
        name="a listed operator that the code does not have",
        change=setting("f", "memory", "functions", "operator_functions", 0, "function_name"),
        findings=(
            finding("operator-missing", "module default", "no function `f`", "one, because metadata.json lists it"),
        ),
    ),
    Case(
        name="an operator of the graph that the code does not have",
        networks=(GRAPH,),
        change=graph(lambda it: it["nodes"][-1]["attrs"].update(func_name="f")),
        findings=(finding("operator-missing", "module default", "no function `f`", "one, because the graph calls it"),),
        neighbour=graph(lambda it: it["nodes"][-1]["attrs"].update(func_name="__nop")),
    ),
    Case(
        name="a graph that is none",
        networks=(GRAPH,),
        change=graph(lambda it: it.update(node_row_ptr=[0])),
        findings=(
            finding(
                "graph-invalid", GRAPH_JSON, "`node_row_ptr` is not 7 ascending numbers from 0 on, one for each node and the end",
                "the JSON of TVM's graph executor",
            ),
        ),
    ),
    Case(
        name="a graph that is no JSON",
        networks=(GRAPH,),
        change=adding(GRAPH_JSON, b"{"),
        findings=(
            finding(
                "graph-invalid", GRAPH_JSON,
                "is not JSON: expecting property name enclosed in double quotes at line 1, column 2",
                "the JSON of TVM's graph executor",
            ),
        ),
    ),
)  # fmt: skip

PARAMETERS = (
    Case(
        name="a file that is no list of tensors",
        change=adding(PARAMS, EMPTY_PARAMS + b"\0"),
        findings=(
            finding(
                "parameters-invalid", PARAMS, "1 bytes follow the last parameter at byte 32, expected none",
                "a list of tensors as TVM writes it",
            ),
        ),
        neighbour=adding(PARAMS, params(p0=WEIGHT)),
    ),
    Case(
        name="weights of a graph that are no list of tensors",
        networks=(GRAPH,),
        change=adding(PARAMS, bytes(32)),
        findings=(
            finding(
                "parameters-invalid", PARAMS, "list: magic number at byte 0 is `0x0`, expected `0xf7e58d4f05049cb7`",
                "a list of tensors as TVM writes it",
            ),
        ),
        neighbour=adding(PARAMS, params(p0=WEIGHT + 1)),
    ),
    Case(
        name="a weight that the graph does not have",
        networks=(GRAPH,),
        change=adding(PARAMS, params(p0=WEIGHT, more=WEIGHT)),
        findings=(finding("parameters-unused", f"{PARAMS}: more", "float32 1x8", "a name that the graph has"),),
    ),
    Case(
        name="a weight that the file does not have",
        networks=(GRAPH,),
        change=adding(PARAMS, EMPTY_PARAMS),
        findings=(
            finding(
                "parameters-lacking", "module default: p0", f"neither an input nor in {PARAMS}",
                "a value for every argument of the graph",
            ),
        ),
    ),
    Case(
        name="a weight of another shape",
        networks=(GRAPH,),
        change=adding(PARAMS, params(p0=WEIGHT.reshape(8))),
        findings=(finding("parameters-mismatch", f"{PARAMS}: p0", "float32 8", "float32 1x8, as the graph says"),),
    ),
    Case(
        name="a weight that overruns memory",
        networks=(GRAPH,),
        change=every(
            adding(PARAMS, params(p0=np.zeros((1, 8), np.bool_))),
            graph(lambda it: it["attrs"]["dltype"][1].__setitem__(1, "uint1")),
        ),
        findings=(
            finding(
                "parameters-overrun", f"{PARAMS}: p0", "bool", "a type for which TVM's C runtime allocates enough memory"
            ),
        ),
        neighbour=every(
            adding(PARAMS, params(p0=np.zeros((1, 8), np.uint8))),
            graph(lambda it: it["attrs"]["dltype"][1].__setitem__(1, "uint8")),
        ),
    ),
)  # fmt: skip

OBJECTS = (
    Case(
        name="an object that is none",
        change=adding(OBJECT, b"?"),
        findings=(
            finding("object-invalid", OBJECT, "is not an ELF object file: it begins with b'?'", "a relocatable ELF object"),
        ),
    ),
    Case(
        name="objects of another machine than that of the target",
        change=every(adding(OBJECT, elf("f")), setting(["llvm -mtriple=riscv32-unknown-elf"], "target")),
        findings=(finding("object-target", "module default", "objects for ARM", "objects for riscv32, as the target says"),),
        neighbour=every(adding(OBJECT, elf("f")), setting(["llvm -mtriple=thumbv7m-none-eabi"], "target")),
    ),
    Case(
        name="a machine without objects",
        version=8,
        change=seal(
            setting({"machine": "ARM", "bits": 32, "byte_order": "little", "abi": None, "float_abi": None}, "code", "object")
        ),
        findings=(
            finding("object-code", "module default: code.object", "metadata.json says ARM", "null, because there are no objects"),
        ),
    ),
    Case(
        name="objects of two machines",
        change=every(adding(OBJECT, elf("f")), adding("codegen/host/lib/default_lib3.o", elf("g", target=RV32))),
        findings=(
            finding("object-mixed", "codegen/host/lib/default_lib3.o", "32-bit little-endian RISC-V", f"32-bit little-endian ARM, as {OBJECT}"),
        ),
        neighbour=every(adding(OBJECT, elf("f")), adding("codegen/host/lib/default_lib3.o", elf("g"))),
    ),
)  # fmt: skip

NAMES = (
    Case(
        name="a model that C cannot have",
        networks=(Network(model="int"),),
        change=no_change,
        findings=(
            finding(
                "model-name", "module int", '`"int"`', "no keyword, and no name of the library's own; `mlf link` can give it another"
            ),
        ),
    ),
    Case(
        name="a model of capital letters",
        networks=(Network(model="Kws"),),
        change=no_change,
        findings=(
            finding("model-name", "module Kws", '`"Kws"`', "small letters, digits and _; `mlf link` can give it another"),
        ),
    ),
    Case(
        name="a tensor that C cannot have",
        networks=(Network(inputs=("int", "b")),),
        change=no_change,
        findings=(
            finding(
                "name-invalid", "module default", "tensors or pools have names that C cannot have: int", "names that C can have"
            ),
        ),
    ),
    Case(
        name="a tensor that C cannot have and that is not called by name",
        networks=(Network(inputs=("int", "b"), interface="packed", operators="packed"),),
        change=no_change,
        findings=(
            finding(
                "name-invalid", "module default", "tensors or pools have names that C cannot have: int", "names that C can have",
                WARNING,
            ),
        ),
    ),
    Case(
        name="names that become one",
        networks=(Network(inputs=("a", "x"), outputs=("y", "A")),),
        change=no_change,
        findings=(
            finding(
                "name-clash", "modules", "`default` (module default) makes `TVMGEN_DEFAULT_A_SIZE` twice", "different names"
            ),
        ),
    ),
    Case(
        name="modules whose names become one",
        networks=(Network(model="a", inputs=("b_scores", "x")), Network(model="a_b", inputs=("x", "y"))),
        change=no_change,
        findings=(
            finding(
                "name-clash", "modules", "`a` (module a) and `a_b` (module a_b) both make `TVMGEN_A_B_SCORES_SIZE`", "different names"
            ),
        ),
    ),
    Case(
        name="a symbol of two modules",
        networks=TWO,
        change=every(
            adding("codegen/host/src/one_lib2.c", b"int helper(void) {\n}\n"),
            adding("codegen/host/src/two_lib2.c", b"int helper(void) {\n}\n"),
        ),
        findings=(
            finding("symbol-clash", "modules", "modules one and two both define `helper`", "different names, or `mlf link`"),
        ),
        neighbour=every(
            adding("codegen/host/src/one_lib2.c", b"static int helper(void) {\n}\n"),
            adding("codegen/host/src/two_lib2.c", b"static int helper(void) {\n}\n"),
        ),
    ),
)  # fmt: skip

_PLACE = "module default: test first"
TESTS = (
    Case(
        name="golden data that is not there",
        version=8,
        change=golden(name="tests/none.npz"),
        findings=(finding("test-missing", f"{_PLACE}: inputs", "no member 'tests/none.npz'", "golden data"),),
        neighbour=golden(),
    ),
    Case(
        name="golden data that is none",
        version=8,
        change=golden(b"?"),
        findings=(
            finding("test-invalid", f"{_PLACE}: inputs", "is not an .npz file", "an .npz file of the model's inputs"),
        ),
    ),
    Case(
        name="golden data of another shape",
        version=8,
        change=golden(npz_bytes({**FITTING, "zeta:0": np.zeros((8, 1), np.float32)})),
        findings=(finding("test-invalid", f"{_PLACE}: inputs", "`zeta:0` has shape 8x1", "1x8"),),
    ),
    Case(
        name="golden data that lacks an array and has another",
        version=8,
        change=golden(outputs=npz_bytes({"scores": ANSWER["scores"], "more": ANSWER["scores"]})),
        findings=(
            finding(
                "test-invalid", f"{_PLACE}: outputs", "`more` is no output; the outputs are `scores`, `hidden`",
                "an .npz file of the model's outputs",
            ),
            finding("test-invalid", f"{_PLACE}: outputs", "there is no array `hidden`", "an .npz file of the model's outputs"),
        ),
    ),
    Case(
        name="golden data that unpacks to far too much",
        version=8,
        change=golden(zipped({"zeta:0.npy": bytes(1 << 20)}, zipfile.ZIP_DEFLATED)),
        findings=(
            finding(
                "test-invalid", f"{_PLACE}: inputs", "unpacks to 1048576 bytes, which is more than the tensors have",
                "an .npz file of the model's inputs",
            ),
        ),
        neighbour=golden(packed(npz_bytes(FITTING))),
    ),
    Case(
        name="golden data that is compressed without bound",
        version=8,
        change=golden(zipped({"zeta:0.npy": bytes(BOMB_BYTES)}, zipfile.ZIP_BZIP2)),
        findings=(
            finding(
                "test-invalid", f"{_PLACE}: inputs", "is compressed in a way that numpy does not write",
                "an .npz file of the model's inputs",
            ),
        ),
    ),
    Case(
        name="golden data with much behind it",
        version=8,
        change=golden(npz_bytes({**FITTING, "more": np.zeros(1 << 20, np.uint8)})),
        findings=(
            finding(
                "test-invalid", f"{_PLACE}: inputs", "has more than 12328 bytes, which is more than the tensors have",
                "an .npz file of the model's inputs",
            ),
        ),
    ),
)  # fmt: skip

CASES = {case.name: case for case in (*DOCUMENT, *MEMBERS, *CODE, *PARAMETERS, *OBJECTS, *NAMES, *TESTS)}
ELSEWHERE = {  # codes that have a test of their own
    "archive-missing", "archive-unreadable", "findings-cut", "identity", "metadata-json", "module-invalid", "object-code",
}  # fmt: skip
BASES = sorted({(case.version, case.networks) for case in CASES.values() if case.change is not no_change}, key=repr)


@pytest.mark.parametrize("name", CASES)
def test_a_fault_is_found_with_its_code_place_and_values(tmp_path: Path, name: str) -> None:
    case = CASES[name]

    assert found(made(tmp_path, case.change, case.version, case.networks)) == case.findings


@pytest.mark.parametrize("name", [case.name for case in CASES.values() if case.neighbour])
def test_what_is_like_a_fault_and_right_is_not_found(tmp_path: Path, name: str) -> None:
    case = CASES[name]

    assert found(made(tmp_path, case.neighbour or no_change, case.version, case.networks)) == ()


@pytest.mark.parametrize(("version", "networks"), BASES)
def test_the_archives_that_the_faults_are_put_into_are_good(
    tmp_path: Path, version: int, networks: tuple[Network, ...]
) -> None:
    assert found(made(tmp_path, no_change, version, networks)) == ()


def test_every_code_has_a_test() -> None:
    assert {item.code for case in CASES.values() for item in case.findings} | ELSEWHERE == set(CODES)


def test_a_code_has_one_severity_but_for_names_that_only_the_c_interface_uses() -> None:
    other = {item.code for case in CASES.values() for item in case.findings if item.severity != CODES[item.code]}

    assert other == {"name-invalid"}
    assert set(CODES.values()) == {ERROR, WARNING, NOTE}


def test_facts_on_which_metadata_and_code_disagree_have_a_code() -> None:
    text = (ROOT / "mlf" / "evidence.py").read_text()
    kinds = re.findall(
        r'kind="([a-z-]+)", place=|_finding\(\s*"([a-z-]+)"|\("([a-z-]+)", (?:"api|"code|kind, _|place, |f"pools)', text
    )

    assert {"".join(kind) for kind in kinds} == {
        "api-interface", "api-operators", "macro-size", "object-code", "pool-kind", "pool-missing", "pool-size", "tensor-dtype", "tensor-names",
        "tensor-shape", "tensor-size", "workspace-size",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "got", "expected"),
    [
        (b"{", "is not JSON: expecting property name enclosed in double quotes at line 1, column 2", "strict JSON in UTF-8"),
        (b'{"version": 7, "version": 7}', "key 'version' is given twice in one object", "strict JSON in UTF-8"),
        (b"\xff", "member 'metadata.json' is not UTF-8 at byte 0", "strict JSON in UTF-8"),
        (b"[]", "a list", "an object"),
        (b"null", "`null`", "an object"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "is nested more than 64 levels deep", "strict JSON in UTF-8"),
    ],
    ids=["cut", "twice", "bytes", "list", "null", "deep"],
)  # fmt: skip
def test_metadata_that_is_no_json_object(tmp_path: Path, text: bytes, got: str, expected: str) -> None:
    path = write(tmp_path / "archive.tar", {**members(PLAIN), "metadata.json": text})

    assert found(path) == (finding("metadata-json", "metadata.json", got, expected),)


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"", "is neither a tar archive nor one compressed with gzip or zstd"),
        (b"PK\5\6" + bytes(18), "is a zip archive, or can be read as one"),
        (
            TONE.read_bytes()[:3000],
            "member './codegen/host/include/tvmgen_default.h' is truncated: 440 bytes are left of 1024",
        ),
    ],
    ids=["empty", "zip", "cut"],
)
def test_what_is_no_archive_has_one_finding(tmp_path: Path, content: bytes, got: str) -> None:
    path = tmp_path / "archive.tar"
    path.write_bytes(content)
    verdict = validate(path)

    expected = "a tar, tar.gz or tar.zst of sound structure, or a directory"
    assert verdict.findings == (finding("archive-unreadable", "archive", got, expected),)
    assert (verdict.archive, verdict.version, verdict.identity) == ("archive.tar", None, None)


def test_an_archive_that_is_not_there_has_a_code_of_its_own(tmp_path: Path) -> None:
    expected = "a tar, tar.gz or tar.zst of sound structure, or a directory"

    assert found(tmp_path / "none.tar") == (finding("archive-missing", "archive", "no such file", expected),)


def test_a_module_that_cannot_be_read_for_any_other_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> tuple[()]:
        raise UnsupportedError("is of a kind that nobody knows")

    monkeypatch.setattr("mlf.check.read_modules", refuse)

    assert found(TONE) == (
        finding("module-invalid", "module default", "is of a kind that nobody knows", "a module that mlf can read"),
    )


def test_an_object_for_another_machine_than_version_8_says(tmp_path: Path) -> None:
    (only,) = found(made(tmp_path, seal(every(with_object(elf("f")), setting(64, "code", "object", "bits"))), 8))

    assert (only.code, only.severity, only.place) == ("object-code", "error", "module default: code.object")
    assert found(made(tmp_path, seal(with_object(elf("f"))), 8)) == ()


def test_an_object_has_the_entrypoints_of_a_module_without_sources(tmp_path: Path) -> None:
    def change(content: Members, document: dict[str, Any]) -> None:
        for name in (LIB0, LIB1):
            del content[name]
        document["members"] = [item for item in document["members"] if item["path"] in content]
        with_object(elf("tvmgen_default_run", "tvmgen_default___tvm_main__"))(content, document)
        module(document)["code"]["language"] = "object"
        module(document)["memory"]["functions"]["operator_functions"] = []

    path = made(tmp_path, seal(every(change, setting("nobody", "entrypoints", "run"))), 8)
    assert found(path) == (
        finding("entrypoint-missing", "module default: run", "no function `nobody`", "one in the code"),
    )
    assert found(made(tmp_path, seal(change), 8)) == ()


def test_a_document_that_was_changed_has_another_identity(tmp_path: Path) -> None:
    before = validate(made(tmp_path, no_change, 8))
    verdict = validate(made(tmp_path, setting(["c -mcpu=other"], "target"), 8))
    sealed_again = validate(made(tmp_path, seal(setting(["c -mcpu=other"], "target")), 8))

    expected = f"{verdict.identity}, as its content has"
    assert verdict.findings == (finding("identity", "metadata.json: identity", str(before.identity), expected),)
    assert (sealed_again.identity, sealed_again.findings) == (verdict.identity, ())
    assert before.identity != verdict.identity
    assert before.version == 8


def test_another_generator_is_no_other_identity(tmp_path: Path) -> None:
    assert found(made(tmp_path, setting("somebody 2.0", "/", "generator"), 8)) == ()


def test_all_faults_are_found_the_worst_first(tmp_path: Path) -> None:
    change = every(
        adding("notes.txt", b"?"),
        replacing(HEADER, b"TVMGEN_DEFAULT_HIDDEN_SIZE 32", b"TVMGEN_DEFAULT_HIDDEN_SIZE 31"),
        adding(PARAMS, b"?"),
        lambda _, document: main(document)["inputs"]["zeta:0"].update(dtype="int32"),
        removing("target"),
        replacing(LIB1, b"_fused_add(float", b"_fused_plus(float"),
    )

    path = made(tmp_path, change)
    assert [(item.code, item.severity) for item in found(path)] == [
        ("operator-missing", "error"),
        ("parameters-invalid", "error"),
        ("schema", "error"),
        ("tensor-dtype", "error"),
        ("macro-size", "warning"),
        ("member-unknown", "note"),
    ]
    assert found(path) == found(path)


def test_a_schema_fault_of_version_8_does_not_hide_members_that_were_changed(tmp_path: Path) -> None:
    change = every(adding(PARAMS, b"?"), setting(None, "inputs"), setting("x", "/", "members", 0, "sha256"))

    codes = [item.code for item in found(made(tmp_path, change, 8))]
    assert codes == ["identity", "member-digest", "member-size", "schema", "schema"]


def test_a_module_that_cannot_be_read_hides_no_fault_of_another(tmp_path: Path) -> None:
    def change(content: Members, document: dict[str, Any]) -> None:
        document["modules"]["one"]["inputs"] = None
        content["parameters/two.params"] = b"?"

    codes = [(item.code, item.place) for item in found(made(tmp_path, change, 8, TWO))]
    assert codes == [
        ("identity", "metadata.json: identity"),
        ("member-size", "parameters/two.params"),
        ("parameters-invalid", "parameters/two.params"),
        ("schema", "metadata.json: modules.one.inputs"),
    ]


def test_a_source_that_cannot_be_read_hides_no_fault_of_another_module(tmp_path: Path) -> None:
    change = every(adding("codegen/host/src/one_lib2.c", b"\xff"), adding("parameters/two.params", b"?"))

    assert [item.code for item in found(made(tmp_path, change, 7, TWO))] == ["member-unreadable", "parameters-invalid"]


def test_more_findings_than_anyone_reads_are_cut_and_it_is_told(tmp_path: Path) -> None:
    functions = [{"function_name": f"f{number}", "workspace": []} for number in range(1500)]
    every_finding = found(made(tmp_path, setting(functions, "memory", "functions", "operator_functions")))

    assert len(every_finding) == 1001
    assert {item.code for item in every_finding[:-1]} == {"operator-missing"}
    assert every_finding[-1] == finding(
        "findings-cut", "archive", "more than 1000 findings", "no more; these are the first 1000"
    )


def test_1000_findings_are_not_cut(tmp_path: Path) -> None:
    functions = [{"function_name": f"f{number}", "workspace": []} for number in range(1000)]

    assert len(found(made(tmp_path, setting(functions, "memory", "functions", "operator_functions")))) == 1000


def test_a_finding_is_one_line_whatever_names_an_archive_has(tmp_path: Path) -> None:
    odd = "a\n  error[x] \x1b[31m\u202e"
    change = setting({odd: {"dtype": "int8", "size": 1}}, "memory", "functions", "main", 0, "inputs")
    (only,) = found(made(tmp_path, change))

    assert odd in only.got
    assert str(only) == (
        "warning[tensor-names] module default: inputs: metadata.json says a\\n  error[x] \\x1b[31m\\u202e, "
        "expected zeta_0, alpha_b, as the code says"
    )


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    (only,) = found(
        made(tmp_path, setting("x" * 100_000, "memory", "functions", "operator_functions", 0, "function_name"))
    )

    assert only.got == f"no function `{'x' * 187}..."


def test_a_verdict_counts_and_is_good_without_errors_and_if_strict_without_warnings() -> None:
    def verdict(*severities: str) -> Verdict:
        findings = tuple(finding("schema", "", "", "", severity) for severity in severities)
        return Verdict(archive="a", version=7, identity=None, findings=findings)

    assert [verdict(*kinds).is_good() for kinds in ((), (NOTE,), (WARNING,), (ERROR,))] == [True, True, True, False]
    assert [verdict(*kinds).is_good(strict=True) for kinds in ((), (NOTE,), (WARNING,), (ERROR,))] == [
        True, True, False, False,
    ]  # fmt: skip
    assert [verdict(WARNING, NOTE, WARNING).count(kind) for kind in (ERROR, WARNING, NOTE)] == [0, 2, 1]


# What real archives have: TVM gave these names and types, and they do harm.
REAL_FINDINGS = {
    "keyword-usmp": {("error", "name-invalid")},  # a struct of the C interface has a field `int`
    "keyword-packed": {("warning", "name-invalid")},
    "clash-systemlib": {("warning", "registry-conflict")},
    "tvm08-dense-alloc-systemlib": {("warning", "registry-conflict")},
    "tvm09-dense-systemlib": {("warning", "registry-conflict")},
    "types-graph": {("warning", "parameters-overrun")},
    "types-graph-params": {("warning", "parameters-overrun")},
    "upper-pool": {("warning", "model-name")},
    "upper-usmp": {("warning", "model-name")},
}


def test_real_archives_are_good_in_their_own_version_and_in_version_8(real_archives: Path, tmp_path: Path) -> None:
    paths = sorted(real_archives.glob("*.tar"))
    bad: dict[str, set[tuple[str, str]]] = {}
    for path in paths:
        convert(path, to=8, output=tmp_path / path.name)
        for verdict in (validate(path), validate(tmp_path / path.name)):
            bad.setdefault(path.stem, set()).update((item.severity, item.code) for item in verdict.findings)

    assert len(paths) > 100
    assert {name: findings for name, findings in bad.items() if findings} == REAL_FINDINGS


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("release", RELEASES)
def test_archives_of_every_release_have_no_error(tmp_path: Path, release: str, style: str) -> None:
    content = members(Network(release=RELEASES[release], **STYLES[style]))
    both = [*found(write(tmp_path / "archive.tar", content))]
    both += found(write(tmp_path / "archive.tar", version_8(content, tmp_path)))

    # TVM 0.11 printed pointers as sizes and named outputs otherwise in the header.
    known = {"macro-size", "tensor-names"} if release == "0.11.1" else set()
    assert {(item.severity, item.code) for item in both} <= {("warning", code) for code in known}


@pytest.mark.parametrize("snapshot", [name for name, release in SNAPSHOTS.items() if release.version >= 4])
def test_operator_archives_between_the_releases_have_no_finding(tmp_path: Path, snapshot: str) -> None:
    content = members(Network(release=SNAPSHOTS[snapshot], **STYLES["operator"]))

    assert found(write(tmp_path / "archive.tar", content)) == ()


@pytest.mark.parametrize("style", ["graph", "aot-packed"])
@pytest.mark.parametrize("snapshot", SNAPSHOTS)
def test_models_between_the_releases_have_no_error(tmp_path: Path, snapshot: str, style: str) -> None:
    verdict = validate(write(tmp_path / "archive.tar", members(Network(release=SNAPSHOTS[snapshot], **STYLES[style]))))

    assert verdict.count(ERROR) == 0
    assert verdict.version == SNAPSHOTS[snapshot].version


@pytest.mark.parametrize("form", ["archive", "archive.tar.gz", "archive.tar.zst"])
def test_every_form_of_an_archive_is_judged_alike(tmp_path: Path, form: str) -> None:
    content = edited(members(PLAIN), every(adding("notes.txt", b"?"), removing("target")))

    assert found(write(tmp_path / form, content)) == found(write(tmp_path / "archive.tar", content))


def test_a_member_that_vanishes_while_it_is_read_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "archive", version_8(members(PLAIN), tmp_path))
    monkeypatch.setattr("mlf.check._Validator._check_schema", lambda *_: (folder / PARAMS).unlink())

    expected = f"member '{PARAMS}' cannot be read: no such file or directory"
    assert found(folder)[0] == finding("member-unreadable", PARAMS, expected, "a member that can be read")


# The command.


def mlf(*arguments: str | Path, folder: Path) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the program."""
    done = subprocess.run(
        [sys.executable, "-m", "mlf", "validate", *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False,
        timeout=PROGRAM_SECONDS,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_the_command_says_that_good_archives_are_good(tmp_path: Path) -> None:
    assert mlf(TONE, folder=tmp_path) == (0, f"{TONE}: version 7, good\n", "")


def test_the_command_ends_with_1_for_a_bad_one_among_good_ones_in_the_order_of_its_arguments(tmp_path: Path) -> None:
    bad = made(tmp_path, removing("target"))

    assert mlf(TONE, "none.tar", bad, GLYPH, folder=tmp_path) == (
        1,
        (
            f"{TONE}: version 7, good\n"
            "none.tar: bad\n"
            "  error[archive-missing] archive: no such file, expected a tar, tar.gz or tar.zst of sound structure, or a directory\n"
            f"{bad}: version 7, bad\n"
            "  error[schema] metadata.json: modules.default: no key `target`, expected that key\n"
            f"{GLYPH}: version 7, good\n"
            "4 archives, 2 bad\n"
        ),
        "",
    )


@pytest.mark.parametrize(("arguments", "status", "judged"), [((), 0, "good"), (("--strict",), 1, "bad")])
def test_warnings_count_only_if_it_is_strict(
    tmp_path: Path, arguments: tuple[str, ...], status: int, judged: str
) -> None:
    made(tmp_path, dropping(PARAMS))

    assert mlf("archive.tar", *arguments, folder=tmp_path) == (
        status,
        (
            f"archive.tar: version 7, {judged}\n"
            "  warning[parameters-missing] module default: no .params file, expected one, if only an empty one\n"
        ),
        "",
    )


def test_notes_never_count(tmp_path: Path) -> None:
    made(tmp_path, adding("notes.txt", b"?"))

    status, printed, _ = mlf("archive.tar", "--strict", folder=tmp_path)
    assert (status, printed.splitlines()[0]) == (0, "archive.tar: version 7, good")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "missing argument 'ARCHIVE...'"),
        (("-j", "0", "a.tar"), "invalid value for '-j' / '--jobs': 0 is not in the range x>=1"),
    ],
)
def test_a_wrong_command_line_ends_with_2(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    hint = "hint: see `python -m mlf validate --help`\n"

    assert mlf(*arguments, folder=tmp_path) == (2, "", f"error: {message}\n{hint}")


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_several_at_a_time_give_what_one_after_another_gives(tmp_path: Path, form: tuple[str, ...]) -> None:
    made(tmp_path, every(adding("notes.txt", b"?"), removing("target")))
    paths: list[str | Path] = [TONE, "none.tar", "archive.tar", GLYPH, "archive.tar", MOTOR] * 3

    one = mlf(*paths, "-j", "1", *form, folder=tmp_path)
    assert one[0] == 1
    assert mlf(*paths, "-j", "4", *form, folder=tmp_path) == one
    assert mlf(*paths, *form, folder=tmp_path) == one


def test_the_document_has_described_keys_alone(tmp_path: Path) -> None:
    made(tmp_path, every(adding("notes.txt", b"?"), removing("target")), 8)
    status, printed, _ = mlf(TONE, "archive.tar", "none.tar", "--json", folder=tmp_path)

    document = json.loads(printed)
    schema = json.loads((ROOT / "schemas" / "validate-v1.schema.json").read_text())
    assert list(Draft202012Validator(closed(schema)).iter_errors(document)) == []
    assert printed == json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert (status, document["is_good"], document["is_strict"]) == (1, False, False)
    assert [(item["archive"], item["is_good"], item["format_version"]) for item in document["archives"]] == [
        ("tone.tar", True, 7),
        ("archive.tar", False, 8),
        ("none.tar", False, None),
    ]
    assert document["archives"][0]["findings"] == []
    assert document["archives"][1]["findings"][-1] == {
        "code": "schema", "expected": "that key", "got": "no key `target`", "place": "metadata.json: modules.default",
        "severity": "error",
    }  # fmt: skip


def closed(node: Any) -> Any:
    """The same schema, but refusing keys that it does not describe."""
    if isinstance(node, list):
        return [closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    inner = {key: closed(value) for key, value in node.items()}
    return {"additionalProperties": False, **inner} if isinstance(node.get("properties"), dict) else inner


@pytest.mark.parametrize("key", ["archives", "is_good", "is_strict", "schema"])
def test_the_schema_refuses_a_document_without_a_key(key: str) -> None:
    schema = json.loads((ROOT / "schemas" / "validate-v1.schema.json").read_text())
    archive = {"archive": "a", "findings": [], "format_version": 7, "identity": None, "is_good": True}
    document = {"archives": [archive], "is_good": True, "is_strict": False, "schema": "mlf-validate-v1"}
    assert list(Draft202012Validator(schema).iter_errors(document)) == []
    del document[key]

    (fault,) = Draft202012Validator(schema).iter_errors(document)
    assert fault.message == f"'{key}' is a required property"


def children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def start_slow(folder: Path, size_bytes: int) -> tuple[subprocess.Popen[str], list[int]]:
    """Start the program on archives that take long, two at a time; gives it and its processes."""
    content = {**members(PLAIN), "codegen/host/src/default_lib2.c": b"a\n" * (size_bytes // 2)}
    slow = write(folder / "slow.tar", content)
    process = subprocess.Popen(
        [sys.executable, "-m", "mlf", "validate", *[str(slow)] * 4, "-j", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while len(children(process.pid)) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)
    return process, children(process.pid)


def is_running(process: int) -> bool:
    """Tell whether a process, which need not be ours, is there and did not end."""
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_work_on_several_archives_at_once_with_one_message(tmp_path: Path, number: int) -> None:
    process, workers = start_slow(tmp_path, 40 << 20)

    start = time.monotonic()
    os.killpg(process.pid, number)  # as a terminal does
    printed, complaints = process.communicate()
    assert time.monotonic() - start < INTERRUPT_SECONDS
    assert (process.returncode, printed, complaints) == (2, "", "error: interrupted; no output is half-written\n")
    assert [worker for worker in workers if is_running(worker)] == []


def test_processes_end_quietly_if_the_program_is_killed(tmp_path: Path) -> None:
    process, workers = start_slow(tmp_path, 4 << 20)

    process.kill()
    assert process.communicate() == ("", "")  # which waits until all who could write there have closed it
    deadline = time.monotonic() + PROGRAM_SECONDS
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_that_is_killed_is_an_error_in_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(path: Path) -> Verdict:
        if path.name == "killer":
            os.kill(os.getpid(), signal.SIGKILL)
        return Verdict(archive=path.name, version=None, identity=None, findings=())

    monkeypatch.setattr("mlf.check.validate", judge)
    verdicts = validate_all([tmp_path / name for name in ("a", "b", "killer", "c")], jobs=2)

    assert [next(verdicts).archive, next(verdicts).archive] == ["a", "b"]
    with pytest.raises(ToolError) as caught:
        next(verdicts)
    assert str(caught.value) == "killer: the process that worked on it was killed, perhaps for lack of memory"
    assert caught.value.hint == "try fewer at a time with -j 1"


def test_what_a_process_raises_comes_out_in_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(path: Path) -> Verdict:
        if path.name == "b":
            raise UnsupportedError("is of a kind that nobody knows", where=path.name)
        return Verdict(archive=path.name, version=None, identity=None, findings=())

    monkeypatch.setattr("mlf.check.validate", judge)
    verdicts = validate_all([tmp_path / name for name in "abcd"], jobs=3)

    assert next(verdicts).archive == "a"
    with pytest.raises(UnsupportedError, match=r"^b: is of a kind that nobody knows$"):
        next(verdicts)


@pytest.mark.parametrize("jobs", [0, 1, 2, 99])
def test_any_number_of_jobs_does_the_work(jobs: int) -> None:
    assert [verdict.archive for verdict in validate_all([TONE, GLYPH, MOTOR], jobs=jobs)] == [
        "tone.tar", "glyph.tar", "motor.tar",
    ]  # fmt: skip


def test_no_archives_are_no_verdicts() -> None:
    assert list(validate_all([], jobs=4)) == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_progress_names_each_archive(jobs: int) -> None:
    said: list[str] = []
    list(validate_all([TONE, GLYPH], jobs=jobs, progress=said.append))

    word = "validating" if jobs == 1 else "waiting for"
    assert said == [f"{word} tone.tar", f"{word} glyph.tar"]


def test_an_archive_is_judged_while_the_rest_is_not_asked_for() -> None:
    verdicts = validate_all([TONE, GLYPH, MOTOR], jobs=2)

    assert next(verdicts).archive == "tone.tar"
    verdicts.close()  # type: ignore[attr-defined]  # it is a generator


# What is made to hurt.


def hostile_descriptors(content: Members, document: dict[str, Any]) -> None:
    item = {"path": "big", "size_bytes": BOMB_BYTES, "sha256": "0" * 64, "role": "ir", "module": "default"}
    lost = [{**item, "path": f"src/{number}"} for number in range(10_000)]
    document["members"] += [*[item] * 5000, *lost]
    content["big"] = bytes(BOMB_BYTES)


def hostile_modules(content: Members, document: dict[str, Any]) -> None:
    bare = {**module(document), "memory": {}, "inputs": [], "outputs": [], "pools": [], "entrypoints": {}}
    document["modules"] = {f"m{number}": bare for number in range(1000)}
    for number in range(3000):
        name = f"src/{number}.c"
        described(content, document, name, b"int x;", role="source", module=f"m{number % 1000}")


def hostile_graph(nodes: int, rows: list[int] | None = None) -> Change:
    def change(content: Members, _: dict[str, Any]) -> None:
        document = json.loads(content[GRAPH_JSON])
        first, last = document["nodes"][0], document["nodes"][-1]
        document["nodes"] = [first, *({**last, "name": f"n{number}"} for number in range(nodes - 1))]
        document["node_row_ptr"] = rows or list(range(nodes + 1))
        document["heads"] = [[number, 0, 0] for number in range(nodes)]
        kinds = {"dltype": "float32", "shape": [1, 8], "storage_id": 1}
        document["attrs"] = {key: [f"list_{key}", [value] * nodes] for key, value in kinds.items()}
        content[GRAPH_JSON] = json.dumps(document).encode()

    return change


FUNCTIONS = "".join(f"int32_t f{number}(void* a) {{\n}}\n" for number in range(50_000)).encode()
HOSTILE = {
    "100,000 schema faults": (8, setting([{}] * 100_000, "/", "members"), PLAIN),
    "100,000 schema faults of version 7": (7, setting([0] * 100_000, "target"), PLAIN),
    "one member described 5000 times and 10,000 that are lost": (8, hostile_descriptors, PLAIN),
    "1000 modules and 3000 members": (8, seal(hostile_modules), PLAIN),
    "a module with a name of a megabyte": (
        7,
        lambda _, document: document["modules"].update({"x" * (1 << 20): module(document)}),
        PLAIN,
    ),
    "nesting": (8, setting(json.loads("[" * 50 + "]" * 50), "memory", "functions", "operator_functions"), PLAIN),
    "a graph of 20,000 nodes": (7, hostile_graph(20_000), GRAPH),
    "a graph of more nodes than any has": (7, hostile_graph(100_001), GRAPH),
    "a graph whose rows are nonsense": (7, hostile_graph(10, [0] * 10 + [10**19]), GRAPH),
    "50,000 functions": (7, adding("codegen/host/src/default_lib2.c", FUNCTIONS), PLAIN),
    "20,000 inputs in version 7": (
        7,
        lambda _, document: main(document).update(
            inputs={f"n{number}": {"dtype": "int8", "size": 1} for number in range(20_000)}
        ),
        PLAIN,
    ),
    "extents without bound": (8, setting([10**19] * 64, "outputs", 0, "shape"), PLAIN),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_cost_bounded_time(tmp_path: Path, name: str) -> None:
    version, change, network = HOSTILE[name]
    path = made(tmp_path, change, version, (network,))

    start = time.process_time()
    verdict = validate(path)
    assert time.process_time() - start < CPU_SECONDS
    assert len(verdict.findings) <= 1001
    assert verdict.version == version


def test_a_long_name_of_a_module_is_not_copied_for_each_of_its_parts(tmp_path: Path) -> None:
    functions = [{"function_name": f"f{number}", "workspace": []} for number in range(1000)]

    def change(_: Members, document: dict[str, Any]) -> None:
        only = document["modules"].pop("default")
        only["memory"]["functions"]["operator_functions"] = functions
        document["modules"]["x" * (1 << 20)] = only

    path = made(tmp_path, change)
    assert peak_bytes(path) < 100 << 20


GIANT = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s, 4), }"
GOLDEN = {
    "a giant array": zipped({"zeta:0.npy": npy(GIANT % (1 << 40))}),
    "an array of more elements than can be counted": zipped({"zeta:0.npy": npy(GIANT % (1 << 62))}),
    "objects of Python": zipped({"zeta:0.npy": npy("{'descr': 'O', 'fortran_order': False, 'shape': (8,), }")}),
    "a header that is no Python": zipped({"zeta:0.npy": npy("(" * 100)}),
    "a directory that is none": b"PK\5\6" + b"\xff" * 16 + bytes(2),
}
BOMBS = {
    "zeros": zipped({"zeta:0.npy": bytes(BOMB_BYTES)}, zipfile.ZIP_DEFLATED),
    "zeros in a way without bound": zipped({"zeta:0.npy": bytes(BOMB_BYTES)}, zipfile.ZIP_LZMA),
    "many files": zipped({f"{number}.npy": b"" for number in range(20_000)}),
}


@pytest.mark.parametrize("name", [*GOLDEN, *BOMBS])
def test_hostile_golden_data_is_a_finding(tmp_path: Path, name: str) -> None:
    path = made(tmp_path, golden({**GOLDEN, **BOMBS}[name]), 8)

    assert {(item.code, item.place) for item in found(path)} == {("test-invalid", f"{_PLACE}: inputs")}


@pytest.mark.parametrize("name", BOMBS)
def test_golden_data_that_unpacks_to_much_is_not_unpacked(tmp_path: Path, name: str) -> None:
    assert peak_bytes(made(tmp_path, golden(BOMBS[name]), 8)) < BOMB_BYTES // 4


def peak_bytes(path: Path) -> int:
    """The most memory that validating an archive takes at a time, once everything is imported."""
    validate(path)
    tracemalloc.start()
    try:
        validate(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
