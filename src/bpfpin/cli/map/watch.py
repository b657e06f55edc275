"""`bpfpin map watch`: what becomes of the entries of a map."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.entry import value_text
from bpfpin.cli.live import clock
from bpfpin.cli.map.entry import typing_options
from bpfpin.cli.output import NDJSON, TABLE, Output
from bpfpin.map.changes import document
from bpfpin.map.open import Typing
from bpfpin.map.watch import Event, EventKind, Found, open_watch


@bpfpin_command("watch", outputs=(TABLE, NDJSON))
@click.argument("map_", metavar="MAP")
@click.option(
    "--interval",
    metavar="S",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Seconds between two readings.",
)
@click.option("--count", metavar="N", type=click.IntRange(min=1), help="End after N intervals.")
@click.option(
    "--where",
    metavar="COND",
    multiple=True,
    help="Only entries that are or were like this: 'FIELD>5' as in map dump; repeatable.",
)
@typing_options()
def command(
    context: Context,
    /,
    *,
    map_: str,
    interval: float,
    count: int | None,
    where: tuple[str, ...],
    **typing: str | None,
) -> None:
    """Tell what becomes of the entries of MAP until Ctrl-C: a path, id:N or name:NAME.

    A line begins with + for a new entry, ~ for one that changed, - for one that is gone. The map is
    only read, all of it once an interval: what comes and goes between two readings is not seen. Of
    a large map readings are fewer, so that they take a twentieth of one CPU at most.

    A path is followed through reloads, and what is unloaded is waited for. After a migration
    members are compared by name.
    """
    with (
        open_watch(map_, conditions=where, typing=Typing(**typing)) as watching,
        contextlib.suppress(KeyboardInterrupt),
    ):
        for found in watching.events(interval_s=interval, count=count):
            _write(context.out, found)


def _write(out: Output, found: Found) -> None:
    if out.is_ndjson:
        out.document(_document(found))
    elif isinstance(found, Event):
        out.text(line(found))
    else:
        out.say(str(found))


def _document(found: Found) -> dict[str, Any]:
    return found.to_json() if isinstance(found, Event) else document(found)


def line(event: Event) -> str:
    """Return an event as a line: `14:02:11 ~ 2: rx_packets 5 -> 7`."""
    when, key = clock(event.wall_time_s), value_text(event.key)
    if event.kind is EventKind.ADDED:
        return f"{when} + {key} = {value_text(event.told(event.value))}"
    if event.kind is EventKind.REMOVED:
        return f"{when} - {key}"
    return f"{when} ~ {key}: {', '.join(_moves(event.told(event.old), event.told(event.value)))}"


def _moves(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Yield what changed, each member by its name."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in new:
            if old.get(name) != new[name]:
                yield from _moves(old.get(name), new[name], f"{path}.{name}" if path else name)
        return
    yield f"{path} {value_text(old)} -> {value_text(new)}".lstrip()
