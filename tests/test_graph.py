from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any

import pytest
from archives import STYLES, Network
from archives import graph as network_graph

from mlf.errors import MetadataError
from mlf.graph import GraphEntry, GraphNode, parse_graph

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlf.graph import Graph

CPU_SECONDS = 3  # for a hundred thousand nodes, which take some tenths of one


def document() -> dict[str, Any]:
    """A graph of two inputs, a weight, and two operators of which the first has two outputs."""
    return {
        "nodes": [
            {"op": "null", "name": "x", "inputs": []},
            {"op": "null", "name": "w", "inputs": []},
            {"op": "tvm_op", "name": "split", "attrs": {"func_name": "tvmgen_default_split"}, "inputs": [[0, 0, 0]]},
            {"op": "tvm_op", "name": "add", "attrs": {"func_name": "tvmgen_default_add"}, "inputs": [[2, 1, 0]]},
        ],
        "arg_nodes": [0, 1],
        "heads": [[3, 0, 0], [2, 0, 0]],
        "attrs": {
            "dltype": ["list_str", ["float32", "int8", "float32", "float32", "float32"]],
            "shape": ["list_shape", [[2, 4], [4], [1, 4], [1, 4], []]],
            "storage_id": ["list_int", [0, 1, 2, 3, 2]],
        },
        "node_row_ptr": [0, 1, 2, 4, 5],
    }


def parse(content: object) -> Graph:
    return parse_graph(content, where="a.tar", name="default.graph")


def refused(content: object) -> str:
    with pytest.raises(MetadataError) as caught:
        parse(content)
    assert caught.value.where == "a.tar"
    return caught.value.message


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    content = copy.deepcopy(document())
    change(content)
    return content


def test_arguments_and_outputs_have_the_types_of_their_entries() -> None:
    found = parse(document())

    assert found.arguments == (
        GraphEntry(name="x", dtype="float32", shape=(2, 4), storage_id=0),
        GraphEntry(name="w", dtype="int8", shape=(4,), storage_id=1),
    )
    assert found.outputs == (
        GraphEntry(name="add", dtype="float32", shape=(), storage_id=2),
        GraphEntry(name="split", dtype="float32", shape=(1, 4), storage_id=2),
    )
    assert [entry.size_bytes for entry in (*found.arguments, *found.outputs)] == [32, 4, 4, 16]


def test_a_head_names_one_of_several_outputs_of_a_node() -> None:
    found = parse(changed(lambda it: it.update(heads=[[2, 1, 0]])))

    assert found.outputs == (GraphEntry(name="split", dtype="float32", shape=(1, 4), storage_id=3),)


def test_nodes_tell_what_they_call_with_which_tensors() -> None:
    def change(content: dict[str, Any]) -> None:
        content["nodes"][2]["attrs"].update(num_inputs="1", num_outputs="2", flatten_data="1")

    found = parse(changed(change))

    assert found.member == "default.graph"
    assert found.nodes[1:3] == (
        GraphNode(
            name="w", kind="null", function=None, inputs=(), outputs=range(1, 2), input_count=None, output_count=None,
            is_flat=False,
        ),
        GraphNode(
            name="split", kind="tvm_op", function="tvmgen_default_split", inputs=(0,), outputs=range(2, 4), input_count=1,
            output_count=2, is_flat=True,
        ),
    )  # fmt: skip
    assert found.nodes[3].inputs == (3,)
    assert (found.nodes[3].input_count, found.nodes[3].is_flat, found.nodes[3].is_reshape) == (None, False, False)
    assert (found.argument_places, found.head_places) == ((0, 1), (4, 2))
    assert [entry.name for entry in found.entries] == ["x", "w", "split", "split", "add"]


def test_devices_are_listed_once() -> None:
    assert parse(document()).device_types == ()
    found = parse(changed(lambda it: it["attrs"].update(device_index=["list_int", [2, 1, 2, 1, 1]])))

    assert found.device_types == (1, 2)


def test_storage_is_as_large_as_the_largest_tensor_in_it_and_arguments_do_not_count() -> None:
    assert parse(document()).storage_bytes == 16 + 16


