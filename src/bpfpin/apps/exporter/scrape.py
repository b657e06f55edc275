"""One scrape: asks the helper for descriptors, reads, and writes the metrics.

It runs in the process that talks to the network, which has no capability.
"""

from __future__ import annotations

import os
import socket
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from bpfpin.apps.exporter import channel
from bpfpin.apps.exporter.metrics import (
    BYTES,
    PACKETS,
    Exposition,
    Family,
    Totals,
    head,
    labels_text,
)
from bpfpin.apps.exporter.read import CounterReader, RunReader, memory_of, read_entries, ring_used
from bpfpin.apps.exporter.rule_series import RuleSeries
from bpfpin.apps.exporter.rules import MetricRule
from bpfpin.apps.exporter.view import CounterView, HostView, MapView, ProgramView
from bpfpin.errors import BpfError
from bpfpin.syscall.fd import Closing
from bpfpin.version import __version__

_NS: Final = 1_000_000_000
_FOLD_TRIES: Final = 3
_SAID_MAX: Final = 100  # lines in the log

BUILD = Family("bpfpin_build_info", "gauge", "Version of bpfpin; the value is 1.")
MAPS = Family("bpfpin_maps", "gauge", "Maps with this name, type and pin set.")
ENTRIES = Family(
    "bpfpin_map_entries",
    "gauge",
    "Entries of hash maps and LPM tries as the kernel counts them; absent for other types.",
)
MAX_ENTRIES = Family(
    "bpfpin_map_max_entries", "gauge", "The most entries; of ring buffers their size in bytes."
)
MEMORY = Family("bpfpin_map_memory_bytes", "gauge", "Memory of the map as the kernel reports it.")
RING_USED = Family(
    "bpfpin_ring_buffer_used_bytes", "gauge", "Bytes in a ring buffer that nobody consumed yet."
)
PROGRAMS = Family("bpfpin_programs", "gauge", "Programs with this name, type and pin set.")
RUNS = Family(
    "bpfpin_program_runs_total", "counter", "Runs of the program while statistics were on."
)
RUN_TIME = Family("bpfpin_program_run_seconds_total", "counter", "Time that these runs took.")
MISSES = Family(
    "bpfpin_program_recursion_misses_total",
    "counter",
    "Runs that the kernel skipped because the program ran on that CPU already.",
)
ATTACHED = Family(
    "bpfpin_program_attached", "gauge", "Where the program is attached; the value is 1."
)
SET_STATE = Family(
    "bpfpin_set_state", "gauge", "The state of the pin set as a label; the value is 1."
)
GENERATION = Family(
    "bpfpin_set_generation", "gauge", "Generation of the pin set: 1 after the first load."
)
RELOADS = Family("bpfpin_set_reloads_total", "counter", "Loads of the pin set since the first one.")
LOADED = Family(
    "bpfpin_set_loaded_timestamp_seconds", "gauge", "When the pin set was loaded last, Unix time."
)
PROBLEMS = Family("bpfpin_problems", "gauge", "Problems that bpfpin status finds, by kind.")
DROPPED = Family(
    "bpfpin_dropped_series", "gauge", "Series that a rule left out because of max_series."
)
RULE_ERRORS = Family(
    "bpfpin_rule_failed", "gauge", "Whether a map could not be read by this rule: 1 or 0."
)
STATISTICS = Family(
    "bpfpin_program_statistics_enabled",
    "gauge",
    "Whether this exporter keeps the kernel's statistics of programs on: 1 or 0.",
)
LOOK_AGE = Family(
    "bpfpin_exporter_view_age_seconds",
    "gauge",
    "Seconds since the exporter looked at the whole host.",
)
DURATION = Family("bpfpin_exporter_scrape_duration_seconds", "gauge", "Time that this scrape took.")
SCRAPES = Family("bpfpin_exporter_scrapes_total", "counter", "Scrapes so far, this one included.")
FAMILIES: Final = (
    BUILD, PACKETS, BYTES, MAPS, ENTRIES, MAX_ENTRIES, MEMORY, RING_USED, PROGRAMS, RUNS, RUN_TIME,
    MISSES, ATTACHED, SET_STATE, GENERATION, RELOADS, LOADED, PROBLEMS, DROPPED, RULE_ERRORS,
    STATISTICS, LOOK_AGE, DURATION, SCRAPES,
)  # fmt: skip


