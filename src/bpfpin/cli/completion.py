"""`bpfpin completion SHELL`: the script that makes a shell complete bpfpin's words."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.output import TABLE

SHELLS = ("bash", "zsh", "fish")


@bpfpin_command("completion", outputs=(TABLE,))
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, context: Context, /, *, shell: str) -> None:
    """Print the script that completes verbs, options, devices and sets in SHELL.

    For bash: eval "$(bpfpin completion bash)", or write it to
    /etc/bash_completion.d/bpfpin; for zsh the same with zsh; for fish:
    bpfpin completion fish > ~/.config/fish/completions/bpfpin.fish
    """
    from bpfpin.cli.main import COMPLETE, ROOT  # noqa: PLC0415 - main imports this module

    made = get_completion_class(shell)
    assert made is not None  # click has all SHELLS
    context.out.line(made(ROOT, {"obj": ctx.obj}, "bpfpin", COMPLETE).source())
