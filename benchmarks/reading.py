"""What it costs to read archives: `mlf` against the program that does the least that could be done.

`python benchmarks/reading.py [--megabytes N]` makes archives in a temporary folder, runs each command and its rival in
turn, and prints the best time of each with their ratio. The exit status is 1 if a ratio that mlf promises is missed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlf.archive import open_archive
from mlf.pack import member_of_bytes, write_archive
from mlf.params import Param, render_params

if TYPE_CHECKING:
    from collections.abc import Sequence

    Command = Sequence[str | Path]

MLF = (sys.executable, "-m", "mlf")
TONE = Path(__file__).parent.parent / "samples" / "tone.tar"
SOURCE = "codegen/host/src/default_lib1.c"
MEGABYTE = 1_000_000
SMALL_MEGABYTES = 1
SMALL_ARCHIVES = 100
SHORT_ROUNDS = 25  # of commands that take a tenth of a second
LONG_ROUNDS = 7
# What mlf promises: these are the most that it may take, in times of its rival.
START_RATIO = 1.8
INSPECT_RATIO = 1.2
VALIDATE_RATIO = 1 / 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Two commands that were timed in turn; `promised` is the largest ratio that mlf promises, if it promises one."""

    what: str
    seconds: float
    rival: str
    rival_seconds: float
    promised: float | None = None

    @property
    def ratio(self) -> float:
        return self.seconds / self.rival_seconds

    @property
    def is_kept(self) -> bool:
        return self.promised is None or self.ratio <= self.promised

    def __str__(self) -> str:
        promise = (
            "" if self.promised is None else f"  {'kept' if self.is_kept else 'MISSED'}: at most {self.promised:.2f}"
        )
        return (
            f"{self.what:<44} {self.seconds * 1000:8.1f} ms   {self.rival:<34} {self.rival_seconds * 1000:8.1f} ms"
            f"   x{self.ratio:.2f}{promise}"
        )


def seconds_of(command: Command) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def race(rounds: int, *commands: Command) -> list[float]:
    """Run all commands in every round, so that whatever else the machine does slows all of them; the best time of each."""
    times = [[seconds_of(command) for command in commands] for _ in range(rounds)]
    return [min(column) for column in zip(*times, strict=True)]


def compare(
    what: str, command: Command, rival: str, other: Command, *, rounds: int, promised: float | None = None
) -> Row:
    seconds, rival_seconds = race(rounds, command, other)
    return Row(what=what, seconds=seconds, rival=rival, rival_seconds=rival_seconds, promised=promised)


def tone() -> dict[str, bytes]:
    with open_archive(TONE) as archive:
        return {member.name: archive.read(member.name) for member in archive.members}


def with_parameters(size_bytes: int) -> dict[str, bytes]:
    weights = np.random.default_rng(1).integers(0, 256, size_bytes, np.uint8).view(np.float32)
    return tone() | {"parameters/default.params": render_params([Param(name="p0", dtype="float32", array=weights)])}


def with_object(size_bytes: int) -> dict[str, bytes]:
    """Add an object of weights as a compiler makes it."""
    text = f".section .rodata\n.globl weights\nweights: .fill {size_bytes}, 1, 85\n.section .note.GNU-stack\n"
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "weights.o"
        subprocess.run(["cc", "-c", "-x", "assembler", "-", "-o", path], input=text.encode(), check=True)  # of the PATH
        return tone() | {"codegen/host/lib/default_lib2.o": path.read_bytes()}


def with_source(size_bytes: int) -> dict[str, bytes]:
    """Put weights as text where TVM prints them, before the first function."""
    line = b"  " + b", ".join(b"0x1.0p%+d" % exponent for exponent in range(-5, 5)) + b", \n"
    count = size_bytes // len(line)
    weights = b"static const float weights[%d] = {\n" % (count * 10) + line * count + b"};\n"
    files = tone()
    head, mark, rest = files[SOURCE].partition(b"#ifdef __cplusplus")
    return files | {SOURCE: head + weights + mark + rest}


FORMS = {"parameters": with_parameters, "object": with_object, "source": with_source}


