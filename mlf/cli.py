"""The command line: each command parses, calls one operation and renders its result.

Nothing else in mlf prints, exits or reads the environment.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mlf import __version__
from mlf.errors import MlfError, OutputError, UsageError, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType

    from mlf.toolchain import Compiler

ERROR_SCHEMA = "mlf-error-v1"
_TARGET_HELP = "Processor: host, cortex-m0, -m3, -m4, -m7, -m33, -m55, rv32imac, rv32imafc."


class _Interrupt(BaseException):
    """A signal asked mlf to end. No KeyboardInterrupt, because click prints a line of its own for that."""


def main() -> NoReturn:
    """Run the command line; every failure is one message and an exit status."""
    as_json = "--json" in sys.argv[1:]
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
        commands.main(standalone_mode=False)
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
    return 0


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
    from mlf.report import render_json  # noqa: PLC0415  # json

    _print(render_json(document).encode("utf-8", "replace").decode())  # a file name may be no Unicode text


def _print(text: str) -> None:
    """Print to stdout and end the last line; whoever stops reading has had enough, which is no failure."""
    try:
        click.echo(_printable(text), nl=not text.endswith("\n"))
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            raise OutputError(f"cannot be written: {reason_of(error)}", where="standard output") from error


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show what is being done, on stderr and only on a terminal."""
    if not os.isatty(2):
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415  # 60 ms, for terminals alone

    with Console(stderr=True).status("reading") as status:
        yield status.update


def _compiler(target: str, cc: str | None, cflags: tuple[str, ...]) -> Compiler:
    from mlf.toolchain import compiler_for, split_words  # noqa: PLC0415  # subprocess

    flags = [flag for text in cflags for flag in split_words(text, option="--cflags")]
    return compiler_for(target, cc=cc, cflags=flags)


_json_option = click.option("--json", "as_json", is_flag=True, help="Print a JSON document; schemas/ describes it.")
_target_option = click.option("--target", default="host", show_default=True, metavar="TARGET", help=_TARGET_HELP)
_cc_option = click.option(
    "--cc", envvar="MLF_CC", metavar="COMMAND", help="C compiler; a launcher such as ccache may stand in front."
)
_cflags_option = click.option(
    "--cflags", multiple=True, metavar="FLAGS", help="More arguments for the compiler; repeatable."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(__version__, "--version", message="mlf %(version)s")
def commands() -> None:
    """Package compiled machine-learning models, and link several of them into one firmware library."""


@commands.command()
@click.argument("archive", type=click.Path(path_type=Path))
@_json_option
def inspect(archive: Path, *, as_json: bool) -> None:
    """Show what an archive holds: its modules, their tensors, memory and members."""
    from mlf import report  # noqa: PLC0415
    from mlf.archive import open_archive  # noqa: PLC0415
    from mlf.module import read_modules  # noqa: PLC0415

    with open_archive(archive) as opened:
        modules = read_modules(opened)
        if as_json:
            _print_json(report.inspect_document(opened, modules))
        else:
            _print(report.inspect_text(opened, modules))


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
) -> None:
    """Link archives into one firmware library.

    Every model gets the entrypoint tvmgen_NAME_run; nothing else of it is visible. Headers go to include/ beside the
    library, the JSON document of what it holds beside it too.
    """
    from mlf import report  # noqa: PLC0415
    from mlf.link import link as link_models  # noqa: PLC0415
    from mlf.link import parse_request, plan_link  # noqa: PLC0415

    requests = [parse_request(text) for text in archives]
    with _progress() as progress:
        plan = plan_link(requests, output=output, compiler=_compiler(target, cc, cflags))
        made = None if dry_run else link_models(plan, progress=progress, jobs=jobs)
    if made is None and as_json:
        _print_json(report.plan_document(plan))
    elif made is None:
        _print(report.plan_text(plan))
    elif as_json:
        _print_json(made.document)
    else:
        _print(report.library_text(made.document, str(output)))


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
@_json_option
def run(  # noqa: PLR0913  # the options of a command
    source: str,
    *,
    model: str | None,
    inputs: Path | None,
    outputs: Path | None,
    target: str | None,
    cc: str | None,
    cflags: tuple[str, ...],
    timeout: float,
    as_json: bool,
) -> None:
    """Run a model once on given inputs, on this machine or on an emulated board."""
    from mlf import report  # noqa: PLC0415
    from mlf.link import parse_request  # noqa: PLC0415
    from mlf.run import load_arrays, open_library, run_archive, run_model, save_arrays  # noqa: PLC0415

    arrays = load_arrays(inputs) if inputs else {}
    with _progress() as progress:
        progress("running")
        if source.endswith(".json"):
            chosen = open_library(Path(source), model)
            if target not in (None, chosen.target):
                raise UsageError(f"was linked for {chosen.target}, not for {target}", where=source)
            result = run_model(chosen, arrays, compiler=_compiler(chosen.target, cc, cflags), timeout_s=timeout)
        else:
            if model is not None:
                raise UsageError(
                    "--model chooses a model of a library",
                    where=source,
                    hint=f"choose a module of an archive: `{source}:{model}`",
                )
            result = run_archive(
                parse_request(source), arrays, compiler=_compiler(target or "host", cc, cflags), timeout_s=timeout
            )
    if outputs:
        save_arrays(outputs, result.outputs)
    if as_json:
        _print_json(report.run_document(result))
    else:
        _print(report.run_text(result))


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

    with _progress() as progress:
        result = run_demo(folder, compiler=_compiler(target, cc, cflags), progress=progress)
    _print(report.demo_text(result))
