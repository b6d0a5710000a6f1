"""Compile models with TVM into the archives that the tests read: `make_archives.py OUT_DIR`.

Runs under the interpreter of the compiler, which `tests/run.sh` prepares, once for each compiler that it put there; the
compilers' cases meet in one folder. For every case it writes `CASE.tar`,
`CASE.inputs.npz` and `CASE.outputs.npz`, whose arrays bear the tensor names of the archive's `metadata.json`
(`MODULE/TENSOR` if the archive holds several modules, `FUNCTION/POSITION` if it holds operators). The outputs are
numpy's (`reference.py`), not the compiler's. `cases.json` lists the cases.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import tempfile
import types
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

# The wheels were built for CPython 3.6 or 3.10 and numpy 1: without their Cython half, and with old names of numpy back,
# they serve every later version.
os.environ["TVM_FFI"] = "ctypes"
os.environ["TOPHUB_LOCATION"] = "NONE"  # or it asks the network for tuned schedules
np.float_ = np.float64  # noqa: NPY201 - the compiler still asks for it

import tvm  # noqa: E402 - reads what was just set
from tvm import relay, te  # noqa: E402 - as above
from tvm.relay.op.annotation import compiler_begin, compiler_end  # noqa: E402 - as above

COMPILER = tvm.__version__.removesuffix(".dev0")
NEWEST, OLDEST = "0.16", "0.8"
MODULE = "default"
# The unpacked C interface, the one that firmware calls.
C_INTERFACE = {"interface-api": "c", "unpacked-api": True}
INT8 = (-128, 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A step of a model twice: as the compiler's expression, and as the numbers that it must come to."""

    expr: Any
    value: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A module of functions, its inputs in call order and its expected outputs; `sram_bytes` is the size of the first of two pools."""

    program: Any
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    rtol: float
    atol: float
    sram_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How a module is compiled, gets its memory and is called; `traits` are for who chooses among the cases.

    `machine` is a key of `MACHINES`: the module becomes objects for that machine, not C.
    """

    planned: bool = True  # by the compiler (USMP), not by calls of an allocator
    pools: tuple[str, ...] = ()
    constant_pool: str | None = None
    executor: str = "aot"
    options: Mapping[str, object] = field(default_factory=lambda: C_INTERFACE)
    runtime_options: Mapping[str, object] = field(default_factory=dict)
    config: Mapping[str, object] = field(default_factory=dict)
    machine: str | None = None
    traits: tuple[str, ...] = ()

    @property
    def interface(self) -> str:
        return str(self.options.get("interface-api", "packed"))

    @property
    def operators(self) -> str:
        return "unpacked" if self.options.get("unpacked-api") else "packed"


# The machines of the linker's targets of these names, and how this compiler is told to make objects for them.
MACHINES = {
    "host": "llvm -mtriple=x86_64-linux-gnu -mcpu=x86-64",
    "cortex-m4": "llvm -mtriple=thumbv7em-none-eabi -mcpu=cortex-m4 -mfloat-abi=hard",
    "rv32imac": "llvm -mtriple=riscv32-unknown-elf -mcpu=generic-rv32 -mattr=+m,+a,+c -mabi=ilp32",
}
SYSTEM_LIB = {"system-lib": True}
UNPACKED = {"unpacked-api": True}
# Inputs and outputs inside the pools.
LENT_IO = {"tir.usmp.use_workspace_io": True}

STYLES = {
    "usmp": Style(),
    "alloc": Style(planned=False),
    "pool": Style(pools=("sram",)),
    "pools": Style(pools=("sram", "dtcm")),
    "cpool": Style(constant_pool="flash"),
    "io": Style(pools=("sram",), config=LENT_IO, traits=("workspace-io",)),
    "io-pools": Style(pools=("sram", "dtcm"), config=LENT_IO, traits=("workspace-io",)),
    "systemlib": Style(runtime_options=SYSTEM_LIB, traits=("system-lib",)),
    "alloc-systemlib": Style(planned=False, runtime_options=SYSTEM_LIB, traits=("system-lib",)),
    "packed": Style(planned=False, options={}),
    "packed-usmp": Style(options={}),
    "packed-systemlib": Style(planned=False, options={}, runtime_options=SYSTEM_LIB),
    "packed-pool": Style(pools=("sram",), options={}, traits=("pools-not-passed",)),
    "unpacked-packed": Style(planned=False, options=UNPACKED),
    "unpacked-packed-usmp": Style(options=UNPACKED),
    "unpacked-packed-pool": Style(pools=("sram",), options=UNPACKED, traits=("pools-not-passed",)),
    "graph": Style(planned=False, executor="graph", options={}, runtime_options=SYSTEM_LIB),
    "graph-params": Style(planned=False, executor="graph", options={}),
    "graph-linked": Style(planned=False, executor="graph", options={"link-params": True}, runtime_options=SYSTEM_LIB),
    # The compiler puts the constants into a pool that objects have no room for, so the archive lacks them.
    "llvm-usmp": Style(options={}, runtime_options=SYSTEM_LIB, machine="host", traits=("constants-lost",)),
}
for _machine in MACHINES:
    for _executor, _name in (("aot", f"llvm-{_machine}"), ("graph", f"llvm-graph-{_machine}")):
        STYLES[_name] = Style(
            planned=False, executor=_executor, options={}, runtime_options=SYSTEM_LIB, machine=_machine
        )


