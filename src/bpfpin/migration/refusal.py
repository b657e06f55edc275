"""Collects everything that stands against a migration into one error, with what resolves it.

Every difference is one line (`Difference`) and, if something resolves it, one `Remedy`. So the user
sees all of them at once, and not one after each attempt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, Self

from bpfpin.btf.btf import TypeRef
from bpfpin.codecs.of_btf import codec
from bpfpin.errors import Difference, IncompatibleMapError, UsageError
from bpfpin.hints import Argument, Fix, Placeholder
from bpfpin.migration.entries import EntrySurvey, Misfit, shown
from bpfpin.migration.exact import Exactness
from bpfpin.migration.match import PartMoves, UnfitMember
from bpfpin.migration.members import Leaf, MapShape
from bpfpin.migration.request import (
    EVERY,
    KEY,
    VALUE,
    Migration,
    MigrationRules,
    Rule,
    unknown_names,
    without_indices,
)
from bpfpin.records import dataclass

_NEW: Final = Placeholder("NEW")
_OF_CPUS: Final = (Rule.SUM, Rule.MAX, Rule.MIN, Rule.KEEP_NEW)


class RuleChoice(Placeholder):
    """One of several rules, for the caller to choose."""

    rules: tuple[Rule, ...]

    def __new__(cls, rules: Iterable[Rule]) -> Self:
        """Make the word that the command line shows: `sum|max`."""
        rules = tuple(rules)
        made = super().__new__(cls, "|".join(rule.value for rule in rules))
        made.rules = rules
        return made

    def __reduce__(self) -> tuple[type[RuleChoice], tuple[tuple[Rule, ...]]]:
        return type(self), (self.rules,)

    def __repr__(self) -> str:
        return " or ".join(map(repr, self.rules))


@dataclass(frozen=True, slots=True)
class Remedy:
    """What resolves one difference: a setting of the `Migration`, or something else.

    Attributes:
        keeping: A setting that loses nothing; None if there is none.
        losing: A setting that loses something; None if there is none.
        lost: What `losing` loses.
        instead: What to do instead of `keeping`; may be empty.
        reason: What to do if no setting helps, or what is wrong with the settings.
    """

    keeping: Argument | None = None
    losing: Argument | None = None
    lost: str = ""
    instead: str = ""
    reason: Fix = Fix(())

    @property
    def is_setting(self) -> bool:
        """Whether a setting resolves the difference."""
        return bool(self.keeping or self.losing)

    def fix(self) -> Fix:
        """Return the remedy as a sentence: `--rename a=NEW, or to lose the counts of a: …`."""
        fix = Fix(()) if self.keeping is None else Fix.of(self.keeping)
        if self.instead:
            fix = fix.joined(self.instead, separator=", or ")
        if self.losing:
            fix = fix.joined(f"to lose {self.lost}: ", self.losing, separator=", or ")
        return fix.joined(*self.reason.parts)


BEST_EFFORT: Final = Remedy(Argument("best_effort"))


def together(settings: Iterable[Argument]) -> dict[str, Any]:
    """Return settings as arguments of one `Migration`, in the order of its parameters."""
    made: dict[str, Any] = {}
    for setting in settings:
        before, value = made.get(setting.name), setting.value
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            value = {**before, **value}
        elif isinstance(before, list) and isinstance(value, list):
            value = [*before, *(item for item in value if item not in before)]
        made[setting.name] = value
    names = [each.name for each in fields(Migration)]
    return {name: made[name] for name in names if name in made}


class MigrationRefusedError(IncompatibleMapError):
    """A map cannot be migrated as things are.

    Attributes:
        message, path, differences, hint: As in `IncompatibleMapError`.
        remedies: What resolves the differences.
    """

    def __init__(
        self, message: str, *, differences: Sequence[Difference], remedies: Sequence[Remedy] = ()
    ) -> None:
        self.remedies = tuple(remedies)
        hint = Fix(())
        for remedy in self.remedies:
            hint = hint.joined(*remedy.fix().parts, separator="; ")
        super().__init__(message, differences=differences, hint=hint)


class Refusals:
    """Everything that stands against migrating the map *name*."""

    def __init__(self, name: str) -> None:
        self._name = name
        # Dictionaries as ordered sets: the elements of an array repeat the same lines and hints.
        self._differences: dict[Difference, None] = {}
        self._remedies: list[Remedy] = []

    def stop_if_any(self) -> None:
        """Raise `MigrationRefusedError` with all differences and remedies, if there are any."""
        if self._differences:
            raise MigrationRefusedError(
                f"map {self._name} cannot be migrated without a decision",
                differences=tuple(self._differences),
                remedies=self._remedies,
            )

    def add(self, differences: Iterable[Difference]) -> None:
        """Add differences that no setting resolves; the map can only start empty."""
        for difference in differences:
            self._add(difference.field, difference.old, difference.new, None)

    def add_unfit(self, part: str, moves: PartMoves | None) -> None:
        """Add the members of *part* (`key` or `value`) that need a decision.

        If no member would be left, dropping them one by one is not offered.
        """
        unfit = moves.unfit if moves else ()
        is_left = bool(moves and moves.moves) or not all(member.may_be_lost for member in unfit)
        for member in unfit:
            name = without_indices(member.path)
            remedy = _remedy_of_member(part, member, is_left=is_left)
            self._add(f"{part} {name}".rstrip(), member.old, member.new, remedy)

    def add_contradictions(
        self,
        keys: PartMoves | None,
        values: PartMoves,
        both: tuple[MapShape, MapShape],
        functions: Collection[str],
    ) -> None:
        """Add rules and functions that make no sense for these maps."""
        old, new = both
        # The values of all CPUs become one value. `sum`, `max`, `min` and `keep-new` can join them.
        if old.is_per_cpu and not new.is_per_cpu:
            for move in values.moves:
                if move.rule is Rule.KEEP_OLD:
                    name = without_indices(move.path) or VALUE
                    self._add(
                        f"value {move.path}".rstrip(),
                        "a value of each CPU",
                        "one value: keep-old does not say which",
                        Remedy(keeping=Argument("rules", {name: RuleChoice(_OF_CPUS)})),
                    )
        # The results of functions are written in user space, value by value, under the old key and
        # for the same CPU.
        if functions and (keys is not None or old.is_per_cpu != new.is_per_cpu):
            self._add("functions", "the same keys and CPUs", "other keys or CPUs", None)

    def add_misfits(
        self,
        survey: EntrySurvey,
        types: tuple[TypeRef | None, TypeRef | None],
        both: tuple[MapShape, MapShape],
    ) -> None:
        """Add a new map that is too small for the entries, and entries that do not fit."""
        old, new = both
        # Compared with the entries that exist: a smaller map is enough for a map that was never
        # full.
        if not new.is_array and survey.entries > new.max_entries:
            self._add(
                "max_entries",
                f"{survey.entries} entries",
                str(new.max_entries),
                Remedy(reason=Fix.of(f"make {self._name} larger (max_entries)")),
            )
        for misfit in survey.misfits:
            self._misfit(misfit, types, old)

    def add_inexact(self, exactness: Exactness, rules: MigrationRules) -> None:
        """Add the reasons why the migration is not exact, unless the user accepts that."""
        if rules.best_effort:
            return
        for reason in exactness.reasons:
            self._add("exactness", "every count comes over", reason, BEST_EFFORT)

    def _misfit(
        self, misfit: Misfit, types: tuple[TypeRef | None, TypeRef | None], shape: MapShape
    ) -> None:
        key = shown(codec(types[0], shape.key_size, is_key=True), misfit.key)
        value = shown(codec(types[1], shape.value_size), misfit.value)
        path = f" {misfit.path}" if misfit.path else ""
        self._add(
            f"{misfit.part}{path}",
            f"{misfit.number} at key {key}, in {value}",
            misfit.what,
            _remedy_of_misfit(misfit),
        )

    def _add(self, field: str, old: str, new: str, remedy: Remedy | None) -> None:
        self._differences[Difference(self._name, field, old, new)] = None
        if remedy is not None and remedy not in self._remedies:
            self._remedies.append(remedy)


def _remedy_of_member(part: str, member: UnfitMember, *, is_left: bool) -> Remedy | None:
    name = without_indices(member.path)
    typed = f"{KEY}.{name}" if part == KEY and name else name or part
    rename = Argument("renamed", {typed: _NEW}) if member.may_be_renamed else None
    if member.may_be_lost and name and is_left:
        lost = f"the distinction by {typed}" if part == KEY else f"the counts of {name}"
        return Remedy(rename, Argument("dropped", [typed]), lost)
    if rename is None and member.needs_rule:
        return Remedy(Argument("rules", {typed: RuleChoice(Rule)}))
    return Remedy(rename, reason=member.reason) if rename or member.reason.parts else None


def _remedy_of_misfit(misfit: Misfit) -> Remedy | None:
    name = without_indices(misfit.path)
    lost = f"the part of {name or misfit.part} that does not fit"
    if misfit.may_be_cut:
        return Remedy(losing=Argument("clamp"), lost=lost)
    if not name:
        return None
    typed = f"{KEY}.{name}" if misfit.part == KEY else name
    return Remedy(losing=Argument("dropped", [typed]), lost=lost)


@dataclass(frozen=True)
class MemberNames:
    """The names of a map's members as the user types them, on both sides."""

    old: frozenset[str]
    new: frozenset[str]


