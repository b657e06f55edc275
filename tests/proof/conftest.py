"""What the proofs share: the short form or the full one, and their tables at the end."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

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
