"""The users of a map: programs and where they are attached, pins, and processes."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable
from enum import Enum, IntEnum
from pathlib import Path

from bpfpin.attach import interface
from bpfpin.errors import BpfError, PermissionDeniedError
from bpfpin.host.pins import map_pins
from bpfpin.host.processes import PROC, all_holders
from bpfpin.objects.kernel import info as kernel_info
from bpfpin.objects.kernel.info import LinkInfo, ProgramInfo
from bpfpin.objects.kernel.object import ObjectKind
from bpfpin.pins.bpffs import BPFFS
from bpfpin.records import dataclass
from bpfpin.uapi import LinkType


class UserKind(Enum):
    """Kinds of users of a map."""

    PROGRAM = "program"
    PIN = "pin"
    PROCESS = "process"


@dataclass(frozen=True, slots=True)
class MapUser:
    """One user of a map; `str()` is a line of a report.

    *id* is the id of a program or the pid of a process, 0 for a pin. *name* is the name of the
    program, the path of the pin or the command of the process. *place* is where a program is
    attached, "" if no link says so.
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
    """Return the users of map *map_id*: programs, then pins, then processes except this one.

    Without CAP_SYS_ADMIN, returns the pins and processes that this user may inspect; never raises.
    """
    # By id, not by path: a map may have several pins, also in other mounts of bpffs.
    paths = map_pins(pin_root).get(map_id, ())
    pins = (MapUser(UserKind.PIN, 0, path) for path in paths)
    return (*programs_of(map_id), *pins, *processes_of(map_id))


def programs_of(map_id: int) -> tuple[MapUser, ...]:
    """Return the programs that use map *map_id*; none without CAP_SYS_ADMIN."""
    try:
        programs = [info for info in kernel_info.programs() if map_id in info.map_ids]
        # Most maps that are asked about have no program; then the walk over all links is saved.
        links = list(kernel_info.links()) if programs else []
    # Walking by id needs CAP_SYS_ADMIN; pins and processes are of use without programs.
    except PermissionDeniedError:
        return ()
    return tuple(_program(info, links) for info in programs)


def processes_of(map_id: int, *, proc: Path = PROC) -> tuple[MapUser, ...]:
    """Return the processes that have map *map_id* open, except this one (proc(5)).

    The limits are those of `all_holders`: 200,000 descriptors, and what this user may inspect.
    """
    return tuple(processes_by_map([map_id], proc=proc).get(map_id, ()))


def processes_by_map(map_ids: Iterable[int], *, proc: Path = PROC) -> dict[int, list[MapUser]]:
    """Return the processes that have these maps open, by the id of the map, in one walk."""
    wanted, by_map = set(map_ids), defaultdict[int, list[MapUser]](list)
    # One walk for all maps: reading /proc/PID/fd of every process is what takes the time.
    for holder in all_holders(proc=proc).processes:
        user = MapUser(UserKind.PROCESS, holder.pid, holder.name)
        for kind, object_id in holder.objects:
            if kind is ObjectKind.MAP and object_id in wanted:
                by_map[object_id].append(user)
    return by_map


def _program(info: ProgramInfo, links: list[LinkInfo]) -> MapUser:
    places = [_place(link) for link in links if link.program_id == info.id]
    return MapUser(UserKind.PROGRAM, info.id, info.name, " and ".join(places))


def _place(link: LinkInfo) -> str:
    """Return where a link is attached: `xdp of lab0`, `cgroup-inet-ingress of cgroup 4711`."""
    hook = link.type if link.attach_type is None else link.attach_type
    word = hook.name.lower().replace("_", "-") if isinstance(hook, IntEnum) else str(hook)
    return " of ".join(filter(None, (word, _where(link))))


def _where(link: LinkInfo) -> str:
    if link.cgroup_id is not None:
        return f"cgroup {link.cgroup_id}"
    if link.ifindex is None:
        return ""
    # The kernel keeps a link whose device is gone, and reports ifindex 0 for it.
    if not link.ifindex:
        return "a device that is gone"
    return _device(link) or f"ifindex {link.ifindex}"


def _device(link: LinkInfo) -> str:
    """Return the name of the device if it is in the current namespace, else "".

    The kernel reports an ifindex without its namespace, and ifindexes repeat in each one. So the
    device must run the same program.
    """
    from bpfpin.attach.xdp import xdp_holder  # noqa: PLC0415  (few commands need it)

    name = interface.name_of(link.ifindex or 0)
    # Netlink reports the program of an XDP link; tcx and netkit would each need a query of their
    # own.
    if not name or link.type != LinkType.XDP:
        return ""
    with contextlib.suppress(BpfError):
        holder = xdp_holder(link.ifindex or 0)
        return name if holder is not None and holder.program_id == link.program_id else ""
    return ""
