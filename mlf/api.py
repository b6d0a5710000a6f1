"""The operations of mlf as Python functions: what the command line calls, and what `import mlf` offers.

Paths may be text. Every function returns a frozen value or raises an MlfError; none prints, exits or reads the environment.
What a function needs is imported when it is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlf.errors import UsageError
from mlf.naming import DEFAULT_LIBRARY

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from mlf.archive import Archive
    from mlf.check import Verdict
    from mlf.converter import Conversion
    from mlf.differ import Difference
    from mlf.exporter import Export, GoldenFiles, ModelOptions
    from mlf.firmware import Firmware
    from mlf.library import Library
    from mlf.linker import LinkOptions, LinkPlan, LinkRequest, Progress
    from mlf.reading import Contents
    from mlf.runner import Replay, RunResult
    from mlf.toolchain import Compiler

    PathLike = str | os.PathLike[str]
    Models = Iterable[str] | Mapping[str, PathLike]

DEFAULT_TIMEOUT_S = 600.0


def open_archive(path: PathLike) -> Archive:
    """Open an archive or an unpacked directory and list its members; use it in a `with` statement."""
    from mlf import archive  # noqa: PLC0415

    return archive.open_archive(Path(path))


def inspect(path: PathLike) -> Contents:
    """Read what an archive holds: members, modules, tensors in call order, memory. No payload of any size is read."""
    from mlf.reading import read_contents  # noqa: PLC0415

    return read_contents(Path(path))


def inspect_firmware(path: PathLike) -> Firmware | None:
    """Find the models in an ELF file, `ar` archive, Intel HEX or dump of flash; None if the file is none of these."""
    from mlf.firmware import read_firmware  # noqa: PLC0415

    return read_firmware(Path(path))


def validate(path: PathLike) -> Verdict:
    """Judge an archive: version, schema, digests, sizes, symbols, names, parameters, objects."""
    from mlf import check  # noqa: PLC0415

    return check.validate(Path(path))


def validate_all(paths: Iterable[PathLike], *, jobs: int = 1, progress: Progress | None = None) -> Iterator[Verdict]:
    """Judge several archives in their order, `jobs` at a time in copies of this process."""
    from mlf import check  # noqa: PLC0415

    return check.validate_all([Path(path) for path in paths], jobs=jobs, progress=progress)


def convert(source: PathLike, *, to: int = 8, output: PathLike, epoch_s: int = 0) -> Conversion:
    """Write `ARCHIVE[:MODULE]` as version `to`; what is lost or had to be inferred is in the result's notes."""
    from mlf import converter  # noqa: PLC0415

    request = _request(source)
    return converter.convert(request.path, module=request.module, to=to, output=Path(output), epoch_s=epoch_s)


def export(  # noqa: PLR0913  # what a person may want to say
    source: PathLike,
    *,
    output: PathLike,
    name: str | None = None,
    golden: Sequence[GoldenFiles] = (),
    model: ModelOptions | None = None,
    epoch_s: int = 0,
    progress: Progress | None = None,
) -> Export:
    """Make a version-8 archive of a trained model, or of code: what a compiler left behind, a description, an archive."""
    from mlf import exporter  # noqa: PLC0415

    return exporter.export(
        Path(source), output=Path(output), name=name, golden=golden, model=model, epoch_s=epoch_s, progress=progress
    )


def export_relax(  # what a person may want to say
    module: Any,  # noqa: ANN401  # a tvm.IRModule; TVM is optional
    *,
    output: PathLike,
    name: str,
    golden: Sequence[GoldenFiles] = (),
    model: ModelOptions | None = None,
    epoch_s: int = 0,
) -> Export:
    """Make a version-8 archive of a module of TVM's Relax, whose function `main` holds its weights as constants."""
    from mlf import exporter  # noqa: PLC0415

    return exporter.export_relax(module, output=Path(output), name=name, golden=golden, options=model, epoch_s=epoch_s)


def describe_folder(folder: PathLike) -> str:
    """Write the text of a first `description.toml` from the code that lies in a folder."""
    from mlf import exporter  # noqa: PLC0415

    return exporter.describe_folder(Path(folder))


def diff(before: PathLike, after: PathLike) -> Difference:
    """Say what changed between two archives, by meaning."""
    from mlf import differ  # noqa: PLC0415

    return differ.diff(Path(before), Path(after))


