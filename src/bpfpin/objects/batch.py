"""Elements of a map many at a time (BPF_MAP_*_BATCH, Linux 5.6).

A walk ends although the map changes under it: a hash is walked bucket by bucket and an array by
index, and everything else key by key with a memory of the keys seen. What comes or goes during the
walk may be seen or not; what stays is seen.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from bpfpin.errors import KeyNotFoundError, NotSupportedError
from bpfpin.objects.elements import CLOSED_FD, Elements, buffer
from bpfpin.syscall.attr import MapBatchAttr
from bpfpin.syscall.call import Call
from bpfpin.syscall.refusal import BufferTooSmallError
from bpfpin.uapi import Cmd, MapType, UpdateFlag

BATCH = 4096  # measured: flat from 256 elements up
BUFFER_BYTES = 4 << 20
ARRAYS = frozenset({MapType.ARRAY, MapType.PERCPU_ARRAY})
# Asked for batches. For other types the kernel's generic batch starts anew when the key it stopped
# at was deleted meanwhile, and may never end.
BATCHED = ARRAYS | {
    MapType.HASH,
    MapType.PERCPU_HASH,
    MapType.LRU_HASH,
    MapType.LRU_PERCPU_HASH,
    MapType.HASH_OF_MAPS,
    MapType.ARRAY_OF_MAPS,
}
STEPS_PER_ENTRY = 4  # of a walk by key, before it gives up running after deleted keys


@dataclass(frozen=True, slots=True)
class RawBatch:
    """*count* keys and values, back to back; views of buffers that the next batch overwrites."""

    count: int
    keys: memoryview
    values: memoryview


class Room:
    """Buffers for *count* elements and the position in the map, with their call."""

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

    def go_to(self, position: bytes | None) -> None:
        """Set where the next batch starts; None is the start of the map."""
        if position is not None:
            self.position[:] = position
        self.attribute.in_batch = 0 if position is None else self._position_address
        self.attribute.count = self.count

    def filled(self) -> RawBatch:
        """Return what the last call filled in."""
        count = self.attribute.count
        key_bytes = len(self.keys) // self.count * count
        value_bytes = len(self.values) // self.count * count
        return RawBatch(count, self.keys[:key_bytes], self.values[:value_bytes])


class Batches:
    """Reading many elements of one map; the buffers stay for the next walk.

    Each walk has buffers of its own: threads and nested walks do not meet.
    """

    def __init__(self, elements: Elements, fd: int, kind: MapType | int, max_entries: int) -> None:
        self._elements = elements
        self._fd = fd
        self._max_entries = max_entries
        fits = BUFFER_BYTES // (elements.key_size + elements.value_size or 1)
        self._count = max(1, min(BATCH, max_entries, fits))
        self._is_batched = kind in BATCHED
        self._is_array = kind in ARRAYS
        self._is_single = self._is_array and max_entries <= self._count
        self._rooms: list[Room] = []

    def close(self) -> None:
        """Forget the descriptor."""
        self._fd = CLOSED_FD
        self._rooms.clear()

    def walk(self) -> Iterator[RawBatch]:
        """Yield everything, by batches where the kernel has them, else key by key."""
        if self._is_batched:
            try:
                yield from self._by_batch()
            except NotSupportedError:  # comes before the first batch or never
                self._is_batched = self._is_single = False
        if not self._is_batched:
            yield from self._by_key()

    def at_once(self) -> Room | None:
        """Read the whole map if it is an array that one call reads, None if it is not.

        Whoever gets the room puts it back. This is the shortest way to read counters.
        """
        if not self._is_single:
            return None
        try:
            room = self._rooms.pop()
        except IndexError:
            room = self._new_room(self._count)
        return room if room.lookup.enter() >= 0 else None

    def put(self, room: Room) -> None:
        """Let others have the room; it must be set to the start of the map."""
        self._rooms.append(room)

    def _take(self) -> Room:
        try:
            return self._rooms.pop()
        except IndexError:
            return self._new_room(self._count)

    def _new_room(self, count: int) -> Room:
        elements = self._elements
        return Room(self._fd, elements.key_size, elements.value_size, count=count)

    def _by_batch(self) -> Iterator[RawBatch]:
        room, position, seen = self._take(), None, 0
        while position is None or not (self._is_array and seen >= self._max_entries):
            room.go_to(position)
            is_last = room.lookup.enter() < 0
            if is_last and self._is_too_small(room):
                room = self._new_room(2 * room.count)
                continue
            seen += room.attribute.count
            position = bytes(room.position)
            yield room.filled()
            if is_last:
                break
        room.go_to(None)
        self.put(room)

    def _is_too_small(self, room: Room) -> bool:
        """Whether a bucket holds more than the room, False at the map's end, else raises."""
        error = self._elements.refused(room.lookup, None)
        if isinstance(error, BufferTooSmallError):
            return True
        if isinstance(error, KeyNotFoundError):
            return False
        raise error

    def _by_key(self) -> Iterator[RawBatch]:
        found = self._pairs()
        while pairs := list(itertools.islice(found, self._count)):
            keys, values = (memoryview(b"".join(part)) for part in zip(*pairs, strict=True))
            yield RawBatch(len(pairs), keys, values)

    def _pairs(self) -> Iterator[tuple[bytes, bytes]]:
        seen: set[bytes] = set()
        key = None
        for _ in range(STEPS_PER_ENTRY * self._max_entries + BATCH):
            key = self._elements.next_key(key)
            if key is None:
                return
            if key not in seen:
                seen.add(key)
                with contextlib.suppress(KeyNotFoundError):
                    yield key, self._elements.lookup(key)


def write(
    elements: Elements,
    fd: int,
    keys: bytes,
    values: bytes | None,
    *,
    flag: UpdateFlag = UpdateFlag.ANY,
) -> int:
    """Write *values* at *keys*, or delete the keys if there are no values; returns how many.

    A refusal names the key; what stood before it is done, what stands behind it is not.
    """
    key_size, value_size = elements.key_size, elements.value_size
    command = Cmd.MAP_DELETE_BATCH if values is None else Cmd.MAP_UPDATE_BATCH
    attribute = MapBatchAttr(map_fd=fd, elem_flags=flag)
    call = Call(command, attribute)
    total = len(keys) // key_size
    for start in range(0, total, BATCH):
        attribute.count = count = min(BATCH, total - start)
        attribute.keys = _address(keys) + start * key_size
        attribute.values = _address(values) + start * value_size if values is not None else 0
        if call.enter() >= 0:
            continue
        failed = start + attribute.count if attribute.count < count else start
        error = elements.refused(call, keys[failed * key_size : (failed + 1) * key_size])
        if not isinstance(error, NotSupportedError):
            raise error
        _one_by_one(elements, keys[start * key_size :], values, flag=flag)
        break
    return total


def _one_by_one(elements: Elements, keys: bytes, values: bytes | None, *, flag: UpdateFlag) -> None:
    key_size, value_size = elements.key_size, elements.value_size
    behind = 0 if values is None else len(values) - len(keys) // key_size * value_size
    for index in range(len(keys) // key_size):
        key = keys[index * key_size : (index + 1) * key_size]
        at = behind + index * value_size
        if values is None:
            elements.delete(key)
        else:
            elements.update(key, values[at : at + value_size], flag)


def _address(data: bytes) -> int:
    """Return where the bytes lie; the kernel only reads them."""
    return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
