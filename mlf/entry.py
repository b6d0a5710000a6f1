"""How a model's code is entered: which function runs all of it, and what that function is given at which place.

TVM puts a wrapper in front of main, `tvmgen_<model>_run`, in the style that the model was compiled for. What the wrapper
passes tells what main takes; a library calls main itself, in both styles.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mlf.module import Argument, MainCall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlf.csource import Function, WrapperFacts
    from mlf.module import Module

# What main takes beside tensors: `<pool>_<number>_var` and `device_context_<device>`.
# Packed main has another number behind, of the variable that holds the data.
POOL_PARAMETER = re.compile(r"(?P<whole>(?P<pool>\w+)_[0-9]+_var)(?:_[0-9]+)?|device_context_(?P<device>\w+)")
_FIELD = re.compile(r"\b(inputs|outputs|workspace_pools|devices)->(\w+)")
_BUFFER = re.compile(r"&\s*(\w+)")


def find_call(
    module: Module, wrapper: WrapperFacts | None, main: Function | None, *, is_packed: bool
) -> MainCall | None:
    """Find how the code of an ahead-of-time module is entered; None for graphs and operators, or if nothing tells.

    `main` has the parameters of plain pointers (`csource.plain_functions`), also where it `is_packed`.
    """
    if module.graph or module.style == "operator":
        return None
    if module.interface == "c":
        arguments = _passed(module, wrapper) if wrapper else None
        if wrapper and arguments is not None:
            return MainCall(function=wrapper.main, convention="unpacked", arguments=arguments)
        return (
            MainCall(function=module.entrypoints["run"], convention="structs") if "run" in module.entrypoints else None
        )
    if main is not None:
        arguments = _taken(module, main)
        convention = "packed" if is_packed else "unpacked"
        return None if arguments is None else MainCall(function=main.name, convention=convention, arguments=arguments)
    function = module.entrypoints.get("tvm_module_main")
    if function is None:
        return None
    return MainCall(function=function, convention="packed", arguments=tensor_arguments(module))


def _passed(module: Module, wrapper: WrapperFacts) -> tuple[Argument, ...] | None:
    """Read what the wrapper of the C interface passes; None for an expression of another form than TVM's."""
    found = [_argument(module, text) for text in wrapper.arguments]
    known = tuple(item for item in found if item)
    return known if len(known) == len(found) else None


def _argument(module: Module, text: str) -> Argument | None:
    field, buffer = _FIELD.search(text), _BUFFER.search(text)
    if field:
        kind = {"inputs": "input", "outputs": "output", "workspace_pools": "pool", "devices": "device"}[field[1]]
        return _numbered(module, kind, field[2])
    return _numbered(module, "pool", buffer[1]) if buffer else None


def _numbered(module: Module, kind: str, name: str) -> Argument | None:
    names: dict[str, Sequence[str]] = {
        "input": [tensor.c_name for tensor in module.inputs],
        "output": [tensor.c_name for tensor in module.outputs],
        "pool": [pool.name for pool in module.pools],
        "device": module.devices,
    }
    return Argument(kind=kind, index=names[kind].index(name)) if name in names[kind] else None


def _taken(module: Module, main: Function) -> tuple[Argument, ...] | None:
    """Read what main takes where no struct names it: inputs, outputs, then pools and devices by their names."""
    tensors = tensor_arguments(module)
    rest = [parameter.name for parameter in main.parameters[len(tensors) :]]
    found = [_beside_tensors(module, name) for name in rest]
    if len(main.parameters) < len(tensors) or None in found:
        return None
    return (*tensors, *(item for item in found if item))


def tensor_arguments(module: Module) -> tuple[Argument, ...]:
    """Give the inputs and outputs of a module, in call order."""
    inputs = (Argument(kind="input", index=index) for index in range(len(module.inputs)))
    outputs = (Argument(kind="output", index=index) for index in range(len(module.outputs)))
    return (*inputs, *outputs)


def _beside_tensors(module: Module, name: str) -> Argument | None:
    found = POOL_PARAMETER.fullmatch(name)
    if found and found["device"]:
        return _numbered(module, "device", found["device"])
    return _numbered(module, "pool", found["pool"] if found else name)
