"""What an object file says of the machine it is for: instruction set, procedure call standard, floats in registers.

Sources: ELF for the Arm Architecture and its build attributes (`.ARM.attributes`), the RISC-V ELF psABI (`e_flags`,
`.riscv.attributes`) and the naming of instruction sets in the RISC-V manual, volume I.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlf.objects.elf import EM_ARM, EM_RISCV, SHF_EXECINSTR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlf.objects.elf import ElfObject, Machine

    Attributes = Mapping[int, int | str]

_TAG_FILE = 1
_TAG_CPU_RAW_NAME, _TAG_CPU_NAME, _TAG_CPU_ARCH, _TAG_CPU_ARCH_PROFILE = 4, 5, 6, 7
_TAG_FP_ARCH, _TAG_ABI_FP_NUMBER_MODEL, _TAG_ABI_HARDFP_USE, _TAG_ABI_VFP_ARGS = 10, 23, 27, 28
_TAG_COMPATIBILITY, _TAG_DSP_EXTENSION, _TAG_MVE_ARCH = 32, 46, 48
_VFP_ARGS = {0: "soft", 1: "hard"}
_SINGLE_ONLY = 1  # of Tag_ABI_HardFP_use

_ARM_V7, _ARM_V7E_M = 10, 13
# The architectures of the microcontroller profile, the oldest whose code each one runs last.
_ARM_MICROCONTROLLER = {
    11: ("Armv6-M",),
    12: ("Armv6-M",),  # with an extension for operating systems, which gcc writes for all
    _ARM_V7: ("Armv7-M", "Armv6-M"),
    _ARM_V7E_M: ("Armv7-M", "Armv6-M"),  # and DSP instructions, which newer ones may have or not
    16: ("Armv8-M.base", "Armv6-M"),
    17: ("Armv8-M.main", "Armv8-M.base", "Armv7-M", "Armv6-M"),
    21: ("Armv8.1-M.main", "Armv8-M.main", "Armv8-M.base", "Armv7-M", "Armv6-M"),
}
# All others in the order of their age, which here says what runs what; the numbers are not in order.
_ARM_OTHER = {
    1: "Armv4", 2: "Armv4T", 3: "Armv5T", 4: "Armv5TE", 5: "Armv5TEJ", 6: "Armv6", 8: "Armv6T2", 9: "Armv6K", 7: "Armv6KZ", _ARM_V7: "Armv7",
    14: "Armv8-A", 15: "Armv8-R", 18: "Armv8.1-A", 19: "Armv8.2-A", 20: "Armv8.3-A", 22: "Armv9-A",
}  # fmt: skip
_FP_VERSIONS = ("VFPv1", "VFPv2", "VFPv3", "VFPv4", "FPv5")
_FP_ARCH = {1: 1, 2: 2, 3: 3, 4: 3, 5: 4, 6: 4, 7: 5, 8: 5}  # Tag_FP_arch to how many of the versions there are
_FP_ARCH_WIDE = (3, 5, 7)  # with 32 registers instead of 16
_MVE = ("vectors", "vectors of floats")

_RISCV_FLOAT = {0: "soft", 2: "single", 4: "double", 6: "quad"}
_RISCV_SUFFIX = {"soft": "", "single": "f", "double": "d", "quad": "q"}
_TAG_RISCV_ARCH = 5
# What newer compilers list apart of what older ones know under one letter.
_RISCV_PARTS = {
    "m": ("zmmul",),
    "a": ("zaamo", "zalrsc"),
    "b": ("zba", "zbb", "zbs"),
    "c": ("zca", "zcf", "zcd"),
    "q": ("d", "f"),
    "d": ("f",),
}
_RISCV_OF_OLD = frozenset({"zicsr", "zifencei"})  # part of the base until 2019


def object_abi(item: ElfObject) -> tuple[str | None, str | None]:
    """Give the procedure call standard of an object and how it passes floats; None where it does not tell."""
    machine = item.machine
    if machine.number == EM_ARM:
        attributes = _arm_attributes(item)
        # An object without attributes tells nothing, one without the tag passes no float in registers.
        known = None if attributes is None else _VFP_ARGS.get(_number(attributes, _TAG_ABI_VFP_ARGS))
        return f"eabi{machine.flags >> 24}", known
    if machine.number == EM_RISCV:
        float_abi = _RISCV_FLOAT[machine.flags & 6]
        return ("lp64" if machine.is_64 else "ilp32") + _RISCV_SUFFIX[float_abi], float_abi
    return None, None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectFacts:
    """What the code of an object is for.

    `architecture` and `float_abi` are None where the object does not tell, which fits anything. `instructions` are the
    instruction sets that the code may use, `units` the parts of a processor beyond them.
    """

    machine: Machine
    architecture: str | None = None
    float_abi: str | None = None
    instructions: frozenset[str] = frozenset()
    units: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return (self.architecture or self.machine.name) + (f" with {self.float_abi} floats" if self.float_abi else "")


def object_facts(item: ElfObject) -> ObjectFacts:
    """Read what an object is for from its header and its attributes; damaged attributes tell nothing."""
    if item.machine.number == EM_ARM:
        return _arm_facts(item)
    if item.machine.number == EM_RISCV:
        return _riscv_facts(item)
    return ObjectFacts(machine=item.machine)


def incompatibility(item: ObjectFacts, target: ObjectFacts) -> str | None:
    """Say in one sentence, with both facts, why an object of the first cannot be linked into firmware for the second.

    None if it can. This is stricter than linkers are: GNU ld makes an image for the newer of two architectures.
    """
    if not item.machine.is_compatible(target.machine):
        return f"is for {item.machine}, the target is {target.machine}"
    sentence = f"is for {item}, the target is {target}"
    if item.float_abi and target.float_abi and item.float_abi != target.float_abi:
        return sentence
    if item.architecture is None or target.architecture is None:
        return None
    if item.instructions - target.instructions:
        return sentence
    missing = item.units - target.units
    return f"{sentence}, which has no {' and no '.join(_named_units(missing))}" if missing else None


def _named_units(missing: frozenset[str]) -> list[str]:
    """List what is missing; of the versions of the floating-point unit the newest says all."""
    versions = [name for name in _FP_VERSIONS if name in missing]
    return [*versions[-1:], *sorted(missing.difference(_FP_VERSIONS))]


def _arm_facts(item: ElfObject) -> ObjectFacts:
    attributes = _arm_attributes(item)
    if attributes is None:
        return ObjectFacts(machine=item.machine)
    architecture, instructions = _arm_architecture(attributes)
    float_abi = _VFP_ARGS.get(_number(attributes, _TAG_ABI_VFP_ARGS))
    if float_abi == "soft" and not _number(attributes, _TAG_ABI_FP_NUMBER_MODEL):  # no floats, hence none to pass
        float_abi = None
    return ObjectFacts(
        machine=item.machine, architecture=architecture, float_abi=float_abi, instructions=instructions, units=_arm_units(attributes)
    )  # fmt: skip


def _arm_architecture(attributes: Attributes) -> tuple[str | None, frozenset[str]]:
    """Give the architecture and those whose code it runs; what is older than its list has no number of its own."""
    number = _number(attributes, _TAG_CPU_ARCH)
    profile = chr(_number(attributes, _TAG_CPU_ARCH_PROFILE) & 0x7F)
    if number == 0:
        return None, frozenset()
    if number in _ARM_MICROCONTROLLER and (number != _ARM_V7 or profile == "M"):
        known = _ARM_MICROCONTROLLER[number]
        return "Armv7E-M" if number == _ARM_V7E_M else known[0], frozenset(known)
    if number not in _ARM_OTHER:
        name = f"Arm architecture {number}"
        return name, frozenset({name})
    order = list(_ARM_OTHER)
    older = {_ARM_OTHER[other] for other in order[: order.index(number) + 1]}
    own = {f"profile {profile}"} if profile in "AR" else set()
    return _ARM_OTHER[number] + (f"-{profile}" if own and number == _ARM_V7 else ""), frozenset(older | own)


def _arm_units(attributes: Attributes) -> frozenset[str]:
    fp_arch = _number(attributes, _TAG_FP_ARCH)
    units = {*_FP_VERSIONS[: _FP_ARCH.get(fp_arch, 0)], *_MVE[: _number(attributes, _TAG_MVE_ARCH)]}
    if fp_arch and _number(attributes, _TAG_ABI_HARDFP_USE) != _SINGLE_ONLY:
        units.add("double precision")
    if fp_arch in _FP_ARCH_WIDE:
        units.add("registers D16 to D31")
    if _number(attributes, _TAG_DSP_EXTENSION) or _number(attributes, _TAG_CPU_ARCH) == _ARM_V7E_M:
        units.add("DSP instructions")
    return frozenset(units)


def _riscv_facts(item: ElfObject) -> ObjectFacts:
    """Data alone fits any code, and its header may be anything."""
    if not any(section.flags & SHF_EXECINSTR for section in item.sections):
        return ObjectFacts(machine=item.machine)
    _, float_abi = object_abi(item)
    text = (_attributes(item, ".riscv.attributes", b"riscv") or {}).get(_TAG_RISCV_ARCH)
    names = _riscv_names(text) if isinstance(text, str) else []
    if not names:
        return ObjectFacts(machine=item.machine, float_abi=float_abi)
    parts = {part for name in names for part in _RISCV_PARTS.get(name, ())}
    letters = [name for name in names if len(name) == 1]
    others = [name for name in names if len(name) > 1 and name not in parts]
    return ObjectFacts(
        machine=item.machine, architecture="_".join([f"rv{64 if item.machine.is_64 else 32}{''.join(letters)}", *others]),
        float_abi=float_abi, instructions=frozenset({*names, *parts}),
    )  # fmt: skip


def _riscv_names(text: str) -> list[str]:
    """List the instruction sets in a name such as `rv32i2p1_m2p0_zmmul1p0`, without versions."""
    names: list[str] = []
    for word in re.sub(r"^rv\d+", "", text.lower()).split("_"):
        if word[:1] in ("z", "s", "x"):
            names.append(re.sub(r"\d+(?:p\d+)?$", "", word))
        else:
            names += re.findall(r"([a-z])(?:\d+(?:p\d+)?)?", word)
    return [name for name in names if name not in _RISCV_OF_OLD]


def _arm_attributes(item: ElfObject) -> Attributes | None:
    return _attributes(item, ".ARM.attributes", b"aeabi")


def _number(attributes: Attributes, tag: int) -> int:
    """Give the value of a tag; one that is not there is 0."""
    value = attributes.get(tag, 0)
    return value if isinstance(value, int) else 0


def _attributes(item: ElfObject, section_name: str, vendor: bytes) -> Attributes | None:
    """Read the attributes that a vendor defines for the whole file; None if there are none to be read.

    `A`, then subsections: length, vendor, parts. The first part is the file's: a tag, a length, and pairs of tag and value.
    """
    section = next((section for section in item.sections if section.name == section_name), None)
    data = bytes(section.data) if section else b""
    order: Literal["big", "little"] = "big" if item.machine.is_big_endian else "little"
    at = 1
    while data[:1] == b"A" and at + 4 <= len(data):
        length = int.from_bytes(data[at : at + 4], order)
        name, _, parts = data[at + 4 : at + length].partition(b"\0")
        if name == vendor and parts[:1] == bytes([_TAG_FILE]):
            return _pairs(parts[5 : int.from_bytes(parts[1:5], order)], is_arm=vendor == b"aeabi")
        at += max(length, 4)
    return None


def _pairs(data: bytes, *, is_arm: bool) -> Attributes:
    """Read pairs of ULEB128 tag and value: an odd tag has a text, but those of the Arm ABI that are older than this rule."""
    found: dict[int, int | str] = {}
    at = 0
    while at < len(data):
        tag, at = _uleb128(data, at)
        is_text = tag % 2 == 1
        if is_arm and tag <= _TAG_COMPATIBILITY:
            is_text = tag in (_TAG_CPU_RAW_NAME, _TAG_CPU_NAME, _TAG_COMPATIBILITY)
        if is_arm and tag == _TAG_COMPATIBILITY:  # a number and a text
            _, at = _uleb128(data, at)
        if is_text:
            text, end, _ = data[at:].partition(b"\0")
            found[tag] = text.decode("ascii", "replace")
            at += len(text) + len(end)
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
