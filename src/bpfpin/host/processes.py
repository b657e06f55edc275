"""The processes of the host: the objects that they have open, and their network namespaces.

Maps, programs and links are found in one walk of /proc/*/fd, namespaces in /run/netns and by
/proc/*/ns/net (proc(5)).
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import field
from pathlib import Path
from typing import Final

from bpfpin.objects.kernel.object import ObjectKind
from bpfpin.records import dataclass
from bpfpin.syscall import netns

PROC: Final = Path("/proc")
# Of all processes together, then of each user: a report must not take minutes on a host with
# millions of sockets.
DESCRIPTORS_MAX: Final = 200_000
# By the target of the link /proc/PID/fd/N: the kind of object, and the line of fdinfo with its id.
# The kernel writes bpf_link for a link that it creates, bpf-link for one that it opens
# (bpf_link_prime() and bpf_link_new_fd() in kernel/bpf/syscall.c).
_FDINFO_LINES: Final = {
    "anon_inode:bpf-map": (ObjectKind.MAP, "map_id"),
    "anon_inode:bpf-prog": (ObjectKind.PROGRAM, "prog_id"),
    "anon_inode:bpf-link": (ObjectKind.LINK, "link_id"),
    "anon_inode:bpf_link": (ObjectKind.LINK, "link_id"),
}

ObjectId = tuple[ObjectKind, int]

UNNAMED: Final = "pid:"  # the prefix of the name that a namespace without a name gets
_LINK = re.compile(r"net:\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Holder:
    """A process and the objects that it has open, each once, by kind and id.

    *is_elsewhere*: the process is in another mount namespace and may see pins that we do not.
    """

    pid: int
    name: str
    objects: tuple[ObjectId, ...]
    is_elsewhere: bool = False


@dataclass
class Holders:
    """The result of the walk.

    *hidden* counts the processes that this user may not inspect; *is_cut* says that some were left
    out because of their descriptors.
    """

    processes: list[Holder] = field(default_factory=list)
    hidden: int = 0
    is_cut: bool = False


def all_holders(*, proc: Path = PROC, descriptors_max: int = DESCRIPTORS_MAX) -> Holders:
    """Return the processes that have an object open, except this one and kernel threads.

    After *descriptors_max* descriptors, and as many of the same user, a process is left out; then
    `is_cut` is true.
    """
    holders, left, own = Holders(), descriptors_max, os.getpid()
    left_by_uid: dict[int, int] = defaultdict(lambda: descriptors_max)
    for pid in sorted(int(name) for name in os.listdir(proc) if name.isdigit()):  # noqa: PTH208
        if pid == own:
            continue
        process = f"{proc}/{pid}"
        try:
            descriptors = os.listdir(f"{process}/fd")  # noqa: PTH208  (names, not paths)
        except PermissionError:
            holders.hidden += 1
            continue
        except OSError:  # the process ended meanwhile
            continue
        # A listing is cheap; the limit saves the two system calls for each descriptor below.
        # Beyond it each user has one, or any user could hide the processes of all others.
        if len(descriptors) <= left:
            left -= len(descriptors)
        elif len(descriptors) <= left_by_uid[uid := _uid(process)]:
            left_by_uid[uid] -= len(descriptors)
        else:
            holders.is_cut = True
            continue
        if ids := set(_object_ids(process, descriptors)):
            objects = sorted(ids, key=lambda object_id: (object_id[0].value, object_id[1]))
            is_elsewhere = _mount_namespace(process) != _mount_namespace(f"{proc}/self")
            holder = Holder(pid, _command(process), tuple(objects), is_elsewhere)
            holders.processes.append(holder)
    return holders


def open_objects(process: Path) -> list[ObjectId]:
    """Return the objects that one process, `/proc/PID`, has open; `PermissionError` if hidden."""
    descriptors = os.listdir(process / "fd")  # noqa: PTH208  (names, not paths)
    return list(_object_ids(str(process), descriptors))


def _object_ids(process: str, descriptors: Iterable[str]) -> Iterator[ObjectId]:
    for fd in descriptors:
        with suppress(OSError, ValueError, IndexError):  # the descriptor was closed meanwhile
            line = _FDINFO_LINES.get(os.readlink(f"{process}/fd/{fd}"))  # noqa: PTH115  (no path)
            if line is not None:
                kind, name = line
                yield kind, _id(f"{process}/fdinfo/{fd}", name)


def _id(path: str, name: str) -> int:
    with open(path, encoding="ascii", errors="replace") as lines:  # noqa: PTH123  (fast)
        return int(next((line for line in lines if line.startswith(f"{name}:")), "").split()[-1])


def _mount_namespace(process: str) -> str:
    try:
        return os.readlink(f"{process}/ns/mnt")  # noqa: PTH115  (no path)
    except OSError:
        return ""


def _uid(process: str) -> int:
    """Return the real user; the owner of /proc/PID may be root although another user runs it."""
    try:
        status = Path(process, "status").read_text(errors="replace")
    except OSError:  # the process ended meanwhile
        return -1
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Uid:"))


def _command(process: str) -> str:
    try:
        return Path(process, "comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        return "ended meanwhile"


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace; for the current one *name* is empty and *path* is None.

    A namespace without a name below /run/netns is called after a process in it: `pid:4711`.
    """

    inode: int
    name: str = ""
    path: Path | None = None

    def device_name(self, device: str) -> str:
        """Return the name of a device, unique on this host: `blue@eth0`, `eth0` for our own."""
        return f"{self.name}@{device}" if self.name else device


def all_namespaces(*, named: Path = netns.NAMED, proc: Path = PROC) -> list[Namespace]:
    """Return every network namespace once: the current one, /run/netns, /proc/*/ns/net.

    A namespace without a name is called after the process with the lowest pid in it. Namespaces
    of processes that this user may not inspect are missing.
    """
    own = netns.inode()
    by_inode = {own: Namespace(own)}
    for path in sorted(named.iterdir()) if named.is_dir() else []:
        with suppress(OSError):
            inode = path.stat().st_ino
            # The first name stays: bind mounts may give a namespace several.
            by_inode.setdefault(inode, Namespace(inode, path.name, path))
    # By pid: the name of an unnamed namespace stays the same as long as that process lives.
    for pid in sorted(int(name) for name in os.listdir(proc) if name.isdigit()):  # noqa: PTH208
        with suppress(OSError):
            place = f"{proc}/{pid}/ns/net"
            if match := _LINK.fullmatch(os.readlink(place)):  # noqa: PTH115  (no path)
                inode = int(match[1])
                if inode not in by_inode:
                    by_inode[inode] = Namespace(inode, f"{UNNAMED}{pid}", Path(place))
    return list(by_inode.values())


def entered(name: str) -> AbstractContextManager[object]:
    """Enter network namespace *name* (of `ip netns`, or a path); mounts stay as they are.

    Raises `NamespaceNotFoundError` if it does not exist, `PermissionDeniedError` without
    CAP_SYS_ADMIN. Uses setns(2).
    """
    return netns.enter(name)
