"""Facts read from the C that TVM generates: who calls what, in which order, with which types and how much memory.

Metadata loses the order of tensors and often their sizes; the code cannot. Nothing here is a C parser: each function looks
for one form that TVM's code generators printed between March 2021 and 0.18, and says None where it is absent.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

# The code is hostile until it has been read: no expression may look at a character more than a bounded number of times, so
# repetitions stop at what begins the next candidate, or have a limit. Numbers have at most the digits of 64 bits.
_BLOCK_COMMENT = r"/\*.*?(?:\*/|\Z)"
_COMMENT = re.compile(rf"{_BLOCK_COMMENT}|//[^\n]*", re.DOTALL)
_FIELD = re.compile(r"\bvoid\s*\*\s*(\w+)\s*;")
_MACRO = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+(-?[0-9]{1,19})[ \t]*$", re.MULTILINE)
_POOL_DATA = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)_CONSTANT_POOL_DATA\b((?:[^\n]*\\\n)*[^\n]*)", re.MULTILINE)
_INTERNAL_POOL = re.compile(
    r"__attribute__\(\((?P<attributes>[^;{}]{0,200}?)\)\)\s*static\s+uint8_t\s+(?P<name>\w+)\[(?P<size>[0-9]{1,19})\]\s*;"
)
_ALIGNED = re.compile(r"aligned\(([0-9]{1,19})\)")
# What get_c_metadata describes tensors with is no constant of the model.
_CONSTANT_ARRAY = re.compile(
    r"\bstatic\s+const\s+(?!int64_t kTvmgenMetadata_)(\w+)\s[^;={}\[]{0,400}((?:\[[0-9]{1,19}\]){1,8})\s*=\s*\{"
)
_CONSTANT_STRUCT = re.compile(r"^static\s+(?:const\s+)?struct\s+(\w+)\s*\{([^{}]*)\}", re.MULTILINE)
_CONSTANT_POOL = re.compile(r"\}\s*;\s*//\s*of total size ([0-9]{1,19}) bytes")
_ALLOCATE = re.compile(
    r"\b(\w+)\s*=\s*(?:\([^()]*\)\s*)?TVMBackendAllocWorkspace\([^;()]*\(uint64_t\)\s*([0-9]{1,19})\s*,"
)
_FREE = re.compile(r"\bTVMBackendFreeWorkspace\([^;,()]*,[^;,()]*,\s*(?:\([^()]*\)\s*)?(\w+)\s*\)")
_FUNCTION = re.compile(r"^(?:TVM_DLL\s+)?(?:static\s+)?int32_t\s+(\w+)\(([^()]*)\)\s*\{", re.MULTILINE)
_DEFINITION = re.compile(
    r"^(?!static\b|typedef\b)(?:extern \"C\" )?[A-Za-z_][\w \t*]{0,200}?\b(\w+)\([^(){};]{0,4000}\)\s*\{", re.MULTILINE
)
_CALL = re.compile(r"\b(\w+)\(")
_PARAMETER = re.compile(r"(?:const\s+)?(?:struct\s+)?(\w+)(?:\s*(\*)\s*|\s+)(?:restrict\s+|__restrict__\s+)?(\w+)")

WORKSPACE_ALIGNMENT_BYTES = 16  # TVM_RUNTIME_ALLOC_ALIGNMENT_BYTES of TVM's C runtime
C_TYPES: Mapping[str, str] = {
    "half": "float16", "float": "float32", "double": "float64", "bool": "bool",
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
    struct = re.compile(rf"\bstruct\s+{re.escape(prefix)}_(inputs|outputs|devices|workspace_pools)\s*\{{([^{{}}]*)\}}")
    structs = {kind: tuple(_FIELD.findall(body)) for kind, body in struct.findall(code)}
    if "inputs" not in structs:
        return None
    return HeaderFacts(
        inputs=structs["inputs"],
        outputs=structs.get("outputs", ()),
        devices=structs.get("devices", ()),
        pools=structs.get("workspace_pools", ()),
        macros={name: int(value) for name, value in _MACRO.findall(code)},
        pool_data={name: _pool_bytes(body) for name, body in _POOL_DATA.findall(code)},
        maps_io=f"{prefix}_map_inputs" in code,
    )


def _pool_bytes(text: str) -> bytes:
    return bytes(int(value, 16) for value in re.findall(r"0x([0-9a-fA-F]{1,2})\b", text))


@dataclass(frozen=True, slots=True, kw_only=True)
class WrapperFacts:
    """What the wrapper `tvmgen_<model>_run` calls, and the expressions it passes, in order."""

    main: str
    arguments: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The fields of the struct of inputs that it passes."""
        return self.fields("inputs")

    @property
    def outputs(self) -> tuple[str, ...]:
        """The fields of the struct of outputs that it passes."""
        return self.fields("outputs")

    def fields(self, struct: str) -> tuple[str, ...]:
        """Give the fields of a struct that it passes, in order."""
        return tuple(field for argument in self.arguments for field in re.findall(rf"\b{struct}->(\w+)", argument))


