"""Modules of several archives become one archive, which a linker and a Makefile can use as they could use the originals."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from archives import RELEASES, SNAPSHOTS, STYLES, Network, expected, members, random_inputs, write
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from sequence import run_sequence

import mlf
from mlf.archive import METADATA_NAME, open_archive
from mlf.arrays import load_arrays
from mlf.bundle import _Names, _renamed_library, _renamed_object, definitions
from mlf.check import validate
from mlf.converter import facts_of
from mlf.errors import LinkError, NameClashError, UnsupportedError, UsageError
from mlf.objects.ar import ArMember, read_ar, write_ar
from mlf.objects.elf import parse_object
from mlf.reading import read_modules
from mlf.toolchain import RUNTIME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlf.module import Module

SAMPLES = Path(__file__).parent.parent / "samples"
DATED = {**RELEASES, **SNAPSHOTS}
# One of each style; most of them hold a module called `default`.
REAL = (
    "conv-alloc", "twin-alloc", "conv-usmp", "conv-pools", "conv-cpool", "dense-io-pools", "conv-packed", "dense-packed-usmp",
    "dense-unpacked-packed-usmp", "int8-graph", "dense-graph-linked", "dense-graph-params", "dense-llvm-graph-host",
    "dense-llvm-host", "dense-packed-systemlib", "clash-systemlib", "offload-c-usmp", "offload-cc-usmp", "offload-own-graph", "offload-two", "two-modules",
    "graph-and-aot", "upper-usmp", "tvm08-dense-alloc-systemlib", "tvm08-conv-graph-linked", "tvm08-conv-packed",
    "tvm09-dense-graph", "tvm09-dense-pool",
)  # fmt: skip


def contents(path: Path) -> dict[str, bytes]:
    with open_archive(path) as archive:
        return {member.name: archive.read(member.name) for member in archive.members}


def modules(path: Path) -> dict[str, Module]:
    with open_archive(path) as archive:
        return {module.name: module for module in read_modules(archive, is_thorough=True)}


def warnings(path: Path) -> list[str]:
    return [finding.code for finding in validate(path).findings]


def old(folder: Path, name: str, date: str = "0.17.0", style: str = "aot-c", **choice: Any) -> Path:
    form = Network(release=DATED[date], **{**STYLES[style], **choice})
    return write(folder / f"{name}.tar", members(form))


def described(folder: Path, name: str, code: Mapping[str, str], **entry: str) -> Path:
    """Describe a model `y = f(x)` of two floats."""
    source = folder / f"{name}-source"
    for path, text in code.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(text)
    lines = {"function": "infer", "arguments": '["x", "y"]', "returns": '"void"', **entry}
    text = f'[model]\nname = "{name}"\n[entry]\nfunction = "{lines["function"]}"\narguments = {lines["arguments"]}\n'
    text += f"returns = {lines['returns']}\n[code]\n"
    for kind, suffixes in (("sources", (".c", ".cpp")), ("headers", (".h",))):
        found = [path for path in code if path.endswith(suffixes)]
        text += f"{kind} = {json.dumps(found)}\n" if found else ""
    tensor = 'dtype = "float32"\nshape = [2]\n'
    (source / "description.toml").write_text(f'{text}[[inputs]]\nname = "x"\n{tensor}[[outputs]]\nname = "y"\n{tensor}')
    mlf.export(source, output=folder / f"{name}.tar")
    return folder / f"{name}.tar"


def facts(module: Module) -> dict[str, object]:
    """Everything that is known of a module but its names."""
    known = dataclasses.asdict(facts_of(module)) | {
        name: getattr(module, name)
        for name in (
            "style", "executors", "devices", "allocator_bytes", "constants_bytes", "workspace_bytes", "memory_styles", "maps_io", "io_places",
        )
    }  # fmt: skip
    known["entrypoints"] = sorted(module.entrypoints)
    known["tests"] = [(test.name, test.rtol, test.atol) for test in module.tests]
    known["call"] = module.call and (module.call.convention, module.call.arguments)
    return known


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Real:
    """A module of a real archive under its new name, with numpy's numbers."""

    archive: Path
    module: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    tolerances: Mapping[str, float]

    def check(self, results: Mapping[str, Any]) -> None:
        assert set(results) == set(self.outputs)
        for name, array in self.outputs.items():
            np.testing.assert_allclose(
                results[name].ravel(), array.ravel(), rtol=self.tolerances["rtol"], atol=self.tolerances["atol"]
            )


@pytest.fixture(scope="module")
def real(real_archives: Path) -> dict[str, Real]:
    listed = {item["case"]: item for item in json.loads((real_archives / "cases.json").read_text())["cases"]}
    found = {}
    for case in REAL:
        item = listed[case]
        for module in item["modules"]:
            prefix = f"{module}/" if len(item["modules"]) > 1 else ""
            arrays = [
                {name.removeprefix(prefix): array for name, array in load_arrays(real_archives / item[kind]).items() if name.startswith(prefix)}
                for kind in ("inputs", "outputs")
            ]  # fmt: skip
            tolerances = {"rtol": 0, "atol": 0} if item["exact"] else {"rtol": item["rtol"], "atol": item["atol"]}
            name = f"{case}_{module}".replace("-", "_").lower().removesuffix("_default")
            found[name] = Real(archive=real_archives / item["archive"], module=module, inputs=arrays[0], outputs=arrays[1], tolerances=tolerances)  # fmt: skip
    return found


