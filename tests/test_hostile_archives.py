"""Archives that attack their reader, one test for each way: what is refused, and with which words.

Beside them stands an archive that a compiler wrote, byte for byte: the strictness must not refuse that one.
"""

from __future__ import annotations

import gzip
import time
from typing import TYPE_CHECKING

import pytest
import zstandard
from fuzz import BLOCK, DATA, END, GNU, header, listed_by_tarfile, member, pax, record, signed, stdlib_tar

from mlf.archive import Limits, open_archive
from mlf.errors import MlfError
from mlf.reading import read_modules

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import TypeAlias

    Refuses: TypeAlias = Callable[[bytes], str]

PAX_KEYS = "`path`, `mtime`, `atime`, `ctime`, `uid`, `gid`, `uname`, `gname`"


def refusal(path: Path, data: bytes, limits: Limits | None = None) -> str:
    """Give the message with which the model in an archive of these bytes is refused."""
    path.write_bytes(data)
    with pytest.raises(MlfError) as caught, open_archive(path, limits=limits or Limits()) as archive:
        read_modules(archive)
    return str(caught.value)


@pytest.fixture
def refuses(tmp_path: Path) -> Refuses:
    return lambda data: refusal(tmp_path / "kws.tar", data)


# Names that leave the archive, or are not the same on every file system.


@pytest.mark.parametrize("name", ["..", "../x", "a/../b", "./../x", "a/.."])
def test_read_refuses_parent_path(refuses: Refuses, name: str) -> None:
    assert refuses(member(name.encode()) + END) == f"kws.tar: member '{name.removeprefix('./')}' leaves the archive"


def test_read_refuses_absolute_path(refuses: Refuses) -> None:
    assert refuses(member(b"/etc/passwd") + END) == "kws.tar: member '/etc/passwd' has an absolute name"
    assert refuses(member(b".//etc") + END) == "kws.tar: member '/etc' has an absolute name"


def test_read_refuses_backslash(refuses: Refuses) -> None:
    assert refuses(member(rb"..\x") + END) == r"kws.tar: member '..\\x' has a backslash in its name"


def test_read_refuses_drive(refuses: Refuses) -> None:
    assert refuses(member(b"C:/x") + END) == "kws.tar: member 'C:/x' names a drive"


@pytest.mark.parametrize("name", ["aux.c", "src/NUL", "con/x", "com1.tar.gz", "lpt9 .c"])
def test_read_refuses_windows_device_name(refuses: Refuses, name: str) -> None:
    assert refuses(member(name.encode()) + END) == f"kws.tar: member '{name}' has the name of a Windows device"


def test_read_refuses_control_character(refuses: Refuses) -> None:
    assert refuses(member(b"a\nb") + END) == r"kws.tar: member 'a\nb' has a control character in its name"
    assert refuses(member(b"a\x7f") + END) == r"kws.tar: member 'a\x7f' has a control character in its name"


def test_read_refuses_duplicate(refuses: Refuses) -> None:
    assert refuses(member(b"m", b"1") + member(b"x") + member(b"m", b"2") + END) == "kws.tar: member 'm' occurs twice"
    assert refuses(member(b"d/", kind=b"5") + member(b"d", kind=b"5") + END) == "kws.tar: member 'd' occurs twice"


def test_read_refuses_duplicate_after_dot_slash(refuses: Refuses) -> None:
    assert refuses(member(b"m") + member(b"./m") + END) == "kws.tar: member 'm' occurs twice"


def test_read_refuses_case_clash(refuses: Refuses) -> None:
    assert refuses(member(b"M") + member(b"m") + END) == "kws.tar: members 'M' and 'm' differ only in case"
    assert refuses(member(b"src/a") + member(b"Src/b") + END) == (
        "kws.tar: members 'src/a' and 'Src/b' differ only in case"
    )


def test_read_refuses_file_as_directory(refuses: Refuses) -> None:
    message = "kws.tar: member 'a' is both a file and a directory"

    assert refuses(member(b"a/b") + member(b"a+") + member(b"a") + END) == message
    assert refuses(member(b"a") + member(b"a/", kind=b"5") + END) == message


# Members that are no plain files, and records that change what a header says.


def refused_kind(what: str) -> str:
    return f"kws.tar: member 'm' is {what}; only files and directories are allowed"


def test_read_refuses_symlink(refuses: Refuses) -> None:
    assert refuses(member(b"m", kind=b"2", linkname=b"/etc") + END) == refused_kind("a symbolic link")


