"""`bpfpin map push`: one more value in a map without keys."""

from __future__ import annotations

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.entry import value_text
from bpfpin.cli.map.entry import AS_TYPED
from bpfpin.errors import UsageError
from bpfpin.map.entries import peek, pop, push


@bpfpin_command("push", context_settings=AS_TYPED)
@click.argument("map_", metavar="MAP")
@click.argument("value")
@click.option("--overwrite", is_flag=True, help="Drop the oldest value if the map is full.")
def push_command(context: Context, *, map_: str, value: str, overwrite: bool) -> None:
    """Push VALUE to MAP; exit 7 if it is full.

    MAP is a queue, a stack, a bloom filter, or a user ring buffer. VALUE is as `map pop` prints it:
    an integer, 0x…, hex:0a00…, or JSON for a structure; a record of a ring is hex:0a00… only.
    """
    pushed = push(map_, value, overwrite=overwrite)
    if context.out.is_json:
        context.out.document({"value": pushed})
        return
    context.out.say(f"pushed {value_text(pushed)} to {map_}")


# `bpfpin map pop`: the next values of a queue or a stack.


@bpfpin_command("pop")
@click.argument("map_", metavar="MAP")
@click.option("--peek", "is_peek", is_flag=True, help="Print the next value and leave it there.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Take up to N values out.")
def pop_command(context: Context, *, map_: str, is_peek: bool, count: int | None) -> None:
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
