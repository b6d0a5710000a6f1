from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from archives import RELEASES, Network, metadata
from jsonschema import Draft202012Validator

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
SCHEMAS = ROOT / "schemas"
VERSIONS = range(1, 9)
Document = dict[str, Any]
Place = tuple[str | int, ...]
DELETED = object()
# What a module of version 8 has on top of version 7.
KEYS_OF_8 = {"api", "code", "entrypoints", "inputs", "outputs", "pools", "tests"}
DIGEST = "0123456789abcdef" * 4
TEN_THOUSAND = 10_000
# Far above what it takes (0.5 s), far below what nested repetition would take.
ENOUGH_SECONDS = 5.0


def schema(version: int) -> Document:
    return dict(json.loads((SCHEMAS / f"metadata-v{version}.schema.json").read_text()))


VALIDATORS = {version: Draft202012Validator(schema(version)) for version in VERSIONS}


def faults(document: Document, version: int) -> list[str]:
    """Every fault as its place, and the rule or the missing key."""
    found = VALIDATORS[version].iter_errors(document)
    return sorted(
        f"{json_path(tuple(item.absolute_path))}: {item.message if item.validator == 'required' else item.validator}"
        for item in found
    )


def key_path(text: str) -> Place:
    return tuple(int(part) if part.isdigit() else part for part in text.split("."))


def changed(document: Document, place: Place, value: object) -> Document:
    """A copy with another value at a place, or without the place."""
    copied: Document = json.loads(json.dumps(document))  # not a deep copy, which keeps shared parts shared
    node: Any = copied
    for part in place[:-1]:
        node = node[part]
    if value is DELETED:
        del node[place[-1]]
    else:
        node[place[-1]] = value
    return copied


def places(node: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every value below the top of a document, with its place."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*place, key), value
        yield from places(value, (*place, key))


def json_path(place: Place) -> str:
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)


def owner_and_key(place: Place) -> tuple[str, str]:
    """A key and the key of the object that holds it; indexes do not count."""
    *owners, key = [str(part) for part in place if isinstance(part, str)]
    return (owners[-1] if owners else "$", key)


