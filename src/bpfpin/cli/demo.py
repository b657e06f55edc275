"""`bpfpin demo`: the whole story on a throw-away lab."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from contextlib import closing

import click

from bpfpin.apps.demo import demo
from bpfpin.apps.demo_scene import Scene
from bpfpin.apps.stats import Interval
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.output import Output
from bpfpin.cli.stats_text import block


@bpfpin_command("demo")
@click.option("--keep", is_flag=True, help="Leave the lab up and the program loaded.")
def command(context: Context, *, keep: bool) -> None:
    """Play the whole story in a network namespace, from load to reload and sharing, and clean up.

    It takes less than 15 seconds, touches no device of yours and leaves nothing.
    """
    with closing(demo(keep=keep, pin_root=context.pin_root)) as scenes:
        if context.out.is_json:
            context.out.document({"scenes": [scene.to_json() for scene in scenes]})
        else:
            _show(context.out, scenes)


def _counted(interval: Interval) -> Interval:
    """Leave out the actions that never happened: a story is short."""
    return dataclasses.replace(interval, rows=tuple(row for row in interval.rows if row.packets))


def _show(out: Output, scenes: Iterable[Scene]) -> None:
    number = 0
    for scene in scenes:
        if scene.title:
            number += 1
            out.text(f"\n{number}. {scene.title}" if number > 1 else f"{number}. {scene.title}")
        if scene.command:
            out.text(f"   $ {scene.command}")
        seen = [] if scene.interval is None else block(_counted(scene.interval))
        for line in (*scene.lines, *seen):
            out.text(f"     {line}")
