"""Tests for padding inside sums become bounds of loops: what lies outside a tensor is not visited, instead of tested for.

TVM writes a padded sum as a loop that asks at every element whether it is inside, and adds zero if not. Nearly always the
question depends on one loop variable at a time, and then the loop can begin and end where the tensor does.
"""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_LOOP = re.compile(
    r"(?P<indent> *)for \(int32_t (?P<variable>\w+) = 0; (?P=variable) < (?P<extent>\d+); \+\+(?P=variable)\) \{"
)
_DEFINITION = re.compile(r" *int32_t (?P<name>\w+) = (?P<value>[^;?]+);")
_DECLARATION = re.compile(r" *(?P<type>\w+) (?P<name>\w+);")
_TEST = re.compile(r" *if \((?P<condition>.+)\) \{")
_ASSIGNMENT = re.compile(r" *(?P<name>\w+) = (?P<value>.+);")
_SUM = re.compile(r" *(?P<target>\w+(?:\[[^\]]+\])?) = \((?P=target) \+ (?P<term>.+)\);")
_ZERO = re.compile(r"0(?:\.0+(?:e[+-]0+)?f?)?|\(\w+\)0")
_LIMIT = re.compile(r" *const int32_t \w+_(?:begin|end) = .+;")
_MOST_SPLIT_TERMS = 25  # 5 x 5 of one channel
_LINES_OF_TEST = 6  # from the declaration to the brace that closes the other branch

Linear: TypeAlias = dict[str, int]  # factor by variable; the constant has the name ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bound:
    """A condition on a loop: its variable is at least, or less than, an expression of variables outside."""

    variable: str
    is_lower: bool
    text: str


def without_guards(body: str) -> str:
    """Rewrite the body of an operator; whatever has another form than expected stays as it is."""
    lines = body.splitlines()
    at = 0
    while at < len(lines):
        made = _rewritten(lines, at)
        lines, at = (made, at) if made is not None else (lines, at + 1)
    return "".join(f"{line}\n" for line in _without_unused(lines))


def _without_unused(lines: list[str]) -> list[str]:
    """Drop definitions of what nothing reads any more."""
    words = Counter(re.findall(r"\w+", "\n".join(lines)))
    words.subtract(found["name"] for line in lines if (found := _DEFINITION.fullmatch(line)))
    kept = []
    for line in reversed(lines):
        found = _DEFINITION.fullmatch(line)
        if found and words[found["name"]] == 0:
            words.subtract(re.findall(r"\w+", found["value"]))
        else:
            kept.append(line)
    return kept[::-1]


def _rewritten(lines: list[str], at: int) -> list[str] | None:
    """Rewrite the guarded sum whose declaration is the line `at`; None if there is none, or it is of another form."""
    guarded = _guarded(lines, at)
    nest = _nest(lines, at)
    if guarded is None or not nest:
        return None
    condition, kept, end = guarded
    definitions = _definitions(lines)
    variables = [_LOOP.fullmatch(lines[line])["variable"] for line in nest]  # type: ignore[index]  # it matched before
    bounds, rest = [], []
    for conjunct in _conjuncts(condition):
        found = _bound(conjunct, definitions, variables)
        if found is None:
            rest.append(conjunct)
        else:
            bounds.append(found)
    if not bounds:
        return None
    return _assembled(lines, (at, end), nest, bounds, rest, kept)


def _guarded(lines: Sequence[str], at: int) -> tuple[str, list[str], int] | None:
    """Read sums that are all a loop holds, each `T v; if (c) { v = x; } else { v = 0; } sum = (sum + v * y);`, of one condition.

    Gives the condition, the same without it, definitions between the sums among them, and the line behind the last sum.
    """
    conditions: set[str] = set()
    kept: list[str] = []
    names: dict[str, str] = {}
    while at < len(lines) and lines[at].strip() != "}":
        if kept and _DEFINITION.fullmatch(lines[at]):
            kept.append(lines[at])
            at += 1
            continue
        found = _guarded_sum(lines, at)
        if found is None:
            return None
        condition, type_, name, value = found
        conditions.add(condition)
        if value not in names:
            names[value] = name
            kept.append(f"{_indent(lines[at])}{type_} {name} = {value};")
        statement = lines[at + _LINES_OF_TEST]
        kept.append(re.sub(rf"\b{name}\b", names[value], statement))
        written = statement.split()[0].partition("[")[0]
        names = {value: name for value, name in names.items() if not re.search(rf"\b{written}\b", value)}
        at += _LINES_OF_TEST + 1
    return (conditions.pop(), kept, at) if len(conditions) == 1 else None


