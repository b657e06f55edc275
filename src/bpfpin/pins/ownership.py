"""Which entries of a pin set's directory are the set's own, and what becomes of the others.

Every object that is pinned in a generation is written down first, as a symlink below `objects~`
whose text is its id. A pin is ours if its name and the id of its object are written there; anything
else was put there by somebody else. It is never removed: a reload links it into the next
generation before the commit, and an unload leaves it in a directory that has nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Self

from bpfpin.errors import (
    BpfError,
    IdNotFoundError,
    PermissionDeniedError,
    PinExistsError,
    PinNotFoundError,
    UnsafePathError,
)
from bpfpin.objects.kernel.object import ObjectKind, identity
from bpfpin.objects.link import Link
from bpfpin.pins import names
from bpfpin.pins.directory import OTHERS_WRITE, Directory, EntryKind, remove_tree, require_safe
from bpfpin.pins.manifest import Manifest, read_manifest

# What a directory that has nothing but pins of others is known by: a set was unloaded from it.
UNLOADED_MODE: Final = stat.S_ISVTX

# Directories of others are copied down to this depth; a deeper one is moved as a whole afterwards.
_DEPTH_MAX: Final = 16
_ROUNDS_MAX: Final = 8
_ASIDE: Final = "other~"  # before the name of what has no other place

_FOLDERS: Final = (
    names.LINKS,
    names.PROGRAMS,
    names.PREVIOUS,
    names.FOLDS,
    names.LAYOUTS,
    names.OBJECTS,
)
_WHOLE: Final = frozenset({names.CONFIRM, names.SHARED, names.UNSHARED})  # all of it is ours
_EMPTY: Final = names.MARKS - {names.PREVIOUS} - _WHOLE  # mere names
_FOLD: Final = re.compile(r".+~\d+~[a-z]+")
_LETTERS: Final = {
    "": "m",
    names.PROGRAMS: "p",
    names.LINKS: "l",
    names.PREVIOUS: "b",
    names.LAYOUTS: "t",
}
_KINDS: Final = {
    "": ObjectKind.MAP,
    names.PROGRAMS: ObjectKind.PROGRAM,
    names.LINKS: ObjectKind.LINK,
    names.PREVIOUS: ObjectKind.PROGRAM,
}


@dataclass(frozen=True, slots=True)
class ObjectIds:
    """The objects of one generation by the name of their pin; *previous* are programs by link.

    *layouts* are the numbers of symlinks that hold the types of the maps that have any.
    """

    maps: Mapping[str, int] = field(default_factory=dict)
    programs: Mapping[str, int] = field(default_factory=dict)
    links: Mapping[str, int] = field(default_factory=dict)
    previous: Mapping[str, int] = field(default_factory=dict)
    layouts: Mapping[str, int] = field(default_factory=dict)

    def of(self, folder: str) -> Mapping[str, int]:
        """Return the objects that are pinned in *folder*, "" for the set's directory itself."""
        return {
            "": self.maps,
            names.PROGRAMS: self.programs,
            names.LINKS: self.links,
            names.PREVIOUS: self.previous,
            names.LAYOUTS: self.layouts,
        }[folder]

    @classmethod
    def read(cls, directory: Directory) -> Self | None:
        """Return what is written down in *directory*; None if nothing ever was.

        Sets of earlier versions have no such folder; an entry that is damaged counts for nothing.
        """
        try:
            with directory.child(names.OBJECTS) as folder:
                texts = {entry: _text(folder, entry) for entry in folder.names()}
        except (PinNotFoundError, PermissionDeniedError):
            return None
        found: dict[str, dict[str, int]] = {letter: {} for letter in _LETTERS.values()}
        for entry, text in texts.items():
            number, _, pin = text.partition(" ")
            if entry[:1] in found and number.isdecimal() and pin:
                found[entry[0]][pin] = int(number)
        return cls(*(found[letter] for letter in _LETTERS.values()))


def record_object(generation: Directory, folder: str, pin: str, object_id: int) -> None:
    """Write into the directory of a generation what is about to be pinned in its *folder*."""
    entry, text = _entry(folder, pin), f"{object_id} {pin}"
    with generation.child(names.OBJECTS) as objects:
        try:
            objects.write_text(entry, text)
        except PinExistsError:
            objects.unlink(entry)
            objects.write_text(entry, text)


