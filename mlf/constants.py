"""Lifts the initialisers of large constants out of generated C, so that a compiler reads only small text.

Lifted are `static const T name[n] = {...}` at file scope and the constant pool of TVM's memory planner,
`static struct global_const_workspace {...} global_const_workspace = {...}`, which TVM up to 0.16 writes without `const`.
In place of the definition stays a declaration under an assembler name, in as many lines; the bytes are handed back.

Whatever is not understood beyond doubt stays in the text: a slow build is better than a number that the compiler would
have made differently. Relied on are an `int` of at least 32 bits, `double` arithmetic in 64 bits and headers that do not
redefine C's own words. `NAN` is the quiet NaN of IEEE 754-2008; MIPS before release 6 has another.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

Values: TypeAlias = "NDArray[np.generic]"

# Smaller arrays stay: the compiler may fold them into code, and it makes a little less code of arrays that it sees.
LIFT_THRESHOLD_BYTES: Final = 16384
MIN_ALIGNMENT_BYTES: Final = 16  # compilers for x86-64 count on it for every array of 16 bytes, wherever it is defined
MAX_ALIGNMENT_BYTES: Final = 65536  # the largest page of a usual target; more would only bloat objects
MAX_ZERO_FILL_BYTES: Final = 1 << 26  # in one unit: a line of text must not take all of a machine's memory
MAX_HEAD_CHARS: Final = 4096  # of a declaration up to its brace; bounds what hostile text can make us read twice
PIECE_CHARS: Final = 1 << 19  # of an initialiser are parsed at once, so that intermediate arrays stay in the cache

WIDTHS: Final[Mapping[str, int]] = {
    "float": 4,
    "double": 8,
    **{f"{sign}int{8 * width}_t": width for width in (1, 2, 4, 8) for sign in ("", "u")},
}

_UNIT: Final = re.compile(r"[A-Za-z0-9_.]+")  # what an assembler takes as part of a name without quotes
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORD: Final = re.compile(r"[^\W\d]\w*")
_BLANK: Final = re.compile(r"\s*")
_EVENT: Final = re.compile(r"[{};/\"'#]")  # all that decides what the text after it means
_INNER_EVENT: Final = re.compile(r"[{}/\"'#]")
_LITERALS: Final = {
    '"': re.compile(r'(?<!R)"[^"\\\n]*(?:\\.[^"\\\n]*)*"', re.DOTALL),  # after an R it is a raw string
    "'": re.compile(r"(?<!\w)'[^'\\\n]*(?:\\.[^'\\\n]*)*'", re.DOTALL),  # after a digit it may separate digits
}
_COMMENT: Final = re.compile(r"//[^\n]*|/\*[\s\S]*?\*/")
_SPLICE: Final = re.compile(r"\\[ \t\r\f\v]*\n")
_RARE: Final = ("??/", "??=", "??<", "??>", "<%", "%>", "%:", "_Pragma")  # other ways to write \, #, {, } and #pragma
_DIRECTIVE: Final = re.compile(r"#[ \t]*(\w*)[ \t]*(\w*)([^\n\\]*(?:\\(?:[ \t\r\f\v]*\n)?[^\n\\]*)*)")
_PLAIN_DIRECTIVES: Final = frozenset({"", "define", "undef", "include", "error", "warning", "line"})
_HARMLESS_PRAGMA: Final = re.compile(r"\s*(?:once\b|(?:GCC|clang)\s+diagnostic\b)")  # others may pack or move data

_ATTRIBUTE: Final = re.compile(r"__attribute__\s*\(\(((?:[^()]|\([^()]*\))*)\)\)")
_ATTRIBUTE_ITEM: Final = re.compile(
    r'\s*(?:section\s*\(\s*"(?P<section>[^"]*)"\s*\)|aligned\s*\(\s*(?P<aligned>[1-9][0-9]{0,9})\s*\)|(?P<packed>packed)'
    r"|unused|__unused__|)\s*(?:,|\Z)"
)
_DIMENSIONS: Final = re.compile(r"(?:\[\s*[1-9][0-9]{0,11}\s*\]\s*)+")
_POOL_HEAD: Final = re.compile(r"(.*)\b(struct\s+[A-Za-z_][A-Za-z0-9_]*)\s*", re.DOTALL)
_POOL_MEMBER: Final = re.compile(
    r"([^;{}\"/#]+);(?:[ \t]*//[ \t]*([0-9]+) bytes, aligned offset: ([0-9]+)[ \t\r]*$|[ \t]*//[^\n]*)?", re.MULTILINE
)
_POOL_NAME: Final = re.compile(r"\s*(\w+)\s*=\s*(?=\{)")
_POOL_FIELD: Final = re.compile(r"\s*\.\s*(\w+)\s*=\s*(?=\{)")
_POOL_COMMA: Final = re.compile(r"\s*,?\s*")
_END: Final = re.compile(r"\s*;")
_NESTING: Final = re.compile(r"[{},]+")
_TRAILING_COMMA: Final = re.compile(r",\s*(?=\}|\Z)")

_INTEGER: Final = re.compile(
    r"([+-]?)(0[xX][0-9a-fA-F]{1,16}|0[0-7]{0,21}|[1-9][0-9]{0,19})([uU]?(?:ll|LL|[lL])?|(?:ll|LL|[lL])[uU])"
)
_FLOAT: Final = re.compile(
    r"([+-]?(?:(?P<hex>0[xX](?:[0-9a-fA-F]{1,40}\.?[0-9a-fA-F]{0,40}|\.[0-9a-fA-F]{1,40})[pP][+-]?[0-9]{1,5})"
    r"|(?:[0-9]{1,40}\.[0-9]{0,80}|\.[0-9]{1,80})(?:[eE][+-]?[0-9]{1,5})?|[0-9]{1,40}[eE][+-]?[0-9]{1,5}))([fF]?)"
)
_FLOAT_WORDS: Final = {sign + word: float(sign + word) for sign in ("", "+", "-") for word in ("INFINITY", "NAN")}
_HEX_FLOAT_CHARS: Final = b"0123456789abcdefxp.+-, \t\r\n"
_NIBBLE: Final = np.full(256, 0xFF, np.uint8)  # the value of a hexadecimal digit, by its character
_NIBBLE[np.frombuffer(b"0123456789abcdefABCDEF", np.uint8)] = [*range(16), *range(10, 16)]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiftedConstant:
    """One constant: the assembler name of its symbol, its alignment in bytes and its bytes on a little-endian target.

    `elements` has (offset in bytes, width in bytes, count) of every run of numbers; what lies between is padding.
    """

    symbol: str
    alignment: int
    payload: bytes
    elements: tuple[tuple[int, int, int], ...]

    def payload_for(self, big_endian: bool) -> bytes:
        """The bytes on a target of that byte order."""
        if not big_endian:
            return self.payload
        swapped = bytearray(self.payload)
        for offset, width, count in self.elements:
            np.frombuffer(swapped, f"<u{width}", count, offset).byteswap(inplace=True)
        return bytes(swapped)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiftedSource:
    """The C that is left to compile, each line at its old number, and the constants in the order of the text."""

    text: str
    constants: tuple[LiftedConstant, ...]


def lift_constants(text: str, *, unit: str, threshold_bytes: int = LIFT_THRESHOLD_BYTES) -> LiftedSource:
    """Take every constant of at least `threshold_bytes` out of the C `text`; `unit` is its member's stem.

    Symbols are named `mlf.const.<unit>.<name>`. Text that is not understood stays as it is; nothing is raised.
    """
    scan = _Scan(text=text, prefix=f"mlf.const.{unit}.", threshold_bytes=threshold_bytes)
    if not _UNIT.fullmatch(unit) or not scan.run():
        return LiftedSource(text=text, constants=())
    lifts = [lift for lift in scan.lifts if lift.name not in scan.statics]
    pieces, end = [], 0
    for lift in lifts:
        pieces += [text[end : lift.start], lift.replacement]
        end = lift.end
    left = "".join([*pieces, text[end:]])
    if not _is_plain(left, splices=scan.splices):
        return LiftedSource(text=text, constants=())
    return LiftedSource(text=left, constants=tuple(lift.constant for lift in lifts))


def _is_plain(text: str, *, splices: int = 0) -> bool:
    """Whether characters mean what they seem to mean; `splices` continued lines are known of."""
    if any(rare in text for rare in _RARE) or text.count("\r") != text.count("\r\n"):
        return False
    return "\\" not in text or len(_SPLICE.findall(text)) == splices


class _Field(NamedTuple):
    """An array inside a constant, `offset` bytes from its beginning."""

    kind: str
    dimensions: tuple[int, ...]
    offset: int = 0

    @property
    def run(self) -> tuple[int, int, int]:
        return self.offset, WIDTHS[self.kind], math.prod(self.dimensions)

    @property
    def end(self) -> int:
        return self.offset + WIDTHS[self.kind] * math.prod(self.dimensions)


class _Shape(NamedTuple):
    """A constant as its declaration has it; an array has one field, named ""."""

    declaration: str  # without attributes
    name: str
    fields: Mapping[str, _Field]
    size_bytes: int
    declared_alignment: int  # of the variable, 1 if none is
    type_alignment: int
    brace: int  # where the initialiser begins


class _Lift(NamedTuple):
    start: int
    end: int
    replacement: str
    name: str
    constant: LiftedConstant


@dataclass(slots=True, kw_only=True)
class _Scan:
    """A walk over the braces, comments, literals and directives of a C file, collecting what can be lifted."""

    text: str
    prefix: str  # of symbols
    threshold_bytes: int
    lifts: list[_Lift] = field(default_factory=list)
    words: set[str] = field(default_factory=set)  # of file scope so far: a name among them is declared already
    statics: set[str] = field(default_factory=set)  # words of static declarations that stay
    redefined: set[str] = field(default_factory=set)  # macros and type names that the file defines
    conditions: list[int] = field(default_factory=list)  # at each open #if, the depth in braces not of `extern "C"`
    splices: int = 0  # continued lines of directives
    linkage: int = 0  # in braces of `extern "C"`
    parentheses: int = 0  # open ones at file scope
    start: int = 0  # of the declaration at hand
    is_cut: bool = False  # by a directive: the declaration at hand
    zero_fill_bytes: int = 0

    def run(self) -> bool:
        """Collect what can be lifted; False if the file's structure is not understood."""
        position, text = 0, self.text
        while match := _EVENT.search(text, position):
            at = match.start()
            if position < at:
                self.parentheses += text.count("(", position, at) - text.count(")", position, at)
            position = self._step(text[at], at)
            if position < 0 or self.parentheses < 0:
                return False
        return not (self.linkage or self.conditions)

    def _step(self, mark: str, at: int) -> int:
        """Read what `mark` begins; returns where to go on, or -1 if it is not understood."""
        if mark == "{":
            return self._group(at)
        if mark == "}":
            self.linkage -= 1
            self._finish(at)
            return at + 1 if self.linkage >= 0 else -1
        if mark == "#":
            return self._directive(at, 0)
        if mark == ";":
            self._finish(at)
            return at + 1
        position = _skip(self.text, at)
        if mark == "/" and position > at + 1 and self._begins(at):
            self.start = position
        return position

    def _begins(self, at: int) -> bool:
        """Whether nothing but blanks stands between the end of the last declaration and `at`."""
        blank = _BLANK.match(self.text, self.start, at)
        self.start = blank.end() if blank else self.start
        return self.start == at

    def _finish(self, at: int) -> None:
        """Remember the words of the declaration that ends before `at`."""
        if self.parentheses:
            return
        if words := _WORD.findall(self.text, self.start, at):
            self.words.update(words)
            if "static" in words:
                self.statics.update(words)
            if "typedef" in words:
                self.redefined.add(words[-1])
        self.start, self.is_cut = at + 1, False

    def _group(self, brace: int) -> int:
        """Enter a group of `extern "C"`, lift an initialiser or pass by another group in braces."""
        head = "" if self.parentheses else self.text[max(self.start, brace - MAX_HEAD_CHARS) : brace]
        if '"C"' in head and head.split() == ["extern", '"C"']:
            self.linkage += 1
            self._finish(brace)
            return brace + 1
        if "static" in head and (lift := self._lift(brace)):
            self.lifts.append(lift)
            self.words.add(lift.name)
            self.start = lift.end
            return lift.end
        self._finish(brace)
        end = _group_end(self.text, brace, self._directive)
        if not self.parentheses:
            self.start, self.is_cut = end, False
        return end

    def _directive(self, at: int, depth: int) -> int:
        match = _DIRECTIVE.match(self.text, at)
        if not match or self.text[self.text.rfind("\n", 0, at) + 1 : at].strip():
            return -1
        word, operand, rest = match.groups()
        comment = rest.rfind("/*")
        if comment >= 0 and rest.find("*/", comment + 2) < 0:
            return -1
        if not self._follows_condition(word, depth) and not self._tolerates(word, operand, rest):
            return -1
        if "\\" in rest:
            self.splices += len(_SPLICE.findall(rest))
        if depth == 0 and self._begins(at):
            self.start = match.end()
        self.is_cut |= self.start <= at
        return match.end()

    def _follows_condition(self, word: str, depth: int) -> bool:
        """Enter or leave a condition; False for other directives and for branches that do not close what they open."""
        if word in {"if", "ifdef", "ifndef"}:
            self.conditions.append(depth)
            return True
        if word not in {"else", "elif", "endif"} or not self.conditions or self.conditions[-1] != depth:
            return False
        if word == "endif":
            self.conditions.pop()
        return True

    def _tolerates(self, word: str, operand: str, rest: str) -> bool:
        if word in {"define", "undef"}:
            self.redefined.add(operand)
        if word == "pragma":
            return bool(_HARMLESS_PRAGMA.match(operand + rest))
        return word in _PLAIN_DIRECTIVES or word.isdigit()

    def _lift(self, brace: int) -> _Lift | None:
        """The constant whose declaration leads up to `brace`, if all of it is understood."""
        self._begins(brace)
        head = self.text[self.start : brace] if brace - self.start <= MAX_HEAD_CHARS else ""
        if self.is_cut or self.conditions or not _is_plain(head):
            return None
        plain = _COMMENT.sub(lambda comment: " " + "\n" * comment[0].count("\n"), head)
        shape = _array_shape(plain, brace) or _pool_shape(self.text, plain, brace)
        if shape is None or shape.name in self.words or shape.size_bytes < self.threshold_bytes:
            return None
        if not self.redefined.isdisjoint([*_WORD.findall(self.text, self.start, shape.brace), "INFINITY", "NAN"]):
            return None
        runs, close = _shape_values(self.text, shape)
        end = _END.match(self.text, close)
        missing_bytes = shape.size_bytes - sum(values.nbytes for _, values in runs)
        if close < 0 or not end or (missing_bytes and self.zero_fill_bytes + missing_bytes > MAX_ZERO_FILL_BYTES):
            return None
        self.zero_fill_bytes += missing_bytes
        payload = bytearray(shape.size_bytes)
        for offset, values in runs:
            payload[offset : offset + values.nbytes] = values.tobytes()
        return self._lifted(shape, bytes(payload), end.end())

    def _lifted(self, shape: _Shape, payload: bytes, end: int) -> _Lift:
        constant = LiftedConstant(
            symbol=self.prefix + shape.name,
            alignment=max(shape.declared_alignment, shape.type_alignment, MIN_ALIGNMENT_BYTES),
            payload=payload,
            elements=tuple(part.run for part in shape.fields.values()),
        )
        aligned = f", aligned({shape.declared_alignment})" if shape.declared_alignment > 1 else ""
        text = f'{shape.declaration} __asm__("{constant.symbol}") __attribute__((visibility("hidden"){aligned}));'
        lines = self.text.count("\n", self.start, end) - text.count("\n")
        return _Lift(self.start, end, text + "\n" * lines, shape.name, constant)


