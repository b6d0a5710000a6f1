"""How the real program fails: its whole message, its exit status, and what it leaves behind."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlf.errors import InputError
from mlf.runner import open_library
from mlf.toolchain import RUNTIME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Members = dict[str, bytes]

SAMPLES = Path(__file__).parent.parent / "samples"
TONE, GLYPH, MOTOR = (SAMPLES / f"{name}.tar" for name in ("tone", "glyph", "motor"))
LIB0, LIB1 = "codegen/host/src/default_lib0.c", "codegen/host/src/default_lib1.c"
HEADER = "codegen/host/include/tvmgen_default.h"
OBJECT = "codegen/host/lib/default_lib2.o"
# The first statement of tone's main function, before which a test can put a fault.
FIRST_STATEMENT = b"  void* sid_1 = TVMBackendAllocWorkspace("
PROGRAM_SECONDS = 30  # a program that hangs must fail its test, not stop the run
INTERRUPTED = "error: interrupted; no output is half-written\n"
# Python imports this module before anything else; None makes the package one that is not installed.
NO_ZIG = "import sys\nsys.modules['ziglang'] = None\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a program ended and what it printed."""

    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """A folder in which the program runs, with another one for its temporary files."""

    folder: Path
    scratch: Path

    def environment(self, **changes: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MLF_")}
        return kept | {"TMPDIR": str(self.scratch)} | changes

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "mlf", *map(str, arguments)]

    def run(self, *arguments: str | Path, limit: int | None = None, **changes: str) -> Outcome:
        """Run the program with no file allowed to be larger than `limit` bytes; its temporary files must be gone."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(**changes),
            capture_output=True,
            text=True,
            timeout=PROGRAM_SECONDS,
            check=False,
            preexec_fn=None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )
        assert list(self.scratch.iterdir()) == []
        return Outcome(status=done.returncode, stdout=done.stdout, stderr=done.stderr)

    def fails(self, *arguments: str | Path, limit: int | None = None, **changes: str) -> tuple[int, str]:
        """Give the exit status and message of a run that must print nothing else."""
        outcome = self.run(*arguments, limit=limit, **changes)
        assert outcome.stdout == ""
        return outcome.status, outcome.stderr

    def start(self, *arguments: str | Path, **changes: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(**changes),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def script(self, name: str, text: str) -> str:
        """Write a program for the shell; gives the word that starts it."""
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return f"./{name}"

    def edited(self, name: str, change: Callable[[Members], object], source: Path = TONE) -> str:
        """Write an archive as `source` is after a change of its members; gives its name."""
        with tarfile.open(source) as archive:
            files = [(entry.name.removeprefix("./"), archive.extractfile(entry)) for entry in archive if entry.isfile()]
            members = {member: file.read() for member, file in files if file}
        change(members)
        with tarfile.open(self.folder / name, "w", format=tarfile.USTAR_FORMAT) as archive:
            for member, content in sorted(members.items()):
                entry = tarfile.TarInfo(member)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        return name

    def faulty(self, name: str, statement: str) -> str:
        """Write an archive of tone whose main function begins with a statement of its own."""
        return self.edited(name, replacing(LIB1, FIRST_STATEMENT, statement.encode() + b"\n" + FIRST_STATEMENT))

    def snapshot(self, folder: str) -> dict[str, bytes]:
        root = self.folder / folder
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    folder, scratch = tmp_path / "desk", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    return Desk(folder=folder, scratch=scratch)


def appending(member: str, text: str) -> Callable[[Members], object]:
    return lambda members: members.update({member: members[member] + text.encode()})


def replacing(member: str, old: bytes, new: bytes) -> Callable[[Members], object]:
    def change(members: Members) -> None:
        assert members[member].count(old) == 1
        members[member] = members[member].replace(old, new)

    return change


def metadata(change: Callable[[dict[str, Any]], object]) -> Callable[[Members], object]:
    def edit(members: Members) -> None:
        document = json.loads(members["metadata.json"])
        change(document)
        members["metadata.json"] = json.dumps(document).encode()

    return edit


def tool(*command: str | Path, cwd: Path) -> str:
    """Run a program and give what it said on stderr."""
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=False
    ).stderr  # fmt: skip


def only(folder: Path, *programs: str) -> str:
    """Make a folder of links to some programs; gives a PATH that has no others."""
    folder.mkdir()
    for program in programs:
        found = shutil.which(program)
        assert found, program
        (folder / program).symlink_to(found)
    return str(folder)


def without_zig(folder: Path) -> str:
    """Hide the package ziglang from Python; gives a PYTHONPATH."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(NO_ZIG)
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.mark.parametrize(
    ("arguments", "target", "looked", "package"),
    [
        (["link", TONE], "host", "cc, gcc, clang, zig", "gcc"),
        (["link", TONE, "--target", "cortex-m4"], "cortex-m4", "arm-none-eabi-gcc, clang, zig", "gcc-arm-none-eabi"),
        (
            ["run", TONE, "--target", "rv32imac"],
            "rv32imac",
            "riscv32-unknown-elf-gcc, riscv64-unknown-elf-gcc, riscv-none-elf-gcc, clang, zig",
            "gcc-riscv64-unknown-elf",
        ),
        (["demo"], "host", "cc, gcc, clang, zig", "gcc"),
    ],
    ids=["host", "cortex-m4", "rv32imac", "demo"],
)
def test_a_machine_without_any_compiler_is_told_what_to_install(
    desk: Desk, tmp_path: Path, arguments: list[str | Path], target: str, looked: str, package: str
) -> None:
    path, search = only(tmp_path / "bin"), without_zig(tmp_path / "site")
    assert desk.fails(*arguments, PATH=path, PYTHONPATH=search) == (
        2,
        (
            f"error: no C compiler for {target}: looked for {looked}\n"
            f"hint: pip install ziglang, or install the package {package}\n"
        ),
    )
    assert desk.snapshot(".") == {}


