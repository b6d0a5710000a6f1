"""Ways in which two models in one program silently become one, each shown to be harmless after `mlf link`."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sequence import run_sequence

from mlf.linker import LinkRequest, link, plan_link
from mlf.toolchain import compiler_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

TARGETS = ("host", "cortex-m4", "rv32imac")

_HEADER = """
#include <stdint.h>
struct tvmgen_default_inputs { void* x; };
struct tvmgen_default_outputs { void* y; };
int32_t tvmgen_default_run(struct tvmgen_default_inputs* inputs, struct tvmgen_default_outputs* outputs);
"""
_WRAPPER = """#include "tvm/runtime/c_runtime_api.h"
#include <tvmgen_default.h>
TVM_DLL int32_t tvmgen_default___tvm_main__(void* x,void* output0);
int32_t tvmgen_default_run(struct tvmgen_default_inputs* inputs,struct tvmgen_default_outputs* outputs) {return tvmgen_default___tvm_main__(inputs->x,outputs->y);
}
;
"""
_MAIN = """#include "tvm/runtime/c_runtime_api.h"
{code}
TVM_DLL int32_t tvmgen_default___tvm_main__(int32_t* x_buffer_var, int32_t* output_buffer_var) {{
  output_buffer_var[0] = {result};
  return 0;
}}
"""


def write_archive(path: Path, sources: Mapping[str, str]) -> Path:
    """Write a version-7 archive of one model `default`: y = f(x), both int32 of one element."""
    main = {
        "constants_size_bytes": 0, "device": 1, "inputs": {"x": {"dtype": "int32", "size": 4}}, "io_size_bytes": 8,
        "outputs": {"y": {"dtype": "int32", "size": 4}}, "workspace_size_bytes": 0,
    }  # fmt: skip
    module = {
        "executors": ["aot"], "export_datetime": "2024-01-01 00:00:00Z", "memory": {"functions": {"main": [main], "operator_functions": []}},
        "model_name": "default", "style": "full-model", "target": ["c -keys=cpu "],
    }  # fmt: skip
    members = {
        "metadata.json": json.dumps({"modules": {"default": module}, "version": 7}),
        "codegen/host/include/tvmgen_default.h": _HEADER,
        "codegen/host/src/default_lib0.c": _WRAPPER,
        **{f"codegen/host/src/{name}": text for name, text in sources.items()},
    }
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


def model(code: str, result: str) -> str:
    return _MAIN.format(code=code, result=result)


def answers(
    tmp_path: Path, target: str, archives: Mapping[str, Mapping[str, str]], order: str, cflags: tuple[str, ...] = ()
) -> list[int]:
    """Link the archives and call the models `order` names with x = 10, 11, 12 ..."""
    requests = [
        LinkRequest(path=write_archive(tmp_path / f"{name}.tar", sources), name=name)
        for name, sources in archives.items()
    ]
    link(plan_link(requests, output=tmp_path / "libmodels.a", compiler=compiler_for(target, cflags=cflags)))
    steps: list[tuple[str, dict[str, npt.NDArray[Any]]]] = [
        (name, {"x": np.array([10 + step], np.int32)}) for step, name in enumerate(order)
    ]
    return [int(result["y"][0]) for result in run_sequence(tmp_path / "libmodels.json", steps)]


@pytest.mark.parametrize("target", TARGETS)
def test_operators_of_one_name_keep_their_bodies(tmp_path: Path, target: str) -> None:
    operator = "TVM_DLL int32_t tvmgen_default_fused_add(int32_t v) {{ return v + {n}; }}"
    archives = {
        name: {"default_lib1.c": model(operator.format(n=n), "tvmgen_default_fused_add(x_buffer_var[0])")}
        for name, n in (("a", 100), ("b", 2000))
    }

    assert answers(tmp_path, target, archives, "aba") == [110, 2011, 112]


@pytest.mark.parametrize("target", TARGETS)
def test_static_buffers_of_one_name_are_not_shared(tmp_path: Path, target: str) -> None:
    code = "static int32_t history[{n}]; static int32_t remember(int32_t v) {{ history[0] += v; history[{n} - 1] += 1; return history[0]; }}"
    archives = {
        name: {"default_lib1.c": model(code.format(n=n), "remember(x_buffer_var[0])")}
        for name, n in (("a", 4), ("b", 64))
    }

    assert answers(tmp_path, target, archives, "abab") == [10, 11, 22, 24]


@pytest.mark.parametrize("target", TARGETS)
def test_common_buffers_of_one_name_are_not_shared_between_models_but_within_one(tmp_path: Path, target: str) -> None:
    first = "int32_t total[{n}]; int32_t tvmgen_default_add(int32_t v);"
    second = '#include "tvm/runtime/c_runtime_api.h"\nint32_t total[{n}];\nint32_t tvmgen_default_add(int32_t v) {{ total[0] += v; return total[0]; }}\n'
    archives = {
        name: {
            "default_lib1.c": model(first.format(n=2), "tvmgen_default_add(x_buffer_var[0]) * 1000 + total[0]"),
            "default_lib2.c": second.format(n=n),
        }
        for name, n in (("a", 8), ("b", 100))
    }

    assert answers(tmp_path, target, archives, "abab", ("-fcommon",)) == [10010, 11011, 22022, 24024]


@pytest.mark.parametrize("target", TARGETS)
def test_weak_functions_of_one_name_belong_to_their_model(tmp_path: Path, target: str) -> None:
    weak = "__attribute__((weak)) int32_t tvmgen_default_scale(int32_t v) {{ return v * {n}; }}"
    archives = {
        name: {"default_lib1.c": model(weak.format(n=n), "tvmgen_default_scale(x_buffer_var[0])")}
        for name, n in (("a", 3), ("b", 5))
    }

    assert answers(tmp_path, target, archives, "aba") == [30, 55, 36]


@pytest.mark.parametrize("target", TARGETS)
def test_a_strong_definition_wins_over_a_weak_one_of_its_own_model_alone(tmp_path: Path, target: str) -> None:
    weak = "__attribute__((weak, noinline)) int32_t tvmgen_default_scale(int32_t v) { return v; }"
    strong = '#include "tvm/runtime/c_runtime_api.h"\nint32_t tvmgen_default_scale(int32_t v) { return v * 7; }\n'
    plain = model(weak, "tvmgen_default_scale(x_buffer_var[0])")
    archives = {"a": {"default_lib1.c": plain}, "b": {"default_lib1.c": plain, "default_lib2.c": strong}}

    assert answers(tmp_path, target, archives, "aba") == [10, 77, 12]


@pytest.mark.parametrize("target", TARGETS)
def test_constructors_run_for_each_model(tmp_path: Path, target: str) -> None:
    code = "static volatile int32_t ready; __attribute__((constructor)) static void prepare(void) {{ ready = {n}; }}"
    archives = {
        name: {"default_lib1.c": model(code.format(n=n), "ready + x_buffer_var[0]")}
        for name, n in (("a", 500), ("b", 900))
    }

    assert answers(tmp_path, target, archives, "aba") == [510, 911, 512]


@pytest.mark.parametrize("target", TARGETS)
def test_large_constants_of_one_name_keep_their_values(tmp_path: Path, target: str) -> None:
    def constants(seed: int) -> tuple[str, int]:
        values = np.random.RandomState(seed).randint(-(2**31), 2**31 - 1, 3000).astype(np.int32)
        text = ", ".join(f"{'-' if value < 0 else ''}0x{abs(int(value)):08x}" for value in values)
        code = f'static const int32_t __attribute__((section(".rodata.tvm"), aligned(16))) fused_constant[3000] = {{\n{text}\n}};'
        loop = "static int32_t sum(void) { int32_t i; uint32_t s = 0; for (i = 0; i < 3000; ++i) { s = s * 31 + (uint32_t)fused_constant[i]; } return (int32_t)s; }"
        expected = np.uint32(0)
        with np.errstate(over="ignore"):
            for value in values.view(np.uint32):
                expected = expected * np.uint32(31) + value
        return f"{code}\n{loop}", int(np.int32(expected.view(np.int32)))

    first, second = constants(1), constants(2)
    archives = {name: {"default_lib1.c": model(code, "sum()")} for name, (code, _) in (("a", first), ("b", second))}

    assert answers(tmp_path, target, archives, "aba") == [first[1], second[1], first[1]]


@pytest.mark.parametrize("target", TARGETS)
def test_a_write_through_one_models_pointer_table_stays_in_that_model(tmp_path: Path, target: str) -> None:
    code = "static int32_t cell = {n}; static int32_t* const table[2] = {{&cell, &cell}};"
    archives = {
        name: {"default_lib1.c": model(code.format(n=n), "(*table[1] += x_buffer_var[0])")}
        for name, n in (("a", 1), ("b", 2))
    }

    assert answers(tmp_path, target, archives, "abab") == [11, 13, 23, 26]
