"""What the proofs share: the short form or the full one, and their tables at the end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from support.crash_matrix import SCENARIOS
from support.crash_migrating import MigratingLab

_TABLES = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Start with no tables."""
    config.stash[_TABLES] = []


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print what the proofs measured."""
    for line in config.stash.get(_TABLES, []):
        terminalreporter.write_line(line)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one process try all scenarios of a lab where several run at once (`--dist loadscope`).

    All labs with a map `flows` count as one: of two of them `status` would tell a split brain.
    """
    if config.getoption("dist") != "loadscope":
        return None
    return _LabScheduling(config, log)


class _LabScheduling(LoadScopeScheduling):  # type: ignore[misc]
    def _split_scope(self, nodeid: str) -> str:
        return _lab_of(nodeid)


def _lab_of(nodeid: str) -> str:
    """Return the lab that a test uses, by the scenario among its parameters."""
    scenario = SCENARIOS.get(nodeid.rpartition("[")[2].removesuffix("]"))
    if scenario is None:
        return nodeid.partition("::")[0]
    return (MigratingLab if issubclass(scenario.lab, MigratingLab) else scenario.lab).__name__


@pytest.fixture(scope="session")
def is_full() -> bool:
    """Whether all of it is asked for (`make crash-matrix`, `make reload-proof`), not a sample."""
    return os.environ.get("BPFPIN_FULL_PROOF") == "1"


class Table:
    """Lines that are printed at the end of the run, as a table of a document."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def begin(self, title: str, columns: Sequence[str]) -> None:
        """Write a title and the head."""
        self._lines += ["", title, ""]
        self.row(columns)
        self.row(["---"] * len(columns))

    def row(self, cells: Sequence[object]) -> None:
        """Write a row."""
        self._lines.append(f"| {' | '.join(map(str, cells))} |")


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> Table:
    """The tables of this run."""
    return Table(request.config.stash[_TABLES])
