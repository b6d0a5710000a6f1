"""The same models as one archive: modules of several archives, each with a name of its own.

Every module is read as version 8 has it and renamed in all that names it: its members, its metadata, the identifiers of its
C, the symbols of its objects, the functions that its graph calls. Names without the module's own in front, which versions 1
and 2 gave, get it; any other global name gets it where two modules would clash, so that one Makefile can build all sources
of the archive.

The registry of a system library (`TVMSystemLibEntryPoint`) is left out. TVM's C runtime takes exactly one in a program;
beside the C interface it does not compile; and in an object its list of names is data, which cannot be renamed with the
functions. The functions themselves stay, and `entrypoints` names the way in.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlf import codegen, layout, manifest
from mlf.archive import METADATA_NAME, open_archive
from mlf.converter import ArchiveDraft, Note, draft_conversion, original_name
from mlf.csource import has_registry, without_registry
from mlf.errors import LinkError, NameClashError, UnsupportedError
from mlf.exporter import Export
from mlf.frontends.declarations import plain_code
from mlf.linker import chosen_modules, library_name, refuse_equal_names
from mlf.metadata import LATEST_VERSION, READABLE_VERSIONS, identity_of, parse_metadata
from mlf.naming import (
    KEYWORDS,
    GeneratedNames,
    check_clashes,
    check_model_name,
    header_name,
    macro,
    mangle_model,
)
from mlf.objects.ar import MAGIC as AR_MAGIC
from mlf.pack import member_of_bytes
from mlf.reading import read_metadata
from mlf.strictjson import load_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mlf.linker import LinkRequest
    from mlf.metadata import Descriptor
    from mlf.module import Module
    from mlf.objects.elf import ElfObject, Section
    from mlf.pack import PackedMember

REGISTRY = "TVMSystemLibEntryPoint"
_GRAPH_DIRECTORY = "executor-config/graph/"
_IR_DIRECTORY = "src/"
_OTHER_DIRECTORY = "other/"
_RUNTIME_URL = "./runtime"  # how metadata names the runtime in the archive
_INFO_LINK = 0x40  # SHF_INFO_LINK: a section's `sh_info` is a section
_RUNTIME_ROLES = ("runtime", "template")
# Global names that TVM gave without a model's: of versions 1 and 2, of linked parameters, of the context of host code.
_UNMARKED = frozenset((REGISTRY, "_lookup_linked_param", "__tvm_main__", "__tvm_module_ctx", "tvm__run_func"))
# What version 3 of the format called the main function of versions 1 and 2.
_LATER_NAMES = {"tvm__run_func": "run_model"}
# Functions that TVM offloads to other compilers are named so if nobody tells it the model's name.
_NAMELESS = mangle_model("default")


def merge_archives(requests: Sequence[LinkRequest], *, output: Path, epoch_s: int = 0) -> Export:
    """Write the chosen modules as one archive of version 8.

    Raises NameClashError for names that cannot stand together, UnsupportedError for an archive of operators, OutputError,
    and what reading and converting an archive raise.
    """
    if not requests:
        raise LinkError("there is nothing to merge", hint="give at least one archive: `mlf link NAME=ARCHIVE --merge-archive OUT.tar`")  # fmt: skip
    for request in requests:
        _refuse_operators(request)
    chosen = [pair for request in requests for pair in chosen_modules(request)]
    _refuse(chosen, output)
    with ExitStack() as stack:
        sources = [_Source.of(request, stack) for request in requests]
        draft = _Merger(_parts(sources, chosen), sources).draft()
        draft.write(output, epoch_s=epoch_s)
    return Export(
        archive=output.name, version=draft.version, identity=draft.identity or "", modules=draft.modules,
        member_count=len(draft.members) + 1, notes=draft.notes,
    )  # fmt: skip


def _refuse_operators(request: LinkRequest) -> None:
    with open_archive(request.path) as archive:
        for module in read_metadata(archive).modules:
            if module.style == "operator":
                raise UnsupportedError(f"module `{module.name}` holds operators and no model", where=archive.label)


def _refuse(chosen: Sequence[tuple[LinkRequest, Module]], output: Path) -> None:
    """Refuse names that cannot stand together."""
    for request, module in chosen:
        check_model_name(library_name(request, module), where=str(request.path))
    refuse_equal_names(chosen, ending=("--merge-archive", str(output)))
    interfaces = [(codegen.model_interface(library_name(*pair), pair[1]), pair[1]) for pair in chosen]
    check_clashes([codegen.generated_names(interface, owner=module.archive) for interface, module in interfaces])


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A member of an archive as version 8 has it."""

    place: Descriptor
    member: PackedMember

    @property
    def path(self) -> str:
        return self.place.path

    def read(self) -> bytes:
        return b"".join(self.member.pieces())

    def text(self) -> str:
        return self.read().decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Source:
    """What one request asks for, as version 8; the archive stays open."""

    request: LinkRequest
    label: str
    document: Mapping[str, Any]
    files: tuple[_File, ...]
    notes: tuple[Note, ...]

    @staticmethod
    def of(request: LinkRequest, stack: ExitStack) -> _Source:
        archive = stack.enter_context(open_archive(request.path))
        draft = draft_conversion(archive, to=LATEST_VERSION, module=request.module)
        document: Any = load_json(draft.metadata.decode(), where=archive.label)
        places = {place.path: place for place in parse_metadata(document, where=archive.label).members or ()}
        originals = {original_name(version) for version in READABLE_VERSIONS}
        files = (_File(place=places[item.name], member=item) for item in draft.members if item.name not in originals)
        return _Source(request=request, label=archive.label, document=document, files=tuple(files), notes=draft.notes)

    @property
    def shared(self) -> tuple[_File, ...]:
        """The files that belong to no module."""
        return tuple(file for file in self.files if file.place.module is None)


