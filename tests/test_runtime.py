"""The C that ships with mlf, judged by the compilers and emulators it is for, and what is built around models with it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import mlf
from mlf.arrays import load_arrays
from mlf.boards import build_firmware, run_firmware
from mlf.errors import ToolError
from mlf.toolchain import TARGETS, find_compiler

RUNTIME = Path(__file__).resolve().parent.parent / "mlf" / "runtime"
INCLUDE = RUNTIME / "include"
LIBC = RUNTIME / "libc"
BOARD = RUNTIME / "board"

STRICT = ("-Wall", "-Wextra", "-Werror", "-pedantic")
ZIG = (sys.executable, "-m", "ziglang", "cc", "-g0")

HOST = ("gcc",)
CORTEX_M4 = ("arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")
RV32 = ("riscv64-unknown-elf-gcc", "-march=rv32imac", "-mabi=ilp32", "-ffreestanding")
ZIG_CORTEX_M4 = (*ZIG, "-target", "thumb-freestanding-eabihf", "-mcpu=cortex_m4+vfp4d16sp", "-ffreestanding")
CLANG_CORTEX_M4 = ("clang", "-target", "thumbv7em-none-eabi", "-mcpu=cortex-m4", "-ffreestanding")

EMULATOR_SECONDS = 20  # the slowest program takes one; a program that hangs must fail its test, not stop the run


def run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=EMULATOR_SECONDS,
        check=False,
    )


def compile_text(tmp_path: Path, text: str, compiler: tuple[str, ...], *flags: str | Path) -> str:
    """What the compiler says about `text`; nothing when it is content."""
    source = tmp_path / "source.c"
    source.write_text(text, encoding="utf-8")
    result = run(*compiler, *flags, "-c", source, "-o", tmp_path / "source.o")
    return result.stderr or ("" if result.returncode == 0 else f"status {result.returncode}")


# Sizes, offsets and values as TVM 0.16's own headers gave them to these compilers: host, 32 bits.
LAYOUT = {
    "sizeof(DLDevice)": (8, 8),
    "sizeof(DLDataType)": (4, 4),
    "sizeof(DLTensor)": (48, 40),
    "sizeof(TVMValue)": (8, 8),
    "sizeof(TVMByteArray)": (16, 8),
    "sizeof(TVMParallelGroupEnv)": (16, 8),
    "sizeof(struct TVMTensorInfo)": (32, 24),
    "sizeof(struct TVMConstantInfo)": (32, 32),
    "sizeof(struct TVMMetadata)": (80, 80),
    "offsetof(DLDevice, device_type)": (0, 0),
    "offsetof(DLDevice, device_id)": (4, 4),
    "offsetof(DLDataType, code)": (0, 0),
    "offsetof(DLDataType, bits)": (1, 1),
    "offsetof(DLDataType, lanes)": (2, 2),
    "offsetof(DLTensor, data)": (0, 0),
    "offsetof(DLTensor, device)": (8, 4),
    "offsetof(DLTensor, ndim)": (16, 12),
    "offsetof(DLTensor, dtype)": (20, 16),
    "offsetof(DLTensor, shape)": (24, 20),
    "offsetof(DLTensor, strides)": (32, 24),
    "offsetof(DLTensor, byte_offset)": (40, 32),
    "offsetof(TVMByteArray, data)": (0, 0),
    "offsetof(TVMByteArray, size)": (8, 4),
    "offsetof(TVMParallelGroupEnv, sync_handle)": (0, 0),
    "offsetof(TVMParallelGroupEnv, num_task)": (8, 4),
    "offsetof(struct TVMTensorInfo, name)": (0, 0),
    "offsetof(struct TVMTensorInfo, shape)": (8, 4),
    "offsetof(struct TVMTensorInfo, num_shape)": (16, 8),
    "offsetof(struct TVMTensorInfo, dtype)": (24, 16),
    "offsetof(struct TVMConstantInfo, name_hint)": (0, 0),
    "offsetof(struct TVMConstantInfo, byte_offset)": (8, 8),
    "offsetof(struct TVMConstantInfo, data_len)": (16, 16),
    "offsetof(struct TVMConstantInfo, data_bytes)": (24, 24),
    "offsetof(struct TVMMetadata, version)": (0, 0),
    "offsetof(struct TVMMetadata, inputs)": (8, 8),
    "offsetof(struct TVMMetadata, num_inputs)": (16, 16),
    "offsetof(struct TVMMetadata, outputs)": (24, 24),
    "offsetof(struct TVMMetadata, num_outputs)": (32, 32),
    "offsetof(struct TVMMetadata, workspace_pools)": (40, 40),
    "offsetof(struct TVMMetadata, num_workspace_pools)": (48, 48),
    "offsetof(struct TVMMetadata, constant_pools)": (56, 56),
    "offsetof(struct TVMMetadata, num_constant_pools)": (64, 64),
    "offsetof(struct TVMMetadata, mod_name)": (72, 72),
}

ENUMERATORS = {
    "kDLCPU": 1,
    "kDLCUDA": 2,
    "kDLCUDAHost": 3,
    "kDLOpenCL": 4,
    "kDLVulkan": 7,
    "kDLMetal": 8,
    "kDLVPI": 9,
    "kDLROCM": 10,
    "kDLROCMHost": 11,
    "kDLExtDev": 12,
    "kDLCUDAManaged": 13,
    "kDLOneAPI": 14,
    "kDLWebGPU": 15,
    "kDLHexagon": 16,
    "kDLInt": 0,
    "kDLUInt": 1,
    "kDLFloat": 2,
    "kDLOpaqueHandle": 3,
    "kDLBfloat": 4,
    "kDLComplex": 5,
    "kTVMArgInt": 0,
    "kTVMArgFloat": 2,
    "kTVMOpaqueHandle": 3,
    "kTVMNullptr": 4,
    "kTVMDataType": 5,
    "kDLDevice": 6,
    "kTVMDLTensorHandle": 7,
    "kTVMObjectHandle": 8,
    "kTVMModuleHandle": 9,
    "kTVMPackedFuncHandle": 10,
    "kTVMStr": 11,
    "kTVMBytes": 12,
    "kTVMNDArrayHandle": 13,
    "kTVMObjectRValueRefArg": 14,
    "kTVMArgBool": 15,
}

# A second declaration with another type is an error, so that these compile only while the headers agree.
PROTOTYPES = """
void TVMAPISetLastError(const char*);
const char* TVMGetLastError(void);
int TVMFuncCall(void*, TVMValue*, int*, int, TVMValue*, int*);
int TVMCFuncSetReturn(void*, TVMValue*, int*, int);
void* TVMBackendAllocWorkspace(int, int, uint64_t, int, int);
int TVMBackendFreeWorkspace(int, int, void*);
int TVMBackendParallelLaunch(int (*)(int, TVMParallelGroupEnv*, void*), void*, int);
int TVMBackendParallelBarrier(int, TVMParallelGroupEnv*);
int TVMBackendGetFuncFromEnv(void*, const char*, void**);
int TVMBackendRegisterSystemLibSymbol(const char*, void*);
int TVMBackendRunOnce(void**, int (*)(void*), void*, int);
extern int (*packed)(TVMValue*, int*, int, TVMValue*, int*, void*);
extern TVMBackendPackedCFunc packed;
"""

ABI_HEADERS = """
#include <tvm/runtime/c_runtime_api.h>
#include <tvm/runtime/c_backend_api.h>
#include <tvm/runtime/metadata_types.h>
"""


def abi_table(column: int) -> str:
    expected = {name: values[column] for name, values in LAYOUT.items()} | ENUMERATORS
    checks = [
        f"typedef char check_{index}[({name}) == {value} ? 1 : -1];"
        for index, (name, value) in enumerate(expected.items())
    ]
    return "\n".join([ABI_HEADERS, PROTOTYPES, *checks, "extern check_0 checked;", ""])


@pytest.mark.parametrize(
    ("compiler", "column"),
    [
        pytest.param(HOST, 0, id="host"),
        pytest.param(CORTEX_M4, 1, id="cortex-m4"),
        pytest.param(CLANG_CORTEX_M4, 1, id="cortex-m4-clang"),
        pytest.param(RV32, 1, id="rv32"),
    ],
)
def test_abi_headers_have_the_layout_values_and_prototypes_of_tvm(
    tmp_path: Path, compiler: tuple[str, ...], column: int
) -> None:
    said = compile_text(tmp_path, abi_table(column), compiler, *STRICT, "-std=c99", "-I", INCLUDE, "-idirafter", LIBC)

    assert said == ""


def test_abi_table_of_another_data_model_does_not_compile(tmp_path: Path) -> None:
    said = compile_text(tmp_path, abi_table(1), HOST, "-std=c99", "-I", INCLUDE)

    assert "size of array 'check_2' is negative" in said


@pytest.mark.parametrize("compiler", [HOST, CORTEX_M4, RV32], ids=["host", "cortex-m4", "rv32"])
def test_device_type_has_32_bits_also_where_enums_are_short(tmp_path: Path, compiler: tuple[str, ...]) -> None:
    text = "#include <dlpack/dlpack.h>\nextern char wide[sizeof(DLDeviceType) == 4 ? 1 : -1];\n"

    assert compile_text(tmp_path, text, compiler, *STRICT, "-std=c99", "-I", INCLUDE) == ""


@pytest.mark.parametrize(
    "header", sorted(path.relative_to(INCLUDE).as_posix() for path in INCLUDE.rglob("*.h")), ids=str
)
@pytest.mark.parametrize(
    "compiler",
    [
        pytest.param((*HOST, "-std=c99", "-Wstrict-prototypes"), id="c99"),
        pytest.param((*HOST, "-x", "c++", "-std=c++11"), id="c++11"),
        pytest.param(("clang", "-std=c99"), id="clang-c99"),
        pytest.param((*RV32, "-x", "c++"), id="rv32-c++"),
    ],
)
def test_abi_header_compiles_alone_without_a_warning(tmp_path: Path, compiler: tuple[str, ...], header: str) -> None:
    text = f"#include <{header}>\nextern DLTensor tensor;\n"

    assert compile_text(tmp_path, text, compiler, *STRICT, "-I", INCLUDE) == ""


# One operator and one packed main in the manner of TVM's C code generator.
GENERATED = """
#define TVM_EXPORTS
#include "tvm/runtime/c_runtime_api.h"
#include "tvm/runtime/c_backend_api.h"
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <tvm/runtime/metadata_types.h>
#ifdef __cplusplus
extern "C"
#endif
TVM_DLL int32_t tvmgen_kws_exp(void* args, int32_t* codes, int32_t n, void* ret, int32_t* ret_code, void* resource);
#ifdef __cplusplus
extern "C"
#endif
TVM_DLL int32_t tvmgen_kws_exp(void* args, int32_t* codes, int32_t n, void* ret, int32_t* ret_code, void* resource) {
  void* x = (((TVMValue*)args)[0].v_handle);
  float* x_data = (float*)(((DLTensor*)x)[0].data);
  int64_t* x_shape = (int64_t*)(((DLTensor*)x)[0].shape);
  int32_t device_id = (((DLTensor*)x)[0].device.device_id);
  void* sid = TVMBackendAllocWorkspace(1, device_id, (uint64_t)64, 2, 32);
  if (sid == NULL) { return -1; }
  for (int32_t i = 0; i < (int32_t)x_shape[0]; ++i) {
    ((float*)sid)[i] = expf(x_data[i]) + fmaxf(x_data[i], 0.0f) * (float)floor(tanh((double)x_data[i]));
    x_data[i] = isnan(x_data[i]) ? -INFINITY : ((float*)sid)[i];
  }
  (void)codes; (void)n; (void)resource;
  ((TVMValue*)ret)[0].v_int64 = 0;
  ret_code[0] = kTVMArgInt;
  return TVMBackendFreeWorkspace(kDLCPU, device_id, sid);
}
static const int64_t shape[1] = {16};
static const struct TVMTensorInfo inputs[1] = {{"x", shape, 1, {kDLFloat, 32, 1}}};
extern const struct TVMMetadata kws_metadata;
const struct TVMMetadata kws_metadata = {1, inputs, 1, NULL, 0, NULL, 0, NULL, 0, "tvmgen_kws"};
"""


@pytest.mark.parametrize(
    "compiler",
    [
        pytest.param(HOST, id="host"),
        pytest.param((*HOST, "-x", "c++"), id="host-c++"),
        pytest.param(CORTEX_M4, id="cortex-m4"),
        pytest.param(CLANG_CORTEX_M4, id="cortex-m4-clang"),
        pytest.param(ZIG_CORTEX_M4, id="cortex-m4-zig"),
        pytest.param(RV32, id="rv32"),
    ],
)
def test_generated_code_compiles_against_the_headers(tmp_path: Path, compiler: tuple[str, ...]) -> None:
    flags = (*STRICT, "-O2", "-I", INCLUDE, "-idirafter", LIBC)

    assert compile_text(tmp_path, GENERATED, compiler, *flags) == ""


EVERY_LIBC_HEADER = "".join(f"#include <{path.name}>\n" for path in sorted(LIBC.glob("*.h"))) + (
    "#include <stdbool.h>\n#include <stddef.h>\n#include <stdint.h>\n"
    "float use(float x);\n"
    "float use(float x) {\n"
    "  char text[8];\n"
    "  assert(!isnan(x) && !isinf(x) && isfinite(x) && !signbit(x));\n"
    '  snprintf(text, sizeof text, "%d", abs(-1));\n'
    "  memset(text, 0, strlen(text));\n"
    "  return x < NAN ? INFINITY : (float)(sin(M_PI) + HUGE_VAL) + roundf(x) + powf(x, x);\n"
    "}\n"
)


@pytest.mark.parametrize(
    "compiler",
    [
        pytest.param((*RV32, "-std=c99"), id="rv32-c99"),
        pytest.param((*RV32, "-fbuiltin", "-std=c99"), id="rv32-builtin"),
        pytest.param((*RV32, "-x", "c++"), id="rv32-c++"),
        pytest.param((*ZIG_CORTEX_M4, "-std=c99"), id="zig-c99"),
        pytest.param((*ZIG_CORTEX_M4, "-x", "c++"), id="zig-c++"),
    ],
)
def test_libc_headers_serve_a_compiler_without_a_c_library(tmp_path: Path, compiler: tuple[str, ...]) -> None:
    assert compile_text(tmp_path, EVERY_LIBC_HEADER, compiler, *STRICT, "-O2", "-idirafter", LIBC) == ""


def test_libc_headers_give_way_to_those_of_the_compiler(tmp_path: Path) -> None:
    source = tmp_path / "source.c"
    source.write_text(EVERY_LIBC_HEADER, encoding="utf-8")

    result = run(*CORTEX_M4, "-idirafter", LIBC, "-M", source)

    assert result.returncode == 0
    assert "/math.h" in result.stdout
    assert str(LIBC) not in result.stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """An emulated machine, the core it has, and where its memory lies."""

    cc: str
    cflags: str
    qemu: str
    vectors: str
    flash: tuple[str, str]
    ram: tuple[str, str]

    @property
    def sources(self) -> tuple[Path, ...]:
        start = {"arm": "start_cortex_m.c", "riscv64": "start_riscv.S", "aarch64": "start_aarch64.S"}
        names = ("memory.c", "semihosting.c", "start.c", start[self.cc.partition("-")[0]])
        return tuple(BOARD / name for name in names)

    @property
    def memory(self) -> dict[str, str]:
        return {
            "BOARD_VECTORS_ORIGIN": self.vectors,
            "BOARD_FLASH_ORIGIN": self.flash[0],
            "BOARD_FLASH_LENGTH": self.flash[1],
            "BOARD_RAM_ORIGIN": self.ram[0],
            "BOARD_RAM_LENGTH": self.ram[1],
        }


ARM = "arm-none-eabi-gcc"
RISCV = "riscv64-unknown-elf-gcc"
VIRT = "qemu-system-riscv32 -M virt -bios none"
VIRT64 = "qemu-system-riscv64 -M virt -bios none"

BOARDS = {
    "cortex-m0": Board(
        cc=ARM,
        cflags="-mthumb -mcpu=cortex-m0",
        qemu="qemu-system-arm -M microbit",
        vectors="0x0",
        flash=("0x400", "255K"),
        ram=("0x20000000", "16K"),
    ),
    "cortex-m3": Board(
        cc=ARM,
        cflags="-mthumb -mcpu=cortex-m3",
        qemu="qemu-system-arm -M mps2-an385",
        vectors="0x0",
        flash=("0x21000000", "16M"),
        ram=("0x20000000", "4M"),
    ),
    "cortex-m4": Board(
        cc=ARM,
        cflags="-mthumb -mcpu=cortex-m4 -mfloat-abi=hard -mfpu=fpv4-sp-d16",
        qemu="qemu-system-arm -M mps2-an386",
        vectors="0x0",
        flash=("0x21000000", "16M"),
        ram=("0x20000000", "4M"),
    ),
    "cortex-m7": Board(
        cc=ARM,
        cflags="-mthumb -mcpu=cortex-m7 -mfloat-abi=hard -mfpu=fpv5-d16",
        qemu="qemu-system-arm -M mps2-an500",
        vectors="0x0",
        flash=("0x60000000", "16M"),
        ram=("0x20000000", "4M"),
    ),
    "cortex-m33": Board(
        cc=ARM,
        cflags="-mthumb -mcpu=cortex-m33 -mfloat-abi=hard -mfpu=fpv5-sp-d16",
        qemu="qemu-system-arm -M mps2-an505",
        vectors="0x10000000",
        flash=("0x10000400", "4M - 1K"),
        ram=("0x80000000", "16M"),
    ),
    "cortex-m55": Board(
        cc=ARM,
        cflags="-mthumb -mcpu=cortex-m55 -mfloat-abi=hard -mfpu=auto",
        qemu="qemu-system-arm -M mps3-an547",
        vectors="0x0",
        flash=("0x70000000", "16M"),
        ram=("0x31000000", "4M"),
    ),
    "rv32imac": Board(
        cc=RISCV,
        cflags="-march=rv32imac -mabi=ilp32",
        qemu=VIRT,
        vectors="0x80000000",
        flash=("0x84000000", "64M"),
        ram=("0x80001000", "64M - 4K"),
    ),
    "rv32imafc": Board(
        cc=RISCV,
        cflags="-march=rv32imafc -mabi=ilp32f",
        qemu=VIRT,
        vectors="0x80000000",
        flash=("0x84000000", "64M"),
        ram=("0x80001000", "64M - 4K"),
    ),
    "rv64": Board(
        cc=RISCV,
        cflags="-march=rv64imac -mabi=lp64 -mcmodel=medany",
        qemu=VIRT64,
        vectors="0x80000000",
        flash=("0x84000000", "64M"),
        ram=("0x80001000", "64M - 4K"),
    ),
    "rv64gc": Board(
        cc=RISCV,
        cflags="-march=rv64gc -mabi=lp64d -mcmodel=medany",
        qemu=VIRT64,
        vectors="0x80000000",
        flash=("0x84000000", "64M"),
        ram=("0x80001000", "64M - 4K"),
    ),
    "aarch64": Board(
        cc="aarch64-linux-gnu-gcc",
        cflags="-march=armv8-a -fno-pie -static",
        qemu="qemu-system-aarch64 -M virt -cpu cortex-a53 -nic none",
        vectors="0x40000000",
        flash=("0x44000000", "64M"),
        ram=("0x40001000", "64M - 4K"),
    ),
}

every_board = pytest.mark.parametrize("board", [pytest.param(board, id=name) for name, board in BOARDS.items()])


def build(board: Board, program: str, directory: Path) -> None:
    (directory / "program.c").write_text(program, encoding="utf-8")
    result = run(
        *(board.cc, *STRICT, "-std=c99", "-O2", "-ffreestanding", *board.cflags.split(), f"-I{BOARD}"),
        *(directory / "program.c", *board.sources),
        *("-nostdlib", f"-T{BOARD / 'board.ld'}", "-Wl,--gc-sections,--fatal-warnings"),
        *(f"-Wl,--defsym={name}={value.replace(' ', '')}" for name, value in board.memory.items()),
        *("-lgcc", "-o", str(directory / "program.elf")),
    )

    assert (result.returncode, result.stderr) == (0, "")


def emulate(board: Board, directory: Path) -> subprocess.CompletedProcess[str]:
    """Standard output is what the program says, the status is the program's."""
    # A real memory holds anything after power-on, the emulator's zeros, which would hide that nobody clears it.
    (directory / "noise.bin").write_bytes(b"\xa5" * 8192)
    return run(
        *shlex.split(board.qemu),
        *("-display", "none", "-monitor", "none", "-serial", "none", "-chardev", "stdio,id=board,signal=off"),
        *("-semihosting-config", "enable=on,target=native,chardev=board", "-kernel", "program.elf"),
        *("-device", f"loader,file=noise.bin,addr={board.ram[0]},force-raw=on"),
        cwd=directory,
    )


