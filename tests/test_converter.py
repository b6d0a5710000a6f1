from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from archives import RELEASES, STYLES, Network, members, write
from jsonschema import Draft202012Validator

from mlf.archive import METADATA_NAME, open_archive
from mlf.converter import Note, convert
from mlf.descriptor import find
from mlf.errors import MlfError, UnsupportedError, UsageError
from mlf.linker import LinkRequest, link, plan_link
from mlf.metadata import identity_of
from mlf.reading import read_contents
from mlf.toolchain import compiler_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlf.descriptor import ModelDescriptor
    from mlf.library import Library

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "samples"
OPERATOR_METADATA = {
    "version": 7,
    "model_name": "add",
    "export_datetime": "2022-07-01 10:00:00Z",
    "memory": {"scale": [{"size_bytes": 2, "shape": [2], "dtype": "int8", "input_binding": "a"}], "add": []},
    "target": ["c -keys=cpu "],
    "executors": [],
    "style": "operator",
}
OPERATOR_CODE = b"TVM_DLL int32_t add(void* args, int32_t* arg_type_ids) {\n  return 0;\n}\n"


def contents(path: Path) -> dict[str, bytes]:
    with open_archive(path) as archive:
        return {member.name: archive.read(member.name) for member in archive.members}


def written(folder: Path, content: Mapping[str, bytes], name: str = "old.tar") -> Path:
    return write(folder / name, content)


def network(folder: Path, **choice: Any) -> Path:
    """The archive of the small network of `archives.py`."""
    return written(folder, members(Network(**choice)))


def metadata(path: Path) -> dict[str, Any]:
    return dict(json.loads(contents(path)[METADATA_NAME]))


def refusal(source: Path, to: int, **more: Any) -> MlfError:
    with pytest.raises(MlfError) as caught:
        convert(source, to=to, output=source.with_name("refused.tar"), **more)
    assert not source.with_name("refused.tar").exists()
    return caught.value


def round_trip(source: Path, folder: Path) -> tuple[Path, Path]:
    version = metadata(source)["version"]
    convert(source, to=8, output=folder / "new.tar")
    convert(folder / "new.tar", to=version, output=folder / "again.tar")
    return folder / "new.tar", folder / "again.tar"


# There and back.


@pytest.mark.parametrize("name", ["tone", "glyph", "motor"])
def test_version_7_comes_back_from_version_8_with_every_byte(tmp_path: Path, name: str) -> None:
    _, again = round_trip(SAMPLES / f"{name}.tar", tmp_path)

    assert contents(again) == contents(SAMPLES / f"{name}.tar")


def test_archives_of_a_real_compiler_come_back_from_version_8_with_every_byte(
    real_archives: Path, tmp_path: Path
) -> None:
    schema = Draft202012Validator(json.loads((ROOT / "schemas" / "metadata-v8.schema.json").read_text()))
    paths = sorted(real_archives.glob("*.tar"))
    for path in paths:
        new, again = round_trip(path, tmp_path)
        assert contents(again) == contents(path), path.name
        assert [error.message for error in schema.iter_errors(metadata(new))] == [], path.name
    assert len(paths) > 60


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_comes_back_in_its_own_version(tmp_path: Path, release: str) -> None:
    source = network(tmp_path, release=RELEASES[release])
    new, again = round_trip(source, tmp_path)
    before, after = contents(source), contents(again)

    assert {name: data for name, data in after.items() if name != METADATA_NAME} == {
        name: data for name, data in before.items() if name != METADATA_NAME
    }
    assert read_contents(new).version == 8
    assert read_contents(again).version == RELEASES[release].version


def test_metadata_that_no_compiler_wrote_so_comes_back_too(tmp_path: Path) -> None:
    held = contents(SAMPLES / "tone.tar")
    document = json.loads(held[METADATA_NAME])
    held[METADATA_NAME] = json.dumps({"added": 1.5, **document}, separators=(",", ":")).encode()
    source = written(tmp_path, held)
    new, again = round_trip(source, tmp_path)

    assert contents(again) == held
    assert contents(new)["metadata-v7.json"] == held[METADATA_NAME]


