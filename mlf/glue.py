"""The C that a library adds to a model: both entrypoints, the guard of its arena, its place in the registry.

`run` takes structs of pointers, `tvm_module_main` TVM's packed arguments; whichever style the model was compiled for, both
call its main function directly, and no tensor is copied. Names that begin with `mlf_` are bound when objects are merged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlf import codegen
from mlf.naming import macro
from mlf.params import DTYPES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlf.arenas import ArenaNeed
    from mlf.codegen import ModelInterface
    from mlf.metadata import Pool, Tensor
    from mlf.module import Argument, MainCall, Module

# Undefined names of the glue, and what they stand for.
MAIN = "mlf_main"
ARENA_STATE = "mlf_arena_state"
ARENA_MEMORY = "mlf_arena_memory"
CHECK_ARGUMENTS = "mlf_check_arguments_1"
ARENA_POOL = "arena"  # the field by which an application lends an arena
PROGRAM_BLOCK = "program"  # of an arena: what a program was planned to need


def constant_name(pool: str) -> str:
    """Give the name under which the glue knows a pool of constants inside the code."""
    return f"mlf_constants_{pool}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GlueModel:
    """What the glue of a model is made of; `program` is C text that defines `execute`, for a model without a main."""

    interface: ModelInterface
    module: Module
    call: MainCall
    need: ArenaNeed | None
    is_external: bool
    program: str | None


def glue_source(model: GlueModel) -> str:
    """Write the glue of a model."""
    return codegen.render("model.c.j2", _Glue(model).values())


class _Glue:
    """Works out the expressions that the template puts together."""

    def __init__(self, model: GlueModel) -> None:
        self.model = model
        self.interface = model.interface
        self.module = model.module
        self.call = model.call
        self.offsets = {block.name: block.offset_bytes for block in model.need.blocks} if model.need else {}
        names = [pool.name for pool in self.interface.external_pools]
        tensors = [] if self.interface.io_places else [*self.interface.inputs, *self.interface.outputs]
        self.pool_arguments = {name: len(tensors) + index for index, name in enumerate(names)}
        self.tensor_count = len(tensors) + len(names)
        self.tensors: list[Tensor] = tensors

    def values(self) -> Mapping[str, object]:
        """Give what the template needs."""
        arguments = self.call.arguments
        constants = [self.module.pools[item.index].name for item in arguments if self._is_constant(item)]
        return {
            "model": self.interface, "prefix": self.interface.prefix, "convention": self.call.convention, "program": self.model.program,
            "main": "execute" if self.model.program else MAIN, "need": self.model.need, "is_external": self.model.is_external,
            "has_allocator": bool(self.model.need and self.model.need.allocator_bytes),
            "constants": [constant_name(name) for name in constants],
            "parameters": codegen.run_parameters(self.interface), "structs": self._structs(),
            "direct": [self._direct(item) for item in arguments],
            "from_packed": [self._from_packed(item) for item in arguments],
            "packed_is_same": [self._packed_index(item) for item in arguments] == list(range(len(arguments))),
            "given": [self._given(item) for item in arguments], "types": self._types(),
            "tensor_count": self.tensor_count, "device_count": len(self.interface.devices),
            "struct_count": len(self.tensors), "pool_arguments": self.pool_arguments,
            "arena_pool": self.pool_arguments.get(ARENA_POOL), "wrap": codegen.wrapped,
            "shapes": sorted({self._shape_name(index): item["shape"] for index, item in enumerate(self._types()) if item["shape"]}.items()),
            "shape_name": self._shape_name, "own_count": sum(self._own_memory(item) is not None for item in arguments),
            "tensor_row": lambda kind, index: codegen.tensor_row(self.interface, kind, index),
            "macro": lambda *parts: macro(self.interface.name, *parts), "unused_arrays": self._unused_arrays(),
        }  # fmt: skip

    def _pool(self, item: Argument) -> Pool:
        return self.module.pools[item.index]

    def _is_constant(self, item: Argument) -> bool:
        return item.kind == "pool" and self._pool(item).is_internal and self._pool(item).kind == "constant"

    def _own_memory(self, item: Argument) -> str | None:
        """Give what the library itself passes: memory of the arena, or constants."""
        if item.kind == "program":
            return self._in_arena(PROGRAM_BLOCK)
        if item.kind != "pool" or not self._pool(item).is_internal:
            return None
        return f"(void*){constant_name(self._pool(item).name)}" if self._is_constant(item) else self._in_arena(self._pool(item).name)  # fmt: skip

    def _in_arena(self, block: str) -> str:
        offset = self.offsets[block]
        return f"{ARENA_MEMORY} + {offset}" if offset else ARENA_MEMORY

    def _direct(self, item: Argument) -> str:
        """Give an argument as `run` has it."""
        own = self._own_memory(item)
        if own is not None:
            return own
        if item.kind == "pool":
            return f"workspace_pools->{self._pool(item).name}"
        if item.kind == "device":
            return f"devices->{self.interface.devices[item.index]}"
        group = self.interface.inputs if item.kind == "input" else self.interface.outputs
        return f"{item.kind}s->{group[item.index].c_name}"

    def _packed_index(self, item: Argument) -> int:
        """Give the place of an argument among the packed ones, -1 for what the library passes itself."""
        if self._own_memory(item) is not None:
            return -1
        if item.kind == "pool":
            return self.pool_arguments[self._pool(item).name]
        if item.kind == "device":
            return self.tensor_count + item.index
        return item.index + (len(self.interface.inputs) if item.kind == "output" else 0)

    def _from_packed(self, item: Argument) -> str:
        own = self._own_memory(item)
        if own is not None:
            return own
        index = self._packed_index(item)
        return f"args[{index}].v_handle" if item.kind == "device" else f"mlf_data(&args[{index}])"

    def _given(self, item: Argument) -> dict[str, object]:
        """Describe one tensor that packed main is given: its type's place in the table, its data, or which argument it is."""
        index = self._packed_index(item)
        return {"type": index if index >= 0 else self.tensor_count, "data": self._direct(item), "index": index}

    def _types(self) -> list[dict[str, object]]:
        """List the types of the packed arguments: tensors in call order, then pools; last, that of memory of our own."""
        ranks = {(item.kind, item.index): item.rank for item in self.call.arguments}
        keys = [("input", index) for index in range(len(self.interface.inputs))]
        keys += [("output", index) for index in range(len(self.interface.outputs))]
        types = [_type(tensor, ranks.get(key)) for tensor, key in zip(self.tensors, keys, strict=False)]
        types += [_plain_type(pool.size_bytes or 0) for pool in self.interface.external_pools]
        return [*types, _plain_type(0)] if self._passes_own() else types

    def _passes_own(self) -> bool:
        return self.call.convention == "packed" and any(
            self._own_memory(item) is not None for item in self.call.arguments
        )

    def _shape_name(self, index: int) -> str:
        """Name the array with the shape of a type; equal shapes are stored once."""
        shapes = [item["shape"] for item in self._types()]
        return f"argument_{shapes.index(shapes[index])}_shape" if shapes[index] else "NULL"

    def _structs(self) -> list[dict[str, object]]:
        """Describe the structs that `run` takes, with where packed arguments have what their fields point to."""
        arrays = {"in": "inputs", "out": "outputs", "lent": "pools", "contexts": "devices"}
        places: list[tuple[str, str, Sequence[str], int]] = []
        inputs, outputs = self.interface.inputs, self.interface.outputs
        if not self.interface.io_places:
            places.append(("inputs", "in", [item.c_name for item in inputs], 0))
            places.append(("outputs", "out", [item.c_name for item in outputs], len(inputs)))
        pools = [pool.name for pool in self.interface.external_pools]
        places.append(("workspace_pools", "lent", pools, len(self.tensors)))
        places.append(("devices", "contexts", list(self.interface.devices), self.tensor_count))
        return [
            {
                "kind": kind,
                "local": local,
                "fields": list(enumerate(fields, first)),
                "is_handle": kind == "devices",
                "argument": arrays[local],
            }
            for kind, local, fields, first in places
            if fields or kind in ("inputs", "outputs")
        ]

    def _unused_arrays(self) -> list[str]:
        """Name the arrays of the registry's `run` that the model has nothing for."""
        used = {struct["argument"] for struct in self._structs() if struct["fields"]}
        return [name for name in ("inputs", "outputs", "pools", "devices") if name not in used]


def _type(tensor: Tensor, asserted_rank: int | None) -> dict[str, object]:
    """Describe a tensor's type; a shape that is not known is made up where the code insists on a number of dimensions."""
    dtype = DTYPES.get(tensor.dtype or "")
    code, bits = (dtype.code, dtype.bits) if dtype else (0, 0)
    size = tensor.size_bytes or 0
    shape, rank = tensor.shape or (), len(tensor.shape or ())
    if tensor.shape is None:
        elements = size // dtype.size_bytes if dtype else size
        shape = (1,) * (asserted_rank - 1) + (elements,) if asserted_rank else ()
        rank = -1 - len(shape)
    return {"shape": shape, "rank": rank, "code": code, "bits": bits, "size_bytes": size}


def _plain_type(size_bytes: int) -> dict[str, object]:
    return {"shape": (), "rank": -1, "code": 1, "bits": 0, "size_bytes": size_bytes}
