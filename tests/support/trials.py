"""Changes on trial, and the processes that wait beside them."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from bpfpin.pins.trial import Trial, now_ms
from bpfpin.sets.confirm import trials
from bpfpin.sets.trial import is_waiting
from support.here import run_here
from support.wait import wait_until


def waiting(root: Path) -> list[int]:
    """Return the pids of the processes that wait beside a change below *root*."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and str(root).encode() in _words(entry):
            found.append(int(entry.name))
    return found


def on_trial(root: Path) -> Trial:
    """Return the only change that is on trial below *root*."""
    (found,) = trials(root)
    return found.trial


def kill(trial: Trial) -> None:
    """Kill the process of a trial, and wait until it is gone."""
    os.kill(trial.pid, signal.SIGKILL)
    wait_until(lambda: not is_waiting(trial))


def take_back(root: Path) -> None:
    """End the only trial below *root* as the end of a login session does, and wait for it."""
    os.kill(on_trial(root).pid, signal.SIGTERM)
    wait_until(lambda: waiting(root) == [])


def wait_for_the_deadline(trial: Trial) -> None:
    """Wait until it is too late to confirm."""
    wait_until(lambda: now_ms() > trial.deadline_ms)


def killed_at(
    owner: object, name: str, words: Sequence[object], *, waiting_below: Path | None = None
) -> None:
    """Run a command in a process that kills itself where it calls *name* of *owner*.

    The processes that wait beside a change below *waiting_below* are killed before it.
    """
    pid = os.fork()
    if not pid:
        setattr(owner, name, lambda *_words, **_options: _die(waiting_below))
        run_here(*words)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def _die(waiting_below: Path | None) -> None:
    if waiting_below is not None:
        for pid in waiting(waiting_below):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: waiting(waiting_below) == [])
    os.kill(os.getpid(), signal.SIGKILL)


def _words(process: Path) -> list[bytes]:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return words if b"bpfpin.sets.trial_process" in words else []
