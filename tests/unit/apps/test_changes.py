"""What is told of a reload, and two readings compared."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfpin.apps.changes import Ids, Reading, Reload, change_between

ENTRIES = st.dictionaries(st.integers(0, 9), st.integers(0, 2))


def reading(at_s: float, entries: Mapping[int, int]) -> Reading:
    return Reading(at_s, 1_700_000_000 + at_s, 12, entries)


@pytest.mark.parametrize(
    ("program", "maps", "sentence"),
    [
        ((41, 44), (12, 12), "reload followed: program 41 -> 44, same map"),
        ((41, None), (12, 12), "reload followed: program 41 -> none, same map"),
        ((None, 44), (12, 12), "reload followed: program none -> 44, same map"),
        ((None, None), (12, 12), "reload followed: same map"),
        ((41, 44), (12, 17), "map 12 -> 17: counters restart"),
        ((None, None), (12, 17), "map 12 -> 17: counters restart"),
    ],
)
def test_a_reload_is_one_sentence(program: Ids, maps: tuple[int, int], sentence: str) -> None:
    assert str(Reload(program, maps)) == sentence


def test_several_reloads_are_one_from_the_first_to_the_last() -> None:
    first, second = Reload((41, 44), (12, 17)), Reload((44, 47), (17, 17))

    assert second.since(first) == Reload((41, 47), (12, 17))
    assert first.since(None) is first


def test_a_comparison_is_of_the_time_between_its_readings() -> None:
    change = change_between(reading(1.0, {1: 10, 2: 20}), reading(3.5, {1: 11, 3: 30}))

    assert (change.wall_time_s, change.period_s, change.map_id) == (1_700_000_003.5, 2.5, 12)
    assert (change.changed, change.added, change.removed) == ({1: (10, 11)}, {3: 30}, {2: 20})


@given(ENTRIES, ENTRIES)
def test_the_differences_lead_from_the_old_entries_to_the_new(
    old: dict[int, int], new: dict[int, int]
) -> None:
    change = change_between(reading(0.0, old), reading(1.0, new))

    kept = {key: value for key, value in old.items() if key not in change.removed}
    moved = {key: value for key, (_, value) in change.changed.items()}
    assert {**kept, **moved, **change.added} == new == change.entries
    assert all(old[key] == was != now for key, (was, now) in change.changed.items())
