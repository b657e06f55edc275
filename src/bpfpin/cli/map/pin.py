"""`bpfpin map pin`: give a map one more name in bpffs."""

from __future__ import annotations

from pathlib import Path

import click

from bpfpin.apps.maps.pinning import pin_map
from bpfpin.cli.context import Context, bpfpin_command, private_mount_option


@bpfpin_command("pin")
@click.argument("map_", metavar="MAP")
@click.argument("path", type=click.Path(path_type=Path))
@private_mount_option
def command(context: Context, *, map_: str, path: Path, private_mount: bool) -> None:
    """Pin MAP at PATH, a new name in a bpffs: the map stays until every name of it is gone.

    Its directory must be there. Pin sets are changed by load and unload alone.
    """
    pinned = pin_map(map_, path, private_mount=private_mount)
    if context.out.is_json:
        context.out.document({"id": pinned.id, "name": pinned.name, "path": pinned.path})
        return
    context.out.say(f"pinned map id {pinned.id} ({pinned.name}) at {pinned.path}")
