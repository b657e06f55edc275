"""Pins and unpins single maps, outside of pin sets."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from bpfpin.errors import (
    BpfError,
    NotBpffsError,
    PinExistsError,
    PinNameError,
    PinNotFoundError,
    UnsafePathError,
)
from bpfpin.hints import Argument, Fix, shell_line
from bpfpin.host.objects import keepers
from bpfpin.host.users import users_of
from bpfpin.map.open import open_map
from bpfpin.objects.kernel.object import identity
from bpfpin.objects.maps.map import Map
from bpfpin.pins import names
from bpfpin.pins.bpffs import require_lasting
from bpfpin.pins.directory import Directory, require_safe
from bpfpin.pins.manifest import read_manifest
from bpfpin.records import dataclass
from bpfpin.syscall import fs


@dataclass(frozen=True, slots=True)
class PinnedMap:
    """Map *id* named *name* is pinned at *path*."""

    id: int
    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Unpinned:
    """Map *id* named *name* was unpinned from *path*; *users* keep it alive, in words.

    Without users the kernel frees the map. *is_sure* is false without CAP_SYS_ADMIN, because then
    some users are hidden.
    """

    id: int
    name: str
    path: Path
    users: tuple[str, ...]
    is_sure: bool

    @property
    def is_gone(self) -> bool:
        """Whether the kernel freed the map."""
        return self.is_sure and not self.users


def pin_map(target: str, path: str | Path, *, private_mount: bool = False) -> PinnedMap:
    """Pin the map that *target* names at *path*, a new name in a bpffs (BPF_OBJ_PIN).

    Raises `PinNameError` for a name that bpffs refuses, `PinNotFoundError` if the directory does
    not exist, `NotBpffsError` outside of a bpffs, `PinExistsError` with the object that has the
    name, `UnsafePathError` in a pin set or in a directory that other users could change, and
    `PrivateMountError` where the pin would end with this mount namespace, unless *private_mount*.
    """
    pin_path = _absolute(path)
    if not private_mount:
        # A bpffs of this mount namespace alone ends with it, and the pins in it.
        require_lasting(pin_path.parent)
    # bpf_lookup() in kernel/bpf/inode.c refuses dots.
    if "." in pin_path.name or not pin_path.name:
        raise PinNameError(f"{pin_path}: a name in bpffs has no dots", path=str(pin_path))
    with open_map(target, read_only=False) as bpf_map, _directory(pin_path) as directory:
        # A reload exchanges the directory of a set, with all pins that are in it.
        _require_outside(pin_path)
        require_safe(directory, is_sticky_enough=True)
        # For the message only: BPF_OBJ_PIN itself fails with EEXIST.
        if directory.has(pin_path.name):
            raise _taken(pin_path)
        try:
            # By the descriptor of the checked directory: its path may lead elsewhere by now.
            bpf_map.pin(directory.pin_path(pin_path.name))
        except PinExistsError:  # another process was faster
            raise _taken(pin_path) from None
        return PinnedMap(bpf_map.id, bpf_map.name, pin_path)


def unpin_map(path: str | Path, *, pin_root: Path, is_forced: bool = False) -> Unpinned:
    """Remove the pin of a map at *path*, and return the remaining users of the map.

    Raises `PinNotFoundError`, `PinKindError` if it is not the pin of a map, and `UnsafePathError`
    in a pin set, unless *is_forced*, or in a directory that other users could change.
    """
    pin_path = _absolute(path)
    with Map.from_pin(pin_path, read_only=True) as bpf_map:
        if not is_forced:
            _require_outside(pin_path)
        map_id, name = bpf_map.id, bpf_map.name
        with Directory.open(pin_path.parent) as directory:
            require_safe(directory, is_sticky_enough=True)
            directory.unlink(pin_path.name)
        # While the map is open here, its id cannot be given to another map.
        users = users_of(map_id, pin_root=pin_root)
    kept_by = keepers()
    left = (*map(str, users), *kept_by.in_words(map_id))
    return Unpinned(map_id, name, pin_path, left, is_sure=kept_by.is_complete)


def set_around(path: Path) -> Path | None:
    """Return the directory of the pin set that *path* is in, else None.

    The directory of the lock, where changes on trial are kept, counts as one.
    """
    # From the outside in: a generation that a trial keeps has a manifest as well.
    for parent in reversed(path.parents):
        if parent.name == names.LOCK_DIRECTORY or parent.name.endswith(names.STAGE_SUFFIX):
            return parent
        try:
            with Directory.open(parent) as directory:
                read_manifest(directory)
        except BpfError:
            continue
        return parent
    # A set whose manifest cannot be read shows by the names that only bpfpin uses (with a `~`).
    ours = names.PARTS | names.MARKS
    return next((parent for parent in path.parents if parent.name in ours), None)


def _require_outside(pin_path: Path) -> None:
    pin_set = set_around(pin_path)
    if pin_set is not None and pin_set.name == names.LOCK_DIRECTORY:
        raise UnsafePathError(
            f"{pin_path} is kept for bpfpin itself, while a change is on trial",
            path=str(pin_path),
            hint="to keep the change: bpfpin confirm; to remove leftovers: bpfpin clean",
        )
    if pin_set is not None:
        unload = shell_line("bpfpin unload", names.display_name(pin_set.name))
        raise UnsafePathError(
            f"{pin_path} is in the pin set {pin_set}, which only load and unload change",
            path=str(pin_path),
            hint=Fix.of(
                "unpin takes ",
                Argument("is_forced"),
                f"; a set as a whole goes with: {unload}",
            ),
        )


def _directory(pin_path: Path) -> Directory:
    parent = pin_path.parent
    try:
        directory = Directory.open(parent)
    except PinNotFoundError:
        if parent.is_symlink():
            raise UnsafePathError(f"{parent} is a symbolic link", path=str(pin_path)) from None
        raise PinNotFoundError(
            f"{pin_path}: there is no directory {parent}",
            path=str(pin_path),
            hint=f"mkdir {parent}",
        ) from None
    if fs.is_bpffs(directory.fileno()):
        return directory
    directory.close()
    message = f"{pin_path} does not lie in a bpffs"
    raise NotBpffsError(message, path=str(pin_path), hint=fs.bpffs_hint())


def _taken(pin_path: Path) -> PinExistsError:
    what = "a directory" if pin_path.is_dir() else "something else"
    with suppress(BpfError):
        if pinned := identity(pin_path):
            kind, object_id = pinned
            what = f"{kind} id {object_id}"
        with Map.from_pin(pin_path, read_only=True) as bpf_map:
            what = f"map id {bpf_map.id} ({bpf_map.name})"
    return PinExistsError(f"{pin_path}: the name is taken by {what}", path=str(pin_path))


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  (no symlink may be resolved)
