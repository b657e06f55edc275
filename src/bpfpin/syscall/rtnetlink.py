"""Requests to rtnetlink(7) and sock_diag(7): bytes in, bytes out.

For frequent requests, and for answers that pyroute2 does not decode; needs no import of it and no
thread. A request is made in the network namespace of the calling thread.
"""

from __future__ import annotations

import contextlib
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
NETLINK_SOCK_DIAG = 4
WORDS = 1  # NLMSGERR_ATTR_MSG: the kernel's message in English
# NLA_TYPE_MASK: the two bits above are flags (linux/netlink.h).
TYPE_MASK = 0x3FFF
# If the buffer has room, a dump comes in messages of up to 32 KiB (netlink_recvmsg() of
# net/netlink/af_netlink.c). Longer messages are read whole, too (`receive`).
ANSWER_SIZE = 1 << 16
# A dump is repeated if the kernel marks it as interrupted by a change (NLM_F_DUMP_INTR).
ATTEMPTS = 5


class RouteCommand(IntEnum):
    """The types of requests (linux/rtnetlink.h)."""

    GETLINK = 18
    SETLINK = 19
    GETADDR = 22
    NEWROUTE = 24
    GETROUTE = 26
    NEWQDISC = 36
    DELQDISC = 37
    GETQDISC = 38
    NEWTFILTER = 44
    DELTFILTER = 45
    GETTFILTER = 46


class DiagCommand(IntEnum):
    """The types of requests about sockets (linux/sock_diag.h)."""

    SOCK_DIAG_BY_FAMILY = 20


Command = RouteCommand | DiagCommand


class RequestFlag(IntFlag):
    """The flags of a request (linux/netlink.h)."""

    REQUEST = 0x1
    ACK = 0x4
    DUMP_INTERRUPTED = 0x10
    REPLACE = 0x100
    EXCLUSIVE = 0x200
    DUMP = 0x300
    CREATE = 0x400


NO_FLAGS = RequestFlag(0)


class _InterruptedError(Exception):
    """A dump that a change interrupted."""


def request(
    command: Command, body: bytes, *, flags: RequestFlag = NO_FLAGS, target: str = ""
) -> list[bytes]:
    """Send a request and return the messages of the answer, without their headers.

    An error raises the exception of `errno_table.TABLE`, with the kernel's message (extended ACK)
    as the hint; *target* names the object in it.
    """
    for _ in range(ATTEMPTS):
        try:
            return _ask(command, body, flags, target)
        except _InterruptedError:
            continue
    raise BpfError(f"{target}: it changed during each of {ATTEMPTS} attempts to list it")


def request_and_undo(command: RouteCommand, body: bytes, undo: bytes, *, target: str = "") -> None:
    """Send a request and, in the same call, the request *undo* that takes it back.

    Raises what `request` does if either is refused. *undo* is carried out even if the first request
    was refused: it must change nothing then.

    Kernel: netlink_rcv_skb() of net/netlink/af_netlink.c carries out all messages of a sendmsg(2)
        before that returns, so a process that is killed meanwhile has undone its request, too.
    """
    with _asking(command, target) as asked:
        asked.send(_message(command, body) + _message(command, undo))
        for _ in range(2):  # each has an acknowledgement, in a datagram of its own
            list(_answers(asked, command, target))


def receive(asked: socket.socket) -> bytes:
    """Return the next datagram of a netlink socket, however long it is."""
    # recv(2) cuts a datagram that is longer than its buffer, and the rest is lost. A device with
    # hundreds of virtual functions is described by more than 64 KiB.
    size = asked.recv_into(bytearray(1), 1, socket.MSG_PEEK | socket.MSG_TRUNC)
    return asked.recv(max(size, ANSWER_SIZE))


def attribute(kind: int, payload: bytes) -> bytes:
    """Return the encoded attribute, padded to four bytes."""
    padding = bytes(-len(payload) % 4)
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(payload), kind) + payload + padding


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the payloads of the attributes in *data* by kind."""
    # A device has fifty of them, and a host may have thousands of devices: no name is looked up
    # twice.
    payloads, at = {}, 0
    unpack, head, last = ATTRIBUTE.unpack_from, ATTRIBUTE.size, len(data) - ATTRIBUTE.size
    while at <= last:
        length, kind = unpack(data, at)
        payloads[kind & TYPE_MASK] = data[at + head : at + length]
        # At least a header, or a length of 0 would make the loop endless.
        at += length + 3 & ~3 if length > head else head
    return payloads


def _ask(command: Command, body: bytes, flags: RequestFlag, target: str) -> list[bytes]:
    with _asking(command, target) as asked:
        asked.send(_message(command, body, flags))
        return list(_answers(asked, command, target))


def _message(command: Command, body: bytes, flags: RequestFlag = NO_FLAGS) -> bytes:
    asked_flags = RequestFlag.REQUEST | RequestFlag.ACK | flags
    message = HEADER.pack(HEADER.size + len(body), command, asked_flags, 1, 0) + body
    return message + bytes(-len(message) % 4)  # NLMSG_ALIGN: the next message begins there


@contextlib.contextmanager
def _asking(command: Command, target: str) -> Iterator[socket.socket]:
    """Open a socket for one request, and turn its errors into ours."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    protocol = socket.NETLINK_ROUTE if isinstance(command, RouteCommand) else NETLINK_SOCK_DIAG
    try:
        # A socket for each request: the rest of an interrupted dump cannot be taken for an answer.
        with socket.socket(socket.AF_NETLINK, kind, protocol) as asked:
            asked.setsockopt(SOL_NETLINK, EXT_ACK, 1)
            # Without it an error repeats the request before its attributes (netlink_ack() of
            # net/netlink/af_netlink.c), where `_answers` would not find them.
            asked.setsockopt(SOL_NETLINK, CAP_ACK, 1)
            yield asked
    except BpfError:
        raise
    except OSError as error:  # of the socket itself
        raise syscall_error(_name(command), error.errno or 0, target=target) from None


def _answers(asked: socket.socket, command: Command, target: str) -> Iterator[bytes]:
    while True:
        for kind, flags, body in _messages(receive(asked)):
            if flags & RequestFlag.DUMP_INTERRUPTED:
                raise _InterruptedError
            if kind not in (ERROR, DONE):
                yield body
                continue
            (code,) = CODE.unpack_from(body)
            # An acknowledgement is an error message with code 0 (netlink(7)).
            if code:
                # The header of the request follows the code in an error message; the end of a
                # dump has none (netlink_ack() and netlink_dump_done() of
                # net/netlink/af_netlink.c).
                at = CODE.size + (HEADER.size if kind == ERROR else 0)
                raise _refused(command, -code, attributes(body[at:]), target)
            return


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while at + HEADER.size <= len(data):
        length, kind, flags, _, _ = HEADER.unpack_from(data, at)
        yield kind, flags, data[at + HEADER.size : at + length]
        # At least a header, or a message with a length of 0 would make the loop endless.
        at += max(HEADER.size, length + 3 & ~3)


def _refused(command: Command, code: int, fields: dict[int, bytes], target: str) -> BpfError:
    error = syscall_error(_name(command), code, target=target)
    error.hint = fields.get(WORDS, b"").rstrip(b"\0").decode(errors="replace")
    return error


def _name(command: Command) -> str:
    return f"RTM_{command.name}" if isinstance(command, RouteCommand) else command.name