def _parts(sources: Sequence[_Source], chosen: Sequence[tuple[LinkRequest, Module]]) -> list[_Part]:
    by_request = {id(source.request): source for source in sources}
    parts = [_Part(library_name(request, module), module, by_request[id(request)]) for request, module in chosen]
    return sorted(parts, key=lambda part: part.name)


class _Part:
    """A module that is to be renamed: its files, the names that its code defines, and what they become."""

    def __init__(self, name: str, module: Module, source: _Source) -> None:
        self.name = name
        self.module = module
        self.source = source
        self.files = [file for file in source.files if file.place.module == module.name]
        self.notes: list[Note] = []
        self.texts = {file.path: file.text() for file in self._of("source", "include")}
        self.objects = {file.path: file.read() for file in self._of("object")}
        self.parsed = {path: self._parsed(path) for path in self.objects}
        self._leave_registry_out()
        self.defined, self.needed = self._globals()
        self.names = _Names(module.name, name)
        self.rename(self._unmarked())

    def _of(self, *roles: str) -> list[_File]:
        return [file for file in self.files if file.place.role in roles]

    def _leave_registry_out(self) -> None:
        for path, text in self.texts.items():
            if has_registry(text):
                self.texts[path] = without_registry(text).lstrip("\n")
                self._note_registry()
        for path in [path for path in self.objects if self._is_registry(path)]:
            del self.objects[path], self.parsed[path]
            self.files = [file for file in self.files if file.path != path]
            self._note_registry()

    def _note_registry(self) -> None:
        text = "the registry of functions by name, of which a program can have one"
        self.notes.append(Note(kind="lost", place=f"{self.name}: {REGISTRY}", text=text))

    def _is_registry(self, path: str) -> bool:
        """Tell whether an object defines the registry and nothing else that anybody needs."""
        own = {name for item in self.parsed[path] for name in item.symbols.defined_names()}
        if REGISTRY not in own:
            return False
        others = [item for name, items in self.parsed.items() if name != path for item in items]
        there = {name for item in others for name in item.symbols.defined_names()}
        needed = {name for item in others for name in item.symbols.undefined_names()}
        weak = {name for item in self.parsed[path] for name in _weak_names(item)}
        return own - weak == {REGISTRY} and not (own & needed) - there

    def _parsed(self, path: str) -> tuple[ElfObject, ...]:
        from mlf.objects.ar import objects_of  # noqa: PLC0415  # numpy

        return objects_of(self.objects[path], f"{self.source.label}: {path}")

    # Names.

    def _globals(self) -> tuple[set[str], set[str]]:
        """Give the global names that the code defines, and those that it uses."""
        defined, needed = set(self.module.defined) - {REGISTRY}, set[str]()
        for path, text in self.texts.items():
            defined |= definitions(text, is_cpp=self.module.code.language == "c++" and not path.endswith(".c"))
            needed.update(_CALLED.findall(text))
        for items in self.parsed.values():
            for item in items:
                defined.update(item.symbols.defined_names())
                needed.update(item.symbols.undefined_names())
        return defined, needed

    def _unmarked(self) -> list[str]:
        """List the names that TVM gave without the module's own."""
        graph = self.module.graph
        listed = {*self.module.metadata.operators, *(graph.operators if graph else ()), *_UNMARKED}
        listed.add(self.module.entrypoints.get("descriptor", ""))
        return [name for name in self.plain if name in listed or name.startswith(f"{_NAMELESS}_")]

    @property
    def plain(self) -> list[str]:
        """The defined names that stay as they are."""
        return sorted(name for name in self.defined if self.names(name) == name and not self._is_marked(name))

    def _is_marked(self, name: str) -> bool:
        return name.startswith(f"{mangle_model(self.name)}_")

    def rename(self, names: Iterable[str]) -> None:
        """Put the module's name in front of names that lack it."""
        for name in names:
            taken = {self.names(other) for other in self.defined}
            stem = _LATER_NAMES.get(name) or name.removeprefix(f"{_NAMELESS}_").lstrip("_")
            wanted = new = f"{mangle_model(self.name)}_{stem}"
            number = 2
            while new in taken:
                new, number = f"{wanted}_{number}", number + 1
            self.names.add(name, new)

    def clashes(self, others: Iterable[_Part]) -> list[str]:
        """List the names that another module defines too, or uses and means something else."""
        elsewhere = {name for part in others for name in (*part.defined, *part.needed)}
        return [name for name in self.plain if name in elsewhere]

    # Members.

    def members(self, includes: Mapping[str, str]) -> Iterator[tuple[PackedMember, str]]:
        """Give the renamed members with their roles; `includes` are the new paths of headers by the old ones."""
        places = self._places(includes)
        for file in self.files:
            name, role = places[file.path], file.place.role
            if file.path in self.texts:
                yield member_of_bytes(name, self._code(file, includes)), role
            elif file.path in self.objects:
                yield member_of_bytes(name, self._object(file.path)), role
            elif role == "graph":
                yield member_of_bytes(name, _renamed_graph(file.read(), f"{self.source.label}: {file.path}", self.names)), role  # fmt: skip
            else:
                yield replace(file.member, name=name), role

    def _code(self, file: _File, includes: Mapping[str, str]) -> bytes:
        folder = posixpath.dirname(_include_path(file.path)) if file.place.role == "include" else None
        text = self.names.code(self.texts[file.path], includes, folder)
        return text.encode("utf-8", "surrogateescape")

    def _object(self, path: str) -> bytes:
        data = self.objects[path]
        if data.startswith(AR_MAGIC):
            return _renamed_library(data, f"{self.source.label}: {path}", self.names)
        return _renamed_object(data, f"{self.source.label}: {path}", self.names)

    def include_paths(self) -> dict[str, str]:
        """Give the paths that headers would like to have below the include directory, by those that they have."""
        own = header_name(self.module.name)
        paths = [_include_path(file.path) for file in self._of("include")]
        return {path: header_name(self.name) if path == own else path for path in paths}

    def _places(self, includes: Mapping[str, str]) -> dict[str, str]:
        """Decide on the new name of each file."""
        places = self._numbered("source", layout.SOURCE_DIRECTORY) | self._numbered("object", layout.OBJECT_DIRECTORY)
        named = {
            "graph": f"{_GRAPH_DIRECTORY}{self.name}.graph", "ir": f"{_IR_DIRECTORY}{self.name}.relay",
            "parameters": f"{layout.PARAMETER_DIRECTORY}{self.name}.params",
        }  # fmt: skip
        for file in self.files:
            if file.place.role == "include":
                places[file.path] = layout.INCLUDE_DIRECTORY + includes[_include_path(file.path)]
            elif file.path not in places:
                places[file.path] = named.pop(file.place.role, "") or self._below(file)
        return places

    def _numbered(self, role: str, folder: str) -> dict[str, str]:
        ordered = sorted((file.path for file in self._of(role)), key=layout.source_order)
        return {
            path: f"{folder}{self.name}_lib{number}{posixpath.splitext(path)[1]}" for number, path in enumerate(ordered)
        }

    def _below(self, file: _File) -> str:
        folder = {"test": layout.TEST_DIRECTORY, "ir": _IR_DIRECTORY}.get(file.place.role, _OTHER_DIRECTORY)
        return f"{folder}{self.name}/{file.path.removeprefix(folder).removeprefix(f'{self.module.name}/')}"

    # Metadata.

    def document(self, runtime: str) -> dict[str, Any]:
        """Give the module's keys; `runtime` is where the runtime that it came with lies now."""
        document: dict[str, Any] = json.loads(json.dumps(self.source.document["modules"][self.module.name]))
        document["model_name"] = self.name
        functions = document["memory"].get("functions", {}).get("operator_functions", ())
        for function in functions:
            function["function_name"] = self.names(function["function_name"])
        document["entrypoints"] = {role: self.names(name) for role, name in document["entrypoints"].items()}
        places = self._places(self.include_paths())
        for test in document.get("tests", ()):
            test.update({kind: places.get(test[kind], test[kind]) for kind in ("inputs", "outputs")})
        for dependency in document.get("external_dependencies", ()):
            path = str(dependency.get("url", ""))
            if f"{path}/".startswith(f"{_RUNTIME_URL}/"):
                dependency["url"] = runtime + path.removeprefix(_RUNTIME_URL)
        return document

    def all_notes(self) -> list[Note]:
        """Give what the conversion noted of this module, under its new name, and what renaming did."""
        place = f"{self.module.name}: "
        notes = [
            replace(note, place=f"{self.name}: {note.place.removeprefix(place)}")
            for note in self.source.notes
            if note.place.startswith(place)
        ]
        return [*notes, *self.notes]


