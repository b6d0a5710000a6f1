"""The command line: each command parses, calls one operation and renders its result.

Nothing else in mlf prints, exits or reads the environment.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

import mlf
from mlf.errors import ArchiveError, LinkError, MlfError, OutputError, UsageError, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType


Value = TypeVar("Value")
LATEST_VERSION = 8  # of the format; `mlf.metadata` has it too, but would cost every start its imports
ERROR_SCHEMA = "mlf-error-v1"
_TARGET_HELP = (
    "Processor: host, cortex-m0, -m3, -m4, -m7, -m33, -m55 (the last four also with -soft), rv32imac, rv32imafc, rv64, "
    "rv64gc, aarch64."
)


class _Interrupt(BaseException):
    """A signal asked mlf to end. No KeyboardInterrupt, because click prints a line of its own for that."""


def main() -> NoReturn:
    """Run the command line; every failure is one message and an exit status."""
    as_json = "--json" in sys.argv[1:]
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime keeps and may send what it sees of models
    try:
        _handle_interrupts(_interrupt)
        status = _run_command(as_json=as_json)
        _handle_interrupts(signal.SIG_IGN)
    except _Interrupt:
        status = _report(MlfError("interrupted; no output is half-written"), as_json=as_json)
    _let_go_of_output()
    sys.exit(status)


def _let_go_of_output() -> None:
    """Forget what a full or broken stream did not take: Python would try once more at its end, and complain."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _handle_interrupts(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    """Set the handler of the signals that mlf was not started to ignore, as `nohup` and background jobs are."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    _handle_interrupts(signal.SIG_IGN)  # what cleans up now must not be interrupted again
    raise _Interrupt


def _run_command(*, as_json: bool) -> int:
    try:
        status = commands.main(standalone_mode=False)
    except MlfError as error:
        return _report(error, as_json=as_json)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        return _report_usage(error, as_json=as_json)
    except SystemExit:  # what click makes of a help text that nobody reads to its end
        return 0
    except OSError as error:
        place = str(error.filename) if error.filename else None
        return _report(OutputError(reason_of(error), where=place), as_json=as_json)
    except Exception as error:  # noqa: BLE001  # the last resort: a message instead of a traceback
        return _report_bug(error, as_json=as_json)
    return status if isinstance(status, int) else 0  # what a command gave to `context.exit`


def _report(error: MlfError, *, as_json: bool) -> int:
    if as_json:
        document = {"code": error.code, "hint": error.hint, "message": error.message, "where": error.where}
        with suppress(OutputError):
            _print_json({"error": document, "schema": ERROR_SCHEMA})
    lines = [f"{_red('error:')} {_printable(str(error))}"]
    lines += [f"hint: {_printable(error.hint)}"] if error.hint else []
    with suppress(OSError):  # there is no other place to complain
        click.echo("\n".join(lines), err=True)
    return error.exit_status


def _report_usage(error: click.ClickException, *, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    hint = f"see `{context.command_path} --help`" if context else None
    usage = UsageError(error.format_message()[:1].lower() + error.format_message()[1:].rstrip("."), hint=hint)
    return _report(usage, as_json=as_json)


def _report_bug(error: Exception, *, as_json: bool) -> int:
    if os.environ.get("MLF_TRACEBACK"):
        raise error
    message = f"internal error: {type(error).__name__}: {error}"
    return _report(
        MlfError(message, hint="this is a bug in mlf; run again with MLF_TRACEBACK=1 and report what it prints"),
        as_json=as_json,
    )


def _printable(text: str) -> str:
    """Show control characters, which names in archives may hold, as escapes: a terminal would obey them."""
    return "".join(char if char.isprintable() or char in "\n\t" else repr(char)[1:-1] for char in text)


def _red(text: str) -> str:
    wanted = os.isatty(2) and not os.environ.get("NO_COLOR")
    return click.style(text, fg="red", bold=True) if wanted else text


def _print_json(document: Mapping[str, Any]) -> None:
    import json  # noqa: PLC0415

    from mlf.report import render_json  # noqa: PLC0415

    text = render_json(document).encode("utf-8", "replace").decode()  # a file name may be no Unicode text
    # JSON allows characters that a terminal obeys; their escapes mean the same.
    _print("".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text))