def parse_wrapper(text: str, run: str) -> WrapperFacts | None:
    """Read the C-interface wrapper `run` out of a source file; None if the file does not define it."""
    head = rf"\bint32_t\s+{re.escape(run)}\(\s*struct[^;{{}}()]*\)"
    found = re.search(rf"{head}\s*\{{\s*return\s+([^\s();]+)\(([^;{{}}]*)\)\s*;", text)
    if found is None:
        return None
    return WrapperFacts(main=found[1], arguments=tuple(_arguments(f"{found[2]})")) if found[2].strip() else ())


_IO_PLACE = re.compile(r"\.(\w+) = &\(\(uint8_t\*\)workspace_pools->(\w+)\)\[([0-9]{1,19})\]")


def parse_io_map(text: str, function: str) -> dict[str, tuple[str, int]]:
    """Read where `map_inputs` or `map_outputs` says that tensors lie: the pool and the offset in bytes by field."""
    begin = re.search(rf"\b{re.escape(function)}\([^()]*\)\s*\{{", text)
    if begin is None:
        return {}
    end = text.find("return ret", begin.end())
    return {m[1]: (m[2], int(m[3])) for m in _IO_PLACE.finditer(text, begin.end(), max(end, begin.end()))}


def pool_variables(body: str) -> dict[tuple[str, int], str]:
    """Give the names of a function's variables that point into pools, by the pool and the offset in bytes.

    Where several point to one place, which they do at different times, none is given.
    """
    found: dict[tuple[str, int], set[str]] = {}
    for m in _POOL_VARIABLE.finditer(body):
        found.setdefault((m[2], int(m[3])), set()).add(m[1])
    return {place: next(iter(names)) for place, names in found.items() if len(names) == 1}


_POOL_VARIABLE = re.compile(r"\bvoid\* (\w+) = \(&\((\w+)_[0-9]{1,9}_var\[([0-9]{1,19})\]\)\);")


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


def constant_pools(text: str) -> tuple[InternalPool, ...]:
    """Find the pools of constants that a source file holds: structs with a value each, which TVM ends with their size."""
    structs, sizes = _CONSTANT_STRUCT.findall(text), _CONSTANT_POOL.findall(text)
    return tuple(
        InternalPool(name=name, size_bytes=int(size), alignment_bytes=_alignment(fields))
        for (name, fields), size in zip(structs, sizes, strict=False)
    )


def _alignment(attributes: str) -> int:
    return max(map(int, _ALIGNED.findall(attributes)), default=1)


