from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest
from archives import BETWEEN_BYTES, LATEST, RELEASES, SCRATCH_BYTES, WEIGHTS, WORKSPACE_BYTES, Network
from archives import header as header_text
from archives import operators as operator_text
from archives import wrapper as wrapper_text
from hypothesis import given, settings
from hypothesis import strategies as st

from mlf.csource import (
    Extent,
    InternalPool,
    Parameter,
    TypedTensor,
    allocator_need,
    constant_bytes,
    functions,
    internal_pools,
    output_extent,
    parse_header,
    parse_relay,
    parse_wrapper,
)

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
# What a text of 1 MiB may cost; a search that looks at text again and again takes minutes or days.
MOST_SECONDS = 2.0


# The header.


def test_struct_fields_are_read_in_their_order() -> None:
    found = parse_header(header_text(Network(memory="external", devices=("ethos_u", "npu"))), "tvmgen_default")

    assert found is not None
    assert (found.inputs, found.outputs) == (("zeta_0", "alpha_b"), ("scores", "hidden"))
    assert (found.pools, found.devices, found.maps_io) == (("sram",), ("ethos_u", "npu"), False)


def test_macros_of_all_kinds_are_read() -> None:
    found = parse_header(header_text(Network(memory="external", release=RELEASES["0.11.1"])), "tvmgen_default")

    assert found is not None
    assert found.macros == {
        "TVMGEN_DEFAULT_ZETA_0_SIZE": -1582571184,
        "TVMGEN_DEFAULT_ALPHA_B_SIZE": 373293056,
        "TVMGEN_DEFAULT_SCORES_SIZE": -12,
        "TVMGEN_DEFAULT_HIDDEN_SIZE": 94371840,
        "TVMGEN_DEFAULT_WORKSPACE_SIZE": WORKSPACE_BYTES,
        "TVMGEN_DEFAULT_SRAM_WORKSPACE_POOL_SIZE": WORKSPACE_BYTES,
    }


def test_the_bytes_of_a_constant_pool_are_read_over_all_lines() -> None:
    found = parse_header(header_text(Network(memory="constant")), "tvmgen_default")

    assert found is not None
    assert found.pool_data == {"TVMGEN_DEFAULT_FLASH": WEIGHTS.tobytes()}


def test_a_model_without_inputs_has_an_empty_struct() -> None:
    found = parse_header("struct tvmgen_m_inputs {\n};\nstruct tvmgen_m_outputs {\n  void* output;\n};\n", "tvmgen_m")

    assert found is not None
    assert (found.inputs, found.outputs) == ((), ("output",))


@pytest.mark.parametrize("model", ["my-model", "my model", "a.b", "1234"])
def test_the_header_of_a_model_whose_name_is_no_identifier_is_read(model: str) -> None:
    found = parse_header(header_text(Network(model=model)), f"tvmgen_{model}")

    assert found is not None
    assert found.inputs == ("zeta_0", "alpha_b")


@pytest.mark.parametrize(
    "text",
    [
        header_text(Network(model="other")),
        header_text(Network(model="m_inputs")),
        "/* struct tvmgen_m_inputs { void* a; }; */",
        "// struct tvmgen_m_inputs { void* a; };",
        "/* struct tvmgen_m_inputs { void* a; };",
        "",
    ],
)
def test_a_header_of_another_model_is_not_taken_for_this_ones(text: str) -> None:
    assert parse_header(text, "tvmgen_m") is None


def test_a_header_says_whether_io_lies_in_the_pools() -> None:
    found = parse_header(header_text(Network(memory="external", maps_io=True)), "tvmgen_default")

    assert found is not None
    assert found.maps_io


# The wrapper.


@pytest.mark.parametrize("release", RELEASES)
def test_the_wrapper_of_every_release_tells_main_and_order(release: str) -> None:
    network = Network(release=RELEASES[release], model="kws")
    found = parse_wrapper(wrapper_text(network), "tvmgen_kws_run")

    assert found is not None
    assert found.main == f"tvmgen_kws_{network.release.main}"
    assert found.inputs == ("zeta_0", "alpha_b")
    assert found.outputs == (("output0", "output1") if release == "0.8.0" else ("scores", "hidden"))


