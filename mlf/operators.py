"""The functions of an operator-style archive as models: each takes packed arguments and is entered by itself.

Metadata lists the buffers of a function in the order of its parameters and does not say which of them are outputs; the code
does. Objects do not: there the last buffer is the output, as `tvm.build` was given it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mlf import csource
from mlf.metadata import Tensor
from mlf.module import Argument, MainCall
from mlf.naming import sanitize_tensor_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlf.archive import Archive
    from mlf.metadata import BufferMetadata
    from mlf.module import Module


def operator_models(module: Module, archive: Archive) -> tuple[Module, ...]:
    """Give each function of an operator-style module as a module of its own, sorted by name."""
    functions: dict[str, csource.Function] = {}
    for member in module.sources:
        functions.update(csource.functions(archive.read_text(member)))
    plain = csource.plain_functions(functions)
    return tuple(_model(module, name, buffers, plain) for name, buffers in sorted(module.metadata.buffers.items()))


def _model(
    module: Module, name: str, buffers: Sequence[BufferMetadata], functions: Mapping[str, csource.Function]
) -> Module:
    function = functions.get(name)
    is_output = [_is_written(function, position, len(buffers)) for position in range(len(buffers))]
    tensors = [_tensor(buffer, function, position) for position, buffer in enumerate(buffers)]
    groups: dict[str, list[Tensor]] = {"input": [], "output": []}
    arguments = []
    for tensor, written in zip(tensors, is_output, strict=True):
        kind = "output" if written else "input"
        arguments.append(Argument(kind=kind, index=len(groups[kind])))
        groups[kind].append(tensor)
    call = MainCall(function=name, convention="packed", arguments=tuple(arguments))
    allocated = csource.allocator_need(functions, name) if function else module.allocator_bytes
    return replace(
        module, name=name, inputs=tuple(groups["input"]), outputs=tuple(groups["output"]), call=call, allocator_bytes=allocated
    )  # fmt: skip


def _is_written(function: csource.Function | None, position: int, count: int) -> bool:
    written = csource.is_written(function, position) if function else None
    return position == count - 1 if written is None else written


def _tensor(buffer: BufferMetadata, function: csource.Function | None, position: int) -> Tensor:
    """Describe a buffer under its own name: that of metadata, of the code, or none but its place."""
    parameters = function.parameters if function else ()
    own = parameters[position].name if position < len(parameters) else ""
    name = buffer.name or own or f"p{position}"
    return Tensor(
        name=name,
        c_name=sanitize_tensor_name(name),
        dtype=buffer.dtype,
        shape=buffer.shape,
        size_bytes=buffer.size_bytes,
    )
