"""Order and height of boxes in columns, so that few lines cross and most run straight.

Columns are sorted by the mean place of their neighbours (the barycentre method of Sugiyama), and
heights then follow the neighbours as far as the order and the gaps between boxes let them: the
least squares under an order, found by pooling those that would overlap.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

SWEEPS: Final = 16

Columns = list[list[str]]
Neighbours = Mapping[str, Sequence[str]]  # of each item, those in the columns beside it


@dataclass
class _Pool:
    """Items that touch each other; *sum* and *count* give the mean of where their tops would be."""

    sum: float
    count: int

    @property
    def mean(self) -> float:
        return self.sum / self.count


def ordered(columns: Columns, neighbours: Neighbours) -> Columns:
    """Return the columns in the order, of those tried, in which the fewest lines cross."""
    best, fewest = columns, crossings(columns, neighbours)
    current = columns
    for sweep in range(SWEEPS):
        current = _swept(current, neighbours, is_backward=bool(sweep % 2))
        found = crossings(current, neighbours)
        if found < fewest:
            best, fewest = current, found
    return best


def crossings(columns: Columns, neighbours: Neighbours) -> int:
    """Return how many pairs of lines between columns side by side cross."""
    return sum(_crossings(left, right, neighbours) for left, right in pairwise(columns))


def _crossings(left: Sequence[str], right: Sequence[str], neighbours: Neighbours) -> int:
    place = {item: index for index, item in enumerate(right)}
    ends = [
        end
        for item in left
        for end in sorted(place[other] for other in neighbours[item] if other in place)
    ]
    count, before = 0, list[int]()
    for end in ends:
        count += len(before) - bisect_right(before, end)
        insort(before, end)
    return count


def _swept(columns: Columns, neighbours: Neighbours, *, is_backward: bool) -> Columns:
    """Sort each column by the places in the one before it, from one side to the other."""
    swept = columns[::-1] if is_backward else columns[:]
    for index in range(1, len(swept)):
        place = _places(swept[index - 1])
        own = _places(swept[index])

        def mean(
            item: str, place: Mapping[str, float] = place, own: Mapping[str, float] = own
        ) -> float:
            found = [place[other] for other in neighbours[item] if other in place]
            return sum(found) / len(found) if found else own[item]

        swept[index] = sorted(swept[index], key=mean)
    return swept[::-1] if is_backward else swept


def _places(column: Sequence[str]) -> dict[str, float]:
    """Return the places of a column's items between 0 and 1, so that columns compare."""
    return {item: (index + 0.5) / len(column) for index, item in enumerate(column)}


def heights(
    columns: Columns, neighbours: Neighbours, sizes: Mapping[str, float], *, gap: float
) -> dict[str, float]:
    """Return the middle of each item, from 0 down; items of a column keep *gap* apart."""
    middles: dict[str, float] = {}
    for column in columns:
        wanted = dict.fromkeys(column, 0.0)
        middles |= placed(column, wanted, sizes, gap=gap)
    for sweep in range(SWEEPS):
        for column in columns if sweep % 2 else columns[::-1]:
            wanted = {item: _mean(item, neighbours, middles) for item in column}
            middles |= placed(column, wanted, sizes, gap=gap)
    top = min((middle - sizes[item] / 2 for item, middle in middles.items()), default=0.0)
    return {item: middle - top for item, middle in middles.items()}


def _mean(item: str, neighbours: Neighbours, middles: Mapping[str, float]) -> float:
    found = [middles[other] for other in neighbours[item]]
    return sum(found) / len(found) if found else middles[item]


def placed(
    column: Sequence[str],
    wanted: Mapping[str, float],
    sizes: Mapping[str, float],
    *,
    gap: float,
) -> dict[str, float]:
    """Return the middles nearest to those *wanted* that keep the order and the gaps."""
    offsets, offset = list[float](), 0.0
    for item in column:
        offsets.append(offset + sizes[item] / 2)
        offset += sizes[item] + gap
    pools: list[_Pool] = []
    for item, offset in zip(column, offsets, strict=True):
        pools.append(_Pool(wanted[item] - offset, 1))
        while len(pools) > 1 and pools[-2].mean > pools[-1].mean:
            last = pools.pop()
            pools[-1] = _Pool(pools[-1].sum + last.sum, pools[-1].count + last.count)
    shifts = [pool.mean for pool in pools for _ in range(pool.count)]
    return {
        item: offset + shift for item, offset, shift in zip(column, offsets, shifts, strict=True)
    }
