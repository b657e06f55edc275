"""The keys of an old map, a part at a time, in a map that the programs of a fold walk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

from bpfpin.objects.map import Map
from bpfpin.objects.mapped_memory import MappedMemory
from bpfpin.spec import MapSpec
from bpfpin.uapi import MapFlag, MapType

PART: Final = 4096
KEPT_BYTES_MAX: Final = 64 << 20  # of keys that are not read twice

_WORDS: Final[dict[int, Any]] = {1: "B", 2: "H", 4: "I", 8: "Q"}


class Parts:
    """Writes the keys of *old* to the map *keys*, through its memory; both stay the caller's."""

    def __init__(self, old: Map, keys: Map) -> None:
        self._old = old
        self._keys = keys
        self._kept: list[bytes] = []

    def each(self, size: int, *, again: bool = False) -> Iterator[int]:
        """Write up to *size* keys at a time, and yield how many there are.

        With *again* they are those of the walk before, if they were not too many to be kept.
        """
        key_size = self._keys.value_size
        with MappedMemory(self._keys) as memory:
            for keys in (again and self._kept) or self._read():
                for at in range(0, len(keys), size * key_size):
                    part = memoryview(keys)[at : at + size * key_size]
                    spread(part, key_size, memory.view, memory.stride)
                    yield len(part) // key_size

    def forget(self) -> None:
        """Drop the keys of the walk before."""
        self._kept = []

    def _read(self) -> Iterator[memoryview]:
        self.forget()
        kept, room = list[bytes](), KEPT_BYTES_MAX
        for some in self._old.batches_bytes():
            room -= len(some.keys)
            if room >= 0:
                kept.append(bytes(some.keys))
            yield some.keys
        if room >= 0:
            self._kept = kept


def create_keys(key_size: int) -> Map:
    """Make the map that the keys of a part are written to."""
    spec = MapSpec("fold_keys", MapType.ARRAY, 4, key_size, PART, map_flags=MapFlag.MMAPABLE)
    return Map.create(spec)


def spread(packed: memoryview, size: int, into: memoryview, stride: int) -> None:
    """Copy items of *size* bytes that lie back to back to every *stride* bytes of *into*."""
    count = len(packed) // size
    width = math.gcd(size, 8)
    source = packed.cast(_WORDS[width])
    target = into[: count * stride].cast(_WORDS[width])
    for word in range(size // width):
        target[word :: stride // width] = source[word :: size // width]
