"""What mlf tells of models that it ran."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

    from mlf.runner import Replay, RunResult

RUN_SCHEMA = "mlf-run-v1"
REPLAY_SCHEMA = "mlf-replay-v1"
_SHOWN_VALUES = 8  # of an output, to a person


def run_document(result: RunResult) -> dict[str, Any]:
    """Describe the outputs of a run; schema `run-v1`."""
    outputs = [
        {"dtype": str(array.dtype), "name": name, "shape": list(array.shape), "values": _values(array)}
        for name, array in result.outputs.items()
    ]
    return {"model": result.model, "outputs": outputs, "schema": RUN_SCHEMA, "target": result.target}


def _values(array: npt.NDArray[Any]) -> list[Any]:
    """Give the values in C order; JSON has no infinity and no NaN, so those are strings."""
    finite = (float("-inf"), float("inf"))
    return [
        value if not isinstance(value, float) or finite[0] < value < finite[1] else repr(value)
        for value in array.ravel().tolist()
    ]


def run_text(result: RunResult) -> str:
    """Describe the outputs of a run, for a person: the first values of each."""
    lines = []
    for name, array in result.outputs.items():
        shape = "x".join(str(extent) for extent in array.shape) or "scalar"
        values = [
            f"{value:.6g}" if isinstance(value, float) else str(value)
            for value in array.ravel()[:_SHOWN_VALUES].tolist()
        ]
        more = " ..." if array.size > _SHOWN_VALUES else ""
        lines.append(f"{name}  {array.dtype}  {shape}  {' '.join(values)}{more}")
    return "\n".join(lines)


def replay_document(replay: Replay) -> dict[str, Any]:
    """Describe golden tests that were run; schema `replay-v1`."""
    return {
        "is_passed": replay.is_passed,
        "model": replay.model,
        "schema": REPLAY_SCHEMA,
        "target": replay.target,
        "tests": [
            {
                "atol": test.atol,
                "is_passed": test.is_passed,
                "name": test.name,
                "outputs": [
                    {
                        "element_count": item.elements,
                        "largest_deviation": item.largest if item.largest != float("inf") else "inf",
                        "name": item.output,
                        "too_far_count": item.too_far,
                    }
                    for item in test.deviations
                ],
                "rtol": test.rtol,
            }
            for test in replay.tests
        ],
    }


def replay_text(replay: Replay) -> str:
    """Describe golden tests that were run, for a person."""
    lines = []
    for test in replay.tests:
        tolerance = f"rtol {test.rtol:g}, atol {test.atol:g}"
        lines.append(f"{replay.model} on {replay.target}, test {test.name}: {'passed' if test.is_passed else 'FAILED'} ({tolerance})")  # fmt: skip
        for item in test.deviations:
            far = f", {item.too_far} of {item.elements} too far" if item.too_far else ""
            lines.append(f"  {item.output}  largest deviation {item.largest:.3g}{far}")
    return "\n".join(lines)
