"""How many instructions an exported model takes for one run, by front end and schedule.

`python benchmarks/operators.py MODEL...` exports each `.onnx` or `.tflite` model with TVM as mlf arranges its loops, with TVM
as it leaves them (`--no-schedule`), and, of ONNX, with emx-onnx-cgen; compiles the C of each archive with the same flags for
this machine, and counts the instructions of one call with callgrind. Prints a table with the ratio to the first.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import mlf
from mlf.archive import open_archive
from mlf.errors import MlfError
from mlf.naming import suggest_model_name
from mlf.toolchain import RUNTIME, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlf.module import Module

FLAGS = ("-O2", "-ffunction-sections", "-fdata-sections")
WAYS = {
    "tvm": mlf.ModelOptions(front_end="tvm", is_checked=False),
    "tvm --no-schedule": mlf.ModelOptions(front_end="tvm", is_scheduled=False, is_checked=False),
    "emx": mlf.ModelOptions(front_end="emx", is_checked=False),
}
TIMEOUT_S = 900.0


def instructions(archive: Path, folder: Path) -> int:
    """Compile the C of an archive with a caller, and count what one call executes."""
    module = mlf.inspect(archive).modules[0]
    with open_archive(archive) as opened:
        for member in (*module.sources, *module.includes):
            (folder / member).parent.mkdir(parents=True, exist_ok=True)
            (folder / member).write_bytes(opened.read(member))
    (folder / "caller.c").write_text(caller(module))
    include = (f"-I{folder / 'codegen/host/include'}", f"-I{RUNTIME / 'include'}")
    sources = [str(folder / member) for member in module.sources]
    run(["gcc", *FLAGS, *include, str(folder / "caller.c"), *sources, "-lm", "-o", str(folder / "caller")], cwd=folder)
    counting = f"--toggle-collect=tvmgen_{module.name}_run"
    done = run(
        ["valgrind", "--tool=callgrind", counting, "--callgrind-out-file=/dev/null", str(folder / "caller")],
        cwd=folder, timeout_s=TIMEOUT_S,
    )  # fmt: skip
    found = re.search(r"Collected : (\d+)", done.stderr)
    return int(found[1]) if found else 0


def caller(module: Module) -> str:
    """Write a program that runs a model once on numbers that differ."""
    lines = ["#include <stdint.h>", f'#include "tvmgen_{module.name}.h"']
    for kind, tensors in (("input", module.inputs), ("output", module.outputs)):
        lines += [f"static float {kind}_{index}[{(item.size_bytes or 0) // 4 + 1}];" for index, item in enumerate(tensors)]  # fmt: skip
    lines += ["int main(void) {"]
    for index, tensor in enumerate(module.inputs):
        value = "k % 251 / 125.0f - 1.0f" if tensor.dtype == "float32" else "k"
        element = "float" if tensor.dtype == "float32" else "uint8_t"
        count = (tensor.size_bytes or 0) // (4 if tensor.dtype == "float32" else 1)
        lines.append(f"  for (int k = 0; k < {count}; ++k) (({element}*)input_{index})[k] = ({element})({value});")
    for kind, tensors in (("input", module.inputs), ("output", module.outputs)):
        values = ", ".join(f"{kind}_{index}" for index in range(len(tensors)))
        lines.append(f"  struct tvmgen_{module.name}_{kind}s {kind}s = {{{values}}};")
    return "\n".join([*lines, f"  return tvmgen_{module.name}_run(&inputs, &outputs);", "}", ""])


def counted(model: Path) -> dict[str, int | None]:
    """Count for each way of compiling a model; None where it cannot be compiled that way."""
    found: dict[str, int | None] = {}
    for way, options in WAYS.items():
        with tempfile.TemporaryDirectory() as scratch:
            archive = Path(scratch) / "model.tar"
            try:
                mlf.export(model, output=archive, name=suggest_model_name(model.stem), model=options)
            except MlfError:
                found[way] = None
            else:
                found[way] = instructions(archive, Path(scratch))
    return found


def table(rows: Sequence[tuple[str, dict[str, int | None]]]) -> str:
    lines = [f"| model | {' | '.join(WAYS)} |", f"|---|{'---:|' * len(WAYS)}"]
    for name, counts in rows:
        first = counts["tvm"] or 0
        cells = ["-" if count is None else f"{count} ({count / first:.2f})" for count in counts.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    print(table([(Path(path).stem, counted(Path(path))) for path in sys.argv[1:]]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
