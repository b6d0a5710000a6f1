"""The harness of `fuzz.py`: a small run of every kind, and readers that are broken in every way that it must notice."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import fuzz
import pytest
from fuzz import KINDS, Disagreement, Kind, case

from mlf.archive import open_archive
from mlf.errors import ArchiveError

if TYPE_CHECKING:
    from random import Random

TESTS = Path(__file__).parent
CASES = 600


def ran(*arguments: str | Path, kinds: tuple[Kind, ...] = KINDS) -> tuple[int, list[str]]:
    """Run the harness; give its exit status and the lines that it printed."""
    output = io.StringIO()
    with redirect_stdout(output):
        status = fuzz.main([*map(str, arguments)], kinds)
    return status, output.getvalue().splitlines()


def test_every_reader_withstands_mutated_inputs(tmp_path: Path) -> None:
    status, lines = ran("--count", str(CASES * len(KINDS)), "--save", tmp_path)

    assert (status, list(tmp_path.iterdir())) == (0, []), "\n".join(lines)
    assert [line.split()[0] for line in lines] == ["kind", *(kind.name for kind in KINDS)]
    for line in lines[1:]:
        tried, accepted, refused, disagreements, faults = map(int, line.split()[1:6])
        assert (tried, disagreements, faults) == (CASES, 0, 0)
        assert accepted + refused == CASES
        assert min(accepted, refused) > CASES // 20


def listed_by_gnu_tar(path: Path) -> list[tuple[str, int]]:
    command = ["tar", "--numeric-owner", "--full-time", "-tvf", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rows = [line.split(maxsplit=5) for line in done.stdout.splitlines() if line.startswith("-")]
    return sorted((name.removeprefix("./"), int(size)) for _, _, size, _, _, name in rows)


def test_mutated_tars_that_are_read_list_the_same_in_gnu_tar(tmp_path: Path) -> None:
    path = tmp_path / "case"
    accepted = 0
    for index in range(400):
        path.write_bytes(case(KINDS[0], 3, index))
        try:
            archive = open_archive(path)
        except ArchiveError:
            continue
        accepted += 1
        assert [(member.name, member.size_bytes) for member in archive.members] == listed_by_gnu_tar(path), index
    assert accepted > 20


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_case_is_always_the_same_input(kind: Kind) -> None:
    inputs = [case(kind, 1, index) for index in range(300)]

    assert [case(kind, 1, index) for index in reversed(range(300))] == inputs[::-1]
    assert [case(kind, 2, index) for index in range(9)] != inputs[:9]
    assert len(set(inputs)) > 150


# Readers that are broken.


def number(rng: Random) -> bytes:
    return b"%d" % rng.randrange(1000)


def raises(data: bytes, folder: Path) -> None:
    raise KeyError(data, folder)


def refuses(data: bytes, folder: Path) -> None:
    raise ArchiveError(f"{data!r} is bad", where=folder.name)


def disagrees(data: bytes, folder: Path) -> None:
    raise Disagreement(f"{len(data) > 0} {folder.is_dir()}")


def takes_long(*_: object) -> None:
    time.sleep(0.03)


def hangs(data: bytes, folder: Path) -> None:
    while data or folder.name:
        pass


def hangs_and_catches(data: bytes, folder: Path) -> None:
    try:
        hangs(data, folder)
    except Exception:  # noqa: BLE001 - what no reader should do, and the harness must bear
        hangs(data, folder)


def writes_outside(data: bytes, folder: Path) -> None:
    try:
        (folder / ".." / "outside").write_bytes(data)
    except BaseException:  # noqa: BLE001 - not even a reader that catches everything goes unnoticed
        return


def writes_inside(data: bytes, folder: Path) -> None:
    (folder / "inside").write_bytes(data)
    (folder / "below").mkdir(exist_ok=True)


def reads_outside(*_: object) -> None:
    Path("/etc/passwd").read_bytes()


def deletes(*_: object) -> None:
    Path(__file__).unlink()


def lists(*_: object) -> None:
    os.listdir("/")  # noqa: PTH208 - the event, not the path


def runs_a_program(*_: object) -> None:
    subprocess.run(["true"], check=True)


def swallows_memory(*_: object) -> None:
    bytearray(1 << 40)


def dies(*_: object) -> None:
    os._exit(3)


READERS = (
    raises, refuses, disagrees, takes_long, hangs, hangs_and_catches, writes_outside, writes_inside, reads_outside, deletes, lists, runs_a_program,
    swallows_memory,
)  # fmt: skip
BROKEN = tuple(
    Kind(name=read.__name__, make=number, read=read, refusals=(ArchiveError,), most_seconds=0.02, hang_seconds=0.2)
    for read in READERS
)
DYING = Kind(name="dies", make=number, read=dies, refusals=(ArchiveError,))


@pytest.fixture(scope="module")
def broken_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list[str], Path]:
    folder = tmp_path_factory.mktemp("saved")
    status, lines = ran("--count", str(2 * len(BROKEN)), "--jobs", "1", "--save", folder, kinds=BROKEN)
    return status, lines, folder


def below(lines: list[str], kind: str) -> list[str]:
    """Give what was printed of the faults of a kind."""
    start = next(index for index, line in enumerate(lines) if line.startswith(f"{kind} "))
    names = tuple(f"{item.name} " for item in BROKEN)
    end = next((index for index, line in enumerate(lines) if index > start and line.startswith(names)), len(lines))
    return lines[start + 1 : end]


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("raises", "foreign: KeyError in test_fuzz.py:LINE raises"),
        ("refuses", "foreign: a refusal names 'PROCESS'"),
        ("disagrees", "disagreement: True True"),
        ("takes_long", "slow: takes more than 0.02 s"),
        ("hangs", "slow: does not end in 0.2 s"),
        ("hangs_and_catches", "slow: does not end in 0.2 s"),
        ("writes_outside", "outside: open SCRATCH/outside"),
        ("reads_outside", "outside: open /etc/passwd"),
        ("deletes", f"outside: os.remove {Path(__file__).resolve()}"),
        ("lists", "outside: os.listdir /"),
        ("runs_a_program", "outside: subprocess.Popen ('true',)"),
        ("swallows_memory", "foreign: MemoryError in test_fuzz.py:LINE swallows_memory"),
    ],
)
def test_a_broken_reader_is_reported_with_its_inputs(
    broken_run: tuple[int, list[str], Path], kind: str, fault: str
) -> None:
    status, lines, folder = broken_run
    found = below(lines, kind)

    assert status == 1
    words = re.sub(r"\.py:\d+", ".py:LINE", found[0])
    words = re.sub(r"'\d+'", "'PROCESS'", re.sub(r"/\S+/mlf-fuzz-[^/]+", "SCRATCH", words))
    assert words == f"{fault} (2 times)"
    paths = [folder / f"{kind}-1-{index}" for index in (0, 1)]
    assert found[1:] == [f"  {path} (--replay {kind}:1:{index})" for index, path in enumerate(paths)]
    reader = next(item for item in BROKEN if item.name == kind)
    assert [path.read_bytes() for path in paths] == [case(reader, 1, index) for index in (0, 1)]


def test_a_reader_that_writes_in_its_own_folder_is_not_reported(broken_run: tuple[int, list[str], Path]) -> None:
    assert below(broken_run[1], "writes_inside") == []


def test_disagreements_are_counted_apart(broken_run: tuple[int, list[str], Path]) -> None:
    rows = [line.split()[:6] for line in broken_run[1]]

    assert ["disagrees", "2", "0", "0", "2", "2"] in rows
    assert ["raises", "2", "0", "0", "0", "2"] in rows
    assert ["writes_inside", "2", "2", "0", "0", "0"] in rows


def test_a_process_that_dies_is_reported(tmp_path: Path) -> None:
    status, lines = ran("--count", "3", "--jobs", "1", "--save", tmp_path, kinds=(DYING,))

    assert status == 1
    assert lines[2:] == [
        "foreign: a process died, perhaps of this case (1 times)",
        f"  {tmp_path}/dies-1-0 (--replay dies:1:0)",
    ]


def replayed(name: str, folder: Path) -> tuple[int, list[str]]:
    script = "import sys, fuzz, test_fuzz; sys.exit(fuzz.main(sys.argv[1:], test_fuzz.BROKEN))"
    command = [sys.executable, "-c", script, "--replay", name, "--save", str(folder)]
    done = subprocess.run(command, cwd=TESTS, check=False, capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines()


def test_a_case_can_be_replayed_alone(tmp_path: Path) -> None:
    status, lines = replayed("raises:1:1", tmp_path)

    assert status == 1
    assert re.fullmatch(
        rf"{tmp_path}/raises-1-1: foreign: KeyError in test_fuzz.py:\d+ raises in \d\.\d{{3}} s", lines[0]
    )
    assert lines[1] == "Traceback (most recent call last):"
    assert replayed("writes_inside:1:1", tmp_path)[0] == 0


def test_the_script_runs_alone(tmp_path: Path) -> None:
    script, words = str(TESTS / "fuzz.py"), "--kind ar,params --count 40 --jobs 1 --save".split()

    done = subprocess.run([sys.executable, script, *words, str(tmp_path)], check=True, capture_output=True, text=True)

    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [["ar", "20"], ["params", "20"]]


def test_an_unknown_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        fuzz.main(["--kind", "tar,zip"])

    assert caught.value.code == 2
    names = ", ".join(kind.name for kind in KINDS)
    assert capsys.readouterr().err.endswith(f"error: unknown kind 'zip'; there are {names}\n")
