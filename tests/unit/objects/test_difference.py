"""Two readings compared, and what comparing them costs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bpfpin.objects.maps.watch import STRETCH, Rows, difference

ENTRIES = st.dictionaries(st.integers(0, 60), st.integers(0, 2))
ORDERS = st.randoms(use_true_random=False)


def rows(entries: Mapping[int, int]) -> Rows:
    """Return the entries as a map with a key of two bytes and a value of one has them."""
    keys = b"".join(key.to_bytes(2, "big") for key in entries)
    return Rows(len(entries), keys, bytes(entries.values()), 2, 1)


def ints(pairs: Mapping[bytes, bytes]) -> dict[int, int]:
    return {int.from_bytes(key, "big"): value[0] for key, value in pairs.items()}


def expected(
    old: Mapping[int, int], new: Mapping[int, int]
) -> tuple[dict[int, int], dict[int, int], dict[int, tuple[int, int]]]:
    return (
        {key: new[key] for key in new.keys() - old.keys()},
        {key: old[key] for key in old.keys() - new.keys()},
        {key: (old[key], new[key]) for key in old.keys() & new.keys() if old[key] != new[key]},
    )


def found(
    old: Mapping[int, int], new: Mapping[int, int]
) -> tuple[dict[int, int], dict[int, int], dict[int, tuple[int, int]]]:
    told = difference(rows(old), rows(new))
    changed = {
        int.from_bytes(key, "big"): (was[0], now[0]) for key, (was, now) in told.changed.items()
    }
    return ints(told.added), ints(told.removed), changed


@given(ENTRIES, ENTRIES, ORDERS)
def test_the_difference_is_that_of_the_entries_in_whatever_order(
    old: dict[int, int], new: dict[int, int], order: Random
) -> None:
    shuffled = list(new)
    order.shuffle(shuffled)

    assert found(old, {key: new[key] for key in shuffled}) == expected(old, new)


def test_changes_far_apart_are_found_in_long_readings() -> None:
    old = dict.fromkeys(range(6 * STRETCH), 1)
    new = dict(old)
    for key in (0, STRETCH - 1, STRETCH, 3 * STRETCH + 7, 6 * STRETCH - 1):
        new[key] = 2
    for key in (1, 2 * STRETCH, 5 * STRETCH):
        del new[key]
    came_in_the_middle = {**dict(list(new.items())[:700]), 60_000: 5}
    new = {**came_in_the_middle, **new}

    assert found(old, new) == expected(old, new)
    assert found(new, old) == expected(new, old)


def test_a_map_that_was_emptied_or_filled_is_all_removed_or_added() -> None:
    old = dict.fromkeys(range(100), 1)

    assert found(old, {}) == ({}, old, {})
    assert found({}, old) == (old, {}, {})


class Counting(bytes):
    """Bytes that count how many slices were taken of them."""

    slices = 0

    def __getitem__(self, index: Any) -> Any:
        Counting.slices += 1
        return super().__getitem__(index)


def test_the_work_grows_with_what_changed_and_not_with_what_is_there() -> None:
    """A hundred changes in 60,000 entries: added, removed and changed ones."""
    old = dict.fromkeys(range(60_000), 1)
    new = {key: 2 if key % 1800 == 7 else 1 for key in old if key % 1800 != 900}
    new = dict(sorted({**new, **{60_000 + index: 1 for index in range(33)}}.items()))
    before, now = rows(old), rows(new)
    counted = Rows(before.count, Counting(before.keys), Counting(before.values), 2, 1)

    told = difference(counted, now)

    assert (len(told.added), len(told.removed), len(told.changed)) == (33, 33, 34)
    assert Counting.slices < 6_000
    assert all(a < b for a, b in pairwise(sorted(told.changed)))
