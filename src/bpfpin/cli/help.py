"""`bpfpin help VERB…`: what `bpfpin VERB… --help` shows."""

from __future__ import annotations

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.group import Group
from bpfpin.cli.output import TABLE
from bpfpin.errors import UsageError


@bpfpin_command("help", outputs=(TABLE,))
@click.argument("verbs", metavar="[VERB]…", nargs=-1)
@click.pass_context
def command(ctx: click.Context, context: Context, /, *, verbs: tuple[str, ...]) -> None:
    """Show the help of a verb, of a verb of a verb, or of bpfpin."""
    found = ctx.find_root()
    for verb in verbs:
        if not isinstance(found.command, Group):
            raise UsageError(f"{found.command_path} has no verbs", hint=f"{found.command_path} -h")
        _, chosen, _ = found.command.resolve_command(found, [verb])
        assert chosen is not None  # a name of the table
        found = click.Context(chosen, parent=found, info_name=verb, obj=ctx.obj)
    context.out.line(found.get_help())
