"""Asking hooks who is attached: device and cgroup hooks by bpf(2), classic tc by netlink."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfpin.attach import clsact
from bpfpin.attach.cgroup import attach_cgroup
from bpfpin.attach.cgroup_path import open_cgroup
from bpfpin.attach.clsact import Filter, FilterPlace, attach_clsact, clsact_filters
from bpfpin.attach.netlink import Netlink
from bpfpin.attach.query import (
    cgroup_programs,
    is_known,
    tcx_programs,
)
from bpfpin.attach.tcx import attach_tcx
from bpfpin.errors import CgroupNotFoundError, InterfaceNotFoundError
from bpfpin.objects.link import Link
from bpfpin.spec import Hook
from bpfpin.uapi import AttachFlag, AttachType, ProgramType
from support.hooks import idle, idle_at, new_cgroup, without_hook
from support.kernel_needs import has_tcx

LOOPBACK = 1
EGRESS = AttachType.CGROUP_INET_EGRESS


@pytest.fixture
def cgroup(tmp_path: Path) -> Iterator[Path]:
    """A cgroup of the test's own."""
    with new_cgroup(tmp_path / "cgroup2") as made:
        yield made


@pytest.fixture
def ifindex() -> Iterator[int]:
    """A device of the test's own."""
    with Netlink() as netlink:
        device = netlink.create_veth("asked")
        yield device.ifindex
        if "asked" in dict(socket.if_nameindex()).values():
            netlink.delete_device(device.ifindex)


@pytest.mark.usefixtures("tcx")
def test_a_device_hook_tells_programs_and_links_in_order() -> None:
    with (
        idle("first") as first,
        idle("second") as second,
        attach_tcx(first, LOOPBACK, Hook.TCX_EGRESS) as one,
        attach_tcx(second, LOOPBACK, Hook.TCX_EGRESS) as other,
    ):
        found = [(each.program_id, each.link_id) for each in tcx_programs(1, Hook.TCX_EGRESS)]

        assert found == [(first.id, one.id), (second.id, other.id)]
        assert is_known(LOOPBACK, Hook.TCX_INGRESS)
        assert tcx_programs(LOOPBACK, Hook.TCX_INGRESS) == ()


def test_a_hook_that_the_kernel_lacks_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    without_hook(monkeypatch)

    assert not is_known(LOOPBACK, Hook.TCX_INGRESS)
    assert tcx_programs(LOOPBACK, Hook.TCX_INGRESS) == ()
    assert cgroup_programs(0, EGRESS) == ()


def test_a_device_that_is_gone_is_told_or_has_no_filters(ifindex: int) -> None:
    with Netlink() as netlink:
        netlink.delete_device(ifindex)

    assert clsact_filters(ifindex) == ()
    if has_tcx():
        with pytest.raises(InterfaceNotFoundError):
            tcx_programs(ifindex, Hook.TCX_INGRESS)
    else:
        assert tcx_programs(ifindex, Hook.TCX_INGRESS) == ()


def test_classic_tc_tells_each_filter_with_its_program(ifindex: int) -> None:
    with idle("comes") as comes, idle("goes") as goes:
        attach_clsact(goes, ifindex, Hook.TC_EGRESS, priority=2, handle=9)
        attach_clsact(comes, ifindex, Hook.TC_INGRESS, priority=1, handle=8)

        assert clsact_filters(ifindex) == (
            Filter(FilterPlace(ifindex, Hook.TC_INGRESS, 1, 8), "bpf", "comes", comes.id, True),
            Filter(FilterPlace(ifindex, Hook.TC_EGRESS, 2, 9), "bpf", "goes", goes.id, True),
        )
        assert clsact.qdiscs() == {ifindex: "clsact"}


def test_two_hundred_filters_are_all_told(ifindex: int) -> None:
    with contextlib.ExitStack() as held:
        programs = [held.enter_context(idle(f"n{number}")) for number in range(200)]
        for program in programs:
            attach_clsact(program, ifindex, Hook.TC_INGRESS)
        found = {each.program_id for each in clsact_filters(ifindex)}

        assert found == {program.id for program in programs}


def test_a_cgroup_tells_its_own_programs_and_those_above(cgroup: Path) -> None:
    child = cgroup / "child"
    child.mkdir()
    with (
        idle_at(Hook.CGROUP_INET_EGRESS, ProgramType.CGROUP_SKB) as above,
        idle_at(Hook.CGROUP_INET_EGRESS, ProgramType.CGROUP_SKB) as own,
        attach_cgroup(above, cgroup, Hook.CGROUP_INET_EGRESS),
        attach_cgroup(own, child, Hook.CGROUP_INET_EGRESS),
    ):
        (found,) = cgroup_programs(child, EGRESS)
        effective = cgroup_programs(child, EGRESS, is_effective=True)
        ids = {above.id, own.id}

        assert (found.program_id, found.flags) == (own.id, AttachFlag.ALLOW_MULTI)
        assert ids <= {each.program_id for each in effective}
    child.rmdir()


def test_more_programs_than_there_is_room_for_are_asked_again(cgroup: Path) -> None:
    child = cgroup / "child"
    child.mkdir()
    with (
        idle_at(Hook.CGROUP_INET_EGRESS, ProgramType.CGROUP_SKB) as program,
        contextlib.ExitStack() as held,
    ):
        for folder in (cgroup, child):
            opened = held.enter_context(open_cgroup(folder))
            for _ in range(40):
                held.enter_context(Link.create(program, opened.fileno(), EGRESS))
        found = cgroup_programs(child, EGRESS, is_effective=True)

        assert [each.program_id for each in found].count(program.id) == 80
    child.rmdir()


def test_a_cgroup_that_was_removed_is_told(cgroup: Path) -> None:
    child = cgroup / "child"
    child.mkdir()
    with open_cgroup(child) as opened:
        child.rmdir()
        with pytest.raises(CgroupNotFoundError, match="the cgroup is gone"):
            cgroup_programs(opened.fileno(), EGRESS)
    with pytest.raises(CgroupNotFoundError, match="there is no cgroup"):
        cgroup_programs(child, EGRESS)
