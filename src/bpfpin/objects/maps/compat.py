"""Compares a map that exists with a definition, field by field; all differences are reported.

Sizes that are rounded up when a map is created, and flags that the kernel adds, do not count.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from bpfpin.btf.btf import TypeRef
from bpfpin.errors import (
    BpfError,
    Difference,
    IdNotFoundError,
    IncompatibleMapError,
    PermissionDeniedError,
    SyscallError,
)
from bpfpin.hints import Argument, Fix
from bpfpin.map_traits import traits_of
from bpfpin.objects.kernel.info import MapInfo, fdinfo, named, type_name
from bpfpin.objects.maps.create import entries_asked
from bpfpin.objects.maps.map import Map
from bpfpin.records import dataclass
from bpfpin.spec import MapSpec
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapFlag, MapType, ProgramType

# Cleared by bpf_map_flags_retain_permanent() of kernel/bpf/syscall.c.
_ACCESS = MapFlag.RDONLY | MapFlag.WRONLY  # of a descriptor; the kernel does not report them


@dataclass(frozen=True, slots=True)
class Types:
    """The BTF types of a map's key and value, None where it has none."""

    key: TypeRef | None = None
    value: TypeRef | None = None


@dataclass(frozen=True, slots=True)
class Inner:
    """One of the maps that are in a map of maps."""

    info: MapInfo
    types: Types = Types()


def require_owner(maps: Iterable[Map], kind: ProgramType | int, *, program: str) -> None:
    """Raise `IncompatibleMapError` if one of *maps* is a program array of another program type.

    The first program that uses an array owns it, and the kernel refuses others with a bare EINVAL
    (bpf_prog_map_compatible in kernel/bpf/core.c); /proc/self/fdinfo tells the owner's type.
    """
    for array in maps:
        # The line is missing as long as no program owns the array (bpf_map_show_fdinfo() of
        # kernel/bpf/syscall.c).
        owner = fdinfo(array.fd).get("owner_prog_type")
        if owner is None or int(owner) == kind:
            continue
        raise IncompatibleMapError(
            f"program array {array.name} (id {array.id}) is owned by programs of another type than"
            f" {program}",
            differences=[
                Difference(
                    array.name, "owner_prog_type", _program_type(int(owner)), _program_type(kind)
                )
            ],
            hint=Fix.of(f"give {program} an array of its own: ", Argument("fresh", [array.name])),
        )


def _program_type(number: int) -> str:
    with contextlib.suppress(ValueError):
        return ProgramType(number).name.lower()
    return str(number)


def differences(spec: MapSpec, bpf_map: Map) -> list[Difference]:
    """Return the fields in which *bpf_map* differs from *spec*; an empty list if it fits.

    Compared are type, sizes, max_entries, flags, map_extra, the inner map, and the BTF layouts of
    key and value where both sides have one: names, offsets, sizes and signs of members. A layout
    that differs is reported as a whole (`value`), then member by member (`value rx_bytes`); a data
    section only by its variables.
    """
    return compare_map(spec, bpf_map.info, types=_types(bpf_map), inner=_inner(spec, bpf_map))


def compare_map(
    spec: MapSpec, info: MapInfo, *, types: Types | None = None, inner: Inner | None = None
) -> list[Difference]:
    """Like `differences`, for facts that were read before; makes no system call."""
    own = _map_differences(spec, info, types or Types())
    if spec.inner is None or inner is None:
        return own
    unlike = _map_differences(spec.inner.with_changes(name=spec.name), inner.info, inner.types)
    is_elastic = _may_differ_in_length(spec.inner)
    counted = [diff for diff in unlike if not (is_elastic and diff.field == "max_entries")]
    return own + [replace(diff, field=f"inner {diff.field}") for diff in counted]


def inner_differences(wanted: MapSpec, info: MapInfo) -> list[Difference]:
    """Return the fields in which a map differs from *wanted*, the inner map of a map of maps.

    As bpf_map_meta_equal and array_map_meta_equal in the kernel's kernel/bpf have it: type, sizes
    and flags, and `max_entries` of arrays without BPF_F_INNER_MAP. BTF types are not compared.
    """
    is_elastic = _may_differ_in_length(wanted)
    return [
        difference
        for difference in _field_differences(wanted, info)
        if not (is_elastic and difference.field == "max_entries")
    ]


