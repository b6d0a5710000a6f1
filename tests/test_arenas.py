"""Who shares memory with whom, where it lies, and how the options that say so are read."""

from __future__ import annotations

import re
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlf.arenas import Arena, ArenaNeed, ArenaOptions, Block, Memory, lay_out, plan_arenas
from mlf.errors import LinkError, UsageError
from mlf.linker import LinkOptions, LinkRequest, link, plan_link
from mlf.options import link_options, parse_budget, parse_size
from mlf.toolchain import compiler_for

if TYPE_CHECKING:
    from collections.abc import Sequence

SAMPLES = Path(__file__).parent.parent / "samples"


def need(model: str, size_bytes: int, alignment_bytes: int = 16) -> ArenaNeed:
    return ArenaNeed(model=model, blocks=(), allocator_bytes=size_bytes, alignment_bytes=alignment_bytes, source="code")


def memory(**sizes: int) -> tuple[Memory, ...]:
    return tuple(Memory(name=name, size_bytes=size) for name, size in sizes.items())


def planned(needs: Sequence[ArenaNeed], **options: Any) -> tuple[Arena, ...]:
    return plan_arenas(needs, ArenaOptions(**options), library="libmodels.a")


def shared(arenas: Sequence[Arena]) -> dict[tuple[str, ...], int]:
    return {arena.models: arena.size_bytes for arena in arenas}


def places(arenas: Sequence[Arena]) -> dict[tuple[str, ...], str | None]:
    return {arena.models: arena.memory for arena in arenas}


# What a model needs.


def test_blocks_lie_behind_one_another_the_most_aligned_first() -> None:
    found = lay_out("kws", [("small", 3, 1), ("wide", 70, 32), ("other", 10, 16)], allocator_bytes=100, source="code")

    assert found == ArenaNeed(
        model="kws",
        blocks=(
            Block(name="wide", offset_bytes=0, size_bytes=70),
            Block(name="other", offset_bytes=80, size_bytes=10),
            Block(name="small", offset_bytes=90, size_bytes=3),
        ),
        allocator_bytes=100, alignment_bytes=32, source="code",
    )  # fmt: skip
    assert (found.static_bytes, found.size_bytes) == (96, 196)


def test_blocks_of_one_alignment_are_in_the_order_of_their_names() -> None:
    pieces = [("b", 16, 16), ("a", 32, 16)]

    orders = [lay_out("kws", order, allocator_bytes=0, source="code") for order in permutations(pieces)]

    assert [block.name for block in orders[0].blocks] == ["a", "b"] if orders[0] else None
    assert orders[0] == orders[1]


def test_what_needs_no_memory_needs_no_arena() -> None:
    assert lay_out("kws", [], allocator_bytes=0, source="code") is None


def test_memory_that_is_not_allocated_is_from_no_source() -> None:
    found = lay_out("kws", [("pool", 5, 4)], allocator_bytes=0, source="metadata")

    assert found == ArenaNeed(
        model="kws", blocks=(Block(name="pool", offset_bytes=0, size_bytes=5),), allocator_bytes=0, alignment_bytes=16, source="none",
    )  # fmt: skip
    assert found.size_bytes == 5


# Who shares.


def test_models_share_one_arena_of_the_largest_need() -> None:
    (arena,) = planned([need("a", 100), need("b", 300, 64), need("c", 200)])

    assert re.fullmatch(r"mlf_arena_[0-9a-f]{8}", arena.symbol)
    assert arena == Arena(
        symbol=arena.symbol, models=("a", "b", "c"), size_bytes=300, alignment_bytes=64, section=".bss.noinit.tvm", memory=None,
        is_external=False, units_bytes=(16,),
    )  # fmt: skip
    assert arena.member == f"{arena.symbol}.o"


def test_the_widest_alignment_of_those_who_share_holds() -> None:
    (arena,) = planned([need("large", 300, 16), need("wide", 10, 128)])

    assert arena.alignment_bytes == 128


def test_no_need_is_no_arena() -> None:
    assert planned([]) == ()


def test_concurrent_models_have_arenas_of_their_own_and_the_rest_share_the_smaller() -> None:
    found = planned([need("a", 100), need("b", 300), need("c", 90)], concurrent=(("a", "b"),))

    assert shared(found) == {("a", "c"): 100, ("b",): 300}


def test_a_model_that_fits_no_small_arena_shares_a_large_one() -> None:
    found = planned([need("a", 100), need("b", 300), need("c", 200)], concurrent=(("a", "b"),))

    assert sum(shared(found).values()) == 400
    assert all(size >= 200 for models, size in shared(found).items() if "c" in models)