def _skip(text: str, at: int) -> int:
    """The end of the comment, literal or division sign at `at`; -1 if it does not end."""
    if text[at] in _LITERALS:
        literal = _LITERALS[text[at]].match(text, at)
        return literal.end() if literal else -1
    if text.startswith("//", at):
        end = text.find("\n", at)
        return end if end >= 0 else len(text)
    if text.startswith("/*", at):
        end = text.find("*/", at + 2)
        return end + 2 if end >= 0 else -1
    return at + 1


def _group_end(text: str, brace: int, directive: Callable[[int, int], int]) -> int:
    """The end of the group in braces at `brace`, or -1; `directive` gets the place and depth of each, and skips it."""
    depth, position = 0, brace
    while match := _INNER_EVENT.search(text, position):
        mark, at = match[0], match.start()
        position = at + 1
        if mark == "{":
            depth += 1
        elif mark == "}":
            depth -= 1
        else:
            position = directive(at, depth) if mark == "#" else _skip(text, at)
        if position < 0 or not depth:
            return position
    return -1


def _data_end(text: str, brace: int) -> int:
    """As `_group_end`, for groups in which no directive is understood."""
    return _group_end(text, brace, lambda _at, _depth: -1)


class _Attributes(NamedTuple):
    rest: str  # of the declaration
    section: str
    alignment: int
    packed: bool

    @property
    def allow_lifting(self) -> bool:
        """Whether a variable with these may lie wherever read-only data lies."""
        return not self.packed and (not self.section or self.section.startswith(".rodata"))


