from __future__ import annotations

import copy
import json
import random
from contextlib import suppress
from typing import Any

import pytest
from archives import RELEASES, WORKSPACE_BYTES, Network
from archives import metadata as document_of

from mlf.errors import MetadataError, MlfError, UnsupportedError
from mlf.metadata import BufferMetadata, Metadata, TensorMetadata, parse_metadata
from mlf.strictjson import load_json

MAIN = ("modules", "default", "memory", "functions", "main", 0)
DELETED = object()


def parse(document: object) -> Metadata:
    return parse_metadata(document, where="kws.tar")


def changed(*path: str | int, to: object, release: str = "0.17.0") -> Any:
    """Give a document in which the value at a place is another, or missing."""
    document = copy.deepcopy(document_of([Network(release=RELEASES[release])]))
    node: Any = document
    for key in path[:-1]:
        node = node[key]
    if to is DELETED:
        del node[path[-1]]
    else:
        node[path[-1]] = to
    return document


def message(document: object, kind: type[MlfError] = MetadataError) -> str:
    with pytest.raises(kind) as caught:
        parse(document)
    assert type(caught.value) is kind
    return str(caught.value).removeprefix("kws.tar: ")


# What each version says.


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_is_read(release: str) -> None:
    metadata = parse(document_of([Network(release=RELEASES[release], model="kws")]))

    (module,) = metadata.modules
    assert (metadata.version, module.name, module.executors) == (RELEASES[release].version, "kws", ("aot",))
    assert module.targets == ("c -keys=cpu ",)
    assert (module.workspace_bytes, module.constants_bytes) == (WORKSPACE_BYTES, 32)
    assert module.operators == ("tvmgen_kws_fused_add", "tvmgen_kws_fused_mix", "tvmgen_kws_fused_pick")


@pytest.mark.parametrize("release", ["0.8.0", "0.9.0", "0.10.0"])
def test_releases_before_0_11_say_nothing_of_tensors(release: str) -> None:
    (module,) = parse(document_of([Network(release=RELEASES[release])])).modules

    assert (module.inputs, module.outputs) == (None, None)


def test_tensors_are_read_with_their_own_names() -> None:
    (module,) = parse(document_of([Network(inputs=("input-x::2", "größe"))])).modules

    assert module.inputs == {
        "größe": TensorMetadata(dtype="int8", size_bytes=8),
        "input-x::2": TensorMetadata(dtype="float32", size_bytes=32),
    }
    assert module.outputs == {
        "hidden": TensorMetadata(dtype="float32", size_bytes=32),
        "scores": TensorMetadata(dtype="int32", size_bytes=16),
    }


def test_modules_are_sorted_by_name() -> None:
    networks = [Network(model=name) for name in ("zeta", "a_lib0", "a", "Foo")]

    assert [module.name for module in parse(document_of(networks)).modules] == ["Foo", "a", "a_lib0", "zeta"]


def test_targets_of_several_devices_are_all_read() -> None:
    (module,) = parse(changed("target", to={"1": "c -keys=cpu", "2": "ethos-u"}, release="0.8.0")).modules

    assert module.targets == ("c -keys=cpu", "ethos-u")


def test_the_first_entry_of_main_counts() -> None:
    second = {"device": 12, "workspace_size_bytes": 7}
    document = changed(*MAIN[:-1], to=[{"device": 1, "workspace_size_bytes": 5}, second])

    assert parse(document).modules[0].workspace_bytes == 5


def test_a_graph_module_has_no_need_to_say_more() -> None:
    (module,) = parse(changed("modules", "default", "memory", to={"sids": []})).modules

    assert (module.workspace_bytes, module.constants_bytes) == (None, None)
    assert (module.inputs, module.outputs, module.operators) == (None, None, ())


@pytest.mark.parametrize("key", ["export_datetime", "target", "style", "model_name"])
def test_keys_that_nothing_needs_may_be_missing(key: str) -> None:
    assert parse(changed("modules", "default", key, to=DELETED)).modules[0].name == "default"


