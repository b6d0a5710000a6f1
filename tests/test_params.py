from __future__ import annotations

import random
import struct
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlf.archive import open_archive
from mlf.errors import TensorError
from mlf.params import DTYPES, MAX_RANK, Param, param_from_array, parse_params, render_params

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

# Written by the compiler of `tests/real`: `tvm.runtime.save_param_dict` of dicts with one array `p0` or with what the
# names say. The arrays came from `tvm.nd.array`.
EMPTY = bytes.fromhex("b79c04054f8de5f7000000000000000000000000000000000000000000000000")
MATRIX = bytes.fromhex(
    "b79c04054f8de5f70000000000000000010000000000000002000000000000007030010000000000"
    "00003fa1b496f0405edd000000000000000001000000000000000200000000080100020000000000"
    "000003000000000000000600000000000000000102030405"
)
SCALAR_S = bytes.fromhex(
    "b79c04054f8de5f70000000000000000010000000000000001000000000000007301000000000000"
    "003fa1b496f0405edd00000000000000000100000000000000000000000220010004000000000000"
    "000000c03f"
)
NO_ELEMENTS_Z = bytes.fromhex(
    "b79c04054f8de5f70000000000000000010000000000000001000000000000007a01000000000000"
    "003fa1b496f0405edd00000000000000000100000000000000030000000010010002000000000000"
    "00000000000000000003000000000000000000000000000000"
)
THREE_WITH_AN_ACCENT = bytes.fromhex(
    "b79c04054f8de5f7000000000000000003000000000000000200000000000000c3a9010000000000"
    "00006101000000000000006203000000000000003fa1b496f0405edd000000000000000001000000"
    "00000000010000000008010001000000000000000100000000000000043fa1b496f0405edd000000"
    "0000000000010000000000000001000000010801000200000000000000020000000000000002033f"
    "a1b496f0405edd000000000000000001000000000000000100000000080100010000000000000001"
    "0000000000000001"
)
# The tensors alone, of the shape (1, 2), that the same function wrote of arrays from `tvm.nd.empty`, filled with bytes
# that count up from 1; those of `bool` are 0 and 1.
TENSORS = {
    "bool": "3fa1b496f0405edd00000000000000000100000000000000020000000101010001000000000000000200000000000000"
    "02000000000000000001",
    "int4": "3fa1b496f0405edd00000000000000000100000000000000020000000004010001000000000000000200000000000000"
    "02000000000000000102",
    "int8": "3fa1b496f0405edd00000000000000000100000000000000020000000008010001000000000000000200000000000000"
    "02000000000000000102",
    "int16": "3fa1b496f0405edd00000000000000000100000000000000020000000010010001000000000000000200000000000000"
    "040000000000000001020304",
    "int32": "3fa1b496f0405edd00000000000000000100000000000000020000000020010001000000000000000200000000000000"
    "08000000000000000102030405060708",
    "int64": "3fa1b496f0405edd00000000000000000100000000000000020000000040010001000000000000000200000000000000"
    "10000000000000000102030405060708090a0b0c0d0e0f10",
    "uint4": "3fa1b496f0405edd00000000000000000100000000000000020000000104010001000000000000000200000000000000"
    "02000000000000000102",
    "uint8": "3fa1b496f0405edd00000000000000000100000000000000020000000108010001000000000000000200000000000000"
    "02000000000000000102",
    "uint16": "3fa1b496f0405edd00000000000000000100000000000000020000000110010001000000000000000200000000000000"
    "040000000000000001020304",
    "uint32": "3fa1b496f0405edd00000000000000000100000000000000020000000120010001000000000000000200000000000000"
    "08000000000000000102030405060708",
    "uint64": "3fa1b496f0405edd00000000000000000100000000000000020000000140010001000000000000000200000000000000"
    "10000000000000000102030405060708090a0b0c0d0e0f10",
    "float16": "3fa1b496f0405edd00000000000000000100000000000000020000000210010001000000000000000200000000000000"
    "040000000000000001020304",
    "float32": "3fa1b496f0405edd00000000000000000100000000000000020000000220010001000000000000000200000000000000"
    "08000000000000000102030405060708",
    "float64": "3fa1b496f0405edd00000000000000000100000000000000020000000240010001000000000000000200000000000000"
    "10000000000000000102030405060708090a0b0c0d0e0f10",
    "bfloat16": "3fa1b496f0405edd00000000000000000100000000000000020000000410010001000000000000000200000000000000"
    "040000000000000001020304",
    "e4m3_float8": "3fa1b496f0405edd00000000000000000100000000000000020000000608010001000000000000000200000000000000"
    "02000000000000000102",
    "e5m2_float8": "3fa1b496f0405edd00000000000000000100000000000000020000000708010001000000000000000200000000000000"
    "02000000000000000102",
}
FILES = {dtype: MATRIX[:42] + bytes.fromhex(tensor) for dtype, tensor in TENSORS.items()}
RAW_STORAGE = {
    "int4": "int8", "uint4": "uint8", "bfloat16": "uint16", "e4m3_float8": "uint8", "e5m2_float8": "uint8",
}  # fmt: skip
NUMPYS_DTYPES = sorted(set(DTYPES) - set(RAW_STORAGE))
NUMPYS_WORDS = (
    "`bool`, `int8`, `int16`, `int32`, `int64`, `uint8`, `uint16`, `uint32`, `uint64`, `float16`, `float32`, `float64`"
)
ALL_WORDS = (
    "`bool`, `int4`, `int8`, `int16`, `int32`, `int64`, `uint4`, `uint8`, `uint16`, `uint32`, `uint64`, `float16`, "
    "`float32`, `float64`, `bfloat16`, `e4m3_float8`, `e5m2_float8`"
)
# Places in MATRIX.
RESERVED, COUNT, NAME_LENGTH, SECOND_COUNT, TENSOR, DEVICE, RANK, DTYPE, EXTENTS, SIZE = (
    8, 16, 24, 34, 42, 58, 66, 70, 74, 90,
)  # fmt: skip


