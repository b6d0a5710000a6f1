from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from archives import RELEASES, STYLES, Network, expected, members, random_inputs, write
from conftest import REAL_ARCHIVES

from mlf.archive import open_archive
from mlf.boards import build_firmware, run_firmware
from mlf.csource import DTYPE_SIZES_BYTES
from mlf.errors import InputError, LinkError, MetadataError, TensorError, UnsupportedError
from mlf.frontends.graph import program_of_graph
from mlf.params import DTYPES, Param, render_params
from mlf.program import Call, Program, Value, lay_out
from mlf.programcode import ProgramCode, program_code
from mlf.reading import read_modules
from mlf.toolchain import RUNTIME, compiler_for, run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from mlf.archive import Archive
    from mlf.module import Module

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wno-unused-function")
RUBBISH = ("-ftrivial-auto-var-init=pattern",)  # in every variable that nothing has been put into
TIMEOUT_S = 60
GUARD = 0xA5

# What the operators themselves ask for, the program prints its outputs with, and how it is run.
SUPPORT = r"""
#include "tvm/runtime/c_runtime_api.h"
static uint8_t workspace[1 << 16] __attribute__((aligned(64)));
static size_t used;
void* TVMBackendAllocWorkspace(int type, int id, uint64_t size, int code, int bits) {
  void* block = workspace + used;
  used += (size + 63) / 64 * 64;
  return used <= sizeof workspace ? block : 0;
}
int TVMBackendFreeWorkspace(int type, int id, void* block) { used = (uint8_t*)block - workspace; return 0; }
void show(const char* text);
void TVMAPISetLastError(const char* text) { show(text); }
int TVMFuncCall(void* f, TVMValue* a, int* c, int n, TVMValue* r, int* t) { return -1; }
int TVMBackendGetFuncFromEnv(void* e, const char* n, void** f) { return -1; }
static void show_bytes(const uint8_t* data, size_t size) {
  size_t index;
  for (index = 0; index < size; ++index) {
    char text[3] = {"0123456789abcdef"[data[index] >> 4], "0123456789abcdef"[data[index] & 15], 0};
    show(text);
  }
  show("\n");
}
"""
SHOW_HOST = "#include <stdio.h>\nvoid show(const char* text) { fputs(text, stdout); }\n"
# Objects of Arm have unwind tables, which name these functions.
SHOW_BOARD = """
void board_puts(const char*);
void show(const char* text) { board_puts(text); }
void __aeabi_unwind_cpp_pr0(void) {}
void __aeabi_unwind_cpp_pr1(void) {}
"""


def array(name: str, content: bytes, *, qualifier: str = "static") -> str:
    values = ",".join(map(str, content)) or "0"
    return f"{qualifier} uint8_t {name}[] __attribute__((aligned(64))) = {{{values}}};\n"


def main_function(code: ProgramCode, inputs: Sequence[bytes], sizes: Sequence[int]) -> str:
    """A program that runs the model twice, in memory that holds rubbish, and prints its outputs and what lies behind them."""
    text = SUPPORT + "".join(array(f"given_{index}", content) for index, content in enumerate(inputs))
    text += "".join(array(f"made_{index}", bytes([GUARD]) * (size + 8)) for index, size in enumerate(sizes))
    passed = [f"given_{index}" for index in range(len(inputs))] + [f"made_{index}" for index in range(len(sizes))]
    if code.arena_bytes:
        text += array("arena", bytes([GUARD]) * (code.arena_bytes + 8))
        passed.append("arena")
    run_it = f'if (execute({", ".join(passed)}) != 0) {{ show("failed\\n"); return 1; }}\n'
    shown = [f"show_bytes(made_{index}, sizeof made_{index});\n" for index in range(len(sizes))]
    shown += [f"show_bytes(arena + {code.arena_bytes}, 8);\n"] if code.arena_bytes else []
    return f"{text}int main(void) {{\n{run_it * 2}{''.join(shown)}return 0; }}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What is linked with a program: C, C++ and objects of one target, by name."""

    files: Mapping[str, bytes]
    includes: Mapping[str, bytes] = field(default_factory=dict)
    target: str = "host"


def code_of(module: Module, archive: Archive, target: str) -> Code:
    names = (*module.sources, *module.objects)
    files = {name.rpartition("/")[2]: archive.read(name) for name in names}
    return Code(
        files={name: content for name, content in files.items() if b"TVMSystemLibEntryPoint(void) {" not in content},
        includes={name.rpartition("/")[2]: archive.read(name) for name in module.includes},
        target=target,
    )


