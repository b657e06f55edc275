"""The graph in the words of Graphviz: `bpfpin graph -o dot | dot -Tpng -o graph.png`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bpfpin.apps.graph.model import Edge, Graph, Node, NodeKind
from bpfpin.cli.graph.label import label, sharers
from bpfpin.cli.output import escape

_SHAPES: Final = {
    NodeKind.DEVICE: "house",
    NodeKind.CGROUP: "tab",
    NodeKind.PROGRAM: "component",
    NodeKind.MAP: "cylinder",
    NodeKind.PIN: "note",
    NodeKind.PROCESS: "ellipse",
}
_SHARED: Final = 'style="filled,bold", color="#bc4c00", fillcolor="#fbe9df"'


def dot(graph: Graph) -> str:
    """Return *graph* in the DOT language; nodes are numbered, since their names may be anything."""
    names = {node.id: f"n{number}" for number, node in enumerate(graph.nodes)}
    return "\n".join(_lines(graph, names)) + "\n"


def quoted(text: str) -> str:
    """Return a string of DOT; a line end in *text* is one in the picture."""
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
    """Return the word on a line: the hook of what is attached, how others hang together."""
    return escape(edge.hook) or " ".join(filter(None, (edge.what, edge.kind.value)))
