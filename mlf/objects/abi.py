"""What an object file says of the machine it is for: instruction set, procedure call standard, floats in registers.

Sources: ELF for the Arm Architecture and its build attributes (`.ARM.attributes`), the RISC-V ELF psABI (`e_flags`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlf.objects.elf import ElfObject

_ARM = 40
_RISCV = 243
_ARM_ATTRIBUTES = ".ARM.attributes"
_TAG_FILE = 1
_TAG_CPU_RAW_NAME, _TAG_CPU_NAME, _TAG_COMPATIBILITY, _TAG_ABI_VFP_ARGS = 4, 5, 32, 28
_VFP_ARGS = {0: "soft", 1: "hard"}
_RISCV_FLOAT = {0: "soft", 2: "single", 4: "double", 6: "quad"}
_RISCV_SUFFIX = {"soft": "", "single": "f", "double": "d", "quad": "q"}


def object_abi(item: ElfObject) -> tuple[str | None, str | None]:
    """Give the procedure call standard of an object and how it passes floats; None where it does not tell."""
    machine = item.machine
    if machine.number == _ARM:
        return f"eabi{machine.flags >> 24}", _arm_float_abi(item)
    if machine.number == _RISCV:
        float_abi = _RISCV_FLOAT[machine.flags & 6]
        return ("lp64" if machine.is_64 else "ilp32") + _RISCV_SUFFIX[float_abi], float_abi
    return None, None


def _arm_float_abi(item: ElfObject) -> str | None:
    """Read Tag_ABI_VFP_args; an object without attributes tells nothing, one without the tag passes no float in registers."""
    section = next((section for section in item.sections if section.name == _ARM_ATTRIBUTES), None)
    if section is None:
        return None
    attributes = _arm_attributes(bytes(section.data))
    return None if attributes is None else _VFP_ARGS.get(attributes.get(_TAG_ABI_VFP_ARGS, 0))


def _arm_attributes(data: bytes) -> dict[int, int] | None:
    """Read the numbers of the file's own `aeabi` attributes; None if they cannot be read.

    `A`, then subsections (length, vendor, parts); a part has a tag, a length, and pairs of ULEB128 tag and value, of which
    some are strings.
    """
    name = b"aeabi\0"
    start = data.find(name)
    if data[:1] != b"A" or start != 5:
        return None
    at = start + len(name)
    if data[at : at + 1] != bytes([_TAG_FILE]):
        return None
    return _pairs(data[at + 5 :])


def _pairs(data: bytes) -> dict[int, int]:
    found: dict[int, int] = {}
    at = 0
    while at < len(data):
        tag, at = _uleb128(data, at)
        is_text = tag in (_TAG_CPU_RAW_NAME, _TAG_CPU_NAME) or (tag > _TAG_COMPATIBILITY and tag % 2 == 1)
        if tag == _TAG_COMPATIBILITY:  # a number and a string
            _, at = _uleb128(data, at)
            is_text = True
        if is_text:
            end = data.find(b"\0", at)
            at = end + 1 if end >= 0 else len(data)
        else:
            found[tag], at = _uleb128(data, at)
    return found


def _uleb128(data: bytes, at: int) -> tuple[int, int]:
    """Read a number of seven bits per byte, the lowest first; where the data ends, it ends."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value |= (byte & 0x7F) << min(shift, 63)
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    return value, at
