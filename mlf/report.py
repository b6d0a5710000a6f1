"""What mlf tells: modules, plans and libraries as JSON documents and as text for people."""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from mlf.metadata import LATEST_VERSION, code_document, golden_document, pool_document, tensor_document
from mlf.strictjson import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy.typing as npt

    from mlf.arenas import Arena
    from mlf.check import Verdict
    from mlf.converter import Conversion, Note
    from mlf.demo import DemoResult
    from mlf.descriptor import Firmware, FirmwareModel, Place
    from mlf.differ import Change, Difference
    from mlf.exporter import Export
    from mlf.linker import LinkPlan, PlannedModel
    from mlf.metadata import BufferMetadata, Pool, Tensor
    from mlf.module import Module
    from mlf.reading import Contents
    from mlf.runner import Replay, RunResult
    from mlf.sizes import Sizes

INSPECT_SCHEMA = "mlf-inspect-v1"
PLAN_SCHEMA = "mlf-plan-v1"
RUN_SCHEMA = "mlf-run-v1"
VALIDATE_SCHEMA = "mlf-validate-v1"
CONVERT_SCHEMA = "mlf-convert-v1"
EXPORT_SCHEMA = "mlf-export-v1"
REPLAY_SCHEMA = "mlf-replay-v1"
DIFF_SCHEMA = "mlf-diff-v1"
FIRMWARE_SCHEMA = "mlf-firmware-v1"
SIZE_SCHEMA = "mlf-size-v1"
_WIDEST_COLUMN = 60  # a longer name only moves what is behind it
_SHOWN_VALUES = 8  # of an output, to a person
_SHOWN_DIGITS = 12  # of an identity, where a person tells models apart at a glance
_SHOWN_NAMES = 3  # of models that share something
_SHOWN_ROWS = 10  # of a long table: what is behind is small, and in the JSON document
_SHOWN_NAME_COLUMNS = 40
_BAR_COLUMNS = 30
_TEXT_COLUMNS = 100
_LENT_ARENA = "arena"  # the pool by which an application lends one
_FORM_NAMES = {"ar": "library", "elf": "ELF", "ihex": "Intel HEX", "raw": "raw bytes"}


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
            f"    workspace  {_bytes(model.interface.workspace_bytes)} ({styles})",
            f"    compiles   {', '.join(name.rsplit('/', 1)[-1] for name in model.module.sources) or 'nothing'}",
        ]
    lines += [
        _arena_line(arena.symbol, arena.size_bytes, arena.models, arena.memory, is_external=arena.is_external)
        for arena in plan.arenas
    ]
    return "\n".join(lines)


def _arena_line(symbol: str, size: int, models: Sequence[str], memory: str | None, *, is_external: bool) -> str:
    return f"  arena {symbol}: {size} bytes {_arena_place(memory, is_external=is_external)}, for {_listed(models)}"


def _arena_place(memory: str | None, *, is_external: bool) -> str:
    return "lent by the application" if is_external else f"in {memory}" if memory else "in the library"


def _listed(names: Sequence[str]) -> str:
    """Name a few, and count the others."""
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:_SHOWN_NAMES])} and {more} more"


def library_text(document: Mapping[str, Any], output: str) -> str:
    """Describe a finished library for a person."""
    rows = [["model", "flash", "ram", "arena", "archive"]]
    rows += [
        [*_part(model["name"], model["sizes"]), _arena_cell(model), model["archive"]] for model in document["models"]
    ]
    rows += [_arena_row(arena) for arena in document["arenas"]]
    rows += [_part("packed arguments", document["arguments"]["sizes"]), *_layout_rows(document)]
    rows.append(_part("total", document["totals"]))
    return "\n".join([*_grid(rows, "lrrrl"), f"{output}: {_library_words(document)}, bytes"])


def _part(name: str, sizes: Mapping[str, int]) -> list[str]:
    return [name, str(sizes["flash_bytes"]), str(sizes["ram_bytes"])]


def _arena_cell(model: Mapping[str, Any]) -> str:
    return str(model["arena"]["size_bytes"] if model["arena"] else 0)


