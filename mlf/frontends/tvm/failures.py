"""What TVM's importers and passes raise and print, as errors that name the model's own node."""

from __future__ import annotations

import contextlib
import gc
import re
import traceback
from typing import TYPE_CHECKING, Any

from mlf.errors import MlfError, UnsupportedError
from mlf.silence import silenced

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType


@contextlib.contextmanager
def translated(where: str, nodes: Sequence[Any] = (), *, step: str = "import") -> Iterator[None]:
    """Translate whatever TVM raises in a step, `import` or `compile`, and keep what it prints from the terminal."""
    try:
        with silenced():
            yield
    except MlfError:
        raise
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        node = _missing_operator(reason, nodes) or _failed_node(error.__traceback__, nodes)
        place = f"{node}: " if node else ""
        _forget(error)
        raise UnsupportedError(f"{place}Apache TVM cannot {step} it: {reason}", where=where) from error


def _forget(error: BaseException | None) -> None:
    """Let go of what an importer left half-built, which complains when it goes."""
    with silenced():
        while error is not None:
            traceback.clear_frames(error.__traceback__)
            for frame, _ in traceback.walk_tb(error.__traceback__):
                _ = frame.f_locals  # Python keeps a copy of what was looked at, until one looks again
            error = error.__cause__ or error.__context__
        gc.collect()


def _missing_operator(reason: str, nodes: Sequence[Any]) -> str | None:
    """Find the first node of an operator that the ONNX importer says it does not know."""
    found = re.search(r"not supported for frontend ONNX: (.+)", reason)
    missing = re.findall(r"\w+", found[1]) if found else ()
    from mlf.frontends.onnx_model import node_label  # noqa: PLC0415

    return next((node_label(node, nodes) for node in nodes if node.op_type in missing), None)


def _failed_node(trace: TracebackType | None, nodes: Sequence[Any]) -> str | None:
    """Find the node that an importer was at: it is a variable of the function that failed."""
    found = None
    while trace is not None:
        names = trace.tb_frame.f_locals
        if isinstance(names.get("op_code_str"), str):  # of the importer of TensorFlow Lite
            found = f"operator `{names['op_code_str']}`"
        for value in names.values():
            found = _node_text(value, nodes) or found
        trace = trace.tb_next
    return found


def _node_text(value: Any, nodes: Sequence[Any]) -> str | None:
    kind = f"{type(value).__module__}.{type(value).__name__}"
    if kind.endswith("NodeProto"):
        from mlf.frontends.onnx_model import node_label  # noqa: PLC0415

        return node_label(value, nodes)
    if kind == "torch.fx.node.Node":
        return f"node `{value.name}` (`{value.target}`)"
    return None
