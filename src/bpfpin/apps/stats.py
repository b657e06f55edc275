"""Rates of a counter map: finds the map, reads it once per interval, follows it through reloads.

The tutorial format is that of `xdp_stats` in the XDP tutorial, to the character:
`"%-12s %'11lld pkts (%'10.0f pps) %'11lld Kbytes (%'6.0f Mbits/s) period:%f"`. The apostrophe
groups thousands by the locale `en_US`, which the program sets. Many machines do not have it; then
nothing is grouped.
"""

from __future__ import annotations

import itertools
import locale
import os
import time
from collections.abc import Iterator
from pathlib import Path

from bpfpin.errors import PinNotFoundError, UsageError
from bpfpin.hints import Argument, Fix, Placeholder
from bpfpin.map.counters import (
    Count,
    Counters,
    Sample,
    counter_pins,
    pins_in,
    sample_across_migration,
    total,
)
from bpfpin.map.follow import FollowedReading, Gone, StillMigrating, follow, readings
from bpfpin.map.generation import FoldUnfinishedError
from bpfpin.map.open import is_map_name, open_map
from bpfpin.objects.kernel.info import ID, NAME
from bpfpin.objects.maps.watch import Pace, Reload
from bpfpin.pins import names
from bpfpin.pins.manifest import manifest_around
from bpfpin.records import dataclass
from bpfpin.sets.find import cgroup_set_name, find_readable_set
from bpfpin.syscall.cpu import cpus_of_values
from bpfpin.uapi import XdpAction

LOCALE = "en_US"
BYTES_PER_KBYTE = 1000
BITS_PER_MBIT = 1_000_000


@dataclass(frozen=True, slots=True)
class CounterRate:
    """The counters and rates of one action in one interval; *cpu* is None for all CPUs.

    *bytes* and *bytes_per_second* are None if the map counts only packets.
    """

    action: str
    packets: int
    bytes: int | None
    packets_per_second: float
    bytes_per_second: float | None
    cpu: int | None = None


@dataclass(frozen=True, slots=True)
class Interval:
    """The rates in one interval; *wall_time_s* is its end (seconds since the epoch)."""

    wall_time_s: float
    period_s: float
    rows: tuple[CounterRate, ...]


# The items that `watch_events` yields.
StatsItem = Interval | Reload | Gone | StillMigrating


def open_counters(
    target: str, *, map_name: str | None = None, pin_root: Path, netns: str | None = None
) -> Counters:
    """Open the counter map that *target* names; the caller closes it.

    *target* is a device or a pin set, a directory with pins or one pin, by whomever made, or a map
    as `id:N` or `name:NAME`. In a set or a directory *map_name* chooses the map; by default it is
    `xdp_stats_map`, or the only counter map. `UsageError` if several or none fit. A map with a path
    is followed through reloads; `id:N` and `name:NAME` stand for one fixed map.
    """
    # A path that begins with `/` may be a cgroup or a pin. A cgroup that has a set is meant before
    # a pin of that path.
    target = cgroup_set_name(target, pin_root=pin_root) or target
    if is_map_name(target) and not Path(target).is_dir():
        if map_name is not None:
            raise UsageError(f"{target!r} is one map already; --map chooses from a set")
        is_fixed = target.startswith((ID, NAME))
        return _fixed(target) if is_fixed else _following(Path(target))
    pins = _pins(target, pin_root=pin_root, netns=netns)
    if map_name is None:
        return _only_counters(target, pins)
    if map_name not in pins:
        raise UsageError(f"{target!r} has no map {map_name!r}; it has: {_listed(pins)}")
    return _following(pins[map_name])


def _fixed(target: str) -> Counters:
    bpf_map = open_map(target)
    try:
        return Counters(bpf_map, path=target)
    except BaseException:
        bpf_map.close()
        raise


def _following(path: Path) -> Counters:
    live = follow(path, read_only=True)
    try:
        return Counters.following(live)
    except BaseException:
        live.close()
        raise