def _guarded_sum(lines: Sequence[str], at: int) -> tuple[str, str, str, str] | None:
    """Read one such sum: gives its condition, and the type, the name and the value of what it declares."""
    if at + _LINES_OF_TEST + 1 >= len(lines):
        return None
    declaration, test = _DECLARATION.fullmatch(lines[at]), _TEST.fullmatch(lines[at + 1])
    if not declaration or not test or lines[at + 3].strip() != "} else {" or lines[at + 5].strip() != "}":
        return None
    first, other = _ASSIGNMENT.fullmatch(lines[at + 2]), _ASSIGNMENT.fullmatch(lines[at + 4])
    if not first or not other or {first["name"], other["name"]} != {declaration["name"]}:
        return None
    if not _is_neutral(lines[at + 4].strip(), lines[at + _LINES_OF_TEST], declaration["name"]):
        return None
    return test["condition"], declaration["type"], declaration["name"], first["value"]


def _is_neutral(other: str, statement: str, name: str) -> bool:
    """Tell whether adding what stands outside the tensor changes nothing."""
    value = _ASSIGNMENT.fullmatch(other)
    found = _SUM.fullmatch(statement)
    if not value or not found or not _ZERO.fullmatch(value["value"]):
        return False
    return statement.count(name) == 1 and any(_CAST.sub("", factor) == name for factor in _factors(found["term"]))


_CAST = re.compile(r"\(\w+\)|[()]")  # casts make of zero nothing else, parentheses neither


def _factors(term: str) -> list[str]:
    """Split a product in parentheses; what is no product is one factor."""
    inner = term[1:-1] if term.startswith("(") and _matching(term) == len(term) - 1 else term
    parts, depth, start = [], 0, 0
    for index, char in enumerate(inner):
        depth += (char in "([") - (char in ")]")
        if depth == 0 and inner[index : index + 3] in (" + ", " - ", " / ", " % ", " ? "):
            return [term]
        if depth == 0 and inner[index : index + 3] == " * ":
            parts.append(inner[start:index])
            start = index + 3
    return [*parts, inner[start:]]


def _matching(text: str) -> int:
    """Find the parenthesis that closes the first one."""
    depth = 0
    for index, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return index
    return -1


def _nest(lines: Sequence[str], at: int) -> list[int]:
    """List the loops around a line, the innermost first, that hold nothing but the next loop and definitions."""
    found: list[int] = []
    indent = len(lines[at]) - len(lines[at].lstrip())
    line = at - 1
    while line >= 0:
        loop = _LOOP.fullmatch(lines[line])
        if loop and len(loop["indent"]) == indent - 2 and _closes(lines, at, len(loop["indent"]), first=not found):
            found.append(line)
            indent -= 2
        elif not _DEFINITION.fullmatch(lines[line]):
            break
        line -= 1
    return found


def _closes(lines: Sequence[str], at: int, indent: int, *, first: bool) -> bool:
    """Tell whether nothing follows the sum, or the inner loop, inside the loop of this indentation."""
    inner = indent + 2
    for line in lines[at:]:
        depth = len(line) - len(line.lstrip())
        if depth == indent and line.strip() == "}":
            return True
        if not first and depth == inner and line.strip() != "}":
            return False
    return False


def _definitions(lines: Sequence[str]) -> Mapping[str, str]:
    found = (_DEFINITION.fullmatch(line) for line in lines)
    return {item["name"]: item["value"] for item in found if item}


def _conjuncts(condition: str) -> Iterator[str]:
    """Split a condition at its `&&`."""
    try:
        tree = ast.parse(condition.replace("&&", " and "), mode="eval").body
    except SyntaxError:
        yield condition
        return
    yield from _split(tree)


