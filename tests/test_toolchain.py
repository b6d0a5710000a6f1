from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlf import toolchain
from mlf.errors import OutputError, ToolError
from mlf.files import replace_files, scratch_folder, uninterrupted
from mlf.toolchain import (
    TARGETS,
    Command,
    Compiler,
    Finished,
    find_compiler,
    find_target,
    is_machine_fault,
    own_words,
    run,
    run_many,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SH = "/bin/sh"


def script(folder: Path, text: str, name: str = "fakecc") -> str:
    path = folder / name
    path.write_text(f"#!{SH}\n{text}\n")
    path.chmod(0o755)
    return str(path)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not yet asked for by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def have_ended(file: Path) -> bool:
    """Whether the processes whose numbers a file holds end, which one that was killed does in its own time."""
    pids = [int(word) for word in file.read_text().split()]
    deadline_s = time.monotonic() + 10
    while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return not any(is_alive(pid) for pid in pids)


def finished(status: int, stderr: str = "", stdout: str = "") -> Finished:
    return Finished(status=status, stdout=stdout, stderr=stderr)


def test_outputs_come_in_the_order_of_the_commands_whatever_ends_first() -> None:
    commands = [Command(argv=(SH, "-c", f"sleep {delay}; echo {delay}")) for delay in ("0.2", "0.0", "0.1")]
    assert [result.stdout for result in run_many(commands, jobs=3)] == ["0.2\n", "0.0\n", "0.1\n"]


def test_no_more_programs_run_at_a_time_than_allowed(tmp_path: Path) -> None:
    text = f"mkdir {tmp_path}/busy || exit 1; sleep 0.02; rmdir {tmp_path}/busy"
    results = run_many([Command(argv=(SH, "-c", text)) for _ in range(4)], jobs=1)
    assert [result.status for result in results] == [0, 0, 0, 0]


def test_a_program_that_prints_more_than_a_pipe_holds_does_not_stop() -> None:
    result = run([SH, "-c", "head -c 1000000 /dev/zero | tr '\\0' x; head -c 1000000 /dev/zero | tr '\\0' y >&2"])
    assert (len(result.stdout), len(result.stderr)) == (1_000_000, 1_000_000)


def test_programs_have_no_input_and_speak_english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert run([SH, "-c", "cat; echo $LC_ALL"]).stdout == "C\n"


def test_a_program_that_does_not_end_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    compiler = script(tmp_path, f"sleep 60 & echo $$ $! >{tmp_path}/pids; wait")
    started_s = time.monotonic()
    with pytest.raises(ToolError) as caught:
        run([compiler], timeout_s=0.3, tool="fakecc")
    assert str(caught.value) == "fakecc did not end within 0.3 s"
    assert time.monotonic() - started_s < 5
    assert have_ended(tmp_path / "pids")


def test_a_program_that_does_not_end_when_told_to_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "_GRACE_S", 0.1)
    stubborn = script(tmp_path, f"trap '' TERM; echo $$ >{tmp_path}/pid; while :; do sleep 1; done")
    with pytest.raises(ToolError, match="did not end within"):
        run([stubborn], timeout_s=0.3)
    assert have_ended(tmp_path / "pid")


def test_a_program_that_is_told_to_end_can_remove_its_temporary_files(tmp_path: Path) -> None:
    careful = script(
        tmp_path, f"trap 'rm {tmp_path}/temporary; exit' TERM; echo >{tmp_path}/temporary; while :; do sleep 0.01; done"
    )
    with pytest.raises(ToolError, match="did not end within"):
        run([careful], timeout_s=0.3)
    assert [path.name for path in tmp_path.iterdir()] == ["fakecc"]


def test_a_compiler_that_hangs_when_it_is_asked_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "_ASK_TIMEOUT_S", 0.2)
    with pytest.raises(ToolError) as caught:
        find_compiler(TARGETS["host"], cc=script(tmp_path, "sleep 60"))
    assert str(caught.value) == "fakecc did not end within 0.2 s"


def test_a_compiler_that_is_killed_when_it_is_asked_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ToolError) as caught:
        find_compiler(TARGETS["host"], cc=script(tmp_path, "kill -SEGV $$"))
    assert str(caught.value) == "the compiler refuses `fakecc`:\n(killed by SIGSEGV)"