def test_the_wrapper_tells_the_pools_that_the_caller_passes() -> None:
    found = parse_wrapper(wrapper_text(Network(memory="constant", devices=("ethos_u",))), "tvmgen_default_run")

    assert found is not None
    assert found.fields("workspace_pools") == ("flash",)


def test_a_wrapper_that_a_formatter_has_broken_into_lines_is_read() -> None:
    text = (
        "int32_t tvmgen_m_run(struct tvmgen_m_inputs *inputs,\n                 struct tvmgen_m_outputs *outputs)\n{\n"
        "    return tvmgen_m___tvm_main__(inputs->b, inputs->a,\n        outputs->output);\n}\n"
    )
    found = parse_wrapper(text, "tvmgen_m_run")

    assert found is not None
    assert (found.main, found.inputs, found.outputs) == ("tvmgen_m___tvm_main__", ("b", "a"), ("output",))


@pytest.mark.parametrize(
    "text",
    [wrapper_text(Network(interface="packed")), wrapper_text(Network(model="default_run")), "int32_t tvmgen_default_run("],
    ids=["packed", "another model", "cut off"],
)  # fmt: skip
def test_other_functions_are_no_wrapper(text: str) -> None:
    assert parse_wrapper(text, "tvmgen_default_run") is None


# Pools and constants inside the code.


@pytest.mark.parametrize("release", ["0.9.dev-v5", "0.9.0", "0.17.0"])
def test_the_internal_pool_of_every_release_is_found(release: str) -> None:
    text = wrapper_text(Network(release=RELEASES[release], memory="internal"))

    assert internal_pools(text) == (
        InternalPool(name="global_workspace", size_bytes=WORKSPACE_BYTES, alignment_bytes=16),
    )


def test_pools_keep_their_own_alignment() -> None:
    text = (
        '__attribute__((section(".bss.noinit.tvm"), aligned(4)))\nstatic uint8_t a[5];\n'
        '__attribute__((section(".bss.noinit.tvm"), ))\nstatic uint8_t b[6];\n'
    )

    assert internal_pools(text) == (
        InternalPool(name="a", size_bytes=5, alignment_bytes=4),
        InternalPool(name="b", size_bytes=6, alignment_bytes=1),
    )


def test_a_buffer_of_somebody_else_is_no_pool() -> None:
    assert internal_pools('__attribute__((section(".noinit"), aligned(8)))\nstatic uint8_t mine[64];\n') == ()


@pytest.mark.parametrize(
    ("release", "memory"), [("0.8.0", "alloc"), ("0.9.0", "alloc"), ("0.16.0", "internal"), ("0.17.0", "internal")]
)
def test_constants_are_counted_in_every_form(release: str, memory: str) -> None:
    network = Network(release=RELEASES[release], memory=memory)

    assert constant_bytes(wrapper_text(network)) + constant_bytes(operator_text(network)) == WEIGHTS.nbytes


def test_constants_of_every_type_are_counted() -> None:
    kinds = {"float": 4, "double": 8, "half": 2, "bool": 1, "int8_t": 1, "uint16_t": 2, "int32_t": 4, "int64_t": 8}
    for kind, width in kinds.items():
        assert constant_bytes(f"static const {kind} name[10] = {{\n 0\n}};\n") == 10 * width


# Functions.


def test_parameters_keep_their_places_and_types() -> None:
    found = functions(
        "TVM_DLL int32_t f(float* p0, void* p1, const int8_t* restrict p2, int16_t *__restrict__ p3, struct s* p4, int32_t n) {\n}"
    )

    assert found["f"].parameters == (
        Parameter(name="p0", dtype="float32"),
        Parameter(name="p1", dtype=None),
        Parameter(name="p2", dtype="int8"),
        Parameter(name="p3", dtype="int16"),
        Parameter(name="p4", dtype=None),
        Parameter(name="n", dtype=None),
    )


