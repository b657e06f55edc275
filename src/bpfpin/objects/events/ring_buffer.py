"""Events that programs send by a ring buffer (BPF_MAP_TYPE_RINGBUF, Linux 5.8)."""

from __future__ import annotations

import sys
from typing import Any

from bpfpin.errors import BusyError, NotSupportedError
from bpfpin.map_traits import MapFamily, types_in
from bpfpin.objects.events.source import EventSource, Run, runs
from bpfpin.syscall import exclusive_name
from bpfpin.syscall.fd import Descriptor
from bpfpin.syscall.mmap import PAGE_SIZE, WORD, Fence, SharedPages
from bpfpin.uapi import RINGBUF_BUSY_BIT, RINGBUF_DISCARD_BIT, RINGBUF_HDR_SZ, MapFlag

LENGTH = ~(RINGBUF_BUSY_BIT | RINGBUF_DISCARD_BIT) & 0xFFFFFFFF


class RingBuffer(EventSource):
    """The events of a ring buffer, in the order in which programs reserved them.

    `consume`, `poll`, `for` and `async for` give each event once, decoded as `EventMap` says, and
    make room for new ones. A record that is reserved and not submitted yet holds back those behind
    it; discarded ones are left out.

    What found no room was refused to the program (`bpf_ringbuf_reserve` gave NULL) and is counted
    nowhere in the kernel: programs that must know count it themselves, in a map beside.

    A ring has one position, whoever reads: two readers at once would spoil it. So from the first
    event it takes a handle keeps others away, `BusyError`, until it is closed. That works between
    processes of root that share /run, and in one network namespace between all who use this
    library (`syscall/exclusive_name.py`); another user cannot keep root away.

    Memory of the kernel as kernel/bpf/ringbuf.c lays it out: a page with the consumer's position,
    which we write, one with the producers', and the data twice, so that a record that passes the
    end goes on behind it.
    """

    map_types = types_in(MapFamily.RING_BUFFER)

    def __init__(self, descriptor: Descriptor, **reading: Any) -> None:
        self._pages: list[SharedPages] = []
        self._claim: exclusive_name.Claim | None = None
        self._is_reader = False
        self._fence = Fence()
        super().__init__(descriptor, **reading)

    def _open(self) -> None:
        if self._fixed.map_flags & MapFlag.RB_OVERWRITE:
            raise NotSupportedError(
                f"{self._described()} lets programs overwrite events that nobody read yet;"
                " such rings are not read here",
                feature="BPF_F_RB_OVERWRITE",
            )
        self._size = self.max_entries
        about = self._described()
        ours = SharedPages(self.fd, PAGE_SIZE, writable=True, target=about)
        self._pages.append(ours)
        size = PAGE_SIZE + 2 * self._size
        theirs = SharedPages(self.fd, size, offset=PAGE_SIZE, target=about)
        self._pages.append(theirs)
        self._consumer, self._producer = ours.words(8), theirs.words(8)
        self._data, self._headers = theirs.part(PAGE_SIZE), theirs.words(4, PAGE_SIZE)

    @property
    def consumer_position(self) -> int:
        """How many bytes of the ring were read since it was made."""
        _ = self.fd
        return int(self._consumer[0])

    @property
    def producer_position(self) -> int:
        """How many bytes of the ring programs have reserved since it was made."""
        _ = self.fd
        return int(self._producer[0])

    @property
    def available_bytes(self) -> int:
        """Bytes of records that wait in the ring, with headers of eight bytes and padding.

        Reserved and discarded ones count; events that a walk took ahead do not.
        """
        return max(0, self.producer_position - self.consumer_position)

    def _read(self, limit: int | None) -> list[Any]:
        self._be_the_reader()
        room = sys.maxsize if limit is None else limit
        found: list[Any] = []
        position, end = self._consumer[0], self._producer[0]
        self._fence()  # the headers are read after the position that says they are there
        self._check(position, end)
        start = position % self._size
        for run in runs(self._headers, start, start + end - position, _stride):
            is_discarded = run.word & RINGBUF_DISCARD_BIT
            count = run.records if is_discarded else min(run.records, room - len(found))
            if not is_discarded:
                found += self._decoded(run, count)
            position += count * run.stride
            self._consumer[0] = position
            if len(found) >= room:
                break
        self._fence()  # so that whoever waits next cannot miss what came meanwhile
        return found

    def _decoded(self, run: Run, count: int) -> list[Any]:
        codec, first = self._codec_for(run.word & LENGTH), run.start + RINGBUF_HDR_SZ
        self._fence()  # the records are read after the headers that say they are complete
        # Each stretch ends with the header behind its record, which belongs to no value.
        found = codec.decode_many(self._data[first : first + count * run.stride], run.stride)
        self._fence()  # and before the position that gives their room to new ones
        return list(found)

    def _check(self, position: int, end: int) -> None:
        """Refuse to go on where the positions cannot be: somebody else moved them."""
        waiting = end - position
        is_possible = position % RINGBUF_HDR_SZ == 0 and 0 <= waiting <= self._size
        if is_possible and waiting:
            is_possible = _stride(self._headers[position % self._size // WORD]) <= waiting
        if not is_possible:
            raise BusyError(
                f"{self._described()}: somebody else reads it, too: its position is {position},"
                f" that of the programs {end}, its size {self._size}",
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
    """Return the bytes from a record's header to the next one, 0 for one that is not submitted."""
    return 0 if header & RINGBUF_BUSY_BIT else ((header & LENGTH) + RINGBUF_HDR_SZ + 7) & ~7
