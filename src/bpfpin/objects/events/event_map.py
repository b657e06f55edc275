"""Maps whose contents are records of events: how these read, and what all such maps share."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any, Self

from bpfpin.btf.btf import TypeRef
from bpfpin.codecs.codec import BytesCodec, Codec
from bpfpin.codecs.of_btf import codec
from bpfpin.codecs.of_format import format_codec
from bpfpin.objects.kernel.btf import BtfHandle
from bpfpin.objects.kernel.btf import event_type as type_named
from bpfpin.objects.kernel.object import open_pin
from bpfpin.objects.maps.base import BaseMap, Formats
from bpfpin.objects.maps.create import create
from bpfpin.spec import MapSpec
from bpfpin.syscall import bpf
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import ObjectFlag


class EventMap(BaseMap):
    """A map of records, whose type the kernel does not know.

    The ways in take what says how a record reads: *event_type*, the name of a structure in the BTF
    of the programs that use the map (`"struct event"`, CAP_SYS_ADMIN), *value_type*, a BTF type, or
    *value_format*, *raw* and *formats* (whose paths begin with `event`), as for other maps. A
    record of another size than that reads as bytes, whole, as all do without one.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        *,
        event_type: str | None = None,
        value_type: TypeRef | None = None,
        value_format: Any = None,
        raw: bool = False,
        formats: Formats | None = None,
    ) -> None:
        self._lock = threading.Lock()
        super().__init__(descriptor)
        try:
            named = type_named(event_type, self._fixed) if event_type else None
            self.value_type = ref = value_type or named
            self._record: Codec | None = None
            if value_format is not None:
                self._record = format_codec(value_format, None)
            elif ref is not None:
                self._record = codec(ref, ref.size, raw=raw, formats=formats, root="event")
            self._open()
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(
        cls,
        spec: MapSpec,
        *,
        inner: BaseMap | None = None,
        btf: BtfHandle | None = None,
        **reading: Any,
    ) -> Self:
        """Make a new map (BPF_MAP_CREATE; CAP_BPF); *reading* is what the other ways in take.

        `max_entries` of a ring is its size in bytes, rounded up to a power of two of whole pages.
        """
        reading.setdefault("value_type", spec.value)
        return cls(create(spec, inner_fd=inner.fd if inner else None, btf=btf), **reading)

    @classmethod
    def from_pin(cls, path: str | Path, *, read_only: bool = False, **reading: Any) -> Self:
        """Open the map pinned at *path* (BPF_OBJ_GET); errors as in `kernel_object.open_pin`.

        Both positions of a ring are written to, so a handle with *read_only* is refused:
        `ReadOnlyMapError`.
        """
        return cls(open_pin(path, cls.kind, read_only=read_only), **reading)

    @classmethod
    def from_id(cls, object_id: int, *, read_only: bool = False, **reading: Any) -> Self:
        """Open a map by its id (BPF_MAP_GET_FD_BY_ID; CAP_SYS_ADMIN).

        *reading* is what the other ways in take; `IdNotFoundError` if the map does not exist.
        """
        flags = ObjectFlag.RDONLY if read_only else ObjectFlag(0)
        return cls(Descriptor(bpf.map_get_fd_by_id(object_id, flags=flags)), **reading)

    @classmethod
    def of(cls, other: BaseMap, **reading: Any) -> Self:
        """Return another handle of the same map, with a descriptor of its own, to read it as told.

        So a map becomes what its type is for: `RingBuffer.of(loaded.maps["events"],
        event_type="struct event")`. `TypeError` if it is a map of another type.
        """
        return cls(other._descriptor.duplicate(), **reading)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._descriptor.is_closed

    def close(self) -> None:
        """Let the map go, and whoever waits go on; again does nothing."""
        with self._lock:
            if not self.is_closed:
                self._let_go()
                super().close()

    def _open(self) -> None:
        """Take what reading or writing needs."""

    def _let_go(self) -> None:
        """Give it back, as far as it was taken."""

    def _codec_for(self, size: int) -> Codec:
        """Return how records of *size* bytes read."""
        typed = self._record
        return typed if typed is not None and typed.size == size else _as_bytes(size)


@functools.lru_cache
def _as_bytes(size: int) -> Codec:
    return BytesCodec(size)
