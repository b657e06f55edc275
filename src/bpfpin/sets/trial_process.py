"""The process that waits beside a trial and takes the change back; `sets/trial` starts it.

Its arguments are the place of the trial in bpffs and a token. It waits without an open descriptor
in bpffs, and looks for the trial again at the deadline: a confirmed trial has no record any more.
SIGTERM, SIGINT and SIGHUP make it look at once, so that the end of a login session takes the change
back.

The command that started it holds the other end of a pipe until it is over. If the trial has not
begun by then, the command failed or was killed, and the change is taken back at once.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from bpfpin.errors import BpfError
from bpfpin.pins.trial import Trial, TrialPlace, now_ms
from bpfpin.sets.trial import expire, start_time, trial_at

_WAKING: Final = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_ATTEMPTS: Final = 600  # one a second, while another command holds the lock
_NAP_MAX_S: Final = 5.0  # between looks; the timer of sigtimedwait stands still in suspend
_LOOK_MS: Final = 100  # between looks for signals while the command runs


def main(words: Sequence[str]) -> None:
    """Detach from the caller, print the pid, wait for the deadline, and take the change back."""
    root, parent, entry, token, deadline_ms, gate, *links = words
    # Blocked before the fork, so that the child starts with it: a signal waits for sigtimedwait(2),
    # and none can end the process before it has taken the change back.
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAKING)
    # The command waits for the first process alone, which ends when all code is read. The child
    # goes to init, so nobody has to reap it.
    if os.fork():
        os._exit(0)
    with suppress(OSError):  # the caller is dead already; the pipe tells as well
        os.write(1, f"{os.getpid()} {start_time(os.getpid())}".encode())
    _let_go()
    place = TrialPlace(Path(root), parent, entry)
    trial = _begun(int(gate), place, token, int(deadline_ms))
    if trial is not None:
        _wait(place, trial)
    for link in links:  # this detaches, even while another command holds the lock
        os.close(int(link))
    _expire(place, token)


def _let_go() -> None:
    """Leave the current directory and the streams of the caller."""
    # The current directory would keep its file system from being unmounted, and an open stdout
    # would keep a pipe of the caller open.
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)


def _begun(gate: int, place: TrialPlace, token: str, deadline_ms: int) -> Trial | None:
    """Wait until the command is over, and return the trial if it has begun.

    A command that hangs does not keep the change beyond the deadline.
    """
    poll = select.poll()
    poll.register(gate, select.POLLIN)
    while not poll.poll(_LOOK_MS):
        if now_ms() >= deadline_ms or signal.sigtimedwait(_WAKING, 0):
            return None
    # The end of the command was seen, and nothing else comes through the pipe.
    os.close(gate)
    trial = _own_trial(place, token)
    return trial if trial is not None and trial.is_begun else None


def _own_trial(place: TrialPlace, token: str) -> Trial | None:
    trial = None
    with suppress(BpfError):
        trial = trial_at(place)
    return trial if trial is not None and trial.token == token else None


def _wait(place: TrialPlace, trial: Trial) -> None:
    """Wait for the deadline, for a signal, or for the end of the trial.

    A confirm ends this process, unless it is killed before that; the set may also be removed by
    hand.
    """
    while (left_ms := trial.deadline_ms - now_ms()) > 0:
        if signal.sigtimedwait(_WAKING, min(left_ms / 1000, _NAP_MAX_S)):
            return
        if _own_trial(place, trial.token) is None:
            return


def _expire(place: TrialPlace, token: str) -> None:
    for _ in range(_ATTEMPTS):
        try:
            expire(place, token)
        # A nap that a signal ends: at the end of a login session SIGKILL may follow SIGTERM soon.
        except BpfError:
            signal.sigtimedwait(_WAKING, 1.0)
        else:
            return


if __name__ == "__main__":
    main(sys.argv[1:])
