"""Split brain: programs or readers that should share a map, but use different maps of one name.

It is derived from a `Graph` alone: the pins, the attached programs, and the open descriptors. The
graph of a host looks at every process and enters every network namespace. So `splits` looks first
at pins, maps and programs, which alone tell whether there can be a split brain.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any, Final

from bpfpin.btf.names import kernel_name
from bpfpin.hooks import known_hook
from bpfpin.host.graph import ELSEWHERE, EdgeKind, Graph, Node, NodeKind
from bpfpin.host.objects import HostObjects, all_objects, may_walk
from bpfpin.host.pins import Pin, all_pins
from bpfpin.host.processes import UNNAMED
from bpfpin.objects.kernel.info import ProgramInfo
from bpfpin.objects.kernel.object import ObjectKind
from bpfpin.pins import names
from bpfpin.pins.bpffs import BPFFS
from bpfpin.records import dataclass
from bpfpin.sets.place import load_lines

# Where others share maps by name, below the mount of a bpffs: iproute2's two places.
_GLOBALS: Final = (("tc", "globals"), ("xdp", "globals"))
LOAD: Final = "bpfpin load OBJ --dev DEV"
NO_LINES: Final[Mapping[str, str]] = MappingProxyType({})
_READ_ONLY_DATA: Final = ".rodata"
Ids = Mapping[str, set[int]]


class FindingKind(Enum):
    """The kinds of split."""

    MAP_DIFFERS = "map-differs"  # a set pins one map, its program uses another of that name
    NOT_SHARED = "not-shared"  # a program uses another map than the shared one of that name
    OLD_MAP_HELD = "old-map-held"  # a process reads a map that nothing feeds any more


@dataclass(frozen=True)
class Finding:
    """One split, and the line that mends it.

    *maps* are the ids of the two maps, *sets* the pin sets that it concerns.
    """

    kind: FindingKind
    text: str
    fix: str
    maps: tuple[int, int] = (0, 0)
    sets: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return {"kind": self.kind.value, "text": self.text, "fix": self.fix}


def findings(
    graph: Graph, *, pin_root: Path = BPFFS, load_lines: Mapping[str, str] = NO_LINES
) -> tuple[Finding, ...]:
    """Return the splits of *graph*; if it is not complete, those that it shows.

    Shared places are *pin_root* itself, and iproute2's `tc/globals` and `xdp/globals`.
    *load_lines* are the lines that load a set again, by its name.
    """
    pinned = list(_pinned_maps(graph))
    of_sets = list(_of_sets(graph, pinned, load_lines))
    reported = {finding.maps for finding in of_sets}
    shared = _not_shared(graph, pinned, pin_root, load_lines)
    return (
        *of_sets,
        # The same two maps in a set and in a shared place are one problem, and the line for the set
        # mends both.
        *(finding for finding in shared if finding.maps not in reported),
        # Without all programs a map may look unused that is in use.
        *(_old_maps(graph, pinned) if graph.is_complete else ()),
    )


@dataclass(frozen=True, slots=True)
class _PinnedMap:
    """A pin of a map; *name* is that of the map, as the kernel keeps it."""

    pin: Node
    bpf_map: Node
    name: str


def _pinned_maps(graph: Graph) -> Iterator[_PinnedMap]:
    for bpf_map in graph.of_kind(NodeKind.MAP):
        for pin in graph.targets(bpf_map.id, EdgeKind.PINNED):
            if (name := shared_name(pin.name)) and not _is_in_transition(pin):
                yield _PinnedMap(pin, bpf_map, name)


def _of_sets(
    graph: Graph, pinned: Iterable[_PinnedMap], load_lines: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield the sets that pin another map than their own running program uses."""
    programs: dict[str, list[Node]] = defaultdict(list)
    for program in graph.of_kind(NodeKind.PROGRAM):
        # A program that is only pinned or held counts nothing, so it splits nothing.
        if program.id in graph.running:
            for name in _sets(graph, program):
                programs[name].append(program)
    for shared in pinned:
        pin, number = shared.pin, shared.bpf_map.number
        for program in programs.get(pin.set, ()):
            if used := _other_map(graph, program, shared):
                yield Finding(
                    FindingKind.MAP_DIFFERS,
                    f"{pin.set}: {_described(program)} uses map id {used.number}, while"
                    f" {pin.name} holds map id {number} ({shared.name})",
                    load_lines.get(pin.set, LOAD),
                    (used.number, number),
                    (pin.set,),
                )


