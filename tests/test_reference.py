"""Models are judged by the runtime of their file, on inputs that are always the same."""

from __future__ import annotations

import hashlib
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

from mlf.arrays import save_arrays
from mlf.errors import CompileError, ModelRunError, TensorError
from mlf.exporter import GoldenFiles, export
from mlf.linker import LinkRequest
from mlf.metadata import Quantization, Tensor
from mlf.reference import BirthCheck, Reference, Tolerance, check_model, compare, find_reference
from mlf.runner import replay_archive
from mlf.toolchain import compiler_for
from mlf.trial_inputs import generate_inputs

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    Arrays = dict[str, npt.NDArray[Any]]

DENSE = """
#include <stdint.h>
static const float weights[3][2] = {{1.0f, 2.0f}, {3.0f, 4.0f}, {5.0f, 6.0f}};
int32_t dense(const float samples[1][3], float scores[1][2]) {
  for (int i = 0; i < 2; ++i) {
    scores[0][i] = 0.0f;
    for (int k = 0; k < 3; ++k) { scores[0][i] += samples[0][k] * weights[k][i]; }
  }
  return 0;
}
"""
WEIGHTS = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
ZERO_POINT = -3


def tensor(name: str, dtype: str | None = "float32", shape: tuple[int, ...] | None = (1, 3), **facts: Any) -> Tensor:
    return Tensor(name=name, c_name=name, dtype=dtype, shape=shape, size_bytes=None, **facts)


