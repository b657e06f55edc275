"""A reload that is interrupted, or stopped for a while, at a moment of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.cli import CliResult
from support.crash import calls_of_a_process
from support.here import Here
from support.objects import compiled
from support.tools import need
from support.wait import HANG_S, wait_until

OLD = "reload_old"
NEW = "reload_new"
# Which call it is, told by its arguments; strace wants its name and number.
MOMENTS = {
    "the look at the live set": "BPF_OBJ_GET,",
    "the verifier": "BPF_PROG_LOAD",
    "the first new pin": "BPF_OBJ_PIN",
    "the manifest": "schema",
    "the commit": "commit~",
    "the switch": "BPF_LINK_UPDATE",
    "the exchange": r"~stage.*RENAME_EXCHANGE",
    "cleaning": "AT_REMOVEDIR",
}


def moments_of_a_reload(here: Here, *, folder: Path) -> dict[str, str]:
    """Reload *here* once, and return the calls at which the moments are, as `NAME:NUMBER`."""
    here.load(compiled(OLD))
    calls = calls_of_a_process(reload_command(here), folder=folder)
    return {
        moment: next(f"{one.call}:{one.number}" for one in calls if re.search(told, one.arguments))
        for moment, told in MOMENTS.items()
    }


def reload_command(here: Here, source: str = NEW, *words: object) -> list[str]:
    """Return the command line that loads *source* as a process of its own."""
    typed = ["load", compiled(source), "--dev", here.device, "--pin-root", here.root, "-o", "json"]
    return [sys.executable, "-m", "bpfpin", *map(str, (*typed, *words))]


def interrupted(command: list[str], number: signal.Signals, call: str) -> CliResult:
    """Run a command that gets the signal when it enters the call `NAME:NUMBER`."""
    with _traced(command, number, call, log=Path(os.devnull)) as process:
        stdout, stderr = process.communicate(timeout=HANG_S)
        return CliResult(process.returncode, stdout, stderr)


class Stopped:
    """A command that waits right after a call; `go_on` lets it end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        self._child = int(child)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, which it gets when it goes on."""
        os.kill(self._child, number)

    def go_on(self) -> CliResult:
        """Let the command go on to its end, and return how that was."""
        os.kill(self._child, signal.SIGCONT)
        stdout, stderr = self._process.communicate(timeout=HANG_S)
        return CliResult(self._process.returncode, stdout, stderr)

    def end(self) -> None:
        """End the command if it still waits."""
        if self._process.poll() is None:
            os.kill(self._child, signal.SIGKILL)


@contextmanager
def stopped(command: list[str], call: str, *, folder: Path) -> Iterator[Stopped]:
    """Run a command up to the end of the call `NAME:NUMBER`; it goes on when it is told to."""
    log = folder / "strace"
    log.touch()
    with _traced(command, signal.SIGSTOP, call, log=log) as process:
        wait_until(lambda: "stopped by SIGSTOP" in log.read_text())
        waiting = Stopped(process)
        try:
            yield waiting
        finally:
            waiting.end()


@contextmanager
def _traced(
    command: list[str], number: signal.Signals, call: str, *, log: Path
) -> Iterator[subprocess.Popen[str]]:
    need("strace")
    name, _, when = call.partition(":")
    inject = f"inject={name}:signal={number.name}:when={when}"
    strace = ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={name}", "-e", inject]
    with subprocess.Popen(
        [*strace, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()
