"""Which names a library may need from the firmware around it.

Libc's memory functions, libm, what compilers call on their own, and names that linkers make. Anything else that a model
needs is an error at link time: it would be a wrong or a missing function later.
"""

from __future__ import annotations

import re

_LIBC = """memcpy memset memmove memcmp memchr malloc calloc realloc free abort strlen strcmp strncmp strcpy strncpy
    printf puts putchar fprintf"""
_LIBM = """acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp2 expm1 fabs fdim floor fma
    fmax fmin fmod frexp hypot ilogb ldexp lgamma llrint llround log log10 log1p log2 logb lrint lround modf nearbyint
    nextafter pow remainder remquo rint round scalbln scalbn sin sincos sinh sqrt tan tanh tgamma trunc"""
_PLAIN = frozenset(_LIBC.split()) | {name + suffix for name in _LIBM.split() for suffix in ("", "f", "l")}

_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        r"__aeabi_\w+",  # ARM run-time ABI helpers
        r"__gnu_[a-z0-9_]+",  # libgcc: half floats, case tables
        (
            r"__(?:add|sub|mul|div|udiv|mod|umod|divmod|udivmod|neg|cmp|ucmp|ashl|ashr|lshr|clz|ctz|ffs|popcount|parity|bswap|"
            r"abs|addv|subv|mulv|negv|absv|mulo|clrsb|powi|fix|fixuns|float|floatun|floatuns|extend|trunc|"
            r"eq|ne|lt|le|gt|ge|unord|mulc|divc)(?:[sdthqxbk][fidc]|[sdxt]i[sdt]f)+[0-9]?"
        ),  # libgcc and compiler-rt arithmetic
        r"__riscv_(?:save|restore)_\d+",
        r"__mips16_\w+|_gp_disp|__gnu_local_gp",
        r"__atomic_\w+|__sync_\w+",
        r"__stack_chk_(?:fail|guard|fail_local)",
        r"__tls_get_addr|_GLOBAL_OFFSET_TABLE_|__ehdr_start",
        r"__(?:start|stop)_\w+",
        r"__cxa_\w+|__gxx_personality_v0|_Unwind_\w+|__dso_handle|_Z(?:nw|na|dl|da)[A-Za-z0-9_]*|_ZTVN10__cxxabiv1\w+",
        r"__isnan[fl]?|__isinf[fl]?|__finite[fl]?|__fpclassify[fd]?|__signbit[fd]?",
        r"__(?:mem(?:cpy|set|move)|printf|fprintf)_chk",
    )
)


def is_allowed(name: str) -> bool:
    """Tell whether firmware can be expected to supply `name`."""
    return name in _PLAIN or any(pattern.fullmatch(name) for pattern in _PATTERNS)
