"""What a name in bpffs holds at one moment: the map, and the programs of the set it lies in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bpfpin.apps.changes import Ids
from bpfpin.errors import BpfError
from bpfpin.objects.map import Map
from bpfpin.objects.program import Program
from bpfpin.pins.pinset import PinSet

Identity = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Generation:
    """What a name holds: its map, and the ids of the programs of its set by link."""

    identity: Identity
    map: Map
    programs: Mapping[str, int]

    @property
    def directory(self) -> tuple[int, int]:
        """Which directory the name is in; a reload brings another one."""
        return self.identity[:2]


def identity(path: Path) -> Identity | None:
    """Return what tells whether a name, and the directory it is in, are still the same."""
    try:
        directory, pin = path.parent.stat(), path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return directory.st_dev, directory.st_ino, pin.st_dev, pin.st_ino


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
