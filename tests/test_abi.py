from __future__ import annotations

import re
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
import toolbox

from mlf.archive import open_archive
from mlf.objects.abi import ObjectFacts, incompatibility, object_abi, object_facts
from mlf.objects.elf import SHF_EXECINSTR, ElfObject, Machine, Section, no_symbols, parse_object
from mlf.toolchain import TARGETS, find_compiler

COMPILERS = {"gcc": None, "clang": "clang", "zig": f"{sys.executable} -m ziglang cc"}
CODE = "float twice(float); float four_times(float x) { return twice(x) * 2; } int product(int a, int b) { return a * b; }\n"
ZIG = (sys.executable, "-m", "ziglang", "cc", "-g0", "-fno-sanitize=all")


@cache
def made_by(compiler: str, target: str, *cflags: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "code.c").write_text(CODE)
        found = find_compiler(TARGETS[target], cc=COMPILERS[compiler], cflags=cflags)
        found.compile("code.c", "code.o", cwd=Path(folder))
        return (Path(folder) / "code.o").read_bytes()


@cache
def compiled(*command: str) -> bytes:
    return toolbox.compile_c(CODE, toolbox.Target(name=command[0], cc=command))


def facts(data: bytes) -> ObjectFacts:
    return object_facts(parse_object(data, "code.o"))


def of(target: str, *cflags: str, compiler: str = "gcc") -> ObjectFacts:
    return facts(made_by(compiler, target, *cflags))


# The architecture as GNU readelf names it, and as the manuals do.
READELF = {
    "v6S-M": "Armv6-M",
    "v7": "Armv7-M",
    "v7E-M": "Armv7E-M",
    "v8-M.mainline": "Armv8-M.main",
    "v8.1-M.mainline": "Armv8.1-M.main",
}
ARM_TARGETS = [name for name in TARGETS if name.startswith("cortex")]
RISCV_TARGETS = [name for name in TARGETS if name.startswith("rv")]


def attributes(data: bytes) -> dict[str, str]:
    text = toolbox.ask("readelf", data, "-h", "-A")
    return {name.strip(): value.strip() for name, _, value in (line.partition(": ") for line in text.splitlines())}


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("target", ARM_TARGETS)
def test_arm_attributes_are_read_as_readelf_reads_them(target: str, compiler: str) -> None:
    data = made_by(compiler, target)
    said, found = attributes(data), facts(data)

    assert found.architecture == READELF[said["Tag_CPU_arch"]]
    assert found.float_abi == ("hard" if said.get("Tag_ABI_VFP_args") == "VFP registers" else "soft")
    assert ("VFPv4" in found.units) == ("Tag_FP_arch" in said)
    assert ("FPv5" in found.units) == ("FPv5" in said.get("Tag_FP_arch", ""))
    assert ("double precision" in found.units) == (
        "Tag_FP_arch" in said and said.get("Tag_ABI_HardFP_use") != "SP only"
    )
    assert ("DSP instructions" in found.units) == ("Tag_DSP_extension" in said or said["Tag_CPU_arch"] == "v7E-M")
    assert ("vectors of floats" in found.units) == (said.get("Tag_MVE_arch") == "MVE Integer and FP")


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("target", RISCV_TARGETS)
def test_riscv_attributes_are_read_as_readelf_reads_them(target: str, compiler: str) -> None:
    data = made_by(compiler, target)
    said, found = attributes(data), facts(data)

    letters = "".join(re.findall(r"(?:^\"rv\d\d|_)([a-z])\d", said["Tag_RISCV_arch"]))
    assert found.architecture == said["Tag_RISCV_arch"][1:5] + letters
    assert f"{found.float_abi}-float ABI" in said["Flags"]


@pytest.mark.parametrize("target", TARGETS)
def test_objects_of_all_compilers_for_a_target_fit_each_other(target: str) -> None:
    made = [facts(made_by(compiler, target)) for compiler in COMPILERS]

    assert [incompatibility(first, second) for first in made for second in made] == [None] * 9


