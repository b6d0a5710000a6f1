from __future__ import annotations

from pathlib import Path

import pytest

REAL_ARCHIVES = Path(__file__).parent.parent / ".cache" / "real"
NOT_RUN = ("skipped", "xfailed")


@pytest.fixture(scope="session")
def real_archives() -> Path:
    """The folder with the archives that a real compiler wrote, and their `cases.json`."""
    if not (REAL_ARCHIVES / "cases.json").is_file():
        pytest.fail("no archives in .cache/real; `bash tests/run.sh` makes them", pytrace=False)
    return REAL_ARCHIVES


def _not_run(config: pytest.Config) -> int:
    reporter: pytest.TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
    return sum(len(reporter.stats.get(kind, ())) for kind in NOT_RUN) if reporter else 0


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A test that did not run shows nothing, so a run with one fails."""
    if exitstatus == pytest.ExitCode.OK and _not_run(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if count := _not_run(config):
        terminalreporter.write_line(
            f"error: {count} tests were skipped or expected to fail; every test must run and pass"
        )
