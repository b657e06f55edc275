"""Nothing is imported from the current directory, which may be anybody's when root types there."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bpfpin

ROOT = Path(bpfpin.__file__).parent
TRAPS = ("click", "json", "rich", "pyroute2", "ctypes", "dataclasses", "fcntl", "ziglang")
ISOLATING = {"-P", "-I"}


def trapped(place: Path, names: tuple[str, ...]) -> Path:
    """Put modules into *place* that leave a trace when they are imported; return the trace."""
    trace = place / "trace"
    for name in names:
        (place / f"{name}.py").write_text(f"open({str(trace)!r}, 'a').write({name + ' '!r})\n")
    return trace


@pytest.mark.parametrize(
    "words",
    [
        ("-m", "bpfpin", "check", "builtin:xdp_pass"),
        ("-m", "bpfpin", "check", "builtin:xdp_pass", "-o", "json"),
        ("-m", "bpfpin.sets.trial_process"),
    ],
)
def test_a_module_of_the_current_directory_is_not_run(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    trace = trapped(tmp_path, TRAPS)
    subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, check=False)

    assert not trace.exists()


def test_the_lines_that_are_shown_run_no_module_of_the_current_directory(tmp_path: Path) -> None:
    """Of that name, too: what is shown has -P."""
    shown = (
        "import sys; sys.argv[0] = '/x/__main__.py'; import os; os.geteuid = lambda: 1;"
        "from bpfpin.cli.failure import sudo_hint; print(sudo_hint(['check', 'builtin:xdp_pass']))"
    )
    line = subprocess.run(
        [sys.executable, "-c", shown], capture_output=True, text=True, check=True
    ).stdout.split()
    trace = trapped(tmp_path, (*TRAPS, "bpfpin"))
    assert line[:2] == ["sudo", sys.executable]
    done = subprocess.run(line[1:], cwd=tmp_path, capture_output=True, check=False)

    assert not trace.exists()
    assert b"xdp_pass" in done.stdout


def test_every_interpreter_that_is_started_is_isolated() -> None:
    """Each list that begins with sys.executable goes on with -P."""
    started = []
    texts = {path: path.read_text() for path in sorted(ROOT.rglob("*.py"))}
    for path in [path for path, text in texts.items() if "executable" in text]:
        for node in ast.walk(ast.parse(texts[path])):
            if isinstance(node, ast.List | ast.Tuple) and any(
                ast.unparse(item) == "sys.executable" for item in node.elts
            ):
                words = [ast.unparse(item).strip("'") for item in node.elts]
                after = words[words.index("sys.executable") + 1]
                started.append((path.name, after in ISOLATING))

    assert len(started) >= 3
    assert [name for name, is_isolated in started if not is_isolated] == []


def test_the_trap_itself_works(tmp_path: Path) -> None:
    trace = trapped(tmp_path, ("click",))
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    subprocess.run([sys.executable, "-c", "import click"], cwd=tmp_path, env=env, check=True)

    assert trace.read_text() == "click "
