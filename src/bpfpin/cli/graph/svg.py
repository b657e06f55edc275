"""The graph as an SVG picture for documents, with light and dark colours and without scripts.

The style is plain CSS without variables, which not every viewer of SVG supports. The picture has a
background of its own, so that it is readable on any page even if the viewer ignores the dark style.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Final

from bpfpin.cli.graph.label import cut, plural, sharers
from bpfpin.cli.graph.layout import ICON_ROOM, Box, Picture, Wire, picture
from bpfpin.cli.output import escape as clean
from bpfpin.host.graph import EdgeKind, Graph, Node, NodeKind

# Generic names first, then fonts of the usual systems: a picture in a document cannot bring one.
FONT: Final = (
    "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono',"
    " monospace"
)
HEADING_FONT: Final = (
    "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', Arial,"
    " sans-serif"
)
# Strokes in a square of 16.
ICONS: Final = {
    NodeKind.DEVICE: "M2 4.5h12v8H2zM5 12.5v-3h6v3M6.5 7v0M9.5 7v0",
    NodeKind.CGROUP: "M2.5 2.5h8v8h-8zM5.5 10.5v3h8v-8h-3",
    NodeKind.PROGRAM: "M5.5 4.5 2 8l3.5 3.5M10.5 4.5 14 8l-3.5 3.5M9 3 7 13",
    NodeKind.MAP: "M2.5 3h11v10h-11zM2.5 6.3h11M2.5 9.7h11M6.4 3v10",
    NodeKind.PIN: "M5.4 2.5h5.2M6.2 2.5v4.2L4.5 9.3h7L9.8 6.7V2.5M8 9.3v4.4",
    NodeKind.PROCESS: "M2 3h12v10H2zM4.6 6.2l2 1.8-2 1.8M8.2 10.2h3",
}
# Colours of the kinds of nodes, and of shared maps: light, dark.
KIND_COLORS: Final = {
    NodeKind.DEVICE: ("#0969da", "#58a6ff"),
    NodeKind.CGROUP: ("#0969da", "#58a6ff"),
    NodeKind.PROGRAM: ("#6f42c1", "#b392f0"),
    NodeKind.MAP: ("#57606a", "#9da7b3"),
    NodeKind.PIN: ("#57606a", "#9da7b3"),
    NodeKind.PROCESS: ("#57606a", "#9da7b3"),
}
# With more than six shared maps the colours repeat.
SHARED_COLORS: Final = (
    ("#bc4c00", "#f0883e"),
    ("#1a7f37", "#3fb950"),
    ("#bf3989", "#f778ba"),
    ("#1b7c83", "#39c5cf"),
    ("#9a6700", "#d9a520"),
    ("#cf222e", "#ff7b72"),
)
# Name: light, dark.
_GROUND = ("#ffffff", "#0d1117")
_BORDER = ("#d0d7de", "#30363d")
_BOX = ("#f6f8fa", "#161b22")
_TEXT = ("#1f2328", "#e6edf3")
_MUTED = ("#59636e", "#9198a1")
_LINE = ("#afb8c1", "#484f58")
_BADGE_TEXT = ("#ffffff", "#0d1117")
PADDING: Final = 24.0
HEADER: Final = 98.0  # from the upper edge to the first box
BADGE_HEIGHT: Final = 16.0
BADGE_LETTER: Final = 6.0
BULGE: Final = 34.0
WIDTH_MIN: Final = 460.0
HEADINGS: Final = ("DEVICES AND CGROUPS", "PROGRAMS", "MAPS", "PINS AND PROCESSES")


def style() -> str:
    """Return the style sheet: shapes, light colours, and dark ones for viewers that prefer them."""
    light, dark = (_colors(index) for index in (0, 1))
    return f"{_SHAPES}{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n"


# Doubled braces are those of CSS.
_SHAPES: Final = f"""\
text {{ font-family: {FONT}; }}
.heading, .title, .summary, .badge text {{ font-family: {HEADING_FONT}; }}
.title {{ font-size: 17px; font-weight: 600; }}
.summary {{ font-size: 12px; }}
.heading {{ font-size: 11px; font-weight: 600; letter-spacing: 0.6px; }}
.name {{ font-size: 13px; font-weight: 600; }}
.detail {{ font-size: 11px; }}
.badge text {{ font-size: 10px; font-weight: 600; text-anchor: middle; }}
.wire {{ fill: none; stroke-width: 1.4; }}
.wire.shared {{ stroke-width: 2; }}
.wire.inner {{ stroke-dasharray: 4 3; }}
.wire.held {{ stroke-dasharray: 1.5 3.5; stroke-linecap: round; }}
.icon {{ fill: none; stroke-width: 1.3; stroke-linecap: round; stroke-linejoin: round; }}
.shared > .frame {{ stroke-width: 2; }}
"""


def _colors(index: int) -> str:
    rules = [
        f".ground {{ fill: {_GROUND[index]}; stroke: {_BORDER[index]}; }}",
        f".frame {{ fill: {_BOX[index]}; stroke: {_BORDER[index]}; }}",
        f".title, .name {{ fill: {_TEXT[index]}; }}",
        f".summary, .heading, .detail {{ fill: {_MUTED[index]}; }}",
        f".wire {{ stroke: {_LINE[index]}; }}",
        f".wire.held {{ stroke: {_MUTED[index]}; }}",
        f".badge text {{ fill: {_BADGE_TEXT[index]}; }}",
    ]
    for kind, colors in KIND_COLORS.items():
        rules.append(f".{kind.value} .icon {{ stroke: {colors[index]}; }}")
    for number, colors in enumerate(SHARED_COLORS):
        color, ground = colors[index], _mixed(colors[index], _GROUND[index])
        rules += [
            f".shared.hue{number} > .frame {{ stroke: {color}; fill: {ground}; }}",
            f".shared.hue{number} .icon, .wire.hue{number} {{ stroke: {color}; }}",
            f".hue{number} .badge rect {{ fill: {color}; }}",
        ]
    return "\n".join(rules) + "\n"


def _mixed(color: str, ground: str, part: float = 0.1) -> str:
    """Return *ground* with a tenth of *color*."""
    pairs = [(int(color[i : i + 2], 16), int(ground[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(front * part + back * (1 - part)):02x}" for front, back in pairs)


def svg(graph: Graph) -> str:
    """Return the picture of *graph*; long names are cut and shown in full on hover."""
    return "\n".join(_document(graph, picture(graph))) + "\n"


def _document(graph: Graph, drawn: Picture) -> Iterator[str]:
    width = max(drawn.width + 2 * PADDING, WIDTH_MIN)
    height = drawn.height + HEADER + PADDING
    hues = shared_hues(graph, drawn)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
        f' viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-labelledby="what">'
    )
    summary = escape(summary_of(graph, [box.node for box in drawn.boxes]))
    yield f'<title id="what">Who shares what: {summary}</title>'
    yield f"<style>\n{style()}</style>"
    # Half a pixel inside, so that the line of one pixel is sharp.
    size = f'width="{width - 1:.0f}" height="{height - 1:.0f}"'
    yield f'<rect class="ground" x="0.5" y="0.5" {size} rx="10"/>'
    yield f'<text class="title" x="{PADDING:.0f}" y="36">Who shares what</text>'
    yield f'<text class="summary" x="{PADDING:.0f}" y="55">{summary}</text>'
    yield f'<g transform="translate({PADDING:.0f} {HEADER:.0f})">'
    for column, x in drawn.columns.items():
        yield f'<text class="heading" x="{x:.1f}" y="-11">{HEADINGS[column]}</text>'
    # Lines are drawn before boxes, so that boxes cover them; lines of shared maps come last.
    for wire in sorted(drawn.wires, key=lambda wire: _hue(wire, hues) is not None):
        yield _wire(graph, wire, hues)
    for box in drawn.boxes:
        yield from _box(graph, box, hues)
    yield "</g>\n</svg>"


def summary_of(graph: Graph, nodes: Sequence[Node]) -> str:
    """Return the numbers of *nodes* by kind: `2 devices · 3 programs · 2 maps, 1 shared`."""
    shared = sum(graph.is_shared(node.id) for node in nodes if node.kind is NodeKind.MAP)
    parts = []
    for kind in NodeKind:
        if count := sum(node.kind is kind for node in nodes):
            words = "processes" if kind is NodeKind.PROCESS else ""
            also = f", {shared} shared" if kind is NodeKind.MAP and shared else ""
            parts.append(plural(count, kind.value, words) + also)
    return " · ".join(parts) or "nothing is loaded"


def shared_hues(graph: Graph, drawn: Picture) -> dict[str, int]:
    """Return the number of the colour of each shared map; neighbours have different colours."""
    # From top to bottom: neighbours in the picture are neighbours in the list of colours.
    boxes = sorted(drawn.boxes, key=lambda box: box.y)
    shared = [box.node.id for box in boxes if graph.is_shared(box.node.id)]
    return {node_id: number % len(SHARED_COLORS) for number, node_id in enumerate(shared)}


def _hue(wire: Wire, hues: Mapping[str, int]) -> int | None:
    """Return the number of the colour of the shared map at an end of a line."""
    return next((hues[end] for end in wire.edge.ends if end in hues), None)


def _wire(graph: Graph, wire: Wire, hues: Mapping[str, int]) -> str:
    hue = _hue(wire, hues)
    words = ["wire", _WIRE_WORDS.get(wire.edge.kind, "")]
    words += [] if hue is None else ["shared", f"hue{hue}"]
    shown = " ".join(filter(None, words))
    return (
        f'<path class="{shown}" d="{_path(wire)}"><title>{_wire_title(graph, wire)}</title></path>'
    )


_WIRE_WORDS: Final = {
    EdgeKind.CONTAINS: "inner",
    EdgeKind.EXTENDS: "inner",
    EdgeKind.HELD: "held",
}


def _wire_title(graph: Graph, wire: Wire) -> str:
    source, target = (graph.by_id[end].name for end in wire.edge.ends)
    what = " ".join(filter(None, (wire.edge.kind.value, wire.edge.hook, wire.edge.mode)))
    link = f", link id {wire.edge.link}" if wire.edge.link else ""
    return _xml(f"{source} → {target}: {what}{link}")


def _path(wire: Wire) -> str:
    """Return curves through the points, horizontal at each; the second of three is straight."""
    (x, y), *others = wire.points
    parts = [f"M{x:.1f} {y:.1f}"]
    for number, (to_x, to_y) in enumerate(others):
        if wire.side:
            beside = x + wire.side * BULGE
            parts.append(f"C{beside:.1f} {y:.1f} {beside:.1f} {to_y:.1f} {to_x:.1f} {to_y:.1f}")
        elif number % 2:
            parts.append(f"H{to_x:.1f}")
        else:
            half = (x + to_x) / 2
            parts.append(f"C{half:.1f} {y:.1f} {half:.1f} {to_y:.1f} {to_x:.1f} {to_y:.1f}")
        x, y = to_x, to_y
    return "".join(parts)


def _box(graph: Graph, box: Box, hues: Mapping[str, int]) -> Iterator[str]:
    node, (titles, details) = box.node, box.columns
    hue = hues.get(node.id)
    words = node.kind.value if hue is None else f"{node.kind.value} shared hue{hue}"
    yield f'<g class="node {words}" transform="translate({box.x:.1f} {box.y:.1f})">'
    yield f"<title>{_xml(chr(10).join(box.label.more))}</title>"
    yield f'<rect class="frame" width="{box.width:.1f}" height="{box.height:.1f}" rx="7"/>'
    yield f'<path class="icon" transform="translate(11 13)" d="{ICONS[node.kind]}"/>'
    title = cut(box.label.title, titles, keep_end=node.kind in _ENDS_MATTER)
    yield f'<text class="name" x="{ICON_ROOM:.0f}" y="18">{_xml(title)}</text>'
    detail = cut(box.label.detail, details)
    yield f'<text class="detail" x="{ICON_ROOM:.0f}" y="33">{_xml(detail)}</text>'
    if hue is not None:
        yield _badge(box, f"shared by {sharers(graph, node)}")
    yield "</g>"


# Paths begin alike and differ at their ends.
_ENDS_MATTER: Final = (NodeKind.PIN, NodeKind.CGROUP)


def _badge(box: Box, text: str) -> str:
    # A viewer may use another font, so the width is an estimate with some room.
    width = len(text) * BADGE_LETTER + 14
    x, y = box.width - width - 10, -BADGE_HEIGHT / 2
    return (
        f'<g class="badge"><rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}"'
        f' height="{BADGE_HEIGHT:.0f}" rx="{BADGE_HEIGHT / 2:.0f}"/>'
        f'<text x="{x + width / 2:.1f}" y="3.5">{text}</text></g>'
    )


def _xml(text: str) -> str:
    """Return text that is safe in XML; labels have no control characters."""
    return escape("\n".join(map(clean, text.split("\n"))))
