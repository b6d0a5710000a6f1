"""Archives of every version in every style that it had, and what changed in them without a new version."""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from archives import (
    EMPTY_PARAMS,
    OPERATORS,
    RELEASES,
    SCRATCH_BYTES,
    SNAPSHOTS,
    STYLES,
    WORKSPACE_BYTES,
    Members,
    Network,
    expected,
    graph,
    members,
    random_inputs,
    write,
)
from jsonschema import Draft202012Validator

from mlf import library
from mlf.archive import METADATA_NAME, open_archive
from mlf.arrays import load_arrays
from mlf.check import validate
from mlf.converter import Note, convert
from mlf.linker import LinkRequest, link, plan_link
from mlf.metadata import Tensor
from mlf.params import parse_params, render_params
from mlf.reading import read_contents
from mlf.runner import open_library, run_model
from mlf.toolchain import compiler_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlf.module import Module

ROOT = Path(__file__).parent.parent
DATED = {**RELEASES, **SNAPSHOTS}
_LATER = "graph graph-linked aot-packed aot-unpacked aot-c operator"
# Which styles each form had: ahead-of-time code came in May 2021, operators of their own in July, the C interface in August.
FORMS = {
    "2021-03-10": "graph graph-linked",
    "2021-05-05": "graph aot-packed",
    "2021-05-07": "graph graph-linked aot-packed",
    "2021-06-04": "graph graph-linked aot-packed aot-unpacked",
    "2021-06-28": "graph graph-linked aot-packed aot-unpacked",
    "2021-07-02": "graph graph-linked aot-packed aot-unpacked operator",
    "2021-07-20": "graph graph-linked aot-packed aot-unpacked operator",
    "0.8.0": _LATER,
    "0.9.dev-v5": "graph aot-packed aot-unpacked aot-c operator",
    "2022-05-09": _LATER,
    "2022-05-20": _LATER,
    "0.9.dev-v6": _LATER,
    "0.9.0": _LATER,
    "0.12.0": _LATER,
    "0.17.0": _LATER,
}
EVERY = [(date, style) for date in FORMS for style in FORMS[date].split()]
OPERATOR_STYLE = [(date, style) for date, style in EVERY if style == "operator"]
FULL_MODEL = [(date, style) for date, style in EVERY if style != "operator"]
# Graph executor: what the first sum and the scores share, and what is hidden.
GRAPH_STORAGE_BYTES = 64
GENERIC = ("output0", "output1")


def of(forms: Sequence[tuple[str, str]]) -> pytest.MarkDecorator:
    names = [f"v{DATED[date].version}-{date}-{style}" for date, style in forms]
    return pytest.mark.parametrize(("date", "style"), forms, ids=names)


def network(date: str, style: str, **choice: Any) -> Network:
    return Network(release=DATED[date], **{**STYLES[style], **choice})


def contents(path: Path) -> Members:
    with open_archive(path) as archive:
        return {member.name: archive.read(member.name) for member in archive.members}


def metadata(path: Path) -> dict[str, Any]:
    return dict(json.loads(contents(path)[METADATA_NAME]))


def written(folder: Path, content: Mapping[str, bytes], name: str = "old.tar") -> Path:
    return write(folder / name, content)


def read(folder: Path, content: Network | Mapping[str, bytes]) -> Module:
    path = written(folder, members(content) if isinstance(content, Network) else content)
    (module,) = read_contents(path).modules
    return module


def edited(content: Members, name: str, *changes: tuple[str, str]) -> Members:
    text = content[name].decode()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return content | {name: text.encode()}


def with_main(content: Members, *more: Mapping[str, Any], **changes: Any) -> Members:
    """Change what metadata of one module says of main, and add entries of other targets."""
    document = json.loads(content[METADATA_NAME])
    module = document["modules"]["default"] if "modules" in document else document
    main = module["memory"]["functions"]["main"]
    main[0].update(changes)
    main += more
    return content | {METADATA_NAME: json.dumps(document).encode()}


def sizes(tensors: tuple[Tensor, ...]) -> list[tuple[str, str | None, int | None]]:
    return [(tensor.name, tensor.dtype, tensor.size_bytes) for tensor in tensors]


def codes(folder: Path, content: Mapping[str, bytes]) -> list[str]:
    return [f"{item.severity}[{item.code}]" for item in validate(written(folder, content)).findings]


def _is_of_2021(date: str) -> bool:
    return date == "0.8.0" or date.startswith("2021")


# What is read.


@of(EVERY)
def test_tensors_of_every_form_are_in_call_order_with_what_tells_of_them(tmp_path: Path, date: str, style: str) -> None:
    form = network(date, style)
    module = read(tmp_path, form)

    names = GENERIC if _is_of_2021(date) else ("scores", "hidden")
    has_shapes = style.startswith("graph") or form.has_c_metadata
    inputs = (
        Tensor(name="zeta:0", c_name="zeta_0", dtype="float32", shape=(1, 8), size_bytes=32),
        Tensor(name="alpha-b", c_name="alpha_b", dtype="int8", shape=(2, 4), size_bytes=8),
    )
    outputs = (
        Tensor(name=names[0], c_name=names[0], dtype="int32", shape=(1, 4) if has_shapes else None, size_bytes=16),
        Tensor(name=names[1], c_name=names[1], dtype="float32", shape=(1, 8) if has_shapes else None, size_bytes=32),
    )
    assert (module.inputs, module.outputs) == (((), ()) if style == "operator" else (inputs, outputs))
    assert module.findings == ()


