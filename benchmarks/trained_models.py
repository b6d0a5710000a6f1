"""What trained models take once `mlf export` and `mlf link` have made C and a library of them.

`python benchmarks/trained_models.py MODEL...` exports each model (`.onnx`, `.tflite`, `.pt2`, or a wheel or zip with such
files in it, of which `--only PATTERN` chooses), compares it with the runtime of its format, links all of them into one library for Cortex-M4 and prints a table for
Markdown: seconds and memory of the export, flash of weights and code, workspace, worst-case stack, and how far the outputs
are from the runtime's. Flash is what GNU `size` says of firmware with that model alone, if the emulated board can hold it.
"""

from __future__ import annotations

import argparse
import fnmatch
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlf
from mlf.boards import build_firmware
from mlf.errors import MlfError, ToolError
from mlf.frontends.choice import MODEL_SUFFIXES
from mlf.naming import suggest_model_name
from mlf.toolchain import compiler_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlf.reference import OutputDeviation

TARGET = "cortex-m4"
_EMPTY = "int main(void) { return 0; }\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the table says of a model; `refused` is why it was not exported."""

    name: str
    file_bytes: int
    refused: str = ""
    seconds: float = 0
    memory_bytes: int = 0
    flash_bytes: int | None = None
    constants_bytes: int = 0
    workspace_bytes: int = 0
    stack_bytes: int | None = None
    deviation: str = ""


def models_in(paths: Sequence[Path], patterns: Sequence[str], folder: Path) -> Iterator[Path]:
    """List model files, those in wheels and zip files too."""
    for path in paths:
        if path.suffix in MODEL_SUFFIXES:
            yield path
        else:
            yield from _unzipped(path.read_bytes(), patterns, folder)


def _unzipped(data: bytes, patterns: Sequence[str], folder: Path) -> Iterator[Path]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".zip"):
                yield from _unzipped(archive.read(name), patterns, folder)
            elif Path(name).suffix in MODEL_SUFFIXES and any(
                fnmatch.fnmatch(Path(name).name, item) for item in patterns
            ):
                (folder / Path(name).name).write_bytes(archive.read(name))
                yield folder / Path(name).name


def measured(path: Path, folder: Path) -> Row:
    """Export a model in a process of its own, so that its memory can be told."""
    name = suggest_model_name(path.stem)
    output = folder / f"{name}.tar"
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--one", str(path), str(output)], check=False, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        return Row(name=name, file_bytes=path.stat().st_size, refused=done.stderr.strip().splitlines()[-1])
    told = json.loads(done.stdout)
    library = folder / name / "libmodels.a"
    mlf.link({name: output}, output=library, target=TARGET)
    document = json.loads(library.with_suffix(".json").read_text())
    module = mlf.inspect(output).modules[0]
    stacks = [use["size_bytes"] for use in document["models"][0]["stack"] if use["entrypoint"] == "run"]
    return Row(
        name=name, file_bytes=path.stat().st_size, seconds=seconds, memory_bytes=told["memory_bytes"],
        flash_bytes=flash_of(library, name, folder), constants_bytes=module.constants_bytes or 0,
        workspace_bytes=module.workspace_bytes or 0, stack_bytes=stacks[0] if stacks else None, deviation=told["deviation"],
    )  # fmt: skip


def flash_of(library: Path, name: str, folder: Path) -> int | None:
    """Tell what firmware grows by if it runs a model, as GNU `size` counts text and data."""
    call = f"""#include "tvmgen_{name}.h"
extern struct tvmgen_{name}_inputs inputs;
extern struct tvmgen_{name}_outputs outputs;
struct tvmgen_{name}_inputs inputs;
struct tvmgen_{name}_outputs outputs;
int main(void) {{ return tvmgen_{name}_run(&inputs, &outputs); }}
"""
    sizes = []
    for text, objects in ((_EMPTY, []), (call, [str(library.resolve())])):
        (folder / "main.c").write_text(text)
        include = f"-I{library.parent.resolve() / 'include'}"
        try:
            build_firmware(
                compiler_for(TARGET), [folder / "main.c"], objects, "firmware", folder=folder, extra=(include,)
            )
        except ToolError:  # more memory than the board has
            return None
        told = subprocess.run(
            ["arm-none-eabi-size", str(folder / "firmware")], check=True, capture_output=True, text=True
        )
        text_bytes, data_bytes = map(int, told.stdout.splitlines()[1].split()[:2])
        sizes.append(text_bytes + data_bytes)
    return sizes[1] - sizes[0]


def export_one(path: Path, output: Path) -> None:
    """Export a model and print what only this process knows."""
    made = mlf.export(path, output=output)
    memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    deviations = made.check.deviations if made.check else ()
    print(json.dumps({"memory_bytes": memory_bytes, "deviation": "; ".join(map(told_deviation, deviations))}))


def told_deviation(item: OutputDeviation) -> str:
    if not item.unequal:
        return "equal"
    return f"{item.relative:.1e}" if item.dtype.startswith("float") else f"{item.largest:g} units"


def table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| model | file | export | memory | flash | of it weights | workspace | stack | deviation |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---|"
    for row in rows:
        if row.refused:
            yield f"| {row.name} | {row.file_bytes} | {row.refused} |"
            continue
        stack = "" if row.stack_bytes is None else row.stack_bytes
        flash = "larger than the board" if row.flash_bytes is None else row.flash_bytes
        yield (
            f"| {row.name} | {row.file_bytes} | {row.seconds:.1f} s | {row.memory_bytes >> 20} MiB | {flash} "
            f"| {row.constants_bytes} | {row.workspace_bytes} | {stack} | {row.deviation} |"
        )


def linked_together(archives: Sequence[Path], folder: Path) -> Any:  # noqa: ANN401  # JSON
    library = folder / "all" / "libmodels.a"
    mlf.link([str(path) for path in archives], output=library, target=TARGET)
    return json.loads(library.with_suffix(".json").read_text())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--only", action="append", help="pattern of a file's name in a wheel; repeatable")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        try:
            export_one(*arguments.models)
        except MlfError as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        found = sorted(set(models_in(arguments.models, arguments.only or ["*"], folder)))
        rows = [measured(path, folder) for path in found]
        print("\n".join(table(rows)))
        good = [folder / f"{row.name}.tar" for row in rows if not row.refused]
        if len(good) > 1:
            document = linked_together(good, folder)
            arenas = ", ".join(str(arena["size_bytes"]) for arena in document["arenas"])
            print(f"\nall in one library: arena {arenas} bytes, flash {document['totals']['flash_bytes']}, RAM {document['totals']['ram_bytes']}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