def run_program(
    code: ProgramCode, given: Code, inputs: Sequence[bytes], sizes: Sequence[int], folder: Path
) -> list[bytes]:
    """Compile a program strictly, then run it; give its outputs."""
    compiler = compiler_for(given.target)
    include = (f"-I{RUNTIME / 'include'}", f"-I{RUNTIME / 'glue'}", "-I.")
    for name, content in {**given.files, **given.includes}.items():
        (folder / name).write_bytes(content)
    (folder / "program.c").write_text(code.text)
    bare = () if compiler.target.is_host else ("-ffreestanding", "-idirafter", str(RUNTIME / "libc"))
    strict = run([*compiler.command, *STRICT, *bare, *include, "-c", "program.c", "-o", "strict.o"], cwd=folder)
    assert (strict.status, strict.stderr) == (0, "")
    show = SHOW_HOST if compiler.target.is_host else SHOW_BOARD
    (folder / "main.c").write_text(f'#include "program.c"\n{show}{main_function(code, inputs, sizes)}')
    constants = (array(symbol, content, qualifier="const") for symbol, content, _ in code.constants)
    (folder / "constants.c").write_text("#include <stdint.h>\n" + "".join(constants))
    objects = [name for name in given.files if name.endswith(".o")]
    for name in [*(name for name in given.files if name not in objects), "constants.c"]:
        # Operators in C say `half` where firmware says what that is.
        compiler.compile(name, f"{name}.o", cwd=folder, extra=(*include, "-Dhalf=_Float16"))
        objects.append(f"{name}.o")
    if compiler.target.board is None:
        compiler.compile("main.c", "main.o", cwd=folder, extra=(*include, *RUBBISH))
        compiler.link(["main.o", *objects], "program", cwd=folder, extra=compiler.libraries())
        finished = run([str(folder / "program")], cwd=folder)
    else:
        build_firmware(compiler, [folder / "main.c"], objects, "program", folder=folder, extra=include)
        finished = run_firmware(compiler.target.board, "program", folder=folder, timeout_s=TIMEOUT_S)
    assert finished.status == 0, finished.stdout + finished.stderr
    shown = [bytes.fromhex(line) for line in finished.stdout.splitlines()]
    guards = [content[-8:] for content in shown]
    assert guards == [bytes([GUARD]) * 8] * len(guards)
    return [content[:-8] for content in shown[: len(sizes)]]


def real_cases() -> list[dict[str, Any]]:
    path = REAL_ARCHIVES / "cases.json"
    cases: list[dict[str, Any]] = json.loads(path.read_text())["cases"] if path.is_file() else []
    return [case for case in cases if any(part["executor"] == "graph" for part in case["parts"].values())]


REAL = {
    f"{case['case']}:{name}": (case, name)
    for case in real_cases()
    for name, part in case["parts"].items()
    if part["executor"] == "graph"
}


@pytest.mark.parametrize("key", REAL)
def test_a_real_graph_computes_what_numpy_does(key: str, real_archives: Path, tmp_path: Path) -> None:
    case, name = REAL[key]
    with open_archive(real_archives / case["archive"]) as archive:
        (module,) = read_modules(archive, is_thorough=True, names=[name])
        program = program_of_graph(module, archive)
        given = code_of(module, archive, case["machine"] or "host")
    code = program_code(program)
    arrays, golden = np.load(real_archives / case["inputs"]), np.load(real_archives / case["outputs"])
    prefix = f"{name}/" if len(case["modules"]) > 1 else ""
    inputs = [arrays[prefix + program.values[place].name].tobytes() for place in program.inputs]
    sizes = [program.values[place].size_bytes for place in program.outputs]

    made = run_program(code, given, inputs, sizes, tmp_path)

    for tensor, content in zip(module.outputs, made, strict=True):
        wanted = golden[prefix + tensor.name]
        got = np.frombuffer(content, wanted.dtype).reshape(wanted.shape)
        np.testing.assert_allclose(got, wanted, rtol=case["rtol"], atol=case["atol"])
    assert code.arena_bytes <= (code.storage_bytes or 0)


def real_program(folder: Path, case: str, **changes: Any) -> Program:
    """The program of a real archive, of whose module a field may be changed."""
    with open_archive(folder / f"{case}.tar") as archive:
        (module,) = read_modules(archive, is_thorough=True)
        return program_of_graph(replace(module, **changes), archive)