def test_unknown_keys_are_allowed() -> None:
    assert parse(changed(*MAIN, "note", to=[1])).modules[0].name == "default"


# Versions and styles.


@pytest.mark.parametrize("version", [9, 99, 0, -7])
def test_versions_that_cannot_be_read_are_named(version: int) -> None:
    assert message(changed("version", to=version), UnsupportedError) == (
        f"metadata.json has version {version}; versions 1 to 8 can be read"
    )


def test_an_operator_archive_says_what_each_function_takes() -> None:
    buffer = {"size_bytes": 2, "shape": [2], "dtype": "int8", "input_binding": None}
    document = {"version": 7, "model_name": "add", "style": "operator", "memory": {"add": [buffer]}, "target": ["c"], "executors": []}  # fmt: skip
    (module,) = parse(document).modules

    assert (module.name, module.style, module.operators) == ("add", "operator", ("add",))
    assert module.buffers == {"add": (BufferMetadata(size_bytes=2, shape=(2,), dtype="int8", name=None),)}


def test_an_unknown_style_is_named() -> None:
    assert message(changed("style", to="whole", release="0.8.0"), UnsupportedError) == (
        'metadata.json has the style `"whole"`; `full-model` and `operator` can be read'
    )


# What is wrong, and where.


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ([], "metadata.json: the document is a list, expected an object"),
        ("version", 'metadata.json: the document is `"version"`, expected an object'),
        (None, "metadata.json: the document is `null`, expected an object"),
        ({}, "metadata.json: `version` is missing"),
        (changed("version", to="7"), 'metadata.json: `version` is `"7"`, expected a whole number'),
        (changed("version", to=True), "metadata.json: `version` is `true`, expected a whole number"),
        (changed("version", to=7.0), "metadata.json: `version` is `7.0`, expected a whole number"),
        (changed("version", to=[7]), "metadata.json: `version` is a list, expected a whole number"),
        (changed("version", to="7" * 90), f'metadata.json: `version` is `"{"7" * 39}...`, expected a whole number'),
        (changed("style", to=1), "metadata.json: `style` is `1`, expected a string"),
        (changed("modules", to=DELETED), "metadata.json: `modules` is missing"),
        (changed("modules", to=[]), "metadata.json: `modules` is a list, expected an object"),
        (changed("modules", to={}), "metadata.json: `modules` is empty, expected at least one module"),
        (changed("modules", "default", to=None), "metadata.json: `modules.default` is `null`, expected an object"),
        (changed("modules", "default", "memory", to=DELETED), "metadata.json: `modules.default.memory` is missing"),
        (changed("modules", "default", "memory", to=[]), "metadata.json: `modules.default.memory` is a list, expected an object"),
        (changed("modules", "default", "executors", to=DELETED), "metadata.json: `modules.default.executors` is missing"),
        (changed("modules", "default", "executors", to="aot"), 'metadata.json: `modules.default.executors` is `"aot"`, expected a list'),
        (changed("modules", "default", "executors", to=[1]), "metadata.json: an item of `modules.default.executors` is `1`, expected a string"),
        (changed("modules", "default", "target", to="c"), 'metadata.json: `modules.default.target` is `"c"`, expected a list'),
        (changed("modules", "default", "target", to=5), "metadata.json: `modules.default.target` is `5`, expected a list"),
        (changed("modules", "default", "target", to=None), "metadata.json: `modules.default.target` is `null`, expected a list"),
        (changed("modules", "default", "target", to=[["c"]]), "metadata.json: an item of `modules.default.target` is a list, expected a string"),
        (changed(*MAIN[:4], to=[]), "metadata.json: `modules.default.memory.functions` is a list, expected an object"),
        (changed(*MAIN[:5], to={}), "metadata.json: `modules.default.memory.functions.main` is an object, expected a list"),
        (changed(*MAIN, to=3), "metadata.json: `modules.default.memory.functions.main[0]` is `3`, expected an object"),
        (changed(*MAIN, "workspace_size_bytes", to=False),
         "metadata.json: `modules.default.memory.functions.main[0].workspace_size_bytes` is `false`, expected a whole number"),
        (changed(*MAIN, "constants_size_bytes", to=-1),
         "metadata.json: `modules.default.memory.functions.main[0].constants_size_bytes` is `-1`, expected a size in bytes"),
        (changed(*MAIN, "io_size_bytes", to=1.5),
         "metadata.json: `modules.default.memory.functions.main[0].io_size_bytes` is `1.5`, expected a whole number"),
        (changed(*MAIN, "inputs", to=[]), "metadata.json: `modules.default.memory.functions.main[0].inputs` is a list, expected an object"),
        (changed(*MAIN, "inputs", "zeta:0", to=4), "metadata.json: `modules.default.memory.functions.main[0].inputs.zeta:0` is `4`, expected an object"),
        (changed(*MAIN, "outputs", "scores", "dtype", to=DELETED),
         "metadata.json: `modules.default.memory.functions.main[0].outputs.scores.dtype` is missing"),
        (changed(*MAIN, "outputs", "scores", "dtype", to=None),
         "metadata.json: `modules.default.memory.functions.main[0].outputs.scores.dtype` is `null`, expected a string"),
        (changed(*MAIN, "outputs", "scores", "size", to=True),
         "metadata.json: `modules.default.memory.functions.main[0].outputs.scores.size` is `true`, expected a whole number"),
        (changed(*MAIN, "outputs", "scores", "size", to=-16),
         "metadata.json: `modules.default.memory.functions.main[0].outputs.scores.size` is `-16`, expected a size in bytes"),
        (changed(*MAIN[:4], "operator_functions", 1, "function_name", to=DELETED),
         "metadata.json: `modules.default.memory.functions.operator_functions[1].function_name` is missing"),
        (changed("model_name", to=DELETED, release="0.8.0"), "metadata.json: `model_name` is missing"),
        (changed("model_name", to=7, release="0.8.0"), "metadata.json: `model_name` is `7`, expected a string"),
        (changed("memory", to=DELETED, release="0.9.dev-v6"), "metadata.json: `memory` is missing"),
        (changed("executors", to=DELETED, release="0.8.0"), "metadata.json: `executors` is missing"),
        (changed("target", to={"1": 1}, release="0.8.0"), "metadata.json: `target.1` is `1`, expected a string"),
    ],
)  # fmt: skip
def test_a_message_says_what_is_wrong_and_where(document: object, text: str) -> None:
    assert message(document) == text


