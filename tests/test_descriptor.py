"""Descriptors in flash: written, found in any bytes, and read from C as the documentation says."""

from __future__ import annotations

import random
import re
import struct
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import toolbox
from descriptors import BYTES, KWS, VWW, descriptors, tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from mlf.descriptor import MAGIC, MAX_BYTES, MAX_FOUND, Found, ModelDescriptor, encode, find
from mlf.errors import UnsupportedError
from mlf.metadata import Quantization, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
README = (ROOT / "schemas" / "README.md").read_text()
SIZE_AT = slice(9, 12)


def sealed(body: bytes, *, layout: int = 1) -> bytes:
    """Put any bytes between a right header and a right CRC."""
    covered = MAGIC + bytes([layout]) + (12 + len(body) + 4).to_bytes(3, "little") + body
    return covered + zlib.crc32(covered).to_bytes(4, "little")


def only(data: bytes) -> Found:
    (found,) = find(data)
    return found


def fault_of(data: bytes) -> str | None:
    found = only(data)
    assert found.descriptor is None
    return found.fault


# The layout


def test_the_bytes_are_those_of_the_documented_example() -> None:
    (documented,) = re.findall(r"echo ([0-9A-F]+) \| basenc", README)

    assert bytes.fromhex(documented) == BYTES


def test_a_descriptor_is_laid_out_as_documented() -> None:
    plain = replace(
        KWS, name="a", module="bc", format_version=200, mlf_version="", arena_bytes=0, entrypoints=("tvm_module_main",),
        inputs=(tensor("é", "float32", (300,), 1200), tensor("u", "int4x8", None, None)),
        outputs=(tensor("q", "bool", (), 1, 0.5, 3), tensor("", None, (0,), 0, -2.0, -3)),
    )  # fmt: skip
    body = b"".join(
        [
            b"\x02",
            b"\xc8\x01",
            bytes.fromhex(KWS.identity[7:]),
            b"\1a\2bc\0",
            b"\1",
            b"\2",
            b"\2\xc3\xa9" + b"\2\x20" + b"\2\xac\x02" + b"\xb1\x09",
            b"\1u" + b"\x7e\6int4x8" + b"\0" + b"\0",
            b"\2",
            b"\1q" + b"\x81\1" + b"\1" + b"\2" + b"\0\0\0\x3f" + b"\6",
            b"\0" + b"\xff" + b"\2\0" + b"\1" + b"\0\0\0\xc0" + b"\5",
        ]
    )

    assert encode(plain) == sealed(body)


def test_a_model_of_two_tensors_takes_at_most_120_bytes() -> None:
    assert len(BYTES) == 112


@pytest.mark.parametrize(
    ("dtype", "code"),
    [
        ("int8", b"\0\x08"), ("int4", b"\0\x04"), ("uint8", b"\1\x08"), ("bool", b"\1\1"), ("float16", b"\2\x10"),
        ("float64", b"\2\x40"), ("handle64", b"\3\x40"), ("bfloat16", b"\4\x10"), ("uint255", b"\1\xff"), (None, b"\x7f"),
        ("uint1", b"\x7e\5uint1"), ("int256", b"\x7e\6int256"), ("int08", b"\x7e\5int08"), ("handle", b"\x7e\6handle"),
        ("float8_e4m3fn", b"\x7e\rfloat8_e4m3fn"),
    ],
)  # fmt: skip
def test_a_type_has_its_dlpack_code_or_its_name(dtype: str | None, code: bytes) -> None:
    model = replace(KWS, inputs=(tensor("t", dtype, None, None),), outputs=())
    data = encode(model)

    assert data[-4 - 3 - len(code) : -4] == code + b"\0\0" + b"\0"
    assert only(data).descriptor == model


def scales_apart(descriptor: ModelDescriptor) -> tuple[ModelDescriptor, list[bytes]]:
    """Give a descriptor whose scales are 0, and what they were as floats of 4 bytes."""
    scales: list[bytes] = []

    def without(item: Tensor) -> Tensor:
        if item.quantization is None:
            return item
        scales.append(struct.pack("<f", item.quantization.scale))
        return replace(item, quantization=replace(item.quantization, scale=0.0))

    inputs, outputs = tuple(map(without, descriptor.inputs)), tuple(map(without, descriptor.outputs))
    return replace(descriptor, inputs=inputs, outputs=outputs), scales


@settings(deadline=None)
@given(descriptors, st.binary(max_size=40), st.binary(max_size=40))
def test_what_is_written_is_found_again(descriptor: ModelDescriptor, before: bytes, after: bytes) -> None:
    data = encode(descriptor)

    found = only(before + data + after)

    assert (found.offset, found.size_bytes, found.fault) == (len(before), len(data), None)
    assert found.descriptor is not None
    assert scales_apart(found.descriptor) == scales_apart(descriptor)
    assert encode(found.descriptor) == data


