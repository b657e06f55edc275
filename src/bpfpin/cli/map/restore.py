"""`bpfpin map restore`: the entries of a file into a map."""

from __future__ import annotations

import click

from bpfpin.apps.maps.snapshot import restore
from bpfpin.cli.context import Context, bpfpin_command


@bpfpin_command("restore")
@click.argument("file")
@click.argument("map_", metavar="MAP")
@click.option("--exact", is_flag=True, help="Delete the entries that FILE does not have.")
def command(context: Context, *, file: str, map_: str, exact: bool) -> None:
    """Write the entries of FILE, made by `map save`, into MAP: a path, id:N or name:NAME.

    Entries that are there get the values of FILE, and others stay. If FILE is damaged, does not fit
    MAP field by field, or has more entries than MAP has room for, nothing is written.
    """
    restored = restore(file, map_, exact=exact)
    if context.out.is_json:
        context.out.document(restored.to_json())
        return
    deleted = f", deleted {restored.deleted}" if exact else ""
    context.out.say(
        f"restored {restored.entries} entries into {map_} (id {restored.map_id}){deleted}"
    )