def test_three_that_interrupt_each_other_have_three_arenas() -> None:
    found = planned([need("a", 1), need("b", 2), need("c", 3)], concurrent=(("a", "b", "c"),))

    assert shared(found) == {("a",): 1, ("b",): 2, ("c",): 3}


def test_groups_hold_each_for_itself() -> None:
    needs = [need("a", 400), need("b", 300), need("c", 200), need("d", 100)]

    found = planned(needs, concurrent=(("a", "b"), ("c", "d")))

    assert len(found) == 2
    for one, other in (("a", "b"), ("c", "d")):
        assert not any({one, other} <= set(arena.models) for arena in found)


def test_a_model_of_two_groups_shares_with_neither() -> None:
    found = planned([need("a", 300), need("b", 200), need("c", 100)], concurrent=(("a", "b"), ("a", "c")))

    assert shared(found) == {("a",): 300, ("b", "c"): 200}


@pytest.mark.parametrize(("style", "is_external"), [("private", False), ("external", True)])
def test_private_and_external_arenas_have_one_model_each(style: str, is_external: bool) -> None:
    found = planned([need("a", 100), need("b", 300)], style=style)

    assert shared(found) == {("a",): 100, ("b",): 300}
    assert [arena.is_external for arena in found] == [is_external, is_external]


# Names.


def test_arenas_are_numbered_in_the_order_of_their_models() -> None:
    found = planned([need("b", 300), need("a", 100)], style="private")

    stems = {arena.symbol.rsplit("_", 1)[0] for arena in found}
    assert len(stems) == 1
    assert [arena.symbol.rsplit("_", 1)[1] for arena in found] == ["0", "1"]
    assert [arena.models for arena in found] == [("a",), ("b",)]


def test_the_order_of_the_models_changes_nothing() -> None:
    needs = [need("a", 100), need("b", 300), need("c", 300), need("d", 50)]
    board = memory(dtcm=512, sram=1024)

    plans = {
        planned(order, concurrent=(("a", "b"),), memories=board, places={"d": "sram"}) for order in permutations(needs)
    }

    assert len(plans) == 1


def test_two_libraries_name_their_arenas_differently() -> None:
    libraries = {
        plan_arenas(needs, options, library=library)[0].symbol
        for needs in ([need("a", 100)], [need("b", 100)])
        for options in (ArenaOptions(), ArenaOptions(style="private"))
        for library in ("libmodels.a", "libaudio.a")
    }

    assert len(libraries) == 8


# Memories of the board.


def test_an_arena_goes_where_it_leaves_least() -> None:
    found = planned([need("a", 100), need("b", 300)], style="private", memories=memory(sram=1000, dtcm=128, flash=400))

    assert places(found) == {("a",): "dtcm", ("b",): "flash"}
    assert [arena.section for arena in found] == [".bss.noinit.tvm.dtcm", ".bss.noinit.tvm.flash"]


def test_of_memories_with_the_same_room_the_first_is_taken() -> None:
    assert places(planned([need("a", 100)], memories=memory(second=200, first=200))) == {("a",): "second"}


def test_models_of_one_memory_take_their_room_from_it() -> None:
    found = planned([need("a", 90), need("b", 60)], style="private", memories=memory(dtcm=100, sram=1000))

    assert places(found) == {("a",): "dtcm", ("b",): "sram"}


def test_a_hand_decides_before_the_best_fit() -> None:
    found = planned([need("a", 100)], memories=memory(dtcm=128, sram=1000), places={"a": "sram"})

    assert places(found) == {("a",): "sram"}


def test_models_in_different_memories_do_not_share() -> None:
    found = planned(
        [need("a", 100), need("b", 100)], memories=memory(dtcm=128, sram=1000), places={"a": "sram", "b": "dtcm"}
    )

    assert places(found) == {("a",): "sram", ("b",): "dtcm"}


def test_a_model_without_a_place_shares_with_one_that_has_one() -> None:
    found = planned([need("a", 100), need("b", 90)], memories=memory(dtcm=128, sram=1000), places={"a": "sram"})

    assert places(found) == {("a", "b"): "sram"}


def test_a_small_model_with_a_place_gets_it_before_a_large_one_that_fits_elsewhere() -> None:
    found = planned(
        [need("large", 60), need("small", 50)], concurrent=(("large", "small"),), memories=memory(dtcm=64, sram=256), places={"small": "dtcm"},
    )  # fmt: skip

    assert places(found) == {("large",): "sram", ("small",): "dtcm"}


