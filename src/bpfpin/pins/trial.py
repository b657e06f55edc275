"""The state of a trial in bpffs: a change that is undone unless somebody confirms it in time.

The directory `NAME/confirm~/` of set NAME contains:

* `record`: a symlink whose text is JSON: the deadline, and what to undo.
* `map`: a pin of the map, if the change is one entry of a map; or `before/`: the pins of the
  generation that a load replaced, from which it is loaded again.
* `begun`: a symlink whose text is the deadline.

A map that belongs to no set has such a directory in `bpfpin~`, named after its id.

The order of writing decides what a crash leaves. The record and the pins come before the change,
inside of the stage of a load, so that they are published with it. `begun` is written last, when the
command reports the trial. Without it the command failed or was killed, nobody knows of the trial,
and the change is undone. To end a trial, the record is removed first: a directory without a record,
or one that another user made, counts for nothing.

Hooks that leave the set stay attached during the trial: links by their pins in `before/`, and what
no link holds because `recover.remove_generation` leaves it alone as long as there is a record.

The process that waits for the deadline, and what it does then, are in package `sets`.
"""

from __future__ import annotations

import dataclasses
import json
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import Any, Final, Self

from bpfpin.errors import PermissionDeniedError, PinError, PinExistsError, PinNotFoundError
from bpfpin.pins import names
from bpfpin.pins.directory import Directory, EntryKind, remove_tree, require_safe
from bpfpin.pins.manifest import JsonObject
from bpfpin.pins.ownership import GenerationEntry, Ownership, ownership_of, record_all_objects
from bpfpin.records import dataclass

CONFIRM: Final = names.CONFIRM
RECORD: Final = "record"
MAP: Final = "map"
BEFORE: Final = "before"
BEGUN: Final = "begun"
# A day: nobody watches a change that is not confirmed by then. A longer record is not believed.
SECONDS_MAX: Final = 86400
# More than its seconds, for the command that puts a change on trial to complete.
GRACE_S: Final = 30

_SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class TrialPlace:
    """The place of a trial: *entry* in the directory *parent* of the pin root *root*."""

    root: Path
    parent: str
    entry: str = CONFIRM

    @classmethod
    def of_map(cls, root: Path, map_id: int) -> Self:
        """Return the place for a map that belongs to no set."""
        return cls(root, names.LOCK_DIRECTORY, f"{CONFIRM}{map_id}")

    @property
    def set(self) -> str:
        """The directory of the set that is on trial, "" for a map outside of sets."""
        return "" if self.parent == names.LOCK_DIRECTORY else self.parent


@dataclass(frozen=True, slots=True)
class EntryChange:
    """A changed entry of a map; *old* is None if the entry is new."""

    key: bytes
    old: bytes | None
    new: bytes


