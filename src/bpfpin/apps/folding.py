"""Maps that are just being migrated: readers wait the tens of milliseconds that it takes.

While a fold runs, a set's name still holds the old map, which is being emptied. The mark
`NAME~stage/folding~` stands from before the first entry is moved until the exchange of the names,
so what was read is whole if afterwards the mark is not there and the name is still the same.
Nobody locks for that; one stat(2) tells.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from bpfpin.apps.generation import identity
from bpfpin.errors import BusyError
from bpfpin.pins import names

WAIT_MAX_S: Final = 10.0
PAUSE_S: Final = 0.002

T = TypeVar("T")


class FoldUnfinishedError(BusyError):
    """What a name holds has been migrated for longer than a reader waits."""


def is_folding(path: Path) -> bool:
    """Whether the set that *path* lies in is moving the contents of maps at this moment."""
    stage = path.parent.parent / f"{path.parent.name}{names.STAGE_SUFFIX}"
    with suppress(OSError):  # ENOENT as a rule; who may not look may not read the maps either
        (stage / names.FOLDING).stat()
        return True
    return False


def wait_for_fold(path: Path, *, timeout_s: float = WAIT_MAX_S) -> None:
    """Wait until nothing is moved in the set of *path*; `FoldUnfinishedError` after *timeout_s*."""
    deadline_s = 0.0
    while is_folding(path):
        now_s = time.monotonic()
        deadline_s = deadline_s or now_s + timeout_s
        if now_s >= deadline_s:
            raise FoldUnfinishedError(
                f"{path} is being migrated, and was not ready after {timeout_s:g} s: a part of what"
                " it held is in the old map, a part in the new one",
                hint="if the process that did it is dead: bpfpin clean finishes it, and so does"
                " the next load",
            )
        time.sleep(PAUSE_S)


def read_whole(path: Path, once: Callable[[], T], *, timeout_s: float = WAIT_MAX_S) -> T:
    """Return what *once* opens at *path* and reads, from before a migration or from after it."""
    while True:
        moment = Moment(path, timeout_s=timeout_s)
        found = once()
        if moment.lasts:
            return found


class Moment:
    """From when on the map at *path* is whole, after a wait if need be; and whether it still is."""

    def __init__(self, path: Path, *, timeout_s: float = WAIT_MAX_S) -> None:
        wait_for_fold(path, timeout_s=timeout_s)
        self._path = path
        self._before = identity(path)

    @property
    def lasts(self) -> bool:
        """Whether the name is what it was, and nothing was moved away: a fold ends by exchange."""
        return not is_folding(self._path) and identity(self._path) == self._before
