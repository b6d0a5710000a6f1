"""ONNX's own operator tests: how many of them each front end of `mlf export` compiles to C that gives the right numbers.

`python benchmarks/onnx_operators.py --from tvm --from emx --from auto` reads the tests of Debian's `libonnx-testdata` (or of
the folder that `--data` names), exports each model, links it for this machine, runs it with the stored inputs and compares
with the stored outputs. It writes `docs/onnx-operators.md`, and all results to `results.json` in the folder `--cache`, from
which an interrupted run goes on. `--only PATTERN` takes the tests whose name has that in it, and prints the report instead.
The exit status is 1 if a number is wrong, or if `auto` passes less than 85 % of the tests that apply as they are.

Every run has one outcome:

    right           every output has the type, the shape and the values of the stored one
    wrong           an output has not
    refused         `mlf export` says what it does not support
    crashed         anything else: a traceback, C that does not compile, link, run or end, a process that dies
    not applicable  strings, sequences, optionals, random numbers, shapes that the file does not tell or that depend on values,
                    stored outputs that ONNX's own reference implementation does not give, if ours are those that it gives

What does not apply is decided from the files of a test alone, but for the last of these. If only a shape is the reason, the
test is exported and run all the same, and is wrong if it gives anything but the stored outputs.

Floats may differ by `ATOL + RTOL * |stored|`, as in ONNX's own runner; near zero that is ATOL alone. Integers and bools must
be equal. Where values that decide shapes or axes are inputs of the test, it is run again with them as constants of the
model, which is how real models have them; these runs are counted apart.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import multiprocessing
import os
import re
import signal
import sys
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import product
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

import mlf
from mlf.errors import InputError, MlfError, UnsupportedError
from mlf.files import replace_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

    import numpy.typing as npt

    Arrays = dict[str, npt.NDArray[Any]]
    Work = Callable[["Task"], "Result"]

ROOT = Path(__file__).parent.parent
DATA = Path("/usr/share/libonnx-testdata/data")
KINDS = ("node", "pytorch-converted", "pytorch-operator", "simple")  # `real` has no models, only where to load them
FRONT_ENDS = ("auto", "emx", "tvm")
OUTCOMES = ("right", "wrong", "refused", "crashed", "not applicable")
PACKAGES = ("apache-tvm", "emx-onnx-cgen", "onnx")
RTOL, ATOL = 1e-3, 1e-7
PROMISED = 0.85  # of the tests that apply as they are, by `auto`
TIMEOUT_S = 180.0
# Inputs whose values decide the shape of an output, by operator.
SHAPING: Mapping[str, tuple[int, ...]] = {
    "AffineGrid": (1,), "BlackmanWindow": (0,), "CenterCropPad": (1,), "Col2Im": (1, 2), "ConstantOfShape": (0,), "DFT": (1,),
    "Expand": (1,), "HammingWindow": (0,), "HannWindow": (0,), "Loop": (0, 1), "MaxUnpool": (2,), "MelWeightMatrix": (0, 1),
    "OneHot": (1,), "Pad": (1, 3), "Range": (0, 1, 2), "ReduceL1": (1,), "ReduceL2": (1,), "ReduceLogSum": (1,),
    "ReduceLogSumExp": (1,), "ReduceMax": (1,), "ReduceMean": (1,), "ReduceMin": (1,), "ReduceProd": (1,), "ReduceSum": (1,),
    "ReduceSumSquare": (1,), "Reshape": (1,), "Resize": (2, 3), "STFT": (1, 3), "Slice": (1, 2, 3, 4), "Split": (1,),
    "SplitToSequence": (1,), "Squeeze": (1,), "Tile": (1,), "TopK": (1,), "Unsqueeze": (1,), "Upsample": (1,),
}  # fmt: skip
# Inputs that name an axis or a diagonal; models have them as constants too.
AXES: Mapping[str, tuple[int, ...]] = {"CumSum": (1,), "Resize": (1,), "Trilu": (1,)}
# What these give has as many elements as their data has of some kind.
COUNTING = ("Compress", "NonMaxSuppression", "NonZero", "Unique")
RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
DEFAULT_DROPOUT = 0.5
DISPUTED = {
    "outcome": "not applicable",
    "reason": "stored outputs that ONNX's reference implementation does not give",
}
# What a model is refused with; other kinds of InputError say that mlf does not understand what it made itself.
REFUSALS = (InputError, UnsupportedError)
# What the names of nodes and tensors become in a reason, which is the same for many tests without them.
NAMES = (
    (re.compile(r"node(?: \d+| `[^`]*`)? \((`[^`]*`)\)(?:, which gives `[^`]*`(?:, `[^`]*`)*)?"), r"\1"),
    (re.compile(r" of the node `[^`]*`"), ""),
    (re.compile(r"(?:the tensor )?`[^`]*` (?=has elements of |is b?float16)"), "a tensor "),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run of a test; `has_constants` says that the inputs that decide shapes or axes are constants."""

    name: str
    folder: str
    front_end: str
    has_constants: bool

    @property
    def cache_name(self) -> str:
        variant = "constant" if self.has_constants else "plain"
        return f"{self.front_end}/{variant}/{self.name.replace('/', '.')}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The outcome of a run and why; `notes` are what the export said."""

    outcome: str
    reason: str = ""
    notes: tuple[str, ...] = ()


