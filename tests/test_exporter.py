"""Any code with a description becomes an archive that reads, validates, links and runs."""

from __future__ import annotations

import ctypes
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlf import codegen
from mlf.arrays import load_arrays, save_arrays
from mlf.check import validate
from mlf.converter import convert
from mlf.errors import ArchiveError, InputError, TensorError, UnsupportedError
from mlf.exporter import GoldenFiles, export
from mlf.linker import LinkRequest
from mlf.metadata import ObjectCode, Pool, Tensor
from mlf.params import param_from_array, parse_params, render_params
from mlf.reading import read_contents
from mlf.runner import run_archive
from mlf.toolchain import RUNTIME, compiler_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt

    from mlf.module import Module

    Arrays = dict[str, npt.NDArray[Any]]
    Files = Mapping[str, str | bytes]

SAMPLES = Path(__file__).parent.parent / "samples"
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")

# scores = (samples @ weights) of float32 (1, 3) and (1, 2), in the style of generators of plain C.
DENSE = """
static const float weights[3][2] = {{1.0f, 2.0f}, {3.0f, 4.0f}, {5.0f, 6.0f}};
void dense(const float samples[1][3], float scores[1][2]) {
  for (int i = 0; i < 2; ++i) {
    scores[0][i] = 0.0f;
    for (int k = 0; k < 3; ++k) { scores[0][i] += samples[0][k] * weights[k][i]; }
  }
}
"""
X = np.array([[1, 2, 4]], np.float32)
Y = np.array([[27, 34]], np.float32)

BASE = """
[model]
name = "kws"
[entry]
function = "dense"
arguments = ["samples", "scores"]
returns = "void"
[code]
sources = ["*.c"]
[[inputs]]
name = "samples"
dtype = "float32"
shape = [1, 3]
[[outputs]]
name = "scores"
dtype = "float32"
shape = [1, 2]
"""


def folder(path: Path, files: Files) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def made(path: Path, files: Files) -> Path:
    """Export the files, and give an archive that `validate` finds nothing wrong with."""
    output = path / "out.tar"
    export(folder(path / "source", files), output=output)
    assert validate(output).findings == ()
    return output


def module(archive: Path) -> Module:
    (found,) = read_contents(archive).modules
    return found


def run(archive: Path, inputs: Arrays, target: str = "host") -> Arrays:
    return dict(run_archive(LinkRequest(path=archive), inputs, compiler=compiler_for(target)).outputs)