def patched(offset: int, layout: str, *values: int, base: bytes = MATRIX) -> bytes:
    content = bytearray(base)
    struct.pack_into(f"<{layout}", content, offset, *values)
    return bytes(content)


def refusal(data: bytes) -> str:
    with pytest.raises(TensorError) as caught:
        parse_params(data, where="m.params")
    assert caught.value.where == "m.params"
    return caught.value.message


def render_refusal(*params: Param) -> str:
    with pytest.raises(TensorError) as caught:
        render_params(params)
    return caught.value.message


def param(name: str, dtype: str, array: npt.NDArray[Any]) -> Param:
    return Param(name=name, dtype=dtype, array=array)


def int8_param(name: str, value: int = 0) -> Param:
    return param_from_array(name, np.array([value], np.int8))


def fields(params: tuple[Param, ...]) -> list[tuple[str, str, np.dtype[Any], tuple[int, ...], bytes]]:
    return [(item.name, item.dtype, item.array.dtype, item.array.shape, item.array.tobytes()) for item in params]


def test_tvms_empty_list_is_read_and_written() -> None:
    assert parse_params(EMPTY, where="m.params") == ()
    assert render_params(()) == EMPTY


def test_tvms_matrix_is_read_and_written() -> None:
    matrix = np.array([[0, 1, 2], [3, 4, 5]], np.int8)

    assert fields(parse_params(MATRIX, where="m.params")) == [("p0", "int8", matrix.dtype, (2, 3), bytes(range(6)))]
    assert render_params([param_from_array("p0", matrix)]) == MATRIX


def test_tvms_scalar_is_read_and_written() -> None:
    (scalar,) = parse_params(SCALAR_S, where="m.params")

    assert (scalar.name, scalar.dtype, scalar.array.shape, scalar.array.item()) == ("s", "float32", (), 1.5)
    assert render_params([param_from_array("s", np.array(1.5, np.float32))]) == SCALAR_S


