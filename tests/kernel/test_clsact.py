"""Classic tc: filters of our own in the qdisc clsact, beside those of others, with real packets."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import support
from bpfpin.attach import clsact
from bpfpin.attach.clsact import PRIORITY, ClsactFilter, FilterPlace, attach_clsact, clsact_filters
from bpfpin.errors import (
    BpfError,
    HookBusyError,
    InterfaceNotFoundError,
    PermissionDeniedError,
    ProgramChangedError,
    UsageError,
    WrongHookError,
)
from bpfpin.spec import Hook
from bpfpin.syscall.errno_table import syscall_error
from bpfpin.syscall.rtnetlink import RouteCommand, request
from bpfpin.uapi import ProgramType
from support.hooks import Counting, counting, idle
from support.lab import TestLab
from support.nobody import nobody
from support.tools import need
from support.traffic import flow

INGRESS, EGRESS = Hook.TC_INGRESS, Hook.TC_EGRESS


@pytest.fixture
def programs() -> Iterator[Counting]:
    """The programs that count."""
    with counting() as made:
        yield made


@pytest.fixture
def device() -> Iterator[str]:
    """A device of the test's own, without qdiscs."""
    tc("ip", "link", "add", "clsact0", "type", "veth", "peer", "clsact1")
    yield "clsact0"
    subprocess.run(["ip", "link", "del", "clsact0"], check=False, capture_output=True)