def test_an_error_is_a_document_too_if_json_was_asked_for(desk: Desk) -> None:
    outcome = desk.run("link", TONE, "--json", "--cc", "nonsense")
    message = "cannot start `nonsense`: no such file or directory"
    error = {"code": "tool-failed", "hint": None, "message": message, "where": None}
    assert json.loads(outcome.stdout) == {"error": error, "schema": "mlf-error-v1"}
    assert (outcome.status, outcome.stderr) == (2, f"error: {message}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cc", "nonsense"], "cannot start `nonsense`: no such file or directory"),
        (["--cc", "nolauncher gcc"], "cannot start `nolauncher`: no such file or directory"),
        (["--cc", "./folder"], "cannot start `./folder`: permission denied"),
        (["--cc", "gcc '"], "--cc `gcc '` has a quotation or an escape that does not end"),
        (["--cc", ""], "--cc is empty"),
        (["--cc", "true"], "`true` is no C compiler: asked for its macros, it gave none"),
        (["--cflags", "-O1 \\"], "--cflags `-O1 \\` has a quotation or an escape that does not end"),
    ],
)
def test_a_compiler_that_cannot_be_used(desk: Desk, arguments: list[str], message: str) -> None:
    (desk.folder / "folder").mkdir()
    assert desk.fails("link", TONE, *arguments) == (2, f"error: {message}\n")


@pytest.mark.parametrize(
    ("target", "compiler"),
    [
        ("host", "cc"),
        ("cortex-m4", "arm-none-eabi-gcc -mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16"),
        ("rv32imac", "riscv64-unknown-elf-gcc -march=rv32imac -mabi=ilp32 -mcmodel=medany"),
    ],
)
def test_arguments_that_the_compiler_refuses_are_answered_in_its_words(desk: Desk, target: str, compiler: str) -> None:
    words = tool(compiler.split(maxsplit=1)[0], "--nonsense", "-E", "-x", "c", os.devnull, cwd=desk.folder)
    assert desk.fails("link", TONE, "--target", target, "--cflags", "--nonsense") == (
        2,
        f"error: the compiler refuses `{compiler} --nonsense`:\n{words}",
    )


def test_a_long_line_of_a_tool_is_cut(desk: Desk) -> None:
    status, message = desk.fails("link", TONE, "--target", "cortex-m4", "--cflags", "-mcpu=nope")
    assert status == 2
    assert max(map(len, message.splitlines())) == 200 + len(" ...")


def test_an_unknown_target_is_answered_with_the_known_ones(desk: Desk) -> None:
    assert desk.fails("link", TONE, "--target", "z80") == (
        2,
        (
            "error: there is no target `z80`; known are host, cortex-m0, cortex-m3, cortex-m4, cortex-m7, cortex-m33, "
            "cortex-m55, cortex-m4-soft, cortex-m7-soft, cortex-m33-soft, cortex-m55-soft, rv32imac, rv32imafc, rv64, rv64gc, "
            "aarch64\n"
            "hint: use --cc and --cflags for any other\n"
        ),
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["link"], "error: missing argument '[NAME=]ARCHIVE[:MODULE]...'\nhint: see `python -m mlf link --help`\n"),
        (["bend"], "error: no such command 'bend'\nhint: see `python -m mlf --help`\n"),
        (
            ["link", "--bend"],
            "error: no such option '--bend'. Did you mean '--arena'?\nhint: see `python -m mlf link --help`\n",
        ),
        (["inspect", "--bend"], "error: no such option '--bend'\nhint: see `python -m mlf inspect --help`\n"),
    ],
)
def test_a_wrong_command_line(desk: Desk, arguments: list[str], message: str) -> None:
    assert desk.fails(*arguments) == (2, message)


@pytest.mark.parametrize(("compiler", "target"), [("gcc", "host"), ("arm-none-eabi-gcc", "cortex-m4")])
def test_a_launcher_in_front_of_the_compiler_starts_every_compilation(desk: Desk, compiler: str, target: str) -> None:
    launcher = desk.script("launcher", 'echo "$1" >>log; exec "$@"')
    outcome = desk.run("link", f"kws={TONE}", "--target", target, "--cc", f"{desk.folder / launcher} {compiler}")
    assert (outcome.status, outcome.stderr) == (0, "")
    assert (desk.folder / "log").read_text() == f"{compiler}\n"  # the question what it is; compilations run elsewhere


def test_a_launcher_that_finds_no_compiler_is_heard(desk: Desk) -> None:
    launcher = desk.script("launcher", 'echo "launcher: no $1 here" >&2; exit 1')
    assert desk.fails("link", TONE, "--cc", f"{launcher} nonsense") == (
        2,
        "error: the compiler refuses `launcher nonsense`:\nlauncher: no nonsense here\n",
    )


def words_on(desk: Desk, archive: str, member: str) -> str:
    """Give what gcc itself says of a source of an archive."""
    folder = desk.folder / f"{archive}.unpacked"
    folder.mkdir(exist_ok=True)
    tool("tar", "-xf", str(desk.folder / archive), cwd=folder)
    source = folder / member
    search = ("-I../include", f"-I{RUNTIME / 'include'}")
    return tool("cc", "-std=gnu99", "-w", *search, "-c", source.name, "-o", os.devnull, cwd=source.parent)


def test_sources_that_do_not_compile_are_all_reported_in_the_words_of_the_compiler(desk: Desk) -> None:
    first = desk.edited("first.tar", appending(LIB1, "int broken( {\n"))

    def break_both(members: Members) -> None:
        members[LIB0] += b"\n#error broken\n"
        members[LIB1] = b'#include "arm_nnfunctions.h"\n' + members[LIB1]

    second = desk.edited("second.tar", break_both, GLYPH)
    status, message = desk.fails("link", f"one={first}", f"two={second}")
    assert (status, message) == (
        1,
        (
            f"error: one (first.tar): default_lib1.c: cc cannot compile it:\n{words_on(desk, first, LIB1)}"
            f"two (second.tar): default_lib0.c: cc cannot compile it:\n{words_on(desk, second, LIB0)}"
            f"two (second.tar): default_lib1.c: cc cannot compile it:\n{words_on(desk, second, LIB1)}"
        ),
    )
    assert "fatal error: arm_nnfunctions.h: No such file or directory" in message
    assert str(desk.scratch) not in message


