"""What the files of a folder tell about a model: declarations, and a first description."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mlf.arrays import save_arrays
from mlf.errors import InputError, UnsupportedError
from mlf.exporter import describe_folder
from mlf.frontends.declarations import CFunction, CParameter, functions, includes, number_macros
from mlf.frontends.description import parse_description
from mlf.frontends.headers import CodeFile, place_headers
from mlf.frontends.table import load_toml

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# As generators of plain C write it: arrays of full rank, no status, helpers in front.
ARRAYS = """
#define UNUSED __attribute__((unused))
extern const float weight1_w[2][3];
const UNUSED float weight1_w[2][3] = {{1.0f, 2.0f, 3.0f}, {4.0f, 5.0f, 6.0f}};
#ifndef NODE
#define NODE static inline
#endif
NODE void node0_dense(const float x[restrict 1][3], float y[restrict 1][2]) {
  for (int i = 0; i < 2; ++i) { y[0][i] = 0; for (int k = 0; k < 3; ++k) { y[0][i] += weight1_w[i][k] * x[0][k]; } }
}
void tiny(const float in[restrict 1][3], float out[restrict 1][2]) {
  node0_dense(in, out);
}
"""


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def described(folder: Path) -> dict[str, Any]:
    return load_toml(describe_folder(folder), "text")


def gaps(folder: Path) -> list[str]:
    return [line for line in describe_folder(folder).splitlines() if line.startswith("# ?")]


def parameter(name: str, dtype: str | None, *shape: int, is_const: bool = False, is_pointer: bool = True) -> CParameter:
    return CParameter(name=name, dtype=dtype, shape=shape or None, is_pointer=is_pointer, is_const=is_const)


@pytest.mark.parametrize(
    ("text", "parameters", "returns"),
    [
        ("void f(const float in[1][3][8], float out[1][10]) {}", (parameter("in", "float32", 1, 3, 8, is_const=True), parameter("out", "float32", 1, 10)), "void"),
        ("int f(int8_t *restrict out, uint8_t const* in);", (parameter("out", "int8"), parameter("in", "uint8", is_const=True)), "status"),
        ("int32_t f(unsigned char x[N * 2], size_t n);", (parameter("x", "uint8", 8), parameter("n", None, is_pointer=False)), "status"),
        ("_Bool f(elem_t* x, float** y, double z[static 4]);", (parameter("x", None), parameter("y", None), parameter("z", "float64", 4)), "other"),
        ('extern "C" void f(void) __attribute__((noinline));', (), "void"),
        ("float* f(struct ctx* c, const _Float16 h[]);", (parameter("c", None), parameter("h", "float16", is_const=True)), "other"),
    ],
)  # fmt: skip
def test_declaration_is_read(text: str, parameters: tuple[CParameter, ...], returns: str) -> None:
    (found,) = functions(text, {"N": 4})

    assert (found.name, found.parameters, found.returns) == ("f", parameters, returns)


def test_what_is_no_function_of_the_file_is_not_read() -> None:
    text = """
    /* void a(int* x); */ // void b(int* x);
    const char* c = "void d(int* x);";
    #define E void e(int* x) \\
      ;
    typedef void g(int* x);
    int table[2] = {1, 2};
    struct s { void (*h)(int* x); };
    static void i(int* x) { j(x); if (x) { k(x); } }
    #ifdef __cplusplus
    extern "C" {
    #endif
    void l(int* x);
    #ifdef __cplusplus
    }
    #endif
    """
    found = functions(text, {})

    assert [(item.name, item.is_static, item.is_definition) for item in found] == [
        ("i", True, True),
        ("l", False, False),
    ]


def test_hostile_text_is_read_in_time_that_grows_with_its_length() -> None:
    for text in (
        "(" * 200_000,
        "{" * 200_000,
        "int f(" * 40_000,
        '"' * 200_000,
        "/*" * 100_000,
        "a " * 100_000 + "(x);",
    ):
        assert functions(text, {}) == ()


def test_includes_and_numbers_are_read() -> None:
    text = '#include "a.h"\n # include <b/c.h>\n// #include "d.h"\n#include "a.h"\n#define N 0x10u\n#define M (12)\n#define P N\n'

    assert includes(text) == (("a.h", True), ("b/c.h", False))
    assert number_macros(text) == {"N": 16, "M": 12}


def test_one_function_with_typed_arrays_needs_nothing_more(tmp_path: Path) -> None:
    folder = write(tmp_path, {"tiny.c": ARRAYS, "test/main.c": "int main(void) { return 0; }"})

    assert described(folder) == {
        "model": {"name": "tiny", "interface": "c", "operators": "unpacked"},
        "entry": {"function": "tiny", "arguments": ["in", "out"], "returns": "void"},
        "code": {"sources": ["tiny.c"]},
        "inputs": [{"name": "in", "dtype": "float32", "shape": [1, 3]}],
        "outputs": [{"name": "out", "dtype": "float32", "shape": [1, 2]}],
    }
    assert gaps(folder) == []
    assert "# Left out, because they define `main`: test/main.c\n" in describe_folder(folder)


def test_text_that_is_written_can_be_read_again(tmp_path: Path) -> None:
    folder = write(tmp_path, {"tiny.c": ARRAYS})

    assert parse_description(describe_folder(folder), label="x", folder=folder).name == "tiny"


def test_whole_text(tmp_path: Path) -> None:
    folder = write(
        tmp_path, {"m.c": '#include "m.h"\nint m(const int8_t* x, int n, int8_t* y, void* arena) { return 0; }', "m.h": "int m(const int8_t* x, int n, int8_t* y, void* arena);"}
    )  # fmt: skip

    assert describe_folder(folder) == (
        """\
