"""What `check` reports without asking the kernel."""

from __future__ import annotations

import dataclasses

from bpfpin.apps.check import CheckReport, check
from bpfpin.errors import ObjectFileError, ObjectNotFoundError

REPORT = CheckReport("x.o")


def test_a_missing_object_would_not_load() -> None:
    report = check("/nonexistent.o")

    assert report.loads is False
    assert isinstance(report.error, ObjectNotFoundError)


def test_what_was_not_asked_is_neither_yes_nor_no() -> None:
    error = ObjectFileError("malformed")

    assert REPORT.loads is None
    assert dataclasses.replace(REPORT, is_asked=True).loads is True
    assert dataclasses.replace(REPORT, is_asked=True, error=error).loads is False


def test_the_document_of_a_report_has_its_keys() -> None:
    assert set(REPORT.to_json()) == {
        "path",
        "sha256",
        "license",
        "loads",
        "maps",
        "programs",
        "notes",
        "relocations",
    }
