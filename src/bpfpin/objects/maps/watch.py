"""Watching the entries of a map: all are read at an interval, and the differences reported.

Snapshots are kept and compared as bytes; only what differs is decoded. Entries that are equal stand
next to each other in both snapshots, because the kernel returns them in the order of its buckets,
so whole stretches are compared at once. Entries that are left over are matched by key in the end:
the order only saves time, the result does not depend on it.

A snapshot copies all entries out of the kernel, so its cost grows with the map. If it takes more
than a twentieth of the interval, the interval is stretched, and `Change.period_s` says so.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self

from bpfpin.codecs.codec import Codec
from bpfpin.errors import LimitError
from bpfpin.objects.maps.base import ENTRIES_MAX
from bpfpin.records import dataclass

if TYPE_CHECKING:
    from bpfpin.objects.maps.map import Map

# Keys lie back to back, so one comparison of bytes covers as many entries as are equal.
STRETCH = 512  # entries compared at once
# Gaps that are wider are crossed in steps of it; `_match` finds by key what that separates.
WINDOW = 32  # how far ahead the next key that both have is looked for
Pairs = dict[bytes, bytes]
Ids = tuple[int | None, int | None]
SHARE_MAX: Final = 0.05  # of one CPU, spent on reading


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
class EntryChanges:
    """Entries that are in one of two snapshots only, or in both with different values."""

    added: Pairs = field(default_factory=dict)
    removed: Pairs = field(default_factory=dict)
    changed: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)


def difference(old: Rows, new: Rows) -> EntryChanges:
    """Compare two snapshots of one map."""
    changes = EntryChanges()
    at = ahead = 0
    while at < old.count and ahead < new.count:
        same = _same_keys(old, at, new, ahead)
        for index in _unlike(old, at, new, ahead, count=same):
            values = old.value(at + index), new.value(ahead + index)
            changes.changed[old.key(at + index)] = values
        at, ahead = at + same, ahead + same
        skip_old, skip_new = _to_the_next_common(old, at, new, ahead)
        old.put(at, at + skip_old, changes.removed)
        new.put(ahead, ahead + skip_new, changes.added)
        at, ahead = at + skip_old, ahead + skip_new
    old.put(at, old.count, changes.removed)
    new.put(ahead, new.count, changes.added)
    # After the walk: an entry that moved between the readings was put into both dicts.
    _match(changes)
    return changes


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
    """Return how many entries of each to skip until both continue with the same key."""
    width = min(WINDOW, old.count - at), min(WINDOW, new.count - ahead)
    positions = {new.key(ahead + index): index for index in range(width[1])}
    for index in range(width[0]):
        if (position := positions.get(old.key(at + index))) is not None:
            return index, position
    return width


def _match(changes: EntryChanges) -> None:
    """Match the entries that are left over in both snapshots by their keys."""
    for key in changes.removed.keys() & changes.added.keys():
        old, new = changes.removed.pop(key), changes.added.pop(key)
        if old != new:
            changes.changed[key] = old, new


@dataclass(frozen=True, slots=True)
class Reload:
    """A pin set that was loaded again while one of its maps was followed by name.

    Args:
        program: Ids of the program of one of the set's hooks, old and new; of several hooks the
            first that changed. None where there is no program, the pin is in no pin set, or this
            user may not look.
        map: Ids of the map that the name holds, old and new.
        is_migration: The new map took over the entries of the old one, so counts go on.
    """

    program: Ids
    map: tuple[int, int]
    is_migration: bool = False

    @property
    def is_other_map(self) -> bool:
        """Whether the name holds another map."""
        return self.map[0] != self.map[1]

    @property
    def is_restart(self) -> bool:
        """Whether the name holds another map that starts without the entries of the old one."""
        return self.is_other_map and not self.is_migration

    def since(self, earlier: Reload | None) -> Reload:
        """Combine this reload with the one before it.

        Args:
            earlier: The reload before; None if there was none.

        Returns:
            One reload, from the earlier ids to the later ones.
        """
        if earlier is None:
            return self
        reloads = earlier, self
        return Reload(
            (earlier.program[0], self.program[1]),
            (earlier.map[0], self.map[1]),
            any(reload.is_migration for reload in reloads)
            and not any(reload.is_restart for reload in reloads),
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
    """How a map's entries differ between two readings.

    Entries that come and go between the readings are not seen. If the name of a map is followed and
    a reload brings another map, the comparison starts again with the first reading of that map. If
    it was migrated from the one before, the comparison goes on, by the names that members have in
    both.

    Args:
        wall_time_s: When the later reading was made, in seconds since the epoch.
        period_s: Seconds between the two readings.
        map_id: The id of the map.
        entries: All entries as they are now; decoded when they are first looked at.
        changed: Old and new value by key.
        added: New entries.
        removed: Entries that no longer exist.
        reload: The reload that came before or within the interval, if any.
        is_gone: The name held no map at the end of the interval; there are no entries.
        is_unfinished: There are no entries because a migration has been moving them for long; its
            process may be dead.
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
class Snapshot:
    """All entries of a map at one moment, and how they are decoded."""

    monotonic_s: float
    wall_s: float
    map_id: int
    rows: Rows
    codecs: tuple[Codec, Codec]