def _not_shared(
    graph: Graph, pinned: Iterable[_PinnedMap], pin_root: Path, load_lines: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield the running programs that use a map of their own beside a shared map of that name."""
    users: dict[str, list[Node]] = defaultdict(list)
    for program in graph.of_kind(NodeKind.PROGRAM):
        if program.id in graph.running and _sees_our_pins(graph, program):
            for name in {used.name for used in graph.targets(program.id, EdgeKind.USES)}:
                users[name].append(program)
    for shared in pinned:
        pin, number = shared.pin, shared.bpf_map.number
        is_shared = is_shared_place(PurePath(pin.name), pin_root)
        for program in users.get(shared.name, ()) if is_shared else ():
            used = _other_map(graph, program, shared)
            # Names such as `stats` are common. Another layout means another thing with the same
            # name.
            if used is not None and _layout(used) == _layout(shared.bpf_map):
                yield Finding(
                    FindingKind.NOT_SHARED,
                    f"{_described(program)} uses map id {used.number}, one of its own, while the"
                    f" shared {pin.name} holds map id {number} of the same name and layout",
                    _share(graph, program, shared, load_lines),
                    (used.number, number),
                    _sets(graph, program),
                )


def _sees_our_pins(graph: Graph, program: Node) -> bool:
    """Whether the program may be meant to share: not one of a container at devices of its own."""
    places = graph.sources(program.id, EdgeKind.ATTACHED)
    is_contained = bool(places) and all(place.netns.startswith(UNNAMED) for place in places)
    return not is_contained or bool(graph.targets(program.id, EdgeKind.PINNED))


def _old_maps(graph: Graph, pinned: Iterable[_PinnedMap]) -> Iterator[Finding]:
    """Yield processes that hold a map that nothing else uses and that has a pinned map's name."""
    by_name: dict[str, _PinnedMap] = {}

    def is_unused(shared: _PinnedMap) -> bool:
        return not graph.sources(shared.bpf_map.id, EdgeKind.USES)

    # Of several pins of a name, the reader most likely wants the map that a program uses.
    for shared in sorted(pinned, key=is_unused):
        by_name.setdefault(shared.name, shared)
    for old in graph.of_kind(NodeKind.MAP):
        now = by_name.get(old.name)
        if now is None or not _is_left(graph, old):
            continue
        for process in graph.targets(old.id, EdgeKind.HELD):
            if ELSEWHERE not in process.notes:  # its mount namespace may have a pin of the map
                yield _old_map(process, old, now)


def _old_map(process: Node, old: Node, now: _PinnedMap) -> Finding:
    return Finding(
        FindingKind.OLD_MAP_HELD,
        f"process {process.number} ({process.name}) holds map id {old.number}, which no program"
        f" uses and no pin holds, while {now.pin.name} holds map id {now.bpf_map.number}"
        f" ({now.name})",
        f"let it open {shlex.quote(now.pin.name)} again: restart it"
        f" (kill {process.number}, if it comes back by itself)",
        (old.number, now.bpf_map.number),
        tuple(filter(None, [now.pin.set])),
    )


def _is_left(graph: Graph, bpf_map: Node) -> bool:
    """Whether only processes keep the map: no program, no pin, no map that contains it."""
    kinds = {edge.kind for edge in graph.reaching.get(bpf_map.id, ())}
    return not kinds and not graph.targets(bpf_map.id, EdgeKind.PINNED)


def _other_map(graph: Graph, program: Node, shared: _PinnedMap) -> Node | None:
    """Return the map of that name that the program uses instead, None if it uses the pinned map."""
    used = graph.targets(program.id, EdgeKind.USES)
    if shared.bpf_map in used:
        return None
    return next((bpf_map for bpf_map in used if bpf_map.name == shared.name), None)


def shared_name(path: str) -> str:
    """Return the name of the map that a pin is for, as the kernel keeps it; "" for read-only data.

    Read-only data is never shared: each load makes its own.
    """
    name = names.decode(PurePath(path).name)
    return "" if name.startswith(_READ_ONLY_DATA) else kernel_name(name)


def is_shared_place(path: PurePath, pin_root: Path) -> bool:
    """Whether a pin at *path* shares its map by name: the place of libbpf or of iproute2."""
    return path.parent == pin_root or path.parts[-3:-1] in _GLOBALS


def _layout(bpf_map: Node) -> tuple[object, ...]:
    return (bpf_map.type, bpf_map.layout)


def _described(program: Node) -> str:
    places = f" ({' and '.join(program.hooks)})" if program.hooks else ""
    return f"program {program.name or 'without a name'} id {program.number}{places}"


def _share(graph: Graph, program: Node, shared: _PinnedMap, load_lines: Mapping[str, str]) -> str:
    """Return the line that lets the program use the shared map."""
    name = names.decode(PurePath(shared.pin.name).name)
    words = f"--map {shlex.quote(f'{name}={shared.pin.name}')}"
    line = next((load_lines.get(name, "") for name in _sets(graph, program)), "")
    return f"{line or _load_line(graph, program)} {words}"


def _sets(graph: Graph, program: Node) -> tuple[str, ...]:
    """Return the sets that the program is pinned in."""
    pins = graph.targets(program.id, EdgeKind.PINNED)
    return tuple(dict.fromkeys(pin.set for pin in pins if pin.set and not _is_in_transition(pin)))


def _is_in_transition(pin: Node) -> bool:
    """Whether the pin belongs to a stage, a generation of its set that is not the live one."""
    parts = PurePath(pin.name).parts if pin.set else ()
    return any(part in names.MARKS or part.endswith(names.STAGE_SUFFIX) for part in parts)


def _load_line(graph: Graph, program: Node) -> str:
    """Return the line that loads a set in place of a program that is in no set."""
    for edge in graph.reaching.get(program.id, ()):
        place = graph.by_id[edge.source]
        hook = known_hook(edge.hook)
        # Where several programs run, the other one can stay beside it.
        if hook is not None and hook.traits.runs_one:
            device = place.name.removeprefix(f"{place.netns}@")
            inside = ["-n", place.netns] if place.netns else []
            return shlex.join(["bpfpin", "load", "OBJ", "--dev", device, *inside, "--take-over"])
    return f"detach it, then: {LOAD}"


def splits(*, pin_root: Path = BPFFS) -> tuple[Finding, ...]:
    """Return the split brains of the host; none for a user without the right to list programs."""
    # BPF_PROG_GET_NEXT_ID needs CAP_SYS_ADMIN. A part of the programs would give wrong findings.
    if not may_walk():
        return ()
    # Without infos: the objects that are walked anyway have the same facts by their ids.
    pins, objects = all_pins(pin_root, with_infos=False).pins, all_objects()
    if not may_be_split(pins, objects, pin_root=pin_root):
        return ()
    from bpfpin.host.collect import graph  # noqa: PLC0415 - half of the time of the look

    whole = graph(pin_root=pin_root)
    return findings(whole, pin_root=pin_root, load_lines=load_lines(pin_root))


def may_be_split(pins: Iterable[Pin], objects: HostObjects, *, pin_root: Path = BPFFS) -> bool:
    """Whether *findings* may find anything in the graph of these pins and objects.

    A finding is never missed. The answer may be true without a finding: if a program is not
    attached, or no process holds a map.
    """
    look = _Look(list(pins), objects, pin_root)
    # These two cover the three kinds of finding: a map that only a process holds, and a program
    # that uses another map than a pin of that name.
    return look.is_a_map_left() or any(map(look.has_another, objects.programs.values()))


class _Look:
    """Pins by name and directory, to check one program at a time against."""

    def __init__(self, pins: list[Pin], objects: HostObjects, pin_root: Path) -> None:
        self._objects = objects
        self._maps = [pin for pin in pins if pin.kind is ObjectKind.MAP and shared_name(pin.path)]
        self._pinned = {pin.id for pin in pins if pin.kind is ObjectKind.MAP}
        shared = (pin for pin in self._maps if is_shared_place(PurePath(pin.path), pin_root))
        self._shared = _by_name(shared)
        self._at: dict[str, Ids] = {
            directory: _by_name(pins) for directory, pins in _by_directory(self._maps).items()
        }
        self._places = self._directories(pins)

    def _directories(self, pins: Iterable[Pin]) -> Mapping[int, set[str]]:
        """Return the directories above the pins of each program and of its links."""
        above_pins: dict[int, set[str]] = defaultdict(set)
        for pin in pins:
            program_id = self._program_id(pin)
            # The maps of a set are in its directory, its programs and links in folders of that.
            above_pins[program_id].update(str(above) for above in PurePath(pin.path).parents)
        return above_pins

    def _program_id(self, pin: Pin) -> int:
        if pin.kind is ObjectKind.LINK:
            link = self._objects.links.get(pin.id)
            # 0 stands for all other pins; no program has this id.
            return link.program_id if link is not None and link.program_id else 0
        return pin.id if pin.kind is ObjectKind.PROGRAM else 0

    def is_a_map_left(self) -> bool:
        """Whether a map with the name of a pinned one has neither program nor pin."""
        used = {map_id for info in self._objects.programs.values() for map_id in info.map_ids}
        names = {shared_name(pin.path) for pin in self._maps}
        return any(
            info.name in names and info.id not in used and info.id not in self._pinned
            for info in self._objects.maps.values()
        )

    def has_another(self, program: ProgramInfo) -> bool:
        """Whether a map of the program has the name of a map pinned for it, and is another map."""
        pinned = [self._shared]
        pinned += [self._at[at] for at in self._places.get(program.id, ()) if at in self._at]
        return any(
            by_name.get(name, set()) - set(program.map_ids)
            for name in self._names(program)
            for by_name in pinned
        )

    def _names(self, program: ProgramInfo) -> Iterator[str]:
        for map_id in program.map_ids:
            if info := self._objects.maps.get(map_id):
                yield info.name


def _by_name(pins: Iterable[Pin]) -> Ids:
    ids: dict[str, set[int]] = defaultdict(set)
    for pin in pins:
        ids[shared_name(pin.path)].add(pin.id)
    return ids


def _by_directory(pins: Iterable[Pin]) -> Mapping[str, list[Pin]]:
    by_directory: dict[str, list[Pin]] = defaultdict(list)
    for pin in pins:
        by_directory[str(PurePath(pin.path).parent)].append(pin)
    return by_directory
