"""Diffs two snapshots of a map across a migration, member by member.

The new map may have other members than the old one, and values per CPU or not. Members that both
have are compared by name; a new member counts as having started at 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from bpfpin.objects.maps.codec import PerCpuCodec, total
from bpfpin.objects.maps.watch import Change, DecodedEntries, Snapshot, change_between


def change_across(before: Snapshot, now: Snapshot) -> Change:
    """Compare two snapshots, of one map or of a map and the one it was migrated to.

    If the keys have different forms nothing is compared, and `changed` is empty.
    """
    if before.map_id == now.map_id:
        return change_between(before, now)
    no_change = change_between(now, now)
    change = replace(no_change, period_s=now.monotonic_s - before.monotonic_s)
    old, new = dict(DecodedEntries(before)), dict(DecodedEntries(now))
    # With other keys every entry would look removed and added.
    if old and new and _key_form(next(iter(old))) != _key_form(next(iter(new))):
        return change
    is_percpu = [isinstance(snapshot.codecs[1], PerCpuCodec) for snapshot in (before, now)]
    pairs = {
        key: (in_form_of(_spread(old[key], value, *is_percpu), value), value)
        for key, value in new.items()
        if key in old
    }
    return replace(
        change,
        changed={key: pair for key, pair in pairs.items() if pair[0] != pair[1]},
        added={key: value for key, value in new.items() if key not in old},
        removed={key: value for key, value in old.items() if key not in new},
    )


def in_form_of(old: Any, new: Any) -> Any:
    """Return the value *old* in the form of *new*: members by name, missing ones as 0.

    A part that cannot be compared is taken from *new*, so that it does not count as changed.
    """
    if isinstance(new, Mapping):
        members = old if isinstance(old, Mapping) else {}
        return {
            name: in_form_of(members[name], value) if name in members else first_value(value)
            for name, value in new.items()
        }
    if isinstance(new, list):
        # A shorter array lost its last elements in the migration; a longer one has new elements.
        parts = old if isinstance(old, list) else []
        return [
            first_value(value) if part is None else in_form_of(part, value)
            for part, value in zip_longest(parts[: len(new)], new)
        ]
    # Counters may have become wider, signed, or floating: Python compares all of them as numbers.
    is_comparable = type(old) is type(new) or (_is_number(old) and _is_number(new))
    return old if is_comparable else new


def first_value(value: Any) -> Any:
    """Return the value that a new member started with: 0 for a number, else *value* itself."""
    if isinstance(value, Mapping):
        return {name: first_value(part) for name, part in value.items()}
    if isinstance(value, list):
        return [first_value(part) for part in value]
    return 0 if _is_number(value) else value


def _spread(old: Any, new: Any, was_percpu: bool, is_percpu: bool) -> Any:
    """Return *old* as a list if *new* is per CPU, as a sum over CPUs if it no longer is."""
    if was_percpu == is_percpu:
        return old
    if is_percpu:
        # The one value goes to CPU 0: `in_form_of` lets the other CPUs start at 0.
        return [old]
    try:
        return total(old)
    except TypeError:
        # Text, for example, has no sum: unchanged.
        return new


def _is_number(value: Any) -> bool:
    # In Python `bool` is an `int`, but a flag that becomes a counter is another member.
    return isinstance(value, int | float) and not isinstance(value, bool)


def _key_form(key: Any) -> Any:
    """Return what two keys must share to be comparable: names, lengths and types."""
    if isinstance(key, Mapping):
        return {name: _key_form(part) for name, part in key.items()}
    if isinstance(key, tuple):
        return [_key_form(part) for part in key]
    return int if _is_number(key) else type(key)
