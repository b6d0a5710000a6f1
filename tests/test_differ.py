from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import re
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import archives
import numpy as np
import pytest
import zstandard
from archives import LATEST, RELEASES, Network, write
from jsonschema import Draft202012Validator

from mlf.archive import METADATA_NAME
from mlf.arrays import npz_bytes
from mlf.converter import convert
from mlf.differ import KINDS, Change, Difference, diff
from mlf.errors import MlfError, ObjectError
from mlf.manifest import describe_member, render_version_8
from mlf.metadata import identity_of
from mlf.pack import member_of_bytes
from mlf.params import param_from_array, render_params
from mlf.report import diff_document, diff_text, render_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

ROOT = Path(__file__).parent.parent
SAMPLES = sorted((ROOT / "samples").glob("*.tar"))
OPERATORS = "codegen/host/src/default_lib1.c"
EVERY_STYLE = ("conv-", "dense-graph", "dense-llvm", "offload-", "operator-", "two-")
WRAPPER = "codegen/host/src/default_lib0.c"
HEADER = "codegen/host/include/tvmgen_default.h"
RELAY = "src/default.relay"
FIRST_WEIGHT = float(archives.WEIGHTS[0]).hex()
WEIGHTS_DIGEST = hashlib.sha256(archives.WEIGHTS.tobytes()).hexdigest()[:8]
Members = dict[str, bytes]


def members(**options: Any) -> Members:
    return archives.members(Network(**options))


