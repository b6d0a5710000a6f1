"""The functions of operator-style archives, linked as models."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sequence import run_sequence

import mlf
from mlf.arrays import load_arrays
from mlf.errors import LinkError
from mlf.runner import open_library

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("target", ["host", "cortex-m4", "rv32imac"])
def test_every_function_of_every_archive_gives_numpys_numbers(real_archives: Path, tmp_path: Path, target: str) -> None:
    requests, steps = [], []
    for case in json.loads((real_archives / "cases.json").read_text())["cases"]:
        if case["kind"] != "operator" or case["machine"] not in (None, target):
            continue
        inputs, outputs = (load_arrays(real_archives / case[kind]) for kind in ("inputs", "outputs"))
        for function in sorted({name.split("/")[0] for name in inputs}):
            name = f"{case['case']}_{function}".replace("-", "_")
            requests.append(f"{name}={real_archives / case['archive']}:{function}")
            given = [array for key, array in sorted(inputs.items()) if key.startswith(f"{function}/")]
            expected = [array for key, array in sorted(outputs.items()) if key.startswith(f"{function}/")]
            steps.append((name, given, expected))

    mlf.link(requests, output=tmp_path / "libmodels.a", target=target)

    document = tmp_path / "libmodels.json"
    named = []
    for name, given, _ in steps:
        tensors = open_library(document, name).interface.inputs
        named.append((name, {tensor.name: array for tensor, array in zip(tensors, given, strict=True)}))
    assert len(steps) >= 10
    for (name, _, expected), result in zip(steps, run_sequence(document, named), strict=True):
        for array, wanted in zip(result.values(), expected, strict=True):
            np.testing.assert_allclose(array.ravel(), wanted.ravel(), rtol=1e-4, atol=1e-5, err_msg=name)


def test_an_archive_of_one_function_is_a_model(real_archives: Path, tmp_path: Path) -> None:
    library = mlf.link({"plus": real_archives / "operator-add.tar"}, output=tmp_path / "libmodels.a")

    (model,) = library.document["models"]
    assert [tensor["name"] for tensor in model["inputs"]] == ["a", "b"]
    assert [tensor["name"] for tensor in model["outputs"]] == ["total"]


def test_functions_are_chosen_by_name(real_archives: Path, tmp_path: Path) -> None:
    path = real_archives / "operator-several.tar"

    with pytest.raises(LinkError) as failure:
        mlf.link({"a": path}, output=tmp_path / "libmodels.a")

    assert failure.value.message == ("has 2 modules (`multiply`, `subtract_and_sum`), which cannot all be called `a`")
    assert list(tmp_path.iterdir()) == []
