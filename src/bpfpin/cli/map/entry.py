"""`bpfpin map get`, `set` and `delete`: entries by their keys; `push` and `pop`: without keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from bpfpin.cli.context import Context, bpfpin_command, force_option, guarded
from bpfpin.cli.formats import Report, value_lines, value_text
from bpfpin.cli.options import typing_options
from bpfpin.cli.output import Output
from bpfpin.errors import UsageError
from bpfpin.map.entries import MapEntry, delete, delete_all, lookup, peek, pop, push
from bpfpin.map.open import Typing
from bpfpin.uapi import UpdateFlag

# A negative key is not an option.
AS_TYPED = {"ignore_unknown_options": True}
# The kernel's flags BPF_ANY, BPF_NOEXIST and BPF_EXIST (include/uapi/linux/bpf.h).
FLAGS = {"any": UpdateFlag.ANY, "noexist": UpdateFlag.NOEXIST, "exist": UpdateFlag.EXIST}


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
    # The value as it was read back: in other forms than it was typed in, and with all CPUs.
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
    # Neither or both: a forgotten key must not delete every entry.
    if is_all == bool(keys):
        raise click.UsageError("give at least one KEY, or --all")
    with guarded(context, is_forced=force) as guard:
        if is_all:
            count = delete_all(map_, guard=guard)
        else:
            count = delete(map_, keys, typing=Typing(**typing), guard=guard)
    done = f"deleted {count} {'entry' if count == 1 else 'entries'} of {map_}"
    context.out.show(Report({"deleted": count}, lambda out: out.say(done)))


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
    # By the option, not by the number of values: a script gets the form that it asked for.
    data = {"value": values[0]} if count is None else {"values": values}
    context.out.show(Report(data, lambda out: _write_values(out, values)))


def _write_values(out: Output, values: Iterable[Any]) -> None:
    for value in values:
        out.text(value_text(value))
