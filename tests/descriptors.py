"""Descriptors for the tests: of two models, and of any."""

from __future__ import annotations

import hashlib

from hypothesis import strategies as st

from mlf.descriptor import ENTRYPOINTS, ModelDescriptor, encode
from mlf.metadata import Quantization, Tensor
from mlf.naming import sanitize_tensor_name

NUMBERS = st.integers(0, 2**63 - 1)


def identity_of(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def tensor(name: str, dtype: str | None, shape: tuple[int, ...] | None, size: int | None, *quant: float) -> Tensor:
    quantization = Quantization(scale=quant[0], zero_point=int(quant[1])) if quant else None
    c_name = sanitize_tensor_name(name)
    return Tensor(name=name, c_name=c_name, dtype=dtype, shape=shape, size_bytes=size, quantization=quantization)


KWS = ModelDescriptor(
    name="kws",
    module="default",
    format_version=8,
    identity=identity_of("kws"),
    inputs=(tensor("samples", "int8", (1, 490), 490, 0.0625, -1),),
    outputs=(tensor("scores", "int8", (1, 12), 12, 1 / 256, -128),),
    arena_bytes=3072,
    entrypoints=("run", "tvm_module_main"),
    mlf_version="0.1.0",
)
VWW = ModelDescriptor(
    name="vww",
    module="person detect",
    format_version=7,
    identity=identity_of("vww"),
    inputs=(tensor("camera:0", "uint8", (1, 96, 96, 3), 27648), tensor("gain", "float32", (), 4)),
    outputs=(tensor("person", "bool", None, None), tensor("box", None, (4,), 16)),
    arena_bytes=None,
    entrypoints=ENTRYPOINTS,
    mlf_version="0.1.0",
)
BYTES = encode(KWS)


quantizations = st.builds(
    Quantization,
    scale=st.floats(width=32, allow_nan=False, allow_infinity=False),
    zero_point=st.integers(-(2**63), 2**63 - 1),
)
names = st.text(st.characters(codec="utf-8"), max_size=20)
dtypes = st.sampled_from(["int8", "uint8", "float32", "bool", "int64", "bfloat16", "custom_type"]) | st.none()


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    name = draw(names)
    return Tensor(
        name=name,
        c_name=sanitize_tensor_name(name),
        dtype=draw(dtypes),
        shape=draw(st.none() | st.lists(NUMBERS, max_size=64).map(tuple)),
        size_bytes=draw(st.none() | NUMBERS),
        quantization=draw(st.none() | quantizations),
    )


descriptors = st.builds(
    ModelDescriptor,
    name=names,
    module=names,
    format_version=st.integers(1, 300),
    identity=st.binary(min_size=32, max_size=32).map(lambda digest: f"sha256:{digest.hex()}"),
    inputs=st.lists(tensors(), max_size=4).map(tuple),
    outputs=st.lists(tensors(), max_size=4).map(tuple),
    arena_bytes=st.none() | NUMBERS,
    entrypoints=st.sets(st.sampled_from(ENTRYPOINTS)).map(lambda some: tuple(sorted(some, key=ENTRYPOINTS.index))),
    mlf_version=names,
)
