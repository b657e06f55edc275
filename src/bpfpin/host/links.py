"""Lists the links of the host: what they attach, where, and what keeps them; detaches one."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bpfpin.choices import types_among
from bpfpin.errors import BpfError, BusyError, NotSupportedError, UsageError
from bpfpin.hints import Argument, Fix, shell_line
from bpfpin.host.attachments import AttachedProgram, all_attachments, hook_word
from bpfpin.host.graph import Node
from bpfpin.host.named import open_link, type_word
from bpfpin.host.objects import may_walk
from bpfpin.host.pins import all_pins, set_names, set_of
from bpfpin.host.processes import Holder, all_holders, all_namespaces
from bpfpin.objects.kernel.info import (
    LinkInfo,
    ProgramInfo,
    link_info,
    map_info,
    program_info,
)
from bpfpin.objects.kernel.link_target import Facts, LinkTarget, link_target, link_targets
from bpfpin.objects.kernel.object import ObjectKind
from bpfpin.objects.link import Link
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.records import dataclass
from bpfpin.uapi import AttachType, LinkType

if TYPE_CHECKING:
    from bpfpin.attach.iterators import IterLink

# The words of sections where the kernel's attach type has another one.
_HOOK_WORDS: Final = {
    AttachType.TRACE_RAW_TP: "tp-btf",
    AttachType.TRACE_FENTRY: "fentry",
    AttachType.TRACE_FEXIT: "fexit",
    AttachType.MODIFY_RETURN: "fmod-ret",
    AttachType.LSM_MAC: "lsm",
    AttachType.TRACE_ITER: "iter",
}


@dataclass(frozen=True, slots=True)
class LinkPlace:
    """Where a link attaches its program.

    Attributes:
        hook: The hook as it is typed: `xdp`, `cgroup-inet-ingress`, `tracepoint`, `uprobe`.
        where: The device, cgroup, function, file or other target, in words; may be empty.
        device: The node of the device or cgroup, if it is in sight.
        facts: Names and numbers of other targets, by their words.
    """

    hook: str
    where: str = ""
    device: Node | None = None
    facts: Facts | None = None

    def __str__(self) -> str:
        if not self.where:
            return self.hook
        # A function or tracepoint is not something that has the hook, a device or a map is.
        return f"{self.hook} {self.where}" if self.facts else f"{self.hook} of {self.where}"


@dataclass(frozen=True, slots=True)
class LinkRow:
    """A link with its program and what keeps it.

    *program* is None for a link without one (struct_ops), or if it cannot be opened. *pins* are
    paths, *set_name* is the pin set that the first pin in a set belongs to. *processes* have the
    link open; None if they were not searched.
    """

    info: LinkInfo
    place: LinkPlace
    program: ProgramInfo | None = None
    pins: tuple[str, ...] = ()
    set_name: str = ""
    processes: tuple[Holder, ...] | None = None


@dataclass(frozen=True, slots=True)
class LinkFilter:
    """Which links to list; an empty field does not restrict.

    *types* are words for types of links, *programs* are patterns for names of programs, or ids.
    """

    types: frozenset[str] = frozenset()
    programs: tuple[str, ...] = ()
    is_pinned: bool = False

    def matches(self, row: LinkRow) -> bool:
        """Whether the link is to be listed."""
        name = row.program.name if row.program else ""
        return (
            (not self.types or type_word(row.info.type) in self.types)
            and (
                not self.programs
                or any(
                    word == str(row.info.program_id) or (name and fnmatch.fnmatchcase(name, word))
                    for word in self.programs
                )
            )
            and (not self.is_pinned or bool(row.pins))
        )


@dataclass(frozen=True, slots=True)
class LinkList:
    """The listed links, and notes on those that could not be seen."""

    links: tuple[LinkRow, ...]
    notes: tuple[str, ...]


def known_link_types(words: Iterable[str]) -> frozenset[str]:
    """Return *words* for types of links as the kernel spells them; `UsageError` for others."""
    return types_among(words, [type_word(kind) for kind in LinkType if kind], what="link")


def list_links(
    pin_root: Path, *, selection: LinkFilter | None = None, with_processes: bool = False
) -> LinkList:
    """Return the links of the host, in the order of their ids.

    Without CAP_SYS_ADMIN, only pinned links that this user may open. With *with_processes*, reads
    every open descriptor of the host.
    """
    pins = all_pins(pin_root, with_infos=False, kinds=[ObjectKind.LINK])
    notes = list(pins.notes)
    paths = pins.paths(ObjectKind.LINK)
    if may_walk():
        targets = list(link_targets())
    else:
        targets = list(_pinned_targets(paths))
        notes.append("only pinned links are listed; all others need CAP_SYS_ADMIN")
    programs = _programs(target.info.program_id for target in targets)
    places = places_of_links(targets, programs, notes)
    sets = set_names(pin_root, notes) if paths else {}
    rows = [
        LinkRow(
            target.info,
            places[target.info.id],
            programs.get(target.info.program_id),
            tuple(pinned := paths.get(target.info.id, ())),
            _set_of_any(pinned, sets),
        )
        for target in targets
    ]
    wanted = selection or LinkFilter()
    rows = [row for row in rows if wanted.matches(row)]
    if with_processes:
        rows = _with_processes(rows)
    return LinkList(tuple(rows), tuple(notes))


def show_link(target: str, *, pin_root: Path) -> LinkRow:
    """Return all facts about the link that *target* names."""
    with open_link(target, pin_root) as link:
        return _row(link, pin_root)


def read_link(target: str, *, pin_root: Path) -> IterLink:
    """Open the link of an iterator that *target* names; the caller closes it.

    Raises `UsageError` for a link of another type.
    """
    from bpfpin.attach.iterators import IterLink  # noqa: PLC0415 - few commands read iterators

    with open_link(target, pin_root) as link:
        kind = link.info.type
        if kind != LinkType.ITER:
            raise UsageError(
                f"{target} is a link of type {type_word(kind)}, and only iterators are read",
                hint="see those that there are: bpfpin link list --type iter",
            )
        return IterLink.from_fd(os.dup(link.fd))


def detach_link(target: str, *, pin_root: Path, is_forced: bool = False) -> LinkRow:
    """Detach the program of a link for good, and return what the link was before.

    Raises:
        BusyError: The link belongs to a pin set, and *is_forced* is not given.
        NotSupportedError: Links of this type end only when nothing holds them any more.

    Kernel: BPF_LINK_DETACH (Linux 5.9).
    """
    with open_link(target, pin_root) as link:
        row = _row(link, pin_root)
        if row.set_name and not is_forced:
            raise BusyError(
                f"link {row.info.id} ({row.place}) belongs to the set {row.set_name}",
                hint=Fix.of(
                    f"end the whole set: {shell_line('bpfpin unload', row.set_name)};"
                    " to detach this link alone: ",
                    Argument("force"),
                ),
            )
        try:
            link.detach()
        except NotSupportedError as error:
            raise _without_detach(row, error) from None
        return row


def _without_detach(row: LinkRow, error: NotSupportedError) -> NotSupportedError:
    # Such types have no detach() in their bpf_link_ops: perf events, tracepoints, tracing.
    holders = [f"process {holder.pid} ({holder.name})" for holder in row.processes or ()]
    held = ", ".join([*(f"pin {path}" for path in row.pins), *holders]) or "nothing in sight"
    unpin = "".join(f"; {shell_line('rm', path)}" for path in row.pins)
    return NotSupportedError(
        f"link {row.info.id} ({row.place}): the kernel cannot detach links of type"
        f" {type_word(row.info.type)} ({error.command}: {error.strerror})",
        feature=error.feature,
        command=error.command,
        errno=error.errno or 0,
        target=error.target,
        hint=f"it ends when nothing holds it any more; held by: {held}{unpin}",
    )


def _row(link: Link, pin_root: Path) -> LinkRow:
    target = link_target(link.fd, link.info)
    info = target.info
    notes: list[str] = []
    programs = _programs([info.program_id])
    place = places_of_links([target], programs, notes)[info.id]
    paths = (
        all_pins(pin_root, with_infos=False, kinds=[ObjectKind.LINK])
        .paths(ObjectKind.LINK)
        .get(info.id, ())
    )
    sets = set_names(pin_root, notes) if paths else {}
    row = LinkRow(
        info, place, programs.get(info.program_id), tuple(paths), _set_of_any(paths, sets)
    )
    return _with_processes([row])[0]


def _with_processes(rows: Iterable[LinkRow]) -> list[LinkRow]:
    by_link = holders_of(ObjectKind.LINK)
    return [
        LinkRow(
            row.info,
            row.place,
            row.program,
            row.pins,
            row.set_name,
            tuple(by_link.get(row.info.id, ())),
        )
        for row in rows
    ]


def holders_of(kind: ObjectKind) -> dict[int, list[Holder]]:
    """Return the processes that have objects of a *kind* open, by the id of the object."""
    by_id: dict[int, list[Holder]] = {}
    for holder in all_holders().processes:
        for held_kind, object_id in holder.objects:
            if held_kind is kind:
                by_id.setdefault(object_id, []).append(holder)
    return by_id


def _set_of_any(paths: Iterable[str], sets: Mapping[str, str]) -> str:
    return next(filter(None, (set_of(path, sets) for path in paths)), "")


def _pinned_targets(paths: Mapping[int, Sequence[str]]) -> Iterable[LinkTarget]:
    for first, *_ in paths.values():
        with suppress(BpfError), Link.from_pin(first) as link:  # unpinned meanwhile
            yield link_target(link.fd, link_info(link.fd))


def _programs(ids: Iterable[int]) -> dict[int, ProgramInfo]:
    infos: dict[int, ProgramInfo] = {}
    for program_id in {*ids} - {0}:
        # Unloaded meanwhile, or hidden from this user.
        with suppress(BpfError), Program.from_id(program_id) as program:
            infos[program_id] = program_info(program.fd)
    return infos


def places_of_links(
    targets: Iterable[LinkTarget], programs: Mapping[int, ProgramInfo], notes: list[str]
) -> dict[int, LinkPlace]:
    """Return where the links are attached, by the id of the link.

    Devices and cgroups are looked for in all network namespaces and below the cgroup2 mount; adds
    to *notes* what could not be looked into.
    """
    targets = list(targets)
    infos = [target.info for target in targets]
    attached: list[AttachedProgram] = []
    # The walk costs a visit to each network namespace.
    if any(info.ifindex or info.cgroup_id for info in infos):
        attached = all_attachments(infos, {info.type for info in programs.values()}, notes)
    return place_links(targets, attached)


def place_links(
    targets: Iterable[LinkTarget], attached: Iterable[AttachedProgram]
) -> dict[int, LinkPlace]:
    """Return where the links are attached; *attached* are the programs of devices and cgroups."""
    by_link = {program.link: program for program in attached if program.link}
    words = _Words()
    places = {}
    for target in targets:
        program = by_link.get(target.info.id)
        if program is not None:
            mode = f" ({program.mode})" if program.mode else ""
            places[target.info.id] = LinkPlace(
                program.hook, f"{program.place.name}{mode}", device=program.place
            )
        else:
            places[target.info.id] = words.place(target)
    return places


class _Words:
    """The words for targets that are neither devices nor cgroups in sight."""

    def __init__(self) -> None:
        self._namespaces: dict[int, str] | None = None

    def place(self, target: LinkTarget) -> LinkPlace:
        info = target.info
        hook = target.kind or _hook(info)
        if target.facts:
            return LinkPlace(hook, _where(info.type, target.facts), facts=target.facts)
        if info.netns_inode is not None:
            return LinkPlace(hook, self._namespace(info.netns_inode))
        if info.map_id is not None:
            return LinkPlace(hook, _map(info.map_id))
        if info.ifindex is not None:
            # The kernel keeps a link that was detached or whose device is gone, and reports
            # ifindex 0 for it.
            gone = "nothing: it was detached, or its device is gone"
            seen = f"ifindex {info.ifindex} in a namespace that is not seen"
            return LinkPlace(hook, seen if info.ifindex else gone)
        if info.cgroup_id is not None:
            gone = "nothing: it was detached, or its cgroup is gone"
            return LinkPlace(hook, f"cgroup id {info.cgroup_id}" if info.cgroup_id else gone)
        return LinkPlace(hook)

    def _namespace(self, inode: int) -> str:
        if not inode:
            return "nothing: it was detached, or its network namespace is gone"
        if self._namespaces is None:
            self._namespaces = {space.inode: space.name for space in all_namespaces()}
        name = self._namespaces.get(inode)
        if name is None:
            return f"network namespace {inode}"
        return f"network namespace {name}" if name else "this network namespace"


def _hook(info: LinkInfo) -> str:
    # BPF_CGROUP_INET_INGRESS is 0, and so is an attach type that was not given.
    if isinstance(info.attach_type, AttachType) and (
        info.attach_type or info.type == LinkType.CGROUP
    ):
        return _HOOK_WORDS.get(info.attach_type) or hook_word(info.attach_type)
    return type_word(info.type).replace("_", "-")


def _map(map_id: int) -> str:
    with suppress(BpfError), Map.from_id(map_id, read_only=True) as bpf_map:
        return f"map {map_id} {map_info(bpf_map.fd).name}".rstrip()
    return f"map {map_id}" if map_id else "a map that is gone"


def _where(kind: int, facts: Facts) -> str:
    if kind == LinkType.NETFILTER:
        from bpfpin.attach.netfilter import target_of  # noqa: PLC0415 - few hosts have such links

        return target_of(*(int(facts[word]) for word in ("family", "hook", "priority", "flags")))
    if "event_type" in facts:
        from bpfpin.attach.perf_events import event_word  # noqa: PLC0415 - few links are events

        return event_word(int(facts["event_type"]), int(facts["config"]))
    if kind == LinkType.PERF_EVENT and "offset" in facts:
        name = facts.get("file") or facts.get("function")
        # Of a file the offset is the place itself, of a function mostly 0.
        has_offset = "file" in facts or facts["offset"]
        return f"{name}+{int(facts['offset']):#x}" if has_offset else str(name)
    words = [
        str(facts[word]) for word in ("tracepoint", "iterator", "file", "function") if word in facts
    ]
    numbers = {"functions": "functions", "map_id": "map", "cgroup_id": "cgroup id"}
    numbers |= {"pid": "pid", "tid": "thread", "program_id": "in program"}
    for key, word in numbers.items():
        if key in facts:
            plural = word == "functions"
            words.append(f"({facts[key]} {word})" if plural else f"{word} {facts[key]}")
    return " ".join(words)
