"""Messages and file descriptors between the helper and the process that is scraped.

A message is its length, the number of its descriptors, JSON, and then the descriptors in portions
(SCM_RIGHTS, unix(7)). A request is one byte.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any, Final

from bpfpin.errors import BpfError

_HEAD: Final = struct.Struct("<II")
_PORTION: Final = 200  # descriptors at once; the kernel takes 253 (SCM_MAX_FD)
_TEXT_MAX: Final = 64 << 20
REQUEST: Final = b"?"
FRESH: Final = b"!"  # look at the host again before you answer
TIMEOUT_S: Final = 20.0


class ChannelClosedError(BpfError):
    """The other process has ended."""


def send(channel: socket.socket, message: dict[str, Any], fds: Sequence[int]) -> None:
    """Send a message with descriptors, which the sender may close afterwards."""
    text = json.dumps(message, separators=(",", ":")).encode()
    channel.sendall(_HEAD.pack(len(text), len(fds)) + text)
    for first in range(0, len(fds), _PORTION):
        socket.send_fds(channel, [b"f"], list(fds[first : first + _PORTION]))


def receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Receive a message with its descriptors, which belong to the receiver.

    Raises:
        ChannelClosedError: The sender has ended, or does not answer.
    """
    fds: list[int] = []
    try:
        length, count = _HEAD.unpack(_exactly(channel, _HEAD.size))
        if length > _TEXT_MAX:
            raise ChannelClosedError("the message is too long")
        text = _exactly(channel, length)
        while len(fds) < count:
            fds += _some_fds(channel)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return json.loads(text), fds


def _exactly(channel: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        try:
            part = channel.recv(min(size - len(data), 1 << 20))
        except OSError as error:
            raise ChannelClosedError(f"the helper does not answer: {error}") from None
        if not part:
            raise ChannelClosedError("the helper has ended")
        data += part
    return bytes(data)


def _some_fds(channel: socket.socket) -> list[int]:
    numbers = array.array("i")
    try:
        part, ancillary, flags, _ = channel.recvmsg(1, socket.CMSG_SPACE(4 * _PORTION))
    except OSError as error:
        raise ChannelClosedError(f"the helper does not answer: {error}") from None
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(data[: len(data) // 4 * 4])
    received = numbers.tolist()
    # MSG_CTRUNC: this process may not open as many files.
    if not part or flags & socket.MSG_CTRUNC or not received:
        for fd in received:
            os.close(fd)
        raise ChannelClosedError(
            "descriptors were lost: raise the limit of open files (LimitNOFILE, ulimit -n)"
        )
    return received
