"""Targets, compilers, and the one place where mlf starts other programs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mlf.errors import ToolError, reason_of
from mlf.files import uninterrupted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

RUNTIME = Path(__file__).parent / "runtime"
_SHOWN_LINES = 12  # of a failed tool's own words
_SHOWN_COLUMNS = 200  # of such a line; gcc lists every processor that it knows in one of 1,500
_GRACE_S = 1.0  # for a tool that is told to end, to remove its temporary files
# What tools say when the machine is at fault and not the source: the C locale's words for ENOSPC, EDQUOT, EFBIG and
# ENOMEM, and gcc's for a part of it that was killed.
_MACHINE_FAULTS = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "Cannot allocate memory",
    "signal terminated program",
)
# They keep or fetch the object alone, and some refuse what makes another file.
_LAUNCHERS = frozenset({"ccache", "distcc", "icecc", "sccache"})
_ASK_TIMEOUT_S = 60.0  # a compiler says in milliseconds what it is, through a launcher in seconds
COMPILE_TIMEOUT_S = 3600.0  # a model's whole code in one file takes gcc minutes, never an hour


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A QEMU machine that stands for a target: its memory, its start-up code and how to start it."""

    emulator: str
    machine: str
    sources: tuple[str, ...]
    vectors_origin: int
    flash_origin: int
    flash_bytes: int
    ram_origin: int
    ram_bytes: int
    emulator_arguments: tuple[str, ...] = ()

    def linker_script(self) -> str:
        """Give the linker script: the board's memory, then the layout that all boards share."""
        symbols = {
            "VECTORS_ORIGIN": self.vectors_origin, "FLASH_ORIGIN": self.flash_origin, "FLASH_LENGTH": self.flash_bytes,
            "RAM_ORIGIN": self.ram_origin, "RAM_LENGTH": self.ram_bytes,
        }  # fmt: skip
        lines = [f"BOARD_{name} = {value:#x};" for name, value in symbols.items()]
        return "\n".join([*lines, f'INCLUDE "{RUNTIME / "board" / "board.ld"}"', ""])


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A processor to compile for; `gcc` and `zig` are the arguments that select it."""

    name: str
    compilers: tuple[str, ...]
    package: str  # of Debian, for those who have no compiler
    gcc: tuple[str, ...] = ()
    clang: tuple[str, ...] = ()
    zig: tuple[str, ...] = ()
    board: Board | None = None

    @property
    def is_host(self) -> bool:
        """Tell whether the code runs on this machine."""
        return self.board is None


_ARM = ("arm-none-eabi-gcc",)
_AARCH64 = ("aarch64-none-elf-gcc", "aarch64-linux-gnu-gcc")
_RISCV = ("riscv64-unknown-elf-gcc", "riscv-none-elf-gcc")
_RISCV32 = ("riscv32-unknown-elf-gcc", *_RISCV)
_BOARD_SOURCES = ("start.c", "semihosting.c", "memory.c")
_VECTORS_BYTES = 0x400
_KIB, _MIB = 1 << 10, 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Memory:
    """The memory map of a board; vectors lie where the processor looks for them after reset."""

    vectors: int = 0
    flash: tuple[int, int]
    ram: tuple[int, int] = (0x20000000, 4 * _MIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Core:
    """A Cortex-M, the machine that has it, and the name of its floating-point unit to gcc; zig's features come apart."""

    name: str
    machine: str
    memory: _Memory
    fpu: str = ""
    zig_fpu: str = ""
    zig_always: str = ""


def _cortex_m(core: _Core, *, is_hard: bool, suffix: str = "") -> Target:
    floats = ("-mfloat-abi=hard", f"-mfpu={core.fpu}") if is_hard else ("-mfloat-abi=soft",)
    select = (f"-mcpu={core.name}", "-mthumb", *floats)
    zig_cpu = core.name.replace("-", "_") + core.zig_always + (core.zig_fpu if is_hard else "")
    flash, ram = core.memory.flash, core.memory.ram
    return Target(
        name=core.name + suffix,
        compilers=_ARM,
        package="gcc-arm-none-eabi",
        gcc=select,
        clang=("--target=arm-none-eabi", *(word for word in select if word != "-mfpu=auto")),  # to clang that is no name
        zig=("-target", "thumb-freestanding-eabihf" if is_hard else "thumb-freestanding-eabi", f"-mcpu={zig_cpu}"),
        board=Board(
            emulator="qemu-system-arm", machine=core.machine, sources=(*_BOARD_SOURCES, "start_cortex_m.c"),
            vectors_origin=core.memory.vectors, flash_origin=flash[0], flash_bytes=flash[1], ram_origin=ram[0], ram_bytes=ram[1],
        ),
    )  # fmt: skip