def _print(text: str) -> None:
    """Print to stdout and end the last line; whoever stops reading has had enough, which is no failure."""
    try:
        click.echo(_printable(text), nl=not text.endswith("\n"))
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            raise OutputError(f"cannot be written: {reason_of(error)}", where="standard output") from error


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show what is being done, on stderr and only on a terminal, from the first word on."""
    if not os.isatty(2):
        yield lambda _: None
        return
    with ExitStack() as stack:
        shown: list[Callable[[str], None]] = []

        def show(text: str) -> None:
            if not shown:
                from rich.console import Console  # noqa: PLC0415  # 60 ms, for terminals alone

                shown.append(stack.enter_context(Console(stderr=True).status(text)).update)
            shown[0](text)

        yield show


def _words(cflags: tuple[str, ...]) -> list[str]:
    from mlf.toolchain import split_words  # noqa: PLC0415  # subprocess

    return [flag for text in cflags for flag in split_words(text, option="--cflags")]


def _epoch_s() -> int:
    """Give the time that archives bear: SOURCE_DATE_EPOCH, as reproducible builds have it, or 0."""
    text = os.environ.get("SOURCE_DATE_EPOCH") or "0"
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"SOURCE_DATE_EPOCH is `{text}`, expected a number of seconds")
    return int(text)


def _tell(
    value: Value, document: Callable[[Value], Mapping[str, Any]], text: Callable[[Value], str], *, as_json: bool
) -> None:
    if as_json:
        _print_json(document(value))
    else:
        _print(text(value))


_json_option = click.option("--json", "as_json", is_flag=True, help="Print a JSON document; schemas/ describes it.")
_archive_output_option = click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="The archive: .tar, .tar.gz or .tar.zst.",
)
_target_option = click.option("--target", default="host", show_default=True, metavar="TARGET", help=_TARGET_HELP)
_cc_option = click.option(
    "--cc", envvar="MLF_CC", metavar="COMMAND", help="C compiler; a launcher such as ccache may stand in front."
)
_cflags_option = click.option(
    "--cflags", multiple=True, metavar="FLAGS", help="More arguments for the compiler; repeatable."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(mlf.__version__, "--version", message="mlf %(version)s")
def commands() -> None:
    """Package compiled machine-learning models, and link several of them into one firmware library."""


@commands.command()
@click.argument("archive", type=click.Path(path_type=Path))
@_json_option
def inspect(archive: Path, *, as_json: bool) -> None:
    """Show what an archive, a library or firmware holds.

    Of an archive: its modules, their tensors, memory and members. Of a library, or of firmware that holds one, as ELF, Intel
    HEX or a dump of flash: the models that are inside.
    """
    from mlf import api, report  # noqa: PLC0415

    try:
        contents = mlf.inspect(archive)
    except ArchiveError:
        firmware = api.inspect_firmware(archive)
        if firmware is None:
            raise
        _tell(firmware, report.firmware_document, report.firmware_text, as_json=as_json)
        return
    _tell(contents, report.inspect_document, report.inspect_text, as_json=as_json)


@commands.command()
@click.argument("archives", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="ARCHIVE...")
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
@click.option("-j", "--jobs", type=click.IntRange(min=1), help="Archives at a time; one per processor by default.")
@_json_option
@click.pass_context
def validate(
    context: click.Context, archives: tuple[Path, ...], *, strict: bool, jobs: int | None, as_json: bool
) -> None:
    """Judge archives: version, schema, digests, sizes against code, symbols, names, parameters, objects.

    The exit status is 1 if one of them has an error, with --strict also if it has a warning.
    """
    from mlf import report  # noqa: PLC0415

    with _progress() as progress:
        verdicts = tuple(mlf.validate_all(archives, jobs=jobs or os.cpu_count() or 1, progress=progress))
    if as_json:
        _print_json(report.validate_document(verdicts, strict=strict))
    else:
        _print(report.validate_text(verdicts, paths=[str(path) for path in archives], strict=strict))
    if not all(verdict.is_good(strict=strict) for verdict in verdicts):
        context.exit(1)


@commands.command()
@click.argument("archive", metavar="ARCHIVE[:MODULE]")
@click.option("--to", type=int, default=LATEST_VERSION, show_default=True, metavar="N", help="Version of the format.")
@_archive_output_option
@_json_option
def convert(archive: str, *, to: int, output: Path, as_json: bool) -> None:
    """Write an archive as another version of the format; every member keeps its bytes.

    What had to be inferred from the code, and what the other version cannot say, is listed.
    """
    from mlf import report  # noqa: PLC0415

    with _progress() as progress:
        progress("converting")
        done = mlf.convert(archive, to=to, output=output, epoch_s=_epoch_s())
    _tell(done, report.convert_document, partial(report.convert_text, output=str(output)), as_json=as_json)


@commands.command()
@click.argument("source", type=click.Path(path_type=Path), metavar="[SOURCE]")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The archive: .tar, .tar.gz or .tar.zst.")
@click.option("--name", metavar="NAME", help="A name for the model; of an archive, which module.")
@click.option(
    "--golden",
    multiple=True,
    nargs=2,
    type=click.Path(path_type=Path),
    metavar="IN.npz OUT.npz",
    help="Golden data to keep in the archive; repeatable.",
)
@click.option("--rtol", type=click.FloatRange(min=0), help="Relative tolerance of the golden outputs.")
@click.option("--atol", type=click.FloatRange(min=0), help="Absolute tolerance of the golden outputs.")
@click.option("--init", is_flag=True, help="Write a first description.toml into the directory SOURCE.")
@click.option(
    "--from",
    "front_end",
    type=click.Choice(("auto", "tvm", "emx")),
    default="auto",
    show_default=True,
    help="Compiler of a trained model.",
)
@click.option(
    "--api",
    type=click.Choice(("unpacked", "packed")),
    default="unpacked",
    show_default=True,
    help="How operators are called: plain pointers or TVM's packed arguments.",
)
@click.option(
    "--rounding",
    type=click.Choice(("auto", "tflite", "float")),
    default="auto",
    show_default=True,
    help="Of integers: as TensorFlow Lite, or as onnxruntime; by default that of the model's format.",
)
@click.option(
    "--opt", "level", type=click.IntRange(0, 3), default=3, show_default=True, help="TVM's level; 0 fuses nothing."
)
@click.option(
    "--check/--no-check",
    "is_checked",
    default=None,
    help="Compare a trained model with the runtime of its format; by default where that is installed.",
)
@click.option(
    "--check-inputs",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="IN.npz",
    help="Inputs for the check, instead of generated ones; repeatable.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    metavar="SHARE",
    help="How far floats may be from the runtime's, as a share of the largest output; 1e-5 by default.",
)
@click.option(
    "--schedule/--no-schedule",
    "is_scheduled",
    default=True,
    help="Arrange loops so that no large temporaries are left.",
)
@_json_option
def export(  # noqa: PLR0913  # the options of a command
    source: Path,
    *,
    output: Path | None,
    name: str | None,
    golden: tuple[tuple[Path, Path], ...],
    rtol: float | None,
    atol: float | None,
    init: bool,
    front_end: str,
    api: str,
    rounding: str,
    level: int,
    is_checked: bool | None,
    check_inputs: tuple[Path, ...],
    tolerance: float | None,
    is_scheduled: bool,
    as_json: bool,
) -> None:
    """Make an archive of a trained model, or of compiled code.

    SOURCE is a model (.onnx, .tflite, .pt2), which becomes plain C, a directory that a compiler left behind, one with a
    description.toml, such a file itself, or another archive. Without -o the one argument is the archive, and the current
    directory is packed.
    """
    from mlf import report  # noqa: PLC0415

    if init:
        _init(source)
        return
    source, output = _source_and_output(source, output)
    golden_tolerance: dict[str, Any] = {
        key: value for key, value in (("rtol", rtol), ("atol", atol)) if value is not None
    }
    files = [mlf.GoldenFiles(inputs=inputs, outputs=outputs, **golden_tolerance) for inputs, outputs in golden]
    model = mlf.ModelOptions(
        front_end=front_end, operators=api, rounding=rounding, level=level, is_scheduled=is_scheduled,
        is_checked=is_checked, inputs=check_inputs, tolerance=tolerance,
    )  # fmt: skip
    with _progress() as progress:
        progress("exporting")
        made = mlf.export(
            source, output=output, name=name, golden=files, model=model, epoch_s=_epoch_s(), progress=progress
        )
    _tell(made, report.export_document, partial(report.export_text, output=str(output)), as_json=as_json)


def _source_and_output(source: Path, output: Path | None) -> tuple[Path, Path]:
    if output is not None:
        return source, output
    if source.is_dir() or source.suffix == ".toml":
        hint = f"say where: `mlf export {source} -o model.tar`"
        raise UsageError(f"{source} is what to pack; where should the archive go?", hint=hint)
    return Path(), source


def _init(folder: Path) -> None:
    from mlf.files import replace_files  # noqa: PLC0415

    path = folder / "description.toml"
    if path.exists():
        raise UsageError("is there already", where=str(path), hint="remove it to have it written again")
    text = mlf.describe_folder(folder)
    replace_files({path: text.encode()})
    _print(f"{path}: look through it, fill in what is marked, then `mlf export {folder} -o model.tar`")


@commands.command()
@click.argument("before", type=click.Path(path_type=Path), metavar="A")
@click.argument("after", type=click.Path(path_type=Path), metavar="B")
@_json_option
@click.pass_context
def diff(context: click.Context, before: Path, after: Path, *, as_json: bool) -> None:
    """Show what changed between two archives, by meaning: tensors, memory, operators, weights.

    The exit status is 0 if they hold the same, 1 if not.
    """
    from mlf import report  # noqa: PLC0415

    with _progress() as progress:
        progress("comparing")
        found = mlf.diff(before, after)
    _tell(found, report.diff_document, report.diff_text, as_json=as_json)
    if not found.is_same:
        context.exit(1)


@commands.command()
@click.argument("archives", nargs=-1, required=True, metavar="[NAME=]ARCHIVE[:MODULE]...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("libmodels.a"),
    show_default=True,
    help="The library.",
)
@_target_option
@_cc_option
@_cflags_option
@click.option(
    "--arena",
    type=click.Choice(["shared", "private", "external"]),
    default="shared",
    show_default=True,
    help="Memory to run in: one for models that never run at the same time, one for each, or lent by the application.",
)
@click.option("--concurrent", multiple=True, metavar="A,B", help="Models that may interrupt each other; repeatable.")
@click.option(
    "--memory",
    "memories",
    multiple=True,
    metavar="NAME=SIZE,...",
    help="Memories of the board for arenas, such as dtcm=64K,sram=256K.",
)
@click.option(
    "--place", "places", multiple=True, metavar="MODEL=MEMORY", help="The memory that a model must run in; repeatable."
)
@click.option(
    "--section",
    "sections",
    multiple=True,
    metavar="NAME=SECTION",
    help="Section of `arena`, of a memory, of `constants` or MODEL.constants; repeatable.",
)
@click.option("--no-fold", is_flag=True, help="Keep what is equal in several models in each of them.")
@click.option(
    "--registry",
    default="models",
    show_default=True,
    metavar="NAME",
    help="Name of the registry, where firmware has two libraries.",
)
@click.option(
    "--extern",
    "externs",
    multiple=True,
    metavar="NAME",
    help="A function that the firmware has; * stands for any characters. Repeatable.",
)
@click.option("--budget", multiple=True, metavar="flash=SIZE,ram=SIZE", help="Fail if the library is larger.")
@click.option(
    "--merge-archive",
    type=click.Path(path_type=Path),
    metavar="OUT.tar",
    help="Write the models as one archive, each under its name, and link no library: no compiler is needed, and of the "
    "other options only --json goes with it.",
)
@click.option("-j", "--jobs", type=click.IntRange(min=1), help="Compilers at a time; one per processor by default.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@_json_option
def link(  # noqa: PLR0913  # the options of a command
    archives: tuple[str, ...],
    *,
    output: Path,
    target: str,
    cc: str | None,
    cflags: tuple[str, ...],
    jobs: int | None,
    dry_run: bool,
    as_json: bool,
    no_fold: bool,
    merge_archive: Path | None,
    **options: Any,  # noqa: ANN401  # those of `link_options`, which are texts and lists of them
) -> None:
    """Link archives into one firmware library.

    Every model gets the entrypoints tvmgen_NAME_run and tvmgen_NAME_tvm_module_main; nothing else of it is visible.
    Headers go to include/ beside the library, the JSON document of what it holds beside it too.

    With --merge-archive the models become one archive of version 8 instead, .tar, .tar.gz or .tar.zst, whose sources can be
    built together: files, functions and macros bear the new names. TVM's registry of functions, of which a program can have
    one, is left out.
    """
    if merge_archive is not None:
        _merge_archives(archives, merge_archive, as_json=as_json)
        return
    from mlf import report  # noqa: PLC0415
    from mlf.options import link_options  # noqa: PLC0415

    how: dict[str, Any] = {
        "output": output, "target": target, "cc": cc, "cflags": _words(cflags), "options": link_options(is_folded=not no_fold, **options),
    }  # fmt: skip
    if dry_run:
        _tell(mlf.plan_link(archives, **how), report.plan_document, report.plan_text, as_json=as_json)
        return
    with _progress() as progress:
        document = mlf.link(archives, **how, jobs=jobs, progress=progress).document
    _tell(document, lambda it: it, lambda it: report.library_text(it, str(output)), as_json=as_json)


def _merge_archives(archives: tuple[str, ...], output: Path, *, as_json: bool) -> None:
    from mlf import report  # noqa: PLC0415

    context = click.get_current_context()
    ours = ("archives", "merge_archive", "as_json")
    given = [
        max(option.opts, key=len)
        for option in context.command.params
        if option.name not in ours
        and context.get_parameter_source(option.name or "") is click.core.ParameterSource.COMMANDLINE
    ]
    if given:
        raise UsageError(f"--merge-archive links no library, so it does not go with {', '.join(given)}")
    with _progress() as progress:
        progress("merging")
        made = mlf.merge_archives(archives, output=output, epoch_s=_epoch_s())
    _tell(made, report.export_document, partial(report.export_text, output=str(output)), as_json=as_json)


@commands.command()
@click.argument("source", metavar="LIBRARY.json | ARCHIVE[:MODULE]")
@click.option("--target", metavar="TARGET", help=_TARGET_HELP + " For an archive; host by default.")
@_cc_option
@_cflags_option
@click.option(
    "--budget", multiple=True, metavar="flash=SIZE,ram=SIZE", help="Give the exit status 1 if everything is larger."
)
@_json_option
@click.pass_context
def size(  # noqa: PLR0913  # the options of a command
    context: click.Context,
    source: str,
    *,
    target: str | None,
    cc: str | None,
    cflags: tuple[str, ...],
    budget: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show what models take of flash, RAM and stack: each model, function and section, who shares memory, what was saved.

    LIBRARY.json lies beside the library. An archive is linked alone, and nothing is kept. Libraries of C and of compilers,
    such as libm, are not counted.
    """
    from mlf import report  # noqa: PLC0415
    from mlf.library import check_budget  # noqa: PLC0415  # numpy
    from mlf.options import parse_budget  # noqa: PLC0415

    limits = parse_budget(budget)
    with _progress() as progress:
        found = mlf.size(source, target=target, cc=cc, cflags=_words(cflags), budget_bytes=limits, progress=progress)
    _tell(found, lambda it: it, report.size_text, as_json=as_json)
    try:
        check_budget(found["totals"], limits, where=found["source"])
    except LinkError as error:  # the document that was asked for is printed already
        context.exit(_report(error, as_json=False))