@of(EVERY)
def test_the_rest_of_every_form_is_what_its_code_says(tmp_path: Path, date: str, style: str) -> None:
    module = read(tmp_path, network(date, style))

    executors = {"operator": (), "graph": ("graph",), "graph-linked": ("graph",)}.get(style, ("aot",))
    assert (module.version, module.style, module.executors) == (
        DATED[date].version, "operator" if style == "operator" else "full-model", executors,
    )  # fmt: skip
    assert module.interface == ("c" if style == "aot-c" else "packed")
    assert module.operators == ("unpacked" if style in ("aot-c", "aot-unpacked") else "packed")
    assert module.has_registry == (executors != ("aot",))
    assert module.constants_bytes == (0 if style == "operator" else 32)
    assert (module.graph.storage_bytes if module.graph else 0) == (
        GRAPH_STORAGE_BYTES if executors == ("graph",) else 0
    )
    needs = {"graph": (SCRATCH_BYTES, SCRATCH_BYTES + GRAPH_STORAGE_BYTES), "operator": (SCRATCH_BYTES, SCRATCH_BYTES)}
    assert (module.allocator_bytes, module.workspace_bytes) == needs.get(
        style.removesuffix("-linked"), (WORKSPACE_BYTES, WORKSPACE_BYTES)
    )


_OLD_RUN = "tvm__run_func"
_RUN_MODEL = "tvmgen_default_run_model"
_MAIN = "tvmgen_default___tvm_main__"
_RUN = "tvmgen_default_run"
_DESCRIBE = {"get_c_metadata": "tvmgen_default_get_c_metadata"}
_UNTIL_AUGUST = {
    "aot-packed": {"tvm_module_main": _RUN_MODEL, "main": _RUN_MODEL, "descriptor": "tvmgen_default_network"},
    "aot-unpacked": {"main": _RUN_MODEL, "descriptor": "tvmgen_default_network"},
    "graph-linked": {"lookup_linked_param": "_lookup_linked_param"},
}
_OF_MAY = {
    "aot-packed": {"tvm_module_main": _OLD_RUN, "main": _OLD_RUN, "descriptor": "network"},
    "aot-unpacked": {"main": _OLD_RUN, "descriptor": "network"},
    "graph-linked": {"lookup_linked_param": "_lookup_linked_param"},
}
_OF_08 = {
    **{style: {"tvm_module_main": _RUN, "main": _RUN_MODEL} for style in ("aot-packed", "aot-unpacked")},
    "aot-c": {"run": _RUN, "main": _RUN_MODEL},
    "graph-linked": {"lookup_linked_param": "_lookup_linked_param"},
}
_UNDESCRIBED = {
    **{style: {"tvm_module_main": _RUN, "main": _MAIN} for style in ("aot-packed", "aot-unpacked")},
    "aot-c": {"run": _RUN, "main": _MAIN},
}
_SINCE_12 = {
    **{style: {"tvm_module_main": _RUN, "main": _MAIN, **_DESCRIBE} for style in ("aot-packed", "aot-unpacked")},
    "aot-c": {"run": _RUN, "main": _MAIN},
}
_GRAPHS_TOO = {**_SINCE_12, **dict.fromkeys(("graph", "graph-linked"), _DESCRIBE)}
ENTRYPOINTS = {
    **dict.fromkeys(("2021-03-10", "2021-05-05", "2021-05-07", "2021-06-04"), _OF_MAY),
    **dict.fromkeys(("2021-06-28", "2021-07-02", "2021-07-20"), _UNTIL_AUGUST),
    "0.8.0": _OF_08,
    "0.9.dev-v5": _UNDESCRIBED,
    **dict.fromkeys(("2022-05-09", "2022-05-20", "0.9.dev-v6", "0.9.0"), _GRAPHS_TOO),
    **dict.fromkeys(("0.12.0", "0.17.0"), _SINCE_12),
}


@of(EVERY)
def test_entrypoints_of_every_form_are_those_of_its_date(tmp_path: Path, date: str, style: str) -> None:
    assert read(tmp_path, network(date, style)).entrypoints == ENTRYPOINTS[date].get(style, {})


@of(EVERY)
def test_members_operators_and_weights_of_every_form_are_found(tmp_path: Path, date: str, style: str) -> None:
    form = network(date, style)
    module = read(tmp_path, form)
    version, held = DATED[date].version, members(form)

    symbol = "{}" if style == "operator" else "fused_{}" if version < 3 else "tvmgen_default_fused_{}"
    operators = [symbol.format(name) for name in ("add", "mix", "pick")]
    assert list(module.metadata.operators) == ([] if version == 1 else operators)
    assert set(operators) <= module.defined
    assert list(module.graph.operators if module.graph else operators) == operators
    prefix = "default_" if version >= 3 and style != "operator" else ""
    assert list(module.sources) == [
        f"codegen/host/src/{prefix}lib{index}.c" for index in range(3 if form.has_c_metadata else 2)
    ]
    assert module.parameters == (None if style == "operator" else "parameters/default.params")
    if module.parameters:
        has_weights = style == "graph" or _is_of_2021(date)
        names = [item.name for item in parse_params(held[module.parameters], where="old.tar")]
        assert names == (["p0"] if has_weights else [])


