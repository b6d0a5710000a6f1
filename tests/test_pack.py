from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mlf.archive import open_archive
from mlf.errors import ArchiveError, OutputError
from mlf.pack import PORTABLE_NAME, PackedMember, member_of_archive, member_of_bytes, write_archive

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SAMPLES = Path(__file__).parent.parent / "samples"
TONE = SAMPLES / "tone.tar"
SUFFIXES = (".tar", ".tar.gz", ".tar.zst")
BLOCK = 512
RECORD = 10240
KILLS = 40
INTERRUPTS = 10
PROGRAM_SECONDS = 60  # a program that hangs must fail its test, not stop the run
INTERRUPTED = "error: interrupted; no output is half-written\n"
CANNOT_BE_REPLACED = "cannot be written: it is a directory or a device"
PORTABLE = (
    "names in version 8 have letters, digits and `_+@.-`, no dot at an end of a component, and no device of Windows"
)

# In the order of their bytes, but for metadata.json; `-` and `.` come before `/`, capitals before small letters. One member
# is empty, one fills its block, one has a name that takes both fields of a header.
LONG_NAME = f"src/{'d' * 90}/{'f' * 90}.c"
FILES = {
    "metadata.json": b'{"version": 8}\n',
    "README": b"read me\n",
    "codegen/host/src/default_lib0.c": b"int x;\n" * 512,
    "parameters/default.params": bytes(range(256)) * 5,
    "src-old/x": b"x",
    "src.txt": b"",
    LONG_NAME: b"int y;\n",
    "src/default.relay": b"r" * BLOCK,
    "zlast": b"z" * (BLOCK + 1),
}
FOLDERS = (
    "./", "./codegen/", "./codegen/host/", "./codegen/host/src/", "./parameters/", "./src-old/", "./src/", f"./src/{'d' * 90}/",
)  # fmt: skip


def drafted(files: Mapping[str, bytes]) -> list[PackedMember]:
    return [member_of_bytes(name, content) for name, content in files.items()]


def packed(path: Path, files: Mapping[str, bytes] = FILES, *, version: int = 8, epoch_s: int = 0) -> bytes:
    write_archive(path, drafted(files), version=version, epoch_s=epoch_s)
    return path.read_bytes()


def unpacked(data: bytes, suffix: str) -> bytes:
    """Take off the compression, by the standard library or by the reference decoder."""
    if suffix == ".tar":
        return data
    if suffix == ".tar.gz":
        return gzip.decompress(data)
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


def contents(path: Path) -> dict[str, bytes]:
    with open_archive(path) as archive:
        return {member.name: archive.read(member.name) for member in archive.members}


class Header(NamedTuple):
    """The fields of a ustar header, as they lie there."""

    name: bytes
    mode: bytes
    uid: bytes
    gid: bytes
    size: bytes
    mtime: bytes
    checksum: bytes
    kind: bytes
    linkname: bytes
    magic: bytes
    version: bytes
    uname: bytes
    gname: bytes
    devmajor: bytes
    devminor: bytes
    prefix: bytes
    rest: bytes


