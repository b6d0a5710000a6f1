from __future__ import annotations

import json
import random
import re
import subprocess
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from archives import (
    INPUTS,
    LATEST,
    OUTPUTS,
    POOLS,
    RELEASES,
    SCRATCH_BYTES,
    WEIGHTS,
    WORKSPACE_BYTES,
    Members,
    Network,
    expected,
    members,
    random_inputs,
    write,
)

from mlf import library
from mlf.archive import Archive, open_archive
from mlf.arrays import load_arrays
from mlf.errors import ArchiveError, MlfError, SourceError
from mlf.evidence import LARGE_SOURCE_BYTES
from mlf.linker import LinkRequest, link, plan_link
from mlf.metadata import Pool, Tensor
from mlf.reading import read_modules
from mlf.runner import open_library, run_model
from mlf.toolchain import RUNTIME, compiler_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlf.module import Module

HEADER = "codegen/host/include/tvmgen_default.h"
WRAPPER = "codegen/host/src/default_lib0.c"
OPERATORS = "codegen/host/src/default_lib1.c"
RELAY = "src/default.relay"
# Pools are older than the first release that has them, but not as old as TVM 0.8.
FORMS = [(name, memory) for name in RELEASES for memory in POOLS if name != "0.8.0" or memory == "alloc"]


def read_all(folder: Path, content: Mapping[str, bytes], *, suffix: str = ".tar") -> tuple[Module, ...]:
    with open_archive(write(folder / f"kws{suffix}", content)) as archive:
        return read_modules(archive)


def read(folder: Path, content: Mapping[str, bytes] | Network) -> Module:
    (module,) = read_all(folder, members(content) if isinstance(content, Network) else content)
    return module


def edited(content: Members, name: str, *changes: tuple[str, str]) -> Members:
    text = content[name].decode()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return content | {name: text.encode()}


def with_metadata(content: Members, **changes: Any) -> Members:
    """Change what metadata says of the main function of a version-7 module."""
    document = json.loads(content["metadata.json"])
    document["modules"]["default"]["memory"]["functions"]["main"][0].update(changes)
    return content | {"metadata.json": json.dumps(document).encode()}


def findings(module: Module) -> list[str]:
    return [str(finding) for finding in module.findings]


def sizes(tensors: tuple[Tensor, ...]) -> list[tuple[str, str | None, int | None]]:
    return [(tensor.name, tensor.dtype, tensor.size_bytes) for tensor in tensors]


# Every release.


@pytest.mark.parametrize(("release", "memory"), FORMS)
def test_an_archive_of_every_release_links_and_gives_numpys_numbers(tmp_path: Path, release: str, memory: str) -> None:
    network = Network(release=RELEASES[release], memory=memory)
    path, output, compiler = write(tmp_path / "kws.tar", members(network)), tmp_path / "models.a", compiler_for("host")

    link(plan_link([LinkRequest(path=path, name="kws")], output=output, compiler=compiler))
    inputs = random_inputs(network, seed=len(release + memory))
    results = run_model(open_library(library.document_path(output), None), inputs, compiler=compiler).outputs

    wanted = expected(inputs, network)
    assert list(results) == list(wanted)
    for name, array in wanted.items():
        assert results[name].dtype == array.dtype
        assert results[name].ravel().tolist() == array.ravel().tolist()


@pytest.mark.parametrize("release", RELEASES)
def test_tensors_are_in_call_order_with_their_own_names(tmp_path: Path, release: str) -> None:
    module = read(tmp_path, Network(release=RELEASES[release]))

    outputs = ("output0", "output1") if release == "0.8.0" else ("scores", "hidden")
    assert module.inputs == (
        Tensor(name="zeta:0", c_name="zeta_0", dtype="float32", shape=(1, 8), size_bytes=32),
        Tensor(name="alpha-b", c_name="alpha_b", dtype="int8", shape=(2, 4), size_bytes=8),
    )
    assert sizes(module.outputs) == [(outputs[0], "int32", 16), (outputs[1], "float32", 32)]


@pytest.mark.parametrize("release", RELEASES)
def test_types_of_results_in_the_relay_text_give_outputs_their_shapes(tmp_path: Path, release: str) -> None:
    module = read(tmp_path, Network(release=RELEASES[release], has_result_types=True))

    assert [tensor.shape for tensor in module.outputs] == [shape for _, shape in OUTPUTS.values()]


