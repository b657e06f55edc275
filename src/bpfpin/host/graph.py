"""The graph of who shares what, as plain values: nodes, edges, and questions to ask of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, Final

SCHEMA: Final = 1
# The note on a process that may see pins which we do not.
ELSEWHERE: Final = "in another mount namespace"


class NodeKind(Enum):
    """What a node is."""

    DEVICE = "device"
    CGROUP = "cgroup"
    PROGRAM = "program"
    MAP = "map"
    PIN = "pin"
    PROCESS = "process"


class EdgeKind(Enum):
    """How two nodes hang together, read from the first to the second."""

    ATTACHED = "attached"  # a device or cgroup runs a program
    EXTENDS = "extends"  # a program runs another one in the place of a function of its own
    USES = "uses"  # a program refers to a map
    CONTAINS = "contains"  # a map holds an inner map, or a program that is jumped to
    PINNED = "pinned"  # a map, a program or its link has a name in bpffs
    HELD = "held"  # a process has a map, a program or its link open


@dataclass(frozen=True, slots=True)
class Node:
    """One thing on the host.

    *id* is unique in the graph. *number* is the kernel's id, an ifindex or a pid, 0 for a pin.
    *type* is the kernel's word for the type of a program or map. *set* names the pin set of ours
    that a pin, or what is pinned in it, belongs to. *hooks* are the places that a program is
    attached at, *layout* is a map's key size, value size, max_entries and map_flags. *notes* are
    what else is worth a line.
    """

    id: str
    kind: NodeKind
    name: str
    number: int = 0
    type: str = ""
    netns: str = ""
    set: str = ""
    hooks: tuple[str, ...] = ()
    layout: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows: what is empty is left out."""
        shown: dict[str, Any] = {"id": self.id, "kind": self.kind.value, "name": self.name}
        for key in ("number", "type", "netns", "set"):
            if value := getattr(self, key):
                shown[key] = value
        for key in ("hooks", "notes"):
            if value := getattr(self, key):
                shown[key] = list(value)
        return shown | dict(zip(LAYOUT, self.layout, strict=False))


LAYOUT: Final = ("key_size", "value_size", "max_entries", "map_flags")


@dataclass(frozen=True, slots=True)
class Edge:
    """*source* and *target* are ids of nodes; *link* is the id of the link that holds them, if any.

    *hook* and *mode* are those of an attached program. *what* says which object of a program is
    pinned or held: `program` or `link`.
    """

    source: str
    target: str
    kind: EdgeKind
    hook: str = ""
    mode: str = ""
    link: int = 0
    what: str = ""

    @property
    def ends(self) -> tuple[str, str]:
        """The ids of both nodes."""
        return (self.source, self.target)

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows: what is empty is left out."""
        shown = {"from": self.source, "to": self.target, "kind": self.kind.value}
        more = {key: getattr(self, key) for key in ("hook", "mode", "link", "what")}
        return shown | {key: value for key, value in more.items() if value}


# What makes a program or map part of what runs, once the first one does.
_CARRIES: Final = (EdgeKind.USES, EdgeKind.CONTAINS, EdgeKind.EXTENDS)


@dataclass(frozen=True)
class Graph:
    """Nodes and edges, and notes on what could not be seen; *is_complete*: every program was."""

    nodes: tuple[Node, ...] = ()
    edges: tuple[Edge, ...] = ()
    notes: tuple[str, ...] = ()
    is_complete: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return {
            "schema": SCHEMA,
            "nodes": [node.to_json() | self._shared(node) for node in self.nodes],
            "edges": [edge.to_json() for edge in self.edges],
            "notes": list(self.notes),
        }

    def _shared(self, node: Node) -> dict[str, Any]:
        return {"shared": self.is_shared(node.id)} if node.kind is NodeKind.MAP else {}

    @cached_property
    def by_id(self) -> Mapping[str, Node]:
        """The nodes by their ids."""
        return {node.id: node for node in self.nodes}

    @cached_property
    def leaving(self) -> Mapping[str, list[Edge]]:
        """The edges by the node that they leave."""
        return _grouped((edge.source, edge) for edge in self.edges)

    @cached_property
    def reaching(self) -> Mapping[str, list[Edge]]:
        """The edges by the node that they reach."""
        return _grouped((edge.target, edge) for edge in self.edges)

    def of_kind(self, *kinds: NodeKind) -> list[Node]:
        """Return the nodes of these kinds, in the graph's order."""
        return [node for node in self.nodes if node.kind in kinds]

    def targets(self, node_id: str, kind: EdgeKind) -> list[Node]:
        """Return the nodes that edges of *kind* lead to from a node, each once."""
        ids = dict.fromkeys(e.target for e in self.leaving.get(node_id, ()) if e.kind is kind)
        return [self.by_id[one] for one in ids]

    def sources(self, node_id: str, kind: EdgeKind) -> list[Node]:
        """Return the nodes that edges of *kind* come from to a node, each once."""
        ids = dict.fromkeys(e.source for e in self.reaching.get(node_id, ()) if e.kind is kind)
        return [self.by_id[one] for one in ids]

    def is_shared(self, map_id: str) -> bool:
        """Whether several programs use the map."""
        return len(self.sources(map_id, EdgeKind.USES)) > 1

    @cached_property
    def running(self) -> frozenset[str]:
        """The ids of the programs that are attached, or that one of these may jump to."""
        found = {e.target for e in self.edges if e.kind is EdgeKind.ATTACHED}
        found |= {node.id for node in self.of_kind(NodeKind.PROGRAM) if node.hooks}
        waiting = list(found)
        while waiting:
            for edge in self.leaving.get(waiting.pop(), ()):
                if edge.kind in _CARRIES and edge.target not in found:
                    found.add(edge.target)
                    waiting.append(edge.target)
        return frozenset(found & {node.id for node in self.of_kind(NodeKind.PROGRAM)})


def _grouped(pairs: Iterable[tuple[str, Edge]]) -> Mapping[str, list[Edge]]:
    found: dict[str, list[Edge]] = defaultdict(list)
    for key, edge in pairs:
        found[key].append(edge)
    return dict(found)
