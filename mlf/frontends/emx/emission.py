"""What emx-onnx-cgen makes of a prepared model: its C text, taken apart.

The forms looked for are those that emx-onnx-cgen 1.4.0 prints: weights as arrays, `static inline` helpers, one function per
operator, and an entry function that is a list of local arrays and calls.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlf import csource
from mlf.errors import SourceError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ENTRY = "emx_model"
# The types of the arrays in emx's code that every C99 compiler has; `idx_t` is a macro that it defines as int32_t.
C_DTYPES: Mapping[str, str] = {
    **{c_type: dtype for c_type, dtype in csource.C_TYPES.items() if c_type != "half"},
    "_Bool": "bool", "int": "int32", "idx_t": "int32",
}  # fmt: skip
# Headers of C99 that emx's operators need; what wants others wants a system (files, a heap, regular expressions).
_INCLUDES = ("float.h", "limits.h", "math.h", "stdbool.h", "stddef.h", "stdint.h", "string.h")
_MACROS = {"idx_t": "int32_t", "REF_PI_F": "3.14159265358979323846f", "REF_PI_D": "3.14159265358979323846"}
_NOT_C99 = {"_Float16": "float16", "__bf16": "bfloat16"}
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_NODE = re.compile(r"/\*\n \* Node (\d+):\n \* OpType: (\w+)\n \* Name: ([^\n]*)\n")
_HEAD = re.compile(r"^(?:EMX_NODE_FN|static inline|static) (?P<type>\w+) (?P<name>\w+)\((?P<parameters>[^;{}]*)\) \{", re.MULTILINE)  # fmt: skip
_BRACE = re.compile(r"""[{}]|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+'""")
_ARRAY = re.compile(
    r"(?P<const>const )?(?P<type>\w+) (?P<name>\w+)\[(?:restrict )?(?P<first>\d+)\](?P<rest>(?:\[\d+\])*)"
)
_WEIGHT = re.compile(r"^(?P<const>const EMX_UNUSED )?(?P<array>\w+ weight\d\w*(?:\[\d+\])+)(?: = \{(?P<values>[^;]*)\})?;$", re.MULTILINE)  # fmt: skip
_CALL = re.compile(r"(\w+)\(([^();]*)\);")
_ENTRY = re.compile(rf"^void {ENTRY}\((?P<parameters>[^;{{}}]*)\) \{{\n(?P<body>[^{{}}]*)\}}", re.MULTILINE)
_SUMMARY = re.compile(r"\s*\((?:while|during) [^\n]*?op_type=(?P<operator>\w+), name=(?P<name>[^\n]*?), (?:op_class|inputs)=.*", re.DOTALL)  # fmt: skip
_UNKNOWN_OPERATOR = re.compile(r"Unsupported op [\w.]+\.(\w+)$")
_SMALL_INTEGERS = {"true": 1, "false": 0, "INT8_MIN": -128, "UINT8_MAX": 255}


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """An array of emx's code: a parameter, a local variable or a weight."""

    c_type: str
    name: str
    extents: tuple[int, ...]
    is_const: bool

    @property
    def dtype(self) -> str:
        """Its element type as tensors have it."""
        return C_DTYPES[self.c_type]

    @property
    def size_bytes(self) -> int:
        """Its size on every machine."""
        return math.prod(self.extents) * csource.DTYPE_SIZES_BYTES[self.dtype]

    @property
    def declaration(self) -> str:
        """It as a parameter that nothing overlaps."""
        first, *rest = self.extents
        inner = "".join(f"[{extent}]" for extent in rest)
        return f"{'const ' if self.is_const else ''}{self.c_type} {self.name}[restrict {first}]{inner}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function of emx's code; `body` is what stands between its braces."""

    result: str
    name: str
    parameters: str
    body: str


