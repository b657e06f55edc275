"""The events of a map: of a ring buffer or a perf buffer, as they come."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpfpin.apps.maps.naming import open_map, type_name
from bpfpin.codecs.formats import AUTO
from bpfpin.errors import BpfError, BusyError, UsageError
from bpfpin.objects.events import types as event_types
from bpfpin.objects.events.perf_buffer import PerfBuffer
from bpfpin.objects.events.perf_ring import Lost
from bpfpin.objects.events.ring_buffer import RingBuffer
from bpfpin.objects.events.source import EventSource
from bpfpin.objects.map import Map
from bpfpin.uapi import MapType

KINDS: dict[MapType | int, type[EventSource]] = {
    MapType.RINGBUF: RingBuffer,
    MapType.PERF_EVENT_ARRAY: PerfBuffer,
}
LOOK_AGAIN_S = 1.0  # at the name that the map was opened by
AT_ONCE = 64  # so that an end by Ctrl-C takes few events with it


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
        kind = KINDS.get(held.type)
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
