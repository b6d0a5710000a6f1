"""Run a model of a library or an archive once: on this machine, or on an emulated board."""

from __future__ import annotations

import math
import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlf import codegen, hostrun, library
from mlf.archive import open_archive
from mlf.arrays import array_faults, numpy_dtype, read_arrays
from mlf.boards import FAULT_STATUS, build_firmware, run_firmware
from mlf.errors import InputError, ModelRunError, TensorError, ToolError, reason_of
from mlf.files import scratch_folder
from mlf.linker import LinkRequest, link, plan_link
from mlf.metadata import pool_of, tensor_of
from mlf.module import IoPlace
from mlf.naming import MODEL_NAME, suggest_model_name
from mlf.objects.ar import read_ar
from mlf.toolchain import (
    Compiler,
    Finished,
    own_words,
    run,
    signal_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy.typing as npt

    from mlf.archive import Archive
    from mlf.arrays import Arrays
    from mlf.codegen import ModelInterface
    from mlf.metadata import GoldenTest, Pool, Tensor
    from mlf.module import Module
    from mlf.strictjson import Node
    from mlf.toolchain import Board

DEFAULT_TIMEOUT_S = 600.0  # an emulated core runs some hundred million instructions a second
_IO_STATUS = 98
_HOST_LIBRARY = "model.so"
_BUFFER_MAX_BYTES = 1 << 30  # of a tensor or pool; no microcontroller has that much memory
_FILE_NAME = re.compile(r"[^/\0]+")
_HEXADECIMAL = re.compile(r"(?:[0-9a-f]{2})*")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a model gave: its outputs by name, in call order."""

    model: str
    target: str
    outputs: Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnableModel:
    """A model in a built library, with what is needed to call it."""

    interface: ModelInterface
    member: str
    library: Path
    target: str


def open_library(path: Path, model: str | None) -> RunnableModel:
    """Find a model by the JSON document that `mlf link` wrote; InputError if it is no such document or has no such model."""
    document = library.read_document(path)
    document.required("models")
    found = {_model_name(item): item for item in document.children("models")}
    names = ", ".join(f"`{name}`" for name in sorted(found)) or "none"
    if model is None and len(found) == 1:
        model = next(iter(found))
    if model is None:
        raise InputError(f"holds the models {names}", where=path.name, hint="choose one with --model NAME")
    if model not in found:
        raise InputError(f"has no model `{model}`; it has {names}", where=path.name)
    item = found[model]
    return RunnableModel(
        interface=_interface(item), member=item.text("member"), library=path.parent / document.text("library", _FILE_NAME, "a file name"),
        target=document.text("target"),
    )  # fmt: skip


def _interface(item: Node) -> ModelInterface:
    return codegen.ModelInterface(
        name=_model_name(item),
        inputs=tuple(tensor_of(tensor) for tensor in item.children("inputs")),
        outputs=tuple(tensor_of(tensor) for tensor in item.children("outputs")),
        external_pools=tuple(replace(pool_of(pool), data=_data(pool)) for pool in item.children("pools")),
        workspace_bytes=item.optional_size("workspace_bytes"),
        devices=item.texts("devices"),
        io_places=_io_places(item),
    )


def _io_places(item: Node) -> tuple[IoPlace, ...]:
    """Read where inputs and outputs lie in pools, each within its pool."""
    places = []
    pools = [pool.optional_size("size_bytes") or 0 for pool in item.children("pools")]
    for place in item.children("io_places"):
        pool, offset = place.size("pool"), place.size("offset_bytes")
        if pool >= len(pools) or offset > pools[pool]:
            place.fail(f"`io_places` names byte {offset} of pool {pool}, which is not there")
        places.append(IoPlace(pool=pool, offset_bytes=offset))
    return tuple(places)


def _model_name(item: Node) -> str:
    return item.text("name", MODEL_NAME, "a model's name")


def _data(pool: Node) -> bytes:
    return b"" if pool.is_null("data") else bytes.fromhex(pool.text("data", _HEXADECIMAL, "hexadecimal digits"))


def run_archive(
    request: LinkRequest, inputs: Arrays, *, compiler: Compiler, timeout_s: float = DEFAULT_TIMEOUT_S
) -> RunResult:
    """Link the model of an archive alone and run it; raises what `link` and `run_model` raise."""
    with _linked_alone(request, compiler) as (model, _):
        return run_model(model, inputs, compiler=compiler, timeout_s=timeout_s)


@contextmanager
def _linked_alone(request: LinkRequest, compiler: Compiler) -> Iterator[tuple[RunnableModel, Module]]:
    with scratch_folder() as folder:
        output = folder / "model.a"
        plan = plan_link([_named(request)], output=output, compiler=compiler)
        if len(plan.models) > 1:
            names = ", ".join(f"`{model.name}`" for model in plan.models)
            raise InputError(
                f"has the modules {names}",
                where=str(request.path),
                hint=f"choose one: `{request.path}:{plan.models[0].name}`",
            )
        link(plan)
        yield open_library(library.document_path(output), None), plan.models[0].module


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """How far an output was from its golden data: the largest absolute difference, and how many elements are too far."""

    output: str
    largest: float
    elements: int
    too_far: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A golden test that was run again."""

    name: str
    rtol: float
    atol: float
    deviations: tuple[Deviation, ...]

    @property
    def is_passed(self) -> bool:
        """Tell whether every element is within the tolerance."""
        return not any(item.too_far for item in self.deviations)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """The golden tests of a module, run again."""

    model: str
    target: str
    tests: tuple[Replayed, ...]

    @property
    def is_passed(self) -> bool:
        """Tell whether every test passed."""
        return all(test.is_passed for test in self.tests)


def replay_archive(request: LinkRequest, *, compiler: Compiler, timeout_s: float = DEFAULT_TIMEOUT_S) -> Replay:
    """Run the golden tests in an archive; integers must be equal, floats within the tolerance that each test states.

    Raises InputError where the archive has none or damaged ones, and what `link` and `run_model` raise.
    """
    with _linked_alone(request, compiler) as (model, module), open_archive(request.path) as archive:
        if not module.tests:
            hint = "put some in: `mlf export ARCHIVE -o OUT --golden IN.npz OUT.npz`"
            raise InputError(f"module `{module.name}` has no golden tests", where=module.archive, hint=hint)
        replayed = []
        for test in module.tests:
            inputs, golden = (_golden_arrays(archive, name) for name in (test.inputs, test.outputs))
            faults = array_faults(module.outputs, golden, kind="output")
            if faults:
                raise TensorError("; ".join(faults), where=f"{archive.label}: {test.outputs}")
            outputs = run_model(model, inputs, compiler=compiler, timeout_s=timeout_s).outputs
            replayed.append(_compared(test, outputs, golden))
    return Replay(model=model.interface.name, target=compiler.target.name, tests=tuple(replayed))


def _golden_arrays(archive: Archive, name: str) -> Arrays:
    return read_arrays(BytesIO(archive.read(name)), where=f"{archive.label}: {name}")


def _compared(test: GoldenTest, outputs: Arrays, golden: Arrays) -> Replayed:
    deviations = [
        _deviation(name, array.ravel(), golden[name].ravel(), rtol=test.rtol, atol=test.atol)
        for name, array in outputs.items()
    ]
    return Replayed(name=test.name, rtol=test.rtol, atol=test.atol, deviations=tuple(deviations))


def _deviation(name: str, got: npt.NDArray[Any], expected: npt.NDArray[Any], *, rtol: float, atol: float) -> Deviation:
    """Compare an output with its golden data; NaN is near NaN, an infinity near itself."""
    same = (got == expected) | ((got != got) & (expected != expected))  # noqa: PLR0124  # only NaN is not itself
    wide, wanted = got.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(wide - wanted))
        near = difference <= (atol + rtol * np.abs(wanted) if got.dtype.kind == "f" else 0.0)
    finite = np.where(np.isnan(difference), np.inf, difference)
    return Deviation(
        output=name, largest=float(finite.max(initial=0.0)), elements=got.size, too_far=int((~(near | same)).sum())
    )


