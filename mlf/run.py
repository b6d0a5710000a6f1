"""Run a model of a library or an archive once: on this machine, or on an emulated board."""

from __future__ import annotations

import io
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlf import codegen, hostrun, library
from mlf.archive import load_json
from mlf.errors import InputError, ModelRunError, TensorError, ToolError
from mlf.link import LinkRequest, link, plan_link
from mlf.module import Pool, Tensor
from mlf.naming import suggest_model_name
from mlf.objects.ar import read_ar
from mlf.toolchain import RUNTIME, Compiler, Finished, find_compiler, find_target, own_words, run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from mlf.codegen import ModelInterface
    from mlf.toolchain import Board

    Arrays = Mapping[str, npt.NDArray[Any]]

DEFAULT_TIMEOUT_S = 600.0  # an emulated core runs some hundred million instructions a second
_IO_STATUS = 98
_FAILED_STATUS = 97
_FAULT_STATUS = 99  # BOARD_FAULT_STATUS of board.h
_DOCUMENT_MAX_BYTES = 64 << 20
# Types that numpy lacks travel as their raw bits.
_RAW_DTYPES = {"bfloat16": "uint16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnableModel:
    """A model in a built library, with what is needed to call it."""

    interface: ModelInterface
    member: str
    library: Path
    target: str


def open_library(path: Path, model: str | None) -> RunnableModel:
    """Find a model by the JSON document that `mlf link` wrote; InputError if it is no such document or has no such model."""
    document = _read_document(path)
    found = {item["name"]: item for item in document["models"]}
    names = ", ".join(f"`{name}`" for name in sorted(found))
    if model is None and len(found) == 1:
        model = next(iter(found))
    if model is None:
        raise InputError(f"holds the models {names}", where=path.name, hint="choose one with --model NAME")
    if model not in found:
        raise InputError(f"has no model `{model}`; it has {names}", where=path.name)
    item = found[model]
    return RunnableModel(
        interface=_interface(item), member=item["member"], library=path.parent / document["library"], target=document["target"]
    )  # fmt: skip


def _read_document(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_DOCUMENT_MAX_BYTES + 1)
        text = data.decode()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=path.name) from error
    except UnicodeDecodeError as error:
        raise InputError("is not UTF-8", where=path.name) from error
    document = load_json(text, where=path.name) if len(data) <= _DOCUMENT_MAX_BYTES else None
    if not isinstance(document, dict) or document.get("schema") != library.SCHEMA:
        raise InputError(f"is not the document of a library: expected the schema `{library.SCHEMA}`", where=path.name)
    return document


def _interface(item: Mapping[str, Any]) -> ModelInterface:
    return codegen.ModelInterface(
        name=item["name"],
        inputs=tuple(_tensor(tensor) for tensor in item["inputs"]),
        outputs=tuple(_tensor(tensor) for tensor in item["outputs"]),
        external_pools=tuple(_pool(pool) for pool in item["pools"]),
        workspace_bytes=item["workspace_bytes"],
    )


def _tensor(item: Mapping[str, Any]) -> Tensor:
    shape = tuple(item["shape"]) if item["shape"] is not None else None
    return Tensor(
        name=item["name"], c_name=item["c_name"], dtype=item["dtype"], shape=shape, size_bytes=item["size_bytes"]
    )


def _pool(item: Mapping[str, Any]) -> Pool:
    return Pool(
        name=item["name"], kind=item["kind"], size_bytes=item["size_bytes"], alignment_bytes=item["alignment_bytes"], is_internal=False,
        data=bytes.fromhex(item["data"] or ""),
    )  # fmt: skip


def run_archive(
    request: LinkRequest, inputs: Arrays, *, compiler: Compiler, timeout_s: float = DEFAULT_TIMEOUT_S
) -> dict[str, npt.NDArray[Any]]:
    """Link the model of an archive alone and run it; raises what `link` and `run_model` raise."""
    with tempfile.TemporaryDirectory(prefix="mlf-") as scratch:
        output = Path(scratch).resolve() / "model.a"
        plan = plan_link([_named(request)], output=output, compiler=compiler)
        if len(plan.models) > 1:
            names = ", ".join(f"`{model.name}`" for model in plan.models)
            raise InputError(
                f"has the modules {names}",
                where=str(request.path),
                hint=f"choose one: `{request.path}:{plan.models[0].name}`",
            )
        link(plan)
        model = open_library(library.document_path(output), None)
        return run_model(model, inputs, compiler=compiler, timeout_s=timeout_s)


