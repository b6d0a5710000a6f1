"""Writes a model as C, and as an archive, in the form of TVM 0.16's ahead-of-time C code with the C interface.

Three forms of memory are known: `alloc` (every buffer from TVMBackendAllocWorkspace or the stack), `internal` (one
workspace and one constant structure inside the entrypoint's file) and `external` (a pool that the application gives).
"""

from __future__ import annotations

import io
import json
import math
import struct
import tarfile
from dataclasses import dataclass, field
from string import Template
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

Array = Any  # an ndarray of whatever dtype the tensor has

PREFIX = "tvmgen_default"  # TVM calls a model `default` unless it is told otherwise
EXPORTED = "2024-03-28 09:00:00Z"  # fixed, so that the same archive comes out every day
ALIGNMENT = 16  # of every buffer and constant; TVM's default
STACK_LIMIT = 1024  # bytes; TVM puts smaller scratch buffers on the stack
EMPTY_PARAMS = struct.pack("<4Q", 0xF7E58D4F05049CB7, 0, 0, 0)  # magic, reserved, no names, no arrays
DTYPE_CODES = {"i": 0, "u": 1, "f": 2}
EXTERN_C = '#ifdef __cplusplus\nextern "C"\n#endif\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor or scratch buffer: dimensions in elements, dtype as numpy spells it."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def c_type(self) -> str:
        return "float" if self.dtype == "float32" else f"{self.dtype}_t"


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """Weights under the name that they have in C."""

    name: str
    values: Array

    @property
    def c_type(self) -> str:
        return Tensor(name=self.name, shape=self.values.shape, dtype=str(self.values.dtype)).c_type


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """A kernel: its body says `$name` for a scratch buffer or a constant, however that is stored, or for a number."""

    name: str
    arguments: tuple[str, ...]  # tensors of the model, in call order
    parameters: tuple[str, ...]  # what the kernel calls them
    body: str
    constants: Mapping[str, Constant] = field(default_factory=dict)  # by what the body calls them
    numbers: Mapping[str, int | str] = field(default_factory=dict)  # for the body, as C text
    scratch: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A network: operators in call order and every tensor that they exchange."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    between: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    memory: Literal["alloc", "internal", "external"]
    relay: str

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {tensor.name: tensor for tensor in (*self.inputs, *self.between, *self.outputs)}

    @property
    def constants(self) -> tuple[Constant, ...]:
        """All constants, last operator's first, as TVM happens to print them."""
        return tuple(constant for operator in reversed(self.operators) for constant in operator.constants.values())

    @property
    def pools(self) -> tuple[str, ...]:
        return {"alloc": (), "internal": ("global_const_workspace", "global_workspace"), "external": ("sram",)}[
            self.memory
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where buffers lie in the workspace pool, and constants in the constant pool: offsets and sizes in bytes."""

    buffers: Mapping[str, int]
    workspace_size_bytes: int
    constants: Mapping[str, int]
    constants_size_bytes: int


def aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


def plan_memory(model: Model) -> Plan:
    """Give every buffer the lowest place that nothing alive at the same time uses, the largest first."""
    placed: dict[str, tuple[range, range]] = {}
    for name, size_bytes, life in sorted(_lives(model), key=lambda buffer: (-buffer[1], buffer[0])):
        others = sorted((where.start, where.stop) for where, when in placed.values() if _overlap(when, life))
        start = 0
        for first, last in others:
            start = start if start + size_bytes <= first else max(start, last)
        placed[name] = (range(start, start + aligned(size_bytes)), life)
    total = max((where.stop for where, _ in placed.values()), default=0)
    constants, end = {}, 0
    for constant in model.constants:
        constants[constant.name] = end
        end += aligned(constant.values.nbytes)
    offsets = {name: where.start for name, (where, _) in placed.items()}
    return Plan(buffers=offsets, workspace_size_bytes=total, constants=constants, constants_size_bytes=end)


def _lives(model: Model) -> Iterator[tuple[str, int, range]]:
    for tensor in model.between:
        steps = [step for step, operator in enumerate(model.operators) if tensor.name in operator.arguments]
        yield tensor.name, tensor.size_bytes, range(steps[0], steps[-1] + 1)
    for step, operator in enumerate(model.operators):
        for tensor in operator.scratch:
            yield f"{operator.name}.{tensor.name}", tensor.size_bytes, range(step, step + 1)


def _overlap(a: range, b: range) -> bool:
    return a.start < b.stop and b.start < a.stop


def initialiser(values: NDArray[Any]) -> Iterator[str]:
    """Rows of C literals: hexadecimal floats, or signed hexadecimal integers padded to their width."""
    flat = values.ravel().tolist()
    digits = values.itemsize * 2
    literals = [
        _float(value) if values.dtype.kind == "f" else f"{'-' if value < 0 else '+'}0x{abs(value):0{digits}x}"
        for value in flat
    ]
    columns = 4 if values.dtype == np.int32 else 8
    for start in range(0, len(literals), columns):
        row = ", ".join(literals[start : start + columns])
        yield row + (", " if start + columns < len(literals) else "")


def _float(value: float) -> str:
    mantissa, exponent = value.hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}p{exponent}"


def operator_file(model: Model) -> str:
    """The file with constants, operators and main (TVM's `lib1`)."""
    plan = plan_memory(model)
    functions = {operator.name: _operator(model, plan, step) for step, operator in enumerate(model.operators)}
    ordered = [functions[name] for name in sorted(functions)] + [_main(model, plan)]
    parts = ['// tvm target: c -keys=cpu \n#define TVM_EXPORTS\n#include "tvm/runtime/c_runtime_api.h"\n']
    parts += ['#include "tvm/runtime/c_backend_api.h"\n#include <math.h>\n#include <stdbool.h>\n']
    if model.memory != "internal":
        parts += [_constant(constant) for constant in model.constants]
    parts += [f"{EXTERN_C}{signature};\n" for signature, _ in ordered]
    if any("expf(" in body for _, body in ordered):
        parts += [f"{EXTERN_C}TVM_DLL float expf(float);\n"]
    parts += [f"{EXTERN_C}{signature} {{\n{body}  return 0;\n}}\n\n" for signature, body in ordered]
    return "".join(parts)


def _constant(constant: Constant) -> str:
    rows = "\n    ".join(initialiser(constant.values))
    attribute = f'__attribute__((section(".rodata.tvm"), aligned({ALIGNMENT})))'
    return (
        '\n#ifdef __cplusplus\nextern "C" {\n#endif\n'
        f"static const {constant.c_type} {attribute} {constant.name}[{constant.values.size}] = {{\n    {rows}\n}};\n"
        '#ifdef __cplusplus\n}  // extern "C"\n#endif\n'
    )


def _pool_variables(model: Model, function: int) -> list[str]:
    """The names of the pool parameters of a function; TVM numbers them through, main's first."""
    first = function * len(model.pools)
    return [f"{pool}_{first + index}_var" for index, pool in enumerate(model.pools)]


def _signature(name: str, parameters: Iterable[str], pools: Iterable[str]) -> str:
    every = [*parameters, *(f"uint8_t* {pool}" for pool in pools)]
    return f"TVM_DLL int32_t {PREFIX}_{name}({', '.join(every)})"


def _operator(model: Model, plan: Plan, step: int) -> tuple[str, str]:
    operator, tensors = model.operators[step], model.tensors
    pools = _pool_variables(model, step + 1)
    given = zip(operator.arguments, operator.parameters, strict=True)
    signature = _signature(operator.name, [f"{tensors[name].c_type}* {called}" for name, called in given], pools)
    stored = {called: _stored_constant(model, plan, constant, pools) for called, constant in operator.constants.items()}
    for tensor in operator.scratch:
        offset = plan.buffers[f"{operator.name}.{tensor.name}"]
        stored[tensor.name] = _stored_scratch(model, tensor, pools, offset)
    names = {called: parts[0] for called, parts in stored.items()}
    before = "".join(declare for _, declare, _ in stored.values())
    after = "".join(release for _, _, release in reversed(stored.values()))
    return signature, before + Template(operator.body).substitute(names, **operator.numbers) + after


def _stored_constant(model: Model, plan: Plan, constant: Constant, pools: list[str]) -> tuple[str, str, str]:
    """How an operator says, gets and gives back a constant; the last is never needed."""
    if model.memory != "internal":
        return f"(({constant.c_type}*){constant.name})", "", ""
    local = f"{constant.name}_let"
    return f"(({constant.c_type}*){local})", _place(local, pools[0], plan.constants[constant.name]), ""


def _stored_scratch(model: Model, tensor: Tensor, pools: list[str], offset: int) -> tuple[str, str, str]:
    """How an operator says, gets and gives back a buffer of its own."""
    if model.memory != "alloc":
        local = f"{tensor.name}_let"
        return f"(({tensor.c_type}*){local})", _place(local, pools[-1], offset), ""
    if tensor.size_bytes < STACK_LIMIT:
        return tensor.name, f"  {tensor.c_type} {tensor.name}[{math.prod(tensor.shape)}];\n", ""
    dtype = np.dtype(tensor.dtype)
    hints = f"{DTYPE_CODES[dtype.kind]}, {dtype.itemsize * 8}"
    return f"(({tensor.c_type}*){tensor.name})", _allocate(tensor, hints), _release(tensor)


def _place(local: str, pool: str, offset: int) -> str:
    return f"  void* {local} = (&({pool}[{offset}]));\n"


def _allocate(tensor: Tensor, hints: str) -> str:
    call = f"TVMBackendAllocWorkspace(1, 0, (uint64_t){tensor.size_bytes}, {hints})"
    return f"  void* {tensor.name} = {call};\n  if ({tensor.name} == NULL) {{\n    return -1;\n  }}\n"


def _release(tensor: Tensor) -> str:
    return f"  if (TVMBackendFreeWorkspace(1, 0, {tensor.name}) != 0) {{\n    return -1;\n  }}\n"


def _main(model: Model, plan: Plan) -> tuple[str, str]:
    pools = _pool_variables(model, 0)
    names = {tensor.name: f"{tensor.name}_buffer_var" for tensor in model.inputs}
    names |= {tensor.name: f"output{n + 1 if n else ''}_buffer_var" for n, tensor in enumerate(model.outputs)}
    signature = _signature(
        "__tvm_main__", [f"{model.tensors[name].c_type}* {called}" for name, called in names.items()], pools
    )
    if model.memory == "alloc":
        names |= {tensor.name: tensor.name for tensor in model.between}
        before = [_allocate(tensor, "0, 8") for tensor in model.between]
        after = [_release(tensor) for tensor in reversed(model.between)]
    else:
        names |= {tensor.name: f"{tensor.name}_let" for tensor in model.between}
        before = [_place(names[tensor.name], pools[-1], plan.buffers[tensor.name]) for tensor in model.between]
        after = []
    calls = [
        f"  if ({PREFIX}_{operator.name}({', '.join([names[name] for name in operator.arguments] + pools)}) != 0 ) return -1;\n"
        for operator in model.operators
    ]
    return signature, "".join(before + calls + after)


def entrypoint_file(model: Model) -> str:
    """The file with the pools and the entrypoint (TVM's `lib0`)."""
    pools = _pool_variables(model, 0)
    taken = [f"void* {tensor.name}" for tensor in model.inputs] + [
        f"void* output{index}" for index in range(len(model.outputs))
    ]
    given = [f"inputs->{tensor.name}" for tensor in model.inputs] + [
        f"outputs->{tensor.name}" for tensor in model.outputs
    ]
    structs = [f"struct {PREFIX}_{kind}* {kind}" for kind in _structs(model)]
    place = "workspace_pools->" if model.memory == "external" else "&"
    main = f"{PREFIX}___tvm_main__"
    return (
        '#include "tvm/runtime/c_runtime_api.h"\n#ifdef __cplusplus\nextern "C" {\n#endif\n'
        + (_internal_pools(model) if model.memory == "internal" else "")
        + f"#include <{PREFIX}.h>\nTVM_DLL int32_t {main}({','.join(taken + [f'uint8_t* {pool}' for pool in pools])});\n"
        + f"int32_t {PREFIX}_run({','.join(structs)}) {{"
        + f"return {main}({','.join(given + [f'((uint8_t*){place}{pool})' for pool in model.pools])});\n}}\n"
        + "#ifdef __cplusplus\n}\n#endif\n;"
    )


def _internal_pools(model: Model) -> str:
    plan = plan_memory(model)
    fields, values = "", ""
    for constant in model.constants:
        name, offset = constant.name, plan.constants[constant.name]
        packed = "packed, " if offset else ""  # TVM packs every field but the first
        fields += f"  {constant.c_type} {name}_let[{constant.values.size}]"
        fields += f" __attribute__(({packed}aligned({ALIGNMENT})));"
        fields += f" // {constant.values.nbytes} bytes, aligned offset: {offset}\n"
        values += "\n    ".join([f"  .{name}_let = {{", *initialiser(constant.values)]) + "\n  },\n"
    return (
        '__attribute__((section(".rodata.tvm"), ))\n'
        f"static struct global_const_workspace {{\n{fields}}} global_const_workspace = {{\n{values}}};"
        f"// of total size {plan.constants_size_bytes} bytes\n"
        f'__attribute__((section(".bss.noinit.tvm"), aligned({ALIGNMENT})))\n'
        f"static uint8_t global_workspace[{plan.workspace_size_bytes}];\n"
    )


def _structs(model: Model) -> dict[str, tuple[str, ...]]:
    structs = {
        kind: tuple(tensor.name for tensor in tensors)
        for kind, tensors in (("inputs", model.inputs), ("outputs", model.outputs))
    }
    return structs | ({"workspace_pools": model.pools} if model.memory == "external" else {})


def header_file(model: Model) -> str:
    """The header of the C interface."""
    guard = f"{PREFIX.upper()}_H_"
    text = f'#ifndef {guard}\n#define {guard}\n#include <stdint.h>\n\n#ifdef __cplusplus\nextern "C" {{\n#endif\n\n'
    for tensor in (*_sorted(model.inputs), *_sorted(model.outputs)):
        text += _macro(f"{tensor.name} in bytes", f"{tensor.name}_SIZE", tensor.size_bytes)
    for kind, fields in _structs(model).items():
        members = "".join(f"  void* {name};\n" for name in fields)
        text += f"/*!\n * \\brief Pointers: {kind}\n */\nstruct {PREFIX}_{kind} {{\n{members}}};\n\n"
    parameters = ",\n".join(f"  struct {PREFIX}_{kind}* {kind}" for kind in _structs(model))
    text += f"/*!\n * \\brief One inference\n */\nint32_t {PREFIX}_run(\n{parameters}\n);\n"
    size_bytes = workspace_size_bytes(model)
    text += _macro("Workspace in bytes", "WORKSPACE_SIZE", size_bytes)
    if model.memory == "external":
        text += _macro("Pool sram in bytes", "SRAM_WORKSPACE_POOL_SIZE", size_bytes)
    return f"{text}\n#ifdef __cplusplus\n}}\n#endif\n\n#endif // {guard}\n"


def _macro(brief: str, name: str, value: int) -> str:
    return f"/*!\n * \\brief {brief}\n */\n#define {PREFIX.upper()}_{name.upper()} {value}\n"


def _sorted(tensors: Iterable[Tensor]) -> list[Tensor]:
    return sorted(tensors, key=lambda tensor: tensor.name)


def workspace_size_bytes(model: Model) -> int:
    """The size that TVM declares: the pool, or without one main's buffers and the neediest operator's."""
    if model.memory != "alloc":
        return plan_memory(model).workspace_size_bytes
    return sum(aligned(tensor.size_bytes) for tensor in model.between) + max(map(_scratch_size_bytes, model.operators))


def _scratch_size_bytes(operator: Operator) -> int:
    return sum(aligned(tensor.size_bytes) for tensor in operator.scratch)


def metadata(model: Model) -> dict[str, Any]:
    """What TVM writes as metadata.json of format version 7."""
    # TVM counts the tensors between operators as input and output too, and those of a tuple of outputs three times.
    counted = [*model.inputs, *model.between, *model.outputs * (3 if len(model.outputs) > 1 else 1)]
    main = {
        "constants_size_bytes": plan_memory(model).constants_size_bytes if model.memory == "internal" else 0,
        "device": 1,
        "inputs": {tensor.name: {"dtype": tensor.dtype, "size": tensor.size_bytes} for tensor in model.inputs},
        "io_size_bytes": sum(tensor.size_bytes for tensor in counted),
        "outputs": {tensor.name: {"dtype": tensor.dtype, "size": tensor.size_bytes} for tensor in model.outputs},
        "workspace_size_bytes": workspace_size_bytes(model),
    }
    needs = {
        operator.name: _scratch_size_bytes(operator) if model.memory == "alloc" else 0 for operator in model.operators
    }
    operators = [
        {"function_name": f"{PREFIX}_{name}", "workspace": [{"device": 1, "workspace_size_bytes": size_bytes}]}
        for name, size_bytes in needs.items()
    ]
    module = {
        "executors": ["aot"],
        "export_datetime": EXPORTED,
        "memory": {"functions": {"main": [main], "operator_functions": operators}},
        "model_name": "default",
        "style": "full-model",
        "target": ["c -keys=cpu "],
    }
    return {"modules": {"default": module}, "version": 7}


def write_archive(model: Model, path: Path) -> None:
    """Write the archive: TVM's members in TVM's order, but ustar and without times, so that its bytes never change."""
    members: dict[str, str | bytes | None] = {
        ".": None,
        "./codegen": None,
        "./codegen/host": None,
        "./codegen/host/include": None,
        f"./codegen/host/include/{PREFIX}.h": header_file(model),
        "./codegen/host/src": None,
        "./codegen/host/src/default_lib0.c": entrypoint_file(model),
        "./codegen/host/src/default_lib1.c": operator_file(model),
        "./metadata.json": json.dumps(metadata(model), indent=2, sort_keys=True),
        "./parameters": None,
        "./parameters/default.params": EMPTY_PARAMS,
        "./src": None,
        "./src/default.relay": model.relay,
    }
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members.items():
            _add(archive, name, content)


def _add(archive: tarfile.TarFile, name: str, content: str | bytes | None) -> None:
    member = tarfile.TarInfo(name)
    member.uname = member.gname = "root"
    if content is None:
        member.type, member.mode = tarfile.DIRTYPE, 0o700 if name == "." else 0o755
        archive.addfile(member)
        return
    data = content.encode() if isinstance(content, str) else content
    member.mode, member.size = 0o644, len(data)
    archive.addfile(member, io.BytesIO(data))
