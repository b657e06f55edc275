"""`bpfpin map pop`: the next values of a queue or a stack."""

from __future__ import annotations

import click

from bpfpin.apps.maps.queue import peek, pop
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.entry import value_text
from bpfpin.errors import UsageError


@bpfpin_command("pop")
@click.argument("map_", metavar="MAP")
@click.option("--peek", "is_peek", is_flag=True, help="Print the next value and leave it there.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Take up to N values out.")
def command(context: Context, *, map_: str, is_peek: bool, count: int | None) -> None:
    """Take the next value out of MAP, a queue or a stack, and print it; exit 4 if it is empty.

    With --count up to N values, one a line. Each value goes to one taker only.
    """
    if is_peek and count is not None:
        raise UsageError("--peek sees one value only", hint="leave --count out")
    values = [peek(map_)] if is_peek else pop(map_, count=count or 1)
    if context.out.is_json:
        (first, *_) = values
        context.out.document({"value": first} if count is None else {"values": values})
        return
    for value in values:
        context.out.text(value_text(value))
