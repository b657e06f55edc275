"""Queues and stacks: maps without keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from bpfpin.errors import EmptyMapError, KeyNotFoundError, MapFullError
from bpfpin.map_traits import MapFamily, types_in
from bpfpin.objects.maps.base import TypedMap
from bpfpin.syscall import bpf
from bpfpin.uapi import UpdateFlag

NO_KEY = b""
HASHES_MASK = 0xF
HASHES_BY_DEFAULT = 5  # kernel/bpf/bloom_filter.c


class Queue(TypedMap):
    """A queue (first in, first out) or a stack (last in, first out), typed by the map's BTF.

    Programs and other processes push and pop at the same time; each value goes to one of them. How
    many values it holds the kernel does not tell, so it has no length. Opening another type of map
    is a `TypeError`.
    """

    map_types = types_in(MapFamily.QUEUE)

    def push(self, value: Any, *, overwrite: bool = False) -> None:
        """Add a value (BPF_MAP_UPDATE_ELEM); `MapFullError` if it holds `max_entries` already.

        With *overwrite* a full one drops its oldest value instead.
        """
        flag = UpdateFlag.EXIST if overwrite else UpdateFlag.ANY
        encoded = self._value.encode(value)
        try:
            self._elements.update(NO_KEY, encoded, flag)
        except MapFullError as error:
            error.message = f"{self._described()}: it holds {self.max_entries} values already"
            error.hint = "pop one, or push with overwrite=True to drop the oldest"
            raise

    def pop(self) -> Any:
        """Take the next value out (BPF_MAP_LOOKUP_AND_DELETE_ELEM); `EmptyMapError`."""
        try:
            data = bpf.map_lookup_and_delete_elem(
                self.fd, NO_KEY, self.value_size, target=self._described()
            )
        except KeyNotFoundError as error:
            raise self._empty(error) from None
        return self._value.decode(data)

    def peek(self) -> Any:
        """Return the next value and leave it there (BPF_MAP_LOOKUP_ELEM); `EmptyMapError`."""
        try:
            return self._value.decode(self._elements.lookup(NO_KEY))
        except KeyNotFoundError as error:
            raise self._empty(error) from None

    def drain(self) -> Iterator[Any]:
        """Pop values until it is empty, at most `max_entries`: it ends though others push."""
        for _ in range(self.max_entries):
            try:
                value = self.pop()
            except EmptyMapError:
                return
            yield value

    def _empty(self, error: KeyNotFoundError) -> EmptyMapError:
        return EmptyMapError(
            f"{self._described()}: it is empty",
            command=error.command,
            errno=error.errno or 0,
            target=self._described(),
        )


# Bloom filters: sets that forget what was added, and answer "no" or "perhaps".


class BloomFilter(TypedMap):
    """A set to which values are added and whose answer "no" is certain (Linux 5.16).

    A value that was added is always `in` it, another one sometimes: the more values beyond
    `max_entries`, the more often. Nothing can be listed, counted or removed. Opening another type
    of map is a `TypeError`.
    """

    map_types = types_in(MapFamily.BLOOM_FILTER)

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
