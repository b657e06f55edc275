"""Maps as bytes, and reading many of their elements (BPF_MAP_LOOKUP_BATCH, Linux 5.6).

What a walk guarantees although others change the map:

* It ends.
* It yields every entry that exists from its start to its end. Entries that are added or deleted
  meanwhile may be missing.
* No key comes twice. A hash is walked bucket by bucket, each read at one moment, and a key never
  changes its bucket; an array is walked by index. Other types are walked key by key
  (BPF_MAP_GET_NEXT_KEY), where the kernel starts again if the current key was deleted: keys are
  remembered, and the walk goes back to the last one that still exists. (A resizable hash that
  grows or shrinks meanwhile may leave out entries: the kernel then looks only into a part of it.)
  If others delete each key
  that it reaches, it gives up after `STEPS_PER_ENTRY` steps for each entry of the map's size.
* A value belongs to its key; it is read at the same moment if the type has batches, else just
  after.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import threading
from collections.abc import Callable, ItemsView, Iterator, ValuesView
from functools import cached_property
from typing import Any, Final, Protocol

from bpfpin.errors import KeyNotFoundError, NotSupportedError
from bpfpin.map_traits import traits_of
from bpfpin.objects.maps.base import BaseMap
from bpfpin.objects.maps.elements import Elements, buffer
from bpfpin.records import dataclass
from bpfpin.syscall.attr import MapBatchAttr
from bpfpin.syscall.call import Call
from bpfpin.uapi import Cmd, MapType, UpdateFlag

BATCH = 4096  # measured: flat from 256 elements up
BUFFER_BYTES = 4 << 20
STEPS_PER_ENTRY = 4  # of a walk by key, before it gives up because of deleted keys
WORTH_A_PAUSE: Final = 1 << 14  # entries; the collector keeps running for fewer


@dataclass(frozen=True, slots=True)
class RawBatch:
    """Some keys and values of a map, in buffers that the next batch overwrites.

    Args:
        count: How many entries there are.
        keys: The keys, back to back.
        values: The values, back to back; of a per-CPU map those of all possible CPUs.
    """

    count: int
    keys: memoryview
    values: memoryview


class Room:
    """Buffers for *count* elements and the position in the map, with the calls that fill them."""

    def __init__(self, fd: int, key_size: int, value_size: int, *, count: int) -> None:
        self.count = count
        self.keys, keys = buffer(key_size * count)
        self.values, values = buffer(value_size * count)
        # The kernel keeps a bucket's number here, or a key.
        self.position, self._position_address = buffer(max(key_size, 8))
        self.attribute = MapBatchAttr(
            out_batch=self._position_address,
            keys=keys,
            values=values,
            count=count,
            map_fd=fd,
        )
        self.lookup = Call(Cmd.MAP_LOOKUP_BATCH, self.attribute)
        self.take = Call(Cmd.MAP_LOOKUP_AND_DELETE_BATCH, self.attribute)

    def go_to(self, position: bytes | None, fd: int) -> None:
        """Set where in the map *fd* the next batch starts; None is the start of the map."""
        self.attribute.map_fd = fd  # the map may be closed during a walk
        if position is not None:
            self.position[:] = position
        self.attribute.in_batch = 0 if position is None else self._position_address
        self.attribute.count = self.count

    def filled(self) -> RawBatch:
        """Return the entries of the last call."""
        count = self.attribute.count
        key_bytes = len(self.keys) // self.count * count
        value_bytes = len(self.values) // self.count * count
        return RawBatch(count, self.keys[:key_bytes], self.values[:value_bytes])


class Batches:
    """Reads many elements of one map; buffers are kept for the next walk.

    Each walk takes buffers of its own, so threads and nested walks do not share any.
    """

    def __init__(self, elements: Elements, map_type: MapType | int, max_entries: int) -> None:
        self._elements = elements
        self._max_entries = max_entries
        # Values may be long, and a per-CPU value is copied for each CPU: so the memory has a limit
        # too.
        fits = BUFFER_BYTES // (elements.key_size + elements.value_size or 1)
        self._count = max(1, min(BATCH, max_entries, fits))
        self._is_batched = traits_of(map_type).reads_batches
        self._is_array = traits_of(map_type).is_array
        self._is_single = self._is_array and max_entries <= self._count
        self._rooms: list[Room] = []

    def walk(self) -> Iterator[RawBatch]:
        """Yield all entries, in batches if the kernel has them, else key by key."""
        if self._is_batched:
            try:
                yield from self._by_batch(Cmd.MAP_LOOKUP_BATCH)
            except NotSupportedError:  # comes before the first batch or never
                self._is_batched = self._is_single = False
        if not self._is_batched:
            yield from self._by_key()

    def removed(self, *, in_one_step: bool, named: Callable[[bytes], object]) -> Iterator[RawBatch]:
        """Yield and remove all entries, *in_one_step* if the kernel can, else read and deleted.

        *named* returns how errors show a key.
        """
        if in_one_step:
            try:
                yield from self._by_batch(Cmd.MAP_LOOKUP_AND_DELETE_BATCH)
            except NotSupportedError:  # comes before the first batch or never
                pass
            else:
                return
        for batch in self.walk():
            keys, size = bytes(batch.keys), self._elements.key_size
            for at in range(0, len(keys), size):
                key = keys[at : at + size]
                with contextlib.suppress(KeyNotFoundError):
                    self._elements.delete(key, named=named(key))
            yield batch

    def whole(self) -> tuple[bytearray, bytearray]:
        """Return all keys and all values, each back to back, in new memory."""
        keys, values = bytearray(), bytearray()
        if room := self.at_once():
            keys += room.keys
            values += room.values
            self.put(room)
            return keys, values
        for part in self.walk():
            keys += part.keys
            values += part.values
        return keys, values

    def at_once(self) -> Room | None:
        """Read the whole map if it is an array that fits one call; else return None.

        The caller returns the room with `put`. This is the fastest way to read counters.
        """
        if not self._is_single:
            return None
        try:
            room = self._rooms.pop()
        except IndexError:
            room = self._new_room(self._count)
        room.attribute.map_fd = self._elements.fd  # the map may be closed by now
        return room if room.lookup.enter() >= 0 else None

    def put(self, room: Room) -> None:
        """Return a room to the pool; call `go_to(None, …)` first if it was set elsewhere."""
        self._rooms.append(room)

    def _take(self) -> Room:
        try:
            return self._rooms.pop()
        except IndexError:
            return self._new_room(self._count)

    def _new_room(self, count: int) -> Room:
        elements = self._elements
        return Room(elements.fd, elements.key_size, elements.value_size, count=count)

    def _by_batch(self, command: Cmd) -> Iterator[RawBatch]:
        room, position, seen = self._take(), None, 0
        # An array ends at max_entries, so no further call is needed to learn it.
        while position is None or not (self._is_array and seen >= self._max_entries):
            room.go_to(position, self._elements.fd)
            call = room.lookup if command is Cmd.MAP_LOOKUP_BATCH else room.take
            is_last = call.enter() < 0
            if is_last and self._is_too_small(call):
                room = self._new_room(2 * room.count)
                continue
            seen += room.attribute.count
            # A copy, for the next round may use a larger room.
            position = bytes(room.position)
            yield room.filled()
            if is_last:
                break
        room.go_to(None, self._elements.fd)
        self.put(room)

    def _is_too_small(self, call: Call) -> bool:
        """Return whether a bucket has more entries than the room; False at the map's end."""
        # ENOSPC: the bucket has more elements than the buffers, and none was copied
        # (__htab_map_lookup_and_delete_batch in kernel/bpf/hashtab.c).
        if call.errno in {errno.ENOENT, errno.ENOSPC}:
            return call.errno == errno.ENOSPC
        raise self._elements.refused(call, None)

    def _by_key(self) -> Iterator[RawBatch]:
        left = self._pairs()
        while pairs := list(itertools.islice(left, self._count)):
            keys, values = (memoryview(b"".join(part)) for part in zip(*pairs, strict=True))
            yield RawBatch(len(pairs), keys, values)

    def _pairs(self) -> Iterator[tuple[bytes, bytes]]:
        for key in self._keys():
            with contextlib.suppress(KeyNotFoundError):  # deleted meanwhile, or an empty slot
                yield key, self._elements.lookup(key)

    def _keys(self) -> Iterator[bytes]:
        """Yield each key once; `trail` has the keys that the walk can go back to."""
        seen: set[bytes] = set()
        trail: list[bytes | None] = []
        key = None
        for _ in range(STEPS_PER_ENTRY * self._max_entries + BATCH):
            following = self._elements.next_key(key)
            if following is None:
                return
            if following in seen:  # the current key was deleted: the kernel started again
                key = trail.pop() if trail else following
                continue
            seen.add(following)
            trail.append(key)
            key = following
            yield following