@pytest.fixture(scope="module")
def merged(real: dict[str, Real], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them as one archive."""
    output = tmp_path_factory.mktemp("merged") / "all.tar"
    mlf.merge_archives([f"{name}={item.archive}:{item.module}" for name, item in real.items()], output=output)
    return output


# Real archives.


def test_a_merged_archive_of_every_style_has_no_fault(merged: Path) -> None:
    assert [str(finding) for finding in validate(merged).findings] == []


def test_modules_keep_all_facts(real: dict[str, Real], merged: Path) -> None:
    found = modules(merged)

    assert sorted(found) == sorted(real)
    for name, item in real.items():
        before = modules(item.archive)[item.module]
        assert (name, facts(found[name])) == (name, facts(before))
        assert found[name].findings == ()
        assert found[name].metadata.document["model_name"] == name


def test_every_name_that_tvm_gave_bears_the_modules_own(merged: Path) -> None:
    others = {
        symbol
        for name, module in modules(merged).items()
        for symbol in module.defined
        if not symbol.startswith(f"tvmgen_{name}_")
    }

    assert others <= {"Multiply"}


def test_the_linker_gives_numpys_numbers_from_a_merged_archive(
    real: dict[str, Real], merged: Path, tmp_path: Path
) -> None:
    mlf.link([str(merged)], output=tmp_path / "libmodels.a")

    results = run_sequence(tmp_path / "libmodels.json", [(name, item.inputs) for name, item in real.items()])

    for item, result in zip(real.values(), results, strict=True):
        item.check(result)


MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include "tvmgen_conv_alloc.h"
#include "tvmgen_twin_alloc.h"
void* TVMBackendAllocWorkspace(int type, int id, uint64_t size, int code, int bits) { return aligned_alloc(64, (size + 63) / 64 * 64); }
int TVMBackendFreeWorkspace(int type, int id, void* memory) { free(memory); return 0; }
void TVMAPISetLastError(const char* text) {}
static void* input(const char* name, size_t size) {
  FILE* stream = fopen(name, "rb");
  void* memory = malloc(size);
  if (fread(memory, 1, size, stream) != size) exit(3);
  fclose(stream);
  return memory;
}
static void output(const char* name, const void* memory, size_t size) {
  FILE* stream = fopen(name, "wb");
  fwrite(memory, 1, size, stream);
  fclose(stream);
}
int main(void) {
  int round;
  for (round = 0; round < 2; ++round) {
MODELS
  }
  return 0;
}
"""


def called(name: str, item: Real, folder: Path) -> str:
    """Write the C that runs a model once, and the files that it reads."""
    lines = {"inputs": "", "outputs": "", "writes": ""}
    for key, array in item.inputs.items():
        field = re.sub(r"\W", "_", key)
        (folder / f"{name}.{field}").write_bytes(np.ascontiguousarray(array).tobytes())
        lines["inputs"] += f'.{field} = input("{name}.{field}", {array.nbytes}), '
    for key, array in item.outputs.items():
        field = re.sub(r"\W", "_", key)
        lines["outputs"] += f".{field} = malloc({array.nbytes}), "
        lines["writes"] += f'output("{name}.{field}.out", outputs.{field}, {array.nbytes}); '
    return (
        f"{{ struct tvmgen_{name}_inputs inputs = {{{lines['inputs']}}}; struct tvmgen_{name}_outputs outputs = {{{lines['outputs']}}};\n"
        f"if (tvmgen_{name}_run(&inputs, &outputs) != 0) return 1; {lines['writes']}}}\n"
    )


def test_all_sources_of_an_archive_build_into_one_program_by_hand(
    real: dict[str, Real], merged: Path, tmp_path: Path
) -> None:
    """Two models called `default`, with operators of the same names, are called by hand; all others are linked."""
    with tarfile.open(merged) as tar:
        tar.extractall(tmp_path, filter="data")
    names = ("conv_alloc", "twin_alloc")
    (tmp_path / "main.c").write_text(
        MAIN.replace("MODELS", "".join(called(name, real[name], tmp_path) for name in names))
    )
    sources = sorted((tmp_path / "codegen/host/src").iterdir())
    flags = ["-O1", "-w", f"-I{tmp_path}/codegen/host/include", f"-I{RUNTIME / 'include'}"]
    for source in (*sources, tmp_path / "main.c"):
        compiler = "gcc" if source.suffix == ".c" else "g++"
        subprocess.run([compiler, *flags, "-c", source, "-o", tmp_path / f"{source.name}.o"], check=True)
    objects = [*sorted(tmp_path.glob("*.o")), *sorted((tmp_path / "codegen/host/lib").iterdir())]
    subprocess.run(["g++", "-no-pie", "-z", "noexecstack", *objects, "-lm", "-o", tmp_path / "firmware"], check=True)
    subprocess.run([tmp_path / "firmware"], cwd=tmp_path, check=True)

    assert len(sources) > 50
    for name in names:
        files = {key: tmp_path / f"{name}.{re.sub(r'[^A-Za-z0-9]', '_', key)}.out" for key in real[name].outputs}
        real[name].check(
            {key: np.frombuffer(file.read_bytes(), real[name].outputs[key].dtype) for key, file in files.items()}
        )


def test_a_merged_archive_is_the_same_whatever_the_order_and_the_day(
    real: dict[str, Real], merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    backwards = [f"{name}={item.archive}:{item.module}" for name, item in reversed(real.items())]
    mlf.merge_archives(backwards, output="again.tar")

    assert Path("again.tar").read_bytes() == merged.read_bytes()


def test_objects_of_a_model_are_renamed_and_their_registry_is_left_out(merged: Path) -> None:
    held = contents(merged)
    (name, _) = sorted(name for name in held if name.startswith("codegen/host/lib/"))

    assert name == "codegen/host/lib/dense_llvm_graph_host_lib0.o"
    assert sorted(parse_object(held[name], name).symbols.defined_names()) == [
        "tvmgen_dense_llvm_graph_host_extendhfsf2", "tvmgen_dense_llvm_graph_host_fused_add",
        "tvmgen_dense_llvm_graph_host_fused_nn_contrib_dense_pack_nn_relu", "tvmgen_dense_llvm_graph_host_truncsfhf2",
    ]  # fmt: skip


def test_the_registry_of_a_system_library_is_left_out_and_noted(real_archives: Path, tmp_path: Path) -> None:
    made = mlf.merge_archives({"a": real_archives / "clash-systemlib.tar"}, output=tmp_path / "a.tar")

    assert "TVMSystemLibEntryPoint" not in contents(tmp_path / "a.tar")["codegen/host/src/a_lib0.c"].decode()
    lost = [str(note) for note in made.notes if note.kind == "lost"]
    assert lost == [
        "lost a: TVMSystemLibEntryPoint: the registry of functions by name, of which a program can have one"
    ]
    assert warnings(real_archives / "clash-systemlib.tar") == ["registry-conflict"]
    assert warnings(tmp_path / "a.tar") == []


def test_runtimes_of_two_releases_get_a_folder_each_and_equal_ones_are_held_once(
    real_archives: Path, tmp_path: Path
) -> None:
    archives = {"a": "conv-alloc", "b": "tvm09-conv-alloc", "c": "dense-pool"}
    mlf.merge_archives(
        {name: real_archives / f"{case}.tar" for name, case in archives.items()}, output=tmp_path / "m.tar"
    )
    mlf.merge_archives({name: real_archives / f"{archives[name]}.tar" for name in "ac"}, output=tmp_path / "ac.tar")
    held = contents(tmp_path / "m.tar")
    urls = {
        name: module["external_dependencies"][0]["url"]
        for name, module in json.loads(held[METADATA_NAME])["modules"].items()
    }

    assert urls == {"a": "./runtime/a", "b": "./runtime/b", "c": "./runtime/a"}
    tops = {"/".join(name.split("/")[:2]) for name in held if name.startswith("runtime/")}
    assert tops == {"runtime/a", "runtime/b"}
    original = contents(real_archives / "conv-alloc.tar")
    assert [name for name in contents(tmp_path / "ac.tar") if name.startswith(("runtime/", "templates/"))] == [
        name for name in original if name.startswith(("runtime/", "templates/"))
    ]


def test_a_runtime_keeps_its_place_in_the_metadata_when_it_is_merged_again(real_archives: Path, tmp_path: Path) -> None:
    archives = {"a": "conv-alloc", "b": "tvm09-conv-alloc"}
    mlf.merge_archives(
        {name: real_archives / f"{case}.tar" for name, case in archives.items()}, output=tmp_path / "m.tar"
    )
    mlf.merge_archives([f"{tmp_path / 'm.tar'}", f"c={real_archives / 'conv-usmp.tar'}"], output=tmp_path / "n.tar")
    held = contents(tmp_path / "n.tar")

    for name, place in (("a", "a/a"), ("b", "a/b"), ("c", "c")):
        (dependency,) = json.loads(held[METADATA_NAME])["modules"][name]["external_dependencies"]
        assert dependency["url"] == f"./runtime/{place}"
        assert f"runtime/{place}/include/dlpack/dlpack.h" in held


def test_merging_one_model_under_its_own_name_is_a_conversion(real_archives: Path, tmp_path: Path) -> None:
    mlf.merge_archives([str(real_archives / "conv-usmp.tar")], output=tmp_path / "merged.tar")
    mlf.convert(real_archives / "conv-usmp.tar", output=tmp_path / "converted.tar")

    assert (tmp_path / "merged.tar").read_bytes() == (tmp_path / "converted.tar").read_bytes()


def test_only_the_name_differs_from_the_original(real_archives: Path, tmp_path: Path) -> None:
    mlf.convert(real_archives / "conv-usmp.tar", output=tmp_path / "before.tar")
    mlf.merge_archives({"kws": tmp_path / "before.tar"}, output=tmp_path / "after.tar")

    found = mlf.diff(tmp_path / "before.tar", tmp_path / "after.tar")
    assert [(item.place, item.before, item.after) for item in found.changes] == [("name", "default", "kws")]


def test_a_module_in_capitals_gets_a_header_that_its_code_includes(real_archives: Path, tmp_path: Path) -> None:
    mlf.merge_archives({"a": real_archives / "upper-usmp.tar"}, output=tmp_path / "a.tar")
    held = contents(tmp_path / "a.tar")

    code = held["codegen/host/src/a_lib0.c"].decode()
    assert "#include <tvmgen_a.h>" in code
    assert not re.search(r"tvmgen_[fF]oo", code + held["codegen/host/src/a_lib1.c"].decode())
    assert "#define TVMGEN_A_X_SIZE 32" in held["codegen/host/include/tvmgen_a.h"].decode()


# All versions.

FORMS = [
    (date, style)
    for date, release in DATED.items()
    for style in ("graph", "graph-linked", "aot-packed", "aot-unpacked", "aot-c")
    if (style != "aot-c" or not release.descriptor) and (date != "2021-03-10" or style.startswith("graph"))
]


@pytest.mark.parametrize(("date", "style"), FORMS, ids=str)
def test_an_archive_of_any_version_is_merged_with_itself(tmp_path: Path, date: str, style: str) -> None:
    source = old(tmp_path, "source", date, style)
    (before,) = modules(source).values()
    mlf.merge_archives({"a": source, "b": source}, output=tmp_path / "ab.tar")
    found = modules(tmp_path / "ab.tar")

    # The macros of TVM 0.11 say nonsense, in the original too, and its metadata has other names than its header.
    assert set(warnings(tmp_path / "ab.tar")) <= set(warnings(source)) <= {"macro-size", "tensor-names"}
    for name, module in found.items():
        assert facts(module) == facts(before)
        assert all(symbol.startswith(f"tvmgen_{name}_") for symbol in (*module.defined, *module.entrypoints.values()))
        assert set(module.graph.operators if module.graph else ()) <= module.defined


def test_old_names_become_those_that_version_3_gave(tmp_path: Path) -> None:
    mlf.merge_archives({"a": old(tmp_path, "old", "2021-05-07", "aot-packed")}, output=tmp_path / "a.tar")
    (module,) = modules(tmp_path / "a.tar").values()

    assert module.entrypoints == {
        "descriptor": "tvmgen_a_network", "main": "tvmgen_a_run_model", "tvm_module_main": "tvmgen_a_run_model",
    }  # fmt: skip
    assert list(module.metadata.operators) == ["tvmgen_a_fused_add", "tvmgen_a_fused_mix", "tvmgen_a_fused_pick"]
    assert "void* tvmgen_a_tvm_module_ctx = NULL;" in contents(tmp_path / "a.tar")["codegen/host/src/a_lib1.c"].decode()


def test_old_archives_give_the_same_numbers_from_a_merged_one(tmp_path: Path) -> None:
    forms = [("2021-03-10", "graph"), ("2021-05-07", "graph-linked"), ("0.8.0", "aot-packed"), ("0.9.0", "aot-unpacked"), ("0.17.0", "aot-c")]  # fmt: skip
    archives = {f"{letter}{index}": old(tmp_path, f"v{index}", *form) for letter in "ab" for index, form in enumerate(forms)}  # fmt: skip
    mlf.merge_archives(archives, output=tmp_path / "all.tar")
    mlf.link([str(tmp_path / "all.tar")], output=tmp_path / "libmodels.a")

    networks = [Network(release=DATED[date], **STYLES[style]) for date, style in forms] * 2
    steps = [(name, random_inputs(network, seed=7)) for name, network in zip(archives, networks, strict=True)]
    results = run_sequence(tmp_path / "libmodels.json", steps)
    for network, (_, inputs), result in zip(networks, steps, results, strict=True):
        for wanted, got in zip(expected(inputs, network).values(), result.values(), strict=True):
            np.testing.assert_array_equal(wanted.ravel(), got.ravel())


def test_one_archive_under_two_names_and_compressed(tmp_path: Path) -> None:
    source = SAMPLES / "glyph.tar"
    made = mlf.merge_archives({"left": source, "right": source}, output=tmp_path / "two.tar.zst")
    mlf.link([str(tmp_path / "two.tar.zst")], output=tmp_path / "libmodels.a")

    assert (made.archive, made.version, made.modules, made.member_count) == ("two.tar.zst", 8, ("left", "right"), 11)
    inputs, outputs = (load_arrays(SAMPLES / f"glyph.{kind}.npz") for kind in ("inputs", "outputs"))
    for result in run_sequence(tmp_path / "libmodels.json", [("left", inputs), ("right", inputs)]):
        np.testing.assert_allclose(result["output"], outputs["output"].ravel(), rtol=1e-5)


def test_all_modules_of_an_archive_come_under_their_own_names_and_can_be_merged_again(tmp_path: Path) -> None:
    names = {"tone": SAMPLES / "tone.tar", "glyph": SAMPLES / "glyph.tar"}
    mlf.merge_archives(names, output=tmp_path / "two.tar")
    mlf.merge_archives([f"{tmp_path / 'two.tar'}", f"wear={SAMPLES / 'motor.tar'}"], output=tmp_path / "three.tar")
    mlf.merge_archives([f"other={tmp_path / 'three.tar'}:glyph"], output=tmp_path / "one.tar")
    mlf.merge_archives({"other": SAMPLES / "glyph.tar"}, output=tmp_path / "direct.tar")

    assert list(modules(tmp_path / "three.tar")) == ["glyph", "tone", "wear"]
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "direct.tar").read_bytes()


# Described code.


def test_golden_tests_come_along_and_pass(tmp_path: Path) -> None:
    mlf.export(SAMPLES / "described", output=tmp_path / "knock.tar")
    source = tmp_path / "knock.tar"
    mlf.merge_archives({"left": source, "right": source}, output=tmp_path / "two.tar")
    held = contents(tmp_path / "two.tar")

    assert [name for name in held if name.startswith("tests/")] == [
        f"tests/{name}/knock.{kind}.npz" for name in ("left", "right") for kind in ("inputs", "outputs")
    ]
    assert warnings(tmp_path / "two.tar") == []
    for name in ("left", "right"):
        replay = mlf.replay(f"{tmp_path / 'two.tar'}:{name}")
        assert (replay.is_passed, len(replay.tests)) == (True, 1)


def scaled(factor: int, *, helper: str = "") -> dict[str, str]:
    """Code whose global names and headers every such model has."""
    code = '#include "scale.h"\n#include "deep/er.h"\nint calls;\nfloat scale(float v) { calls++; return v * FACTOR + ER; }\n'
    code += "void infer(const float* x, float* y) { struct box b = {.calls = 1}; b.calls += calls;\n"
    code += f"y[0] = scale(x[0]); y[1] = scale(x[1]){helper}; }}\n"
    return {
        "m.c": code,
        "scale.h": f"#define FACTOR {factor}\nextern int calls;\nfloat scale(float v);\nstruct box {{ int calls; }};\n",
        "deep/er.h": '#include "est.h"\n',
        "deep/est.h": f"#define ER {factor * 100}\n",
    }


def test_clashing_globals_and_headers_of_described_code_are_kept_apart(tmp_path: Path) -> None:
    archives = {name: described(tmp_path, name, scaled(factor)) for name, factor in (("a", 2), ("b", 3))}
    mlf.merge_archives(archives, output=tmp_path / "ab.tar")
    held = contents(tmp_path / "ab.tar")
    mlf.link([str(tmp_path / "ab.tar")], output=tmp_path / "libmodels.a")

    headers = [name.removeprefix("codegen/host/include/") for name in held if "/include/" in name]
    assert headers == [
        "a/deep/er.h", "a/deep/est.h", "a/scale.h", "b/deep/er.h", "b/deep/est.h", "b/scale.h", "tvmgen_a.h", "tvmgen_b.h",
    ]  # fmt: skip
    code = held["codegen/host/src/b_lib1.c"].decode()
    assert code.startswith(
        '#include "b/scale.h"\n#include "b/deep/er.h"\nint tvmgen_b_calls;\nfloat tvmgen_b_scale(float v)'
    )
    assert "struct box b = {.calls = 1}; b.calls += tvmgen_b_calls;" in code
    assert held["codegen/host/include/b/deep/er.h"] == b'#include "b/deep/est.h"\n'
    assert "struct box { int calls; };" in held["codegen/host/include/b/scale.h"].decode()
    assert warnings(tmp_path / "ab.tar") == []
    x = np.array([1, 2], np.float32)
    results = run_sequence(tmp_path / "libmodels.json", [("a", {"x": x}), ("b", {"x": x})])
    assert [result["y"].tolist() for result in results] == [[202, 204], [303, 306]]


def test_names_of_described_code_that_clash_with_nothing_stay(tmp_path: Path) -> None:
    archives = {"a": described(tmp_path, "a", scaled(2)), "b": SAMPLES / "tone.tar"}
    mlf.merge_archives(archives, output=tmp_path / "ab.tar")
    before, after = contents(archives["a"]), contents(tmp_path / "ab.tar")

    assert after["codegen/host/src/a_lib1.c"] == before["codegen/host/src/a_lib1.c"]
    assert after["codegen/host/include/scale.h"] == before["codegen/host/include/scale.h"]


def test_a_function_that_another_model_expects_of_the_firmware_is_kept_apart(tmp_path: Path) -> None:
    own = "float gain(void) { return 2; }\nvoid infer(const float* x, float* y) { y[0] = x[0] * gain(); }\n"
    foreign = "float gain(void);\nvoid inference(const float* x, float* y) { y[0] = x[0] * gain(); }\n"
    archives = {"a": described(tmp_path, "a", {"m.c": own}), "b": described(tmp_path, "b", {"m.c": foreign}, function="inference")}  # fmt: skip
    mlf.merge_archives(archives, output=tmp_path / "ab.tar")
    held = contents(tmp_path / "ab.tar")

    assert "float tvmgen_a_gain(void) { return 2; }" in held["codegen/host/src/a_lib1.c"].decode()
    assert held["codegen/host/src/b_lib1.c"].decode() == foreign


# C.


def renamed(text: str, *, old_name: str = "default", others: Mapping[str, str] | None = None) -> str:
    names = _Names(old_name, "kws")
    for name, new in (others or {}).items():
        names.add(name, new)
    return names.code(text, {"h/one.h": "kws/h/one.h"}, None)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("tvmgen_default_run(TVMGEN_DEFAULT_X_SIZE);", "tvmgen_kws_run(TVMGEN_KWS_X_SIZE);"),
        ("my_tvmgen_default_run tvmgen_defaults tvmgen_default2", "my_tvmgen_default_run tvmgen_defaults tvmgen_default2"),
        ("struct tvmgen_default_inputs { void* x; };", "struct tvmgen_kws_inputs { void* x; };"),
        ("// tvmgen_default_run\\\ntvmgen_default\ntvmgen_default_a", "// tvmgen_default_run\\\ntvmgen_default\ntvmgen_kws_a"),
        ("/* tvmgen_default_run */ tvmgen_default_a", "/* tvmgen_default_run */ tvmgen_kws_a"),
        (r'"tvmgen_default_run\" /*" tvmgen_default_a', r'"tvmgen_default_run\" /*" tvmgen_kws_a'),
        ("'\"' tvmgen_default_a '\"'", "'\"' tvmgen_kws_a '\"'"),
        ("1'000'000 + tvmgen_default_a", "1'000'000 + tvmgen_kws_a"),
        ('R"x(" tvmgen_default_a )" )x" tvmgen_default_b', 'R"x(" tvmgen_default_a )" )x" tvmgen_kws_b'),
        ('"tvmgen_default" /* mod_name*/}', '"tvmgen_kws" /* mod_name*/}'),
        ('"tvmgen_default" /* name*/}', '"tvmgen_default" /* name*/}'),
        ('__attribute__((alias("tvmgen_default_f")))', '__attribute__((alias("tvmgen_kws_f")))'),
        ("#include <tvmgen_default.h>", "#include <tvmgen_kws.h>"),
        ('# include "h/one.h" // tvmgen_default.h', '# include "kws/h/one.h" // tvmgen_default.h'),
        ("#include <math.h>", "#include <math.h>"),
        ("count + s.count + p->count + (count)", "k_count + s.count + p->count + (k_count)"),
        ("struct s { int count; } count;", "struct s { int count; } k_count;"),
        ("{.count = count}; counts recount", "{.count = k_count}; counts recount"),
        ("0x1.0p-5, 1e5f, count", "0x1.0p-5, 1e5f, k_count"),
    ],
)  # fmt: skip
def test_c_is_renamed_by_its_tokens(text: str, result: str) -> None:
    assert renamed(text, others={"count": "k_count"}) == result