def test_tvms_tensor_without_elements_is_read_and_written() -> None:
    (nothing,) = parse_params(NO_ELEMENTS_Z, where="m.params")

    assert (nothing.name, nothing.dtype, nothing.array.shape) == ("z", "int16", (2, 0, 3))
    assert render_params([param_from_array("z", np.zeros((2, 0, 3), np.int16))]) == NO_ELEMENTS_Z


def test_file_order_is_kept() -> None:
    arrays = {"é": np.array([4], np.int8), "a": np.array([2, 3], np.uint8), "b": np.array([1], np.int8)}

    assert [item.name for item in parse_params(THREE_WITH_AN_ACCENT, where="m.params")] == list(arrays)
    assert render_params([param_from_array(*item) for item in arrays.items()]) == THREE_WITH_AN_ACCENT


def test_tvm_files_cover_every_dtype() -> None:
    assert set(TENSORS) == set(DTYPES)


@pytest.mark.parametrize("dtype", TENSORS)
def test_tvms_tensor_of_every_dtype_is_read(dtype: str) -> None:
    storage = np.dtype(RAW_STORAGE.get(dtype, dtype)).newbyteorder("<")
    content = b"\x00\x01" if dtype == "bool" else bytes(range(1, 1 + 2 * storage.itemsize))

    assert fields(parse_params(FILES[dtype], where="m.params")) == [("p0", dtype, storage, (1, 2), content)]


