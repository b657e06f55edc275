"""Tells the pins of a set from pins that others made in its directory, and preserves the latter.

Each object that is pinned in a generation is recorded first, as a symlink in `objects~`: its name
is a letter for the folder, `~` and the name of the pin; its text is the object's id and that name.
A pin belongs to the set if its name and the id of its object are recorded. Every other entry is
foreign: somebody else made it, and it is never removed.

* A reload links foreign entries into the next generation before the commit (`link_foreign`, step 2
  of module `transaction`). Removing the old generation later only unlinks them there. Entries that
  could not be linked, and those made meanwhile, are moved afterwards (`return_foreign`).
* An unload leaves a directory with just the foreign entries, known by its sticky bit.

Sets of the first versions have no `objects~`: every pin at a usual place counts as the set's.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import field
from typing import Final, Self

from bpfpin.errors import (
    IdNotFoundError,
    PermissionDeniedError,
    PinExistsError,
    PinKindError,
    PinNotFoundError,
    UnsafePathError,
)
from bpfpin.hooks import has_table
from bpfpin.objects.kernel.object import ObjectKind, identity
from bpfpin.objects.link import Link
from bpfpin.pins import names
from bpfpin.pins.directory import (
    DIRECTORY_MODE,
    OTHERS_WRITE,
    Directory,
    EntryKind,
    remove_tree,
    require_safe,
)
from bpfpin.pins.manifest import Manifest, read_manifest
from bpfpin.records import dataclass
from bpfpin.uapi import LinkType

# The mode bit of a directory that an unload left for pins of others. The sticky bit changes nothing
# where only the owner may write, and needs no entry of ours among theirs.
UNLOADED_MODE: Final = stat.S_ISVTX

# link(2) refuses directories (EPERM), so those of others are rebuilt, down to this depth; a deeper
# one is moved as a whole after the exchange.
_DEPTH_MAX: Final = 16
_ROUNDS_MAX: Final = 8  # an entry that is made during one round is moved in the next
_ASIDE: Final = "other~"  # prefix of the new name of an entry whose name is taken

_FOLDERS: Final = (
    names.LINKS,
    names.SLOTS,
    names.PROGRAMS,
    names.PREVIOUS,
    names.FOLDS,
    names.LAYOUTS,
    names.OBJECTS,
)
# Everything in these is the set's.
_WHOLE: Final = frozenset({names.CONFIRM, names.SHARED, names.UNSHARED})
_EMPTY: Final = names.MARKS - {names.PREVIOUS} - _WHOLE  # markers: directories without entries
_FOLD: Final = r".+~\d+~[a-z]+"
# The letters of the folders in the names of records; letters, so that few names get too long for a
# record (`_entry`). They are stored in bpffs, so they never change. The order is that of the fields
# of `ObjectIds`, which `ObjectIds.read` makes by position.
_LETTERS: Final = {
    "": "m",
    names.PROGRAMS: "p",
    names.LINKS: "l",
    names.PREVIOUS: "b",
    names.LAYOUTS: "t",
    names.SLOTS: "s",
}
_KINDS: Final = {
    "": ObjectKind.MAP,
    names.PROGRAMS: ObjectKind.PROGRAM,
    names.LINKS: ObjectKind.LINK,
    names.PREVIOUS: ObjectKind.PROGRAM,
    names.SLOTS: ObjectKind.MAP,
}


@dataclass(frozen=True, slots=True)
class ObjectIds:
    """The ids of the objects of one generation, by the name of the pin, as `objects~` records them.

    *previous* has the program that a hook ran before, by the name of the hook's link; so have
    *slots* the arrays of stubs, and by program the maps of gates. *layouts* has no ids: for each
    map it is the number of symlinks that store its types.
    """

    maps: Mapping[str, int] = field(default_factory=dict)
    programs: Mapping[str, int] = field(default_factory=dict)
    links: Mapping[str, int] = field(default_factory=dict)
    previous: Mapping[str, int] = field(default_factory=dict)
    layouts: Mapping[str, int] = field(default_factory=dict)
    slots: Mapping[str, int] = field(default_factory=dict)

    def of(self, folder: str) -> Mapping[str, int]:
        """Return the ids of the objects pinned in *folder*; "" is the set's directory itself."""
        return {
            "": self.maps,
            names.PROGRAMS: self.programs,
            names.LINKS: self.links,
            names.PREVIOUS: self.previous,
            names.LAYOUTS: self.layouts,
            names.SLOTS: self.slots,
        }[folder]

    @classmethod
    def read(cls, directory: Directory) -> Self | None:
        """Return what `objects~` in *directory* records; None if there is no such folder.

        Sets of the first versions have none. A damaged entry is ignored.
        """
        try:
            with directory.child(names.OBJECTS) as folder:
                texts = {entry: _text(folder, entry) for entry in folder.names()}
        # Only a reader can lack the permission. It changes nothing, so it may take every pin at a
        # usual place for the set's.
        except (PinNotFoundError, PermissionDeniedError):
            return None
        ids: dict[str, dict[str, int]] = {letter: {} for letter in _LETTERS.values()}
        for entry, text in texts.items():
            number, _, pin = text.partition(" ")
            if entry[:1] in ids and number.isdecimal() and pin:
                ids[entry[0]][pin] = int(number)
        return cls(*(ids[letter] for letter in _LETTERS.values()))


