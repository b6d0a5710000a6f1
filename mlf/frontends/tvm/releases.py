"""All that differs between the releases of Apache TVM that mlf knows; nothing else in mlf asks which one is installed."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from mlf.errors import ToolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

# Releases whose output the tests compare with other runtimes; each needs the interface library that its wheel was built with.
KNOWN_RELEASES = ("0.25", "0.26", "0.27")
_INSTALL_HINT = "pip install 'mlf[tvm]'"
_FFI_HINT = (
    "the libraries of its wheels do not fit together: pip install 'apache-tvm-ffi==0.1.12' for 0.25, or `mlf[tvm]`"
)
_CPU = 1  # DLPack's number
_PURE = 1  # TVM's CallEffectKind.kPure


@cache
def load_tvm() -> ModuleType:
    """Import TVM; raises ToolError if it is missing, does not load, or is of a release that mlf does not know."""
    try:
        import tvm  # noqa: PLC0415  # optional, and half a second
        import tvm.relax  # noqa: PLC0415
        import tvm.s_tir  # noqa: PLC0415
        import tvm.tirx  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name == "tvm":
            raise ToolError("Apache TVM is not installed", hint=_INSTALL_HINT) from error
        raise ToolError(f"Apache TVM does not load: {error}", hint=_unknown_hint()) from error
    except (ImportError, OSError, AttributeError) as error:
        raise ToolError(f"Apache TVM does not load: {_first_line(error)}", hint=_FFI_HINT) from error
    version = str(tvm.__version__)
    if ".".join(version.split(".")[:2]) not in KNOWN_RELEASES:
        raise ToolError(f"Apache TVM {version} is a release that mlf does not know", hint=_unknown_hint())
    _register_intrinsics(tvm)
    return tvm  # type: ignore[no-any-return]


def _unknown_hint() -> str:
    return f"mlf knows {', '.join(KNOWN_RELEASES)}: {_INSTALL_HINT}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def version() -> str:
    """Give the release that is installed."""
    return str(load_tvm().__version__)


# Nodes of Relax.


def is_constant(node: Any) -> bool:  # TVM has no types
    """Tell whether a node of Relax is a constant tensor: `relax.Constant` up to 0.26, `ir.GenericConst` since."""
    tvm = load_tvm()
    return isinstance(node, getattr(tvm.relax, "Constant", None) or tvm.ir.GenericConst)


def name_of(variable: Any) -> str:
    """Give the name of a variable: `name_hint` up to 0.26, `name` since."""
    return str(getattr(variable, "name_hint", None) or variable.name)


def constant_array(node: Any) -> Any:
    """Give the array of a constant."""
    return (node.data if hasattr(node, "data") else node.value).numpy()


def type_of(node: Any) -> Any:
    """Give the type of an expression: `struct_info` up to 0.25, `ty` since."""
    found = getattr(node, "ty", None)
    return found if found is not None else node.struct_info


def shape_and_dtype(type_: Any) -> tuple[list[Any], str]:
    """Give the extents, numbers where they are known, and TVM's word for the elements of a tensor's type."""
    tvm = load_tvm()
    dtype = type_.dtype
    extents = [int(item) if isinstance(item, (int, tvm.tirx.IntImm)) else item for item in type_.shape or ()]
    return extents, str(getattr(dtype, "dtype", dtype))


# Functions of TIR.


def without_packing(function: Any) -> Any:
    """Make the buffers that a function takes plain pointers, as `tir.transform.MakeUnpackedAPI` did until 2025.

    Up to 0.25 a function has a map of its buffers; since 0.26 its parameters are typed as buffers.
    """
    tirx = load_tvm().tirx
    if not isinstance(function, tirx.PrimFunc):
        return function
    if hasattr(function, "buffer_map"):
        parameters = [function.buffer_map[item].data for item in function.params]
        plain = tirx.PrimFunc(parameters, _on_cpu(function.body), function.ret_type, {}, attrs=function.attrs)
    else:
        parameters, body = _pointers(function)
        plain = tirx.PrimFunc(parameters, _on_cpu(body), function.ret_type, attrs=function.attrs)
    return plain.without_attr("tirx.is_entry_func") if "tirx.is_entry_func" in (plain.attrs or {}) else plain


def _pointers(function: Any) -> tuple[list[Any], Any]:
    tvm = load_tvm()
    tirx = tvm.tirx
    parameters, declared = [], []
    for item in function.params:
        type_ = item.ty
        pointer = tirx.Var(item.name, tvm.ir.PointerType(type_.dtype, type_.storage_scope))
        parameters.append(pointer)
        declared.append(tirx.DeclBuffer(item, data=pointer))
    body = list(function.body.seq) if isinstance(function.body, tirx.SeqStmt) else [function.body]
    return parameters, tirx.SeqStmt([*declared, *body])


def _on_cpu(body: Any) -> Any:
    """Say on which device a function runs, which large temporaries ask for."""
    tirx = load_tvm().tirx
    node = tirx.StringImm("default") if hasattr(tirx, "StringImm") else "default"
    for key, value in (("device_type", _CPU), ("device_id", 0)):
        body = tirx.AttrStmt(node, key, tirx.const(value, "int32"), body)
    return body


def source_of(functions: Any, passes: Callable[[ModuleType], Sequence[Any]]) -> tuple[str, str]:
    """Lower functions of TIR by `passes` and write them as C; gives TVM's script of what was written, and the C."""
    tvm = load_tvm()
    from tvm.tirx.build import codegen_build  # noqa: PLC0415

    target = tvm.target.Target("c")
    module = tvm.tirx.transform.BindTarget(target.with_host(target))(functions)
    with target:
        module = tvm.transform.Sequential(list(passes(tvm)))(module)
    return str(module.script()), str(codegen_build(module, target).inspect_source())


