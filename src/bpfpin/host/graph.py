"""The graph of the host's BPF objects as plain values: nodes, edges, and queries on them.

`host/collect.py` builds it, `around` cuts out the part that is connected with one object.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import cached_property
from typing import Any, Final

from bpfpin.btf.names import kernel_name
from bpfpin.choices import similar
from bpfpin.errors import PinNotFoundError
from bpfpin.objects.kernel.info import ID, NAME
from bpfpin.records import dataclass

SCHEMA: Final = 1
LAYOUT: Final = ("key_size", "value_size", "max_entries", "map_flags")
# The note on a process that may see pins which we do not.
ELSEWHERE: Final = "in another mount namespace"
_NEAR_MAX: Final = 5


class NodeKind(Enum):
    """Kinds of nodes."""

    DEVICE = "device"
    CGROUP = "cgroup"
    PROGRAM = "program"
    MAP = "map"
    PIN = "pin"
    PROCESS = "process"


class EdgeKind(Enum):
    """How two nodes are connected, read from the source to the target."""

    ATTACHED = "attached"  # a device or cgroup runs a program
    EXTENDS = "extends"  # a program runs another one in place of a function of its own
    USES = "uses"  # a program refers to a map
    CONTAINS = "contains"  # a map holds an inner map, or a program for tail calls
    PINNED = "pinned"  # a map, a program or its link has a name in bpffs
    HELD = "held"  # a process has a map, a program or its link open


@dataclass(frozen=True, slots=True)
class Node:
    """One thing on the host.

    *id* is unique in the graph. *number* is the kernel's id, an ifindex or a pid, 0 for a pin.
    *type* is the kernel's word for the type of a program or map. *set* is the name of the pin set
    that a pin belongs to. *hooks* are the places where a program is attached. *layout* has a map's
    key_size, value_size, max_entries and map_flags. *notes* are further lines to show.
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
        """Return the form that `-o json` shows, without empty fields."""
        shown: dict[str, Any] = {"id": self.id, "kind": self.kind.value, "name": self.name}
        for key in ("number", "type", "netns", "set"):
            if value := getattr(self, key):
                shown[key] = value
        for key in ("hooks", "notes"):
            if value := getattr(self, key):
                shown[key] = list(value)
        return shown | dict(zip(LAYOUT, self.layout, strict=False))


@dataclass(frozen=True, slots=True)
class Edge:
    """A connection from node *source* to node *target*, by their ids.

    *hook* and *mode* are those of an attached program, *link* is the id of its link, 0 for none.
    *what* says which object of a program is pinned or held open: `program` or `link`.
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
        """Return the form that `-o json` shows, without empty fields."""
        shown = {"from": self.source, "to": self.target, "kind": self.kind.value}
        more = {key: getattr(self, key) for key in ("hook", "mode", "link", "what")}
        return shown | {key: value for key, value in more.items() if value}


# Edges over which a running program can reach another one.
_REACHES: Final = (EdgeKind.USES, EdgeKind.CONTAINS, EdgeKind.EXTENDS)


@dataclass(frozen=True)
class Graph:
    """Nodes, edges, and notes on hidden objects.

    *is_complete*: all programs of the host are nodes.
    """

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
        """The edges by their source."""
        return _grouped((edge.source, edge) for edge in self.edges)

    @cached_property
    def reaching(self) -> Mapping[str, list[Edge]]:
        """The edges by their target."""
        return _grouped((edge.target, edge) for edge in self.edges)

    def of_kind(self, *kinds: NodeKind) -> list[Node]:
        """Return the nodes of these kinds, in the graph's order."""
        return [node for node in self.nodes if node.kind in kinds]

    def targets(self, node_id: str, kind: EdgeKind) -> list[Node]:
        """Return the targets of the edges of *kind* that leave a node, each once."""
        ids = dict.fromkeys(e.target for e in self.leaving.get(node_id, ()) if e.kind is kind)
        return [self.by_id[target] for target in ids]

    def sources(self, node_id: str, kind: EdgeKind) -> list[Node]:
        """Return the sources of the edges of *kind* that reach a node, each once."""
        ids = dict.fromkeys(e.source for e in self.reaching.get(node_id, ()) if e.kind is kind)
        return [self.by_id[source] for source in ids]

    def is_shared(self, map_id: str) -> bool:
        """Whether several programs use the map."""
        return len(self.sources(map_id, EdgeKind.USES)) > 1

    @cached_property
    def running(self) -> frozenset[str]:
        """The ids of the programs that are attached, or that an attached one can tail-call."""
        reached = {e.target for e in self.edges if e.kind is EdgeKind.ATTACHED}
        reached |= {node.id for node in self.of_kind(NodeKind.PROGRAM) if node.hooks}
        waiting = list(reached)
        while waiting:
            for edge in self.leaving.get(waiting.pop(), ()):
                if edge.kind in _REACHES and edge.target not in reached:
                    reached.add(edge.target)
                    waiting.append(edge.target)
        return frozenset(reached & {node.id for node in self.of_kind(NodeKind.PROGRAM)})


