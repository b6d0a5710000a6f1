"""Package compiled machine-learning models and link several of them into one firmware library.

    import mlf

    for module in mlf.inspect("kws.tar").modules:
        print(module.name, module.inputs)
    mlf.link({"kws": "a.tar", "vww": "b.tar"}, output="build/libmodels.a", target="cortex-m4")

The names below are what the command line is made of; each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlf.api import (
        convert,
        describe_folder,
        diff,
        export,
        export_relax,
        inspect,
        inspect_firmware,
        link,
        merge_archives,
        open_archive,
        plan_link,
        replay,
        run,
        size,
        validate,
        validate_all,
    )
    from mlf.errors import MlfError
    from mlf.exporter import GoldenFiles, ModelOptions
    from mlf.linker import LinkOptions
    from mlf.params import Param, parse_params, render_params

__version__ = "0.1.0"
_API = """convert describe_folder diff export export_relax inspect inspect_firmware link merge_archives open_archive plan_link replay run
    size validate validate_all"""
_HOMES = {
    **dict.fromkeys(_API.split(), "mlf.api"),
    **dict.fromkeys(("GoldenFiles", "ModelOptions"), "mlf.exporter"),
    "LinkOptions": "mlf.linker",
    "MlfError": "mlf.errors",
    **dict.fromkeys(("Param", "parse_params", "render_params"), "mlf.params"),
}
__all__ = [
    "GoldenFiles",
    "LinkOptions",
    "MlfError",
    "ModelOptions",
    "Param",
    "convert",
    "describe_folder",
    "diff",
    "export",
    "export_relax",
    "inspect",
    "inspect_firmware",
    "link",
    "merge_archives",
    "open_archive",
    "parse_params",
    "plan_link",
    "render_params",
    "replay",
    "run",
    "size",
    "validate",
    "validate_all",
]


if not TYPE_CHECKING:  # type checkers know the names above, and no others

    def __getattr__(name: str) -> object:
        """Import an operation when it is first asked for (PEP 562): `import mlf` alone costs nothing."""
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'mlf' has no attribute {name!r}")
        value = getattr(import_module(home), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
