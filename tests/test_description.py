"""What a description must say, and how every fault of one is reported."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mlf.errors import InputError
from mlf.frontends.description import (
    DEFAULT_ATOL,
    DEFAULT_RTOL,
    Description,
    Entry,
    GoldenFiles,
    call_names,
    read_description,
)
from mlf.metadata import Pool, Quantization, Tensor

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = """
[model]
name = "kws"
interface = "c"
operators = "unpacked"

[entry]
function = "predict"
arguments = ["samples:0", 16, "arena", "scores", "flash"]
returns = "void"
header = "src/kws.h"

[code]
sources = ["src/*.c", "main.cc"]
headers = ["src/weights.inc"]
include_directories = ["src"]
objects = ["fast.o"]
definitions = {UNITS = 4, NAME = "kws"}
allocates_bytes = 64

[[inputs]]
name = "samples:0"
dtype = "int8"
shape = [1, 64]
quantization = {scale = 0.5, zero_point = -3}

[[outputs]]
name = "scores"
dtype = "int4"
shape = []

[[pools]]
name = "arena"
memory = "internal"
size_bytes = 2048
alignment_bytes = 32

[[pools]]
name = "flash"
kind = "constant"
memory = "external"
file = "flash.bin"

[parameters]
file = "kws.npz"

[[tests]]
inputs = "in.npz"
outputs = "out.npz"
rtol = 0.5
atol = 0
name = "silence"