class Draw:
    """A source of the same numbers on every machine."""

    def __init__(self, seed: int) -> None:
        self._state = np.random.RandomState(seed)  # the one generator that numpy never changes

    def floats(self, *shape: int, spread: float = 1.0) -> np.ndarray:
        """Float32 numbers within `spread` of zero."""
        return self._state.uniform(-spread, spread, shape).astype(np.float32)

    def weights(self, *shape: int) -> np.ndarray:
        """Float32 weights, the first axis the output, that keep the spread of what they multiply."""
        return self.floats(*shape, spread=(3 / np.prod(shape[1:])) ** 0.5)

    def integers(self, *shape: int, low: int = INT8[0], high: int = INT8[1], dtype: str = "int8") -> np.ndarray:
        """Integers from `low` to below `high`."""
        return self._state.randint(low, high, shape).astype(dtype)


class Builder:
    """Collects the inputs of a model and ends it."""

    def __init__(self) -> None:
        self._variables: list[Any] = []
        self._inputs: dict[str, np.ndarray] = {}

    def input(self, name: str, array: np.ndarray) -> Node:
        """The next input."""
        variable = relay.var(name, shape=array.shape, dtype=str(array.dtype))
        self._variables.append(variable)
        self._inputs[name] = array
        return Node(expr=variable, value=array.astype(np.float64 if array.dtype.kind == "f" else np.int64))

    def end(
        self,
        *results: Node,
        names: tuple[str, ...] = (),
        rtol: float = 1e-4,
        atol: float = 1e-5,
        sram_bytes: int = 1024,
    ) -> Model:
        """The model that returns `results`; `names` are given to the compiler too."""
        expr = results[0].expr if len(results) == 1 else relay.Tuple([result.expr for result in results])
        function = relay.Function(self._variables, expr)
        if COMPILER == OLDEST:
            names = ()  # it knows no such attribute
        if names:
            function = function.with_attr("output_tensor_names", list(names))
        returned = relay.transform.InferType()(tvm.IRModule.from_expr(function))["main"].ret_type
        tensors = [returned] if len(results) == 1 else list(returned.fields)
        default = ["output"] if len(results) == 1 else [f"output{index}" for index in range(len(results))]
        values = [result.value.astype(tensor.dtype) for result, tensor in zip(results, tensors, strict=True)]
        return Model(
            program=tvm.IRModule.from_expr(function),
            inputs=self._inputs,
            outputs=dict(zip(names or default, values, strict=True)),
            rtol=rtol,
            atol=atol,
            sram_bytes=sram_bytes,
        )


def constant(value: object, dtype: str) -> Any:
    return relay.const(np.asarray(value, dtype))


def add(x: Node, y: Node) -> Node:
    return Node(expr=x.expr + y.expr, value=x.value + y.value)


def multiply(x: Node, y: Node) -> Node:
    return Node(expr=x.expr * y.expr, value=x.value * y.value)


def relu(x: Node) -> Node:
    return Node(expr=relay.nn.relu(x.expr), value=np.maximum(x.value, 0))


def sigmoid(x: Node) -> Node:
    return Node(expr=relay.sigmoid(x.expr), value=reference.sigmoid(x.value))


def tanh(x: Node) -> Node:
    return Node(expr=relay.tanh(x.expr), value=np.tanh(x.value))


def softmax(x: Node) -> Node:
    return Node(expr=relay.nn.softmax(x.expr), value=reference.softmax(x.value))


def flatten(x: Node) -> Node:
    return Node(expr=relay.nn.batch_flatten(x.expr), value=x.value.reshape(len(x.value), -1))


def mean_pool(x: Node) -> Node:
    return Node(expr=relay.nn.global_avg_pool2d(x.expr), value=x.value.mean(axis=(2, 3), keepdims=True))


def max_pool(x: Node, size: int) -> Node:
    pooled = relay.nn.max_pool2d(x.expr, pool_size=(size, size), strides=(size, size))
    return Node(expr=pooled, value=reference.max_pool(x.value, size))


def dense(x: Node, weights: np.ndarray) -> Node:
    return Node(expr=relay.nn.dense(x.expr, relay.const(weights)), value=x.value @ weights.astype(x.value.dtype).T)


def bias(x: Node, values: np.ndarray) -> Node:
    """`x` plus one of `values` per channel, axis 1."""
    added = x.value + reference.per_channel(values, x.value.ndim)
    return Node(expr=relay.nn.bias_add(x.expr, relay.const(values)), value=added)


def conv2d(x: Node, weights: np.ndarray, *, stride: int = 1, padding: int = 0, groups: int = 1) -> Node:
    layer = relay.nn.conv2d(
        x.expr,
        relay.const(weights),
        kernel_size=weights.shape[2:],
        channels=len(weights),
        strides=(stride, stride),
        padding=(padding, padding),
        groups=groups,
    )
    return Node(expr=layer, value=reference.conv2d(x.value, weights, stride=stride, padding=padding, groups=groups))


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """An int8 step; its real numbers are (value - zero) * scale."""

    node: Node
    scale: float
    zero: int


