"""Whether a map that exists is what a definition asks for, field by field, all differences at once.

What is rounded up when a map is created, and what the kernel adds to it, is no difference.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bpfpin.btf import compare
from bpfpin.btf.btf import TypeRef
from bpfpin.errors import Difference, PermissionDeniedError
from bpfpin.objects.info import MapInfo
from bpfpin.objects.map import Map
from bpfpin.objects.map_create import entries_asked
from bpfpin.spec import MapSpec
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapFlag, MapType

MAPS_OF_MAPS = frozenset({MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS})

_ACCESS = MapFlag.RDONLY | MapFlag.WRONLY  # belong to a descriptor, the kernel does not keep them
_ADDED_FLAGS = {
    MapType.DEVMAP: MapFlag.RDONLY_PROG,
    MapType.DEVMAP_HASH: MapFlag.RDONLY_PROG,
}
_LRU_MAPS = frozenset({MapType.LRU_HASH, MapType.LRU_PERCPU_HASH})
_ARRAYS = frozenset({MapType.ARRAY, MapType.PERCPU_ARRAY})


def differences(spec: MapSpec, there: Map) -> list[Difference]:
    """Return in which fields the map *there* is not what *spec* asks for; none: it fits.

    Compared are type, sizes, max_entries, flags, map_extra, the inner map, and the BTF layouts of
    key and value where both sides have one: names, offsets, sizes and signs of members.
    """
    types = Types(there.key_type, there.value_type)
    return compare_map(spec, there.info, types=types, inner=_inner_info(spec, there))


@dataclass(frozen=True, slots=True)
class Types:
    """The BTF types of a map's key and value, None where it has none."""

    key: TypeRef | None = None
    value: TypeRef | None = None


def compare_map(
    spec: MapSpec, info: MapInfo, *, types: Types | None = None, inner: MapInfo | None = None
) -> list[Difference]:
    """Like `differences`, of what the kernel reports of a map; asks the kernel nothing."""
    types = types or Types()
    found = list(_field_differences(spec, info))
    found += _layout_differences(spec.name, "key", types.key, spec.key)
    found += _layout_differences(spec.name, "value", types.value, spec.value)
    if spec.inner is None or inner is None:
        return found
    unlike = _field_differences(spec.inner.with_changes(name=spec.name), inner, prefix="inner ")
    # Arrays of different length may share an outer map when they say so (Linux v5.10).
    is_elastic = bool(spec.inner.map_flags & MapFlag.INNER_MAP) or spec.inner.type not in _ARRAYS
    return found + [one for one in unlike if not (is_elastic and one.field == "inner max_entries")]


def _as_reported(spec: MapSpec) -> MapSpec:
    """Return *spec* as the kernel reports the map that is made of it."""
    flags = (spec.map_flags & ~_ACCESS) | _ADDED_FLAGS.get(spec.type, 0)
    if spec.numa_node is not None:
        flags |= MapFlag.NUMA_NODE
    return spec.with_changes(map_flags=flags, max_entries=_entries_reported(spec))


def _entries_reported(spec: MapSpec) -> int:
    asked = entries_asked(spec)
    if spec.type not in _LRU_MAPS or not spec.map_flags & MapFlag.NO_COMMON_LRU:
        return asked
    cpus = possible_cpus()  # each of them has a list of its own, all of the same length
    return -(-asked // cpus) * cpus


def _type_text(value: int) -> str:
    return MapType(value).name.lower() if value in MapType.__members__.values() else str(value)


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


def _field_differences(spec: MapSpec, info: MapInfo, *, prefix: str = "") -> Iterator[Difference]:
    wanted = _as_reported(spec)
    for field, text in _FIELDS.items():
        old, new = int(getattr(info, field)), int(getattr(wanted, field))
        if old != new:
            yield Difference(spec.name, prefix + field, text(old), text(new))


def _layout_differences(
    name: str, what: str, old: TypeRef | None, new: TypeRef | None
) -> list[Difference]:
    found = compare.differences(old, new)
    return [Difference(name, f"{what}{_at(path)}", before, after) for path, before, after in found]


def _at(path: str) -> str:
    return f" {path}" if path else ""


def _inner_info(spec: MapSpec, there: Map) -> MapInfo | None:
    """Return what one of the maps in a map of maps is like, None if there is none to look at."""
    if spec.inner is None or there.info.type not in MAPS_OF_MAPS:
        return None
    # The kernel reports no template; opening by id needs CAP_SYS_ADMIN.
    with contextlib.suppress(PermissionDeniedError, KeyError):
        for inner_id in there.values():
            with Map.from_id(inner_id) as inner:
                return inner.info
    return None