def _attributes(text: str) -> _Attributes | None:
    """The attributes of a declaration; None if one is not known."""
    section, alignment, packed = "", 1, False
    for attribute in _ATTRIBUTE.finditer(text):
        position = 0
        while position < len(attribute[1]):
            item = _ATTRIBUTE_ITEM.match(attribute[1], position)
            if not item:
                return None
            section = item["section"] or section
            alignment = max(int(item["aligned"] or 1), alignment)
            packed = packed or bool(item["packed"])
            position = item.end()
    if alignment & (alignment - 1) or alignment > MAX_ALIGNMENT_BYTES:
        return None
    return _Attributes(_ATTRIBUTE.sub(" ", text), section, alignment, packed)


class _Declarator(NamedTuple):
    words: list[str]  # before the name
    name: str
    dimensions: tuple[int, ...]


def _declarator(text: str) -> _Declarator | None:
    """`static const float x[2][3]` in its parts."""
    before, bracket, after = text.partition("[")
    *words, name = before.split() or [""]
    if not _NAME.fullmatch(name) or not _DIMENSIONS.fullmatch(bracket + after):
        return None
    return _Declarator(words, name, tuple(int(size) for size in re.findall(r"[0-9]+", after)))


def _array_shape(head: str, brace: int) -> _Shape | None:
    attributes = _attributes(head)
    before, equals, after = attributes.rest.partition("=") if attributes else ("", "", "")
    declared = _declarator(before)
    if attributes is None or not attributes.allow_lifting or declared is None or not equals or after.strip():
        return None
    words, name, dimensions = declared
    kind = next((word for word in words if word in WIDTHS), "")
    if sorted(words) != sorted(["const", kind, "static"]):
        return None
    part = _Field(kind, dimensions)
    declaration = f"extern const {kind} {name}" + "".join(f"[{size}]" for size in dimensions)
    return _Shape(declaration, name, {"": part}, part.end, attributes.alignment, WIDTHS[kind], brace)


