"""What is attached to the devices of every network namespace, by links, netlink and queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from bpfpin.attach import netlink_tc, query
from bpfpin.attach.devices import DeviceRow, all_devices
from bpfpin.errors import BpfError, NamespaceNotFoundError, PermissionDeniedError
from bpfpin.host.graph import Node, NodeKind
from bpfpin.host.namespaces import Namespace, all_namespaces
from bpfpin.objects.kernel.info import LinkInfo
from bpfpin.spec import Hook
from bpfpin.syscall import netns
from bpfpin.uapi import LinkType, ProgramType

_TCX = (Hook.TCX_INGRESS, Hook.TCX_EGRESS)
_CLASSIC = (Hook.TC_INGRESS, Hook.TC_EGRESS)
_NETKIT = (Hook.NETKIT_PRIMARY, Hook.NETKIT_PEER)


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
