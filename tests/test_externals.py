from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
import toolbox

from mlf.externals import declared_families, is_allowed
from mlf.toolchain import TARGETS, find_compiler

if TYPE_CHECKING:
    from pathlib import Path

FAMILIES = {
    "c-library": ["memcpy", "malloc", "printf", "__memcpy_chk"],
    "math": ["tanh", "powf", "fmal", "__isnanf"],
    "compiler": [
        "__aeabi_fadd",
        "__aeabi_unwind_cpp_pr0",
        "__aeabi_unwind_cpp_pr2",
        "__extendhfsf2",
        "__truncsfhf2",
        "__gnu_h2f_ieee",
        "__udivdi3",
        "__multi3",
        "__riscv_save_3",
        "__aarch64_ldadd4_acq_rel",
        "__atomic_load_8",
        "__stack_chk_fail",
        "_Unwind_Resume",
    ],
    "linker": ["_GLOBAL_OFFSET_TABLE_", "__start_models", "__dso_handle"],
    "cmsis-nn": [
        "arm_convolve_wrapper_s8",
        "arm_convolve_wrapper_s8_get_buffer_size",
        "arm_depthwise_conv_wrapper_s16",
        "arm_fully_connected_s4",
        "arm_nn_mat_mult_nt_t_s8",
        "arm_max_pool_s8",
        "arm_avepool_q7_HWC",
        "arm_softmax_u8",
        "arm_relu_q7",
        "arm_elementwise_add_f32",
        "arm_q7_to_q15_no_shift",
        "arm_vector_sum_s8",
    ],
    "cmsis-dsp": ["arm_add_f32", "arm_mat_mult_fast_q15", "arm_q7_to_q15", "arm_and_u8", "arm_cfft_f32"],
    "ethos-u": ["TVMEthosULaunch", "ethosu_invoke_v3", "ethosu_reserve_driver"],
    "device-hooks": ["TVMDeviceEthosUActivate", "TVMDeviceNpuOpen", "TVMDeviceNpuClose", "TVMDeviceNpuDeactivate"],
    "nmsis-nn": ["riscv_convolve_wrapper_s8", "riscv_nn_mat_mult_nt_t_s8"],
    "nmsis-dsp": ["riscv_add_q15"],
    "muriscv-nn": ["muriscv_nn_convolve_s8"],
    "esp-nn": ["esp_nn_conv_s8_opt"],
}
BACKENDS = [family for family in FAMILIES if family not in ("c-library", "math", "compiler", "linker")]
PAIRS = [(family, name) for family, names in FAMILIES.items() for name in names]


@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_a_backends_names_are_allowed_only_where_its_library_is_declared(family: str, name: str) -> None:
    others = [other for other in BACKENDS if other != family]

    assert is_allowed(name) is (family not in BACKENDS)
    assert is_allowed(name, declared=[family])
    if family in BACKENDS and not family.startswith("cmsis"):
        assert not is_allowed(name, declared=others)


UNKNOWN = [
    "tvmgen_default_fused_add",
    "TVMFuncCall",
    "TVMDeviceAllocDataSpace",
    "TVMDevice",
    "armory_s8",
    "arm_",
    "ethosu",
    "network",
    "memcpy2",
    "__addsf4x",
    "__aarch64_ldadd4",
    "my_ai_hw_conv2d",
    "",
]


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_nothing_is_known_to_supply_is_not_allowed(name: str) -> None:
    assert not is_allowed(name, declared=BACKENDS)


@pytest.mark.parametrize("name", ["arm_elementwise_add_f32", "arm_relu_q7"])
def test_a_name_that_two_libraries_may_have_is_allowed_where_either_is_declared(name: str) -> None:
    assert is_allowed(name, declared=["cmsis-nn"])
    assert is_allowed(name, declared=["cmsis-dsp"])


@pytest.mark.parametrize(
    ("includes", "families"),
    [
        (["arm_nnfunctions.h", "arm_nn_types.h"], {"cmsis-nn"}),
        (["dsp/arm_math.h", "Include/arm_nnsupportfunctions.h"], {"cmsis-dsp", "cmsis-nn"}),
        (["tvm_ethosu_runtime.h"], {"ethos-u", "device-hooks"}),
        (["ethosu_driver.h"], {"ethos-u"}),
        (["muriscv_nn_functions.h", "esp_nn.h"], {"muriscv-nn", "esp-nn"}),
        (["riscv_math.h", "riscv_nnfunctions.h"], {"nmsis-dsp", "nmsis-nn"}),
        (["math.h", "stdio.h", "tvm/runtime/c_runtime_api.h", "my_arm_math.h"], set()),
        ([], set()),
    ],
)
def test_headers_tell_which_libraries_code_uses(includes: list[str], families: set[str]) -> None:
    assert declared_families(includes) == families


def test_a_user_may_promise_names_of_his_own_by_patterns() -> None:
    assert is_allowed("my_ai_hw_conv2d", extra=["other", "my_ai_*"])
    assert is_allowed("my_ai", extra=["my_ai"])
    assert not is_allowed("my_AI", extra=["my_ai"])
    assert not is_allowed("not_my_ai_hw", extra=["my_ai_*"])


# Half floats, 64-bit and unsigned division, shifts, conversions, complex numbers, atomics, copies: what has no instruction.
ARITHMETIC = """
#include <stdint.h>
#include <string.h>
typedef struct { char text[200]; } block;
void copy(block* to, const block* from) { *to = *from; }
void clear(block* to) { memset(to, 0, sizeof *to); }
double arithmetic(double x, float y, int64_t a, uint64_t b, int shift) {
  int64_t whole = a / (int64_t)(b | 1) + (a << shift) + (int64_t)(b % 7) + (int64_t)x;
  float quotient = y / (float)whole + (float)b + (float)x;
  return x * quotient - (double)a + (x < y ? 1 : 2) + __builtin_popcountll(b) + __builtin_clzll(b | 1);
}
int compare(double x, double y) { return (x == y) + 2 * (x >= y) + 4 * __builtin_isunordered(x, y); }
unsigned divide(unsigned a, unsigned b) { return a / b + a % b; }
uint64_t add(uint64_t* value) { return __atomic_fetch_add(value, 1, __ATOMIC_SEQ_CST); }
float power(float x, int n) { return __builtin_powif(x, n); }
"""


@pytest.mark.parametrize("compiler", [None, "clang", f"{sys.executable} -m ziglang cc"], ids=["gcc", "clang", "zig"])
@pytest.mark.parametrize("target", [name for name in TARGETS if name != "host"])
def test_all_that_compilers_call_on_their_own_is_allowed(tmp_path: Path, target: str, compiler: str | None) -> None:
    (tmp_path / "code.c").write_text(ARITHMETIC)
    find_compiler(TARGETS[target], cc=compiler).compile("code.c", "code.o", cwd=tmp_path)

    needed = [line.split()[0] for line in toolbox.undefined_names((tmp_path / "code.o").read_bytes())]

    assert needed
    assert [name for name in needed if not is_allowed(name)] == []