# Every check that fails has a status of its own.
SELF_CHECK = """
#include "board.h"

extern char __data_start[], __bss_start[], __bss_end[];

static int constructed;
__attribute__((constructor)) static void construct(void) { constructed = 7; }

static volatile int data = 35;
static volatile int bss;
static __thread volatile int thread_data = 5;
static __thread volatile int thread_bss;
static volatile float factor = 1.5f;

/* As TVM emits them; an initialised array without const in a section of this name is writable to the compiler. */
__attribute__((section(".rodata.tvm"), aligned(16))) static const int constants[2] = {3, 4};
__attribute__((section(".bss.noinit.tvm"), aligned(16))) static uint8_t workspace[64];

__attribute__((noinline)) static int deep(int value) {
  volatile char frame[1000];
  int i;
  for (i = 0; i < (int)sizeof frame; ++i) frame[i] = (char)value;
  return frame[value];
}

int main(void) {
  volatile float values[4];
  float moved[4];
  int i;

  board_puts("board ");
  board_puts("program\\n");
  if (constructed != 7) return 1;
  if (data != 35 || bss != 0) return 2;
  if (thread_data != 5 || thread_bss != 0) return 3;
  if ((char*)constants >= __data_start && (char*)constants < __bss_end) return 4;
  if ((char*)workspace < __bss_start || (char*)workspace >= __bss_end || workspace[5] != 0) return 5;
  if (board_stack_used() >= 1000 || deep(9) != 9 || board_stack_used() < 1000 || board_stack_used() > 2000) return 6;
  if (board_read_file("none.bin", moved, sizeof moved) != -1) return 7;
  if (board_read_file("short.bin", moved, sizeof moved) != -1) return 8;
  if (board_read_file("long.bin", moved, sizeof moved) != -1) return 9;
  if (board_write_file("none/out.bin", moved, sizeof moved) != -1) return 10;
  if (board_read_file("in.bin", moved, sizeof moved) != 0) return 11;
  for (i = 0; i < 4; ++i) values[i] = moved[i] * factor + (float)constants[1];
  for (i = 0; i < 4; ++i) moved[i] = values[i];
  if (board_write_file("out.bin", moved, sizeof moved) != 0) return 12;
  return constructed + data;
}
"""