def make_archive(model: Path, output: Path, front_end: str) -> tuple[str, ...]:
    """Export a model; gives the notes. All of `mlf export` that this script relies on is here."""
    options = mlf.ModelOptions(front_end=front_end, is_checked=False)
    return tuple(note.text for note in mlf.export(model, output=output, name="model", model=options).notes)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from nodes_of(inner)


def type_fault(model: onnx.ModelProto) -> str | None:
    """Tell whether an input or output is not a tensor of numbers with a shape that the file tells."""
    faults = set()
    for value in (*inputs_of(model), *model.graph.output):
        kind = value.type.WhichOneof("value") or "value"
        tensor = value.type.tensor_type
        if kind != "tensor_type":
            faults.add(f"{kind.removesuffix('_type')}s")
        elif tensor.elem_type == onnx.TensorProto.STRING:
            faults.add("strings")
        elif not tensor.HasField("shape") or not all(item.HasField("dim_value") for item in tensor.shape.dim):
            faults.add("a shape that the file does not tell")
    return min(faults, default=None)


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """List the inputs without those that are only there because old versions also list initializers."""
    known = {item.name for item in model.graph.initializer}
    return [item for item in model.graph.input if item.name not in known]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaping:
    """What decides shapes: the operators for which it is no constant, and the inputs that reach such a place."""

    operators: tuple[str, ...]
    inputs: tuple[str, ...]


def shaping_of(model: onnx.ModelProto, table: Mapping[str, Sequence[int]]) -> Shaping:
    """Follow values from the inputs to the places of the table; what only takes the shape of a value ends a way."""
    reach = {item.name: frozenset([item.name]) for item in inputs_of(model)}
    operators: set[str] = set()
    inputs: set[str] = set()
    _follow(model.graph, reach, table, operators, inputs)
    return Shaping(operators=tuple(sorted(operators)), inputs=tuple(sorted(inputs)))


def _follow(
    graph: onnx.GraphProto,
    reach: dict[str, frozenset[str]],
    table: Mapping[str, Sequence[int]],
    operators: set[str],
    inputs: set[str],
) -> frozenset[str]:
    """Add what is found to `operators` and `inputs`; gives the inputs that what the graph computes depends on."""
    nothing: frozenset[str] = frozenset()
    everything = nothing
    for node in graph.node:
        for place in table.get(node.op_type, ()):
            found = reach.get(node.input[place], nothing) if place < len(node.input) else nothing
            operators |= {node.op_type} if found else set()
            inputs |= found
        sources = nothing.union(*(reach.get(name, nothing) for name in node.input))
        for inner in subgraphs(node):
            names = [item.name for item in inner.input]
            sources |= _follow(inner, {**reach, **dict.fromkeys(names, sources)}, table, operators, inputs)
        everything |= sources
        sources = nothing if node.op_type in ("Shape", "Size") else sources
        reach.update(dict.fromkeys(node.output, sources))
    return everything


