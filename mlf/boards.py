"""Firmware for the emulated boards: built around objects of any compiler, and run in QEMU."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from mlf.errors import ModelRunError, ToolError
from mlf.toolchain import RUNTIME, find_compiler, run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlf.toolchain import Board, Compiler, Finished

FAULT_STATUS = 99  # BOARD_FAULT_STATUS of board.h


def build_firmware(
    compiler: Compiler,
    sources: Sequence[Path],
    objects: Sequence[str],
    output: str,
    *,
    folder: Path,
    extra: Sequence[str] = (),
) -> None:
    """Compile `sources` with the start-up code of the target's board and link them with `objects` of `folder`.

    `output` is relative to `folder`; `extra` are more arguments for the compiler. The firmware around the objects is made
    by the target's GNU compiler where it is installed, whatever compiler made them. Raises ToolError.
    """
    start = RUNTIME / "board"
    board = compiler.target.board
    if board is None:
        raise ToolError(f"{compiler.target.name} has no board")
    maker = _firmware_compiler(compiler)
    built = []
    for source in [*sources, *(start / name for name in board.sources)]:
        built.append(f"{source.name}.o")
        # -fno-builtin: the start-up code brings its own memory functions, and no others may creep in.
        maker.compile(str(source), built[-1], cwd=folder, extra=("-I.", f"-I{start}", "-fno-builtin", *extra))
    (folder / "board_memory.ld").write_text(board.linker_script(), encoding="utf-8")
    arguments = ("-nostartfiles", "-static", "-T", "board_memory.ld", "-Wl,--gc-sections", *maker.libraries())
    try:
        maker.link([*built, *objects], output, cwd=folder, extra=arguments)
    except ToolError as error:
        hint = f"install the package {maker.target.package}" if maker.family != "gcc" else None
        raise ToolError(error.message, hint=hint) from error


def _firmware_compiler(compiler: Compiler) -> Compiler:
    """Choose what makes the firmware: clang brings no C library and no arithmetic for bare boards, zig no whole libm."""
    if compiler.family == "gcc":
        return compiler
    installed = next((name for name in compiler.target.compilers if shutil.which(name)), None)
    return find_compiler(compiler.target, cc=installed) if installed else compiler


def run_firmware(board: Board, firmware: str, *, folder: Path, timeout_s: float, model: str | None = None) -> Finished:
    """Start a program on the emulated board with `folder` as its working directory.

    Raises ToolError if the emulator is missing, and ModelRunError, which names `model`, if the program does not end.
    """
    if shutil.which(board.emulator) is None:
        raise ToolError(f"there is no `{board.emulator}`", hint=f"install the package {_package(board.emulator)}")
    argv = [
        board.emulator, "-M", board.machine, *board.emulator_arguments, "-display", "none", "-monitor", "none", "-serial", "none",
        "-chardev", "stdio,id=board,signal=off", "-semihosting-config", "enable=on,target=native,chardev=board", "-kernel", firmware,
    ]  # fmt: skip
    try:
        return run(argv, cwd=folder, timeout_s=timeout_s, tool="the model" if model else "the firmware")
    except ToolError as error:
        raise ModelRunError(error.message, where=model) from error


def _package(emulator: str) -> str:
    """Give the Debian package that holds an emulator."""
    return "qemu-system-misc" if "riscv" in emulator else "qemu-system-arm"