def _named(request: LinkRequest) -> LinkRequest:
    """A module of a name that a library could not have can still be run alone."""
    if request.module is None or request.name is not None:
        return request
    return LinkRequest(path=request.path, name=suggest_model_name(request.module), module=request.module)


def run_model(
    model: RunnableModel, inputs: Arrays, *, compiler: Compiler, timeout_s: float = DEFAULT_TIMEOUT_S
) -> RunResult:
    """Run a model once.

    Raises TensorError, which lists every array that does not fit, ModelRunError if the model fails, crashes or does not
    end, and ToolError where a linker or an emulator is missing.
    """
    payloads = check_inputs(model.interface, inputs)
    _check_sizes(model.interface)
    with scratch_folder() as folder:
        for index, payload in enumerate(payloads):
            (folder / f"input.{index}").write_bytes(payload)
        for index, pool in enumerate(model.interface.external_pools):
            if pool.data:
                (folder / f"pool.{index}").write_bytes(pool.data)
        if compiler.target.board is None:
            _run_on_host(model, compiler, folder, timeout_s)
        else:
            _run_on_board(model, compiler, compiler.target.board, folder, timeout_s)
        contents = [(folder / f"output.{index}").read_bytes() for index in range(len(model.interface.outputs))]
    outputs = model.interface.outputs
    arrays = {tensor.name: _array(tensor, content) for tensor, content in zip(outputs, contents, strict=True)}
    return RunResult(model=model.interface.name, target=compiler.target.name, outputs=arrays)


def check_inputs(interface: ModelInterface, inputs: Arrays) -> list[bytes]:
    """Give the bytes of each input in call order; TensorError lists every array that is missing, unknown or does not fit."""
    faults = array_faults(interface.inputs, inputs, kind="input")
    if faults:
        raise TensorError("; ".join(faults), where=f"inputs of {interface.name}")
    return [
        np.ascontiguousarray(inputs[name]).astype(inputs[name].dtype.newbyteorder("<"), copy=False).tobytes()
        for name in (tensor.name for tensor in interface.inputs)
    ]