def written(path: Path, files: dict[str, bytes]) -> Path:
    write_archive(path, [member_of_bytes(name, content) for name, content in files.items()], version=7)
    return path


def converted(path: Path) -> Path:
    output = path.with_name(f"8-{path.name}")
    subprocess.run([*MLF, "convert", path, "-o", output], check=True, stdout=subprocess.DEVNULL)
    return output


def start_up() -> Row:
    rival = (sys.executable, "-c", "import click")
    return compare(
        "mlf --version",
        (*MLF, "--version"),
        "python -c 'import click'",
        rival,
        rounds=SHORT_ROUNDS,
        promised=START_RATIO,
    )


def inspect_large(form: str, megabytes: int, large: Path, small: Path) -> Row:
    version = 8 if large.name.startswith("8-") else 7
    return compare(
        f"mlf inspect, version {version}, {megabytes} MB of {form}", (*MLF, "inspect", large),
        f"the same of {SMALL_MEGABYTES} MB", (*MLF, "inspect", small), rounds=SHORT_ROUNDS, promised=INSPECT_RATIO,
    )  # fmt: skip


def validate_large(megabytes: int, large: Path, small: Path) -> list[Row]:
    validate, digest, start = race(
        LONG_ROUNDS, (*MLF, "validate", large), ("sha256sum", large), (*MLF, "validate", small)
    )
    what = f"mlf validate, version 8, {megabytes} MB"
    return [
        Row(what=what, seconds=validate, rival="sha256sum", rival_seconds=digest, promised=VALIDATE_RATIO),
        Row(what=f"{what}, less that of {SMALL_MEGABYTES} MB", seconds=validate - start, rival="sha256sum", rival_seconds=digest),
    ]  # fmt: skip


def validate_many(folder: Path) -> Row:
    copies = [folder / f"{number}.tar" for number in range(SMALL_ARCHIVES)]
    for copy in copies:
        shutil.copy(TONE, copy)
    return compare(
        f"mlf validate -j 2, {SMALL_ARCHIVES} archives", (*MLF, "validate", "-j", "2", *copies),
        "the same with -j 1", (*MLF, "validate", "-j", "1", *copies), rounds=LONG_ROUNDS,
    )  # fmt: skip


def convert_large(megabytes: int, large: Path) -> list[Row]:
    """Time a conversion against a copy, also against one that waits for the disk, as mlf does."""
    output, copy = large.with_name("converted.tar"), large.with_name("copy.tar")
    ours, plain, synced = race(
        LONG_ROUNDS, (*MLF, "convert", large, "-o", output), ("cp", "--reflink=never", large, copy),
        ("dd", f"if={large}", f"of={copy}", "bs=1M", "conv=fsync", "status=none"),
    )  # fmt: skip
    what = f"mlf convert, 7 to 8, {megabytes} MB"
    return [
        Row(what=what, seconds=ours, rival="cp", rival_seconds=plain),
        Row(what=what, seconds=ours, rival="dd conv=fsync", rival_seconds=synced),
    ]


def measured(folder: Path, megabytes: int) -> list[Row]:
    rows = [start_up()]
    for form, make in FORMS.items():
        large = written(folder / f"{form}.tar", make(megabytes * MEGABYTE))
        small = written(folder / f"{form}-small.tar", make(SMALL_MEGABYTES * MEGABYTE))
        rows.append(inspect_large(form, megabytes, large, small))
        new_large, new_small = converted(large), converted(small)
        rows.append(inspect_large(form, megabytes, new_large, new_small))
        if form == "parameters":
            rows += [*validate_large(megabytes, new_large, new_small), *convert_large(megabytes, large)]
        for path in (large, small, new_large, new_small):
            path.unlink()
    return [*rows, validate_many(folder)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--megabytes", type=int, default=200, help="size of the large archives")
    megabytes = parser.parse_args().megabytes
    with tempfile.TemporaryDirectory(prefix="mlf-benchmark-") as folder:
        rows = measured(Path(folder), megabytes)
    print(f"{os.cpu_count()} processors; best of {SHORT_ROUNDS} or {LONG_ROUNDS}")
    for row in rows:
        print(row)
    sys.exit(not all(row.is_kept for row in rows))


if __name__ == "__main__":
    main()
