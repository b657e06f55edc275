"""All devices of a network namespace with their XDP programs, and what their drivers can do.

One netlink dump lists the devices: it takes a tenth of a millisecond and needs no import, so that
hundreds of namespaces can be visited. Drivers are asked by SIOCETHTOOL, and by the generic netlink
family `netdev` (Linux 6.3; Documentation/netlink/specs/netdev.yaml); that changes nothing.
Attribute numbers are those of linux/if_link.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from enum import IntFlag
from typing import Final

from bpfpin.errors import SyscallError
from bpfpin.records import dataclass
from bpfpin.spec import XdpMode
from bpfpin.syscall.rtnetlink import (
    RequestFlag,
    RouteCommand,
    attribute,
    attributes,
    receive,
    request,
    request_and_undo,
)
from bpfpin.uapi import XdpFlag

IFLA_IFNAME, IFLA_LINKINFO, IFLA_GROUP, IFLA_EXT_MASK, IFLA_XDP = 3, 18, 27, 29, 43
IFLA_INFO_KIND: Final = 1
SKIP_STATISTICS: Final = 8  # RTEXT_FILTER_SKIP_STATS
_MESSAGE = struct.Struct("=BxHiII")  # ifinfomsg of linux/rtnetlink.h
_U32 = struct.Struct("=I")
_FD = struct.Struct("=i")
_XDP_FD, _XDP_FLAGS, _XDP_EXPECTED_FD = 1, 3, 8  # below IFLA_XDP
NESTED: Final = 0x8000  # NLA_F_NESTED of linux/netlink.h
# The attributes below IFLA_XDP that carry a program's id.
_PROGRAMS = {5: XdpMode.NATIVE, 6: XdpMode.GENERIC, 7: XdpMode.OFFLOAD}
# The numbers of linux/sockios.h, ethtool.h, genetlink.h and netdev.h.
SIOCETHTOOL = 0x8946
ETHTOOL_GDRVINFO, ETHTOOL_GCHANNELS = 3, 0x3C
CHANNELS = struct.Struct("=20xII4xI")  # ethtool_channels: the counts in use, after the maxima
DRIVER_NAME = slice(4, 36)  # of struct ethtool_drvinfo, after its command
DRIVER_INFO_SIZE = 196
NETLINK_GENERIC = 16
CONTROL_FAMILY, GET_FAMILY, GET_DEVICE = 16, 3, 1
FAMILY_ID, FAMILY_NAME = 1, 2
DEVICE_IFINDEX, DEVICE_XDP_FEATURES = 1, 3
REQUEST, ERROR = 1, 2
HEADER = struct.Struct("=IHHIIBBH")  # nlmsghdr and genlmsghdr


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device and the ids of its XDP programs by mode, whether links hold them or not.

    *kind* is that of a virtual device (`veth`, `netkit`), empty for a physical one. *group* is what
    `ip link set DEV group NUMBER` gave it.
    """

    ifindex: int
    name: str
    kind: str
    xdp: Mapping[XdpMode, int]
    group: int = 0


def all_devices() -> list[DeviceRow]:
    """Return the devices of the current network namespace (RTM_GETLINK); needs no privilege."""
    body = _MESSAGE.pack(0, 0, 0, 0, 0) + attribute(IFLA_EXT_MASK, _U32.pack(SKIP_STATISTICS))
    answers = request(RouteCommand.GETLINK, body, flags=RequestFlag.DUMP, target="devices")
    return [_row(answer) for answer in answers]


def _row(answer: bytes) -> DeviceRow:
    ifindex = _MESSAGE.unpack_from(answer)[2]
    fields = attributes(answer[_MESSAGE.size :])
    information = attributes(fields.get(IFLA_LINKINFO, b""))
    xdp = attributes(fields.get(IFLA_XDP, b""))
    ids = {mode: _U32.unpack_from(xdp[kind])[0] for kind, mode in _PROGRAMS.items() if kind in xdp}
    name, kind = _text(fields, IFLA_IFNAME), _text(information, IFLA_INFO_KIND)
    (group,) = _U32.unpack(fields.get(IFLA_GROUP, bytes(_U32.size)))
    return DeviceRow(ifindex, name, kind, ids, group)


def _text(fields: Mapping[int, bytes], kind: int) -> str:
    return fields.get(kind, b"").rstrip(b"\0").decode(errors="surrogateescape")


