"""Who should share a map and does not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bpfpin.host.graph import ELSEWHERE, Graph, Node
from bpfpin.sets.split_brain import FindingKind, findings
from support.graphs import (
    attached,
    bpf_map,
    device,
    graph_of,
    holds,
    pin,
    pinned,
    process,
    program,
    shared_graph,
    uses,
)

LAB0, XDP = device(), program(41, "xdp_stats", hooks=("xdp of lab0",))
A, B = bpf_map(27), bpf_map(31)
SHARED = pin("/sys/fs/bpf/tc/globals/counters")


def split_set() -> Graph:
    """The set lab0 pins map A and the program, which uses map B of that name."""
    at, program_pin = pin("/sys/fs/bpf/lab0/counters", "lab0"), pin("/p", "lab0")
    return graph_of(
        attached(LAB0, XDP),
        uses(XDP, B),
        pinned(A, at),
        pinned(XDP, program_pin),
        nodes=(LAB0, XDP, A, B, at, program_pin),
    )


def beside_shared(shared: Node, place: Node = SHARED) -> Graph:
    """A program uses map B, while *shared* is pinned at *place*."""
    return graph_of(
        attached(LAB0, XDP),
        uses(XDP, B),
        pinned(shared, place),
        nodes=(LAB0, XDP, shared, B, place),
    )


def old_reader(notes: tuple[str, ...] = ()) -> Graph:
    """A process holds map B, while the pin of that name holds map A."""
    at, reader = pin("/sys/fs/bpf/lab0/counters", "lab0"), process(811, notes=notes)
    return graph_of(pinned(A, at), holds(reader, B), nodes=(A, B, at, reader))


def test_a_graph_in_which_all_share_has_no_findings() -> None:
    assert findings(shared_graph()) == ()


def test_a_program_that_uses_another_map_than_its_set_pins_is_found() -> None:
    (found,) = findings(split_set(), load_lines={"lab0": "bpfpin load x.o --dev lab0"})

    assert found.kind is FindingKind.MAP_DIFFERS
    assert found.text == (
        "lab0: program xdp_stats id 41 (xdp of lab0) uses map id 31, while"
        " /sys/fs/bpf/lab0/counters holds map id 27 (counters)"
    )
    assert found.fix == "bpfpin load x.o --dev lab0"


@pytest.mark.parametrize("place", ["lab0~stage", "lab0/confirm~/before"])
def test_the_pins_of_another_generation_split_nothing(place: str) -> None:
    """Of one that is being built, and of one that comes back unless the next is confirmed."""
    whole, at = shared_graph(), pin(f"/sys/fs/bpf/{place}/counters", "lab0")
    own = pin("/sys/fs/bpf/lab0/programs~/xdp_stats", "lab0")
    xdp = whole.by_id["program:41"]
    edges = (*whole.edges, pinned(B, at), pinned(xdp, own))

    assert findings(Graph((*whole.nodes, B, at, own), edges)) == ()


def test_a_program_that_does_not_run_splits_nothing() -> None:
    whole = split_set()
    idle = dataclasses.replace(XDP, hooks=())
    nodes = tuple(idle if node.id == XDP.id else node for node in whole.nodes)
    edges = tuple(edge for edge in whole.edges if edge.source != LAB0.id)

    assert findings(Graph(nodes, edges)) == ()


def test_the_read_only_data_of_each_load_is_its_own() -> None:
    old, new = bpf_map(1, ".rodata"), bpf_map(2, ".rodata")
    at, program_pin = pin("/sys/fs/bpf/lab0/%2erodata", "lab0"), pin("/p", "lab0")
    graph = graph_of(
        attached(LAB0, XDP),
        uses(XDP, new),
        pinned(old, at),
        pinned(XDP, program_pin),
        nodes=(LAB0, XDP, old, new, at, program_pin),
    )

    assert findings(graph) == ()


def test_a_long_name_is_compared_as_far_as_the_kernel_keeps_it() -> None:
    old, new = bpf_map(1, "a_name_of_20_ch"), bpf_map(2, "a_name_of_20_ch")
    at, program_pin = pin("/sys/fs/bpf/lab0/a_name_of_20_charact", "lab0"), pin("/p", "lab0")
    graph = graph_of(
        attached(LAB0, XDP),
        uses(XDP, new),
        pinned(old, at),
        pinned(XDP, program_pin),
        nodes=(LAB0, XDP, old, new, at, program_pin),
    )

    assert [found.kind for found in findings(graph)] == [FindingKind.MAP_DIFFERS]


def test_a_program_beside_a_shared_map_of_the_same_layout_is_found() -> None:
    (found,) = findings(beside_shared(A))

    assert found.kind is FindingKind.NOT_SHARED
    assert "uses map id 31, one of its own" in found.text
    assert found.fix == (
        "bpfpin load OBJ --dev lab0 --take-over --map counters=/sys/fs/bpf/tc/globals/counters"
    )


def test_a_program_of_a_set_is_loaded_again_with_the_shared_map() -> None:
    whole, at = beside_shared(A), pin("/sys/fs/bpf/lab0/programs~/xdp_stats", "lab0")
    graph = Graph((*whole.nodes, at), (*whole.edges, pinned(XDP, at)))
    (found,) = findings(graph, load_lines={"lab0": "bpfpin load x.o --dev lab0"})

    assert found.sets == ("lab0",)
    assert found.fix == f"bpfpin load x.o --dev lab0 --map counters={SHARED.name}"


def test_where_several_programs_may_run_the_old_one_is_detached_first() -> None:
    whole = beside_shared(A)
    edges = (attached(LAB0, XDP, "tcx-egress"), *whole.edges[1:])
    (found,) = findings(Graph(whole.nodes, edges))

    assert found.fix.startswith("detach it, then: bpfpin load OBJ --dev DEV --map counters=")


def test_the_pin_root_itself_is_a_shared_place() -> None:
    graph = beside_shared(A, pin("/mnt/bpf/counters"))

    assert findings(graph) == ()
    assert len(findings(graph, pin_root=Path("/mnt/bpf"))) == 1


def test_a_container_is_not_meant_to_share_the_maps_of_the_host() -> None:
    """Its network namespace has no name here; a pin that we see would make it one of ours."""
    lo, at = dataclasses.replace(LAB0, netns="pid:77"), pin("/sys/fs/bpf/x")
    nodes, edges = (lo, XDP, A, B, SHARED, at), (attached(lo, XDP), uses(XDP, B), pinned(A, SHARED))

    assert findings(Graph(nodes, edges)) == ()
    assert len(findings(Graph(nodes, (*edges, pinned(XDP, at))))) == 1


def test_a_shared_map_of_another_layout_was_not_meant() -> None:
    assert findings(beside_shared(bpf_map(27, layout=(4, 8, 5, 0)))) == ()


def test_a_process_on_an_old_map_is_found() -> None:
    (found,) = findings(old_reader())

    assert found.kind is FindingKind.OLD_MAP_HELD
    assert found.text.startswith("process 811 (reader) holds map id 31, which no program uses")
    assert found.fix.startswith("let it open /sys/fs/bpf/lab0/counters again")


def test_of_several_pins_of_a_name_the_one_in_use_is_told() -> None:
    whole, fed = old_reader(), bpf_map(40)
    at = pin("/sys/fs/bpf/lab1/counters")
    graph = Graph((*whole.nodes, fed, at, XDP), (*whole.edges, pinned(fed, at), uses(XDP, fed)))

    assert "/sys/fs/bpf/lab1/counters holds map id 40" in findings(graph)[0].text


def test_a_process_that_may_see_other_pins_is_not_accused() -> None:
    assert findings(old_reader((ELSEWHERE,))) == ()


def test_who_may_not_see_the_programs_accuses_nobody_of_an_old_map() -> None:
    assert findings(dataclasses.replace(old_reader(), is_complete=False)) == ()


def test_a_map_that_a_program_still_uses_is_not_old() -> None:
    whole = old_reader()
    graph = Graph((*whole.nodes, XDP), (*whole.edges, uses(XDP, B)))

    assert [found.kind for found in findings(graph)] == []


def test_a_finding_has_the_form_of_a_problem() -> None:
    (found,) = findings(old_reader())

    assert list(found.to_json()) == ["kind", "text", "fix"]
    assert found.to_json()["kind"] == "old-map-held"
