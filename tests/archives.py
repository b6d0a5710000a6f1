"""Writes one small network as the C and the archive of each TVM release that wrote archives, to read and to run.

The network has two inputs and two outputs, whose order in a call is not that of the alphabet:

    hidden = (zeta + WEIGHTS) * 2 + alpha        float32 (1, 8), of zeta float32 (1, 8) and alpha int8 (2, 4)
    scores = the first four of hidden, times 4   int32 (1, 4), by way of a scratch buffer of 1200 bytes

Its three operators are `add`, `mix` and `pick`; only `add` has weights, only `pick` scratch.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import zstandard

from mlf.naming import header_name, macro, mangle_model, sanitize_tensor_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

Arrays = dict[str, "npt.NDArray[Any]"]

WEIGHTS = np.arange(8, dtype=np.float32) / 2 - 1
INPUTS = {"zeta": ("float32", (1, 8)), "alpha": ("int8", (2, 4))}
OUTPUTS = {"scores": ("int32", (1, 4)), "hidden": ("float32", (1, 8))}
BETWEEN_BYTES = 32
SCRATCH_BYTES = 1200
WORKSPACE_BYTES = BETWEEN_BYTES + SCRATCH_BYTES
EMPTY_PARAMS = struct.pack("<4Q", 0xF7E58D4F05049CB7, 0, 0, 0)
# TVM 0.11 printed the low half of a pointer where a size belongs; it may be positive.
GARBAGE = (-1582571184, 373293056, -12, 94371840)
C_TYPES = {"float32": "float", "int8": "int8_t", "int32": "int32_t"}
EXTERN_C = '#ifdef __cplusplus\nextern "C"\n#endif\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """How a TVM release, or a development version between two, writes archives."""

    name: str
    version: int
    has_typed_pointers: bool = True
    renames_arguments: bool = False  # parameters are `arg<n>`, the body gives them names
    checks_calls: bool = True
    main: str = "__tvm_main__"
    has_workspace_macro: bool = True
    size_macros: str = ""  # `garbage` or `right`
    has_io: bool = False  # in metadata.json
    names_outputs: bool = True  # in the header
    names_outputs_in_metadata: bool = False
    marks_constants: bool = True  # with a section and an alignment
    pool_section: str = ".bss.noinit.tvm"
    casts_pools: bool = True
    declares: bool = False
    has_const_pool: str = ""  # what stands before `struct global_const_workspace`; empty: there are none

    @property
    def is_single(self) -> bool:
        """Whether its archives hold exactly one module."""
        return self.version < 7


def _release(name: str, version: int, **forms: Any) -> Release:
    return Release(name=name, version=version, **forms)


RELEASES = {
    release.name: release
    for release in (
        _release(
            "0.8.0", 5, has_typed_pointers=False, renames_arguments=True, checks_calls=False, main="run_model", has_workspace_macro=False,
            names_outputs=False, marks_constants=False,
        ),
        _release("0.9.dev-v5", 5, has_typed_pointers=False, pool_section=".data.tvm", casts_pools=False),
        _release("0.9.dev-v6", 6, casts_pools=False),
        _release("0.9.0", 7, has_const_pool="static", casts_pools=False),
        _release("0.10.0", 7, has_const_pool="static"),
        _release("0.11.1", 7, has_const_pool="static", size_macros="garbage", has_io=True),
        _release("0.12.0", 7, has_const_pool="static", size_macros="right", has_io=True, names_outputs_in_metadata=True),
        _release(
            "0.16.0", 7, has_const_pool="static", size_macros="right", has_io=True, names_outputs_in_metadata=True, declares=True
        ),
        _release(
            "0.17.0", 7, has_const_pool="static const", size_macros="right", has_io=True, names_outputs_in_metadata=True, declares=True
        ),
    )
}  # fmt: skip
LATEST = RELEASES["0.17.0"]

# Which pools each style of memory has: (name, kind, whether it is inside the code).
POOLS: Mapping[str, tuple[tuple[str, str, bool], ...]] = {
    "alloc": (),
    "internal": (("global_const_workspace", "constant", True), ("global_workspace", "workspace", True)),
    "external": (("sram", "workspace", False),),
    "constant": (("flash", "constant", False), ("global_workspace", "workspace", True)),
    "mixed": (("global_workspace", "workspace", True),),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The network under given names, in the form of a release, with one style of memory."""

    release: Release = LATEST
    model: str = "default"
    inputs: tuple[str, str] = ("zeta:0", "alpha-b")
    outputs: tuple[str, str] = ("scores", "hidden")
    memory: str = "alloc"
    interface: str = "c"
    has_result_types: bool = False  # in the Relay text
    devices: tuple[str, ...] = ()
    maps_io: bool = False

    @property
    def prefix(self) -> str:
        return mangle_model(self.model)

    @property
    def main(self) -> str:
        return f"{self.prefix}_{self.release.main}"

    @property
    def pools(self) -> tuple[tuple[str, str, bool], ...]:
        return tuple(pool for pool in POOLS[self.memory] if self.release.has_const_pool or pool[1] != "constant")

    @property
    def has_pooled_constants(self) -> bool:
        return any(kind == "constant" for _, kind, _ in self.pools)

    @property
    def input_fields(self) -> tuple[str, ...]:
        return tuple(map(sanitize_tensor_name, self.inputs))

    @property
    def output_fields(self) -> tuple[str, ...]:
        names = self.outputs if self.release.names_outputs else ("output0", "output1")
        return tuple(map(sanitize_tensor_name, names))


