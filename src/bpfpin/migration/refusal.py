"""Collects everything that stands against a migration into one error, with the options to type.

Every difference is one line (`Difference`) and, if an option decides it, one hint. So the user sees
all of them at once, and not one after each attempt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from bpfpin.btf.btf import TypeRef
from bpfpin.codecs.of_btf import codec
from bpfpin.errors import Difference, IncompatibleMapError, UsageError
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

_TO_LOSE: Final = "to lose "


def loss_hint(keeping: str, what: str, option: str) -> str:
    """Return the hint "to lose WHAT: OPTION", after *keeping*, an option that loses nothing."""
    return f"{keeping}, or {_TO_LOSE}{what}: {option}" if keeping else f"{_TO_LOSE}{what}: {option}"


def split_loss_hint(hint: str) -> tuple[str, str, str]:
    """Return the arguments that `loss_hint` made *hint* of; "" for those that are not in it."""
    keeping, is_lossy, rest = hint.rpartition(_TO_LOSE)
    what, _, option = rest.rpartition(": ")
    return (keeping.removesuffix(", or "), what, option) if is_lossy else (hint, "", "")


def _misfit_hint(misfit: Misfit) -> str:
    name = without_indices(misfit.path)
    typed = f"{KEY}.{name}" if misfit.part == KEY else name
    # These are the words of `match` and `entries` for numbers that are too large. --clamp is for
    # them alone.
    if "room" in misfit.what:
        return loss_hint("", f"the part of {name or misfit.part} that does not fit", "--clamp")
    return loss_hint("", f"the part of {name} that does not fit", f"--drop {typed}") if name else ""


class Refusals:
    """Everything that stands against migrating the map *name*."""

    def __init__(self, name: str) -> None:
        self._name = name
        # Dictionaries as ordered sets: the elements of an array repeat the same lines and hints.
        self._differences: dict[Difference, None] = {}
        self._hints: dict[str, None] = {}

    def error(self) -> IncompatibleMapError:
        """Return the error with all differences and hints."""
        return IncompatibleMapError(
            f"cannot be migrated as things are: {self._name}",
            differences=tuple(self._differences),
            hint="; ".join(self._hints),
        )

    def stop_if_any(self) -> None:
        """Raise the error if there is any difference."""
        if self._differences:
            raise self.error()

    def add(self, differences: Iterable[Difference]) -> None:
        """Add differences that no rule resolves; the map can only start empty."""
        for difference in differences:
            hint = f"--fresh {self._name} starts it empty"
            self._add(difference.field, difference.old, difference.new, hint)

    def add_unfit(self, part: str, moves: PartMoves | None) -> None:
        """Add the members of *part* (`key` or `value`) that need a decision.

        If no member would be left, dropping them one by one is not offered.
        """
        unfit = moves.unfit if moves else ()
        is_left = bool(moves and moves.moves) or not all(member.may_be_lost for member in unfit)
        for member in unfit:
            name = without_indices(member.path)
            hint = self._member_hint(part, member, is_left=is_left)
            self._add(f"{part} {name}".rstrip(), member.old, member.new, hint)

    def _member_hint(self, part: str, member: UnfitMember, *, is_left: bool) -> str:
        name = without_indices(member.path)
        typed = f"{KEY}.{name}" if part == KEY and name else name or part
        rename = f"--rename {typed}=NEW" if member.may_be_renamed else ""
        if member.may_be_lost and name and is_left:
            what = f"the distinction by {typed}" if part == KEY else f"the counts of {name}"
            return loss_hint(rename, what, f"--drop {typed}")
        # `match` knows no parts: its hints name members without `key.`.
        hint = member.hint.replace("--rule ", f"--rule {KEY}.") if part == KEY else member.hint
        return rename or hint

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
                    self._add(
                        f"value {move.path}".rstrip(),
                        "a value of each CPU",
                        "one value: keep-old does not say which",
                        f"--rule {without_indices(move.path) or 'value'}=sum|max|min|keep-new",
                    )
        # The results of functions are written in user space, value by value, under the old key and
        # for the same CPU.
        if functions and (keys is not None or old.is_per_cpu != new.is_per_cpu):
            self._add("functions", "the same keys and CPUs", "other keys or CPUs", "")

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
                f"make {self._name} larger (max_entries)",
            )
        for misfit in survey.misfits:
            self._misfit(misfit, types, old)

    def add_inexact(self, exactness: Exactness, rules: MigrationRules) -> None:
        """Add the reasons why the migration is not exact, unless the user accepts that."""
        if rules.best_effort:
            return
        for reason in exactness.reasons:
            self._add("exactness", "every count comes over", reason, "--best-effort")

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
            _misfit_hint(misfit),
        )

    def _add(self, field: str, old: str, new: str, hint: str) -> None:
        self._differences[Difference(self._name, field, old, new)] = None
        if hint:
            self._hints[hint] = None


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
