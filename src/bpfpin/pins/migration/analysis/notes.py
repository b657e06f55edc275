"""What was noticed of a program's maps while it was followed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from bpfpin.pins.migration.analysis.uses import How, Use, Write


@dataclass
class _Noted:
    writes: set[Write] = field(default_factory=set)
    unknown: dict[str, None] = field(default_factory=dict)
    inserts: bool = False
    inserts_any: bool = False
    overwrites: bool = False
    deletes: bool = False


@dataclass
class Notes:
    """Collects what a program does; the same may be noted many times."""

    maps: dict[str, _Noted] = field(default_factory=lambda: defaultdict(_Noted))

    def write(self, name: str, how: How, offset: int | None, size: int) -> None:
        """Note a write to a value of the map *name*."""
        self.maps[name].writes.add(Write(how, offset, size))

    def insert(self, name: str, *, may_replace: bool) -> None:
        """Note that a first value is inserted."""
        self.maps[name].inserts = True
        self.maps[name].inserts_any |= may_replace

    def overwrite(self, name: str) -> None:
        """Note that a whole value is written, one that may be there already."""
        self.maps[name].overwrites = True

    def delete(self, name: str) -> None:
        """Note that an entry is deleted."""
        self.maps[name].deletes = True

    def tell(self, name: str, what: str) -> None:
        """Note what cannot be followed: what is not known of the map from then on."""
        self.maps[name].unknown[what] = None

    def use(self, name: str) -> Use:
        """Return all that was noted of a map."""
        noted = self.maps[name]
        return Use(
            frozenset(noted.writes),
            inserts=noted.inserts,
            inserts_any=noted.inserts_any,
            overwrites=noted.overwrites,
            deletes=noted.deletes,
            unknown=tuple(noted.unknown),
        )
