"""Entries of a map compared with those of the map that they were migrated from.

The two may have other members, and each CPU values of its own or not: what both have is compared by
its name, and what is new began at 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from bpfpin.objects.maps.codec import PerCpuCodec, total
from bpfpin.objects.maps.watch import Change, Entries, Ids, Reading, Reload, change_between

__all__ = ["Change", "Gone", "Ids", "Migrating", "Reload", "document"]


def change_across(before: Reading, now: Reading) -> Change:
    """Compare two readings, also of two maps of which one was migrated from the other.

    Where their keys are of another kind, nothing is compared: then `changed` is empty.
    """
    if before.map_id == now.map_id:
        return change_between(before, now)
    nothing = change_between(now, now)
    change = replace(nothing, period_s=now.monotonic_s - before.monotonic_s)
    old, new = dict(Entries(before)), dict(Entries(now))
    if old and new and _form(next(iter(old))) != _form(next(iter(new))):
        return change
    is_percpu = [isinstance(one.codecs[1], PerCpuCodec) for one in (before, now)]
    pairs = {
        key: (carried(_spread(old[key], value, *is_percpu), value), value)
        for key, value in new.items()
        if key in old
    }
    return replace(
        change,
        changed={key: pair for key, pair in pairs.items() if pair[0] != pair[1]},
        added={key: value for key, value in new.items() if key not in old},
        removed={key: value for key, value in old.items() if key not in new},
    )


def carried(old: Any, new: Any) -> Any:
    """Return what the value *old* was in the form of *new*: its members by name, others 0.

    What cannot be compared is as it is in *new*.
    """
    if isinstance(new, Mapping):
        members = old if isinstance(old, Mapping) else {}
        return {
            name: carried(members[name], value) if name in members else start(value)
            for name, value in new.items()
        }
    if isinstance(new, list):
        parts = old if isinstance(old, list) else []
        return [
            start(value) if part is None else carried(part, value)
            for part, value in zip_longest(parts[: len(new)], new)
        ]
    is_like = type(old) is type(new) or (_is_number(old) and _is_number(new))
    return old if is_like else new


def start(value: Any) -> Any:
    """Return what a value began with that was not there before: 0 where it is a number."""
    if isinstance(value, Mapping):
        return {name: start(part) for name, part in value.items()}
    if isinstance(value, list):
        return [start(part) for part in value]
    return 0 if _is_number(value) else value


def _spread(old: Any, new: Any, was_percpu: bool, is_percpu: bool) -> Any:
    """Return *old* for one value of all CPUs if *new* is that, or as a list if *new* is one."""
    if was_percpu == is_percpu:
        return old
    if is_percpu:
        return [old]
    try:
        return total(old)
    except TypeError:
        return new


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _form(key: Any) -> Any:
    """Return what must be the same of two keys for them to be compared."""
    if isinstance(key, Mapping):
        return {name: _form(part) for name, part in key.items()}
    if isinstance(key, tuple):
        return [_form(part) for part in key]
    return int if _is_number(key) else type(key)


# What a follower tells: that a name was reloaded or is gone, and what changed in its map.


def document(told: Reload | Gone | Migrating) -> dict[str, Any]:
    """Return what a follower tells as the JSON documents have it."""
    if isinstance(told, Reload):
        migrated = {"migrated": True} if told.is_migration else {}
        return {"event": "reload", "program": told.program, "map": told.map, **migrated}
    event = "gone" if isinstance(told, Gone) else "migrating"
    return {"event": event, "path": told.path, "map": told.map}


@dataclass(frozen=True, slots=True)
class Gone:
    """A name that holds nothing now; *map* is the id of what it held."""

    path: Path
    map: int

    def __str__(self) -> str:
        return f"{self.path} is gone; waiting for it"


@dataclass(frozen=True, slots=True)
class Migrating:
    """A name whose map, of id *map*, has been migrated for long, so that nothing can be read."""

    path: Path
    map: int

    def __str__(self) -> str:
        return (
            f"{self.path} is still being migrated; waiting for it. If the process that did it is"
            " dead, bpfpin clean finishes it, and so does the next load"
        )
