from __future__ import annotations

import gzip
import io
import json
import os
import random
import resource
import socket
import subprocess
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
import zstandard
from fuzz import BLOCK, END, FIELDS, GNU, header, member, pax, record, signed, stdlib_tar
from hypothesis import given, settings
from hypothesis import strategies as st

from mlf.archive import Archive, Limits, Member, open_archive
from mlf.errors import ArchiveError, MetadataError, OutputError
from mlf.strictjson import load_json
from mlf.ustar import UstarEntry, iterate_ustar

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Refuses: TypeAlias = Callable[[bytes], str]

NOT_TAR = "is neither a tar archive nor one compressed with gzip or zstd"
BAD_CHARACTER = "has a character in its name other than letters, digits, space and `_+@.,=~-`"


def written(folder: Path, data: bytes, name: str = "kws.tar") -> Path:
    path = folder / name
    path.unlink(missing_ok=True)  # a file that is truncated and written again is flushed to the disk by some systems
    path.write_bytes(data)
    return path


def refusal(path: Path, limits: Limits | None = None) -> str:
    with pytest.raises(ArchiveError) as caught:
        open_archive(path, limits=limits or Limits())
    return str(caught.value)


def contents(archive: Archive) -> dict[str, bytes]:
    with archive:
        return {member.name: archive.read(member.name) for member in archive.members}


def names(path: Path, limits: Limits) -> list[str]:
    with open_archive(path, limits=limits) as archive:
        return [member.name for member in archive.members]


@pytest.fixture
def refuses(tmp_path: Path) -> Refuses:
    """Give the message with which a tar of these bytes is refused."""
    return lambda data: refusal(written(tmp_path, data))


MODEL = {
    "codegen/host/include/tvmgen_default.h": b"#pragma once\n",
    "codegen/host/src/default_lib0.c": b"int x;\n" * 200,
    "executor-config/graph/default.graph": b"{}",
    "metadata.json": b'{"version": 7}',
    "parameters/default.params": bytes(range(256)) * 4,
    "src/default.relay": b"",
}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_read_accepts_every_form_that_tarfile_writes(tmp_path: Path, form: Literal[0, 1, 2]) -> None:
    path = written(tmp_path, stdlib_tar(MODEL, form=form, mtime=1669891200.25, root="./"))

    archive = open_archive(path)

    assert archive.label == "kws.tar"
    assert archive.form == "tar"
    assert archive.members == tuple(Member(name=name, size_bytes=len(MODEL[name])) for name in sorted(MODEL))
    assert contents(archive) == MODEL


def test_read_accepts_what_gnu_tar_writes(tmp_path: Path) -> None:
    unpack(MODEL, tmp_path / "kws")
    for form in ("ustar", "gnu"):
        path = tmp_path / f"{form}.tar"
        subprocess.run(["tar", f"--format={form}", "-cf", path, "-C", tmp_path / "kws", "."], check=True)

        assert contents(open_archive(path)) == MODEL


def test_read_accepts_a_name_split_into_prefix_and_name(tmp_path: Path) -> None:
    data = member(b"b.c", b"int b;", prefix=b"./a/" + b"d" * 150)

    archive = open_archive(written(tmp_path, data + END))

    assert contents(archive) == {"a/" + "d" * 150 + "/b.c": b"int b;"}


def test_read_takes_the_path_of_a_pax_header(tmp_path: Path) -> None:
    long_name = "x" * 120 + ".c"
    data = pax(
        path=f"./{long_name}".encode(), mtime=b"1.5", atime=b"1", ctime=b"2", uid=b"4000000", uname="jos\u00e9".encode()
    ) + member(b"./x", b"long")

    archive = open_archive(written(tmp_path, data + member(b"y", b"next") + END))

    assert contents(archive) == {long_name: b"long", "y": b"next"}


@pytest.mark.parametrize("root", [b".", b"./"])
def test_read_accepts_the_entry_of_the_root(tmp_path: Path, root: bytes) -> None:
    assert contents(open_archive(written(tmp_path, member(root, kind=b"5") + member(b"./a") + END))) == {"a": b""}


def test_read_accepts_the_type_of_old_tar_files(tmp_path: Path) -> None:
    assert contents(open_archive(written(tmp_path, member(b"a", b"old", b"\0") + END))) == {"a": b"old"}


