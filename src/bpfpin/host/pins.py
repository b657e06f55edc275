"""All pins of the host, of maps, programs and links: one walk over every mounted bpffs."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from bpfpin.errors import BpfError, PermissionDeniedError, PinError
from bpfpin.objects.kernel.info import (
    LinkInfo,
    MapInfo,
    ProgramInfo,
    link_info,
    map_info,
    program_info,
)
from bpfpin.objects.kernel.object import ObjectKind
from bpfpin.objects.maps.map import Map
from bpfpin.pins import names
from bpfpin.pins.pinset import all_sets
from bpfpin.syscall import bpf, fs
from bpfpin.syscall.attr import u32
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import ObjectFlag

BPFFS = "bpf"
DEPTH_MAX: Final = 64  # below a mount; paths end at 4,096 bytes in any case
OWN_DIRECTORIES_MAX: Final = 1_000_000  # of root and of this user
OTHER_DIRECTORIES_MAX: Final = 10_000
SHOWN_MAX: Final = 8
Info = TypeVar("Info")
_KINDS: Final = {
    "anon_inode:bpf-map": ObjectKind.MAP,
    "anon_inode:bpf-prog": ObjectKind.PROGRAM,
    # The kernel writes bpf_link where a link is made, bpf-link where one is opened.
    "anon_inode:bpf-link": ObjectKind.LINK,
    "anon_inode:bpf_link": ObjectKind.LINK,
}


# The pins of maps on this host: a walk over every mounted bpffs.


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
            _open_map(path, found)
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


def _open_map(path: str, found: PinnedMaps) -> None:
    try:
        with Map.from_pin(path, read_only=True) as held:
            info = held.info
    except (PinError, PermissionDeniedError):  # no map, gone meanwhile, or not for this user
        return
    found.infos[info.id] = info
    found.paths.setdefault(info.id, []).append(path)


class _IdAnswer(ctypes.Structure):
    """How the infos of maps, programs and links begin."""

    _fields_ = [*u32("type", "id")]


@dataclass(frozen=True, slots=True)
class Pin:
    """A name in bpffs, and the kind and id of what it names."""

    path: str
    kind: ObjectKind
    id: int


@dataclass
class Pins:
    """What the walk found, what the kernel says of each object by id, and what was left out."""

    pins: list[Pin] = field(default_factory=list)
    maps: dict[int, MapInfo] = field(default_factory=dict)
    programs: dict[int, ProgramInfo] = field(default_factory=dict)
    links: dict[int, LinkInfo] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def all_pins(pin_root: Path, *, with_infos: bool) -> Pins:
    """Find what is pinned below *pin_root* and in every other bpffs that is mounted here.

    *with_infos* asks the kernel about each object, too. Symbolic links are not followed;
    `notes` says what this user may not open, and where the walk ended at a limit.
    """
    found, walk = Pins(), BpffsWalk()
    for root in bpffs_roots(pin_root):
        for path in walk.files(root):
            _add(path, found, walk, with_infos=with_infos)
    found.notes += walk.notes()
    return found


def _add(path: str, found: Pins, walk: BpffsWalk, *, with_infos: bool) -> None:
    try:
        with Descriptor(_open(path)) as there:
            kind = _KINDS.get(os.readlink(f"/proc/self/fd/{there.fileno()}"))  # noqa: PTH115 (fast)
            if kind is None:
                return
            answer = _IdAnswer()
            bpf.obj_get_info_by_fd(there.fileno(), answer)
            if with_infos:
                _keep_info(there.fileno(), kind, found)
    except PermissionDeniedError:
        walk.unreadable.append(path)
    except BpfError:  # gone meanwhile
        return
    else:
        found.pins.append(Pin(path, kind, answer.id))


def _open(path: str) -> int:
    try:
        return bpf.obj_get(path)
    except PermissionDeniedError:
        # A map may be open to readers; programs and links know no such way.
        return bpf.obj_get(path, flags=ObjectFlag.RDONLY)


def _keep_info(fd: int, kind: ObjectKind, found: Pins) -> None:
    if kind is ObjectKind.MAP:
        _keep(found.maps, map_info, fd)
    elif kind is ObjectKind.PROGRAM:
        _keep(found.programs, program_info, fd)
    else:
        _keep(found.links, link_info, fd)


def _keep(infos: dict[int, Info], ask: Callable[[int], Info], fd: int) -> None:
    info = ask(fd)
    infos[info.id] = info  # type: ignore[attr-defined]  # all three have one


def set_names(pin_root: Path, notes: list[str]) -> Mapping[str, str]:
    """Return the sets of ours below *pin_root* by their directory, as a user types their names.

    Why there are none, if the pin root cannot be read, is added to *notes*.
    """
    try:
        sets = all_sets(pin_root)
    except BpfError as error:
        notes.append(f"no pin sets are shown: {error}")
        return {}
    return {str(one.path): names.display_name(one.name) for one in sets if one.manifest}


def set_of(path: str, sets: Mapping[str, str]) -> str:
    """Return the set that the pin *path* is in, or in whose stage, "" for none."""
    directory = path
    while directory := directory.rpartition("/")[0]:
        name = sets.get(directory) or sets.get(directory.removesuffix(names.STAGE_SUFFIX))
        if name:
            return name
    return ""
