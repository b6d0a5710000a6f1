"""Models that Apache TVM compiles: read, made integer, lowered, scheduled, and written as C."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlf.frontends.compiled import CompiledModel

if TYPE_CHECKING:
    from pathlib import Path

    from mlf.frontends.tvm.imported import ImportedModel

DEFAULT_LEVEL = 3


def compile_file(
    path: Path, *, name: str, rounding: str, level: int = DEFAULT_LEVEL, is_scheduled: bool = True
) -> CompiledModel:
    """Compile an `.onnx`, `.tflite` or `.pt2` file; raises ToolError without TVM, UnsupportedError for what it cannot do."""
    from mlf.frontends.tvm.importers import import_model  # noqa: PLC0415

    return _compiled(import_model(path, rounding=rounding), name, path.name, level, is_scheduled=is_scheduled)


def compile_relax(
    module: Any,
    *,
    name: str,
    level: int = DEFAULT_LEVEL,
    is_scheduled: bool = True,
) -> CompiledModel:
    """Compile a module of Relax, whose function is `main`."""
    from mlf.frontends.tvm.importers import imported_relax  # noqa: PLC0415

    return _compiled(imported_relax(module, where=name), name, name, level, is_scheduled=is_scheduled)


def _compiled(imported: ImportedModel, name: str, where: str, level: int, *, is_scheduled: bool) -> CompiledModel:
    from mlf.frontends.tvm.failures import translated  # noqa: PLC0415
    from mlf.frontends.tvm.lower import lower  # noqa: PLC0415
    from mlf.frontends.tvm.releases import version  # noqa: PLC0415

    with translated(where, step="compile"):
        lowered = lower(imported.module, name=name, where=where, level=level, is_scheduled=is_scheduled)
    return CompiledModel(
        inputs=imported.inputs, outputs=imported.outputs, program=lowered.program, operators=lowered.source.text,
        prototypes=lowered.source.prototypes, generator=f"apache-tvm {version()}", notes=imported.notes,
    )  # fmt: skip
