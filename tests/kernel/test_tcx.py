"""tcx: programs of a device one after another, held by links, with real packets."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.attach.netlink import Netlink
from bpfpin.attach.order import Order
from bpfpin.attach.query import tcx_programs
from bpfpin.attach.tcx import attach_tcx
from bpfpin.errors import (
    HookBusyError,
    IdNotFoundError,
    InterfaceNotFoundError,
    NotSupportedError,
    ProgramChangedError,
    WrongHookError,
)
from bpfpin.objects.link import Link
from bpfpin.objects.programs.program import Program
from bpfpin.spec import Hook
from bpfpin.uapi import AttachType, LinkType, ProgramType
from support.hooks import Counting, counting, idle, without_tcx
from support.lab import TestLab
from support.traffic import flow
from support.wait import wait_until

INGRESS, EGRESS = Hook.TCX_INGRESS, Hook.TCX_EGRESS
LOOPBACK = 1
MOST_PROGRAMS = 63  # BPF_MPROG_MAX of linux/bpf_mprog.h, less one

needs_tcx = pytest.mark.usefixtures("tcx")


@pytest.fixture
def programs() -> Iterator[Counting]:
    """The programs that count."""
    with counting() as made:
        yield made


@pytest.fixture
def three(tcx: None) -> Iterator[tuple[Program, Program, Program]]:
    """Three programs, the first two of them at the loopback device's ingress."""
    with (
        idle("first") as first,
        idle("second") as second,
        idle("third") as third,
        attach_tcx(first, "lo", INGRESS),
        attach_tcx(second, "lo", INGRESS),
    ):
        yield first, second, third


def order_there() -> list[int]:
    return [one.program_id for one in tcx_programs(LOOPBACK, INGRESS)]


@needs_tcx
def test_a_program_at_ingress_sees_every_packet_that_comes(
    lab: TestLab, programs: Counting
) -> None:
    with attach_tcx(programs.tc, lab.device, INGRESS) as link:
        lab.flood(50)

        assert programs.counted(programs.tc) == 50
        assert (link.info.type, link.info.ifindex) == (LinkType.TCX, lab.ifindex)
        assert link.info.attach_type == AttachType.TCX_INGRESS


@needs_tcx
def test_a_program_at_egress_sees_every_packet_that_goes(lab: TestLab, programs: Counting) -> None:
    with (
        attach_tcx(programs.tc, lab.device, EGRESS),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        for _ in range(20):
            sender.sendto(b"x", (lab.peer_address, 9999))

    assert programs.counted(programs.tc) == 20


@needs_tcx
def test_updates_under_traffic_lose_no_packet(lab: TestLab, programs: Counting) -> None:
    attached = attach_tcx(programs.tc, lab.device, INGRESS)
    old, new = programs.tc, programs.tc_new
    updates = 0
    with flow(lab, packets=4000, per_second=10_000) as packets:
        while not packets.is_over:
            attached.update(new, expected_old=old)
            old, new = new, old
            updates += 1
        sent = packets.sent()
    attached.close()

    assert updates > 2
    assert programs.counted(old) + programs.counted(new) == sent
    assert min(programs.counted(old), programs.counted(new)) > 0


@needs_tcx
def test_closing_the_link_detaches_and_a_pin_holds_it(bpffs: Path) -> None:
    with idle() as program, attach_tcx(program, "lo", INGRESS) as link:
        link.pin(bpffs / "link")
        link.close()

        assert order_there() == [program.id]
        (bpffs / "link").unlink()
        wait_until(lambda: order_there() == [])  # the kernel lets go of it a moment later


def test_programs_run_in_the_order_they_were_attached(
    three: tuple[Program, Program, Program],
) -> None:
    first, second, third = three
    with attach_tcx(third, "lo", INGRESS):
        assert order_there() == [first.id, second.id, third.id]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("first", ["third", "first", "second"]),
        ("last", ["first", "second", "third"]),
        ("before", ["first", "third", "second"]),
        ("after", ["first", "second", "third"]),
    ],
)
def test_an_order_says_where_a_program_goes(
    three: tuple[Program, Program, Program], place: str, expected: list[str]
) -> None:
    anchors = [] if place in ("first", "last") else [three[1]]
    order = getattr(Order, place)(*anchors)
    with attach_tcx(three[2], LOOPBACK, INGRESS, order=order):
        ids = {program.name: program.id for program in three}

        assert order_there() == [ids[name] for name in expected]