@pytest.mark.parametrize("target", ["host", "cortex-m4"])
@pytest.mark.parametrize("case", ["tvm08-dense-graph-linked", "tvm08-conv-graph-linked"])
def test_parameters_that_are_only_in_the_code_are_looked_up(
    case: str, target: str, real_archives: Path, tmp_path: Path
) -> None:
    with open_archive(real_archives / f"{case}.tar") as archive:
        (module,) = read_modules(archive, is_thorough=True)
        program = program_of_graph(replace(module, parameters=None), archive)
        given = code_of(module, archive, target)
    arrays, golden = (np.load(real_archives / f"{case}.{kind}.npz") for kind in ("inputs", "outputs"))
    code = program_code(program)

    inputs = [arrays[program.values[place].name].tobytes() for place in program.inputs]
    made = run_program(code, given, inputs, [program.values[place].size_bytes for place in program.outputs], tmp_path)

    assert code.constants == ()
    for tensor, content in zip(module.outputs, made, strict=True):
        wanted = golden[tensor.name]
        got = np.frombuffer(content, wanted.dtype).reshape(wanted.shape)
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_parameters_of_the_file_are_not_looked_up(real_archives: Path) -> None:
    case = "tvm08-dense-graph-linked"
    with_file = program_code(real_program(real_archives, case))
    without = program_code(real_program(real_archives, case, parameters=None))

    assert "_lookup_linked_param" not in with_file.text
    assert [symbol for symbol, *_ in with_file.constants] == ["mlf_parameter_0"]
    assert "void* parameter_0 = find_parameter(3);" in without.text


@pytest.mark.parametrize(("case", "alignment_bytes"), [("host", 64), ("cortex-m4", 16), ("rv32imac", 16)])
def test_vectors_of_x86_objects_get_the_alignment_that_their_compiler_trusts_in(
    case: str, alignment_bytes: int, real_archives: Path
) -> None:
    code = program_code(real_program(real_archives, f"dense-llvm-graph-{case}"))

    assert (code.alignment_bytes, code.constants[0][2]) == (alignment_bytes, alignment_bytes)


@pytest.mark.parametrize("style", ["graph", "graph-linked"])
# That one release has no packed code among the archives of the tests that a compiler would take.
@pytest.mark.parametrize("release", sorted(RELEASES.keys() - {"0.9.dev-v5"}))
def test_the_graph_of_every_release_computes_what_numpy_does(release: str, style: str, tmp_path: Path) -> None:
    network = Network(**{**STYLES[style], "release": RELEASES[release]})
    with open_archive(write(tmp_path / "model.tar", members(network))) as archive:
        (module,) = read_modules(archive)
        program = program_of_graph(module, archive)
        given = code_of(module, archive, "host")
    inputs = random_inputs(network, seed=1)

    sent = [inputs[program.values[place].name].tobytes() for place in program.inputs]
    scores, hidden = run_program(program_code(program), given, sent, [16, 32], tmp_path)

    wanted = expected(inputs, network)
    assert [scores, hidden] == [array.tobytes() for array in wanted.values()]


