"""Watching the entries of a map: read once an interval, and told what became of them.

Readings are kept and compared as bytes (`difference.py`); only what changed is decoded. A reading
copies all entries out of the kernel, so its cost grows with the map: where it takes more than a
twentieth of the interval the interval is stretched, and `Change.period_s` tells.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self

from bpfpin.codecs.codec import Codec
from bpfpin.errors import LimitError

if TYPE_CHECKING:
    from bpfpin.objects.maps.map import Map

STRETCH = 512  # entries compared at once
WINDOW = 32  # how far ahead the next key that both have is looked for
Pairs = dict[bytes, bytes]
Ids = tuple[int | None, int | None]
ENTRIES_MAX: Final = 1 << 20
SHARE_MAX: Final = 0.05  # of one CPU


# Two readings of a map as bytes compared, at a cost of what changed and not of what is there.
#
# Whole stretches are compared at once. A reading has its keys in the order of the kernel's buckets,
# so that what is the same stands behind each other in both readings, but for a few entries where
# something came or went. Those are left over, and matched by key in the end: the order only saves
# time, it decides nothing.


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


# What whoever watches a map is told: what became of its entries, and that a name was reloaded.
@dataclass(frozen=True, slots=True)
class Reload:
    """A name that holds another generation than before; each pair of ids is old and new.

    *program* is one of the set's hooks, of several the first that changed; None where there is
    none, where the pin lies in no set of ours, or where this user may not look.
    """

    program: Ids
    map: tuple[int, int]
    is_migration: bool = False
    """The other map took over what the one before held: its counts go on."""

    @property
    def is_other_map(self) -> bool:
        """Whether the name holds another map."""
        return self.map[0] != self.map[1]

    @property
    def is_restart(self) -> bool:
        """Whether the name holds another map, whose entries have nothing to do with the others."""
        return self.is_other_map and not self.is_migration

    def since(self, earlier: Reload | None) -> Reload:
        """Return this reload and the one before it as one."""
        if earlier is None:
            return self
        both = earlier, self
        return Reload(
            (earlier.program[0], self.program[1]),
            (earlier.map[0], self.map[1]),
            any(one.is_migration for one in both) and not any(one.is_restart for one in both),
        )

    def __str__(self) -> str:
        if self.is_other_map:
            what = "migrated, the counts go on" if self.is_migration else "counters restart"
            return f"map {self.map[0]} -> {self.map[1]}: {what}"
        old, new = (id_ or "none" for id_ in self.program)
        program = f"program {old} -> {new}, " if old != new else ""
        return f"reload followed: {program}same map"


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a map's entries between two readings.

    *wall_time_s* is the moment of the later one (seconds since the epoch), *period_s* the time
    between the two. *changed* has old and new value by key. *entries*, all of them as they are now,
    are decoded when they are first looked at. What came and went between the readings is not seen.

    Of a name that is followed, a *reload* came before or within the interval; if it brought another
    map, the comparison begins with the first reading of that one; but if that was migrated from the
    one before, it goes on, by the names that members have in both. *is_gone*: the name held nothing
    at the end of the interval, and there are no entries. *is_unfinished*: there are none because a
    migration has been moving them for long, whose process is perhaps dead.
    """

    wall_time_s: float
    period_s: float
    map_id: int
    entries: Mapping[Any, Any] = field(default_factory=dict)
    changed: Mapping[Any, tuple[Any, Any]] = field(default_factory=dict)
    added: Mapping[Any, Any] = field(default_factory=dict)
    removed: Mapping[Any, Any] = field(default_factory=dict)
    reload: Reload | None = None
    is_gone: bool = False
    is_unfinished: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """All entries of a map at one moment, and how they are decoded."""

    monotonic_s: float
    wall_s: float
    map_id: int
    rows: Rows
    codecs: tuple[Codec, Codec]