def _weak_names(item: ElfObject) -> Iterator[str]:
    from mlf.objects.elf import STB_WEAK  # noqa: PLC0415  # numpy

    bindings = (item.symbols.info >> 4).tolist()
    return (name for name, binding in zip(item.symbols.names, bindings, strict=True) if binding == STB_WEAK)


def _include_path(path: str) -> str:
    return path.removeprefix(layout.INCLUDE_DIRECTORY)


class _Merger:
    """Puts renamed modules into one archive."""

    def __init__(self, parts: list[_Part], sources: Sequence[_Source]) -> None:
        self.parts = parts
        self.sources = sources
        self.owners = {id(source): min(part.name for part in parts if part.source is source) for source in sources}
        clashes = [part.clashes(other for other in parts if other is not part) for part in parts]
        for part, names in zip(parts, clashes, strict=True):
            part.rename(names)
        check_clashes([_defined_names(part) for part in parts])

    def draft(self) -> ArchiveDraft:
        """Give the whole archive."""
        runtimes = self._runtimes()
        described: list[tuple[PackedMember, str, str | None]] = [*self._shared(runtimes)]
        includes = self._includes({_include_path(member.name) for member, role, _ in described if role == "include"})
        for part in self.parts:
            described += [(member, role, part.name) for member, role in part.members(includes[part.name])]
        _check_places(described)
        modules = {part.name: part.document(_RUNTIME_URL + runtimes[id(part.source)]) for part in self.parts}
        places = [manifest.describe_member(member, role=role, module=module) for member, role, module in described]
        text = manifest.render_version_8(modules, places)
        document: Any = load_json(text.decode(), where=METADATA_NAME)
        return ArchiveDraft(
            version=LATEST_VERSION, metadata=text, members=tuple(member for member, _, _ in described), modules=tuple(modules),
            identity=identity_of(document), notes=tuple(note for part in self.parts for note in part.all_notes()),
        )  # fmt: skip

    def _includes(self, shared: set[str]) -> dict[str, dict[str, str]]:
        """Give headers that several modules have by one name a folder of the module's; each may say something else."""
        wanted = {part.name: part.include_paths() for part in self.parts}
        counts = Counter(path.casefold() for paths in wanted.values() for path in paths.values())
        counts.update(path.casefold() for path in shared)
        return {
            part.name: {
                old: new if counts[new.casefold()] == 1 or new == header_name(part.name) else f"{part.name}/{new}"
                for old, new in wanted[part.name].items()
            }
            for part in self.parts
        }

    def _runtimes(self) -> dict[int, str]:
        """Give each source's runtime a folder of its own, unless all have the same."""
        trees = {
            id(source): tuple(sorted((file.path, file.place.sha256) for file in source.shared if file.place.role in _RUNTIME_ROLES))
            for source in self.sources
        }  # fmt: skip
        first: dict[object, str] = {}
        for source in sorted(self.sources, key=lambda source: self.owners[id(source)]):
            if trees[id(source)]:
                first.setdefault(trees[id(source)], self.owners[id(source)])
        return {key: f"/{first[tree]}" if tree and len(first) > 1 else "" for key, tree in trees.items()}

    def _shared(self, runtimes: Mapping[int, str]) -> Iterator[tuple[PackedMember, str, None]]:
        """Give the files of no module, equal ones once."""
        found: dict[str, dict[str, tuple[_File, _Source]]] = {}
        for source in sorted(self.sources, key=lambda source: self.owners[id(source)]):
            for file in source.shared:
                place = file.path
                if file.place.role in _RUNTIME_ROLES:
                    top, _, rest = place.partition("/")
                    place = f"{top}{runtimes[id(source)]}/{rest}"
                found.setdefault(place, {}).setdefault(file.place.sha256, (file, source))
        for place, variants in sorted(found.items()):
            yield from self._variants(place, list(variants.values()))

    def _variants(
        self, place: str, variants: Sequence[tuple[_File, _Source]]
    ) -> Iterator[tuple[PackedMember, str, None]]:
        (file, source), *others = variants
        if others and file.place.role == "include":
            message = f"{source.label} and {others[0][1].label} both have the header {_include_path(place)}, which says something else in each"  # fmt: skip
            raise NameClashError(message)
        for item, owner in variants:
            name = f"{_OTHER_DIRECTORY}{self.owners[id(owner)]}/{place}" if others else place
            yield replace(item.member, name=name), item.place.role, None


