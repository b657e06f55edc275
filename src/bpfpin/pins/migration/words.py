"""Whether what the user said is about anything that is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bpfpin.errors import UsageError
from bpfpin.pins.migration.leaves import Leaf
from bpfpin.pins.migration.paths import EVERY, bare, unknown
from bpfpin.pins.migration.wishes import KEY, VALUE, Migration


@dataclass(frozen=True)
class Members:
    """The names of a map's members as they are typed, before and after."""

    old: frozenset[str]
    new: frozenset[str]


def names_of(key: Iterable[Leaf], value: Iterable[Leaf]) -> frozenset[str]:
    """Return how the parts of a key and a value are typed."""
    keys = (f"{KEY}.{one.path}" if one.path else KEY for one in key)
    return frozenset(keys) | {one.path or VALUE for one in value}


def require_known(migration: Migration, maps: Mapping[str, Members]) -> None:
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
    if unknown([member], there):
        names = ", ".join(sorted({bare(one) for one in there})) or "none"
        raise UsageError(f"there is no {when} member {member!r}; there are: {names}")


def _require_map(name: str, maps: Mapping[str, object]) -> None:
    if name not in maps:
        there = ", ".join(maps) or "none"
        raise UsageError(f"no map {name!r} is to be migrated; those that are: {there}")