def test_what_the_assembler_says_is_reported_too(desk: Desk) -> None:
    archive = desk.faulty("bad.tar", '__asm__("nonsense");')
    line = next(
        number
        for number, text in enumerate(tarfile_text(desk.folder / archive, LIB1).splitlines(), 1)
        if "nonsense" in text
    )
    assert desk.fails("link", f"kws={archive}") == (
        1,
        (
            "error: kws (bad.tar): default_lib1.c: cc cannot compile it:\n"
            "default_lib1.c: Assembler messages:\n"
            f"default_lib1.c:{line}: Error: no such instruction: `nonsense'\n"
        ),
    )


def tarfile_text(archive: Path, member: str) -> str:
    with tarfile.open(archive) as opened:
        file = opened.extractfile(member)
        assert file
        return file.read().decode()


def test_functions_that_nothing_supplies_are_all_named(desk: Desk) -> None:
    calls = "extern int my_kernel(void*), other(void); my_kernel(samples_buffer_var); other();"
    first = desk.faulty("first.tar", calls)
    second = desk.faulty("second.tar", "extern int third(void); third();")
    assert desk.fails("link", f"one={first}", f"two={second}") == (
        1,
        (
            "error: nothing supplies what the models need:\n"
            "one (first.tar): default_lib1.c needs `my_kernel`\n"
            "one (first.tar): default_lib1.c needs `other`\n"
            "two (second.tar): default_lib1.c needs `third`\n"
            "hint: if the firmware has it, say so: --extern NAME\n"
        ),
    )


OBJECT_SOURCE = "int helper(int number) { return number + 1; }\n"


UNREADABLE = f"bad.tar: {OBJECT}"


def made_object(folder: Path, *command: str, text: str = OBJECT_SOURCE) -> bytes:
    (folder / "object.c").write_text(text)
    subprocess.run([*command, "object.c", "-o", "object.o"], cwd=folder, check=True)
    return (folder / "object.o").read_bytes()


@pytest.mark.parametrize(
    ("compiler", "target", "message"),
    [
        ("arm-none-eabi-gcc -c", "host", "kws (bad.tar): default_lib2.o: is for 32-bit little-endian ARM, the target is 64-bit little-endian x86-64"),
        ("gcc -c", "cortex-m4", "kws (bad.tar): default_lib2.o: is for 64-bit little-endian x86-64, the target is 32-bit little-endian ARM"),
        ("arm-none-eabi-gcc -c", "rv32imac", "kws (bad.tar): default_lib2.o: is for 32-bit little-endian ARM, the target is 32-bit little-endian RISC-V"),
        ("clang -c -emit-llvm", "host", f"{UNREADABLE}: is LLVM bitcode, not an object file\nhint: compile it without -flto"),
        (
            "gcc -c -flto -fno-fat-lto-objects",
            "host",
            "kws (bad.tar): default_lib2.o: holds LTO bytecode instead of machine code\nhint: compile it with -fno-lto or -ffat-lto-objects",
        ),
        ("gcc -shared -fPIC", "host", f"{UNREADABLE}: is not a relocatable object: its ELF type is 3, expected 1"),
    ],
    ids=["arm-for-host", "host-for-arm", "arm-for-riscv", "bitcode", "slim-lto", "shared-object"],
)  # fmt: skip
def test_a_prebuilt_object_that_does_not_fit_is_named_with_model_and_archive(
    desk: Desk, tmp_path: Path, compiler: str, target: str, message: str
) -> None:
    content = made_object(tmp_path, *compiler.split())
    archive = desk.edited("bad.tar", lambda members: members.update({OBJECT: content}))
    assert desk.fails("link", f"kws={archive}", "--target", target) == (
        1,
        f"error: {message}\n",
    )


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (lambda data: data[:-100], r"the object file is damaged: a table of \d+ sections does not fit the file"),
        (lambda data: data[:40], "the object file is damaged"),
        (lambda _: b"", r"is not an ELF object file: it begins with b''"),
        (lambda _: b"hello", r"is not an ELF object file: it begins with b'hell'"),
    ],
    ids=["half", "header", "empty", "text"],
)
def test_a_damaged_object_is_named_with_model_and_archive(
    desk: Desk, tmp_path: Path, kept: Callable[[bytes], bytes], message: str
) -> None:
    content = kept(made_object(tmp_path, "gcc", "-c"))
    archive = desk.edited("bad.tar", lambda members: members.update({OBJECT: content}))
    status, text = desk.fails("link", f"kws={archive}")
    assert status == 1
    assert re.fullmatch(rf"error: {UNREADABLE}: {message}\n", text), text


NO_CODE = {"style": "operator", "model_name": "add", "memory": {"add": []}, "target": ["c"], "executors": []}
MAP_INPUTS = b"""struct tvmgen_default_inputs tvmgen_default_map_inputs(struct tvmgen_default_workspace_pools* pools);
int32_t tvmgen_default_run("""


def without_sources(members: Members) -> None:
    for name in [name for name in members if name.startswith("codegen/host/src/")]:
        del members[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (metadata(lambda it: it.update(version=99)), "metadata.json has version 99; versions 1 to 8 can be read"),
        (without_sources, "module `default` holds no code"),
        (
            replacing(HEADER, b"int32_t tvmgen_default_run(", MAP_INPUTS),
            "module `default` does not tell where in its pools the inputs and outputs lie",
        ),
    ],
    ids=["version-99", "no-code", "map-inputs"],
)
def test_a_model_that_no_library_can_be_right_with(
    desk: Desk, change: Callable[[Members], object], message: str
) -> None:
    archive = desk.edited("odd.tar", change)
    assert desk.fails("link", f"kws={archive}") == (1, f"error: odd.tar: {message}\n")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("overlap-io", "puts the outputs `p` and `q` into the same memory"),
        ("tvm09-dense-llvm-host", "has outputs of unknown size: output0"),
    ],
)
def test_a_real_model_that_no_library_can_be_right_with(desk: Desk, real_archives: Path, name: str, what: str) -> None:
    message = f"error: {name}.tar: module `default` {what}\n"
    assert desk.fails("link", f"kws={real_archives / name}.tar") == (1, message)


