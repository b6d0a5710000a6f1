"""JSON that nobody has checked: strict decoding, and typed access in which every fault names its place."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from mlf.errors import MetadataError

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable, Mapping

    from mlf.errors import InputError

_JSON_DEPTH = 64  # metadata and graphs need less than ten; code that walks a document may recurse
_JSON_DIGITS = 20  # of an unsigned 64-bit number; Python's own limit (4,300) is newer than Python 3.10.0
_SHOWN_CHARACTERS = 40  # of a wrong value, in a message


def load_json(text: str, *, where: str) -> object:
    """Parse strict JSON; MetadataError, which names `where`, for what parsers read in different ways or not at all.

    Refused are a byte order mark, a key given twice, numbers that are not finite or have more digits than a 64-bit
    integer, lone surrogates, and documents that are nested too deeply to be walked.
    """
    if text.startswith("\ufeff"):
        raise MetadataError("begins with a byte order mark", where=where)
    try:
        value: object = json.loads(
            text,
            object_pairs_hook=partial(_unique, where=where),
            parse_constant=partial(_refuse_constant, where=where),
            parse_float=partial(_finite, where=where),
            parse_int=partial(_short_integer, where=where),
        )
    except json.JSONDecodeError as error:
        message = f"is not JSON: {error.msg.lower()} at line {error.lineno}, column {error.colno}"
        raise MetadataError(message, where=where) from error
    except RecursionError as error:
        raise _too_deep(where) from error
    _check_depth(value, where)
    _check_surrogates(value, where)
    return value


def _unique(pairs: list[tuple[str, object]], *, where: str) -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in pairs:
        if key in result:
            raise MetadataError(f"key {key!r} is given twice in one object", where=where)
        result[key] = value
    return result


def _refuse_constant(literal: str, *, where: str) -> float:
    raise MetadataError(f"has the number `{literal}`, which is not JSON", where=where)


def _finite(literal: str, *, where: str) -> float:
    value = float(literal)
    if math.isinf(value):
        raise MetadataError("has a number too large for a 64-bit float", where=where)
    return value


def _short_integer(literal: str, *, where: str) -> int:
    digits = len(literal.lstrip("-"))
    if digits > _JSON_DIGITS:
        raise MetadataError(f"has an integer of {digits} digits; at most {_JSON_DIGITS} are allowed", where=where)
    return int(literal)


def _too_deep(where: str) -> MetadataError:
    return MetadataError(f"is nested more than {_JSON_DEPTH} levels deep", where=where)


def _check_depth(value: object, where: str) -> None:
    level = [value]
    for _ in range(_JSON_DEPTH):
        level = [child for item in level for child in _children(item)]
    if any(isinstance(item, dict | list) for item in level):
        raise _too_deep(where)


def _children(item: object) -> Iterable[object]:
    if isinstance(item, dict):
        return item.values()
    return item if isinstance(item, list) else ()


def _check_surrogates(value: object, where: str) -> None:
    """Text that no output could encode is refused here, where its origin is known."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise MetadataError("has a string with a lone surrogate, which is not Unicode text", where=where) from error


class Node:
    """A JSON object and its place in the document `document` of the file `where`.

    `path` is the place as a text or, as names may be long and objects many, what gives it. Every method raises `error`,
    MetadataError unless told otherwise, if the document does not hold what it asks for.
    """

    def __init__(
        self,
        value: object,
        *,
        where: str,
        document: str,
        path: str | Callable[[], str] = "",
        error: type[InputError] = MetadataError,
    ) -> None:
        self.where = where
        self.document = document
        self.error = error
        self._path = path
        if not isinstance(value, dict):
            self.refuse(f"`{self.path}`" if path else "the document", value, "an object")
        self.value: Mapping[str, object] = value

    @property
    def path(self) -> str:
        """The place of the object in the document; empty at its top."""
        return self._path if isinstance(self._path, str) else self._path()

    def __contains__(self, key: str) -> bool:
        return key in self.value

    def keys(self) -> list[str]:
        """List the keys in the order of the document."""
        return list(self.value)

    def refuse(self, place: str, value: object, expected: str) -> NoReturn:
        """Raise the error for a value that is not what was expected."""
        self.fail(f"{place} is {shown(value)}, expected {expected}")

    def fail(self, message: str) -> NoReturn:
        """Raise the error."""
        raise self.error(f"{self.document}: {message}", where=self.where)

    def at(self, key: str) -> str:
        """Name the place of a key, as messages do."""
        return f"`{self._below(key)}`"

    def _below(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def required(self, key: str) -> object:
        """Give any value."""
        if key not in self.value:
            self.fail(f"{self.at(key)} is missing")
        return self.value[key]

    def is_null(self, key: str) -> bool:
        """Tell whether there is no value: the key is missing, or null."""
        return self.value.get(key) is None

    def text(self, key: str, pattern: re.Pattern[str] | None = None, form: str = "a string") -> str:
        """Give a string that matches `pattern`, which a message calls `form`."""
        value = self.required(key)
        if not isinstance(value, str) or (pattern and not pattern.fullmatch(value)):
            self.refuse(self.at(key), value, form)
        return value

    def integer(self, key: str) -> int:
        """Give a whole number."""
        value = self.required(key)
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(self.at(key), value, "a whole number")
        return value

    def number(self, key: str) -> float:
        """Give a number."""
        value = self.required(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(self.at(key), value, "a number")
        return float(value)

    def boolean(self, key: str) -> bool:
        """Give true or false."""
        value = self.required(key)
        if not isinstance(value, bool):
            self.refuse(self.at(key), value, "true or false")
        return value

    def size(self, key: str) -> int:
        """Give a size, which is not negative."""
        value = self.integer(key)
        if value < 0:
            self.refuse(self.at(key), value, "a size in bytes")
        return value

    def optional_size(self, key: str) -> int | None:
        """Give a size, or None where there is none."""
        return None if self.is_null(key) else self.size(key)

    def sequence(self, key: str) -> list[object]:
        """Give a list of anything."""
        value = self.required(key)
        if not isinstance(value, list):
            self.refuse(self.at(key), value, "a list")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Give a list of strings."""
        items = self.sequence(key)
        for item in items:
            if not isinstance(item, str):
                self.refuse(f"an item of {self.at(key)}", item, "a string")
        return tuple(str(item) for item in items)

    def shape(self, key: str) -> tuple[int, ...] | None:
        """Give a list of extents, or None where there is none."""
        if self.is_null(key):
            return None
        extents = self.sequence(key)
        for item in extents:
            if isinstance(item, bool) or not isinstance(item, int) or item < 0:
                self.refuse(f"an item of {self.at(key)}", item, "an extent")
        return tuple(item for item in extents if isinstance(item, int))

    def child(self, key: str) -> Node:
        """Give an object."""
        return self._node(self.required(key), lambda: self._below(key))

    def children(self, key: str) -> list[Node]:
        """Give a list of objects, which is empty where the key is missing."""
        items = self.sequence(key) if key in self.value else []
        return [self._node(item, partial(self._item, key, index)) for index, item in enumerate(items)]

    def _item(self, key: str, index: int) -> str:
        return f"{self._below(key)}[{index}]"

    def _node(self, value: object, path: Callable[[], str]) -> Node:
        return Node(value, where=self.where, document=self.document, path=path, error=self.error)


def shown(value: object) -> str:
    """Describe a value of a document as JSON spells it."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value, ensure_ascii=False)
    return f"`{text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + '...'}`"