# Describes a model to `mlf export`: what the files in this folder tell about it.
# They do not tell everything: fill in the lines that begin with `# ?` and remove the mark.

[model]
name = "m"  # in the archive: a small letter, then small letters, digits and _
interface = "c"  # what firmware calls: `c` (structs of pointers) or `packed` (TVM's packed functions)
operators = "unpacked"  # `packed` if the function below is itself one of TVM's packed functions

# The function that runs the model once.
[entry]
# int m(const int8* x, int32 n, int8* y, ?* arena)
function = "m"
# ? arguments = ["x", 0, "y", "arena"]  # tensors and pools by name, and whole numbers, in call order
returns = "status"  # `status`: an int, 0 is success; `void`: always succeeds
header = "m.h"  # declares the function

# Paths and globs, relative to this file. `headers` are all files that sources and headers include.
[code]
sources = ["m.c"]
headers = ["m.h"]
# definitions = {NDEBUG = "1"}  # macros, as after a compiler's -D

[[inputs]]
name = "x"
dtype = "int8"
# ? shape = [1, 10]
# quantization = {scale = 0.5, zero_point = 0}  # if integers stand for other numbers: (integer - zero_point) * scale

[[outputs]]
name = "y"
dtype = "int8"
# ? shape = [1, 10]
# quantization = {scale = 0.5, zero_point = 0}  # if integers stand for other numbers: (integer - zero_point) * scale

