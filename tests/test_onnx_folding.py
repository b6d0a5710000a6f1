"""What an ONNX graph computes from constants alone becomes an initializer; everything else stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_nets import BOOL, FLOAT, INT64, node, numbers, onnx_model, value

from mlf.frontends.onnx_folding import fold_constants


def operators(proto: Any) -> list[str]:
    return [item.op_type for item in proto.graph.node]


def initializers(proto: Any) -> dict[str, Any]:
    return {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}


def test_a_shape_that_is_computed_becomes_a_constant() -> None:
    nodes = [
        node("Shape", "x", "s"), node("Gather", "s first", "n"), node("Concat", "n minus", "to", axis=0),
        node("Reshape", "x to", "y"),
    ]  # fmt: skip
    model = onnx_model(
        nodes, [value("x", [2, 3, 4])], [value("y", [2, 12])], first=np.array([0]), minus=np.array([-1], np.int64)
    )
    folded = fold_constants(model)
    assert operators(folded) == ["Reshape"]
    assert initializers(folded)["to"].tolist() == [2, -1]
    assert list(initializers(folded)) == ["to"]


def test_the_shape_of_what_a_folded_shape_gives_is_found() -> None:
    nodes = [
        node("Shape", "x", "s"), node("Mul", "s two", "t"), node("Expand", "x0 t", "e"), node("Shape", "e", "u"),
        node("Reshape", "e minus", "r"), node("Size", "e", "n"), node("Cast", "n", "f", to=FLOAT), node("Mul", "r f", "y"),
    ]  # fmt: skip
    inputs = [value("x", [2, 3]), value("x0", [1, 1])]
    model = onnx_model(nodes, inputs, [value("y", [24])], two=np.array(2), minus=np.array([-1]))
    folded = fold_constants(model)
    assert operators(folded) == ["Expand", "Reshape", "Mul"]
    assert initializers(folded)["f"] == 24.0


@pytest.mark.parametrize(
    ("limits", "expected"), [({}, [2, 3, 4]), ({"start": 1}, [3, 4]), ({"start": -2, "end": -1}, [3])]
)
def test_a_part_of_a_shape(limits: dict[str, int], expected: list[int]) -> None:
    nodes = [node("Shape", "x", "s", **limits), node("Add", "s k", "y")]
    model = onnx_model(
        nodes, [value("x", [2, 3, 4]), value("k", [len(expected)], INT64)], [value("y", [len(expected)], INT64)]
    )
    folded = fold_constants(model)
    assert operators(folded) == ["Add"]
    assert initializers(folded)["s"].tolist() == expected


@pytest.mark.parametrize(
    "attribute",
    [
        {"value": numpy_helper.from_array(np.array([1.5, -2.0], np.float32))},
        {"value_floats": [1.5, -2.0]},
    ],
)
def test_a_constant_node_becomes_an_initializer_of_its_bits(attribute: dict[str, Any]) -> None:
    model = onnx_model(
        [node("Constant", "", "k", **attribute), node("Add", "x k", "y")], [value("x", [2])], [value("y", [2])]
    )
    folded = fold_constants(model)
    assert operators(folded) == ["Add"]
    assert initializers(folded)["k"].dtype == np.float32
    assert initializers(folded)["k"].tolist() == [1.5, -2.0]


def test_what_nothing_reads_is_gone() -> None:
    nodes = [node("Relu", "x", "y"), node("Neg", "x", "unread"), node("Neg", "k", "l")]
    folded = fold_constants(onnx_model(nodes, [value("x", [2])], [value("y", [2])], k=numbers(2)))
    assert operators(folded) == ["Relu"]
    assert initializers(folded) == {}


def test_an_input_with_an_initializer_is_no_input() -> None:
    model = onnx_model([node("Add", "x w", "y")], [value("x", [2]), value("w", [2])], [value("y", [2])], w=numbers(2))
    assert [item.name for item in fold_constants(model).graph.input] == ["x"]


def test_an_output_that_is_constant_stays() -> None:
    folded = fold_constants(onnx_model([node("Neg", "k", "y")], [value("x", [2])], [value("y", [2])], k=numbers(2)))
    assert operators(folded) == []
    assert initializers(folded)["y"].tolist() == (-numbers(2)).tolist()


def test_what_a_branch_reads_from_outside_stays() -> None:
    inner = helper.make_graph([node("Add", "x k", "z")], "inner", [], [value("z", [2])])
    other = helper.make_graph([node("Neg", "x", "z2")], "other", [], [value("z2", [2])])
    nodes = [node("Neg", "w", "k"), node("If", "c", "y", then_branch=inner, else_branch=other)]
    model = onnx_model(nodes, [value("c", [], BOOL), value("x", [2])], [value("y", [2])], w=numbers(2))
    folded = fold_constants(model)
    assert operators(folded) == ["If"]
    assert list(initializers(folded)) == ["k"]


def test_weights_of_eight_bits_stay_integers() -> None:
    nodes = [node("DequantizeLinear", "w s", "d"), node("MatMul", "x d", "y")]
    weights = {"w": np.ones((3, 2), np.int8), "s": np.float32(0.5)}
    folded = fold_constants(onnx_model(nodes, [value("x", [1, 3])], [value("y", [1, 2])], **weights))
    assert operators(folded) == ["DequantizeLinear", "MatMul"]
    assert initializers(folded)["w"].dtype == np.int8


def test_chance_is_not_folded() -> None:
    nodes = [node("RandomNormalLike", "k", "r"), node("Add", "x r", "y")]
    folded = fold_constants(onnx_model(nodes, [value("x", [2])], [value("y", [2])], k=numbers(2)))
    assert operators(folded) == ["RandomNormalLike", "Add"]


def test_a_large_tensor_of_one_number_is_not_stored() -> None:
    nodes = [node("ConstantOfShape", "s", "z"), node("Add", "x z", "y")]
    model = onnx_model(nodes, [value("x", [600, 1000])], [value("y", [600, 1000])], s=np.array([600, 1000]))
    assert operators(fold_constants(model)) == ["ConstantOfShape", "Add"]


def test_what_is_constant_but_cannot_be_computed_is_left() -> None:
    nodes = [helper.make_node("Unknown", ["k"], ["u"], domain="own"), node("Add", "x u", "y")]
    model = onnx_model(nodes, [value("x", [2])], [value("y", [2])], k=numbers(2))
    model.opset_import.append(helper.make_opsetid("own", 1))
    assert operators(fold_constants(model)) == ["Unknown", "Add"]


def test_a_dropout_passes_its_input_on() -> None:
    nodes = [node("Dropout", "x ratio", "d"), node("Relu", "d", "y")]
    folded = fold_constants(onnx_model(nodes, [value("x", [2])], [value("y", [2])], ratio=np.float32(0.5)))
    assert operators(folded) == ["Identity", "Relu"]
    assert list(folded.graph.node[0].input) == ["x"]


@pytest.mark.parametrize("outputs", ["d", "d mask"])
def test_a_dropout_that_may_be_in_training_or_gives_its_mask_stays(outputs: str) -> None:
    inputs = "x ratio" if "mask" in outputs else "x ratio on"
    nodes = [node("Dropout", inputs, outputs), node("Relu", "d", "y")]
    made = [value("y", [2]), *([value("mask", [2], BOOL)] if "mask" in outputs else [])]
    weights: dict[str, Any] = {"ratio": np.float32(0.5), **({} if "mask" in outputs else {"on": np.array(True)})}
    assert "Dropout" in operators(fold_constants(onnx_model(nodes, [value("x", [2])], made, **weights)))


def test_the_model_that_was_given_stays_as_it_was() -> None:
    model = onnx_model(
        [node("Neg", "k", "l"), node("Add", "x l", "y")], [value("x", [2])], [value("y", [2])], k=numbers(2)
    )
    before = model.SerializeToString(deterministic=True)
    fold_constants(model)
    assert model.SerializeToString(deterministic=True) == before


def test_a_folded_model_computes_the_same() -> None:
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

    nodes = [
        node("Shape", "x", "s"), node("Cast", "s", "f", to=FLOAT), node("ReduceProd", "f", "p", keepdims=0),
        node("Div", "x p", "d"), node("Cast", "k8", "k", to=FLOAT), node("Add", "d k", "y"),
    ]  # fmt: skip
    model = onnx_model(nodes, [value("x", [2, 3])], [value("y", [2, 3])], k8=np.array([1, -2, 3], np.int8))
    folded = fold_constants(model)
    onnx.checker.check_model(folded)
    assert operators(folded) == ["Div", "Add"]
    array = {"x": numbers(2, 3)}
    right, got = (ReferenceEvaluator(item).run(None, array)[0] for item in (model, folded))
    np.testing.assert_array_equal(got, right)


def test_nothing_is_said_of_values_that_are_gone() -> None:
    nodes = [
        node("Shape", "x", "s"), node("Slice", "s end end", "none"), node("Concat", "none minus", "to", axis=0),
        node("Reshape", "x to", "r"), node("Relu", "r", "y"),
    ]  # fmt: skip
    model = onnx_model(
        nodes, [value("x", [2, 3])], [value("y", [6])], end=np.array([2]), minus=np.array([-1], np.int64)
    )
    folded = fold_constants(model)
    assert operators(folded) == ["Reshape", "Relu"]
    assert [item.name for item in folded.graph.value_info] == ["r"]
