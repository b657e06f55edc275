"""Where the boxes and lines of a graph's picture are: four columns, from places to pins."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from bpfpin.cli.graph.label import Label, label, width
from bpfpin.host.graph import Edge, EdgeKind, Graph, Node, NodeKind

SWEEPS: Final = 16
Columns = list[list[str]]
Neighbours = Mapping[str, Sequence[str]]  # of each item, those in the columns beside it
TITLE_WIDTH: Final = 7.95  # of a character at 13 px, and at 11 px: the widest of the fonts named
DETAIL_WIDTH: Final = 6.7
BOX_HEIGHT: Final = 42.0
BOX_GAP: Final = 12.0
GROUP_GAP: Final = 30.0
COLUMN_GAP: Final = 92.0
ICON_ROOM: Final = 36.0
MARGIN: Final = 12.0
BOX_WIDTH_MIN, BOX_WIDTH_MAX = 130.0, 310.0
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


# Order and height of boxes in columns, so that few lines cross and most run straight.
#
# Columns are sorted by the mean place of their neighbours (the barycentre method of Sugiyama), and
# heights then follow the neighbours as far as the order and the gaps between boxes let them: the
# least squares under an order, found by pooling those that would overlap.


@dataclass
class _Pool:
    """Items that touch each other; *sum* and *count* give the mean of where their tops would be."""

    sum: float
    count: int

    @property
    def mean(self) -> float:
        return self.sum / self.count


def ordered(columns: Columns, neighbours: Neighbours) -> Columns:
    """Return the columns in the order, of those tried, in which the fewest lines cross."""
    best, fewest = columns, crossings(columns, neighbours)
    current = columns
    for sweep in range(SWEEPS):
        current = _swept(current, neighbours, is_backward=bool(sweep % 2))
        found = crossings(current, neighbours)
        if found < fewest:
            best, fewest = current, found
    return best


def crossings(columns: Columns, neighbours: Neighbours) -> int:
    """Return how many pairs of lines between columns side by side cross."""
    return sum(_crossings(left, right, neighbours) for left, right in pairwise(columns))


def _crossings(left: Sequence[str], right: Sequence[str], neighbours: Neighbours) -> int:
    place = {item: index for index, item in enumerate(right)}
    ends = [
        end
        for item in left
        for end in sorted(place[other] for other in neighbours[item] if other in place)
    ]
    count, before = 0, list[int]()
    for end in ends:
        count += len(before) - bisect_right(before, end)
        insort(before, end)
    return count


def _swept(columns: Columns, neighbours: Neighbours, *, is_backward: bool) -> Columns:
    """Sort each column by the places in the one before it, from one side to the other."""
    swept = columns[::-1] if is_backward else columns[:]
    for index in range(1, len(swept)):
        place = _places(swept[index - 1])
        own = _places(swept[index])

        def mean(
            item: str, place: Mapping[str, float] = place, own: Mapping[str, float] = own
        ) -> float:
            found = [place[other] for other in neighbours[item] if other in place]
            return sum(found) / len(found) if found else own[item]

        swept[index] = sorted(swept[index], key=mean)
    return swept[::-1] if is_backward else swept


def _places(column: Sequence[str]) -> dict[str, float]:
    """Return the places of a column's items between 0 and 1, so that columns compare."""
    return {item: (index + 0.5) / len(column) for index, item in enumerate(column)}


def heights(
    columns: Columns, neighbours: Neighbours, sizes: Mapping[str, float], *, gap: float
) -> dict[str, float]:
    """Return the middle of each item, from 0 down; items of a column keep *gap* apart."""
    middles: dict[str, float] = {}
    for column in columns:
        wanted = dict.fromkeys(column, 0.0)
        middles |= placed(column, wanted, sizes, gap=gap)
    for sweep in range(SWEEPS):
        for column in columns if sweep % 2 else columns[::-1]:
            wanted = {item: _mean(item, neighbours, middles) for item in column}
            middles |= placed(column, wanted, sizes, gap=gap)
    top = min((middle - sizes[item] / 2 for item, middle in middles.items()), default=0.0)
    return {item: middle - top for item, middle in middles.items()}


