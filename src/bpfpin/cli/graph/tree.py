"""The graph as a tree of lines: devices and cgroups, programs, maps, pins and processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import field
from typing import Final

from bpfpin.cli.graph.label import plural, sharers
from bpfpin.cli.output import escape
from bpfpin.host.graph import Edge, EdgeKind, Graph, Node, NodeKind
from bpfpin.records import dataclass

SHARED: Final = "●"
PART: Final = " · "  # separates the parts of a line


@dataclass(frozen=True)
class Branch:
    """A line of the tree and the branches below it; *style* is a style of rich."""

    text: str
    style: str = ""
    branches: list[Branch] = field(default_factory=list)


def branches(graph: Graph) -> list[Branch]:
    """Return the trees of *graph*: devices and cgroups, then the programs and maps without one."""
    return _Forest(graph).branches()


def lines(trees: Iterable[Branch]) -> Iterator[tuple[str, Branch]]:
    """Yield each line of the trees: its guides and its branch."""
    for tree in trees:
        yield "", tree
        yield from _below(tree, "")


def _below(branch: Branch, indent: str) -> Iterator[tuple[str, Branch]]:
    for number, child in enumerate(branch.branches, 1):
        is_last = number == len(branch.branches)
        yield f"{indent}{'└── ' if is_last else '├── '}", child
        yield from _below(child, indent + ("    " if is_last else "│   "))


def fitted(guides: str, branch: Branch, width: int | None) -> Iterator[tuple[str, str]]:
    """Yield a line of the tree, broken between its parts if it is longer than *width*.

    Each line is yielded as its guides and its text. A part is never broken.
    """
    if not width or len(guides) + len(branch.text) <= width:
        yield guides, branch.text
        return
    # The guides of the line go on beside its second part.
    more = guides.replace("├── ", "│   ").replace("└── ", "    ")
    more += "│   " if branch.branches else "    "
    text, *parts = branch.text.split(PART)
    for part in parts:
        if len(guides) + len(text) + len(PART) + len(part) > width:
            yield guides, text
            guides, text = more, f"{PART.lstrip()}{part}"
        else:
            text += f"{PART}{part}"
    yield guides, text


class _Forest:
    """Builds the trees; a map has its branches only where it occurs first."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._drawn: set[str] = set()

    def branches(self) -> list[Branch]:
        graph = self._graph
        trees = [self._place(node) for node in graph.of_kind(NodeKind.DEVICE, NodeKind.CGROUP)]
        # In this order: each step draws nodes, and the next one takes those that are not drawn yet.
        programs = [node for node in graph.of_kind(NodeKind.PROGRAM) if node.id not in self._drawn]
        elsewhere = [self._program(node) for node in programs if node.hooks]
        idle = [
            self._program(node)
            for node in programs
            # Asked again: a program before it in this list may have drawn it as its extension.
            if not node.hooks and node.id not in self._drawn
        ]
        maps = [node for node in graph.of_kind(NodeKind.MAP) if node.id not in self._drawn]
        unused = [self._map(node) for node in maps if node.id not in self._drawn]
        for title, below in (
            ("elsewhere", elsewhere),
            ("programs that are attached nowhere", idle),
            ("maps that no program uses", unused),
        ):
            trees += [Branch(title, "italic", below)] if below else []
        return trees

    def _place(self, node: Node) -> Branch:
        tree = Branch(_words(node.name, "" if node.netns else node.type), "bold blue")
        for edge in self._graph.leaving.get(node.id, ()):
            tree.branches.append(self._program(self._graph.by_id[edge.target], edge))
        return tree

    def _program(self, node: Node, edge: Edge | None = None) -> Branch:
        where = [edge.hook, edge.mode] if edge else [*node.hooks] or [node.type]
        link = f"link {edge.link}" if edge and edge.link else ""
        name = node.name or "program"
        text = _words(name, f"id {node.number}", *filter(None, where), link, *node.notes)
        tree = Branch(text, "magenta")
        # A program at several hooks has its maps below the first.
        if node.id in self._drawn:
            return tree
        self._drawn.add(node.id)
        tree.branches.extend([self._keeper(keeper, edge) for keeper, edge in self._keepers(node)])
        for kind, draw in ((EdgeKind.EXTENDS, self._program), (EdgeKind.USES, self._map)):
            tree.branches.extend([draw(other) for other in self._graph.targets(node.id, kind)])
        return tree

    def _map(self, node: Node) -> Branch:
        entries = plural(node.layout[2], "entry", "entries") if node.layout else ""
        users = sharers(self._graph, node)
        is_shared = users > 1
        shared = f"{SHARED} shared by {users} programs" if is_shared else ""
        seen = "see above" if node.id in self._drawn else ""
        text = _words(node.name or "map", f"id {node.number}", node.type, entries, shared, seen)
        tree = Branch(text, "bold yellow" if is_shared else "green")
        if seen:
            return tree
        self._drawn.add(node.id)
        for inner in self._graph.targets(node.id, EdgeKind.CONTAINS):
            draw = self._program if inner.kind is NodeKind.PROGRAM else self._map
            tree.branches.append(draw(inner))
        tree.branches.extend([self._keeper(keeper, edge) for keeper, edge in self._keepers(node)])
        return tree

    def _keepers(self, node: Node) -> list[tuple[Node, Edge]]:
        """Return the pins of a map or program, then its processes."""
        edges = self._graph.leaving.get(node.id, ())
        kinds = (EdgeKind.PINNED, EdgeKind.HELD)
        return [(self._graph.by_id[e.target], e) for kind in kinds for e in edges if e.kind is kind]

    def _keeper(self, node: Node, edge: Edge) -> Branch:
        if node.kind is NodeKind.PIN:
            part = f"pin of the {edge.what}" if edge.what == "link" else "pin"
            return Branch(
                _words(f"{part} {node.name}", f"set {node.set}" if node.set else ""), "dim"
            )
        part = f"has the {edge.what}" if edge.what else ""
        return Branch(_words(f"process {node.number}", node.name, part, *node.notes), "cyan")


def _words(first: str, *others: str) -> str:
    return escape(" · ".join(filter(None, (first, *others))))