def member(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


def names(archive: Path) -> list[str]:
    with tarfile.open(archive) as tar:
        return tar.getnames()


def fault(path: Path, files: Files) -> str:
    """Give what is wrong with the files, and show that nothing was written."""
    with pytest.raises(InputError) as caught:
        export(folder(path / "source", files), output=path / "out.tar")
    assert not (path / "out.tar").exists()
    return str(caught.value)


def test_sample_runs_on_the_host_and_on_a_board_as_its_golden_data_says(tmp_path: Path) -> None:
    result = export(SAMPLES / "described", output=tmp_path / "knock.tar.zst")
    inputs, outputs = (load_arrays(SAMPLES / "described" / f"knock.{kind}.npz") for kind in ("inputs", "outputs"))

    assert (result.archive, result.version, result.modules, result.member_count) == ("knock.tar.zst", 8, ("knock",), 8)
    assert validate(tmp_path / "knock.tar.zst").findings == ()
    for target in ("host", "cortex-m4"):
        found = run(tmp_path / "knock.tar.zst", inputs, target)
        assert {name: array.tolist() for name, array in found.items()} == {"scores": outputs["scores"].tolist()}


def test_golden_data_of_the_sample_is_what_its_weights_give() -> None:
    text = (SAMPLES / "described" / "knock.c").read_text()
    tables = {
        name: np.array(re.findall(r"-?[0-9]+", values), int)
        for name, values in re.findall(r"(\w+)(?:\[\w+\])+ = (\{.*?\});", text, re.DOTALL)
    }
    inputs, outputs = (load_arrays(SAMPLES / "described" / f"knock.{kind}.npz") for kind in ("inputs", "outputs"))
    sums = tables["filters"].reshape(4, 16) @ inputs["window"][0].astype(int)
    units = np.maximum(sums, 0) // 64
    scores = tables["bias"] + np.trunc(tables["readout"].reshape(2, 4) * units / 16).sum(axis=1).astype(int)

    assert outputs["scores"].tolist() == [np.clip(scores, -128, 127).tolist()]


def test_archive_says_everything_that_the_description_does(tmp_path: Path) -> None:
    found = module(made(tmp_path, {"description.toml": BASE, "dense.c": DENSE}))

    assert (found.version, found.interface, found.operators, found.code.language) == (8, "c", "unpacked", "c")
    assert found.entrypoints == {"main": "tvmgen_kws___tvm_main__", "run": "tvmgen_kws_run"}
    assert found.inputs == (Tensor(name="samples", c_name="samples", dtype="float32", shape=(1, 3), size_bytes=12),)
    assert found.outputs == (Tensor(name="scores", c_name="scores", dtype="float32", shape=(1, 2), size_bytes=8),)
    assert found.pools == ()
    assert found.findings == ()


def test_archive_is_the_same_wherever_and_whenever_it_is_made(tmp_path: Path) -> None:
    files = {"description.toml": BASE, "dense.c": DENSE}
    first, second = (made(tmp_path / name, files) for name in ("a", "b/c"))

    assert first.read_bytes() == second.read_bytes()


def test_folder_needs_no_description_where_the_code_tells_everything(tmp_path: Path) -> None:
    archive = made(tmp_path, {"dense.c": DENSE})

    assert module(archive).name == "dense"
    assert run(archive, {"samples": X})["scores"].tolist() == Y.tolist()


def test_folder_that_tells_too_little_lists_what_is_missing(tmp_path: Path) -> None:
    source = folder(tmp_path / "model", {"m.c": "int m(const int8_t* x, int n, int8_t* y) { return 0; }"})
    with pytest.raises(InputError) as caught:
        export(source, output=tmp_path / "out.tar")

    assert str(caught.value) == (
        "model: has no description.toml, and its files do not tell everything: 3 faults:\n"
        "[[inputs]] 1 `shape` is missing\n[[outputs]] 1 `shape` is missing\n[entry] `arguments` is missing"
    )
    assert caught.value.hint == f"`mlf export --init {source}`, then fill in what is marked"


def test_arguments_go_to_the_function_in_its_order(tmp_path: Path) -> None:
    code = """
    #include "mix.h"
    int mix(int32_t* out, int scale, const int8_t* b, uint8_t* scratch, const int16_t* a) {
      int32_t* sum = (int32_t*)scratch;
      for (int i = 0; i < 4; ++i) { sum[i] = a[i] * scale - b[i]; }
      for (int i = 0; i < 4; ++i) { out[i] = sum[3 - i]; }
      return sum[0] == 1000;
    }
    """
    description = """
    [model]
    name = "mix"
    [entry]
    function = "mix"
    arguments = ["out", 3, "in:b", "scratch", "in:a"]
    header = "mix.h"
    [code]
    sources = ["mix.c"]
    [[inputs]]
    name = "in:a"
    dtype = "int16"
    shape = [4]
    [[inputs]]
    name = "in:b"
    dtype = "int8"
    shape = [2, 2]
    [[outputs]]
    name = "out"
    dtype = "int32"
    shape = [4]
    [[pools]]
    name = "scratch"
    memory = "MEMORY"
    size_bytes = 16
    """
    header = "#include <stdint.h>\nint mix(int32_t*, int, const int8_t*, uint8_t*, const int16_t*);\n"
    inputs: Arrays = {"in:a": np.array([10, 20, 30, -40], np.int16), "in:b": np.array([[1, 2], [3, 4]], np.int8)}

    for memory in ("internal", "external"):
        files = {"description.toml": description.replace("MEMORY", memory), "mix.c": code, "mix.h": header}
        archive = made(tmp_path / memory, files)
        assert run(archive, inputs)["out"].tolist() == [-124, 87, 58, 29]
        assert module(archive).pools == (
            Pool(name="scratch", kind="workspace", size_bytes=16, alignment_bytes=16, is_internal=memory == "internal"),
        )
        assert module(archive).workspace_bytes == 16


def test_status_of_the_function_reaches_the_caller(tmp_path: Path) -> None:
    code = DENSE.replace("void dense", "int dense").replace("  for (int i", "  if (samples[0][0] < 0) return 7;\n  for (int i", 1)  # fmt: skip
    archive = made(tmp_path, {"description.toml": BASE.replace('"void"', '"status"'), "m.c": code.replace("}\n}\n", "}\n  return 0;\n}\n")})  # fmt: skip

    assert run(archive, {"samples": X})["scores"].tolist() == Y.tolist()
    with pytest.raises(Exception, match="the model reported failure"):
        run(archive, {"samples": -X})


def test_constant_pool_is_lent_by_the_caller_with_its_content(tmp_path: Path) -> None:
    code = "#include <stdint.h>\nvoid dense(const float* x, float* y, const uint8_t* w) { y[0] = x[0] * w[0]; y[1] = x[1] * w[1]; }"  # fmt: skip
    description = BASE.replace('"scores"]', '"scores", "flash"]')
    description += '[[pools]]\nname = "flash"\nkind = "constant"\nmemory = "external"\nfile = "w.bin"\n'
    archive = made(tmp_path, {"description.toml": description, "m.c": code, "w.bin": b"\2\3"})

    assert run(archive, {"samples": X})["scores"].tolist() == [[2, 6]]


def test_cpp_code_runs_when_its_function_is_extern_c(tmp_path: Path) -> None:
    code = 'extern "C" void dense(const float* x, float* y);\ntemplate <typename T> static T twice(T v) { return v * 2; }\n'
    code += "void dense(const float* x, float* y) { y[0] = twice(x[0]); y[1] = twice(x[1]); }\n"
    archive = made(tmp_path, {"description.toml": BASE.replace("*.c", "*.cxx"), "m.cxx": code})

    assert module(archive).code.language == "c++"
    assert "codegen/host/src/kws_lib1.cpp" in names(archive)
    assert run(archive, {"samples": X})["scores"].tolist() == [[2, 4]]


def test_cpp_code_without_extern_c_is_refused(tmp_path: Path) -> None:
    files = {"description.toml": BASE.replace("*.c", "m.cpp"), "m.cpp": "void dense(const float* x, float* y) {}"}

    assert fault(tmp_path, files) == 'description.toml: `dense` is C++: declare it `extern "C"` in m.cpp'


def compiled(path: Path, code: str, *command: str, suffix: str = ".c") -> bytes:
    path.mkdir(parents=True, exist_ok=True)
    (path / f"m{suffix}").write_text(code)
    subprocess.run([*command, "-O1", "-c", f"m{suffix}", "-o", "m.o"], cwd=path, check=True)
    return (path / "m.o").read_bytes()


@pytest.mark.parametrize(
    ("command", "target", "machine"),
    [
        (("gcc", "-fPIC"), "host", ("x86-64", 64, None, None)),
        (("arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"), "cortex-m4", ("ARM", 32, "eabi5", "hard")),
        (("riscv64-unknown-elf-gcc", "-march=rv32imac", "-mabi=ilp32"), "rv32imac", ("RISC-V", 32, "ilp32", "soft")),
    ],
)  # fmt: skip
def test_objects_alone_run_on_their_machine(
    tmp_path: Path, command: tuple[str, ...], target: str, machine: tuple[str, int, str | None, str | None]
) -> None:
    description = BASE.replace('sources = ["*.c"]', 'objects = ["lib/*.o"]')
    archive = made(tmp_path, {"description.toml": description, "lib/m.o": compiled(tmp_path / "c", DENSE, *command)})

    name, bits, abi, float_abi = machine
    expected = ObjectCode(machine=name, bits=bits, byte_order="little", abi=abi, float_abi=float_abi)
    assert module(archive).code.object == expected
    assert run(archive, {"samples": X}, target)["scores"].tolist() == Y.tolist()


def test_objects_of_different_machines_are_refused(tmp_path: Path) -> None:
    soft, hard = (
        compiled(tmp_path / kind, DENSE, "arm-none-eabi-gcc", "-mcpu=cortex-m4", f"-mfloat-abi={kind}", "-mfpu=fpv4-sp-d16")
        for kind in ("soft", "hard")
    )  # fmt: skip
    files: Files = {
        "description.toml": BASE.replace('sources = ["*.c"]', 'objects = ["*.o"]'),
        "a.o": soft,
        "b.o": hard,
    }

    assert fault(tmp_path, files) == (
        "description.toml: the objects are for different machines: a.o is for 32-bit little-endian ARM, eabi5, soft floats; "
        "b.o is for 32-bit little-endian ARM, eabi5, hard floats"
    )


def test_object_with_a_cpp_function_says_which(tmp_path: Path) -> None:
    code = "void dense(const float*, float*) {}"
    files: Files = {
        "description.toml": BASE.replace('sources = ["*.c"]', 'objects = ["*.o"]'), "m.o": compiled(tmp_path / "c", code, "g++", suffix=".cc"),
    }  # fmt: skip

    assert fault(tmp_path, files) == (
        "description.toml: nothing in the code defines `dense`; the objects have the C++ function `_Z5densePKfPf`, which must be "
        '`extern "C"`'
    )


def test_object_that_allocates_must_be_told_how_much(tmp_path: Path) -> None:
    code = '#include "tvm/runtime/c_backend_api.h"\nvoid dense(const float* x, float* y) { float* t = TVMBackendAllocWorkspace(1, 0, 8, 2, 32);'  # fmt: skip
    code += " t[0] = x[1]; t[1] = x[0]; y[0] = t[0]; y[1] = t[1]; TVMBackendFreeWorkspace(1, 0, t); }"
    data = compiled(tmp_path / "c", code, "gcc", "-fPIC", f"-I{RUNTIME / 'include'}")
    description = BASE.replace('sources = ["*.c"]', 'objects = ["*.o"]')
    missing = "[code] `allocates_bytes` is missing: m.o calls TVMBackendAllocWorkspace, and nothing tells for how much"

    assert fault(tmp_path, {"description.toml": description, "m.o": data}) == f"description.toml: {missing}"

    told = description.replace('["*.o"]', '["*.o"]\nallocates_bytes = 16')
    archive = made(tmp_path, {"description.toml": told, "m.o": data})
    assert run(archive, {"samples": X})["scores"].tolist() == [[2, 1]]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"m.c": "void other(void) {}"}, "nothing in the code defines `dense`"),
        ({"m.c": DENSE.replace("float scores", "double scores")}, "`scores` is float32, `dense` takes float64"),
        ({"m.c": DENSE.replace("samples[1][3]", "samples[1][4]")}, "`samples` has 3 elements, `dense` takes 4"),
        ({"m.c": "void dense(const float* x, float* y, float* z) {}"}, "`dense` takes 3 arguments, [entry] `arguments` has 2"),
        ({"m.c": "int dense(const float* x, float* y) { return 0; }"}, "`dense` returns an int: [entry] `returns` must be `status`"),
        ({"m.c": "void dense(const float* x, const float* y) {}"}, "`scores` is an output, `dense` takes it as constant"),
        ({"m.c": "void dense(const float* x, int y) {}"}, "`dense` takes no pointer where [entry] `arguments` has `scores`"),
        ({"m.c": DENSE.encode() + b"// \xb5m\n"}, "m.c is not UTF-8 at byte 289"),
        ({"m.c": f'#include "w.h"\n{DENSE}', "w.h": ""}, "m.c includes `w.h`, but [code] `headers` does not list w.h"),
        ({"m.c": DENSE + "int tvmgen_kws_run(void);"}, "the code defines `tvmgen_kws_run` itself: name it as `function` of [entry], without `arguments`"),
    ],
)  # fmt: skip
def test_description_that_the_code_contradicts_is_refused(tmp_path: Path, files: Files, message: str) -> None:
    assert fault(tmp_path, {"description.toml": BASE, **files}) == f"description.toml: {message}"


