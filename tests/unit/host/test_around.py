"""What hangs together with one thing."""

from __future__ import annotations

import pytest

from bpfpin.errors import PinNotFoundError
from bpfpin.host.graph import Graph, around
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
    uses,
)


@pytest.fixture
def host() -> Graph:
    """Two devices share a map; eth1 also runs a program of its own; a daemon holds all maps."""
    eth0, eth1, lo = device("eth0"), device("eth1"), device("lo")
    first, second, third, fourth = (program(n, f"program_{n}") for n in (1, 2, 3, 4))
    shared, own, far = bpf_map(11, "shared"), bpf_map(12, "own"), bpf_map(13, "far")
    at = pin("/sys/fs/bpf/eth0/shared", "the set")
    daemon = process(7, "daemon")
    return graph_of(
        attached(eth0, first),
        attached(eth1, second),
        attached(eth1, third),
        attached(lo, fourth),
        uses(first, shared),
        uses(second, shared),
        uses(third, own),
        uses(fourth, far),
        pinned(shared, at),
        *(holds(daemon, held) for held in (shared, own, far)),
        nodes=(eth0, eth1, lo, first, second, third, fourth, shared, own, far, at, daemon),
    )


def names(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes]


AROUND_SHARED = [
    "eth0",
    "eth1",
    "program_1",
    "program_2",
    "shared",
    "/sys/fs/bpf/eth0/shared",
    "daemon",
]


@pytest.mark.parametrize(
    "target",
    ["eth0", "the set", "/sys/fs/bpf/eth0/shared", "id:11", "name:shared", "shared", "program_1"],
)
def test_whoever_shares_a_map_hangs_together(host: Graph, target: str) -> None:
    """Neither another program of such a device nor a daemon's other maps come along."""
    assert names(around(host, target)) == AROUND_SHARED


def test_what_was_asked_for_leads_on_whatever_it_is(host: Graph) -> None:
    assert names(around(host, "eth1")) == [
        "eth0",
        "eth1",
        "program_1",
        "program_2",
        "program_3",
        "shared",
        "own",
        "/sys/fs/bpf/eth0/shared",
        "daemon",
    ]


def test_no_edge_leads_out_of_the_part(host: Graph) -> None:
    part = around(host, "lo")
    ids = {node.id for node in part.nodes}

    assert {end for edge in part.edges for end in edge.ends} == ids


def test_an_unknown_name_is_told_with_those_near_it(host: Graph) -> None:
    with pytest.raises(PinNotFoundError, match="'eth2'") as caught:
        around(host, "eth2")

    assert caught.value.hint == "near it: eth1, eth0"
