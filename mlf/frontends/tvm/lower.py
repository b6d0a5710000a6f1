"""A module of Relax as a Program: the calls that its `main` makes once TVM has fused and lowered its operators."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mlf.errors import UnsupportedError
from mlf.frontends.description import DTYPE_BYTES
from mlf.frontends.tvm.affine import fold_affine
from mlf.frontends.tvm.operators import OperatorSource, operator_source
from mlf.frontends.tvm.releases import constant_array, is_constant, load_tvm, name_of, shape_and_dtype, type_of
from mlf.frontends.tvm.schedule import scheduled
from mlf.naming import mangle
from mlf.program import Call, Program, Value

if TYPE_CHECKING:
    from collections.abc import Sequence

_ALIASES = ("relax.reshape", "relax.memory.view", "relax.expand_dims", "relax.squeeze", "relax.flatten", "relax.memory.ensure_zero_offset")  # fmt: skip
_FUSING_LEVEL = 1  # of optimization, as for TVM's own pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """A Program, and its operators in C."""

    program: Program
    source: OperatorSource


def lower(module: Any, *, name: str, where: str, level: int, is_scheduled: bool) -> Lowered:
    """Lower `main` of a Relax module to calls of operators of the model `name`.

    `level` 0 leaves operators apart, 1 and above fuse them. Raises UnsupportedError for what cannot be C ahead of time.
    """
    tvm = load_tvm()
    target = tvm.target.Target("c")
    with target:
        plain = tvm.relax.transform.DecomposeOpsForInference()(module)
        folded = fold_affine(plain) if level >= _FUSING_LEVEL else plain
        lowered = tvm.transform.Sequential(_passes(tvm, level))(folded)
    walk = _Walk(lowered["main"], name, where)
    walk.run()
    functions = {}
    for function, operator in walk.operators.items():
        item = lowered[function]
        item = scheduled(item) if is_scheduled else item
        functions[operator] = item.without_attr("global_symbol") if "global_symbol" in (item.attrs or {}) else item
    counts = {call.function: len(call.written) for call in walk.calls}
    source = operator_source(tvm.IRModule(functions), counts, where=where)
    return Lowered(program=walk.program(source), source=source)


def _passes(tvm: Any, level: int) -> Sequence[Any]:
    relax = tvm.relax.transform
    passes = [relax.LegalizeOps(), relax.AnnotateTIROpPattern(), relax.FoldConstant()]
    if level >= _FUSING_LEVEL:
        passes += [relax.FuseOps(), relax.FuseTIR()]
    return (
        *passes, relax.DeadCodeElimination(), relax.RewriteDataflowReshape(), relax.ToNonDataflow(), relax.RemovePurityChecking(),
        relax.CallTIRRewrite(), relax.CanonicalizeBindings(),
    )  # fmt: skip


@dataclass(slots=True)
class _Walk:
    """Follows the bindings of a lowered `main`; a variable stands for a value, or for a tuple of them."""

    function: Any
    name: str
    where: str
    values: list[Value] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    operators: dict[str, str] = field(default_factory=dict)
    places: dict[Any, Any] = field(default_factory=dict)
    contents: dict[tuple[str, bytes], int] = field(default_factory=dict)
    written: set[int] = field(default_factory=set)
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()

    def run(self) -> None:
        for parameter in self.function.params:
            self.places[parameter] = self._add(name_of(parameter), type_of(parameter), kind="input")
        self.inputs = tuple(self.places.values())
        body = self.function.body
        for block in body.blocks:
            for binding in block.bindings:
                self.places[binding.var] = self._bound(binding.var, binding.value)
        result = self._place(body.body)
        self.outputs = tuple(_flat(result))

    def program(self, source: OperatorSource) -> Program:
        """Give the Program, with the memory that operators must be lent as values of their own."""
        values, calls = list(self.values), []
        for call in self.calls:
            lent = []
            for index, size_bytes in enumerate(source.temporaries[call.function]):
                lent.append(len(values))
                values.append(Value(name=f"{call.function}_{index}", dtype="uint8", shape=(size_bytes,), size_bytes=size_bytes, kind="temporary"))  # fmt: skip
            calls.append(replace(call, arguments=(*call.arguments, *lent), written=(*call.written, *lent)))
        return Program(
            where=self.where, values=tuple(values), calls=tuple(calls), inputs=self.inputs, outputs=self.outputs
        )

    def _add(self, name: str, type_: Any, **fields: Any) -> int:
        shape, dtype = self._shape(name, type_)
        count = 1
        for extent in shape:
            count *= extent
        size_bytes = count * DTYPE_BYTES[dtype]
        self.values.append(Value(name=name, dtype=dtype, shape=shape, size_bytes=size_bytes, **fields))
        return len(self.values) - 1

    def _shape(self, name: str, type_: Any) -> tuple[tuple[int, ...], str]:
        extents, dtype = shape_and_dtype(type_)
        if not all(isinstance(extent, int) for extent in extents):
            said = ", ".join(map(str, extents))
            raise UnsupportedError(f"`{name}` has the shape ({said}), which is not known before the model runs", where=self.where)  # fmt: skip
        if dtype not in DTYPE_BYTES or dtype in ("float16", "bfloat16"):
            raise UnsupportedError(f"`{name}` has elements of `{dtype}`, which C99 has not", where=self.where)
        return tuple(extents), dtype

    def _place(self, node: Any) -> Any:
        tvm = load_tvm()
        if is_constant(node):
            return self._constant(node)
        if isinstance(node, tvm.relax.Tuple):
            return tuple(self._place(item) for item in node.fields)
        return self.places[node]

    def _constant(self, node: Any) -> int:
        array = constant_array(node)
        content = array.tobytes()
        key = (str(array.dtype), content)
        if key not in self.contents:
            self.contents[key] = self._add(f"constant_{len(self.contents)}", type_of(node), kind="parameter", content=content)  # fmt: skip
        return self.contents[key]

    def _bound(self, variable: Any, value: Any) -> Any:
        relax = load_tvm().relax
        if isinstance(value, relax.TupleGetItem):
            return self._place(value.tuple_value)[value.index]
        if not isinstance(value, relax.Call):
            return self._place(value)
        operator = value.op
        if isinstance(operator, load_tvm().ir.GlobalVar):
            return self._call(operator.name_hint, value.args)
        name = str(getattr(operator, "name", operator))
        if name in ("relax.builtin.alloc_tensor", "relax.memory.alloc_tensor"):
            return self._add(name_of(variable), type_of(variable), kind="temporary")
        if name in _ALIASES:
            return self._alias(variable, self._place(value.args[0]))
        if name.startswith("relax.memory.kill"):
            return None
        word = name.removeprefix("relax.")
        raise UnsupportedError(f"`{word}` cannot be compiled ahead of time by Apache TVM", where=self.where)

    def _alias(self, variable: Any, place: int) -> int:
        root = self.values[place]
        index = self._add(name_of(variable), type_of(variable), kind=root.kind)
        alias_of = place if root.alias_of is None else root.alias_of
        self.values[index] = replace(self.values[index], alias_of=alias_of)
        return index

    def _call(self, function: str, arguments: Sequence[Any]) -> None:
        places = tuple(item for argument in arguments for item in _flat(self._place(argument)))
        fresh = [place for place in places if self._is_unwritten(place)]
        self.written.update(fresh)
        operator = self.operators.setdefault(function, mangle(self.name, _identifier(function)))
        self.calls.append(
            Call(function=operator, convention="unpacked", arguments=places, written=tuple(fresh), has_status=False)
        )

    def _is_unwritten(self, place: int) -> bool:
        value = self.values[place]
        return value.kind == "temporary" and value.alias_of is None and place not in self.written


def _flat(place: Any) -> list[int]:
    return [item for part in place for item in _flat(part)] if isinstance(place, tuple) else [place]


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)
