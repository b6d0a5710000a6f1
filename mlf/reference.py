"""Checks what was made of a trained model against the runtime that is the judge of its file.

onnxruntime judges `.onnx`, the reference kernels of LiteRT judge `.tflite`, PyTorch judges `.pt2`; each is optional. The
generated C runs on this machine, as `mlf run` runs it, on all inputs in one process: what one call leaves in the arena is
there in the next, as on a board.
"""

from __future__ import annotations

import math
import sys
import warnings
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlf import hostrun, library
from mlf.arrays import array_faults, numpy_dtype
from mlf.errors import ModelRunError, TensorError, ToolError
from mlf.files import scratch_folder
from mlf.linker import LinkRequest, link, plan_link
from mlf.naming import suggest_model_name
from mlf.runner import DEFAULT_TIMEOUT_S, check_inputs, host_arguments, link_host_library, open_library
from mlf.silence import silenced
from mlf.toolchain import compiler_for, own_words, run, signal_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from mlf.arrays import Arrays
    from mlf.metadata import Tensor
    from mlf.runner import RunnableModel
    from mlf.toolchain import Compiler

    Run = Callable[[Arrays], Arrays]

DEFAULT_RELATIVE = 1e-5  # of float32: what sums in another order differ by, some layers deep
# Two kernels are two samples of the same rounding; ours is a third, which may be farther from the first.
_OWN_FACTOR = 4
_FATAL = 4  # the severity of onnxruntime's log below which nothing is said
# Integers of this size hold quantised values, whose rounding may differ; larger ones hold indices and counts.
_QUANTISED_BYTES = 2
# Loads `mlf.hostrun` by itself and runs it in one folder after another, which the second argument lists.
_RUN_EACH = """
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("hostrun", sys.argv[1])
hostrun = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hostrun)
for folder in sys.argv[2].split(","):
    os.chdir(folder)
    status = hostrun.main(sys.argv[3:])
    os.chdir("..")
    if status:
        sys.exit(status)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A runtime that judges one model file.

    `run` takes arrays by the names of the inputs (or, where the names are others, in their order) and gives the outputs by
    name in the model's order; ModelRunError if the runtime cannot. `units` is by how much an integer of up to 16 bits may
    differ from what the runtime computes: its own rounding may be another. `again` does what `run` does with other kernels
    that are as right, where the runtime has such.
    """

    name: str
    version: str
    units: int
    run: Run = field(repr=False)
    again: Run | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far an output may be from the reference.

    A floating-point element may differ by `relative` of the largest magnitude that its output has on any of the inputs, and
    always by two units in the last place of that magnitude. An integer of 8 or 16 bits may differ by `units`; bools and
    wider integers must be equal.
    """

    relative: float = DEFAULT_RELATIVE
    units: int = 0

    def limit(self, dtype: np.dtype[Any], magnitude: float) -> float:
        """Give the largest difference that is allowed for an output of this type and magnitude."""
        if dtype.kind == "f":
            return max(self.relative, 2 * float(np.finfo(dtype).eps)) * magnitude
        return self.units if dtype.kind in "iu" and dtype.itemsize <= _QUANTISED_BYTES else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDeviation:
    """How far an output was from the reference, over all inputs.

    `largest` is the largest difference, for integers in units; infinite where only one of two is NaN or infinite, or both
    are infinite with two signs. `magnitude` is the largest finite magnitude that the reference gave, `limit` what was allowed.
    `own` is by how much the reference differs from itself with other kernels, which is only asked where it matters.
    """

    output: str
    dtype: str
    elements: int
    unequal: int
    largest: float
    magnitude: float
    limit: float
    own: float = 0.0

    @property
    def relative(self) -> float:
        """The largest difference as a part of the largest magnitude."""
        if self.largest == 0:
            return 0.0
        return self.largest / self.magnitude if self.magnitude else math.inf

    @property
    def unequal_share(self) -> float:
        """The part of the elements that are not equal."""
        return self.unequal / self.elements if self.elements else 0.0

    @property
    def is_good(self) -> bool:
        """Tell whether no element is too far."""
        return self.largest <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class BirthCheck:
    """What the reference said of generated C.

    `inputs` counts those that it could run; if there is none, nothing was judged and `notes` tell why. `golden_inputs` are
    the first of them. `golden_outputs` are what belongs to them: of floats what the reference gave, of integers, which are
    compared exactly when they are replayed, what the generated C gave. A replay allows `golden_atol` for floats.
    """

    reference: str
    inputs: int
    deviations: tuple[OutputDeviation, ...]
    notes: tuple[str, ...]
    golden_inputs: Arrays
    golden_outputs: Arrays
    golden_atol: float

    @property
    def is_judged(self) -> bool:
        """Tell whether the reference could run the model."""
        return self.inputs > 0

    @property
    def is_good(self) -> bool:
        """Tell whether no output was too far from the reference."""
        return all(item.is_good for item in self.deviations)


def find_reference(model: Path) -> Reference | None:
    """Give the runtime that can judge a model file, None if it is not installed or no runtime reads such files.

    The file is read when it is run for the first time.
    """
    found = _RUNTIMES.get(model.suffix.lower())
    if found is None:
        return None
    name, package, units, open_model, open_again = found
    try:
        with silenced():
            version = str(import_module(package).__version__)
    except ImportError:
        return None
    again = _lazy(name, model, open_again) if open_again else None
    return Reference(name=name, version=version, units=units, run=_lazy(name, model, open_model), again=again)


def _lazy(name: str, model: Path, open_model: Callable[[Path], Run]) -> Run:
    """Give a function that opens the model when it runs for the first time, and whose errors are ours."""
    opened = cache(lambda: open_model(model))

    def run_reference(inputs: Arrays) -> Arrays:
        try:
            with silenced(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return opened()(inputs)
        except Exception as error:  # the runtimes raise classes of their own, which have no base but this
            words = str(error).strip().replace(str(model), model.name).partition("\n")[0]
            raise ModelRunError(f"{name} cannot run it: {words or type(error).__name__}", where=model.name) from error

    return run_reference


def _in_order(inputs: Arrays, names: Sequence[str]) -> list[npt.NDArray[Any]]:
    """Give the arrays in the order of the runtime's names; where theirs are others, their own order is the model's."""
    if len(inputs) != len(names):
        raise ValueError(f"it has {len(names)} inputs, not {len(inputs)}")
    return [inputs[name] for name in names] if set(names) == set(inputs) else list(inputs.values())


def _open_onnx(model: Path, *, is_fused: bool = False) -> Run:
    import onnxruntime  # noqa: PLC0415  # optional

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    if not is_fused:  # operators as the standard defines them: fused kernels round elsewhere
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Without it, products of 8-bit integers saturate on some processors.
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    outputs = [item.name for item in session.get_outputs()]

    def run_onnx(inputs: Arrays) -> Arrays:
        results = session.run(outputs, dict(zip(names, _in_order(inputs, names), strict=True)))
        return {name: np.asarray(result) for name, result in zip(outputs, results, strict=True)}

    return run_onnx


def _open_litert(model: Path) -> Run:
    from ai_edge_litert import interpreter  # noqa: PLC0415  # optional

    kernels = interpreter.OpResolverType.BUILTIN_REF
    session = interpreter.Interpreter(model_path=str(model), num_threads=1, experimental_op_resolver_type=kernels)
    session.allocate_tensors()
    places, results = session.get_input_details(), session.get_output_details()

    def run_litert(inputs: Arrays) -> Arrays:
        session.reset_all_variables()
        for place, array in zip(places, _in_order(inputs, [item["name"] for item in places]), strict=True):
            session.set_tensor(place["index"], array)
        session.invoke()
        return {item["name"]: np.asarray(session.get_tensor(item["index"])) for item in results}

    return run_litert


def _open_torch(model: Path) -> Run:
    import torch  # noqa: PLC0415  # optional
    from torch.utils import _pytree  # noqa: PLC0415  # the module that reads the tree of arguments, as torch.export does

    program = torch.export.load(str(model))
    network, signature = program.module(), program.graph_signature

    def run_torch(inputs: Arrays) -> Arrays:
        flat = [torch.from_numpy(np.array(array)) for array in _in_order(inputs, signature.user_inputs)]
        args, kwargs = _pytree.tree_unflatten(flat, program.call_spec.in_spec)
        with torch.no_grad():
            results = _pytree.tree_leaves(network(*args, **kwargs))
        return {name: item.numpy() for name, item in zip(signature.user_outputs, results, strict=True)}

    return run_torch


# By suffix: what the runtime is called, its package, the units that its rounding may differ by, how it opens a file, and how
# it does that for other kernels.
_RUNTIMES: Mapping[str, tuple[str, str, int, Callable[[Path], Run], Callable[[Path], Run] | None]] = {
    ".onnx": ("onnxruntime", "onnxruntime", 1, _open_onnx, partial(_open_onnx, is_fused=True)),
    ".pt2": ("torch", "torch", 1, _open_torch, None),
    ".tflite": ("LiteRT", "ai_edge_litert", 0, _open_litert, None),
}


def compare(expected: Sequence[Arrays], got: Sequence[Arrays], *, tolerance: Tolerance) -> tuple[OutputDeviation, ...]:
    """Compare the outputs of one or more runs, all with the same names, types and sizes; one result for each output.

    NaN equals NaN, and an infinity one of its own sign.
    """
    return tuple(
        _deviation(name, _joined(expected, name), _joined(got, name), tolerance=tolerance) for name in expected[0]
    )


def _joined(runs: Sequence[Arrays], name: str) -> npt.NDArray[Any]:
    return np.concatenate([run[name].ravel() for run in runs])


def _deviation(
    name: str, expected: npt.NDArray[Any], got: npt.NDArray[Any], *, tolerance: Tolerance
) -> OutputDeviation:
    same = (got == expected) | ((got != got) & (expected != expected))  # noqa: PLR0124  # only NaN is not itself
    if expected.dtype.kind == "f":
        difference = _float_difference(expected, got, same)
    else:
        difference = _unit_difference(expected, got)
    magnitudes = np.abs(expected.astype(np.float64))
    magnitude = float(magnitudes[np.isfinite(magnitudes)].max(initial=0.0))
    return OutputDeviation(
        output=name, dtype=str(expected.dtype), elements=expected.size, unequal=int((~same).sum()),
        largest=float(difference.max(initial=0)), magnitude=magnitude, limit=tolerance.limit(expected.dtype, magnitude),
    )  # fmt: skip


def _float_difference(
    expected: npt.NDArray[Any], got: npt.NDArray[Any], same: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        difference = np.abs(got.astype(np.float64) - expected.astype(np.float64))
    return np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference))


def _unit_difference(expected: npt.NDArray[Any], got: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Give the differences of integers in a type that holds each; unsigned, the larger less the smaller cannot overflow."""
    bits = np.dtype(f"u{expected.dtype.itemsize}")
    larger, smaller = np.maximum(expected, got), np.minimum(expected, got)
    difference: npt.NDArray[Any] = larger.view(bits) - smaller.view(bits)
    return difference


