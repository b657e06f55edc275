"""A failure of this process is an error: it does not mean that a device or a route is not there."""

from __future__ import annotations

import errno
import subprocess
from ipaddress import ip_address
from pathlib import Path

import pytest

from bpfpin.attach import interface
from bpfpin.attach.clsact import attach_clsact, clsact_filters
from bpfpin.attach.devices import all_devices
from bpfpin.attach.query import running_on
from bpfpin.attach.routes import route_to
from bpfpin.errors import InterfaceNotFoundError, SyscallError
from bpfpin.host.attachments import CgroupWalk
from bpfpin.host.pins import map_pins
from bpfpin.objects.maps.map import Map
from bpfpin.spec import Hook
from bpfpin.syscall.call import fail_call
from bpfpin.uapi import ProgramType
from support.descriptors import none_left
from support.hooks import idle
from support.maps import FLOWS

LOOPBACK = 1
FAR = ip_address("203.0.113.7")


def ip(line: str) -> None:
    subprocess.run(["ip", *line.split()], check=True)


def test_without_descriptors_a_device_is_not_gone() -> None:
    assert (interface.ifindex("lo"), interface.name_of(LOOPBACK)) == (LOOPBACK, "lo")
    with none_left():
        with pytest.raises(SyscallError, match=r"ifindex 1: .*socket: EMFILE"):
            interface.name_of(LOOPBACK)
        with pytest.raises(SyscallError, match=r"lo: .*socket: EMFILE"):
            interface.ifindex("lo")


@pytest.mark.parametrize("index", [0, -1, 4_000_000, 1 << 31, 1 << 32])
def test_a_number_that_no_device_has_has_no_name(index: int) -> None:
    assert interface.name_of(index) == ""
    with pytest.raises(InterfaceNotFoundError, match=f"ifindex {index} in this .* are: lo"):
        interface.ifindex(index)


@pytest.mark.parametrize(
    "name", ["", "no_such", "lo\0", "lo" + "x" * 14, "x" * 300, "\udcff", chr(0xD800)]
)
def test_a_name_that_no_device_has_is_not_found(name: str) -> None:
    with pytest.raises(InterfaceNotFoundError, match=r"no network device .* there are: lo"):
        interface.ifindex(name)


def test_an_alternative_name_is_one_of_the_device() -> None:
    ip("link property add dev lo altname loop_of_tests")
    try:
        assert interface.ifindex("loop_of_tests") == LOOPBACK
    finally:
        ip("link property del dev lo altname loop_of_tests")


def test_without_descriptors_a_filter_is_not_gone() -> None:
    with idle() as program:
        attached = attach_clsact(program, "lo", Hook.TC_INGRESS)
        with none_left(), pytest.raises(SyscallError):
            attached.detach()

        assert [entry.program_id for entry in clsact_filters(LOOPBACK)] == [program.id]
        attached.detach()
        assert clsact_filters(LOOPBACK) == ()


@pytest.mark.parametrize("kind", ["", "unreachable", "prohibit", "blackhole", "throw"])
def test_where_nothing_leads_there_is_no_route(kind: str) -> None:
    if kind:
        ip(f"route add {kind} {FAR}")
    try:
        assert route_to(FAR) is None
        assert route_to(FAR, ip_address("127.0.0.1")) is None
        assert route_to(ip_address("2001:db8::7")) is None
    finally:
        if kind:
            ip(f"route del {kind} {FAR}")


def test_without_descriptors_a_route_is_not_gone() -> None:
    """The lock-out check would think that no device leads to the ssh client."""
    local = ip_address("127.0.0.1")
    way = route_to(local)
    with none_left():
        for source in (None, local):
            with pytest.raises(SyscallError, match=r"127\.0\.0\.1: .*RTM_GETROUTE: EMFILE"):
                route_to(local, source)

    assert way is not None
    assert way.ifindex == LOOPBACK


def test_without_memory_the_programs_of_a_device_are_not_gone() -> None:
    devices = all_devices()
    with fail_call(1, errno.ENOMEM), pytest.raises(SyscallError, match="ENOMEM"):
        list(running_on(devices, [Hook.TCX_INGRESS]))

    gone = [row for row in devices if row.ifindex == LOOPBACK]
    with fail_call(1, errno.ENODEV):
        assert list(running_on(gone, [Hook.TCX_INGRESS])) == []
    with fail_call(1, errno.ENXIO):  # a device that is no netkit
        assert list(running_on(gone, [Hook.NETKIT_PRIMARY])) == []


def test_without_memory_a_pin_is_not_gone(bpffs: Path) -> None:
    """Where `load --migrate` asks who else uses a map."""
    with Map.create(FLOWS) as flows:
        flows.pin(bpffs / "flows")
        assert map_pins(bpffs)[flows.id] == [str(bpffs / "flows")]
        with fail_call(1, errno.ENOMEM), pytest.raises(SyscallError, match="ENOMEM"):
            map_pins(bpffs)
        with fail_call(1, errno.ENOENT):  # removed meanwhile
            assert flows.id not in map_pins(bpffs)


def test_without_memory_what_a_cgroup_runs_is_not_nothing() -> None:
    walk = CgroupWalk([], [ProgramType.CGROUP_SKB])
    with fail_call(1, errno.ENOMEM):
        walk.attachments()

    (note,) = walk.notes
    assert note.startswith("what cgroup / runs is not shown: ")
    assert "ENOMEM" in note
