"""Names: TVM's mangling of models and tensors, and which names a library may hold together.

The rules are those of TVM's `name_transforms.cc` and `relay/backend/utils.py` (0.8 to 0.18): `tvmgen_<model>_<name>` in C
files with the case kept, lower case in headers, upper case in macros; every byte of a tensor name that is no letter or
digit becomes an underscore.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlf.errors import NameClashError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DEFAULT_LIBRARY = "libmodels.a"
MODEL_NAME = re.compile(r"[a-z][a-z0-9_]*")
C_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
KEYWORDS = frozenset(
    """alignas alignof and and_eq asm auto bitand bitor bool break case catch char class co_await co_return co_yield compl
    concept const const_cast consteval constexpr constinit continue decltype default delete do double dynamic_cast else
    enum explicit export extern false float for friend goto if inline int long mutable namespace new noexcept not not_eq
    nullptr operator or or_eq private protected public register reinterpret_cast requires restrict return short signed
    sizeof static static_assert static_cast struct switch template this thread_local throw true try typedef typeid typename
    union unsigned using virtual void volatile wchar_t while xor xor_eq""".split()
)
# Macros of C's headers and of compilers, types, and what the generated main of a model declares beside its tensors.
_TAKEN = re.compile(
    r"""\w*_t|half|NULL|NAN|INFINITY|EOF|errno|linux|unix|i386|memcpy|U?INT\w*_(?:MIN|MAX|C)|SIZE_MAX|kTVM\w+|kDL\w+
    |DL[A-Z]\w+|TVM[A-Z]\w+|tvmgen_\w+|_[A-Z_]\w*|args|type_codes|num_args|arguments|set_argument|tensor_type|(?:u?int|float|bool|shape)\d*_\w+""",
    re.VERBOSE,
)
# TVM calls every model `default` unless told otherwise; it is a keyword, yet no generated name consists of it alone.
_HARMLESS_KEYWORDS = {"default"}
# What the library itself defines or declares; a model of this name would give a header of the same name.
_RESERVED_MODEL_NAMES = {"models", "mlf"}


def sanitize_tensor_name(name: str) -> str:
    """Give the C identifier that TVM makes of a tensor's name; an UTF-8 character becomes one underscore per byte."""
    return "".join(chr(byte) if chr(byte).isascii() and chr(byte).isalnum() else "_" for byte in name.encode())


def unique_c_names(names: Sequence[str]) -> tuple[str, ...]:
    """Make of any names, such as those of a model's tensors, names that C can have and whose macros all differ."""
    used = {"WORKSPACE", "GLOBAL_WORKSPACE", "INPUTS", "OUTPUTS"}
    found = []
    for name in names:
        plain = sanitize_tensor_name(name)
        plain = plain if plain and C_IDENTIFIER.fullmatch(plain) else f"t{plain}"
        plain = f"{plain}_" if plain in KEYWORDS or _TAKEN.fullmatch(plain) else plain
        chosen, number = plain, 1
        while chosen.upper() in used:
            chosen, number = f"{plain}_{number}", number + 1
        used.add(chosen.upper())
        found.append(chosen)
    return tuple(found)


def mangle_model(model: str) -> str:
    """Give the prefix of a model's symbols in C files, its case kept."""
    return f"tvmgen_{model}" if model else "tvmgen"


def mangle(model: str, name: str) -> str:
    """Give the symbol `name` of a model."""
    return f"{mangle_model(model)}_{name}"


def header_name(model: str) -> str:
    """Give the file name of a model's header."""
    return f"{mangle_model(model).lower()}.h"


def macro(model: str, *parts: str) -> str:
    """Give the macro of a model that the parts name, such as `TVMGEN_KWS_SAMPLES_SIZE`."""
    return "_".join([mangle_model(model), *parts]).upper()


def check_model_name(name: str, *, where: str) -> str:
    """Give `name` back if a library can have a model of it; raise NameClashError otherwise."""
    hint = f"give it another name: `{suggest_model_name(name)}={where}`"
    if not MODEL_NAME.fullmatch(name):
        raise NameClashError(
            f"`{name}` cannot be a model's name: expected a small letter, then small letters, digits and _",
            where=where,
            hint=hint,
        )
    if name in _RESERVED_MODEL_NAMES or (name in KEYWORDS and name not in _HARMLESS_KEYWORDS):
        what = "is a name of the library's own" if name in _RESERVED_MODEL_NAMES else "is a keyword of C or C++"
        raise NameClashError(f"`{name}` cannot be a model's name: it {what}", where=where, hint=hint)
    return name


def suggest_model_name(text: str) -> str:
    """Make a valid model name of any text, such as the stem of a file name."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    if not name or not name[0].isalpha():
        name = f"m{name}"
    return f"{name}_model" if name in KEYWORDS or name in _RESERVED_MODEL_NAMES else name


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedNames:
    """The names that one model puts into the library's headers and symbol table."""

    model: str
    owner: str
    names: tuple[str, ...]


def check_clashes(models: Sequence[GeneratedNames]) -> None:
    """Raise NameClashError, naming both owners, if two names of a model or of two models are one."""
    clashes = find_clashes(models)
    if clashes:
        raise NameClashError("; ".join(clashes), hint="give one of the models another name: `NAME=ARCHIVE`")


def find_clashes(models: Sequence[GeneratedNames]) -> list[str]:
    """List the names that a model makes twice, or two models both make, with both owners.

    `a` with an input `b_workspace` and `a_b` both make `TVMGEN_A_B_WORKSPACE_SIZE`.
    """
    owners: dict[str, GeneratedNames] = {}
    clashes = []
    for model in models:
        for name in sorted(_repeated(model.names)):
            clashes.append(f"`{model.model}` ({model.owner}) makes `{name}` twice")
        for name in sorted(set(model.names)):
            other = owners.setdefault(name, model)
            if other is not model:
                clashes.append(
                    f"`{other.model}` ({other.owner}) and `{model.model}` ({model.owner}) both make `{name}`"
                )
    return clashes


def _repeated(names: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    return {name for name in names if name in seen or seen.add(name)}  # type: ignore[func-returns-value]