def test_the_anchor_of_an_order_may_be_a_link_or_an_id(
    three: tuple[Program, Program, Program],
) -> None:
    first, second, third = three
    with idle("fourth") as fourth, attach_tcx(third, "lo", INGRESS) as link:
        with attach_tcx(fourth, "lo", INGRESS, order=Order.before(link)):
            assert order_there() == [first.id, second.id, fourth.id, third.id]
        with attach_tcx(fourth, "lo", INGRESS, order=Order.after(first.id)):
            assert order_there() == [first.id, fourth.id, second.id, third.id]


def test_an_anchor_that_is_not_there_is_told_with_those_that_are(
    three: tuple[Program, Program, Program],
) -> None:
    first, _, third = three
    with idle("stranger") as stranger:
        wanted = f"program id {stranger.id} is not attached at tcx-ingress of lo, so nothing can go"
        with pytest.raises(IdNotFoundError, match=wanted) as refused:
            attach_tcx(third, "lo", INGRESS, order=Order.before(stranger))

    assert f"program id {first.id} (held by link id" in str(refused.value)


def test_the_same_program_is_attached_once(three: tuple[Program, Program, Program]) -> None:
    with pytest.raises(HookBusyError, match=r"runs this program already: .* held by link id"):
        attach_tcx(three[0], "lo", INGRESS)


@needs_tcx
def test_a_hook_that_is_full_is_told() -> None:
    with contextlib.ExitStack() as held:
        for number in range(MOST_PROGRAMS):
            program = held.enter_context(idle(f"number_{number}"))
            held.enter_context(attach_tcx(program, "lo", INGRESS))
        one_more = held.enter_context(idle("one_more"))
        with pytest.raises(HookBusyError, match="no room") as refused:
            attach_tcx(one_more, "lo", INGRESS)

        assert refused.value.hint == "tcx-ingress of lo runs 63 programs"


@needs_tcx
def test_a_link_that_runs_another_program_than_expected_is_left_alone() -> None:
    with idle("old") as old, idle("new") as new, attach_tcx(old, "lo", INGRESS) as link:
        with pytest.raises(ProgramChangedError):
            link.update(new, expected_old=new)

        assert link.program_id() == old.id


def test_a_link_cannot_move_to_a_program_that_runs_there_already(
    three: tuple[Program, Program, Program],
) -> None:
    with (
        attach_tcx(three[2], "lo", INGRESS) as link,
        pytest.raises(HookBusyError, match="attached there already"),
    ):
        link.update(three[0])


@needs_tcx
def test_a_link_of_a_deleted_device_is_defunct() -> None:
    with Netlink() as netlink, idle("old") as old, idle("new") as new:
        device = netlink.create_veth("short")
        with attach_tcx(old, "short", INGRESS) as link:
            netlink.delete_device(device.ifindex)

            assert (link.info.ifindex, link.program_id()) == (0, old.id)
            with pytest.raises(
                InterfaceNotFoundError, match="device or cgroup of the link is gone"
            ):
                link.update(new, expected_old=old)
            link.detach()


def test_a_device_that_is_not_there_is_told() -> None:
    with idle() as program, pytest.raises(InterfaceNotFoundError, match="no network device 'no1'"):
        attach_tcx(program, "no1", INGRESS)


def test_programs_and_hooks_of_other_kinds_are_refused() -> None:
    with idle(kind=ProgramType.CGROUP_SKB) as other:
        with pytest.raises(WrongHookError, match="type cgroup_skb, and tcx-ingress runs sched_cls"):
            attach_tcx(other, "lo", INGRESS)
        with pytest.raises(WrongHookError, match="has no hook xdp; it has: tcx-ingress, tcx-egr"):
            attach_tcx(other, "lo", Hook.XDP)


def test_a_kernel_without_tcx_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with idle() as program, monkeypatch.context() as old_kernel:
        without_tcx(old_kernel)
        with pytest.raises(NotSupportedError, match="no tcx-ingress") as refused:
            attach_tcx(program, "lo", INGRESS)

    assert (refused.value.feature, refused.value.since) == ("tcx-ingress", "6.6")


@needs_tcx
def test_a_link_opened_again_goes_on(bpffs: Path) -> None:
    with idle("old") as old, idle("new") as new:
        with attach_tcx(old, "lo", EGRESS) as link:
            link.pin(bpffs / "link")
        with Link.from_pin(bpffs / "link") as again:
            again.update(new, expected_old=old)
            assert [one.program_id for one in tcx_programs(LOOPBACK, EGRESS)] == [new.id]
            again.detach()

    assert tcx_programs(LOOPBACK, EGRESS) == ()