@pytest.mark.parametrize(
    ("scale", "shown"),
    [(0.1, 0.1), (1 / 255, 0.003921569), (0.003921568859368563, 0.003921569), (1 / 128, 0.0078125), (1e-45, 1e-45),
     (3.4028234663852886e38, 3.4028235e38), (16777216.0, 16777216.0)],
)  # fmt: skip
def test_a_scale_is_the_shortest_decimal_of_its_four_bytes(scale: float, shown: float) -> None:
    found = only(encode(replace(KWS, inputs=(tensor("t", "int8", None, None, scale, 0),))))

    assert found.descriptor is not None
    quantization = found.descriptor.inputs[0].quantization
    assert quantization == Quantization(scale=shown, zero_point=0)


def test_a_name_with_a_lone_surrogate_is_written_as_its_escape() -> None:
    found = only(encode(replace(KWS, module="a\udc80")))

    assert found.descriptor is not None
    assert found.descriptor.module == "a\\udc80"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"inputs": (tensor("t", "int8", None, None, 1e300, 0),)},
            "kws: the descriptor in flash cannot hold the scale 1e+300: it is beyond a float of 4 bytes",
        ),
        (
            {"inputs": (tensor("t", "int8", None, None, 1e-60, 0),)},
            "kws: the descriptor in flash cannot hold the scale 1e-60: it is beyond a float of 4 bytes",
        ),
        (
            {"inputs": (tensor("t", "int8", None, None, float("inf"), 0),)},
            "kws: the descriptor in flash cannot hold the scale inf: it is beyond a float of 4 bytes",
        ),
        ({"arena_bytes": 2**64}, f"kws: the descriptor in flash cannot hold {2**64 + 1}: it has more than 64 bits"),
        (
            {"module": "x" * MAX_BYTES},
            "kws: the descriptor in flash would have 1048683 bytes; at most 1048576 are allowed",
        ),
        (
            {"identity": "sha256:0"},
            "kws: the descriptor in flash cannot hold the identity `sha256:0`: expected a SHA-256",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        encode(replace(KWS, **change))

    assert str(caught.value) == message


# Finding in any bytes


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_descriptors_are_found_in_any_kind_of_bytes_at_any_offset(kind: Callable[[bytes], bytes]) -> None:
    data = b"\xff" * 13 + BYTES + encode(VWW) + MAGIC[:7] + BYTES

    found = find(kind(data))

    assert [(item.offset, item.descriptor) for item in found] == [
        (13, KWS),
        (13 + len(BYTES), VWW),
        (len(data) - len(BYTES), KWS),
    ]


def test_every_flipped_bit_is_told_and_none_makes_another_descriptor() -> None:
    for position in range(8 * len(BYTES)):
        damaged = bytearray(BYTES)
        damaged[position // 8] ^= 1 << position % 8
        found = find(damaged)

        assert [item.descriptor for item in found] == ([] if position < 8 * len(MAGIC) else [None])


def test_a_wrong_checksum_is_told_with_both() -> None:
    damaged = BYTES[:50] + b"?" + BYTES[51:]
    right, stored = zlib.crc32(damaged[:-4]), int.from_bytes(BYTES[-4:], "little")

    assert fault_of(damaged) == f"is damaged: its CRC-32 is {right:08x}, expected {stored:08x}"


@pytest.mark.parametrize("length", range(len(MAGIC), len(BYTES)))
def test_a_descriptor_that_is_cut_off_is_told(length: int) -> None:
    of = "" if length < 12 else f" of {len(BYTES)}"

    assert fault_of(BYTES[:length]) == f"is cut off after {length}{of} bytes"


@pytest.mark.parametrize("size", [0, 15, MAX_BYTES + 1, 0xFFFFFF])
def test_a_size_that_cannot_be_is_told(size: int) -> None:
    damaged = bytearray(BYTES)
    damaged[SIZE_AT] = size.to_bytes(3, "little")

    assert fault_of(bytes(damaged)) == f"is damaged: its size is {size} bytes, expected 16 to 1048576"


def test_a_descriptor_behind_a_damaged_one_is_found_even_if_that_claims_its_bytes() -> None:
    damaged = bytearray(BYTES[:40])
    damaged[SIZE_AT] = (40 + len(BYTES)).to_bytes(3, "little")

    assert [item.descriptor for item in find(damaged + BYTES)] == [None, KWS]


def test_a_later_layout_is_told_and_its_size_known() -> None:
    assert only(sealed(b"whatever comes", layout=2)) == Found(
        offset=0, size_bytes=30, fault="has layout version 2; version 1 can be read"
    )


def test_fields_and_flags_of_later_releases_are_skipped() -> None:
    body = bytes([BYTES[12] | 0xE0]) + BYTES[13:-4] + b"more fields"

    assert only(sealed(body)).descriptor == KWS


@pytest.mark.parametrize(
    ("tail", "fault"),
    [
        (b"", "its fields are longer than its size"),
        (b"\0\xff\xff\xff\xff\x0f", "its fields are longer than its size"),
        (b"\0\1\5a", "its fields are longer than its size"),
        (b"\xff" * 10, "a number has more than 64 bits"),
        (b"\xff" * 9 + b"\x02", "a number has more than 64 bits"),
        (b"\0\1\1\xff\x7f\0\0", "a text is not UTF-8"),
        (b"\0\1\1a\x05\x08\0\0", "a type has the code 5"),
        (b"\0\1\1a\x7f\x42" + b"\1" * 65 + b"\0\0", "a shape has 65 extents; at most 64 are allowed"),
        (b"\0\1\1a\xff\0\0\0\0\x80\x7f\0\0", "a scale is inf"),
        (b"\0\1\1a\xff\0\0\0\0\xc0\x7f\0\0", "a scale is nan"),
    ],
)
def test_a_body_that_makes_no_sense_is_told_though_its_checksum_is_right(tail: bytes, fault: str) -> None:
    start = BYTES[12:58]  # up to the version of mlf, and without it

    assert fault_of(sealed(start + b"\0" + tail)) == f"has a right CRC-32, but {fault}"


@settings(deadline=None, max_examples=500)
@given(st.binary(max_size=300))
def test_any_body_under_a_right_checksum_is_read_or_told(body: bytes) -> None:
    found = only(sealed(BYTES[12:46] + body))

    assert (found.descriptor is None) != (found.fault is None)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from([MAGIC, BYTES, BYTES[:30], MAGIC + b"\1"]) | st.binary(max_size=30), max_size=12))
