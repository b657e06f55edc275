"""Test packets of a lock-out check: TCP of an ssh session, ARP, neighbour discovery, tunnels.

Nothing here touches the kernel. Layouts are those of RFC 826 (ARP), 791, 8200, 9293 (TCP) and 4861
(neighbour discovery); checksums are right, since some programs verify them.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from bpfpin.records import dataclass

Address = IPv4Address | IPv6Address

SSH_PORT: Final = 22
HIGH_PORT: Final = 49152  # the first of those that a client is given
FRAME_MAX: Final = 3400  # of BPF_PROG_TEST_RUN: a page without headroom and tailroom
PEER_MAC: Final = bytes.fromhex("020000000001")  # locally administered
_BROADCAST: Final = b"\xff" * 6
_FRAME_MIN: Final = 60
_ETHERNET: Final = 14
_IPV4, _ARP, _IPV6, _VLAN = 0x0800, 0x0806, 0x86DD, 0x8100
_TCP, _UDP, _ICMPV6, _DESTINATION_OPTIONS = 6, 17, 58, 60
# Of that header all but its first byte, the next protocol: its length, the option of the limit (RFC
# 2473, 4.1.1), which Linux sends with 4, and padding.
_ENCAPSULATION_LIMIT = bytes((0, 4, 1, 4, 1, 1, 0))
_SYN, _ACK, _PSH = 0x02, 0x10, 0x08
_SOLICITATION, _ADVERTISEMENT = 135, 136
_OPENING_OPTIONS: Final = bytes.fromhex("020405b40103030704020101")  # MSS 1460, window scale, SACK
_TIMESTAMPS: Final = bytes.fromhex("0101080a0000000100000001")  # RFC 7323: most segments have them
_SIZES: Final = (1, 128, 576, 1200)  # bytes of data beside the smallest and the largest frame


class Direction(Enum):
    """Which way a hook sees packets."""

    IN = "in"
    OUT = "out"


@dataclass(frozen=True, slots=True)
class Flow:
    """A TCP connection, seen from this host, which the peer opened unless *is_ours*."""

    local: Address
    local_port: int
    peer: Address
    peer_port: int
    is_ours: bool = False


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What packets of a tunnel look like on the device below it; *protocols* are IP's numbers.

    UDP carries tunnels from *peer_port* to *local_port*. With *has_limit* an IPv6 header of options
    comes first.
    """

    local: Address
    peer: Address
    protocols: tuple[int, ...]
    local_port: int = 0
    peer_port: int = 0
    has_limit: bool = False


@dataclass(frozen=True, slots=True)
class Segment:
    """Where packets are seen: the device's address, the VLANs around them, and the largest frame.

    A device without Ethernet headers (a tunnel) has *has_ethernet* off. *next_hops* are the
    neighbours, of either family, that packets go through.
    """

    mac: bytes = bytes(6)
    vlans: tuple[int, ...] = ()
    mtu: int = 1500
    has_ethernet: bool = True
    has_neighbours: bool = True
    next_hops: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Packet:
    """One test packet; *what* names it. Of those with the same *choice* one has to pass.

    *addresses* are those in it.
    """

    what: str
    data: bytes
    choice: str = ""
    addresses: tuple[Address, ...] = ()


def of_flow(
    flow: Flow, segment: Segment, direction: Direction, *, choice: str = ""
) -> list[Packet]:
    """Return the packets of a connection, small to large, in the order in which they come."""
    is_in = direction is Direction.IN
    ends = _ends(flow, is_in=is_in)
    where = f"from {ends[0]} port {ends[1]} to {ends[2]} port {ends[3]}"
    family = "IPv4" if flow.local.version == 4 else "IPv6"
    # The side that opens the connection sends the SYN, the other one the SYN-ACK.
    is_opening = is_in != flow.is_ours
    largest = min(segment.mtu, FRAME_MAX - _ETHERNET) - _ip_size(flow.local)
    # The header of TCP without options, and the one option that data segments carry.
    largest -= 20 + len(_TIMESTAMPS)
    sizes = [size for size in (*_SIZES, largest) if 0 < size <= largest]
    made = [
        ("TCP SYN" if is_opening else "TCP SYN-ACK", _SYN if is_opening else _SYN | _ACK, 0),
        ("TCP ACK", _ACK, 0),
        *((f"TCP data ({size} bytes)", _ACK | _PSH, size) for size in dict.fromkeys(sizes)),
    ]
    return [
        Packet(
            f"{family} {name} {where}",
            framed(
                _ip(*_pair(flow, is_in=is_in), _TCP, _tcp(flow, flags, size, is_in=is_in)),
                segment,
                is_in=is_in,
            ),
            f"{choice} {name}" if choice else "",
            (flow.local, flow.peer),
        )
        for name, flags, size in made
    ]


