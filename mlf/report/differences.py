"""What mlf tells of the difference between two archives."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from mlf.report.text import WIDEST_COLUMN, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlf.differ import Change, Difference

DIFF_SCHEMA = "mlf-diff-v1"


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
        lines += ["", f"module {one_line(module)}" if module is not None else "archive", *_diff_lines(groups[module])]
    return "\n".join(lines)


def _diff_sign(change: Change) -> str:
    return "+" if change.before is None else "-" if change.after is None else "~"


def _diff_row(change: Change, sign: str) -> tuple[str, str, str, str]:
    kind = re.sub(r"-(?:added|removed|changed|renamed)\Z", "", change.kind)
    return sign, kind, one_line(change.place), one_line(_between(change.before, change.after))


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


def _diff_lines(rows: Sequence[tuple[str, str, str, str]]) -> list[str]:
    kind_width, place_width = (min(max(len(row[column]) for row in rows), WIDEST_COLUMN) for column in (1, 2))
    return [
        f"  {sign} {kind:<{kind_width}}  {place:<{place_width}}  {said}".rstrip() for sign, kind, place, said in rows
    ]
