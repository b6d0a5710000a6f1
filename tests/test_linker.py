from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from sequence import run_sequence

from mlf.arrays import load_arrays
from mlf.errors import LinkError, NameClashError
from mlf.linker import LinkRequest, link, parse_request, plan_link
from mlf.toolchain import RUNTIME, compiler_for

SAMPLES = Path(__file__).parent.parent / "samples"
TARGETS = ("host", "cortex-m4", "rv32imac")
NAMES = ("glyph", "motor", "tone")
BINUTILS = {"host": "", "cortex-m4": "arm-none-eabi-", "rv32imac": "riscv64-unknown-elf-"}


def tool(target: str, name: str, *arguments: str | Path) -> str:
    done = subprocess.run([BINUTILS[target] + name, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def link_samples(folder: Path, target: str = "host", *, cflags: tuple[str, ...] = ()) -> Path:
    requests = [LinkRequest(path=SAMPLES / f"{name}.tar", name=name) for name in NAMES]
    link(plan_link(requests, output=folder / "libmodels.a", compiler=compiler_for(target, cflags=cflags)))
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
        for tensor, expected in load_arrays(SAMPLES / f"{name}.outputs.npz").items():
            assert abs(result[tensor].astype("f8") - expected.ravel().astype("f8")).max() < (
                1e-5 if expected.dtype.kind == "f" else 0.5
            )


def test_nothing_is_global_but_entrypoints_and_the_registry(library: tuple[Path, str]) -> None:
    path, target = library

    names = {
        line.split()[0]
        for line in tool(target, "nm", "-g", "--defined-only", "-P", path).splitlines()
        if not line.endswith(":")
    }

    assert names == {
        *(f"tvmgen_{name}_run" for name in NAMES), *(f"mlf_model_{name}" for name in NAMES), "mlf_models", "mlf_find_model"
    }  # fmt: skip


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
    parts = [*document["models"], document["registry"]]  # type: ignore[misc]

    said = {part["member"]: tuple(part["sizes"][f"{kind}_bytes"] for kind in ("text", "data", "bss")) for part in parts}

    assert said == measured
    flash = sum(text + data for member, (text, data, _) in measured.items() if member != "mlf_models.o")
    ram = sum(data + bss for member, (_, data, bss) in measured.items() if member != "mlf_models.o")
    totals: dict[str, int] = document["totals"]  # type: ignore[assignment]
    assert (totals["flash_bytes"], totals["ram_bytes"]) == (flash, ram)


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
    assert all(model["sizes"]["data_bytes"] == 0 for model in document_of(path)["models"])  # type: ignore[attr-defined]


def test_an_application_without_the_registry_pays_nothing_for_it_or_for_models_it_does_not_call(tmp_path: Path) -> None:
    path = link_samples(tmp_path, "cortex-m4")
    (tmp_path / "main.c").write_text(
        "#include <tvmgen_motor.h>\nint main(void) { return tvmgen_motor_run(0, 0, 0); }\n"
        "void _start(void) { main(); }\n"
    )
    select = ["-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"]
    tool(
        "cortex-m4",
        "gcc",
        *select,
        "-O1",
        "-w",
        "-nostdlib",
        f"-I{tmp_path / 'include'}",
        tmp_path / "main.c",
        RUNTIME / "board" / "memory.c",
        path,
        "-lgcc",
        "-o",
        tmp_path / "app",
    )

    names = tool("cortex-m4", "nm", tmp_path / "app")

    assert "tvmgen_motor_run" in names
    assert not re.search(r"mlf_|tvmgen_(tone|glyph)_", names)


@pytest.mark.parametrize("language", ["c", "c++"])
@pytest.mark.parametrize("header", [*(f"tvmgen_{name}.h" for name in NAMES), "mlf/models.h"])
def test_headers_compile_without_a_warning(tmp_path: Path, header: str, language: str) -> None:
    link_samples(tmp_path)
    standard = "-std=c99" if language == "c" else "-std=c++11"
    (tmp_path / "use.txt").write_text(f"#include <{header}>\n#include <{header}>\nint main(void) {{ return 0; }}\n")

    tool(
        "host",
        "gcc",
        "-x",
        language,
        standard,
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pedantic",
        f"-I{tmp_path / 'include'}",
        "-c",
        tmp_path / "use.txt",
        "-o",
        tmp_path / "use.o",
    )


def test_the_registrys_source_compiles_without_a_warning(tmp_path: Path) -> None:
    from mlf import codegen  # noqa: PLC0415  # for this test alone

    path = link_samples(tmp_path)
    plan = plan_link(
        [LinkRequest(path=SAMPLES / f"{name}.tar", name=name) for name in NAMES],
        output=path,
        compiler=compiler_for("host"),
    )
    (tmp_path / "models.c").write_text(codegen.models_source([model.interface for model in plan.models]))

    tool(
        "host",
        "gcc",
        "-std=c99",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pedantic",
        f"-I{tmp_path / 'include'}",
        "-c",
        tmp_path / "models.c",
        "-o",
        tmp_path / "models.o",
    )


def test_the_workspace_source_compiles_without_a_warning(tmp_path: Path) -> None:
    tool(
        "host", "gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-DMLF_WORKSPACE_BYTES=64", "-c", RUNTIME / "workspace.c",
        "-o", tmp_path / "workspace.o",
    )  # fmt: skip


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
    options = ["--target", target, "--cflags", cflags, "-o", "build/libmodels.a"]
    requests = [f"{name}={name}.tar" for name in NAMES]
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
        "include/mlf/models.h", "include/tvmgen_glyph.h", "include/tvmgen_motor.h", "include/tvmgen_tone.h", "libmodels.a", "libmodels.json"
    ]  # fmt: skip
    assert written(plain / "build") == written(odd / "build")
    assert str(tmp_path).encode() not in b"".join(written(plain / "build").values())


def test_debug_information_names_the_lines_of_each_models_source(tmp_path: Path) -> None:
    path = link_samples(tmp_path, cflags=("-g",))
    (tmp_path / "main.c").write_text(
        '#include <mlf/models.h>\nint main(void) { return mlf_find_model("tone")->run(0, 0, 0); }\n'
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
    assert rest == [
        f"  a: module `default` of {SAMPLES / 'tone.tar'} (version 7)",
        "    entrypoint tvmgen_a_run, made of tvmgen_default_run",
        "    workspace  2192 bytes (allocator)",
        "    compiles   default_lib0.c, default_lib1.c",
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
        sum("-c" in line.split() for line in (tmp_path / "log").read_text().splitlines()) == 4
    )  # two of the model, workspace, registry