@pytest.mark.parametrize("dtype", TENSORS)
def test_every_dtype_is_written_as_tvm_writes_it(dtype: str) -> None:
    storage = RAW_STORAGE.get(dtype, dtype)
    content = b"\x00\x01" if dtype == "bool" else bytes(range(1, 1 + 2 * np.dtype(storage).itemsize))
    array = np.frombuffer(content, np.dtype(storage).newbyteorder("<")).reshape(1, 2)

    assert render_params([param("p0", dtype, array)]) == FILES[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_element_is_as_large_as_its_storage(dtype: str) -> None:
    assert DTYPES[dtype].size_bytes == len(FILES[dtype][SIZE + 8 :]) // 2


@pytest.mark.parametrize(("later", "word"), [("float8_e4m3fn", "e4m3_float8"), ("float8_e5m2", "e5m2_float8")])
def test_later_words_for_float8_are_written_too(later: str, word: str) -> None:
    assert render_params([param("p0", later, np.array([[1, 2]], np.uint8))]) == FILES[word]


def real_files(folder: Path) -> dict[str, bytes]:
    files = {}
    for path in sorted(folder.glob("*.tar")):
        with open_archive(path) as archive:
            names = [member.name for member in archive.members if member.name.endswith(".params")]
            files.update({f"{path.stem}/{name}": archive.read(name) for name in names})
    return files


def test_files_of_real_archives_are_written_again_byte_for_byte(real_archives: Path) -> None:
    files = real_files(real_archives)

    assert {name: render_params(parse_params(data, where=name)) for name, data in files.items()} == files
    assert len(files) >= 30


def test_weights_of_a_real_archive_are_read(real_archives: Path) -> None:
    (weights,) = parse_params(real_files(real_archives)["dense-graph/parameters/default.params"], where="m.params")

    assert (weights.name, weights.dtype, weights.array.shape) == ("p0", "float32", (1, 8, 4))
    assert np.isfinite(weights.array).all()
    assert len(np.unique(weights.array)) > 16


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "list: signature at byte 0 takes 16 bytes, but 0 are left"),
        (MATRIX[:15], "list: signature at byte 0 takes 16 bytes, but 15 are left"),
        (b"\x80" + MATRIX[1:], "list: magic number at byte 0 is `0xf7e58d4f05049c80`, expected `0xf7e58d4f05049cb7`"),
        (patched(RESERVED, "Q", 1), "list: reserved field at byte 8 is `0x1`, expected `0x0`"),
        (MATRIX[:20], "list: count of names at byte 16 takes 8 bytes, but 4 are left"),
        (patched(COUNT, "Q", 2), "list: count of names at byte 16 is 2, but the bytes left hold at most 1"),
        (
            patched(COUNT, "Q", 1 << 60),
            f"list: count of names at byte 16 is {1 << 60}, but the bytes left hold at most 1",
        ),
        (patched(COUNT, "Q", 0)[:32], "list: count of tensors at byte 24 is 2, expected 0 as of names"),
        (EMPTY[:30], "list: count of tensors at byte 24 takes 8 bytes, but 6 are left"),
        (patched(NAME_LENGTH, "Q", 73), "name 0 at byte 32 takes 73 bytes, but 72 are left"),
        (patched(NAME_LENGTH, "Q", (1 << 64) - 1), f"name 0 at byte 32 takes {(1 << 64) - 1} bytes, but 72 are left"),
        (patched(SECOND_COUNT, "Q", 2), "list: count of tensors at byte 34 is 2, expected 1 as of names"),
        (patched(TENSOR, "Q", 7), "parameter 'p0': magic number at byte 42 is `0x7`, expected `0xdd5e40f096b4a13f`"),
        (patched(TENSOR + 8, "Q", 3), "parameter 'p0': reserved field at byte 50 is `0x3`, expected `0x0`"),
        (patched(DEVICE, "ii", 2, 0), "parameter 'p0': device is (2, 0), expected (1, 0), the CPU"),
        (patched(DEVICE, "ii", 1, -1), "parameter 'p0': device is (1, -1), expected (1, 0), the CPU"),
        (patched(RANK, "i", 33), "parameter 'p0': rank is 33, expected 0 to 32"),
        (patched(RANK, "i", -1), "parameter 'p0': rank is -1, expected 0 to 32"),
        (patched(RANK, "i", 5), "parameter 'p0': shape at byte 74 takes 40 bytes, but 30 are left"),
        (MATRIX[:85], "parameter 'p0': shape at byte 74 takes 16 bytes, but 11 are left"),
        (patched(EXTENTS, "qq", -2, -3), "parameter 'p0': shape is (-2, -3), expected no negative extent"),
        (
            patched(EXTENTS, "qq", 0, 1 << 62, base=FILES["int16"]),
            f"parameter 'p0': shape is (0, {1 << 62}), which no memory could hold",
        ),
        (patched(EXTENTS, "qq", 2, 4), "parameter 'p0': size at byte 90 is 6 bytes, expected 8 for (2, 4) of `int8`"),
        (patched(SIZE, "q", -1), "parameter 'p0': size at byte 90 is -1 bytes, expected 6 for (2, 3) of `int8`"),
        (MATRIX[:95], "parameter 'p0': size at byte 90 takes 8 bytes, but 5 are left"),
        (MATRIX[:-1], "parameter 'p0': data at byte 98 takes 6 bytes, but 5 are left"),
        (MATRIX + b"\0\0", "2 bytes follow the last parameter at byte 104, expected none"),
        (FILES["bool"][:-1] + b"\2", "parameter 'p0': holds a `bool` that is neither 0 nor 1"),
    ],
)
def test_a_fault_is_refused_with_its_place(data: bytes, message: str) -> None:
    assert refusal(data) == message


@pytest.mark.parametrize(
    ("code", "bits", "lanes", "found"),
    [
        (5, 64, 1, "`complex64` (code 5, bits 64, lanes 1)"),
        (3, 64, 1, "`handle64` (code 3, bits 64, lanes 1)"),
        (0, 1, 1, "`int1` (code 0, bits 1, lanes 1)"),
        (0, 24, 1, "`int24` (code 0, bits 24, lanes 1)"),
        (4, 32, 1, "`bfloat32` (code 4, bits 32, lanes 1)"),
        (7, 16, 1, "`e5m2_float16` (code 7, bits 16, lanes 1)"),
        (10, 8, 1, "`custom8` (code 10, bits 8, lanes 1)"),
        (131, 8, 1, "`custom8` (code 131, bits 8, lanes 1)"),
        (0, 8, 4, "`int8x4` (code 0, bits 8, lanes 4)"),
        (0, 8, 0, "`int8x0` (code 0, bits 8, lanes 0)"),
    ],
)
def test_a_type_that_cannot_be_held_is_refused_by_name(code: int, bits: int, lanes: int, found: str) -> None:
    assert refusal(patched(DTYPE, "BBH", code, bits, lanes)) == (
        f"parameter 'p0': dtype is {found}, expected one of {ALL_WORDS}"
    )


