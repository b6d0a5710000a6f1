"""A function of emx's code as an operator of a program: public, without large arrays on the stack, warnings or state."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlf.errors import UnsupportedError
from mlf.frontends.emx.emission import C_DTYPES, Array, block_end, place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlf.frontends.emx.emission import Function, Step

# Arrays above this size leave the stack for the arena; smaller ones cost less where they are.
_MAX_STACK_BYTES = 256
_LOCAL = re.compile(r"^[ \t]*(?P<type>[A-Za-z_]\w*) (?P<name>[A-Za-z_]\w*)(?P<extents>(?:\[[^\[\];]+\])+);[ \t]*\n", re.MULTILINE)  # fmt: skip
_TABLE = re.compile(
    r"^(?P<indent>[ \t]*)(?P<table>const \w+ (?P<name>\w+)(?:\[\d*\])+(?: EMX_UNUSED)? = \{(?P<values>[^;]*)\};)",
    re.MULTILINE,
)
# What emx marks as perhaps unused with an attribute that not every compiler has.
_MARKED = re.compile(r"(?P<name>\b\w+)(?P<extents>(?:\[[^\[\]]*\])*) EMX_UNUSED(?P<rest>[^;]*;)")
_WORD = re.compile(r"(?<![\w.])[A-Za-z_]\w*")
# What may stand in a table of constants beside numbers.
_CONSTANT_WORDS = re.compile(r"NAN|INFINITY|true|false|U?INT\d+_(?:MIN|MAX|C)")
_LABEL = re.compile(r"(\bcase \d+:|\bdefault:)(?=\s+\w+ \w+ =)")
_COUNT = re.compile(r"^([ \t]*)(\w+ reduce_count = [^;]*;)", re.MULTILINE)
_STATE = re.compile(r"^[ \t]*static (?!const\b|inline\b)|\b(?:malloc|calloc|realloc|free|fopen|printf)\(", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """An operator in C: `scratch` are the arrays that it takes behind its parameters, which it only writes for itself."""

    text: str
    prototype: str
    scratch: tuple[Array, ...]


def kernel_of(step: Step, symbol: str, *, where: str) -> Kernel:
    """Make a public function `symbol` of the function that a step calls.

    Raises UnsupportedError if it keeps state, allocates, or needs a stack of a size that only a run tells.
    """
    at = place(step.operator, step.node)
    body = _checked(step.function, at, where=where)
    body, scratch = _without_large_arrays(_with_static_tables(body), at, where=where)
    parameters = (*step.parameters, *scratch)
    prototype = f"void {symbol}({', '.join(parameter.declaration for parameter in parameters)})"
    used = set(_WORD.findall(body))
    unused = "".join(f"    (void){parameter.name};\n" for parameter in parameters if parameter.name not in used)
    return Kernel(
        text=f"{prototype} {{\n{unused}{body.lstrip(chr(10))}}}\n", prototype=f"{prototype};", scratch=scratch
    )


def helper_text(function: Function, *, where: str) -> str:
    """Give a helper as a function of its file alone."""
    at = f"the function `{function.name}` of emx"
    body, scratch = _without_large_arrays(_with_static_tables(_checked(function, at, where=where)), at, where=where)
    if scratch:
        raise UnsupportedError(
            f"{at} needs {scratch[0].size_bytes} bytes of stack for `{scratch[0].name}`", where=where
        )
    return f"static {function.result} {function.name}({function.parameters}) {{{body}}}\n"


def _checked(function: Function, at: str, *, where: str) -> str:
    found = _STATE.search(function.body)
    if found:
        raise UnsupportedError(f"emx's code for {at} keeps state or needs a system: `{found[0].strip()}`", where=where)
    # C99 wants a statement behind a label; some compilers warn of a count that nothing reads.
    return _COUNT.sub(r"\1\2\n\1(void)reduce_count;", _LABEL.sub(r"\1 ;", function.body))


def _with_static_tables(body: str) -> str:
    """Keep tables of constants in flash instead of writing them onto the stack in each call; drop what nothing reads."""

    def static(found: re.Match[str]) -> str:
        if len(re.findall(rf"\b{found['name']}\b", body)) == 1:
            return ""
        is_constant = all(_CONSTANT_WORDS.fullmatch(word) for word in _WORD.findall(found["values"]))
        return f"{found['indent']}{'static ' if is_constant else ''}{found['table']}"

    return _MARKED.sub(r"\g<name>\g<extents>\g<rest>\n    (void)\g<name>;", _TABLE.sub(static, body))


def _without_large_arrays(body: str, at: str, *, where: str) -> tuple[str, tuple[Array, ...]]:
    """Make parameters of the local arrays that are large; arrays of one name in separate blocks become separate ones."""
    scratch: dict[str, Array] = {}
    position = 0
    while found := _LOCAL.search(body, position):
        array = _local_array(found, body, at, where=where)
        if array is None or array.size_bytes <= _MAX_STACK_BYTES:
            declaration = found[0] if array is None else _fixed(found, array)
            body = body[: found.start()] + declaration + body[found.end() :]
            position = found.start() + len(declaration)
            continue
        end = block_end(body, found.end())
        name = array.name
        while name in scratch and scratch[name].extents != array.extents:
            name += "_"
        scope = re.sub(rf"\b{array.name}\b", name, body[found.end() : end])
        if re.search(rf"\bsizeof\b[\s(*]*{name}\b", scope):
            raise UnsupportedError(f"emx's code for {at} asks for the size of `{array.name}`, which is too large for the stack", where=where)  # fmt: skip
        scratch[name] = Array(c_type=array.c_type, name=name, extents=array.extents, is_const=False)
        body = body[: found.start()] + scope + body[end:]
        position = found.start()
    return body, tuple(scratch.values())


def _local_array(found: re.Match[str], body: str, at: str, *, where: str) -> Array | None:
    """Read the declaration of a local array; None for what is no declaration of one."""
    if found["type"] not in C_DTYPES:
        return None
    extents = tuple(_extents(found["extents"], body))
    if None in extents:
        raise UnsupportedError(f"emx's code for {at} needs an array `{found['name']}` on the stack whose size only a run tells", where=where)  # fmt: skip
    return Array(c_type=found["type"], name=found["name"], extents=tuple(filter(None, extents)), is_const=False)


def _extents(text: str, body: str) -> Iterator[int | None]:
    for item in re.findall(r"\[([^\[\]]+)\]", text):
        if item.isdecimal():
            yield int(item)
            continue
        # A variable that gets one value, and that a constant, is a constant.
        values = re.findall(rf"(?<![\w.>]){re.escape(item)} *[-+*/]?= *([^;=]+);", body)
        yield int(values[0]) if len(values) == 1 and values[0].isdecimal() else None


def _fixed(found: re.Match[str], array: Array) -> str:
    """Declare an array with numbers where the code has variables, which would make its size a matter of the run."""
    extents = "".join(f"[{extent}]" for extent in array.extents)
    return found[0].replace(found["name"] + found["extents"], array.name + extents)
