"""What whoever watches a map is told: what became of its entries, and that a name was reloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Ids = tuple[int | None, int | None]


@dataclass(frozen=True, slots=True)
class Reload:
    """A name that holds another generation than before; each pair of ids is old and new.

    *program* is one of the set's hooks, of several the first that changed; None where there is
    none, where the pin lies in no set of ours, or where this user may not look.
    """

    program: Ids
    map: tuple[int, int]
    is_migration: bool = False
    """The other map took over what the one before held: its counts go on."""

    @property
    def is_other_map(self) -> bool:
        """Whether the name holds another map."""
        return self.map[0] != self.map[1]

    @property
    def is_restart(self) -> bool:
        """Whether the name holds another map, whose entries have nothing to do with the others."""
        return self.is_other_map and not self.is_migration

    def since(self, earlier: Reload | None) -> Reload:
        """Return this reload and the one before it as one."""
        if earlier is None:
            return self
        both = earlier, self
        return Reload(
            (earlier.program[0], self.program[1]),
            (earlier.map[0], self.map[1]),
            any(one.is_migration for one in both) and not any(one.is_restart for one in both),
        )

    def __str__(self) -> str:
        if self.is_other_map:
            what = "migrated, the counts go on" if self.is_migration else "counters restart"
            return f"map {self.map[0]} -> {self.map[1]}: {what}"
        old, new = (id_ or "none" for id_ in self.program)
        program = f"program {old} -> {new}, " if old != new else ""
        return f"reload followed: {program}same map"


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a map's entries between two readings.

    *wall_time_s* is the moment of the later one (seconds since the epoch), *period_s* the time
    between the two. *changed* has old and new value by key. *entries*, all of them as they are now,
    are decoded when they are first looked at. What came and went between the readings is not seen.

    Of a name that is followed, a *reload* came before or within the interval; if it brought another
    map, the comparison begins with the first reading of that one; but if that was migrated from the
    one before, it goes on, by the names that members have in both. *is_gone*: the name held nothing
    at the end of the interval, and there are no entries. *is_unfinished*: there are none because a
    migration has been moving them for long, whose process is perhaps dead.
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
    is_unfinished: bool = False