# Operators with packed arguments, for graphs that are made by hand.
BODIES = {
    "twice": "for (int i = 0; i < 4; ++i) FLOATS(1)[i] = 2 * FLOATS(0)[i];",
    "sum": "for (int i = 0; i < 4; ++i) FLOATS(2)[i] = FLOATS(0)[i] + FLOATS(1)[i];",
    "halve": "for (int i = 0; i < 4; ++i) FLOATS(1 + i / 2)[i % 2] = FLOATS(0)[i];",
    "refuse": "return 7;",
    "describe": """
  const DLTensor* tensor = TENSOR(0);
  int64_t facts[] = {num_args, ((int*)arg_type_ids)[0], tensor->ndim, tensor->ndim > 0 ? tensor->shape[0] : -1,
    tensor->ndim > 1 ? tensor->shape[1] : -1, tensor->dtype.code, tensor->dtype.bits, tensor->dtype.lanes,
    tensor->strides == NULL, (int64_t)tensor->byte_offset, tensor->device.device_type, tensor->device.device_id};
  for (int i = 0; i < 12; ++i) ((int64_t*)TENSOR(1)->data)[i] = facts[i];""",
}
HEAD = (
    "void* args, void* arg_type_ids, int32_t num_args, void* out_ret_value, void* out_ret_tcode, void* resource_handle"
)
OPERATORS = """
#include "tvm/runtime/c_runtime_api.h"
#define TENSOR(index) ((DLTensor*)((TVMValue*)args)[index].v_handle)
#define FLOATS(index) ((float*)TENSOR(index)->data)
""" + "".join(f"TVM_DLL int32_t {name}({HEAD}) {{\n  {body}\n  return 0;\n}}\n" for name, body in BODIES.items())
FLOATS_4 = ("float32", (1, 4))


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node of a graph: an argument or, where it names a function, a call; `gives` are types of tensors."""

    name: str
    function: str = ""
    reads: tuple[tuple[str, int], ...] = ()
    gives: tuple[tuple[str, tuple[int, ...]], ...] = (FLOATS_4,)
    is_flat: bool = False


def graph_of(nodes: Sequence[Node], heads: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """The graph's JSON, in which every tensor has a storage of its own."""
    place = {node.name: index for index, node in enumerate(nodes)}
    tensors = [tensor for node in nodes for tensor in node.gives]
    rows = [sum(len(node.gives) for node in nodes[:index]) for index in range(len(nodes) + 1)]
    return {
        "nodes": [
            {
                "op": "tvm_op" if node.function else "null",
                "name": node.name,
                "inputs": [[place[source], output, 0] for source, output in node.reads],
                "attrs": {
                    "func_name": node.function, "num_inputs": str(len(node.reads)), "num_outputs": str(len(node.gives)),
                    "flatten_data": str(int(node.is_flat)),
                },
            }
            for node in nodes
        ],
        "arg_nodes": [place[node.name] for node in nodes if not node.function],
        "heads": [[place[name], output, 0] for name, output in heads],
        "attrs": {
            "dltype": ["list_str", [dtype for dtype, _ in tensors]],
            "shape": ["list_shape", [list(shape) for _, shape in tensors]],
            "storage_id": ["list_int", list(range(len(tensors)))],
            "device_index": ["list_int", [1] * len(tensors)],
        },
        "node_row_ptr": rows,
    }  # fmt: skip


def made_archive(path: Path, document: Mapping[str, Any], params: Mapping[str, Any] = {}) -> Path:
    content = members(Network(**STYLES["graph"]))
    metadata = json.loads(content["metadata.json"])
    main = metadata["modules"]["default"]["memory"]["functions"]["main"][0]
    del main["inputs"], main["outputs"], content["src/default.relay"]
    weights = [Param(name=name, dtype=str(array.dtype), array=array) for name, array in params.items()]
    content |= {
        "metadata.json": json.dumps(metadata).encode(),
        "executor-config/graph/default.graph": json.dumps(document).encode(),
        "codegen/host/src/default_lib1.c": OPERATORS.encode(),
        "parameters/default.params": render_params(weights),
    }
    return write(path / "made.tar", content)


def made_program(folder: Path, document: Mapping[str, Any], params: Mapping[str, Any] = {}) -> Program:
    with open_archive(made_archive(folder, document, params)) as archive:
        (module,) = read_modules(archive)
        return program_of_graph(module, archive)


def outputs_of(program: Program, inputs: Sequence[Any], folder: Path) -> list[list[float]]:
    """Run a program of floats with the operators above."""
    given = Code(files={"operators.c": OPERATORS.encode()})
    sizes = [program.values[place].size_bytes for place in program.outputs]
    sent = [np.asarray(values, np.float32).tobytes() for values in inputs]
    made = run_program(program_code(program), given, sent, sizes, folder)
    return [np.frombuffer(content, np.float32).tolist() for content in made]


X, Y, WEIGHT = [1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0], [0.5, 0.25, 0.0, -1.0]
TWICE_X = [2.0, 4.0, 6.0, 8.0]
A, B, W = Node(name="a"), Node(name="b"), Node(name="w")
DOUBLED = Node(name="doubled", function="twice", reads=(("a", 0),))
PARAMS = {"w": np.array([WEIGHT], np.float32)}


def reshaped(name: str, source: str) -> Node:
    return Node(name=name, function="__nop", reads=((source, 0),), gives=(("float32", (2, 2)),))


def test_an_output_that_a_later_operator_reads_is_written_once(tmp_path: Path) -> None:
    nodes = [A, DOUBLED, Node(name="more", function="twice", reads=(("doubled", 0),))]
    program = made_program(tmp_path, graph_of(nodes, [("doubled", 0), ("more", 0)]))

    assert outputs_of(program, [X], tmp_path) == [TWICE_X, [4.0, 8.0, 12.0, 16.0]]
    assert "memcpy" not in program_code(program).text


def test_a_tensor_that_is_two_outputs_is_copied_once(tmp_path: Path) -> None:
    program = made_program(tmp_path, graph_of([A, DOUBLED], [("doubled", 0), ("doubled", 0)]))

    assert outputs_of(program, [X], tmp_path) == [TWICE_X, TWICE_X]
    assert program_code(program).text.count("memcpy") == 1


