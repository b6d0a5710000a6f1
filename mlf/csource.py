"""Facts read from the C that TVM generates: who calls what, in which order, with which types and how much memory.

Metadata loses the order of tensors and often their sizes; the code cannot. Nothing here is a C parser: each function looks
for one form that TVM's code generators printed between 0.8 and 0.18, and says None where it is absent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_STRUCT = re.compile(r"struct\s+(\w+)\s*\{([^{}]*)\}")
_FIELD = re.compile(r"void\s*\*\s*(\w+)\s*;")
_MACRO = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+(-?\d+)[ \t]*$", re.MULTILINE)
_POOL_DATA = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)_CONSTANT_POOL_DATA\b((?:[^\n]*\\\n)*[^\n]*)", re.MULTILINE)
_INTERNAL_POOL = re.compile(
    r"__attribute__\(\((?P<attributes>[^;{}]*?)\)\)\s*static\s+uint8_t\s+(?P<name>\w+)\[(?P<size>\d+)\]\s*;"
)
_ALIGNED = re.compile(r"aligned\((\d+)\)")
_CONSTANT_ARRAY = re.compile(r"\bstatic\s+const\s+(\w+)\s+[^;={}]*?\[(\d+)\]\s*=\s*\{")
_CONSTANT_POOL = re.compile(r"\}\s*;\s*//\s*of total size (\d+) bytes")
_ALLOCATE = re.compile(r"(\w+)\s*=\s*(?:\([^()]*\)\s*)?TVMBackendAllocWorkspace\([^;]*?\(uint64_t\)\s*(\d+)\s*,")
_FREE = re.compile(r"TVMBackendFreeWorkspace\([^;,]*,[^;,]*,\s*(?:\([^()]*\)\s*)?(\w+)\s*\)")
_FUNCTION = re.compile(r"^(?:TVM_DLL\s+)?(?:static\s+)?int32_t\s+(\w+)\(([^()]*)\)\s*\{", re.MULTILINE)
_CALL = re.compile(r"\b(\w+)\(")
_PARAMETER = re.compile(r"^(?:const\s+)?(?:struct\s+)?(\w+)\s*(\*?)\s*(?:restrict\s+)?(\w+)$")

WORKSPACE_ALIGNMENT_BYTES = 16  # TVM_RUNTIME_ALLOC_ALIGNMENT_BYTES of TVM's C runtime
C_TYPES: Mapping[str, str] = {
    "float": "float32", "double": "float64", "bool": "bool",
    "int8_t": "int8", "int16_t": "int16", "int32_t": "int32", "int64_t": "int64",
    "uint8_t": "uint8", "uint16_t": "uint16", "uint32_t": "uint32", "uint64_t": "uint64",
}  # fmt: skip
DTYPE_SIZES_BYTES: Mapping[str, int] = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "bfloat16": 2,
    "int32": 4, "uint32": 4, "float32": 4, "int64": 8, "uint64": 8, "float64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderFacts:
    """What `tvmgen_<model>.h` declares: struct fields in call order, sizes by macro."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    devices: tuple[str, ...]
    pools: tuple[str, ...]
    macros: Mapping[str, int]
    pool_data: Mapping[str, bytes] = field(default_factory=dict)
    maps_io: bool = False


def parse_header(text: str, prefix: str) -> HeaderFacts | None:
    """Read a C-interface header whose names begin with `prefix` (lower case); None if it declares no inputs."""
    code = _COMMENT.sub(" ", text)
    structs = {name: tuple(_FIELD.findall(body)) for name, body in _STRUCT.findall(code)}
    if f"{prefix}_inputs" not in structs:
        return None
    return HeaderFacts(
        inputs=structs[f"{prefix}_inputs"],
        outputs=structs.get(f"{prefix}_outputs", ()),
        devices=structs.get(f"{prefix}_devices", ()),
        pools=structs.get(f"{prefix}_workspace_pools", ()),
        macros={name: int(value) for name, value in _MACRO.findall(code)},
        pool_data={name: _pool_bytes(body) for name, body in _POOL_DATA.findall(code)},
        maps_io=f"{prefix}_map_inputs" in code,
    )


def _pool_bytes(text: str) -> bytes:
    return bytes(int(value, 16) for value in re.findall(r"0x([0-9a-fA-F]{1,2})\b", text))


