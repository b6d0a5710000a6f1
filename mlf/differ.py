"""What changed between two archives, by meaning: not the order, dates, owners, compression or spelling of the same facts.

Most facts of a module are rows of a table, compared facet by facet. Weights are paired by content before names, so that a
renumbered constant is no change, and functions are compared with the weights that they name put in place of the names, so
that a swapped one is. What only one of the archives tells is no change; it is listed apart.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from mlf.archive import METADATA_NAME
from mlf.comparable import SHOWN_CHARACTERS, ModuleFacts, Side, Table, Weight, counted, read_side, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence
    from pathlib import Path

    from mlf.metadata import Tensor

    Facets = Mapping[str, str | None]

# Every kind of change, in the order in which they are told.
KINDS = (
    "format-version", "module-added", "module-removed", "module-renamed", "style", "executor", "target", "api", "code",
    "definition", "machine", "entrypoint", "input", "input-order", "output", "output-order", "buffer", "pool", "workspace",
    "constants", "operator-added", "operator-removed", "operator-changed", "declarations-changed", "weights-added",
    "weights-removed", "weights-changed", "weights-renamed", "graph-changed", "relay-changed", "header-changed",
    "object-changed", "symbol-added", "symbol-removed", "dependency", "test-added", "test-removed", "test-changed", "files",
)  # fmt: skip
_RANKS = {kind: rank for rank, kind in enumerate(KINDS)}
_SUFFIXED = ("symbol", "test")  # rows whose kind says whether they came, went or changed
_POOL_VARIABLE = re.compile(r"_([0-9]{1,9})_var(?![A-Za-z0-9])")
_WORD = re.compile(r"[A-Za-z_]\w*")


_Item = TypeVar("_Item")
_WeightPair = tuple[Weight, Weight]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One fact that differs: `before` is None for what only the second archive has, `after` for what only the first has.

    `module` is None for what belongs to the archive; `kind` is one of `KINDS`; `place` names the thing.
    """

    module: str | None
    kind: str
    place: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What differs between two archives, which `before` and `after` name.

    `unknown` are facts that only one of them tells; they are no changes. The side that tells nothing says `unknown`.
    """

    before: str
    after: str
    changes: tuple[Change, ...]
    unknown: tuple[Change, ...]

    @property
    def is_same(self) -> bool:
        """Tell whether nothing differs that both archives tell."""
        return not self.changes


def diff(before: Path, after: Path) -> Difference:
    """Compare two archives by what they mean; raises what `open_archive` and `read_modules` raise, and TensorError."""
    sides = (read_side(before), read_side(after))
    comparison = _Comparison()
    comparison.compare(*sides)
    return Difference(
        before=sides[0].label,
        after=sides[1].label,
        changes=tuple(sorted(comparison.changes, key=_order)),
        unknown=tuple(sorted(comparison.unknown, key=_order)),
    )


def _order(change: Change) -> tuple[object, ...]:
    module = (change.module is not None, change.module or "")
    return (*module, _RANKS[change.kind], change.place, change.before or "", change.after or "")


def _paired(
    before: Sequence[_Item], after: Sequence[_Item], key: Callable[[_Item], Hashable]
) -> tuple[list[tuple[_Item, _Item]], list[_Item], list[_Item]]:
    """Pair the items of one key in their order; gives the pairs and what is left on both sides."""
    waiting: dict[Hashable, deque[_Item]] = defaultdict(deque)
    for item in after:
        waiting[key(item)].append(item)
    pairs, rest = [], []
    for item in before:
        if found := waiting.get(key(item)):
            pairs.append((item, found.popleft()))
        else:
            rest.append(item)
    return pairs, rest, [item for items in waiting.values() for item in items]


class _Comparison:
    """Gathers the changes between two sides."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.unknown: list[Change] = []
        self.module: str | None = None

    def _add(self, kind: str, place: str, before: str | None, after: str | None) -> None:
        self.changes.append(self._change(kind, place, before, after))

    def _ask(self, kind: str, place: str, before: str | None, after: str | None) -> None:
        """Note a fact that only one side tells."""
        known = (before or "unknown", after or "unknown")
        self.unknown.append(self._change(kind, place, *known))

    def _change(self, kind: str, place: str, before: str | None, after: str | None) -> Change:
        # names in objects and parameters may hold lone surrogates, which no output could encode
        said = [None if item is None else _encodable(item) for item in (place, before, after)]
        return Change(module=self.module, kind=kind, place=said[0] or "", before=said[1], after=said[2])

    def compare(self, before: Side, after: Side) -> None:
        if before.version != after.version:
            self._add("format-version", METADATA_NAME, str(before.version), str(after.version))
        for role in sorted({*before.files, *after.files}):
            self._compare_files(role, before.files.get(role, {}), after.files.get(role, {}))
        for old, new in self._paired_modules(before.modules, after.modules):
            self.module = old
            if old != new:
                self._add("module-renamed", "name", old, new)
            self._compare_modules(before.modules[old], after.modules[new])

    def _paired_modules(
        self, before: Mapping[str, ModuleFacts], after: Mapping[str, ModuleFacts]
    ) -> list[tuple[str, str]]:
        """Pair modules of one name, and the only one that is left on either side."""
        gone, come = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
        pairs = [(name, name) for name in sorted(before.keys() & after.keys())]
        if len(gone) == len(come) == 1:
            return [*pairs, (gone[0], come[0])]
        for suffix, names, facts in (("removed", gone, before), ("added", come, after)):
            for name in names:
                self.module = name
                said = ", ".join(facts[name].module.executors) or facts[name].module.style
                self._add(f"module-{suffix}", "module", *((said, None) if suffix == "removed" else (None, said)))
        return pairs

    def _compare_files(self, role: str, before: Mapping[str, str], after: Mapping[str, str]) -> None:
        counts = {
            "added": len(after.keys() - before.keys()),
            "removed": len(before.keys() - after.keys()),
            "changed": sum(before[name] != after[name] for name in before.keys() & after.keys()),
        }
        if any(counts.values()):
            said = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
            old, new = (counted(len(files), "file") if files else None for files in (before, after))
            self._add("files", role, old, f"{new}: {said}" if old and new else new)

    def _compare_modules(self, before: ModuleFacts, after: ModuleFacts) -> None:
        is_hidden = before.is_opaque != after.is_opaque
        self._compare_tables(before.table, after.table, without={"object-changed"} if is_hidden else set())
        for kind in ("input", "output"):
            self._compare_order(kind, *(getattr(facts.module, f"{kind}s") for facts in (before, after)))
        names = self._compare_weights(before, after)
        if is_hidden:
            self._compare_function_names(before, after)
            return
        self._compare_functions(before, after, names)
        for place in sorted({*before.declarations, *after.declarations}):
            self._compare_declarations(place, before.declarations.get(place), after.declarations.get(place))
        for name in before.symbols ^ after.symbols:
            said = "defined"
            is_new = name in after.symbols
            self._add(
                f"symbol-{'added' if is_new else 'removed'}",
                name.removeprefix("tvmgen_"),
                *((None, said) if is_new else (said, None)),
            )

    def _compare_tables(self, before: Table, after: Table, *, without: set[str]) -> None:
        for key in {**before.rows, **after.rows}:
            kind, name, number = key
            place = name if number == 1 else f"{name} ({number})"
            old, new = before.rows.get(key), after.rows.get(key)
            if kind in without:
                continue
            if old is None or new is None:
                is_silent = kind in (before.silent if old is None else after.silent)
                self._compare_presence(kind, place, _said(old), _said(new), is_silent=is_silent)
            else:
                self._compare_facets(kind, place, old, new)

    def _compare_presence(
        self, kind: str, place: str, before: str | None, after: str | None, *, is_silent: bool
    ) -> None:
        word = f"{kind}-{'added' if before is None else 'removed'}" if kind in _SUFFIXED else kind
        (self._ask if is_silent else self._add)(word, place, before, after)

    def _compare_facets(self, kind: str, place: str, before: Facets, after: Facets) -> None:
        word = f"{kind}-changed" if kind in _SUFFIXED else kind
        for facet in {**before, **after}:
            old, new = (_labelled(facet, facets) for facets in (before, after))
            if old == new:
                continue
            is_told = all(facets.get(facet, "") is not None for facets in (before, after))
            (self._add if is_told else self._ask)(word, place, old, new)

    def _compare_order(self, kind: str, before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
        names = [[tensor.c_name for tensor in tensors] for tensors in (before, after)]
        common = set(names[0]) & set(names[1])
        orders = [", ".join(name for name in side if name in common) for side in names]
        if orders[0] != orders[1]:
            self._add(f"{kind}-order", f"{kind}s", *orders)

    def _compare_weights(self, before: ModuleFacts, after: ModuleFacts) -> tuple[_Names, _Names]:
        """Compare weights; gives the names that code has for them, where pairs have different ones."""
        pairs, gone, come = _paired_weights(before.weights, after.weights)
        for old, new in pairs:
            if not _is_equal(old, new):
                self._add("weights-changed", new.name, str(old), str(new))
            elif old.source == new.source == "" and old.name != new.name:
                self._add("weights-renamed", old.name, f"name {old.name}", f"name {new.name}")
        for old in gone:
            (self._ask if after.is_opaque else self._add)("weights-removed", old.name, str(old), None)
        for new in come:
            (self._ask if before.is_opaque else self._add)("weights-added", new.name, None, str(new))
        if all((old.source, old.identifier) == (new.source, new.identifier) for old, new in pairs):
            return _Names(), _Names()
        return _weight_names(pairs)

    def _compare_functions(self, before: ModuleFacts, after: ModuleFacts, names: tuple[_Names, _Names]) -> None:
        for name in {**before.functions, **after.functions}:
            definitions = [facts.functions.get(name, ()) for facts in (before, after)]
            plain, exact = (
                [_function_digest(*pair) for pair in zip(definitions, known, strict=True)]
                for known in ((_Names(), _Names()), names)
            )
            if exact[0] != exact[1]:
                what = "added" if exact[0] is None else "removed" if exact[1] is None else "changed"
                said = plain if plain[0] != plain[1] else exact  # the same text, but of other weights
                self._add(f"operator-{what}", name.removeprefix("tvmgen_"), *said)

    def _compare_function_names(self, before: ModuleFacts, after: ModuleFacts) -> None:
        """Compare the functions of code with those of objects, of which no more than the names can be compared."""
        sides = [
            {name.removeprefix("tvmgen_") for name in (*facts.functions, *facts.symbols) if name.startswith("tvmgen_")}
            for facts in (before, after)
        ]
        for name in sides[0] - sides[1]:
            self._add("operator-removed", name, "defined", None)
        for name in sides[1] - sides[0]:
            self._add("operator-added", name, None, "defined")

    def _compare_declarations(self, place: str, before: frozenset[str] | None, after: frozenset[str] | None) -> None:
        kind = "declarations-changed" if place == "code" else "header-changed"
        if before is None or after is None:
            said = [None if items is None else counted(len(items), "declaration") for items in (before, after)]
            self._add(kind, place, *said)
        elif before != after:
            self._add(kind, place, _examples(before - after), _examples(after - before))


def _encodable(words: str) -> str:
    return words.encode("utf-8", "backslashreplace").decode()


def _said(facets: Facets | None) -> str | None:
    """Describe a row in one line."""
    if facets is None:
        return None
    return ", ".join(f"{facet} {value}".strip() for facet, value in facets.items() if value is not None)


def _labelled(facet: str, facets: Facets) -> str | None:
    if facet not in facets:
        return None
    value = facets[facet]
    return f"{facet} {'unknown' if value is None else value}".strip()


def _examples(items: frozenset[str]) -> str:
    """Show the first of some declarations, and how many more there are."""
    if not items:
        return "nothing"
    first = min(items)
    shown = first if len(first) <= SHOWN_CHARACTERS else f"{first[:SHOWN_CHARACTERS]}..."
    return f"`{shown}`" + (f" and {len(items) - 1} more" if len(items) > 1 else "")


def _paired_weights(
    before: Sequence[Weight], after: Sequence[Weight]
) -> tuple[list[_WeightPair], list[Weight], list[Weight]]:
    """Pair weights by content before names; of a file of parameters by name first, because its names are looked up."""
    keys: tuple[Callable[[Weight], Hashable], ...] = (
        lambda item: (item.source, item.identifier, item.digest, item.dtype),
        lambda item: (item.name, item.digest, item.dtype),
        lambda item: (item.name,) if item.source == "" else id(item),
        lambda item: (item.digest, item.dtype),
        lambda item: (item.stripped, item.padded_bytes),
        lambda item: (item.name,),
    )
    pairs: list[_WeightPair] = []
    gone, come = list(before), list(after)
    for key in keys:
        found, gone, come = _paired(gone, come, key)
        pairs += found
    return pairs, gone, come


def _is_equal(before: Weight, after: Weight) -> bool:
    if before.dtype is None or after.dtype is None:  # a piece of a pool, which ends with padding
        return (before.stripped, before.padded_bytes) == (after.stripped, after.padded_bytes)
    is_typed = before.shape is not None and after.shape is not None and before.shape != after.shape
    return not is_typed and (before.digest, before.dtype) == (after.digest, after.dtype)


@dataclass(slots=True, kw_only=True)
class _Names:
    """What code calls weights, and what is put in place of that: in one source, and wherever else."""

    own: dict[tuple[str, str], str] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)

    def add(self, weight: Weight, token: str) -> None:
        self.own[weight.source, weight.identifier] = token
        self.shared[weight.identifier] = token

    def applied(self, source: str, words: str) -> str:
        """Put the weights in place of their names."""
        if not self.shared:
            return words
        return _WORD.sub(lambda found: self.own.get((source, found[0])) or self.shared.get(found[0], found[0]), words)


def _weight_names(pairs: Sequence[_WeightPair]) -> tuple[_Names, _Names]:
    names = (_Names(), _Names())
    for index, pair in enumerate(pairs):
        token = f"@{pair[1].stripped}_{pair[1].padded_bytes}" if _is_equal(*pair) else f"@changed{index}"
        for side, weight in zip(names, pair, strict=True):
            side.add(weight, token)
    return names


def _function_digest(definitions: Sequence[tuple[str, str]], names: _Names) -> str | None:
    """Digest the definitions of a function; there may be several, in different files."""
    if not definitions:
        return None
    texts = sorted(_renumbered(names.applied(source, words)) for source, words in definitions)
    return f"sha256 {shortened(chr(0).join(texts))}"


def _renumbered(words: str) -> str:
    """Number the variables for pools by their order in the function: TVM counts them through all functions."""
    numbers: dict[str, int] = {}
    return _POOL_VARIABLE.sub(lambda found: f"_{numbers.setdefault(found[1], len(numbers))}_var", words)