def _arena_row(arena: Mapping[str, Any]) -> list[str]:
    place = f"in {arena['memory']}, " if arena["memory"] else ""
    name = "lent arena" if arena["is_external"] else "arena"
    return [*_part(name, arena["sizes"]), str(arena["size_bytes"]), f"{place}for {_listed(arena['models'])}"]


def _layout_rows(document: Mapping[str, Any]) -> list[list[str]]:
    """Give what the whole has more or less than its parts."""
    totals, folded = document["totals"], document["saved"]["folded_bytes"] + document["totals"]["merged_bytes"]
    rows = [["stored once", f"-{folded}", "0"]] if folded else []
    if totals["flash_padding_bytes"] or totals["ram_padding_bytes"]:
        rows.append(["alignment", str(totals["flash_padding_bytes"]), str(totals["ram_padding_bytes"])])
    return rows


def _library_words(document: Mapping[str, Any]) -> str:
    count = len(document["models"])
    return f"{count} model{'' if count == 1 else 's'} for {document['target']} ({document['machine']})"


def _grid(rows: Iterable[Sequence[str]], sides: str) -> list[str]:
    """Align the columns of a table, each to the side that `sides` has a letter for; rows may end early."""
    filled = [[_one_line(cell) for cell in row] + [""] * (len(sides) - len(row)) for row in rows]
    widths = [max(len(row[column]) for row in filled) for column in range(len(sides))]
    return [
        "  ".join(
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(row, widths, sides, strict=True)
        ).rstrip()
        for row in filled
    ]


def size_document(library: Node, *, source: str, budget_bytes: Mapping[str, int]) -> dict[str, Any]:
    """Take from the document of a library what tells its sizes, and compare with a budget; schema `size-v1`.

    Raises the error of `library` where it does not hold what is needed.
    """
    document = _picked(library, _SIZE_REPORT)
    budget = [
        {"kind": kind, "limit_bytes": limit, "size_bytes": document["totals"][f"{kind}_bytes"]}
        for kind, limit in sorted(budget_bytes.items())
    ]
    return {**document, "budget": budget, "schema": SIZE_SCHEMA, "source": source}


def _picked(node: Node, form: Mapping[str, Callable[[Node, str], Any]]) -> dict[str, Any]:
    return {key: take(node, key) for key, take in form.items()}


def _object(form: Mapping[str, Callable[[Node, str], Any]]) -> Callable[[Node, str], Any]:
    return lambda node, key: _picked(node.child(key), form)


def _objects(form: Mapping[str, Callable[[Node, str], Any]]) -> Callable[[Node, str], Any]:
    def take(node: Node, key: str) -> list[dict[str, Any]]:
        node.required(key)
        return [_picked(child, form) for child in node.children(key)]

    return take


def _or_null(take: Callable[[Node, str], Any]) -> Callable[[Node, str], Any]:
    return lambda node, key: None if node.required(key) is None else take(node, key)


def _names(node: Node, key: str) -> list[str]:
    return list(node.texts(key))


