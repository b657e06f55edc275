"""Which pin set somebody means by a device or a name."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path, PurePath

from bpfpin.attach import interface
from bpfpin.errors import (
    BpfError,
    InterfaceNotFoundError,
    PermissionDeniedError,
    PinNotFoundError,
    UsageError,
)
from bpfpin.pins import names
from bpfpin.pins.directory import Directory, user_name
from bpfpin.pins.manifest import AttachPoint, read_manifest
from bpfpin.pins.pinset import LoadedSet, PinSet, all_sets
from bpfpin.syscall import fs
from bpfpin.syscall import netns as namespaces
from bpfpin.syscall.capability import missing_capabilities
from bpfpin.uapi import Cmd


def find_set(target: str, *, pin_root: Path, netns: str | None = None) -> PinSet:
    """Return the set of device *target* in namespace *netns* (None: the current one), or so named.

    A device finds its set by ifindex and namespace, whatever the set is called; where it has
    several, the one that is called *target* is meant. The path of a set's directory always names
    that one. Raises `UsageError`
    with the list if several fit, `PinNotFoundError` if none does, `NotBpffsError` if *pin_root* is
    somebody else's file system.
    """
    sets = all_sets(pin_root)
    fitting = (
        [one for one in sets if str(one.path) == target]
        or _of_device(target, sets, netns=netns)
        or _of_cgroup(target, sets)
        or _of_name(target, sets, netns=netns)
    )
    if len(fitting) > 1:  # of several on a device, or elsewhere, one may be called just that
        named = _of_name(target, sets, netns=netns)
        fitting = named if len(named) == 1 else fitting
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(
            f"{target!r} fits {len(fitting)} pin sets: {_listed(fitting)}",
            hint=f"name one of them, at best by its path: {fitting[0].path}",
        )
    raise PinNotFoundError(
        f"nothing is loaded for {target!r}; the pin sets below {pin_root} are:"
        f" {_listed(sets) or 'none'}",
        path=str(pin_root),
        hint=_load_hint(target) if not sets else "bpfpin status",
    )


def _load_hint(target: str) -> str:
    is_cgroup = target.startswith(("@", "/"))
    return (
        f"bpfpin load --cgroup {target.lstrip('@')}" if is_cgroup else f"bpfpin load --dev {target}"
    )


def cgroup_set_name(target: str, *, pin_root: Path) -> str | None:
    """Return the name of the one set of the cgroup whose path *target* is, None if it is none."""
    with suppress(BpfError):  # who names a pin needs no pin root
        fitting = _of_cgroup(target, all_sets(pin_root)) if target.startswith("/") else []
        return names.display_name(fitting[0].name) if len(fitting) == 1 else None
    return None


def find_readable_set(target: str, *, pin_root: Path, netns: str | None = None) -> PinSet:
    """Return what `find_set` does; `PermissionDeniedError` if this user may not look into it."""
    found = find_set(target, pin_root=pin_root, netns=netns)
    if not os.access(found.path, os.R_OK | os.X_OK):
        raise PermissionDeniedError(
            f"{found.path} may not be read by this user, it belongs to"
            f" {user_name(found.path.stat().st_uid)}",
            target=str(found.path),
            errno=0,
        )
    return found


def set_names(pin_root: Path) -> list[str]:
    """Return how the sets below *pin_root* are called, sorted; none where it cannot be read."""
    with suppress(BpfError, OSError):
        return sorted(names.display_name(one.name) for one in all_sets(pin_root))
    return []


def sets_at(place: AttachPoint, sets: list[PinSet]) -> list[PinSet]:
    """Return those of *sets* at the same device, or without one at the same cgroup."""
    return [
        pin_set
        for pin_set in sets
        if isinstance(pin_set, LoadedSet) and _is_at(pin_set.manifest.place, place)
    ]


def is_set_at(place: AttachPoint, path: Path) -> bool:
    """Whether *path* is a set of ours at that place; nothing but its manifest is looked at."""
    with suppress(BpfError), Directory.open(path) as directory:
        return _is_at(read_manifest(directory).place, place)
    return False


def _is_at(there: AttachPoint, place: AttachPoint) -> bool:
    if place.ifindex:
        return (there.ifindex, there.netns_inode) == (place.ifindex, place.netns_inode)
    return not there.ifindex and there.cgroup == place.cgroup


def _of_device(target: str, sets: list[PinSet], *, netns: str | None) -> list[PinSet]:
    with namespaces.enter(netns):
        try:
            ifindex = interface.ifindex(target)
        except InterfaceNotFoundError:
            return []
        here = AttachPoint(ifindex=ifindex, netns_inode=namespaces.inode())
        return sets_at(here, sets)


def _of_cgroup(target: str, sets: list[PinSet]) -> list[PinSet]:
    """Return the sets of a cgroup, if *target* is the path of its folder, or below the mount.

    The folder need not be there any more, and the hierarchy may be mounted several times.
    """
    folder = PurePath(target)
    if not folder.is_absolute():
        return []
    meant = {str(folder)}
    for mount in fs.mounts():
        if mount.fs_type == "cgroup2" and folder.is_relative_to(mount.mount_point):
            meant.add(str(PurePath(mount.root, folder.relative_to(mount.mount_point))))
    return [
        pin_set
        for pin_set in sets
        if isinstance(pin_set, LoadedSet) and pin_set.manifest.place.cgroup in meant
    ]


def _of_name(target: str, sets: list[PinSet], *, netns: str | None) -> list[PinSet]:
    """Return the set of that name: as `load` would call it, as the directory is, or as shown."""
    if not target:
        return []
    wanted = [names.set_name(target, netns), target]
    for name in wanted:
        if found := [one for one in sets if one.name == name]:
            return found
    return [one for one in sets if names.display_name(one.name) == target]


def _listed(sets: list[PinSet]) -> str:
    return ", ".join(names.display_name(found.name) for found in sets)


# Asks for the privileges of a whole job before its first step, so that the answer names them.


def require_attach(job: str) -> None:
    """Raise `PermissionDeniedError` unless this thread may load programs and attach them."""
    missing = missing_capabilities(Cmd.LINK_CREATE)
    if missing:
        message = f"{job} needs {' and '.join(missing)}"
        raise PermissionDeniedError(message, missing=missing, errno=0)