@pytest.mark.parametrize("release", [name for name in RELEASES if name != "0.11.1"])
def test_a_sound_archive_has_no_findings(tmp_path: Path, release: str) -> None:
    assert findings(read(tmp_path, Network(release=RELEASES[release]))) == []


@pytest.mark.parametrize("release", RELEASES)
def test_members_and_entrypoints_are_found(tmp_path: Path, release: str) -> None:
    network = Network(release=RELEASES[release], model="kws")
    module = read(tmp_path, network)

    assert (module.name, module.version, module.archive) == ("kws", network.release.version, "kws.tar")
    assert module.entrypoints == {"run": "tvmgen_kws_run", "main": f"tvmgen_kws_{network.release.main}"}
    assert module.sources == ("codegen/host/src/kws_lib0.c", "codegen/host/src/kws_lib1.c")
    assert (module.header, module.objects) == ("codegen/host/include/tvmgen_kws.h", ())
    assert (module.interface, module.operators, module.executors) == ("c", "unpacked", ("aot",))


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.zst", ""])
def test_the_form_of_the_archive_changes_nothing_that_is_read(tmp_path: Path, suffix: str) -> None:
    (module,) = read_all(tmp_path, members(Network()), suffix=suffix)

    assert sizes(module.inputs) == [("zeta:0", "float32", 32), ("alpha-b", "int8", 8)]
    assert module.archive == f"kws{suffix}"


# Memory.


@pytest.mark.parametrize(
    ("memory", "styles", "pools", "allocator_bytes", "workspace_bytes"),
    [
        ("alloc", ("allocator",), (), WORKSPACE_BYTES, WORKSPACE_BYTES),
        ("internal", ("internal",), (("global_workspace", "workspace", WORKSPACE_BYTES, True), ("global_const_workspace", "constant", 32, True)), 0, WORKSPACE_BYTES),
        ("external", ("external",), (("sram", "workspace", WORKSPACE_BYTES, False),), 0, WORKSPACE_BYTES),
        ("constant", ("internal",), (("global_workspace", "workspace", WORKSPACE_BYTES, True), ("flash", "constant", 32, False)), 0, WORKSPACE_BYTES),
        ("mixed", ("internal", "allocator"), (("global_workspace", "workspace", 32, True),), SCRATCH_BYTES, 32 + SCRATCH_BYTES),
    ],
)  # fmt: skip
def test_pools_and_need_are_read_from_the_code(
    tmp_path: Path,
    memory: str,
    styles: tuple[str, ...],
    pools: tuple[tuple[str, str, int, bool], ...],
    allocator_bytes: int,
    workspace_bytes: int,
) -> None:
    module = read(tmp_path, Network(memory=memory))

    found = tuple((pool.name, pool.kind, pool.size_bytes, pool.is_internal) for pool in module.pools)
    assert (module.memory_styles, found) == (styles, pools)
    assert (module.allocator_bytes, module.workspace_bytes) == (allocator_bytes, workspace_bytes)
    assert all(pool.alignment_bytes == 16 for pool in module.pools)


def test_an_external_constant_pool_brings_its_bytes(tmp_path: Path) -> None:
    module = read(tmp_path, Network(memory="constant"))

    assert module.pools[1] == Pool(
        name="flash",
        kind="constant",
        size_bytes=32,
        alignment_bytes=16,
        is_internal=False,
        data=WEIGHTS.tobytes(),
    )
    assert module.constants_bytes == 0


def test_a_pool_without_a_macro_has_no_known_size(tmp_path: Path) -> None:
    content = edited(members(Network(memory="external")), HEADER, ("_SRAM_WORKSPACE_POOL_SIZE", "_OTHER"))
    module = read(tmp_path, content)

    assert module.pools[0].size_bytes is None
    assert module.workspace_bytes == WORKSPACE_BYTES  # what metadata says


def test_a_negative_size_of_a_pool_is_none(tmp_path: Path) -> None:
    content = edited(members(Network(memory="external")), HEADER, ("POOL_SIZE 1232", "POOL_SIZE -1232"))

    assert read(tmp_path, content).pools[0].size_bytes is None


@pytest.mark.parametrize("size", [8, 64])
def test_a_constant_pool_that_is_not_as_large_as_it_says_is_refused(tmp_path: Path, size: int) -> None:
    content = edited(members(Network(memory="constant")), HEADER, ("POOL_SIZE 32", f"POOL_SIZE {size}"))

    with pytest.raises(SourceError) as caught:
        read(tmp_path, content)
    assert str(caught.value) == f"kws.tar: {HEADER} has 32 bytes for the constant pool `flash`, its size is {size}"


