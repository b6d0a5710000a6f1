"""The functions of mlf/templates/operator_helpers.c for callers other than generated C: a shared library, and a rule for TVM's JIT."""

from __future__ import annotations

import ctypes
import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlf.csource import C_TYPES
from mlf.frontends.tvm.helpers import functions, operators
from mlf.frontends.tvm.releases import load_tvm

if TYPE_CHECKING:
    from collections.abc import Callable

_TYPES = {**C_TYPES, "int": "int32", "float": "float32"}


@cache
def load() -> ctypes.CDLL:
    """Compile the functions and load them for the whole process."""
    text = "#include <stdint.h>\n" + "\n".join(functions().values()).replace("static inline ", "")
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "helpers.c", Path(folder) / "libhelpers.so"
        source.write_text(text, encoding="utf-8")
        subprocess.run(
            ["gcc", "-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsanitize=undefined",
             "-fsanitize-undefined-trap-on-error", "-fno-sanitize=shift", "-shared", "-fPIC", source, "-o", library],
            check=True,
        )  # fmt: skip
        return ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


@cache
def teach_jit() -> None:
    """Let functions that TVM compiles for this machine call them, which the product never does."""
    load()
    tvm = load_tvm()
    register = getattr(tvm.tirx, "register_intrin_lowering", None) or tvm.ir.register_intrin_lowering
    for name, operator in operators().items():
        register(operator, target="llvm", f=_extern(name))


def _extern(name: str) -> Callable[[Any], Any]:
    """Call a function as C does, which converts arguments to what parameters are."""
    found = re.search(rf"{name}\((.*?)\)", functions()[name])
    assert found is not None
    kinds = [_TYPES[parameter.rpartition(" ")[0]] for parameter in found[1].split(", ")]

    def lower(call: Any) -> Any:
        kind = getattr(call, "dtype", None) or call.ty
        arguments = [item.astype(kind) for item, kind in zip(call.args, kinds, strict=True)]
        return load_tvm().tirx.call_pure_extern(str(getattr(kind, "dtype", kind)), name, *arguments)

    return lower
