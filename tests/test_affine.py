"""Constants behind convolutions and products go into the weights, and only where that changes no number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx_nets import assert_close, expected, node, numbers, onnx_model, run_models, save, value

from mlf.frontends.tvm import compile_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlf.frontends.compiled import CompiledModel

IMAGE = numbers(1, 3, 5, 6, seed=3)
WEIGHTS = numbers(4, 3, 3, 3, seed=4)
BATCH_NORM = {
    "sc": numbers(4, seed=30), "bi": numbers(4, seed=31), "me": numbers(4, seed=32), "va": np.abs(numbers(4, seed=33)) + 0.1,
}  # fmt: skip
CONSTANTS: Mapping[str, Any] = {
    "w": WEIGHTS, "b": numbers(4, seed=6), **BATCH_NORM, "k": numbers(4, 1, 1, seed=11), "q": numbers(1, 4, 1, 1, seed=12) + 3,
    "low": np.array(-0.5, np.float32), "high": np.array(0.75, np.float32), "nan": np.array(np.nan, np.float32),
    "two": np.array(2.5, np.float32), "zero": np.array([0, 1, 0, 2], np.float32).reshape(4, 1, 1), "wide": numbers(4, seed=9),
    "shape": np.array([1, 4, 12]), "rows": numbers(12), "tiny": np.full((4, 1, 1), 1e-38, np.float32),
    "one": numbers(1, 3, 3, 3, seed=5), "plane": numbers(1, 5, 1, 1, seed=3), "deep": numbers(4, 3, 4, seed=2),
    "last": numbers(4, seed=8), "mw": numbers(6, 3), "ms": numbers(3, seed=2), "mr": numbers(1, 7, seed=3), "mo": numbers(6, 1),
    "up": numbers(1, 1, 3, seed=3), "vec": numbers(6, seed=3), "col": numbers(5, 1, seed=3),
}  # fmt: skip
CONV = node("Conv", "x w b", "c")
# Nodes, outputs, how many calls are left, and how many constants.
CASES: Mapping[str, tuple[Sequence[Any], str, int, int]] = {
    "batch_norm": ([CONV, node("BatchNormalization", "c sc bi me va", "y")], "y", 1, 2),
    "batch_norm_without_bias": ([node("Conv", "x w", "c"), node("BatchNormalization", "c sc bi me va", "y")], "y", 1, 2),
    "sum_difference_product_quotient": (
        [CONV, node("Sub", "k c", "s"), node("Mul", "s k", "m"), node("Div", "m q", "d"), node("Add", "two d", "y")], "y", 1, 2,
    ),
    "scalar": ([CONV, node("Mul", "c two", "m"), node("Sub", "m two", "y")], "y", 1, 2),
    "limits": ([CONV, node("Clip", "c low high", "y")], "y", 1, 2),
    "limit_that_is_no_number": ([CONV, node("Clip", "c nan high", "y")], "y", 1, 2),
    "twice": ([CONV, node("BatchNormalization", "c sc bi me va", "n"), node("Add", "n c", "y")], "y", 1, 6),
    "both_sides": ([CONV, node("Mul", "c c", "d"), node("Mul", "d q", "y")], "y", 1, 3),
    "also_an_output": ([CONV, node("Mul", "c q", "y")], "y c", 2, 3),
    "divisor": ([CONV, node("Div", "q c", "y")], "y", 1, 3),
    "product_with_zero": ([CONV, node("Mul", "c zero", "y")], "y", 1, 3),
    "product_with_what_underflows": ([CONV, node("Mul", "c tiny", "y")], "y", 1, 3),
    "along_another_axis": ([CONV, node("Mul", "c wide", "y")], "y", 1, 3),
    "behind_a_reshape": ([CONV, node("Reshape", "c shape", "r"), node("Mul", "r rows", "y")], "y", 2, 3),
    "behind_a_transposition": (
        [CONV, node("Transpose", "c", "t", perm=[0, 2, 3, 1]), node("Mul", "t last", "y")], "y", 2, 3,
    ),
    "behind_an_activation": (
        [CONV, node("Mul", "c q", "m"), node("Add", "m k", "a"), node("Relu", "a", "r"), node("Mul", "r q", "y")], "y", 1, 3,
    ),
    "shared_weights": (
        [CONV, node("Mul", "c q", "m"), node("Conv", "x w b", "e"), node("Add", "m e", "y")], "y", 2, 4,
    ),
    "one_channel_spread": ([node("Conv", "x one", "c"), node("Add", "c plane", "y")], "y", 2, 2),
    "more_dimensions": ([CONV, node("Add", "c deep", "y")], "y", 1, 3),
    "grouped": ([node("Conv", "x one3", "c", group=3), node("Mul", "c k3", "y")], "y", 1, 1),
}  # fmt: skip
ROWS: Mapping[str, tuple[Sequence[Any], str, int, int]] = {
    "matrix": ([node("MatMul", "x mw", "m"), node("Add", "m ms", "a"), node("Mul", "a ms", "y")], "y", 1, 2),
    "matrix_of_one_column": ([node("MatMul", "x mo", "m"), node("Add", "m mr", "y")], "y", 2, 2),
    "matrix_and_a_constant_of_higher_rank": ([node("MatMul", "x mw", "m"), node("Add", "m up", "y")], "y", 2, 2),
    "matrix_by_row": ([node("MatMul", "x mw", "m"), node("Mul", "m col", "y")], "y", 1, 2),
    "vector": ([node("MatMul", "x vec", "m"), node("Mul", "m ms5", "y")], "y", 2, 2),
    "matrix_from_the_left": ([node("MatMul", "left x", "m"), node("Add", "m six", "y")], "y", 1, 2),
}
MORE: Mapping[str, Any] = {
    "one3": numbers(3, 1, 2, 2, seed=1), "k3": numbers(3, 1, 1, seed=2), "ms5": numbers(5, seed=4), "left": numbers(2, 5),
    "six": numbers(6, seed=4),
}  # fmt: skip
ARRAYS = {**dict.fromkeys(CASES, IMAGE), **dict.fromkeys(ROWS, numbers(5, 6, seed=7))}


def model_of(name: str) -> Any:
    nodes, outputs, _, _ = {**CASES, **ROWS}[name]
    read = {item for part in nodes for item in part.input}
    weights = {key: array for key, array in {**CONSTANTS, **MORE}.items() if key in read}
    made = [value(item, [None] * _rank(name)) for item in outputs.split()]
    return onnx_model(nodes, [value("x", ARRAYS[name].shape)], made, **weights)


def _rank(name: str) -> int:
    ranks = {"behind_a_reshape": 3, "matrix_and_a_constant_of_higher_rank": 3, "vector": 1}
    return ranks.get(name, 2 if name in ROWS else 4)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[CompiledModel, list[Any], list[Any]]]:
    """Give each compiled model, what it must compute and what it computes."""
    folder: Path = tmp_path_factory.mktemp("affine")
    names = [*CASES, *ROWS]
    files = {name: save(folder / f"{name}.onnx", model_of(name)) for name in names}
    models = {name: compile_file(file, name=name, rounding="float") for name, file in files.items()}
    got = run_models([(models[name], {"x": ARRAYS[name]}) for name in names], folder / "program")
    right = {name: expected(file, {"x": ARRAYS[name]}) for name, file in files.items()}
    return {name: (models[name], right[name], arrays) for name, arrays in zip(names, got, strict=True)}


@pytest.mark.parametrize("name", [*CASES, *ROWS])
def test_numbers_stay_the_same(made: Any, name: str) -> None:
    _, right, got = made[name]
    assert_close(got, right)


@pytest.mark.parametrize("name", [*CASES, *ROWS])
def test_what_is_left(made: Any, name: str) -> None:
    program = made[name][0].program
    wanted = {**CASES, **ROWS}[name]
    constants = [item for item in program.values if item.kind == "parameter"]
    assert (len(program.calls), len(constants)) == wanted[2:]


def test_level_0_folds_nothing(tmp_path: Path) -> None:
    file = save(tmp_path / "net.onnx", model_of("batch_norm"))
    assert len(compile_file(file, name="net", rounding="float", level=0).program.calls) > len(CASES["batch_norm"][0])