def test_a_need_that_the_code_does_not_tell_is_metadatas(tmp_path: Path) -> None:
    content = edited(members(Network()), OPERATORS, (f"(uint64_t){SCRATCH_BYTES}", "(uint64_t)size"))
    module = read(tmp_path, content)

    assert (module.allocator_bytes, module.workspace_bytes) == (None, WORKSPACE_BYTES)
    assert module.memory_styles == ("allocator",)


def test_metadata_that_asks_for_too_little_is_a_finding(tmp_path: Path) -> None:
    module = read(tmp_path, with_metadata(members(Network()), workspace_size_bytes=1231))

    assert findings(module) == ["workspace: metadata.json says 1231 bytes, the code says 1232 bytes"]
    assert module.workspace_bytes == WORKSPACE_BYTES


def test_rounding_of_blocks_is_no_disagreement(tmp_path: Path) -> None:
    content = edited(members(Network()), OPERATORS, ("(uint64_t)32", "(uint64_t)25"))
    module = read(tmp_path, with_metadata(content, workspace_size_bytes=25 + SCRATCH_BYTES))

    assert findings(module) == []
    assert module.workspace_bytes == 32 + SCRATCH_BYTES


# What metadata and code say differently.


def test_garbage_size_macros_are_repaired_and_reported(tmp_path: Path) -> None:
    module = read(tmp_path, Network(release=RELEASES["0.11.1"], outputs=("output0", "output1")))

    assert sizes(module.inputs) == [("zeta:0", "float32", 32), ("alpha-b", "int8", 8)]
    assert sizes(module.outputs) == [("output0", "int32", 16), ("output1", "float32", 32)]
    assert findings(module) == [
        "inputs.zeta:0 macro: the header says -1582571184 bytes, the code says 32 bytes",
        "inputs.alpha-b macro: the header says 373293056 bytes, the code says 8 bytes",
        "outputs.output0 macro: the header says -12 bytes, the code says 16 bytes",
        "outputs.output1 macro: the header says 94371840 bytes, the code says 32 bytes",
    ]


def test_garbage_size_macros_are_repaired_from_metadata_where_nothing_else_tells(tmp_path: Path) -> None:
    content = members(Network(release=RELEASES["0.11.1"]))
    content = edited(content, OPERATORS, ("T_mix[cse_var_1] =", "T_mix[lookup(cse_var_1)] ="))
    del content[RELAY]
    module = read(tmp_path, content)

    assert sizes(module.inputs) == [("zeta:0", "float32", 32), ("alpha-b", "int8", 8)]
    assert sizes(module.outputs) == [("scores", "int32", 16), ("hidden", "float32", 32)]
    assert findings(module) == [
        "inputs.zeta:0 macro: metadata.json says 32 bytes, the code says -1582571184 bytes",
        "inputs.alpha-b macro: metadata.json says 8 bytes, the code says 373293056 bytes",
        "outputs: metadata.json says output0, output1, the code says scores, hidden",
        "outputs.scores macro: the header says -12 bytes, the code says 16 bytes",
        "outputs.hidden macro: metadata.json says 32 bytes, the code says 94371840 bytes",
    ]


def test_wrong_sizes_and_types_in_metadata_are_findings(tmp_path: Path) -> None:
    inputs = {"zeta:0": {"dtype": "float32", "size": 999}, "alpha-b": {"dtype": "uint8", "size": 8}}
    outputs = {"scores": {"dtype": "int32", "size": 16}, "hidden": {"dtype": "float64", "size": 64}}
    module = read(tmp_path, with_metadata(members(Network()), inputs=inputs, outputs=outputs))

    assert sizes(module.inputs) == [("zeta:0", "float32", 32), ("alpha-b", "int8", 8)]
    assert sizes(module.outputs) == [("scores", "int32", 16), ("hidden", "float32", 32)]
    assert findings(module) == [
        "inputs.zeta:0: metadata.json says 999 bytes, the code says 32 bytes",
        "inputs.alpha-b: metadata.json says uint8, the code says int8",
        "outputs.hidden: metadata.json says float64, the code says float32",
        "outputs.hidden: metadata.json says 64 bytes, the code says 32 bytes",
    ]


def test_tensors_that_only_one_side_knows_are_a_finding(tmp_path: Path) -> None:
    module = read(tmp_path, with_metadata(members(Network()), inputs={"zeta:0": {"dtype": "float32", "size": 32}}))

    assert sizes(module.inputs) == [("zeta:0", "float32", 32), ("alpha-b", "int8", 8)]
    assert findings(module) == ["inputs: metadata.json says zeta:0, the code says zeta_0, alpha_b"]


