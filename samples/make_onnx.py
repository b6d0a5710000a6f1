"""Writes the sample network `glyph` as a trained model, glyph.onnx: `python make_onnx.py [DIRECTORY]`; needs the package onnx."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from make_samples import SIDE, glyph_weights
from onnx import helper, numpy_helper

OPSET, IR_VERSION = 13, 8  # that every onnxruntime of the last years reads


def glyph() -> onnx.ModelProto:
    filters, threshold, weight, bias = glyph_weights(np.random.RandomState(20240602))
    weights = {
        "filters": filters.transpose(2, 0, 1)[:, None],
        "threshold": threshold,
        "weight": weight,
        "bias": bias,
    }
    nodes = [
        helper.make_node("Conv", ["picture", "filters", "threshold"], ["edges"], name="edges"),
        helper.make_node("Relu", ["edges"], ["rectified"], name="rectify"),
        helper.make_node("MaxPool", ["rectified"], ["maxima"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["maxima"], ["features"], name="flatten"),
        helper.make_node("Gemm", ["features", "weight", "bias"], ["logits"], name="readout"),
        helper.make_node("Softmax", ["logits"], ["output"], name="softmax"),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "glyph",
        [helper.make_tensor_value_info("picture", kind, [1, 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("output", kind, [1, 4])],
        [numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name) for name, array in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "glyph.onnx").write_bytes(glyph().SerializeToString(deterministic=True))
    print(f"glyph: {directory / 'glyph.onnx'}")


if __name__ == "__main__":
    main()
