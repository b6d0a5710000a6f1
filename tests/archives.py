"""Writes one small network as the C and the archive of each TVM release and development version that wrote archives.

Of the releases there are real archives to compare with. Nothing installs the versions of March to July 2021 and of May 2022
any more, so `SNAPSHOTS` are after the exporters of those dates and after C files that they generated.

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

Tensor = tuple[str, tuple[int, ...]]

WEIGHTS = np.arange(8, dtype=np.float32) / 2 - 1
INPUTS = {"zeta": ("float32", (1, 8)), "alpha": ("int8", (2, 4))}
OUTPUTS = {"scores": ("int32", (1, 4)), "hidden": ("float32", (1, 8))}
# What the operators take and give, in the order of their parameters; `p0` are the weights.
OPERATORS: dict[str, dict[str, Tensor]] = {
    "pick": {"p0": ("float32", (1, 8)), "T_pick": OUTPUTS["scores"]},
    "add": {"placeholder": INPUTS["zeta"], "placeholder1": ("float32", (1, 8)), "T_add": ("float32", (1, 8))},
    "mix": {"p0": ("float32", (1, 8)), "p1": INPUTS["alpha"], "T_mix": OUTPUTS["hidden"]},
}
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
    is_mangled: bool = True  # symbols and files have the model's name in front
    descriptor: str = ""  # what a `tvm_model_t` points to: `main`, or a static `wrapper` around it
    defines_context: bool = False  # `__tvm_module_ctx`, in every file with operators
    looks_up_params: bool = False  # of a graph, where they are linked into the code
    has_alias: bool = True  # `__tvm_main__`, for the one function of an operator archive
    names_buffers: bool = True  # in the metadata of an operator archive
    count_bytes: int = 2  # of the functions in a registry
    passes_handle: bool = True  # to the functions of a registry
    registers_run: bool = False
    described_executors: tuple[str, ...] = ()  # which have get_c_metadata
    lists_pools: str = "workspace_pools constant_pools"  # in get_c_metadata
    has_target_options: bool = False  # of the executor and the runtime
    runtime_file: str = ""  # how the runtime in the archive is built; empty: it has none
    has_templates: bool = False

    @property
    def is_single(self) -> bool:
        """Whether its archives hold exactly one module."""
        return self.version < 7


def _release(name: str, version: int, **forms: Any) -> Release:
    return Release(name=name, version=version, **forms)


_OF_2021: dict[str, Any] = {
    "has_typed_pointers": False, "renames_arguments": True, "checks_calls": False, "main": "run_model", "has_workspace_macro": False,
    "names_outputs": False, "marks_constants": False, "looks_up_params": True, "count_bytes": 1, "passes_handle": False,
    "has_target_options": True,
}  # fmt: skip
_BEFORE_NAMES: dict[str, Any] = {
    **_OF_2021, "main": "tvm__run_func", "is_mangled": False, "defines_context": True, "has_alias": False,
}  # fmt: skip
_OF_2022: dict[str, Any] = {
    "casts_pools": False, "described_executors": ("aot", "graph"), "lists_pools": "pools", "runtime_file": "Makefile",
}  # fmt: skip
_SINCE_2023: dict[str, Any] = {
    "has_const_pool": "static", "size_macros": "right", "has_io": True, "names_outputs_in_metadata": True, "names_buffers": False,
    "registers_run": True, "described_executors": ("aot",), "runtime_file": "CMakeLists.txt", "has_templates": True,
}  # fmt: skip

RELEASES = {
    release.name: release
    for release in (
        _release("0.8.0", 5, **_OF_2021),
        _release(
            "0.9.dev-v5", 5, has_typed_pointers=False, pool_section=".data.tvm", casts_pools=False, count_bytes=1, passes_handle=False,
            runtime_file="Makefile",
        ),
        _release("0.9.dev-v6", 6, **_OF_2022),
        _release("0.9.0", 7, **_OF_2022 | {"has_const_pool": "static", "lists_pools": "workspace_pools constant_pools"}),
        _release("0.10.0", 7, has_const_pool="static", described_executors=("aot", "graph"), runtime_file="Makefile"),
        _release(
            "0.11.1", 7, has_const_pool="static", size_macros="garbage", has_io=True, described_executors=("aot", "graph"),
            runtime_file="Makefile",
        ),
        _release("0.12.0", 7, **_SINCE_2023),
        _release("0.16.0", 7, **_SINCE_2023, declares=True),
        _release("0.17.0", 7, **_SINCE_2023 | {"has_const_pool": "static const"}, declares=True),
    )
}  # fmt: skip
LATEST = RELEASES["0.17.0"]
# Between the releases, by the day from which on archives had this form.
SNAPSHOTS = {
    release.name: release
    for release in (
        _release("2021-03-10", 1, **_BEFORE_NAMES),
        _release("2021-05-05", 1, **_BEFORE_NAMES, descriptor="main"),
        _release("2021-05-07", 2, **_BEFORE_NAMES, descriptor="main"),
        _release("2021-06-04", 2, **_BEFORE_NAMES, descriptor="wrapper"),
        _release("2021-06-28", 3, **_OF_2021 | {"has_alias": False}, descriptor="wrapper"),
        _release("2021-07-02", 4, **_OF_2021 | {"has_alias": False}, descriptor="wrapper"),
        _release("2021-07-20", 5, **_OF_2021 | {"has_alias": False}, descriptor="wrapper"),
        _release("2022-05-09", 5, **_OF_2022, count_bytes=1),
        _release("2022-05-20", 5, **_OF_2022),
    )
}

# The styles in which a model could be compiled; which of them a version had is in `test_old_versions.py`.
_GRAPH: dict[str, Any] = {
    "executor": "graph", "interface": "packed", "operators": "packed", "has_system_lib": True, "is_complete": True,
}  # fmt: skip
STYLES: dict[str, dict[str, Any]] = {
    "graph": _GRAPH,
    "graph-linked": {**_GRAPH, "links_params": True},
    "aot-packed": {"interface": "packed", "operators": "packed", "is_complete": True},
    "aot-unpacked": {"interface": "packed", "is_complete": True},
    "aot-c": {"is_complete": True},
    "operator": {**_GRAPH, "style": "operator", "model": "several"},
}

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
    style: str = "full-model"
    executor: str = "aot"
    operators: str = "unpacked"
    parts: tuple[str, ...] = ("add", "mix", "pick")  # an operator archive need not have all
    has_system_lib: bool = False
    links_params: bool = False  # of a graph
    has_relay_weights: bool = False  # as parameters of the Relay text, where they were given to the compiler apart
    is_complete: bool = False  # with what the release adds: get_c_metadata, runtime/, weights in `.params`

    @property
    def prefix(self) -> str:
        return mangle_model(self.model)

    @property
    def main(self) -> str:
        return f"{self.prefix}_{self.release.main}" if self.release.is_mangled else self.release.main

    @property
    def has_main(self) -> bool:
        return self.style == "full-model" and self.executor == "aot"

    @property
    def operator_names(self) -> dict[str, str]:
        """The symbols of the operators."""
        prefix = f"{self.prefix}_fused_" if self.release.is_mangled else "fused_"
        return {part: part if self.style == "operator" else f"{prefix}{part}" for part in self.parts}

    @property
    def passes_weights(self) -> bool:
        """Whether `add` takes its weights as a parameter, and does not hold them."""
        if self.has_main:
            return not self.release.marks_constants and not self.has_pooled_constants
        return not self.links_params or self.release.looks_up_params

    @property
    def has_c_metadata(self) -> bool:
        is_described = self.style == "full-model" and self.executor in self.release.described_executors
        return self.is_complete and self.interface == "packed" and is_described

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
    is_packed: bool = False
    is_main: bool = False

    def signature(self, release: Release) -> str:
        if self.is_packed:
            kind = "int32_t" if release.has_typed_pointers else "void"
            results = f"void* out_ret_value, {kind}* out_ret_tcode, void* resource_handle"
            return f"TVM_DLL int32_t {self.name}(void* args, {kind}* arg_type_ids, int32_t num_args, {results})"
        names = [f"arg{index}" for index in range(len(self.tensors))] if release.renames_arguments else self.tensors
        kinds = [kind if release.has_typed_pointers else "void" for kind in self.tensors.values()]
        every = [f"{kind}* {name}" for kind, name in zip(kinds, names, strict=True)]
        every += [f"uint8_t* {pool}" for pool in self.pools] + [f"void* {device}" for device in self.devices]
        return f"TVM_DLL int32_t {self.name}({', '.join(every)})"

    def text(self, release: Release) -> str:
        lines = [f"void* {name} = arg{index};" for index, name in enumerate(self.tensors) if release.renames_arguments]
        lines = self._unpacking(release) if self.is_packed else lines
        is_typed = release.has_typed_pointers and not self.is_packed
        elements = {name: name if is_typed else f"(({kind}*){name})" for name, kind in self.tensors.items()}
        lines += [_filled(line, elements) for line in self.lines]
        body = "".join(f"  {line}\n" for line in lines)
        return f"{EXTERN_C}{self.signature(release)} {{\n{body}  return 0;\n}}\n\n"

    def _unpacking(self, release: Release) -> list[str]:
        """The lines that take tensors out of packed arguments; main of 2021 passes them on as they are."""
        old = release.renames_arguments
        handles = {name: f"arg{index}" if old else f"arg_{name}" for index, name in enumerate(self.tensors)}
        lines = []
        for index, handle in enumerate(handles.values()):
            code = f"((int32_t*)arg_type_ids)[({index})]" if old else f"arg_type_ids[{index}]"
            lines += [f"void* {handle} = (((TVMValue*)args)[{index}].v_handle);", f"int32_t {handle}_code = {code};"]
        data = {
            name: handle if old and self.is_main else f"(((DLTensor*){handle})[0].data)"
            for name, handle in handles.items()
        }
        return [*lines, *(f"void* {name} = {value};" for name, value in data.items())]


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
    known = {"add": _add, "mix": _mix, "pick": _pick}
    parts = tuple(known[part](network) for part in network.parts)
    return (*parts, _main(network)) if network.has_main else parts


def _operator(network: Network, part: str, tensors: Mapping[str, str], lines: tuple[str, ...]) -> _Function:
    pools = _pool_variables(network, ("main", "add", "mix", "pick").index(part))
    name, is_packed = network.operator_names[part], network.operators == "packed"
    return _Function(name=name, tensors=tensors, lines=lines, pools=pools, is_packed=is_packed)


def _add(network: Network) -> _Function:
    pools = _pool_variables(network, 1)
    tensors = {"placeholder": "float", "T_add": "float"}
    constant = "((float*)fused_constant)"
    lines: tuple[str, ...] = ()
    if network.has_pooled_constants:
        constant, lines = "((float*)fused_constant_let)", (f"void* fused_constant_let = (&({pools[0]}[0]));",)
    elif network.passes_weights:
        tensors, constant = {"placeholder": "float", "placeholder1": "float", "T_add": "float"}, "<placeholder1>"
    body = _loop("ax1", 8, f"<T_add>[(ax1)] = (<placeholder>[(ax1)] + {constant}[(ax1)]);")
    return _operator(network, "add", tensors, (*lines, *body))


def _mix(network: Network) -> _Function:
    # The index goes through a common subexpression, as TVM prints it where it is long.
    body = _loop(
        "ax0", 2,
        *_loop(
            "ax1", 4, "int32_t cse_var_1 = ((ax0 * 4) + ax1);",
            "<T_mix>[cse_var_1] = ((<p0>[cse_var_1] * 2.000000e+00f) + ((float)<p1>[((ax0 * 4) + ax1)]));",
        ),
    )  # fmt: skip
    return _operator(network, "mix", {"p0": "float", "p1": "int8_t", "T_mix": "float"}, body)


def _pick(network: Network) -> _Function:
    pools = _pool_variables(network, 3)
    fill = _loop("i", 300, "((float*)scratch)[i] = <p0>[(i % 8)];")
    take = _loop("j", 4, "<T_pick>[j] = ((int32_t)(((float*)scratch)[(j * 9)] * 4.000000e+00f));")
    if network.memory in ("alloc", "mixed"):
        lines = (*_allocated("scratch", SCRATCH_BYTES, "2, 32"), *fill, *take, *_freed("scratch"))
    else:
        lines = (f"void* scratch = (&({pools[-1]}[{BETWEEN_BYTES}]));", *fill, *take)
    return _operator(network, "pick", {"p0": "float", "T_pick": "int32_t"}, lines)


def _main(network: Network) -> _Function:
    release, pools = network.release, _pool_variables(network, 0)
    names = [f"{name}_buffer_var" for name in network.input_fields] + ["output_buffer_var", "output2_buffer_var"]
    kinds = [C_TYPES[dtype] for dtype, _ in (*INPUTS.values(), *OUTPUTS.values())]
    zeta, alpha, scores, hidden = names
    sid = "sid_2" if network.memory == "alloc" else "sid_2_let"
    weights = ["__tvm_param__p0"] if network.passes_weights else []
    is_packed = network.operators == "packed"
    call = _packed_call if is_packed else _call
    calls = [
        *call(network, "add", [zeta, *weights, sid, *pools]),
        *call(network, "mix", [sid, alpha, hidden, *pools]),
        *call(network, "pick", [hidden, scores, *pools]),
    ]
    if is_packed:
        arrays = () if release.renames_arguments else ("TVMValue stack2[24];", "void* stack_array = stack2;")
        stack = (
            "TVMValue stack[2];",
            "void* stack_tcode = stack;",
            "TVMValue stack1[4];",
            "void* stack_value = stack1;",
        )
        calls = [*stack, *arrays, *calls]
    if network.memory == "alloc":
        lines = (*_allocated(sid, BETWEEN_BYTES, "0, 8"), *calls, *_freed(sid))
    else:
        lines = (f"void* {sid} = (&({pools[-1]}[0]));", *calls)
    devices = tuple(f"device_context_{device}" for device in network.devices)
    tensors = {} if network.maps_io else dict(zip(names, kinds, strict=True))
    return _Function(
        name=network.main, tensors=tensors, lines=lines, pools=pools, devices=devices, is_packed=is_packed, is_main=True
    )


def _call(network: Network, operator: str, arguments: Sequence[str]) -> tuple[str, ...]:
    call = f"{network.operator_names[operator]}({', '.join(arguments)})"
    return (f"if ({call} != 0 ) return -1;" if network.release.checks_calls else f"(void){call};",)


def _packed_call(network: Network, operator: str, arguments: Sequence[str]) -> tuple[str, ...]:
    """Call with packed arguments: in 2021 tensors of main went on as they were, later each was described anew."""
    lines, old = [], network.release.renames_arguments
    for index, argument in enumerate(arguments):
        value = f"tvm_value_{operator}{index}"
        if not old:
            value = f"(((DLTensor*)stack_array) + {index})"
            lines += [f"(((DLTensor*)stack_array)[{index}].data) = {argument};"]
        elif argument.endswith("_buffer_var"):
            value = argument
        else:
            stack = f"stack_{operator}{index}"
            lines += [
                f"TVMValue {stack}[6];",
                f"void* {value} = {stack};",
                f"(((DLTensor*){value})[0].data) = {argument};",
            ]
        lines += [
            f"(((TVMValue*)stack_value)[{index}].v_handle) = {value};",
            f"((int32_t*)stack_tcode)[({index})] = 3;",
        ]
    name, results = network.operator_names[operator], (f"ret_val_{operator}", f"ret_type_code_{operator}")
    given = f" (TVMValue*) stack_value , (int*) stack_tcode, {len(arguments)}, &{results[0]}, &{results[1]}, NULL"
    return (
        *lines,
        f"TVMValue {results[0]};",
        f"int {results[1]};",
        f"if ({name}({given}) != 0){{",
        "  return -1;",
        "}",
    )


def operators(network: Network) -> str:
    """The file with the operators and main (TVM's `lib1`)."""
    release = network.release
    parts = ['// tvm target: c -keys=cpu \n#define TVM_EXPORTS\n#include "tvm/runtime/c_runtime_api.h"\n']
    parts += ['#include "tvm/runtime/c_backend_api.h"\n#include <math.h>\n#include <stdbool.h>\n']
    parts += ["void* __tvm_module_ctx = NULL;\n"] if release.defines_context else []
    if (network.has_main or network.links_params) and not network.has_pooled_constants:
        attribute = '__attribute__((section(".rodata.tvm"), aligned(16))) ' if release.marks_constants else ""
        name = "__tvm_param__p0" if network.passes_weights else "fused_constant"
        parts += ['\n#ifdef __cplusplus\nextern "C" {\n#endif\n']
        parts += [f"static const float {attribute}{name}[8] = {{\n    {_literals()}\n}};\n"]
        parts += ['#ifdef __cplusplus\n}  // extern "C"\n#endif\n']
    functions = _functions(network)
    if release.declares:
        parts += [f"{EXTERN_C}{function.signature(release)};\n" for function in functions]
    parts += [function.text(release) for function in functions]
    return "".join([*parts, _alias(network), _lookup(network)])


def _alias(network: Network) -> str:
    """The second name of the only function of an operator archive."""
    if network.style != "operator" or len(network.parts) > 1 or not network.release.has_alias:
        return ""
    given = "args, arg_type_ids, num_args, out_ret_value, out_ret_tcode, resource_handle"
    head = f"TVM_DLL int32_t __tvm_main__({_PACKED_PARAMETERS})"
    return f"{EXTERN_C}{head} {{\n  return {network.parts[0]}({given});\n}}\n"


def _lookup(network: Network) -> str:
    """The function by which the graph executor finds the weights that are linked in, by their storage id."""
    if not network.links_params or not network.passes_weights:
        return ""
    found = "((uint64_t*)out_ret_value)[0] = (uint64_t) (uintptr_t) __tvm_param__p0;"
    cases = f"default:\n        out_ret_tcode[0] = 4;\n        return 0;\n    case 1:\n        {found}\n"
    body = (
        f"    switch (((int64_t*) args)[0]) {{\n    {cases}        out_ret_tcode[0] = 3;\n        return 0;\n    }}\n"
    )
    return f"{EXTERN_C}TVM_DLL int32_t _lookup_linked_param({_PACKED_PARAMETERS}) {{\n{body}}}\n"


_PACKED_PARAMETERS = (
    "void* args, int* arg_type_ids, int num_args, void* out_ret_value, int* out_ret_tcode, void* resource_handle"
)


def _literals() -> str:
    return ", ".join(float(value).hex() for value in WEIGHTS)


def wrapper(network: Network) -> str:
    """The file with the registry, the entrypoint and the internal pools (TVM's `lib0`)."""
    registry = _registry(network) if network.has_system_lib else ""
    if not network.has_main:
        return f"{registry};"
    if network.release.descriptor:
        return f"{registry}{_descriptor(network)};"
    parts = ['#include "tvm/runtime/c_runtime_api.h"\n#ifdef __cplusplus\nextern "C" {\n#endif\n', _pools(network)]
    untyped = network.release.renames_arguments
    taken = [f"void* {f'arg{index}' if untyped else name}" for index, name in enumerate(network.input_fields)]
    taken += [f"void* {f'arg{index + 2}' if untyped else f'output{index}'}" for index in range(2)]
    taken = [] if network.maps_io else taken
    taken += [f"uint8_t* {pool}" for pool in _pool_variables(network, 0)] + [
        f"void* {name}" for name in network.devices
    ]
    taken = [_PACKED_CALL] if network.operators == "packed" else taken
    declaration = f"TVM_DLL int32_t {network.main}({','.join(taken)});\n"
    if network.interface == "c":
        parts += [f"#include <{network.prefix}.h>\n", declaration, _c_entrypoint(network)]
    else:
        parts += [declaration, _packed_entrypoint(network)]
    return "".join([registry, *parts, "#ifdef __cplusplus\n}\n#endif\n;"])


_PACKED_CALL = "void* args, void* type_code, int num_args, void* out_value, void* out_type_code, void* resource_handle"


def _registry(network: Network) -> str:
    """The functions that a system library gives by name."""
    release = network.release
    names = [f"{network.prefix}_run"] if network.has_main and release.registers_run else []
    names += [function.name for function in _functions(network)]
    names += ["__tvm_main__"] if _alias(network) else []
    names += ["_lookup_linked_param"] if _lookup(network) else []
    names += [f"{network.prefix}_get_c_metadata"] if network.has_c_metadata else []
    handle = ", void* resource_handle" if release.passes_handle else ""
    taken = f"TVMValue* args, int* type_code, int num_args, TVMValue* out_value, int* out_type_code{handle}"
    text = "#include <tvm/runtime/crt/module.h>\n"
    text += "".join(f"{EXTERN_C}TVM_DLL int32_t {name}({taken});\n" for name in names)
    entries = "".join(f"    (TVMBackendPackedCFunc){name},\n" for name in names)
    count = f"\\{len(names):03o}" + "\\000" * (release.count_bytes - 1)
    listed = "".join(f"{name}\\000" for name in names)
    return (
        f"{text}static TVMBackendPackedCFunc _tvm_func_array[] = {{\n{entries}}};\n"
        f'static const TVMFuncRegistry _tvm_func_registry = {{\n    "{count}{listed}",    _tvm_func_array,\n}};\n'
        "static const TVMModule _tvm_system_lib = {\n    &_tvm_func_registry,\n};\n"
        "const TVMModule* TVMSystemLibEntryPoint(void) {\n    return &_tvm_system_lib;\n}\n"
    )


def _descriptor(network: Network) -> str:
    """The `tvm_model_t` that was the way into a model until August 2021."""
    name = f"{network.prefix}_network" if network.release.is_mangled else "network"
    text = '#include "tvm/runtime/crt/internal/aot_executor/aot_executor.h"\n#include "tvm/runtime/c_runtime_api.h"\n'
    is_packed, run = network.operators == "packed", network.main
    text += f"{EXTERN_C}TVM_DLL int32_t {run}({_PACKED_CALL if is_packed else 'arg0,arg1,arg2,arg3'});\n"
    if network.release.descriptor == "wrapper":
        given = ",".join(f"((DLTensor*)(((TVMValue*)args)[{index}].v_handle))[0].data" for index in range(4))
        given = "args, type_code, num_args, out_value, out_type_code, resource_handle" if is_packed else given
        text += f"static int32_t __tvm_main__({_PACKED_CALL}) {{\nreturn {run}({given});\n}}\n"
        run = "__tvm_main__"
    members = f"    .run_func = &{run},\n    .num_input_tensors = 2,\n    .num_output_tensors = 2, \n"
    return f"{text}const tvm_model_t {name} = {{\n{members}}};\n"


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
    copies = ""
    if network.operators == "packed":
        array = "args" if network.release.renames_arguments else "(void*)tensors"
        given = [array, "type_code", "num_args", "out_value", "out_type_code", "resource_handle"]
        lines = ["TVMValue tensors[4];", *(f"tensors[{index}] = ((TVMValue*)args)[{index}];" for index in range(4))]
        copies = "" if network.release.renames_arguments else "".join(f"{line}\n" for line in lines)
    return f"int32_t {network.prefix}_run({_PACKED_CALL}) {{\n{copies}return {network.main}({','.join(given)});\n}}\n"


def c_metadata(network: Network) -> str:
    """The file with get_c_metadata; that of a graph describes no tensors."""
    text = "#include <inttypes.h>\n#include <tvm/runtime/metadata_types.h>\n#include <tvm/runtime/c_runtime_api.h>\n"
    names = {"inputs": network.inputs, "outputs": ("output0", "output1")} if network.has_main else {}
    counts = {"inputs": 0, "outputs": 0, **dict.fromkeys(network.release.lists_pools.split(), 0)}
    for kind in counts:
        entries, shapes = [], ""
        tensors = (INPUTS if kind == "inputs" else OUTPUTS).values()
        for index, (name, (dtype, shape)) in enumerate(zip(names.get(kind, ()), tensors, strict=False)):
            array = f"kTvmgenMetadata_{kind}_{index}_shape"
            extents = ", \n".join(f"{extent}L" for extent in shape)
            shapes += f"static const int64_t {array}[{len(shape)}] = {{\n{extents}}};\n"
            code = f"{{{2 if dtype == 'float32' else 0}, {8 * np.dtype(dtype).itemsize}, 1}} /* dtype*/"
            entries.append(f'{{\n"{name}" /* name*/, \n{array}, \n{len(shape)}L /* num_shape*/, \n{code}}}\n')
        counts[kind] = len(entries)
        struct = "TVMConstantInfo" if kind == "constant_pools" else "TVMTensorInfo"
        text += f"{shapes}static const struct {struct} kTvmgenMetadata_{kind}[{len(entries)}] = {{\n{', '.join(entries)}}};\n"
    listed = "".join(f"kTvmgenMetadata_{kind}, \n{count}L /* num_{kind}*/, \n" for kind, count in counts.items())
    text += f'static const struct TVMMetadata kTvmgenMetadata[1] = {{\n{{\n1L /* version*/, \n{listed}"{network.prefix}" /* mod_name*/}}\n}};\n'
    taken = "TVMValue* arg_values, int* arg_tcodes, int num_args, TVMValue* ret_values, int* ret_tcodes, void* resource_handle"
    body = (
        "    ret_values[0].v_handle = (void*) &kTvmgenMetadata;\n    ret_tcodes[0] = kTVMOpaqueHandle;\n    return 0;\n"
    )
    return f"{text}{EXTERN_C}TVM_DLL int32_t {network.prefix}_get_c_metadata({taken}) {{\n{body}}};\n"


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
    named = [*zip(network.inputs, INPUTS.values(), strict=True)]
    named[1:1] = [("weights", ("float32", (1, 8)))] if network.has_relay_weights else []
    parameters = ", ".join(f"%{name}: {_relay_type(tensor)}" for name, tensor in named)
    if network.is_complete and network.release.names_outputs:
        parameters += f", output_tensor_names={json.dumps(network.outputs)}"
    results = ", ".join(map(_relay_type, OUTPUTS.values()))
    arrow = f" -> ({results})" if network.has_result_types else ""
    return f"def @main({parameters}){arrow} {{\n  %0 = mix(%{network.inputs[0]});\n  (%1, %0)\n}}\n\n"


def tir(network: Network) -> str:
    """The TIR text of an operator archive, in which TVM printed its functions one way or another."""
    return "".join(f"@{part} = primfn(...)\n" for part in network.parts)


def graph(network: Network) -> dict[str, Any]:
    """The graph of the network, in which the scores have the storage that the first sum had."""
    zeta, alpha = network.inputs
    weights = ("p0",) if network.passes_weights else ()
    calls = {"add": (zeta, *weights), "mix": ("add", alpha), "pick": ("mix",)}
    names = (zeta, *weights, "add", alpha, "mix", "pick")
    place = {name: index for index, name in enumerate(names)}
    tensors = {
        zeta: INPUTS["zeta"], "p0": ("float32", (1, 8)), "add": ("float32", (1, 8)), alpha: INPUTS["alpha"],
        "mix": OUTPUTS["hidden"], "pick": OUTPUTS["scores"],
    }  # fmt: skip
    attributes = {
        "dltype": ["list_str", [tensors[name][0] for name in names]],
        "device_index": ["list_int", [1] * len(names)],
        "storage_id": ["list_int", [place["add" if name == "pick" else name] for name in names]],
        "shape": ["list_shape", [list(tensors[name][1]) for name in names]],
    }
    if network.release.version < 5:
        del attributes["device_index"]
    return {
        "nodes": [_node(network, name, [place[item] for item in calls.get(name, ())]) for name in names],
        "arg_nodes": [place[name] for name in names if name not in calls],
        "heads": [[place["pick"], 0, 0], [place["mix"], 0, 0]],
        "attrs": attributes,
        "node_row_ptr": list(range(len(names) + 1)),
    }


def _node(network: Network, name: str, inputs: Sequence[int]) -> dict[str, Any]:
    if not inputs:
        return {"op": "null", "name": name, "inputs": []}
    symbol = network.operator_names[name]
    attributes = {"num_outputs": "1", "num_inputs": str(len(inputs)), "flatten_data": "0", "func_name": symbol}
    return {"op": "tvm_op", "name": symbol, "attrs": attributes, "inputs": [[item, 0, 0] for item in inputs]}


def _storages(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What TVM told of a graph's storage; it looked a storage's size up as if its number were that of a tensor."""
    attributes, found = document["attrs"], []
    numbers = attributes["storage_id"][1]
    for index, number in enumerate(numbers):
        if number in numbers[:index]:
            continue
        size = _size_bytes((attributes["dltype"][1][number], attributes["shape"][1][number]))
        binding = {"input_binding": document["nodes"][index]["name"]} if index in document["arg_nodes"] else {}
        found.append({"storage_id": number, "size_bytes": size, **binding})
    return found


def _relay_type(tensor: tuple[str, tuple[int, ...]]) -> str:
    return f"Tensor[({', '.join(map(str, tensor[1]))}), {tensor[0]}]"


def metadata(networks: Sequence[Network]) -> dict[str, Any]:
    """The decoded `metadata.json` of an archive of these modules; before version 7 there is exactly one."""
    release = networks[0].release
    modules = {network.model: _module_metadata(network) for network in networks}
    if networks[0].style == "operator":
        return {"version": release.version, **modules[networks[0].model]}
    if release.is_single:
        return {**modules[networks[0].model], "version": release.version}
    return {"modules": modules, "version": release.version}


def _module_metadata(network: Network) -> dict[str, Any]:
    version, is_operator = network.release.version, network.style == "operator"
    memory = _buffers(network) if is_operator else _memory(network)
    document = {
        "model_name": network.model,
        "export_datetime": "2024-03-28 09:00:00Z",
        "memory": memory.get("sids", []) if version == 1 else memory,
        "target": {"1": _target(network)} if version < 6 else [_target(network)],
        "runtimes" if version < 5 else "executors": [] if is_operator else [network.executor],
    }
    document |= {"style": network.style} if version >= 4 else {}
    if network.is_complete and network.has_main and network.release.runtime_file:
        document["external_dependencies"] = [
            {"short_name": "tvm_standalone_crt", "url": "./runtime", "url_type": "mlf_path", "version_spec": "0.9.dev0"}
        ]
    return document


def _target(network: Network) -> str:
    if not (network.is_complete and network.release.has_target_options):
        return "c -keys=cpu "
    aot, linked = network.has_main, network.has_main or network.links_params
    options = [
        ("-executor=aot", aot), ("-interface-api=c", aot and network.interface == "c"), (f"-link-params={int(linked)}", True),
        ("-runtime=c", True), ("-system-lib=1", network.has_system_lib), ("-unpacked-api=1", network.operators == "unpacked"),
    ]  # fmt: skip
    return " ".join(["c -keys=cpu", *(text for text, is_given in options if is_given)])


def _memory(network: Network) -> dict[str, Any]:
    release = network.release
    main: dict[str, Any] = {
        "constants_size_bytes": 32, "device": 1, "io_size_bytes": 88, "workspace_size_bytes": WORKSPACE_BYTES
    }  # fmt: skip
    if release.has_io:
        outputs = network.outputs if release.names_outputs_in_metadata else ("output0", "output1")
        main["inputs"] = _io_metadata(network.inputs, INPUTS)
        main["outputs"] = _io_metadata(outputs, OUTPUTS)
    functions = [
        {
            "function_name": name,
            "workspace": [{"device": 1, "workspace_size_bytes": SCRATCH_BYTES if part == "pick" else 0}],
        }
        for part, name in network.operator_names.items()
    ]
    found = {"functions": {"main": [main], "operator_functions": functions}}
    return {"sids": _storages(graph(network)), **found} if network.executor == "graph" else found


def _buffers(network: Network) -> dict[str, Any]:
    """What an operator archive tells: the parameters of its functions, in their order."""
    return {
        part: [
            {
                "size_bytes": _size_bytes(tensor),
                "shape": list(tensor[1]),
                "dtype": tensor[0],
                "input_binding": f"var_{name}" if network.release.names_buffers else None,
            }
            for name, tensor in tensors.items()
        ]
        for part, tensors in OPERATORS.items()
        if part in network.parts
    }


def _io_metadata(names: Sequence[str], tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, Any]:
    return {
        name: {"dtype": tensor[0], "size": _size_bytes(tensor)}
        for name, tensor in zip(names, tensors.values(), strict=True)
    }


Members = dict[str, bytes]


def members(*networks: Network) -> Members:
    """The members of an archive of these modules, by name."""
    is_operator = networks[0].style == "operator"
    document = metadata(networks)
    found = {"metadata.json": json.dumps(document) if is_operator else json.dumps(document, indent=2, sort_keys=True)}
    for network in networks:
        found |= _operator_members(network) if is_operator else _model_members(network)
    content = {name: text.encode() for name, text in found.items()}
    return content if is_operator else content | {f"parameters/{item.model}.params": _params(item) for item in networks}


def _sources(network: Network) -> list[str]:
    described = [c_metadata(network)] if network.has_c_metadata else []
    return [wrapper(network), *described, operators(network)]


def _operator_members(network: Network) -> dict[str, str]:
    sources = {f"codegen/host/src/lib{index}.c": text for index, text in enumerate(_sources(network))}
    return {**sources, "src/tir-1.txt": tir(network)}


def _model_members(network: Network) -> dict[str, str]:
    version, model = network.release.version, network.model
    prefix = f"{model}_" if version >= 3 else ""
    found = {f"codegen/host/src/{prefix}lib{index}.c": text for index, text in enumerate(_sources(network))}
    found["relay.txt" if version < 4 else "src/relay.txt" if version < 7 else f"src/{model}.relay"] = relay(network)
    if network.interface == "c":
        found[f"codegen/host/include/{header_name(model)}"] = header(network)
    if network.executor == "graph":
        folder = f"{'runtime' if version < 5 else 'executor'}-config/graph"
        found[f"{folder}/{model}.graph" if version >= 7 else f"{folder}/graph.json"] = json.dumps(graph(network))
    return found | (_runtime(network.release) if network.is_complete and network.executor == "aot" else {})


def _runtime(release: Release) -> dict[str, str]:
    """A few files of those that an archive of an ahead-of-time model had beside it."""
    names = [f"runtime/{release.runtime_file}", "runtime/src/runtime/crt/crt_config.h"] if release.runtime_file else []
    names += ["templates/crt_config.h.template", "templates/platform.c.template"] if release.has_templates else []
    return {name: f"# {name}\n" for name in names}


def _params(network: Network) -> bytes:
    """The weights as TVM saves them; none, once they are constants of the code."""
    if not network.passes_weights or not (network.is_complete or network.executor == "graph"):
        return EMPTY_PARAMS
    name, shape, data = b"p0", (1, 8), WEIGHTS.tobytes()
    head = struct.pack("<4Q", 0xF7E58D4F05049CB7, 0, 1, len(name)) + name
    tensor = struct.pack("<QQiiiBBH", 0xDD5E40F096B4A13F, 0, 1, 0, len(shape), 2, 32, 1)
    return head + struct.pack("<Q", 1) + tensor + struct.pack("<2qq", *shape, len(data)) + data


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
