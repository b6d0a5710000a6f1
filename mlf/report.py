"""What mlf tells: modules, plans and libraries as JSON documents and as text for people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from mlf.archive import Archive
    from mlf.demo import DemoResult
    from mlf.link import LinkPlan, PlannedModel
    from mlf.module import Module, Pool, Tensor
    from mlf.run import RunResult

INSPECT_SCHEMA = "mlf-inspect-v1"
PLAN_SCHEMA = "mlf-plan-v1"
RUN_SCHEMA = "mlf-run-v1"
_SHOWN_VALUES = 8  # of an output, to a person


def render_json(document: Mapping[str, Any]) -> str:
    """Write a JSON document as mlf prints all of them."""
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def tensor_document(tensor: Tensor) -> dict[str, Any]:
    """Describe an input or output."""
    return {
        "c_name": tensor.c_name,
        "dtype": tensor.dtype,
        "name": tensor.name,
        "shape": list(tensor.shape) if tensor.shape is not None else None,
        "size_bytes": tensor.size_bytes,
    }


def inspect_document(archive: Archive, modules: Sequence[Module]) -> dict[str, Any]:
    """Describe an archive and its modules; schema `inspect-v1`."""
    return {
        "archive": archive.label,
        "form": archive.form,
        "format_version": modules[0].version,
        "members": [{"name": member.name, "size_bytes": member.size_bytes} for member in archive.members],
        "modules": [_module_document(module) for module in modules],
        "schema": INSPECT_SCHEMA,
    }


def _module_document(module: Module) -> dict[str, Any]:
    return {
        "api": {"interface": module.interface, "operators": module.operators},
        "constants_bytes": module.constants_bytes,
        "devices": list(module.devices),
        "entrypoints": dict(module.entrypoints),
        "executors": list(module.executors),
        "findings": [
            {"code": item.code, "place": item.place, "said": item.said, "source": item.source}
            for item in module.findings
        ],
        "inputs": [tensor_document(tensor) for tensor in module.inputs],
        "memory_styles": list(module.memory_styles),
        "name": module.name,
        "objects": list(module.objects),
        "outputs": [tensor_document(tensor) for tensor in module.outputs],
        "pools": [pool_document(pool) for pool in module.pools],
        "sources": list(module.sources),
        "targets": list(module.metadata.targets),
        "workspace_bytes": module.workspace_bytes,
    }


def pool_document(pool: Pool) -> dict[str, Any]:
    """Describe a pool."""
    return {
        "alignment_bytes": pool.alignment_bytes,
        "is_internal": pool.is_internal,
        "kind": pool.kind,
        "name": pool.name,
        "size_bytes": pool.size_bytes,
    }


def inspect_text(archive: Archive, modules: Sequence[Module]) -> str:
    """Describe an archive for a person."""
    total = sum(member.size_bytes for member in archive.members)
    lines = [
        f"{archive.label}: Model Library Format version {modules[0].version}, {len(archive.members)} members, {total} bytes"
    ]
    for module in modules:
        lines += ["", *_module_lines(module)]
    lines += ["", "members"]
    width = max(len(str(member.size_bytes)) for member in archive.members)
    lines += [f"  {member.size_bytes:>{width}}  {member.name}" for member in archive.members]
    return "\n".join(lines)


def _module_lines(module: Module) -> list[str]:
    lines = [
        f"module {module.name}",
        f"  executor     {', '.join(module.executors)}",
        f"  api          interface {module.interface}, operators {module.operators}",
        f"  entrypoints  {', '.join(module.entrypoints.values()) or 'none'}",
    ]
    for kind, tensors in (("inputs", module.inputs), ("outputs", module.outputs)):
        lines += _table(kind, [_tensor_cells(tensor) for tensor in tensors])
    styles = f" ({', '.join(module.memory_styles)})" if module.memory_styles else ""
    lines.append(f"  workspace    {_bytes(module.workspace_bytes)}{styles}")
    lines.append(f"  constants    {_bytes(module.constants_bytes)}")
    lines += _table("pools", [_pool_cells(pool) for pool in module.pools])
    if module.devices:
        lines.append(f"  devices      {', '.join(module.devices)}")
    lines += [f"  note         {finding}" for finding in module.findings]
    return lines


def _table(title: str, rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    cells = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [f"  {title if index == 0 else '':<11}  {line}" for index, line in enumerate(cells)]


def _tensor_cells(tensor: Tensor) -> tuple[str, ...]:
    shape = "x".join(str(extent) for extent in tensor.shape) if tensor.shape is not None else "?"
    return tensor.name, tensor.dtype or "?", shape or "scalar", _bytes(tensor.size_bytes)


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