@commands.command()
@click.argument("source", metavar="ARCHIVE[:MODULE] | LIBRARY.json")
@click.option("--model", metavar="NAME", help="Which model of a library.")
@click.option("--inputs", type=click.Path(path_type=Path), metavar="IN.npz", help="Arrays by tensor name.")
@click.option("--outputs", type=click.Path(path_type=Path), metavar="OUT.npz", help="Where the outputs go.")
@click.option("--target", metavar="TARGET", help=_TARGET_HELP + " All but host run in QEMU.")
@_cc_option
@_cflags_option
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=600.0, show_default=True, metavar="SECONDS"
)
@click.option("--check", is_flag=True, help="Run the golden tests that lie in the archive.")
@_json_option
@click.pass_context
def run(  # noqa: PLR0913  # the options of a command
    context: click.Context,
    source: str,
    *,
    check: bool,
    model: str | None,
    inputs: Path | None,
    outputs: Path | None,
    target: str | None,
    cc: str | None,
    cflags: tuple[str, ...],
    timeout: float,
    as_json: bool,
) -> None:
    """Run a model once on given inputs, on this machine or on an emulated board.

    With --check the golden tests in the archive are run; the exit status is 1 if an output is not within the tolerance.
    """
    from mlf import report  # noqa: PLC0415
    from mlf.arrays import load_arrays, save_arrays  # noqa: PLC0415

    how: dict[str, Any] = {"target": target, "cc": cc, "cflags": _words(cflags), "timeout_s": timeout}
    if check:
        if inputs or outputs or model:
            raise UsageError("--check takes its inputs and outputs from the archive", where=source)
        with _progress() as progress:
            progress("running")
            replay = mlf.replay(source, **how)
        _tell(replay, report.replay_document, report.replay_text, as_json=as_json)
        if not replay.is_passed:
            context.exit(1)
        return
    arrays = load_arrays(inputs) if inputs else {}
    with _progress() as progress:
        progress("running")
        result = mlf.run(source, arrays, model=model, **how)
    if outputs:
        save_arrays(outputs, result.outputs)
    _tell(result, report.run_document, report.run_text, as_json=as_json)


@commands.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("mlf-demo"), metavar="[DIR]")
@_target_option
@_cc_option
@_cflags_option
def demo(folder: Path, *, target: str, cc: str | None, cflags: tuple[str, ...]) -> None:
    """Link two bundled models into one library, build a firmware around it, run it and check its answers.

    Everything goes below DIR, mlf-demo by default.
    """
    from mlf import report  # noqa: PLC0415
    from mlf.demo import run_demo  # noqa: PLC0415
    from mlf.toolchain import compiler_for  # noqa: PLC0415

    with _progress() as progress:
        result = run_demo(folder, compiler=compiler_for(target, cc=cc, cflags=_words(cflags)), progress=progress)
    _print(report.demo_text(result))
