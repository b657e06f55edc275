"""The process that waits beside a change on trial and takes it back: `start` starts it.

It is told what is on trial by its place in bpffs and a token, waits without holding anything open
there, and looks again at the deadline: what was confirmed meanwhile is no longer there. SIGTERM,
SIGINT and SIGHUP make it look at once, so that the end of a login session takes the change back.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bpfpin.apps.trial.start import start_time
from bpfpin.apps.trial.trials import expire
from bpfpin.errors import BpfError
from bpfpin.pins.trial import TrialPlace, now_ms

_WAKING: Final = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_ATTEMPTS: Final = 600  # one a second, for a lock that somebody holds
_NAP_MAX_S: Final = 60.0  # the timer stands still in suspend, the deadline does not


def main(words: Sequence[str]) -> None:
    """Leave the caller, say so on stdout, wait for the deadline, and take the change back."""
    root, parent, entry, token, deadline_ms = words
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAKING)
    if os.fork():
        os._exit(0)
    sys.stdout.write(f"{os.getpid()} {start_time(os.getpid())}")
    sys.stdout.flush()
    _let_go()
    _wait(int(deadline_ms))
    _expire(TrialPlace(Path(root), parent, entry), token)


def _let_go() -> None:
    """Give up the directory and the streams that we came with."""
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)


def _wait(deadline_ms: int) -> None:
    while (left_ms := deadline_ms - now_ms()) > 0:
        if signal.sigtimedwait(_WAKING, min(left_ms / 1000, _NAP_MAX_S)):
            return


def _expire(place: TrialPlace, token: str) -> None:
    for _ in range(_ATTEMPTS):
        try:
            expire(place, token)
        except BpfError:
            signal.sigtimedwait(_WAKING, 1.0)
        else:
            return


if __name__ == "__main__":
    main(sys.argv[1:])