def test_the_case_of_a_module_tells_nothing_apart() -> None:
    text = "tvmgen_Foo_run tvmgen_foo_run TVMGEN_FOO_H_ tvmgen_FOO_x\n#include <tvmgen_Foo.h>\n#include <tvmgen_foo.h>"
    assert renamed(text, old_name="Foo") == (
        "tvmgen_kws_run tvmgen_kws_run TVMGEN_KWS_H_ tvmgen_FOO_x\n#include <tvmgen_kws.h>\n#include <tvmgen_kws.h>"
    )


@pytest.mark.parametrize(
    "text", ['"' * 100_000, "'" * 100_000, "/*" * 50_000, 'R"(' * 30_000, "struct " * 20_000, "struct s {" * 20_000, '"\\\n' * 50_000]
)  # fmt: skip
def test_hostile_code_takes_no_time(text: str) -> None:
    assert renamed(text) == text
    assert definitions(text, is_cpp=True) == set()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("int f(int x) { return g(x); } static int h(void) { return 0; }", {"f"}),
        ("int f(int x); extern int a; extern int b = 3; typedef int t; struct s; struct u { int v; };", {"b"}),
        ("void* context = NULL; const model_t network = {\n.run = &f,\n}; int a[3] = {1, 2}, *b, c;", {"context", "network", "a", "b", "c"}),
        ("#define X(f) int f(void) { return 1; }\nX(made, int8_t)\nint k(void) { return made() + (int8_t)(1); }", {"made", "k"}),
        ('extern "C" {\nTVM_DLL int32_t f(void* a) {}\n}\nextern "C" int g() { return 1; }', {"f", "g"}),
        ('__attribute__((section(".x"), aligned(16))) int w[2] = {1, 2}; static int v[2] = {1, 2};', {"w"}),
        ("struct s { int x; } y; union z { int b; } *q = 0;", {"y", "q"}),
    ],
)  # fmt: skip
def test_global_definitions_of_c_are_found(text: str, found: set[str]) -> None:
    assert definitions(text, is_cpp=False) == found


