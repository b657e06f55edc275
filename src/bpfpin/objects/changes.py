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
class Change:
    """What became of a map's entries between two readings.

    *wall_time_s* is the moment of the later one (seconds since the epoch), *period_s* the time
    between the two. *changed* has old and new value by key. *entries*, all of them as they are now,
    are decoded when they are first looked at. What came and went between the readings is not seen.

    Of a name that is followed, a *reload* came before or within the interval; if it brought another
    map, the comparison begins with the first reading of that one. *is_gone*: the name held nothing
    at the end of the interval, and there are no entries.
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
