"""Links: created, pinned, found again, moved to another program, detached."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bpfpin.attach.netlink import Netlink
from bpfpin.attach.xdp import xdp_holder
from bpfpin.errors import (
    AttachError,
    PermissionDeniedError,
    PinKindError,
    ProgramChangedError,
)
from bpfpin.insn import exit_, mov_imm
from bpfpin.objects.link import Link
from bpfpin.objects.programs.program import Program
from bpfpin.spec import FunctionSpec, ProgramSpec
from bpfpin.syscall.call import fail_call
from bpfpin.uapi import AttachType, LinkType, ProgramType, XdpAction

LOOPBACK = 1


def xdp_program(name: str, action: XdpAction = XdpAction.XDP_PASS) -> Program:
    function = FunctionSpec(name, "xdp", (mov_imm(0, action), exit_()))
    return Program.load(ProgramSpec(name, ProgramType.XDP, "xdp", (function,), license="GPL"))


@pytest.fixture
def programs() -> Iterator[tuple[Program, Program]]:
    """Two programs of the same type."""
    with xdp_program("first") as first, xdp_program("second") as second:
        yield first, second


@pytest.fixture
def link(programs: tuple[Program, Program]) -> Iterator[Link]:
    """The first program on the loopback device of the test's namespace."""
    with Link.create(programs[0], LOOPBACK, AttachType.XDP) as made:
        yield made


def test_a_link_reports_its_program_and_device(
    link: Link, programs: tuple[Program, Program]
) -> None:
    assert link.info.type == LinkType.XDP
    assert link.info.ifindex == LOOPBACK
    assert link.program_id() == programs[0].id


def test_closing_an_unpinned_link_detaches(programs: tuple[Program, Program]) -> None:
    with Link.create(programs[0], LOOPBACK, AttachType.XDP):
        attached = xdp_holder(LOOPBACK)

    assert attached is not None
    assert xdp_holder(LOOPBACK) is None


def test_a_pinned_link_outlives_its_handle(bpffs: Path, programs: tuple[Program, Program]) -> None:
    with Link.create(programs[0], LOOPBACK, AttachType.XDP) as link:
        link.pin(bpffs / "link")
    with Link.from_pin(bpffs / "link") as again:
        assert again.program_id() == programs[0].id
        (bpffs / "link").unlink()
    assert xdp_holder(LOOPBACK) is None


def test_a_link_is_opened_by_its_id(link: Link) -> None:
    with Link.from_id(link.id) as again:
        assert again.info == link.info


def test_a_link_moves_to_another_program(link: Link, programs: tuple[Program, Program]) -> None:
    first, second = programs
    link.update(second, expected_old=first)

    assert link.program_id() == second.id


def test_a_link_that_runs_another_program_than_expected_is_left_alone(
    link: Link, programs: tuple[Program, Program]
) -> None:
    first, second = programs
    link.update(second)
    with pytest.raises(ProgramChangedError):
        link.update(first, expected_old=first)

    assert link.program_id() == second.id


@pytest.mark.parametrize("names_the_old", [True, False])
def test_a_refusal_of_a_link_that_nobody_changed_is_no_change(
    link: Link, programs: tuple[Program, Program], *, names_the_old: bool
) -> None:
    first, second = programs
    with fail_call(1, errno.EPERM), pytest.raises(PermissionDeniedError, match="nobody changed it"):
        link.update(second, expected_old=first if names_the_old else None)

    assert link.program_id() == first.id


def test_a_detached_link_stays_and_runs_nothing(
    link: Link, programs: tuple[Program, Program]
) -> None:
    link.detach()

    assert link.info.ifindex == 0
    assert xdp_holder(LOOPBACK) is None
    with pytest.raises(AttachError, match="gone"):
        link.update(programs[1])


def test_a_link_of_a_deleted_device_is_defunct(programs: tuple[Program, Program]) -> None:
    with Netlink() as netlink, ExitStack() as stack:
        device = netlink.create_veth("short")
        link = stack.enter_context(Link.create(programs[0], device.ifindex, AttachType.XDP))
        netlink.delete_device(device.ifindex)

        assert link.info.ifindex == 0
        with pytest.raises(AttachError, match="gone"):
            link.update(programs[1])
    assert "short" not in dict(socket.if_nameindex()).values()


def test_a_program_where_a_link_was_asked_for_is_told(
    bpffs: Path, programs: tuple[Program, Program]
) -> None:
    programs[0].pin(bpffs / "program")
    with pytest.raises(PinKindError, match="a link was asked for, a program is there"):
        Link.from_pin(bpffs / "program")