def test_a_parameter_of_an_unusual_form_does_not_shift_the_others() -> None:
    found = functions("int32_t f(float p0[4], float* p1) {\n}")

    assert found["f"].parameters == (Parameter(name="", dtype=None), Parameter(name="p1", dtype="float32"))


@pytest.mark.parametrize("parameters", ["", "void", " void "])
def test_a_function_may_have_no_parameters(parameters: str) -> None:
    assert functions(f"int32_t f({parameters}) {{\n}}")["f"].parameters == ()


def test_declarations_are_not_taken_for_functions() -> None:
    text = operator_text(Network(release=LATEST))

    assert list(functions(text)) == [
        f"tvmgen_default_{name}" for name in ("fused_add", "fused_mix", "fused_pick", "__tvm_main__")
    ]
    assert "TVMBackendFreeWorkspace(1, 0, sid_2)" in functions(text)["tvmgen_default___tvm_main__"].body


@pytest.mark.parametrize(
    ("parameters", "is_packed"),
    [
        ("void* args, int32_t* arg_type_ids, int32_t num_args, void* out_ret_value, int32_t* out_ret_tcode, void* handle", True),
        ("void* args, void* arg_type_ids, int32_t num_args, void* out_ret_value, void* out_ret_tcode, void* handle", True),
        ("void* args, void* type_code, int num_args, void* out_value, void* out_type_code, void* resource_handle", True),
        ("float* args, float* T_add", False),
    ],
)  # fmt: skip
def test_packed_functions_are_told_by_their_parameters(parameters: str, *, is_packed: bool) -> None:
    assert functions(f"TVM_DLL int32_t f({parameters}) {{\n}}")["f"].is_packed == is_packed


# Memory from the allocator.


def allocate(name: str, size: object) -> str:
    return f"  void* {name} = TVMBackendAllocWorkspace(1, 0, (uint64_t){size}, 0, 8);\n  if ({name} == NULL) {{\n    return -1;\n  }}\n"


def free(name: str) -> str:
    return f"  if (TVMBackendFreeWorkspace(1, 0, {name}) != 0) {{\n    return -1;\n  }}\n"


def function(name: str, body: str) -> str:
    return f"TVM_DLL int32_t {name}(float* p0) {{\n{body}  return 0;\n}}\n\n"


@pytest.mark.parametrize("release", RELEASES)
def test_the_need_of_main_holds_that_of_the_operator_it_calls(release: str) -> None:
    text = operator_text(Network(release=RELEASES[release]))
    main = f"tvmgen_default_{RELEASES[release].main}"

    assert allocator_need(functions(text), main) == BETWEEN_BYTES + SCRATCH_BYTES


@pytest.mark.parametrize(
    ("text", "need"),
    [
        (function("f", ""), 0),
        (function("f", allocate("a", 1) + free("a")), 16),
        (function("f", allocate("a", 17) + allocate("b", 16) + free("b") + free("a")), 48),
        (function("f", allocate("a", 100) + free("a") + allocate("b", 64) + free("b")), 112),
        (function("f", allocate("a", 64) + "  g(a);\n" + free("a") + "  h(p0);\n")
         + function("g", allocate("x", 32) + free("x")) + function("h", allocate("x", 80) + free("x")), 96),
        (function("f", "  g(p0);\n  g(p0);\n") + function("g", allocate("x", 32) + free("x")), 32),
        (function("f", "  for (int32_t i = 0; i < 9; ++i) {\n" + allocate("a", 32) + free("a") + "  }\n"), 32),
        (function("f", "  float* a = (float*)TVMBackendAllocWorkspace(1, dev_id, (uint64_t) 40, 2, 32);\n"
                       "  if (TVMBackendFreeWorkspace(1, dev_id, (void*)a) != 0) {\n    return -1;\n  }\n"
                       + allocate("b", 16) + free("b")), 48),
    ],
    ids=["none", "rounded", "together", "one after the other", "nested", "twice", "in a loop", "casts"],
)  # fmt: skip
def test_the_most_that_is_held_at_once_is_the_need(text: str, need: int) -> None:
    assert allocator_need(functions(text), "f") == need


