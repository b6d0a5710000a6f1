"""Checked at birth: an exported model runs against the runtime of its format before its archive is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlf.errors import DeviationError, ModelRunError, TensorError, ToolError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlf.arrays import Arrays
    from mlf.frontends.choice import ModelOptions
    from mlf.metadata import Tensor
    from mlf.reference import BirthCheck, Reference

_HINTS = {
    ".onnx": "pip install onnxruntime",
    ".tflite": "pip install ai-edge-litert",
    ".pt2": "pip install torch",
}


def check_birth(archive: Path, name: str, *, source: Path, options: ModelOptions) -> BirthCheck | str:
    """Check the module `name` of an archive against the runtime that knows its `source`; text says why it was not checked.

    Raises DeviationError if an output is too far from the runtime's, TensorError for given inputs that do not fit; where a
    check was asked for, or inputs or a tolerance for it were given, ToolError if a runtime or a compiler for this machine is
    missing, ModelRunError if the runtime cannot run the model.
    """
    if options.is_checked is False:
        return ""
    is_wanted = bool(options.is_checked or options.inputs or options.tolerance is not None)
    from mlf.reference import find_reference  # noqa: PLC0415  # numpy, and a runtime

    reference = find_reference(source)
    if reference is None:
        if is_wanted:
            raise ToolError("cannot be checked: the runtime of its format is not installed", where=source.name, hint=_HINTS[source.suffix])  # fmt: skip
        return f"the runtime of its format is not installed: {_HINTS[source.suffix]}"
    if not is_wanted and not _has_compiler():
        return "there is no C compiler for this machine"
    birth = _compared(archive, name, source, reference, options)
    if is_wanted and not birth.is_judged:
        raise ModelRunError(birth.notes[0], where=source.name)
    _refuse_deviation(birth, source.name)
    return birth


def _has_compiler() -> bool:
    from mlf.toolchain import compiler_for  # noqa: PLC0415  # subprocess

    try:
        compiler_for("host")
    except ToolError:
        return False
    return True


def _compared(archive: Path, name: str, source: Path, reference: Reference, options: ModelOptions) -> BirthCheck:
    from mlf.reading import read_contents  # noqa: PLC0415
    from mlf.reference import DEFAULT_RELATIVE, Tolerance, check_model  # noqa: PLC0415
    from mlf.trial_inputs import generate_inputs, input_ranges  # noqa: PLC0415

    tensors: Sequence[Tensor] = read_contents(archive).modules[0].inputs
    given = tuple(_given(path, tensors) for path in options.inputs)
    relative = DEFAULT_RELATIVE if options.tolerance is None else options.tolerance
    # What rounds like onnxruntime is not bit-equal to LiteRT, and the other way round.
    is_exact = reference.units == 0 and options.rounding in ("auto", "tflite")
    tolerance = Tolerance(relative=relative, units=reference.units if is_exact else max(reference.units, 1))
    return check_model(
        archive, name, reference, given or generate_inputs(tensors, ranges=input_ranges(source)), tolerance=tolerance
    )


def _given(path: Path, tensors: Sequence[Tensor]) -> Arrays:
    from mlf.arrays import array_faults, load_arrays  # noqa: PLC0415  # numpy

    arrays = load_arrays(path)
    faults = list(array_faults(tensors, arrays, kind="input"))
    if faults:
        raise TensorError(f"does not fit the inputs of the model: {'; '.join(faults)}", where=path.name)
    return arrays


def _refuse_deviation(birth: BirthCheck, where: str) -> None:
    bad = [item for item in birth.deviations if not item.is_good]
    if not bad:
        return
    said = "; ".join(
        f"`{item.output}` deviates by {item.largest:.3g}, {item.limit:.3g} is allowed"
        f" ({item.unequal} of {item.elements} elements differ)"
        for item in bad
    )
    can_be_eased = all(item.dtype.startswith("float") for item in bad)
    hint = "--no-check writes it all the same; if that is not right, report the model"
    if can_be_eased:
        hint = "--tolerance allows more, --no-check writes it all the same; if neither is right, report the model"
    raise DeviationError(f"its C does not compute what {birth.reference} does: {said}", where=where, hint=hint)
