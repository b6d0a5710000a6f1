"""What mlf tells of libraries, planned and finished."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlf.metadata import tensor_document
from mlf.report.text import bytes_words, grid, listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlf.arenas import Arena
    from mlf.demo import DemoResult
    from mlf.linker import LinkPlan, PlannedModel
    from mlf.sizes import Sizes

PLAN_SCHEMA = "mlf-plan-v1"


def plan_document(plan: LinkPlan) -> dict[str, Any]:
    """Describe what a link would do; schema `plan-v1`."""
    return {
        "arenas": [arena_document(arena) for arena in plan.arenas],
        "compiler": {"family": plan.compiler.family, "version": plan.compiler.version},
        "library": plan.output.name,
        "models": [_planned_document(model) for model in plan.models],
        "schema": PLAN_SCHEMA,
        "target": plan.compiler.target.name,
    }


def _planned_document(model: PlannedModel) -> dict[str, Any]:
    return {
        **model_document(model),
        "main": {"convention": model.call.convention, "function": model.call.function},
        "objects": list(model.module.objects),
        "sources": list(model.module.sources),
    }


def model_document(model: PlannedModel) -> dict[str, Any]:
    """Describe a model of a library as far as the plan knows it; `plan-v1` and `library-v1` share this part."""
    module, interface = model.module, model.interface
    return {
        "archive": module.archive,
        "arena": _need_document(model),
        "constants_bytes": module.constants_bytes,
        "devices": list(interface.devices),
        "entrypoints": model.entrypoints,
        "format_version": module.version,
        "header": interface.header,
        "inputs": [tensor_document(tensor) for tensor in interface.inputs],
        "io_places": [{"offset_bytes": place.offset_bytes, "pool": place.pool} for place in interface.io_places],
        "member": model.member,
        "memory_styles": list(module.memory_styles),
        "module": module.name,
        "name": interface.name,
        "outputs": [tensor_document(tensor) for tensor in interface.outputs],
        "workspace_bytes": interface.workspace_bytes,
    }


def _need_document(model: PlannedModel) -> dict[str, Any] | None:
    """Describe what a model needs of its arena."""
    need, arena = model.need, model.arena
    if need is None or arena is None:
        return None
    program = model.program
    return {
        "allocator": {"offset_bytes": need.static_bytes, "size_bytes": need.allocator_bytes, "source": need.source},
        "blocks": [
            {"name": block.name, "offset_bytes": block.offset_bytes, "size_bytes": block.size_bytes} for block in need.blocks
        ],
        "lower_bound_bytes": program.lower_bound_bytes if program else None,
        "size_bytes": need.size_bytes,
        "storage_bytes": program.storage_bytes if program else None,
        "symbol": arena.symbol,
    }  # fmt: skip


def arena_document(arena: Arena, sizes: Sizes | None = None) -> dict[str, Any]:
    """Describe an arena; the sizes of its object are known once it is built."""
    document = {
        "alignment_bytes": arena.alignment_bytes,
        "is_external": arena.is_external,
        "member": arena.member,
        "memory": arena.memory,
        "models": list(arena.models),
        "section": arena.section,
        "size_bytes": arena.size_bytes,
        "symbol": arena.symbol,
    }
    return document | ({"sizes": sizes.document()} if sizes else {})


def plan_text(plan: LinkPlan) -> str:
    """Describe what a link would do, for a person."""
    lines = [f"{plan.output} for {plan.compiler.target.name}, compiled by {plan.compiler.name} {plan.compiler.version}"]
    for model in plan.models:
        styles = ", ".join(model.module.memory_styles) or "no workspace"
        lines += [
            f"  {model.name}: module `{model.module.name}` of {model.path} (version {model.module.version})",
            f"    entrypoint {model.interface.run_symbol}, which calls {model.call.function} ({model.call.convention})",
            f"    workspace  {bytes_words(model.interface.workspace_bytes)} ({styles})",
            f"    compiles   {', '.join(name.rsplit('/', 1)[-1] for name in model.module.sources) or 'nothing'}",
        ]
    lines += [
        _arena_line(arena.symbol, arena.size_bytes, arena.models, arena.memory, is_external=arena.is_external)
        for arena in plan.arenas
    ]
    return "\n".join(lines)


def _arena_line(symbol: str, size: int, models: Sequence[str], memory: str | None, *, is_external: bool) -> str:
    return f"  arena {symbol}: {size} bytes {arena_place(memory, is_external=is_external)}, for {listed(models)}"


def arena_place(memory: str | None, *, is_external: bool) -> str:
    """Tell where an arena lies."""
    return "lent by the application" if is_external else f"in {memory}" if memory else "in the library"


def library_text(document: Mapping[str, Any], output: str) -> str:
    """Describe a finished library for a person."""
    rows = [["model", "flash", "ram", "arena", "archive"]]
    rows += [
        [*part(model["name"], model["sizes"]), _arena_cell(model), model["archive"]] for model in document["models"]
    ]
    rows += [_arena_row(arena) for arena in document["arenas"]]
    rows += [part("packed arguments", document["arguments"]["sizes"]), *layout_rows(document)]
    rows.append(part("total", document["totals"]))
    return "\n".join([*grid(rows, "lrrrl"), f"{output}: {library_words(document)}, bytes"])


def part(name: str, sizes: Mapping[str, int]) -> list[str]:
    """Give the cells that tell flash and RAM of a part."""
    return [name, str(sizes["flash_bytes"]), str(sizes["ram_bytes"])]


def _arena_cell(model: Mapping[str, Any]) -> str:
    return str(model["arena"]["size_bytes"] if model["arena"] else 0)


def _arena_row(arena: Mapping[str, Any]) -> list[str]:
    place = f"in {arena['memory']}, " if arena["memory"] else ""
    name = "lent arena" if arena["is_external"] else "arena"
    return [*part(name, arena["sizes"]), str(arena["size_bytes"]), f"{place}for {listed(arena['models'])}"]


def layout_rows(document: Mapping[str, Any]) -> list[list[str]]:
    """Give what the whole has more or less than its parts."""
    totals, folded = document["totals"], document["saved"]["folded_bytes"] + document["totals"]["merged_bytes"]
    rows = [["stored once", f"-{folded}", "0"]] if folded else []
    if totals["flash_padding_bytes"] or totals["ram_padding_bytes"]:
        rows.append(["alignment", str(totals["flash_padding_bytes"]), str(totals["ram_padding_bytes"])])
    return rows


def library_words(document: Mapping[str, Any]) -> str:
    """Tell how many models a library has, and for what."""
    count = len(document["models"])
    return f"{count} model{'' if count == 1 else 's'} for {document['target']} ({document['machine']})"


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
