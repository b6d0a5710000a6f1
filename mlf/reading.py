"""Reading an archive: its metadata, whose members are whose, its modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlf import layout
from mlf.archive import METADATA_NAME, open_archive
from mlf.errors import ArchiveError
from mlf.evidence import ModuleReader
from mlf.metadata import parse_metadata
from mlf.strictjson import load_json

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from mlf.archive import Archive, Member
    from mlf.metadata import Metadata
    from mlf.module import Module


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What an archive holds; `identity` is None before version 8."""

    label: str
    form: str
    version: int
    identity: str | None
    members: tuple[Member, ...]
    modules: tuple[Module, ...]


def read_contents(path: Path) -> Contents:
    """Read what the archive at `path` holds, large members in part; raises what `open_archive` and `read_modules` raise."""
    with open_archive(path) as archive:
        metadata = read_metadata(archive)
        return Contents(
            label=archive.label, form=archive.form, version=metadata.version, identity=metadata.identity,
            members=archive.members, modules=read_modules(archive, metadata=metadata),
        )  # fmt: skip


def read_metadata(archive: Archive) -> Metadata:
    """Read the metadata of an archive; raises ArchiveError, MetadataError or UnsupportedError."""
    if METADATA_NAME not in archive:
        raise ArchiveError("has no metadata.json, so it is no Model Library Format archive", where=archive.label)
    document = load_json(archive.read_text(METADATA_NAME), where=f"{archive.label}: {METADATA_NAME}")
    return parse_metadata(document, where=archive.label)


def member_places(archive: Archive, metadata: Metadata) -> tuple[layout.Place, ...]:
    """Tell the role and module of every member but metadata.json: what version 8 says, what older names tell."""
    if metadata.members is not None:
        return tuple(layout.Place(name=item.path, role=item.role, module=item.module) for item in metadata.members)
    names = [member.name for member in archive.members if member.name != METADATA_NAME]
    return layout.places(names, [module.name for module in metadata.modules])


def read_modules(
    archive: Archive,
    *,
    is_thorough: bool = False,
    metadata: Metadata | None = None,
    names: Collection[str] | None = None,
) -> tuple[Module, ...]:
    """Read the modules of an archive, sorted by name.

    Members over a MiB are read in part unless `is_thorough`; nothing is executed or compiled. `metadata` saves reading it
    twice; `names` chooses modules. Raises ArchiveError, MetadataError, SourceError, ObjectError, TensorError or
    UnsupportedError.
    """
    metadata = metadata or read_metadata(archive)
    members = member_places(archive, metadata)
    missing = [item.name for item in members if item.name not in archive and _is_wanted(item.module, names)]
    if missing:
        raise ArchiveError(f"has no member {missing[0]!r}, which metadata.json lists", where=archive.label)
    modules = []
    for module in metadata.modules:
        if not _is_wanted(module.name, names):
            continue
        own = [item for item in members if item.module == module.name]
        modules.append(ModuleReader(archive, metadata.version, module, own, is_thorough=is_thorough).read())
    return tuple(modules)


def _is_wanted(module: str | None, names: Collection[str] | None) -> bool:
    return names is None or module in names