# Which targets take the objects of which others: of the rest of the same machine none.
TAKES = {
    "cortex-m0": [],
    "cortex-m3": ["cortex-m0"],
    "cortex-m4": [],
    "cortex-m7": ["cortex-m4"],
    "cortex-m33": ["cortex-m4"],
    "cortex-m55": ["cortex-m4", "cortex-m7", "cortex-m33"],
    "cortex-m4-soft": ["cortex-m0", "cortex-m3", "cortex-m7-soft"],
    "cortex-m7-soft": ["cortex-m0", "cortex-m3", "cortex-m4-soft"],
    "cortex-m33-soft": ["cortex-m0", "cortex-m3", "cortex-m4-soft", "cortex-m7-soft"],
    "cortex-m55-soft": ["cortex-m0", "cortex-m3", "cortex-m4-soft", "cortex-m7-soft", "cortex-m33-soft"],
}


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "host"])
def test_a_target_takes_what_its_processor_runs_and_nothing_else(target: str) -> None:
    others = [name for name in TARGETS if name != target]

    assert [name for name in others if incompatibility(of(name), of(target)) is None] == TAKES.get(target, [])


V8_BASE = ("-mcpu=cortex-m23", "-mfloat-abi=soft")
NO_DSP = ("-mcpu=cortex-m33+nodsp", "-mfloat-abi=soft")