_SIZES_FORM = dict.fromkeys(("bss_bytes", "data_bytes", "flash_bytes", "ram_bytes", "text_bytes"), Node.size)
_IMAGE_FORM = {**_SIZES_FORM, **dict.fromkeys(("flash_padding_bytes", "merged_bytes", "ram_padding_bytes"), Node.size)}
_NEED_FORM = {
    "allocator": _object({"offset_bytes": Node.size, "size_bytes": Node.size, "source": Node.text}),
    "blocks": _objects({"name": Node.text, "offset_bytes": Node.size, "size_bytes": Node.size}),
    "lower_bound_bytes": Node.optional_size, "size_bytes": Node.size, "storage_bytes": Node.optional_size, "symbol": Node.text,
}  # fmt: skip
_MODEL_FORM: Mapping[str, Callable[[Node, str], Any]] = {
    "archive": Node.text,
    "arena": _or_null(_object(_NEED_FORM)),
    "descriptor_bytes": Node.size,
    "dropped_bytes": Node.size,
    "linked": _object(dict.fromkeys(("run", "tvm_module_main"), _object(_SIZES_FORM))),
    "name": Node.text,
    "needs": _names,
    "operators": _objects(
        {"code_bytes": Node.size, "constants_bytes": Node.size, "name": Node.text, "ram_bytes": Node.size, "role": Node.text}
    ),
    "pools": _objects({"alignment_bytes": Node.size, "kind": Node.text, "name": Node.text, "size_bytes": Node.optional_size}),
    "registry_bytes": Node.size,
    "sections": _objects({"kind": Node.text, "name": Node.text, "size_bytes": Node.size}),
    "shared": _objects({"flash_bytes": Node.size, "functions": _names, "name": Node.text, "ram_bytes": Node.size}),
    "sizes": _object(_SIZES_FORM),
    "stack": _objects(
        {"entrypoint": Node.text, "is_bounded": Node.boolean, "notes": _names, "path": _names, "size_bytes": Node.size}
    ),
}  # fmt: skip
_ARENA_FORM: Mapping[str, Callable[[Node, str], Any]] = {
    "alignment_bytes": Node.size, "is_external": Node.boolean, "member": Node.text, "memory": _or_null(Node.text), "models": _names,
    "section": Node.text, "size_bytes": Node.size, "sizes": _object(_SIZES_FORM), "symbol": Node.text,
}  # fmt: skip
_SIZE_REPORT: Mapping[str, Callable[[Node, str], Any]] = {
    "arenas": _objects(_ARENA_FORM),
    "arguments": _object({"member": Node.text, "sizes": _object(_SIZES_FORM)}),
    "compiler": _object({"family": Node.text, "version": Node.text}),
    "folded": _objects(
        {
            "is_code": Node.boolean, "models": _names, "saved_bytes": Node.size, "section": Node.text, "size_bytes": Node.size,
            "symbols": _names,
        }
    ),
    "linked": _object(dict.fromkeys(("registry", "run", "tvm_module_main"), _object(_IMAGE_FORM))),
    "machine": Node.text,
    "models": _objects(_MODEL_FORM),
    "registry": _object({"member": Node.text, "sizes": _object(_SIZES_FORM)}),
    "saved": _object(dict.fromkeys(("dropped_bytes", "folded_bytes", "shared_bytes"), Node.size)),
    "target": Node.text,
    "totals": _object(_IMAGE_FORM),
}  # fmt: skip


def size_text(document: Mapping[str, Any]) -> str:
    """Describe for a person what a library takes of flash and RAM, the largest first."""
    compiler = document["compiler"]
    parts = [
        [
            f"{document['source']}: {_library_words(document)}",
            f"compiled by {compiler['family']} {compiler['version']}; all sizes in bytes",
        ],
        _image_lines(document),
        _flash_lines(document),
        _arena_lines(document),
        _added_lines(document),
        _saved_lines(document),
        _stack_lines(document),
        *(_model_size_lines(model) for model in _largest(document["models"], "flash_bytes", "sizes")),
    ]
    hidden = len(document["models"]) - _SHOWN_ROWS
    parts += [[f"{hidden} more models are smaller; --json lists them too"]] if hidden > 0 else []
    return "\n\n".join("\n".join(map(_wrapped, part)) for part in parts if part)


def _wrapped(line: str) -> str:
    """Break a line that is too long for most terminals; a long word stays whole."""
    if len(line) <= _TEXT_COLUMNS:
        return line
    return "\n".join(textwrap.wrap(line, _TEXT_COLUMNS, subsequent_indent="    ", break_long_words=False))


def _largest(items: Iterable[Mapping[str, Any]], key: str, inside: str | None = None) -> list[Mapping[str, Any]]:
    return sorted(items, key=lambda item: -(item[inside] if inside else item)[key])[:_SHOWN_ROWS]


def _image_lines(document: Mapping[str, Any]) -> list[str]:
    """Tell what firmware takes that uses the library in one way or another."""
    linked = document["linked"]
    rows = [["in firmware", "flash", "RAM"], [*_part("everything", document["totals"]), "without --gc-sections"]]
    rows += [
        [*_part(f"models by {name}", linked[role]), "with --gc-sections"]
        for role, name in (("run", "run"), ("tvm_module_main", "tvm_module_main"), ("registry", "mlf_find_model"))
    ]
    rows += [[f"budget for {item['kind']}", *_budget_cells(item), _budget_words(item)] for item in document["budget"]]
    relaxed = "RISC-V" in document["machine"]
    return [
        *_grid(rows, "lrrl"),
        *(["linkers for RISC-V shorten code, so that an image may be smaller"] if relaxed else []),
    ]


