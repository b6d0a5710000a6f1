"""The run of ONNX's operator tests: what applies, what an outcome is, and that one crash does not end it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import onnx_operators
from onnx_operators import Cache, Crew, Result, Task

from mlf.errors import CompileError, InputError, ToolError, UnsupportedError
from mlf.exporter import export

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

RELU = """
#include <stdint.h>
int32_t relu(const float *x, float *y) {
  for (int i = 0; i < 3; ++i) { y[i] = x[i] > 0 ? x[i] : 0; }
  return 0;
}
"""
X = np.array([-1, 0, 2], np.float32)
Y = np.array([0, 0, 2], np.float32)


def value(name: str, shape: list[int | str] | None, dtype: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def made(nodes: list[Any], inputs: list[Any], outputs: list[Any], **weights: Array) -> Any:
    values = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)


def relu() -> Any:
    return made([helper.make_node("Relu", ["x"], ["y"])], [value("x", [3])], [value("y", [3])])


def reshape(**weights: Array) -> Any:
    inputs = [value("x", [3]), *([] if weights else [value("shape", [2], TensorProto.INT64)])]
    return made([helper.make_node("Reshape", ["x", "shape"], ["y"])], inputs, [value("y", [1, 3])], **weights)


def save(folder: Path, model: Any, inputs: list[Array], outputs: list[Array]) -> Path:
    """Write a test as ONNX has them."""
    data = folder / "test_data_set_0"
    data.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    for kind, arrays in (("input", inputs), ("output", outputs)):
        for index, array in enumerate(arrays):
            (data / f"{kind}_{index}.pb").write_bytes(numpy_helper.from_array(array).SerializeToString())
    return folder


def task(folder: Path = Path("no"), name: str = "node/test_relu", *, has_constants: bool = False) -> Task:
    return Task(name=name, folder=str(folder), front_end="auto", has_constants=has_constants)


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Export every model as the C of RELU; gives the models that came."""
    models = []

    def make_archive(model: Path, output: Path, front_end: str) -> tuple[str, ...]:
        models.append(onnx.load(model))
        code = model.parent / "code"
        code.mkdir()
        (code / "relu.c").write_text(RELU)
        tensors = "".join(
            f'[[{kind}]]\nname = "{name}"\ndtype = "float32"\nshape = [3]\n'
            for kind, name in (("inputs", "x"), ("outputs", "y"))
        )
        head = (
            '[model]\nname = "model"\n[entry]\nfunction = "relu"\narguments = ["x", "y"]\n[code]\nsources = ["*.c"]\n'
        )
        (code / "description.toml").write_text(head + tensors)
        export(code, output=output)
        return (f"by {front_end}",)

    monkeypatch.setattr(onnx_operators, "make_archive", make_archive)
    return models


@pytest.mark.parametrize(
    ("item", "fault"),
    [
        (value("x", [3]), None),
        (value("x", []), None),
        (value("x", [3], TensorProto.STRING), "strings"),
        (value("x", ["n", 3]), "a shape that the file does not tell"),
        (value("x", None), "a shape that the file does not tell"),
        (helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [3]), "sequences"),
        (helper.make_value_info("x", helper.make_optional_type_proto(value("x", [3]).type)), "optionals"),
    ],
)
def test_only_tensors_of_numbers_with_a_shape_apply(item: Any, fault: str | None) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    assert onnx_operators.type_fault(made([node], [item], [value("y", [3])])) == fault
    node = helper.make_node("Identity", ["y"], ["x"])
    assert onnx_operators.type_fault(made([node], [value("y", [3])], [item])) == fault


def test_a_shape_from_an_input_applies_only_as_a_constant() -> None:
    words = "a shape that depends on an input of Reshape"
    assert onnx_operators.open_shape(reshape(), has_constants=False) == words
    assert onnx_operators.open_shape(reshape(), has_constants=True) is None
    assert onnx_operators.constant_inputs(reshape()) == ("shape",)


def test_a_shape_of_constants_applies() -> None:
    model = reshape(shape=np.array([1, 3]))
    assert onnx_operators.open_shape(model, has_constants=False) is None
    assert onnx_operators.constant_inputs(model) == ()


