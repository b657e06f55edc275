"""Maps in the kernel as Python mappings."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, MutableMapping, ValuesView
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bpfpin.btf.btf import TypeRef
from bpfpin.choices import flag_of
from bpfpin.errors import (
    BpfError,
    KeyNotFoundError,
    NotSupportedError,
    PermissionDeniedError,
    SyscallError,
)
from bpfpin.objects.maps import batch_write
from bpfpin.objects.maps.base import ENTRIES_MAX, Formats
from bpfpin.objects.maps.batch import EntriesView, EntryValuesView, RawMap, collector_paused
from bpfpin.objects.maps.batch_write import Entries, Writer
from bpfpin.objects.maps.elements import Letters
from bpfpin.syscall.errno_table import InvalidArgumentError
from bpfpin.uapi import UpdateFlag

if TYPE_CHECKING:
    import numpy as np

    from bpfpin.objects.maps.entry_write import EntryAccess, WriteOptions
    from bpfpin.objects.maps.mapped import MappedArray
    from bpfpin.objects.maps.watch import Watch

# Up to here one batch reads all entries, in less time than a program takes to load.
_FEW_ENTRIES = 1024


class Map(RawMap, MutableMapping[Any, Any]):
    """A map held by a descriptor: a mutable mapping typed by the map's BTF.

    Keys and values are decoded by their types, else read as bytes. The index of an array is always
    a number; per-CPU values are lists over the possible CPUs. Maps of maps and program arrays are
    read as ids and written with the object itself (`outer[0] = inner`). `docs/map-types.md` lists
    what the elements of each type are.

    In an LPM trie a lookup, and `in`, find the longest prefix that covers the key; all else needs
    the exact prefix. Reading an entry of an LRU map does not count as using it.

    A walk ends although others change the map (`batch.py` says what it sees). `popitem` and
    `setdefault` make several system calls, between which others may change the map. Threads may
    share a map. Two handles are equal only if they are the same handle, and all are true.

    Kernel: methods that read all entries use BPF_MAP_LOOKUP_BATCH (Linux 5.6) where it is reliable
    (`MapTraits.reads_batches`), else two system calls an entry. Those that write or delete many use
    BPF_MAP_UPDATE_BATCH, BPF_MAP_DELETE_BATCH and BPF_MAP_LOOKUP_AND_DELETE_BATCH (Linux 5.6).

    Refusals are `KeyNotFoundError` (a `KeyError`), `KeyExistsError`, `MapFullError` and
    `ReadOnlyMapError`. Keys and values that do not fit their types raise `ValueError` or
    `TypeError`; operations that the kernel has not for the type of map raise `TypeError`.
    """

    @cached_property
    def _writer(self) -> Writer:
        return Writer(self._elements, self.type)

    def __getitem__(self, key: Any) -> Any:
        if self._are_numbers:
            try:
                return self._elements.lookup_number(key)
            except (TypeError, ValueError):
                pass  # the codec below has a better message for a key that does not fit
        elements = self._elements
        encoded = self._key.encode(key)  # its bytes may hold a descriptor open until the call
        slot = elements.take_for(encoded)
        if slot.lookup.enter() < 0:
            raise elements.refused(slot.lookup, key, slot=slot)
        value = self._value.decode(slot.value)
        elements.put(slot)
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        # The encoded bytes may hold descriptors open until the call is over.
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

    def lookup(self, key: Any, *, lock: bool = False, cpu: int | None = None) -> Any:
        """Return the value at a key.

        Args:
            key: The key.
            lock: Read under the value's `bpf_spin_lock` (BPF_F_LOCK), so that no write is seen half
                done.
            cpu: In a per-CPU map, the CPU whose value to read; by default a list of all values.

        Raises:
            KeyNotFoundError: The map does not have the key.
            TypeError: The values have no lock, or it is not a per-CPU map.
            ValueError: The CPU is not one of the possible ones.

        Kernel: BPF_MAP_LOOKUP_ELEM (BPF_F_LOCK: Linux 5.1).
        """
        encoded, entries = self._key.encode(key), self._entry_access()
        if cpu is not None:
            return entries.read_cpu(encoded, cpu, named=key)
        return self._value.decode(entries.read(encoded, lock=lock, named=key))

    def lookup_and_delete(self, key: Any, *, lock: bool = False) -> Any:
        """Return the value at a key and remove the entry in one step, so that no write is lost.

        Args:
            key: The key.
            lock: Read under the value's `bpf_spin_lock` (BPF_F_LOCK).

        Raises:
            KeyNotFoundError: The map does not have the key.
            TypeError: The map is not a hash, or its values have no lock.
            NotSupportedError: The kernel is older than Linux 5.14.

        Kernel: BPF_MAP_LOOKUP_AND_DELETE_ELEM, for hashes of all kinds (Linux 5.14).
        """
        self._check_deletable()
        encoded = self._key.encode(key)
        flags = UpdateFlag.LOCK if lock else 0
        try:
            data = self._elements.lookup_and_delete(encoded, flags=flags, named=key)
        except NotSupportedError:
            if self._traits.pops_in_one_step:
                raise
            text = "the kernel reads and deletes in one step only in hashes; lookup, then delete"
            raise TypeError(f"{self._described()}: {text}") from None
        except InvalidArgumentError:
            self._entry_access().check_lock(lock=lock)
            raise
        return self._value.decode(data)

    def update(  # type: ignore[override]  # a mapping's update, and one entry with options
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
        """Write one entry, or all entries of a mapping or of pairs.

        Args:
            key: The key; without *value* a mapping, or an iterable of pairs.
            value: The value.
            flag: `UpdateFlag.NOEXIST` only adds an entry, `EXIST` only replaces one.
            partial: Let a dict lack members, on every level, and leave these as they are. The value
                is read, changed and written: what others write between is lost.
            lock: Read and write under the value's `bpf_spin_lock` (BPF_F_LOCK).
            cpu: In a per-CPU map, the CPU whose value to write. Before Linux 7.0 (BPF_F_CPU) the
                values of all CPUs are read and written: what programs on other CPUs count between
                is lost. With EXIST the key is looked up first: if it is deleted between, it is
                added again.
            all_cpus: Write the same value for each CPU.

        Raises:
            KeyExistsError: The key exists (NOEXIST).
            KeyNotFoundError: The key does not exist (EXIST, or *partial*).
            MapFullError: The map has no room for the key.
            ReadOnlyMapError: The map is frozen, or was opened for reading only.
            IncompatibleMapError: A map does not fit into a map of maps.
            TypeError: The value does not fit its type, or the map has no lock or per-CPU values.
            ValueError: The value does not fit its type, or two options contradict each other.

        Kernel: BPF_MAP_UPDATE_ELEM, BPF_MAP_UPDATE_BATCH.
        """
        from bpfpin.objects.maps.entry_write import WriteOptions  # noqa: PLC0415 - not in a load

        flag = flag_of(flag)
        options = WriteOptions(flag=flag, partial=partial, lock=lock, cpu=cpu, all_cpus=all_cpus)
        if value is not ...:
            self._write_entry(key, value, options)
        elif options.allow_batches:
            self.update_batch(key, flag=flag)
        else:
            for entry_key, entry_value in batch_write.pairs(key):
                self._write_entry(entry_key, entry_value, options)

    def _write_entry(self, key: Any, value: Any, options: WriteOptions) -> None:
        encoded, entries = self._key.encode(key), self._entry_access()
        if options.cpu is not None:
            entries.write_cpu(encoded, value, options, named=key)
            return
        written = entries.encoded(encoded, value, options, named=key)
        try:
            self._elements.update(encoded, written, options.flags, named=key)
        except InvalidArgumentError as error:
            entries.check_lock(lock=options.lock)
            raise self._unfit(error, written, key=key) from None

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Return the value at a key; if the map does not have the key, add it first.

        Args:
            key: The key; in an LPM trie a prefix that covers it does not count.
            default: The value to add; errors are as in `update`.
        """
        if self._traits.is_trie and not self._entry_access().has(self._key.encode(key)):
            self[key] = default
        return super().setdefault(key, default)

    def pop(self, key: Any, default: Any = ...) -> Any:
        """Remove an entry and return its value, in hashes in one step (`lookup_and_delete`).

        Args:
            key: The key.
            default: What to return if the map does not have the key.

        Raises:
            KeyNotFoundError: The map does not have the key, and there is no default.
            TypeError: The map is an array.
        """
        is_one_step = self._traits.pops_in_one_step
        try:
            return self.lookup_and_delete(key) if is_one_step else super().pop(key)
        except KeyNotFoundError:
            if default is ...:
                raise
            return default

    def total(self, key: Any) -> Any:
        """Return the values of all CPUs at a key added up, member by member.

        Args:
            key: The key.

        Returns:
            The sum of numbers; dicts and lists are added part by part. In a map without per-CPU
            values the value itself.

        Raises:
            KeyNotFoundError: The map does not have the key.
            TypeError: A member that is not a number differs between CPUs.
        """
        from bpfpin.objects.maps.codec import total  # noqa: PLC0415 - not in a load

        value = self.lookup(key)
        return total(value) if self.is_per_cpu else value

    def maximum(self, key: Any) -> Any:
        """Return the greatest of the values of all CPUs at a key, member by member.

        Args:
            key: The key; errors are as in `total`.
        """
        from bpfpin.objects.maps.codec import maximum  # noqa: PLC0415 - not in a load

        value = self.lookup(key)
        return maximum(value) if self.is_per_cpu else value

    def map_at(
        self,
        key: Any,
        *,
        read_only: bool = False,
        key_format: Any = None,
        value_format: Any = None,
        key_type: TypeRef | str | None = None,
        value_type: TypeRef | str | None = None,
        raw: bool = False,
        formats: Formats | None = None,
    ) -> Map:
        """Open the map that a map of maps holds at a key.

        Args:
            key: The key in this map.
            read_only: Open it for reading only.
            key_format: As in `from_pin`.
            value_format: As in `from_pin`.
            key_type: As in `from_pin`.
            value_type: As in `from_pin`.
            raw: As in `from_pin`.
            formats: As in `from_pin`.

        Returns:
            A handle, which the caller closes.

        Raises:
            KeyNotFoundError: There is no map at the key.
            IdNotFoundError: The map was replaced between the two system calls.
            PermissionDeniedError: CAP_SYS_ADMIN is missing.
            TypeError: This is not a map of maps.

        Kernel: BPF_MAP_LOOKUP_ELEM, BPF_MAP_GET_FD_BY_ID.
        """
        if not self._traits.holds_maps:
            raise TypeError(f"{self._described()} holds no maps")
        return Map.from_id(
            self[key],
            read_only=read_only,
            key_format=key_format,
            value_format=value_format,
            key_type=key_type,
            value_type=value_type,
            raw=raw,
            formats=formats,
        )

    def __iter__(self) -> Iterator[Any]:
        for batch in self._walk():
            yield from self._key.decode_many(batch.keys, self._key.size)

    def __len__(self) -> int:
        """Return the number of entries; an array always has all of its entries.

        Hashes that may have many entries are not walked if the kernel counts them (`fill.py`,
        Linux 6.6, CAP_BPF). Both ways are exact once nobody writes to the map.
        """
        if self.is_array:
            return self.max_entries
        if self._traits.counts_entries and self.max_entries > _FEW_ENTRIES:
            from bpfpin.objects.maps.fill import entry_counts  # noqa: PLC0415 - not in a load

            with suppress(NotSupportedError, PermissionDeniedError):
                return entry_counts([self.fd])[0]
        return sum(batch.count for batch in self._walk())

    def items(self) -> ItemsView[Any, Any]:
        """Return a view of keys and values, which are read in batches."""
        return EntriesView(self)

    def values(self) -> ValuesView[Any]:
        """Return a view of the values, which are read in batches."""
        return EntryValuesView(self)

    def lookup_batch(self) -> Iterator[list[tuple[Any, Any]]]:
        """Iterate over all entries in lists of up to 4,096.

        Memory grows with the batch, not with the map. `batch.py` lists what a walk guarantees
        while the map changes.
        """
        for batch in self._walk():
            yield list(self._decoded(batch.keys, batch.values))

    def lookup_and_delete_batch(self) -> Iterator[list[tuple[Any, Any]]]:
        """Iterate over all entries in lists, each removed when it is yielded.

        Hashes are emptied bucket by bucket in one step: no write is lost. Other types, rhash too,
        are read in batches and then deleted key by key: what a program writes to an entry between
        the two is lost, and an entry that is deleted by then is yielded all the same.

        Raises:
            TypeError: The map is an array.
        """
        self._check_deletable()
        _ = self.fd  # raises `ValueError` for a closed map now, not at the first step
        batches = self._batches.removed(in_one_step=self._traits.is_hash, named=self._key.decode)
        return (list(self._decoded(batch.keys, batch.values)) for batch in batches)

    def update_batch(self, entries: Entries, *, flag: UpdateFlag | str = UpdateFlag.ANY) -> int:
        """Write many entries.

        Not atomic: an error names the key at which it stopped. The entries before it are written,
        or the whole batch of 4,096 that it is in is not.

        Args:
            entries: A mapping or pairs, also from a generator without end: 4,096 are held at a
                time.
            flag: As in `update`; so are the errors.

        Returns:
            How many entries were written.
        """
        return self._writer.update_all(entries, self._key, self._value, flag=flag_of(flag))

    def update_arrays(
        self, keys: Any, values: Any, *, flag: UpdateFlag | str = UpdateFlag.ANY
    ) -> int:
        """Write the entries of two arrays, as `to_numpy` returns them.

        The kernel reads them where they are in memory. Only arrays that are read-only, have gaps,
        or hold per-CPU values of a size that is not a multiple of 8 are copied. Not atomic, as
        `update_batch`.

        Args:
            keys: An array of numpy, or bytes with all keys back to back: any contiguous buffer.
            values: The same for values.
            flag: As in `update`.

        Returns:
            How many entries were written.

        Raises:
            ValueError: The sizes do not fit each other or the map.
            KeyExistsError: As in `update`; so are the other errors.
        """
        return self._writer.write_arrays(
            keys, values, self.value_size, flag=flag_of(flag), named=self._key.decode
        )

    def delete_batch(self, keys: Iterable[Any]) -> int:
        """Delete many keys.

        Args:
            keys: The keys, of which 4,096 are held at a time.

        Returns:
            How many entries were deleted.

        Raises:
            KeyNotFoundError: A key does not exist; the keys before it are deleted.
            TypeError: The map is an array.
        """
        self._check_deletable()
        return self._writer.delete_all(keys, self._key)

    def delete_present(self, keys: Iterable[Any]) -> int:
        """Delete those of the keys that exist.

        Args:
            keys: The keys; those that others deleted before are skipped.

        Returns:
            How many entries were deleted.

        Raises:
            TypeError: The map is an array.
        """
        self._check_deletable()
        return self._writer.delete_present(keys, self._key)

    def clear(self) -> None:
        """Delete all entries that a walk finds.

        Raises:
            TypeError: The map is an array.
        """
        for _ in self.lookup_and_delete_batch():
            pass

    def keys_like(self, key: Any) -> list[Any]:
        """Return the keys whose members equal those of a key, whatever their padding holds.

        A program that does not clear the padding of its keys makes several keys where one was
        meant, and a dict of the members finds only the one with zeros. Each returned key is found
        and deleted by its own bytes (`codecs/stray.py`). All keys are read for it, unless those of
        this map have no padding and no unused bits.

        In an LPM trie only the exact prefix counts, while `in` finds every prefix that covers it.

        Args:
            key: A key, such as a dict of the members.
        """
        from bpfpin.codecs.stray import KeyCodec, pieces, reads_alike  # noqa: PLC0415 - not in a load

        encoded = self._key.encode(key)
        if not isinstance(self._key, KeyCodec):
            return [self._key.decode(encoded)] if self._entry_access().has(encoded) else []
        is_like = reads_alike(self._key.plain_codec, encoded)
        keys = (key for batch in self._walk() for key in pieces(batch.keys, self.key_size))
        return [self._key.decode(raw_key) for raw_key in keys if is_like(raw_key)]

    def to_dict(self) -> dict[Any, Any]:
        """Return all entries as a dict, read in batches.

        Python's garbage collector is paused while more than 16,384 are decoded.
        """
        if room := self._batches.at_once():
            entries = dict(self._decoded(room.keys, room.values))
            self._batches.put(room)
            return entries
        with self._read_whole() as pairs:
            return dict(pairs)

    def to_list(self) -> list[tuple[Any, Any]]:
        """Return all entries as pairs; faster than `list` of the items, and as `to_dict`."""
        with self._read_whole() as pairs:
            return list(pairs)

    def to_numpy(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return keys and values as two arrays, structures as structured types.

        The arrays own what the kernel wrote, without a copy, and may be written. Values of a
        per-CPU map have a second dimension, the CPUs.

        Raises:
            MissingExtraError: numpy is not installed (extra `numpy`).
            TypeError: A type has no counterpart in numpy.
        """
        from bpfpin.objects.maps.numpy_arrays import array_of  # noqa: PLC0415  (numpy is an extra)

        keys, values = self._whole()
        return array_of(self._key, keys), array_of(self._value, values)

    def mapped(self, *, read_only: bool = False) -> MappedArray:
        """Map the values of a BPF_F_MMAPABLE array into memory (mmap; Linux 5.5).

        Args:
            read_only: Map them for reading only.

        Returns:
            The values as a sequence; `MappedArray.of` documents the errors.
        """
        from bpfpin.objects.maps.mapped import MappedArray  # noqa: PLC0415  (few maps are mapped)

        return MappedArray.of(self, read_only=read_only)

    def watch(
        self, *, interval_s: float = 1.0, count: int | None = None, entries_max: int = ENTRIES_MAX
    ) -> Watch:
        """Watch how the entries change, with `for` or `async for`.

        All entries are read in batches at each interval, and nothing in the map is changed. What
        comes and goes between two readings is not seen. If a reading takes more than a twentieth of
        the interval, the interval is stretched (`Change.period_s`).

        Args:
            interval_s: Seconds between two readings.
            count: How many changes to yield; by default without end.
            entries_max: How many entries a reading may have.

        Returns:
            An iterator of `Change`; the first compares with a reading that is taken now.

        Raises:
            LimitError: The map has more than *entries_max* entries.
            ValueError: The interval is not positive.
        """
        from bpfpin.objects.maps.watch import Watch  # noqa: PLC0415  (few commands watch)

        return Watch(self, interval_s=interval_s, count=count, entries_max=entries_max)

    @contextmanager
    def _read_whole(self) -> Iterator[Iterator[tuple[Any, Any]]]:
        # Read first, then decode: by turns, the two take the processor's caches from each other.
        keys, values = self._whole()
        with collector_paused(len(keys) // (self.key_size or 1)):
            yield self._decoded(memoryview(keys), memoryview(values))

    def _decoded(self, keys: memoryview, values: memoryview) -> Iterator[tuple[Any, Any]]:
        key, value = batch_write.items(self._key, keys), batch_write.items(self._value, values)
        return zip(key, value, strict=True)

    def _entry_access(self) -> EntryAccess:
        from bpfpin.objects.maps.entry_write import EntryAccess  # noqa: PLC0415 - not in a load

        return EntryAccess(self._elements, self._value, about=self._described())

    @cached_property
    def _are_numbers(self) -> bool:
        """Whether a lookup needs no codec; prepares the elements for it."""
        if not (batch_write.is_number(self._key) and batch_write.is_number(self._value)):
            return False
        self._elements.are_numbers(Letters(self._key.letter, self._value.letter))
        return True

    def _unfit(self, error: SyscallError, value: bytes, *, key: Any) -> BpfError:
        """Return why a map of maps refuses *value*, a descriptor; else *error* itself."""
        first = next(iter(self.items_bytes()), None) if self._traits.holds_maps else None
        if first is None:
            return error
        from bpfpin.objects.maps import rules  # noqa: PLC0415  (only for a refused call)

        about = f"{self._described()}, key {key!r}"
        return rules.unlike_sample(error, first[1], value, about=about)
