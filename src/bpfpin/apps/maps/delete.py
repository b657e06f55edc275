"""Deleting entries of any map."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from bpfpin.apps.map_guard import MapGuard
from bpfpin.apps.maps.entries import present_key, require_entries, said
from bpfpin.apps.maps.naming import AS_IT_IS, Typing, open_typed
from bpfpin.errors import KeyNotFoundError
from bpfpin.objects.map import Map


def delete(
    target: str,
    typed_keys: Sequence[str],
    *,
    typing: Typing = AS_IT_IS,
    guard: MapGuard | None = None,
) -> int:
    """Delete the entries under these keys, as they are typed, and return how many.

    All keys are looked up first: if one is not there, `KeyNotFoundError` says so and nothing is
    deleted. `UsageError` for maps of which nothing can be deleted, such as arrays, and for what
    *guard* refuses.
    """
    with open_typed(target, read_only=False, typing=typing) as held, said(held):
        require_entries(held)
        wanted = list(dict.fromkeys(present_key(held, key) for key in typed_keys))
        for key in wanted:
            with suppress(TypeError):  # of some types nobody may read
                _ = held[key]
        if guard is not None:
            guard.require_way_back(held, f"deleting {', '.join(typed_keys)}", _deleting(wanted))
        for key in wanted:
            del held[key]
        return len(wanted)


def delete_all(target: str, *, guard: MapGuard | None = None) -> int:
    """Delete all entries that a walk finds and return how many; what others add meanwhile stays.

    What somebody else deletes first is not counted.
    """
    with open_typed(target, read_only=False) as held, said(held):
        require_entries(held)
        if guard is not None:
            guard.require_way_back(held, "deleting all entries", Map.clear)
        return held.delete_present(list(held))


def _deleting(wanted: Iterable[object]) -> Callable[[Map], None]:
    def change(copy: Map) -> None:
        for key in wanted:
            with suppress(KeyNotFoundError):  # of a large map only a part is copied
                del copy[key]

    return change
