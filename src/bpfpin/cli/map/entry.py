"""`bpfpin map get`, `map set` and `map delete`: entries by their keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.entry import value_lines, value_text
from bpfpin.cli.formats import Report
from bpfpin.cli.map.guard import force_option, guarded
from bpfpin.cli.output import Output
from bpfpin.map.entries import MapEntry, delete, delete_all, lookup
from bpfpin.map.open import Typing
from bpfpin.uapi import UpdateFlag

# A negative key is not an option.
AS_TYPED = {"ignore_unknown_options": True}
F = TypeVar("F", bound=Callable[..., Any])
FLAGS = {"any": UpdateFlag.ANY, "noexist": UpdateFlag.NOEXIST, "exist": UpdateFlag.EXIST}


def typing_options(*, has_value: bool = True) -> Callable[[F], F]:
    """Give a verb the options for the types of keys and, with *has_value*, of values."""
    key = (
        click.option("--key-type", metavar="TYPE", help="Like --type, for keys."),
        click.option("--key-format", metavar="FMT", help="Like --format, for keys."),
    )
    value = (
        click.option(
            "--type",
            "value_type",
            metavar="TYPE",
            help="Type of values, from the BTF of programs that use the map: 'struct datarec'.",
        ),
        click.option(
            "--format",
            "value_format",
            metavar="FMT",
            help="Type of values as a format of Python's struct module, such as QQ.",
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
@click.option(
    "--raw",
    is_flag=True,
    help="Print numbers instead of names and addresses, and bytes instead of texts.",
)
@typing_options()
def get_command(
    context: Context, /, *, map_: str, key: str, raw: bool, **typing: str | None
) -> None:
    """Print the value under KEY in MAP; exit 4 if MAP does not have KEY.

    KEY is an integer (7, 0x1f, -1), hex:0a00…, a name of an enumeration, a text, an address
    (10.0.0.1, fe80::1, 02:00:00:00:00:01), a prefix (10.0.0.0/24) of an LPM trie, a device, a
    verdict (XDP_DROP) if keys are plain numbers, or JSON or FIELD=VALUE,… for a structure.

    The value of a per-CPU map has one line for each CPU. For a bloom filter KEY is a value: the
    answer is true if it may have been added, else exit 4.
    """
    entry = lookup(map_, key, raw=raw, typing=Typing(**typing))
    context.out.show(Report(entry.to_json(), lambda out: _write_value(out, entry)))


def _write_value(out: Output, entry: MapEntry) -> None:
    for line in value_lines(entry):
        out.text(line)


@bpfpin_command("set", context_settings=AS_TYPED)
@click.argument("map_", metavar="MAP")
@click.argument("key")
@click.argument("words", metavar="VALUE|FIELD=VALUE…", nargs=-1, required=True)
@click.option(
    "--flag",
    type=click.Choice(list(FLAGS)),
    default="any",
    help="noexist: only add a new key (else exit 7); exist: only change a key (else exit 4).",
)
@click.option(
    "--if",
    "conditions",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Write only if FIELD, or the whole value, is VALUE (else exit 7); not atomic.",
)
@click.option("--cpu", type=int, metavar="N", help="Write the value of CPU N only.")
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
    """Write VALUE under KEY in MAP; both have the forms that `map get` reads and prints.

    FIELD=VALUE changes fields of a structure (a.b=1, ports[2]=80); the others keep their values, or
    are 0 under a new key. In a per-CPU map one value is written for every CPU, or with --cpu for
    that one; a JSON list has one value for each CPU. In a map of maps or programs, VALUE is a path
    or id:N.

    --if, --cpu and FIELD=VALUE read the value before they write it: a change in between is lost.
    """
    # Writing needs the modules of programs, for their arrays; reading verbs do not.
    from bpfpin.map.change import change  # noqa: PLC0415

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
    value = "; ".join(value_lines(entry))
    done = f"set {value_text(entry.key)} to {value} in {map_}"
    context.out.show(Report(entry.to_json(), lambda out: out.say(done)))


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
    """Delete the entries under these KEYs of MAP, or with --all every entry.

    If MAP lacks one of the keys (exit 4), nothing is deleted. Entries of an array cannot be deleted
    (exit 2): set their values to 0.
    """
    if is_all == bool(keys):
        raise click.UsageError("give at least one KEY, or --all")
    with guarded(context, is_forced=force) as guard:
        if is_all:
            count = delete_all(map_, guard=guard)
        else:
            count = delete(map_, keys, typing=Typing(**typing), guard=guard)
    done = f"deleted {count} {'entry' if count == 1 else 'entries'} of {map_}"
    context.out.show(Report({"deleted": count}, lambda out: out.say(done)))
