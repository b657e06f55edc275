"""The words of perf events."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpfpin.attach.perf_events import event_word
from bpfpin.syscall import perf


@pytest.fixture(autouse=True)
def pmus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two PMUs that have a name."""
    for name, kind in (("software", 1), ("msr", 9)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "type").write_text(f"{kind}\n")
    monkeypatch.setattr(perf, "PMUS", tmp_path)


@pytest.mark.parametrize(
    ("kind", "config", "word"),
    [
        (1, 2, "page-faults"),
        (0, 0, "cpu-cycles"),
        (1, 0, "cpu-clock"),
        (6, 0, "cpu-clock"),  # as Linux reports it since 6.5
        (7, 0, "task-clock"),
        (9, 1, "msr:0x1"),
        (4, 0x1C2, "raw:0x1c2"),
        (12, 3, "type 12:0x3"),
    ],
)
def test_an_event_has_the_word_that_is_typed(kind: int, config: int, word: str) -> None:
    assert event_word(kind, config) == word


def test_a_type_that_a_named_pmu_has_is_no_clock(tmp_path: Path) -> None:
    (tmp_path / "msr" / "type").write_text("6\n")

    assert event_word(6, 0) == "msr:0x0"