def parsed(data: bytes) -> tuple[list[tuple[Header, bytes]], bytes]:
    """Take a tar apart by the layout in POSIX alone: headers with their contents, and what is behind them."""
    entries = []
    offset = 0
    while any(block := data[offset : offset + BLOCK]):
        header = Header._make(struct.unpack("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12s", block))
        assert int(header.checksum[:6], 8) == sum(block[:148] + b" " * 8 + block[156:])
        start = offset + BLOCK
        size = int(header.size[:11], 8)
        offset = start + -(-size // BLOCK) * BLOCK
        entries.append((header, data[start : start + size]))
        assert not any(data[start + size : offset])
    return entries, data[offset:]


def name_of(header: Header) -> str:
    prefix, name = header.prefix.rstrip(b"\0"), header.name.rstrip(b"\0")
    return (prefix + b"/" + name if prefix else name).decode()


def file_header(name: str, size: int, *, epoch_s: int = 0) -> Header:
    """What the header of a file must be, byte by byte; only a long name takes the second field."""
    prefix, short = name.rsplit("/", 1) if len(name) > 100 else ("", name)
    fields = {
        "name": short.encode().ljust(100, b"\0"), "mode": b"0000644\0", "uid": b"0000000\0", "gid": b"0000000\0",
        "size": b"%011o\0" % size, "mtime": b"%011o\0" % epoch_s, "checksum": b" " * 8, "kind": b"0", "linkname": bytes(100),
        "magic": b"ustar\0", "version": b"00", "uname": bytes(32), "gname": bytes(32), "devmajor": bytes(8), "devminor": bytes(8),
        "prefix": prefix.encode().ljust(155, b"\0"), "rest": bytes(12),
    }  # fmt: skip
    fields["checksum"] = b"%06o\0 " % sum(b"".join(fields.values()))
    return Header(**fields)


@pytest.mark.parametrize("epoch_s", [0, 1_700_000_000])
def test_version_8_is_plain_ustar_of_regular_files_with_metadata_first(tmp_path: Path, epoch_s: int) -> None:
    entries, _ = parsed(packed(tmp_path / "a.tar", epoch_s=epoch_s))
    assert entries == [(file_header(name, len(FILES[name]), epoch_s=epoch_s), FILES[name]) for name in FILES]


@pytest.mark.parametrize("version", range(1, 8))
def test_an_older_version_names_every_folder_before_what_lies_in_it(tmp_path: Path, version: int) -> None:
    entries, _ = parsed(packed(tmp_path / "a.tar", version=version))
    files = {name_of(header): content for header, content in entries if header.kind == b"0"}
    folders = [name_of(header) for header, _ in entries if header.kind == b"5"]
    assert files == {f"./{name}": content for name, content in FILES.items()}
    assert list(files) == sorted(files, key=str.encode)
    assert sorted(folders) == sorted(FOLDERS)
    seen = {""}
    for header, _ in entries:
        parent = name_of(header).rstrip("/").rpartition("/")[0]
        assert not parent or f"{parent}/" in seen
        seen.add(name_of(header))


def test_an_older_version_has_no_owner_and_fixed_modes(tmp_path: Path) -> None:
    entries, _ = parsed(packed(tmp_path / "a.tar", version=7, epoch_s=5))
    modes = {header.kind: header.mode for header, _ in entries}
    assert modes == {b"0": b"0000644\0", b"5": b"0000755\0"}
    for header, _ in entries:
        assert (header.uid, header.gid, header.uname, header.gname) == (
            b"0000000\0",
            b"0000000\0",
            bytes(32),
            bytes(32),
        )
        assert header.mtime == b"%011o\0" % 5
        assert header.devmajor + header.devminor + header.linkname + header.rest == bytes(128)


@pytest.mark.parametrize("version", [7, 8])
@pytest.mark.parametrize("size", [0, 1, BLOCK, 7 * BLOCK, 17 * BLOCK - 1, 17 * BLOCK, 17 * BLOCK + 1, 3 * RECORD])
def test_a_tar_ends_with_two_zero_blocks_and_fills_its_record(tmp_path: Path, version: int, size: int) -> None:
    data = packed(tmp_path / "a.tar", {"metadata.json": b"x" * size}, version=version)
    tail = parsed(data)[1]
    assert len(data) % RECORD == 0
    assert 2 * BLOCK <= len(tail) < 2 * BLOCK + RECORD
    assert not any(tail)


def test_an_archive_without_members_is_an_empty_tar(tmp_path: Path) -> None:
    assert packed(tmp_path / "a.tar", {}) == packed(tmp_path / "b.tar", {}, version=7) == bytes(RECORD)


@pytest.mark.parametrize(("epoch_s", "kept"), [(-1, 0), (8**11 - 1, 8**11 - 1), (1 << 40, 8**11 - 1)])
def test_a_time_that_no_header_holds_becomes_the_nearest(tmp_path: Path, epoch_s: int, kept: int) -> None:
    entries, _ = parsed(packed(tmp_path / "a.tar", epoch_s=epoch_s))
    assert {int(header.mtime[:11], 8) for header, _ in entries} == {kept}


def gnu_listing(data: bytes, *options: str) -> list[str]:
    done = subprocess.run(
        ["tar", *options, "-f", "-"], input=data, stdout=subprocess.PIPE, check=True, env={"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"}
    )  # fmt: skip
    return done.stdout.decode().splitlines()


def gnu_line(name: str, *, is_folder: bool = False) -> str:
    size = 0 if is_folder else len(FILES[name.removeprefix("./")])
    mode = "drwxr-xr-x" if is_folder else "-rw-r--r--"
    return f"{mode} 0/0 {size} 2023-11-14 22:13 {name}"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("version", [7, 8])
def test_gnu_tar_lists_the_members_that_mlf_lists(tmp_path: Path, version: int, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    data = packed(path, version=version, epoch_s=1_700_000_000)
    data = data if suffix == ".tar.gz" else unpacked(data, suffix)  # GNU tar has zstd from another package
    gzipped = ("--gzip",) if suffix == ".tar.gz" else ()
    prefix = "./" if version == 7 else ""
    with open_archive(path) as archive:
        names = {prefix + member.name for member in archive.members}
    folders = set(FOLDERS) if version == 7 else set()

    plain = gnu_listing(data, "--list", *gzipped)
    detailed = [re.sub(" +", " ", line) for line in gnu_listing(data, "--list", "--verbose", *gzipped)]

    assert len(plain) == len(names | folders)
    assert set(plain) == names | folders
    assert detailed == [gnu_line(name, is_folder=name in folders) for name in plain]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("version", [7, 8])
def test_the_standard_library_reads_what_mlf_reads(tmp_path: Path, version: int, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    data = io.BytesIO(unpacked(packed(path, version=version), suffix))
    with tarfile.open(fileobj=data, mode="r:") as archive:
        entries = archive.getmembers()
        files = {item.name.removeprefix("./"): file.read() for item in entries if (file := archive.extractfile(item))}
    assert {entry.pax_headers == {} and entry.type in (tarfile.REGTYPE, tarfile.DIRTYPE) for entry in entries} == {True}
    assert files == contents(path) == FILES


@pytest.mark.parametrize("version", [7, 8])
def test_gnu_tar_unpacks_what_was_packed(tmp_path: Path, version: int) -> None:
    packed(tmp_path / "a.tar", version=version)
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "a.tar", "-C", tmp_path / "out"], check=True)
    assert contents(tmp_path / "out") == FILES


# The bytes of an archive are a promise: whatever Python, machine or release of mlf wrote them.
DIGESTS = {
    8: "5e9cfd2c0d04e0670aeea6d54091273611df06adb4b506dfc9ac5c3dd43e60c3",
    7: "a03594729c89e563e76b6144f3fa65ca34f3c60854f293d767aee91fe396ced0",
}


@pytest.mark.parametrize("version", DIGESTS)
def test_the_bytes_of_a_tar_are_those_that_every_python_writes(tmp_path: Path, version: int) -> None:
    data = packed(tmp_path / "a.tar", version=version, epoch_s=1_700_000_000)
    assert hashlib.sha256(data).hexdigest() == DIGESTS[version]


# What deflate and zstd make of the same bytes depends on the release of their libraries, so only what is around it is fixed.
def test_a_gzip_stream_has_no_name_and_no_time(tmp_path: Path) -> None:
    data = packed(tmp_path / "a.tar.gz")
    tar = packed(tmp_path / "a.tar")
    assert data[:10] == bytes.fromhex("1f8b0800000000000203")
    assert struct.unpack("<II", data[-8:]) == (zlib.crc32(tar), len(tar))
    assert unpacked(data, ".tar.gz") == tar
    assert packed(tmp_path / "b.tgz") == data


def test_a_zstd_stream_is_one_frame_with_a_checksum(tmp_path: Path) -> None:
    data = packed(tmp_path / "a.tar.zst")
    frame = zstandard.get_frame_parameters(data)
    assert (frame.has_checksum, frame.dict_id) == (True, 0)
    assert unpacked(data, ".tar.zst") == packed(tmp_path / "a.tar")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_order_of_members_and_the_name_of_the_file_change_no_byte(tmp_path: Path, suffix: str) -> None:
    backwards = dict(reversed(FILES.items()))
    (tmp_path / "deep").mkdir()
    assert packed(tmp_path / "deep" / f"b.c{suffix}", backwards) == packed(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_pieces_in_which_a_content_comes_change_no_byte(tmp_path: Path, suffix: str) -> None:
    content = b"".join(struct.pack("<Q", number * number) for number in range(80_000))

    def draft(step: int) -> list[PackedMember]:
        pieces = [content[place : place + step] for place in range(0, len(content), step)]
        return [PackedMember(name="weights", size_bytes=len(content), pieces=lambda: pieces)]

    written = set()
    for step in (len(content), 1 << 18, 4097):
        write_archive(tmp_path / f"a{suffix}", draft(step), version=8)
        written.add((tmp_path / f"a{suffix}").read_bytes())
    assert len(written) == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    status: int
    stderr: str


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "mlf", *map(str, arguments)]


def mlf(
    *arguments: str | Path,
    cwd: Path,
    limit: int | None = None,
    umask: int = -1,
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Run the program, with no file allowed to be larger than `limit` bytes."""
    done = subprocess.run(
        command(*arguments), cwd=cwd, env={**os.environ, **(environment or {})}, capture_output=True, text=True, timeout=PROGRAM_SECONDS,
        check=False, umask=umask, preexec_fn=None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    return Outcome(status=done.returncode, stderr=done.stderr)


DONE = Outcome(status=0, stderr="")


def unpack(files: Mapping[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("words", "lacks"),
    [(("convert", "--to", "7"), ""), (("convert",), ""), (("export",), ""), (("export",), "metadata.json")],
    ids=["convert-7", "convert-8", "export", "export-code"],
)
def test_an_archive_has_the_same_bytes_wherever_and_however_mlf_runs(
    tmp_path: Path, words: tuple[str, ...], lacks: str
) -> None:
    files = {name: content for name, content in contents(TONE).items() if name != lacks}
    forwards, backwards = unpack(files, tmp_path / "a"), unpack(dict(reversed(files.items())), tmp_path / "deep" / "b")
    for path in (backwards, *backwards.rglob("*")):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    outputs = [tmp_path / f"{name}.tar" for name in "wxyz"]
    turkish = {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "LANGUAGE": "tr", "USER": "someone"}
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "HOME": "/nonexistent", "COLUMNS": "20"}

    assert mlf(*words, forwards, "-o", outputs[0], cwd=Path("/"), environment={"PYTHONHASHSEED": "1", "TZ": ""}) == DONE
    assert (
        mlf(*words, "b", "-o", outputs[1], cwd=tmp_path / "deep", umask=0o77, environment={"TZ": "Asia/Tokyo"}) == DONE
    )
    assert mlf(*words, ".", "-o", outputs[2], cwd=backwards, umask=0, environment=turkish) == DONE
    assert (
        mlf(*words, "../a", "-o", "../z.tar", cwd=tmp_path / "deep", environment=plain | {"PYTHONHASHSEED": "2"})
        == DONE
    )

    assert len({path.read_bytes() for path in outputs}) == 1


def test_source_date_epoch_is_the_time_of_every_member(tmp_path: Path) -> None:
    assert mlf("convert", TONE, "-o", "a.tar", cwd=tmp_path, environment={"SOURCE_DATE_EPOCH": "1700000000"}) == DONE
    entries, _ = parsed((tmp_path / "a.tar").read_bytes())
    assert {int(header.mtime[:11], 8) for header, _ in entries} == {1_700_000_000}


# Imports first: another user may not be able to read the folder in which this one has its Python.
AS_ANOTHER_USER = """
import os
import sys
from pathlib import Path

from mlf.errors import OutputError
from mlf.pack import member_of_bytes, write_archive

os.chdir(sys.argv[1])
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    write_archive(Path(sys.argv[2]), [member_of_bytes("metadata.json", b"{}")], version=8)
except OutputError as error:
    print(error)
"""


def written_by_another_user(folder: Path, output: str) -> str:
    """Write a small archive as one who is not root; gives the message of a failure."""
    done = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER_USER, folder, output],
        capture_output=True,
        text=True,
        timeout=PROGRAM_SECONDS,
        check=True,
    )
    return done.stdout


def test_another_user_writes_the_same_bytes(tmp_path: Path) -> None:
    expected = packed(tmp_path / "mine.tar", {"metadata.json": b"{}"})
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    assert written_by_another_user(shared, "theirs.tar") == ""
    assert (shared / "theirs.tar").read_bytes() == expected


def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "old.tar").write_bytes(b"old")
    closed.chmod(0o555)
    message = "cannot be written: permission denied\n"
    assert written_by_another_user(closed, "new.tar") == f"new.tar: {message}"
    assert written_by_another_user(closed, "old.tar") == f"old.tar: {message}"
    assert written_by_another_user(closed, "new/deep/a.tar") == f"new/deep/a.tar: {message}"
    assert [path.name for path in closed.iterdir()] == ["old.tar"]
    assert (closed / "old.tar").read_bytes() == b"old"


# Files end with a letter that no folder ends with, so that no name is both; all in one case, so that none clash.
COMPONENT = r"[a-z0-9_+@-]([a-z0-9._+@-]{0,97}[a-z0-9_+@-])?"
NAMES = st.from_regex(rf"([a-eg-z0-9_]{{1,24}}d/){{0,3}}({COMPONENT})?f", fullmatch=True).filter(
    PORTABLE_NAME.fullmatch
)


@settings(deadline=None, max_examples=80)
@given(
    files=st.dictionaries(NAMES, st.binary(max_size=1100), max_size=6),
    version=st.integers(1, 8),
    suffix=st.sampled_from(SUFFIXES),
    epoch_s=st.integers(0, 8**11 - 1),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], version: int, suffix: str, epoch_s: int
) -> None:
    path = tmp_path_factory.mktemp("round") / f"a{suffix}"
    packed(path, files, version=version, epoch_s=epoch_s)
    assert contents(path) == files
    with open_archive(path) as archive:
        members = [member_of_archive(archive, name) for name in files]
        write_archive(path.with_name(f"b{suffix}"), members, version=version, epoch_s=epoch_s)
    assert path.with_name(f"b{suffix}").read_bytes() == path.read_bytes()


def test_a_member_may_get_another_name(tmp_path: Path) -> None:
    packed(tmp_path / "a.tar")
    with open_archive(tmp_path / "a.tar") as archive:
        write_archive(tmp_path / "b.tar", [member_of_archive(archive, LONG_NAME, new_name="lib.c")], version=7)
    assert contents(tmp_path / "b.tar") == {"lib.c": FILES[LONG_NAME]}


@pytest.mark.parametrize(
    "name",
    [
        "n" * 100,
        f"{'p' * 100}/{'n' * 100}",
        f"{'p' * 77}/{'p' * 77}/{'n' * 99}",
        f"{'p' * 54}/{'n' * 100}/{'n' * 99}",
        "/".join("d" * 128),
    ],
)
def test_a_name_as_long_as_a_header_allows(tmp_path: Path, name: str) -> None:
    packed(tmp_path / "a.tar", {name: b"x"})
    assert contents(tmp_path / "a.tar") == {name: b"x"}
    assert gnu_listing((tmp_path / "a.tar").read_bytes(), "--list") == [name]


@pytest.mark.parametrize("folder", ["p" * 98, "p" * 99, "p" * 100, "p" * 153, f"{'p' * 50}/{'q' * 102}"])
def test_an_older_version_holds_the_folder_of_every_member_that_it_holds(tmp_path: Path, folder: str) -> None:
    data = packed(tmp_path / "a.tar", {f"{folder}/{'n' * 98}": b"x"}, version=7)
    assert contents(tmp_path / "a.tar") == {f"{folder}/{'n' * 98}": b"x"}
    assert gnu_listing(data, "--list")[-2:] == [f"./{folder}/", f"./{folder}/{'n' * 98}"]


def refusal(path: Path, name: str, version: int) -> str:
    path.write_bytes(b"old")
    with pytest.raises(OutputError) as caught:
        packed(path, {"metadata.json": b"{}", name: b"x"}, version=version)
    assert path.read_bytes() == b"old"
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    return str(caught.value).removeprefix(f"{path}: cannot hold the member {name!r}: ")


@pytest.mark.parametrize("version", [7, 8])
@pytest.mark.parametrize("name", ["n" * 101, f"{'p' * 156}/n", f"p/{'n' * 101}", f"{'p' * 76}/{'p' * 79}/{'n' * 98}"])
def test_a_name_that_no_header_holds(tmp_path: Path, version: int, name: str) -> None:
    assert refusal(tmp_path / "a.tar", name, version) == "its name does not fit a ustar header"


@pytest.mark.parametrize("version", [7, 8])
def test_a_name_longer_than_any_reader_of_mlf_takes(tmp_path: Path, version: int) -> None:
    name = f"{'p' * 77}/{'p' * 77}/{'n' * 100}"
    assert len(name) == 256
    assert refusal(tmp_path / "a.tar", name, version) == "its name has more than 255 bytes"


@pytest.mark.parametrize(
    "name", [".clang-format", "src/.mlf", "src/my model.relay", "a~", "a=b", "a./b", "b.", "a//b", "/a", "a/", "../a", "con", "src/AUX.c", "a/lpt1/b", ""]
)  # fmt: skip
def test_a_name_that_version_8_does_not_allow(tmp_path: Path, name: str) -> None:
    assert refusal(tmp_path / "a.tar", name, 8) == PORTABLE


@pytest.mark.parametrize("name", ["com10", "console", "nul1", "a..b", "-x", "@+-_", "A.B.c"])
def test_a_name_that_only_looks_unusual_is_allowed(tmp_path: Path, name: str) -> None:
    packed(tmp_path / "a.tar", {name: b"x"})
    assert contents(tmp_path / "a.tar") == {name: b"x"}


def test_a_name_that_is_no_ascii_is_refused_by_every_version(tmp_path: Path) -> None:
    assert refusal(tmp_path / "a.tar", "modèle.c", 8) == PORTABLE
    for name in ("modèle.c", os.fsdecode(b"\xff")):
        assert refusal(tmp_path / "a.tar", name, 7) == "its name does not fit a ustar header"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("pieces", "got"), [([b"123"], 3), ([b"12345", b"67"], 7), ([], 0)])
def test_a_member_that_is_not_as_large_as_it_was(tmp_path: Path, suffix: str, pieces: list[bytes], got: int) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"old")
    with pytest.raises(ArchiveError) as caught:
        write_archive(path, [PackedMember(name="weights", size_bytes=5, pieces=lambda: pieces)], version=8)
    assert str(caught.value) == f"weights: changed while it was read: it had 5 bytes, and gave {got}"
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_a_file_that_shrinks_while_it_is_packed(tmp_path: Path) -> None:
    folder = unpack({"weights": bytes(1 << 20)}, tmp_path / "kws")
    with open_archive(folder) as archive:
        whole = member_of_archive(archive, "weights")

        def pieces() -> Iterator[bytes]:
            for number, piece in enumerate(whole.pieces()):
                if number == 0:
                    os.truncate(folder / "weights", 300_000)
                yield piece

        member = PackedMember(name=whole.name, size_bytes=whole.size_bytes, pieces=pieces)
        with pytest.raises(ArchiveError) as caught:
            write_archive(tmp_path / "a.tar", [member], version=8)
    assert str(caught.value) == (
        "kws: member 'weights' has shrunk since the archive was opened: 300000 bytes are left of 1048576"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["kws"]


def test_a_file_that_grows_while_it_is_packed_is_packed_as_it_was(tmp_path: Path) -> None:
    folder = unpack({"weights": b"12345"}, tmp_path / "kws")
    with open_archive(folder) as archive:
        member = member_of_archive(archive, "weights")
        (folder / "weights").write_bytes(b"1234567")
        write_archive(tmp_path / "a.tar", [member], version=8)
    assert contents(tmp_path / "a.tar") == {"weights": b"12345"}


NOISE = hashlib.shake_128(b"noise").digest(1 << 20)  # cannot be compressed


@contextmanager
def little_room(folder: Path) -> Iterator[str]:
    """Make a file system of 16 KiB in a folder, or where none may be mounted allow small files alone; give the reason."""
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], capture_output=True, check=False
    )
    if mount.returncode == 0:
        try:
            yield "no space left on device"
        finally:
            subprocess.run(["umount", folder], check=True)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 10, hard))
    try:
        yield "file too large"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("size", [17_000, 1 << 20])
def test_a_full_disk_keeps_the_old_archive_and_nothing_else(tmp_path: Path, suffix: str, size: int) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    with little_room(folder) as reason:
        path = folder / f"a{suffix}"
        path.write_bytes(b"old")
        with pytest.raises(OutputError) as caught:
            packed(path, {"weights": NOISE[:size]})
        assert str(caught.value) == f"{path}: cannot be written: {reason}"
        assert path.read_bytes() == b"old"
        assert [item.name for item in folder.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_conversion_without_room_is_one_message(tmp_path: Path, suffix: str) -> None:
    files = contents(TONE) | {"weights": NOISE}
    write_archive(tmp_path / "source.tar", drafted(files), version=7)
    assert mlf("convert", "source.tar", "-o", f"new/deep/a{suffix}", cwd=tmp_path, limit=64 << 10) == Outcome(
        status=2, stderr=f"error: new/deep/a{suffix}: cannot be written: file too large\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["source.tar"]


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    assert mlf("convert", TONE, "-o", "new/deep/a.tar", cwd=tmp_path) == DONE
    assert [path.name for path in (tmp_path / "new" / "deep").iterdir()] == ["a.tar"]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("folder", CANNOT_BE_REPLACED), (".", CANNOT_BE_REPLACED), ("..", CANNOT_BE_REPLACED), ("/", CANNOT_BE_REPLACED),
        ("pipe", CANNOT_BE_REPLACED), ("/dev/full", CANNOT_BE_REPLACED), ("/dev/stdout", CANNOT_BE_REPLACED),
        ("full", CANNOT_BE_REPLACED), ("file/a.tar", "cannot be written: not a directory"),
        ("n" * 300, "cannot be written: file name too long"), ("/proc/a.tar", "cannot be written: no such file or directory"),
    ],
)  # fmt: skip
def test_an_output_that_is_no_place_for_a_file(tmp_path: Path, output: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"old")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "full").symlink_to("/dev/full")
    before = sorted(tmp_path.rglob("*"))
    assert mlf("convert", TONE, "-o", output, cwd=tmp_path) == Outcome(status=2, stderr=f"error: {output}: {message}\n")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("output", ["link.tar", "twice.tar"])
def test_a_link_to_an_open_file_is_no_place_for_a_file(tmp_path: Path, output: str) -> None:
    with (tmp_path / "log").open("wb", buffering=0) as log:
        log.write(b"old")
        (tmp_path / "link.tar").symlink_to(f"/proc/self/fd/{log.fileno()}")
        (tmp_path / "twice.tar").symlink_to("link.tar")
        with pytest.raises(OutputError) as caught:
            packed(tmp_path / output)
    assert str(caught.value) == f"{tmp_path / output}: {CANNOT_BE_REPLACED}"
    assert (tmp_path / "log").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.tar", "log", "twice.tar"]


def test_a_redirected_standard_output_is_no_place_for_a_file(tmp_path: Path) -> None:
    (tmp_path / "link.tar").symlink_to("/dev/stdout")
    for output in ("link.tar", "/dev/stdout", "/dev/fd/1"):
        with (tmp_path / "log").open("wb") as log:
            done = subprocess.run(
                command("convert", TONE, "-o", output), cwd=tmp_path, stdout=log, stderr=subprocess.PIPE, text=True,
                timeout=PROGRAM_SECONDS, check=False,
            )  # fmt: skip
        assert (done.returncode, done.stderr) == (2, f"error: {output}: {CANNOT_BE_REPLACED}\n")
        assert (tmp_path / "log").read_bytes() == b""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.tar", "log"]


@pytest.mark.parametrize(
    ("target", "reason"),
    [("/proc/none.tar", CANNOT_BE_REPLACED), ("link.tar", "cannot be written: too many levels of symbolic links")],
)
def test_a_link_that_leads_nowhere_stays(tmp_path: Path, target: str, reason: str) -> None:
    (tmp_path / "link.tar").symlink_to(target)
    with pytest.raises(OutputError) as caught:
        packed(tmp_path / "link.tar")
    assert str(caught.value) == f"{tmp_path / 'link.tar'}: {reason}"
    assert [(path.name, str(path.readlink())) for path in tmp_path.iterdir()] == [("link.tar", target)]


def test_a_symbolic_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.tar").write_bytes(b"old")
    for name, target in (("link.tar", "real/a.tar"), ("dangling.tar", "real/b.tar"), ("twice.tar", "link.tar")):
        (tmp_path / name).symlink_to(target)
        expected = packed(tmp_path / name, {"metadata.json": name.encode()})
        assert (tmp_path / target).read_bytes() == expected
        assert (tmp_path / name).readlink() == Path(target)
    assert sorted(path.name for path in (tmp_path / "real").iterdir()) == ["a.tar", "b.tar"]


def test_a_new_archive_may_be_read_by_whom_the_umask_allows(tmp_path: Path) -> None:
    for umask, mode in ((0o022, 0o644), (0o077, 0o600)):
        assert mlf("convert", TONE, "-o", "a.tar", cwd=tmp_path, umask=umask) == DONE
        assert (tmp_path / "a.tar").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("to", ["6", "7", "8"])
def test_an_archive_can_be_converted_in_its_place(tmp_path: Path, to: str) -> None:
    shutil.copy(TONE, tmp_path / "a.tar")
    assert mlf("convert", "a.tar", "--to", to, "-o", "b.tar", cwd=tmp_path) == DONE
    assert mlf("convert", "a.tar", "--to", to, "-o", "a.tar", cwd=tmp_path) == DONE
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


# Writes an archive once for each step that Python takes in `replace_files`, into a function or out of a system call, each
# time in a copy of the process in which that step raises a signal, and says what lies there afterwards.
STRIKES = """
import hashlib
import json
import mmap
import os
import sys
from pathlib import Path

from mlf import cli, files
from mlf.pack import PackedMember, member_of_bytes, write_archive

output, number = Path(sys.argv[1]), int(sys.argv[2])
noise = [hashlib.shake_128(bytes([index])).digest(60_000) for index in range(2)]
members = [
    member_of_bytes("metadata.json", b"{}"),
    PackedMember(name="weights", size_bytes=120_000, pieces=lambda: noise),
]
reached = mmap.mmap(-1, 8)
os.fsync = lambda _: None  # for power cuts, of which there is none here


def write(point):
    steps, is_writing = 0, False

    def step(frame, event, _):
        nonlocal steps, is_writing
        if frame.f_code is files.replace_files.__code__ and event in ("call", "return"):
            is_writing = event == "call"
        if is_writing and event in ("call", "c_return"):
            steps += 1
            if steps == point:
                os.kill(os.getpid(), number)

    cli._handle_interrupts(cli._interrupt)
    sys.setprofile(step)
    try:
        write_archive(output, members, version=8)
    except cli._Interrupt:
        pass
    finally:
        sys.setprofile(None)
    reached[:] = steps.to_bytes(8, "little")


def written_by_a_copy(point):
    pid = os.fork()
    if pid == 0:
        write(point)
        os._exit(0)
    os.waitpid(pid, 0)
    return output.read_bytes()


new = written_by_a_copy(0)
found = {"steps": int.from_bytes(reached, "little"), "old": 0, "new": 0, "broken": [], "left": []}
for point in range(1, found["steps"] + 1):
    output.write_bytes(b"old")
    content = written_by_a_copy(point)
    if content in (b"old", new):
        found["new" if content == new else "old"] += 1
    else:
        found["broken"].append(point)
    for path in output.parent.iterdir():
        if path != output:
            found["left"].append(path.name)
            path.unlink()
print(json.dumps(found))
"""


def strikes(output: Path, number: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", STRIKES, output, f"{number:d}"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stderr == ""
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_any_step_leaves_the_old_archive_or_the_new_one(tmp_path: Path, number: int) -> None:
    found = strikes(tmp_path / "a.tar.gz", number)
    assert found["broken"] == []
    assert found["old"] > 100
    assert found["new"] > 50
    assert found["old"] + found["new"] == found["steps"]
    if number == signal.SIGKILL:  # nobody is left who could remove it
        assert {re.fullmatch(r"\.mlf-[0-9a-f]{16}", name) is not None for name in found["left"]} == {True}
    else:
        assert found["left"] == []


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """A run of the program that writes `expected` to `output` in about so many seconds."""

    arguments: tuple[str | Path, ...]
    output: Path
    expected: bytes
    seconds: float

    def interrupted(self, number: int, delay_s: float) -> tuple[int, str]:
        """Send a signal so long after the start; gives the status and what stderr has."""
        self.output.write_bytes(b"old")
        process = subprocess.Popen(
            command(*self.arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        time.sleep(delay_s)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=PROGRAM_SECONDS)
        assert self.output.read_bytes() in (b"old", self.expected)
        return process.returncode, stderr

    def leftovers(self) -> list[str]:
        return sorted(path.name for path in self.output.parent.iterdir() if path != self.output)


@pytest.fixture(params=["convert", "export"])
def conversion(request: pytest.FixtureRequest, tmp_path: Path) -> Conversion:
    """Make an archive that takes a while to convert, beside an older archive in the place of the result."""
    source, expected = tmp_path / "big.tar", tmp_path / "expected.tar"
    (tmp_path / "out").mkdir()
    files = contents(TONE) | {"parameters/default.params": NOISE * 24}
    write_archive(source, drafted(files), version=7)
    start = time.perf_counter()
    assert mlf(request.param, source, "-o", expected, cwd=tmp_path) == DONE
    return Conversion(
        arguments=(request.param, source, "-o", tmp_path / "out" / "a.tar"), output=tmp_path / "out" / "a.tar",
        expected=expected.read_bytes(), seconds=time.perf_counter() - start,
    )  # fmt: skip


def test_a_conversion_killed_at_any_time_leaves_the_old_archive_or_the_new_one(conversion: Conversion) -> None:
    statuses = {
        conversion.interrupted(signal.SIGKILL, conversion.seconds * 1.1 * point / KILLS)[0] for point in range(KILLS)
    }
    assert -signal.SIGKILL in statuses
    assert all(re.fullmatch(r"\.mlf-[0-9a-f]{16}", name) for name in conversion.leftovers())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_conversion_interrupted_at_any_time_leaves_nothing_else(conversion: Conversion, number: int) -> None:
    for point in range(INTERRUPTS):
        delay_s = conversion.seconds * (0.5 + 0.6 * point / INTERRUPTS)
        status, stderr = conversion.interrupted(number, delay_s)
        if status != -number:  # Python itself ends while it still imports mlf
            assert (status, stderr) in ((2, INTERRUPTED), (0, ""))
        assert conversion.leftovers() == []


def test_what_a_killed_run_left_behind_does_not_disturb_the_next(conversion: Conversion) -> None:
    left = conversion.output.with_name(f".mlf-{'0' * 16}")
    left.write_bytes(conversion.expected[:70_000])
    assert mlf(*conversion.arguments, cwd=left.parent) == DONE
    assert conversion.output.read_bytes() == conversion.expected
    assert conversion.leftovers() == [left.name]


@pytest.mark.parametrize("words", [("convert", "--to", "7"), ("convert",), ("export",)])
def test_what_a_killed_run_left_behind_in_a_folder_is_no_member_of_it(tmp_path: Path, words: tuple[str, ...]) -> None:
    folder = unpack(contents(TONE), tmp_path / "kws")
    assert mlf(*words, "kws", "-o", "before.tar", cwd=tmp_path) == DONE
    (folder / f".mlf-{'0' * 16}").write_bytes(b"half")
    assert mlf(*words, "kws", "-o", "after.tar", cwd=tmp_path) == DONE
    assert (tmp_path / "after.tar").read_bytes() == (tmp_path / "before.tar").read_bytes()