def record_all_objects(generation: Directory) -> None:
    """Write down every map, program and link that is pinned in a generation at its usual place."""
    for folder, entry in list(_entries(generation)):
        if entry.kind is EntryKind.PIN and entry.folder in _KINDS:
            there = identity(folder.pin_path(entry.name))
            if there is not None and there[0] is _KINDS[entry.folder]:
                record_object(generation, entry.folder, entry.name, there[1])


def _entry(folder: str, pin: str) -> str:
    name = f"{_LETTERS[folder]}~{pin}"
    if len(os.fsencode(name)) <= names.NAME_LENGTH_MAX:
        return name
    return f"{_LETTERS[folder]}~{hashlib.sha256(os.fsencode(pin)).hexdigest()}"


def _text(folder: Directory, entry: str) -> str:
    with suppress(BpfError):
        return folder.read_text(entry)
    return ""


@dataclass(frozen=True, slots=True)
class GenerationEntry:
    """Something in a generation: *name* in *folder*, "" for the set's directory itself."""

    folder: str
    name: str
    kind: EntryKind

    @property
    def path(self) -> str:
        """The path below the set's directory."""
        return f"{self.folder}/{self.name}" if self.folder else self.name


@dataclass(frozen=True, slots=True)
class Ownership:
    """Tells the entries of one generation from those of others.

    *links* are the link pins that its manifest names. Without *objects*, but with a manifest, it is
    a set of an earlier version: all pins at the usual places are taken for its own.
    """

    objects: ObjectIds | None
    links: frozenset[str]
    has_manifest: bool

    @classmethod
    def of(cls, manifest: Manifest | None, objects: ObjectIds | None) -> Self:
        """Return who owns what, by what a generation has of the two."""
        links = frozenset(record.link for record in manifest.hooks) if manifest else frozenset()
        return cls(objects, links, has_manifest=manifest is not None)

    def has_own_name(self, entry: GenerationEntry) -> bool:
        """Whether an entry has the name and kind of one of ours; its object is not looked at."""
        folder, name, kind = entry.folder, entry.name, entry.kind
        if not folder and kind is EntryKind.DIRECTORY:
            return name in names.PARTS | names.MARKS
        if not folder and kind is EntryKind.SYMLINK:
            return name in names.TEXTS
        if folder == names.OBJECTS:
            return kind is EntryKind.SYMLINK
        if folder == names.LAYOUTS:
            pin = name.partition("~")[0]
            return kind is EntryKind.SYMLINK and self.is_own_name("", pin)
        if folder == names.FOLDS:
            return kind is EntryKind.PIN and _FOLD.fullmatch(name) is not None
        return kind is EntryKind.PIN and self.is_own_name(folder, name)

    def is_own_name(self, folder: str, pin: str) -> bool:
        """Whether an object of ours is pinned as *pin* in *folder*, or was."""
        if folder not in _LETTERS:
            return False
        if folder == names.LINKS and pin in self.links:
            return True
        if self.objects is None:
            return self.has_manifest and "~" not in pin and folder != names.LINKS
        return pin in self.objects.of(folder)

    def owns(self, directory: Directory, entry: GenerationEntry) -> bool:
        """Whether an entry of the open folder *directory* is ours by name and by its object."""
        if not self.has_own_name(entry):
            return False
        objects = self.objects
        if entry.kind is not EntryKind.PIN or entry.folder not in _KINDS or objects is None:
            return True
        try:
            there = identity(directory.pin_path(entry.name))
        except PinNotFoundError:
            return False
        if there is None or there[0] is not _KINDS[entry.folder]:
            return False
        if objects.of(entry.folder).get(entry.name) == there[1]:
            return True
        return entry.folder == names.LINKS and self._runs_ours(there[1], objects)

    def _runs_ours(self, link_id: int, objects: ObjectIds) -> bool:
        """Whether a link that was never written down, as one that was on trial, is ours."""
        with suppress(IdNotFoundError), Link.from_id(link_id) as link:
            return link.info.program_id in objects.programs.values()
        return False


def ownership_of(directory: Directory) -> Ownership:
    """Return who owns what in the generation *directory*; it belongs to us, as the caller knows."""
    try:
        manifest: Manifest | None = read_manifest(directory)
    except UnsafePathError:
        manifest = None
    return Ownership.of(manifest, ObjectIds.read(directory))