def put_inputs(directory: Path) -> None:
    values = struct.pack("<4f", 0, 1, -2, 1e6)
    (directory / "in.bin").write_bytes(values)
    (directory / "short.bin").write_bytes(values[:-1])
    (directory / "long.bin").write_bytes(values + b"\0")


def outputs(directory: Path) -> tuple[float, ...]:
    return struct.unpack("<4f", (directory / "out.bin").read_bytes())


OUTPUTS = (4.0, 5.5, 1.0, 1500004.0)


@every_board
def test_program_starts_computes_and_moves_files(tmp_path: Path, board: Board) -> None:
    build(board, SELF_CHECK, tmp_path)
    put_inputs(tmp_path)

    result = emulate(board, tmp_path)

    assert (result.returncode, result.stdout, result.stderr) == (42, "board program\n", "")
    assert outputs(tmp_path) == OUTPUTS


FAULT = re.compile(r"fault (?:[0-9a-f]{8}){1,2} at ((?:[0-9a-f]{8}){1,2})\n")

WILD_POINTER = """
#include "board.h"
static volatile uintptr_t nowhere = 0xe8000000u;
int main(void) {
  *(volatile int*)nowhere = 1;
  return 0;
}
"""


@every_board
def test_wild_pointer_ends_the_program_with_its_place(tmp_path: Path, board: Board) -> None:
    build(board, WILD_POINTER, tmp_path)

    result = emulate(board, tmp_path)

    match = FAULT.fullmatch(result.stdout)
    assert result.returncode == 99
    assert match is not None
    assert 0 <= int(match[1], 16) - int(board.flash[0], 16) < 4096


