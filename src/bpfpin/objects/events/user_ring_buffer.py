"""Records that user space sends to programs (BPF_MAP_TYPE_USER_RINGBUF, Linux 6.1)."""

from __future__ import annotations

import errno
import struct
import time
from typing import Any

from bpfpin.errors import MapFullError
from bpfpin.map_traits import MapFamily, types_in
from bpfpin.objects.events.event_map import EventMap
from bpfpin.syscall import exclusive_name
from bpfpin.syscall.fd import Descriptor
from bpfpin.syscall.mmap import PAGE_SIZE, Fence, SharedPages
from bpfpin.syscall.waiter import WRITABLE, Waiter
from bpfpin.uapi import RINGBUF_BUSY_BIT, RINGBUF_DISCARD_BIT, RINGBUF_HDR_SZ

HEADER = struct.Struct("<II")  # length, then a word that the kernel leaves alone
LOOK_ANYWAY_S = 0.25  # a program may drain without waking anybody (BPF_RB_NO_WAKEUP)
MAX_RECORD = min(RINGBUF_BUSY_BIT, RINGBUF_DISCARD_BIT)


class UserRingBuffer(EventMap):
    """A ring that programs drain (`bpf_user_ringbuf_drain`), record by record, in order.

    `submit` takes what *event_type*, *value_type* or *value_format* describe, as `EventMap` says,
    and bytes of any length always. Programs are not woken by it: they drain when they next run.

    The ring has one position for writing: from its first record on a handle keeps other writers
    away, `BusyError`, as `RingBuffer` does other readers. Threads may share a handle.

    The layout is that of `RingBuffer`; here we write the producers' position and the data.
    """

    map_types = types_in(MapFamily.USER_RING_BUFFER)

    def __init__(self, descriptor: Descriptor, **reading: Any) -> None:
        self._pages: list[SharedPages] = []
        self._waiter: Waiter | None = None
        self._claim: exclusive_name.Claim | None = None
        self._is_writer = False
        self._fence = Fence()
        super().__init__(descriptor, **reading)

    def _open(self) -> None:
        self._size = self.max_entries
        about = self._described()
        theirs = SharedPages(self.fd, PAGE_SIZE, target=about)
        self._pages.append(theirs)
        size = PAGE_SIZE + 2 * self._size
        ours = SharedPages(self.fd, size, offset=PAGE_SIZE, writable=True, target=about)
        self._pages.append(ours)
        self._consumer, self._producer = theirs.words(8), ours.words(8)
        self._data = ours.part(PAGE_SIZE)

    @property
    def available_bytes(self) -> int:
        """Bytes of records that no program has drained yet, with headers and padding."""
        _ = self.fd
        return int(self._producer[0] - self._consumer[0])

    @property
    def room_bytes(self) -> int:
        """Bytes that are free; a record takes its length and 8 more, rounded up to 8."""
        return self._size - self.available_bytes

    def submit(self, value: Any, *, timeout_s: float = 0.0) -> None:
        """Send one record.

        `MapFullError` if it finds no room, with *timeout_s* only after waiting so long for a
        program to drain. `ValueError` or `TypeError` for a value that does not fit its type, or
        that is longer than the ring.
        """
        record = self._encoded(value)
        deadline = time.monotonic() + timeout_s
        while not self._put(record):
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._full(len(record))
            self._waiting().wait(min(LOOK_ANYWAY_S, left))

    def _encoded(self, value: Any) -> bytes:
        if isinstance(value, bytes | bytearray | memoryview) or self._record is None:
            record = bytes(memoryview(value))
        else:
            record = self._record.encode(value)
        if _taken(len(record)) > min(self._size, MAX_RECORD):
            raise ValueError(
                f"a record of {len(record)} bytes is too long for {self._described()},"
                f" which takes {self._size - RINGBUF_HDR_SZ} at most"
            )
        return record

    def _put(self, record: bytes) -> bool:
        """Write the record if there is room, header and all, before the position that shows it."""
        with self._lock:
            _ = self.fd
            self._be_the_writer()
            position = self._producer[0]
            taken = _taken(len(record))
            if taken > self._size - (position - self._consumer[0]):
                return False
            self._fence()  # what the program read there, it has read
            start = position % self._size
            data = start + RINGBUF_HDR_SZ
            self._data[start:data] = HEADER.pack(len(record), 0)
            self._data[data : data + len(record)] = record
            self._fence()
            self._producer[0] = position + taken
            return True

    def _full(self, length: int) -> MapFullError:
        return MapFullError(
            f"{self._described()} has no room for {length} bytes: {self.available_bytes} of"
            f" {self._size} wait to be drained",
            command="submit",
            errno=errno.ENOSPC,
            target=self._described(),
            hint="a program drains it when it runs; timeout_s waits for that",
        )

    def _be_the_writer(self) -> None:
        if not self._is_writer:
            self._claim = exclusive_name.acquire("user_ringbuf", self.id, target=self._described())
            self._is_writer = True

    def _waiting(self) -> Waiter:
        with self._lock:
            if self._waiter is None:
                self._waiter = Waiter([self.fd], WRITABLE)
            return self._waiter

    def _let_go(self) -> None:
        if self._waiter is not None:
            self._waiter.close()
        for pages in self._pages:
            pages.close()
        if self._claim is not None:
            self._claim.close()


def _taken(length: int) -> int:
    return (length + RINGBUF_HDR_SZ + 7) & ~7
