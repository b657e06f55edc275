"""`bpfpin doctor` as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bpfpin import insn
from bpfpin.apps import doctor
from bpfpin.objects.programs.program import Program
from bpfpin.spec import FunctionSpec, ProgramSpec
from bpfpin.uapi import ProgramType
from support.cli import CliResult, run_cli, run_cli_ok
from support.here import veth
from support.lab import TestLab
from support.nobody import run_cli_as_nobody

Run = Callable[..., CliResult]


def findings(*words: object, run: Run = run_cli) -> dict[str, dict[str, Any]]:
    """Return what the doctor found, by name."""
    result = run("doctor", "-o", "json", *words)
    assert (result.exit_code, result.json["schema"]) == (0, 1)
    return {one["name"]: one for one in result.json["checks"]}


def test_each_finding_says_what_is_and_what_to_do() -> None:
    found = findings()

    assert {"kernel", "bpffs", "pin root", "load XDP programs", "XDP by bpf_link"} <= set(found)
    assert all(set(one) == {"name", "ok", "text", "fix"} for one in found.values())
    assert all(one["fix"] for one in found.values() if not one["ok"])


def test_a_device_is_told_with_its_driver_and_its_holder(lab: TestLab) -> None:
    free = findings(lab.device)
    run_cli_ok("load", "--dev", lab.device)
    held = findings("--dev", lab.device)
    run_cli_ok("unload", lab.device)

    assert free["device"]["text"].endswith("and driver veth")
    assert free["native XDP"]["ok"]
    assert free["XDP hook"]["text"] == f"{lab.device} is free"
    assert "(xdp_stats) in native mode, held by link id" in held["XDP hook"]["text"]


def test_a_device_of_another_namespace_is_reached_with_n(lab: TestLab) -> None:
    assert findings("-n", lab.lab.netns, "veth0")["device"]["ok"]
    assert run_cli("doctor", "veth0").exit_code == 4


def test_a_pin_root_without_bpffs_comes_with_the_mount_line(tmp_path: Path) -> None:
    found = findings("--pin-root", tmp_path)["bpffs"]

    assert not found["ok"]
    assert "one is mounted at /sys/fs/bpf" in found["fix"]


def test_a_pin_root_that_everybody_may_write_is_unsafe(bpffs: Path) -> None:
    bpffs.chmod(0o777)
    unsafe = findings("--pin-root", bpffs)["pin root"]
    bpffs.chmod(0o1777)
    sticky = findings("--pin-root", bpffs)["pin root"]
    bpffs.chmod(0o700)
    private = findings("--pin-root", bpffs)["pin root"]

    assert [unsafe["ok"], sticky["ok"], private["ok"]] == [False, True, True]
    assert sticky["fix"] == f"chmod 0755 {bpffs}"
    assert private["fix"] == ""


def test_an_ordinary_user_is_told_the_missing_capabilities() -> None:
    checks = findings(run=run_cli_as_nobody)
    found, jit = checks["load XDP programs"], checks["jit"]

    assert (found["ok"], found["text"]) == (False, "needs CAP_BPF and CAP_NET_ADMIN")
    assert found["fix"].startswith("sudo /")
    # The kernel shows its setting to root alone, and only root can load a program to see.
    assert (jit["ok"], jit["fix"]) == (False, found["fix"])
    assert jit["text"].startswith("not asked: ")


def test_nothing_is_left_in_the_pin_root(bpffs: Path) -> None:
    before = list(bpffs.iterdir())
    run_cli_ok("doctor", "--pin-root", bpffs)

    assert list(bpffs.iterdir()) == before


def test_a_device_may_have_bytes_in_its_name_that_are_no_utf_8() -> None:
    """The kernel refuses a slash, a colon and spaces alone (dev_valid_name() in net/core/dev.c)."""
    asked = {
        "_BPFPIN_COMPLETE": "bash_complete",
        "COMP_WORDS": "bpfpin doctor --dev ",
        "COMP_CWORD": "3",
    }
    with veth(os.fsdecode(b"odd\xff")) as device:
        found = findings(device)
        completed = subprocess.run(
            [sys.executable, "-P", "-m", "bpfpin"],
            env={**os.environ, **asked},
            capture_output=True,
            check=True,
        )

    assert found["device"]["text"].endswith("driver veth")
    # That name is left out, and all others are offered.
    assert b"plain,lo" in completed.stdout.splitlines()


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("0", "programs are interpreted"),
        ("1", "programs are compiled to machine code"),
        ("2", "programs are compiled to machine code"),
    ],
)
def test_the_setting_of_the_compiler_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, text: str
) -> None:
    (tmp_path / "setting").write_text(setting)
    monkeypatch.setattr(doctor, "JIT", tmp_path / "setting")

    assert doctor._jit("").text == text


def test_without_the_setting_a_program_shows_if_programs_are_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first network namespace has the setting."""
    monkeypatch.setattr(doctor, "JIT", tmp_path / "none")
    spec = FunctionSpec("one", "", (insn.mov_imm(0, 1), insn.exit_()))
    with Program.load(ProgramSpec("one", ProgramType.XDP, "", (spec,), license="GPL")) as program:
        is_compiled = program.info.jited_size > 0

    assert doctor._jit("").ok is is_compiled