def of_neighbours(
    local: Address, peer: Address, segment: Segment, direction: Direction
) -> list[Packet]:
    """Return what ARP, or neighbour discovery, says between *local* and its neighbour *peer*."""
    if not segment.has_ethernet or not segment.has_neighbours:
        return []
    is_in = direction is Direction.IN
    sender, target = (peer, local) if is_in else (local, peer)
    macs = (PEER_MAC, segment.mac) if is_in else (segment.mac, PEER_MAC)
    if isinstance(sender, IPv4Address) and isinstance(target, IPv4Address):
        frames = [
            (
                f"ARP request from {sender} for {target}",
                _BROADCAST,
                _arp(1, (macs[0], sender), (bytes(6), target)),
            ),
            (
                f"ARP reply from {sender} to {target}",
                macs[1],
                _arp(2, (macs[0], sender), (macs[1], target)),
            ),
        ]
        return [
            Packet(what, _frame((to, macs[0]), _ARP, body, segment.vlans))
            for what, to, body in frames
        ]
    assert isinstance(sender, IPv6Address)
    assert isinstance(target, IPv6Address)
    # The solicited-node multicast address (RFC 4291, 2.7.1), and its Ethernet address (RFC 2464,
    # 7).
    group = IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + target.packed[13:])
    asked = _neighbour(_SOLICITATION, 0, target, bytes((1, 1)) + macs[0])
    # Flags: solicited, override. Option 2 is the link-layer address of the target, 1 above that of
    # the sender (RFC 4861, 4.4 and 4.6.1).
    advertised = _neighbour(_ADVERTISEMENT, 0x60000000, sender, bytes((2, 1)) + macs[0])
    pairs = [
        (
            f"IPv6 neighbour solicitation from {sender} for {target}",
            group,
            b"\x33\x33" + group.packed[12:],
            asked,
        ),
        (f"IPv6 neighbour advertisement from {sender} to {target}", target, macs[1], advertised),
    ]
    return [
        Packet(what, _frame((mac, macs[0]), _IPV6, _icmpv6(sender, to, body), segment.vlans))
        for what, to, mac, body in pairs
    ]


def of_tunnel(tunnel: Tunnel, segment: Segment, direction: Direction) -> list[Packet]:
    """Return packets of a tunnel as the device below it sees them; their contents do not matter."""
    is_in = direction is Direction.IN
    pair = (tunnel.peer, tunnel.local) if is_in else (tunnel.local, tunnel.peer)
    options = _ENCAPSULATION_LIMIT if tunnel.has_limit else b""
    headers = _ip_size(tunnel.local) + (1 + len(options) if options else 0)
    largest = min(segment.mtu, FRAME_MAX - _ETHERNET) - headers
    ports = (tunnel.peer_port, tunnel.local_port)
    packets = []
    for protocol, size in itertools.product(tunnel.protocols, (64, largest)):
        first, inner = protocol, bytes(size)
        if protocol == _UDP:
            inner = _udp(pair, ports if is_in else ports[::-1], bytes(size - 8))
        if options:
            first, inner = _DESTINATION_OPTIONS, bytes((protocol,)) + options + inner
        what = f"tunnel packet (protocol {protocol}, {size} bytes) from {pair[0]} to {pair[1]}"
        packets.append(Packet(what, framed(_ip(*pair, first, inner), segment, is_in=is_in)))
    return packets


def of_hosts(
    locals_: Iterable[Address], segment: Segment, outside: Iterable[Address], direction: Direction
) -> list[Packet]:
    """Return packets of arbitrary hosts: SSH in and out, with a neighbour and from *outside*.

    Of the hosts outside, one of each family has to get through: a program that keeps a part of the
    Internet out does not cut.
    """
    packets: list[Packet] = []
    outside = tuple(outside)
    for local in locals_:
        hops = [hop for hop in segment.next_hops if hop.version == local.version]
        for hop in hops:
            packets += of_neighbours(local, hop, segment, direction)
        peers = [(hop, "") for hop in hops]
        peers += [
            (host, f"outside {host.version}") for host in outside if host.version == local.version
        ]
        for peer, choice in peers:
            packets += of_flow(
                Flow(local, SSH_PORT, peer, HIGH_PORT), segment, direction, choice=choice
            )
            way_back = f"{choice} back" if choice else ""
            packets += of_flow(
                Flow(local, HIGH_PORT, peer, SSH_PORT, is_ours=True),
                segment,
                direction,
                choice=way_back,
            )
    return packets


