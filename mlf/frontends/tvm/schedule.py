"""Loops of one operator: no temporary of full size where a scalar does, nothing computed twice, sums in registers."""

from __future__ import annotations

import math
from typing import Any

from mlf.frontends.tvm.releases import load_tvm

_MOST_DIMENSIONS = 4  # tried for groups, the last one first
_GROUPS = (4, 3, 2)  # sums at once; four fill a vector of a Cortex-M55
_REDUCTION = 2  # tirx.IterVar.CommReduce
# Functions that cost more than reading a number that was kept.
_COSTLY = (
    "exp",
    "log",
    "tanh",
    "erf",
    "pow",
    "sqrt",
    "sin",
    "cos",
    "tan",
    "sigmoid",
    "call_extern",
    "call_pure_extern",
)


def scheduled(function: Any) -> Any:
    """Schedule a function of TIR; one that cannot be scheduled stays as it is."""
    tvm = load_tvm()
    name = function.attrs["global_symbol"] if function.attrs and "global_symbol" in function.attrs else None
    try:
        scheduler = _Scheduler(tvm.s_tir.Schedule(tvm.IRModule({"main": function.with_attr("global_symbol", "main")})))
        scheduler.run()
    except _errors():
        return function
    done = scheduler.schedule.mod["main"]
    return done.with_attr("global_symbol", name) if name else done.without_attr("global_symbol")


def _errors() -> tuple[type[Exception], ...]:
    """Name what TVM raises when a step is not possible; it is a different class in every release."""
    tvm = load_tvm()
    names = ("TVMError", "ScheduleError")
    owners = (tvm, getattr(tvm, "error", None), tvm.s_tir, getattr(tvm.s_tir, "schedule", None))
    found = [getattr(owner, name) for owner in owners for name in names if hasattr(owner, name)]
    return (*found, RuntimeError, ValueError, TypeError)


