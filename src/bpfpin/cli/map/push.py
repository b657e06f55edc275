"""`bpfpin map push` and `map pop`: values of maps without keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.entry import value_text
from bpfpin.cli.formats import Report
from bpfpin.cli.map.entry import AS_TYPED
from bpfpin.cli.output import Output
from bpfpin.errors import UsageError
from bpfpin.map.entries import peek, pop, push


@bpfpin_command("push", context_settings=AS_TYPED)
@click.argument("map_", metavar="MAP")
@click.argument("value")
@click.option("--overwrite", is_flag=True, help="Drop the oldest value if the map is full.")
def push_command(context: Context, *, map_: str, value: str, overwrite: bool) -> None:
    """Push VALUE to MAP; exit 7 if it is full.

    MAP is a queue, a stack, a bloom filter or a user ring buffer. VALUE is an integer, 0x…,
    hex:0a00… or JSON for a structure, as `map pop` prints it; a record of a user ring buffer is
    hex:0a00… only.
    """
    pushed = push(map_, value, overwrite=overwrite)
    done = f"pushed {value_text(pushed)} to {map_}"
    context.out.show(Report({"value": pushed}, lambda out: out.say(done)))


@bpfpin_command("pop")
@click.argument("map_", metavar="MAP")
@click.option("--peek", "is_peek", is_flag=True, help="Print the next value without taking it.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Take up to N values.")
def pop_command(context: Context, *, map_: str, is_peek: bool, count: int | None) -> None:
    """Take the next value from MAP, a queue or a stack, and print it; exit 4 if MAP is empty.

    With --count up to N values are printed, one on each line. If several processes take values,
    each value goes to one of them.
    """
    if is_peek and count is not None:
        raise UsageError("--peek reads one value only", hint="leave out --count")
    values = [peek(map_)] if is_peek else pop(map_, count=count or 1)
    data = {"value": values[0]} if count is None else {"values": values}
    context.out.show(Report(data, lambda out: _write_values(out, values)))


def _write_values(out: Output, values: Iterable[Any]) -> None:
    for value in values:
        out.text(value_text(value))