def simplify_pass(tvm: ModuleType) -> Any:
    """Give the pass that simplifies statements while they have blocks; it moved in 0.26."""
    owner = tvm.s_tir.transform if hasattr(tvm.s_tir.transform, "StmtSimplify") else tvm.tirx.transform
    return owner.StmtSimplify()


# Intrinsics for which the C target of these releases has no rule, as expressions that it has. None for `fma`: TVM would make
# one of every sum of products, and a core without that instruction takes a hundred others.
_RULES: dict[str, Callable[[ModuleType, str, list[Any]], Any]] = {
    "fabs": lambda tvm, dtype, args: _libm(tvm, dtype, "fabs", *args),
    "exp2": lambda tvm, dtype, args: _libm(tvm, dtype, "exp2", *args),
    "exp10": lambda tvm, dtype, args: _libm(tvm, dtype, "pow", tvm.tirx.const(10, dtype), *args),
    "rsqrt": lambda tvm, dtype, args: tvm.tirx.const(1, dtype) / _libm(tvm, dtype, "sqrt", *args),
    "sigmoid": lambda tvm, dtype, args: (
        tvm.tirx.const(1, dtype) / (tvm.tirx.const(1, dtype) + _libm(tvm, dtype, "exp", -args[0]))
    ),
    "isnan": lambda tvm, _, args: tvm.tirx.call_pure_extern("int32", "isnan", *args) != 0,
    "isinf": lambda tvm, _, args: tvm.tirx.call_pure_extern("int32", "isinf", *args) != 0,
    "isfinite": lambda tvm, _, args: tvm.tirx.call_pure_extern("int32", "isfinite", *args) != 0,
}


def _register_intrinsics(tvm: ModuleType) -> None:
    for intrinsic, rule in _RULES.items():
        _register_rule(tvm, f"tirx.{intrinsic}", rule)


def _register_rule(tvm: ModuleType, operator: str, rule: Callable[[ModuleType, str, list[Any]], Any]) -> None:
    register = getattr(tvm.tirx, "register_intrin_lowering", None) or tvm.ir.register_intrin_lowering
    register(operator, target="c", f=_lowering(tvm, rule), level=99)


def register_c_function(name: str) -> str:
    """Make a pure C function callable from expressions by the operator whose name is returned.

    Only the C target knows it. An `extern` call would do for C, but TVM would also try to run it, and crash, where it folds
    what has only constants as inputs; a function that it cannot build it leaves as it is.
    """
    from tvm_ffi import get_global_func  # noqa: PLC0415

    tvm = load_tvm()
    operator = f"mlf.{name}"
    get_global_func("ir.RegisterOp")(operator, "a function of operator_helpers.c")
    tvm.ir.register_op_attr(operator, "TCallEffectKind", _PURE)
    tvm.ir.register_op_attr(operator, "TScriptPrinterName", operator)
    _register_rule(tvm, operator, lambda tvm, dtype, args: tvm.tirx.call_pure_extern(dtype, name, *args))
    return operator


def _lowering(tvm: ModuleType, rule: Callable[[ModuleType, str, list[Any]], Any]) -> Callable[[Any], Any]:
    return lambda call: rule(tvm, _dtype_of(call), list(call.args))


def _libm(tvm: ModuleType, dtype: str, function: str, *args: Any) -> Any:
    return tvm.tirx.call_pure_extern(dtype, f"{function}f" if dtype == "float32" else function, *args)


def _dtype_of(expression: Any) -> str:
    found = getattr(expression, "dtype", None) or type_of(expression)
    return re.sub(r"[^a-z0-9]", "", str(getattr(found, "dtype", found)))


def tensor_type(shape: Sequence[int], dtype: str) -> Any:
    """Make the type of a tensor: `TensorStructInfo` up to 0.25, which has another `TensorType`, that since."""
    relax = load_tvm().relax
    return (relax.TensorStructInfo if hasattr(relax, "TensorStructInfo") else relax.TensorType)(shape, dtype)
