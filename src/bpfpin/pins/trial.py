"""What stands in bpffs of a change that is on trial: it goes back unless somebody confirms it.

`NAME/confirm~/` belongs to the set NAME and holds `record`, a symlink whose text says until when
and what goes back, and what that takes: the pin `map` of a map that one entry was changed in, or
`before`, the generation that a load replaced. A map of no set has its own in the directory of the
lock. Without a record, and where somebody else made it, it counts for nothing.

The command that puts the change on trial adds `begun` last of all, a symlink whose text is the
deadline. Without it the command failed or was killed: nobody was told of the trial, and the change
goes back.
"""

from __future__ import annotations

import dataclasses
import json
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from bpfpin.errors import PermissionDeniedError, PinError, PinExistsError, PinNotFoundError
from bpfpin.pins import names
from bpfpin.pins.directory import Directory, EntryKind, remove_tree, require_safe
from bpfpin.pins.manifest import JsonObject
from bpfpin.pins.ownership import GenerationEntry, Ownership, ownership_of, record_all_objects

CONFIRM: Final = names.CONFIRM
RECORD: Final = "record"
MAP: Final = "map"
BEFORE: Final = "before"
BEGUN: Final = "begun"
SECONDS_MAX: Final = 86400
GRACE_S: Final = (
    30  # more than its seconds, for the command that puts a change on trial to get done
)

_SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class TrialPlace:
    """Where a trial stands: *entry* in the directory *parent* of the pin root *root*."""

    root: Path
    parent: str
    entry: str = CONFIRM

    @classmethod
    def of_map(cls, root: Path, map_id: int) -> Self:
        """Return the place of a map that is in no set of ours."""
        return cls(root, names.LOCK_DIRECTORY, f"{CONFIRM}{map_id}")

    @property
    def set(self) -> str:
        """The directory of the set that is on trial, "" if it is none."""
        return "" if self.parent == names.LOCK_DIRECTORY else self.parent


@dataclass(frozen=True, slots=True)
class EntryChange:
    """An entry of a map that was changed; *old* is None where there was none."""

    key: bytes
    old: bytes | None
    new: bytes