def onnx_model(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], **weights: Any) -> Path:
    values = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, values)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def value(name: str, shape: list[int | str], dtype: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def dense_model(folder: Path) -> Path:
    nodes = [helper.make_node("MatMul", ["samples", "w"], ["scores"])]
    samples, scores = value("samples", ["batch", 3]), value("scores", ["batch", 2])
    return onnx_model(folder / "dense.onnx", nodes, [samples], [scores], w=WEIGHTS)


def archive(
    folder: Path, code: str = DENSE, *, types: tuple[str, str] = ("float32", "float32"), outputs: int = 2
) -> Path:
    source = folder / "source"
    source.mkdir()
    (source / "dense.c").write_text(code)
    (source / "description.toml").write_text(f"""
[model]
name = "dense"
[entry]
function = "dense"
arguments = ["samples", "scores"]
[code]
sources = ["*.c"]
[[inputs]]
name = "samples"
dtype = "{types[0]}"
shape = [1, 3]
[[outputs]]
name = "scores"
dtype = "{types[1]}"
shape = [1, {outputs}]
""")
    export(source, output=folder / "dense.tar")
    return folder / "dense.tar"


def found(model: Path) -> Reference:
    reference = find_reference(model)
    assert reference is not None
    return reference


def checked(folder: Path, code: str, **options: Any) -> BirthCheck:
    inputs = generate_inputs([tensor("samples")], 3)
    return check_model(archive(folder, code), "dense", found(dense_model(folder)), inputs, **options)


def relu_model(path: Path) -> Path:
    """Write a TFLite model of one int8 RELU, whose input and output have one scale and zero point."""
    model, graph, operator, code = schema.ModelT(), schema.SubGraphT(), schema.OperatorT(), schema.OperatorCodeT()
    tensors = []
    for name in ("samples", "scores"):
        item, quantization = schema.TensorT(), schema.QuantizationParametersT()
        quantization.scale, quantization.zeroPoint = [0.5], [ZERO_POINT]
        item.name, item.shape, item.type, item.quantization = name, [1, 3], schema.TensorType.INT8, quantization
        tensors.append(item)
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RELU
    operator.inputs, operator.outputs = [0], [1]
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, [0], [1], [operator]
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [graph], [code], [schema.BufferT()]
    builder = schema.flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    return path


def test_a_file_of_another_kind_has_no_reference(tmp_path: Path) -> None:
    assert find_reference(tmp_path / "model.h5") is None


def test_a_runtime_that_is_not_installed_is_no_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnxruntime", "ai_edge_litert", "torch"):
        monkeypatch.setitem(sys.modules, package, None)
    assert [find_reference(tmp_path / name) for name in ("a.onnx", "a.tflite", "a.pt2")] == [None, None, None]


def test_the_reference_names_its_release(tmp_path: Path) -> None:
    import onnxruntime  # noqa: PLC0415

    assert str(find_reference(tmp_path / "model.ONNX")) == f"onnxruntime {onnxruntime.__version__}"


def test_onnxruntime_runs_a_symbolic_batch_and_gives_outputs_in_the_order_of_the_model(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Sub", ["x", "y"], ["z"])]
    names = (["x", "y"], ["z", "a"])
    model = onnx_model(tmp_path / "m.onnx", nodes, *([value(name, ["batch", 2]) for name in group] for group in names))
    got = found(model).run({"y": np.array([[4, 8]], np.float32), "x": np.array([[1, 2]], np.float32)})
    assert {name: array.tolist() for name, array in got.items()} == {"z": [[-3, -6]], "a": [[-1, -2]]}
    assert list(got) == ["z", "a"]


def test_inputs_with_other_names_are_taken_in_their_order(tmp_path: Path) -> None:
    model = onnx_model(
        tmp_path / "m.onnx", [helper.make_node("Sub", ["x", "y"], ["z"])], [value("x", [1]), value("y", [1])], [value("z", [1])]
    )  # fmt: skip
    got = found(model).run({"b": np.array([5], np.float32), "a": np.array([1], np.float32)})
    assert got["z"].tolist() == [4]


def test_litert_runs_integers_with_its_reference_kernels(tmp_path: Path) -> None:
    reference = found(relu_model(tmp_path / "relu.tflite"))
    got = reference.run({"samples": np.array([[-128, -3, 100]], np.int8)})
    assert got["scores"].dtype == np.int8
    assert got["scores"].tolist() == [[-3, -3, 100]]
    assert (reference.name, reference.units) == ("LiteRT", 0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bad.onnx", "onnxruntime cannot run it: [ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from bad.onnx failed:Protobuf parsing failed."),
        ("bad.tflite", "LiteRT cannot run it: The model is not a valid Flatbuffer buffer"),
    ],
)  # fmt: skip
def test_a_file_that_the_runtime_cannot_read_is_an_error_with_its_words(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(b"no model")
    with pytest.raises(ModelRunError) as caught:
        found(tmp_path / name).run({})
    assert str(caught.value) == f"{name}: {words}"


def test_what_runtimes_print_is_not_seen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    nodes = [helper.make_node("Gather", ["w", "i"], ["y"])]
    model = onnx_model(
        tmp_path / "m.onnx", nodes, [value("i", [1], TensorProto.INT64)], [value("y", [1])], w=np.zeros(3, np.float32)
    )
    with pytest.raises(ModelRunError, match="out of data bounds"):
        found(model).run({"i": np.array([7])})
    found(relu_model(tmp_path / "relu.tflite")).run({"samples": np.zeros((1, 3), np.int8)})
    assert capfd.readouterr() == ("", "")


def test_generated_inputs_are_always_the_same() -> None:
    tensors = [
        tensor("a", shape=(50,)),
        tensor("b", "int8", (50,)),
        tensor("c", "bool", (50,)),
        tensor("d", "int64", (50,)),
    ]
    digest = hashlib.sha256(
        b"".join(array.tobytes() for item in generate_inputs(tensors, 5) for array in item.values())
    )
    assert digest.hexdigest() == "8ac0a57bc559d477a969aa5c919a2ff6c86ba8f0b0894bdd8583f45ca9f4e17b"


def test_generated_floats_are_normal_then_uniform_then_zero() -> None:
    normal, uniform, zeros, again, other = (item["x"] for item in generate_inputs([tensor("x", shape=(100, 100))], 5))
    assert normal.dtype == np.float32
    assert (abs(normal.mean()) < 0.05, abs(normal.std() - 1) < 0.05) == (True, True)
    for item in (uniform, again):
        assert (item.min() >= 0, item.max() < 1, abs(item.mean() - 0.5) < 0.02) == (True, True, True)
    assert not zeros.any()
    assert not np.array_equal(normal, other)
    assert not np.array_equal(uniform, again)


def test_generated_integers_have_the_range_that_their_type_is_used_with() -> None:
    tensors = [tensor(name, name, (20000,)) for name in ("int8", "uint8", "int16", "int32", "int64", "bool")]
    first, second = generate_inputs(tensors, 2)
    ranges = {name: (int(array.min()), int(array.max())) for name, array in first.items() if name != "int16"}
    assert ranges == {"int8": (-128, 127), "uint8": (0, 255), "int32": (0, 1), "int64": (0, 1), "bool": (0, 1)}
    assert (first["int16"].min() < -32000, first["int16"].max() > 32000) == (True, True)
    assert (int(second["int64"].min()), int(second["int64"].max())) == (0, 7)
    assert {name: str(array.dtype) for name, array in first.items()} == {item.name: item.name for item in tensors}


def test_a_quantised_zero_is_the_zero_point() -> None:
    item = tensor("x", "int8", (2,), quantization=Quantization(scale=0.5, zero_point=-7))
    assert generate_inputs([item], 3)[2]["x"].tolist() == [-7, -7]


def test_tensors_of_one_element_and_of_none_are_generated() -> None:
    (item,) = generate_inputs([tensor("scalar", shape=()), tensor("empty", shape=(2, 0)), tensor("i", "int8", ())], 1)
    assert [array.shape for array in item.values()] == [(), (2, 0), ()]


def test_no_input_is_made_for_a_tensor_of_unknown_shape() -> None:
    with pytest.raises(TensorError) as caught:
        generate_inputs([tensor("a", shape=None), tensor("b"), tensor("c", None)], 1)
    assert str(caught.value) == "nothing tells the type and shape of `a`, `c`, for which inputs were to be made"


def deviation(expected: list[Any], got: list[Any], **options: Any) -> Any:
    """Compare outputs of several runs, each a list of arrays."""
    pairs = [[{"y": np.asarray(item)} for item in group] for group in (expected, got)]
    (found,) = compare(*pairs, tolerance=Tolerance(**options))
    return found


def test_floats_are_compared_with_the_largest_magnitude_of_all_runs() -> None:
    expected = [np.array([0.0, -200.0], np.float32), np.array([1.0, 2.0], np.float32)]
    near = [expected[0], np.array([1.0015, 2.0], np.float32)]
    far = [expected[0], np.array([1.0025, 2.0], np.float32)]
    assert (deviation(expected, near).is_good, deviation(expected, far).is_good) == (True, False)
    found = deviation(expected, far)
    assert (found.magnitude, found.elements, found.unequal, found.unequal_share) == (200.0, 4, 1, 0.25)
    assert found.largest == pytest.approx(0.0025, rel=1e-4)
    assert found.relative == pytest.approx(0.0025 / 200, rel=1e-4)
    assert found.limit == 200 * 1e-5


def test_nan_equals_nan_and_infinity_itself() -> None:
    values = np.array([np.nan, np.inf, -np.inf, 1], np.float32)
    found = deviation([values], [values.copy()])
    assert (found.largest, found.relative, found.unequal, found.magnitude, found.is_good) == (0, 0, 0, 1, True)


@pytest.mark.parametrize(("expected", "got"), [(np.nan, 1), (1, np.nan), (np.inf, -np.inf), (np.inf, 1), (1, np.inf)])
def test_nan_and_infinity_are_far_from_all_else(expected: float, got: float) -> None:
    found = deviation([np.array([expected, 1], np.float32)], [np.array([got, 1], np.float32)])
    assert (found.largest, found.relative, found.unequal, found.is_good) == (np.inf, np.inf, 1, False)


def test_an_output_that_is_always_zero_must_be_zero() -> None:
    found = deviation([np.zeros(2, np.float32)], [np.array([0, 1e-9], np.float32)])
    assert (found.relative, found.is_good) == (np.inf, False)


def test_half_precision_is_allowed_its_own_rounding() -> None:
    found = deviation([np.array([1.0], np.float16)], [np.array([1.001], np.float16)])
    assert found.is_good
    assert found.largest == 2.0**-10


def test_integers_are_compared_in_units() -> None:
    expected, got = [np.array([-128, 0, 5, 7], np.int8)], [np.array([127, 0, 6, 7], np.int8)]
    found = deviation(expected, got, units=1)
    assert (found.largest, found.unequal_share, found.is_good) == (255, 0.5, False)
    near = [np.array([-127, 1, 4, 7], np.int8)]
    assert (deviation(expected, near, units=1).is_good, deviation(expected, near).is_good) == (True, False)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint64", "bool"])
def test_wide_integers_must_be_equal(dtype: str) -> None:
    assert not deviation([np.array([0], dtype)], [np.array([1], dtype)], units=1).is_good


def test_the_difference_of_the_widest_integers_does_not_overflow() -> None:
    limits = np.iinfo(np.int64)
    assert deviation([np.array([limits.min])], [np.array([limits.max])]).largest == 2.0**64
    assert deviation([np.array(2**63, np.uint64)], [np.array(2**63 + 1, np.uint64)]).largest == 1


def test_outputs_of_no_elements_are_good() -> None:
    found = deviation([np.zeros((0, 2), np.float32)], [np.zeros((0, 2), np.float32)])
    assert (found.is_good, found.unequal_share, found.relative) == (True, 0, 0)


def test_right_code_is_good_and_leaves_golden_data(tmp_path: Path) -> None:
    check = checked(tmp_path, DENSE)
    assert (check.inputs, check.is_judged, check.is_good, check.notes) == (3, True, True, ())
    (item,) = check.deviations
    assert (item.output, item.dtype, item.elements) == ("scores", "float32", 6)
    np.testing.assert_allclose(check.golden_outputs["scores"], check.golden_inputs["samples"] @ WEIGHTS, rtol=1e-6)
    assert check.golden_atol == item.limit > 0


def test_wrong_code_is_not_good(tmp_path: Path) -> None:
    check = checked(tmp_path, DENSE.replace("6.0f", "6.01f"))
    assert (check.is_judged, check.is_good) == (True, False)
    assert check.deviations[0].largest == pytest.approx(0.01 * abs(check.golden_inputs["samples"][0, 2]), rel=1e-3)


def test_a_wider_tolerance_lets_more_through(tmp_path: Path) -> None:
    assert checked(tmp_path, DENSE.replace("6.0f", "6.01f"), tolerance=Tolerance(relative=0.01)).is_good


def test_code_that_keeps_something_from_call_to_call_is_found(tmp_path: Path) -> None:
    keeping = "kept += scores[0][0]; scores[0][1] += kept - scores[0][0]; return 0"  # the first call is right
    code = DENSE.replace("int32_t dense", "static float kept;\nint32_t dense").replace("return 0", keeping)
    assert not checked(tmp_path, code).is_good


@pytest.mark.parametrize(
    ("own", "is_good", "limit"), [(0.01, True, 0.04), (0.001, False, 0.004), (np.nan, False, 2e-5), (0, False, 2e-5)]
)
def test_a_reference_that_differs_from_itself_allows_more(
    tmp_path: Path, own: float, is_good: bool, limit: float
) -> None:
    def run(inputs: Any) -> Any:
        return {"scores": inputs["samples"] @ WEIGHTS}

    def again(inputs: Any) -> Any:
        return {"scores": inputs["samples"] @ WEIGHTS + np.float32(own)}

    reference = Reference(name="numpy", version="1", units=0, run=run, again=again)
    made = archive(tmp_path, DENSE.replace("2.0f", "2.02f"))
    check = check_model(made, "dense", reference, [{"samples": np.array([[1, 0, 0]], np.float32)}])
    assert check.is_good == is_good
    assert check.deviations[0].limit == pytest.approx(limit, rel=1e-4)
    assert check.golden_atol == check.deviations[0].limit


def test_only_onnxruntime_has_two_kinds_of_kernels(tmp_path: Path) -> None:
    model = dense_model(tmp_path)
    again = found(model).again
    assert again is not None
    inputs = {"samples": np.array([[1, 2, 3]], np.float32)}
    np.testing.assert_allclose(again(inputs)["scores"], [[22, 28]])
    assert found(relu_model(tmp_path / "relu.tflite")).again is None


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("return 5", "the generated C reported failure"),
        ("*(volatile int *)0 = 1; return 0", "the generated C crashed (SIGSEGV)"),
        ("for (int i = 2; i < 9; ++i) { ((volatile float *)scores)[i] = 1; } return 0", "the generated C wrote past the end of an output"),
    ],
)  # fmt: skip
def test_code_that_fails_is_an_error(tmp_path: Path, code: str, words: str) -> None:
    with pytest.raises(ModelRunError) as caught:
        checked(tmp_path, DENSE.replace("return 0", code))
    assert str(caught.value) == f"dense: {words}"


def test_code_that_does_not_end_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelRunError) as caught:
        checked(tmp_path, DENSE.replace("return 0", "for (volatile int i = 0;;) { (void)i; }"), timeout_s=1.0)
    assert str(caught.value) == "dense: the model did not end within 1 s"


