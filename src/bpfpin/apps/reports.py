"""What loading, unloading and looking found: frozen values with the form that `-o json` shows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Self

from bpfpin.pins.pinset import SetState


class LoadResult(Enum):
    """What `load` did with a set."""

    LOADED = "loaded"
    RELOADED = "reloaded"
    UNCHANGED = "unchanged"
    PLANNED = "planned"


class Decision(Enum):
    """What became of a map."""

    CREATED = "created"
    KEPT = "kept"
    SHARED = "shared"
    FRESH = "fresh"
    MIGRATED = "migrated"
    REMOVED = "removed"


@dataclass(frozen=True)
class ProgramReport:
    """A program of a set and where it runs; ids are None while it is only planned.

    *hook*, *mode* and *link* are None for a program that is not attached.
    """

    name: str
    id: int | None = None
    hook: str | None = None
    device: str | None = None
    mode: str | None = None
    link: int | None = None
    note: str = ""

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
        return {**shown, "note": self.note} if self.note else shown


@dataclass(frozen=True)
class MapReport:
    """A map of a set, where it is pinned and what became of it."""

    name: str
    id: int | None
    path: Path
    decision: Decision | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        shown = {"name": self.name, "id": self.id, "path": str(self.path)}
        return {**shown, "decision": self.decision.value} if self.decision else shown


@dataclass(frozen=True)
class LoadReport:
    """What one `load` did, or would do."""

    result: LoadResult
    set: str
    path: Path
    generation: int
    programs: tuple[ProgramReport, ...] = ()
    maps: tuple[MapReport, ...] = ()
    notes: tuple[str, ...] = ()

    def with_notes(self, notes: tuple[str, ...]) -> Self:
        """Return the report with *notes* in front of its own."""
        return dataclasses.replace(self, notes=(*notes, *self.notes))

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


@dataclass(frozen=True)
class SetReport:
    """One set as `status` sees it; *object* and *generation* are empty for a foreign one."""

    set: str
    path: Path
    state: SetState
    reason: str = ""
    object: str = ""
    generation: int = 0
    programs: tuple[ProgramReport, ...] = ()
    maps: tuple[MapReport, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return {
            "set": self.set,
            "path": str(self.path),
            "state": self.state.value,
            "reason": self.reason,
            "object": self.object,
            "generation": self.generation,
            "programs": [program.to_json() for program in self.programs],
            "maps": [held.to_json() for held in self.maps],
        }


class ProblemKind(Enum):
    """What `status` finds wrong."""

    DEFUNCT_LINK = "defunct-link"
    HALF_BUILT = "half-built"
    FOREIGN = "foreign"
    PROGRAM_CHANGED = "program-changed"
    MAP_DIFFERS = "map-differs"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be, and what to type against it."""

    kind: ProblemKind
    text: str
    fix: str

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return {"kind": self.kind.value, "text": self.text, "fix": self.fix}


@dataclass(frozen=True)
class StatusReport:
    """All sets of a pin root, or the one asked for, and what is wrong with them."""

    sets: tuple[SetReport, ...] = ()
    problems: tuple[Problem, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return {
            "sets": [found.to_json() for found in self.sets],
            "problems": [problem.to_json() for problem in self.problems],
        }
