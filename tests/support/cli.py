"""The command as a process, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