def _named(request: LinkRequest) -> LinkRequest:
    """A module of a name that a library could not have can still be run alone."""
    if request.module is None or request.name is not None:
        return request
    return LinkRequest(path=request.path, name=suggest_model_name(request.module), module=request.module)


def run_model(
    model: RunnableModel, inputs: Arrays, *, compiler: Compiler, timeout_s: float = DEFAULT_TIMEOUT_S
) -> dict[str, npt.NDArray[Any]]:
    """Run a model once and give its outputs by name.

    Raises TensorError, which lists every array that does not fit, ModelRunError if the model fails, crashes or does not
    end, and ToolError where a linker or an emulator is missing.
    """
    payloads = check_inputs(model.interface, inputs)
    _check_sizes(model.interface)
    with tempfile.TemporaryDirectory(prefix="mlf-") as scratch:
        folder = Path(scratch).resolve()
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
    return {
        tensor.name: _array(tensor, content) for tensor, content in zip(model.interface.outputs, contents, strict=True)
    }


def compiler_for(target: str, *, cc: str | None = None, cflags: Sequence[str] = ()) -> Compiler:
    """Find the compiler that links programs for a target."""
    return find_compiler(find_target(target), cc=cc, cflags=cflags)


def check_inputs(interface: ModelInterface, inputs: Arrays) -> list[bytes]:
    """Give the bytes of each input in call order; TensorError lists every array that is missing, unknown or does not fit."""
    names = [tensor.name for tensor in interface.inputs]
    expected = ", ".join(f"`{name}`" for name in names) or "none"
    faults = [f"there is no array `{name}`" for name in names if name not in inputs]
    faults += [f"`{name}` is no input; the inputs are {expected}" for name in sorted(inputs) if name not in names]
    for tensor in interface.inputs:
        if tensor.name in inputs:
            faults += _faults(tensor, inputs[tensor.name])
    if faults:
        raise TensorError("; ".join(faults), where=f"inputs of {interface.name}")
    return [
        np.ascontiguousarray(inputs[name]).astype(inputs[name].dtype.newbyteorder("<"), copy=False).tobytes()
        for name in names
    ]


def _faults(tensor: Tensor, array: npt.NDArray[Any]) -> list[str]:
    expected = numpy_dtype(tensor)
    if array.dtype != expected:
        return [f"`{tensor.name}` has dtype {array.dtype}, expected {tensor.dtype or expected}"]
    if tensor.shape is not None and array.shape != tensor.shape:
        return [f"`{tensor.name}` has shape {_shape(array.shape)}, expected {_shape(tensor.shape)}"]
    if tensor.size_bytes is not None and array.nbytes != tensor.size_bytes:
        return [f"`{tensor.name}` has {array.nbytes} bytes, expected {tensor.size_bytes}"]
    return []


def _shape(shape: Sequence[int]) -> str:
    return "x".join(str(extent) for extent in shape) or "scalar"


def numpy_dtype(tensor: Tensor) -> np.dtype[Any]:
    """Give the numpy type of a tensor's elements; types that numpy lacks and unknown ones are raw bits."""
    name = _RAW_DTYPES.get(tensor.dtype or "", tensor.dtype or "uint8")
    try:
        return np.dtype(name)
    except TypeError:
        return np.dtype("uint8")


def _check_sizes(interface: ModelInterface) -> None:
    unknown = [tensor.name for tensor in (*interface.inputs, *interface.outputs) if tensor.size_bytes is None]
    unknown += [pool.name for pool in interface.external_pools if pool.size_bytes is None]
    if unknown:
        raise ModelRunError(
            f"the archive does not tell the size of {', '.join(f'`{name}`' for name in unknown)}", where=interface.name
        )


def _array(tensor: Tensor, content: bytes) -> npt.NDArray[Any]:
    flat = np.frombuffer(content, numpy_dtype(tensor).newbyteorder("<")).copy()
    return flat.reshape(tensor.shape) if tensor.shape is not None else flat


def _run_on_host(model: RunnableModel, compiler: Compiler, folder: Path, timeout_s: float) -> None:
    (folder / "model.o").write_bytes(_member(model))
    compiler.link(["model.o"], "model.so", cwd=folder, extra=("-shared", *compiler.libraries()))
    interface = model.interface
    groups = [interface.inputs, interface.outputs, interface.external_pools]
    sizes = [",".join(str(item.size_bytes) for item in group) or "-" for group in groups]  # type: ignore[attr-defined]
    argv = [sys.executable, "-I", "-S", str(Path(hostrun.__file__).resolve()), "model.so", interface.run_symbol, *sizes]
    finished = run(argv, cwd=folder, timeout_s=timeout_s, tool=f"the model {interface.name}")
    if finished.status == hostrun.OVERRUN_STATUS:
        raise ModelRunError("wrote past the end of an output or pool", where=interface.name)
    _check_status(interface.name, finished, failed=hostrun.FAILED_STATUS)


