"""Which of all maps somebody means: by type, name, pin and user."""

from __future__ import annotations

import difflib
import fnmatch
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bpfpin.apps.map_users import PROC
from bpfpin.apps.maps.naming import KERNEL_NAME_LENGTH
from bpfpin.apps.maps.row import MapRow
from bpfpin.errors import IdNotFoundError, PermissionDeniedError, UsageError
from bpfpin.objects import walk
from bpfpin.objects.kernel_object import ObjectKind
from bpfpin.uapi import MapType

PID: Final = "pid:"
_MAGIC: Final = frozenset("*?[")


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
    programs = list(walk.programs())
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
