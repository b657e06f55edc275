"""Records in a ring, found many at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

SHORT, LONG = 16, 4096  # records that are looked at in one step: first, and when all were alike


class Run(NamedTuple):
    """*records* of them with the same header *word*, one every *stride* bytes from *start* on."""

    word: int
    start: int
    records: int
    stride: int


def runs(words: memoryview, start: int, end: int, stride_of: Callable[[int], int]) -> Iterator[Run]:
    """Yield the records between the bytes *start* and *end*, in order.

    Each begins with a header whose first word says how far it is to the next one, which is what
    *stride_of* returns for it; 0 ends the walk. So does a record that would pass *end*. *words* is
    the memory as words of the header's size. Most events are as long as the one before; so the
    headers that would follow then are read in one step, by a slice.
    """
    unit, length = words.itemsize, SHORT
    while start < end:
        word = words[start // unit]
        stride = stride_of(word)
        if not stride or stride > end - start:
            return
        wanted = min((end - start) // stride, length)
        first, step = start // unit, stride // unit
        count = _alike(words[first : first + wanted * step : step].tolist(), word)
        yield Run(word, start, count, stride)
        start += count * stride
        length = min(2 * length, LONG) if count == wanted else SHORT


def _alike(headers: list[int], word: int) -> int:
    """Return how many of *headers*, from the first on, are *word*; only so far they are headers."""
    count = headers.count(word)
    if count == len(headers):
        return count
    return next(index for index, other in enumerate(headers) if other != word)