def expected(inputs: Arrays, network: Network) -> Arrays:
    """What the network must give, as numpy works it out."""
    zeta, alpha = (inputs[name] for name in network.inputs)
    hidden = (zeta + WEIGHTS) * 2 + alpha.reshape(1, 8).astype(np.float32)
    scores = (hidden[:, :4] * 4).astype(np.int32)
    names = network.outputs if network.release.names_outputs else ("output0", "output1")
    return dict(zip(names, (scores, hidden), strict=True))


def random_inputs(network: Network, seed: int) -> Arrays:
    """Inputs of quarters, so that every sum is exact whatever the order."""
    random = np.random.default_rng(seed)
    zeta = (random.integers(-64, 64, (1, 8)) / 4).astype(np.float32)
    return dict(zip(network.inputs, (zeta, random.integers(-128, 128, (2, 4), dtype=np.int8)), strict=True))


def _size_bytes(tensor: tuple[str, tuple[int, ...]]) -> int:
    return int(np.prod(tensor[1])) * np.dtype(tensor[0]).itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class _Function:
    """A function of the operator file: its tensors, and the lines of its body, in which `{name}` is a tensor."""

    name: str
    tensors: Mapping[str, str]  # C types by name
    lines: tuple[str, ...]
    pools: tuple[str, ...]
    devices: tuple[str, ...] = ()

    def signature(self, release: Release) -> str:
        names = [f"arg{index}" for index in range(len(self.tensors))] if release.renames_arguments else self.tensors
        kinds = [kind if release.has_typed_pointers else "void" for kind in self.tensors.values()]
        every = [f"{kind}* {name}" for kind, name in zip(kinds, names, strict=True)]
        every += [f"uint8_t* {pool}" for pool in self.pools] + [f"void* {device}" for device in self.devices]
        return f"TVM_DLL int32_t {self.name}({', '.join(every)})"

    def text(self, release: Release) -> str:
        lines = [f"void* {name} = arg{index};" for index, name in enumerate(self.tensors) if release.renames_arguments]
        elements = {
            name: name if release.has_typed_pointers else f"(({kind}*){name})" for name, kind in self.tensors.items()
        }
        lines += [_filled(line, elements) for line in self.lines]
        body = "".join(f"  {line}\n" for line in lines)
        return f"{EXTERN_C}{self.signature(release)} {{\n{body}  return 0;\n}}\n\n"


def _filled(line: str, elements: Mapping[str, str]) -> str:
    for name, text in elements.items():
        line = line.replace(f"<{name}>", text)
    return line


