"""What TVM's ONNX importer takes and gets wrong: refused here, because a wrong number is worse than none.

Each rule was found with ONNX's own operator tests, on the releases that mlf knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlf.errors import UnsupportedError
from mlf.frontends.onnx_model import node_label

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Rule = Callable[[Any, Mapping[str, Any], Mapping[str, Any]], str | None]

_SCALES = 2  # the place of that input of Resize
_TRAINING = 2  # and of that of Dropout
_SEQUENCES = ("Sequence", "SplitToSequence", "ConcatFromSequence")


def refuse_wrong(graph: Any, nodes: Sequence[Any], where: str) -> None:
    """Raise UnsupportedError for the first node of a folded graph of which the importer would make something else.

    `nodes` are those of the graph as its file has it, which messages count.
    """
    constants = {item.name: item for item in graph.initializer}
    for node in graph.node:
        rule = _RULES.get(node.op_type)
        reason = rule(node, _attributes(node), constants) if rule and node.domain in ("", "ai.onnx") else None
        reason = "sequences" if node.op_type.startswith(_SEQUENCES) else reason
        if reason:
            raise UnsupportedError(f"{node_label(node, nodes)}: Apache TVM does not know {reason}", where=where)


def _attributes(node: Any) -> Mapping[str, Any]:
    from onnx import helper  # noqa: PLC0415

    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _second_output(what: str) -> Rule:
    return lambda node, *_: what if any(node.output[1:]) else None


def _batch_norm(node: Any, attributes: Mapping[str, Any], _: Any) -> str | None:
    return "batch norms in training" if attributes.get("training_mode") or any(node.output[1:]) else None


def _dropout(node: Any, _: Any, constants: Mapping[str, Any]) -> str | None:
    if any(node.output[1:]):
        return "the mask that a dropout gives"
    switch = node.input[_TRAINING] if len(node.input) > _TRAINING else ""
    is_off = not switch or (switch in constants and not _values(constants[switch]).any())
    return None if is_off else "dropouts in training"


def _infinities(_: Any, attributes: Mapping[str, Any], __: Any) -> str | None:
    is_both = attributes.get("detect_negative", 1) and attributes.get("detect_positive", 1)
    return None if is_both else "infinities of one sign"


def _resize(node: Any, attributes: Mapping[str, Any], constants: Mapping[str, Any]) -> str | None:
    mode = attributes.get("mode", b"nearest")
    if mode == b"cubic":
        return "cubic resizing as ONNX defines it"
    if mode == b"linear" and attributes.get("coordinate_transformation_mode", b"half_pixel") != b"half_pixel":
        return "linear resizing with other coordinates than half_pixel"
    if len(node.input) > _SCALES and node.input[_SCALES] and not any(node.input[_SCALES + 1 :]):
        # The importer computes the scales anew from the sizes, which are rounded.
        is_whole = _is_whole(constants.get(node.input[_SCALES]))
        return None if is_whole else "resizing by scales that are no whole numbers"
    return "resizing of fewer axes" if "axes" in attributes or attributes.get("antialias") else None


def _is_whole(constant: Any) -> bool:
    return constant is not None and bool((_values(constant) % 1 == 0).all())


def _values(constant: Any) -> Any:
    from onnx import numpy_helper  # noqa: PLC0415

    return numpy_helper.to_array(constant)


def _output_shape(_: Any, attributes: Mapping[str, Any], __: Any) -> str | None:
    return "transposed convolutions of a given shape" if "output_shape" in attributes else None


# What TVM computes with functions of its runtime, decides while the model runs, or lowers to code that C cannot hold.
_AT_RUN_TIME = (
    "Compress",
    "CumSum",
    "If",
    "Loop",
    "NonMaxSuppression",
    "NonZero",
    "Scan",
    "ScatterElements",
    "ScatterND",
    "TopK",
    "Unique",
)
_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_AT_RUN_TIME, lambda *_: "how to compile it ahead of time"),
    "BatchNormalization": _batch_norm,
    "ConvTranspose": _output_shape,
    "Dropout": _dropout,
    "IsInf": _infinities,
    "LayerNormalization": _second_output("the mean that a layer norm gives"),
    "Resize": _resize,
}
