"""Python's search for cycles, paused while millions of entries are made.

Every few hundred new dicts it looks through the young ones, and now and then through all: that
doubles the time of a large read, and entries of a map hold no cycles.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

WORTH_IT: Final = 1 << 14  # entries; below, nothing is touched


class _Pause:
    """Counts who wants it, all threads together: the first one pauses, the last one goes on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanting = 0
        self._was_on = False

    def begin(self) -> None:
        with self._lock:
            if not self._wanting:
                self._was_on = gc.isenabled()
                gc.disable()
            self._wanting += 1

    def end(self) -> None:
        with self._lock:
            self._wanting -= 1
            if not self._wanting and self._was_on:
                gc.enable()


_PAUSE: Final = _Pause()


@contextmanager
def paused(entries: int) -> Iterator[None]:
    """Search for no cycles inside, in the whole process, if *entries* are many.

    As it was afterwards, also after an exception: switched off before stays switched off.
    """
    if entries < WORTH_IT:
        yield
        return
    _PAUSE.begin()
    try:
        yield
    finally:
        _PAUSE.end()
