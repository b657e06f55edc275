"""`bpfpin map delete`: delete entries of a map."""

from __future__ import annotations

import click

from bpfpin.apps.maps.delete import delete, delete_all
from bpfpin.apps.maps.naming import Typing
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.map.get import AS_TYPED, typing_options
from bpfpin.cli.map.guard import force_option, guarded


@bpfpin_command("delete", context_settings=AS_TYPED)
@click.argument("map_", metavar="MAP")
@click.argument("keys", metavar="[KEY]…", nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="Delete every entry.")
@force_option
@typing_options(has_value=False)
def command(
    context: Context,
    /,
    *,
    map_: str,
    keys: tuple[str, ...],
    is_all: bool,
    force: bool,
    **typing: str | None,
) -> None:
    """Delete the entries under these KEYs of MAP, or with --all every one.

    If one of the keys is not there (exit 4), nothing is deleted. Of an array nothing can be
    deleted (exit 2): set its values to 0.
    """
    if is_all == bool(keys):
        raise click.UsageError("delete which? KEY…, or --all")
    with guarded(context, is_forced=force) as guard:
        if is_all:
            count = delete_all(map_, guard=guard)
        else:
            count = delete(map_, keys, typing=Typing(**typing), guard=guard)
    if context.out.is_json:
        context.out.document({"deleted": count})
        return
    context.out.say(f"deleted {count} {'entry' if count == 1 else 'entries'} of {map_}")
