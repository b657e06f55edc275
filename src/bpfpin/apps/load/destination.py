"""Where a load goes: the device and the cgroup that were named, and the set that is theirs."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from bpfpin.apps.target import all_sets, is_set_at, sets_at
from bpfpin.attach import interface
from bpfpin.attach.cgroup_path import cgroup2_mount, open_cgroup
from bpfpin.errors import CgroupNotFoundError, UsageError
from bpfpin.pins import bpffs, names
from bpfpin.pins.bpffs import RootState
from bpfpin.pins.manifest import Place
from bpfpin.syscall import fs
from bpfpin.syscall import netns as namespaces


def place_of(device: str | None, cgroup: str | Path | None, *, netns: str | None) -> Place:
    """Return the place of *device* in the current namespace, of *cgroup*, or of both.

    `InterfaceNotFoundError` and `CgroupNotFoundError` for what is not there, `UsageError` if
    neither was named.
    """
    if not device and not cgroup:
        raise UsageError(
            "where to load it? No device was named, nor a cgroup",
            hint="--dev DEV, or --cgroup PATH",
        )
    path = cgroup_path(cgroup) if cgroup else ""
    if not device:
        return Place(cgroup=path)
    return Place(
        netns_inode=namespaces.inode(),
        netns=netns or "",
        ifindex=interface.ifindex(device),
        device=device,
        cgroup=path,
    )


def cgroup_path(cgroup: str | Path) -> str:
    """Return the path of a cgroup below the cgroup2 mount, `/` for the mount itself.

    *cgroup* is a folder, or such a path, as cgroups are told by it.
    """
    with open_cgroup(_folder(cgroup)) as opened:
        folder = Path(os.readlink(f"/proc/self/fd/{opened.fileno()}"))  # noqa: PTH115 - no file's path
    # The hierarchy may be mounted several times, and each time at another cgroup of it.
    for mount in reversed(fs.mounts()):
        if mount.fs_type == "cgroup2" and folder.is_relative_to(mount.mount_point):
            return str(PurePath(mount.root, folder.relative_to(mount.mount_point)))
    raise CgroupNotFoundError(f"{folder} is below no mount of cgroup2 that is seen here")


def _folder(cgroup: str | Path) -> Path:
    """Return the folder that is meant: one that is there, or the one below the mount."""
    path = Path(cgroup)
    is_told = path.is_absolute() and (path == Path("/") or not path.exists())
    below = cgroup2_mount() / str(path).lstrip("/") if is_told else path
    return below if is_told and below.is_dir() else path


def set_name_for(place: Place, pin_root: Path) -> str:
    """Return the directory of the set that the place has already, or would get.

    `UsageError` with the list if it has several.
    """
    usual = _usual_name(place)
    is_mounted = bpffs.inspect(pin_root) is RootState.MOUNTED
    if not is_mounted or is_set_at(place, pin_root / usual):
        return usual
    there = [found.name for found in sets_at(place, all_sets(pin_root))]
    if not there:
        return usual
    if len(there) > 1:
        shown = ", ".join(map(names.display_name, there))
        where = place.device or f"cgroup {place.cgroup}"
        raise UsageError(
            f"{where} has {len(there)} pin sets: {shown}", hint="name one: --name NAME"
        )
    return there[0]


def _usual_name(place: Place) -> str:
    if place.device:
        return names.set_name(place.device, place.netns or None)
    return names.cgroup_set_name(place.cgroup)