def suggested(message: str) -> list[str]:
    """Take the command out of a message about a clash of names."""
    found = re.fullmatch(r"error: .*; give each a name of its own: `(mlf link .*)`\n", message)
    assert found, message
    return shlex.split(found[1])[1:]


def test_two_archives_of_one_name_are_answered_with_the_command_that_works(desk: Desk) -> None:
    for sample in (TONE, GLYPH):
        shutil.copy(sample, desk.folder)
    status, message = desk.fails("link", "tone.tar", "glyph.tar")
    assert (status, message) == (
        1,
        (
            "error: tone.tar and glyph.tar both hold a model called `default`; give each a name of its own: "
            "`mlf link tone=tone.tar glyph=glyph.tar`\n"
        ),
    )
    assert desk.run(*suggested(message)).status == 0
    document = json.loads((desk.folder / "libmodels.json").read_text())
    assert [model["name"] for model in document["models"]] == ["glyph", "tone"]


def test_the_suggested_command_works_for_three_archives_with_spaces_in_their_paths(desk: Desk) -> None:
    (desk.folder / "my models").mkdir()
    for sample, name in ((TONE, "a b.tar"), (GLYPH, "A-B.tar"), (MOTOR, "class.tar")):
        shutil.copy(sample, desk.folder / "my models" / name)
    archives = [f"my models/{name}" for name in ("a b.tar", "A-B.tar", "class.tar")]
    status, message = desk.fails("link", *archives, "-o", "out put/lib.a")
    assert status == 1
    words = suggested(message)
    assert words == ["link", *(f"{name}={path}" for name, path in zip(("a_b", "a_b_2", "class_model"), archives, strict=True)), "-o", "out put/lib.a"]  # fmt: skip
    assert desk.run(*words).status == 0
    assert "lib.a" in desk.snapshot("out put")


def test_the_suggested_command_works_for_archives_with_several_modules(desk: Desk, real_archives: Path) -> None:
    for name in ("x.tar", "y.tar"):
        shutil.copy(real_archives / "two-modules.tar", desk.folder / name)
    status, message = desk.fails("link", "x.tar", "y.tar")
    assert status == 1
    words = suggested(message)
    assert words == ["link", "first=x.tar:first", "second=x.tar:second", "first_2=y.tar:first", "second_2=y.tar:second"]
    assert desk.run(*words).status == 0


def test_a_name_given_twice(desk: Desk) -> None:
    for sample in (TONE, GLYPH):
        shutil.copy(sample, desk.folder)
    status, message = desk.fails("link", "kws=tone.tar", "kws=glyph.tar")
    assert (status, message) == (
        1,
        (
            "error: tone.tar and glyph.tar both hold a model called `kws`; give each a name of its own: "
            "`mlf link kws=tone.tar kws_2=glyph.tar`\n"
        ),
    )
    assert desk.run(*suggested(message)).status == 0


FORM = "expected a small letter, then small letters, digits and _"


@pytest.mark.parametrize(
    ("name", "what", "hint"),
    [
        ("class", "it is a keyword of C or C++", "class_model"),
        ("models", "it is a name of the library's own", "models_model"),
        ("Kws", FORM, "kws"),
        ("k w s", FORM, "k_w_s"),
        ("1st", FORM, "m1st"),
        ("", FORM, "m"),
    ],
    ids=["keyword", "reserved", "upper-case", "spaces", "digit", "empty"],
)
def test_a_name_that_a_model_cannot_have(desk: Desk, name: str, what: str, hint: str) -> None:
    shutil.copy(TONE, desk.folder)
    assert desk.fails("link", f"{name}=tone.tar") == (
        1,
        f"error: tone.tar: `{name}` cannot be a model's name: {what}\nhint: give it another name: `{hint}=tone.tar`\n",
    )
    assert desk.run("link", f"{hint}=tone.tar", "--dry-run").status == 0


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("none.tar", "none.tar: no such file"),
        ("kws=none.tar:first", "none.tar: no such file"),
        ("folder", "folder: has no metadata.json, so it is no Model Library Format archive"),
        ("tone.tar:first", "tone.tar: has no module `first`; it has `default`"),
    ],
)
def test_an_archive_or_module_that_is_not_there(desk: Desk, argument: str, message: str) -> None:
    shutil.copy(TONE, desk.folder)
    (desk.folder / "folder").mkdir()
    assert desk.fails("link", argument) == (1, f"error: {message}\n")


def test_an_archive_whose_name_is_no_unicode_text_can_be_linked(desk: Desk) -> None:
    name = os.fsdecode(b"t\xffne.tar")
    shutil.copy(TONE, desk.folder / name)
    outcome = desk.run("link", f"kws={name}", "--json")
    assert (outcome.status, outcome.stderr) == (0, "")
    assert json.loads(outcome.stdout)["models"][0]["archive"] == "t?ne.tar"
    assert json.loads((desk.folder / "libmodels.json").read_text())["models"][0]["archive"] == "t?ne.tar"


@pytest.fixture
def linked(desk: Desk) -> dict[str, bytes]:
    """What an earlier link wrote to `out`, which a failure must leave as it is."""
    assert desk.run("link", f"kws={TONE}", "-o", "out/libmodels.a").status == 0
    return desk.snapshot("out")


