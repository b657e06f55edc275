"""A map whose keys and values have types: what all kinds of map have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from bpfpin.btf.btf import TypeRef
from bpfpin.codecs.codec import Codec
from bpfpin.codecs.format_table import FormatTable
from bpfpin.codecs.formats import Format
from bpfpin.map_traits import traits_of
from bpfpin.objects.kernel.btf import BtfHandle, type_of, value_type_of
from bpfpin.objects.kernel.info import MapInfo, fdinfo, map_info
from bpfpin.objects.kernel.object import KernelObject, ObjectKind, open_pin
from bpfpin.objects.maps import batch, batch_write, layouts
from bpfpin.objects.maps.codec import Reading, key_codec, stride_of, value_codec
from bpfpin.objects.maps.create import create
from bpfpin.objects.maps.elements import Elements
from bpfpin.spec import MapSpec
from bpfpin.syscall import bpf
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import MapType, ObjectFlag, UpdateFlag

Formats = Mapping[str, Format | str]
_TYPING = ("key_format", "value_format", "key_type", "value_type")


# A map whose keys and values are bytes: what is known of it, and its elements.


class RawMap(KernelObject):
    """A map held by descriptor, with undecoded keys and values.

    A per-CPU value holds those of all possible CPUs, each padded to eight bytes.
    """

    kind = ObjectKind.MAP
    map_types: ClassVar[frozenset[MapType]] = frozenset()  # what a class is for; none is for all

    def __init__(self, descriptor: Descriptor) -> None:
        super().__init__(descriptor)
        self._fixed = info = map_info(self.fd)
        self._check_type()
        one = info.value_size
        self._copied = stride_of(one) * possible_cpus() if traits_of(info.type).is_percpu else one
        self._elements = Elements(
            self.fd,
            info.key_size,
            self._copied,
            about=self._described(),
            kind=info.type,
            max_entries=info.max_entries,
        )
        self._batches = batch.Batches(self._elements, self.fd, info.type, info.max_entries)
        self._writer = batch_write.Writer(self._elements, self.fd, info.type)

    def close(self) -> None:
        """Let the map go; pins, programs and other handles keep it. Again does nothing."""
        self._elements.close()
        self._batches.close()
        self._writer.close()
        super().close()

    @property
    def info(self) -> MapInfo:
        """What the kernel reports now (BPF_OBJ_GET_INFO_BY_FD)."""
        return map_info(self.fd)

    @property
    def id(self) -> int:
        """The kernel's number for the map, the same for all handles of it."""
        return self._fixed.id

    @property
    def name(self) -> str:
        """The name as the kernel keeps it, 15 characters at most."""
        return self._fixed.name

    @property
    def type(self) -> MapType | int:
        """The kind of map; a bare number where the kernel is newer than this version."""
        return self._fixed.type

    @property
    def key_size(self) -> int:
        """Bytes of a key; 0 for queues and the like."""
        return self._fixed.key_size

    @property
    def value_size(self) -> int:
        """Bytes of a value, of one CPU."""
        return self._fixed.value_size

    @property
    def max_entries(self) -> int:
        """How many entries there is room for."""
        return self._fixed.max_entries

    @property
    def is_per_cpu(self) -> bool:
        """Whether each CPU has values of its own."""
        return traits_of(self._fixed.type).is_percpu

    @property
    def is_array(self) -> bool:
        """Whether all keys from 0 on are always there, so that nothing can be deleted."""
        return traits_of(self._fixed.type).is_array

    def is_frozen(self) -> bool:
        """Whether the map is read-only for user space (/proc/self/fdinfo)."""
        return fdinfo(self.fd).get("frozen") == "1"

    def memory_bytes(self) -> int:
        """Return the kernel memory that the map takes, as the kernel reckons it."""
        return int(fdinfo(self.fd).get("memlock", "0"))

    def freeze(self) -> None:
        """Let user space only read from now on, for ever (BPF_MAP_FREEZE)."""
        bpf.map_freeze(self.fd, target=self._described())

    def lookup_bytes(self, key: bytes) -> bytes:
        """Return the value at *key* (BPF_MAP_LOOKUP_ELEM); `KeyNotFoundError`."""
        return self._elements.lookup(key)

    def update_bytes(self, key: bytes, value: bytes, *, flag: UpdateFlag = UpdateFlag.ANY) -> None:
        """Write *value* at *key* (BPF_MAP_UPDATE_ELEM).

        `KeyExistsError`, `KeyNotFoundError` by *flag*; `MapFullError`, `ReadOnlyMapError`.
        """
        self._elements.update(key, value, flag)

    def delete_bytes(self, key: bytes) -> None:
        """Remove *key* (BPF_MAP_DELETE_ELEM); `KeyNotFoundError`, `TypeError` for an array."""
        self._check_deletable()
        self._elements.delete(key)

    def items_bytes(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield all keys and values, read in batches."""
        key_size, value_size = self.key_size, self._copied
        for part in self._walk():
            for index in range(part.count):
                key = bytes(part.keys[index * key_size : (index + 1) * key_size])
                yield key, bytes(part.values[index * value_size : (index + 1) * value_size])

    def batches_bytes(self) -> Iterator[batch.RawBatch]:
        """Yield all keys and values in batches; each is overwritten by the next (`batch.py`)."""
        return self._walk()

    def dump_bytes(self) -> tuple[bytes, bytes]:
        """Return all keys and all values, each back to back, read in batches."""
        if room := self._batches.at_once():
            whole = room.keys.tobytes(), room.values.tobytes()
            self._batches.put(room)
            return whole
        keys, values = self._whole()
        return bytes(keys), bytes(values)

    def _whole(self) -> tuple[bytearray, bytearray]:
        _ = self.fd  # as below
        return self._batches.whole()

    def _walk(self) -> Iterator[batch.RawBatch]:
        _ = self.fd  # a closed map says so here, not at the first step
        return self._batches.walk()

    def _named(self, key: bytes) -> object:
        """Return what errors call a key."""
        return key

    def _check_type(self) -> None:
        if self.map_types and self.type not in self.map_types:
            kind = self.type.name.lower() if isinstance(self.type, MapType) else self.type
            wanted = " or ".join(sorted(wanted.name.lower() for wanted in self.map_types))
            raise TypeError(f"{self._described()} is a {kind}, not a {wanted}")

    def _check_deletable(self) -> None:
        if self.is_array:
            raise TypeError(f"{self._described()} is an array: its keys cannot be deleted")

    def _described(self) -> str:
        return f"map {self.name or 'without a name'} (id {self.id})"


class TypedMap(RawMap):
    """A map held by descriptor, with the ways in and the codecs of its keys and values.

    Keys and values read as `codecs/codec.py` says, bytes where no type is known.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        *,
        key_format: Any = None,
        value_format: Any = None,
        key_type: TypeRef | str | None = None,
        value_type: TypeRef | str | None = None,
        raw: bool = False,
        formats: Formats | None = None,
    ) -> None:
        try:
            super().__init__(descriptor)
            info = self._fixed
            self._reading = Reading(key_format, value_format, raw)
            self._read_as(
                _named(key_type, info, info.key_size) or type_of(info.btf_id, info.btf_key_type_id),
                _named(value_type, info, info.value_size) or value_type_of(info),
                formats,
            )
        except BaseException:
            descriptor.close()
            raise

    @classmethod
    def create(
        cls, spec: MapSpec, *, inner: TypedMap | None = None, btf: BtfHandle | None = None
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
        `value_type` do so by BTF and win over what the kernel reports; a name (`"struct datarec"`)
        is looked up in the BTF of the programs that use the map (CAP_SYS_ADMIN; `UsageError`).

        With *read_only* read permission on the pin is enough, and writing is refused; who may not
        ask the kernel for the types (CAP_SYS_ADMIN) reads by those that `deploy` stored beside the
        pin. They are also those of an enumeration that got new names since the map was made.

        With `raw=True` enumerations read as numbers and char arrays as bytes. `formats` maps what
        reads differently to a `Format` or its word: by name of member (`saddr`), by path
        (`value.src.ip`), by name of type (`__be32`), or the whole (`key`, `value`); `formats.AUTO`
        is a table of rules by type and name, and `{**AUTO, "flags": "hex"}` one more of them. What
        does not fit, or names nothing that is there, is `ValueError` at once; rules just go by.
        """
        formats = reading.pop("formats", None)
        opened = cls(open_pin(path, cls.kind, read_only=read_only), **reading)
        types = opened.key_type, opened.value_type
        try:
            if not any(reading.get(one) is not None for one in _TYPING):
                types = layouts.newest(Path(path), opened._fixed, types)
            opened._read_as(*types, formats)
        except BaseException:
            opened.close()
            raise
        return opened

    @classmethod
    def from_id(cls, object_id: int, *, read_only: bool = False, **reading: Any) -> Self:
        """Open map *object_id* (BPF_MAP_GET_FD_BY_ID; CAP_SYS_ADMIN); `IdNotFoundError`.

        The other arguments are those of `from_pin`.
        """
        flags = ObjectFlag.RDONLY if read_only else ObjectFlag(0)
        return cls(Descriptor(bpf.map_get_fd_by_id(object_id, flags=flags)), **reading)

    @classmethod
    def of(cls, other: TypedMap) -> Self:
        """Return another handle of the same map, with a descriptor of its own.

        So a map becomes what its type is for: `RingBuffer.of(loaded.maps["events"])`. It reads in
        the same way.
        """
        return cls._like(other, other)

    def read_as(self, other: TypedMap) -> Self:
        """Return another handle of this map that reads keys and values in the way of *other*."""
        return self._like(self, other)

    @classmethod
    def _like(cls, map_: TypedMap, other: TypedMap) -> Self:
        reading = other._reading
        return cls(
            map_._descriptor.duplicate(),
            key_format=reading.key_format,
            value_format=reading.value_format,
            key_type=other.key_type,
            value_type=other.value_type,
            raw=reading.raw,
            formats=other._formats,
        )

    def read_as_pinned(self, path: Path) -> None:
        """Read from now on as a handle of the pin *path* does, which is of this map."""
        if self._reading.key_format is None and self._reading.value_format is None:
            types = layouts.newest(path, self._fixed, (self.key_type, self.value_type))
            self._read_as(*types, self._formats)

    def read_as_in(self, other: TypedMap) -> None:
        """Read keys and values from now on as *other*, a handle of the same map, does."""
        self._read_as(other.key_type, other.value_type, self._formats)

    def _read_as(
        self, key_type: TypeRef | None, value_type: TypeRef | None, formats: Formats | None
    ) -> None:
        self.key_type, self.value_type = key_type, value_type
        self._formats, table = formats, FormatTable(formats) if formats else None
        self._reading = replace(self._reading, formats=table)
        for made in ("_key", "_value", "_are_numbers"):
            self.__dict__.pop(made, None)
        if self._reading.may_misfit:  # which is told at once
            _ = self._key, self._value
        if table:
            table.check_used()

    @property
    def key_codec(self) -> Codec:
        """How the keys read and are written."""
        return self._key

    @property
    def value_codec(self) -> Codec:
        """How the values read and are written, of a per-CPU map those of all CPUs."""
        return self._value

    @cached_property
    def _key(self) -> Codec:
        return key_codec(self._fixed, self.key_type, self._reading)

    @cached_property
    def _value(self) -> Codec:
        return value_codec(self._fixed, self.value_type, self._reading)

    def __repr__(self) -> str:
        state = " closed" if self._descriptor.is_closed else ""
        kind = self.type.name.lower() if isinstance(self.type, MapType) else self.type
        return f"<{type(self).__name__} {self.name!r} id {self.id} {kind}{state}>"


def _named(kind: TypeRef | str | None, info: MapInfo, size: int) -> TypeRef | None:
    """Return the type that a name stands for in the programs that use the map."""
    if not isinstance(kind, str):
        return kind
    from bpfpin.objects.kernel.btf import type_of_size  # noqa: PLC0415  (few need it)

    return type_of_size(kind, info, size)
