"""All devices of a network namespace and their XDP programs, in one netlink dump.

It costs a tenth of a millisecond and no import, so that hundreds of namespaces can be visited.
Attribute numbers are those of linux/if_link.h.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bpfpin.spec import XdpMode
from bpfpin.syscall.rtnetlink import RequestFlag, RouteCommand, attribute, attributes, request

IFLA_IFNAME, IFLA_LINKINFO, IFLA_EXT_MASK, IFLA_XDP = 3, 18, 29, 43
IFLA_INFO_KIND: Final = 1
SKIP_STATISTICS: Final = 8  # RTEXT_FILTER_SKIP_STATS

_MESSAGE = struct.Struct("=BxHiII")  # ifinfomsg of linux/rtnetlink.h
_U32 = struct.Struct("=I")
# The attributes below IFLA_XDP that carry a program's id.
_PROGRAMS = {5: XdpMode.NATIVE, 6: XdpMode.GENERIC, 7: XdpMode.OFFLOAD}


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device and the ids of its XDP programs by mode, held by links or not.

    *kind* is what it was made as (`veth`, `netkit`), empty for a real one.
    """

    ifindex: int
    name: str
    kind: str
    xdp: Mapping[XdpMode, int]


def all_devices() -> list[DeviceRow]:
    """Return the devices of the current network namespace (RTM_GETLINK); needs no privilege."""
    body = _MESSAGE.pack(0, 0, 0, 0, 0) + attribute(IFLA_EXT_MASK, _U32.pack(SKIP_STATISTICS))
    answers = request(RouteCommand.GETLINK, body, flags=RequestFlag.DUMP, target="devices")
    return [_row(answer) for answer in answers]


def _row(answer: bytes) -> DeviceRow:
    ifindex = _MESSAGE.unpack_from(answer)[2]
    found = attributes(answer[_MESSAGE.size :])
    information = attributes(found.get(IFLA_LINKINFO, b""))
    xdp = attributes(found.get(IFLA_XDP, b""))
    ids = {mode: _U32.unpack_from(xdp[kind])[0] for kind, mode in _PROGRAMS.items() if kind in xdp}
    return DeviceRow(ifindex, _text(found, IFLA_IFNAME), _text(information, IFLA_INFO_KIND), ids)


def _text(found: Mapping[int, bytes], kind: int) -> str:
    return found.get(kind, b"").rstrip(b"\0").decode(errors="surrogateescape")