LIMIT_BYTES = 36 << 10  # enough for what a compiler says of itself, each source and object, too little for the library


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A folder with too little room, the limit for a file's size that makes it so, and what the system says of it."""

    folder: Path
    limit: int | None
    reason: str


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Disk]:
    """A file system of 48 KiB, or where none may be mounted a folder for small files."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", folder], capture_output=True, check=False
    )
    if mount.returncode != 0:
        yield Disk(folder=folder, limit=LIMIT_BYTES, reason="file too large")
        return
    yield Disk(folder=folder, limit=None, reason="no space left on device")
    subprocess.run(["umount", folder], check=True)


def test_an_output_folder_without_room_keeps_the_earlier_library(desk: Desk, linked: dict[str, bytes]) -> None:
    words = ("link", f"tone={TONE}", f"glyph={GLYPH}", f"motor={MOTOR}", "-o", "out/libmodels.a")
    message = "error: out/libmodels.a: cannot be written: file too large\n"
    assert desk.fails(*words, limit=LIMIT_BYTES) == (2, message)
    assert desk.snapshot("out") == linked
    assert sorted(path.name for path in (desk.folder / "out" / "include").iterdir()) == [
        "dlpack", "mlf", "tvm", "tvmgen_kws.h",
    ]  # fmt: skip


def test_a_full_disk_leaves_no_folder_that_was_not_there(desk: Desk) -> None:
    words = ("link", f"tone={TONE}", f"glyph={GLYPH}", f"motor={MOTOR}", "-o", "new/deep/libmodels.a")
    message = "error: new/deep/libmodels.a: cannot be written: file too large\n"
    assert desk.fails(*words, limit=LIMIT_BYTES) == (2, message)
    assert list(desk.folder.iterdir()) == []


def test_a_scratch_folder_without_room_is_told_from_a_bad_source(desk: Desk, linked: dict[str, bytes]) -> None:
    large = desk.edited("large.tar", appending(LIB1, "\n//" + "x" * 2 * LIMIT_BYTES))
    assert desk.fails("link", f"kws={large}", "-o", "out/libmodels.a", limit=LIMIT_BYTES) == (
        2,
        "error: cannot use a temporary file: file too large\nhint: let TMPDIR name a folder with more room\n",
    )
    assert desk.snapshot("out") == linked


def test_a_compiler_without_room_is_told_from_a_bad_source(desk: Desk, linked: dict[str, bytes]) -> None:
    size = 2 * LIMIT_BYTES
    large = desk.edited("large.tar", appending(LIB1, f"\nint large[{size}] = {{1}};\n"))
    status, message = desk.fails("link", f"kws={large}", "-o", "out/libmodels.a", limit=LIMIT_BYTES)
    assert (status, message.splitlines()[0]) == (2, "error: kws (large.tar): default_lib1.c: cc cannot compile it:")
    assert desk.snapshot("out") == linked


def test_an_output_folder_on_a_small_disk_stays_empty(desk: Desk, small_disk: Disk) -> None:
    output = small_disk.folder / "libmodels.a"
    assert desk.fails("link", f"tone={TONE}", f"glyph={GLYPH}", "-o", output, limit=small_disk.limit) == (
        2,
        f"error: {output}: cannot be written: {small_disk.reason}\n",
    )
    assert list(small_disk.folder.iterdir()) == []


def test_a_scratch_folder_on_a_small_disk_is_left_empty(desk: Desk, small_disk: Disk, linked: dict[str, bytes]) -> None:
    large = desk.edited("large.tar", appending(LIB1, "\n//" + "x" * 2 * LIMIT_BYTES))
    words = ("link", f"kws={large}", "-o", "out/libmodels.a")
    assert desk.fails(*words, limit=small_disk.limit, TMPDIR=str(small_disk.folder)) == (
        2,
        f"error: cannot use a temporary file: {small_disk.reason}\nhint: let TMPDIR name a folder with more room\n",
    )
    assert desk.snapshot("out") == linked
    assert list(small_disk.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("file/libmodels.a", "file/include/tvmgen_kws.h: cannot be written: not a directory"),
        ("folder", "folder: cannot be written: it is a directory or a device"),
        ("pipe", "pipe: cannot be written: it is a directory or a device"),
        ("libmodels.json", "libmodels.json: is no name for a library, whose document is the .json file beside it"),
        ("", ".: is no name for a library, whose document is the .json file beside it"),
        ("..", "..: cannot be written: it is a directory or a device"),
    ],
)
def test_a_place_where_no_library_can_be_written(desk: Desk, output: str, message: str) -> None:
    (desk.folder / "file").write_text("")
    (desk.folder / "folder").mkdir()
    os.mkfifo(desk.folder / "pipe")
    before = sorted(desk.folder.parent.rglob("*"))
    assert desk.fails("link", f"kws={TONE}", "-o", output) == (2, f"error: {message}\n")
    assert sorted(desk.folder.parent.rglob("*")) == before


def test_a_header_that_is_a_folder_keeps_the_earlier_library(desk: Desk, linked: dict[str, bytes]) -> None:
    (desk.folder / "out" / "include" / "tvmgen_other.h").mkdir()
    assert desk.fails("link", f"other={GLYPH}", "-o", "out/libmodels.a") == (
        2,
        "error: out/include/tvmgen_other.h: cannot be written: it is a directory or a device\n",
    )
    assert desk.snapshot("out") == linked


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not yet asked for by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PROGRAM_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.002)


def have_ended(pids: list[int]) -> bool:
    """Whether processes end, which one that was killed does in its own time."""
    wait_until(lambda: not any(is_alive(pid) for pid in pids), "a process runs on")
    return True


def catches(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return bool(found and int(found[1], 16) >> (number - 1) & 1)


def finish(desk: Desk, process: subprocess.Popen[str]) -> Outcome:
    stdout, stderr = process.communicate(timeout=PROGRAM_SECONDS)
    assert list(desk.scratch.iterdir()) == []
    return Outcome(status=process.returncode, stdout=stdout, stderr=stderr)


def slow_compiler(desk: Desk, *, when: str = "-c", first: str = ":") -> str:
    """Write a compiler that takes a minute when one of its arguments is `when`, and tells by `pids` that it runs."""
    pids = desk.folder / "pids"
    return desk.script(
        "slowcc",
        f"""{first}
for word in "$@"; do if [ "$word" = "{when}" ]; then
  sleep 60 &
  echo $$ $! >{pids}.new; mv {pids}.new {pids}
  wait; wait; exit 0
fi; done
exec gcc "$@\"""",
    )


def pids_of(desk: Desk) -> list[int]:
    file = desk.folder / "pids"
    wait_until(file.exists, "the compiler did not start")
    return [int(word) for word in file.read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda it: it.name)
