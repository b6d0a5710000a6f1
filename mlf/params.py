"""The one codec of TVM's `.params` files: a list of named tensors, as `tvm.runtime.save_param_dict` writes it.

The layout is that of `src/runtime/file_utils.cc` and `include/tvm/runtime/ndarray.h` of TVM, the same since 2017; all
numbers are little-endian and nothing is aligned:

    list:   u64 magic, u64 reserved, u64 n, n times (u64 length, name), u64 n, n tensors
    tensor: u64 magic, u64 reserved, i32 device type, i32 device id, i32 rank, u8 code, u8 bits, u16 lanes,
            i64 extents[rank], i64 size in bytes, elements in C order

Reading is strict where TVM's own reader is lax: what is accepted is rendered again byte for byte.
"""

from __future__ import annotations

import math
import struct
import sys
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from mlf.errors import TensorError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

LIST_MAGIC: Final = 0xF7E58D4F05049CB7
TENSOR_MAGIC: Final = 0xDD5E40F096B4A13F
MAX_COUNT: Final = 100_000  # of parameters; a large network has some thousand
MAX_RANK: Final = 32  # numpy 1 has no arrays of more dimensions, and TVM's C runtime none of more than 6

_CPU: Final = (1, 0)  # device type and id; TVM writes no other, wherever the tensor was
_SHOWN_CHARACTERS: Final = 80  # of a name in a message; TVM's C runtime takes none that is longer

_SIGNATURE: Final = struct.Struct("<QQ")  # magic number, reserved
_LENGTH: Final = struct.Struct("<Q")  # also counts
_HEADER: Final = struct.Struct("<iiiBBH")  # device type and id, rank, code, bits, lanes
_SIZE: Final = struct.Struct("<q")
_MIN_PARAM_BYTES: Final = _LENGTH.size + _SIGNATURE.size + _HEADER.size + _SIZE.size  # no name, no extents, no elements


class Dtype(NamedTuple):
    """An element type: its code and bits in the file, and the numpy type that holds an element as the file has it."""

    code: int
    bits: int
    storage: np.dtype[Any]

    @property
    def size_bytes(self) -> int:
        """The size of one element in the file."""
        return self.storage.itemsize


DTYPES: Final[Mapping[str, Dtype]] = MappingProxyType(
    {
        "bool": Dtype(1, 1, np.dtype("?")),
        "int4": Dtype(0, 4, np.dtype("i1")),  # a byte each in the file
        "int8": Dtype(0, 8, np.dtype("i1")),
        "int16": Dtype(0, 16, np.dtype("<i2")),
        "int32": Dtype(0, 32, np.dtype("<i4")),
        "int64": Dtype(0, 64, np.dtype("<i8")),
        "uint4": Dtype(1, 4, np.dtype("u1")),
        "uint8": Dtype(1, 8, np.dtype("u1")),
        "uint16": Dtype(1, 16, np.dtype("<u2")),
        "uint32": Dtype(1, 32, np.dtype("<u4")),
        "uint64": Dtype(1, 64, np.dtype("<u8")),
        "float16": Dtype(2, 16, np.dtype("<f2")),
        "float32": Dtype(2, 32, np.dtype("<f4")),
        "float64": Dtype(2, 64, np.dtype("<f8")),
        "bfloat16": Dtype(4, 16, np.dtype("<u2")),
        "e4m3_float8": Dtype(6, 8, np.dtype("u1")),
        "e5m2_float8": Dtype(7, 8, np.dtype("u1")),
    }
)
"""Every element type that the file can hold, by TVM's word for it; types that numpy lacks are stored as raw bits."""

# Since March 2025 (apache/tvm#17712), when TVM no longer wrote this library format; so no archive's metadata has them.
_LATER_WORDS: Final = {"float8_e4m3fn": "e4m3_float8", "float8_e5m2": "e5m2_float8"}
_RAW: Final = frozenset({"int4", "uint4", "bfloat16", "e4m3_float8", "e5m2_float8"})
_WORDS_BY_CODE: Final = {(dtype.code, dtype.bits): word for word, dtype in DTYPES.items()}
_WORDS_BY_NUMPY: Final = {dtype.storage: word for word, dtype in DTYPES.items() if word not in _RAW}
_CODE_WORDS: Final = ("int", "uint", "float", "handle", "bfloat", "complex", "e4m3_float", "e5m2_float")


# Two arrays have no one truth value, so parameters are not compared by their fields.
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Param:
    """A named tensor.

    `name` may hold lone surrogates: they stand for the bytes of a name that is not UTF-8 (PEP 383). `dtype` is a key of
    `DTYPES`; those who write may also give the later words `float8_e4m3fn` and `float8_e5m2`. `array` has the storage
    type that `DTYPES` names. For `int4` and `uint4` that is one byte per element: the file has as many, but compilers
    differ in what they put there.
    """

    name: str
    dtype: str
    array: npt.NDArray[Any]


