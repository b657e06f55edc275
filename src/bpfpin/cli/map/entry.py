"""`bpfpin map get`: the value under one key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.entry import value_lines, value_text
from bpfpin.cli.map.guard import force_option, guarded
from bpfpin.map.change import change
from bpfpin.map.entries import delete, delete_all, lookup
from bpfpin.map.open import Typing
from bpfpin.uapi import UpdateFlag

# So that a negative key is no option.
AS_TYPED = {"ignore_unknown_options": True}
F = TypeVar("F", bound=Callable[..., Any])
FLAGS = {"any": UpdateFlag.ANY, "noexist": UpdateFlag.NOEXIST, "exist": UpdateFlag.EXIST}


def typing_options(*, has_value: bool = True) -> Callable[[F], F]:
    """Give a verb the options that say how keys and values read; *has_value*: it has values."""
    key = (
        click.option("--key-type", metavar="TYPE", help="As --type, for keys."),
        click.option("--key-format", metavar="FMT", help="As --format, for keys."),
    )
    value = (
        click.option(
            "--type",
            "value_type",
            metavar="TYPE",
            help="Values are of this type of the programs that use the map: 'struct datarec'.",
        ),
        click.option(
            "--format",
            "value_format",
            metavar="FMT",
            help="Values read by this format of Python's struct module, such as QQ.",
        ),
    )

    def decorate(function: F) -> F:
        for option in reversed((*(value if has_value else ()), *key)):
            function = option(function)
        return function

    return decorate


@bpfpin_command("get", context_settings=AS_TYPED)
@click.argument("map_", metavar="MAP")
@click.argument("key")
@click.option("--raw", is_flag=True, help="Numbers for names, bytes for texts, no addresses.")
@typing_options()
def get_command(
    context: Context, /, *, map_: str, key: str, raw: bool, **typing: str | None
) -> None:
    """Print the value under KEY in MAP; exit 4 if there is none.

    KEY is an integer (7, 0x1f, -1), hex:0a00…, a name of an enumeration, a text, an address
    (10.0.0.1, fe80::1, 02:00:00:00:00:01), a prefix 10.0.0.0/24 in an LPM trie, a device, XDP_DROP
    where a key is a plain number; JSON or FIELD=VALUE,… for a structure. A per-CPU map has a line a
    CPU. A bloom filter is asked for a value: true if it may have been added, exit 4 if not.
    """
    entry = lookup(map_, key, raw=raw, typing=Typing(**typing))
    if context.out.is_json:
        context.out.document(entry.to_json())
        return
    for line in value_lines(entry):
        context.out.text(line)


# `bpfpin map set`: write the value under one key.


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
def set_command(
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


# `bpfpin map delete`: delete entries of a map.


@bpfpin_command("delete", context_settings=AS_TYPED)
@click.argument("map_", metavar="MAP")
@click.argument("keys", metavar="[KEY]…", nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="Delete every entry.")
@force_option
@typing_options(has_value=False)
def delete_command(
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