def test_an_operator_archive_comes_back_with_its_functions_in_their_order(tmp_path: Path) -> None:
    source = written(
        tmp_path, {METADATA_NAME: json.dumps(OPERATOR_METADATA).encode(), "codegen/host/src/lib1.c": OPERATOR_CODE}
    )
    new, again = round_trip(source, tmp_path)

    assert contents(again) == contents(source)
    (module,) = read_contents(new).modules
    assert (module.style, list(module.metadata.buffers)) == ("operator", ["add", "scale"])


def test_metadata_that_was_changed_in_version_8_does_not_bring_the_old_text_back(tmp_path: Path) -> None:
    source = written(
        tmp_path, {METADATA_NAME: json.dumps(OPERATOR_METADATA).encode(), "codegen/host/src/lib1.c": OPERATOR_CODE}
    )
    convert(source, to=8, output=tmp_path / "new.tar")
    held = contents(tmp_path / "new.tar")
    document = json.loads(held[METADATA_NAME])
    document["modules"]["add"]["target"] = ["llvm"]
    held[METADATA_NAME] = json.dumps(document).encode()
    convert(written(tmp_path, held, "edited.tar"), to=7, output=tmp_path / "again.tar")

    assert metadata(tmp_path / "again.tar")["target"] == ["llvm"]


# What version 8 says.


def test_version_8_describes_every_member_and_has_an_identity_that_its_text_gives(tmp_path: Path) -> None:
    done = convert(SAMPLES / "motor.tar", to=8, output=tmp_path / "new.tar")
    document = metadata(tmp_path / "new.tar")

    paths = [item["path"] for item in document["members"]]
    assert paths == sorted(set(contents(tmp_path / "new.tar")) - {METADATA_NAME})
    assert done.identity == document["identity"] == identity_of(document)
    assert {(item["role"], item["module"]) for item in document["members"]} == {
        ("include", "default"), ("source", "default"), ("parameters", "default"), ("ir", "default"),
    }  # fmt: skip


def test_the_identity_is_that_of_the_content_whatever_the_form(tmp_path: Path) -> None:
    names = ("a.tar", "b.tar.gz", "c.tar.zst")
    done = {convert(SAMPLES / "motor.tar", to=8, output=tmp_path / name, epoch_s=len(name)).identity for name in names}
    other = convert(SAMPLES / "tone.tar", to=8, output=tmp_path / "d.tar").identity

    assert len(done) == 1
    assert {read_contents(tmp_path / name).identity for name in names} == done
    assert other not in done


def test_what_old_metadata_garbles_is_right_in_version_8_and_listed(tmp_path: Path) -> None:
    source = network(tmp_path, release=RELEASES["0.11.1"])
    done = convert(source, to=8, output=tmp_path / "new.tar")
    (module,) = metadata(tmp_path / "new.tar")["modules"].values()

    assert [(item["name"], item["size_bytes"]) for item in module["inputs"]] == [("zeta:0", 32), ("alpha-b", 8)]
    assert [(item["name"], item["size_bytes"]) for item in module["outputs"]] == [("scores", 16), ("hidden", 32)]
    assert Note(kind="inferred", place="default: order of inputs", text="zeta:0, alpha-b; metadata.json sorts them") in done.notes  # fmt: skip
    garbled = [note for note in done.notes if "-1582571184" in note.text]
    assert [note.place for note in garbled] == ["default: inputs.zeta:0 macro"]


def test_an_order_of_tensors_that_nothing_tells_is_noted(tmp_path: Path) -> None:
    source = network(tmp_path, interface="packed", memory="internal")
    done = convert(source, to=8, output=tmp_path / "new.tar")
    (module,) = metadata(tmp_path / "new.tar")["modules"].values()

    assert [item["name"] for item in module["outputs"]] == ["hidden", "scores"]
    assert [note for note in done.notes if "order" in note.place] == [
        Note(kind="inferred", place="default: order of inputs", text="zeta:0, alpha-b; metadata.json sorts them"),
        Note(kind="inferred", place="default: order of outputs", text="hidden, scores, as metadata.json sorts them; nothing tells the true one"),
    ]  # fmt: skip


