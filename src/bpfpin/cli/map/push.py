"""`bpfpin map push`: one more value in a map without keys."""

from __future__ import annotations

import click

from bpfpin.apps.maps.queue import push
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.entry import value_text
from bpfpin.cli.map.get import AS_TYPED


@bpfpin_command("push", context_settings=AS_TYPED)
@click.argument("map_", metavar="MAP")
@click.argument("value")
@click.option("--overwrite", is_flag=True, help="Drop the oldest value if the map is full.")
def command(context: Context, *, map_: str, value: str, overwrite: bool) -> None:
    """Push VALUE to MAP; exit 7 if it is full.

    MAP is a queue, a stack, a bloom filter, or a user ring buffer. VALUE is as `map pop` prints it:
    an integer, 0x…, hex:0a00…, or JSON for a structure; a record of a ring is hex:0a00… only.
    """
    pushed = push(map_, value, overwrite=overwrite)
    if context.out.is_json:
        context.out.document({"value": pushed})
        return
    context.out.say(f"pushed {value_text(pushed)} to {map_}")
