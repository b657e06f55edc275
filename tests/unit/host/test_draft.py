"""From what the kernel reports to nodes and edges."""

from __future__ import annotations

import dataclasses

from bpfpin.host.attachments import AttachedProgram
from bpfpin.host.collect import Draft
from bpfpin.host.graph import ELSEWHERE, EdgeKind, Graph, NodeKind
from bpfpin.host.objects import Contained, HostObjects
from bpfpin.host.pins import Pin
from bpfpin.host.processes import Holder
from bpfpin.objects.kernel.info import LinkInfo, MapInfo, ProgramInfo
from bpfpin.objects.kernel.object import ObjectKind
from bpfpin.uapi import AttachType, LinkType, MapType, ProgramType
from support.graphs import device

COUNTERS = MapInfo(MapType.ARRAY, 27, 4, 8, 5, 0, "counters", 0, 0, 0, 0, 0)
XDP = ProgramInfo(ProgramType.XDP, 41, "ab" * 8, "count", (27,), 0, 0, True, 0, 0, 0, 0, 0, 0, 0, 0)
PART = dataclasses.replace(XDP, id=42, name="part", type=ProgramType.EXT, map_ids=())
LAB0 = device()


def objects(*links: LinkInfo) -> HostObjects:
    return HostObjects({27: COUNTERS}, {41: XDP, 42: PART}, {link.id: link for link in links})


def edges(graph: Graph, kind: EdgeKind) -> list[tuple[str, str]]:
    return [edge.ends for edge in graph.edges if edge.kind is kind]


def test_a_program_and_its_map_are_joined() -> None:
    found = Draft(objects()).graph()

    assert edges(found, EdgeKind.USES) == [("program:41", "map:27")]
    assert found.by_id["map:27"].layout == (4, 8, 5, 0)
    assert found.by_id["program:41"].type == "xdp"


def test_an_attached_program_knows_its_hook() -> None:
    draft = Draft(objects(LinkInfo(LinkType.XDP, 4, 41, ifindex=3)))
    draft.add_attachments([AttachedProgram(LAB0, 41, "xdp", "native", 4)])
    found = draft.graph()

    assert edges(found, EdgeKind.ATTACHED) == [(LAB0.id, "program:41")]
    assert found.by_id["program:41"].hooks == ("xdp of lab0",)


def test_a_link_to_a_place_that_is_not_seen_is_told_on_the_program() -> None:
    links = (
        LinkInfo(LinkType.TRACING, 5, 42, attach_type=AttachType.TRACE_FENTRY),
        LinkInfo(LinkType.TCX, 6, 41, ifindex=9, attach_type=AttachType.TCX_EGRESS),
        LinkInfo(LinkType.CGROUP, 7, 41, cgroup_id=12, attach_type=AttachType.CGROUP_INET_INGRESS),
    )
    info = objects(*links)
    info.programs[42] = dataclasses.replace(PART, type=ProgramType.TRACING)
    draft = Draft(info)
    draft.add_attachments([])
    found = draft.graph()

    assert found.by_id["program:42"].hooks == ("trace-fentry",)
    assert found.by_id["program:41"].hooks == (
        "tcx-egress of ifindex 9 in a namespace that is not seen",
        "cgroup-inet-ingress of cgroup id 12",
    )


def test_a_link_whose_device_is_gone_attaches_nothing() -> None:
    draft = Draft(objects(LinkInfo(LinkType.XDP, 4, 41, ifindex=0)))
    draft.add_attachments([])
    found = draft.graph()

    assert found.by_id["program:41"].hooks == ()
    assert found.by_id["program:41"].notes == ("xdp: the device of link id 4 is gone",)
    assert found.running == frozenset()


def test_an_extension_hangs_on_the_program_that_it_extends() -> None:
    """As libxdp does it: the device runs a dispatcher, which runs the programs of others."""
    draft = Draft(objects(LinkInfo(LinkType.TRACING, 5, 42, target_id=41)))
    draft.add_attachments([AttachedProgram(LAB0, 41, "xdp")])
    found = draft.graph()

    assert edges(found, EdgeKind.EXTENDS) == [("program:41", "program:42")]
    assert found.running == {"program:41", "program:42"}


def test_pins_and_holders_of_a_link_are_those_of_its_program() -> None:
    draft = Draft(objects(LinkInfo(LinkType.XDP, 4, 41, ifindex=3)))
    draft.add_pins(
        [Pin("/b/lab0/links~/xdp", ObjectKind.LINK, 4), Pin("/b/lab0/c", ObjectKind.MAP, 27)],
        {"/b/lab0": "lab0"},
    )
    draft.add_holders([Holder(7, "reader", ((ObjectKind.MAP, 27),), is_elsewhere=True)])
    found = draft.graph()

    assert edges(found, EdgeKind.PINNED) == [
        ("program:41", "pin:/b/lab0/links~/xdp"),
        ("map:27", "pin:/b/lab0/c"),
    ]
    assert {pin.set for pin in found.of_kind(NodeKind.PIN)} == {"lab0"}
    assert edges(found, EdgeKind.HELD) == [("map:27", "process:7")]
    assert found.by_id["process:7"].notes == (ELSEWHERE,)


def test_what_was_made_after_all_were_counted_is_left_out() -> None:
    draft = Draft(objects())
    draft.add_attachments([AttachedProgram(LAB0, 99, "xdp")])
    draft.add_holders([Holder(7, "late", ((ObjectKind.MAP, 98),))])
    found = draft.graph()

    assert [node.id for node in found.nodes] == ["program:41", "program:42", "map:27"]


def test_who_may_not_see_a_program_still_learns_its_number() -> None:
    info = dataclasses.replace(objects(), is_complete=False)
    draft = Draft(info)
    draft.add_attachments([AttachedProgram(LAB0, 99, "xdp")])
    found = draft.graph()

    assert found.by_id["program:99"].name == ""
    assert not found.is_complete


def test_what_maps_contain_hangs_on_them() -> None:
    draft = Draft(objects())
    draft.add_contents([Contained(27, 42, is_program=True)])

    assert edges(draft.graph(), EdgeKind.CONTAINS) == [("map:27", "program:42")]
