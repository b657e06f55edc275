"""Tunnels as rtnetlink describes them: which packets they make on the device below."""

from __future__ import annotations

import ipaddress
import struct
import sys

import pytest

from bpfpin.attach.routes import NetDevice, Underlay, underlays

HERE, THERE = "2001:db8::1", "2001:db8::2"
LOWER = 7
LINK, LOCAL, REMOTE, FLAGS, MODE, ENCAPSULATION, TO_PORT = 1, 2, 3, 8, 9, 15, 18  # IFLA_IPTUN_*


def underlay(kind: str, data: dict[int, bytes]) -> Underlay:
    """Return how a tunnel of that kind is carried; *data* are attributes of IFLA_INFO_DATA."""
    ends = (
        {LOCAL: HERE, REMOTE: THERE}
        if kind == "ip6tnl"
        else {LOCAL: "192.0.2.1", REMOTE: "192.0.2.2"}
    )
    packed = {number: ipaddress.ip_address(end).packed for number, end in ends.items()}
    known = {LINK: number(LOWER), **packed, **data}
    device = NetDevice(9, "tunnel", 769, 0, kind=kind, data=known)
    return underlays(device, {9: device})[0]


def number(value: int) -> bytes:
    return struct.pack("=I", value)


@pytest.mark.parametrize(
    ("kind", "mode", "protocols"),
    [
        ("ip6tnl", 41, (41,)),  # ip6ip6
        ("ip6tnl", 4, (4,)),  # ipip6
        ("ip6tnl", 0, (41, 4)),  # any
        ("ipip", 4, (4,)),
        ("ipip", 137, (137,)),  # MPLS
        ("sit", 41, (41,)),
        ("sit", 4, (4,)),
        ("sit", 0, (41, 4)),
    ],
)
def test_the_mode_of_a_tunnel_is_the_protocol_of_its_packets(
    kind: str, mode: int, protocols: tuple[int, ...]
) -> None:
    below = underlay(kind, {MODE: bytes((mode,))})

    assert (below.ifindex, below.protocols) == (LOWER, protocols)
    assert (below.local_port, below.peer_port) == (0, 0)


def test_a_tunnel_in_ipv6_has_the_encapsulation_limit_unless_that_is_off() -> None:
    usual, off = (underlay("ip6tnl", {FLAGS: number(flags)}) for flags in (0x30000, 0x30001))

    assert (usual.has_limit, off.has_limit) == (True, False)
    assert not underlay("sit", {}).has_limit


@pytest.mark.parametrize(("type_", "is_udp"), [(0, False), (1, True), (2, True)])
def test_a_tunnel_in_udp_is_seen_as_udp(type_: int, is_udp: bool) -> None:
    """FOU and GUE (`ip link add … encap fou encap-dport 5555`)."""
    encapsulation = type_.to_bytes(2, sys.byteorder)
    below = underlay(
        "ipip", {MODE: b"\4", ENCAPSULATION: encapsulation, TO_PORT: (5555).to_bytes(2, "big")}
    )

    assert below.protocols == ((17,) if is_udp else (4,))
    assert below.peer_port == (5555 if is_udp else 0)
