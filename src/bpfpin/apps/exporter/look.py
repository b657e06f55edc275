"""Looks at the host for the exporter: maps, programs, counters, sets and problems (privileged).

What the kernel never changes about a map or program is asked once, and a pin set is read again only
after its directory changed. Where programs are attached, and what `bpfpin status` finds, takes
long; so it is asked when links or programs came or went, and at intervals.
"""

from __future__ import annotations

import base64
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from bpfpin.apps.exporter.rules import MetricRule
from bpfpin.apps.exporter.view import (
    CounterView,
    HostView,
    MapView,
    ProgramView,
    RuleMapView,
    SetRow,
)
from bpfpin.btf.names import kernel_name
from bpfpin.btf.write import subset
from bpfpin.errors import BpfError, UsageError
from bpfpin.host.attachments import all_attachments
from bpfpin.host.graph import NodeKind
from bpfpin.host.links import LinkPlace, place_links
from bpfpin.host.named import type_word
from bpfpin.map.counters import (
    COUNTER_SIZE,
    USUAL_NAME,
    Counters,
    counter_pins,
    is_likely_counter,
)
from bpfpin.map.generation import first_id
from bpfpin.map.open import open_map
from bpfpin.map_traits import MapFamily, traits_of
from bpfpin.objects.kernel.info import (
    MapInfo,
    ProgramInfo,
    fdinfo,
    link_ids,
    map_ids,
    map_info,
    program_ids,
    program_info,
    type_name,
)
from bpfpin.objects.kernel.link_target import link_targets
from bpfpin.objects.maps.fill import trie_entry_size
from bpfpin.objects.maps.map import Map
from bpfpin.pins import names
from bpfpin.pins.directory import Directory
from bpfpin.pins.ownership import ObjectIds as PinnedIds
from bpfpin.pins.pinset import LoadedSet, PinSet
from bpfpin.sets.reports import ProblemKind
from bpfpin.sets.status import status
from bpfpin.syscall import bpf
from bpfpin.syscall.fd import Descriptor
from bpfpin.uapi import MapFlag, MapType, ObjectFlag

# More rows than a table of verdicts or of reasons has; a map with more is exported by a rule.
COUNTERS_MAX: Final = 64
_COUNTING: Final = frozenset({MapFamily.HASH, MapFamily.TRIE, MapFamily.RESIZABLE_HASH})
# Numbers that mean nothing after a restart, in the words for a place.
_IDS: Final = re.compile(r"^pid:\d+(?=@)| ?\b(?:map|cgroup id|pid|thread|in program|ifindex) \d+\b")
Found = TypeVar("Found")


class HostIds(NamedTuple):
    """The ids of all maps, programs and links."""

    maps: tuple[int, ...]
    programs: tuple[int, ...]
    links: tuple[int, ...]

    @classmethod
    def now(cls) -> HostIds:
        """Return those that exist now."""
        return cls(tuple(map_ids()), tuple(program_ids()), tuple(link_ids()))


class _MapFacts(NamedTuple):
    info: MapInfo
    memory_bytes: int


class _SetFacts(NamedTuple):
    """A pin set as its directory was at *state*: inode and times."""

    state: tuple[int, int, int]
    pin_set: PinSet
    counters: list[CounterView]