def _pool_shape(text: str, head: str, brace: int) -> _Shape | None:
    match = _POOL_HEAD.fullmatch(head)
    attributes = _attributes(match[1]) if match else None
    if match is None or attributes is None or not attributes.allow_lifting:
        return None
    # without `const`, only the section says that nothing writes to it
    words = sorted(attributes.rest.split())
    if words != ["const", "static"] and (words != ["static"] or not attributes.section):
        return None
    close = _data_end(text, brace) - 1
    named = _POOL_NAME.match(text, close + 1)
    layout = _layout(text[brace + 1 : close], widest=8) if close >= 0 else None
    if layout is None or not layout[0] or not named or not _NAME.fullmatch(named[1]):
        return None
    i386_layout = _layout(text[brace + 1 : close], widest=4)
    if i386_layout is None or layout[:2] != i386_layout[:2]:
        return None
    const = "const " if "const" in words else ""
    lines = "\n" * head.count("\n")
    declaration = f"{lines}extern {const}{match[2]} {text[brace : close + 1]} {named[1]}"
    fields, size_bytes, alignment = layout
    return _Shape(declaration, named[1], fields, size_bytes, attributes.alignment, alignment, named.end())


def _layout(body: str, *, widest: int) -> tuple[dict[str, _Field], int, int] | None:
    """Fields, size and alignment in bytes of a struct of arrays, as its comments have them where there are some.

    `widest` is the largest alignment, in bytes, that the ABI gives a number by itself.
    """
    fields: dict[str, _Field] = {}
    end = position = 0
    struct_alignment = 1
    while match := _POOL_MEMBER.match(body, position):
        attributes = _attributes(match[1])
        declared = _declarator(attributes.rest) if attributes else None
        if attributes is None or attributes.section or declared is None or len(declared.words) != 1:
            return None
        kind = declared.words[0]
        if kind not in WIDTHS or declared.name in fields:
            return None
        alignment = max(1 if attributes.packed else min(WIDTHS[kind], widest), attributes.alignment)
        part = _Field(kind, declared.dimensions, end + -end % alignment)
        if match[2] and (match[2], match[3]) != (f"{part.end - part.offset}", f"{part.offset}"):
            return None
        fields[declared.name] = part
        end, position = part.end, match.end()
        struct_alignment = max(struct_alignment, alignment)
    return None if body[position:].strip() else (fields, end + -end % struct_alignment, struct_alignment)


