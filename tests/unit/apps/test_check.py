"""What `check` reports without asking the kernel."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bpfpin.apps.check.check import check, lacking, sources_in
from bpfpin.apps.check.report import CheckReport, Outcome, Summary, reason_of
from bpfpin.errors import (
    LimitError,
    NotSupportedError,
    ObjectFileError,
    ObjectNotFoundError,
    UsageError,
    VerifierError,
)

REPORT = CheckReport("x.o")
READ = CheckReport("x.o", sha256="00", is_asked=True)
MALFORMED = ObjectFileError("malformed")


def refused(cause: str) -> VerifierError:
    """Return a refusal of that cause."""
    error = VerifierError("refused", log="", telling_line="invalid func unknown#2")
    error.cause = cause
    return error


def test_a_missing_object_would_not_load() -> None:
    report = check("/nonexistent.o")

    assert report.loads is False
    assert isinstance(report.error, ObjectNotFoundError)
    assert report.outcome is Outcome.NOT_READ


def test_what_was_not_asked_is_neither_yes_nor_no() -> None:
    assert REPORT.loads is None
    assert dataclasses.replace(REPORT, is_asked=True).loads is True
    assert dataclasses.replace(REPORT, is_asked=True, error=MALFORMED).loads is False


def test_the_document_of_a_report_has_its_keys() -> None:
    assert set(REPORT.to_json()) == {
        *("path", "sha256", "license", "loads", "dialects", "maps", "programs", "variables"),
        *("relocations", "externs", "lacks", "notes"),
    }


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (refused("null-check"), "verifier: null-check"),
        (refused(""), "verifier: other"),
        (NotSupportedError("no", feature="arena"), "not in this kernel: arena"),
        (MALFORMED, "does not fit this kernel's types"),
        (LimitError("too much", limit=1, asked=2), "Limit"),
    ],
)
def test_refusals_of_one_kind_have_one_reason(error: Exception, reason: str) -> None:
    assert isinstance(error, VerifierError | NotSupportedError | ObjectFileError | LimitError)
    assert reason_of(error) == reason


def test_a_summary_counts_outcomes_and_the_reasons_of_refusals() -> None:
    reports = [
        READ,
        REPORT,
        dataclasses.replace(READ, error=refused("null-check")),
        dataclasses.replace(READ, error=refused("null-check")),
        CheckReport("y.o", error=MALFORMED),
        CheckReport("z.o", error=ObjectNotFoundError("no such file")),
    ]

    assert Summary.of(reports).to_json() == {
        "loads": 1,
        "not_asked": 1,
        "refused": 2,
        "malformed": 1,
        "not_read": 1,
        "reasons": {"verifier: null-check": 2},
    }


def test_what_the_kernel_lacks_is_told_once() -> None:
    arena = NotSupportedError("no", feature="arena")

    assert lacking([arena, None, refused("null-check"), refused("helper-missing"), arena]) == (
        "arena",
        "invalid func unknown#2",
    )


def test_a_directory_stands_for_its_objects(tmp_path: Path) -> None:
    for name in ("b.o", "a.o", "a.c"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()

    assert sources_in(["builtin:x", str(tmp_path)]) == [
        "builtin:x",
        str(tmp_path / "a.o"),
        str(tmp_path / "b.o"),
    ]
    with pytest.raises(UsageError, match=r"without objects \(\*\.o\)"):
        sources_in([str(tmp_path / "empty")])