def test_two_parameters_of_one_name_are_refused() -> None:
    twins = render_params([int8_param("p0"), int8_param("p1")]).replace(b"p1", b"p0")

    assert refusal(twins) == "parameter 'p0' occurs twice"


def test_a_name_in_a_message_is_short_and_printable() -> None:
    content = render_params([param("\x1b\udcff" + 100 * "n", "int8", np.array([], np.int8))])

    assert refusal(content[:-1]) == (
        "parameter '\\x1b\\udcff" + 78 * "n" + "': size at byte 182 takes 8 bytes, but 7 are left"
    )


@pytest.mark.parametrize("name", ["", "é", "a/b\n", 1000 * "x", "\udcff\udc80"])
def test_every_name_survives(name: str) -> None:
    content = render_params([int8_param(name)])

    assert name.encode("utf-8", "surrogateescape") == content[32:-57]
    assert [item.name for item in parse_params(content, where="m.params")] == [name]


def test_the_highest_rank_is_read_and_written() -> None:
    content = render_params([param_from_array("p0", np.ones((1,) * MAX_RANK, np.int8))])

    assert parse_params(content, where="m.params")[0].array.shape == (1,) * MAX_RANK


@pytest.mark.parametrize(
    "data",
    [
        patched(COUNT, "Q", 1 << 60),
        patched(NAME_LENGTH, "Q", 1 << 60),
        patched(RANK, "i", (1 << 31) - 1),
        patched(SIZE, "q", 1 << 60, base=patched(EXTENTS, "qq", 1 << 30, 1 << 30)),
        patched(EXTENTS, "qq", (1 << 63) - 1, (1 << 63) - 1),
    ],
)
def test_a_number_that_claims_much_costs_nothing(data: bytes) -> None:
    tracemalloc.start()
    try:
        refusal(data)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak_bytes < 200_000


def test_arrays_are_views_of_the_file() -> None:
    (item,) = parse_params(MATRIX, where="m.params")

    assert np.shares_memory(item.array, np.frombuffer(MATRIX, np.uint8))
    assert not item.array.flags.writeable


@pytest.mark.parametrize("dtype", NUMPYS_DTYPES)
def test_an_array_gives_its_own_dtype(dtype: str) -> None:
    assert param_from_array("p0", np.zeros(2, dtype)).dtype == dtype


def test_an_array_that_is_little_endian_is_not_copied() -> None:
    array = np.zeros(3, "<f4")

    assert np.shares_memory(param_from_array("p0", array).array, array)


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1, 2], [3, 4]], ">i4"),
        np.array([[1, 3], [2, 4]], "<i4").T,
        np.array([[1, 9, 2, 9], [3, 9, 4, 9]], "<i4")[:, ::2],
    ],
    ids=["big-endian", "transposed", "strided"],
)
def test_elements_are_written_little_endian_in_c_order(array: npt.NDArray[Any]) -> None:
    content = render_params([param("p0", "int32", array)])

    assert content[-16:] == struct.pack("<4i", 1, 2, 3, 4)
    assert render_params([param_from_array("p0", array)]) == content


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.zeros(1, "c8"), "complex64"),
        (np.array([None]), "object"),
        (np.array(["a"]), "<U1"),
        (np.zeros(1, "M8[s]"), "datetime64[s]"),
        (np.zeros(1, "V2"), "|V2"),
    ],
)
def test_an_array_that_tvm_has_no_word_for_is_refused(array: npt.NDArray[Any], dtype: str) -> None:
    with pytest.raises(TensorError) as caught:
        param_from_array("p0", array)

    assert str(caught.value) == f"parameter 'p0' is an array of `{dtype}`, expected one of {NUMPYS_WORDS}"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ([int8_param("a"), int8_param("a", 1)], "parameter 'a' occurs twice"),
        ([int8_param("é"), int8_param("\udcc3\udca9")], "parameter '\\udcc3\\udca9' occurs twice"),
        ([int8_param("\ud800")], "parameter '\\ud800' has a name that no bytes stand for"),
        (
            [param("a", "complex64", np.zeros(1, "c8"))],
            f"parameter 'a' has the dtype `complex64`, expected one of {ALL_WORDS}",
        ),
        (
            [param("a", "bfloat16", np.zeros(1, np.float32))],
            "parameter 'a' is an array of `float32`, expected `uint16` for `bfloat16`",
        ),
        ([param("a", "int8", np.array([None]))], "parameter 'a' is an array of `object`, expected `int8` for `int8`"),
        (
            [param("a", "bool", np.array([2], np.uint8).view(np.bool_))],
            "parameter 'a' holds a `bool` that is neither 0 nor 1",
        ),
    ],
)
def test_parameters_that_the_file_cannot_hold_are_refused(params: list[Param], message: str) -> None:
    assert render_refusal(*params) == message


