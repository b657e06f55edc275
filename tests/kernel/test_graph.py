"""The graph of real objects: places, programs, maps, pins, processes, ours or not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from bpfpin.attach.interface import ifindex
from bpfpin.attach.netlink import aside
from bpfpin.host.collect import graph
from bpfpin.host.graph import EdgeKind, Graph, NodeKind
from bpfpin.host.processes import all_namespaces
from bpfpin.insn import exit_, load_imm64, mov_imm
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.spec import FunctionSpec, MapSpec, ProgramSpec, Reference, ReferenceKind, XdpMode
from bpfpin.syscall import bpf, fs, netns
from bpfpin.uapi import AttachType, MapType, ProgramType
from support.kernel_needs import has_tcx
from support.maps import FLOWS
from support.nobody import let_everybody_enter, nobody

LOOPBACK = 1
HOLDER = """
import sys
from bpfpin import Map
with Map.from_pin(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def flows(bpffs: Path) -> Iterator[Map]:
    """A pinned map."""
    with Map.create(FLOWS) as made:
        made.pin(bpffs / "flows")
        yield made


def program(
    held: Map | None = None,
    kind: ProgramType = ProgramType.XDP,
    attach_type: AttachType | None = None,
) -> Program:
    """Load a program that lets everything pass, and refers to a map if one is given."""
    reference = load_imm64(1, 0) if held is not None else ()
    uses = (Reference(0, ReferenceKind.MAP, "flows"),) if held is not None else ()
    function = FunctionSpec("counter", "x", (*reference, mov_imm(0, 1), exit_()), uses)
    spec = ProgramSpec(
        "counter", kind, "x", (function,), license="GPL", expected_attach_type=attach_type
    )
    return Program.load(spec, maps={"flows": held} if held is not None else {})


@contextmanager
def veth(name: str) -> Iterator[int]:
    """Make a pair of devices and yield the ifindex of the one with that name."""
    words = ["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}-peer"]
    subprocess.run(words, check=True)
    try:
        yield ifindex(name)
    finally:
        subprocess.run(["ip", "link", "del", name], check=True)


def places(found: Graph, one: Program) -> list[tuple[str, str, str, int]]:
    """Return where a program is attached: kind and name of the place, hook, link id."""
    return [
        (found.by_id[edge.source].kind.value, found.by_id[edge.source].name, edge.hook, edge.link)
        for edge in found.edges
        if edge.kind is EdgeKind.ATTACHED and edge.target == f"program:{one.id}"
    ]


def test_a_program_its_map_and_its_pin_hang_together(flows: Map, bpffs: Path) -> None:
    with program(flows) as one, Link.create(one, LOOPBACK, AttachType.XDP) as link:
        one.pin(bpffs / "program")
        link.pin(bpffs / "link")
        found = graph(pin_root=bpffs)
        ids = f"program:{one.id}", f"map:{flows.id}"

        assert places(found, one) == [("device", "lo", "xdp", link.id)]
    assert [held.id for held in found.targets(ids[0], EdgeKind.USES)] == [ids[1]]
    assert [p.name for p in found.targets(ids[0], EdgeKind.PINNED)] == [
        str(bpffs / "link"),
        str(bpffs / "program"),
    ]
    assert [p.name for p in found.targets(ids[1], EdgeKind.PINNED)] == [str(bpffs / "flows")]
    assert found.is_complete


def test_a_device_of_another_namespace_is_found_there() -> None:
    subprocess.run(["ip", "netns", "add", "blue"], check=True)
    with program() as one:
        with netns.enter("blue"):
            link = Link.create(one, LOOPBACK, AttachType.XDP)
        with link:
            from_outside = places(graph(), one)
            with netns.enter("blue"):
                from_inside = places(graph(), one)
            link_id = link.id
    subprocess.run(["ip", "netns", "del", "blue"], check=True)

    assert from_outside == [("device", "blue@lo", "xdp", link_id)]
    assert from_inside == [("device", "lo", "xdp", link_id)]


def test_xdp_without_a_link_is_found() -> None:
    with veth("graph0") as index, program() as one:
        aside(lambda netlink: netlink.attach_xdp(one.fd, index, XdpMode.GENERIC))
        found = graph()

        assert places(found, one) == [("device", "graph0", "xdp", 0)]


@contextmanager
def at_tcx_egress(one: Program, ifindex: int) -> Iterator[list[tuple[object, ...]]]:
    """Attach there, and yield what the graph should show; nothing where the kernel has no tcx."""
    if not has_tcx():
        yield []
        return
    with Link.create(one, ifindex, AttachType.TCX_EGRESS) as link:
        yield [("device", "graph0", "tcx-egress", link.id)]


def test_tcx_and_classic_tc_are_found(bpffs: Path) -> None:
    with (
        veth("graph0") as index,
        program(None, ProgramType.SCHED_CLS) as one,
        at_tcx_egress(one, index) as tcx_places,
    ):
        one.pin(bpffs / "program")
        words = f"filter add dev graph0 ingress bpf da pinned {bpffs / 'program'}"
        subprocess.run(["tc", "qdisc", "add", "dev", "graph0", "clsact"], check=True)
        subprocess.run(["tc", *words.split()], check=True)

        assert places(graph(pin_root=bpffs), one) == [
            *tcx_places,
            ("device", "graph0", "tc-ingress", 0),
        ]


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of the test's own."""
    (mount,) = [m for m in fs.mounts() if m.fs_type == "cgroup2"][:1]
    path = Path(mount.mount_point) / f"graph-test-{os.getpid()}"
    path.mkdir()
    yield path
    path.rmdir()


def test_a_cgroup_is_found_with_a_link_and_without_one(cgroup: Path, bpffs: Path) -> None:
    with program(None, ProgramType.CGROUP_SKB) as one, program(None, ProgramType.CGROUP_SKB) as two:
        two.pin(bpffs / "two")
        words = ["cgroup", "attach", str(cgroup), "ingress", "pinned", str(bpffs / "two"), "multi"]
        subprocess.run(["bpftool", *words], check=True)
        descriptor = os.open(cgroup, os.O_RDONLY)
        with Link.create(one, descriptor, AttachType.CGROUP_INET_EGRESS) as link:
            os.close(descriptor)
            found = graph(pin_root=bpffs)

            name = f"/{cgroup.name}"
            assert places(found, one) == [("cgroup", name, "cgroup-inet-egress", link.id)]
            assert places(found, two) == [("cgroup", name, "cgroup-inet-ingress", 0)]


def test_a_process_that_holds_a_map_is_found(flows: Map, bpffs: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(bpffs / "flows")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        found = graph(pin_root=bpffs)
        process.communicate()

    assert [one.number for one in found.targets(f"map:{flows.id}", EdgeKind.HELD)] == [process.pid]


def test_maps_in_maps_and_programs_in_arrays_are_found(flows: Map) -> None:
    with ExitStack() as held:
        inner = MapSpec("inner", MapType.HASH, 4, 4, 4)
        outer = held.enter_context(
            Map.create(MapSpec("outer", MapType.ARRAY_OF_MAPS, 4, 4, 2, inner=inner))
        )
        jumps = held.enter_context(Map.create(MapSpec("jumps", MapType.PROG_ARRAY, 4, 4, 2)))
        tail = held.enter_context(program())
        one = held.enter_context(Map.create(inner))
        update(outer, one.fd)
        update(jumps, tail.fd)
        found = graph()

        assert [node.id for node in found.targets(f"map:{outer.id}", EdgeKind.CONTAINS)] == [
            f"map:{one.id}"
        ]
        assert [node.id for node in found.targets(f"map:{jumps.id}", EdgeKind.CONTAINS)] == [
            f"program:{tail.id}"
        ]


def update(outer: Map, fd: int) -> None:
    """Put a map or a program into the second place of a map."""
    bpf.map_update_elem(outer.fd, (1).to_bytes(4, "little"), fd.to_bytes(4, "little"))


@pytest.mark.usefixtures("flows")
def test_an_ordinary_user_sees_what_he_may_open_and_is_told_so(bpffs: Path) -> None:
    let_everybody_enter(bpffs)
    (bpffs / "flows").chmod(0o644)
    with Map.create(FLOWS) as secret:
        secret.pin(bpffs / "secret")
        (bpffs / "secret").chmod(0o600)
        with nobody():
            found = graph(pin_root=bpffs)

    pins = [pin.name for pin in found.of_kind(NodeKind.PIN) if pin.name.startswith(str(bpffs))]
    assert pins == [str(bpffs / "flows")]
    assert not found.is_complete
    assert found.notes[0].startswith("without CAP_SYS_ADMIN only pinned objects")
    assert any(str(bpffs / "secret") in note for note in found.notes)


def test_the_own_namespace_comes_first_and_each_one_once() -> None:
    found = all_namespaces()

    assert (found[0].inode, found[0].name) == (netns.inode(), "")
    assert len({one.inode for one in found}) == len(found)
