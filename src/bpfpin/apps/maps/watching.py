"""What becomes of the entries of any map, one event each, through reloads where it has a path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from bpfpin.apps.changes import Change, Gone, Migrating, Reload
from bpfpin.apps.follow import Follower, follow
from bpfpin.apps.maps import sums, where
from bpfpin.apps.maps.columns import Columns, Row
from bpfpin.apps.maps.entries import require_entries, said
from bpfpin.apps.maps.naming import AS_IT_IS, ID, NAME, Typing, open_typed
from bpfpin.codecs.formats import AUTO
from bpfpin.codecs.stray import key_bytes_of
from bpfpin.objects.map import Map
from bpfpin.syscall.fd import Closing


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
        conditions = [where.parse(text, columns) for text in self._conditions]
        sums.check(held, (one.column for one in conditions))
        self._is_percpu, self._shown = held.is_per_cpu, sums.compared(held)
        self._is_wanted = where.all_hold(conditions)

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
