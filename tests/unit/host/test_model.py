"""The graph as values: its JSON, what is shared, what runs."""

from __future__ import annotations

from bpfpin.host.graph import Edge, EdgeKind, Node, NodeKind
from support.graphs import bpf_map, device, graph_of, program, shared_graph


def test_the_json_names_every_node_and_edge() -> None:
    shown = shared_graph().to_json()

    assert shown["schema"] == 1
    assert shown["nodes"][0] == {
        "id": "device:lab0",
        "kind": "device",
        "name": "lab0",
        "number": 3,
        "type": "veth",
    }
    assert shown["edges"][0] == {
        "from": "device:lab0",
        "to": "program:41",
        "kind": "attached",
        "hook": "xdp",
        "mode": "native",
        "link": 4,
    }


def test_the_json_says_of_each_map_whether_it_is_shared() -> None:
    nodes = {node["name"]: node for node in shared_graph().to_json()["nodes"]}

    assert (nodes["counters"]["shared"], nodes["action"]["shared"]) == (True, False)
    assert nodes["counters"]["max_entries"] == 5
    assert "shared" not in nodes["lab0"]


def test_a_map_that_one_program_uses_twice_is_not_shared() -> None:
    one, held = program(1), bpf_map(2)
    twice = [Edge(one.id, held.id, EdgeKind.USES, link=link) for link in (1, 2)]

    assert not graph_of(*twice, nodes=(one, held)).is_shared(held.id)


def test_a_program_in_an_array_of_a_running_one_runs() -> None:
    """From the device to a program, its array of programs, and what is jumped to."""
    lab0, main, jumps, tail, idle = (
        device(),
        program(1),
        bpf_map(2, "jumps"),
        program(3),
        program(4),
    )
    found = graph_of(
        Edge(lab0.id, main.id, EdgeKind.ATTACHED),
        Edge(main.id, jumps.id, EdgeKind.USES),
        Edge(jumps.id, tail.id, EdgeKind.CONTAINS),
        nodes=(lab0, main, jumps, tail, idle),
    )

    assert found.running == {main.id, tail.id}


def test_an_extension_of_a_running_program_runs() -> None:
    dispatcher = Node("program:1", NodeKind.PROGRAM, "dispatcher", 1, hooks=("xdp of lab0",))
    part = program(2)
    found = graph_of(Edge(dispatcher.id, part.id, EdgeKind.EXTENDS), nodes=(dispatcher, part))

    assert found.running == {dispatcher.id, part.id}