SENTENCES = {
    "machine": (of("host"), of("cortex-m4"), "is for 64-bit little-endian x86-64, the target is 32-bit little-endian ARM"),
    "class": (of("rv64"), of("rv32imac"), "is for 64-bit little-endian RISC-V, the target is 32-bit little-endian RISC-V"),
    "byte order": (
        facts(compiled("arm-none-eabi-gcc", "-mcpu=cortex-m3", "-mthumb", "-mbig-endian")),
        of("cortex-m3"),
        "is for 32-bit big-endian ARM, the target is 32-bit little-endian ARM",
    ),
    "newer architecture": (
        of("cortex-m3"), of("cortex-m0"), "is for Armv7-M with soft floats, the target is Armv6-M with soft floats",
    ),
    "architecture and floats": (
        of("cortex-m4"), of("cortex-m0"), "is for Armv7E-M with hard floats, the target is Armv6-M with soft floats",
    ),
    "side branch": (
        of("cortex-m33-soft", *V8_BASE),
        of("cortex-m3"),
        "is for Armv8-M.base with soft floats, the target is Armv7-M with soft floats",
    ),
    "newest architecture": (
        of("cortex-m55"),
        of("cortex-m33"),
        "is for Armv8.1-M.main with hard floats, the target is Armv8-M.main with hard floats",
    ),
    "floats": (
        of("cortex-m4"), of("cortex-m4-soft"), "is for Armv7E-M with hard floats, the target is Armv7E-M with soft floats",
    ),
    "floats in hardware, passed in other registers": (
        of("cortex-m4-soft", "-mfloat-abi=softfp", "-mfpu=fpv4-sp-d16"),
        of("cortex-m4-soft"),
        "is for Armv7E-M with soft floats, the target is Armv7E-M with soft floats, which has no VFPv4",
    ),
    "newer unit": (
        of("cortex-m7"),
        of("cortex-m4"),
        "is for Armv7E-M with hard floats, the target is Armv7E-M with hard floats, which has no FPv5 and no double precision",
    ),
    "DSP instructions": (
        of("cortex-m4-soft"),
        of("cortex-m33-soft", *NO_DSP),
        "is for Armv7E-M with soft floats, the target is Armv8-M.main with soft floats, which has no DSP instructions",
    ),
    "vectors": (
        of("cortex-m55"),
        of("cortex-m55", "-mcpu=cortex-m55+nomve"),
        (
            "is for Armv8.1-M.main with hard floats, the target is Armv8.1-M.main with hard floats, which has no vectors and "
            "no vectors of floats"
        ),
    ),
    "profile": (
        facts(compiled("arm-none-eabi-gcc", "-mcpu=cortex-a9", "-mfloat-abi=soft")),
        of("cortex-m4-soft"),
        "is for Armv7-A with soft floats, the target is Armv7E-M with soft floats",
    ),
    "other profile": (
        facts(compiled("arm-none-eabi-gcc", "-mcpu=cortex-r4", "-mfloat-abi=soft")),
        facts(compiled("arm-none-eabi-gcc", "-mcpu=cortex-a9", "-mfloat-abi=soft")),
        "is for Armv7-R with soft floats, the target is Armv7-A with soft floats",
    ),
    "classic": (
        facts(compiled("arm-none-eabi-gcc", "-mcpu=arm7tdmi")),
        of("cortex-m3"),
        "is for Armv4T with soft floats, the target is Armv7-M with soft floats",
    ),
    "extension and floats": (
        of("rv32imafc"), of("rv32imac"), "is for rv32imafc with single floats, the target is rv32imac with soft floats",
    ),
    "extension": (
        of("rv32imac", "-march=rv32imac_zba"),
        of("rv32imac"),
        "is for rv32imac_zba with soft floats, the target is rv32imac with soft floats",
    ),
    "missing letter": (
        of("rv32imac"),
        of("rv32imac", "-march=rv32im"),
        "is for rv32imac with soft floats, the target is rv32im with soft floats",
    ),
    "fewer registers": (
        of("rv32imac", "-march=rv32ec", "-mabi=ilp32e"),
        of("rv32imac"),
        "is for rv32ec with soft floats, the target is rv32imac with soft floats",
    ),
    "more registers": (
        of("rv32imac", "-march=rv32ic"),
        of("rv32imac", "-march=rv32ec", "-mabi=ilp32e"),
        "is for rv32ic with soft floats, the target is rv32ec with soft floats",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SENTENCES)
def test_what_does_not_fit_is_said_with_both_facts(name: str) -> None:
    item, target, sentence = SENTENCES[name]

    assert incompatibility(item, target) == sentence


FITS = {
    "older A profile": (("arm-none-eabi-gcc", "-mcpu=arm926ej-s"), ("arm-none-eabi-gcc", "-mcpu=cortex-a7")),
    "base of v8-M": (
        ("arm-none-eabi-gcc", "-mcpu=cortex-m23", "-mthumb"),
        ("arm-none-eabi-gcc", "-mcpu=cortex-m33", "-mthumb", "-mfloat-abi=soft"),
    ),
    "floats in hardware": (
        ("arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=soft"),
        ("arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=softfp", "-mfpu=fpv4-sp-d16"),
    ),
    "parts that a newer compiler lists apart": (
        (*ZIG, "-target", "riscv32-freestanding-none", "-mcpu=generic_rv32+m+a+c", "-mabi=ilp32"),
        ("clang", "--target=riscv32-unknown-elf", "-march=rv32imac", "-mabi=ilp32"),
    ),
    "nothing said": (("aarch64-linux-gnu-gcc", "-march=armv8.2-a"), ("aarch64-linux-gnu-gcc",)),
}


@pytest.mark.parametrize("name", FITS)
def test_what_fits_is_not_refused(name: str) -> None:
    item, target = FITS[name]

    assert incompatibility(facts(compiled(*item)), facts(compiled(*target))) is None


MODELS = {
    "dense-llvm-cortex-m4": "cortex-m4",
    "tvm08-dense-llvm-graph-cortex-m4": "cortex-m4",
    "dense-llvm-rv32imac": "rv32imac",
    "tvm08-dense-llvm-graph-rv32imac": "rv32imac",
    "dense-llvm-host": "host",
}


@pytest.mark.parametrize("name", MODELS)
def test_objects_of_real_archives_fit_the_targets_that_they_were_made_for(real_archives: Path, name: str) -> None:
    with open_archive(real_archives / f"{name}.tar") as archive:
        made = [facts(archive.read(member.name)) for member in archive.members if member.name.endswith(".o")]

    fitting = {target for target in TARGETS if all(incompatibility(item, of(target)) is None for item in made)}

    assert len(made) == 2
    assert fitting == {MODELS[name]} | {target for target in TARGETS if MODELS[name] in TAKES.get(target, [])}


def section(name: str, data: bytes, flags: int = 0) -> Section:
    return Section(name=name, data=data, size_bytes=len(data), flags=flags)


def item_of(number: int, *sections: Section, flags: int = 0) -> ElfObject:
    machine = Machine(is_64=False, is_big_endian=False, number=number, flags=flags)
    return ElfObject(label="x.o", machine=machine, sections=list(sections), symbols=no_symbols())


ARM, RISCV = 40, 243


def test_data_alone_fits_any_code() -> None:
    for number, target in ((ARM, "cortex-m4"), (RISCV, "rv32imafc")):
        data = object_facts(item_of(number, section(".rodata", b"1234")))
        assert incompatibility(data, of(target)) is None
        assert incompatibility(of(target), data) is None


def test_code_of_riscv_without_attributes_still_tells_how_it_passes_floats() -> None:
    item = object_facts(item_of(RISCV, section(".text", b"1234", SHF_EXECINSTR), flags=2))

    assert incompatibility(item, of("rv32imafc")) is None
    assert incompatibility(item, of("rv32imac")) == "is for RISC-V with single floats, the target is rv32imac with soft floats"  # fmt: skip


def test_an_object_that_uses_no_floats_passes_none() -> None:
    source = ".cpu cortex-m4\n.thumb\n.text\nnop\n"
    data = toolbox.compile_source(source, toolbox.CORTEX_M3, language="assembler")

    assert object_facts(parse_object(data, "x.o")).float_abi is None
    assert object_abi(parse_object(data, "x.o")) == ("eabi5", "soft")
    assert incompatibility(facts(data), of("cortex-m4")) is None


WHOLE = b"A\x18\0\0\0aeabi\0\x01\x0e\0\0\0\x06\x0d\x07\x4d\x17\x03\x1c\x01"
ATTRIBUTES = {
    "whole": (WHOLE, "Armv7E-M with hard floats"),
    "after another vendor's": (b"A\x0b\0\0\0gnu\0\x01\0\0" + WHOLE[1:], "Armv7E-M with hard floats"),
    "with texts": (
        b"A\x28\0\0\0aeabi\0\x01\x1e\0\0\0\x05M4\0\x43\x32.09\0\x20\x01gnu\0\x06\x0d\x07\x4d\x17\x03\x1c\x01",
        "Armv7E-M with hard floats",
    ),
    "of a number to come": (b"A\x16\0\0\0aeabi\0\x01\x0c\0\0\0\x06\x63\x07\x4d\x17\x03", "Arm architecture 99 with soft floats"),
    "cut in a number": (WHOLE[:-1], "Armv7E-M with soft floats"),
    "cut in a length": (WHOLE[:3], "ARM"),
    "empty": (b"", "ARM"),
    "of another format": (b"B" + WHOLE[1:], "ARM"),
    "of no length": (b"A" + bytes(40), "ARM"),
    "of a section alone": (WHOLE.replace(b"aeabi\0\x01", b"aeabi\0\x02"), "ARM"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_are_read_as_far_as_they_go(name: str) -> None:
    data, text = ATTRIBUTES[name]

    assert str(object_facts(item_of(ARM, section(".ARM.attributes", data)))) == text


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("cortex-m4", ("eabi5", "hard")),
        ("cortex-m4-soft", ("eabi5", "soft")),
        ("rv32imac", ("ilp32", "soft")),
        ("rv32imafc", ("ilp32f", "single")),
        ("rv64", ("lp64", "soft")),
        ("rv64gc", ("lp64d", "double")),
        ("aarch64", (None, None)),
        ("host", (None, None)),
    ],
)
def test_the_procedure_call_standard_of_an_object(target: str, expected: tuple[str | None, str | None]) -> None:
    assert object_abi(parse_object(made_by("gcc", target), "code.o")) == expected