@pytest.mark.parametrize(
    "text",
    [
        function("f", allocate("a", "n") + free("a")),
        function("f", "  void* a = TVMBackendAllocWorkspace(1, 0, (uint64_t)8 * n, 0, 8);\n"),
        function("f", "  g(p0);\n") + function("g", "  f(p0);\n" + allocate("a", 8)),
        function("f", "  f(p0);\n" + allocate("a", 8)),
        function("f", allocate("a", "9" * 5000)),
        "".join(function(f"f{n}" if n else "f", f"  f{n + 1}(p0);\n") for n in range(5000)),
        function("g", allocate("a", 8)),
    ],
    ids=["unknown", "computed", "mutual recursion", "recursion", "too large", "deep", "no such function"],
)
def test_where_the_text_does_not_tell_the_need_there_is_none(text: str) -> None:
    assert allocator_need(functions(text), "f") is None


def test_the_need_can_be_told_without_rounding() -> None:
    text = function("f", allocate("a", 17) + allocate("b", 1) + free("b") + free("a"))

    assert allocator_need(functions(text), "f", alignment=1) == 18


# How far an output is written.


def extent(body: str, *, parameters: str = "float* p0, float* T_out", call: str = "") -> Extent | None:
    main = call or "  if (tvmgen_m_op(x, out) != 0 ) return -1;\n"
    text = f"TVM_DLL int32_t tvmgen_m_op({parameters}) {{\n{body}  return 0;\n}}\n\n"
    text += f"TVM_DLL int32_t tvmgen_m___tvm_main__(float* x, float* out) {{\n{main}  return 0;\n}}\n"
    found = functions(text)
    return output_extent(found, found["tvmgen_m___tvm_main__"], "out")


def loops(*ranges: tuple[str, int], inner: str) -> str:
    heads = "".join(f"  for (int32_t {name} = 0; {name} < {count}; ++{name}) {{\n" for name, count in ranges)
    return heads + inner + "  }\n" * len(ranges)


@pytest.mark.parametrize(
    ("body", "elements"),
    [
        (loops(("i", 8), inner="    T_out[i] = p0[i];\n"), 8),
        ("  T_out[0] = p0[0];\n", 1),
        (loops(("i", 8), inner="    T_out[(i)] = (p0[(i)]);\n"), 8),
        (loops(("i", 8), inner="    ((float*)T_out)[(((i * 42) + 3))] = p0[i];\n"), 298),
        (loops(("i", 4), ("j", 3), inner="    T_out[((i * 3) + j)] = p0[j];\n"), 12),
        (loops(("i", 4), inner="    int32_t cse_var_1 = (i * 3);\n    T_out[(cse_var_1 + 2)] = p0[i];\n"), 12),
        (loops(("i", 12), inner="    T_out[(((i / 4) * 4) + (i % 4))] = p0[i];\n"), 12),
        (loops(("i", 2), ("j", 16), inner="    T_out[((i << 4) + (j >> 0))] = p0[j];\n"), 32),
        (loops(("i", 4), inner="    T_out[(7 - 3 + i)] = p0[i];\n    T_out[i] = p0[i];\n"), 8),
        (loops(("i", 4), inner="    T_out[i] = 0.000000e+00f;\n    T_out[i] = (T_out[i] + p0[i]);\n"), 4),
        (loops(("i", 4), ("k", 9), inner="    if (k == 0) {\n      T_out[i] = 0.0f;\n    }\n    T_out[i] = (T_out[i] + p0[k]);\n"), 4),
        (loops(("i", 4), inner="    T_out[i] = ((p0[i] == 0.0f) ? p0[i] : T_out[i]);\n"), 4),
    ],
)  # fmt: skip
def test_the_loops_tell_how_far_an_output_is_written(body: str, elements: int) -> None:
    assert extent(body) == Extent(dtype="float32", elements=elements)


GUARDED = """\
  for (int32_t o = 0; o < 251; ++o) {
    for (int32_t i = 0; i < 4; ++i) {
      if (((o * 4) + i) < 1001) {
        int32_t cse_var_1 = ((o * 4) + i);
        T_out[cse_var_1] = p0[cse_var_1];
      }
    }
  }
"""


