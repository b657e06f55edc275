"""Which device carries the default route, and which one's own ssh session."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bpfpin.errors import InterfaceNotFoundError
from bpfpin.sets.lockout.packets import Direction
from bpfpin.sets.lockout.ways import danger_of
from support.here import veth


def ip(*words: object) -> None:
    """Change the network by the command of that name."""
    subprocess.run(["ip", *map(str, words)], check=True)


@pytest.fixture(autouse=True)
def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may be in one."""
    monkeypatch.delenv("SSH_CONNECTION", raising=False)


@pytest.fixture
def device() -> Iterator[str]:
    """A device with addresses, whose routes end with it."""
    with veth() as name:
        for end in (name, f"{name}-peer"):
            ip("link", "set", end, "up")
        ip("addr", "add", "192.0.2.1/24", "dev", name)
        ip("addr", "add", "2001:db8::1/64", "dev", name, "nodad")
        yield name


def test_a_device_that_carries_nothing_special_is_in_no_danger(device: str) -> None:
    assert str(danger_of(device)) == ""


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_the_device_of_a_default_route_is_told(device: str, family: str) -> None:
    ip(family, "route", "add", "default", "dev", device)

    assert str(danger_of(device)) == "the default route"
    assert str(danger_of("lo")) == ""


def test_a_default_route_of_another_table_counts_too(device: str) -> None:
    ip("route", "add", "default", "dev", device, "table", 100)

    assert str(danger_of(device)) == "the default route"


def test_both_devices_of_a_default_route_with_two_ways_are_told(device: str) -> None:
    with veth() as second:
        ip("link", "set", second, "up")
        ways = [word for name in (device, second) for word in ("nexthop", "dev", name)]
        ip("route", "add", "default", *ways)

        assert (str(danger_of(device)), str(danger_of(second))) == ("the default route",) * 2


def test_a_route_that_refuses_packets_is_no_way_out(device: str) -> None:
    ip("-6", "route", "add", "unreachable", "default", "metric", 4000)
    try:
        assert str(danger_of(device)) == str(danger_of("lo")) == ""
    finally:
        ip("-6", "route", "del", "unreachable", "default", "metric", 4000)


def test_the_device_below_another_below_a_bridge_carries_what_that_does(device: str) -> None:
    ip("link", "add", "danger-br", "type", "bridge")
    try:
        ip("link", "set", device, "master", "danger-br")
        ip("link", "add", "link", "danger-br", "name", "danger-mac", "type", "macvlan")
        for name in ("danger-br", "danger-mac"):
            ip("link", "set", name, "up")
        ip("route", "add", "default", "dev", "danger-mac")

        assert str(danger_of(device)) == str(danger_of("danger-br")) == "the default route"
        assert str(danger_of(f"{device}-peer")) == ""
    finally:
        ip("link", "del", "danger-br")