def test_global_definitions_of_cpp_are_found_in_named_namespaces_and_classes() -> None:
    text = "namespace a { int f() { return 1; } class K { int m() { return 2; } }; }\nnamespace { int hidden() { return 3; } }\n"
    text += "template <typename T> T twice(T v) { return v * 2; }\nusing b = int;\n"

    assert definitions(text, is_cpp=True) == {"f", "K", "twice"}


# Objects.

OBJECT = """
template <typename T> __attribute__((noinline)) T twice(T v) { return v + v; }
extern "C" {
static int local_state = 3;
int tvmgen_default_state = 4;
int other(int);
int tvmgen_default_f(int x) { return twice(x) + tvmgen_default_state + local_state + other(x); }
int (*tvmgen_default_table[])(int) = {tvmgen_default_f, other};
}
"""
TARGETS = {
    "gcc": ("g++",),
    "clang": ("clang++", "-target", "x86_64-linux-gnu", "-faddrsig"),
    "arm": ("arm-none-eabi-g++", "-mcpu=cortex-m4", "-mthumb"),
}


def compiled(folder: Path, target: str) -> bytes:
    (folder / "m.cpp").write_text(OBJECT)
    command = [*TARGETS[target], "-g", "-O1", "-ffunction-sections", "-c", "m.cpp", "-o", "m.o"]
    subprocess.run(command, cwd=folder, check=True)
    return (folder / "m.o").read_bytes()