class DecodedEntries(Mapping[Any, Any]):
    """The entries of a snapshot, decoded when they are first looked at."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    @cached_property
    def _decoded(self) -> dict[Any, Any]:
        key, value = self._snapshot.codecs
        rows = self._snapshot.rows
        return dict(zip(_many(key, rows.keys), _many(value, rows.values), strict=True))

    def __getitem__(self, key: Any) -> Any:
        return self._decoded[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._decoded)

    def __len__(self) -> int:
        return self._snapshot.rows.count

    def __repr__(self) -> str:
        return repr(self._decoded)


def read(bpf_map: Map, *, entries_max: int = ENTRIES_MAX) -> Snapshot:
    """Read all entries; `LimitError` if there are more than *entries_max*."""
    # Before the first batch: rates are of the time between the starts of two readings.
    monotonic_s, wall_s = time.monotonic(), time.time()
    keys, values, count = [], [], 0
    for batch in bpf_map.batches_bytes():
        count += batch.count
        if count > entries_max:
            raise LimitError(
                f"map {bpf_map.name!r} (id {bpf_map.id}) has more than {entries_max} entries, too"
                " many to compare each time",
                limit=entries_max,
                asked=bpf_map.max_entries,
                hint="raise entries_max, or read it by its batches: Map.lookup_batch()",
            )
        keys.append(bytes(batch.keys))
        values.append(bytes(batch.values))
    codecs = bpf_map.key_codec, bpf_map.value_codec
    rows = Rows(count, b"".join(keys), b"".join(values), codecs[0].size, codecs[1].size)
    return Snapshot(monotonic_s, wall_s, bpf_map.id, rows, codecs)


def change_between(before: Snapshot, now: Snapshot) -> Change:
    """Compare two snapshots of one map."""
    changes = difference(before.rows, now.rows)
    key, value = now.codecs
    keys = _many(key, b"".join(changes.changed))
    old = _many(value, b"".join(pair[0] for pair in changes.changed.values()))
    new = _many(value, b"".join(pair[1] for pair in changes.changed.values()))
    return Change(
        wall_time_s=now.wall_s,
        period_s=now.monotonic_s - before.monotonic_s,
        map_id=now.map_id,
        entries=DecodedEntries(now),
        changed=dict(zip(keys, zip(old, new, strict=True), strict=True)),
        added=_pairs(now, changes.added),
        removed=_pairs(now, changes.removed),
    )


def _pairs(snapshot: Snapshot, raw: dict[bytes, bytes]) -> dict[Any, Any]:
    key, value = snapshot.codecs
    keys, values = _many(key, b"".join(raw)), _many(value, b"".join(raw.values()))
    return dict(zip(keys, values, strict=True))


def _many(codec: Codec, data: bytes) -> Any:
    return codec.decode_many(data, codec.size) if data else ()


@dataclass(slots=True)
class Pace:
    """When to read next: every *interval_s*, or less often if the readings cost too much.

    The cost of a reading is the CPU time of this thread between `begin` and `end`. Without these
    two calls the intervals are even.
    """

    interval_s: float
    stretched_s: float = field(init=False)
    deadline_s: float = field(init=False)
    _began_s: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.stretched_s = self.interval_s
        self.restart()

    def restart(self) -> None:
        """Start a whole interval now."""
        self.deadline_s = time.monotonic() + self.stretched_s

    def left_s(self) -> float:
        """Return the seconds until the next reading."""
        return max(0.0, self.deadline_s - time.monotonic())

    def begin(self) -> None:
        """Start to measure the cost of a reading."""
        self._began_s = time.thread_time()

    def end(self) -> None:
        """Set the interval by the measured cost: stretched, or *interval_s* again."""
        # CPU time: on a busy host a reading takes longer without costing more.
        spent_s = time.thread_time() - self._began_s
        self.stretched_s = max(self.interval_s, spent_s / SHARE_MAX)

    def step(self) -> None:
        """Start the next interval at the end of the last one, or now if it is over, too."""
        # From the last deadline, so that delays do not add up; not in the past, so that a process
        # that was stopped does not catch up on every interval.
        self.deadline_s = max(self.deadline_s + self.stretched_s, time.monotonic())


class Watch(Iterator[Change], AsyncIterator[Change]):
    """The iterator that `Map.watch` returns, for `for` and `async for`.

    Reading blocks, also in `async for`: it takes about 30 ms for 100,000 entries. To stop watching,
    stop iterating; the map stays open.

    Args:
        bpf_map: The map; it must stay open.
        interval_s: Seconds between two readings.
        count: How many changes to yield; by default without end.
        entries_max: How many entries a reading may have, else `LimitError`.
    """

    def __init__(
        self,
        bpf_map: Map,
        *,
        interval_s: float = 1.0,
        count: int | None = None,
        entries_max: int = ENTRIES_MAX,
    ) -> None:
        if not interval_s > 0:
            raise ValueError(f"an interval of {interval_s} s; it must be more than 0")
        self._read: Callable[[], Snapshot] = lambda: read(bpf_map, entries_max=entries_max)
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
