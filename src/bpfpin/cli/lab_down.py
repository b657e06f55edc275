"""`bpfpin lab down`: delete a lab."""

from __future__ import annotations

import click

from bpfpin.apps.lab import lab_down
from bpfpin.cli.context import Context, bpfpin_command


@bpfpin_command("down")
@click.argument("name")
def command(context: Context, *, name: str) -> None:
    """Delete the lab NAME: its devices and its namespace."""
    lab_down(name)
    if context.out.is_json:
        context.out.document({"result": "deleted", "lab": name})
    context.out.say(f"deleted lab {name}")
