"""`bpfpin map get`: the value under one key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from bpfpin.apps.maps.entries import lookup
from bpfpin.apps.maps.naming import Typing
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.entry import value_lines

# So that a negative key is no option.
AS_TYPED = {"ignore_unknown_options": True}


F = TypeVar("F", bound=Callable[..., Any])


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
def command(context: Context, /, *, map_: str, key: str, raw: bool, **typing: str | None) -> None:
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