def _pool_variables(network: Network, function: int) -> tuple[str, ...]:
    first = function * len(network.pools)
    return tuple(f"{name}_{first + index}_var" for index, (name, _, _) in enumerate(network.pools))


def _loop(variable: str, count: int, *lines: str) -> tuple[str, ...]:
    head = f"for (int32_t {variable} = 0; {variable} < {count}; ++{variable}) {{"
    return (head, *(f"  {line}" for line in lines), "}")


def _allocated(name: str, size_bytes: int, hints: str) -> tuple[str, ...]:
    call = f"TVMBackendAllocWorkspace(1, 0, (uint64_t){size_bytes}, {hints})"
    return (f"void* {name} = {call};", f"if ({name} == NULL) {{", "  return -1;", "}")


def _freed(name: str) -> tuple[str, ...]:
    return (f"if (TVMBackendFreeWorkspace(1, 0, {name}) != 0) {{", "  return -1;", "}")


def _functions(network: Network) -> tuple[_Function, ...]:
    return (_add(network), _mix(network), _pick(network), _main(network))


def _add(network: Network) -> _Function:
    pools = _pool_variables(network, 1)
    tensors = {"placeholder": "float", "T_add": "float"}
    constant = "((float*)fused_constant)"
    lines: tuple[str, ...] = ()
    if network.has_pooled_constants:
        constant, lines = "((float*)fused_constant_let)", (f"void* fused_constant_let = (&({pools[0]}[0]));",)
    elif not network.release.marks_constants:
        tensors, constant = {"placeholder": "float", "placeholder1": "float", "T_add": "float"}, "<placeholder1>"
    body = _loop("ax1", 8, f"<T_add>[(ax1)] = (<placeholder>[(ax1)] + {constant}[(ax1)]);")
    return _Function(name=f"{network.prefix}_fused_add", tensors=tensors, lines=(*lines, *body), pools=pools)


def _mix(network: Network) -> _Function:
    # The index goes through a common subexpression, as TVM prints it where it is long.
    body = _loop(
        "ax0", 2,
        *_loop(
            "ax1", 4, "int32_t cse_var_1 = ((ax0 * 4) + ax1);",
            "<T_mix>[cse_var_1] = ((<p0>[cse_var_1] * 2.000000e+00f) + ((float)<p1>[((ax0 * 4) + ax1)]));",
        ),
    )  # fmt: skip
    tensors = {"p0": "float", "p1": "int8_t", "T_mix": "float"}
    return _Function(name=f"{network.prefix}_fused_mix", tensors=tensors, lines=body, pools=_pool_variables(network, 2))


def _pick(network: Network) -> _Function:
    pools = _pool_variables(network, 3)
    fill = _loop("i", 300, "((float*)scratch)[i] = <p0>[(i % 8)];")
    take = _loop("j", 4, "<T_pick>[j] = ((int32_t)(((float*)scratch)[(j * 9)] * 4.000000e+00f));")
    if network.memory in ("alloc", "mixed"):
        lines = (*_allocated("scratch", SCRATCH_BYTES, "2, 32"), *fill, *take, *_freed("scratch"))
    else:
        lines = (f"void* scratch = (&({pools[-1]}[{BETWEEN_BYTES}]));", *fill, *take)
    tensors = {"p0": "float", "T_pick": "int32_t"}
    return _Function(name=f"{network.prefix}_fused_pick", tensors=tensors, lines=lines, pools=pools)


def _main(network: Network) -> _Function:
    release, pools = network.release, _pool_variables(network, 0)
    names = [f"{name}_buffer_var" for name in network.input_fields] + ["output_buffer_var", "output2_buffer_var"]
    kinds = [C_TYPES[dtype] for dtype, _ in (*INPUTS.values(), *OUTPUTS.values())]
    zeta, alpha, scores, hidden = names
    sid = "sid_2" if network.memory == "alloc" else "sid_2_let"
    weights = [] if release.marks_constants or network.has_pooled_constants else ["__tvm_param__p0"]
    calls = [
        _call(network, "add", [zeta, *weights, sid, *pools]),
        _call(network, "mix", [sid, alpha, hidden, *pools]),
        _call(network, "pick", [hidden, scores, *pools]),
    ]
    if network.memory == "alloc":
        lines = (*_allocated(sid, BETWEEN_BYTES, "0, 8"), *calls, *_freed(sid))
    else:
        lines = (f"void* {sid} = (&({pools[-1]}[0]));", *calls)
    devices = tuple(f"device_context_{device}" for device in network.devices)
    tensors = {} if network.maps_io else dict(zip(names, kinds, strict=True))
    return _Function(name=network.main, tensors=tensors, lines=lines, pools=pools, devices=devices)


