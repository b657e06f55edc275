"""`bpfpin map list`: all maps and where they are pinned."""

from __future__ import annotations

from bpfpin.apps.maps.listing import MapRow, list_maps
from bpfpin.cli.context import Context, bpfpin_command

COLUMNS = ("id", "type", "name", "key", "value", "max_entries", "pins")


@bpfpin_command("list")
def command(context: Context) -> None:
    """List the maps of this host by id, with their sizes in bytes and their pins.

    Without CAP_SYS_ADMIN these are the maps that are pinned where you may read.
    """
    found = list_maps(context.pin_root)
    for note in found.notes:
        context.out.say(f"note: {note}")
    if context.out.is_json:
        context.out.document({"maps": [to_json(row) for row in found.maps]})
        return
    rows = [_cells(row) for row in found.maps]
    context.out.table(COLUMNS, rows, right=("id", "key", "value", "max_entries"))


def to_json(row: MapRow) -> dict[str, object]:
    """Return a map as the JSON documents have it."""
    info = row.info
    return {
        "id": info.id,
        "name": info.name,
        "type": row.type_name,
        "key_size": info.key_size,
        "value_size": info.value_size,
        "max_entries": info.max_entries,
        "pins": list(row.pins),
    }


def _cells(row: MapRow) -> tuple[object, ...]:
    info = row.info
    sizes = (info.key_size, info.value_size, info.max_entries)
    return (info.id, row.type_name, info.name, *sizes, " ".join(row.pins) or "-")
