"""Operators that TVM lowers and mlf writes as C: the numbers of onnxruntime, and C that small cores can have.

All models run in one program under sanitizers, every tensor in memory of exactly its size.
"""

from __future__ import annotations

import itertools
import random
import re
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx_nets import (
    BOOL,
    DOUBLE,
    FLOAT,
    INT32,
    INT64,
    STRICT,
    assert_close,
    expected,
    node,
    numbers,
    onnx_model,
    run_models,
    save,
    value,
)  # fmt: skip

from mlf.frontends.tvm import compile_file
from mlf.frontends.tvm.operators import _exact_numbers
from mlf.program import lay_out

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from mlf.frontends.compiled import CompiledModel

    Array = npt.NDArray[Any]
    Case = tuple[Sequence[Any], Mapping[str, Array], Mapping[str, Any]]

TYPES = {"float32": FLOAT, "float64": DOUBLE, "int32": INT32, "int64": INT64, "bool": BOOL}
CUBE = numbers(2, 6, 5, seed=1)
IMAGE = numbers(1, 3, 5, 6, seed=3)
CONV_COUNT = 24
CORTEX_M4 = ("arm-none-eabi-gcc", *STRICT, "-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard")


def ints(*items: int) -> Array:
    return np.array(items, np.int64)


def scalar(number: float) -> Array:
    return np.array(number, np.float32)


def single(operator: str, array: Array = CUBE, weights: Mapping[str, Any] | None = None, **attributes: Any) -> Case:
    """Make a case of one operator; its other inputs are its weights."""
    given = weights or {}
    return [node(operator, " ".join(["x", *given]), "y", **attributes)], {"x": array}, given


