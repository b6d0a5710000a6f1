"""Which front end compiles a model file, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from mlf.errors import InputError, MlfError, ToolError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from mlf.frontends.compiled import CompiledModel

MODEL_SUFFIXES = (".onnx", ".tflite", ".pt2")
FRONT_ENDS = ("auto", "tvm", "emx")
ROUNDINGS = ("auto", "tflite", "float")
_PACKAGES = {"tvm": "tvm", "emx": "emx_onnx_cgen"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """How a trained model is compiled and checked.

    `front_end` is `tvm`, `emx` or `auto`; `operators` the calling convention of the operators; `rounding` that of integers,
    `tflite` or `float` (as onnxruntime), by default what the runtime of the file's format does; `level` is TVM's
    optimization level, from 0 to 3; `is_scheduled` tells whether loops are arranged so that temporaries stay small.
    `is_checked` tells whether the C runs against the runtime of the file's format: None if that is installed. `inputs` are
    `.npz` files for the check, generated ones if there are none; `tolerance` is the largest deviation of floats, relative to
    the largest magnitude of the output.
    """

    front_end: str = "auto"
    operators: str = "unpacked"
    rounding: str = "auto"
    level: int = 3
    is_scheduled: bool = True
    is_checked: bool | None = None
    inputs: tuple[Path, ...] = ()
    tolerance: float | None = None


def is_model_file(path: Path) -> bool:
    """Tell whether a path is that of a trained model, by its name."""
    return path.suffix in MODEL_SUFFIXES


def compile_model(path: Path, *, name: str, options: ModelOptions) -> CompiledModel:
    """Compile a model file with the front end that `options` name; `auto` notes which one it took, and why.

    Raises what the front end raises; where `auto` has tried both, the error tells what each of them said.
    """
    _check_options(path, options)
    if options.front_end != "auto":
        return _compiled(options.front_end, path, name, options)
    if path.suffix != ".onnx":
        return _compiled("tvm", path, name, options)
    return _first(path, name, options)


def _check_options(path: Path, options: ModelOptions) -> None:
    """Refuse words that mean nothing."""
    for word, value, known in (("--from", options.front_end, FRONT_ENDS), ("--rounding", options.rounding, ROUNDINGS)):
        if value not in known:
            raise UsageError(f"{word} is `{value}`, expected one of {', '.join(known)}")
    if options.front_end == "emx" and path.suffix != ".onnx":
        raise UsageError(f"emx reads .onnx, not {path.suffix}", hint="--from tvm")


def _compiled(front_end: str, path: Path, name: str, options: ModelOptions) -> CompiledModel:
    if front_end == "emx":
        plain = ModelOptions()
        if (options.rounding, options.level, options.is_scheduled) != (plain.rounding, plain.level, plain.is_scheduled):
            raise UsageError("emx knows no --rounding, --opt or --no-schedule", hint="leave them out, or --from tvm")
        from mlf.frontends.emx import compile_onnx  # noqa: PLC0415

        return compile_onnx(path, name=name, where=path.name)
    from mlf.frontends.tvm import compile_file  # noqa: PLC0415

    rounding = options.rounding
    if rounding == "auto":
        rounding = "tflite" if path.suffix == ".tflite" else "float"
    return compile_file(path, name=name, rounding=rounding, level=options.level, is_scheduled=options.is_scheduled)


def _first(path: Path, name: str, options: ModelOptions) -> CompiledModel:
    """Take TVM if it is there and can, else emx, unless that would ignore an option."""
    installed = [item for item, package in _PACKAGES.items() if find_spec(package) is not None]
    if not installed:
        raise ToolError("no front end for ONNX is installed", hint="pip install 'mlf[tvm,emx]'")
    if installed == ["emx"]:
        return _noted(_compiled("emx", path, name, options), "compiled by emx: Apache TVM is not installed")
    try:
        return _noted(
            _compiled("tvm", path, name, options), "compiled by tvm: it can compile every operator of the model"
        )
    except (InputError, ToolError) as error:
        refusal: MlfError = error
    if "emx" not in installed:
        hint = refusal.hint or "emx may know the operator: pip install 'mlf[emx]'"
        raise type(refusal)(refusal.message, where=refusal.where, hint=hint) from refusal
    try:
        made = _compiled("emx", path, name, options)
    except (InputError, ToolError, UsageError) as error:
        if error.message == refusal.message:  # of the file, not of its operators
            raise
        message = f"no front end can compile it: tvm says: {refusal.message}; emx says: {error.message}"
        raise type(error)(message, where=path.name, hint=error.hint or refusal.hint) from error
    return _noted(made, f"compiled by emx: tvm says: {refusal.message}")


def _noted(model: CompiledModel, note: str) -> CompiledModel:
    return replace(model, notes=(note, *model.notes))