def requantize(sums: Node, input_scales: np.ndarray, *, scale: float, zero: int) -> Quantized:
    """The int8 step of 32-bit `sums` whose scale is one of `input_scales` per channel, or the only one."""
    scales = input_scales[0] if len(input_scales) == 1 else input_scales
    expr = relay.qnn.op.requantize(
        sums.expr,
        constant(scales, "float32"),
        constant(0, "int32"),
        constant(scale, "float32"),
        constant(zero, "int32"),
        axis=1,
        rounding="UPWARD",
        out_dtype="int8",
    )
    value = reference.requantize(sums.value, input_scales, scale=scale, zero=zero)
    return Quantized(node=Node(expr=expr, value=value), scale=scale, zero=zero)


def quantized_relu(x: Quantized) -> Quantized:
    """`x` without its numbers below the zero point."""
    clipped = Node(expr=relay.clip(x.node.expr, x.zero, INT8[1] - 1), value=np.maximum(x.node.value, x.zero))
    return Quantized(node=clipped, scale=x.scale, zero=x.zero)


def quantized_conv2d(
    x: Quantized, weights: np.ndarray, weight_scales: tuple[float, ...], *, stride: int = 1, groups: int = 1
) -> Node:
    """The 32-bit sums of a 3 by 3 convolution; the border counts as zero, that is as the zero point."""
    layer = relay.qnn.op.conv2d(
        x.node.expr,
        relay.const(weights),
        constant(x.zero, "int32"),
        constant(0, "int32"),
        constant(x.scale, "float32"),
        constant(weight_scales if len(weight_scales) > 1 else weight_scales[0], "float32"),
        kernel_size=(3, 3),
        channels=len(weights),
        strides=(stride, stride),
        padding=(1, 1),
        groups=groups,
    )
    centred = x.node.value - x.zero
    return Node(expr=layer, value=reference.conv2d(centred, weights, stride=stride, padding=1, groups=groups))


def quantized_dense(x: Quantized, weights: np.ndarray, weight_scale: float) -> Node:
    """The 32-bit sums of a fully connected layer."""
    layer = relay.qnn.op.dense(
        x.node.expr,
        relay.const(weights),
        constant(x.zero, "int32"),
        constant(0, "int32"),
        constant(x.scale, "float32"),
        constant(weight_scale, "float32"),
        units=len(weights),
    )
    return Node(expr=layer, value=(x.node.value - x.zero) @ weights.astype(np.int64).T)


def dense_model() -> Model:
    """Two inputs whose call order is not the alphabetical one."""
    draw, builder = Draw(1), Builder()
    total = add(builder.input("x", draw.floats(1, 8)), builder.input("a", draw.floats(1, 8)))
    return builder.end(relu(dense(total, draw.weights(4, 8))))


def convolutions(seed: int, size: int, channels: tuple[int, int, int]) -> Model:
    """Two convolutions, inputs whose names are no C names, two outputs; the sizes change, the operators' names do not."""
    draw, builder = Draw(seed), Builder()
    depth, middle, last = channels
    x = builder.input("zeta:0", draw.floats(1, depth, size, size))
    addend = builder.input("alpha-b", draw.floats(1, middle, size - 2, size - 2))
    hidden = add(relu(conv2d(x, draw.weights(middle, depth, 3, 3))), addend)
    image = conv2d(hidden, draw.weights(last, middle, 3, 3), padding=1)
    return builder.end(softmax(flatten(mean_pool(image))), image)


def conv_model() -> Model:
    return convolutions(2, 16, (3, 4, 6))


def twin_model() -> Model:
    return convolutions(3, 10, (5, 8, 4))


def named_model() -> Model:
    """Outputs with names of their own, not in alphabetical order, of two number types."""
    draw, builder = Draw(4), Builder()
    hidden = tanh(bias(dense(builder.input("features", draw.floats(1, 40)), draw.weights(24, 40)), draw.floats(24)))
    scores = softmax(bias(dense(hidden, draw.weights(6, 24)), draw.floats(6)))
    best = Node(expr=relay.argmax(scores.expr, axis=1), value=scores.value.argmax(axis=1))
    return builder.end(scores, hidden, best, names=("scores", "hidden", "best"))


def math_model() -> Model:
    """One fused chain of many functions of libm."""
    draw, builder = Draw(5), Builder()
    x, y = builder.input("x", draw.floats(1, 300, spread=3)), builder.input("y", draw.floats(1, 300, spread=2))
    size = Node(expr=y.expr * y.expr + relay.const(0.5), value=y.value**2 + 0.5)
    soft = Node(expr=relay.log(relay.exp(x.expr) + size.expr), value=np.log(np.exp(x.value) + size.value))
    power = Node(expr=relay.power(size.expr, relay.const(0.7)), value=size.value**0.7)
    root = Node(expr=relay.sqrt(size.expr), value=np.sqrt(size.value))
    wave = Node(expr=relay.sin(x.expr) * relay.cos(y.expr), value=np.sin(x.value) * np.cos(y.value))
    angle = Node(expr=relay.atan(x.expr) + relay.floor(y.expr), value=np.arctan(x.value) + np.floor(y.value))
    bell = Node(expr=relay.erf(x.expr), value=reference.erf(x.value))
    total = multiply(sigmoid(x), tanh(y))
    for term in (soft, power, root, wave, angle, bell):
        total = add(total, term)
    return builder.end(total, softmax(total))


