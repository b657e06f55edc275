"""What a load will do with a pin set: decided by looking, before anything is changed.

The same plan is printed by a dry run and followed by a real one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from bpfpin.errors import (
    Difference,
    IdNotFoundError,
    IncompatibleMapError,
    PinError,
    PinKindError,
    PinNotFoundError,
)
from bpfpin.objects.link import HookAttachment
from bpfpin.objects.maps import compat
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins import folds, names
from bpfpin.pins.manifest import HeldBy, HookRecord
from bpfpin.pins.pinset import LoadedSet
from bpfpin.spec import Dialect, MapSpec, ObjectSpec
from bpfpin.syscall.fd import Closing

if TYPE_CHECKING:
    from bpfpin.migration.plan import MigrationPlan

ALL: Final = "all"  # of --fresh
LOST: Final = "its pin was"  # how the reason begins where somebody removed or replaced a pin
_KERNEL_NAME_LENGTH: Final = 15
CONSTANTS: Final = (".rodata", ".kconfig")  # each generation makes its own


class Decision(Enum):
    """What becomes of a map."""

    CREATED = "created"
    KEPT = "kept"
    SHARED = "shared"
    FRESH = "fresh"
    MIGRATED = "migrated"
    REMOVED = "removed"


class HookAction(Enum):
    """What becomes of a hook."""

    ATTACH = "attach"
    UPDATE = "update"
    DETACH = "detach"


@dataclass(frozen=True, slots=True)
class MapPlan:
    """What becomes of one map, and why; *map_id* is that of the map that is there already.

    *migration* is how its contents go over to the one that takes its place.
    """

    name: str
    decision: Decision
    map_id: int | None = None
    reason: str = ""
    migration: MigrationPlan | None = None


@dataclass(frozen=True, slots=True)
class MapMigration:
    """An old map whose contents go over to map *name* of the next generation."""

    name: str
    old: Map
    plan: MigrationPlan


PlanMigration = Callable[[MapSpec, Map], "MigrationPlan"]
"""Plans how the contents of a map go over; `IncompatibleMapError` where they cannot."""


@dataclass(frozen=True)
class HookPlan(Closing):
    """What becomes of one hook; *link* is the name of its pin.

    To be updated is *attachment*, which runs *previous* now; *is_taken* if that is somebody else's.
    Both are open while the plan is. *before* is what the live set remembers of it, *mode* the XDP
    mode of what is attached there.
    """

    action: HookAction
    hook: str
    link: str
    program: str = ""
    attachment: HookAttachment | None = None
    previous: Program | None = None
    previous_id: int | None = None
    link_id: int | None = None
    mode: str = ""
    held_by: HeldBy = HeldBy.LINK
    before: HookRecord | None = None
    is_taken: bool = False

    def close(self) -> None:
        """Let go of what it holds."""
        for opened in (self.attachment, self.previous):
            if opened is not None:
                opened.close()


@dataclass(frozen=True)
class Plan(Closing):
    """All that a load will do to the set *live*; *given* are the maps that are used, not made.

    *migrating* are old maps whose contents go over. It owns what it looked at: `close` lets go of
    it. *is_unchanged*: there is nothing to be done.
    """

    live: LoadedSet | None
    generation: int
    maps: tuple[MapPlan, ...]
    hooks: tuple[HookPlan, ...]
    given: Mapping[str, Map] = field(default_factory=dict)
    migrating: tuple[MapMigration, ...] = ()
    is_unchanged: bool = False

    def close(self) -> None:
        """Close the maps, programs and links that the plan holds."""
        for held in (*self.given.values(), *(each.old for each in self.migrating)):
            held.close()
        for hook in self.hooks:
            hook.close()


class PlannedMaps(NamedTuple):
    """The plans of all maps, those that are used again, and those whose contents go over."""

    plans: tuple[MapPlan, ...]
    given: dict[str, Map]
    migrating: tuple[MapMigration, ...]


def plan_maps(
    spec: ObjectSpec,
    live: LoadedSet | None,
    *,
    shared: Mapping[str, tuple[Map, str]],
    fresh: Collection[str] = (),
    migrate: PlanMigration | None = None,
    may_replace: Callable[[str], bool] = lambda name: False,
) -> PlannedMaps:
    """Decide on every map, and return those that are used again, opened; the caller closes them.

    *shared* are maps from outside of the set with where they came from, and belong to the caller
    until this returns; *fresh* names maps that start empty, `all` is every one. With *migrate* the
    contents of maps of the set that do not fit go over to new ones. A shared map is only replaced
    if *may_replace* says so, which is asked where it is to start empty or does not fit. The
    differences of all maps that do not fit are in one `IncompatibleMapError`.
    """
    with ExitStack() as undo:
        sources = _Sources(live, shared, fresh, undo, migrate, may_replace)
        decided = [sources.decide(each) for each in spec.maps.values()]
        found = [difference for _, _, found in decided for difference in found]
        _require_fit(found, hints=sources.hints)
        given = {plan.name: held for plan, held, _ in decided if held is not None}
        undo.pop_all()
    gone = [
        MapPlan(name, Decision.REMOVED, _id_at(path), "the new object does not define it")
        for name, path in (live.maps.items() if live else ())
        if name not in spec.maps
    ]
    plans = (*(plan for plan, _, _ in decided), *gone)
    return PlannedMaps(plans, given, tuple(sources.migrating))


def is_constant(name: str) -> bool:
    """Whether a map holds what the object file says and nothing else."""
    return name.startswith(CONSTANTS)


_Decided = tuple[MapPlan, Map | None, list[Difference]]


@dataclass(frozen=True)
class _Sources:
    """Where maps may come from; what is opened is closed by *undo*."""

    live: LoadedSet | None
    shared: Mapping[str, tuple[Map, str]]
    fresh: Collection[str]
    undo: ExitStack
    migrate: PlanMigration | None = None
    may_replace: Callable[[str], bool] = lambda name: False
    migrating: list[MapMigration] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)

    def decide(self, spec: MapSpec) -> _Decided:
        name, live = spec.name, self.live
        if name in self.shared:
            return self._share(spec)
        if is_constant(name):
            return _make(spec, "constants belong to their program")
        if live is None:
            return _make(spec, "")
        if self._is_fresh(name) and name in live.map_names:
            return _start_empty(name)
        if spec.initial and name in live.map_names:
            return _make(spec, "the object itself says what is in it")
        held = _own_map(live, spec)
        if held is None:
            is_lost = name in live.map_names
            return _make(
                spec, f"{LOST} removed by hand, and the map with it" if is_lost else "it is new"
            )
        self.undo.enter_context(held)
        decided = _use(spec, held, Decision.KEPT, _kept_reason(spec, live, held))
        return self._migrate(spec, held) if decided[2] and self.migrate else decided

    def _migrate(self, spec: MapSpec, held: Map) -> _Decided:
        """Let the contents go over to a new map, with those that an earlier one had no room for."""
        assert self.migrate is not None
        try:
            plan = self.migrate(spec, held)
            self.migrating.append(MapMigration(spec.name, held, plan))
            for left in self._left_of(spec.name):
                old = self.undo.enter_context(left)
                self.migrating.append(MapMigration(spec.name, old, self.migrate(spec, old)))
        except IncompatibleMapError as error:
            self.hints.append(error.hint)
            return MapPlan(spec.name, Decision.MIGRATED, held.id), None, list(error.differences)
        reason = "its contents go over to a new map"
        return MapPlan(spec.name, Decision.MIGRATED, held.id, reason, plan), None, []

    def _share(self, spec: MapSpec) -> _Decided:
        held, source = self.shared[spec.name]
        pinned = self.live.maps.get(spec.name) if self.live else None
        is_kept = pinned is not None and _id_at(pinned) == held.id
        decision = Decision.KEPT if is_kept else Decision.SHARED
        decided = _use(spec, held, decision, f"it is the map of {source}")
        is_fresh, is_unfit = self._is_fresh(spec.name), bool(decided[2])
        if not (is_fresh or is_unfit) or not self.may_replace(spec.name):
            return decided
        if is_fresh:
            return _start_empty(spec.name)
        return self._migrate(spec, held) if self.migrate else decided

    def _is_fresh(self, name: str) -> bool:
        return ALL in self.fresh or name in self.fresh

    def _left_of(self, name: str) -> Iterator[Map]:
        """Open what earlier migrations of the map had no room for."""
        if self.live is not None:
            yield from folds.remaining_maps(self.live.path, names.map_pin_name(name))


def _id_at(path: Path) -> int | None:
    """Return the id of the map that is pinned there, None if that is something else."""
    with suppress(PinKindError, PinNotFoundError), Map.from_pin(path) as held:
        return held.id
    return None


def _use(spec: MapSpec, held: Map, decision: Decision, reason: str) -> _Decided:
    plan = MapPlan(spec.name, decision, held.id, reason)
    return plan, held, compat.differences(spec, held)


def _start_empty(name: str) -> _Decided:
    return MapPlan(name, Decision.FRESH, None, "it starts empty, as asked"), None, []


def _make(spec: MapSpec, reason: str) -> _Decided:
    return MapPlan(spec.name, Decision.CREATED, None, reason), None, []


def _own_map(live: LoadedSet, spec: MapSpec) -> Map | None:
    """Open the map of the set that *spec* goes on with, None if there is none.

    Where its pin was removed or replaced by hand, it is the one that was written down, else the one
    of that name and definition that a program of the set uses.
    """
    try:
        held = live.open_map(spec.name)
    except PinKindError as error:
        error.hint = (
            f"bpfpin did not put it there; to make the map anew in its place: --fresh {spec.name}"
        )
        raise
    return _used_map(live, spec) if held is None and spec.name not in live.maps else held


def _used_map(live: LoadedSet, spec: MapSpec) -> Map | None:
    """Open the only map of that name and definition that the set's programs use."""
    fitting: list[Map] = []
    for map_id in _used_ids(live):
        with suppress(IdNotFoundError), ExitStack() as undo:
            held = undo.enter_context(Map.from_id(map_id))
            # The kernel keeps 15 bytes of a name, and replaces none of those that C allows.
            if held.name == spec.name[:_KERNEL_NAME_LENGTH] and not compat.differences(spec, held):
                fitting.append(held)
                undo.pop_all()
    if len(fitting) == 1:
        return fitting[0]
    for held in fitting:
        held.close()
    return None