def check_model(  # noqa: PLR0913  # what a person may want to say
    archive: Path,
    module: str,
    reference: Reference,
    inputs: Sequence[Arrays],
    *,
    compiler: Compiler | None = None,
    tolerance: Tolerance | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> BirthCheck:
    """Run a module of an archive on this machine and compare it with the reference, on each of the inputs.

    Without a tolerance it is DEFAULT_RELATIVE and the reference's own `units`. A model may amplify the last bit of a float so
    much that the reference differs from itself by more, with other kernels; then four times as much is allowed. Inputs that the reference cannot run are
    left out, and a note tells why; if there is no other, nothing is linked or run. Raises TensorError for inputs that do not fit and for
    outputs of another type or shape than the archive's, ModelRunError if the C fails, and what `link` raises.
    """
    usable, expected, notes = _judged(reference, inputs)
    if not usable:
        return BirthCheck(
            reference=str(reference), inputs=0, deviations=(), notes=notes, golden_inputs={}, golden_outputs={}, golden_atol=0.0,
        )  # fmt: skip
    tolerance = tolerance or Tolerance(units=reference.units)
    chosen = compiler or compiler_for("host")
    with scratch_folder() as folder:
        model = _linked(archive, module, chosen, folder)
        named = [_named(item, model.interface.outputs, where=archive.name) for item in expected]
        got = _run_each(model, usable, chosen, folder, timeout_s)
    deviations = compare(named, got, tolerance=tolerance)
    if not all(item.is_good for item in deviations):
        again = _repeated(reference, usable, model.interface.outputs, where=archive.name)
        deviations = _eased(deviations, compare(named, again, tolerance=tolerance)) if again else deviations
    golden = {name: array if array.dtype.kind == "f" else got[0][name] for name, array in named[0].items()}
    limits = [item.limit for item in deviations if golden[item.output].dtype.kind == "f"]
    return BirthCheck(
        reference=str(reference), inputs=len(usable), deviations=deviations, notes=notes, golden_inputs=usable[0],
        golden_outputs=golden, golden_atol=max(limits, default=0.0),
    )  # fmt: skip


def _repeated(reference: Reference, inputs: Sequence[Arrays], outputs: Sequence[Tensor], *, where: str) -> list[Arrays]:
    """Give what the other kernels of the reference make of the inputs; nothing where there are none or they cannot."""
    again = [_tried(reference.again, item) for item in inputs] if reference.again else []
    if any(isinstance(item, str) for item in again):
        return []
    return [_named(item, outputs, where=where) for item in again if not isinstance(item, str)]


def _eased(deviations: Sequence[OutputDeviation], own: Sequence[OutputDeviation]) -> tuple[OutputDeviation, ...]:
    """Allow floats some times the difference that the reference has from itself, as long as that is finite."""
    return tuple(
        replace(item, own=other.largest, limit=max(item.limit, _OWN_FACTOR * other.largest))
        if item.dtype.startswith("float") and math.isfinite(other.largest)
        else item
        for item, other in zip(deviations, own, strict=True)
    )


def _judged(reference: Reference, inputs: Sequence[Arrays]) -> tuple[list[Arrays], list[Arrays], tuple[str, ...]]:
    """Give the inputs that the reference can run, what it makes of them, and its words on the others."""
    results = [_tried(reference.run, item) for item in inputs]
    usable = [item for item, result in zip(inputs, results, strict=True) if not isinstance(result, str)]
    expected = [result for result in results if not isinstance(result, str)]
    faults = [result for result in results if isinstance(result, str)]
    if not faults:
        return usable, expected, ()
    left_out = f"{len(faults)} of {len(inputs)} inputs were left out" if usable else "nothing was checked"
    return usable, expected, (f"{left_out}: {faults[0]}",)


def _tried(run_reference: Run, inputs: Arrays) -> Arrays | str:
    try:
        return run_reference(inputs)
    except ModelRunError as error:
        return error.message


def _linked(archive: Path, module: str, compiler: Compiler, folder: Path) -> RunnableModel:
    output = folder / "model.a"
    request = LinkRequest(path=archive, name=suggest_model_name(module), module=module)
    link(plan_link([request], output=output, compiler=compiler))
    return open_library(library.document_path(output), None)


def _named(arrays: Arrays, tensors: Sequence[Tensor], *, where: str) -> Arrays:
    """Give what the reference made the names that the archive has; where they are others, both are in the model's order."""
    names = [tensor.name for tensor in tensors]
    if set(names) == set(arrays):
        found = {name: arrays[name] for name in names}
    elif len(names) == len(arrays):
        found = dict(zip(names, arrays.values(), strict=True))
    else:
        raise TensorError(f"has {len(names)} outputs, and the reference gives {len(arrays)}", where=where)
    faults = array_faults(tensors, found, kind="output")
    if faults:
        raise TensorError(f"what the reference gives does not fit: {'; '.join(faults)}", where=where)
    return found


def _run_each(
    model: RunnableModel, inputs: Sequence[Arrays], compiler: Compiler, folder: Path, timeout_s: float
) -> list[Arrays]:
    interface = model.interface
    folders = [folder / str(number) for number in range(len(inputs))]
    for place, arrays in zip(folders, inputs, strict=True):
        place.mkdir()
        for index, payload in enumerate(check_inputs(interface, arrays)):
            (place / f"input.{index}").write_bytes(payload)
        for index, pool in enumerate(interface.external_pools):
            (place / f"pool.{index}").write_bytes(pool.data)
    library_name = link_host_library(interface, model.library.name, compiler, folder)
    argv = [
        sys.executable, "-I", "-S", "-c", _RUN_EACH, str(Path(hostrun.__file__).resolve()), ",".join(item.name for item in folders),
        f"../{library_name}", *host_arguments(interface),
    ]  # fmt: skip
    _run_apart(argv, interface.name, folder, timeout_s)
    return [_outputs(interface.outputs, place) for place in folders]


def _run_apart(argv: Sequence[str], name: str, folder: Path, timeout_s: float) -> None:
    try:
        finished = run(list(argv), cwd=folder, timeout_s=timeout_s, tool="the model")
    except ToolError as error:  # the interpreter is there, so the model did not end
        raise ModelRunError(error.message, where=name) from error
    if finished.status == 0:
        return
    words = {hostrun.OVERRUN_STATUS: "wrote past the end of an output", hostrun.FAILED_STATUS: "reported failure"}
    if finished.status < 0:
        message = f"crashed ({signal_name(-finished.status)})"
    else:
        message = words.get(finished.status, f"ended with status {finished.status}:\n{own_words(finished)}")
    raise ModelRunError(f"the generated C {message}", where=name)


def _outputs(tensors: Sequence[Tensor], folder: Path) -> Arrays:
    flat = [
        np.frombuffer((folder / f"output.{index}").read_bytes(), numpy_dtype(tensor))
        for index, tensor in enumerate(tensors)
    ]
    return {tensor.name: array.reshape(tensor.shape or ()) for tensor, array in zip(tensors, flat, strict=True)}
