"""Bounded traffic into a lab: as many packets as it says were sent, and no longer than asked."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from bpfpin.apps.lab import Lab
from bpfpin.syscall import netns

PORT: Final = 9  # discard (RFC 863)
_PAYLOAD: Final = bytes(32)
_BURST: Final = 10
_PAUSE_S: Final = 0.002


@dataclass(slots=True)
class Traffic:
    """How many packets have been sent so far."""

    sent: int = 0


@contextmanager
def traffic(lab: Lab) -> Iterator[Traffic]:
    """Send some thousand UDP packets a second to the lab's device while the block runs."""
    sent, done = Traffic(), threading.Event()
    with netns.enter(lab.netns):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        arguments = (sender, lab.addresses.host[0], sent, done)
        thread = threading.Thread(target=_send, args=arguments)
        thread.start()
        try:
            yield sent
        finally:
            done.set()
            thread.join()


def _send(sender: socket.socket, address: str, sent: Traffic, done: threading.Event) -> None:
    while not done.wait(_PAUSE_S):
        for _ in range(_BURST):
            sender.sendto(_PAYLOAD, (address, PORT))
            sent.sent += 1