def record_object(generation: Directory, folder: str, pin: str, object_id: int) -> None:
    """Record in *generation* that an object is about to be pinned as *pin* in its *folder*."""
    entry, text = _entry(folder, pin), f"{object_id} {pin}"
    with generation.child(names.OBJECTS) as objects:
        try:
            objects.write_text(entry, text)
        except PinExistsError:  # symlink(2) replaces nothing
            objects.unlink(entry)
            objects.write_text(entry, text)


def record_all_objects(generation: Directory) -> None:
    """Record every map, program and link that is pinned at a usual place of a generation."""
    for folder, entry in list(_entries(generation)):
        if entry.kind is EntryKind.PIN and entry.folder in _KINDS:
            pinned = identity(folder.pin_path(entry.name))
            if pinned is not None and pinned[0] is _kind_of(entry):
                record_object(generation, entry.folder, entry.name, pinned[1])


def _kind_of(entry: GenerationEntry) -> ObjectKind:
    """Return the kind of the objects that the set pins where *entry* is."""
    is_table = entry.folder == names.PREVIOUS and has_table(names.hook_of_link(entry.name))
    return ObjectKind.MAP if is_table else _KINDS[entry.folder]


def _entry(folder: str, pin: str) -> str:
    """Return the name of the symlink that records *pin* of *folder*; a long one is hashed."""
    import hashlib  # noqa: PLC0415  (few commands need it)

    name = f"{_LETTERS[folder]}~{pin}"
    if len(os.fsencode(name)) <= names.NAME_LENGTH_MAX:
        return name
    return f"{_LETTERS[folder]}~{hashlib.sha256(os.fsencode(pin)).hexdigest()}"


def _text(folder: Directory, entry: str) -> str:
    # Any other failure is an error: a pin without a record counts as one of others.
    with suppress(PinNotFoundError, PinKindError, PermissionDeniedError):
        return folder.read_text(entry)
    return ""


@dataclass(frozen=True, slots=True)
class GenerationEntry:
    """An entry of a generation: *name* in *folder*; "" is the set's directory itself."""

    folder: str
    name: str
    kind: EntryKind

    @property
    def path(self) -> str:
        """The path below the set's directory."""
        return f"{self.folder}/{self.name}" if self.folder else self.name


