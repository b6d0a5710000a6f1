"""A library of mlf against the same models linked by hand, judged by GNU `size`: the small version of a benchmark."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import footprint

if TYPE_CHECKING:
    from collections.abc import Sequence

TARGET = "cortex-m4"
# At most 20 instructions, which the guard adds to a call, of four bytes, which the longest of a Cortex-M4 have.
GUARD_BYTES = 20 * 4
# The allocator also refuses what is larger than a register says, and to free what it never gave; either sets a flag, for
# which it loads the address of the state: 15 instructions of four bytes.
ALLOCATOR_BYTES = 15 * 4
# struct mlf_arena: whether a run has the arena, whether it asked for too much, and how much is in use. The last is all that
# an allocator made by hand remembers.
STATE_BYTES = 3 * 4
OWN_STATE_BYTES = 4
C_LIBRARY_BYTES = 8  # what its mathematics keeps in RAM
# A descriptor is a number of words long in the image.
WORD_BYTES = 4
FOUR = ("conv-alloc", "conv-usmp", "lstm-usmp", "residual-alloc")


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> footprint.Bench:
    return footprint.Bench(TARGET, tmp_path_factory.mktemp("footprint"))


def compare(bench: footprint.Bench, archives: Path, cases: Sequence[str]) -> footprint.Comparison:
    return bench.compare({case.replace("-", "_"): archives / f"{case}.tar" for case in cases})


def descriptor_bytes(comparison: footprint.Comparison) -> int:
    sizes = [model["descriptor_bytes"] for model in comparison.document["models"]]
    return sum(-(-size // WORD_BYTES) * WORD_BYTES for size in sizes)


@pytest.mark.parametrize(
    ("case", "code_bytes", "state_bytes"),
    [
        ("conv-alloc", GUARD_BYTES + ALLOCATOR_BYTES, STATE_BYTES - OWN_STATE_BYTES),
        ("residual-usmp", GUARD_BYTES, STATE_BYTES),
        ("conv-cpool", GUARD_BYTES, STATE_BYTES),
        ("conv-pools", 0, 0),
    ],
)
def test_a_model_alone_takes_no_more_than_by_hand_but_descriptor_and_guard(
    bench: footprint.Bench, real_archives: Path, case: str, code_bytes: int, state_bytes: int
) -> None:
    found = compare(bench, real_archives, [case])
    hand, mlf = found.hand.sizes, found.mlf.sizes
    assert hand.flash_bytes < mlf.flash_bytes <= hand.flash_bytes + descriptor_bytes(found) + code_bytes
    assert mlf.ram_bytes == hand.ram_bytes + state_bytes


def test_what_mlf_adds_is_told_apart(bench: footprint.Bench, real_archives: Path) -> None:
    found = compare(bench, real_archives, ["residual-usmp"])
    assert found.added.descriptor_bytes == descriptor_bytes(found)
    assert 0 < found.added.guard_bytes <= GUARD_BYTES
    assert found.added.check_bytes == 0
    assert found.added.state_bytes == STATE_BYTES
    assert found.rest == footprint.Sizes(flash_bytes=0, ram_bytes=0)


def test_packed_arguments_cost_one_check_for_all_models(bench: footprint.Bench, real_archives: Path) -> None:
    one = compare(bench, real_archives, ["dense-packed"])
    two = compare(bench, real_archives, ["dense-packed", "keyword-packed"])
    judge = one.mlf.total("mlf_check_arguments_1")
    assert judge > 0
    assert two.mlf.total("mlf_check_arguments_1") == judge
    assert one.is_kept
    assert two.is_kept


def test_four_models_one_after_another_need_the_memory_of_the_largest(
    bench: footprint.Bench, real_archives: Path
) -> None:
    found = compare(bench, real_archives, FOUR)
    needs = [model["arena"]["size_bytes"] for model in found.document["models"]]
    largest, mlf = max(needs), found.mlf.sizes.ram_bytes
    assert sum(needs) > 2 * largest
    assert largest + STATE_BYTES <= mlf <= largest + STATE_BYTES + C_LIBRARY_BYTES
    assert mlf < found.hand.sizes.ram_bytes < found.apart.sizes.ram_bytes


def test_equal_weights_of_two_models_are_in_flash_once(bench: footprint.Bench, real_archives: Path) -> None:
    found = compare(bench, real_archives, ["conv-alloc", "tvm09-conv-alloc"])
    saved = sum(group["saved_bytes"] for group in found.document["folded"])
    assert saved > 1000
    assert found.more.flash_bytes < -saved // 2


def test_sections_count_by_their_names() -> None:
    table = (
        "image  :\nsection    size    addr\n.text      100   32768\n.rodata.tvm 20   40000\n.data        8   50000\n"
        ".bss        64   60000\n.comment    18       0\nTotal      210\n"
    )
    assert footprint.section_sizes(table) == footprint.Sizes(flash_bytes=128, ram_bytes=72)