@of(OPERATOR_STYLE)
def test_operator_archives_tell_the_parameters_of_their_functions(tmp_path: Path, date: str, style: str) -> None:
    module = read(tmp_path, network(date, style))

    buffers = {name: [(item.dtype, item.shape, item.size_bytes) for item in found] for name, found in module.metadata.buffers.items()}  # fmt: skip
    sizes_bytes = {"float32": 4, "int8": 1, "int32": 4}
    assert buffers == {
        name: [(dtype, shape, sizes_bytes[dtype] * shape[0] * shape[1]) for dtype, shape in tensors.values()]
        for name, tensors in OPERATORS.items()
    }


# What is valid.


@of(EVERY)
def test_the_schema_of_its_version_accepts_the_metadata_of_every_form(date: str, style: str) -> None:
    form = network(date, style)
    schema = json.loads((ROOT / "schemas" / f"metadata-v{form.release.version}.schema.json").read_text())
    document = json.loads(members(form)[METADATA_NAME])

    assert [error.message for error in Draft202012Validator(schema).iter_errors(document)] == []


@of(EVERY)
def test_nothing_is_wrong_with_any_form(tmp_path: Path, date: str, style: str) -> None:
    assert codes(tmp_path, members(network(date, style))) == []


# What is converted.


@of(EVERY)
def test_every_form_comes_back_from_version_8_with_every_byte(tmp_path: Path, date: str, style: str) -> None:
    form = network(date, style)
    source = written(tmp_path, members(form))
    convert(source, to=8, output=tmp_path / "new.tar")
    convert(tmp_path / "new.tar", to=form.release.version, output=tmp_path / "again.tar")

    assert contents(tmp_path / "again.tar") == members(form)
    assert codes(tmp_path, contents(tmp_path / "new.tar")) == []


@of(EVERY)
def test_version_8_says_what_was_read_of_every_form(tmp_path: Path, date: str, style: str) -> None:
    source = written(tmp_path, members(network(date, style)))
    convert(source, to=8, output=tmp_path / "new.tar")
    (old,), (new,) = read_contents(source).modules, read_contents(tmp_path / "new.tar").modules

    for fact in ("inputs", "outputs", "entrypoints", "operators", "interface", "allocator_bytes", "constants_bytes", "defined"):  # fmt: skip
        assert (fact, getattr(new, fact)) == (fact, getattr(old, fact))
    assert new.findings == ()


@of([(date, style) for date, style in EVERY if DATED[date].version < 7])
def test_a_reader_of_version_7_finds_everything_of_every_form(tmp_path: Path, date: str, style: str) -> None:
    form = network(date, style)
    convert(written(tmp_path, members(form)), to=7, output=tmp_path / "seven.tar")
    document = metadata(tmp_path / "seven.tar")

    seven = members(replace(form, release=replace(form.release, version=7)))
    assert set(contents(tmp_path / "seven.tar")) == set(seven)
    module = document if style == "operator" else document["modules"]["default"]
    before = json.loads(members(form)[METADATA_NAME])["target"]
    assert module["target"] == (list(before.values()) if isinstance(before, dict) else before)
    assert (module["executors"], module["style"]) == ([] if style == "operator" else [form.executor], form.style)
    if style == "operator":
        assert list(module["memory"]) == list(OPERATORS)
        return
    main = module["memory"]["functions"]["main"][0]
    assert main["inputs"] == {"alpha-b": {"dtype": "int8", "size": 8}, "zeta:0": {"dtype": "float32", "size": 32}}
    assert sorted((item["dtype"], item["size"]) for item in main["outputs"].values()) == [("float32", 32), ("int32", 16)]  # fmt: skip
    assert main["workspace_size_bytes"] in (WORKSPACE_BYTES, SCRATCH_BYTES + GRAPH_STORAGE_BYTES)


TENSOR_NOTES = ("float32, 32 bytes", "int8, 8 bytes", "int32, 16 bytes", "float32, 32 bytes")
_SYMBOLS = Note(kind="kept", place="symbols", text="the code keeps the names that it had before version 3, without a model's name in front")  # fmt: skip


@of(FULL_MODEL)
def test_what_is_inferred_of_every_form_is_noted(tmp_path: Path, date: str, style: str) -> None:
    form = network(date, style)
    source = written(tmp_path, members(form))
    names = [tensor.name for tensor in read_contents(source).modules[0].outputs]
    done = convert(source, to=8, output=tmp_path / "new.tar")

    workspace = SCRATCH_BYTES + GRAPH_STORAGE_BYTES if form.executor == "graph" else WORKSPACE_BYTES
    sizes_text = f"constants_size_bytes 32, io_size_bytes 88, workspace_size_bytes {workspace}"
    wanted = [_SYMBOLS] if form.release.version < 3 else []
    if form.release.version == 1:
        wanted.append(Note(kind="inferred", place="default: memory.functions.main", text=sizes_text))
    if form.release.has_io:  # what metadata tells but for the order
        orders = (("inputs", "zeta:0, alpha-b"), ("outputs", "scores, hidden"))
        wanted += [Note(kind="inferred", place=f"default: order of {kind}", text=f"{text}; metadata.json sorts them") for kind, text in orders]  # fmt: skip
    else:
        places = ["inputs.zeta:0", "inputs.alpha-b", *(f"outputs.{name}" for name in names)]
        wanted += [Note(kind="inferred", place=f"default: {place}", text=text) for place, text in zip(places, TENSOR_NOTES, strict=True)]  # fmt: skip
    assert list(done.notes) == wanted


