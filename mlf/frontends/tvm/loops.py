"""Loops of TVM written by hand: operators that its tensor expressions cannot say well."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mlf.frontends.tvm.releases import load_tvm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


def tirx_module() -> Any:
    """Give TVM's module of loops and their expressions."""
    return load_tvm().tirx


def te_module() -> Any:
    """Give TVM's module of tensor expressions."""
    from tvm import te  # noqa: PLC0415

    return te


def script_builder() -> Any:
    """Give the functions that write statements: those that TVM's own operators are written with."""
    from tvm.script.ir_builder import tirx as builder  # noqa: PLC0415

    return builder


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Give the extents of a tensor expression."""
    return tuple(int(extent) for extent in tensor.shape)


def dtype_of(tensor: Any) -> str:
    """Give TVM's word for the elements of a tensor expression."""
    return str(getattr(tensor.dtype, "dtype", tensor.dtype))


def loops(
    name: str, shape: Sequence[int], dtype: str, tensors: Mapping[str, Any], body: Callable[..., None], tables: Sequence[Any] = ()
) -> Any:  # fmt: skip
    """Make an operator of loops that `body` writes; it gets the buffers of `tensors` and `tables` and of the output.

    The buffers begin where their pointers point to, which `te.extern` leaves open unless told.
    """
    tirx = tirx_module()
    factors = (
        ("factors",) if tables and dtype_of(tables[0]).startswith("float") else ("multipliers", "places", "shifts")
    )
    tensors = {**tensors, **dict(zip(factors, tables, strict=False))}
    inputs = [tirx.decl_buffer(item.shape, dtype_of(item), word) for word, item in tensors.items()]
    output = tirx.decl_buffer(tuple(shape), dtype, "output")

    def write(given: Sequence[Any], results: Sequence[Any]) -> Any:
        from tvm.script.ir_builder import IRBuilder  # noqa: PLC0415

        proxy = script_builder().buffer_proxy
        with IRBuilder() as builder:
            body(*(proxy(item) for item in given), proxy(results[0]))
            return builder.get()

    return te_module().extern(
        [tuple(shape)], list(tensors.values()), write, name=name, dtype=dtype, in_buffers=inputs, out_buffers=[output]
    )


@contextmanager
def grid(**extents: Any) -> Iterator[tuple[Any, ...]]:
    """Write loops, the outermost first; gives their variables, which are called as the extents are."""
    from tvm.script.ir_builder import IRBuilder  # noqa: PLC0415

    with script_builder().grid(*extents.values()) as found:
        variables = tuple(found) if hasattr(found, "__len__") else (found,)
        for name, variable in zip(extents, variables, strict=True):
            IRBuilder.name(name, variable)
        yield variables


def registers(name: str, count: int, dtype: str) -> Any:
    """Make an array that is only read and written at places known to the compiler, so that it lives in registers."""
    from tvm.script.ir_builder import IRBuilder  # noqa: PLC0415

    builder = script_builder()
    array = builder.alloc_buffer((count,), dtype, scope="global")
    IRBuilder.name(name, array)
    return builder.buffer_proxy(array)


def axes_of(shape: Sequence[int]) -> dict[str, int]:
    """Name the loops over all of a tensor."""
    return {f"i{axis}": extent for axis, extent in enumerate(shape)}
