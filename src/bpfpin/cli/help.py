"""`bpfpin help`, `version` and `completion`."""

from __future__ import annotations

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.formats import TEXT, Report
from bpfpin.cli.group import Group
from bpfpin.cli.output import Output
from bpfpin.errors import UsageError
from bpfpin.version import __version__

SHELLS = ("bash", "zsh", "fish")


@bpfpin_command("help", outputs=TEXT)
@click.argument("verbs", metavar="[VERB]…", nargs=-1)
@click.pass_context
def help_command(ctx: click.Context, context: Context, /, *, verbs: tuple[str, ...]) -> None:
    """Show the help of bpfpin, of a verb, or of a verb in a group (`bpfpin help map dump`)."""
    context_of_verb = ctx.find_root()
    # A context for each word, as click makes them, so that the help shows the whole command line.
    for verb in verbs:
        group, path = context_of_verb.command, context_of_verb.command_path
        if not isinstance(group, Group):
            raise UsageError(f"{path} has no verbs", hint=f"{path} -h")
        _, command, _ = group.resolve_command(context_of_verb, [verb])
        assert command is not None  # a name of the table
        context_of_verb = click.Context(
            command, parent=context_of_verb, info_name=verb, obj=ctx.obj
        )
    context.out.line(context_of_verb.get_help())


@bpfpin_command("version")
def version_command(context: Context) -> None:
    """Show the version."""
    show_version(context.out)


def show_version(out: Output) -> None:
    """Write the version."""
    out.show(Report({"version": __version__}, lambda out: out.line(f"bpfpin {__version__}")))


@bpfpin_command("completion", outputs=TEXT)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion_command(ctx: click.Context, context: Context, /, *, shell: str) -> None:
    """Print the script that completes verbs, options, devices and sets in SHELL.

    For bash: eval "$(bpfpin completion bash)", or write it to
    /etc/bash_completion.d/bpfpin; for zsh the same with zsh; for fish:
    bpfpin completion fish > ~/.config/fish/completions/bpfpin.fish
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - only here

    from bpfpin.cli.main import COMPLETE, ROOT  # noqa: PLC0415 - main imports this module

    completion_class = get_completion_class(shell)
    assert completion_class is not None  # click has all SHELLS
    context.out.line(completion_class(ROOT, {"obj": ctx.obj}, "bpfpin", COMPLETE).source())