class HostLook:
    """What is known about the host, brought up to date by `refresh`."""

    def __init__(self, pin_root: Path, rules: Sequence[MetricRule]) -> None:
        self._pin_root = pin_root
        self._rules = rules
        self._maps: dict[int, _MapFacts] = {}
        self._programs: dict[int, ProgramInfo] = {}
        self._sets: dict[str, _SetFacts] = {}
        self._directories: dict[str, tuple[int, int, int]] = {}
        self._staged: list[tuple[str, PinnedIds]] = []
        self._places: dict[int, list[LinkPlace]] = {}
        self._placed: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        self._states: dict[str, str] = {}
        self._problems: dict[str, int] = {}
        self.is_behind = False
        self._own_maps: set[int] = set()
        self._others: dict[int, CounterView | None] = {}
        self._rule_maps: dict[tuple[int, int], RuleMapView | None] = {}

    def refresh(self, ids: HostIds, *, is_whole: bool) -> HostView:
        """Return the view of the host, which has the objects *ids*.

        *is_whole*: also places that no new link or program shows, and problems. `is_behind` says
        that sets changed since problems were looked for.
        """
        _update(self._maps, ids.maps, _map_facts)
        _update(self._programs, ids.programs, _program_facts)
        # In this order a map that a running program counts in is seen in the stage of its set or in
        # the set, even if the two are exchanged now.
        if is_whole or self._placed != (ids.programs, ids.links):
            self._places = _places(self._programs.values())
            self._placed = (ids.programs, ids.links)
        self._staged = _staged(self._pin_root)
        self.is_behind = self._read_sets() or self.is_behind
        if is_whole:
            self._read_status()
            self.is_behind = False
        return self._view()

    def is_outdated(self) -> bool:
        """Whether a set was loaded, reloaded or unloaded since the last look."""
        return dict(_directories(self._pin_root)) != self._directories

    def _read_sets(self) -> bool:
        """Read the sets whose directory changed; return whether one did."""
        sets: dict[str, _SetFacts] = {}
        self._directories = dict(_directories(self._pin_root))
        for name, state in self._directories.items():
            known = self._sets.get(name)
            if known is not None and known.state == state:
                sets[name] = known
                continue
            try:
                pin_set = PinSet.read(self._pin_root, name)
                if isinstance(pin_set, LoadedSet):
                    sets[name] = _SetFacts(state, pin_set, list(_counters_of_set(pin_set)))
            except (BpfError, OSError):
                # It was exchanged while it was read. The next look reads it again, for its state
                # is another one.
                if known is not None:
                    sets[name] = known
        has_changed = sets != self._sets
        self._sets = sets
        return has_changed

    def _read_status(self) -> None:
        with suppress(BpfError, OSError):
            report = status(pin_root=self._pin_root)
            self._states = {found.set: found.state.value for found in report.sets}
            counts = Counter(problem.kind.value for problem in report.problems)
            # Zeros, too: an alert needs a series from before the first problem.
            self._problems = {kind.value: counts[kind.value] for kind in ProblemKind}

    def _view(self) -> HostView:
        map_sets: dict[int, set[str]] = defaultdict(set)
        full_names: dict[int, set[str]] = defaultdict(set)
        program_sets: dict[int, set[str]] = defaultdict(set)
        for shown, objects in self._objects_of_sets():
            for pin, map_id in objects.maps.items():
                map_sets[map_id].add(shown)
                full_names[map_id].add(names.decode(pin))
            for program_id in objects.programs.values():
                program_sets[program_id].add(shown)
        return HostView(
            [_map_view(facts, _only(map_sets[map_id])) for map_id, facts in self._maps.items()],
            [
                _program_view(info, _only(program_sets[info.id]), self._places.get(info.id, ()))
                for info in self._programs.values()
            ],
            self._counters(map_sets),
            [self._set_view(facts.pin_set) for facts in self._sets.values()],
            self._views_of_rules(map_sets, full_names),
            self._problems,
        )

    def _objects_of_sets(self) -> Iterator[tuple[str, PinnedIds]]:
        """Yield what each set pinned, also in its next generation."""
        for facts in self._sets.values():
            if facts.pin_set.objects is not None:
                yield names.display_name(facts.pin_set.name), facts.pin_set.objects
        yield from self._staged

    def _set_view(self, pin_set: PinSet) -> SetRow:
        shown, manifest = names.display_name(pin_set.name), pin_set.manifest
        state = self._states.get(shown, pin_set.state.value)
        generation, loaded_at = (manifest.generation, manifest.time) if manifest else (0, 0)
        return SetRow(shown, state, generation, loaded_at)

    def _counters(self, map_sets: dict[int, set[str]]) -> list[CounterView]:
        counters = [view for facts in self._sets.values() for view in facts.counters]
        counters += self._counters_of_others(map_sets)
        return _once(counters)

    def _counters_of_others(self, map_sets: dict[int, set[str]]) -> Iterator[CounterView]:
        """Yield the counters of attached programs that are in no set."""
        users: dict[int, set[tuple[NodeKind, str]]] = defaultdict(set)
        for program_id, places in self._places.items():
            info = self._programs.get(program_id)
            for place in places if info is not None else ():
                if place.device is not None:
                    for map_id in info.map_ids if info is not None else ():
                        users[map_id].add((place.device.kind, _without_ids(place.device.name)))
        # A map that left its set with the old generation does not count as one of other loaders:
        # its program is detached, and was attached only when the places were read.
        self._own_maps = (self._own_maps & self._maps.keys()) | {
            map_id for map_id, sets in map_sets.items() if sets
        }
        self._others = {key: view for key, view in self._others.items() if key in users}
        for map_id, places_of_map in users.items():
            facts = self._maps.get(map_id)
            if facts is None or map_id in self._own_maps:
                continue
            if map_id not in self._others:
                self._others[map_id] = _counter_of_other(facts.info)
            view = self._others[map_id]
            if view is not None:
                device, cgroup = _only_place(places_of_map)
                yield view._replace(device=device, cgroup=cgroup)

    def _views_of_rules(
        self, map_sets: dict[int, set[str]], full_names: dict[int, set[str]]
    ) -> list[RuleMapView]:
        views = []
        known = self._rule_maps
        self._rule_maps = {}
        for number, rule in enumerate(self._rules):
            for map_id, facts in self._maps.items():
                set_name = _only(map_sets[map_id])
                if not rule.takes({facts.info.name, *full_names[map_id]}, set_name):
                    continue
                key = (number, map_id)
                view = known[key] if key in known else _rule_map(number, facts.info)
                self._rule_maps[key] = view
                if view is not None:
                    views.append(view._replace(set=set_name))
        return views


