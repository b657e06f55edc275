"""One request to rtnetlink(7) and its answers: bytes in, bytes out.

For what is asked often, or what pyroute2 does not read; it costs no import and no thread. The
request is made in the network namespace of the calling thread.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from enum import IntEnum, IntFlag

from bpfpin.errors import BpfError
from bpfpin.syscall.errno_table import syscall_error

HEADER = struct.Struct("=IHHII")  # nlmsghdr of linux/netlink.h
ATTRIBUTE = struct.Struct("=HH")  # rtattr
CODE = struct.Struct("=i")
ERROR, DONE = 2, 3
SOL_NETLINK, CAP_ACK, EXT_ACK = 270, 10, 11
WORDS = 1  # NLMSGERR_ATTR_MSG: what the kernel says in English
TYPE_MASK = 0x3FFF
ANSWER_SIZE = 1 << 16
# A dump during which something changed starts anew.
ATTEMPTS = 5


class RouteCommand(IntEnum):
    """What is asked of rtnetlink (linux/rtnetlink.h)."""

    GETLINK = 18
    GETADDR = 22
    GETROUTE = 26
    NEWQDISC = 36
    DELQDISC = 37
    GETQDISC = 38
    NEWTFILTER = 44
    DELTFILTER = 45
    GETTFILTER = 46


class RequestFlag(IntFlag):
    """How a request is meant (linux/netlink.h)."""

    REQUEST = 0x1
    ACK = 0x4
    DUMP_INTERRUPTED = 0x10
    EXCLUSIVE = 0x200
    DUMP = 0x300
    CREATE = 0x400


NO_FLAGS = RequestFlag(0)


class _InterruptedError(Exception):
    """The kernel says that what it listed changed meanwhile."""


def request(
    command: RouteCommand, body: bytes, *, flags: RequestFlag = NO_FLAGS, target: str = ""
) -> list[bytes]:
    """Send a request and return the messages of its answer, without their headers.

    *target* names in errors what is asked of; the kernel's own words become the error's hint.
    """
    for _ in range(ATTEMPTS):
        try:
            return _ask(command, body, flags, target)
        except _InterruptedError:
            continue
    raise BpfError(f"{target}: it changed all the time while it was listed")


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one attribute as it is sent, padded to four bytes."""
    padding = bytes(-len(payload) % 4)
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(payload), kind) + payload + padding


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes in *data* by their kind."""
    found, at = {}, 0
    while at + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, at)
        found[kind & TYPE_MASK] = data[at + ATTRIBUTE.size : at + length]
        at += max(ATTRIBUTE.size, length + 3 & ~3)
    return found


def _ask(command: RouteCommand, body: bytes, flags: RequestFlag, target: str) -> list[bytes]:
    asked_flags = RequestFlag.REQUEST | RequestFlag.ACK | flags
    header = HEADER.pack(HEADER.size + len(body), command, asked_flags, 1, 0)
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    try:
        with socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE) as asked:
            asked.setsockopt(SOL_NETLINK, EXT_ACK, 1)
            asked.setsockopt(SOL_NETLINK, CAP_ACK, 1)
            asked.send(header + body)
            return list(_answers(asked, command, target))
    except BpfError:
        raise
    except OSError as error:  # of the socket itself
        raise syscall_error(f"RTM_{command.name}", error.errno or 0, target=target) from None


def _answers(asked: socket.socket, command: RouteCommand, target: str) -> Iterator[bytes]:
    while True:
        for kind, flags, body in _messages(asked.recv(ANSWER_SIZE)):
            if flags & RequestFlag.DUMP_INTERRUPTED:
                raise _InterruptedError
            if kind not in (ERROR, DONE):
                yield body
                continue
            (code,) = CODE.unpack_from(body)
            if code:
                raise _refused(command, -code, body, target)
            return


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while at + HEADER.size <= len(data):
        length, kind, flags, _, _ = HEADER.unpack_from(data, at)
        yield kind, flags, data[at + HEADER.size : at + length]
        at += max(HEADER.size, length + 3 & ~3)


def _refused(command: RouteCommand, code: int, body: bytes, target: str) -> BpfError:
    error = syscall_error(f"RTM_{command.name}", code, target=target)
    words = attributes(body[CODE.size + HEADER.size :]).get(WORDS, b"")
    error.hint = words.rstrip(b"\0").decode(errors="replace")
    return error