def cases() -> Iterator[tuple[str, Case]]:
    """Give models by name; the outputs are `y`, and `z` where there is one."""
    for axis in (0, 1, -1):
        yield f"softmax_{axis}", single("Softmax", CUBE * 5, axis=axis)
        yield f"log_softmax_{axis}", single("LogSoftmax", CUBE * 5, axis=axis)
        yield f"arg_max_{axis}", single("ArgMax", np.round(CUBE), axis=axis, keepdims=axis % 2)
        yield f"concat_{axis}", ([node("Relu", "x", "r"), node("Concat", "x r x", "y", axis=axis)], {"x": CUBE}, {})
        yield f"gather_{axis}", single("Gather", CUBE, {"i": np.array([[0, 1], [-1, 0]])}, axis=axis)
    yield "softmax_of_masked", single("Softmax", np.where(CUBE > 1, np.float32(-np.inf), CUBE))
    yield "layer_norm", single("LayerNormalization", CUBE, {"g": numbers(6, 5), "b": numbers(6, 5, seed=2)}, axis=1)
    for operator, axes in itertools.product(
        ("ReduceMean", "ReduceMax", "ReduceL2", "ReduceLogSumExp"), ([1], [0, 2], [0, 1, 2])
    ):
        yield f"{operator}_{len(axes)}", single(operator, axes=axes, keepdims=len(axes) % 2)
    for order in itertools.permutations(range(3)):
        yield f"transpose_{''.join(map(str, order))}", single("Transpose", perm=list(order))
    yield (
        "slice_backwards",
        single("Slice", CUBE, {"s": ints(-1, 1), "e": ints(-100, 5), "a": ints(2, 1), "t": ints(-2, 2)}),
    )
    yield "pad", single("Pad", CUBE, {"p": ints(1, 1, 2, 0, 2, 1), "v": scalar(-1.5)})
    yield "pad_reflected", single("Pad", CUBE, {"p": ints(0, 1, 2, 0, 2, 1)}, mode="reflect")
    yield "pad_at_the_edge", single("Pad", CUBE, {"p": ints(0, 1, 2, 0, 2, 1)}, mode="edge")
    yield from resized()
    yield "gather_at_run_time", (
        [node("Gather", "x i", "y", axis=1), node("GatherElements", "x j", "z", axis=1)],
        {"x": CUBE, "i": ints(-1, 0, -6), "j": np.random.default_rng(0).integers(-6, 6, (2, 2, 5))}, {},
    )  # fmt: skip
    truth = np.random.default_rng(0).integers(0, 2, (2, 1, 5)).astype(bool)
    yield (
        "where",
        ([node("Where", "c x k", "y"), node("Greater", "x k", "z")], {"x": CUBE, "c": truth}, {"k": numbers(6, 1)}),
    )
    for (
        operator
    ) in "Sigmoid Tanh Softplus HardSwish Elu Erf Exp Abs Floor Round Sign Sin Tan Asinh LeakyRelu Reciprocal".split():
        yield operator.lower(), single(operator, CUBE * 3)
    yield "domain_of_roots", ([node("Sqrt", "x", "y"), node("Log", "x", "z")], {"x": np.abs(CUBE)}, {})
    yield (
        "powers",
        ([node("Pow", "x p", "y"), node("Pow", "x q", "z")], {"x": np.abs(CUBE)}, {"p": scalar(2.3), "q": scalar(3)}),
    )
    odd = np.where(CUBE > 1, np.float32(np.nan), np.where(CUBE < -1, np.float32(-np.inf), CUBE))
    yield "nan_and_infinity", ([node("IsNaN", "x", "y"), node("IsInf", "x", "z")], {"x": odd}, {})
    yield "clip_to_infinity", single("Clip", CUBE, {"a": scalar(-np.inf), "b": scalar(np.inf)})
    yield (
        "clip",
        ([node("Clip", "x a b", "y"), node("Clip", "x - b", "z")], {"x": CUBE}, {"a": scalar(-0.3), "b": scalar(0.1)}),
    )
    yield "split", ([node("Split", "x p", "y a z", axis=1)], {"x": CUBE}, {"p": ints(1, 2, 3)})
    yield (
        "tile_and_expand",
        (
            [node("Tile", "x r", "y"), node("Expand", "e s", "z")],
            {"x": CUBE, "e": numbers(1, 6, 1)},
            {"r": ints(1, 2, 3), "s": ints(2, 6, 5)},
        ),
    )
    yield "depth_to_space", single("DepthToSpace", numbers(1, 8, 2, 3), blocksize=2, mode="CRD")
    yield "space_to_depth", single("SpaceToDepth", numbers(1, 2, 4, 6), blocksize=2)
    yield "einsum", single("Einsum", CUBE, {"w": numbers(5, 3)}, equation="bij,jk->bik")
    yield "instance_norm", single("InstanceNormalization", IMAGE, {"g": numbers(3), "b": numbers(3, seed=2)})
    yield "local_response_norm", single("LRN", IMAGE, size=3)
    yield "dropout", single("Dropout")
    yield (
        "dropout_between",
        ([node("Relu", "x", "r"), node("Dropout", "r", "d"), node("Neg", "d", "y")], {"x": CUBE}, {}),
    )
    yield "prelu", single("PRelu", CUBE, {"a": numbers(6, 1)})
    yield (
        "cast",
        (
            [
                node("Cast", "x", "i", to=INT32),
                node("Cast", "i", "b", to=BOOL),
                node("Cast", "b", "y", to=FLOAT),
                node("Cast", "x", "z", to=INT64),
            ],
            {"x": CUBE * 3},
            {},
        ),
    )
    yield "integers", (
        [node("Mul", "x k", "m"), node("Div", "m d", "y"), node("Mod", "u e", "z")],
        {"x": np.array([-7, 7, 3, -3], np.int32), "u": ints(-7, 7, 3, 2**40)},
        {"k": np.array(3, np.int32), "d": np.array(2, np.int32), "e": np.array(4)},
    )  # fmt: skip
    yield (
        "doubles",
        ([node("Mul", "x k", "m"), node("Exp", "m", "y")], {"x": np.array([0.1, -3, 4])}, {"k": np.array(1 / 3)}),
    )
    logic = np.array([False, True])
    yield (
        "logic",
        (
            [node("Xor", "a b", "c"), node("Not", "c", "d"), node("And", "d a", "y")],
            {"a": logic.repeat(2), "b": np.tile(logic, 2)},
            {},
        ),
    )
    yield "aliases", ([node("Relu", "x", "y"), node("Reshape", "y s", "z")], {"x": CUBE}, {"s": ints(-1)})
    yield "scalar", ([node("Mul", "x k", "y")], {"x": scalar(2)}, {"k": scalar(3)})
    yield from pools()
    yield "transformer", transformer(5, 8, 2)