def _mean(item: str, neighbours: Neighbours, middles: Mapping[str, float]) -> float:
    found = [middles[other] for other in neighbours[item]]
    return sum(found) / len(found) if found else middles[item]


def placed(
    column: Sequence[str],
    wanted: Mapping[str, float],
    sizes: Mapping[str, float],
    *,
    gap: float,
) -> dict[str, float]:
    """Return the middles nearest to those *wanted* that keep the order and the gaps."""
    offsets, offset = list[float](), 0.0
    for item in column:
        offsets.append(offset + sizes[item] / 2)
        offset += sizes[item] + gap
    pools: list[_Pool] = []
    for item, offset in zip(column, offsets, strict=True):
        pools.append(_Pool(wanted[item] - offset, 1))
        while len(pools) > 1 and pools[-2].mean > pools[-1].mean:
            last = pools.pop()
            pools[-1] = _Pool(pools[-1].sum + last.sum, pools[-1].count + last.count)
    shifts = [pool.mean for pool in pools for _ in range(pool.count)]
    return {
        item: offset + shift for item, offset, shift in zip(column, offsets, shifts, strict=True)
    }


@dataclass(frozen=True, slots=True)
class Box:
    """A node's rectangle, in pixels from the upper left."""

    node: Node
    label: Label
    x: float
    y: float
    width: float
    height: float = BOX_HEIGHT

    def edge_x(self, side: int) -> float:
        """Return where the left (-1) or the right (1) side is."""
        return self.x + self.width if side > 0 else self.x

    @property
    def columns(self) -> tuple[int, int]:
        """How many characters of the title and of the line below it fit."""
        room = self.width - ICON_ROOM - MARGIN
        return int(room / TITLE_WIDTH), int(room / DETAIL_WIDTH)


@dataclass(frozen=True, slots=True)
class Wire:
    """A line: *points* are joined by curves that leave and reach each of them level.

    *side* is 0, or for two boxes of one column the direction in which the line bulges.
    """

    edge: Edge
    points: tuple[tuple[float, float], ...]
    side: int = 0


@dataclass(frozen=True, slots=True)
class Picture:
    """All boxes and lines, the x of each column that has a box, and the size of all of it."""

    boxes: tuple[Box, ...]
    wires: tuple[Wire, ...]
    columns: Mapping[int, float]
    width: float
    height: float