def test_an_arena_that_becomes_wider_still_fits_its_memory() -> None:
    found = planned(
        [need("a", 96), need("b", 16), need("c", 8, 64)], concurrent=(("a", "b"),), memories=memory(dtcm=112, sram=64)
    )

    taken = dict.fromkeys(("dtcm", "sram"), 0)
    for arena in found:
        taken[arena.memory or ""] += -(-arena.size_bytes // arena.alignment_bytes) * arena.alignment_bytes
    assert taken["dtcm"] <= 112
    assert taken["sram"] <= 64


def test_external_arenas_lie_in_no_memory_of_the_library() -> None:
    found = planned([need("a", 4096)], style="external", memories=memory(dtcm=16))

    assert places(found) == {("a",): None}


def test_sections_are_given_by_memory_and_for_all() -> None:
    needs = [need("a", 100), need("b", 300)]
    sections = {"arena": ".everywhere", "dtcm": ".fast"}

    (alone,) = planned(needs, sections=sections)
    found = planned(needs, style="private", memories=memory(dtcm=128, sram=1000), sections=sections)

    assert alone.section == ".everywhere"
    assert [arena.section for arena in found] == [".fast", ".bss.noinit.tvm.sram"]


@pytest.mark.parametrize("section", [None, ".dtcm", "ram2", ".noinit.models"])
def test_an_arena_takes_no_flash_whatever_its_section_is_called(tmp_path: Path, section: str | None) -> None:
    options = link_options(sections=[f"arena={section}"] if section else [])
    request = LinkRequest(path=SAMPLES / "glyph.tar", name="glyph")
    library = link(plan_link([request], output=tmp_path / "x.a", compiler=compiler_for("cortex-m4"), options=options))

    (arena,) = library.document["arenas"]
    assert arena["section"] == (section or ".bss.noinit.tvm")
    assert arena["sizes"]["data_bytes"] == 0
    assert arena["sizes"]["bss_bytes"] >= arena["size_bytes"] == 4096


# What is refused.


def test_a_model_that_no_memory_has_room_for_is_refused_with_what_is_left() -> None:
    with pytest.raises(LinkError) as caught:
        planned([need("a", 100), need("b", 300)], style="private", memories=memory(dtcm=64, sram=320))

    assert (
        str(caught.value) == "no memory has room for `a`, which needs 100 bytes: `dtcm` has 64 left, `sram` has 16 left"
    )
    assert caught.value.hint == "give more with --memory, or let fewer models run at the same time"


def test_a_place_that_is_too_small_is_refused_though_another_is_not() -> None:
    with pytest.raises(LinkError) as caught:
        planned([need("a", 100)], memories=memory(dtcm=64, sram=320), places={"a": "dtcm"})

    assert str(caught.value) == "no memory has room for `a`, which needs 100 bytes: `dtcm` has 64 left"


def test_a_place_that_is_no_memory_is_refused() -> None:
    with pytest.raises(LinkError) as caught:
        planned([need("a", 100)], memories=memory(dtcm=64, sram=320), places={"a": "ddr"})

    assert str(caught.value) == "there is no memory `ddr`; there are dtcm, sram"
    assert caught.value.hint == "name it: --memory NAME=SIZE"


def test_a_place_without_memories_is_refused() -> None:
    with pytest.raises(LinkError, match=r"^there is no memory `dtcm`; there are none$"):
        planned([need("a", 100)], places={"a": "dtcm"})


def test_a_memory_given_twice_is_refused() -> None:
    with pytest.raises(LinkError, match=r"^the memory `dtcm` is given twice$"):
        planned([need("a", 100)], memories=(*memory(dtcm=64), *memory(dtcm=128)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrent": ["a,nope"]}, "--concurrent names `nope`; the models are a, b"),
        ({"places": ["nope=dtcm"], "memories": ["dtcm=64K"]}, "--place names `nope`; the models are a, b"),
        ({"sections": ["nope.constants=.x"]}, "--section names `nope`; the models are a, b"),
        (
            {"concurrent": ["one,a"], "sections": ["two.constants=.x"]},
            "--concurrent names `one`, --section names `two`; the models are a, b",
        ),
    ],
)
def test_options_that_name_no_model_are_refused(options: dict[str, Any], message: str) -> None:
    requests = [LinkRequest(path=SAMPLES / f"{archive}.tar", name=name) for name, archive in (("a", "tone"), ("b", "glyph"))]  # fmt: skip

    with pytest.raises(LinkError) as caught:
        plan_link(requests, output=Path("x.a"), compiler=compiler_for("host"), options=link_options(**options))

    assert str(caught.value) == message


# How options are read.


def test_nothing_given_is_one_shared_arena_and_folding() -> None:
    assert link_options() == LinkOptions()


def test_every_option_has_its_place() -> None:
    found = link_options(
        arena="private", concurrent=["a, b", "c,d"], memories=["dtcm=64K,sram=1M", "ddr=2G"], places=["a=dtcm", "b=sram"],
        sections=["arena=.x", "dtcm=.fast", "constants=.const", "a.constants=.ext$1"], is_folded=False, registry="audio_2",
        externs=["cmsis_*", "log"], budget=["flash=256K,ram=128"],
    )  # fmt: skip

    assert found == LinkOptions(
        arenas=ArenaOptions(
            style="private", concurrent=(("a", "b"), ("c", "d")), memories=memory(dtcm=65536, sram=1 << 20, ddr=2 << 30),
            places={"a": "dtcm", "b": "sram"}, sections={"arena": ".x", "dtcm": ".fast"},
        ),
        constants={"": ".const", "a": ".ext$1"}, is_folded=False, registry="audio_2", externs=("cmsis_*", "log"),
        budget_bytes={"flash": 262144, "ram": 128},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("0", 0), ("4096", 4096), ("64K", 65536), ("64KB", 65536), ("64KiB", 65536), ("3M", 3 << 20), ("1G", 1 << 30), ("7B", 7)],
)  # fmt: skip
def test_sizes_have_units(text: str, size_bytes: int) -> None:
    assert parse_size(text, "--memory") == size_bytes


