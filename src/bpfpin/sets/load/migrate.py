"""Plan the migration of maps whose definition changed, and check their other users."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import field
from typing import Final, TypeVar

from bpfpin.analysis.follow import users_of_programs, users_of_specs
from bpfpin.btf.btf import Btf
from bpfpin.errors import BpfError, Difference, UsageError
from bpfpin.hints import Argument, Fix
from bpfpin.host.users import MapUser, programs_of
from bpfpin.migration.members import struct_names
from bpfpin.migration.plan import (
    MigrationPlan,
    MigrationRequest,
    members_of,
    new_members,
    plan_migration,
    types_of,
)
from bpfpin.migration.refusal import (
    BEST_EFFORT,
    MemberNames,
    MigrationRefusedError,
    Remedy,
    require_known,
    require_possible,
    together,
)
from bpfpin.migration.request import Migration
from bpfpin.objects.kernel.btf import map_btf
from bpfpin.objects.kernel.object import wait_until_freed
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins import folds
from bpfpin.pins.pinset import LoadedSet
from bpfpin.pins.plan import HookAction, HookPlan
from bpfpin.records import dataclass
from bpfpin.sets.load.hooks import attached
from bpfpin.sets.request import LoadRequest
from bpfpin.spec import MapSpec, ObjectSpec

T = TypeVar("T")
_FREED_S: Final = 0.5
_WORD: Final = 8
_CARRY: Final = "to carry over what is counted there"


@dataclass(frozen=True)
class Migrator:
    """Plans the migrations of one load; *hooks* have the programs that run now.

    `UsageError` for a migration that is to go back unless it is confirmed.
    """

    request: LoadRequest
    live: LoadedSet | None
    hooks: tuple[HookPlan, ...]
    _members: dict[str, MemberNames] = field(default_factory=dict)
    _remedies: list[Remedy] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse a migration that would have to go back by itself."""
        if self.is_asked and self.request.confirm_s is not None:
            raise UsageError(
                "a migration cannot be on trial: moved entries do not go back by themselves",
                hint=Fix.of("try it first: ", Argument("dry_run")),
            )

    @property
    def is_asked(self) -> bool:
        """Whether maps that do not fit are to be migrated; else they are refused."""
        return self.request.migration is not None

    def plan(self, spec: MapSpec, old: Map) -> MigrationPlan:
        """Plan how the contents of *old* move; `MigrationRefusedError` if they cannot."""
        try:
            return self._plan(spec, old, self.request.migration or Migration())
        except MigrationRefusedError as refused:
            self._remedies.extend(refused.remedies)
            raise

    def require_known(self) -> None:
        """Raise `UsageError` for a named member that no map of the migration has."""
        if any(shared.is_new for shared in self.request.shared.values()):
            return  # the set that makes the new map has checked the members
        if self.request.migration is not None and self._members:
            require_known(self.request.migration, self._members)

    def require_possible(self) -> None:
        """Raise `UsageError` for settings that cannot be meant, where no map has to be migrated.

        Only what the object itself decides: the old members may have been migrated by this line.
        """
        migration = self.request.migration
        if migration is None or not (migration.names() or migration.layouts):
            return
        maps: dict[str, frozenset[str]] = {}
        is_known = True
        library = _library(self.request.spec)
        for name, spec in self.request.spec.maps.items():
            try:
                names = new_members(spec, migration, library)
            # Members that no migration can take apart are no reason to refuse a load without one.
            except BpfError:
                names = None
            is_known = is_known and names is not None
            maps[name] = names or frozenset()
        require_possible(migration if is_known else Migration(layouts=migration.layouts), maps)

    def ways_out(self, names: Iterable[str]) -> Iterator[Fix]:
        """Yield what to add so that the maps *names*, which were refused, are migrated.

        A way that loses counts says so. Nothing for a map that cannot be migrated at all.
        """
        if self.is_asked:
            yield from _ways(self._remedies, _added)
            return
        for name in names:
            try:
                # Planned only to see whether it works: it reads the map and changes nothing.
                with self._old(name) as old:
                    self._plan(self.request.spec.maps[name], old, Migration())
            except MigrationRefusedError as refused:
                yield from _ways(refused.remedies, _asked)
            except BpfError:
                continue
            else:
                yield Fix.of(f"{_CARRY}: ", Argument("migrate"))

    def _plan(self, spec: MapSpec, old: Map, migration: Migration) -> MigrationPlan:
        with ExitStack() as opened:
            pinned = [opened.enter_context(program) for program in self._programs(spec.name)]
            # What the hooks really run, besides the pinned programs: somebody may have replaced a
            # pin or a program.
            running = [hook.previous for hook in self.hooks if isinstance(hook.previous, Program)]
            programs = {program.id: program for program in (*pinned, *running)}
            before = users_of_programs(programs.values(), {spec.name: old})
            libraries = _libraries(programs.values()), _library(self.request.spec)
        specs = self.request.spec.programs
        after = users_of_specs(specs[name] for name in self.request.programs)
        migration_request = MigrationRequest(
            spec,
            old,
            before.get(spec.name, ()),
            after.get(spec.name, ()),
            migration,
            libraries,
        )
        self._remember(migration_request)
        # The user accepts losses with --best-effort, so users of the map that go on with the old
        # one are accepted as well.
        if not migration.best_effort:
            # Programs of unfinished folds use the map as well. They run only when this tool runs
            # them.
            _require_reached(spec.name, old, set(programs) | self._folding_ids())
            self._require_switched(spec.name, old)
        return _planned(migration_request)

    def _require_switched(self, name: str, old: Map) -> None:
        """Refuse a map that is used at a hook that leaves the set.

        The program there counts in the old map until the new generation is published.
        """
        if self.live is None:
            return
        # Hooks that leave the set are detached after the publication (step 9 of
        # `pins.transaction`), so their programs go on counting in the old map while the fold runs.
        # So does the old program at a hook that does not update in place.
        switched = {
            hook.before.link
            for hook in self.hooks
            if hook.action is HookAction.UPDATE and hook.before is not None
        }
        leaving = [record for record in attached(self.live) if record.link not in switched]
        using = [record for record in leaving if self._uses(record.program, old)]
        if using:
            loss = "leaves the set, and what it counts until then is lost"
            first = f"first: {self.request.unload_line}"
            raise MigrationRefusedError(
                f"map {name} is used at hooks that leave the set",
                differences=[Difference(name, "hook", record.hook, loss) for record in using],
                remedies=[Remedy(Argument("best_effort"), instead=first)],
            )

    def _uses(self, program: str, old: Map) -> bool:
        pinned = self.live.open_program(program) if self.live else None
        if pinned is None:
            return True  # an unknown program runs there
        with pinned:
            return old.id in pinned.info.map_ids

    def _remember(self, request: MigrationRequest) -> None:
        """Keep the names of the members; entries that an earlier load left over have their own."""
        names, before = members_of(request), self._members.get(request.spec.name)
        if before is not None:
            names = MemberNames(names.old | before.old, names.new | before.new)
        self._members[request.spec.name] = names

    def _old(self, name: str) -> AbstractContextManager[Map]:
        """Open the current map: that of a shared name, else that of the set."""
        shared = self.request.shared.get(name)
        if shared is not None and shared.bpf_map is not None:
            # The request keeps this map and closes it.
            return nullcontext(shared.bpf_map)
        own = self.live.open_map(name) if self.live else None
        return own or Map.from_pin(self.request.map_path(name))

    def _folding_ids(self) -> set[int]:
        return folds.program_ids(self.live.path) if self.live else set()

    def _programs(self, name: str) -> Iterator[Program]:
        """Open the programs that this load replaces and that may use map *name*.

        For a shared name they are those of all sets of the command.
        """
        for program in self.live.program_names if self.live else ():
            if self.live and (own := self.live.open_program(program)):
                yield own
        shared = self.request.shared.get(name)
        if shared is not None and shared.is_exchangeable:
            yield from self.request.open_beside_programs()