class Entries(Mapping[Any, Any]):
    """The entries of a reading, decoded when they are first looked at."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    @cached_property
    def _decoded(self) -> dict[Any, Any]:
        key, value = self._reading.codecs
        rows = self._reading.rows
        return dict(zip(_many(key, rows.keys), _many(value, rows.values), strict=True))

    def __getitem__(self, key: Any) -> Any:
        return self._decoded[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._decoded)

    def __len__(self) -> int:
        return self._reading.rows.count

    def __repr__(self) -> str:
        return repr(self._decoded)


def read(held: Map, *, entries_max: int = ENTRIES_MAX) -> Reading:
    """Read all entries; `LimitError` if there are more than *entries_max*."""
    monotonic_s, wall_s = time.monotonic(), time.time()
    keys, values, count = [], [], 0
    for part in held._walk():
        count += part.count
        if count > entries_max:
            raise LimitError(
                f"map {held.name!r} (id {held.id}) has more than {entries_max} entries, too many to"
                " compare each time",
                limit=entries_max,
                asked=held.max_entries,
                hint="raise entries_max, or read it by its batches: Map.lookup_batch()",
            )
        keys.append(bytes(part.keys))
        values.append(bytes(part.values))
    codecs = held._key, held._value
    rows = Rows(count, b"".join(keys), b"".join(values), codecs[0].size, codecs[1].size)
    return Reading(monotonic_s, wall_s, held.id, rows, codecs)


def change_between(before: Reading, now: Reading) -> Change:
    """Compare two readings of one map."""
    found = difference(before.rows, now.rows)
    key, value = now.codecs
    keys = _many(key, b"".join(found.changed))
    old = _many(value, b"".join(pair[0] for pair in found.changed.values()))
    new = _many(value, b"".join(pair[1] for pair in found.changed.values()))
    return Change(
        wall_time_s=now.wall_s,
        period_s=now.monotonic_s - before.monotonic_s,
        map_id=now.map_id,
        entries=Entries(now),
        changed=dict(zip(keys, zip(old, new, strict=True), strict=True)),
        added=_pairs(now, found.added),
        removed=_pairs(now, found.removed),
    )


def _pairs(reading: Reading, raw: dict[bytes, bytes]) -> dict[Any, Any]:
    key, value = reading.codecs
    keys, values = _many(key, b"".join(raw)), _many(value, b"".join(raw.values()))
    return dict(zip(keys, values, strict=True))


def _many(codec: Codec, data: bytes) -> Any:
    return codec.decode_many(data, codec.size) if data else ()


@dataclass(slots=True)
class Pace:
    """When to read next: every *interval_s*, less often where the readings would cost too much.

    What a reading costs is the time of the CPU that this thread spends between `begin` and `end`;
    who does not measure has even intervals.
    """

    interval_s: float
    stretched_s: float = field(init=False)
    deadline_s: float = field(init=False)
    _began_s: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.stretched_s = self.interval_s
        self.restart()

    def restart(self) -> None:
        """Begin a whole interval now."""
        self.deadline_s = time.monotonic() + self.stretched_s

    def left_s(self) -> float:
        """Return the seconds until the next reading."""
        return max(0.0, self.deadline_s - time.monotonic())

    def begin(self) -> None:
        """Start to measure."""
        self._began_s = time.thread_time()

    def end(self) -> None:
        """Stretch the interval by what was measured, or let it go back."""
        spent_s = time.thread_time() - self._began_s
        self.stretched_s = max(self.interval_s, spent_s / SHARE_MAX)

    def step(self) -> None:
        """Begin the next interval where the last one ended, or now if that one is over too."""
        self.deadline_s = max(self.deadline_s + self.stretched_s, time.monotonic())


class Watch(Iterator[Change], AsyncIterator[Change]):
    """What `Map.watch` returns: for `for` and for `async for`, from now on.

    Reading itself is not awaited: it takes about 30 ms for 100,000 entries. To stop is to ask no
    more; nothing is left behind, and the map stays open.
    """

    def __init__(
        self,
        held: Map,
        *,
        interval_s: float = 1.0,
        count: int | None = None,
        entries_max: int = ENTRIES_MAX,
    ) -> None:
        if not interval_s > 0:
            raise ValueError(f"an interval of {interval_s} s; it must be more than 0")
        self._held = held
        self._read: Callable[[], Reading] = lambda: read(held, entries_max=entries_max)
        self._pace = Pace(interval_s)
        self._steps = iter(itertools.count() if count is None else range(count))
        self._before = self._read()

    def __iter__(self) -> Self:
        return self

    def __aiter__(self) -> Self:
        return self

    def __next__(self) -> Change:
        next(self._steps)
        time.sleep(self._pace.left_s())
        return self._step()

    async def __anext__(self) -> Change:
        import asyncio  # noqa: PLC0415  (60 ms, for those who use it already)

        if next(self._steps, None) is None:
            raise StopAsyncIteration
        await asyncio.sleep(self._pace.left_s())
        return self._step()

    def _step(self) -> Change:
        self._pace.begin()
        now = self._read()
        change = change_between(self._before, now)
        self._before = now
        self._pace.end()
        self._pace.step()
        return change
