"""Every error that mlf reports.

A message names the file first, then the place in it, then what is wrong and what was expected; it is lower case and has
no full stop. A hint is one command or one change that would help.
"""

from __future__ import annotations

from typing import ClassVar


class MlfError(Exception):
    """Something that mlf could not do; the base of all errors that it raises on purpose.

    `where` is the file, archive or model at fault, `hint` one thing to do about it.
    """

    code: ClassVar[str] = "failed"
    exit_status: ClassVar[int] = 2

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        """Keep the three parts apart, so that a machine can read them apart."""
        message, where, hint = _encodable(message), where and _encodable(where), hint and _encodable(hint)
        super().__init__(f"{where}: {message}" if where else message)
        self.message = message
        self.where = where
        self.hint = hint


def _encodable(text: str) -> str:
    """Escape lone surrogates, which names in damaged files can hold and no output takes."""
    return text.encode("utf-8", "backslashreplace").decode()


class InputError(MlfError):
    """The input was read and judged bad: exit status 1."""

    code = "bad-input"
    exit_status = 1


class UsageError(MlfError):
    """A command line that does not make sense."""

    code = "usage"


class ArchiveError(InputError):
    """An archive that is damaged, hostile or not in the Model Library Format."""

    code = "bad-archive"


class MetadataError(InputError):
    """A `metadata.json` that does not say what its version must say."""

    code = "bad-metadata"


class SourceError(InputError):
    """Generated C in which a fact that is needed cannot be found."""

    code = "bad-source"


class ObjectError(InputError):
    """An object file that is damaged, of another machine or of a kind that cannot be merged."""

    code = "bad-object"


class CompileError(InputError):
    """A source member that the compiler refuses."""

    code = "cannot-compile"


class LinkError(InputError):
    """Models that cannot become one right library."""

    code = "cannot-link"


class NameClashError(InputError):
    """Two things of one name, or a name that C or the library cannot have."""

    code = "name-clash"


class UnsupportedError(InputError):
    """A well-formed input of a kind that mlf does not handle."""

    code = "unsupported"


class DeviationError(InputError):
    """Generated C that does not compute what the runtime of the model's format computes."""

    code = "deviates"


class TensorError(InputError):
    """An array that does not fit the tensor it was given for."""

    code = "bad-tensor"


class ToolError(MlfError):
    """A compiler, linker or emulator that is missing or failed: exit status 2."""

    code = "tool-failed"


class ModelRunError(MlfError):
    """A model that ran and reported failure, crashed or did not end."""

    code = "run-failed"


class OutputError(MlfError):
    """A file that could not be written."""

    code = "cannot-write"


def reason_of(error: OSError) -> str:
    """Give the system's words for a failed call, as messages hold them."""
    return (error.strerror or type(error).__name__).lower()
