"""XDP on real devices: exact counts, drops, modes, and devices that somebody else holds."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from bpfpin.attach.netlink import Netlink
from bpfpin.attach.xdp import XdpHolder, attach_xdp, xdp_holder
from bpfpin.errors import (
    HookBusyError,
    InterfaceNotFoundError,
    NotSupportedError,
    WrongHookError,
)
from bpfpin.insn import exit_, mov_imm
from bpfpin.loading.collection import Loaded, load
from bpfpin.objects.programs.program import Program
from bpfpin.objfile.reader import read_object
from bpfpin.spec import FunctionSpec, ProgramSpec, XdpMode
from bpfpin.uapi import ProgramType, XdpAction
from support.lab import TestLab
from support.objects import compiled

PORT = 9999
LOOPBACK = 1  # a device without native mode


@pytest.fixture
def counting() -> Iterator[Loaded]:
    """A program that counts UDP packets to one port, and its maps."""
    with load(read_object(compiled("udp_port"))) as loaded:
        yield loaded


@pytest.fixture
def program(counting: Loaded) -> Program:
    """Just the program."""
    return counting.programs["count_port"]


@pytest.fixture
def other() -> Iterator[Program]:
    """Somebody else's program."""
    function = FunctionSpec("theirs", "xdp", (mov_imm(0, XdpAction.XDP_PASS), exit_()))
    spec = ProgramSpec("theirs", ProgramType.XDP, "xdp", (function,), license="GPL")
    with Program.load(spec) as loaded:
        yield loaded


@pytest.mark.parametrize("mode", [XdpMode.NATIVE, XdpMode.GENERIC])
def test_packets_to_one_port_are_counted_exactly(
    lab: TestLab, counting: Loaded, program: Program, mode: XdpMode
) -> None:
    with attach_xdp(program, lab.device, mode=mode) as link:
        lab.flood(1000, port=PORT)
        lab.flood(200, port=PORT + 1)

        assert link.mode is mode
    assert counting.maps["packets"].total(0) == 1000


def test_drop_drops_and_pass_lets_through(lab: TestLab, counting: Loaded, program: Program) -> None:
    with attach_xdp(program, lab.device), socket.socket(type=socket.SOCK_DGRAM) as receiver:
        receiver.bind((lab.host_address, PORT))
        receiver.settimeout(0.3)
        lab.flood(1, port=PORT, size_bytes=10)
        passed = receiver.recv(64)
        counting.maps["verdict"][0] = XdpAction.XDP_DROP
        lab.flood(1, port=PORT)
        with pytest.raises(TimeoutError):
            receiver.recv(64)

    assert passed == bytes(10)
    assert counting.maps["packets"].total(0) == 2


def test_auto_takes_native_mode_where_the_driver_has_it(lab: TestLab, program: Program) -> None:
    with attach_xdp(program, lab.device) as link:
        held = xdp_holder(lab.ifindex)

        assert (link.mode, link.note) == (XdpMode.NATIVE, "")
        assert held == XdpHolder(program.id, "count_port", XdpMode.NATIVE, link.id)
    assert xdp_holder(lab.ifindex) is None


def test_auto_takes_generic_mode_and_tells_the_drivers_reason(program: Program) -> None:
    with attach_xdp(program, "lo") as link:
        assert link.mode is XdpMode.GENERIC
        assert link.note.startswith("lo: generic mode, because native mode was refused: ")
        assert "driver does not support XDP" in link.note
    assert xdp_holder(LOOPBACK) is None


def test_a_program_is_attached_from_within_an_event_loop(program: Program) -> None:
    """pyroute2, which is asked for the reason, has an event loop of its own."""

    async def attach() -> XdpMode:
        with attach_xdp(program, "lo") as link:
            return link.mode

    assert asyncio.run(attach()) is XdpMode.GENERIC


@pytest.mark.parametrize("mode", [XdpMode.NATIVE, XdpMode.OFFLOAD])
def test_a_mode_that_the_driver_lacks_is_refused_when_asked_for(
    program: Program, mode: XdpMode
) -> None:
    with pytest.raises(NotSupportedError) as caught:
        attach_xdp(program, "lo", mode=mode)

    assert caught.value.hint
    assert xdp_holder(LOOPBACK) is None


@pytest.mark.parametrize("wanted", [XdpMode.AUTO, XdpMode.NATIVE, XdpMode.GENERIC])
@pytest.mark.parametrize("held", [XdpMode.NATIVE, XdpMode.GENERIC])
def test_a_device_held_by_a_link_is_refused_unchanged(
    lab: TestLab, program: Program, other: Program, *, held: XdpMode, wanted: XdpMode
) -> None:
    with attach_xdp(other, lab.device, mode=held) as link:
        with pytest.raises(HookBusyError) as caught:
            attach_xdp(program, lab.device, mode=wanted)
        there = xdp_holder(lab.ifindex)

        assert there == XdpHolder(other.id, "theirs", held, link.id)
        assert caught.value.holder == str(there)
        assert (
            f"program id {other.id} (theirs) in {held.value} mode, held by link id {link.id}"
            in (str(caught.value))
        )


@pytest.mark.parametrize("wanted", [XdpMode.AUTO, XdpMode.NATIVE, XdpMode.GENERIC])
@pytest.mark.parametrize("held", [XdpMode.NATIVE, XdpMode.GENERIC])
def test_a_device_held_by_netlink_is_refused_unchanged(
    lab: TestLab, program: Program, other: Program, *, held: XdpMode, wanted: XdpMode
) -> None:
    with Netlink() as netlink:
        netlink.attach_xdp(other.fd, lab.ifindex, held)
    with pytest.raises(HookBusyError, match="held by netlink, without a link"):
        attach_xdp(program, lab.device, mode=wanted)

    assert xdp_holder(lab.ifindex) == XdpHolder(other.id, "theirs", held, None)


def test_what_netlink_attached_it_detaches(lab: TestLab, other: Program) -> None:
    with Netlink() as netlink:
        netlink.attach_xdp(other.fd, lab.ifindex, XdpMode.NATIVE)
        netlink.detach_xdp(lab.ifindex, XdpMode.NATIVE)

    assert xdp_holder(lab.ifindex) is None


def test_a_missing_device_is_told_with_near_names(lab: TestLab, program: Program) -> None:
    with pytest.raises(InterfaceNotFoundError) as caught:
        attach_xdp(program, lab.device + "x")

    assert lab.device in str(caught.value)
    assert f"did you mean {lab.device}" in caught.value.hint


def test_a_missing_ifindex_is_told(program: Program) -> None:
    with pytest.raises(InterfaceNotFoundError, match="ifindex 99999"):
        attach_xdp(program, 99999)


def test_a_program_of_another_type_is_refused() -> None:
    function = FunctionSpec("filter", "tc", (mov_imm(0, 0), exit_()))
    spec = ProgramSpec("filter", ProgramType.SCHED_CLS, "tc", (function,), license="GPL")
    with Program.load(spec) as tc, pytest.raises(WrongHookError, match="sched_cls, not xdp"):
        attach_xdp(tc, "lo")