def _planned(request: MigrationRequest) -> MigrationPlan:
    """Plan the migration; if values have no types, a refusal asks for their layout alone."""
    try:
        return plan_migration(request)
    except MigrationRefusedError as error:
        if layouts := _layouts(request):
            setting = Argument("layouts", {request.spec.name: layouts})
            error.remedies = (Remedy(setting),)
        raise


def _layouts(request: MigrationRequest) -> list[str]:
    """Return the layouts of untyped values to be given, none if both sides have types."""
    spec, old = request.spec, request.old
    untyped = [type_ is None for type_ in types_of(request)]
    if not any(untyped):
        return []
    sizes, libraries = (old.value_size, spec.value_size), request.libraries
    names = [
        frozenset(struct_names(library, size))
        for is_untyped, library, size in zip(untyped, libraries, sizes, strict=True)
        if is_untyped
    ]
    common = sorted(frozenset.intersection(*names))
    if len(common) == 1:
        return [f"struct {common[0]}"]
    is_missing = [True, False] if sizes[0] == sizes[1] else untyped
    layouts = [
        _members(size) for is_untyped, size in zip(is_missing, sizes, strict=True) if is_untyped
    ]
    return list(dict.fromkeys(layouts))


def _members(size: int) -> str:
    """Return the form of a layout of *size* bytes, with numbers of eight bytes."""
    return "u64 MEMBER;…" if size > _WORD else "u64 MEMBER"


