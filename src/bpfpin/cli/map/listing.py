"""`bpfpin map list`: all maps of the host, their pins and users."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from bpfpin.cli.context import Context, bpfpin_command, sort_option
from bpfpin.cli.formats import Report
from bpfpin.cli.output import Output
from bpfpin.map.list import SORTS, MapFilter, MapRow, known_types, list_maps, maps_of_user

if TYPE_CHECKING:
    from click.decorators import FC

COLUMNS = ("id", "type", "name", "key", "value", "entries", "max_entries", "memory")
WORDS = ("programs", "pins")
NUMBERS = ("id", "key", "value", "entries", "max_entries", "memory")


def count_option() -> Callable[[FC], FC]:
    """Return the option `--count` of the verbs that show the number of entries."""
    return click.option(
        "--count",
        is_flag=True,
        help="Read the maps whose entries the kernel does not count.",
    )


@bpfpin_command("list")
@click.option(
    "--type",
    "types",
    multiple=True,
    metavar="TYPE",
    help="Only maps of this type: hash, lpm_trie …; repeatable.",
)
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="GLOB",
    help="Only maps with this name: flows, 'xdp_*'; repeatable.",
)
@click.option("--pinned", is_flag=True, help="Only maps with a pin that this user can see.")
@click.option(
    "--orphans",
    is_flag=True,
    help="Only maps that are kept by processes alone: no pin, program, link or map.",
)
@click.option(
    "--user", metavar="PROGRAM|pid:N", help="Only maps of this program (name or id) or process."
)
@sort_option(SORTS)
@count_option()
@click.option(
    "--users", "with_users", is_flag=True, help="Show the processes that use each map, as -v does."
)
def command(
    context: Context,
    *,
    types: tuple[str, ...],
    names: tuple[str, ...],
    pinned: bool,
    orphans: bool,
    user: str | None,
    sort: tuple[str, bool],
    count: bool,
    with_users: bool,
) -> None:
    """List the maps of this host by id: sizes and memory in bytes, programs, pins.

    The kernel counts the entries of hashes (Linux 6.6) and LPM tries (6.4); of other maps their
    number is unknown, shown as `-`, unless you give --count.

    Several filters must all match; of one filter that is repeated, one value must match. Without
    CAP_SYS_ADMIN only maps with a pin that you can read are listed.
    """
    field, is_descending = sort
    listing = list_maps(
        context.pin_root,
        selection=MapFilter(
            known_types(types),
            names,
            is_pinned=pinned,
            is_orphan=orphans,
            ids=maps_of_user(user) if user else None,
        ),
        sort=field,
        is_descending=is_descending,
        # Only if asked: to find the processes means to read the descriptors of all of them.
        with_processes=with_users or context.out.is_verbose,
        with_walks=count,
    )
    for note in listing.notes:
        context.out.say(f"note: {note}")
    context.out.show(
        Report(
            lambda: {"maps": [to_json(row) for row in listing.maps]},
            lambda out: _write_table(out, listing.maps),
        )
    )


def described(row: MapRow) -> dict[str, object]:
    """Return the members that describe a map in every document."""
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
    """Return a map as it is in the document of `map list`."""
    members: dict[str, object] = {
        **described(row),
        "entries": row.entries,
        "memory_bytes": row.memory_bytes,
        "frozen": row.is_frozen,
        "pins": list(row.pins),
        "programs": [{"id": program.id, "name": program.name} for program in row.programs],
        "outer_maps": list(row.outer_maps),
        "links": list(row.links),
        "orphan": row.is_orphan,
    }
    # Left out if they were not searched: an empty list would say that there is none.
    if row.processes is not None:
        members["processes"] = [
            {"pid": process.id, "name": process.name} for process in row.processes
        ]
    return members


def _write_table(out: Output, rows: tuple[MapRow, ...]) -> None:
    has_processes = any(row.processes is not None for row in rows)
    columns = (*COLUMNS, *WORDS, "processes") if has_processes else (*COLUMNS, *WORDS)
    out.table(columns, [_cells(row) for row in rows], right=NUMBERS)
    if not rows:
        out.say("no map matches")


def _cells(row: MapRow) -> tuple[object, ...]:
    info = row.info
    sizes = (info.key_size, info.value_size, entries_text(row), info.max_entries, row.memory_bytes)
    programs = [f"{program.id}:{program.name}" for program in row.programs]
    cells = (info.id, row.type_name, info.name, *sizes, _words(programs), _words(row.pins))
    if row.processes is None:
        return cells
    return (*cells, _words([f"{process.id}:{process.name}" for process in row.processes]))


def entries_text(row: MapRow) -> object:
    """Return the number of entries, `-` if it is not known."""
    return "-" if row.entries is None else row.entries


def _words(words: list[str] | tuple[str, ...]) -> str:
    return " ".join(words) or "-"
