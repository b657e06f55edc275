"""Records found many at a time, against one at a time."""

from __future__ import annotations

import array
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bpfpin.objects.events.source import LONG, runs

BUSY = 1 << 31


def stride(header: int) -> int:
    return 0 if header & BUSY else (header + 8 + 7) & ~7


def memory(lengths: list[int], filler: int = 0) -> memoryview:
    """Return records of these lengths, with *filler* for their contents."""
    words: list[int] = []
    for length in lengths:
        words += [length, 0, *[filler] * ((stride(length & ~BUSY) - 8) // 4)]
    return memoryview(array.array("I", words))


def lengths_found(words: memoryview, start: int = 0, end: int | None = None) -> list[int]:
    found = runs(words, start, words.nbytes if end is None else end, stride)
    return [run.word for run in found for _ in range(run.records)]


@given(st.lists(st.integers(0, 40)), st.integers(0, 40))
def test_all_records_are_found_whatever_they_contain(lengths: list[int], filler: int) -> None:
    assert lengths_found(memory(lengths, filler)) == lengths


@given(st.lists(st.integers(0, 20), min_size=1), st.integers(0, 20))
def test_the_walk_stops_at_a_busy_record(lengths: list[int], busy: int) -> None:
    assert lengths_found(memory([*lengths, busy | BUSY, *lengths], 8)) == lengths


@given(st.lists(st.integers(1, 20), min_size=1))
def test_a_record_that_passes_the_end_is_not_given(lengths: list[int]) -> None:
    words = memory(lengths)

    assert lengths_found(words, end=words.nbytes - 8) == lengths[:-1]


def test_runs_of_equal_records_are_few_and_join() -> None:
    words = memory([16] * (5 * LONG))
    found = list(runs(words, 0, words.nbytes, stride))

    assert len(found) < 20
    assert {run.word for run in found} == {16}
    assert all(a.start + a.records * a.stride == b.start for a, b in pairwise(found))
    assert sum(run.records for run in found) == 5 * LONG