LINKED = {
    **{memory: {"memory": memory} for memory in ("alloc", "internal", "external")},
    "aot-unpacked": STYLES["aot-unpacked"], "graph": STYLES["graph"],
}  # fmt: skip


# The text of packed operators between two releases is no C.
COMPILED = [(release, style) for style in LINKED for release in RELEASES if (release, style) != ("0.9.dev-v5", "graph")]


@pytest.mark.parametrize(("release", "style"), COMPILED)
def test_a_converted_archive_links_to_a_library_that_differs_in_the_version_that_it_tells(
    tmp_path: Path, release: str, style: str
) -> None:
    source = network(tmp_path, release=RELEASES[release], **LINKED[style])
    convert(source, to=8, output=tmp_path / "new.tar")
    convert(tmp_path / "new.tar", to=7, output=tmp_path / "seven.tar")
    libraries = [linked(path, tmp_path) for path in (source, tmp_path / "new.tar", tmp_path / "seven.tar")]

    versions = [library_version(library) for library in libraries]
    assert versions == [RELEASES[release].version, 8, 7]
    rests = [without_descriptor(library.data) for library in libraries]
    assert rests[0] == rests[1] == rests[2]
    assert libraries[0].headers == libraries[1].headers == libraries[2].headers


def linked(source: Path, folder: Path) -> Library:
    """Link an archive as the model `kws` to a library of always the same name."""
    output = folder / source.stem / "libmodels.a"
    return link(plan_link([LinkRequest(path=source, name="kws")], output=output, compiler=compiler_for("host")))


def library_version(library: Library) -> int:
    """The version of the format that the archive of a library's one model had."""
    (found,) = find(library.data)
    assert found.descriptor
    return found.descriptor.format_version


def without_descriptor(data: bytes) -> tuple[bytes, ModelDescriptor, bytes]:
    """What lies before and behind the one descriptor of a library, and all that this says but its version."""
    (found,) = find(data)
    assert found.descriptor
    same = replace(found.descriptor, format_version=0)
    return data[: found.offset], same, data[found.offset + found.size_bytes :]


# Between the old versions.


def test_version_5_gets_what_later_versions_have(tmp_path: Path) -> None:
    source = network(tmp_path, release=RELEASES["0.8.0"])
    convert(source, to=7, output=tmp_path / "new.tar")
    document = metadata(tmp_path / "new.tar")
    (module,) = document["modules"].values()

    assert set(document) == {"modules", "version"}
    assert module["target"] == ["c -keys=cpu "]
    main = module["memory"]["functions"]["main"][0]
    assert {name: item["size"] for name, item in main["inputs"].items()} == {"zeta:0": 32, "alpha-b": 8}


@pytest.mark.parametrize("to", [6, 5, 4, 3, 2, 1])
def test_older_versions_have_their_keys_and_names(tmp_path: Path, to: int) -> None:
    convert(SAMPLES / "tone.tar", to=to, output=tmp_path / "old.tar")
    document = metadata(tmp_path / "old.tar")
    schema = json.loads((ROOT / "schemas" / f"metadata-v{to}.schema.json").read_text())

    assert [error.message for error in Draft202012Validator(schema).iter_errors(document)] == []
    prefix = "default_" if to >= 3 else ""
    names = {"codegen/host/include/tvmgen_default.h", "parameters/default.params", METADATA_NAME}
    names |= {f"codegen/host/src/{prefix}lib{number}.c" for number in (0, 1)}
    assert set(contents(tmp_path / "old.tar")) == names | {"src/relay.txt" if to >= 4 else "relay.txt"}
    (module,) = read_contents(tmp_path / "old.tar").modules
    assert [tensor.name for tensor in module.inputs] == ["samples"]
    assert module.workspace_bytes == 2192