def _update(known: dict[int, Found], ids: Iterable[int], ask: Callable[[int], Found]) -> None:
    """Ask about new ids, and forget those that are gone."""
    now = set(ids)
    for gone in known.keys() - now:
        del known[gone]
    for new in sorted(now - known.keys()):
        with suppress(BpfError, OSError):  # freed meanwhile
            known[new] = ask(new)


def _map_facts(map_id: int) -> _MapFacts:
    with Descriptor(bpf.map_get_fd_by_id(map_id, flags=ObjectFlag.RDONLY)) as opened:
        memory = fdinfo(opened.fileno()).get("memlock", "0")
        return _MapFacts(map_info(opened.fileno()), int(memory))


def _program_facts(program_id: int) -> ProgramInfo:
    with Descriptor(bpf.prog_get_fd_by_id(program_id)) as opened:
        return program_info(opened.fileno())


def _places(programs: Iterable[ProgramInfo]) -> dict[int, list[LinkPlace]]:
    places: dict[int, list[LinkPlace]] = defaultdict(list)
    with suppress(BpfError, OSError):
        targets = list(link_targets())
        infos = [target.info for target in targets]
        attached = all_attachments(infos, {info.type for info in programs}, [])
        for program in attached:
            if not program.link:
                mode = f" ({program.mode})" if program.mode else ""
                where = f"{program.place.name}{mode}"
                places[program.program_id].append(
                    LinkPlace(program.hook, where, device=program.place)
                )
        by_link = place_links(targets, attached)
        for info in infos:
            places[info.program_id].append(by_link[info.id])
    return dict(places)


def _directories(pin_root: Path) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """Yield the directories that may be sets: name, and inode and times of the directory.

    A reload puts another directory there, and every new or removed pin changes the times.
    """
    try:
        with os.scandir(pin_root) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        # No dot: the kernel's own files. A tilde: the lock, and stages.
        if "." in entry.name or "~" in entry.name:
            continue
        with suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                found = entry.stat(follow_symlinks=False)
                yield entry.name, (found.st_ino, found.st_mtime_ns, found.st_ctime_ns)


def _staged(pin_root: Path) -> list[tuple[str, PinnedIds]]:
    """Return the objects in the stages of sets: the next generation, or after it the last one."""
    staged = []
    with suppress(OSError):
        for name in os.listdir(pin_root):  # noqa: PTH208 - names, not paths
            if name.endswith(names.STAGE_SUFFIX):
                with suppress(BpfError), Directory.open(pin_root / name) as directory:
                    objects = PinnedIds.read(directory)
                    if objects is not None:
                        shown = names.display_name(name.removesuffix(names.STAGE_SUFFIX))
                        staged.append((shown, objects))
    return staged


def _only(sets: set[str]) -> str:
    """Return the only set, "" if there is none or if several sets share the object."""
    return next(iter(sets)) if len(sets) == 1 else ""


def _without_ids(words: str) -> str:
    return _IDS.sub("", words).strip()


