"""Folders that come with mlf but are no Python code: samples and schemas."""

from __future__ import annotations

from pathlib import Path

from mlf.errors import MlfError


def bundled(name: str) -> Path:
    """Find the folder `name`: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    found = next((folder for folder in (package / name, package.parent / name) if folder.is_dir()), None)
    if found is None:
        raise MlfError(f"the {name} are missing from this installation", hint="install mlf again")
    return found