def test_version_1_gets_its_sizes_back_from_the_code(tmp_path: Path) -> None:
    convert(SAMPLES / "tone.tar", to=1, output=tmp_path / "one.tar")
    done = convert(tmp_path / "one.tar", to=7, output=tmp_path / "seven.tar")
    (module,) = metadata(tmp_path / "seven.tar")["modules"].values()

    main = module["memory"]["functions"]["main"][0]
    assert main["workspace_size_bytes"] == 2192
    assert main["inputs"] == {"samples": {"dtype": "float32", "size": 256}}
    assert [note.kind for note in done.notes if note.place == "default: memory.functions.main"] == ["inferred"]


def test_targets_of_one_device_cannot_all_be_told_before_version_6(tmp_path: Path) -> None:
    held = contents(SAMPLES / "tone.tar")
    document = json.loads(held[METADATA_NAME])
    document["modules"]["default"]["target"] = ["c -keys=cpu", "ethos-u -keys=ethos-u", "cuda"]
    held[METADATA_NAME] = json.dumps(document).encode()
    done = convert(written(tmp_path, held), to=5, output=tmp_path / "five.tar")

    assert metadata(tmp_path / "five.tar")["target"] == {"1": "ethos-u -keys=ethos-u", "2": "cuda"}
    assert done.notes == (
        Note(kind="lost", place="default: target", text="`c -keys=cpu`: version 5 holds one target for device 1"),
    )


# What cannot be done.


def test_two_modules_have_no_place_before_version_7_but_each_has(tmp_path: Path) -> None:
    source = written(tmp_path, members(Network(model="one"), Network(model="two")))
    error = refusal(source, 6)

    assert isinstance(error, UnsupportedError)
    assert str(error) == "old.tar: has 2 modules (`one`, `two`); version 6 can hold one"
    assert error.hint == "convert one of them: `old.tar:one`"
    convert(source, to=6, module="two", output=tmp_path / "two.tar")
    assert metadata(tmp_path / "two.tar")["model_name"] == "two"
    assert not [name for name in contents(tmp_path / "two.tar") if "one" in name]


def test_operators_have_no_place_before_version_4(tmp_path: Path) -> None:
    source = written(
        tmp_path, {METADATA_NAME: json.dumps(OPERATOR_METADATA).encode(), "codegen/host/src/lib1.c": OPERATOR_CODE}
    )

    assert str(refusal(source, 3)) == (
        "old.tar: is an operator-style archive, which version 3 cannot hold; version 4 is the first that can"
    )
    convert(source, to=4, output=tmp_path / "four.tar")
    assert metadata(tmp_path / "four.tar")["runtimes"] == []


def test_a_version_that_does_not_exist(tmp_path: Path) -> None:
    source = network(tmp_path)

    assert isinstance(refusal(source, 9), UsageError)
    assert str(refusal(source, 0)) == "there is no version 0; versions 1 to 8 can be written"


def test_a_module_that_does_not_exist(tmp_path: Path) -> None:
    assert str(refusal(network(tmp_path), 8, module="kws")) == "old.tar: has no module `kws`; it has `default`"


def test_quantization_and_definitions_are_lost_and_listed(tmp_path: Path) -> None:
    convert(SAMPLES / "tone.tar", to=8, output=tmp_path / "new.tar")
    held = contents(tmp_path / "new.tar")
    document = json.loads(held[METADATA_NAME])
    module = document["modules"]["default"]
    module["inputs"][0]["quantization"] = {"scale": 0.5, "zero_point": -3}
    module["code"]["definitions"] = {"FAST": "1"}
    held[METADATA_NAME] = json.dumps(document).encode()
    done = convert(written(tmp_path, held, "edited.tar"), to=7, output=tmp_path / "seven.tar")

    assert done.notes == (
        Note(kind="lost", place="default: inputs.samples: quantization", text="scale 0.5, zero point -3"),
        Note(kind="lost", place="default: code.definitions", text="FAST=1"),
    )
    assert done.identity is None
