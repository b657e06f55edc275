"""Maps in the kernel as Python mappings."""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import cached_property
from typing import Any

from bpfpin.errors import KeyNotFoundError
from bpfpin.objects import columns
from bpfpin.objects.batch import HASHES
from bpfpin.objects.element_map import MAPS_OF_MAPS, Choices, ElementMap
from bpfpin.objects.elements import Letters
from bpfpin.objects.map_views import EntriesView, EntryValuesView
from bpfpin.objects.mapped_array import MappedArray
from bpfpin.objects.watch import ENTRIES_MAX, Watch
from bpfpin.spec import flag_of
from bpfpin.syscall.refusal import InvalidArgumentError
from bpfpin.uapi import UpdateFlag


class Map(ElementMap, MutableMapping[Any, Any]):
    """A map held by descriptor: a mutable mapping typed by the map's BTF.

    Two handles are equal only if they are the same handle, and every one is true. Keys and values
    read as `codecs/codec.py` says, bytes where no type is known; the index of an array is always a
    number, per-CPU values are lists over the possible CPUs. Maps of maps and of programs are read
    as ids and written with the object itself (`outer[0] = inner`); what else stands for a thing of
    the kernel is told in `codec_holders.py` and `codec_owners.py`.

    In an LPM trie a lookup (`in`, too) answers with the longest prefix that covers the key; `del`
    wants the very prefix. Reading an entry of an LRU map does not count as using it. What the
    kernel refuses for a type of map is a `TypeError` that says so (`map_kinds.py`).

    A walk ends although others change the map (`batch.py`). `popitem` and `setdefault` are several
    calls of the kernel: others may come between them. Threads may share a map.

    Refusals are `KeyNotFoundError` (a `KeyError`), `KeyExistsError`, `MapFullError` and
    `ReadOnlyMapError`; what does not fit the type is `ValueError` or `TypeError`.
    """

    def __getitem__(self, key: Any) -> Any:
        if self._are_numbers:
            try:
                return self._elements.lookup_number(key)
            except (TypeError, ValueError):
                pass  # a key that does not fit is told better below
        elements = self._elements
        encoded = self._key.encode(key)  # its bytes may hold a descriptor open until the call
        slot = elements.take_for(encoded)
        if slot.lookup.enter() < 0:
            raise elements.refused(slot.lookup, key, slot=slot)
        value = self._value.decode(slot.value)
        elements.put(slot)
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        # What they return may hold descriptors open until the call is over.
        encoded, written = self._key.encode(key), self._value.encode(value)
        try:
            self._elements.update(encoded, written, named=key)
        except InvalidArgumentError as error:
            raise self._unfit(error, written, key=key) from None

    def __delitem__(self, key: Any) -> None:
        self._check_deletable()
        encoded = self._key.encode(key)
        self._elements.delete(encoded, named=key)

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

    def update(  # type: ignore[override]  # a mapping's update, and one entry with choices
        self,
        key: Any,
        value: Any = ...,
        /,
        flag: UpdateFlag | str = UpdateFlag.ANY,
        *,
        partial: bool = False,
        lock: bool = False,
        cpu: int | None = None,
        all_cpus: bool = False,
    ) -> None:
        """Write one entry, or with a mapping or pairs as the only argument all of its entries.

        With `UpdateFlag.NOEXIST` a key that is there is `KeyExistsError`, with `EXIST` one that is
        not there `KeyNotFoundError`. *partial* lets a dict lack members, on every level, and
        leaves these as they are: the value is read, changed and written, so what others write
        between is lost. *lock* reads and writes under the value's `bpf_spin_lock` (BPF_F_LOCK).

        Of a per-CPU map *cpu* writes the value of one CPU, and *all_cpus* the same value for each.
        Before Linux 7.0 (BPF_F_CPU) writing one CPU's value reads and writes those of all: what
        programs on other CPUs count between is lost.
        """
        flag = flag_of(flag)
        choices = Choices(flag=flag, partial=partial, lock=lock, cpu=cpu, all_cpus=all_cpus)
        if value is not ...:
            self.update_one(key, value, choices)
        elif choices.are_plain:
            self.update_batch(key, flag=flag)
        else:
            for one, its_value in columns.pairs(key):
                self.update_one(one, its_value, choices)

    def map_at(self, key: Any, **reading: Any) -> Map:
        """Open the map that a map of maps holds at *key*; the caller closes it.

        The arguments are those of `from_id`. `IdNotFoundError` if it was replaced meanwhile.
        """
        if self.type not in MAPS_OF_MAPS:
            raise TypeError(f"{self._described()} holds no maps")
        return Map.from_id(self[key], **reading)

    def pop(self, key: Any, default: Any = ...) -> Any:
        """Remove *key* and return its value, or *default*; `KeyNotFoundError` without one.

        In hashes one call of the kernel, in other maps two.
        """
        try:
            return self.lookup_and_delete(key) if self.type in HASHES else super().pop(key)
        except KeyNotFoundError:
            if default is ...:
                raise
            return default

    def clear(self) -> None:
        """Delete what a walk finds; `TypeError` for an array."""
        for _ in self.lookup_and_delete_batch():
            pass

    def mapped(self, *, read_only: bool = False) -> MappedArray:
        """Return the values of a BPF_F_MMAPABLE array as memory (`MappedArray.of`)."""
        return MappedArray.of(self, read_only=read_only)

    def watch(
        self, *, interval_s: float = 1.0, count: int | None = None, entries_max: int = ENTRIES_MAX
    ) -> Watch:
        """Return what tells how the entries change, for `for` and `async for` (`watch.py`).

        Yields a `Change` every *interval_s* seconds, *count* of them or without end; the first one
        compares with a reading that is taken now. Nothing in the map is changed. All entries are
        read in batches each time: what came and went between two readings is not seen, and the
        interval is stretched where a reading takes more than a twentieth of it
        (`Change.period_s`). `LimitError` for more than *entries_max* entries.
        """
        return Watch(self, interval_s=interval_s, count=count, entries_max=entries_max)

    @cached_property
    def _are_numbers(self) -> bool:
        """Whether a lookup needs no codec; prepares the elements for it."""
        if not (columns.is_number(self._key) and columns.is_number(self._value)):
            return False
        self._elements.are_numbers(Letters(self._key.letter, self._value.letter))
        return True
