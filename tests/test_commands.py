"""The commands around the format, as a person types them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from archives import RELEASES, Network, members, write

from mlf.archive import open_archive
from mlf.reading import read_contents

ROOT = Path(__file__).parent.parent
SOURCE = """#include "net.h"
static const float weight[4] = {1, 2, 3, 4};
void net_predict(const float x[1][4], float y[1][2]) {
  y[0][0] = x[0][0] * weight[0] + x[0][1] * weight[1];
  y[0][1] = x[0][2] * weight[2] + x[0][3] * weight[3];
}
"""
HEADER = "void net_predict(const float x[1][4], float y[1][2]);\n"


class Desk:
    """A folder in which mlf is called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mlf(self, *arguments: str | Path, **environment: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error."""
        done = subprocess.run(
            [sys.executable, "-m", "mlf", *map(str, arguments)],
            cwd=self.folder, capture_output=True, text=True, check=False,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment},
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def good(self, *arguments: str | Path, **environment: str) -> str:
        status, printed, complaints = self.mlf(*arguments, **environment)
        assert (status, complaints) == (0, "")
        return printed


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    for name in ("tone", "glyph", "motor"):
        for suffix in (".tar", ".inputs.npz", ".outputs.npz"):
            shutil.copy(ROOT / "samples" / f"{name}{suffix}", tmp_path)
    net = tmp_path / "net"
    net.mkdir()
    (net / "net.c").write_text(SOURCE)
    (net / "net.h").write_text(HEADER)
    np.savez(tmp_path / "in.npz", x=np.array([[1, 2, 3, 4]], np.float32))
    np.savez(tmp_path / "out.npz", y=np.array([[5, 25]], np.float32))
    np.savez(tmp_path / "wrong.npz", y=np.array([[5, 26]], np.float32))
    return Desk(tmp_path)


# validate


def test_good_archives_are_good(desk: Desk) -> None:
    assert desk.good("validate", "tone.tar", "glyph.tar", "motor.tar") == (
        "tone.tar: version 7, good\nglyph.tar: version 7, good\nmotor.tar: version 7, good\n3 archives, 0 bad\n"
    )


def test_a_bad_archive_is_told_and_the_status_is_one(desk: Desk) -> None:
    desk.good("convert", "tone.tar", "-o", "new.tar")
    data = bytearray((desk.folder / "new.tar").read_bytes())
    place = data.index(b"\nTVM_DLL int32_t")
    data[place : place + 1] = b" "
    (desk.folder / "new.tar").write_bytes(data)
    status, printed, complaints = desk.mlf("validate", "tone.tar", "new.tar")

    assert (status, complaints) == (1, "")
    first, second, finding, last = printed.splitlines()
    assert (first, second, last) == ("tone.tar: version 7, good", "new.tar: version 8, bad", "2 archives, 1 bad")
    assert finding.startswith("  error[member-digest] codegen/host/src/default_lib")


def test_strict_makes_warnings_count(desk: Desk) -> None:
    write(desk.folder / "garbled.tar", members(Network(release=RELEASES["0.11.1"])))

    assert desk.mlf("validate", "garbled.tar")[0] == 0
    status, printed, _ = desk.mlf("validate", "garbled.tar", "--strict", "--json")
    document = json.loads(printed)
    assert status == 1
    assert (document["is_good"], document["archives"][0]["is_good"]) == (False, False)
    assert {item["code"] for item in document["archives"][0]["findings"]} == {"macro-size", "tensor-names"}


def test_a_missing_archive_does_not_hide_the_others(desk: Desk) -> None:
    status, printed, _ = desk.mlf("validate", "missing.tar", "tone.tar", "-j", "2")

    assert status == 1
    assert printed.startswith("missing.tar: bad\n")
    assert "tone.tar: version 7, good\n" in printed


# convert


def test_convert_goes_to_the_latest_version_unless_told(desk: Desk) -> None:
    printed = desk.good("convert", "motor.tar", "-o", "new.tar")

    assert printed.startswith("new.tar: version 8, from version 7 of motor.tar\n  identity  sha256:")
    assert "  inferred  default: order of inputs: vibration, current; metadata.json sorts them\n" in printed
    assert read_contents(desk.folder / "new.tar").version == 8


def test_convert_of_one_module(desk: Desk) -> None:
    write(desk.folder / "two.tar", members(Network(model="one"), Network(model="two")))

    assert desk.mlf("convert", "two.tar", "--to", "6", "-o", "old.tar") == (
        1,
        "",
        "error: two.tar: has 2 modules (`one`, `two`); version 6 can hold one\nhint: convert one of them: `two.tar:one`\n",
    )
    assert desk.good("convert", "two.tar:two", "--to", "6", "-o", "old.tar").startswith("old.tar: version 6, ")


def test_the_date_of_members_is_that_of_the_build(desk: Desk) -> None:
    desk.good("convert", "tone.tar", "-o", "a.tar", SOURCE_DATE_EPOCH="1700000000")
    desk.good("convert", "tone.tar", "-o", "b.tar")
    listed = subprocess.run(["tar", "-tvf", "a.tar"], cwd=desk.folder, capture_output=True, text=True, check=True)

    assert listed.stdout.count(" 2023-11-1") == listed.stdout.count("\n")
    identities = {read_contents(desk.folder / name).identity for name in ("a.tar", "b.tar")}
    assert len(identities) == 1
    assert desk.mlf("convert", "tone.tar", "-o", "c.tar", SOURCE_DATE_EPOCH="today") == (
        2,
        "",
        "error: SOURCE_DATE_EPOCH is `today`, expected a number of seconds\n",
    )


# export, and run --check


def test_code_is_described_exported_linked_and_checked(desk: Desk) -> None:
    assert desk.good("export", "--init", "net") == (
        "net/description.toml: look through it, fill in what is marked, then `mlf export net -o model.tar`\n"
    )
    desk.good("export", "net", "-o", "net.tar", "--golden", "in.npz", "out.npz", "--name", "sum")
    assert desk.good("validate", "--strict", "net.tar") == "net.tar: version 8, good\n"
    assert desk.good("run", "net.tar", "--check") == (
        "sum on host, test golden1: passed (rtol 1e-05, atol 1e-06)\n  y  largest deviation 0\n"
    )
    assert "tone" in desk.good("link", "net.tar", "tone=tone.tar", "-o", "build/libmodels.a")
    assert json.loads(desk.good("run", "net.tar", "--inputs", "in.npz", "--json"))["outputs"][0]["values"] == [5, 25]


def test_a_description_is_not_overwritten(desk: Desk) -> None:
    desk.good("export", "--init", "net")

    assert desk.mlf("export", "--init", "net") == (
        2,
        "",
        "error: net/description.toml: is there already\nhint: remove it to have it written again\n",
    )


def test_golden_data_is_added_to_an_archive_and_a_deviation_fails(desk: Desk) -> None:
    desk.good("export", "net", "-o", "net.tar", "--golden", "in.npz", "out.npz")
    desk.good("export", "net.tar", "-o", "net.tar", "--golden", "in.npz", "wrong.npz")
    status, printed, complaints = desk.mlf("run", "net.tar", "--check")

    assert (status, complaints) == (1, "")
    assert printed.splitlines()[2:] == [
        "net_predict on host, test golden2: FAILED (rtol 1e-05, atol 1e-06)",
        "  y  largest deviation 1, 1 of 2 too far",
    ]


def test_a_wider_tolerance_passes(desk: Desk) -> None:
    desk.good("export", "net", "-o", "net.tar", "--golden", "in.npz", "wrong.npz", "--atol", "1.5")

    document = json.loads(desk.good("run", "net.tar", "--check", "--json"))
    assert (document["is_passed"], document["tests"][0]["atol"]) == (True, 1.5)


def test_golden_data_of_the_samples_is_replayed_on_a_board(desk: Desk) -> None:
    for name in ("tone", "motor"):
        golden = ("--golden", f"{name}.inputs.npz", f"{name}.outputs.npz")
        desk.good("export", f"{name}.tar", "-o", "checked.tar", *golden)

        printed = desk.good("run", "checked.tar", "--check", "--target", "cortex-m4")
        assert printed.startswith("default on cortex-m4, test golden1: passed")


def test_an_archive_without_golden_data_says_so(desk: Desk) -> None:
    assert desk.mlf("run", "tone.tar", "--check") == (
        1,
        "",
        (
            "error: tone.tar: module `default` has no golden tests\n"
            "hint: put some in: `mlf export ARCHIVE -o OUT --golden IN.npz OUT.npz`\n"
        ),
    )


def test_check_takes_nothing_else(desk: Desk) -> None:
    status, _, complaints = desk.mlf("run", "tone.tar", "--check", "--inputs", "in.npz")

    assert (status, complaints) == (2, "error: tone.tar: --check takes its inputs and outputs from the archive\n")


def test_export_packs_the_current_directory(desk: Desk) -> None:
    unpacked = desk.folder / "unpacked"
    unpacked.mkdir()
    subprocess.run(["tar", "-xf", desk.folder / "glyph.tar"], cwd=unpacked, check=True)
    inside = Desk(unpacked)
    inside.good("export", "model.tar")
    first = (unpacked / "model.tar").read_bytes()
    inside.good("export", "model.tar")

    assert (unpacked / "model.tar").read_bytes() == first
    with open_archive(unpacked / "model.tar") as archive:
        assert "model.tar" not in archive
    assert desk.mlf("diff", "unpacked/model.tar", "glyph.tar")[1].startswith("model.tar -> glyph.tar: 1 change\n")


def test_export_needs_to_know_where_to(desk: Desk) -> None:
    assert desk.mlf("export", "net") == (
        2,
        "",
        "error: net is what to pack; where should the archive go?\nhint: say where: `mlf export net -o model.tar`\n",
    )


# diff


def test_diff_of_equal_archives(desk: Desk) -> None:
    desk.good("convert", "tone.tar", "-o", "new.tar.zst")
    desk.good("convert", "new.tar.zst", "--to", "7", "-o", "again.tar")

    assert desk.mlf("diff", "tone.tar", "again.tar")[0] == 0
    status, printed, _ = desk.mlf("diff", "tone.tar", "new.tar.zst")
    assert (status, printed.splitlines()[0]) == (1, "tone.tar -> new.tar.zst: 1 change")


def test_diff_finds_the_one_weight_that_changed(desk: Desk) -> None:
    with open_archive(desk.folder / "motor.tar") as archive:
        content = {member.name: archive.read(member.name) for member in archive.members}
    name = "codegen/host/src/default_lib1.c"
    text = content[name].decode()
    head, brace, rest = text.partition("fused_constant[")[0], *text.partition("fused_constant[")[1:]
    number = rest.index("{") + 1
    content[name] = (head + brace + rest[:number] + " 1," + rest[rest.index(",", number) + 1 :]).encode()
    write(desk.folder / "changed.tar", content)
    status, printed, _ = desk.mlf("diff", "motor.tar", "changed.tar", "--json")

    changes = json.loads(printed)["changes"]
    assert status == 1
    assert [(change["kind"], change["place"]) for change in changes] == [("weights-changed", "fused_constant")]


def test_start_up_imports_no_more_than_it_needs() -> None:
    program = "import sys; from mlf import cli; print(sorted(name for name in sys.modules if name.startswith('mlf')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "['mlf', 'mlf.cli', 'mlf.errors']\n"
