"""The page docs/from-a-model.md is followed from training to the emulated board, and must print what it says."""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from test_readme import comparable

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "from-a-model.md").read_text(encoding="utf-8")
SCRIPT = (ROOT / "samples" / "digits" / "train.py").read_text(encoding="utf-8")
APPLICATION = (ROOT / "samples" / "digits" / "main.c").read_text(encoding="utf-8")
# Of these the page shows what it was written with.
PACKAGES = r"(apache-tvm|emx-onnx-cgen|onnxruntime|torch|LiteRT) \d[\w.+]*"
LEAST_SHARE = 97.0  # per cent of the digits; a last bit changes what training makes of the same seed
LARGEST_LOSS = 1.0  # per cent, by quantisation
# What the page offers, as commands of one model.
CHOICES = (
    ("--name digits", "--from tvm", "--api packed", "--rounding tflite", "--tolerance 1e-4", "--check-inputs picture.npz",
     "--check", "--opt 0", "--no-schedule"),
    ("--rounding float", "--no-check"),
    ("--from emx",),
)  # fmt: skip

ROWS = """
import torch
torch.manual_seed(0)
class Rows(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.dense = torch.nn.GRU(8, 24, batch_first=True), torch.nn.Linear(24, 10)
    def forward(self, image):
        return self.dense(self.gru(image.flatten(0, 1))[0][:, -1])
torch.onnx.export(Rows().eval(), (torch.rand(1, 1, 8, 8),), "rows.onnx",
                  input_names=["image"], output_names=["scores"], dynamo=False)
"""
SCALED = """
import onnx
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
digits = load_digits()
network = make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=20)).fit(digits.data, digits.target)
model = to_onnx(network, initial_types=[("pixels", FloatTensorType([1, 64]))], options={"zipmap": False})
onnx.save(model, "classifier.onnx")
onnx.utils.extract_model("classifier.onnx", "scaled.onnx", ["pixels"], ["probabilities"])
"""


def section(title: str) -> str:
    """Give the text of the page below a heading."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def examples(text: str) -> list[tuple[str, str]]:
    """Give the commands of a section, each with what it prints."""
    return re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", "".join(blocks("console", text)), re.MULTILINE)


def same(text: str, command: str) -> str:
    """Give what must be equal: not versions of packages, shares, last bits, and the numbers that Keras counts."""
    shorter = re.sub(r"\d+\.\d%", "N%", re.sub(PACKAGES, r"\1", text))
    shorter = re.sub(r"checked   \d+:", "checked   N:", shorter)
    return comparable(re.sub(r"within 1e-\d+", "within N", shorter), command)


def started(command: str, folder: Path) -> str:
    program, *arguments = command.split()
    interpreter = {"mlf": [sys.executable, "-m", "mlf"], "python": [sys.executable], "make": ["make"]}
    argv = [*interpreter[program], *arguments]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def follow(text: str, folder: Path) -> None:
    """Run the commands of a section, which must print what it says."""
    found = examples(text)
    assert found
    for command, expected in found:
        assert same(expected, command) == same(started(command, folder), command)


def python(code: str, folder: Path) -> None:
    environment = {**os.environ, "KERAS_HOME": str(folder)}  # where Keras leaves its settings
    argv = [sys.executable, "-W", "ignore", "-c", code]
    subprocess.run(argv, cwd=folder, check=True, capture_output=True, env=environment)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where the page begins, after its training; the processes of one test run share it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "digits"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            shutil.copytree(ROOT / "samples", folder / "samples", ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copytree(ROOT / "mlf" / "runtime" / "board", folder / "mlf" / "runtime" / "board")
            ((command, _),) = examples(section("Train and export"))
            (folder / "printed").write_text(started(command, folder))
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of what training left."""
    return Path(shutil.copytree(trained, tmp_path / "work"))


def test_the_script_prints_what_the_page_says(trained: Path) -> None:
    ((command, expected),) = examples(section("Train and export"))

    assert same((trained / "printed").read_text(), command) == same(expected, command)


