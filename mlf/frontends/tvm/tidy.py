"""The C that TVM prints, printed once more as a person would write it.

TVM puts parentheses around everything and writes `a = (a + b)`. Here a function keeps its statements, in their order, and
its numbers to the letter; what changes is how they look, and that limits of floats become calls of operator_helpers.c.
"""

from __future__ import annotations

import re
import textwrap
from functools import cache
from typing import TYPE_CHECKING, Any

from mlf.csource import C_TYPES
from mlf.errors import ToolError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_COLUMNS = 100
_STRENGTH = {
    "||": 0, "&&": 1, "|": 2, "^": 3, "&": 4, "==": 5, "!=": 5, "<": 6, ">": 6, "<=": 6, ">=": 6, "<<": 7, ">>": 7, "+": 8,
    "-": 8, "*": 9, "/": 9, "%": 9,
}  # fmt: skip
_SUMS = ("+", "-", "*", "/", "%")
_CHAINS = ("||", "&&")
_ADJUSTED = ("+", "-", "*", "/")


def tidied(function: str) -> str:
    """Print a definition of a C function again, the body only; `function` has nothing but C99's fixed-width types.

    Raises ToolError without pycparser.
    """
    try:
        from pycparser import c_parser  # noqa: PLC0415  # of an optional front end
    except ImportError as error:
        raise ToolError("pycparser is not installed", hint="pip install 'mlf[tvm]'") from error

    names = [*C_TYPES, "size_t"]
    typedefs = "".join(f"typedef int {name};\n" for name in names if name not in ("float", "double"))
    definition = c_parser.CParser().parse(typedefs + function).ext[-1]
    printer = _Printer()
    printer.statements(definition.body.block_items or (), 1)
    return "".join(f"{line}\n" for line in printer.lines)