def test_one_macro_for_two_tensors_is_a_finding_and_no_size(tmp_path: Path) -> None:
    module = read(tmp_path, Network(inputs=("zeta", "x"), outputs=("x", "hidden")))

    assert [tensor.size_bytes for tensor in (module.inputs[1], module.outputs[0])] == [8, 16]
    assert findings(module) == ["inputs.x macro: the header says 16 bytes, the code says 8 bytes"]


def test_a_guarded_store_does_not_make_an_output_too_large(tmp_path: Path) -> None:
    content = edited(
        members(Network()), OPERATORS,
        ("for (int32_t j = 0; j < 4; ++j) {", "for (int32_t j = 0; j < 16; ++j) {\n  if (j < 4) {"),
        ("* 4.000000e+00f));\n", "* 4.000000e+00f));\n  }\n"),
    )  # fmt: skip

    assert sizes(read(tmp_path, content).outputs)[0] == ("scores", "int32", 16)
    assert findings(read(tmp_path, content)) == []


# Evidence that is missing.


def test_without_relay_text_the_code_gives_types_and_macros_give_sizes(tmp_path: Path) -> None:
    content = members(Network())
    del content[RELAY]
    module = read(tmp_path, with_metadata(content, inputs={}, outputs={}))

    assert module.inputs == (
        Tensor(name="zeta_0", c_name="zeta_0", dtype="float32", shape=None, size_bytes=32),
        Tensor(name="alpha_b", c_name="alpha_b", dtype="int8", shape=None, size_bytes=8),
    )
    assert sizes(module.outputs) == [("scores", "int32", 16), ("hidden", "float32", 32)]


def test_what_nothing_tells_is_unknown(tmp_path: Path) -> None:
    content = members(Network(release=RELEASES["0.8.0"]))
    del content["src/relay.txt"], content[OPERATORS]
    module = read(tmp_path, content)

    assert sizes(module.inputs) == [("zeta_0", None, None), ("alpha_b", None, None)]
    assert sizes(module.outputs) == [("output0", None, None), ("output1", None, None)]
    assert module.entrypoints == {"run": "tvmgen_default_run"}


def test_a_weight_with_the_c_name_of_an_input_is_not_taken_for_it(tmp_path: Path) -> None:
    weight = "%alpha.b: Tensor[(77), int16], "
    content = edited(members(Network()), RELAY, ("%zeta:0", f"{weight}%zeta:0"))
    named = read(tmp_path, content)
    unnamed = read(tmp_path, with_metadata(content, inputs={}))

    assert named.inputs[1] == Tensor(name="alpha-b", c_name="alpha_b", dtype="int8", shape=(2, 4), size_bytes=8)
    assert unnamed.inputs[1] == Tensor(name="alpha_b", c_name="alpha_b", dtype="int8", shape=None, size_bytes=8)


def test_a_wrapper_that_passes_tensors_in_another_order_keeps_types_right(tmp_path: Path) -> None:
    content = members(Network())
    del content[RELAY]
    content = edited(
        content, HEADER, ("  void* zeta_0;\n  void* alpha_b;\n", "  void* alpha_b;\n  void* zeta_0;\n"),
        ("  void* scores;\n  void* hidden;\n", "  void* hidden;\n  void* scores;\n"),
    )  # fmt: skip
    module = read(tmp_path, with_metadata(content, inputs={}, outputs={}))

    assert sizes(module.inputs) == [("alpha_b", "int8", 8), ("zeta_0", "float32", 32)]
    assert sizes(module.outputs) == [("hidden", "float32", 32), ("scores", "int32", 16)]


# Names.


def test_names_are_sanitised_as_tvm_does_and_the_model_runs_by_its_own_names(tmp_path: Path) -> None:
    network = Network(inputs=("input-x::2", "größe"), outputs=("Identity:0", "out/1"))
    module = read(tmp_path, network)

    assert [(tensor.name, tensor.c_name) for tensor in (*module.inputs, *module.outputs)] == [
        ("input-x::2", "input_x__2"), ("größe", "gr____e"), ("Identity:0", "Identity_0"), ("out/1", "out_1")
    ]  # fmt: skip
    assert findings(module) == []