def sections(data: bytes) -> dict[tuple[str, int], tuple[object, ...]]:
    """Everything of an object but its symbol table, with sections and symbols by their names."""
    elf = ELFFile(io.BytesIO(data))
    every = list(elf.iter_sections())
    table = elf.get_section_by_name(".symtab")
    assert isinstance(table, SymbolTableSection)
    symbols = [symbol.name for symbol in table.iter_symbols()]
    found: dict[tuple[str, int], tuple[object, ...]] = {}
    for index, section in enumerate(every):
        if section["sh_type"] in ("SHT_SYMTAB", "SHT_STRTAB"):
            continue
        content: object = section.data()
        info: object = section["sh_info"]
        if section["sh_type"] == "SHT_GROUP":
            words = np.frombuffer(section.data(), "<u4")
            content, info = [words[0], *(every[word].name for word in words[1:])], symbols[section["sh_info"]]
        if section["sh_type"] in ("SHT_REL", "SHT_RELA"):
            info = every[section["sh_info"]].name
        link = every[section["sh_link"]].name
        count = sum(key[0] == section.name for key in found)
        found[section.name, count] = (
            section["sh_type"],
            section["sh_flags"],
            section["sh_addralign"],
            content,
            link,
            info,
        )
        assert index < len(every)
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_an_object_keeps_everything_but_its_names(tmp_path: Path, target: str) -> None:
    data = compiled(tmp_path, target)
    names = _Names("default", "kws")
    names.add("_Z5twiceIiET_S0_", "tvmgen_kws_twice")
    result = _renamed_object(data, "m.o", names)
    before, after = parse_object(data, "before").symbols, parse_object(result, "after").symbols

    assert after.names == [names(name) for name in before.names]
    assert {"tvmgen_kws_f", "tvmgen_kws_state", "tvmgen_kws_twice"} <= set(after.defined_names())
    assert after.undefined_names() == before.undefined_names()
    for column in ("info", "other", "value", "size"):
        np.testing.assert_array_equal(getattr(after, column), getattr(before, column))

    def named(found: dict[tuple[str, int], tuple[object, ...]]) -> dict[tuple[str, int], tuple[object, ...]]:
        return {key: tuple(names(item) if isinstance(item, str) else item for item in value) for key, value in found.items()}  # fmt: skip

    assert named(sections(result)) == named(sections(data))