def lstm_model() -> Model:
    """Four steps of a long short-term memory; many small buffers, used again and again."""
    draw, builder = Draw(6), Builder()
    steps, features, units = 4, 12, 20
    sequence = builder.input("sequence", draw.floats(steps, features))
    hidden = builder.input("hidden", draw.floats(1, units))
    cell = builder.input("cell", draw.floats(1, units))
    from_input, from_hidden = draw.weights(4 * units, features), draw.weights(4 * units, units)
    offsets = draw.floats(4 * units)
    for step in range(steps):
        row = Node(
            expr=relay.strided_slice(sequence.expr, [step, 0], [step + 1, features]),
            value=sequence.value[step : step + 1],
        )
        gates = bias(add(dense(row, from_input), dense(hidden, from_hidden)), offsets)
        exprs, values = relay.split(gates.expr, 4, axis=1), np.split(gates.value, 4, axis=1)
        let_in, keep, fresh, let_out = (Node(expr=exprs[i], value=value) for i, value in enumerate(values))
        cell = add(multiply(sigmoid(keep), cell), multiply(sigmoid(let_in), tanh(fresh)))
        hidden = multiply(sigmoid(let_out), tanh(cell))
    return builder.end(hidden, cell)


def residual_model() -> Model:
    """Blocks whose input must outlive them."""
    draw, builder = Draw(7), Builder()
    x = relu(conv2d(builder.input("image", draw.floats(1, 2, 12, 12)), draw.weights(8, 2, 3, 3), padding=1))
    for _ in range(2):
        inner = relu(bias(conv2d(x, draw.weights(8, 8, 3, 3), padding=1), draw.floats(8)))
        x = relu(add(x, conv2d(inner, draw.weights(8, 8, 3, 3), padding=1)))
    return builder.end(dense(flatten(max_pool(x, 2)), draw.weights(5, 8 * 6 * 6)), sram_bytes=5000)


def mobile_model() -> Model:
    """Depthwise-separable convolutions with enough weights to time."""
    draw, builder = Draw(8), Builder()
    x = builder.input("image", draw.floats(1, 3, 32, 32))
    x = relu(bias(conv2d(x, draw.weights(16, 3, 3, 3), stride=2, padding=1), draw.floats(16, spread=0.2)))
    for depth, width, stride in ((16, 32, 1), (32, 64, 2), (64, 128, 2), (128, 160, 1)):
        x = conv2d(x, draw.weights(depth, 1, 3, 3), stride=stride, padding=1, groups=depth)
        x = relu(bias(x, draw.floats(depth, spread=0.2)))
        x = relu(bias(conv2d(x, draw.weights(width, depth, 1, 1)), draw.floats(width, spread=0.2)))
    scores = bias(dense(flatten(mean_pool(x)), draw.weights(10, 160)), draw.floats(10))
    return builder.end(softmax(scores))


def int8_model() -> Model:
    """One convolution in int8, exact."""
    draw, builder = Draw(9), Builder()
    x = Quantized(node=builder.input("data", draw.integers(1, 4, 8, 8)), scale=0.1, zero=3)
    sums = quantized_conv2d(x, draw.integers(4, 4, 3, 3), (0.02,))
    result = requantize(sums, np.asarray([0.1 * 0.02]), scale=1.3, zero=-5)
    return builder.end(result.node, rtol=0, atol=0, sram_bytes=512)


def int8_net_model() -> Model:
    """A convolution with a scale per channel, a depthwise and a fully connected layer in int8, exact."""
    draw, builder = Draw(10), Builder()
    x = Quantized(node=builder.input("data", draw.integers(1, 3, 10, 10)), scale=0.05, zero=-7)
    scales = tuple(0.004 + 0.001 * channel for channel in range(8))
    sums = bias(
        quantized_conv2d(x, draw.integers(8, 3, 3, 3), scales), draw.integers(8, low=-3000, high=3000, dtype="int32")
    )
    x = quantized_relu(requantize(sums, np.asarray(scales) * 0.05, scale=0.7, zero=-40))
    sums = quantized_conv2d(x, draw.integers(8, 1, 3, 3), (0.01,), stride=2, groups=8)
    sums = bias(sums, draw.integers(8, low=-900, high=900, dtype="int32"))
    x = requantize(sums, np.asarray([0.7 * 0.01]), scale=2.5, zero=4)
    flat = Quantized(node=flatten(x.node), scale=x.scale, zero=x.zero)
    sums = bias(quantized_dense(flat, draw.integers(6, 200), 0.03), draw.integers(6, low=-900, high=900, dtype="int32"))
    result = requantize(sums, np.asarray([2.5 * 0.03]), scale=40.0, zero=11)
    return builder.end(result.node, rtol=0, atol=0)


def overlap_model() -> Model:
    """Two outputs, neither read again; inside a pool this compiler lays them over each other."""
    draw, builder = Draw(11), Builder()
    total = add(builder.input("x", draw.floats(1, 8)), builder.input("a", draw.floats(1, 8)))
    results = relu(dense(total, draw.weights(4, 8))), softmax(dense(total, draw.weights(6, 8)))
    return builder.end(*results, names=("p", "q"))


