"""Which pin set somebody means by a device or a name."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from bpfpin.attach import interface
from bpfpin.errors import (
    BpfError,
    InterfaceNotFoundError,
    PermissionDeniedError,
    PinNotFoundError,
    UsageError,
)
from bpfpin.pins import bpffs, names
from bpfpin.pins.bpffs import RootState
from bpfpin.pins.directory import Directory, user_name
from bpfpin.pins.manifest import Place
from bpfpin.pins.pinset import PinSet, pin_sets, read_manifest
from bpfpin.syscall import netns as namespaces


def find_set(target: str, *, pin_root: Path, netns: str | None = None) -> PinSet:
    """Return the set of device *target* in namespace *netns* (None: the current one), or so named.

    A device finds its set by ifindex and namespace, whatever the set is called. Raises `UsageError`
    with the list if several fit, `PinNotFoundError` if none does, `NotBpffsError` if *pin_root* is
    somebody else's file system.
    """
    sets = all_sets(pin_root)
    fitting = _of_device(target, sets, netns=netns) or _of_name(target, sets, netns=netns)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(
            f"{target!r} fits {len(fitting)} pin sets: {_listed(fitting)}",
            hint="name one of them",
        )
    raise PinNotFoundError(
        f"nothing is loaded for {target!r}; the pin sets below {pin_root} are:"
        f" {_listed(sets) or 'none'}",
        path=str(pin_root),
        hint=f"bpfpin load --dev {target}" if not sets else "bpfpin status",
    )


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


def all_sets(pin_root: Path) -> list[PinSet]:
    """Return all pin sets; none where no bpffs was ever mounted."""
    if bpffs.inspect(pin_root) is RootState.ABSENT:
        return []
    bpffs.require(pin_root)
    return pin_sets(pin_root)


def sets_of_device(ifindex: int, sets: list[PinSet]) -> list[PinSet]:
    """Return those of *sets* whose device is *ifindex* of the current network namespace."""
    here = namespaces.inode()
    return [
        found
        for found in sets
        if found.manifest and _is_at(found.manifest.place, ifindex=ifindex, netns_inode=here)
    ]


def is_set_of_device(ifindex: int, path: Path) -> bool:
    """Whether *path* is a set of ours of that device; nothing but its manifest is looked at."""
    with suppress(BpfError), Directory.open(path) as directory:
        place = read_manifest(directory).place
        return _is_at(place, ifindex=ifindex, netns_inode=namespaces.inode())
    return False


def _is_at(place: Place, *, ifindex: int, netns_inode: int) -> bool:
    return (place.ifindex, place.netns_inode) == (ifindex, netns_inode)


def _of_device(target: str, sets: list[PinSet], *, netns: str | None) -> list[PinSet]:
    with namespaces.enter(netns):
        try:
            ifindex = interface.ifindex(target)
        except InterfaceNotFoundError:
            return []
        return sets_of_device(ifindex, sets)


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