def _riscv(name: str, march: str, abi: str) -> Target:
    bits, extensions = march[2:4], march[4:].replace("g", "imafd")
    select = (f"-march={march}", f"-mabi={abi}", "-mcmodel=medany")
    zig_cpu = f"generic_rv{bits}" + "".join(f"+{letter}" for letter in extensions if letter != "i")
    return Target(
        name=name,
        compilers=_RISCV32 if bits == "32" else _RISCV,
        package="gcc-riscv64-unknown-elf",
        gcc=select,
        clang=(f"--target=riscv{bits}-unknown-elf", *select),
        zig=("-target", f"riscv{bits}-freestanding-none", f"-mcpu={zig_cpu}", f"-mabi={abi}", "-mcmodel=medany"),
        board=_virt(f"qemu-system-riscv{bits}", "start_riscv.S", 0x80000000, "-bios", "none"),
    )


def _virt(emulator: str, start: str, memory: int, *arguments: str) -> Board:
    """Give QEMU's own board, with RAM below flash: a stack that overflows must not run into the code that reports it."""
    return Board(
        emulator=emulator, machine="virt", sources=(*_BOARD_SOURCES, start), vectors_origin=memory,
        flash_origin=memory + 64 * _MIB, flash_bytes=64 * _MIB, ram_origin=memory + 4 * _KIB, ram_bytes=64 * _MIB - 4 * _KIB,
        emulator_arguments=arguments,
    )  # fmt: skip


_AARCH64_SELECT = ("-march=armv8-a", "-fno-pie")  # what Linux's gcc makes by default needs a table of addresses
_AARCH64_TARGET = Target(
    name="aarch64",
    compilers=_AARCH64,
    package="gcc-aarch64-linux-gnu",
    gcc=(*_AARCH64_SELECT, "-mno-outline-atomics"),  # whose functions ask Linux what the processor can
    clang=("--target=aarch64-none-elf", *_AARCH64_SELECT),
    zig=("-target", "aarch64-freestanding-none", "-mcpu=generic"),
    board=_virt("qemu-system-aarch64", "start_aarch64.S", 0x40000000, "-cpu", "cortex-a53", "-nic", "none"),
)

_MPS2 = _Memory(flash=(0x21000000, 16 * _MIB))
_MICROBIT = _Memory(flash=(_VECTORS_BYTES, 255 * _KIB), ram=(0x20000000, 16 * _KIB))
_MPS2_LARGE = _Memory(flash=(0x60000000, 16 * _MIB))
_MPS2_SECURE = _Memory(vectors=0x10000000, flash=(0x10000400, 4 * _MIB - _VECTORS_BYTES), ram=(0x80000000, 16 * _MIB))
_MPS3 = _Memory(flash=(0x70000000, 16 * _MIB), ram=(0x31000000, 4 * _MIB))
_SOFT_CORES = (
    _Core(name="cortex-m0", machine="microbit", memory=_MICROBIT),
    _Core(name="cortex-m3", machine="mps2-an385", memory=_MPS2),
)
_HARD_CORES = (
    _Core(name="cortex-m4", machine="mps2-an386", memory=_MPS2, fpu="fpv4-sp-d16", zig_fpu="+vfp4d16sp"),
    _Core(name="cortex-m7", machine="mps2-an500", memory=_MPS2_LARGE, fpu="fpv5-d16", zig_fpu="+fp_armv8d16"),
    _Core(
        name="cortex-m33", machine="mps2-an505", memory=_MPS2_SECURE, fpu="fpv5-sp-d16", zig_fpu="+fp_armv8d16sp", zig_always="+dsp"
    ),
    _Core(name="cortex-m55", machine="mps3-an547", memory=_MPS3, fpu="auto", zig_fpu="+mve_fp+fp_armv8d16"),
)  # fmt: skip

TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target(name="host", compilers=("cc", "gcc", "clang"), package="gcc"),
        *(_cortex_m(core, is_hard=False) for core in _SOFT_CORES),
        *(_cortex_m(core, is_hard=True) for core in _HARD_CORES),
        *(_cortex_m(core, is_hard=False, suffix="-soft") for core in _HARD_CORES),
        _riscv("rv32imac", "rv32imac", "ilp32"),
        _riscv("rv32imafc", "rv32imafc", "ilp32f"),
        _riscv("rv64", "rv64imac", "lp64"),
        _riscv("rv64gc", "rv64gc", "lp64d"),
        _AARCH64_TARGET,
    )
}