def test_a_capital_in_the_models_name_is_kept_in_code_and_lost_in_the_header(tmp_path: Path) -> None:
    module = read(tmp_path, Network(model="Foo"))

    assert module.header == "codegen/host/include/tvmgen_foo.h"
    assert module.entrypoints == {"run": "tvmgen_Foo_run", "main": "tvmgen_Foo___tvm_main__"}
    assert sizes(module.inputs) == [("zeta:0", "float32", 32), ("alpha-b", "int8", 8)]


@pytest.mark.parametrize("model", ["my-model", "my model", "v1.2"])
def test_a_model_whose_name_is_no_identifier_is_still_read(tmp_path: Path, model: str) -> None:
    module = read(tmp_path, Network(model=model))

    assert (module.name, module.interface) == (model, "c")
    assert module.sources == (f"codegen/host/src/{model}_lib0.c", f"codegen/host/src/{model}_lib1.c")
    assert sizes(module.inputs) == [("zeta:0", "float32", 32), ("alpha-b", "int8", 8)]
    assert findings(module) == []


def test_members_belong_to_exactly_one_module(tmp_path: Path) -> None:
    names = ("a", "a_lib0", "a_lib0_lib1", "b")
    content = members(*(Network(model=name) for name in names))
    modules = read_all(tmp_path, content)

    assert {module.name: [source.rsplit("/", 1)[1] for source in module.sources] for module in modules} == {
        "a": ["a_lib0.c", "a_lib1.c"],
        "a_lib0": ["a_lib0_lib0.c", "a_lib0_lib1.c"],
        "a_lib0_lib1": ["a_lib0_lib1_lib0.c", "a_lib0_lib1_lib1.c"],
        "b": ["b_lib0.c", "b_lib1.c"],
    }
    assert {module.entrypoints["run"] for module in modules} == {f"tvmgen_{name}_run" for name in names}


def test_sources_are_in_the_order_of_their_numbers_whatever_their_language(tmp_path: Path) -> None:
    more = {
        f"codegen/host/src/default_lib{name}": b";\n" for name in ("10.c", "2.cc", "3.cpp", "4.h", "x.c", "5.c.orig")
    }
    module = read(tmp_path, members(Network()) | more)

    assert [name.rsplit("_", 1)[1] for name in module.sources] == ["lib0.c", "lib1.c", "lib2.cc", "lib3.cpp", "lib10.c"]


# Other styles.


def test_the_packed_interface_with_unpacked_operators(tmp_path: Path) -> None:
    module = read(tmp_path, Network(interface="packed", memory="internal"))

    assert (module.interface, module.operators, module.header) == ("packed", "unpacked", None)
    assert module.entrypoints == {"tvm_module_main": "tvmgen_default_run", "main": "tvmgen_default___tvm_main__"}
    assert sizes(module.inputs) == [("zeta:0", "float32", 32), ("alpha-b", "int8", 8)]
    assert sorted(sizes(module.outputs)) == [("hidden", "float32", 32), ("scores", "int32", 16)]
    assert (module.memory_styles, module.workspace_bytes) == (("internal",), WORKSPACE_BYTES)


@pytest.mark.parametrize(("name", "executor"), [("dense-packed", "aot"), ("dense-graph", "graph")])
def test_packed_operators_are_told_from_unpacked_ones(real_archives: Path, name: str, executor: str) -> None:
    with open_archive(real_archives / f"{name}.tar") as archive:
        (module,) = read_modules(archive)

    assert (module.interface, module.operators, module.executors) == ("packed", "packed", (executor,))
    assert sizes(module.inputs) == [("x", "float32", 32), ("a", "float32", 32)]
    assert sizes(module.outputs) == [("output", "float32", 16)]
    assert ("tvm_module_main" in module.entrypoints) == (executor == "aot")


def test_devices_are_read_and_shift_nothing(tmp_path: Path) -> None:
    module = read(tmp_path, Network(memory="external", devices=("ethos_u",)))

    assert module.devices == ("ethos_u",)
    assert sizes(module.inputs) == [("zeta:0", "float32", 32), ("alpha-b", "int8", 8)]
    assert findings(module) == []


def test_inputs_inside_the_pools_are_not_looked_for_in_the_call(tmp_path: Path) -> None:
    content = members(Network(memory="external", maps_io=True))
    del content[RELAY]
    module = read(tmp_path, content)

    assert module.maps_io
    assert sizes(module.inputs) == [("zeta:0", "float32", 32), ("alpha-b", "int8", 8)]
    assert sizes(module.outputs) == [("scores", "int32", 16), ("hidden", "float32", 32)]
    assert findings(module) == []