def test_integers_read_as_many_digits_as_floats(trained: Path) -> None:
    floats, integers = (float(share) for share in re.findall(r"([\d.]+)%", (trained / "printed").read_text()))

    assert floats >= LEAST_SHARE
    assert integers >= floats - LARGEST_LOSS


def test_the_pages_python_is_that_of_the_script() -> None:
    shown = blocks("python", section("Train and export"))

    assert len(shown) == 2
    assert all(block in SCRIPT for block in shown)


def test_the_pages_application_is_the_sample() -> None:
    (shown,) = blocks("c", section("Call it"))

    assert APPLICATION.endswith(shown)


def test_an_integer_model_goes_from_its_file_to_the_board(folder: Path) -> None:
    follow(section("Compile"), folder)
    follow(section("Link"), folder)
    follow(section("Call it"), folder)

    with tarfile.open(folder / "digits.tar") as archive:
        members = [archive.extractfile(item) for item in archive if item.name.endswith((".c", ".h"))]
        code = "\n".join(file.read().decode() for file in members if file is not None)
    excerpts = blocks("c", section("Compile"))
    assert len(excerpts) == 3
    for excerpt in excerpts:
        assert without_scales(excerpt) in without_scales(code)


def without_scales(text: str) -> str:
    """Scales depend on what training made."""
    return re.sub(r"\d\.\d+f", "N", text)


def test_the_float_models_of_both_files_compute_the_same(folder: Path) -> None:
    for source in ("digits.pt2", "digits.onnx"):
        started(f"mlf export {source} -o {source}.tar", folder)
    picture = np.random.default_rng(0).random((1, 1, 8, 8), np.float32)
    np.savez(folder / "pt2.npz", input=picture)
    np.savez(folder / "onnx.npz", image=picture)
    for kind in ("pt2", "onnx"):
        started(f"mlf run digits.{kind}.tar --inputs {kind}.npz --outputs {kind}.out.npz", folder)

    with np.load(folder / "pt2.out.npz") as ours, np.load(folder / "onnx.out.npz") as theirs:
        np.testing.assert_allclose(ours["linear"], theirs["scores"], rtol=1e-5, atol=1e-5)


def test_a_classifier_of_scikit_learn_is_exported(tmp_path: Path) -> None:
    text = section("From scikit-learn")
    (code,) = blocks("python", text)
    python(code, tmp_path)

    follow(text, tmp_path)


def test_a_network_of_keras_is_exported(tmp_path: Path) -> None:
    text = section("From Keras")
    (code,) = blocks("python", text)
    python(code, tmp_path)

    follow(text, tmp_path)


def test_what_a_compiler_does_not_know_is_told(tmp_path: Path) -> None:
    python(ROWS, tmp_path)
    python(SCALED, tmp_path)

    follow(section("What if an operator is not supported"), tmp_path)


def test_each_choice_is_one_of_export(folder: Path) -> None:
    np.savez(folder / "picture.npz", image=np.zeros((1, 1, 8, 8), np.int8))
    rows = re.findall(r"^\| (`--.*?) \|", section("Choices"), re.MULTILINE)
    choices = [choice for row in rows for choice in re.findall(r"`(.*?)`", row)]

    assert sorted(choices) == sorted(itertools.chain(*CHOICES))
    for some in CHOICES:
        printed = started(f"mlf export digits_int8.onnx {' '.join(some)} -o made.tar", folder)
        assert printed.startswith("made.tar: version 8, module digits"), printed


def test_relax_comes_in_through_python(folder: Path) -> None:
    (code,) = blocks("python", section("What is supported"))
    python(code, folder)

    assert "module digits" in started("mlf inspect relax.tar", folder)


def test_the_page_says_what_the_extras_are() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = {*re.findall(r"^\| `([\w-]+)` \|", section("What you need"), re.MULTILINE), "tvm-0-26", "tvm-0-25"}

    assert extras == {"tvm", "emx", "check", "zig", "tvm-0-26", "tvm-0-25"}
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras)