@pytest.mark.parametrize(
    "body",
    [
        GUARDED,
        GUARDED.replace(" {\n        int32_t", "\n      {\n        int32_t"),
        "  if (p0[0])\n    T_out[7] = 1.0f;\n",
        "  if (p0[0]) {\n    T_out[3] = 1.0f;\n  } else {\n    T_out[7] = 1.0f;\n  }\n",
        loops(("i", 10), inner="    T_out[(((i / 4) * 4) + (i % 4))] = p0[i];\n"),
        loops(("i", 8), inner="    T_out[((7 - i) + i)] = p0[i];\n"),
        loops(("i", 8), inner="    T_out[((int32_t*)p0)[i]] = p0[i];\n"),
        loops(("i", 8), inner="    T_out[max(i, 3)] = p0[i];\n"),
        loops(("i", 8), inner="    T_out[i * -1] = p0[i];\n"),
        loops(("i", 8), inner="    T_out[i / 0] = p0[i];\n"),
        loops(("i", 8), inner="    T_out[j] = p0[i];\n"),
        loops(("i", 0), inner="    T_out[i] = p0[i];\n"),
        "  for (int32_t i = 2; i < 8; ++i) {\n    T_out[i] = p0[i];\n  }\n",
        loops(("i", 9), inner="") + "  for (int32_t i = 0; i < n; ++i) {\n    T_out[i] = p0[i];\n  }\n",
        loops(("i", 8), inner="    T_out[i] += p0[i];\n"),
        loops(("i", 8), inner="    T_out[\n      i] = p0[i];\n"),
        loops(("i", 8), inner="    if (p0[i]) T_out[i] = p0[i];\n"),
        loops(("i", 8), inner="    ((float2*)T_out)[i] = p0[i];\n"),
        loops(("i", 8), inner="    ((float*)T_out)[i] = p0[i];\n    ((int8_t*)T_out)[i] = p0[i];\n"),
        "  T_out[0] = 0.0f;\n  gemm_4x4((&(T_out[0])), (&(p0[0])), 16);\n",
        "  T_out[0] = 0.0f;\n  gemm_4x4((&(((float*)T_out)[0])), 16);\n",
        "  T_out[0] = 0.0f;\n  memset(T_out, 0, 64);\n",
        "  *(float4*)(T_out + 4) = p0[0];\n",
        f"  T_out[{'9' * 40}] = p0[0];\n",
        f"  T_out[{'(' * 5000}1{')' * 5000}] = p0[0];\n",
        "  int32_t a = 4294967296;\n  int32_t b = (a * a);\n  T_out[b] = p0[0];\n",
        loops(("i", 8), inner="    p0[i] = p0[i];\n"),
    ],
)
def test_where_the_loops_do_not_tell_for_sure_there_is_no_extent(body: str) -> None:
    assert extent(body) is None


@pytest.mark.parametrize(
    "call",
    [
        "  (void)tvmgen_m_op(x, out);\n",
        "  tvmgen_m_op(x, out);\n",
        "  if (tvmgen_m_op(x, out) != 0 ) return -1;\n",
        "  if (tvmgen_m_op(x, out) != 0) {\n    return -1;\n  }\n",
        "  if (tvmgen_m_op((&(pool[0])), out, ((void*)c)) != 0 ) return -1;\n",
        "  void* result = out;\n  (void)tvmgen_m_op(x, result);\n",
    ],
)
def test_operator_calls_of_every_form_are_found(call: str) -> None:
    assert extent("  T_out[4] = p0[0];\n", call=call) == Extent(dtype="float32", elements=5)


def test_an_operator_that_reads_the_output_does_not_matter() -> None:
    text = function("w", "  p0[4] = 1.0f;\n") + function("r", "  float v = p0[9];\n")
    text += "int32_t m(float* out) {\n  w(out);\n  r(out);\n}\n"
    found = functions(text)

    assert output_extent(found, found["m"], "out") == Extent(dtype="float32", elements=5)


