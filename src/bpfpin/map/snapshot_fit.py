"""Checks that the entries of a snapshot fit into a map, before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Protocol

from bpfpin.btf import compare
from bpfpin.btf.btf import TypeRef
from bpfpin.codecs.prefix import without_other_bits
from bpfpin.errors import Difference, IncompatibleMapError, MapFullError
from bpfpin.hints import Argument, Fix
from bpfpin.map.snapshot_file import Block, SavedDefinition, SnapshotReader
from bpfpin.map_traits import traits_of
from bpfpin.migration.request import Migration
from bpfpin.objects.maps.map import Map
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapType

_REPLACING: Final = (", or replace the present entries: ", Argument("exact"))


class SnapshotEntries(Protocol):
    """Entries to write into a map: those of a snapshot, as they are or converted."""

    @property
    def path(self) -> Path:
        """The path of the file."""

    @property
    def definition(self) -> SavedDefinition:
        """The definition that the entries have."""

    def blocks(self) -> Iterator[Block]:
        """Yield keys and values, back to back, from the start each time."""


def are_interchangeable(old: MapType, new: MapType) -> bool:
    """Whether a map of type *new* takes entries of one of type *old* as they are.

    An LRU hash and another hash take each other's entries.
    """
    before, after = traits_of(old), traits_of(new)
    return (before.family, before.is_percpu) == (after.family, after.is_percpu)


def definition_of(bpf_map: Map) -> SavedDefinition:
    """Return the definition of *bpf_map* for a snapshot; `TypeError` if it cannot be saved."""
    info, kind = bpf_map.info, bpf_map.type
    # Values of other types stand for objects of this kernel, such as maps and sockets: after a
    # reboot their ids mean others.
    if not isinstance(kind, MapType) or not traits_of(kind).is_plain_data:
        name = kind.name.lower() if isinstance(kind, MapType) else kind
        raise TypeError(
            f"map {info.name!r} (id {info.id}) is of type {name}: only entries of arrays, hashes"
            " and LPM tries can be saved and restored"
        )
    return SavedDefinition(
        info.name,
        kind,
        info.key_size,
        info.value_size,
        info.max_entries,
        info.map_flags,
        info.map_extra,
        # Not the CPUs that are online: the kernel has a value for each possible one
        # (bpf_map_value_size() in kernel/bpf/syscall.c).
        possible_cpus() if bpf_map.is_per_cpu else 1,
    )


def require_fit(snapshot: SnapshotReader, bpf_map: Map, *, exact: bool) -> None:
    """Raise `IncompatibleMapError` with all differences between the saved map and *bpf_map*."""
    old, new = snapshot.definition, definition_of(bpf_map)
    name = new.name
    # Flags and the number of entries do not change how an entry looks. But a longer array keeps
    # elements that an exact restore would have to delete.
    fields = ["key_size", "value_size", "cpus"]
    fields += ["max_entries"] if exact and bpf_map.is_array else []
    differences = [
        Difference(name, field, str(getattr(old, field)), str(getattr(new, field)))
        for field in fields
        if getattr(old, field) != getattr(new, field)
    ]
    if not are_interchangeable(old.type, new.type):
        types = old.type.name.lower(), new.type.name.lower()
        # The type comes first: it explains the differences of sizes.
        differences.insert(0, Difference(name, "type", *types))
    key, value = snapshot.types
    differences += [*_type_differences(name, "key", key, bpf_map.key_type)]
    differences += [*_type_differences(name, "value", value, bpf_map.value_type)]
    if differences:
        raise IncompatibleMapError(
            f"the entries saved of map {old.name!r} do not fit map {name!r} (id {bpf_map.id})",
            path=str(snapshot.path),
            differences=differences,
            hint=_hint(differences),
        )


def _hint(differences: list[Difference]) -> Fix:
    migrate = Argument("migrate", Migration())
    if {difference.field for difference in differences} != {"cpus"}:
        return Fix.of(migrate, " carries over members of the same name")
    return Fix.of(
        "per-CPU values belong to their CPUs: restore them on a host with as many, or use ",
        migrate,
        ", which gives the values of missing CPUs to the first one",
    )


def _type_differences(
    name: str, what: str, old: TypeRef | None, new: TypeRef | None
) -> Iterator[Difference]:
    rows = compare.differences(old, new)
    whole = compare.whole(old, new) if rows else None
    for path, before, after in dict.fromkeys([whole, *rows] if whole else rows):
        yield Difference(name, f"{what} {path}".rstrip(), before, after)


def require_room(snapshot: SnapshotEntries, bpf_map: Map, *, exact: bool) -> None:
    """Read the file to its end; `MapFullError` if *bpf_map* has no room for all entries.

    An LRU map makes room by itself, as long as the entries of the file alone fit.
    """
    key_size, room = bpf_map.key_size, bpf_map.max_entries
    saved = sum(len(keys) // key_size for keys, _ in snapshot.blocks())
    is_merged = not (exact or bpf_map.is_array or traits_of(bpf_map.type).is_lru)
    needed = saved
    # Keys are compared only if the sum could be too large: it takes a set of all keys in memory.
    if is_merged and saved <= room < saved + len(bpf_map):
        together = set(_keys_of(bpf_map))
        together.update(_keys_in(snapshot))
        needed = len(together)
    if needed > room:
        raise MapFullError(
            f"{snapshot.path}: with its entries map {bpf_map.name!r} (id {bpf_map.id}) would have"
            f" {needed}, and there is room for {room}; nothing was written",
            target=f"map {bpf_map.name}",
            hint=Fix.of(
                "restore it into a larger map (max_entries)",
                *(_REPLACING if saved <= room else ()),
            ),
        )


def surplus_keys(snapshot: SnapshotEntries, bpf_map: Map) -> set[bytes]:
    """Return the keys of *bpf_map* that the file does not have."""
    # All keys of the map are kept in memory: the file may have them in another order.
    surplus = set(_keys_of(bpf_map))
    surplus.difference_update(_keys_in(snapshot))
    return surplus


def _keys_of(bpf_map: Map) -> Iterator[bytes]:
    blocks = (part.keys for part in bpf_map.batches_bytes())
    return _cut(blocks, bpf_map.key_size, is_trie=traits_of(bpf_map.type).is_trie)


def _keys_in(snapshot: SnapshotEntries) -> Iterator[bytes]:
    blocks, definition = (keys for keys, _ in snapshot.blocks()), snapshot.definition
    return _cut(blocks, definition.key_size, is_trie=traits_of(definition.type).is_trie)


def _cut(blocks: Iterable[memoryview], size: int, *, is_trie: bool) -> Iterator[bytes]:
    """Yield each key; of a trie in the one form that all spellings of a prefix have."""
    for block in blocks:
        keys = (bytes(block[at : at + size]) for at in range(0, len(block), size))
        yield from map(without_other_bits, keys) if is_trie else keys
