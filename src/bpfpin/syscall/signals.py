"""Signals that wait until a change is complete."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

# SIGHUP comes when an ssh connection ends, which the change itself may have cut.
_DEFERRED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Defer Ctrl-C, SIGTERM and SIGHUP to the end of the block.

    Each signal that came is delivered once then, also after a block that failed. What its handler
    raises (`KeyboardInterrupt`) has the error of the block as its `__cause__`. A signal without a
    handler ends the process there, so a roll-back after a failure belongs into the block.

    Handlers do that, not a signal mask: with a mask another thread would take the signal, and
    Python would still raise in the main one. Outside of the main thread nothing is ever raised, so
    that the block runs as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    try:
        with _recorded(received):
            yield
    except BaseException as failure:
        try:
            _deliver(received)
        except BaseException as raised:
            raise raised from failure
        raise
    _deliver(received)


@contextmanager
def _recorded(received: list[int]) -> Iterator[None]:
    """Append the deferred signals to *received* in the block, instead of calling their handlers."""
    # An ExitStack does all of its callbacks, also if the handler of a signal raises in between.
    with ExitStack() as undo:
        for number in _DEFERRED:
            handler = signal.getsignal(number)
            # None: a library in C installed the handler, which Python could not install again.
            if handler is not None:
                undo.callback(signal.signal, number, handler)
                signal.signal(number, lambda number, _frame: received.append(number))
        yield


def _deliver(received: list[int]) -> None:
    with ExitStack() as signals:
        for number in reversed(dict.fromkeys(received)):
            signals.callback(signal.raise_signal, number)
