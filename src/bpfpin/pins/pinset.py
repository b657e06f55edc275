"""Reads pin sets from bpffs, without the lock and without a change.

A reader may meet a set while another command exchanges it (module `transaction`). It opens the
directory once, reads everything below that descriptor, and compares the inode of the name at the
end: if the name now is another directory, it reads again. A stage or a mark beside the set makes
its state `HALF_BUILT`.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import field
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar

from bpfpin.errors import (
    BpfError,
    IdNotFoundError,
    PermissionDeniedError,
    PinKindError,
    PinNotFoundError,
    UnsafePathError,
)
from bpfpin.objects.kernel.object import identity
from bpfpin.objects.link import Link
from bpfpin.objects.maps.layouts import parts as layout_parts
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins import bpffs, lock, names
from bpfpin.pins.bpffs import RootState
from bpfpin.pins.directory import Directory, user_name
from bpfpin.pins.manifest import HookRecord, Manifest, OutsidePin, read_manifest
from bpfpin.pins.ownership import ObjectIds, Ownership, is_unloaded, sort_by_name
from bpfpin.records import dataclass

# How often a directory may be exchanged during a read before the reader gives up; each exchange is
# one whole load, so that 20 in a row do not happen in practice.
_ATTEMPTS: Final = 20


_Object = TypeVar("_Object", Map, Program, Link)


class SetState(Enum):
    """The state of a set.

    Only `status` looks at its hooks. All others see five of these: `OK`, `UNLOADED`, `HALF_BUILT`,
    `UNREADABLE` and `FOREIGN`.
    """

    OK = "ok"
    DEFUNCT = "defunct"  # its device or cgroup is gone, or a program of it runs nowhere
    DEGRADED = "degraded"  # it runs, but something is wrong with it
    ON_TRIAL = "on-trial"  # it is undone unless it is confirmed
    KEPT = "kept"  # its maps wait for the next load, nothing runs
    UNLOADED = "unloaded"  # only pins of others are left in its directory
    HALF_BUILT = "half-built"  # a command is changing it, or was killed while it did
    UNREADABLE = "unreadable"  # this user may not read its directory
    FOREIGN = "foreign"  # made by somebody else, or its manifest is damaged


@dataclass(frozen=True)
class PinSet:
    """One directory of the pin root and its pins, by map, program and link name.

    A directory whose manifest is valid is a `LoadedSet`; *manifest* is None in any other. *reason*
    says why the state is not `OK`. Only what `is_own` may be changed. *objects* are what the set
    pinned, by the name of the pin (None for a set of an earlier version); *foreign* is what others
    pinned in the directory, by its path below. *hidden* are the folders that this user may not look
    into.
    """

    path: Path
    state: SetState
    reason: str = ""
    manifest: Manifest | None = None
    maps: Mapping[str, Path] = field(default_factory=dict)
    programs: Mapping[str, Path] = field(default_factory=dict)
    links: Mapping[str, Path] = field(default_factory=dict)
    slots: Mapping[str, Path] = field(default_factory=dict)
    objects: ObjectIds | None = None
    foreign: tuple[str, ...] = ()
    hidden: frozenset[str] = frozenset()
    is_own: bool = True

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def hooks(self) -> tuple[HookRecord, ...]:
        """The hooks that the manifest records; none without a manifest."""
        return self.manifest.hooks if self.manifest else ()

    @property
    def outside(self) -> tuple[OutsidePin, ...]:
        """The pins outside of the set that the manifest records; none without a manifest."""
        return self.manifest.outside if self.manifest else ()

    @property
    def is_readable(self) -> bool:
        """Whether this user may read the directory."""
        return self.state is not SetState.UNREADABLE

    def id_of(self, folder: str, pin: str) -> int | None:
        """Return the id of the object that the set pinned as *pin*; None if that is not known."""
        return self.objects.of(folder).get(pin) if self.objects else None

    @property
    def map_names(self) -> list[str]:
        """The names of the set's maps, including those whose pin was removed by hand."""
        written = self.objects.maps if self.objects else {}
        return sorted({*self.maps, *map(names.decode, written)})

    @property
    def program_names(self) -> list[str]:
        """The names of the set's programs, including those whose pin was removed by hand."""
        written = self.objects.programs if self.objects else {}
        return sorted({*self.programs, *written})

    def open_map(self, name: str, *, read_only: bool = False) -> Map | None:
        """Open the set's own map, by its id where its pin was removed or replaced by hand.

        None if it is gone. Raises `PinKindError` for the pin of something else in a set of an
        earlier version.
        """
        pin = names.map_pin_name(name)
        return self._open(Map, "", pin, self.maps.get(name), read_only=read_only)

    def open_program(self, name: str) -> Program | None:
        """Open the set's own program, as `open_map` opens a map."""
        return self._open(Program, names.PROGRAMS, name, self.programs.get(name))

    def open_link(self, pin: str) -> Link | None:
        """Open the set's own link, as `open_map` opens a map."""
        return self._open(Link, names.LINKS, pin, self.links.get(pin))

    def open_slot(self, pin: str) -> Map | None:
        """Open the array by which the stub at the hook of link *pin* calls its program.

        By the name of a program: the map of its gate.
        """
        return self._open(Map, names.SLOTS, pin, self.slots.get(pin))

    def _open(
        self, kind: type[_Object], folder: str, pin: str, path: Path | None, **options: Any
    ) -> _Object | None:
        own_id = self.id_of(folder, pin)
        refused: PermissionDeniedError | None = None
        if path is not None:
            try:
                pinned = kind.from_pin(path, **options)
            except PinNotFoundError:
                pass
            # BPF_OBJ_GET for writing is refused in a bpffs that is mounted read-only (EROFS); the
            # id opens the object there as well.
            except (PinKindError, PermissionDeniedError) as error:
                if own_id is None:
                    raise
                refused = error if isinstance(error, PermissionDeniedError) else None
            else:
                if own_id is None or _is_object(pinned, own_id):
                    return pinned
        try:
            return None if own_id is None else kind.from_id(own_id, **options)
        except IdNotFoundError:
            return None
        except PermissionDeniedError:
            # A user without CAP_SYS_ADMIN opens nothing by its id. It was the pin that was refused.
            if refused is not None:
                raise refused from None
            raise

    @classmethod
    def read(cls, root: Path, name: str) -> PinSet:
        """Read set *name*; `PinNotFoundError` if there is neither a set nor a stage of one.

        A directory of somebody else has the state `FOREIGN`, with its owner in *reason*.
        """
        with Directory.open(root) as directory:
            for _ in range(_ATTEMPTS):
                pin_set = cls._read_once(directory, name)
                if pin_set is not None:
                    return pin_set
        raise PinNotFoundError(f"{root / name}: the set changes faster than it can be read")

    @classmethod
    def _read_once(cls, root: Directory, name: str) -> PinSet | None:
        """Return the set, or None if it was exchanged while it was read."""
        path = root.path / name
        # Before the pins are read: a change that begins later ends with an exchange of the
        # directory, which `_is_still` notices.
        unfinished = _unfinished(root, name)
        try:
            with root.child(name) as directory:
                pin_set = cls._of(directory, path, unfinished)
                return pin_set if _is_still(root, name, directory) else None
        except PermissionDeniedError:
            return cls._unreadable(root, path)
        except UnsafePathError:
            return cls(path, SetState.FOREIGN, "it is a symlink")
        except PinNotFoundError:
            return cls._without_directory(root, path, unfinished)

    @classmethod
    def _unreadable(cls, root: Directory, path: Path) -> PinSet:
        owner, user = user_name(root.stat(path.name).st_uid), user_name(os.geteuid())
        reason = f"it may not be read by {user}, it belongs to {owner}"
        return cls(path, SetState.UNREADABLE, reason, is_own=False)

    @classmethod
    def _without_directory(cls, root: Directory, path: Path, unfinished: str) -> PinSet | None:
        if root.has(path.name):
            mode = root.stat(path.name).st_mode
            what = "a symlink" if stat.S_ISLNK(mode) else "no directory"
            is_directory = stat.S_ISDIR(mode)
            return None if is_directory else cls(path, SetState.FOREIGN, f"it is {what}")
        if unfinished:
            return cls(path, SetState.HALF_BUILT, unfinished)
        raise PinNotFoundError(f"there is no pin set {path}", path=str(path))

    @classmethod
    def _of(cls, directory: Directory, path: Path, unfinished: str) -> PinSet:
        try:
            # Root's sets are shown to every user; any other user's text could pretend to be a set.
            manifest = read_manifest(directory, owners={0, os.geteuid()})
        except UnsafePathError as error:
            if is_unloaded(directory):
                return cls._unloaded(directory, path, unfinished)
            is_own = directory.status.st_uid == os.geteuid()
            return cls(path, SetState.FOREIGN, error.message, is_own=is_own)
        owner = Ownership.of(manifest, ObjectIds.read(directory))
        ours, foreign, hidden = sort_by_name(directory, owner)
        return LoadedSet(
            path,
            SetState.HALF_BUILT if unfinished else SetState.OK,
            unfinished,
            manifest,
            maps={names.decode(pin): path / pin for pin in ours.get("", ())},
            programs=_below(path, names.PROGRAMS, ours),
            links=_below(path, names.LINKS, ours),
            slots=_below(path, names.SLOTS, ours),
            objects=owner.objects,
            foreign=foreign,
            hidden=hidden,
            is_own=directory.status.st_uid == os.geteuid(),
        )

    @classmethod
    def _unloaded(cls, directory: Directory, path: Path, unfinished: str) -> PinSet:
        _, foreign, _ = sort_by_name(directory, Ownership.of(None, None))
        what = f"what others pinned there is left: {', '.join(foreign)}" if foreign else "empty"
        state = SetState.HALF_BUILT if unfinished else SetState.UNLOADED
        return cls(path, state, unfinished or f"it was unloaded, {what}", foreign=foreign)


