"""What an ordinary user sees of what root loaded, and is told about what is hidden."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from support.cli import CliResult, run_cli, run_cli_ok
from support.lab import TestLab
from support.wait import HANG_S

NOBODY = 65534
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


def run_as_nobody(*arguments: str) -> CliResult:
    """Run the command as user nobody, if that user may read this installation."""
    done = subprocess.run(
        [*AS_NOBODY, sys.executable, "-m", "bpfpin", *arguments],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    return CliResult(done.returncode, done.stdout, done.stderr)


@pytest.fixture(autouse=True)
def readable() -> None:
    """Skip where the installation lies in a folder that nobody else may enter."""
    tried = [*AS_NOBODY, sys.executable, "-c", "import bpfpin.cli.main"]
    if subprocess.run(tried, capture_output=True, check=False).returncode:
        pytest.skip(f"user {NOBODY} may not run {sys.executable}")


@pytest.fixture
def loaded(lab: TestLab) -> Iterator[TestLab]:
    run_cli_ok("load", "--dev", lab.device)
    yield lab
    run_cli_ok("unload", lab.device)


def test_status_says_that_a_set_may_not_be_read_and_what_to_type(loaded: TestLab) -> None:
    result = run_as_nobody("status", loaded.device, "-o", "json")
    (problem,) = result.json["problems"]

    assert problem["kind"] == "unreadable"
    assert "it may not be read by " in problem["text"]
    assert problem["text"].endswith("it belongs to root (uid 0)")
    assert problem["fix"] == f"sudo {sys.executable} -P -m bpfpin status {loaded.device} -o json"


def test_doctor_gives_the_line_that_was_typed() -> None:
    words = ["--pin-root", "/sys/fs/bpf", "doctor", "lo", "-o", "json"]
    checks = run_as_nobody(*words).json["checks"]
    (fix,) = [check["fix"] for check in checks if check["name"] == "create maps"]

    assert fix == f"sudo {sys.executable} -P -m bpfpin {' '.join(words)}"


def test_a_set_of_somebody_else_is_not_said_to_need_root() -> None:
    """Root may read it; it is foreign all the same."""
    run_cli_ok("load", "--dev", "lo")
    os.chown("/sys/fs/bpf/lo", NOBODY, NOBODY)
    (problem,) = run_cli("status", "lo", "-o", "json").json["problems"]
    os.chown("/sys/fs/bpf/lo", 0, 0)
    run_cli_ok("unload", "lo")

    assert problem["kind"] == "foreign"
    assert problem["fix"] == "find out who made it: ls -la /sys/fs/bpf/lo"


def test_a_holder_is_not_said_to_be_without_a_link_that_cannot_be_seen(loaded: TestLab) -> None:
    told = run_as_nobody("doctor", loaded.device).stdout
    seen = run_cli("doctor", loaded.device).stdout

    assert "whether a link holds it is not visible to this user" in told
    assert "without a link" not in told
    assert "held by link id" in seen


@pytest.mark.parametrize(
    "words", [["unload", "DEV"], ["stats", "DEV", "--count", "1"], ["map", "get", "PIN", "0"]]
)
def test_what_needs_root_says_so_with_the_line_to_type(loaded: TestLab, words: list[str]) -> None:
    named = {"DEV": loaded.device, "PIN": f"/sys/fs/bpf/{loaded.device}/action"}
    typed = [named.get(word, word) for word in words]
    result = run_as_nobody(*typed, "-o", "json")
    line = " ".join(["sudo", sys.executable, "-P", "-m", "bpfpin", *typed, "-o", "json"])

    assert (result.exit_code, result.json["error"]["exit"]) == (3, 3)
    assert line in result.json["error"]["hint"]
