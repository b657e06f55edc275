"""The lockout check of commands that write to a map."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from bpfpin.cli.context import Context

if TYPE_CHECKING:
    from bpfpin.sets.guard import MapGuard

force_option = click.option(
    "--force", is_flag=True, help="Allow changes that may cut your own connection."
)


@contextmanager
def guarded(context: Context, *, is_forced: bool) -> Iterator[MapGuard]:
    """Yield the check that a change must pass, and write its notes after the change."""
    # The guard can load objects: commands that only read a map need none of those modules.
    from bpfpin.sets.guard import MapGuard  # noqa: PLC0415

    guard = MapGuard(context.pin_root, is_forced)
    yield guard
    for note in guard.notes:
        context.out.say(f"note: {note}")