@dataclass(frozen=True, slots=True)
class Ownership:
    """Decides which entries of one generation are its own.

    *objects* is the record of `objects~`, *links* are the link pins that the manifest names. With a
    manifest but without *objects* it is a set of the first versions: all pins at the usual places
    count as its own.
    """

    objects: ObjectIds | None
    links: frozenset[str]
    has_manifest: bool

    @classmethod
    def of(cls, manifest: Manifest | None, objects: ObjectIds | None) -> Self:
        """Return the ownership in a generation with this manifest and this record."""
        links = frozenset(record.link for record in manifest.hooks) if manifest else frozenset()
        return cls(objects, links, has_manifest=manifest is not None)

    def has_own_name(self, entry: GenerationEntry) -> bool:
        """Whether an entry has the name and the kind of one of the set's; no object is opened."""
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
            return kind is EntryKind.PIN and re.fullmatch(_FOLD, name) is not None
        return kind is EntryKind.PIN and self.is_own_name(folder, name)

    def is_own_name(self, folder: str, pin: str) -> bool:
        """Whether the set pinned an object as *pin* in *folder*, even if that pin is gone."""
        if folder not in _LETTERS:
            return False
        if folder == names.LINKS and pin in self.links:
            return True
        if self.objects is None:
            return self.has_manifest and "~" not in pin and folder != names.LINKS
        return pin in self.objects.of(folder)

    def owns(self, directory: Directory, entry: GenerationEntry) -> bool:
        """Whether an entry of the open folder *directory* is the set's, by name and by object."""
        if not self.has_own_name(entry):
            return False
        objects = self.objects
        if entry.kind is not EntryKind.PIN or entry.folder not in _KINDS or objects is None:
            return True
        try:
            pinned = identity(directory.pin_path(entry.name))
        except PinNotFoundError:
            return False
        if pinned is None or pinned[0] is not _kind_of(entry):
            return False
        if objects.of(entry.folder).get(entry.name) == pinned[1]:
            return True
        return entry.folder == names.LINKS and self._runs_own_program(pinned[1], objects)

    def _runs_own_program(self, link_id: int, objects: ObjectIds) -> bool:
        """Whether a link that is not recorded, such as one that was on trial, is the set's."""
        with suppress(IdNotFoundError), Link.from_id(link_id) as link:
            info = link.info
            own = objects.maps if info.type == LinkType.STRUCT_OPS else objects.programs
            return info.object_id in own.values()
        return False


def ownership_of(directory: Directory) -> Ownership:
    """Return the ownership in the generation *directory*, which belongs to this user."""
    try:
        manifest: Manifest | None = read_manifest(directory)
    except UnsafePathError:
        manifest = None
    return Ownership.of(manifest, ObjectIds.read(directory))


def sort_by_name(
    directory: Directory, owner: Ownership
) -> tuple[dict[str, list[str]], tuple[str, ...], frozenset[str]]:
    """Sort the entries of a generation into own and foreign ones by name; no object is opened.

    Returns:
        The pins with a name of the set, by folder; the paths of foreign entries; the folders that
        this user may not read.
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
    """Return the entries of a generation that are not the set's, by name or by object."""
    ownership = owner or ownership_of(directory)
    return [entry for folder, entry in _entries(directory) if not ownership.owns(folder, entry)]


def _entries(
    directory: Directory, hidden: list[str] | None = None
) -> Iterator[tuple[Directory, GenerationEntry]]:
    """Yield the entries of a generation, each with the open directory that contains it.

    Folders that this user may not read are added to *hidden*; without it they raise.
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
    """Whether an unload of this user left *directory* for pins of others."""
    status = directory.status
    is_ours = status.st_uid == os.geteuid() and not status.st_mode & OTHERS_WRITE
    return is_ours and bool(status.st_mode & UNLOADED_MODE) and not directory.has(names.MANIFEST)


def remove_own(directory: Directory) -> None:
    """Remove the set's own entries of a generation, and leave the foreign ones.

    The links go first: their programs are detached before anything that they use goes. The maps go
    late, because a reader may be about to open one. The manifest and `objects~` go last: they tell
    own entries from foreign ones, so after a crash the next command still decides alike.
    """
    owner = ownership_of(directory)
    # Without `objects~`, the last one: entries left in the others would be foreign without it.
    for folder in _FOLDERS[:-1]:
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
    """Remove `previous~` with its pins, and then the records of these."""
    remove_own_folder(directory, names.PREVIOUS)
    with suppress(PinNotFoundError), directory.child(names.OBJECTS) as objects:
        for entry in objects.names():
            if entry.startswith(f"{_LETTERS[names.PREVIOUS]}~"):
                objects.unlink(entry)


def remove_own_folder(directory: Directory, folder: str, owner: Ownership | None = None) -> None:
    """Remove the set's own entries of one folder, and the folder once it is empty."""
    ownership = owner or ownership_of(directory)
    try:
        below = directory.child(folder)
    except PinNotFoundError:
        return
    with below:
        for name, kind in below.kinds().items():
            if ownership.owns(below, GenerationEntry(folder, name, kind)):
                below.unlink(name)
        is_empty = not below.names()
    if is_empty:
        directory.rmdir(folder)


