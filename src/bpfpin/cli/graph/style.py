"""How the picture of a graph looks: colours for light and dark, and the icons.

Plain CSS without variables, which not every viewer of SVG knows. The picture brings its own ground,
so that it can be read on a page of either kind even where its dark half is not taken.
"""

from __future__ import annotations

from typing import Final

from bpfpin.apps.graph.model import NodeKind

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

# Of the kinds of node, and of maps that are shared: light, dark.
KIND_COLORS: Final = {
    NodeKind.DEVICE: ("#0969da", "#58a6ff"),
    NodeKind.CGROUP: ("#0969da", "#58a6ff"),
    NodeKind.PROGRAM: ("#6f42c1", "#b392f0"),
    NodeKind.MAP: ("#57606a", "#9da7b3"),
    NodeKind.PIN: ("#57606a", "#9da7b3"),
    NodeKind.PROCESS: ("#57606a", "#9da7b3"),
}
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


def style() -> str:
    """Return the style sheet: shapes, light colours, and dark ones where they are wanted."""
    light, dark = (_colors(index) for index in (0, 1))
    return f"{_SHAPES}{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n"


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
    return "#" + "".join(f"{round(one * part + other * (1 - part)):02x}" for one, other in pairs)
