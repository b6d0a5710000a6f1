r"""What lies in flash beside each model of a library and says what it is; written here, and found again in any image.

A descriptor is position independent, little-endian on every machine, and needs no symbol table to be found:

    offset  size  what
    0       8     magic 89 4D 4C 46 0D 0A 1A 0A: damaged by whatever strips the eighth bit or converts line ends
    8       1     layout version, 1
    9       3     size of the whole descriptor in bytes, magic and CRC included
    12      1     entrypoints, bit by bit as in `ENTRYPOINTS`; the other bits are 0, and readers ignore them
    13      var.  number: format version of the archive
            32    SHA-256 that is the archive's identity
            var.  text: name of the model in the library
            var.  text: name of the module in the archive
            var.  text: version of mlf
            var.  number: bytes of arena that the model needs while it runs, plus 1; 0 if unknown
            var.  number of inputs, then each; number of outputs, then each
    end-4   4     CRC-32 (that of zlib and IEEE 802.3) of all bytes before it

A number is an unsigned LEB128 of at most 64 bits: seven bits a byte, the lowest first, bit 7 set in all but the last byte. A
text is a number of bytes, then those in UTF-8. A tensor is

    text    name
    1 byte  bit 7: is quantized; bits 0 to 6: type code as in DLPack (0 int, 1 uint, 2 float, 3 handle, 4 bfloat), 126 if
            the type is a text instead, 127 if it is unknown
    1 byte  bits of an element, as in DLPack; a text instead for 126, nothing for 127. TVM's bool is code 1 of 1 bit
    number  dimensions plus 1, 0 if the shape is unknown; then a number for each extent
    number  size in bytes plus 1; 0 if unknown
    5+      only if quantized: scale as an IEEE 754 float of 4 bytes, zero point z as the number 2z, or -2z - 1 if z < 0

What stands between the last of these and the CRC is left for fields to come, and readers skip it. In every layout version
the first 12 bytes and the CRC mean the same.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlf.errors import UnsupportedError
from mlf.metadata import Quantization, Tensor
from mlf.naming import sanitize_tensor_name

if TYPE_CHECKING:
    from collections.abc import Sequence


MAGIC = b"\x89MLF\r\n\x1a\n"
LAYOUT_VERSION = 1
# In the order of their bits; the order is part of the layout.
ENTRYPOINTS = ("run", "tvm_module_main", "map_inputs", "map_outputs", "get_c_metadata")
MAX_BYTES = 1 << 20  # of a descriptor; a hundred times that of a model with a hundred tensors
MAX_FOUND = 1000  # in one image; each may cost a checksum of MAX_BYTES, and a library has ten
_HEADER_BYTES = 12
_CRC_BYTES = 4
_DIGEST_BYTES = 32
_NUMBER_BITS = 64
_MAX_EXTENTS = 64  # dimensions of a tensor; as `mlf.metadata` allows
_DTYPE_CODES = {"int": 0, "uint": 1, "float": 2, "handle": 3, "bfloat": 4}
_DTYPE_KINDS = {code: kind for kind, code in _DTYPE_CODES.items()}
_DTYPE = re.compile(r"(int|uint|float|handle|bfloat)([1-9][0-9]{0,2})")
_IDENTITY = re.compile(r"sha256:[0-9a-f]{64}")
_BOOL = (1, 1)
_NAMED_DTYPE, _UNKNOWN_DTYPE = 126, 127
_IS_QUANTIZED = 0x80


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescriptor:
    """What is said of a model in flash.

    `name` is the model's in the library, `module` the module's in the archive, whose `format_version` and `identity`
    (`sha256:` and 64 hexadecimal digits) follow. `entrypoints` are those of `ENTRYPOINTS` that there are, in that order.
    """

    name: str
    module: str
    format_version: int
    identity: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    arena_bytes: int | None
    entrypoints: tuple[str, ...]
    mlf_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A place where a descriptor begins; `descriptor` is None if it cannot be read, and `fault` says why."""

    offset: int
    size_bytes: int
    descriptor: ModelDescriptor | None = None
    fault: str | None = None