def only_objects(folder: Path, network: Network) -> Members:
    """Compile the sources of an archive and put the objects in their place."""
    content = members(network)
    (folder / f"tvmgen_{network.model}.h").write_bytes(content[HEADER])
    for name in (WRAPPER, OPERATORS):
        stem = name.rsplit("/", 1)[1].removesuffix(".c")
        (folder / f"{stem}.c").write_bytes(content.pop(name))
        argv = ["gcc", "-c", "-fPIC", f"-I{folder}", f"-I{RUNTIME / 'include'}", f"{stem}.c", "-o", f"{stem}.o"]
        subprocess.run(argv, cwd=folder, check=True)
        content[f"codegen/host/lib/{stem}.o"] = (folder / f"{stem}.o").read_bytes()
    return content


def test_an_archive_of_objects_is_read_from_header_relay_text_and_metadata(tmp_path: Path) -> None:
    module = read(tmp_path, only_objects(tmp_path, Network()))

    assert module.sources == ()
    assert module.objects == ("codegen/host/lib/default_lib0.o", "codegen/host/lib/default_lib1.o")
    assert module.entrypoints == {"run": "tvmgen_default_run", "main": "tvmgen_default___tvm_main__"}
    assert sizes(module.inputs) == [("zeta:0", "float32", 32), ("alpha-b", "int8", 8)]
    assert sizes(module.outputs) == [("scores", "int32", 16), ("hidden", "float32", 32)]
    assert (module.allocator_bytes, module.workspace_bytes) == (None, WORKSPACE_BYTES)


def test_an_archive_of_objects_runs(tmp_path: Path) -> None:
    network, compiler, output = Network(), compiler_for("host"), tmp_path / "models.a"
    path = write(tmp_path / "kws.tar", only_objects(tmp_path, network))

    link(plan_link([LinkRequest(path=path)], output=output, compiler=compiler))
    inputs = random_inputs(network, seed=7)
    results = run_model(open_library(library.document_path(output), None), inputs, compiler=compiler).outputs

    assert {name: array.ravel().tolist() for name, array in results.items()} == {
        name: array.ravel().tolist() for name, array in expected(inputs, network).items()
    }


# Large sources.


