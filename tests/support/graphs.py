"""Graphs made by hand, of which each test knows everything."""

from __future__ import annotations

import random

from bpfpin.host.graph import Edge, EdgeKind, Graph, Node, NodeKind

LAYOUT = (4, 16, 5, 0)


def device(name: str = "lab0") -> Node:
    return Node(f"device:{name}", NodeKind.DEVICE, name, 3, type="veth")


def cgroup(name: str = "/web") -> Node:
    return Node(f"cgroup:{name}", NodeKind.CGROUP, name, 44)


def program(number: int, name: str = "", **more: tuple[str, ...]) -> Node:
    title = name or f"program_{number}"
    return Node(f"program:{number}", NodeKind.PROGRAM, title, number, type="xdp", **more)  # type: ignore[arg-type]  # hooks and notes


def bpf_map(number: int, name: str = "counters", *, layout: tuple[int, ...] = LAYOUT) -> Node:
    return Node(f"map:{number}", NodeKind.MAP, name, number, type="percpu_array", layout=layout)


def pin(path: str, set_: str = "") -> Node:
    return Node(f"pin:{path}", NodeKind.PIN, path, set=set_)


def process(pid: int, name: str = "reader", *, notes: tuple[str, ...] = ()) -> Node:
    return Node(f"process:{pid}", NodeKind.PROCESS, name, pid, notes=notes)


def attached(place: Node, runs: Node, hook: str = "xdp") -> Edge:
    return Edge(place.id, runs.id, EdgeKind.ATTACHED, hook=hook, mode="native", link=4)


def uses(one: Node, held: Node) -> Edge:
    return Edge(one.id, held.id, EdgeKind.USES)


def pinned(held: Node, at: Node) -> Edge:
    what = "program" if held.kind is NodeKind.PROGRAM else ""
    return Edge(held.id, at.id, EdgeKind.PINNED, what=what)


def holds(one: Node, held: Node) -> Edge:
    """Return the edge of process *one* that has *held* open."""
    what = "program" if held.kind is NodeKind.PROGRAM else ""
    return Edge(held.id, one.id, EdgeKind.HELD, what=what)


def graph_of(*edges: Edge, nodes: tuple[Node, ...], is_complete: bool = True) -> Graph:
    return Graph(nodes, edges, is_complete=is_complete)


def shared_graph() -> Graph:
    """One map that XDP and tc of lab0 share, and that is pinned and held; one map of XDP alone."""
    lab0, xdp, tc = device(), program(41, "xdp_stats"), program(42, "tc_stats")
    counters, action = bpf_map(27), bpf_map(28, "action", layout=(4, 4, 1, 0))
    at, reader = pin("/sys/fs/bpf/lab0/counters", "lab0"), process(811)
    return graph_of(
        attached(lab0, xdp),
        attached(lab0, tc, "tcx-egress"),
        uses(xdp, counters),
        uses(xdp, action),
        uses(tc, counters),
        pinned(counters, at),
        holds(reader, counters),
        nodes=(lab0, xdp, tc, counters, action, at, reader),
    )


def large_graph(*, programs: int = 40, maps: int = 60, seed: int = 1) -> Graph:
    """A host with that many, a sixth of the maps shared, all of them pinned, four readers."""
    chance = random.Random(seed)
    places = [cgroup(f"/system.slice/a-long-name-{n}.service") for n in range(6)]
    places += [device(f"eth{n}") for n in range(18)]
    all_programs = [program(100 + n) for n in range(programs)]
    all_maps = [bpf_map(200 + n, f"map_{n}") for n in range(maps)]
    pins = [pin(f"/sys/fs/bpf/eth{n}/map_{n}", f"eth{n}") for n in range(maps)]
    readers = [process(9000 + n) for n in range(4)]
    edges = [attached(chance.choice(places), one) for one in all_programs]
    for number, held in enumerate(all_maps):
        users = chance.sample(all_programs, 3 if number % 6 == 0 else 1)
        edges += [uses(one, held) for one in users]
        edges.append(pinned(held, pins[number]))
    edges += [holds(one, held) for one in readers for held in chance.sample(all_maps, 2)]
    edges.append(holds(readers[0], all_programs[0]))
    nodes = (*places, *all_programs, *all_maps, *pins, *readers)
    return Graph(nodes, tuple(edges))


# What somebody may call a process or a program to break a picture of it.
HOSTILE = (
    '"</svg><script>',
    "a]b|c;}\n#x",
    "\x1b[31m\x00\udcff",
    "&amp;<br/>`%%{init}`",
    "宽" * 30,
)