def _call(network: Network, operator: str, arguments: Sequence[str]) -> str:
    call = f"{network.prefix}_fused_{operator}({', '.join(arguments)})"
    return f"if ({call} != 0 ) return -1;" if network.release.checks_calls else f"(void){call};"


def operators(network: Network) -> str:
    """The file with the operators and main (TVM's `lib1`)."""
    release = network.release
    parts = ['// tvm target: c -keys=cpu \n#define TVM_EXPORTS\n#include "tvm/runtime/c_runtime_api.h"\n']
    parts += ['#include "tvm/runtime/c_backend_api.h"\n#include <math.h>\n#include <stdbool.h>\n']
    if not network.has_pooled_constants:
        attribute = '__attribute__((section(".rodata.tvm"), aligned(16))) ' if release.marks_constants else ""
        name = "fused_constant" if release.marks_constants else "__tvm_param__p0"
        parts += ['\n#ifdef __cplusplus\nextern "C" {\n#endif\n']
        parts += [f"static const float {attribute}{name}[8] = {{\n    {_literals()}\n}};\n"]
        parts += ['#ifdef __cplusplus\n}  // extern "C"\n#endif\n']
    functions = _functions(network)
    if release.declares:
        parts += [f"{EXTERN_C}{function.signature(release)};\n" for function in functions]
    return "".join([*parts, *(function.text(release) for function in functions)])


def _literals() -> str:
    return ", ".join(float(value).hex() for value in WEIGHTS)


def wrapper(network: Network) -> str:
    """The file with the entrypoint and the internal pools (TVM's `lib0`)."""
    parts = ['#include "tvm/runtime/c_runtime_api.h"\n#ifdef __cplusplus\nextern "C" {\n#endif\n', _pools(network)]
    untyped = network.release.renames_arguments
    taken = [f"void* {f'arg{index}' if untyped else name}" for index, name in enumerate(network.input_fields)]
    taken += [f"void* {f'arg{index + 2}' if untyped else f'output{index}'}" for index in range(2)]
    taken = [] if network.maps_io else taken
    taken += [f"uint8_t* {pool}" for pool in _pool_variables(network, 0)] + [
        f"void* {name}" for name in network.devices
    ]
    declaration = f"TVM_DLL int32_t {network.main}({','.join(taken)});\n"
    if network.interface == "c":
        parts += [f"#include <{network.prefix}.h>\n", declaration, _c_entrypoint(network)]
    else:
        parts += [declaration, _packed_entrypoint(network)]
    return "".join([*parts, "#ifdef __cplusplus\n}\n#endif\n;"])


def _c_entrypoint(network: Network) -> str:
    structs = [f"struct {network.prefix}_{kind}* {kind}" for kind in _structs(network, of_run=True)]
    given = [f"inputs->{name}" for name in network.input_fields] + [
        f"outputs->{name}" for name in network.output_fields
    ]
    given = [] if network.maps_io else given
    given += [_passed(network, name, is_internal=is_internal) for name, _, is_internal in network.pools]
    given += [f"devices->{name}" for name in network.devices]
    return f"int32_t {network.prefix}_run({','.join(structs)}) {{return {network.main}({','.join(given)});\n}}\n"


def _passed(network: Network, name: str, *, is_internal: bool) -> str:
    if is_internal and not network.release.casts_pools:
        return f"&{name}"
    return f"((uint8_t*){'&' if is_internal else 'workspace_pools->'}{name})"