def encode(descriptor: ModelDescriptor) -> bytes:
    """Write a descriptor.

    A scale is rounded to a float of 4 bytes; `c_name` of a tensor is not kept. Raises UnsupportedError, naming the model,
    for a number or a text that does not fit.
    """
    if not _IDENTITY.fullmatch(descriptor.identity):
        raise _refusal(descriptor, f"cannot hold the identity `{descriptor.identity}`: expected a SHA-256")
    body = b"".join(
        [
            bytes([sum(1 << ENTRYPOINTS.index(name) for name in set(descriptor.entrypoints))]),
            _number(descriptor, descriptor.format_version),
            bytes.fromhex(descriptor.identity.removeprefix("sha256:")),
            *(_text(text) for text in (descriptor.name, descriptor.module, descriptor.mlf_version)),
            _optional(descriptor, descriptor.arena_bytes),
            _tensors(descriptor, descriptor.inputs),
            _tensors(descriptor, descriptor.outputs),
        ]
    )
    size = _HEADER_BYTES + len(body) + _CRC_BYTES
    if size > MAX_BYTES:
        raise _refusal(descriptor, f"would have {size} bytes; at most {MAX_BYTES} are allowed")
    covered = MAGIC + bytes([LAYOUT_VERSION]) + size.to_bytes(3, "little") + body
    return covered + zlib.crc32(covered).to_bytes(_CRC_BYTES, "little")


def _refusal(descriptor: ModelDescriptor, what: str) -> UnsupportedError:
    return UnsupportedError(f"the descriptor in flash {what}", where=descriptor.name)


def _number(owner: ModelDescriptor, value: int) -> bytes:
    if value >> _NUMBER_BITS:
        raise _refusal(owner, f"cannot hold {value}: it has more than {_NUMBER_BITS} bits")
    return _leb128(value)