def test_read_accepts_hidden_files_and_spaces_inside_names(tmp_path: Path) -> None:
    files = {".clang-format": b"x", "src/my model v1.2.relay": b"y"}

    assert contents(open_archive(written(tmp_path, stdlib_tar(files)))) == files


def test_read_accepts_an_empty_tar(tmp_path: Path) -> None:
    assert open_archive(written(tmp_path, END)).members == ()


def test_read_accepts_a_zip_as_last_member(tmp_path: Path) -> None:
    files = {"tests/golden.npz": zipped()}

    assert contents(open_archive(written(tmp_path, stdlib_tar(files)))) == files


def zipped(comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", b"1")
        archive.comment = comment
    return buffer.getvalue()


class CountingFile(io.FileIO):
    count_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.count_bytes += len(data)
        return data


def test_read_does_not_read_payloads_to_list_them(tmp_path: Path) -> None:
    size = (200 << 20) - 1
    path = tmp_path / "kws.tar"
    with path.open("wb") as file:
        file.write(header(b"weights", size))
        file.truncate(BLOCK + size + 1 + len(END))

    assert open_archive(path).members == (Member(name="weights", size_bytes=size),)
    with CountingFile(path) as counting:
        entries = list(iterate_ustar(counting, label="kws.tar"))
    assert entries == [UstarEntry(name="weights", is_directory=False, offset=BLOCK, size_bytes=size)]
    assert counting.count_bytes == 2 * BLOCK + 1 + len(
        END
    )  # the header, the zero block after it, the padding, the end marker


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (b"", "kws.tar: member '' has an empty name"),
        (b"./", "kws.tar: member '' has an empty name"),
        (b"a//b", "kws.tar: member 'a//b' has an empty or `.` component in its name"),
        (b"a/", "kws.tar: member 'a/' has an empty or `.` component in its name"),
        (b"a/./b", "kws.tar: member 'a/./b' has an empty or `.` component in its name"),
        (b"././b", "kws.tar: member './b' has an empty or `.` component in its name"),
        (b" a", "kws.tar: member ' a' has a name component with a space at an end or a dot at its end"),
        (b"a /b", "kws.tar: member 'a /b' has a name component with a space at an end or a dot at its end"),
        (b"a./b", "kws.tar: member 'a./b' has a name component with a space at an end or a dot at its end"),
        (b"ab:c", f"kws.tar: member 'ab:c' {BAD_CHARACTER}"),
        (b"a*", f"kws.tar: member 'a*' {BAD_CHARACTER}"),
        ("é".encode(), f"kws.tar: member 'é' {BAD_CHARACTER}"),
        (b"\xff", rf"kws.tar: member '\udcff' {BAD_CHARACTER}"),
    ],
)
def test_read_refuses_name(refuses: Refuses, name: bytes, message: str) -> None:
    assert refuses(member(name) + END) == message


def test_read_refuses_long_name(refuses: Refuses) -> None:
    data = pax(path=b"n" * 256) + member(b"n") + END

    assert refuses(data) == f"kws.tar: member '{'n' * 255}' has a name of more than 255 bytes"


def refused_kind(what: str) -> str:
    return f"kws.tar: member 'm' is {what}; only files and directories are allowed"


def test_read_refuses_contiguous_file(refuses: Refuses) -> None:
    assert refuses(member(b"m", kind=b"7") + END) == refused_kind("a contiguous file")


def test_read_refuses_unknown_type(refuses: Refuses) -> None:
    assert refuses(member(b"m", kind=b"Z") + END) == refused_kind("of the type b'Z'")


def test_read_refuses_pax_linkpath(refuses: Refuses) -> None:
    assert refuses(member(b"a") + pax(linkpath=b"/etc") + member(b"m") + END) == (
        "kws.tar: pax header at byte 512 has a record 'linkpath', expected one of "
        "`path`, `mtime`, `atime`, `ctime`, `uid`, `gid`, `uname`, `gname`"
    )