class RawMap(BaseMap):
    """A map whose keys and values are bytes: what `Map` decodes.

    `batches_bytes` and the like give what the kernel wrote, also where a map has types.
    """

    def _prepare(self) -> None:
        self._traits = traits_of(self.type)

    def close(self) -> None:
        """Close the descriptor; pins, programs and other handles keep the map."""
        super().close()
        self.__dict__.pop("_batches", None)  # its buffers

    @cached_property
    def _batches(self) -> Batches:
        return Batches(self._elements, self.type, self.max_entries)

    def lookup_bytes(self, key: bytes) -> bytes:
        """Return the bytes of the value at a key, of a per-CPU value those of all CPUs.

        Args:
            key: The bytes of the key.

        Raises:
            KeyNotFoundError: The map does not have the key.
            ValueError: The key does not have `key_size` bytes.
        """
        return self._elements.lookup(key)

    def update_bytes(self, key: bytes, value: bytes, *, flag: UpdateFlag = UpdateFlag.ANY) -> None:
        """Write one entry as bytes (BPF_MAP_UPDATE_ELEM).

        Args:
            key: The bytes of the key.
            value: The bytes of the value.
            flag: As in `update`; so are the errors.

        Raises:
            ValueError: The key or the value does not have the size of the map's.
        """
        self._elements.update(key, value, flag)

    def delete_bytes(self, key: bytes) -> None:
        """Delete one entry (BPF_MAP_DELETE_ELEM).

        Args:
            key: The bytes of the key.

        Raises:
            KeyNotFoundError: The map does not have the key.
            TypeError: The map is an array.
        """
        self._check_deletable()
        self._elements.delete(key)

    def items_bytes(self) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over all keys and values as bytes, read in batches."""
        key_size, value_size = self.key_size, self._copied
        for batch in self._walk():
            for index in range(batch.count):
                key = bytes(batch.keys[index * key_size : (index + 1) * key_size])
                yield key, bytes(batch.values[index * value_size : (index + 1) * value_size])

    def batches_bytes(self) -> Iterator[RawBatch]:
        """Iterate over all keys and values in batches, each of which the next one overwrites."""
        return self._walk()

    def dump_bytes(self) -> tuple[bytes, bytes]:
        """Return all keys and all values, each back to back, read in batches."""
        if room := self._batches.at_once():
            contents = room.keys.tobytes(), room.values.tobytes()
            self._batches.put(room)
            return contents
        keys, values = self._whole()
        return bytes(keys), bytes(values)

    def _whole(self) -> tuple[bytearray, bytearray]:
        _ = self.fd
        return self._batches.whole()

    def _walk(self) -> Iterator[RawBatch]:
        _ = self.fd
        return self._batches.walk()

    def _check_deletable(self) -> None:
        if self.is_array:
            raise TypeError(f"{self._described()} is an array: its keys cannot be deleted")


class Batched(Protocol):
    """What the views need of a map."""

    def lookup_batch(self) -> Iterator[list[tuple[Any, Any]]]:
        """Yield the entries in lists."""


class EntriesView(ItemsView[Any, Any]):
    """Keys and values of a map, read in batches instead of key by key."""

    _mapping: Batched

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return itertools.chain.from_iterable(self._mapping.lookup_batch())


class EntryValuesView(ValuesView[Any]):
    """Values of a map, read in batches instead of key by key."""

    _mapping: Batched

    def __iter__(self) -> Iterator[Any]:
        for entries in self._mapping.lookup_batch():
            for _, value in entries:
                yield value

    def __contains__(self, value: object) -> bool:
        return any(value == entry_value for entry_value in self)


class _Pause:
    """A pause of Python's cyclic garbage collector, while many entries are decoded.

    The collector scans young objects every few hundred allocations, and now and then all objects.
    That doubles the time of a large read, and entries of a map contain no reference cycles. The
    pauses of all threads are counted: the first stops the collector, the last restarts it.
    """

    _lock = threading.Lock()
    _count = 0
    _was_enabled = False

    def begin(self) -> None:
        with self._lock:
            if not self._count:
                # An application that runs without the collector is left without it.
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._count += 1

    def end(self) -> None:
        with self._lock:
            self._count -= 1
            if not self._count and self._was_enabled:
                gc.enable()


_PAUSE: Final = _Pause()


@contextlib.contextmanager
def collector_paused(entries: int) -> Iterator[None]:
    """Pause the collector of the whole process in the block, if there are many *entries*.

    Afterwards, also after an exception, it is in the same state as before.
    """
    if entries < WORTH_A_PAUSE:
        yield
        return
    _PAUSE.begin()
    try:
        yield
    finally:
        _PAUSE.end()
