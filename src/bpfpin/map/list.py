"""Lists the maps of the host, with their pins and users, and filters them."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bpfpin.btf.names import kernel_name
from bpfpin.choices import similar, types_among
from bpfpin.errors import BpfError, IdNotFoundError, NotSupportedError, PermissionDeniedError
from bpfpin.host.objects import Keepers, keepers, may_walk
from bpfpin.host.pins import all_pins
from bpfpin.host.processes import PROC, open_objects
from bpfpin.host.users import MapUser, processes_by_map
from bpfpin.map_traits import traits_of
from bpfpin.objects.kernel import info
from bpfpin.objects.kernel.info import (
    MapInfo,
    ProgramInfo,
    fdinfo,
    map_ids,
    map_info,
    type_name,
)
from bpfpin.objects.kernel.object import ObjectKind
from bpfpin.objects.maps.fill import entry_counts, trie_entry_size
from bpfpin.objects.maps.map import Map
from bpfpin.records import dataclass
from bpfpin.syscall import bpf
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import MapType, ObjectFlag

# No program has a colon in its name (bpf_obj_name_cpy() in kernel/bpf/syscall.c).
PID: Final = "pid:"
_MAGIC: Final = frozenset("*?[")
_OPEN_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class MapRow:
    """A map with its pins (their paths) and users.

    *outer_maps* and *links* are the ids of the maps that hold it and of the links that refer to
    it. *is_orphan*: no program, outer map or link uses it, and no pin is in sight. *processes*
    have it open; None if they were not searched. *entries* is how many entries it has; None if the
    kernel does not count them and nobody did.
    """

    info: MapInfo
    pins: tuple[str, ...] = ()
    memory_bytes: int = 0
    is_frozen: bool = False
    programs: tuple[ProgramInfo, ...] = ()
    outer_maps: tuple[int, ...] = ()
    links: tuple[int, ...] = ()
    is_orphan: bool = False
    processes: tuple[MapUser, ...] | None = None
    entries: int | None = None

    @property
    def type_name(self) -> str:
        """The kernel's word for the type, in lower case; a number for an unknown type."""
        return type_name(self.info.type)


@dataclass(frozen=True, slots=True)
class MapFilter:
    """Which maps to list; a field that is empty or False does not restrict.

    *types* are words for types, *names* are patterns as for file names in a shell. An orphan has
    no pin in sight and is used by no program, outer map or link: only processes keep it alive.
    *ids* are those of the maps to choose from, None for all.
    """

    types: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()
    is_pinned: bool = False
    is_orphan: bool = False
    ids: frozenset[int] | None = None

    def matches(self, row: MapRow) -> bool:
        """Whether the map is to be listed."""
        return (
            (not self.types or row.type_name in self.types)
            and (not self.names or any(_fits(row.info.name, name) for name in self.names))
            and (not self.is_pinned or bool(row.pins))
            and (not self.is_orphan or row.is_orphan)
            and (self.ids is None or row.info.id in self.ids)
        )


def known_types(words: Iterable[str]) -> frozenset[str]:
    """Return *words* for types of maps as the kernel spells them; `UsageError` for other words.

    A type that this version does not know is named by its number.
    """
    return types_among(words, [kind.name.lower() for kind in MapType], what="map")


def maps_of_user(user: str) -> frozenset[int]:
    """Return the ids of the maps that *user* has: a program by name or id, or `pid:N`.

    `IdNotFoundError` if the program or process does not exist. Programs need CAP_SYS_ADMIN.
    """
    if user.startswith(PID):
        return frozenset(_maps_of_process(user))
    programs = list(info.programs())
    name = kernel_name(user)
    users = [
        program
        for program in programs
        # Programs may be nameless: an empty word must not name all of them.
        if user == str(program.id) or (name and program.name == name)
    ]
    if users:
        return frozenset(map_id for program in users for map_id in program.map_ids)
    near = similar(user, {program.name for program in programs})
    hint = f"near it: {', '.join(near)}" if near else f"a process is named {PID}N"
    raise IdNotFoundError(f"no program is called {user!r}, and none has that id", hint=hint)


