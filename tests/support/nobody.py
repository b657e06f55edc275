"""What an ordinary user without any capability may do.

The command runs in a user namespace without a mapping: geteuid() is 65534 and no capability counts
in the kernel's eyes, while files stay readable wherever this installation is. What root alone may
read it reads, too: for the rights on a pin, the library is used as another user, in this process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.cli import CliResult
from support.wait import HANG_S

NOBODY = 65534


def run_cli_as_nobody(*arguments: object) -> CliResult:
    """Run `bpfpin ARGUMENTS…` without capabilities and return how it ended."""
    completed = subprocess.run(
        ["unshare", "--user", sys.executable, "-m", "bpfpin", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    return CliResult(completed.returncode, completed.stdout, completed.stderr)


@contextmanager
def nobody(*, group: int = NOBODY, uid: int = NOBODY) -> Iterator[None]:
    """Make this process an ordinary user without capabilities, in *group* alone, for the block."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(group)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def let_everybody_enter(place: Path) -> None:
    """Open the way to a test's own *place* to other users."""
    temporary = Path(tempfile.gettempdir())
    for parent in [place, *place.parents]:
        if parent == temporary or not parent.is_relative_to(temporary):
            return
        parent.chmod(parent.stat().st_mode | 0o055)
