"""What the front end of TVM says of models that it cannot take: every message names the file, and the node where it is one."""

from __future__ import annotations

import builtins
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_nets import BOOL, DOUBLE, INT32, INT64, node, numbers, onnx_model, save, value

from mlf.errors import InputError, MlfError, ToolError, UnsupportedError
from mlf.frontends.tvm import compile_file, compile_relax
from mlf.frontends.tvm.importers import import_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

X, Y = value("x", [2, 3]), value("y", [2, 3])
HALF, BFLOAT = TensorProto.FLOAT16, TensorProto.BFLOAT16


def refusal(folder: Path, model: Any, file: str = "net.onnx") -> MlfError:
    """Give the error of a model that cannot be compiled; `model` may be the bytes of a file."""
    path = folder / file
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    with pytest.raises(MlfError) as caught:
        compile_file(path, name="net", rounding="float")
    assert caught.value.where == file
    assert str(folder) not in str(caught.value)
    return caught.value


def assert_refused(folder: Path, nodes: Sequence[Any], message: str, **parts: Any) -> None:
    inputs, outputs = parts.pop("inputs", [X]), parts.pop("outputs", [Y])
    error = refusal(folder, onnx_model(nodes, inputs, outputs, **parts))
    assert (type(error), error.message) == (UnsupportedError, message)


# What TVM does not know.


def test_an_operator_that_tvm_does_not_know_is_named_with_its_node(tmp_path: Path) -> None:
    words = "Apache TVM cannot import it: The following operators are not supported for frontend ONNX: Celu"
    nodes = [node("Relu", "x", "r", name="first"), node("Celu", "r", "y", name="my_celu")]
    assert_refused(tmp_path, nodes, f"node `my_celu` (`Celu`): {words}")
    nodes[1].name = ""
    assert_refused(tmp_path, nodes, f"node 1 (`Celu`), which gives `y`: {words}")


def test_an_operator_of_another_domain_is_named_with_it(tmp_path: Path) -> None:
    model = onnx_model([helper.make_node("Gate", ["x"], ["y"], name="g", domain="own")], [X], [Y])
    model.opset_import.append(helper.make_opsetid("own", 1))
    words = "Apache TVM cannot import it: The following operators are not supported for frontend ONNX: Gate"
    assert refusal(tmp_path, model).message == f"node `g` (`own.Gate`): {words}"


def test_what_the_importer_fails_at_is_the_node(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "r", name="first"), node("MatMul", "r w", "y", name="product")]
    message = refusal(tmp_path, onnx_model(nodes, [X], [Y], w=numbers(5, 3))).message
    assert message.startswith("node `product` (`MatMul`): Apache TVM cannot import it: ")


@pytest.mark.parametrize(
    ("operator", "inputs", "outputs"),
    [("CumSum", "x axis", "y"), ("TopK", "x axis", "y other"), ("NonZero", "x", "y"), ("Unique", "x", "y")],
)
def test_an_operator_of_the_runtime_is_named_with_its_node(
    tmp_path: Path, operator: str, inputs: str, outputs: str
) -> None:
    kind = INT64 if operator == "NonZero" else TensorProto.FLOAT
    made = [value("y", [None] * (1 if operator == "Unique" else 2), kind)]
    weights = {"axis": np.array([1])} if operator == "TopK" else {"axis": np.array(1)}
    message = f"node `late` (`{operator}`): Apache TVM does not know how to compile it ahead of time"
    nodes = [node("Neg", "x0", "x"), node(operator, inputs, outputs, name="late")]
    assert_refused(tmp_path, nodes, message, inputs=[value("x0", [2, 3])], outputs=made, **weights)


@pytest.mark.parametrize("operator", ["ScatterND", "ScatterElements"])
def test_scattering_is_refused(tmp_path: Path, operator: str) -> None:
    message = f"node `late` (`{operator}`): Apache TVM does not know how to compile it ahead of time"
    weights = {"i": np.array([[1]]), "u": numbers(1, 3) if operator == "ScatterND" else numbers(1, 1)}
    assert_refused(tmp_path, [node(operator, "x i u", "y", name="late")], message, **weights)


