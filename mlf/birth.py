"""Checked at birth: an exported model runs against the runtime of its format before its archive is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlf.errors import DeviationError, ModelRunError, ToolError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlf.frontends.choice import ModelOptions
    from mlf.metadata import Tensor
    from mlf.reference import BirthCheck, Reference

_HINTS = {
    ".onnx": "pip install onnxruntime",
    ".tflite": "pip install ai-edge-litert",
    ".pt2": "pip install torch",
}


def check_birth(archive: Path, name: str, *, source: Path, options: ModelOptions) -> BirthCheck | None:
    """Check the module `name` of an archive against the runtime that knows its `source`; None if there is no need or no way.

    Raises DeviationError if an output is too far from the runtime's; where a check was asked for, ToolError if a runtime or
    a compiler for this machine is missing, ModelRunError if the runtime cannot run the model.
    """
    if options.is_checked is False:
        return None
    from mlf.reference import find_reference  # noqa: PLC0415  # numpy, and a runtime

    reference = find_reference(source)
    if reference is None:
        if options.is_checked:
            raise ToolError("cannot be checked: the runtime of its format is not installed", where=source.name, hint=_HINTS[source.suffix])  # fmt: skip
        return None
    if not options.is_checked and not _has_compiler():
        return None
    birth = _compared(archive, name, source, reference, options)
    if options.is_checked and not birth.is_judged:
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
    from mlf.arrays import load_arrays  # noqa: PLC0415  # numpy
    from mlf.reading import read_contents  # noqa: PLC0415
    from mlf.reference import DEFAULT_RELATIVE, Tolerance, check_model  # noqa: PLC0415
    from mlf.trial_inputs import generate_inputs, input_ranges  # noqa: PLC0415

    tensors: Sequence[Tensor] = read_contents(archive).modules[0].inputs
    given = tuple(load_arrays(path) for path in options.inputs)
    relative = DEFAULT_RELATIVE if options.tolerance is None else options.tolerance
    # What rounds like onnxruntime is not bit-equal to LiteRT, and the other way round.
    is_exact = reference.units == 0 and options.rounding in ("auto", "tflite")
    tolerance = Tolerance(relative=relative, units=reference.units if is_exact else max(reference.units, 1))
    return check_model(
        archive, name, reference, given or generate_inputs(tensors, ranges=input_ranges(source)), tolerance=tolerance
    )


def _refuse_deviation(birth: BirthCheck, where: str) -> None:
    bad = [item for item in birth.deviations if not item.is_good]
    if not bad:
        return
    said = "; ".join(
        f"`{item.output}` deviates by {item.largest:.3g}, {item.limit:.3g} is allowed"
        f" ({item.unequal} of {item.elements} elements differ)"
        for item in bad
    )
    raise DeviationError(
        f"its C does not compute what {birth.reference} does: {said}", where=where,
        hint="--tolerance allows more, --no-check writes it all the same; if neither is right, report the model",
    )  # fmt: skip