def _budget_cells(item: Mapping[str, Any]) -> list[str]:
    return [str(item["limit_bytes"]) if item["kind"] == kind else "" for kind in ("flash", "ram")]


def _budget_words(item: Mapping[str, Any]) -> str:
    left = item["limit_bytes"] - item["size_bytes"]
    return f"{left} left" if left >= 0 else f"OVER by {-left}"


def _flash_lines(document: Mapping[str, Any]) -> list[str]:
    """Tell what everything is made of."""
    arenas = [("arena " + arena["symbol"], arena["sizes"]) for arena in document["arenas"]]
    models = [(model["name"], model["sizes"]) for model in document["models"]]
    known = [*models, *arenas, ("packed arguments", document["arguments"]["sizes"])]
    known.sort(key=lambda item: (-item[1]["flash_bytes"], -item[1]["ram_bytes"], item[0]))
    most = max(sizes["flash_bytes"] for _, sizes in known)
    rows = [["everything", "flash", "RAM"]]
    rows += [[*_part(name, sizes), _bar(sizes["flash_bytes"], most)] for name, sizes in known]
    return _grid([*rows, *_layout_rows(document), _part("total", document["totals"])], "lrrl")


def _bar(size: int, most: int) -> str:
    return "#" * -(-size * _BAR_COLUMNS // most) if most else ""


def _arena_lines(document: Mapping[str, Any]) -> list[str]:
    """Tell who shares which memory, and what the application lends."""
    lines: list[str] = []
    needs = {model["name"]: model["arena"] for model in document["models"]}
    for arena in document["arenas"]:
        place = _arena_place(arena["memory"], is_external=arena["is_external"])
        section = "" if arena["is_external"] else f", section {arena['section']}"
        lines.append(f"arena {arena['symbol']}: {arena['size_bytes']} {place}{section}")
        users = sorted((-(needs[name] or arena)["size_bytes"], name) for name in arena["models"] if name in needs)
        rows = [
            [f"  {name}", str(-size), _bar(-size, arena["size_bytes"]), _need_words(needs[name])]
            for size, name in users
        ]
        lines += _grid(_first(rows), "lrll")
    return [*lines, *_lent_lines(document)]


def _lent_lines(document: Mapping[str, Any]) -> list[str]:
    arenas = {name for arena in document["arenas"] if arena["is_external"] for name in arena["models"]}
    lent = [
        (model["name"], pool)
        for model in document["models"]
        for pool in model["pools"]
        if pool["name"] != _LENT_ARENA or model["name"] not in arenas  # told above
    ]
    lent.sort(key=lambda item: -(item[1]["size_bytes"] or 0))
    rows = [[f"  {name}", str(pool["size_bytes"] or "?"), f"{pool['kind']} {pool['name']}"] for name, pool in lent]
    return ["lent by the application, on top", *_grid(_first(rows), "lrl")] if rows else []


def _first(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Leave out the end of a long table, and count what is not shown."""
    hidden = len(rows) - _SHOWN_ROWS
    return list(rows) if hidden <= 1 else [*rows[:_SHOWN_ROWS], [f"  {hidden} more"]]


def _need_words(need: Mapping[str, Any] | None) -> str:
    if need is None:
        return ""
    allocated = need["allocator"]["size_bytes"]
    blocks = [f"{block['name']} {block['size_bytes']}" for block in need["blocks"]]
    return ", ".join([*blocks, *([f"allocated {allocated}"] if allocated else [])])


def _added_lines(document: Mapping[str, Any]) -> list[str]:
    """Tell what of the total the library adds to the models."""
    models, arenas = document["models"], document["arenas"]
    code: Counter[str] = Counter()
    for operator in (one for model in models for one in model["operators"]):
        code[operator["role"]] += operator["code_bytes"] + operator["constants_bytes"]
    guards = sum(arena["sizes"]["ram_bytes"] - (0 if arena["is_external"] else arena["size_bytes"]) for arena in arenas)
    rows = [
        ["added to the models", "flash", "RAM"],
        ["run: the guard of the arena, the call", str(code["run"]), "0"],
        ["tvm_module_main: checks, the call", str(code["tvm_module_main"]), "0"],
        ["check of packed arguments", *_part("", document["arguments"]["sizes"])[1:]],
        ["descriptors", str(sum(model["descriptor_bytes"] for model in models)), "0"],
        ["entries of the registry", str(sum(model["registry_bytes"] for model in models)), "0"],
        ["arenas: allocators, guards", str(sum(arena["sizes"]["flash_bytes"] for arena in arenas)), str(guards)],
        ["the registry, where it is used", *_part("", document["registry"]["sizes"])[1:]],
    ]
    return _grid(rows, "lrr")


def _saved_lines(document: Mapping[str, Any]) -> list[str]:
    saved = document["saved"]
    rows = [
        ["saved", "flash", "RAM"],
        ["memory that models share", "", str(saved["shared_bytes"])],
        ["stored once for several models", str(saved["folded_bytes"]), "", _folded_words(document["folded"])],
        ["dropped because nothing reaches it", str(saved["dropped_bytes"]), ""],
    ]
    return _grid(rows, "lrrl")


def _folded_words(groups: Sequence[Mapping[str, Any]]) -> str:
    code = sum(group["is_code"] for group in groups)
    return f"{code} functions, {len(groups) - code} constants" if groups else ""


def _stack_lines(document: Mapping[str, Any]) -> list[str]:
    """Tell the stack of the entrypoints that need most, and what their figures rest on."""
    uses = [
        {**use, "model": model["name"], "path": [_inner_name(name, model["name"]) for name in use["path"]]}
        for model in document["models"]
        for use in model["stack"]
    ]
    rows = [["stack", "", "bytes", "deepest path"]]
    for use in _largest(uses, "size_bytes"):
        size = str(use["size_bytes"]) if use["is_bounded"] else f">= {use['size_bytes']}"
        rows.append([use["model"], use["entrypoint"], size, " > ".join(_short(name) for name in use["path"])])
    more = [f"{len(uses) - _SHOWN_ROWS} more need less"] if len(uses) > _SHOWN_ROWS else []
    return [*_grid(rows, "llrl"), *more, *_note_lines(uses)]


def _note_lines(uses: Iterable[Mapping[str, Any]]) -> list[str]:
    owners: dict[str, list[str]] = defaultdict(list)
    for use in uses:
        for note in use["notes"]:
            if use["model"] not in owners[note]:
                owners[note].append(use["model"])
    notes = [f"note: {note} ({_listed(models)})" for note, models in sorted(owners.items())]
    hidden = [f"{len(notes) - _SHOWN_ROWS} more notes"] if len(notes) > _SHOWN_ROWS else []
    return [*notes[:_SHOWN_ROWS], *hidden]


def _inner_name(name: str, model: str) -> str:
    return name.removeprefix(f"tvmgen_{model}_")


def _short(name: str, width: int = _WIDEST_COLUMN // 2) -> str:
    """Leave out the middle of a long name: TVM's begin alike and end differently."""
    half = (width - 3) // 2
    return name if len(name) <= width else f"{name[:half]}...{name[-half:]}"


def _model_size_lines(model: Mapping[str, Any]) -> list[str]:
    """Tell what the functions and sections of a model take."""
    sizes, linked = model["sizes"], model["linked"]
    head = (
        f"{model['name']} ({model['archive']}): flash {sizes['flash_bytes']}, of it by run {linked['run']['flash_bytes']}, "
        f"by tvm_module_main {linked['tvm_module_main']['flash_bytes']}; RAM {sizes['ram_bytes']}"
    )
    rows = [["  function", "code", "constants", "RAM"], *_function_rows(model)]
    if model["shared"]:
        shared = [str(sum(one[key] for one in model["shared"])) for key in ("flash_bytes", "ram_bytes")]
        names = _listed([_short(one["name"]) for one in _largest(model["shared"], "flash_bytes")])
        rows.append(["  shared by several functions", "", *shared, names])
    sections = sorted(model["sections"], key=lambda one: (-one["size_bytes"], one["name"]))
    words = ", ".join(f"{one['name']} {one['size_bytes']}" for one in sections)
    return [head, *_grid(rows, "lrrrl"), f"  sections: {words}"]


def _function_rows(model: Mapping[str, Any]) -> list[list[str]]:
    def flash(one: Mapping[str, Any]) -> int:
        return int(one["code_bytes"] + one["constants_bytes"])

    keys = ("code_bytes", "constants_bytes", "ram_bytes")
    operators = sorted(model["operators"], key=lambda one: (-flash(one), one["name"]))
    shown, rest = operators[:_SHOWN_ROWS], operators[_SHOWN_ROWS:]
    names = [_short(_inner_name(one["name"], model["name"]), _SHOWN_NAME_COLUMNS) for one in shown]
    rows = [
        [f"  {name}", *(str(one[key]) for key in keys), _bar(flash(one), flash(shown[0]))]
        for name, one in zip(names, shown, strict=True)
    ]
    more = [f"  {len(rest)} more", *(str(sum(one[key] for one in rest)) for key in keys)]
    return [*rows, more] if rest else rows


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


def firmware_document(firmware: Firmware) -> dict[str, Any]:
    """Describe the models in an image; schema `firmware-v1`."""
    return {
        "faults": [{**_place_document(fault.place), "text": fault.text} for fault in firmware.faults],
        "file": firmware.label,
        "form": firmware.form,
        "machine": firmware.machine,
        "models": [_found_document(model) for model in firmware.models],
        "schema": FIRMWARE_SCHEMA,
    }


def _place_document(place: Place) -> dict[str, int | None]:
    return {"address": place.address, "offset": place.offset}


def _found_document(model: FirmwareModel) -> dict[str, Any]:
    said = model.descriptor
    return {
        "arena_bytes": said.arena_bytes,
        "entrypoints": list(said.entrypoints),
        "format_version": said.format_version,
        "identity": said.identity,
        "inputs": [tensor_document(tensor) for tensor in said.inputs],
        "mlf_version": said.mlf_version,
        "module": said.module,
        "name": said.name,
        "outputs": [tensor_document(tensor) for tensor in said.outputs],
        "places": [_place_document(place) for place in model.places],
    }


def firmware_text(firmware: Firmware) -> str:
    """Describe the models in an image for a person."""
    count = len(firmware.models)
    held = f"{count} model{'' if count == 1 else 's'}" if count else "no descriptor of a model"
    lines = [
        ", ".join(part for part in (f"{firmware.label}: {_FORM_NAMES[firmware.form]}", firmware.machine, held) if part)
    ]
    for model in firmware.models:
        lines += ["", *_found_lines(model)]
    lines += [""] if firmware.faults else []
    lines += [f"descriptor at {_place(fault.place)} {fault.text}" for fault in firmware.faults]
    return "\n".join(lines)


def _found_lines(model: FirmwareModel) -> list[str]:
    said = model.descriptor
    short = said.identity.removeprefix("sha256:")[:_SHOWN_DIGITS]
    lines = [
        f"model {_one_line(said.name)}  {short}",
        f"  identity     {said.identity}",
        f"  archive      module {_one_line(said.module)}, format version {said.format_version}",
        f"  linked by    mlf {_one_line(said.mlf_version)}",
        f"  entrypoints  {', '.join(said.entrypoints) or 'none'}",
    ]
    for kind, tensors in (("inputs", said.inputs), ("outputs", said.outputs)):
        cells = [(*map(_one_line, _tensor_cells(tensor)), _quantization(tensor)) for tensor in tensors]
        lines += _table(kind, cells)
    lines.append(f"  arena        {_bytes(said.arena_bytes)}")
    return lines + [f"  {'' if index else 'place':<11}  {_place(place)}" for index, place in enumerate(model.places)]


def _quantization(tensor: Tensor) -> str:
    said = tensor.quantization
    return f"scale {said.scale}, zero point {said.zero_point}" if said else ""


def _place(place: Place) -> str:
    known = (("address", place.address), ("offset", place.offset))
    return ", ".join(f"{what} {value:#x}" for what, value in known if value is not None)
