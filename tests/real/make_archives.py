"""Compile models with TVM into the archives that the tests read: `make_archives.py OUT_DIR`.

Runs under the interpreter of the compiler, which `tests/run.sh` prepares. For every case it writes `CASE.tar`,
`CASE.inputs.npz` and `CASE.outputs.npz`, whose arrays bear the tensor names of the archive's `metadata.json`
(`MODULE/TENSOR` if the archive holds several modules). The outputs are numpy's (`reference.py`), not the compiler's.
`cases.json` lists the cases.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import tempfile
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# The wheel was built for CPython 3.10 and numpy 1: without its Cython half, and with one old name of numpy back, it
# serves every later version.
os.environ["TVM_FFI"] = "ctypes"
np.float_ = np.float64  # noqa: NPY201 - the compiler still asks for it

import tvm  # noqa: E402 - reads what was just set
from tvm import relay  # noqa: E402 - as above
from tvm.relay.backend import Executor, Runtime  # noqa: E402 - as above

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
    """A function, its inputs in call order and its expected outputs; `sram_bytes` is the size of the first of two pools."""

    function: Any
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    rtol: float
    atol: float
    sram_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How a module gets its memory and how it is called."""

    planned: bool = True  # by the compiler (USMP), not by calls of an allocator
    pools: tuple[str, ...] = ()
    constant_pool: str | None = None
    executor: str = "aot"
    options: Mapping[str, object] = field(default_factory=lambda: C_INTERFACE)
    runtime_options: Mapping[str, object] = field(default_factory=dict)


STYLES = {
    "usmp": Style(),
    "alloc": Style(planned=False),
    "pool": Style(pools=("sram",)),
    "pools": Style(pools=("sram", "dtcm")),
    "cpool": Style(constant_pool="flash"),
    "packed": Style(planned=False, options={}),
    "graph": Style(planned=False, executor="graph", options={}, runtime_options={"system-lib": True}),
}


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
        if names:
            function = function.with_attr("output_tensor_names", list(names))
        returned = relay.transform.InferType()(tvm.IRModule.from_expr(function))["main"].ret_type
        tensors = [returned] if len(results) == 1 else list(returned.fields)
        default = ["output"] if len(results) == 1 else [f"output{index}" for index in range(len(results))]
        values = [result.value.astype(tensor.dtype) for result, tensor in zip(results, tensors, strict=True)]
        return Model(
            function=function,
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


# Not every style of every model: the larger ones take seconds each, and with two pools the compiler's own plan of `lstm`
# is wrong (it lays buffers that are alive together over each other).
MODELS: Mapping[str, tuple[Callable[[], Model], tuple[str, ...]]] = {
    "conv": (conv_model, ("usmp", "alloc", "pool", "pools", "cpool")),
    "dense": (dense_model, ("usmp", "alloc", "pool", "packed", "graph")),
    "int8": (int8_model, ("usmp", "alloc", "pools")),
    "int8-net": (int8_net_model, ("usmp", "pools", "cpool")),
    "lstm": (lstm_model, ("usmp", "alloc", "pool")),
    "math": (math_model, ("usmp", "alloc", "pool")),
    "mobile": (mobile_model, ("usmp", "alloc")),
    "named": (named_model, ("usmp", "alloc", "pool")),
    "residual": (residual_model, ("usmp", "alloc", "pools")),
    "twin": (twin_model, ("usmp", "alloc", "pool")),
}


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


def compile_model(model: Model, style: Style, module: str = MODULE) -> Any:
    """`model` as C, under the name `module`."""
    target = tvm.target.Target("c")
    config = {"tir.disable_vectorize": True, "tir.usmp.enable": style.planned}
    with tvm.transform.PassContext(opt_level=3, config=config):
        return relay.build(
            tvm.IRModule.from_expr(model.function),
            target=target,
            executor=Executor(style.executor, dict(style.options)),
            runtime=Runtime("crt", dict(style.runtime_options)),
            mod_name=module,
            **dict(memory_pools(style, model, target)),
        )


def tensors(models: Mapping[str, Model], kind: str) -> dict[str, np.ndarray]:
    """The `inputs` or `outputs` of a case of `models` by module name."""
    return {
        f"{module}/{name}" if len(models) > 1 else name: array
        for module, model in models.items()
        for name, array in getattr(model, kind).items()
    }


def write_case(out: Path, exporter: Any, case: str, models: Mapping[str, Model], style: Style) -> dict[str, object]:
    """Write the three files of a case of `models` by module name; returns most of its entry in `cases.json`."""
    compiled = [compile_model(model, style, module) for module, model in models.items()]
    exporter.export_model_library_format(compiled, out / f"{case}.tar")
    for kind in ("inputs", "outputs"):
        np.savez(out / f"{case}.{kind}.npz", **tensors(models, kind))
    rtol, atol = max((model.rtol, model.atol) for model in models.values())
    return {
        "case": case,
        "archive": f"{case}.tar",
        "inputs": f"{case}.inputs.npz",
        "outputs": f"{case}.outputs.npz",
        "modules": list(models),
        "executor": style.executor,
        "interface": style.options.get("interface-api", "packed"),
        "exact": (rtol, atol) == (0, 0),
        "rtol": rtol,
        "atol": atol,
    }


def write_all(out: Path, exporter: Any) -> Iterator[dict[str, object]]:
    """Every case; yields the entries of `cases.json`."""
    for name, (make, styles) in MODELS.items():
        models = {MODULE: make()}
        for style in styles:
            entry = write_case(out, exporter, f"{name}-{style}", models, STYLES[style])
            yield entry | {"model": name, "style": style}
    pair = {"first": dense_model(), "second": named_model()}
    yield write_case(out, exporter, "two-modules", pair, STYLES["usmp"]) | {"model": "two-modules", "style": "usmp"}


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        cases = list(write_all(out, load_exporter(Path(scratch))))
    text = json.dumps({"cases": sorted(cases, key=lambda entry: entry["case"])}, indent=2, sort_keys=True)
    (out / "cases.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