def _defined_names(part: _Part) -> GeneratedNames:
    names = tuple(sorted(part.names(name) for name in part.defined))
    return GeneratedNames(model=part.name, owner=part.source.label, names=names)


def _check_places(described: Iterable[tuple[PackedMember, str, str | None]]) -> None:
    """Refuse two members of one name, also if only their case differs."""
    owners: dict[str, str | None] = {}
    for member, _, module in described:
        place = member.name.casefold()
        if place in owners:
            who = " and ".join(f"`{name}`" for name in dict.fromkeys((owners[place], module)) if name)
            raise NameClashError(f"two members of {who} would both be called {member.name}")
        owners[place] = module


# C.

_CALLED = re.compile(r"\b([A-Za-z_]\w*)\s{0,8}\(")
_EXTERN_C = re.compile(r'\bextern\s*"C"\s*\{?')
_NAMESPACE = re.compile(r"\bnamespace\s+[A-Za-z_][\w:]*\s*\{")
_ATTRIBUTE = re.compile(r"\b__attribute__\s*\(\((?:[^()]|\([^()]*\)){0,400}\)\)")
_BODY = re.compile(r"\)(?:\s*(?:const|noexcept|override|final))*\s*\{\}")
_HIDDEN = re.compile(r"\b(?:static|typedef|using|friend)\b")
_FUNCTION_NAME = re.compile(r"\b([A-Za-z_]\w*)\s*\(")
_MACRO_CALL = re.compile(r"\s*[A-Za-z_]\w*\s*\(")
_WORD = re.compile(r"[A-Za-z_]\w*")
_DECLARATOR = re.compile(r"\b([A-Za-z_]\w*)\s*(?:\[[^\[\]]*\]\s*)*(?:=[^=].*)?\Z", re.DOTALL)
_TAG = re.compile(r"\s*(?:struct|union|enum|class)\s+\w+\s*\Z")
_TYPE = re.compile(r"\b(?:class|struct|union)\s+([A-Za-z_]\w*)[^;{}()=]{0,400}\{\}")
_MOST_CHUNK_CHARS = 8192  # a longer declaration is data


