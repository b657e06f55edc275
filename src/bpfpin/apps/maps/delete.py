"""Deleting entries of any map."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from bpfpin.apps.maps.entries import parsed_key, require_entries, said
from bpfpin.apps.maps.naming import open_typed
from bpfpin.errors import KeyNotFoundError
from bpfpin.objects.map import Map


def delete(target: str, typed_keys: Sequence[str]) -> int:
    """Delete the entries under these keys, as they are typed, and return how many.

    All keys are looked up first: if one is not there, `KeyNotFoundError` says so and nothing is
    deleted. `UsageError` for maps of which nothing can be deleted, such as arrays.
    """
    with open_typed(target, read_only=False) as held, said(held):
        require_entries(held)
        wanted = list(dict.fromkeys(parsed_key(held, key) for key in typed_keys))
        for key in wanted:
            with suppress(TypeError):  # of some types nobody may read
                _ = held[key]
        for key in wanted:
            del held[key]
        return len(wanted)


def delete_all(target: str) -> int:
    """Delete all entries that a walk finds and return how many; what others add meanwhile stays."""
    with open_typed(target, read_only=False) as held, said(held):
        require_entries(held)
        wanted = list(held)
        try:
            return held.delete_batch(wanted)
        except KeyNotFoundError:  # somebody else deletes, too
            return sum(_is_deleted(held, key) for key in wanted)


def _is_deleted(held: Map, key: object) -> bool:
    try:
        del held[key]
    except KeyNotFoundError:
        return False
    return True
