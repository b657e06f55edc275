"""A map whose keys and values are bytes: what is known of it, and its elements."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from bpfpin.objects import batch, batch_write
from bpfpin.objects.elements import Elements
from bpfpin.objects.info import MapInfo, fdinfo, map_info
from bpfpin.objects.kernel_object import KernelObject, ObjectKind
from bpfpin.objects.percpu import PER_CPU, stride_of
from bpfpin.syscall import bpf
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import MapType, UpdateFlag


class RawMap(KernelObject):
    """A map held by descriptor, with undecoded keys and values.

    A per-CPU value holds those of all possible CPUs, each padded to eight bytes.
    """

    kind = ObjectKind.MAP
    map_types: ClassVar[frozenset[MapType]] = frozenset()  # what a class is for; none is for all

    def __init__(self, descriptor: Descriptor) -> None:
        super().__init__(descriptor)
        self._fixed = info = map_info(self.fd)
        self._check_type()
        one = info.value_size
        self._copied = stride_of(one) * possible_cpus() if info.type in PER_CPU else one
        self._elements = Elements(
            self.fd,
            info.key_size,
            self._copied,
            about=self._described(),
            kind=info.type,
            max_entries=info.max_entries,
        )
        self._batches = batch.Batches(self._elements, self.fd, info.type, info.max_entries)
        self._writer = batch_write.Writer(self._elements, self.fd, info.type)

    def close(self) -> None:
        """Let the map go; pins, programs and other handles keep it. Again does nothing."""
        self._elements.close()
        self._batches.close()
        self._writer.close()
        super().close()

    @property
    def info(self) -> MapInfo:
        """What the kernel reports now (BPF_OBJ_GET_INFO_BY_FD)."""
        return map_info(self.fd)

    @property
    def id(self) -> int:
        """The kernel's number for the map, the same for all handles of it."""
        return self._fixed.id

    @property
    def name(self) -> str:
        """The name as the kernel keeps it, 15 characters at most."""
        return self._fixed.name

    @property
    def type(self) -> MapType | int:
        """The kind of map; a bare number where the kernel is newer than this version."""
        return self._fixed.type

    @property
    def key_size(self) -> int:
        """Bytes of a key; 0 for queues and the like."""
        return self._fixed.key_size

    @property
    def value_size(self) -> int:
        """Bytes of a value, of one CPU."""
        return self._fixed.value_size

    @property
    def max_entries(self) -> int:
        """How many entries there is room for."""
        return self._fixed.max_entries

    @property
    def is_per_cpu(self) -> bool:
        """Whether each CPU has values of its own."""
        return self._fixed.type in PER_CPU

    @property
    def is_array(self) -> bool:
        """Whether all keys from 0 on are always there, so that nothing can be deleted."""
        return self._fixed.type in batch.ARRAYS

    def is_frozen(self) -> bool:
        """Whether the map is read-only for user space (/proc/self/fdinfo)."""
        return fdinfo(self.fd).get("frozen") == "1"

    def memory_bytes(self) -> int:
        """Return the kernel memory that the map takes, as the kernel reckons it."""
        return int(fdinfo(self.fd).get("memlock", "0"))

    def freeze(self) -> None:
        """Let user space only read from now on, for ever (BPF_MAP_FREEZE)."""
        bpf.map_freeze(self.fd, target=self._described())

    def lookup_bytes(self, key: bytes) -> bytes:
        """Return the value at *key* (BPF_MAP_LOOKUP_ELEM); `KeyNotFoundError`."""
        return self._elements.lookup(key)

    def update_bytes(self, key: bytes, value: bytes, *, flag: UpdateFlag = UpdateFlag.ANY) -> None:
        """Write *value* at *key* (BPF_MAP_UPDATE_ELEM).

        `KeyExistsError`, `KeyNotFoundError` by *flag*; `MapFullError`, `ReadOnlyMapError`.
        """
        self._elements.update(key, value, flag)

    def delete_bytes(self, key: bytes) -> None:
        """Remove *key* (BPF_MAP_DELETE_ELEM); `KeyNotFoundError`, `TypeError` for an array."""
        self._check_deletable()
        self._elements.delete(key)

    def items_bytes(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield all keys and values, read in batches."""
        key_size, value_size = self.key_size, self._copied
        for part in self._walk():
            for index in range(part.count):
                key = bytes(part.keys[index * key_size : (index + 1) * key_size])
                yield key, bytes(part.values[index * value_size : (index + 1) * value_size])

    def batches_bytes(self) -> Iterator[batch.RawBatch]:
        """Yield all keys and values in batches; each is overwritten by the next (`batch.py`)."""
        return self._walk()

    def dump_bytes(self) -> tuple[bytes, bytes]:
        """Return all keys and all values, each back to back, read in batches."""
        if room := self._batches.at_once():
            whole = room.keys.tobytes(), room.values.tobytes()
            self._batches.put(room)
            return whole
        keys, values = self._whole()
        return bytes(keys), bytes(values)

    def _whole(self) -> tuple[bytearray, bytearray]:
        _ = self.fd  # as below
        return self._batches.whole()

    def _walk(self) -> Iterator[batch.RawBatch]:
        _ = self.fd  # a closed map says so here, not at the first step
        return self._batches.walk()

    def _named(self, key: bytes) -> object:
        """Return what errors call a key."""
        return key

    def _check_type(self) -> None:
        if self.map_types and self.type not in self.map_types:
            kind = self.type.name.lower() if isinstance(self.type, MapType) else self.type
            wanted = " or ".join(sorted(wanted.name.lower() for wanted in self.map_types))
            raise TypeError(f"{self._described()} is a {kind}, not a {wanted}")

    def _check_deletable(self) -> None:
        if self.is_array:
            raise TypeError(f"{self._described()} is an array: its keys cannot be deleted")

    def _described(self) -> str:
        return f"map {self.name or 'without a name'} (id {self.id})"