def picture(graph: Graph) -> Picture:
    """Lay the graph out: what hangs together is one group, the groups one below the other."""
    edges = _drawn(graph)
    ids = {end for edge in edges for end in (edge.source, edge.target)}
    hidden = {e.target for e in graph.edges} - ids
    nodes = {node.id: node for node in graph.nodes if node.id in ids or node.id not in hidden}
    labels = {node_id: label(graph, node) for node_id, node in nodes.items()}
    xs, widths, total = _columns(nodes, labels)
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

    The pins of programs are told on the program, and so are those who hold it, if they hold a map
    of it, too.
    """
    found: dict[tuple[str, str, EdgeKind], Edge] = {}
    for edge in graph.edges:
        if not edge.what or (edge.kind is EdgeKind.HELD and not _is_near(graph, edge)):
            found.setdefault((edge.source, edge.target, edge.kind), edge)
    return list(found.values())


def _is_near(graph: Graph, edge: Edge) -> bool:
    maps = {held.id for held in graph.targets(edge.source, EdgeKind.USES)}
    return any(e.source in maps for e in graph.reaching[edge.target] if not e.what)


def _columns(
    nodes: Mapping[str, Node], labels: Mapping[str, Label]
) -> tuple[dict[int, float], dict[int, float], float]:
    """Return x and width of each column that has a node, and the width of all of them."""
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
    """Return a name for the way of a line past the column of maps, "" if it does not pass it."""
    ends = COLUMN_OF[nodes[edge.source].kind], COLUMN_OF[nodes[edge.target].kind]
    return f"lane {edge.source} {edge.target}" if ends == (1, 3) else ""


def _stacked(
    nodes: Mapping[str, Node], edges: Iterable[Edge], lanes: Mapping[Edge, str]
) -> tuple[dict[str, float], float]:
    """Return the middle of every node and lane, and where the last one ends."""
    links: dict[str, list[str]] = {item: [] for item in (*nodes, *lanes.values())}
    for edge in edges:
        chain = (edge.source, lanes[edge], edge.target) if edge in lanes else edge.ends
        for one, other in pairwise(chain):
            links[one].append(other)
            links[other].append(one)
    columns_of = {item: _column(nodes, item) for item in links}
    beside = {
        item: [other for other in others if columns_of[other] != columns_of[item]]
        for item, others in links.items()
    }
    middles, bottom = dict[str, float](), 0.0
    for group in _groups(links):
        columns = [[item for item in group if columns_of[item] == c] for c in range(4)]
        columns = ordered([column for column in columns if column], beside)
        sizes = {item: BOX_HEIGHT if item in nodes else LANE_HEIGHT for item in group}
        found = heights(columns, beside, sizes, gap=BOX_GAP)
        middles |= {item: bottom + middle for item, middle in found.items()}
        bottom += max(middle + sizes[item] / 2 for item, middle in found.items()) + GROUP_GAP
    return middles, max(bottom - GROUP_GAP, 0.0)


def _column(nodes: Mapping[str, Node], item: str) -> int:
    return COLUMN_OF[nodes[item].kind] if item in nodes else 2


def _groups(links: Mapping[str, list[str]]) -> list[list[str]]:
    """Return what hangs together, each group from its first item on; last all that stands alone."""
    seen: set[str] = set()
    groups: list[list[str]] = []
    for start in links:
        if start in seen:
            continue
        seen.add(start)
        group = [start]
        for item in group:
            new = [other for other in dict.fromkeys(links[item]) if other not in seen]
            seen.update(new)
            group += new
        groups.append(group)
    alone = [group[0] for group in groups if len(group) == 1]
    return [group for group in groups if len(group) > 1] + ([alone] if alone else [])


def _wires(
    edges: Iterable[Edge],
    boxes: Mapping[str, Box],
    past: Mapping[Edge, tuple[tuple[float, float], tuple[float, float]]],
) -> list[Wire]:
    """Return the lines; those at one side of a box are spread over it in the order they come in.

    *past* are the two points where a line passes a column.
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
    """Return the sides that a line leaves and reaches, -1 the left and 1 the right one.

    Between boxes of one column both are the same: programs have theirs left, maps right.
    """
    if source.x == target.x:
        side = -1 if source.node.kind is NodeKind.PROGRAM else 1
        return side, side
    return (1, -1) if source.x < target.x else (-1, 1)


def _ports(
    ends: Mapping[Edge, tuple[int, int]], boxes: Mapping[str, Box]
) -> dict[tuple[Edge, int, str], float]:
    """Return the height of both ends of each edge, by edge, side and node."""
    at: dict[tuple[str, int], list[tuple[float, int, Edge]]] = defaultdict(list)
    for number, (edge, (out, into)) in enumerate(ends.items()):
        at[edge.source, out].append((boxes[edge.target].y, number, edge))
        at[edge.target, into].append((boxes[edge.source].y, number, edge))
    ports: dict[tuple[Edge, int, str], float] = {}
    for (node_id, side), there in at.items():
        box = boxes[node_id]
        step = min(PORT_STEP, (box.height - 12) / len(there))
        first = box.y + box.height / 2 - step * (len(there) - 1) / 2
        for index, (_, _, edge) in enumerate(sorted(there, key=lambda one: one[:2])):
            ports[edge, side, node_id] = first + index * step
    return ports
