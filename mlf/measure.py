"""How much a model allocates while it runs, found by running it once: objects do not tell, and metadata may be wrong.

The model is linked alone into an arena that is larger than it can need and remembers how much of it was in use; it runs on
zeros, on this machine or in the emulator of the target. Memory that TVM's code asks for does not depend on its inputs.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlf import codegen
from mlf.boards import build_firmware, run_firmware
from mlf.errors import ModelRunError, ToolError
from mlf.files import scratch_folder
from mlf.toolchain import RUNTIME, run

if TYPE_CHECKING:
    from mlf.linker import LinkPlan, PlannedModel
    from mlf.toolchain import Compiler

_PEAK_FILE = "peak"
_TIMEOUT_S = 600.0
_STATUSES = {"failed": 3, "overrun": 4, "io": 5}


def can_run(compiler: Compiler) -> bool:
    """Tell whether code for the compiler's target can run here."""
    board = compiler.target.board
    return board is None or shutil.which(board.emulator) is not None


def measured_allocation(plan: LinkPlan) -> int | None:
    """Run the one model of `plan`, which must be measured, and give the bytes that it allocates at most.

    None if it does not run: then it is not known.
    """
    from mlf import build, library  # noqa: PLC0415  # numpy and the object code

    model = plan.models[0]
    with scratch_folder() as folder:
        made = library.assemble(build.build(plan, folder / "build", jobs=1, report=lambda _: None), plan)
        library.write(made, folder / plan.output.name)
        try:
            status = _run(plan, model, folder)
        except (ToolError, ModelRunError):
            return None
        peak = folder / _PEAK_FILE
        if status != 0 or not peak.exists():
            return None
        order = "big" if made.document["machine"].count("big-endian") else "little"
        return int.from_bytes(peak.read_bytes(), "big" if order == "big" else "little") - _static_bytes(model)


def _static_bytes(model: PlannedModel) -> int:
    return model.need.static_bytes if model.need else 0


def _run(plan: LinkPlan, model: PlannedModel, folder: Path) -> int:
    """Build a program around the model and run it; gives its exit status."""
    compiler, interface = plan.compiler, model.interface
    peak = f"{plan.arenas[0].symbol}_peak"
    (folder / "main.c").write_text(codegen.board_runner(interface, _STATUSES, peak=peak), encoding="utf-8")
    for index, tensor in enumerate(interface.inputs):
        (folder / f"input.{index}").write_bytes(bytes(tensor.size_bytes or 0))
    for index, pool in enumerate(interface.external_pools):
        (folder / f"pool.{index}").write_bytes(pool.data)
    include = ("-Iinclude",)
    if compiler.target.board:
        build_firmware(compiler, [folder / "main.c"], [plan.output.name], "program", folder=folder, extra=include)
        board = compiler.target.board
        return run_firmware(board, "program", folder=folder, timeout_s=_TIMEOUT_S, model=model.name).status
    start = RUNTIME / "board"
    for source in (str(folder / "main.c"), str(start / "hosted.c")):
        compiler.compile(source, f"{Path(source).stem}.o", cwd=folder, extra=(*include, f"-I{start}"))
    compiler.link(["main.o", "hosted.o", plan.output.name], "program", cwd=folder, extra=compiler.libraries())
    return run(["./program"], cwd=folder, timeout_s=_TIMEOUT_S, tool="the model").status


def generous(model: PlannedModel, stated_bytes: int, *, is_host: bool) -> PlannedModel:
    """Give the model with far more memory to allocate than is stated, as far as a board has it."""
    room = max(4 * stated_bytes, 1 << 20) if is_host else 2 * stated_bytes + 4096
    return replace(model, need=replace(model.need, allocator_bytes=room)) if model.need else model