def plan_link(
    models: Models,
    *,
    output: PathLike = DEFAULT_LIBRARY,
    target: str = "host",
    cc: str | None = None,
    cflags: Sequence[str] = (),
    options: LinkOptions | None = None,
) -> LinkPlan:
    """Decide what `link` would do; `models` are `[NAME=]ARCHIVE[:MODULE]`, or archives by name."""
    from mlf import linker  # noqa: PLC0415

    compiler = _compiler(target, cc, cflags)
    return linker.plan_link(_requests(models), output=Path(output), compiler=compiler, options=options)


def link(  # noqa: PLR0913  # what a person may want to say
    models: Models,
    *,
    output: PathLike = DEFAULT_LIBRARY,
    target: str = "host",
    cc: str | None = None,
    cflags: Sequence[str] = (),
    options: LinkOptions | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Library:
    """Link models into one firmware library, with its headers and its JSON document beside it."""
    from mlf import linker  # noqa: PLC0415

    plan = plan_link(models, output=output, target=target, cc=cc, cflags=cflags, options=options)
    return linker.link(plan, progress=progress, jobs=jobs)


def merge_archives(models: Models, *, output: PathLike, epoch_s: int = 0) -> Export:
    """Write models, named as for `link`, as one archive of version 8; no compiler is needed."""
    from mlf import bundle  # noqa: PLC0415

    return bundle.merge_archives(_requests(models), output=Path(output), epoch_s=epoch_s)


def run(  # noqa: PLR0913  # what a person may want to say
    source: PathLike,
    inputs: Mapping[str, npt.NDArray[Any]],
    *,
    model: str | None = None,
    target: str | None = None,
    cc: str | None = None,
    cflags: Sequence[str] = (),
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> RunResult:
    """Run a model of `ARCHIVE[:MODULE]`, or of a library by its JSON document, once."""
    from mlf import runner  # noqa: PLC0415

    text = str(source)
    if not text.endswith(".json"):
        _refuse_model(text, model)
        compiler = _compiler(target or "host", cc, cflags)
        return runner.run_archive(_request(text), inputs, compiler=compiler, timeout_s=timeout_s)
    chosen = runner.open_library(Path(text), model)
    if target not in (None, chosen.target):
        raise UsageError(f"was linked for {chosen.target}, not for {target}", where=text)
    compiler = _compiler(chosen.target, cc, cflags)
    return runner.run_model(chosen, inputs, compiler=compiler, timeout_s=timeout_s)


def size(
    source: PathLike,
    *,
    target: str | None = None,
    cc: str | None = None,
    cflags: Sequence[str] = (),
    budget_bytes: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> Mapping[str, Any]:
    """Tell what a library takes of flash and RAM, by its JSON document, or `ARCHIVE[:MODULE]` once it is linked alone.

    `budget_bytes` says how much `flash` and `ram` there is; being over it is no error here. Gives the document that
    schema `size-v1` describes.
    """
    from mlf import library, report  # noqa: PLC0415

    text = str(source)
    if not text.endswith(".json"):
        request, compiler = _request(text), _compiler(target or "host", cc, cflags)
        document = library.link_alone(request, compiler, progress=progress)
        return report.size_document(document, source=request.path.name, budget_bytes=budget_bytes or {})
    document = library.read_document(Path(text))
    if target not in (None, document.text("target")):
        raise UsageError(f"was linked for {document.text('target')}, not for {target}", where=text)
    return report.size_document(document, source=Path(text).name, budget_bytes=budget_bytes or {})


def replay(
    source: PathLike,
    *,
    target: str | None = None,
    cc: str | None = None,
    cflags: Sequence[str] = (),
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Replay:
    """Run the golden tests that lie in `ARCHIVE[:MODULE]`, and compare."""
    from mlf import runner  # noqa: PLC0415

    compiler = _compiler(target or "host", cc, cflags)
    return runner.replay_archive(_request(source), compiler=compiler, timeout_s=timeout_s)


def _requests(models: Models) -> list[LinkRequest]:
    texts = [f"{name}={Path(path)}" for name, path in models.items()] if hasattr(models, "items") else models
    return [_request(text) for text in texts]


def _request(source: PathLike) -> LinkRequest:
    from mlf.linker import parse_request  # noqa: PLC0415

    return parse_request(str(source))


def _refuse_model(source: str, model: str | None) -> None:
    if model is not None:
        raise UsageError(
            "--model chooses a model of a library",
            where=source,
            hint=f"choose a module of an archive: `{source}:{model}`",
        )


def _compiler(target: str, cc: str | None, cflags: Sequence[str]) -> Compiler:
    from mlf.toolchain import compiler_for  # noqa: PLC0415  # subprocess

    return compiler_for(target, cc=cc, cflags=list(cflags))
