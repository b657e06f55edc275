"""`bpfpin map show`: all facts about one map."""

from __future__ import annotations

from collections.abc import Iterator

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.formats import Report
from bpfpin.cli.map.listing import count_option, described, entries_text
from bpfpin.cli.output import Output
from bpfpin.host.users import UserKind
from bpfpin.map.show import MapDetails, show_map

NO_BTF = "no BTF"


@bpfpin_command("show")
@click.argument("map_", metavar="MAP")
@count_option()
def command(context: Context, *, map_: str, count: bool) -> None:
    """Show what the kernel reports about MAP: a path, id:N or name:NAME.

    Types are shown as C, sizes and memory in bytes. The users of the map are programs and where
    they are attached, links, maps of maps that contain it, pins and processes.
    """
    details = show_map(map_, pin_root=context.pin_root, with_walks=count)
    context.out.show(Report(_document(details), lambda out: _write(out, details)))


def _write(out: Output, details: MapDetails) -> None:
    for name, text in _facts(details):
        out.text(f"{name:<12} {text}")


def _document(details: MapDetails) -> dict[str, object]:
    row, inner = details.row, details.inner
    return {
        **described(details.row),
        "pins": list(row.pins),
        "key_type": details.key_type or None,
        "value_type": details.value_type or None,
        "flags": list(details.flags),
        "entries": row.entries,
        "map_extra": row.info.map_extra,
        "memory_bytes": details.row.memory_bytes,
        "frozen": details.row.is_frozen,
        "cpus": details.cpus or None,
        "programs": [
            {"id": user.id, "name": user.name, "attached": user.place}
            for user in details.users
            if user.kind is UserKind.PROGRAM
        ],
        "processes": [
            {"pid": user.id, "name": user.name}
            for user in details.users
            if user.kind is UserKind.PROCESS
        ],
        "outer_maps": list(details.row.outer_maps),
        "links": list(details.row.links),
        "inner": described(inner) if inner else None,
        "notes": list(details.notes),
    }


def _facts(details: MapDetails) -> Iterator[tuple[str, object]]:
    info = details.row.info
    yield "id", info.id
    yield "name", info.name or "-"
    yield "type", details.row.type_name
    yield "key", f"{info.key_size} bytes, {details.key_type or NO_BTF}"
    value = f"{info.value_size} bytes, {details.value_type or NO_BTF}"
    yield "value", f"{value}, for each of {details.cpus} CPUs" if details.cpus else value
    yield "max_entries", info.max_entries
    yield "entries", entries_text(details.row)
    yield "map_flags", " ".join(details.flags) or "-"
    yield "memory", f"{details.row.memory_bytes} bytes"
    yield "frozen", "yes" if details.row.is_frozen else "no"
    # A line each: names in bpffs may have spaces in them.
    for path in details.row.pins or ("-",):
        yield "pin", path
    yield from _users(details)
    if details.inner:
        inner = " ".join(f"{name} {value}" for name, value in described(details.inner).items())
        yield "inner", f"such as {inner}"
    for note in details.notes:
        yield "note", note


def _users(details: MapDetails) -> Iterator[tuple[str, object]]:
    for user in details.users:
        # Pins have lines of their own.
        if user.kind is not UserKind.PIN:
            yield "user", user
    for keeper in details.keepers:
        yield "user", keeper
