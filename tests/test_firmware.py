"""Models in firmware: found in real images of every form, and told by the command."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import toolbox
from descriptors import BYTES, KWS, VWW, descriptors, tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from toolbox import AARCH64, ARM_BIG, CORTEX_M3, HOST, MIPS, RV32, Target

from mlf import api
from mlf.descriptor import MAGIC, ModelDescriptor, encode
from mlf.errors import ArchiveError, InputError, ObjectError
from mlf.firmware import Firmware, Place, read_firmware
from mlf.report import firmware_document, firmware_text

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "schemas" / "firmware-v1.schema.json").read_text())


def firmware(path: Path) -> Firmware:
    found = read_firmware(path)
    assert found is not None
    return found


def places_by_name(found: Firmware) -> dict[str, list[Place]]:
    return {model.descriptor.name: list(model.places) for model in found.models}


# Real images


def source_of(*models: ModelDescriptor) -> str:
    """C with the descriptors as arrays that a program keeps, and a main function that reads them."""
    arrays, reads = [], []
    for model in models:
        numbers = ",".join(str(byte) for byte in encode(model))
        arrays.append(f"const unsigned char flash_{model.name}[] = {{{numbers}}};")
        reads.append(f"*(const volatile unsigned char*)flash_{model.name}")
    return "\n".join([*arrays, f"int main(void) {{ return {' + '.join(reads)}; }}\n"])


def linked(target: Target, folder: Path, *models: ModelDescriptor) -> Path:
    program = folder / "firmware.elf"
    return toolbox.link([toolbox.compile_c(source_of(*models), target)], target, program)


def objcopy(target: Target, form: str, program: Path) -> Path:
    output = program.with_suffix(f".{form}")
    toolbox.run([f"{target.prefix}objcopy", "-O", form, program, output])
    return output


MACHINES = {
    HOST: "64-bit little-endian x86-64",
    CORTEX_M3: "32-bit little-endian ARM",
    RV32: "32-bit little-endian RISC-V",
    AARCH64: "64-bit little-endian AArch64",
    MIPS: "32-bit big-endian MIPS",
    ARM_BIG: "32-bit big-endian ARM",
}


@pytest.mark.parametrize("target", MACHINES, ids=lambda target: target.name)
def test_models_are_found_in_an_elf_file_at_the_addresses_of_their_symbols(tmp_path: Path, target: Target) -> None:
    program = linked(target, tmp_path, VWW, KWS)
    addresses = {
        symbol.name: symbol["st_value"] for symbol in toolbox.symbol_table(program.read_bytes()).iter_symbols()
    }

    found = firmware(program)

    assert (found.label, found.form, found.machine, found.faults) == ("firmware.elf", "elf", MACHINES[target], ())
    assert [model.descriptor for model in found.models] == [KWS, VWW]
    for model in found.models:
        (place,) = model.places
        assert place.address == addresses[f"flash_{model.descriptor.name}"]
        assert place.offset is not None
        assert program.read_bytes()[place.offset :].startswith(encode(model.descriptor))


def test_addresses_need_neither_symbols_nor_section_headers(tmp_path: Path) -> None:
    program = linked(CORTEX_M3, tmp_path, KWS)
    expected = places_by_name(firmware(program))
    data = bytearray(program.read_bytes())
    data[32:36], data[46:52] = bytes(4), bytes(6)  # e_shoff; e_shentsize, e_shnum, e_shstrndx
    program.write_bytes(data)

    assert toolbox.ask("arm-none-eabi-readelf", bytes(data), "-SW") == "\nThere are no sections in this file.\n"
    assert places_by_name(firmware(program)) == expected


def test_a_descriptor_that_start_up_code_copies_has_the_address_that_it_has_then(tmp_path: Path) -> None:
    source = source_of(KWS).replace("const unsigned char flash", "unsigned char flash")
    program = toolbox.link([toolbox.compile_c(source, CORTEX_M3)], CORTEX_M3, tmp_path / "firmware.elf")
    symbols = toolbox.symbol_table(program.read_bytes()).iter_symbols()
    (address,) = [symbol["st_value"] for symbol in symbols if symbol.name == "flash_kws"]

    (place,) = places_by_name(firmware(program))["kws"]

    assert address >= 0x2000_0000
    assert place.address == address


@pytest.mark.parametrize("target", [HOST, CORTEX_M3, RV32, MIPS], ids=lambda target: target.name)
def test_models_are_found_in_a_dump_of_flash(tmp_path: Path, target: Target) -> None:
    found = firmware(objcopy(target, "binary", linked(target, tmp_path, VWW, KWS)))

    assert (found.form, found.machine, found.faults) == ("raw", None, ())
    assert [model.descriptor for model in found.models] == [KWS, VWW]
    assert [place.address for model in found.models for place in model.places] == [None, None]


@pytest.mark.parametrize("target", [CORTEX_M3, RV32, MIPS], ids=lambda target: target.name)
def test_models_are_found_in_intel_hex_at_the_addresses_that_the_elf_file_has(tmp_path: Path, target: Target) -> None:
    program = linked(target, tmp_path, VWW, KWS)

    found = firmware(objcopy(target, "ihex", program))

    assert (found.form, found.machine, found.faults) == ("ihex", None, ())
    addresses = {
        name: [Place(offset=None, address=place.address) for place in places]
        for name, places in places_by_name(firmware(program)).items()
    }
    assert places_by_name(found) == addresses


def test_a_model_is_found_in_an_object_and_a_library_of_objects(tmp_path: Path) -> None:
    names = []
    for model in (KWS, VWW):
        (tmp_path / f"{model.name}.o").write_bytes(toolbox.compile_c(source_of(model), CORTEX_M3))
        names.append(f"{model.name}.o")
    toolbox.run(["arm-none-eabi-ar", "rcs", "libmodels.a", *names], cwd=tmp_path)
    library = (tmp_path / "libmodels.a").read_bytes()

    found = firmware(tmp_path / "libmodels.a")

    assert (found.form, found.machine, found.faults) == ("ar", None, ())
    assert places_by_name(found) == {
        model.name: [Place(offset=library.index(encode(model)), address=None)] for model in (KWS, VWW)
    }
    (alone,) = firmware(tmp_path / "kws.o").models
    assert alone.descriptor == KWS
    assert [place.address for place in alone.places] == [None]


def test_copies_of_one_descriptor_are_one_model_and_two_versions_of_a_model_are_two(tmp_path: Path) -> None:
    newer = replace(KWS, identity="sha256:" + "f" * 64)
    image = tmp_path / "flash.bin"
    image.write_bytes(BYTES + encode(newer) + b"\0" * 7 + BYTES)

    found = firmware(image)

    assert [model.descriptor for model in found.models] == [KWS, newer]
    assert [[place.offset for place in model.places] for model in found.models] == [
        [0, 2 * len(BYTES) + 7],
        [len(BYTES)],
    ]


def test_what_an_elf_file_does_not_load_has_no_address(tmp_path: Path) -> None:
    program = linked(CORTEX_M3, tmp_path, KWS)
    (tmp_path / "note").write_bytes(encode(VWW))
    toolbox.run(["arm-none-eabi-objcopy", "--add-section", f".note.vww={tmp_path / 'note'}", program])

    found = places_by_name(firmware(program))

    assert [place.address is None for place in found["kws"]] == [False]
    assert [place.address is None for place in found["vww"]] == [True]


@pytest.mark.parametrize("target", [HOST, CORTEX_M3], ids=lambda target: target.name)
def test_a_damaged_elf_header_costs_addresses_alone(tmp_path: Path, target: Target) -> None:
    program = linked(target, tmp_path, KWS)
    data = program.read_bytes()
    chance = random.Random(5)  # noqa: S311  # no secret
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(chance.randrange(1, 8)):
            damaged[chance.randrange(4, 512)] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        program.write_bytes(damaged)

        assert [model.descriptor for model in firmware(program).models] == [KWS]


@pytest.mark.parametrize("length", [4, 5, 16, 20, 43, 51])
def test_an_elf_file_that_is_cut_off_is_firmware_without_models(tmp_path: Path, length: int) -> None:
    program = linked(CORTEX_M3, tmp_path, KWS)
    program.write_bytes(program.read_bytes()[:length])

    assert firmware(program) == Firmware(
        label="firmware.elf", form="elf", models=(), faults=(),
        machine="32-bit little-endian ARM" if length > 46 else None,
    )  # fmt: skip


# Intel HEX


def record(kind: int, offset: int, content: bytes) -> str:
    body = bytes([len(content)]) + offset.to_bytes(2, "big") + bytes([kind]) + content
    return f":{body.hex()}{-sum(body) & 0xFF:02X}"


END = record(1, 0, b"")


def hex_lines(data: bytes, offset: int = 0) -> list[str]:
    return [record(0, offset + start, data[start : start + 16]) for start in range(0, len(data), 16)]


def hex_file(folder: Path, *lines: str, end: str = "\n") -> Path:
    path = folder / "flash.hex"
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def addresses(found: Firmware) -> list[int | None]:
    return [place.address for model in found.models for place in model.places]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("spelling", [str.upper, str.lower])
def test_lines_of_intel_hex_may_end_and_be_spelled_either_way(
    tmp_path: Path, end: str, spelling: Callable[[str], str]
) -> None:
    lines = [spelling(line) for line in [*hex_lines(BYTES, 0x120), END]]

    assert addresses(firmware(hex_file(tmp_path, *lines, end=end))) == [0x120]


def test_records_of_intel_hex_may_come_in_any_order(tmp_path: Path) -> None:
    lines = hex_lines(BYTES, 0x40)

    assert addresses(firmware(hex_file(tmp_path, *reversed(lines), END))) == [0x40]


@pytest.mark.parametrize(
    ("extension", "address"),
    [(record(4, 0, b"\x08\x01"), 0x0801_0010), (record(2, 0, b"\x10\x01"), 0x1_0020)],
)
def test_a_base_address_of_either_kind_counts(tmp_path: Path, extension: str, address: int) -> None:
    assert addresses(firmware(hex_file(tmp_path, extension, *hex_lines(BYTES, 0x10), END))) == [address]


def test_a_descriptor_across_two_base_addresses_is_whole(tmp_path: Path) -> None:
    lines = [
        record(4, 0, b"\x08\x00"),
        *hex_lines(BYTES[:48], 0xFFD0),
        record(4, 0, b"\x08\x01"),
        *hex_lines(BYTES[48:]),
    ]

    assert addresses(firmware(hex_file(tmp_path, *lines, END))) == [0x0800_FFD0]


def test_pieces_that_do_not_touch_hold_no_descriptor_together(tmp_path: Path) -> None:
    found = firmware(hex_file(tmp_path, *hex_lines(BYTES[:48]), *hex_lines(BYTES[48:], 0x100), END))

    assert found.models == ()
    assert [(fault.place.address, fault.text) for fault in found.faults] == [(0, "is cut off after 48 of 112 bytes")]


def test_start_addresses_are_skipped_and_nothing_counts_behind_the_end(tmp_path: Path) -> None:
    start = record(5, 0, b"\x08\0\0\1")

    assert addresses(firmware(hex_file(tmp_path, start, *hex_lines(BYTES), END, *hex_lines(BYTES, 0x400)))) == [0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*hex_lines(BYTES)], "flash.hex: is cut off: it has no Intel HEX record that ends it"),
        ([END[:-2] + "FE", END], None),
        ([*hex_lines(BYTES)[:2], ":00000001FE"], "flash.hex: line 3 is not a sound Intel HEX record"),
        ([*hex_lines(BYTES)[:2], "words"], "flash.hex: line 3 is not a sound Intel HEX record"),
        ([*hex_lines(BYTES)[:2], ":"], "flash.hex: line 3 is not a sound Intel HEX record"),
        ([*hex_lines(BYTES)[:2], ":0g"], "flash.hex: line 3 is not a sound Intel HEX record"),
        ([*hex_lines(BYTES)[:2], END.replace(":", ": ")], "flash.hex: line 3 is not a sound Intel HEX record"),
        ([*hex_lines(BYTES)[:2], record(6, 0, b"")], "flash.hex: line 3 is not a sound Intel HEX record"),
        ([*hex_lines(BYTES)[:2], record(4, 0, b"\1")], "flash.hex: line 3 is not a sound Intel HEX record"),
        ([*hex_lines(BYTES)[:2], hex_lines(BYTES)[2][:-4]], "flash.hex: line 3 is not a sound Intel HEX record"),
        ([*hex_lines(BYTES)[:2], ":" + "00" * 600], "flash.hex: line 3 is not a sound Intel HEX record"),
        ([*hex_lines(BYTES)[:2], "\xb2"], "flash.hex: line 3 is not a sound Intel HEX record"),
    ],
)
def test_damaged_intel_hex_is_told_with_its_line(tmp_path: Path, lines: list[str], message: str | None) -> None:
    path = hex_file(tmp_path, *lines)
    if message is None:  # a file whose first line is damaged is no Intel HEX
        assert read_firmware(path) is None
        return

    with pytest.raises(InputError) as caught:
        read_firmware(path)

    assert str(caught.value) == message


def test_intel_hex_of_too_many_pieces_is_refused(tmp_path: Path) -> None:
    one = [record(0, address, b"x") for address in range(0, 0x10000, 2)]
    lines = [line for base in range(4) for line in (record(4, 0, bytes([0, base])), *one)]

    with pytest.raises(InputError) as caught:
        read_firmware(hex_file(tmp_path, *lines, END))

    assert str(caught.value) == "flash.hex: has more than 100000 pieces that do not touch"


# What is no firmware


@pytest.mark.parametrize("content", [b"", b"words", b"PK\5\6", MAGIC[:7], b":", b":\n", b"\x7fEL"])
def test_a_file_without_a_descriptor_is_no_firmware(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)

    assert read_firmware(tmp_path / "file") is None


def test_a_directory_is_no_firmware(tmp_path: Path) -> None:
    assert api.inspect_firmware(tmp_path) is None


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError) as caught:
        api.inspect_firmware(tmp_path / "none.elf")

    assert str(caught.value) == "none.elf: no such file"


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "flash.bin").open("wb") as file:
        file.truncate((512 << 20) + 1)

    with pytest.raises(ArchiveError) as caught:
        read_firmware(tmp_path / "flash.bin")

    assert str(caught.value) == "flash.bin: has 536870913 bytes; at most 536870912 are allowed"


def test_an_archive_that_names_its_members_only_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kws.o").write_bytes(toolbox.compile_c(source_of(KWS), CORTEX_M3))
    toolbox.run(["arm-none-eabi-ar", "rcsT", "libmodels.a", "kws.o"], cwd=tmp_path)

    with pytest.raises(ObjectError) as caught:
        read_firmware(tmp_path / "libmodels.a")

    assert str(caught.value) == "libmodels.a: is a thin archive, which only names its members"


# The command and its document


def mlf(folder: Path, *arguments: str, status: int = 0) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "mlf", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr


def damaged_image(folder: Path) -> Path:
    image = folder / "flash.bin"
    image.write_bytes(b"\xff" * 16 + encode(VWW) + BYTES + BYTES[:20] + BYTES)
    return image


def test_the_command_tells_a_person_of_every_model(tmp_path: Path) -> None:
    damaged_image(tmp_path)
    kws, vww = KWS.identity.removeprefix("sha256:"), VWW.identity.removeprefix("sha256:")
    first, size = 16 + len(encode(VWW)), len(BYTES)

    printed, complaints = mlf(tmp_path, "inspect", "flash.bin")

    assert complaints == ""
    assert (
        printed
        == f"""flash.bin: raw bytes, 2 models