def test_storage_of_a_type_that_nobody_knows_has_no_size() -> None:
    found = parse(changed(lambda it: it["attrs"]["dltype"][1].__setitem__(4, "custom[posit]8")))

    assert found.storage_bytes is None
    assert found.outputs[0].size_bytes is None


def test_an_argument_of_a_type_that_nobody_knows_leaves_the_size_of_the_storage() -> None:
    found = parse(changed(lambda it: it["attrs"]["dltype"][1].__setitem__(0, "custom[posit]8")))

    assert found.storage_bytes == 32


def test_operators_are_named_once_in_their_order_without_what_only_reshapes() -> None:
    def change(content: dict[str, Any]) -> None:
        content["nodes"][2]["attrs"]["func_name"] = "__nop"
        content["nodes"] += [copy.deepcopy(content["nodes"][3])] * 2
        content["nodes"][5]["attrs"] = {"func_name": "tvmgen_default_last"}
        content["node_row_ptr"] += [5, 5]

    found = parse(changed(change))

    assert found.operators == ("tvmgen_default_add", "tvmgen_default_last")
    assert [node.is_reshape for node in found.nodes] == [False, False, True, False, False, False]


def test_uint1_is_bool() -> None:
    found = parse(changed(lambda it: it["attrs"]["dltype"][1].__setitem__(1, "uint1")))

    assert (found.arguments[1].dtype, found.arguments[1].size_bytes) == ("bool", 4)


def test_the_graph_of_a_network_is_read_as_it_was_made() -> None:
    found = parse(network_graph(Network(**STYLES["graph"])))

    assert [(item.name, item.dtype, item.shape) for item in found.arguments] == [
        ("zeta:0", "float32", (1, 8)),
        ("p0", "float32", (1, 8)),
        ("alpha-b", "int8", (2, 4)),
    ]
    assert [(item.dtype, item.shape) for item in found.outputs] == [("int32", (1, 4)), ("float32", (1, 8))]
    assert len(found.operators) == 3