def _leb128(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(0x80 | value & 0x7F)
        value >>= 7
    written.append(value)
    return bytes(written)


def _optional(owner: ModelDescriptor, value: int | None) -> bytes:
    return _number(owner, 0 if value is None else value + 1)


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8", "backslashreplace")  # a lone surrogate, which a damaged archive can have in a name
    return _leb128(len(encoded)) + encoded


def _tensors(owner: ModelDescriptor, tensors: Sequence[Tensor]) -> bytes:
    return _leb128(len(tensors)) + b"".join(_tensor(owner, tensor) for tensor in tensors)


def _tensor(owner: ModelDescriptor, tensor: Tensor) -> bytes:
    code, rest = _dtype(tensor.dtype)
    quantization = tensor.quantization
    parts = [
        _text(tensor.name),
        bytes([code | (_IS_QUANTIZED if quantization else 0)]) + rest,
        _optional(owner, None if tensor.shape is None else len(tensor.shape)),
        *(_number(owner, extent) for extent in tensor.shape or ()),
        _optional(owner, tensor.size_bytes),
    ]
    if quantization:
        zero = quantization.zero_point
        parts += [_scale(owner, quantization.scale), _number(owner, 2 * zero if zero >= 0 else -2 * zero - 1)]
    return b"".join(parts)


def _dtype(dtype: str | None) -> tuple[int, bytes]:
    if dtype is None:
        return _UNKNOWN_DTYPE, b""
    match = _DTYPE.fullmatch(dtype)
    code, bits = _BOOL if dtype == "bool" else (_DTYPE_CODES[match[1]], int(match[2])) if match else (0, 0)
    if _dtype_name(code, bits) != dtype or bits > 0xFF:
        return _NAMED_DTYPE, _text(dtype)
    return code, bytes([bits])


def _dtype_name(code: int, bits: int) -> str:
    return "bool" if (code, bits) == _BOOL else f"{_DTYPE_KINDS[code]}{bits}"


def _scale(owner: ModelDescriptor, scale: float) -> bytes:
    written = _float32(scale)
    if written is None or not math.isfinite(scale) or (scale and not any(written)):
        raise _refusal(owner, f"cannot hold the scale {scale:g}: it is beyond a float of 4 bytes")
    return written


def _float32(value: float) -> bytes | None:
    """Give the bytes of the nearest float of 4 bytes; None beyond the largest."""
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return None


def find(data: bytes | bytearray | memoryview) -> tuple[Found, ...]:
    """Find the descriptors in a dump of memory or any other bytes, at whatever offset; never raises.

    After MAX_FOUND of them the rest is left out, and the last one says so.
    """
    text = bytes(data)
    found: list[Found] = []
    offset = text.find(MAGIC)
    while offset >= 0 and len(found) < MAX_FOUND:
        found.append(_found(text, offset))
        # What a damaged one says of its size cannot be trusted.
        offset = text.find(MAGIC, offset + max(found[-1].size_bytes, len(MAGIC)))
    if offset >= 0:
        fault = f"is one of more than {MAX_FOUND} descriptors; it and those behind it are left out"
        found.append(Found(offset=offset, size_bytes=0, fault=fault))
    return tuple(found)


def _found(text: bytes, offset: int) -> Found:
    view = memoryview(text)[offset : offset + MAX_BYTES]
    try:
        size = _checked_size(view)
    except ValueError as error:
        return Found(offset=offset, size_bytes=0, fault=str(error))
    layout = view[8]
    if layout != LAYOUT_VERSION:
        fault = f"has layout version {layout}; version {LAYOUT_VERSION} can be read"
        return Found(offset=offset, size_bytes=size, fault=fault)
    try:
        descriptor = _Reader(bytes(view[_HEADER_BYTES : size - _CRC_BYTES])).descriptor()
    except ValueError as error:
        return Found(offset=offset, size_bytes=size, fault=f"has a right CRC-32, but {error}")
    return Found(offset=offset, size_bytes=size, descriptor=descriptor)


def _checked_size(view: memoryview) -> int:
    """Give the size of the descriptor that `view` begins with, or raise ValueError if it is damaged."""
    if len(view) < _HEADER_BYTES:
        raise ValueError(f"is cut off after {len(view)} bytes")
    size = int.from_bytes(view[9:12], "little")
    if not _HEADER_BYTES + _CRC_BYTES <= size <= MAX_BYTES:
        raise ValueError(f"is damaged: its size is {size} bytes, expected {_HEADER_BYTES + _CRC_BYTES} to {MAX_BYTES}")
    if size > len(view):
        raise ValueError(f"is cut off after {len(view)} of {size} bytes")
    got, expected = zlib.crc32(view[: size - _CRC_BYTES]), int.from_bytes(view[size - _CRC_BYTES : size], "little")
    if got != expected:
        raise ValueError(f"is damaged: its CRC-32 is {got:08x}, expected {expected:08x}")
    return size


class _Reader:
    """Reads what lies between header and CRC; ValueError says what is wrong with it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def descriptor(self) -> ModelDescriptor:
        flags = self._byte()
        return ModelDescriptor(
            entrypoints=tuple(name for bit, name in enumerate(ENTRYPOINTS) if flags >> bit & 1),
            format_version=self._number(),
            identity=f"sha256:{self._take(_DIGEST_BYTES).hex()}",
            name=self._text(),
            module=self._text(),
            mlf_version=self._text(),
            arena_bytes=self._optional(),
            inputs=self._tensors(),
            outputs=self._tensors(),
        )

    def _take(self, count: int) -> bytes:
        taken = self._data[self._position : self._position + count]
        self._position += count
        if len(taken) != count:
            raise ValueError("its fields are longer than its size")
        return taken

    def _byte(self) -> int:
        return self._take(1)[0]

    def _number(self) -> int:
        value = 0
        for shift in range(0, _NUMBER_BITS, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80 and not value >> _NUMBER_BITS:
                return value
        raise ValueError(f"a number has more than {_NUMBER_BITS} bits")

    def _optional(self) -> int | None:
        value = self._number()
        return value - 1 if value else None

    def _text(self) -> str:
        try:
            return self._take(self._number()).decode()
        except UnicodeDecodeError as error:
            raise ValueError("a text is not UTF-8") from error

    def _tensors(self) -> tuple[Tensor, ...]:
        return tuple([self._tensor() for _ in range(self._number())])  # each takes bytes, so they end where those do

    def _tensor(self) -> Tensor:
        name, code = self._text(), self._byte()
        return Tensor(
            name=name,
            c_name=sanitize_tensor_name(name),
            dtype=self._dtype(code & ~_IS_QUANTIZED),
            shape=self._shape(),
            size_bytes=self._optional(),
            quantization=self._quantization() if code & _IS_QUANTIZED else None,
        )

    def _dtype(self, code: int) -> str | None:
        if code == _UNKNOWN_DTYPE:
            return None
        if code == _NAMED_DTYPE:
            return self._text()
        if code not in _DTYPE_KINDS:
            raise ValueError(f"a type has the code {code}")
        return _dtype_name(code, self._byte())

    def _shape(self) -> tuple[int, ...] | None:
        rank = self._optional()
        if rank is None:
            return None
        if rank > _MAX_EXTENTS:
            raise ValueError(f"a shape has {rank} extents; at most {_MAX_EXTENTS} are allowed")
        return tuple(self._number() for _ in range(rank))

    def _quantization(self) -> Quantization:
        scale, zero = struct.unpack("<f", self._take(4))[0], self._number()
        if not math.isfinite(scale):
            raise ValueError(f"a scale is {scale}")
        return Quantization(scale=_shortest(scale), zero_point=-(zero + 1) // 2 if zero & 1 else zero // 2)


def _shortest(value: float) -> float:
    """Give the decimal of fewest digits that means the same float of 4 bytes: 0.1, not 0.10000000149011612."""
    rounded = (float(f"{value:.{digits}g}") for digits in range(1, 9))
    return next((it for it in rounded if _float32(it) == _float32(value)), float(f"{value:.9g}"))
