from __future__ import annotations

import io
import time

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from hypothesis import given, settings
from hypothesis import strategies as st
from toolbox import ARM_BIG, CLANG, CORTEX_M3, HOST, MIPS, RV32, ZIG, Target, compile_source, undefined_names

from mlf.constants import LIFT_THRESHOLD_BYTES, WIDTHS, LiftedSource, lift_constants

HEADERS = "#include <stdint.h>\n"
INTEGERS = [kind for kind in WIDTHS if "int" in kind]
PREFIX = "mlf.const.default_lib1."
INTEGER_LITERAL = r"[+-]?(0[xX][0-9a-fA-F]{1,16}|0[0-7]{0,20}|[1-9][0-9]{0,18})([uUlL]|ll|ULL)?"
FLOAT_LITERAL = r"[+-]?([0-9]{1,25}\.[0-9]{0,30}([eE][+-]?[0-9]{1,2})?|0x[01]\.[0-9a-f]{0,30}[pP][+-]?[0-9]{1,3})[fF]?"
OPERATORS = """\
// tvm target: c -keys=cpu\x20
#define TVM_EXPORTS
#include <stdint.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif
static const float __attribute__((section(".rodata.tvm"), aligned(16))) fused_constant_1[10] = {
    0x1.cb0828p-1, -0x1.61a3dep-2, 0x1.537efcp-1, 0x1.ff68ep-1, 0x1.3a59bep-1, 0x1.becc12p-1, 0x0p+0, 0x1p-149,\x20
    0x1.be536p-2, 0x1.68a902p-1
};
#ifdef __cplusplus
}  // extern "C"
#endif

#ifdef __cplusplus
extern "C" {
#endif
static const int16_t __attribute__((section(".rodata.tvm"), aligned(16))) fused_constant[5] = {
    +0x0024, +0x007b, -0x000d, -0x8000, +0x7fff
};
#ifdef __cplusplus
}  // extern "C"
#endif
#ifdef __cplusplus
extern "C"
#endif
int32_t tvmgen_default_fused_add(float* p0, int16_t* T_add) {
  for (int32_t i = 0; i < 5; ++i) {
    if (i != '}') {
      T_add[i] = (int16_t)(((int32_t)fused_constant[i]) + ((int32_t)(p0[i] * fused_constant_1[i])));
    }
  }
  return __LINE__;
}
"""
POOL = """\
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
__attribute__((section(".rodata.tvm"), ))
static struct global_const_workspace {
  float fused_constant_1_let[5] __attribute__((aligned(16))); // 20 bytes, aligned offset: 0
  int16_t fused_constant_let[3] __attribute__((packed, aligned(16))); // 6 bytes, aligned offset: 32
  int64_t shift_let[2] __attribute__((packed, aligned(16))); // 16 bytes, aligned offset: 48
} global_const_workspace = {
  .fused_constant_1_let = {
    0x1.cb0828p-1, 0x1.61a3dep-2, 0x1.537efcp-1, 0x1.ff68ep-1,\x20
    0x1.b89a2ap-1
  },
  .fused_constant_let = {
    +0x7fff, -0x8000, -0x0001
  },
  .shift_let = {
    +0x0000000000000001, -0x7fffffffffffffff
  },
};// of total size 64 bytes
__attribute__((section(".bss.noinit.tvm"), aligned(16)))
static uint8_t global_workspace[32];
int32_t tvmgen_default___tvm_main__(void* x, uint8_t* constants, uint8_t* workspace);
int32_t tvmgen_default_run(void* x) {
  void* data = &global_const_workspace;
  return tvmgen_default___tvm_main__(x, (uint8_t*)data, ((uint8_t*)&global_workspace)) + __LINE__;
}
#ifdef __cplusplus
}
#endif
;
"""


def lift(text: str) -> LiftedSource:
    return lift_constants(text, unit="default_lib1", threshold_bytes=1)


def uses(*names: str) -> str:
    return "const void *const uses[] = {" + ", ".join(f"&{name}" for name in names) + "};\n"


