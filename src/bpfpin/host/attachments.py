"""The programs that are attached to devices of any network namespace, and to cgroups.

A device reports its XDP programs by netlink and its TCX programs by BPF_PROG_QUERY; classic tc
filters are dumped by netlink. Each cgroup of the cgroup2 mount is asked by BPF_PROG_QUERY. Which
link holds an attached program is known from the infos of all links.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from typing import Final

from bpfpin.attach.cgroup_path import cgroup2_mount
from bpfpin.attach.devices import DeviceRow, all_devices
from bpfpin.attach.registry import RunningProgram, code_named, code_of
from bpfpin.errors import (
    BpfError,
    CgroupNotFoundError,
    NamespaceNotFoundError,
    PermissionDeniedError,
)
from bpfpin.hooks import Hook, TargetKind, hooks_at
from bpfpin.host.graph import Node, NodeKind
from bpfpin.host.processes import Namespace, all_namespaces
from bpfpin.objects.kernel.info import LinkInfo
from bpfpin.records import dataclass
from bpfpin.syscall import netns
from bpfpin.uapi import AttachType, LinkType

_OnDevice = tuple[LinkType | int | None, int, int]  # type of link, ifindex, id of program
_AtCgroup = tuple[int, AttachType | int | None, int]  # ids of cgroup, attach type and program
CGROUPS_MAX: Final = 50_000


@dataclass(frozen=True, slots=True)
class AttachedProgram:
    """A program at a hook of a device or cgroup; *link* is the id of its link, 0 for none."""

    place: Node
    program_id: int
    hook: str
    mode: str = ""
    link: int = 0


def all_attachments(
    links: Iterable[LinkInfo], types: Collection[int], notes: list[str]
) -> list[AttachedProgram]:
    """Return the programs that devices and cgroups run; adds to *notes* what is hidden.

    *links* are all links of the host, *types* the types of the loaded programs.
    """
    links = list(links)
    devices, cgroups = DeviceWalk(links, types), CgroupWalk(links, types)
    attached = [*devices.attachments(), *cgroups.attachments()]
    notes += [*devices.notes, *cgroups.notes]
    return attached


class DeviceWalk:
    """One walk over the devices of all network namespaces; `notes` list unreadable places.

    *types* are the types of the programs that are loaded: hooks that fit none of them are not
    queried.
    """

    def __init__(self, links: Iterable[LinkInfo], types: Collection[int]) -> None:
        # The packets of a route leave by a device.
        hooks = [
            hook
            for kind in (TargetKind.DEVICE, TargetKind.ROUTE)
            for hook in hooks_for(kind, types)
        ]
        self._codes = tuple(dict.fromkeys(hook.traits.code for hook in hooks))
        self._links = _links_on_devices(links)
        self.notes: list[str] = []

    def attachments(self) -> list[AttachedProgram]:
        """Return the programs of all devices, by whomever attached, namespace by namespace."""
        # Each namespace costs a setns(2) and several dumps: skip them if nothing can be attached.
        if not self._codes:
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
        devices = all_devices()
        nodes = {device.ifindex: _node(namespace, device) for device in devices}
        for code in self._codes:
            try:
                for running in code_named(code).running_on(devices):
                    node, hook = nodes[running.ifindex], running.hook.value
                    link = running.link_id
                    if link is None:
                        link = self._link(running)
                    yield AttachedProgram(node, running.program_id, hook, running.mode, link)
            except PermissionDeniedError as error:
                self._note(f"what {code} hooks run is not shown: {error}")

    def _link(self, running: RunningProgram) -> int:
        """Return the id of a link that fits, 0 for none.

        An ifindex repeats in each namespace, and a link does not report its own: if two devices
        fit, each gets one of the links.
        """
        place = (running.hook.traits.link_type, running.ifindex, running.program_id)
        fitting = self._links.get(place, [])
        return fitting.pop(0) if fitting else 0

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _node(namespace: Namespace, device: DeviceRow) -> Node:
    return Node(
        f"device:{namespace.inode}:{device.ifindex}",
        NodeKind.DEVICE,
        namespace.device_name(device.name),
        device.ifindex,
        type=device.kind,
        netns=namespace.name,
    )


def _links_on_devices(links: Iterable[LinkInfo]) -> dict[_OnDevice, list[int]]:
    by_place: dict[_OnDevice, list[int]] = defaultdict(list)
    for link in links:
        if link.ifindex:
            by_place[link.type, link.ifindex, link.program_id].append(link.id)
    return dict(by_place)


class CgroupWalk:
    """One walk over all cgroups; `notes` list unreadable places. *types* as for devices."""

    def __init__(self, links: Iterable[LinkInfo], types: Collection[int]) -> None:
        # BPF_PROG_QUERY reports the programs of a cgroup without their links.
        self._links: dict[_AtCgroup, list[int]] = defaultdict(list)
        for link in links:
            if link.type == LinkType.CGROUP and link.cgroup_id:
                self._links[link.cgroup_id, link.attach_type, link.program_id].append(link.id)
        self._hooks = hooks_for(TargetKind.CGROUP, types)
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
                for running in code_of(hook).running_in(fd, hook):
                    place = (node.number, hook.attach_type, running.program_id)
                    links = self._links.get(place)
                    link = links.pop(0) if links else 0
                    yield AttachedProgram(node, running.program_id, hook.value, link=link)
        except PermissionDeniedError as error:
            self._hooks.clear()
            self.notes.append(f"what cgroups run without a link is not shown: {error}")
        except CgroupNotFoundError:  # removed meanwhile
            return
        except BpfError as error:
            self.notes.append(f"what cgroup {node.name} runs is not shown: {error}")
        finally:
            os.close(fd)


def hooks_for(target: TargetKind, types: Collection[int]) -> list[Hook]:
    """Return the hooks of targets of a kind that run programs of any of these types."""
    return [hook for hook in hooks_at(target) if set(hook.traits.program_types) & set(types)]


def hook_word(hook: AttachType | int | None) -> str:
    """Return the word for an attach type, as `--hook` has it: `cgroup-inet-ingress`."""
    return hook.name.lower().replace("_", "-") if isinstance(hook, AttachType) else str(hook)


def _cgroups(notes: list[str]) -> Iterator[tuple[str, Node]]:
    """Yield the path and the node of every cgroup; its id is the inode of its directory.

    The owner of a delegated cgroup may make others in it, in any number and depth: the walk ends
    at `CGROUPS_MAX` and adds a note.
    """
    try:
        mount = cgroup2_mount()
    except CgroupNotFoundError:
        return
    with suppress(OSError):
        # The id of a cgroup is the inode number (kernfs_id_ino() in include/linux/kernfs.h).
        stack = [(str(mount), "/", mount.stat().st_ino)]
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