def test_every_fault_of_the_code_is_reported_at_once(tmp_path: Path) -> None:
    code = '#include "w.h"\nint dense(const int8_t* x, float y[3]) { return 0; }'

    assert fault(tmp_path, {"description.toml": BASE, "m.c": code, "w.h": ""}) == (
        "description.toml: 4 faults:\nm.c includes `w.h`, but [code] `headers` does not list w.h\n"
        "`dense` returns an int: [entry] `returns` must be `status`\n`samples` is float32, `dense` takes int8\n"
        "`scores` has 2 elements, `dense` takes 3"
    )


def test_tensor_whose_macro_is_taken_is_refused(tmp_path: Path) -> None:
    files = {"description.toml": BASE.replace('"samples"', '"workspace"'), "m.c": DENSE}

    assert fault(tmp_path, files) == (
        "description.toml: `kws` (description.toml) makes `TVMGEN_KWS_WORKSPACE_SIZE` twice"
    )


def test_headers_and_macros_reach_the_compiler(tmp_path: Path) -> None:
    files = {
        "description.toml": BASE.replace('["*.c"]', '["src/*.c"]\nheaders = ["src/**/*.h", "src/*.inc"]\ndefinitions = {FACTOR = 3}'),
        "src/dense.c": '#include "k/k.h"\n#include "w.inc"\nvoid dense(const float* x, float* y) { y[0] = scaled(x[0]); y[1] = W; }',
        "src/k/k.h": '#include "l.h"', "src/k/l.h": "static float scaled(float v) { return v * FACTOR; }", "src/w.inc": "#define W 9",
    }  # fmt: skip
    archive = made(tmp_path, files)

    assert [name for name in names(archive) if "/include/" in name] == [
        "codegen/host/include/k/k.h", "codegen/host/include/k/l.h", "codegen/host/include/tvmgen_kws.h", "codegen/host/include/w.inc",
    ]  # fmt: skip
    assert run(archive, {"samples": X})["scores"].tolist() == [[3, 9]]