@dataclass(frozen=True, slots=True)
class Trial:
    """A change on trial.

    *deadline_ms* is a time of CLOCK_BOOTTIME, which also runs in suspend. Until the trial has begun
    it is the deadline of the command that puts the change on trial.

    *pid* and *started* (clock ticks since boot) identify the process that waits for the deadline.
    It alone holds *links* (link ids by the name that their pins in the set will have), so that the
    kernel detaches them if that process is killed. *is_begun* is not part of the record: it says
    whether the command that started the trial completed.
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
            # JSON has no bytes, and a key or value is rarely text.
            old = None if self.change.old is None else self.change.old.hex()
            shown["change"] = [self.change.key.hex(), old, self.change.new.hex()]
        return json.dumps({"schema": _SCHEMA, **shown}, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the trial in the text of a record; `ValueError` if it is invalid."""
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
    """Return the milliseconds since boot, including suspend (CLOCK_BOOTTIME)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def command_deadline_ms(seconds: int) -> int:
    """Return the deadline of the command that puts a change on trial for *seconds*."""
    return now_ms() + (seconds + GRACE_S) * 1000


def read_trial(parent: Directory, entry: str = CONFIRM) -> Trial | None:
    """Return the trial in *parent*, None if there is none.

    A directory or a record that another user made, or could change, is ignored: it could make root
    undo a change, or load pins of somebody else's choice. So is a deadline beyond what a trial can
    have.
    """
    nothing = (PinError, PermissionDeniedError, ValueError, RecursionError)
    with suppress(*nothing), parent.child(entry) as room:
        record = room.stat(RECORD)
        # One owner of all three: in a directory that was open to all, others could have put a
        # record.
        owners = {parent.status.st_uid, room.status.st_uid, record.st_uid}
        require_safe(room)
        if len(owners) == 1 and stat.S_ISLNK(record.st_mode):
            trial = Trial.parse(room.read_text(RECORD))
            trial = _begun(trial, room)
            is_sane = trial.seconds <= SECONDS_MAX and trial.left_s <= trial.seconds + GRACE_S
            return trial if is_sane else None
    return None


def make_trial(parent: Directory, entry: str = CONFIRM) -> Directory:
    """Create and open the directory of a trial; remains of a killed command are removed first."""
    try:
        return parent.make(entry)
    except PinExistsError:
        end_trial(parent, entry)
        return parent.make(entry)


def begin_trial(parent: Directory, seconds: int, entry: str = CONFIRM) -> None:
    """Begin the trial in *parent*: from now on there are *seconds* to confirm it."""
    with parent.child(entry) as room:
        # symlink(2) never replaces a name, so a trial begins once and its deadline cannot move.
        room.write_text(BEGUN, str(now_ms() + seconds * 1000))


def _begun(trial: Trial, room: Directory) -> Trial:
    """Return the trial with its deadline, if it has begun."""
    try:
        deadline_ms = int(room.read_text(BEGUN))
    except PinNotFoundError:
        return trial
    return dataclasses.replace(trial, deadline_ms=deadline_ms, is_begun=True)


def end_record(parent: Directory, entry: str = CONFIRM) -> None:
    """Remove the record, so that nothing is on trial, and keep the pins that an undo needs."""
    with suppress(PinNotFoundError), parent.child(entry) as room:
        require_safe(room)  # never unlink in a directory that another user can swap entries in
        room.unlink(RECORD)


def end_trial(parent: Directory, entry: str = CONFIRM) -> None:
    """Remove a trial: the record first, so that it counts for nothing, then the pins."""
    end_record(parent, entry)
    with suppress(PinNotFoundError):
        remove_tree(parent, entry)


def copy_generation(source: Directory, target: Directory) -> None:
    """Link the pins of one generation into another directory, and copy types and manifest.

    Foreign entries are left out. `objects~` is copied first, so that after a crash the pins of the
    copy count as the set's own.
    """
    owner, kinds = ownership_of(source), source.kinds()
    folders = [name for name, kind in kinds.items() if kind is EntryKind.DIRECTORY]
    for name in sorted(folders, key=lambda name: name != names.OBJECTS):
        if name not in names.MARKS and owner.has_own_name(
            GenerationEntry("", name, EntryKind.DIRECTORY)
        ):
            with suppress(PinExistsError):
                target.mark(name)
            with source.child(name) as below, target.child(name) as copy:
                for entry, kind in below.kinds().items():
                    _copy_entry(below, copy, GenerationEntry(name, entry, kind), owner)
    for name, kind in kinds.items():
        if kind is not EntryKind.DIRECTORY:
            _copy_entry(source, target, GenerationEntry("", name, kind), owner)
    if owner.objects is None and target.has(names.OBJECTS):  # a set of the first versions
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
        raise ValueError("'change' is not a change of an entry")
    key, old, new = (None if word is None else bytes.fromhex(str(word)) for word in value)
    if key is None or new is None:
        raise ValueError("'change' lacks a value")
    return EntryChange(key, old, new)


def _links(value: Any) -> dict[str, int]:
    if not isinstance(value, dict):
        raise ValueError("'links' is not a table of links")
    # These become names of pins.
    if any("/" in name or not name for name in value):
        raise ValueError("'links' has an invalid name")
    links = JsonObject(value)
    return {name: links.number(name) for name in value}
