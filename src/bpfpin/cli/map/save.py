"""`bpfpin map save`: all entries of a map into a file."""

from __future__ import annotations

from typing import Any

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.map.guard import force_option, guarded
from bpfpin.cli.migrate import convert_options, taken
from bpfpin.map.snapshot import restore, save


@bpfpin_command("save")
@click.argument("map_", metavar="MAP")
@click.argument("file")
def save_command(context: Context, *, map_: str, file: str) -> None:
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


# `bpfpin map restore`: the entries of a file into a map.


@bpfpin_command("restore")
@click.argument("file")
@click.argument("map_", metavar="MAP")
@click.option("--exact", is_flag=True, help="Delete the entries that FILE does not have.")
@force_option
@convert_options
def restore_command(
    context: Context, /, *, file: str, map_: str, exact: bool, force: bool, **options: Any
) -> None:
    """Write the entries of FILE, made by `map save`, into MAP: a path, id:N or name:NAME.

    Entries that are there get the values of FILE, and others stay. If FILE is damaged, does not fit
    MAP field by field, or has more entries than MAP has room for, nothing is written.

    With --migrate MAP may be of another definition: members go over by name, as load --migrate does
    it. Values are written, and not added to those of MAP; a --rule decides where those of several
    CPUs or keys become one.
    """
    with guarded(context, is_forced=force) as guard:
        restored = restore(file, map_, exact=exact, migrate=taken(options), guard=guard)
    if context.out.is_json:
        context.out.document(restored.to_json())
        return
    deleted = f", deleted {restored.deleted}" if exact else ""
    lost = f", without {', '.join(restored.lost)}" if restored.lost else ""
    context.out.say(
        f"restored {restored.entries} entries into {map_} (id {restored.map_id}){deleted}{lost}"
    )