def constant_bytes(text: str) -> int:
    """Sum the sizes of the constant arrays and constant pools of a source file."""
    arrays = sum(
        DTYPE_SIZES_BYTES.get(C_TYPES.get(kind, ""), 0) * math.prod(map(int, re.findall(r"[0-9]+", extents)))
        for kind, extents in _CONSTANT_ARRAY.findall(text)
    )
    return arrays + sum(int(size) for size in _CONSTANT_POOL.findall(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of a generated function; dtype is None for `void *`, the name empty where the declaration is unusual."""

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


def global_functions(text: str) -> frozenset[str]:
    """Name the functions that a source file defines for others, as far as they begin a line, whatever they return."""
    return frozenset(_DEFINITION.findall(text))


def begins_in_constant(text: str) -> bool:
    """Tell whether the end of a source file begins inside the initialiser of a constant, in front of every function."""
    end = text.find("};")
    first = _FUNCTION.search(text)
    return 0 <= end < (first.start() if first else len(text)) and "{" not in text[:end]


_HANDLE = re.compile(r"\bvoid\* (\w+) = \(\(\(TVMValue\*\)args\)\[([0-9]{1,4})\]\.v_handle\);")
_DATA = re.compile(r"\bvoid\* (\w+) = \(\(\(DLTensor\*\)(\w+)\)\[0\]\.data\);")
_DESCRIBED = re.compile(r"\(\(\(DLTensor\*\)(\w+)\)\[([0-9]{1,4})\]\.data\) = (\w+);")
_GIVEN = re.compile(
    r"\(\(\(TVMValue\*\)\w+\)\[([0-9]{1,4})\]\.v_handle\) = (?:\(\(\(DLTensor\*\)(\w+)\) \+ ([0-9]{1,4})\)|(\w+));"
)
_PACKED_CALL = re.compile(r"\b(\w+)\(\s{0,2}\(TVMValue\*\)[^,;]{1,80},[^,;]{1,80},\s{0,2}[0-9]{1,4},")


def plain_functions(known: Mapping[str, Function]) -> dict[str, Function]:
    """Give the functions as if none took packed arguments: parameters are tensors' data, and calls pass them."""
    return {name: _plain(function) if function.is_packed else function for name, function in known.items()}


def _plain(function: Function) -> Function:
    handles = {int(index): name for name, index in _HANDLE.findall(function.body)}
    data = {handle: name for name, handle in _DATA.findall(function.body)}
    names = [data.get(handles[index], handles[index]) for index in sorted(handles)]
    parameters = tuple(Parameter(name=name, dtype=None) for name in names)
    return Function(name=function.name, parameters=parameters, body=_plain_calls(_DATA.sub("", function.body)))


def _plain_calls(body: str) -> str:
    """Put the data of the tensors that a packed call is given into the call."""
    data: dict[tuple[str, int], str] = {}
    given: dict[int, str] = {}
    lines = []
    for line in body.splitlines():
        described, value, call = _DESCRIBED.search(line), _GIVEN.search(line), _PACKED_CALL.search(line)
        if described:
            data[described[1], int(described[2])] = described[3]
        elif value:
            tensor = (value[2] or value[4], int(value[3] or 0))
            given[int(value[1])] = data.get(tensor, tensor[0])
        elif call:
            is_whole = sorted(given) == list(range(len(given)))  # every call is given all its tensors anew
            lines.append(f"{call[1]}({', '.join(given[index] for index in sorted(given)) if is_whole else ''});")
            given = {}
        else:
            lines.append(line)
    return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A `tvm_model_t`, the way into ahead-of-time code until August 2021: its name, and how many tensors it takes."""

    name: str
    input_count: int
    output_count: int


# Tensors are counted in at most four digits: each count becomes that many names.
_DESCRIPTOR = re.compile(
    r"\bconst tvm_model_t (\w+) = \{[^{}]{0,400}?\.num_input_tensors = ([0-9]{1,4})\s*,"
    r"\s*\.num_output_tensors = ([0-9]{1,4})\s*,"
)


def parse_descriptor(text: str) -> Descriptor | None:
    """Find the descriptor of a model in a source file."""
    found = _DESCRIPTOR.search(text)
    return Descriptor(name=found[1], input_count=int(found[2]), output_count=int(found[3])) if found else None


def _parameters(text: str) -> Iterator[Parameter]:
    for item in text.split(","):
        found = _PARAMETER.fullmatch(item.strip())
        if found:
            yield Parameter(name=found[3], dtype=C_TYPES.get(found[1]) if found[2] else None)
        elif item.strip() not in ("", "void"):
            yield Parameter(name="", dtype=None)  # its place counts


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

    try:
        return need(entry, ()) if entry in found else None
    except RecursionError:  # some thousand functions, each of which calls the next
        return None


def _function_need(
    function: Function, need: Callable[[str], int | None], known: Mapping[str, Function], alignment: int
) -> int | None:
    blocks: dict[str, int] = {}
    held = most = 0
    for event, name, size in _events(function.body):
        inner: int | None = 0
        if event == "allocate":
            if size is None:
                return None
            rounded = -(-size // alignment) * alignment
            blocks[name] = blocks.get(name, 0) + rounded
            held += rounded
        elif event == "free":
            held -= blocks.pop(name, 0)
        elif name in known:
            inner = need(name)
        if inner is None:
            return None
        most = max(most, held + inner)
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


_ONLY_READ = Extent(dtype="", elements=0)


def output_extent(known: Mapping[str, Function], main: Function, parameter: str) -> Extent | None:
    """Find out from the loops of the operator that writes it how large an output of the main function is.

    The index expressions of stores are evaluated over the ranges of their loop variables. None where the text does not
    tell for sure: a store that only an `if` lets happen, an address that is taken, operators that disagree.
    """
    extents = {_stored_extent(known[name], position) for name, position in _places(known, main, parameter)}
    extents.discard(_ONLY_READ)
    return extents.pop() if len(extents) == 1 else None


def is_output(known: Mapping[str, Function], main: Function, parameter: str) -> bool | None:
    """Tell whether an operator stores into a tensor of the main function; None where the text does not tell."""
    found = {is_written(known[name], position) for name, position in _places(known, main, parameter)}
    if True in found:
        return True
    return None if None in found or not found else False


def _places(known: Mapping[str, Function], main: Function, parameter: str) -> set[tuple[str, int]]:
    """Find the operators that are given a tensor of the main function, and as which of their parameters."""
    local, _ = _renamed(main.body, parameter)
    return {
        (name, position)
        for name, arguments in _operator_calls(main.body, known, (parameter, local))
        for position, argument in enumerate(arguments)
        if argument in (parameter, local)
    }


def _renamed(body: str, parameter: str) -> tuple[str, str]:
    """Give the name that a body uses for a parameter, and the rest of the body.

    TVM 0.8 called parameters `arg<n>`; the bodies began with their names.
    """
    found = re.search(rf"^[ \t]*void\s*\*\s*(\w+) = {re.escape(parameter)};", body, re.MULTILINE)
    return (found[1], body[: found.start()] + body[found.end() :]) if found else (parameter, body)


def _operator_calls(
    body: str, known: Mapping[str, Function], names: tuple[str, str]
) -> Iterator[tuple[str, list[str]]]:
    """List the calls of known functions, checked or not, in the statements that mention one of the names."""
    for statement in re.split(r"[;{}]", body):
        if names[0] not in statement and names[1] not in statement:
            continue
        call = next((found for found in _CALL.finditer(statement) if found[1] in known), None)
        if call is not None:
            yield call[1], _arguments(statement[call.end() :])


def _arguments(text: str) -> list[str]:
    """Split the arguments of a call, from behind its opening parenthesis to the closing one."""
    depth, start, arguments = 1, 0, []
    for found in re.finditer(r"[(),]", text):
        depth += {"(": 1, ")": -1, ",": 0}[found[0]]
        if depth == 0 or (depth == 1 and found[0] == ","):
            arguments.append(text[start : found.start()].strip())
            start = found.end()
        if depth == 0:
            break
    return arguments


def _stored_extent(operator: Function, position: int) -> Extent | None:
    """Give how far the operator stores into a parameter: `_ONLY_READ` if nowhere, None if the text does not tell."""
    stores = _stores_into(operator, position)
    if stores is None:
        return None
    if not stores:
        return _ONLY_READ
    dtypes = {C_TYPES.get(store.cast) if store.cast else operator.parameters[position].dtype for store in stores}
    dtype = dtypes.pop() if len(dtypes) == 1 else None
    highest = max(store.highest for store in stores)
    certain = max((store.highest for store in stores if store.is_certain), default=-1)
    return Extent(dtype=dtype, elements=highest + 1) if dtype and highest == certain else None


def is_written(operator: Function, position: int) -> bool | None:
    """Tell whether an operator stores into one of its parameters; None where the text does not tell."""
    stores = _stores_into(operator, position)
    return None if stores is None else bool(stores)


def _stores_into(operator: Function, position: int) -> list[_Store] | None:
    """List the stores of an operator into a parameter; None if it is used as a pointer, not element by element."""
    if position >= len(operator.parameters) or not operator.parameters[position].name:
        return None
    name, body = _renamed(operator.body, operator.parameters[position].name)
    element = rf"(?:\(\((\w+)\s*\*\)\s*{name}\)|\b{name})\["
    if len(re.findall(rf"\b{name}\b", body)) != len(re.findall(rf"(?<!&\()(?<!&){element}", body)):
        return None
    return list(_stores(body, name, element))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Store:
    """A store into a tensor: its cast, the highest index, and whether that is sure to be reached."""

    cast: str
    highest: int
    is_certain: bool


_ASSIGNMENT = re.compile(r"(?<![=!<>])=(?!=)")


def _stores(body: str, name: str, element: str) -> Iterator[_Store]:
    """List the stores into the tensor `name`, whose elements the expression `element` finds."""
    begins = re.compile(rf"\s*{element}")
    plain = re.compile(rf"\s*{element}(.*?)\]\s*=(?!=)")
    used = re.compile(rf"\b{name}\b")
    scope = _Scope()
    for line in body.splitlines():
        scope.enter(line)
        if name not in line:
            continue
        found = plain.match(line)
        if found:
            bounds = _interval(found[2], scope.ranges)
            highest = bounds[1] if bounds else _LARGEST_INDEX
            yield _Store(cast=found[1] or "", highest=highest, is_certain=bool(bounds) and not scope.is_guarded)
            continue
        left, *right = _ASSIGNMENT.split(line, maxsplit=1)
        if used.search(left) and (right or begins.match(line)):  # a store of an unusual form
            yield _Store(cast="", highest=_LARGEST_INDEX, is_certain=False)


_LOOP = re.compile(r"\bfor \(\w+ (\w+) = ")
_PLAIN_LOOP = re.compile(r"\bfor \(int(?:32|64)_t (\w+) = 0; \1 < ([1-9][0-9]{0,18}); \+\+\1\)")
_LOCAL = re.compile(r"\s*int(?:32|64)_t (\w+) = (.+);\s*$")
_CONDITION = re.compile(r"\s*(?:\}\s*)?(?:if|else|while|switch)\b")


class _Scope:
    """What holds at a line of a function: the ranges of its variables, and whether a condition decides if it is reached."""

    def __init__(self) -> None:
        self.ranges: dict[str, tuple[int, int]] = {}
        self.is_guarded = False
        self._blocks: list[bool] = []
        self._conditions = 0
        self._is_condition_open = False

    def enter(self, line: str) -> None:
        """Go on to the next line."""
        text = line.strip()
        if not text:
            return
        is_condition = _CONDITION.match(line) is not None
        if text.startswith("}") and self._blocks:
            self._conditions -= self._blocks.pop()
        self.is_guarded = self._is_condition_open or self._conditions > 0
        if text.endswith("{"):
            self._blocks.append(is_condition or self._is_condition_open)
            self._conditions += self._blocks[-1]
        self._is_condition_open = is_condition and not text.endswith(("{", ";", "}"))
        if "=" in text:
            self._bind(line)

    def _bind(self, line: str) -> None:
        """Learn the range of a loop variable or of a common subexpression that the line introduces."""
        loop, local = _LOOP.search(line), _LOCAL.match(line)
        if loop:
            self.ranges.pop(loop[1], None)
            plain = _PLAIN_LOOP.search(line)
            if plain:
                self.ranges[plain[1]] = (0, int(plain[2]) - 1)
        elif local:
            self.ranges.pop(local[1], None)
            bounds = _interval(local[2], self.ranges)
            if bounds:
                self.ranges[local[1]] = bounds


_TOKEN = re.compile(r"[0-9]+|\w+|<<|>>|[-+*/%()]")
_LARGEST_INDEX = 1 << 63


def _interval(text: str, ranges: Mapping[str, tuple[int, int]]) -> tuple[int, int] | None:
    """Evaluate an index expression over the ranges of its variables; None where its bounds may not be reached."""
    if _TOKEN.sub("", text).strip():
        return None
    tokens = _TOKEN.findall(text)[::-1]
    try:
        bounds = _sum(tokens, ranges)
    except (KeyError, IndexError, ValueError, RecursionError):
        return None
    return bounds if not tokens else None


_Bounds = tuple[int, int]
_PRECEDENCE = (("<<", ">>"), ("+", "-"), ("*", "/", "%"))


def _sum(tokens: list[str], ranges: Mapping[str, _Bounds], level: int = 0) -> _Bounds:
    """Evaluate an expression of operators from `level` on, taking its tokens from the end of the list."""
    if level == len(_PRECEDENCE):
        return _atom(tokens, ranges)
    left = _sum(tokens, ranges, level + 1)
    while tokens and tokens[-1] in _PRECEDENCE[level]:
        operator = tokens.pop()
        left = _combine(operator, left, _sum(tokens, ranges, level + 1))
        if not -_LARGEST_INDEX <= left[0] <= left[1] < _LARGEST_INDEX:
            raise ValueError(operator)
    return left


def _atom(tokens: list[str], ranges: Mapping[str, _Bounds]) -> _Bounds:
    first = tokens.pop()
    if first == "(":
        bounds = _sum(tokens, ranges)
        if tokens.pop() != ")":
            raise ValueError(first)
        return bounds
    if first[0].isdigit():
        number = int(first[:20])
        if number >= _LARGEST_INDEX:
            raise ValueError(first)
        return number, number
    return ranges[first]


def _combine(operator: str, left: _Bounds, right: _Bounds) -> _Bounds:
    """Combine two ranges; ValueError where the bounds of the result may be out of reach."""
    low, high = left
    if operator == "+":
        return low + right[0], high + right[1]
    if operator == "*" and low >= 0 and right[0] >= 0:
        return low * right[0], high * right[1]
    if right[0] != right[1]:
        raise ValueError(operator)
    number = right[0]
    if operator == "-":
        return low - number, high - number
    if low < 0 or number < 0 or (number == 0 and operator in "/%") or (number > 63 and operator in ("<<", ">>")):
        raise ValueError(operator)
    if operator == "%":
        return _remainder(left, number)
    if operator == "/":
        return low // number, high // number
    return (low << number, high << number) if operator == "<<" else (low >> number, high >> number)


def _remainder(left: _Bounds, number: int) -> _Bounds:
    """Give the range of `left % number`; all of it is reached only if `left` runs through whole periods."""
    if left[1] < number:
        return left
    if left[0] != 0 or (left[1] + 1) % number:
        raise ValueError(number)
    return 0, number - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedTensor:
    """A tensor of the Relay text: name (empty for results), dtype and static shape."""

    name: str
    dtype: str
    shape: tuple[int, ...] | None

    @property
    def size_bytes(self) -> int | None:
        """The bytes of a packed tensor; None for a dynamic shape, a dtype of unknown size or more bytes than there can be."""
        size = DTYPE_SIZES_BYTES.get(self.dtype)
        if self.shape is None or size is None:
            return None
        for extent in self.shape:
            size *= extent
            if size >= _LARGEST_INDEX:
                return None
        return size


_TENSOR_TYPE = r"Tensor\[\(([^()]*)\),\s*(\w+)\]"
_SCALAR_TYPE = r"((?:float|bfloat|u?int)[0-9]{1,3}|bool)(?=\s*[,)])"
_RELAY_PARAMETER = re.compile(rf"%([^%]+?):\s*(?:{_TENSOR_TYPE}|{_SCALAR_TYPE})")
_RELAY_RESULT = re.compile(rf"->\s*(\([^{{]*\)|{_TENSOR_TYPE})\s*\{{")
_LAST_TYPE = re.compile(r"/\*\s*ty=(\([^()]*(?:\([^()]*\)[^()]*)*\)|Tensor\[[^][]*\])(?:\s+span=[^*]*|\s*)\*/\s*\}\Z")
_STATIC_EXTENT = re.compile(r"[0-9]{1,19}")


def parse_relay(text: str) -> tuple[tuple[TypedTensor, ...], tuple[TypedTensor, ...]]:
    """Read the parameters of `@main` and, where the text gives its type, its results, in call order."""
    start = text.find("def @main(")
    if start < 0:
        return (), ()
    end = text.find("{\n", start)
    whole = text[start : end + 1] if end > 0 else text[start:]
    signature = re.sub(_BLOCK_COMMENT, "", whole, flags=re.DOTALL)
    arrow = signature.rfind("->")
    head = signature if arrow < 0 else signature[:arrow]
    parameters = tuple(_typed_tensor(m[1].strip(), m[2], m[3], m[4]) for m in _RELAY_PARAMETER.finditer(head))
    result = _RELAY_RESULT.search(signature[arrow:]) if arrow >= 0 else None
    body_end = text.find("\n}", end)
    last = _LAST_TYPE.search(text[end : body_end + 2]) if result is None and end > 0 else None
    typed = result[1] if result else last[1] if last else ""
    results = tuple(_typed_tensor("", m[1], m[2], None) for m in re.finditer(_TENSOR_TYPE, typed))
    return parameters, results


def _typed_tensor(name: str, shape: str | None, dtype: str | None, scalar: str | None) -> TypedTensor:
    if shape is None or dtype is None:
        return TypedTensor(name=name, dtype=scalar or "", shape=())
    extents = [item.strip() for item in shape.split(",") if item.strip()]
    static = all(_STATIC_EXTENT.fullmatch(item) for item in extents)
    return TypedTensor(name=name, dtype=dtype, shape=tuple(int(item) for item in extents) if static else None)


_OUTPUT_NAMES = re.compile(r"\boutput_tensor_names=\[([^\[\]]{0,10000})\]")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


def relay_output_names(text: str) -> tuple[str, ...]:
    """Give the names of the outputs in call order, where the model has any of its own."""
    found = _OUTPUT_NAMES.search(text)
    return tuple(_unescaped(name) for name in _QUOTED.findall(found[1])) if found else ()


_C_METADATA_LIST = r"\bkTvmgenMetadata_{kind}\[[0-9]{{1,9}}\]\s*=\s*\{{"
_C_METADATA_SHAPE = r"\bkTvmgenMetadata_{kind}_([0-9]{{1,9}})_shape\[[0-9]{{1,9}}\]\s*=\s*\{{([^{{}}]*)\}}"
_C_METADATA_TENSOR = re.compile(
    r'"((?:[^"\\\n]|\\.)*)"\s*/\* name\*/,\s*kTvmgenMetadata_\w+?_([0-9]{1,9})_shape,'
    r"\s*[0-9]{1,9}L?\s*/\* num_shape\*/,\s*\{([0-9]{1,3}), ([0-9]{1,3}), ([0-9]{1,3})\}"
)
_DTYPE_WORDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat"}  # codes of DLPack


def pool_sizes(text: str) -> dict[str, int]:
    """Read the sizes of the workspace pools that `get_c_metadata` of a source file gives, by the name of main's parameter."""
    pools = _c_metadata_tensors(text, "workspace_pools")
    return {pool.name: pool.shape[0] for pool in pools if pool.shape and len(pool.shape) == 1}


def parse_c_metadata(text: str) -> tuple[tuple[TypedTensor, ...], tuple[TypedTensor, ...]] | None:
    """Read the inputs and outputs, in call order, that `get_c_metadata` of a source file gives; None if it has none."""
    if "kTvmgenMetadata_inputs[" not in text:
        return None
    return _c_metadata_tensors(text, "inputs"), _c_metadata_tensors(text, "outputs")


def _c_metadata_tensors(text: str, kind: str) -> tuple[TypedTensor, ...]:
    begin = re.search(_C_METADATA_LIST.format(kind=kind), text)
    if begin is None:
        return ()
    end = text.find("};", begin.end())
    shapes = {
        number: tuple(map(int, re.findall(r"-?[0-9]{1,19}", extents)))
        for number, extents in re.findall(_C_METADATA_SHAPE.format(kind=kind), text)
    }
    return tuple(
        TypedTensor(name=_unescaped(m[1]), dtype=_dtype_word(int(m[3]), int(m[4])), shape=shapes.get(m[2], ()))
        for m in _C_METADATA_TENSOR.finditer(text, begin.end(), end if end >= 0 else len(text))
    )


def _dtype_word(code: int, bits: int) -> str:
    return "bool" if (code, bits) == (1, 1) else f"{_DTYPE_WORDS.get(code, 'unknown')}{bits}"


def _unescaped(text: str) -> str:
    """Give the text of a C string literal as TVM escapes it: mnemonics and octal numbers, byte by byte."""
    mnemonics = {"n": 10, "t": 9, "r": 13}
    raw = bytearray()
    for m in re.finditer(r"\\([0-7]{1,3})|\\(.)|([^\\]+)", text, re.DOTALL):
        if m[1]:
            raw.append(int(m[1], 8) & 0xFF)
        else:
            raw += bytes([mnemonics[m[2]]]) if m[2] in mnemonics else (m[2] or m[3]).encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "replace")


_REGISTRY = re.compile(
    r"#include <tvm/runtime/crt/module\.h>\n.*?\n(?:TVM_DLL )?const TVMModule\s*\*\s*TVMSystemLibEntryPoint\((?:void)?\)\s*\{[^{}]*\}",
    re.DOTALL,
)


def has_registry(text: str) -> bool:
    """Tell whether a source file defines the function registry of a system library."""
    return _REGISTRY.search(text) is not None


def without_registry(text: str) -> str:
    """Leave the function registry out, line by line, where the file holds an entrypoint too.

    TVM declares every function for the registry with packed arguments, also those with other ones, so that a file with
    both does not compile. Nothing in a library looks functions up by name.
    """
    found = _REGISTRY.search(text)
    if found is None:
        return text
    return text[: found.start()] + "\n" * found[0].count("\n") + text[found.end() :]


def with_separate_constants(text: str) -> str:
    """Let the compiler give every constant a section of its own: TVM's attribute puts all of them into one.

    Only then can a linker drop or share one of them.
    """
    return _PLACED_CONSTANT.sub(r"\1", text)


_PLACED_CONSTANT = re.compile(r'(\bstatic const \w+ __attribute__\(\()section\("\.rodata\.tvm"\), ')


_DESCRIBED_ENTRY = re.compile(
    r'#include "tvm/runtime/crt/internal/aot_executor/aot_executor\.h"\n.*?\bconst tvm_model_t \w+ = \{[^{}]*\};',
    re.DOTALL,
)


def without_descriptor(text: str) -> str:
    """Leave the descriptor of versions 1 to 5 out, line by line, with all that it needs: TVM's runtime, and a wrapper.

    The wrapper declares main in a form that not every compiler takes.
    """
    return _DESCRIBED_ENTRY.sub(lambda found: "\n" * found[0].count("\n"), text)


def without_wrapper(text: str, *, run: str, main: str, pools: Collection[str]) -> str:
    """Leave the wrapper `run` and its declaration of `main` out, line by line, with the header that only it needs.

    TVM's wrapper does not compile where two tensors have one name or a name is a word of C, and where it forgets pools.
    The `pools` that the file defines for it stay, by an array of their addresses.
    """
    head = rf"^int32_t {re.escape(run)}\([^(){{}};]*\)\s*\{{[^{{}}]*(?:\{{[^{{}}]*\}}[^{{}}]*)*\}}"
    found = re.search(head, text, re.MULTILINE)
    if found is None:
        return text
    kept = ", ".join(f"(const void*)&{name}" for name in sorted(pools))
    array = f"const void* const mlf_pools[] = {{{kept}}};" if pools else ""
    text = text[: found.start()] + array + "\n" * found[0].count("\n") + text[found.end() :]
    text = re.sub(r"^#include <tvmgen_\w+\.h>$", "", text, flags=re.MULTILINE)
    return re.sub(rf"^TVM_DLL int32_t {re.escape(main)}\([^(){{}};]*\);$", "", text, flags=re.MULTILINE)
