"""What becomes of the entries of any map, one event each, through reloads where it has a path."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from bpfpin.codecs.formats import AUTO
from bpfpin.codecs.stray import key_bytes_of
from bpfpin.errors import BpfError, BusyError, UsageError
from bpfpin.map import query
from bpfpin.map.changes import Change, Gone, Migrating, Reload
from bpfpin.map.entries import require_entries, said
from bpfpin.map.follow import Follower, follow
from bpfpin.map.open import AS_IT_IS, Typing, open_map, open_typed
from bpfpin.map.query import Columns, Row
from bpfpin.map_traits import MapFamily, traits_of
from bpfpin.objects.events.perf_buffer import PerfBuffer
from bpfpin.objects.events.perf_ring import Lost
from bpfpin.objects.events.ring_buffer import RingBuffer
from bpfpin.objects.events.source import EventSource
from bpfpin.objects.kernel import btf as event_types
from bpfpin.objects.kernel.info import ID, NAME, type_name
from bpfpin.objects.maps.map import Map
from bpfpin.syscall.fd import Closing

KINDS: dict[MapFamily, type[EventSource]] = {
    MapFamily.RING_BUFFER: RingBuffer,
    MapFamily.PERF_BUFFER: PerfBuffer,
}
LOOK_AGAIN_S = 1.0  # at the name that the map was opened by
AT_ONCE = 64  # so that an end by Ctrl-C takes few events with it


class EventKind(Enum):
    """What became of an entry."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Event:
    """What became of one entry; *value* is None if it was removed, *old* if it was added.

    *is_percpu*: values are lists with one item a possible CPU.
    """

    kind: EventKind
    wall_time_s: float
    key: Any
    value: Any
    old: Any
    is_percpu: bool
    shown: Callable[[Row], Row]

    def told(self, value: Any) -> Any:
        """Return *value* as a person reads it: of all CPUs the sum, where they are numbers."""
        return self.shown((self.key, value))[1]

    def to_json(self) -> dict[str, Any]:
        """Return the event as the JSON documents have it."""
        name = "values" if self.is_percpu else "value"
        parts = {name: self.value, "old": self.old}
        there = {name: part for name, part in parts.items() if part is not None}
        time_s = round(self.wall_time_s, 6)
        raw = key_bytes_of(self.key)
        more = {} if raw is None else {"key_bytes": raw}
        return {"time": time_s, "event": self.kind.value, "key": self.key, **more, **there}


# What `Watching.events` yields.
Found = Event | Reload | Gone | Migrating


class Watching(Closing):
    """A map that is watched: the one that a path holds, or one for good (`id:N`, `name:NAME`).

    Of a map where conditions hold, before or now, they let an event through.
    """

    def __init__(self, source: Map | Follower, conditions: Sequence[str]) -> None:
        self._source = source
        self._conditions = conditions
        self._look()

    def close(self) -> None:
        """Let the map go."""
        self._source.close()

    def events(self, *, interval_s: float, count: int | None = None) -> Iterator[Found]:
        """Yield what happened in each of *count* intervals; why there is nothing just once."""
        is_told = False
        with said(self._map):
            for change in self._source.watch(interval_s=interval_s, count=count):
                if change.reload:
                    yield change.reload
                    self._look()
                is_nothing = change.is_gone or change.is_unfinished
                if is_nothing and not is_told and isinstance(self._source, Follower):
                    why = Gone if change.is_gone else Migrating
                    yield why(self._source.path, change.map_id)
                is_told = is_nothing
                yield from self._of(change)

    @property
    def _map(self) -> Map:
        return self._source.map if isinstance(self._source, Follower) else self._source

    def _look(self) -> None:
        """Read the conditions as the map of now has the fields."""
        held = self._map
        columns = Columns.of(held)
        conditions = [query.parse_condition(text, columns) for text in self._conditions]
        query.check(held, (one.column for one in conditions))
        self._is_percpu, self._shown = held.is_per_cpu, query.compared(held)
        self._is_wanted = query.all_hold(conditions)

    def _of(self, change: Change) -> Iterator[Event]:
        added = ((key, value, None) for key, value in change.added.items())
        changed = ((key, new, old) for key, (old, new) in change.changed.items())
        removed = ((key, None, old) for key, old in change.removed.items())
        yield from self._events(EventKind.ADDED, change, added)
        yield from self._events(EventKind.CHANGED, change, changed)
        yield from self._events(EventKind.REMOVED, change, removed)

    def _events(
        self, kind: EventKind, change: Change, parts: Iterable[tuple[Any, Any, Any]]
    ) -> Iterator[Event]:
        for key, value, old in parts:
            there = [(key, one) for one in (value, old) if one is not None]
            if any(self._is_wanted(self._shown(row)) for row in there):
                when_s = change.wall_time_s
                yield Event(kind, when_s, key, value, old, self._is_percpu, self._shown)


