"""Which devices of the current network namespace carry routes, addresses and other devices.

Asked of rtnetlink(7). Attribute numbers are those of linux/rtnetlink.h, if_addr.h and if_link.h.
"""

from __future__ import annotations

import ipaddress
import struct
from collections import defaultdict
from collections.abc import Iterator

from bpfpin.syscall.rtnetlink import RequestFlag, RouteCommand, attribute, attributes, request

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg
_NEXT_HOP = struct.Struct("=HBBi")  # rtnexthop
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg
_DEVICE = struct.Struct("=BxHiII")  # ifinfomsg
_U32 = struct.Struct("=I")
RTN_UNICAST = 1
RTA_OIF, RTA_MULTIPATH = 4, 9
IFA_ADDRESS, IFA_LOCAL = 1, 2
IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO, IFLA_EXT_MASK, IFLA_LINK_NETNSID = 5, 10, 18, 29, 37
IFLA_INFO_KIND = 1
SKIP_STATISTICS = 8  # RTEXT_FILTER_SKIP_STATS
# What is received by the device that IFLA_LINK names before they see it; a veth names its peer.
_STACKED = frozenset({b"vlan", b"macvlan", b"macvtap", b"ipvlan", b"ipvtap", b"macsec"})


def default_route_devices() -> set[int]:
    """Return the ifindexes that a default route of any table goes out by, IPv4 or IPv6."""
    found: set[int] = set()
    for answer in _dump(RouteCommand.GETROUTE, bytes(_ROUTE.size), "routes"):
        prefix_length, kind = _ROUTE.unpack_from(answer)[1], _ROUTE.unpack_from(answer)[7]
        if prefix_length == 0 and kind == RTN_UNICAST:
            found.update(_hops(attributes(answer[_ROUTE.size :])))
    return found


def devices_with_address(address: Address) -> set[int]:
    """Return the ifindexes of the devices that have *address*."""
    found: set[int] = set()
    for answer in _dump(RouteCommand.GETADDR, bytes(_ADDRESS.size), "addresses"):
        told = attributes(answer[_ADDRESS.size :])
        if address.packed in (told.get(IFA_LOCAL), told.get(IFA_ADDRESS)):
            found.add(_ADDRESS.unpack_from(answer)[4])
    return found


def stack_above(ifindex: int) -> set[int]:
    """Return *ifindex* and all devices whose packets come in through it: VLANs, bonds, bridges."""
    above: defaultdict[int, set[int]] = defaultdict(set)
    for lower, upper in _stacked():
        above[lower].add(upper)
    found, new = set[int](), {ifindex}
    while new:
        found |= new
        new = set().union(*(above[each] for each in new)) - found
    return found


def _stacked() -> Iterator[tuple[int, int]]:
    """Yield pairs of devices, the lower one first."""
    body = bytes(_DEVICE.size) + attribute(IFLA_EXT_MASK, _U32.pack(SKIP_STATISTICS))
    for answer in _dump(RouteCommand.GETLINK, body, "devices"):
        ifindex = _DEVICE.unpack_from(answer)[2]
        told = attributes(answer[_DEVICE.size :])
        if IFLA_MASTER in told:
            yield ifindex, _number(told[IFLA_MASTER])
        kind = attributes(told.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_KIND, b"").rstrip(b"\0")
        if kind in _STACKED and IFLA_LINK in told and IFLA_LINK_NETNSID not in told:
            yield _number(told[IFLA_LINK]), ifindex


def _hops(told: dict[int, bytes]) -> Iterator[int]:
    if RTA_OIF in told:
        yield _number(told[RTA_OIF])
    data, at = told.get(RTA_MULTIPATH, b""), 0
    while at + _NEXT_HOP.size <= len(data):
        length, _, _, ifindex = _NEXT_HOP.unpack_from(data, at)
        yield ifindex
        at += max(_NEXT_HOP.size, length + 3 & ~3)


def _number(data: bytes) -> int:
    return int(_U32.unpack_from(data)[0])


def _dump(command: RouteCommand, body: bytes, target: str) -> list[bytes]:
    return request(command, body, flags=RequestFlag.DUMP, target=target)
