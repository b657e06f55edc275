"""`bpfpin map save`: all entries of a map into a file."""

from __future__ import annotations

import click

from bpfpin.apps.maps.snapshot import save
from bpfpin.cli.context import Context, bpfpin_command


@bpfpin_command("save")
@click.argument("map_", metavar="MAP")
@click.argument("file")
def command(context: Context, *, map_: str, file: str) -> None:
    """Write all entries of MAP into FILE, with their types; `map restore` puts them back.

    MAP is a path, id:N or name:NAME. FILE (0600) is there as a whole or not at all; one that is
    there is replaced.
    """
    saved = save(map_, file)
    if context.out.is_json:
        context.out.document(saved.to_json())
        return
    context.out.say(
        f"saved {saved.entries} entries of {map_} (id {saved.map_id}); to put them back:"
        f" bpfpin map restore {file} {map_}"
    )
