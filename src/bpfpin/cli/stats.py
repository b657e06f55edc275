"""`bpfpin stats`: live rates of a counter map."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextlib import closing

import click

from bpfpin.apps.stats import (
    Found,
    Interval,
    Row,
    classic,
    has_grouping,
    open_counters,
    watch_events,
)
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.live import block, header
from bpfpin.cli.options import chosen_target, complete_sets, device_option
from bpfpin.cli.output import Output
from bpfpin.errors import UsageError
from bpfpin.map.changes import document
from bpfpin.map.open import path_of


@bpfpin_command("stats", outputs=("table", "json", "ndjson"))
@click.argument("target", metavar="DEV|NAME|PATH", required=False, shell_complete=complete_sets)
@click.option(
    "--dev", metavar="DEV", help="The device; the same as DEV.", shell_complete=device_option
)
@click.option("--map", "map_name", metavar="NAME", help="The map in the set (xdp_stats_map).")
@click.option(
    "--interval",
    metavar="S",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Seconds between two readings.",
)
@click.option(
    "--count",
    metavar="N",
    type=click.IntRange(min=1),
    help="End after N intervals; with -o json 1, else never.",
)
@click.option("--per-cpu", is_flag=True, help="A row for each CPU.")
@click.option("--classic", "is_classic", is_flag=True, help="The XDP tutorial's format.")
def command(
    context: Context,
    *,
    target: str | None,
    dev: str | None,
    map_name: str | None,
    interval: float,
    count: int | None,
    per_cpu: bool,
    is_classic: bool,
) -> None:
    """Show packets, bytes and rates per second of a counter map until Ctrl-C.

    It reads arrays and per-CPU arrays, whoever made them: of a device or a pin set of bpfpin, of a
    directory with pins, or one map by path, id:N or name:NAME.

    It follows reloads, and says so on stderr; where a reload brought another map, counting begins
    anew, unless it was migrated: then it goes on. What is unloaded is waited for. With id:N and
    name:NAME it stays with that one map.
    """
    out = context.out
    _check_choices(out, per_cpu=per_cpu, is_classic=is_classic)
    wanted = _one_target(target, dev)
    if "/" in wanted:
        wanted = path_of(wanted, context.pin_root)
    counters = open_counters(
        wanted, map_name=map_name, pin_root=context.pin_root, netns=context.netns
    )
    out.detail(f"reading map {counters.map.name} (id {counters.map.id}) of {counters.path}")
    with closing(counters), contextlib.suppress(KeyboardInterrupt):
        number = 1 if out.is_json and count is None else count
        found = watch_events(counters, interval_s=interval, count=number, is_percpu=per_cpu)
        if is_classic:
            _write_classic(out, _announced(out, found))
        elif out.is_live:
            from bpfpin.cli.live import show_live  # noqa: PLC0415 - rich, only on a terminal

            show_live(out, found, title=f"{wanted} · {counters.path}")
        else:
            _write(out, _announced(out, found))


def _check_choices(out: Output, *, per_cpu: bool, is_classic: bool) -> None:
    if is_classic and (per_cpu or out.is_json or out.is_ndjson):
        raise UsageError("--classic is a format of its own: without --per-cpu and -o")


def _one_target(target: str | None, dev: str | None) -> str:
    wanted = chosen_target(target, dev)
    if not wanted:
        raise UsageError("counters of what? Name a device, a set or a map", hint="bpfpin status")
    return wanted


def _announced(out: Output, found: Iterable[Found]) -> Iterator[Found]:
    """Say on stderr what came between the intervals."""
    for one in found:
        if not isinstance(one, Interval):
            out.say(str(one))
        yield one


def _write_classic(out: Output, found: Iterable[Found]) -> None:
    is_grouped = has_grouping()
    for one in found:
        if isinstance(one, Interval):
            out.line("\n".join(classic(one, is_grouped=is_grouped)))


def _write(out: Output, found: Iterable[Found]) -> None:
    if out.is_json:
        _write_document(out, found)
        return
    has_header = False
    for one in found:
        if out.is_ndjson:
            for line in _documents(one):
                out.document(line)
        elif isinstance(one, Interval):
            out.text("\n".join([*([] if has_header else [header()]), *block(one)]))
            has_header = True


def _write_document(out: Output, found: Iterable[Found]) -> None:
    rows: list[dict[str, object]] = []
    events: list[dict[str, object]] = []
    with contextlib.suppress(KeyboardInterrupt):  # what was read until then is the document
        for one in found:
            (rows if isinstance(one, Interval) else events).extend(_documents(one))
    out.document({"rows": rows, "events": events})


def _documents(one: Found) -> Iterator[dict[str, object]]:
    if not isinstance(one, Interval):
        yield document(one)
    else:
        for row in one.rows:
            yield {"time": round(one.wall_time_s, 6), **_document(row)}


def _document(row: Row) -> dict[str, object]:
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
