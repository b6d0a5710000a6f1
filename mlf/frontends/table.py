"""Typed access to a decoded TOML document that nobody has checked: every fault names its place, and none hides another."""

from __future__ import annotations

import math
import re
import sys
from typing import TYPE_CHECKING, Any

from mlf import strictjson
from mlf.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MOST_INTEGER = 2**63 - 1  # what TOML promises to hold
_TOO_MUCH = "is not TOML that can be read: a number is too long or brackets are too deep"


def listed(faults: Sequence[str]) -> str:
    """Make one message of all faults, a line each; equal ones are one."""
    different = list(dict.fromkeys(faults))
    return different[0] if len(different) == 1 else "\n".join([f"{len(different)} faults:", *different])


def load_toml(text: str, label: str) -> dict[str, Any]:
    """Decode TOML; raises InputError, which names `label`, the line and the column."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.fullmatch(r"(?s)(.*) \(at (line [0-9]+, column [0-9]+|end of document)\)", str(error))
        words, where = (place[1], f"{place[2]}: ") if place else (str(error), "")
        raise InputError(f"is not TOML: {where}{words[:1].lower()}{words[1:]}", where=label) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise InputError(_TOO_MUCH, where=label) from error
    if _has_huge_number(document):  # one in hexadecimal digits, which Python reads but does not print
        raise InputError(_TOO_MUCH, where=label)
    return document


def _has_huge_number(document: object) -> bool:
    pending = [document]
    while pending:
        item = pending.pop()
        if isinstance(item, dict | list):
            pending += item.values() if isinstance(item, dict) else item
        elif isinstance(item, int) and not -_MOST_INTEGER - 1 <= item <= _MOST_INTEGER:
            return True
    return False


def shown(value: object) -> str:
    """Describe a value of a document as TOML spells it."""
    if isinstance(value, dict):
        return "a table"
    if not isinstance(value, str | int | float | list):
        return f"`{value}`"  # a date or time
    return strictjson.shown(value)


class Table:
    """A table of the document; a value that is not what it must be is noted as a fault, and a harmless one given."""

    def __init__(self, values: object, place: str, faults: list[str]) -> None:
        self.place = place
        self.faults = faults
        self.known: list[str] = []
        self.values: Mapping[str, object] = values if isinstance(values, dict) else {}
        if not isinstance(values, dict):
            self.fault(f"is {shown(values)}, expected a table")

    def fault(self, text: str) -> None:
        """Note a fault of the table."""
        self.faults.append(f"{self.place} {text}".strip())

    def has(self, key: str) -> bool:
        """Tell whether there is a value; from now on the key is known."""
        self.known.append(key)
        return key in self.values

    def refuse(self, key: str, expected: str) -> None:
        """Note that a value is missing or not what was expected."""
        if key in self.values:
            self.fault(f"`{key}` is {shown(self.values[key])}, expected {expected}")
        else:
            self.fault(f"`{key}` is missing")

    def text(self, key: str, default: str | None = None, pattern: re.Pattern[str] | None = None, form: str = "text") -> str:  # fmt: skip
        """Give text, not empty, that matches `pattern`, which a message calls `form`."""
        if not self.has(key) and default is not None:
            return default
        value = self.values.get(key)
        if isinstance(value, str) and value and "\0" not in value and (pattern is None or pattern.fullmatch(value)):
            return value
        self.refuse(key, form)
        return ""

    def choice(self, key: str, choices: tuple[str, ...], default: str | None = None) -> str:
        """Give one of the choices."""
        pattern = re.compile("|".join(map(re.escape, choices)))
        return self.text(key, default, pattern, " or ".join(f"`{choice}`" for choice in choices)) or choices[0]

    def integer(self, key: str, least: int, most: int, default: int | None = None) -> int:
        """Give a whole number that lies between two others."""
        if not self.has(key) and default is not None:
            return default
        value = self.values.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        self.refuse(key, f"a whole number from {least} to {most}")
        return least

    def number(self, key: str, default: float | None = None) -> float:
        """Give a number that is not negative."""
        if not self.has(key) and default is not None:
            return default
        value = self.values.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0:
            return float(value)
        self.refuse(key, "a number that is not negative")
        return 0.0

    def sequence(self, key: str, kinds: type | tuple[type, ...], expected: str) -> list[Any]:
        """Give a list of values of the kinds; a missing one is empty."""
        if not self.has(key):
            return []
        value = self.values[key]
        if isinstance(value, list) and all(isinstance(item, kinds) and not isinstance(item, bool) for item in value):
            return value
        self.refuse(key, f"a list of {expected}")
        return []

    def tables(self, key: str) -> list[Table]:
        """Give a list of tables, which is empty where the key is missing."""
        if not self.has(key):
            return []
        value = self.values[key]
        if not isinstance(value, list):
            self.refuse(key, f"tables that begin with `[[{key}]]`")
            return []
        return [Table(item, f"[[{key}]] {number}", self.faults) for number, item in enumerate(value, 1)]

    def table(self, key: str, *, is_required: bool = False) -> Table | None:
        """Give a table, or None where there is none."""
        if not self.has(key):
            if is_required:
                self.fault(f"[{key}] is missing")
            return None
        table = Table(self.values[key], f"[{key}]", self.faults)
        return table if isinstance(self.values[key], dict) else None

    def end(self) -> None:
        """Note every key that nobody asked for."""
        for key in self.values:
            if key not in self.known:
                self.fault(
                    f"`{key}` is unknown; known are {', '.join(f'`{name}`' for name in dict.fromkeys(self.known))}"
                )
