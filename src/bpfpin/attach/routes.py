"""Routes, addresses and stacked devices of the current network namespace, read by rtnetlink(7).

Attribute numbers are those of linux/rtnetlink.h, if_addr.h, if_link.h and if_tunnel.h.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field, replace

from bpfpin.records import dataclass
from bpfpin.syscall.errno_table import NoRouteError
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
# The longest prefix of a default route. OpenVPN makes two of half of all addresses (0.0.0.0/1 and
# 128.0.0.0/1), and 2000::/3 is all of the global IPv6 Internet.
DEFAULT_LENGTH = 3
# Kinds of devices whose packets the device of IFLA_LINK receives first; that of a veth is its peer.
_STACKED = frozenset({"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec", "xfrm"})
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_UDP = 17


@dataclass(frozen=True, slots=True)
class _TunnelKind:
    """The attributes of IFLA_INFO_DATA with the ends of a kind of tunnel, and its IP protocols.

    *port* is the attribute of the UDP port (in network byte order), *usual_port* that without one.
    *mode* is the attribute of the one protocol in use, 0 for all. *flags* is that of IP6_TNL_F_*.
    *encapsulation* is that of the type of a UDP header around all (`ip link add … encap fou`); the
    attribute three after it is the port at the other end.
    """

    link: int
    locals: tuple[int, ...]
    remotes: tuple[int, ...]
    protocols: tuple[int, ...]
    port: int = 0
    usual_port: int = 0
    mode: int = 0
    flags: int = 0
    encapsulation: int = 0


# IP protocols (IANA): 47 GRE, 4 IPv4 in IP, 41 IPv6 in IP, 50 ESP. UDP ports: 4789 VXLAN (RFC
# 7348), 6081 Geneve (RFC 8926).
_GRE = _TunnelKind(1, (6,), (7,), (47,), encapsulation=14)
_GRE6 = replace(_GRE, flags=13)
_IP = _TunnelKind(1, (2,), (3,), (4,), mode=9, encapsulation=15)
_VTI = _TunnelKind(1, (4,), (5,), (50,))
_TUNNELS = {
    **dict.fromkeys(("gre", "gretap", "erspan"), _GRE),
    **dict.fromkeys(("ip6gre", "ip6gretap", "ip6erspan"), _GRE6),
    "ipip": _IP,
    "sit": replace(_IP, protocols=(41, 4)),
    "ip6tnl": replace(_IP, protocols=(41, 4), flags=8),
    "vti": _VTI,
    "vti6": _VTI,
    "vxlan": _TunnelKind(3, (4, 17), (2, 16), (_UDP,), 15, 4789),
    "geneve": _TunnelKind(0, (), (2, 7), (_UDP,), 5, 6081),
}
_IGNORES_LIMIT = 1  # IP6_TNL_F_IGN_ENCAP_LIMIT of linux/ip6_tunnel.h
_ENCAPSULATIONS = frozenset({1, 2})  # TUNNEL_ENCAP_FOU, TUNNEL_ENCAP_GUE
# Tunnels whose other end rtnetlink does not know: a program or another protocol does.
_OPAQUE = frozenset({"tun", "ppp", "l2tp", "wireguard"})


@dataclass(frozen=True, slots=True)
class NetDevice:
    """A device of a *kind* (`vlan`, `veth`, …), with the *data* of that kind (IFLA_INFO_DATA)."""

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
        """Whether the packets that it sends come back in."""
        return bool(self.flags & IFF_LOOPBACK)

    @property
    def has_ethernet(self) -> bool:
        """Whether its packets have Ethernet headers."""
        return self.hardware_type in (ARPHRD_ETHER, ARPHRD_LOOPBACK)

    @property
    def has_neighbours(self) -> bool:
        """Whether it resolves addresses by ARP and neighbour discovery."""
        return self.has_ethernet and not self.flags & (IFF_LOOPBACK | IFF_NOARP)


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """An address of a device, and the length of the prefix of its network."""

    ifindex: int
    address: Address
    prefix_length: int


@dataclass(frozen=True, slots=True)
class Route:
    """One next hop: a device, and the *gateway* if the destination is not on its network."""

    ifindex: int
    gateway: Address | None = None
    prefix_length: int = 0


@dataclass(frozen=True, slots=True)
class Underlay:
    """The device that carries a tunnel, and the tunnel's ends as far as they are known.

    The tunnel's packets are of one of the IP *protocols*; *has_limit* says that an IPv6 option with
    the encapsulation limit comes before them (RFC 2473).
    """

    ifindex: int
    local: Address | None = None
    peer: Address | None = None
    protocols: tuple[int, ...] = ()
    local_port: int = 0
    peer_port: int = 0
    has_limit: bool = False


def default_routes() -> list[Route]:
    """Return the default routes of all tables, IPv4 and IPv6.

    A route to half of all addresses counts as one.
    """
    return [route for route in _routes() if route.prefix_length <= DEFAULT_LENGTH]


def default_route_devices() -> set[int]:
    """Return the ifindexes of the devices of all default routes."""
    return {route.ifindex for route in default_routes()}


def route_to(address: Address, source: Address | None = None) -> Route | None:
    """Return the route of packets to *address*, from *source* if that is ours.

    None if there is no route. Any other failure is an error: without a route, nobody would look at
    the device that carries an ssh session.
    """
    body = [attribute(RTA_DST, address.packed)]
    bits = 8 * len(address.packed)
    if source is not None:
        body.append(attribute(RTA_SRC, source.packed))
    source_bits = bits if source is not None else 0
    head = _ROUTE.pack(_FAMILIES[address.version], bits, source_bits, 0, 0, 0, 0, 0, 0)
    try:
        answers = request(RouteCommand.GETROUTE, head + b"".join(body), target=str(address))
    except NoRouteError:
        # The kernel refuses a source address that no device has (EINVAL), such as one of a packet
        # that is only forwarded. The route without it is the best answer then.
        return route_to(address) if source is not None else None
    hops = [
        hop for answer in answers for hop in _next_hops(attributes(answer[_ROUTE.size :]), bits)
    ]
    # Without NLM_F_DUMP the kernel answers with the one hop that it would take now.
    return hops[0] if hops else None


def addresses() -> list[InterfaceAddress]:
    """Return the addresses of all devices."""
    entries = []
    for answer in _dump(RouteCommand.GETADDR, bytes(_ADDRESS.size), "addresses"):
        _, length, _, _, ifindex = _ADDRESS.unpack_from(answer)
        fields = attributes(answer[_ADDRESS.size :])
        # On a point-to-point device IFA_ADDRESS is the address of the peer (linux/if_addr.h).
        packed = fields.get(IFA_LOCAL) or fields.get(IFA_ADDRESS)
        if packed:
            entries.append(InterfaceAddress(ifindex, ipaddress.ip_address(packed), length))
    return entries


def devices_with_address(address: Address) -> set[int]:
    """Return the ifindexes of the devices that have *address*."""
    return {entry.ifindex for entry in addresses() if entry.address == address}


def devices() -> dict[int, NetDevice]:
    """Return all devices by ifindex."""
    body = bytes(_DEVICE.size) + attribute(IFLA_EXT_MASK, _U32.pack(SKIP_STATISTICS))
    rows = (_device(answer) for answer in _dump(RouteCommand.GETLINK, body, "devices"))
    return {device.ifindex: device for device in rows}


def stacked(by_ifindex: Mapping[int, NetDevice]) -> Iterator[tuple[int, int]]:
    """Yield pairs of ifindexes: a lower device, and one whose packets it receives first.

    The upper device is a VLAN, bond, bridge or the like; tunnels are left out.
    """
    for device in by_ifindex.values():
        if device.master:
            yield device.ifindex, device.master
        if device.kind in _STACKED and device.link:
            yield device.link, device.ifindex


def vlan_of(device: NetDevice) -> int | None:
    """Return the VLAN id of a device, None if it is not a VLAN."""
    if device.kind != "vlan" or IFLA_VLAN_ID not in device.data:
        return None
    return int.from_bytes(device.data[IFLA_VLAN_ID][:2], "little")


def underlays(device: NetDevice, by_ifindex: Mapping[int, NetDevice]) -> list[Underlay]:
    """Return the devices that carry the packets of a tunnel; empty if *device* is not a tunnel.

    If the other end of the tunnel is not known, as with one made by a program in user space, these
    are all devices with a gateway, or else all devices with a route.
    """
    kind = _TUNNELS.get(device.kind)
    if kind is not None:
        if carriers := list(_of_kernel(device, kind)):
            return carriers
    elif device.kind not in _OPAQUE:
        return []
    all_devices = by_ifindex.values()
    tunnels = {other.ifindex for other in all_devices if other.kind in (*_TUNNELS, *_OPAQUE)}
    loops = {other.ifindex for other in all_devices if other.is_loopback}
    routes = [route for route in _routes() if route.ifindex not in tunnels | loops]
    with_gateway = [route for route in routes if route.gateway is not None]
    return [
        Underlay(ifindex) for ifindex in sorted({hop.ifindex for hop in with_gateway or routes})
    ]


def _of_kernel(device: NetDevice, kind: _TunnelKind) -> Iterator[Underlay]:
    link = _number(device.data.get(kind.link, b""))
    local, peer = (_first(device.data, where) for where in (kind.locals, kind.remotes))
    route = route_to(peer, local) if peer is not None else None
    protocols, port = _protocols(device.data, kind)
    # ipxip6_tnl_xmit() of net/ipv6/ip6_tunnel.c, and those of net/ipv6/ip6_gre.c: unless the flag
    # is set, a header with the limit comes right behind that of IPv6.
    flags = _number(device.data.get(kind.flags, b""))
    has_limit = bool(kind.flags) and not flags & _IGNORES_LIMIT
    for ifindex in dict.fromkeys(filter(None, (link, route.ifindex if route else 0))):
        yield Underlay(ifindex, local, peer, protocols, port, port, has_limit)


def _protocols(data: Mapping[int, bytes], kind: _TunnelKind) -> tuple[tuple[int, ...], int]:
    """Return the IP protocols of a tunnel's packets, and the UDP port if it uses UDP."""
    encapsulation = int.from_bytes(data.get(kind.encapsulation, b"")[:2], sys.byteorder)
    if kind.encapsulation and encapsulation in _ENCAPSULATIONS:
        # Where the peer sends to is not known: usually both ends listen on the same port.
        return (_UDP,), _port(data, kind.encapsulation + 3)
    if kind.port:
        return kind.protocols, _port(data, kind.port) or kind.usual_port
    mode = data.get(kind.mode, b"")[:1]
    # IFLA_IPTUN_PROTO: 0 is the mode `any`. What it carries of IPv4 and IPv6 has its own protocol.
    return tuple(mode) if any(mode) else kind.protocols, 0