ROWS = "`node_row_ptr` is not 5 ascending numbers from 0 on, one for each node and the end"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda it: it.pop("attrs"), "`attrs` is missing"),
        (lambda it: it.pop("heads"), "`heads` is missing"),
        (lambda it: it.pop("arg_nodes"), "`arg_nodes` is missing"),
        (lambda it: it.pop("node_row_ptr"), "`node_row_ptr` is missing"),
        (lambda it: it["nodes"][1].pop("name"), "`nodes[1].name` is missing"),
        (lambda it: it["nodes"][1].pop("op"), "`nodes[1].op` is missing"),
        (lambda it: it["nodes"][2].pop("attrs"), "`nodes[2].attrs` is missing"),
        (lambda it: it["nodes"][2]["attrs"].update(func_name=1), "`nodes[2].attrs.func_name` is `1`, expected a string"),
        (lambda it: it.update(nodes=[1]), "`nodes[0]` is `1`, expected an object"),
        (lambda it: it.update(nodes={}), "`nodes` is an object, expected a list"),
        (lambda it: it.update(node_row_ptr=[0, 1, 2, 4]), ROWS),
        (lambda it: it.update(node_row_ptr=[0, 2, 1, 4, 5]), ROWS),
        (lambda it: it.update(node_row_ptr=[5, 5, 5, 5, 5]), ROWS),
        (
            lambda it: it.update(node_row_ptr=[0, 1, 2, 4, 10**19]),
            "`attrs` has 5 dtypes, 5 shapes and 5 storage ids for 10000000000000000000 tensors",
        ),
        (
            lambda it: it.update(node_row_ptr=[0, 1, 2, 4, -1]),
            "an item of `node_row_ptr` is `-1`, expected a whole number",
        ),
        (lambda it: it.update(arg_nodes=[True]), "an item of `arg_nodes` is `true`, expected a whole number"),
        (lambda it: it.update(arg_nodes=[4]), "`arg_nodes` names output 0 of node 4, which is not there"),
        (lambda it: it.update(heads=[[2, 2, 0]]), "`heads` names output 2 of node 2, which is not there"),
        (lambda it: it.update(heads=[[10**19, 0, 0]]), "`heads` names output 0 of node 10000000000000000000, which is not there"),
        (lambda it: it.update(heads=[[1]]), "an item of `heads` is a list, expected a node and an output"),
        (lambda it: it.update(heads=[["1", 0]]), 'a number in `heads` is `"1"`, expected a whole number'),
        (lambda it: it["nodes"][3].update(inputs=[3]), "an item of `nodes[3].inputs` is `3`, expected a node and an output"),
        (lambda it: it["nodes"][3].update(inputs=[[0, -1, 0]]), "a number in `nodes[3].inputs` is `-1`, expected a whole number"),
        (lambda it: it["nodes"][3].update(inputs=[[2, 2, 0]]), "`nodes[3].inputs` names output 2 of node 2, which is not there"),
        (
            lambda it: it["nodes"][2]["attrs"].update(num_inputs=1),
            "`nodes[2].attrs.num_inputs` is `1`, expected a string",
        ),
        (
            lambda it: it["nodes"][2]["attrs"].update(num_outputs="-1"),
            '`nodes[2].attrs.num_outputs` is `"-1"`, expected a number in quotation marks',
        ),
        (
            lambda it: it["nodes"][2]["attrs"].update(flatten_data="1" * 10),
            '`nodes[2].attrs.flatten_data` is `"1111111111"`, expected a number in quotation marks',
        ),
        (
            lambda it: it["attrs"].update(device_index=["list_int", [-1]]),
            "an item of `attrs.device_index` is `-1`, expected a whole number",
        ),
        (
            lambda it: it["attrs"]["shape"][1].__setitem__(0, [4, -1]),
            "an item of `attrs.shape` has a negative extent: only tensors of fixed shapes can be planned",
        ),
        (lambda it: it["attrs"].update(shape=[[1]]), "`attrs.shape` is a list, expected a type and a list"),
        (lambda it: it["attrs"]["shape"][1].__setitem__(0, 1), "an item of `attrs.shape` is `1`, expected a list of extents"),
        (lambda it: it["attrs"]["shape"][1].__setitem__(0, [1.5]), "an extent of `attrs.shape` is `1.5`, expected a whole number"),
        (
            lambda it: it["attrs"]["shape"][1].__setitem__(0, [1] * 65),
            "an item of `attrs.shape` has 65 extents; at most 64 are allowed",
        ),
        (lambda it: it["attrs"]["dltype"][1].__setitem__(0, 1), "an item of `attrs.dltype` is `1`, expected a dtype"),
        (
            lambda it: it["attrs"]["storage_id"][1].pop(),
            "`attrs` has 5 dtypes, 5 shapes and 4 storage ids for 5 tensors",
        ),
        (
            lambda it: it["attrs"]["storage_id"][1].__setitem__(0, None),
            "an item of `attrs.storage_id` is `null`, expected a whole number",
        ),
    ],
)  # fmt: skip
def test_what_is_no_graph_is_refused_with_its_place(change: Callable[[dict[str, Any]], object], message: str) -> None:
    assert refused(changed(change)) == f"default.graph: {message}"


def test_a_document_that_is_no_object_is_refused() -> None:
    assert refused([]) == "default.graph: the document is a list, expected an object"


def test_a_graph_of_a_hundred_thousand_nodes_is_read_and_a_larger_one_is_not() -> None:
    def graph_of(count: int) -> dict[str, Any]:
        content = document()
        content["nodes"] += [content["nodes"][3]] * (count - 4)
        content["node_row_ptr"] = [0, 1, 2, *range(4, count + 2)]
        for key, value in (("dltype", "int8"), ("shape", [1]), ("storage_id", 5)):
            content["attrs"][key][1] += [value] * (count - 4)
        return content

    start = time.process_time()
    assert parse(graph_of(100_000)).storage_bytes == 32 + 1
    assert time.process_time() - start < CPU_SECONDS
    message = "default.graph: `nodes` has 100001 items; at most 100000 are allowed"
    assert refused(graph_of(100_001)) == message


def test_giant_extents_give_a_size_that_can_be_printed() -> None:
    found = parse(changed(lambda it: it["attrs"]["shape"][1].__setitem__(0, [10**19] * 64)))

    assert str(found.arguments[0].size_bytes) == "4" + "0" * (19 * 64)