model kws  {kws[:12]}
  identity     sha256:{kws}
  archive      module default, format version 8
  linked by    mlf 0.1.0
  entrypoints  run, tvm_module_main
  inputs       samples  int8  1x490  490 bytes  scale 0.0625, zero point -1
  outputs      scores  int8  1x12  12 bytes  scale 0.00390625, zero point -128
  arena        3072 bytes
  place        offset {first:#x}
               offset {first + size + 20:#x}

model vww  {vww[:12]}
  identity     sha256:{vww}
  archive      module person detect, format version 7
  linked by    mlf 0.1.0
  entrypoints  run, tvm_module_main, map_inputs, map_outputs, get_c_metadata
  inputs       camera:0  uint8    1x96x96x3  27648 bytes
               gain      float32  scalar     4 bytes
  outputs      person  bool  ?  unknown
               box     ?     4  16 bytes
  arena        unknown
  place        offset 0x10

descriptor at offset {first + size:#x} is damaged: its CRC-32 is {zlib.crc32((BYTES[:20] + BYTES)[: size - 4]):08x}, expected {int.from_bytes((BYTES[:20] + BYTES)[size - 4 : size], "little"):08x}
"""
    )


def test_names_in_flash_cannot_begin_a_line(tmp_path: Path) -> None:
    image = tmp_path / "flash.bin"
    image.write_bytes(encode(replace(KWS, name="a\nmodel b", inputs=(tensor("\x1b[31m", "int8", None, None),))))

    text = firmware_text(firmware(image))

    assert "model a\\nmodel b  6fa0db6c697d\n" in text
    assert "inputs       \\x1b[31m  int8  ?  unknown\n" in text


def test_an_elf_file_without_models_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "empty.o").write_bytes(toolbox.compile_c("int main(void) { return 0; }", CORTEX_M3))

    assert mlf(tmp_path, "inspect", "empty.o") == (
        "empty.o: ELF, 32-bit little-endian ARM, no descriptor of a model\n",
        "",
    )


@settings(deadline=None)
@given(st.lists(descriptors, max_size=3), st.sampled_from([b"", b"!<arch>\n", b"\x7fELF\1\1", BYTES[:50]]))
def test_the_document_of_any_image_is_what_its_schema_says(
    tmp_path_factory: pytest.TempPathFactory, models: list[ModelDescriptor], start: bytes
) -> None:
    image = tmp_path_factory.getbasetemp() / "image.bin"
    image.write_bytes(start + BYTES + b"".join(map(encode, models)))

    document = firmware_document(firmware(image))

    again = json.loads(json.dumps(document, allow_nan=False))
    assert list(Draft202012Validator(SCHEMA).iter_errors(again)) == []


def test_the_printed_document_has_every_copy_and_fault(tmp_path: Path) -> None:
    damaged_image(tmp_path)
    first = 16 + len(encode(VWW))

    document = json.loads(mlf(tmp_path, "inspect", "flash.bin", "--json")[0])

    assert list(Draft202012Validator(SCHEMA).iter_errors(document)) == []
    assert {model["name"]: model["places"] for model in document["models"]} == {
        "kws": [{"address": None, "offset": first}, {"address": None, "offset": first + len(BYTES) + 20}],
        "vww": [{"address": None, "offset": 16}],
    }
    assert [(fault["offset"], fault["address"]) for fault in document["faults"]] == [(first + len(BYTES), None)]


def test_the_command_reads_a_linked_image(tmp_path: Path) -> None:
    program = linked(CORTEX_M3, tmp_path, KWS)
    (place,) = places_by_name(firmware(program))["kws"]

    printed, _ = mlf(tmp_path, "inspect", "firmware.elf")

    assert printed.startswith("firmware.elf: ELF, 32-bit little-endian ARM, 1 model\n\nmodel kws  ")
    assert printed.endswith(f"\n  place        address {place.address:#x}, offset {place.offset:#x}\n")


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("zip", b"PK\5\6" + bytes(18), "zip: is a zip archive, or can be read as one"),
        ("cut.tar", b"metadata.json", "cut.tar: is neither a tar archive nor one compressed with gzip or zstd"),
        ("none", None, "none: no such file"),
        ("folder", b"", "folder: has no metadata.json, so it is no Model Library Format archive"),
        ("cut.gz", b"\x1f\x8b\x08", "cut.gz: is truncated: its compressed data does not end"),
    ],
)
def test_what_is_neither_archive_nor_firmware_fails_as_an_archive(
    tmp_path: Path, name: str, content: bytes | None, error: str
) -> None:
    if name == "folder":
        (tmp_path / name).mkdir()
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ArchiveError) as caught:
        api.inspect(tmp_path / name)

    assert mlf(tmp_path, "inspect", name, status=1) == ("", f"error: {error}\n")
    assert str(caught.value) == error


def test_an_archive_with_a_descriptor_among_its_members_is_an_archive(tmp_path: Path) -> None:
    toolbox.run(["tar", "-xf", ROOT / "samples" / "tone.tar", "-C", tmp_path])
    (tmp_path / "codegen" / "extra.bin").write_bytes(BYTES)

    printed, _ = mlf(tmp_path, "inspect", ".", "--json")

    assert json.loads(printed)["schema"] == "mlf-inspect-v1"
