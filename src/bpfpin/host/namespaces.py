"""The network namespaces of the host: those with a name, and those that some process is in."""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bpfpin.host.users import PROC
from bpfpin.syscall import netns

UNNAMED: Final = "pid:"  # how the name of one without a name begins
_LINK = re.compile(r"net:\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace; *name* is empty for the one we are in, *path* None likewise.

    One that has no name below /run/netns is called after a process in it: `pid:4711`.
    """

    inode: int
    name: str = ""
    path: Path | None = None

    def device_name(self, device: str) -> str:
        """Return how a device of this namespace is told from those of others."""
        return f"{self.name}@{device}" if self.name else device


def all_namespaces(*, named: Path = netns.NAMED, proc: Path = PROC) -> list[Namespace]:
    """Return every network namespace once: ours, those of /run/netns, those of /proc/*/ns/net.

    One without a name is known by the process with the lowest pid; those of processes that this
    user may not look into are missing.
    """
    own = netns.inode()
    found = {own: Namespace(own)}
    for path in sorted(named.iterdir()) if named.is_dir() else []:
        with suppress(OSError):
            inode = path.stat().st_ino
            found.setdefault(inode, Namespace(inode, path.name, path))
    for pid in sorted(int(name) for name in os.listdir(proc) if name.isdigit()):  # noqa: PTH208
        with suppress(OSError):
            path = proc / str(pid) / "ns/net"
            if match := _LINK.fullmatch(os.readlink(path)):  # noqa: PTH115  (no path)
                inode = int(match[1])
                found.setdefault(inode, Namespace(inode, f"{UNNAMED}{pid}", path))
    return list(found.values())


# The network namespace that a command works in.


def entered(name: str) -> AbstractContextManager[object]:
    """Enter network namespace *name* (of `ip netns`, or a path); the mounts stay as they are.

    Raises `NamespaceNotFoundError` if there is none, `PermissionDeniedError` without
    CAP_SYS_ADMIN. Stands on setns(2).
    """
    return netns.enter(name)
