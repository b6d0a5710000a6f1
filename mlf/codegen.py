"""The C that mlf writes: a header for each model, the registry of all, and programs that run one model.

Templates lie in `mlf/templates`; every name that reaches them has been checked as a C identifier.
"""

from __future__ import annotations

import hashlib
import re
import textwrap
from dataclasses import dataclass, replace
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
    from mlf.module import IoPlace, Module

TEMPLATES = Path(__file__).parent / "templates"
_BYTES_PER_ROW = 16
DEFAULT_REGISTRY = "models"
_REGISTRY_DIGITS = 8  # of the digest in its symbols: two libraries of one firmware must not take each other's by chance


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInterface:
    """What firmware sees of a model: its name in the library, tensors in call order, and the memory it must lend.

    `io_places` says of each input and then of each output in which of the external pools it lies, if they lie there.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    external_pools: tuple[Pool, ...]
    workspace_bytes: int | None
    devices: tuple[str, ...] = ()
    io_places: tuple[IoPlace, ...] = ()
    has_c_metadata: bool = False

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
    external = [index for index, pool in enumerate(module.pools) if not pool.is_internal]
    pools = tuple(module.pools[index] for index in external)
    inputs, outputs = _with_c_names(module, module.inputs, module.outputs)
    names = [*(pool.name for pool in pools), *module.devices]
    bad = [name for name in names if not C_IDENTIFIER.fullmatch(name) or name in KEYWORDS]
    if bad:
        raise SourceError(f"pools or devices have names that C cannot have: {', '.join(bad)}", where=module.archive)
    sizeless = [pool.name for pool in pools if pool.size_bytes is None]
    if sizeless:
        raise SourceError(f"the header does not tell the size of the pools {', '.join(sizeless)}", where=module.archive)
    return ModelInterface(
        name=name, inputs=inputs, outputs=outputs, external_pools=pools, workspace_bytes=module.workspace_bytes,
        devices=module.devices, has_c_metadata="get_c_metadata" in module.entrypoints,
        io_places=tuple(replace(place, pool=external.index(place.pool)) for place in module.io_places),
    )  # fmt: skip


def invalid_names(module: Module) -> list[str]:
    """List the tensors and pools that have names that C cannot have; TVM's header with them does not compile."""
    names = [tensor.c_name for tensor in (*module.inputs, *module.outputs)]
    names += [*(pool.name for pool in module.pools if not pool.is_internal), *module.devices]
    return [name for name in names if not C_IDENTIFIER.fullmatch(name) or name in KEYWORDS]