STACK_OVERFLOW = """
#include "board.h"
static volatile int limit = -1;
__attribute__((noinline)) static int dive(int depth) {
  volatile int frame[256];
  frame[depth & 255] = depth;
  return depth == limit ? 0 : dive(depth + 1) + frame[(depth * 7) & 255];
}
int main(void) { return dive(0); }
"""


@every_board
def test_stack_overflow_ends_the_program(tmp_path: Path, board: Board) -> None:
    build(board, STACK_OVERFLOW, tmp_path)

    result = emulate(board, tmp_path)

    assert result.returncode == 99
    assert FAULT.fullmatch(result.stdout)


# The calls are made through pointers, so that the compiler cannot do the work itself.
MEMORY_CHECK = """
#include <stddef.h>

void* memcpy(void*, const void*, size_t);
void* memmove(void*, const void*, size_t);
void* memset(void*, int, size_t);
int memcmp(const void*, const void*, size_t);

static void* (*volatile copy)(void*, const void*, size_t) = memcpy;
static void* (*volatile move)(void*, const void*, size_t) = memmove;
static void* (*volatile set)(void*, int, size_t) = memset;
static int (*volatile compare)(const void*, const void*, size_t) = memcmp;

static unsigned char bytes[32], other[32];

static void count(void) {
  int i;
  for (i = 0; i < 32; ++i) bytes[i] = (unsigned char)(i + 200);
}

static int holds(const unsigned char* at, int first, int n) {
  int i;
  for (i = 0; i < n; ++i) {
    if (at[i] != (unsigned char)(first + 200 + i)) return 0;
  }
  return 1;
}

int main(void) {
  count();
  if (copy(other, bytes, 32) != other || !holds(other, 0, 32)) return 1;
  if (copy(other + 1, bytes + 2, 7) != other + 1 || !holds(other + 1, 2, 7) || other[0] != 200 || other[8] != 208)
    return 2;
  if (move(bytes + 3, bytes, 20) != bytes + 3 || !holds(bytes + 3, 0, 20) || bytes[23] != 223) return 3;
  count();
  if (move(bytes, bytes + 4, 21) != bytes || !holds(bytes, 4, 21) || bytes[21] != 221) return 4;
  if (set(other + 1, 0x1ff, 3) != other + 1 || other[0] != 200 || other[3] != 255 || other[4] != 205) return 5;
  if (compare("abc", "abd", 2) != 0 || compare("ab", "a\\xff", 2) >= 0 || compare("b", "a", 1) <= 0) return 6;
  if (compare(bytes, other, 0) != 0) return 7;
  return 42;
}
"""