def test_any_bytes_are_searched_without_an_error(parts: list[bytes]) -> None:
    data = b"".join(parts)
    found = find(data)

    assert {item.offset for item in found} <= {match.start() for match in re.finditer(re.escape(MAGIC), data)}
    assert [item.offset for item in found] == sorted({item.offset for item in found})
    assert sum(item.descriptor == KWS for item in found) == data.count(BYTES)


def test_more_descriptors_than_a_reader_takes_are_told() -> None:
    found = find(BYTES * (MAX_FOUND + 5))

    assert [item.descriptor for item in found] == [KWS] * MAX_FOUND + [None]
    assert found[-1] == Found(
        offset=MAX_FOUND * len(BYTES),
        size_bytes=0,
        fault="is one of more than 1000 descriptors; it and those behind it are left out",
    )


def test_64_mib_are_searched_in_less_than_two_seconds() -> None:
    data = random.Random(4).randbytes(1 << 22) * 16 + BYTES  # noqa: S311  # no secret

    start = time.perf_counter()
    found = find(data)
    seconds = time.perf_counter() - start

    assert [(item.offset, item.descriptor) for item in found] == [(1 << 26, KWS)]
    assert seconds < 2


def test_bytes_that_ask_for_the_most_checksums_are_searched_in_bounded_time() -> None:
    """Without a limit to the number of descriptors these 16 MiB would ask for the checksums of 1.4 TiB."""
    data = (MAGIC + b"\1" + MAX_BYTES.to_bytes(3, "little")) * ((16 << 20) // 12)

    start = time.perf_counter()
    found = find(data)
    seconds = time.perf_counter() - start

    assert len(found) == MAX_FOUND + 1
    assert seconds < 10


def test_the_documented_c_reads_a_name_and_an_identity(tmp_path: Path) -> None:
    (code,) = [block for block in re.findall(r"```c\n(.*?)```", README, re.DOTALL) if "model_name" in block]
    numbers = ",".join(str(byte) for byte in BYTES)
    (tmp_path / "main.c").write_text(
        f"#include <stdio.h>\n{code}"
        f"static const uint8_t descriptor[] = {{{numbers}}};\n"
        "int main(void) {\n"
        "  uint64_t size;\n"
        "  const uint8_t* identity;\n"
        "  const uint8_t* name = model_name(descriptor, &size, &identity);\n"
        '  printf("%.*s ", (int)size, (const char*)name);\n'
        '  for (int i = 0; i < 32; ++i) printf("%02x", identity[i]);\n'
        "  return 0;\n"
        "}\n"
    )
    toolbox.run(["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "main.c", "-o", "main"], cwd=tmp_path)

    assert toolbox.run([tmp_path / "main"]) == f"kws {KWS.identity.removeprefix('sha256:')}"