class Layout:
    """What follows from a view of the host alone: labels as text, and lines that never change."""

    def __init__(self, view: HostView) -> None:
        self.view = view
        self.maps: dict[str, list[MapView]] = defaultdict(list)
        for row in view.maps:
            labels = labels_text((("set", row.set), ("map", row.name), ("type", row.type)))
            self.maps[labels].append(row)
        self.programs: dict[str, list[ProgramView]] = defaultdict(list)
        for program in view.programs:
            labels = labels_text(
                (("set", program.set), ("program", program.name), ("type", program.type))
            )
            self.programs[labels].append(program)
        self.counters: dict[str, list[CounterView]] = defaultdict(list)
        for counter in view.counters:
            self.counters[labels_text(_places(counter))].append(counter)
        self.counter_labels = {
            place: [
                labels_text((*_places(rows[0]), ("action", key)))
                for key in max((row.keys for row in rows), key=len)
            ]
            for place, rows in self.counters.items()
        }
        fixed = [
            (MAPS, _lines(MAPS, {labels: len(rows) for labels, rows in self.maps.items()})),
            (
                MAX_ENTRIES,
                _lines(MAX_ENTRIES, _sums(self.maps, lambda row: row.max_entries)),
            ),
            (PROGRAMS, _lines(PROGRAMS, {text: len(rows) for text, rows in self.programs.items()})),
            (ATTACHED, _lines(ATTACHED, dict.fromkeys(_attached(view.programs), 1))),
            *_of_sets(view),
            (
                PROBLEMS,
                _lines(
                    PROBLEMS,
                    {labels_text((("kind", kind),)): n for kind, n in view.problems.items()},
                ),
            ),
        ]
        self.fixed = "".join(head(family) + "".join(lines) for family, lines in fixed if lines)
        self.growing = {
            labels: rows for labels, rows in self.maps.items() if any(r.is_growing for r in rows)
        }
        steady = {labels: rows for labels, rows in self.maps.items() if labels not in self.growing}
        self.memory = _lines(MEMORY, _sums(steady, lambda row: row.memory_bytes))
        self.counted = {
            labels: [row.id for row in rows]
            for labels, rows in self.maps.items()
            if rows[0].is_counted
        }
        self.rings = {labels: rows for labels, rows in self.maps.items() if rows[0].is_ring}


def _places(counter: CounterView) -> tuple[tuple[str, str], ...]:
    return (
        ("set", counter.set),
        ("map", counter.name),
        ("device", counter.device),
        ("cgroup", counter.cgroup),
    )


def _attached(programs: Sequence[ProgramView]) -> Iterator[str]:
    for program in programs:
        for hook, where in program.attached:
            yield labels_text(
                (
                    ("set", program.set),
                    ("program", program.name),
                    ("type", program.type),
                    ("hook", hook),
                    ("where", where),
                )
            )


def _of_sets(view: HostView) -> Iterator[tuple[Family, list[str]]]:
    labels = {row.name: labels_text((("set", row.name),)) for row in view.sets}
    states = {labels_text((("set", row.name), ("state", row.state))): 1 for row in view.sets}
    yield SET_STATE, _lines(SET_STATE, states)
    yield GENERATION, _lines(GENERATION, {labels[row.name]: row.generation for row in view.sets})
    reloads = {labels[row.name]: max(0, row.generation - 1) for row in view.sets}
    yield RELOADS, _lines(RELOADS, reloads)
    yield LOADED, _lines(LOADED, {labels[row.name]: row.loaded_at for row in view.sets})


def _sums(maps: Mapping[str, Sequence[MapView]], number: Any) -> dict[str, int]:
    return {labels: sum(map(number, rows)) for labels, rows in maps.items()}