def test_a_branch_is_refused(tmp_path: Path) -> None:
    branches = [
        helper.make_graph([node(item, "x", name)], name, [], [value(name, [2, 3])])
        for item, name in (("Relu", "a"), ("Neg", "b"))
    ]
    nodes = [node("If", "c", "y", then_branch=branches[0], else_branch=branches[1], name="choice")]
    message = "node `choice` (`If`): Apache TVM does not know how to compile it ahead of time"
    assert_refused(tmp_path, nodes, message, inputs=[value("c", [], BOOL), X])


def test_a_shape_that_an_input_gives_is_refused(tmp_path: Path) -> None:
    nodes = [node("Reshape", "x s", "y", name="form")]
    model = onnx_model(nodes, [X, value("s", [1], INT64)], [value("y", ["n"])])
    assert refusal(tmp_path, model).message.startswith("node `form` (`Reshape`): Apache TVM cannot import it: ")


# What TVM gets wrong.


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (node("Dropout", "x ratio", "y mask"), "the mask that a dropout gives"),
        (node("Dropout", "x ratio on", "y"), "dropouts in training"),
        (node("LayerNormalization", "x g", "y mean"), "the mean that a layer norm gives"),
        (node("BatchNormalization", "x g g g g", "y", training_mode=1), "batch norms in training"),
        (node("SequenceConstruct", "x x", "y"), "sequences"),
    ],
)
def test_what_tvm_would_get_wrong_is_refused(tmp_path: Path, made: Any, reason: str) -> None:
    outputs = [helper.make_tensor_sequence_value_info("y", 1, [2, 3])] if reason == "sequences" else [Y]
    outputs += [value("mask", [2, 3], BOOL)] if "mask" in made.output else []
    outputs += [value("mean", [2, 1])] if "mean" in made.output else []
    made.name = "it"
    weights = {"ratio": np.float32(0.5), "on": np.array(True), "g": numbers(3)}
    weights = {name: array for name, array in weights.items() if name in made.input}
    message = f"node `it` (`{made.op_type}`): Apache TVM does not know {reason}"
    assert_refused(tmp_path, [made], message, outputs=outputs, **weights)


def test_infinities_of_one_sign_are_refused(tmp_path: Path) -> None:
    nodes = [node("IsInf", "x", "y", detect_negative=0, name="it")]
    message = "node `it` (`IsInf`): Apache TVM does not know infinities of one sign"
    assert_refused(tmp_path, nodes, message, outputs=[value("y", [2, 3], BOOL)])


