"""What is attached to cgroups: each one of the cgroup2 mount is asked (BPF_PROG_QUERY)."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from typing import Final

from bpfpin.attach import query
from bpfpin.errors import BpfError, PermissionDeniedError
from bpfpin.host.attachments import Attachment
from bpfpin.host.graph import Node, NodeKind
from bpfpin.objects.kernel.info import LinkInfo
from bpfpin.syscall import fs
from bpfpin.uapi import AttachType, LinkType, ProgramType

_Place = tuple[int, AttachType | int | None, int]  # cgroup, attach type, program

CGROUP2: Final = "cgroup2"
CGROUPS_MAX: Final = 50_000

# Which attach types a type of program fits, by how their names begin.
_PLACES: Final[dict[ProgramType, tuple[str, ...]]] = {
    ProgramType.CGROUP_SKB: ("CGROUP_INET_INGRESS", "CGROUP_INET_EGRESS"),
    ProgramType.CGROUP_SOCK: (
        "CGROUP_INET_SOCK_",
        "CGROUP_INET4_POST_BIND",
        "CGROUP_INET6_POST_BIND",
    ),
    ProgramType.SOCK_OPS: ("CGROUP_SOCK_OPS",),
    ProgramType.CGROUP_DEVICE: ("CGROUP_DEVICE",),
    ProgramType.CGROUP_SYSCTL: ("CGROUP_SYSCTL",),
    ProgramType.CGROUP_SOCKOPT: ("CGROUP_GETSOCKOPT", "CGROUP_SETSOCKOPT"),
    ProgramType.CGROUP_SOCK_ADDR: (
        "CGROUP_INET4_BIND",
        "CGROUP_INET6_BIND",
        "CGROUP_INET4_CONNECT",
        "CGROUP_INET6_CONNECT",
        "CGROUP_INET4_GET",
        "CGROUP_INET6_GET",
        "CGROUP_UDP",
        "CGROUP_UNIX",
    ),
}


class CgroupWalk:
    """Looks at all cgroups once; `notes` say where it may not look. *types* as for devices."""

    def __init__(self, links: Iterable[LinkInfo], types: Collection[int]) -> None:
        # A cgroup does not tell what holds a program: these links do.
        self._links: dict[_Place, list[int]] = defaultdict(list)
        for link in links:
            if link.type == LinkType.CGROUP and link.cgroup_id:
                self._links[link.cgroup_id, link.attach_type, link.program_id].append(link.id)
        self._hooks = hooks_of(types)
        self.notes: list[str] = []

    def attachments(self) -> list[Attachment]:
        """Return what is attached to cgroups, by a link or without one."""
        if not self._hooks and not self._links:
            return []
        nodes = {node.number: (path, node) for path, node in _cgroups(self.notes)}
        asked = [one for path, node in nodes.values() for one in self._asked(path, node)]
        # Links at hooks that were not asked for, such as those of LSM programs.
        return asked + [
            Attachment(nodes[cgroup_id][1], program_id, word(hook), "", link)
            for (cgroup_id, hook, program_id), links in self._links.items()
            for link in links
            if cgroup_id in nodes
        ]

    def _asked(self, path: str, node: Node) -> Iterator[Attachment]:
        """Yield what one cgroup runs itself, not what it inherits."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:  # removed meanwhile, or not for us
            return
        try:
            for hook in self._hooks:
                for one in query.cgroup_programs(fd, hook):
                    links = self._links.get((node.number, hook, one.program_id))
                    link = links.pop(0) if links else 0
                    yield Attachment(node, one.program_id, word(hook), link=link)
        except PermissionDeniedError as error:
            self._hooks.clear()
            self.notes.append(f"what cgroups run without a link is not shown: {error}")
        except BpfError:  # removed meanwhile
            return
        finally:
            os.close(fd)


def hooks_of(types: Collection[int]) -> list[AttachType]:
    """Return the attach types that programs of these types fit."""
    begins = tuple(begin for kind, names in _PLACES.items() if kind in types for begin in names)
    return [hook for hook in AttachType if begins and hook.name.startswith(begins)]


def word(hook: AttachType | int | None) -> str:
    """Return an attach type as it is typed: `cgroup-inet-ingress`."""
    return hook.name.lower().replace("_", "-") if isinstance(hook, AttachType) else str(hook)


def _cgroups(notes: list[str]) -> Iterator[tuple[str, Node]]:
    """Yield the path and the node of every cgroup; its id is the inode of its directory.

    Who was given a cgroup may make others in it, in any number and depth: the walk ends at
    `CGROUPS_MAX`, and says so in *notes*.
    """
    mount = next((mount for mount in fs.mounts() if mount.fs_type == CGROUP2), None)
    if mount is None:
        return
    with suppress(OSError):
        stack = [(mount.mount_point, "/", os.stat(mount.mount_point).st_ino)]  # noqa: PTH116
        for _ in range(CGROUPS_MAX):
            if not stack:
                return
            path, name, inode = stack.pop()
            yield path, Node(f"cgroup:{inode}", NodeKind.CGROUP, name, inode)
            stack += reversed(_children(path, name))
        notes.append(f"this host has more than {CGROUPS_MAX} cgroups; the rest was not looked at")


def _children(path: str, name: str) -> list[tuple[str, str, int]]:
    try:
        with os.scandir(path) as there:
            children = [entry for entry in there if entry.is_dir(follow_symlinks=False)]
    except OSError:  # removed meanwhile, not for us, or a path longer than the kernel takes
        return []
    children.sort(key=lambda entry: entry.name)
    parent = name.rstrip("/")
    return [(child.path, f"{parent}/{child.name}", child.inode()) for child in children]