def compiled_bytes(text: str, target: Target = HOST) -> dict[str, bytes]:
    """Give the bytes of every variable in an object, as the compiler made them."""
    elf = ELFFile(io.BytesIO(compile_source(text, target, "-w", "-O0")))
    found = {}
    table = elf.get_section_by_name(".symtab")
    assert isinstance(table, SymbolTableSection)
    for symbol in table.iter_symbols():
        if symbol["st_info"]["type"] == "STT_OBJECT" and isinstance(symbol["st_shndx"], int):
            start = symbol["st_value"]
            found[symbol.name] = elf.get_section(symbol["st_shndx"]).data()[start : start + symbol["st_size"]]
    return found


def check_like_compiler(text: str, *names: str, target: Target = HOST, big_endian: bool = False) -> LiftedSource:
    """Show that the constants have the compiler's bytes, and that the text that is left needs them by name."""
    text += uses(*names)
    lifted = lift(text)
    made = compiled_bytes(text, target)
    payloads = {constant.symbol: constant.payload_for(big_endian) for constant in lifted.constants}
    assert payloads == {PREFIX + name: made[name] for name in names}
    left = compile_source(lifted.text, target, "-Wall", "-Wextra", "-Werror")
    assert undefined_names(left) == sorted(payloads)
    assert lifted.text.count("\n") == text.count("\n")
    return lifted


def array(kind: str, tokens: list[str], *, name: str = "c") -> str:
    rows = [", ".join(tokens[i : i + 8]) for i in range(0, len(tokens), 8)]
    return f"static const {kind} {name}[{len(tokens)}] = {{\n    " + ", \n    ".join(rows) + "\n};\n"


def hex_float(value: float) -> str:
    """Write a float as C++ streams do: without zeros at the end of the fraction."""
    digits, exponent = float(value).hex().split("p")
    return f"{digits.rstrip('0').rstrip('.') if '.' in digits else digits}p{exponent}"


def tvm_integer(value: int, width: int, *, signed: bool) -> str:
    sign = "" if not signed else "-" if value < 0 else "+"
    return f"{sign}0x{abs(value):0{2 * width}x}"


