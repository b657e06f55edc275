"""The graph of who shares what, as plain values: nodes, edges, and questions to ask of them."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, Final

from bpfpin.errors import PinNotFoundError
from bpfpin.objects.kernel.info import ID, KERNEL_NAME_LENGTH, NAME

SCHEMA: Final = 1
# The note on a process that may see pins which we do not.
ELSEWHERE: Final = "in another mount namespace"
_NEAR_MAX: Final = 5


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


# The part of a graph that hangs together with one thing: a device, a set, a program or a map.

# Those are where the walk ends: a daemon that holds every map of the host joins nothing.
_ENDS: Final = (NodeKind.DEVICE, NodeKind.CGROUP, NodeKind.PIN, NodeKind.PROCESS)


def around(graph: Graph, target: str) -> Graph:
    """Return what hangs together with *target*: programs, the maps they share, and all at these.

    *target* is a device (`lab0`, `blue@lab0`), a cgroup's path, the name of a pin set, a path of a
    pin, `id:N` or `name:NAME` of a map, or the name of a map or a program. `PinNotFoundError` with
    the near names if nothing is called so.
    """
    starts = find(graph, target)
    if not starts:
        raise _not_found(graph, target)
    kept = _reached(graph, starts)
    edges = tuple(e for e in graph.edges if e.source in kept and e.target in kept)
    nodes = tuple(node for node in graph.nodes if node.id in kept)
    return Graph(nodes, edges, graph.notes, graph.is_complete)


def find(graph: Graph, target: str) -> list[str]:
    """Return the ids of the nodes that *target* means; of several meanings the first that fits."""
    for fits in _meanings(target):
        if found := [node.id for node in graph.nodes if fits(node)]:
            return found
    return []


def _meanings(target: str) -> list[Callable[[Node], bool]]:
    if target.startswith(ID):
        return [lambda node: node.kind is NodeKind.MAP and str(node.number) == target[len(ID) :]]
    name = target.removeprefix(NAME)[:KERNEL_NAME_LENGTH]

    def maps(node: Node) -> bool:
        return node.kind is NodeKind.MAP and node.name == name

    if target.startswith(NAME):
        return [maps]
    return [
        lambda node: node.kind in _ENDS[:3] and node.name == target,
        lambda node: bool(target) and node.set == target,
        maps,
        lambda node: node.kind is NodeKind.PROGRAM and node.name == name,
    ]


def _reached(graph: Graph, starts: Iterable[str]) -> set[str]:
    kept = set(starts)
    waiting = list(kept)
    while waiting:
        here = graph.by_id[waiting.pop()]
        for edge in (*graph.leaving.get(here.id, ()), *graph.reaching.get(here.id, ())):
            there = _other(edge, here.id)
            if there not in kept:
                kept.add(there)
                waiting += [there] if graph.by_id[there].kind not in _ENDS else []
    return kept


def _other(edge: Edge, here: str) -> str:
    return edge.target if edge.source == here else edge.source


def _not_found(graph: Graph, target: str) -> PinNotFoundError:
    names = {node.name for node in graph.nodes if node.kind is not NodeKind.PROCESS}
    names |= {node.set for node in graph.nodes}
    near = difflib.get_close_matches(target, sorted(names - {""}), n=_NEAR_MAX)
    hint = f"near it: {', '.join(near)}" if near else "bpfpin graph shows all that is there"
    return PinNotFoundError(
        f"no device, cgroup, set, map, program or pin of the graph is called {target!r}",
        path=target,
        hint=hint,
    )