def test_read_refuses_pax_record_twice(refuses: Refuses) -> None:
    data = member(b"h", record(b"path", b"a") + record(b"path", b"b"), b"x") + member(b"m") + END

    assert refuses(data) == "kws.tar: pax header at byte 0 has two records 'path'"


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"8 path=a\n",
        b"11 path=a\n",
        b"10 path=ab\n",
        b"010 path=a\n",
        b"7 path=\n",
        b"99999999 path=a\n",
        b"\0" * 9,
    ],
)
def test_read_refuses_malformed_pax_record(refuses: Refuses, data: bytes) -> None:
    message = "kws.tar: pax header at byte 0 has a malformed record"

    assert refuses(member(b"h", data, b"x") + member(b"m") + END) == message


def test_read_refuses_nul_in_pax_path(refuses: Refuses) -> None:
    assert refuses(pax(path=b"a\0b") + member(b"m") + END) == "kws.tar: pax header at byte 0 has a NUL in its `path`"


def test_read_refuses_empty_pax_path(refuses: Refuses) -> None:
    assert refuses(pax(path=b"") + member(b"m") + END) == "kws.tar: member '' has an empty name"


def test_read_refuses_large_pax_header(refuses: Refuses) -> None:
    data = pax(path=b"a" * 5000) + member(b"m") + END

    assert refuses(data) == "kws.tar: pax header at byte 0 has 5011 bytes; at most 4096 are allowed"


def test_read_refuses_pax_header_without_member(refuses: Refuses) -> None:
    message = "kws.tar: pax header at byte 0 describes no member"

    assert refuses(pax(mtime=b"1") + END) == message
    assert refuses(pax(mtime=b"1") + pax(mtime=b"1") + member(b"m") + END) == message


def test_read_refuses_gnu_extension_fields(refuses: Refuses) -> None:
    data = member(b"m", magic=GNU, prefix=b"evil") + END

    assert refuses(data) == "kws.tar: member 'm' has GNU extension fields in its header"


def test_read_refuses_directory_with_content(refuses: Refuses) -> None:
    data = member(b"d/", b"12345", b"5") + END

    assert refuses(data) == "kws.tar: directory 'd/' has 5 bytes of content, expected none"


@pytest.mark.parametrize("field", ["mode", "uid", "gid", "size", "mtime", "devmajor", "devminor", "checksum"])
@pytest.mark.parametrize("value", [b"0000008", b"-000001", b"0x1", b"0o1", b"1_0", b"1 1", b"\t1", b"\0\x801"])
def test_read_refuses_non_octal_number(refuses: Refuses, field: str, value: bytes) -> None:
    raw = value.ljust(FIELDS[field][1] - FIELDS[field][0], b"\0")

    data = patched(header(b"m"), FIELDS[field][0], raw)

    assert (
        refuses((data if field == "checksum" else signed(data)) + END)
        == f"kws.tar: member 'm' has {raw!r} in its `{field}` field, expected octal"
    )


def patched(data: bytes, offset: int, value: bytes) -> bytes:
    return data[:offset] + value + data[offset + len(value) :]


def test_read_refuses_truncated_pax_header(refuses: Refuses) -> None:
    data = pax(path=b"n")[:-1]

    assert refuses(data) == "kws.tar: pax header at byte 0 is truncated: 511 bytes are left of 512"


def test_read_refuses_truncated_header(refuses: Refuses) -> None:
    data = member(b"a") + member(b"m")

    assert refuses(data[:-1]) == "kws.tar: is truncated: it ends at byte 1023 without an end marker"


def test_read_refuses_missing_end_marker(refuses: Refuses) -> None:
    assert refuses(member(b"m")) == "kws.tar: is truncated: it ends at byte 512 without an end marker"
    assert refuses(member(b"m") + bytes(BLOCK)) == "kws.tar: is truncated: it ends at byte 1024 in its end marker"


def test_read_refuses_header_without_magic(refuses: Refuses) -> None:
    data = member(b"a") + member(b"m", magic=b"") + END

    assert refuses(data) == "kws.tar: header at byte 512 is not a ustar header"


@pytest.mark.parametrize("data", [b"", b"hello", b"x" * 2000, b"BZh91AY&SY", header(b"m")[:511]])
def test_read_refuses_what_is_no_archive(refuses: Refuses, data: bytes) -> None:
    assert refuses(data) == f"kws.tar: {NOT_TAR}"