def test_an_output_that_is_an_input_is_copied(tmp_path: Path) -> None:
    program = made_program(tmp_path, graph_of([A, B, reshaped("flat", "b")], [("a", 0), ("flat", 0)]))

    assert outputs_of(program, [X, Y], tmp_path) == [X, Y]


def test_an_output_that_is_a_parameter_is_copied(tmp_path: Path) -> None:
    program = made_program(tmp_path, graph_of([A, W, reshaped("flat", "w")], [("w", 0), ("flat", 0)]), PARAMS)

    assert outputs_of(program, [X], tmp_path) == [WEIGHT, WEIGHT]


def test_a_reshaped_output_is_written_where_it_belongs(tmp_path: Path) -> None:
    nodes = [A, DOUBLED, reshaped("square", "doubled"), reshaped("again", "square")]
    nodes.append(Node(name="more", function="twice", reads=(("again", 0),)))
    program = made_program(tmp_path, graph_of(nodes, [("again", 0), ("more", 0)]))

    assert outputs_of(program, [X], tmp_path) == [TWICE_X, [4.0, 8.0, 12.0, 16.0]]
    assert "memcpy" not in program_code(program).text


def test_a_tensor_lives_as_long_as_any_reshape_of_it_is_read(tmp_path: Path) -> None:
    nodes = [A, B, DOUBLED, reshaped("square", "doubled"), Node(name="other", function="twice", reads=(("b", 0),))]
    nodes += [Node(name="sum", function="sum", reads=(("other", 0), ("square", 0)))]
    program = made_program(tmp_path, graph_of(nodes, [("sum", 0)]))

    assert outputs_of(program, [X, Y], tmp_path) == [[22.0, 44.0, 66.0, 88.0]]


def random_nodes(random: np.random.Generator) -> tuple[list[Node], dict[tuple[str, int], Any]]:
    """A graph of any form, and what each of its tensors holds."""
    nodes = [A, B, W]
    known = {(name, 0): np.array(values, np.float32) for name, values in (("a", X), ("b", Y), ("w", WEIGHT))}
    pair = (("float32", (1, 2)), ("float32", (1, 2)))
    for index in range(12):
        name, wide = f"n{index}", [key for key, values in known.items() if values.size == 4]
        one, two = (wide[place] for place in random.integers(len(wide), size=2))
        node, values = [
            (Node(name=name, function="twice", reads=(one,)), [known[one] * 2]),
            (Node(name=name, function="sum", reads=(one, two)), [known[one] + known[two]]),
            (reshaped(name, one[0]), [known[one]]),
            (Node(name=name, function="halve", reads=(one,), gives=pair), [known[one][:2], known[one][2:]]),
        ][random.integers(4)]
        nodes.append(node)
        known |= {(name, output): value for output, value in enumerate(values)}
    return nodes, known