@pytest.mark.parametrize("kind", INTEGERS)
def test_integers_as_tvm_writes_them_have_the_compilers_bytes(kind: str) -> None:
    limits = np.iinfo(kind.removesuffix("_t"))
    random = np.random.default_rng(1).integers(limits.min, limits.max, 100, limits.dtype, endpoint=True)
    values = [limits.min, limits.max, 0, 1, limits.max // 2, limits.min // 2, *random.tolist()]
    tokens = [tvm_integer(value, WIDTHS[kind], signed=kind[0] == "i") for value in values]
    check_like_compiler(HEADERS + array(kind, tokens), "c")


@pytest.mark.parametrize("suffix", ["", "f", "F"])
def test_hexadecimal_floats_have_the_compilers_bytes(suffix: str) -> None:
    bits = np.random.default_rng(2).integers(0, 1 << 32, 300, np.uint32)
    extremes = [0.0, -0.0, 2.0**-149, -(2.0**-126), 2.0**-126 - 2.0**-149, 3.4028234663852886e38, -1.0]
    values = [value for value in [*extremes, *bits.view(np.float32).tolist()] if np.isfinite(value)]
    lifted = check_like_compiler(HEADERS + array("float", [hex_float(value) + suffix for value in values]), "c")
    assert lifted.constants[0].payload == np.array(values, "<f4").tobytes()


def test_hexadecimal_doubles_have_the_compilers_bytes() -> None:
    bits = np.random.default_rng(3).integers(0, 1 << 64, 300, np.uint64)
    extremes = [0.0, -0.0, 5e-324, -2.2250738585072014e-308, 1.7976931348623157e308]
    values = [value for value in [*extremes, *bits.view(np.float64).tolist()] if np.isfinite(value)]
    check_like_compiler(array("double", [hex_float(value) for value in values]), "c")


@pytest.mark.parametrize("kind", ["float", "double"])
def test_infinities_and_nans_have_the_compilers_bytes(kind: str) -> None:
    tokens = ["INFINITY", "-INFINITY", "NAN", "-NAN", "+NAN", "+INFINITY", "0x1p0", "-1.5e0"]
    check_like_compiler("#include <math.h>\n" + array(kind, tokens), "c")


@pytest.mark.parametrize("kind", ["float", "double"])
def test_decimal_floats_have_the_compilers_bytes(kind: str) -> None:
    values = np.random.default_rng(4).standard_normal(200) * 10.0 ** np.arange(-30, 30, 0.3)
    tokens = [f"{value:.{digits}e}" for value, digits in zip(values, [9, 12, 17, 20] * 50, strict=True)]
    check_like_compiler(
        array(kind, [*tokens, "1.", ".5", "-0.0", "1e3", "010.5", "+2.5E-3", "0X1.8P+1", "0x.8p0", "0x10.p0"]), "c"
    )


@pytest.mark.parametrize("kind", INTEGERS)
def test_integers_of_any_spelling_have_the_compilers_bytes(kind: str) -> None:
    tokens = """0 1 -1 +1 017 -017 0x7f -0x80 +0x1 255 256 -129 65535 65536 -32769 0xFFFF 0x7fffffff 0x80000000
    2147483648 -2147483648 -2147483649 4294967295 4294967296 -4294967296 0xffffffff -0x7fffffff -0x80000000
    -0xffffffff -0x80000001 -0x100000000 -020000000000 -037777777777 037777777777 9223372036854775807
    -9223372036854775807 0x8000000000000000 -0x8000000000000000 0xffffffffffffffff -0xffffffffffffffff
    18446744073709551615u 1u 1U 1l 1L 1ul 1LU 1ull 1LLU 0xffULL -1ll -1LL -0x80000000LL -1ull -5L -0XaBc""".split()
    check_like_compiler(HEADERS + array(kind, tokens), "c")


def test_minus_a_hexadecimal_literal_of_32_bits_is_positive_in_64_bits() -> None:
    lifted = check_like_compiler(HEADERS + array("int64_t", ["-0x0000000080000000", "-0x0000000080000001"]), "c")
    assert np.frombuffer(lifted.constants[0].payload, "<i8").tolist() == [0x80000000, 0x7FFFFFFF]


def check_never_wrong(kind: str, tokens: list[str]) -> None:
    names = [f"c{number}" for number in range(len(tokens))]
    text = HEADERS + "".join(array(kind, [token], name=name) for name, token in zip(names, tokens, strict=True))
    made = compiled_bytes(text + uses(*names))
    lifted = {constant.symbol.removeprefix(PREFIX): constant.payload for constant in lift(text).constants}
    assert lifted == {name: made[name] for name in lifted}


@given(st.sampled_from(INTEGERS), st.lists(st.from_regex(INTEGER_LITERAL, fullmatch=True), min_size=1))
@settings(max_examples=40, deadline=None)
def test_integer_literals_are_lifted_right_or_not_at_all(kind: str, tokens: list[str]) -> None:
    check_never_wrong(kind, tokens)


@given(st.sampled_from(["float", "double"]), st.lists(st.from_regex(FLOAT_LITERAL, fullmatch=True), min_size=1))
@settings(max_examples=40, deadline=None)
def test_float_literals_are_lifted_right_or_not_at_all(kind: str, tokens: list[str]) -> None:
    check_never_wrong(kind, tokens)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1))
def test_every_float_comes_back_from_its_text(values: list[float]) -> None:
    lifted = lift(array("float", [hex_float(value) for value in values]))
    assert lifted.constants[0].payload == np.array(values, "<f4").tobytes()