def test_an_interrupt_during_a_compilation_ends_all_and_writes_nothing(
    desk: Desk, linked: dict[str, bytes], number: signal.Signals
) -> None:
    compiler = desk.folder / slow_compiler(desk)
    process = desk.start("link", f"other={GLYPH}", "-o", "out/libmodels.a", "-j", "1", "--cc", str(compiler))
    pids = pids_of(desk)
    assert [is_alive(pid) for pid in pids] == [True, True]
    process.send_signal(number)
    assert finish(desk, process) == Outcome(status=2, stdout="", stderr=INTERRUPTED)
    assert have_ended(pids)
    assert desk.snapshot("out") == linked


def test_an_interrupt_while_the_compiler_is_asked_what_it_is(desk: Desk) -> None:
    process = desk.start("link", TONE, "--cc", slow_compiler(desk, when="-dM"))
    pids = pids_of(desk)
    process.send_signal(signal.SIGINT)
    assert finish(desk, process) == Outcome(status=2, stdout="", stderr=INTERRUPTED)
    assert have_ended(pids)


def test_a_second_interrupt_does_not_disturb_the_cleaning_up_after_the_first(desk: Desk) -> None:
    compiler = desk.folder / slow_compiler(desk, first="trap '' TERM")
    process = desk.start("link", TONE, "-j", "1", "--cc", str(compiler))
    pids = pids_of(desk)
    for _ in range(5):  # the compiler does not end when it is told to, so that cleaning up takes a second
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    assert finish(desk, process) == Outcome(status=2, stdout="", stderr=INTERRUPTED)
    assert have_ended(pids)
    assert sorted(path.name for path in desk.folder.iterdir()) == ["pids", "slowcc"]


def test_an_interrupt_is_reported_in_json_too(desk: Desk) -> None:
    process = desk.start("link", TONE, "--json", "--cc", slow_compiler(desk, when="-dM"))
    pids_of(desk)
    process.send_signal(signal.SIGINT)
    outcome = finish(desk, process)
    error = {"code": "failed", "hint": None, "message": "interrupted; no output is half-written", "where": None}
    assert json.loads(outcome.stdout) == {"error": error, "schema": "mlf-error-v1"}
    assert (outcome.status, outcome.stderr) == (2, INTERRUPTED)


@pytest.mark.parametrize("delay_s", [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35])
def test_an_interrupt_at_any_moment_leaves_the_old_library_or_the_whole_new_one(
    desk: Desk, linked: dict[str, bytes], tmp_path: Path, delay_s: float
) -> None:
    words = ("link", f"other={GLYPH}", "--json")
    assert desk.run(*words, "-o", tmp_path / "new" / "libmodels.a").status == 0
    process = desk.start(*words, "-o", "out/libmodels.a")
    wait_until(lambda: catches(process, signal.SIGTERM), "the program sets no handler")
    time.sleep(delay_s)
    process.send_signal(signal.SIGINT)
    outcome = finish(desk, process)
    assert (outcome.status, outcome.stderr) in ((2, INTERRUPTED), (0, ""))
    new = {str(path.relative_to(tmp_path / "new")): path.read_bytes() for path in (tmp_path / "new").rglob("*") if path.is_file()}  # fmt: skip
    assert desk.snapshot("out") in ([linked] if delay_s == 0 else [linked, linked | new])


def test_a_program_that_was_told_to_ignore_hang_ups_ignores_them(desk: Desk) -> None:
    compiler = desk.folder / slow_compiler(desk)
    process = subprocess.Popen(
        ["nohup", *desk.command("link", TONE, "-j", "1", "--cc", str(compiler))], cwd=desk.folder,
        env=desk.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    pids = pids_of(desk)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.1)
    assert [is_alive(pid) for pid in (process.pid, *pids)] == [True, True, True]
    process.send_signal(signal.SIGINT)
    assert finish(desk, process).status == 2


def test_an_interrupt_of_a_running_model_ends_it(desk: Desk) -> None:
    archive = desk.faulty("loop.tar", "for (volatile int i = 0;;) i = i + 1;")
    process = desk.start("run", archive, "--inputs", SAMPLES / "tone.inputs.npz")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def models() -> list[int]:
        with suppress(FileNotFoundError):  # a compiler that ended between the two looks
            pids = [int(word) for word in children.read_text().split()]
            return [pid for pid in pids if b"hostrun.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return []

    wait_until(models, "the model did not start")
    pids = models()
    process.send_signal(signal.SIGINT)
    assert finish(desk, process) == Outcome(status=2, stdout="", stderr=INTERRUPTED)
    assert have_ended(pids)


def test_arrays_that_do_not_fit_are_all_reported_at_once(desk: Desk) -> None:
    np.savez(desk.folder / "in.npz", vibration=np.zeros((1, 24), np.float32), currant=np.zeros(3))
    assert desk.fails("run", MOTOR, "--inputs", "in.npz") == (
        1,
        (
            "error: inputs of default: there is no array `current`; `currant` is no input; the inputs are `vibration`, "
            "`current`; `vibration` has dtype float32, expected int8\n"
        ),
    )
    np.savez(desk.folder / "in.npz", vibration=np.zeros(24, np.int8), current=np.zeros((8, 1), np.int8))
    assert desk.fails("run", MOTOR, "--inputs", "in.npz") == (
        1,
        "error: inputs of default: `vibration` has shape 24, expected 1x24; `current` has shape 8x1, expected 1x8\n",
    )
    assert desk.fails("run", MOTOR) == (
        1,
        "error: inputs of default: there is no array `vibration`; there is no array `current`\n",
    )


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def damaged(data: bytes) -> bytes:
    place = data.index(b"\x93NUMPY") + 140
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an .npz file"),
        (b"hello", "is not an .npz file"),
        (pickle.dumps({"vibration": 1}), "is not an .npz file"),
        (npy(np.zeros(3)), "is not an .npz file"),
        (npz(x=np.zeros(9))[:-30], "is not an .npz file"),
        (damaged(npz(x=np.zeros(9))), "is not an .npz file of arrays: Bad CRC-32 for file 'x.npy'"),
        (
            npz(x=np.array([{}], dtype=object)),
            "is not an .npz file of arrays: Object arrays cannot be loaded when allow_pickle=False",
        ),
        (
            zipped("x.npy", npy(np.zeros(3)).replace(b"(3,), }", b"(3,),  ")),
            "is not an .npz file of arrays: the header of one is damaged",
        ),
        (zipped("x.txt", b"hello"), "is not an .npz file of arrays: `x.txt` is no array"),
    ],
    ids=["empty", "text", "pickle", "npy", "truncated", "damaged", "objects", "header", "other-zip"],
)
def test_a_file_that_holds_no_arrays(desk: Desk, content: bytes, message: str) -> None:
    (desk.folder / "in.npz").write_bytes(content)
    assert desk.fails("run", MOTOR, "--inputs", "in.npz") == (1, f"error: in.npz: {message}\n")


