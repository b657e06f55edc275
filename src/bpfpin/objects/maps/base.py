"""What all classes of maps share: a descriptor, facts, and how contents are decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from bpfpin.btf.btf import TypeRef
from bpfpin.map_traits import stride_of, traits_of
from bpfpin.objects.kernel.btf import BtfHandle, type_of, value_type_of
from bpfpin.objects.kernel.info import MapInfo, fdinfo, map_info, type_name, type_with_article
from bpfpin.objects.kernel.object import KernelObject, ObjectKind, open_pin
from bpfpin.objects.maps import layouts
from bpfpin.objects.maps.elements import Elements
from bpfpin.records import dataclass
from bpfpin.syscall import bpf
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import MapType, ObjectFlag

if TYPE_CHECKING:
    from bpfpin.codecs.codec import Codec
    from bpfpin.codecs.format_table import FormatTable
    from bpfpin.codecs.formats import Format
    from bpfpin.spec import MapSpec

Formats = Mapping[str, "Format | str"]
# Of a map that is read again and again to see what changes. Two snapshots are kept as bytes: with
# entries of 100 bytes that is 200 MB.
ENTRIES_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """How the caller wants keys and values decoded; `BaseMap.from_pin` documents the fields."""

    key_format: Any = None
    value_format: Any = None
    raw: bool = False
    formats: FormatTable | None = None

    @property
    def may_misfit(self) -> bool:
        """Whether a format is given that may not fit the map."""
        has_format = self.key_format is not None or self.value_format is not None
        return has_format or bool(self.formats and self.formats.is_exact)


class BaseMap(KernelObject):
    """A map held by a descriptor; subclasses add what the kernel offers for their types of map.

    Keys and values are decoded by their BTF types, by a format that the caller gives, or else as
    bytes. `close` or `with` releases the descriptor.

    Args:
        descriptor: An open descriptor of the map; it belongs to the new object, also after errors.
        key_format: How keys are read instead of by BTF: a format of the struct module, a
            `ctypes.Structure`, or a `NamedTuple` of `Annotated[int, "Q"]`.
        value_format: The same for values.
        key_type: A BTF type of the keys, or its name in the BTF of the programs that use the map
            (`"struct flow"`; CAP_SYS_ADMIN). It takes precedence over what the kernel reports.
        value_type: The same for values.
        raw: Read enumerations as numbers and char arrays as bytes.
        formats: Which parts are shown differently: a `Format` or its name by member (`saddr`), path
            (`value.src.ip`), type (`__be32`), or for the whole `key` or `value`.

    Raises:
        TypeError: The class does not open maps of this type.
        ValueError: A format does not fit, or names a member that does not exist.
        UsageError: No program that uses the map knows a type of that name.
    """

    kind = ObjectKind.MAP
    map_types: ClassVar[frozenset[MapType]] = frozenset()
    """The types of map that the class opens; empty for all types."""

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
            # Read once: the fields in use never change in the life of a map.
            self._fixed = info = map_info(self.fd)
            self._check_type()
            size = info.value_size
            # The kernel copies the values of all possible CPUs, each padded to eight bytes
            # (bpf_map_value_size in kernel/bpf/syscall.c).
            self._copied = stride_of(size) * possible_cpus() if self.is_per_cpu else size
            self._elements = Elements(
                self.fd,
                info.key_size,
                self._copied,
                about=self._described(),
                map_type=info.type,
                max_entries=info.max_entries,
            )
            self._options = DecodeOptions(key_format, value_format, raw)
            self._set_types(
                _type_named(key_type, info, info.key_size)
                or type_of(info.btf_id, info.btf_key_type_id),
                _type_named(value_type, info, info.value_size) or value_type_of(info),
                formats,
            )
            self._prepare()
        except BaseException:
            descriptor.close()
            raise

    def _prepare(self) -> None:
        """Set up what the methods of a subclass need."""

    @classmethod
    def create(
        cls, spec: MapSpec, *, inner: BaseMap | None = None, btf: BtfHandle | None = None
    ) -> Self:
        """Create a new map.

        Args:
            spec: The definition of the map. If the kernel takes no BTF types for such a map, this
                handle knows those of the spec all the same.
            inner: For a map of maps the template of its values; by default made from `spec.inner`.
            btf: The object's types in the kernel; by default those of key and value are loaded.

        Returns:
            A handle of the new map, which the kernel frees once nothing references it.

        Raises:
            SyscallError: The definition breaks rules of its type; the message lists them.
            PermissionDeniedError: A capability is missing.
            UsageError: A number of the spec has too many bits for the kernel.

        Kernel: BPF_MAP_CREATE (CAP_BPF; some types CAP_NET_ADMIN too), BPF_BTF_LOAD.
        """
        from bpfpin.objects.maps.create import create  # noqa: PLC0415  (most maps exist already)

        template = inner.fd if inner is not None else None
        descriptor = create(spec, inner_fd=template, btf=btf)
        return cls(descriptor, key_type=spec.key, value_type=spec.value)

    @classmethod
    def from_pin(
        cls,
        path: str | Path,
        *,
        read_only: bool = False,
        key_format: Any = None,
        value_format: Any = None,
        key_type: TypeRef | str | None = None,
        value_type: TypeRef | str | None = None,
        raw: bool = False,
        formats: Formats | None = None,
    ) -> Self:
        """Open the map that is pinned at *path*.

        Callers without CAP_SYS_ADMIN cannot query BTF by id; for them the map is decoded by the
        types that `deploy` stored beside the pin. Enumerators that were added since the map was
        made are taken from there, too.

        Args:
            path: The pin in bpffs.
            read_only: Open it for reading: read permission on the pin is enough, and writing is
                refused.
            key_format: How keys are read instead of by BTF: a format of the struct module, a
                `ctypes.Structure`, or a `NamedTuple` of `Annotated[int, "Q"]`.
            value_format: The same for values.
            key_type: A BTF type of the keys, or its name in the BTF of the programs that use the
                map (`"struct flow"`; CAP_SYS_ADMIN). It takes precedence over what the kernel
                reports.
            value_type: The same for values.
            raw: Read enumerations as numbers and char arrays as bytes.
            formats: Which parts are shown differently: a `Format` or its name by member (`saddr`),
                path (`value.src.ip`), type (`__be32`), or for the whole `key` or `value`.
                `formats.AUTO` has rules by type and name; `{**AUTO, "flags": "hex"}` adds one.

        Returns:
            A handle with a descriptor of its own.

        Raises:
            PinNotFoundError: The pin does not exist.
            PinKindError: Another kind of object is pinned there.
            NotBpffsError: The path is not in a bpffs.
            UnsafePathError: A directory of the path is a symbolic link.
            PermissionDeniedError: The mode of the pin or of a directory does not allow it.
            TypeError: The class does not open maps of this type.
            ValueError: A format does not fit, or names a member that does not exist.
            UsageError: No program that uses the map knows a type of that name.

        Kernel: BPF_OBJ_GET (BPF_F_RDONLY: Linux 4.15).
        """
        # Without *formats*: they may name members that only the types beside the pin have.
        bpf_map = cls(
            open_pin(path, cls.kind, read_only=read_only),
            key_format=key_format,
            value_format=value_format,
            key_type=key_type,
            value_type=value_type,
            raw=raw,
        )
        types = bpf_map.key_type, bpf_map.value_type
        is_by_kernel = all(
            choice is None for choice in (key_format, value_format, key_type, value_type)
        )
        try:
            # A type or format that the caller gives is never overruled by what is stored.
            if is_by_kernel:
                types = layouts.newest(Path(path), bpf_map._fixed, types)
            bpf_map._set_types(*types, formats)
        except BaseException:
            bpf_map.close()
            raise
        return bpf_map

    @classmethod
    def from_id(
        cls,
        object_id: int,
        *,
        read_only: bool = False,
        key_format: Any = None,
        value_format: Any = None,
        key_type: TypeRef | str | None = None,
        value_type: TypeRef | str | None = None,
        raw: bool = False,
        formats: Formats | None = None,
    ) -> Self:
        """Open a map by its id.

        Args:
            object_id: The id of the map, as `bpfpin map list` shows it.
            read_only: Open it for reading only.
            key_format: As in `from_pin`.
            value_format: As in `from_pin`.
            key_type: As in `from_pin`.
            value_type: As in `from_pin`.
            raw: As in `from_pin`.
            formats: As in `from_pin`.

        Returns:
            A handle with a descriptor of its own.

        Raises:
            IdNotFoundError: The map does not exist.
            PermissionDeniedError: CAP_SYS_ADMIN is missing.
            TypeError: The class does not open maps of this type.
            ValueError: A format does not fit, or names a member that does not exist.
            UsageError: No program that uses the map knows a type of that name.

        Kernel: BPF_MAP_GET_FD_BY_ID (Linux 4.13).
        """
        flags = ObjectFlag.RDONLY if read_only else ObjectFlag(0)
        return cls(
            Descriptor(bpf.map_get_fd_by_id(object_id, flags=flags)),
            key_format=key_format,
            value_format=value_format,
            key_type=key_type,
            value_type=value_type,
            raw=raw,
            formats=formats,
        )

    @classmethod
    def of(cls, other: BaseMap) -> Self:
        """Open the map of another handle again, as an object of this class.

        For example `Queue.of(loaded.maps["jobs"])`.

        Args:
            other: A handle of the map; it stays open. Contents are decoded as by this handle.

        Returns:
            A handle with a descriptor of its own.

        Raises:
            TypeError: The class does not open maps of this type.
        """
        return cls._like(other, other)

    def read_as(self, other: BaseMap) -> Self:
        """Open the map again with the types and formats of another handle.

        Args:
            other: The handle whose types and formats are used.

        Returns:
            A handle of this map with a descriptor of its own.
        """
        return self._like(self, other)

    @classmethod
    def _like(cls, bpf_map: BaseMap, other: BaseMap) -> Self:
        options = other._options
        return cls(
            # dup(2) keeps the access mode of the descriptor; opening by id would need
            # CAP_SYS_ADMIN.
            bpf_map._descriptor.duplicate(),
            key_format=options.key_format,
            value_format=options.value_format,
            key_type=other.key_type,
            value_type=other.value_type,
            raw=options.raw,
            formats=other._formats,
        )

    def read_as_pinned(self, path: Path) -> None:
        """Decode from now on as a handle from the pin *path*, which is a pin of this map, does."""
        if self._options.key_format is None and self._options.value_format is None:
            types = layouts.newest(path, self._fixed, (self.key_type, self.value_type))
            self._set_types(*types, self._formats)

    def read_as_in(self, other: BaseMap) -> None:
        """Decode from now on by the types of *other*, a handle of the same map."""
        self._set_types(other.key_type, other.value_type, self._formats)

    def _set_types(
        self, key_type: TypeRef | None, value_type: TypeRef | None, formats: Formats | None
    ) -> None:
        self.key_type, self.value_type = key_type, value_type
        self._formats, table = formats, _table(formats) if formats else None
        self._options = replace(self._options, formats=table)
        # cached_property keeps its value in __dict__: the codecs of the old types have to go.
        for cached in ("_key", "_value", "_are_numbers"):
            self.__dict__.pop(cached, None)
        if self._options.may_misfit:  # raise at once, not at the first entry
            _ = self._key, self._value
        if table:
            table.check_used()

    def close(self) -> None:
        """Close the descriptor; pins, programs and other handles keep the map.

        Closing a closed map does nothing.
        """
        # First: from here on calls of other threads fail with EBADF. The other way round they could
        # use the descriptor's number for another file that was opened meanwhile.
        self._elements.close()
        super().close()

    @property
    def info(self) -> MapInfo:
        """What the kernel reports about the map now (BPF_OBJ_GET_INFO_BY_FD)."""
        return map_info(self.fd)

    @property
    def id(self) -> int:
        """The kernel's number of the map, the same for all handles of it."""
        return self._fixed.id

    @property
    def name(self) -> str:
        """The name as the kernel keeps it, at most 15 characters."""
        return self._fixed.name

    @property
    def type(self) -> MapType | int:
        """The type of the map; a plain number if the kernel is newer than this version."""
        return self._fixed.type

    @property
    def key_size(self) -> int:
        """Bytes of a key; 0 for maps without keys, such as queues."""
        return self._fixed.key_size

    @property
    def value_size(self) -> int:
        """Bytes of a value, in a per-CPU map of one CPU's value."""
        return self._fixed.value_size

    @property
    def max_entries(self) -> int:
        """How many entries the map has room for; for a ring its size in bytes."""
        return self._fixed.max_entries

    @property
    def is_per_cpu(self) -> bool:
        """Whether each CPU has values of its own."""
        return traits_of(self._fixed.type).is_percpu

    @property
    def is_array(self) -> bool:
        """Whether all keys from 0 up always exist, so that none can be deleted."""
        return traits_of(self._fixed.type).is_array

    def is_frozen(self) -> bool:
        """Return whether user space can only read the map (`frozen` in /proc/self/fdinfo)."""
        # struct bpf_map_info has no such field; bpf_map_show_fdinfo() of kernel/bpf/syscall.c shows
        # it.
        return fdinfo(self.fd).get("frozen") == "1"

    def memory_bytes(self) -> int:
        """Return the kernel memory of the map in bytes, as the kernel estimates it.

        Kernel: `memlock` in /proc/self/fdinfo.
        """
        return int(fdinfo(self.fd).get("memlock", "0"))

    def freeze(self) -> None:
        """Make the map read-only for user space, for ever; programs can still write it.

        Raises:
            SyscallError: Somebody is writing to the map, or it is frozen already (EBUSY).
            PermissionDeniedError: The handle is read-only, or a capability is missing.

        Kernel: BPF_MAP_FREEZE (Linux 5.2).
        """
        # map_freeze() of kernel/bpf/syscall.c: EBUSY also while any process has the map mapped for
        # writing, as `Variables` and `MappedArray` do.
        bpf.map_freeze(self.fd, target=self._described())

    @property
    def key_codec(self) -> Codec:
        """How keys are encoded and decoded."""
        return self._key

    @property
    def value_codec(self) -> Codec:
        """How values are encoded and decoded, in a per-CPU map those of all CPUs together."""
        return self._value

    @cached_property
    def _key(self) -> Codec:
        from bpfpin.objects.maps.codec import key_codec  # noqa: PLC0415 - a load decodes nothing

        return key_codec(self._fixed, self.key_type, self._options)

    @cached_property
    def _value(self) -> Codec:
        from bpfpin.objects.maps.codec import value_codec  # noqa: PLC0415 - see `_key`

        return value_codec(self._fixed, self.value_type, self._options)

    def _check_type(self) -> None:
        if self.map_types and self.type not in self.map_types:
            wanted = " or ".join(sorted(map_type.name.lower() for map_type in self.map_types))
            raise TypeError(
                f"{self._described()} is {type_with_article(self.type)}, not a {wanted}"
            )

    def _described(self) -> str:
        return f"map {self.name or 'without a name'} (id {self.id})"

    def __repr__(self) -> str:
        state = " closed" if self._descriptor.is_closed else ""
        return f"<{type(self).__name__} {self.name!r} id {self.id} {type_name(self.type)}{state}>"


def _table(formats: Formats) -> FormatTable:
    from bpfpin.codecs.format_table import FormatTable  # noqa: PLC0415  (few need it)

    return FormatTable(formats)


def _type_named(type_: TypeRef | str | None, info: MapInfo, size: int) -> TypeRef | None:
    """Return the type, looked up in the programs that use the map if it is a name."""
    if not isinstance(type_, str):
        return type_
    from bpfpin.objects.kernel.btf import type_of_size  # noqa: PLC0415  (few need it)

    return type_of_size(type_, info, size)