@pytest.mark.parametrize("board", [BOARDS["cortex-m0"], BOARDS["rv32imac"]], ids=["cortex-m0", "rv32imac"])
@pytest.mark.parametrize("flags", ["-O0", "-O3 -fbuiltin"])  # the second recognises loops as library functions
def test_memory_functions_are_those_of_the_standard(tmp_path: Path, board: Board, flags: str) -> None:
    build(replace(board, cflags=f"{board.cflags} {flags}"), MEMORY_CHECK, tmp_path)

    assert emulate(board, tmp_path).returncode == 42


def test_zig_links_a_program_whose_memory_a_script_assigns(tmp_path: Path) -> None:
    board = BOARDS["cortex-m4"]
    (tmp_path / "program.c").write_text(SELF_CHECK, encoding="utf-8")
    script = "".join(f"{name} = {value};\n" for name, value in board.memory.items())
    (tmp_path / "memory.ld").write_text(f'{script}INCLUDE "{BOARD / "board.ld"}"\n', encoding="utf-8")
    put_inputs(tmp_path)

    linked = run(
        *(*ZIG_CORTEX_M4, *STRICT, "-std=c99", "-O2", "-fno-sanitize=all", "-fno-unwind-tables"),
        *("-fno-asynchronous-unwind-tables", "-nostdlib", f"-I{BOARD}", f"-T{tmp_path / 'memory.ld'}"),
        *(tmp_path / "program.c", *board.sources),
        *("-o", str(tmp_path / "program.elf")),
    )
    result = emulate(board, tmp_path)

    assert (linked.returncode, linked.stderr) == (0, "")
    assert (result.returncode, result.stdout, outputs(tmp_path)) == (42, "board program\n", OUTPUTS)


