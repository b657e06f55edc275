"""What a name in bpffs holds at one moment: the map, and the programs of the set it lies in.

Whether another map goes on with what the one before has counted stands in the set's manifest.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from bpfpin.apps.changes import Ids
from bpfpin.errors import BpfError
from bpfpin.objects.map import Map
from bpfpin.objects.program import Program
from bpfpin.pins import names
from bpfpin.pins.manifest import Manifest
from bpfpin.pins.pinset import PinSet
from bpfpin.syscall.refusal import refusal


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
        raise refusal("stat", error.errno or 0, target=str(path)) from None
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
        for record in found.manifest.hooks if found.manifest else ():
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
