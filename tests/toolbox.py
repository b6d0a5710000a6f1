"""What several tests need: compilers for the targets, programs linked from objects and run, and the tools that judge."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from mlf.objects.elf import parse_object
from mlf.objects.merge import MergedObject, merge_objects

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

OBJECTS = Path(__file__).parent / "objects"
BOARD = Path(__file__).parent.parent / "mlf" / "runtime" / "board"
# Zig keeps its compiled headers here; shared, because making them takes a second.
_ZIG_CACHE = Path(tempfile.gettempdir()) / "mlf-test-zig-cache"
_ENVIRONMENT = {"LC_ALL": "C", "ZIG_GLOBAL_CACHE_DIR": str(_ZIG_CACHE), "ZIG_LOCAL_CACHE_DIR": str(_ZIG_CACHE)}
_TIMEOUT_SECONDS = 60
_COMMON_FLAGS = ("-O1", "-fcommon", "-ffunction-sections", "-fdata-sections")
_SUFFIXES = {"c": "c", "c++": "cpp", "assembler": "s"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A compiler, and how a program that holds its objects is linked and run."""

    name: str
    cc: tuple[str, ...]
    cxx: tuple[str, ...] = ()
    prefix: str = ""  # of GNU binutils
    ld_flags: tuple[str, ...] = ()  # what GNU ld has to be told, where it serves several machines
    support: tuple[Path, ...] = ()  # start-up code; none where there is a C library
    link_flags: tuple[str, ...] = ()
    emulator: tuple[str, ...] = ()


def _board(vectors: str, flash: str, ram: str) -> tuple[str, ...]:
    memory = {"VECTORS_ORIGIN": vectors, "FLASH_ORIGIN": flash, "FLASH_LENGTH": "4M", "RAM_ORIGIN": ram}
    symbols = [f"-Wl,--defsym=BOARD_{name}={value}" for name, value in {**memory, "RAM_LENGTH": "4M"}.items()]
    return ("-nostdlib", f"-Wl,-T,{BOARD / 'board.ld'}", *symbols)


def _support(start: str) -> tuple[Path, ...]:
    return tuple(BOARD / name for name in (start, "start.c", "semihosting.c", "memory.c"))


_QEMU_FLAGS = ("-nographic", "-monitor", "none", "-serial", "none", "-semihosting-config", "enable=on,target=native")
_ARM_FLAGS = ("-mcpu=cortex-m3", "-mthumb", "-ffreestanding")
_RISCV_FLAGS = ("-march=rv32imac", "-mabi=ilp32", "-mcmodel=medany", "-ffreestanding")
# The personality routines of the Arm ABI are in no board; code that throws nothing needs no tables for them.
_NO_UNWIND = ("-fno-unwind-tables", "-fno-asynchronous-unwind-tables", "-fno-exceptions")
_BARE_CXX = (*_NO_UNWIND, "-fno-rtti", "-fno-threadsafe-statics")

HOST = Target(name="host", cc=("gcc",), cxx=("g++",))
CLANG = Target(name="clang", cc=("clang",), cxx=("clang++",))
CORTEX_M3 = Target(
    name="cortex-m3",
    cc=("arm-none-eabi-gcc", *_ARM_FLAGS),
    cxx=("arm-none-eabi-g++", *_ARM_FLAGS, *_BARE_CXX),
    prefix="arm-none-eabi-",
    support=_support("start_cortex_m.c"),
    link_flags=_board("0", "0x400", "0x20000000"),
    emulator=("qemu-system-arm", "-M", "mps2-an385", *_QEMU_FLAGS, "-kernel"),
)
ZIG = Target(
    name="zig",
    cc=(
        sys.executable, "-m", "ziglang", "cc", "-target", "thumb-freestanding-eabi", "-mcpu=cortex_m3", "-g0",
        "-fno-sanitize=all", "-fshort-enums", *_NO_UNWIND,
    ),
    prefix="arm-none-eabi-",
    support=CORTEX_M3.support,
    link_flags=(*CORTEX_M3.link_flags, "-Wl,-z,noexecstack"),  # gcc says nothing of the stack for this target, zig does
    emulator=CORTEX_M3.emulator,
)  # fmt: skip
RV32 = Target(
    name="rv32imac",
    cc=("riscv64-unknown-elf-gcc", *_RISCV_FLAGS),
    cxx=("riscv64-unknown-elf-g++", *_RISCV_FLAGS, *_BARE_CXX),
    prefix="riscv64-unknown-elf-",
    ld_flags=("-m", "elf32lriscv"),
    support=_support("start_riscv.S"),
    link_flags=_board("0x80000000", "0x80000400", "0x80800000"),
    emulator=("qemu-system-riscv32", "-M", "virt", "-bios", "none", *_QEMU_FLAGS, "-kernel"),
)
AARCH64 = Target(
    name="aarch64",
    cc=("aarch64-linux-gnu-gcc",),
    prefix="aarch64-linux-gnu-",
    link_flags=("-static",),
    emulator=("qemu-aarch64",),
)
MIPS = Target(
    name="mips",
    cc=("mips-linux-gnu-gcc", "-mno-abicalls", "-fno-pic", "-no-pie", "-ffreestanding"),
    prefix="mips-linux-gnu-",
    support=(OBJECTS / "start_linux.c",),
    link_flags=("-static", "-nostdlib"),
    emulator=("qemu-mips",),
)
ARM_BIG = Target(
    name="arm-big-endian",
    cc=("arm-none-eabi-gcc", "-mbig-endian", "-march=armv7-a", "-marm", "-ffreestanding"),
    prefix="arm-none-eabi-",
    ld_flags=("-EB",),
    support=(OBJECTS / "start_linux.c",),
    link_flags=("-nostdlib", "-Wl,--be8"),
    emulator=("qemu-armeb",),
)


