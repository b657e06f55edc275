"""A kernel that is too old is refused by name, with exit 8 and the reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.cli import run_cli
from support.lab import TestLab

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(
        os.environ.get("BPFPIN_GUEST") not in {"5.10", "5.15"}, reason="this kernel is supported"
    ),
]


@pytest.mark.parametrize("words", [["load", "builtin:xdp_stats", "--dev"], ["demo"]])
def test_what_needs_a_newer_kernel_says_so(words: list[str], lab: TestLab, bpffs: Path) -> None:
    place = [lab.device, "--pin-root", bpffs] if words[0] == "load" else []
    result = run_cli(*words, *place)

    assert result.exit_code == 8, result.stderr
    assert "6.1" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(bpffs.iterdir()) == []


def test_the_doctor_names_what_is_missing() -> None:
    result = run_cli("doctor", "-o", "json")
    missing = [one for one in result.json["checks"] if not one["ok"]]

    assert missing
    assert all(one["text"] and one["fix"] for one in missing)
