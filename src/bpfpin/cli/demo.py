"""`bpfpin demo`: load, count, switch, reload and share, on a temporary lab."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import click

from bpfpin.apps.demo import Scene, demo
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.formats import Report
from bpfpin.cli.output import Output

# Readable in the smallest usual terminal, and in a page of documentation.
WIDTH = 80


@bpfpin_command("demo")
@click.option("--keep", is_flag=True, help="Keep the lab and the loaded program.")
def command(context: Context, *, keep: bool) -> None:
    """Show the whole life of a pin set in a network namespace: load, reload, sharing, clean-up.

    Every command is run as it is shown, followed by its output. The demo does not touch your
    devices and leaves nothing behind.
    """
    # Closed also on Ctrl-C: the generator then deletes the lab in its `finally`.
    with closing(demo(keep=keep, pin_root=context.pin_root)) as scenes:
        context.out.show(
            Report(
                lambda: {"scenes": [scene.to_json() for scene in _joined(scenes)]},
                lambda out: _show(out, scenes),
            )
        )


def _joined(scenes: Iterable[Scene]) -> list[Scene]:
    """Join a title with its first command, and remarks with the command before them."""
    joined: list[Scene] = []
    for scene in scenes:
        last = joined[-1] if joined else Scene("")
        # A command begins a new scene only if the last one has its command already.
        if scene.title or (scene.command and last.command):
            joined.append(scene)
        else:
            lines = (*last.lines, *scene.lines)
            joined[-1] = Scene(last.title, last.command or scene.command, lines)
    return joined


def _show(out: Output, scenes: Iterable[Scene]) -> None:
    number = 0
    called = Path(sys.argv[0]).absolute()
    # The commands that are shown should work when typed: they need this bpfpin in PATH.
    if shutil.which("bpfpin") != str(called) and called.name == "bpfpin":
        out.text(f"(`bpfpin` below is {called})\n")
    for scene in scenes:
        if scene.title:
            number += 1
            out.text(f"{chr(10) if number > 1 else ''}{number}. {scene.title}")
        if scene.command:
            out.text("\n".join(_wrapped(scene.command)))
        for line in scene.lines:
            out.text(f"   {out.typed(line)}")


def _wrapped(command: str) -> list[str]:
    """Break a long command into lines that end in a backslash."""
    # An option and its value stay on one line.
    kept = re.sub(r"(--[\w-]+) (?!-)", "\\1\N{NO-BREAK SPACE}", command)
    lines = textwrap.wrap(
        kept,
        WIDTH - 2,
        initial_indent="   $ ",
        subsequent_indent="       ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines = [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]
