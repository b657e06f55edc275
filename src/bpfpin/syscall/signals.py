"""Signals that wait until a change is complete."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# SIGHUP comes when an ssh connection ends, which the change itself may have cut.
_DEFERRED: Final = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Defer Ctrl-C, SIGTERM and SIGHUP to the end of the block.

    Handlers do that, not a signal mask: with a mask another thread would take the signal, and
    Python would still raise in the main one. Outside of the main thread nothing is ever raised, so
    that the block runs as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in _DEFERRED}
    try:
        for number in _DEFERRED:
            signal.signal(number, lambda number, _frame: received.append(number))
        yield
    finally:
        for number, handler in before.items():
            # None: a library in C installed the handler, which Python cannot install again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    for came in dict.fromkeys(received):
        signal.raise_signal(came)