def keyword_model() -> Model:
    """Inputs whose names are words of C, the output's too."""
    draw, builder = Draw(12), Builder()
    total = add(builder.input("int", draw.floats(1, 8)), builder.input("default", draw.floats(1, 8)))
    return builder.end(relu(dense(total, draw.weights(4, 8))), names=("return",))


def same_names_model() -> Model:
    """Inputs whose names are one name in C; the compiler refuses them in a header alone."""
    draw, builder = Draw(13), Builder()
    total = add(builder.input("a:b", draw.floats(1, 8)), builder.input("a-b", draw.floats(1, 8)))
    return builder.end(relu(dense(total, draw.weights(4, 8))))


def types_model() -> Model:
    """Parameters of three number types. The exporter can size none of bool, and overlooks this one for its place.

    It looks at as many tensors as there are buffers, which the chain before the bool parameter shares.
    """
    draw, builder = Draw(14), Builder()
    codes, halves, reals = draw.integers(1, 16, low=0, high=100, dtype="uint8"), draw.floats(1, 16), draw.floats(1, 16)
    mask = draw.integers(1, 16, low=0, high=2, dtype="bool")
    code, half, real = (
        builder.input(name, array)
        for name, array in (("codes", codes), ("halves", halves.astype(np.float16)), ("reals", reals))
    )
    step = draw.integers(1, 16, low=0, high=100, dtype="uint8")
    factor = draw.floats(1, 16).astype(np.float16)
    sums = Node(expr=code.expr + relay.const(step), value=code.value + step)
    products = Node(expr=half.expr * relay.const(factor), value=half.value * factor.astype(np.float64))
    chain = softmax(softmax(softmax(softmax(real))))
    picked = Node(
        expr=relay.where(relay.const(mask), chain.expr, real.expr), value=np.where(mask, chain.value, real.value)
    )
    return builder.end(sums, products, picked)


def offload_model(compiler: str, seed: int = 15, size: int = 8) -> Model:
    """A product that `compiler` makes, one of `EXTERNAL_FORMATS` or the compiler's own example."""
    draw, builder = Draw(seed), Builder()
    x, y = builder.input("x", draw.floats(1, size)), builder.input("a", draw.floats(1, size))
    total = add(x, y)
    factors = [compiler_begin(node.expr, compiler) for node in (total, y)]
    product = Node(expr=compiler_end(relay.multiply(*factors), compiler), value=total.value * y.value)
    model = builder.end(relu(dense(product, draw.weights(4, size))))
    typed = relay.transform.InferType()(model.program)
    return replace(model, program=relay.transform.PartitionGraph()(typed))


# External code generators of ours, and the suffixes of their sources.
EXTERNAL_FORMATS = {"outboard_c": "c", "outboard_cc": "cc", "outboard_cpp": "cpp"}
EXTERNAL_C = """\
#include <stdint.h>
#include <tvm/runtime/c_runtime_api.h>

TVM_DLL int32_t {name}(float* x, float* y, float* product) {{
  for (int32_t i = 0; i < {elements}; ++i) {{
    product[i] = x[i] * y[i];
  }}
  return 0;
}}
"""
EXTERNAL_CPP = """\
#include <stdint.h>
#include <tvm/runtime/c_runtime_api.h>

namespace {{
template <typename T, int32_t kElements>
void Multiply(const T* x, const T* y, T* product) {{
  for (int32_t i = 0; i < kElements; ++i) {{
    product[i] = x[i] * y[i];
  }}
}}
}}  // namespace

extern "C" TVM_DLL int32_t {name}(float* x, float* y, float* product) {{
  Multiply<float, {elements}>(x, y, product);
  return 0;
}}
"""


def register_external(compiler: str, suffix: str) -> None:
    """Let the compiler ask for the code of the products that `compiler` is to make, with unpacked arguments."""
    create = tvm.get_global_func("runtime.CSourceModuleCreate")
    text = EXTERNAL_C if suffix == "c" else EXTERNAL_CPP

    def generate(function: Any) -> Any:
        name = str(function.attrs["global_symbol"])
        elements = int(np.prod([int(extent) for extent in function.ret_type.shape]))
        return create(text.format(name=name, elements=elements), suffix, [name], [])

    tvm.register_func(f"relay.ext.{compiler}", generate)


# What sets a case apart, by its name or its model's, beside the traits of its style.
TRAITS = {
    "types": ("half", "bool-parameter"),
    "offload-c": ("external-code",),
    "offload-cc": ("external-code", "c++"),
    "offload-cpp": ("external-code", "c++"),
    "offload-own": ("external-code",),
    # The compiler's own example defines a packed function, which its own unpacked call does not fit.
    "offload-own-usmp": ("wrong-call",),
    "overlap-io": ("overlapping-outputs",),
    "upper-usmp": ("upper-case",),
    "upper-pool": ("upper-case",),
    "keyword-usmp": ("keywords",),
    "keyword-packed": ("keywords",),
    "same-names-packed": ("same-names",),
    "same-names-unpacked-packed": ("same-names",),
}
DENSE_STYLES = (
    "usmp alloc pool io io-pools packed packed-usmp packed-systemlib packed-pool unpacked-packed unpacked-packed-usmp "
    "unpacked-packed-pool graph graph-params graph-linked llvm-usmp llvm-host llvm-cortex-m4 llvm-rv32imac "
    "llvm-graph-host llvm-graph-cortex-m4 llvm-graph-rv32imac"
)
DENSE_STYLES_09 = (
    "usmp alloc pool io systemlib packed packed-usmp unpacked-packed-usmp graph graph-params graph-linked "
    "llvm-host llvm-graph-host llvm-graph-cortex-m4"
)
DENSE_STYLES_08 = (
    "alloc alloc-systemlib packed unpacked-packed graph graph-params graph-linked llvm-graph-host "
    "llvm-graph-cortex-m4 llvm-graph-rv32imac"
)

