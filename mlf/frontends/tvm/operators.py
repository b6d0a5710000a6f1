"""Functions of TIR as the C of a model's operators: plain pointers, no runtime, no heap, nothing that is kept.

TVM's C target prints what is almost that. What it prints wrong or wastes is mended in its text, because text is what its
releases change least: numbers get all their digits, temporaries become memory that the caller lends, pointers get `const`
and `restrict`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlf import codegen
from mlf.csource import C_TYPES
from mlf.errors import UnsupportedError
from mlf.frontends.tvm import helpers
from mlf.frontends.tvm.guards import without_guards
from mlf.frontends.tvm.releases import simplify_pass, source_of
from mlf.frontends.tvm.tidy import tidied

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

_HEAD = re.compile(
    r"^(?:TVM_DLL )?(?:void|int32_t) (?P<name>\w+)\((?P<parameters>[^)]*)\) \{\n(?P<body>.*?)^\}\n",
    re.MULTILINE | re.DOTALL,
)
_ALLOCATION = re.compile(
    r"^ *(?P<type>\w+)\* (?P<name>\w+) = \(?.*?TVMBackendAllocWorkspace\([^;]*?\(uint64_t\)(?P<size>\d+)[^;]*;\n",
    re.MULTILINE,
)
_ALLOCATION_CHECK = r"^ *if \(+{name} == (?:NULL|0)\)+ \{{\n *return -1;\n *\}}\n"
_FREE = re.compile(r"^ *if \(+TVMBackendFreeWorkspace\([^;{]*\{\n *return -1;\n *\}\n", re.MULTILINE)
_ARRAY = re.compile(r"^ *(?P<type>\w+) (?P<name>\w+)\[(?P<count>\d+)\];\n", re.MULTILINE)
_EMPTY_LOOP = re.compile(r"^ *for \(.*\) \{\n *\}\n", re.MULTILINE)
_UNSET = re.compile(r"^( *(?!return\b)\w+ \w+);\n(?! *if )", re.MULTILINE)
_SUFFIX = re.compile(r"\b(\w+?)((?:_intermediate|_ptr|_local)+)(_\d+)?\b")  # what 0.26 and later put behind names
_NAMELESS = re.compile(r"_ptr((?:_\d+)?)")  # what buffers without a name are called
_NUMBER = re.compile(r"(?<![\w.])(?P<digits>\d\.\d{6}e[+-]\d+)(?P<suffix>f?)(?![\w.])")
_SCRIPT_NUMBER = re.compile(r"T\.(?P<dtype>float32|float64)\(\"?(?P<value>[^()\"]+)\"?\)")
_DEFINITION = re.compile(r"^ *def (\w+)\((.*?)(?=^ *def |\Z)", re.MULTILINE | re.DOTALL)
_STACK_BYTES = 32  # of an array that may stay on the stack; larger ones are planned with all other memory
_SIZES = {"float": 4, "double": 8, "bool": 1, "int8_t": 1, "uint8_t": 1, "int16_t": 2, "uint16_t": 2, "int32_t": 4, "uint32_t": 4, "int64_t": 8, "uint64_t": 8}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSource:
    """Operators in C: `text` defines them, `prototypes` declares each, `temporaries` are the sizes of what it must be lent.

    Memory is lent behind all other arguments, in that order.
    """

    text: str
    prototypes: Mapping[str, str]
    temporaries: Mapping[str, tuple[int, ...]]


def operator_source(module: Any, output_counts: Mapping[str, int], *, where: str) -> OperatorSource:
    """Write a module of TIR functions as C; the last parameters of each, so many as `output_counts` says, are written.

    Raises UnsupportedError for an operator that needs more than C99 has.
    """
    script, text = source_of(module, _passes)
    numbers = {name: _exact_numbers(part) for name, part in _DEFINITION.findall(script)}
    definitions, prototypes, temporaries = [], {}, {}
    for found in sorted(_HEAD.finditer(text), key=lambda item: item["name"]):
        writer = _Operator(found, output_counts[found["name"]], numbers.get(found["name"], {}), where)
        definition = f"{writer.head} {{\n{writer.body}}}\n"
        definitions.append(f"{codegen.wrapped(writer.head + ' {', 0)}\n{tidied(definition)}}}\n")
        prototypes[found["name"]] = f"{writer.head};"
        temporaries[found["name"]] = tuple(writer.sizes)
    missing = sorted(set(output_counts) - set(prototypes))
    if missing:
        raise UnsupportedError(f"Apache TVM wrote no C that can be read for `{missing[0]}`", where=where)
    return OperatorSource(text=_headed(definitions), prototypes=prototypes, temporaries=temporaries)


def _passes(tvm: ModuleType) -> Sequence[Any]:
    """List how TVM lowers a scheduled function for a CPU, without packing its arguments and without vectors."""
    blocks, plain = tvm.s_tir.transform, tvm.tirx.transform
    return (
        blocks.CanonicalizeLoop(), blocks.LowerInitBlock(), blocks.PlanAndUpdateBufferAllocationLocation(),
        blocks.ConvertBlocksToOpaque(), blocks.CompactBufferAllocation(), blocks.LowerMatchBuffer(), simplify_pass(tvm),
        blocks.LowerOpaqueBlock(), plain.FlattenBuffer(), plain.BF16ComputeLegalize(), plain.NarrowDataType(32),
        blocks.LoopPartition(), plain.VectorizeLoop(False), plain.StorageRewrite(), blocks.HoistIfThenElse(),
        plain.UnrollLoop(), blocks.RenormalizeSplitPattern(), plain.StmtSimplify(), plain.RemoveNoOp(),
        blocks.RewriteUnsafeSelect(), plain.CommonSubexprElim(), _unpacked(tvm), plain.LowerTVMBuiltin(), plain.LowerIntrin(),
    )  # fmt: skip


def _unpacked(tvm: ModuleType) -> Any:
    from mlf.frontends.tvm.releases import without_packing  # noqa: PLC0415

    def unpack(module: Any, _context: Any) -> Any:
        return tvm.IRModule(
            {name: without_packing(item) for name, item in module.functions.items()}, attrs=module.attrs
        )

    return tvm.transform.module_pass(unpack, opt_level=0)


def _headed(definitions: Sequence[str]) -> str:
    body = "\n".join([*helpers.definitions("\n".join(definitions)), *definitions])
    lines = ["#include <stdint.h>"]
    lines += ["#include <stdbool.h>"] if re.search(r"\b(?:bool|true|false)\b", body) else []
    called = {*re.findall(r"\b([a-z0-9]+)\(", body)} - helpers.functions().keys()
    if called or re.search(r"\b(?:INFINITY|NAN)\b", body):
        lines.insert(0, "#include <math.h>")
    lines += ["#include <string.h>"] if "mem" in body and re.search(r"\bmem(?:cpy|set)\(", body) else []
    return "\n".join(sorted(lines)) + "\n\n" + body


class _Operator:
    """One function: its parts before and after they are mended."""

    def __init__(
        self, found: re.Match[str], output_count: int, numbers: Mapping[tuple[str, str], str], where: str
    ) -> None:
        self.name = found["name"]
        self.where = where
        self.sizes: list[int] = []
        self.lent: list[str] = []
        self.body = self._mended(found["body"], numbers)
        short = _short_names(found["parameters"] + self.body + "".join(self.lent))
        short |= {
            name: f"{name}_" for name in helpers.functions() if re.search(rf"\b{name}\b(?!\()", found["parameters"])
        }
        self.body = _renamed(self.body, short)
        self.lent = [_renamed(item, short) for item in self.lent]
        parameters = _renamed(found["parameters"], short).split(", ") if found["parameters"] else []
        first_output = len(parameters) - output_count
        words = [self._parameter(item, is_written=index >= first_output) for index, item in enumerate(parameters)]
        self.head = f"void {self.name}({', '.join([*words, *self.lent])})"
        unread = [name for item in (*words, *self.lent) if not re.search(rf"\b{(name := item.rpartition(' ')[2])}\b", self.body)]  # fmt: skip
        self.body = "".join(f"  (void){name};\n" for name in unread) + self.body

    def _parameter(self, text: str, *, is_written: bool) -> str:
        type_, _, name = text.rpartition(" ")
        word = type_.rstrip("*").strip()
        if word not in C_TYPES and word not in _SIZES:
            raise UnsupportedError(f"operator `{self.name}` has elements of the type `{word}`, which C99 has not", where=self.where)  # fmt: skip
        return f"{'' if is_written else 'const '}{word}* restrict {name}"

    def _mended(self, body: str, numbers: Mapping[tuple[str, str], str]) -> str:
        body = _ALLOCATION.sub(self._lend_workspace, body)
        body = _FREE.sub("", body)
        for item in self.lent:
            body = re.sub(_ALLOCATION_CHECK.format(name=item.rpartition(" ")[2]), "", body, flags=re.MULTILINE)
        body = _ARRAY.sub(self._lend_array, body)
        if "TVMBackend" in body:
            raise UnsupportedError(f"operator `{self.name}` calls TVM's runtime", where=self.where)
        body = _with_first_values(without_guards(_with_scalars(body)))
        body = _NUMBER.sub(lambda item: numbers.get((item["digits"], item["suffix"]), item[0]), body)
        return re.sub(r"\binff?\b", "INFINITY", re.sub(r"\bnanf?\b(?!\()", "NAN", body))

    def _lend_workspace(self, found: re.Match[str]) -> str:
        self._lend(found["type"], found["name"], int(found["size"]))
        return ""

    def _lend_array(self, found: re.Match[str]) -> str:
        size_bytes = int(found["count"]) * _SIZES.get(found["type"], 8)
        if size_bytes <= _STACK_BYTES:
            return found[0]
        self._lend(found["type"], found["name"], size_bytes)
        return ""

    def _lend(self, type_: str, name: str, size_bytes: int) -> None:
        if any(item.endswith(f" {name}") for item in self.lent):
            raise UnsupportedError(f"operator `{self.name}` has two temporaries called `{name}`", where=self.where)
        self.sizes.append(size_bytes)
        self.lent.append(f"{type_}* restrict {name}")


def _short_names(text: str) -> dict[str, str]:
    """Find the names that can lose their suffix, because no other name is what is left."""
    words = set(re.findall(r"\w+", text))
    found: dict[str, list[str]] = {}
    for word in sorted(words):
        parts = _SUFFIX.fullmatch(word)
        nameless = _NAMELESS.fullmatch(word)
        if nameless:
            found[f"total{nameless[1]}"] = [word]
        elif parts:
            found.setdefault(parts[1] + (parts[3] or ""), []).append(word)
    return {long[0]: short for short, long in found.items() if len(long) == 1 and short not in words}


def _renamed(text: str, names: Mapping[str, str]) -> str:
    return re.sub(r"\w+\b(?!\()", lambda word: names.get(word[0], word[0]), text) if names else text


def _with_scalars(body: str) -> str:
    """Make arrays of one element plain variables."""
    for found in _ARRAY.finditer(body):
        name = found["name"]
        uses = re.findall(rf"\b{name}\b(\[0\])?", body)
        if found["count"] == "1" and uses.count("") == 1:  # its definition
            body = re.sub(rf"\b{name}\[0\]", name, body).replace(
                f"{found['type']} {name}[1];", f"{found['type']} {name};"
            )
            body = _without_unread(body, found["type"], name)
    return body


def _without_unread(body: str, type_: str, name: str) -> str:
    """Drop a variable that is written and never read, and the loops that do nothing else."""
    rest = re.sub(rf"^ *(?:{type_} {name}|{name} = .*);\n", "", body, flags=re.MULTILINE)
    if re.search(rf"\b{name}\b", rest):
        return body
    count = 1
    while count:
        rest, count = _EMPTY_LOOP.subn("", rest)
    return rest


def _with_first_values(body: str) -> str:
    """Start every variable at 0, but those that a test sets at once: not all compilers see that a loop sets them first."""
    return _UNSET.sub(r"\1 = 0;\n", body)


def _exact_numbers(script: str) -> dict[tuple[str, str], str]:
    """Find all digits of the numbers that TVM prints with seven: its script of an operator has them.

    Two numbers of an operator that print alike are rare; then the digits stay as they are, which are right to 1e-6.
    """
    found: dict[tuple[str, str], set[float]] = {}
    for item in _SCRIPT_NUMBER.finditer(script):
        try:
            value = abs(float(item["value"]))
        except ValueError:
            continue
        suffix = "f" if item["dtype"] == "float32" else ""
        found.setdefault((f"{value:.6e}", suffix), set()).add(_rounded(value) if suffix else value)
    return {key: _literal(values.pop(), key[1]) for key, values in found.items() if len(values) == 1}


def _rounded(value: float) -> float:
    import numpy as np  # noqa: PLC0415

    return float(np.float32(value))


def _literal(value: float, suffix: str) -> str:
    text = f"{value:.9g}" if suffix else repr(value)
    return (text if any(char in text for char in ".en") else f"{text}.0") + suffix
