"""Reports of load, unload, status and clean: frozen values with their form in `-o json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bpfpin.hooks import known_hook
from bpfpin.objects.kernel.info import Extension, listed
from bpfpin.pins.pinset import SetState
from bpfpin.pins.plan import Decision
from bpfpin.records import dataclass

if TYPE_CHECKING:
    from bpfpin.migration.report import MigrationReport
    from bpfpin.objects.maps.contents import ContentsChange


class LoadResult(Enum):
    """What `load` did with a set."""

    LOADED = "loaded"
    RELOADED = "reloaded"
    UNCHANGED = "unchanged"
    PLANNED = "planned"


@dataclass(frozen=True)
class ProgramReport:
    """A program of a set and its hook; ids are None while it is only planned.

    *hook*, *mode* and *link* are None for a program that is not attached; *device*, *cgroup* or
    *target* is the place of the hook.

    Attributes:
        name: The name of the program in its object.
        id: The id of the program.
        hook: The hook that it is attached to.
        device: The network device of the hook; None for a cgroup.
        mode: The XDP mode.
        link: The id of the link; None for a hook without a link.
        note: What differs from what was asked, such as the mode; may be empty.
        cgroup: The path of the cgroup; None for a device.
        target: The function, tracepoint, … that the program names; may be empty.
    """

    name: str
    id: int | None = None
    hook: str | None = None
    device: str | None = None
    mode: str | None = None
    link: int | None = None
    note: str = ""
    cgroup: str | None = None
    target: str = ""

    @property
    def place(self) -> str:
        """Where it is attached, in words: `lab0`, `cgroup /web`, `function do_exit`."""
        if self.cgroup:
            function = f"{self.target} of " if self.target else ""
            return f"{function}cgroup {self.cgroup}"
        if self.device or self.hook is None:
            return self.device or ""
        hook = known_hook(self.hook)
        return f"{hook.traits.target.value} {self.target}".rstrip() if hook else self.target

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
        shown |= {"cgroup": self.cgroup} if self.cgroup else {}
        return shown | ({"target": self.target} if self.target else {})


@dataclass(frozen=True)
class MapReport:
    """A map of a set: its pin, the decision of the load and its reason, and its migration.

    Attributes:
        name: The name of the map in its object.
        id: The id of the map; None while it is only planned.
        path: The path of its pin.
        decision: What the load did with the map; None outside of a load.
        reason: Why; may be empty.
        migration: How its entries come over; None if they do not have to.
        contents: How its entries change, if it is to have certain ones.
    """

    name: str
    id: int | None
    path: Path
    decision: Decision | None = None
    reason: str = ""
    migration: MigrationReport | None = None
    contents: ContentsChange | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        shown: dict[str, Any] = {"name": self.name, "id": self.id, "path": str(self.path)}
        if self.decision is None:
            return shown
        shown |= {"decision": self.decision.value, "reason": self.reason}
        shown |= {"contents": self.contents.to_json()} if self.contents is not None else {}
        return shown | ({"migration": self.migration.to_json()} if self.migration else {})


@dataclass(frozen=True)
class HookReport:
    """What a load did with one hook.

    Attributes:
        hook: The hook.
        device: The network device, or `cgroup PATH`.
        action: What was done: `attach`, `update`, `detach` or `keep`.
        program: The name of the program.
        link: The id of the link; None for a hook without a link.
        before: The id of the program that ran at the hook before; None for none.
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
    """What one `load` did, or would do.

    Attributes:
        result: Whether the set was loaded, reloaded, unchanged or only planned.
        set: The name of the set.
        path: The directory of its pins.
        generation: The number of the set's generation.
        programs: The programs of the set.
        maps: The maps of the set.
        hooks: What was done with each hook.
        notes: Remarks for the user, a line each.
    """

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
            "maps": [map_report.to_json() for map_report in self.maps],
            "hooks": [hook.to_json() for hook in self.hooks],
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class UnloadReport:
    """What one `unload` removed, and which maps it left pinned.

    Attributes:
        set: The name of the set.
        path: The directory of its pins.
        devices: The devices and cgroups that ran programs of the set.
        kept_maps: The names of the maps that stay pinned.
        notes: Remarks for the user, a line each.
    """

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
class HeldHook:
    """A hook of a set as `status` sees it: *held* is `link`, `stub`, `gate`, …, *link* its id.

    *link* is None for a hook without a link, and for one that this user may not open.
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

    *metadata* has the values of the object's constants named `bpf_metadata_NAME`, by NAME.
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
            "maps": [map_report.to_json() for map_report in self.maps],
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
    """Something that is wrong with a set, and the line that mends it."""

    kind: ProblemKind
    text: str
    fix: str

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return {"kind": self.kind.value, "text": self.text, "fix": self.fix}


@dataclass(frozen=True)
class OtherProgram:
    """A program that somebody else attached; *name* is "" where it may not be asked for.

    *extensions* are the programs that it calls, as libxdp's dispatcher does.
    """

    device: str
    hook: str
    id: int
    name: str = ""
    mode: str = ""
    extensions: tuple[Extension, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        mode = f" in {self.mode} mode" if self.mode else ""
        runs = f", which runs {listed(self.extensions)}" if self.extensions else ""
        name = self.name or "a program"
        return f"{name} (id {self.id}) at {self.hook} of {self.device}{mode}{runs}"


@dataclass(frozen=True)
class StatusReport:
    """All sets of a pin root, or the one asked for, and the problems with them."""

    sets: tuple[SetReport, ...] = ()
    problems: tuple[Problem, ...] = ()
    others: tuple[OtherProgram, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return {
            "sets": [report.to_json() for report in self.sets],
            "problems": [problem.to_json() for problem in self.problems],
            "others": [program.to_json() for program in self.others],
        }


class LeftoverKind(Enum):
    """What `clean` removes."""

    STAGE = "stage"  # of an interrupted command
    TRIAL = "trial"  # that was not confirmed in time
    SET = "set"  # of a device that is gone
    DIRECTORY = "directory"  # of an unloaded set, kept for pins of others; or of a dead process
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
    """An entry that was left alone although it looks unused, and why."""

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
            "removed": [removed.to_json() for removed in self.removed],
            "left": [left.to_json() for left in self.left],
        }