class XdpFeature(IntFlag):
    """The parts of XDP that a driver supports (`enum netdev_xdp_act`); BASIC is native mode."""

    BASIC = 1
    REDIRECT = 2
    NDO_XMIT = 4
    XSK_ZEROCOPY = 8
    HW_OFFLOAD = 16
    RX_SG = 32
    NDO_XMIT_SG = 64


def xdp_refusal(program_fd: int, ifindex: int, mode: XdpFlag) -> str:
    """Return why a device refuses a program in a mode, in the kernel's words; "" if it accepts it.

    For the words alone: links come without. The device is not changed, but for a moment inside of
    the system call if it accepts the program and has no other.

    Kernel: RTM_SETLINK with IFLA_XDP. The driver is asked last (dev_xdp_attach() of
        net/core/dev.c), so no request can have its answer and be refused in any case.
    """
    head = _MESSAGE.pack(0, 0, ifindex, 0, 0)
    # With UPDATE_IF_NOEXIST no program of others is replaced (EBUSY); the way back takes out none
    # but this program (IFLA_XDP_EXPECTED_FD, Linux 5.7).
    attach = _xdp_request(program_fd, mode | XdpFlag.UPDATE_IF_NOEXIST)
    detach = _xdp_request(-1, mode | XdpFlag.REPLACE, expected_fd=program_fd)
    try:
        request_and_undo(
            RouteCommand.SETLINK, head + attach, head + detach, target=f"ifindex {ifindex}"
        )
    except SyscallError as error:
        return error.hint or str(error.strerror)
    return ""


def _xdp_request(program_fd: int, flags: XdpFlag, *, expected_fd: int | None = None) -> bytes:
    fields = attribute(_XDP_FD, _FD.pack(program_fd)) + attribute(_XDP_FLAGS, _U32.pack(flags))
    if expected_fd is not None:
        fields += attribute(_XDP_EXPECTED_FD, _FD.pack(expected_fd))
    return attribute(IFLA_XDP | NESTED, fields)


def driver_name(device: str) -> str:
    """Return the name of the device's driver (`ethtool -i DEV`), "" if it does not report one."""
    answer = ctypes.create_string_buffer(DRIVER_INFO_SIZE)
    struct.pack_into("=I", answer, 0, ETHTOOL_GDRVINFO)
    # struct ifreq of linux/if.h: the name (IFNAMSIZ is 16), then a union of 24 bytes with a
    # pointer.
    request = struct.pack("=16sQ16x", os.fsencode(device), ctypes.addressof(answer))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        # EOPNOTSUPP or ENODEV: the buffer stays zero, which is an empty name.
        with contextlib.suppress(OSError):
            fcntl.ioctl(asked, SIOCETHTOOL, request)
        return answer.raw[DRIVER_NAME].rstrip(b"\0").decode(errors="replace")


def queue_counts(device: str) -> tuple[int, int] | None:
    """Return the numbers of receive and transmit queues (`ethtool -l`); None if unknown."""
    channels = ctypes.create_string_buffer(CHANNELS.size)
    struct.pack_into("=I", channels, 0, ETHTOOL_GCHANNELS)
    request = struct.pack("=16sQ16x", os.fsencode(device), ctypes.addressof(channels))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            fcntl.ioctl(asked, SIOCETHTOOL, request)
        except OSError:
            return None
    receiving, sending, combined = CHANNELS.unpack(channels.raw)
    return receiving + combined, sending + combined


def xdp_features(ifindex: int) -> XdpFeature | None:
    """Return the parts of XDP that the driver supports; None on kernels that do not report it."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC) as asked:
        name = attribute(FAMILY_NAME, b"netdev\0")
        family = _ask(asked, CONTROL_FAMILY, GET_FAMILY, name).get(FAMILY_ID)
        # Before Linux 6.3 there is no family `netdev`: the answer is an error (ENOENT).
        if family is None:
            return None
        device = attribute(DEVICE_IFINDEX, struct.pack("=I", ifindex))
        number = int.from_bytes(family, "little")
        features = _ask(asked, number, GET_DEVICE, device).get(DEVICE_XDP_FEATURES)
    return None if features is None else XdpFeature(int.from_bytes(features, "little"))


def _ask(asked: socket.socket, family: int, command: int, parameters: bytes) -> dict[int, bytes]:
    """Return the attributes of the answer; none if the kernel refuses."""
    size = HEADER.size + len(parameters)
    asked.send(HEADER.pack(size, family, REQUEST, 1, 0, command, 1, 0) + parameters)
    answer = receive(asked)
    length, kind = struct.unpack_from("=IH", answer)
    return {} if kind == ERROR else attributes(answer[HEADER.size : length])
