"""`bpfpin map events`: the events that programs send, as they come."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.entry import value_text
from bpfpin.cli.output import Output
from bpfpin.errors import UsageError
from bpfpin.map.watch import Told, candidates, events, open_events


@bpfpin_command("events", outputs=("table", "json", "ndjson"))
@click.argument("map_", metavar="MAP")
@click.option(
    "--type", "type_", metavar="TYPE", help="How an event reads: a BTF type, 'struct event'."
)
@click.option("--format", "form", metavar="FORMAT", help="The same as a struct format: QII.")
@click.option("--count", metavar="N", type=click.IntRange(min=1), help="End after N events.")
@click.option("--timeout", metavar="S", type=click.FloatRange(min=0), help="End after S seconds.")
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

    MAP is a path, id:N or name:NAME. TYPE is looked up in the BTF of the programs that use the map;
    an event of another size is written as bytes. Reading takes the events out of the map: have one
    reader at a time. Events of a perf event array that found no room are told as lost; what a full
    ring buffer refuses, only the program knows. The time is that of reading.
    """
    out = context.out
    if out.is_json and count is None and timeout is None:
        raise UsageError(
            "events without an end make no JSON document",
            hint="-o ndjson writes a document an event; or say --count N or --timeout S",
        )
    with open_events(map_, event_type=type_, form=form) as source:
        if not (type_ or form):
            _say_candidates(out, candidates(source))
        path = map_ if map_.startswith("/") else None
        with contextlib.suppress(KeyboardInterrupt):
            _write(out, events(source, count=count, timeout_s=timeout, path=path))


def _say_candidates(out: Output, structures: list[str]) -> None:
    told = f"; --type may be: {', '.join(structures)}" if structures else ""
    out.say(f"note: events are shown as bytes{told}")


def _write(out: Output, told: Iterable[Told]) -> None:
    if out.is_json:
        _write_document(out, told)
        return
    for one in told:
        if out.is_ndjson:
            out.document(one.to_json())
        else:
            out.text(_line(one))


def _write_document(out: Output, told: Iterable[Told]) -> None:
    documents: list[dict[str, Any]] = []
    with contextlib.suppress(KeyboardInterrupt):  # what was read until then is the document
        documents.extend(one.to_json() for one in told)
    out.document({"events": documents})


def _line(told: Told) -> str:
    document = told.to_json()
    if "lost" in document:
        text = f"lost {document['lost']} events on CPU {document['cpu']}"
    elif isinstance(document["event"], Mapping):
        text = " ".join(f"{name}={value_text(value)}" for name, value in told.event.items())
    else:
        text = value_text(told.event)
    return f"{_clock(told.wall_time_s)}  {text}"


def _clock(wall_time_s: float) -> str:
    whole, part = divmod(wall_time_s, 1)
    return f"{time.strftime('%H:%M:%S', time.localtime(whole))}.{int(part * 1e6):06}"
