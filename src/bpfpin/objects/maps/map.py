"""Maps in the kernel as Python mappings."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import ItemsView, Iterable, Iterator, MutableMapping, ValuesView
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from bpfpin.codecs.stray import KeyCodec, pieces, reads_alike
from bpfpin.errors import (
    BpfError,
    IncompatibleMapError,
    KeyNotFoundError,
    NotSupportedError,
    SyscallError,
)
from bpfpin.map_traits import traits_of
from bpfpin.objects.kernel.info import map_info
from bpfpin.objects.kernel.object import OPEN_BY_ID, ObjectKind
from bpfpin.objects.maps import batch_write, entry_write, garbage, rules
from bpfpin.objects.maps import codec as percpu
from bpfpin.objects.maps.base import TypedMap
from bpfpin.objects.maps.batch import BATCH, RawBatch
from bpfpin.objects.maps.batch_write import Entries
from bpfpin.objects.maps.codec import PerCpuCodec
from bpfpin.objects.maps.elements import Letters
from bpfpin.objects.maps.entry_write import overlaid
from bpfpin.objects.maps.mapped import MappedArray
from bpfpin.objects.maps.watch import ENTRIES_MAX, Watch
from bpfpin.spec import flag_of
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.syscall.fd import Descriptor
from bpfpin.syscall.refusal import InvalidArgumentError
from bpfpin.uapi import UpdateFlag

if TYPE_CHECKING:
    import numpy as np

# A map read and written many elements at a time.


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
        if not traits_of(self.type).is_hash:
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
            return sum(
                self._update_one(key, value, flag) for key, value in batch_write.pairs(entries)
            )
        written = 0
        for keys, values in batch_write.columns(entries, BATCH):
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
        data = batch_write.flat(values, self.value_size, cpus=cpus, copied=self._copied)
        written = batch_write.flat(keys, self.key_size)
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
        key, value = batch_write.items(self._key, keys), batch_write.items(self._value, values)
        return zip(key, value, strict=True)

    def to_numpy(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return keys and values as two arrays, structures as structured types (extra `numpy`).

        The arrays own what the kernel wrote, without a copy, and may be written. Values of a
        per-CPU map have a second dimension, the CPUs.
        """
        from bpfpin.objects.maps.numpy_arrays import array_of  # noqa: PLC0415  (numpy is an extra)

        keys, values = self._whole()
        return array_of(self._key, keys), array_of(self._value, values)

    def _named(self, key: bytes) -> object:
        return self._key.decode(key)


# A map read and written one element at a time, with the choices that the kernel gives.


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """How one entry is written; `Map.update` tells what each means."""

    flag: UpdateFlag = UpdateFlag.ANY
    partial: bool = False
    lock: bool = False
    cpu: int | None = None
    all_cpus: bool = False

    def __post_init__(self) -> None:
        if self.partial and self.flag & UpdateFlag.NOEXIST:
            raise ValueError("partial changes an entry that is there: NOEXIST contradicts it")
        if self.all_cpus and self.cpu is not None:
            raise ValueError("either one CPU or all of them")

    @property
    def are_plain(self) -> bool:
        """Whether a batch does as well."""
        return not (self.partial or self.lock or self.all_cpus) and self.cpu is None

    @property
    def flags(self) -> UpdateFlag:
        """What the kernel is told."""
        flag = self.flag
        if self.partial:
            flag |= UpdateFlag.EXIST  # what was deleted meanwhile does not come back
        return flag | UpdateFlag.LOCK if self.lock else flag


