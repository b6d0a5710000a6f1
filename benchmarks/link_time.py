"""How long `mlf link` takes against the compiler alone on the same C.

`python benchmarks/link_time.py ARCHIVE...` links the first two, then all of the archives, and prints for each the wall
time of mlf, of one compiler after another, of as many at a time as there are processors, and the ratios. Best of five.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from mlf.archive import open_archive
from mlf.linker import LinkRequest, plan_link
from mlf.naming import suggest_model_name
from mlf.toolchain import RUNTIME, compiler_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlf.toolchain import Compiler

ROUNDS = 5
TARGETS = ("host", "cortex-m4")


def unpack(archives: Sequence[Path], folder: Path, compiler: Compiler) -> list[list[str]]:
    """Write the C of every archive and give the commands that compile it."""
    commands = []
    for path in archives:
        place = folder / path.name.split(".")[0]
        model = plan_link([LinkRequest(path=path, name="m")], output=Path("x.a"), compiler=compiler).models[0]
        with open_archive(path) as archive:
            for member in (*model.module.sources, model.module.header or ""):
                (place / member).parent.mkdir(parents=True, exist_ok=True)
                (place / member).write_bytes(archive.read(member))
        include = [f"-I{place / 'codegen/host/include'}", f"-I{RUNTIME / 'include'}"]
        commands += [
            [*compiler.command, *compiler.flags, *include, "-c", str(place / source), "-o", str(place / f"{Path(source).stem}.o")]
            for source in model.module.sources
        ]  # fmt: skip
    return commands


def best(action: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


def compile_all(commands: Sequence[Sequence[str]], jobs: int) -> None:
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, commands))


def measure(archives: Sequence[Path], target: str) -> None:
    compiler = compiler_for(target)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        commands = unpack(archives, folder, compiler)
        named = [f"{suggest_model_name(path.name.split('.')[0])}={path}" for path in archives]
        link = [
            sys.executable,
            "-m",
            "mlf",
            "link",
            *named,
            "-o",
            str(folder / "out" / "libmodels.a"),
            "--target",
            target,
        ]
        ours = best(lambda: run(link))
        serial = best(lambda: compile_all(commands, 1))
        parallel = best(lambda: compile_all(commands, os.cpu_count() or 1))
    print(
        f"{target:<10} {len(archives):>2} archives   mlf link {ours:6.2f} s   {compiler.name} one by one {serial:6.2f} s (x{ours / serial:.2f})"
        f"   {os.cpu_count()} at a time {parallel:6.2f} s (x{ours / parallel:.2f})"
    )


def main() -> None:
    archives = [Path(argument) for argument in sys.argv[1:]]
    for target in TARGETS:
        for chosen in dict.fromkeys((tuple(archives[:2]), tuple(archives))):
            measure(chosen, target)


if __name__ == "__main__":
    main()