def test_a_shape_that_is_computed_from_an_input_is_followed_back_to_it() -> None:
    nodes = [helper.make_node("Neg", ["s"], ["t"]), helper.make_node("Expand", ["x", "t"], ["y"])]
    model = made(nodes, [value("x", [3]), value("s", [1], TensorProto.INT64)], [value("y", [3])])
    assert onnx_operators.open_shape(model, has_constants=False) == "a shape that depends on an input of Expand"
    assert onnx_operators.constant_inputs(model) == ("s",)


def test_the_shape_of_an_input_is_a_constant() -> None:
    nodes = [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Reshape", ["x", "s"], ["y"])]
    assert onnx_operators.open_shape(made(nodes, [value("x", [3])], [value("y", [3])]), has_constants=False) is None


def test_a_shape_inside_a_branch_is_found() -> None:
    branches = [
        helper.make_graph([helper.make_node("Tile", ["x", "r"], [name])], name, [], [value(name, [3])]) for name in "ab"
    ]
    node = helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
    inputs = [value("c", [], TensorProto.BOOL), value("x", [3]), value("r", [1], TensorProto.INT64)]
    assert onnx_operators.constant_inputs(made([node], inputs, [value("y", [3])])) == ("r",)


def test_as_many_elements_as_the_data_has_never_apply() -> None:
    model = made(
        [helper.make_node("NonZero", ["x"], ["y"])], [value("x", [3])], [value("y", [1, 2], TensorProto.INT64)]
    )
    words = "a shape that depends on the data of NonZero"
    assert [onnx_operators.open_shape(model, has_constants=has) for has in (False, True)] == [words, words]


def test_an_axis_is_made_constant_though_the_test_applies_as_it_is() -> None:
    inputs = [value("x", [3]), value("axis", [], TensorProto.INT32)]
    model = made([helper.make_node("CumSum", ["x", "axis"], ["y"])], inputs, [value("y", [3])])
    assert onnx_operators.open_shape(model, has_constants=False) is None
    assert onnx_operators.constant_inputs(model) == ("axis",)


def test_a_model_of_constants_alone_does_not_apply() -> None:
    model = made(
        [helper.make_node("ConstantOfShape", ["s"], ["y"])], [value("s", [1], TensorProto.INT64)], [value("y", [3])]
    )
    assert onnx_operators.open_shape(model, has_constants=True) == "nothing but constants"


def dropout(*inputs: str, ratio: float) -> Any:
    node = helper.make_node("Dropout", ["x", *inputs], ["y"])
    weights = {"ratio": np.array(ratio, np.float32), "on": np.array(True), "off": np.array(False)}
    return made([node], [value("x", [3])], [value("y", [3])], **weights)


@pytest.mark.parametrize(
    ("model", "is_random"),
    [
        (relu(), False),
        (made([helper.make_node("RandomNormal", [], ["y"], shape=[3])], [], [value("y", [3])]), True),
        (dropout("ratio", ratio=0.5), False),
        (dropout("ratio", "off", ratio=0.5), False),
        (dropout("ratio", "on", ratio=0.5), True),
        (dropout("ratio", "on", ratio=0.0), False),
        (dropout("", "on", ratio=0.0), True),
    ],
)
def test_random_numbers_are_known_by_the_operator(model: Any, is_random: bool) -> None:
    assert onnx_operators.is_random(model, {}) == is_random


def test_whether_a_dropout_trains_may_be_in_the_data() -> None:
    model = dropout("ratio", "t", ratio=0.5)
    assert [onnx_operators.is_random(model, {"t": np.array(is_on)}) for is_on in (True, False)] == [True, False]


@pytest.mark.parametrize(
    ("expected", "got", "words"),
    [
        ([1000.0, 0.0], [1000.9, 1e-8], None),
        ([1000.0, 0.0], [1001.1, 0.0], "`y`: 1 of 2 elements are wrong, by up to 1.1"),
        ([1000.0, 0.0], [1000.0, 2e-7], "`y`: 1 of 2 elements are wrong, by up to 2e-07"),
        ([np.nan, np.inf], [np.nan, np.inf], None),
        ([np.nan, np.inf], [np.nan, -np.inf], "`y`: 1 of 2 elements are wrong"),
        ([1000, 5], [1000, 6], "`y`: 1 of 2 elements are wrong, by up to 1"),
        ([True, False], [True, False], None),
        ([1.0, 2.0], [1, 2], "`y` is int64[2] instead of float64[2]"),
        ([1.0, 2.0], [[1.0, 2.0]], "`y` is float64[1, 2] instead of float64[2]"),
    ],
)
def test_outputs_are_near_or_wrong(expected: list[Any], got: list[Any], words: str | None) -> None:
    assert onnx_operators.difference({"y": np.array(expected)}, [np.array(got)]) == words


def test_a_missing_output_is_wrong() -> None:
    assert onnx_operators.difference({"y": X}, []) == "0 outputs instead of 1"


def test_a_test_whose_outputs_are_the_stored_ones_is_right(tmp_path: Path, exported: list[Any]) -> None:
    folder = save(tmp_path / "test_relu", relu(), [X], [Y])
    assert onnx_operators.attempt(task(folder)) == Result(outcome="right", notes=("by auto",))
    assert exported == [relu()]


def leaky() -> Any:
    """Give a model of which the C of RELU is no translation."""
    return made([helper.make_node("LeakyRelu", ["x"], ["y"])], [value("x", [3])], [value("y", [3])])


@pytest.mark.usefixtures("exported")
def test_a_test_with_another_output_is_wrong(tmp_path: Path) -> None:
    folder = save(tmp_path / "test_leaky", leaky(), [X], [np.array([-0.01, 0, 2], np.float32)])
    reason = "`y`: 1 of 3 elements are wrong, by up to 0.01"
    assert onnx_operators.attempt(task(folder)) == Result(outcome="wrong", reason=reason, notes=("by auto",))


@pytest.mark.usefixtures("exported")
def test_an_output_that_neither_the_test_nor_the_reference_gives_is_wrong(tmp_path: Path) -> None:
    folder = save(tmp_path / "test_leaky", leaky(), [X], [Y + 1])
    reason = "`y`: 3 of 3 elements are wrong, by up to 1"
    assert onnx_operators.attempt(task(folder)) == Result(outcome="wrong", reason=reason, notes=("by auto",))


@pytest.mark.usefixtures("exported")
def test_a_stored_output_that_the_reference_does_not_give_does_not_apply(tmp_path: Path) -> None:
    folder = save(tmp_path / "test_relu", relu(), [X], [Y + 1])
    reason = "stored outputs that ONNX's reference implementation does not give"
    notes = ("by auto",)
    assert onnx_operators.attempt(task(folder)) == Result(outcome="not applicable", reason=reason, notes=notes)


def squeezed(folder: Path, output: Array = Y) -> Path:
    """Write a test whose shape depends on an input; the C of RELU computes it if the output is `Y`, but not if it is `X`."""
    alpha = float(output is X)
    nodes = [helper.make_node("Reshape", ["x", "s"], ["r"]), helper.make_node("LeakyRelu", ["r"], ["y"], alpha=alpha)]
    model = made(nodes, [value("x", [3]), value("s", [1], TensorProto.INT64)], [value("y", [3])])
    return save(folder / "test_reshape", model, [X, np.array([3])], [output])


def test_inputs_that_decide_shapes_become_constants_of_the_model(tmp_path: Path, exported: list[Any]) -> None:
    result = onnx_operators.attempt(task(squeezed(tmp_path), has_constants=True))
    assert result.outcome == "right"
    assert [item.name for item in exported[0].graph.input] == ["x"]
    assert {item.name: numpy_helper.to_array(item).tolist() for item in exported[0].graph.initializer} == {"s": [3]}


@pytest.mark.usefixtures("exported")
@pytest.mark.parametrize(("output", "outcome"), [(Y, "not applicable"), (X, "wrong")])
def test_an_open_shape_does_not_apply_unless_its_numbers_are_wrong(tmp_path: Path, output: Array, outcome: str) -> None:
    # Both inputs are given by name, and the archive has one of them.
    assert onnx_operators.attempt(task(squeezed(tmp_path, output))).outcome == outcome


def test_strings_are_never_exported(tmp_path: Path, exported: list[Any]) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    model = made([node], *([value(name, [1], TensorProto.STRING)] for name in "xy"))
    folder = save(tmp_path / "test_identity", model, [np.array(["a"], object)], [np.array(["a"], object)])
    assert onnx_operators.attempt(task(folder)) == Result(outcome="not applicable", reason="strings")
    assert not exported


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (UnsupportedError("the operator is unknown\nmore", where="model.onnx"), "refused", "the operator is unknown"),
        (CompileError("gcc refuses it:\n1:2", where="a.c"), "crashed", "export: gcc refuses it"),
        (InputError("is no ONNX model"), "refused", "is no ONNX model"),
        (ToolError("tvm is not installed"), "crashed", "export: tvm is not installed"),
        (KeyError("x"), "crashed", "export: KeyError: 'x'"),
    ],
)
def test_only_what_mlf_does_not_support_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, outcome: str, reason: str
) -> None:
    def make_archive(*_: object) -> tuple[str, ...]:
        raise error

    monkeypatch.setattr(onnx_operators, "make_archive", make_archive)
    folder = save(tmp_path / "test_relu", relu(), [X], [Y])
    assert onnx_operators.attempt(task(folder)) == Result(outcome=outcome, reason=reason)


