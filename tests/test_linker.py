from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from archives import RELEASES, SNAPSHOTS, STYLES, Network, expected, members, random_inputs, write
from sequence import run_sequence

from mlf.arenas import ArenaOptions
from mlf.arrays import load_arrays
from mlf.build import _ModelBuilder, _Support
from mlf.descriptor import find
from mlf.errors import LinkError, NameClashError, UnsupportedError
from mlf.linker import LinkOptions, LinkRequest, link, parse_request, plan_link
from mlf.toolchain import RUNTIME, compiler_for

if TYPE_CHECKING:
    from collections.abc import Mapping

SAMPLES = Path(__file__).parent.parent / "samples"
TARGETS = ("host", "cortex-m4", "rv32imac")
NAMES = ("glyph", "motor", "tone")
BINUTILS = {"host": "", "cortex-m4": "arm-none-eabi-", "rv32imac": "riscv64-unknown-elf-"}


def tool(target: str, name: str, *arguments: str | Path) -> str:
    done = subprocess.run([BINUTILS[target] + name, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sample_requests() -> list[LinkRequest]:
    return [LinkRequest(path=SAMPLES / f"{name}.tar", name=name) for name in NAMES]


def link_samples(
    folder: Path, target: str = "host", *, cflags: tuple[str, ...] = (), options: LinkOptions | None = None
) -> Path:
    compiler = compiler_for(target, cflags=cflags)
    link(plan_link(sample_requests(), output=folder / "libmodels.a", compiler=compiler, options=options))
    return folder / "libmodels.a"


@pytest.fixture(scope="module", params=TARGETS)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return link_samples(tmp_path_factory.mktemp(request.param), request.param), request.param


def document_of(library: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(library.with_suffix(".json").read_text())
    return found


def test_models_of_one_library_give_the_golden_numbers(library: tuple[Path, str]) -> None:
    path, _ = library
    order = ["tone", "glyph", "tone", "motor", "glyph"]

    results = run_sequence(
        path.with_suffix(".json"), [(name, load_arrays(SAMPLES / f"{name}.inputs.npz")) for name in order]
    )

    for name, result in zip(order, results, strict=True):
        for tensor, golden in load_arrays(SAMPLES / f"{name}.outputs.npz").items():
            assert abs(result[tensor].astype("f8") - golden.ravel().astype("f8")).max() < (
                1e-5 if golden.dtype.kind == "f" else 0.5
            )


def global_symbols(path: Path, target: str) -> dict[str, set[tuple[str, str]]]:
    """The names that a library defines for all members, with their binding and visibility."""
    found: dict[str, set[tuple[str, str]]] = {}
    for line in tool(target, "readelf", "-sW", path).splitlines():
        words = line.split()
        if len(words) == 8 and words[4] in ("GLOBAL", "WEAK") and words[6] != "UND":
            found.setdefault(words[7], set()).add((words[4], words[5]))
    return found


def test_nothing_is_global_but_entrypoints_and_the_registry(library: tuple[Path, str]) -> None:
    path, target = library

    symbols = global_symbols(path, target)

    own = {name for name, kinds in symbols.items() if kinds == {("GLOBAL", "DEFAULT")}}
    assert own == {
        *(f"tvmgen_{name}_{role}" for name in NAMES for role in ("run", "tvm_module_main")),
        *(f"mlf_model_{name}" for name in NAMES), *document_of(path)["registry"]["symbols"],  # type: ignore[index]
    }  # fmt: skip
    shared = {name for name, kinds in symbols.items() if kinds == {("GLOBAL", "HIDDEN")}}
    arena = document_of(path)["arenas"][0]["symbol"]  # type: ignore[index]
    assert re.fullmatch(r"mlf_arena_[0-9a-f]{8}", arena)
    assert shared >= {arena, f"{arena}_memory"}
    assert {name for name in shared if not name.startswith(arena)} == set()
    weak = {name for name, kinds in symbols.items() if kinds == {("WEAK", "HIDDEN")}}
    assert weak == symbols.keys() - own - shared
    groups = weak - {"mlf_check_arguments_1"}  # of which a program with two libraries has two that are the same
    assert groups < weak
    assert {name for name in groups if not re.fullmatch(r"mlf_fold_[0-9a-f]{32}(_[0-9a-f]+)*", name)} == set()


def test_without_folding_only_the_check_of_arguments_is_weak(tmp_path: Path) -> None:
    path = link_samples(tmp_path, options=LinkOptions(is_folded=False))

    symbols = global_symbols(path, "host")
    assert symbols.pop("mlf_check_arguments_1") == {("WEAK", "HIDDEN")}
    assert {kinds for name in symbols.values() for kinds in name} == {("GLOBAL", "DEFAULT"), ("GLOBAL", "HIDDEN")}


def test_the_document_names_what_nm_lists_as_undefined(library: tuple[Path, str]) -> None:
    path, target = library
    listed: dict[str, set[str]] = {}
    for line in tool(target, "nm", "-u", "-P", "-A", path).splitlines():
        member = re.search(r"\[(.*)\]:", line)
        assert member is not None
        listed.setdefault(member[1], set()).add(line.split(": ")[1].split()[0])

    said = {model["member"]: set(model["needs"]) for model in document_of(path)["models"]}  # type: ignore[attr-defined]

    assert said == {f"tvmgen_{name}.o": listed.get(f"tvmgen_{name}.o", set()) for name in NAMES}


def test_the_documents_sizes_are_those_of_size(library: tuple[Path, str]) -> None:
    path, target = library
    rows = [line.split() for line in tool(target, "size", path).splitlines()[1:]]
    measured = {row[5]: tuple(int(number) for number in row[:3]) for row in rows}
    document = document_of(path)
    parts = [*document["models"], *document["arenas"], document["arguments"], document["registry"]]  # type: ignore[misc]

    said = {part["member"]: tuple(part["sizes"][f"{kind}_bytes"] for kind in ("text", "data", "bss")) for part in parts}

    assert said == measured
    assert sorted(measured) == [
        document["arenas"][0]["member"], "mlf_arguments.o", "mlf_models.o", *(f"tvmgen_{name}.o" for name in NAMES)  # type: ignore[index]
    ]  # fmt: skip


def test_the_documents_totals_are_of_all_members_but_the_registry(library: tuple[Path, str]) -> None:
    path, target = library
    rows = [line.split() for line in tool(target, "size", path).splitlines()[1:]]
    counted = [tuple(map(int, row[:3])) for row in rows if row[5] != "mlf_models.o"]
    document = document_of(path)
    totals: dict[str, int] = document["totals"]  # type: ignore[assignment]
    saved: dict[str, int] = document["saved"]  # type: ignore[assignment]

    flash = sum(text + data for text, data, _ in counted) - saved["folded_bytes"] - totals["merged_bytes"]
    assert totals["flash_bytes"] == flash + totals["flash_padding_bytes"]
    assert totals["ram_bytes"] == sum(data + bss for _, data, bss in counted) + totals["ram_padding_bytes"]


def test_weights_are_read_only_even_where_tvm_forgot_const(library: tuple[Path, str]) -> None:
    path, target = library
    with tarfile.open(SAMPLES / "glyph.tar") as archive:
        source = archive.extractfile("./codegen/host/src/default_lib0.c")
        assert source is not None
        assert b"static struct global_const_workspace" in source.read()

    sections = re.findall(
        r"\] (\.rodata\S*) +PROGBITS +\S+ +\S+ +(\S+) +\S+ +(\S*)", tool(target, "readelf", "-SW", path)
    )

    assert sum(int(size, 16) for _, size, _ in sections) > 3 * 4096
    assert {flags for _, _, flags in sections if "W" in flags} == set()
    writable = re.findall(r"\] (\S+) +PROGBITS +\S+ +\S+ +\S+ +\S+ +WA", tool(target, "readelf", "-SW", path))
    # Programs for this machine may lie anywhere, so tables of addresses are filled in as it loads them.
    assert {name for name in writable if not (target == "host" and name.startswith(".data.rel.ro."))} == set()
    sizes = [model["sizes"]["data_bytes"] for model in document_of(path)["models"]]  # type: ignore[attr-defined]
    assert target == "host" or sizes == [0, 0, 0]


@pytest.mark.parametrize("collects", [True, False])
def test_an_application_without_the_registry_pays_nothing_for_it_or_for_models_it_does_not_call(
    tmp_path: Path, *, collects: bool
) -> None:
    path = link_samples(tmp_path, "cortex-m4")
    (tmp_path / "main.c").write_text(
        "#include <tvmgen_motor.h>\nint main(void) { return tvmgen_motor_run(0, 0, 0); }\n"
        "void _start(void) { main(); }\n"
    )
    select = ["-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"]
    collect = ["-Wl,--gc-sections"] if collects else []
    sources = [tmp_path / "main.c", RUNTIME / "board" / "memory.c", path]
    tool(
        "cortex-m4", "gcc", *select, "-O1", "-w", "-nostdlib", *collect, f"-I{tmp_path / 'include'}", *sources, "-lgcc", "-o",
        tmp_path / "app",
    )  # fmt: skip

    names = {line.split()[0] for line in tool("cortex-m4", "nm", "-P", tmp_path / "app").splitlines()}
    listed = tool("cortex-m4", "nm", "-P", "--defined-only", path).split("tvmgen_motor.o]:\n")[1].split("\n/")[0]
    of_motor = {line.split()[0] for line in listed.splitlines()}
    ours = {name for name in names if name.startswith(("mlf_", "tvmgen_"))}

    assert "tvmgen_motor_run" in ours
    assert ours - of_motor == (set() if collects else {"mlf_check_arguments_1"})
    beside_run = {"mlf_model_motor", "tvmgen_motor_tvm_module_main", "run_by_arrays"}
    assert names & beside_run == (set() if collects else beside_run)
    descriptors = [found.descriptor for found in find((tmp_path / "app").read_bytes())]
    assert [descriptor.name for descriptor in descriptors if descriptor] == ["motor"]


# Networks of every style of interface, operators, executor and memory.
STYLED = {
    "alloc": Network(),
    "internal": Network(memory="internal"),
    "external": Network(memory="external"),
    "constant": Network(memory="constant"),
    "mixed": Network(memory="mixed"),
    "devices": Network(memory="external", devices=("ethos_u", "npu")),
    **{name.replace("-", "_"): Network(**style) for name, style in STYLES.items() if name != "operator"},
    "packed_internal": Network(interface="packed", memory="internal", is_complete=True),
    "keywords": Network(inputs=("default", "int"), outputs=("class", "1st")),
    "keywords_packed": Network(inputs=("x", "X"), outputs=("return", "Return"), **STYLES["aot-packed"]),
    "old": Network(release=RELEASES["0.8.0"], **STYLES["aot-packed"]),
    "old_graph": Network(release=RELEASES["0.8.0"], **STYLES["graph-linked"]),
}


def styled_requests(folder: Path) -> list[LinkRequest]:
    return [
        LinkRequest(path=write(folder / f"{name}.tar", members(network)), name=name) for name, network in STYLED.items()
    ]


@pytest.mark.parametrize("style", ["shared", "private", "external"])
@pytest.mark.parametrize("target", TARGETS)
def test_models_of_every_style_give_the_right_numbers_from_one_library(tmp_path: Path, target: str, style: str) -> None:
    requests = styled_requests(tmp_path)
    options = LinkOptions(arenas=ArenaOptions(style=style))
    link(plan_link(requests, output=tmp_path / "libmodels.a", compiler=compiler_for(target), options=options))
    order = [*STYLED, *reversed(STYLED)]
    inputs = [random_inputs(STYLED[name], step) for step, name in enumerate(order)]

    results = run_sequence(tmp_path / "libmodels.json", list(zip(order, inputs, strict=True)))

    for name, given, result in zip(order, inputs, results, strict=True):
        for tensor, values in expected(given, STYLED[name]).items():
            np.testing.assert_array_equal(result[tensor], values.ravel(), err_msg=f"{name} {tensor}")


# Forms of archives, oldest first: those of a day have no C interface yet, and of one the text of packed operators is no C.
DATED = {
    f"{date}_{style}".replace("-", "_").replace(".", "_"): Network(release=release, **STYLES[style])
    for date, release in {**SNAPSHOTS, **RELEASES}.items()
    for style in ("graph", "graph-linked", "aot-packed", "aot-unpacked", "aot-c")
    if not (style == "aot-c" and release.version < 6 and date in SNAPSHOTS)
    and not (date == "0.9.dev-v5" and style not in ("aot-unpacked", "aot-c"))
}


def test_archives_of_every_date_and_style_give_the_right_numbers_from_one_library(tmp_path: Path) -> None:
    models = {f"of_{name}": network for name, network in DATED.items()}
    requests = [
        LinkRequest(path=write(tmp_path / f"{name}.tar", members(network)), name=name)
        for name, network in models.items()
    ]
    link(plan_link(requests, output=tmp_path / "libmodels.a", compiler=compiler_for("host")))
    inputs = [random_inputs(network, step) for step, network in enumerate(models.values())]

    results = run_sequence(tmp_path / "libmodels.json", list(zip(models, inputs, strict=True)))

    assert len(models) > 70
    for (name, network), given, result in zip(models.items(), inputs, results, strict=True):
        # TVM 0.11 had other names for outputs behind the packed interface.
        for values, got in zip(expected(given, network).values(), result.values(), strict=True):
            np.testing.assert_array_equal(got, values.ravel(), err_msg=name)


LENIENT = ("-w", "-Wno-incompatible-pointer-types", "-std=gnu99")  # which the code of others needs
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")


@pytest.mark.parametrize("style", ["shared", "external"])
@pytest.mark.parametrize("target", ["host", "cortex-m0", "cortex-m4", "rv32imac", "aarch64"])
def test_everything_that_is_generated_compiles_without_a_warning(tmp_path: Path, target: str, style: str) -> None:
    options = LinkOptions(arenas=ArenaOptions(style=style))
    compiler = compiler_for(target, cflags=STRICT)
    plan = plan_link(styled_requests(tmp_path), output=tmp_path / "libmodels.a", compiler=compiler, options=options)
    builders = [_ModelBuilder(model, plan, tmp_path / "models" / model.name) for model in plan.models]
    support = _Support(plan, tmp_path / ".support", builders)
    owners: list[_Support | _ModelBuilder] = [*builders, support]

    sources = [
        (owner, unit)
        for owner in owners
        for unit in owner.units()
        if owner is support or unit.source.startswith("glue/")
    ]

    assert len(sources) == len(plan.arenas) + 2 + len(plan.models)
    for owner, unit in sources:
        command = compiler.compile_command(unit.source, unit.output, cwd=owner.folder, extra=unit.extra)
        words = [word for word in command.argv if word not in LENIENT]
        done = subprocess.run(words, cwd=owner.folder, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), f"{owner.name} {unit.source}\n{done.stderr}"


@pytest.mark.parametrize(("language", "standard"), [("c", "-std=c99"), ("c++", "-std=c++11")])
@pytest.mark.parametrize("style", ["shared", "external"])
def test_headers_compile_without_a_warning(tmp_path: Path, language: str, standard: str, style: str) -> None:
    plan = plan_link(
        [*sample_requests(), *styled_requests(tmp_path)],
        output=tmp_path / "libmodels.a",
        compiler=compiler_for("host"),
        options=LinkOptions(arenas=ArenaOptions(style=style)),
    )
    support = _Support(plan, tmp_path / "include", [])
    assert len(list(support.units())) == len(plan.arenas) + 2

    assert len(support.headers) == len(NAMES) + len(STYLED) + 4
    for header in support.headers:
        (tmp_path / "use.txt").write_text(f"#include <{header}>\n#include <{header}>\nint main(void) {{ return 0; }}\n")
        paths = (f"-I{tmp_path / 'include'}", "-c", str(tmp_path / "use.txt"), "-o", str(tmp_path / "use.o"))
        assert tool("host", "gcc", "-x", language, standard, *STRICT[1:], *paths) == ""


def test_an_application_written_against_tvms_header_compiles_unchanged_when_the_model_keeps_its_name(
    tmp_path: Path,
) -> None:
    application = """
        #include <tvmgen_default.h>
        static char in[TVMGEN_DEFAULT_SAMPLES_SIZE], out[TVMGEN_DEFAULT_OUTPUT_SIZE];
        int main(void) {
          struct tvmgen_default_inputs inputs = {.samples = in};
          struct tvmgen_default_outputs outputs = {.output = out};
          return tvmgen_default_run(&inputs, &outputs) + (TVMGEN_DEFAULT_WORKSPACE_SIZE == 0);
        }
    """
    (tmp_path / "main.c").write_text(application)
    (tmp_path / "tvm").mkdir()
    tool("host", "tar", "-xf", SAMPLES / "tone.tar", "-C", tmp_path / "tvm")
    link(
        plan_link(
            [LinkRequest(path=SAMPLES / "tone.tar")], output=tmp_path / "libmodels.a", compiler=compiler_for("host")
        )
    )

    for include in (tmp_path / "tvm" / "codegen" / "host" / "include", tmp_path / "include"):
        tool(
            "host",
            "gcc",
            "-Wall",
            "-Werror",
            f"-I{include}",
            tmp_path / "main.c",
            tmp_path / "libmodels.a",
            "-lm",
            "-o",
            tmp_path / "app",
        )


LINK = [sys.executable, "-m", "mlf", "link"]


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("cflags", ["", "-g"])
def test_the_same_archives_give_the_same_bytes_anywhere(tmp_path: Path, target: str, cflags: str) -> None:
    plain, odd = tmp_path / "a", tmp_path / "b b" / "deeper"
    for folder in (plain, odd):
        folder.mkdir(parents=True)
        for name in NAMES:
            shutil.copyfile(SAMPLES / f"{name}.tar", folder / f"{name}.tar")
        for name in ("aot_packed", "graph"):
            write(folder / f"{name}.tar", members(STYLED[name]))
    options = ["--target", target, "--cflags", cflags, "-o", "build/libmodels.a"]
    requests = [f"{name}={name}.tar" for name in (*NAMES, "aot_packed", "graph")]
    environment = {
        "TZ": "Asia/Tokyo",
        "LC_ALL": "C.UTF-8",
        "LANG": "tr_TR.UTF-8",
        "PYTHONHASHSEED": "7",
        "TMPDIR": str(odd),
    }

    subprocess.run([*LINK, *requests, *options], cwd=plain, check=True, capture_output=True)
    subprocess.run(
        ["sh", "-c", 'umask 077; exec "$@"', "sh", *LINK, "-j1", *reversed(requests), *options],
        cwd=odd, check=True, capture_output=True, env={**os.environ, **environment},
    )  # fmt: skip

    assert sorted(written(plain / "build")) == [
        "include/dlpack/dlpack.h", "include/mlf/model.h", "include/mlf/models.h", "include/tvm/runtime/c_runtime_api.h",
        *(f"include/tvmgen_{name}.h" for name in ("aot_packed", "glyph", "graph", "motor", "tone")), "libmodels.a", "libmodels.json",
    ]  # fmt: skip
    assert written(plain / "build") == written(odd / "build")
    assert str(tmp_path).encode() not in b"".join(written(plain / "build").values())


def test_debug_information_names_the_lines_of_each_models_source(tmp_path: Path) -> None:
    path = link_samples(tmp_path, cflags=("-g",))
    (tmp_path / "main.c").write_text(
        '#include <mlf/models.h>\nint main(void) { return mlf_find_model("tone")->run(0, 0, 0, 0); }\n'
    )
    tool(
        "host", "gcc", f"-I{tmp_path / 'include'}", "-no-pie", tmp_path / "main.c", path, "-lm", "-o", tmp_path / "app"
    )
    addresses = {
        line.split()[2]: line.split()[0]
        for line in tool("host", "nm", tmp_path / "app").splitlines()
        if len(line.split()) == 3
    }

    for name, member in (("tone", "default_lib1.c"), ("glyph", "default_lib1.c")):
        with tarfile.open(SAMPLES / f"{name}.tar") as archive:
            file = archive.extractfile(f"./codegen/host/src/{member}")
            assert file is not None
            lines = file.read().decode().splitlines()
        place = tool("host", "addr2line", "-e", tmp_path / "app", addresses[f"tvmgen_{name}_fused_nn_softmax"]).strip()
        found, number = place.rsplit(":", 1)
        assert found.endswith(member)
        assert "tvmgen_default_fused_nn_softmax(" in lines[int(number.split()[0]) - 1]


def test_dry_run_shows_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [*LINK, "--dry-run", f"a={SAMPLES / 'tone.tar'}", "-o", "out/libmodels.a", "--target", "cortex-m4"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip

    first, *rest = done.stdout.splitlines()
    assert re.fullmatch(r"out/libmodels\.a for cortex-m4, compiled by arm-none-eabi-gcc \d.*", first)
    arena = re.match(r"  arena (mlf_arena_[0-9a-f]{8}): ", rest[-1])
    assert arena
    assert rest == [
        f"  a: module `default` of {SAMPLES / 'tone.tar'} (version 7)",
        "    entrypoint tvmgen_a_run, which calls tvmgen_default___tvm_main__ (unpacked)",
        "    workspace  2192 bytes (allocator)",
        "    compiles   default_lib0.c, default_lib1.c",
        f"  arena {arena[1]}: 2192 bytes in the library, for a",
    ]
    assert list(tmp_path.iterdir()) == []


def test_two_archives_of_one_name_are_refused_with_the_command_that_works(tmp_path: Path) -> None:
    first, second = SAMPLES / "tone.tar", SAMPLES / "glyph.tar"

    with pytest.raises(NameClashError) as caught:
        plan_link(
            [LinkRequest(path=first), LinkRequest(path=second)], output=tmp_path / "x.a", compiler=compiler_for("host")
        )

    assert str(caught.value) == (
        f"{first} and {second} both hold a model called `default`; give each a name of its own: "
        f"`mlf link tone={first} glyph={second} -o {tmp_path / 'x.a'}`"
    )


def test_a_model_whose_generated_names_meet_another_ones_is_refused(tmp_path: Path) -> None:
    plan = [LinkRequest(path=SAMPLES / "tone.tar", name="a"), LinkRequest(path=SAMPLES / "tone.tar", name="a_samples")]

    link(
        plan_link(plan, output=tmp_path / "libmodels.a", compiler=compiler_for("host"))
    )  # A_SAMPLES_SIZE, A_SAMPLES_SAMPLES_SIZE

    assert (tmp_path / "libmodels.a").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kws=a.tar", LinkRequest(path=Path("a.tar"), name="kws")),
        ("a.tar", LinkRequest(path=Path("a.tar"))),
        ("a.tar:first", LinkRequest(path=Path("a.tar"), module="first")),
        ("kws=dir/a.tar:first", LinkRequest(path=Path("dir/a.tar"), name="kws", module="first")),
        ("dir=1/a.tar", LinkRequest(path=Path("1/a.tar"), name="dir")),
        ("some/dir=1/a.tar", LinkRequest(path=Path("some/dir=1/a.tar"))),
    ],
)
def test_requests_are_taken_apart(text: str, expected: LinkRequest) -> None:
    assert parse_request(text) == expected


def test_a_file_whose_name_looks_like_a_request_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(SAMPLES / "tone.tar", tmp_path / "a=b:c.tar")

    assert parse_request("a=b:c.tar") == LinkRequest(path=Path("a=b:c.tar"))
    assert parse_request("kws=a=b:c.tar") == LinkRequest(path=Path("a=b:c.tar"), name="kws")


def test_an_unknown_module_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(LinkError) as caught:
        plan_link(
            [LinkRequest(path=SAMPLES / "tone.tar", module="nope")],
            output=tmp_path / "x.a",
            compiler=compiler_for("host"),
        )

    assert str(caught.value) == "tone.tar: has no module `nope`; it has `default`"


def test_a_compiler_launcher_may_stand_in_front(tmp_path: Path) -> None:
    launcher = tmp_path / "launcher"
    launcher.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/log\nexec "$@"\n')
    launcher.chmod(0o755)
    compiler = compiler_for("host", cc=f"{launcher} gcc")

    link(
        plan_link(
            [LinkRequest(path=SAMPLES / "tone.tar", name="a")], output=tmp_path / "libmodels.a", compiler=compiler
        )
    )

    assert (
        sum("-c" in line.split() for line in (tmp_path / "log").read_text().splitlines()) == 6
    )  # two of the model and its glue, arena, arguments, registry


def refusal(folder: Path, content: Mapping[str, bytes]) -> str:
    path = write(folder / "odd.tar", content)
    with pytest.raises(UnsupportedError) as caught:
        plan_link([LinkRequest(path=path)], output=folder / "x.a", compiler=compiler_for("host"))
    return str(caught.value)


def edited(content: Mapping[str, bytes], old: bytes, new: bytes) -> dict[str, bytes]:
    changed = {name: data.replace(old, new) for name, data in content.items()}
    assert changed != content
    return changed


def test_a_main_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    taken = b"float* output2_buffer_var"
    content = edited(members(Network(**STYLES["aot-unpacked"])), taken, taken + b", uint8_t* something")

    assert refusal(tmp_path, content) == "odd.tar: module `default` has no main function of a known form"


def test_tensors_of_unknown_size_are_refused(tmp_path: Path) -> None:
    content = members(Network(release=RELEASES["0.9.0"], interface="packed"))
    content = edited(content, b"Tensor[(1, 8), float32]", b"Tensor[(?, 8), float32]")

    assert refusal(tmp_path, content) == "odd.tar: module `default` has inputs of unknown size: zeta:0"
