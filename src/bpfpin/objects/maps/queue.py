"""Maps without keys: queues, stacks and bloom filters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from bpfpin import deprecated
from bpfpin.errors import EmptyMapError, KeyNotFoundError, MapFullError
from bpfpin.hints import Argument, Fix
from bpfpin.map_traits import MapFamily, types_in
from bpfpin.objects.maps.base import BaseMap
from bpfpin.syscall import bpf
from bpfpin.uapi import UpdateFlag

NO_KEY = b""
HASHES_MASK = 0xF
HASHES_BY_DEFAULT = 5  # bloom_map_alloc in kernel/bpf/bloom_filter.c


class Queue(BaseMap):
    """A queue (first in, first out) or a stack (last in, first out).

    Programs and other processes push and pop at the same time; each value goes to one of them. The
    kernel does not report how many values it holds, so it has no length.

    Kernel: BPF_MAP_TYPE_QUEUE, BPF_MAP_TYPE_STACK (Linux 4.20).
    """

    map_types = types_in(MapFamily.QUEUE)

    def push(self, value: Any, *, overwrite: bool = False) -> None:
        """Add a value.

        Args:
            value: What to add, as the map's types or `value_format` have it.
            overwrite: Drop the oldest value if the map is full.

        Raises:
            MapFullError: It holds `max_entries` values already.
            ReadOnlyMapError: The map is frozen, or was opened for reading only.
            ValueError: The value does not fit its type.
            TypeError: The value does not fit its type.

        Kernel: BPF_MAP_UPDATE_ELEM.
        """
        # BPF_EXIST makes room by dropping the oldest value (queue_stack_map_push_elem() of
        # kernel/bpf/queue_stack_maps.c, of a stack too); without it a full map is E2BIG.
        flag = UpdateFlag.EXIST if overwrite else UpdateFlag.ANY
        encoded = self._value.encode(value)
        try:
            self._elements.update(NO_KEY, encoded, flag)
        except MapFullError as error:
            error.message = f"{self._described()}: it holds {self.max_entries} values already"
            error.fix = Fix.of(
                "pop one, or push with ", Argument("overwrite"), " to drop the oldest"
            )
            raise

    def pop(self) -> Any:
        """Take the next value out.

        Returns:
            The value, which no other reader gets.

        Raises:
            EmptyMapError: It holds no value.
            ReadOnlyMapError: The map is frozen, or was opened for reading only.

        Kernel: BPF_MAP_LOOKUP_AND_DELETE_ELEM.
        """
        try:
            data = bpf.map_lookup_and_delete_elem(
                self.fd, NO_KEY, self.value_size, target=self._described()
            )
        except KeyNotFoundError as error:
            raise self._empty(error) from None
        return self._value.decode(data)

    def peek(self) -> Any:
        """Return the next value and leave it in the map.

        Raises:
            EmptyMapError: It holds no value.

        Kernel: BPF_MAP_LOOKUP_ELEM.
        """
        try:
            return self._value.decode(self._elements.lookup(NO_KEY))
        except KeyNotFoundError as error:
            raise self._empty(error) from None

    def drain(self) -> Iterator[Any]:
        """Pop values until the map is empty.

        Returns:
            The values, at most `max_entries`: it ends although others push.

        Kernel: BPF_MAP_LOOKUP_AND_DELETE_ELEM.
        """
        for _ in range(self.max_entries):
            try:
                value = self.pop()
            except EmptyMapError:
                return
            yield value

    def lookup_bytes(self, key: bytes) -> bytes:
        """Return the bytes of the next value; deprecated, use `peek`.

        Args:
            key: Empty bytes; the map has no keys.
        """
        deprecated.warn("Queue.lookup_bytes", "Queue.peek")
        return self._elements.lookup(key)

    def update_bytes(self, key: bytes, value: bytes, *, flag: UpdateFlag = UpdateFlag.ANY) -> None:
        """Add a value given as bytes; deprecated, use `push`.

        Args:
            key: Empty bytes; the map has no keys.
            value: The bytes of the value.
            flag: Bits of `UpdateFlag`; ANY for no condition.
        """
        deprecated.warn("Queue.update_bytes", "Queue.push")
        self._elements.update(key, value, flag)

    def _empty(self, error: KeyNotFoundError) -> EmptyMapError:
        return EmptyMapError(
            f"{self._described()}: it is empty",
            command=error.command,
            errno=error.errno or 0,
            target=self._described(),
        )


class BloomFilter(BaseMap):
    """A set of values that answers "no" for certain and "yes" with some probability.

    A value that was added is always `in` it, another value sometimes: the more values are added
    beyond `max_entries`, the more often. Values cannot be listed, counted or removed.

    Kernel: BPF_MAP_TYPE_BLOOM_FILTER (Linux 5.16).
    """

    map_types = types_in(MapFamily.BLOOM_FILTER)

    @property
    def hash_functions(self) -> int:
        """How many bits each value sets: the low four bits of `map_extra`, 5 if they are 0."""
        return self.info.map_extra & HASHES_MASK or HASHES_BY_DEFAULT

    def add(self, value: Any) -> None:
        """Add a value.

        Args:
            value: What to add, as the map's types or `value_format` have it.

        Raises:
            ReadOnlyMapError: The map is frozen, or was opened for reading only.
            ValueError: The value does not fit its type.
            TypeError: The value does not fit its type.

        Kernel: BPF_MAP_UPDATE_ELEM.
        """
        encoded = self._value.encode(value)
        self._elements.update(NO_KEY, encoded)

    def update(self, values: Iterable[Any]) -> None:
        """Add several values, with one system call each.

        Args:
            values: What to add; errors are those of `add`.
        """
        for value in values:
            self.add(value)

    def update_bytes(self, key: bytes, value: bytes, *, flag: UpdateFlag = UpdateFlag.ANY) -> None:
        """Add a value given as bytes; deprecated, use `add`.

        Args:
            key: Empty bytes; the map has no keys.
            value: The bytes of the value.
            flag: Bits of `UpdateFlag`; ANY for no condition.
        """
        deprecated.warn("BloomFilter.update_bytes", "BloomFilter.add")
        self._elements.update(key, value, flag)

    def __contains__(self, value: object) -> bool:
        """Return whether the value may have been added; False is certain (BPF_MAP_LOOKUP_ELEM)."""
        encoded = self._value.encode(value)
        slot = self._elements.take_for(NO_KEY)
        # The value is the question and there is no key: bloom_map_peek_elem() of
        # kernel/bpf/bloom_filter.c answers 0 or ENOENT.
        slot.value[: self.value_size] = encoded
        is_in = slot.lookup.enter() >= 0
        if not is_in:
            error = self._elements.refused(slot.lookup, None)
            if not isinstance(error, KeyNotFoundError):
                raise error
        self._elements.put(slot)
        return is_in
