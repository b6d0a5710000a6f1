"""Firmware for the tests: calls models of one library through its registry, in any order, on the host or a board."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlf.arrays import numpy_dtype
from mlf.boards import build_firmware, run_firmware
from mlf.runner import open_library
from mlf.toolchain import RUNTIME, compiler_for, run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    Arrays = Mapping[str, npt.NDArray[Any]]

# Memory that the program lends to the models: every tensor and pool of one step, with room for the largest.
MEMORY_BYTES = 1 << 20

_PROGRAM = """
#include <string.h>
#include "board.h"
#include "mlf/models.h"

static uint8_t memory[%(memory)d] __attribute__((aligned(64)));
static size_t used;

static void* lend(uint32_t size_bytes) {
  void* block = memory + used;
  used += (size_bytes + 63u) & ~63u;
  return used <= sizeof(memory) ? block : NULL;
}

static void* place(const struct mlf_tensor* tensor, void** pools) {
  return tensor->pool < 0 ? lend(tensor->size_bytes) : (char*)pools[tensor->pool] + tensor->offset_bytes;
}

static const char* file_name(char kind, unsigned step, unsigned index) {
  static char name[] = "i000.00";
  name[0] = kind;
  name[1] = (char)('0' + step / 100);
  name[2] = (char)('0' + step / 10 %% 10);
  name[3] = (char)('0' + step %% 10);
  name[5] = (char)('0' + index / 10);
  name[6] = (char)('0' + index %% 10);
  return name;
}

static int call(const struct mlf_model* model, unsigned step) {
  void* inputs[16];
  void* outputs[16];
  void* pools[8];
  void* devices[8] = {NULL};
  uint32_t i;
  used = 0;
  for (i = 0; i < model->pool_count; ++i) {
    pools[i] = lend(model->pools[i].size_bytes);
    if (!pools[i]) return 93;
    memset(pools[i], 0xa5, model->pools[i].size_bytes);
    if (model->pools[i].data) memcpy(pools[i], model->pools[i].data, model->pools[i].size_bytes);
  }
  for (i = 0; i < model->input_count; ++i) {
    inputs[i] = place(&model->inputs[i], pools);
    if (!inputs[i] || board_read_file(file_name('i', step, i), inputs[i], model->inputs[i].size_bytes) != 0) return 92;
  }
  for (i = 0; i < model->output_count; ++i) outputs[i] = place(&model->outputs[i], pools);
  if (model->run(inputs, outputs, pools, devices) != 0) return 91;
  for (i = 0; i < model->output_count; ++i) {
    if (board_write_file(file_name('o', step, i), outputs[i], model->outputs[i].size_bytes) != 0) return 94;
  }
  return 0;
}

int main(void) {
  static const char* const steps[] = {%(steps)s};
  unsigned step;
  for (step = 0; step < sizeof(steps) / sizeof(steps[0]); ++step) {
    const struct mlf_model* model = mlf_find_model(steps[step]);
    int status = model ? call(model, step) : 90;
    if (status != 0) return status;
  }
  return 0;
}
"""


def run_sequence(document: Path, steps: Sequence[tuple[str, Arrays]]) -> list[dict[str, npt.NDArray[Any]]]:
    """Call models of the library that `document` describes one after another in one program; gives each call's outputs."""
    models = {name: open_library(document, name).interface for name, _ in steps}
    target = json.loads(document.read_text())["target"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        for step, (name, arrays) in enumerate(steps):
            for index, tensor in enumerate(models[name].inputs):
                (folder / f"i{step:03}.{index:02}").write_bytes(np.ascontiguousarray(arrays[tensor.name]).tobytes())
        _build_and_run(document, target, [name for name, _ in steps], folder)
        return [
            {
                tensor.name: np.frombuffer((folder / f"o{step:03}.{index:02}").read_bytes(), numpy_dtype(tensor))
                for index, tensor in enumerate(models[name].outputs)
            }
            for step, (name, _) in enumerate(steps)
        ]


def _build_and_run(document: Path, target: str, names: Sequence[str], folder: Path) -> None:
    compiler = compiler_for(target)
    quoted = ", ".join(f'"{name}"' for name in names)
    (folder / "main.c").write_text(_PROGRAM % {"memory": MEMORY_BYTES, "steps": quoted})
    library = str(document.with_suffix(".a").resolve())
    include = f"-I{document.parent.resolve() / 'include'}"
    if compiler.target.board is not None:
        build_firmware(compiler, [folder / "main.c"], [library], "firmware", folder=folder, extra=(include,))
        finished = run_firmware(compiler.target.board, "firmware", folder=folder, timeout_s=120)
    else:
        sources = {"main.o": "main.c", "hosted.o": str(RUNTIME / "board" / "hosted.c")}
        for output, source in sources.items():
            compiler.compile(source, output, cwd=folder, extra=(include, f"-I{RUNTIME / 'board'}"))
        compiler.link([*sources, library], "firmware", cwd=folder, extra=compiler.libraries())
        finished = run([str(folder / "firmware")], cwd=folder, timeout_s=120)
    assert finished.status == 0, (finished.status, finished.stdout, finished.stderr)
