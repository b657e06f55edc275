"""About how much memory a map takes, so that a wrong number in an object cannot eat the host."""

from __future__ import annotations

from bpfpin.objects.map_create import entries_asked
from bpfpin.spec import MapSpec
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapFlag, MapType

_ELEMENT_OVERHEAD = 48  # struct htab_elem of the kernel's kernel/bpf/hashtab.c
_BUCKET = 16
_POINTER = 8

_PER_CPU = frozenset(
    {
        MapType.PERCPU_ARRAY,
        MapType.PERCPU_HASH,
        MapType.LRU_PERCPU_HASH,
        MapType.PERCPU_CGROUP_STORAGE,
    }
)
_HASHES = frozenset(
    {
        MapType.HASH,
        MapType.PERCPU_HASH,
        MapType.LRU_HASH,
        MapType.LRU_PERCPU_HASH,
        MapType.HASH_OF_MAPS,
    }
)
_IN_PLACE = frozenset({MapType.ARRAY, MapType.PERCPU_ARRAY, MapType.QUEUE, MapType.STACK})
_OTHERS = {
    MapType.RINGBUF: 1,  # max_entries counts bytes
    MapType.USER_RINGBUF: 1,
    MapType.LPM_TRIE: 0,  # elements are allocated as they come
    MapType.BLOOM_FILTER: 2,
}


def estimate_bytes(spec: MapSpec) -> int:
    """Return about how many bytes the kernel takes when it creates the map *spec*.

    Maps that allocate their elements as they come (LPM tries, hashes with NO_PREALLOC, storage)
    count with what they take empty.
    """
    return entries_asked(spec) * _entry_bytes(spec)


def _entry_bytes(spec: MapSpec) -> int:
    if spec.type in _HASHES:
        is_lazy = bool(spec.map_flags & MapFlag.NO_PREALLOC)
        element = 0 if is_lazy else _ELEMENT_OVERHEAD + _padded(spec.key_size) + _values(spec)
        return _BUCKET + element
    if spec.type in _IN_PLACE:
        return _values(spec)
    return _OTHERS.get(spec.type, _POINTER)


def _values(spec: MapSpec) -> int:
    copies = possible_cpus() if spec.type in _PER_CPU else 1
    return _padded(spec.value_size) * copies


def _padded(size: int) -> int:
    return -(-size // 8) * 8


def size_text(size_bytes: int) -> str:
    """Return a size as it is told: in MiB, KiB or bytes, rounded down."""
    for unit, shift in (("MiB", 20), ("KiB", 10)):
        if size_bytes >> shift:
            return f"{size_bytes >> shift} {unit}"
    return f"{size_bytes} bytes"