def test_read_refuses_zip(refuses: Refuses) -> None:
    tar = member(b"m") + END
    message = "kws.tar: is a zip archive, or can be read as one"

    assert refuses(zipped()) == message
    assert refuses(tar + zipped()) == message
    assert refuses(member(b"m", zipped(bytes(BLOCK - len(zipped()) + len(END)))[:BLOCK]) + END) == message
    assert refuses(zstandard.compress(tar) + b"\x50\x2a\x4d\x18\x16\0\0\0" + zipped()[-22:]) == message


def in_gzip(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def in_zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


PACKED: dict[str, Callable[[bytes], bytes]] = {"tar": bytes, "tar.gz": in_gzip, "tar.zst": in_zstd}


@pytest.mark.parametrize("form", PACKED)
def test_read_tells_the_form_by_content(tmp_path: Path, form: str) -> None:
    archive = open_archive(written(tmp_path, PACKED[form](stdlib_tar(MODEL)), "model.bin"))

    assert archive.form == form
    assert archive.label == "model.bin"
    assert contents(archive) == MODEL


def test_read_unpacks_to_the_disk_what_is_too_large_for_memory(tmp_path: Path) -> None:
    files = {"weights": random.Random(1).randbytes(9 << 20), "x": b"x"}  # noqa: S311 - not for secrets

    assert contents(open_archive(written(tmp_path, zstandard.compress(stdlib_tar(files))))) == files


def test_read_unpacks_without_holding_it_all_in_memory(tmp_path: Path) -> None:
    path = written(tmp_path, zstandard.compress(header(b"weights", 128 << 20) + bytes(128 << 20) + END))
    tracemalloc.start()
    try:
        with open_archive(path, limits=Limits(expansion_ratio=1 << 20)) as archive:
            assert "weights" in archive
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 100 << 20


def test_read_reports_a_full_disk(tmp_path: Path) -> None:
    tar = stdlib_tar({"weights": random.Random(2).randbytes(9 << 20)})  # noqa: S311 - not for secrets
    path = written(tmp_path, zstandard.compress(tar))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room_bytes in (1 << 20, len(tar) - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, hard))
        try:
            with pytest.raises(OutputError) as caught:
                open_archive(path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert str(caught.value) == "kws.tar: cannot be unpacked to a temporary file: file too large"


def test_read_refuses_trailing_data_wherever_the_compressed_data_ends(refuses: Refuses) -> None:
    noise = random.Random(3).randbytes(2 << 10)  # noqa: S311 - not for secrets
    for length in range(1000, 1030):
        assert refuses(gzip.compress(noise[:length]) + b"x") == (
            "kws.tar: has data after the end of its compressed data"
        )


@pytest.mark.parametrize("form", ["tar.gz", "tar.zst"])
def test_read_refuses_truncated_compressed_data(refuses: Refuses, form: str) -> None:
    data = PACKED[form](stdlib_tar(MODEL))

    assert refuses(data[:-1]) == "kws.tar: is truncated: its compressed data does not end"


@pytest.mark.parametrize("form", ["tar.gz", "tar.zst"])
def test_read_refuses_damaged_compressed_data(refuses: Refuses, form: str) -> None:
    data = PACKED[form](stdlib_tar(MODEL))
    position = len(data) - 6  # in the check sum of both

    assert refuses(patched(data, position, bytes([data[position] ^ 1]))) == (
        "kws.tar: is damaged: its compressed data cannot be decoded"
    )


def test_read_refuses_zstd_header_that_is_cut_off(refuses: Refuses) -> None:
    assert refuses(b"\x28\xb5\x2f\xfd") == "kws.tar: is damaged: its zstd header cannot be read"


def test_read_refuses_compressed_data_that_is_no_tar(refuses: Refuses) -> None:
    assert refuses(gzip.compress(gzip.compress(END))) == f"kws.tar: {NOT_TAR}"


def test_read_allows_more_to_larger_compressed_files(tmp_path: Path) -> None:
    data = zstandard.compress(stdlib_tar({"weights": bytes(20_000)}))
    path = written(tmp_path, data)
    limits = Limits(expansion_floor_bytes=0, expansion_ratio=30_720 // len(data))

    assert refusal(path, limits) == (
        f"kws.tar: unpacks to more than {limits.expansion_ratio * len(data)} bytes, "
        f"the limit for {len(data)} compressed ones"
    )
    assert "weights" in names(path, Limits(expansion_floor_bytes=30_720, expansion_ratio=1))
    assert "weights" in names(path, Limits(expansion_floor_bytes=0, expansion_ratio=1000))


def test_read_refuses_member_too_large(tmp_path: Path) -> None:
    path = written(tmp_path, member(b"m", b"12345") + END)

    assert refusal(path, Limits(member_bytes=4)) == "kws.tar: member 'm' has 5 bytes; at most 4 are allowed"


def test_read_refuses_archive_too_large(tmp_path: Path) -> None:
    path = written(tmp_path, member(b"m") + END)

    assert refusal(path, Limits(archive_bytes=1535)) == "kws.tar: has 1536 bytes; at most 1535 are allowed"


def test_read_refuses_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "kws.tar") == "kws.tar: no such file"


def test_read_refuses_path_below_a_file(tmp_path: Path) -> None:
    assert refusal(written(tmp_path, END) / "x.tar") == "x.tar: cannot be read: not a directory"


def test_read_refuses_to_wait_for_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "kws.tar")

    assert refusal(tmp_path / "kws.tar") == "kws.tar: is neither a regular file nor a directory"


