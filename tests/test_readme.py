"""The examples of README.md and docs/ are run and must print what they say, numbers that depend on the compiler apart."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINKING = (ROOT / "docs" / "linking.md").read_text(encoding="utf-8")
# Each block is a session of its own.
EXAMPLES = [
    re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    for block in re.findall(r"```console\n(.*?)```", README + LINKING, re.DOTALL)
]


def comparable(text: str, command: str) -> str:
    """Sizes depend on the compiler's release, and the last digits of results on the processor."""
    shorter = re.sub(r"(\d\.\d{3})\d+", r"\1", text)
    shorter = re.sub(r"sha256:[0-9a-f.]+", "sha256:", shorter)
    shorter = re.sub(r"(onnxruntime|apache-tvm) \d+(?:\.\w+)+", r"\1 N", shorter)
    if command.split()[1] not in ("link", "size"):
        return re.sub(r"0x[0-9a-f]+", "N", shorter)
    plain = re.sub(r" *#+$|gcc [0-9. ]+", "", shorter, flags=re.MULTILINE)
    return re.sub(r" +", " ", re.sub(r"mlf_arena_[0-9a-f]{8}|-?\d+", "N", plain))


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("session", EXAMPLES, ids=lambda session: session[0][0])
def test_an_example_prints_what_the_page_says(tmp_path: Path, session: list[tuple[str, str]]) -> None:
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    for command, expected in session:
        program, *arguments = command.split()
        assert program == "mlf"

        done = subprocess.run(
            [sys.executable, "-m", "mlf", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )  # fmt: skip

        assert comparable(expected, command) == comparable(done.stdout + done.stderr, command)


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

    assert done.stdout == "[('vibration', 'int8', 24), ('current', 'int8', 8)]\n2936\n"


def test_the_readmes_description_is_that_of_the_sample() -> None:
    shown = re.search(r"```toml\n(.*?)```", README, re.DOTALL)
    text = (ROOT / "samples" / "described" / "description.toml").read_text()

    assert shown is not None
    assert text.endswith(shown[1])


def test_the_c_of_the_page_on_linking_compiles_against_a_library(tmp_path: Path) -> None:
    code = re.search(r"```c\n(.*?)```", LINKING, re.DOTALL)
    assert code is not None
    (tmp_path / "main.c").write_text(code[1] + 'int main(void) { return run_by_name("none", NULL, NULL) != -1; }\n')
    subprocess.run(
        [sys.executable, "-m", "mlf", "link", f"tone={ROOT / 'samples/tone.tar'}", "-o", "build/libmodels.a"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip

    argv = ["gcc", "-Wall", "-Wextra", "-Werror", "-Ibuild/include", "main.c", "build/libmodels.a", "-lm", "-o", "app"]
    subprocess.run(argv, cwd=tmp_path, check=True)

    assert subprocess.run([tmp_path / "app"], check=False).returncode == 0