def _maps_of_process(user: str) -> list[int]:
    number = user.removeprefix(PID)
    process = PROC / number
    # A number, since /proc has other names; ASCII, since `isdecimal` knows digits of all scripts.
    if not (number.isascii() and number.isdecimal() and process.is_dir()):
        raise IdNotFoundError(f"there is no process {number!r}")
    try:
        objects = open_objects(process)
    except PermissionError as error:
        # The links in /proc/PID/fd may be read only by a user that may trace the process (proc(5)).
        message = f"process {number} is another user's"
        raise PermissionDeniedError(message, errno=error.errno or 0) from None
    return [object_id for kind, object_id in objects if kind is ObjectKind.MAP]


def _fits(name: str, pattern: str) -> bool:
    is_name = not _MAGIC & set(pattern)
    return fnmatch.fnmatchcase(name, kernel_name(pattern) if is_name else pattern)


@dataclass(frozen=True, slots=True)
class MapList:
    """The listed maps, and notes on maps that could not be seen."""

    maps: tuple[MapRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Facts:
    info: MapInfo
    memory_bytes: int
    is_frozen: bool


# The keys that a list of maps can be sorted by.
SORTS: Final[dict[str, Callable[[MapRow], Any]]] = {
    "id": lambda row: row.info.id,
    "name": lambda row: row.info.name,
    "type": lambda row: row.type_name,
    "memory": lambda row: row.memory_bytes,
    "entries": lambda row: -1 if row.entries is None else row.entries,
    "max_entries": lambda row: row.info.max_entries,
}


def list_maps(
    pin_root: Path,
    *,
    selection: MapFilter | None = None,
    sort: str = "id",
    is_descending: bool = False,
    with_processes: bool = False,
    with_walks: bool = False,
) -> MapList:
    """Return the maps of the kernel with their pins and users.

    Without CAP_SYS_ADMIN, only pinned maps that this user may open. *sort* is one of `SORTS`; ties
    are in order of ids. With *with_processes*, reads every open descriptor of the host, which takes
    long where there are many. With *with_walks*, reads the maps whose entries the kernel does not
    count.
    """
    pins = all_pins(pin_root, with_infos=False)
    notes = list(pins.notes)
    paths = pins.map_paths()
    if may_walk():
        facts = {map_.info.id: map_ for map_ in _all_facts()}
    else:
        facts = {map_.info.id: map_ for map_ in _pinned_facts(paths)}
        notes.append("only pinned maps are listed; all others, and users, need CAP_SYS_ADMIN")
    kept_by = keepers({map_id: map_.info for map_id, map_ in facts.items()})
    rows = [_row(facts[map_id], paths.get(map_id, ()), kept_by) for map_id in sorted(facts)]
    wanted = selection or MapFilter()
    rows = with_entries([row for row in rows if wanted.matches(row)], with_walks=with_walks)
    # A stable sort, also in reverse: equal rows stay in the order of ids.
    rows.sort(key=SORTS[sort], reverse=is_descending)
    # Only for the rows that are left: reading the descriptors of all processes is the slow part.
    return MapList(tuple(with_holders(rows) if with_processes else rows), tuple(notes))


def with_holders(rows: Sequence[MapRow]) -> list[MapRow]:
    """Return the rows with the processes that have each map open."""
    by_map = processes_by_map(row.info.id for row in rows)
    return [replace(row, processes=tuple(by_map.get(row.info.id, ()))) for row in rows]


def with_entries(rows: Sequence[MapRow], *, with_walks: bool = False) -> list[MapRow]:
    """Return the rows with the number of entries of each map, as far as it is known.

    Arrays have all of theirs, and the kernel counts those of hashes and LPM tries
    (`objects/maps/fill.py`). With *with_walks* other maps are read, and so are those that the
    kernel does not count.
    """
    counts = _counted([row for row in rows if traits_of(row.info.type).counts_entries])
    counts |= {row.info.id: row.info.max_entries for row in rows if _is_always_full(row)}
    for row in rows:
        if traits_of(row.info.type).is_trie:
            size = trie_entry_size(row.info.key_size, row.info.value_size)
            counts |= {row.info.id: row.memory_bytes // size} if size else {}
    if with_walks:
        counts |= {row.info.id: _walked(row) for row in rows if row.info.id not in counts}
    return [replace(row, entries=counts.get(row.info.id)) for row in rows]


def _is_always_full(row: MapRow) -> bool:
    return traits_of(row.info.type).is_array


def _counted(rows: Sequence[MapRow]) -> dict[int, int | None]:
    counts: dict[int, int | None] = {}
    # In parts: a host may have more maps than a process may have descriptors.
    for first in range(0, len(rows), _OPEN_MAX):
        with ExitStack() as opened:
            fds = {}
            for row in rows[first : first + _OPEN_MAX]:
                with suppress(BpfError):  # freed meanwhile, or another user's
                    fds[row.info.id] = opened.enter_context(_opened(row)).fileno()
            try:
                counts |= dict(zip(fds, entry_counts(list(fds.values())), strict=True))
            except (NotSupportedError, PermissionDeniedError):
                return {}
    return counts


def _opened(row: MapRow) -> Descriptor:
    """Open a map by its id, or by a pin for users that may not."""
    try:
        return Descriptor(bpf.map_get_fd_by_id(row.info.id, flags=ObjectFlag.RDONLY))
    except PermissionDeniedError:
        if not row.pins:
            raise
        return Descriptor(bpf.obj_get(row.pins[0], flags=ObjectFlag.RDONLY))


def _walked(row: MapRow) -> int | None:
    # Some types have no entries, or none that can be walked (`MapTraits.refuses`).
    with (
        suppress(BpfError, TypeError),
        _opened(row) as opened,
        Map.from_fd(os.dup(opened.fileno())) as bpf_map,
    ):
        return len(bpf_map)
    return None


def _row(facts: _Facts, paths: Sequence[str], kept_by: Keepers) -> MapRow:
    map_id = facts.info.id
    return MapRow(
        facts.info,
        tuple(paths),
        facts.memory_bytes,
        facts.is_frozen,
        programs=tuple(kept_by.programs.get(map_id, ())),
        outer_maps=tuple(kept_by.outer_maps.get(map_id, ())),
        links=tuple(kept_by.links.get(map_id, ())),
        # What this user cannot see may use the map, so it is an orphan only if all is seen.
        is_orphan=kept_by.is_complete and not paths and not kept_by.is_kept(map_id),
    )


def _all_facts() -> Iterator[_Facts]:
    for map_id in map_ids():
        # By a descriptor: fdinfo needs one, and the map cannot be freed between the two questions.
        with suppress(IdNotFoundError):  # freed meanwhile
            yield _facts(bpf.map_get_fd_by_id(map_id, flags=ObjectFlag.RDONLY))


def _pinned_facts(paths: dict[int, list[str]]) -> Iterator[_Facts]:
    for first, *_ in paths.values():
        # For reading: the group of a pin may not have more (EACCES). Any of the paths will do.
        with suppress(BpfError):  # unpinned meanwhile
            yield _facts(bpf.obj_get(first, flags=ObjectFlag.RDONLY))


def _facts(fd: int) -> _Facts:
    with Descriptor(fd) as descriptor:
        # struct bpf_map_info has neither: bpf_map_show_fdinfo() in kernel/bpf/syscall.c.
        lines = fdinfo(descriptor.fileno())
        memory_bytes, is_frozen = int(lines.get("memlock", "0")), lines.get("frozen") == "1"
        return _Facts(map_info(descriptor.fileno()), memory_bytes, is_frozen)
