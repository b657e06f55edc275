"""A map read and written many elements at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bpfpin.codecs.stray import KeyCodec, pieces, reads_alike
from bpfpin.errors import KeyNotFoundError, NotSupportedError
from bpfpin.objects import columns, garbage
from bpfpin.objects.batch import BATCH, HASHES, RawBatch
from bpfpin.objects.columns import Entries
from bpfpin.objects.typed_map import TypedMap
from bpfpin.spec import flag_of
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import UpdateFlag

if TYPE_CHECKING:
    import numpy as np


class BulkMap(TypedMap):
    """A map whose elements are read and written in batches (`batch.py`, `batch_write.py`)."""

    def __iter__(self) -> Iterator[Any]:
        for part in self._walk():
            yield from self._key.decode_many(part.keys, self._key.size)

    def __len__(self) -> int:
        """Count the entries by walking them; an array always has all of its entries."""
        return self.max_entries if self.is_array else sum(part.count for part in self._walk())

    def lookup_batch(self) -> Iterator[list[tuple[Any, Any]]]:
        """Yield all entries in lists of up to 4,096 (BPF_MAP_LOOKUP_BATCH, else key by key).

        What is held grows with the batch, not with the map. `batch.py` says what is seen of a map
        that changes meanwhile.
        """
        for part in self._walk():
            yield self._pairs(part)

    def lookup_and_delete_batch(self) -> Iterator[list[tuple[Any, Any]]]:
        """Yield all entries in lists, each removed when it is yielded; `TypeError` for an array.

        Hashes of all kinds are emptied bucket by bucket in one step
        (BPF_MAP_LOOKUP_AND_DELETE_BATCH): no write is lost. Other types are read in batches and
        then deleted key by key: what a program writes to an entry between the two is lost, and an
        entry that is gone by then is yielded all the same.
        """
        self._check_deletable()
        _ = self.fd
        if self.type not in HASHES:
            return self._read_and_deleted()
        return self._taken()

    def _taken(self) -> Iterator[list[tuple[Any, Any]]]:
        try:
            for part in self._batches.taken():
                yield self._pairs(part)
        except NotSupportedError:  # before the first batch or never
            yield from self._read_and_deleted()

    def _read_and_deleted(self) -> Iterator[list[tuple[Any, Any]]]:
        for part in self._walk():
            pairs, keys = self._pairs(part), bytes(part.keys)
            for at in range(0, len(keys), self.key_size):
                self._delete_if_there(keys[at : at + self.key_size])
            yield pairs

    def _delete_if_there(self, key: bytes) -> None:
        try:
            self._elements.delete(key, named=self._named(key))
        except KeyNotFoundError:
            return

    def update_batch(self, entries: Entries, *, flag: UpdateFlag | str = UpdateFlag.ANY) -> int:
        """Write many entries (BPF_MAP_UPDATE_BATCH, else one by one) and return how many.

        *entries* are a mapping or pairs, also from a generator without end: 4,096 are held at a
        time. Not atomic: what does not fit or is refused names the key at which it stopped; the
        entries before it are written, or all of its batch of 4,096 are not. *flag* is that of
        `Map.update`.
        """
        flag = flag_of(flag)
        if not self._writer.is_batched:
            return sum(self._update_one(key, value, flag) for key, value in columns.pairs(entries))
        written = 0
        for keys, values in columns.columns(entries, BATCH):
            encoded = memoryview(self._key.encode_many(keys)), self._value.encode_many(values)
            data = memoryview(encoded[1])
            written += self._writer.write(encoded[0], data, flag=flag, named=self._named)
        return written

    def _update_one(self, key: Any, value: Any, flag: UpdateFlag) -> int:
        # What they return may hold descriptors open until the call is over.
        encoded, written = self._key.encode(key), self._value.encode(value)
        self._elements.update(encoded, written, flag, named=key)
        return 1

    def update_arrays(
        self, keys: Any, values: Any, *, flag: UpdateFlag | str = UpdateFlag.ANY
    ) -> int:
        """Write the entries in two arrays, as `to_numpy` gives them, and return how many.

        Arrays of numpy, or bytes with all keys and all values back to back: anything with the
        buffer protocol. They are handed to the kernel as they lie in memory, without a copy; only
        arrays that are read-only, have gaps, or hold per-CPU values of a size that is no multiple
        of 8 are copied. `ValueError` if sizes do not fit each other or the map. Not atomic, as
        `update_batch`.
        """
        flag = flag_of(flag)
        cpus = possible_cpus() if self.is_per_cpu else 1
        data = columns.flat(values, self.value_size, cpus=cpus, copied=self._copied)
        written = columns.flat(keys, self.key_size)
        return self._writer.write(written, data, flag=flag, named=self._named)

    def delete_batch(self, keys: Iterable[Any]) -> int:
        """Delete many keys (BPF_MAP_DELETE_BATCH, else one by one) and return how many.

        Stops with `KeyNotFoundError` at a key that is not there; those before it are deleted.
        """
        self._check_deletable()
        deleted, left = 0, iter(keys)
        while some := list(itertools.islice(left, BATCH)):
            if self._writer.is_batched:
                encoded = memoryview(self._key.encode_many(some))
                deleted += self._writer.write(encoded, None, named=self._named)
            else:
                deleted += sum(map(self._delete_one, some))
        return deleted

    def keys_like(self, key: Any) -> list[Any]:
        """Return the keys that read like *key*, whatever their padding and unused bits hold.

        A program that does not clear the padding of its keys makes several of them where one was
        meant, and a dict of the members finds none but that with zeros. Each of the keys returned
        is found and deleted by its own bytes (`codecs/stray.py`). All keys are read for it, unless
        those of this map have no such bits.
        """
        encoded = self._key.encode(key)
        if not isinstance(self._key, KeyCodec):
            return [self._key.decode(encoded)] if self._elements.has(encoded) else []
        plain = self._key.plain_codec
        is_like = reads_alike(plain, encoded)
        return [
            self._key.decode(one)
            for part in self._walk()
            for one in pieces(part.keys, self.key_size)
            if is_like(one)
        ]

    def delete_present(self, keys: Iterable[Any]) -> int:
        """Delete those of *keys* that are there, in batches, and return how many were deleted.

        Keys that somebody else deleted before are passed over and not counted.
        """
        self._check_deletable()
        deleted, left = 0, iter(keys)
        while some := list(itertools.islice(left, BATCH)):
            encoded = memoryview(self._key.encode_many(some))
            deleted += self._writer.delete_present(encoded, named=self._named)
        return deleted

    def _delete_one(self, key: Any) -> int:
        encoded = self._key.encode(key)  # as above
        self._elements.delete(encoded, named=key)
        return 1

    def to_dict(self) -> dict[Any, Any]:
        """Return all entries, read in batches.

        While more than 16,384 are decoded, Python searches for no cycles (`garbage.py`).
        """
        if room := self._batches.at_once():
            entries = dict(self._decoded(room.keys, room.values))
            self._batches.put(room)
            return entries
        with self._read_whole() as found:
            return dict(found)

    def to_list(self) -> list[tuple[Any, Any]]:
        """Return all entries as pairs; faster than `list` of the items, and as `to_dict`."""
        with self._read_whole() as entries:
            return list(entries)

    @contextmanager
    def _read_whole(self) -> Iterator[Iterator[tuple[Any, Any]]]:
        # Read first, then decode: by turns, the two take the processor's caches from each other.
        keys, values = self._whole()
        with garbage.paused(len(keys) // (self.key_size or 1)):
            yield self._decoded(memoryview(keys), memoryview(values))

    def _pairs(self, part: RawBatch) -> list[tuple[Any, Any]]:
        return list(self._decoded(part.keys, part.values))

    def _decoded(self, keys: memoryview, values: memoryview) -> Iterator[tuple[Any, Any]]:
        key, value = columns.items(self._key, keys), columns.items(self._value, values)
        return zip(key, value, strict=True)

    def to_numpy(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return keys and values as two arrays, structures as structured types (extra `numpy`).

        The arrays own what the kernel wrote, without a copy, and may be written. Values of a
        per-CPU map have a second dimension, the CPUs.
        """
        from bpfpin.objects.arrays import array_of  # noqa: PLC0415  (numpy is an extra)

        keys, values = self._whole()
        return array_of(self._key, keys), array_of(self._value, values)

    def _named(self, key: bytes) -> object:
        return self._key.decode(key)
