from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mlf
from mlf import api
from mlf.arrays import load_arrays

SAMPLES = Path(__file__).parent.parent / "samples"
HEAVY = ("numpy", "click", "jinja2", "rich", "zstandard", "jsonschema", "tarfile", "subprocess")


def imported(code: str) -> set[str]:
    """Which modules an interpreter has after it ran `code`."""
    program = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_imports_nothing_else() -> None:
    modules = imported("import mlf\nmlf.__version__")

    assert {name for name in modules if name.split(".")[0] == "mlf"} == {"mlf"}
    assert not modules & set(HEAVY)


def test_an_operation_imports_what_it_needs_alone() -> None:
    modules = imported(f"import mlf\nmlf.inspect({str(SAMPLES / 'tone.tar')!r})")

    assert not modules & set(HEAVY)
    assert "mlf.linker" not in modules


def test_every_name_is_there_and_listed() -> None:
    assert sorted(mlf.__all__) == mlf.__all__
    assert set(mlf.__all__) <= set(dir(mlf))
    for name in mlf.__all__:
        assert getattr(mlf, name).__doc__, name


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'mlf' has no attribute 'merge'$"):
        _ = mlf.merge  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [name for name, value in vars(api).items() if inspect.isfunction(value)])
def test_every_operation_is_typed_whole(name: str) -> None:
    function = getattr(api, name)

    assert "return" in function.__annotations__
    assert set(inspect.signature(function).parameters) == set(function.__annotations__) - {"return"}


def test_paths_may_be_text_or_paths(tmp_path: Path) -> None:
    for source in (SAMPLES / "tone.tar", str(SAMPLES / "tone.tar")):
        assert mlf.inspect(source).version == 7
        assert mlf.validate(source).is_good()
        assert mlf.convert(source, output=tmp_path / "new.tar").to_version == 8
        assert mlf.convert(source, output=str(tmp_path / "new.tar")).to_version == 8
        with mlf.open_archive(source) as archive:
            assert "metadata.json" in archive
    assert mlf.diff(SAMPLES / "tone.tar", str(tmp_path / "new.tar")).before == "tone.tar"


def test_models_are_linked_by_name_and_run(tmp_path: Path) -> None:
    models = {"a": SAMPLES / "tone.tar", "b": str(SAMPLES / "glyph.tar")}

    plan = mlf.plan_link(models, output=tmp_path / "libmodels.a")
    library = mlf.link(models, output=tmp_path / "libmodels.a")
    result = mlf.run(tmp_path / "libmodels.json", load_arrays(SAMPLES / "tone.inputs.npz"), model="a")

    assert [model.name for model in plan.models] == ["a", "b"]
    assert (tmp_path / "libmodels.a").read_bytes() == library.data
    golden = load_arrays(SAMPLES / "tone.outputs.npz")["output"]
    np.testing.assert_allclose(result.outputs["output"].ravel(), golden.ravel(), rtol=1e-5)


def test_models_may_be_words_of_the_command_line(tmp_path: Path) -> None:
    words = [f"a={SAMPLES / 'tone.tar'}:default", f"b={SAMPLES / 'glyph.tar'}"]

    assert mlf.link(words, output=tmp_path / "x.a").data == mlf.link(reversed(words), output=tmp_path / "x.a").data


def test_errors_are_of_one_family(tmp_path: Path) -> None:
    with pytest.raises(mlf.MlfError) as caught:
        mlf.inspect(tmp_path / "missing.tar")

    assert (caught.value.code, caught.value.where, caught.value.message) == (
        "bad-archive",
        "missing.tar",
        "no such file",
    )


def test_parameters_are_read_and_written(tmp_path: Path) -> None:
    param = mlf.Param(name="p0", dtype="float32", array=np.ones((2, 3), np.float32))
    data = mlf.render_params([param])

    (again,) = mlf.parse_params(data, where=str(tmp_path))
    assert (again.name, again.dtype, again.array.tolist()) == ("p0", "float32", [[1, 1, 1], [1, 1, 1]])


def test_the_command_line_is_made_of_these_operations() -> None:
    """Each command calls the operation of its name and none of the modules behind it."""
    text = (Path(mlf.__file__).parent / "cli.py").read_text()

    for name in ("convert", "diff", "export", "inspect", "link", "plan_link", "replay", "run", "validate_all"):
        assert f"mlf.{name}(" in text
    for name in ("linker", "converter", "check", "exporter", "module", "archive"):
        assert f"from mlf.{name} import" not in text