def _shape_values(text: str, shape: _Shape) -> tuple[list[tuple[int, Values]], int]:
    """Offsets and values of the fields that have some, and the end of the initialiser; -1 if it is not understood."""
    if "" in shape.fields:
        values, end = _initialiser(text, shape.brace, shape.fields[""])
        return [(0, values)], end
    runs: dict[int, Values] = {}
    position = shape.brace + 1
    while match := _POOL_FIELD.match(text, position):
        part = shape.fields.get(match[1])
        if part is None or part.offset in runs:
            return [], -1
        runs[part.offset], end = _initialiser(text, match.end(), part)
        if end < 0:
            return [], -1
        comma = _POOL_COMMA.match(text, end)
        position = comma.end() if comma else end
    return list(runs.items()), position + 1 if text.startswith("}", position) else -1


def _initialiser(text: str, brace: int, part: _Field) -> tuple[Values, int]:
    """The values in the braces at `brace` and where the text goes on; -1 if they are not understood."""
    close = text.find("}", brace)
    if not any(text.find(mark, brace + 1, close) >= 0 for mark in "{/\"'#"):
        values = _numbers(text, brace + 1, close, part.kind)
    else:
        close = _data_end(text, brace) - 1
        body = text[brace + 1 : close]
        flat = _flattened(_COMMENT.sub(" ", body), part.dimensions) if _is_plain(body) else None
        values = None if flat is None else _numbers(flat, 0, len(flat), part.kind)
    if close < 0 or values is None or len(values) > math.prod(part.dimensions):
        return np.empty(0, np.uint8), -1
    return values, close + 1


