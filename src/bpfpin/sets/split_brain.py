"""Split brain: those who should share a map and do not, each going on with one of their own.

Told from a `Graph` alone: what is pinned, what runs, what is held open.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any, Final

from bpfpin.host.graph import ELSEWHERE, EdgeKind, Graph, Node, NodeKind
from bpfpin.host.namespaces import UNNAMED
from bpfpin.objects.kernel.info import KERNEL_NAME_LENGTH
from bpfpin.pins import names
from bpfpin.pins.bpffs import BPFFS

# Where others share maps by name, below the mount of a bpffs: iproute2's two places.
_GLOBALS: Final = (("tc", "globals"), ("xdp", "globals"))
LOAD: Final = "bpfpin load OBJ --dev DEV"
NO_LINES: Final[Mapping[str, str]] = MappingProxyType({})
_READ_ONLY_DATA: Final = ".rodata"


class FindingKind(Enum):
    """What is split."""

    MAP_DIFFERS = "map-differs"  # a set pins one map, its program uses another of that name
    NOT_SHARED = "not-shared"  # a program uses another map than the shared one of that name
    OLD_MAP_HELD = "old-map-held"  # a process reads a map that nothing feeds any more


@dataclass(frozen=True)
class Finding:
    """One split: what it is, and what to type to mend it.

    *maps* are the ids of the two maps, *sets* the pin sets of ours that it concerns.
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
    """Return all splits of *graph*; none that it cannot know of, where it is not complete.

    Shared places are *pin_root* itself, and iproute2's `tc/globals` and `xdp/globals`.
    *load_lines* are what to type to load a set again, by its name.
    """
    pinned = list(_pinned_maps(graph))
    of_sets = list(_of_sets(graph, pinned, load_lines))
    told = {one.maps for one in of_sets}
    shared = _not_shared(graph, pinned, pin_root, load_lines)
    return (
        *of_sets,
        *(one for one in shared if one.maps not in told),
        *(_old_maps(graph, pinned) if graph.is_complete else ()),
    )


@dataclass(frozen=True, slots=True)
class _PinnedMap:
    """A pin of a map; *name* is the map's as the kernel keeps it."""

    pin: Node
    held: Node
    name: str


def _pinned_maps(graph: Graph) -> Iterator[_PinnedMap]:
    for held in graph.of_kind(NodeKind.MAP):
        for pin in graph.targets(held.id, EdgeKind.PINNED):
            if (name := shared_name(pin.name)) and not _is_passing(pin):
                yield _PinnedMap(pin, held, name)


