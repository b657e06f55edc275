"""Maps in the kernel as Python mappings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bpfpin.btf.btf import TypeRef
from bpfpin.objects import batch, layouts, percpu
from bpfpin.objects.codec import Codec
from bpfpin.objects.kernel_btf import BtfHandle, type_of
from bpfpin.objects.kernel_object import open_pin
from bpfpin.objects.map_codec import key_codec, value_codec
from bpfpin.objects.map_create import create
from bpfpin.objects.map_views import EntriesView, EntryValuesView
from bpfpin.objects.raw_map import RawMap
from bpfpin.spec import MapSpec
from bpfpin.syscall import bpf
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import MapType, ObjectFlag, UpdateFlag

if TYPE_CHECKING:
    import numpy as np


class Map(RawMap, MutableMapping[Any, Any]):
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

    def __init__(
        self,
        descriptor: Descriptor,
        *,
        key_format: Any = None,
        value_format: Any = None,
        key_type: TypeRef | None = None,
        value_type: TypeRef | None = None,
    ) -> None:
        try:
            super().__init__(descriptor)
            info = self._fixed
            self._read_as(
                key_type or type_of(info.btf_id, info.btf_key_type_id),
                value_type or type_of(info.btf_id, info.btf_value_type_id),
                key_format=key_format,
                value_format=value_format,
            )
        except BaseException:
            descriptor.close()
            raise

    @classmethod
    def create(
        cls, spec: MapSpec, *, inner: Map | None = None, btf: BtfHandle | None = None
    ) -> Self:
        """Make a new map (BPF_MAP_CREATE; CAP_BPF, some types CAP_NET_ADMIN too).

        *inner* is the template of a map of maps, else made from `spec.inner`. *btf* holds the
        object's types in the kernel; without it just those of key and value are loaded. A kernel
        that takes no types for such a map gets none, and this handle knows them all the same.
        """
        template = inner.fd if inner is not None else None
        made = create(spec, inner_fd=template, btf=btf)
        return cls(made, key_type=spec.key, value_type=spec.value)

    @classmethod
    def from_pin(cls, path: str | Path, *, read_only: bool = False, **reading: Any) -> Self:
        """Open the map pinned at *path* (BPF_OBJ_GET); errors as in `kernel_object.open_pin`.

        `key_format` and `value_format` say how a map without BTF reads: a format of the struct
        module, a `ctypes.Structure`, or a `NamedTuple` of `Annotated[int, "Q"]`. `key_type` and
        `value_type` do so by BTF and win over what the kernel reports. With *read_only* read
        permission on the pin is enough, and writing is refused; who may not ask the kernel for the
        types (CAP_SYS_ADMIN) reads by those that `deploy` stored beside the pin.
        """
        opened = cls(open_pin(path, cls.kind, read_only=read_only), **reading)
        if opened.value_type is not None or any(told is not None for told in reading.values()):
            return opened
        key_type, value_type = layouts.beside(Path(path), opened._fixed)
        if value_type is not None:
            opened._read_as(key_type, value_type)
        return opened

    @classmethod
    def from_id(cls, object_id: int, *, read_only: bool = False, **reading: Any) -> Self:
        """Open map *object_id* (BPF_MAP_GET_FD_BY_ID; CAP_SYS_ADMIN); `IdNotFoundError`.

        The other arguments are those of `from_pin`.
        """
        flags = ObjectFlag.RDONLY if read_only else ObjectFlag(0)
        return cls(Descriptor(bpf.map_get_fd_by_id(object_id, flags=flags)), **reading)

    def _read_as(
        self,
        key_type: TypeRef | None,
        value_type: TypeRef | None,
        *,
        key_format: Any = None,
        value_format: Any = None,
    ) -> None:
        self.key_type, self.value_type = key_type, value_type
        self._formats = key_format, value_format
        if key_format is not None or value_format is not None:
            _ = self._key, self._value  # a form that does not fit is told at once

    @cached_property
    def _key(self) -> Codec:
        return key_codec(self._fixed, self.key_type, self._formats[0])

    @cached_property
    def _value(self) -> Codec:
        return value_codec(self._fixed, self.value_type, self._formats[1])

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

    def __iter__(self) -> Iterator[Any]:
        for part in self._walk():
            yield from self._key.decode_many(part.keys, self._key.size)

    def __len__(self) -> int:
        """Count the entries by walking them; an array always has all of its entries."""
        return self.max_entries if self.is_array else sum(part.count for part in self._walk())

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        state = " closed" if self._descriptor.is_closed else ""
        kind = self.type.name.lower() if isinstance(self.type, MapType) else self.type
        return f"<Map {self.name!r} id {self.id} {kind}{state}>"

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

    def total(self, key: Any) -> Any:
        """Return the values of all CPUs at *key* added up, member by member (`percpu.total`)."""
        value = self[key]
        return percpu.total(value) if self.is_per_cpu else value


def _columns(entries: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Return the keys and the values of *entries*, each in one sequence."""
    if isinstance(entries, Mapping):
        return list(entries.keys()), list(entries.values())
    pairs = list(entries)
    return [key for key, _ in pairs], [value for _, value in pairs]
