"""Writing and deleting many elements of a map (BPF_MAP_UPDATE_BATCH, BPF_MAP_DELETE_BATCH).

Nothing here is atomic: an error names the key at which it stopped; the keys before it are done.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from bpfpin.codecs.codec import Codec, ScalarCodec
from bpfpin.errors import KeyNotFoundError, NotSupportedError
from bpfpin.map_traits import traits_of
from bpfpin.objects.maps.batch import BATCH
from bpfpin.objects.maps.elements import Elements
from bpfpin.records import dataclass
from bpfpin.syscall.attr import MapBatchAttr
from bpfpin.syscall.call import Call
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import Cmd, MapType, UpdateFlag

# generic_map_update_batch in kernel/bpf/syscall.c refuses other flags (EINVAL).
BATCH_FLAGS = UpdateFlag.ANY, UpdateFlag.LOCK
Entries = Mapping[Any, Any] | Iterable[tuple[Any, Any]]
RAW = frozenset("Bbc")  # buffers of single bytes
HALF = "e"  # memoryview.cast does not support it


@dataclass(frozen=True, slots=True)
class EncodedEntries:
    """Keys, and values unless they are to be deleted, each back to back."""

    elements: Elements
    keys: memoryview
    values: memoryview | None
    named: Callable[[bytes], object]

    def __len__(self) -> int:
        return len(self.keys) // self.elements.key_size

    def key(self, index: int) -> bytes:
        """Return one key."""
        size = self.elements.key_size
        return bytes(self.keys[index * size : (index + 1) * size])

    def value(self, index: int) -> bytes:
        """Return one value."""
        size = self.elements.value_size
        assert self.values is not None
        return bytes(self.values[index * size : (index + 1) * size])


class Writer:
    """Writes the elements of one map."""

    def __init__(self, elements: Elements, map_type: MapType | int) -> None:
        self._elements = elements
        self.is_batched = traits_of(map_type).writes_batches
        self._is_percpu = traits_of(map_type).is_percpu

    def write(
        self,
        keys: memoryview,
        values: memoryview | None,
        *,
        flag: UpdateFlag = UpdateFlag.ANY,
        named: Callable[[bytes], object],
    ) -> int:
        """Write *values* at *keys*, or delete the keys if there are none; returns how many.

        *named* returns how errors show a key. `ValueError` if the sizes do not fit each other and
        the map.
        """
        entries = self._checked(keys, values, named)
        done = 0
        if self.is_batched and flag in BATCH_FLAGS:
            done = self._by_batch(entries, flag)
        # One by one is also for flags such as NOEXIST, which batches do not take.
        for index in range(done, len(entries)):
            self._write_single(entries, index, flag)
        return len(entries)

    def write_arrays(
        self,
        keys: Any,
        values: Any,
        value_size: int,
        *,
        flag: UpdateFlag,
        named: Callable[[bytes], object],
    ) -> int:
        """Write *values*, each of *value_size* bytes for every CPU that has its own; as `write`."""
        elements = self._elements
        cpus = possible_cpus() if self._is_percpu else 1
        data = flat(values, value_size, cpus=cpus, copied=elements.value_size)
        return self.write(flat(keys, elements.key_size), data, flag=flag, named=named)

    def update_all(self, entries: Entries, key: Codec, value: Codec, *, flag: UpdateFlag) -> int:
        """Encode and write many entries, and return how many; `BATCH` of them are held at a time.

        *key* and *value* are the codecs.
        """
        written = 0
        if not self.is_batched:
            for plain_key, plain_value in pairs(entries):
                # The encoded bytes may hold descriptors open until the call is over.
                encoded, data = key.encode(plain_key), value.encode(plain_value)
                self._elements.update(encoded, data, flag, named=plain_key)
                written += 1
            return written
        for keys, values in columns(entries, BATCH):
            encoded, data = key.encode_many(keys), value.encode_many(values)
            views = memoryview(encoded), memoryview(data)
            written += self.write(*views, flag=flag, named=key.decode)
        return written

    def delete_all(self, keys: Iterable[Any], codec: Codec) -> int:
        """Delete many keys and return how many; *codec* is that of the keys."""
        deleted, left = 0, iter(keys)
        while some := list(itertools.islice(left, BATCH)):
            if self.is_batched:
                encoded = memoryview(codec.encode_many(some))
                deleted += self.write(encoded, None, named=codec.decode)
                continue
            for key in some:
                encoded_key = codec.encode(key)  # may hold a descriptor open until the call is over
                self._elements.delete(encoded_key, named=key)
                deleted += 1
        return deleted

    def delete_present(self, keys: Iterable[Any], codec: Codec) -> int:
        """Delete those of *keys* that exist and return how many; *codec* is that of the keys."""
        deleted, left = 0, iter(keys)
        while some := list(itertools.islice(left, BATCH)):
            deleted += self._delete_present(memoryview(codec.encode_many(some)), codec.decode)
        return deleted

    def _delete_present(self, keys: memoryview, named: Callable[[bytes], object]) -> int:
        """Delete those of *keys* that exist and return how many.

        A batch stops at a key that does not exist and reports how many it deleted before
        (`generic_map_delete_batch` in kernel/bpf/syscall.c), so the next one starts after it.
        """
        entries = self._checked(keys, None, named)
        deleted = at = 0
        while at < len(entries):
            done = self._delete_run(entries, at) if self.is_batched else 0
            deleted, at = deleted + done, at + done
            if at < len(entries):
                deleted += self._delete_if_present(entries, at)
                at += 1
        return deleted

    def _delete_run(self, entries: EncodedEntries, at: int) -> int:
        """Delete keys from index *at* up to the first that does not exist; return how many."""
        keys, _keys_stay = address(entries.keys)
        attribute = MapBatchAttr(elem_flags=UpdateFlag.ANY)
        call = Call(Cmd.MAP_DELETE_BATCH, attribute)
        attribute.map_fd = self._elements.fd
        attribute.count = count = min(BATCH, len(entries) - at)
        attribute.keys = keys + at * self._elements.key_size
        if call.enter() >= 0:
            return count
        error = self._elements.refused(call, entries.named(entries.key(at)))
        if isinstance(error, KeyNotFoundError):
            # generic_map_delete_batch() writes the count back once it began. If the call failed
            # before, the count is still the one that was asked for, and nothing was deleted.
            return attribute.count if attribute.count < count else 0
        if not isinstance(error, NotSupportedError):
            raise error
        self.is_batched = False
        return 0

    def _delete_if_present(self, entries: EncodedEntries, index: int) -> bool:
        key = entries.key(index)
        try:
            self._elements.delete(key, named=entries.named(key))
        except KeyNotFoundError:
            return False
        return True

    def _checked(
        self, keys: memoryview, values: memoryview | None, named: Callable[[bytes], object]
    ) -> EncodedEntries:
        key_size, value_size = self._elements.key_size, self._elements.value_size
        if len(keys) % key_size:
            raise ValueError(f"{len(keys)} bytes of keys are not a multiple of {key_size}")
        entries = EncodedEntries(self._elements, keys, values, named)
        if values is not None and len(values) != len(entries) * value_size:
            wanted = f"{len(entries)} keys want {len(entries)} values of {value_size} bytes"
            raise ValueError(f"{wanted}, not {len(values)} bytes")
        return entries

    def _by_batch(self, entries: EncodedEntries, flag: UpdateFlag) -> int:
        """Return how many are written: all, or none if the kernel has no batches."""
        command = Cmd.MAP_DELETE_BATCH if entries.values is None else Cmd.MAP_UPDATE_BATCH
        attribute = MapBatchAttr(elem_flags=flag)
        call = Call(command, attribute)
        # The names keep the memory alive: the kernel reads it by its address during the calls.
        keys, _keys_stay = address(entries.keys)
        values, _values_stay = address(entries.values) if entries.values is not None else (0, None)
        for start in range(0, len(entries), BATCH):
            # Anew for each call: `close` of another thread sets it to a number that is no
            # descriptor.
            attribute.map_fd = self._elements.fd
            attribute.count = count = min(BATCH, len(entries) - start)
            attribute.keys = keys + start * self._elements.key_size
            attribute.values = values + start * self._elements.value_size if values else 0
            if call.enter() < 0:
                self._check(call, entries, start, count)
                return start
        return len(entries)

    def _check(self, call: Call, entries: EncodedEntries, start: int, count: int) -> None:
        """Raise why a batch was refused; return if the kernel has no batches."""
        # The kernel writes back how many elements it wrote before it failed
        # (generic_map_update_batch in kernel/bpf/syscall.c).
        done = call.attribute.count
        failed = start + done if done < count else start
        key = entries.key(failed)
        error = self._elements.refused(call, entries.named(key), raw_key=bytes(key))
        if not isinstance(error, NotSupportedError):
            raise error
        self.is_batched = False

    def _write_single(self, entries: EncodedEntries, index: int, flag: UpdateFlag) -> None:
        key = entries.key(index)
        if entries.values is None:
            self._elements.delete(key, named=entries.named(key))
        else:
            self._elements.update(key, entries.value(index), flag, named=entries.named(key))


def address(data: memoryview) -> tuple[int, object]:
    """Return the address of bytes that the kernel reads, and an object that keeps them alive."""
    if not len(data):
        return 0, None
    # ctypes' from_buffer() refuses read-only memory, so whole bytes objects are used in place and
    # parts of one are copied.
    if data.readonly:
        owner = (
            data.obj if isinstance(data.obj, bytes) and len(data.obj) == len(data) else bytes(data)
        )
        return ctypes.cast(ctypes.c_char_p(owner), ctypes.c_void_p).value or 0, owner
    array = (ctypes.c_ubyte * len(data)).from_buffer(data)
    return ctypes.addressof(array), array


def pairs(entries: Entries) -> Iterator[tuple[Any, Any]]:
    """Return the keys with their values."""
    return iter(entries.items()) if isinstance(entries, Mapping) else iter(entries)


def columns(entries: Entries, count: int) -> Iterator[tuple[list[Any], list[Any]]]:
    """Yield *count* keys and their values at a time."""
    if isinstance(entries, Mapping):
        # Both are in the same order, and two slices take less time than a tuple for each entry.
        keys, values = iter(entries.keys()), iter(entries.values())
        while some := list(itertools.islice(keys, count)):
            yield some, list(itertools.islice(values, count))
        return
    left = iter(entries)
    while rows := list(itertools.islice(left, count)):
        yield [key for key, _ in rows], [value for _, value in rows]


def is_number(codec: Codec) -> bool:
    """Return whether a memoryview can decode and encode such values."""
    return type(codec) is ScalarCodec and codec.letter != HALF


def items(codec: Codec, data: memoryview) -> Iterable[Any]:
    """Return the values in *data*, plain numbers without an intermediate list."""
    if is_number(codec):
        letter: Any = codec.letter  # mypy knows the letters of a cast only as literals
        return data.cast(letter)
    return codec.decode_many(data, codec.size)


def flat(data: Any, size: int, *, cpus: int = 1, copied: int = 0) -> memoryview:
    """Return the bytes of an array of elements of *size* bytes, by itself where it can be used.

    Of a per-CPU map rows of *cpus* elements, for which the kernel copies *copied* bytes.
    `ValueError` if the elements have another size.
    """
    view = memoryview(data)
    copied = copied or size
    if view.ndim == 1 and view.format in RAW:
        return view.cast("B")
    if not view.shape:
        raise TypeError("an array or bytes were expected, not a single number")
    if not view.shape[0]:
        return memoryview(b"")
    row = view.nbytes // view.shape[0]
    if row == copied and view.c_contiguous:
        return view_of(view)
    if row == size * cpus:
        return memoryview(padded(view.tobytes(), size, copied // cpus))
    wanted = f"{cpus} values of {size} bytes" if cpus > 1 else f"{size} bytes"
    raise ValueError(f"elements of {row} bytes, where the map has {wanted}")


def view_of(view: memoryview) -> memoryview:
    """Return the bytes of *view*; of one that is read-only a copy.

    `memoryview.cast` refuses the formats of structured arrays.
    """
    if view.readonly:
        return memoryview(view.tobytes())
    return memoryview((ctypes.c_ubyte * view.nbytes).from_buffer(view)).cast("B")


def padded(data: bytes, size: int, stride: int) -> bytes | bytearray:
    """Return the elements of *size* bytes with zeros up to *stride* behind each."""
    if size == stride:
        return data
    whole = bytearray(len(data) // size * stride)
    # One slice for each byte of an element, not for each element: the steps do not grow with the
    # number of elements.
    for at in range(size):
        whole[at::stride] = data[at::size]
    return whole
