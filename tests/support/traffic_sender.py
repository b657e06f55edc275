"""A process that sends a bounded number of UDP packets at a steady rate, and says how many it sent.

    traffic_sender.py FD ADDRESS PORT PACKETS PACKETS_PER_SECOND

FD is a UDP socket of the namespace to send from. SIGTERM ends it earlier.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Iterator

BURST_S = 0.001
PAYLOAD = bytes(32)


def main() -> None:
    """Send, and write one number."""
    fd, address, port, packets, rate = sys.argv[1:]
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))
    with socket.socket(fileno=int(fd)) as sender:
        sys.stdout.write("started\n")
        sys.stdout.flush()
        sent = sum(
            sender.sendto(PAYLOAD, (address, int(port))) == len(PAYLOAD)
            for _ in paced(int(packets), int(rate), stopped)
        )
    sys.stdout.write(f"{sent}\n")


def paced(packets: int, rate: int, stopped: list[int]) -> Iterator[int]:
    """Yield a number when each packet is due, some every millisecond, until *stopped* has one."""
    burst = max(1, int(rate * BURST_S))
    start = time.monotonic()
    for number in range(packets):
        if number % burst == 0:
            time.sleep(max(0.0, start + number / rate - time.monotonic()))
            if stopped:
                return
        yield number


if __name__ == "__main__":
    main()
