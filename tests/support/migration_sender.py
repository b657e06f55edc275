"""A process on one CPU that sends a bounded number of UDP packets from many ports, steadily.

    migration_sender.py FD CPU MAC FIRST_PORT PORTS PACKETS PACKETS_PER_SECOND

FD is a packet socket bound to the device to send from. Packets go out in bursts, one system call
(sendmmsg(2)) each; SIGTERM ends it earlier. It writes how many it sent.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
import time

BURST_S = 0.001
PORT = 9999
SMALLEST = 60  # bytes of a frame; a port's frames have a length of its own


class Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Message(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("padding", ctypes.c_uint32),
        ("sent", ctypes.c_uint32),
    )


def main() -> None:
    """Send, and write one number."""
    fd, cpu, mac, *numbers = sys.argv[1:]
    first, ports, packets, rate = map(int, numbers)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))
    os.sched_setaffinity(0, {int(cpu)})
    # Twice as many as ports, so that every burst is one piece of it.
    frames = [frame(bytes.fromhex(mac), first + number % ports) for number in range(2 * ports)]
    kept = [ctypes.create_string_buffer(data, len(data)) for data in frames]
    vectors = [Vector(ctypes.addressof(data), len(data)) for data in kept]
    messages = (Message * len(vectors))(
        *(Message(vectors=ctypes.addressof(vector), vector_count=1) for vector in vectors)
    )
    sys.stdout.write("started\n")
    sys.stdout.flush()
    sent = send(int(fd), messages, (packets, rate), stopped)
    sys.stdout.write(f"{sent}\n")


def send(
    fd: int, messages: ctypes.Array[Message], wanted: tuple[int, int], stopped: list[int]
) -> int:
    """Send at a rate until all are sent or *stopped* has a number; return how many there were."""
    packets, rate = wanted
    sendmmsg = ctypes.CDLL(None, use_errno=True).sendmmsg
    ports, start, sent = len(messages) // 2, time.monotonic(), 0
    while sent < packets and not stopped:
        due = min(packets, int((time.monotonic() - start) * rate) + 1)
        count = min(due - sent, ports, 1000)
        if count > 0:
            at = ctypes.byref(messages, sent % ports * ctypes.sizeof(Message))
            sent += max(0, sendmmsg(fd, at, count, 0))  # what found no room is sent again
        time.sleep(BURST_S)
    return sent


def frame(mac: bytes, port: int) -> bytes:
    """Return an Ethernet frame from *port*, of a length that is the port's own."""
    size = SMALLEST + port % 64
    ethernet = mac + bytes(6) + b"\x08\x00"
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, size - 14, 0, 0, 64, 17, 0, bytes(4), bytes(4))
    udp = struct.pack(">HHHH", port, PORT, size - 34, 0)
    return (ethernet + ip + udp).ljust(size, b"\0")


if __name__ == "__main__":
    main()
