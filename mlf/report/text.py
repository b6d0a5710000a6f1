"""What all reports share: JSON as mlf prints it, and words and tables for people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlf.metadata import Tensor

WIDEST_COLUMN = 60  # a longer name only moves what is behind it
_SHOWN_NAMES = 3  # of models that share something


def render_json(document: Mapping[str, Any]) -> str:
    """Write a JSON document as mlf prints all of them."""
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def table(title: str, rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Align the columns of a table that stands behind its title."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    cells = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [f"  {title if index == 0 else '':<11}  {line}" for index, line in enumerate(cells)]


def grid(rows: Iterable[Sequence[str]], sides: str) -> list[str]:
    """Align the columns of a table, each to the side that `sides` has a letter for; rows may end early."""
    filled = [[one_line(cell) for cell in row] + [""] * (len(sides) - len(row)) for row in rows]
    widths = [max(len(row[column]) for row in filled) for column in range(len(sides))]
    return [
        "  ".join(
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(row, widths, sides, strict=True)
        ).rstrip()
        for row in filled
    ]


def one_line(words: str) -> str:
    """Give a text on one line of a terminal: what archives hold may be anything."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in words)


def listed(names: Sequence[str]) -> str:
    """Name a few, and count the others."""
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:_SHOWN_NAMES])} and {more} more"


def tensor_cells(tensor: Tensor) -> tuple[str, ...]:
    """Give what a table tells of a tensor."""
    return tensor.name, tensor.dtype or "?", shape_words(tensor.shape), bytes_words(tensor.size_bytes)


def shape_words(shape: tuple[int, ...] | None) -> str:
    """Tell a shape: `1x64`."""
    return "?" if shape is None else "x".join(str(extent) for extent in shape) or "scalar"


def bytes_words(size: int | None) -> str:
    """Tell a size in bytes, which may be unknown."""
    return "unknown" if size is None else f"{size} bytes"
