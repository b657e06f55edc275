"""Describes one map in full: definition, types, users, and notes on its type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bpfpin.btf.btf import TypeRef
from bpfpin.btf.c_source import c_type
from bpfpin.errors import BpfError
from bpfpin.host.objects import Keepers, keepers
from bpfpin.host.users import MapUser, UserKind, users_of
from bpfpin.map.list import MapRow, with_entries
from bpfpin.map.open import INSTEAD, open_map
from bpfpin.map_traits import traits_of
from bpfpin.objects.kernel.info import MapInfo, fdinfo
from bpfpin.objects.maps.map import Map
from bpfpin.records import dataclass
from bpfpin.syscall.cpu import possible_cpus
from bpfpin.uapi import MapFlag, ProgramType


@dataclass(frozen=True, slots=True)
class MapDetails:
    """One map: its types as C (empty without BTF), flags by name.

    *users* are programs with the places where they are attached, pins and processes. *keepers*
    are the outer maps and links that keep it, in words. *cpus* is the number of values of an entry
    in a per-CPU map, else 0. *inner* is one of the maps in a map of maps. *notes* are further facts
    of the kernel, and an explanation of the type.
    """

    row: MapRow
    key_type: str
    value_type: str
    flags: tuple[str, ...]
    users: tuple[MapUser, ...] = ()
    keepers: tuple[str, ...] = ()
    cpus: int = 0
    inner: MapRow | None = None
    notes: tuple[str, ...] = ()


def show_map(target: str, *, pin_root: Path, with_walks: bool = False) -> MapDetails:
    """Return the details of the map that *target* names, and its users.

    With *with_walks* its entries are read if the kernel does not count them.
    """
    with open_map(target) as bpf_map:
        # Memory, `frozen` and the type of programs are in fdinfo alone (bpf_map_show_fdinfo() in
        # kernel/bpf/syscall.c).
        info, more = bpf_map.info, fdinfo(bpf_map.fd)
        users = users_of(info.id, pin_root=pin_root)
        kept_by, inner = keepers(), _inner(bpf_map)
        row = MapRow(
            info,
            tuple(user.name for user in users if user.kind is UserKind.PIN),
            memory_bytes=int(more.get("memlock", "0")),
            is_frozen=more.get("frozen") == "1",
            outer_maps=tuple(kept_by.outer_maps.get(info.id, ())),
            links=tuple(kept_by.links.get(info.id, ())),
        )
        return MapDetails(
            row=with_entries([row], with_walks=with_walks)[0],
            key_type=_c_type(bpf_map.key_type),
            value_type=_c_type(bpf_map.value_type),
            flags=flag_names(info.map_flags),
            users=users,
            keepers=tuple(kept_by.in_words(info.id)),
            cpus=possible_cpus() if bpf_map.is_per_cpu else 0,
            inner=MapRow(inner) if inner else None,
            notes=(*_notes(info, more), *_notes_of_inner(info, inner), *_hidden(kept_by)),
        )


def flag_names(flags: int) -> tuple[str, ...]:
    """Return the names of map flags; bits without a name as one number."""
    names = [flag.name for flag in MapFlag if flags & flag and flag.name]
    # Flags of newer kernels.
    unnamed = flags & ~sum(MapFlag)
    return (*names, hex(unnamed)) if unnamed else tuple(names)


def _inner(bpf_map: Map) -> MapInfo | None:
    """Return the info of one of the maps in a map of maps.

    The kernel does not report the definition that all inner maps must have (`inner_map_meta`).
    """
    if not traits_of(bpf_map.type).holds_maps:
        return None
    # A lookup from user space returns the id of an inner map (bpf_fd_array_map_lookup_elem() in
    # kernel/bpf/arraymap.c); to open it by its id needs CAP_SYS_ADMIN.
    with suppress(BpfError, StopIteration), Map.from_id(next(iter(bpf_map.values()))) as inner:
        return inner.info
    return None


def _notes(info: MapInfo, more: dict[str, str]) -> Iterator[str]:
    traits = traits_of(info.type)
    if traits.note:
        yield traits.note
    if instead := INSTEAD.get(traits.family):
        yield f"used with {instead}"
    if info.map_extra:
        yield f"map_extra is {info.map_extra:#x}"
    if info.ifindex:
        yield f"offloaded to the device of ifindex {info.ifindex}"
    # The first program decides which others a program array takes (bpf_prog_map_compatible() of
    # kernel/bpf/core.c).
    owner = more.get("owner_prog_type")
    if owner and owner.isdecimal():
        kind = int(owner)
        known = kind in ProgramType.__members__.values()
        yield f"takes programs of type {ProgramType(kind).name.lower() if known else kind}"


def _notes_of_inner(info: MapInfo, inner: MapInfo | None) -> Iterator[str]:
    if traits_of(info.type).holds_maps and inner is None:
        yield "it holds no map that this user may open, and only an inner map shows what it takes"


def _hidden(kept_by: Keepers) -> Iterator[str]:
    if not kept_by.is_complete:
        yield "programs, links and maps that use it are shown only with CAP_SYS_ADMIN"


def _c_type(ref: TypeRef | None) -> str:
    return c_type(ref) if ref else ""
