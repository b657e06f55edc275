"""Events that programs send by perf buffers (BPF_MAP_TYPE_PERF_EVENT_ARRAY, Linux 4.3)."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Any

from bpfpin.codecs.codec import BytesCodec, Codec
from bpfpin.errors import SyscallError
from bpfpin.map_traits import MapFamily, types_in
from bpfpin.objects.events.perf_ring import Lost, PerfRing
from bpfpin.objects.events.source import EventSource
from bpfpin.syscall import bpf, exclusive_name
from bpfpin.syscall.cpu import online_cpus
from bpfpin.syscall.fd import Descriptor

PAGES = 64


class PerfBuffer(EventSource):
    """The events of a perf event array: a buffer for each CPU, from when it is opened to its end.

    The ways in take *pages*, the size of each CPU's buffer in pages, a power of two (64), and
    *watermark_bytes*: wake the reader when so much is there, not for each event (0). Opening needs
    CAP_PERFMON, puts a buffer into the map for each CPU that is online, and closing takes them out
    again; nobody hears what programs say in between.

    `consume`, `poll`, `for` and `async for` give the events of each CPU in order, those of
    different CPUs in any. What found no room is told by a `Lost(cpu, count)` among the events,
    beyond a *limit*; `lost` has the sum. None is lost without being told.

    The kernel pads samples: one of 16 bytes comes as 20. A type fits where it takes that size when
    padded; without one the padding is part of the bytes.

    The map has one reader: who puts in buffers takes away another's. So while a handle is open
    another one is refused with `BusyError`, as for `RingBuffer`; of readers that do not use this
    library nothing is known.
    """

    map_types = types_in(MapFamily.PERF_BUFFER)

    def __init__(
        self,
        descriptor: Descriptor,
        *,
        pages: int = PAGES,
        watermark_bytes: int = 0,
        **reading: Any,
    ) -> None:
        if pages < 1 or pages & (pages - 1):
            descriptor.close()
            raise ValueError(f"a perf buffer of {pages} pages: their number is a power of two")
        self._rings: deque[PerfRing] = deque()
        self._claim: exclusive_name.Claim | None = None
        self._shape = pages, watermark_bytes
        super().__init__(descriptor, **reading)

    def _open(self) -> None:
        pages, watermark = self._shape
        self._claim = exclusive_name.acquire("perf_event_array", self.id, target=self._described())
        for cpu in online_cpus():
            if cpu >= self.max_entries:
                continue
            ring = PerfRing(cpu, pages, watermark_bytes=watermark)
            self._rings.append(ring)
            value = ring.fileno().to_bytes(4, "little")
            bpf.map_update_elem(self.fd, _key(cpu), value, target=self._described())

    @property
    def lost(self) -> int:
        """How many events found no room, as far as that was told."""
        return sum(ring.lost for ring in self._rings)

    @property
    def available_bytes(self) -> int:
        """Bytes of records that wait, with their headers; events that a walk took ahead aside."""
        _ = self.fd
        return sum(ring.available_bytes for ring in self._rings)

    def _read(self, limit: int | None) -> list[Any]:
        found: list[Any] = []
        left = limit
        self._rings.rotate()  # so that a limit does not always cut off the same CPU
        for ring in self._rings:
            items = ring.take(left, self._codec_for)
            found += items
            if left is not None:
                left -= sum(not isinstance(item, Lost) for item in items)
        return found

    def _codec_for(self, size: int) -> Codec:
        typed = self._record
        if typed is not None and _padded(typed.size) == size:
            return typed
        return BytesCodec(size)

    def _watched(self) -> list[int]:
        return [ring.fileno() for ring in self._rings]

    def _let_go(self) -> None:
        super()._let_go()
        for ring in self._rings:
            # The entry is ours, and would keep the event; after a freeze it stays with the map.
            with contextlib.suppress(SyscallError):
                bpf.map_delete_elem(self.fd, _key(ring.cpu))
            ring.close()
        if self._claim is not None:
            self._claim.close()


def _key(cpu: int) -> bytes:
    return cpu.to_bytes(4, "little")


def _padded(size: int) -> int:
    """Return what the kernel makes of a sample of *size* bytes: it ends at a multiple of eight."""
    return (size + 4 + 7 & ~7) - 4
