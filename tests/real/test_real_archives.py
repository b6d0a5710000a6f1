"""Archives that a real compiler wrote, linked by the command line and judged by an independent numpy reference."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sequence import run_sequence

from mlf.arrays import load_arrays

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

TARGETS = ("host", "cortex-m4", "rv32imac")
# Two models of one name each; in every pair a style meets another. `conv` and `twin` have operators of the same names.
PAIRS = (
    ("conv-alloc", "twin-alloc"),
    ("conv-usmp", "twin-usmp"),
    ("conv-pools", "twin-pool"),
    ("conv-usmp", "twin-alloc"),
    ("int8-usmp", "dense-alloc"),
    ("int8-net-cpool", "lstm-pool"),
    ("named-alloc", "math-usmp"),
    ("residual-pools", "mobile-usmp"),
    ("tvm08-conv-alloc", "twin-usmp"),
    ("tvm09-conv-pools", "tvm08-twin-alloc"),
    ("tvm08-dense-alloc-systemlib", "clash-systemlib"),
    ("offload-c-usmp", "offload-c-alloc"),
)

# Traits of cases that no library can serve, or none can yet.
NOT_LINKED = frozenset({"keywords", "overlapping-outputs", "workspace-io", "wrong-call"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A module of a real archive with its inputs and expected outputs."""

    name: str
    module: str
    archive: Path
    inputs: Mapping[str, npt.NDArray[Any]]
    outputs: Mapping[str, npt.NDArray[Any]]
    tolerances: Mapping[str, float]

    @property
    def model(self) -> str:
        return f"{self.name}_{self.module}".replace("-", "_").lower().removesuffix("_default")

    def check(self, results: Mapping[str, npt.NDArray[Any]]) -> None:
        assert set(self.outputs) == set(results)
        for name, expected in self.outputs.items():
            assert expected.dtype == results[name].dtype
            np.testing.assert_allclose(
                results[name].ravel(),
                expected.ravel(),
                err_msg=f"{self.name} {name}",
                rtol=self.tolerances["rtol"],
                atol=self.tolerances["atol"],
            )


@pytest.fixture(scope="session")
def cases(real_archives: Path) -> dict[str, Case]:
    listed = json.loads((real_archives / "cases.json").read_text())["cases"]
    found: list[Case] = []
    for item in listed:
        if not NOT_LINKED.isdisjoint(item["traits"]):
            continue
        for module, part in item["parts"].items():
            if (part["executor"], part["interface"]) != ("aot", "c"):
                continue
            inputs, outputs = (load_arrays(real_archives / item[kind]) for kind in ("inputs", "outputs"))
            prefix = f"{module}/" if len(item["modules"]) > 1 else ""
            found.append(
                Case(
                    name=item["case"],
                    module=module,
                    archive=real_archives / item["archive"],
                    inputs=_below(prefix, inputs),
                    outputs=_below(prefix, outputs),
                    tolerances={"rtol": 0, "atol": 0}
                    if item["exact"]
                    else {"rtol": item["rtol"], "atol": item["atol"]},
                )
            )
    return {case.model: case for case in found}


def _below(prefix: str, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def mlf(*arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "mlf", *map(str, arguments)], capture_output=True, text=True, check=False, env={**os.environ}
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done


def link(chosen: Sequence[Case], folder: Path, target: str) -> Path:
    named = [f"{case.model}={case.archive}:{case.module}" for case in chosen]
    mlf("link", *named, "-o", folder / "libmodels.a", "--target", target)
    return folder / "libmodels.json"


@pytest.mark.parametrize("target", TARGETS)
def test_every_archive_gives_numpys_numbers_from_one_library(
    cases: dict[str, Case], tmp_path: Path, target: str
) -> None:
    chosen = list(cases.values())
    document = link(chosen, tmp_path, target)

    results = run_sequence(document, [(case.model, case.inputs) for case in chosen])

    assert len(chosen) >= 30
    for case, result in zip(chosen, results, strict=True):
        case.check(result)


@pytest.mark.parametrize("target", ["host", "cortex-m4"])
@pytest.mark.parametrize("names", PAIRS, ids="+".join)
def test_two_models_called_default_do_not_disturb_each_other(
    cases: dict[str, Case], tmp_path: Path, names: tuple[str, str], target: str
) -> None:
    first, second = (cases[name.replace("-", "_")] for name in names)
    document = link([first, second], tmp_path, target)
    order = [first, second, first, second, second, first]

    results = run_sequence(document, [(case.model, case.inputs) for case in order])

    for case, result in zip(order, results, strict=True):
        case.check(result)


@pytest.mark.parametrize("target", ["host", "cortex-m4"])
@pytest.mark.parametrize("name", ["conv_pools", "named_alloc", "int8_net_usmp", "two_modules_second"])
def test_run_gives_numpys_numbers_by_tensor_name(
    cases: dict[str, Case], tmp_path: Path, name: str, target: str
) -> None:
    case = cases[name]
    np.savez(tmp_path / "in.npz", **case.inputs)  # type: ignore[arg-type]

    mlf(
        "run",
        f"{case.archive}:{case.module}",
        "--inputs",
        tmp_path / "in.npz",
        "--outputs",
        tmp_path / "out.npz",
        "--target",
        target,
    )

    case.check(load_arrays(tmp_path / "out.npz"))


def test_memory_styles_are_what_the_compiler_was_told(real_archives: Path) -> None:
    expected = {
        "alloc": ["allocator"],
        "usmp": ["internal"],
        "pool": ["external"],
        "pools": ["external"],
        "cpool": ["internal"],
        "io": ["external"],
        "io-pools": ["external"],
        "systemlib": ["internal"],
        "alloc-systemlib": ["allocator"],
    }
    wrong = {}
    for item in json.loads((real_archives / "cases.json").read_text())["cases"]:
        document = json.loads(mlf("inspect", real_archives / item["archive"], "--json").stdout)
        modules = {module["name"]: module for module in document["modules"]}
        for name, part in item["parts"].items():
            if (part["executor"], part["interface"]) != ("aot", "c"):
                continue
            styles, findings = modules[name]["memory_styles"], modules[name]["findings"]
            if not set(styles) <= set(expected[part["style"]]) or findings:
                wrong[item["case"]] = (styles, findings)

    assert wrong == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dense-packed", "has the packed interface"),
        ("dense-graph", "is for the graph executor"),
    ],
)
def test_styles_that_cannot_be_linked_are_refused(real_archives: Path, tmp_path: Path, name: str, message: str) -> None:
    done = mlf("link", f"a={real_archives / name}.tar", "-o", tmp_path / "libmodels.a", status=1)

    assert done.stderr == (
        f"error: {name}.tar: module `default` {message}; ahead-of-time modules with the C interface can be linked\n"
    )
    assert list(tmp_path.iterdir()) == []
