"""What loading, unloading and looking found: frozen values with the form that `-o json` shows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Self

from bpfpin.pins.migration.plan import MigrationPlan
from bpfpin.pins.plan import Decision


class LoadResult(Enum):
    """What `load` did with a set."""

    LOADED = "loaded"
    RELOADED = "reloaded"
    UNCHANGED = "unchanged"
    PLANNED = "planned"


@dataclass(frozen=True)
class ProgramReport:
    """A program of a set and where it runs; ids are None while it is only planned.

    *hook*, *mode* and *link* are None for a program that is not attached; *device* or *cgroup* says
    where.
    """

    name: str
    id: int | None = None
    hook: str | None = None
    device: str | None = None
    mode: str | None = None
    link: int | None = None
    note: str = ""
    cgroup: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        shown = {
            "name": self.name,
            "id": self.id,
            "hook": self.hook,
            "device": self.device,
            "mode": self.mode,
            "link": self.link,
        }
        shown |= {"note": self.note} if self.note else {}
        return shown | ({"cgroup": self.cgroup} if self.cgroup else {})


@dataclass(frozen=True)
class MapReport:
    """A map of a set, where it is pinned, what became of it and why, and how its contents came."""

    name: str
    id: int | None
    path: Path
    decision: Decision | None = None
    reason: str = ""
    migration: MigrationPlan | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        shown = {"name": self.name, "id": self.id, "path": str(self.path)}
        if self.decision is None:
            return shown
        shown |= {"decision": self.decision.value, "reason": self.reason}
        return shown | ({"migration": self.migration.to_json()} if self.migration else {})


@dataclass(frozen=True)
class HookReport:
    """What became of one hook: *action* is `attach`, `update`, `detach` or `keep`.

    *device* is where it is, `cgroup PATH` for a cgroup; *before* the id of the program that ran
    there, None for none.
    """

    hook: str
    device: str
    action: str
    program: str
    link: int | None = None
    before: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class LoadReport:
    """What one `load` did, or would do."""

    result: LoadResult
    set: str
    path: Path
    generation: int
    programs: tuple[ProgramReport, ...] = ()
    maps: tuple[MapReport, ...] = ()
    hooks: tuple[HookReport, ...] = ()
    notes: tuple[str, ...] = ()

    def with_notes(self, notes: tuple[str, ...]) -> Self:
        """Return the report with *notes* in front of its own."""
        return dataclasses.replace(self, notes=(*notes, *self.notes)) if notes else self

    @property
    def is_planned(self) -> bool:
        """Whether nothing was done yet."""
        return self.result is LoadResult.PLANNED

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return {
            "result": self.result.value,
            "set": self.set,
            "path": str(self.path),
            "generation": self.generation,
            "programs": [program.to_json() for program in self.programs],
            "maps": [held.to_json() for held in self.maps],
            "hooks": [hook.to_json() for hook in self.hooks],
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class UnloadReport:
    """What one `unload` removed, and which maps it left pinned."""

    set: str
    path: Path
    devices: tuple[str, ...] = ()
    kept_maps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return {
            "result": "unloaded",
            "set": self.set,
            "kept_maps": list(self.kept_maps),
            "notes": list(self.notes),
        }
