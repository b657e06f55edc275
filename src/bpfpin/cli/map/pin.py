"""`bpfpin map pin`: give a map one more name in bpffs."""

from __future__ import annotations

from pathlib import Path

import click

from bpfpin.cli.context import Context, bpfpin_command, private_mount_option
from bpfpin.map.pinning import Unpinned, pin_map, unpin_map


@bpfpin_command("pin")
@click.argument("map_", metavar="MAP")
@click.argument("path", type=click.Path(path_type=Path))
@private_mount_option
def pin_command(context: Context, *, map_: str, path: Path, private_mount: bool) -> None:
    """Pin MAP at PATH, a new name in a bpffs: the map stays until every name of it is gone.

    Its directory must be there. Pin sets are changed by load and unload alone.
    """
    pinned = pin_map(map_, path, private_mount=private_mount)
    if context.out.is_json:
        context.out.document({"id": pinned.id, "name": pinned.name, "path": pinned.path})
        return
    context.out.say(f"pinned map id {pinned.id} ({pinned.name}) at {pinned.path}")


# `bpfpin map unpin`: take a name of a map from bpffs.


@bpfpin_command("unpin")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Unpin in a pin set of ours, too.")
def unpin_command(context: Context, *, path: Path, force: bool) -> None:
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
