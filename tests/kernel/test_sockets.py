"""Programs on a socket of the caller: filters, and the choice among sockets of one port."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from bpfpin.attach.sockets import attach_reuseport, attach_socket_filter
from bpfpin.errors import ProgramChangedError, UsageError, WrongHookError
from bpfpin.loading.collection import Loaded, load
from bpfpin.objfile.reader import read_object
from support.objects import compiled

ON_SOCKET = 6


def loaded_with(kept: int, *programs: str) -> Loaded:
    spec = read_object(compiled("network", defines=(f"KEPT={kept}",)))
    return load(spec, programs=list(programs or ["on_socket"]))


def receiver(*, shares_port: bool = False, port: int = 0) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    if shares_port:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    return made


@pytest.fixture
def here() -> Iterator[socket.socket]:
    with receiver() as made:
        yield made


def received(*sockets: socket.socket) -> list[bytes]:
    """Send a packet to the port of the first, and return what each of them receives."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"packet", sockets[0].getsockname())
    packets = []
    for each in sockets:
        try:
            packets.append(each.recv(64))
        except BlockingIOError:  # loopback delivers before sendto() returns
            packets.append(b"")
    return packets


def test_a_filter_says_how_much_of_a_packet_arrives(here: socket.socket) -> None:
    # The program sees the UDP header, of 8 bytes, too (sk_filter_trim_cap()).
    with loaded_with(11) as first, loaded_with(0) as none:
        with attach_socket_filter(first.programs["on_socket"], here) as attachment:
            cut = received(here)
            with pytest.raises(ProgramChangedError):
                attachment.update(none.programs["on_socket"], none.programs["on_socket"])
            attachment.update(none.programs["on_socket"], first.programs["on_socket"])
            dropped = received(here)
            running = attachment.program_id()
        whole = received(here)

        assert (cut, dropped, whole) == ([b"pac"], [b""], [b"packet"])
        assert running == none.programs["on_socket"].id
        assert first.maps["seen"][ON_SOCKET] == none.maps["seen"][ON_SOCKET] == 1
        assert attachment.program_id() == 0


def test_an_attachment_outlives_its_object_and_ends_with_the_socket(here: socket.socket) -> None:
    with loaded_with(0) as none:
        attachment = attach_socket_filter(none.programs["on_socket"], here)
        attachment.close()
    dropped = received(here)
    here.close()
    attachment.detach()

    assert dropped == [b""]
    assert attachment.program_id() == 0


def test_a_program_chooses_the_socket_of_a_port() -> None:
    with loaded_with(1) as second, loaded_with(0, "on_choice", "on_socket") as first:
        with (
            receiver(shares_port=True) as one,
            receiver(shares_port=True, port=one.getsockname()[1]) as other,
        ):
            with attach_reuseport(second.programs["on_socket"], one) as attachment:
                by_second = received(one, other)
                attachment.update(first.programs["on_socket"])
                by_first = received(one, other)
            with attach_reuseport(first.programs["on_choice"], other):
                by_kernel = received(one, other)
            after = received(one, other)

        assert by_second == [b"", b"packet"]
        assert by_first == [b"packet", b""]
        assert sorted(by_kernel) == sorted(after) == [b"", b"packet"]
        assert first.maps["seen"][ON_SOCKET] == 2


def test_wrong_sockets_and_programs_are_refused_with_the_reason(here: socket.socket) -> None:
    with loaded_with(0, "on_choice", "on_socket") as loaded:
        programs = loaded.programs
        with pytest.raises(WrongHookError, match="is of type sk_reuseport"):
            attach_socket_filter(programs["on_choice"], here)
        with pytest.raises(UsageError, match="does not share its port"):
            attach_reuseport(programs["on_choice"], here)
        here.close()
        with pytest.raises(UsageError, match="the socket is closed"):
            attach_socket_filter(programs["on_socket"], here)