def test_mutated_documents_are_read_or_refused() -> None:
    chance = random.Random(20240328)  # noqa: S311  # not for secrets
    texts = [json.dumps(document_of([Network(release=release)])) for release in RELEASES.values()]
    values = ["null", "true", "-1", "1e400", '"c"', "[]", "{}", "[[]]", "99999999999999999999", '{"1": []}']
    refused = 0
    for _ in range(3000):
        text = chance.choice(texts)
        places = [index for index, char in enumerate(text) if char in ":,[{"]
        for _ in range(chance.randint(1, 3)):
            start = chance.choice(places) + 1
            text = text[:start] + chance.choice(values) + text[start + chance.randint(0, 9) :]
        try:
            parse(load_json(text, where="kws.tar"))
        except MlfError:
            refused += 1

    assert 0 < refused < 3000


@pytest.mark.parametrize("value", [None, True, -1, 2.5, "c", [], {}, [[]], {"1": {}}, 1 << 64])
def test_any_value_in_any_place_is_read_or_refused(value: object) -> None:
    for path in paths(document_of([Network()])):
        with suppress(MlfError):
            parse(changed(*path, to=value))


def paths(node: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items: list[tuple[str | int, object]] = []
    if isinstance(node, dict):
        items = list(node.items())
    if isinstance(node, list):
        items = list(enumerate(node))
    return [*((path,) if path else ()), *(found for key, child in items for found in paths(child, (*path, key)))]
