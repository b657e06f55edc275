"""Maps whose contents are records of events: how records are decoded, and how maps are opened."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any, ClassVar, Self

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
    """A map of event records. The kernel does not know their type, so the caller says it.

    A record whose size is not that of the type reads as `bytes`; so do all records if no type is
    given.

    Args:
        descriptor: An open descriptor of the map; it belongs to the new object, also after errors.
        event_type: Name of a type in the BTF of the programs that use the map (`"struct event"`;
            CAP_SYS_ADMIN).
        value_type: A BTF type. It takes precedence over *event_type*.
        value_format: A format of the struct module, a `ctypes.Structure`, or a `NamedTuple` of
            `Annotated[int, "Q"]`, instead of a type.
        raw: Read enumerations as numbers and char arrays as bytes.
        formats: How members are shown: a `Format` or its name by member or path (paths begin with
            `event`).

    Raises:
        TypeError: The class does not open maps of this type.
        UsageError: No program that uses the map has a type of that name.
    """

    _has_typed_records: ClassVar[bool] = False
    """Whether the value type of a map's definition is that of its records."""

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
        # Before anything can fail: `close` runs after an error, and uses what `_prepare` sets.
        self._lock = threading.Lock()
        self._prepare()
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
        event_type: str | None = None,
        value_type: TypeRef | None = None,
        value_format: Any = None,
        raw: bool = False,
        formats: Formats | None = None,
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

        Raises:
            PinNotFoundError: There is no such name.
            PinKindError: The pin is a program or link, or a directory.
            ReadOnlyMapError: *read_only* was asked for.
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
    ) -> Self:
        """Return another handle of the same map, with a descriptor of its own.

        Args:
            other: An open map, for example `loaded.maps["events"]`, which stays open. Records of
                a ring buffer whose definition has a value type (`__type(value, struct event)`) are
                read as that, unless a type or format is given.
            event_type: Name of the records' type; see the class for this and the next four.
            value_type: BTF type of the records.
            value_format: Format of the records.
            raw: Whether enumerations read as numbers and char arrays as bytes.
            formats: How members are shown.

        Raises:
            TypeError: The class does not open maps of this type.

        Example:
            `RingBuffer.of(loaded.maps["events"], event_type="struct event")`
        """
        if cls._has_typed_records and event_type is None and value_format is None:
            value_type = value_type or other.value_type
        return cls(
            other._descriptor.duplicate(),
            event_type=event_type,
            value_type=value_type,
            value_format=value_format,
            raw=raw,
            formats=formats,
        )

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._descriptor.is_closed

    def close(self) -> None:
        """Close the map and wake threads that wait for events. Closing twice does nothing."""
        # Under the lock: nobody reads the memory of the map while it is unmapped.
        with self._lock:
            if not self.is_closed:
                self._let_go()
                super().close()

    def _prepare(self) -> None:
        """Set the attributes that `_let_go` uses, before anything can fail."""

    def _open(self) -> None:
        """Acquire what reading or writing needs (memory, events)."""

    def _let_go(self) -> None:
        """Release what `_open` acquired, even if it acquired only a part."""

    def _codec_for(self, size: int) -> Codec:
        """Return the codec for records of *size* bytes."""
        typed = self._record
        # Programs may send records of several types into one map; the size is all that tells them.
        return typed if typed is not None and typed.size == size else _as_bytes(size)


def open_id(object_id: int, *, read_only: bool) -> Descriptor:
    """Open a map by its id."""
    flags = ObjectFlag.RDONLY if read_only else ObjectFlag(0)
    return Descriptor(bpf.map_get_fd_by_id(object_id, flags=flags))


@functools.lru_cache
def _as_bytes(size: int) -> Codec:
    return BytesCodec(size)
