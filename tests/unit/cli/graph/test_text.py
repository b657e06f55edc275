"""The graph in words of other tools, and as a tree: whatever the names are."""

from __future__ import annotations

import re

import pytest

from bpfpin.cli.graph.dot import dot, mermaid
from bpfpin.cli.graph.label import cut, width
from bpfpin.cli.graph.tree import Branch, branches, fitted, lines
from bpfpin.host.graph import Edge, EdgeKind, Graph
from support.graphs import (
    HOSTILE,
    attached,
    bpf_map,
    device,
    graph_of,
    process,
    program,
    shared_graph,
    uses,
)

STRING = r'"(?:[^"\\\n]|\\.)*"'
DOT_NODE = re.compile(
    rf"  n\d+ \[shape=\w+, label={STRING}(?:, style={STRING}(?:, \w+={STRING})*)?\];"
)
DOT_EDGE = re.compile(rf"  n\d+ -> n\d+ \[label={STRING}\];")
MERMAID_NODE = re.compile(r'  n\d+[\[(/]+"(?:[^"`&\n\x00-\x1f])*"[\])/]+')
MERMAID_EDGE = re.compile(r'  n\d+ (?:-->|-\.->)\|"[\w #;./-]*"\| n\d+')


def drawn(graph: Graph) -> list[str]:
    return [guides + branch.text for guides, branch in lines(branches(graph))]


def hostile_graph(name: str) -> Graph:
    lab0, one, held, reader = device(name), program(1, name), bpf_map(2, name), process(3, name)
    edges = attached(lab0, one, name), uses(one, held)
    return graph_of(*edges, nodes=(lab0, one, held, reader))


def test_the_tree_draws_a_shared_map_once_and_names_it_again() -> None:
    assert drawn(shared_graph()) == [
        "lab0 · veth",
        "├── xdp_stats · id 41 · xdp · native · link 4",
        "│   ├── counters · id 27 · percpu_array · 5 entries · ● shared by 2 programs",
        "│   │   ├── pin /sys/fs/bpf/lab0/counters · set lab0",
        "│   │   └── process 811 · reader",
        "│   └── action · id 28 · percpu_array · 1 entry",
        "└── tc_stats · id 42 · tcx-egress · native · link 4",
        "    └── counters · id 27 · percpu_array · 5 entries · ● shared by 2 programs · see above",
    ]


def test_what_hangs_on_no_device_comes_under_a_heading() -> None:
    tracing = program(1, "on_open", hooks=("trace-fentry",))
    idle, held = program(2, "idle"), bpf_map(3, "left")

    assert drawn(graph_of(nodes=(tracing, idle, held))) == [
        "elsewhere",
        "└── on_open · id 1 · trace-fentry",
        "programs that are attached nowhere",
        "└── idle · id 2 · xdp",
        "maps that no program uses",
        "└── left · id 3 · percpu_array · 5 entries",
    ]


def test_what_a_map_contains_hangs_below_it() -> None:
    outer, inner, tail = bpf_map(1, "outer"), bpf_map(2, "inner"), program(3, "tail")
    held = [Edge(outer.id, one.id, EdgeKind.CONTAINS) for one in (inner, tail)]
    told = drawn(graph_of(uses(tail, outer), *held, nodes=(outer, inner, tail)))

    assert told == [
        "programs that are attached nowhere",
        "└── tail · id 3 · xdp",
        "    └── outer · id 1 · percpu_array · 5 entries",
        "        ├── inner · id 2 · percpu_array · 5 entries",
        "        └── tail · id 3 · xdp",
    ]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_steers_no_terminal(name: str) -> None:
    assert all(line.isprintable() for line in drawn(hostile_graph(name)))


@pytest.mark.parametrize("name", ["plain", *HOSTILE])
def test_each_line_of_dot_is_a_node_or_an_edge(name: str) -> None:
    first, *body, last = dot(hostile_graph(name)).splitlines()

    assert (first, last) == ("digraph bpf {", "}")
    assert [line for line in body[3:7] if not DOT_NODE.fullmatch(line)] == []
    assert [line for line in body[7:] if not DOT_EDGE.fullmatch(line)] == []
    assert len(body) == 3 + 4 + 2


@pytest.mark.parametrize("name", ["plain", *HOSTILE])
def test_each_line_of_mermaid_is_a_node_or_an_edge(name: str) -> None:
    first, *body = mermaid(hostile_graph(name)).splitlines()

    assert first == "flowchart LR"
    assert [line for line in body[:4] if not MERMAID_NODE.fullmatch(line)] == []
    assert [line for line in body[4:] if not MERMAID_EDGE.fullmatch(line)] == []
    assert len(body) == 4 + 2


def test_both_mark_the_shared_map() -> None:
    assert dot(shared_graph()).count("shared by 2 programs") == 1
    assert "  class n3 shared" in mermaid(shared_graph())


def test_a_wide_character_takes_two_columns() -> None:
    assert width("a宽") == 3
    assert cut("宽宽宽", 5) == "宽宽…"


def test_what_is_cut_keeps_its_start_or_its_end() -> None:
    assert cut("counters", 8) == "counters"
    assert cut("counters", 5) == "coun…"
    assert cut("counters", 5, keep_end=True) == "…ters"


def test_a_line_of_the_tree_is_broken_between_its_parts() -> None:
    tree = [
        Branch("lab0 · veth", branches=[Branch("flows · id 7 · hash · 5 entries"), Branch("b")])
    ]
    drawn = [line for guides, branch in lines(tree) for line in fitted(guides, branch, 20)]

    assert [guides + text for guides, text in drawn] == [
        "lab0 · veth",
        "├── flows · id 7",
        "│       · hash",
        "│       · 5 entries",
        "└── b",
    ]
