"""`bpfpin map show`: one map in full."""

from __future__ import annotations

import click

from bpfpin.apps.maps.detail import MapDetails, show_map
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.map.listing import to_json


@bpfpin_command("show")
@click.argument("map_", metavar="MAP")
def command(context: Context, *, map_: str) -> None:
    """Show what the kernel says of MAP: a path, id:N or name:NAME."""
    details = show_map(map_, pin_root=context.pin_root)
    if context.out.is_json:
        context.out.document(_document(details))
        return
    for name, text in _facts(details):
        context.out.text(f"{name:<12} {text}")


def _document(details: MapDetails) -> dict[str, object]:
    return {
        **to_json(details.row),
        "key_type": details.key_type or None,
        "value_type": details.value_type or None,
        "flags": list(details.flags),
        "memory_bytes": details.memory_bytes,
        "frozen": details.is_frozen,
    }


def _facts(details: MapDetails) -> list[tuple[str, object]]:
    info = details.row.info
    unknown = "no BTF"
    facts: list[tuple[str, object]] = [
        ("id", info.id),
        ("name", info.name or "-"),
        ("type", details.row.type_name),
        ("key", f"{info.key_size} bytes, {details.key_type or unknown}"),
        ("value", f"{info.value_size} bytes, {details.value_type or unknown}"),
        ("max_entries", info.max_entries),
        ("map_flags", " ".join(details.flags) or "-"),
        ("memory", f"{details.memory_bytes} bytes"),
        ("frozen", "yes" if details.is_frozen else "no"),
    ]
    return facts + [("pin", path) for path in details.row.pins or ("-",)]