def _pins(target: str, *, pin_root: Path, netns: str | None) -> dict[str, Path]:
    if is_map_name(target):
        return pins_in(Path(target))
    try:
        pin_set = find_readable_set(target, pin_root=pin_root, netns=netns)
        # A set of another loader is read like any directory.
        return dict(pin_set.maps) or pins_in(pin_set.path)
    except PinNotFoundError:
        # A directory of that name by another loader, such as that of the XDP tutorial.
        directory = pin_root / target
        if "/" in target or not directory.is_dir():
            raise
        return pins_in(directory)


def _only_counters(target: str, pins: dict[str, Path]) -> Counters:
    fitting = counter_pins(pins)
    if len(fitting) == 1:
        (path,) = fitting.values()
        return _following(path)
    if fitting:
        raise UsageError(
            f"{target!r} has {len(fitting)} maps of counters: {_listed(fitting)}",
            hint=Fix.of("choose one: ", Argument("map_name", Placeholder("NAME"))),
        )
    raise UsageError(
        f"{target!r} has no map of counters; its maps are: {_listed(pins)}",
        hint="counters are arrays or per-CPU arrays of packets, or of packets and bytes",
    )


def _listed(pins: dict[str, Path]) -> str:
    return ", ".join(name if name.isprintable() else repr(name) for name in pins) or "none"


def watch(
    counters: Counters,
    *,
    interval_s: float = 1.0,
    count: int | None = None,
    is_percpu: bool = False,
) -> Iterator[Interval]:
    """Yield the intervals of `watch_events` without the other events."""
    events = watch_events(counters, interval_s=interval_s, count=count, is_percpu=is_percpu)
    return (interval for interval in events if isinstance(interval, Interval))


def watch_events(
    counters: Counters,
    *,
    interval_s: float = 1.0,
    count: int | None = None,
    is_percpu: bool = False,
) -> Iterator[StatsItem]:
    """Yield the rates of each interval, *count* times or without end, and events in between.

    The first interval ends *interval_s* seconds from now. Rates are by the monotonic clock. If a
    reload brings another map, the next interval starts with the first reading of that map; if the
    map was migrated from the one before, the interval goes on. `Gone` and `StillMigrating` are
    yielded once; while they last, intervals are counted and not yielded.
    """
    before: Sample | None = None
    is_reported = False
    for event in _readings(counters, interval_s, count):
        if isinstance(event, Gone | StillMigrating):
            if not is_reported:
                yield event
            is_reported = True
            continue
        is_reported = False
        if isinstance(event, Reload):
            yield event
            continue
        now = event.value
        # The first reading of another map has no predecessor: a difference between two maps would
        # not be a rate.
        if before is not None and not event.is_first:
            before = sample_across_migration(before, now)
            yield interval_between(before, now, keys=counters.keys, is_percpu=is_percpu)
        before = now


def _readings(
    counters: Counters, interval_s: float, count: int | None
) -> Iterator[FollowedReading[Sample] | Reload | Gone | StillMigrating]:
    if counters.live:
        yield from readings(counters.live, counters.read_from, pace=Pace(interval_s), count=count)
        return
    yield FollowedReading(counters.read(), is_first=True)
    # Deadlines are added up, so that delays of single readings do not.
    deadline = time.monotonic()
    for _ in itertools.count() if count is None else range(count):
        deadline += interval_s
        time.sleep(max(0.0, deadline - time.monotonic()))
        yield FollowedReading(counters.read(), is_first=False)


def interval_between(
    before: Sample, now: Sample, *, keys: tuple[str, ...], is_percpu: bool = False
) -> Interval:
    """Return the rows of the interval between two samples, by key and, if asked, by CPU."""
    period_s = now.monotonic_s - before.monotonic_s
    rows: list[CounterRate] = []
    for key, old, new in zip(keys, before.counts, now.counts, strict=True):
        if is_percpu:
            pairs = zip(cpus_of_values(len(new)), zip(old, new, strict=True), strict=True)
            rows += [_row(key, pair, period_s, cpu=cpu) for cpu, pair in pairs]
        else:
            rows.append(_row(key, (total(old), total(new)), period_s))
    return Interval(now.wall_s, period_s, tuple(rows))


