"""Two readings of a map as bytes compared, at a cost of what changed and not of what is there.

Whole stretches are compared at once. A reading has its keys in the order of the kernel's buckets,
so that what is the same stands behind each other in both readings, but for a few entries where
something came or went. Those are left over, and matched by key in the end: the order only saves
time, it decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

STRETCH = 512  # entries compared at once
WINDOW = 32  # how far ahead the next key that both have is looked for

Pairs = dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Rows:
    """*count* keys and values, each back to back."""

    count: int
    keys: bytes
    values: bytes
    key_size: int
    value_size: int

    def key(self, index: int) -> bytes:
        """Return one key."""
        return self.keys[index * self.key_size : (index + 1) * self.key_size]

    def value(self, index: int) -> bytes:
        """Return one value."""
        return self.values[index * self.value_size : (index + 1) * self.value_size]

    def keys_of(self, start: int, count: int) -> bytes:
        """Return some keys, back to back."""
        return self.keys[start * self.key_size : (start + count) * self.key_size]

    def values_of(self, start: int, count: int) -> bytes:
        """Return the values of some entries, back to back."""
        return self.values[start * self.value_size : (start + count) * self.value_size]

    def put(self, start: int, end: int, into: Pairs) -> None:
        """Put some entries into a dict."""
        for index in range(start, min(end, self.count)):
            into[self.key(index)] = self.value(index)


@dataclass(frozen=True, slots=True)
class Difference:
    """The entries that are in one of two readings only, or in both with two values."""

    added: Pairs = field(default_factory=dict)
    removed: Pairs = field(default_factory=dict)
    changed: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)


def difference(old: Rows, new: Rows) -> Difference:
    """Compare two readings of one map."""
    found = Difference()
    gone, came = found.removed, found.added
    at = ahead = 0
    while at < old.count and ahead < new.count:
        same = _same_keys(old, at, new, ahead)
        for index in _unlike(old, at, new, ahead, count=same):
            there = old.value(at + index), new.value(ahead + index)
            found.changed[old.key(at + index)] = there
        at, ahead = at + same, ahead + same
        skip_old, skip_new = _to_the_next_common(old, at, new, ahead)
        old.put(at, at + skip_old, gone)
        new.put(ahead, ahead + skip_new, came)
        at, ahead = at + skip_old, ahead + skip_new
    old.put(at, old.count, gone)
    new.put(ahead, new.count, came)
    _match(found)
    return found


def _same_keys(old: Rows, at: int, new: Rows, ahead: int) -> int:
    """Return how many keys from here on are the same in both."""
    left = min(old.count - at, new.count - ahead)
    same = 0
    while same < left:
        step = min(STRETCH, left - same)
        if old.keys_of(at + same, step) != new.keys_of(ahead + same, step):
            return same + _first_unlike(old, at + same, new, ahead + same, count=step)
        same += step
    return same


def _first_unlike(old: Rows, at: int, new: Rows, ahead: int, *, count: int) -> int:
    """Return where the first key lies that differs, by halving; there is one."""
    start = 0
    while count > 1:
        half = count // 2
        if old.keys_of(at + start, half) == new.keys_of(ahead + start, half):
            start, count = start + half, count - half
        else:
            count = half
    return start


def _unlike(old: Rows, at: int, new: Rows, ahead: int, *, count: int) -> Iterator[int]:
    """Yield where the values of *count* entries with the same keys differ, by halving."""
    parts = [(start, min(STRETCH, count - start)) for start in range(0, count, STRETCH)][::-1]
    while parts:
        start, size = parts.pop()
        if old.values_of(at + start, size) == new.values_of(ahead + start, size):
            continue
        if size == 1:
            yield start
            continue
        half = size // 2
        parts += [(start + half, size - half), (start, half)]


def _to_the_next_common(old: Rows, at: int, new: Rows, ahead: int) -> tuple[int, int]:
    """Return how many entries of each to leave out until both go on with the same key."""
    width = min(WINDOW, old.count - at), min(WINDOW, new.count - ahead)
    there = {new.key(ahead + index): index for index in range(width[1])}
    for index in range(width[0]):
        if (found := there.get(old.key(at + index))) is not None:
            return index, found
    return width


def _match(found: Difference) -> None:
    """Turn what is left over in both readings into what changed, or did not."""
    for key in found.removed.keys() & found.added.keys():
        old, new = found.removed.pop(key), found.added.pop(key)
        if old != new:
            found.changed[key] = old, new
