"""`bpfpin map list`: all maps, where they are pinned and who uses them."""

from __future__ import annotations

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.map.list import SORTS, MapRow, Selection, known_types, list_maps, maps_of_user

COLUMNS = ("id", "type", "name", "key", "value", "max_entries", "memory", "programs", "pins")
NUMBERS = ("id", "key", "value", "max_entries", "memory")


@bpfpin_command("list")
@click.option(
    "--type", "types", multiple=True, metavar="TYPE", help="Maps of this type: hash, lpm_trie …"
)
@click.option(
    "--name", "names", multiple=True, metavar="GLOB", help="Maps of this name: flows, 'xdp_*'."
)
@click.option("--pinned", is_flag=True, help="Maps that are pinned where this user sees it.")
@click.option(
    "--orphans",
    is_flag=True,
    help="Maps that no pin, program, link or other map keeps, but processes alone.",
)
@click.option("--user", metavar="PROGRAM|pid:N", help="Maps of this program (name, id) or process.")
@click.option(
    "--sort",
    default="id",
    metavar="FIELD",
    help=f"Sort by {', '.join(SORTS)}; -FIELD: the greatest first.",
)
@click.option("--users", "with_users", is_flag=True, help="Tell the processes, too, as -v does.")
def command(
    context: Context,
    *,
    types: tuple[str, ...],
    names: tuple[str, ...],
    pinned: bool,
    orphans: bool,
    user: str | None,
    sort: str,
    with_users: bool,
) -> None:
    """List the maps of this host by id: sizes and memory in bytes, programs, pins.

    A map must be all that is asked for; of options given more than once, one of them. Without
    CAP_SYS_ADMIN only those maps are listed that are pinned where you may read.
    """
    field = sort.removeprefix("-")
    if field not in SORTS:
        raise click.BadOptionUsage("sort", f"no field {field!r} to sort by: {', '.join(SORTS)}")
    found = list_maps(
        context.pin_root,
        selection=Selection(
            known_types(types),
            names,
            is_pinned=pinned,
            is_orphan=orphans,
            ids=maps_of_user(user) if user else None,
        ),
        sort=field,
        is_descending=sort.startswith("-"),
        with_processes=with_users or context.out.is_verbose,
    )
    for note in found.notes:
        context.out.say(f"note: {note}")
    if context.out.is_json:
        context.out.document({"maps": [to_json(row) for row in found.maps]})
        return
    _table(context, found.maps)


def described(row: MapRow) -> dict[str, object]:
    """Return what every map is, as the JSON documents have it."""
    info = row.info
    return {
        "id": info.id,
        "name": info.name,
        "type": row.type_name,
        "key_size": info.key_size,
        "value_size": info.value_size,
        "max_entries": info.max_entries,
    }


def to_json(row: MapRow) -> dict[str, object]:
    """Return a map as the JSON documents have it."""
    told: dict[str, object] = {
        **described(row),
        "memory_bytes": row.memory_bytes,
        "frozen": row.is_frozen,
        "pins": list(row.pins),
        "programs": [{"id": one.id, "name": one.name} for one in row.programs],
        "outer_maps": list(row.outer_maps),
        "links": list(row.links),
        "orphan": row.is_orphan,
    }
    if row.processes is not None:
        told["processes"] = [{"pid": one.id, "name": one.name} for one in row.processes]
    return told


def _table(context: Context, rows: tuple[MapRow, ...]) -> None:
    has_processes = any(row.processes is not None for row in rows)
    columns = (*COLUMNS, "processes") if has_processes else COLUMNS
    context.out.table(columns, [_cells(row) for row in rows], right=NUMBERS)
    if not rows:
        context.out.say("there is no such map")


def _cells(row: MapRow) -> tuple[object, ...]:
    info = row.info
    sizes = (info.key_size, info.value_size, info.max_entries, row.memory_bytes)
    programs = [f"{one.id}:{one.name}" for one in row.programs]
    cells = (info.id, row.type_name, info.name, *sizes, _words(programs), _words(row.pins))
    if row.processes is None:
        return cells
    return (*cells, _words([f"{one.id}:{one.name}" for one in row.processes]))


def _words(words: list[str] | tuple[str, ...]) -> str:
    return " ".join(words) or "-"
