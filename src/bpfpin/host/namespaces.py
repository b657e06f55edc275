"""The network namespaces of the host: those with a name, and those that processes are in."""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Final

from bpfpin.host.processes import PROC
from bpfpin.records import dataclass
from bpfpin.syscall import netns

UNNAMED: Final = "pid:"  # the prefix of the name that a namespace without a name gets
_LINK = re.compile(r"net:\[(\d+)\]")


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
            path = proc / str(pid) / "ns/net"
            if match := _LINK.fullmatch(os.readlink(path)):  # noqa: PTH115  (no path)
                inode = int(match[1])
                by_inode.setdefault(inode, Namespace(inode, f"{UNNAMED}{pid}", path))
    return list(by_inode.values())


def entered(name: str) -> AbstractContextManager[object]:
    """Enter network namespace *name* (of `ip netns`, or a path); mounts stay as they are.

    Raises `NamespaceNotFoundError` if it does not exist, `PermissionDeniedError` without
    CAP_SYS_ADMIN. Uses setns(2).
    """
    return netns.enter(name)
