"""`bpfpin map events`: print the events that programs send."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

import click

from bpfpin.cli.context import Context, Seconds, bpfpin_command, check_format
from bpfpin.cli.formats import RECORDS, STREAM, Report, value_text
from bpfpin.cli.output import Output
from bpfpin.map.watch import TimedEvent, candidates, events, open_events


@bpfpin_command("events", outputs=RECORDS)
@click.argument("map_", metavar="MAP")
@click.option(
    "--type", "type_", metavar="TYPE", help="BTF type of an event, such as 'struct event'."
)
@click.option(
    "--format",
    "form",
    metavar="FORMAT",
    help="The type as a format of Python's struct module, such as QII.",
)
@click.option("--count", metavar="N", type=click.IntRange(min=1), help="End after N events.")
@click.option("--timeout", metavar="S", type=Seconds(min=0), help="End after S seconds.")
def command(
    context: Context,
    *,
    map_: str,
    type_: str | None,
    form: str | None,
    count: int | None,
    timeout: float | None,
) -> None:
    """Print the events of MAP, a ring buffer or perf event array, until Ctrl-C.

    MAP is a path, id:N or name:NAME. TYPE is a type in the BTF of the programs that use the map; an
    event of another size is written as bytes. Reading removes the events from the map, so use one
    reader at a time. Events that found no room in a perf event array are reported as lost; a full
    ring buffer refuses events and only the program notices. The time is that of reading.
    """
    out = context.out
    # A single document ends only when reading does.
    if count is None and timeout is None:
        hint = "use -o ndjson, or --count N or --timeout S"
        check_format(out, STREAM, "events without end", hint=hint)
    with open_events(map_, event_type=type_, form=form) as source:
        # The map does not say what its events are, only the BTF of programs names structures.
        if not (type_ or form):
            _say_candidates(out, candidates(source))
        # Only a path can lead to another map after a reload; id:N stands for one map.
        path = map_ if map_.startswith("/") else None
        read = events(source, count=count, timeout_s=timeout, path=path)
        # Ctrl-C is the usual end of a verb that has none: exit status 0.
        with contextlib.suppress(KeyboardInterrupt):
            out.show(
                Report(
                    lambda: _document(read),
                    lambda out: _write(out, read),
                    records=lambda: (event.to_json() for event in read),
                )
            )


def _say_candidates(out: Output, structures: list[str]) -> None:
    types = f"; --type may be: {', '.join(structures)}" if structures else ""
    out.say(f"note: events are shown as bytes{types}")


def _write(out: Output, read: Iterable[TimedEvent]) -> None:
    for event in read:
        out.text(_line(event))


def _document(read: Iterable[TimedEvent]) -> dict[str, Any]:
    documents: list[dict[str, Any]] = []
    with contextlib.suppress(KeyboardInterrupt):  # the document has the events read so far
        documents.extend(event.to_json() for event in read)
    return {"events": documents}


def _line(event: TimedEvent) -> str:
    document = event.to_json()
    if "lost" in document:
        text = f"lost {document['lost']} events on CPU {document['cpu']}"
    elif isinstance(document["event"], Mapping):
        text = " ".join(f"{name}={value_text(value)}" for name, value in event.event.items())
    else:
        text = value_text(event.event)
    return f"{_clock(event.wall_time_s)}  {text}"


def _clock(wall_time_s: float) -> str:
    whole, part = divmod(wall_time_s, 1)
    return f"{time.strftime('%H:%M:%S', time.localtime(whole))}.{int(part * 1e6):06}"