def tc(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def qdisc_of(device: str) -> str | None:
    return clsact.qdiscs().get(socket.if_nametoindex(device))


def opened_again(held: ClsactFilter, program_id: int) -> ClsactFilter:
    place = FilterPlace(held.ifindex, held.hook, held.priority, held.handle)
    return ClsactFilter(place, program_id=program_id, made_qdisc=held.made_qdisc)


def test_the_end_of_a_with_block_detaches(lab: TestLab, programs: Counting) -> None:
    with attach_clsact(programs.tc, lab.device, INGRESS) as attached:
        lab.flood(3)
        inside = programs.counted(programs.tc)
        running = attached.program_id()
    lab.flood(3)

    assert (inside, running) == (3, programs.tc.id)
    assert programs.counted(programs.tc) == 3
    assert clsact_filters(lab.ifindex) == ()


def test_a_filter_at_ingress_sees_every_packet_that_comes(lab: TestLab, programs: Counting) -> None:
    attached = attach_clsact(programs.tc, lab.device, INGRESS)
    lab.flood(50)

    assert programs.counted(programs.tc) == 50
    assert attached.program_id() == programs.tc.id
    assert (attached.priority, attached.handle) == (PRIORITY, programs.tc.id)


def test_a_filter_at_egress_sees_every_packet_that_goes(lab: TestLab, programs: Counting) -> None:
    attach_clsact(programs.tc, lab.device, EGRESS)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(20):
            sender.sendto(b"x", (lab.peer_address, 9999))

    assert programs.counted(programs.tc) == 20


def test_updates_under_traffic_lose_no_packet(lab: TestLab, programs: Counting) -> None:
    attached = attach_clsact(programs.tc, lab.device, INGRESS)
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


def test_filters_of_two_programs_both_run(lab: TestLab, programs: Counting) -> None:
    first = attach_clsact(programs.tc, lab.device, INGRESS)
    second = attach_clsact(programs.tc_new, lab.device, INGRESS)
    lab.flood(10)

    assert (first.made_qdisc, second.made_qdisc) == (True, False)
    assert programs.counted(programs.tc) == programs.counted(programs.tc_new) == 10


def test_tc_shows_the_filter_as_one_of_its_own(device: str) -> None:
    need("tc")
    with idle("shown") as program:
        attach_clsact(program, device, INGRESS, priority=7, handle=3)
        found: list[dict[str, Any]] = json.loads(
            tc("tc", "-j", "filter", "show", "dev", device, "ingress")
        )
        (shown,) = [one for one in found if "options" in one]

        assert (shown["pref"], shown["kind"], shown["protocol"]) == (7, "bpf", "all")
        assert shown["options"]["handle"] == "0x3"
        assert shown["options"]["direct-action"] is True
        assert shown["options"]["prog"]["id"] == program.id


def test_the_same_program_is_attached_once(device: str) -> None:
    with idle() as program:
        attach_clsact(program, device, INGRESS)
        with pytest.raises(HookBusyError, match="runs this program already") as refused:
            attach_clsact(program, device, INGRESS, priority=5)

        assert refused.value.holder == f"filter {program.id:#x} of priority {PRIORITY}"
        assert len(clsact.filters(socket.if_nametoindex(device), INGRESS)) == 1


def test_a_handle_that_is_taken_is_left_alone(device: str) -> None:
    with idle("first") as first, idle("second") as second:
        there = attach_clsact(first, device, INGRESS, handle=1)
        with pytest.raises(HookBusyError, match="handle is there already"):
            attach_clsact(second, device, INGRESS, handle=1)
        beside = attach_clsact(second, device, INGRESS, handle=2)

        assert (there.program_id(), beside.program_id()) == (first.id, second.id)


def test_a_filter_of_another_chain_is_not_ours(device: str, bpffs: Path) -> None:
    with idle("ours") as ours, idle("theirs") as theirs:
        attached = attach_clsact(ours, device, INGRESS, priority=5, handle=1)
        theirs.pin(bpffs / "theirs")
        words = f"chain 3 prio 5 handle 1 protocol all bpf da pinned {bpffs}/theirs".split()
        tc("tc", "filter", "add", "dev", device, "ingress", *words)

        assert attached.program_id() == ours.id
        attached.detach()
        assert [one.program_id for one in clsact_filters(attached.ifindex)] == [theirs.id]


def test_without_a_handle_a_free_one_is_taken(device: str) -> None:
    with idle("first") as first, idle("second") as second:
        taken = attach_clsact(first, device, INGRESS, handle=second.id)
        attached = attach_clsact(second, device, INGRESS)

        assert attached.handle == taken.handle + 1


def test_the_qdisc_we_made_goes_with_its_last_filter(device: str) -> None:
    with idle() as program:
        attached = attach_clsact(program, device, INGRESS)
        before = qdisc_of(device)
        attached.detach()

        assert (before, attached.made_qdisc) == ("clsact", True)
        assert qdisc_of(device) is None
        assert attached.program_id() == 0


def test_a_qdisc_in_which_something_is_left_stays(device: str) -> None:
    with idle("ours") as ours, idle("theirs") as theirs:
        attached = attach_clsact(ours, device, INGRESS)
        other = attach_clsact(theirs, device, EGRESS)
        attached.detach()

        assert qdisc_of(device) == "clsact"
        assert other.program_id() == theirs.id


def test_a_qdisc_of_others_stays(device: str) -> None:
    tc("tc", "qdisc", "add", "dev", device, "clsact")
    with idle() as program:
        attached = attach_clsact(program, device, EGRESS)
        attached.detach()

    assert attached.made_qdisc is False
    assert qdisc_of(device) == "clsact"


def test_a_refused_filter_leaves_no_qdisc(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(command: RouteCommand, body: bytes, **options: Any) -> list[bytes]:
        if command is RouteCommand.NEWTFILTER:
            raise syscall_error("RTM_NEWTFILTER", errno.ENOMEM)
        return request(command, body, **options)

    monkeypatch.setattr(clsact, "request", refusing)
    with idle() as program, pytest.raises(BpfError, match="ENOMEM"):
        attach_clsact(program, device, INGRESS)

    assert qdisc_of(device) is None


def test_the_qdisc_ingress_serves_ingress_and_has_no_egress(device: str) -> None:
    """The kernel would take a filter for its egress, and run it at ingress."""
    tc("tc", "qdisc", "add", "dev", device, "ingress")
    with idle("one") as one, idle("other") as other:
        attached = attach_clsact(one, device, INGRESS)
        with pytest.raises(HookBusyError, match="has the qdisc ingress where clsact would be"):
            attach_clsact(other, device, EGRESS)
        found = clsact.filters(attached.ifindex, INGRESS)
        attached.detach()

        assert [each.program_id for each in found] == [one.id]
        assert qdisc_of(device) == "ingress"


def test_a_filter_that_somebody_changed_is_left_alone(device: str) -> None:
    with idle("ours") as ours, idle("new") as new, idle("theirs") as theirs:
        attached = attach_clsact(ours, device, INGRESS)
        opened_again(attached, ours.id).update(theirs)

        with pytest.raises(ProgramChangedError, match=f"runs program id {theirs.id}; program id"):
            attached.update(new, expected_old=ours)
        with pytest.raises(ProgramChangedError) as refused:
            attached.detach()
        assert refused.value.holder == f"program id {theirs.id}"
        assert attached.program_id() == theirs.id


def test_a_filter_that_somebody_removed_is_not_made_again(device: str) -> None:
    with idle("ours") as ours, idle("new") as new:
        attached = attach_clsact(ours, device, INGRESS)
        tc("tc", "filter", "del", "dev", device, "ingress")

        assert attached.program_id() == 0
        with pytest.raises(ProgramChangedError, match="is gone"):
            attached.update(new, expected_old=ours)
        with pytest.raises(ProgramChangedError, match="is gone"):
            attached.update(new)
        attached.detach()
    assert qdisc_of(device) is None


def test_a_filter_that_goes_while_it_is_updated_is_not_made_again(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with idle("ours") as ours, idle("new") as new:
        attached = attach_clsact(ours, device, INGRESS)
        tc("tc", "qdisc", "del", "dev", device, "clsact")
        monkeypatch.setattr(ClsactFilter, "program_id", lambda _: ours.id)

        with pytest.raises(ProgramChangedError, match="is gone"):
            attached.update(new, expected_old=ours)
    assert qdisc_of(device) is None


def test_a_filter_opened_again_goes_on(device: str) -> None:
    with idle("ours") as ours, idle("new") as new:
        again = opened_again(attach_clsact(ours, device, INGRESS), ours.id)
        again.update(new, expected_old=ours)
        again.detach()

    assert qdisc_of(device) is None


def test_a_device_that_is_gone_is_told(device: str) -> None:
    with idle("ours") as ours, idle("new") as new:
        attached = attach_clsact(ours, device, INGRESS)
        tc("ip", "link", "del", device)

        with pytest.raises(InterfaceNotFoundError):
            attached.program_id()
        with pytest.raises(InterfaceNotFoundError):
            attached.update(new, expected_old=ours)
        attached.detach()
        with pytest.raises(InterfaceNotFoundError):
            attach_clsact(ours, device, INGRESS)


def test_programs_hooks_and_numbers_that_do_not_fit_are_refused(device: str) -> None:
    with idle() as program, idle(kind=ProgramType.XDP) as other:
        with pytest.raises(WrongHookError, match="type xdp, and tc-egress runs sched_cls"):
            attach_clsact(other, device, EGRESS)
        with pytest.raises(WrongHookError, match="classic tc has no hook tcx-ingress"):
            attach_clsact(program, device, Hook.TCX_INGRESS)
        with pytest.raises(UsageError, match="priority 65536 is not between 1 and 65535"):
            attach_clsact(program, device, INGRESS, priority=65536)
        with pytest.raises(UsageError, match="handle 0 is not between"):
            attach_clsact(program, device, INGRESS, handle=0)

    assert qdisc_of(device) is None


def test_without_the_capability_it_is_named(device: str) -> None:
    with idle() as program, nobody(), pytest.raises(PermissionDeniedError) as refused:
        attach_clsact(program, device, INGRESS)

    assert refused.value.missing == ("CAP_NET_ADMIN",)
    assert "RTM_NEWQDISC: EPERM" in str(refused.value)


# As root without CAP_NET_ADMIN: what bpf(2) allows, and what rtnetlink refuses.
WITHOUT_NET_ADMIN = """
import sys
from bpfpin import Map, MapSpec, MapType, PermissionDeniedError
from bpfpin.attach.clsact import attach_clsact
from bpfpin.attach.netlink import Netlink
from bpfpin.spec import Hook
from support.hooks import idle
with idle() as program, Map.create(MapSpec("devices", MapType.DEVMAP, 4, 4, 1)):
    try:
        attach_clsact(program, sys.argv[1], Hook.TC_INGRESS)
    except PermissionDeniedError as error:
        print(*error.missing, error)
with Netlink() as link:
    try:
        link.create_veth("veth9")
    except PermissionDeniedError as error:
        print(*error.missing, error)
"""


def test_cap_sys_admin_does_not_stand_for_cap_net_admin_in_rtnetlink(device: str) -> None:
    """In bpf(2) it does (bpf_net_capable() of kernel/bpf/syscall.c), for programs and devmaps."""
    need("setpriv")
    dropped = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]
    done = subprocess.run(
        [*dropped, sys.executable, "-c", WITHOUT_NET_ADMIN, device],
        env={**os.environ, "PYTHONPATH": str(Path(support.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    of_tc, of_link = done.stdout.splitlines()

    assert of_tc.startswith("CAP_NET_ADMIN clsact of ")
    assert "needs CAP_NET_ADMIN (RTM_NEWQDISC: EPERM, " in of_tc
    assert of_link.startswith("CAP_NET_ADMIN cannot create the device 'veth9': ")
