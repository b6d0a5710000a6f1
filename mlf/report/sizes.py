"""What mlf tells of the sizes of a library."""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from mlf.report.libraries import arena_place, layout_rows, library_words, part
from mlf.report.text import WIDEST_COLUMN, grid, listed
from mlf.strictjson import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

SIZE_SCHEMA = "mlf-size-v1"
_SHOWN_ROWS = 10  # of a long table: what is behind is small, and in the JSON document
_SHOWN_NAME_COLUMNS = 40
_BAR_COLUMNS = 30
_TEXT_COLUMNS = 100
_LENT_ARENA = "arena"  # the pool by which an application lends one


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
            f"{document['source']}: {library_words(document)}",
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
    words = "model is" if hidden == 1 else "models are"
    parts += [[f"{hidden} more {words} smaller; --json lists them too"]] if hidden > 0 else []
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
    rows = [["in firmware", "flash", "RAM"], [*part("everything", document["totals"]), "without --gc-sections"]]
    rows += [
        [*part(f"models by {name}", linked[role]), "with --gc-sections"]
        for role, name in (("run", "run"), ("tvm_module_main", "tvm_module_main"), ("registry", "the registry"))
    ]
    rows += [[f"budget for {item['kind']}", *_budget_cells(item), _budget_words(item)] for item in document["budget"]]
    relaxed = "RISC-V" in document["machine"]
    return [
        *grid(rows, "lrrl"),
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
    rows += [[*part(name, sizes), _bar(sizes["flash_bytes"], most)] for name, sizes in known]
    return grid([*rows, *layout_rows(document), part("total", document["totals"])], "lrrl")


def _bar(size: int, most: int) -> str:
    return "#" * -(-size * _BAR_COLUMNS // most) if most else ""


def _arena_lines(document: Mapping[str, Any]) -> list[str]:
    """Tell who shares which memory, and what the application lends."""
    lines: list[str] = []
    needs = {model["name"]: model["arena"] for model in document["models"]}
    for arena in document["arenas"]:
        place = arena_place(arena["memory"], is_external=arena["is_external"])
        section = "" if arena["is_external"] else f", section {arena['section']}"
        lines.append(f"arena {arena['symbol']}: {arena['size_bytes']} {place}{section}")
        users = sorted((-(needs[name] or arena)["size_bytes"], name) for name in arena["models"] if name in needs)
        rows = [
            [f"  {name}", str(-size), _bar(-size, arena["size_bytes"]), _need_words(needs[name])]
            for size, name in users
        ]
        lines += grid(_first(rows), "lrll")
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
    return ["lent by the application, on top", *grid(_first(rows), "lrl")] if rows else []


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
        ["check of packed arguments", *part("", document["arguments"]["sizes"])[1:]],
        ["descriptors", str(sum(model["descriptor_bytes"] for model in models)), "0"],
        ["entries of the registry", str(sum(model["registry_bytes"] for model in models)), "0"],
        ["arenas: allocators, guards", str(sum(arena["sizes"]["flash_bytes"] for arena in arenas)), str(guards)],
        ["the registry, where it is used", *part("", document["registry"]["sizes"])[1:]],
    ]
    return grid(rows, "lrr")


def _saved_lines(document: Mapping[str, Any]) -> list[str]:
    saved = document["saved"]
    rows = [
        ["saved", "flash", "RAM"],
        ["memory that models share", "", str(saved["shared_bytes"])],
        ["stored once for several models", str(saved["folded_bytes"]), "", _folded_words(document["folded"])],
        ["dropped because nothing reaches it", str(saved["dropped_bytes"]), ""],
    ]
    return grid(rows, "lrrl")


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
    return [*grid(rows, "llrl"), *more, *_note_lines(uses)]


def _note_lines(uses: Iterable[Mapping[str, Any]]) -> list[str]:
    owners: dict[str, list[str]] = defaultdict(list)
    for use in uses:
        for note in use["notes"]:
            if use["model"] not in owners[note]:
                owners[note].append(use["model"])
    notes = [f"note: {note} ({listed(models)})" for note, models in sorted(owners.items())]
    hidden = [f"{len(notes) - _SHOWN_ROWS} more notes"] if len(notes) > _SHOWN_ROWS else []
    return [*notes[:_SHOWN_ROWS], *hidden]


def _inner_name(name: str, model: str) -> str:
    return name.removeprefix(f"tvmgen_{model}_")


def _short(name: str, width: int = WIDEST_COLUMN // 2) -> str:
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
        names = listed([_short(one["name"]) for one in _largest(model["shared"], "flash_bytes")])
        rows.append(["  shared by several functions", "", *shared, names])
    sections = sorted(model["sections"], key=lambda one: (-one["size_bytes"], one["name"]))
    words = ", ".join(f"{one['name']} {one['size_bytes']}" for one in sections)
    return [head, *grid(rows, "lrrrl"), f"  sections: {words}"]


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