def framed(packet: bytes, segment: Segment, *, is_in: bool) -> bytes:
    """Return an IP packet as the device sees it."""
    if not segment.has_ethernet:
        return packet
    macs = (segment.mac, PEER_MAC) if is_in else (PEER_MAC, segment.mac)
    kind = _IPV4 if packet[0] >> 4 == 4 else _IPV6
    return _frame(macs, kind, packet, segment.vlans)


def _ends(flow: Flow, *, is_in: bool) -> tuple[Address, int, Address, int]:
    if is_in:
        return flow.peer, flow.peer_port, flow.local, flow.local_port
    return flow.local, flow.local_port, flow.peer, flow.peer_port


def _pair(flow: Flow, *, is_in: bool) -> tuple[Address, Address]:
    return (flow.peer, flow.local) if is_in else (flow.local, flow.peer)


def _ip_size(address: Address) -> int:
    return 20 if address.version == 4 else 40


def _frame(macs: tuple[bytes, bytes], kind: int, body: bytes, vlans: tuple[int, ...]) -> bytes:
    """Return a frame; *macs* are those of the receiver and the sender."""
    tags = b"".join(struct.pack(">HH", _VLAN, vlan) for vlan in vlans)
    # Padded as Ethernet does, so that a program that checks lengths against the headers sees the
    # usual excess.
    return (b"".join(macs) + tags + struct.pack(">H", kind) + body).ljust(_FRAME_MIN, b"\0")


def _ip(sender: Address, target: Address, protocol: int, body: bytes) -> bytes:
    if isinstance(sender, IPv6Address):
        return (
            struct.pack(">IHBB", 0x60000000, len(body), protocol, 64) + _both(sender, target) + body
        )
    # 0x45: version 4 and a header of five words. 0x4000: "do not fragment", as TCP sets it for path
    # MTU discovery.
    head = struct.pack(">BBHHHBB", 0x45, 0, 20 + len(body), 1, 0x4000, 64, protocol)
    ends = _both(sender, target)
    return head + struct.pack(">H", _checksum(head + ends)) + ends + body


def _tcp(flow: Flow, flags: int, size: int, *, is_in: bool) -> bytes:
    _, source, _, target = _ends(flow, is_in=is_in)
    options = _OPENING_OPTIONS if flags & _SYN else _TIMESTAMPS if size else b""
    acknowledged = 1 if flags & _ACK else 0
    length = 5 + len(options) // 4
    head = struct.pack(">HHIIBB", source, target, 1, acknowledged, length << 4, flags)
    unsummed = struct.pack(">H", 0) + options + bytes(size)
    window = struct.pack(">H", 65535)
    pair = _pair(flow, is_in=is_in)
    checksum = _checksum(
        _pseudo(pair, _TCP, len(head) + 6 + len(options) + size) + head + window + unsummed
    )
    return head + window + struct.pack(">HH", checksum, 0) + options + bytes(size)


def _udp(pair: tuple[Address, Address], ports: tuple[int, int], data: bytes) -> bytes:
    head = struct.pack(">HHH", *ports, 8 + len(data))
    # A checksum that comes out as 0 is sent as all ones (RFC 768): 0 means that there is none.
    checksum = _checksum(_pseudo(pair, _UDP, 8 + len(data)) + head + b"\0\0" + data) or 0xFFFF
    return head + struct.pack(">H", checksum) + data


def _arp(operation: int, *ends: tuple[bytes, Address]) -> bytes:
    head = struct.pack(">HHBBH", 1, _IPV4, 6, 4, operation)
    return head + b"".join(mac + address.packed for mac, address in ends)


def _neighbour(kind: int, flags: int, target: Address, option: bytes) -> bytes:
    return struct.pack(">BBHI", kind, 0, 0, flags) + target.packed + option


def _icmpv6(sender: Address, target: Address, body: bytes) -> bytes:
    checksum = _checksum(_pseudo((sender, target), _ICMPV6, len(body)) + body)
    message = body[:2] + struct.pack(">H", checksum) + body[4:]
    # The hop limit of 255 says that no router was between.
    return (
        struct.pack(">IHBB", 0x60000000, len(message), _ICMPV6, 255)
        + _both(sender, target)
        + message
    )


def _pseudo(pair: tuple[Address, Address], protocol: int, length: int) -> bytes:
    if pair[0].version == 4:
        return _both(*pair) + struct.pack(">BBH", 0, protocol, length)
    return _both(*pair) + struct.pack(">II", length, protocol)


def _both(sender: Address, target: Address) -> bytes:
    return sender.packed + target.packed


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    data = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def once(packets: Iterable[Packet]) -> Iterator[Packet]:
    """Yield each packet once, in order."""
    yield from {(packet.data, packet.choice): packet for packet in packets}.values()