def test_an_error_while_a_program_is_prepared_ends_those_that_run(tmp_path: Path) -> None:
    def commands() -> Iterator[Command]:
        yield Command(argv=(SH, "-c", f"echo $$ >{tmp_path}/pid; exec sleep 60"))
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        run_many(commands(), jobs=2)
    assert have_ended(tmp_path / "pid")


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (finished(1, "no\n", "yes\n"), "no"),
        (finished(1, "", "yes\n"), "yes"),
        (finished(3), "(status 3)"),
        (finished(-9), "(killed by SIGKILL)"),
        (finished(-9, "late\n"), "late\n(killed by SIGKILL)"),
        (finished(-99), "(killed by signal 99)"),
        (finished(1, "\n".join("x" * 14)), "\n".join("x" * 12) + "\n(2 more lines)"),
        (finished(1, "\n".join("x" * 13)), "\n".join("x" * 12) + "\n(1 more line)"),
        (finished(1, "x" * 201), "x" * 200 + " ..."),
    ],
    ids=["stderr", "stdout", "nothing", "killed", "words-then-killed", "no-name", "many-lines", "a-line", "long-line"],
)
def test_what_is_shown_of_a_failed_program(result: Finished, words: str) -> None:
    assert own_words(result) == words


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (finished(1, "a.c:1: error: no\n"), False),
        (finished(1, "as: a.o: No space left on device\n"), True),
        (finished(1, "gcc: fatal error: Killed signal terminated program cc1\n"), True),
        (finished(-9), True),
    ],
    ids=["source", "disk", "part-killed", "killed"],
)
def test_a_fault_of_the_machine_is_told_from_one_of_the_source(result: Finished, expected: bool) -> None:
    assert is_machine_fault(result) is expected


def test_an_unknown_target() -> None:
    with pytest.raises(ToolError) as caught:
        find_target("z80")
    assert str(caught.value) == f"there is no target `z80`; known are {', '.join(TARGETS)}"
    assert caught.value.hint == "use --cc and --cflags for any other"


@pytest.mark.parametrize(
    ("target", "cc", "family"),
    [
        ("host", "gcc", "gcc"),
        ("host", "clang", "clang"),
        ("cortex-m4", "arm-none-eabi-gcc", "gcc"),
        ("cortex-m4", "clang", "clang"),
        ("rv32imac", None, "gcc"),
        ("rv32imafc", f"{sys.executable} -m ziglang cc", "zig"),
    ],
)
def test_a_compiler_says_what_it_is(target: str, cc: str | None, family: str) -> None:
    compiler = find_compiler(TARGETS[target], cc=cc)
    assert compiler.family == family
    assert compiler.version[0].isdigit() or "Clang" in compiler.version


ZIG = f"{sys.executable} -m ziglang cc"
# What must be defined, and what must not, for each target.
MACROS = {
    "cortex-m0": ("__ARM_ARCH_6M__ __thumb__", "__ARM_FP __ARM_FEATURE_DSP"),
    "cortex-m3": ("__ARM_ARCH_7M__", "__ARM_FP __ARM_FEATURE_DSP"),
    "cortex-m4": ("__ARM_ARCH_7EM__ __ARM_FEATURE_DSP __ARM_FP __ARM_PCS_VFP", ""),
    "cortex-m4-soft": ("__ARM_ARCH_7EM__ __ARM_FEATURE_DSP", "__ARM_FP __ARM_PCS_VFP"),
    "cortex-m7": ("__ARM_ARCH_7EM__ __ARM_FEATURE_DSP __ARM_FP __ARM_PCS_VFP __ARM_FEATURE_FMA", ""),
    "cortex-m7-soft": ("__ARM_ARCH_7EM__ __ARM_FEATURE_DSP", "__ARM_FP __ARM_PCS_VFP"),
    "cortex-m33": ("__ARM_ARCH_8M_MAIN__ __ARM_FEATURE_DSP __ARM_FP __ARM_PCS_VFP", "__ARM_FEATURE_MVE"),
    "cortex-m33-soft": ("__ARM_ARCH_8M_MAIN__ __ARM_FEATURE_DSP", "__ARM_FP __ARM_PCS_VFP"),
    "cortex-m55": ("__thumb2__ __ARM_FEATURE_DSP __ARM_FP __ARM_PCS_VFP __ARM_FEATURE_MVE", ""),
    "cortex-m55-soft": ("__thumb2__ __ARM_FEATURE_DSP", "__ARM_FP __ARM_PCS_VFP __ARM_FEATURE_MVE"),
    "rv32imac": ("__riscv_mul __riscv_atomic __riscv_compressed __riscv_float_abi_soft", "__LP64__ __riscv_flen"),
    "rv32imafc": ("__riscv_mul __riscv_atomic __riscv_compressed __riscv_float_abi_single", "__LP64__"),
    "rv64": ("__riscv_mul __riscv_atomic __riscv_compressed __riscv_float_abi_soft __LP64__", "__riscv_flen"),
    "rv64gc": ("__riscv_mul __riscv_atomic __riscv_compressed __riscv_float_abi_double __LP64__", ""),
    "aarch64": ("__aarch64__ __AARCH64EL__ __ARM_NEON __LP64__", "__pie__ __PIE__"),
}


@pytest.mark.parametrize("cc", [None, "clang", ZIG], ids=["gcc", "clang", "zig"])
@pytest.mark.parametrize("target", MACROS)
def test_each_compiler_is_told_what_the_target_has(target: str, cc: str | None) -> None:
    compiler = find_compiler(TARGETS[target], cc=cc)
    text = run([*compiler.command, "-E", "-dM", "-x", "c", "/dev/null"]).stdout
    defined = {line.split()[1] for line in text.splitlines()}
    required, forbidden = MACROS[target]

    assert sorted(set(required.split()) - defined) == []
    assert sorted(set(forbidden.split()) & defined) == []


