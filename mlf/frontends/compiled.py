"""What a compiler made of a trained model: the calls of its operators as a Program, and the C that defines these operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlf.metadata import Tensor
    from mlf.program import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledModel:
    """A trained model after a front end, before its memory is planned.

    `inputs` and `outputs` are in call order, with the names that the model gives them. `operators` is one C99 file that
    defines every function that the program calls, under the names of the model (`tvmgen_<model>_...`), each as declared in
    `prototypes`, and nothing else that is global. An operator neither allocates nor keeps anything between two calls.
    `generator` names the compiler and its release; `notes` are what the user should know of the model.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    program: Program
    operators: str
    prototypes: Mapping[str, str]
    generator: str
    notes: tuple[str, ...] = ()