@pytest.mark.parametrize("seed", range(8))
def test_graphs_of_any_form_compute_what_numpy_does(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    nodes, known = random_nodes(random)
    heads = [list(known)[place] for place in random.integers(len(known), size=5)]
    program = made_program(tmp_path, graph_of(nodes, heads), PARAMS)

    assert outputs_of(program, [X, Y], tmp_path) == [known[head].tolist() for head in heads]


def test_a_reshape_of_another_output_is_copied_from_it(tmp_path: Path) -> None:
    nodes = [A, DOUBLED, reshaped("square", "doubled")]
    program = made_program(tmp_path, graph_of(nodes, [("doubled", 0), ("square", 0)]))

    assert outputs_of(program, [X], tmp_path) == [TWICE_X, TWICE_X]
    assert "memcpy(output_1, output_0, 16);" in program_code(program).text


def test_an_operator_writes_several_tensors_of_which_one_is_read_by_none(tmp_path: Path) -> None:
    pair = (("float32", (1, 2)), ("float32", (1, 2)))
    nodes = [A, DOUBLED, Node(name="parts", function="halve", reads=(("doubled", 0),), gives=pair)]
    program = made_program(tmp_path, graph_of(nodes, [("parts", 1)]))

    assert outputs_of(program, [X], tmp_path) == [[6.0, 8.0]]
    assert program_code(program).arena_bytes == 16 + 8


def test_arguments_keep_the_order_of_the_graph_and_parameters_are_none(tmp_path: Path) -> None:
    nodes = [B, W, A, Node(name="sum", function="sum", reads=(("a", 0), ("w", 0)))]
    program = made_program(tmp_path, graph_of(nodes, [("sum", 0)]), PARAMS)

    assert [program.values[place].name for place in program.inputs] == ["b", "a"]
    assert outputs_of(program, [Y, X], tmp_path) == [[1.5, 2.25, 3.0, 3.0]]


def test_equal_parameters_are_held_once(tmp_path: Path) -> None:
    nodes = [W, Node(name="v"), Node(name="sum", function="sum", reads=(("v", 0), ("w", 0)))]
    program = made_program(tmp_path, graph_of(nodes, [("sum", 0)]), {**PARAMS, "v": PARAMS["w"].copy()})

    assert program_code(program).constants == (("mlf_parameter_0", PARAMS["w"].tobytes(), 16),)
    assert outputs_of(program, [], tmp_path) == [[1.0, 0.5, 0.0, -2.0]]


def test_a_parameter_that_nothing_reads_is_left_out(tmp_path: Path) -> None:
    program = made_program(tmp_path, graph_of([A, W, DOUBLED], [("doubled", 0)]), PARAMS)

    assert program_code(program).constants == ()


def test_the_run_ends_where_an_operator_fails(tmp_path: Path) -> None:
    nodes = [
        A,
        Node(name="bad", function="refuse", reads=(("a", 0),)),
        Node(name="next", function="twice", reads=(("bad", 0),)),
    ]
    program = made_program(tmp_path, graph_of(nodes, [("next", 0)]))

    with pytest.raises(AssertionError, match="failed"):
        outputs_of(program, [X], tmp_path)


def described(folder: Path, dtype: str, shape: tuple[int, ...], *, is_flat: bool = False) -> list[int]:
    """What an operator sees of a tensor: the count of arguments, its type code, rank, extents, dtype and device."""
    node = Node(name="facts", function="describe", reads=(("a", 0),), gives=(("int64", (12,)),), is_flat=is_flat)
    program = made_program(folder, graph_of([Node(name="a", gives=((dtype, shape),)), node], [("facts", 0)]))
    content = bytes(math.prod(shape) * DTYPE_SIZES_BYTES[dtype])
    given = Code(files={"operators.c": OPERATORS.encode()})
    (made,) = run_program(program_code(program), given, [content], [96], folder)
    return list(struct.unpack("<12q", made))


@pytest.mark.parametrize("dtype", DTYPE_SIZES_BYTES)
def test_operators_get_tensors_of_the_type_that_the_compiler_checks_for(dtype: str, tmp_path: Path) -> None:
    code, bits, _ = DTYPES[dtype]

    assert described(tmp_path, dtype, (3, 5)) == [2, 7, 2, 3, 5, code, bits, 1, 1, 0, 1, 0]


def test_a_scalar_has_no_extents(tmp_path: Path) -> None:
    assert described(tmp_path, "int32", ())[2:5] == [0, -1, -1]


def test_an_operator_that_wants_flat_tensors_gets_one_dimension(tmp_path: Path) -> None:
    assert described(tmp_path, "float32", (3, 5), is_flat=True)[2:5] == [1, 15, -1]


def refused(folder: Path, document: Mapping[str, Any], params: Mapping[str, Any] = {}) -> InputError:
    with pytest.raises(InputError) as caught:
        made_program(folder, document, params)
    assert caught.value.where == "made.tar"
    return caught.value


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    document = graph_of([A, W, Node(name="sum", function="sum", reads=(("a", 0), ("w", 0)))], [("sum", 0)])
    change(document)
    return document


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda it: it["nodes"][2]["attrs"].update(func_name="lost"),
            LinkError,
            "node `sum` calls `lost`, which the code does not define",
        ),
        (
            lambda it: it["attrs"]["dltype"][1].__setitem__(2, "posit8"),
            UnsupportedError,
            "node `sum` gives a tensor of `posit8`, which has no known size",
        ),
        (
            lambda it: it["attrs"]["shape"][1].__setitem__(2, [1 << 15, 1 << 16]),
            UnsupportedError,
            "node `sum` gives a tensor of more than 2147483647 bytes",
        ),
        (
            lambda it: it["attrs"]["shape"][1].__setitem__(2, [0, 1 << 40]),
            UnsupportedError,
            "node `sum` gives a tensor of more than 2147483647 bytes",
        ),
        (
            lambda it: it["attrs"]["shape"][1].__setitem__(2, [-1, 4]),
            MetadataError,
            "an item of `attrs.shape` has a negative extent: only tensors of fixed shapes can be planned",
        ),
        (
            lambda it: it["nodes"][2].update(op="tvm_call"),
            UnsupportedError,
            "node `sum` is a `tvm_call`, expected `null` or `tvm_op`",
        ),
        (
            lambda it: it["nodes"][2]["attrs"].update(num_inputs="3"),
            MetadataError,
            "node `sum` has 2 inputs, its `num_inputs` says 3",
        ),
        (
            lambda it: it["nodes"][2]["attrs"].update(num_outputs="2"),
            MetadataError,
            "node `sum` has 1 outputs, its `num_outputs` says 2",
        ),
        (
            lambda it: it["nodes"][2].update(inputs=[[0, 0, 0], [2, 0, 0]]),
            MetadataError,
            "node `sum` reads a tensor that is not computed before",
        ),
        (
            lambda it: it["attrs"].update(device_index=["list_int", [1, 1, 2]]),
            UnsupportedError,
            "tensors are on devices of the types 1, 2, expected 1 alone, the CPU",
        ),
        (
            lambda it: it.update(arg_nodes=[0]),
            MetadataError,
            "`arg_nodes` does not name the nodes of kind `null`, each of them once",
        ),
        (
            lambda it: it["nodes"][2]["attrs"].update(func_name="__nop"),
            UnsupportedError,
            "node `sum` reshapes 2 tensors to 1, expected one to one",
        ),
        (
            lambda it: it["nodes"][2].update(
                inputs=[[0, 0, 0]], attrs={"func_name": "__nop"}) or it["attrs"]["shape"][1].__setitem__(2, [3]),
            MetadataError,
            "node `sum` reshapes 16 bytes to 12",
        ),
    ],
)  # fmt: skip
def test_a_graph_that_no_program_can_be_made_of_is_refused(
    change: Callable[[dict[str, Any]], object], error: type[InputError], message: str, tmp_path: Path
) -> None:
    found = refused(tmp_path, changed(change), PARAMS)

    assert (type(found), found.message) == (error, f"executor-config/graph/default.graph: {message}")