def test_entrypoint_in_the_code_is_used_as_it_is(tmp_path: Path) -> None:
    code = '#include "tvmgen_kws.h"\n' + DENSE
    code += "int32_t tvmgen_kws_run(struct tvmgen_kws_inputs* i, struct tvmgen_kws_outputs* o) { dense(i->samples, o->scores); return 0; }"  # fmt: skip
    description = BASE.replace('"dense"', '"tvmgen_kws_run"').replace('arguments = ["samples", "scores"]\nreturns = "void"\n', "")  # fmt: skip
    archive = made(tmp_path, {"description.toml": description, "m.c": code})

    assert [name for name in names(archive) if "/src/" in name] == ["codegen/host/src/kws_lib0.c"]
    assert module(archive).entrypoints == {"run": "tvmgen_kws_run"}
    assert run(archive, {"samples": X})["scores"].tolist() == Y.tolist()


# What the packed interface passes, as DLPack and TVM lay it out on a 64-bit host.
class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p), ("device", ctypes.c_int32 * 2), ("ndim", ctypes.c_int32), ("dtype", ctypes.c_uint32),
        ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p), ("byte_offset", ctypes.c_uint64),
    )  # fmt: skip


def call_packed(archive: Path, symbol: str, arrays: Iterable[npt.NDArray[Any]], path: Path) -> int:
    """Compile the members of an archive and call a packed function with the arrays."""
    with tarfile.open(archive) as tar:
        tar.extractall(path, filter="data")
    sources = sorted((path / "codegen/host/src").glob("*.c"))
    subprocess.run(["gcc", "-shared", "-fPIC", f"-I{RUNTIME / 'include'}", *sources, "-o", path / "m.so"], check=True)
    tensors = [_Tensor(data=array.ctypes.data) for array in arrays]
    values = (ctypes.c_void_p * len(tensors))(*(ctypes.addressof(tensor) for tensor in tensors))
    codes = (ctypes.c_int * len(tensors))(*[7] * len(tensors))
    function = getattr(ctypes.CDLL(str(path / "m.so")), symbol)
    status: int = function(values, codes, len(tensors), None, None, None)
    return status


