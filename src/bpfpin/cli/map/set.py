"""`bpfpin map set`: write the value under one key."""

from __future__ import annotations

import click

from bpfpin.apps.maps.change import change
from bpfpin.apps.maps.naming import Typing
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.entry import value_lines, value_text
from bpfpin.cli.map.get import AS_TYPED, typing_options
from bpfpin.cli.map.guard import force_option, guarded
from bpfpin.uapi import UpdateFlag

FLAGS = {"any": UpdateFlag.ANY, "noexist": UpdateFlag.NOEXIST, "exist": UpdateFlag.EXIST}


@bpfpin_command("set", context_settings=AS_TYPED)
@click.argument("map_", metavar="MAP")
@click.argument("key")
@click.argument("words", metavar="VALUE|FIELD=VALUE…", nargs=-1, required=True)
@click.option(
    "--flag",
    type=click.Choice(list(FLAGS)),
    default="any",
    help="noexist: only a new key (else exit 7); exist: only one that is there (else 4).",
)
@click.option(
    "--if",
    "conditions",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Write only if this holds, or the whole VALUE (else exit 7); not atomic.",
)
@click.option("--cpu", type=int, metavar="N", help="Write the value of this CPU alone.")
@force_option
@typing_options()
def command(
    context: Context,
    /,
    *,
    map_: str,
    key: str,
    words: tuple[str, ...],
    flag: str,
    conditions: tuple[str, ...],
    cpu: int | None,
    force: bool,
    **typing: str | None,
) -> None:
    """Write VALUE under KEY in MAP; both as `map get` takes and prints them.

    FIELD=VALUE changes fields of a structure (a.b=1, ports[2]=80), the others stay as they are, or
    are 0 under a new key. In a per-CPU map one value goes to every CPU, or with --cpu to that one;
    a JSON list has one for each. In a map of maps or of programs, VALUE is a path or id:N.

    What --if, --cpu and FIELD=VALUE keep is read before it is written: somebody else may come
    between.
    """
    with guarded(context, is_forced=force) as guard:
        entry = change(
            map_,
            key,
            words,
            flag=FLAGS[flag],
            conditions=conditions,
            cpu=cpu,
            typing=Typing(**typing),
            guard=guard,
        )
    if context.out.is_json:
        context.out.document(entry.to_json())
        return
    value = "; ".join(value_lines(entry))
    context.out.say(f"set {value_text(entry.key)} to {value} in {map_}")
