"""The packets of a lock-out check, byte by byte where a program would look."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest

from bpfpin.sets.lockout import packets as probes
from bpfpin.sets.lockout.packets import Direction, Flow, Packet, Segment, Tunnel

MAC = bytes.fromhex("02000000aabb")
SEGMENT = Segment(MAC, mtu=1500)
ENDS = {
    4: (ip_address("192.0.2.1"), ip_address("198.51.100.7")),
    6: (ip_address("2001:db8::1"), ip_address("2001:db8:1::7")),
}
OUTSIDE = [ip_address("8.8.8.8"), ip_address("9.9.9.9"), ip_address("2001:db8:2::1")]


def flow(family: int) -> Flow:
    return Flow(ENDS[family][0], 22, ENDS[family][1], 50000)


def total(data: bytes) -> int:
    """Return the Internet checksum of data that has one: 0 if it is right."""
    data += b"\0" * (len(data) % 2)
    added: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while added >> 16:
        added = (added & 0xFFFF) + (added >> 16)
    return ~added & 0xFFFF


def tcp_of(packet: Packet) -> bytes:
    """Return the TCP segment of an Ethernet frame, without its padding."""
    if packet.data[14] >> 4 == 4:
        length = int.from_bytes(packet.data[16:18], "big")
        return packet.data[34 : 14 + length]
    return packet.data[54 : 54 + int.from_bytes(packet.data[18:20], "big")]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("direction", list(Direction))
def test_a_connection_has_packets_of_all_sizes_with_right_checksums(
    family: int, direction: Direction
) -> None:
    packets = probes.of_flow(flow(family), SEGMENT, direction)
    local, peer = ENDS[family]
    pair = peer.packed + local.packed if direction is Direction.IN else local.packed + peer.packed

    assert min(len(one.data) for one in packets) == (60 if family == 4 else 74)
    assert max(len(one.data) for one in packets) == 1514
    for packet in packets:
        tcp = tcp_of(packet)
        head = (
            struct.pack(">BBH", 0, 6, len(tcp)) if family == 4 else struct.pack(">II", len(tcp), 6)
        )
        assert total(pair + head + tcp) == 0
        if family == 4:
            assert total(packet.data[14:34]) == 0
        ports = struct.unpack(">HH", tcp[:4])
        assert ports == ((50000, 22) if direction is Direction.IN else (22, 50000))


def test_the_one_who_connects_sends_the_syn() -> None:
    theirs = probes.of_flow(flow(4), SEGMENT, Direction.IN)
    ours = probes.of_flow(flow(4), SEGMENT, Direction.OUT)
    way_out = Flow(ENDS[4][0], 49152, ENDS[4][1], 22, is_ours=True)
    back = probes.of_flow(way_out, SEGMENT, Direction.IN)

    assert [tcp_of(packets[0])[13] for packets in (theirs, ours, back)] == [0x02, 0x12, 0x12]
    assert [tcp_of(theirs[at])[13] for at in (1, 2)] == [0x10, 0x18]


def test_data_has_the_timestamps_that_most_connections_agree_on() -> None:
    syn, bare, *data = (tcp_of(one) for one in probes.of_flow(flow(4), SEGMENT, Direction.IN))

    assert (syn[12] >> 4, bare[12] >> 4) == (8, 5)
    assert {tcp[12] >> 4 for tcp in data} == {8}
    assert {tcp[20:24] for tcp in data} == {bytes.fromhex("0101080a")}


@pytest.mark.parametrize("direction", list(Direction))
def test_neighbours_ask_and_answer(direction: Direction) -> None:
    request, reply = probes.of_neighbours(*ENDS[4], SEGMENT, direction)
    asked, told = probes.of_neighbours(*ENDS[6], SEGMENT, direction)
    sender = ENDS[4][direction is Direction.IN]

    assert (request.data[:6], reply.data[12:14]) == (b"\xff" * 6, b"\x08\x06")
    assert [one.data[20:22] for one in (request, reply)] == [b"\0\1", b"\0\2"]
    assert request.data[28:32] == sender.packed
    assert (asked.data[:2], asked.data[54], told.data[54]) == (b"\x33\x33", 135, 136)
    assert (asked.data[21], len(asked.data)) == (255, 86)
    for one in (asked, told):
        body = one.data[54:]
        assert total(one.data[22:54] + struct.pack(">II", len(body), 58) + body) == 0


def test_a_device_without_ethernet_has_bare_packets_and_no_neighbours() -> None:
    bare = Segment(has_ethernet=False, mtu=1400)
    packets = probes.of_flow(flow(4), bare, Direction.IN)

    assert packets[0].data[0] == 0x45
    assert max(len(one.data) for one in packets) == 1400
    assert probes.of_neighbours(*ENDS[4], bare, Direction.IN) == []


def test_vlans_and_the_largest_frame_that_the_kernel_takes() -> None:
    tagged = Segment(MAC, vlans=(10, 20), mtu=9000)
    packets = probes.of_flow(flow(4), tagged, Direction.IN)

    assert packets[0].data[12:22].hex() == "8100000a810000140800"
    assert max(len(one.data) for one in packets) <= probes.FRAME_MAX + 8


def test_a_tunnel_is_seen_as_packets_of_its_own() -> None:
    gre = probes.of_tunnel(Tunnel(*ENDS[4], (47,)), SEGMENT, Direction.IN)
    vxlan = probes.of_tunnel(Tunnel(*ENDS[6], (17,), 4789, 4790), SEGMENT, Direction.OUT)

    assert {one.data[23] for one in gre} == {47}
    assert [struct.unpack(">HH", one.data[54:58]) for one in vxlan] == [(4789, 4790)] * 2
    assert [len(one.data) for one in vxlan] == [14 + 40 + 64, 1514]


def test_a_tunnel_in_ipv6_has_its_option_first_and_each_of_its_protocols() -> None:
    """As ip6_tnl_xmit() of net/ipv6/ip6_tunnel.c builds the packets."""
    both = Tunnel(*ENDS[6], (41, 4), has_limit=True)
    packets = probes.of_tunnel(both, SEGMENT, Direction.OUT)

    # Behind Ethernet and the fixed header: next header, length in units of 8 bytes beyond the
    # first, the limit (option 4, one byte, 4), padding (option 1, one byte).
    assert [one.data[20] for one in packets] == [60] * 4
    assert [one.data[54:62].hex() for one in packets] == [
        *["2900040104010100"] * 2,
        *["0400040104010100"] * 2,
    ]
    assert [len(one.data) for one in packets] == [14 + 40 + 8 + 64, 1514] * 2
    assert "protocol 4" in packets[-1].what


def test_nobody_in_particular_comes_from_a_neighbour_and_from_far_in_both_families() -> None:
    segment = Segment(MAC, next_hops=(ENDS[4][1], ENDS[6][1]))
    packets = probes.of_hosts((ENDS[4][0], ENDS[6][0]), segment, OUTSIDE, Direction.IN)
    kinds = {" ".join(one.what.split()[:2]) for one in packets}

    assert {"ARP request", "ARP reply", "IPv4 TCP", "IPv6 TCP", "IPv6 neighbour"} == kinds
    assert {one.choice.split()[0] for one in packets if "8.8.8.8" in one.what} == {"outside"}
    assert {one.choice for one in packets if str(ENDS[4][1]) in one.what} == {""}
    assert len({one.data for one in packets}) == len(packets)