class LoadedSet(PinSet):
    """A pin set with a valid manifest, of this user or of root: what every change starts from."""

    manifest: Manifest


def _is_object(bpf_object: Map | Program | Link, own_id: int) -> bool:
    """Whether *bpf_object* has the id *own_id*; it is closed if it has not."""
    with ExitStack() as undo:
        undo.callback(bpf_object.close)
        if bpf_object.id == own_id:
            undo.pop_all()
            return True
    return False


@dataclass(frozen=True, slots=True)
class LostPin:
    """A pin of a set that somebody removed by hand, or replaced by another object.

    *id* is the id of the set's own object; if the stored types of a map are lost, the id of the
    map. *replaced_by* says what the name holds now, "" for nothing.
    """

    folder: str
    pin: str
    id: int
    replaced_by: str = ""

    @property
    def path(self) -> str:
        """The path below the set's directory."""
        return f"{self.folder}/{self.pin}" if self.folder else self.pin


def lost_pins(pin_set: PinSet) -> list[LostPin]:
    """Return the pins of a set that somebody removed or replaced.

    Folders that this user may not read are left out.
    """
    objects = pin_set.objects
    if objects is None:
        return []
    lost: list[LostPin] = []
    for folder in ("", names.PROGRAMS, names.LINKS, names.SLOTS):
        for pin, own_id in objects.of(folder).items() if folder not in pin_set.hidden else ():
            current = _what_is_at(pin_set.path / folder / pin)
            if current is not None and current != (_WORDS[folder], own_id):
                word, other_id = current
                replaced_by = f"{word} id {other_id}" if other_id else word
                lost.append(LostPin(folder, pin, own_id, replaced_by))
    for pin, symlinks in objects.layouts.items() if names.LAYOUTS not in pin_set.hidden else ():
        if pin in objects.maps and not _has_types(pin_set.path / names.LAYOUTS, pin, symlinks):
            lost.append(LostPin(names.LAYOUTS, pin, objects.maps[pin]))
    return lost


