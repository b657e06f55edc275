"""Perf buffers: events that programs send to a BPF_MAP_TYPE_PERF_EVENT_ARRAY (Linux 4.3)."""

from __future__ import annotations

import contextlib
from collections import deque
from pathlib import Path
from typing import Any, Self

from bpfpin import deprecated
from bpfpin.btf.btf import TypeRef
from bpfpin.codecs.codec import BytesCodec, Codec
from bpfpin.errors import SyscallError
from bpfpin.map_traits import MapFamily, types_in
from bpfpin.objects.events.event_map import open_id
from bpfpin.objects.events.perf_ring import Lost, PerfRing
from bpfpin.objects.events.source import EventSource
from bpfpin.objects.kernel.btf import BtfHandle
from bpfpin.objects.kernel.object import open_pin
from bpfpin.objects.maps.base import BaseMap, Formats
from bpfpin.objects.maps.create import create
from bpfpin.spec import MapSpec
from bpfpin.syscall import bpf, exclusive_name
from bpfpin.syscall.cpu import online_cpus
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import UpdateFlag

PAGES = 64


class PerfBuffer(EventSource):
    """The reader of a perf event array: one buffer for each CPU, from opening until `close`.

    Opening puts a perf event with a buffer into the map for each CPU that is online, and closing
    removes them. Events that programs send while no reader is open are lost.

    `consume`, `poll`, `for` and `async for` yield the events of each CPU in order, those of
    different CPUs in any order. Events that found no room are reported by a `Lost(cpu, count)`
    among the others, which does not count towards a *limit*; `lost` is their sum. No event is lost
    without being reported.

    The kernel pads samples to 4 bytes more than a multiple of eight: one of 16 bytes comes as 20. A
    type fits if its padded size is that of the sample; without a type the padding is part of the
    bytes.

    A map has one reader, since a second one would replace the buffers of the first. So while a
    handle is open another one raises `BusyError`, as for `RingBuffer`. Readers that do not use this
    library are not noticed.

    Args:
        descriptor: An open descriptor of the map; it belongs to the new object, also after errors.
        pages: Size of each CPU's buffer in pages, a power of two. Default: 64.
        watermark_bytes: Wake the reader when this many bytes are in a buffer, instead of at each
            event. Default: 0, each event.
        event_type: Name of the records' type, as for `EventMap`; so are the next four.
        value_type: BTF type of the records.
        value_format: Format of the records.
        raw: Whether enumerations read as numbers and char arrays as bytes.
        formats: How members are shown.

    Raises:
        PermissionDeniedError: CAP_PERFMON is missing.
        BusyError: Another reader has the map open.
        ValueError: *pages* is not a power of two.

    Kernel: perf_event_open(2) with PERF_COUNT_SW_BPF_OUTPUT (Linux 4.4).
    """

    map_types = types_in(MapFamily.PERF_BUFFER)

    def __init__(
        self,
        descriptor: Descriptor,
        *,
        pages: int = PAGES,
        watermark_bytes: int = 0,
        event_type: str | None = None,
        value_type: TypeRef | None = None,
        value_format: Any = None,
        raw: bool = False,
        formats: Formats | None = None,
    ) -> None:
        # perf_event_open(2): the mapping has 1 + 2**n pages.
        if pages < 1 or pages & (pages - 1):
            descriptor.close()
            raise ValueError(f"pages is {pages}: the size of a perf buffer is a power of two")
        self._pages_per_cpu, self._watermark_bytes = pages, watermark_bytes
        super().__init__(
            descriptor,
            event_type=event_type,
            value_type=value_type,
            value_format=value_format,
            raw=raw,
            formats=formats,
        )

    @classmethod
    def create(
        cls,
        spec: MapSpec,
        *,
        inner: BaseMap | None = None,
        btf: BtfHandle | None = None,
        event_type: str | None = None,
        value_type: TypeRef | None = None,
        value_format: Any = None,
        raw: bool = False,
        formats: Formats | None = None,
        pages: int = PAGES,
        watermark_bytes: int = 0,
    ) -> Self:
        """Create a map (BPF_MAP_CREATE).

        Args:
            spec: The definition. `max_entries` of a ring is its size in bytes. The kernel takes a
                power of two of whole pages; other sizes are rounded up.
            inner: Not used by maps of events.
            btf: The loaded BTF of the object, instead of types loaded for this map alone.
            event_type: Name of the records' type; see the class for this and the next four.
            value_type: BTF type of the records; default: `spec.value`.
            value_format: Format of the records.
            raw: Whether enumerations read as numbers and char arrays as bytes.
            formats: How members are shown.
            pages: Size of each CPU's buffer in pages.
            watermark_bytes: Wake the reader at this many bytes.

        Raises:
            PermissionDeniedError: CAP_BPF is missing.

        Kernel: BPF_MAP_CREATE.
        """
        return cls(
            create(spec, inner_fd=inner.fd if inner else None, btf=btf),
            event_type=event_type,
            value_type=spec.value if value_type is None else value_type,
            value_format=value_format,
            raw=raw,
            formats=formats,
            pages=pages,
            watermark_bytes=watermark_bytes,
        )

    @classmethod
    def from_pin(  # type: ignore[override]  # records have no keys
        cls,
        path: str | Path,
        *,
        read_only: bool = False,
        event_type: str | None = None,
        value_type: TypeRef | None = None,
        value_format: Any = None,
        raw: bool = False,
        formats: Formats | None = None,
        pages: int = PAGES,
        watermark_bytes: int = 0,
    ) -> Self:
        """Open the map pinned at *path*.

        Args:
            path: The pin in bpffs. A symbolic link is not followed.
            read_only: Open for reading alone. A ring's positions are written by its reader, so that
                is refused.
            event_type: Name of the records' type; see the class for this and the next four.
            value_type: BTF type of the records.
            value_format: Format of the records.
            raw: Whether enumerations read as numbers and char arrays as bytes.
            formats: How members are shown.
            pages: Size of each CPU's buffer in pages.
            watermark_bytes: Wake the reader at this many bytes.

        Raises:
            PinNotFoundError: There is no such name.
            PinKindError: The pin is a program or link, or a directory.
            ReadOnlyMapError: *read_only* was asked for.
            BusyError: Another reader has the map open.
            TypeError: The class does not open maps of this type.

        Kernel: BPF_OBJ_GET.
        """
        return cls(
            open_pin(path, cls.kind, read_only=read_only),
            event_type=event_type,
            value_type=value_type,
            value_format=value_format,
            raw=raw,
            formats=formats,
            pages=pages,
            watermark_bytes=watermark_bytes,
        )

    @classmethod
    def from_id(  # type: ignore[override]  # records have no keys
        cls,
        object_id: int,
        *,
        read_only: bool = False,
        event_type: str | None = None,
        value_type: TypeRef | None = None,
        value_format: Any = None,
        raw: bool = False,
        formats: Formats | None = None,
        pages: int = PAGES,
        watermark_bytes: int = 0,
    ) -> Self:
        """Open a map by its id.

        Args:
            object_id: The id of the map.
            read_only: As for `from_pin`.
            event_type: Name of the records' type; see the class for this and the next four.
            value_type: BTF type of the records.
            value_format: Format of the records.
            raw: Whether enumerations read as numbers and char arrays as bytes.
            formats: How members are shown.
            pages: Size of each CPU's buffer in pages.
            watermark_bytes: Wake the reader at this many bytes.

        Raises:
            IdNotFoundError: No map has this id.
            PermissionDeniedError: CAP_SYS_ADMIN is missing.

        Kernel: BPF_MAP_GET_FD_BY_ID.
        """
        return cls(
            open_id(object_id, read_only=read_only),
            event_type=event_type,
            value_type=value_type,
            value_format=value_format,
            raw=raw,
            formats=formats,
            pages=pages,
            watermark_bytes=watermark_bytes,
        )

    @classmethod
    def of(
        cls,
        other: BaseMap,
        *,
        event_type: str | None = None,
        value_type: TypeRef | None = None,
        value_format: Any = None,
        raw: bool = False,
        formats: Formats | None = None,
        pages: int = PAGES,
        watermark_bytes: int = 0,
    ) -> Self:
        """Return another handle of the same map, with a descriptor of its own.

        Args:
            other: An open map, for example `loaded.maps["events"]`, which stays open.
            event_type: Name of the records' type; see the class for this and the next four.
            value_type: BTF type of the records.
            value_format: Format of the records.
            raw: Whether enumerations read as numbers and char arrays as bytes.
            formats: How members are shown.
            pages: Size of each CPU's buffer in pages.
            watermark_bytes: Wake the reader at this many bytes.

        Raises:
            TypeError: The class does not open maps of this type.

        Example:
            `RingBuffer.of(loaded.maps["events"], event_type="struct event")`
        """
        return cls(
            other._descriptor.duplicate(),
            event_type=event_type,
            value_type=value_type,
            value_format=value_format,
            raw=raw,
            formats=formats,
            pages=pages,
            watermark_bytes=watermark_bytes,
        )

    def update_bytes(self, key: bytes, value: bytes, *, flag: UpdateFlag = UpdateFlag.ANY) -> None:
        """Store a perf event in the map; deprecated, use `Map.update_bytes`.

        Args:
            key: The bytes of the key, which is the number of a CPU.
            value: The bytes of the descriptor of the perf event.
            flag: Bits of `UpdateFlag`; ANY for no condition.
        """
        deprecated.warn("PerfBuffer.update_bytes", "Map.update_bytes")
        bpf.map_update_elem(self.fd, key, value, flags=flag)

    def _prepare(self) -> None:
        super()._prepare()
        self._rings: deque[PerfRing] = deque()
        self._claim: exclusive_name.Claim | None = None

    def _open(self) -> None:
        # Before the first entry: replacing another reader's events would end what it reads.
        self._claim = exclusive_name.acquire("perf_event_array", self.id, target=self._described())
        # perf_event_open(2) refuses a CPU that is offline. One that comes online later has no event
        # until the map is opened again.
        for cpu in online_cpus():
            # The map has no entry for this CPU: programs that run on it cannot send (E2BIG).
            if cpu >= self.max_entries:
                continue
            ring = PerfRing(cpu, self._pages_per_cpu, watermark_bytes=self._watermark_bytes)
            # First into the list: if the update fails, `_let_go` closes it.
            self._rings.append(ring)
            value = ring.fileno().to_bytes(4, "little")
            bpf.map_update_elem(self.fd, _key(cpu), value, target=self._described())

    @property
    def lost(self) -> int:
        """How many events found no room, as far as the kernel has reported them."""
        return sum(ring.lost for ring in self._rings)

    @property
    def available_bytes(self) -> int:
        """Bytes of records in the buffers, with headers; without events that were read ahead."""
        _ = self.fd
        return sum(ring.available_bytes for ring in self._rings)

    def _read(self, limit: int | None) -> list[Any]:
        events: list[Any] = []
        left = limit
        self._rings.rotate()  # so that a limit does not always cut off the same CPU
        for ring in self._rings:
            items = ring.take(left, self._codec_for)
            events += items
            if left is not None:
                left -= sum(not isinstance(item, Lost) for item in items)
        return events

    def _codec_for(self, size: int) -> Codec:
        typed = self._record
        # The kernel does not report the length before the padding.
        if typed is not None and _padded(typed.size) == size:
            return typed
        return BytesCodec(size)

    def _watched(self) -> list[int]:
        return [ring.fileno() for ring in self._rings]

    def _let_go(self) -> None:
        super()._let_go()
        for ring in self._rings:
            # The entry would keep the perf event open. A frozen map refuses: then it stays there.
            with contextlib.suppress(SyscallError):
                bpf.map_delete_elem(self.fd, _key(ring.cpu))
            ring.close()
        if self._claim is not None:
            self._claim.close()


def _key(cpu: int) -> bytes:
    return cpu.to_bytes(4, "little")


def _padded(size: int) -> int:
    """Return the size that the kernel pads a sample of *size* bytes to.

    The sample and its length (4 bytes) end at a multiple of eight (perf_prepare_sample() of
    kernel/events/core.c).
    """
    return (size + 4 + 7 & ~7) - 4