# Not every style of every model: the larger ones take seconds each, and with two pools the compiler's own plan of `lstm`
# is wrong (it lays buffers that are alive together over each other).
MODELS: Mapping[str, tuple[Callable[[], Model], str]] = {
    "conv": (conv_model, "usmp alloc pool pools cpool packed graph"),
    "dense": (dense_model, DENSE_STYLES),
    "int8": (int8_model, "usmp alloc pools io packed-usmp graph llvm-cortex-m4"),
    "int8-net": (int8_net_model, "usmp pools cpool"),
    "keyword": (keyword_model, "usmp packed"),
    "lstm": (lstm_model, "usmp alloc pool graph-params"),
    "math": (math_model, "usmp alloc pool"),
    "mobile": (mobile_model, "usmp alloc"),
    "named": (named_model, "usmp alloc pool packed-usmp unpacked-packed graph llvm-rv32imac"),
    "offload-c": (partial(offload_model, "outboard_c"), "usmp alloc"),
    "offload-cc": (partial(offload_model, "outboard_cc"), "usmp"),
    "offload-cpp": (partial(offload_model, "outboard_cpp"), "pool"),
    "offload-own": (partial(offload_model, "ccompiler"), "usmp packed graph"),
    "overlap": (overlap_model, "io"),
    "residual": (residual_model, "usmp alloc pools io-pools"),
    "same-names": (same_names_model, "packed unpacked-packed"),
    "twin": (twin_model, "usmp alloc pool"),
    "types": (types_model, "graph graph-params"),
}