def resized() -> Iterator[tuple[str, Case]]:
    for rounding, place in itertools.product(
        ("round_prefer_floor", "ceil"), ("half_pixel", "asymmetric", "align_corners")
    ):
        name, sizes = f"resize_{rounding}_{place}", {"s": ints(1, 3, 7, 4)}
        nodes = [node("Resize", "x - - s", "y", coordinate_transformation_mode=place, nearest_mode=rounding)]
        yield name, (nodes, {"x": IMAGE}, sizes)
    yield "resize_linear", ([node("Resize", "x - - s", "y", mode="linear")], {"x": IMAGE}, {"s": ints(1, 3, 7, 4)})
    scales = {"s": np.array([1, 1, 2, 3], np.float32)}
    yield (
        "resize_by_scales",
        ([node("Resize", "x - s", "y", mode="linear"), node("Resize", "x - s", "z")], {"x": IMAGE}, scales),
    )


def pools() -> Iterator[tuple[str, Case]]:
    yield "max_pool", single("MaxPool", -np.abs(IMAGE), kernel_shape=[2, 3], strides=[2, 2], auto_pad="SAME_UPPER")
    yield "max_pool_rounded_up", single("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    yield "average_pool", single("AveragePool", IMAGE, kernel_shape=[2, 3], pads=[1, 1, 0, 1])
    yield (
        "average_pool_with_padding",
        single("AveragePool", IMAGE, kernel_shape=[2, 3], pads=[1, 1, 0, 1], count_include_pad=1),
    )
    yield (
        "classifier",
        (
            [node("GlobalAveragePool", "x", "g"), node("Flatten", "g", "f"), node("Gemm", "f w b", "y", transB=1)],
            {"x": IMAGE},
            {"w": numbers(4, 3), "b": numbers(4)},
        ),
    )
    yield (
        "transposed",
        single("ConvTranspose", IMAGE, {"w": numbers(3, 2, 3, 3), "b": numbers(2)}, strides=[2, 2], pads=[1, 1, 1, 1]),
    )
    yield "separable", (
        [node("Conv", "x d", "c", group=3, pads=[1, 1, 1, 1]), node("Relu", "c", "r"), node("Conv", "r w b", "p"), node("Add", "p x", "y")],
        {"x": IMAGE}, {"d": numbers(3, 1, 3, 3), "w": numbers(3, 3, 1, 1), "b": numbers(3)},
    )  # fmt: skip


def transformer(steps: int, width: int, heads: int) -> Case:
    """Make a block of a transformer: attention with a mask, and a network with GELU, each behind a layer norm."""
    nodes = [
        node("LayerNormalization", "x g1 b1", "n1"), node("MatMul", "n1 wq", "q0"), node("Add", "q0 bq", "q"),
        node("MatMul", "n1 wk", "k"), node("MatMul", "n1 wv", "v"), node("Reshape", "q split", "q1"),
        node("Transpose", "q1", "q2", perm=[0, 2, 1, 3]), node("Reshape", "k split", "k1"),
        node("Transpose", "k1", "k2", perm=[0, 2, 3, 1]), node("Reshape", "v split", "v1"),
        node("Transpose", "v1", "v2", perm=[0, 2, 1, 3]), node("MatMul", "q2 k2", "s0"), node("Div", "s0 root", "s1"),
        node("Add", "s1 mask", "s2"), node("Softmax", "s2", "a"), node("MatMul", "a v2", "o0"),
        node("Transpose", "o0", "o1", perm=[0, 2, 1, 3]), node("Reshape", "o1 join", "o2"), node("MatMul", "o2 wo", "o3"),
        node("Add", "x o3", "r1"), node("LayerNormalization", "r1 g1 b1", "n2"), node("MatMul", "n2 w1", "h0"),
        node("Add", "h0 bh", "h1"), node("Div", "h1 sqrt2", "e0"), node("Erf", "e0", "e1"), node("Add", "e1 one", "e2"),
        node("Mul", "h1 e2", "e3"), node("Mul", "e3 half", "e4"), node("MatMul", "e4 w2", "f"), node("Add", "r1 f", "y"),
    ]  # fmt: skip
    weights = {f"w{name}": numbers(width, width, seed=seed) for seed, name in enumerate("qkvo")}
    weights |= {"g1": numbers(width, seed=5), "b1": numbers(width, seed=6), "bq": numbers(width, seed=7)}
    weights |= {
        "w1": numbers(width, 2 * width, seed=8),
        "bh": numbers(2 * width),
        "w2": numbers(2 * width, width, seed=9),
    }
    weights |= {"split": ints(1, steps, heads, width // heads), "join": ints(1, steps, width)}
    weights |= {"root": scalar(2), "sqrt2": scalar(2**0.5), "one": scalar(1), "half": scalar(0.5)}
    weights["mask"] = np.triu(np.full((steps, steps), -np.inf, np.float32), 1)
    return nodes, {"x": numbers(1, steps, width)}, weights


def convolution(number: int) -> Case:
    """Make a convolution of any kind, with something behind it."""
    rng = random.Random(number)  # noqa: S311  # the same models in every run
    rank, groups = rng.choice([1, 2, 2, 2, 3]), rng.choice([1, 1, 1, 2, 3])
    inner, outer = rng.randint(1, 3), groups * rng.randint(1, 3)
    kernel, dilation, stride = ([rng.randint(1, most) for _ in range(rank)] for most in (4, 3, 3))
    pads = [0] * (2 * rank) if rng.random() < 0.2 else [rng.randint(0, 4) for _ in range(2 * rank)]
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    shape = [max(1, reach[i] - pads[i] - pads[i + rank]) + rng.randint(0, 6) for i in range(rank)]
    weights = {"w": numbers(outer, inner, *kernel, seed=number), "b": numbers(outer, seed=number + 1)}
    fields = {"kernel_shape": kernel, "strides": stride, "dilations": dilation, "pads": pads, "group": groups}
    tails = [
        [node("Relu", "c", "y")], [node("Sigmoid", "c", "s"), node("Mul", "c s", "y")], [node("Mul", "c q", "m"), node("Add", "m q", "y")],
        [node("MaxPool", "c", "y", kernel_shape=[1] * rank)], [node("Identity", "c", "y")],
    ]  # fmt: skip
    tail = tails[number % len(tails)]
    if number % len(tails) == 2:
        weights["q"] = numbers(1, outer, *[1] * rank, seed=number + 2)
    array = numbers(1, groups * inner, *shape, seed=number + 3)
    return [node("Conv", "x w b", "c", **fields), *tail], {"x": array}, weights


CASES: dict[str, Case] = {
    **dict(cases()),
    **{f"convolution_{number}": convolution(number) for number in range(CONV_COUNT)},
}
# Every model as it is by default, and some of them also without arranged loops, or without fusing.
VARIANTS = {f"{name}_3s": (name, 3, True) for name in CASES}
VARIANTS |= {
    f"{name}_3": (name, 3, False)
    for name in [*list(CASES)[::3], *(item for item in CASES if item.startswith("convolution"))]
}
VARIANTS |= {f"{name}_0s": (name, 0, True) for name in list(CASES)[1::4]}


def file_of(name: str, folder: Path) -> Path:
    nodes, arrays, weights = CASES[name]
    inputs = [value(key, array.shape, TYPES[str(array.dtype)]) for key, array in arrays.items()]
    made = {item for part in nodes for item in part.output}
    path = folder / f"{name.replace('-', '_')}.onnx"
    import onnx  # noqa: PLC0415

    outputs = [onnx.ValueInfoProto(name=item) for item in ("y", "z") if item in made]
    model = onnx_model(nodes, inputs, outputs, **weights)
    return save(path, onnx.shape_inference.infer_shapes(model, strict_mode=True))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, CompiledModel]:
    folder = tmp_path_factory.mktemp("models")
    files = {name: file_of(name, folder) for name in CASES}
    return {
        variant: compile_file(files[name], name=f"m{number}", rounding="float", level=level, is_scheduled=is_scheduled)
        for number, (variant, (name, level, is_scheduled)) in enumerate(VARIANTS.items())
    }


@pytest.fixture(scope="module")
def results(models: Mapping[str, CompiledModel], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[Array]]:
    given = [(models[variant], CASES[name][1]) for variant, (name, _, _) in VARIANTS.items()]
    return dict(zip(VARIANTS, run_models(given, tmp_path_factory.mktemp("run")), strict=True))


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[Array]]:
    folder = tmp_path_factory.mktemp("right")
    return {name: expected(file_of(name, folder), arrays) for name, (_, arrays, _) in CASES.items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_numbers_are_those_of_onnxruntime(results: Any, right: Any, variant: str) -> None:
    assert_close(results[variant], right[VARIANTS[variant][0]])


def test_all_operators_are_plain_c(models: Mapping[str, CompiledModel]) -> None:
    text = "".join(model.operators for model in models.values())
    assert not re.findall(r"\b(?:static(?! inline)|malloc|calloc|alloca|TVM\w+|DL\w+|goto|extern)\b", text)
    assert sorted(set(re.findall(r"#include (.+)", text))) == ["<math.h>", "<stdbool.h>", "<stdint.h>"]


def test_every_prototype_is_the_head_of_its_operator(models: Mapping[str, CompiledModel]) -> None:
    for model in models.values():
        heads = [
            " ".join(item.split()) for item in re.findall(r"^void \w+\([^)]*\)(?= \{)", model.operators, re.MULTILINE)
        ]
        assert [f"{head};" for head in heads] == [model.prototypes[name] for name in sorted(model.prototypes)]
        assert {call.function for call in model.program.calls} == set(model.prototypes)


def test_what_is_read_is_const_and_what_is_written_is_not(models: Mapping[str, CompiledModel]) -> None:
    for model in models.values():
        for call in model.program.calls:
            inside = model.prototypes[call.function].partition("(")[2].removesuffix(");")
            parameters = [item.strip() for item in inside.split(",")]
            assert len(parameters) == len(call.arguments)
            for place, text in zip(call.arguments, parameters, strict=True):
                assert re.fullmatch(r"(const )?\w+\* restrict \w+", text)
                assert text.startswith("const ") == (place not in call.written)


def test_no_operator_writes_what_it_also_reads(models: Mapping[str, CompiledModel]) -> None:
    for model in models.values():
        layout = lay_out(model.program)
        for call in model.program.calls:
            written = {model.program.root(place) for place in call.written}
            assert not written & {model.program.root(place) for place in call.arguments if place not in call.written}
        assert layout.arena_bytes <= max(1.01 * layout.lower_bound_bytes, layout.lower_bound_bytes + 15)


def test_arm_compiler_takes_every_operator_and_little_stack(
    models: Mapping[str, CompiledModel], tmp_path: Path
) -> None:
    for number, model in enumerate(models.values()):
        (tmp_path / f"m{number}.c").write_text(model.operators)
    files = sorted(path.name for path in tmp_path.glob("*.c"))
    subprocess.run([*CORTEX_M4, "-O2", "-fstack-usage", "-c", *files], cwd=tmp_path, check=True)
    used = [line.split("\t") for path in tmp_path.glob("*.su") for line in path.read_text().splitlines()]
    assert {kind for _, _, kind in used} == {"static"}
    assert max(int(size_bytes) for _, size_bytes, _ in used) < 400


def test_an_operator_of_full_size_temporaries_borrows_them(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    nodes = [node("Conv", "x w", "c", pads=[1, 1, 1, 1]), node("Relu", "c", "y")]
    save(path, onnx_model(nodes, [value("x", [1, 3, 8, 8])], [value("y", [1, 4, 8, 8])], w=numbers(4, 3, 3, 3)))
    plain, tight = (compile_file(path, name="net", rounding="float", is_scheduled=item) for item in (False, True))
    (call,) = plain.program.calls
    lent = [plain.program.values[place] for place in call.written[1:]]
    assert [item.size_bytes for item in lent] == [4 * 3 * 10 * 10, 4 * 4 * 8 * 8]  # the padded image, and the sums
    assert lay_out(plain.program).arena_bytes == 2224
    assert (len(tight.program.calls[0].written), lay_out(tight.program).arena_bytes) == (1, 0)


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        pytest.param([node("Conv", "x w", "c"), node("Relu", "c", "y")], (8, 8, 1, 1), id="1x1"),
        pytest.param(
            [node("Conv", "x w", "c"), node("Clip", "c low high", "y")], (8, 8, 1, 1), id="1x1 with two limits"
        ),
    ],
)
def test_gcc_makes_vectors_for_cortex_m55(tmp_path: Path, nodes: Sequence[Any], weights: tuple[int, ...]) -> None:
    limits = {"low": scalar(0), "high": scalar(6)} if nodes[1].op_type == "Clip" else {}
    path = tmp_path / "net.onnx"
    inputs, outputs = [value("x", [1, 8, 6, 8])], [value("y", [1, 8, 6, 8])]
    save(path, onnx_model(nodes, inputs, outputs, w=numbers(*weights), **limits))
    (tmp_path / "net.c").write_text(compile_file(path, name="net", rounding="float").operators)
    flags = ("-std=c99", "-O2", "-mcpu=cortex-m55", "-mthumb", "-mfloat-abi=hard", "-mfpu=auto")
    subprocess.run(["arm-none-eabi-gcc", *flags, "-S", "net.c"], cwd=tmp_path, check=True)

    code = (tmp_path / "net.s").read_text()
    assert re.search(r"\bvmul\.f32\s+q\d", code)
    assert not re.search(r"\b(?:vmul|vmla|vfma|vcmpe?)\.f32\s+s\d", code)


@pytest.mark.parametrize(("channels", "sums"), [(8, 4), (6, 3), (10, 2), (7, 0)])
@pytest.mark.parametrize("layout", ["valid", "padded"])
def test_sums_are_computed_together_as_far_as_they_divide(
    tmp_path: Path, channels: int, sums: int, layout: str
) -> None:
    path = tmp_path / "net.onnx"
    pads = [1, 1, 1, 1] if layout == "padded" else [0, 0, 0, 0]
    side = 7 if layout == "padded" else 9  # an image of 7 x 7 comes out, which divides by none
    nodes = [node("Conv", "x w", "y", pads=pads)]
    inputs, outputs = [value("x", [1, 3, side, side])], [value("y", [1, channels, 7, 7])]
    save(path, onnx_model(nodes, inputs, outputs, w=numbers(channels, 3, 3, 3)))
    operators = compile_file(path, name="net", rounding="float").operators
    assert [int(item) for item in re.findall(r"^  float \w+\[(\d+)\];", operators, re.MULTILINE)] == (
        [sums] if sums else []
    )


def test_numbers_in_the_code_keep_every_bit(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    exact = np.float32(0.1234567891)
    nodes = [node("Mul", "x k", "y"), node("Mul", "d j", "z")]
    given = [value("x", [3]), value("d", [3], DOUBLE)]
    save(path, onnx_model(nodes, given, [value("y", [3]), value("z", [3], DOUBLE)], k=exact, j=np.array(1 / 3)))
    model = compile_file(path, name="net", rounding="float")
    literals = re.findall(r"\d\.\d+(?:e[+-]\d+)?f?", model.operators)
    assert np.float32(literals[0].removesuffix("f")) == exact
    assert float(literals[1]) == 1 / 3


@pytest.mark.parametrize(
    ("script", "expected_numbers"),
    [
        ("T.float32(0.10000000149011612)", {("1.000000e-01", "f"): "0.100000001f"}),
        ("T.float32(6.0)", {("6.000000e+00", "f"): "6.0f"}),
        ("T.float64(0.1)", {("1.000000e-01", ""): "0.1"}),
        ('T.float32("inf")', {("inf", "f"): "inff"}),
        ("T.float32(-3.4028234663852886e+38)", {("3.402823e+38", "f"): "3.40282347e+38f"}),
        ("T.float32(0.1) + T.float32(-0.10000000149011612)", {("1.000000e-01", "f"): "0.100000001f"}),
        ("T.float32(0.123456784) + T.float32(0.123456813)", {}),
    ],
)
def test_digits_come_from_the_script(script: str, expected_numbers: Mapping[Any, str]) -> None:
    assert _exact_numbers(script) == expected_numbers


def test_a_variable_that_nothing_reads_is_not_written(models: Mapping[str, CompiledModel]) -> None:
    assert all("T_full_like" not in models[variant].operators for variant in VARIANTS if variant.startswith("dropout"))