@pytest.mark.parametrize(
    ("inputs", "attributes", "reason"),
    [
        ("x - - sizes", {"mode": "cubic"}, "cubic resizing as ONNX defines it"),
        (
            "x - - sizes", {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
            "linear resizing with other coordinates than half_pixel",
        ),
        ("x - scales", {"mode": "linear"}, "resizing by scales that are no whole numbers"),
        ("x - scales", {}, "resizing by scales that are no whole numbers"),
        ("x - given", {}, "resizing by scales that are no whole numbers"),
        ("x - - two", {"axes": [2, 3]}, "resizing of fewer axes"),
    ],
)  # fmt: skip
def test_resizing_that_tvm_does_otherwise_is_refused(tmp_path: Path, inputs: str, attributes: Any, reason: str) -> None:
    image, given = value("x", [1, 1, 5, 5]), value("given", [4])
    weights = {
        "sizes": np.array([1, 1, 6, 6]),
        "scales": np.array([1, 1, 1.3, 1.3], np.float32),
        "two": np.array([6, 6]),
    }
    read = {name: array for name, array in weights.items() if name in inputs}
    made = [node("Resize", inputs, "y", name="it", **attributes)]
    parts: dict[str, Any] = {
        "inputs": [image, given] if "given" in inputs else [image],
        "outputs": [value("y", ["a", "b", "c", "d"])],
    }
    assert_refused(
        tmp_path, made, f"node `it` (`Resize`): Apache TVM does not know {reason}", opset=18, **parts, **read
    )


def test_an_output_that_tvm_would_give_another_type_is_refused(tmp_path: Path) -> None:
    nodes = [node("OneHot", "i depth values", "y")]
    message = "output `y` has elements of `float32`, Apache TVM would make it `float64`"
    weights = {"depth": np.array(3), "values": np.array([0, 1], np.float32)}
    assert_refused(tmp_path, nodes, message, inputs=[value("i", [2], INT64)], outputs=[value("y", [2, 3])], **weights)


@pytest.mark.parametrize("is_read", [True, False])
def test_what_nothing_needs_is_not_refused(tmp_path: Path, *, is_read: bool) -> None:
    nodes = [node("CumSum", "x axis", "c"), node("Relu", "c" if is_read else "x", "y")]
    path = save(tmp_path / "net.onnx", onnx_model(nodes, [X], [Y], axis=np.array(1)))
    if is_read:
        with pytest.raises(UnsupportedError):
            compile_file(path, name="net", rounding="float")
    else:
        assert len(compile_file(path, name="net", rounding="float").program.calls) == 1


# Types and shapes.


@pytest.mark.parametrize(("dtype", "word"), [(HALF, "float16"), (BFLOAT, "bfloat16")])
def test_halves_are_refused(tmp_path: Path, dtype: int, word: str) -> None:
    nodes = [node("Relu", "x", "y")]
    tensors = {"inputs": [value("x", [2], dtype)], "outputs": [value("y", [2], dtype)]}
    assert_refused(tmp_path, nodes, f"`x` has elements of `{word}`, which C99 has not", **tensors)


@pytest.mark.parametrize(("dtype", "word"), [(TensorProto.STRING, "string"), (TensorProto.COMPLEX64, "complex64")])
def test_what_is_no_number_of_c_is_refused(tmp_path: Path, dtype: int, word: str) -> None:
    tensors = {"inputs": [value("x", [2], dtype)], "outputs": [value("y", [2], dtype)]}
    message = f"input `x` has elements of the type {word}, which are no numbers of C"
    assert_refused(tmp_path, [node("Identity", "x", "y")], message, **tensors)


def test_a_sequence_is_no_input(tmp_path: Path) -> None:
    inputs = [helper.make_tensor_sequence_value_info("x", 1, [2]), value("i", [], INT64)]
    assert_refused(
        tmp_path, [node("SequenceAt", "x i", "y")], "input `x` is no tensor but of the type sequence", inputs=inputs
    )


def test_a_first_dimension_that_is_open_becomes_1_and_is_told(tmp_path: Path) -> None:
    path = save(
        tmp_path / "net.onnx",
        onnx_model([node("Relu", "x", "y")], [value("x", ["batch", 3])], [value("y", ["batch", 3])]),
    )
    model = compile_file(path, name="net", rounding="float")
    assert model.notes == ("input `x`: its first dimension, `batch`, is 1",)
    assert (model.inputs[0].shape, model.outputs[0].shape) == ((1, 3), (1, 3))


@pytest.mark.parametrize(("dimension", "word"), [("width", "width"), (None, "?")])
def test_another_open_dimension_is_refused(tmp_path: Path, dimension: str | None, word: str) -> None:
    open_ = [2, dimension]
    error = refusal(tmp_path, onnx_model([node("Relu", "x", "y")], [value("x", open_)], [value("y", open_)]))
    assert error.message == f"input `x` has the open dimension `{word}` at 1"
    assert error.hint == "export the model with fixed shapes"


@pytest.mark.parametrize("dtype", [DOUBLE, INT32, INT64, BOOL, TensorProto.UINT8, TensorProto.INT16])
def test_tensors_have_the_types_and_sizes_of_the_file(tmp_path: Path, dtype: int) -> None:
    path = save(
        tmp_path / "net.onnx",
        onnx_model(
            [node("Reshape", "x s", "y")], [value("x", [2, 3], dtype)], [value("y", [6], dtype)], s=np.array([6])
        ),
    )
    model = import_model(path, rounding="float")
    word = str(helper.tensor_dtype_to_np_dtype(dtype))
    size_bytes = 6 * np.dtype(word).itemsize
    assert [(item.name, item.dtype, item.shape, item.size_bytes) for item in (*model.inputs, *model.outputs)] == [
        ("x", word, (2, 3), size_bytes), ("y", word, (6,), size_bytes),
    ]  # fmt: skip


# Files.


def test_damaged_files_are_told(tmp_path: Path) -> None:
    whole = onnx_model([node("MatMul", "x w", "y")], [X], [Y], w=numbers(3, 3)).SerializeToString()
    corrupt = "is no ONNX model that can be read: Error parsing message with type 'onnx.ModelProto'"
    for data in (whole[:-30], b"no model" * 20):
        error = refusal(tmp_path, data)
        assert type(error) is InputError
        assert error.message.startswith(corrupt)
    assert (
        refusal(tmp_path, b"").message
        == "is no ONNX model that can be read: The model does not have an ir_version set properly"
    )


def test_a_graph_that_is_no_graph_is_told_in_one_line(tmp_path: Path) -> None:
    error = refusal(tmp_path, onnx_model([node("Neg", "z", "y", name="n")], [X], [Y]))
    assert error.message == (
        "is no ONNX model that can be read: Nodes in a graph must be topologically sorted, however input 'z' of node:"
        " name: n OpType: Neg is not output of any previous nodes"
    )


def test_weights_in_a_file_that_is_missing(tmp_path: Path) -> None:
    model = onnx_model([node("Add", "x w", "y")], [value("x", [600])], [value("y", [600])], w=numbers(600))
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="weights.bin")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(InputError) as caught:
        import_model(tmp_path / "net.onnx", rounding="float")
    assert "weights.bin" in caught.value.message
    assert str(tmp_path) not in str(caught.value)