@dataclass(frozen=True, slots=True)
class Trial:
    """A change on trial; the deadline is of the clock that runs since boot, also in suspend.

    Until the trial has begun, the deadline is the one of the command that puts the change on trial.

    *pid* and *started* (clock ticks since boot) are of the process that waits for the deadline. It
    alone holds *links*, link ids by the name that their pins in the set are to have. *is_begun*,
    which the record does not hold, says whether the command that put it on trial came to its end.
    """

    token: str
    seconds: int
    deadline_ms: int
    pid: int
    started: int
    device: str = ""
    netns_inode: int = 0
    what: str = ""
    change: EntryChange | None = None
    links: Mapping[str, int] = field(default_factory=dict)
    is_begun: bool = field(default=False, compare=False)

    @property
    def left_s(self) -> float:
        """How many seconds are left to confirm it, at least 0."""
        return max(0.0, (self.deadline_ms - now_ms()) / 1000)

    @property
    def is_late(self) -> bool:
        """Whether the deadline has passed."""
        return now_ms() >= self.deadline_ms

    def to_text(self) -> str:
        """Return the text of the record."""
        shown = dataclasses.asdict(self)
        del shown["is_begun"]
        if self.change is not None:
            old = None if self.change.old is None else self.change.old.hex()
            shown["change"] = [self.change.key.hex(), old, self.change.new.hex()]
        return json.dumps({"schema": _SCHEMA, **shown}, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the trial of a record; `ValueError` if it is none."""
        record = JsonObject.load(text)
        if record.number("schema") != _SCHEMA:
            raise ValueError("it was made by another version of bpfpin")
        return cls(
            token=record.text("token"),
            seconds=record.number("seconds"),
            deadline_ms=record.number("deadline_ms"),
            pid=record.number("pid"),
            started=record.number("started"),
            device=record.text("device"),
            netns_inode=record.number("netns_inode"),
            what=record.text("what"),
            change=_change(record.value("change")),
            links=_links(record.value("links")),
        )


def now_ms() -> int:
    """Return the milliseconds since boot, those in suspend too."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def command_deadline_ms(seconds: int) -> int:
    """Return until when the command has to be over that puts a change on trial for *seconds*."""
    return now_ms() + (seconds + GRACE_S) * 1000


def read_trial(parent: Directory, entry: str = CONFIRM) -> Trial | None:
    """Return what is on trial in *parent*, None if nothing is; what others forged is nothing."""
    nothing = (PinError, PermissionDeniedError, ValueError, RecursionError)
    with suppress(*nothing), parent.child(entry) as room:
        record = room.stat(RECORD)
        owners = {parent.status.st_uid, room.status.st_uid, record.st_uid}
        require_safe(room)
        if len(owners) == 1 and stat.S_ISLNK(record.st_mode):
            trial = Trial.parse(room.read_text(RECORD))
            trial = _begun(trial, room)
            is_sane = trial.seconds <= SECONDS_MAX and trial.left_s <= trial.seconds + GRACE_S
            return trial if is_sane else None
    return None


def make_trial(parent: Directory, entry: str = CONFIRM) -> Directory:
    """Make and open the directory of a trial; what a dead command left there goes first."""
    try:
        return parent.make(entry)
    except PinExistsError:
        end_trial(parent, entry)
        return parent.make(entry)


def begin_trial(parent: Directory, seconds: int, entry: str = CONFIRM) -> None:
    """Let the trial in *parent* begin: from here on there are *seconds* to confirm it."""
    with parent.child(entry) as room:
        room.write_text(BEGUN, str(now_ms() + seconds * 1000))


def _begun(trial: Trial, room: Directory) -> Trial:
    """Return the trial with its deadline, if it has begun."""
    try:
        deadline_ms = int(room.read_text(BEGUN))
    except PinNotFoundError:
        return trial
    return dataclasses.replace(trial, deadline_ms=deadline_ms, is_begun=True)


def end_record(parent: Directory, entry: str = CONFIRM) -> None:
    """Let nothing be on trial any more, and keep what going back takes."""
    with suppress(PinNotFoundError), parent.child(entry) as room:
        require_safe(room)
        room.unlink(RECORD)


def end_trial(parent: Directory, entry: str = CONFIRM) -> None:
    """Let nothing be on trial any more: the record goes first, then what going back takes."""
    end_record(parent, entry)
    with suppress(PinNotFoundError):
        remove_tree(parent, entry)


def copy_generation(source: Directory, target: Directory) -> None:
    """Give all pins, types and the manifest of one generation to another directory, too.

    What others pinned there is left out. What tells ours from others is copied first.
    """
    owner, kinds = ownership_of(source), source.kinds()
    folders = [name for name, kind in kinds.items() if kind is EntryKind.DIRECTORY]
    for name in sorted(folders, key=lambda name: name != names.OBJECTS):
        if name not in names.MARKS and owner.has_own_name(
            GenerationEntry("", name, EntryKind.DIRECTORY)
        ):
            with suppress(PinExistsError):
                target.mark(name)
            with source.child(name) as below, target.child(name) as there:
                for entry, kind in below.kinds().items():
                    _copy_entry(below, there, GenerationEntry(name, entry, kind), owner)
    for name, kind in kinds.items():
        if kind is not EntryKind.DIRECTORY:
            _copy_entry(source, target, GenerationEntry("", name, kind), owner)
    if owner.objects is None and target.has(names.OBJECTS):  # of an earlier version
        record_all_objects(target)


def _copy_entry(
    source: Directory, target: Directory, entry: GenerationEntry, owner: Ownership
) -> None:
    if not owner.owns(source, entry):
        return
    if entry.kind is EntryKind.SYMLINK:
        target.write_text(entry.name, source.read_text(entry.name))
    else:
        target.link_from(source, entry.name)


def _change(value: Any) -> EntryChange | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != len(dataclasses.fields(EntryChange)):
        raise ValueError("'change' is no change of an entry")
    key, old, new = (None if word is None else bytes.fromhex(str(word)) for word in value)
    if key is None or new is None:
        raise ValueError("'change' lacks a value")
    return EntryChange(key, old, new)


def _links(value: Any) -> dict[str, int]:
    if not isinstance(value, dict):
        raise ValueError("'links' is no table of links")
    if any("/" in name or not name for name in value):
        raise ValueError("'links' has a name that is none")
    links = JsonObject(value)
    return {name: links.number(name) for name in value}
