"""`bpfpin map unpin`: take a name of a map from bpffs."""

from __future__ import annotations

from pathlib import Path

import click

from bpfpin.apps.maps.pinning import Unpinned, unpin_map
from bpfpin.cli.context import Context, bpfpin_command


@bpfpin_command("unpin")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Unpin in a pin set of ours, too.")
def command(context: Context, *, path: Path, force: bool) -> None:
    """Remove the pin of a map at PATH, and say who else keeps the map.

    The map goes with its last user. Pins of a pin set stay (exit 7): unload removes them.
    """
    done = unpin_map(path, pin_root=context.pin_root, is_forced=force)
    if context.out.is_json:
        context.out.document(
            {
                "id": done.id,
                "name": done.name,
                "path": done.path,
                "users": list(done.users),
                "gone": done.is_gone,
            }
        )
        return
    context.out.say(f"unpinned map id {done.id} ({done.name}) from {done.path}; {_fate(done)}")


def _fate(done: Unpinned) -> str:
    if done.users:
        return f"it stays, used by {', '.join(done.users)}"
    return "nothing uses it any more: it is gone" if done.is_gone else "no other user is seen"
