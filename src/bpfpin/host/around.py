"""The part of a graph that hangs together with one thing: a device, a set, a program or a map."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Final

from bpfpin.errors import PinNotFoundError
from bpfpin.host.graph import Edge, Graph, Node, NodeKind
from bpfpin.objects.kernel.info import ID, KERNEL_NAME_LENGTH, NAME

# Those are where the walk ends: a daemon that holds every map of the host joins nothing.
_ENDS: Final = (NodeKind.DEVICE, NodeKind.CGROUP, NodeKind.PIN, NodeKind.PROCESS)
_NEAR_MAX: Final = 5


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