def _port(data: Mapping[int, bytes], attribute_number: int) -> int:
    return int.from_bytes(data.get(attribute_number, b"")[:2], "big")


def _first(data: Mapping[int, bytes], kinds: Iterable[int]) -> Address | None:
    """Return the first address that is set; None if it is a multicast group."""
    for kind in kinds:
        packed = data.get(kind, b"")
        # An unset end is all zeros: the tunnel takes packets from anywhere.
        if any(packed) and len(packed) in (4, 16):
            address = ipaddress.ip_address(packed)
            return None if address.is_multicast else address
    return None


def _device(answer: bytes) -> NetDevice:
    _, hardware_type, ifindex, flags, _ = _DEVICE.unpack_from(answer)
    fields = attributes(answer[_DEVICE.size :])
    information = attributes(fields.get(IFLA_LINKINFO, b""))
    is_here = IFLA_LINK_NETNSID not in fields  # else IFLA_LINK is of another namespace
    return NetDevice(
        ifindex,
        _text(fields.get(IFLA_IFNAME, b"")),
        hardware_type,
        flags,
        # Hardware addresses are not always of 6 bytes: 4 of an IPv4 tunnel, 20 of InfiniBand.
        fields.get(IFLA_ADDRESS, bytes(6))[:6].ljust(6, b"\0"),
        _number(fields.get(IFLA_MTU, b"")),
        _text(information.get(IFLA_INFO_KIND, b"")),
        _number(fields.get(IFLA_MASTER, b"")),
        _number(fields.get(IFLA_LINK, b"")) if is_here else 0,
        attributes(information.get(IFLA_INFO_DATA, b"")),
    )


