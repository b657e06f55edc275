"""Bloom filters: sets that forget what was added, and answer "no" or "perhaps"."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bpfpin.errors import KeyNotFoundError
from bpfpin.objects.typed_map import TypedMap
from bpfpin.uapi import MapType

NO_KEY = b""
HASHES_MASK = 0xF
HASHES_BY_DEFAULT = 5  # kernel/bpf/bloom_filter.c


class BloomFilter(TypedMap):
    """A set to which values are added and whose answer "no" is certain (Linux 5.16).

    A value that was added is always `in` it, another one sometimes: the more values beyond
    `max_entries`, the more often. Nothing can be listed, counted or removed. Opening another type
    of map is a `TypeError`.
    """

    map_types = frozenset({MapType.BLOOM_FILTER})

    @property
    def hash_functions(self) -> int:
        """How many bits each value sets: the low four bits of `map_extra`, 5 for none asked."""
        return self.info.map_extra & HASHES_MASK or HASHES_BY_DEFAULT

    def add(self, value: Any) -> None:
        """Add a value (BPF_MAP_UPDATE_ELEM)."""
        encoded = self._value.encode(value)
        self._elements.update(NO_KEY, encoded)

    def update(self, values: Iterable[Any]) -> None:
        """Add all values, one by one."""
        for value in values:
            self.add(value)

    def __contains__(self, value: object) -> bool:
        """Whether the value was perhaps added; False is certain (BPF_MAP_LOOKUP_ELEM)."""
        encoded = self._value.encode(value)
        slot = self._elements.take_for(NO_KEY)
        slot.value[: self.value_size] = encoded
        is_there = slot.lookup.enter() >= 0
        if not is_there:
            error = self._elements.refused(slot.lookup, None)
            if not isinstance(error, KeyNotFoundError):
                raise error
        self._elements.put(slot)
        return is_there
