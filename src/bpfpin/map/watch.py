"""Watches the entries of a map (added, changed, removed), and reads the events of buffers.

A map that is named by its path is followed through reloads.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any

from bpfpin.codecs.formats import AUTO
from bpfpin.codecs.stray import key_bytes_of
from bpfpin.errors import BpfError, BusyError, UsageError
from bpfpin.hints import Argument, Fix, shell_line
from bpfpin.map import query
from bpfpin.map.follow import Follower, Gone, StillMigrating, follow
from bpfpin.map.open import AS_IT_IS, Typing, open_map, open_typed, require_entries, usage_errors
from bpfpin.map.query import Columns
from bpfpin.map_traits import MapFamily, traits_of
from bpfpin.objects.events.perf_buffer import PerfBuffer
from bpfpin.objects.events.perf_ring import Lost
from bpfpin.objects.events.ring_buffer import RingBuffer
from bpfpin.objects.events.source import EventSource
from bpfpin.objects.kernel import btf as event_types
from bpfpin.objects.kernel.info import ID, NAME, type_name
from bpfpin.objects.maps.codec import Row
from bpfpin.objects.maps.map import Map
from bpfpin.objects.maps.watch import Change, Reload
from bpfpin.records import dataclass
from bpfpin.syscall.fd import Closing

KINDS: dict[MapFamily, type[EventSource]] = {
    MapFamily.RING_BUFFER: RingBuffer,
    MapFamily.PERF_BUFFER: PerfBuffer,
}
# How often `events` checks that the path still leads to the same map.
LOOK_AGAIN_S = 1.0
# Events are taken out of the kernel's buffer in portions: Ctrl-C loses at most one portion.
AT_ONCE = 64


class EventKind(Enum):
    """Kinds of changes of an entry."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class EntryEvent:
    """A change of one entry; *value* is None if it was removed, *old* if it was added.

    *is_percpu*: values are lists with one item per possible CPU. *shown* turns a row into the form
    that people read.
    """

    kind: EventKind
    wall_time_s: float
    key: Any
    value: Any
    old: Any
    is_percpu: bool
    shown: Callable[[Row], Row]

    def readable(self, value: Any) -> Any:
        """Return *value* in the form that people read: per-CPU numbers as their sum."""
        return self.shown((self.key, value))[1]

    def to_json(self) -> dict[str, Any]:
        """Return the event in the form of the JSON documents."""
        name = "values" if self.is_percpu else "value"
        parts = {name: self.value, "old": self.old}
        present = {name: part for name, part in parts.items() if part is not None}
        time_s = round(self.wall_time_s, 6)
        raw = key_bytes_of(self.key)
        more = {} if raw is None else {"key_bytes": raw}
        return {"time": time_s, "event": self.kind.value, "key": self.key, **more, **present}


# The items that `EntryWatch.events` yields.
WatchItem = EntryEvent | Reload | Gone | StillMigrating


class EntryWatch(Closing):
    """A watched map: the map at a path, followed, or one fixed map (`id:N`, `name:NAME`).

    With *conditions*, only events of entries that meet them, before or after the change.
    """

    def __init__(self, source: Map | Follower, conditions: Sequence[str]) -> None:
        self._source = source
        self._conditions = conditions
        self._parse_conditions()

    def close(self) -> None:
        """Close the map."""
        self._source.close()

    def events(self, *, interval_s: float, count: int | None = None) -> Iterator[WatchItem]:
        """Yield the changes of each of *count* intervals.

        If the map cannot be read, yields the reason, once until it can be read again.
        """
        is_reported = False
        with usage_errors(self._map):
            for change in self._source.watch(interval_s=interval_s, count=count):
                if change.reload:
                    yield change.reload
                    self._parse_conditions()
                is_unreadable = change.is_gone or change.is_unfinished
                if is_unreadable and not is_reported and isinstance(self._source, Follower):
                    reason = Gone if change.is_gone else StillMigrating
                    yield reason(self._source.path, change.map_id)
                is_reported = is_unreadable
                yield from self._events_of(change)

    @property
    def _map(self) -> Map:
        return self._source.map if isinstance(self._source, Follower) else self._source

    def _parse_conditions(self) -> None:
        """Parse the conditions by the fields of the current map; a reload may change them."""
        bpf_map = self._map
        columns = Columns.of(bpf_map)
        conditions = [query.parse_condition(text, columns) for text in self._conditions]
        query.check(bpf_map, (condition.column for condition in conditions))
        self._is_percpu, self._shown = bpf_map.is_per_cpu, query.compared(bpf_map)
        self._is_wanted = query.all_hold(conditions)

    def _events_of(self, change: Change) -> Iterator[EntryEvent]:
        added = ((key, value, None) for key, value in change.added.items())
        changed = ((key, new, old) for key, (old, new) in change.changed.items())
        removed = ((key, None, old) for key, old in change.removed.items())
        yield from self._events(EventKind.ADDED, change, added)
        yield from self._events(EventKind.CHANGED, change, changed)
        yield from self._events(EventKind.REMOVED, change, removed)

    def _events(
        self, kind: EventKind, change: Change, parts: Iterable[tuple[Any, Any, Any]]
    ) -> Iterator[EntryEvent]:
        for key, value, old in parts:
            rows = [(key, known) for known in (value, old) if known is not None]
            if any(self._is_wanted(self._shown(row)) for row in rows):
                when_s = change.wall_time_s
                yield EntryEvent(kind, when_s, key, value, old, self._is_percpu, self._shown)