def is_random(model: onnx.ModelProto, values: Mapping[str, npt.NDArray[Any]]) -> bool:
    """Tell whether a model draws numbers; a Dropout does if it trains and drops anything."""
    known = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    for node in nodes_of(model.graph):
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            known[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    known |= values
    for node in nodes_of(model.graph):
        if node.op_type in RANDOM:
            return True
        if node.op_type == "Dropout":
            ratio, training = (node.input[place] if place < len(node.input) else "" for place in (1, 2))
            if known.get(training, np.False_).any() and known.get(ratio, np.float32(DEFAULT_DROPOUT)).any():
                return True
    return False


def open_shape(model: onnx.ModelProto, *, has_constants: bool) -> str | None:
    """Say which shape of a model, as it is or with the inputs that decide shapes as constants, depends on values."""
    counting = dict.fromkeys(COUNTING, range(2))
    if found := shaping_of(model, counting).operators:
        return f"a shape that depends on the data of {found[0]}"
    if not has_constants:
        found = shaping_of(model, SHAPING).operators
        return f"a shape that depends on an input of {found[0]}" if found else None
    is_constant = set(constant_inputs(model)) == {item.name for item in inputs_of(model)}
    return "nothing but constants" if is_constant else None


def constant_inputs(model: onnx.ModelProto) -> tuple[str, ...]:
    """List the inputs that decide shapes or axes."""
    both = {name: (*SHAPING.get(name, ()), *AXES.get(name, ())) for name in (*SHAPING, *AXES)}
    return shaping_of(model, both).inputs


def with_constants(model: onnx.ModelProto, values: Mapping[str, npt.NDArray[Any]]) -> onnx.ModelProto:
    """Give a copy of the model in which these inputs are constants."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [item for item in copy.graph.input if item.name not in values]
    del copy.graph.input[:]
    copy.graph.input.extend(kept)
    copy.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in values.items())
    return copy


def read_arrays(folder: Path, kind: str, names: Sequence[str]) -> Arrays:
    files = [folder / f"{kind}_{index}.pb" for index in range(len(names))]
    return {name: _array(file) for name, file in zip(names, files, strict=True)}


def _array(file: Path) -> npt.NDArray[Any]:
    array = np.asarray(numpy_helper.to_array(onnx.TensorProto.FromString(file.read_bytes())))
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array  # as mlf has them, and exact


def difference(expected: Mapping[str, npt.NDArray[Any]], got: Sequence[npt.NDArray[Any]]) -> str | None:
    """Say in what way the outputs, in their order, are not those of the test."""
    if len(got) != len(expected):
        return f"{len(got)} outputs instead of {len(expected)}"
    for (name, wanted), array in zip(expected.items(), got, strict=True):
        if (array.dtype, array.shape) != (wanted.dtype, wanted.shape):
            return f"`{name}` is {array.dtype}{list(array.shape)} instead of {wanted.dtype}{list(wanted.shape)}"
        is_float = wanted.dtype.kind == "f"
        near = np.isclose(array, wanted, rtol=RTOL, atol=ATOL, equal_nan=True) if is_float else array == wanted
        if not near.all():
            return f"`{name}`: {int((~near).sum())} of {wanted.size} elements are wrong{largest(wanted, array)}"
    return None


def largest(expected: npt.NDArray[Any], got: npt.NDArray[Any]) -> str:
    """Say by how much the elements differ that are finite in both."""
    pairs = np.stack([expected.ravel(), got.ravel()]).astype(np.float64)
    finite = pairs[:, np.isfinite(pairs).all(axis=0)]
    return f", by up to {np.abs(finite[0] - finite[1]).max():.3g}" if finite.size else ""


def attempt(task: Task) -> Result:
    """Do one run, in whatever process this is."""
    folder = Path(task.folder)
    model = onnx.load(folder / "model.onnx")
    if type_fault(model):  # its data may be of a kind that cannot be read
        return Result(outcome="not applicable", reason=type_fault(model) or "")
    sets = [read_set(item, model) for item in sorted(folder.glob("test_data_set_*"))]
    values = sets[0][0]
    if is_random(model, values):
        return Result(outcome="not applicable", reason="random numbers")
    constants = {name: values[name] for name in (constant_inputs(model) if task.has_constants else ())}
    runs = [(rest, outputs) for inputs, outputs in sets if (rest := without(inputs, constants)) is not None]
    result = export_and_run(with_constants(model, constants), runs, task.front_end)
    reason = open_shape(model, has_constants=task.has_constants)
    return Result(outcome="not applicable", reason=reason) if reason and result.outcome != "wrong" else result


def read_set(folder: Path, model: onnx.ModelProto) -> tuple[Arrays, Arrays]:
    inputs = read_arrays(folder, "input", [item.name for item in inputs_of(model)])
    return inputs, read_arrays(folder, "output", [item.name for item in model.graph.output])


def without(inputs: Arrays, constants: Arrays) -> Arrays | None:
    """Give what is left of a set of inputs; None if it has other constants than the model was made with."""
    if not all(np.array_equal(inputs[name], array) for name, array in constants.items()):
        return None
    return {name: array for name, array in inputs.items() if name not in constants}


def export_and_run(model: onnx.ModelProto, runs: Iterable[tuple[Arrays, Arrays]], front_end: str) -> Result:
    with TemporaryDirectory() as scratch:
        file, archive = Path(scratch) / "model.onnx", Path(scratch) / "model.tar"
        onnx.save(model, file)
        try:
            notes = make_archive(file, archive, front_end)
        except Exception as error:  # noqa: BLE001  # whatever a compiler raises is a result
            if type(error) in REFUSALS:
                return Result(outcome="refused", reason=said(error))
            return Result(outcome="crashed", reason=f"export: {said(error)}")
        try:
            return Result(**judged(archive, runs, model), notes=notes)
        except Exception as error:  # noqa: BLE001  # as above
            return Result(outcome="crashed", reason=f"run: {said(error)}", notes=notes)


def judged(archive: Path, runs: Iterable[tuple[Arrays, Arrays]], model: onnx.ModelProto) -> dict[str, str]:
    names = [tensor.name for tensor in mlf.inspect(archive).modules[0].inputs]
    for inputs, outputs in runs:
        is_named = set(names) <= set(inputs)
        given = {name: inputs[name] for name in names} if is_named else dict(zip(names, inputs.values(), strict=True))
        found = mlf.run(archive, given).outputs
        got = [found[name] for name in outputs] if set(found) == set(outputs) else list(found.values())
        if fault := difference(outputs, got):
            is_disputed = difference(by_reference(model, inputs), got) is None
            return DISPUTED if is_disputed else {"outcome": "wrong", "reason": fault}
    return {"outcome": "right"}


def by_reference(model: onnx.ModelProto, inputs: Arrays) -> Arrays:
    """Run a model by ONNX's own reference implementation; no output where it cannot."""
    try:
        results = ReferenceEvaluator(model).run(None, inputs)
    except Exception:  # noqa: BLE001  # it raises whatever numpy and its operators raise
        return {}
    return {item.name: np.asarray(result) for item, result in zip(model.graph.output, results, strict=True)}


def said(error: Exception) -> str:
    if isinstance(error, MlfError):
        return first_line(error.message)
    return first_line(f"{type(error).__name__}: {error}")


def first_line(text: str) -> str:
    return text.strip().partition("\n")[0].rstrip(":")


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A process that does tasks, and our end of the pipe to it."""

    process: SpawnProcess
    channel: Connection

    def end(self) -> int | None:
        self.process.kill()
        self.process.join()
        self.channel.close()
        return self.process.exitcode


class Crew:
    """Processes that do tasks; one that dies or takes too long is replaced, and its task has crashed."""

    def __init__(self, work: Work, *, jobs: int, timeout_s: float, log: Path) -> None:
        self.work, self.jobs, self.timeout_s, self.log = work, jobs, timeout_s, log
        self.idle: list[Worker] = []
        self.busy: dict[int, tuple[Worker, Task, float]] = {}  # by the number of the channel's file, until when

    def results(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Result]]:
        """Give the results as they come."""
        waiting = list(reversed(tasks))
        try:
            while waiting or self.busy:
                while waiting and len(self.busy) < self.jobs:
                    self._give(waiting.pop())
                yield from self._collect()
        finally:
            for worker in (*self.idle, *(worker for worker, *_ in self.busy.values())):
                worker.end()

    def _give(self, task: Task) -> None:
        worker = self.idle.pop() if self.idle else self._hire()
        worker.channel.send(task)
        self.busy[worker.channel.fileno()] = (worker, task, time.monotonic() + self.timeout_s)

    def _hire(self) -> Worker:
        context = multiprocessing.get_context("spawn")  # other threads of this process are no danger to it
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(self.work, theirs, str(self.log)), daemon=True)
        process.start()
        theirs.close()
        return Worker(process=process, channel=ours)

    def _collect(self) -> Iterator[tuple[Task, Result]]:
        left_s = min(deadline for *_, deadline in self.busy.values()) - time.monotonic()
        ready = wait(list(self.busy), timeout=max(left_s, 0))
        late = [number for number, (*_, deadline) in self.busy.items() if deadline <= time.monotonic()]
        for number in list(self.busy):
            if number in ready:
                worker, task, _ = self.busy.pop(number)
                yield task, self._received(worker)
            elif number in late:
                worker, task, _ = self.busy.pop(number)
                worker.end()
                yield task, Result(outcome="crashed", reason=f"took more than {self.timeout_s:g} s")

    def _received(self, worker: Worker) -> Result:
        try:
            result: Result = worker.channel.recv()
        except (EOFError, ConnectionError):
            worker.process.join()
            return Result(outcome="crashed", reason=f"the process ended with {ending(worker.end())}")
        self.idle.append(worker)
        return result


def ending(status: int | None) -> str:
    return signal.Signals(-status).name if status is not None and status < 0 else f"status {status}"


def serve(work: Work, channel: Connection, log: str) -> None:
    """Do tasks until there are no more; what compilers print goes to the log."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    try:
        while True:
            channel.send(work(channel.recv()))
    except (EOFError, KeyboardInterrupt, BrokenPipeError):
        return


def fingerprint() -> str:
    """Give a digest of what an outcome depends on besides the test: the code of mlf, this script and the compilers."""
    files = [
        Path(__file__),
        *sorted(path for path in Path(mlf.__file__).parent.rglob("*") if path.suffix != ".pyc" and path.is_file()),
    ]
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    digest.update(repr(versions()).encode())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    installed = {str(item.metadata["Name"]): item.version for item in metadata.distributions()}
    return {package: installed.get(package, "none") for package in PACKAGES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """A folder of results, of which those of this code count, and those of earlier code whose outcome is `reused`."""

    folder: Path
    fingerprint: str
    reused: tuple[str, ...] = ()

    def find(self, task: Task) -> Result | None:
        try:
            document = json.loads((self.folder / task.cache_name).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # none, or half of one
            return None
        result = Result(**{**document["result"], "notes": tuple(document["result"]["notes"])})
        is_ours = document["fingerprint"] == self.fingerprint
        return result if is_ours or result.outcome in self.reused else None

    def keep(self, task: Task, result: Result) -> None:
        document = {"fingerprint": self.fingerprint, "result": asdict(result)}
        replace_files({self.folder / task.cache_name: json.dumps(document, indent=2).encode()})


Results = dict[Task, Result]


def report(results: Results, tests: int) -> str:
    """Write the results as Markdown; it depends on them alone."""
    known = ", ".join(f"{package} {version}" for package, version in versions().items())
    rows = sorted({(task.front_end, task.has_constants) for task in results})
    parts = [HEAD.format(tests=tests, known=known), *table(results)]
    for outcome in ("wrong", "crashed", "refused"):
        for front_end, has_constants in rows:
            chosen = [
                (task.name, result)
                for task, result in results.items()
                if (task.front_end, task.has_constants) == (front_end, has_constants)
            ]
            parts += grouped(f"{outcome.capitalize()}: `{front_end}`{LABELS[has_constants]}", outcome, chosen)
    for has_constants in (False, True):
        chosen = [(task.name, result) for task, result in results.items() if task.has_constants == has_constants]
        parts += grouped(f"Not applicable{LABELS[has_constants]}", "not applicable", chosen)
    return "\n".join(parts)


HEAD = """# ONNX's own operator tests

Made by `python benchmarks/onnx_operators.py`, which says how outcomes are told; do not edit. {tests} tests, with {known}.
"""
LABELS = {False: "", True: ", with constant shapes"}


def table(results: Results) -> Iterator[str]:
    """Give the figures of each front end, as the tests are and with constant shapes."""
    yield "| front end | tests | not applicable | apply | right | wrong | refused | crashed | right of those that apply |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for front_end, has_constants in product(FRONT_ENDS, LABELS):
        counts = count(results, front_end, has_constants=has_constants)
        if counts:
            total = counts.total()
            apply = total - counts["not applicable"]
            figures = (total, counts["not applicable"], apply, *(counts[outcome] for outcome in OUTCOMES[:4]))
            yield f"| `{front_end}`{LABELS[has_constants]} | {' | '.join(map(str, figures))} | {share(counts):.1%} |"


def count(results: Results, front_end: str, *, has_constants: bool) -> Counter[str]:
    return Counter(
        result.outcome
        for task, result in results.items()
        if (task.front_end, task.has_constants) == (front_end, has_constants)
    )


def share(counts: Counter[str]) -> float:
    """Give the part of the tests that apply that is right."""
    return counts["right"] / max(counts.total() - counts["not applicable"], 1)


def grouped(title: str, outcome: str, results: Iterable[tuple[str, Result]]) -> Iterator[str]:
    """List the tests of an outcome by reason, the most frequent first."""
    reasons: dict[str, set[str]] = defaultdict(set)
    for name, result in results:
        if result.outcome == outcome:
            reasons[without_names(result.reason)].add(name)
    if reasons:
        yield f"\n## {title}\n"
    for reason, names in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0])):
        yield f"* {reason} ({len(names)}): {', '.join(sorted(names))}"


