"""Which maps can become which: types, sizes and flags."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bpfpin.errors import Difference
from bpfpin.objects.map import Map
from bpfpin.pins.migration.moves import ARRAYS, HASHES, Shape
from bpfpin.spec import MapSpec
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapFlag, MapType

_FAMILIES: Final = (ARRAYS, HASHES)
_ELEMENT_OF_HASH: Final = 48  # bytes before the key: struct htab_elem of kernel/bpf/hashtab.c
_WORD: Final = 8


def of_spec(spec: MapSpec) -> Shape:
    """Return the shape of a map that is wanted."""
    return Shape(spec.type, spec.key_size, spec.value_size, spec.max_entries, spec.map_flags)


def of_map(held: Map) -> Shape | None:
    """Return the shape of a map that exists, None if its type is newer than this version."""
    if not isinstance(held.type, MapType):
        return None
    flags = held.info.map_flags
    return Shape(held.type, held.key_size, held.value_size, held.max_entries, flags)


def refusals(name: str, old: Shape, new: Shape) -> Iterator[Difference]:
    """Yield why a map cannot become the other, whatever is in it."""
    if not any({old.type, new.type} <= family for family in _FAMILIES):
        yield Difference(name, "type", type_text(old), f"{type_text(new)}, which cannot take it")
        return
    for shape, whose in ((old, "old"), (new, "new")):
        if shape.map_flags & MapFlag.RDONLY_PROG:
            yield Difference(
                name, "map_flags", "rdonly_prog", f"programs may not write the {whose} map"
            )
    if old.is_array and old.key_size != new.key_size:
        yield Difference(name, "key_size", str(old.key_size), str(new.key_size))


def text(shape: Shape) -> str:
    """Return the shape in words: `percpu_hash, 1024 entries`."""
    return f"{type_text(shape)}, {shape.max_entries} entries"


def type_text(shape: Shape) -> str:
    """Return the type as the kernel spells it."""
    return shape.type.name.lower()


def memory_bytes(shape: Shape, entries: int) -> int:
    """Return about how much memory a map takes with so many entries, without its buckets."""
    copies = possible_cpus() if shape.is_per_cpu else 1
    value = _rounded(shape.value_size) * copies
    if shape.is_array:
        return shape.max_entries * value
    is_filled = bool(shape.map_flags & MapFlag.NO_PREALLOC)
    element = _ELEMENT_OF_HASH + _rounded(shape.key_size) + value
    return (entries if is_filled else shape.max_entries) * element


def _rounded(size: int) -> int:
    return -(-size // _WORD) * _WORD