def test_an_argument_has_one_tensor(tmp_path: Path) -> None:
    nodes = [Node(name="a", gives=(FLOATS_4, FLOATS_4)), DOUBLED]

    found = refused(tmp_path, graph_of(nodes, [("doubled", 0)]))

    message = "executor-config/graph/default.graph: node `a` is an argument of 2 tensors, expected one"
    assert (type(found), found.message) == (MetadataError, message)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((1, 4), np.int32), "`int32` of shape (1, 4)"),
        (np.zeros((1, 4), np.bool_), "`bool` of shape (1, 4)"),
        (np.zeros((4, 1), np.float32), "`float32` of shape (4, 1)"),
    ],
)
def test_a_parameter_of_another_type_than_the_graph_says_is_refused(array: Any, said: str, tmp_path: Path) -> None:
    found = refused(tmp_path, changed(lambda _: None), {"w": array})

    wanted = "`float32` of shape (1, 4) as in executor-config/graph/default.graph"
    message = f"parameters/default.params: parameter `w` is {said}, expected {wanted}"
    assert (type(found), found.message) == (TensorError, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: {"inputs": ()}, "the inputs are `a`, the module's are none"),
        (lambda module: {"outputs": module.outputs * 2}, "there are 1 outputs, the module has 2"),
        (
            lambda module: {"outputs": (replace(module.outputs[0], size_bytes=12),)},
            "`output` has 16 bytes, the module's has 12",
        ),
    ],
)
def test_a_module_whose_tensors_are_not_those_of_the_graph_is_refused(
    change: Callable[[Module], dict[str, Any]], message: str, tmp_path: Path
) -> None:
    with open_archive(made_archive(tmp_path, changed(lambda _: None), PARAMS)) as archive:
        (module,) = read_modules(archive)
        with pytest.raises(MetadataError) as caught:
            program_of_graph(replace(module, **change(module)), archive)

    assert caught.value.message == f"executor-config/graph/default.graph: {message}"


def test_a_graph_does_not_call_operators_that_take_plain_pointers(tmp_path: Path) -> None:
    with open_archive(made_archive(tmp_path, changed(lambda _: None), PARAMS)) as archive:
        (module,) = read_modules(archive)
        with pytest.raises(UnsupportedError) as caught:
            program_of_graph(replace(module, operators="unpacked"), archive)

    message = "the operators take plain pointers, but a graph calls packed ones"
    assert caught.value.message == f"executor-config/graph/default.graph: {message}"


def floats(name: str, **fields: Any) -> Value:
    return Value(**{"name": name, "dtype": "float32", "shape": (4,), "size_bytes": 16, "kind": "temporary", **fields})


