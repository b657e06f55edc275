"""`bpfpin lab`: the throw-away test environment."""

from __future__ import annotations

import click

from bpfpin.apps.lab import lab_down, lab_exec, lab_up, labs
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.group import Group, Verb
from bpfpin.cli.output import TABLE

VERBS = {
    "up": Verb("bpfpin.cli.lab:up_command", "Make a lab."),
    "down": Verb("bpfpin.cli.lab:down_command", "Delete a lab."),
    "list": Verb("bpfpin.cli.lab:list_command", "List the labs that are up."),
    "exec": Verb("bpfpin.cli.lab:exec_command", "Run a command in a lab's namespace."),
}
command = Group(
    "lab",
    VERBS,
    help="A namespace, a pair of devices into it and addresses: a place to try programs on.",
)


# `bpfpin lab up`: make a lab.


@bpfpin_command("up")
@click.argument("name")
def up_command(context: Context, *, name: str) -> None:
    """Make the lab NAME: veth0 in the namespace NAME, and its other end NAME here.

    Nothing is sent on it but what you send, so packet counts are exact.
    """
    lab = lab_up(name)
    if context.out.is_json:
        context.out.document(lab.to_json())
        return
    rows = [
        ("here", lab.device, *lab.addresses.host),
        (f"namespace {lab.netns}", lab.peer, *lab.addresses.peer),
    ]
    context.out.table(("where", "device", "IPv4", "IPv6"), rows)
    context.out.say(
        f"made lab {name}; next: bpfpin load --dev {name}, and for packets:"
        f" bpfpin lab exec {name} -- ping {lab.addresses.host[0]}"
    )


# `bpfpin lab down`: delete a lab.


@bpfpin_command("down")
@click.argument("name")
def down_command(context: Context, *, name: str) -> None:
    """Delete the lab NAME: its devices and its namespace."""
    lab_down(name)
    if context.out.is_json:
        context.out.document({"result": "deleted", "lab": name})
    context.out.say(f"deleted lab {name}")


# `bpfpin lab exec`: run a command in a lab's namespace.


@bpfpin_command(
    "exec",
    outputs=[TABLE],
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("name")
@click.argument("argv", metavar="-- CMD …", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_command(_context: Context, *, name: str, argv: tuple[str, ...]) -> int:
    """Run CMD in the namespace of lab NAME and exit as it does; bpffs stays visible."""
    words = argv[1:] if argv[0] == "--" else argv
    return lab_exec(name, words)


# `bpfpin lab list`: the labs that are up.


@bpfpin_command("list")
def list_command(context: Context) -> None:
    """List the labs that are up, with the addresses of both ends."""
    found = labs()
    if context.out.is_json:
        context.out.document({"labs": [lab.to_json() for lab in found]})
        return
    rows = [
        (lab.name, lab.device, " ".join(lab.addresses.host), " ".join(lab.addresses.peer))
        for lab in found
    ]
    if rows:
        context.out.table(("lab", "device", "here", "in the namespace"), rows)
    else:
        context.out.say("no lab is up; make one: bpfpin lab up NAME")