def _check_sizes(interface: ModelInterface) -> None:
    unknown = [tensor.name for tensor in (*interface.inputs, *interface.outputs) if tensor.size_bytes is None]
    unknown += [pool.name for pool in interface.external_pools if pool.size_bytes is None]
    if unknown:
        raise ModelRunError(
            f"the archive does not tell the size of {', '.join(f'`{name}`' for name in unknown)}", where=interface.name
        )
    items: list[Tensor | Pool] = [*interface.inputs, *interface.outputs, *interface.external_pools]
    large = [
        f"`{item.name}` with {item.size_bytes} bytes" for item in items if (item.size_bytes or 0) > _BUFFER_MAX_BYTES
    ]
    if large:
        raise ModelRunError(f"has {', '.join(large)}; at most {_BUFFER_MAX_BYTES} can be passed", where=interface.name)


def _array(tensor: Tensor, content: bytes) -> npt.NDArray[Any]:
    dtype = numpy_dtype(tensor).newbyteorder("<")
    flat = np.frombuffer(content, dtype if len(content) % dtype.itemsize == 0 else np.uint8).copy()
    fits = tensor.shape is not None and math.prod(tensor.shape) == flat.size
    return flat.reshape(tensor.shape) if fits else flat


def link_host_library(interface: ModelInterface, archive: str, compiler: Compiler, folder: Path) -> str:
    """Make what `mlf.hostrun` loads of a library in `folder`; gives the file's name."""
    wanted = f"-Wl,-u,{interface.run_symbol}"
    compiler.link([wanted, archive], _HOST_LIBRARY, cwd=folder, extra=("-shared", *compiler.libraries()))
    return _HOST_LIBRARY


def host_arguments(interface: ModelInterface) -> list[str]:
    """Give what `mlf.hostrun` is told of a model behind the library's name."""
    groups = [interface.inputs, interface.outputs, interface.external_pools]
    sizes = [_listed(item.size_bytes for item in group) for group in groups]  # type: ignore[attr-defined]
    places = _listed(f"{place.pool}:{place.offset_bytes}" for place in interface.io_places)
    return [interface.run_symbol, *sizes, places, str(len(interface.devices))]


def _run_on_host(model: RunnableModel, compiler: Compiler, folder: Path, timeout_s: float) -> None:
    (folder / "models.a").write_bytes(_library(model))
    library_name = link_host_library(model.interface, "models.a", compiler, folder)
    program = str(Path(hostrun.__file__).resolve())
    argv = [sys.executable, "-I", "-S", program, library_name, *host_arguments(model.interface)]
    try:
        finished = run(argv, cwd=folder, timeout_s=timeout_s, tool="the model")
    except ToolError as error:  # the interpreter is there, so the model did not end
        raise ModelRunError(error.message, where=model.interface.name) from error
    _check_status(model.interface.name, finished)


def _listed(items: Iterable[object]) -> str:
    return ",".join(map(str, items)) or "-"


def _library(model: RunnableModel) -> bytes:
    try:
        data = model.library.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {reason_of(error)}", where=model.library.name) from error
    if model.member not in dict(read_ar(data, model.library.name)):
        raise InputError(f"has no member `{model.member}`, which its document names", where=model.library.name)
    return data


def _run_on_board(model: RunnableModel, compiler: Compiler, board: Board, folder: Path, timeout_s: float) -> None:
    statuses = {"failed": hostrun.FAILED_STATUS, "overrun": hostrun.OVERRUN_STATUS, "io": _IO_STATUS}
    source = codegen.board_runner(model.interface, statuses)
    (folder / "main.c").write_text(source, encoding="utf-8")
    (folder / model.interface.header).write_text(codegen.model_header(model.interface), encoding="utf-8")
    (folder / "models.a").write_bytes(_library(model))
    build_firmware(compiler, [folder / "main.c"], ["models.a"], "firmware.elf", folder=folder)
    finished = run_firmware(board, "firmware.elf", folder=folder, timeout_s=timeout_s, model=model.interface.name)
    if finished.status == FAULT_STATUS:
        raise ModelRunError(
            f"the processor faulted: {finished.stdout.strip() or own_words(finished)}", where=model.interface.name
        )
    _check_status(model.interface.name, finished)


def _check_status(name: str, finished: Finished) -> None:
    if finished.status == hostrun.OVERRUN_STATUS:
        raise ModelRunError("wrote past the end of an output or pool", where=name)
    if finished.status == hostrun.FAILED_STATUS:
        raise ModelRunError("the model reported failure", where=name)
    if finished.status < 0:
        raise ModelRunError(f"the model crashed ({signal_name(-finished.status)})", where=name)
    if finished.status != 0:
        raise ModelRunError(f"the run ended with status {finished.status}:\n{own_words(finished)}", where=name)