def _used_ids(live: LoadedSet) -> set[int]:
    """Return the maps that the programs of the set use, and which are not pinned in it."""
    ids: set[int] = set()
    for name in live.program_names:
        if program := live.open_program(name):
            with program:
                ids.update(program.info.map_ids)
    for pin in live.links:
        with suppress(PinError, IdNotFoundError):  # gone meanwhile
            if link := live.open_link(pin):
                with link, Program.from_id(link.info.program_id) as program:
                    ids.update(program.info.map_ids)
    return ids - {_id_at(path) for path in live.maps.values()}


def _kept_reason(spec: MapSpec, live: LoadedSet, held: Map) -> str:
    path = live.maps.get(spec.name)
    if path is None or _id_at(path) != held.id:
        return f"{LOST} {'replaced' if path else 'removed'} by hand; it is pinned again"
    if spec.dialect is Dialect.DATA:
        return "its variables are the same and go on with their values"
    return "its definition is the same"


def _require_fit(found: list[Difference], *, hints: Collection[str]) -> None:
    if found:
        maps = ", ".join(dict.fromkeys(each.map for each in found))
        raise IncompatibleMapError(
            f"not the map that the object asks for: {maps}",
            differences=found,
            hint="\n".join(filter(None, dict.fromkeys(hints))),
        )