def with_large_weights(content: Members, name: str, size_bytes: int) -> Members:
    """Grow a source to a size with the text of weights in front, where TVM prints them."""
    head = b"static const int8_t weights[9] = {\n"
    tail = b"};\n" + content[name]
    return content | {name: head + b"+0x01,\n" * ((size_bytes - len(head + tail)) // 7 + 1) + tail}


@pytest.fixture
def bytes_read(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    counts: dict[str, int] = {}
    plain = Archive.read

    def counted(archive: Archive, name: str, *, offset: int = 0) -> bytes:
        data = plain(archive, name, offset=offset)
        counts[name] = counts.get(name, 0) + len(data)
        return data

    monkeypatch.setattr(Archive, "read", counted)
    return counts


@pytest.mark.parametrize("memory", ["alloc", "internal"])
def test_only_the_end_of_a_large_source_is_read(tmp_path: Path, bytes_read: dict[str, int], memory: str) -> None:
    content = with_large_weights(members(Network(memory=memory)), OPERATORS, 3 * LARGE_SOURCE_BYTES)
    module = read(tmp_path, content)

    assert bytes_read[OPERATORS] == LARGE_SOURCE_BYTES // 2
    assert sizes(module.inputs) == [("zeta:0", "float32", 32), ("alpha-b", "int8", 8)]
    assert sizes(module.outputs) == [("scores", "int32", 16), ("hidden", "float32", 32)]
    assert module.entrypoints["main"] == "tvmgen_default___tvm_main__"
    assert (module.constants_bytes, findings(module)) == (None, [])


def test_even_without_relay_text_the_end_of_a_large_source_tells_types_and_sizes(tmp_path: Path) -> None:
    network = Network(release=RELEASES["0.9.0"])
    content = with_large_weights(members(network), OPERATORS, 3 * LARGE_SOURCE_BYTES)
    del content[RELAY]
    module = read(tmp_path, content)

    assert [tensor.dtype for tensor in module.inputs] == ["float32", "int8"]
    assert sizes(module.outputs) == [("scores", "int32", 16), ("hidden", "float32", 32)]


def test_a_part_that_begins_in_the_weights_tells_what_all_functions_allocate(tmp_path: Path) -> None:
    module = read(tmp_path, with_large_weights(members(Network()), OPERATORS, 3 * LARGE_SOURCE_BYTES))

    assert (module.allocator_bytes, module.workspace_bytes) == (WORKSPACE_BYTES, WORKSPACE_BYTES)
    assert module.memory_styles == ("allocator",)


def test_a_part_that_begins_elsewhere_does_not_tell_what_is_allocated(tmp_path: Path) -> None:
    content = members(Network())
    comments = b"// an operator could stand here\n" * (3 * LARGE_SOURCE_BYTES // 32)
    module = read(tmp_path, content | {OPERATORS: comments + content[OPERATORS].replace(b"};", b"} ;")})

    assert (module.allocator_bytes, module.workspace_bytes) == (None, WORKSPACE_BYTES)
    assert module.memory_styles == ("allocator",)


def test_where_memory_is_planned_into_pools_part_of_a_source_is_enough(tmp_path: Path) -> None:
    content = with_large_weights(members(Network(memory="internal")), OPERATORS, 3 * LARGE_SOURCE_BYTES)
    module = read(tmp_path, content)

    assert (module.allocator_bytes, module.workspace_bytes) == (0, WORKSPACE_BYTES)
    assert module.memory_styles == ("internal",)


def test_a_thorough_reading_reads_all(tmp_path: Path, bytes_read: dict[str, int]) -> None:
    content = with_large_weights(members(Network()), OPERATORS, 3 * LARGE_SOURCE_BYTES)
    with open_archive(write(tmp_path / "kws.tar", content)) as archive:
        (module,) = read_modules(archive, is_thorough=True)

    assert bytes_read[OPERATORS] == len(content[OPERATORS])
    assert (module.allocator_bytes, module.constants_bytes) == (WORKSPACE_BYTES, 9 + WEIGHTS.nbytes)


def test_a_source_of_a_mebibyte_is_not_yet_large(tmp_path: Path, bytes_read: dict[str, int]) -> None:
    content = members(Network())
    content[OPERATORS] = b"\n" * (LARGE_SOURCE_BYTES - len(content[OPERATORS])) + content[OPERATORS]
    module = read(tmp_path, content)

    assert bytes_read[OPERATORS] == LARGE_SOURCE_BYTES
    assert module.allocator_bytes == WORKSPACE_BYTES


# Archives that are wrong.


def test_an_archive_without_metadata_is_none(tmp_path: Path) -> None:
    content = members(Network())
    del content["metadata.json"]

    with pytest.raises(ArchiveError) as caught:
        read(tmp_path, content)
    assert str(caught.value) == "kws.tar: has no metadata.json, so it is no Model Library Format archive"


def test_a_header_and_a_wrapper_of_different_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        read(tmp_path, edited(members(Network()), WRAPPER, ("inputs->alpha_b", "inputs->beta")))
    assert str(caught.value) == (
        "kws.tar: tvmgen_default_run passes the inputs zeta_0, beta, the header declares zeta_0, alpha_b"
    )


def test_a_header_that_declares_no_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        read(tmp_path, members(Network()) | {HEADER: b"#include <stdint.h>\n"})
    assert str(caught.value) == f"kws.tar: {HEADER} declares no `struct tvmgen_default_inputs`"


def test_thousands_of_outputs_do_not_make_reading_slow(tmp_path: Path) -> None:
    fields = [f"o{index}" for index in range(3000)]
    parameters, passed = (", ".join(f"{kind}{name}" for name in fields) for kind in ("float* ", "outputs->"))
    content = members(Network(release=RELEASES["0.9.0"])) | {
        HEADER: (
            "struct tvmgen_default_inputs {\n};\nstruct tvmgen_default_outputs {\n"
            + "".join(f"  void* {name};\n" for name in fields)
            + "};\n"
        ).encode(),
        WRAPPER: (
            "int32_t tvmgen_default_run(struct tvmgen_default_inputs* inputs,struct tvmgen_default_outputs* outputs) "
            f"{{return tvmgen_default___tvm_main__({passed});\n}}\n"
        ).encode(),
        OPERATORS: f"TVM_DLL int32_t tvmgen_default___tvm_main__({parameters}) {{\n{'op(o1);' * 20000}\n}}\n".encode(),
    }
    del content[RELAY]

    start = time.process_time()
    assert len(read(tmp_path, content).outputs) == 3000
    assert time.process_time() - start < 5  # seconds; a search for each output takes a minute


def test_mutated_archives_are_read_or_refused(tmp_path: Path) -> None:
    chance = random.Random(20240328)  # noqa: S311  # not for secrets
    whole = [
        members(Network(release=RELEASES[name], memory="external")) for name in ("0.9.dev-v5", "0.11.1", LATEST.name)
    ]
    refused = 0
    for round_number in range(1000):
        content = dict(chance.choice(whole))
        name = chance.choice([key for key in content if not key.endswith(".params")])
        text = list(content[name].decode())
        for _ in range(chance.randint(1, 8)):
            digits = [index for index, char in enumerate(text) if char.isdigit()]
            place = chance.choice(digits) if chance.random() < 0.3 else chance.randrange(len(text))
            text[place : place + chance.randint(0, 6)] = chance.choice(
                [*'(){}[];,*/%0123456789 \n"aT_=&\\-.:$ä²', *["9" * 5000] * 5]
            )
        content[name] = "".join(text).encode()
        try:
            read_all(tmp_path, content, suffix=f"{round_number % 2}.tar")
        except MlfError:
            refused += 1

    assert 0 < refused < 1000


# Archives of a real compiler.


def real_modules(folder: Path) -> list[tuple[str, Module, dict[str, Any], dict[str, Any]]]:
    """Every ahead-of-time module with the C interface, with the arrays of its inputs and outputs.

    Without those whose tensors lie in a workspace pool: their main function has no parameter that would tell a type.
    """
    found = []
    for case in json.loads((folder / "cases.json").read_text())["cases"]:
        if (case["executor"], case["interface"]) != ("aot", "c") or "workspace-io" in case["traits"]:
            continue
        arrays = [load_arrays(folder / case[kind]) for kind in ("inputs", "outputs")]
        with open_archive(folder / case["archive"]) as archive:
            modules = read_modules(archive)
        for module in modules:
            prefix = f"{module.name}/" if len(modules) > 1 else ""
            of_module = [
                {name[len(prefix) :]: array for name, array in group.items() if name.startswith(prefix)}
                for group in arrays
            ]
            found.append((case["case"], module, of_module[0], of_module[1]))
    return found


def facts(arrays: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    return [(name, str(array.dtype), array.nbytes) for name, array in arrays.items()]


def test_facts_of_real_archives_are_those_of_their_arrays(real_archives: Path) -> None:
    checked = real_modules(real_archives)

    assert len(checked) >= 30
    for case, module, inputs, outputs in checked:
        assert (case, sizes(module.inputs)) == (case, facts(inputs))
        assert (case, sizes(module.outputs)) == (case, facts(outputs))
        assert (case, [tensor.shape for tensor in module.inputs]) == (case, [array.shape for array in inputs.values()])
        assert (case, findings(module)) == (case, [])


def test_the_code_of_real_archives_alone_tells_the_outputs(tmp_path: Path, real_archives: Path) -> None:
    """Without Relay text, without macros and without what metadata says of tensors."""
    for case, module, inputs, outputs in real_modules(real_archives):
        with open_archive(real_archives / f"{case}.tar") as archive:
            content = {name: archive.read(name) for name in (*module.sources, str(module.header), "metadata.json")}
        header = str(module.header)
        content[header] = re.sub(rb"#define \w+_SIZE [0-9]+\n", b"", content[header])
        document = json.loads(content["metadata.json"])
        described = document["modules"][module.name] if "modules" in document else document
        if "modules" in document:
            document["modules"] = {module.name: described}
        for kind in ("inputs", "outputs"):
            described["memory"]["functions"]["main"][0].pop(kind, None)
        bare = read(tmp_path, content | {"metadata.json": json.dumps(document).encode()})

        known: list[str | None] = [str(array.dtype) for array in inputs.values()]
        if case.startswith("tvm08-"):  # whose pointers have no type
            known = [None] * len(known)
        assert (case, [tensor.dtype for tensor in bare.inputs]) == (case, known)
        assert (case, sizes(bare.outputs)) == (case, facts(outputs))


def test_the_network_of_these_tests_is_what_its_tables_say() -> None:
    network = Network()
    inputs = random_inputs(network, seed=1)

    for name, (dtype, shape) in zip(network.inputs, INPUTS.values(), strict=True):
        assert (str(inputs[name].dtype), inputs[name].shape) == (dtype, shape)
    for name, (dtype, shape) in zip(network.outputs, OUTPUTS.values(), strict=True):
        assert (str(expected(inputs, network)[name].dtype), expected(inputs, network)[name].shape) == (dtype, shape)
    assert np.abs(WEIGHTS).max() == 2.5
