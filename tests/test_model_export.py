"""Trained models become archives: through Python and the command line, checked at birth, replayed, linked, always the same bytes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx_nets import FLOAT, INT8, expected, node, numbers, onnx_model, save, value

import mlf
from mlf.arrays import load_arrays, save_arrays
from mlf.errors import DeviationError, TensorError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parent.parent
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2")
IMAGE = numbers(1, 3, 6, 5, seed=3)


def network(*, size: int = 5) -> Any:
    """Make a small network of images, of each kind of layer that such networks have."""
    nodes = [
        node("Conv", "image w b", "c", pads=[1, 1, 1, 1], name="first"), node("BatchNormalization", "c s b s v", "n"), node("Relu", "n", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]), node("Conv", "p d", "e", group=4, pads=[1, 1, 1, 1]),
        node("Add", "e p", "a"), node("GlobalAveragePool", "a", "g"), node("Flatten", "g", "f"), node("Gemm", "f m k", "l"),
        node("Softmax", "l", "scores:0"),
    ]  # fmt: skip
    weights = {
        "w": numbers(4, 3, 3, 3), "b": numbers(4, seed=1), "s": numbers(4, seed=2), "v": np.abs(numbers(4, seed=3)) + 0.5,
        "d": numbers(4, 1, 3, 3, seed=4), "m": numbers(4, size, seed=5), "k": numbers(size, seed=6),
    }  # fmt: skip
    return onnx_model(nodes, [value("image", ["batch", 3, 6, 5])], [value("scores:0", ["batch", size])], **weights)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "Key Words.onnx", network())


@pytest.fixture(scope="module")
def archive(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("archive") / "net.tar"
    mlf.export(model, output=output)
    return output


def command(*words: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run mlf in a process of its own."""
    surrounding = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **environment}
    argv = [sys.executable, "-m", "mlf", *map(str, words)]
    return subprocess.run(argv, cwd=cwd, env=surrounding, capture_output=True, text=True, check=False)


def near(got: Any, right: Any) -> None:
    np.testing.assert_allclose(got, right, rtol=0, atol=1e-5 * float(np.abs(right).max()))


# Through Python.


@pytest.mark.parametrize("operators", ["unpacked", "packed"])
def test_an_exported_model_computes_what_onnxruntime_does(tmp_path: Path, model: Path, operators: str) -> None:
    made = mlf.export(model, output=tmp_path / "net.tar", model=mlf.ModelOptions(operators=operators, front_end="tvm"))
    assert (made.version, made.modules, made.archive) == (8, ("key_words",), "net.tar")
    assert made.check is not None
    assert (made.check.is_good, made.check.inputs) == (True, 8)
    result = mlf.run(tmp_path / "net.tar", {"image": IMAGE}, cflags=STRICT)
    near(result.outputs["scores:0"], expected(model, {"image": IMAGE})[0])
    assert mlf.validate(tmp_path / "net.tar").is_good(strict=True)


def test_the_archive_tells_what_the_model_is(archive: Path) -> None:
    module = mlf.inspect(archive).modules[0]
    assert [(item.name, item.dtype, item.shape) for item in (*module.inputs, *module.outputs)] == [
        ("image", "float32", (1, 3, 6, 5)), ("scores:0", "float32", (1, 5)),
    ]  # fmt: skip
    assert module.operators == "unpacked"


def test_what_was_decided_is_in_the_notes(model: Path, tmp_path: Path) -> None:
    made = mlf.export(model, output=tmp_path / "net.tar", model=mlf.ModelOptions(is_checked=False))
    texts = [note.text for note in made.notes]
    assert re.fullmatch(r"with apache-tvm 0\.27\.\S+", texts[0])
    assert texts[1:4] == [
        "compiled by tvm: it can compile every operator of the model", "input `image`: its first dimension, `batch`, is 1",
        "its workspace takes 576 bytes, the least possible",
    ]  # fmt: skip
    assert made.check is None


def test_golden_data_of_the_check_replays(archive: Path) -> None:
    replay = mlf.replay(archive)
    assert [(item.name, item.is_passed) for item in replay.tests] == [("golden1", True)]


def test_every_level_gives_the_same_numbers(tmp_path: Path, model: Path) -> None:
    right = expected(model, {"image": IMAGE})[0]
    for level in range(4):
        options = mlf.ModelOptions(level=level, is_checked=False, is_scheduled=level % 2 == 1)
        mlf.export(model, output=tmp_path / f"net{level}.tar", model=options)
        near(mlf.run(tmp_path / f"net{level}.tar", {"image": IMAGE}).outputs["scores:0"], right)


