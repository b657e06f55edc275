"""What a name in bpffs holds at one moment: the map, and the programs of the set it lies in.

Whether another map goes on with what the one before has counted stands in the set's manifest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Self, TypeVar

from bpfpin.errors import BpfError, BusyError, PermissionDeniedError, PinError
from bpfpin.map.changes import Ids
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins import names
from bpfpin.pins.manifest import Manifest
from bpfpin.pins.pinset import PinSet
from bpfpin.pins.shared import is_exchanged
from bpfpin.syscall.errno_table import syscall_error

WAIT_MAX_S: Final = 10.0
PAUSE_S: Final = 0.002
SHARED_DEPTH_MAX: Final = 4  # directories above a shared name: tc/globals/NAME and a root below it
T = TypeVar("T")


class Identity(NamedTuple):
    """What tells a name from its next generation: device and inode of its directory and its pin.

    A reload exchanges the directory; the pin of a map that is kept is linked, and stays the same.
    """

    directory: tuple[int, int]
    pin: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Generation:
    """What a name holds: its map, and the ids of the programs of its set by link.

    *first_id* is the id of the map whose contents it has through migrations, its own if of none.
    """

    identity: Identity
    map: Map
    programs: Mapping[str, int]
    first_id: int

    @classmethod
    def of(cls, identity: Identity, path: Path, held: Map) -> Self:
        """Return what *path* holds, which is *held*."""
        return cls(identity, held, program_ids(path), first_id(path, held.id))

    def goes_on_with(self, before: Generation) -> bool:
        """Whether it is another map that has the contents of the one *before*."""
        return self.map.id != before.map.id and self.first_id == before.first_id

    @property
    def directory(self) -> tuple[int, int]:
        """Which directory the name is in; a reload brings another one."""
        return self.identity.directory


def identity(path: Path) -> Identity | None:
    """Return what tells whether a name, and the directory it is in, are still the same.

    `PermissionDeniedError` where this user may not look.
    """
    try:
        directory, pin = path.parent.stat(), path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise syscall_error("stat", error.errno or 0, target=str(path)) from None
    return Identity((directory.st_dev, directory.st_ino), (pin.st_dev, pin.st_ino))


def first_id(path: Path, map_id: int) -> int:
    """Return the id of the map that *map_id* at *path* was migrated from at first, else its own.

    Whoever could write the manifest there could pin another map as well: it is believed for this,
    also by those to whom the set does not belong.
    """
    with suppress(OSError, ValueError):
        # Not Path.readlink: the text is no path, and two slashes in it are two.
        manifest = Manifest.parse(os.readlink(path.parent / names.MANIFEST))  # noqa: PTH115
        line = manifest.migrated.get(names.decode(path.name))
        if line is not None and line.id == map_id:
            return line.first
    return map_id


def program_ids(path: Path) -> dict[str, int]:
    """Return the programs of the set that *path* lies in, by link; none of what is not ours."""
    ids: dict[str, int] = {}
    with suppress(BpfError, OSError):
        found = PinSet.read(path.parent.parent, path.parent.name)
        for record in found.hooks:
            if pin := found.programs.get(record.program):
                with Program.from_pin(pin) as program:
                    ids[record.link] = program.id
    return ids


def program_change(before: Generation, now: Generation) -> Ids:
    """Return the ids of the first program that changed, else of the first there is."""
    links = {**before.programs, **now.programs}
    pairs = [(before.programs.get(link), now.programs.get(link)) for link in links]
    changed = [(old, new) for old, new in pairs if old != new]
    return next(iter((*changed, *pairs)), (None, None))


# Maps that are just being migrated: readers wait the tens of milliseconds that it takes.
#
# While a fold runs, a set's name still holds the old map, which is being emptied. The mark
# `NAME~stage/folding~` stands from before the first entry is moved until the exchange of the
# names, so what was read is whole if afterwards the mark is not there and the name still holds the
# same map. A map that the next generation keeps has a hard link in the stage: it is not moved, and
# a reload does not change it. Nobody locks for that; stat(2) tells.


class FoldUnfinishedError(BusyError):
    """What a name holds has been migrated for longer than a reader waits."""


def is_folding(path: Path) -> bool:
    """Whether the contents of the map at *path* are being moved at this moment.

    That is by the set that *path* lies in, or by one that shares its map under this name.
    """
    stage = path.parent.parent / f"{path.parent.name}{names.STAGE_SUFFIX}"
    if _is_marked(stage):
        return not _is_same_pin(path, stage / path.name)
    return _is_shared_and_folding(path)


def _is_marked(stage: Path) -> bool:
    with suppress(OSError):  # ENOENT as a rule; who may not look may not read the maps either
        (stage / names.FOLDING).stat()
        return True
    return False


def _is_shared_and_folding(path: Path) -> bool:
    """Whether *path* is a shared name whose map a set migrates; a set's own pins are none."""
    with suppress(OSError):
        if (path.parent / names.MANIFEST).is_symlink():
            return False
        for root in path.parents[:SHARED_DEPTH_MAX]:
            for stage in root.glob(f"*{names.STAGE_SUFFIX}"):
                if _is_marked(stage) and is_exchanged(stage, path.relative_to(root)):
                    return True
    return False


def _is_same_pin(one: Path, other: Path) -> bool:
    """Whether two names in bpffs are links to one pin, as those of a kept map are."""
    with suppress(OSError):
        first, second = one.lstat(), other.lstat()
        return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)
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
        self._map_id = _map_id(path)

    @property
    def lasts(self) -> bool:
        """Whether the name holds the map that it held, and nothing was moved away from it.

        A fold ends by an exchange that puts another map there. A reload that keeps the map, and
        somebody who pins it anew, change nothing.
        """
        if is_folding(self._path):
            return False
        now = identity(self._path)
        if now is None or self._before is None:
            return now is self._before
        return now.pin == self._before.pin or _map_id(self._path) == self._map_id


def _map_id(path: Path) -> int | None:
    """Return which map *path* holds, None for none that may be opened."""
    with suppress(PinError, PermissionDeniedError), Map.from_pin(path, read_only=True) as held:
        return held.id
    return None
