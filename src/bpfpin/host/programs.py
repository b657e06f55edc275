"""Lists the programs of the host with what they use, what runs them and what keeps them."""

from __future__ import annotations

import fnmatch
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bpfpin.btf.names import kernel_name
from bpfpin.choices import types_among
from bpfpin.errors import BpfError, IdNotFoundError
from bpfpin.host.attachments import AttachedProgram, all_attachments
from bpfpin.host.links import LinkPlace, holders_of, place_links
from bpfpin.host.named import type_word
from bpfpin.host.objects import may_walk
from bpfpin.host.pins import all_pins, set_names, set_of
from bpfpin.host.processes import Holder
from bpfpin.objects.kernel.info import ProgramInfo, program_ids, program_info
from bpfpin.objects.kernel.link_target import LinkTarget, link_targets
from bpfpin.objects.kernel.object import ObjectKind
from bpfpin.records import dataclass
from bpfpin.syscall import bpf
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import ProgramType

_MAGIC: Final = frozenset("*?[")
_MEMORY: Final = b"memlock:"


@dataclass(frozen=True, slots=True)
class Attachment:
    """A place that runs a program; *link* is the id of its link, 0 for none."""

    place: LinkPlace
    link: int = 0

    def __str__(self) -> str:
        return str(self.place)


@dataclass(frozen=True, slots=True)
class ProgramRow:
    """A program with what runs it and what keeps it.

    *attachments* are the places that run it, *pins* the paths of its own pins, *link_pins* those of
    its links. *sets* are the pin sets that these pins belong to. *processes* have it or one of its
    links open; None if they were not searched.
    """

    info: ProgramInfo
    memory_bytes: int = 0
    attachments: tuple[Attachment, ...] = ()
    pins: tuple[str, ...] = ()
    link_pins: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    processes: tuple[Holder, ...] | None = None

    @property
    def type_name(self) -> str:
        """The kernel's word for the type, in lower case; a number for an unknown type."""
        return type_word(self.info.type)

    @property
    def age_s(self) -> float:
        """The seconds since it was loaded."""
        # The kernel counts from boot, with the time of suspension (ktime_get_boottime_ns() in
        # bpf_prog_load() of kernel/bpf/syscall.c).
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.info.load_time_ns / 1e9

    @property
    def loaded_at(self) -> float:
        """When it was loaded, in seconds since the epoch."""
        return time.time() - self.age_s

    @property
    def average_ns(self) -> float | None:
        """The average time of a run that was counted; None if none was."""
        runs = self.info.run_count
        return self.info.run_time_ns / runs if runs else None


@dataclass(frozen=True, slots=True)
class ProgramFilter:
    """Which programs to list; a field that is empty or False does not restrict.

    *types* are words for types, *names* are patterns as for file names in a shell, *map_id* is a
    map that the program uses.
    """

    types: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()
    map_id: int | None = None
    is_pinned: bool = False
    is_attached: bool = False

    def matches(self, row: ProgramRow) -> bool:
        """Whether the program is to be listed."""
        return (
            (not self.types or row.type_name in self.types)
            and (not self.names or any(_fits(row.info.name, name) for name in self.names))
            and (self.map_id is None or self.map_id in row.info.map_ids)
            and (not self.is_pinned or bool(row.pins or row.link_pins))
            and (not self.is_attached or bool(row.attachments))
        )


@dataclass(frozen=True, slots=True)
class ProgramList:
    """The listed programs, and notes on programs that could not be seen."""

    programs: tuple[ProgramRow, ...]
    notes: tuple[str, ...]


# The keys that a list of programs can be sorted by.
SORTS: Final[dict[str, Callable[[ProgramRow], Any]]] = {
    "id": lambda row: row.info.id,
    "name": lambda row: row.info.name,
    "type": lambda row: row.type_name,
    "age": lambda row: -row.info.load_time_ns,
    "memory": lambda row: row.memory_bytes,
    "runs": lambda row: row.info.run_count,
    "time": lambda row: row.info.run_time_ns,
}


def known_program_types(words: Iterable[str]) -> frozenset[str]:
    """Return *words* for types of programs as the kernel spells them; `UsageError` for others."""
    return types_among(words, [type_word(kind) for kind in ProgramType if kind], what="program")


def _fits(name: str, pattern: str) -> bool:
    is_name = not _MAGIC & set(pattern)
    return fnmatch.fnmatchcase(name, kernel_name(pattern) if is_name else pattern)


def list_programs(
    pin_root: Path,
    *,
    selection: ProgramFilter | None = None,
    sort: str = "id",
    is_descending: bool = False,
    with_processes: bool = False,
) -> ProgramList:
    """Return the programs of the kernel with the places that run them, pins and holders.

    Without CAP_SYS_ADMIN, only pinned programs that this user may open. *sort* is one of `SORTS`;
    ties are in order of ids. With *with_processes*, reads every open descriptor of the host, which
    takes long where there are many.
    """
    host = HostPrograms(pin_root)
    rows = [host.row(info, memory) for info, memory in host.programs()]
    wanted = selection or ProgramFilter()
    rows = [row for row in rows if wanted.matches(row)]
    # A stable sort, also in reverse: equal rows stay in the order of ids.
    rows.sort(key=SORTS[sort], reverse=is_descending)
    # Only for the rows that are left: reading the descriptors of all processes is the slow part.
    return ProgramList(tuple(with_holders(rows) if with_processes else rows), tuple(host.notes))