def test_given_inputs_are_those_of_the_check(tmp_path: Path, model: Path) -> None:
    save_arrays(tmp_path / "in.npz", {"image": IMAGE})
    made = mlf.export(model, output=tmp_path / "net.tar", model=mlf.ModelOptions(inputs=(tmp_path / "in.npz",)))
    assert made.check is not None
    assert made.check.inputs == 1
    np.testing.assert_array_equal(made.check.golden_inputs["image"], IMAGE)


def test_inputs_that_do_not_fit_are_refused(tmp_path: Path, model: Path) -> None:
    save_arrays(tmp_path / "in.npz", {"image": IMAGE[:, :2], "other": IMAGE})
    with pytest.raises(TensorError, match=r"^in\.npz: does not fit the inputs of the model: "):
        mlf.export(model, output=tmp_path / "net.tar", model=mlf.ModelOptions(inputs=(tmp_path / "in.npz",)))
    assert [path.name for path in tmp_path.iterdir()] == ["in.npz"]


def test_a_tolerance_that_no_float_meets_fails_and_writes_nothing(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "m"), node("Exp", "m", "y")]
    path = save(tmp_path / "net.onnx", onnx_model(nodes, [value("x", [1, 64])], [value("y", [1, 8])], w=numbers(64, 8)))
    with pytest.raises(DeviationError) as caught:
        mlf.export(path, output=tmp_path / "net.tar", model=mlf.ModelOptions(tolerance=0))
    assert caught.value.exit_status == 1
    assert re.fullmatch(
        r"its C does not compute what onnxruntime \S+ does: `y` deviates by \S+, \S+ is allowed \(\d+ of 64 elements differ\)",
        caught.value.message,
    )
    assert [item.name for item in tmp_path.iterdir()] == ["net.onnx"]
    assert mlf.export(path, output=tmp_path / "net.tar").check is not None


def test_a_wrong_operator_is_found_at_birth(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlf.frontends.choice import compile_model as compile_right  # noqa: PLC0415

    def compile_wrong(*args: Any, **options: Any) -> Any:
        from dataclasses import replace  # noqa: PLC0415

        made = compile_right(*args, **options)
        return replace(made, operators=made.operators.replace("expf(", "exp2f("))

    monkeypatch.setattr("mlf.exporter.compile_model", compile_wrong)
    with pytest.raises(DeviationError):
        mlf.export(model, output=tmp_path / "net.tar")
    assert not list(tmp_path.iterdir())


def test_integers_in_and_out(tmp_path: Path) -> None:
    nodes = [
        node("Cast", "x", "f", to=FLOAT),
        node("Mul", "f k", "m"),
        node("Round", "m", "r"),
        node("Cast", "r", "y", to=INT8),
    ]
    path = save(
        tmp_path / "net.onnx", onnx_model(nodes, [value("x", [7], INT8)], [value("y", [7], INT8)], k=np.float32(0.5))
    )
    assert mlf.export(path, output=tmp_path / "net.tar", model=mlf.ModelOptions(front_end="tvm")).check is not None
    array = np.array([-128, -3, -1, 0, 1, 5, 127], np.int8)
    got = mlf.run(tmp_path / "net.tar", {"x": array}).outputs["y"]
    np.testing.assert_array_equal(got, expected(path, {"x": array})[0])


def test_a_relax_module_is_exported(tmp_path: Path) -> None:
    from tvm import relax  # noqa: PLC0415

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            product = builder.emit(relax.op.matmul(x, relax.const(numbers(3, 4))))
            outputs = builder.emit_output(relax.Tuple([product, builder.emit(relax.op.tanh(product))]))
        builder.emit_func_output(outputs)
    made = mlf.export_relax(builder.get(), output=tmp_path / "net.tar", name="dense")
    assert (made.modules, made.check) == (("dense",), None)
    array = numbers(2, 3, seed=1)
    result = mlf.run(tmp_path / "net.tar", {"x": array}, cflags=STRICT).outputs
    near(result["output_0"], array @ numbers(3, 4))
    near(result["output_1"], np.tanh(array @ numbers(3, 4)))


def test_loops_of_somebody_else_are_not_taken_for_a_limit(tmp_path: Path) -> None:
    from tvm import relax, te  # noqa: PLC0415

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((3,), "float32"))

    def maximum(left: Any, right: Any) -> Any:
        return te.compute(left.shape, lambda place: left[place] + right(), name="maximum")

    with builder.function("main", [x]):
        with builder.dataflow():
            outputs = builder.emit_output(
                builder.emit_te(maximum, x, relax.const(np.float32(4)), primfunc_name_hint="maximum")
            )
        builder.emit_func_output(outputs)
    made = mlf.export_relax(builder.get(), output=tmp_path / "net.tar", name="net")
    assert made.modules == ("net",)
    (result,) = mlf.run(tmp_path / "net.tar", {"x": X3}).outputs.values()
    near(result, X3 + 4)