def parse_params(data: bytes, *, where: str) -> tuple[Param, ...]:
    """Read the content of a `.params` file; the parameters are in file order, their arrays read-only views of `data`.

    `where` is the file that messages name. Raises TensorError for every deviation from what TVM writes, also where its
    own reader does not look: fields that are reserved, bytes after the last tensor, names that occur twice.
    """
    reader = _Reader(data, where)
    names = _parse_names(reader)
    params = tuple(_parse_tensor(reader, name.decode("utf-8", "surrogateescape")) for name in names)
    if reader.left_bytes:
        raise reader.error(
            f"{reader.left_bytes} bytes follow the last parameter at byte {reader.offset}, expected none"
        )
    return params


def read_names(head: bytes, *, where: str) -> tuple[str, ...]:
    """List the names in the beginning of a `.params` file, which holds all of them in front of the tensors."""
    return tuple(name.decode("utf-8", "surrogateescape") for name in _parse_names(_Reader(head, where)))


def render_params(params: Sequence[Param]) -> bytes:
    """Give the content of the `.params` file that TVM writes for these parameters in this order.

    `save_param_dict` itself takes the order of a hash map, so the order of a Python dict is not that of its file.
    Raises TensorError for two parameters of one name, and for one whose name, type or rank the file cannot hold.
    """
    names = _encoded_names(params)
    count = _LENGTH.pack(len(names))
    pieces: list[bytes | memoryview] = [_SIGNATURE.pack(LIST_MAGIC, 0), count]
    for name in names:
        pieces += (_LENGTH.pack(len(name)), name)
    pieces.append(count)
    for param in params:
        pieces += _tensor_pieces(param)
    return b"".join(pieces)


def param_from_array(name: str, array: npt.NDArray[Any]) -> Param:
    """Make a parameter of the type that a numpy array has; elements are copied only if they are big-endian.

    Raises TensorError for a type that TVM has no word for. For types that numpy lacks, make a `Param` of raw bits.
    """
    storage = _little_endian(array)
    word = _WORDS_BY_NUMPY.get(storage) if storage else None
    if storage is None or word is None:
        raise TensorError(
            f"{_label(name)} is an array of `{array.dtype}`, expected one of {_listed(_WORDS_BY_NUMPY.values())}"
        )
    return Param(name=name, dtype=word, array=array.astype(storage, copy=False))


class _Reader:
    """The content of a file, taken from front to back, and never more than there is."""

    def __init__(self, data: bytes, where: str) -> None:
        self.data = data
        self.where = where
        self.offset = 0

    @property
    def left_bytes(self) -> int:
        return len(self.data) - self.offset

    def error(self, message: str) -> TensorError:
        return TensorError(message, where=self.where)

    def skip(self, size_bytes: int, what: str) -> int:
        """Pass over bytes that must be there; gives their offset."""
        start = self.offset
        if size_bytes > self.left_bytes:
            raise self.error(f"{what} at byte {start} takes {size_bytes} bytes, but {self.left_bytes} are left")
        self.offset += size_bytes
        return start

    def take(self, layout: struct.Struct, what: str) -> tuple[int, ...]:
        return layout.unpack_from(self.data, self.skip(layout.size, what))

    def take_signature(self, expected: int, what: str) -> None:
        start = self.offset
        magic, reserved = self.take(_SIGNATURE, f"{what}: signature")
        if magic != expected:
            raise self.error(f"{what}: magic number at byte {start} is `{magic:#x}`, expected `{expected:#x}`")
        if reserved:
            raise self.error(f"{what}: reserved field at byte {start + 8} is `{reserved:#x}`, expected `0x0`")


