"""What a follower tells: that a name was reloaded or is gone, and what changed in its map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpfpin.objects.changes import Change, Ids, Reload

__all__ = ["Change", "Gone", "Ids", "Migrating", "Reload", "document"]


def document(told: Reload | Gone | Migrating) -> dict[str, Any]:
    """Return what a follower tells as the JSON documents have it."""
    if isinstance(told, Reload):
        migrated = {"migrated": True} if told.is_migration else {}
        return {"event": "reload", "program": told.program, "map": told.map, **migrated}
    event = "gone" if isinstance(told, Gone) else "migrating"
    return {"event": event, "path": told.path, "map": told.map}


@dataclass(frozen=True, slots=True)
class Gone:
    """A name that holds nothing now; *map* is the id of what it held."""

    path: Path
    map: int

    def __str__(self) -> str:
        return f"{self.path} is gone; waiting for it"


@dataclass(frozen=True, slots=True)
class Migrating:
    """A name whose map, of id *map*, has been migrated for long, so that nothing can be read."""

    path: Path
    map: int

    def __str__(self) -> str:
        return (
            f"{self.path} is still being migrated; waiting for it. If the process that did it is"
            " dead, bpfpin clean finishes it, and so does the next load"
        )
