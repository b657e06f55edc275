"""The picture of a graph: valid XML, nothing on top of anything, every text inside its box."""

from __future__ import annotations

import re
from itertools import combinations
from xml.etree import ElementTree as ET

import pytest

from bpfpin.cli.graph.label import width
from bpfpin.cli.graph.svg import svg
from bpfpin.host.graph import Graph, NodeKind
from support.graphs import (
    HOSTILE,
    device,
    graph_of,
    holds,
    large_graph,
    pin,
    pinned,
    process,
    program,
    shared_graph,
)

SVG = "{http://www.w3.org/2000/svg}"
# What a character of a fixed-width font takes of its size at most, in the fonts that are named.
WIDEST = 0.605
SIZES = {"name": 13, "detail": 11}

Rectangle = tuple[float, float, float, float]  # left, upper, right, lower


def parse(graph: Graph) -> ET.Element:
    return ET.fromstring(svg(graph))


def nodes(root: ET.Element) -> list[ET.Element]:
    return [group for group in root.iter(f"{SVG}g") if "node" in group.get("class", "").split()]


def rectangle(node: ET.Element) -> Rectangle:
    match = re.fullmatch(r"translate\((\S+) (\S+)\)", node.get("transform", ""))
    frame = node.find(f"{SVG}rect")
    assert match
    assert frame is not None
    x, y = float(match[1]), float(match[2])
    return x, y, x + float(frame.get("width", "")), y + float(frame.get("height", ""))


def overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def texts(node: ET.Element) -> list[tuple[str, float, float]]:
    """Return the lines in a box: what they say, where they begin and end."""
    found = []
    for text in node.findall(f"{SVG}text"):
        said, x = text.text or "", float(text.get("x", ""))
        found.append((said, x, x + width(said) * SIZES[text.get("class", "")] * WIDEST))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_no_boxes_overlap_with_40_programs_and_60_maps(seed: int) -> None:
    boxes = [rectangle(node) for node in nodes(parse(large_graph(seed=seed)))]

    assert len(boxes) > 40 + 60 + 60
    assert [pair for pair in combinations(boxes, 2) if overlap(*pair)] == []


@pytest.mark.parametrize("graph", [large_graph(), shared_graph()], ids=["large", "small"])
def test_every_text_stays_inside_its_box(graph: Graph) -> None:
    for node in nodes(parse(graph)):
        left, _, right, _ = rectangle(node)
        for said, start, end in texts(node):
            assert 0 < start < end < right - left, said


def test_every_box_and_badge_is_inside_the_picture() -> None:
    root = parse(large_graph())
    _, _, whole_width, whole_height = map(float, root.get("viewBox", "").split())
    lowest = max(rectangle(node)[3] for node in nodes(root))
    rightmost = max(rectangle(node)[2] for node in nodes(root))

    assert lowest + 98 < whole_height
    assert rightmost + 24 < whole_width


def test_each_line_ends_at_the_sides_of_its_boxes() -> None:
    root = parse(shared_graph())
    sides = {side for node in nodes(root) for side in (rectangle(node)[0], rectangle(node)[2])}
    for line in (path for path in root.iter(f"{SVG}path") if "wire" in path.get("class", "")):
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", line.get("d", ""))]
        assert {numbers[0], numbers[-2]} <= sides


def test_a_shared_map_stands_out() -> None:
    root = parse(shared_graph())
    (shared,) = [node for node in nodes(root) if "shared" in node.get("class", "")]
    lines = [path.get("class", "") for path in root.iter(f"{SVG}path")]

    assert "".join(shared.itertext()).count("shared by 2") == 1
    assert sorted(line for line in lines if "shared" in line) == [
        "wire held shared hue0",  # the reader
        "wire shared hue0",  # two programs and a pin
        "wire shared hue0",
        "wire shared hue0",
    ]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_only_text(name: str) -> None:
    root = parse(graph_of(nodes=(program(1, name), process(2, name), device(name))))

    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        *("svg", "title", "style", "rect", "text", "g", "path"),
    }
    assert len(nodes(root)) == 3


def test_a_long_path_keeps_its_end_and_tells_all_of_it_on_hover() -> None:
    path = "/mnt/somewhere/far/below/a/very/long/way/down/the/file/system/counters"
    (box,) = nodes(parse(graph_of(nodes=(pin(path),))))
    title = box.find(f"{SVG}title")
    (written, *_), *_ = texts(box)

    assert written.startswith("…")
    assert written.endswith("/counters")
    assert title is not None
    assert title.text == path


def test_both_light_and_dark_are_in_it() -> None:
    text = svg(shared_graph())

    assert "@media (prefers-color-scheme: dark)" in text
    assert 'class="ground"' in text


def test_the_pins_of_programs_are_told_on_the_program() -> None:
    one, at = program(1, "first"), pin("/sys/fs/bpf/x/programs~/first")
    (box,) = nodes(parse(graph_of(pinned(one, at), nodes=(one, at))))

    assert "pinned at /sys/fs/bpf/x/programs~/first" in "".join(box.itertext())


def test_a_process_that_holds_a_program_alone_gets_a_line_past_the_maps() -> None:
    one, reader = program(1), process(7)
    root = parse(graph_of(holds(reader, one), nodes=(one, reader)))

    assert [
        path.get("class") for path in root.iter(f"{SVG}path") if path.get("class") != "icon"
    ] == ["wire held"]


def test_an_empty_graph_is_a_picture_that_says_so() -> None:
    assert "nothing is loaded" in svg(Graph())


def test_every_kind_of_node_has_its_column() -> None:
    root = parse(large_graph())
    kinds = {kind.value: set[float]() for kind in NodeKind}
    for node in nodes(root):
        (kind,) = set(node.get("class", "").split()) & kinds.keys()
        kinds[kind].add(rectangle(node)[0])

    assert kinds["device"] == kinds["cgroup"]
    assert kinds["pin"] == kinds["process"]
    columns = [min(kinds[kind]) for kind in ("device", "program", "map", "pin")]
    assert columns == sorted(set(columns))
