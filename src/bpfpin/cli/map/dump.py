"""`bpfpin map dump`: all entries of a map."""

from __future__ import annotations

import click

from bpfpin.apps.maps.entries import Entry, entries
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.entry import value_text


@bpfpin_command("dump", outputs=("table", "json", "ndjson"))
@click.argument("map_", metavar="MAP")
def command(context: Context, *, map_: str) -> None:
    """Print all entries of MAP: a path, id:N or name:NAME.

    In a per-CPU map each CPU has a row. With -o ndjson each entry is a document on a line.
    """
    found = entries(map_)
    if context.out.is_ndjson:
        for entry in found:
            context.out.document(entry.to_json())
        return
    if context.out.is_json:
        context.out.document({"entries": [entry.to_json() for entry in found]})
        return
    _table(context, list(found))


def _table(context: Context, found: list[Entry]) -> None:
    if found and found[0].is_percpu:
        rows = [
            (value_text(entry.key), cpu, value_text(value))
            for entry in found
            for cpu, value in enumerate(entry.value)
        ]
        context.out.table(("key", "cpu", "value"), rows, right=("cpu",))
        return
    pairs = [(value_text(entry.key), value_text(entry.value)) for entry in found]
    context.out.table(("key", "value"), pairs)
    if not found:
        context.out.say("the map is empty")
