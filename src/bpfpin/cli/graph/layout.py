"""The layout of a graph's picture: boxes in four columns, from devices to pins, and their lines.

The boxes of a column are sorted by the mean position of their neighbours, so that few lines cross
(the barycentre method of Sugiyama, Tagawa and Toda, 1981). Their heights then minimise the squares
of the distances to the neighbours; boxes that would overlap are pooled, as in isotonic regression.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

from bpfpin.cli.graph.label import Label, label, width
from bpfpin.host.graph import Edge, EdgeKind, Graph, Node, NodeKind
from bpfpin.records import dataclass

# A limit, since the order may swing between two states for ever; the best one is kept.
SWEEPS: Final = 16
Columns = list[list[str]]
Neighbours = Mapping[str, Sequence[str]]  # of each item, the connected items of other columns
# Width of a character of the widest of the fonts in the style sheet, at 13 px and at 11 px.
TITLE_WIDTH: Final = 7.95
DETAIL_WIDTH: Final = 6.7
# In pixels, from here on: two lines of text with room around them.
BOX_HEIGHT: Final = 42.0
BOX_GAP: Final = 12.0
GROUP_GAP: Final = 30.0
COLUMN_GAP: Final = 92.0
ICON_ROOM: Final = 36.0
MARGIN: Final = 12.0
BOX_WIDTH_MIN, BOX_WIDTH_MAX = 130.0, 310.0
# A lane is a box without text: it keeps a way free through a column for a line that passes it.
LANE_HEIGHT: Final = 6.0
PORT_STEP: Final = 5.0
COLUMN_OF: Final = {
    NodeKind.DEVICE: 0,
    NodeKind.CGROUP: 0,
    NodeKind.PROGRAM: 1,
    NodeKind.MAP: 2,
    NodeKind.PIN: 3,
    NodeKind.PROCESS: 3,
}


@dataclass
class _Pool:
    """Items of a column that touch; *sum* is that of the shifts that the items would have alone."""

    sum: float
    count: int

    @property
    def mean(self) -> float:
        return self.sum / self.count


def ordered(columns: Columns, neighbours: Neighbours) -> Columns:
    """Return the columns in the order with the fewest crossings among those tried."""
    # The best order is kept: a sweep may also make it worse.
    best, fewest = columns, crossings(columns, neighbours)
    current = columns
    for sweep in range(SWEEPS):
        # To and fro: a column is sorted by its left neighbours, then by its right ones.
        current = _swept(current, neighbours, is_backward=bool(sweep % 2))
        count = crossings(current, neighbours)
        if count < fewest:
            best, fewest = current, count
    return best


def crossings(columns: Columns, neighbours: Neighbours) -> int:
    """Return the number of crossings of lines between adjacent columns."""
    return sum(_crossings(left, right, neighbours) for left, right in pairwise(columns))


def _crossings(left: Sequence[str], right: Sequence[str], neighbours: Neighbours) -> int:
    place = {item: index for index, item in enumerate(right)}
    # Two lines cross if their left ends are in the other order than their right ends. So, with the
    # lines in the order of their left ends, the crossings are the inversions of their right ends.
    ends = [
        end
        for item in left
        for end in sorted(place[other] for other in neighbours[item] if other in place)
    ]
    count, before = 0, list[int]()
    for end in ends:
        # Those before that end below this one; the list stays sorted, so a search by halves counts.
        count += len(before) - bisect_right(before, end)
        insort(before, end)
    return count


def _swept(columns: Columns, neighbours: Neighbours, *, is_backward: bool) -> Columns:
    """Sort each column by the positions of its neighbours in the column before it."""
    swept = columns[::-1] if is_backward else columns[:]
    for index in range(1, len(swept)):
        place = _places(swept[index - 1])
        own = _places(swept[index])

        def mean(
            item: str, place: Mapping[str, float] = place, own: Mapping[str, float] = own
        ) -> float:
            positions = [place[other] for other in neighbours[item] if other in place]
            # An item without neighbours there keeps its place in the column.
            return sum(positions) / len(positions) if positions else own[item]

        swept[index] = sorted(swept[index], key=mean)
    return swept[::-1] if is_backward else swept


def _places(column: Sequence[str]) -> dict[str, float]:
    """Return the positions of the items of a column, between 0 and 1."""
    # As fractions: columns of different lengths are comparable.
    return {item: (index + 0.5) / len(column) for index, item in enumerate(column)}


def heights(
    columns: Columns, neighbours: Neighbours, sizes: Mapping[str, float], *, gap: float
) -> dict[str, float]:
    """Return the y of the middle of each item, at least *gap* apart in a column; the top is 0."""
    middles: dict[str, float] = {}
    for column in columns:
        # To begin with, all boxes are as high up as they fit.
        wanted = dict.fromkeys(column, 0.0)
        middles |= placed(column, wanted, sizes, gap=gap)
    for sweep in range(SWEEPS):
        for column in columns if sweep % 2 else columns[::-1]:
            wanted = {item: _mean(item, neighbours, middles) for item in column}
            middles |= placed(column, wanted, sizes, gap=gap)
    # Places may have become negative; only the distances count.
    top = min((middle - sizes[item] / 2 for item, middle in middles.items()), default=0.0)
    return {item: middle - top for item, middle in middles.items()}


def _mean(item: str, neighbours: Neighbours, middles: Mapping[str, float]) -> float:
    others = [middles[other] for other in neighbours[item]]
    return sum(others) / len(others) if others else middles[item]


def placed(
    column: Sequence[str],
    wanted: Mapping[str, float],
    sizes: Mapping[str, float],
    *,
    gap: float,
) -> dict[str, float]:
    """Return the middles closest to *wanted* that keep the order and the gaps."""
    # The least distances of the items to the first one. Without them a shift is left for each item,
    # and the shifts may not decrease: this is isotonic regression.
    offsets, offset = list[float](), 0.0
    for item in column:
        offsets.append(offset + sizes[item] / 2)
        offset += sizes[item] + gap
    pools: list[_Pool] = []
    for item, offset in zip(column, offsets, strict=True):
        pools.append(_Pool(wanted[item] - offset, 1))
        # Pool adjacent violators: items in the wrong order get the mean of their shifts, which is
        # the least sum of squares for them together.
        while len(pools) > 1 and pools[-2].mean > pools[-1].mean:
            last = pools.pop()
            pools[-1] = _Pool(pools[-1].sum + last.sum, pools[-1].count + last.count)
    shifts = [pool.mean for pool in pools for _ in range(pool.count)]
    return {
        item: offset + shift for item, offset, shift in zip(column, offsets, shifts, strict=True)
    }


@dataclass(frozen=True, slots=True)
class Box:
    """The rectangle of a node, in pixels from the upper left corner."""

    node: Node
    label: Label
    x: float
    y: float
    width: float
    height: float = BOX_HEIGHT

    def edge_x(self, side: int) -> float:
        """Return the x of the left (-1) or the right (1) side."""
        return self.x + self.width if side > 0 else self.x

    @property
    def columns(self) -> tuple[int, int]:
        """The number of characters that fit in the title and in the line below it."""
        room = self.width - ICON_ROOM - MARGIN
        return int(room / TITLE_WIDTH), int(room / DETAIL_WIDTH)


@dataclass(frozen=True, slots=True)
class Wire:
    """A line: curves through *points*, horizontal at each point.

    *side* is 0, or for two boxes of one column the side (-1, 1) to which the line bulges.
    """

    edge: Edge
    points: tuple[tuple[float, float], ...]
    side: int = 0


@dataclass(frozen=True, slots=True)
class Picture:
    """All boxes and lines, the x of each column with a box, and the size of the picture."""

    boxes: tuple[Box, ...]
    wires: tuple[Wire, ...]
    columns: Mapping[int, float]
    width: float
    height: float


def picture(graph: Graph) -> Picture:
    """Return the layout of *graph*, its connected components one below the other."""
    edges = _drawn(graph)
    ids = {end for edge in edges for end in (edge.source, edge.target)}
    # A node whose lines are all left out would be a box without a reason; a node that never had a
    # line is shown.
    hidden = {e.target for e in graph.edges} - ids
    nodes = {node.id: node for node in graph.nodes if node.id in ids or node.id not in hidden}
    labels = {node_id: label(graph, node) for node_id, node in nodes.items()}
    xs, widths, total = _columns(nodes, labels)
    # Lines from programs to pins pass the column of maps.
    lanes = {edge: lane for edge in edges if (lane := _lane(nodes, edge))}
    middles, bottom = _stacked(nodes, edges, lanes)
    boxes = {
        key: Box(node, labels[key], xs[c], middles[key] - BOX_HEIGHT / 2, widths[c])
        for key, node in nodes.items()
        for c in (COLUMN_OF[node.kind],)
    }
    past = {
        edge: ((xs[2], middles[lane]), (xs[2] + widths[2], middles[lane]))
        for edge, lane in lanes.items()
    }
    wires = _wires(edges, boxes, past)
    shown = {column: x for column, x in xs.items() if widths[column]}
    return Picture(tuple(boxes.values()), tuple(wires), shown, total, bottom)


def _drawn(graph: Graph) -> list[Edge]:
    """Return the edges that get a line.

    Pins of a program are listed in its box, and so are its processes if they also hold one of its
    maps.
    """
    drawn: dict[tuple[str, str, EdgeKind], Edge] = {}
    for edge in graph.edges:
        if not edge.what or (edge.kind is EdgeKind.HELD and not _is_near(graph, edge)):
            drawn.setdefault((edge.source, edge.target, edge.kind), edge)
    return list(drawn.values())


def _is_near(graph: Graph, edge: Edge) -> bool:
    maps = {map_node.id for map_node in graph.targets(edge.source, EdgeKind.USES)}
    return any(e.source in maps for e in graph.reaching[edge.target] if not e.what)


def _columns(
    nodes: Mapping[str, Node], labels: Mapping[str, Label]
) -> tuple[dict[int, float], dict[int, float], float]:
    """Return x and width of each column, and the width of all columns."""
    widths: dict[int, float] = defaultdict(float)
    for key, node in nodes.items():
        text = max(width(labels[key].title) * TITLE_WIDTH, width(labels[key].detail) * DETAIL_WIDTH)
        wanted = min(max(text + ICON_ROOM + MARGIN + 1, BOX_WIDTH_MIN), BOX_WIDTH_MAX)
        column = COLUMN_OF[node.kind]
        widths[column] = max(widths[column], wanted)
    xs, x = dict[int, float](), 0.0
    for column in range(4):
        xs[column] = x
        x += widths[column] + COLUMN_GAP if widths.get(column) else 0
    return xs, dict(widths) | {c: 0.0 for c in range(4) if c not in widths}, max(x - COLUMN_GAP, 0)


def _lane(nodes: Mapping[str, Node], edge: Edge) -> str:
    """Return a name for the lane of a line past the column of maps; "" if it does not pass it."""
    ends = COLUMN_OF[nodes[edge.source].kind], COLUMN_OF[nodes[edge.target].kind]
    return f"lane {edge.source} {edge.target}" if ends == (1, 3) else ""


def _stacked(
    nodes: Mapping[str, Node], edges: Iterable[Edge], lanes: Mapping[Edge, str]
) -> tuple[dict[str, float], float]:
    """Return the middle of every node and lane, and the bottom of the last one."""
    # A line that passes a column is split at its lane: then only neighbouring columns are
    # connected.
    links: dict[str, list[str]] = {item: [] for item in (*nodes, *lanes.values())}
    for edge in edges:
        chain = (edge.source, lanes[edge], edge.target) if edge in lanes else edge.ends
        for first, second in pairwise(chain):
            links[first].append(second)
            links[second].append(first)
    columns_of = {item: _column(nodes, item) for item in links}
    # Connections within a column do not count for its order.
    beside = {
        item: [other for other in others if columns_of[other] != columns_of[item]]
        for item, others in links.items()
    }
    middles, bottom = dict[str, float](), 0.0
    # Each component has a place of its own, so no line crosses one of another component.
    for group in _groups(links):
        columns = [[item for item in group if columns_of[item] == c] for c in range(4)]
        columns = ordered([column for column in columns if column], beside)
        sizes = {item: BOX_HEIGHT if item in nodes else LANE_HEIGHT for item in group}
        group_middles = heights(columns, beside, sizes, gap=BOX_GAP)
        middles |= {item: bottom + middle for item, middle in group_middles.items()}
        height = max(middle + sizes[item] / 2 for item, middle in group_middles.items())
        bottom += height + GROUP_GAP
    return middles, max(bottom - GROUP_GAP, 0.0)


def _column(nodes: Mapping[str, Node], item: str) -> int:
    return COLUMN_OF[nodes[item].kind] if item in nodes else 2


def _groups(links: Mapping[str, list[str]]) -> list[list[str]]:
    """Return the connected components in the order of their first items; single items come last."""
    seen: set[str] = set()
    groups: list[list[str]] = []
    for start in links:
        if start in seen:
            continue
        seen.add(start)
        group = [start]
        # Breadth first: *group* grows while it is walked.
        for item in group:
            new = [other for other in dict.fromkeys(links[item]) if other not in seen]
            seen.update(new)
            group += new
        groups.append(group)
    # Single boxes share the last rows: each alone would take a row of the whole picture.
    alone = [group[0] for group in groups if len(group) == 1]
    return [group for group in groups if len(group) > 1] + ([alone] if alone else [])


def _wires(
    edges: Iterable[Edge],
    boxes: Mapping[str, Box],
    past: Mapping[Edge, tuple[tuple[float, float], tuple[float, float]]],
) -> list[Wire]:
    """Return the lines; the ends at one side of a box are sorted and spread over the side.

    *past* has the two points at which a line passes a column.
    """
    ends = {edge: _sides(boxes[edge.source], boxes[edge.target]) for edge in edges}
    ports = _ports(ends, boxes)
    return [
        Wire(
            edge,
            (
                (boxes[edge.source].edge_x(out), ports[edge, out, edge.source]),
                *past.get(edge, ()),
                (boxes[edge.target].edge_x(into), ports[edge, into, edge.target]),
            ),
            out if out == into else 0,
        )
        for edge, (out, into) in ends.items()
    ]


def _sides(source: Box, target: Box) -> tuple[int, int]:
    """Return the sides at which a line starts and ends: -1 is left, 1 is right.

    For two boxes of one column they are the same: left for programs, right for maps.
    """
    if source.x == target.x:
        side = -1 if source.node.kind is NodeKind.PROGRAM else 1
        return side, side
    return (1, -1) if source.x < target.x else (-1, 1)


def _ports(
    ends: Mapping[Edge, tuple[int, int]], boxes: Mapping[str, Box]
) -> dict[tuple[Edge, int, str], float]:
    """Return the y of both ends of each edge, by edge, side and node."""
    at: dict[tuple[str, int], list[tuple[float, int, Edge]]] = defaultdict(list)
    for number, (edge, (out, into)) in enumerate(ends.items()):
        # Sorted by where the other end is, lines from one side of a box do not cross; the number
        # keeps the order of two lines between the same boxes.
        at[edge.source, out].append((boxes[edge.target].y, number, edge))
        at[edge.target, into].append((boxes[edge.source].y, number, edge))
    ports: dict[tuple[Edge, int, str], float] = {}
    for (node_id, side), ends_here in at.items():
        box = boxes[node_id]
        # Twelve pixels stay free, for the rounded corners.
        step = min(PORT_STEP, (box.height - 12) / len(ends_here))
        first = box.y + box.height / 2 - step * (len(ends_here) - 1) / 2
        for index, (_, _, edge) in enumerate(sorted(ends_here, key=lambda end: end[:2])):
            ports[edge, side, node_id] = first + index * step
    return ports