def without_names(reason: str) -> str:
    for pattern, words in NAMES:
        reason = pattern.sub(words, reason)
    return reason


def tasks_of(data: Path, front_ends: Sequence[str], pattern: str) -> list[Task]:
    """List the runs: every test as it is, then those with inputs that decide shapes or axes once more."""
    folders = {f"{kind}/{folder.name}": folder for kind in KINDS for folder in sorted((data / kind).glob("test_*"))}
    chosen = {name: folder for name, folder in folders.items() if fnmatch.fnmatch(name, f"*{pattern}*")}
    again = {name for name, folder in chosen.items() if has_constant_inputs(folder)}
    return [
        Task(name=name, folder=str(folder), front_end=front_end, has_constants=has_constants)
        for front_end, (name, folder), has_constants in product(front_ends, chosen.items(), (False, True))
        if not has_constants or name in again
    ]


def has_constant_inputs(folder: Path) -> bool:
    model = onnx.load(folder / "model.onnx")
    return not type_fault(model) and bool(constant_inputs(model))


def as_json(results: Results) -> bytes:
    rows = sorted(
        ({**asdict(task), **asdict(result)} for task, result in results.items()),
        key=lambda row: (row["front_end"], row["has_constants"], row["name"]),
    )
    for row in rows:
        del row["folder"]
    return f"{json.dumps({'packages': versions(), 'results': rows}, indent=2, sort_keys=True)}\n".encode()