def open_watch(
    target: str, *, conditions: Sequence[str] = (), typing: Typing = AS_IT_IS
) -> EntryWatch:
    """Open the map that *target* names; the caller closes it.

    `UsageError` for a map without keys, and for a field that the map does not have.
    """
    # Opened once before it is followed: a wrong target or field is an error at once, while a
    # follower would wait for the path.
    bpf_map = open_typed(target, typing=typing)
    try:
        require_entries(bpf_map)
        watching = EntryWatch(bpf_map, conditions)
    except BaseException:
        bpf_map.close()
        raise
    if target.startswith((ID, NAME)):
        return watching
    bpf_map.close()
    return _following(target, conditions, typing)


def _following(path: str, conditions: Sequence[str], typing: Typing) -> EntryWatch:
    live = follow(path, read_only=True, formats=AUTO, **typing.to_reading())
    try:
        return EntryWatch(live, conditions)
    except BaseException:
        live.close()
        raise


@dataclass(frozen=True, slots=True)
class TimedEvent:
    """An event of a buffer, or `Lost`, and when it was taken out: seconds since the epoch."""

    wall_time_s: float
    event: Any

    def to_json(self) -> dict[str, Any]:
        """Return it in the form of the JSON documents."""
        moment = {"time": round(self.wall_time_s, 6)}
        if isinstance(self.event, Lost):
            return {**moment, "lost": self.event.count, "cpu": self.event.cpu}
        return {**moment, "event": self.event}


def open_events(target: str, *, event_type: str | None, form: str | None) -> EventSource:
    """Open the ring buffer or perf buffer that *target* names; the caller closes it.

    Events are decoded by *event_type*, such as `struct event` of the programs that use the map, or
    by *form*, a format of the struct module; else they are bytes. `UsageError` for other maps.
    """
    if event_type and form:
        raise UsageError("a type and a format both say how an event reads: give one of them")
    # Not read-only: the reader of a ring buffer writes how far it is (ringbuf_map_mmap_kern() in
    # kernel/bpf/ringbuf.c), that of a perf event array puts its events into it.
    with open_map(target, read_only=False) as bpf_map:
        kind = KINDS.get(traits_of(bpf_map.type).family)
        if kind is None:
            raise UsageError(
                f"map {bpf_map.name!r} is of type {type_name(bpf_map.type)}; events come from a"
                " ringbuf or a perf_event_array",
                hint=shell_line("bpfpin map dump", target),
            )
        try:
            return kind.of(bpf_map, event_type=event_type, value_format=form, formats=AUTO)
        except struct.error as error:
            raise UsageError(
                f"format {form!r}: {error}", hint=Fix.of("for example ", Argument("form", "QII"))
            ) from None


def candidates(source: EventSource) -> list[str]:
    """Return the structures that the events may be; none if the kernel cannot be asked."""
    try:
        return event_types.candidates(source.info)
    except BpfError:
        return []


def events(
    source: EventSource,
    *,
    count: int | None = None,
    timeout_s: float | None = None,
    path: str | Path | None = None,
) -> Iterator[TimedEvent]:
    """Yield the events of *source* as they come, `Lost` among them.

    Ends after *count* events, or after *timeout_s* seconds with the events that are in the map by
    then; without these never. *path* is the pin that *source* was opened by: `BusyError` if a
    reload put another map there and the last event was read, because nothing sends to this map any
    more.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while count is None or count > 0:
        left = LOOK_AGAIN_S if deadline is None else max(0.0, deadline - time.monotonic())
        is_over = left == 0.0
        # A replaced map is read to its end first: it may have events from before the reload.
        replaced = "" if path is None else _replaced(Path(path), source.id)
        # No more than wanted: an event that is taken out and not shown would be lost to other
        # readers.
        limit = AT_ONCE if count is None else min(count, AT_ONCE)
        if is_over:
            # All at once: if they came as fast as they are taken, this would never end.
            polled = source.consume(count)
        else:
            polled = source.poll(0.0 if replaced else min(left, LOOK_AGAIN_S), limit=limit)
        if not polled and replaced:
            raise BusyError(
                f"{path}: {replaced}; its events go there now",
                hint=f"read that one: {shell_line('bpfpin map events', path)}",
            )
        now = time.time()
        for event in polled:
            yield TimedEvent(now, event)
        if is_over:
            return
        if count is not None:
            count -= sum(not isinstance(event, Lost) for event in polled)


def _replaced(path: Path, map_id: int) -> str:
    """Return which other map is pinned at *path* now, in words; "" if none is, or none in sight."""
    with suppress(BpfError, OSError), Map.from_pin(path, read_only=True) as bpf_map:
        if bpf_map.id != map_id:
            return f"a reload put map id {bpf_map.id} in the place of id {map_id}"
    return ""
