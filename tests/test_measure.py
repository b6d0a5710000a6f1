"""What a model allocates, measured where neither its code nor its metadata can be trusted."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

import mlf
from mlf.errors import LinkError

if TYPE_CHECKING:
    from pathlib import Path


def arena(plan_of: object) -> tuple[int, str]:
    (model,) = plan_of.models  # type: ignore[attr-defined]
    return model.need.allocator_bytes, model.need.source


@pytest.mark.parametrize(
    ("name", "target", "measured"),
    [("dense-llvm-host", "host", 64), ("int8-llvm-cortex-m4", "cortex-m4", 2704), ("dense-llvm-rv32imac", "rv32imac", 32)],
)  # fmt: skip
def test_what_objects_allocate_is_measured(real_archives: Path, name: str, target: str, measured: int) -> None:
    plan = mlf.plan_link({"a": real_archives / f"{name}.tar"}, target=target)

    assert arena(plan) == (measured, "measured")


def test_metadata_is_believed_where_the_target_cannot_run(real_archives: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.which
    monkeypatch.setattr("mlf.measure.shutil.which", lambda name: None if "qemu" in name else real(name))

    plan = mlf.plan_link({"a": real_archives / "dense-llvm-cortex-m4.tar"}, target="cortex-m4")

    assert arena(plan) == (48, "metadata")


def test_what_nothing_tells_and_what_cannot_be_measured_is_refused(
    real_archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which
    monkeypatch.setattr("mlf.measure.shutil.which", lambda name: None if "qemu" in name else real(name))

    with pytest.raises(LinkError) as failure:
        mlf.plan_link([f"a={real_archives / 'operator-llvm-cortex-m4.tar'}:subtract_and_sum"], target="cortex-m4")

    assert str(failure.value) == (
        "operator-llvm-cortex-m4.tar: nothing tells how much memory TVMBackendAllocWorkspace must serve"
    )
    assert failure.value.hint == "it can be measured where the target can run: install its emulator"


def test_code_is_believed_and_nothing_is_run(real_archives: Path, tmp_path: Path) -> None:
    library = mlf.link({"a": real_archives / "conv-alloc.tar"}, output=tmp_path / "libmodels.a")
    document = json.loads((tmp_path / "libmodels.json").read_text())

    assert document == library.document
    assert document["models"][0]["arena"]["allocator"] == {"offset_bytes": 0, "size_bytes": 15072, "source": "code"}