def names_of(key: Iterable[Leaf], value: Iterable[Leaf]) -> frozenset[str]:
    """Return the names of the members of a key and a value as the user types them."""
    keys = (f"{KEY}.{leaf.path}" if leaf.path else KEY for leaf in key)
    return frozenset(keys) | {leaf.path or VALUE for leaf in value}


def require_known(migration: Migration, maps: Mapping[str, MemberNames]) -> None:
    """Raise `UsageError` if *migration* names a map or member that is not to be migrated."""
    old = {*migration.dropped, *migration.renamed}
    new = {*migration.rules, *migration.start, *migration.functions}
    # Sorted, so that of several wrong names always the same one is reported.
    for word in sorted(old):
        _require(word, {name: members.old for name, members in maps.items()}, "old")
    for word in sorted(new | set(_targets(migration))):
        _require(word, {name: members.new for name, members in maps.items()}, "new")
    for name in migration.layouts:
        _require_map(name, maps)


def require_possible(migration: Migration, maps: Mapping[str, frozenset[str]]) -> None:
    """Raise `UsageError` if no migration to *maps* can do what *migration* says.

    For a load that has nothing to migrate. *maps* has the members of each map of the object. Old
    members are not looked up: the line that migrated them may be typed again.
    """
    for word in sorted({*migration.rules, *migration.start, *migration.functions}):
        _require(word, maps, "new")
    for word in sorted(_targets(migration)):
        _require(word, maps, "new")
    for word in sorted({*migration.dropped, *migration.renamed}):
        map_name, colon, _ = word.rpartition(":")
        if colon and map_name != EVERY:
            _require_map(map_name, maps)
    for name in migration.layouts:
        _require_map(name, maps)


def _targets(migration: Migration) -> Iterable[str]:
    """Yield the new names of renamed members, with the map and the `key.` of the old names."""
    for old, new in migration.renamed.items():
        map_name, colon, member = old.rpartition(":")
        # As in `rules_of_part`: a renamed member of the key stays in the key.
        is_key = member.startswith(f"{KEY}.") and not new.startswith(f"{KEY}.")
        yield f"{map_name}{colon}{KEY}.{new}" if is_key else f"{map_name}{colon}{new}"


def _require(word: str, maps: Mapping[str, frozenset[str]], when: str) -> None:
    map_name, colon, member = word.rpartition(":")
    if colon and map_name != EVERY:
        _require_map(map_name, maps)
        maps = {map_name: maps[map_name]}
    existing = frozenset[str]().union(*maps.values())
    if unknown_names([member], existing):
        names = ", ".join(sorted({without_indices(path) for path in existing})) or "none"
        raise UsageError(f"there is no {when} member {member!r} (members: {names})")


def _require_map(name: str, maps: Mapping[str, object]) -> None:
    if name not in maps:
        names = ", ".join(maps) or "none"
        raise UsageError(f"no map {name!r} is to be migrated (to be migrated: {names})")
