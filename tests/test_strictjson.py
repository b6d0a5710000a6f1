from __future__ import annotations

import re
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from mlf.errors import MetadataError
from mlf.strictjson import Node, shown

if TYPE_CHECKING:
    from collections.abc import Callable


def node(**values: Any) -> Node:
    return Node(values, where="a.tar", document="metadata.json")


def refused(ask: Callable[[], object]) -> str:
    with pytest.raises(MetadataError) as caught:
        ask()
    assert caught.value.where == "a.tar"
    return caught.value.message


@pytest.mark.parametrize(
    ("ask", "values", "answer"),
    [
        (lambda it: it.text("a"), {"a": "x"}, "x"),
        (lambda it: it.text("a", re.compile("x+")), {"a": "xx"}, "xx"),
        (lambda it: it.integer("a"), {"a": -1}, -1),
        (lambda it: it.number("a"), {"a": 1}, 1.0),
        (lambda it: it.number("a"), {"a": 0.5}, 0.5),
        (lambda it: it.boolean("a"), {"a": False}, False),
        (lambda it: it.size("a"), {"a": 0}, 0),
        (lambda it: it.optional_size("a"), {"a": None}, None),
        (lambda it: it.optional_size("a"), {}, None),
        (lambda it: it.optional_size("a"), {"a": 3}, 3),
        (lambda it: it.sequence("a"), {"a": [1, "x"]}, [1, "x"]),
        (lambda it: it.texts("a"), {"a": ["x", "y"]}, ("x", "y")),
        (lambda it: it.shape("a"), {"a": [1, 0]}, (1, 0)),
        (lambda it: it.shape("a"), {}, None),
        (lambda it: it.required("a"), {"a": None}, None),
        (lambda it: it.is_null("a"), {"a": None}, True),
        (lambda it: it.is_null("a"), {"a": 0}, False),
        (lambda it: it.keys(), {"b": 1, "a": 2}, ["b", "a"]),
        (lambda it: it.children("a"), {}, []),
        (lambda it: it.child("a").value, {"a": {"b": 1}}, {"b": 1}),
        (lambda it: [item.value for item in it.children("a")], {"a": [{"b": 1}, {}]}, [{"b": 1}, {}]),
        (lambda it: "a" in it, {"a": None}, True),
    ],
)
def test_a_value_of_the_right_kind_is_given(
    ask: Callable[[Node], object], values: dict[str, Any], answer: object
) -> None:
    assert ask(node(**values)) == answer


@pytest.mark.parametrize(
    ("ask", "values", "message"),
    [
        (lambda it: it.required("a"), {}, "`a` is missing"),
        (lambda it: it.text("a"), {"a": 1}, "`a` is `1`, expected a string"),
        (lambda it: it.text("a", re.compile("x+"), "some x"), {"a": "xy"}, '`a` is `"xy"`, expected some x'),
        (lambda it: it.integer("a"), {"a": True}, "`a` is `true`, expected a whole number"),
        (lambda it: it.integer("a"), {"a": 1.0}, "`a` is `1.0`, expected a whole number"),
        (lambda it: it.number("a"), {"a": True}, "`a` is `true`, expected a number"),
        (lambda it: it.boolean("a"), {"a": 0}, "`a` is `0`, expected true or false"),
        (lambda it: it.size("a"), {"a": -1}, "`a` is `-1`, expected a size in bytes"),
        (lambda it: it.optional_size("a"), {"a": "1"}, '`a` is `"1"`, expected a whole number'),
        (lambda it: it.sequence("a"), {"a": {}}, "`a` is an object, expected a list"),
        (lambda it: it.texts("a"), {"a": ["x", 1]}, "an item of `a` is `1`, expected a string"),
        (lambda it: it.shape("a"), {"a": [1, True]}, "an item of `a` is `true`, expected an extent"),
        (lambda it: it.shape("a"), {"a": [-1]}, "an item of `a` is `-1`, expected an extent"),
        (lambda it: it.child("a"), {"a": []}, "`a` is a list, expected an object"),
        (lambda it: it.children("a"), {"a": [{}, None]}, "`a[1]` is `null`, expected an object"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_its_place(
    ask: Callable[[Node], object], values: dict[str, Any], message: str
) -> None:
    assert refused(lambda: ask(node(**values))) == f"metadata.json: {message}"


@pytest.mark.parametrize("value", [None, [], "x", 1])
def test_a_document_is_an_object(value: object) -> None:
    message = refused(lambda: Node(value, where="a.tar", document="metadata.json"))

    assert message == f"metadata.json: the document is {shown(value)}, expected an object"


def test_a_place_is_the_way_from_the_top() -> None:
    inner = node(a={"b": [{}, {"c": {}}]}).child("a").children("b")[1].child("c")

    assert inner.path == "a.b[1].c"
    assert refused(lambda: inner.text("d")) == "metadata.json: `a.b[1].c.d` is missing"


def test_a_key_keeps_its_quotes_in_a_place() -> None:
    assert refused(lambda: node(**{"a`": {}}).child("a`").text("b")) == "metadata.json: `a`.b` is missing"


def test_a_place_may_be_given() -> None:
    moved = Node({}, where="a.tar", document="metadata.json", path="modules.a")

    assert refused(lambda: moved.text("b")) == "metadata.json: `modules.a.b` is missing"


def test_long_names_are_not_copied_into_the_place_of_each_object() -> None:
    parent = node(**{"x" * (1 << 20): {"a": [{}] * 1000}}).child("x" * (1 << 20))

    tracemalloc.start()
    items = parent.children("a")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(items) == 1000
    assert peak_bytes < 8 << 20


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, "an object"),
        ([1], "a list"),
        (None, "`null`"),
        (True, "`true`"),
        ("ü\n", '`"ü\\n"`'),
        ("x" * 100, f'`"{"x" * 39}...`'),
    ],
)
def test_a_value_is_shown_as_json_spells_it(value: object, text: str) -> None:
    assert shown(value) == text
