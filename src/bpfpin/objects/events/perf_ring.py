"""The records of one CPU in a buffer of perf events."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bpfpin.codecs.codec import Codec
from bpfpin.objects.events.source import Run, runs
from bpfpin.syscall import perf
from bpfpin.syscall.fd import Closing
from bpfpin.syscall.mmap import PAGE_SIZE, Fence, SharedPages

CodecFor = Callable[[int], Codec]

RAW = 12  # a sample's bytes stand behind its header of eight and their length
LOST_COUNT = 2  # the word of a lost record that has the number, behind header and id
CHUNK = 1 << 17  # bytes copied at a time, more than two of the longest records
BEHIND = bytes(16)  # so that the last record has bytes up to where the next one's would start
HEAD, TAIL = perf.DATA_HEAD // 8, perf.DATA_TAIL // 8


@dataclass(frozen=True, slots=True)
class Lost:
    """Stands among events: here *count* of them found no room in the buffer of *cpu*."""

    cpu: int
    count: int


class PerfRing(Closing):
    """The event that programs on *cpu* write to, with a buffer of *pages* pages, a power of two.

    The buffer is laid out as perf_event_open(2) says: a page with the positions, then the records.
    """

    def __init__(self, cpu: int, pages: int, *, watermark_bytes: int = 0) -> None:
        self.cpu = cpu
        self.lost = 0  # as far as it was told
        self._early = 0  # told of it before the kernel's record about it came
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
        """End the event; records that nobody took are gone. Again does nothing."""
        self._pages.close()
        self._event.close()

    @property
    def available_bytes(self) -> int:
        """Bytes of records that wait, with their headers."""
        return int(self._positions[HEAD] - self._positions[TAIL])

    def take(self, limit: int | None, codec_for: CodecFor) -> list[Any]:
        """Return up to *limit* events, read by what *codec_for* says of their size.

        Beyond the limit there are `Lost` between them, where the kernel put its records of that,
        and at the end, when everything was taken, what its records do not tell yet: it writes one
        only before the next event that finds room.
        """
        room = sys.maxsize if limit is None else limit
        found: list[Any] = []
        end = self._positions[HEAD]
        self._fence()  # the records are read after the position that says they are there
        while room > 0 and (copied := self._copied(end)):
            used = 0
            for run, count in _fitting(copied, room):
                found += self._items(copied, run, count, codec_for)
                room -= count if _is_sample(run) else 0
                used = run.start + count * run.stride
            self._fence()  # they are copied before the position that gives their room away
            self._positions[TAIL] += used
            if not used:
                break
        return found + self._untold() if room > 0 else found

    def _copied(self, end: int) -> bytes:
        """Return the records from the tail on, put together where they pass the buffer's end."""
        tail = self._positions[TAIL]
        length = min(end - tail, CHUNK)
        if not length:
            return b""
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
        told = (self._told(words[start // 8 + LOST_COUNT]) for start in starts)
        return [lost for lost in told if lost]

    def _told(self, count: int) -> Lost | None:
        """Return what is new in the kernel's record of *count* lost events."""
        known = min(count, self._early)
        self._early -= known
        return self._lost(count - known)

    def _untold(self) -> list[Lost]:
        count = perf.lost_records(self.fileno()) - self.lost
        self._early += count
        lost = self._lost(count)
        return [lost] if lost else []

    def _lost(self, count: int) -> Lost | None:
        self.lost += count
        return Lost(self.cpu, count) if count else None


def _fitting(data: bytes, room: int) -> Iterator[tuple[Run, int]]:
    """Yield the runs of records in *data*, each with how many of it fit into *room* events."""
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