def _packed_entrypoint(network: Network) -> str:
    given = [f"((DLTensor*)(((TVMValue*)args)[{index}].v_handle))[0].data" for index in range(4)]
    given += [f"&{name}" for name, _, _ in network.pools]
    parameters = (
        "void* args, void* type_code, int num_args, void* out_value, void* out_type_code, void* resource_handle"
    )
    return f"int32_t {network.prefix}_run({parameters}) {{\nreturn {network.main}({','.join(given)});\n}}\n"


def _pools(network: Network) -> str:
    text = ""
    for name, kind, is_internal in network.pools:
        if is_internal and kind == "workspace":
            size = BETWEEN_BYTES if network.memory == "mixed" else WORKSPACE_BYTES
            attribute = f'__attribute__((section("{network.release.pool_section}"), aligned(16)))'
            text += f"{attribute}\nstatic uint8_t {name}[{size}];\n"
        elif is_internal:
            text += (
                f'__attribute__((section(".rodata.tvm"), ))\n{network.release.has_const_pool} struct {name} {{\n'
                "  float fused_constant_let[8] __attribute__((aligned(16))); // 32 bytes, aligned offset: 0\n"
                f"}} {name} = {{\n  .fused_constant_let = {{\n    {_literals()}\n  }},\n}};// of total size 32 bytes\n"
            )
    return text


def _structs(network: Network, *, of_run: bool = False) -> dict[str, tuple[str, ...]]:
    external = tuple(name for name, _, is_internal in network.pools if not is_internal)
    io = {} if of_run and network.maps_io else {"inputs": network.input_fields, "outputs": network.output_fields}
    more = {"workspace_pools": external, "devices": network.devices}
    return io | {kind: names for kind, names in more.items() if names}


def header(network: Network) -> str:
    """The header of the C interface."""
    prefix, release = network.prefix.lower(), network.release
    guard = macro(network.model, "H_")
    text = f'#ifndef {guard}\n#define {guard}\n#include <stdint.h>\n\n#ifdef __cplusplus\nextern "C" {{\n#endif\n\n'
    fields = [*network.input_fields, *network.output_fields]
    right = [_size_bytes(tensor) for tensor in (*INPUTS.values(), *OUTPUTS.values())]
    for name, size in zip(fields, GARBAGE if release.size_macros == "garbage" else right, strict=True):
        if release.size_macros:
            text += _macro(network, f"tensor {name} size (in bytes)", (name, "SIZE"), size)
    for kind, names in _structs(network).items():
        members = "".join(f"  void* {name};\n" for name in names)
        text += f'/*!\n * \\brief Pointers for TVM module "{network.model}" \n */\nstruct {prefix}_{kind} {{\n{members}}};\n\n'
    if network.maps_io:
        for kind in ("inputs", "outputs"):
            pools = f"struct {prefix}_workspace_pools* workspace_pools"
            text += f"struct {prefix}_{kind} {prefix}_map_{kind}(\n  {pools}\n);\n\n"
    parameters = ",\n".join(f"  struct {prefix}_{kind}* {kind}" for kind in _structs(network, of_run=True))
    text += f"int32_t {prefix}_run(\n{parameters}\n);\n"
    if release.has_workspace_macro:
        text += _macro(network, "Workspace size", ("WORKSPACE_SIZE",), WORKSPACE_BYTES)
    return f"{text}{_pool_macros(network)}\n#ifdef __cplusplus\n}}\n#endif\n\n#endif // {guard}\n"


def _pool_macros(network: Network) -> str:
    text = ""
    for name, kind, is_internal in network.pools:
        if not is_internal and kind == "workspace":
            text += _macro(network, f"{name} size", (name, "WORKSPACE_POOL_SIZE"), WORKSPACE_BYTES)
        elif not is_internal:
            text += _macro(network, f"{name} initialization data", (name, "CONSTANT_POOL_SIZE"), WEIGHTS.nbytes)
            rows = [WEIGHTS.tobytes()[start : start + 16] for start in (0, 16)]
            data = ", \\\n    ".join(", ".join(f"0x{byte:02x}" for byte in row) for row in rows)
            text += f"#define {macro(network.model, name, 'CONSTANT_POOL_DATA')} \\\n    {data}\\\n\n"
    return text