def _of_sets(
    graph: Graph, pinned: Iterable[_PinnedMap], load_lines: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield where a set pins another map than its own running program uses."""
    programs: dict[str, list[Node]] = defaultdict(list)
    for program in graph.of_kind(NodeKind.PROGRAM):
        if program.id in graph.running:
            for name in _sets(graph, program):
                programs[name].append(program)
    for one in pinned:
        for program in programs.get(one.pin.set, ()):
            if used := _other_map(graph, program, one):
                yield Finding(
                    FindingKind.MAP_DIFFERS,
                    f"{one.pin.set}: {_told(program)} uses map id {used.number}, while"
                    f" {one.pin.name} holds map id {one.held.number} ({one.name})",
                    load_lines.get(one.pin.set, LOAD),
                    (used.number, one.held.number),
                    (one.pin.set,),
                )


def _not_shared(
    graph: Graph, pinned: Iterable[_PinnedMap], pin_root: Path, load_lines: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield where a running program has a map of its own beside a shared one of that name."""
    users: dict[str, list[Node]] = defaultdict(list)
    for program in graph.of_kind(NodeKind.PROGRAM):
        if program.id in graph.running and _sees_our_pins(graph, program):
            for name in {held.name for held in graph.targets(program.id, EdgeKind.USES)}:
                users[name].append(program)
    for one in pinned:
        is_shared = is_shared_place(PurePath(one.pin.name), pin_root)
        for program in users.get(one.name, ()) if is_shared else ():
            used = _other_map(graph, program, one)
            if used is not None and _layout(used) == _layout(one.held):
                yield Finding(
                    FindingKind.NOT_SHARED,
                    f"{_told(program)} uses map id {used.number}, one of its own, while the shared"
                    f" {one.pin.name} holds map id {one.held.number} of the same name and layout",
                    _share(graph, program, one, load_lines),
                    (used.number, one.held.number),
                    _sets(graph, program),
                )


def _sees_our_pins(graph: Graph, program: Node) -> bool:
    """Whether a share may have been meant: not by what a container does with devices of its own."""
    places = graph.sources(program.id, EdgeKind.ATTACHED)
    is_contained = bool(places) and all(place.netns.startswith(UNNAMED) for place in places)
    return not is_contained or bool(graph.targets(program.id, EdgeKind.PINNED))


def _old_maps(graph: Graph, pinned: Iterable[_PinnedMap]) -> Iterator[Finding]:
    """Yield processes that hold a map which nothing else has, named as a pinned one."""
    by_name: dict[str, _PinnedMap] = {}
    # Of several pins of a name one that a program feeds is the likeliest to be meant.
    for one in sorted(pinned, key=lambda each: not graph.sources(each.held.id, EdgeKind.USES)):
        by_name.setdefault(one.name, one)
    for old in graph.of_kind(NodeKind.MAP):
        now = by_name.get(old.name)
        if now is None or not _is_left(graph, old):
            continue
        for process in graph.targets(old.id, EdgeKind.HELD):
            if ELSEWHERE not in process.notes:  # else it may see a pin that we do not
                yield _old_map(process, old, now)


def _old_map(process: Node, old: Node, now: _PinnedMap) -> Finding:
    return Finding(
        FindingKind.OLD_MAP_HELD,
        f"process {process.number} ({process.name}) holds map id {old.number}, which no program"
        f" uses and no pin holds, while {now.pin.name} holds map id {now.held.number} ({now.name})",
        f"let it open {shlex.quote(now.pin.name)} again: restart it"
        f" (kill {process.number}, if it comes back by itself)",
        (old.number, now.held.number),
        tuple(filter(None, [now.pin.set])),
    )


def _is_left(graph: Graph, held: Node) -> bool:
    """Whether only processes keep the map: no program, no pin, no map that contains it."""
    kinds = {edge.kind for edge in graph.reaching.get(held.id, ())}
    return not kinds and not graph.targets(held.id, EdgeKind.PINNED)


def _other_map(graph: Graph, program: Node, one: _PinnedMap) -> Node | None:
    """Return the map of that name which the program uses instead, None if it uses this one."""
    used = graph.targets(program.id, EdgeKind.USES)
    if one.held in used:
        return None
    return next((held for held in used if held.name == one.name), None)


def shared_name(path: str) -> str:
    """Return the name, as the kernel keeps it, of the map meant by a pin; "" for one that is never.

    Read-only data is never shared: each load makes its own.
    """
    name = names.decode(PurePath(path).name)
    return "" if name.startswith(_READ_ONLY_DATA) else name[:KERNEL_NAME_LENGTH]


def is_shared_place(path: PurePath, pin_root: Path) -> bool:
    """Whether a map is pinned there for all who name it so: libbpf's place, or iproute2's."""
    return path.parent == pin_root or path.parts[-3:-1] in _GLOBALS


def _layout(held: Node) -> tuple[object, ...]:
    return (held.type, held.layout)


def _told(program: Node) -> str:
    places = f" ({' and '.join(program.hooks)})" if program.hooks else ""
    return f"program {program.name or 'without a name'} id {program.number}{places}"


def _share(graph: Graph, program: Node, one: _PinnedMap, load_lines: Mapping[str, str]) -> str:
    """Return how the program comes to use the shared map."""
    name = names.decode(PurePath(one.pin.name).name)
    words = f"--map {shlex.quote(f'{name}={one.pin.name}')}"
    line = next((load_lines.get(name, "") for name in _sets(graph, program)), "")
    return f"{line or _load_line(graph, program)} {words}"


def _sets(graph: Graph, program: Node) -> tuple[str, ...]:
    """Return the sets of ours that the program is pinned in."""
    pins = graph.targets(program.id, EdgeKind.PINNED)
    return tuple(dict.fromkeys(pin.set for pin in pins if pin.set and not _is_passing(pin)))


def _is_passing(pin: Node) -> bool:
    """Whether the pin is of a generation of its set that is not the one that holds."""
    parts = PurePath(pin.name).parts if pin.set else ()
    return any(part in names.MARKS or part.endswith(names.STAGE_SUFFIX) for part in parts)


def _load_line(graph: Graph, program: Node) -> str:
    """Return how a program that is not of a set is loaded where it runs, in its place."""
    for edge in graph.reaching.get(program.id, ()):
        place = graph.by_id[edge.source]
        if edge.hook == "xdp":
            device = place.name.removeprefix(f"{place.netns}@")
            inside = ["-n", place.netns] if place.netns else []
            return shlex.join(["bpfpin", "load", "OBJ", "--dev", device, *inside, "--take-over"])
    return f"detach it, then: {LOAD}"