def test_a_file_of_arrays_that_cannot_be_read(desk: Desk) -> None:
    (desk.folder / "folder").mkdir()
    assert desk.fails("run", MOTOR, "--inputs", "none.npz") == (
        1,
        "error: none.npz: cannot be read: no such file or directory\n",
    )
    assert desk.fails("run", MOTOR, "--inputs", "folder") == (1, "error: folder: cannot be read: is a directory\n")


def test_outputs_that_cannot_be_written_leave_nothing(desk: Desk) -> None:
    (desk.folder / "file").write_text("")
    words = ("run", TONE, "--inputs", SAMPLES / "tone.inputs.npz", "--outputs")
    assert desk.fails(*words, "file/out.npz") == (2, "error: file/out.npz: cannot be written: not a directory\n")
    os.mkfifo(desk.folder / "pipe")
    assert desk.fails(*words, "pipe") == (2, "error: pipe: cannot be written: it is a directory or a device\n")
    assert sorted(path.name for path in desk.folder.iterdir()) == ["file", "pipe"]


def library_of(desk: Desk) -> dict[str, Any]:
    assert desk.run("link", f"tone={TONE}", f"motor={MOTOR}", "-o", "lib.a").status == 0
    return dict(json.loads((desk.folder / "lib.json").read_text()))


def test_a_model_that_a_library_does_not_have(desk: Desk) -> None:
    library_of(desk)
    assert desk.fails("run", "lib.json", "--model", "kws") == (
        1,
        "error: lib.json: has no model `kws`; it has `motor`, `tone`\n",
    )
    assert desk.fails("run", "lib.json") == (
        1,
        "error: lib.json: holds the models `motor`, `tone`\nhint: choose one with --model NAME\n",
    )
    assert desk.fails("run", "lib.json", "--model", "tone", "--target", "cortex-m4") == (
        2,
        "error: lib.json: was linked for host, not for cortex-m4\n",
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON: expecting property name enclosed in double quotes at line 1, column 2"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"[]", "is not the document of a library: expected the schema `mlf-library-v1`"),
        (b'{"schema": "mlf-plan-v1"}', "is not the document of a library: expected the schema `mlf-library-v1`"),
        (
            b'{"schema": "mlf-library-v1"}',
            "is not the document of a library: `models` is missing",
        ),
    ],
)
def test_a_file_that_is_no_document_of_a_library(desk: Desk, content: bytes, message: str) -> None:
    (desk.folder / "lib.json").write_bytes(content)
    assert desk.fails("run", "lib.json") == (1, f"error: lib.json: {message}\n")


def set_in(*place: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        node: Any = document
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = value

    return change


def test_a_document_with_values_of_the_wrong_kind(desk: Desk) -> None:
    document = library_of(desk)
    path = desk.folder / "bad.json"
    tensor = ("models", 0, "inputs", 0)
    of_tensor = "`models[0].inputs[0]."
    for change, message in (
        (set_in("models", value=[1]), "`models[0]` is `1`, expected an object"),
        (set_in("models", 0, "name", value='m"; x'), '`models[0].name` is `"m\\"; x"`, expected a model\'s name'),
        (set_in("models", 0, "inputs", value=None), "`models[0].inputs` is `null`, expected a list"),
        (set_in(*tensor, "size_bytes", value="24"), f'{of_tensor}size_bytes` is `"24"`, expected a whole number'),
        (set_in(*tensor, "size_bytes", value=-1), f"{of_tensor}size_bytes` is `-1`, expected a size in bytes"),
        (set_in(*tensor, "size_bytes", value=True), f"{of_tensor}size_bytes` is `true`, expected a whole number"),
        (set_in(*tensor, "c_name", value="a-b"), f'{of_tensor}c_name` is `"a-b"`, expected a C identifier'),
        (set_in(*tensor, "shape", value=[1.5]), f"an item of {of_tensor}shape` is `1.5`, expected an extent"),
        (set_in(*tensor, "dtype", value=8), f"{of_tensor}dtype` is `8`, expected a dtype"),
        (
            set_in("models", 0, "pools", 0, "data", value="0g"),
            '`models[0].pools[0].data` is `"0g"`, expected hexadecimal digits',
        ),
        (set_in("library", value="../lib.a"), '`library` is `"../lib.a"`, expected a file name'),
        (set_in("target", value=[]), "`target` is a list, expected a string"),
    ):
        copy = json.loads(json.dumps(document))
        change(copy)
        path.write_text(json.dumps(copy))
        with pytest.raises(InputError) as caught:
            open_library(path, "motor")
        assert str(caught.value) == f"bad.json: is not the document of a library: {message}"
    assert desk.fails("run", path, "--model", "motor") == (1, f"error: {caught.value}\n")


def test_a_library_that_is_gone_or_damaged(desk: Desk) -> None:
    library_of(desk)
    words = ("run", "lib.json", "--model", "tone", "--inputs", SAMPLES / "tone.inputs.npz")
    (desk.folder / "lib.a").write_bytes(b"junk")
    assert desk.fails(*words) == (1, "error: lib.a: is not an ar archive\n")
    (desk.folder / "lib.a").unlink()
    assert desk.fails(*words) == (1, "error: lib.a: cannot be read: no such file or directory\n")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("*(volatile int*)8 = 1;", "the model crashed (SIGSEGV)"),
        ("extern void abort(void); abort();", "the model crashed (SIGABRT)"),
        ("return -1;", "the model reported failure"),
        ("output_buffer_var[4] = 1;", "wrote past the end of an output or pool"),
        ("for (volatile int i = 0;;) i = i + 1;", "the model did not end within 1 s"),
    ],
    ids=["segfault", "abort", "failure", "overrun", "loop"],
)
def test_a_model_that_fails_on_this_machine(desk: Desk, statement: str, message: str) -> None:
    archive = desk.faulty("bad.tar", statement)
    words = ("run", f"kws={archive}", "--inputs", SAMPLES / "tone.inputs.npz", "--timeout", "1")
    assert desk.fails(*words) == (2, f"error: kws: {message}\n")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("return -1;", "the model reported failure"),
        ("output_buffer_var[4] = 1;", "wrote past the end of an output or pool"),
        ("for (volatile int i = 0;;) i = i + 1;", "the model did not end within 1 s"),
    ],
    ids=["failure", "overrun", "loop"],
)
def test_a_model_that_fails_on_a_board(desk: Desk, statement: str, message: str) -> None:
    archive = desk.faulty("bad.tar", statement)
    words = (
        "run",
        f"kws={archive}",
        "--inputs",
        SAMPLES / "tone.inputs.npz",
        "--timeout",
        "1",
        "--target",
        "cortex-m4",
    )
    assert desk.fails(*words) == (2, f"error: kws: {message}\n")


