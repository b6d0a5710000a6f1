"""C that is printed again: the same statements, in the same order, and what compilers accept without a warning."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycparser import c_ast, c_parser

from mlf.errors import ToolError
from mlf.frontends.tvm.tidy import tidied

TYPEDEFS = "".join(f"typedef int {name};\n" for name in ("int8_t", "int32_t", "int64_t"))
HEAD = "void f(int32_t* a, int32_t* b, int32_t x, int32_t y) {\n"


def body(*lines: str) -> str:
    """Print a function of these lines again, without its indentation."""
    return re.sub(r"^  ", "", tidied(f"{HEAD}{chr(10).join(lines)}\n}}\n"), flags=re.MULTILINE)


def meaning(text: str) -> str:
    """Give the syntax tree of a function's body, in which `a = a + b` and `a += b` are the same, as the blocks are of one statement."""
    definition = c_parser.CParser().parse(f"{TYPEDEFS}{HEAD}{text}\n}}\n").ext[-1]
    return shown(definition.body)


def shown(node: Any) -> str:
    if isinstance(node, c_ast.Assignment) and node.op != "=":
        value: Any = c_ast.BinaryOp(node.op[:-1], node.lvalue, node.rvalue)
        node = c_ast.Assignment("=", node.lvalue, value)
    fields = [f"{name}={getattr(node, name)!r}" for name in node.attr_names]
    children = [f"{name}:{shown(child)}" for name, child in node.children()]
    return f"{type(node).__name__}({', '.join([*fields, *children])})"


@pytest.mark.parametrize(
    ("given_", "printed"),
    [
        ("x = (x + ((int32_t)a[((y * 3) + 1)]));", "x += (int32_t)a[y * 3 + 1];"),
        ("x = (y + x);", "x = y + x;"),
        ("x = (y - (x - 1));", "x = y - (x - 1);"),
        ("x = ((y - x) - 1);", "x = y - x - 1;"),
        ("x = (y / (x * 2));", "x = y / (x * 2);"),
        ("x = ((y / x) * 2);", "x = y / x * 2;"),
        ("x = ((y + 1) >> 1);", "x = (y + 1) >> 1;"),
        ("x = ((y >> 1) + 1);", "x = (y >> 1) + 1;"),
        ("x = ((y & 3) == 1);", "x = (y & 3) == 1;"),
        ("x = ((x < 3) && ((y < 2) && (1 <= y)));", "x = x < 3 && (y < 2 && 1 <= y);"),
        ("x = (((x < 3) && (y < 2)) || (y == 7));", "x = (x < 3 && y < 2) || y == 7;"),
        ("x = (y) < (3) ? (y) : (3);", "x = y < 3 ? y : 3;"),
        ("x = (1 + ((y) < (3) ? (y) : (3)));", "x = 1 + (y < 3 ? y : 3);"),
        ("x = ((int32_t)(-1));", "x = (int32_t)(-1);"),
        ("x = (y - (-1));", "x = y - -1;"),
        ("x = -(-(y));", "x = -(-y);"),
        ("x = (!((x < 3)));", "x = !(x < 3);"),
        ("a[0] = expf((x + 1), (y));", "a[0] = expf(x + 1, y);"),
        ("float z = 1.00000001e-01f;", "float z = 1.00000001e-01f;"),
        ("int32_t z[4];", "int32_t z[4];"),
        ("const int32_t z = (x) > (0) ? (x) : (0);", "const int32_t z = x > 0 ? x : 0;"),
        ("memcpy(((void*)a), ((void*)b), (size_t)4);", "memcpy((void*)a, (void*)b, (size_t)4);"),
        ("(void)x;", "(void)x;"),
        ("x = (x < (y + 1));", "x = x < y + 1;"),
        ("x = ((x < y) == (y < 3));", "x = (x < y) == (y < 3);"),
        ("float z = (x) > (0.0f) ? (x) : (0.0f);", "float z = relu(x);"),
        ("float z = (x) < (6.0f) ? (x) : (6.0f);", "float z = at_most(x, 6.0f);"),
        ("float z = (x) < (0.0f) ? (x) : (0.0f);", "float z = x < 0.0f ? x : 0.0f;"),
        ("float z = (x) > (1.0f) ? (x) : (1.0f);", "float z = x > 1.0f ? x : 1.0f;"),
        ("x = (x) < (0x1f) ? (x) : (0x1f);", "x = x < 0x1f ? x : 0x1f;"),
        ("float z = (x) > (0.0f) ? (y) : (0.0f);", "float z = x > 0.0f ? y : 0.0f;"),
    ],
)  # fmt: skip
def test_an_expression_loses_what_it_does_not_need(given_: str, printed: str) -> None:
    assert body(given_) == f"{printed}\n"