def test_operators_that_write_an_output_differently_do_not_tell() -> None:
    text = function("w", "  p0[4] = 1.0f;\n") + function("v", "  p0[9] = 1.0f;\n")
    text += "int32_t m(float* out) {\n  w(out);\n  v(out);\n}\n"
    found = functions(text)

    assert output_extent(found, found["m"], "out") is None


def test_untyped_parameters_take_their_type_from_the_stores() -> None:
    body = "  void* T_out = arg1;\n  ((int16_t*)T_out)[6] = 1;\n"

    assert extent(body, parameters="void* arg0, void* arg1") == Extent(dtype="int16", elements=7)
    assert extent("  T_out[6] = 1;\n", parameters="void* p0, void* T_out") is None


NAMES = ("i", "j", "k")
EXPRESSIONS = st.recursive(
    st.sampled_from(NAMES) | st.integers(0, 12).map(str),
    lambda inner: st.builds("({} {} {})".format, inner, st.sampled_from("+-*/%"), inner),
    max_leaves=6,
)


@given(st.tuples(*[st.integers(1, 6)] * 3), st.lists(EXPRESSIONS, min_size=1, max_size=2))
@settings(max_examples=300, deadline=None)
def test_what_the_loops_tell_is_what_running_them_writes(counts: tuple[int, ...], indexes: list[str]) -> None:
    ranges = list(zip(NAMES, counts, strict=True))
    found = extent(loops(*ranges, inner="".join(f"    T_out[{index}] = p0[0];\n" for index in indexes)))

    if found is not None:
        values = [dict(zip(NAMES, point, strict=True)) for point in points(counts)]
        written = [eval(index.replace("/", "//"), {}, value) for index in indexes for value in values]  # noqa: S307  # own text
        assert found.elements == max(written) + 1


def points(counts: tuple[int, ...]) -> list[tuple[int, ...]]:
    if not counts:
        return [()]
    return [(*rest, last) for rest in points(counts[:-1]) for last in range(counts[-1])]


# Relay text.


def tensor(name: str, dtype: str, *shape: int) -> TypedTensor:
    return TypedTensor(name=name, dtype=dtype, shape=shape)


@pytest.mark.parametrize(
    ("text", "parameters", "results"),
    [
        ("def @main(%x: Tensor[(1, 8), float32]) {\n  nn.relu(%x)\n}\n", (tensor("x", "float32", 1, 8),), ()),
        ('#[version = "0.0.5"]\ndef @main(%x: Tensor[(4), int8]) -> Tensor[(4), int8] {\n  %x\n}\n',
         (tensor("x", "int8", 4),), (tensor("", "int8", 4),)),
        ("def @main(%b: Tensor[(2), int8], %a: Tensor[(3), uint8]) -> (Tensor[(1), bool], Tensor[(5, 6), int64]) {\n  %0\n}\n",
         (tensor("b", "int8", 2), tensor("a", "uint8", 3)), (tensor("", "bool", 1), tensor("", "int64", 5, 6))),
        ("def @main(%x: Tensor[(2), int8] /* ty=Tensor[(2), int8] span=x:0:0 */) {\n  f(%x) /* ty=Tensor[(7), int16] span=f:0:0 */\n}\n",
         (tensor("x", "int8", 2),), (tensor("", "int16", 7),)),
        ("def @main(%x: Tensor[(2), int8]) {\n  %0 = f(%x) /* ty=Tensor[(3), int8] */;\n  (%0, %x) /* ty=(Tensor[(3), int8], Tensor[(2), int8]) */\n}\n",
         (tensor("x", "int8", 2),), (tensor("", "int8", 3), tensor("", "int8", 2))),
        (("def @main(%x: Tensor[(2), int8]) {\n  %0 = fn (%y: Tensor[(2), int8]) {\n    f(%y) /* ty=Tensor[(3), int8] */\n  };\n"
         "  %0(%x) /* ty=Tensor[(9), int8] */\n}\n\ndef @other(%z: int8) {\n  g() /* ty=Tensor[(5), int8] */\n}\n"),
         (tensor("x", "int8", 2),), (tensor("", "int8", 9),)),
        ("def @main(%x: Tensor[(2), int8]) {\n  %0 = fn (%y: Tensor[(2), int8]) {\n    f(%y) /* ty=Tensor[(3), int8] */\n  };\n  %0(%x)\n}\n",
         (tensor("x", "int8", 2),), ()),
        ("def @main(%zeta:0: Tensor[(1, 3), float32], %input-x::2: Tensor[(2), int8]) {\n  %0\n}\n",
         (tensor("zeta:0", "float32", 1, 3), tensor("input-x::2", "int8", 2)), ()),
        ("def @main(%a:b1: Tensor[(3), int8], %s: float32, %f: bool) {\n  %0\n}\n",
         (tensor("a:b1", "int8", 3), tensor("s", "float32"), tensor("f", "bool")), ()),
        ('def @main(%x: Tensor[(1), int8], output_tensor_names=["a", "b"], executor=meta[Executor][0]) {\n  %0\n}\n',
         (tensor("x", "int8", 1),), ()),
        ("def @main() -> Tensor[(1), int8] {\n  %0\n}\n", (), (tensor("", "int8", 1),)),
        ("def @helper(%x: Tensor[(1), int8]) {\n  %0\n}\n", (), ()),
        ("", (), ()),
    ],
)  # fmt: skip
def test_relay_text_tells_parameters_and_results_in_order(
    text: str, parameters: tuple[TypedTensor, ...], results: tuple[TypedTensor, ...]
) -> None:
    assert parse_relay(text) == (parameters, results)


