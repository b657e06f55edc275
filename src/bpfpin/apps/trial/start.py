"""The small process that waits beside a change on trial: started, found again, ended."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from bpfpin.errors import BpfError
from bpfpin.pins.trial import Trial, TrialPlace

_START_TIMEOUT_S: Final = 30.0
_END_TIMEOUT_MS: Final = 2000
_START_TIME_FIELD: Final = 19  # of /proc/PID/stat, counted after the name


def start_waiting(
    place: TrialPlace, token: str, deadline_ms: int, *, keeps: Sequence[int] = ()
) -> tuple[int, int]:
    """Start the process that takes the change back at the deadline; return its pid and start.

    It is a new interpreter in a session of its own, and holds nothing but the descriptors *keeps*.
    It has read all the code it needs when this returns.
    """
    # -P: as root, nothing is imported from a directory that happens to be the current one.
    command = [sys.executable, "-P", "-m", "bpfpin.apps.trial.process", str(place.root.absolute())]
    command += [place.parent, place.entry, token, str(deadline_ms)]
    try:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=tuple(keeps),
            start_new_session=True,
            timeout=_START_TIMEOUT_S,
            check=True,
            text=True,
        ).stdout
        pid, started = answer.split()
        return int(pid), int(started)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        words = str(getattr(error, "stdout", "") or error).strip()
        raise BpfError(
            "the process that would take it back could not be started, so nothing was changed:"
            f" {words}"
        ) from None


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if words[0] in ("Z", "X") else int(words[_START_TIME_FIELD])


def is_waiting(trial: Trial) -> bool:
    """Whether the process of the trial is alive."""
    return start_time(trial.pid) == trial.started


def end_waiting(trial: Trial) -> None:
    """End the process of a trial that is over, and wait until it has let go of what it held.

    Its record must be gone: from then on the process has nothing to do and nothing to lose.
    """
    if trial.pid == os.getpid():
        return
    with suppress(ProcessLookupError):
        process = os.pidfd_open(trial.pid)
        try:
            if not is_waiting(trial):  # the number is somebody else's by now
                return
            signal.pidfd_send_signal(process, signal.SIGKILL)
            poll = select.poll()
            poll.register(process, select.POLLIN)
            poll.poll(_END_TIMEOUT_MS)
        finally:
            os.close(process)