@pytest.mark.parametrize("text", ["", "K", "64k", "-1", "1.5M", "64 K", "0x10", "64Ki", "9999999999999", "\u0663"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text, "--memory")

    assert str(caught.value) == f"--memory has the size `{text}`, expected a number of bytes such as 4096, 64K or 1M"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arena": "public"}, "--arena is `public`, expected shared, private, external"),
        ({"registry": "Audio"}, "--registry is `Audio`, expected small letters, digits and _, but not `model`"),
        ({"registry": "model"}, "--registry is `model`, expected small letters, digits and _, but not `model`"),
        ({"registry": "../x"}, "--registry is `../x`, expected small letters, digits and _, but not `model`"),
        ({"memories": ["dtcm"]}, "--memory has `dtcm`, expected NAME=VALUE"),
        ({"memories": ["dtcm="]}, "--memory has `dtcm=`, expected NAME=VALUE"),
        ({"memories": ["=64K"]}, "--memory has `=64K`, expected NAME=VALUE"),
        ({"memories": ["dt cm=64K"]}, "--memory has `dt cm=64K`, expected NAME=VALUE"),
        ({"memories": ["dtcm=64Q"]}, "--memory has the size `64Q`, expected a number of bytes such as 4096, 64K or 1M"),
        ({"places": ["a"]}, "--place has `a`, expected NAME=VALUE"),
        ({"sections": ["arena"]}, "--section has `arena`, expected NAME=VALUE"),
        (
            {"sections": ["arena=.a b"]},
            "--section has the section `.a b`, expected letters, digits, `.`, `_` and `$`",
        ),
        (
            {"sections": ["sram=.x"], "memories": ["dtcm=1K"]},
            "--section names `sram`, expected one of arena, constants, MODEL.constants, dtcm",
        ),
        ({"sections": [".constants=.x"]}, "--section names `.constants`, expected one of arena, constants, MODEL.constants"),
        ({"places": [","]}, "--place has `,`, expected NAME=VALUE"),
        ({"budget": ["rom=1K"]}, "--budget names `rom`, expected flash or ram"),
        ({"budget": ["flash=lots"]}, "--budget has the size `lots`, expected a number of bytes such as 4096, 64K or 1M"),
    ],
)  # fmt: skip
def test_words_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        link_options(**options)

    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["a", "a,a", "a,b,a", ",", "", " , "])
def test_models_that_run_at_the_same_time_are_two_at_least(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        link_options(concurrent=["a,b", text])

    assert str(caught.value) == f"--concurrent is `{text}`, expected two different models or more"
    assert caught.value.hint == "name those that may interrupt each other in one option: `--concurrent A,B`"


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"places": ["a=dtcm", "a=sram"]}, "--place names `a` twice", "give it once: `--place a=sram`"),
        ({"places": ["a=dtcm,b=dtcm,a=dtcm"]}, "--place names `a` twice", "give it once: `--place a=dtcm`"),
        ({"budget": ["flash=1K", "flash=2K"]}, "--budget names `flash` twice", "give it once: `--budget flash=2K`"),
        ({"memories": ["x=1K,x=2K"]}, "--memory names `x` twice", "give it once: `--memory x=2K`"),
        ({"sections": ["arena=.a", "arena=.b"]}, "--section names `arena` twice", "give it once: `--section arena=.b`"),
    ],
)
def test_what_is_given_twice_is_refused(options: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        link_options(**options)

    assert (str(caught.value), caught.value.hint) == (message, hint)


def test_budgets_can_come_in_several_words() -> None:
    assert parse_budget(["flash=1M", "ram=2K"]) == {"flash": 1 << 20, "ram": 2048}