def find_target(name: str) -> Target:
    """Give the target of this name; ToolError lists the names that there are."""
    if name not in TARGETS:
        raise ToolError(
            f"there is no target `{name}`; known are {', '.join(TARGETS)}", hint="use --cc and --cflags for any other"
        )
    return TARGETS[name]


_LANGUAGES = {".c": ("-std=gnu99",), ".S": ()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a program printed, and its exit status (negative: killed by that signal)."""

    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program to start: no shell, no input, the C locale. `tool` is what messages call it."""

    argv: tuple[str, ...]
    cwd: Path | None = None
    tool: str | None = None

    @property
    def name(self) -> str:
        """What messages call the program."""
        return self.tool or f"`{self.argv[0]}`"


def run(
    argv: Sequence[str], *, cwd: Path | None = None, timeout_s: float = COMPILE_TIMEOUT_S, tool: str | None = None
) -> Finished:
    """Run one program; raise ToolError if it is missing or does not end."""
    return run_many([Command(argv=tuple(argv), cwd=cwd, tool=tool)], timeout_s=timeout_s)[0]


def run_many(commands: Iterable[Command], *, jobs: int = 1, timeout_s: float = COMPILE_TIMEOUT_S) -> list[Finished]:
    """Run programs, at most `jobs` at a time, and give what they printed in the order of `commands`.

    `commands` may be a generator that prepares one while others run. Whatever ends this call early, an interrupt too,
    ends those that still run and what they started. Raises ToolError if one is missing or does not end.
    """
    started: list[_Running] = []
    try:
        for command in commands:
            while sum(not process.is_done for process in started) >= jobs:
                _wait_for_one(started, timeout_s)
            with uninterrupted():  # a program that is running is in the list
                started.append(_Running(command))
        while any(not process.is_done for process in started):
            _wait_for_one(started, timeout_s)
        return [process.finish() for process in started]
    finally:
        with uninterrupted():
            _end(started)


class _Running:
    """A program that was started; its output goes to memory, so that no pipe and no disk can fill up."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.started_s = time.monotonic()
        self.stdout, self.stderr = _memory_file(), _memory_file()
        environment = {**os.environ, "LC_ALL": "C", "SOURCE_DATE_EPOCH": "0"}
        try:
            self.process = subprocess.Popen(  # in a session of its own, so that all that it starts can be ended with it
                command.argv, cwd=command.cwd, env=environment, stdin=subprocess.DEVNULL, stdout=self.stdout, stderr=self.stderr,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self.stdout.close()
            self.stderr.close()
            reason = reason_of(error)
            raise ToolError(f"cannot start `{command.argv[0]}`: {reason}") from error

    @property
    def is_done(self) -> bool:
        return self.process.poll() is not None

    def finish(self) -> Finished:
        self.stdout.seek(0)
        self.stderr.seek(0)
        return Finished(
            status=self.process.returncode, stdout=_text(self.stdout.read()), stderr=_text(self.stderr.read())
        )

    def has_ended(self) -> bool:
        """Tell whether it has ended without waiting for it: until then no other process can get its number."""
        return self.process.returncode is not None or bool(
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        )

    def send(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)

    def close(self) -> None:
        self.process.wait()
        self.stdout.close()
        self.stderr.close()


def _memory_file() -> IO[bytes]:
    """Give a file in memory, where the system has such; elsewhere a temporary one."""
    make = getattr(os, "memfd_create", None)
    return os.fdopen(make("output"), "w+b") if make else tempfile.TemporaryFile()


def _end(started: Sequence[_Running]) -> None:
    """End what still runs and what it started: first politely, so that compilers remove their temporary files."""
    running = [process for process in started if not process.is_done]
    for process in running:
        process.send(signal.SIGTERM)
    deadline_s = time.monotonic() + _GRACE_S
    while not all(process.has_ended() for process in running) and time.monotonic() < deadline_s:
        time.sleep(0.002)
    for process in running:
        process.send(signal.SIGKILL)
    for process in started:
        process.close()


def _wait_for_one(started: Sequence[_Running], timeout_s: float) -> None:
    """Wait until one more of the running programs has ended."""
    running = [process for process in started if not process.is_done]
    pause_s = 0.0005
    while running and not any(process.is_done for process in running):
        late = next((process for process in running if time.monotonic() - process.started_s > timeout_s), None)
        if late is not None:
            raise ToolError(f"{late.command.name} did not end within {timeout_s:g} s")
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.005)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").replace("\r\n", "\n")


def own_words(finished: Finished) -> str:
    """Give the first lines that a failed program printed, for an error message."""
    lines = (finished.stderr or finished.stdout).strip().splitlines()
    hidden = len(lines) - _SHOWN_LINES
    more = [f"({hidden} more line{'' if hidden == 1 else 's'})"] if hidden > 0 else []
    killed = [f"(killed by {signal_name(-finished.status)})"] if finished.status < 0 else []
    shown = [line if len(line) <= _SHOWN_COLUMNS else f"{line[:_SHOWN_COLUMNS]} ..." for line in lines[:_SHOWN_LINES]]
    return "\n".join(shown + more + killed) or f"(status {finished.status})"


def signal_name(number: int) -> str:
    """Give the name of a signal, such as `SIGSEGV`."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def is_machine_fault(finished: Finished) -> bool:
    """Tell whether a tool failed for want of disk or memory, or was killed, and so says nothing of its input."""
    return finished.status < 0 or any(words in finished.stderr for words in _MACHINE_FAULTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiler:
    """A C compiler for a target: the command that starts it, and what it said of itself."""

    command: tuple[str, ...]
    family: str
    version: str
    target: Target
    cflags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The command without directories, as messages and documents show it."""
        return " ".join(_shown(self.command))

    @property
    def flags(self) -> tuple[str, ...]:
        """The arguments for every C file of a library.

        Workspace memory holds one type after another, so aliasing by type must stay off; unwind tables are dead weight.
        TVM's wrappers pass pointers of other types than the operators declare, which recent compilers take for an error.
        With -pipe gcc makes no temporary files, whose names would be in what it says.
        """
        flags = [
            "-O2", "-g0", "-pipe", "-ffunction-sections", "-fdata-sections", "-fno-strict-aliasing", "-fno-common", "-fvisibility=hidden",
            "-fno-exceptions", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables", "-w", "-Wno-incompatible-pointer-types",
        ]  # fmt: skip
        if self.target.is_host:
            flags.append("-fPIC")
        else:  # -ffreestanding finds headers without a C library; -fbuiltin keeps the compiler's own knowledge of them
            flags += ["-ffreestanding", "-fbuiltin", "-idirafter", str(RUNTIME / "libc")]
        if self.family == "gcc" and Path(self.command[0]).name not in _LAUNCHERS:
            flags.append("-fcallgraph-info=su")  # how much stack each function takes, in a file beside the object
        return (*flags, *self.cflags, "-fno-lto")

    @property
    def half_flags(self) -> tuple[str, ...]:
        """The arguments for C that calls a 16-bit float `half`, as TVM does."""
        is_gcc_for_arm = self.family == "gcc" and any("cortex-m" in flag for flag in self.command)
        return ("-Dhalf=_Float16", *(("-mfp16-format=ieee",) if is_gcc_for_arm else ()))

    def compile_command(self, source: str, output: str, *, cwd: Path, extra: Sequence[str] = ()) -> Command:
        """Give the command that compiles `source` to `output`, both relative to `cwd`.

        The object will not hold the name of `cwd`.
        """
        maps = (f"-ffile-prefix-map={cwd}=.", f"-ffile-prefix-map={RUNTIME}=mlf")
        language = _LANGUAGES.get(Path(source).suffix, ("-fno-rtti", "-x", "c++"))
        argv = (*self.command, *self.flags, *maps, *extra, *language, "-c", source, "-o", output)
        return Command(argv=argv, cwd=cwd, tool=self.name)

    def compile(self, source: str, output: str, *, cwd: Path, extra: Sequence[str] = ()) -> None:
        """Compile C of mlf's own; raise ToolError with the compiler's own words."""
        finished = run_many([self.compile_command(source, output, cwd=cwd, extra=extra)])[0]
        if finished.status != 0:
            raise ToolError(f"{self.name} cannot compile {source}:\n{own_words(finished)}")

    def link(self, inputs: Sequence[str], output: str, *, cwd: Path, extra: Sequence[str] = ()) -> None:
        """Link `inputs` to `output`, both relative to `cwd`; raise ToolError with the linker's own words."""
        finished = run([*self.command, *self.cflags, *inputs, *extra, "-o", output], cwd=cwd, tool=self.name)
        if finished.status != 0:
            raise ToolError(f"{self.name} cannot link {output}:\n{own_words(finished)}")

    def libraries(self) -> tuple[str, ...]:
        """Give the arguments that link mathematics: the C library's where there is one, else the compiler's own support."""
        if self.target.is_host:
            return ("-lm",)
        if self.family != "gcc":  # zig's compiler-rt holds the common functions, clang has nothing for bare boards
            return () if self.family == "zig" else ("-nostdlib",)
        for specs in ("--specs=nosys.specs", "--specs=picolibc.specs"):
            # The C library brings its specs file, so a compiler that takes the file has the library.
            if run([*self.command, *self.cflags, specs, "-E", "-x", "c", "/dev/null"], tool=self.name).status == 0:
                return (specs, "-lm")
        return ("-nostdlib", "-lgcc")


def _shown(command: Sequence[str]) -> list[str]:
    if len(command) >= 3 and command[1:3] == ("-m", "ziglang"):  # started as a module of this Python
        return ["zig", *command[3:4]]
    return [part.rsplit("/", 1)[-1] for part in command if not part.startswith("-")]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    command: tuple[str, ...]
    select: tuple[str, ...] = field(default=())


def find_compiler(target: Target, *, cc: str | None = None, cflags: Sequence[str] = ()) -> Compiler:
    """Find a C compiler for `target`.

    It is `cc` if given (launchers such as `ccache` may stand in front), else the first that is installed of the target's
    GNU compilers, clang, and the `zig cc` of the ziglang package.

    Raises ToolError where there is none, or where it does not take `cflags`.
    """
    candidates = _candidates(target) if cc is None else [_given(target, cc)]
    if not candidates:
        looked = ", ".join(dict.fromkeys([*target.compilers, "clang", "zig"]))
        hint = f"pip install ziglang, or install the package {target.package}"
        raise ToolError(f"no C compiler for {target.name}: looked for {looked}", hint=hint)
    command, select = candidates[0].command, candidates[0].select
    family, version = _ask(command, (*select, *cflags))
    return Compiler(command=(*command, *select), family=family, version=version, target=target, cflags=tuple(cflags))


def compiler_for(target: str, *, cc: str | None = None, cflags: Sequence[str] = ()) -> Compiler:
    """Find a C compiler for the target of this name; raises what `find_target` and `find_compiler` raise."""
    return find_compiler(find_target(target), cc=cc, cflags=cflags)


def _given(target: Target, cc: str) -> _Candidate:
    command = tuple(split_words(cc, option="--cc"))
    if not command:
        raise ToolError("--cc is empty")
    return _Candidate(command=command, select=_select(target, command))


def split_words(text: str, *, option: str) -> list[str]:
    """Split what an option gives into words as a shell does; raise ToolError for a quotation that does not end."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ToolError(f"{option} `{text}` has a quotation or an escape that does not end") from error


def _select(target: Target, command: Sequence[str]) -> tuple[str, ...]:
    """Give the arguments by which the compiler of a --cc is told the target, judged by its name."""
    name = " ".join(command)
    if "zig" in name:
        return target.zig
    return target.clang if "clang" in name else target.gcc


def _candidates(target: Target) -> list[_Candidate]:
    found = [_Candidate(command=(name,), select=target.gcc) for name in target.compilers if shutil.which(name)]
    if not target.is_host and shutil.which("clang"):
        found.append(_Candidate(command=("clang",), select=target.clang))
    if _has_zig():
        found.append(_Candidate(command=(sys.executable, "-m", "ziglang", "cc"), select=target.zig))
    return found


def _has_zig() -> bool:
    from importlib.util import find_spec  # noqa: PLC0415  # asked only where there is no other compiler

    return find_spec("ziglang") is not None


def _ask(command: Sequence[str], flags: Sequence[str]) -> tuple[str, str]:
    """Ask a compiler what it is, by its predefined macros; raise ToolError if it refuses the flags."""
    name = " ".join(_shown(tuple(command)))
    finished = run([*command, *flags, "-E", "-dM", "-x", "c", "/dev/null"], tool=name, timeout_s=_ASK_TIMEOUT_S)
    if finished.status != 0:
        shown = " ".join([name, *flags])
        raise ToolError(f"the compiler refuses `{shown}`:\n{own_words(finished)}")
    macros = dict(re.findall(r"^#define (\w+) (.*)$", finished.stdout, re.MULTILINE))
    if "__STDC__" not in macros:
        raise ToolError(f"`{name}` is no C compiler: asked for its macros, it gave none")
    family = "zig" if "ziglang" in command or "zig" in command[0] else "clang" if "__clang__" in macros else "gcc"
    return family, macros.get("__VERSION__", "unknown").strip('"')
