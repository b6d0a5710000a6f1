"""Which names a library may need from the firmware around it, and what supplies them.

Always the C library's memory functions, mathematics, what compilers call on their own, and names that linkers make. The
functions of a backend's library only where the code says that it uses it: by including its header, or by the user's word.
Anything else that a model needs is an error at link time: it would be a wrong or a missing function later.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_LIBC = """memcpy memset memmove memcmp memchr malloc calloc realloc free abort strlen strcmp strncmp strcpy strncpy
    printf puts putchar fprintf"""
_LIBM = """acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp2 expm1 fabs fdim floor fma
    fmax fmin fmod frexp hypot ilogb ldexp lgamma llrint llround log log10 log1p log2 logb lrint lround modf nearbyint
    nextafter pow remainder remquo rint round scalbln scalbn sin sincos sinh sqrt tan tanh tgamma trunc"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """Names that one thing supplies, and the headers by which C asks for it: none where any firmware has it."""

    names: frozenset[str] = frozenset()
    patterns: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()

    def has(self, name: str) -> bool:
        return name in self.names or any(re.fullmatch(pattern, name) for pattern in self.patterns)


_ALWAYS = {
    "c-library": _Family(names=frozenset(_LIBC.split()), patterns=(r"__(?:mem(?:cpy|set|move)|printf|fprintf)_chk",)),
    "math": _Family(
        names=frozenset(name + suffix for name in _LIBM.split() for suffix in ("", "f", "l")),
        patterns=(r"__isnan[fl]?|__isinf[fl]?|__finite[fl]?|__fpclassify[fd]?|__signbit[fd]?",),
    ),
    "compiler": _Family(
        patterns=(
            r"__aeabi_\w+",  # ARM run-time ABI helpers
            r"__gnu_[a-z0-9_]+",  # libgcc: half floats, case tables
            (
                r"__(?:add|sub|mul|div|udiv|mod|umod|divmod|udivmod|neg|cmp|ucmp|ashl|ashr|lshr|clz|ctz|ffs|popcount|parity|"
                r"bswap|abs|addv|subv|mulv|negv|absv|mulo|clrsb|powi|fix|fixuns|float|floatun|floatuns|extend|trunc|"
                r"eq|ne|lt|le|gt|ge|unord|mulc|divc)(?:[sdthqxbk][fidc]|[sdxt]i[sdt]f)+[0-9]?"
            ),  # libgcc and compiler-rt arithmetic
            r"__riscv_(?:save|restore)_\d+",
            r"__mips16_\w+",
            r"__aarch64_(?:cas|swp|ldadd|ldclr|ldeor|ldset)\d+_(?:relax|acq|rel|acq_rel|sync)",  # atomics, out of line
            r"__atomic_\w+|__sync_\w+",
            r"__stack_chk_(?:fail|guard|fail_local)",
            r"__tls_get_addr",
            r"__cxa_\w+|__gxx_personality_v0|_Unwind_\w+|_Z(?:nw|na|dl|da)[A-Za-z0-9_]*|_ZTVN10__cxxabiv1\w+",
        )
    ),
    "linker": _Family(
        patterns=(
            r"_GLOBAL_OFFSET_TABLE_|_gp_disp|__gnu_local_gp|__ehdr_start|__dso_handle",
            r"__(?:start|stop)_\w+",
        )
    ),
}

# The libraries of Arm share their prefix and types, so that some names may be either one's.
_TYPES = r"(?:[fq](?:7|15|16|31|32|64)|u(?:8|16|32))(?:_\w+)?"
_QUANTISED = r"s(?:4|8|16|64)(?:_\w+)?"
_BACKENDS = {
    "cmsis-nn": _Family(
        patterns=(
            rf"arm_nn_\w+|arm_q7_to_q15_\w+|arm_\w+_{_QUANTISED}",
            (
                r"arm_(?:\w+_)?(?:convolve|depthwise|transpose_conv|fully_connected|softmax|relu6?|(?:max_?|ave_?|avg_?)?pool|elementwise|"
                r"maximum|minimum|batch_matmul|batch_norm|concatenation|reshape|svdf|lstm|get_buffer_size)_\w+"
            ),
        ),
        headers=("arm_nnfunctions.h", "arm_nnsupportfunctions.h", "arm_nn_types.h"),
    ),
    "cmsis-dsp": _Family(
        patterns=(rf"arm_\w+_{_TYPES}", r"arm_\w+_instance\w*"),
        headers=("arm_math.h", "arm_math_f16.h", "arm_math_types.h"),
    ),
    "ethos-u": _Family(
        patterns=(r"TVMEthosULaunch", r"ethosu_\w+"),
        headers=("tvm_ethosu_runtime.h", "ethosu_driver.h"),
    ),
    "device-hooks": _Family(
        patterns=(r"TVMDevice\w+?(?:Activate|Open|Close|Deactivate)",),
        headers=("tvm_ethosu_runtime.h",),
    ),
    "nmsis-nn": _Family(
        patterns=(rf"riscv_nn_\w+|riscv_\w+_{_QUANTISED}",),
        headers=("riscv_nnfunctions.h", "riscv_nnsupportfunctions.h"),
    ),
    "nmsis-dsp": _Family(patterns=(rf"riscv_\w+_{_TYPES}",), headers=("riscv_math.h",)),
    "muriscv-nn": _Family(
        patterns=(r"muriscv_nn_\w+",), headers=("muriscv_nn_functions.h", "muriscv_nn_support_functions.h")
    ),
    "esp-nn": _Family(patterns=(r"esp_nn_\w+",), headers=("esp_nn.h",)),
}


def declared_families(include_names: Iterable[str]) -> frozenset[str]:
    """List the backends whose libraries C asks for by the headers that it includes, as they stand in `#include`."""
    files = {name.rpartition("/")[2] for name in include_names}
    return frozenset(family for family, item in _BACKENDS.items() if files.intersection(item.headers))


def is_allowed(name: str, *, declared: Collection[str] = (), extra: Collection[str] = ()) -> bool:
    """Tell whether firmware can be expected to supply `name`.

    `declared` are the families of backends whose libraries will be there (`device-hooks` also where a model has devices),
    `extra` patterns of names with `*` for any characters.
    """
    families = (*_ALWAYS.values(), *(item for family, item in _BACKENDS.items() if family in declared))
    return any(item.has(name) for item in families) or any(fnmatchcase(name, pattern) for pattern in extra)