def _map_view(facts: _MapFacts, set_name: str) -> MapView:
    info, traits = facts.info, traits_of(facts.info.type)
    # The kernel allocates the entries of these as they come.
    is_growing = traits.grows_with_owners or (
        traits.family in _COUNTING
        and (traits.family is not MapFamily.HASH or bool(info.map_flags & MapFlag.NO_PREALLOC))
    )
    return MapView(
        info.id,
        info.name,
        type_name(info.type),
        info.max_entries,
        facts.memory_bytes,
        set_name,
        traits.counts_entries,
        is_growing,
        trie_entry_size(info.key_size, info.value_size) if traits.is_trie else 0,
        info.type == MapType.RINGBUF,
    )


def _program_view(info: ProgramInfo, set_name: str, places: Sequence[LinkPlace]) -> ProgramView:
    words = dict.fromkeys((place.hook, _without_ids(place.where)) for place in places)
    attached = [list(pair) for pair in words]
    return ProgramView(info.id, info.name, type_word(info.type), set_name, attached)


def _counters_of_set(pin_set: LoadedSet) -> Iterator[CounterView]:
    """Yield the counters of a set; `BpfError` if it is exchanged meanwhile."""
    place, shown = pin_set.manifest.place, names.display_name(pin_set.name)
    # By the path and not by the running program: while entries are migrated the program counts in
    # a map that does not have the old counts yet.
    for name, path in counter_pins(pin_set.maps).items():
        # The usual name alone makes no counters.
        with suppress(UsageError), open_map(str(path)) as bpf_map:
            view = _counter_view(bpf_map, shown, name)
            yield view._replace(
                first=first_id(path, bpf_map.id), device=place.device, cgroup=place.cgroup
            )


def _counter_of_other(info: MapInfo) -> CounterView | None:
    # An array of others may be anything. One with a value per CPU counts; a data section does not.
    is_named = info.name == kernel_name(USUAL_NAME)
    is_plain = info.type == MapType.PERCPU_ARRAY and info.value_size >= COUNTER_SIZE
    if not (is_named or is_plain) or "." in info.name:
        return None
    with suppress(BpfError, OSError), Map.from_id(info.id, read_only=True) as bpf_map:
        if is_named or is_likely_counter(bpf_map):
            return _counter_view(bpf_map, "", info.name)
    return None


def _only_place(places: set[tuple[NodeKind, str]]) -> tuple[str, str]:
    """Return device and cgroup, "" for each that is not the only place."""
    if len(places) != 1:
        return "", ""
    ((kind, name),) = places
    return ("", name) if kind is NodeKind.CGROUP else (name, "")


def _counter_view(bpf_map: Map, set_name: str, name: str) -> CounterView:
    counters = Counters(bpf_map)
    fields, in_bytes = counters.fields, counters.fields.bytes
    return CounterView(
        bpf_map.id,
        bpf_map.id,
        set_name,
        name,
        "",
        "",
        list(counters.keys) if bpf_map.max_entries <= COUNTERS_MAX else [],
        bpf_map.value_size,
        bpf_map.is_per_cpu,
        [fields.packets.offset, fields.packets.size],
        [in_bytes.offset, in_bytes.size] if in_bytes else [],
    )


def _once(counters: Iterable[CounterView]) -> list[CounterView]:
    """Return each map once: what several sets share has no set and no place of its own."""
    by_id: dict[int, CounterView] = {}
    for view in counters:
        if view.keys:
            known = by_id.get(view.id)
            by_id[view.id] = view if known is None else _shared(known, view)
    return list(by_id.values())


def _shared(one: CounterView, other: CounterView) -> CounterView:
    pairs = ((one.set, other.set), (one.device, other.device), (one.cgroup, other.cgroup))
    set_name, device, cgroup = (own if own == theirs else "" for own, theirs in pairs)
    return one._replace(set=set_name, device=device, cgroup=cgroup)


def _rule_map(number: int, info: MapInfo) -> RuleMapView | None:
    with suppress(BpfError, OSError), open_map(f"id:{info.id}") as bpf_map:
        refs = {"key": bpf_map.key_type, "value": bpf_map.value_type}
        known = {name: ref for name, ref in refs.items() if ref is not None}
        blob, type_ids = subset(list(known.values())) if known else (b"", [])
        ids = dict(zip(known, type_ids, strict=True))
        types = base64.b64encode(blob).decode()
        return RuleMapView(
            number, info.id, info.name, "", types, ids.get("key", 0), ids.get("value", 0)
        )
    return None
