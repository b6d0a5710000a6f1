"""What mlf tells: modules, plans and libraries as JSON documents and as text for people."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from mlf.metadata import LATEST_VERSION, code_document, golden_document, pool_document, tensor_document

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from mlf.check import Verdict
    from mlf.converter import Conversion, Note
    from mlf.demo import DemoResult
    from mlf.differ import Change, Difference
    from mlf.exporter import Export
    from mlf.linker import LinkPlan, PlannedModel
    from mlf.metadata import BufferMetadata, Pool, Tensor
    from mlf.module import Module
    from mlf.reading import Contents
    from mlf.runner import Replay, RunResult

INSPECT_SCHEMA = "mlf-inspect-v1"
PLAN_SCHEMA = "mlf-plan-v1"
RUN_SCHEMA = "mlf-run-v1"
VALIDATE_SCHEMA = "mlf-validate-v1"
CONVERT_SCHEMA = "mlf-convert-v1"
EXPORT_SCHEMA = "mlf-export-v1"
REPLAY_SCHEMA = "mlf-replay-v1"
DIFF_SCHEMA = "mlf-diff-v1"
_WIDEST_COLUMN = 60  # a longer name only moves what is behind it
_SHOWN_VALUES = 8  # of an output, to a person


def render_json(document: Mapping[str, Any]) -> str:
    """Write a JSON document as mlf prints all of them."""
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def inspect_document(contents: Contents) -> dict[str, Any]:
    """Describe an archive and its modules; schema `inspect-v1`."""
    return {
        "archive": contents.label,
        "form": contents.form,
        "format_version": contents.version,
        "identity": contents.identity,
        "members": [{"name": member.name, "size_bytes": member.size_bytes} for member in contents.members],
        "modules": [_module_document(module) for module in contents.modules],
        "schema": INSPECT_SCHEMA,
    }


def _module_document(module: Module) -> dict[str, Any]:
    return {
        "api": {"interface": module.interface, "operators": module.operators},
        "code": code_document(module.code),
        "constants_bytes": module.constants_bytes,
        "devices": list(module.devices),
        "entrypoints": dict(module.entrypoints),
        "executors": list(module.executors),
        "findings": [
            {"code": item.code, "place": item.place, "said": item.said, "source": item.source}
            for item in module.findings
        ],
        "functions": [_function_document(name, buffers) for name, buffers in module.metadata.buffers.items()],
        "inputs": [tensor_document(tensor) for tensor in module.inputs],
        "memory_styles": list(module.memory_styles),
        "name": module.name,
        "objects": list(module.objects),
        "outputs": [tensor_document(tensor) for tensor in module.outputs],
        "pools": [pool_document(pool) for pool in module.pools],
        "sources": list(module.sources),
        "style": module.style,
        "tests": [golden_document(test) for test in module.tests],
        "targets": list(module.metadata.targets),
        "workspace_bytes": module.workspace_bytes,
    }


def _function_document(name: str, buffers: Sequence[BufferMetadata]) -> dict[str, Any]:
    rows = [{"dtype": item.dtype, "shape": list(item.shape), "size_bytes": item.size_bytes} for item in buffers]
    return {"buffers": rows, "name": name}


def inspect_text(contents: Contents) -> str:
    """Describe an archive for a person."""
    total = sum(member.size_bytes for member in contents.members)
    lines = [
        f"{contents.label}: Model Library Format version {contents.version}, {len(contents.members)} members, {total} bytes"
    ]
    lines += [f"identity {contents.identity}"] if contents.identity else []
    for module in contents.modules:
        lines += ["", *_module_lines(module)]
    width = max(len(str(member.size_bytes)) for member in contents.members)
    lines += ["", "members"]
    lines += [f"  {member.size_bytes:>{width}}  {member.name}" for member in contents.members]
    return "\n".join(lines)


def _module_lines(module: Module) -> list[str]:
    lines = [f"module {module.name}"]
    lines += [f"  executor     {', '.join(module.executors)}"] if module.executors else ["  style        operator"]
    lines += [
        f"  api          interface {module.interface}, operators {module.operators or 'unknown'}",
        f"  entrypoints  {', '.join(module.entrypoints.values()) or 'none'}",
    ]
    machine = module.code.object
    if machine:
        lines.append(f"  objects      {machine}")
    for name, buffers in module.metadata.buffers.items():
        lines += _table(name, [(item.dtype, _shape(item.shape), _bytes(item.size_bytes)) for item in buffers])
    for kind, tensors in (("inputs", module.inputs), ("outputs", module.outputs)):
        lines += _table(kind, [_tensor_cells(tensor) for tensor in tensors])
    styles = f" ({', '.join(module.memory_styles)})" if module.memory_styles else ""
    lines.append(f"  workspace    {_bytes(module.workspace_bytes)}{styles}")
    lines.append(f"  constants    {_bytes(module.constants_bytes)}")
    lines += _table("pools", [_pool_cells(pool) for pool in module.pools])
    if module.devices:
        lines.append(f"  devices      {', '.join(module.devices)}")
    lines += [f"  test         {test.name}" for test in module.tests]
    lines += [f"  note         {finding}" for finding in module.findings]
    return lines


def _table(title: str, rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    cells = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [f"  {title if index == 0 else '':<11}  {line}" for index, line in enumerate(cells)]


def _tensor_cells(tensor: Tensor) -> tuple[str, ...]:
    return tensor.name, tensor.dtype or "?", _shape(tensor.shape), _bytes(tensor.size_bytes)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "?" if shape is None else "x".join(str(extent) for extent in shape) or "scalar"


def _pool_cells(pool: Pool) -> tuple[str, ...]:
    return (
        pool.name,
        pool.kind,
        "inside the code" if pool.is_internal else "passed by the caller",
        _bytes(pool.size_bytes),
    )


def _bytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size} bytes"


def plan_document(plan: LinkPlan) -> dict[str, Any]:
    """Describe what a link would do; schema `plan-v1`."""
    return {
        "compiler": {"family": plan.compiler.family, "version": plan.compiler.version},
        "library": plan.output.name,
        "models": [_planned_document(model) for model in plan.models],
        "schema": PLAN_SCHEMA,
        "target": plan.compiler.target.name,
    }


def _planned_document(model: PlannedModel) -> dict[str, Any]:
    return {
        **model_document(model),
        "objects": list(model.module.objects),
        "renames": dict(model.exports),
        "sources": list(model.module.sources),
    }


def model_document(model: PlannedModel) -> dict[str, Any]:
    """Describe a model of a library as far as the plan knows it; `plan-v1` and `library-v1` share this part."""
    module, interface = model.module, model.interface
    return {
        "archive": module.archive,
        "constants_bytes": module.constants_bytes,
        "entrypoints": {"run": interface.run_symbol},
        "format_version": module.version,
        "header": interface.header,
        "inputs": [tensor_document(tensor) for tensor in interface.inputs],
        "member": model.member,
        "memory_styles": list(module.memory_styles),
        "module": module.name,
        "name": interface.name,
        "outputs": [tensor_document(tensor) for tensor in interface.outputs],
        "workspace_bytes": interface.workspace_bytes,
    }


def plan_text(plan: LinkPlan) -> str:
    """Describe what a link would do, for a person."""
    lines = [f"{plan.output} for {plan.compiler.target.name}, compiled by {plan.compiler.name} {plan.compiler.version}"]
    for model in plan.models:
        styles = ", ".join(model.module.memory_styles) or "no workspace"
        lines += [
            f"  {model.name}: module `{model.module.name}` of {model.path} (version {model.module.version})",
            f"    entrypoint {model.interface.run_symbol}, made of {model.exports[0][0]}",
            f"    workspace  {_bytes(model.interface.workspace_bytes)} ({styles})",
            f"    compiles   {', '.join(name.rsplit('/', 1)[-1] for name in model.module.sources) or 'nothing'}",
        ]
    return "\n".join(lines)


def library_text(document: Mapping[str, Any], output: str) -> str:
    """Describe a finished library for a person."""
    rows = [("model", "flash", "ram", "workspace", "archive")]
    rows += [
        (
            model["name"], str(model["sizes"]["flash_bytes"]), str(model["sizes"]["ram_bytes"]), _number(model["workspace_bytes"]), model["archive"],
        )
        for model in document["models"]
    ]  # fmt: skip
    totals = document["totals"]
    rows.append(("total", str(totals["flash_bytes"]), str(totals["ram_bytes"]), "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join(_aligned(cell, widths[column], column) for column, cell in enumerate(row)).rstrip() for row in rows
    ]
    count = len(document["models"])
    what = f"{count} model{'' if count == 1 else 's'} for {document['target']} ({document['machine']}), bytes"
    return "\n".join([*lines, f"{output}: {what}"])


def _number(value: int | None) -> str:
    return "?" if value is None else str(value)


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column in (1, 2, 3) else cell.ljust(width)


def run_document(result: RunResult) -> dict[str, Any]:
    """Describe the outputs of a run; schema `run-v1`."""
    outputs = [
        {"dtype": str(array.dtype), "name": name, "shape": list(array.shape), "values": _values(array)}
        for name, array in result.outputs.items()
    ]
    return {"model": result.model, "outputs": outputs, "schema": RUN_SCHEMA, "target": result.target}


def _values(array: npt.NDArray[Any]) -> list[Any]:
    """Give the values in C order; JSON has no infinity and no NaN, so those are strings."""
    finite = (float("-inf"), float("inf"))
    return [
        value if not isinstance(value, float) or finite[0] < value < finite[1] else repr(value)
        for value in array.ravel().tolist()
    ]


def run_text(result: RunResult) -> str:
    """Describe the outputs of a run, for a person: the first values of each."""
    lines = []
    for name, array in result.outputs.items():
        shape = "x".join(str(extent) for extent in array.shape) or "scalar"
        values = [
            f"{value:.6g}" if isinstance(value, float) else str(value)
            for value in array.ravel()[:_SHOWN_VALUES].tolist()
        ]
        more = " ..." if array.size > _SHOWN_VALUES else ""
        lines.append(f"{name}  {array.dtype}  {shape}  {' '.join(values)}{more}")
    return "\n".join(lines)


def validate_document(verdicts: Sequence[Verdict], *, strict: bool) -> dict[str, Any]:
    """Describe what was found in archives; schema `validate-v1`."""
    return {
        "archives": [_verdict_document(verdict, strict=strict) for verdict in verdicts],
        "is_good": all(verdict.is_good(strict=strict) for verdict in verdicts),
        "is_strict": strict,
        "schema": VALIDATE_SCHEMA,
    }


def _verdict_document(verdict: Verdict, *, strict: bool) -> dict[str, Any]:
    return {
        "archive": verdict.archive,
        "findings": [
            {"code": item.code, "expected": item.expected, "got": item.got, "place": item.place, "severity": item.severity}
            for item in verdict.findings
        ],
        "format_version": verdict.version,
        "identity": verdict.identity,
        "is_good": verdict.is_good(strict=strict),
    }  # fmt: skip


def validate_text(verdicts: Sequence[Verdict], *, paths: Sequence[str], strict: bool) -> str:
    """Describe what was found in archives, for a person who gave `paths`: the findings of each, the worst first."""
    lines = []
    for path, verdict in zip(paths, verdicts, strict=True):
        version = "" if verdict.version is None else f"version {verdict.version}, "
        judged = "good" if verdict.is_good(strict=strict) else "bad"
        lines.append(f"{_one_line(path)}: {version}{judged}")
        lines += [f"  {finding}" for finding in verdict.findings]
    if len(verdicts) > 1:
        bad = sum(not verdict.is_good(strict=strict) for verdict in verdicts)
        lines.append(f"{len(verdicts)} archives, {bad} bad")
    return "\n".join(lines)


def convert_document(done: Conversion) -> dict[str, Any]:
    """Describe a conversion; schema `convert-v1`."""
    return {
        "archive": done.source,
        "from_version": done.from_version,
        "identity": done.identity,
        "modules": list(done.modules),
        "notes": _note_documents(done.notes),
        "schema": CONVERT_SCHEMA,
        "to_version": done.to_version,
    }


def _note_documents(notes: Sequence[Note]) -> list[dict[str, str]]:
    return [{"kind": note.kind, "place": note.place, "text": note.text} for note in notes]


def convert_text(done: Conversion, *, output: str) -> str:
    """Describe a conversion, for a person."""
    head = f"{output}: version {done.to_version}, from version {done.from_version} of {done.source}"
    return _with_notes(head, done.identity, done.notes)


def _with_notes(head: str, identity: str | None, notes: Sequence[Note]) -> str:
    lines = [head, *([f"  identity  {identity}"] if identity else [])]
    return "\n".join([*lines, *(f"  {note.kind:<8}  {note.place}: {note.text}" for note in notes)])


def export_document(made: Export) -> dict[str, Any]:
    """Describe an export; schema `export-v1`."""
    return {
        "archive": made.archive,
        "identity": made.identity,
        "member_count": made.member_count,
        "modules": list(made.modules),
        "notes": _note_documents(made.notes),
        "schema": EXPORT_SCHEMA,
    }


def export_text(made: Export, *, output: str) -> str:
    """Describe an export, for a person."""
    names = ", ".join(made.modules)
    plural = "" if len(made.modules) == 1 else "s"
    head = f"{output}: version {LATEST_VERSION}, module{plural} {names}, {made.member_count} members"
    return _with_notes(head, made.identity, made.notes)


def replay_document(replay: Replay) -> dict[str, Any]:
    """Describe golden tests that were run; schema `replay-v1`."""
    return {
        "is_passed": replay.is_passed,
        "model": replay.model,
        "schema": REPLAY_SCHEMA,
        "target": replay.target,
        "tests": [
            {
                "atol": test.atol,
                "is_passed": test.is_passed,
                "name": test.name,
                "outputs": [
                    {
                        "element_count": item.elements,
                        "largest_deviation": item.largest if item.largest != float("inf") else "inf",
                        "name": item.output,
                        "too_far_count": item.too_far,
                    }
                    for item in test.deviations
                ],
                "rtol": test.rtol,
            }
            for test in replay.tests
        ],
    }


def replay_text(replay: Replay) -> str:
    """Describe golden tests that were run, for a person."""
    lines = []
    for test in replay.tests:
        tolerance = f"rtol {test.rtol:g}, atol {test.atol:g}"
        lines.append(f"{replay.model} on {replay.target}, test {test.name}: {'passed' if test.is_passed else 'FAILED'} ({tolerance})")  # fmt: skip
        for item in test.deviations:
            far = f", {item.too_far} of {item.elements} too far" if item.too_far else ""
            lines.append(f"  {item.output}  largest deviation {item.largest:.3g}{far}")
    return "\n".join(lines)


def diff_document(difference: Difference) -> dict[str, Any]:
    """Describe a difference; schema `diff-v1`."""
    return {
        "after": difference.after,
        "before": difference.before,
        "changes": [_change_document(change) for change in difference.changes],
        "same": difference.is_same,
        "schema": DIFF_SCHEMA,
        "unknown": [_change_document(change) for change in difference.unknown],
    }


def _change_document(change: Change) -> dict[str, Any]:
    return {
        "after": change.after, "before": change.before, "kind": change.kind, "module": change.module, "place": change.place,
    }  # fmt: skip


def diff_text(difference: Difference) -> str:
    """Describe a difference for a person: `+` came, `-` went, `~` changed, `?` is told by one archive only."""
    if difference.is_same:
        lines = [f"{difference.before} and {difference.after}: no difference"]
    else:
        lines = [
            f"{difference.before} -> {difference.after}: {len(difference.changes)} change{'' if len(difference.changes) == 1 else 's'}"
        ]
    groups: dict[str | None, list[tuple[str, str, str, str]]] = defaultdict(list)
    for change in difference.changes:
        groups[change.module].append(_diff_row(change, _diff_sign(change)))
    for change in difference.unknown:
        groups[change.module].append(_diff_row(change, "?"))
    for module in sorted(groups, key=lambda name: (name is not None, name or "")):
        lines += ["", f"module {_one_line(module)}" if module is not None else "archive", *_diff_lines(groups[module])]
    return "\n".join(lines)


def _diff_sign(change: Change) -> str:
    return "+" if change.before is None else "-" if change.after is None else "~"


def _diff_row(change: Change, sign: str) -> tuple[str, str, str, str]:
    kind = re.sub(r"-(?:added|removed|changed|renamed)\Z", "", change.kind)
    return sign, kind, _one_line(change.place), _one_line(_between(change.before, change.after))


def _between(before: str | None, after: str | None) -> str:
    """Tell a change, with the words that both sides begin and end with only once: `size 16 -> 32 bytes`."""
    if before is None or after is None:
        return before or after or ""
    old, new = before.split(" "), after.split(" ")
    most = len(old) - 1 if len(old) == len(new) else 0
    start = next((index for index in range(most) if old[index] != new[index]), most)
    end = next((index for index in range(most - start) if old[-1 - index] != new[-1 - index]), most - start)
    words = (old[:start], old[start : len(old) - end], ["->"], new[start : len(new) - end], old[len(old) - end :])
    return " ".join(word for part in words for word in part)


def _one_line(words: str) -> str:
    """Give a text on one line of a terminal: what archives hold may be anything."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in words)


def _diff_lines(rows: Sequence[tuple[str, str, str, str]]) -> list[str]:
    kind_width, place_width = (min(max(len(row[column]) for row in rows), _WIDEST_COLUMN) for column in (1, 2))
    return [
        f"  {sign} {kind:<{kind_width}}  {place:<{place_width}}  {said}".rstrip() for sign, kind, place, said in rows
    ]


def demo_text(result: DemoResult) -> str:
    """Describe what the demo did and where everything lies."""
    target = result.document["target"]
    lines = [
        library_text(result.document, str(result.library)),
        "",
        f"the firmware around it, on {target}:",
        *(f"  {line}" for line in result.printed.splitlines()),
        "all answers agree with the golden numbers",
        "",
        *(f"archive    {path}" for path in result.archives),
        f"library    {result.library}",
        *(f"header     {path}" for path in result.headers),
        f"sources    {result.firmware_sources}",
        f"firmware   {result.firmware}",
    ]
    return "\n".join(lines)