def sort_by_name(
    directory: Directory, owner: Ownership
) -> tuple[dict[str, list[str]], tuple[str, ...], frozenset[str]]:
    """Sort the entries of a generation by their names alone: no object is opened.

    Returns the pins that have a name of ours, by folder; the paths of what is not ours; and the
    folders that this user may not look into.
    """
    ours: dict[str, list[str]] = {}
    foreign: list[str] = []
    hidden: list[str] = []
    for _, entry in _entries(directory, hidden):
        if not owner.has_own_name(entry):
            foreign.append(entry.path)
        elif entry.kind is EntryKind.PIN:
            ours.setdefault(entry.folder, []).append(entry.name)
    return ours, tuple(foreign), frozenset(hidden)


def foreign_entries(directory: Directory, owner: Ownership | None = None) -> list[GenerationEntry]:
    """Return what in a generation is not ours, by name or by the object that is pinned there."""
    judge = owner or ownership_of(directory)
    return [entry for folder, entry in _entries(directory) if not judge.owns(folder, entry)]


def _entries(
    directory: Directory, hidden: list[str] | None = None
) -> Iterator[tuple[Directory, GenerationEntry]]:
    """Yield the entries of a generation, each with the open directory that it is in.

    What this user may not look into is added to *hidden*, if that is given.
    """
    top = directory.kinds()
    for name, kind in top.items():
        yield directory, GenerationEntry("", name, kind)
    for folder in _FOLDERS:
        if top.get(folder) is not EntryKind.DIRECTORY:
            continue
        with contextlib.ExitStack() as opened:
            try:
                below = opened.enter_context(directory.child(folder))
            except PinNotFoundError:
                continue
            except PermissionDeniedError:
                if hidden is None:
                    raise
                hidden.append(folder)
                continue
            for name, kind in below.kinds().items():
                yield below, GenerationEntry(folder, name, kind)


def is_unloaded(directory: Directory) -> bool:
    """Whether *directory* is what an `unload` of ours left for the pins of others in it."""
    status = directory.status
    is_ours = status.st_uid == os.geteuid() and not status.st_mode & OTHERS_WRITE
    return is_ours and bool(status.st_mode & UNLOADED_MODE) and not directory.has(names.MANIFEST)


def remove_own(directory: Directory) -> None:
    """Remove what is ours in a generation, its links first, and leave what is not.

    The maps go last: somebody may be about to open one of them. What tells ours from others goes
    after all of it, so that a kill in between changes no answer.
    """
    owner = ownership_of(directory)
    for folder in (*_FOLDERS[:-2], names.LAYOUTS):
        remove_own_folder(directory, folder, owner)
    for name, kind in directory.kinds().items():
        if name in _EMPTY and kind is EntryKind.DIRECTORY:
            directory.rmdir(name)
        elif name in _WHOLE and kind is EntryKind.DIRECTORY:
            remove_tree(directory, name)
    for name, kind in directory.kinds().items():
        if kind is EntryKind.PIN and owner.owns(directory, GenerationEntry("", name, kind)):
            directory.unlink(name)
    for name, kind in directory.kinds().items():
        if name in names.TEXTS and kind is EntryKind.SYMLINK:
            directory.unlink(name)
    remove_own_folder(directory, names.OBJECTS, owner)


def remove_previous(directory: Directory) -> None:
    """Remove the pins of the programs that the hooks ran before, and what was written of them."""
    remove_own_folder(directory, names.PREVIOUS)
    with suppress(PinNotFoundError), directory.child(names.OBJECTS) as objects:
        for entry in objects.names():
            if entry.startswith(f"{_LETTERS[names.PREVIOUS]}~"):
                objects.unlink(entry)


def remove_own_folder(directory: Directory, folder: str, owner: Ownership | None = None) -> None:
    """Remove what is ours in one folder of a generation, and the folder once it is empty."""
    judge = owner or ownership_of(directory)
    try:
        below = directory.child(folder)
    except PinNotFoundError:
        return
    with below:
        for name, kind in below.kinds().items():
            if judge.owns(below, GenerationEntry(folder, name, kind)):
                below.unlink(name)
        is_empty = not below.names()
    if is_empty:
        directory.rmdir(folder)


