"""The C functions of templates/operator_helpers.c, and how expressions of TVM call them.

An operator calls a function where a person would: its C stays short, and a compiler that saves bytes keeps one copy.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from mlf import codegen
from mlf.frontends.tvm.releases import load_tvm, register_c_function

if TYPE_CHECKING:
    from collections.abc import Mapping

_FUNCTION = re.compile(r"^static inline \w+ (\w+)\(", re.MULTILINE)


@cache
def functions() -> Mapping[str, str]:
    """Read the definitions, each with its comment, by name; a function calls only those before it."""
    text = (codegen.TEMPLATES / "operator_helpers.c").read_text(encoding="utf-8")
    return {found[1]: f"{block.strip()}\n" for block in text.split("\n\n") if (found := _FUNCTION.search(block))}


@cache
def operators() -> Mapping[str, str]:
    """Register the functions with TVM; gives its operator for each."""
    return {name: register_c_function(name) for name in functions()}


def call(dtype: str, function: str, *arguments: Any) -> Any:
    """Call a function; integers of Python have 32 bits."""
    tirx = load_tvm().tirx
    numbers = (tirx.const(item, "int32") if isinstance(item, int) else item for item in arguments)
    return tirx.call_intrin(dtype, operators()[function], *numbers)


def definitions(text: str) -> list[str]:
    """List the definitions of what a text calls, and of what those call."""
    found: list[str] = []
    for name, definition in reversed(list(functions().items())):
        if re.search(rf"\b{name}\(", text + "".join(found)):
            found.insert(0, definition)
    return found