def test_an_archive_that_does_not_read_has_crashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make_archive(_: Path, output: Path, __: str) -> tuple[str, ...]:
        output.write_bytes(b"no archive")
        return ()

    monkeypatch.setattr(onnx_operators, "make_archive", make_archive)
    result = onnx_operators.attempt(task(save(tmp_path / "test_relu", relu(), [X], [Y])))
    assert (result.outcome, result.reason.partition(":")[0]) == ("crashed", "run")


def test_tests_are_listed_once_as_they_are_and_once_with_constants(tmp_path: Path) -> None:
    save(tmp_path / "node" / "test_relu", relu(), [X], [Y])
    squeezed(tmp_path / "simple")
    names = [
        (item.front_end, item.name, item.has_constants)
        for item in onnx_operators.tasks_of(tmp_path, ["emx", "tvm"], "")
    ]
    once = [("node/test_relu", False), ("simple/test_reshape", False), ("simple/test_reshape", True)]
    assert names == [(front_end, *item) for front_end in ("emx", "tvm") for item in once]
    assert [item.name for item in onnx_operators.tasks_of(tmp_path, ["emx"], "node/*re")] == ["node/test_relu"]


def work(item: Task) -> Result:
    """Do what the name of a task says; other processes find this by its name."""
    if item.name == "die":
        os.abort()
    if item.name == "hang":
        time.sleep(60)
    os.write(1, b"a word to the log\n")
    return Result(outcome="right", reason=item.name)


