"""All maps of the host: what the kernel says of them, where they are pinned and who uses them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bpfpin.apps.graph.objects import may_walk
from bpfpin.apps.graph.pins import all_pins
from bpfpin.apps.maps.row import MapRow
from bpfpin.apps.maps.selection import Selection
from bpfpin.apps.maps.users import Keepers, keepers, processes
from bpfpin.errors import BpfError, IdNotFoundError
from bpfpin.objects.info import MapInfo, fdinfo, map_info
from bpfpin.objects.kernel_object import ObjectKind
from bpfpin.objects.walk import map_ids
from bpfpin.syscall import bpf
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import ObjectFlag


@dataclass(frozen=True, slots=True)
class MapList:
    """All maps that can be seen, by id, and what hides the others."""

    maps: tuple[MapRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Facts:
    info: MapInfo
    memory_bytes: int
    is_frozen: bool


SORTS: Final[dict[str, Callable[[MapRow], Any]]] = {
    "id": lambda row: row.info.id,
    "name": lambda row: row.info.name,
    "type": lambda row: row.type_name,
    "memory": lambda row: row.memory_bytes,
    "entries": lambda row: row.info.max_entries,
}
"""What a list of maps can be sorted by."""


def list_maps(
    pin_root: Path,
    *,
    selection: Selection | None = None,
    sort: str = "id",
    is_descending: bool = False,
    with_processes: bool = False,
) -> MapList:
    """Return the maps of the kernel with their pins and users; without CAP_SYS_ADMIN only pinned.

    *sort* is one of `SORTS`; what is equal by it stands by id. *with_processes* looks at every open
    file of the host, which takes a while where there are many.
    """
    pins = all_pins(pin_root, with_infos=False)
    notes = list(pins.notes)
    paths: dict[int, list[str]] = {}
    for pin in pins.pins:
        if pin.kind is ObjectKind.MAP:
            paths.setdefault(pin.id, []).append(pin.path)
    if may_walk():
        facts = {one.info.id: one for one in _all_facts()}
    else:
        facts = {one.info.id: one for one in _pinned_facts(paths)}
        notes.append("only pinned maps are listed; all others, and users, need CAP_SYS_ADMIN")
    found = keepers({id_: one.info for id_, one in facts.items()})
    rows = [_row(facts[id_], paths.get(id_, ()), found) for id_ in sorted(facts)]
    wanted = selection or Selection()
    rows = [row for row in rows if wanted.has(row)]
    rows.sort(key=SORTS[sort], reverse=is_descending)
    return MapList(tuple(with_holders(rows) if with_processes else rows), tuple(notes))


def with_holders(rows: Sequence[MapRow]) -> list[MapRow]:
    """Return the rows with the processes that have each map open."""
    found = processes(row.info.id for row in rows)
    return [replace(row, processes=tuple(found.get(row.info.id, ()))) for row in rows]


def _row(facts: _Facts, paths: Sequence[str], found: Keepers) -> MapRow:
    id_ = facts.info.id
    return MapRow(
        facts.info,
        tuple(paths),
        facts.memory_bytes,
        facts.is_frozen,
        programs=tuple(found.programs.get(id_, ())),
        outer_maps=tuple(found.outer_maps.get(id_, ())),
        links=tuple(found.links.get(id_, ())),
        is_orphan=found.is_complete and not paths and not found.is_kept(id_),
    )


def _all_facts() -> Iterator[_Facts]:
    for id_ in map_ids():
        with suppress(IdNotFoundError):  # gone meanwhile
            yield _facts(bpf.map_get_fd_by_id(id_, flags=ObjectFlag.RDONLY))


def _pinned_facts(paths: dict[int, list[str]]) -> Iterator[_Facts]:
    for first, *_ in paths.values():
        with suppress(BpfError):  # gone meanwhile
            yield _facts(bpf.obj_get(first, flags=ObjectFlag.RDONLY))


def _facts(fd: int) -> _Facts:
    with Descriptor(fd) as there:
        more = fdinfo(there.fileno())
        memory_bytes, is_frozen = int(more.get("memlock", "0")), more.get("frozen") == "1"
        return _Facts(map_info(there.fileno()), memory_bytes, is_frozen)
