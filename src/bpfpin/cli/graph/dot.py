"""The graph for Graphviz (`bpfpin graph -o dot | dot -Tpng -o graph.png`) and for Mermaid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bpfpin.cli.graph.label import label, sharers
from bpfpin.cli.output import escape
from bpfpin.host.graph import Edge, EdgeKind, Graph, Node, NodeKind

# Shapes of Graphviz.
_SHAPES: Final = {
    NodeKind.DEVICE: "house",
    NodeKind.CGROUP: "tab",
    NodeKind.PROGRAM: "component",
    NodeKind.MAP: "cylinder",
    NodeKind.PIN: "note",
    NodeKind.PROCESS: "ellipse",
}
_SHARED: Final = 'style="filled,bold", color="#bc4c00", fillcolor="#fbe9df"'
_MERMAID_SHAPES: Final = {
    NodeKind.DEVICE: ("[/", "/]"),
    NodeKind.CGROUP: ("[/", "/]"),
    NodeKind.PROGRAM: ("[[", "]]"),
    NodeKind.MAP: ("[(", ")]"),
    NodeKind.PIN: ("[", "]"),
    NodeKind.PROCESS: ("([", "])"),
}
_ARROWS: Final = {EdgeKind.HELD: "-.->", EdgeKind.CONTAINS: "-.->", EdgeKind.EXTENDS: "-.->"}
# Characters that Mermaid shows unchanged in quoted text; others are written as numbers.
_PLAIN: Final = frozenset(" -_./:,@()+=…·→")


def dot(graph: Graph) -> str:
    """Return *graph* in the DOT language; nodes have numbers, since names may contain anything."""
    names = {node.id: f"n{number}" for number, node in enumerate(graph.nodes)}
    return "\n".join(_lines(graph, names)) + "\n"


def quoted(text: str) -> str:
    """Return a quoted string of DOT; line ends of *text* are kept."""
    # The backslash first: afterwards it would double those that are new.
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _lines(graph: Graph, names: dict[str, str]) -> Iterator[str]:
    yield "digraph bpf {"
    yield "  rankdir=LR;"
    yield '  node [fontname="monospace", fontsize=11];'
    yield '  edge [fontname="monospace", fontsize=9, color="#8c959f"];'
    for node in graph.nodes:
        yield f"  {names[node.id]} [{_attributes(graph, node)}];"
    for edge in graph.edges:
        yield f"  {names[edge.source]} -> {names[edge.target]} [label={quoted(edge_word(edge))}];"
    yield "}"


def _attributes(graph: Graph, node: Node) -> str:
    written = label(graph, node)
    lines = [written.title, written.detail]
    is_shared = node.kind is NodeKind.MAP and graph.is_shared(node.id)
    if is_shared:
        lines.append(f"shared by {sharers(graph, node)} programs")
    more = f", {_SHARED}" if is_shared else ""
    return f"shape={_SHAPES[node.kind]}, label={quoted(chr(10).join(lines))}{more}"


def edge_word(edge: Edge) -> str:
    """Return the label of an edge: the hook of an attachment, else the kind of edge."""
    return escape(edge.hook) or " ".join(filter(None, (edge.what, edge.kind.value)))


def mermaid(graph: Graph) -> str:
    """Return *graph* as a flowchart, which GitHub and GitLab draw in a ```mermaid block.

    Nodes have numbers, since names may contain anything.
    """
    names = {node.id: f"n{number}" for number, node in enumerate(graph.nodes)}
    return "\n".join(_mermaid_lines(graph, names)) + "\n"


def escaped(text: str) -> str:
    """Escape *text* for a quoted string: `#35;` for `#`, which Mermaid and HTML both read."""
    return "".join(char if char.isalnum() or char in _PLAIN else f"#{ord(char)};" for char in text)


def _mermaid_lines(graph: Graph, names: dict[str, str]) -> Iterator[str]:
    yield "flowchart LR"
    for node in graph.nodes:
        opening, closing = _MERMAID_SHAPES[node.kind]
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