def run(argv: Sequence[str | Path], *, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Run a program that must succeed; give what it printed on both streams."""
    done = subprocess.run(
        [str(word) for word in argv],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_TIMEOUT_SECONDS,
        check=False,
        env={**os.environ, **_ENVIRONMENT, **(environment or {})},
    )
    output = done.stdout.decode("utf-8", "replace")
    if done.returncode:
        raise AssertionError(f"{' '.join(map(str, argv))}: status {done.returncode}\n{output}")
    return output


@cache
def compile_source(source: str, target: Target, *flags: str, language: str = "c", name: str = "source") -> bytes:
    """Compile C, C++ or assembler text and give the object file, which tells nothing of where it was made.

    `name` is the file that its debug information names, without a suffix.
    """
    compiler = target.cxx if language == "c++" else target.cc
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, f"{name}.{_SUFFIXES[language]}")
        path.write_text(source)
        place = f"-ffile-prefix-map={directory}=."
        run([*compiler, *_COMMON_FLAGS, place, *flags, "-c", path.name, "-o", "made.o"], cwd=path.parent)
        return Path(directory, "made.o").read_bytes()


def compile_c(source: str, target: Target, *flags: str) -> bytes:
    """Compile C text and give the object file."""
    return compile_source(source, target, *flags)


def merge_files(
    files: Mapping[str, bytes],
    exports: Mapping[str, str],
    unique: str = "m",
    *,
    rename_local: Callable[[str], str] = str,
    where: str | None = None,
) -> MergedObject:
    """Parse object files, given by label, and merge them."""
    objects = [parse_object(data, label) for label, data in files.items()]
    return merge_objects(objects, exports=exports, unique=unique, rename_local=rename_local, where=where)


def link(objects: Sequence[bytes], target: Target, program: Path, *flags: str, language: str = "c") -> Path:
    """Link objects into a program, with section garbage collection; a warning of the linker is an error."""
    support = [_compiled(path, target) for path in target.support]
    paths = [program.with_suffix(f".{number}.o") for number in range(len(objects) + len(support))]
    for path, data in zip(paths, [*objects, *support], strict=True):
        path.write_bytes(data)
    compiler = target.cxx if language == "c++" else _companion(target).cc
    libraries = ["-lgcc"] if target.support else []
    strict = ["-Wl,--gc-sections", "-Wl,--fatal-warnings"]
    run([*compiler, *paths, "-o", program, *strict, *target.link_flags, *flags, *libraries])
    return program


def _companion(target: Target) -> Target:
    """Give the target whose compiler makes and links what is not under test."""
    return CORTEX_M3 if target is ZIG else target


@cache
def _compiled(path: Path, target: Target) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory, "made.o")
        run([*_companion(target).cc, "-O1", "-ffunction-sections", "-c", path, "-o", made])
        return made.read_bytes()


def execute(program: Path, target: Target) -> str:
    """Run a program where it belongs and give what it printed."""
    return run([*target.emulator, program])


def run_main(body: str, objects: Sequence[bytes], target: Target, *flags: str, language: str = "c") -> str:
    """Run `body` as the main function of a program with `objects`; it prints numbers with `put(number)`."""
    with tempfile.TemporaryDirectory() as directory:
        program = link(
            [main_object(body, target), *objects], target, Path(directory, "program"), *flags, language=language
        )
        return execute(program, target)


def main_object(body: str, target: Target) -> bytes:
    """Compile a main function; what it calls and does not declare takes and gives an `int`."""
    text = f"{_PUT_BARE if target.support else _PUT}\nint main(void) {{ {body} return 0; }}\n"
    return compile_c(text, _companion(target), "-std=gnu99", "-w")


_PUT = r"""
#include <stdio.h>
static void put(int number) { printf("%d\n", number); fflush(stdout); }
"""
_PUT_BARE = r"""
void board_puts(const char*);
static void put(int number) {
  char text[13], *digit = text + 11;
  unsigned left = number < 0 ? -(unsigned)number : (unsigned)number;
  digit[0] = '\n';
  digit[1] = 0;
  do *--digit = (char)('0' + left % 10); while (left /= 10);
  if (number < 0) *--digit = '-';
  board_puts(digit);
}
"""


def ask(tool: str, data: bytes, *flags: str) -> str:
    """Give what a tool that reads object files says of one."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "merged.o")
        path.write_bytes(data)
        return run([tool, *flags, path.name], cwd=path.parent)


def symbol_table(data: bytes) -> SymbolTableSection:
    """Give the symbol table of an object or a program, as pyelftools reads it."""
    table = ELFFile(io.BytesIO(data)).get_section_by_name(".symtab")
    if not isinstance(table, SymbolTableSection):
        raise AssertionError("no symbol table")  # noqa: TRY004 - the test fails, no argument is wrong
    return table


def defined_globals(data: bytes) -> list[str]:
    """Give the global names that an object defines, as `nm` sees them."""
    lines = ask("nm", data, "--extern-only", "--defined-only", "--format=posix").splitlines()
    return sorted(line.split()[0] for line in lines)


def undefined_names(data: bytes) -> list[str]:
    """Give the names that an object needs, as `nm` sees them; a weak one is followed by ` weak`."""
    lines = [line.split() for line in ask("nm", data, "--undefined-only", "--format=posix").splitlines()]
    return sorted(f"{name} weak" if kind in "wv" else name for name, kind, *_ in lines)