def test_there_is_a_target_for_each_processor_that_is_promised() -> None:
    assert set(TARGETS) == {"host", *MACROS}


@pytest.mark.parametrize(
    ("target", "cc", "expected"),
    [
        ("host", None, ("-lm",)),
        ("cortex-m4", None, ("--specs=nosys.specs", "-lm")),
        ("rv64", None, ("--specs=picolibc.specs", "-lm")),
        ("aarch64", None, ("--specs=picolibc.specs", "-lm")),
        ("cortex-m4", "clang", ("-nostdlib",)),
        ("cortex-m4", ZIG, ()),
    ],
)
def test_mathematics_comes_from_a_c_library_where_there_is_one(
    target: str, cc: str | None, expected: tuple[str, ...]
) -> None:
    assert find_compiler(TARGETS[target], cc=cc).libraries() == expected


def test_the_first_compiler_that_is_installed_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_compiler(TARGETS["host"]).name == "zig cc"
    script(tmp_path, 'exec /usr/bin/clang "$@"', "clang")
    assert find_compiler(TARGETS["cortex-m4"]).name == "clang"
    script(tmp_path, 'exec /usr/bin/gcc "$@"', "gcc")
    assert find_compiler(TARGETS["host"]).name == "gcc"


def fake(text: str, folder: Path) -> Compiler:
    command = (script(folder, text),)
    return Compiler(command=command, family="gcc", version="1", target=TARGETS["host"])


def test_code_of_our_own_that_does_not_compile_or_link_is_a_fault_of_the_tool(tmp_path: Path) -> None:
    compiler = fake("echo no >&2; exit 1", tmp_path)
    with pytest.raises(ToolError) as caught:
        compiler.compile("a.c", "a.o", cwd=tmp_path)
    assert str(caught.value) == "fakecc cannot compile a.c:\nno"
    with pytest.raises(ToolError) as caught:
        compiler.link(["a.o"], "a.so", cwd=tmp_path)
    assert str(caught.value) == "fakecc cannot link a.so:\nno"


def test_a_scratch_folder_is_gone_afterwards_with_all_that_lies_in_it() -> None:
    with scratch_folder() as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("")
    assert not folder.exists()


def test_an_error_in_a_scratch_folder_is_not_changed_unless_it_is_the_systems() -> None:
    with pytest.raises(ToolError, match=r"^mine$"), scratch_folder() as folder:
        raise ToolError("mine")
    assert not folder.exists()
    with pytest.raises(OutputError) as caught, scratch_folder() as folder:
        (folder / "none" / "file").write_text("")
    assert str(caught.value) == "cannot use a temporary file: no such file or directory"
    assert caught.value.hint == "let TMPDIR name a folder with more room"
    assert not folder.exists()


def test_without_any_place_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    with pytest.raises(OutputError) as caught, scratch_folder():
        pass
    assert str(caught.value) == "cannot use a temporary file: no such file or directory"


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_is_held_back_until_a_change_is_complete() -> None:
    steps = []

    def change() -> None:
        with uninterrupted():
            interrupt()
            steps.append("first")
            interrupt()
            steps.append("second")

    with pytest.raises(KeyboardInterrupt):
        change()
    assert steps == ["first", "second"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_another_thread_changes_no_handler() -> None:
    seen = []

    def work() -> None:
        with uninterrupted():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


def test_an_interrupt_while_a_scratch_folder_is_removed_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    remove = shutil.rmtree

    def interrupted(folder: Path, *, ignore_errors: bool) -> None:
        interrupt()
        remove(folder, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt), scratch_folder() as folder:
        (folder / "file").write_text("")
    assert not folder.exists()


class _Interrupting(dict[Path, bytes]):
    """Contents of files, the last of which an interrupt forestalls."""

    def __getitem__(self, path: Path) -> bytes:
        if path == list(self)[-1]:
            interrupt()
        return super().__getitem__(path)


def test_an_interrupt_while_files_are_written_keeps_the_old_ones(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        replace_files(_Interrupting({tmp_path / "a": b"new", tmp_path / "new" / "b": b"new"}))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_an_interrupt_while_files_are_moved_comes_after_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace: Callable[[Path, Path], Path] = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        interrupt()
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    names = ["a", "b", "c"]
    with pytest.raises(KeyboardInterrupt):
        replace_files({tmp_path / name: name.encode() for name in names})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: name for name in names}


def test_a_file_that_cannot_be_written_keeps_the_others(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "c").mkdir()
    contents = {tmp_path / "a": b"new", tmp_path / "b" / "deep" / "b": b"new", tmp_path / "c": b"new"}
    with pytest.raises(OutputError) as caught:
        replace_files(contents)
    assert str(caught.value) == f"{tmp_path}/c: cannot be written: it is a directory or a device"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]
    assert (tmp_path / "a").read_bytes() == b"old"
