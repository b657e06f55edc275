"""`bpfpin lab exec`: run a command in a lab's namespace."""

from __future__ import annotations

import click

from bpfpin.apps.lab import lab_exec
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.output import TABLE


@bpfpin_command(
    "exec",
    outputs=[TABLE],
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("name")
@click.argument("argv", metavar="-- CMD …", nargs=-1, required=True, type=click.UNPROCESSED)
def command(_context: Context, *, name: str, argv: tuple[str, ...]) -> int:
    """Run CMD in the namespace of lab NAME and exit as it does; bpffs stays visible."""
    words = argv[1:] if argv[0] == "--" else argv
    return lab_exec(name, words)
