"""Makes the sample archives and their golden tensors: `python make_samples.py [DIRECTORY]`.

Each model is random or hand-made features and a readout fitted by ridge regression to data made here. Whatever is
stored is first rounded to a coarse grid, so that the last bits of a machine's mathematics change no byte.
"""

from __future__ import annotations

import io
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import kernels
import numpy as np
from tvm_form import Constant, Model, Operator, Tensor, write_archive

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Array = Any  # an ndarray; its dtype is the tensor's
Tensors = dict[str, Array]

WEIGHT_GRID = 256  # steps per unit of every float weight
INPUT_GRID = 1024  # steps per unit of every float input
CONFIDENCE = 8.0  # logit of the right class that the readouts are fitted to
ZERO_POINT = -128  # of the hidden int8 layer: a clip at -128 is then its rectifier
INPUT_ZERO_POINT = 3  # of both int8 inputs
TEST_COUNT = 200  # examples kept for the test of a model, of the data it was not fitted to
TRAIN_COUNT = 2000

TONES = (4, 7, 11, 16)  # cycles in the 64 samples
PHASES = 8  # filters per tone
SHAPES = ("disc", "square", "cross", "triangle")
SIDE = 12  # of a picture, in pixels
HIDDEN = 24  # units of the int8 model
HIDDEN_MULTIPLIER, HIDDEN_SHIFT = 1649267442, 38  # the hidden layer is scaled by 0.006
WEAR_SHIFT, LOAD_SHIFT = 7, 8  # the output scales are powers of two


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A model, what it should compute, and data with the right classes (indices into its first output)."""

    name: str
    model: Model
    reference: Callable[[Mapping[str, Array]], Tensors]
    examples: tuple[Tensors, ...]
    labels: tuple[int, ...]


def on_grid(values: Array, steps: int) -> Array:
    """The values rounded to multiples of 1/steps, as float64."""
    return np.round(np.asarray(values, dtype=np.float64) * steps) / steps


def fit_readout(features: Array, targets: Array, ridge: float) -> tuple[Array, Array]:
    """Weights (features, outputs) and bias of the ridge regression, in float64."""
    extended = np.column_stack([features, np.ones(len(features))])
    gram = extended.T @ extended + ridge * np.eye(extended.shape[1])
    solution = np.linalg.solve(gram, extended.T @ targets)
    return solution[:-1], solution[-1]


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def float_constants(weight: Array, weight_name: str, bias: Array, bias_name: str) -> dict[str, Constant]:
    return {
        "weight": Constant(name=weight_name, values=weight.astype(np.float32)),
        "bias": Constant(name=bias_name, values=bias.astype(np.float32)),
    }


def dense_operator(weight: Array, bias: Array, *, source: str, target: str) -> Operator:
    depth, units = weight.shape
    return Operator(
        name="fused_nn_contrib_dense_pack_add",
        arguments=(source, target),
        parameters=("p0", "T_add"),
        body=kernels.DENSE,
        constants=float_constants(weight, "fused_constant_1", bias, "fused_nn_contrib_dense_pack_constant"),
        numbers={"depth": depth, "units": units},
        scratch=(Tensor(name="compute_global", shape=(units,)),),
    )


def softmax_operator(*, source: str, target: str) -> Operator:
    scratch = (("T_softmax_maxelem", 1), ("T_softmax_exp", 4), ("T_softmax_expsum", 1))
    return Operator(
        name="fused_nn_softmax",
        arguments=(source, target),
        parameters=("p0", "T_softmax_norm"),
        body=kernels.SOFTMAX,
        scratch=tuple(Tensor(name=name, shape=(count,)) for name, count in scratch),
    )


def tone_data(random: np.random.RandomState, count: int) -> tuple[Array, Array]:
    """Tones of random strength and phase in noise, (count, 64), and which tone each is."""
    labels = random.randint(0, len(TONES), count)
    phases = random.uniform(0, 2 * np.pi, (count, 1))
    strengths = random.uniform(0.5, 1.0, (count, 1))
    angles = 2 * np.pi * np.take(TONES, labels)[:, None] * np.arange(64) / 64
    waves = strengths * np.sin(angles + phases) + random.uniform(-0.6, 0.6, (count, 64))
    return on_grid(waves, INPUT_GRID), labels


def make_tone() -> Sample:
    """Filters for every tone at eight phases; the readout adds up the phases."""
    random = np.random.RandomState(20240601)  # unlike a Generator, its streams never change
    phases = 2 * np.pi * np.arange(PHASES) / PHASES
    angles = 2 * np.pi * np.asarray(TONES)[:, None, None] * np.arange(64) / 64
    filters = on_grid(np.cos(angles + phases[:, None]).reshape(32, 64) / 8, WEIGHT_GRID)
    threshold = np.full(32, -0.5)

    def hidden(waves: Array) -> Array:
        return np.maximum(waves @ filters.T + threshold, 0)

    waves, labels = tone_data(random, TRAIN_COUNT)
    readout = fit_readout(hidden(waves), CONFIDENCE * np.eye(4)[labels], 1.0)
    weight, bias = (on_grid(part, WEIGHT_GRID) for part in readout)

    def reference(inputs: Mapping[str, Array]) -> Tensors:
        features = hidden(inputs["samples"].astype(np.float64))
        return {"output": softmax(features @ weight + bias).astype(np.float32)}

    waves, labels = tone_data(random, TEST_COUNT)
    examples = tuple({"samples": wave[None].astype(np.float32)} for wave in waves)
    model = tone_model(filters, threshold, weight, bias)
    return Sample(name="tone", model=model, reference=reference, examples=examples, labels=tuple(labels.tolist()))


def tone_model(filters: Array, threshold: Array, weight: Array, bias: Array) -> Model:
    first = Operator(
        name="fused_nn_dense_add_nn_relu",
        arguments=("samples", "sid_1"),
        parameters=("p0", "T_relu"),
        body=kernels.DENSE_RELU_BY_LANES,
        constants=float_constants(filters, "fused_constant", threshold, "fused_nn_dense_constant"),
        scratch=(Tensor(name="T_matmul_rf", shape=(32, 16)), Tensor(name="T_matmul", shape=(32,))),
    )
    return Model(
        inputs=(Tensor(name="samples", shape=(1, 64)),),
        outputs=(Tensor(name="output", shape=(1, 4)),),
        between=(Tensor(name="sid_1", shape=(1, 32)), Tensor(name="sid_2", shape=(1, 4))),
        operators=(
            first,
            dense_operator(weight, bias, source="sid_1", target="sid_2"),
            softmax_operator(source="sid_2", target="output"),
        ),
        memory="alloc",
        relay=kernels.TONE_RELAY,
    )


def glyph_data(random: np.random.RandomState, count: int) -> tuple[Array, Array]:
    """Noisy pictures of shapes of random size and place, (count, 12, 12), and which shape each is."""
    labels = random.randint(0, len(SHAPES), count)
    size = random.uniform(3.2, 4.8, (count, 1, 1))
    centre = (SIDE - 1) / 2 + random.uniform(-0.8, 0.8, (2, count, 1, 1))
    y, x = np.mgrid[0:SIDE, 0:SIDE][:, None] - centre
    inside = {
        "disc": np.hypot(x, y) < size,
        "square": np.maximum(abs(x), abs(y)) < size * 0.85,
        "cross": (np.minimum(abs(x), abs(y)) < size * 0.3) & (np.maximum(abs(x), abs(y)) < size),
        "triangle": (abs(x) < (y + size) / 2) & (y < size),
    }
    clean = np.choose(labels[:, None, None], [inside[shape] for shape in SHAPES])
    return on_grid(clean + random.uniform(-0.3, 0.3, clean.shape), INPUT_GRID), labels


def glyph_features(pictures: Array, filters: Array, bias: Array) -> Array:
    """Rectified 3x3 filters and the maximum of every 2x2 block, (count, 200), channel by channel."""
    picture: Any = (-2, -1)  # the hints of numpy 2.2 take no tuple
    windows = np.lib.stride_tricks.sliding_window_view(pictures, (3, 3), axis=picture)
    maps = np.maximum(np.einsum("nyxhw,hwc->ncyx", windows, filters) + bias[:, None, None], 0)
    return maps.reshape(-1, 8, 5, 2, 5, 2).max(axis=(3, 5)).reshape(-1, 200)


def glyph_weights(random: np.random.RandomState) -> tuple[Array, Array, Array, Array]:
    """Edge detectors in eight directions, and a linear readout that is fitted to pictures: filters, threshold, weight, bias."""
    turns = 2 * np.pi * np.arange(8) / 8
    slope = np.arange(-1, 2)
    filters = on_grid((np.cos(turns) * slope[None, :, None] + np.sin(turns) * slope[:, None, None]) / 4, WEIGHT_GRID)
    threshold = np.full(8, -0.125)
    pictures, labels = glyph_data(random, TRAIN_COUNT)
    readout = fit_readout(glyph_features(pictures, filters, threshold), CONFIDENCE * np.eye(4)[labels], 10.0)
    weight, bias = (on_grid(part, WEIGHT_GRID) for part in readout)
    return filters, threshold, weight, bias


def make_glyph() -> Sample:
    """Edge detectors in eight directions under a linear readout."""
    random = np.random.RandomState(20240602)
    filters, threshold, weight, bias = glyph_weights(random)

    def reference(inputs: Mapping[str, Array]) -> Tensors:
        features = glyph_features(inputs["picture"].astype(np.float64)[0], filters, threshold)
        return {"output": softmax(features @ weight + bias).astype(np.float32)}

    pictures, labels = glyph_data(random, TEST_COUNT)
    examples = tuple({"picture": picture[None, None].astype(np.float32)} for picture in pictures)
    return Sample(
        name="glyph",
        model=glyph_model(filters, threshold, weight, bias),
        reference=reference,
        examples=examples,
        labels=tuple(labels.tolist()),
    )


def glyph_model(filters: Array, threshold: Array, weight: Array, bias: Array) -> Model:
    bias_name = "fused_nn_contrib_conv2d_NCHWc_constant"
    convolution = Operator(
        name="fused_nn_contrib_conv2d_NCHWc_add_nn_relu",
        arguments=("sid_1", "sid_2"),
        parameters=("p0", "T_relu"),
        body=kernels.CONV_RELU,
        constants=float_constants(filters, "fused_constant", threshold, bias_name),
        scratch=(Tensor(name="conv2d_NCHWc_global", shape=(10, 8)),),
    )
    moves = (
        ("fused_layout_transform", ("picture", "sid_1"), ("p0", "T_layout_trans"), kernels.COPY_PICTURE),
        ("fused_nn_max_pool2d", ("sid_2", "sid_3"), ("p0", "pool_max"), kernels.MAX_POOL),
        ("fused_layout_transform_nn_batch_flatten", ("sid_3", "sid_4"), ("p0", "tensor"), kernels.FLATTEN),
    )
    copy, pool, flatten = (
        Operator(name=name, arguments=given, parameters=called, body=body) for name, given, called, body in moves
    )
    shapes = ((1, 1, 12, 12, 1), (1, 1, 10, 10, 8), (1, 1, 5, 5, 8), (1, 200), (1, 4))
    return Model(
        inputs=(Tensor(name="picture", shape=(1, 1, SIDE, SIDE)),),
        outputs=(Tensor(name="output", shape=(1, 4)),),
        between=tuple(Tensor(name=f"sid_{index}", shape=shape) for index, shape in enumerate(shapes, 1)),
        operators=(
            copy,
            convolution,
            pool,
            flatten,
            dense_operator(weight, bias, source="sid_4", target="sid_5"),
            softmax_operator(source="sid_5", target="output"),
        ),
        memory="internal",
        relay=kernels.GLYPH_RELAY,
    )


def motor_data(random: np.random.RandomState, count: int) -> tuple[Array, Array, Array, Array]:
    """Spectra of motors under load: int8 vibration (count, 24) and current (count, 8), wear class, load in 0..1."""
    labels = random.randint(0, 3, count)
    load = random.uniform(0, 1, count)
    bins = np.arange(24)
    turning = 60 * np.exp(-((bins - 4) ** 2) / 2)
    bearing = 45 * np.exp(-((bins - 15) ** 2) / 3)
    rattle = 25 * (bins % 4 == 2)
    worn, broken = (labels >= 1)[:, None], (labels == 2)[:, None]
    strength = 0.6 + 0.4 * load[:, None]
    vibration = strength * (turning + worn * bearing + broken * rattle) - 20
    harmonics = 100 / (1 + np.arange(8))
    current = (0.2 + 0.8 * load[:, None]) * harmonics - 10
    noisy = (values + random.uniform(-12, 12, values.shape) for values in (vibration, current))
    first, second = (np.clip(np.round(values), -128, 127).astype(np.int8) for values in noisy)
    return first, second, labels, load


def scaled(total: Array, multiplier: int, shift: int) -> Array:
    """The integers nearest to total * multiplier / 2**shift, ties upwards."""
    return (2 * total.astype(np.int64) * multiplier + 2**shift) // 2 ** (shift + 1)


def clipped(values: Array) -> Array:
    return np.clip(values, -128, 127).astype(np.int8)


def make_motor() -> Sample:
    """Random int8 features of two spectra; one readout says how worn the motor is, one how loaded."""
    random = np.random.RandomState(20240603)
    weight = random.randint(-127, 128, (32, HIDDEN))
    bias = random.randint(-4000, 12000, HIDDEN)

    def hidden(vibration: Array, current: Array) -> Array:
        both = np.concatenate([vibration, current], axis=1).astype(np.int64) - INPUT_ZERO_POINT
        return (
            clipped(scaled(both @ weight + bias, HIDDEN_MULTIPLIER, HIDDEN_SHIFT) + ZERO_POINT).astype(np.int64)
            - ZERO_POINT
        )

    vibration, current, labels, load = motor_data(random, TRAIN_COUNT)
    features = hidden(vibration, current)
    wear = integer_readout(features, 100 * np.eye(3)[labels], WEAR_SHIFT)
    amount = integer_readout(features, 100 * load[:, None], LOAD_SHIFT)

    def reference(inputs: Mapping[str, Array]) -> Tensors:
        units = hidden(inputs["vibration"], inputs["current"])
        outputs = {"wear": (wear, WEAR_SHIFT), "load": (amount, LOAD_SHIFT)}
        return {
            name: clipped(scaled(units @ parts[0] + parts[1], 1, shift)) for name, (parts, shift) in outputs.items()
        }

    vibration, current, labels, _ = motor_data(random, TEST_COUNT)
    examples = tuple({"vibration": a[None], "current": b[None]} for a, b in zip(vibration, current, strict=True))
    model = motor_model(motor_operators((weight, bias), wear, amount))
    return Sample(name="motor", model=model, reference=reference, examples=examples, labels=tuple(labels.tolist()))


def integer_readout(features: Array, targets: Array, shift: int) -> tuple[Array, Array]:
    """A ridge readout in integers, to be divided by 2**shift: weights in the int8 range, any bias."""
    weight, bias = fit_readout(features, targets, 10.0)
    return np.clip(np.round(weight * 2**shift), -127, 127).astype(np.int64), np.round(bias * 2**shift).astype(np.int64)


def int8_operator(name: str, index: int, parts: tuple[Array, Array], call: tuple[str, str], **numbers: str) -> Operator:
    """A dense layer on int16 differences; `index` keeps its constants apart from those of the others."""
    suffix = f"_{index}" if index else ""
    weight, bias = parts
    return Operator(
        name=name,
        arguments=call,
        parameters=("p0", "T_subtract" if index == 0 else "T_cast"),
        body=kernels.DENSE_INT8,
        constants={
            "weight": Constant(name=f"fused_constant{suffix}", values=weight.astype(np.int16)),
            "bias": Constant(name=f"fused_nn_contrib_dense_pack_constant{suffix}", values=bias.astype(np.int32)),
        },
        numbers={"depth": str(weight.shape[0]), "units": str(weight.shape[1]), **numbers},
        scratch=(Tensor(name="compute_global", shape=(weight.shape[1],), dtype="int32"),),
    )


def motor_operators(*layers: tuple[Array, Array]) -> tuple[Operator, ...]:
    """The operators from the weights and biases of the hidden layer, of wear and of load."""
    clip = "((int8_t)((v__1) > (-128) ? (v__1) : (-128)))"
    dense = "fused_nn_contrib_dense_pack_add_fixed_point_multiply_add_clip_cast"
    difference = f"T_subtract[unit_1] = (((int16_t){clip}) - (int16_t){ZERO_POINT});"
    hidden = {"multiplier": str(HIDDEN_MULTIPLIER), "shift": str(HIDDEN_SHIFT), "offset": f" - {-ZERO_POINT}"}
    # A fixed-point multiplier has 31 bits of fraction: 2**30 is one half.
    byte = {"multiplier": str(2**30), "offset": "", "store": f"T_cast[unit_1] = {clip};"}
    join = Operator(
        name="fused_concatenate_cast_subtract",
        arguments=("vibration", "current", "sid_2"),
        parameters=("p0", "p1", "T_subtract"),
        body=kernels.CONCATENATE,
        numbers={"zero_point": INPUT_ZERO_POINT},
    )
    first, wear, load = layers
    return (
        join,
        int8_operator(f"{dense}_cast_subtract", 0, first, ("sid_2", "sid_3"), **hidden, store=difference),
        int8_operator(dense, 1, wear, ("sid_3", "wear"), **byte, shift=str(30 + WEAR_SHIFT)),
        int8_operator(f"{dense}_1", 2, load, ("sid_3", "load"), **byte, shift=str(30 + LOAD_SHIFT)),
    )


def motor_model(operators: tuple[Operator, ...]) -> Model:
    inputs, outputs, between = (
        tuple(Tensor(name=name, shape=(1, count), dtype=dtype) for name, count in sizes.items())
        for sizes, dtype in (
            ({"vibration": 24, "current": 8}, "int8"),
            ({"wear": 3, "load": 1}, "int8"),
            ({"sid_2": 32, "sid_3": HIDDEN}, "int16"),
        )
    )
    scales = {"wear_scale": 2.0**-WEAR_SHIFT, "load_scale": 2.0**-LOAD_SHIFT}
    zeros = {"zero": INPUT_ZERO_POINT, "hidden_zero": ZERO_POINT}
    relay = Template(kernels.MOTOR_RELAY).substitute(scales, **zeros, units=HIDDEN)
    return Model(inputs=inputs, outputs=outputs, between=between, operators=operators, memory="external", relay=relay)


def make_samples() -> tuple[Sample, ...]:
    return make_tone(), make_glyph(), make_motor()


def write_sample(sample: Sample, directory: Path) -> None:
    """Write NAME.tar, and the first example and its right outputs as NAME.inputs.npz and NAME.outputs.npz."""
    write_archive(sample.model, directory / f"{sample.name}.tar")
    golden = sample.examples[0]
    write_npz(directory / f"{sample.name}.inputs.npz", golden)
    write_npz(directory / f"{sample.name}.outputs.npz", sample.reference(golden))


def write_npz(path: Path, tensors: Tensors) -> None:
    """As numpy.savez, whose zip headers differ between versions of Python."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, values in tensors.items():
            data = io.BytesIO()
            np.save(data, values, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data.getvalue())


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    directory.mkdir(parents=True, exist_ok=True)
    for sample in make_samples():
        write_sample(sample, directory)
        print(f"{sample.name}: {directory / sample.name}.tar")


if __name__ == "__main__":
    main()