def test_weights_in_a_file_beside_the_model_are_read(tmp_path: Path) -> None:
    model = onnx_model([node("Add", "x w", "y")], [value("x", [600])], [value("y", [600])], w=numbers(600))
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="weights.bin")
    values = compile_file(tmp_path / "net.onnx", name="net", rounding="float").program.values
    assert [item.content for item in values if item.kind == "parameter"] == [numbers(600).tobytes()]


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_a_file_that_is_not_there(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(InputError) as caught:
        import_model(tmp_path / f"net{suffix}", rounding="float")
    assert (caught.value.where, caught.value.message) == (f"net{suffix}", "cannot be read: no such file or directory")


# Packages.


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a function after which a package cannot be found any more."""

    def hide(package: str) -> None:
        find, load = importlib.util.find_spec, builtins.__import__

        def found(name: str, *rest: Any) -> Any:
            return None if name.split(".", maxsplit=1)[0] == package else find(name, *rest)

        def loaded(name: str, *rest: Any, **more: Any) -> Any:
            if name.split(".", maxsplit=1)[0] == package:
                raise ModuleNotFoundError(f"No module named '{package}'", name=package)
            return load(name, *rest, **more)

        monkeypatch.setattr(importlib.util, "find_spec", found)
        monkeypatch.setattr(builtins, "__import__", loaded)
        for name in [item for item in sys.modules if item.split(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)

    return hide


@pytest.mark.parametrize(
    ("package", "file", "hint"),
    [
        ("onnx", "net.onnx", "pip install 'mlf[tvm]'"),
        ("tflite", "net.tflite", "pip install 'mlf[tvm]'"),
        ("torch", "net.pt2", "pip install torch"),
    ],
)
def test_a_package_that_is_missing_is_named(tmp_path: Path, without: Any, package: str, file: str, hint: str) -> None:
    (tmp_path / file).write_bytes(b"model")
    without(package)
    with pytest.raises(ToolError) as caught:
        import_model(tmp_path / file, rounding="float")
    assert (caught.value.message, caught.value.hint) == (f"the Python package {package} is not installed", hint)


# Relax.


def test_a_module_without_main_is_refused() -> None:
    import tvm  # noqa: PLC0415

    with pytest.raises(InputError) as caught:
        compile_relax(tvm.IRModule({}), name="net")
    assert str(caught.value) == "net: the Relax module has no function `main`"


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refusal(tmp_path, onnx_model([node("MatMul", "x w", "y")], [X], [Y], w=numbers(5, 3)))
    refusal(tmp_path, onnx_model([node("Celu", "x", "y")], [X], [Y]))
    compile_file(
        save(tmp_path / "net.onnx", onnx_model([node("Relu", "x", "y")], [X], [Y])), name="net", rounding="float"
    )
    assert capfd.readouterr() == ("", "")
