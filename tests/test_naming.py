from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from archives import Network, members, write
from hypothesis import given
from hypothesis import strategies as st

from mlf.errors import NameClashError, UnsupportedError
from mlf.linker import LinkRequest, plan_link
from mlf.naming import (
    C_IDENTIFIER,
    KEYWORDS,
    GeneratedNames,
    check_clashes,
    check_model_name,
    header_name,
    macro,
    mangle,
    mangle_model,
    sanitize_tensor_name,
    suggest_model_name,
)
from mlf.toolchain import compiler_for

if TYPE_CHECKING:
    from pathlib import Path

    from mlf.linker import LinkPlan


# TVM's own rules.


@pytest.mark.parametrize(
    ("name", "sanitized"),
    [
        ("input-x::2", "input_x__2"),
        ("+_+ ", "____"),
        ("input", "input"),
        ("Identity:0", "Identity_0"),
        ("0", "0"),
        ("größe", "gr____e"),
        ("\N{CJK UNIFIED IDEOGRAPH-6A21}", "___"),
        ("a.b/c[0]", "a_b_c_0_"),
        ("\N{SUPERSCRIPT TWO}", "__"),
        ("default", "default"),
    ],
)
def test_tensor_names_are_sanitised_byte_by_byte(name: str, sanitized: str) -> None:
    assert sanitize_tensor_name(name) == sanitized


@pytest.mark.parametrize(
    ("model", "mangled"),
    [
        ("default", "tvmgen_default"),
        ("1234", "tvmgen_1234"),
        ("my-model", "tvmgen_my-model"),
        ("Foo", "tvmgen_Foo"),
        ("", "tvmgen"),
    ],
)
def test_a_models_prefix_keeps_its_case_and_its_characters(model: str, mangled: str) -> None:
    assert mangle_model(model) == mangled


def test_symbols_keep_the_case_headers_lose_it_macros_are_capitals() -> None:
    assert mangle("Foo", "run") == "tvmgen_Foo_run"
    assert header_name("Foo") == "tvmgen_foo.h"
    assert macro("Foo", "in", "SIZE") == "TVMGEN_FOO_IN_SIZE"
    assert macro("default", "sram", "WORKSPACE_POOL_SIZE") == "TVMGEN_DEFAULT_SRAM_WORKSPACE_POOL_SIZE"


@given(st.text(min_size=1))
def test_a_sanitised_name_has_a_character_for_each_byte(name: str) -> None:
    encodable = name.encode("utf-8", "replace").decode()

    assert len(sanitize_tensor_name(encodable)) == len(encodable.encode())
    assert re.fullmatch(r"[A-Za-z0-9_]+", sanitize_tensor_name(encodable))


# Names of models.


@pytest.mark.parametrize("name", ["default", "kws", "a", "a_1", "model", "x86__"])
def test_names_that_a_model_may_have(name: str) -> None:
    assert check_model_name(name, where="a.tar") == name


@pytest.mark.parametrize("name", ["", "Foo", "1a", "_a", "my-model", "my model", "a.b", "größe", "a\n", "a/b", "../a"])
def test_names_that_are_no_identifier_are_refused(name: str) -> None:
    with pytest.raises(NameClashError) as caught:
        check_model_name(name, where="a.tar")
    assert str(caught.value) == (
        f"a.tar: `{name}` cannot be a model's name: expected a small letter, then small letters, digits and _"
    )
    assert caught.value.hint == f"give it another name: `{suggest_model_name(name)}=a.tar`"


@pytest.mark.parametrize("name", ["int", "class", "nullptr", "while", "restrict", "wchar_t"])
def test_keywords_are_refused(name: str) -> None:
    with pytest.raises(NameClashError) as caught:
        check_model_name(name, where="a.tar")
    assert str(caught.value) == f"a.tar: `{name}` cannot be a model's name: it is a keyword of C or C++"
    assert caught.value.hint == f"give it another name: `{name}_model=a.tar`"


@pytest.mark.parametrize("name", ["models", "mlf"])
def test_names_of_the_librarys_own_are_refused(name: str) -> None:
    with pytest.raises(NameClashError) as caught:
        check_model_name(name, where="a.tar")
    assert str(caught.value) == f"a.tar: `{name}` cannot be a model's name: it is a name of the library's own"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("kws", "kws"),
        ("KWS-v1.2 (final)", "kws_v1_2_final"),
        ("2024-model", "m2024_model"),
        ("__init__", "init"),
        ("a  b", "a_b"),
        ("größe", "gr_e"),
        ("default", "default_model"),
        ("int", "int_model"),
        ("models", "models_model"),
        ("", "m"),
        ("---", "m"),
        ("\N{CJK UNIFIED IDEOGRAPH-6A21}", "m"),
        ("\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}", "i"),
    ],
)
def test_a_name_is_made_of_a_files_stem(text: str, name: str) -> None:
    assert suggest_model_name(text) == name


