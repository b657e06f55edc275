"""The command as a process, as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import bpfpin

# With --quick the command runs in a fork of the test's process: a process of its own, with streams
# and an environment of its own, but no interpreter has to start.
forks = False


@dataclass(frozen=True)
class CliResult:
    """How one run of the command ended, and what it wrote."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Standard output as the one JSON document it must be."""
        return json.loads(self.stdout)

    @property
    def json_lines(self) -> list[Any]:
        """Standard output as one JSON document a line."""
        return [json.loads(line) for line in self.stdout.splitlines()]


def run_cli(
    *arguments: object,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 600.0,
    stdin: str = "",
) -> CliResult:
    """Run `bpfpin ARGUMENTS…` and return how it ended, whatever the exit code."""
    if forks and not stdin:
        return _run_fork([*map(str, arguments)], env or {}, timeout_s)
    completed = subprocess.run(
        [sys.executable, "-m", "bpfpin", *map(str, arguments)],
        env={**os.environ, **(env or {})},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return CliResult(completed.returncode, completed.stdout, completed.stderr)


def run_cli_ok(*arguments: object) -> CliResult:
    """Run `bpfpin ARGUMENTS…` and expect exit code 0."""
    result = run_cli(*arguments)
    assert result.exit_code == 0, f"exit {result.exit_code}: {result.stdout}{result.stderr}"
    return result


def _run_fork(arguments: list[str], env: Mapping[str, str], timeout_s: float) -> CliResult:
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        child = os.fork()
        if child == 0:
            signal.setitimer(signal.ITIMER_REAL, timeout_s)
            _become_cli(arguments, env, stdout.fileno(), stderr.fileno())
        _, status = os.waitpid(child, 0)
        texts = []
        for stream in (stdout, stderr):
            stream.seek(0)
            texts.append(stream.read().decode())
    return CliResult(os.waitstatus_to_exitcode(status), *texts)


def _become_cli(arguments: list[str], env: Mapping[str, str], stdout: int, stderr: int) -> NoReturn:
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        sys.stdin = os.fdopen(0)
        sys.stdout = os.fdopen(1, "w")
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace")
        os.environ.update(env)
        from bpfpin.cli.main import main  # noqa: PLC0415 - as late as `python -m bpfpin` does

        sys.argv = [str(Path(bpfpin.__file__).with_name("__main__.py")), *arguments]
        status = main()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)
