"""Names for maps in bpffs that belong to no pin set: made and removed one at a time."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bpfpin.errors import (
    BpfError,
    NotBpffsError,
    PinExistsError,
    PinKindError,
    PinNameError,
    PinNotFoundError,
    UnsafePathError,
)
from bpfpin.host.objects import keepers
from bpfpin.host.users import users_of
from bpfpin.map.open import open_map
from bpfpin.objects.maps.map import Map
from bpfpin.pins import names
from bpfpin.pins.bpffs import require_lasting
from bpfpin.pins.directory import Directory, require_safe
from bpfpin.pins.manifest import read_manifest
from bpfpin.syscall import fs


@dataclass(frozen=True, slots=True)
class Pinned:
    """Map *id* called *name* has a pin at *path*."""

    id: int
    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Unpinned:
    """*path* was a pin of map *id* called *name*; *users* are those who keep it, in words.

    Without any that this user may see the kernel frees it, unless *is_sure* is false: then there
    may be users that are not seen without CAP_SYS_ADMIN.
    """

    id: int
    name: str
    path: Path
    users: tuple[str, ...]
    is_sure: bool

    @property
    def is_gone(self) -> bool:
        """Whether the map ended with this pin."""
        return self.is_sure and not self.users


def pin_map(target: str, path: str | Path, *, private_mount: bool = False) -> Pinned:
    """Pin the map that *target* names at *path*, a new name in a bpffs (BPF_OBJ_PIN).

    `PinNameError` for a name that bpffs does not take, `PinNotFoundError` without such a directory,
    `NotBpffsError` elsewhere, `PinExistsError` with what is there, `UnsafePathError` in a pin set
    of ours or in a directory that somebody else could change, `PrivateMountError` where the pin
    would end with this mount namespace, unless *private_mount*.
    """
    place = _absolute(path)
    if not private_mount:
        require_lasting(place.parent)
    if "." in place.name or not place.name:
        raise PinNameError(f"{place}: a name in bpffs has no dots", path=str(place))
    with open_map(target, read_only=False) as held, _directory(place) as directory:
        _require_outside(place)
        require_safe(directory, is_sticky_enough=True)
        if directory.has(place.name):
            raise _taken(place)
        try:
            held.pin(directory.pin_path(place.name))
        except PinExistsError:  # somebody else was quicker
            raise _taken(place) from None
        return Pinned(held.id, held.name, place)


def unpin_map(path: str | Path, *, pin_root: Path, is_forced: bool = False) -> Unpinned:
    """Remove the pin of a map at *path*, and tell who else keeps the map.

    `PinNotFoundError`, `PinKindError` for what is no map's pin, `UnsafePathError` for one in a pin
    set of ours unless *is_forced*, and in a directory that somebody else could change.
    """
    place = _absolute(path)
    with Map.from_pin(place, read_only=True) as held:
        if not is_forced:
            _require_outside(place)
        id_, name = held.id, held.name
        with Directory.open(place.parent) as directory:
            require_safe(directory, is_sticky_enough=True)
            directory.unlink(place.name)
        users = users_of(id_, pin_root=pin_root)
    found = keepers()
    left = (*map(str, users), *found.told(id_))
    return Unpinned(id_, name, place, left, is_sure=found.is_complete)


def set_around(path: Path) -> Path | None:
    """Return the directory of the pin set of ours that *path* is in, None if it is in none.

    The directory of the lock, where trials of other maps are kept, counts as one.
    """
    # From the outside: what a trial keeps of a generation has a manifest as well.
    for parent in reversed(path.parents):
        if parent.name == names.LOCK_DIRECTORY or parent.name.endswith(names.STAGE_SUFFIX):
            return parent
        try:
            with Directory.open(parent) as directory:
                read_manifest(directory)
        except BpfError:
            continue
        return parent
    ours = names.PARTS | names.MARKS
    return next((parent for parent in path.parents if parent.name in ours), None)


def _require_outside(place: Path) -> None:
    found = set_around(place)
    if found is not None and found.name == names.LOCK_DIRECTORY:
        raise UnsafePathError(
            f"{place} is kept for bpfpin itself, while a change is on trial",
            path=str(place),
            hint="to keep the change: bpfpin confirm; what is over goes with: bpfpin clean",
        )
    if found is not None:
        raise UnsafePathError(
            f"{place} is in the pin set {found}, which only load and unload change",
            path=str(place),
            hint="unpin takes --force; a set as a whole goes with: bpfpin unload "
            f"{names.display_name(found.name)}",
        )


def _directory(place: Path) -> Directory:
    try:
        directory = Directory.open(place.parent)
    except PinNotFoundError:
        if place.parent.is_symlink():
            raise UnsafePathError(f"{place.parent} is a symbolic link", path=str(place)) from None
        raise PinNotFoundError(
            f"{place}: there is no directory {place.parent}",
            path=str(place),
            hint=f"mkdir {place.parent}",
        ) from None
    if fs.is_bpffs(directory.fileno()):
        return directory
    directory.close()
    message = f"{place} does not lie in a bpffs"
    raise NotBpffsError(message, path=str(place), hint=fs.bpffs_hint())


def _taken(place: Path) -> PinExistsError:
    try:
        with Map.from_pin(place, read_only=True) as there:
            what = f"map id {there.id} ({there.name})"
    except PinKindError as error:
        what = error.message.rpartition(", ")[2].removesuffix(" is there")
    except BpfError:
        what = "something else"
    return PinExistsError(f"{place}: the name is taken by {what}", path=str(place))


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  (no symlink may be resolved)