def _member(model: RunnableModel) -> bytes:
    try:
        data = model.library.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=model.library.name) from error
    members = dict(read_ar(data, model.library.name))
    if model.member not in members:
        raise InputError(f"has no member `{model.member}`, which its document names", where=model.library.name)
    return bytes(members[model.member])


def _run_on_board(model: RunnableModel, compiler: Compiler, board: Board, folder: Path, timeout_s: float) -> None:
    source = codegen.board_runner(model.interface, io_status=_IO_STATUS, failed_status=_FAILED_STATUS)
    (folder / "main.c").write_text(source, encoding="utf-8")
    (folder / model.interface.header).write_text(codegen.model_header(model.interface), encoding="utf-8")
    (folder / "model.o").write_bytes(_member(model))
    build_firmware(compiler, [folder / "main.c"], ["model.o"], "firmware.elf", folder=folder)
    finished = run_firmware(board, "firmware.elf", folder=folder, timeout_s=timeout_s)
    if finished.status == _FAULT_STATUS:
        raise ModelRunError(
            f"the processor faulted: {finished.stdout.strip() or own_words(finished)}", where=model.interface.name
        )
    _check_status(model.interface.name, finished, failed=_FAILED_STATUS)


def build_firmware(
    compiler: Compiler,
    sources: Sequence[Path],
    objects: Sequence[str],
    output: str,
    *,
    folder: Path,
    extra: Sequence[str] = (),
) -> None:
    """Compile `sources` with the start-up code of the target's board and link them with `objects` of `folder`.

    `output` is relative to `folder`; `extra` are more arguments for the compiler. Raises ToolError.
    """
    start = RUNTIME / "board"
    board = compiler.target.board
    if board is None:
        raise ToolError(f"{compiler.target.name} has no board")
    built = []
    for source in [*sources, *(start / name for name in board.sources)]:
        built.append(f"{source.name}.o")
        # -fno-builtin: the start-up code brings its own memory functions, and no others may creep in.
        compiler.compile(str(source), built[-1], cwd=folder, extra=("-I.", f"-I{start}", "-fno-builtin", *extra))
    (folder / "board_memory.ld").write_text(board.linker_script(), encoding="utf-8")
    arguments = ("-nostartfiles", "-T", "board_memory.ld", "-Wl,--gc-sections", *compiler.libraries())
    compiler.link([*built, *objects], output, cwd=folder, extra=arguments)


def run_firmware(board: Board, firmware: str, *, folder: Path, timeout_s: float) -> Finished:
    """Start a program on the emulated board with `folder` as its working directory."""
    argv = [
        board.emulator, "-M", board.machine, *board.emulator_arguments, "-display", "none", "-monitor", "none", "-serial", "none",
        "-chardev", "stdio,id=board,signal=off", "-semihosting-config", "enable=on,target=native,chardev=board", "-kernel", firmware,
    ]  # fmt: skip
    try:
        return run(argv, cwd=folder, timeout_s=timeout_s)
    except ToolError as error:
        package = "qemu-system-arm" if board.emulator == "qemu-system-arm" else "qemu-system-misc"
        raise ToolError(str(error), hint=f"install the package {package}") from error


def _check_status(name: str, finished: Finished, *, failed: int) -> None:
    if finished.status == failed:
        raise ModelRunError("the model reported failure", where=name)
    if finished.status < 0:
        raise ModelRunError(f"the model crashed (signal {-finished.status})", where=name)
    if finished.status != 0:
        raise ModelRunError(f"the run ended with status {finished.status}:\n{own_words(finished)}", where=name)


def load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read an `.npz` file; TensorError if it is none or holds Python objects."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except OSError as error:
        raise TensorError(f"cannot be read: {error.strerror or 'not an .npz file'}", where=path.name) from error
    except (ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile, NotImplementedError) as error:
        raise TensorError(f"is not an .npz file of arrays: {error}", where=path.name) from error


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write an `.npz` file whose bytes depend on the arrays alone; OutputError if it cannot be written."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in sorted(arrays.items()):
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy"), content.getvalue()
            )  # a ZipInfo of its own has the date 1980
    library.replace_files({path: buffer.getvalue()})
