"""What a follower tells: that a name was reloaded or is gone, and what changed in its map."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bpfpin.errors import LimitError
from bpfpin.objects.map import Map

ENTRIES_MAX: Final = 65_536

Ids = tuple[int | None, int | None]


@dataclass(frozen=True, slots=True)
class Reload:
    """A name that holds another generation than before; each pair of ids is old and new.

    *program* is one of the set's hooks, of several the first that changed; None where there is
    none, where the pin lies in no set of ours, or where this user may not look.
    """

    program: Ids
    map: tuple[int, int]

    @property
    def is_restart(self) -> bool:
        """Whether the name holds another map, whose entries are others."""
        return self.map[0] != self.map[1]

    def since(self, earlier: Reload | None) -> Reload:
        """Return this reload and the one before it as one."""
        if earlier is None:
            return self
        return Reload((earlier.program[0], self.program[1]), (earlier.map[0], self.map[1]))

    def __str__(self) -> str:
        if self.is_restart:
            return f"map {self.map[0]} -> {self.map[1]}: counters restart"
        old, new = (id_ or "none" for id_ in self.program)
        program = f"program {old} -> {new}, " if old != new else ""
        return f"reload followed: {program}same map"


@dataclass(frozen=True, slots=True)
class Gone:
    """A name that holds nothing now; *map* is the id of what it held."""

    path: Path
    map: int

    def __str__(self) -> str:
        return f"{self.path} is gone; waiting for it"


@dataclass(frozen=True, slots=True)
class Reading:
    """All entries of a map at one moment."""

    monotonic_s: float
    wall_s: float
    map_id: int
    entries: Mapping[Any, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a map's entries in one interval.

    *wall_time_s* is its end (seconds since the epoch), *period_s* the time since the reading that
    *entries*, all of them as they are now, is compared with. *changed* has old and new value by
    key. A *reload* came before or within the interval; if it brought another map, the comparison
    begins with the first reading of that one. *is_gone*: the name held nothing at the end of the
    interval, and there are no entries.
    """

    wall_time_s: float
    period_s: float
    map_id: int
    entries: Mapping[Any, Any] = field(default_factory=dict)
    changed: Mapping[Any, tuple[Any, Any]] = field(default_factory=dict)
    added: Mapping[Any, Any] = field(default_factory=dict)
    removed: Mapping[Any, Any] = field(default_factory=dict)
    reload: Reload | None = None
    is_gone: bool = False


def read(held: Map, *, entries_max: int = ENTRIES_MAX) -> Reading:
    """Read all entries; `LimitError` if there are more than *entries_max*."""
    monotonic_s, wall_s = time.monotonic(), time.time()
    entries: dict[Any, Any] = {}
    for part in held.lookup_batch():
        entries.update(part)
        if len(entries) > entries_max:
            raise LimitError(
                f"map {held.name!r} (id {held.id}) has more than {entries_max} entries, too many to"
                " compare each time",
                limit=entries_max,
                asked=held.max_entries,
                hint="raise entries_max, or read it by its batches: live.map.lookup_batch()",
            )
    return Reading(monotonic_s, wall_s, held.id, entries)


def change_between(before: Reading, now: Reading, *, reload: Reload | None = None) -> Change:
    """Compare two readings of one map."""
    old, new = before.entries, now.entries
    kept = old.keys() & new.keys()
    return Change(
        wall_time_s=now.wall_s,
        period_s=now.monotonic_s - before.monotonic_s,
        map_id=now.map_id,
        entries=new,
        changed={key: (old[key], new[key]) for key in new if key in kept and old[key] != new[key]},
        added={key: value for key, value in new.items() if key not in kept},
        removed={key: value for key, value in old.items() if key not in kept},
        reload=reload,
    )