def _may_differ_in_length(inner: MapSpec) -> bool:
    # Linux commit 4a8f87e60f6d ("bpf: Allow for map-in-map with dynamic inner array map entries")
    # (v5.10): arrays with this flag may differ in length.
    return bool(inner.map_flags & MapFlag.INNER_MAP) or not traits_of(inner.type).is_array


def unfit(error: SyscallError, wanted: MapSpec, inner: Map, *, about: str) -> BpfError:
    """Return the error that lists why *inner* does not fit into a map of maps.

    *error* is the kernel's; it is returned if no difference is found. *about* names the entry,
    *wanted* is the definition of the inner maps.
    """
    unlike = inner_differences(wanted.with_changes(name=inner.name), inner.info)
    if not unlike:
        return error
    return IncompatibleMapError(
        f"{about}: map {inner.name} (id {inner.id}) is not what it holds", differences=unlike
    )


def _map_differences(spec: MapSpec, info: MapInfo, types: Types) -> list[Difference]:
    return [
        *_field_differences(spec, info),
        *_layout_differences(spec.name, "key", types.key, spec.key),
        *_layout_differences(spec.name, "value", types.value, spec.value),
    ]


def _as_reported(spec: MapSpec, info: MapInfo) -> dict[str, int]:
    """Return the fields that the kernel reports differently for a map made from *spec*."""
    flags = (spec.map_flags & ~_ACCESS) | traits_of(spec.type).added_flags
    # The flag is not in the spec: `create` adds it, without which the kernel ignores the node.
    if spec.numa_node is not None:
        flags |= MapFlag.NUMA_NODE
    fields = {"map_flags": flags, "max_entries": _entries_reported(spec)}
    if traits_of(spec.type).is_arena and not spec.map_extra:
        fields["map_extra"] = info.map_extra  # the loader chose the address
    return fields


def _entries_reported(spec: MapSpec) -> int:
    asked = entries_asked(spec)
    if not traits_of(spec.type).is_lru or not spec.map_flags & MapFlag.NO_COMMON_LRU:
        return asked
    cpus = possible_cpus()  # one list for each, of equal length (htab_map_alloc)
    return -(-asked // cpus) * cpus


def _type_text(value: int) -> str:
    return type_name(named(MapType, value))


def _flags_text(value: int) -> str:
    names = [flag.name for flag in MapFlag if flag & value and flag.name]
    return f"{value:#x} ({'|'.join(names)})" if names else f"{value:#x}"


_FIELDS: dict[str, Callable[[int], str]] = {
    "type": _type_text,
    "key_size": str,
    "value_size": str,
    "max_entries": str,
    "map_flags": _flags_text,
    "map_extra": hex,
}


def _field_differences(spec: MapSpec, info: MapInfo) -> Iterator[Difference]:
    wanted = _as_reported(spec, info)
    for field, text in _FIELDS.items():
        old, new = int(getattr(info, field)), int(wanted.get(field, getattr(spec, field)))
        if old != new:
            yield Difference(spec.name, field, text(old), text(new))


def _layout_differences(
    name: str, what: str, old: TypeRef | None, new: TypeRef | None
) -> Iterator[Difference]:
    from bpfpin.btf import compare  # noqa: PLC0415  (only where layouts differ)

    members = compare.differences(old, new)
    # The whole type first: it is what a reader looks for, and the members say why it differs.
    whole = compare.whole(old, new) if members else None
    for path, before, after in dict.fromkeys([whole, *members] if whole else members):
        yield Difference(name, f"{what} {path}".rstrip(), before, after)


def _types(bpf_map: Map) -> Types:
    return Types(bpf_map.key_type, bpf_map.value_type)


def _inner(spec: MapSpec, bpf_map: Map) -> Inner | None:
    """Return one of the maps in a map of maps; None if it is empty or cannot be opened."""
    if spec.inner is None or not traits_of(bpf_map.info.type).holds_maps:
        return None
    # The kernel reports no template; opening by id needs CAP_SYS_ADMIN.
    with contextlib.suppress(PermissionDeniedError, KeyError):
        for inner_id in bpf_map.values():
            with contextlib.suppress(IdNotFoundError), Map.from_id(inner_id) as inner:
                return Inner(inner.info, _types(inner))
    return None