@pytest.mark.parametrize("shape", ["?, 8", "%n", "\N{SUPERSCRIPT TWO}", "9" * 5000])
def test_a_shape_that_is_no_list_of_numbers_is_unknown(shape: str) -> None:
    parameters, _ = parse_relay(f"def @main(%x: Tensor[({shape}), int8]) {{\n  %0\n}}\n")

    assert [item.shape for item in parameters] in ([None], [])


@pytest.mark.parametrize(
    ("item", "size_bytes"),
    [
        (tensor("", "float32", 2, 3), 24),
        (tensor("", "bool", 7), 7),
        (tensor("", "bfloat16", 7), 14),
        (tensor("", "float64"), 8),
        (tensor("", "int8", 0, 5), 0),
        (tensor("", "custom", 7), None),
        (TypedTensor(name="", dtype="int8", shape=None), None),
        (tensor("", "int8", *[10**18] * 9), None),
    ],
)
def test_the_size_of_a_tensor_is_that_of_its_elements(item: TypedTensor, size_bytes: int | None) -> None:
    assert item.size_bytes == size_bytes


# Hostile text.


def in_header(text: str) -> object:
    return parse_header(f"struct tvmgen_m_inputs {{}};\n{text}", "tvmgen_m")


def in_wrapper(text: str) -> object:
    return parse_wrapper(text, "tvmgen_m_run")


def in_parameters(text: str) -> object:
    return functions(f"int32_t f({text}!) {{\n}}\n")


def in_main(text: str) -> object:
    found = functions(function("op", "  p0[0] = 1.0f;\n") + f"int32_t m(float* out) {{\n{text}\n}}\n")
    return output_extent(found, found["m"], "out"), allocator_need(found, "m")


def in_operator(text: str) -> object:
    return extent(text)


def in_index(text: str) -> object:
    return extent(loops(("i", 4), inner=f"    int32_t c = {text};\n    T_out[{text}] = p0[c];\n"))


def in_relay_head(text: str) -> object:
    return parse_relay(f"def @main(%a: Tensor[({text}), int8]) {{\n  %0\n}}\n")


def in_relay_body(text: str) -> object:
    return parse_relay(f"def @main(%a: Tensor[(1), int8]) {{\n{text}\n}}\n")