@pytest.mark.parametrize(
    "declaration",
    [
        "static const int8_t c[4] = {1, 2, 3, 4};",
        "const static int8_t c[4] = {1, 2, 3, 4,};",
        "static int8_t const c[ 4 ]={1,2,3,4};",
        'static const int8_t __attribute__((section(".rodata.tvm"), aligned(64))) c[4] = {1, 2, 3, 4};',
        '__attribute__((section(".rodata.tvm"), )) static const int8_t c[4] = {1, 2, 3, 4};',
        "static __attribute__((unused)) const int8_t c[4] __attribute__((aligned(2))) = {1, 2, 3, 4} ;",
        "static const int8_t c[4] = {\n  1, // one }\n  2, /* {\n */ 3,\n  4\n};",
        "/* a */ static const int8_t // b\nc[4] = {1, 2, 3, 4};",
        "static const int8_t c[9] = {1, 2};",
        "static const int8_t c[4] = {};",
        "static const int16_t c[2][3] = {1, 2, 3, 4, 5, 6};",
        "static const int16_t c[2][3] = {{1, 2, 3}, {4, 5, 6}};",
        "static const int16_t c[2][1][3] = {\n{{1, 2, 3,},},\n{{4, 5, 6}},\n};",
    ],
)
def test_forms_of_arrays_are_lifted(declaration: str) -> None:
    check_like_compiler(f"{HEADERS}{declaration}\n", "c")


@pytest.mark.parametrize(
    ("members", "values"),
    [
        ("int8_t a[3]; float b[2];", ".a = {1, 2, 3}, .b = {2.5, 3.5}"),
        ("int8_t a[3]; float b[2];", ".b = {2.5, 3.5}"),
        ("float a[2]; int8_t b[1];", ".b = {1}, .a = {2.5, 3.5},"),
        ("int8_t a[3] __attribute__((aligned(2))); float b[2] __attribute__((packed));", ".a = {1}, .b = {2.5}"),
        ("int8_t a[3]; float b[2] __attribute__((packed, aligned(2)));", ".a = {1}, .b = {2.5}"),
        ("float a[1] __attribute__((packed, aligned(32))); int8_t b[5] __attribute__((aligned(8)));", ".b = {1, 2}"),
        ("int8_t a[1]; double b[2] __attribute__((aligned(16))); // two\n int16_t c[1];", ".a = {1}, .c = {0x102}"),
        ("int8_t a[2][3]; // 6 bytes, aligned offset: 0\n", ".a = {{1, 2, 3}, {4, 5, 6}}"),
    ],
)
def test_the_layout_of_a_pool_is_the_compilers(members: str, values: str) -> None:
    text = f'__attribute__((section(".rodata.tvm"))) static const struct pool {{ {members} }} pool = {{ {values} }};\n'
    check_like_compiler(HEADERS + text, "pool")


@pytest.mark.parametrize("target", [HOST, CLANG, CORTEX_M3, RV32, ZIG], ids=lambda target: target.name)
@pytest.mark.parametrize(
    ("text", "names"),
    [(OPERATORS, ["fused_constant_1", "fused_constant"]), (POOL, ["global_const_workspace"])],
    ids=["operators", "pool"],
)
def test_generated_code_is_lifted_for_every_compiler(text: str, names: list[str], target: Target) -> None:
    made = compiled_bytes(text, target)
    lifted = lift(text)
    assert {constant.symbol: constant.payload for constant in lifted.constants} == {
        PREFIX + name: made[name] for name in names
    }
    needed = undefined_names(compile_source(lifted.text, target, "-Wall", "-Wextra", "-Werror"))
    assert [name for name in needed if name.startswith("mlf")] == sorted(PREFIX + name for name in names)


@pytest.mark.parametrize("text", [OPERATORS, POOL], ids=["operators", "pool"])
def test_what_is_left_is_cpp_too(text: str) -> None:
    left = compile_source(lift(text).text, HOST, "-Wall", "-Wextra", "-Werror", language="c++")
    assert [name for name in undefined_names(left) if name.startswith("mlf")] == sorted(
        constant.symbol for constant in lift(text).constants
    )


@pytest.mark.parametrize("target", [MIPS, ARM_BIG], ids=lambda target: target.name)
@pytest.mark.parametrize("text", [OPERATORS, POOL], ids=["operators", "pool"])
def test_payloads_for_big_endian_targets_are_the_compilers(text: str, target: Target) -> None:
    made = compiled_bytes(text, target)
    for constant in lift(text).constants:
        assert constant.payload_for(big_endian=True) == made[constant.symbol.removeprefix(PREFIX)]


