"""Plan the migration of maps whose definition changed, and check their other users."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import field
from pathlib import Path
from typing import Final

from bpfpin.analysis.follow import users_of_programs, users_of_specs
from bpfpin.btf.btf import Btf
from bpfpin.errors import Argument, BpfError, Difference, Fix, IncompatibleMapError, UsageError
from bpfpin.host.users import MapUser, programs_of
from bpfpin.migration.members import struct_names
from bpfpin.migration.plan import (
    MigrationPlan,
    MigrationRequest,
    members_of,
    plan_migration,
    types_of,
)
from bpfpin.migration.refusal import MemberNames, require_known, split_loss_hint
from bpfpin.migration.request import Migration, parse_migration
from bpfpin.objects.kernel.btf import map_btf
from bpfpin.objects.kernel.object import wait_until_freed
from bpfpin.objects.maps.map import Map
from bpfpin.objects.programs.program import Program
from bpfpin.pins import folds
from bpfpin.pins.pinset import LoadedSet
from bpfpin.pins.plan import HookPlan
from bpfpin.records import dataclass
from bpfpin.sets.load.hooks import attached
from bpfpin.sets.request import LoadRequest
from bpfpin.spec import MapSpec, ObjectSpec

_FREED_S: Final = 0.5
_WORD: Final = 8
_CARRY: Final = "to carry over what is counted there"
_OPTION: Final = re.compile(r"--[a-z-]+( \S+=.+| \S+)?(, or .*)?")


__all__ = ["Migration", "Migrator", "parse_migration"]


@dataclass(frozen=True)
class Migrator:
    """Plans the migrations of one load; *hooks* have the programs that run now.

    `UsageError` for `--migrate` together with `--confirm`.
    """

    loading: LoadRequest
    live: LoadedSet | None
    hooks: tuple[HookPlan, ...]
    _members: dict[str, MemberNames] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a migration that would have to go back by itself."""
        if self.is_asked and self.loading.confirm_s is not None:
            raise UsageError(
                "--migrate and --confirm do not go together: moved entries do not go back by"
                " themselves",
                hint=Fix.of("try it first: ", Argument("dry_run")),
            )

    @property
    def is_asked(self) -> bool:
        """Whether maps that do not fit are to be migrated; else they are refused."""
        return self.loading.migration is not None

    def plan(self, spec: MapSpec, old: Map) -> MigrationPlan:
        """Plan how the contents of *old* move; `IncompatibleMapError` if they cannot."""
        return self._plan(spec, old, self.loading.migration or Migration())

    def require_known(self) -> None:
        """Raise `UsageError` for a named member that no map of the migration has."""
        if any(shared.is_new for shared in self.loading.shared.values()):
            return  # the set that makes the new map has checked the members
        if self.loading.migration is not None and self._members:
            require_known(self.loading.migration, self._members)

    def ways_out(self, name: str, error: IncompatibleMapError) -> Iterator[str]:
        """Yield lines to type that migrate map *name*, which *error* refused.

        A line that loses counts says so. Nothing if the map cannot be migrated at all.
        """
        if self.is_asked:
            yield from _ways("add", error.hint)
            return
        try:
            # A plan is made only to see whether it works; it reads the map, and changes nothing.
            with self._old(name) as old:
                self.plan(self.loading.spec.maps[name], old)
        except IncompatibleMapError as refused:
            yield from _ways("--migrate", refused.hint)
        except BpfError:
            return
        else:
            yield f"{_CARRY}: --migrate"

    def _plan(self, spec: MapSpec, old: Map, migration: Migration) -> MigrationPlan:
        with ExitStack() as opened:
            pinned = [
                opened.enter_context(Program.from_pin(path))
                for path in self._program_paths(spec.name)
            ]
            # What the hooks really run, besides the pinned programs: somebody may have replaced a
            # pin or a program.
            running = [hook.previous for hook in self.hooks if hook.previous is not None]
            programs = {program.id: program for program in (*pinned, *running)}
            before = users_of_programs(programs.values(), {spec.name: old})
            libraries = _libraries(programs.values()), _library(self.loading.spec)
        specs = self.loading.spec.programs
        after = users_of_specs(specs[name] for name in self.loading.programs)
        request = MigrationRequest(
            spec,
            old,
            before.get(spec.name, ()),
            after.get(spec.name, ()),
            migration,
            libraries,
        )
        self._remember(request)
        # The user accepts losses with --best-effort, so users of the map that go on with the old
        # one are accepted as well.
        if not migration.best_effort:
            # Programs of unfinished folds use the map as well. They run only when this tool runs
            # them.
            _require_reached(spec.name, old, set(programs) | self._folding_ids())
            self._require_switched(spec.name, old)
        return _planned(request)

    def _require_switched(self, name: str, old: Map) -> None:
        """Refuse a map that is used at a hook that leaves the set.

        The program there counts in the old map until the new generation is published.
        """
        if self.live is None:
            return
        # Hooks that leave the set are detached after the publication (step 9 of
        # `pins.transaction`), so their programs go on counting in the old map while the fold runs.
        switched = {hook.before.link for hook in self.hooks if hook.attachment and hook.before}
        leaving = [record for record in attached(self.live) if record.link not in switched]
        using = [record for record in leaving if self._uses(record.program, old)]
        if using:
            loss = "leaves the set, and what it counts until then is lost"
            raise IncompatibleMapError(
                f"map {name} is used at hooks that leave the set",
                differences=[Difference(name, "hook", record.hook, loss) for record in using],
                hint="--best-effort, or first: bpfpin unload --keep-maps"
                f" {self.loading.shown_name}",
            )

    def _uses(self, program: str, old: Map) -> bool:
        if self.live is None or program not in self.live.programs:
            return True  # an unknown program runs there
        with Program.from_pin(self.live.programs[program]) as pinned:
            return old.id in pinned.info.map_ids

    def _remember(self, request: MigrationRequest) -> None:
        """Keep the names of the members; entries that an earlier load left over have their own."""
        names, before = members_of(request), self._members.get(request.spec.name)
        if before is not None:
            names = MemberNames(names.old | before.old, names.new | before.new)
        self._members[request.spec.name] = names

    def _old(self, name: str) -> AbstractContextManager[Map]:
        """Open the current map: that of a shared name, else that of the set."""
        shared = self.loading.shared.get(name)
        if shared is not None and shared.bpf_map is not None:
            # The request keeps this map and closes it.
            return nullcontext(shared.bpf_map)
        return Map.from_pin(self.live.maps[name] if self.live else self.loading.map_path(name))

    def _folding_ids(self) -> set[int]:
        return folds.program_ids(self.live.path) if self.live else set()

    def _program_paths(self, name: str) -> Iterable[Path]:
        """Return the pins of the programs that this load replaces and that may use map *name*.

        For a shared name they are those of all sets of the command.
        """
        own = self.live.programs.values() if self.live else ()
        shared = self.loading.shared.get(name)
        if shared is None or not shared.is_exchangeable:
            return own
        return (*own, *self.loading.beside_programs.values())