def test_code_that_does_not_compile_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CompileError):
        checked(tmp_path, DENSE.replace("return 0", "return nothing"))


def index_model(folder: Path) -> tuple[Path, Path]:
    """Give the archive and the model of `scores = table[samples]`, whose table has six elements."""
    nodes = [helper.make_node("Gather", ["table", "samples"], ["scores"])]
    samples, scores = value("samples", [1, 3], TensorProto.INT64), value("scores", [1, 3])
    model = onnx_model(folder / "m.onnx", nodes, [samples], [scores], table=np.arange(6, dtype=np.float32))
    code = "#include <stdint.h>\nint32_t dense(const int64_t *x, float *y) { for (int i = 0; i < 3; ++i) { y[i] = (float)x[i]; } return 0; }"
    return archive(folder, code, types=("int64", "float32"), outputs=3), model


def test_inputs_that_the_reference_cannot_run_are_left_out(tmp_path: Path) -> None:
    made, model = index_model(tmp_path)
    inputs = [{"samples": np.array([[0, top, 1]])} for top in (9, 5, 7)]
    check = check_model(made, "dense", found(model), inputs)
    assert (check.inputs, check.is_good, check.golden_inputs["samples"].tolist()) == (1, True, [[0, 5, 1]])
    words = "indices element out of data bounds, idx=9 must be within the inclusive range [-6,5]"
    assert check.notes[0].startswith(
        "2 of 3 inputs were left out: onnxruntime cannot run it: [ONNXRuntimeError] : 2 : "
    )
    assert check.notes[0].endswith(words)
    assert len(check.notes) == 1