def test_a_renamed_object_runs(tmp_path: Path) -> None:
    data = compiled(tmp_path, "gcc")
    for name in ("a", "b"):
        names = _Names("default", name)
        names.add("_Z5twiceIiET_S0_", f"tvmgen_{name}_twice")
        (tmp_path / f"{name}.o").write_bytes(_renamed_object(data, "m.o", names))
    main = "int tvmgen_a_f(int); int tvmgen_b_f(int); extern int tvmgen_b_state; int other(int x) { return x; }\n"
    main += "int main(void) { tvmgen_b_state = 10; return tvmgen_a_f(1) * 10 + tvmgen_b_f(2) != 10 * 10 + 19; }\n"
    (tmp_path / "main.c").write_text(main)
    subprocess.run(["gcc", "-no-pie", "main.c", "a.o", "b.o", "-o", "main"], cwd=tmp_path, check=True)

    assert subprocess.run([tmp_path / "main"], check=False).returncode == 0


def test_objects_in_a_library_are_renamed_with_its_index(tmp_path: Path) -> None:
    library = write_ar([ArMember(name="m.o", data=compiled(tmp_path, "gcc"), symbols=("tvmgen_default_f",))])
    result = _renamed_library(library, "lib.a", _Names("default", "kws"))
    (tmp_path / "lib.a").write_bytes(result)

    assert [name for name, _ in read_ar(result, "lib.a")] == ["m.o"]
    listed = subprocess.run(["nm", "-s", "lib.a"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert "tvmgen_kws_f in m.o" in listed
    assert "tvmgen_default" not in listed


def test_an_object_without_such_names_keeps_every_byte(tmp_path: Path) -> None:
    data = compiled(tmp_path, "gcc")

    assert _renamed_object(data, "m.o", _Names("other", "kws")) == data


# What is refused.


def test_two_models_of_one_name_are_refused_with_a_command_that_works(tmp_path: Path) -> None:
    one, two = SAMPLES / "tone.tar", SAMPLES / "glyph.tar"
    with pytest.raises(NameClashError) as caught:
        mlf.merge_archives([str(one), str(two)], output=tmp_path / "out.tar")

    assert str(caught.value) == (
        f"{one} and {two} both hold a model called `default`; give each a name of its own: "
        f"`mlf link tone={one} glyph={two} --merge-archive {tmp_path / 'out.tar'}`"
    )
    assert list(tmp_path.iterdir()) == []


def test_operator_archives_are_refused(tmp_path: Path) -> None:
    source = old(tmp_path, "operators", style="operator")
    with pytest.raises(UnsupportedError) as caught:
        mlf.merge_archives({"a": source}, output=tmp_path / "out.tar")

    assert str(caught.value) == "operators.tar: module `several` holds operators and no model"


@pytest.mark.parametrize(
    ("request_text", "message"),
    [
        ("Upper=tone.tar", "tone.tar: `Upper` cannot be a model's name: expected a small letter, then small letters, digits and _"),
        ("int=tone.tar", "tone.tar: `int` cannot be a model's name: it is a keyword of C or C++"),
        ("a=tone.tar:other", "tone.tar: has no module `other`; it has `default`"),
    ],
)  # fmt: skip
def test_names_that_link_would_refuse_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_text: str, message: str
) -> None:
    shutil.copy(SAMPLES / "tone.tar", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises((NameClashError, LinkError)) as caught:
        mlf.merge_archives([request_text], output="out.tar")

    assert str(caught.value) == message
    assert not Path("out.tar").exists()


def test_models_whose_macros_clash_are_refused(tmp_path: Path) -> None:
    one = old(tmp_path, "one", inputs=("b_workspace", "x"))
    two = old(tmp_path, "two")
    with pytest.raises(NameClashError) as caught:
        mlf.merge_archives({"a": one, "a_b": two}, output=tmp_path / "out.tar")

    assert str(caught.value) == "`a` (one.tar) and `a_b` (two.tar) both make `TVMGEN_A_B_WORKSPACE_SIZE`"


def test_models_whose_functions_clash_are_refused(tmp_path: Path) -> None:
    code = "void tvmgen_one_b_f(void) {}\nvoid infer(const float* x, float* y) { y[0] = x[0]; }\n"
    other = "void tvmgen_two_f(void) {}\nvoid inference(const float* x, float* y) { y[0] = x[0]; }\n"
    archives = {"a": described(tmp_path, "one", {"m.c": code}), "a_b": described(tmp_path, "two", {"m.c": other}, function="inference")}  # fmt: skip
    with pytest.raises(NameClashError) as caught:
        mlf.merge_archives(archives, output=tmp_path / "out.tar")

    assert str(caught.value) == "`a` (one.tar) and `a_b` (two.tar) both make `tvmgen_a_b_f`"


def test_a_model_that_would_have_two_functions_of_one_name_is_refused(tmp_path: Path) -> None:
    code = (
        "void tvmgen_one_f(void) {}\nvoid tvmgen_a_f(void) {}\nvoid infer(const float* x, float* y) { y[0] = x[0]; }\n"
    )
    with pytest.raises(NameClashError) as caught:
        mlf.merge_archives({"a": described(tmp_path, "one", {"m.c": code})}, output=tmp_path / "out.tar")

    assert str(caught.value) == "`a` (one.tar) makes `tvmgen_a_f` twice"


def test_nothing_to_merge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LinkError) as caught:
        mlf.merge_archives([], output=tmp_path / "out.tar")

    assert str(caught.value) == "there is nothing to merge"


# The command line.


def command(*arguments: str | Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mlf", *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_the_command_needs_no_compiler_and_tells_what_it_wrote(tmp_path: Path) -> None:
    named = [f"{name}={SAMPLES / name}.tar" for name in ("tone", "glyph")]
    done = command("link", *named, "--merge-archive", "out.tar", folder=tmp_path, MLF_CC="no-such-compiler")
    again = command("link", *named, "--merge-archive", "json.tar", "--json", folder=tmp_path, PATH="")

    identity = validate(tmp_path / "out.tar").identity
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:2] == [
        "out.tar: version 8, modules glyph, tone, 11 members",
        f"  identity  {identity}",
    ]
    document = json.loads(again.stdout)
    assert (document["schema"], document["modules"], document["identity"]) == (
        "mlf-export-v1",
        ["glyph", "tone"],
        identity,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["json.tar", "out.tar"]


@pytest.mark.parametrize(
    ("options", "listed"),
    [(["-o", "x.a"], "--output"), (["--target", "host", "--no-fold", "--dry-run"], "--target, --no-fold, --dry-run")],
)
def test_options_of_a_library_do_not_go_with_it(tmp_path: Path, options: Sequence[str], listed: str) -> None:
    done = command("link", SAMPLES / "tone.tar", "--merge-archive", "out.tar", *options, folder=tmp_path)

    assert done.returncode == UsageError.exit_status
    assert done.stderr == f"error: --merge-archive links no library, so it does not go with {listed}\n"
    assert list(tmp_path.iterdir()) == []


def test_the_time_of_the_members_is_that_of_source_date_epoch(tmp_path: Path) -> None:
    command("link", SAMPLES / "tone.tar", "--merge-archive", "out.tar", folder=tmp_path, SOURCE_DATE_EPOCH="1700000000")

    with tarfile.open(tmp_path / "out.tar") as tar:
        assert {entry.mtime for entry in tar} == {1700000000}
