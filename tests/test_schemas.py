from __future__ import annotations

import copy
import gzip
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from mlf.check import CODES
from mlf.errors import MlfError
from mlf.report import render_json, run_document
from mlf.runner import RunResult

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
SCHEMAS = ROOT / "schemas"
README = SCHEMAS / "README.md"
NAMES = (
    "convert-v1",
    "diff-v1",
    "error-v1",
    "export-v1",
    "firmware-v1",
    "inspect-v1",
    "library-v1",
    "plan-v1",
    "replay-v1",
    "run-v1",
    "size-v1",
    "validate-v1",
)
FORMATS = tuple(f"metadata-v{version}" for version in range(1, 9))
SAMPLES = ("glyph", "motor", "tone")
LINK = ("link", *(f"{name}=samples/{name}.tar" for name in SAMPLES))
# What differs between versions of one compiler; RAM does not.
COMPILED_SIZES = {
    "dropped_bytes",
    "flash_bytes",
    "flash_padding_bytes",
    "merged_bytes",
    "operators",
    "registry_bytes",
    "sections",
    "shared",
    "stack",
    "text_bytes",
}
LESS_COMMON = ("get_c_metadata", "map_inputs", "map_outputs")  # entrypoints
# A digest of the whole plan, of which a new version of mlf may know more.
ARENA_SYMBOL = re.compile(r"mlf_arena_[0-9a-f]{8}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """An example of the README: commands, and the document that the last of them prints."""

    commands: tuple[tuple[str, ...], ...]
    schema: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Linked:
    """A library of all samples: where it lies, the document beside it, and what the command printed."""

    folder: Path
    document: Path
    printed: str


def mlf(folder: Path, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "mlf", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def check_jsonschema(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def schema(name: str) -> dict[str, Any]:
    return dict(json.loads((SCHEMAS / f"{name}.schema.json").read_text()))


def strict(node: Any) -> Any:
    """The same schema, but refusing keys that it does not describe."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    closed = {key: strict(value) for key, value in node.items()}
    return {"additionalProperties": False, **closed} if isinstance(node.get("properties"), dict) else closed


def faults(document: object, against: dict[str, Any]) -> list[str]:
    found = Draft202012Validator(against).iter_errors(document)
    return sorted(f"{fault.json_path}: {fault.message}" for fault in found)


def valid(text: str, name: str) -> dict[str, Any]:
    """Take a document that mlf printed, and give it; it must be in canonical form and hold described keys alone."""
    document: dict[str, Any] = json.loads(text)
    assert text == json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert faults(document, strict(schema(name))) == []
    return document


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object in a schema."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes(child)


def objects(name: str) -> list[dict[str, Any]]:
    """Every part of a schema that describes an object with keys of its own."""
    return [node for node in nodes(schema(name)) if isinstance(node.get("properties"), dict)]


def copy_samples(folder: Path) -> Path:
    (folder / "samples").mkdir()
    shutil.copytree(ROOT / "samples" / "described", folder / "samples" / "described")
    for path in (ROOT / "samples").iterdir():
        if path.stem.split(".")[0] in SAMPLES and path.suffix in (".tar", ".npz"):
            shutil.copyfile(path, folder / "samples" / path.name)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_samples(tmp_path_factory.mktemp("documents"))


@pytest.fixture(scope="module")
def linked(folder: Path) -> Linked:
    printed = mlf(folder, *LINK, "-o", "build/libmodels.a", "--json").stdout
    return Linked(folder=folder, document=folder / "build" / "libmodels.json", printed=printed)


def test_there_is_a_schema_for_every_document_and_no_other_file() -> None:
    assert sorted(path.name for path in SCHEMAS.iterdir()) == [
        "README.md",
        *sorted(f"{name}.schema.json" for name in (*NAMES, *FORMATS)),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_schema_is_valid_and_stands_alone(name: str) -> None:
    found = schema(name)

    Draft202012Validator.check_schema(found)
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert found["$id"] == f"urn:mlf:schema:{name}"
    assert found["properties"]["schema"]["const"] == f"mlf-{name}"
    assert found["title"]
    references = [node["$ref"] for node in nodes(found) if "$ref" in node]
    assert sorted(set(references)) == sorted(f"#/$defs/{key}" for key in found.get("$defs", {}))


def test_check_jsonschema_accepts_the_schemas() -> None:
    done = check_jsonschema("--check-metaschema", *sorted(SCHEMAS.glob("*.json")))

    assert (done.returncode, done.stdout, done.stderr) == (0, "ok -- validation done\n", "")


@pytest.mark.parametrize("name", NAMES)
def test_every_key_is_described_with_its_source(name: str) -> None:
    keys = {key: value.get("description", "") for node in objects(name) for key, value in node["properties"].items()}

    assert keys
    assert [key for key, text in keys.items() if not re.fullmatch(r"\S.*\. Source: \S.*\.", text)] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_bytes_says_so(name: str) -> None:
    keys = [
        (key, value["description"])
        for node in objects(name)
        for key, value in node["properties"].items()
        if key.endswith("_bytes")
    ]

    assert [key for key, text in keys if "in bytes" not in text] == []


@pytest.mark.parametrize("name", NAMES)
def test_readers_may_find_more_keys_and_rely_on_those_required(name: str) -> None:
    for node in objects(name):
        assert "additionalProperties" not in node
        assert "unevaluatedProperties" not in node
        assert set(node["required"]) <= set(node["properties"])


def test_keys_that_may_be_missing_are_these() -> None:
    optional = {
        (name, key)
        for name in NAMES
        for node in objects(name)
        for key in set(node["properties"]) - set(node["required"])
    }
    symbols = set(schema("inspect-v1")["$defs"]["module"]["properties"]["entrypoints"]["properties"])
    tensors = {(name, "quantization") for name in ("firmware-v1", "inspect-v1", "library-v1", "plan-v1")}

    entrypoints = {(name, role) for name in ("library-v1", "plan-v1") for role in LESS_COMMON}
    definitions = {("inspect-v1", "definitions"), *(("inspect-v1", name) for name in symbols)}
    assert optional == {*definitions, *tensors, *entrypoints}


@pytest.mark.parametrize(
    ("definition", "names"),
    [
        ("tensor", ("inspect-v1", "library-v1")),
        *(
            (name, ("library-v1", "plan-v1"))
            for name in ("allocator", "block", "compiler", "io_place", "need", "tensor")
        ),
        *(
            (name, ("library-v1", "size-v1"))
            for name in ("arena", "folded", "image", "need", "operator", "section", "shared", "sizes", "stack")
        ),
    ],
)
def test_documents_share_a_definition(definition: str, names: tuple[str, str]) -> None:
    first, second = (schema(name)["$defs"][definition] for name in names)

    assert first == second


def test_library_and_plan_say_the_same_of_a_model() -> None:
    library, plan = (schema(name)["$defs"]["model"]["properties"] for name in ("library-v1", "plan-v1"))
    shared = sorted(library.keys() & plan.keys())

    assert {"archive", "format_version", "header", "module", "name", "workspace_bytes"} <= set(shared)
    assert {key: library[key] for key in shared} == {key: plan[key] for key in shared}


@pytest.mark.parametrize("place", [(), ("$defs", "model")])
def test_size_says_of_a_library_what_its_document_says(place: tuple[str, ...]) -> None:
    library, size = schema("library-v1"), schema("size-v1")
    for key in place:
        library, size = library[key], size[key]
    shared = (library["properties"].keys() & size["properties"].keys()) - {"schema", "pools", "registry"}

    assert {"linked", "saved", "totals"} <= shared if not place else {"operators", "sizes", "stack"} <= shared
    assert {key: library["properties"][key] for key in shared} == {key: size["properties"][key] for key in shared}


def test_document_of_a_library_has_described_keys_alone(linked: Linked) -> None:
    document = valid(linked.document.read_text(), "library-v1")

    assert [model["name"] for model in document["models"]] == list(SAMPLES)
    assert {model["name"]: model["memory_styles"] for model in document["models"]} == {
        "glyph": ["internal"],
        "motor": ["external"],
        "tone": ["allocator"],
    }
    assert [pool["name"] for model in document["models"] for pool in model["pools"]] == ["sram"]
    assert [arena["models"] for arena in document["arenas"]] == [["glyph", "tone"]]


def test_printed_document_of_a_library_is_the_written_one(linked: Linked) -> None:
    valid(linked.printed, "library-v1")

    assert linked.document.read_text() == linked.printed


def test_sums_in_the_document_of_a_library_are_what_the_schema_says(linked: Linked) -> None:
    document = json.loads(linked.document.read_text())
    sizes = [model["sizes"] for model in document["models"]]

    sizes += [arena["sizes"] for arena in document["arenas"]] + [document["arguments"]["sizes"]]
    totals, saved = document["totals"], document["saved"]

    for item in [*sizes, totals, document["registry"]["sizes"], *document["linked"].values()]:
        assert item["flash_bytes"] == item["text_bytes"] + item["data_bytes"]
        assert item["ram_bytes"] == item["data_bytes"] + item["bss_bytes"]
    once = saved["folded_bytes"] + totals["merged_bytes"]
    flash, ram = (sum(item[key] for item in sizes) for key in ("flash_bytes", "ram_bytes"))
    assert totals["flash_bytes"] == flash - once + totals["flash_padding_bytes"]
    assert totals["ram_bytes"] == ram + totals["ram_padding_bytes"]


def test_check_jsonschema_accepts_the_document_of_a_library(linked: Linked) -> None:
    done = check_jsonschema("--schemafile", SCHEMAS / "library-v1.schema.json", linked.document)

    assert (done.returncode, done.stdout, done.stderr) == (0, "ok -- validation done\n", "")


def test_document_of_a_library_without_its_models_is_refused(linked: Linked) -> None:
    document = json.loads(linked.document.read_text())
    del document["models"]

    assert faults(document, schema("library-v1")) == ["$: 'models' is a required property"]


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("schema", "mlf-library-v2", "$.schema: 'mlf-library-v1' was expected"),
        ("models", {}, "$.models: {} is not of type 'array'"),
        ("target", None, "$.target: None is not of type 'string'"),
    ],
)
def test_document_of_a_library_with_a_wrong_value_is_refused(linked: Linked, key: str, value: Any, fault: str) -> None:
    document = {**json.loads(linked.document.read_text()), key: value}

    assert faults(document, schema("library-v1")) == [fault]