def _flattened(body: str, dimensions: tuple[int, ...]) -> str | None:
    """The text in nested braces without them; None unless every one of them is complete."""
    if "{" not in body:
        return body
    body = _TRAILING_COMMA.sub("", body)
    if math.prod(dimensions) > len(body):
        return None
    skeleton = "," * (dimensions[-1] - 1)
    for size in reversed(dimensions[:-1]):
        skeleton = ",".join([f"{{{skeleton}}}"] * size)
    if "".join(_NESTING.findall(body)) != skeleton:
        return None
    return body.replace("{", " ").replace("}", " ")


def _numbers(text: str, start: int, end: int, kind: str) -> Values | None:
    """The numbers in `text[start:end]`, as unsigned integers or floats of little-endian byte order."""
    pieces: list[Values] = []
    for piece in _pieces(text, start, end):
        values = _floats(piece, WIDTHS[kind]) if kind in {"float", "double"} else _integers(piece, WIDTHS[kind])
        if values is None:
            return None
        pieces.append(values)
    return np.concatenate(pieces) if pieces else np.empty(0, np.uint8)


def _pieces(text: str, start: int, end: int) -> Iterator[str]:
    """The text in pieces that end with a comma."""
    while start < end:
        comma = text.find(",", min(start + PIECE_CHARS, end), end)
        piece = text[start : comma + 1 if comma >= 0 else end].rstrip()
        start = comma + 1 if comma >= 0 else end
        if piece:
            yield piece if piece.endswith(",") else piece + ","


def _integers(piece: str, width: int) -> Values | None:
    numbers = _fixed_width_integers(piece)
    if numbers is None:
        tokens = piece[:-1].split(",")
        known = {token: _integer(token.strip(), width) for token in set(tokens)}
        if None in known.values():
            return None
        numbers = np.fromiter(map(known.__getitem__, tokens), np.uint64, len(tokens))
    return numbers.astype(f"<u{width}")  # conversion to a narrower type keeps the low bits, as C compilers do