def test_a_front_end_that_cannot_read_the_format(tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(b"")
    with pytest.raises(UsageError) as caught:
        mlf.export(tmp_path / "net.tflite", output=tmp_path / "net.tar", model=mlf.ModelOptions(front_end="emx"))
    assert caught.value.message == "emx reads .onnx, not .tflite"


def test_what_no_front_end_knows_tells_what_each_said(tmp_path: Path) -> None:
    nodes = [node("NonZero", "x", "y", name="sparse")]
    path = save(tmp_path / "net.onnx", onnx_model(nodes, [value("x", [3])], [value("y", [1, "n"], 7)]))
    with pytest.raises(UnsupportedError) as caught:
        mlf.export(path, output=tmp_path / "net.tar")
    said = "no front end can compile it: tvm says: node `sparse` (`NonZero`): Apache TVM does not know how to compile it ahead of time; emx says: "
    assert caught.value.message.startswith(said)


# Two models in one library.


def test_two_models_in_one_library(tmp_path: Path, model: Path) -> None:
    other = save(tmp_path / "other.onnx", network(size=7))
    for path, options in (
        (model, mlf.ModelOptions(is_checked=False)),
        (other, mlf.ModelOptions(is_checked=False, operators="packed")),
    ):
        mlf.export(path, output=tmp_path / f"{path.stem}.tar", model=options)
    library = tmp_path / "libmodels.a"
    mlf.link({"first": tmp_path / "Key Words.tar", "second": tmp_path / "other.tar"}, output=library)
    document = next(tmp_path.glob("*.json"))
    for name, path in (("first", model), ("second", other)):
        got = mlf.run(document, {"image": IMAGE}, model=name).outputs["scores:0"]
        near(got, expected(path, {"image": IMAGE})[0])


def test_a_model_links_for_a_board_and_runs_there(tmp_path: Path, archive: Path, model: Path) -> None:
    result = mlf.run(archive, {"image": IMAGE}, target="cortex-m4")
    near(result.outputs["scores:0"], expected(model, {"image": IMAGE})[0])
    assert not list(tmp_path.iterdir())


# The same bytes.


@pytest.mark.parametrize("options", [(), ("--api", "packed", "--from", "emx", "--no-check")], ids=["tvm", "emx"])
def test_the_same_model_gives_the_same_bytes_wherever_and_whenever(
    tmp_path: Path, model: Path, options: Sequence[str]
) -> None:
    archives = []
    for seed in ("1", "77"):
        folder = tmp_path / f"folder{seed}"
        folder.mkdir()
        shutil.copy(model, folder / "Key Words.onnx")
        done = command("export", "Key Words.onnx", "-o", "net.tar", *options, cwd=folder, PYTHONHASHSEED=seed)
        assert (done.returncode, done.stderr) == (0, "")
        archives.append((folder / "net.tar").read_bytes())
        assert sorted(path.name for path in folder.iterdir()) == ["Key Words.onnx", "net.tar"]
    assert archives[0] == archives[1]
    assert str(tmp_path).encode() not in archives[0]


def test_the_time_is_that_of_the_environment(tmp_path: Path, model: Path) -> None:
    made = []
    for epoch_s in (0, 1_700_000_000):
        mlf.export(model, output=tmp_path / "net.tar", model=mlf.ModelOptions(is_checked=False), epoch_s=epoch_s)
        made.append((tmp_path / "net.tar").read_bytes())
    assert made[0] != made[1]
    assert mlf.diff(tmp_path / "net.tar", tmp_path / "net.tar").is_same


# Through the command line.


def test_the_command_exports_and_run_replays(tmp_path: Path, model: Path) -> None:
    words = ("--name", "kws", "--api", "packed", "--opt", "0", "--no-schedule", "--check", "--tolerance", "1e-4")
    done = command("export", model, "-o", tmp_path / "net.tar", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "kws" in done.stdout
    assert "onnxruntime" in done.stdout
    replayed = command("run", tmp_path / "net.tar", "--check")
    assert (replayed.returncode, replayed.stderr) == (0, "")


def test_the_document_tells_the_deviation(tmp_path: Path, model: Path) -> None:
    save_arrays(tmp_path / "in.npz", {"image": IMAGE})
    done = command("export", model, "-o", tmp_path / "net.tar", "--json", "--check-inputs", tmp_path / "in.npz")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["check"]["input_count"] == 1
    assert [(item["name"], item["element_count"]) for item in document["check"]["outputs"]] == [("scores:0", 5)]


def test_a_check_is_left_out_on_demand(tmp_path: Path, model: Path) -> None:
    done = command("export", model, "-o", tmp_path / "net.tar", "--no-check", "--json")
    assert (done.returncode, json.loads(done.stdout).get("check")) == (0, None)
    assert b"golden1" not in (tmp_path / "net.tar").read_bytes()


def test_a_deviation_ends_with_status_1_and_writes_nothing(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "m"), node("Exp", "m", "y")]
    path = save(tmp_path / "net.onnx", onnx_model(nodes, [value("x", [1, 64])], [value("y", [1, 8])], w=numbers(64, 8)))
    done = command("export", path, "-o", tmp_path / "net.tar", "--tolerance", "0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: net.onnx: its C does not compute what onnxruntime ")
    assert done.stderr.splitlines()[-1].startswith("hint: --tolerance allows more, --no-check writes it all the same")
    assert [item.name for item in tmp_path.iterdir()] == ["net.onnx"]


def test_a_model_that_cannot_be_compiled_is_one_message(tmp_path: Path) -> None:
    path = save(
        tmp_path / "net.onnx", onnx_model([node("Celu", "x", "y", name="odd")], [value("x", [3])], [value("y", [3])])
    )
    done = command("export", path, "-o", tmp_path / "net.tar", "--from", "tvm")
    words = "Apache TVM cannot import it: The following operators are not supported for frontend ONNX: Celu"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: net.onnx: node `odd` (`Celu`): {words}\n")


def test_auto_takes_the_other_front_end_and_says_why(tmp_path: Path) -> None:
    path = save(
        tmp_path / "net.onnx", onnx_model([node("Celu", "x", "y", name="odd")], [value("x", [3])], [value("y", [3])])
    )
    made = mlf.export(path, output=tmp_path / "net.tar")
    words = "Apache TVM cannot import it: The following operators are not supported for frontend ONNX: Celu"
    assert f"compiled by emx: tvm says: node `odd` (`Celu`): {words}" in [note.text for note in made.notes]
    near(mlf.run(tmp_path / "net.tar", {"x": X3}).outputs["y"], expected(path, {"x": X3})[0])


@pytest.mark.parametrize("options", [{"rounding": "tflite"}, {"level": 0}, {"is_scheduled": False}])
def test_auto_does_not_take_a_front_end_that_would_ignore_an_option(tmp_path: Path, options: dict[str, Any]) -> None:
    path = save(tmp_path / "net.onnx", onnx_model([node("Celu", "x", "y")], [value("x", [3])], [value("y", [3])]))
    with pytest.raises(UsageError, match=r"tvm says: .*Celu.*; emx says: emx knows no --rounding") as refused:
        mlf.export(path, output=tmp_path / "net.tar", model=mlf.ModelOptions(**options))
    assert refused.value.hint == "leave them out, or --from tvm"


def test_a_model_that_cannot_be_read_is_told_once(tmp_path: Path) -> None:
    done = command("export", tmp_path / "gone.onnx", "-o", tmp_path / "net.tar")
    words = "error: gone.onnx: cannot be read: no such file or directory\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", words)