def test_a_rank_that_the_reader_refuses_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlf.params.MAX_RANK", 2)  # numpy 1 cannot make an array of a rank that is too high

    message = render_refusal(param_from_array("a", np.zeros((1, 1, 1), np.int8)))

    assert message == "parameter 'a' has the rank 3, expected 0 to 2"


def test_parameters_are_compared_by_identity() -> None:
    first, second = int8_param("a"), int8_param("a")

    assert first == first  # noqa: PLR0124 - fields that are arrays would raise here
    assert first != second
    assert len({first, second}) == 2


def names() -> st.SearchStrategy[str]:
    return st.text(max_size=8) | st.binary(max_size=8).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


@st.composite
def parameters(draw: st.DrawFn) -> Param:
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=4)))
    size_bytes = int(np.prod(shape, dtype=int)) * DTYPES[dtype].size_bytes
    content = bytes(draw(st.binary(min_size=size_bytes, max_size=size_bytes)))
    if dtype == "bool":
        content = bytes(byte & 1 for byte in content)
    return param(draw(names()), dtype, np.frombuffer(content, DTYPES[dtype].storage).reshape(shape))


@settings(deadline=None, max_examples=300)
@given(st.lists(parameters(), max_size=5, unique_by=lambda item: item.name.encode("utf-8", "surrogateescape")))
def test_any_parameters_come_back_from_their_file(params: list[Param]) -> None:
    content = render_params(params)
    back = parse_params(content, where="m.params")

    assert fields(back) == fields(tuple(params))
    assert render_params(back) == content


def mutated(data: bytes, generator: random.Random) -> bytes:
    content = bytearray(data)
    for _ in range(generator.choice([1, 1, 1, 2, 4])):
        at = generator.randrange(len(content) + 1)
        match generator.randrange(5):
            case 0:
                content[at : at + 1] = generator.randbytes(1)
            case 1:
                layout = generator.choice("bhiq")
                value = generator.choice([-1, 0, 1, 2, 127, -128])
                content[at : at + struct.calcsize(f"<{layout}")] = struct.pack(f"<{layout}", value)
            case 2:
                content[at : at + 8] = struct.pack("<Q", 1 << generator.randrange(64))
            case 3:
                del content[at : at + generator.choice([1, 8, len(content)])]
            case _:
                start = generator.randrange(len(content) + 1)
                content[at:at] = content[start : start + generator.choice([1, 8, 62])]
    return bytes(content)


def test_no_mutation_breaks_the_reader() -> None:
    generator = random.Random(20250311)  # noqa: S311 - the same mutations on every run
    seeds = [EMPTY, MATRIX, SCALAR_S, NO_ELEMENTS_Z, THREE_WITH_AN_ACCENT, *FILES.values()]
    accepted = 0
    for _ in range(20_000):
        data = mutated(generator.choice(seeds), generator)
        try:
            params = parse_params(data, where="m.params")
        except TensorError:
            continue
        assert render_params(params) == data
        accepted += 1

    assert 500 < accepted < 10_000