def test_without_an_input_that_the_reference_can_run_nothing_is_judged(tmp_path: Path) -> None:
    (tmp_path / "bad.tflite").write_bytes(b"no model")
    check = check_model(tmp_path / "no.tar", "dense", found(tmp_path / "bad.tflite"), [{}, {}])
    assert (check.inputs, check.is_judged, check.deviations, check.golden_inputs) == (0, False, (), {})
    assert check.notes == ("nothing was checked: LiteRT cannot run it: The model is not a valid Flatbuffer buffer",)


def test_inputs_that_do_not_fit_the_archive_are_an_error(tmp_path: Path) -> None:
    inputs = [{"samples": np.zeros((2, 3), np.float32)}]
    with pytest.raises(TensorError) as caught:
        check_model(archive(tmp_path, outputs=2), "dense", found(dense_model(tmp_path)), inputs)
    message = "what the reference gives does not fit: `scores` has shape 2x2, expected 1x2"
    assert str(caught.value) == f"dense.tar: {message}"


def test_outputs_of_another_type_are_an_error(tmp_path: Path) -> None:
    made = archive(tmp_path, DENSE.replace("float scores", "double scores"), types=("float32", "float64"))
    with pytest.raises(TensorError) as caught:
        check_model(made, "dense", found(dense_model(tmp_path)), generate_inputs([tensor("samples")], 1))
    message = "what the reference gives does not fit: `scores` has dtype float32, expected float64"
    assert str(caught.value) == f"dense.tar: {message}"