def _lines(family: Family, samples: Mapping[str, float]) -> list[str]:
    return [f"{family.name}{labels} {value}\n" for labels, value in samples.items()]


class Scraper(Closing):
    """Scrapes by one connection to the helper; for one thread at a time."""

    def __init__(self, connection: socket.socket, rules: Sequence[MetricRule]) -> None:
        connection.settimeout(channel.TIMEOUT_S)
        self._connection = connection
        self._rules = [RuleSeries(rule) for rule in rules]
        self._layout = Layout(HostView([], [], [], [], [], {}))
        self._counter_reader, self._run_reader = CounterReader(), RunReader()
        self._packets, self._runs = Totals(), Totals()
        self._scrapes = 0
        self._said: set[str] = set()
        _, fds = channel.receive(connection)
        self._iterator = fds[0] if fds else None

    def close(self) -> None:
        """Close the connection."""
        if self._iterator is not None:
            os.close(self._iterator)
            self._iterator = None
        self._connection.close()

    def scrape(self) -> str:
        """Return the metrics now.

        Raises:
            ChannelClosedError: The helper has ended.
        """
        started_s = time.perf_counter()
        self._scrapes += 1
        text = Exposition()
        text.add(BUILD, [(labels_text((("version", __version__),)), 1)])
        request = channel.REQUEST
        for attempt in range(_FOLD_TRIES):
            with self._asked(request) as (message, maps, programs):
                counters = self._read_counters(message, maps)
                # A migration may have begun after the helper looked: then it is asked again, and
                # says that these maps are being emptied.
                if attempt < _FOLD_TRIES - 1 and self._goes_back(counters):
                    request = channel.FRESH
                    continue
                self._add_counters(text, counters)
                text.add_text(self._layout.fixed)
                self._add_maps(text, maps)
                self._add_programs(text, programs)
                self._add_rules(text, maps, set(message["folding"]))
            break
        self._packets.end_reading()
        self._runs.end_reading()
        text.add(STATISTICS, [("", int(message["statistics"]))])
        text.add(LOOK_AGE, [("", message["age_s"])])
        text.add(SCRAPES, [("", self._scrapes)])
        text.add(DURATION, [("", round(time.perf_counter() - started_s, 6))])
        return text.text()

    @contextmanager
    def _asked(
        self, request: bytes
    ) -> Iterator[tuple[dict[str, Any], dict[int, int], dict[int, int]]]:
        """Ask the helper; yield its message, and descriptors by id, which are closed at the end."""
        try:
            self._connection.sendall(request)
        except OSError as error:
            raise channel.ChannelClosedError(f"the helper has ended: {error}") from None
        message, fds = channel.receive(self._connection)
        try:
            if "view" in message:
                self._layout = Layout(HostView.from_json(message["view"]))
            count = len(message["maps"])
            yield (
                message,
                dict(zip(message["maps"], fds[:count], strict=True)),
                dict(zip(message["programs"], fds[count:], strict=True)),
            )
        finally:
            for fd in fds:
                os.close(fd)

    def _read_counters(
        self, message: Mapping[str, Any], maps: Mapping[int, int]
    ) -> dict[str, dict[int | str, list[int]] | None]:
        """Return counters by place and then by part; None for what cannot be read right now.

        Those are maps that are being migrated, or are gone.
        """
        folding = set(message["folding"])
        read: dict[str, dict[int | str, list[int]] | None] = {}
        for place, rows in self._layout.counters.items():
            if any(row.id in folding for row in rows):
                read[place] = None
                continue
            parts: dict[int | str, list[int]] = {}
            for row in rows:
                if (fd := maps.get(row.id)) is not None:
                    with suppress(BpfError):
                        parts[row.first] = self._counter_reader.read(fd, row)
            # Without any the map was replaced after the helper looked.
            read[place] = parts or None
        return read

    def _goes_back(self, counters: Mapping[str, Mapping[int | str, list[int]] | None]) -> bool:
        return any(
            parts is not None and self._packets.goes_back(place, parts)
            for place, parts in counters.items()
        )

    def _add_counters(
        self, text: Exposition, counters: Mapping[str, Mapping[int | str, list[int]] | None]
    ) -> None:
        packets: list[tuple[str, float]] = []
        in_bytes: list[tuple[str, float]] = []
        for place, parts in counters.items():
            totals = self._packets.last(place) if parts is None else None
            if parts is not None:
                totals = self._packets.add(place, parts)
            if totals is None:
                continue
            labels = self._layout.counter_labels[place]
            packets += zip(labels, totals[::2], strict=False)
            if any(row.bytes for row in self._layout.counters[place]):
                in_bytes += zip(labels, totals[1::2], strict=False)
        text.add(PACKETS, packets)
        text.add(BYTES, in_bytes)

    def _add_maps(self, text: Exposition, maps: Mapping[int, int]) -> None:
        entries: dict[int, int] = {}
        if self._iterator is not None:
            with suppress(BpfError, OSError):
                entries = read_entries(self._iterator)
        layout = self._layout
        filled = {
            labels: sum(entries[map_id] for map_id in map_ids)
            for labels, map_ids in layout.counted.items()
            if all(map_id in entries for map_id in map_ids)
        }
        bytes_of = {row.id: _memory(row, maps) for rows in layout.growing.values() for row in rows}
        for labels, rows in layout.growing.items():
            if all(row.entry_bytes for row in rows):
                filled[labels] = sum(bytes_of[row.id] // row.entry_bytes for row in rows)
        text.add(ENTRIES, filled.items())
        memory = _sums(layout.growing, lambda row: bytes_of[row.id])
        text.add_lines(MEMORY, layout.memory + _lines(MEMORY, memory))
        with suppress(OSError):
            used = _sums(layout.rings, lambda row: ring_used(maps[row.id]) if row.id in maps else 0)
            text.add(RING_USED, used.items())

    def _add_programs(self, text: Exposition, programs: Mapping[int, int]) -> None:
        runs: list[tuple[str, float]] = []
        times: list[tuple[str, float]] = []
        misses: list[tuple[str, float]] = []
        for labels, rows in self._layout.programs.items():
            parts: dict[int | str, tuple[int, ...]] = {}
            for row in rows:
                if (fd := programs.get(row.id)) is not None:
                    with suppress(BpfError):
                        parts[row.id] = self._run_reader.read(fd)
            if not parts:
                continue
            count, time_ns, skipped = self._runs.add(labels, parts)
            runs.append((labels, count))
            times.append((labels, time_ns / _NS))
            misses.append((labels, skipped))
        text.add(RUNS, runs)
        text.add(RUN_TIME, times)
        text.add(MISSES, misses)

    def _add_rules(self, text: Exposition, maps: Mapping[int, int], folding: set[int]) -> None:
        dropped: list[tuple[str, float]] = []
        failed: list[tuple[str, float]] = []
        for number, series in enumerate(self._rules):
            views = {
                row.id: (row, maps[row.id])
                for row in self._layout.view.rule_maps
                if row.rule == number and row.id in maps
            }
            labels = labels_text((("metric", series.rule.name),))
            try:
                reading = series.read(views, folding)
            except (BpfError, OSError, TypeError, ValueError) as error:
                self._say(f"metric {series.rule.name}: {error}")
                failed.append((labels, 1))
                continue
            failed.append((labels, 0))
            text.add_lines(reading.family, reading.lines)
            dropped.append((labels, reading.dropped))
        text.add(DROPPED, dropped)
        text.add(RULE_ERRORS, failed)

    def _say(self, text: str) -> None:
        """Write a line to the log, once for each text."""
        if text not in self._said and len(self._said) < _SAID_MAX:
            self._said.add(text)
            os.write(2, f"bpfpin: {text}\n".encode())


def _memory(row: MapView, maps: Mapping[int, int]) -> int:
    fd = maps.get(row.id) if row.is_growing else None
    if fd is None:
        return row.memory_bytes
    with suppress(OSError, ValueError):
        memory = memory_of(fd)
        return row.memory_bytes if memory is None else memory
    return row.memory_bytes
