"""The program that emx's code is: its tensors, its calls and the one file of C that defines what they call."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mlf import csource
from mlf.errors import SourceError, UnsupportedError
from mlf.frontends.compiled import CompiledModel
from mlf.frontends.emx.emission import place
from mlf.frontends.emx.kernels import helper_text, kernel_of
from mlf.metadata import Tensor
from mlf.naming import mangle, sanitize_tensor_name
from mlf.program import Call, Program, Value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlf.frontends.emx.emission import Array, Emission, Step
    from mlf.frontends.emx.preparation import Prepared, TensorType
    from mlf.program import ValueKind

# Operators that give their first input another shape, or none; emx copies it.
_RESHAPES = frozenset(("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"))


def assemble(prepared: Prepared, emission: Emission | None, *, name: str, where: str) -> CompiledModel:
    """Make the compiled model `name` of emx's code; None if there is nothing to compute."""
    from importlib.metadata import version  # noqa: PLC0415

    builder = _Builder(name=name, where=where)
    for item in prepared.inputs:
        builder.named[item.name] = builder.add(item.name, item.dtype, item.shape, "input")
    inputs = tuple(builder.named.values())
    if emission:
        builder.add_code(prepared, emission)
    outputs = tuple(builder.output(item, prepared) for item in prepared.outputs)
    program = Program(
        where=where, values=tuple(builder.values), calls=tuple(builder.calls), inputs=inputs, outputs=outputs
    )
    return CompiledModel(
        inputs=tuple(map(_tensor, prepared.inputs)),
        outputs=tuple(map(_tensor, prepared.outputs)),
        program=program,
        operators=_operators(builder, emission, where=where),
        prototypes=dict(sorted(builder.prototypes.items())),
        generator=f"emx-onnx-cgen {version('emx-onnx-cgen')}",
        notes=prepared.notes,
    )


def _tensor(item: TensorType) -> Tensor:
    return Tensor(
        name=item.name, c_name=sanitize_tensor_name(item.name), dtype=item.dtype, shape=item.shape, size_bytes=_size_bytes(item.dtype, item.shape)
    )  # fmt: skip


def _size_bytes(dtype: str, shape: Iterable[int]) -> int:
    size_bytes = csource.DTYPE_SIZES_BYTES[dtype]
    for extent in shape:
        size_bytes *= extent
    return size_bytes