def link_foreign(live: Directory, target: Directory) -> None:
    """Link the foreign entries of *live* into *target*, which will replace it, by the same names.

    A pin that somebody put in the place of the set's own pin gets the name `idN~NAME`, with the id
    N of its object, because the set pins its own object again. `PinExistsError` if the name is
    needed for another reason.
    """
    owner = ownership_of(live)
    if not owner.has_manifest and not is_unloaded(live):  # not a set of this tool
        return
    for entry in foreign_entries(live, owner):
        with contextlib.ExitStack() as opened:
            source, place = live, target
            if entry.folder:
                source = opened.enter_context(live.child(entry.folder))
                if not target.has(entry.folder):
                    target.mark_like(entry.folder, source)
                place = opened.enter_context(target.child(entry.folder))
            name = entry.name
            if place.has(name) and owner.is_own_name(entry.folder, name):
                if entry.kind is EntryKind.DIRECTORY:  # `return_foreign` moves it as a whole
                    continue
                name = aside_name(source, entry)
            _copy(source, place, entry.name, new_name=name)


def aside_name(directory: Directory, entry: GenerationEntry) -> str:
    """Return the new name of a foreign object that is pinned under a name of the set."""
    pinned = identity(directory.pin_path(entry.name)) if entry.kind is EntryKind.PIN else None
    return names.aside_name(f"id{pinned[1]}~" if pinned else _ASIDE, entry.name)


def _copy(
    source: Directory, target: Directory, name: str, *, new_name: str = "", depth: int = 0
) -> None:
    """Link a pin or symlink into *target*; rebuild a directory there, with owner and mode."""
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
        # Last: as long as the copy is filled, no other user can change it.
        os.fchown(copy.fileno(), status.st_uid, status.st_gid)
        os.fchmod(copy.fileno(), stat.S_IMODE(status.st_mode))


def return_foreign(root: Directory, stage: str, name: str) -> None:
    """Move the foreign entries that remain in the directory *stage* to the set's directory *name*.

    An entry that was linked there before is only unlinked here; one whose name is taken by
    something else gets the name `other~NAME`. If the set's directory is missing, it is made, with
    the mark of an unloaded set.
    """
    with root.child(stage) as directory:
        for _ in range(_ROUNDS_MAX):
            entries = [entry for _, entry in _entries(directory)]
            if not entries:
                return
            if not root.has(name):
                root.mark(name, DIRECTORY_MODE | UNLOADED_MODE)
            with root.child(name) as live:
                require_safe(live)
                # Empty ones are removed, so it was made just now, or by a command that died then.
                if is_unloaded(live) and not live.names():
                    live.set_access_like(directory, extra=UNLOADED_MODE)
                _give_entries(directory, live, entries)


def _give_entries(directory: Directory, live: Directory, entries: list[GenerationEntry]) -> None:
    for entry in entries:
        if not entry.folder:
            if entry.name not in _FOLDERS:
                _give(directory, live, entry.name)
            continue
        with directory.child(entry.folder) as source:
            if not live.has(entry.folder):
                live.mark_like(entry.folder, source)
            with live.child(entry.folder) as target:
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
    """Return the inode numbers in a directory; hard links of one pin have the same.

    bpffs takes them from get_next_ino() (kernel/bpf/inode.c), so that different pins of one object
    have different numbers.
    """
    with os.scandir(directory.fileno()) as entries:
        return {entry.inode() for entry in entries}


def _give(source: Directory, target: Directory, name: str, depth: int = 0) -> None:
    """Move one entry to *target*; merge directories, and rename the entry if the name is taken."""
    with suppress(PinExistsError):
        # Without a look before: NOREPLACE decides in the same step, also if another process
        # takes the name meanwhile.
        return source.rename_into(target, name, name)
    moved, existing = source.stat(name), target.stat(name)
    if not stat.S_ISDIR(moved.st_mode) and moved.st_ino in _inodes(target):
        return source.unlink(name)  # it was linked before, maybe under another name
    if stat.S_ISDIR(moved.st_mode) and stat.S_ISDIR(existing.st_mode) and depth < _DEPTH_MAX:
        with source.child(name) as below, target.child(name) as place:
            for entry in below.names():
                _give(below, place, entry, depth + 1)
        return source.rmdir(name)
    for number in itertools.count():
        aside = names.aside_name(_ASIDE, name, f"~{number}" if number else "")
        with suppress(PinExistsError):
            return source.rename_into(target, name, aside)
    return None
