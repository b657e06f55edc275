"""The split brains of this host: a cheap look first, and the graph only if it can find any.

The graph of a host looks at every process and enters every network namespace. The pins, maps and
programs alone tell whether there can be a split brain.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath

from bpfpin.host.objects import HostObjects, all_objects, may_walk
from bpfpin.host.pins import Pin, all_pins
from bpfpin.objects.kernel.info import ProgramInfo
from bpfpin.objects.kernel.object import ObjectKind
from bpfpin.pins.bpffs import BPFFS
from bpfpin.sets.place import load_lines
from bpfpin.sets.split_brain import Finding, findings, is_shared_place, shared_name

Ids = Mapping[str, set[int]]


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
