"""`bpfpin help VERB…`: what `bpfpin VERB… --help` shows."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.group import Group
from bpfpin.cli.output import TABLE, Output
from bpfpin.errors import UsageError
from bpfpin.version import __version__

SHELLS = ("bash", "zsh", "fish")


@bpfpin_command("help", outputs=(TABLE,))
@click.argument("verbs", metavar="[VERB]…", nargs=-1)
@click.pass_context
def help_command(ctx: click.Context, context: Context, /, *, verbs: tuple[str, ...]) -> None:
    """Show the help of a verb, of a verb of a verb, or of bpfpin."""
    found = ctx.find_root()
    for verb in verbs:
        if not isinstance(found.command, Group):
            raise UsageError(f"{found.command_path} has no verbs", hint=f"{found.command_path} -h")
        _, chosen, _ = found.command.resolve_command(found, [verb])
        assert chosen is not None  # a name of the table
        found = click.Context(chosen, parent=found, info_name=verb, obj=ctx.obj)
    context.out.line(found.get_help())


# `bpfpin version`: the version, as `bpfpin --version` shows it.


@bpfpin_command("version")
def version_command(context: Context) -> None:
    """Show the version."""
    show_version(context.out)


def show_version(out: Output) -> None:
    """Write the version in the form that was asked for."""
    if out.is_json:
        out.document({"version": __version__})
    else:
        out.line(f"bpfpin {__version__}")


# `bpfpin completion SHELL`: the script that makes a shell complete bpfpin's words.


@bpfpin_command("completion", outputs=(TABLE,))
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion_command(ctx: click.Context, context: Context, /, *, shell: str) -> None:
    """Print the script that completes verbs, options, devices and sets in SHELL.

    For bash: eval "$(bpfpin completion bash)", or write it to
    /etc/bash_completion.d/bpfpin; for zsh the same with zsh; for fish:
    bpfpin completion fish > ~/.config/fish/completions/bpfpin.fish
    """
    from bpfpin.cli.main import COMPLETE, ROOT  # noqa: PLC0415 - main imports this module

    made = get_completion_class(shell)
    assert made is not None  # click has all SHELLS
    context.out.line(made(ROOT, {"obj": ctx.obj}, "bpfpin", COMPLETE).source())