def test_packed_interface_unpacks_the_arguments(tmp_path: Path) -> None:
    description = BASE.replace("[entry]", 'interface = "packed"\n[entry]')
    archive = made(tmp_path, {"description.toml": description, "m.c": DENSE})
    scores = np.zeros((1, 2), np.float32)

    found = module(archive)
    assert (found.interface, found.operators) == ("packed", "unpacked")
    assert found.entrypoints == {"main": "tvmgen_kws___tvm_main__", "tvm_module_main": "tvmgen_kws_tvm_module_main"}
    assert call_packed(archive, "tvmgen_kws_tvm_module_main", [X, scores], tmp_path / "x") == 0
    assert scores.tolist() == Y.tolist()
    assert call_packed(archive, "tvmgen_kws_tvm_module_main", [X], tmp_path / "x") == -1


def test_packed_function_is_recorded_by_its_own_name(tmp_path: Path) -> None:
    description = BASE.replace("[entry]", 'interface = "packed"\noperators = "packed"\n[entry]')
    description = description.replace('arguments = ["samples", "scores"]\nreturns = "void"\n', "").replace('"dense"', '"kws_packed"')  # fmt: skip
    code = (
        '#include "tvm/runtime/c_runtime_api.h"\n'
        + DENSE
        + """
int32_t kws_packed(TVMValue* args, int* type_codes, int num_args, TVMValue* ret, int* ret_code, void* handle) {
  dense(((DLTensor*)args[0].v_handle)->data, ((DLTensor*)args[1].v_handle)->data);
  return 0;
}
"""
    )
    archive = made(tmp_path, {"description.toml": description, "m.c": code})
    scores = np.zeros((1, 2), np.float32)

    assert module(archive).entrypoints == {"tvm_module_main": "kws_packed"}
    assert [name for name in names(archive) if "/src/" in name] == ["codegen/host/src/kws_lib0.c"]
    assert call_packed(archive, "kws_packed", [X, scores], tmp_path / "x") == 0
    assert scores.tolist() == Y.tolist()