def _split(tree: ast.expr) -> Iterator[str]:
    if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And):
        for part in tree.values:
            yield from _split(part)
    else:
        yield ast.unparse(tree).replace(" and ", " && ")


def _bound(conjunct: str, definitions: Mapping[str, str], variables: Sequence[str]) -> _Bound | None:
    """Solve a comparison for the innermost loop variable that it has; None if that takes more than a subtraction."""
    try:
        tree = ast.parse(conjunct, mode="eval").body
    except SyntaxError:
        return None
    if not isinstance(tree, ast.Compare) or len(tree.ops) != 1:
        return None
    left, right = _linear(tree.left, definitions), _linear(tree.comparators[0], definitions)
    if left is None or right is None:
        return None
    if isinstance(tree.ops[0], (ast.LtE, ast.Lt)):
        smaller, larger, is_strict = left, right, isinstance(tree.ops[0], ast.Lt)
    elif isinstance(tree.ops[0], (ast.GtE, ast.Gt)):
        smaller, larger, is_strict = right, left, isinstance(tree.ops[0], ast.Gt)
    else:
        return None
    difference = _sum(larger, smaller, -1)  # which must not be negative; positive if strict
    variable = next((item for item in variables if difference.get(item)), None)
    if variable is None or abs(difference[variable]) != 1:
        return None
    rest = {key: value for key, value in difference.items() if key != variable}
    if difference[variable] == 1:  # variable + rest >= 0 (or > 0)
        return _Bound(variable=variable, is_lower=True, text=_written(_sum({"": 1 if is_strict else 0}, rest, -1)))
    return _Bound(variable=variable, is_lower=False, text=_written(_sum({"": 0 if is_strict else 1}, rest, 1)))


def _sum(first: Linear, second: Linear, factor: int) -> Linear:
    names = {*first, *second}
    return {name: value for name in names if (value := first.get(name, 0) + factor * second.get(name, 0)) or name == ""}


def _linear(tree: ast.expr, definitions: Mapping[str, str]) -> Linear | None:
    """Read a sum of multiples of variables; variables that are defined by such a sum stand for it."""
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int):
        return {"": tree.value}
    if isinstance(tree, ast.Name):
        if tree.id not in definitions:
            return {"": 0, tree.id: 1}
        try:
            return _linear(ast.parse(definitions[tree.id], mode="eval").body, definitions)
        except SyntaxError:
            return None
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        inner = _linear(tree.operand, definitions)
        return None if inner is None else _sum({"": 0}, inner, -1)
    if not isinstance(tree, ast.BinOp):
        return None
    left, right = _linear(tree.left, definitions), _linear(tree.right, definitions)
    if left is None or right is None:
        return None
    if isinstance(tree.op, (ast.Add, ast.Sub)):
        return _sum(left, right, 1 if isinstance(tree.op, ast.Add) else -1)
    if isinstance(tree.op, ast.Mult) and (set(left) == {""} or set(right) == {""}):
        factor, other = (left[""], right) if set(left) == {""} else (right[""], left)
        return {name: value * factor for name, value in other.items()}
    return None


def _written(linear: Linear) -> str:
    """Write a sum of multiples, its first term positive where there is one."""
    terms = sorted(((name, value) for name, value in linear.items() if name and value), key=lambda item: (-item[1], item[0]))  # fmt: skip
    constant = linear.get("", 0)
    text = ""
    if constant or not terms:
        if terms and terms[0][1] > 0 and constant < 0:
            terms.append(("", constant))
        else:
            text = str(constant)
    for name, value in terms:
        term = str(abs(value)) if not name else name if abs(value) == 1 else f"({abs(value)} * {name})"
        sign = "-" if value < 0 else "+" if text else ""
        text = f"{text} {sign} {term}" if text else f"{sign}{term}"
    return text