def test_what_the_archive_holds_is_what_the_check_saw(archive: Path, model: Path, tmp_path: Path) -> None:
    import tarfile  # noqa: PLC0415

    with tarfile.open(archive) as file:
        for kind in ("inputs", "outputs"):
            member = file.extractfile(next(name for name in file.getnames() if name.endswith(f"golden1.{kind}.npz")))
            assert member is not None
            (tmp_path / f"{kind}.npz").write_bytes(member.read())
    given, made = (load_arrays(tmp_path / f"{kind}.npz") for kind in ("inputs", "outputs"))
    near(made["scores:0"], expected(model, given)[0])


X3 = np.array([-2, 0.5, 3], np.float32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"front_end": "gcc"}, "--from is `gcc`, expected one of auto, tvm, emx"),
        ({"rounding": "up"}, "--rounding is `up`, expected one of auto, tflite, float"),
        ({"front_end": "emx", "rounding": "tflite"}, "emx knows no --rounding, --opt or --no-schedule"),
        ({"front_end": "emx", "level": 0}, "emx knows no --rounding, --opt or --no-schedule"),
        ({"front_end": "emx", "is_scheduled": False}, "emx knows no --rounding, --opt or --no-schedule"),
    ],
)
def test_options_that_would_be_ignored_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        mlf.export(ROOT / "samples" / "glyph.onnx", output=tmp_path / "m.tar", model=mlf.ModelOptions(**options))
    assert refused.value.message == message
    assert list(tmp_path.iterdir()) == []
