"""Whether the entries of a snapshot can go into a map: asked before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from bpfpin.btf import compare
from bpfpin.btf.btf import TypeRef
from bpfpin.errors import Difference, IncompatibleMapError, MapFullError
from bpfpin.map.snapshot_file import Block, Definition, SnapshotReader
from bpfpin.map_traits import traits_of
from bpfpin.objects.maps.map import Map
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapType


class Entries(Protocol):
    """Entries that are to go into a map: a snapshot's, as they are or for another definition."""

    @property
    def path(self) -> Path:
        """The file they are from."""

    @property
    def definition(self) -> Definition:
        """What they are like."""

    def blocks(self) -> Iterator[Block]:
        """Yield keys and values, back to back; from the start again each time."""


def are_interchangeable(old: MapType, new: MapType) -> bool:
    """Whether a map of type *new* takes entries of one of type *old* as they are.

    An LRU hash and another hash take each other's entries.
    """
    before, after = traits_of(old), traits_of(new)
    return (before.family, before.is_percpu) == (after.family, after.is_percpu)


def definition_of(held: Map) -> Definition:
    """Return what a snapshot says of *held*; `TypeError` if its entries cannot be saved."""
    info, kind = held.info, held.type
    if not isinstance(kind, MapType) or not traits_of(kind).is_plain_data:
        name = kind.name.lower() if isinstance(kind, MapType) else kind
        raise TypeError(
            f"map {info.name!r} (id {info.id}) is of type {name}: only entries of arrays, hashes"
            " and LPM tries can be saved and restored"
        )
    return Definition(
        info.name,
        kind,
        info.key_size,
        info.value_size,
        info.max_entries,
        info.map_flags,
        info.map_extra,
        possible_cpus() if held.is_per_cpu else 1,
    )


def require_fit(snapshot: SnapshotReader, held: Map, *, exact: bool) -> None:
    """Raise `IncompatibleMapError` with all that differs between the map saved and *held*."""
    old, new = snapshot.definition, definition_of(held)
    name = new.name
    fields = ["key_size", "value_size", "cpus"]
    fields += ["max_entries"] if exact and held.is_array else []
    found = [
        Difference(name, field, str(getattr(old, field)), str(getattr(new, field)))
        for field in fields
        if getattr(old, field) != getattr(new, field)
    ]
    if not are_interchangeable(old.type, new.type):
        found.insert(0, Difference(name, "type", old.type.name.lower(), new.type.name.lower()))
    key, value = snapshot.types
    found += [*_unlike(name, "key", key, held.key_type)]
    found += [*_unlike(name, "value", value, held.value_type)]
    if found:
        raise IncompatibleMapError(
            f"the entries saved of map {old.name!r} do not fit map {name!r} (id {held.id})",
            path=str(snapshot.path),
            differences=found,
            hint=_hint(found),
        )


def _hint(found: list[Difference]) -> str:
    if {one.field for one in found} != {"cpus"}:
        return "--migrate takes over what has the same name"
    return (
        "per-CPU values belong to their CPUs: restore them where there are as many; or"
        " --migrate, which gives those of other CPUs to the first one"
    )


def _unlike(name: str, what: str, old: TypeRef | None, new: TypeRef | None) -> Iterator[Difference]:
    found = compare.differences(old, new)
    whole = compare.whole(old, new) if found else None
    for path, before, after in dict.fromkeys([whole, *found] if whole else found):
        yield Difference(name, f"{what} {path}".rstrip(), before, after)


def require_room(snapshot: Entries, held: Map, *, exact: bool) -> None:
    """Read the file to its end, and raise `MapFullError` unless all of it goes into *held*.

    A map that forgets makes room by itself, as long as it has room for the file at all.
    """
    key_size, room = held.key_size, held.max_entries
    saved = sum(len(keys) // key_size for keys, _ in snapshot.blocks())
    is_merged = not (exact or held.is_array or traits_of(held.type).is_lru)
    needed = saved
    if is_merged and saved <= room < saved + len(held):
        together = set(_keys_of(held))
        together.update(_keys_in(snapshot))
        needed = len(together)
    if needed > room:
        raise MapFullError(
            f"{snapshot.path}: with its entries map {held.name!r} (id {held.id}) would have"
            f" {needed}, and there is room for {room}; nothing was written",
            target=f"map {held.name}",
            hint="restore it into a larger map (max_entries)"
            + (", or let it replace what is there: --exact" if saved <= room else ""),
        )


def surplus_keys(snapshot: Entries, held: Map) -> set[bytes]:
    """Return the keys of *held* that the file does not have."""
    there = set(_keys_of(held))
    there.difference_update(_keys_in(snapshot))
    return there


def _keys_of(held: Map) -> Iterator[bytes]:
    return _cut((part.keys for part in held.batches_bytes()), held.key_size)


def _keys_in(snapshot: Entries) -> Iterator[bytes]:
    return _cut((keys for keys, _ in snapshot.blocks()), snapshot.definition.key_size)


def _cut(blocks: Iterable[memoryview], size: int) -> Iterator[bytes]:
    for keys in blocks:
        yield from (bytes(keys[at : at + size]) for at in range(0, len(keys), size))