def test_the_declaration_that_stays_has_the_old_type_and_the_new_name() -> None:
    declaration = (
        'extern const float fused_constant_1[10] __asm__("mlf.const.default_lib1.fused_constant_1") '
        '__attribute__((visibility("hidden"), aligned(16)));'
    )
    assert lift(OPERATORS).text.splitlines()[8:14] == [
        declaration,
        *[""] * 3,
        "#ifdef __cplusplus",
        '}  // extern "C"',
    ]


def test_a_pool_without_const_is_declared_without_const() -> None:
    end = (
        '} global_const_workspace __asm__("mlf.const.default_lib1.global_const_workspace") '
        '__attribute__((visibility("hidden")));'
    )
    assert lift(POOL).text.splitlines()[4:10] == [
        "",
        "extern struct global_const_workspace {",
        *POOL.splitlines()[6:9],
        end,
    ]


@pytest.mark.parametrize("text", [OPERATORS, POOL, OPERATORS.replace("\n", "\r\n")], ids=["operators", "pool", "crlf"])
def test_the_code_that_stays_keeps_its_line_numbers(text: str) -> None:
    before, after = text.split("\n"), lift(text).text.split("\n")
    code = [number for number, line in enumerate(before) if "__LINE__" in line or line.startswith("#")]
    assert len(before) == len(after)
    assert [before[number] for number in code] == [after[number] for number in code]


def test_alignment_is_the_declared_one_and_at_least_what_x86_64_expects_of_arrays() -> None:
    text = array("int8_t", ["1"]) + array("int8_t __attribute__((aligned(64)))", ["1"], name="d")
    assert [constant.alignment for constant in lift(text).constants] == [16, 64]
    aligned = "static const struct s { int8_t a[1] __attribute__((aligned(128))); } s = { .a = {1} };"
    assert [constant.alignment for constant in lift(aligned).constants] == [128]


def test_elements_tell_numbers_from_padding() -> None:
    assert lift(POOL).constants[0].elements == ((0, 4, 5), (32, 2, 3), (48, 8, 2))


def test_arrays_below_the_threshold_stay() -> None:
    small = array("int8_t", ["1"] * (LIFT_THRESHOLD_BYTES - 1), name="small")
    large = array("int8_t", ["1"] * LIFT_THRESHOLD_BYTES, name="large")
    lifted = lift_constants(small + large, unit="u")
    assert [constant.symbol for constant in lifted.constants] == ["mlf.const.u.large"]
    assert lifted.text.startswith(small)