RELU = """
#include <stdint.h>
int32_t dense(const int8_t *samples, int8_t *scores) {
  for (int i = 0; i < 3; ++i) { scores[i] = (int8_t)(samples[i] < -3 ? -3 : samples[i] ROUNDING); }
  return 0;
}
"""


@pytest.mark.parametrize(("rounding", "is_good"), [("", True), ("- (samples[i] == 99)", False)])
def test_integers_must_be_those_of_litert(tmp_path: Path, rounding: str, is_good: bool) -> None:
    made = archive(tmp_path, RELU.replace("ROUNDING", rounding), types=("int8", "int8"), outputs=3)
    inputs = [{"samples": np.array([[-128, 99, 3]], np.int8)}]
    check = check_model(made, "dense", found(relu_model(tmp_path / "relu.tflite")), inputs)
    assert check.is_good == is_good


def test_golden_integers_are_those_of_the_code_so_that_they_replay(tmp_path: Path) -> None:
    made = archive(tmp_path, RELU.replace("ROUNDING", "- (samples[i] == 99)"), types=("int8", "int8"), outputs=3)
    inputs = [{"samples": np.array([[-128, 99, 3]], np.int8)}]
    reference = found(relu_model(tmp_path / "relu.tflite"))
    check = check_model(made, "dense", reference, inputs, tolerance=Tolerance(units=1))
    assert check.is_good
    assert check.golden_outputs["scores"].tolist() == [[-3, 98, 3]]
    files = GoldenFiles(inputs=tmp_path / "in.npz", outputs=tmp_path / "out.npz", atol=check.golden_atol)
    save_arrays(files.inputs, check.golden_inputs)
    save_arrays(files.outputs, check.golden_outputs)
    export(made, output=tmp_path / "golden.tar", golden=[files])
    request = LinkRequest(path=tmp_path / "golden.tar")
    assert replay_archive(request, compiler=compiler_for("host")).is_passed
