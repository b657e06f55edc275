"""One map in full."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bpfpin.apps.maps.listing import MapRow
from bpfpin.apps.maps.naming import open_map
from bpfpin.apps.pinned import pinned_maps
from bpfpin.btf.btf import TypeRef
from bpfpin.btf.c_source import c_type
from bpfpin.uapi import MapFlag


@dataclass(frozen=True, slots=True)
class MapDetails:
    """One map: its types as C (empty without BTF), memory in bytes, flags by name."""

    row: MapRow
    key_type: str
    value_type: str
    flags: tuple[str, ...]
    memory_bytes: int
    is_frozen: bool


def show_map(target: str, *, pin_root: Path) -> MapDetails:
    """Return what the kernel says of the map that *target* names."""
    with open_map(target) as held:
        info = held.info
        pins = pinned_maps(pin_root).paths.get(info.id, ())
        return MapDetails(
            row=MapRow(info, tuple(pins)),
            key_type=_c_type(held.key_type),
            value_type=_c_type(held.value_type),
            flags=flag_names(info.map_flags),
            memory_bytes=held.memory_bytes(),
            is_frozen=held.is_frozen(),
        )


def flag_names(flags: int) -> tuple[str, ...]:
    """Return the names of map flags; bits without a name together as a number."""
    names = [flag.name for flag in MapFlag if flags & flag and flag.name]
    unnamed = flags & ~sum(MapFlag)
    return (*names, hex(unnamed)) if unnamed else tuple(names)


def _c_type(ref: TypeRef | None) -> str:
    return c_type(ref) if ref else ""
