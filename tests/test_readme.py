"""The examples of README.md are run and must print what it says, numbers that depend on the compiler apart."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = [
    (command, expected)
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
]


def comparable(text: str) -> str:
    """Sizes depend on the compiler's release, and the last digits of results on the processor."""
    shorter = re.sub(r"(\d\.\d{3})\d+", r"\1", text)
    shorter = re.sub(r"sha256:[0-9a-f.]+", "sha256:", shorter)
    return re.sub(r"^((?:glyph|tone|total) +)\d+( +\d+)", r"\1N\2", shorter, flags=re.MULTILINE)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize(("command", "expected"), EXAMPLES)
def test_an_example_prints_what_the_readme_says(tmp_path: Path, command: str, expected: str) -> None:
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    program, *arguments = command.split()
    assert program == "mlf"

    done = subprocess.run(
        [sys.executable, "-m", "mlf", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )  # fmt: skip

    assert comparable(expected) == comparable(done.stdout + done.stderr)


def test_the_readmes_c_compiles_against_the_library_of_its_first_example(tmp_path: Path) -> None:
    code = re.search(r"```c\n(.*?)```", README, re.DOTALL)
    assert code is not None
    (tmp_path / "main.c").write_text(code[1] + "int main(void) { return classify(); }\n")
    subprocess.run(
        [sys.executable, "-m", "mlf", "link", f"tone={ROOT / 'samples/tone.tar'}", "-o", "build/libmodels.a"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip

    argv = ["gcc", "-Wall", "-Wextra", "-Werror", "-Ibuild/include", "main.c", "build/libmodels.a", "-lm", "-o", "app"]
    built = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert built.stderr == ""
    assert subprocess.run([tmp_path / "app"], check=False).returncode == 0


def test_the_readmes_python_runs(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    shutil.copytree(ROOT / "samples", tmp_path / "samples")

    done = subprocess.run([sys.executable, "-c", code[1]], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert done.stdout == "[('vibration', 'int8', 24), ('current', 'int8', 8)]\n2200\n"


def test_the_readmes_description_is_that_of_the_sample() -> None:
    shown = re.search(r"```toml\n(.*?)```", README, re.DOTALL)
    text = (ROOT / "samples" / "described" / "description.toml").read_text()

    assert shown is not None
    assert text.endswith(shown[1])