def is_wrong(results: Results) -> bool:
    return any(result.outcome == "wrong" for result in results.values())


def is_kept(results: Results) -> bool:
    """Tell whether no number is wrong, and `auto` passes what is promised."""
    promised = count(results, "auto", has_constants=False)
    return not is_wrong(results) and (not promised or share(promised) >= PROMISED)


def run_all(tasks: Sequence[Task], cache: Cache, crew: Crew) -> Results:
    known = {task: result for task in tasks if (result := cache.find(task))}
    todo = [task for task in tasks if task not in known]
    print(f"{len(known)} results are known, {len(todo)} are to be found", file=sys.stderr)
    for number, (task, result) in enumerate(crew.results(todo), start=1):
        cache.keep(task, result)
        known[task] = result
        print(f"{number}/{len(todo)} {task.front_end} {task.name}: {result.outcome} {result.reason}", file=sys.stderr)
    return {task: known[task] for task in tasks}


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="the folder with node, simple and the others")
    parser.add_argument(
        "--from", dest="front_ends", action="append", choices=FRONT_ENDS, help="a front end (repeatable); auto"
    )
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="tests whose names have this in them; `*` is anything"
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="SECONDS", help="of one test")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "onnx-operators")
    parser.add_argument("--reuse", nargs="+", choices=OUTCOMES, default=(), help="outcomes to believe of earlier code")
    parser.add_argument("--report", type=Path, default=ROOT / "docs" / "onnx-operators.md")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    tasks = tasks_of(options.data, sorted(set(options.front_ends or ["auto"])), options.only)
    if not tasks:
        print(f"error: {options.data} has no such tests\n\nhint: apt-get install libonnx-testdata", file=sys.stderr)
        return 2
    options.cache.mkdir(parents=True, exist_ok=True)
    cache = Cache(folder=options.cache, fingerprint=fingerprint(), reused=tuple(options.reuse))
    crew = Crew(attempt, jobs=options.jobs, timeout_s=options.timeout, log=options.cache / "log.txt")
    results = run_all(tasks, cache, crew)
    text = f"{report(results, len({task.name for task in tasks}))}\n"
    if options.only:
        print(text, end="")
        return int(is_wrong(results))
    replace_files({options.report: text.encode(), options.cache / "results.json": as_json(results)})
    print("\n".join(table(results)))
    return int(not is_kept(results))


if __name__ == "__main__":
    sys.exit(main())
