"""A Program as C: one function that calls its operators in order, without a heap, a parser or a runtime.

The parameters are no C text but data beside it, which the text declares: compilers take minutes for megabytes of numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlf import codegen
from mlf.errors import LinkError
from mlf.program import lay_out

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlf.program import Call, Layout, Program, Value

_CODES = {"int": "kDLInt", "uint": "kDLUInt", "float": "kDLFloat", "bfloat": "kDLBfloat"}
PACKED_PARAMETERS = (
    "void* args, void* type_codes, int32_t num_args, void* result, void* result_code, void* resource_handle"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramCode:
    """A program in C.

    `text` defines `static int32_t execute(void* input_0, ..., void* output_0, ..., uint8_t* arena)`, which gives 0, or -1 as
    soon as an operator fails; the arena is no argument if `arena_bytes` is 0. `constants` are the arrays that the text
    declares: symbol, content, alignment in bytes. The arena needs `alignment_bytes`; no plan takes fewer than
    `lower_bound_bytes`; `storage_bytes` is what the compiler's own plan takes, outputs included, None if there is none.
    """

    text: str
    constants: tuple[tuple[str, bytes, int], ...]
    arena_bytes: int
    alignment_bytes: int
    lower_bound_bytes: int
    storage_bytes: int | None


def program_code(program: Program) -> ProgramCode:
    """Plan the memory of `program` and write it as C99.

    Raises LinkError if it calls a function in two ways.
    """
    layout = lay_out(program)
    writer = Writer(program, layout, plain_names(program))
    return ProgramCode(
        text=codegen.render("program.c.j2", writer.values()),
        constants=tuple((symbol, content, program.alignment_bytes) for content, symbol in writer.symbols.items()),
        arena_bytes=layout.arena_bytes,
        alignment_bytes=layout.alignment_bytes,
        lower_bound_bytes=layout.lower_bound_bytes,
        storage_bytes=program.storage_bytes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What the C of a program calls its inputs, outputs and arena, and how the names of its parameters begin."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    arena: str = "arena"
    parameter: str = "mlf_parameter"


def plain_names(program: Program) -> Names:
    """Give numbers to inputs and outputs."""
    return Names(
        inputs=tuple(f"input_{index}" for index in range(len(program.inputs))),
        outputs=tuple(f"output_{index}" for index in range(len(program.outputs))),
    )


class Writer:
    """What a template says of a program; `symbols` are its parameters by content, once all calls are written."""

    def __init__(self, program: Program, layout: Layout, names: Names) -> None:
        self.program = program
        self.layout = layout
        self.names = names
        self.symbols: dict[bytes, str] = {}
        self.linked: dict[int, str] = {}
        self.types: dict[str, Mapping[str, object]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.used: set[str] = set()

    def values(self) -> Mapping[str, object]:
        """Give what `program.c.j2` takes."""
        calls = [self.call(call) for call in self.program.calls]
        copies = [self.copy(output, root) for output, root in self.layout.copies]
        names = self._parameter_names()
        linked = [
            {"name": name, "storage_id": self.program.values[root].storage_id} for root, name in self.linked.items()
        ]
        return {
            "calls": calls, "copies": copies, "constants": list(self.symbols.values()), "linked": linked,
            "lookup": self.program.lookup if linked else None, "types": list(self.types.values()),
            "shapes": [{"name": name, "extents": extents} for name, extents in self.shapes.items()],
            "prototypes": self._prototypes(), "unused": [name for name in names if name not in self.used],
            "parameters": [f"{'uint8_t' if name == self.names.arena else 'void'}* {name}" for name in names],
            "wrap": codegen.wrapped,
            "width": max((len(call.arguments) for call in self.program.calls if call.convention == "packed"), default=0),
        }  # fmt: skip

    def _parameter_names(self) -> list[str]:
        names = [*self.names.inputs, *self.names.outputs]
        return names + ([self.names.arena] if self.layout.arena_bytes else [])

    def _prototypes(self) -> list[str]:
        """Declare what is called, in the words of TVM's own files."""
        found: dict[str, str] = {}
        for call in self.program.calls:
            pointers = ", ".join(f"void* argument_{index}" for index in range(len(call.arguments))) or "void"
            parameters = PACKED_PARAMETERS if call.convention == "packed" else pointers
            if found.setdefault(call.function, parameters) != parameters:
                raise LinkError(
                    f"`{call.function}` is called in two ways that no one function can have", where=self.program.where
                )
        if self.linked and self.program.lookup:
            found[self.program.lookup] = PACKED_PARAMETERS
        return [f"int32_t {function}({parameters});" for function, parameters in sorted(found.items())]

    def call(self, call: Call) -> Mapping[str, object]:
        """Give the statement that calls an operator, and for a packed one its tensors."""
        data = [self.data(place) for place in call.arguments]
        if call.convention == "unpacked":
            return {"tensors": (), "statement": f"{call.function}({', '.join(data)})", "has_status": call.has_status}
        types = [self._type(self.program.values[place], is_flat=call.is_flat) for place in call.arguments]
        given = f"arguments.values, arguments.codes, {len(data)}, &arguments.result, &arguments.result_code, NULL"
        return {
            "tensors": [{"type": type_, "data": item} for type_, item in zip(types, data, strict=True)],
            "statement": f"{call.function}({given})",
            "has_status": True,
        }

    def copy(self, output: int, root: int) -> Mapping[str, object]:
        """Give what is copied to an output that no operator writes."""
        self.used.add(self.names.outputs[output])
        size_bytes = self.program.values[root].size_bytes
        return {"to": self.names.outputs[output], "source": self.data(root), "size_bytes": size_bytes}

    def data(self, place: int) -> str:
        """Give the C expression for the memory of a value."""
        root = self.program.root(place)
        value = self.program.values[root]
        if value.kind == "parameter":
            return f"(void*){self.symbols.setdefault(value.content, f'{self.names.parameter}_{len(self.symbols)}')}"
        if value.kind == "linked":
            return self.linked.setdefault(root, f"parameter_{len(self.linked)}")
        if value.kind == "input":
            name = self.names.inputs[self.program.inputs.index(root)]
        elif root in self.layout.in_outputs:
            name = self.names.outputs[self.layout.in_outputs[root]]
        else:
            name = self.names.arena
        self.used.add(name)
        offset = self.layout.offsets.get(root, 0)
        return f"{name} + {offset}" if offset else name

    def _type(self, value: Value, *, is_flat: bool) -> str:
        """Give the name of the C object that describes a tensor of this type; equal types share one."""
        shape = (math.prod(value.shape),) if is_flat else value.shape
        extents = "x".join(map(str, shape)) or "scalar"
        name = f"{value.dtype}_{extents}"
        if shape:
            self.shapes[f"shape_{extents}"] = shape
        if name not in self.types:
            code, bits = _dtype(value.dtype)
            self.types[name] = {
                "name": name, "shape": f"shape_{extents}" if shape else "NULL", "rank": len(shape), "code": code, "bits": bits,
                "size_bytes": value.size_bytes,
            }  # fmt: skip
        return name


def _dtype(dtype: str) -> tuple[str, int]:
    """Give the enumerator and the bits of an element type; what is true or false has one bit."""
    if dtype == "bool":
        return _CODES["uint"], 1
    word = dtype.rstrip("0123456789")
    return _CODES[word], int(dtype[len(word) :])
