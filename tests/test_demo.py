"""The demo, and the sample firmware built by its own Makefile around a library that `mlf link` made."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlf.arrays import load_arrays, save_arrays

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "samples"
ANSWERS = re.compile(
    r"tone: class \d \(0\.\d{3}\), largest deviation \d\.\de-\d\d\n"
    r"glyph: class \d \(0\.\d{3}\), largest deviation \d\.\de-\d\d\n"
    r"tone: class \d \(0\.\d{3}\), largest deviation \d\.\de-\d\d\n"
)


def run(*arguments: str | Path, cwd: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(list(map(str, arguments)), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.mark.parametrize("compiler", ["gnu", "zig"])
@pytest.mark.parametrize("target", ["host", "cortex-m4", "rv32imac"])
def test_the_demo_links_runs_compares_and_says_where_every_file_lies(
    tmp_path: Path, target: str, compiler: str
) -> None:
    choice = ["--cc", f"{sys.executable} -m ziglang cc"] if compiler == "zig" else []

    done = run(sys.executable, "-m", "mlf", "demo", "some where", "--target", target, *choice, cwd=tmp_path)

    assert ANSWERS.search(done.stdout.replace("\n  ", "\n"))
    assert "all answers agree with the golden numbers\n" in done.stdout
    named = re.findall(r"^(?:archive|library|header|sources|firmware) +(.*)$", done.stdout, re.MULTILINE)
    program = "firmware" if target == "host" else "firmware.elf"
    headers = (
        "dlpack/dlpack.h",
        "mlf/model.h",
        "mlf/models.h",
        "tvm/runtime/c_runtime_api.h",
        "tvmgen_glyph.h",
        "tvmgen_tone.h",
    )
    assert sorted(named) == sorted([
        "some where/firmware", *(f"some where/samples/{name}.tar" for name in ("glyph", "tone")),
        *(f"some where/build/{target}/{name}" for name in ("libmodels.a", program, *(f"include/{name}" for name in headers))),
    ])  # fmt: skip
    assert [path for path in named if not (tmp_path / path).exists()] == []


def test_the_demo_fails_if_an_answer_differs(tmp_path: Path) -> None:
    folder = tmp_path / "site" / "mlf"
    shutil.copytree(ROOT / "mlf", folder)
    shutil.copytree(SAMPLES, folder / "samples")
    golden = load_arrays(SAMPLES / "tone.outputs.npz")
    save_arrays(folder / "samples" / "tone.outputs.npz", {"output": golden["output"] + np.float32(0.01)})

    done = subprocess.run(
        [sys.executable, "-m", "mlf", "demo"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )  # fmt: skip

    assert done.returncode == 2
    assert done.stderr.startswith("error: mlf-demo/build/host/firmware: the firmware ended with status 1:\n")
    assert "too large" in done.stderr


@pytest.mark.parametrize(("target", "goal"), [("host", "run"), ("cortex-m4", "run-cortex-m4")])
def test_the_firmwares_makefile_builds_and_runs_it_around_a_library_of_mlf_link(
    tmp_path: Path, target: str, goal: str
) -> None:
    run(sys.executable, "-m", "mlf", "demo", "demo", "--target", target, cwd=tmp_path)  # for golden.h
    named = [f"{name}={SAMPLES / name}.tar" for name in ("tone", "glyph")]
    run(sys.executable, "-m", "mlf", "link", *named, "--target", target, "-o", "lib/libmodels.a", cwd=tmp_path)

    done = run("make", "-C", "demo/firmware", goal, "LIBRARY_DIR=../../lib", "BUILD=../../made", cwd=tmp_path)

    assert ANSWERS.search(done.stdout)