def definitions(text: str, *, is_cpp: bool) -> set[str]:
    """Name what a C or C++ text may define for others at file scope: functions, variables, in C++ also classes.

    What a macro is given at file scope and the text calls counts too, for the macro may define a function of that name.
    """
    plain = _NAMESPACE.sub(" ", _EXTERN_C.sub(" ", plain_code(text)))
    scope = _BODY.sub(") @;", _ATTRIBUTE.sub(" ", _file_scope(plain)))
    found = set(_TYPE.findall(scope)) if is_cpp else set[str]()
    called = set(_CALLED.findall(plain))
    for statement in scope.split(";"):
        if len(statement) > _MOST_CHUNK_CHARS:
            continue
        is_macro = _MACRO_CALL.match(statement)
        found.update(called.intersection(_WORD.findall(statement)[1:]) if is_macro else _defined(statement))
    return found - KEYWORDS


def _file_scope(code: str) -> str:
    """Empty all braces; one that nothing opened belongs to `extern "C" {` or a namespace."""
    pieces: list[str] = []
    depth = start = 0
    for brace in re.finditer(r"[{}]", code):
        if depth == 0:
            pieces.append(code[start : brace.start()])
        if brace[0] == "}" and depth == 1:
            pieces.append("{}")
        depth = depth + 1 if brace[0] == "{" else max(depth - 1, 0)
        start = brace.end()
    return "".join([*pieces, code[start:] if depth == 0 else ""])


