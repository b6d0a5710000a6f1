"""What mlf tells of archives: what they hold, what is wrong with them, how they were made."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mlf.metadata import LATEST_VERSION, code_document, golden_document, pool_document, tensor_document
from mlf.report.text import bytes_words, one_line, shape_words, table, tensor_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlf.check import Verdict
    from mlf.converter import Conversion, Note
    from mlf.exporter import Export
    from mlf.metadata import BufferMetadata, Pool
    from mlf.module import Module
    from mlf.reading import Contents
    from mlf.reference import BirthCheck, OutputDeviation

INSPECT_SCHEMA = "mlf-inspect-v1"
VALIDATE_SCHEMA = "mlf-validate-v1"
CONVERT_SCHEMA = "mlf-convert-v1"
EXPORT_SCHEMA = "mlf-export-v1"


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
        lines += table(name, [(item.dtype, shape_words(item.shape), bytes_words(item.size_bytes)) for item in buffers])
    for kind, tensors in (("inputs", module.inputs), ("outputs", module.outputs)):
        lines += table(kind, [tensor_cells(tensor) for tensor in tensors])
    styles = f" ({', '.join(module.memory_styles)})" if module.memory_styles else ""
    lines.append(f"  workspace    {bytes_words(module.workspace_bytes)}{styles}")
    lines.append(f"  constants    {bytes_words(module.constants_bytes)}")
    lines += table("pools", [_pool_cells(pool) for pool in module.pools])
    if module.devices:
        lines.append(f"  devices      {', '.join(module.devices)}")
    lines += [f"  test         {test.name}" for test in module.tests]
    lines += [f"  note         {finding}" for finding in module.findings]
    return lines


def _pool_cells(pool: Pool) -> tuple[str, ...]:
    return (
        pool.name,
        pool.kind,
        "inside the code" if pool.is_internal else "passed by the caller",
        bytes_words(pool.size_bytes),
    )


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
        lines.append(f"{one_line(path)}: {version}{judged}")
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
        "check": _check_document(made.check) if made.check else None,
        "identity": made.identity,
        "member_count": made.member_count,
        "modules": list(made.modules),
        "notes": _note_documents(made.notes),
        "schema": EXPORT_SCHEMA,
    }


def _check_document(check: BirthCheck) -> dict[str, Any]:
    return {
        "input_count": check.inputs,
        "outputs": [
            {
                "dtype": item.dtype,
                "element_count": item.elements,
                "largest_deviation": item.largest,
                "limit": item.limit,
                "magnitude": item.magnitude,
                "name": item.output,
                "unequal_count": item.unequal,
            }
            for item in check.deviations
        ],
        "reference": check.reference,
    }


def export_text(made: Export, *, output: str) -> str:
    """Describe an export, for a person."""
    names = ", ".join(made.modules)
    plural = "" if len(made.modules) == 1 else "s"
    head = f"{output}: version {LATEST_VERSION}, module{plural} {names}, {made.member_count} members"
    text = _with_notes(head, made.identity, made.notes)
    return text + "".join(f"\n  {line}" for line in _check_lines(made.check)) if made.check else text


def _check_lines(check: BirthCheck) -> list[str]:
    """Tell how far each output is from the reference."""
    if not check.is_judged:
        return [f"unchecked  {check.reference} could not judge it"]
    plural = "" if check.inputs == 1 else "s"
    on = f"{check.reference}, on {check.inputs} input{plural}"
    return [f"checked   {one_line(item.output)}: {_deviation(item, on)}" for item in check.deviations]


def _deviation(item: OutputDeviation, on: str) -> str:
    if not item.unequal:
        return f"all {item.elements} elements equal to {on}"
    if item.dtype.startswith("float"):
        # A power of ten: the last bits of sums differ from processor to processor.
        return f"within 1e{math.ceil(math.log10(item.relative)):+03} of the largest output of {on}"
    units = "1 unit" if item.largest == 1 else f"{item.largest:g} units"
    return f"within {units} of {on}; {item.unequal} of {item.elements} elements differ"