_WORDS: Final = {"": "map", names.PROGRAMS: "program", names.LINKS: "link", names.SLOTS: "map"}


def _what_is_at(path: Path) -> tuple[str, int] | None:
    """Return kind and id of the object at *path*, ("", 0) for none; None without permission."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # BPF_OBJ_GET follows symlinks
            return "a symlink" if path.is_symlink() else "a directory", 0
        pinned = identity(path)
    except (PinNotFoundError, FileNotFoundError):
        return "", 0
    except (PermissionDeniedError, PermissionError):
        return None
    return (str(pinned[0]), pinned[1]) if pinned else ("something else", 0)


def _has_types(folder: Path, pin: str, symlinks: int) -> bool:
    return all(
        (folder / part).is_symlink() for part in itertools.islice(layout_parts(pin), symlinks)
    )


def pin_sets(root: Path) -> list[PinSet]:
    """Return all sets below *root* by name, including foreign and half-built ones."""
    with Directory.open(root) as directory:
        candidates = {
            entry.removesuffix(names.STAGE_SUFFIX)
            for entry in directory.names()
            if _may_be_set(directory, entry)
        }
    sets: list[PinSet] = []
    for name in sorted(candidates):
        with suppress(PinNotFoundError):  # unloaded meanwhile
            sets.append(PinSet.read(root, name))
    return sets


def _may_be_set(root: Directory, entry: str) -> bool:
    name = entry.removesuffix(names.STAGE_SUFFIX)
    if not names.is_set_name(name):
        return False
    if entry != name:
        return True
    try:
        if not stat.S_ISDIR(root.stat(entry).st_mode):
            return False
        with root.child(entry) as directory:
            marks = (names.MANIFEST, names.OBJECTS, names.PROGRAMS, names.LINKS)
            return any(map(directory.has, marks)) or is_unloaded(directory)
    except PermissionDeniedError:
        return True
    except BpfError:
        return False


def _unfinished(root: Directory, name: str) -> str:
    """Describe the unfinished change of the set, if it has a stage or a mark; else ""."""
    if not root.has(names.stage_name(name)) and not _is_marked(root, name):
        return ""
    is_folding = _is_marked(root, names.stage_name(name), names.FOLDING)
    pid = lock.holder(root)
    if pid is not None:
        who = f"process {pid}" if pid else "another process"
        return f"{who} is {'migrating its maps' if is_folding else 'changing it'}"
    when = " while it migrated maps, whose contents are in two places" if is_folding else ""
    return f"half-built by a dead process{when}; the next load or unload of it finishes that"


def _is_marked(root: Directory, name: str, mark: str = names.COMMIT) -> bool:
    unreadable = (PinNotFoundError, PermissionDeniedError, UnsafePathError)
    with suppress(*unreadable), root.child(name) as directory:
        return directory.has(mark)
    return False


def _is_still(root: Directory, name: str, directory: Directory) -> bool:
    # Inode numbers of bpffs come from a counter (get_next_ino(), kernel/bpf/inode.c), so that a new
    # directory does not get the number of one that was just removed.
    return root.stat(name).st_ino == directory.status.st_ino


def _below(path: Path, folder: str, ours: Mapping[str, Iterable[str]]) -> dict[str, Path]:
    return {pin: path / folder / pin for pin in ours.get(folder, ())}


def loaded_sets(pin_root: Path) -> list[LoadedSet]:
    """Return the sets that have a valid manifest; none where no bpffs was ever mounted."""
    return [pin_set for pin_set in all_sets(pin_root) if isinstance(pin_set, LoadedSet)]


def all_sets(pin_root: Path) -> list[PinSet]:
    """Return all pin sets; an empty list where no bpffs was ever mounted."""
    if bpffs.inspect(pin_root) is RootState.ABSENT:
        return []
    bpffs.require(pin_root)
    return pin_sets(pin_root)
