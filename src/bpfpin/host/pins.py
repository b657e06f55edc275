"""The pins of the host, of maps, programs and links: one walk over every mounted bpffs."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import field
from pathlib import Path
from typing import Final, TypeVar

from bpfpin.errors import BpfError, PermissionDeniedError, PinNotFoundError
from bpfpin.objects.kernel.info import (
    LinkInfo,
    MapInfo,
    ProgramInfo,
    link_info,
    map_info,
    program_info,
)
from bpfpin.objects.kernel.object import ObjectKind
from bpfpin.pins import names
from bpfpin.records import dataclass
from bpfpin.syscall import bpf, fs
from bpfpin.syscall.attr import u32
from bpfpin.syscall.errno_table import InvalidArgumentError
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import ObjectFlag

BPFFS = "bpf"
DEPTH_MAX: Final = 64  # below a mount; paths end at 4,096 bytes (PATH_MAX) in any case
OWN_DIRECTORIES_MAX: Final = 1_000_000  # of root and of this user
OTHER_DIRECTORIES_MAX: Final = 10_000
SHOWN_MAX: Final = 8
_KINDS: Final = {
    "anon_inode:bpf-map": ObjectKind.MAP,
    "anon_inode:bpf-prog": ObjectKind.PROGRAM,
    # The kernel writes bpf_link for a link that it creates, bpf-link for one that it opens
    # (bpf_link_prime() and bpf_link_new_fd() in kernel/bpf/syscall.c).
    "anon_inode:bpf-link": ObjectKind.LINK,
    "anon_inode:bpf_link": ObjectKind.LINK,
}
Info = TypeVar("Info")


class _ObjectInfoHead(ctypes.Structure):
    """The first members of struct bpf_map_info, bpf_prog_info and bpf_link_info."""

    _fields_ = [*u32("type", "id")]


@dataclass(frozen=True, slots=True)
class Pin:
    """A name in bpffs, and the kind and id of the object that it refers to."""

    path: str
    kind: ObjectKind
    id: int


@dataclass
class Pins:
    """The pins of the host; the infos of their objects by id; notes on omissions."""

    pins: list[Pin] = field(default_factory=list)
    maps: dict[int, MapInfo] = field(default_factory=dict)
    programs: dict[int, ProgramInfo] = field(default_factory=dict)
    links: dict[int, LinkInfo] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def map_paths(self) -> dict[int, list[str]]:
        """Return the paths of the pins of maps, by the id of the map."""
        return self.paths(ObjectKind.MAP)

    def paths(self, kind: ObjectKind) -> dict[int, list[str]]:
        """Return the paths of the pins of a *kind* of object, by the id of the object."""
        paths: dict[int, list[str]] = {}
        for pin in self.pins:
            if pin.kind is kind:
                paths.setdefault(pin.id, []).append(pin.path)
        return paths


def all_pins(
    pin_root: Path, *, with_infos: bool, kinds: Collection[ObjectKind] = tuple(ObjectKind)
) -> Pins:
    """Find the pins below *pin_root* and in every other bpffs that is mounted here.

    With *with_infos*, also asks the kernel about each object. Pins of other kinds than *kinds* are
    left out. Symbolic links are not followed.
    `notes` says which paths this user may not open, and where the walk ended at a limit. A pin that
    cannot be opened for another reason (ENOMEM, EMFILE) is an error.
    """
    pins, walk = Pins(), BpffsWalk()
    for root in bpffs_roots(pin_root):
        for path in walk.files(root):
            _add(path, pins, walk, kinds, with_infos=with_infos)
    pins.notes += walk.notes()
    return pins


def map_pins(pin_root: Path) -> dict[int, list[str]]:
    """Return the paths of all pinned maps that this user may open, by the id of the map."""
    return all_pins(pin_root, with_infos=False).map_paths()


def bpffs_roots(pin_root: Path) -> list[Path]:
    """Return the mount points of bpffs, each file system once, that of *pin_root* first."""
    by_device: dict[tuple[int, int], Path] = {}
    mounts = [mount for mount in fs.mounts() if mount.fs_type == BPFFS]
    mounts.sort(key=lambda mount: not pin_root.is_relative_to(mount.mount_point))
    for mount in mounts:
        path = Path(mount.mount_point)
        if _is_visible(path, mount.device):
            by_device.setdefault(mount.device, path)
    return list(by_device.values())


def set_names(pin_root: Path, notes: list[str]) -> Mapping[str, str]:
    """Return the pin sets below *pin_root* by directory, with their names as a user types them.

    If the pin root cannot be read, adds the reason to *notes* and returns none.
    """
    from bpfpin.pins.pinset import all_sets  # noqa: PLC0415  (few commands need it)

    try:
        sets = all_sets(pin_root)
    except BpfError as error:
        notes.append(f"no pin sets are shown: {error}")
        return {}
    return {
        str(pin_set.path): names.display_name(pin_set.name) for pin_set in sets if pin_set.manifest
    }


def set_of(path: str, sets: Mapping[str, str]) -> str:
    """Return the set that the pin *path* is in, or whose stage it is in; "" for none."""
    directory = path
    while directory := directory.rpartition("/")[0]:
        name = sets.get(directory) or sets.get(directory.removesuffix(names.STAGE_SUFFIX))
        if name:
            return name
    return ""


class BpffsWalk:
    """One walk over the pins of every mounted bpffs, without following symbolic links.

    Any user may make directories in a bpffs of mode 1777, in any number and depth. So the walk goes
    level by level, reads the directories of root and of this user first, and ends at limits.
    `notes` says what it left out or could not read.
    """

    def __init__(self) -> None:
        self.unreadable: list[str] = []
        self._too_deep: list[str] = []
        self._too_many: list[str] = []
        self._left = {True: OWN_DIRECTORIES_MAX, False: OTHER_DIRECTORIES_MAX}

    def files(self, root: Path) -> list[str]:
        """Return the paths of all pins below *root*, in the order of a listing."""
        paths: list[str] = []
        level, depth = [(str(root), True)], 0
        while level:
            below: list[tuple[str, bool]] = []
            # Trusted directories first: a flood of directories of another user must not use up
            # the limit before those of root are read.
            for directory, is_trusted in sorted(level, key=lambda entry: not entry[1]):
                if depth > DEPTH_MAX:
                    self._too_deep.append(directory)
                elif not self._left[is_trusted]:
                    self._too_many.append(directory)
                else:
                    self._left[is_trusted] -= 1
                    self._read(directory, paths, below)
            level, depth = below, depth + 1
        return sorted(paths, key=lambda path: path.split("/"))

    def notes(self) -> list[str]:
        """Return notes on unreadable and omitted directories, as sentences to show."""
        return [
            f"{text}: {_listed(paths)}"
            for text, paths in (
                ("not readable", self.unreadable),
                (f"not looked into, more than {DEPTH_MAX} directories deep", self._too_deep),
                ("not looked into, too many directories of other users", self._too_many),
            )
            if paths
        ]

    def _read(self, directory: str, paths: list[str], below: list[tuple[str, bool]]) -> None:
        try:
            with os.scandir(directory) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except FileNotFoundError:  # removed meanwhile
            return
        except OSError:
            self.unreadable.append(directory)
            return
        for entry in entries:
            # The kernel's own files, such as maps.debug: bpf_lookup() in kernel/bpf/inode.c lets
            # nobody make a name with a dot.
            if "." in entry.name:
                continue
            if entry.is_dir(follow_symlinks=False):
                below.append((entry.path, _is_trusted(entry)))
            elif entry.is_file(follow_symlinks=False):
                paths.append(entry.path)


def _is_visible(path: Path, device: tuple[int, int]) -> bool:
    """Whether *path* shows this mount now, and not a later mount on top of it."""
    try:
        number = path.stat().st_dev
    except OSError:
        return False
    return (os.major(number), os.minor(number)) == device


def _is_trusted(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.stat(follow_symlinks=False).st_uid in (0, os.geteuid())
    except OSError:  # removed meanwhile
        return False


def _listed(paths: list[str]) -> str:
    rest = len(paths) - SHOWN_MAX
    return ", ".join(paths[:SHOWN_MAX]) + (f" and {rest} more" if rest > 0 else "")


def _add(
    path: str, pins: Pins, walk: BpffsWalk, kinds: Collection[ObjectKind], *, with_infos: bool
) -> None:
    try:
        with Descriptor(_open(path)) as pin:
            kind = _KINDS.get(os.readlink(f"/proc/self/fd/{pin.fileno()}"))  # noqa: PTH115 (fast)
            if kind is None or kind not in kinds:
                return
            head = _ObjectInfoHead()
            bpf.obj_get_info_by_fd(pin.fileno(), head)
            if with_infos:
                _add_info(pin.fileno(), kind, pins)
    except PermissionDeniedError:
        walk.unreadable.append(path)
    except PinNotFoundError:  # removed meanwhile
        return
    else:
        pins.pins.append(Pin(path, kind, head.id))


def _open(path: str) -> int:
    try:
        return bpf.obj_get(path)
    except PermissionDeniedError as error:
        try:
            # A map may be readable only (BPF_F_RDONLY).
            return bpf.obj_get(path, flags=ObjectFlag.RDONLY)
        except InvalidArgumentError:  # programs and links have no read-only way
            raise error from None


def _add_info(fd: int, kind: ObjectKind, pins: Pins) -> None:
    if kind is ObjectKind.MAP:
        _store(pins.maps, map_info, fd)
    elif kind is ObjectKind.PROGRAM:
        _store(pins.programs, program_info, fd)
    else:
        _store(pins.links, link_info, fd)


def _store(infos: dict[int, Info], read_info: Callable[[int], Info], fd: int) -> None:
    info = read_info(fd)
    infos[info.id] = info  # type: ignore[attr-defined]  # all three kinds have an id