def plain(function: str, *arguments: int) -> Call:
    return Call(function=function, convention="unpacked", arguments=arguments, written=arguments[-1:])


PLAIN_OPERATORS = """
#include <stdint.h>
int32_t plain_sum(float* a, float* b, float* c) { for (int i = 0; i < 4; ++i) c[i] = a[i] + b[i]; return 0; }
int32_t plain_twice(float* a, float* b) { for (int i = 0; i < 4; ++i) b[i] = 2 * a[i]; return 0; }
"""


def test_operators_that_take_plain_pointers_are_called_with_them(tmp_path: Path) -> None:
    program = Program(
        where="made.toml",
        values=(
            floats("a", kind="input"), floats("w", kind="parameter", content=PARAMS["w"].tobytes()), floats("sum"), floats("more"),
            floats("end"),
        ),
        calls=(plain("plain_sum", 0, 1, 2), plain("plain_twice", 2, 3), plain("plain_sum", 3, 2, 4)),
        inputs=(0,),
        outputs=(4,),
    )  # fmt: skip
    code = program_code(program)

    given = Code(files={"operators.c": PLAIN_OPERATORS.encode()})
    (made,) = run_program(code, given, [np.array(X, np.float32).tobytes()], [16], tmp_path)

    assert np.frombuffer(made, np.float32).tolist() == [4.5, 6.75, 9.0, 9.0]
    assert "tvm" not in code.text
    assert (code.arena_bytes, code.lower_bound_bytes, code.storage_bytes) == (32, 32, None)


def test_a_function_of_two_conventions_is_refused() -> None:
    packed = Call(function="plain_twice", convention="packed", arguments=(0, 1), written=(1,))
    values = (floats("a", kind="input"), floats("b"))
    program = Program(
        where="made.toml", values=values, calls=(plain("plain_twice", 0, 1), packed), inputs=(0,), outputs=(1,)
    )

    with pytest.raises(LinkError) as caught:
        program_code(program)

    assert str(caught.value) == "made.toml: `plain_twice` is called in two ways that no one function can have"


def chain(*storage_ids: int | None) -> Program:
    """A chain of operators, whose tensors have these storages; the last tensor is the output."""
    temporaries = [floats(f"t{index}", storage_id=storage) for index, storage in enumerate(storage_ids)]
    calls = tuple(plain("plain_twice", index, index + 1) for index in range(len(temporaries)))
    return Program(
        where="made.toml", values=(floats("a", kind="input"), *temporaries), calls=calls, inputs=(0,), outputs=(len(temporaries),)
    )  # fmt: skip


@pytest.mark.parametrize("storage_ids", [(1, 2, 1, 2, 3), (1, 1, 1, 1, 1), (1, None, 2, 3, 4), (1, 2, 3, 4, 5)])
def test_tensors_that_live_at_different_times_share_memory_whatever_the_compiler_planned(
    storage_ids: tuple[int | None, ...],
) -> None:
    layout = lay_out(chain(*storage_ids))

    assert (layout.arena_bytes, layout.lower_bound_bytes, layout.alignment_bytes) == (32, 32, 16)
    assert layout.in_outputs == {5: 0}
    assert all(layout.offsets[place] != layout.offsets[place + 1] for place in (1, 2, 3))


def test_a_program_that_needs_no_memory_takes_no_arena(tmp_path: Path) -> None:
    program = made_program(tmp_path, graph_of([A, B, DOUBLED], [("doubled", 0)]))
    code = program_code(program)

    assert "execute(void* input_0, void* input_1, void* output_0) {" in code.text
    assert (code.arena_bytes, code.lower_bound_bytes) == (0, 0)
    assert outputs_of(program, [X, Y], tmp_path) == [TWICE_X]


@pytest.mark.parametrize("compiler", [("clang",), ("arm-none-eabi-gcc", "-mcpu=cortex-m0", "-mthumb")])
def test_other_compilers_have_no_complaint(compiler: tuple[str, ...], real_archives: Path, tmp_path: Path) -> None:
    for changes in ({}, {"parameters": None}):
        program = real_program(real_archives, "tvm08-conv-graph-linked", **changes)
        (tmp_path / "program.c").write_text(program_code(program).text)
        finished = run(
            [*compiler, *STRICT, f"-I{RUNTIME / 'include'}", f"-I{RUNTIME / 'glue'}", "-c", "program.c"], cwd=tmp_path
        )
        assert (finished.status, finished.stderr) == (0, "")
