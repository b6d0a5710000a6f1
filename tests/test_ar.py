from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import toolbox
from hypothesis import given, settings
from hypothesis import strategies as st
from toolbox import CORTEX_M3, HOST, RV32

from mlf.errors import ObjectError
from mlf.objects import elf
from mlf.objects.ar import ArMember, read_ar, select_members, write_ar

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMES = st.text(st.characters(exclude_characters="/\n\0", exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda name: name == name.strip() and not name.startswith(("#1", "__.SYMDEF"))
)


@cache
def symbols(data: bytes) -> tuple[str, ...]:
    """The names that a linker looks for, in the order of the symbol table."""
    if data[:4] != b"\x7fELF":
        return ()
    lines = toolbox.ask("nm", data, "--extern-only", "--defined-only", "--no-sort", "--format=posix").splitlines()
    return tuple(line.split()[0] for line in lines)


def members(files: dict[str, bytes]) -> list[ArMember]:
    return [ArMember(name=name, data=data, symbols=symbols(data)) for name, data in files.items()]


def by_gnu_ar(files: dict[str, bytes], directory: Path, *, operation: str = "rcsD") -> bytes:
    for name, data in files.items():
        (directory / name).write_bytes(data)
    toolbox.run(["ar", operation, "made.a", *files], cwd=directory)
    return (directory / "made.a").read_bytes()


def compiled(text: str) -> bytes:
    return toolbox.compile_c(text, CORTEX_M3)


CODE = compiled("int alpha(void) { return 1; } int omega = 2; int zeroed;")
OTHER = compiled("int beta(void) { return 1; }")
SYMBOLLESS = compiled("static const int hidden __attribute__((used)) = 1;")

ARCHIVES = {
    "one": {"one.o": CODE},
    "two": {"one.o": CODE, "two.o": OTHER},
    "name_of_15_bytes": {"a" * 13 + ".o": CODE},
    "name_of_16_bytes": {"a" * 14 + ".o": CODE},
    "long_names": {"a_rather_long_member_name.o": CODE, "short.o": OTHER, "another_long_member_name.o": OTHER},
    "odd_long_name_table": {"a_rather_long_member_nam.o": CODE},
    "name_with_a_space": {"with space.o": CODE},
    "name_in_utf8": {"größe.o": CODE, "größe_einer_längeren_sache.o": OTHER},
    "odd_sizes": {"one.txt": b"odd", "two.o": CODE, "three.txt": b"x"},
    "empty_member": {"empty.txt": b"", "one.o": CODE},
    "object_without_symbols": {"none.o": SYMBOLLESS},
    "no_object": {"one.txt": b"text\n"},
    "first_without_symbols": {"none.o": SYMBOLLESS, "one.o": CODE},
    "many_members": {f"member_{number}.o": (CODE, OTHER)[number % 2] for number in range(300)},
    "many_long_names": {f"member_of_a_longer_name_{number}.o": OTHER for number in range(300)},
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_written_bytes_are_those_of_gnu_ar(name: str, tmp_path: Path) -> None:
    assert write_ar(members(ARCHIVES[name])) == by_gnu_ar(ARCHIVES[name], tmp_path)


@pytest.mark.parametrize("name", ARCHIVES)
def test_archive_of_gnu_ar_is_read(name: str, tmp_path: Path) -> None:
    data = by_gnu_ar(ARCHIVES[name], tmp_path)
    assert [(member, bytes(content)) for member, content in read_ar(data, "x.a")] == list(ARCHIVES[name].items())


def test_written_archive_lists_in_gnu_ar(tmp_path: Path) -> None:
    path = tmp_path / "made.a"
    path.write_bytes(write_ar(members(ARCHIVES["long_names"])))
    assert toolbox.run(["ar", "t", path]).split() == list(ARCHIVES["long_names"])
    index = toolbox.run(["nm", "--print-armap", path]).split("Archive index:\n")[1].split("\n\n")[0].splitlines()
    assert sorted(index) == [
        "alpha in a_rather_long_member_name.o",
        "beta in another_long_member_name.o",
        "beta in short.o",
        "omega in a_rather_long_member_name.o",
        "zeroed in a_rather_long_member_name.o",
    ]


def test_members_of_one_name_are_all_kept_and_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    (tmp_path / "first" / "same.o").write_bytes(CODE)
    (tmp_path / "second" / "same.o").write_bytes(OTHER)
    toolbox.run(["ar", "qcsD", "made.a", "first/same.o", "second/same.o"], cwd=tmp_path)
    data = (tmp_path / "made.a").read_bytes()
    assert [(name, bytes(content)) for name, content in read_ar(data, "x.a")] == [("same.o", CODE), ("same.o", OTHER)]
    assert write_ar([*members({"same.o": CODE}), *members({"same.o": OTHER})]) == data


@pytest.mark.parametrize("target", [HOST, CORTEX_M3, RV32], ids=lambda target: target.name)
def test_linker_finds_members_by_the_index(target: toolbox.Target, tmp_path: Path) -> None:
    files = {
        "first_member_of_a_long_name.o": "int second(int); int first(int x) { return second(x) + 1; }",
        "second.o": "int second(int x) { return x * 10; }",
        "unneeded.o": "int undefined_anywhere(void); int third(void) { return undefined_anywhere(); }",
    }
    library = tmp_path / "lib.a"
    library.write_bytes(write_ar(members({name: toolbox.compile_c(text, target) for name, text in files.items()})))
    assert toolbox.run_main("put(first(4));", [], target, str(library)) == "41\n"


def test_archive_with_a_bsd_index_and_bsd_names_is_read(tmp_path: Path) -> None:
    files = {"short.o": CODE, "a member of a rather long name.o": OTHER, "odd.txt": b"odd"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    toolbox.run(["llvm-ar", "--format=bsd", "rcsD", "made.a", *files], cwd=tmp_path)
    data = (tmp_path / "made.a").read_bytes()
    assert b"#1/" in data
    # BSD archives pad members to 8 bytes and count the padding.
    found = [(name, bytes(content)[: len(files[name])]) for name, content in read_ar(data, "x.a")]
    assert found == list(files.items())


def test_archive_with_a_64_bit_index_is_read(tmp_path: Path) -> None:
    data = by_gnu_ar({"one.o": CODE}, tmp_path)
    start = data.index(b"one.o/")
    index = (1).to_bytes(8, "big") + (8 + 60 + 22).to_bytes(8, "big") + b"alpha\0"
    wide = data[:8] + b"%-16s%-12d%-6d%-6d%-8d%-10d`\n" % (b"/SYM64/", 0, 0, 0, 0, len(index)) + index + data[start:]
    assert [name for name, _ in read_ar(wide, "x.a")] == ["one.o"]


def test_thin_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ObjectError) as caught:
        read_ar(by_gnu_ar({"one.o": CODE}, tmp_path, operation="rcsDT"), "lib.a")
    assert str(caught.value) == "lib.a: is a thin archive, which only names its members"


@pytest.mark.parametrize("data", [b"", b"!<arch>", b"\x7fELF" + bytes(60)], ids=["empty", "short", "object"])
def test_what_is_no_archive_is_refused(data: bytes) -> None:
    with pytest.raises(ObjectError) as caught:
        read_ar(data, "lib.a")
    assert str(caught.value) == "lib.a: is not an ar archive"


def member(name: bytes, data: bytes, *, size: bytes | None = None, end: bytes = b"`\n") -> bytes:
    return b"%-16s%-12d%-6d%-6d%-8d%-10s%s" % (name, 0, 0, 0, 0, size or b"%d" % len(data), end) + data


DAMAGED = {
    "ends_in_a_header": member(b"a.o/", b"")[:40],
    "ends_in_the_data": member(b"a.o/", b"1234", size=b"6"),
    "size_is_no_number": member(b"a.o/", b"1234", size=b"4x"),
    "size_is_empty": member(b"a.o/", b"1234", size=b" "),
    "size_is_negative": member(b"a.o/", b"1234", size=b"-4"),
    "size_has_an_underscore": member(b"a.o/", b"1" * 12, size=b"1_2"),
    "wrong_end_of_header": member(b"a.o/", b"1234", end=b"xx"),
    "long_name_without_a_table": member(b"/0", b"1234"),
    "long_name_outside_the_table": member(b"//", b"longer_name.o/\n\n") + member(b"/40", b"1234"),
    "long_name_before_the_table": member(b"//", b"longer_name.o/\n\n") + member(b"/-9", b"1234"),
    "long_name_without_an_end": member(b"//", b"longer_name.o") + b"\n" + member(b"/0", b"1234"),
    "bsd_name_longer_than_the_member": member(b"#1/20", b"name"),
    "bsd_name_of_negative_length": member(b"#1/-2", b"name"),
    "bsd_name_of_no_length": member(b"#1/", b"name"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_archive_is_refused(name: str) -> None:
    with pytest.raises(ObjectError) as caught:
        read_ar(b"!<arch>\n" + DAMAGED[name], "lib.a")
    assert str(caught.value) == "lib.a: the ar archive is damaged"


def test_archive_without_members() -> None:
    assert write_ar([]) == b"!<arch>\n"
    assert read_ar(b"!<arch>\n", "lib.a") == ()


def test_name_that_is_not_utf8_is_written_as_it_was_read() -> None:
    data = b"!<arch>\n" + member(b"caf\xe9.o/", b"12")
    ((name, content),) = read_ar(data, "lib.a")
    assert read_ar(write_ar([ArMember(name=name, data=bytes(content))]), "lib.a")[0][0] == name == "caf\udce9.o"


@given(st.lists(st.tuples(NAMES, st.binary(max_size=50), st.lists(st.text(max_size=5).filter(str.isidentifier)))))
def test_what_is_written_is_read(contents: list[tuple[str, bytes, list[str]]]) -> None:
    data = write_ar([ArMember(name=name, data=body, symbols=tuple(symbols)) for name, body, symbols in contents])
    assert [(name, bytes(body)) for name, body in read_ar(data, "x.a")] == [(name, body) for name, body, _ in contents]


def names(selected: Sequence[tuple[str, bytes]]) -> list[str]:
    return [name for name, _ in selected]


LIBRARY = {
    "unneeded.o": compiled("int beta(void); int lonely(void) { return beta(); }"),
    "a_rather_long_member_name.o": compiled("int delta(void); int gamma_(void) { return delta(); }"),
    "first.o": compiled("int gamma_(void); int alpha(void) { return gamma_(); }"),
    "maybe.o": compiled("__attribute__((weak)) int delta(void); int probe(void) { return delta ? delta() : 0; }"),
    "delta.o": compiled("int delta(void) { return 4; }"),
    "again.o": compiled("int delta(void) { return 5; }"),
    "common.o": toolbox.compile_c("int shared;", CORTEX_M3, "-fcommon"),
    "weak.o": compiled("__attribute__((weak)) int fallback(void) { return 6; }"),
}
SELECTED = {
    "what_it_needs_lies_before_and_after": (["alpha"], ["a_rather_long_member_name.o", "first.o", "delta.o"]),
    "the_first_of_two": (["delta"], ["delta.o"]),
    "nothing_for_a_weak_reference": (["probe"], ["maybe.o"]),
    "what_is_wanted_besides_a_weak_reference": (["probe", "delta"], ["maybe.o", "delta.o"]),
    "common": (["shared"], ["common.o"]),
    "weak_definition": (["fallback"], ["weak.o"]),
    "what_nothing_defines": (["expf"], []),
    "nothing": ([], []),
}


@pytest.mark.parametrize("name", SELECTED)
def test_members_are_taken_as_a_linker_takes_them(name: str, tmp_path: Path) -> None:
    wanted, expected = SELECTED[name]
    data = by_gnu_ar(LIBRARY, tmp_path)

    selected = select_members(data, "lib.a", wanted)

    assert names(selected) == expected
    assert all(content == LIBRARY[member] for member, content in selected)


def test_a_member_whose_names_are_there_already_is_not_taken(tmp_path: Path) -> None:
    data = by_gnu_ar(LIBRARY, tmp_path)

    assert names(select_members(data, "lib.a", ["alpha"], defined=["delta"])) == [
        "a_rather_long_member_name.o",
        "first.o",
    ]
    assert select_members(data, "lib.a", ["delta"], defined=["delta"]) == ()


def test_members_of_one_name_are_selected_apart() -> None:
    data = write_ar([ArMember(name="same.o", data=CODE), ArMember(name="same.o", data=OTHER)])

    assert select_members(data, "lib.a", ["beta"]) == (("same.o", OTHER),)
    assert select_members(data, "lib.a", ["beta", "alpha"]) == (("same.o", CODE), ("same.o", OTHER))


def test_members_of_a_bsd_archive_are_selected(tmp_path: Path) -> None:
    files = {"a member of a rather long name.o": CODE, "short.o": OTHER}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    toolbox.run(["llvm-ar", "--format=bsd", "rcsD", "made.a", *files], cwd=tmp_path)

    selected = select_members((tmp_path / "made.a").read_bytes(), "made.a", ["alpha"])

    assert [(name, content[: len(CODE)]) for name, content in selected] == [("a member of a rather long name.o", CODE)]


def test_an_archive_with_an_index_alone_has_nothing_to_select() -> None:
    index = member(b"/", b"\0\0\0\0")
    assert select_members(b"!<arch>\n" + index, "lib.a", ["alpha"]) == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text\n", "lib.a(notes.txt): is not an ELF object file: it begins with b'text'"),
        (b"BC\xc0\xde", "lib.a(notes.txt): is LLVM bitcode, not an object file"),
        (CODE[:60], "lib.a(notes.txt): the object file is damaged: a table of "),
    ],
    ids=["text", "bitcode", "damaged"],
)
def test_a_member_that_is_no_object_is_refused_by_name(content: bytes, message: str) -> None:
    data = write_ar([ArMember(name="one.o", data=CODE), ArMember(name="notes.txt", data=content)])
    with pytest.raises(ObjectError) as caught:
        select_members(data, "lib.a", ["alpha"])
    assert str(caught.value).startswith(message)


def test_members_of_a_thin_archive_cannot_be_selected(tmp_path: Path) -> None:
    with pytest.raises(ObjectError) as caught:
        select_members(by_gnu_ar({"one.o": CODE}, tmp_path, operation="rcsDT"), "lib.a", ["alpha"])
    assert str(caught.value) == "lib.a: is a thin archive, which only names its members"


def made_of(defined: Sequence[str], weak: Sequence[str], needed: Sequence[str], probed: Sequence[str]) -> bytes:
    """An object that defines and needs names, weakly or not, and holds nothing else."""
    kinds = [(name, elf.ABSOLUTE, elf.STB_GLOBAL) for name in defined]
    kinds += [(name, elf.ABSOLUTE, elf.STB_WEAK) for name in weak]
    kinds += [(name, 0, elf.STB_GLOBAL) for name in needed]
    kinds += [(name, 0, elf.STB_WEAK) for name in probed]
    count = len(kinds) + 1
    table = elf.Symbols(
        names=["", *(name for name, _, _ in kinds)],
        info=np.array([0, *(binding << 4 for _, _, binding in kinds)], np.uint8),
        other=np.zeros(count, np.uint8),
        section=np.array([0, *(place for _, place, _ in kinds)], np.int64),
        value=np.zeros(count, np.uint64),
        size=np.zeros(count, np.uint64),
        local_count=1,
    )
    machine = elf.Machine(is_64=True, is_big_endian=False, number=62)
    return elf.write_object(machine, [elf.Section(name="", type=elf.SHT_NULL)], table)


LETTERS = st.sampled_from("abcdefgh")
ROLES = st.dictionaries(LETTERS, st.sampled_from(["defined", "weak", "needed", "probed"]), min_size=1, max_size=4)


def with_roles(roles: dict[str, str]) -> bytes:
    parts = [[name for name, role in roles.items() if role == wanted] for wanted in ("defined", "weak", "needed", "probed")]  # fmt: skip
    return made_of(*parts)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(LETTERS, st.sampled_from(["defined", "needed"]), min_size=1), st.lists(ROLES, max_size=8))
def test_what_is_taken_is_what_gnu_ld_takes(program: dict[str, str], library: list[dict[str, str]]) -> None:
    files = {f"{index}.o": with_roles(roles) for index, roles in enumerate(library)}
    offered = [tuple(name for name, role in roles.items() if role in ("defined", "weak")) for roles in library]
    data = write_ar([ArMember(name=name, data=files[name], symbols=symbols) for name, symbols in zip(files, offered, strict=True)])  # fmt: skip
    wanted = [name for name, role in program.items() if role == "needed"]
    defined = [name for name, role in program.items() if role == "defined"]

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "main.o").write_bytes(with_roles(program))
        (Path(folder) / "lib.a").write_bytes(data)
        flags = ["--trace", "--trace", "--unresolved-symbols=ignore-all", "--allow-multiple-definition", "-e", "0"]
        lines = toolbox.run(["ld", *flags, "main.o", "lib.a", "-o", "made"], cwd=Path(folder)).splitlines()

    by_ld = sorted(line.removeprefix("(lib.a)") for line in lines if line.startswith("(lib.a)"))
    assert names(select_members(data, "lib.a", wanted, defined=defined)) == by_ld
