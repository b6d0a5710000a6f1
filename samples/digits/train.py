"""Trains a network that reads handwritten digits, and exports it: `python train.py [DIRECTORY]`.

Writes `digits.pt2` and `digits.onnx`, which compute in floats, and `digits_int8.onnx`, which computes in bytes.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from sklearn.datasets import load_digits

Array = Any  # an ndarray
Network = Any  # a torch.nn.Module
Graph = Any  # an onnx.GraphProto

TRAINED = 1400  # pictures of 1797; the others judge
CALIBRATED = 200  # pictures from which quantisation takes the ranges of all tensors
LARGEST_PIXEL = 16  # of scikit-learn's pictures
EPOCHS, BATCH, STEP = 15, 50, 3e-3


def digits() -> tuple[Array, Array]:
    """8 by 8 pixels from 0 to 1, in an order that mixes the writers, and what they show."""
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    pictures = bunch.images[order, np.newaxis] / LARGEST_PIXEL
    return pictures.astype(np.float32), bunch.target[order]


def trained(pictures: Array, labels: Array) -> Network:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # sums in the same order on every machine
    network: Network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.BatchNorm2d(32), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(128, 10),
    )  # fmt: skip
    images, classes = torch.from_numpy(pictures), torch.from_numpy(labels)
    optimizer = torch.optim.Adam(network.parameters(), STEP)
    for _ in range(EPOCHS):
        order: Any = torch.randperm(len(images))
        for batch in order.split(BATCH):
            optimizer.zero_grad()
            loss: Any = torch.nn.functional.cross_entropy(network(images[batch]), classes[batch])
            loss.backward()
            optimizer.step()
    return network.eval()


def export(network: Network, folder: Path) -> None:
    example = (torch.zeros(1, 1, 8, 8),)  # one picture: firmware has no batches
    torch.export.save(torch.export.export(network, example), folder / "digits.pt2")
    torch.onnx.export(
        network, example, folder / "digits.onnx", input_names=["image"], output_names=["scores"], dynamo=False
    )


class Calibration(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Pictures one by one, as onnxruntime asks for them."""

    def __init__(self, pictures: Array) -> None:
        self.left = iter(pictures)

    def get_next(self) -> dict[str, Array] | None:
        picture = next(self.left, None)
        return None if picture is None else {"image": picture[np.newaxis]}


def quantize(pictures: Array, folder: Path) -> None:
    source, output = folder / "digits.onnx", folder / "digits_int8.onnx"
    quant_pre_process(source, output)
    quantize_static(
        output, output, Calibration(pictures[:CALIBRATED]), per_channel=True,
        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    model = onnx.load(output)
    take_bytes(model.graph)
    onnx.save(model, output)


def take_bytes(graph: Graph) -> None:
    """Leave out the first node, which quantizes the picture, and the last, which makes floats of the scores again."""
    image, scores = graph.input[0], graph.output[0]
    first = next(node for node in graph.node if image.name in node.input)
    last = next(node for node in graph.node if scores.name in node.output)
    new_names = {first.output[0]: image.name, last.input[0]: scores.name}
    graph.node.remove(first)
    graph.node.remove(last)
    for node in graph.node:
        node.input[:] = [new_names.get(name, name) for name in node.input]
        node.output[:] = [new_names.get(name, name) for name in node.output]
    for tensor in (image, scores):
        tensor.type.tensor_type.elem_type = onnx.TensorProto.INT8


def share_right(path: Path, pictures: Array, labels: Array) -> float:
    """The part of the pictures that a model file reads right; one of bytes gets them as quantised."""
    session = onnxruntime.InferenceSession(path)
    if session.get_inputs()[0].type == "tensor(int8)":
        scale, zero_point = quantization_of_image(onnx.load(path).graph)
        pictures = np.clip(np.round(pictures / scale) + zero_point, -128, 127).astype(np.int8)
    scores = [session.run(["scores"], {"image": picture[np.newaxis]})[0] for picture in pictures]
    return float(np.mean(np.argmax(scores, axis=-1).ravel() == labels))


def quantization_of_image(graph: Graph) -> tuple[float, int]:
    reader = next(node for node in graph.node if "image" in node.input)
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    scale, zero_point = (constants[name] for name in reader.input[1:])
    return float(scale), int(zero_point)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", DeprecationWarning)  # of `dynamo=False`
    pictures, labels = digits()
    export(trained(pictures[:TRAINED], labels[:TRAINED]), folder)
    quantize(pictures[:TRAINED], folder)
    for name in ("digits.onnx", "digits_int8.onnx"):
        share = share_right(folder / name, pictures[TRAINED:], labels[TRAINED:])
        print(f"{name}: {share:.1%} of {len(labels) - TRAINED} digits read right")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