def test_a_crash_or_an_endless_test_ends_its_process_alone(tmp_path: Path) -> None:
    names = ["a", "die", "hang", "b", "c"]
    crew = Crew(work, jobs=2, timeout_s=8, log=tmp_path / "log.txt")
    results = {item.name: result for item, result in crew.results([task(name=name) for name in names])}
    assert results == {
        **{name: Result(outcome="right", reason=name) for name in "abc"},
        "die": Result(outcome="crashed", reason="the process ended with SIGABRT"),
        "hang": Result(outcome="crashed", reason="took more than 8 s"),
    }
    assert (tmp_path / "log.txt").read_text().count("a word to the log\n") == 3


def test_results_of_this_code_are_found_again_and_those_of_earlier_code_if_asked(tmp_path: Path) -> None:
    earlier, right = Cache(folder=tmp_path, fingerprint="1"), Result(outcome="right", notes=("by emx",))
    earlier.keep(task(), right)
    assert (earlier.find(task()), earlier.find(task(has_constants=True))) == (right, None)
    assert Cache(folder=tmp_path, fingerprint="2").find(task()) is None
    assert Cache(folder=tmp_path, fingerprint="2", reused=("right",)).find(task()) == right
    assert Cache(folder=tmp_path, fingerprint="2", reused=("wrong",)).find(task()) is None


def test_half_a_result_is_none(tmp_path: Path) -> None:
    cache = Cache(folder=tmp_path, fingerprint="1")
    cache.keep(task(), Result(outcome="right"))
    (tmp_path / task().cache_name).write_text("{")
    assert cache.find(task()) is None


