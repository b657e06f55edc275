"""What a follower tells: that a name was reloaded or is gone, and what changed in its map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bpfpin.objects.changes import Change, Ids, Reload

__all__ = ["Change", "Gone", "Ids", "Reload"]


@dataclass(frozen=True, slots=True)
class Gone:
    """A name that holds nothing now; *map* is the id of what it held."""

    path: Path
    map: int

    def __str__(self) -> str:
        return f"{self.path} is gone; waiting for it"
