"""The programs that are attached to devices of any network namespace, and to cgroups.

A device reports its XDP programs by netlink and its TCX programs by BPF_PROG_QUERY; classic tc
filters are dumped by netlink. Each cgroup of the cgroup2 mount is asked by BPF_PROG_QUERY. Which
link holds an attached program is known from the infos of all links.
"""

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
_AtCgroup = tuple[int, AttachType | int | None, int]  # ids of cgroup, attach type and program
CGROUP2: Final = "cgroup2"
CGROUPS_MAX: Final = 50_000
# The attach types that a type of program fits, by prefixes of their names.
_ATTACH_TYPES: Final[dict[ProgramType, tuple[str, ...]]] = {
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
class AttachedProgram:
    """A program at a hook of a device or cgroup; *link* is the id of its link, 0 for none."""

    place: Node
    program_id: int
    hook: str
    mode: str = ""
    link: int = 0


class DeviceWalk:
    """One walk over the devices of all network namespaces; `notes` list unreadable places.

    *types* are the types of the programs that are loaded: hooks that fit none of them are not
    queried.
    """

    def __init__(self, links: Iterable[LinkInfo], types: Collection[int]) -> None:
        self._types = set(types)
        self._xdp_links = _xdp_links(links)
        self.notes: list[str] = []

    def attachments(self) -> list[AttachedProgram]:
        """Return the programs of all devices, by whomever attached, namespace by namespace."""
        if self._types.isdisjoint({ProgramType.XDP, ProgramType.SCHED_CLS}):
            return []
        attached: list[AttachedProgram] = []
        closed: list[str] = []
        for namespace in all_namespaces():
            try:
                with netns.enter(namespace.path):
                    attached += self._namespace(namespace)
            except NamespaceNotFoundError:  # it ended meanwhile, or only its name is left
                continue
            except (BpfError, OSError):
                closed.append(namespace.name)
        if closed:
            self.notes.append(f"network namespaces that could not be entered: {', '.join(closed)}")
        return attached

    def _namespace(self, namespace: Namespace) -> Iterator[AttachedProgram]:
        devices = {device.ifindex: device for device in all_devices()}
        nodes = {ifindex: _node(namespace, device) for ifindex, device in devices.items()}
        for ifindex, device in devices.items():
            for mode, program_id in device.xdp.items():
                link = self._xdp_link(ifindex, program_id)
                yield AttachedProgram(nodes[ifindex], program_id, Hook.XDP.value, mode.value, link)
        if ProgramType.SCHED_CLS in self._types:
            for ifindex, device in devices.items():
                yield from self._traffic(nodes[ifindex], device)
            yield from _filters(nodes)

    def _traffic(self, node: Node, device: DeviceRow) -> Iterator[AttachedProgram]:
        for hook in _NETKIT + _TCX if device.kind == "netkit" else _TCX:
            try:
                programs = query.tcx_programs(device.ifindex, hook)
            except PermissionDeniedError as error:
                self._note(f"what {hook.value} hooks run is not shown: {error}")
                return
            except BpfError:  # the device was removed meanwhile
                return
            for program in programs:
                yield AttachedProgram(node, program.program_id, hook.value, link=program.link_id)

    def _xdp_link(self, ifindex: int, program_id: int) -> int:
        """Return the id of a link that fits, 0 for none.

        An ifindex repeats in each namespace, and a link does not report its own: if two devices
        fit, each gets one of the links.
        """
        fitting = self._xdp_links.get((ifindex, program_id), [])
        return fitting.pop(0) if fitting else 0

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _filters(nodes: Mapping[int, Node]) -> Iterator[AttachedProgram]:
    """Yield the programs of classic tc; one dump of qdiscs tells which devices have hooks."""
    for ifindex, kind in netlink_tc.qdiscs().items():
        # The qdisc `ingress` has no egress: it answers a dump of egress with its ingress filters.
        hooks = _CLASSIC if kind == netlink_tc.CLSACT else _CLASSIC[:1]
        for hook in hooks if ifindex in nodes else ():
            for tc_filter in netlink_tc.filters(ifindex, hook):
                if tc_filter.program_id:
                    yield AttachedProgram(nodes[ifindex], tc_filter.program_id, hook.value)


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
    by_device: dict[tuple[int, int], list[int]] = defaultdict(list)
    for link in links:
        if link.type == LinkType.XDP and link.ifindex:
            by_device[link.ifindex, link.program_id].append(link.id)
    return dict(by_device)


class CgroupWalk:
    """One walk over all cgroups; `notes` list unreadable places. *types* as for devices."""

    def __init__(self, links: Iterable[LinkInfo], types: Collection[int]) -> None:
        # BPF_PROG_QUERY reports the programs of a cgroup without their links.
        self._links: dict[_AtCgroup, list[int]] = defaultdict(list)
        for link in links:
            if link.type == LinkType.CGROUP and link.cgroup_id:
                self._links[link.cgroup_id, link.attach_type, link.program_id].append(link.id)
        self._hooks = attach_types_of(types)
        self.notes: list[str] = []

    def attachments(self) -> list[AttachedProgram]:
        """Return the programs of all cgroups, with a link or without."""
        if not self._hooks and not self._links:
            return []
        nodes = {node.number: (path, node) for path, node in _cgroups(self.notes)}
        attached = [program for path, node in nodes.values() for program in self._query(path, node)]
        # Links at hooks that were not queried, such as those of LSM programs.
        return attached + [
            AttachedProgram(nodes[cgroup_id][1], program_id, hook_word(hook), "", link)
            for (cgroup_id, hook, program_id), links in self._links.items()
            for link in links
            if cgroup_id in nodes
        ]

    def _query(self, path: str, node: Node) -> Iterator[AttachedProgram]:
        """Yield the programs that are attached to one cgroup itself, not the inherited ones."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:  # removed meanwhile, or not readable for this user
            return
        try:
            for hook in self._hooks:
                for program in query.cgroup_programs(fd, hook):
                    links = self._links.get((node.number, hook, program.program_id))
                    link = links.pop(0) if links else 0
                    yield AttachedProgram(node, program.program_id, hook_word(hook), link=link)
        except PermissionDeniedError as error:
            self._hooks.clear()
            self.notes.append(f"what cgroups run without a link is not shown: {error}")
        except BpfError:  # removed meanwhile
            return
        finally:
            os.close(fd)


def attach_types_of(types: Collection[int]) -> list[AttachType]:
    """Return the attach types of cgroups that programs of these types fit."""
    prefixes = tuple(
        name for kind, names in _ATTACH_TYPES.items() if kind in types for name in names
    )
    return [hook for hook in AttachType if prefixes and hook.name.startswith(prefixes)]


def hook_word(hook: AttachType | int | None) -> str:
    """Return the word for an attach type, as `--hook` has it: `cgroup-inet-ingress`."""
    return hook.name.lower().replace("_", "-") if isinstance(hook, AttachType) else str(hook)


def _cgroups(notes: list[str]) -> Iterator[tuple[str, Node]]:
    """Yield the path and the node of every cgroup; its id is the inode of its directory.

    The owner of a delegated cgroup may make others in it, in any number and depth: the walk ends
    at `CGROUPS_MAX` and adds a note.
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
        with os.scandir(path) as listing:
            children = [entry for entry in listing if entry.is_dir(follow_symlinks=False)]
    except OSError:  # removed meanwhile, not readable, or a path longer than PATH_MAX
        return []
    children.sort(key=lambda entry: entry.name)
    parent = name.rstrip("/")
    return [(child.path, f"{parent}/{child.name}", child.inode()) for child in children]