def unpack(files: dict[str, bytes], root: Path) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_read_directory(tmp_path: Path) -> None:
    root = unpack(MODEL, tmp_path / "kws")
    (root / "empty").mkdir()

    archive = open_archive(Path(f"{root}/"))

    assert archive.label == "kws"
    assert archive.form == "directory"
    assert [member.name for member in archive.members] == sorted(MODEL)
    assert contents(archive) == MODEL


def test_read_directory_names_itself_when_given_as_a_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(unpack(MODEL, tmp_path / "kws"))

    assert open_archive(Path()).label == "kws"
    assert open_archive(Path("src/..")).label == "kws"


def test_read_directory_refuses_links(tmp_path: Path) -> None:
    root = unpack(MODEL, tmp_path / "kws")
    for target in ("metadata.json", "src", "nowhere"):
        link = root / "src" / "link"
        link.symlink_to(root / target)
        assert refusal(root) == "kws: member 'src/link' is a symbolic link; only files and directories are allowed"
        link.unlink()


def test_read_directory_refuses_special_files(tmp_path: Path) -> None:
    message = "kws: member 'x' is a device, FIFO or socket; only files and directories are allowed"
    root = tmp_path / "kws"
    root.mkdir()
    os.mkfifo(root / "x")
    assert refusal(root) == message
    (root / "x").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(root / "x"))
        assert refusal(root) == message


def test_read_directory_refuses_bad_names(tmp_path: Path) -> None:
    root = unpack({"src/a\\b": b""}, tmp_path / "kws")
    assert refusal(root) == r"kws: member 'src/a\\b' has a backslash in its name"

    root = unpack({"A/x": b"", "a/y": b""}, tmp_path / "vww")
    assert refusal(root) == "vww: members 'A' and 'a' differ only in case"

    root = unpack({os.fsdecode(b"\xff"): b""}, tmp_path / "ad")
    assert refusal(root) == rf"ad: member '\udcff' {BAD_CHARACTER}"


def test_read_directory_keeps_limits(tmp_path: Path) -> None:
    root = unpack({"d/a": b"12345", "d/b": b"1", "metadata.json": b"1"}, tmp_path / "kws")

    assert refusal(root, Limits(member_count=3)) == "kws: has more than 3 members"
    assert refusal(root, Limits(member_bytes=4)) == "kws: member 'd/a' has 5 bytes; at most 4 are allowed"
    assert refusal(root, Limits(metadata_bytes=0)) == ("kws: member 'metadata.json' has 1 bytes; at most 0 are allowed")
    assert refusal(root, Limits(archive_bytes=6)) == "kws: has more than 6 bytes in its members"
    assert len(open_archive(root, limits=Limits(member_count=4, member_bytes=5, archive_bytes=7)).members) == 3


