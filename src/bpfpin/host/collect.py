"""The graph of the whole host, asked of the kernel: programs, maps, pins and their holders.

Devices and cgroups run programs, programs use maps, and pins and processes keep them alive,
no matter which loader made them.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from bpfpin.hooks import TargetKind, hooks_at
from bpfpin.host import objects as kernel_objects
from bpfpin.host.attachments import AttachedProgram, all_attachments, hook_word
from bpfpin.host.graph import ELSEWHERE, Edge, EdgeKind, Graph, Node, NodeKind
from bpfpin.host.objects import Contained, HostObjects
from bpfpin.host.pins import Pin, all_pins, set_names, set_of
from bpfpin.host.processes import Holder, all_holders
from bpfpin.objects.kernel.info import LinkInfo, MapInfo, ProgramInfo
from bpfpin.objects.kernel.object import ObjectKind
from bpfpin.pins.bpffs import BPFFS
from bpfpin.uapi import AttachType, LinkType, MapType, ProgramType

_ORDER = {kind: number for number, kind in enumerate(NodeKind)}
_OF_DEVICES = {hook.traits.link_type for hook in hooks_at(TargetKind.DEVICE)} - {None}


def graph(*, pin_root: Path = BPFFS) -> Graph:
    """Return the graph of everything on the host; changes nothing.

    It is seen from the current network namespace: its devices go by their names, those of other
    namespaces by `NAMESPACE@NAME`. Sets are those below *pin_root*; pins are found in every
    mounted bpffs. Without CAP_SYS_ADMIN the graph has what this user may see, and notes on the
    rest.
    """
    is_privileged = kernel_objects.may_walk()
    # Pins before objects: without privileges, the pinned objects are all that can be seen. With
    # them, the pin of an object that is freed in between finds no node and is left out.
    pins = all_pins(pin_root, with_infos=not is_privileged)
    objects = kernel_objects.all_objects() if is_privileged else kernel_objects.pinned_objects(pins)
    draft = Draft(objects)
    draft.add_attachments(_attachments(objects))
    draft.add_contents(kernel_objects.contents(objects))
    draft.add_pins(pins.pins, set_names(pin_root, objects.notes))
    _add_holders(draft, objects)
    objects.notes += pins.notes
    return draft.graph()


def _attachments(objects: HostObjects) -> list[AttachedProgram]:
    # A complete listing says which types of programs exist: hooks for other types need no query.
    types: set[int] = set(ProgramType)
    if objects.is_complete:
        types = {info.type for info in objects.programs.values()}
    return all_attachments(objects.links.values(), types, objects.notes)


def _add_holders(draft: Draft, objects: HostObjects) -> None:
    holders = all_holders()
    draft.add_holders(holders.processes)
    if holders.hidden:
        objects.notes.append(f"{holders.hidden} processes of other users were not looked into")
    if holders.is_cut:
        objects.notes.append("this host has too many open files to look at all; some holders lack")


class Draft:
    """A graph under construction; an object that is named twice becomes one node."""

    def __init__(self, objects: HostObjects) -> None:
        self._objects = objects
        self._nodes: dict[str, Node] = {}
        # A dict without values: it keeps the order and drops repeated edges.
        self._edges: dict[Edge, None] = {}
        self._hooks: dict[str, list[str]] = defaultdict(list)
        self._notes: dict[str, list[str]] = defaultdict(list)
        # Maps before programs: an edge of a program needs the node of the map.
        for info in objects.maps.values():
            self._add(_map_node(info))
        for program in objects.programs.values():
            self._add(_program_node(program))
            for map_id in program.map_ids:
                self._connect(f"program:{program.id}", self._map(map_id), EdgeKind.USES)

    def add_attachments(self, attachments: Iterable[AttachedProgram]) -> None:
        """Add the programs of devices and cgroups, then the links that are attached elsewhere."""
        placed = set()
        for attached in attachments:
            program = self._program(attached.program_id)
            if not program:
                continue
            self._add(attached.place)
            edge = Edge(
                attached.place.id,
                program,
                EdgeKind.ATTACHED,
                hook=attached.hook,
                mode=attached.mode,
                link=attached.link,
            )
            self._edges[edge] = None
            self._hooks[program].append(f"{attached.hook} of {attached.place.name}")
            placed.add(attached.link)
        for link in self._objects.links.values():
            # A link of struct_ops has a map instead of a program.
            if link.id not in placed and link.program_id:
                self._add_link(link)

    def _add_link(self, link: LinkInfo) -> None:
        """Add a link that is attached to something else than a device or cgroup in sight."""
        program = self._program(link.program_id)
        if not program:
            return
        info = self._objects.programs.get(link.program_id)
        # For these links the id is that of the extended program (struct bpf_link_info of
        # linux/bpf.h).
        if info is not None and info.type == ProgramType.EXT and link.target_id:
            self._connect(self._program(link.target_id), program, EdgeKind.EXTENDS)
            return
        # A link outlives its device; the kernel then reports ifindex 0
        # (bpf_xdp_link_fill_link_info() of net/core/dev.c).
        if link.type in _OF_DEVICES and not link.ifindex:
            self._notes[program].append(f"{_hook(link)}: the device of link id {link.id} is gone")
            return
        self._hooks[program].append(_hook(link) + _place(link))

    def add_contents(self, elements: Iterable[Contained]) -> None:
        """Add the elements of maps of maps, and of program arrays."""
        for element in elements:
            target = self._program(element.id) if element.is_program else self._map(element.id)
            self._connect(self._map(element.map_id), target, EdgeKind.CONTAINS)

    def add_pins(self, pins: Iterable[Pin], sets: Mapping[str, str]) -> None:
        """Add the pins, each with the pin set that it belongs to."""
        for pin in pins:
            node = Node(f"pin:{pin.path}", NodeKind.PIN, pin.path, set=set_of(pin.path, sets))
            source = self._object(pin.kind, pin.id)
            if source:
                self._add(node)
                self._connect(source, node.id, EdgeKind.PINNED, what=_what(pin.kind))

    def add_holders(self, holders: Iterable[Holder]) -> None:
        """Add the processes that have an object of the graph open."""
        for holder in holders:
            notes = (ELSEWHERE,) if holder.is_elsewhere else ()
            process_id = f"process:{holder.pid}"
            node = Node(process_id, NodeKind.PROCESS, holder.name, holder.pid, notes=notes)
            for kind, object_id in holder.objects:
                source = self._object(kind, object_id)
                if source:
                    self._add(node)
                    self._connect(source, node.id, EdgeKind.HELD, what=_what(kind))

    def graph(self) -> Graph:
        """Return the finished graph: nodes by kind, then by number; edges as they were added."""
        nodes = sorted(map(self._finished, self._nodes.values()), key=_sort_key)
        objects = self._objects
        return Graph(tuple(nodes), tuple(self._edges), tuple(objects.notes), objects.is_complete)

    def _finished(self, node: Node) -> Node:
        hooks, notes = self._hooks.get(node.id, ()), self._notes.get(node.id, ())
        if not hooks and not notes:
            return node
        return dataclasses.replace(node, hooks=tuple(dict.fromkeys(hooks)), notes=tuple(notes))

    def _object(self, kind: ObjectKind, object_id: int) -> str:
        """Return the id of the node of an object, "" if the graph does not have it."""
        if kind is ObjectKind.MAP:
            return self._map(object_id)
        if kind is ObjectKind.PROGRAM:
            return self._program(object_id)
        link = self._objects.links.get(object_id)
        return self._program(link.program_id) if link is not None and link.program_id else ""

    def _program(self, program_id: int) -> str:
        return self._known(Node(f"program:{program_id}", NodeKind.PROGRAM, "", program_id))

    def _map(self, map_id: int) -> str:
        return self._known(Node(f"map:{map_id}", NodeKind.MAP, "", map_id))

    def _known(self, node: Node) -> str:
        """Return the id of the node, "" for an object that was created after the listing.

        If the listing is not complete, an object that is only referred to gets a node with its id
        and no name.
        """
        if node.id in self._nodes:
            return node.id
        if self._objects.is_complete:
            return ""
        self._nodes[node.id] = node
        return node.id

    def _add(self, node: Node) -> None:
        self._nodes[node.id] = node

    def _connect(self, source: str, target: str, kind: EdgeKind, *, what: str = "") -> None:
        if source and target:
            self._edges[Edge(source, target, kind, what=what)] = None


def _map_node(info: MapInfo) -> Node:
    kind = info.type.name.lower() if isinstance(info.type, MapType) else str(info.type)
    layout = (info.key_size, info.value_size, info.max_entries, info.map_flags)
    return Node(f"map:{info.id}", NodeKind.MAP, info.name, info.id, type=kind, layout=layout)


def _program_node(info: ProgramInfo) -> Node:
    kind = info.type.name.lower() if isinstance(info.type, ProgramType) else str(info.type)
    return Node(f"program:{info.id}", NodeKind.PROGRAM, info.name, info.id, type=kind)


def _what(kind: ObjectKind) -> str:
    return "" if kind is ObjectKind.MAP else str(kind)


def _hook(link: LinkInfo) -> str:
    """Return the word for a link's hook: its attach type, or the type of the link without one."""
    is_known = isinstance(link.attach_type, AttachType)
    # BPF_CGROUP_INET_INGRESS is 0, and so is an attach type that was not given.
    if is_known and (link.attach_type or link.type == LinkType.CGROUP):
        return hook_word(link.attach_type)
    return link.type.name.lower().replace("_", "-") if isinstance(link.type, LinkType) else "link"


def _place(link: LinkInfo) -> str:
    if link.ifindex:
        # Link infos have no namespace; `DeviceWalk` has found all links on devices that it could
        # see.
        return f" of ifindex {link.ifindex} in a namespace that is not seen"
    if link.cgroup_id:
        return f" of cgroup id {link.cgroup_id}"
    return f" of network namespace {link.netns_inode}" if link.netns_inode else ""


def _sort_key(node: Node) -> tuple[int, str, int, str]:
    place = node.netns if node.kind is NodeKind.DEVICE else ""
    return (_ORDER[node.kind], place, node.number, node.name)
