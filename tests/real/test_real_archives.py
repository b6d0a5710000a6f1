"""Archives that a real compiler wrote, linked by the command line and judged by an independent numpy reference."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sequence import run_sequence

from mlf.api import inspect
from mlf.arrays import load_arrays
from mlf.runner import open_library

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from mlf.metadata import Tensor

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
    ("conv-graph", "twin-usmp"),
    ("conv-packed", "conv-graph"),
    ("named-unpacked-packed", "named-graph"),
    ("dense-packed-pool", "dense-unpacked-packed-pool"),
    ("dense-graph-linked", "tvm08-dense-graph-linked"),
    ("residual-io-pools", "dense-io"),
    ("keyword-packed", "keyword-usmp"),
    ("offload-own-graph", "offload-own-packed"),
    ("same-names-packed", "same-names-unpacked-packed"),
    ("types-graph", "types-graph-params"),
    ("upper-pool-foo", "upper-usmp-foo"),
    ("operator-add-add", "tvm08-operator-add-add"),
    ("operator-several-multiply", "tvm09-operator-several-multiply"),
)

# Traits of cases that no library can be right with, and the one case whose archive does not tell how large its output is.
WRONG_TRAITS = frozenset({"constants-lost", "overlapping-outputs", "wrong-call"})
UNTOLD = "tvm09-dense-llvm-host"
# A trait that asks for what the compiler of a target does not have: 16-bit floats.
LACKING = {"rv32imac": "half"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A module of a real archive with its inputs and expected outputs; `machine` is that of its objects.

    Arrays of an operator bear the numbers of its parameters.
    """

    name: str
    module: str
    archive: Path
    machine: str | None
    traits: frozenset[str]
    is_operator: bool
    inputs: Mapping[str, npt.NDArray[Any]]
    outputs: Mapping[str, npt.NDArray[Any]]
    tolerances: Mapping[str, float]

    @property
    def model(self) -> str:
        return f"{self.name}_{self.module}".replace("-", "_").lower().removesuffix("_default")

    def fits(self, target: str) -> bool:
        return self.machine in (None, target) and LACKING.get(target) not in self.traits

    def named(self, document: Path) -> Case:
        """Give the case with the tensor names of a library."""
        if not self.is_operator:
            return self
        interface = open_library(document, self.model).interface
        inputs, outputs = _by_place(interface.inputs, self.inputs), _by_place(interface.outputs, self.outputs)
        return replace(self, inputs=inputs, outputs=outputs)

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
def listed(real_archives: Path) -> list[dict[str, Any]]:
    """What the script that made the archives says of them."""
    return list(json.loads((real_archives / "cases.json").read_text())["cases"])


@pytest.fixture(scope="session")
def cases(real_archives: Path, listed: list[dict[str, Any]]) -> dict[str, Case]:
    found: list[Case] = []
    for item in listed:
        if item["case"] == UNTOLD or not WRONG_TRAITS.isdisjoint(item["traits"]):
            continue
        for module in parts_of(item):
            inputs, outputs = (load_arrays(real_archives / item[kind]) for kind in ("inputs", "outputs"))
            prefix = f"{module}/" if len(item["modules"]) != 1 else ""
            found.append(
                Case(
                    name=item["case"],
                    module=module,
                    archive=real_archives / item["archive"],
                    machine=item["machine"],
                    traits=frozenset(item["traits"]),
                    is_operator=item["kind"] == "operator",
                    inputs=_below(prefix, inputs),
                    outputs=_below(prefix, outputs),
                    tolerances={"rtol": 0, "atol": 0}
                    if item["exact"]
                    else {"rtol": item["rtol"], "atol": item["atol"]},
                )
            )
    return {case.model: case for case in found}