def _row(
    key: str, pair: tuple[Count, Count], period_s: float, *, cpu: int | None = None
) -> CounterRate:
    old, new = pair
    bytes_rate = None
    if new.bytes is not None and old.bytes is not None:
        bytes_rate = _rate(old.bytes, new.bytes, period_s)
    packets_rate = _rate(old.packets, new.packets, period_s)
    return CounterRate(key, new.packets, new.bytes, packets_rate, bytes_rate, cpu)


def _rate(old: int, new: int, period_s: float) -> float:
    # A counter that decreased was overwritten by somebody: there is no rate.
    return max(0, new - old) / period_s if period_s > 0 else 0.0


def metrics(counters: Counters) -> str:
    """Return the counters now in Prometheus' text format, as the exporter names them.

    `FoldUnfinishedError` if the map is being migrated for too long.
    """
    from bpfpin.apps.exporter.metrics import BYTES, PACKETS, Exposition, labels_text  # noqa: PLC0415

    reading = next(_readings(counters, 1.0, 1))
    if not isinstance(reading, FollowedReading):
        raise FoldUnfinishedError(str(reading))
    totals = [total(counts) for counts in reading.value.counts]
    place = _place_of(counters)
    labels = [labels_text((*place, ("action", key))) for key in counters.keys]
    text = Exposition()
    text.add(PACKETS, zip(labels, [count.packets for count in totals], strict=True))
    if counters.fields.bytes:
        text.add(BYTES, zip(labels, [count.bytes or 0 for count in totals], strict=True))
    return text.text()


def _place_of(counters: Counters) -> tuple[tuple[str, str], ...]:
    """Return the labels of a map of counters, which lead to its set and device if it has them."""
    path = Path(counters.path)
    manifest = manifest_around(path)
    if manifest is None:
        return (("map", names.decode(path.name) if counters.live else counters.map.name),)
    return (
        ("set", names.display_name(path.parent.name)),
        ("map", names.decode(path.name)),
        ("device", manifest.place.device),
        ("cgroup", manifest.place.cgroup),
    )


def write_textfile(path: Path, text: str) -> None:
    """Write a file for node_exporter's textfile collector: readers see all of it or the old one.

    Raises what `new_file` does.
    """
    from bpfpin.map.snapshot_file import new_file  # noqa: PLC0415 - only to write a file

    # The collector reads names that end with .prom, so that it never takes the unfinished file.
    with new_file(path) as file:
        file.write(text.encode())
        os.fchmod(file.fileno(), 0o644)  # the collector is another user


def has_grouping() -> bool:
    """Whether this machine has the locale by which the tutorial's program groups thousands."""
    before = locale.setlocale(locale.LC_NUMERIC)
    try:
        locale.setlocale(locale.LC_NUMERIC, LOCALE)
    except locale.Error:
        return False
    # setlocale(3) is about the whole process, so it is put back.
    locale.setlocale(locale.LC_NUMERIC, before)
    return True


def tutorial_format(interval: Interval, *, is_grouped: bool) -> list[str]:
    """Return the lines of one interval in the tutorial format: heading, five actions, empty line.

    `UsageError` for a map that does not count XDP actions.
    """
    rows = {row.action: row for row in interval.rows if row.cpu is None}
    if set(rows) != {action.name for action in XdpAction}:
        raise UsageError("--classic shows the five XDP actions, and this map counts something else")
    lines = [_line(rows[action.name], interval.period_s, is_grouped) for action in XdpAction]
    return [f"{'XDP-action':<12}", *lines, ""]


def _line(row: CounterRate, period_s: float, is_grouped: bool) -> str:
    comma = "," if is_grouped else ""
    kbytes = (row.bytes or 0) // BYTES_PER_KBYTE
    mbits = (row.bytes_per_second or 0.0) * 8 / BITS_PER_MBIT
    return (
        f"{row.action:<12} {row.packets:>11{comma}d} pkts ({row.packets_per_second:>10{comma}.0f}"
        f" pps) {kbytes:>11{comma}d} Kbytes ({mbits:>6{comma}.0f} Mbits/s) period:{period_s:f}"
    )
