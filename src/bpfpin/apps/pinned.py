"""The pins of maps on this host: a walk over every mounted bpffs."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bpfpin.errors import PermissionDeniedError, PinError
from bpfpin.objects.info import MapInfo
from bpfpin.objects.map import Map
from bpfpin.syscall import fs

BPFFS = "bpf"
DEPTH_MAX: Final = 64  # below a mount; paths end at 4,096 bytes in any case
OWN_DIRECTORIES_MAX: Final = 1_000_000  # of root and of this user
OTHER_DIRECTORIES_MAX: Final = 10_000
SHOWN_MAX: Final = 8


@dataclass
class PinnedMaps:
    """What the walk found: paths and infos by map id."""

    paths: dict[int, list[str]] = field(default_factory=dict)
    infos: dict[int, MapInfo] = field(default_factory=dict)


def pinned_maps(pin_root: Path) -> PinnedMaps:
    """Find all pinned maps below *pin_root* and in every other bpffs that is mounted here.

    What this user may not open is left out.
    """
    found, walk = PinnedMaps(), BpffsWalk()
    for root in bpffs_roots(pin_root):
        for path in walk.files(root):
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


class BpffsWalk:
    """One walk over the pins of every mounted bpffs, without following symbolic links.

    Anybody may make directories in a bpffs of mode 1777, in any number and depth. So the walk goes
    level by level, looks into the directories of root and of this user first, and ends at limits;
    `notes` says what it left out or could not read.
    """

    def __init__(self) -> None:
        self.unreadable: list[str] = []
        self._too_deep: list[str] = []
        self._too_many: list[str] = []
        self._left = {True: OWN_DIRECTORIES_MAX, False: OTHER_DIRECTORIES_MAX}

    def files(self, root: Path) -> list[str]:
        """Return the paths of all pins below *root*, in the order of a listing."""
        found: list[str] = []
        level, depth = [(str(root), True)], 0
        while level:
            below: list[tuple[str, bool]] = []
            for directory, is_trusted in sorted(level, key=lambda one: not one[1]):
                if depth > DEPTH_MAX:
                    self._too_deep.append(directory)
                elif not self._left[is_trusted]:
                    self._too_many.append(directory)
                else:
                    self._left[is_trusted] -= 1
                    self._look_into(directory, found, below)
            level, depth = below, depth + 1
        return sorted(found, key=lambda path: path.split("/"))

    def notes(self) -> list[str]:
        """Return what this user could not read and what was left out, as sentences to show."""
        return [
            f"{text}: {_some(paths)}"
            for text, paths in (
                ("not readable", self.unreadable),
                (f"not looked into, more than {DEPTH_MAX} directories deep", self._too_deep),
                ("not looked into, too many directories of other users", self._too_many),
            )
            if paths
        ]

    def _look_into(self, directory: str, found: list[str], below: list[tuple[str, bool]]) -> None:
        try:
            with os.scandir(directory) as there:
                entries = sorted(there, key=lambda entry: entry.name)
        except FileNotFoundError:  # gone meanwhile
            return
        except OSError:
            self.unreadable.append(directory)
            return
        for entry in entries:
            if "." in entry.name:  # the kernel's own (maps.debug): nobody can make such a name
                continue
            if entry.is_dir(follow_symlinks=False):
                below.append((entry.path, _is_trusted(entry)))
            elif entry.is_file(follow_symlinks=False):
                found.append(entry.path)


def _is_trusted(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.stat(follow_symlinks=False).st_uid in (0, os.geteuid())
    except OSError:  # gone meanwhile
        return False


def _some(paths: list[str]) -> str:
    rest = len(paths) - SHOWN_MAX
    return ", ".join(paths[:SHOWN_MAX]) + (f" and {rest} more" if rest > 0 else "")


def _open(path: str, found: PinnedMaps) -> None:
    try:
        with Map.from_pin(path, read_only=True) as held:
            info = held.info
    except (PinError, PermissionDeniedError):  # no map, gone meanwhile, or not for this user
        return
    found.infos[info.id] = info
    found.paths.setdefault(info.id, []).append(path)
