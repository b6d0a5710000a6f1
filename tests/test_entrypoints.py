"""Both entrypoints of every model, whatever style it was compiled in: numbers, errors, memory, and the C that makes them."""

from __future__ import annotations

import ctypes
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from archives import RELEASES, SNAPSHOTS, STYLES, Network, expected, members, random_inputs, write
from sequence import run_sequence

from mlf import codegen
from mlf.arrays import load_arrays
from mlf.boards import build_firmware, run_firmware
from mlf.glue import GlueModel, glue_source
from mlf.linker import LinkPlan, LinkRequest, PlannedModel, link, plan_link
from mlf.options import link_options
from mlf.toolchain import RUNTIME, compiler_for, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    Arrays = Mapping[str, npt.NDArray[Any]]

SAMPLES = Path(__file__).parent.parent / "samples"
TIMEOUT_S = 120.0
CANARY_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A module of a real archive with inputs, and the outputs that an independent reference gave."""

    archive: Path
    module: str
    inputs: Arrays
    outputs: Arrays
    rtol: float
    atol: float


def real_cases(folder: Path) -> dict[str, Case]:
    """List the real archives of one module, by name."""
    found = {}
    for item in json.loads((folder / "cases.json").read_text())["cases"]:
        if len(item["modules"]) == 1:
            inputs, outputs = (load_arrays(folder / item[kind]) for kind in ("inputs", "outputs"))
            rtol, atol = (0.0, 0.0) if item["exact"] else (item["rtol"], item["atol"])
            found[item["case"].replace("-", "_")] = Case(
                archive=folder / item["archive"], module=item["modules"][0], inputs=inputs, outputs=outputs, rtol=rtol, atol=atol
            )  # fmt: skip
    return found


def plan_of(folder: Path, cases: Mapping[str, Case], target: str, style: str = "shared") -> LinkPlan:
    requests = [LinkRequest(path=case.archive, module=case.module, name=name) for name, case in cases.items()]
    return plan_link(
        requests, output=folder / "libmodels.a", compiler=compiler_for(target), options=link_options(arena=style)
    )


# Numbers.

# One or two models of every way in which code takes its tensors and its memory.
CALLED = """
    conv_usmp dense_alloc conv_cpool math_usmp int8_pools conv_pool upper_usmp offload_cpp_pool
    conv_graph dense_graph_linked dense_graph_params int8_graph tvm08_dense_graph tvm09_dense_graph_linked
    dense_io residual_io_pools
    dense_packed keyword_packed tvm08_dense_packed dense_packed_pool dense_packed_usmp named_packed_usmp
    dense_unpacked_packed dense_unpacked_packed_pool dense_unpacked_packed_usmp named_unpacked_packed
""".split()
# Objects are for one machine, and not every one has the types.
OF_TARGET = {
    "host": ("dense_llvm_host", "dense_llvm_graph_host", "types_graph_params"),
    "cortex-m4": ("dense_llvm_cortex_m4", "dense_llvm_graph_cortex_m4", "types_graph_params"),
    "rv32imac": ("dense_llvm_rv32imac", "named_llvm_rv32imac"),
}
_HEAD = r"""
#include <string.h>
#include "board.h"
#include "tvm/runtime/c_runtime_api.h"
#include "mlf/models.h"

enum { CANARY = %(canary)d };

struct buffer {
  uint8_t* data;
  uint32_t size_bytes;
  const uint8_t* content;
};

static int32_t packed(int32_t (*main_of_model)(TVMValue*, int*, int, TVMValue*, int*, void*), DLTensor* tensors, int count) {
  TVMValue values[16], result;
  int codes[16], result_code, i;
  for (i = 0; i < count; ++i) {
    values[i].v_handle = &tensors[i];
    codes[i] = kTVMDLTensorHandle;
  }
  return main_of_model(values, codes, count, &result, &result_code, NULL);
}

static void reset(const struct buffer* buffers, int count) {
  int i;
  for (i = 0; i < count; ++i) {
    memset(buffers[i].data, 0xa5, buffers[i].size_bytes + CANARY);
    if (buffers[i].content) memcpy(buffers[i].data, buffers[i].content, buffers[i].size_bytes);
  }
}

static int is_intact(const struct buffer* buffers, int count) {
  int i, k;
  for (i = 0; i < count; ++i) {
    for (k = 0; k < CANARY; ++k) {
      if (buffers[i].data[buffers[i].size_bytes + k] != 0xa5) return 0;
    }
  }
  return 1;
}

