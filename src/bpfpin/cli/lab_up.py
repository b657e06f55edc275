"""`bpfpin lab up`: make a lab."""

from __future__ import annotations

import click

from bpfpin.apps.lab import lab_up
from bpfpin.cli.context import Context, bpfpin_command


@bpfpin_command("up")
@click.argument("name")
def command(context: Context, *, name: str) -> None:
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
