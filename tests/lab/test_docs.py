"""What README and docs/ show is run as it stands there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.cli import run_cli_ok
from support.documents import ROOT, blocks, commands, programs, shell_script, unlike
from support.tools import need

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_COMMANDS = [path for path in DOCUMENTS if commands(path)]


@pytest.mark.parametrize("path", WITH_COMMANDS, ids=lambda path: path.name)
def test_every_command_a_document_shows_works_and_writes_what_is_shown(
    path: Path, tmp_path: Path
) -> None:
    need("bpftool", "ping")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for name, text in programs(path).items():
        (tmp_path / name).write_text(text)
    completed = subprocess.run(
        ["bash", "-c", shell_script(path)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )

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
    run_cli_ok("lab", "up", "lab0")
    program = tmp_path / "readme.py"
    program.write_text("\n".join(blocks(ROOT / "README.md", "python")))
    completed = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=60, check=False
    )
    run_cli_ok("unload", "lab0")
    run_cli_ok("lab", "down", "lab0")

    assert completed.returncode == 0, completed.stderr
    assert "XDP_PASS" in completed.stdout


LOADED_FIRST = {"follow_reloads.py", "read_counters.py"}


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_every_example_runs(path: Path) -> None:
    run_cli_ok("lab", "up", "lab0")
    if path.name in LOADED_FIRST:
        run_cli_ok("load", "--dev", "lab0")
    completed = subprocess.run(
        [sys.executable, path, "lab0"], capture_output=True, text=True, timeout=60, check=False
    )
    if path.name in LOADED_FIRST:
        run_cli_ok("unload", "lab0")
    run_cli_ok("lab", "down", "lab0")

    assert completed.returncode == 0, completed.stderr
    assert completed.stdout