def _defined(statement: str) -> Iterable[str]:
    """Name what one statement at file scope defines."""
    head = re.split(r"[(=]", statement, maxsplit=1)[0]
    if _HIDDEN.search(head):
        return ()
    if statement.endswith("@"):
        found = _FUNCTION_NAME.search(statement)
        return [found[1]] if found else ()
    is_prototype = "(" in statement.split("=", 1)[0]
    if is_prototype or _TAG.match(statement) or ("=" not in statement and re.search(r"\bextern\b", head)):
        return ()
    if len(_WORD.findall(head)) < 2:
        return ()
    return [found[1] for found in map(_DECLARATOR.search, statement.split(",")) if found]


class _Names:
    """What the names of a module become: those with the module's name by rule, others one by one."""

    def __init__(self, old: str, new: str) -> None:
        prefixes = {
            mangle_model(old): mangle_model(new),
            mangle_model(old).lower(): mangle_model(new),
            macro(old): macro(new),
        }
        self.prefixes = prefixes
        self.header = {f"{mangle_model(old)}.h": header_name(new), header_name(old): header_name(new)}
        self.others: dict[str, str] = {}
        ordered = sorted(map(re.escape, prefixes), key=len, reverse=True)
        self.marked = re.compile(rf"({'|'.join(ordered)})(?![A-Za-z0-9])")

    def add(self, old: str, new: str) -> None:
        """Give one more name a new one."""
        self.others[old] = new

    def __call__(self, name: str) -> str:
        """Give the new name of an identifier or symbol."""
        if name in self.others:
            return self.others[name]
        found = self.marked.match(name)
        return self.prefixes[found[1]] + name[found.end() :] if found else name

    def code(self, text: str, includes: Mapping[str, str], folder: str | None) -> str:
        """Rename what a C or C++ text names; comments and literals stay, but for literals that name a symbol.

        `folder` is the text's own below the include directory, None for a source.
        """
        single = "|".join(map(re.escape, sorted(self.others, key=len, reverse=True)))
        others = rf"|(?<![\w.])(?<!->)(?P<other>{single})(?!\w)" if single else ""
        tokens = re.compile(
            rf"{_TOKENS}|(?<!\w)(?P<marked>(?:{self.marked.pattern})\w*){others}", re.DOTALL | re.MULTILINE
        )
        return tokens.sub(lambda found: self._token(found, includes, folder), text)

    def _token(self, found: re.Match[str], includes: Mapping[str, str], folder: str | None) -> str:
        if found["marked"] or found.groupdict().get("other"):
            return self(found[0])
        if found["fields"]:  # whose names are nobody else's
            return found[0].replace(found["fields"], self._fields(found["fields"]))
        if found["file"]:
            return found[0].replace(found["file"], self._included(found["file"], includes, folder))
        symbol = found["symbol"] or found["module"]
        return found[0].replace(f'"{symbol}"', f'"{self(symbol)}"') if symbol else found[0]

    def _fields(self, text: str) -> str:
        return re.sub(rf"(?<!\w){self.marked.pattern}\w*", lambda found: self(found[0]), text)

    def _included(self, name: str, includes: Mapping[str, str], folder: str | None) -> str:
        near = posixpath.normpath(posixpath.join(folder or "", name))
        return includes.get(near) or includes.get(name) or self.header.get(name, name)