def _grouped(pairs: Iterable[tuple[str, Edge]]) -> Mapping[str, list[Edge]]:
    groups: dict[str, list[Edge]] = defaultdict(list)
    for key, edge in pairs:
        groups[key].append(edge)
    return dict(groups)


# `around` does not walk through these kinds: a daemon that has every map of the host open must not
# connect everything with everything.
_ENDS: Final = (NodeKind.DEVICE, NodeKind.CGROUP, NodeKind.PIN, NodeKind.PROCESS)


def around(graph: Graph, target: str) -> Graph:
    """Return the part of *graph* that is connected with *target*.

    That is its programs, the maps that they share, and everything that is attached to these.
    *target* is a device (`lab0`, `blue@lab0`), the path of a cgroup, the name of a pin set, the
    path of a pin, `id:N` or `name:NAME` of a map, or the name of a map or a program. Raises
    `PinNotFoundError` with similar names if nothing has that name.
    """
    starts = find(graph, target)
    if not starts:
        raise _not_found(graph, target)
    kept = _reached(graph, starts)
    edges = tuple(e for e in graph.edges if e.source in kept and e.target in kept)
    nodes = tuple(node for node in graph.nodes if node.id in kept)
    return Graph(nodes, edges, graph.notes, graph.is_complete)


def find(graph: Graph, target: str) -> list[str]:
    """Return the ids of the nodes that *target* names; if it has several meanings, the first."""
    for fits in _meanings(target):
        if ids := [node.id for node in graph.nodes if fits(node)]:
            return ids
    return []


def _meanings(target: str) -> list[Callable[[Node], bool]]:
    if target.startswith(ID):
        return [lambda node: node.kind is NodeKind.MAP and str(node.number) == target[len(ID) :]]
    # The kernel has cut the names of maps and programs (BPF_OBJ_NAME_LEN), so the word is cut, too.
    name = kernel_name(target.removeprefix(NAME))

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
        node_id = waiting.pop()
        for edge in (*graph.leaving.get(node_id, ()), *graph.reaching.get(node_id, ())):
            neighbour = edge.target if edge.source == node_id else edge.source
            if neighbour not in kept:
                kept.add(neighbour)
                waiting += [neighbour] if graph.by_id[neighbour].kind not in _ENDS else []
    return kept


def _not_found(graph: Graph, target: str) -> PinNotFoundError:
    names = {node.name for node in graph.nodes if node.kind is not NodeKind.PROCESS}
    names |= {node.set for node in graph.nodes}
    near = similar(target, sorted(names - {""}), count=_NEAR_MAX)
    hint = f"near it: {', '.join(near)}" if near else "bpfpin graph shows all that is there"
    return PinNotFoundError(
        f"no device, cgroup, set, map, program or pin of the graph is called {target!r}",
        path=target,
        hint=hint,
    )
