"""User ring buffers: records that user space sends to programs (BPF_MAP_TYPE_USER_RINGBUF)."""

from __future__ import annotations

import errno
import struct
import time
from typing import Any

from bpfpin.errors import MapFullError
from bpfpin.map_traits import MapFamily, types_in
from bpfpin.objects.events.event_map import EventMap
from bpfpin.objects.events.source import LOOK_ANYWAY_S, NAP_S
from bpfpin.syscall import exclusive_name
from bpfpin.syscall.mmap import PAGE_SIZE, Fence, SharedPages
from bpfpin.syscall.waiter import WRITABLE, Waiter
from bpfpin.uapi import RINGBUF_BUSY_BIT, RINGBUF_DISCARD_BIT, RINGBUF_HDR_SZ

HEADER = struct.Struct("<II")  # the length, and a word that the kernel does not read
# The two highest bits of a header are marks, so a length has 30.
MAX_RECORD = min(RINGBUF_BUSY_BIT, RINGBUF_DISCARD_BIT)


class UserRingBuffer(EventMap):
    """The writer of a user ring buffer, which programs drain with `bpf_user_ringbuf_drain`.

    `submit` takes values of the type that *event_type*, *value_type* or *value_format* name, and
    always bytes of any length. It does not wake programs: they drain the ring when they next run.

    The ring has one write position. From its first record until `close`, a handle keeps other
    writers out: they get `BusyError`, as other readers do with `RingBuffer`. Threads may share a
    handle.

    The parameters are those of `EventMap`.

    Kernel: mmap(2) of the map, laid out as a ring buffer; here user space writes the producer
        position and the data (Linux 6.1).
    """

    map_types = types_in(MapFamily.USER_RING_BUFFER)

    def _prepare(self) -> None:
        self._pages: list[SharedPages] = []
        self._waiter: Waiter | None = None
        self._claim: exclusive_name.Claim | None = None
        self._is_writer = False
        self._fence = Fence()
        super()._prepare()

    def _open(self) -> None:
        self._size = self.max_entries
        about = self._described()
        # The kernel gives write access to all pages but that of its own position
        # (ringbuf_map_mmap_user() of kernel/bpf/ringbuf.c).
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
        """Free bytes; a record takes its length plus 8, rounded up to a multiple of 8."""
        return self._size - self.available_bytes

    def submit(self, value: Any, *, timeout_s: float = 0.0) -> None:
        """Send one record.

        Args:
            value: A value of the record's type, or bytes.
            timeout_s: Seconds to wait for a program to make room. Default: 0, do not wait.

        Raises:
            MapFullError: There is no room.
            BusyError: Another handle writes to the ring.
            ValueError, TypeError: The value does not fit its type, or is longer than the ring; or
                the handle is closed.
        """
        record = self._encoded(value)
        deadline, is_ready = time.monotonic() + timeout_s, False
        while not self._put(record):
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._full(len(record))
            # ringbuf_map_poll_user() of kernel/bpf/ringbuf.c reports any free byte, so a ring with
            # too little room is ready at once, again and again.
            if is_ready:
                time.sleep(min(NAP_S, left))
            is_ready = self._waiting().wait(min(LOOK_ANYWAY_S, left))

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
        """Write the record, then the position that makes it visible; return False if full."""
        with self._lock:
            _ = self.fd
            self._be_the_writer()
            position = self._producer[0]
            taken = _taken(len(record))
            # Both positions only grow; their difference is what the ring holds.
            if taken > self._size - (position - self._consumer[0]):
                return False
            self._fence()  # the consumer position is read before the room that it frees is written
            # The data is mapped twice in a row, so a record may pass the end.
            start = position % self._size
            data = start + RINGBUF_HDR_SZ
            self._data[start:data] = HEADER.pack(len(record), 0)
            self._data[data : data + len(record)] = record
            # The record before the position: __bpf_user_ringbuf_peek() of kernel/bpf/ringbuf.c
            # takes what lies below the position as complete.
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
