"""A map whose keys and values have types: what all kinds of map have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from bpfpin.btf.btf import TypeRef
from bpfpin.codecs.codec import Codec
from bpfpin.codecs.format_table import FormatTable
from bpfpin.codecs.formats import Format
from bpfpin.objects import layouts
from bpfpin.objects.info import MapInfo
from bpfpin.objects.kernel_btf import BtfHandle, type_of, value_type_of
from bpfpin.objects.kernel_object import open_pin
from bpfpin.objects.map_codec import Reading, key_codec, value_codec
from bpfpin.objects.map_create import create
from bpfpin.objects.raw_map import RawMap
from bpfpin.spec import MapSpec
from bpfpin.syscall import bpf
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import MapType, ObjectFlag

Formats = Mapping[str, Format | str]
_TYPING = ("key_format", "value_format", "key_type", "value_type")


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
    from bpfpin.objects.events.types import type_of_size  # noqa: PLC0415  (few need it)

    return type_of_size(kind, info, size)
