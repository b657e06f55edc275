"""The plan of a load: the decisions on all maps and hooks, made before any change.

A dry run prints the plan, and a real load follows the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from bpfpin.errors import (
    BusyError,
    Difference,
    IdNotFoundError,
    IncompatibleMapError,
    PinError,
    PinKindError,
    PinNotFoundError,
)
from bpfpin.hints import Argument, Fix, Placeholder, shell_line
from bpfpin.hooks import HeldBy
from bpfpin.objects.link import HookAttachment
from bpfpin.objects.maps.contents import ContentsChange, change_to
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins import folds, names
from bpfpin.pins.manifest import HookRecord
from bpfpin.pins.pinset import LoadedSet
from bpfpin.records import dataclass
from bpfpin.spec import Dialect, MapSpec, ObjectSpec
from bpfpin.syscall.fd import Closing

if TYPE_CHECKING:
    from bpfpin.migration.plan import MigrationPlan

ALL: Final = "all"  # as a name of a map that starts empty
CONSTANTS: Final = (".rodata", ".kconfig")  # each generation makes these maps anew


class Decision(Enum):
    """The decision on a map."""

    CREATED = "created"
    KEPT = "kept"
    SHARED = "shared"
    FRESH = "fresh"
    MIGRATED = "migrated"
    REMOVED = "removed"


class HookAction(Enum):
    """The action at a hook."""

    ATTACH = "attach"
    UPDATE = "update"
    DETACH = "detach"


@dataclass(frozen=True, slots=True)
class MapPlan:
    """The decision on one map, with the reason; *map_id* is the id of the existing map.

    *migration* is the plan for its contents, if a new map replaces it. *is_pin_lost*: somebody
    removed or replaced its pin. *contents* says how its entries change, if the object states them.
    """

    name: str
    decision: Decision
    map_id: int | None = None
    reason: str = ""
    migration: MigrationPlan | None = None
    is_pin_lost: bool = False
    contents: ContentsChange | None = None


@dataclass(frozen=True, slots=True)
class MapMigration:
    """An old map whose contents move to map *name* of the next generation."""

    name: str
    old: Map
    plan: MigrationPlan


PlanMigration = Callable[[MapSpec, Map], "MigrationPlan"]
"""Plans how the contents of a map move to a new one; `IncompatibleMapError` if they cannot."""


@dataclass(frozen=True)
class HookPlan(Closing):
    """The action at one hook.

    Attributes:
        action: Whether the hook is attached, switched or detached.
        hook: The word of the hook.
        link: The name of the pin of its link.
        program: The program of the new object that is to run there.
        target: What the program names as its target; "" where the place of the set says all.
        attachment: What an update switches; open as long as the plan. A hook of the set that does
            not update in place has it, too, although the next program is attached beside it.
        previous: The program that runs there now, or the table (struct_ops); open as long as the
            plan.
        previous_id: The id of that program or table.
        link_id: The id of the link that holds it; None without one.
        mode: The XDP mode that it runs in.
        held_by: What holds it.
        before: The record of the hook in the live set.
        is_taken: Whether the program that runs there now is somebody else's.
    """

    action: HookAction
    hook: str
    link: str
    program: str = ""
    target: str = ""
    attachment: HookAttachment | None = None
    previous: Program | Map | None = None
    previous_id: int | None = None
    link_id: int | None = None
    mode: str = ""
    held_by: HeldBy = HeldBy.LINK
    before: HookRecord | None = None
    is_taken: bool = False

    def close(self) -> None:
        """Close the attachment and the previous program."""
        for opened in (self.attachment, self.previous):
            if opened is not None:
                opened.close()


@dataclass(frozen=True)
class Plan(Closing):
    """The whole plan of a load for the set *live* (None: there is none yet).

    *given* are existing maps that the programs will use; *migrating* are old maps whose contents
    move to new ones. The plan owns these and its hooks: `close` closes them. *is_unchanged*: the
    set already is as requested.
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
        for bpf_map in (*self.given.values(), *(migration.old for migration in self.migrating)):
            bpf_map.close()
        for hook in self.hooks:
            hook.close()