def interface(*, pools: tuple[Pool, ...] = ()) -> codegen.ModelInterface:
    kinds = ("bool", "int4", "float16", "bfloat16", "float64", "uint64")
    tensors = tuple(Tensor(name=kind, c_name=f"{kind}_{'x' * 30}", dtype=kind, shape=(4,), size_bytes=4) for kind in kinds)  # fmt: skip
    return codegen.ModelInterface(name="kws", inputs=tensors[:3], outputs=tensors[3:], external_pools=pools, workspace_bytes=0)  # fmt: skip


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("has_header", [True, False])
@pytest.mark.parametrize("is_packed", [True, False])
def test_generated_code_has_nothing_that_a_compiler_warns_of(
    tmp_path: Path, compiler: str, *, has_header: bool, is_packed: bool
) -> None:
    pools = (
        () if is_packed else (Pool(name="ram", kind="workspace", size_bytes=8, alignment_bytes=16, is_internal=False),)
    )
    arena = Pool(name="arena", kind="workspace", size_bytes=64, alignment_bytes=32, is_internal=True)
    model = interface(pools=pools)
    arguments = (
        [tensor.c_name for tensor in (*model.outputs, *model.inputs)] + ["arena"] + [pool.name for pool in pools]
    )
    call = codegen.ForeignCall(
        function="predict", arguments=(*arguments, *([5] if has_header else [])), gives_status=has_header,
        header="own.h" if has_header else None, buffers=(arena,),
    )  # fmt: skip
    text = codegen.entrypoint_source(model, call, main="tvmgen_kws___tvm_main__", is_packed=is_packed)
    parameters = ["double out[2][2]"] + ["void*"] * (len(arguments) - 1) + ["int"]
    header = codegen.model_header(model)
    folder(tmp_path, {"m.c": text, "own.h": f"int predict({', '.join(parameters)});\n", "tvmgen_kws.h": header, "h.cpp": '#include "tvmgen_kws.h"\n'})  # fmt: skip

    subprocess.run([compiler, *STRICT, f"-I{RUNTIME / 'include'}", "-c", "m.c"], cwd=tmp_path, check=True)
    subprocess.run([compiler, *STRICT[1:], "-x", "c++", "-c", "h.cpp"], cwd=tmp_path, check=True)
    assert max(map(len, text.splitlines())) <= 104


def test_archive_becomes_version_7_and_back(tmp_path: Path) -> None:
    pool = '[[pools]]\nname = "arena"\nmemory = "internal"\nsize_bytes = 48\n'
    description = BASE.replace('["samples", "scores"]', '["samples", "scores", "arena"]') + pool
    code = DENSE.replace("float scores[1][2])", "float scores[1][2], float* arena)")
    archive = made(tmp_path, {"description.toml": description, "m.c": code})

    convert(archive, to=7, output=tmp_path / "7.tar")
    convert(tmp_path / "7.tar", to=8, output=tmp_path / "8.tar")

    old, new = module(tmp_path / "7.tar"), module(tmp_path / "8.tar")
    assert (old.version, old.interface, old.operators, old.findings) == (7, "c", "unpacked", ())
    assert [(item.name, item.dtype, item.size_bytes) for item in (*old.inputs, *old.outputs)] == [
        ("samples", "float32", 12),
        ("scores", "float32", 8),
    ]
    assert old.pools == new.pools == module(archive).pools
    assert run(tmp_path / "7.tar", {"samples": X})["scores"].tolist() == Y[0].tolist()


def test_parameters_keep_names_and_order(tmp_path: Path) -> None:
    arrays: Any = {"w": np.arange(3, dtype=np.int8), "b": np.ones((2, 2), np.float32)}
    np.savez(tmp_path / "w.npz", **arrays)
    params = [param_from_array(name, array) for name, array in arrays.items()]
    rendered = render_params(params)
    for file, data in (("w.npz", (tmp_path / "w.npz").read_bytes()), ("w.params", rendered)):
        description = BASE + f'[parameters]\nfile = "{file}"\n'
        archive = made(tmp_path / file.replace(".", ""), {"description.toml": description, "m.c": DENSE, file: data})
        assert member(archive, "parameters/kws.params") == rendered


def test_archive_without_parameters_has_the_empty_file_that_tvm_wrote(tmp_path: Path) -> None:
    data = member(made(tmp_path, {"description.toml": BASE, "m.c": DENSE}), "parameters/kws.params")

    assert len(data) == 32
    assert parse_params(data, where="kws.params") == ()


def golden(path: Path, scores: npt.NDArray[Any] = Y, **more: Any) -> GoldenFiles:
    path.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path / "in.npz", samples=X)
    np.savez_compressed(path / "out.npz", scores=scores)
    return GoldenFiles(inputs=path / "in.npz", outputs=path / "out.npz", **more)


