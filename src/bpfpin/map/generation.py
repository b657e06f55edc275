"""The map at a path in bpffs at one moment: its generation, and whether all entries are in it.

A reload or a migration puts the next generation at the same path. The manifest of the pin set says
whether the next map took over the entries of the one before.

Readers do not lock; stat(2) tells them whether they read a whole map. While a fold runs, the path
still leads to the old map, which is being emptied. The mark `NAME~stage/folding~` exists from
before the first entry is moved until the exchange of the names. So a reading is whole if afterwards
the mark does not exist and the path still leads to the same map. A map that the next generation
keeps has a hard link in the stage: none of its entries are moved, and a reload does not change it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypeVar

from bpfpin.errors import BpfError, BusyError, PermissionDeniedError, PinError
from bpfpin.objects.maps.map import Map
from bpfpin.pins import names
from bpfpin.pins.manifest import manifest_around
from bpfpin.records import dataclass
from bpfpin.syscall.errno_table import syscall_error

if TYPE_CHECKING:
    from bpfpin.objects.maps.watch import Ids

# A fold of 1,000,000 entries takes 0.5 to 1 s (measured): after ten seconds its process is probably
# dead, and recovery has to finish the fold.
WAIT_MAX_S: Final = 10.0
# A fold of few entries, with its barrier, takes 8 to 32 ms (measured).
PAUSE_S: Final = 0.002
SHARED_DEPTH_MAX: Final = 4  # directories above a shared name: tc/globals/NAME and a root below it
T = TypeVar("T")


class FoldUnfinishedError(BusyError):
    """The map at a path has been migrated for longer than a reader waits."""


class Identity(NamedTuple):
    """Device and inode of a pin and of its directory: they differ from generation to generation.

    A reload exchanges the directory. The pin of a map that is kept is hard-linked, so its inode
    stays the same.
    """

    directory: tuple[int, int]
    pin: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Generation:
    """The map at a path, and the ids of the programs of its pin set, by link.

    *first_id* is the id of the first map in the chain of migrations that led to this one; its own
    id if it was not migrated.
    """

    identity: Identity
    map: Map
    programs: Mapping[str, int]
    first_id: int

    @classmethod
    def of(cls, identity: Identity, path: Path, bpf_map: Map) -> Self:
        """Return the generation at *path*, whose map is *bpf_map*."""
        return cls(identity, bpf_map, program_ids(path), first_id(path, bpf_map.id))

    def continues(self, before: Generation) -> bool:
        """Whether this is another map, to which the entries of the one *before* were migrated."""
        return self.map.id != before.map.id and self.first_id == before.first_id

    @property
    def directory(self) -> tuple[int, int]:
        """Device and inode of the directory; a reload brings another one."""
        return self.identity.directory


def identity(path: Path) -> Identity | None:
    """Return the identity of the pin at *path*, None if it does not exist.

    `PermissionDeniedError` if this user may not search a directory on the way.
    """
    try:
        # An exchange between the two calls gives a mixed pair, which differs from both generations:
        # a later comparison finds a change, and the reader looks again.
        directory, pin = path.parent.stat(), path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise syscall_error("stat", error.errno or 0, target=str(path)) from None
    return Identity((directory.st_dev, directory.st_ino), (pin.st_dev, pin.st_ino))


def first_id(path: Path, map_id: int) -> int:
    """Return the id of the first map in the chain of migrations to map *map_id* at *path*.

    The manifest is trusted for this, also in sets of other users: write access to it implies the
    right to pin another map there.
    """
    manifest = manifest_around(path)
    line = manifest.migrated.get(names.decode(path.name)) if manifest is not None else None
    return line.first if line is not None and line.id == map_id else map_id


def program_ids(path: Path) -> dict[str, int]:
    """Return the ids of the programs of the pin set around *path*, by link; none without one."""
    # Only followers need sets and programs, and the modules that loading programs takes.
    from bpfpin.pins.pinset import PinSet  # noqa: PLC0415

    ids: dict[str, int] = {}
    with suppress(BpfError, OSError):
        # A pin outside of a set has no manifest, and a set may be unloaded at this moment.
        pin_set = PinSet.read(path.parent.parent, path.parent.name)
        for record in pin_set.hooks:
            own_id = pin_set.id_of(names.PROGRAMS, record.program)
            if own_id is not None:
                ids[record.link] = own_id
            elif program := pin_set.open_program(record.program):
                with program:
                    ids[record.link] = program.id
    return ids


def program_change(before: Generation, now: Generation) -> Ids:
    """Return the old and new id of the first program that changed, else of the first program."""
    links = {**before.programs, **now.programs}
    pairs = [(before.programs.get(link), now.programs.get(link)) for link in links]
    changed = [(old, new) for old, new in pairs if old != new]
    return next(iter((*changed, *pairs)), (None, None))


def is_folding(path: Path) -> bool:
    """Whether entries of the map at *path* are being moved now.

    They are moved by the pin set that *path* is in, or by a set that shares its map by this name.
    """
    stage = path.parent.parent / f"{path.parent.name}{names.STAGE_SUFFIX}"
    # A map that the next generation keeps is hard-linked into the stage, and is not emptied.
    if _is_marked(stage):
        return not _is_same_pin(path, stage / path.name)
    return _is_shared_and_folding(path)


def _is_marked(stage: Path) -> bool:
    # Usually ENOENT. EACCES counts as no mark: without search permission for the stage, the
    # maps cannot be read either.
    with suppress(OSError):
        (stage / names.FOLDING).stat()
        return True
    return False


def _is_shared_and_folding(path: Path) -> bool:
    """Whether *path* is a shared name, not a set's own pin, and a set migrates its map now."""
    with suppress(OSError):
        # Each set's own pin is beside its manifest; a shared name is not.
        if (path.parent / names.MANIFEST).is_symlink():
            return False
        from bpfpin.pins.shared import is_exchanged  # noqa: PLC0415

        for root in path.parents[:SHARED_DEPTH_MAX]:
            for stage in root.glob(f"*{names.STAGE_SUFFIX}"):
                if _is_marked(stage) and is_exchanged(stage, path.relative_to(root)):
                    return True
    return False