def _by_place(tensors: Sequence[Tensor], arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {tensor.name: arrays[key] for tensor, key in zip(tensors, sorted(arrays), strict=True)}


def parts_of(item: Mapping[str, Any]) -> list[str]:
    """The modules of an archive, or the functions of one that holds operators."""
    return list(item["functions"] if item["kind"] == "operator" else item["parts"])


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


@pytest.mark.parametrize(("target", "least"), [("host", 123), ("cortex-m4", 124), ("rv32imac", 122)])
def test_every_archive_gives_numpys_numbers_from_one_library(
    cases: dict[str, Case], tmp_path: Path, target: str, least: int
) -> None:
    chosen = [case for case in cases.values() if case.fits(target)]
    document = link(chosen, tmp_path, target)
    named = [case.named(document) for case in chosen]
    order = [*named, *reversed(named), *named[::2], *named[1::2]]

    results = run_sequence(document, [(case.model, case.inputs) for case in order])

    assert len(chosen) >= least
    for case, result in zip(order, results, strict=True):
        case.check(result)


@pytest.mark.parametrize("target", ["host", "cortex-m4"])
@pytest.mark.parametrize("names", PAIRS, ids="+".join)
def test_two_models_called_default_do_not_disturb_each_other(
    cases: dict[str, Case], tmp_path: Path, names: tuple[str, str], target: str
) -> None:
    first, second = (cases[name.replace("-", "_")] for name in names)
    document = link([first, second], tmp_path, target)
    first, second = first.named(document), second.named(document)
    order = [first, second, first, second, second, first]

    results = run_sequence(document, [(case.model, case.inputs) for case in order])

    for case, result in zip(order, results, strict=True):
        case.check(result)


RUN = (
    "conv_pools", "named_alloc", "int8_net_usmp", "two_modules_second", "dense_graph_params", "dense_io_pools", "keyword_usmp",
    "lstm_graph_params", "offload_own_packed", "same_names_packed", "types_graph", "upper_pool_foo",
)  # fmt: skip


@pytest.mark.parametrize("target", ["host", "cortex-m4"])
@pytest.mark.parametrize("name", RUN)
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


def test_memory_styles_are_what_the_compiler_was_told(real_archives: Path, listed: list[dict[str, Any]]) -> None:
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
    for item in listed:
        modules = {module.name: module for module in inspect(real_archives / item["archive"]).modules}
        for name, part in item["parts"].items():
            if (part["executor"], part["interface"]) != ("aot", "c"):
                continue
            styles, findings = modules[name].memory_styles, modules[name].findings
            if not set(styles) <= set(expected[part["style"]]) or findings:
                wrong[item["case"]] = (styles, findings)

    assert wrong == {}


def refusal(archive: Path, folder: Path, target: str = "host") -> str:
    """Give the message of a link that fails and writes nothing."""
    done = mlf("link", f"a={archive}", "-o", folder / "libmodels.a", "--target", target, status=1)
    assert (done.stdout, list(folder.iterdir())) == ("", [])
    return done.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("overlap-io", "puts the outputs `p` and `q` into the same memory"),
        (UNTOLD, "has outputs of unknown size: output0"),
    ],
)
def test_a_model_that_no_library_can_be_right_with_is_refused(
    real_archives: Path, tmp_path: Path, name: str, message: str
) -> None:
    assert refusal(real_archives / f"{name}.tar", tmp_path) == f"error: {name}.tar: module `default` {message}\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        # The compiler's own call does not fit the function that it calls.
        ("offload-own-usmp", "the model crashed (SIGSEGV)"),
        # Main wants its lost constants as an argument, and returns when they are not there.
        ("dense-llvm-usmp", "the model reported failure"),
    ],
)
def test_a_fault_of_the_compiler_that_only_its_code_has_gives_no_numbers(
    real_archives: Path, tmp_path: Path, name: str, message: str
) -> None:
    inputs, outputs = real_archives / f"{name}.inputs.npz", tmp_path / "out.npz"

    done = mlf("run", f"a={real_archives / name}.tar", "--inputs", inputs, "--outputs", outputs, status=2)

    assert (done.stdout, done.stderr) == ("", f"error: a: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_every_case_is_linked_or_known_not_to_be(cases: dict[str, Case], listed: list[dict[str, Any]]) -> None:
    known = {(case.name, case.module) for case in cases.values()}
    left_out = {item["case"] for item in listed for module in parts_of(item) if (item["case"], module) not in known}

    assert left_out == {"dense-llvm-usmp", "offload-own-usmp", "overlap-io", UNTOLD}
    for target in TARGETS:
        lacking = [case.name for case in cases.values() if case.machine is None and not case.fits(target)]
        assert lacking == (["types-graph", "types-graph-params"] if target in LACKING else [])


@pytest.mark.parametrize("name", ["types-graph", "types-graph-params"])
def test_a_compiler_without_a_type_says_so(real_archives: Path, tmp_path: Path, name: str) -> None:
    head, *words = refusal(real_archives / f"{name}.tar", tmp_path, "rv32imac").splitlines()

    assert head == f"error: a ({name}.tar): default_lib1.c: riscv64-unknown-elf-gcc cannot compile it:"
    errors = {line.rpartition("error: ")[2] for line in words if "error: " in line}
    assert errors == {"'_Float16' is not supported on this target"}


@pytest.mark.parametrize(
    ("made_for", "target", "message"),
    [
        ("host", "cortex-m4", "64-bit little-endian x86-64, the target is 32-bit little-endian ARM"),
        ("host", "rv32imac", "64-bit little-endian x86-64, the target is 32-bit little-endian RISC-V"),
        ("cortex-m4", "host", "32-bit little-endian ARM, the target is 64-bit little-endian x86-64"),
        ("rv32imac", "cortex-m4", "32-bit little-endian RISC-V, the target is 32-bit little-endian ARM"),
    ],
)
@pytest.mark.parametrize("style", ["llvm", "llvm-graph"])
def test_objects_for_another_machine_are_refused(
    real_archives: Path, tmp_path: Path, style: str, made_for: str, target: str, message: str
) -> None:
    name = f"dense-{style}-{made_for}"

    assert refusal(real_archives / f"{name}.tar", tmp_path, target) == (
        f"error: a ({name}.tar): default_lib0.o: is for {message}\n"
    )