class _Scheduler:
    def __init__(self, schedule: Any) -> None:
        self.schedule = schedule
        self.errors = _errors()
        self.grouped: set[str] = set()

    def run(self) -> None:
        for block in self._blocks():
            if not self._is_reduction(block) and self._is_worth_inlining(block):
                self._try(lambda block=block: self.schedule.compute_inline(block))
        for block in self._blocks():
            if self._is_reduction(block) and self._is_sum_of_products(block):
                self._group(block)
        for block in reversed(self._blocks()):
            if self._name(block) not in self.grouped:
                self._move_into_consumer(block)
        for block in self._blocks():
            if self._is_reduction(block) and self._name(block) not in self.grouped:
                self._start_before_loops(block)

    def _try(self, step: Any) -> bool:
        try:
            step()
        except self.errors:
            return False
        return True

    def _blocks(self) -> list[Any]:
        return list(self.schedule.get_child_blocks(self.schedule.get_sblock("root")))

    def _is_reduction(self, block: Any) -> bool:
        return any(int(item.iter_type) == _REDUCTION for item in self.schedule.get(block).iter_vars)

    def _name(self, block: Any) -> str:
        return str(self.schedule.get(block).name_hint)

    def _is_sum_of_products(self, block: Any) -> bool:
        """Tell whether a block adds products of two numbers that it reads, if need be 0 outside of a tensor."""
        product = getattr(getattr(self.schedule.get(block).body, "value", None), "b", None)
        if type(product).__name__ != "Mul":
            return False
        return all(hasattr(item, "indices") or _padding_test(item) is not None for item in _operands(product))

    def _group(self, block: Any) -> None:
        """Compute a few neighbouring sums at once, which share what they read: in registers, or in one of four numbers.

        Each sum adds what it added before, in the same order. Neighbours are along the innermost dimension that suits.
        """
        before = self.schedule
        for dimension in range(1, _MOST_DIMENSIONS + 1):
            self.schedule = before.copy()
            if self._try(lambda dimension=dimension: self._compute_together(block, dimension)):
                return
        self.schedule = before

    def _compute_together(self, block: Any, dimension: int) -> None:
        """Group sums along a dimension, counted from the last one; raises ValueError if it does not suit."""
        schedule = self.schedule
        (consumer,) = list(schedule.get_consumers(block)) or [schedule.cache_write(block, 0, "global")]
        loops = list(schedule.get_loops(consumer))
        if (
            self._is_reduction(consumer)
            or self._extent(consumer) != self._spatial_extent(block)
            or dimension > len(loops)
        ):
            raise ValueError(dimension)
        extent = int(schedule.get(loops[-dimension]).extent)
        count = next((item for item in _GROUPS if extent % item == 0), None)
        if count is None:
            raise ValueError(dimension)
        outer, inner = schedule.split(loops[-dimension], [None, count])
        within = loops[len(loops) - dimension + 1 :]
        schedule.reorder(*within, inner)
        schedule.compute_at(block, [outer, *within][-1])
        own = list(schedule.get_loops(block))[len(loops) :]
        summed = [loop for loop in own if self._is_summed(block, loop)]
        (together,) = [loop for loop in own if not self._is_summed(block, loop)]
        if self._is_tested(block, together):
            raise ValueError(dimension)
        schedule.reorder(*summed, together)
        first = schedule.decompose_reduction(block, summed[0])
        for loop in (together, inner, list(schedule.get_loops(first))[-1]):
            schedule.unroll(loop)
        self.grouped |= {self._name(block), self._name(first)}

    def _is_tested(self, block: Any, loop: Any) -> bool:
        """Tell whether what lies outside of a tensor depends on a loop."""
        variable = self.schedule.get(loop).loop_var
        pairs = zip(self.schedule.get(block).iter_vars, self._realize(block).iter_values, strict=True)
        moving = [item.var for item, value in pairs if _mentions(value, variable)]
        tests = [_padding_test(item) for item in _operands(self.schedule.get(block).body.value.b)]
        return any(_mentions(test, item) for test in tests if test is not None for item in moving)

    def _is_worth_inlining(self, block: Any) -> bool:
        """What costs little is computed where it is used; what costs much only if it is used in one place, once."""
        consumers = list(self.schedule.get_consumers(block))
        if not consumers:
            return False
        if not any(word in str(self.schedule.get(block).body) for word in _COSTLY):
            return True
        return len(consumers) == 1 and self._extent(consumers[0]) <= self._extent(block)

    def _extent(self, block: Any) -> int:
        return math.prod(int(item.dom.extent) for item in self.schedule.get(block).iter_vars)

    def _spatial_extent(self, block: Any) -> int:
        variables = self.schedule.get(block).iter_vars
        return math.prod(int(item.dom.extent) for item in variables if int(item.iter_type) != _REDUCTION)

    def _move_into_consumer(self, block: Any) -> None:
        """Compute a block inside the loops of what uses it, as deep as nothing is computed twice."""
        consumers = list(self.schedule.get_consumers(block))
        if len(consumers) != 1:
            return
        loops = list(self.schedule.get_loops(consumers[0]))
        wanted, extent, target = self._spatial_extent(block), 1, None
        for loop in loops:
            extent *= int(self.schedule.get(loop).extent)
            if wanted % extent == 0:
                target = loop
            if extent >= wanted:
                break
        if target is not None:
            self._try(lambda: self.schedule.compute_at(block, target))

    def _start_before_loops(self, block: Any) -> None:
        """Set a sum to its first value before the loops that add to it, and keep it in a variable of its own."""
        loops = list(self.schedule.get_loops(block))
        first = next((index for index, loop in enumerate(loops) if self._is_summed(block, loop)), None)
        if first is None:
            return
        if not list(self.schedule.get_consumers(block)) and first > 0:
            self._try(lambda: self._accumulate_apart(block, loops[first - 1]))
        self._try(lambda: self.schedule.decompose_reduction(block, loops[first]))

    def _accumulate_apart(self, block: Any, loop: Any) -> None:
        copied = self.schedule.cache_write(block, 0, "global")
        self.schedule.reverse_compute_at(copied, loop)

    def _is_summed(self, block: Any, loop: Any) -> bool:
        """Tell whether a loop runs over a dimension that is summed up."""
        variable = self.schedule.get(loop).loop_var
        realize = self._realize(block)
        for item, value in zip(self.schedule.get(block).iter_vars, realize.iter_values, strict=True):
            if int(item.iter_type) == _REDUCTION and _mentions(value, variable):
                return True
        return False

    def _realize(self, block: Any) -> Any:
        """Find the statement that binds a block's variables to loops."""
        loops = list(self.schedule.get_loops(block))
        wanted = self.schedule.get(block)
        statement: Any = self.schedule.get(loops[-1]).body if loops else None
        parts = list(statement.seq) if hasattr(statement, "seq") else [statement]
        return next(item for item in parts if getattr(item, "block", None) is not None and item.block.same_as(wanted))


def _operands(operation: Any) -> tuple[Any, ...]:
    return operation.a, operation.b


def _padding_test(expression: Any) -> Any:
    """Give the condition under which an expression is what a tensor holds; None if it is not one of two values."""
    name = str(getattr(getattr(expression, "op", None), "name", ""))
    return expression.args[0] if name.endswith("if_then_else") else None


def _mentions(expression: Any, variable: Any) -> bool:
    """Tell whether an index, a sum or product of loop variables, has a variable; names are no help, loops share them."""
    if expression.same_as(variable):
        return True
    parts = [getattr(expression, part) for part in ("a", "b") if hasattr(expression, part)]
    return any(_mentions(part, variable) for part in parts)
