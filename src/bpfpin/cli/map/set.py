"""`bpfpin map set`: write the value under one key."""

from __future__ import annotations

import click

from bpfpin.apps.maps.change import change
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.entry import value_lines, value_text
from bpfpin.cli.map.get import AS_TYPED


@bpfpin_command("set", context_settings=AS_TYPED)
@click.argument("map_", metavar="MAP")
@click.argument("key")
@click.argument("words", metavar="VALUE|FIELD=VALUE…", nargs=-1, required=True)
def command(context: Context, *, map_: str, key: str, words: tuple[str, ...]) -> None:
    """Write VALUE under KEY in MAP; both as `map get` prints them.

    FIELD=VALUE changes fields of a structure, the others stay as they are. In a per-CPU map one
    value goes to every CPU; a JSON list has one for each CPU.
    """
    entry = change(map_, key, words)
    if context.out.is_json:
        context.out.document(entry.to_json())
        return
    value = "; ".join(value_lines(entry))
    context.out.say(f"set {value_text(entry.key)} to {value} in {map_}")
