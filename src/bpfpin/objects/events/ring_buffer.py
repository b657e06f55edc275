"""Ring buffers: events that programs send to a BPF_MAP_TYPE_RINGBUF (Linux 5.8)."""

from __future__ import annotations

import sys
from typing import Any

from bpfpin.errors import BusyError, NotSupportedError
from bpfpin.map_traits import MapFamily, types_in
from bpfpin.objects.events.source import EventSource, Run, runs
from bpfpin.syscall import exclusive_name
from bpfpin.syscall.mmap import PAGE_SIZE, WORD, Fence, SharedPages
from bpfpin.uapi import RINGBUF_BUSY_BIT, RINGBUF_DISCARD_BIT, RINGBUF_HDR_SZ, MapFlag

LENGTH = ~(RINGBUF_BUSY_BIT | RINGBUF_DISCARD_BIT) & 0xFFFFFFFF


class RingBuffer(EventSource):
    """The reader of a ring buffer: events in the order in which programs reserved them.

    `consume`, `poll`, `for` and `async for` yield each event once, decoded as `EventMap` says, and
    free its room. A record that is reserved but not submitted yet holds back the ones after it;
    discarded records are skipped.

    An event that finds no room is refused to the program (`bpf_ringbuf_reserve` returns NULL). The
    kernel does not count these; a program that wants to know counts them in another map.

    A ring has one read position, so two readers would take events from each other. From the first
    event that it takes until `close`, a handle keeps other readers out: they get `BusyError`. That
    works between processes of root that share /run, and between all users of this library in one
    network namespace (`syscall/exclusive_name.py`); another user cannot keep root out.

    The parameters are those of `EventMap`.

    Kernel: mmap(2) of the map, as kernel/bpf/ringbuf.c lays it out: a page with the consumer
        position, which the reader writes, a page with the producer position, and the data twice in
        a row, so that a record that passes the end is still contiguous.
    """

    map_types = types_in(MapFamily.RING_BUFFER)
    # The kernel's ring buffers have no values: a value type in a definition is for readers. (That
    # of a perf event array is the type of its elements, descriptors.)
    _has_typed_records = True

    def _prepare(self) -> None:
        self._pages: list[SharedPages] = []
        self._claim: exclusive_name.Claim | None = None
        self._is_reader = False
        self._fence = Fence()
        super()._prepare()

    def _open(self) -> None:
        if self._fixed.map_flags & MapFlag.RB_OVERWRITE:
            raise NotSupportedError(
                f"{self._described()}: rings that overwrite unread events are not supported",
                feature="BPF_F_RB_OVERWRITE",
            )
        self._size = self.max_entries
        about = self._described()
        # Two mappings: the kernel allows a writable one of this page alone (ringbuf_map_mmap_kern()
        # of kernel/bpf/ringbuf.c).
        ours = SharedPages(self.fd, PAGE_SIZE, writable=True, target=about)
        self._pages.append(ours)
        size = PAGE_SIZE + 2 * self._size
        theirs = SharedPages(self.fd, size, offset=PAGE_SIZE, target=about)
        self._pages.append(theirs)
        self._consumer, self._producer = ours.words(8), theirs.words(8)
        self._data, self._headers = theirs.part(PAGE_SIZE), theirs.words(4, PAGE_SIZE)

    @property
    def consumer_position(self) -> int:
        """Bytes that were read from the ring since its creation."""
        _ = self.fd
        return int(self._consumer[0])

    @property
    def producer_position(self) -> int:
        """Bytes that programs have reserved in the ring since its creation."""
        _ = self.fd
        return int(self._producer[0])

    @property
    def available_bytes(self) -> int:
        """Bytes of records in the ring, with headers of eight bytes and padding.

        Reserved and discarded records count; events that were read ahead do not.
        """
        return max(0, self.producer_position - self.consumer_position)

    def _read(self, limit: int | None) -> list[Any]:
        self._be_the_reader()
        room = sys.maxsize if limit is None else limit
        events: list[Any] = []
        position, end = self._consumer[0], self._producer[0]
        self._fence()  # the headers are read after the position that says they are there
        self._check(position, end)
        start = position % self._size
        for run in runs(self._headers, start, start + end - position, _stride):
            is_discarded = run.word & RINGBUF_DISCARD_BIT
            count = run.records if is_discarded else min(run.records, room - len(events))
            if not is_discarded:
                events += self._decoded(run, count)
            position += count * run.stride
            self._consumer[0] = position
            if len(events) >= room:
                break
        # The new position has to be visible before the next wait: a program wakes the reader only
        # if the reader has read everything (bpf_ringbuf_commit() of kernel/bpf/ringbuf.c).
        self._fence()
        return events

    def _decoded(self, run: Run, count: int) -> list[Any]:
        codec, first = self._codec_for(run.word & LENGTH), run.start + RINGBUF_HDR_SZ
        self._fence()  # the records are read after the headers that say they are complete
        # Each stride ends with the header of the next record, which is not part of the value.
        events = codec.decode_many(self._data[first : first + count * run.stride], run.stride)
        self._fence()  # and before the position that gives their room to new ones
        return list(events)

    def _check(self, position: int, end: int) -> None:
        """Raise `BusyError` if the positions are impossible: another reader moved them."""
        waiting = end - position
        is_possible = position % RINGBUF_HDR_SZ == 0 and 0 <= waiting <= self._size
        if is_possible and waiting:
            is_possible = _stride(self._headers[position % self._size // WORD]) <= waiting
        if not is_possible:
            raise BusyError(
                f"{self._described()}: another reader uses it as well (read position {position},"
                f" write position {end}, size {self._size})",
                hint="end the other reader; the events in the ring are lost",
            )

    def _be_the_reader(self) -> None:
        if not self._is_reader:
            self._claim = exclusive_name.acquire("ringbuf", self.id, target=self._described())
            self._is_reader = True

    def _watched(self) -> list[int]:
        return [self.fd]

    def _let_go(self) -> None:
        super()._let_go()
        for pages in self._pages:
            pages.close()
        if self._claim is not None:
            self._claim.close()


def _stride(header: int) -> int:
    """Return the bytes from a record's header to the next one; 0 if it is not submitted yet."""
    return 0 if header & RINGBUF_BUSY_BIT else ((header & LENGTH) + RINGBUF_HDR_SZ + 7) & ~7