RESULTS = {
    task(name="node/test_b"): Result(outcome="right"),
    task(name="node/test_a"): Result(outcome="right"),
    task(name="node/test_c"): Result(outcome="refused", reason="node 0 (`Gru`), which gives `Y`, `Z` is unknown"),
    task(name="node/test_d"): Result(outcome="refused", reason="node `d` (`Gru`) is unknown"),
    task(name="node/test_e"): Result(outcome="not applicable", reason="strings"),
    task(name="node/test_f", has_constants=True): Result(outcome="wrong", reason="`y`: 1 of 2 elements are wrong"),
}


def test_the_report_counts_and_lists_by_reason() -> None:
    text = onnx_operators.report(RESULTS, 6)
    assert text.partition("| front end")[2] == """ | tests | not applicable | apply | right | wrong | refused | crashed | right of those that apply |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| `auto` | 5 | 1 | 4 | 2 | 0 | 2 | 0 | 50.0% |
| `auto`, with constant shapes | 1 | 0 | 1 | 0 | 1 | 0 | 0 | 0.0% |

## Wrong: `auto`, with constant shapes

* `y`: 1 of 2 elements are wrong (1): node/test_f

## Refused: `auto`

* `Gru` is unknown (2): node/test_c, node/test_d

## Not applicable

* strings (1): node/test_e"""  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("the operator `Resize` of the node `Y` has no size", "the operator `Resize` has no size"),
        ("tvm says: `a` has elements of `float16`; emx says: the tensor `b` is float16", "tvm says: a tensor has elements of `float16`; emx says: a tensor is float16"),
        ("`y`: 3 of 4 elements are wrong", "`y`: 3 of 4 elements are wrong"),
    ],
)  # fmt: skip
def test_reasons_are_grouped_without_the_names_of_a_test(reason: str, words: str) -> None:
    assert onnx_operators.without_names(reason) == words


def test_the_report_does_not_depend_on_the_order_of_results() -> None:
    turned = dict(reversed(RESULTS.items()))
    assert onnx_operators.report(turned, 6) == onnx_operators.report(RESULTS, 6)
    assert onnx_operators.as_json(turned) == onnx_operators.as_json(RESULTS)


def test_the_document_holds_every_result() -> None:
    rows = json.loads(onnx_operators.as_json(RESULTS))["results"]
    assert [row["name"][-1] for row in rows] == list("abcdef")
    assert rows[0] == {
        "front_end": "auto", "has_constants": False, "name": "node/test_a", "notes": [], "outcome": "right", "reason": "",
    }  # fmt: skip


def of(**outcomes: int) -> dict[Task, Result]:
    return {
        task(name=f"{name}{number}"): Result(outcome=name)
        for name, count in outcomes.items()
        for number in range(count)
    }


def test_the_promise_is_85_percent_and_nothing_wrong() -> None:
    assert onnx_operators.is_kept(of(right=85, refused=15))
    assert not onnx_operators.is_kept(of(right=84, crashed=16))
    assert not onnx_operators.is_kept(of(right=99, wrong=1))


def test_a_folder_without_tests_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert onnx_operators.main(["--data", str(tmp_path)]) == 2
    hint = "hint: apt-get install libonnx-testdata"
    assert capsys.readouterr().err == f"error: {tmp_path} has no such tests\n\n{hint}\n"


def test_a_run_that_chooses_tests_prints_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    model = made([node], *([value(name, [1], TensorProto.STRING)] for name in "xy"))
    save(tmp_path / "node" / "test_text", model, [], [])
    argv = [
        "--data",
        str(tmp_path),
        "--only",
        "text",
        "--cache",
        str(tmp_path / "cache"),
        "--report",
        str(tmp_path / "report.md"),
    ]
    assert [onnx_operators.main(argv) for _ in range(2)] == [0, 0]
    captured = capsys.readouterr()
    assert captured.out.count("* strings (1): node/test_text\n") == 2
    first, second = "0 results are known, 1 are to be found", "1 results are known, 0 are to be found"
    assert captured.err == f"{first}\n1/1 auto node/test_text: not applicable strings\n{second}\n"
    assert not (tmp_path / "report.md").exists()