@given(st.text() | st.sampled_from(sorted(KEYWORDS)))
def test_every_suggestion_is_a_valid_name(text: str) -> None:
    assert check_model_name(suggest_model_name(text), where="a.tar") == suggest_model_name(text)


# Clashes.


def generated(model: str, *names: str) -> GeneratedNames:
    return GeneratedNames(model=model, owner=f"{model}.tar", names=names)


def test_names_of_their_own_do_not_clash() -> None:
    check_clashes([generated("a", "x", "y"), generated("b", "z"), generated("c")])


def test_every_clash_is_named_with_both_owners() -> None:
    models = [generated("a", "x", "y", "y"), generated("b", "x"), generated("c", "x", "z")]

    with pytest.raises(NameClashError) as caught:
        check_clashes(models)
    assert str(caught.value) == (
        "`a` (a.tar) makes `y` twice; `a` (a.tar) and `b` (b.tar) both make `x`; `a` (a.tar) and `c` (c.tar) both make `x`"
    )
    assert caught.value.hint == "give one of the models another name: `NAME=ARCHIVE`"


def plan(folder: Path, *networks: Network) -> LinkPlan:
    requests = [
        LinkRequest(path=write(folder / f"{index}.tar", members(network))) for index, network in enumerate(networks)
    ]
    return plan_link(requests, output=folder / "libmodels.a", compiler=compiler_for("host"))


def test_a_models_name_and_anothers_tensor_may_make_one_macro(tmp_path: Path) -> None:
    with pytest.raises(NameClashError) as caught:
        plan(tmp_path, Network(model="a", inputs=("b_workspace", "x")), Network(model="a_b"))
    assert str(caught.value) == "`a` (0.tar) and `a_b` (1.tar) both make `TVMGEN_A_B_WORKSPACE_SIZE`"


@pytest.mark.parametrize(
    ("network", "made"),
    [
        (Network(model="a", inputs=("x", "y"), outputs=("x", "z")), "TVMGEN_A_X_SIZE"),
        (Network(model="a", inputs=("x", "X")), "TVMGEN_A_X_SIZE"),
        (Network(model="a", inputs=("workspace", "y")), "TVMGEN_A_WORKSPACE_SIZE"),
    ],
    ids=["input and output", "case", "workspace"],
)
def test_a_model_may_make_one_macro_twice(tmp_path: Path, network: Network, made: str) -> None:
    with pytest.raises(NameClashError) as caught:
        plan(tmp_path, network)
    assert str(caught.value) == f"`a` (0.tar) makes `{made}` twice"


@pytest.mark.parametrize("interface", ["c", "packed"])
@pytest.mark.parametrize(
    ("names", "made"),
    [
        (("default", "int"), ["default_1", "int_1"]),
        (("1st", "class"), ["t1st", "class_1"]),
        (("x", "this"), ["x", "this_1"]),
        (("int", "int_1"), ["int_2", "int_1"]),
    ],
)
def test_tensors_whose_names_c_cannot_have_get_names_of_their_own(
    tmp_path: Path, interface: str, names: tuple[str, str], made: list[str]
) -> None:
    (model,) = plan(tmp_path, Network(inputs=names, interface=interface, is_complete=True)).models

    assert [tensor.c_name for tensor in model.interface.inputs] == made
    assert [tensor.name for tensor in model.interface.inputs] == list(names)


@pytest.mark.parametrize(
    ("network", "made"),
    [
        (Network(inputs=("x", "X")), ["x", "X_1", "scores", "hidden"]),
        (Network(inputs=("x", "y"), outputs=("X", "Y")), ["x", "y", "X_1", "Y_1"]),
        (Network(inputs=("workspace", "y")), ["workspace_1", "y", "scores", "hidden"]),
        (Network(inputs=("a:b", "A.b"), outputs=("a_b_1", "A_B")), ["a_b", "A_b_2", "a_b_1", "A_B_3"]),
    ],
    ids=["case", "input and output", "workspace", "characters"],
)
def test_behind_the_packed_interface_nobody_has_to_rename_tensors(
    tmp_path: Path, network: Network, made: list[str]
) -> None:
    (model,) = plan(tmp_path, replace(network, interface="packed", is_complete=True)).models

    assert [tensor.c_name for tensor in (*model.interface.inputs, *model.interface.outputs)] == made


def test_every_keyword_is_an_identifier_otherwise() -> None:
    assert all(C_IDENTIFIER.fullmatch(word) for word in KEYWORDS)


def test_tensors_whose_order_nothing_tells_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError) as caught:
        plan(tmp_path, Network(interface="packed", memory="internal"))

    assert str(caught.value) == "0.tar: module `default` does not tell the order of its outputs"
