"""A network namespace joined to this one by a veth pair, and bounded traffic through it."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bpfpin.apps.lab import Lab, lab_down, lab_up
from bpfpin.syscall import netns

_numbers = itertools.count(1)


@dataclass(frozen=True)
class TestLab:
    """What a test sees of a lab: *device* is here, its peer in the namespace."""

    __test__ = False
    lab: Lab

    @property
    def device(self) -> str:
        """The device in this namespace, where programs are attached."""
        return self.lab.device

    @property
    def ifindex(self) -> int:
        """The device's index."""
        return socket.if_nametoindex(self.device)

    @property
    def host_address(self) -> str:
        """The IPv4 address of the device."""
        return self.lab.addresses.host[0]

    @property
    def peer_address(self) -> str:
        """The IPv4 address of the peer."""
        return self.lab.addresses.peer[0]

    def flood(self, packets: int, *, port: int = 9999, size_bytes: int = 32) -> None:
        """Send *packets* UDP datagrams from the peer to *port* of the device's address."""
        with netns.enter(self.lab.netns):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sender:
            for _ in range(packets):
                sender.sendto(bytes(size_bytes), (self.host_address, port))

    def answers(self, *, timeout_s: float = 1.0) -> bool:
        """Whether one datagram from the peer reaches a socket on the device's side."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind((self.host_address, 0))
            receiver.settimeout(timeout_s)
            self.flood(1, port=receiver.getsockname()[1])
            try:
                receiver.recv(64)
            except TimeoutError:
                return False
        return True


@contextmanager
def new_lab() -> Iterator[TestLab]:
    """Make a lab and take it down again."""
    lab = lab_up(f"lab{next(_numbers)}")
    try:
        yield TestLab(lab)
    finally:
        lab_down(lab.name)
