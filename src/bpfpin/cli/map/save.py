"""`bpfpin map save` and `map restore`: the entries of a map in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bpfpin.cli.context import Context, bpfpin_command, force_option, guarded
from bpfpin.cli.formats import Report
from bpfpin.cli.migrate import convert_options, taken
from bpfpin.errors import NotBpffsError
from bpfpin.hints import Fix, shell_line
from bpfpin.map.snapshot import restore, save


@bpfpin_command("save")
@click.argument("map_", metavar="MAP")
@click.argument("file")
def save_command(context: Context, *, map_: str, file: str) -> None:
    """Write all entries of MAP and their types to FILE, for `map restore`.

    MAP is a path, id:N or name:NAME. FILE (mode 0600) is written atomically and replaces an older
    one.
    """
    saved = save(map_, file)
    done = (
        f"saved {saved.entries} entries of {map_} (id {saved.map_id}); to restore them:"
        f" {shell_line('bpfpin map restore', file, map_)}"
    )
    context.out.show(Report(saved.to_json(), lambda out: out.say(done)))


@bpfpin_command("restore")
@click.argument("file")
@click.argument("map_", metavar="MAP")
@click.option("--exact", is_flag=True, help="Delete the entries that are not in FILE.")
@force_option
@convert_options
def restore_command(
    context: Context, /, *, file: str, map_: str, exact: bool, force: bool, **options: Any
) -> None:
    """Write the entries of FILE, made by `map save`, to MAP: a path, id:N or name:NAME.

    Entries of MAP get the values of FILE; entries that are not in FILE stay. Nothing is written if
    FILE is damaged, does not fit MAP field by field, or has more entries than MAP has room for.

    With --migrate the definition of MAP may differ: members are copied by name, as by
    load --migrate. Values replace those of MAP and are not added to them; a --rule combines the
    values of several CPUs or keys into one.
    """
    # A restored verdict or rule may cut the connection, as one that is set may.
    with guarded(context, is_forced=force) as guard:
        try:
            restored = restore(file, map_, exact=exact, migrate=taken(options), guard=guard)
        except NotBpffsError as error:
            if Path(map_).is_file():
                swapped = shell_line("bpfpin map restore", map_, file)
                error.fix = Fix.of(f"FILE comes first, then MAP: {swapped}")
            raise
    deleted = f", deleted {restored.deleted}" if exact else ""
    lost = f", without {', '.join(restored.lost)}" if restored.lost else ""
    done = f"restored {restored.entries} entries into {map_} (id {restored.map_id}){deleted}{lost}"
    context.out.show(Report(restored.to_json(), lambda out: out.say(done)))
