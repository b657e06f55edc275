"""Maps in the kernel as Python mappings."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from bpfpin.objects import percpu
from bpfpin.objects.bulk_map import BulkMap
from bpfpin.objects.map_views import EntriesView, EntryValuesView
from bpfpin.uapi import UpdateFlag


class Map(BulkMap, MutableMapping[Any, Any]):
    """A map held by descriptor: a mutable mapping typed by the map's BTF.

    Two handles are equal only if they are the same handle, and every one is true. Keys and values
    read as `codec.py` says, bytes where no type is known; the index of an array is always a number,
    per-CPU values are lists over the possible CPUs. Maps of maps and of programs are read as ids
    and written with the object itself (`outer[0] = inner`).

    A walk ends although others change the map (`batch.py`). `pop`, `popitem`, `setdefault` and
    `clear` are several calls of the kernel: others may come between them. Threads may share a map.

    Refusals are `KeyNotFoundError` (a `KeyError`), `KeyExistsError`, `MapFullError` and
    `ReadOnlyMapError`; what does not fit the type is `ValueError` or `TypeError`.
    """

    def __getitem__(self, key: Any) -> Any:
        elements = self._elements
        slot = elements.take_for(self._key.encode(key))
        if slot.lookup.enter() < 0:
            raise elements.refused(slot.lookup, key)
        value = self._value.decode(slot.value)
        elements.put(slot)
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        self._elements.update(self._key.encode(key), self._value.encode(value))

    def __delitem__(self, key: Any) -> None:
        self._check_deletable()
        self._elements.delete(self._key.encode(key))

    def __contains__(self, key: object) -> bool:
        return self._elements.has(self._key.encode(key))

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def items(self) -> EntriesView:
        """Return a view whose walk reads keys and values in batches."""
        return EntriesView(self)

    def values(self) -> EntryValuesView:
        """Return a view whose walk reads the values in batches."""
        return EntryValuesView(self)

    def update(  # type: ignore[override]  # a mapping's update, and one entry with a flag
        self, key: Any, value: Any = ..., /, flag: UpdateFlag = UpdateFlag.ANY
    ) -> None:
        """Write one entry, or with a mapping or pairs as the only argument all of its entries.

        With `UpdateFlag.NOEXIST` a key that is there is `KeyExistsError`, with `EXIST` one that is
        not there `KeyNotFoundError`.
        """
        if value is ...:
            self.update_batch(key, flag=flag)
        else:
            self._elements.update(self._key.encode(key), self._value.encode(value), flag)

    def clear(self) -> None:
        """Delete what a walk finds; `TypeError` for an array."""
        self._check_deletable()
        for key in list(self):
            self.pop(key, None)

    def total(self, key: Any) -> Any:
        """Return the values of all CPUs at *key* added up, member by member (`percpu.total`)."""
        value = self[key]
        return percpu.total(value) if self.is_per_cpu else value