# Comments, literals, and three forms in which names mean something else than elsewhere: `#include`, a literal that names a
# symbol, the fields of a struct. No repetition reads a text twice: each stops at what begins the next token.
_TOKENS = (
    r"/\*.*?(?:\*/|\Z)|//(?:\\\n|[^\n])*"
    r"|^[ \t]*\#[ \t]*include[ \t]*[<\"](?P<file>[^>\"\n]{1,255})[>\"]"
    r"|\b(?:alias|weakref|ifunc|__asm__|__asm|asm)\s*\(\s*\"(?P<symbol>\w+)\""
    r"|\bR\"(?P<raw>[^()\\\s]{0,16})\(.*?(?:\)(?P=raw)\"|\Z)"
    r"|\"(?P<module>\w+)\"(?=\s*/\*\s*mod_name)"
    r"|\"[^\"\\\n]*(?:\\.[^\"\\\n]*)*\"|(?<![0-9A-Fa-f])'[^'\\\n]*(?:\\.[^'\\\n]*)*'"
    r"|\b(?:struct|union)\b(?P<fields>[^;{}()=\"']{0,400}\{[^{}\"]*\})"
)


# Graphs and objects.


def _renamed_graph(data: bytes, where: str, names: _Names) -> bytes:
    """Rename the functions that a graph calls."""
    document: Any = load_json(data.decode(), where=where)
    before = json.dumps(document)
    for node in document["nodes"]:
        if node["op"] == "tvm_op":
            node["name"] = names(node["name"])
            node["attrs"]["func_name"] = names(node["attrs"]["func_name"])
    return data if json.dumps(document) == before else json.dumps(document, indent=2).encode()


def _renamed_library(data: bytes, where: str, names: _Names) -> bytes:
    from mlf.objects.ar import ArMember, read_ar, write_ar  # noqa: PLC0415  # numpy
    from mlf.objects.elf import parse_object  # noqa: PLC0415  # numpy

    members = []
    for name, content in read_ar(data, where):
        renamed = _renamed_object(bytes(content), f"{where}({name})", names)
        symbols = parse_object(renamed, name).symbols.defined_names()
        members.append(ArMember(name=name, data=renamed, symbols=tuple(symbols)))
    return write_ar(members)


def _renamed_object(data: bytes, where: str, names: _Names) -> bytes:
    """Rename the symbols of an object; everything else of it stays."""
    from mlf.objects.elf import parse_object, write_object  # noqa: PLC0415  # numpy

    item = parse_object(data, where)
    renamed = [names(name) for name in item.symbols.names]
    if renamed == item.symbols.names:
        return data
    item.symbols.names = renamed
    return write_object(item.machine, _without_tables(item), item.symbols)


def _without_tables(item: ElfObject) -> list[Section]:
    """Give the sections without the symbol table and its strings, which are written anew, numbered anew."""
    import numpy as np  # noqa: PLC0415

    from mlf.objects import elf  # noqa: PLC0415  # numpy

    tables = {elf.SHT_SYMTAB: "", elf.SHT_SYMTAB_SHNDX: "", elf.SHT_STRTAB: ".strtab .shstrtab"}
    kept = [
        index
        for index, section in enumerate(item.sections)
        if section.type not in tables or section.name not in (tables[section.type] or section.name).split()
    ]
    places = np.zeros(len(item.sections), np.int64)
    places[kept] = np.arange(len(kept))
    places[[index for index, section in enumerate(item.sections) if section.type == elf.SHT_SYMTAB]] = len(kept)
    order = item.machine.order + "u4"
    for index in kept:
        section = item.sections[index]
        section.link = int(places[section.link])
        if section.type in (elf.SHT_REL, elf.SHT_RELA) or section.flags & _INFO_LINK:
            section.info = int(places[section.info])
        if section.type == elf.SHT_GROUP:
            words = np.frombuffer(section.data, order).astype(np.int64)
            section.data = np.concatenate([words[:1], places[words[1:]]]).astype(order).tobytes()
    inside = item.symbols.section > 0
    item.symbols.section[inside] = places[item.symbols.section[inside]]
    return [item.sections[index] for index in kept]
