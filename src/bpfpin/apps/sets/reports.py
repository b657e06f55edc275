"""What `status` and `clean` found: frozen values with the form that `-o json` shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from bpfpin.apps.reports import MapReport, ProgramReport
from bpfpin.apps.sets.others import OtherProgram
from bpfpin.pins.pinset import SetState


@dataclass(frozen=True)
class HeldHook:
    """A hook of a set as it is found: *held* is `link` or `netlink`, *link* the link's id.

    *link* is None where there is none, or this user may not open it.
    """

    hook: str
    device: str
    program: str
    mode: str
    held: str
    link: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class SetReport:
    """One set as `status` sees it; *object* and *generation* are empty for a foreign one.

    *metadata* is what the object says of itself in constants named `bpf_metadata_NAME`, by NAME.
    *foreign* are the pins of others in its directory.
    """

    set: str
    path: Path
    state: SetState
    reason: str = ""
    object: str = ""
    generation: int = 0
    programs: tuple[ProgramReport, ...] = ()
    maps: tuple[MapReport, ...] = ()
    hooks: tuple[HeldHook, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    foreign: tuple[Path, ...] = ()

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
            "hooks": [hook.to_json() for hook in self.hooks],
            "metadata": dict(self.metadata),
            "foreign": [str(path) for path in self.foreign],
        }


class ProblemKind(Enum):
    """What `status` finds wrong."""

    DEFUNCT_LINK = "defunct-link"
    HALF_BUILT = "half-built"
    FOLD_UNFINISHED = "fold-unfinished"
    FOREIGN = "foreign"
    PROGRAM_CHANGED = "program-changed"
    PIN_MISSING = "pin-missing"
    PIN_REPLACED = "pin-replaced"
    MAP_DIFFERS = "map-differs"
    NOT_SHARED = "not-shared"
    OLD_MAP_HELD = "old-map-held"
    ORPHAN = "orphan"
    ACCESS = "access"
    HELD_BY_NETLINK = "held-by-netlink"
    ON_TRIAL = "on-trial"
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
    others: tuple[OtherProgram, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return {
            "sets": [found.to_json() for found in self.sets],
            "problems": [problem.to_json() for problem in self.problems],
            "others": [program.to_json() for program in self.others],
        }


class LeftoverKind(Enum):
    """What `clean` removes."""

    STAGE = "stage"  # what a dead command had begun
    TRIAL = "trial"  # what was not confirmed in time
    SET = "set"  # of a device that is gone
    DIRECTORY = "directory"  # of a set that was unloaded, kept for pins of others
    LINK = "link"
    PROGRAM = "program"
    MAP = "map"


@dataclass(frozen=True)
class Removed:
    """A leftover that was removed, or would be, and why."""

    kind: LeftoverKind
    path: Path
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return {"kind": self.kind.value, "path": str(self.path), "reason": self.reason}


@dataclass(frozen=True)
class Left:
    """What was looked at and left alone, and why."""

    path: Path
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return {"path": str(self.path), "reason": self.reason}


@dataclass(frozen=True)
class CleanReport:
    """What one `clean` removed, or would remove, and what it left although it looks unused."""

    is_planned: bool
    removed: tuple[Removed, ...] = ()
    left: tuple[Left, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return {
            "result": "planned" if self.is_planned else "cleaned",
            "removed": [one.to_json() for one in self.removed],
            "left": [one.to_json() for one in self.left],
        }
