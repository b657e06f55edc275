"""All maps of the host: what the kernel says of them, where they are pinned and who uses them."""

from __future__ import annotations

import difflib
import fnmatch
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bpfpin.errors import BpfError, IdNotFoundError, PermissionDeniedError, UsageError
from bpfpin.host.objects import Keepers, keepers, may_walk, processes
from bpfpin.host.pins import all_pins
from bpfpin.host.users import PROC, MapUser
from bpfpin.objects.kernel import info
from bpfpin.objects.kernel.info import (
    KERNEL_NAME_LENGTH,
    MapInfo,
    ProgramInfo,
    fdinfo,
    map_ids,
    map_info,
    type_name,
)
from bpfpin.objects.kernel.object import ObjectKind
from bpfpin.syscall import bpf
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import MapType, ObjectFlag

PID: Final = "pid:"
_MAGIC: Final = frozenset("*?[")


# What a list of maps has of each.


@dataclass(frozen=True, slots=True)
class MapRow:
    """A map and the paths where it is pinned.

    *programs* use it, *outer_maps* hold it, *links* are at it (by id); *is_orphan*: none of these
    keeps it, nor a pin that we see. *processes* have it open, None if nobody looked.
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

    @property
    def type_name(self) -> str:
        """The kernel's word for its type, in lower case; a number that we do not know."""
        return type_name(self.info.type)


# Which of all maps somebody means: by type, name, pin and user.


@dataclass(frozen=True, slots=True)
class Selection:
    """What a map must be; what is empty or False asks nothing.

    One of *types*, a name that fits one of *names* (as a shell's file names do), pinned or an
    orphan: not pinned where we see it, and used by no program, map or link, so that processes alone
    keep it. *ids* are those of the maps that it may be at all, None for any.
    """

    types: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()
    is_pinned: bool = False
    is_orphan: bool = False
    ids: frozenset[int] | None = None

    def has(self, row: MapRow) -> bool:
        """Whether the map is one of those."""
        return (
            (not self.types or row.type_name in self.types)
            and (not self.names or any(_fits(row.info.name, name) for name in self.names))
            and (not self.is_pinned or bool(row.pins))
            and (not self.is_orphan or row.is_orphan)
            and (self.ids is None or row.info.id in self.ids)
        )


def known_types(words: Iterable[str]) -> frozenset[str]:
    """Return the words for types of maps as the kernel spells them; `UsageError` for others.

    A type that this version does not know goes by its number.
    """
    there = [kind.name.lower() for kind in MapType]
    found = {word.lower() for word in words}
    for word in sorted(found):
        if word not in there and not word.isdecimal():
            near = difflib.get_close_matches(word, there)
            hint = f"near it: {', '.join(near)}" if near else f"there are: {', '.join(there)}"
            raise UsageError(f"{word!r} is no type of map", hint=hint)
    return frozenset(found)


def maps_of_user(user: str) -> frozenset[int]:
    """Return the ids of the maps that *user* has: a program's name or id, or `pid:N`.

    `IdNotFoundError` if there is no such program or process; CAP_SYS_ADMIN for programs.
    """
    if user.startswith(PID):
        return frozenset(_maps_of_process(user))
    programs = list(info.programs())
    name = user[:KERNEL_NAME_LENGTH]
    found = [one for one in programs if user == str(one.id) or (name and one.name == name)]
    if found:
        return frozenset(map_id for one in found for map_id in one.map_ids)
    near = difflib.get_close_matches(user, {one.name for one in programs})
    hint = f"near it: {', '.join(near)}" if near else f"a process is named {PID}N"
    raise IdNotFoundError(f"no program is called {user!r}, and none has that id", hint=hint)


def _maps_of_process(user: str) -> Iterator[int]:
    number = user.removeprefix(PID)
    process = PROC / number
    if not (number.isascii() and number.isdecimal() and process.is_dir()):
        raise IdNotFoundError(f"there is no process {number!r}")
    try:
        descriptors = os.listdir(process / "fd")  # noqa: PTH208  (names, not paths)
    except PermissionError as error:
        message = f"process {number} is another user's"
        raise PermissionDeniedError(message, errno=error.errno or 0) from None
    for fd in descriptors:
        with suppress(OSError):  # closed meanwhile
            yield from _map_at(process, fd)


def _map_at(process: Path, fd: str) -> list[int]:
    if os.readlink(process / "fd" / fd) != ObjectKind.MAP.value:  # noqa: PTH115  (no path)
        return []
    lines = (process / "fdinfo" / fd).read_text().splitlines()
    fields = (line.partition(":") for line in lines)
    return [int(value) for name, _, value in fields if name == "map_id"]


def _fits(name: str, pattern: str) -> bool:
    # The kernel keeps 15 characters; who types the whole name means that one.
    is_name = not _MAGIC & set(pattern)
    return fnmatch.fnmatchcase(name, pattern[:KERNEL_NAME_LENGTH] if is_name else pattern)


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
