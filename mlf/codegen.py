"""The C that mlf writes: a header for each model, the registry of all, and programs that run one model.

Templates lie in `mlf/templates`; every name that reaches them has been checked as a C identifier.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mlf.csource import C_TYPES, WORKSPACE_ALIGNMENT_BYTES
from mlf.errors import SourceError
from mlf.naming import C_IDENTIFIER, KEYWORDS, GeneratedNames, header_name, macro, mangle, mangle_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import jinja2

    from mlf.metadata import Pool, Tensor
    from mlf.module import Module

TEMPLATES = Path(__file__).parent / "templates"
_BYTES_PER_ROW = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInterface:
    """What firmware sees of a model: its name in the library, tensors in call order, and the memory it must lend."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    external_pools: tuple[Pool, ...]
    workspace_bytes: int | None

    @property
    def prefix(self) -> str:
        """The prefix of the model's symbols."""
        return mangle_model(self.name)

    @property
    def header(self) -> str:
        """The file name of the model's header."""
        return header_name(self.name)

    @property
    def run_symbol(self) -> str:
        """The C-interface entrypoint."""
        return mangle(self.name, "run")


def model_interface(name: str, module: Module) -> ModelInterface:
    """Give the interface that `module` has under `name`; SourceError if a field of it could not be written in C."""
    pools = tuple(pool for pool in module.pools if not pool.is_internal)
    fields = [tensor.c_name for tensor in (*module.inputs, *module.outputs)] + [pool.name for pool in pools]
    bad = [field for field in fields if not C_IDENTIFIER.fullmatch(field) or field in KEYWORDS]
    if bad:
        raise SourceError(f"tensors or pools have names that C cannot have: {', '.join(bad)}", where=module.archive)
    sizeless = [pool.name for pool in pools if pool.size_bytes is None]
    if sizeless:
        raise SourceError(f"the header does not tell the size of the pools {', '.join(sizeless)}", where=module.archive)
    return ModelInterface(
        name=name, inputs=module.inputs, outputs=module.outputs, external_pools=pools, workspace_bytes=module.workspace_bytes
    )  # fmt: skip


def generated_names(interface: ModelInterface, *, owner: str) -> GeneratedNames:
    """List the macros, types and symbols that the headers and the registry will hold for a model."""
    tensors = [tensor for tensor in (*interface.inputs, *interface.outputs) if tensor.size_bytes is not None]
    macros = [macro(interface.name, tensor.c_name, "SIZE") for tensor in tensors]
    macros.append(macro(interface.name, "WORKSPACE_SIZE"))
    for pool in interface.external_pools:
        kinds = ("CONSTANT_POOL_SIZE", "CONSTANT_POOL_DATA") if pool.kind == "constant" else ("WORKSPACE_POOL_SIZE",)
        macros += [macro(interface.name, pool.name, kind) for kind in kinds]
    symbols = [
        f"{interface.prefix}_{part}" for part in ("inputs", "outputs", "workspace_pools", "run", "tvm_module_main")
    ]
    fields = [
        f"{interface.prefix}_{kind}.{tensor.c_name}"
        for kind, group in (("inputs", interface.inputs), ("outputs", interface.outputs))
        for tensor in group
    ]
    guard = [*fields, macro(interface.name, "H_")]
    return GeneratedNames(model=interface.name, owner=owner, names=(*macros, *symbols, *guard, interface.header))


def model_header(interface: ModelInterface) -> str:
    """Write `tvmgen_<model>.h`, with TVM's names, structs and macros."""
    arguments = [f"struct {interface.prefix}_inputs* inputs", f"struct {interface.prefix}_outputs* outputs"]
    if interface.external_pools:
        arguments.append(f"struct {interface.prefix}_workspace_pools* workspace_pools")
    return _render(
        "model.h.j2",
        {
            "model": interface,
            "prefix": interface.prefix,
            "guard": macro(interface.name, "H_"),
            "arguments": arguments,
            "pool_alignment": WORKSPACE_ALIGNMENT_BYTES,
            "macro": lambda *parts: macro(interface.name, *parts),
        },
    )


def models_header(interfaces: Sequence[ModelInterface]) -> str:
    """Write `mlf/models.h`, the registry's header."""
    return _render("models.h.j2", {"models": interfaces})


def models_source(interfaces: Sequence[ModelInterface]) -> str:
    """Write the registry."""

    def shape_of(model: str, kind: str, tensors: Sequence[Tensor], index: int) -> str:
        if not tensors[index].shape:
            return "NULL"
        shaped = sum(1 for tensor in tensors[:index] if tensor.shape)
        return f"{model}_{kind}_{shaped}_shape"

    return _render("models.c.j2", {"models": interfaces, "shape_of": shape_of})


def board_runner(interface: ModelInterface, statuses: Mapping[str, int]) -> str:
    """Write the program that runs a model once on a board: tensors are files of the emulator's directory.

    `statuses` are its exit statuses where the run `failed`, a buffer was `overrun`, a file could not be moved (`io`).
    """
    values = {"model": interface, "prefix": interface.prefix, "statuses": statuses}
    return _render("board_runner.c.j2", values)


def _render(template: str, values: Mapping[str, object]) -> str:
    return _environment().get_template(template).render(values)


@cache  # of templates that it has compiled
def _environment() -> jinja2.Environment:
    import jinja2  # noqa: PLC0415  # 20 ms that `inspect` need not pay

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, autoescape=False,  # noqa: S701  # C, not HTML
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters.update(comment=_comment, c_string=_c_string, describe=_describe, byte_rows=_byte_rows)
    return environment


