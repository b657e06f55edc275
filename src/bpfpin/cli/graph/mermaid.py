"""The graph as a Mermaid flowchart, which GitHub and GitLab draw in a ```mermaid block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bpfpin.apps.graph.model import EdgeKind, Graph, Node, NodeKind
from bpfpin.cli.graph.dot import edge_word
from bpfpin.cli.graph.label import label, sharers

_SHAPES: Final = {
    NodeKind.DEVICE: ("[/", "/]"),
    NodeKind.CGROUP: ("[/", "/]"),
    NodeKind.PROGRAM: ("[[", "]]"),
    NodeKind.MAP: ("[(", ")]"),
    NodeKind.PIN: ("[", "]"),
    NodeKind.PROCESS: ("([", "])"),
}
_ARROWS: Final = {EdgeKind.HELD: "-.->", EdgeKind.CONTAINS: "-.->", EdgeKind.EXTENDS: "-.->"}
# What Mermaid leaves alone in a quoted text; all else is written as a character number.
_PLAIN: Final = frozenset(" -_./:,@()+=…·→")


def mermaid(graph: Graph) -> str:
    """Return *graph* as a flowchart; nodes are numbered, since their names may be anything."""
    names = {node.id: f"n{number}" for number, node in enumerate(graph.nodes)}
    return "\n".join(_lines(graph, names)) + "\n"


def escaped(text: str) -> str:
    """Return *text* for between quotes: `#35;` for `#`, as Mermaid and HTML both take it."""
    return "".join(char if char.isalnum() or char in _PLAIN else f"#{ord(char)};" for char in text)


def _lines(graph: Graph, names: dict[str, str]) -> Iterator[str]:
    yield "flowchart LR"
    for node in graph.nodes:
        opening, closing = _SHAPES[node.kind]
        yield f'  {names[node.id]}{opening}"{_text(graph, node)}"{closing}'
    for edge in graph.edges:
        arrow = _ARROWS.get(edge.kind, "-->")
        word = escaped(edge_word(edge))
        yield f'  {names[edge.source]} {arrow}|"{word}"| {names[edge.target]}'
    shared = [names[node.id] for node in graph.of_kind(NodeKind.MAP) if graph.is_shared(node.id)]
    if shared:
        yield "  classDef shared stroke:#bc4c00,stroke-width:3px"
        yield f"  class {','.join(shared)} shared"


def _text(graph: Graph, node: Node) -> str:
    written = label(graph, node)
    lines = [written.title, written.detail]
    if node.kind is NodeKind.MAP and graph.is_shared(node.id):
        lines.append(f"shared by {sharers(graph, node)} programs")
    return "<br/>".join(map(escaped, lines))