NULL_POINTER = """
static const volatile int* volatile nothing;
int main(void) { return *nothing; }
"""


def test_memory_that_is_not_the_boards_is_in_no_map_of_64_bit_arm(tmp_path: Path) -> None:
    board = BOARDS["aarch64"]
    build(board, NULL_POINTER, tmp_path)

    result = emulate(board, tmp_path)

    assert result.returncode == 99
    assert FAULT.fullmatch(result.stdout)


COMPILERS = {"gcc": None, "clang": "clang", "zig": " ".join(ZIG[:-1])}
BOARD_TARGETS = [name for name, target in TARGETS.items() if not target.is_host]


def check_model(folder: Path, name: str, *, target: str, compiler: str, tolerance: float) -> None:
    """Run a real model and compare what it gives with numpy's numbers."""
    inputs = load_arrays(folder / f"{name}.inputs.npz")

    result = mlf.run(str(folder / f"{name}.tar"), inputs, target=target, cc=COMPILERS[compiler])

    for output, expected in load_arrays(folder / f"{name}.outputs.npz").items():
        got = result.outputs[output].reshape(expected.shape)
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance, err_msg=output)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("target", BOARD_TARGETS)
def test_each_compiler_makes_mathematics_right_on_each_target(real_archives: Path, target: str, compiler: str) -> None:
    check_model(real_archives, "math-usmp", target=target, compiler=compiler, tolerance=1e-5)