static void tell(const char* name, int32_t status, const struct buffer* outputs, int count) {
  static const char digits[] = "0123456789abcdef";
  char text[3] = "";
  int i;
  uint32_t k;
  board_puts(name);
  board_puts(status == 0 ? " 0" : " failed");
  for (i = 0; i < count; ++i) {
    board_puts(" ");
    for (k = 0; k < outputs[i].size_bytes; ++k) {
      text[0] = digits[outputs[i].data[k] >> 4];
      text[1] = digits[outputs[i].data[k] & 15];
      board_puts(text);
    }
  }
  board_puts("\n");
}
"""
_CODES = {"f": 2, "i": 0, "u": 1, "b": 1}


class _Program:
    """Writes C that calls one model by both of its entrypoints."""

    def __init__(self, model: PlannedModel, case: Case) -> None:
        self.model, self.interface, self.case = model, model.interface, case
        self.name, self.prefix = model.name, model.interface.prefix
        self.outputs = [f"{self.name}_out{index}" for index in range(len(self.interface.outputs))]
        self.pools = [f"{self.name}_pool{index}" for index in range(len(self.interface.external_pools))]

    def text(self) -> str:
        return "".join([*self._arrays(), self._structs(), self._packed(), self._call()])

    def _arrays(self) -> Iterator[str]:
        """Write inputs that nobody can write to, and memory with a canary behind it."""
        for index, tensor in enumerate(self.interface.inputs):
            data = ", ".join(map(str, self.case.inputs[tensor.name].tobytes()))
            yield f"static const uint8_t {self.name}_in{index}[] __attribute__((aligned(64))) = {{{data}}};\n"
        pools = self.interface.external_pools
        sizes = [
            *(tensor.size_bytes or 0 for tensor in self.interface.outputs),
            *(pool.size_bytes or 0 for pool in pools),
        ]
        for name, size in zip([*self.outputs, *self.pools], sizes, strict=True):
            yield f"static uint8_t {name}[{size} + CANARY] __attribute__((aligned(64)));\n"
        contents = ["NULL"] * len(self.outputs)
        for index, pool in enumerate(pools):
            contents.append(f"{self.pools[index]}_content" if pool.data else "NULL")
            if pool.data:
                yield f"static const uint8_t {self.pools[index]}_content[] = {{{', '.join(map(str, pool.data))}}};\n"
        rows = [f"{{{name}, {size}, {content}}}" for name, size, content in zip([*self.outputs, *self.pools], sizes, contents, strict=True)]  # fmt: skip
        yield f"static const struct buffer {self.name}_buffers[] = {{{', '.join(rows)}}};\n"

    def _structs(self) -> str:
        """Call `run`, which takes structs of pointers."""
        given = {
            "inputs": [f"(void*){self.name}_in{index}" for index in range(len(self.interface.inputs))],
            "outputs": self.outputs, "workspace_pools": self.pools,
        }  # fmt: skip
        kinds = codegen.run_structs(self.interface)
        lines = [f"struct {self.prefix}_{kind} {kind} = {{{', '.join(given[kind])}}};" for kind in kinds]
        call = f"{self.prefix}_run({', '.join(f'&{kind}' for kind in kinds)})"
        return self._function("structs", lines, call)

    def _packed(self) -> str:
        """Call `tvm_module_main`, which takes a tensor for each input, output and pool."""
        lines = [] if not self.interface.io_places else [f"struct {self.prefix}_workspace_pools workspace_pools = {{{', '.join(self.pools)}}};"]  # fmt: skip
        arrays = [] if self.interface.io_places else [
            *((f"(void*){self.name}_in{index}", self.case.inputs[tensor.name]) for index, tensor in enumerate(self.interface.inputs)),
            *zip(self.outputs, (self.case.outputs[tensor.name] for tensor in self.interface.outputs), strict=True),
        ]  # fmt: skip
        arrays += [(name, np.zeros(pool.size_bytes or 0, np.uint8)) for name, pool in zip(self.pools, self.interface.external_pools, strict=True)]  # fmt: skip
        tensors = []
        for index, (data, array) in enumerate(arrays):
            bits = 1 if array.dtype.kind == "b" else 8 * array.itemsize
            extents = ", ".join(map(str, array.shape)) or "0"
            lines.append(f"int64_t shape{index}[] = {{{extents}}};")
            tensors.append(f"{{{data}, {{kDLCPU, 0}}, {array.ndim}, {{{_CODES[array.dtype.kind]}, {bits}, 1}}, shape{index}, NULL, 0}}")  # fmt: skip
        lines.append(f"DLTensor tensors[] = {{{', '.join(tensors)}}};")
        return self._function("packed", lines, f"packed({self.prefix}_tvm_module_main, tensors, {len(tensors)})")

    def _function(self, kind: str, lines: Sequence[str], call: str) -> str:
        head = f"static int32_t {self.name}_{kind}(void) {{\n" + "".join(f"  {line}\n" for line in lines)
        if not self.interface.io_places:
            return f"{head}  return {call};\n}}\n"
        head += f"  struct {self.prefix}_inputs in = {self.prefix}_map_inputs(&workspace_pools);\n"
        head += (
            f"  struct {self.prefix}_outputs out = {self.prefix}_map_outputs(&workspace_pools);\n  int32_t status;\n"
        )
        for index, tensor in enumerate(self.interface.inputs):
            head += f"  memcpy(in.{tensor.c_name}, {self.name}_in{index}, {tensor.size_bytes});\n"
        head += f"  status = {call};\n"
        for name, tensor in zip(self.outputs, self.interface.outputs, strict=True):
            head += f"  memcpy({name}, out.{tensor.c_name}, {tensor.size_bytes});\n"
        return f"{head}  return status;\n}}\n"

    def _call(self) -> str:
        buffers, count = f"{self.name}_buffers", len(self.outputs) + len(self.pools)
        body = "".join(
            f"  reset({buffers}, {count});\n"
            f'  tell("{self.name}.{kind}", {self.name}_{kind}(), {buffers}, {len(self.outputs)});\n'
            f'  if (!is_intact({buffers}, {count})) board_puts("{self.name}.{kind} overrun\\n");\n{self._busy(kind)}'
            for kind in ("structs", "packed")
        )
        return f"{self._guard()}static void call_{self.name}(void) {{\n{body}}}\n\n"

    def _busy(self, kind: str) -> str:
        """Call while another one has the arena."""
        if self.model.arena is None:
            return ""
        state = self.model.arena.symbol
        test = f"{self.name}_{kind}() != MLF_ERROR_ARENA_BUSY || {state}[0] != 1"
        return f'  {state}[0] = 1;\n  if ({test}) board_puts("{self.name}.{kind} waited\\n");\n  {state}[0] = 0;\n'

    def _guard(self) -> str:
        """Declare the guard of the model's arena, whose first word says whether it is busy."""
        symbol = self.model.arena.symbol if self.model.arena else None
        return f"extern volatile uint32_t {symbol}[];\n" if symbol else ""