def with_holders(rows: Sequence[ProgramRow]) -> list[ProgramRow]:
    """Return the rows with the processes that have each program, or a link of it, open."""
    programs, links = holders_of(ObjectKind.PROGRAM), holders_of(ObjectKind.LINK)
    return [
        replace(
            row,
            processes=_once(
                [
                    *programs.get(row.info.id, ()),
                    *(holder for at in row.attachments for holder in links.get(at.link, ())),
                ]
            ),
        )
        for row in rows
    ]


def _once(holders: Iterable[Holder]) -> tuple[Holder, ...]:
    return tuple({holder.pid: holder for holder in holders}.values())


class HostPrograms:
    """The pins and links of the host, and the devices and cgroups that run programs."""

    def __init__(self, pin_root: Path) -> None:
        pins = all_pins(pin_root, with_infos=False, kinds=[ObjectKind.PROGRAM, ObjectKind.LINK])
        self.notes = list(pins.notes)
        self._pins = pins.paths(ObjectKind.PROGRAM)
        self._link_pins = pins.paths(ObjectKind.LINK)
        self._sets = set_names(pin_root, self.notes) if pins.pins else {}
        self._infos: list[tuple[ProgramInfo, int]] = []
        targets: list[LinkTarget] = []
        if may_walk():
            # Links first: a link holds its program, so that the program is listed later.
            targets = list(link_targets())
            self._infos = list(_all_programs())
        else:
            self._infos = sorted(_pinned_programs(self._pins), key=lambda pair: pair[0].id)
            self.notes.append(
                "only pinned programs are listed; all others, and where they are attached,"
                " need CAP_SYS_ADMIN"
            )
        self._attachments = self._places(targets)

    def programs(self) -> list[tuple[ProgramInfo, int]]:
        """Return the programs with their memory in bytes."""
        return self._infos

    def row(self, info: ProgramInfo, memory_bytes: int) -> ProgramRow:
        """Return the row of a program."""
        attachments = self._attachments.get(info.id, ())
        link_pins = [
            path for attachment in attachments for path in self._link_pins.get(attachment.link, ())
        ]
        pins = self._pins.get(info.id, ())
        paths = (*pins, *link_pins) if self._sets else ()
        sets = dict.fromkeys(set_of(path, self._sets) for path in paths)
        sets.pop("", None)
        return ProgramRow(
            info, memory_bytes, tuple(attachments), tuple(pins), tuple(link_pins), tuple(sets)
        )

    def _places(self, targets: Sequence[LinkTarget]) -> Mapping[int, Sequence[Attachment]]:
        by_program: dict[int, list[Attachment]] = defaultdict(list)
        if not self._infos:
            return by_program
        types = {info.type for info, _ in self._infos}
        infos = [target.info for target in targets]
        attached = all_attachments(infos, types, self.notes) if may_walk() else []
        for program in attached:
            if not program.link:
                by_program[program.program_id].append(Attachment(_place(program)))
        places = place_links(targets, attached)
        for info in infos:
            by_program[info.program_id].append(Attachment(places[info.id], info.id))
        return by_program


def _place(program: AttachedProgram) -> LinkPlace:
    mode = f" ({program.mode})" if program.mode else ""
    return LinkPlace(program.hook, f"{program.place.name}{mode}", device=program.place)


def _all_programs() -> Iterator[tuple[ProgramInfo, int]]:
    for program_id in program_ids():
        # Opened once for both questions: the program cannot be freed between them.
        with (
            suppress(IdNotFoundError),  # unloaded meanwhile
            Descriptor(bpf.prog_get_fd_by_id(program_id)) as program,
        ):
            yield program_info(program.fileno()), memory_of(program.fileno())


def _pinned_programs(paths: Mapping[int, Sequence[str]]) -> Iterator[tuple[ProgramInfo, int]]:
    for first, *_ in paths.values():
        with (
            suppress(BpfError),  # unpinned meanwhile
            Descriptor(bpf.obj_get(first)) as program,
        ):
            yield program_info(program.fileno()), memory_of(program.fileno())


def memory_of(fd: int) -> int:
    """Return the memory of the program *fd* in bytes: the pages of its instructions."""
    # struct bpf_prog_info does not have it: bpf_prog_show_fdinfo() in kernel/bpf/syscall.c.
    info = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(info, 4096)
    finally:
        os.close(info)
    at = text.find(_MEMORY)
    return int(text[at + len(_MEMORY) :].split(None, 1)[0]) if at >= 0 else 0