def test_read_of_missing_member(tmp_path: Path) -> None:
    archive = open_archive(written(tmp_path, stdlib_tar(MODEL)))

    assert "metadata.json" in archive
    assert "./metadata.json" not in archive
    with pytest.raises(ArchiveError) as caught:
        archive.read("src")
    assert str(caught.value) == "kws.tar: has no member 'src'"


def test_read_text(tmp_path: Path) -> None:
    archive = open_archive(written(tmp_path, stdlib_tar({"bad": b"ab\xff", "good": "µ\r\n".encode()})))

    assert archive.read_text("good") == "µ\r\n"
    with pytest.raises(ArchiveError) as caught:
        archive.read_text("bad")
    assert str(caught.value) == "kws.tar: member 'bad' is not UTF-8 at byte 2"


def test_read_reports_a_file_that_shrinks_or_vanishes(tmp_path: Path) -> None:
    root = unpack({"a": b"12345"}, tmp_path / "kws")
    archive = open_archive(root)

    (root / "a").write_bytes(b"123")
    with pytest.raises(ArchiveError) as caught:
        archive.read("a")
    assert str(caught.value) == ("kws: member 'a' has shrunk since the archive was opened: 3 bytes are left of 5")
    (root / "a").unlink()
    with pytest.raises(ArchiveError) as caught:
        archive.read("a")
    assert str(caught.value) == "kws: member 'a' cannot be read: no such file or directory"


def refused_json(text: str) -> str:
    with pytest.raises(MetadataError) as caught:
        load_json(text, where="kws.tar: metadata.json")
    return str(caught.value).removeprefix("kws.tar: metadata.json: ")


def test_load_json() -> None:
    text = '{"a": [1, -2.5, true, null, "\\ud83d\\ude00"], "b": 18446744073709551615}'

    assert load_json(text, where="x") == {"a": [1, -2.5, True, None, "😀"], "b": 2**64 - 1}


def test_load_json_refuses_numbers_that_are_not_finite() -> None:
    assert refused_json("[-Infinity]") == "has the number `-Infinity`, which is not JSON"
    assert refused_json("1e999") == "has a number too large for a 64-bit float"


def test_load_json_refuses_byte_order_mark() -> None:
    assert refused_json("\ufeff{}") == "begins with a byte order mark"


def test_load_json_refuses_huge_integer() -> None:
    assert refused_json("-" + "9" * 100_000) == "has an integer of 100000 digits; at most 20 are allowed"


def test_load_json_refuses_deep_nesting() -> None:
    message = "is nested more than 64 levels deep"

    assert refused_json("[" * 65 + "]" * 65) == message
    assert refused_json('{"a":' * 65 + "1" + "}" * 65) == message
    assert refused_json("[" * 200_000) == message
    assert load_json("[" * 64 + "1" + "]" * 64, where="x")


def test_load_json_refuses_lone_surrogate() -> None:
    assert refused_json(r'{"\udc80": 1}') == "has a string with a lone surrogate, which is not Unicode text"


def test_load_json_says_where_the_fault_is() -> None:
    assert refused_json('{"a":\n  }') == "is not JSON: expecting value at line 2, column 3"


@settings(deadline=None)
@given(st.text(st.sampled_from('[]{}",:0189eE+-.\\ud \nNaN'), max_size=40))
def test_load_json_reads_as_the_standard_library_does_or_refuses(text: str) -> None:
    try:
        value = load_json(text, where="x")
    except MetadataError:
        return
    assert value == json.loads(text)


# Directories begin with `d` and files with `f`, so that no name is both; one case, so that none clash.
REST = r"[a-z0-9_.+@,=~ -]{0,20}[a-z0-9_+@,=~-]"
NAMES = st.from_regex(rf"(d{REST}/){{0,3}}f{REST}", fullmatch=True)


@settings(deadline=None, max_examples=60)
@given(
    files=st.dictionaries(NAMES, st.binary(max_size=1100), max_size=6),
    form=st.sampled_from(sorted(PACKED)),
    root=st.sampled_from(["", "./"]),
)
def test_read_gives_back_what_the_standard_library_wrote(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], form: str, root: str
) -> None:
    path = written(tmp_path_factory.mktemp("round"), PACKED[form](stdlib_tar(files, root=root)))

    assert contents(open_archive(path)) == files
