"""The command as an ordinary user without any capability runs it.

A user namespace without a mapping: geteuid() is 65534 and no capability counts in the kernel's
eyes, while files stay readable wherever this installation is.
"""

from __future__ import annotations

import subprocess
import sys

from support.cli import CliResult


def run_cli_as_nobody(*arguments: object) -> CliResult:
    """Run `bpfpin ARGUMENTS…` without capabilities and return how it ended."""
    completed = subprocess.run(
        ["unshare", "--user", sys.executable, "-m", "bpfpin", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return CliResult(completed.returncode, completed.stdout, completed.stderr)