@dataclass(slots=True, kw_only=True)
class _Builder:
    """A program while it is made.

    `named` tells which value a name of the model is, among inputs and outputs; `places` the same for names of emx's code.
    """

    name: str
    where: str
    values: list[Value] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    named: dict[str, int] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    prototypes: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, dtype: str, shape: tuple[int, ...], kind: ValueKind, *, content: bytes = b"") -> int:
        size_bytes = _size_bytes(dtype, shape)
        self.values.append(
            Value(name=name, dtype=dtype, shape=shape, size_bytes=size_bytes, kind=kind, content=content)
        )
        return len(self.values) - 1

    def add_code(self, prepared: Prepared, emission: Emission) -> None:
        """Add what emx's entry function has: its parameters, which are inputs and outputs, its variables and calls."""
        outputs = {item.name: item for item in prepared.outputs}
        tensors = [*prepared.inputs, *(outputs[name] for name in prepared.computed)]
        if [item.dtype for item in tensors] != [item.dtype for item in emission.parameters]:
            raise SourceError(
                "the parameters of emx's function are not the model's inputs and outputs", where=self.where
            )
        for item, array in zip(tensors, emission.parameters, strict=True):
            if item.name not in self.named:
                self.named[item.name] = self.add(item.name, item.dtype, item.shape, "temporary")
            self.places[array.name] = self.named[item.name]
        for array in emission.temporaries:
            self.places[array.name] = self.add(array.name, array.dtype, array.extents, "temporary")
        for step in emission.steps:
            self._add_step(step, emission)

    def _place(self, name: str, emission: Emission) -> int:
        """Find the value that an argument is; a weight becomes one with its first use."""
        if name in emission.weights and name not in self.places:
            array, content = emission.weights[name]
            self.places[name] = self.add(name, array.dtype, array.extents, "parameter", content=content)
        if name not in self.places:
            raise SourceError(f"the code of emx has an argument `{name}`, which is no tensor", where=self.where)
        return self.places[name]

    def _add_step(self, step: Step, emission: Emission) -> None:
        places = [self._place(name, emission) for name in step.arguments]
        written = tuple(index for index, item in zip(places, step.parameters, strict=True) if not item.is_const)
        for index, item in zip(places, step.parameters, strict=True):
            self._check_fit(self.values[index], item, step)
        if any(self.values[index].kind != "temporary" for index in written):
            raise SourceError(f"emx's function `{step.function.name}` writes what it must only read", where=self.where)
        if self._is_reshape(step, places, written):
            self._alias(written[0], places[0])
            return
        symbol = mangle(self.name, step.function.name)
        kernel = kernel_of(step, symbol, where=self.where)
        scratch = tuple(
            self.add(f"{step.function.name}_{array.name}", array.dtype, array.extents, "temporary")
            for array in kernel.scratch
        )
        self.texts.append(f"/* {step.operator} */\n{kernel.text}")
        self.prototypes[symbol] = kernel.prototype
        self.calls.append(
            Call(
                function=symbol, convention="unpacked", arguments=(*places, *scratch), written=(*written, *scratch),
                has_status=False,
            )
        )  # fmt: skip

    def _check_fit(self, value: Value, item: Array, step: Step) -> None:
        """Refuse a call with arguments in another order than that of the parameters."""
        if value.dtype != item.dtype or value.size_bytes != item.size_bytes:
            raise UnsupportedError(
                f"emx calls its code for {place(step.operator, step.node)} with `{value.name}` as `{item.name}`, which has "
                "another type or size",
                where=self.where,
            )

    def _is_reshape(self, step: Step, places: list[int], written: tuple[int, ...]) -> bool:
        if step.operator not in _RESHAPES or len(written) != 1 or written[0] == places[0]:
            return False
        source, target = self.values[places[0]], self.values[written[0]]
        return (source.dtype, source.size_bytes) == (target.dtype, target.size_bytes)

    def _alias(self, place: int, source: int) -> None:
        """Let the value at `place` have the memory of another."""
        alias = self.values[source].alias_of
        root = source if alias is None else alias
        self.values[place] = replace(self.values[place], kind=self.values[root].kind, alias_of=root)

    def output(self, item: TensorType, prepared: Prepared) -> int:
        """Give the value that an output is: computed, an input, or a constant."""
        if item.name not in self.named:
            content = prepared.constants[item.name]
            self.named[item.name] = self.add(item.name, item.dtype, item.shape, "parameter", content=content)
        return self.named[item.name]


def _operators(builder: _Builder, emission: Emission | None, *, where: str) -> str:
    """Write the file that defines the operators, with the helpers that they use."""
    if emission is None or not builder.texts:
        return ""
    needed = _needed(builder.texts, emission)
    helpers = [helper_text(emission.helpers[name], where=where) for name in emission.helpers if name in needed]
    code = "\n".join([*helpers, *builder.texts])
    lines = [f"#include <{header}>" for header in emission.includes]
    lines += [
        f"#define {macro} {value}" for macro, value in emission.macros.items() if re.search(rf"\b{macro}\b", code)
    ]
    # emx instantiates code for all types alike: what compares with 0 does so for unsigned numbers as well.
    if re.search(r"\buint\d+_t\b", code):
        lines += ["#if defined(__GNUC__)", '#pragma GCC diagnostic ignored "-Wtype-limits"', "#endif"]
    return "\n".join([*lines, "", code])


def _needed(texts: Iterable[str], emission: Emission) -> set[str]:
    """Find the helpers that are called, directly or by others."""
    needed: set[str] = set()
    waiting = list(texts)
    while waiting:
        called = set(re.findall(r"\b\w+", waiting.pop())) & set(emission.helpers) - needed
        needed |= called
        waiting.extend(emission.helpers[name].body for name in sorted(called))
    return needed