def nodes(node: Any) -> Iterator[Document]:
    """Every JSON object in a schema."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes(child)


def described_keys(version: int) -> dict[str, Any]:
    return {
        key: value
        for node in nodes(schema(version))
        if "title" in node
        for key, value in node.get("properties", {}).items()
    }


def check_jsonschema(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def written(folder: Path, documents: list[Document]) -> list[Path]:
    paths = [folder / f"{index}.json" for index in range(len(documents))]
    for path, document in zip(paths, documents, strict=True):
        path.write_text(json.dumps(document))
    return paths


HEAD = {"model_name": "kws", "export_datetime": "2021-05-05 10:20:30Z"}
STORAGES = [
    {"storage_id": 0, "size_bytes": 64, "input_binding": "x"},
    {"storage_id": 1, "size_bytes": 128},
    {"storage_id": 2, "size_bytes": 12, "input_binding": "p0"},
]
MAIN_OF_CPU = {"device": 1, "workspace_size_bytes": 48, "constants_size_bytes": 128, "io_size_bytes": 80}
MAIN_OF_OTHER = {"device": 12, "workspace_size_bytes": 0, "constants_size_bytes": 0, "io_size_bytes": 0}
OPERATORS = [
    {"function_name": "tvmgen_kws_fused_add", "workspace": [{"device": 1, "workspace_size_bytes": 48}]},
    {"function_name": "tvmgen_kws_fused_pick", "workspace": []},
]
FUNCTIONS = {"main": [MAIN_OF_CPU], "operator_functions": OPERATORS}
IO = {"inputs": {"zeta:0": {"dtype": "float32", "size": 32}}, "outputs": {"output": {"dtype": "uint8", "size": 1}}}
NAMED_IO = {
    "inputs": {"x": {"dtype": "int8", "size": 64}, "größe": {"dtype": "float16", "size": 0}},
    "outputs": {"scores": {"dtype": "int32", "size": 16}},
}
BUFFERS = {
    "add": [
        {"size_bytes": 2, "shape": [2], "dtype": "int8", "input_binding": "A"},
        {"size_bytes": 4, "shape": [], "dtype": "float32", "input_binding": "B"},
        {"size_bytes": 32, "shape": [2, 1], "dtype": "float32x4", "input_binding": None},
    ],
    "__tvm_main__": [],
}
DEPENDENCIES = [
    {"short_name": "tvm_standalone_crt", "url": "./runtime", "url_type": "mlf_path", "version_spec": "0.9.dev0"}
]
GRAPH_MODULE = {
    **HEAD,
    "executors": ["graph"],
    "memory": {"sids": STORAGES, "functions": FUNCTIONS},
    "style": "full-model",
    "target": ["c -keys=cpu "],
}
AOT_MODULE = {
    **HEAD,
    "executors": ["aot"],
    "memory": {"functions": FUNCTIONS},
    "style": "full-model",
    "target": ["c -keys=cpu ", "ext_dev -keys=ext_dev"],
}
OPERATOR = {**HEAD, "memory": BUFFERS, "style": "operator"}


def with_io(tensors: Document, **more: Any) -> Document:
    return {"functions": {"main": [{**MAIN_OF_CPU, **tensors}], "operator_functions": OPERATORS}, **more}


# One for each version and style, and for each change that came without a new version.
DOCUMENTS: dict[str, Document] = {
    "v1 graph": {
        **HEAD,
        "version": 1,
        "memory": STORAGES,
        "runtimes": ["graph"],
        "target": {"1": "c -keys=cpu -link-params=1 -mcpu=cortex-m7"},
    },
    "v1 aot since 2021-05-05": {
        **HEAD,
        "version": 1,
        "memory": [],
        "runtimes": ["aot"],
        "target": {"1": "llvm -keys=cpu"},
    },
    "v2 graph": {
        **HEAD,
        "version": 2,
        "memory": {"sids": STORAGES, "functions": FUNCTIONS},
        "runtimes": ["graph"],
        "target": {"1": "llvm -keys=cpu", "12": "ext_dev"},
    },
    "v2 aot for two targets of one device type": {
        **HEAD,
        "version": 2,
        "memory": {"functions": {"main": [MAIN_OF_CPU, MAIN_OF_CPU], "operator_functions": OPERATORS}},
        "runtimes": ["aot"],
        "target": {"1": "c -keys=cpu -executor=aot"},
    },
    "v3 without a name": {
        **HEAD,
        "version": 3,
        "model_name": "",
        "memory": {"functions": FUNCTIONS},
        "runtimes": ["aot"],
        "target": {"1": "c -keys=cpu"},
    },
    "v3 graph": {
        **HEAD,
        "version": 3,
        "memory": {"sids": STORAGES, "functions": FUNCTIONS},
        "runtimes": ["graph"],
        "target": {"1": "c -keys=cpu"},
    },
    "v4 graph": {
        **HEAD,
        "version": 4,
        "memory": {"sids": STORAGES, "functions": FUNCTIONS},
        "runtimes": ["graph"],
        "style": "full-model",
        "target": {"1": "c -keys=cpu"},
    },
    "v4 aot": {
        **HEAD,
        "version": 4,
        "memory": {"functions": FUNCTIONS},
        "runtimes": ["aot"],
        "style": "full-model",
        "target": {"1": "c -keys=cpu"},
    },
    "v4 operator": {**OPERATOR, "version": 4, "runtimes": [], "target": {"1": "c -keys=cpu"}},
    "v5 graph": {**GRAPH_MODULE, "version": 5, "target": {"1": "c -keys=cpu -runtime=c"}},
    "v5 aot since 2022-01-31": {
        **AOT_MODULE,
        "version": 5,
        "target": {"1": "c -keys=cpu "},
        "external_dependencies": DEPENDENCIES,
        "memory": {"functions": {"main": [MAIN_OF_CPU, MAIN_OF_OTHER], "operator_functions": []}},
    },
    "v5 operator": {**OPERATOR, "version": 5, "executors": [], "target": {"1": "llvm -keys=cpu"}},
    "v6 aot": {**AOT_MODULE, "version": 6, "external_dependencies": DEPENDENCIES},
    "v6 graph": {**GRAPH_MODULE, "version": 6},
    "v6 operator": {**OPERATOR, "version": 6, "executors": [], "target": ["c -keys=cpu "]},
    "v7 two modules": {"version": 7, "modules": {"kws": AOT_MODULE, "vad": {**GRAPH_MODULE, "model_name": "vad"}}},
    "v7 since 2022-12-07": {
        "version": 7,
        "modules": {"kws": {**AOT_MODULE, "external_dependencies": DEPENDENCIES, "memory": with_io(IO)}},
    },
    "v7 since 2023-01-09": {
        "version": 7,
        "modules": {"kws": {**GRAPH_MODULE, "memory": with_io(NAMED_IO, sids=STORAGES)}},
    },
    "v7 operator": {**OPERATOR, "version": 7, "executors": [], "target": ["c -keys=cpu "]},
}
VERSION_8: Document = {
    "version": 8,
    "generator": "mlf 0.1.0",
    "identity": f"sha256:{DIGEST}",
    "members": [
        {"path": "include/kws.h", "size_bytes": 2048, "sha256": DIGEST, "role": "include", "module": "kws"},
        {"path": "runtime/..a/b..", "size_bytes": 0, "sha256": DIGEST, "role": "runtime", "module": None},
        {"path": "tests/kws/größe.npz", "size_bytes": 824, "sha256": DIGEST, "role": "test", "module": "kws"},
    ],
    "modules": {
        "kws": {
            **AOT_MODULE,
            "external_dependencies": DEPENDENCIES,
            "memory": with_io(NAMED_IO),
            "api": {"interface": "c", "operators": "unpacked"},
            "code": {"language": "c", "definitions": {"KWS_FAST": "1", "_EMPTY": ""}, "object": None},
            "entrypoints": {"run": "tvmgen_kws_run", "main": "tvmgen_kws___tvm_main__", "unheard_of": "_reset2"},
            "inputs": [
                {
                    "name": "größe",
                    "c_name": "gr__e",
                    "dtype": "int8",
                    "shape": [1, 64],
                    "size_bytes": 64,
                    "quantization": {"scale": 0.0625, "zero_point": -128},
                },
                {"name": "scale:0", "c_name": "scale_0", "dtype": None, "shape": None, "size_bytes": None},
            ],
            "outputs": [{"name": "", "c_name": "output", "dtype": "float8_e4m3fn", "shape": [], "size_bytes": 1}],
            "pools": [
                {
                    "name": "sram",
                    "kind": "workspace",
                    "size_bytes": 4096,
                    "alignment_bytes": 16,
                    "is_internal": False,
                },
                {"name": "flash", "kind": "constant", "size_bytes": None, "alignment_bytes": 1, "is_internal": True},
            ],
            "tests": [
                {
                    "name": "golden",
                    "inputs": "tests/kws/inputs.npz",
                    "outputs": "tests/kws/größe.npz",
                    "rtol": 0.0001,
                    "atol": 0.0,
                }
            ],
        },
        "vad": {
            **GRAPH_MODULE,
            "model_name": "vad",
            "api": {"interface": "packed", "operators": None},
            "code": {
                "language": "object",
                "object": {
                    "machine": "ARM",
                    "bits": 32,
                    "byte_order": "little",
                    "abi": "eabi5",
                    "float_abi": "hard",
                },
            },
            "entrypoints": {"tvm_module_main": "tvmgen_vad_run"},
            "inputs": [],
            "outputs": [],
            "pools": [],
        },
        "add": {
            **OPERATOR,
            "model_name": "add",
            "executors": [],
            "target": ["c -keys=cpu "],
            "api": {"interface": "packed", "operators": "packed"},
            "code": {
                "language": "c++",
                "object": {"machine": "RISC-V", "bits": 64, "byte_order": "big", "abi": None, "float_abi": None},
            },
            "entrypoints": {},
            "inputs": [],
            "outputs": [],
            "pools": [],
        },
    },
}
DOCUMENTS["v8"] = VERSION_8

KWS = "modules.kws"
FULL = "v7 since 2022-12-07"
# (document, place, value, faults); where the value is DELETED, nothing is at the place.
FAULTS: list[tuple[str, str, object, list[str]]] = [
    *((name, "version", value, ["$.version: const"]) for name in DOCUMENTS for value in (0, 9, "1", True, None, 1.5)),
    ("v1 graph", "memory.0.size_bytes", -1, ["$.memory[0].size_bytes: minimum"]),
    ("v1 graph", "memory.0.size_bytes", True, ["$.memory[0].size_bytes: type"]),
    ("v1 graph", "memory.1.storage_id", -1, ["$.memory[1].storage_id: minimum"]),
    ("v1 graph", "memory.0.input_binding", None, ["$.memory[0].input_binding: type"]),
    ("v1 graph", "memory", {"sids": STORAGES, "functions": FUNCTIONS}, ["$.memory: type"]),
    ("v1 graph", "target", ["c -keys=cpu "], ["$.target: type"]),
    ("v1 graph", "target", {"1": ["c"]}, ["$.target.1: type"]),
    ("v1 graph", "runtimes", DELETED, ["$: 'runtimes' is a required property"]),
    ("v1 graph", "runtimes", "graph", ["$.runtimes: type"]),
    *((f"v{version} graph", "runtimes", [""], ["$.runtimes[0]: minLength"]) for version in (1, 2, 3, 4)),
    *((f"v{version} graph", "executors", [""], ["$.executors[0]: minLength"]) for version in (5, 6)),
    *((f"v{version} graph", "target", {"cpu": "c"}, ["$.target: pattern"]) for version in (1, 2, 3, 4, 5)),
    ("v2 graph", "memory", STORAGES, ["$.memory: type"]),
    ("v2 graph", "memory.functions", DELETED, ["$.memory: 'functions' is a required property"]),
    ("v2 graph", "memory.functions.main", MAIN_OF_CPU, ["$.memory.functions.main: type"]),
    ("v2 graph", "memory.functions.main.0.io_size_bytes", -1, ["$.memory.functions.main[0].io_size_bytes: minimum"]),
    ("v2 graph", "memory.functions.operator_functions", {}, ["$.memory.functions.operator_functions: type"]),
    ("v4 aot", "style", DELETED, ["$: 'style' is a required property"]),
    ("v4 aot", "style", "whole", ["$.style: enum"]),
    ("v4 aot", "runtimes", DELETED, ["$: 'runtimes' is a required property"]),
    ("v4 aot", "memory", BUFFERS, ["$.memory: 'functions' is a required property"]),
    ("v4 operator", "runtimes", ["graph"], ["$.runtimes: maxItems"]),
    ("v4 operator", "memory", {"functions": FUNCTIONS}, ["$.memory.functions: type"]),
    ("v4 operator", "memory.add.0.size_bytes", 1.5, ["$.memory.add[0].size_bytes: type"]),
    ("v4 operator", "memory.add.0.shape", [-1], ["$.memory.add[0].shape[0]: minimum"]),
    ("v4 operator", "memory.add.0.dtype", "", ["$.memory.add[0].dtype: pattern"]),
    ("v4 operator", "memory.add.0.dtype", "Int8", ["$.memory.add[0].dtype: pattern"]),
    ("v5 graph", "executors", DELETED, ["$: 'executors' is a required property"]),
    ("v5 graph", "target", ["c -keys=cpu "], ["$.target: type"]),
    ("v5 operator", "style", "full-model", ["$.memory: 'functions' is a required property"]),
    ("v5 operator", "executors", ["aot"], ["$.executors: maxItems"]),
    ("v5 aot since 2022-01-31", "external_dependencies", DEPENDENCIES[0], ["$.external_dependencies: type"]),
    (
        "v5 aot since 2022-01-31",
        "external_dependencies.0.url",
        DELETED,
        ["$.external_dependencies[0]: 'url' is a required property"],
    ),
    ("v6 aot", "target", {"1": "c -keys=cpu "}, ["$.target: type"]),
    ("v6 operator", "executors", ["aot"], ["$.executors: maxItems"]),
    ("v6 operator", "target", [1], ["$.target[0]: type"]),
    (FULL, "modules", {}, ["$.modules: minProperties"]),
    (FULL, "modules", [AOT_MODULE], ["$.modules: type"]),
    (FULL, "modules", DELETED, ["$: 'modules' is a required property"]),
    (FULL, KWS, None, ["$.modules.kws: type"]),
    (FULL, f"{KWS}.style", "operator", ["$.modules.kws.style: const"]),
    (FULL, f"{KWS}.style", DELETED, ["$.modules.kws: 'style' is a required property"]),
    (FULL, f"{KWS}.export_datetime", 0, ["$.modules.kws.export_datetime: type"]),
    (
        FULL,
        f"{KWS}.memory.functions.main.0.inputs",
        ["x"],
        ["$.modules.kws.memory.functions.main[0].inputs: type"],
    ),
    (
        FULL,
        f"{KWS}.memory.functions.main.0.outputs.output.size",
        -1,
        ["$.modules.kws.memory.functions.main[0].outputs.output.size: minimum"],
    ),
    *(
        (
            FULL,
            f"{KWS}.memory.functions.main.0.outputs.output.dtype",
            dtype,
            [f"$.modules.kws.memory.functions.main[0].outputs.output.dtype: {rule}"],
        )
        for dtype, rule in (
            ("", "pattern"),
            ("8", "pattern"),
            ("float 32", "pattern"),
            ("int8*", "pattern"),
            (None, "type"),
        )
    ),
    ("v7 operator", "style", DELETED, ["$: 'modules' is a required property"]),
    ("v7 operator", "style", "full-model", ["$: 'modules' is a required property"]),
    ("v7 operator", "style", "whole", ["$: 'modules' is a required property"]),
    ("v7 operator", "modules", {"kws": AOT_MODULE}, ["$: not"]),
    ("v7 operator", "executors", ["graph"], ["$.executors: maxItems"]),
    ("v7 operator", "memory", {"functions": FUNCTIONS}, ["$.memory.functions: type"]),
    ("v7 operator", "target", {"1": "c"}, ["$.target: type"]),
    (FULL, f"{KWS}.executors", [""], ["$.modules.kws.executors[0]: minLength"]),
    ("v8", "generator", "", ["$.generator: minLength"]),
    ("v8", "identity", DIGEST, ["$.identity: pattern"]),
    ("v8", "identity", f"sha1:{DIGEST}", ["$.identity: pattern"]),
    ("v8", "identity", f"sha256:{DIGEST.upper()}", ["$.identity: pattern"]),
    ("v8", "identity", f"sha256:{DIGEST[1:]}", ["$.identity: pattern"]),
    ("v8", "members", {}, ["$.members: type"]),
    ("v8", "members.0.size_bytes", -1, ["$.members[0].size_bytes: minimum"]),
    ("v8", "members.0.sha256", DIGEST[1:], ["$.members[0].sha256: pattern"]),
    ("v8", "members.0.sha256", f"sha256:{DIGEST}", ["$.members[0].sha256: maxLength", "$.members[0].sha256: pattern"]),
    ("v8", "members.0.sha256", DIGEST.upper(), ["$.members[0].sha256: pattern"]),
    ("v8", "members.0.role", "sources", ["$.members[0].role: enum"]),
    ("v8", "members.0.role", None, ["$.members[0].role: enum"]),
    ("v8", "members.0.module", 0, ["$.members[0].module: type"]),
    ("v8", "members.0.path", "metadata.json", ["$.members[0].path: not"]),
    *(
        ("v8", f"members.{index}.path", path, [f"$.members[{index}].path: pattern"])
        for index in (0, 2)
        for path in (
            *("", "/", "/a", ".", "..", "./a", "../a", "a/..", "a/../b", "a/.", "a/./b", "a/", "a//b", "a\\b", "..\\a"),
            *(".../..", "C:\\a"),
        )
    ),
    *(("v8", "members.0.path", path, ["$.members[0].path: not"]) for path in ("a\nb", "a\0", "\ta", "a\x7f")),
    ("v8", "modules", {}, ["$.modules: minProperties"]),
    ("v8", "modules", [AOT_MODULE], ["$.modules: type"]),
    ("v8", f"{KWS}.style", "whole", ["$.modules.kws.style: enum"]),
    ("v8", f"{KWS}.memory", BUFFERS, ["$.modules.kws.memory: 'functions' is a required property"]),
    ("v8", f"{KWS}.target", {"1": "c"}, ["$.modules.kws.target: type"]),
    ("v8", f"{KWS}.executors", [""], ["$.modules.kws.executors[0]: minLength"]),
    ("v8", f"{KWS}.executors", "aot", ["$.modules.kws.executors: type"]),
    ("v8", "modules.add.executors", ["aot"], ["$.modules.add.executors: maxItems"]),
    ("v8", "modules.add.memory", {"functions": FUNCTIONS}, ["$.modules.add.memory.functions: type"]),
    ("v8", f"{KWS}.api.interface", "cpp", ["$.modules.kws.api.interface: enum"]),
    ("v8", f"{KWS}.api.interface", None, ["$.modules.kws.api.interface: enum"]),
    ("v8", f"{KWS}.api.operators", None, ["$.modules.kws.api.operators: enum"]),
    ("v8", "modules.vad.api.operators", "c", ["$.modules.vad.api.operators: enum"]),
    ("v8", f"{KWS}.code.language", "rust", ["$.modules.kws.code.language: enum"]),
    ("v8", f"{KWS}.code.definitions", {"KWS_FAST": 1}, ["$.modules.kws.code.definitions.KWS_FAST: type"]),
    ("v8", f"{KWS}.code.definitions", {"F(x)": ""}, ["$.modules.kws.code.definitions: pattern"]),
    ("v8", "modules.vad.code.object.bits", 16, ["$.modules.vad.code.object.bits: enum"]),
    ("v8", "modules.vad.code.object.byte_order", "middle", ["$.modules.vad.code.object.byte_order: enum"]),
    ("v8", "modules.vad.code.object.machine", "", ["$.modules.vad.code.object.machine: minLength"]),
    ("v8", "modules.vad.code.object.abi", "", ["$.modules.vad.code.object.abi: minLength"]),
    ("v8", "modules.vad.code.object.float_abi", "", ["$.modules.vad.code.object.float_abi: minLength"]),
    *(
        ("v8", place, name, [f"{json_path(key_path(place))}: pattern"])
        for place in (
            f"{KWS}.entrypoints.run",
            f"{KWS}.entrypoints.unheard_of",
            f"{KWS}.inputs.0.c_name",
            f"{KWS}.pools.0.name",
        )
        for name in ("", "2d", "a-b", "größe", "a b")
    ),
    ("v8", f"{KWS}.inputs", {}, ["$.modules.kws.inputs: type"]),
    ("v8", f"{KWS}.inputs.0.dtype", "", ["$.modules.kws.inputs[0].dtype: pattern"]),
    ("v8", f"{KWS}.inputs.0.dtype", "_8", ["$.modules.kws.inputs[0].dtype: pattern"]),
    ("v8", f"{KWS}.inputs.0.shape", [1, -1], ["$.modules.kws.inputs[0].shape[1]: minimum"]),
    ("v8", f"{KWS}.inputs.0.size_bytes", -1, ["$.modules.kws.inputs[0].size_bytes: minimum"]),
    *(
        (
            "v8",
            f"{KWS}.inputs.0.quantization.scale",
            scale,
            ["$.modules.kws.inputs[0].quantization.scale: exclusiveMinimum"],
        )
        for scale in (0, 0.0, -0.5)
    ),
    ("v8", f"{KWS}.inputs.0.quantization.zero_point", 0.5, ["$.modules.kws.inputs[0].quantization.zero_point: type"]),
    ("v8", f"{KWS}.inputs.0.quantization", None, ["$.modules.kws.inputs[0].quantization: type"]),
    ("v8", f"{KWS}.pools.0.kind", "stack", ["$.modules.kws.pools[0].kind: enum"]),
    *(
        ("v8", f"{KWS}.pools.0.alignment_bytes", alignment, ["$.modules.kws.pools[0].alignment_bytes: enum"])
        for alignment in (0, -8, 3, 24, True, None)
    ),
    ("v8", f"{KWS}.tests.0.rtol", -1e-9, ["$.modules.kws.tests[0].rtol: minimum"]),
    ("v8", f"{KWS}.tests.0.atol", "0", ["$.modules.kws.tests[0].atol: type"]),
    ("v8", f"{KWS}.tests.0.inputs", "a.npy", ["$.modules.kws.tests[0].inputs: pattern"]),
    ("v8", f"{KWS}.tests.0.inputs", "../a.npz", ["$.modules.kws.tests[0].inputs: pattern"]),
    ("v8", "members.0.path", 1, ["$.members[0].path: type"]),
    ("v8", f"{KWS}.tests.0.inputs", 1, ["$.modules.kws.tests[0].inputs: type"]),
    ("v8", f"{KWS}.inputs.0.c_name", 1, ["$.modules.kws.inputs[0].c_name: type"]),
    ("v4 operator", "memory.add.0.dtype", 1, ["$.memory.add[0].dtype: type"]),
    # `$` of Python matches before a line end.
    ("v8", "identity", f"sha256:{DIGEST}\n", ["$.identity: maxLength"]),
    ("v8", "members.0.sha256", f"{DIGEST}\n", ["$.members[0].sha256: maxLength"]),
    ("v8", "members.0.path", "a\n", ["$.members[0].path: not"]),
    ("v8", f"{KWS}.tests.0.outputs", "a.npz\n", ["$.modules.kws.tests[0].outputs: not"]),
    ("v8", f"{KWS}.entrypoints.run", "run\n", ["$.modules.kws.entrypoints.run: not"]),
    ("v8", f"{KWS}.inputs.0.dtype", "int8\n", ["$.modules.kws.inputs[0].dtype: not"]),
    ("v4 operator", "memory.add.0.dtype", "int8\n", ["$.memory.add[0].dtype: not"]),
]
# In which object a key may be missing; all others must be there.
OPTIONAL: dict[int, set[tuple[str, str]]] = {
    1: {("memory", "input_binding")},
    **{version: {("memory", "sids"), ("sids", "input_binding")} for version in (2, 3, 4)},
    **{version: {("$", "external_dependencies"), ("memory", "sids"), ("sids", "input_binding")} for version in (5, 6)},
    7: {
        ("kws", "external_dependencies"),
        ("main", "inputs"),
        ("main", "outputs"),
        ("memory", "sids"),
        ("sids", "input_binding"),
    },
    8: {
        ("code", "definitions"),
        ("entrypoints", "main"),
        ("entrypoints", "run"),
        ("entrypoints", "tvm_module_main"),
        ("inputs", "quantization"),
        ("kws", "tests"),
        *((name, "export_datetime") for name in ("add", "kws", "vad")),
        ("kws", "external_dependencies"),
        ("main", "inputs"),
        ("main", "outputs"),
        ("memory", "sids"),
        ("sids", "input_binding"),
    },
}
# Which keys of version 8 may be null; in earlier versions that is `input_binding` of a buffer alone.
NULLABLE_IN_8 = {
    ("add", "input_binding"),
    ("api", "operators"),
    ("code", "object"),
    ("inputs", "dtype"),
    ("inputs", "shape"),
    ("inputs", "size_bytes"),
    ("members", "module"),
    ("object", "abi"),
    ("object", "float_abi"),
    ("outputs", "dtype"),
    ("outputs", "shape"),
    ("outputs", "size_bytes"),
    ("pools", "size_bytes"),
}
WRONG: dict[type, tuple[object, ...]] = {
    bool: ("true", 1, [], {}),
    int: (True, -1, 1.5, "1", [], {}),
    float: (True, -1.0, "1", [], {}),
    str: (True, 1, [], {}),
    list: (True, 1, "[]", {}),
    dict: (True, 1, "{}", []),
}


def version_of(name: str) -> int:
    return int(DOCUMENTS[name]["version"])


@pytest.mark.parametrize("version", VERSIONS)
def test_schema_is_valid_and_stands_alone(version: int) -> None:
    found = schema(version)

    Draft202012Validator.check_schema(found)
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert found["$id"] == f"urn:mlf:schema:metadata-v{version}"
    assert found["title"] == f"metadata.json of Model Library Format version {version}"
    assert found["properties"]["version"]["const"] == version
    references = {node["$ref"] for node in nodes(found) if "$ref" in node}
    assert references == {f"#/$defs/{key}" for key in found["$defs"]}


def test_check_jsonschema_accepts_the_schemas() -> None:
    done = check_jsonschema("--check-metaschema", *sorted(SCHEMAS.glob("metadata-v*.schema.json")))

    assert (done.returncode, done.stdout, done.stderr) == (0, "ok -- validation done\n", "")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_key_has_a_title_and_says_since_when_it_exists(version: int) -> None:
    keys = described_keys(version)

    assert len(keys) >= 6
    assert [key for key, value in keys.items() if not value.get("title")] == []
    pattern = r"\S.*\. Since: (version \d( \(20.*\))?|20\d\d-\d\d-\d\d \(TVM 0.*\))\."
    assert [key for key, value in keys.items() if not re.fullmatch(pattern, value.get("description", ""))] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_every_key_of_a_size_says_bytes(version: int) -> None:
    keys = {
        key: value["description"] for key, value in described_keys(version).items() if "size" in key or "bytes" in key
    }

    assert keys
    assert [key for key, text in keys.items() if "in bytes" not in text] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_patterns_work_in_every_dialect_of_regular_expressions(version: int) -> None:
    patterns = [node["pattern"] for node in nodes(schema(version)) if isinstance(node.get("pattern"), str)]

    assert patterns
    assert [pattern for pattern in patterns if re.search(r"\(\?|\\[1-9AZbdswzDSW]", pattern)] == []


def test_versions_share_their_definitions() -> None:
    found: dict[str, dict[str, list[int]]] = {}
    for version in VERSIONS:
        for key, value in schema(version)["$defs"].items():
            found.setdefault(key, {}).setdefault(json.dumps(value), []).append(version)

    different = {key: list(texts.values()) for key, texts in found.items() if len(texts) > 1}
    assert different == {"main_function": [[2, 3, 4, 5, 6], [7, 8]], "module": [[7], [8]]}
    assert {"buffer", "dependency", "functions", "model_memory", "operator_memory", "storage"} <= set(found)


def test_paths_of_tests_follow_the_rule_of_the_members() -> None:
    definitions = schema(8)["$defs"]

    assert definitions["array_file"]["pattern"] == definitions["member"]["properties"]["path"]["pattern"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", [[], "version", None, 1, True])
def test_document_that_is_no_object_is_refused(document: Any, version: int) -> None:
    assert faults(document, version) == ["$: type"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_is_accepted_by_the_schema_of_its_version_alone(name: str) -> None:
    accepted = [version for version in VERSIONS if faults(DOCUMENTS[name], version) == []]

    assert accepted == [version_of(name)]


@pytest.mark.parametrize("version", VERSIONS)
def test_there_is_a_document_of_every_style(version: int) -> None:
    documents = [document for name, document in DOCUMENTS.items() if version_of(name) == version]
    modules = [module for document in documents for module in document.get("modules", {"": document}).values()]

    styles = {"full-model", "operator"} if version >= 4 else {None}
    assert {module.get("style") for module in modules} == styles


@pytest.mark.parametrize("version", VERSIONS)
def test_no_object_is_closed(version: int) -> None:
    for node in nodes(schema(version)):
        assert node.get("additionalProperties") is not False
        assert "unevaluatedProperties" not in node


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("v1 graph", "memory.0.new"),
        ("v2 graph", "memory.functions.new"),
        ("v5 aot since 2022-01-31", "external_dependencies.0.new"),
        ("v5 operator", "memory.add.0.new"),
        ("v7 since 2022-12-07", "modules.kws.memory.functions.main.0.outputs.output.new"),
        ("v8", "members.0.new"),
        ("v8", "modules.kws.new"),
        ("v8", "modules.vad.code.object.new"),
        *((name, "new") for name in DOCUMENTS),
    ],
)
def test_unknown_key_is_allowed(name: str, place: str) -> None:
    document = changed(DOCUMENTS[name], key_path(place), {"anything": [None]})

    assert faults(document, version_of(name)) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_whole_numbers_may_have_a_point(name: str) -> None:
    document = json.loads(re.sub(r": (\d+)(?=[,}])", r": \1.0", json.dumps(DOCUMENTS[name])))

    assert isinstance(document["version"], float)
    assert faults(document, version_of(name)) == []


@pytest.mark.parametrize("memory", ["alloc", "internal"])
@pytest.mark.parametrize("release", RELEASES)
def test_archives_of_every_release_are_accepted(release: str, memory: str) -> None:
    document = metadata([Network(release=RELEASES[release], memory=memory)])

    assert faults(document, RELEASES[release].version) == []


def test_two_modules_of_a_release_are_accepted() -> None:
    networks = [Network(model=model) for model in ("kws", "vad")]

    assert faults(metadata(networks), 7) == []


def metadata_of(path: Path) -> Document:
    with tarfile.open(path) as archive:
        names = [name for name in archive.getnames() if name.removeprefix("./") == "metadata.json"]
        member = archive.extractfile(names[0])
        assert member is not None
        return dict(json.loads(member.read()))


def test_archives_of_a_real_compiler_are_accepted(real_archives: Path) -> None:
    documents = {path.name: metadata_of(path) for path in sorted(real_archives.glob("*.tar"))}

    cases = json.loads((real_archives / "cases.json").read_text())["cases"]
    assert {case["archive"] for case in cases} <= set(documents)
    found = {name: faults(document, document["version"]) for name, document in documents.items()}
    assert {name: fault for name, fault in found.items() if fault} == {}
    assert {document["version"] for document in documents.values()} == {5, 7}
    modules = [module for document in documents.values() for module in document.get("modules", {}).values()]
    assert {tuple(module["executors"]) for module in modules} == {("aot",), ("graph",)}
    assert max(len(document.get("modules", {})) for document in documents.values()) > 1


def test_sample_archives_are_accepted() -> None:
    found = {path.name: faults(metadata_of(path), 7) for path in (ROOT / "samples").glob("*.tar")}

    assert found == {"glyph.tar": [], "motor.tar": [], "tone.tar": []}


@pytest.mark.parametrize("version", VERSIONS)
def test_check_jsonschema_accepts_the_documents(tmp_path: Path, version: int) -> None:
    documents = written(tmp_path, [document for document in DOCUMENTS.values() if document["version"] == version])

    done = check_jsonschema("--schemafile", SCHEMAS / f"metadata-v{version}.schema.json", *documents)

    assert (done.returncode, done.stdout, done.stderr) == (0, "ok -- validation done\n", "")


@pytest.mark.parametrize(("name", "place", "value", "expected"), FAULTS)
def test_fault_is_refused_at_its_place(name: str, place: str, value: object, expected: list[str]) -> None:
    document = changed(DOCUMENTS[name], key_path(place), value)

    assert faults(document, version_of(name)) == expected


@pytest.mark.parametrize("version", VERSIONS)
def test_check_jsonschema_refuses_every_fault(tmp_path: Path, version: int) -> None:
    documents = [
        changed(DOCUMENTS[name], key_path(place), value)
        for name, place, value, _ in FAULTS
        if version_of(name) == version
    ]
    paths = written(tmp_path, documents)

    done = check_jsonschema("-o", "json", "--schemafile", SCHEMAS / f"metadata-v{version}.schema.json", *paths)

    assert done.returncode == 1, done.stderr
    refused = {Path(error["filename"]).name for error in json.loads(done.stdout)["errors"]}
    assert sorted({path.name for path in paths} - refused) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_only_these_keys_may_be_missing(version: int) -> None:
    known = set(described_keys(version))
    optional = set()
    for document in (document for document in DOCUMENTS.values() if document["version"] == version):
        for place, _ in places(document):
            # The style of an operator archive of version 7 decides whether `modules` is missing; a fault above shows it.
            if place[-1] not in known or (version, place) == (7, ("style",)):
                continue
            found = faults(changed(document, place, DELETED), version)
            if found:
                assert found == [f"{json_path(place[:-1])}: '{place[-1]}' is a required property"]
            else:
                optional.add(owner_and_key(place))

    assert optional == OPTIONAL[version]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_values_of_wrong_types_are_refused_at_their_places(name: str) -> None:
    document, version = DOCUMENTS[name], version_of(name)
    for place, value in places(document):
        if value is None or (version, place) == (7, ("style",)):
            continue
        for wrong in WRONG[type(value)]:
            found = {fault.rsplit(": ", 1)[0] for fault in faults(changed(document, place, wrong), version)}
            assert found == (set() if place[-1] == "zero_point" and wrong == -1 else {json_path(place)}), wrong


@pytest.mark.parametrize("version", VERSIONS)
def test_only_these_keys_may_be_null(version: int) -> None:
    nullable = set()
    for document in (document for document in DOCUMENTS.values() if document["version"] == version):
        for place, _ in places(document):
            if faults(changed(document, place, None), version) == []:
                nullable.add(owner_and_key(place))

    buffers = {("add", "input_binding")} if version >= 4 else set()
    assert nullable == (NULLABLE_IN_8 if version == 8 else buffers)


@pytest.mark.parametrize(
    "role", ["source", "include", "object", "parameters", "graph", "ir", "test", "runtime", "template", "other"]
)
def test_role_is_accepted(role: str) -> None:
    assert faults(changed(VERSION_8, key_path("members.0.role"), role), 8) == []


@pytest.mark.parametrize(
    "path",
    ["a", ".a", "..a", "...", "a..", "a/.b/..c/...", "a b/c:d", "größe/1", "-", "metadata.json/a", "a/metadata.json"],
)
def test_path_is_accepted(path: str) -> None:
    assert faults(changed(VERSION_8, key_path("members.0.path"), path), 8) == []


@pytest.mark.parametrize("dtype", ["bool", "int4", "uint64", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float32x4"])
@pytest.mark.parametrize("place", ["memory.functions.main.0.inputs.x.dtype", "inputs.0.dtype"])
def test_dtype_is_accepted(place: str, dtype: str) -> None:
    assert faults(changed(VERSION_8, key_path(f"{KWS}.{place}"), dtype), 8) == []


@pytest.mark.parametrize("alignment", [1, 2, 8, 4096, 2**31])
def test_alignment_is_accepted(alignment: int) -> None:
    assert faults(changed(VERSION_8, key_path(f"{KWS}.pools.0.alignment_bytes"), alignment), 8) == []


@pytest.mark.parametrize(
    ("language", "executors", "expected"),
    [
        ("c", ["aot"], ["$.modules.kws.api.operators: enum"]),
        ("c++", ["aot"], ["$.modules.kws.api.operators: enum"]),
        ("object", ["aot"], []),
        ("c", ["graph"], []),
    ],
)
def test_calls_of_operators_may_be_unknown_only_in_objects_and_graphs(
    language: str, executors: list[str], expected: list[str]
) -> None:
    document = changed(VERSION_8, key_path(f"{KWS}.api.operators"), None)
    document = changed(document, key_path(f"{KWS}.code.language"), language)

    assert faults(changed(document, key_path(f"{KWS}.executors"), executors), 8) == expected


@pytest.mark.parametrize("place", ["executors", "code", "code.language"])
def test_missing_key_is_not_a_fault_of_the_calls_too(place: str) -> None:
    document = changed(VERSION_8, key_path(f"{KWS}.api.operators"), None)
    *owner, key = key_path(f"{KWS}.{place}")

    found = faults(changed(document, (*owner, key), DELETED), 8)

    assert found == [f"{json_path(tuple(owner))}: '{key}' is a required property"]


@pytest.mark.parametrize(
    "role",
    [
        "descriptor",
        "get_c_metadata",
        "lookup_linked_param",
        "main",
        "map_inputs",
        "map_outputs",
        "run",
        "tvm_module_main",
    ],
)
def test_entrypoint_is_a_name_in_c(role: str) -> None:
    place = key_path(f"{KWS}.entrypoints.{role}")

    assert schema(8)["$defs"]["entrypoints"]["properties"][role]["description"]
    assert faults(changed(VERSION_8, place, "_lookup_1"), 8) == []
    assert faults(changed(VERSION_8, place, "1_lookup"), 8) == [f"{json_path(place)}: pattern"]


def test_operator_module_of_version_8_may_leave_open_how_operators_are_called() -> None:
    assert faults(changed(VERSION_8, key_path("modules.add.api.operators"), None), 8) == []


def as_version_7(document: Document) -> Document:
    """The document without what version 8 added."""
    modules = {
        name: {key: value for key, value in module.items() if key not in KEYS_OF_8}
        for name, module in document["modules"].items()
    }
    return {"version": 7, "modules": modules}


@pytest.mark.parametrize("name", ["kws", "vad"])
def test_model_of_version_8_is_one_of_version_7_too(name: str) -> None:
    document = {**VERSION_8, "modules": {name: VERSION_8["modules"][name]}}

    assert faults(as_version_7(document), 7) == []
    assert faults({**document, "version": 7}, 7) == []


def test_operator_module_of_version_8_is_an_archive_of_version_7_too() -> None:
    module = as_version_7(VERSION_8)["modules"]["add"]

    assert faults({**module, "version": 7}, 7) == []


def test_version_8_adds_these_keys_to_a_module_and_lets_the_time_be_missing() -> None:
    old, new = (schema(version)["$defs"]["module"] for version in (7, 8))

    assert set(new["properties"]) - set(old["properties"]) == KEYS_OF_8
    assert set(old["properties"]) <= set(new["properties"])
    assert set(old["required"]) - set(new["required"]) == {"export_datetime"}


def test_ten_thousand_members_take_little_time() -> None:
    path = "codegen/host/src/tvmgen_default_fused_nn_contrib_conv2d_NCHWc_nn_relu_add_"
    member = {"size_bytes": 1 << 20, "sha256": DIGEST, "role": "source", "module": "kws"}
    members = [{**member, "path": f"{path}{index}.c"} for index in range(TEN_THOUSAND)]

    start = time.process_time()
    found = faults({**VERSION_8, "members": members}, 8)

    assert found == []
    assert time.process_time() - start < ENOUGH_SECONDS


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("members.0.path", "a/" * 100_000),
        ("members.0.path", "..a/" * 100_000 + ".."),
        ("members.0.path", "." * 100_000 + "\\"),
        (f"{KWS}.inputs.0.dtype", "a" * 100_000 + "-"),
        (f"{KWS}.inputs.0.c_name", "a" * 100_000 + "-"),
        ("identity", "sha256:" + "0" * 100_000),
    ],
)
def test_hostile_text_takes_little_time(place: str, text: str) -> None:
    document = changed(VERSION_8, key_path(place), text)

    start = time.process_time()
    found = faults(document, 8)

    assert f"{json_path(key_path(place))}: pattern" in found
    assert time.process_time() - start < ENOUGH_SECONDS
