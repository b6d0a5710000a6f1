"""What reading a model file gives: a Relax module, and the tensors that callers of the model pass and get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlf.metadata import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedModel:
    """A trained model as TVM takes it.

    `module` is a `tvm.IRModule` whose function `main` has one parameter per input, in the order of `inputs`, holds all
    weights as constants, and returns a tensor, or a tuple if there are several `outputs`. Names, shapes and quantization
    are those of the model file; `notes` are what the user should know of it.
    """

    module: Any
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    notes: tuple[str, ...] = ()
