"""Draw docs/demo.svg: what `mlf demo` prints, as a terminal shows it.

Run it after a change of the demo's output: `python docs/make_picture.py`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).parent / "demo.svg"
COLUMNS = 92


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "mlf", "demo"], cwd=folder, capture_output=True, text=True, check=True
        )  # fmt: skip
    with Path("/dev/null").open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        console.print(Text("$ mlf demo", style="bold green"))
        for line in done.stdout.splitlines():
            console.print(Text(line, style="bold" if line.startswith("all answers") else ""))
    # A picture in a repository must not fetch a font from elsewhere.
    form = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    PICTURE.write_text(console.export_svg(title="mlf", code_format=form, unique_id="mlf-demo"), encoding="utf-8")


main()