class ElementMap(BulkMap):
    """A map with all ways to read and write one element."""

    def lookup(self, key: Any, *, lock: bool = False, cpu: int | None = None) -> Any:
        """Return the value at *key* (BPF_MAP_LOOKUP_ELEM); `KeyNotFoundError`.

        With *lock* it is read under its `bpf_spin_lock` (BPF_F_LOCK), so that no write is seen half
        done; `TypeError` if it has none. With *cpu* the value of this CPU alone, of a per-CPU map.
        """
        encoded = self._key.encode(key)
        if cpu is None:
            return self._value.decode(self._read(encoded, key, lock=lock))
        codec = self._of_one_cpu(cpu)
        return codec.decode(entry_write.read(self._elements, encoded, cpu, codec.size, named=key))

    def lookup_and_delete(self, key: Any, *, lock: bool = False) -> Any:
        """Return the value at *key* and remove it in one step; `KeyNotFoundError`.

        BPF_MAP_LOOKUP_AND_DELETE_ELEM, which the kernel has for hashes of all kinds (Linux 5.14):
        no write of a program comes between. `TypeError` for other maps, `NotSupportedError` on an
        older kernel; *lock* as in `lookup`.
        """
        self._check_deletable()
        encoded = self._key.encode(key)
        flags = UpdateFlag.LOCK if lock else 0
        try:
            taken = self._elements.lookup_and_delete(encoded, flags=flags, named=key)
        except NotSupportedError:
            if traits_of(self.type).is_hash:
                raise
            text = "the kernel reads and deletes in one step only in hashes; lookup, then delete"
            raise TypeError(f"{self._described()}: {text}") from None
        except InvalidArgumentError:
            self._check_lock(lock=lock)
            raise
        return self._value.decode(taken)

    def update_one(self, key: Any, value: Any, choices: Choices) -> None:
        """Write one entry (BPF_MAP_UPDATE_ELEM); what may go wrong is told at `Map.update`."""
        encoded = self._key.encode(key)
        if choices.cpu is not None:
            self._write_one_cpu(encoded, value, choices, named=key)
            return
        if choices.all_cpus:
            value = [value] * self._per_cpu().cpus
        if choices.partial:
            written = self._overlaid(encoded, value, lock=choices.lock, named=key)
        else:
            written = self._value.encode(value)
        self._write(encoded, written, choices, named=key)

    def total(self, key: Any) -> Any:
        """Return the values of all CPUs at *key* added up, member by member (`percpu.total`)."""
        value = self.lookup(key)
        return percpu.total(value) if self.is_per_cpu else value

    def maximum(self, key: Any) -> Any:
        """Return the greatest of the values of all CPUs at *key*, member by member."""
        value = self.lookup(key)
        return percpu.maximum(value) if self.is_per_cpu else value

    def _read(self, key: bytes, named: Any, *, lock: bool) -> bytes:
        flags = UpdateFlag.LOCK if lock else 0
        try:
            return self._elements.lookup(key, flags=flags, named=named)
        except InvalidArgumentError:
            self._check_lock(lock=lock)
            raise

    def _write(self, key: bytes, value: bytes, choices: Choices, *, named: Any) -> None:
        try:
            self._elements.update(key, value, choices.flags, named=named)
        except InvalidArgumentError as error:
            self._check_lock(lock=choices.lock)
            raise self._unfit(error, value, key=named) from None

    def _write_one_cpu(self, key: bytes, value: Any, choices: Choices, *, named: Any) -> None:
        cpu = choices.cpu or 0
        codec, elements = self._of_one_cpu(cpu), self._elements
        if choices.partial:
            old = entry_write.read(elements, key, cpu, codec.size, named=named)
            written = overlaid(codec, value, old)
        else:
            written = codec.encode(value)
        entry_write.write(elements, key, cpu, written, flags=choices.flags, named=named)

    def _overlaid(self, key: bytes, value: Any, *, lock: bool, named: Any) -> bytes:
        old = self._read(key, named, lock=lock)
        if not isinstance(self._value, PerCpuCodec):
            return overlaid(self._value, value, old)
        codec = self._value
        if not isinstance(value, list | tuple) or len(value) != codec.cpus:
            codec.encode(value)  # says what was expected
        parts = (old[at : at + codec.stride] for at in range(0, codec.size, codec.stride))
        both = zip(value, parts, strict=True)
        return b"".join(overlaid(codec.value, given, part) for given, part in both)

    def _unfit(self, error: SyscallError, value: bytes, *, key: Any) -> BpfError:
        """Return why a map of maps does not take *value*, a descriptor, by what it holds already.

        The kernel compares with a template that it does not show; all maps in it are like that.
        """
        if not traits_of(self.type).holds_maps:
            return error
        about = f"{self._described()}, key {key!r}"
        with contextlib.suppress(BpfError, StopIteration):
            held = int.from_bytes(next(iter(self.items_bytes()))[1], "little")
            given = map_info(int.from_bytes(value, "little"))
            with Descriptor(OPEN_BY_ID[ObjectKind.MAP](held)) as sample:
                differences = rules.inner_differences(map_info(sample.fileno()), given)
            if differences:
                return IncompatibleMapError(
                    f"{about}: map {given.name} (id {given.id}) is not what it holds",
                    differences=differences,
                )
        return error

    def _per_cpu(self) -> PerCpuCodec:
        if not isinstance(self._value, PerCpuCodec):
            raise TypeError(f"{self._described()} has no values of single CPUs")
        return self._value

    def _of_one_cpu(self, cpu: int) -> Any:
        codec = self._per_cpu()
        if not 0 <= cpu < codec.cpus:
            raise ValueError(f"there is no CPU {cpu}: {codec.cpus} are possible, from 0 on")
        return codec.value

    def _check_lock(self, *, lock: bool) -> None:
        """Say why a call with a lock was refused; one without was not refused for it."""
        if lock:
            raise TypeError(f"{self._described()} has no bpf_spin_lock in its values") from None


# The views of a map; their walks read in batches instead of key by key.


class Batched(Protocol):
    """What the views need of a map."""

    def lookup_batch(self) -> Iterator[list[tuple[Any, Any]]]:
        """Yield the entries in lists."""


class EntriesView(ItemsView[Any, Any]):
    """Keys and values, each pair read at the same time."""

    _mapping: Batched

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return itertools.chain.from_iterable(self._mapping.lookup_batch())


class EntryValuesView(ValuesView[Any]):
    """The values."""

    _mapping: Batched

    def __iter__(self) -> Iterator[Any]:
        for entries in self._mapping.lookup_batch():
            for _, value in entries:
                yield value

    def __contains__(self, value: object) -> bool:
        return any(value == one for one in self)


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
            for one, its_value in batch_write.pairs(key):
                self.update_one(one, its_value, choices)

    def map_at(self, key: Any, **reading: Any) -> Map:
        """Open the map that a map of maps holds at *key*; the caller closes it.

        The arguments are those of `from_id`. `IdNotFoundError` if it was replaced meanwhile.
        """
        if not traits_of(self.type).holds_maps:
            raise TypeError(f"{self._described()} holds no maps")
        return Map.from_id(self[key], **reading)

    def pop(self, key: Any, default: Any = ...) -> Any:
        """Remove *key* and return its value, or *default*; `KeyNotFoundError` without one.

        In hashes one call of the kernel, in other maps two.
        """
        try:
            return self.lookup_and_delete(key) if traits_of(self.type).is_hash else super().pop(key)
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
        if not (batch_write.is_number(self._key) and batch_write.is_number(self._value)):
            return False
        self._elements.are_numbers(Letters(self._key.letter, self._value.letter))
        return True