@pytest.mark.parametrize("address", ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"])
def test_the_device_of_ones_own_ssh_session_is_told(
    device: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", f"198.51.100.9 50000 {address} 22")

    assert str(danger_of(device)) == "your ssh session from 198.51.100.9"
    assert str(danger_of("lo")) == ""


def test_an_ssh_session_is_found_where_sudo_took_the_variable_away(device: str) -> None:
    show = f"from bpfpin.sets.lockout.ways import danger_of; print(danger_of({device!r}))"
    stripped = ["env", "-u", "SSH_CONNECTION", sys.executable, "-c", show]
    # A shell between, as sudo is: it has the variable, and what it starts has not.
    line = '"$@"; exit $?'
    session = {**os.environ, "SSH_CONNECTION": "198.51.100.9 50000 192.0.2.1 22"}
    told = subprocess.run(
        ["sh", "-c", line, "sh", *stripped], env=session, check=True, capture_output=True, text=True
    )

    assert told.stdout.strip() == "your ssh session from 198.51.100.9"


def test_a_device_that_is_not_there_is_said_so() -> None:
    with pytest.raises(InterfaceNotFoundError):
        danger_of("nowhere")


@pytest.mark.parametrize(
    ("routes", "told"),
    [
        (["0.0.0.0/1", "128.0.0.0/1"], "the default route"),
        (["2000::/3"], "the default route"),
        (["10.0.0.0/8", "172.16.0.0/12"], ""),
    ],
)
def test_routes_to_half_of_all_addresses_are_default_routes(
    device: str, routes: list[str], told: str
) -> None:
    for route in routes:
        ip("route", "add", route, "dev", device)

    assert str(danger_of(device)) == told


def test_a_default_route_by_a_next_hop_of_its_own_is_told(device: str) -> None:
    ip("nexthop", "add", "id", 7, "via", "192.0.2.254", "dev", device)
    ip("route", "add", "default", "nhid", 7)

    assert str(danger_of(device)) == "the default route"


@contextmanager
def tunnel(*words: object) -> Iterator[str]:
    """Make a tunnel with the default route."""
    ip(*words)
    name = "danger-tun"
    try:
        ip("link", "set", name, "up")
        ip("route", "add", "default", "dev", name)
        yield name
    finally:
        ip("link", "del", name)


def test_the_device_below_a_tunnel_that_tells_its_other_end_is_told(device: str) -> None:
    words = ("id", 5, "remote", "192.0.2.77", "dstport", 4789)
    with (
        veth() as other,
        tunnel("link", "add", "danger-tun", "type", "vxlan", *words) as name,
    ):
        assert [str(danger_of(one)) for one in (name, device, other)] == [
            *["the default route"] * 2,
            "",
        ]
        packets = danger_of(device).packets(Direction.IN)

    assert "ARP request from 192.0.2.77 for 192.0.2.1" in {one.what for one in packets}
    assert any(one.what.startswith("tunnel packet (protocol 17") for one in packets)


def test_every_device_with_a_gateway_may_carry_a_tunnel_of_user_space(device: str) -> None:
    ip("route", "add", "203.0.113.0/24", "via", "192.0.2.254")
    with veth() as other, tunnel("tuntap", "add", "danger-tun", "mode", "tun") as name:
        told = [str(danger_of(one)) for one in (name, device, other)]

    assert told == ["the default route", "the default route", ""]


def test_an_ssh_session_to_this_host_itself_goes_over_lo(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "127.0.0.1 50000 127.0.0.1 22")
    packets = {one.what for one in danger_of("lo").packets(Direction.IN)}

    assert str(danger_of("lo")) == "your ssh session from 127.0.0.1"
    assert str(danger_of(device)) == ""
    assert {
        "IPv4 TCP SYN from 127.0.0.1 port 50000 to 127.0.0.1 port 22",
        "IPv4 TCP SYN-ACK from 127.0.0.1 port 22 to 127.0.0.1 port 50000",
    } <= packets
    assert not any("ARP" in one for one in packets)


def test_an_address_of_a_loopback_device_is_reached_over_another_one(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As routers have them; the client is a neighbour on the device."""
    ip("addr", "add", "203.0.113.1/32", "dev", "lo")
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.9 50000 203.0.113.1 22")
    try:
        told = str(danger_of(device)), str(danger_of("lo"))
    finally:
        ip("addr", "del", "203.0.113.1/32", "dev", "lo")

    assert told == ("your ssh session from 192.0.2.9", "")


def test_a_session_of_another_namespace_is_none_here(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ip("route", "add", "198.51.100.0/24", "dev", device)
    monkeypatch.setenv("SSH_CONNECTION", "198.51.100.9 50000 203.0.113.99 22")

    assert str(danger_of(device)) == ""


SSHD = """
import socket, sys
listener = socket.create_server(("192.0.2.1", 0))
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
print(client.getsockname()[1], flush=True)
sys.stdin.read()
"""


def test_where_nothing_tells_of_a_session_the_connections_of_sshd_count(
    device: str, tmp_path: Path
) -> None:
    """From tmux or a service; this one comes from the host itself, and so goes over lo."""
    binary = tmp_path / "sshd"
    binary.symlink_to(sys.executable)
    with subprocess.Popen(
        [binary, "-I", "-S", "-c", SSHD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as sshd:
        assert sshd.stdout is not None
        port = int(sshd.stdout.readline())
        told, packets = danger_of("lo"), danger_of("lo").packets(Direction.IN)
        sshd.communicate()

    assert str(told) == "an ssh session from 192.0.2.1"
    assert any(f"from 192.0.2.1 port {port} to 192.0.2.1" in one.what for one in packets)
    assert str(danger_of(device)) == ""
