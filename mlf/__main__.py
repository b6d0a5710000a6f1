"""`mlf` and `python -m mlf`."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Start the command line; an interrupt while it is being imported is no reason for a traceback either."""
    try:
        from mlf import cli  # noqa: PLC0415  # where the interrupt may come
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        sys.exit(2)
    cli.main()


if __name__ == "__main__":
    main()