def _planned(request: MigrationRequest) -> MigrationPlan:
    """Plan the migration; if values have no types, a refusal hints at `--layout`."""
    try:
        return plan_migration(request)
    except IncompatibleMapError as error:
        if hint := _layout_hint(request):
            error.hint = hint
        raise


def _layout_hint(request: MigrationRequest) -> str:
    """Return the option that gives the layout of untyped values, "" if both sides have types."""
    spec, old = request.spec, request.old
    untyped = [type_ is None for type_ in types_of(request)]
    if not any(untyped):
        return ""
    sizes, libraries = (old.value_size, spec.value_size), request.libraries
    names = [
        frozenset(struct_names(library, size))
        for is_untyped, library, size in zip(untyped, libraries, sizes, strict=True)
        if is_untyped
    ]
    common = sorted(frozenset.intersection(*names))
    option = f"--layout {spec.name}="
    if len(common) == 1:
        return f"{option}'struct {common[0]}'"
    is_missing = [True, False] if sizes[0] == sizes[1] else untyped
    options = [
        f"{option}'{_members(size)}'"
        for is_untyped, size in zip(is_missing, sizes, strict=True)
        if is_untyped
    ]
    return "; ".join(options)


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
        raise IncompatibleMapError(
            f"map {name} is used by programs of others",
            differences=[_difference(name, user) for user in others],
            hint="--best-effort",
        )


def _difference(name: str, user: MapUser) -> Difference:
    loss = "stays with the old map, and what it counts from then on is lost: not of this set"
    return Difference(name, "user", str(user), loss)


def _ways(verb: str, hint: str) -> Iterator[str]:
    """Yield lines to type with *verb*, from hints that are divided by `;`.

    The first keeps everything, if that is possible, and the second says what it loses.
    """
    parts = (part.strip() for line in hint.splitlines() for part in line.split("; "))
    ways = [part for part in dict.fromkeys(parts) if part and not part.startswith("--fresh")]
    keeping, losing, lost, others = list[str](), list[str](), list[str](), list[str]()
    for part in ways:
        keep, what, option = split_loss_hint(part)
        if not option and not _OPTION.fullmatch(part):
            others.append(part)
            continue
        keeping.append(_first_of(keep))
        losing.append(option or _first_of(keep))
        lost += [what] if what else []
    if not ways:
        return
    if all(keeping):
        yield f"{_CARRY}: {_line(verb, keeping, others)}"
    if lost:
        line = _line(verb, losing, others)
        yield f"to lose {' and '.join(lost)}, and carry over the rest: {line}"


def _line(verb: str, options: list[str], others: list[str]) -> str:
    typed = [" ".join(dict.fromkeys([verb, *options]))] if options else []
    return ", and ".join([*typed, *others])


def _first_of(option: str) -> str:
    first, other, rest = option.partition(", or ")
    return f"{first} (or {rest})" if other else first
