"""Pauses Python's cyclic garbage collector while many entries are decoded.

The collector scans young objects every few hundred allocations, and now and then all objects. That
doubles the time of a large read, and entries of a map contain no reference cycles.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

WORTH_IT: Final = 1 << 14  # entries; the collector keeps running for fewer


class _Pause:
    """Counts the pauses of all threads: the first stops the collector, the last restarts it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._was_enabled = False

    def begin(self) -> None:
        with self._lock:
            if not self._count:
                # An application that runs without the collector is left without it.
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._count += 1

    def end(self) -> None:
        with self._lock:
            self._count -= 1
            if not self._count and self._was_enabled:
                gc.enable()


_PAUSE: Final = _Pause()


@contextmanager
def paused(entries: int) -> Iterator[None]:
    """Pause the collector of the whole process in the block, if there are many *entries*.

    Afterwards, also after an exception, it is in the same state as before.
    """
    if entries < WORTH_IT:
        yield
        return
    _PAUSE.begin()
    try:
        yield
    finally:
        _PAUSE.end()
