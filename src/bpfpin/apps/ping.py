"""ICMP echo over IPv4 (RFC 792, checksum RFC 1071), for hosts without the command `ping`.

`python -P -m bpfpin.apps.ping -c 5 ADDRESS` prints the summary of `ping -q` without its times.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from collections.abc import Sequence

from bpfpin.records import dataclass
from bpfpin.syscall import netns as network_namespace

ECHO_REPLY = 0
ECHO_REQUEST = 8
_HEADER = struct.Struct("!BBHHH")
# As much as ping(8) sends by default; the echo packet has 64 bytes with its header.
_PAYLOAD = bytes(range(56))


@dataclass(frozen=True, slots=True)
class PingResult:
    """The number of echo requests that were sent, and of those that were answered in time."""

    sent: int
    received: int


def ping(
    address: str,
    *,
    count: int,
    netns: str | None = None,
    interval_s: float = 0.1,
    timeout_s: float = 0.3,
) -> PingResult:
    """Send *count* echo requests to *address* from namespace *netns*; needs CAP_NET_RAW."""
    with _socket_in(netns) as sender:
        sender.settimeout(timeout_s)
        # The field has 16 bits. With the sequence number it tells this process's answers from those
        # of others.
        identifier = os.getpid() & 0xFFFF
        received = 0
        for sequence in range(count):
            started = time.monotonic()
            # ICMP has no ports, but the address of a socket in Python does.
            sender.sendto(_echo_request(identifier, sequence), (address, 0))
            received += _is_answered(sender, identifier, sequence, started + timeout_s)
            time.sleep(max(0.0, started + interval_s - time.monotonic()))
    return PingResult(count, received)


def _socket_in(netns: str | None) -> socket.socket:
    if netns is None:
        return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    # A socket stays in the network namespace in which it was created, so the thread may leave it.
    with network_namespace.enter(netns):
        return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)


def _echo_request(identifier: int, sequence: int) -> bytes:
    unsigned = _HEADER.pack(ECHO_REQUEST, 0, 0, identifier, sequence) + _PAYLOAD
    return _HEADER.pack(ECHO_REQUEST, 0, _checksum(unsigned), identifier, sequence) + _PAYLOAD


def _checksum(data: bytes) -> int:
    # Header and payload have an even number of bytes, so none needs padding.
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _is_answered(receiver: socket.socket, identifier: int, sequence: int, deadline: float) -> bool:
    """Wait for the answer; a raw socket gets the ICMP packets of all processes."""
    while time.monotonic() < deadline:
        try:
            # The timeout of the socket begins anew with each packet of another process; *deadline*
            # ends the wait all the same.
            packet = receiver.recv(1500)
        except TimeoutError:
            return False
        # A raw socket of IPv4 delivers the IP header as well (raw(7)); its length is in words of
        # four bytes.
        header_size = (packet[0] & 0xF) * 4
        kind, _, _, *answered = _HEADER.unpack_from(packet, header_size)
        if kind == ECHO_REPLY and answered == [identifier, sequence]:
            return True
    return False


def main(words: Sequence[str]) -> int:
    """Ping by the options `-c COUNT -W SECONDS ADDRESS`; return 1 if no request was answered."""
    import argparse  # noqa: PLC0415 - not needed if this module is used as a library

    parser = argparse.ArgumentParser(prog="ping")
    parser.add_argument("-c", dest="count", type=int, default=5)
    parser.add_argument("-W", dest="timeout_s", type=float, default=1.0)
    parser.add_argument("address")
    options = parser.parse_args(words)
    result = ping(
        options.address, count=options.count, interval_s=0.05, timeout_s=options.timeout_s
    )
    sys.stdout.write(f"{result.sent} packets transmitted, {result.received} received\n")
    return 0 if result.received else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