def test_a_model_that_faults_on_a_board(desk: Desk) -> None:
    archive = desk.faulty("bad.tar", "*(volatile int*)0xfffffff0 = 1;")
    words = ("run", f"kws={archive}", "--inputs", SAMPLES / "tone.inputs.npz", "--target", "cortex-m4")
    status, message = desk.fails(*words)
    assert status == 2
    assert message.startswith("error: kws: the processor faulted: ")
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("target", "compiler", "emulator", "package"),
    [
        ("cortex-m4", "arm-none-eabi-gcc", "qemu-system-arm", "qemu-system-arm"),
        ("rv32imac", "riscv64-unknown-elf-gcc", "qemu-system-riscv32", "qemu-system-misc"),
    ],
)
def test_a_missing_emulator_is_named_with_its_package(
    desk: Desk, tmp_path: Path, target: str, compiler: str, emulator: str, package: str
) -> None:
    path = only(tmp_path / "bin", compiler)
    words = ("run", TONE, "--inputs", SAMPLES / "tone.inputs.npz", "--target", target)
    message = f"error: there is no `{emulator}`\nhint: install the package {package}\n"
    assert desk.fails(*words, PATH=path) == (2, message)
    assert desk.fails("demo", "--target", target, PATH=path) == (2, message)


def in_shell(desk: Desk, command: str) -> Outcome:
    text = command.replace("mlf ", f"{shlex.join(desk.command())} ").replace("TONE", shlex.quote(str(TONE)))
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", text], cwd=desk.folder, env=desk.environment(), capture_output=True, text=True, check=False
    )  # fmt: skip
    return Outcome(status=done.returncode, stdout=done.stdout, stderr=done.stderr)


@pytest.mark.parametrize(
    ("command", "outcome"),
    [
        ("mlf inspect TONE | true", Outcome(status=0, stdout="", stderr="")),
        ("mlf --help | true", Outcome(status=0, stdout="", stderr="")),
        ("mlf inspect TONE >&-", Outcome(status=0, stdout="", stderr="")),
        ("mlf inspect none.tar 2>&-", Outcome(status=1, stdout="", stderr="")),
        ("mlf inspect none.tar 2>/dev/full", Outcome(status=1, stdout="", stderr="")),
        ("mlf link --bend 2>&-", Outcome(status=2, stdout="", stderr="")),
        ("mlf link --bend 2>/dev/full", Outcome(status=2, stdout="", stderr="")),
        ("mlf inspect none.tar --json | true", Outcome(status=1, stdout="", stderr="error: none.tar: no such file\n")),
        (
            "mlf inspect TONE >/dev/full",
            Outcome(status=2, stdout="", stderr="error: standard output: cannot be written: no space left on device\n"),
        ),
        ("mlf --help >/dev/full", Outcome(status=2, stdout="", stderr="error: no space left on device\n")),
    ],
)
def test_output_that_nobody_takes_gives_no_traceback(desk: Desk, command: str, outcome: Outcome) -> None:
    assert in_shell(desk, command) == outcome


def test_the_first_line_of_a_long_output_can_be_taken_alone(desk: Desk) -> None:
    outcome = in_shell(desk, "mlf inspect TONE --json | head -n 1")
    assert outcome == Outcome(status=0, stdout="{\n", stderr="")


BUG = "import mlf.archive\ndef broken(*_, **__): raise ZeroDivisionError('no')\nmlf.archive.open_archive = broken\n"


def test_a_bug_is_one_line_and_a_hint_and_a_traceback_on_demand(desk: Desk, tmp_path: Path) -> None:
    site = tmp_path / "site"
    search = without_zig(site)
    (site / "sitecustomize.py").write_text(BUG)
    assert desk.fails("inspect", TONE, PYTHONPATH=search) == (
        2,
        (
            "error: internal error: ZeroDivisionError: no\n"
            "hint: this is a bug in mlf; run again with MLF_TRACEBACK=1 and report what it prints\n"
        ),
    )
    status, message = desk.fails("inspect", TONE, PYTHONPATH=search, MLF_TRACEBACK="1")
    assert (status, message.splitlines()[0]) == (1, "Traceback (most recent call last):")


def test_control_characters_in_a_name_do_not_reach_the_terminal(desk: Desk) -> None:
    status, message = desk.fails("inspect", "no\x1b[31m.tar")
    assert (status, message) == (1, "error: no\\x1b[31m.tar: no such file\n")
