"""Pins outside of the set: the names under which an object asks its maps to be shared.

Where such a name is to hold another map, the stage has what is needed to exchange it and to take
that back, below `shared~`: `MAP` is the pin that changes places with the shared name, `MAP~old` the
map that the name holds before, and `MAP~path` a symlink whose text is where the name is.

Where such a name is to go, the generation that takes the place of its set's has a symlink `MAP`
below `unshared~`, whose text is the id of the map and the path of the name. It is removed after the
commit, by the command itself or by crash recovery.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bpfpin.btf.btf import TypeRef
from bpfpin.errors import PinError, PinExistsError, PinNotFoundError
from bpfpin.objects.maps.layouts import NO_TYPES, decode_texts, encode, parts
from bpfpin.objects.maps.map import Map
from bpfpin.pins import names
from bpfpin.pins.directory import Directory, EntryKind, remove_tree, require_safe
from bpfpin.pins.manifest import TEXT_SIZE_MAX, Access, OutsidePin
from bpfpin.pins.names import map_pin_name
from bpfpin.pins.ownership import GenerationEntry, ownership_of

_OLD: Final = "~old"
_PATH: Final = "~path"
CHUNK_SIZE: Final = TEXT_SIZE_MAX // 4 * 4  # so that each text is base64 by itself


def prepare_exchange(
    root: Directory, stage: Directory, pin: OutsidePin, *, old: Map, new: Map
) -> None:
    """Keep in *stage* what lets the shared name hold *new* where it holds *old*.

    The new pin may be opened by whom the old one may. `PinNotFoundError` if the name is gone.
    """
    part, name = names.map_pin_name(pin.map), pin.below(root.path).name
    with suppress(PinExistsError):
        stage.mark(names.SHARED)
    with stage.child(names.SHARED) as shared, _parent(root, pin, makes=False) as parent:
        there = parent.stat(name)
        new.pin(shared.pin_path(part))
        if shared.stat(part).st_gid != there.st_gid:
            shared.chown_group(part, there.st_gid)
        shared.chmod(part, stat.S_IMODE(there.st_mode))
        old.pin(shared.pin_path(f"{part}{_OLD}"))
        # Last: an exchange counts by its path.
        shared.write_text(f"{part}{_PATH}", pin.path)


def exchange(root: Directory, stage: Directory) -> None:
    """Let the shared names that *stage* is to exchange hold their new maps; again does nothing.

    `PinExistsError` if a name holds neither the old map nor the new one by now.
    """
    for each in _exchanges(root, stage):
        each.forward()


def exchange_back(root: Directory, stage: Directory) -> None:
    """Let the shared names hold what they held before `exchange`; again does nothing."""
    for each in _exchanges(root, stage):
        each.back()


def is_exchanged(stage: Path, name: Path) -> bool:
    """Whether the generation at *stage* gives the shared name *name* another map.

    *name* is a path below the pin root. `OSError` for who may not look.
    """
    return any(
        entry.name.endswith(_PATH) and entry.readlink() == name
        for entry in (stage / names.SHARED).iterdir()
    )


@dataclass(frozen=True)
class _Exchange:
    """One shared name that is to hold another map; *shared* is `shared~` of the stage."""

    root: Directory
    shared: Directory
    part: str
    pin: OutsidePin

    def forward(self) -> None:
        path, old, new = self.pin.below(self.root.path), self._old_id(), self._new_id()
        there = _map_id(path)
        if there in (None, new):  # gone: made anew where the set makes its shared names
            return
        if there == old:
            self._exchange(self.part)
            if _map_id(self.shared.path / self.part) == old:
                return
            self._exchange(self.part)  # somebody put another map there in between
        raise PinExistsError(
            f"{path} holds map id {_map_id(path)} by now, made by somebody else meanwhile",
            path=str(path),
            hint="load again: that map is used then, if it fits",
        )

    def back(self) -> None:
        if _map_id(self.pin.below(self.root.path)) != self._new_id():
            return
        # The pin that was there, with its owner and mode, if it changed places; else a new one.
        is_there = _map_id(self.shared.path / self.part) == self._old_id()
        self._exchange(self.part if is_there else f"{self.part}{_OLD}")

    def _exchange(self, part: str) -> None:
        with _parent(self.root, self.pin, makes=False) as parent:
            self.shared.exchange(part, parent, self.pin.below(self.root.path).name)

    def _old_id(self) -> int | None:
        return _map_id(self.shared.path / f"{self.part}{_OLD}")

    def _new_id(self) -> int | None:
        return _map_id(self.shared.path.parent / self.part)


def _exchanges(root: Directory, stage: Directory) -> Iterator[_Exchange]:
    with suppress(PinNotFoundError), stage.child(names.SHARED) as shared:
        for name in shared.names():
            if name.endswith(_PATH):
                part = name.removesuffix(_PATH)
                pin = OutsidePin(names.decode(part), shared.read_text(name))
                yield _Exchange(root, shared, part, pin)


def _map_id(path: Path) -> int | None:
    """Return which map is pinned at *path*, None if nothing or something else is."""
    with suppress(PinError), Map.from_pin(path, read_only=True) as held:
        return held.id
    return None


def share(root: Directory, owner: Directory, pin: OutsidePin) -> None:
    """Give the map of the set in *owner* its shared name as well; again does nothing.

    `PinExistsError` if that name holds another map by now: two maps would be used where one was
    meant.
    """
    source, path = owner.path / names.map_pin_name(pin.map), pin.below(root.path)
    with Map.from_pin(source) as held:
        with suppress(PinExistsError), _parent(root, pin, makes=True) as parent:
            held.pin(parent.pin_path(path.name))
            return
        with Map.from_pin(path) as there:
            if there.id == held.id:
                return
            raise PinExistsError(
                f"{path} holds map id {there.id} by now, made by somebody else meanwhile",
                path=str(path),
                hint="load again: that map is used then, if it fits",
            )


def holds(root: Path, pin: OutsidePin, map_id: int) -> bool:
    """Whether the shared name holds just that map; it does not if it is gone or no map's.

    Any other error is raised: what cannot be asked is no answer.
    """
    return _map_id(pin.below(root)) == map_id


def unshare(root: Directory, pin: OutsidePin, map_id: int) -> bool:
    """Remove the shared name if it still holds map *map_id*; say whether it was removed."""
    if not holds(root.path, pin, map_id):
        return False
    with suppress(PinNotFoundError), _parent(root, pin, makes=False) as parent:
        parent.unlink(pin.below(root.path).name)
        return True
    return False


def record_unshare(stage: Directory, pin: OutsidePin, map_id: int) -> None:
    """Write down in *stage* that the shared name of map *map_id* goes once the stage holds."""
    with suppress(PinExistsError):
        stage.mark(names.UNSHARED)
    with stage.child(names.UNSHARED) as given_up:
        given_up.write_text(names.map_pin_name(pin.map), f"{map_id} {pin.path}")


def unshare_recorded(root: Directory, directory: Directory) -> None:
    """Remove the shared names that a generation which holds gives up; again does nothing."""
    try:
        given_up = directory.child(names.UNSHARED)
    except PinNotFoundError:
        return
    with given_up:
        for part in given_up.names():
            map_id, _, path = given_up.read_text(part).partition(" ")
            unshare(root, OutsidePin(names.decode(part), path), int(map_id))
    remove_tree(directory, names.UNSHARED)


@contextmanager
def _parent(root: Directory, pin: OutsidePin, *, makes: bool) -> Iterator[Directory]:
    """Open the directory that the shared name is in, below directories that only we may change."""
    directory = root
    with ExitStack() as opened:
        for part in pin.path.split("/")[:-1]:
            if makes:
                with suppress(PinExistsError):
                    directory.mark(part)
            directory = opened.enter_context(directory.child(part))
            require_safe(directory)
        yield directory


# Who else may open the maps of a set: its group and mode, and the directories on the way.


def set_access(directory: Directory, access: Access) -> None:
    """Let those open the maps in *directory* whom *access* names; what is so already stays.

    Pins of others in it stay as they are.
    """
    owner = ownership_of(directory)
    for name, kind in directory.kinds().items():
        if kind is EntryKind.PIN and owner.owns(directory, GenerationEntry("", name, kind)):
            set_map_access(directory, name, access)
    _open_directory(directory, access)
    for folder in (names.LAYOUTS, names.OBJECTS):
        with suppress(PinNotFoundError), directory.child(folder) as below:
            _open_directory(below, access)


def set_map_access(directory: Directory, pin: str, access: Access) -> None:
    """Set group and mode of one pin."""
    there = directory.stat(pin)
    if access.gid is not None and there.st_gid != access.gid:
        directory.chown_group(pin, access.gid)
    if stat.S_IMODE(there.st_mode) != access.mode:
        directory.chmod(pin, access.mode)


def _open_directory(directory: Directory, access: Access) -> None:
    there = directory.status
    if access.gid is not None and there.st_gid != access.gid:
        os.fchown(directory.fileno(), -1, access.gid)
    if stat.S_IMODE(there.st_mode) != access.directory_mode:
        os.fchmod(directory.fileno(), access.directory_mode)


# Keeps the types of a map's key and value beside its pin; `objects.layouts` knows their form.


def write_types(
    directory: Directory, name: str, *, key: TypeRef | None, value: TypeRef | None
) -> int:
    """Store the types of map *name* in *directory*, and return in how many symlinks; 0 for none."""
    text = base64.b64encode(encode(key, value)).decode()
    chunks = [text[start : start + CHUNK_SIZE] for start in range(0, len(text), CHUNK_SIZE)]
    for part, chunk in zip(parts(map_pin_name(name)), chunks, strict=False):
        directory.write_text(part, chunk)
    return len(chunks)


def link_types(directory: Directory, live: Directory, name: str) -> int:
    """Give *directory* what *live* has of map *name*'s types, and return how many symlinks.

    What is damaged, because somebody removed a part, counts for nothing.
    """
    if read_types(live, name) == NO_TYPES:
        return 0
    kept = 0
    for part in parts(map_pin_name(name)):
        try:
            directory.link_from(live, part)
        except PinNotFoundError:
            break
        kept += 1
    return kept


def read_types(directory: Directory, name: str) -> tuple[TypeRef | None, TypeRef | None]:
    """Return the types of map *name*'s key and value; None where there is none or it is damaged."""
    texts: list[str] = []
    for part in parts(map_pin_name(name)):
        if not directory.has(part):
            break
        texts.append(directory.read_text(part))
    return decode_texts(texts)
