"""ONNX models through emx-onnx-cgen: one C function per operator, whose memory the project's own planner places."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlf.errors import ToolError

if TYPE_CHECKING:
    from pathlib import Path

    from mlf.frontends.compiled import CompiledModel


def compile_onnx(path: Path, *, name: str, where: str) -> CompiledModel:
    """Compile the ONNX file at `path` to C for the model `name`; messages call the file `where`.

    Raises UnsupportedError, naming the node and its operator, for what emx cannot do or does wrong; ToolError if
    emx-onnx-cgen is not installed.
    """
    try:
        import emx_onnx_cgen  # noqa: F401, PLC0415
        import onnx  # noqa: F401, PLC0415
    except ModuleNotFoundError as error:
        raise ToolError(
            "emx-onnx-cgen is not installed, which makes C of ONNX models", where=where, hint="pip install 'mlf[emx]'"
        ) from error
    from mlf.frontends.emx.assembly import assemble  # noqa: PLC0415
    from mlf.frontends.emx.emission import emit  # noqa: PLC0415
    from mlf.frontends.emx.preparation import prepare  # noqa: PLC0415

    prepared = prepare(path, where=where)
    emission = emit(prepared.model, prepared.names, where=where) if prepared.computed else None
    return assemble(prepared, emission, name=name, where=where)