# What emx 1.4.0 calls in its products of quantized matrices and does not define.
_FORGOTTEN = {
    name: Function(result="int64_t", name=name, parameters=f"{c_type} a", body=f"\n    return {function}(a);\n")
    for name, c_type, function in (
        ("ref_scalar_f32_llrint", "float", "llrintf"), ("ref_scalar_f64_llrint", "double", "llrint"),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A call in the entry function: `operator` and `node` are what the model calls it."""

    function: Function
    parameters: tuple[Array, ...]
    arguments: tuple[str, ...]
    operator: str
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Emission:
    """emx's code, taken apart; `weights` have their bytes, `parameters` and `temporaries` are those of the entry function."""

    includes: tuple[str, ...]
    macros: Mapping[str, str]
    helpers: Mapping[str, Function]
    weights: Mapping[str, tuple[Array, bytes]]
    parameters: tuple[Array, ...]
    temporaries: tuple[Array, ...]
    steps: tuple[Step, ...]


def emit(model: Any, names: Mapping[str, str], *, where: str) -> Emission:
    """Run emx on a prepared ModelProto; `names` gives the user's names for those in it.

    Raises UnsupportedError with emx's own reason for what it cannot do, SourceError for code of a form that nobody knows.
    """
    compiler = _compiler()
    try:
        text, data = compiler.compile_with_weight_data(model)
    except Exception as error:  # a compiler of others, which fails in every way that Python has
        raise _refusal(model, error, names, where=where) from error
    return _take_apart(text, data or b"", where=where)


@functools.cache
def _compiler() -> Any:
    """Make the compiler once: it reads all its templates."""
    from emx_onnx_cgen.compiler import Compiler, CompilerOptions  # noqa: PLC0415

    # Weights of more than one byte in all come as bytes instead of text; with 0, no temporary comes from a heap.
    options = CompilerOptions(
        model_name=ENTRY, large_temp_threshold_bytes=0, large_weight_threshold=1, image_decoder_libs=()
    )
    return Compiler(options)


def _refusal(model: Any, error: Exception, names: Mapping[str, str], *, where: str) -> UnsupportedError:
    """Say which node emx failed at, and why."""
    text = re.sub(r"\btensor_\d+\b", lambda found: names.get(found[0], found[0]), str(error)) or type(error).__name__
    found = _SUMMARY.search(text)
    reason = (text[: found.start()] if found else text).split("\n")[0].split(" Hint:")[0].rstrip(". ")
    if found:
        return UnsupportedError(f"emx cannot compile {place(found['operator'], found['name'])}: {reason}", where=where)
    unknown = _UNKNOWN_OPERATOR.search(text)
    nodes = [node for node in model.graph.node if unknown and node.op_type == unknown[1]]
    if nodes:
        return UnsupportedError(f"emx cannot compile {place(nodes[0].op_type, nodes[0].name)}: it has no such operator", where=where)  # fmt: skip
    return UnsupportedError(f"emx cannot compile the model: {type(error).__name__}: {reason}", where=where)


def place(operator: str, node: str) -> str:
    """Name a node in a message."""
    return f"node `{node}` (`{operator}`)"


def _take_apart(text: str, data: bytes, *, where: str) -> Emission:
    nodes = {int(number): (operator, name) for number, operator, name in _NODE.findall(text)}
    code = _COMMENT.sub("", text)
    for word, dtype in _NOT_C99.items():
        if re.search(rf"\b{word}\b", code):
            raise UnsupportedError(f"the model computes in {dtype}, which C99 does not have", where=where)
    functions = {function.name: function for function in _functions(code)}
    entry = _ENTRY.search(code)
    if entry is None:
        raise SourceError(f"the code of emx has no function `{ENTRY}` of the known form", where=where)
    steps = tuple(_steps(entry["body"], functions, nodes, where=where))
    called = {step.function.name for step in steps}
    return Emission(
        includes=tuple(header for header in _INCLUDES if f"#include <{header}>" in code),
        macros={macro: value for macro, value in _MACROS.items() if f"#define {macro} {value}\n" in code},
        helpers={name: function for name, function in (_FORGOTTEN | functions).items() if name not in called},
        weights=_weights(code, data, where=where),
        parameters=_arrays(entry["parameters"], where=where),
        temporaries=_arrays(", ".join(re.findall(r"^    (\w+ \w+(?:\[\d+\])+);$", entry["body"], re.MULTILINE)), where=where),
        steps=steps,
    )  # fmt: skip


def _functions(code: str) -> Iterator[Function]:
    position = 0
    while found := _HEAD.search(code, position):
        position = block_end(code, found.end())
        body = code[found.end() : position - 1]
        yield Function(result=found["type"], name=found["name"], parameters=found["parameters"], body=body)


def block_end(code: str, position: int) -> int:
    """Find where the block ends that the text at `position` is in, behind its brace."""
    depth = 1
    for found in _BRACE.finditer(code, position):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return found.end()
    return len(code)


def _arrays(text: str, *, where: str) -> tuple[Array, ...]:
    """Read parameters, which must all be arrays of fixed size."""
    found = []
    for item in text.split(", ") if text and text != "void" else ():
        matched = _ARRAY.fullmatch(item)
        if matched is None or matched["type"] not in C_DTYPES:
            raise UnsupportedError(
                f"the code of emx has `{item}`, no array of fixed size with elements of C99", where=where
            )
        found.append(_array(matched))
    return tuple(found)


def _array(found: re.Match[str]) -> Array:
    extents = (int(found["first"]), *map(int, re.findall(r"\d+", found["rest"])))
    return Array(c_type=found["type"], name=found["name"], extents=extents, is_const=found["const"] is not None)


def _steps(
    body: str, functions: Mapping[str, Function], nodes: Mapping[int, tuple[str, str]], *, where: str
) -> Iterator[Step]:
    for name, arguments in _CALL.findall(body):
        number = re.match(r"node(\d+)_", name)
        if name not in functions or number is None or int(number[1]) not in nodes:
            raise SourceError(
                f"the code of emx calls `{name}`, which it does not define in the known form", where=where
            )
        operator, node = nodes[int(number[1])]
        parameters = _arrays(functions[name].parameters, where=where)
        given = tuple(arguments.split(", "))
        if len(given) != len(parameters):
            raise SourceError(
                f"the code of emx calls `{name}` with {len(given)} arguments, expected {len(parameters)}", where=where
            )
        yield Step(function=functions[name], parameters=parameters, arguments=given, operator=operator, node=node)


def _weights(code: str, data: bytes, *, where: str) -> Mapping[str, tuple[Array, bytes]]:
    """Read the weights; those that have no values in the code follow each other in `data`."""
    weights = {}
    offset = 0
    for found in _WEIGHT.finditer(code):
        (array,) = _arrays(found["array"], where=where)
        if found["values"] is None:
            content = data[offset : offset + array.size_bytes]
            offset += array.size_bytes
        else:
            content = _small_content(array, found["values"])
        if len(content) != array.size_bytes:
            raise SourceError(f"the code of emx has too few bytes for its weight `{array.name}`", where=where)
        weights[array.name] = (array, content)
    if offset != len(data):
        raise SourceError(f"the code of emx has {len(data)} bytes of weights, expected {offset}", where=where)
    return weights


def _small_content(array: Array, text: str) -> bytes:
    """Read the values of a weight that has one byte, or none: then C still needs an element."""
    values = [item for item in re.split(r"[\s,{}]+", text) if item]
    if not values:
        return bytes(array.size_bytes)
    return bytes(
        _SMALL_INTEGERS[item] & 0xFF if item in _SMALL_INTEGERS else int(item.rstrip("uU")) & 0xFF for item in values
    )
