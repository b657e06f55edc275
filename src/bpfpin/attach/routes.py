"""Devices of the current network namespace: their routes, addresses, and the devices above them.

Asked of rtnetlink(7). Attribute numbers are those of linux/rtnetlink.h, if_addr.h, if_link.h and
if_tunnel.h.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from bpfpin.errors import BpfError
from bpfpin.syscall.rtnetlink import RequestFlag, RouteCommand, attribute, attributes, request

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg
_NEXT_HOP = struct.Struct("=HBBi")  # rtnexthop
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg
_DEVICE = struct.Struct("=BxHiII")  # ifinfomsg
_U32 = struct.Struct("=I")
RTN_UNICAST = 1
RTA_DST, RTA_SRC, RTA_OIF, RTA_GATEWAY, RTA_MULTIPATH, RTA_VIA = 1, 2, 4, 5, 9, 18
IFA_ADDRESS, IFA_LOCAL = 1, 2
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_LINKINFO, IFLA_EXT_MASK, IFLA_LINK_NETNSID = 18, 29, 37
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_VLAN_ID = 1
SKIP_STATISTICS = 8  # RTEXT_FILTER_SKIP_STATS
ARPHRD_ETHER, ARPHRD_LOOPBACK = 1, 772
IFF_LOOPBACK, IFF_NOARP = 0x8, 0x80
# Half of all addresses, as OpenVPN's 0.0.0.0/1 and 128.0.0.0/1, down to 2000::/3: what is longer is
# a route to somewhere.
DEFAULT_LENGTH = 3
# What is received by the device that IFLA_LINK names before they see it; a veth names its peer.
_STACKED = frozenset({"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec", "xfrm"})
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_UDP = 17


@dataclass(frozen=True, slots=True)
class _TunnelKind:
    """Where IFLA_INFO_DATA of a kind of tunnel has its ends, and IP's number for its packets.

    *port* is the attribute of the UDP port (in network byte order), *usual_port* that without one.
    """

    link: int
    locals: tuple[int, ...]
    remotes: tuple[int, ...]
    protocol: int
    port: int = 0
    usual_port: int = 0


_GRE = _TunnelKind(1, (6,), (7,), 47)
_IP = _TunnelKind(1, (2,), (3,), 4)
_TUNNELS = {
    **dict.fromkeys(("gre", "gretap", "erspan", "ip6gre", "ip6gretap", "ip6erspan"), _GRE),
    "ipip": _IP,
    "sit": _TunnelKind(1, (2,), (3,), 41),
    "ip6tnl": _TunnelKind(1, (2,), (3,), 41),
    "vti": _TunnelKind(1, (4,), (5,), 50),
    "vti6": _TunnelKind(1, (4,), (5,), 50),
    "vxlan": _TunnelKind(3, (4, 17), (2, 16), _UDP, 15, 4789),
    "geneve": _TunnelKind(0, (), (2, 7), _UDP, 5, 6081),
}
# What does not tell rtnetlink where its other end is.
_OPAQUE = frozenset({"tun", "ppp", "l2tp", "wireguard"})


@dataclass(frozen=True, slots=True)
class NetDevice:
    """A device; *kind* is what it was made as, *data* what its kind is told (IFLA_INFO_DATA)."""

    ifindex: int
    name: str
    hardware_type: int
    flags: int
    mac: bytes = bytes(6)
    mtu: int = 1500
    kind: str = ""
    master: int = 0
    link: int = 0
    data: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def is_loopback(self) -> bool:
        """Whether what it sends comes back in."""
        return bool(self.flags & IFF_LOOPBACK)

    @property
    def has_ethernet(self) -> bool:
        """Whether its packets have headers of Ethernet."""
        return self.hardware_type in (ARPHRD_ETHER, ARPHRD_LOOPBACK)

    @property
    def has_neighbours(self) -> bool:
        """Whether it asks who has an address (ARP, neighbour discovery)."""
        return self.has_ethernet and not self.flags & (IFF_LOOPBACK | IFF_NOARP)


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """An address of a device, with the network that is reached there."""

    ifindex: int
    address: Address
    prefix_length: int


@dataclass(frozen=True, slots=True)
class Route:
    """One way out: a device, and the *gateway* if it is not reached directly."""

    ifindex: int
    gateway: Address | None = None
    prefix_length: int = 0


@dataclass(frozen=True, slots=True)
class Underlay:
    """What carries a tunnel: device *ifindex*, and its ends as far as they are known."""

    ifindex: int
    local: Address | None = None
    peer: Address | None = None
    protocol: int = 0
    local_port: int = 0
    peer_port: int = 0


def default_routes() -> list[Route]:
    """Return the ways of the default routes of all tables, IPv4 and IPv6.

    A route to half of all addresses counts as one.
    """
    return [way for way in _routes() if way.prefix_length <= DEFAULT_LENGTH]


def default_route_devices() -> set[int]:
    """Return the ifindexes that a default route of any table goes out by."""
    return {way.ifindex for way in default_routes()}


def route_to(address: Address, source: Address | None = None) -> Route | None:
    """Return the way that packets to *address* take, from *source* if that is ours; None: none."""
    body = [attribute(RTA_DST, address.packed)]
    bits = 8 * len(address.packed)
    if source is not None:
        body.append(attribute(RTA_SRC, source.packed))
    source_bits = bits if source is not None else 0
    head = _ROUTE.pack(_FAMILIES[address.version], bits, source_bits, 0, 0, 0, 0, 0, 0)
    try:
        answers = request(RouteCommand.GETROUTE, head + b"".join(body), target=str(address))
    except BpfError:
        return route_to(address) if source is not None else None
    ways = [way for answer in answers for way in _ways(attributes(answer[_ROUTE.size :]), bits)]
    return ways[0] if ways else None


def addresses() -> list[InterfaceAddress]:
    """Return the addresses of all devices."""
    found = []
    for answer in _dump(RouteCommand.GETADDR, bytes(_ADDRESS.size), "addresses"):
        _, length, _, _, ifindex = _ADDRESS.unpack_from(answer)
        told = attributes(answer[_ADDRESS.size :])
        # Between two ends IFA_ADDRESS is that of the other one.
        packed = told.get(IFA_LOCAL) or told.get(IFA_ADDRESS)
        if packed:
            found.append(InterfaceAddress(ifindex, ipaddress.ip_address(packed), length))
    return found


def devices_with_address(address: Address) -> set[int]:
    """Return the ifindexes of the devices that have *address*."""
    return {one.ifindex for one in addresses() if one.address == address}


def devices() -> dict[int, NetDevice]:
    """Return all devices by ifindex."""
    body = bytes(_DEVICE.size) + attribute(IFLA_EXT_MASK, _U32.pack(SKIP_STATISTICS))
    found = (_device(answer) for answer in _dump(RouteCommand.GETLINK, body, "devices"))
    return {one.ifindex: one for one in found}


def stacked(there: Mapping[int, NetDevice]) -> Iterator[tuple[int, int]]:
    """Yield pairs of devices, the lower one first: what the upper one receives came in there.

    VLANs, bonds, bridges and the like; not tunnels.
    """
    for device in there.values():
        if device.master:
            yield device.ifindex, device.master
        if device.kind in _STACKED and device.link:
            yield device.link, device.ifindex


def vlan_of(device: NetDevice) -> int | None:
    """Return the number of a VLAN, None for a device that is none."""
    if device.kind != "vlan" or IFLA_VLAN_ID not in device.data:
        return None
    return int.from_bytes(device.data[IFLA_VLAN_ID][:2], "little")


def underlays(device: NetDevice, there: Mapping[int, NetDevice]) -> list[Underlay]:
    """Return what carries the packets of a tunnel; none for a device that is no tunnel.

    Where a tunnel does not say where its other end is, as one of a program of user space, that is
    every device with a gateway, or else every one with a route.
    """
    found: list[Underlay] = []
    kind = _TUNNELS.get(device.kind)
    if kind is not None:
        found = list(_of_kernel(device, kind))
    elif device.kind not in _OPAQUE:
        return []
    if found:
        return found
    tunnels = {one.ifindex for one in there.values() if one.kind in (*_TUNNELS, *_OPAQUE)}
    loops = {one.ifindex for one in there.values() if one.is_loopback}
    ways = [way for way in _routes() if way.ifindex not in tunnels | loops]
    found_ways = [way for way in ways if way.gateway is not None] or ways
    return [Underlay(ifindex) for ifindex in sorted({way.ifindex for way in found_ways})]


def _of_kernel(device: NetDevice, kind: _TunnelKind) -> Iterator[Underlay]:
    link = _number(device.data.get(kind.link, b""))
    local, peer = (_first(device.data, where) for where in (kind.locals, kind.remotes))
    port = int.from_bytes(device.data.get(kind.port, b"")[:2], "big") or kind.usual_port
    way = route_to(peer, local) if peer is not None else None
    ports = (port, port) if kind.port else (0, 0)
    for ifindex in dict.fromkeys(filter(None, (link, way.ifindex if way else 0))):
        yield Underlay(ifindex, local, peer, kind.protocol, *ports)


def _first(data: Mapping[int, bytes], kinds: Iterable[int]) -> Address | None:
    """Return the first address that is there and is one of a host."""
    for kind in kinds:
        packed = data.get(kind, b"")
        if any(packed) and len(packed) in (4, 16):
            address = ipaddress.ip_address(packed)
            return None if address.is_multicast else address
    return None


def _device(answer: bytes) -> NetDevice:
    _, hardware_type, ifindex, flags, _ = _DEVICE.unpack_from(answer)
    told = attributes(answer[_DEVICE.size :])
    information = attributes(told.get(IFLA_LINKINFO, b""))
    is_here = IFLA_LINK_NETNSID not in told  # else IFLA_LINK is of another namespace
    return NetDevice(
        ifindex,
        _text(told.get(IFLA_IFNAME, b"")),
        hardware_type,
        flags,
        told.get(IFLA_ADDRESS, bytes(6))[:6].ljust(6, b"\0"),
        _number(told.get(IFLA_MTU, b"")),
        _text(information.get(IFLA_INFO_KIND, b"")),
        _number(told.get(IFLA_MASTER, b"")),
        _number(told.get(IFLA_LINK, b"")) if is_here else 0,
        attributes(information.get(IFLA_INFO_DATA, b"")),
    )


def _routes() -> Iterator[Route]:
    for answer in _dump(RouteCommand.GETROUTE, bytes(_ROUTE.size), "routes"):
        fields = _ROUTE.unpack_from(answer)
        prefix_length, kind = fields[1], fields[7]
        if kind == RTN_UNICAST:
            yield from _ways(attributes(answer[_ROUTE.size :]), prefix_length)


def _ways(told: dict[int, bytes], prefix_length: int) -> Iterator[Route]:
    if RTA_OIF in told:
        yield Route(_number(told[RTA_OIF]), _gateway(told), prefix_length)
    data, at = told.get(RTA_MULTIPATH, b""), 0
    while at + _NEXT_HOP.size <= len(data):
        length, _, _, ifindex = _NEXT_HOP.unpack_from(data, at)
        inner = attributes(data[at + _NEXT_HOP.size : at + length])
        yield Route(ifindex, _gateway(inner), prefix_length)
        at += max(_NEXT_HOP.size, length + 3 & ~3)


def _gateway(told: dict[int, bytes]) -> Address | None:
    # RTA_VIA has a family before an address that may be of the other one.
    packed = told.get(RTA_GATEWAY) or told.get(RTA_VIA, b"")[2:]
    return ipaddress.ip_address(packed) if len(packed) in (4, 16) else None


def _number(data: bytes) -> int:
    return int(_U32.unpack_from(data)[0]) if len(data) >= _U32.size else 0


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="surrogateescape")


def _dump(command: RouteCommand, body: bytes, target: str) -> list[bytes]:
    return request(command, body, flags=RequestFlag.DUMP, target=target)
