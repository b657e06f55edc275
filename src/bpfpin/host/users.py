"""Who uses a map: programs and where they are attached, pins, processes that hold it open."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum
from pathlib import Path
from typing import Final

from bpfpin.attach import interface
from bpfpin.attach.xdp import xdp_holder
from bpfpin.errors import BpfError, PermissionDeniedError
from bpfpin.host.pins import pinned_maps
from bpfpin.objects.kernel import info as walk
from bpfpin.objects.kernel.info import LinkInfo, ProgramInfo
from bpfpin.objects.kernel.object import ObjectKind
from bpfpin.pins.bpffs import BPFFS
from bpfpin.uapi import LinkType

PROC: Final = Path("/proc")
DESCRIPTORS_MAX: Final = 200_000  # looked at in all; a reader of a report waits for it


class UserKind(Enum):
    """What can use a map."""

    PROGRAM = "program"
    PIN = "pin"
    PROCESS = "process"


@dataclass(frozen=True, slots=True)
class MapUser:
    """One user of a map: `str()` is a line of a report.

    *id* is the program's id or the process's pid, 0 for a pin; *name* the program's name, the pin's
    path or the process's command; *place* where a program is attached, "" if no link says so.
    """

    kind: UserKind
    id: int
    name: str
    place: str = ""

    def __str__(self) -> str:
        if self.kind is UserKind.PIN:
            return f"pin {self.name}"
        if self.kind is UserKind.PROCESS:
            return f"process {self.id} ({self.name})"
        name = f" {self.name}" if self.name else ""
        return f"program {self.id}{name}{f' at {self.place}' if self.place else ''}"


def users_of(map_id: int, *, pin_root: Path = BPFFS) -> tuple[MapUser, ...]:
    """Return who uses map *map_id*: programs, then pins, then processes other than this one.

    Without CAP_SYS_ADMIN these are the pins and processes that this user may look at; never an
    error.
    """
    paths = pinned_maps(pin_root).paths.get(map_id, ())
    pins = (MapUser(UserKind.PIN, 0, path) for path in paths)
    return (*programs_of(map_id), *pins, *processes_of(map_id))


def programs_of(map_id: int) -> tuple[MapUser, ...]:
    """Return the programs that use map *map_id*; none for a user without CAP_SYS_ADMIN."""
    try:
        programs = [info for info in walk.programs() if map_id in info.map_ids]
        links = list(walk.links()) if programs else []
    except PermissionDeniedError:
        return ()
    return tuple(_program(info, links) for info in programs)


def processes_of(map_id: int, *, proc: Path = PROC) -> tuple[MapUser, ...]:
    """Return the processes that hold a descriptor of map *map_id*, without this one (proc(5)).

    Those that this user may not look into are left out, and what comes after 200,000 descriptors.
    """
    pids: dict[int, None] = {}
    own = os.getpid()
    for _, (pid, fd) in zip(range(DESCRIPTORS_MAX), _descriptors(proc), strict=False):
        if pid != own and pid not in pids and _held_map(proc / str(pid), fd) == map_id:
            pids[pid] = None
    return tuple(MapUser(UserKind.PROCESS, pid, _command(proc / str(pid))) for pid in pids)


def _program(info: ProgramInfo, links: list[LinkInfo]) -> MapUser:
    places = [_place(link) for link in links if link.program_id == info.id]
    return MapUser(UserKind.PROGRAM, info.id, info.name, " and ".join(places))


def _place(link: LinkInfo) -> str:
    """Return where a link is: `xdp of lab0`, `cgroup-inet-ingress of cgroup 4711`."""
    hook = link.type if link.attach_type is None else link.attach_type
    word = hook.name.lower().replace("_", "-") if isinstance(hook, IntEnum) else str(hook)
    return " of ".join(filter(None, (word, _where(link))))


def _where(link: LinkInfo) -> str:
    if link.cgroup_id is not None:
        return f"cgroup {link.cgroup_id}"
    if link.ifindex is None:
        return ""
    if not link.ifindex:
        return "a device that is gone"
    return _device(link) or f"ifindex {link.ifindex}"


def _device(link: LinkInfo) -> str:
    """Return the device's name if it is in this namespace; a link tells an ifindex alone."""
    name = interface.name_of(link.ifindex or 0)
    if not name or link.type != LinkType.XDP:
        return ""
    with contextlib.suppress(BpfError):
        holder = xdp_holder(link.ifindex or 0)
        return name if holder is not None and holder.program_id == link.program_id else ""
    return ""


def _descriptors(proc: Path) -> Iterator[tuple[int, str]]:
    """Yield pid and number of every descriptor that this user may see."""
    for pid in sorted(int(name) for name in os.listdir(proc) if name.isdigit()):  # noqa: PTH208
        with contextlib.suppress(OSError):  # another user's, or gone meanwhile
            for fd in os.listdir(proc / str(pid) / "fd"):  # noqa: PTH208  (names, not paths)
                yield pid, fd


def _held_map(process: Path, fd: str) -> int | None:
    """Return the id of the map that a descriptor is open on, None for anything else."""
    with contextlib.suppress(OSError):
        if os.readlink(process / "fd" / fd) != ObjectKind.MAP.value:  # noqa: PTH115  (no path)
            return None
        for line in (process / "fdinfo" / fd).read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "map_id":
                return int(value)
    return None


def _command(process: Path) -> str:
    try:
        return (process / "comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        return "ended meanwhile"