def _libraries(programs: Iterable[Program]) -> tuple[Btf, ...]:
    """Return the BTF of loaded programs, as far as they have any."""
    btf_by_id: dict[int, Btf] = {}
    for program in programs:
        if (btf_id := program.info.btf_id) and btf_id not in btf_by_id:
            with suppress(BpfError):  # gone, or not for this user
                btf_by_id[btf_id] = map_btf(btf_id)
    return tuple(btf_by_id.values())


def _library(spec: ObjectSpec) -> tuple[Btf, ...]:
    return (spec.btf,) if spec.btf is not None else ()


def _require_reached(name: str, old: Map, ours: set[int]) -> None:
    """Refuse a map that a program of others uses: it would go on with the old map."""
    # A program that was just unloaded is still listed until the kernel has freed it. One that
    # nothing references is given time to go; one with a place is not.
    others = wait_until_freed(
        lambda: [user for user in programs_of(old.id) if user.id not in ours],
        lambda users: not users or any(user.place for user in users),
        timeout_s=_FREED_S,
    )
    if others:
        raise MigrationRefusedError(
            f"map {name} is used by programs of others",
            differences=[_difference(name, user) for user in others],
            remedies=[BEST_EFFORT],
        )


def _difference(name: str, user: MapUser) -> Difference:
    loss = "stays with the old map, and what it counts from then on is lost: not of this set"
    return Difference(name, "user", str(user), loss)


def _ways(
    remedies: Sequence[Remedy], asking: Callable[[Iterable[Argument]], tuple[str | Argument, ...]]
) -> Iterator[Fix]:
    """Yield one sentence per way out; *asking* writes the options.

    The first keeps everything, if that is possible, and the second says what it loses.
    """
    settings = [remedy for remedy in remedies if remedy.is_setting]
    reasons = _distinct(remedy.reason for remedy in remedies if not remedy.is_setting)
    lost = dict.fromkeys(remedy.lost for remedy in settings if remedy.lost)
    if remedies and all(remedy.keeping for remedy in settings):
        keeping = asking(remedy.keeping for remedy in settings if remedy.keeping)
        instead = _distinct(f" (or {remedy.instead})" for remedy in settings if remedy.instead)
        yield _way(f"{_CARRY}: ", (*(keeping if settings else ()), *instead), reasons)
    if lost:
        about = f"to lose {' and '.join(lost)}, and carry over the rest: "
        yield _way(about, asking(filter(None, map(_losing, settings))), reasons)


def _distinct(items: Iterable[T]) -> list[T]:
    """Return *items*, which need not be hashable, without repetitions."""
    distinct: list[T] = []
    for item in items:
        if item not in distinct:
            distinct.append(item)
    return distinct


def _way(about: str, asked: Sequence[str | Argument], reasons: list[Fix]) -> Fix:
    fix = Fix.of(*asked)
    for reason in reasons:
        fix = fix.joined(*reason.parts, separator=", and ")
    return Fix.of(about, *fix.parts)


def _losing(remedy: Remedy) -> Argument | None:
    return remedy.losing or remedy.keeping


def _asked(settings: Iterable[Argument]) -> tuple[Argument]:
    """Return the argument of a load that asks for no migration yet."""
    chosen = together(settings)
    return (Argument("migrate", Migration(**chosen) if chosen else True),)


def _added(settings: Iterable[Argument]) -> tuple[str | Argument, ...]:
    """Return what is added to a load that asks for a migration."""
    return ("add ", *(Argument(name, value) for name, value in together(settings).items()))
