"""The pins of maps on this host: a walk over every mounted bpffs."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bpfpin.errors import BpfError, PermissionDeniedError, PinKindError
from bpfpin.objects.info import MapInfo
from bpfpin.objects.map import Map
from bpfpin.syscall import fs

BPFFS = "bpf"


@dataclass
class PinnedMaps:
    """What the walk found: paths and infos by map id, and the places it may not read."""

    paths: dict[int, list[str]] = field(default_factory=dict)
    infos: dict[int, MapInfo] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)


def pinned_maps(pin_root: Path) -> PinnedMaps:
    """Find all pinned maps below *pin_root* and in every other bpffs that is mounted here.

    Symbolic links are not followed. What another user keeps to himself is listed as unreadable.
    """
    found = PinnedMaps()
    for root in bpffs_roots(pin_root):
        for path in _files(root, found.unreadable):
            _open(path, found)
    return found


def bpffs_roots(pin_root: Path) -> list[Path]:
    """Return where bpffs is mounted, each file system once, the one of *pin_root* first."""
    by_device: dict[tuple[int, int], Path] = {}
    mounts = [mount for mount in fs.mounts() if mount.fs_type == BPFFS]
    mounts.sort(key=lambda mount: not pin_root.is_relative_to(mount.mount_point))
    for mount in mounts:
        path = Path(mount.mount_point)
        if _is_seen(path, mount.device):
            by_device.setdefault(mount.device, path)
    return list(by_device.values())


def _is_seen(path: Path, device: tuple[int, int]) -> bool:
    """Whether the mount is what *path* shows now, not one that a later mount covers."""
    try:
        number = path.stat().st_dev
    except OSError:
        return False
    return (os.major(number), os.minor(number)) == device


def _files(directory: Path, unreadable: list[str]) -> Iterator[Path]:
    try:
        entries = sorted(directory.iterdir())
    except OSError:
        unreadable.append(str(directory))
        return
    for entry in entries:
        mode = _mode(entry)
        if "." in entry.name:  # the kernel's own (maps.debug): nobody can make such a name
            continue
        if stat.S_ISDIR(mode):
            yield from _files(entry, unreadable)
        elif stat.S_ISREG(mode):
            yield entry


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except OSError:  # gone meanwhile
        return 0


def _open(path: Path, found: PinnedMaps) -> None:
    try:
        with Map.from_pin(path, read_only=True) as held:
            info = held.info
    except PinKindError:  # a program or a link
        return
    except PermissionDeniedError:
        found.unreadable.append(str(path))
        return
    except BpfError:  # gone meanwhile
        return
    found.infos[info.id] = info
    found.paths.setdefault(info.id, []).append(str(path))