def compare(folder: Path, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> Difference:
    return diff(write(folder / "before.tar", before), write(folder / "after.tar", after))


def edited(content: Members, name: str, old: str, new: str) -> Members:
    """The same archive with a text replaced wherever it stands in a member, which must hold it."""
    text = content[name].decode()
    assert old in text
    return {**content, name: text.replace(old, new).encode()}


def rows(difference: Difference) -> list[tuple[str, str, str | None, str | None]]:
    return [(item.kind, item.place, item.before, item.after) for item in difference.changes]


def unpacked(path: Path) -> Members:
    with tarfile.open(path) as archive:
        return {
            entry.name.removeprefix("./"): file.read()
            for entry in archive.getmembers()
            if (file := archive.extractfile(entry))
        }


def repacked(content: Mapping[str, bytes]) -> bytes:
    """A tar of the same members in another order, of other dates, owners and modes, with other spellings of names."""
    names = sorted(content)
    random.Random(7).shuffle(names)  # noqa: S311  # no secret
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.uname, entry.mode = len(content[name]), 1_600_000_000, "someone", 0o600
            archive.addfile(entry, io.BytesIO(content[name]))
    return buffer.getvalue()


def version_8(folder: Path, content: Members, tests: Mapping[str, Any], **facts: Any) -> Path:
    """The archive as version 8, with golden tests and other facts of that version in its metadata."""
    convert(write(folder / "old.tar", content), to=8, output=folder / "new.tar")
    found = unpacked(folder / "new.tar")
    document = json.loads(found.pop(METADATA_NAME))
    module = document["modules"]["default"]
    inputs = [{**tensor, **facts.get(tensor["name"], {})} for tensor in module["inputs"]]
    files = {f"tests/{name}.npz": npz_bytes(arrays) for name, arrays in tests.items()}
    if tests:
        module["tests"] = [
            {"name": "golden", "inputs": "tests/in.npz", "outputs": "tests/out.npz", "rtol": 0.01, "atol": 0}
        ]
    members = [member_of_bytes(name, data) for name, data in (found | files).items()]
    roles = {item["path"]: item for item in document["members"]}
    described = [
        describe_member(
            member, role=roles.get(member.name, {"role": "test"})["role"], module=roles.get(member.name, {"module": "default"})["module"]
        )
        for member in members
    ]  # fmt: skip
    text = render_version_8({"default": {**module, "inputs": inputs}}, described)
    assert json.loads(text)["identity"] == identity_of(json.loads(text))
    return write(folder / f"{len(list(folder.iterdir()))}.tar", {METADATA_NAME: text, **found, **files})


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_archive_is_the_same_as_itself_however_it_is_packed(tmp_path: Path, path: Path) -> None:
    content = unpacked(path)
    packed = repacked(content)
    forms = {"a.tar": packed, "a.tar.gz": gzip.compress(packed), "a.tar.zst": zstandard.compress(packed)}
    for name, data in forms.items():
        (tmp_path / name).write_bytes(data)
    write(tmp_path / "directory", content)

    for name in (*forms, "directory"):
        assert diff(path, tmp_path / name) == Difference(before=path.name, after=name, changes=(), unknown=())


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_conversion_to_version_8_changes_the_version_alone(tmp_path: Path, path: Path) -> None:
    convert(path, to=8, output=tmp_path / "new.tar")

    found = diff(path, tmp_path / "new.tar")

    version = Change(module=None, kind="format-version", place="metadata.json", before="7", after="8")
    assert (found.changes, found.unknown) == ((version,), ())


def test_real_archives_are_the_same_as_themselves_and_as_their_conversions(real_archives: Path, tmp_path: Path) -> None:
    paths = [path for path in sorted(real_archives.glob("*.tar")) if path.name.startswith(EVERY_STYLE)]
    for path in paths:
        (tmp_path / "packed.tar.gz").write_bytes(gzip.compress(repacked(unpacked(path))))
        convert(path, to=8, output=tmp_path / "new.tar")

        again, converted = diff(path, tmp_path / "packed.tar.gz"), diff(path, tmp_path / "new.tar")

        assert (again.changes, again.unknown) == ((), ())
        assert {item.kind for item in converted.changes} <= {"format-version"}
        assert converted.unknown == ()


@pytest.mark.parametrize("to", [1, 2, 3, 4, 5, 6])
def test_old_versions_say_less_but_nothing_else(tmp_path: Path, to: int) -> None:
    before = write(tmp_path / "before.tar", members())
    convert(before, to=to, output=tmp_path / "after.tar")

    assert [item.kind for item in diff(before, tmp_path / "after.tar").changes] == ["format-version"]


@pytest.mark.parametrize(
    ("after", "style"), [("conv-usmp", "internal"), ("conv-cpool", "internal"), ("conv-pools", "external")]
)
def test_planned_memory_of_a_real_model_changes_operators_but_no_weights(
    real_archives: Path, after: str, style: str
) -> None:
    found = diff(real_archives / "conv-alloc.tar", real_archives / f"{after}.tar")

    kinds = {item.kind for item in found.changes}
    assert kinds == {"pool", "workspace", "operator-changed"}
    assert ("workspace", "workspace", "style allocator", f"style {style}") in rows(found)


def test_twin_of_a_real_model_has_other_tensors_weights_and_operators(real_archives: Path) -> None:
    found = diff(real_archives / "conv-usmp.tar", real_archives / "twin-usmp.tar")

    assert rows(found)[:2] == [
        ("input", "alpha_b", "shape 1x4x14x14", "shape 1x8x8x8"),
        ("input", "alpha_b", "size 3136 bytes", "size 2048 bytes"),
    ]
    removed = [item.place for item in found.changes if item.kind == "operator-removed"]
    assert removed == ["fused_layout_transform_3"]
    assert [item.place for item in found.changes if item.kind.startswith("weights-")] == [
        "fused_constant",
        "fused_constant_1",
    ]


def test_weights_of_a_real_graph_are_the_same_in_the_code_and_in_a_file(real_archives: Path) -> None:
    found = diff(real_archives / "dense-graph.tar", real_archives / "dense-graph-linked.tar")

    assert {item.kind for item in found.changes} == {"operator-changed", "graph-changed"}


def test_objects_hide_what_code_tells(real_archives: Path) -> None:
    found = diff(real_archives / "dense-usmp.tar", real_archives / "dense-llvm-usmp.tar")

    changed = {(item.kind, item.place) for item in found.changes}
    assert changed.isdisjoint({("workspace", "workspace"), ("constants", "constants"), ("operator-added", "fused_add")})
    assert {item.kind for item in found.unknown} == {"pool", "workspace", "constants", "weights-removed"}
    assert ("operator-removed", "run", "defined", None) in rows(found)


def test_objects_of_another_machine_are_told_by_section(real_archives: Path) -> None:
    found = diff(real_archives / "dense-llvm-host.tar", real_archives / "dense-llvm-cortex-m4.tar")

    assert ("machine", "objects", "machine x86-64", "machine ARM") in rows(found)
    assert ("machine", "objects", "class 64-bit", "class 32-bit") in rows(found)
    places = [item.place for item in found.changes if item.kind == "object-changed"]
    assert [place for place in places if place.startswith("lib1.o")] == [
        "lib1.o .rodata.cst16",
        "lib1.o .text",
        "lib1.o .text.tvm.fp16.conv",
    ]
    assert [(item.before, item.after) for item in found.unknown] == [
        ("abi unknown", "abi eabi5"),
        ("floats unknown", "floats hard"),
    ]


def test_debug_information_of_an_object_is_no_change(real_archives: Path, tmp_path: Path) -> None:
    before = unpacked(real_archives / "dense-llvm-host.tar")
    name = "codegen/host/lib/default_lib1.o"
    data = before[name]
    at = data.index(b"TVM\0") if b"TVM\0" in data else data.index(b"main.tir")
    after = {**before, name: data[:at] + b"X" + data[at + 1 :]}

    assert compare(tmp_path, before, after).is_same


def test_relocation_to_another_symbol_is_a_change_of_its_section(real_archives: Path, tmp_path: Path) -> None:
    before = unpacked(real_archives / "dense-llvm-host.tar")
    name = "codegen/host/lib/default_lib1.o"
    after = {**before, name: before[name].replace(b"\0TVMAPISetLastError\0", b"\0TVMAPISetLastWords\0")}

    found = compare(tmp_path, before, after)

    assert [(item.kind, item.place) for item in found.changes] == [("object-changed", "lib1.o .text")]


@pytest.mark.parametrize("memory", ["alloc", "internal", "constant"])
def test_one_changed_weight_is_the_only_change(tmp_path: Path, memory: str) -> None:
    before = members(memory=memory)
    name, old, new = {
        "alloc": (OPERATORS, FIRST_WEIGHT, "0x1p+3"),
        "internal": (WRAPPER, FIRST_WEIGHT, "0x1p+3"),
        "constant": (HEADER, "0x80, 0xbf", "0x80, 0x3f"),
    }[memory]
    kind = "" if memory == "constant" else "float32 "

    found = compare(tmp_path, before, {**before, name: before[name].replace(old.encode(), new.encode(), 1)})

    (change,) = found.changes
    assert (change.module, change.kind, change.place) == ("default", "weights-changed", "fused_constant")
    assert change.before == f"{kind}32 bytes sha256 {WEIGHTS_DIGEST}"
    assert change.after is not None
    assert change.after != change.before
    assert re.fullmatch(rf"{kind}32 bytes sha256 [0-9a-f]{{8}}", change.after)


def test_literals_of_one_value_are_one_weight(tmp_path: Path) -> None:
    before = members()

    assert compare(tmp_path, before, edited(before, OPERATORS, FIRST_WEIGHT, "-1.0f")).is_same


def test_renumbered_constant_is_no_change(tmp_path: Path) -> None:
    before = members()

    assert compare(tmp_path, before, edited(before, OPERATORS, "fused_constant", "fused_constant_7")).is_same


def test_swapped_constants_change_the_operators_that_use_them(tmp_path: Path) -> None:
    content = edited(
        members(), OPERATORS, "static const float", "static const float other[8] = {1.0f};\nstatic const float"
    )
    before = edited(content, OPERATORS, "2.000000e+00f", "((float*)other)[0]")
    swapped = re.sub(
        r"(fused_constant|other)\[8\]",
        lambda found: f"{'other' if found[1] == 'fused_constant' else 'fused_constant'}[8]",
        before[OPERATORS].decode(),
    )

    found = compare(tmp_path, before, {**before, OPERATORS: swapped.encode()})

    assert [(item.kind, item.place) for item in found.changes] == [
        ("operator-changed", "fused_add"),
        ("operator-changed", "fused_mix"),
    ]


def test_added_constant_is_told_with_its_size(tmp_path: Path) -> None:
    before = members()

    found = compare(
        tmp_path, before, {**before, OPERATORS: before[OPERATORS] + b"static const int8_t lut[3] = {1, 2, 3};\n"}
    )

    assert rows(found) == [
        ("constants", "constants", "size 32 bytes", "size 35 bytes"),
        ("weights-added", "lut", None, "int8 3 bytes sha256 039058c6"),
    ]


def test_parameters_are_compared_by_name_type_and_shape(tmp_path: Path) -> None:
    one, two = np.arange(4, dtype=np.float32), np.arange(6, dtype=np.int8)
    arrays: tuple[dict[str, npt.NDArray[Any]], ...] = (
        {"p0": one, "p1": two, "gone": one + 9},
        {"p1": two.reshape(2, 3), "p0": one * 2, "q": one + 9, "new": two[:1]},
    )
    name = "parameters/default.params"
    sides = [
        {**members(), name: render_params([param_from_array(key, array) for key, array in side.items()])}
        for side in arrays
    ]

    found = [row for row in rows(compare(tmp_path, *sides)) if row[0].startswith("weights")]

    assert [(kind, place) for kind, place, _, _ in found] == [
        ("weights-added", "new"),
        ("weights-changed", "p0"),
        ("weights-changed", "p1"),
        ("weights-renamed", "gone"),
    ]
    assert found[0][3] == "int8 1 1 bytes sha256 6e340b9c"
    assert found[2][2:] == ("int8 6 6 bytes sha256 17e88db1", "int8 2x3 6 bytes sha256 17e88db1")
    assert found[3][2:] == ("name gone", "name q")


def test_comments_white_space_and_linkage_are_no_change(tmp_path: Path) -> None:
    before = members()
    code = (
        before[OPERATORS].decode().replace("return 0;", "return /* so */\n\t0 ; // done").replace(archives.EXTERN_C, "")
    )

    after = {
        **before,
        OPERATORS: f"/* new */\n{code}".encode(),
        RELAY: before[RELAY].replace(b" = ", b"  =  /* span */ "),
    }

    assert compare(tmp_path, before, after).is_same


def test_order_of_functions_is_no_change(tmp_path: Path) -> None:
    before = members()
    head, *functions = before[OPERATORS].decode().split(archives.EXTERN_C + "TVM_DLL int32_t tvmgen_default_fused_")
    main = functions[-1].index(archives.EXTERN_C)
    functions[-1], rest = functions[-1][:main], functions[-1][main:]
    marked = "".join(f"{archives.EXTERN_C}TVM_DLL int32_t tvmgen_default_fused_{item}" for item in reversed(functions))

    assert compare(tmp_path, before, {**before, OPERATORS: (head + marked + rest).encode()}).is_same


def test_changed_operator_is_the_only_change(tmp_path: Path) -> None:
    before = members(release=RELEASES["0.12.0"])

    found = compare(tmp_path, before, edited(before, OPERATORS, "2.000000e+00f", "3.000000e+00f"))

    (change,) = found.changes
    assert (change.kind, change.place) == ("operator-changed", "fused_mix")


def test_numbers_of_pool_variables_are_no_change(tmp_path: Path) -> None:
    before = members(memory="external")

    assert compare(tmp_path, before, edited(before, OPERATORS, "sram_3_var", "sram_11_var")).is_same


def test_added_and_removed_operators_are_told(tmp_path: Path) -> None:
    before = members()
    code = b"int32_t tvmgen_default_fused_new(float* p0) {\n  return 0;\n}\n"

    added = compare(tmp_path, before, {**before, OPERATORS: before[OPERATORS] + code})
    removed = compare(tmp_path, {**before, OPERATORS: before[OPERATORS] + code}, before)

    assert [(item.kind, item.place, item.before) for item in added.changes] == [("operator-added", "fused_new", None)]
    assert [(item.kind, item.place, item.after) for item in removed.changes] == [
        ("operator-removed", "fused_new", None)
    ]


def test_other_declarations_are_shown(tmp_path: Path) -> None:
    before = {**members(), OPERATORS: members()[OPERATORS] + b"#define GAIN 2\nstatic int32_t state;\n"}

    found = compare(tmp_path, before, edited(before, OPERATORS, "GAIN 2", "GAIN  3"))

    assert rows(found) == [("declarations-changed", "code", "`#define GAIN 2`", "`#define GAIN 3`")]


def test_header_is_compared_beyond_the_facts_in_it(tmp_path: Path) -> None:
    before = members()
    after = edited(before, HEADER, "#include <stdint.h>", "#include <stdint.h>\n#include <stdbool.h>")
    own = {**after, "codegen/host/include/more.h": b"extern int more;\n"}

    found = compare(tmp_path, before, own)

    assert rows(found) == [
        ("header-changed", "more.h", None, "1 declaration"),
        ("header-changed", "tvmgen.h", "nothing", "`#include<stdbool.h>`"),
    ]


def test_tensors_are_compared_by_name_type_shape_and_size(tmp_path: Path) -> None:
    before = members(has_result_types=True)
    changed = edited(before, RELAY, "Tensor[(2, 4), int8]", "Tensor[(8), uint8]")
    after = edited(changed, RELAY, "Tensor[(1, 4), int32]", "Tensor[(1, 8), int32]")

    found = compare(tmp_path, before, after)

    assert rows(found)[:4] == [
        ("input", "alpha_b", "dtype int8", "dtype uint8"),
        ("input", "alpha_b", "shape 2x4", "shape 8"),
        ("output", "scores", "shape 1x4", "shape 1x8"),
        ("output", "scores", "size 16 bytes", "size 32 bytes"),
    ]
    assert "  ~ output  scores   size 16 -> 32 bytes" in diff_text(found).splitlines()


def test_order_of_tensors_is_a_change(tmp_path: Path) -> None:
    before = members()
    after = edited(before, HEADER, "  void* zeta_0;\n  void* alpha_b;\n", "  void* alpha_b;\n  void* zeta_0;\n")

    found = compare(tmp_path, before, after)

    assert rows(found) == [("input-order", "inputs", "zeta_0, alpha_b", "alpha_b, zeta_0")]


def test_renamed_tensors_come_and_go(tmp_path: Path) -> None:
    found = compare(tmp_path, members(), members(outputs=("scores", "state")))

    assert [row for row in rows(found) if row[0] == "output"] == [
        ("output", "hidden", "dtype float32, size 32 bytes", None),
        ("output", "state", None, "dtype float32, size 32 bytes"),
    ]


def test_what_only_one_archive_tells_is_no_change(tmp_path: Path) -> None:
    before, after = members(), members(has_result_types=True)

    found = compare(tmp_path, before, {**after, RELAY: after[RELAY]})

    assert [item.kind for item in found.changes] == ["relay-changed"]
    assert [(item.place, item.before, item.after) for item in found.unknown] == [
        ("hidden", "shape unknown", "shape 1x8"),
        ("scores", "shape unknown", "shape 1x4"),
    ]


def test_pools_and_workspace_are_compared(tmp_path: Path) -> None:
    found = compare(tmp_path, members(), members(memory="external"))

    assert rows(found)[0] == (
        "pool",
        "sram",
        None,
        "workspace, size 1232 bytes, alignment 16 bytes, place passed by the caller",
    )
    assert ("workspace", "workspace", "style allocator", "style external") in rows(found)
    assert not any(item.kind.startswith("weights") for item in found.changes)


def test_targets_and_executors_are_compared(tmp_path: Path) -> None:
    before = members()
    after = edited(before, METADATA_NAME, '"c -keys=cpu "', '"c -keys=arm_cpu -mcpu=cortex-m4"')

    found = compare(tmp_path, before, edited(after, METADATA_NAME, '"aot"', '"aot", "graph"'))

    assert rows(found) == [
        ("executor", "executors", "aot", "aot, graph"),
        ("target", "targets", "c -keys=cpu", "c -keys=arm_cpu -mcpu=cortex-m4"),
    ]


def test_dates_are_no_change(tmp_path: Path) -> None:
    before = members()

    assert compare(tmp_path, before, edited(before, METADATA_NAME, "2024-03-28", "2021-01-01")).is_same


def test_packed_interface_is_a_change_of_the_api(tmp_path: Path) -> None:
    found = compare(tmp_path, members(), members(interface="packed"))

    assert ("api", "interface", "c", "packed") in rows(found)


def test_only_module_of_each_side_is_paired_under_another_name(tmp_path: Path) -> None:
    found = compare(tmp_path, members(memory="internal"), members(memory="internal", model="Kws"))

    assert found.changes == (
        Change(module="default", kind="module-renamed", place="name", before="default", after="Kws"),
    )


def test_modules_are_paired_by_name_first(tmp_path: Path) -> None:
    first, second, third = (Network(model=model) for model in ("a", "b", "c"))

    renamed = compare(tmp_path, archives.members(first, second), archives.members(third, second))
    removed = compare(tmp_path, archives.members(first, second, third), archives.members(second))
    added = compare(tmp_path, archives.members(second), archives.members(first, second, third))

    assert [(item.module, *row) for item, row in zip(renamed.changes, rows(renamed), strict=True)] == [
        ("a", "module-renamed", "name", "a", "c")
    ]
    assert [(item.module, *row) for item, row in zip(removed.changes, rows(removed), strict=True)] == [
        ("a", "module-removed", "module", "aot", None),
        ("c", "module-removed", "module", "aot", None),
    ]
    assert [(item.module, *row) for item, row in zip(added.changes, rows(added), strict=True)] == [
        ("a", "module-added", "module", None, "aot"),
        ("c", "module-added", "module", None, "aot"),
    ]


def test_runtime_and_template_files_are_counted(tmp_path: Path) -> None:
    before = {**members(), "runtime/a.c": b"a", "runtime/b.c": b"b", "runtime/c.c": b"c", "notes.txt": b"1"}
    after = {**members(), "runtime/a.c": b"A", "runtime/b.c": b"b", "runtime/d.c": b"d", "templates/t": b"t"}

    found = compare(tmp_path, before, after)

    assert rows(found) == [
        ("files", "other", "1 file", None),
        ("files", "runtime", "3 files", "3 files: 1 added, 1 removed, 1 changed"),
        ("files", "template", None, "1 file"),
    ]


def test_graph_is_compared_by_meaning(real_archives: Path, tmp_path: Path) -> None:
    before = unpacked(real_archives / "dense-graph.tar")
    name = "executor-config/graph/default.graph"
    graph = json.loads(before[name])
    spelled = {**before, name: json.dumps(graph, sort_keys=True).encode()}
    graph["nodes"][-1]["attrs"]["flatten_data"] = "1"

    changed = compare(tmp_path, before, {**before, name: json.dumps(graph).encode()})

    assert compare(tmp_path, before, spelled).is_same
    assert [(item.kind, item.place) for item in changed.changes] == [("graph-changed", "graph")]


def test_golden_tests_are_compared_by_array(tmp_path: Path) -> None:
    zeta, alpha = np.ones((1, 8), np.float32), np.zeros((2, 4), np.int8)
    tests = {"in": {"zeta:0": zeta, "alpha-b": alpha}, "out": {"scores": alpha}}
    before = version_8(tmp_path, members(), tests)
    after = version_8(tmp_path, members(), {**tests, "in": {"zeta:0": zeta * 2, "alpha-b": alpha.astype(np.int16)}})

    found = diff(before, after)

    assert diff(before, before).is_same
    assert [(item.kind, item.place) for item in found.changes] == [
        ("test-changed", "golden"),
        ("test-changed", "golden"),
    ]
    assert [re.sub(r"[0-9a-f]{8}\Z", "", item.after or "") for item in found.changes] == [
        "inputs.alpha-b int16 2x4 sha256 ",
        "inputs.zeta:0 float32 1x8 sha256 ",
    ]


def test_tests_and_quantization_that_an_old_version_cannot_hold_are_no_change(tmp_path: Path) -> None:
    tests = {"in": {"x": np.ones(1)}, "out": {"y": np.ones(1)}}
    scale = {"quantization": {"scale": 0.5, "zero_point": 3}}
    new = version_8(tmp_path, members(), tests, **{"alpha-b": scale})

    found = diff(tmp_path / "old.tar", new)

    assert [item.kind for item in found.changes] == ["format-version"]
    assert [(item.kind, item.place, item.before) for item in found.unknown] == [
        ("input", "alpha_b", "quantization unknown"),
        ("test-added", "golden", "unknown"),
    ]


def test_other_quantization_is_a_change(tmp_path: Path) -> None:
    sides = [
        version_8(tmp_path, members(), {}, **{"alpha-b": {"quantization": {"scale": scale, "zero_point": 3}}})
        for scale in (0.5, 0.25)
    ]

    assert rows(diff(*sides)) == [
        ("input", "alpha_b", "quantization scale 0.5 zero point 3", "quantization scale 0.25 zero point 3")
    ]


def test_buffers_of_operators_are_compared(real_archives: Path) -> None:
    found = diff(real_archives / "operator-add.tar", real_archives / "operator-several.tar")

    assert ("module-renamed", "name", "add", "several") in rows(found)
    assert ("buffer", "add[0]", "dtype int8, shape 16, size 16 bytes", None) in rows(found)


def test_many_functions_are_compared_one_by_one(tmp_path: Path) -> None:
    def code(number: int) -> bytes:
        text = "int32_t tvmgen_default_op_{0}(float* p0) {{\n  p0[{0}] = {1};\n}}\n"
        return "".join(text.format(index, index * number) for index in range(3000)).encode()

    content = members()
    sides = [{**content, OPERATORS: content[OPERATORS] + code(number)} for number in (1, 2)]

    assert len(compare(tmp_path, *sides).changes) == 2999


@pytest.mark.parametrize(
    "junk",
    [
        "{}",
        "a{}",
        "{",
        "}",
        "f(",
        "f(){}",
        "\\'",
        '"\\',
        "/*",
        "#",
        'extern "C" {\n',
        "_1_var",
        " a",
        "__attribute__((",
    ],
)
def test_hostile_code_is_compared_like_any_other(tmp_path: Path, junk: str) -> None:
    before = members()

    found = compare(tmp_path, before, {**before, OPERATORS: before[OPERATORS] + (junk * 20_000).encode()})

    assert len(found.changes) <= 3


def test_damaged_members_are_errors_of_mlf_alone(real_archives: Path, tmp_path: Path) -> None:
    generator = random.Random(11)  # noqa: S311  # no secret
    names = ("dense-llvm-cortex-m4", "dense-graph-params", "conv-cpool", "operator-llvm-host")
    contents = [unpacked(real_archives / f"{name}.tar") for name in names]
    outcomes = set()
    for _ in range(120):
        before = generator.choice(contents)
        name = generator.choice([name for name in before if not name.startswith(("runtime", "templates"))])
        data = bytearray(before[name])
        for _ in range(3):
            data[generator.randrange(len(data))] = generator.randrange(256)
        try:
            compare(tmp_path, before, {**before, name: bytes(data)})
            outcomes.add("compared")
        except MlfError:
            outcomes.add("refused")

    assert outcomes == {"compared", "refused"}


def test_sections_that_overlap_are_refused(real_archives: Path, tmp_path: Path) -> None:
    before = unpacked(real_archives / "dense-llvm-host.tar")
    name = "codegen/host/lib/default_lib1.o"
    data = bytearray(before[name])
    table = int.from_bytes(data[0x28:0x30], "little")
    for index in range(1, 7):  # offset and size of sections that are not read as tables
        at = table + 64 * index
        if int.from_bytes(data[at + 4 : at + 8], "little") == 1:
            data[at + 24 : at + 40] = (0).to_bytes(8, "little") + len(data).to_bytes(8, "little")

    with pytest.raises(ObjectError) as caught:
        compare(tmp_path, before, {**before, name: bytes(data)})

    assert str(caught.value) == f"after.tar: {name}: the object file is damaged: its sections overlap"


def test_text_groups_by_module_and_aligns(tmp_path: Path) -> None:
    before = members()
    after = edited(before, OPERATORS, FIRST_WEIGHT, "0x1p+3") | {"runtime/new.c": b""}

    found = compare(tmp_path, before, edited(after, METADATA_NAME, '"aot"', '"graph"'))

    digest = (found.changes[-1].after or "").rsplit(" ", 1)[1]
    assert diff_text(found) == "\n".join(
        [
            "before.tar -> after.tar: 3 changes",
            "",
            "archive",
            "  + files  runtime  1 file",
            "",
            "module default",
            "  ~ executor  executors       aot -> graph",
            f"  ~ weights   fused_constant  float32 32 bytes sha256 {WEIGHTS_DIGEST} -> {digest}",
        ]
    )


def test_text_of_no_difference_is_one_line(tmp_path: Path) -> None:
    assert diff_text(compare(tmp_path, members(), members())) == "before.tar and after.tar: no difference"


def test_text_shows_what_is_unknown_and_no_control_characters() -> None:
    change = Change(module="m\x1b", kind="input", place="x\ny", before="dtype unknown", after="dtype int8")
    found = Difference(before="a", after="b", changes=(), unknown=(change,))

    assert diff_text(found) == "a and b: no difference\n\nmodule m\\x1b\n  ? input  x\\ny  dtype unknown -> int8"


def test_document_fits_its_schema_and_has_no_other_keys(tmp_path: Path) -> None:
    schema = json.loads((ROOT / "schemas" / "diff-v1.schema.json").read_text())
    found = compare(tmp_path, members(), members(memory="external", has_result_types=True))

    document = diff_document(found)

    Draft202012Validator(schema).validate(json.loads(render_json(document)))
    assert (document["schema"], document["same"]) == ("mlf-diff-v1", False)
    assert document["unknown"]
    change = schema["$defs"]["change"]["properties"]
    assert set(document) == set(schema["properties"])
    assert all(set(item) == set(change) for item in (*document["changes"], *document["unknown"]))
    assert change["kind"]["examples"] == list(KINDS)


def test_result_is_the_same_every_time(tmp_path: Path) -> None:
    first, second = members(), members(memory="internal", release=replace(LATEST, has_const_pool="static"))

    documents = {render_json(diff_document(compare(tmp_path, first, second))) for _ in range(3)}

    assert len(documents) == 1


def test_other_direction_tells_the_same_changes(tmp_path: Path) -> None:
    first, second = members(), members(memory="constant", outputs=("a", "b"))

    forward, backward = compare(tmp_path, first, second), compare(tmp_path, second, first)

    assert sorted((item.place, str(item.before), str(item.after)) for item in forward.changes) == sorted(
        (item.place, str(item.after), str(item.before)) for item in backward.changes
    )