HOSTILE: list[tuple[Callable[[str], object], list[str]]] = [
    (in_header, ["/*", "/*/", "//", "struct tvmgen_m_inputs {", "struct ", "void*", "void* a", "\n#define A ", "\n#define a_CONSTANT_POOL_DATA",
                 "a", " ", "\\\n", "0x0,", "\n#define A_CONSTANT_POOL_DATA \\\n"]),
    (in_wrapper, ["int32_t tvmgen_m_run(struct ", "int32_t tvmgen_m_run(struct a){return b(", "int32_t ", "return b(", " "]),
    (internal_pools, ["__attribute__((", "__attribute__(())", "__attribute__(()) static uint8_t a[", "aligned(", " ", ")"]),
    (constant_bytes, ["static const a ", "static const a [1]", "static const ", "static ", "}; // ", "} ", " "]),
    (functions, ["int32_t f(", "\nint32_t f(", "\nint32_t f(){", "\nTVM_DLL\n", "\nstatic ", "\n", "(", "a"]),
    (in_parameters, ["a", "a ", "a*", " ", "const ", "float a,", "a, ", "*"]),
    (in_main, ["a", "a=", "a = (", "a=TVMBackendAllocWorkspace(", "b=TVMBackendAllocWorkspace(1,0,(uint64_t)1,0,8);", "TVMBackendFreeWorkspace(",
               "TVMBackendFreeWorkspace(1,0,", "op(", "op(out,", "op(out);", "(", ";", "{", "f(", " "]),
    (in_operator, ["T_out[", "T_out[0]", "\nT_out[0] = 1;", "\nT_out[", "((float*)T_out)[", "((a", "&(", "\n", "\nif (a) {", "\n}", "\n{", "=",
                   "\nfor (int32_t i = 0; i < 9; ++i) {", "\nint32_t a = 9;\nint32_t a = a * a;", "for (a a = ", ";"]),
    (in_index, ["1+", "(", "((1)+", "i*", "9", "a", " ", "]", "1 ]= "]),
    (in_relay_head, ["%", "%a:", ": ", "%a: Tensor[(", "%a: Tensor[(1), f], ", "a", "9999999999999999999, ", "9", "->", "/*", " "]),
    (in_relay_body, ["/* ty=(", "/* ty=()", "/* ty=(()", "/* ty=Tensor[", "/* ty=Tensor[]", "/* ty=Tensor[] span=", "/* ty=Tensor[] */", " ", "\n}"]),
]  # fmt: skip


@pytest.mark.parametrize(("read", "piece"), [(read, piece) for read, pieces in HOSTILE for piece in pieces])
def test_a_mebibyte_of_hostile_text_is_read_in_no_time(read: Callable[[str], object], piece: str) -> None:
    text = (piece * (MIB // len(piece) + 1))[:MIB]
    start = time.process_time()

    read(text)

    assert time.process_time() - start < MOST_SECONDS


def test_whitespace_at_the_end_of_hostile_text_costs_nothing_either() -> None:
    spaces = " " * MIB
    for read, text in (
        (in_relay_body, f"/* ty=Tensor[] span={spaces}*x"),
        (in_header, f"#define A{spaces}x"),
        (internal_pools, f"__attribute__(()){spaces}x"),
        (constant_bytes, f"static const a{spaces}x"),
        (in_parameters, f"a{spaces}b{spaces}"),
        (in_index, f"i{spaces}"),
    ):
        start = time.process_time()
        read(text)
        assert time.process_time() - start < MOST_SECONDS


def test_mutated_code_never_surprises_a_reader() -> None:
    network = Network(memory="internal")
    texts = [header_text(network), wrapper_text(network), operator_text(network)]
    chance = random.Random(20240328)  # noqa: S311  # not for secrets
    for _ in range(500):
        text = list(chance.choice(texts))
        for _ in range(chance.randint(1, 10)):
            digits = [index for index, char in enumerate(text) if char.isdigit()]
            place = chance.choice(digits) if chance.random() < 0.3 else chance.randrange(len(text))
            text[place : place + chance.randint(0, 4)] = chance.choice(
                [*'(){}[];,*/%0123456789 \n"aT_=&\\', *["9" * 5000] * 5]
            )
        code = "".join(text)
        found = functions(code)
        for name in found:
            allocator_need(found, name)
            for parameter in found[name].parameters:
                output_extent(found, found[name], parameter.name)
        for read in (in_header, in_wrapper, internal_pools, constant_bytes, parse_relay):
            read(code)