def call_both(folder: Path, cases: Mapping[str, Case], target: str, style: str) -> dict[str, list[bytes]]:
    """Link models, call each one by both of its entrypoints, twice, and give what they said."""
    plan = plan_of(folder, cases, target, style)
    link(plan)
    calls = "".join(f"    call_{name}();\n" for name in cases)
    text = _HEAD % {"canary": CANARY_BYTES} + "".join(
        _Program(model, cases[model.name]).text() for model in plan.models
    )
    text += f"int main(void) {{\n  int turn;\n  for (turn = 0; turn < 2; ++turn) {{\n{calls}  }}\n  return 0;\n}}\n"
    (folder / "main.c").write_text(text)
    lines = _run(plan, folder).splitlines()
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]
    words = [line.split(" ") for line in lines[: len(lines) // 2]]
    assert [line for line in words if line[1] != "0"] == []
    return {line[0]: [bytes.fromhex(word) for word in line[2:]] for line in words}


def _run(plan: LinkPlan, folder: Path) -> str:
    compiler, board, include = plan.compiler, plan.compiler.target.board, f"-I{folder / 'include'}"
    if board is not None:
        build_firmware(compiler, [folder / "main.c"], ["libmodels.a"], "firmware", folder=folder, extra=(include,))
        finished = run_firmware(board, "firmware", folder=folder, timeout_s=TIMEOUT_S)
    else:
        (folder / "puts.c").write_text('#include <stdio.h>\n#include "board.h"\nvoid board_puts(const char* text) { fputs(text, stdout); }\n')  # fmt: skip
        for source in ("main", "puts"):
            compiler.compile(f"{source}.c", f"{source}.o", cwd=folder, extra=(include, f"-I{RUNTIME / 'board'}"))
        compiler.link(["main.o", "puts.o", "libmodels.a"], "firmware", cwd=folder, extra=compiler.libraries())
        finished = run([str(folder / "firmware")], cwd=folder, timeout_s=TIMEOUT_S)
    assert (finished.status, finished.stderr) == (0, ""), finished.stdout
    return finished.stdout


def check(cases: Mapping[str, Case], results: Mapping[str, Sequence[bytes]]) -> None:
    for name, case in cases.items():
        assert results[f"{name}.structs"] == results[f"{name}.packed"]
        for content, array in zip(results[f"{name}.packed"], case.outputs.values(), strict=True):
            found = np.frombuffer(content, array.dtype)
            np.testing.assert_allclose(found, array.ravel(), err_msg=name, rtol=case.rtol, atol=case.atol)


@pytest.mark.parametrize(
    ("target", "style"),
    [("host", "shared"), ("host", "private"), ("cortex-m4", "shared"), ("rv32imac", "shared")],
)
def test_both_entrypoints_give_numpys_numbers_whatever_the_style_and_write_to_no_input(
    real_archives: Path, tmp_path: Path, target: str, style: str
) -> None:
    every = real_cases(real_archives)
    cases = {name: every[name] for name in (*CALLED, *OF_TARGET[target])}

    check(cases, call_both(tmp_path, cases, target, style))


@pytest.mark.parametrize("target", ["host", "cortex-m4"])
def test_a_lent_arena_is_one_more_pool_of_both_entrypoints(real_archives: Path, tmp_path: Path, target: str) -> None:
    every = real_cases(real_archives)
    cases = {name: every[name] for name in (*CALLED, *OF_TARGET[target])}

    check(cases, call_both(tmp_path, cases, target, "external"))


# Errors.


class _Device(ctypes.Structure):
    _fields_ = (("device_type", ctypes.c_int), ("device_id", ctypes.c_int32))


class _Type(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p), ("device", _Device), ("ndim", ctypes.c_int32), ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
    )  # fmt: skip


TENSOR, ARRAY, INTEGER, OPAQUE, EMPTY = 7, 13, 0, 3, 4  # type codes
BUSY, COUNT, TYPE, NULL, DEVICE, DTYPE, SHAPE, CONTIGUOUS = -101, -103, -104, -105, -106, -107, -108, -109


def extents(*values: int) -> Any:
    return (ctypes.c_int64 * max(len(values), 1))(*values)


def tensor(array: npt.NDArray[Any]) -> _Tensor:
    return _Tensor(
        data=array.ctypes.data, device=_Device(1, 0), ndim=array.ndim, dtype=_Type(_CODES[array.dtype.kind], 8 * array.itemsize, 1),
        shape=extents(*array.shape), strides=None, byte_offset=0,
    )  # fmt: skip


class Motor:
    """The sample `motor` behind its packed entrypoint: two inputs, two outputs, a pool, all of which a test may spoil."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.main = library.tvmgen_motor_tvm_module_main
        self.main.restype = ctypes.c_int32
        inputs, self.expected = (load_arrays(SAMPLES / f"motor.{kind}.npz") for kind in ("inputs", "outputs"))
        self.outputs = [np.full_like(array, 77) for array in self.expected.values()]
        self.arrays = [*inputs.values(), *self.outputs, np.zeros(POOL_BYTES, np.uint8)]
        self.tensors: list[_Tensor | None] = [tensor(array) for array in self.arrays]
        self.codes = [TENSOR] * len(self.tensors)

    def call(self) -> int:
        count = len(self.tensors)
        values = (ctypes.c_void_p * max(count, 1))(
            *(ctypes.addressof(item) if isinstance(item, ctypes.Structure) else item for item in self.tensors)
        )
        result, code = ctypes.c_uint64(), ctypes.c_int()
        codes = (ctypes.c_int * max(count, 1))(*self.codes[:count])
        return int(self.main(values, codes, count, ctypes.byref(result), ctypes.byref(code), None))

    def __getitem__(self, index: int) -> _Tensor:
        found = self.tensors[index]
        assert found is not None
        return found

    def has_run(self) -> bool:
        return all(
            np.allclose(found, wanted) for found, wanted in zip(self.outputs, self.expected.values(), strict=True)
        )

    def is_untouched(self) -> bool:
        return all((array == 77).all() for array in self.outputs)


def shared_object(folder: Path, plan: LinkPlan) -> ctypes.CDLL:
    link(plan)
    whole = ("-Wl,--whole-archive", "libmodels.a", "-Wl,--no-whole-archive")
    plan.compiler.link(whole, "models.so", cwd=folder, extra=("-shared", *plan.compiler.libraries()))
    return ctypes.CDLL(str(folder / "models.so"))


POOL_BYTES = 4096


@pytest.fixture(scope="module")
def motor_library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("motor")
    request = LinkRequest(path=SAMPLES / "motor.tar", name="motor")
    return shared_object(folder, plan_link([request], output=folder / "libmodels.a", compiler=compiler_for("host")))


@pytest.fixture
def motor(motor_library: ctypes.CDLL) -> Motor:
    return Motor(motor_library)


def test_a_right_packed_call_runs_the_model(motor: Motor) -> None:
    assert motor.call() == 0
    assert motor.has_run()


def _set(index: int, **fields: Any) -> Callable[[Motor], None]:
    def change(motor: Motor) -> None:
        for name, value in fields.items():
            setattr(motor[index], name, value)

    return change


def _give(index: int, code: int) -> Callable[[Motor], None]:
    return lambda motor: motor.codes.__setitem__(index, code)


def _count(change: Callable[[list[_Tensor | None]], object]) -> Callable[[Motor], None]:
    def do(motor: Motor) -> None:
        change(motor.tensors)
        motor.codes.append(TENSOR)

    return do


# The inputs are int8 (1, 24) and (1, 8), the outputs float32 (1, 3) and int8 (1, 1).
WRONG: dict[str, tuple[Callable[[Motor], None], int]] = {
    "one too few": (_count(lambda tensors: tensors.pop()), COUNT),
    "one too many": (_count(lambda tensors: tensors.append(tensors[0])), COUNT),
    "none": (_count(lambda tensors: tensors.clear()), COUNT),
    **{f"argument {index} is an integer": (_give(index, INTEGER), TYPE) for index in range(5)},
    "an opaque handle": (_give(0, OPAQUE), TYPE),
    "nothing": (_give(3, EMPTY), TYPE),
    "no tensor": (lambda motor: motor.tensors.__setitem__(1, None), NULL),
    **{f"argument {index} without data": (_set(index, data=None), NULL) for index in range(5)},
    **{f"argument {index} on a GPU": (_set(index, device=_Device(2, 0)), DEVICE) for index in range(5)},
    "another kind of elements": (_set(0, dtype=_Type(1, 8, 1)), DTYPE),
    "wider elements": (_set(1, dtype=_Type(0, 16, 1)), DTYPE),
    "vectors": (_set(0, dtype=_Type(0, 8, 4)), DTYPE),
    "an output of other elements": (_set(2, dtype=_Type(0, 64, 1)), DTYPE),
    "a longer axis": (_set(0, shape=extents(1, 25)), SHAPE),
    "a shorter axis": (_set(0, shape=extents(1, 23)), SHAPE),
    "two axes exchanged": (_set(0, shape=extents(24, 1)), SHAPE),
    "one axis less": (_set(0, ndim=1, shape=extents(24)), SHAPE),
    "one axis more": (_set(0, ndim=3, shape=extents(1, 1, 24)), SHAPE),
    "no axis": (_set(1, ndim=0), SHAPE),
    "an output of another shape": (_set(2, shape=extents(1, 4)), SHAPE),
    "a pool that is too small": (_set(4, shape=extents(4)), SHAPE),
    "every second element": (_set(0, strides=extents(48, 2)), CONTIGUOUS),
    "a row again and again": (_set(0, strides=extents(24, 0)), CONTIGUOUS),
    "an output from behind": (_set(2, strides=extents(3, -1)), CONTIGUOUS),
    "a pool with gaps": (_set(4, strides=extents(2)), CONTIGUOUS),
    "an offset": (_set(1, byte_offset=8), CONTIGUOUS),
    "an output's offset": (_set(3, byte_offset=1), CONTIGUOUS),
}
RIGHT: dict[str, Callable[[Motor], None]] = {
    "arrays instead of tensors": lambda motor: motor.codes.__setitem__(slice(None), [ARRAY] * 5),
    "another number of the processor": _set(0, device=_Device(1, 1)),
    "compact strides": _set(0, strides=extents(24, 1)),
    "any stride of an axis of one": _set(0, strides=extents(7, 1)),
    "any stride of axes of one": _set(3, strides=extents(-3, 99)),
    "a larger pool than needed": _set(4, shape=extents(POOL_BYTES)),
    "a pool of other elements": _set(4, dtype=_Type(2, 32, 1), shape=extents(POOL_BYTES // 4)),
    "a pool of two axes": _set(4, ndim=2, shape=extents(2, POOL_BYTES // 2)),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_packed_call_gives_its_error_and_computes_nothing(motor: Motor, fault: str) -> None:
    spoil, status = WRONG[fault]
    spoil(motor)

    assert motor.call() == status
    assert motor.is_untouched()


@pytest.mark.parametrize("form", RIGHT)
def test_what_is_the_same_memory_is_accepted(motor: Motor, form: str) -> None:
    RIGHT[form](motor)

    assert motor.call() == 0
    assert motor.has_run()


@pytest.mark.parametrize(
    ("shape", "status"),
    [((1, 4), 0), ((4,), 0), ((2, 2), 0), ((4, 1, 1), 0), ((1, 5), SHAPE), ((3,), SHAPE), ((), SHAPE), ((0, 4), SHAPE)],
)
def test_a_tensor_of_unknown_shape_must_hold_as_much(tmp_path: Path, shape: tuple[int, ...], status: int) -> None:
    network = Network(**STYLES["aot-c"])
    plan = plan_link(
        [LinkRequest(path=write(tmp_path / "net.tar", members(network)), name="net")],
        output=tmp_path / "libmodels.a", compiler=compiler_for("host"),
    )  # fmt: skip
    library = shared_object(tmp_path, plan)
    inputs = random_inputs(network, 1)
    wanted = expected(inputs, network)
    outputs = [np.zeros_like(array) for array in wanted.values()]
    tensors = [tensor(array) for array in (*inputs.values(), *outputs)]
    tensors[2].ndim, tensors[2].shape = len(shape), extents(*shape)

    values = (ctypes.c_void_p * 4)(*map(ctypes.addressof, tensors))
    found = library.tvmgen_net_tvm_module_main(values, (ctypes.c_int * 4)(*[TENSOR] * 4), 4, None, None, None)

    assert [item.shape for item in plan.models[0].interface.outputs] == [None, None]
    assert found == status
    assert (status == 0) == all((found == right).all() for found, right in zip(outputs, wanted.values(), strict=True))


# What models say of themselves.


class _TensorInfo(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p), ("shape", ctypes.POINTER(ctypes.c_int64)), ("num_shape", ctypes.c_int64), ("dtype", _Type)
    )  # fmt: skip


class _Metadata(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_int64), ("inputs", ctypes.POINTER(_TensorInfo)), ("num_inputs", ctypes.c_int64),
        ("outputs", ctypes.POINTER(_TensorInfo)), ("num_outputs", ctypes.c_int64),
        ("workspace_pools", ctypes.POINTER(_TensorInfo)), ("num_workspace_pools", ctypes.c_int64),
        ("constant_pools", ctypes.c_void_p), ("num_constant_pools", ctypes.c_int64), ("mod_name", ctypes.c_char_p),
    )  # fmt: skip


def described(library: ctypes.CDLL, model: str) -> list[tuple[str, tuple[int, ...], int, int]]:
    """Call a model's get_c_metadata; give name, shape, type code and bits of its inputs, then of its outputs."""
    result, code = ctypes.c_void_p(), ctypes.c_int()
    function = getattr(library, f"tvmgen_{model}_get_c_metadata")
    assert function(None, None, 0, ctypes.byref(result), ctypes.byref(code), None) == 0
    assert code.value == OPAQUE
    found = ctypes.cast(result, ctypes.POINTER(_Metadata)).contents
    assert found.version == 1
    infos = [*found.inputs[: found.num_inputs], *found.outputs[: found.num_outputs]]
    return [
        (info.name.decode(), tuple(info.shape[: info.num_shape]), info.dtype.code, info.dtype.bits) for info in infos
    ]


def test_every_model_tells_its_own_metadata(real_archives: Path, tmp_path: Path) -> None:
    every = real_cases(real_archives)
    names = ("dense_packed", "keyword_packed", "int8_packed_usmp", "dense_unpacked_packed_pool", "dense_usmp")
    cases = {name: every[name] for name in names}
    library = shared_object(tmp_path, plan_of(tmp_path, cases, "host"))

    for name in names[:-1]:
        arrays = [*cases[name].inputs.values(), *cases[name].outputs.values()]
        found = described(library, name)
        assert [(shape, code, bits) for _, shape, code, bits in found] == [
            (array.shape, _CODES[array.dtype.kind], 8 * array.itemsize) for array in arrays
        ]
        assert [item[0] for item in found[: len(cases[name].inputs)]] == list(cases[name].inputs)
    assert not hasattr(library, "tvmgen_dense_usmp_get_c_metadata")


HOOKED = r"""
#include "tvmgen_net.h"
#include "mlf/models.h"
#include "tvm/runtime/c_runtime_api.h"
#include "arrays.h"
static int context, other, opened;
int32_t TVMDeviceNpuOpen(void* device) {
  opened += device == &context;
  return device == &context ? 0 : -1;
}
int32_t TVMDeviceNpuClose(void* device) {
  opened -= device == &context;
  return 0;
}
static int is_right(void) {
  int i;
  for (i = 0; i < 4; ++i) if (scores[i] != wanted[i]) return 0;
  for (i = 0; i < 4; ++i) scores[i] = 0;
  return opened == 0;
}
int main(void) {
  struct tvmgen_net_inputs inputs = {(void*)zeta, (void*)alpha};
  struct tvmgen_net_outputs outputs = {scores, hidden};
  struct tvmgen_net_devices devices = {&context};
  void* in[] = {(void*)zeta, (void*)alpha};
  void* out[] = {scores, hidden};
  void* contexts[] = {&context};
  static int64_t shapes[4][2] = {{1, 8}, {2, 4}, {1, 4}, {1, 8}};
  DLTensor tensors[] = {
    {(void*)zeta, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, shapes[0], 0, 0}, {(void*)alpha, {kDLCPU, 0}, 2, {kDLInt, 8, 1}, shapes[1], 0, 0},
    {scores, {kDLCPU, 0}, 2, {kDLInt, 32, 1}, shapes[2], 0, 0}, {hidden, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, shapes[3], 0, 0},
  };
  TVMValue values[5];
  int codes[] = {kTVMDLTensorHandle, kTVMDLTensorHandle, kTVMDLTensorHandle, kTVMDLTensorHandle, kTVMOpaqueHandle};
  int i;
  for (i = 0; i < 4; ++i) values[i].v_handle = &tensors[i];
  values[4].v_handle = &context;
  if (mlf_models[0]->device_count != 1) return 1;
  if (tvmgen_net_run(&inputs, &outputs, &devices) != 0 || !is_right()) return 2;
  if (mlf_models[0]->run(in, out, 0, contexts) != 0 || !is_right()) return 3;
  if (tvmgen_net_tvm_module_main(values, codes, 5, 0, 0, 0) != 0 || !is_right()) return 4;
  values[4].v_handle = &other;
  if (tvmgen_net_tvm_module_main(values, codes, 5, 0, 0, 0) != -1) return 5;
  if (tvmgen_net_tvm_module_main(values, codes, 4, 0, 0, 0) != MLF_ERROR_ARGUMENT_COUNT) return 6;
  return 0;
}
"""


@pytest.mark.parametrize("target", ["host", "cortex-m4"])
def test_a_device_reaches_the_hooks_that_the_firmware_has(tmp_path: Path, target: str) -> None:
    network = Network(devices=("npu",), **STYLES["aot-c"])
    content = members(network)
    name = "codegen/host/src/default_lib1.c"
    text = content[name].decode()
    (head,) = {line for line in text.splitlines() if line.endswith("void* device_context_npu) {")}
    begin = "  if (TVMDeviceNpuOpen(device_context_npu) != 0) return -1;\n  TVMDeviceNpuClose(device_context_npu);\n"
    text = text.replace(f"{head}\n", f"{head}\n{begin}")
    declared = "int32_t TVMDeviceNpuOpen(void*);\nint32_t TVMDeviceNpuClose(void*);\n"
    path = write(tmp_path / "net.tar", {**content, name: text.replace("#include <math.h>", f"#include <math.h>\n{declared}").encode()})  # fmt: skip
    plan = plan_link(
        [LinkRequest(path=path, name="net")], output=tmp_path / "libmodels.a", compiler=compiler_for(target)
    )
    needs = link(plan).document["models"][0]["needs"]
    inputs = random_inputs(network, 3)
    arrays = {**{name.split(":")[0].split("-")[0]: array for name, array in inputs.items()}, "wanted": expected(inputs, network)["scores"]}  # fmt: skip
    types = {"zeta": "const float", "alpha": "const int8_t", "wanted": "const int32_t"}
    lines = [f"static {types[key]} {key}[] = {{{', '.join(map(str, value.ravel().tolist()))}}};\n" for key, value in arrays.items()]  # fmt: skip
    (tmp_path / "arrays.h").write_text("".join(lines) + "static int32_t scores[4];\nstatic float hidden[8];\n")
    (tmp_path / "main.c").write_text(HOOKED)

    assert {"TVMDeviceNpuClose", "TVMDeviceNpuOpen"} <= set(needs)
    assert _run(plan, tmp_path) == ""


# The C that is made.

MODEL_HEADER = RUNTIME / "public" / "mlf" / "model.h"
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2")
COMPILERS = {
    "gcc": ("gcc",),
    "clang": ("clang",),
    "arm": ("arm-none-eabi-gcc", "-mcpu=cortex-m0", "-ffreestanding"),
    "riscv": ("riscv64-unknown-elf-gcc", "-march=rv32imac", "-mabi=ilp32", "-ffreestanding"),
}


REGISTRY = codegen.registry_names(codegen.DEFAULT_REGISTRY, {})


def glue_of(model: PlannedModel) -> str:
    return glue_source(
        GlueModel(
            interface=model.interface, module=model.module, call=model.call, need=model.need, program=model.program.text if model.program else None,
            is_external=bool(model.arena and model.arena.is_external),
        )
    )  # fmt: skip


@pytest.mark.parametrize("style", ["shared", "external"])
def test_all_generated_c_compiles_without_a_warning(real_archives: Path, tmp_path: Path, style: str) -> None:
    every = real_cases(real_archives)
    cases = {name: every[name] for name in (*CALLED, *OF_TARGET["host"])}
    plan = plan_of(tmp_path, cases, "host", style)
    interfaces = [model.interface for model in plan.models]
    headers = {interface.header: codegen.model_header(interface) for interface in interfaces}
    headers["mlf/models.h"] = codegen.models_header(interfaces, REGISTRY)
    headers["mlf/model.h"] = MODEL_HEADER.read_text()
    for name, text in headers.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    texts = {model.name: glue_of(model) for model in plan.models}
    texts |= {
        arena.symbol: codegen.render("arena.c.j2", {"arena": arena, "is_measured": False}) for arena in plan.arenas
    }
    texts["registry"] = codegen.models_source(interfaces, REGISTRY)
    texts["arguments"] = (RUNTIME / "glue" / "mlf_arguments.c").read_text()
    texts["backend"] = (RUNTIME / "glue" / "mlf_backend.c").read_text()
    for name, text in texts.items():
        (tmp_path / f"{name}.c").write_text(text)
    include = [f"-I{RUNTIME / name}" for name in ("glue", "public", "include")]

    said = {
        name: run(
            [*command, *STRICT, "-I.", *include, "-c", *(f"{name}.c" for name in texts)], cwd=tmp_path, timeout_s=TIMEOUT_S
        ).stderr
        for name, command in COMPILERS.items()
    }  # fmt: skip

    assert said == dict.fromkeys(COMPILERS, "")


@pytest.mark.parametrize("compiler", ["gcc", "g++", "clang", "clang++"])
@pytest.mark.parametrize("is_tvm_first", [False, True])
def test_all_headers_compile_as_c_and_as_cpp_without_a_warning(
    real_archives: Path, tmp_path: Path, compiler: str, is_tvm_first: bool
) -> None:
    every = real_cases(real_archives)
    plan = plan_of(tmp_path, {name: every[name] for name in (*CALLED, *OF_TARGET["host"])}, "host")
    interfaces = [model.interface for model in plan.models]
    made = {interface.header: codegen.model_header(interface) for interface in interfaces}
    made["mlf/models.h"] = codegen.models_header(interfaces, REGISTRY)
    made["mlf/model.h"] = MODEL_HEADER.read_text()
    (tmp_path / "mlf").mkdir()
    for name, text in made.items():
        (tmp_path / name).write_text(text)
    first = '#include "tvm/runtime/c_runtime_api.h"\n' if is_tvm_first else ""
    is_cpp = compiler.endswith("++")
    source = tmp_path / ("user.cpp" if is_cpp else "user.c")
    source.write_text(first + '#include "mlf/models.h"\nint main(void) { return mlf_models[0]->run == 0; }\n')
    strict = ["-std=c++11" if is_cpp else "-std=c99", *STRICT[1:], f"-I{RUNTIME / 'include'}"]

    assert run([compiler, *strict, "-c", source.name], cwd=tmp_path, timeout_s=TIMEOUT_S).stderr == ""


# The names and forms of every date.

DATED = {**RELEASES, **SNAPSHOTS}
_LATER = "graph graph-linked aot-packed aot-unpacked aot-c"
_OF_2021 = "graph graph-linked aot-packed aot-unpacked"
FORMS = {
    "2021-03-10": "graph graph-linked",
    "2021-05-05": "graph aot-packed",
    "2021-05-07": "graph graph-linked aot-packed",
    **dict.fromkeys(("2021-06-04", "2021-06-28", "2021-07-02", "2021-07-20"), _OF_2021),
    "0.9.dev-v5": "aot-unpacked aot-c",
    **dict.fromkeys(("0.8.0", "2022-05-09", "2022-05-20", "0.9.dev-v6", "0.9.0", "0.10.0", "0.11.1", "0.12.0", "0.16.0", "0.17.0"), _LATER),
}  # fmt: skip
# Memory was planned ahead from the end of 2021 on; pools that the caller lends are known from the header alone.
_PLANNED = {"aot-unpacked": ("internal", "mixed"), "aot-c": ("internal", "external", "constant", "mixed")}


def every_form() -> dict[str, Network]:
    """Give a network in each form of each date, with each style of memory that it had, by a name for a library."""
    found = {}
    for date, styles in FORMS.items():
        for style in styles.split():
            memories = _PLANNED.get(style, ()) if not date.startswith("2021") and date != "0.8.0" else ()
            for memory in ("alloc", *memories):
                name = f"v{DATED[date].version}_{date}_{style}_{memory}"
                found["".join(char if char.isalnum() else "_" for char in name)] = Network(
                    release=DATED[date], memory=memory, model="MyNet" if style == "aot-c" and memory == "mixed" else "default",
                    **STYLES[style],
                )  # fmt: skip
    return found


@pytest.mark.parametrize("target", ["host", "cortex-m4", "rv32imac"])
def test_every_form_of_every_date_gives_its_numbers_from_one_library(tmp_path: Path, target: str) -> None:
    forms = every_form()
    requests = [
        LinkRequest(path=write(tmp_path / f"{name}.tar", members(network)), name=name)
        for name, network in forms.items()
    ]
    link(plan_link(requests, output=tmp_path / "libmodels.a", compiler=compiler_for(target)))
    steps = [(name, random_inputs(network, seed)) for seed, (name, network) in enumerate(forms.items())]

    results = run_sequence(tmp_path / "libmodels.json", steps)

    assert len(forms) > 100
    for (name, inputs), found in zip(steps, results, strict=True):
        for array, wanted in zip(found.values(), expected(inputs, forms[name]).values(), strict=True):
            np.testing.assert_array_equal(array, wanted.ravel(), err_msg=name)
