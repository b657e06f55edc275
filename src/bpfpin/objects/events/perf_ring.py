"""The perf event of one CPU, and the records in its buffer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

from bpfpin.codecs.codec import Codec
from bpfpin.objects.events.source import Run, runs
from bpfpin.records import dataclass
from bpfpin.syscall import perf
from bpfpin.syscall.fd import Closing
from bpfpin.syscall.mmap import PAGE_SIZE, Fence, SharedPages

CodecFor = Callable[[int], Codec]

RAW = 12  # a sample's data follows the header (8 bytes) and the data's length (4)
LOST_COUNT = 2  # the 64-bit word of a PERF_RECORD_LOST with the count, after header and id
CHUNK = 1 << 17  # bytes copied at a time, more than two of the longest records (64 KiB)
BEHIND = bytes(16)  # appended, so that the last record's slice is as long as the others
HEAD, TAIL = perf.DATA_HEAD // 8, perf.DATA_TAIL // 8


@dataclass(frozen=True, slots=True)
class Lost:
    """Stands among events: at this point *count* events found no room in the buffer of *cpu*.

    Args:
        cpu: The CPU on which the program ran.
        count: How many events were lost.
    """

    cpu: int
    count: int


class PerfRing(Closing):
    """The perf event that programs on *cpu* write to, with a buffer of *pages* pages.

    *pages* is a power of two. The layout is that of perf_event_open(2): a page with the positions,
    then the records.
    """

    def __init__(self, cpu: int, pages: int, *, watermark_bytes: int = 0) -> None:
        self.cpu = cpu
        self.lost = 0  # as far as the kernel has reported
        self._early = 0  # of these, reported before the kernel's record of them was read
        self._size = pages * PAGE_SIZE
        self._fence = Fence()
        self._event = perf.open_bpf_output(cpu, watermark_bytes=watermark_bytes)
        try:
            target, size = f"perf buffer of CPU {cpu}, {pages} pages", PAGE_SIZE + self._size
            self._pages = SharedPages(self.fileno(), size, writable=True, target=target)
        except BaseException:
            self._event.close()
            raise
        self._positions = self._pages.words(8)
        self._data = self._pages.part(PAGE_SIZE)
        perf.enable(self.fileno())

    def fileno(self) -> int:
        """Return the event's descriptor."""
        return self._event.fileno()

    def close(self) -> None:
        """Close the event; unread records are gone. Closing twice does nothing."""
        self._pages.close()
        self._event.close()

    @property
    def available_bytes(self) -> int:
        """Bytes of unread records, with headers."""
        return int(self._positions[HEAD] - self._positions[TAIL])

    def take(self, limit: int | None, codec_for: CodecFor) -> list[Any]:
        """Take up to *limit* events, decoded by the codec that *codec_for* returns for their size.

        `Lost` records, which do not count towards the limit, stand where the kernel wrote them. The
        kernel writes one only before the next event that finds room. So when everything has been
        taken, the losses that it has not written down yet are asked for and added at the end.
        """
        room = sys.maxsize if limit is None else limit
        events: list[Any] = []
        end = self._positions[HEAD]
        self._fence()  # the records are read after the position that says they are there
        while room > 0 and (copied := self._copied(end)):
            used = 0
            for run, count in _fitting(copied, room):
                events += self._items(copied, run, count, codec_for)
                room -= count if _is_sample(run) else 0
                used = run.start + count * run.stride
            self._fence()  # the records are copied before the position that frees their room
            self._positions[TAIL] += used
            if not used:
                break
        return events + self._unreported() if room > 0 else events

    def _copied(self, end: int) -> bytes:
        """Return a copy of the records from the tail on, joined if they pass the buffer's end."""
        tail = self._positions[TAIL]
        length = min(end - tail, CHUNK)
        if not length:
            return b""
        # Both positions only grow: they are not wrapped (perf_event_open(2)).
        start = tail % self._size
        first = self._data[start : start + length]
        return b"".join((first, self._data[: length - len(first)], BEHIND))

    def _items(self, data: bytes, run: Run, count: int, codec_for: CodecFor) -> list[Any]:
        if _is_sample(run):
            first = run.start + RAW
            samples = memoryview(data)[first : first + count * run.stride]
            return list(codec_for(run.stride - RAW).decode_many(samples, run.stride))
        if run.word & 0xFFFFFFFF != perf.RECORD_LOST:
            return []
        words = memoryview(data).cast("Q")
        starts = range(run.start, run.start + count * run.stride, run.stride)
        losses = (self._reported(words[start // 8 + LOST_COUNT]) for start in starts)
        return [lost for lost in losses if lost]

    def _reported(self, count: int) -> Lost | None:
        """Return the losses in the kernel's record of *count* that were not reported early."""
        known = min(count, self._early)
        self._early -= known
        return self._lost(count - known)

    def _unreported(self) -> list[Lost]:
        """Return the losses that the kernel counts but has not written a record of yet."""
        count = perf.lost_records(self.fileno()) - self.lost
        self._early += count
        lost = self._lost(count)
        return [lost] if lost else []

    def _lost(self, count: int) -> Lost | None:
        self.lost += count
        return Lost(self.cpu, count) if count else None


def _fitting(data: bytes, room: int) -> Iterator[tuple[Run, int]]:
    """Yield the runs of records in *data*, each with how many of its records *room* allows."""
    for run in runs(memoryview(data).cast("Q"), 0, len(data) - len(BEHIND), _stride):
        count = min(run.records, room) if _is_sample(run) else run.records
        yield run, count
        room -= count if _is_sample(run) else 0
        if room <= 0:
            return


def _is_sample(run: Run) -> bool:
    return run.word & 0xFFFFFFFF == perf.RECORD_SAMPLE


def _stride(header: int) -> int:
    """Return the size of a record, from its header: 32 bits of type, 16 of misc, 16 of size."""
    return header >> 48