def _fixed_width_integers(piece: str) -> NDArray[np.uint64] | None:
    """TVM's `+0x1f, -0x02, ` and `0x1f, `, all of one width, modulo 2**64; None for other forms."""
    lean = piece.encode("ascii", "replace").translate(None, b" \t\r\n")
    width = lean.index(b",") + 1
    digits = 3 if lean[:1] in {b"+", b"-"} else 2
    if len(lean) % width or not 1 <= width - 1 - digits <= 16:
        return None
    columns = np.ascontiguousarray(np.frombuffer(lean, np.uint8).reshape(-1, width).T)
    nibbles = _NIBBLE[columns[digits:-1]]
    shape = (columns[digits - 2] == ord("0")) & (columns[digits - 1] == ord("x")) & (columns[-1] == ord(","))
    negative = columns[0] == ord("-")
    if not shape.all() or nibbles.max() > 15 or (digits == 3 and not (negative | (columns[0] == ord("+"))).all()):
        return None
    numbers = np.zeros(len(shape), np.uint64)
    for nibble in nibbles:
        numbers = numbers << np.uint64(4) | nibble
    wraps = negative & (numbers >> np.uint64(31) == 1)  # an `unsigned int`, and so is what the minus makes of it
    np.negative(numbers, out=numbers, where=negative)
    numbers[wraps] += np.uint64(1 << 32)
    return numbers


def _integer(token: str, width: int) -> int | None:
    """The value of an integer literal modulo 2**64; None if it is none, or if targets of C differ about it."""
    match = _INTEGER.fullmatch(token)
    if not match:
        return None
    sign, digits, suffix = match[1], match[2].lower(), match[3].lower()
    number = int(digits, 16 if "x" in digits else 8 if digits[0] == "0" else 10)
    if number >> 64:
        return None
    if sign != "-":
        return number
    wraps = digits[0] == "0" and number >> 31 == 1  # an `unsigned int` where `int` and `long` have 32 bits
    if width == 8 and "ll" not in suffix and ("u" in suffix or (wraps and suffix)):
        return None
    return (1 << 32 if wraps and not suffix else 1 << 64) - number & (1 << 64) - 1


def _floats(piece: str, width: int) -> Values | None:
    tokens = piece[:-1].split(",")
    numbers = _hex_floats(piece, len(tokens), width)
    if numbers is None:
        known = {token: _float(token.strip(), width) for token in set(tokens)}
        if None in known.values():
            return None
        numbers = np.fromiter(map(known.__getitem__, tokens), np.float64, len(tokens))
    return numbers.astype("<f8") if width == 8 else _narrowed(numbers)


def _hex_floats(piece: str, count: int, width: int) -> NDArray[np.float64] | None:
    """C99 hexadecimal floats, with a suffix or without; None if another form is among them."""
    lean = piece.replace("f,", ",") if width == 4 else piece
    if lean.count("0x") != count or lean.count("p") != count:
        return None
    if lean.encode("ascii", "replace").translate(None, _HEX_FLOAT_CHARS):
        return None
    try:
        return np.fromiter(map(float.fromhex, lean[:-1].split(",")), np.float64, count)
    except (ValueError, OverflowError):
        return None


def _float(token: str, width: int) -> float | None:
    if token in _FLOAT_WORDS:
        return _FLOAT_WORDS[token]
    match = _FLOAT.fullmatch(token)
    if not match or (match[3] and width == 8):  # `0.1f` is not the double that its digits say
        return None
    try:
        number = float.fromhex(match[1]) if match["hex"] else float(match[1])
    except OverflowError:
        return None
    return None if math.isinf(number) else number


def _narrowed(numbers: NDArray[np.float64]) -> Values | None:
    """As floats; None where rounding the text to double first, and then to float, may not be the same as once.

    That is so only for a double that lies halfway between two floats.
    """
    with np.errstate(over="ignore"):
        floats = numbers.astype("<f4")
    inexact = (floats != numbers) & ~np.isnan(numbers)
    rounded, exact = floats[inexact], numbers[inexact]
    beyond = np.nextafter(rounded, np.where(exact > rounded, np.inf, -np.inf).astype(np.float32))
    if np.isinf(rounded).any() or ((rounded.astype(np.float64) + beyond.astype(np.float64)) / 2 == exact).any():
        return None
    return floats