[[tests]]
inputs = "in.npz"
outputs = "out.npz"
"""

SMALL = """
[model]
name = "kws"
[entry]
function = "predict"
arguments = ["x", "y"]
[code]
sources = ["kws.c"]
[[inputs]]
name = "x"
dtype = "int8"
shape = [4]
[[outputs]]
name = "y"
dtype = "int8"
shape = [4]
"""

FILES = {
    "src/b.c": "", "src/a.c": "", "src/kws.h": "", "src/weights.inc": "", "main.cc": "", "fast.o": "", "flash.bin": "\1\2\3", "kws.npz": "",
    "in.npz": "", "out.npz": "", "kws.c": "",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def read(folder: Path, text: str, *, name: str | None = None) -> Description:
    path = folder / "description.toml"
    path.write_text(text)
    return read_description(path, name=name)


def fault(folder: Path, text: str, *changes: tuple[str, str]) -> str:
    """Give what is wrong with a text in which some words are replaced, without the name of the file."""
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    with pytest.raises(InputError) as caught:
        read(folder, text)
    assert caught.value.where == "description.toml"
    return caught.value.message


def test_every_key_is_read(folder: Path) -> None:
    found = read(folder, WHOLE)

    assert found == Description(
        label="description.toml", folder=folder, name="kws", interface="c", operators="unpacked",
        entry=Entry(function="predict", arguments=("samples:0", 16, "arena", "scores", "flash"), returns="void", header="src/kws.h"),
        sources=("main.cc", "src/a.c", "src/b.c"), headers=("src/kws.h", "src/weights.inc"), include_directories=("src",),
        objects=("fast.o",), definitions=(("NAME", "kws"), ("UNITS", "4")), allocates_bytes=64,
        inputs=(
            Tensor(name="samples:0", c_name="samples_0", dtype="int8", shape=(1, 64), size_bytes=64, quantization=Quantization(scale=0.5, zero_point=-3)),
        ),
        outputs=(Tensor(name="scores", c_name="scores", dtype="int4", shape=(), size_bytes=1),),
        pools=(
            Pool(name="arena", kind="workspace", size_bytes=2048, alignment_bytes=32, is_internal=True),
            Pool(name="flash", kind="constant", size_bytes=3, alignment_bytes=16, is_internal=False, data=b"\1\2\3"),
        ),
        parameters="kws.npz",
        tests=(
            GoldenFiles(inputs=folder / "in.npz", outputs=folder / "out.npz", rtol=0.5, atol=0.0, name="silence"),
            GoldenFiles(inputs=folder / "in.npz", outputs=folder / "out.npz", rtol=DEFAULT_RTOL, atol=DEFAULT_ATOL),
        ),
    )  # fmt: skip
    assert call_names(found).arguments == ("samples_0", 16, "arena", "scores", "flash")


def test_short_description_has_the_usual_values(folder: Path) -> None:
    found = read(folder, SMALL)

    assert (found.interface, found.operators, found.entry.returns) == ("c", "unpacked", "status")
    assert (found.pools, found.tests, found.parameters, found.allocates_bytes) == ((), (), None, None)


def test_name_that_is_given_takes_the_place_of_the_one_in_the_file(folder: Path) -> None:
    assert read(folder, SMALL, name="other").name == "other"
    assert read(folder, SMALL.replace('name = "kws"', "", 1), name="other").name == "other"


def test_path_may_leave_the_folder(folder: Path) -> None:
    (folder / "below").mkdir()
    path = folder / "below" / "x.toml"
    path.write_text(SMALL.replace("kws.c", "../src/*.c"))

    assert read_description(path).sources == ("../src/a.c", "../src/b.c")


def test_entrypoint_of_its_own_needs_no_arguments(folder: Path) -> None:
    own = SMALL.replace('arguments = ["x", "y"]', "")

    assert not read(folder, own.replace("predict", "tvmgen_kws_run")).is_called
    packed = own.replace("[entry]", 'interface = "packed"\noperators = "packed"\n[entry]')
    assert not read(folder, packed).is_called
    assert read(folder, SMALL).is_called


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "kws"', "", "[model] `name` is missing"),
        ('name = "kws"', 'name = "Kws"', "[model] `name`: `Kws` cannot be a model's name: expected a small letter, then small letters, digits and _"),
        ('name = "kws"', "name = 7", "[model] `name` is `7`, expected text"),
        ('name = "kws"', 'name = "kws"\nsize = 2', "[model] `size` is unknown; known are `name`, `interface`, `operators`"),
        ('name = "kws"', 'name = "kws"\ninterface = "C"', '[model] `interface` is `"C"`, expected `c` or `packed`'),
        (
            'name = "kws"', 'name = "kws"\noperators = "packed"',
            '[model] `interface = "c"` passes plain pointers, which `operators = "packed"` do not take: change one of them',
        ),
        ("[entry]", "[[entry]]", "[entry] is a list, expected a table"),
        ('"predict"', '"2d"', '[entry] `function` is `"2d"`, expected a C identifier'),
        ('"predict"', '"while"', '[entry] `function` is `"while"`, expected a name that is no keyword of C or C++'),
        ('arguments = ["x", "y"]', "", "[entry] `arguments` is missing"),
        ('["x", "y"]', '["x", "y", true]', "[entry] `arguments` is a list, expected a list of names and whole numbers"),
        ('["x", "y"]', '["x", "z"]', "2 faults:\n[entry] `arguments` has `z`, which is no input, output or pool\n[entry] `arguments` does not pass `y`"),
        ('["x", "y"]', '["x", "y", 1]', "[entry] `arguments` passes a number, whose type only a declaration tells: `header` must name one"),
        (
            '["x", "y"]', '["x", "y", 4294967296]\nheader = "src/kws.h"',
            "[entry] `arguments` has `4294967296`, which does not fit an int of 32 bits",
        ),
        ('["x", "y"]', '["x", "y"]\nreturns = 0', "[entry] `returns` is `0`, expected `status` or `void`"),
        ('["x", "y"]', '["x", "y"]\nheader = "kws.h"', "[entry] `header`: there is no file kws.h"),
        ('"predict"', '"tvmgen_kws_run"', "[entry] `arguments` are given, but `tvmgen_kws_run` is an entrypoint itself"),
        ('sources = ["kws.c"]', "", "[code] names neither `sources` nor `objects`"),
        ('"kws.c"', '"*.cpp"', "2 faults:\n[code] `sources`: there is no file *.cpp\n[code] names neither `sources` nor `objects`"),
        ('"kws.c"', '"src/kws.h"', "[code] `sources`: src/kws.h ends in none of .c, .cc, .cpp, .cxx"),
        (
            '"kws.c"', '"kws.c", "/kws.c"',
            '[code] `sources`: `"/kws.c"` is no path relative to the description, with `/` between its parts',
        ),
        ('["kws.c"]', '["kws.c"]\nobjects = ["kws.c"]', "[code] `objects`: kws.c ends in none of .o, .obj, .a"),
        ('["kws.c"]', '["kws.c"]\ninclude_directories = ["inc"]', "[code] `include_directories`: there is no folder inc"),
        ('["kws.c"]', '["kws.c"]\ndefinitions = {A = true, "b-c" = "1"}', '2 faults:\n[code] `definitions`: `A` is `true`, expected text of one line or a whole number\n[code] `definitions`: `"b-c"` is no C identifier'),
        ('["kws.c"]', '["kws.c"]\nallocates_bytes = -1', "[code] `allocates_bytes` is `-1`, expected a whole number from 0 to 1073741824"),
        ("shape = [4]", "shape = [0]", "[[inputs]] 1 `shape` is [0], expected at most 64 extents of at least 1"),
        ("shape = [4]", "", "[[inputs]] 1 `shape` is missing"),
        ("shape = [4]", "shape = [1073741825]", "[[inputs]] 1 has 1073741825 bytes; at most 1073741824 are allowed"),
        ("shape = [4]", "shape = [4]\nquantization = {scale = 0, zero = 1}", "3 faults:\n[[inputs]] 1 `quantization`: `zero_point` is missing\n[[inputs]] 1 `quantization`: `scale` is `0`, expected a number above 0\n[[inputs]] 1 `quantization`: `zero` is unknown; known are `scale`, `zero_point`"),
        ('name = "x"', 'name = "a b"', "2 faults:\n[entry] `arguments` has `x`, which is no input, output or pool\n[entry] `arguments` does not pass `a b`"),
        ("[[inputs]]", "[inputs]", "2 faults:\n`inputs` is a table, expected tables that begin with `[[inputs]]`\n[entry] `arguments` has `x`, which is no input, output or pool"),
        ("[code]", "[tools]\n[code]", "`tools` is unknown; known are `model`, `inputs`, `outputs`, `pools`, `entry`, `parameters`, `tests`, `code`"),
    ],
)  # fmt: skip
def test_fault_is_named_with_its_place(folder: Path, old: str, new: str, message: str) -> None:
    assert fault(folder, SMALL, (old, new)) == message


@pytest.mark.parametrize(
    ("addition", "message"),
    [
        ("size_bytes = 1", "[[pools]] 1 `memory` is missing"),
        ('memory = "internal"', "[[pools]] 1 `size_bytes` is missing"),
        ('memory = "internal"\nsize_bytes = 0', "[[pools]] 1 `size_bytes` is `0`, expected a whole number from 1 to 1073741824"),
        ('memory = "internal"\nsize_bytes = 4\nalignment_bytes = 12', "[[pools]] 1 `alignment_bytes` is `12`, expected a power of two"),
        (
            'memory = "external"\nsize_bytes = 4\nalignment_bytes = 64',
            "[[pools]] 1 `alignment_bytes` is 64; callers align external pools to 16",
        ),
        ('memory = "external"\nkind = "constant"', "[[pools]] 1 `file` is missing"),
        (
            'memory = "internal"\nkind = "constant"\nfile = "flash.bin"',
            '[[pools]] 1 is constant and internal: constants inside the code are code; use `memory = "external"`',
        ),
    ],
)  # fmt: skip
def test_fault_of_a_pool_is_named(folder: Path, addition: str, message: str) -> None:
    text = SMALL.replace('"y"]', '"y", "arena"]', 1) + f'[[pools]]\nname = "arena"\n{addition}\n'

    assert fault(folder, text) == message


def test_packed_interface_refuses_external_pools_with_both_ways_out(folder: Path) -> None:
    text = SMALL.replace('"y"]', '"y", "arena"]', 1).replace("[entry]", 'interface = "packed"\n[entry]')
    text += '[[pools]]\nname = "arena"\nmemory = "external"\nsize_bytes = 4\n'

    assert fault(folder, text) == (
        '[[pools]] are external, which the packed interface cannot pass: use `memory = "internal"` or `interface = "c"`'
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x", "[[outputs]] `x` is called `x` in C, as is [[inputs]] `x`"),
        ("x:0", "[[outputs]] `x:0` is called `x_0` in C, as is [[inputs]] `x/0`"),
        ("int", "[[outputs]] `int` is called `int` in C, which is no name that C can give it"),
        ("7up", "[[outputs]] `7up` is called `7up` in C, which is no name that C can give it"),
        ("float", "[[outputs]] `float` is called `float` in C, which is no name that C can give it"),
        ("predict", "[[outputs]] `predict` is called `predict` in C, as is the function `predict`"),
    ],
)
def test_names_that_c_cannot_tell_apart_are_refused(folder: Path, name: str, message: str) -> None:
    first = "x/0" if name == "x:0" else "x"
    text = SMALL.replace('["x", "y"]', f'["{first}", "{name}"]').replace('name = "x"', f'name = "{first}"')

    assert fault(folder, text, ('name = "y"', f'name = "{name}"')) == message


def test_every_fault_is_reported_at_once(folder: Path) -> None:
    text = '[model]\nnam = "x"\n[entry]\nreturns = "float"\n[code]\nsources = ["gone.c"]\n[[outputs]]\nname = "y"\n'

    assert fault(folder, text) == (
        "9 faults:\n[model] `name` is missing\n[model] `nam` is unknown; known are `name`, `interface`, `operators`\n"
        "[[inputs]] is missing: a model has at least one\n[[outputs]] 1 `dtype` is missing\n"
        "[[outputs]] 1 `shape` is missing\n[entry] `function` is missing\n"
        '[entry] `returns` is `"float"`, expected `status` or `void`\n'
        "[code] `sources`: there is no file gone.c\n[code] names neither `sources` nor `objects`"
    )


def test_empty_description_lacks_all_that_is_required(folder: Path) -> None:
    assert fault(folder, "") == (
        "5 faults:\n[model] is missing\n[[inputs]] is missing: a model has at least one\n"
        "[[outputs]] is missing: a model has at least one\n[entry] is missing\n[code] is missing"
    )


def test_two_tests_of_one_name_are_refused(folder: Path) -> None:
    assert fault(folder, WHOLE + 'name = "silence"\n') == "[[tests]] two have the name `silence`"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model]\nname kws", "is not TOML: line 2, column 6: expected '=' after a key in a key/value pair"),
        ('a = "', "is not TOML: end of document: unterminated string"),
        ("a = 1\na = 2\n", "is not TOML: line 2, column 6: cannot overwrite a value"),
        (f"a = 0x1{'0' * 5000}", "is not TOML that can be read: a number is too long or brackets are too deep"),
        ("a = " + "[" * 100_000, "is not TOML that can be read: a number is too long or brackets are too deep"),
    ],
)
def test_text_that_is_no_toml_is_refused_with_its_place(folder: Path, text: str, message: str) -> None:
    assert fault(folder, text) == message


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_description(tmp_path / "description.toml")

    assert str(caught.value) == "description.toml: cannot be read: no such file or directory"


def test_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "description.toml"
    path.write_bytes(b"# \xff")

    with pytest.raises(InputError) as caught:
        read_description(path)

    assert str(caught.value) == "description.toml: is not UTF-8 at byte 2"


def test_file_that_is_far_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "description.toml"
    path.write_bytes(b"#" * ((1 << 20) + 1))

    with pytest.raises(InputError) as caught:
        read_description(path)

    assert str(caught.value) == "description.toml: has more than 1048576 bytes"


def test_dates_numbers_without_bounds_and_lists_are_shown_in_messages(folder: Path) -> None:
    text = SMALL + "[[tests]]\ninputs = 1979-05-27\noutputs = []\nrtol = inf\natol = -1\n"

    assert fault(folder, text) == (
        "4 faults:\n[[tests]] 1 `inputs` is `1979-05-27`, expected text\n[[tests]] 1 `outputs` is a list, expected text\n"
        "[[tests]] 1 `rtol` is `Infinity`, expected a number that is not negative\n"
        "[[tests]] 1 `atol` is `-1`, expected a number that is not negative"
    )


def test_path_that_no_system_takes_names_no_file(folder: Path) -> None:
    name = "x" * 300

    assert fault(folder, SMALL, ('"kws.c"', f'"{name}"')) == (
        f"2 faults:\n[code] `sources`: there is no file {name}\n[code] names neither `sources` nor `objects`"
    )