LEFT_ALONE = {
    "a macro": "static const int8_t c[2] = {1, TWO};",
    "an expression": "static const int8_t c[2] = {1, 1 + 1};",
    "a cast": "static const int8_t c[2] = {1, (int8_t)2};",
    "a character": "static const int8_t c[2] = {1, '2'};",
    "a string": 'static const int8_t c[4] = {"abc"};',
    "a designator": "static const int8_t c[2] = {[1] = 1};",
    "two numbers without a comma": "static const int8_t c[2] = {1 2};",
    "an empty element": "static const int8_t c[3] = {1,,2};",
    "too many elements": "static const int8_t c[1] = {1, 2};",
    "a float among integers": "static const int8_t c[2] = {1, 2.0};",
    "an integer among floats": "static const float c[2] = {1.0, 010};",
    "minus zero as an integer": "static const float c[1] = {-0};",
    "a hexadecimal integer in floats": "static const float c[1] = {0x10};",
    "a float in doubles": "static const double c[1] = {0.1f};",
    "a long double": "static const double c[1] = {0.1L};",
    "an infinite number": "static const float c[1] = {1e39};",
    "a number larger than double": "static const double c[1] = {0x1p1024};",
    "a number between two floats": "static const float c[1] = {1.00000005960464477540};",
    "a number between two hexadecimal floats": "static const float c[1] = {0x1.000001p0f};",
    "an integer of more than 64 bits": "static const uint64_t c[1] = {18446744073709551616};",
    "an octal digit too large": "static const int8_t c[1] = {09};",
    "digits in other scripts": "static const int8_t c[1] = {\u0663};",
    "minus an unsigned in 64 bits": "static const int64_t c[1] = {-1U};",
    "minus a long that may be unsigned": "static const int64_t c[1] = {-0x80000000L};",
    "a type that is not known": "static const half c[1] = {1};",
    "two types": "static const int8_t int8_t c[1] = {1};",
    "no const": "static int8_t c[1] = {1};",
    "no static": "const int8_t c[1] = {1};",
    "volatile": "static const volatile int8_t c[1] = {1};",
    "a pointer": "static const int8_t *c[1] = {0};",
    "no size": "static const int8_t c[] = {1};",
    "a size that is a macro": "static const int8_t c[N] = {1};",
    "another declarator": "static const int8_t c[1] = {1}, d[1] = {2};",
    "another attribute": "static const int8_t c[1] __attribute__((weak)) = {1};",
    "another section": 'static const int8_t c[1] __attribute__((section(".dtcm"))) = {1};',
    "an alignment that is none": "static const int8_t c[1] __attribute__((aligned(3))) = {1};",
    "incomplete inner braces": "static const int8_t c[2][2] = {{1}, {2, 3}};",
    "a brace too many": "static const int8_t c[2] = {{1}, {2}};",
    "a condition": "#if 1\nstatic const int8_t c[1] = {1};\n#endif",
    "a condition inside": "static const int8_t c[1] = {\n#if 1\n1\n#endif\n};",
    "a condition around the type": "static const\n#if 1\nint8_t\n#endif\nc[1] = {1};",
    "a comment around it": "/* static const int8_t c[1] = {1}; */",
    "a continued comment": "// \\\nstatic const int8_t c[1] = {1};",
    "a continued comment inside": "static const int8_t c[2] = {1 // \\\n, 2\n};",
    "a trigraph": "// ?" + "?/\nstatic const int8_t c[1] = {1};",
    "a string around it": 'const char* s = "; static const int8_t c[1] = {1};";',
    "a raw string around it": 'const char* s = R"(" ; )"; static const int8_t c[1] = {1}; //"',
    "a function around it": "int f(void) { static const int8_t c[1] = {1}; return c[0]; }",
    "a macro's argument": "DECLARE(; static const int8_t c[1] = {1};)",
    "a macro in front": "PROGMEM static const int8_t c[1] = {1};",
    "a macro of its name": "#define c d\nstatic const int8_t c[1] = {1};",
    "a macro of its type": "#define int8_t int16_t\nstatic const int8_t c[1] = {1};",
    "a type of its own": "typedef short int8_t;\nstatic const int8_t c[1] = {1};",
    "an earlier declaration": "static const int8_t c[1];\nstatic const int8_t c[1] = {1};",
    "a later declaration": "static const int8_t c[1] = {1};\nstatic const int8_t c[1];",
    "packing by pragma": "#pragma pack(1)\nstatic const int8_t c[1] = {1};",
    "braces that differ by condition": "int f() {\n#if 1\n{ }\n#else\n{\n#endif\n}\nstatic const int8_t c[1] = {1};",
    "a brace that is not closed": "static const int8_t c[1] = {1};\nint f() {",
    "a brace that is not opened": "static const int8_t c[1] = {1};\n}",
    "no end": "static const int8_t c[1] = {1",
    "a size that no machine has": "static const double c[99999999999] = {0x1p0};",
    "a pool that differs from its comment": "static const struct s { int8_t a[1]; // 2 bytes, aligned offset: 0\n} s = { .a = {1} };",
    "a pool at another offset": "static const struct s { int8_t a[1]; // 1 bytes, aligned offset: 4\n} s = { .a = {1} };",
    "a pool that ABIs lay out differently": "static const struct s { int8_t a[4]; double b[1]; } s = { .a = {1} };",
    "a pool that may be written": "static struct s { int8_t a[1]; } s = { .a = {1} };",
    "a packed pool": "static const struct __attribute__((packed)) s { int8_t a[1]; } s = { .a = {1} };",
    "an attribute behind a pool's type": "static const struct s { int8_t a[1]; } __attribute__((aligned(64))) s = { .a = {1} };",
    "a pool with another member": "static const struct s { int8_t a[1]; void* p; } s = { .a = {1} };",
    "a pool without designators": "static const struct s { int8_t a[1]; } s = { {1} };",
    "a pool with a member twice": "static const struct s { int8_t a[1]; } s = { .a = {1}, .a = {2} };",
    "a pool with an unknown member": "static const struct s { int8_t a[1]; } s = { .b = {1} };",
    "a bit-field": "static const struct s { int8_t a : 1; } s = { .a = 1 };",
}