@dataclass(frozen=True, slots=True, kw_only=True)
class WrapperFacts:
    """What the wrapper `tvmgen_<model>_run` calls, and the struct fields it passes, in order."""

    main: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    pools: tuple[str, ...]


def parse_wrapper(text: str, run: str) -> WrapperFacts | None:
    """Read the C-interface wrapper `run` out of a source file; None if the file does not define it."""
    found = re.search(rf"\bint32_t\s+{re.escape(run)}\(\s*struct[^;{{]*\)\s*\{{\s*return\s+(\w+)\(([^;]*)\)\s*;", text)
    if found is None:
        return None
    arguments = found[2]
    return WrapperFacts(
        main=found[1],
        inputs=tuple(re.findall(r"\binputs->(\w+)", arguments)),
        outputs=tuple(re.findall(r"\boutputs->(\w+)", arguments)),
        pools=tuple(re.findall(r"\bworkspace_pools->(\w+)", arguments)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InternalPool:
    """A static workspace buffer inside the generated code."""

    name: str
    size_bytes: int
    alignment_bytes: int


def internal_pools(text: str) -> tuple[InternalPool, ...]:
    """Find the workspace buffers that a source file holds."""
    return tuple(
        InternalPool(name=m["name"], size_bytes=int(m["size"]), alignment_bytes=_alignment(m["attributes"]))
        for m in _INTERNAL_POOL.finditer(text)
        if ".tvm" in m["attributes"]
    )


def _alignment(attributes: str) -> int:
    found = _ALIGNED.search(attributes)
    return int(found[1]) if found else 1


def constant_bytes(text: str) -> int:
    """Sum the sizes of the constant arrays and constant pools of a source file."""
    arrays = sum(
        DTYPE_SIZES_BYTES.get(C_TYPES.get(kind, ""), 0) * int(count) for kind, count in _CONSTANT_ARRAY.findall(text)
    )
    return arrays + sum(int(size) for size in _CONSTANT_POOL.findall(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of a generated function; dtype is None for `void *`."""

    name: str
    dtype: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A generated function: its parameters and body."""

    name: str
    parameters: tuple[Parameter, ...]
    body: str

    @property
    def is_packed(self) -> bool:
        """Tell whether it takes TVM's packed arguments (`TVMValue` and type codes) instead of tensors."""
        names = [parameter.name for parameter in self.parameters]
        return "arg_type_ids" in names or "type_code" in names or "type_codes" in names


def functions(text: str) -> dict[str, Function]:
    """Split a source file into the functions that it defines."""
    heads = list(_FUNCTION.finditer(text))
    ends = [*(head.start() for head in heads[1:]), len(text)][: len(heads)]
    return {
        head[1]: Function(name=head[1], parameters=tuple(_parameters(head[2])), body=text[head.end() : end])
        for head, end in zip(heads, ends, strict=True)
    }


def _parameters(text: str) -> Iterator[Parameter]:
    for item in text.split(","):
        found = _PARAMETER.match(item.strip())
        if found:
            yield Parameter(name=found[3], dtype=C_TYPES.get(found[1]) if found[2] else None)


def allocator_need(
    found: Mapping[str, Function], entry: str, *, alignment: int = WORKSPACE_ALIGNMENT_BYTES
) -> int | None:
    """Give the most bytes that `entry` ever holds from TVMBackendAllocWorkspace, its callees included.

    Generated code allocates and frees in the order of its text; a block in a loop is freed in that loop. None if the text
    does not tell: an allocation of a size that is no number, recursion, or no such function.
    """
    needs: dict[str, int | None] = {}

    def need(name: str, path: tuple[str, ...]) -> int | None:
        if name in path:
            return None
        if name not in needs:
            needs[name] = _function_need(found[name], lambda callee: need(callee, (*path, name)), found, alignment)
        return needs[name]

    return need(entry, ()) if entry in found else None


def _function_need(
    function: Function, need: Callable[[str], int | None], known: Mapping[str, Function], alignment: int
) -> int | None:
    held: dict[str, int] = {}
    most = 0
    for event, name, size in _events(function.body):
        if event == "allocate":
            if size is None:
                return None
            held[name] = held.get(name, 0) + -(-size // alignment) * alignment
        elif event == "free":
            held.pop(name, None)
        elif name in known and name != function.name:
            inner = need(name)
            if inner is None:
                return None
            most = max(most, sum(held.values()) + inner)
        most = max(most, sum(held.values()))
    return most


def _events(body: str) -> list[tuple[str, str, int | None]]:
    """List the allocations, releases and calls of a function's body in the order of its text."""
    events: list[tuple[int, str, str, int | None]] = []
    events += [(m.start(), "allocate", m[1], int(m[2])) for m in _ALLOCATE.finditer(body)]
    events += [(m.start(), "free", m[1], None) for m in _FREE.finditer(body)]
    events += [(m.start(), "call", m[1], None) for m in _CALL.finditer(body)]
    counted = len(re.findall(r"\bTVMBackendAllocWorkspace\(", body))
    if counted != sum(kind == "allocate" for _, kind, _, _ in events):
        events.append((0, "allocate", "", None))
    return [(kind, name, size) for _, kind, name, size in sorted(events, key=lambda event: event[:3])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How far an operator writes into a tensor: its dtype and the number of elements."""

    dtype: str
    elements: int


def output_extent(known: Mapping[str, Function], main: Function, parameter: str) -> Extent | None:
    """Find out from the loops of the operator that writes it how large an output of the main function is.

    The index expressions of stores are evaluated over the ranges of their loop variables. None where the text does not
    tell, and where several operators write the output.
    """
    writers = []
    for found in re.finditer(r"\b(\w+)\(([^;{}]*)\)\s*!=\s*0", main.body):
        arguments = [item.strip() for item in found[2].split(",")]
        operator = known.get(found[1])
        if operator is not None and parameter in arguments:
            writers.append((operator, arguments.index(parameter)))
    extents = {_stored_extent(operator, position) for operator, position in writers}
    extents.discard(None)
    return extents.pop() if len(extents) == 1 else None


def _stored_extent(operator: Function, position: int) -> Extent | None:
    if position >= len(operator.parameters):
        return None
    parameter = operator.parameters[position]
    name = re.escape(parameter.name)
    store = re.compile(rf"(?:\(\((\w+)\s*\*\)\s*{name}\)|\b{name})\[(.*)\]\s*=[^=]")
    environment: dict[str, tuple[int, int]] = {}
    highest: int | None = None
    dtype = parameter.dtype
    for line in operator.body.splitlines():
        _bind(line, environment)
        for found in store.finditer(line):
            bounds = _interval(found[2], environment)
            if bounds is None:
                return None
            highest = max(bounds[1], highest or 0)
            dtype = C_TYPES.get(found[1] or "", dtype)
    return Extent(dtype=dtype, elements=highest + 1) if dtype and highest is not None else None


_LOOP = re.compile(r"for \(int(?:32|64)_t (\w+) = 0; \1 < (\d+); \+\+\1\)")
_LOCAL = re.compile(r"^\s*int(?:32|64)_t (\w+) = (.+);\s*$")


def _bind(line: str, environment: dict[str, tuple[int, int]]) -> None:
    """Learn the range of a loop variable or of a common subexpression that the line introduces."""
    loop = _LOOP.search(line)
    if loop:
        environment[loop[1]] = (0, max(int(loop[2]) - 1, 0))
        return
    local = _LOCAL.match(line)
    if local:
        bounds = _interval(local[2], environment)
        if bounds is None:
            environment.pop(local[1], None)
        else:
            environment[local[1]] = bounds


_TOKEN = re.compile(r"\s*(?:(\d+)|(\w+)|(<<|>>|[-+*/%()]))")


def _interval(text: str, environment: Mapping[str, tuple[int, int]]) -> tuple[int, int] | None:
    """Evaluate an index expression over the ranges of its variables; None for anything but + - * / % and shifts."""
    tokens = []
    position = 0
    while position < len(text.rstrip()):
        found = _TOKEN.match(text, position)
        if found is None:
            return None
        tokens.append(found[0].strip())
        position = found.end()
    try:
        bounds, rest = _sum(tuple(tokens), environment)
    except (KeyError, IndexError, ValueError, RecursionError):
        return None
    return bounds if not rest else None


_Tokens = tuple[str, ...]
_Bounds = tuple[int, int]
_PRECEDENCE = (("<<", ">>"), ("+", "-"), ("*", "/", "%"))


def _sum(tokens: _Tokens, environment: Mapping[str, _Bounds], level: int = 0) -> tuple[_Bounds, _Tokens]:
    if level == len(_PRECEDENCE):
        return _atom(tokens, environment)
    left, tokens = _sum(tokens, environment, level + 1)
    while tokens and tokens[0] in _PRECEDENCE[level]:
        right, rest = _sum(tokens[1:], environment, level + 1)
        left, tokens = _combine(tokens[0], left, right), rest
    return left, tokens


def _atom(tokens: _Tokens, environment: Mapping[str, _Bounds]) -> tuple[_Bounds, _Tokens]:
    first = tokens[0]
    if first == "(":
        bounds, rest = _sum(tokens[1:], environment)
        if not rest or rest[0] != ")":
            raise ValueError(first)
        return bounds, rest[1:]
    if first.isdigit():
        return (int(first), int(first)), tokens[1:]
    return environment[first], tokens[1:]


def _combine(operator: str, left: _Bounds, right: _Bounds) -> _Bounds:
    if operator == "+":
        return left[0] + right[0], left[1] + right[1]
    if operator == "-":
        return left[0] - right[1], left[1] - right[0]
    if operator == "*":
        return _corners(a * b for a in left for b in right)
    if left[0] < 0 or right[0] != right[1] or right[0] <= (0 if operator in "/%" else -1):
        raise ValueError(operator)
    if operator == "/":
        return left[0] // right[0], left[1] // right[0]
    if operator == "%":
        return left if left[1] < right[0] else (0, right[0] - 1)
    if right[0] > 63:
        raise ValueError(operator)
    return (
        (left[0] << right[0], left[1] << right[0]) if operator == "<<" else (left[0] >> right[0], left[1] >> right[0])
    )


def _corners(values: Iterable[int]) -> _Bounds:
    found = sorted(values)
    return found[0], found[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayTensor:
    """A tensor of the Relay text: name (empty for results), dtype and static shape."""

    name: str
    dtype: str
    shape: tuple[int, ...] | None

    @property
    def size_bytes(self) -> int | None:
        """The bytes of a packed tensor; None for a dynamic shape or a dtype of unknown size."""
        width = DTYPE_SIZES_BYTES.get(self.dtype)
        if self.shape is None or width is None:
            return None
        count = 1
        for extent in self.shape:
            count *= extent
        return count * width


_TENSOR_TYPE = r"Tensor\[\(([^()]*)\),\s*(\w+)\]"
_RELAY_PARAMETER = re.compile(rf"%([^%]+?):\s*(?:{_TENSOR_TYPE}|([a-z]+\d+)\b)")
_RELAY_RESULT = re.compile(rf"->\s*(\([^{{]*\)|{_TENSOR_TYPE})\s*\{{")
_LAST_TYPE = re.compile(r"/\*\s*ty=(\((?:[^()]|\([^()]*\))*\)|Tensor\[[^\]]*\])(?:\s+span=[^*]*)?\s*\*/\s*\n?\}")


def parse_relay(text: str) -> tuple[tuple[RelayTensor, ...], tuple[RelayTensor, ...]]:
    """Read the parameters of `@main` and, where the text gives its type, its results, in call order."""
    start = text.find("def @main(")
    if start < 0:
        return (), ()
    end = text.find("{\n", start)
    signature = re.sub(r"/\*.*?\*/", "", text[start : end + 1] if end > 0 else text[start:], flags=re.DOTALL)
    arrow = signature.rfind("->")
    head = signature if arrow < 0 else signature[:arrow]
    parameters = tuple(_relay_tensor(m[1].strip(), m[2], m[3], m[4]) for m in _RELAY_PARAMETER.finditer(head))
    result = _RELAY_RESULT.search(signature[arrow:]) if arrow >= 0 else None
    body_end = text.find("\n}", end)
    last = _LAST_TYPE.search(text[end : body_end + 2]) if result is None and end > 0 else None
    typed = result[1] if result else last[1] if last else ""
    results = tuple(_relay_tensor("", m[1], m[2], None) for m in re.finditer(_TENSOR_TYPE, typed))
    return parameters, results


def _relay_tensor(name: str, shape: str | None, dtype: str | None, scalar: str | None) -> RelayTensor:
    if shape is None or dtype is None:
        return RelayTensor(name=name, dtype=scalar or "", shape=())
    extents = [item.strip() for item in shape.split(",") if item.strip()]
    static = all(item.isdigit() for item in extents)
    return RelayTensor(name=name, dtype=dtype, shape=tuple(int(item) for item in extents) if static else None)
