"""What README and docs/ show is run as it stands there."""

from __future__ import annotations

import functools
import re
import socket
from pathlib import Path

import pytest

from support.documents import (
    PATH_LINE,
    ROOT,
    blocks,
    commands,
    programs,
    run_session,
    shell_script,
    unlike,
)
from support.tools import need
from support.wait import wait_until

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_COMMANDS = [path for path in DOCUMENTS if commands(path)]


@pytest.mark.parametrize("path", WITH_COMMANDS, ids=lambda path: path.name)
def test_every_command_a_document_shows_works_and_writes_what_is_shown(
    path: Path, tmp_path: Path
) -> None:
    need("bpftool", "curl", "ping")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for name, text in programs(path).items():
        (tmp_path / name).write_text(text)
    completed = run_session(shell_script(path), tmp_path)

    assert completed.returncode == 0, completed.stdout
    assert unlike(path, completed.stdout) == []


def test_the_readme_and_the_tutorial_show_commands() -> None:
    assert {"README.md", "tutorial.md"} <= {path.name for path in WITH_COMMANDS}


def test_every_program_about_reading_maps_is_run_by_its_commands() -> None:
    path = ROOT / "docs/reading-maps.md"
    typed = {word for command in commands(path) for word in command.split()}

    assert len(programs(path)) == len(blocks(path, "python"))
    assert set(programs(path)) <= typed


def test_the_programs_of_the_readme_run(tmp_path: Path) -> None:
    program = tmp_path / "readme.py"
    program.write_text("\n".join(blocks(ROOT / "README.md", "python")))
    completed = run_session(in_a_lab(f"python3 {program}"), tmp_path)

    assert completed.returncode == 0, completed.stdout
    assert "XDP_PASS" in completed.stdout


LOADED_FIRST = {"follow_reloads.py", "read_counters.py"}


def in_a_lab(*commands: str) -> str:
    """Return a script that runs *commands* while lab0 is up, and stops at the first failure."""
    return PATH_LINE + "\n".join(["set -e", "bpfpin lab up lab0 >/dev/null 2>&1", *commands])


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_every_example_runs(path: Path, tmp_path: Path) -> None:
    load = ["bpfpin load --dev lab0 2>/dev/null"] if path.name in LOADED_FIRST else []
    completed = run_session(in_a_lab(*load, f"python3 {path} lab0"), tmp_path)

    assert completed.returncode == 0, completed.stdout
    assert completed.stdout


def is_gone(path: Path) -> bool:
    return not path.exists()


def test_a_session_that_fails_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    """Neither a lab, nor pins, nor a process in the background."""
    for _ in range(2):
        script = in_a_lab("bpfpin load --dev lab0", "sleep 1000 & echo child $!", "false")
        completed = run_session(script, tmp_path)
        child = re.findall(r"child (\d+)", completed.stdout)[0]

        assert completed.returncode == 1
        wait_until(functools.partial(is_gone, Path("/proc", child)))
    assert "lab0" not in dict(socket.if_nameindex()).values()
