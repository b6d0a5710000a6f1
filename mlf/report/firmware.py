"""What mlf tells of the models in firmware."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlf.metadata import tensor_document
from mlf.report.text import bytes_words, one_line, table, tensor_cells

if TYPE_CHECKING:
    from mlf.firmware import Firmware, FirmwareModel, Place
    from mlf.metadata import Tensor

FIRMWARE_SCHEMA = "mlf-firmware-v1"
_SHOWN_DIGITS = 12  # of an identity, where a person tells models apart at a glance
_FORM_NAMES = {"ar": "library", "elf": "ELF", "ihex": "Intel HEX", "raw": "raw bytes"}


def firmware_document(firmware: Firmware) -> dict[str, Any]:
    """Describe the models in an image; schema `firmware-v1`."""
    return {
        "faults": [{**_place_document(fault.place), "text": fault.text} for fault in firmware.faults],
        "file": firmware.label,
        "form": firmware.form,
        "machine": firmware.machine,
        "models": [_found_document(model) for model in firmware.models],
        "schema": FIRMWARE_SCHEMA,
    }


def _place_document(place: Place) -> dict[str, int | None]:
    return {"address": place.address, "offset": place.offset}


def _found_document(model: FirmwareModel) -> dict[str, Any]:
    said = model.descriptor
    return {
        "arena_bytes": said.arena_bytes,
        "entrypoints": list(said.entrypoints),
        "format_version": said.format_version,
        "identity": said.identity,
        "inputs": [tensor_document(tensor) for tensor in said.inputs],
        "mlf_version": said.mlf_version,
        "module": said.module,
        "name": said.name,
        "outputs": [tensor_document(tensor) for tensor in said.outputs],
        "places": [_place_document(place) for place in model.places],
    }


def firmware_text(firmware: Firmware) -> str:
    """Describe the models in an image for a person."""
    count = len(firmware.models)
    held = f"{count} model{'' if count == 1 else 's'}" if count else "no descriptor of a model"
    lines = [
        ", ".join(part for part in (f"{firmware.label}: {_FORM_NAMES[firmware.form]}", firmware.machine, held) if part)
    ]
    for model in firmware.models:
        lines += ["", *_found_lines(model)]
    lines += [""] if firmware.faults else []
    lines += [f"descriptor at {_place(fault.place)} {fault.text}" for fault in firmware.faults]
    return "\n".join(lines)


def _found_lines(model: FirmwareModel) -> list[str]:
    said = model.descriptor
    short = said.identity.removeprefix("sha256:")[:_SHOWN_DIGITS]
    lines = [
        f"model {one_line(said.name)}  {short}",
        f"  identity     {said.identity}",
        f"  archive      module {one_line(said.module)}, format version {said.format_version}",
        f"  linked by    mlf {one_line(said.mlf_version)}",
        f"  entrypoints  {', '.join(said.entrypoints) or 'none'}",
    ]
    for kind, tensors in (("inputs", said.inputs), ("outputs", said.outputs)):
        cells = [(*map(one_line, tensor_cells(tensor)), _quantization(tensor)) for tensor in tensors]
        lines += table(kind, cells)
    lines.append(f"  arena        {bytes_words(said.arena_bytes)}")
    return lines + [f"  {'' if index else 'place':<11}  {_place(place)}" for index, place in enumerate(model.places)]


def _quantization(tensor: Tensor) -> str:
    said = tensor.quantization
    return f"scale {said.scale}, zero point {said.zero_point}" if said else ""


def _place(place: Place) -> str:
    known = (("address", place.address), ("offset", place.offset))
    return ", ".join(f"{what} {value:#x}" for what, value in known if value is not None)
