"""What stands against a migration, collected, and what to type against that."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
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

_TO_LOSE: Final = "to lose "


def loss_hint(keeping: str, what: str, option: str) -> str:
    """Return a hint that tells *option* as the way to lose *what*, after what keeps it if any."""
    return f"{keeping}, or {_TO_LOSE}{what}: {option}" if keeping else f"{_TO_LOSE}{what}: {option}"


def split_loss_hint(hint: str) -> tuple[str, str, str]:
    """Return what `loss_hint` was given: "" each of what does not stand in *hint*."""
    keeping, found, rest = hint.rpartition(_TO_LOSE)
    what, _, option = rest.rpartition(": ")
    return (keeping.removesuffix(", or "), what, option) if found else (hint, "", "")


def _misfit_hint(misfit: Misfit) -> str:
    name = without_indices(misfit.path)
    typed = f"{KEY}.{name}" if misfit.part == KEY else name
    if "room" in misfit.what:
        return loss_hint("", f"what of {name or misfit.part} does not fit", "--clamp")
    return loss_hint("", f"what of {name} does not fit", f"--drop {typed}") if name else ""


class Refusals:
    """All that stands against migrating the map *name*; `error` tells it at once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._found: dict[Difference, None] = {}
        self._hints: dict[str, None] = {}

    def error(self) -> IncompatibleMapError:
        """Return the error that tells everything."""
        return IncompatibleMapError(
            f"cannot be migrated as things are: {self._name}",
            differences=tuple(self._found),
            hint="; ".join(self._hints),
        )

    def stop_if_any(self) -> None:
        """Raise the error if anything was told."""
        if self._found:
            raise self.error()

    def tell(self, differences: Iterable[Difference]) -> None:
        """Add differences that no word helps against but to start empty."""
        for one in differences:
            self._add(one.field, one.old, one.new, f"--fresh {self._name} starts it empty")

    def parts(self, side: str, moves: PartMoves | None) -> None:
        """Refuse what has no place in the new key or value, or no rule.

        Where nothing would be left, giving up the members one by one is no way out.
        """
        unfit = moves.unfit if moves else ()
        is_left = bool(moves and moves.moves) or not all(one.may_be_lost for one in unfit)
        for one in unfit:
            name = without_indices(one.path)
            hint = self._member_hint(side, one, is_left=is_left)
            self._add(f"{side} {name}".rstrip(), one.old, one.new, hint)

    def _member_hint(self, side: str, one: UnfitMember, *, is_left: bool) -> str:
        name = without_indices(one.path)
        typed = f"{KEY}.{name}" if side == KEY and name else name or side
        rename = f"--rename {typed}=NEW" if one.may_be_renamed else ""
        if one.may_be_lost and name and is_left:
            what = f"what tells entries apart by {typed}" if side == KEY else f"what {name} counts"
            return loss_hint(rename, what, f"--drop {typed}")
        hint = one.hint.replace("--rule ", f"--rule {KEY}.") if side == KEY else one.hint
        return rename or hint

    def words(
        self,
        keys: PartMoves | None,
        values: PartMoves,
        both: tuple[MapShape, MapShape],
        functions: Collection[str],
    ) -> None:
        """Refuse rules and functions that make no sense for these maps."""
        old, new = both
        if old.is_per_cpu and not new.is_per_cpu:
            for move in values.moves:
                if move.rule is Rule.KEEP_OLD:
                    self._add(
                        f"value {move.path}".rstrip(),
                        "a value of each CPU",
                        "one value, and keep-old says not which",
                        f"--rule {without_indices(move.path) or 'value'}=sum|max|min|keep-new",
                    )
        if functions and (keys is not None or old.is_per_cpu != new.is_per_cpu):
            self._add("functions", "keys and CPUs as they are", "keys or CPUs that change", "")

    def contents(
        self,
        found: EntrySurvey,
        types: tuple[TypeRef | None, TypeRef | None],
        both: tuple[MapShape, MapShape],
    ) -> None:
        """Refuse a map too small for the entries, and entries that do not fit."""
        old, new = both
        if not new.is_array and found.entries > new.max_entries:
            self._add(
                "max_entries",
                f"{found.entries} entries are there",
                str(new.max_entries),
                f"make {self._name} larger (max_entries)",
            )
        for misfit in found.misfits:
            self._misfit(misfit, types, old)

    def inexact(self, exactness: Exactness, wishes: MigrationRules) -> None:
        """Refuse what is not exact, unless the user said that this will do."""
        if wishes.best_effort:
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
        self._found[Difference(self._name, field, old, new)] = None
        if hint:
            self._hints[hint] = None


# Whether what the user said is about anything that is there.


@dataclass(frozen=True)
class MemberNames:
    """The names of a map's members as they are typed, before and after."""

    old: frozenset[str]
    new: frozenset[str]


def names_of(key: Iterable[Leaf], value: Iterable[Leaf]) -> frozenset[str]:
    """Return how the parts of a key and a value are typed."""
    keys = (f"{KEY}.{one.path}" if one.path else KEY for one in key)
    return frozenset(keys) | {one.path or VALUE for one in value}


def require_known(migration: Migration, maps: Mapping[str, MemberNames]) -> None:
    """Raise `UsageError` for a member, or a map, that none of the maps to be migrated has."""
    old = {*migration.dropped, *migration.renamed}
    new = {*migration.rules, *migration.start, *migration.functions}
    for word in sorted(old):
        _require(word, {name: each.old for name, each in maps.items()}, "old")
    for word in sorted(new | set(_targets(migration))):
        _require(word, {name: each.new for name, each in maps.items()}, "new")
    for name in migration.layouts:
        _require_map(name, maps)


def _targets(migration: Migration) -> Iterable[str]:
    """Yield the new names of what is renamed, with the map and the `key.` of the old ones."""
    for old, new in migration.renamed.items():
        place, colon, member = old.rpartition(":")
        is_key = member.startswith(f"{KEY}.") and not new.startswith(f"{KEY}.")
        yield f"{place}{colon}{KEY}.{new}" if is_key else f"{place}{colon}{new}"


def _require(word: str, maps: Mapping[str, frozenset[str]], when: str) -> None:
    place, colon, member = word.rpartition(":")
    if colon and place != EVERY:
        _require_map(place, maps)
        maps = {place: maps[place]}
    there = frozenset[str]().union(*maps.values())
    if unknown_names([member], there):
        names = ", ".join(sorted({without_indices(one) for one in there})) or "none"
        raise UsageError(f"there is no {when} member {member!r}; there are: {names}")


def _require_map(name: str, maps: Mapping[str, object]) -> None:
    if name not in maps:
        there = ", ".join(maps) or "none"
        raise UsageError(f"no map {name!r} is to be migrated; those that are: {there}")
