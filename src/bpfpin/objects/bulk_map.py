"""A map read and written many elements at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bpfpin.objects import batch
from bpfpin.objects.typed_map import TypedMap
from bpfpin.uapi import UpdateFlag

if TYPE_CHECKING:
    import numpy as np


class BulkMap(TypedMap):
    """A map whose elements are read and written in batches (`batch.py`)."""

    def __iter__(self) -> Iterator[Any]:
        for part in self._walk():
            yield from self._key.decode_many(part.keys, self._key.size)

    def __len__(self) -> int:
        """Count the entries by walking them; an array always has all of its entries."""
        return self.max_entries if self.is_array else sum(part.count for part in self._walk())

    def lookup_batch(self) -> Iterator[list[tuple[Any, Any]]]:
        """Yield all entries in lists of up to 4,096 (BPF_MAP_LOOKUP_BATCH, else key by key)."""
        key, value = self._key, self._value
        for part in self._walk():
            keys = key.decode_many(part.keys, key.size)
            yield list(zip(keys, value.decode_many(part.values, value.size), strict=True))

    def update_batch(
        self,
        entries: Mapping[Any, Any] | Iterable[tuple[Any, Any]],
        *,
        flag: UpdateFlag = UpdateFlag.ANY,
    ) -> int:
        """Write many entries (BPF_MAP_UPDATE_BATCH, else one by one) and return how many.

        Not atomic: a refusal names the key at which it stopped; those before it are written.
        """
        keys, values = _columns(entries)
        encoded = self._key.encode_many(keys), self._value.encode_many(values)
        return batch.write(self._elements, self.fd, *encoded, flag=flag)

    def delete_batch(self, keys: Iterable[Any]) -> int:
        """Delete many keys (BPF_MAP_DELETE_BATCH, else one by one) and return how many.

        Stops with `KeyNotFoundError` at a key that is not there.
        """
        self._check_deletable()
        return batch.write(self._elements, self.fd, self._key.encode_many(list(keys)), None)

    def to_dict(self) -> dict[Any, Any]:
        """Return all entries, read in batches."""
        if room := self._batches.at_once():
            entries = self._decoded(room.keys, room.values)
            self._batches.put(room)
            return entries
        found: dict[Any, Any] = {}
        for part in self._walk():
            found.update(self._decoded(part.keys, part.values))
        return found

    def _decoded(self, keys: memoryview, values: memoryview) -> dict[Any, Any]:
        key, value = self._key, self._value
        decoded = value.decode_many(values, value.size)
        return dict(zip(key.decode_many(keys, key.size), decoded, strict=True))

    def to_numpy(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return keys and values as two arrays, structures as structured types (extra `numpy`).

        Values of a per-CPU map have a second dimension, the CPUs.
        """
        from bpfpin.objects.arrays import array_of  # noqa: PLC0415  (numpy is an extra)

        keys, values = self.dump_bytes()
        return array_of(self._key, keys), array_of(self._value, values)


def _columns(entries: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Return the keys and the values of *entries*, each in one sequence."""
    if isinstance(entries, Mapping):
        return list(entries.keys()), list(entries.values())
    pairs = list(entries)
    return [key for key, _ in pairs], [value for _, value in pairs]