def test_read_refuses_hardlink(refuses: Refuses) -> None:
    assert refuses(member(b"m", kind=b"1", linkname=b"x") + END) == refused_kind("a hard link")


def test_read_refuses_device(refuses: Refuses) -> None:
    assert refuses(member(b"m", kind=b"3") + END) == refused_kind("a character device")
    assert refuses(member(b"m", kind=b"4") + END) == refused_kind("a block device")


def test_read_refuses_fifo(refuses: Refuses) -> None:
    assert refuses(member(b"m", kind=b"6") + END) == refused_kind("a FIFO")


def test_read_refuses_sparse(refuses: Refuses) -> None:
    assert refuses(member(b"m", kind=b"S", magic=GNU) + END) == refused_kind("a sparse file")
    assert refuses(member(b"h", record(b"GNU.sparse.major", b"1"), b"x") + member(b"m") + END) == (
        f"kws.tar: pax header at byte 0 has a record 'GNU.sparse.major', expected one of {PAX_KEYS}"
    )


def test_read_refuses_gnu_long_name(refuses: Refuses) -> None:
    for kind, what in ((b"L", "a GNU long name"), (b"K", "a GNU long link name")):
        data = member(b"m", b"long\0", kind, magic=GNU) + member(b"n") + END
        assert refuses(data) == refused_kind(what)


def test_read_refuses_pax_size(refuses: Refuses) -> None:
    assert refuses(pax(size=b"1") + member(b"m") + END) == (
        f"kws.tar: pax header at byte 0 has a record 'size', expected one of {PAX_KEYS}"
    )


def test_read_refuses_global_pax(refuses: Refuses) -> None:
    assert refuses(member(b"m", record(b"path", b"x"), b"g") + END) == refused_kind("a global pax header")


# Structure that readers take in different ways.


def test_read_refuses_bad_checksum(refuses: Refuses) -> None:
    data = header(b"m", checksum=b"0000001\0") + END

    assert refuses(data) == "kws.tar: header at byte 0 has the checksum 1, expected 1946"


def test_read_refuses_base256_size(refuses: Refuses) -> None:
    message = "kws.tar: member 'm' has a base-256 number in its `size` field, expected octal"

    for size in (b"\x80" + bytes(9) + b"\x04\0", b"\xff" * 12):
        block = header(b"m")
        assert refuses(signed(block[:124] + size + block[136:]) + END) == message


def test_read_refuses_the_archive_that_hangs_tarfile(refuses: Refuses) -> None:
    data = (DATA / "hang.tar").read_bytes()
    start = time.process_time()

    assert refuses(data) == (
        f"kws.tar: pax header at byte 0 has a record 'GNU.sparse.major', expected one of {PAX_KEYS}"
    )
    assert refuses(data[2 * BLOCK :]) == (
        "kws.tar: member 'f' has a base-256 number in its `size` field, expected octal"
    )
    assert time.process_time() - start < 0.5


def test_read_refuses_truncated_member(refuses: Refuses) -> None:
    data = member(b"a") + member(b"m", b"x" * 600)

    assert refuses(data[:-1]) == "kws.tar: member 'm' is truncated: 1023 bytes are left of 1024"
    assert refuses(data[: 3 * BLOCK]) == "kws.tar: member 'm' is truncated: 512 bytes are left of 1024"
    assert refuses(header(b"m", 8**11 - 1) + END) == (
        "kws.tar: member 'm' is truncated: 1024 bytes are left of 8589934592"
    )


def test_read_refuses_nonzero_padding(refuses: Refuses) -> None:
    data = header(b"m", 3) + b"abc" + b"\0" * 508 + b"!"

    assert refuses(data + END) == "kws.tar: member 'm' has padding that is not zero"


def test_read_refuses_trailing_data(refuses: Refuses) -> None:
    assert refuses(member(b"m") + bytes(9000) + b"x") == "kws.tar: has data after its end marker, at byte 9512"
    assert (
        refuses(member(b"m") + bytes(BLOCK) + b"\n") == "kws.tar: is truncated: it ends at byte 1025 in its end marker"
    )


def test_read_refuses_second_archive(refuses: Refuses) -> None:
    tar = member(b"m") + END

    assert refuses(tar + tar) == "kws.tar: has data after its end marker, at byte 1536"