class _Printer:
    """Collects the lines of a body."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def statements(self, nodes: Sequence[Any], depth: int) -> None:
        at = 0
        while at < len(nodes):
            chosen = _choice(nodes[at], nodes[at + 1]) if at + 1 < len(nodes) else None
            if chosen:
                self._line(chosen, depth)
            else:
                self._statement(nodes[at], depth)
            at += 2 if chosen else 1

    def _statement(self, node: Any, depth: int) -> None:
        kind = type(node).__name__
        if kind == "For":
            self._block(f"for ({_plain(node.init)}; {_plain(node.cond)}; {_plain(node.next)})", node.stmt, depth)
        elif kind == "While":
            self._block(f"while ({_plain(node.cond)})", node.stmt, depth)
        elif kind == "If":
            self._if(node, depth)
        elif kind == "Compound":
            self.statements(node.block_items or (), depth)
        else:
            self._line(f"{_plain(node)};", depth)

    def _if(self, node: Any, depth: int) -> None:
        self._block(f"if ({_plain(node.cond)})", node.iftrue, depth)
        if node.iffalse is None:
            return
        self.lines.pop()
        if type(node.iffalse).__name__ == "If":
            first = len(self.lines)
            self._if(node.iffalse, depth)
            self.lines[first] = f"{'  ' * depth}}} else {self.lines[first].lstrip()}"
        else:
            self._block("} else", node.iffalse, depth)

    def _block(self, head: str, node: Any, depth: int) -> None:
        self._line(f"{head} {{", depth)
        items = node.block_items or () if type(node).__name__ == "Compound" else (node,)
        self.statements(items, depth + 1)
        self._line("}", depth)

    def _line(self, text: str, depth: int) -> None:
        self.lines += _wrapped(text, depth)


def _wrapped(text: str, depth: int) -> list[str]:
    """Break a long line behind commas and before operators, but not inside brackets."""
    indent = "  " * depth
    if len(indent) + len(text) <= _COLUMNS:
        return [indent + text]
    glued = re.sub(r"(?<!,) (?!(?:[-+*/%&|?:]|&&|\|\||[<>]=?|<<|>>|==|!=) )", "\0", text)
    glued = re.sub(r"\[[^]]*\]", lambda found: found[0].replace(" ", "\0"), glued)
    lines = textwrap.wrap(
        glued, _COLUMNS, initial_indent=indent, subsequent_indent=indent + "    ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return [line.replace("\0", " ") for line in lines]


def _choice(declaration: Any, test: Any) -> str | None:
    """Write `T v; if (c) { v = a; } else { v = b; }` as `T v = c ? a : b;`; None for anything else."""
    if type(declaration).__name__ != "Decl" or declaration.init is not None or type(test).__name__ != "If":
        return None
    first, second = (_assigned(branch, declaration.name) for branch in (test.iftrue, test.iffalse))
    if first is None or second is None:
        return None
    return f"{_plain(declaration)} = {_operand(test.cond)} ? {_operand(first)} : {_operand(second)};"


def _assigned(branch: Any, name: str) -> Any:
    """Give what a branch assigns to a variable, if that is all it does."""
    items: Sequence[Any] = (branch.block_items or ()) if type(branch).__name__ == "Compound" else ()
    if len(items) != 1 or type(items[0]).__name__ != "Assignment" or items[0].op != "=":
        return None
    target = items[0].lvalue
    return items[0].rvalue if type(target).__name__ == "ID" and target.name == name else None


@cache
def _generator() -> Any:
    from pycparser import c_generator  # noqa: PLC0415

    return c_generator.CGenerator()


def _plain(node: Any) -> str:
    """Write an expression or a declaration."""
    if node is None:
        return ""
    writer = _WRITERS.get(type(node).__name__)
    return writer(node) if writer else str(_generator().visit(node))


def _operand(node: Any) -> str:
    """Write what a choice chooses from: another choice in parentheses."""
    text = _plain(node)
    return f"({text})" if type(node).__name__ in ("TernaryOp", "Assignment") else text


def _tight(node: Any) -> str:
    """Write what a cast or a sign is for: all but a name, a number, an element or a call in parentheses."""
    text = _plain(node)
    return text if type(node).__name__ in ("ID", "Constant", "ArrayRef", "FuncCall", "Cast") else f"({text})"


def _binary(node: Any) -> str:
    left, right = (_side(node, child, is_right=child is node.right) for child in (node.left, node.right))
    return f"{left} {node.op} {right}"


def _side(node: Any, child: Any, *, is_right: bool) -> str:
    text = _plain(child)
    kind = type(child).__name__
    if kind in ("TernaryOp", "Assignment") or (kind == "UnaryOp" and child.op == "!"):
        return f"({text})"
    return text if kind != "BinaryOp" or _is_clear(node.op, child.op, is_right=is_right) else f"({text})"


def _is_clear(outer: str, inner: str, *, is_right: bool) -> bool:
    """Tell whether an operation inside another needs no parentheses, neither for C nor for compilers that warn."""
    weaker = _STRENGTH[inner] < _STRENGTH[outer] or (is_right and _STRENGTH[inner] == _STRENGTH[outer])
    if weaker:
        return False
    if outer in _SUMS:
        return True
    if outer in ("<<", ">>", "&", "|", "^"):
        return False
    return inner in _SUMS or (outer in _CHAINS and (inner not in _CHAINS or inner == outer))


def _assignment(node: Any) -> str:
    target, value = _plain(node.lvalue), node.rvalue
    if node.op == "=" and type(value).__name__ == "BinaryOp" and value.op in _ADJUSTED and _plain(value.left) == target:
        return f"{target} {value.op}= {_plain(value.right)}"
    return f"{target} {node.op} {_plain(value)}"


def _declaration(node: Any) -> str:
    if node.init is None or type(node.init).__name__ == "InitList":
        return str(_generator().visit(node))
    value, node.init = node.init, None
    text = f"{_generator().visit(node)} = {_plain(value)}"
    node.init = value
    return text


def _choose(node: Any) -> str:
    limited = _limited(node)
    if limited:
        return limited
    condition, first, second = _operand(node.cond), _operand(node.iftrue), _operand(node.iffalse)
    return f"{condition} ? {first} : {second}"


def _limited(node: Any) -> str | None:
    """Write `x > 0.0f ? x : 0.0f`, and `x < 6.0f ? x : 6.0f`, as calls of functions that need no comparison of floats."""
    test, limit = node.cond, node.iffalse
    if type(test).__name__ != "BinaryOp" or type(limit).__name__ != "Constant" or limit.type != "float":
        return None
    value = _plain(node.iftrue)
    if (_plain(test.left), _plain(test.right)) != (value, limit.value):
        return None
    if test.op == ">" and float(limit.value[:-1]) == 0:
        return f"relu({value})"
    return f"at_most({value}, {limit.value})" if test.op == "<" and float(limit.value[:-1]) > 0 else None


def _unary(node: Any) -> str:
    if node.op in ("p++", "p--"):
        return f"{_tight(node.expr)}{node.op[1:]}"
    return f"sizeof({_plain(node.expr)})" if node.op == "sizeof" else f"{node.op}{_tight(node.expr)}"


_WRITERS: Mapping[str, Callable[[Any], str]] = {
    "ArrayRef": lambda node: f"{_tight(node.name)}[{_plain(node.subscript)}]",
    "Assignment": _assignment,
    "BinaryOp": _binary,
    "Cast": lambda node: f"({_generator().visit(node.to_type).replace(' *', '*')}){_tight(node.expr)}",
    "Decl": _declaration,
    "ExprList": lambda node: ", ".join(map(_plain, node.exprs)),
    "DeclList": lambda node: ", ".join(map(_plain, node.decls)),
    "FuncCall": lambda node: f"{_plain(node.name)}({_plain(node.args)})",
    "TernaryOp": _choose,
    "UnaryOp": _unary,
}