def test_blocks_keep_their_shape() -> None:
    printed = """for (int32_t i = 0; i < 4; ++i) {
  if (x < 3) {
    a[i] *= 2;
  } else if (y < 3) {
    a[i] = 1;
  } else {
    if (y < 9) {
      b[i] = 1;
    }
    b[i] = 2;
  }
}
"""
    plain = (
        printed.replace("(x < 3)", "((x < 3))")
        .replace("(y < 3)", "((y) < (3))")
        .replace("a[i] *= 2", "a[i] = (a[i] * 2)")
    )
    assert body(*plain.splitlines()) == printed


def test_a_value_that_a_test_sets_is_a_choice() -> None:
    lines = [
        "int32_t c;",
        "if (((x < 3) && (y < 2))) {",
        "  c = ((int32_t)a[x]);",
        "} else {",
        "  c = (-128);",
        "}",
        "b[0] = (b[0] + (c * 2));",
    ]
    assert body(*lines) == "int32_t c = x < 3 && y < 2 ? (int32_t)a[x] : -128;\nb[0] += c * 2;\n"


@pytest.mark.parametrize(
    "lines",
    [
        ["int32_t c;", "if (x) {", "  c = 1;", "} else {", "  b[0] = 1;", "}"],
        ["int32_t c;", "if (x) {", "  c = 1;", "  b[0] = 1;", "} else {", "  c = 2;", "}"],
        ["int32_t c;", "if (x) {", "  c = 1;", "}"],
        ["int32_t c = 0;", "if (x) {", "  c = 1;", "} else {", "  c = 2;", "}"],
    ],
)
def test_any_other_test_stays_one(lines: list[str]) -> None:
    assert body(*lines) == "\n".join([*lines, ""])


def test_long_lines_are_broken_before_operators_but_not_in_brackets() -> None:
    terms = [f"(a[((x * {index}) + {index})] * b[((y * {index}) + {index})])" for index in range(1, 6)]
    text = f"x = {terms[0]};"
    for term in terms[1:]:
        text = f"x = ({text[4:-1]} + {term});"
    printed = body(text)
    assert all(len(line) <= 100 for line in printed.splitlines())
    assert {line.lstrip()[0] for line in printed.splitlines()[1:]} <= {"+", "*"}
    assert printed.count("[x * ") == printed.count("[y * ") == 5
    assert meaning(printed) == meaning(text)


NAMES = st.sampled_from(["x", "y", "a[x]", "b[(y + 1)]", "3", "1000000"])
OPERATORS = ("+", "-", "*", "/", "%", "<<", ">>", "<", "<=", "==", "!=", "&", "|", "^", "&&", "||")
EXPRESSIONS = st.recursive(
    NAMES,
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(OPERATORS), inner),
        st.builds("(({}) < ({}) ? ({}) : ({}))".format, inner, inner, inner, inner),
        st.builds("((int8_t){})".format, inner),
        st.builds("(-{})".format, inner),
        st.builds("(!{})".format, inner),
        st.builds("g({}, {})".format, inner, inner),
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(st.lists(EXPRESSIONS, min_size=1, max_size=4))
def test_no_statement_changes_its_meaning(expressions: list[str]) -> None:
    text = "".join(
        f"{target} = {item};\n" for target, item in zip(itertools.cycle(("x", "a[x]")), expressions, strict=False)
    )
    printed = tidied(f"{HEAD}{text}}}\n")
    assert meaning(printed) == meaning(text)
    assert tidied(f"{HEAD}{printed}}}\n") == printed


@settings(max_examples=20, deadline=None)
@given(st.lists(EXPRESSIONS, min_size=20, max_size=20))
def test_compilers_find_nothing_to_warn_about(expressions: list[str]) -> None:
    """Compilers warn about `a & b == c` or `a || b && c`: it is for them that some parentheses stay."""
    text = "".join(f"a[{place}] = {item};\n" for place, item in enumerate(expressions))
    printed = f"#include <stdint.h>\nint g(int, int);\nvoid f(int32_t* a, int32_t* b, int32_t x, int32_t y);\n{HEAD}{tidied(f'{HEAD}{text}}}')}}}\n"
    for compiler in (
        ("gcc",),
        ("clang", "-Wno-everything"),
    ):
        done = subprocess.run(
            [*compiler, "-std=c99", "-Wparentheses", "-Werror=parentheses", "-fsyntax-only", "-x", "c", "-"],
            input=printed, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_a_missing_parser_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycparser", None)
    with pytest.raises(ToolError, match="pycparser is not installed") as raised:
        body("x = y;")
    assert raised.value.hint == "pip install 'mlf[tvm]'"
