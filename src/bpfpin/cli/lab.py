"""`bpfpin lab`: a temporary test network, as in the XDP tutorial."""

from __future__ import annotations

from collections.abc import Iterable

import click

from bpfpin.apps.lab import Lab, lab_down, lab_exec, lab_up, labs
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.formats import TEXT, Report
from bpfpin.cli.group import Group, Verb
from bpfpin.cli.output import Output
from bpfpin.hints import shell_line

VERBS = {
    "up": Verb("bpfpin.cli.lab:up_command", "Make a lab."),
    "down": Verb("bpfpin.cli.lab:down_command", "Delete a lab."),
    "list": Verb("bpfpin.cli.lab:list_command", "List the labs that are up."),
    "exec": Verb("bpfpin.cli.lab:exec_command", "Run a command in a lab's namespace."),
}
command = Group(
    "lab",
    VERBS,
    help="Temporary test networks: a namespace, a veth pair into it, and addresses.",
)


@bpfpin_command("up")
@click.argument("name")
def up_command(context: Context, *, name: str) -> None:
    """Make the lab NAME: veth0 in the namespace NAME, and its peer NAME in this namespace.

    Nothing but your own traffic is sent on it, so packet counts are exact.
    """
    lab = lab_up(name)
    context.out.show(Report(lab.to_json(), lambda out: _write_new_lab(out, lab)))


def _write_new_lab(out: Output, lab: Lab) -> None:
    rows = [
        ("here", lab.device, *lab.addresses.host),
        (f"namespace {lab.netns}", lab.peer, *lab.addresses.peer),
    ]
    out.table(("where", "device", "IPv4", "IPv6"), rows)
    out.say(
        f"made lab {lab.name}; next: {shell_line('bpfpin load', dev=lab.name)}, and for packets:"
        f" {shell_line('bpfpin lab exec', lab.name)} -- ping {lab.addresses.host[0]}"
    )


@bpfpin_command("down")
@click.argument("name")
def down_command(context: Context, *, name: str) -> None:
    """Delete the lab NAME: its devices and its namespace."""
    lab_down(name)
    context.out.show(Report({"result": "deleted", "lab": name}))
    context.out.say(f"deleted lab {name}")


@bpfpin_command(
    "exec",
    outputs=TEXT,
    # Options after NAME belong to CMD, not to bpfpin, also without `--`.
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("name")
@click.argument("argv", metavar="-- CMD …", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_command(_context: Context, *, name: str, argv: tuple[str, ...]) -> int:
    """Run CMD in the namespace of lab NAME, with the same bpffs; exit with its status."""
    # click keeps the `--` after the first argument in that mode.
    words = argv[1:] if argv[0] == "--" else argv
    return lab_exec(name, words)


@bpfpin_command("list")
def list_command(context: Context) -> None:
    """List the labs that are up, with the addresses of both ends."""
    running = labs()
    data = {"labs": [lab.to_json() for lab in running]}
    context.out.show(Report(data, lambda out: _write_labs(out, running)))


def _write_labs(out: Output, running: Iterable[Lab]) -> None:
    rows = [
        (lab.name, lab.device, " ".join(lab.addresses.host), " ".join(lab.addresses.peer))
        for lab in running
    ]
    if rows:
        out.table(("lab", "device", "here", "in the namespace"), rows)
    else:
        out.say("no lab is up; make one: bpfpin lab up NAME")