def _parse_names(reader: _Reader) -> Iterable[bytes]:
    reader.take_signature(LIST_MAGIC, "list")
    start = reader.offset
    (count,) = reader.take(_LENGTH, "list: count of names")
    most = min(max(reader.left_bytes - _LENGTH.size, 0) // _MIN_PARAM_BYTES, MAX_COUNT)
    if count > most:
        raise reader.error(f"list: count of names at byte {start} is {count}, but the bytes left hold at most {most}")
    names: dict[bytes, None] = {}
    for index in range(count):
        (length,) = reader.take(_LENGTH, f"name {index}: length")
        name_start = reader.skip(length, f"name {index}")
        name = reader.data[name_start : reader.offset]
        if name in names:
            raise reader.error(f"{_label(name.decode('utf-8', 'surrogateescape'))} occurs twice")
        names[name] = None
    start = reader.offset
    (tensors,) = reader.take(_LENGTH, "list: count of tensors")
    if tensors != count:
        raise reader.error(f"list: count of tensors at byte {start} is {tensors}, expected {count} as of names")
    return names


def _parse_tensor(reader: _Reader, name: str) -> Param:
    what = _label(name)
    reader.take_signature(TENSOR_MAGIC, what)
    *device, rank, code, bits, lanes = reader.take(_HEADER, f"{what}: header")
    if tuple(device) != _CPU:
        raise reader.error(f"{what}: device is {tuple(device)}, expected {_CPU}, the CPU")
    word = _WORDS_BY_CODE.get((code, bits)) if lanes == 1 else None
    if word is None:
        raise reader.error(f"{what}: dtype is {_unsupported(code, bits, lanes)}, expected one of {_listed(DTYPES)}")
    if not 0 <= rank <= MAX_RANK:
        raise reader.error(f"{what}: rank is {rank}, expected 0 to {MAX_RANK}")
    array = _parse_array(reader, what, word, rank)
    if _has_odd_bools(array):
        raise reader.error(f"{what}: holds a `bool` that is neither 0 nor 1")
    return Param(name=name, dtype=word, array=array)


def _parse_array(reader: _Reader, what: str, word: str, rank: int) -> npt.NDArray[Any]:
    storage = DTYPES[word].storage
    shape = reader.take(struct.Struct(f"<{rank}q"), f"{what}: shape")
    if any(extent < 0 for extent in shape):
        raise reader.error(f"{what}: shape is {shape}, expected no negative extent")
    # An array without elements has strides all the same, and numpy refuses those that no pointer could make.
    if math.prod(extent or 1 for extent in shape) * storage.itemsize > sys.maxsize:
        raise reader.error(f"{what}: shape is {shape}, which no memory could hold")
    start = reader.offset
    (size_bytes,) = reader.take(_SIZE, f"{what}: size")
    expected = math.prod(shape) * storage.itemsize
    if size_bytes != expected:
        raise reader.error(
            f"{what}: size at byte {start} is {size_bytes} bytes, expected {expected} for {shape} of `{word}`"
        )
    start = reader.skip(size_bytes, f"{what}: data")
    return np.ndarray(shape, storage, buffer=reader.data, offset=start)


def _unsupported(code: int, bits: int, lanes: int) -> str:
    kind = _CODE_WORDS[code] if code < len(_CODE_WORDS) else "custom"
    name = f"{kind}{bits}" if lanes == 1 else f"{kind}{bits}x{lanes}"
    return f"`{name}` (code {code}, bits {bits}, lanes {lanes})"


def _encoded_names(params: Sequence[Param]) -> list[bytes]:
    names: dict[bytes, None] = {}
    for param in params:
        try:
            name = param.name.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise TensorError(f"{_label(param.name)} has a name that no bytes stand for") from error
        if name in names:
            raise TensorError(f"{_label(param.name)} occurs twice")
        names[name] = None
    return list(names)


def _tensor_pieces(param: Param) -> tuple[bytes | memoryview, ...]:
    array, what = param.array, _label(param.name)
    dtype = DTYPES.get(_LATER_WORDS.get(param.dtype, param.dtype))
    if dtype is None:
        raise TensorError(f"{what} has the dtype `{param.dtype}`, expected one of {_listed(DTYPES)}")
    if _little_endian(array) != dtype.storage:
        raise TensorError(f"{what} is an array of `{array.dtype}`, expected `{dtype.storage}` for `{param.dtype}`")
    if array.ndim > MAX_RANK:
        raise TensorError(f"{what} has the rank {array.ndim}, expected 0 to {MAX_RANK}")
    if _has_odd_bools(array):
        raise TensorError(f"{what} holds a `bool` that is neither 0 nor 1")
    return (
        _SIGNATURE.pack(TENSOR_MAGIC, 0),
        _HEADER.pack(*_CPU, array.ndim, dtype.code, dtype.bits, 1),
        struct.pack(f"<{array.ndim}q", *array.shape),
        _SIZE.pack(array.nbytes),
        array.astype(dtype.storage, order="C", copy=False).data,
    )


def _little_endian(array: npt.NDArray[Any]) -> np.dtype[Any] | None:
    """The type of the elements in the byte order of the file; None if they are no plain numbers."""
    return array.dtype.newbyteorder("<") if array.dtype.kind in "biuf" else None


def _has_odd_bools(array: npt.NDArray[Any]) -> bool:
    """Whether an array of truth values holds other bytes than numpy and TVM put there."""
    return array.dtype.kind == "b" and int(array.view(np.uint8).max(initial=0)) > 1


def _label(name: str) -> str:
    return f"parameter {name[:_SHOWN_CHARACTERS]!r}"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)
