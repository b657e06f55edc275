"""Deleting entries of any map."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from bpfpin.apps.maps.entries import present_key, require_entries, said
from bpfpin.apps.maps.naming import AS_IT_IS, Typing, open_typed


def delete(target: str, typed_keys: Sequence[str], *, typing: Typing = AS_IT_IS) -> int:
    """Delete the entries under these keys, as they are typed, and return how many.

    All keys are looked up first: if one is not there, `KeyNotFoundError` says so and nothing is
    deleted. `UsageError` for maps of which nothing can be deleted, such as arrays.
    """
    with open_typed(target, read_only=False, typing=typing) as held, said(held):
        require_entries(held)
        wanted = list(dict.fromkeys(present_key(held, key) for key in typed_keys))
        for key in wanted:
            with suppress(TypeError):  # of some types nobody may read
                _ = held[key]
        for key in wanted:
            del held[key]
        return len(wanted)


def delete_all(target: str) -> int:
    """Delete all entries that a walk finds and return how many; what others add meanwhile stays.

    What somebody else deletes first is not counted.
    """
    with open_typed(target, read_only=False) as held, said(held):
        require_entries(held)
        return held.delete_present(list(held))