class PlannedMaps(NamedTuple):
    """The plans of all maps, the existing maps to use, and the maps whose contents move."""

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
    """Decide on every map of the object.

    Args:
        spec: The new object.
        live: The live set, None for a first load.
        shared: Existing maps from outside of the set by name, each with a description of where it
            comes from. They belong to the caller until this function returns.
        fresh: Names of maps that start empty; `all` stands for every map.
        migrate: Plans how the contents of a map move to a new one; None: maps must fit.
        may_replace: Whether a shared map may be replaced. Asked if it does not fit or is to start
            empty.

    Returns:
        The plans, with the existing maps opened; the caller closes these.

    Raises:
        IncompatibleMapError: With the differences of all maps that do not fit.
    """
    with ExitStack() as undo:
        sources = _Sources(live, shared, fresh, undo, migrate, may_replace)
        decided = [sources.decide(map_spec) for map_spec in spec.maps.values()]
        differences = [difference for _, _, of_map in decided for difference in of_map]
        _require_fit(differences)
        given = {plan.name: bpf_map for plan, bpf_map, _ in decided if bpf_map is not None}
        undo.pop_all()
    gone = [
        MapPlan(name, Decision.REMOVED, _id_at(path), "the new object does not define it")
        for name, path in (live.maps.items() if live else ())
        if name not in spec.maps
    ]
    plans = (*(plan for plan, _, _ in decided), *gone)
    return PlannedMaps(plans, given, tuple(sources.migrating))


def is_constant(name: str) -> bool:
    """Whether the object file alone determines the contents of a map."""
    return name.startswith(CONSTANTS)


_Decided = tuple[MapPlan, Map | None, list[Difference]]


@dataclass(frozen=True)
class _Sources:
    """The sources of existing maps; *undo* closes those that were opened."""

    live: LoadedSet | None
    shared: Mapping[str, tuple[Map, str]]
    fresh: Collection[str]
    undo: ExitStack
    migrate: PlanMigration | None = None
    may_replace: Callable[[str], bool] = lambda name: False
    migrating: list[MapMigration] = field(default_factory=list)

    def decide(self, spec: MapSpec) -> _Decided:
        name, live = spec.name, self.live
        if name in self.shared:
            return self._share(spec)
        # They are frozen once they are filled (BPF_MAP_FREEZE), so a kept one could not get the
        # values of the new object.
        if is_constant(name):
            return _make(spec, "constants belong to their program")
        if live is None:
            return _make(spec, "") if spec.entries is None else _make_filled(spec)
        if self._is_fresh(name) and name in live.map_names:
            return _start_empty(name)
        # Program arrays and maps of maps: filling a kept one would switch tail calls of the running
        # programs before the commit (docs/decisions/0010).
        if spec.initial and name in live.map_names:
            return _make(spec, "the object itself states its entries")
        bpf_map = _own_map(live, spec)
        if spec.entries is not None:
            return self._refill(spec, live, bpf_map)
        if bpf_map is None:
            if name not in live.map_names:
                return _make(spec, "it is new")
            reason = "its pin was removed by hand, and the map with it"
            return _make(spec, reason, is_pin_lost=True)
        self.undo.enter_context(bpf_map)
        decided = _keep(spec, live, bpf_map)
        return self._migrate(spec, bpf_map) if decided[2] and self.migrate else decided

    def _refill(self, spec: MapSpec, live: LoadedSet, bpf_map: Map | None) -> _Decided:
        """Keep a map that has the entries of *spec* already; else a new map takes its place."""
        if bpf_map is None:
            return _make_filled(spec)
        self.undo.enter_context(bpf_map)
        decided = _keep(spec, live, bpf_map)
        is_alike = (bpf_map.key_size, bpf_map.value_size) == (spec.key_size, spec.value_size)
        change = change_to(bpf_map if is_alike else None, spec)
        # Nothing has to be migrated where the definition changed: all entries are stated.
        if decided[2] or change:
            bpf_map.close()  # the plan closes the maps that it keeps
            reason = "its definition changes" if decided[2] else str(change)
            return MapPlan(spec.name, Decision.FRESH, None, reason, contents=change), None, []
        return decided

    def _migrate(self, spec: MapSpec, bpf_map: Map) -> _Decided:
        """Plan that the contents move to a new map, with those that found no room before."""
        assert self.migrate is not None
        try:
            plan = self.migrate(spec, bpf_map)
            self.migrating.append(MapMigration(spec.name, bpf_map, plan))
            for left_over in self._left_of(spec.name):
                old = self.undo.enter_context(left_over)
                self.migrating.append(MapMigration(spec.name, old, self.migrate(spec, old)))
        except IncompatibleMapError as error:
            return MapPlan(spec.name, Decision.MIGRATED, bpf_map.id), None, list(error.differences)
        reason = "its contents go over to a new map"
        return MapPlan(spec.name, Decision.MIGRATED, bpf_map.id, reason, plan), None, []

    def _share(self, spec: MapSpec) -> _Decided:
        bpf_map, source = self.shared[spec.name]
        pinned = self.live.maps.get(spec.name) if self.live else None
        # By id: the shared name may lead to the map that the set pins anyway.
        is_kept = pinned is not None and _id_at(pinned) == bpf_map.id
        decision = Decision.KEPT if is_kept else Decision.SHARED
        decided = _use(spec, bpf_map, decision, f"it is the map of {source}")
        is_fresh, is_unfit = self._is_fresh(spec.name), bool(decided[2])
        if spec.entries is not None and not is_unfit and (change := change_to(bpf_map, spec)):
            if not self.may_replace(spec.name):
                raise _shared_elsewhere(spec.name, source, change)
            return (
                MapPlan(spec.name, Decision.FRESH, None, str(change), contents=change),
                None,
                [],
            )
        if not (is_fresh or is_unfit) or not self.may_replace(spec.name):
            return decided
        if is_fresh:
            return _start_empty(spec.name)
        return self._migrate(spec, bpf_map) if self.migrate else decided

    def _is_fresh(self, name: str) -> bool:
        return ALL in self.fresh or name in self.fresh

    def _left_of(self, name: str) -> Iterator[Map]:
        """Open the old maps whose contents found no room in earlier migrations."""
        if self.live is not None:
            yield from folds.remaining_maps(self.live.path, names.map_pin_name(name))


