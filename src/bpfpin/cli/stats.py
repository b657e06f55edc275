"""`bpfpin stats`: live rates of a counter map."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import click

from bpfpin.apps.stats import (
    CounterRate,
    Interval,
    StatsItem,
    has_grouping,
    metrics,
    open_counters,
    tutorial_format,
    watch_events,
    write_textfile,
)
from bpfpin.cli.context import Context, bpfpin_command, check_format
from bpfpin.cli.formats import RECORDS, TEXT, Report
from bpfpin.cli.live import block, header, show_live
from bpfpin.cli.options import chosen_target, complete_sets, device_option, interval_option
from bpfpin.cli.output import Output
from bpfpin.errors import UsageError
from bpfpin.map.follow import follow_event_to_json
from bpfpin.map.open import path_of

PROM = "prom"


@bpfpin_command("stats", outputs=(*RECORDS, PROM))
@click.argument("target", metavar="DEV|NAME|PATH", required=False, shell_complete=complete_sets)
@device_option()
@click.option("--map", "map_name", metavar="NAME", help="Map of the set (xdp_stats_map).")
@interval_option()
@click.option(
    "--count",
    metavar="N",
    type=click.IntRange(min=1),
    help="End after N intervals (with -o json: 1, else no end).",
)
@click.option(
    "--write",
    "file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With -o prom: write FILE, by a rename, for node_exporter's textfile collector.",
)
@click.option("--per-cpu", is_flag=True, help="One row for each CPU.")
@click.option("--classic", "is_classic", is_flag=True, help="Text format of the XDP tutorial.")
def command(
    context: Context,
    *,
    target: str | None,
    dev: str | None,
    map_name: str | None,
    interval: float,
    count: int | None,
    file: Path | None,
    per_cpu: bool,
    is_classic: bool,
) -> None:
    """Show packets, bytes and rates per second of a counter map until Ctrl-C.

    Counters are arrays or per-CPU arrays of any program: those of a device or a pin set of
    bpfpin, of a directory with pins, or one map by path, id:N or name:NAME.

    Reloads are followed and reported on stderr. If a reload replaced the map, counting starts
    again, unless the map was migrated. After an unload, the next load is awaited. With id:N or
    name:NAME only that map is read.

    With -o prom the counters are written once, in the text format of Prometheus.
    """
    out = context.out
    if out.format.name == PROM and (per_cpu or count is not None):
        raise UsageError("-o prom is one reading of all CPUs: leave out --per-cpu and --count")
    if file is not None:
        check_format(out, (PROM,), "stats --write", hint=f"add -o {PROM}")
    if is_classic:
        check_format(out, TEXT, "stats --classic")
        if per_cpu:
            raise UsageError("--classic has no rows of CPUs: leave out --per-cpu")
    counters_of = _one_target(target, dev)
    # A device and a set have no slash in their names, so this is a pin.
    if "/" in counters_of:
        counters_of = path_of(counters_of, context.pin_root)
    counters = open_counters(
        counters_of, map_name=map_name, pin_root=context.pin_root, netns=context.netns
    )
    out.detail(f"reading map {counters.map.name} (id {counters.map.id}) of {counters.path}")
    title = f"{counters_of} · {counters.path}"

    def read(count: int | None) -> Iterator[StatsItem]:
        return watch_events(counters, interval_s=interval, count=count, is_percpu=per_cpu)

    # Ctrl-C is the usual end of a verb that has none: exit status 0.
    with closing(counters), contextlib.suppress(KeyboardInterrupt):
        out.show(
            Report(
                # One document has an end, so without --count it is one interval.
                lambda: _document(_announced(out, read(count or 1))),
                lambda out: _write(out, read(count), title=title, is_classic=is_classic),
                records=lambda: _records(_announced(out, read(count))),
                own={PROM: lambda out: _write_metrics(out, metrics(counters), file)},
            )
        )


def _write_metrics(out: Output, text: str, file: Path | None) -> None:
    if file is None:
        out.piece(text)
    else:
        write_textfile(file, text)


def _one_target(target: str | None, dev: str | None) -> str:
    chosen = chosen_target(target, dev)
    if not chosen:
        raise UsageError("no target: give a device, a set or a map", hint="bpfpin status")
    return chosen


def _announced(out: Output, events: Iterable[StatsItem]) -> Iterator[StatsItem]:
    """Yield *events*, and write those that are not intervals to stderr."""
    for event in events:
        if not isinstance(event, Interval):
            out.say(str(event))
        yield event


def _write(out: Output, events: Iterable[StatsItem], *, title: str, is_classic: bool) -> None:
    if is_classic:
        _write_classic(out, _announced(out, events))
    # Redrawn only on a terminal: a file would get the codes that move the cursor.
    elif out.is_live:
        show_live(out, events, title=title)
    else:
        _write_lines(out, _announced(out, events))


def _write_classic(out: Output, events: Iterable[StatsItem]) -> None:
    is_grouped = has_grouping()
    for event in events:
        if isinstance(event, Interval):
            out.line("\n".join(tutorial_format(event, is_grouped=is_grouped)))


def _write_lines(out: Output, events: Iterable[StatsItem]) -> None:
    # The header comes with the first rows: before, there is nothing under it to explain.
    has_header = False
    for event in events:
        if isinstance(event, Interval):
            out.text("\n".join([*([] if has_header else [header()]), *block(event)]))
            has_header = True


def _document(events: Iterable[StatsItem]) -> dict[str, object]:
    # Two lists: readers add up the rows, and must not meet a reload among them.
    rows: list[dict[str, object]] = []
    others: list[dict[str, object]] = []
    with contextlib.suppress(KeyboardInterrupt):  # the document has the samples until then
        for event in events:
            (rows if isinstance(event, Interval) else others).extend(_records([event]))
    return {"rows": rows, "events": others}


def _records(events: Iterable[StatsItem]) -> Iterator[dict[str, object]]:
    """Yield a document for each row of an interval, and for each other event."""
    for event in events:
        if not isinstance(event, Interval):
            yield follow_event_to_json(event)
            continue
        for row in event.rows:
            yield {"time": round(event.wall_time_s, 6), **_row(row)}


def _row(row: CounterRate) -> dict[str, object]:
    cpu = {} if row.cpu is None else {"cpu": row.cpu}
    rate = row.bytes_per_second
    return {
        "action": row.action,
        **cpu,
        "packets": row.packets,
        "bytes": row.bytes,
        "packets_per_second": round(row.packets_per_second, 3),
        "bytes_per_second": None if rate is None else round(rate, 3),
    }