def test_golden_data_is_kept_in_one_form(tmp_path: Path) -> None:
    files = golden(tmp_path / "golden")
    source = folder(tmp_path / "source", {"description.toml": BASE, "m.c": DENSE})
    export(source, output=tmp_path / "out.tar", golden=[files, GoldenFiles(inputs=files.inputs, outputs=files.outputs, rtol=0.0, atol=0.5, name="loose")])  # fmt: skip

    tests = module(tmp_path / "out.tar").tests
    assert [(test.name, test.rtol, test.atol) for test in tests] == [("golden1", 1e-5, 1e-6), ("loose", 0.0, 0.5)]
    save_arrays(tmp_path / "same.npz", {"samples": X})
    assert member(tmp_path / "out.tar", tests[0].inputs) == (tmp_path / "same.npz").read_bytes()
    assert validate(tmp_path / "out.tar").findings == ()


def test_golden_data_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    source = folder(tmp_path / "source", {"description.toml": BASE, "m.c": DENSE})
    files = golden(tmp_path / "golden", Y.astype(np.float64))
    np.savez(files.inputs, samples=X[:, :2], other=X)
    with pytest.raises(TensorError) as caught:
        export(source, output=tmp_path / "out.tar", golden=[files])

    assert str(caught.value) == (
        "description.toml: golden data: 3 faults:\nin.npz: `other` is no input; the inputs are `samples`\n"
        "in.npz: `samples` has shape 1x2, expected 1x3\nout.npz: `scores` has dtype float64, expected float32"
    )


def test_archive_of_an_older_version_becomes_version_8_with_golden_data(tmp_path: Path) -> None:
    files = GoldenFiles(inputs=SAMPLES / "tone.inputs.npz", outputs=SAMPLES / "tone.outputs.npz")
    result = export(SAMPLES / "tone.tar", output=tmp_path / "tone.tar", golden=[files])
    convert(SAMPLES / "tone.tar", to=8, output=tmp_path / "same.tar")

    assert validate(tmp_path / "tone.tar").findings == ()
    assert [test.name for test in module(tmp_path / "tone.tar").tests] == ["golden1"]
    assert names(tmp_path / "tone.tar") == [*names(tmp_path / "same.tar"), "tests/default/golden1.inputs.npz", "tests/default/golden1.outputs.npz"]  # fmt: skip
    assert result.identity == read_contents(tmp_path / "tone.tar").identity

    again = export(tmp_path / "tone.tar", output=tmp_path / "again.tar", golden=[files])
    assert [test.name for test in module(tmp_path / "again.tar").tests] == ["golden1", "golden2"]
    assert again.member_count == result.member_count + 2


def unpacked(archive: Path, path: Path, *, without: str = "") -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(path, filter="data")
    (path / without).unlink() if without else None
    return path


def test_folder_of_tvm_is_exported_where_it_lies(tmp_path: Path) -> None:
    source = unpacked(SAMPLES / "glyph.tar", tmp_path / "glyph")
    first = export(source, output=source / "glyph.tar")
    second = export(source, output=source / "glyph.tar")

    assert first == second
    assert "glyph.tar" not in names(source / "glyph.tar")


@pytest.mark.parametrize("name", ["tone", "glyph", "motor"])
@pytest.mark.parametrize("is_flat", [False, True])
def test_code_of_tvm_needs_no_metadata(tmp_path: Path, name: str, *, is_flat: bool) -> None:
    source = unpacked(SAMPLES / f"{name}.tar", tmp_path / "x", without="metadata.json")
    if is_flat:
        files = [path for path in source.rglob("*") if path.is_file()]
        source = folder(tmp_path / "flat", {path.name: path.read_bytes() for path in files})
    export(source, output=tmp_path / "out.tar")
    inputs, outputs = (load_arrays(SAMPLES / f"{name}.{kind}.npz") for kind in ("inputs", "outputs"))
    old, new = module(SAMPLES / f"{name}.tar"), module(tmp_path / "out.tar")

    assert validate(tmp_path / "out.tar").findings == ()
    assert (new.inputs, new.outputs, new.pools, new.entrypoints) == (
        old.inputs,
        old.outputs,
        old.pools,
        old.entrypoints,
    )
    found = run(tmp_path / "out.tar", inputs)
    for key, values in outputs.items():
        np.testing.assert_allclose(found[key], values.reshape(-1), rtol=1e-5, atol=1e-6)


