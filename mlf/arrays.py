"""Arrays by tensor name: `.npz` files, and whether arrays fit the tensors they are given for."""

from __future__ import annotations

import io
import tokenize
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from mlf.csource import DTYPE_SIZES_BYTES
from mlf.errors import TensorError, reason_of
from mlf.files import replace_files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from mlf.metadata import Tensor

    Arrays = Mapping[str, npt.NDArray[Any]]

_MAX_BYTES = 1 << 30  # unpacked; no microcontroller has that much memory
# What numpy and zipfile raise for damaged and hostile files.
_NPZ_FAULTS = (
    ValueError,
    TypeError,
    EOFError,
    OverflowError,
    KeyError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)
# Types that numpy lacks travel as their raw bits.
_RAW_DTYPES = {"bfloat16": "uint16"}


def array_faults(tensors: Sequence[Tensor], arrays: Arrays, *, kind: str) -> list[str]:
    """List what is wrong with arrays that are given for tensors, of which each is an `input` or `output`."""
    names = [tensor.name for tensor in tensors]
    expected = ", ".join(f"`{name}`" for name in names) or "none"
    faults = [f"there is no array `{name}`" for name in names if name not in arrays]
    faults += [f"`{name}` is no {kind}; the {kind}s are {expected}" for name in sorted(arrays) if name not in names]
    for tensor in tensors:
        if tensor.name in arrays:
            faults += _faults(tensor, arrays[tensor.name])
    return faults


def _faults(tensor: Tensor, array: npt.NDArray[Any]) -> list[str]:
    expected = numpy_dtype(tensor)
    if array.dtype != expected:
        return [f"`{tensor.name}` has dtype {array.dtype}, expected {tensor.dtype or expected}"]
    if tensor.shape is not None and array.shape != tensor.shape:
        return [f"`{tensor.name}` has shape {_shape(array.shape)}, expected {_shape(tensor.shape)}"]
    if tensor.size_bytes is not None and array.nbytes != tensor.size_bytes:
        return [f"`{tensor.name}` has {array.nbytes} bytes, expected {tensor.size_bytes}"]
    return []


def _shape(shape: Sequence[int]) -> str:
    return "x".join(str(extent) for extent in shape) or "scalar"


def numpy_dtype(tensor: Tensor) -> np.dtype[Any]:
    """Give the numpy type of a tensor's elements; types that numpy lacks and unknown ones are raw bits."""
    name = tensor.dtype if tensor.dtype and tensor.dtype in DTYPE_SIZES_BYTES else "uint8"
    return np.dtype(_RAW_DTYPES.get(name, name))


def load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read an `.npz` file; TensorError if it is none or holds Python objects."""
    try:
        with path.open("rb") as file:
            return read_arrays(file, where=path.name)
    except OSError as error:
        raise TensorError(f"cannot be read: {reason_of(error)}", where=path.name) from error


def read_arrays(file: IO[bytes], *, where: str) -> dict[str, npt.NDArray[Any]]:
    """Read the `.npz` file that is open; TensorError, which names `where`, if it is none or holds Python objects."""
    try:
        if not zipfile.is_zipfile(file):
            raise TensorError("is not an .npz file", where=where)
        file.seek(0)
        return _load(file)
    except tokenize.TokenError as error:  # its words are another in every Python
        raise TensorError("is not an .npz file of arrays: the header of one is damaged", where=where) from error
    except _NPZ_FAULTS as error:
        raise TensorError(f"is not an .npz file of arrays: {error}", where=where) from error


def _load(file: IO[bytes]) -> dict[str, npt.NDArray[Any]]:
    with zipfile.ZipFile(file) as members:
        size_bytes = sum(member.file_size for member in members.infolist())
        odd = {member.compress_type for member in members.infolist()} - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
    if odd:
        raise ValueError(f"it has the compression {min(odd)}, which numpy does not write")
    if size_bytes > _MAX_BYTES:
        raise ValueError(f"it unpacks to {size_bytes} bytes; at most {_MAX_BYTES} are allowed")
    file.seek(0)
    with np.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    other = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if other:
        raise ValueError(f"`{other[0]}` is no array")
    return arrays


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write an `.npz` file; OutputError if it cannot be written."""
    replace_files({path: npz_bytes(arrays)})


def npz_bytes(arrays: Arrays) -> bytes:
    """Give the content of an `.npz` file, which depends on the arrays alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in sorted(arrays.items()):
            content = io.BytesIO()
            np.save(content, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy"), content.getvalue()
            )  # a ZipInfo of its own has the date 1980
    return buffer.getvalue()