def link_foreign(live: Directory, target: Directory) -> None:
    """Give the pins of others in *live* the same names in *target*, which is to take its place.

    A pin that somebody put in the place of one of ours is called `idN~NAME` there, N being the
    object's id, for ours needs the name. `PinExistsError` if the name is needed for another reason.
    """
    owner = ownership_of(live)
    if not owner.has_manifest and not is_unloaded(live):  # not a set of ours at all
        return
    for entry in foreign_entries(live, owner):
        with contextlib.ExitStack() as opened:
            source, place = live, target
            if entry.folder:
                if not target.has(entry.folder):
                    target.mark(entry.folder)
                source = opened.enter_context(live.child(entry.folder))
                place = opened.enter_context(target.child(entry.folder))
            name = entry.name
            if place.has(name) and owner.is_own_name(entry.folder, name):
                if entry.kind is EntryKind.DIRECTORY:  # it is moved afterwards, as a whole
                    continue
                name = aside_name(source, entry)
            _copy(source, place, entry.name, new_name=name)


def aside_name(directory: Directory, entry: GenerationEntry) -> str:
    """Return what an object is called that somebody pinned in the place of one of ours."""
    there = identity(directory.pin_path(entry.name)) if entry.kind is EntryKind.PIN else None
    name = f"id{there[1]}~{entry.name}" if there else _ASIDE + entry.name
    return name[: names.NAME_LENGTH_MAX]


def _copy(
    source: Directory, target: Directory, name: str, *, new_name: str = "", depth: int = 0
) -> None:
    new_name = new_name or name
    try:
        status = source.stat(name)
    except PinNotFoundError:  # its owner removed it meanwhile
        return
    if not stat.S_ISDIR(status.st_mode):
        with suppress(PinNotFoundError):
            if target.has(new_name) and target.stat(new_name).st_ino == status.st_ino:
                return
            target.link_from(source, name, new_name)
        return
    if depth >= _DEPTH_MAX:
        return
    with target.make(new_name) as copy, source.child(name) as original:
        for entry in original.names():
            _copy(original, copy, entry, depth=depth + 1)
        os.fchown(copy.fileno(), status.st_uid, status.st_gid)
        os.fchmod(copy.fileno(), stat.S_IMODE(status.st_mode))


def return_foreign(root: Directory, stage: str, name: str) -> None:
    """Move what is left in the directory *stage*, which is not ours, to the set's directory *name*.

    What was linked there before is only unlinked; a name that is taken by something else comes
    beside it as `other~NAME`. A directory that is missing is made, and known again as that of an
    unloaded set.
    """
    with root.child(stage) as directory:
        for _ in range(_ROUNDS_MAX):
            entries = [entry for _, entry in _entries(directory)]
            if not entries:
                return
            if not root.has(name):
                root.mark(name, stat.S_IMODE(directory.status.st_mode) | UNLOADED_MODE)
            with root.child(name) as live:
                require_safe(live)
                _give_entries(directory, live, entries)


def _give_entries(directory: Directory, live: Directory, entries: list[GenerationEntry]) -> None:
    for entry in entries:
        if not entry.folder:
            if entry.name not in _FOLDERS:
                _give(directory, live, entry.name)
            continue
        if not live.has(entry.folder):
            live.mark(entry.folder)
        with directory.child(entry.folder) as source, live.child(entry.folder) as target:
            _give(source, target, entry.name)
            is_empty = not source.names()
        if is_empty:
            directory.rmdir(entry.folder)
    for folder in _FOLDERS:
        with suppress(PinNotFoundError), directory.child(folder) as below:
            if below.names():
                continue
            directory.rmdir(folder)


def _inodes(directory: Directory) -> set[int]:
    """Return the inodes of what is in a directory; all of one bpffs have different ones."""
    with os.scandir(directory.fileno()) as entries:
        return {entry.inode() for entry in entries}


def _give(source: Directory, target: Directory, name: str, depth: int = 0) -> None:
    with suppress(PinExistsError):
        return source.rename_into(target, name, name)
    there, here = source.stat(name), target.stat(name)
    if not stat.S_ISDIR(there.st_mode) and there.st_ino in _inodes(target):
        return source.unlink(name)  # it was linked before, maybe under another name
    if stat.S_ISDIR(there.st_mode) and stat.S_ISDIR(here.st_mode) and depth < _DEPTH_MAX:
        with source.child(name) as below, target.child(name) as place:
            for entry in below.names():
                _give(below, place, entry, depth + 1)
        return source.rmdir(name)
    for number in itertools.count():
        aside = f"{_ASIDE}{name}~{number}" if number else _ASIDE + name
        with suppress(PinExistsError):
            return source.rename_into(target, name, aside)
    return None