def test_readers_ignore_unknown_keys_that_the_strict_schema_finds_at_every_depth(linked: Linked) -> None:
    document = json.loads(linked.document.read_text())
    changed = copy.deepcopy(document)
    places = {
        "$": changed,
        "$.models[0]": changed["models"][0],
        "$.models[0].inputs[0]": changed["models"][0]["inputs"][0],
        "$.registry.sizes": changed["registry"]["sizes"],
    }
    for place in places.values():
        place["unknown"] = 1

    assert faults(changed, schema("library-v1")) == []
    assert faults(changed, strict(schema("library-v1"))) == sorted(
        f"{place}: Additional properties are not allowed ('unknown' was unexpected)" for place in places
    )


def test_plan_has_described_keys_alone(tmp_path: Path) -> None:
    copy_samples(tmp_path)

    plan = valid(mlf(tmp_path, *LINK, "-o", "build/libmodels.a", "--dry-run", "--json").stdout, "plan-v1")

    assert {model["name"]: model["arena"] and model["arena"]["size_bytes"] for model in plan["models"]} == {
        "glyph": 4096,
        "motor": None,
        "tone": 2192,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["samples"]


@pytest.mark.parametrize("name", SAMPLES)
def test_inspect_has_described_keys_alone(folder: Path, name: str) -> None:
    document = valid(mlf(folder, "inspect", f"samples/{name}.tar", "--json").stdout, "inspect-v1")

    assert (document["archive"], document["form"], document["format_version"]) == (f"{name}.tar", "tar", 7)


@pytest.mark.parametrize("form", ["directory", "tar.gz"])
def test_inspect_gives_the_same_document_for_every_form(folder: Path, tmp_path: Path, form: str) -> None:
    archive = folder / "samples" / "motor.tar"
    if form == "directory":
        (tmp_path / "motor").mkdir()
        subprocess.run(["tar", "-xf", archive, "-C", tmp_path / "motor"], check=True)
    else:
        (tmp_path / "motor").write_bytes(gzip.compress(archive.read_bytes()))

    document = valid(mlf(tmp_path, "inspect", "motor", "--json").stdout, "inspect-v1")

    plain = json.loads(mlf(folder, "inspect", "samples/motor.tar", "--json").stdout)
    assert document == {**plain, "archive": "motor", "form": form}


def test_inspect_of_archives_of_a_real_compiler_has_described_keys_alone(real_archives: Path) -> None:
    cases = json.loads((real_archives / "cases.json").read_text())["cases"]
    modules = [
        module
        for case in cases
        for module in valid(mlf(real_archives, "inspect", case["archive"], "--json").stdout, "inspect-v1")["modules"]
    ]

    assert {item for module in modules for item in module["executors"]} == {"aot", "graph"}
    assert {module["api"]["interface"] for module in modules} == {"c", "packed"}
    assert {pool["kind"] for module in modules for pool in module["pools"]} == {"constant", "workspace"}


def test_document_of_a_library_holds_the_constants_that_the_caller_lends(real_archives: Path, tmp_path: Path) -> None:
    archive = real_archives / "conv-cpool.tar"

    document = valid(mlf(tmp_path, "link", f"conv={archive}", "--json").stdout, "library-v1")

    pools = [pool for model in document["models"] for pool in model["pools"]]
    assert [(pool["kind"], len(pool["data"])) for pool in pools] == [("constant", 2 * pools[0]["size_bytes"])]


def test_document_of_a_library_of_every_kind_of_model_has_described_keys_alone(
    real_archives: Path, tmp_path: Path
) -> None:
    cases = ("conv-graph", "dense-io-pools", "int8-alloc", "lstm-graph-params", "dense-packed")
    models = [f"{case.replace('-', '_')}={real_archives / case}.tar" for case in cases]

    document = valid(mlf(tmp_path, "link", *models, "--json").stdout, "library-v1")
    plan = valid(mlf(tmp_path, "link", *models, "--dry-run", "--json").stdout, "plan-v1")
    size = valid(mlf(tmp_path, "size", "libmodels.json", "--json").stdout, "size-v1")

    assert {key: size[key] for key in size.keys() & document.keys() - {"models", "registry", "schema"}} == {
        key: document[key] for key in size.keys() & document.keys() - {"models", "registry", "schema"}
    }
    assert [model["arena"] for model in plan["models"]] == [model["arena"] for model in size["models"]]


@pytest.mark.parametrize("name", SAMPLES)
def test_size_of_an_archive_has_described_keys_alone(folder: Path, name: str) -> None:
    document = valid(mlf(folder, "size", f"samples/{name}.tar", "--json").stdout, "size-v1")

    assert (document["source"], document["target"], document["budget"]) == (f"{name}.tar", "host", [])


@pytest.mark.parametrize("name", SAMPLES)
def test_run_has_described_keys_alone(folder: Path, name: str) -> None:
    inputs = f"samples/{name}.inputs.npz"

    document = valid(mlf(folder, "run", f"samples/{name}.tar", "--inputs", inputs, "--json").stdout, "run-v1")

    with np.load(folder / "samples" / f"{name}.outputs.npz") as golden:
        expected = {key: golden[key] for key in golden.files}
    assert {output["name"]: output["dtype"] for output in document["outputs"]} == {
        key: str(array.dtype) for key, array in expected.items()
    }
    for output in document["outputs"]:
        assert len(output["values"]) == np.prod(output["shape"])
        np.testing.assert_allclose(output["values"], expected[output["name"]].ravel(), rtol=1e-5, atol=1e-6)


def test_run_writes_what_json_lacks_as_strings() -> None:
    values = np.array([[np.nan, np.inf], [-np.inf, 0.1]], np.float32)
    results = {"answer": values, "flag": np.array([True]), "scalar": np.array(2**63, np.uint64)}

    document = valid(render_json(run_document(RunResult(model="m", target="host", outputs=results))), "run-v1")

    assert [output["values"] for output in document["outputs"]] == [
        ["nan", "inf", "-inf", 0.10000000149011612],
        [True],
        [2**63],
    ]
    assert [output["shape"] for output in document["outputs"]] == [[2, 2], [1], []]


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        ("inspect missing.tar", 1, "bad-archive"),
        ("inspect samples/tone.inputs.npz", 1, "bad-archive"),
        ("inspect future", 1, "unsupported"),
        ("inspect empty", 1, "bad-metadata"),
        ("link samples/tone.tar samples/glyph.tar", 1, "name-clash"),
        ("link models=samples/tone.tar", 1, "name-clash"),
        ("link a=samples/tone.tar:other", 1, "cannot-link"),
        ("link a=samples/tone.tar --cflags -Dfloat=struct", 1, "cannot-compile"),
        ("link a=samples/tone.tar -o samples/tone.tar/libmodels.a", 2, "cannot-write"),
        ("link a=samples/tone.tar --target abacus", 2, "tool-failed"),
        ("link a=samples/tone.tar --cc no-such-compiler", 2, "tool-failed"),
        ("run samples/tone.tar", 1, "bad-tensor"),
        ("run samples/tone.tar --inputs samples/glyph.inputs.npz", 1, "bad-tensor"),
        ("run missing.json", 1, "bad-input"),
        ("run samples/tone.tar --inputs samples/tone.inputs.npz --timeout 1e-9", 2, "run-failed"),
        ("run samples/tone.tar --model tone", 2, "usage"),
        ("link", 2, "usage"),
        ("link a=samples/tone.tar --jobs none", 2, "usage"),
        ("inspect samples/tone.tar --unknown", 2, "usage"),
        ("unknown", 2, "usage"),
    ],
)
def test_error_has_described_keys_alone(tmp_path: Path, arguments: str, status: int, code: str) -> None:
    copy_samples(tmp_path)
    for name, metadata in (("future", {"version": 99}), ("empty", {})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metadata.json").write_text(json.dumps(metadata))

    done = mlf(tmp_path, *arguments.split(), "--json", status=status)

    error = valid(done.stdout, "error-v1")["error"]
    place = f"{error['where']}: " if error["where"] else ""
    hint = f"hint: {error['hint']}\n" if error["hint"] else ""
    assert error["code"] == code
    assert done.stderr == f"error: {place}{error['message']}\n{hint}"


def error_kinds(base: type[MlfError] = MlfError) -> dict[str, int]:
    kinds = {base.code: base.exit_status}
    for kind in base.__subclasses__():
        kinds |= error_kinds(kind)
    return kinds


def test_schema_and_readme_list_every_kind_of_error() -> None:
    listed = re.findall(r"^\| `([a-z-]+)` \| (\d) \|", README.read_text(), re.MULTILINE)

    assert {code: int(status) for code, status in listed} == error_kinds()
    assert schema("error-v1")["properties"]["error"]["properties"]["code"]["examples"] == sorted(error_kinds())


def test_readme_lists_every_finding() -> None:
    listed = re.findall(r"^\| `([a-z-]+)` \| (error|warning|note) \|", README.read_text(), re.MULTILINE)

    assert dict(listed) == CODES
    assert len(listed) == len(CODES)


def test_readme_lists_every_schema() -> None:
    listed = re.findall(r"\| `mlf-([\w-]+)` \| \[([\w-]+)\]\(([\w.-]+)\) \|$", README.read_text(), re.MULTILINE)

    assert sorted(listed) == [(name, name, f"{name}.schema.json") for name in NAMES]


def read_examples() -> list[Example]:
    pattern = re.compile(
        r"^```console\n((?:\$ [^\n]*\n)+)```\n\n```json title=([\w-]+)\n(.*?)^```$", re.DOTALL | re.MULTILINE
    )
    return [
        Example(
            commands=tuple(tuple(shlex.split(line.removeprefix("$ "))) for line in commands.splitlines()),
            schema=name,
            text=text,
        )
        for commands, name, text in pattern.findall(README.read_text())
    ]


EXAMPLES = read_examples()


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the examples' commands print; they run in order, because one uses the library of another."""
    folder = copy_samples(tmp_path_factory.mktemp("examples"))
    return [[answer(command, folder) for command in example.commands][-1] for example in EXAMPLES]


def answer(command: tuple[str, ...], folder: Path) -> str:
    program = [sys.executable, "-m", "mlf"] if command[0] == "mlf" else [command[0]]
    return subprocess.run([*program, *command[1:]], cwd=folder, capture_output=True, text=True, check=False).stdout


def normalised(value: Any, key: str = "") -> Any:
    """Take out what depends on the compiler's version, and the last digits of what it calculated."""
    if isinstance(value, dict):
        return {name: normalised(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [normalised(item) for item in value]
    if key in COMPILED_SIZES or (key == "version" and isinstance(value, str)):
        return None
    if isinstance(value, str):
        return ARENA_SYMBOL.sub("mlf_arena", value)
    return round(value, 4) if isinstance(value, float) else value


def test_readme_has_an_example_of_every_document() -> None:
    assert sorted({example.schema for example in EXAMPLES}) == sorted([*NAMES, "metadata-v7", "metadata-v8"])
    assert README.read_text().count("```json") == len(EXAMPLES)


@pytest.mark.parametrize(
    "index", range(len(EXAMPLES)), ids=[f"{index}-{example.schema}" for index, example in enumerate(EXAMPLES)]
)
def test_example_of_the_readme_is_what_the_command_prints(answers: list[str], index: int) -> None:
    example = EXAMPLES[index]

    documents = [example.text, answers[index]]
    if example.schema in FORMATS:  # TVM ended no line
        documents = [text.rstrip("\n") + "\n" for text in documents]
    expected, got = (normalised(valid(text, example.schema)) for text in documents)
    assert got == expected
