"""What C says at file scope: which functions there are, which tensors they take, which files a file includes.

No C parser: comments, literals and bodies are left out, and each declaration that is left is looked at alone. What is
written in another way than most code is (function pointers, types behind macros) is not found, or found without its type.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlf.csource import C_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NOISE = re.compile(r"/\*.*?(?:\*/|\Z)|//[^\n]*|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'", re.DOTALL)
_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)|//[^\n]*", re.DOTALL)
_DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n\\]|\\.)*", re.MULTILINE | re.DOTALL)
_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*(?:\"([^\"\n]+)\"|<([^>\n]+)>)", re.MULTILINE)
_NUMBER_MACRO = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+\(?([0-9][0-9a-fA-FxX]{0,18}[uUlL]{0,3})\)?[ \t]*$", re.MULTILINE)  # fmt: skip
_EXTERN_C = re.compile(r'\bextern\s*"C"\s*(\{?)')
_ATTRIBUTE = re.compile(r"\b__attribute__\s*\(\((?:[^()]|\([^()]*\)){0,400}\)\)")
_END = re.compile(r";|\{\}")
_MOST_CHUNK_CHARS = 8192  # a longer declaration is data or no declaration
_DECLARATION = re.compile(
    r"(?P<head>[A-Za-z_][\w\s*]{0,400}?[\s*])(?P<name>[A-Za-z_]\w{0,200})\s*\((?P<parameters>[^()]*)\)\s*"
)
_TOKEN = re.compile(r"\w+|\*|\[[^\[\]]*\]")
_STORAGE = frozenset(("extern", "inline", "static", "register", "_Noreturn", "__inline", "__inline__", "TVM_DLL"))
_QUALIFIERS = frozenset(("const", "volatile", "restrict", "__restrict", "__restrict__", "struct"))
_STATUS_TYPES = frozenset(("int", "int32_t", "signed", "signed int"))
_TYPES: Mapping[str, str] = {
    **C_TYPES, "_Bool": "bool", "_Float16": "float16", "__fp16": "float16", "signed char": "int8", "unsigned char": "uint8",
    "char": "int8", "short": "int16", "unsigned short": "uint16", "int": "int32", "signed int": "int32", "unsigned": "uint32",
    "unsigned int": "uint32", "long long": "int64", "unsigned long long": "uint64",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CParameter:
    """A parameter of a function; dtype and shape are None where the declaration does not tell them."""

    name: str
    dtype: str | None
    shape: tuple[int, ...] | None
    is_pointer: bool
    is_const: bool

    @property
    def elements(self) -> int | None:
        """The number of elements of an array."""
        return None if self.shape is None else math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class CFunction:
    """A function that is declared or defined; `returns` is `status`, `void` or `other`."""

    name: str
    parameters: tuple[CParameter, ...]
    returns: str
    is_static: bool
    is_definition: bool


def includes(text: str) -> tuple[tuple[str, bool], ...]:
    """List the files that a text includes, and whether their names are in quotation marks."""
    found = _INCLUDE.findall(_directives(text, "include"))
    return tuple(dict.fromkeys((quoted or angled, bool(quoted)) for quoted, angled in found))


def number_macros(text: str) -> dict[str, int]:
    """Give the macros of a text that are plain numbers."""
    found = {name: _number(value) for name, value in _NUMBER_MACRO.findall(_directives(text, "define"))}
    return {name: value for name, value in found.items() if value is not None}


def _directives(text: str, word: str) -> str:
    """Give the lines of a text that hold a word, without comments; weights make sources large, directives do not."""
    if word not in text:
        return ""
    plain = _COMMENT.sub(" ", text) if "/*" in text or "//" in text else text
    return "\n".join(line for line in plain.splitlines() if word in line)


def plain_code(text: str) -> str:
    """Leave comments, literals and directives out; `extern "C"` stays."""
    return _DIRECTIVE.sub(" ", _NOISE.sub(lambda found: '"C"' if found[0] == '"C"' else " ", text))


def functions(text: str, macros: Mapping[str, int]) -> tuple[CFunction, ...]:
    """List the functions that a text declares or defines; `macros` give the extents of arrays their numbers."""
    scope = _EXTERN_C.sub(" ", _file_scope(_EXTERN_C.sub(" ", plain_code(text))))
    ends = list(_END.finditer(scope))
    starts = [0, *(end.end() for end in ends)]
    found = (_function(scope[start : end.start()], end[0], macros) for start, end in zip(starts, ends, strict=False))
    return tuple(item for item in found if item)


def _file_scope(code: str) -> str:
    """Replace what is in braces by empty ones; a brace that nothing opened belongs to `extern "C" {`."""
    pieces: list[str] = []
    depth = start = 0
    for brace in re.finditer(r"[{}]", code):
        if brace[0] == "{":
            if depth == 0:
                pieces.append(code[start : brace.start()])
            depth += 1
            continue
        if depth == 0:
            pieces.append(code[start : brace.start()])
        elif depth == 1:
            pieces.append("{}")
        depth = max(depth - 1, 0)
        start = brace.end()
    return "".join([*pieces, code[start:] if depth == 0 else ""])


def _function(chunk: str, end: str, macros: Mapping[str, int]) -> CFunction | None:
    if len(chunk) > _MOST_CHUNK_CHARS or "(" not in chunk:
        return None
    found = _DECLARATION.fullmatch(_ATTRIBUTE.sub(" ", chunk).strip())
    if found is None or "typedef" in found["head"].split():
        return None
    words = found["head"].replace("*", " * ").split()
    kind = " ".join(word for word in words if word not in _STORAGE and word != "const")
    return CFunction(
        name=found["name"],
        parameters=tuple(_parameters(found["parameters"], macros)),
        returns="void" if kind == "void" else "status" if kind in _STATUS_TYPES else "other",
        is_static="static" in words,
        is_definition=end == "{}",
    )


def _parameters(text: str, macros: Mapping[str, int]) -> Iterator[CParameter]:
    for item in text.split(","):
        tokens = _TOKEN.findall(item)
        if tokens in ([], ["void"]):
            continue
        extents = [token[1:-1] for token in tokens if token.startswith("[")]
        words = [token for token in tokens if token[0] not in "[*" and token not in _QUALIFIERS]
        stars = tokens.count("*")
        first = tokens.index("*") if stars else len(tokens)
        shape = tuple(_extent(extent, macros) for extent in extents)
        yield CParameter(
            name=words[-1] if len(words) > 1 else "",
            dtype=_TYPES.get(" ".join(words[:-1])) if stars + bool(extents) <= 1 else None,
            shape=tuple(extent or 0 for extent in shape) if shape and all(shape) and not stars else None,
            is_pointer=bool(stars or extents),
            is_const="const" in tokens[:first],
        )


def _extent(text: str, macros: Mapping[str, int]) -> int | None:
    """Give the value of an extent: numbers and macros, multiplied."""
    factors = [word for word in re.sub(r"[()]", " ", text).split() if word not in ("static", *_QUALIFIERS)]
    values = [macros.get(word, _number(word)) for word in " ".join(factors).split("*") for word in [word.strip()]]
    known = [value for value in values if value is not None]
    return math.prod(known) if known and len(known) == len(values) else None


def _number(text: str) -> int | None:
    digits = re.fullmatch(r"(0[xX][0-9a-fA-F]{1,16}|[1-9][0-9]{0,18}|0)[uUlL]{0,3}", text)
    return int(digits[1], 0) if digits else None
