"""What is attached to the devices of every network namespace, by links, netlink and queries."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from bpfpin.attach import netlink_tc, query
from bpfpin.attach.devices import DeviceRow, all_devices
from bpfpin.errors import BpfError, NamespaceNotFoundError, PermissionDeniedError
from bpfpin.host.graph import Node, NodeKind
from bpfpin.host.namespaces import Namespace, all_namespaces
from bpfpin.objects.kernel.info import LinkInfo
from bpfpin.spec import Hook
from bpfpin.syscall import fs, netns
from bpfpin.uapi import AttachType, LinkType, ProgramType

_TCX = (Hook.TCX_INGRESS, Hook.TCX_EGRESS)
_CLASSIC = (Hook.TC_INGRESS, Hook.TC_EGRESS)
_NETKIT = (Hook.NETKIT_PRIMARY, Hook.NETKIT_PEER)
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


@dataclass(frozen=True, slots=True)
class Attachment:
    """A program at a hook of a device or cgroup; *link* is 0 where no link holds it."""

    place: Node
    program_id: int
    hook: str
    mode: str = ""
    link: int = 0


class DeviceWalk:
    """Looks at the devices of all namespaces once; `notes` say where it may not look.

    *types* are the types of the programs that are loaded: a kind of hook that none of them fits is
    not asked for.
    """

    def __init__(self, links: Iterable[LinkInfo], types: Collection[int]) -> None:
        self._types = set(types)
        self._xdp_links = _xdp_links(links)
        self.notes: list[str] = []

    def attachments(self) -> list[Attachment]:
        """Return what is attached to devices, ours or not, in the order of the namespaces."""
        if self._types.isdisjoint({ProgramType.XDP, ProgramType.SCHED_CLS}):
            return []
        found: list[Attachment] = []
        closed: list[str] = []
        for namespace in all_namespaces():
            try:
                with netns.enter(namespace.path):
                    found += self._namespace(namespace)
            except NamespaceNotFoundError:  # ended meanwhile, or a name that was left behind
                continue
            except (BpfError, OSError):
                closed.append(namespace.name)
        if closed:
            self.notes.append(f"network namespaces that could not be entered: {', '.join(closed)}")
        return found

    def _namespace(self, namespace: Namespace) -> Iterator[Attachment]:
        devices = {device.ifindex: device for device in all_devices()}
        nodes = {ifindex: _node(namespace, device) for ifindex, device in devices.items()}
        for ifindex, device in devices.items():
            for mode, program_id in device.xdp.items():
                link = self._xdp_link(ifindex, program_id)
                yield Attachment(nodes[ifindex], program_id, Hook.XDP.value, mode.value, link)
        if ProgramType.SCHED_CLS in self._types:
            for ifindex, device in devices.items():
                yield from self._traffic(nodes[ifindex], device)
            yield from _filters(nodes)

    def _traffic(self, node: Node, device: DeviceRow) -> Iterator[Attachment]:
        for hook in _NETKIT + _TCX if device.kind == "netkit" else _TCX:
            try:
                programs = query.tcx_programs(device.ifindex, hook)
            except PermissionDeniedError as error:
                self._note(f"what {hook.value} hooks run is not shown: {error}")
                return
            except BpfError:  # gone meanwhile
                return
            for one in programs:
                yield Attachment(node, one.program_id, hook.value, link=one.link_id)

    def _xdp_link(self, ifindex: int, program_id: int) -> int:
        """Return a link that fits; where devices of two namespaces fit it, each gets one."""
        fitting = self._xdp_links.get((ifindex, program_id), [])
        return fitting.pop(0) if fitting else 0

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _filters(nodes: Mapping[int, Node]) -> Iterator[Attachment]:
    """Yield what classic tc runs: one dump tells the devices that have its hooks."""
    for ifindex, kind in netlink_tc.qdiscs().items():
        # The qdisc `ingress` answers a question for egress with its ingress.
        hooks = _CLASSIC if kind == netlink_tc.CLSACT else _CLASSIC[:1]
        for hook in hooks if ifindex in nodes else ():
            for one in netlink_tc.filters(ifindex, hook):
                if one.program_id:
                    yield Attachment(nodes[ifindex], one.program_id, hook.value)


def _node(namespace: Namespace, device: DeviceRow) -> Node:
    return Node(
        f"device:{namespace.inode}:{device.ifindex}",
        NodeKind.DEVICE,
        namespace.device_name(device.name),
        device.ifindex,
        type=device.kind,
        netns=namespace.name,
    )


def _xdp_links(links: Iterable[LinkInfo]) -> dict[tuple[int, int], list[int]]:
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for link in links:
        if link.type == LinkType.XDP and link.ifindex:
            found[link.ifindex, link.program_id].append(link.id)
    return dict(found)


# What is attached to cgroups: each one of the cgroup2 mount is asked (BPF_PROG_QUERY).


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