def _routes() -> Iterator[Route]:
    for answer in _dump(RouteCommand.GETROUTE, bytes(_ROUTE.size), "routes"):
        fields = _ROUTE.unpack_from(answer)
        prefix_length, kind = fields[1], fields[7]
        # The rest are the kernel's own (local, broadcast, multicast) and refusals (unreachable, …).
        if kind == RTN_UNICAST:
            yield from _next_hops(attributes(answer[_ROUTE.size :]), prefix_length)


def _next_hops(fields: dict[int, bytes], prefix_length: int) -> Iterator[Route]:
    if RTA_OIF in fields:
        yield Route(_number(fields[RTA_OIF]), _gateway(fields), prefix_length)
    data, at = fields.get(RTA_MULTIPATH, b""), 0
    while at + _NEXT_HOP.size <= len(data):
        length, _, _, ifindex = _NEXT_HOP.unpack_from(data, at)
        inner = attributes(data[at + _NEXT_HOP.size : at + length])
        yield Route(ifindex, _gateway(inner), prefix_length)
        # RTNH_ALIGNTO of linux/rtnetlink.h is 4; a damaged length of 0 must not loop forever.
        at += max(_NEXT_HOP.size, length + 3 & ~3)


def _gateway(fields: dict[int, bytes]) -> Address | None:
    # RTA_VIA is a gateway of another family: struct rtvia has the family before the address.
    packed = fields.get(RTA_GATEWAY) or fields.get(RTA_VIA, b"")[2:]
    return ipaddress.ip_address(packed) if len(packed) in (4, 16) else None


def _number(data: bytes) -> int:
    return int(_U32.unpack_from(data)[0]) if len(data) >= _U32.size else 0


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="surrogateescape")


def _dump(command: RouteCommand, body: bytes, target: str) -> list[bytes]:
    return request(command, body, flags=RequestFlag.DUMP, target=target)
