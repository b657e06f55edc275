"""rtnetlink: the kernel's message in each form of an error, and answers of any size."""

from __future__ import annotations

import socket
import struct

import pytest

from bpfpin.errors import BpfError
from bpfpin.syscall import rtnetlink
from bpfpin.syscall.errno_table import InvalidArgumentError
from bpfpin.syscall.rtnetlink import RequestFlag, RouteCommand, attribute, request

LINK = struct.pack("=BxHiII", 0, 0, 0, 0, 0)  # ifinfomsg: any device
QDISC = struct.pack("=BxxxiIII", 0, 1, 0, 0xFFFFFFFF, 0)  # tcmsg: the root of lo
NO_NAMESPACE = attribute(46, struct.pack("=i", 999))  # IFLA_TARGET_NETNSID


def test_the_message_of_the_kernel_is_the_hint_after_a_failed_dump() -> None:
    """The end of a dump (NLMSG_DONE) has it in another place than NLMSG_ERROR."""
    with pytest.raises(InvalidArgumentError) as refused:
        request(RouteCommand.GETLINK, LINK + NO_NAMESPACE, flags=RequestFlag.DUMP, target="devices")

    assert refused.value.hint == "Invalid target network namespace id"


def test_the_message_of_the_kernel_is_the_hint_after_a_refused_change() -> None:
    unknown = QDISC + attribute(1, b"no_such_qdisc\0")  # TCA_KIND
    with pytest.raises(BpfError) as refused:
        request(RouteCommand.NEWQDISC, unknown, flags=RequestFlag.CREATE, target="lo")

    assert refused.value.hint == "Specified qdisc kind is unknown"


def test_an_answer_larger_than_the_buffer_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = request(RouteCommand.GETLINK, LINK, flags=RequestFlag.DUMP)
    monkeypatch.setattr(rtnetlink, "ANSWER_SIZE", 64)
    again = request(RouteCommand.GETLINK, LINK, flags=RequestFlag.DUMP)

    assert min(map(len, whole)) > rtnetlink.ANSWER_SIZE
    assert [len(answer) for answer in again] == [len(answer) for answer in whole]


def test_a_message_over_64_kib_is_read_whole() -> None:
    """A device with very many virtual functions has one."""
    body = bytes(range(256)) * 400
    header, done = rtnetlink.HEADER, rtnetlink.DONE
    kernel, asked = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with kernel, asked:
        kernel.send(header.pack(header.size + len(body), RouteCommand.GETLINK, 0, 1, 0) + body)
        kernel.send(header.pack(header.size + 4, done, 0, 1, 0) + bytes(4))

        assert list(rtnetlink._answers(asked, RouteCommand.GETLINK, "device")) == [body]
