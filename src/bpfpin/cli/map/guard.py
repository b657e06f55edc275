"""The lock-out check of commands that write into a map."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from bpfpin.cli.context import Context
from bpfpin.sets.guard import MapGuard

force_option = click.option(
    "--force", is_flag=True, help="Also what would cut the way you came in by."
)


@contextmanager
def guarded(context: Context, *, is_forced: bool) -> Iterator[MapGuard]:
    """Yield what looks at a change before it is made, and print what it has to tell."""
    guard = MapGuard(context.pin_root, is_forced)
    yield guard
    for note in guard.notes:
        context.out.say(f"note: {note}")