# What compilers have for integers: vectors, DSP instructions, 64 bits and both.
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("target", ["cortex-m55", "cortex-m33-soft", "rv64", "aarch64"])
def test_each_compiler_makes_integers_right_on_each_kind_of_target(
    real_archives: Path, target: str, compiler: str
) -> None:
    check_model(real_archives, "int8-usmp", target=target, compiler=compiler, tolerance=0)


def test_firmware_around_an_object_of_clang_is_made_by_the_gnu_compiler(tmp_path: Path) -> None:
    compiler = find_compiler(TARGETS["cortex-m4"], cc="clang")
    (tmp_path / "main.c").write_text("float tanhf(float);\nint main(void) { return tanhf(0.0f) == 0.0f ? 0 : 1; }\n")

    build_firmware(compiler, [tmp_path / "main.c"], [], "firmware.elf", folder=tmp_path)

    assert "GCC: (" in run("readelf", "--string-dump=.comment", tmp_path / "firmware.elf").stdout


def test_without_a_c_library_the_error_tells_which_package_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ld.lld").symlink_to(shutil.which("ld.lld") or "")
    clang = shutil.which("clang")
    monkeypatch.setenv("PATH", str(tmp_path))
    compiler = find_compiler(TARGETS["cortex-m4"], cc=clang)
    (tmp_path / "main.c").write_text("float tanhf(float);\nint main(void) { return tanhf(0.0f) == 0.0f ? 0 : 1; }\n")

    with pytest.raises(ToolError) as caught:
        build_firmware(compiler, [tmp_path / "main.c"], [], "firmware.elf", folder=tmp_path)

    assert "undefined symbol: tanhf" in str(caught.value)
    assert caught.value.hint == "install the package gcc-arm-none-eabi"


@pytest.mark.parametrize(
    ("target", "package"),
    [("cortex-m0", "qemu-system-arm"), ("aarch64", "qemu-system-arm"), ("rv64", "qemu-system-misc")],
)
def test_without_an_emulator_the_error_tells_which_package_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, package: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    board = TARGETS[target].board
    assert board is not None

    with pytest.raises(ToolError) as caught:
        run_firmware(board, "firmware.elf", folder=tmp_path, timeout_s=1)

    assert str(caught.value) == f"there is no `{board.emulator}`"
    assert caught.value.hint == f"install the package {package}"