def open_watch(
    target: str, *, conditions: Sequence[str] = (), typing: Typing = AS_IT_IS
) -> Watching:
    """Open the map that *target* names; the caller closes it.

    `UsageError` for a map without entries, and for a field that the map does not have.
    """
    held = open_typed(target, typing=typing)
    try:
        require_entries(held)
        watching = Watching(held, conditions)
    except BaseException:
        held.close()
        raise
    if target.startswith((ID, NAME)):
        return watching
    held.close()
    return _following(target, conditions, typing)


def _following(path: str, conditions: Sequence[str], typing: Typing) -> Watching:
    live = follow(path, read_only=True, formats=AUTO, **typing.to_reading())
    try:
        return Watching(live, conditions)
    except BaseException:
        live.close()
        raise


# The events of a map: of a ring buffer or a perf buffer, as they come.


@dataclass(frozen=True, slots=True)
class Told:
    """An event, or `Lost`, and when it was taken out of the map: seconds since 1970."""

    wall_time_s: float
    event: Any

    def to_json(self) -> dict[str, Any]:
        """Return it as the JSON documents have it."""
        moment = {"time": round(self.wall_time_s, 6)}
        if isinstance(self.event, Lost):
            return {**moment, "lost": self.event.count, "cpu": self.event.cpu}
        return {**moment, "event": self.event}


def open_events(target: str, *, event_type: str | None, form: str | None) -> EventSource:
    """Open the map that *target* names to take its events; the caller closes it.

    They read as *event_type* (`struct event`, of the programs that use the map) or *form*, a format
    of the struct module, says; else as bytes. `UsageError` if the map is no source of events.
    """
    if event_type and form:
        raise UsageError("--type and --format both say how an event reads: give one of them")
    with open_map(target, read_only=False) as held:
        kind = KINDS.get(traits_of(held.type).family)
        if kind is None:
            raise UsageError(
                f"map {held.name!r} is of type {type_name(held.type)}; events come from a ringbuf"
                " or a perf_event_array",
                hint=f"bpfpin map dump {target}",
            )
        try:
            return kind.of(held, event_type=event_type, value_format=form, formats=AUTO)
        except struct.error as error:
            raise UsageError(
                f"--format {form!r}: {error}", hint="for example --format QII"
            ) from None


def candidates(source: EventSource) -> list[str]:
    """Return the structures that its events may be; none where that may not be asked."""
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
) -> Iterator[Told]:
    """Yield the events of *source* as they come, `Lost` among them.

    Ends after *count* events and after *timeout_s* seconds, whatever is first; else never. Where
    *path* is given, the pin that *source* was opened by, `BusyError` says that a reload put another
    map there, once there are no events left in this one: nobody sends to it any more.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while count is None or count > 0:
        left = LOOK_AGAIN_S if deadline is None else max(0.0, deadline - time.monotonic())
        is_over = deadline is not None and left <= LOOK_AGAIN_S
        replaced = "" if path is None else _replaced(Path(path), source.id)
        limit = AT_ONCE if count is None else min(count, AT_ONCE)
        found = source.poll(0.0 if replaced else min(left, LOOK_AGAIN_S), limit=limit)
        if not found:
            if replaced:
                raise BusyError(
                    f"{path}: {replaced}; its events go there now",
                    hint=f"read that one: bpfpin map events {path}",
                )
            if is_over:
                return
            continue
        now = time.time()
        for one in found:
            yield Told(now, one)
        if count is not None:
            count -= sum(not isinstance(one, Lost) for one in found)


def _replaced(path: Path, map_id: int) -> str:
    """Say which other map is pinned at *path* now, "" if it is the same, or none for us to see."""
    with suppress(BpfError, OSError), Map.from_pin(path, read_only=True) as held:
        if held.id != map_id:
            return f"a reload put map id {held.id} in the place of id {map_id}"
    return ""