def _id_at(path: Path) -> int | None:
    """Return the id of the map that is pinned at *path*, None if no map is."""
    with suppress(PinKindError, PinNotFoundError), Map.from_pin(path) as bpf_map:
        return bpf_map.id
    return None


def _use(
    spec: MapSpec, bpf_map: Map, decision: Decision, reason: str, *, is_pin_lost: bool = False
) -> _Decided:
    from bpfpin.objects.maps import compat  # noqa: PLC0415  (only where a definition changed)

    plan = MapPlan(spec.name, decision, bpf_map.id, reason, is_pin_lost=is_pin_lost)
    return plan, bpf_map, compat.differences(spec, bpf_map)


def _start_empty(name: str) -> _Decided:
    return MapPlan(name, Decision.FRESH, None, "it starts empty, as asked"), None, []


def _make(spec: MapSpec, reason: str, *, is_pin_lost: bool = False) -> _Decided:
    plan = MapPlan(spec.name, Decision.CREATED, None, reason, is_pin_lost=is_pin_lost)
    return plan, None, []


def _make_filled(spec: MapSpec) -> _Decided:
    change = change_to(None, spec)
    return MapPlan(spec.name, Decision.CREATED, None, str(change), contents=change), None, []


def _shared_elsewhere(name: str, source: str, change: ContentsChange) -> BusyError:
    return BusyError(
        f"map {name} is that of {source}, which others use: a new map with other entries ({change})"
        " would take it away from them",
        holder=source,
        hint="change the entries in place: "
        + shell_line("bpfpin map set", source, Placeholder("KEY"), Placeholder("VALUE")),
    )


def _own_map(live: LoadedSet, spec: MapSpec) -> Map | None:
    """Open the map of the set that *spec* continues, None if there is none.

    If somebody removed or replaced its pin, it is the recorded map, or else the map of that name
    and definition that a program of the set uses.
    """
    try:
        bpf_map = live.open_map(spec.name)
    except PinKindError as error:
        error.fix = Fix.of(
            "bpfpin did not put it there; to make the map anew in its place: ",
            Argument("fresh", [spec.name]),
        )
        raise
    if bpf_map is None and spec.name not in live.maps:
        return _used_map(live, spec)
    return bpf_map


def _used_map(live: LoadedSet, spec: MapSpec) -> Map | None:
    """Open the only map of that name and definition that the set's programs use."""
    from bpfpin.objects.maps import compat  # noqa: PLC0415  (only where a definition changed)

    fitting: list[Map] = []
    for map_id in _used_ids(live):
        with suppress(IdNotFoundError), ExitStack() as undo:
            bpf_map = undo.enter_context(Map.from_id(map_id))
            has_name = bpf_map.name == spec.kernel_name
            if has_name and not compat.differences(spec, bpf_map):
                fitting.append(bpf_map)
                undo.pop_all()
    if len(fitting) == 1:
        return fitting[0]
    # Several would be a guess.
    for bpf_map in fitting:
        bpf_map.close()
    return None


def _used_ids(live: LoadedSet) -> set[int]:
    """Return the ids of maps that the set's programs use and that are not pinned in the set."""
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


def _keep(spec: MapSpec, live: LoadedSet, bpf_map: Map) -> _Decided:
    path = live.maps.get(spec.name)
    is_pin_lost = path is None or _id_at(path) != bpf_map.id
    if is_pin_lost:
        reason = f"its pin was {'replaced' if path else 'removed'} by hand; it is pinned again"
    elif spec.dialect is Dialect.DATA:
        reason = "its variables are the same and go on with their values"
    else:
        reason = "its definition is the same"
    return _use(spec, bpf_map, Decision.KEPT, reason, is_pin_lost=is_pin_lost)


def _require_fit(differences: list[Difference]) -> None:
    if differences:
        maps = ", ".join(dict.fromkeys(difference.map for difference in differences))
        raise IncompatibleMapError(
            f"not the map that the object asks for: {maps}", differences=differences
        )