def _assembled(
    lines: Sequence[str], span: tuple[int, int], nest: Sequence[int], bounds: Sequence[_Bound], rest: Sequence[str], kept: Sequence[str]
) -> list[str]:  # fmt: skip
    at, end = span
    indent = _indent(lines[at])
    if rest:
        kept = [f"{indent}if ({' && '.join(f'({item})' for item in rest)}) {{", *(f"  {line}" for line in kept), f"{indent}}}"]  # fmt: skip
    loops = {line: loop for line in nest if (loop := _LOOP.fullmatch(lines[line]))}
    own = {line: [item for item in bounds if item.variable == loop["variable"]] for line, loop in loops.items()}
    limits = {line: _limits(loop, own[line]) for line, loop in loops.items() if own[line]}
    first, last = nest[-1], next(index for index in range(end, len(lines)) if lines[index] == _indent(lines[nest[-1]]) + "}")  # fmt: skip
    plain = [*lines[first:at], *kept, *lines[end : last + 1]]
    bounded = [text for index in range(first, at) for text in (_headed(loops[index], limits[index]) if index in limits else [lines[index]])]  # fmt: skip
    bounded += [*kept, *lines[end : last + 1]]
    if not rest and _is_small(loops.values()) and not any(_depends(item, loops.values()) for item in bounds):
        made = _with_interior(_indent(lines[first]), list(limits.values()), plain, [line for line in bounded if not _LIMIT.fullmatch(line)])  # fmt: skip
    else:
        made = bounded
    return [*lines[:first], *made, *lines[last + 1 :]]


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _is_small(loops: Iterable[re.Match[str]]) -> bool:
    """Tell whether a sum has so few terms that tests of bounds would take a good part of its time."""
    return math.prod(int(loop["extent"]) for loop in loops) <= _MOST_SPLIT_TERMS


def _depends(bound: _Bound, loops: Iterable[re.Match[str]]) -> bool:
    return any(re.search(rf"\b{loop['variable']}\b", bound.text) for loop in loops)


def _with_interior(indent: str, limits: Sequence[_Limits], plain: Sequence[str], bounded: Sequence[str]) -> list[str]:
    """Write a sum twice: for places where all of its terms are inside, as loops that compilers unroll, and for the rest."""
    declared = [f"{indent}{line}" for item in limits for line in item.declarations]
    inside = " && ".join(test for item in limits for test in item.tests)
    return [
        *declared, f"{indent}if ({inside}) {{", *(f"  {line}" for line in plain), f"{indent}}} else {{",
        *(f"  {line}" for line in bounded), f"{indent}}}",
    ]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limits:
    """Where a loop begins and ends: the variables that say so, and tests for that being all of it."""

    declarations: tuple[str, ...]
    tests: tuple[str, ...]
    begin: str
    end: str


def _limits(loop: re.Match[str], bounds: Sequence[_Bound]) -> _Limits:
    variable, extent = loop["variable"], loop["extent"]
    declarations, tests = [], []
    begin, end = "0", extent
    lower = [item.text for item in bounds if item.is_lower]
    upper = [item.text for item in bounds if not item.is_lower]
    if lower:
        begin = f"{variable}_begin"
        declarations.append(f"const int32_t {begin} = {_extreme('>', '0', lower)};")
        tests.append(f"{begin} == 0")
    if upper:
        end = f"{variable}_end"
        declarations.append(f"const int32_t {end} = {_extreme('<', extent, upper)};")
        tests.append(f"{end} == {extent}")
    return _Limits(declarations=tuple(declarations), tests=tuple(tests), begin=begin, end=end)


def _headed(loop: re.Match[str], limits: _Limits) -> list[str]:
    """Write the head of a loop that begins and ends where its bounds say."""
    indent, variable = loop["indent"], loop["variable"]
    head = f"{indent}for (int32_t {variable} = {limits.begin}; {variable} < {limits.end}; ++{variable}) {{"
    return [*(f"{indent}{line}" for line in limits.declarations), head]


def _extreme(sign: str, limit: str, values: Sequence[str]) -> str:
    """Write the largest or smallest of a number and expressions; there is nearly always one."""
    text = limit
    for value in values:
        other = f"({text})" if "?" in text else text
        text = f"({value}) {sign} {other} ? ({value}) : {other}"
    return text
