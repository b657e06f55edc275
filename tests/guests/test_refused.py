"""A kernel that is too old is refused with exit code 8 and with what it lacks; nothing is left.

Commands that need nothing of what is missing work there.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import bpfpin
from bpfpin.objects.features import probe_rename_exchange
from bpfpin.pins.names import LOCK_DIRECTORY
from support.cli import run_cli, run_cli_ok
from support.lab import TestLab

pytestmark = pytest.mark.lab

MISSING = "this kernel cannot exchange names in bpffs (Linux 5.16 can)"
HINT = "bpfpin needs Linux 6.1 or later"


@pytest.fixture(autouse=True)
def _old_kernel(bpffs: Path) -> None:
    if probe_rename_exchange(bpffs).is_supported:
        pytest.skip("this kernel exchanges names in bpffs, so nothing is refused")


def names(bpffs: Path) -> set[str]:
    """Return what is in the pin root, but for the directory of its lock, which stays."""
    return {path.name for path in bpffs.iterdir()} - {LOCK_DIRECTORY}


@pytest.mark.parametrize(
    "words",
    [
        ["builtin:xdp_stats"],
        ["builtin:xdp_stats", "--mode", "generic"],
        ["builtin:xdp_stats", "--dry-run"],
        ["builtin:cgroup_stats", "--cgroup", "/sys/fs/cgroup"],
    ],
)
def test_a_load_is_refused_with_what_is_missing(
    words: list[str], lab: TestLab, bpffs: Path
) -> None:
    place = [] if "--cgroup" in words else ["--dev", lab.device]
    result = run_cli("load", *words, *place, "--pin-root", bpffs, "-o", "json")
    error = result.json["error"]

    assert (result.exit_code, error["exit"], error["type"]) == (8, 8, "NotSupportedError")
    assert error["message"].startswith(MISSING)
    assert error["hint"] == HINT
    assert "Traceback" not in result.stderr
    assert names(bpffs) == set()


def test_the_demo_is_refused_and_leaves_nothing() -> None:
    result = run_cli("demo")

    assert result.exit_code == 8
    assert MISSING in result.stderr
    assert HINT in result.stderr
    assert "Traceback" not in result.stderr
    assert run_cli_ok("lab", "list", "-o", "json").json["labs"] == []


def test_the_library_raises_what_the_command_says(lab: TestLab, bpffs: Path) -> None:
    with pytest.raises(bpfpin.NotSupportedError, match="exchange names in bpffs") as caught:
        bpfpin.deploy("builtin:xdp_stats", device=lab.device, pin_root=bpffs)

    assert HINT in caught.value.hint
    assert names(bpffs) == set()


def test_the_doctor_names_what_is_missing(bpffs: Path) -> None:
    checks = run_cli_ok("doctor", "--pin-root", bpffs, "-o", "json").json["checks"]
    (exchange,) = [it for it in checks if it["name"] == "exchange of names in bpffs"]

    assert not exchange["ok"]
    assert "EINVAL" in exchange["text"]
    assert exchange["fix"] == "a newer kernel (6.1 or later)"
    assert all(it["fix"] for it in checks if not it["ok"])


def test_what_needs_nothing_of_that_works(lab: TestLab, bpffs: Path) -> None:
    run_cli_ok("check", "builtin:xdp_stats")
    root = ("--pin-root", bpffs, "-o", "json")

    assert run_cli_ok("status", *root).json["sets"] == []
    assert run_cli_ok("map", "list", *root).json["maps"] == []
    assert run_cli("stats", lab.device, *root).exit_code == 4
    assert run_cli("unload", lab.device, *root).exit_code == 4