def _is_same_pin(path: Path, other: Path) -> bool:
    """Whether two names in bpffs are hard links to one pin, as those of a kept map are."""
    with suppress(OSError):
        first, second = path.lstat(), other.lstat()
        return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)
    return False


def wait_for_fold(path: Path, *, timeout_s: float = WAIT_MAX_S) -> None:
    """Wait until no entries of the map at *path* are moved; at most *timeout_s* seconds.

    Then `FoldUnfinishedError`.
    """
    deadline_s = 0.0
    while is_folding(path):
        now_s = time.monotonic()
        # The clock is read only if there is a fold: usually one stat(2) is all.
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
    """Return the result of *once*, which opens and reads *path*; not from amid a migration."""
    while True:
        moment = Moment(path, timeout_s=timeout_s)
        result = once()
        if moment.lasts:
            return result


class Moment:
    """A moment from which on all entries are in the map at *path*; waits for a fold to end."""

    def __init__(self, path: Path, *, timeout_s: float = WAIT_MAX_S) -> None:
        wait_for_fold(path, timeout_s=timeout_s)
        self._path = path
        self._before = identity(path)
        self._map_id = _map_id(path)

    @property
    def lasts(self) -> bool:
        """Whether the path still leads to the same map, and no entry was moved out of it.

        A fold ends with an exchange that puts another map there. A reload that keeps the map, or
        a new pin of the same map, makes no difference.
        """
        if is_folding(self._path):
            return False
        now = identity(self._path)
        if now is None or self._before is None:
            return now is self._before
        # The inode first: to open the pin costs more, and is needed only if it is another one.
        return now.pin == self._before.pin or _map_id(self._path) == self._map_id


def _map_id(path: Path) -> int | None:
    """Return the id of the map at *path*, None if this user can open none there."""
    with suppress(PinError, PermissionDeniedError), Map.from_pin(path, read_only=True) as bpf_map:
        return bpf_map.id
    return None