@pytest.mark.parametrize("text", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_what_is_not_understood_stays(text: str) -> None:
    text = f"{HEADERS}{text}\n"
    assert lift(text) == LiftedSource(text=text, constants=())


@pytest.mark.parametrize(
    "text",
    [
        "/* don't { */ // \"\n",
        "const char* s = \"/*\"; char t = '\"'; char u = '\\'';\n",
        'const char* s = "what?? %d%% ERROR";\n',
        "#define MULTI(x) \\\n  do { x; } \\\n  while (0)\n",
        "#if 0\nint f(void) { return '{'; }\n#elif 1\nint f(void) { return 1 / 2; }\n#endif\n",
        'int f(int c[(2)]) { for (;;) { if (c[0]) { return "}"[0]; } } }\n',
        "enum { A, B }; struct s { int a; }; typedef struct { int b; } t;\n",
        '#pragma once\n#pragma GCC diagnostic ignored "-Wunused"\n',
        "float f() { return 0x1.8p0f; } ;\n",
        '#  include "x{.h" // a } comment\n',
    ],
)
def test_text_before_a_constant_does_not_confuse(text: str) -> None:
    lifted = lift(text + array("int8_t", ["1", "2"], name="weights") + text)
    assert [constant.payload for constant in lifted.constants] == [b"\1\2"]
    assert lifted.text.startswith(text)
    assert lifted.text.endswith(text)


def test_zero_fill_is_limited_over_all_constants() -> None:
    text = "".join(f"static const int8_t c{number}[{1 << 24}] = {{0}};\n" for number in range(9))
    assert len(lift(text).constants) == 4


def test_what_stays_for_its_size_does_not_keep_others_from_being_lifted() -> None:
    text = "static const double c[99999999999] = {0x1p0};\n" + array("int8_t", ["1"], name="d")
    assert [constant.symbol for constant in lift(text).constants] == [PREFIX + "d"]


@pytest.mark.parametrize("unit", ["", "a-b", 'a"b', "a b", "\u00fc"])
def test_a_unit_that_no_assembler_takes_as_a_name_stays(unit: str) -> None:
    text = array("int8_t", ["1"])
    assert lift_constants(text, unit=unit, threshold_bytes=1) == LiftedSource(text=text, constants=())


@pytest.mark.parametrize(
    ("before", "repeated", "after"),
    [
        ("", "static const float x[", ""),
        ("", "static const float x[600] = {", ""),
        ("", "static __attribute__((()", ""),
        ("", "/*", ""),
        ("", "#define a \\\n", ""),
        ("x", " /**/", ""),
        ("", '"\\a', ""),
        ("static const struct s {", " ", "} s = {};"),
        ("static const float x[9] = {", "{", "};"),
        ("static const float x[9] = {", "1", "};"),
        ("static const uint8_t x[9999999] = {", "0x1 ", "};"),
        ("", "(", ""),
    ],
)
def test_hostile_text_takes_linear_time(before: str, repeated: str, after: str) -> None:
    text = before + repeated * ((1 << 20) // len(repeated)) + after
    start = time.process_time()
    assert lift_constants(text, unit="u").constants == ()
    assert time.process_time() - start < 5  # seconds; a quadratic search would need minutes


@given(
    st.integers(0, len(POOL)),
    st.integers(0, len(POOL)),
    st.sampled_from(["", "{", "}", '"', "/*", "#", "\\", "1", "\n"]),
)
def test_mutated_text_raises_nothing_and_keeps_its_lines(start: int, end: int, inserted: str) -> None:
    text = POOL[: min(start, end)] + inserted + POOL[max(start, end) :]
    assert lift(text).text.count("\n") == text.count("\n")
