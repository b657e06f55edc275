"""`bpfpin map get`: the value under one key."""

from __future__ import annotations

import click

from bpfpin.apps.maps.entries import lookup
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.entry import value_lines

# So that a negative key is no option.
AS_TYPED = {"ignore_unknown_options": True}


@bpfpin_command("get", context_settings=AS_TYPED)
@click.argument("map_", metavar="MAP")
@click.argument("key")
def command(context: Context, *, map_: str, key: str) -> None:
    """Print the value under KEY in MAP; exit 4 if there is none.

    KEY is an integer, 0x…, hex:0a00…, or JSON for a structure. A per-CPU map has a line a CPU.
    """
    entry = lookup(map_, key)
    if context.out.is_json:
        context.out.document(entry.to_json())
        return
    for line in value_lines(entry):
        context.out.text(line)
