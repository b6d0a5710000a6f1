"""Model files as Relax modules: `.onnx`, `.tflite` and `.pt2`, each through TVM's own importer or, for integers, through ours."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlf.errors import InputError, ToolError, UnsupportedError, reason_of
from mlf.frontends.description import DTYPE_BYTES
from mlf.frontends.tvm.failures import translated
from mlf.frontends.tvm.imported import ImportedModel
from mlf.frontends.tvm.onnx_limits import refuse_wrong
from mlf.frontends.tvm.releases import load_tvm, name_of, shape_and_dtype, type_of
from mlf.metadata import Tensor
from mlf.naming import sanitize_tensor_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_TVM_HINT = "pip install 'mlf[tvm]'"
_TORCH_HINT = "pip install torch"


def import_model(path: Path, *, rounding: str) -> ImportedModel:
    """Read a model file; raises InputError for a damaged one, UnsupportedError for what TVM cannot import, ToolError."""
    load_tvm()
    if path.suffix == ".onnx":
        return _import_onnx(path, rounding)
    if path.suffix == ".tflite":
        return _import_tflite(path, rounding)
    return _import_torch(path)


def imported_relax(module: Any, *, where: str) -> ImportedModel:
    """Take a module of Relax as it is; its `main` tells the inputs, and outputs are called `output_<number>`."""
    function = _main_of(module, where)
    inputs = [name_of(item) for item in function.params]
    count = len(_result_types(function))
    outputs = ["output"] if count == 1 else [f"output_{index}" for index in range(count)]
    return _with_tensors(module, inputs, outputs, where)


def _main_of(module: Any, where: str) -> Any:
    try:
        return module["main"]
    except Exception as error:
        raise InputError("the Relax module has no function `main`", where=where) from error


def _result_types(function: Any) -> list[Any]:
    result = type_of(function.body)
    return list(result.fields) if hasattr(result, "fields") else [result]


def _with_tensors(module: Any, inputs: Sequence[str], outputs: Sequence[str], where: str) -> ImportedModel:
    """Pair the tensors of `main` with the names that the model gives them."""
    function = _main_of(module, where)
    results = _result_types(function)
    if (len(function.params), len(results)) != (len(inputs), len(outputs)):
        found = f"{len(function.params)} inputs and {len(results)} outputs"
        raise UnsupportedError(f"Apache TVM imported {found}, the model has {len(inputs)} and {len(outputs)}", where=where)  # fmt: skip
    return ImportedModel(
        module=module,
        inputs=tuple(_tensor(name, type_of(item), where) for name, item in zip(inputs, function.params, strict=True)),
        outputs=tuple(_tensor(name, item, where) for name, item in zip(outputs, results, strict=True)),
    )


def _tensor(name: str, type_: Any, where: str) -> Tensor:
    shape, dtype = shape_and_dtype(type_)
    if not all(isinstance(extent, int) for extent in shape):
        said = ", ".join(map(str, shape))
        hint = "export the model with fixed shapes"
        raise UnsupportedError(f"`{name}` has the shape ({said}), which is not known before the model runs", where=where, hint=hint)  # fmt: skip
    size_bytes = DTYPE_BYTES.get(dtype, 1)
    for extent in shape:
        size_bytes *= extent
    return Tensor(name=name, c_name=sanitize_tensor_name(name), dtype=dtype, shape=tuple(shape), size_bytes=size_bytes)


# ONNX.


def _import_onnx(path: Path, rounding: str) -> ImportedModel:
    from mlf.frontends.onnx_folding import fold_constants  # noqa: PLC0415  # numpy
    from mlf.frontends.onnx_model import load_onnx  # noqa: PLC0415
    from mlf.frontends.onnx_quantized import to_qdq  # noqa: PLC0415

    model = load_onnx(path, hint=_TVM_HINT)
    folded = fold_constants(to_qdq(model.proto))
    refuse_wrong(folded.graph, model.nodes, path.name)
    with translated(path.name, model.nodes):
        from tvm.relax.frontend.onnx import from_onnx  # noqa: PLC0415

        module = from_onnx(folded, keep_params_in_input=False)
    module = module[0] if isinstance(module, tuple) else module
    imported = _with_tensors(module, model.inputs, model.outputs, path.name)
    _refuse_other_types(imported, model.proto.graph.output, path.name)
    with translated(path.name):
        imported = _made_integer(imported, rounding)
    return replace(imported, notes=model.notes)


def _refuse_other_types(imported: ImportedModel, outputs: Sequence[Any], where: str) -> None:
    """Refuse a model whose outputs the importer gave another type of elements, as it does after some operators."""
    from onnx import helper  # noqa: PLC0415

    for tensor, item in zip(imported.outputs, outputs, strict=True):
        said = str(helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type))
        if tensor.dtype != said:
            message = f"output `{tensor.name}` has elements of `{said}`, Apache TVM would make it `{tensor.dtype}`"
            raise UnsupportedError(message, where=where)


def _made_integer(imported: ImportedModel, rounding: str) -> ImportedModel:
    """Turn what a QDQ model computes in floats back into integers; other models stay as they are."""
    from mlf.frontends.tvm.qdq import make_integer  # noqa: PLC0415

    if not _has_bytes(imported.module["main"]):
        return imported
    return make_integer(imported, rounding=rounding)


def _has_bytes(function: Any) -> bool:
    """Tell whether a function computes with 8-bit integers anywhere."""
    bindings = [binding for block in function.body.blocks for binding in block.bindings]
    nodes = [*function.params, *(node for item in bindings for node in (item.var, *getattr(item.value, "args", ())))]
    types = [type_of(node) for node in nodes if hasattr(node, "ty") or hasattr(node, "struct_info")]
    dtypes = [getattr(item, "dtype", "") for item in types if item is not None]
    return any(str(getattr(item, "dtype", item)).endswith("int8") for item in dtypes)


# TensorFlow Lite.


def _import_tflite(path: Path, rounding: str) -> ImportedModel:
    from mlf.frontends.tvm.tflite import import_quantized  # noqa: PLC0415

    data = _content(path)
    _need("tflite", _TVM_HINT)
    quantized = import_quantized(data, where=path.name, rounding=rounding)
    if quantized is not None:
        return quantized
    import tflite  # noqa: PLC0415

    with translated(path.name):
        from tvm.relax.frontend.tflite import from_tflite  # noqa: PLC0415

        model = tflite.Model.GetRootAsModel(data, 0)
        graph = model.Subgraphs(0)
        inputs = [graph.Tensors(graph.Inputs(index)).Name().decode() for index in range(graph.InputsLength())]
        outputs = [graph.Tensors(graph.Outputs(index)).Name().decode() for index in range(graph.OutputsLength())]
        module = from_tflite(model)
    return _with_tensors(module, inputs, outputs, path.name)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {reason_of(error)}", where=path.name) from error


# PyTorch.


def _import_torch(path: Path) -> ImportedModel:
    _need("torch", _TORCH_HINT)
    import torch  # noqa: PLC0415

    _content(path)
    with translated(path.name):
        program = torch.export.load(path)
    signature = program.graph_signature
    _count_from_the_front(program.graph, path.name)
    with translated(path.name):
        from tvm.relax.frontend.torch import from_exported_program  # noqa: PLC0415

        module = from_exported_program(program, keep_params_as_input=False, unwrap_unit_return_tuple=True)
    return _with_tensors(module, list(signature.user_inputs), [str(item) for item in signature.user_outputs], path.name)


def _count_from_the_front(graph: Any, where: str) -> None:
    """Write indices that count from the end as those they mean: TVM's importer reads them as places in front of a tensor."""
    for node in graph.nodes:
        target = str(node.target)
        if target == "aten.select.int" and node.args[2] < 0:
            extent = node.args[0].meta["val"].shape[node.args[1]]
            node.update_arg(2, node.args[2] + extent)
        elif target.startswith(("aten.index.", "aten.take.", "aten.index_select.")) and _has_constant_index(node):
            raise UnsupportedError(
                f"node `{node.name}` (`{target}`): Apache TVM does not know constant lists of indices", where=where,
                hint="index with `torch.select`, `narrow` or slices",
            )  # fmt: skip


def _has_constant_index(node: Any) -> bool:
    """Tell whether an index is a tensor that the model holds, in which there may be negative numbers."""
    return any("lift" in item.name or item.op == "get_attr" for item in node.all_input_nodes[1:])


def _need(package: str, hint: str) -> None:
    from importlib.util import find_spec  # noqa: PLC0415

    if find_spec(package) is None:
        raise ToolError(f"the Python package {package} is not installed", hint=hint)