def _comment(text: str) -> str:
    """Make any text safe inside a C comment."""
    plain = "".join(char if char.isascii() and char.isprintable() else "?" for char in text)
    return plain.replace("*/", "* /").replace("/*", "/ *").replace("??/", "? ?/")


def _c_string(text: str | None) -> str:
    """Write a C string literal; octal escapes, which unlike hexadecimal ones end after three digits."""
    if text is None:
        return "NULL"
    return '"' + "".join(_c_char(byte) for byte in text.encode()) + '"'


def _c_char(byte: int) -> str:
    char = chr(byte)
    return char if char.isascii() and char.isprintable() and char not in '"\\?' else f"\\{byte:03o}"


def _describe(tensor: Tensor) -> str:
    shape = "x".join(str(extent) for extent in tensor.shape) if tensor.shape else None
    parts = [tensor.dtype or "unknown type", shape, f"{tensor.size_bytes} bytes"]
    return ", ".join(part for part in parts if part)


def _byte_rows(data: bytes) -> list[str]:
    rows = [data[start : start + _BYTES_PER_ROW] for start in range(0, len(data), _BYTES_PER_ROW)]
    return [", ".join(f"0x{byte:02x}" for byte in row) for row in rows]


# What C99 has a type for; pointers to all other elements have no type.
_C_WORDS = {dtype: word for word, dtype in C_TYPES.items() if word != "half"}
_COLUMNS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignCall:
    """How a model's own function is called.

    `arguments` are C names of tensors and pools, and numbers; `buffers` the internal pools, which the caller defines. It
    returns a status or nothing. `header` declares it; without one the arguments do, among which then are no numbers.
    """

    function: str
    arguments: tuple[str | int, ...]
    gives_status: bool
    header: str | None
    buffers: tuple[Pool, ...]


def entrypoint_source(interface: ModelInterface, call: ForeignCall, *, main: str, is_packed: bool) -> str:
    """Write an entrypoint for a model that has none, and `main`, which calls the model's own function.

    The entrypoint has TVM's C interface, or takes TVM's packed arguments. Both have the form of TVM's code, so that a
    reader of the archive finds the order and the types of the tensors in it.
    """
    tensors = (*interface.inputs, *interface.outputs)
    words = {tensor.c_name: _C_WORDS.get(tensor.dtype or "", "void") for tensor in tensors}
    words |= {pool.name: "uint8_t" for pool in (*interface.external_pools, *call.buffers)}
    parameters = [*(tensor.c_name for tensor in tensors), *(pool.name for pool in interface.external_pools)]
    # A header may declare its tensors as arrays of any rank, to which only a pointer without a type converts.
    cast = "(void*)" if call.header else ""
    passed = [item if isinstance(item, int) else f"{cast}{item}" for item in call.arguments]
    values = {
        "model": interface, "call": call, "prefix": interface.prefix, "is_packed": is_packed, "wrap": _wrapped,
        "has_bool": "bool" in words.values(),
        "prototype": f"{call.function}({', '.join(_prototype(interface, call, words))});",
        "head": f"int32_t {main}({', '.join(f'{words[name]}* {name}' for name in parameters)}) {{",
        "statement": f"{call.function}({', '.join(map(str, passed))});",
        "forward": f"return {main}({', '.join(_forwarded(interface, is_packed=is_packed))});",
        "arguments": ", ".join(_run_parameters(interface)),
    }  # fmt: skip
    return _render("entrypoint.c.j2", values)


def _prototype(interface: ModelInterface, call: ForeignCall, words: Mapping[str, str]) -> list[str]:
    """Declare the parameters of a function that no header declares: what it only reads is constant."""
    read = {tensor.c_name for tensor in interface.inputs}
    read |= {pool.name for pool in interface.external_pools if pool.kind == "constant"}
    names = [name for name in call.arguments if isinstance(name, str)]
    return [f"{'const ' if name in read else ''}{words[name]}* {name}" for name in names]


def _forwarded(interface: ModelInterface, *, is_packed: bool) -> list[str]:
    """Give what the entrypoint passes to main: inputs, outputs, external pools."""
    if is_packed:
        count = len(interface.inputs) + len(interface.outputs)
        return [f"((DLTensor*)args[{index}].v_handle)->data" for index in range(count)]
    passed = [f"inputs->{tensor.c_name}" for tensor in interface.inputs]
    passed += [f"outputs->{tensor.c_name}" for tensor in interface.outputs]
    return passed + [f"workspace_pools->{pool.name}" for pool in interface.external_pools]


def _run_parameters(interface: ModelInterface) -> list[str]:
    kinds = ["inputs", "outputs"] + (["workspace_pools"] if interface.external_pools else [])
    return [f"struct {interface.prefix}_{kind}* {kind}" for kind in kinds]


def _wrapped(text: str, indent: int) -> str:
    """Break a line of C that is too long behind its commas."""
    glued = re.sub(r"(?<!,) ", "\0", text)  # textwrap breaks at any blank
    lines = textwrap.fill(
        glued, _COLUMNS, initial_indent=" " * indent, subsequent_indent=" " * (indent + 4), break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return lines.replace("\0", " ")


def description_text(values: Mapping[str, object]) -> str:
    """Write a first `description.toml`; `mlf.frontends.scan` gives the values."""
    return _render("description.toml.j2", values)