def test_code_of_tvm_that_lacks_its_header_says_so(tmp_path: Path) -> None:
    source = unpacked(SAMPLES / "motor.tar", tmp_path / "motor", without="metadata.json")
    (source / "codegen/host/include/tvmgen_default.h").unlink()
    with pytest.raises(InputError) as caught:
        export(source, output=tmp_path / "out.tar")

    assert str(caught.value) == (
        "motor: is code of TVM without metadata.json: there is no codegen/host/include/tvmgen_default.h, which "
        "default_lib0.c includes"
    )


def test_code_of_tvm_without_a_way_in_says_what_is_missing(tmp_path: Path) -> None:
    source = folder(tmp_path / "model", {"default_lib0.c": ";\n", "default_lib1.c": "int32_t tvmgen_default_add(float* a) {\n}\n"})  # fmt: skip
    with pytest.raises(InputError) as caught:
        export(source, output=tmp_path / "out.tar")

    assert str(caught.value) == (
        "model: is code of TVM without metadata.json: nothing in the code runs the model `default`, and there is no "
        "executor-config/graph/default.graph"
    )


def test_one_of_two_models_of_tvm_is_chosen_by_name(tmp_path: Path) -> None:
    source = unpacked(SAMPLES / "glyph.tar", tmp_path / "two", without="metadata.json")
    for path in [path for path in source.rglob("*default*") if path.is_file()]:
        copy = path.with_name(path.name.replace("default", "first"))
        copy.write_text(path.read_text(errors="surrogateescape").replace("default", "first").replace("DEFAULT", "FIRST"), errors="surrogateescape")  # fmt: skip
    with pytest.raises(InputError) as caught:
        export(source, output=tmp_path / "out.tar")
    assert str(caught.value) == "two: has the models `default`, `first`"
    assert caught.value.hint == "choose one: `--name default`"

    export(source, output=tmp_path / "out.tar", name="first")
    assert module(tmp_path / "out.tar").entrypoints["run"] == "tvmgen_first_run"
    assert not [name for name in names(tmp_path / "out.tar") if "default" in name]


def test_golden_data_for_one_of_several_modules_needs_its_name(tmp_path: Path) -> None:
    source = unpacked(SAMPLES / "glyph.tar", tmp_path / "two")
    document = json.loads((source / "metadata.json").read_text())
    document["modules"]["other"] = {**document["modules"]["default"], "model_name": "other"}
    (source / "metadata.json").write_text(json.dumps(document))
    for path in [path for path in source.rglob("*default*") if path.is_file()]:
        shutil.copyfile(path, path.with_name(path.name.replace("default", "other")))
    header = source / "codegen/host/include/tvmgen_other.h"
    header.write_text(header.read_text().replace("default", "other").replace("DEFAULT", "OTHER"))
    files = GoldenFiles(inputs=SAMPLES / "glyph.inputs.npz", outputs=SAMPLES / "glyph.outputs.npz")
    with pytest.raises(UnsupportedError) as caught:
        export(source, output=tmp_path / "out.tar", golden=[files])

    assert str(caught.value) == "two: has the modules `default`, `other`; golden data belongs to one"
    assert export(source, output=tmp_path / "out.tar", golden=[files], name="default").modules == ("default",)


def test_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError) as caught:
        export(tmp_path / "gone.tar", output=tmp_path / "out.tar")

    assert str(caught.value) == "gone.tar: no such file"


def test_model_gets_the_name_that_is_given(tmp_path: Path) -> None:
    source = folder(tmp_path / "source", {"description.toml": BASE, "dense.c": DENSE})
    export(source / "description.toml", output=tmp_path / "out.tar", name="other")

    assert module(tmp_path / "out.tar").entrypoints["run"] == "tvmgen_other_run"


def test_generated_entrypoint_reads_as_if_written_by_hand(tmp_path: Path) -> None:
    export(SAMPLES / "described", output=tmp_path / "knock.tar")

    assert member(tmp_path / "knock.tar", "codegen/host/src/knock_lib0.c").decode() == (
        """\
/* Entrypoint of model `knock`: generated by mlf, do not edit. */
#include <stdint.h>

#include "knock.h"
#include "tvmgen_knock.h"

__attribute__((section(".bss.noinit.tvm"), aligned(16)))
static uint8_t scratch[16];

/* Gives the model's own function what it expects, in its order. */
int32_t tvmgen_knock___tvm_main__(int8_t* window, int8_t* scores) {
  return knock_detect((void*)window, 16, (void*)scratch, (void*)scores);
}

int32_t tvmgen_knock_run(struct tvmgen_knock_inputs* inputs, struct tvmgen_knock_outputs* outputs) {
  return tvmgen_knock___tvm_main__(inputs->window, outputs->scores);
}
"""
    )
