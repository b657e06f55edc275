"""Find the pin set that a user means by a device, a cgroup or a name."""

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
from bpfpin.hints import shell_line
from bpfpin.pins import names
from bpfpin.pins.directory import Directory, user_name
from bpfpin.pins.manifest import AttachPoint, read_manifest
from bpfpin.pins.pinset import LoadedSet, PinSet, all_sets
from bpfpin.syscall import fs
from bpfpin.syscall import netns as namespaces
from bpfpin.syscall.capability import missing_capabilities
from bpfpin.uapi import Cmd


def find_set(target: str, *, pin_root: Path, netns: str | None = None) -> PinSet:
    """Return the set of device *target* in namespace *netns*, or of that name.

    A device is matched by ifindex and namespace (None: the current one), whatever the set is
    called; if it has several sets, the one of that name is meant. The path of a set's directory is
    always unique. Raises `UsageError` with the list if several fit, `PinNotFoundError` if none
    does, `NotBpffsError` if *pin_root* is in another file system.
    """
    sets = all_sets(pin_root)
    fitting = (
        # The path is unique. A device comes before a name, since that is what users type, and a set
        # may have the name of another device.
        [pin_set for pin_set in sets if str(pin_set.path) == target]
        or _of_device(target, sets, netns=netns)
        or _of_cgroup(target, sets)
        or _of_name(target, sets, netns=netns)
    )
    if len(fitting) > 1:  # of several sets one may have exactly that name
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
    place = {"cgroup": target.lstrip("@")} if is_cgroup else {"dev": target}
    return shell_line("bpfpin load", **place)


def cgroup_set_name(target: str, *, pin_root: Path) -> str | None:
    """Return the name of the only set of cgroup *target*, None unless there is exactly one."""
    with suppress(BpfError):  # a path of a pin needs no pin root
        fitting = _of_cgroup(target, all_sets(pin_root)) if target.startswith("/") else []
        return names.display_name(fitting[0].name) if len(fitting) == 1 else None
    return None


def find_readable_set(target: str, *, pin_root: Path, netns: str | None = None) -> PinSet:
    """Return what `find_set` does; `PermissionDeniedError` if this user may not read the set."""
    pin_set = find_set(target, pin_root=pin_root, netns=netns)
    # Without this check every pin in it would count as missing.
    if not os.access(pin_set.path, os.R_OK | os.X_OK):
        raise PermissionDeniedError(
            f"{pin_set.path} may not be read by this user, it belongs to"
            f" {user_name(pin_set.path.stat().st_uid)}",
            target=str(pin_set.path),
            errno=0,
        )
    return pin_set


def set_names(pin_root: Path) -> list[str]:
    """Return the names of the sets below *pin_root*, sorted; none if it cannot be read."""
    with suppress(BpfError, OSError):
        return sorted(names.display_name(pin_set.name) for pin_set in all_sets(pin_root))
    return []


def sets_at(place: AttachPoint, sets: list[PinSet]) -> list[PinSet]:
    """Return the sets at the same device; without a device, those at the same cgroup."""
    return [
        pin_set
        for pin_set in sets
        if isinstance(pin_set, LoadedSet) and _is_at(pin_set.manifest.place, place)
    ]


def names_at(place: AttachPoint, pin_root: Path) -> list[str]:
    """Return the names of the sets at the same place as `sets_at`; only manifests are read."""
    with Directory.open(pin_root) as root:
        entries = sorted(entry for entry in root.names() if names.is_set_name(entry))
        owners = {0, os.geteuid()}
        return [entry for entry in entries if _has_set_at(root, entry, place, owners)]


def is_set_at(place: AttachPoint, path: Path) -> bool:
    """Whether *path* is a set of this user at that place; only its manifest is read."""
    with suppress(BpfError), Directory.open(path) as directory:
        return _is_at(read_manifest(directory).place, place)
    return False


def _has_set_at(root: Directory, entry: str, place: AttachPoint, owners: set[int]) -> bool:
    with suppress(BpfError), root.child(entry) as directory:
        return _is_at(read_manifest(directory, owners=owners).place, place)
    return False


def _is_at(recorded: AttachPoint, place: AttachPoint) -> bool:
    if place.ifindex:
        return (recorded.ifindex, recorded.netns_inode) == (place.ifindex, place.netns_inode)
    # A set with a device and a cgroup is found by its device alone: otherwise a load on the cgroup
    # would change it.
    return not recorded.ifindex and recorded.cgroup == place.cgroup


def _of_device(target: str, sets: list[PinSet], *, netns: str | None) -> list[PinSet]:
    with namespaces.enter(netns):
        try:
            ifindex = interface.ifindex(target)
        except InterfaceNotFoundError:
            return []
        here = AttachPoint(ifindex=ifindex, netns_inode=namespaces.inode())
        return sets_at(here, sets)


def _of_cgroup(target: str, sets: list[PinSet]) -> list[PinSet]:
    """Return the sets of cgroup *target*: the path of its folder, or its path below the mount.

    The folder need not exist any more, and the hierarchy may be mounted several times.
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
    """Return the set of that name: the name that `load` gives, the directory's, or as shown."""
    if not target:
        return []
    # The name that a load would give comes first: with `-n NAME` the same device name means another
    # set.
    wanted = [names.set_name(target, netns), target]
    for name in wanted:
        if matches := [pin_set for pin_set in sets if pin_set.name == name]:
            return matches
    return [pin_set for pin_set in sets if names.display_name(pin_set.name) == target]


def _listed(sets: list[PinSet]) -> str:
    return ", ".join(names.display_name(pin_set.name) for pin_set in sets)


def require_attach(job: str) -> None:
    """Raise `PermissionDeniedError` unless this thread may load programs and attach them.

    It is called before the first step of *job*, so that one message names all capabilities.
    """
    missing = missing_capabilities(Cmd.LINK_CREATE)
    if missing:
        message = f"{job} needs {' and '.join(missing)}"
        raise PermissionDeniedError(message, missing=missing, errno=0)