# The same for the older compilers. The oldest plans no memory, and makes objects for the graph executor alone.
OLDER_MODELS: Mapping[str, Mapping[str, tuple[Callable[[], Model], str]]] = {
    "0.9": {
        "conv": (conv_model, "alloc pools cpool"),
        "dense": (dense_model, DENSE_STYLES_09),
        "int8": (int8_model, "usmp"),
        "named": (named_model, "usmp"),
    },
    "0.8": {
        "conv": (conv_model, "alloc packed graph-linked"),
        "dense": (dense_model, DENSE_STYLES_08),
        "int8": (int8_model, "alloc"),
        "named": (named_model, "alloc graph"),
        "twin": (twin_model, "alloc"),
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A module of a case: its model and a key of `STYLES`."""

    make: Callable[[], Model]
    style: str


# Cases with several modules or with a name of their own.
COMPOSED: Mapping[str, Mapping[str, Part]] = {
    "clash-systemlib": {MODULE: Part(make=named_model, style="systemlib")},
    "graph-and-aot": {"net": Part(make=dense_model, style="graph"), "fast": Part(make=named_model, style="usmp")},
    "offload-two": {
        "first": Part(make=partial(offload_model, "outboard_c"), style="usmp"),
        "second": Part(make=partial(offload_model, "outboard_cc", seed=16, size=12), style="alloc"),
    },
    "two-graphs": {
        "first": Part(make=dense_model, style="graph-params"),
        "second": Part(make=named_model, style="graph-params"),
    },
    "two-modules": {"first": Part(make=dense_model, style="usmp"), "second": Part(make=named_model, style="usmp")},
    "upper-pool": {"Foo": Part(make=conv_model, style="pool")},
    "upper-usmp": {"Foo": Part(make=dense_model, style="usmp")},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operators:
    """Functions of a module without a model, with arrays in the order of their parameters, results last."""

    functions: Mapping[str, Any]
    arrays: Mapping[str, tuple[np.ndarray, ...]]


def add_operator() -> Operators:
    """One function, of integers."""
    draw = Draw(17)
    x, y = draw.integers(16, low=0, high=50), draw.integers(1, low=0, high=50)
    a, b = te.placeholder((16,), name="a", dtype="int8"), te.placeholder((1,), name="b", dtype="int8")
    total = te.compute((16,), lambda i: a[i] + b[0], name="total")
    return Operators(functions={"add": te.create_prim_func([a, b, total])}, arrays={"add": (x, y, x + y)})


def several_operators() -> Operators:
    """Two functions, the second with a buffer that is too large for the stack."""
    draw = Draw(18)
    x, y = draw.floats(32, 16), draw.floats(32, 16)
    a, b = te.placeholder((32, 16), name="a"), te.placeholder((32, 16), name="b")
    axis = te.reduce_axis((0, 16), name="k")
    product = te.compute((32, 16), lambda i, j: a[i, j] * b[i, j], name="product")
    differences = te.compute((32, 16), lambda i, j: a[i, j] - b[i, j], name="differences")
    sums = te.compute((32,), lambda i: te.sum(differences[i, axis], axis=axis), name="sums")
    return Operators(
        functions={
            "multiply": te.create_prim_func([a, b, product]),
            "subtract_and_sum": te.create_prim_func([a, b, sums]),
        },
        arrays={"multiply": (x, y, x * y), "subtract_and_sum": (x, y, (x - y).sum(axis=1, dtype=np.float32))},
    )


# By case: the name of the whole, its functions, and the machine that the code is for, if it is objects.
OPERATORS: Mapping[str, tuple[str, Callable[[], Operators], str | None]] = {
    "operator-add": ("add", add_operator, None),
    "operator-several": ("several", several_operators, None),
    **{f"operator-llvm-{machine}": ("several", several_operators, machine) for machine in MACHINES},
}


# What each compiler can make of these.
COMPOSED_BY = {"0.16": tuple(COMPOSED), "0.9": ("graph-and-aot", "two-modules"), "0.8": ()}
OPERATORS_BY = {"0.16": tuple(OPERATORS), "0.9": ("operator-several",), "0.8": ("operator-add", "operator-several")}


def load_exporter(scratch: Path) -> Any:
    """The compiler's exporter, under a stand-in for its package, whose own first lines fail in this wheel.

    The stand-in has the runtime's headers and empty template files where the compiler expects its runtime and templates.
    """
    package = Path(tvm.__file__).parent
    runtime, templates = scratch / "runtime", scratch / "templates"
    for header in ("tvm/runtime/c_runtime_api.h", "tvm/runtime/c_backend_api.h"):
        (runtime / "include" / header).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(package / "include" / header, runtime / "include" / header)
    shutil.copytree(package / "dlpack/include/dlpack", runtime / "include/dlpack")
    (templates / "templates").mkdir(parents=True)
    for template in ("crt_config.h.template", "platform.c.template"):
        (templates / "templates" / template).touch()
    stand_in = types.ModuleType("tvm.micro")
    stand_in.__path__ = [str(package / "micro")]
    stand_in.get_standalone_crt_dir = lambda: str(runtime)
    stand_in.get_microtvm_template_projects = lambda _: str(templates)
    sys.modules["tvm.micro"] = stand_in
    return importlib.import_module("tvm.micro.model_library_format")


def memory_pools(style: Style, model: Model, target: Any) -> Iterator[tuple[str, Any]]:
    """The keyword arguments of the compiler that give a module the pools of `style`."""
    if style.pools:
        bounded = tvm.PoolInfoProperties(size_hint_bytes=model.sram_bytes)
        bounds = [bounded] * (len(style.pools) - 1) + [tvm.PoolInfoProperties()]
        infos = [tvm.WorkspacePoolInfo(name, [target], bound) for name, bound in zip(style.pools, bounds, strict=True)]
        yield "workspace_memory_pools", tvm.WorkspaceMemoryPools(infos)
    if style.constant_pool:
        yield (
            "constant_memory_pools",
            tvm.ConstantMemoryPools([tvm.ConstantPoolInfo(style.constant_pool, [target], [])]),
        )


def target_text(
    machine: str | None, executor: str, options: Mapping[str, object], runtime_options: Mapping[str, object]
) -> str:
    """A target as the compilers take it; the oldest wants in it what the others want beside it."""
    kind = MACHINES[machine] if machine else "c"
    if COMPILER != OLDEST:
        return kind
    for_c = {} if machine else {"executor": executor}
    told = {"runtime": "c", "link-params": executor == "aot", **for_c, **options, **runtime_options}
    words = (f"-{name}={int(value) if isinstance(value, bool) else value}" for name, value in told.items())
    return " ".join([kind, *words])


def backend(executor: str, options: Mapping[str, object], runtime_options: Mapping[str, object]) -> dict[str, Any]:
    """The keyword arguments of the compilers that stand for what the oldest has in its target."""
    if COMPILER == OLDEST:
        return {}
    classes = importlib.import_module("tvm.relay.backend")
    return {
        "executor": classes.Executor(executor, dict(options)),
        "runtime": classes.Runtime("crt", dict(runtime_options)),
    }


def pass_context(config: Mapping[str, object]) -> Any:
    return tvm.transform.PassContext(opt_level=3, config={"tir.disable_vectorize": True, **config})


def compile_model(model: Model, style: Style, module: str = MODULE) -> Any:
    """`model` as C or objects, under the name `module`."""
    chosen = style.executor, style.options, style.runtime_options
    target = tvm.target.Target(target_text(style.machine, *chosen))
    planning = {} if COMPILER == OLDEST else {"tir.usmp.enable": style.planned}
    with pass_context(planning | dict(style.config)):
        return relay.build(
            model.program,
            target=target,
            mod_name=module,
            **backend(*chosen),
            **dict(memory_pools(style, model, target)),
        )


def compile_operators(name: str, functions: Mapping[str, Any], machine: str | None) -> Any:
    """`functions` as C or objects, together called `name`."""
    text = target_text(machine, "graph", {}, SYSTEM_LIB)
    runtime = {key: value for key, value in backend("graph", {}, SYSTEM_LIB).items() if key == "runtime"}
    module = tvm.IRModule({key: body.with_attr("global_symbol", key) for key, body in functions.items()})
    with pass_context({}):
        return tvm.build(module, target=tvm.target.Target(text, host=text), name=name, **runtime)


def tensors(models: Mapping[str, Model], kind: str) -> dict[str, np.ndarray]:
    """The `inputs` or `outputs` of a case of `models` by module name."""
    return {
        f"{module}/{name}" if len(models) > 1 else name: array
        for module, model in models.items()
        for name, array in getattr(model, kind).items()
    }


def only(values: Iterable[str | None]) -> str | None:
    """The value that all of `values` are, or `mixed`."""
    found = set(values)
    return found.pop() if len(found) == 1 else "mixed"


def write_arrays(out: Path, case: str, **kinds: Mapping[str, np.ndarray]) -> dict[str, object]:
    """Write the arrays of a case; returns what names them in its entry in `cases.json`."""
    for kind, arrays in kinds.items():
        np.savez(out / f"{case}.{kind}.npz", **arrays)
    names = {kind: f"{case}.{kind}.npz" for kind in kinds}
    return {"case": case, "archive": f"{case}.tar", "compiler": COMPILER, **names}


def write_modules(out: Path, exporter: Any, case: str, model: str, parts: Mapping[str, Part]) -> dict[str, object]:
    """Write the three files of a case of `parts` by module name; returns its entry in `cases.json`."""
    models = {module: part.make() for module, part in parts.items()}
    styles = {module: STYLES[part.style] for module, part in parts.items()}
    compiled = [compile_model(models[module], styles[module], module) for module in parts]
    exported = compiled[0] if COMPILER == OLDEST else compiled
    exporter.export_model_library_format(exported, out / f"{case}.tar")
    rtol, atol = max((model.rtol, model.atol) for model in models.values())
    traits = {trait for style in styles.values() for trait in style.traits}
    return write_arrays(out, case, inputs=tensors(models, "inputs"), outputs=tensors(models, "outputs")) | {
        "model": model,
        "style": only(part.style for part in parts.values()),
        "kind": "full-model",
        "modules": list(parts),
        "executor": only(style.executor for style in styles.values()),
        "interface": only(style.interface for style in styles.values()),
        "operators": only(style.operators for style in styles.values()),
        "machine": only(style.machine for style in styles.values()),
        "parts": {module: description(part.style) for module, part in parts.items()},
        "traits": sorted(traits.union(TRAITS.get(model, ()), TRAITS.get(case, ()))),
        "exact": (rtol, atol) == (0, 0),
        "rtol": rtol,
        "atol": atol,
    }


def description(name: str) -> dict[str, str]:
    """What `cases.json` says of each module of an archive."""
    style = STYLES[name]
    return {
        "style": name,
        "executor": style.executor,
        "interface": style.interface,
        "operators": style.operators,
    }


def write_operators(
    out: Path, exporter: Any, case: str, name: str, operators: Operators, machine: str | None
) -> dict[str, object]:
    """Write the three files of a case of `operators`; returns its entry in `cases.json`."""
    exporter.export_model_library_format(compile_operators(name, operators.functions, machine), out / f"{case}.tar")
    named = [
        (position < len(arrays) - 1, f"{function}/{position}", array)
        for function, arrays in operators.arrays.items()
        for position, array in enumerate(arrays)
    ]
    inputs, outputs = ({key: array for goes_in, key, array in named if goes_in == wanted} for wanted in (True, False))
    exact = all(array.dtype.kind in "iu" for array in outputs.values())
    return write_arrays(out, case, inputs=inputs, outputs=outputs) | {
        "model": name,
        "style": "operators",
        "kind": "operator",
        "modules": [],
        "functions": list(operators.functions),
        "executor": None,
        "interface": "packed",
        "operators": "packed",
        "machine": machine,
        "parts": {},
        "traits": [],
        "exact": exact,
        "rtol": 0 if exact else 1e-4,
        "atol": 0 if exact else 1e-5,
    }


def plan() -> Iterator[tuple[str, str, Mapping[str, Part]]]:
    """The name, the model's name and the parts of every case of modules that this compiler is for."""
    models = MODELS if COMPILER == NEWEST else OLDER_MODELS[COMPILER]
    for model, (make, styles) in models.items():
        for style in styles.split():
            yield f"{model}-{style}", model, {MODULE: Part(make=make, style=style)}
    for case in COMPOSED_BY[COMPILER]:
        yield case, case, COMPOSED[case]


def write_all(out: Path, exporter: Any) -> Iterator[dict[str, object]]:
    """Every case; yields the entries of `cases.json`."""
    prefix = "" if COMPILER == NEWEST else f"tvm{COMPILER.replace('.', '')}-"
    for case, model, parts in plan():
        yield write_modules(out, exporter, prefix + case, model, parts)
    for case in OPERATORS_BY[COMPILER]:
        name, make_operators, machine = OPERATORS[case]
        yield write_operators(out, exporter, prefix + case, name, make_operators(), machine)


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for compiler, suffix in EXTERNAL_FORMATS.items():
        register_external(compiler, suffix)
    with tempfile.TemporaryDirectory() as scratch:
        cases = list(write_all(out, load_exporter(Path(scratch))))
    listing = out / "cases.json"
    others = json.loads(listing.read_text(encoding="utf-8"))["cases"] if listing.exists() else []
    cases += [entry for entry in others if entry["compiler"] != COMPILER]
    text = json.dumps({"cases": sorted(cases, key=lambda entry: entry["case"])}, indent=2, sort_keys=True)
    listing.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