def _macro(network: Network, brief: str, parts: Sequence[str], value: int) -> str:
    return f'/*!\n * \\brief {brief} for TVM module "{network.model}" \n */\n#define {macro(network.model, *parts)} {value}\n'


def relay(network: Network) -> str:
    """The Relay text of the network."""
    parameters = ", ".join(
        f"%{name}: {_relay_type(tensor)}" for name, tensor in zip(network.inputs, INPUTS.values(), strict=True)
    )
    results = ", ".join(map(_relay_type, OUTPUTS.values()))
    arrow = f" -> ({results})" if network.has_result_types else ""
    return f"def @main({parameters}){arrow} {{\n  %0 = mix(%{network.inputs[0]});\n  (%1, %0)\n}}\n\n"


def _relay_type(tensor: tuple[str, tuple[int, ...]]) -> str:
    return f"Tensor[({', '.join(map(str, tensor[1]))}), {tensor[0]}]"


def metadata(networks: Sequence[Network]) -> dict[str, Any]:
    """The decoded `metadata.json` of an archive of these modules; before version 7 there is exactly one."""
    release = networks[0].release
    modules = {network.model: _module_metadata(network) for network in networks}
    if release.is_single:
        return {**modules[networks[0].model], "version": release.version}
    return {"modules": modules, "version": release.version}


def _module_metadata(network: Network) -> dict[str, Any]:
    release = network.release
    main: dict[str, Any] = {
        "constants_size_bytes": 32, "device": 1, "io_size_bytes": 88, "workspace_size_bytes": WORKSPACE_BYTES
    }  # fmt: skip
    if release.has_io:
        outputs = network.outputs if release.names_outputs_in_metadata else ("output0", "output1")
        main["inputs"] = _io_metadata(network.inputs, INPUTS)
        main["outputs"] = _io_metadata(outputs, OUTPUTS)
    needs = {"add": 0, "mix": 0, "pick": SCRATCH_BYTES}
    functions = [
        {
            "function_name": f"{network.prefix}_fused_{name}",
            "workspace": [{"device": 1, "workspace_size_bytes": size}],
        }
        for name, size in needs.items()
    ]
    return {
        "executors": ["aot"],
        "export_datetime": "2024-03-28 09:00:00Z",
        "memory": {"functions": {"main": [main], "operator_functions": functions}},
        "model_name": network.model,
        "style": "full-model",
        "target": {"1": "c -keys=cpu "} if release.version < 6 else ["c -keys=cpu "],
    }


def _io_metadata(names: Sequence[str], tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, Any]:
    return {
        name: {"dtype": tensor[0], "size": _size_bytes(tensor)}
        for name, tensor in zip(names, tensors.values(), strict=True)
    }


Members = dict[str, bytes]


def members(*networks: Network) -> Members:
    """The members of an archive of these modules, by name."""
    found = {"metadata.json": json.dumps(metadata(networks), indent=2, sort_keys=True)}
    for network in networks:
        found[f"codegen/host/src/{network.model}_lib0.c"] = wrapper(network)
        found[f"codegen/host/src/{network.model}_lib1.c"] = operators(network)
        found["src/relay.txt" if network.release.is_single else f"src/{network.model}.relay"] = relay(network)
        if network.interface == "c":
            found[f"codegen/host/include/{header_name(network.model)}"] = header(network)
    content = {name: text.encode() for name, text in found.items()}
    return content | {f"parameters/{network.model}.params": EMPTY_PARAMS for network in networks}


def write(path: Path, content: Mapping[str, bytes]) -> Path:
    """Write an archive in the form that the path's suffix names; without one it is a directory."""
    if not path.suffix:
        for name, data in content.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in sorted(content.items()):
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    data = buffer.getvalue()
    path.write_bytes(zstandard.compress(data) if path.suffix == ".zst" else data)
    return path