# Memory that the function takes besides tensors.
[[pools]]
name = "arena"
kind = "workspace"
memory = "internal"  # a buffer in the archive's code; `external`: firmware passes it
# ? size_bytes = 1024
# alignment_bytes = 16
"""
    )


def test_golden_data_tells_types_and_shapes(tmp_path: Path) -> None:
    folder = write(tmp_path, {"m.c": "void m(const float* x, float* y) {}"})
    save_arrays(folder / "one.inputs.npz", {"x": np.zeros((1, 7), np.float32)})
    save_arrays(folder / "one.outputs.npz", {"y": np.zeros((3,), np.float32)})
    save_arrays(folder / "other.npz", {"z": np.zeros(1)})

    found = described(folder)

    assert gaps(folder) == []
    assert found["inputs"] == [{"name": "x", "dtype": "float32", "shape": [1, 7]}]
    assert found["outputs"] == [{"name": "y", "dtype": "float32", "shape": [3]}]
    assert found["tests"] == [{"inputs": "one.inputs.npz", "outputs": "one.outputs.npz"}]


def test_header_that_is_included_is_listed_and_others_are_not(tmp_path: Path) -> None:
    folder = write(
        tmp_path, {"src/m.c": '#include "k/k.h"\nvoid m(const float x[2], float y[2]) {}', "src/k/k.h": '#include "l.h"', "src/k/l.h": "", "unused.h": ""}
    )  # fmt: skip

    assert described(folder)["code"] == {"sources": ["src/m.c"], "headers": ["src/k/k.h", "src/k/l.h"]}


def test_two_functions_that_could_be_the_model_are_left_to_a_person(tmp_path: Path) -> None:
    folder = write(
        tmp_path, {"m.c": "void a(const float x[2], float y[2]) {}\nint b(const int8_t* x, int8_t* y) { return 0; }"}
    )
    text = describe_folder(folder)

    assert "# may be: void a(const float32 x[2], float32 y[2])\n# may be: int b(const int8* x, int8* y)\n" in text
    assert gaps(folder)[0] == '# ? function = "..."'
    assert load_toml(text, "text")["model"]["name"].startswith("test_two_functions")


def test_objects_alone_tell_their_functions(tmp_path: Path) -> None:
    (tmp_path / "m.c").write_text("int helper(int x); int predict(float* x) { return helper((int)*x); } int table[3];")
    subprocess.run(["gcc", "-c", "m.c"], cwd=tmp_path, check=True)
    (tmp_path / "m.c").unlink()

    text = describe_folder(tmp_path)

    assert "# may be: predict\n# ? function" in text
    assert load_toml(text, "text")["code"] == {"objects": ["m.o"]}


def test_folder_without_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError) as caught:
        describe_folder(tmp_path / "model")

    assert str(caught.value) == "model: holds no code: expected files that end in .c, .cc, .cpp, .cxx, .o, .obj, .a"


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        describe_folder(tmp_path / "model")

    assert str(caught.value) == "model: is no folder"


def test_code_of_tvm_needs_no_description(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", {"default_lib0.c": "int32_t tvmgen_default_run();"})
    with pytest.raises(UnsupportedError) as caught:
        describe_folder(folder)

    assert str(caught.value) == "model: is code of TVM, which needs no description"
    assert caught.value.hint == f"`mlf export {folder} -o model.tar`"


def test_numbered_sources_of_another_origin_are_not_taken_for_tvm_s(tmp_path: Path) -> None:
    folder = write(tmp_path, {"my_lib1.c": ARRAYS})

    assert described(folder)["code"] == {"sources": ["my_lib1.c"]}


def code(files: Mapping[str, str]) -> list[CodeFile]:
    return [CodeFile(path=path, text=text) for path, text in files.items()]


@pytest.mark.parametrize(
    ("sources", "headers", "directories", "paths"),
    [
        ({"m.c": '#include "m.h"'}, {"m.h": ""}, (), {"m.h": "m.h"}),
        ({"src/m.c": '#include "k/k.h"'}, {"src/k/k.h": '#include "l.h"', "src/k/l.h": ""}, (), {"src/k/k.h": "k/k.h", "src/k/l.h": "k/l.h"}),
        ({"src/m.c": "#include <k.h>"}, {"inc/k.h": ""}, ("inc",), {"inc/k.h": "k.h"}),
        ({"a/m.c": '#include "m.h"', "b/n.c": '#include "n.h"'}, {"a/m.h": "", "b/n.h": ""}, (), {"a/m.h": "m.h", "b/n.h": "n.h"}),
        ({"m.c": '#include "../shared/k.h"'}, {}, (), {}),
        ({"m.c": ""}, {"../shared/k.h": ""}, (), {"../shared/k.h": "k.h"}),
    ],
)  # fmt: skip
def test_header_is_placed_where_its_includes_find_it(
    tmp_path: Path, sources: Mapping[str, str], headers: Mapping[str, str], directories: tuple[str, ...], paths: Mapping[str, str]
) -> None:  # fmt: skip
    assert place_headers(code(sources), code(headers), directories=directories, folder=tmp_path) == (paths, [])


@pytest.mark.parametrize(
    ("sources", "headers", "faults"),
    [
        ({"m.c": '#include "k.h"'}, {}, ["m.c includes `k.h`, but [code] `headers` does not list k.h"]),
        ({"m.c": '#include "n.c"', "n.c": ""}, {}, ["m.c includes `n.c`, which is one of the sources; list n.c under `headers` alone"]),
        (
            {"src/m.c": '#include "../inc/j.h"'}, {"inc/j.h": ""},
            ["src/m.c includes `../inc/j.h`, but in the archive inc/j.h is the header inc/j.h: include it by that name everywhere"],
        ),
        (
            {"a/m.c": '#include "c.h"', "b/n.c": '#include "c.h"'}, {"a/c.h": "", "b/c.h": ""},
            ["a/c.h and b/c.h would both be the header c.h: name their folder in one of the includes"],
        ),
        ({"m.c": ""}, {"a b.h": ""}, ["a b.h would be a header whose name has other characters than letters, digits and `_+@.-`"]),
    ],
)  # fmt: skip
def test_include_that_the_archive_could_not_serve_is_a_fault(
    tmp_path: Path, sources: Mapping[str, str], headers: Mapping[str, str], faults: list[str]
) -> None:
    write(tmp_path, {"k.h": "", "inc/j.h": ""})

    assert place_headers(code(sources), code(headers), directories=(), folder=tmp_path)[1] == faults


def test_function_is_a_value() -> None:
    (found,) = functions("static int f(int* x) {}", {})

    assert found == CFunction(
        name="f", parameters=(parameter("x", "int32"),), returns="status", is_static=True, is_definition=True
    )