@of(OPERATOR_STYLE)
def test_nothing_is_inferred_of_operators(tmp_path: Path, date: str, style: str) -> None:
    source = written(tmp_path, members(network(date, style)))

    assert convert(source, to=8, output=tmp_path / "new.tar").notes == ()


@pytest.mark.parametrize("date", ["2021-03-10", "2021-06-28", "0.8.0", "0.9.dev-v6", "0.17.0"])
def test_weights_keep_their_order_and_names(tmp_path: Path, date: str) -> None:
    form = network(date, "graph")
    held = members(form)
    (weights,) = parse_params(held["parameters/default.params"], where="old.tar")
    names = ["p10", "p0", "größe", "p2"]
    held["parameters/default.params"] = render_params([replace(weights, name=name) for name in names])
    convert(written(tmp_path, held), to=8, output=tmp_path / "new.tar")
    convert(tmp_path / "new.tar", to=form.release.version, output=tmp_path / "again.tar")

    for path in (tmp_path / "new.tar", tmp_path / "again.tar"):
        data = contents(path)["parameters/default.params"]
        assert data == held["parameters/default.params"]
        assert [item.name for item in parse_params(data, where=path.name)] == names


# What no version says.


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of TVM that had no new version: an archive of its form, and what is read of it."""

    content: Members
    facts: Mapping[str, object]


def told(module: Module, held: Members) -> dict[str, object]:
    """What a change may show in, in short."""
    params = held.get(module.parameters or "", EMPTY_PARAMS)
    buffers = [item.name for found in module.metadata.buffers.values() for item in found]
    return {
        "alias": "__tvm_main__" in module.defined,
        "buffers": buffers,
        "constants": module.constants_bytes,
        "devices": module.devices,
        "entrypoints": {role: name.removeprefix("tvmgen_default_") for role, name in module.entrypoints.items()},
        "findings": [item.kind for item in module.findings],
        "io": (sizes(module.inputs), sizes(module.outputs)),
        "interface": module.interface,
        "language": module.code.language,
        "maps_io": module.maps_io,
        "outputs": [tensor.name for tensor in module.outputs],
        "pools": [(pool.name, pool.kind, pool.is_internal) for pool in module.pools],
        "registry": module.has_registry,
        "targets": module.metadata.targets,
        "weights": [item.name for item in parse_params(params, where="old.tar")],
        "workspace": module.workspace_bytes,
    }


def _form(date: str, style: str = "aot-c", release: Mapping[str, Any] | None = None, **choice: Any) -> Members:
    form = network(date, style, **choice)
    return members(replace(form, release=replace(form.release, **(release or {}))))


_HEADER = "codegen/host/include/tvmgen_default.h"
_OPERATORS = "codegen/host/src/default_lib1.c"
_WRAPPER = "codegen/host/src/default_lib0.c"
_INPUTS = [("zeta:0", "float32", 32), ("alpha-b", "int8", 8)]
_GENERIC_IO = (_INPUTS, [("output0", "int32", 16), ("output1", "float32", 32)])
_NAMED_IO = (_INPUTS, [("scores", "int32", 16), ("hidden", "float32", 32)])
_PLANNED = ("global_workspace", "workspace", True)
_POOLED = ("global_const_workspace", "constant", True)
_SHARED = {"device": 1, "workspace_size_bytes": 77, "constants_size_bytes": 0, "io_size_bytes": 0}
_EXTERN_C = '#ifdef __cplusplus\nextern "C" {\n#endif\n'
_LONG_TARGET = "c -keys=cpu -executor=aot -interface-api=c -link-params=1 -runtime=c -unpacked-api=1"
_DECLARED = "\n  struct tvmgen_default_workspace_pools* workspace_pools,\n  struct tvmgen_default_devices* devices\n"
_SWAPPED = "\n  struct tvmgen_default_devices* devices,\n  struct tvmgen_default_workspace_pools* workspace_pools\n"

CHANGES = {
    "2021-08-03 #8280 before": Change(
        content=_form("2021-07-20", "aot-unpacked"),
        facts={"interface": "packed", "entrypoints": {"main": "run_model", "descriptor": "network"}, "io": _GENERIC_IO},
    ),
    "2021-08-03 #8280": Change(
        content=_form("0.8.0"),
        facts={"interface": "c", "entrypoints": {"run": "run", "main": "run_model"}, "io": _GENERIC_IO},
    ),
    "2021-09-24 #9094 before": Change(
        content=edited(_form("0.8.0"), _HEADER, (_EXTERN_C, ""), ("\n#ifdef __cplusplus\n}\n#endif\n", "")),
        facts={"io": _GENERIC_IO, "findings": []},
    ),
    "2021-09-09 #8715 before": Change(
        content=_form("2021-07-20", "operator", parts=("add",)), facts={"alias": False, "findings": []}
    ),
    "2021-09-09 #8715": Change(
        content=_form("0.8.0", "operator", parts=("add",)), facts={"alias": True, "findings": []}
    ),
    "2021-11-12 #9395": Change(
        content=_form("0.9.dev-v5", devices=("ethos_u",)), facts={"devices": ("ethos_u",), "io": _NAMED_IO}
    ),
    "2021-11-20 #9352 before": Change(content=_form("0.8.0"), facts={"targets": (_LONG_TARGET,)}),
    "2021-11-20 #9352": Change(content=_form("0.9.dev-v5"), facts={"targets": ("c -keys=cpu ",)}),
    "2021-11-22 #9510": Change(
        content=_form("0.8.0", release={"has_workspace_macro": True}),
        facts={"workspace": WORKSPACE_BYTES, "findings": [], "io": _GENERIC_IO},
    ),
    "2021-11-29 #9524 before": Change(content=_form("0.8.0"), facts={"constants": 32}),
    "2021-11-29 #9524": Change(content=_form("0.9.dev-v5"), facts={"constants": 32}),
    "2022-01-19 #9243": Change(
        content=_form("0.9.dev-v5") | {"codegen/host/src/default_lib2.cc": b"int helper() {\n  return 0;\n}\n"},
        facts={"language": "c++", "io": _NAMED_IO},
    ),
    "2022-01-19 #9565": Change(
        content=_form("0.9.dev-v5", memory="internal"), facts={"pools": [_PLANNED], "workspace": WORKSPACE_BYTES}
    ),
    "2022-02-14 #10193": Change(
        content=_form("0.9.dev-v5", memory="external"),
        facts={"pools": [("sram", "workspace", False)], "io": _NAMED_IO},
    ),
    "2022-02-21 #10191 before": Change(content=_form("0.8.0"), facts={"outputs": ["output0", "output1"]}),
    "2022-02-21 #10191": Change(content=_form("0.9.dev-v5"), facts={"outputs": ["scores", "hidden"]}),
    "2022-02-21 #10022 before": Change(
        content=with_main(_form("0.8.0", "graph"), _SHARED), facts={"io": _GENERIC_IO, "findings": []}
    ),
    "2022-02-22 #8509 before": Change(content=_form("0.8.0"), facts={"weights": ["p0"], "constants": 32}),
    "2022-02-22 #8509": Change(content=_form("0.9.dev-v5"), facts={"weights": [], "constants": 32}),
    "2022-02-22 #8509 graph before": Change(
        content=_form("0.8.0", "graph-linked"),
        facts={"weights": ["p0"], "entrypoints": {"lookup_linked_param": "_lookup_linked_param"}, "constants": 32},
    ),
    "2022-02-22 #8509 graph": Change(
        content=_form("0.17.0", "graph-linked"), facts={"weights": [], "entrypoints": {}, "constants": 32}
    ),
    "2022-02-23 #10337 before": Change(
        content=_form("0.9.dev-v5", release={"main": "run_model"}),
        facts={"entrypoints": {"run": "run", "main": "run_model"}, "io": _NAMED_IO},
    ),
    "2022-02-23 #10337": Change(
        content=_form("0.9.dev-v5"), facts={"entrypoints": {"run": "run", "main": "__tvm_main__"}, "io": _NAMED_IO}
    ),
    "2022-03-09 #10424 before": Change(
        content=_form("0.9.dev-v5", release={"checks_calls": False}),
        facts={"io": _NAMED_IO, "workspace": WORKSPACE_BYTES},
    ),
    "2022-03-09 #10424": Change(
        content=_form("0.9.dev-v5"), facts={"io": _NAMED_IO, "workspace": WORKSPACE_BYTES}
    ),
    "2022-04-26 #10785": Change(
        content=_form("0.17.0", memory="external", maps_io=True),
        facts={"maps_io": True, "io": _NAMED_IO, "findings": []},
    ),
    "2022-05-09 #11044 before": Change(
        content=_form("0.9.dev-v5", "aot-packed"),
        facts={"entrypoints": {"tvm_module_main": "run", "main": "__tvm_main__"}, "io": _NAMED_IO},
    ),
    "2022-05-09 #11044": Change(
        content=_form("2022-05-09", "aot-packed", has_system_lib=True),
        facts={
            "entrypoints": {"tvm_module_main": "run", "main": "__tvm_main__", "get_c_metadata": "get_c_metadata"},
            "io": _NAMED_IO, "constants": 32, "registry": True,
        },
    ),
    "2022-05-09 #11044 graph": Change(
        content=_form("2022-05-09", "graph"),
        facts={"entrypoints": {"get_c_metadata": "get_c_metadata"}, "io": _NAMED_IO, "constants": 32},
    ),
    "2022-05-20 #11365 before": Change(content=_form("2022-05-09", "graph"), facts={"registry": True, "findings": []}),
    "2022-05-20 #11365": Change(content=_form("2022-05-20", "graph"), facts={"registry": True, "findings": []}),
    "2022-05-30 #11410 before": Change(
        content=edited(_form("0.9.dev-v5", memory="external", devices=("ethos_u",)), _HEADER, (_DECLARED[1:], _SWAPPED[1:])),
        facts={"devices": ("ethos_u",), "pools": [("sram", "workspace", False)], "io": _NAMED_IO, "findings": []},
    ),
    "2022-06-23 #10189": Change(
        content=_form("0.9.0", memory="constant"),
        facts={"pools": [_PLANNED, ("flash", "constant", False)], "constants": 0, "io": _NAMED_IO},
    ),
    "2022-06-28 #11015": Change(
        content=_form("0.9.0", memory="internal"), facts={"pools": [_PLANNED, _POOLED], "constants": 32, "io": _NAMED_IO}
    ),
    "2022-09-30 #12509": Change(
        content=with_main(_form("0.10.0"), device=14), facts={"io": _NAMED_IO, "findings": []}
    ),
    "2022-12-07 #12789": Change(
        content=_form("0.11.1"), facts={"io": _NAMED_IO, "findings": ["macro-size", "macro-size", "tensor-names", "macro-size", "macro-size"]}
    ),
    "2022-12-07 #13522": Change(
        content=_form("0.12.0", release={"declares": True}), facts={"io": _NAMED_IO, "workspace": WORKSPACE_BYTES}
    ),
    "2023-01-09 #13655": Change(content=_form("0.12.0"), facts={"io": _NAMED_IO, "findings": []}),
    "2023-01-18 #13795 before": Change(
        content=_form("0.10.0", "operator", parts=("pick",)), facts={"buffers": ["var_p0", "var_T_pick"]}
    ),
    "2023-01-18 #13795": Change(
        content=_form("0.12.0", "operator", parts=("pick",)), facts={"buffers": [None, None], "findings": []}
    ),
    "2023-01-26 #13807 before": Change(
        content=_form("0.9.0", "graph"), facts={"entrypoints": {"get_c_metadata": "get_c_metadata"}}
    ),
    "2023-01-26 #13807": Change(
        content=_form("0.12.0", "aot-unpacked", has_system_lib=True),
        facts={
            "registry": True, "io": _NAMED_IO,
            "entrypoints": {"tvm_module_main": "run", "main": "__tvm_main__", "get_c_metadata": "get_c_metadata"},
        },
    ),
    "2023-03-02 #14107": Change(
        content=_form("0.12.0", memory="internal"), facts={"pools": [_PLANNED, _POOLED], "workspace": WORKSPACE_BYTES}
    ),
    "2023-10-18 #15835": Change(content=_form("0.16.0"), facts={"io": _NAMED_IO, "workspace": WORKSPACE_BYTES}),
    "2024-05-23 #16999": Change(
        content=_form("0.17.0", memory="internal"), facts={"pools": [_PLANNED, _POOLED], "constants": 32, "io": _NAMED_IO}
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_without_a_version_is_recognised(tmp_path: Path, change: str) -> None:
    found = told(read(tmp_path, CHANGES[change].content), CHANGES[change].content)

    assert {key: found[key] for key in CHANGES[change].facts} == CHANGES[change].facts


@pytest.mark.parametrize(
    ("date", "wanted"),
    [
        pytest.param("0.8.0", {}, id="2022-01-31 #10095 before"),
        pytest.param("0.9.dev-v5", {"runtime": ["runtime/Makefile", "runtime/src/runtime/crt/crt_config.h"]}, id="2022-01-31 #10095"),
        pytest.param(
            "0.12.0",
            {
                "runtime": ["runtime/CMakeLists.txt", "runtime/src/runtime/crt/crt_config.h"],
                "template": ["templates/crt_config.h.template", "templates/platform.c.template"],
            },
            id="2023-02-13 #13885, 2023-02-22 #14025",
        ),
    ],
)  # fmt: skip
def test_a_runtime_in_the_archive_belongs_to_no_module_and_stays(
    tmp_path: Path, date: str, wanted: Mapping[str, list[str]]
) -> None:
    source = written(tmp_path, _form(date))
    convert(source, to=8, output=tmp_path / "new.tar")
    document = metadata(tmp_path / "new.tar")

    found: dict[str, list[str]] = {}
    for item in document["members"]:
        if item["module"] is None:
            found.setdefault(item["role"], []).append(item["path"])
    assert found == wanted
    dependencies = document["modules"]["default"].get("external_dependencies", [])
    assert [item["url"] for item in dependencies] == (["./runtime"] if wanted else [])


# Traps.


def test_garbage_in_size_macros_is_a_warning_and_no_size_in_version_8(tmp_path: Path) -> None:
    held = _form("0.11.1", outputs=GENERIC)
    convert(written(tmp_path, held), to=8, output=tmp_path / "new.tar")
    (module,) = metadata(tmp_path / "new.tar")["modules"].values()

    assert codes(tmp_path, held) == ["warning[macro-size]"] * 4
    assert [item["size_bytes"] for item in (*module["inputs"], *module["outputs"])] == [32, 8, 16, 32]


@pytest.mark.parametrize("style", ["graph", "aot-packed", "aot-unpacked", "aot-c"])
def test_order_is_that_of_the_call_where_metadata_sorts(tmp_path: Path, style: str) -> None:
    held = _form("0.17.0", style)
    main = json.loads(held[METADATA_NAME])["modules"]["default"]["memory"]["functions"]["main"][0]
    module = read(tmp_path, held)

    assert (list(main["inputs"]), list(main["outputs"])) == (["alpha-b", "zeta:0"], ["hidden", "scores"])
    assert sizes(module.inputs) + sizes(module.outputs) == _NAMED_IO[0] + _NAMED_IO[1]


@pytest.mark.parametrize("date", ["0.8.0", "0.17.0"])
def test_a_registry_beside_the_c_interface_is_a_warning_and_the_model_links_and_runs(tmp_path: Path, date: str) -> None:
    form = network(date, "aot-c", has_system_lib=True)
    source, output, compiler = written(tmp_path, members(form)), tmp_path / "models.a", compiler_for("host")

    assert codes(tmp_path, members(form)) == ["warning[registry-conflict]"]
    link(plan_link([LinkRequest(path=source, name="kws")], output=output, compiler=compiler))
    inputs = random_inputs(form, seed=3)
    results = run_model(open_library(library.document_path(output), None), inputs, compiler=compiler).outputs
    assert {name: array.ravel().tolist() for name, array in results.items()} == {
        name: array.ravel().tolist() for name, array in expected(inputs, form).items()
    }


def test_names_without_a_model_in_front_are_a_warning_where_two_modules_have_them(tmp_path: Path) -> None:
    forms = [network("0.17.0", "graph", model=name) for name in ("one", "two")]
    verdict = validate(written(tmp_path, members(*forms)))

    assert [(item.severity, item.code, item.got) for item in verdict.findings] == [
        ("warning", "symbol-clash", "modules one and two both define `TVMSystemLibEntryPoint`")
    ]


@pytest.mark.parametrize("date", ["2021-03-10", "2021-05-07"])
def test_the_context_of_the_oldest_code_is_no_function(tmp_path: Path, date: str) -> None:
    held = _form(date, "graph")

    assert b"void* __tvm_module_ctx = NULL;" in held["codegen/host/src/lib1.c"]
    assert read(tmp_path, held).defined == {"TVMSystemLibEntryPoint", "fused_add", "fused_mix", "fused_pick"}


def test_alignment_of_pools_is_that_of_the_code(tmp_path: Path) -> None:
    held = edited(_form("0.12.0", memory="internal"), _WRAPPER, ('(".bss.noinit.tvm"), aligned(16)', '(".bss.noinit.tvm"), aligned(64)'))  # fmt: skip
    convert(written(tmp_path, held), to=8, output=tmp_path / "new.tar")
    (module,) = metadata(tmp_path / "new.tar")["modules"].values()

    assert [(pool["name"], pool["alignment_bytes"]) for pool in module["pools"]] == [
        ("global_workspace", 64), ("global_const_workspace", 16),
    ]  # fmt: skip


def test_each_module_keeps_the_version_of_its_runtime(tmp_path: Path) -> None:
    held = members(*(network("0.12.0", "aot-c", model=name) for name in ("one", "two")))
    document = json.loads(held[METADATA_NAME])
    document["modules"]["two"]["external_dependencies"][0]["version_spec"] = "0.12.dev387"
    source = written(tmp_path, held | {METADATA_NAME: json.dumps(document).encode()})
    convert(source, to=8, output=tmp_path / "new.tar")
    convert(tmp_path / "new.tar", to=7, module="two", output=tmp_path / "two.tar")

    specs = {name: module["external_dependencies"][0]["version_spec"] for name, module in metadata(tmp_path / "new.tar")["modules"].items()}  # fmt: skip
    assert specs == {"one": "0.9.dev0", "two": "0.12.dev387"}
    assert "runtime/CMakeLists.txt" in contents(tmp_path / "two.tar")


def test_a_capital_in_a_models_name_is_a_warning_and_the_model_links(tmp_path: Path) -> None:
    form = network("0.17.0", "aot-c", model="Foo")
    source, output = written(tmp_path, members(form)), tmp_path / "models.a"

    assert codes(tmp_path, members(form)) == ["warning[model-name]"]
    link(plan_link([LinkRequest(path=source, name="foo")], output=output, compiler=compiler_for("host")))
    assert output.is_file()


def test_two_models_whose_macros_are_one_are_an_error(tmp_path: Path) -> None:
    forms = [network("0.17.0", "aot-c", model="a", inputs=("b_workspace", "alpha-b")), network("0.17.0", "aot-c", model="a_b")]  # fmt: skip

    assert "error[name-clash]" in codes(tmp_path, members(*forms))


def test_a_converted_archive_has_neither_dates_nor_owners(tmp_path: Path) -> None:
    convert(written(tmp_path, _form("2021-06-28", "graph")), to=3, output=tmp_path / "three.tar")
    with tarfile.open(tmp_path / "three.tar") as archive:
        entries = archive.getmembers()

    assert {(item.mtime, item.uid, item.gid, item.uname) for item in entries} == {(0, 0, 0, "")}
    assert {item.name.split("/")[0] for item in entries} == {"."}


def test_targets_of_one_device_stay_apart(tmp_path: Path) -> None:
    held = _form("0.9.dev-v6")
    document = json.loads(held[METADATA_NAME])
    document["target"] = ["c -keys=cpu ", "ethos-u -keys=ethos-u", "cmsis-nn -keys=cmsis-nn"]
    source = written(tmp_path, held | {METADATA_NAME: json.dumps(document).encode()})
    convert(source, to=8, output=tmp_path / "new.tar")

    (module,) = read_contents(tmp_path / "new.tar").modules
    assert module.metadata.targets == tuple(document["target"])


@pytest.mark.parametrize("style", ["graph", "aot-packed", "aot-c"])
def test_files_are_known_by_what_they_hold_not_by_their_number(tmp_path: Path, style: str) -> None:
    held = _form("0.17.0", style)
    plain = read(tmp_path, held)
    sources = [name for name in held if name.startswith("codegen/host/src/")]
    turned = {name.replace("lib", "lib1"): held[other] for name, other in zip(sources, sources[::-1], strict=True)}
    module = read(tmp_path, {name: data for name, data in held.items() if name not in sources} | turned)

    assert told(module, held) == told(plain, held)


@pytest.mark.parametrize("date", [date for date in FORMS if "aot-packed" in FORMS[date]])
def test_without_headers_and_configuration_code_is_still_ahead_of_time(tmp_path: Path, date: str) -> None:
    held = _form(date, "aot-packed")
    module = read(tmp_path, held)

    assert not [name for name in held if "/include/tvmgen" in name or name.startswith(("executor-config", "runtime-config"))]  # fmt: skip
    assert (module.executors, module.header, module.graph) == (("aot",), None, None)


@pytest.mark.parametrize("date", ["2021-03-10", "2021-07-02", "0.8.0", "0.17.0"])
def test_a_graph_needs_its_json_and_its_weights(tmp_path: Path, date: str) -> None:
    held = _form(date, "graph")
    config = next(name for name in held if "-config/graph/" in name)
    without_graph = {name: data for name, data in held.items() if name != config}
    without_weights = {name: data for name, data in held.items() if not name.endswith(".params")}

    assert "error[graph-missing]" in codes(tmp_path, without_graph)
    assert "warning[parameters-missing]" in codes(tmp_path, without_weights)


def test_storage_is_the_graphs_where_metadata_looked_it_up_in_the_wrong_place(tmp_path: Path) -> None:
    form = network("0.8.0", "graph")
    document = graph(form)
    document["attrs"]["storage_id"][1] = [3, 0, 5, 4, 1, 5]  # numbers that are not those of tensors
    document["attrs"]["shape"][1][2] = [1, 800]
    held = members(form) | {"executor-config/graph/graph.json": json.dumps(document).encode()}

    module = read(tmp_path, held)
    assert module.graph is not None
    assert module.graph.storage_bytes == 3200 + 32


@pytest.mark.parametrize("date", ["2021-05-05", "2021-06-28", "0.8.0"])
def test_weights_that_relay_lists_are_not_taken_for_inputs(tmp_path: Path, date: str) -> None:
    module = read(tmp_path, network(date, "aot-packed", has_relay_weights=True))

    assert sizes(module.inputs) == [("input0", None, None), ("input1", None, None)]
    assert sizes(module.outputs) == _GENERIC_IO[1]


def test_a_descriptor_of_more_tensors_than_there_can_be_is_none(tmp_path: Path) -> None:
    count = ".num_output_tensors = "
    held = edited(_form("2021-06-28", "aot-packed"), _WRAPPER, (f"{count}2", f"{count}999999999"))
    module = read(tmp_path, held)

    assert module.entrypoints == {"tvm_module_main": _RUN_MODEL, "main": _RUN_MODEL}
    assert sizes(module.outputs) == _GENERIC_IO[1]


def test_a_fork_that_had_styles_before_version_4_is_read(tmp_path: Path) -> None:
    held = _form("2021-06-04", "graph")
    document = {**json.loads(held[METADATA_NAME]), "style": "full-model"}
    held["src/relay.txt"] = held.pop("relay.txt")
    held[METADATA_NAME] = json.dumps(document).encode()

    assert sizes(read(tmp_path, held).inputs) == _INPUTS
    assert codes(tmp_path, held) == []


# Archives of a real compiler.


@pytest.mark.parametrize("case", ["conv-packed", "dense-packed", "dense-unpacked-packed"])
def test_real_code_without_a_header_tells_its_outputs(real_archives: Path, case: str) -> None:
    (module,) = read_contents(real_archives / f"tvm08-{case}.tar").modules
    arrays = [load_arrays(real_archives / f"tvm08-{case}.{kind}.npz") for kind in ("inputs", "outputs")]

    assert sizes(module.inputs) == [(name, str(array.dtype), array.nbytes) for name, array in arrays[0].items()]
    assert sizes(module.outputs) == [(name, str(array.dtype), array.nbytes) for name, array in arrays[1].items()]


def test_real_operators_tell_what_they_allocate(real_archives: Path) -> None:
    names = ("tvm08-operator-several", "tvm09-operator-several", "operator-several")
    needs = {name: read_contents(real_archives / f"{name}.tar").modules[0].allocator_bytes for name in names}

    assert needs == dict.fromkeys(names, 2048)


def test_descriptions_of_tensors_are_no_constants_of_real_models(real_archives: Path) -> None:
    (module,) = read_contents(real_archives / "tvm09-dense-packed.tar").modules

    assert module.constants_bytes == 128


def test_the_table_of_forms_names_every_version() -> None:
    assert {DATED[date].version for date in FORMS} == set(range(1, 8))