@pytest.mark.parametrize("junk", [b"\0", b"junk", b"x" * 5000, gzip.compress(b"", mtime=0)])
def test_read_refuses_gzip_trailing(refuses: Refuses, junk: bytes) -> None:
    assert refuses(gzip.compress(END) + junk) == "kws.tar: has data after the end of its compressed data"


@pytest.mark.parametrize("junk", [b"\0", b"junk", b"x" * 5000, zstandard.compress(b""), b"\x50\x2a\x4d\x18\0\0\0\0"])
def test_read_refuses_zstd_trailing(refuses: Refuses, junk: bytes) -> None:
    assert refuses(zstandard.compress(END) + junk) == "kws.tar: has data after the end of its compressed data"


# More than a model can need.


def is_refused_as_a_bomb(refuses: Refuses, bomb: bytes) -> None:
    start = time.process_time()

    assert refuses(bomb) == (f"kws.tar: unpacks to more than 16777216 bytes, the limit for {len(bomb)} compressed ones")
    assert time.process_time() - start < 1


def test_read_refuses_zstd_bomb(refuses: Refuses) -> None:
    compressor = zstandard.ZstdCompressor(level=1).compressobj(size=1 << 28)
    bomb = b"".join([*(compressor.compress(bytes(1 << 20)) for _ in range(1 << 8)), compressor.flush()])

    is_refused_as_a_bomb(refuses, bomb)


def test_read_refuses_gzip_bomb(refuses: Refuses) -> None:
    is_refused_as_a_bomb(refuses, gzip.compress(bytes(64 << 20)))


def test_read_refuses_big_window(refuses: Refuses) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = compressor.compress(END) + compressor.flush()

    assert refuses(data) == "kws.tar: needs a zstd window of 268435456 bytes; at most 134217728 are allowed"


def test_read_refuses_too_many_members(tmp_path: Path) -> None:
    path = tmp_path / "kws.tar"
    data = member(b"./", kind=b"5") + member(b"d/", kind=b"5") + member(b"a") + member(b"b") + END

    assert refusal(path, data, Limits(member_count=2)) == "kws.tar: has more than 2 members"
    assert len(open_archive(path, limits=Limits(member_count=3)).members) == 2


def test_read_refuses_metadata_too_large(tmp_path: Path) -> None:
    path = tmp_path / "kws.tar"
    data = member(b"./metadata.json", b"12345") + END

    assert refusal(path, data, Limits(metadata_bytes=4)) == (
        "kws.tar: member 'metadata.json' has 5 bytes; at most 4 are allowed"
    )
    assert len(open_archive(path, limits=Limits(metadata_bytes=5)).members) == 1


# Metadata that parsers read in different ways.


def test_read_refuses_duplicate_json_key(refuses: Refuses) -> None:
    assert refuses(stdlib_tar({"metadata.json": b'{"version": 7, "a": {"b": 1, "b": 1}}'})) == (
        "kws.tar: metadata.json: key 'b' is given twice in one object"
    )


def test_read_refuses_nan(refuses: Refuses) -> None:
    assert refuses(stdlib_tar({"metadata.json": b'{"version": NaN}'})) == (
        "kws.tar: metadata.json: has the number `NaN`, which is not JSON"
    )


# What all of this must not refuse.


def test_read_accepts_tvm_archive() -> None:
    path = DATA / "tvm-0.16-dense.tar"

    with open_archive(path) as archive:
        contents = [(item.name, archive.read(item.name)) for item in archive.members]
        modules = read_modules(archive)

    assert [name for name, _ in contents] == [
        "codegen/host/include/tvmgen_default.h",
        "codegen/host/src/default_lib0.c",
        "codegen/host/src/default_lib1.c",
        "metadata.json",
        "parameters/default.params",
        "runtime/include/dlpack/dlpack.h",
        "runtime/include/tvm/runtime/c_backend_api.h",
        "runtime/include/tvm/runtime/c_runtime_api.h",
        "src/default.relay",
        "templates/crt_config.h.template",
        "templates/platform.c.template",
    ]
    assert contents == listed_by_tarfile(path.read_bytes())
    assert [(module.name, module.version) for module in modules] == [("default", 7)]
    (module,) = modules
    assert [(tensor.name, tensor.dtype, tensor.size_bytes) for tensor in (*module.inputs, *module.outputs)] == [
        ("x", "float32", 32),
        ("a", "float32", 32),
        ("output", "float32", 16),
    ]
