"""Labels of the nodes of a graph's picture, and the width of text."""

from __future__ import annotations

import unicodedata
from typing import Final

from bpfpin.cli.output import escape
from bpfpin.host.graph import EdgeKind, Graph, Node, NodeKind
from bpfpin.records import dataclass

BPFFS: Final = "/sys/fs/bpf/"
ELLIPSIS: Final = "…"
# Wide and Fullwidth (Unicode Standard Annex #11): such a character takes two columns.
_WIDE: Final = ("W", "F")


@dataclass(frozen=True, slots=True)
class Label:
    """The name of a node, a line below it, and details that are shown on hover; all escaped."""

    title: str
    detail: str
    more: tuple[str, ...] = ()


def label(graph: Graph, node: Node) -> Label:
    """Return the label of *node*; names are escaped for a terminal."""
    title, detail, more = _PARTS[node.kind](graph, node)
    return Label(escape(title), escape(detail), tuple(map(escape, (*more, *node.notes))))


def hooks_of(graph: Graph, node: Node) -> list[str]:
    """Return the names of the hooks that a program is attached to, each once."""
    edges = [e for e in graph.reaching.get(node.id, ()) if e.kind is EdgeKind.ATTACHED]
    # Places that are not nodes of the graph, such as tracepoints, are listed at the program.
    words = [edge.hook for edge in edges] + [hook.partition(" of ")[0] for hook in node.hooks]
    return list(dict.fromkeys(words))


def sharers(graph: Graph, node: Node) -> int:
    """Return the number of programs that use a map."""
    return len(graph.sources(node.id, EdgeKind.USES))


def plural(count: int, word: str, words: str = "") -> str:
    """Return `1 map`, `2 maps`, `2 processes`."""
    return f"{count} {word if count == 1 else words or f'{word}s'}"


def width(text: str) -> int:
    """Return the number of columns that *text* takes in a fixed-width font."""
    return sum(2 if unicodedata.east_asian_width(char) in _WIDE else 1 for char in text)


def cut(text: str, columns: int, *, keep_end: bool = False) -> str:
    """Return *text* cut to *columns*, with an ellipsis in place of the rest."""
    if width(text) <= columns:
        return text
    # One column for the ellipsis.
    kept, room = list[str](), columns - 1
    for char in reversed(text) if keep_end else text:
        room -= width(char)
        if room < 0:
            break
        kept.append(char)
    return ELLIPSIS + "".join(reversed(kept)) if keep_end else "".join(kept) + ELLIPSIS


def pin_title(path: str) -> str:
    """Return a pin's path without the usual mount point."""
    return path.removeprefix(BPFFS)


_Parts = tuple[str, str, tuple[str, ...]]


def _place(_graph: Graph, node: Node) -> _Parts:
    kind = f"{node.type} device" if node.type else node.kind.value
    return node.name, kind, (f"{node.kind.value} {node.name}, number {node.number}",)


def _program(graph: Graph, node: Node) -> _Parts:
    hooks = hooks_of(graph, node)
    hosts = [
        host
        for kind in (EdgeKind.EXTENDS, EdgeKind.CONTAINS)
        for host in graph.sources(node.id, kind)
    ]
    # An extension or a program in a map of programs runs without a hook of its own.
    where = ", ".join(hooks) or (f"in {hosts[0].name}" if hosts else "not attached")
    pins = [f"pinned at {pin.name}" for pin in graph.targets(node.id, EdgeKind.PINNED)]
    holders = [
        f"held by process {process.number} ({process.name})"
        for process in graph.targets(node.id, EdgeKind.HELD)
    ]
    kind = (f"{node.type} program id {node.number}".strip(),)
    detail = f"{where} · id {node.number}"
    return node.name or f"program {node.number}", detail, (*kind, *node.hooks, *pins, *holders)


def _map(graph: Graph, node: Node) -> _Parts:
    entries = plural(node.layout[2], "entry", "entries") if node.layout else ""
    parts = [part for part in (node.type, f"id {node.number}", entries) if part]
    users = [
        f"used by {program.name or 'a program'} (id {program.number})"
        for program in graph.sources(node.id, EdgeKind.USES)
    ]
    sizes = f"key {node.layout[0]} B, value {node.layout[1]} B" if node.layout else ""
    more = (f"map id {node.number} {node.name}", *([sizes] if sizes else []), *users)
    return node.name or f"map {node.number}", " · ".join(parts), more


def _pin(_graph: Graph, node: Node) -> _Parts:
    detail = f"pin of set {node.set}" if node.set else "pin"
    return pin_title(node.name), detail, (node.name,)


def _process(_graph: Graph, node: Node) -> _Parts:
    return node.name, f"process {node.number}", (f"process {node.number} ({node.name})",)


_PARTS: Final = {
    NodeKind.DEVICE: _place,
    NodeKind.CGROUP: _place,
    NodeKind.PROGRAM: _program,
    NodeKind.MAP: _map,
    NodeKind.PIN: _pin,
    NodeKind.PROCESS: _process,
}
