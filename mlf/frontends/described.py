"""What a description says, checked against the code it names, as an archive of version 8 that is yet to be written.

Code that has no entrypoint of TVM's gets one in a source of its own, `<model>_lib0.c`.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from mlf import codegen, csource, layout, manifest
from mlf.archive import METADATA_NAME
from mlf.converter import ArchiveDraft, Note
from mlf.errors import InputError, ObjectError, reason_of
from mlf.frontends.declarations import functions, number_macros, plain_code
from mlf.frontends.description import call_names, entrypoint_names
from mlf.frontends.headers import CodeFile, place_headers
from mlf.frontends.table import listed
from mlf.metadata import LATEST_VERSION, Code, DeclaredFacts, ObjectCode, declared_document, identity_of
from mlf.naming import find_clashes, header_name, mangle
from mlf.pack import member_of_bytes
from mlf.strictjson import load_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlf.frontends.declarations import CFunction, CParameter
    from mlf.frontends.description import Description
    from mlf.metadata import Descriptor, Tensor
    from mlf.objects.elf import ElfObject
    from mlf.pack import PackedMember

_ALLOCATOR = "TVMBackendAllocWorkspace"
_CPU = 1
_TARGET = "c"
# Elements that C99 has a type for, so that a declaration must name it.
_PLAIN_DTYPES = frozenset(csource.C_TYPES.values()) - {"float16"}


def draft_described(description: Description) -> ArchiveDraft:
    """Decide what the archive of a description is; raises InputError, which lists all faults, and TensorError."""
    return _Drafter(description).draft()


class _Drafter:
    """Makes an archive of what one description names, and gathers what is wrong with it."""

    def __init__(self, description: Description) -> None:
        self.description = description
        self.name = description.name
        self.faults: list[str] = []
        self.members: list[PackedMember] = []
        self.described: list[Descriptor] = []
        self.notes: list[Note] = []

    def draft(self) -> ArchiveDraft:
        """Decide on everything; raises InputError with all faults."""
        description = self.description
        self.sources, self.headers = self._read(description.sources), self._read(description.headers)
        self.objects = self._read_objects()
        self.names, faults = place_headers(
            self.sources, self.headers, directories=description.include_directories, folder=description.folder
        )
        self.faults += faults
        self.interface = codegen.ModelInterface(
            name=self.name, inputs=description.inputs, outputs=description.outputs,
            external_pools=tuple(pool for pool in description.pools if not pool.is_internal), workspace_bytes=self._workspace_bytes(),
        )  # fmt: skip
        self._check_entry()
        self._check_names()
        if self.faults:
            raise InputError(listed(self.faults), where=description.label)
        self._add_code()
        self._add_parameters()
        text = manifest.render_version_8({self.name: self._document()}, self.described)
        document: Any = load_json(text.decode(), where=METADATA_NAME)
        return ArchiveDraft(
            version=LATEST_VERSION, metadata=text, members=tuple(self.members), modules=(self.name,), identity=identity_of(document),
            notes=tuple(self.notes),
        )  # fmt: skip

    def _content(self, path: str) -> bytes:
        try:
            return (self.description.folder / path).read_bytes()
        except OSError as error:
            self.faults.append(f"{path} cannot be read: {reason_of(error)}")
            return b""

    def _read(self, paths: Sequence[str]) -> tuple[CodeFile, ...]:
        return tuple(CodeFile(path=path, text=self._text(path)) for path in paths)

    def _text(self, path: str) -> str:
        data = self._content(path)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            self.faults.append(f"{path} is not UTF-8 at byte {error.start}")
            return data.decode("utf-8", "replace")

    def _read_objects(self) -> tuple[ElfObject, ...]:
        """Read the objects, those in libraries too, which must all be for one machine."""
        found = [item for path in self.description.objects for item in self._objects_of(path)]
        machines: dict[ObjectCode, str] = {}
        for item in found:
            machines.setdefault(_machine(item), item.label)
        if len(machines) > 1:
            said = "; ".join(f"{path} is for {_machine_text(machine)}" for machine, path in machines.items())
            self.faults.append(f"the objects are for different machines: {said}")
        return tuple(found)

    def _objects_of(self, path: str) -> tuple[ElfObject, ...]:
        from mlf.objects.ar import objects_of  # noqa: PLC0415  # numpy

        try:
            return objects_of(self._content(path), path)
        except ObjectError as error:
            self.faults.append(str(error))
            return ()

    # The entrypoint.

    def _check_entry(self) -> None:
        """Note what the code says otherwise than the description."""
        description, entry = self.description, self.description.entry
        run = entrypoint_names(self.name)[description.interface]
        is_there = {name: self._defines(name) for name in (entry.function, run)}
        if not is_there[entry.function]:
            self.faults.append(f"nothing in the code defines `{entry.function}`{self._mangled(entry.function)}")
        elif description.is_called and is_there[run]:
            self.faults.append(
                f"the code defines `{run}` itself: name it as `function` of [entry], without `arguments`"
            )
        if description.is_called:
            self._check_language()
            for function in self._declarations(entry.function):
                self.faults += _differences(function, description)

    def _defines(self, name: str) -> bool:
        """Tell whether the code may define a function; macros can hide how."""
        texts = [file.text for file in (*self.sources, *self.headers)]
        symbols = {symbol for item in self.objects for symbol in item.symbols.defined_names()}
        return name in symbols or (
            bool(self.sources) and any(name in text and re.search(rf"\b{name}\b", text) for text in texts)
        )

    def _mangled(self, function: str) -> str:
        symbols = (symbol for item in self.objects for symbol in item.symbols.defined_names())
        mangled = next((symbol for symbol in symbols if symbol.startswith(f"_Z{len(function)}{function}")), None)
        return f'; the objects have the C++ function `{mangled}`, which must be `extern "C"`' if mangled else ""

    def _check_language(self) -> None:
        """A C++ function has another name than C gives it, unless it is declared so."""
        name = self.description.entry.function
        owners = [file for file in self.sources if name in file.text]
        if not owners or any(file.path.endswith(".c") for file in owners):
            return
        if not any('extern "C"' in file.text for file in (*self.sources, *self.headers)):
            self.faults.append(f'`{name}` is C++: declare it `extern "C"` in {owners[0].path}')

    def _declarations(self, name: str) -> Iterator[CFunction]:
        macros = {key: value for file in (*self.sources, *self.headers) for key, value in number_macros(file.text).items()}  # fmt: skip
        macros |= {key: int(value) for key, value in self.description.definitions if value.isdecimal()}
        for file in (*self.sources, *self.headers):
            if name in file.text:
                yield from (item for item in functions(file.text, macros) if item.name == name)

    def _check_names(self) -> None:
        """Note macros and symbols that would be made twice, and headers that the archive has itself."""
        owner = self.description.label
        self.faults += find_clashes([codegen.generated_names(self.interface, owner=owner)])
        header = header_name(self.name)
        own = next((path for path, name in self.names.items() if name == header), None)
        if own and (self.description.is_called or self.description.interface == "packed"):
            self.faults.append(f"{own} would be the header {header}, which is that of the generated entrypoint")

    # Memory.

    def _workspace_bytes(self) -> int:
        """Sum the pools and what the code allocates; note where nothing tells how much that is."""
        pools = sum(pool.size_bytes or 0 for pool in self.description.pools if pool.kind == "workspace")
        return pools + self._allocated_bytes()

    def _allocated_bytes(self) -> int:
        said = self.description.allocates_bytes
        asked = [
            file.path for file in self.sources if _ALLOCATOR in file.text and f"{_ALLOCATOR}(" in plain_code(file.text)
        ]
        known = {key: value for file in self.sources for key, value in csource.functions(file.text).items()}
        found = csource.allocator_need(known, self.description.entry.function) if asked else 0
        asked_by_objects = [item.label for item in self.objects if _ALLOCATOR in item.symbols.undefined_names()]
        if said is not None:
            return said
        if asked_by_objects or found is None:
            what = " and ".join([*asked, *asked_by_objects])
            self.faults.append(f"[code] `allocates_bytes` is missing: {what} calls {_ALLOCATOR}, and nothing tells for how much")  # fmt: skip
        return found or 0

    # Members and metadata.

    def _add(self, path: str, content: bytes, role: str) -> None:
        member = member_of_bytes(path, content)
        self.members.append(member)
        self.described.append(manifest.describe_member(member, role=role, module=self.name))

    def _add_code(self) -> None:
        if self.description.is_called:
            self._add(f"{layout.SOURCE_DIRECTORY}{self.name}_lib0.c", self._entrypoint().encode(), "source")
        first = 1 if self.description.is_called else 0  # TVM's number for the file of the entrypoint
        for number, file in enumerate(self.sources, first):
            suffix = file.path[file.path.rindex(".") :].replace(".cxx", ".cpp")
            self._add(f"{layout.SOURCE_DIRECTORY}{self.name}_lib{number}{suffix}", file.text.encode(), "source")
        for number, path in enumerate(self.description.objects, 1):
            suffix = ".a" if path.endswith(".a") else ".o"
            self._add(f"{layout.OBJECT_DIRECTORY}{self.name}_lib{number}{suffix}", self._content(path), "object")
        for file in self.headers:
            self._add(layout.INCLUDE_DIRECTORY + self.names[file.path], file.text.encode(), "include")
        header = header_name(self.name)
        if self.description.interface == "c" and header not in self.names.values():
            self._add(layout.INCLUDE_DIRECTORY + header, codegen.model_header(self.interface).encode(), "include")

    def _entrypoint(self) -> str:
        entry = call_names(self.description)
        buffers = tuple(pool for pool in self.description.pools if pool.is_internal)
        call = codegen.ForeignCall(
            function=entry.function, arguments=entry.arguments, gives_status=entry.returns == "status", buffers=buffers,
            header=self.names[entry.header] if entry.header else None,
        )  # fmt: skip
        is_packed = self.description.interface == "packed"
        return codegen.entrypoint_source(self.interface, call, main=self._main(), is_packed=is_packed)

    def _main(self) -> str:
        """Name the generated main as TVM does, or did before 2022 where the code has a function of that name."""
        name = mangle(self.name, "__tvm_main__")
        return mangle(self.name, "run_model") if self._defines(name) else name

    def _add_parameters(self) -> None:
        """Write the parameters as TVM does, also if there are none: consumers of version 7 look for the file."""
        from mlf import params  # noqa: PLC0415  # numpy

        path = self.description.parameters
        if path is None:
            data = params.render_params([])
        elif path.endswith(".params"):
            data = params.render_params(params.parse_params(self._content(path), where=path))
        else:
            from mlf.arrays import load_arrays  # noqa: PLC0415  # numpy

            arrays = load_arrays(self.description.folder / path)
            data = params.render_params([params.param_from_array(name, array) for name, array in arrays.items()])
        self._add(f"{layout.PARAMETER_DIRECTORY}{self.name}.params", data, "parameters")

    def _document(self) -> dict[str, Any]:
        description = self.description
        tensors = {"inputs": description.inputs, "outputs": description.outputs}
        main: dict[str, Any] = {
            "constants_size_bytes": sum(csource.constant_bytes(file.text) for file in self.sources),
            "device": _CPU,
            "io_size_bytes": sum(tensor.size_bytes or 0 for group in tensors.values() for tensor in group),
            "workspace_size_bytes": self.interface.workspace_bytes,
        }
        for kind, group in tensors.items():
            main[kind] = {tensor.name: {"dtype": tensor.dtype, "size": tensor.size_bytes} for tensor in group}
        return {
            "executors": ["aot"],
            "memory": {"functions": {"main": [main], "operator_functions": []}},
            "model_name": self.name,
            "style": "full-model",
            "target": [_TARGET],
            **declared_document(self._facts()),
        }

    def _facts(self) -> DeclaredFacts:
        description = self.description
        return DeclaredFacts(
            interface=description.interface, operators=description.operators, code=self._code(), entrypoints=self._entrypoints(),
            inputs=description.inputs, outputs=description.outputs, pools=description.pools, tests=(),
        )  # fmt: skip

    def _code(self) -> Code:
        names = [member.name for member in self.members if member.name.startswith(layout.SOURCE_DIRECTORY)]
        language = "object" if not names else "c++" if any(not name.endswith(".c") for name in names) else "c"
        machine = _machine(self.objects[0]) if self.objects else None
        if machine:
            self.notes.append(Note(kind="inferred", place=f"{self.name}: code.object", text=_machine_text(machine)))
        return Code(language=language, definitions=self.description.definitions, object=machine)

    def _entrypoints(self) -> dict[str, str]:
        description = self.description
        role = "run" if description.interface == "c" else "tvm_module_main"
        if not description.is_called:
            main = mangle(self.name, "__tvm_main__")
            return {**({"main": main} if self._defines(main) else {}), role: description.entry.function}
        return {"main": self._main(), role: entrypoint_names(self.name)[description.interface]}


def _machine(item: ElfObject) -> ObjectCode:
    from mlf.objects.abi import object_abi  # noqa: PLC0415  # numpy

    abi, float_abi = object_abi(item)
    return ObjectCode(
        machine=item.machine.name, bits=64 if item.machine.is_64 else 32, byte_order="big" if item.machine.is_big_endian else "little",
        abi=abi, float_abi=float_abi,
    )  # fmt: skip


def _machine_text(machine: ObjectCode) -> str:
    parts = [f"{machine.bits}-bit {machine.byte_order}-endian {machine.machine}", machine.abi, machine.float_abi and f"{machine.float_abi} floats"]  # fmt: skip
    return ", ".join(part for part in parts if part)


def _differences(function: CFunction, description: Description) -> Iterator[str]:
    """List where the code declares the entry otherwise than the description says."""
    entry = description.entry
    if len(function.parameters) != len(entry.arguments):
        yield f"`{entry.function}` takes {len(function.parameters)} arguments, [entry] `arguments` has {len(entry.arguments)}"  # fmt: skip
        return
    returns = {"void": "void", "status": "status"}.get(function.returns)
    if returns and returns != entry.returns:
        yield f'`{entry.function}` returns {"nothing" if returns == "void" else "an int"}: [entry] `returns` must be `{returns}`'  # fmt: skip
    for parameter, argument in zip(function.parameters, entry.arguments, strict=True):
        if parameter.is_pointer == isinstance(argument, int):
            what = "a pointer" if parameter.is_pointer else "no pointer"
            yield f"`{entry.function}` takes {what} where [entry] `arguments` has `{argument}`"
            continue
        for tensor in (*description.inputs, *description.outputs):
            if tensor.name == argument:
                yield from _tensor_differences(
                    entry.function, parameter, tensor, is_output=tensor in description.outputs
                )


def _tensor_differences(function: str, parameter: CParameter, tensor: Tensor, *, is_output: bool) -> Iterator[str]:
    if parameter.dtype and tensor.dtype in _PLAIN_DTYPES and parameter.dtype != tensor.dtype:
        yield f"`{tensor.name}` is {tensor.dtype}, `{function}` takes {parameter.dtype}"
    elements = math.prod(tensor.shape or ())
    if parameter.elements is not None and parameter.elements != elements:
        yield f"`{tensor.name}` has {elements} elements, `{function}` takes {parameter.elements}"
    if is_output and parameter.is_const:
        yield f"`{tensor.name}` is an output, `{function}` takes it as constant"
