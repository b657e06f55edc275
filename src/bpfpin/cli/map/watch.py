"""`bpfpin map watch`: entries of a map that are added, changed or removed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.formats import STREAM, Report, value_text
from bpfpin.cli.live import clock
from bpfpin.cli.options import interval_option, typing_options
from bpfpin.cli.output import Output
from bpfpin.map.follow import follow_event_to_json
from bpfpin.map.open import Typing
from bpfpin.map.watch import EntryEvent, EventKind, WatchItem, open_watch


@bpfpin_command("watch", outputs=STREAM)
@click.argument("map_", metavar="MAP")
@interval_option()
@click.option("--count", metavar="N", type=click.IntRange(min=1), help="End after N intervals.")
@click.option(
    "--where",
    metavar="COND",
    multiple=True,
    help="Only entries that match before or after the change: 'FIELD>5'; repeatable.",
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
    """Print changes of the entries of MAP, a path, id:N or name:NAME, until Ctrl-C.

    A line begins with + for a new entry, ~ for a changed one, and - for a removed one. The whole
    map is read once in each interval; changes that are undone between two readings are not seen.
    Large maps are read less often, so that reading takes at most a twentieth of one CPU.

    A path is followed through reloads; after an unload, the next load is awaited. After a
    migration members are compared by name.
    """
    with (
        open_watch(map_, conditions=where, typing=Typing(**typing)) as watching,
        contextlib.suppress(KeyboardInterrupt),
    ):
        # A generator: the first reading is made when the first event is asked for.
        events = watching.events(interval_s=interval, count=count)
        context.out.show(
            Report(
                lambda: {"events": [_document(event) for event in events]},
                lambda out: _write(out, events),
                records=lambda: map(_document, events),
            )
        )


def _write(out: Output, events: Iterable[WatchItem]) -> None:
    for event in events:
        if isinstance(event, EntryEvent):
            out.text(line(event))
        else:
            out.say(str(event))


def _document(event: WatchItem) -> dict[str, Any]:
    return event.to_json() if isinstance(event, EntryEvent) else follow_event_to_json(event)


def line(event: EntryEvent) -> str:
    """Return an event as a line: `14:02:11 ~ 2: rx_packets 5 -> 7`."""
    when, key = clock(event.wall_time_s), value_text(event.key)
    if event.kind is EventKind.ADDED:
        return f"{when} + {key} = {value_text(event.readable(event.value))}"
    if event.kind is EventKind.REMOVED:
        return f"{when} - {key}"
    moves = _moves(event.readable(event.old), event.readable(event.value))
    return f"{when} ~ {key}: {', '.join(moves)}"


def _moves(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Yield each changed member as `PATH OLD -> NEW`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in new:
            if old.get(name) != new[name]:
                yield from _moves(old.get(name), new[name], f"{path}.{name}" if path else name)
        return
    yield f"{path} {value_text(old)} -> {value_text(new)}".lstrip()