def _with_c_names(module: Module, *groups: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """Give tensors names that C can have; behind the packed interface also none that another has in capitals.

    Nobody's code has these names yet: TVM's header with such ones does not compile.
    """
    given = {tensor.c_name.upper() for group in groups for tensor in group}
    used = {"WORKSPACE"}
    named = []
    for group in groups:
        tensors = []
        for tensor in group:
            plain = tensor.c_name if C_IDENTIFIER.fullmatch(tensor.c_name) else f"t{tensor.c_name}"
            c_name, number = plain, 1
            is_taken = c_name in KEYWORDS or (module.header is None and c_name.upper() in used)
            while is_taken:
                c_name, number = f"{plain}_{number}", number + 1
                is_taken = c_name.upper() in used | given
            used.add(c_name.upper())
            tensors.append(replace(tensor, c_name=c_name))
        named.append(tuple(tensors))
    return named


def generated_names(interface: ModelInterface, *, owner: str) -> GeneratedNames:
    """List the macros, types and symbols that the headers and the registry will hold for a model."""
    tensors = [tensor for tensor in (*interface.inputs, *interface.outputs) if tensor.size_bytes is not None]
    macros = [macro(interface.name, tensor.c_name, "SIZE") for tensor in tensors]
    quantized = [tensor for tensor in tensors if tensor.quantization]
    macros += [macro(interface.name, tensor.c_name, kind) for tensor in quantized for kind in ("SCALE", "ZERO_POINT")]
    macros.append(macro(interface.name, "WORKSPACE_SIZE"))
    for pool in interface.external_pools:
        kinds = ("CONSTANT_POOL_SIZE", "CONSTANT_POOL_DATA") if pool.kind == "constant" else ("WORKSPACE_POOL_SIZE",)
        macros += [macro(interface.name, pool.name, kind) for kind in kinds]
    parts = ("inputs", "outputs", "workspace_pools", "devices", "run", "tvm_module_main", "map_inputs", "map_outputs", "get_c_metadata")  # fmt: skip
    symbols = [f"{interface.prefix}_{part}" for part in parts]
    fields = [
        f"{interface.prefix}_{kind}.{tensor.c_name}"
        for kind, group in (("inputs", interface.inputs), ("outputs", interface.outputs))
        for tensor in group
    ]
    guard = [*fields, macro(interface.name, "H_")]
    return GeneratedNames(model=interface.name, owner=owner, names=(*macros, *symbols, *guard, interface.header))


def model_header(interface: ModelInterface) -> str:
    """Write `tvmgen_<model>.h`, with TVM's names, structs and macros."""
    return render(
        "model.h.j2",
        {
            "model": interface,
            "prefix": interface.prefix,
            "guard": macro(interface.name, "H_"),
            "arguments": run_parameters(interface),
            "pool_alignment": max([WORKSPACE_ALIGNMENT_BYTES, *(pool.alignment_bytes for pool in interface.external_pools)]),
            "has_c_metadata": interface.has_c_metadata,
            "macro": lambda *parts: macro(interface.name, *parts),
        },
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryNames:
    """The names of a library's registry, so that two libraries of one firmware can each have one.

    `models` and `find` are what C code writes. The header makes macros of them, to symbols that also hold a digest of the
    models, so that what a header declares is never another library's.
    """

    header_stem: str
    digest: str

    @property
    def header(self) -> str:
        """The header's path below `include/`."""
        return f"mlf/{self.header_stem}.h"

    @property
    def guard(self) -> str:
        """The header's include guard, another one for other models."""
        return f"MLF_{self.header_stem}_{self.digest}_H_".upper()

    @property
    def taken(self) -> str:
        """The macro that tells that a header of this name is there, of whatever library."""
        return f"MLF_{self.header_stem}_H_".upper()

    @property
    def _part(self) -> str:
        return "" if self.header_stem == DEFAULT_REGISTRY else f"{self.header_stem}_"

    @property
    def models(self) -> str:
        """The array of all models."""
        return f"mlf_{self._part}models"

    @property
    def models_symbol(self) -> str:
        """The array's symbol."""
        return f"{self.models}_{self.digest}"

    @property
    def find(self) -> str:
        """The function that finds one by its name."""
        return f"mlf_{self._part}find_model"

    @property
    def find_symbol(self) -> str:
        """The function's symbol."""
        return f"{self.find}_{self.digest}"

    @property
    def count(self) -> str:
        """The macro with their number."""
        return f"MLF_{self._part}MODEL_COUNT".upper()


def registry_names(header_stem: str, identities: Mapping[str, str]) -> RegistryNames:
    """Give the names of the registry of models, whose names and archives' identities tell it from that of other models."""
    digest = hashlib.sha256(repr(sorted(identities.items())).encode()).hexdigest()
    return RegistryNames(header_stem=header_stem, digest=digest[:_REGISTRY_DIGITS])


def models_header(interfaces: Sequence[ModelInterface], registry: RegistryNames) -> str:
    """Write the registry's header."""
    return render("models.h.j2", {"models": interfaces, "registry": registry})


def models_source(interfaces: Sequence[ModelInterface], registry: RegistryNames) -> str:
    """Write the registry."""
    return render("models.c.j2", {"models": interfaces, "registry": registry})


def tensor_row(interface: ModelInterface, kind: str, index: int) -> list[str]:
    """Give the values of a tensor in the registry; `kind` is `input` or `output`."""
    tensor = (interface.inputs if kind == "input" else interface.outputs)[index]
    at = index + (len(interface.inputs) if kind == "output" else 0)
    place = interface.io_places[at] if interface.io_places else None
    quantization = tensor.quantization
    return [
        _c_string(tensor.name), _c_string(tensor.dtype), f"{kind}_{index}_shape" if tensor.shape else "NULL",
        str(len(tensor.shape or ())), str(tensor.size_bytes or 0), _c_float(quantization.scale if quantization else 0.0),
        str(quantization.zero_point if quantization else 0), str(place.pool if place else -1),
        str(place.offset_bytes if place else 0),
    ]  # fmt: skip


def _c_float(value: float) -> str:
    """Write a float in decimal digits that give it back."""
    text = f"{value:.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def board_runner(interface: ModelInterface, statuses: Mapping[str, int], *, peak: str | None = None) -> str:
    """Write the program that runs a model once on a board: tensors are files of the emulator's directory.

    `statuses` are its exit statuses where the run `failed`, a buffer was `overrun`, a file could not be moved (`io`).
    `peak` is a variable of the library whose value it writes too.
    """
    tensors = [f"input_{index}" for index in range(len(interface.inputs))]
    tensors += [f"output_{index}" for index in range(len(interface.outputs))]
    values = {
        "model": interface, "prefix": interface.prefix, "statuses": statuses, "structs": _filled_structs(interface),
        "peak": peak, "io_places": list(zip(tensors, interface.io_places, strict=False)),
    }  # fmt: skip
    return render("board_runner.c.j2", values)


def _filled_structs(interface: ModelInterface) -> list[dict[str, object]]:
    """List the structs that `run` takes, with what a program on a board has for their fields."""
    groups = {
        "inputs": [(item.c_name, f"input_{index}") for index, item in enumerate(interface.inputs)],
        "outputs": [(item.c_name, f"output_{index}") for index, item in enumerate(interface.outputs)],
        "workspace_pools": [(pool.name, f"pool_{index}") for index, pool in enumerate(interface.external_pools)],
        "devices": [(device, "NULL") for device in interface.devices],
    }
    return [{"kind": kind, "fields": groups[kind]} for kind in run_structs(interface)]


def render(template: str, values: Mapping[str, object]) -> str:
    """Render a template."""
    return _environment().get_template(template).render(values)


@cache  # of templates that it has compiled
def _environment() -> jinja2.Environment:
    import jinja2  # noqa: PLC0415  # 20 ms that `inspect` need not pay

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, autoescape=False,  # noqa: S701  # C, not HTML
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters.update(
        comment=_comment, c_string=_c_string, describe=_describe, byte_rows=_byte_rows, c_float=_c_float
    )
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
        "model": interface, "call": call, "prefix": interface.prefix, "is_packed": is_packed, "wrap": wrapped,
        "has_bool": "bool" in words.values(),
        "prototype": f"{call.function}({', '.join(_prototype(interface, call, words))});",
        "head": f"int32_t {main}({', '.join(f'{words[name]}* {name}' for name in parameters)}) {{",
        "statement": f"{call.function}({', '.join(map(str, passed))});",
        "forward": f"return {main}({', '.join(_forwarded(interface, is_packed=is_packed))});",
        "arguments": ", ".join(run_parameters(interface)),
    }  # fmt: skip
    return render("entrypoint.c.j2", values)


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


def run_parameters(interface: ModelInterface) -> list[str]:
    """List the parameters of `run`."""
    return [f"struct {interface.prefix}_{kind}* {kind}" for kind in run_structs(interface)]


def run_structs(interface: ModelInterface) -> list[str]:
    """Name the structs that `run` takes, in their order."""
    kinds = [] if interface.io_places else ["inputs", "outputs"]
    kinds += ["workspace_pools"] if interface.external_pools else []
    return [*kinds, "devices"] if interface.devices else kinds


def wrapped(text: str, indent: int) -> str:
    """Break a line of C that is too long behind its commas."""
    glued = re.sub(r"(?<!,) ", "\0", text)  # textwrap breaks at any blank
    lines = textwrap.fill(
        glued, _COLUMNS, initial_indent=" " * indent, subsequent_indent=" " * (indent + 4), break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return lines.replace("\0", " ")


def description_text(values: Mapping[str, object]) -> str:
    """Write a first `description.toml`; `mlf.frontends.scan` gives the values."""
    return render("description.toml.j2", values)
