"""Names and indexes of the network devices of the current namespace.

They come from libc (ioctl and netlink): /sys/class/net shows the namespace in which /sys was
mounted, and so another one after setns(2).
"""

from __future__ import annotations

import os
import struct
from typing import Final

from bpfpin.choices import similar
from bpfpin.errors import InterfaceNotFoundError
from bpfpin.syscall.call import LIBC, checked
from bpfpin.syscall.errno_table import syscall_error
from bpfpin.syscall.fd import Descriptor

SIOCGIFNAME, SIOCGIFINDEX = 0x8910, 0x8933  # linux/sockios.h
# asm-generic/socket.h of the kernel; SOCK_CLOEXEC is O_CLOEXEC (linux/net.h).
_AF_UNIX, _SOCK_DGRAM = 1, 2
_REQUEST: Final = struct.Struct("=16si20x")  # struct ifreq of linux/if.h: name, ifindex
_NAME_LENGTH_MAX: Final = 15  # IFNAMSIZ, less the NUL
_IFINDEX_MAX: Final = (1 << 31) - 1


def names() -> dict[int, str]:
    """Return the names of all devices of the current network namespace by ifindex."""
    import socket  # noqa: PLC0415  (few commands need it)

    try:
        return dict(socket.if_nameindex())
    except OSError as error:
        raise syscall_error("if_nameindex", error.errno or 0, target="network devices") from None


def ifindex(interface: str | int) -> int:
    """Return the ifindex of *interface*, a device's name or ifindex.

    A name may be an alternative one (`ip link property`) of 15 bytes at most.
    `InterfaceNotFoundError` lists the devices of the namespace, and those with a similar name.
    """
    if isinstance(interface, int):
        if name_of(interface):
            return interface
        raise _not_found(f"no network device with ifindex {interface}", "")
    try:
        name = os.fsencode(interface)
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        name = b""
    # The kernel would cut the name at a NUL, and after 15 bytes.
    is_possible = 0 < len(name) <= _NAME_LENGTH_MAX and b"\0" not in name
    answer = _ask(SIOCGIFINDEX, _REQUEST.pack(name, 0), interface) if is_possible else b""
    if not answer:
        raise _not_found(f"no network device {interface!r}", interface)
    return int(_REQUEST.unpack(answer)[1])


def name_of(index: int) -> str:
    """Return the name of the device with ifindex *index*, "" if there is none."""
    # Also a number from a manifest or a user that the kernel could not take.
    if not 0 < index <= _IFINDEX_MAX:
        return ""
    answer = _ask(SIOCGIFNAME, _REQUEST.pack(b"", index), f"ifindex {index}")
    return os.fsdecode(answer.partition(b"\0")[0])


def _ask(command: int, request: bytes, target: str) -> bytes:
    """Return the answer of ioctl(2), b"" if there is no such device (netdevice(7)).

    Functions of the C library leave an errno of other calls, so that a device that is not there and
    one that cannot be asked about (EMFILE) would look the same.
    """
    import fcntl  # noqa: PLC0415  (few commands need it)

    # The module `socket` takes longer to import than all that a command asks of devices.
    answer = LIBC.socket(_AF_UNIX, _SOCK_DGRAM | os.O_CLOEXEC, 0)
    asked = Descriptor(checked("socket", answer, target=target))
    what = "SIOCGIFNAME" if command == SIOCGIFNAME else "SIOCGIFINDEX"
    try:
        with asked:
            return fcntl.ioctl(asked.fileno(), command, request)
    except OSError as error:
        failure = syscall_error(what, error.errno or 0, target=target)
        if isinstance(failure, InterfaceNotFoundError):
            return b""
        raise failure from None


def _not_found(message: str, wanted: str) -> InterfaceNotFoundError:
    known = names().values()
    devices = ", ".join(known) or "none"
    near = similar(wanted, known)
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    return InterfaceNotFoundError(
        f"{message} in this network namespace; there are: {devices}",
        hint=f"{guess}A device of another namespace is reached with -n NAMESPACE.",
    )
