"""`bpfpin map pin` and `map unpin`: add and remove names of maps in bpffs."""

from __future__ import annotations

from pathlib import Path

import click

from bpfpin.cli.context import Context, bpfpin_command, private_mount_option
from bpfpin.cli.formats import Report
from bpfpin.map.pinning import Unpinned, pin_map, unpin_map


@bpfpin_command("pin")
@click.argument("map_", metavar="MAP")
@click.argument("path", type=click.Path(path_type=Path))
@private_mount_option
def pin_command(context: Context, *, map_: str, path: Path, private_mount: bool) -> None:
    """Pin MAP at PATH, a new name in a bpffs; the map exists until all its names are removed.

    The directory of PATH must exist. Pin sets are changed by load and unload only.
    """
    pinned = pin_map(map_, path, private_mount=private_mount)
    data = {"id": pinned.id, "name": pinned.name, "path": pinned.path}
    done = f"pinned map id {pinned.id} ({pinned.name}) at {pinned.path}"
    context.out.show(Report(data, lambda out: out.say(done)))


@bpfpin_command("unpin")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Allow PATH in a pin set of bpfpin.")
def unpin_command(context: Context, *, path: Path, force: bool) -> None:
    """Remove the pin of a map at PATH, and list the other users of the map.

    The kernel frees the map with its last user. Pins of a pin set are refused (exit 7): unload
    removes them.
    """
    unpinned = unpin_map(path, pin_root=context.pin_root, is_forced=force)
    data = {
        "id": unpinned.id,
        "name": unpinned.name,
        "path": unpinned.path,
        "users": list(unpinned.users),
        "gone": unpinned.is_gone,
    }
    done = f"unpinned map id {unpinned.id} ({unpinned.name}) from {unpinned.path}"
    context.out.show(Report(data, lambda out: out.say(f"{done}; {_rest(unpinned)}")))


def _rest(unpinned: Unpinned) -> str:
    if unpinned.users:
        return f"it stays, used by {', '.join(unpinned.users)}"
    # Only with CAP_SYS_ADMIN all users are in sight; without it "gone" would be a guess.
    return "nothing uses it any more: it is gone" if unpinned.is_gone else "no other user is seen"
