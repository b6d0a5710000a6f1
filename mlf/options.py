"""How the words of link options become values: sizes with units, pairs, lists."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mlf.arenas import ARENA_STYLES, ArenaOptions, Memory
from mlf.codegen import DEFAULT_REGISTRY
from mlf.errors import UsageError
from mlf.linker import LinkOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SIZE = re.compile(r"([0-9]{1,12})([KMG]?)(?:i?B)?")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_MEMORY_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECTION_NAME = re.compile(r"[A-Za-z0-9_.$]+")
_REGISTRY_NAME = re.compile(r"[a-z][a-z0-9_]*")
_BUDGETS = ("flash", "ram")
_CONSTANTS = "constants"


def link_options(  # noqa: PLR0913  # the options of a command
    *,
    arena: str = "shared",
    concurrent: Iterable[str] = (),
    memories: Iterable[str] = (),
    places: Iterable[str] = (),
    sections: Iterable[str] = (),
    is_folded: bool = True,
    registry: str = DEFAULT_REGISTRY,
    externs: Iterable[str] = (),
    budget: Iterable[str] = (),
) -> LinkOptions:
    """Make options of texts as the command line has them; raises UsageError, naming the option."""
    if arena not in ARENA_STYLES:
        raise UsageError(f"--arena is `{arena}`, expected {', '.join(ARENA_STYLES)}")
    if not _REGISTRY_NAME.fullmatch(registry) or registry == "model":
        raise UsageError(f"--registry is `{registry}`, expected small letters, digits and _, but not `model`")
    board = tuple(
        Memory(name=name, size_bytes=parse_size(text, "--memory"))
        for name, text in _pairs(memories, "--memory", _MEMORY_NAME)
    )
    constants, arenas = _sections(sections, {memory.name for memory in board})
    return LinkOptions(
        arenas=ArenaOptions(
            style=arena, concurrent=tuple(map(_group, concurrent)), memories=board, places=dict(_pairs(places, "--place")),
            sections=arenas,
        ),
        constants=constants, is_folded=is_folded, registry=registry, externs=tuple(externs), budget_bytes=parse_budget(budget),
    )  # fmt: skip


def parse_budget(texts: Iterable[str]) -> dict[str, int]:
    """Read budgets such as `flash=256K,ram=128K`."""
    found: dict[str, int] = {}
    for name, text in _pairs(texts, "--budget"):
        if name not in _BUDGETS:
            raise UsageError(f"--budget names `{name}`, expected {' or '.join(_BUDGETS)}")
        found[name] = parse_size(text, "--budget")
    return found


def parse_size(text: str, option: str) -> int:
    """Read a number of bytes, with K, M or G for 1024, its square and its cube."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise UsageError(f"{option} has the size `{text}`, expected a number of bytes such as 4096, 64K or 1M")
    return int(found[1]) * _UNITS[found[2]]


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _group(text: str) -> tuple[str, ...]:
    """Read models that may interrupt each other."""
    names = _words(text)
    if len(names) < 2 or len(set(names)) < len(names):
        hint = "name those that may interrupt each other in one option: `--concurrent A,B`"
        raise UsageError(f"--concurrent is `{text}`, expected two different models or more", hint=hint)
    return tuple(names)


def _pairs(texts: Iterable[str], option: str, names: re.Pattern[str] = re.compile(r".+")) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for word in (word for text in texts for word in _words(text) or [text]):
        name, equals, value = word.partition("=")
        if not equals or not value or not names.fullmatch(name):
            raise UsageError(f"{option} has `{word}`, expected NAME=VALUE")
        if name in seen:
            raise UsageError(f"{option} names `{name}` twice", hint=f"give it once: `{option} {word}`")
        seen.add(name)
        yield name, value


def _sections(texts: Iterable[str], memories: set[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Tell sections for constants, by model, from those for arenas, by memory."""
    constants: dict[str, str] = {}
    arenas: dict[str, str] = {}
    for name, section in _pairs(texts, "--section"):
        if not _SECTION_NAME.fullmatch(section):
            raise UsageError(f"--section has the section `{section}`, expected letters, digits, `.`, `_` and `$`")
        model, dot, what = name.rpartition(".")
        if what == _CONSTANTS and (dot == "" or model):
            constants[model] = section
        elif name == "arena" or name in memories:
            arenas[name] = section
        else:
            known = ", ".join(["arena", _CONSTANTS, f"MODEL.{_CONSTANTS}", *sorted(memories)])
            raise UsageError(f"--section names `{name}`, expected one of {known}")
    return constants, arenas
