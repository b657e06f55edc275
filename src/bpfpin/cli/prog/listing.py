"""`bpfpin prog list`: all programs of the host, where they run, their pins and holders."""

from __future__ import annotations

from collections.abc import Iterable

import click

from bpfpin.cli.context import Context, bpfpin_command, sort_option
from bpfpin.cli.formats import Report
from bpfpin.cli.output import Output
from bpfpin.host.programs import (
    SORTS,
    Attachment,
    ProgramFilter,
    ProgramRow,
    known_program_types,
    list_programs,
)

COLUMNS = ("id", "type", "name", "tag", "age", "memory", "maps", "attached", "pins")
NUMBERS = ("id", "age", "memory", "runs", "ns/run")


@bpfpin_command("list")
@click.option(
    "--type",
    "types",
    multiple=True,
    metavar="TYPE",
    help="Only programs of this type: xdp, sched_cls …; repeatable.",
)
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="GLOB",
    help="Only programs with this name: xdp_pass, 'count_*'; repeatable.",
)
@click.option("--map", "map_", metavar="MAP", help="Only programs that use this map.")
@click.option("--pinned", is_flag=True, help="Only programs with a pin of their own or of a link.")
@click.option("--attached", is_flag=True, help="Only programs that are attached somewhere.")
@sort_option(SORTS)
@click.option(
    "--users",
    "with_users",
    is_flag=True,
    help="Show the processes that have each program or its link open, as -v does.",
)
def command(
    context: Context,
    *,
    types: tuple[str, ...],
    names: tuple[str, ...],
    map_: str | None,
    pinned: bool,
    attached: bool,
    sort: tuple[str, bool],
    with_users: bool,
) -> None:
    """List the programs of this host by id, where each is attached, and its pins.

    Memory is in bytes; maps are shown by id. Runs and the time of a run are those that were counted
    while statistics were on (bpfpin prog stats, or kernel.bpf_stats_enabled). Several filters must
    all match. Without CAP_SYS_ADMIN only programs with a pin that you can open are listed.
    """
    field, is_descending = sort
    listing = list_programs(
        context.pin_root,
        selection=ProgramFilter(
            known_program_types(types),
            names,
            map_id=_map_id(map_) if map_ else None,
            is_pinned=pinned,
            is_attached=attached,
        ),
        sort=field,
        is_descending=is_descending,
        # Only if asked: to find the processes means to read the descriptors of all of them.
        with_processes=with_users or context.out.is_verbose,
    )
    for note in listing.notes:
        context.out.say(f"note: {note}")
    context.out.show(
        Report(
            lambda: {"programs": [to_json(row) for row in listing.programs]},
            lambda out: _write_table(out, listing.programs),
        )
    )


def _map_id(target: str) -> int:
    from bpfpin.map.open import open_map  # noqa: PLC0415 - only with --map

    with open_map(target) as bpf_map:
        return bpf_map.id


def described(row: ProgramRow) -> dict[str, object]:
    """Return the members that describe a program in every document."""
    info = row.info
    return {"id": info.id, "name": info.name, "type": row.type_name, "tag": info.tag}


def to_json(row: ProgramRow) -> dict[str, object]:
    """Return a program as it is in the document of `prog list`."""
    info = row.info
    members: dict[str, object] = {
        **described(row),
        "loaded_at": round(row.loaded_at, 3),
        "age_s": round(row.age_s, 3),
        "uid": info.uid,
        "memory_bytes": row.memory_bytes,
        "map_ids": list(info.map_ids),
        "run_count": info.run_count,
        "run_time_ns": info.run_time_ns,
        "attached": [attachment_to_json(attachment) for attachment in row.attachments],
        "pins": list(row.pins),
        "link_pins": list(row.link_pins),
        "sets": list(row.sets),
    }
    # Left out if they were not searched: an empty list would say that there is none.
    if row.processes is not None:
        members["processes"] = [
            {"pid": process.pid, "name": process.name} for process in row.processes
        ]
    return members


def attachment_to_json(attachment: Attachment) -> dict[str, object]:
    """Return a place that runs a program; `link` is null where no link holds it."""
    place = attachment.place
    return {"hook": place.hook, "where": place.where, "link": attachment.link or None}


def age(seconds: float) -> str:
    """Return a time span as people write it: `42s`, `7m`, `5h12m`, `3d4h`."""
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days}d{hours % 24}h"
    if hours:
        return f"{hours}h{minutes % 60}m"
    return f"{minutes}m" if minutes else f"{max(int(seconds), 0)}s"


def _write_table(out: Output, rows: tuple[ProgramRow, ...]) -> None:
    has_processes = any(row.processes is not None for row in rows)
    has_runs = any(row.info.run_count for row in rows)
    columns = (
        *COLUMNS,
        *(("runs", "ns/run") if has_runs else ()),
        *(("processes",) if has_processes else ()),
    )
    cells = [_cells(row, has_runs=has_runs) for row in rows]
    out.table(columns, cells, right=NUMBERS)
    if not rows:
        out.say("no program matches")


def _cells(row: ProgramRow, *, has_runs: bool) -> tuple[object, ...]:
    info = row.info
    maps = _words(map(str, info.map_ids))
    attached = ", ".join(map(str, row.attachments)) or "-"
    cells: tuple[object, ...] = (info.id, row.type_name, info.name or "-", info.tag)
    cells = (*cells, age(row.age_s), row.memory_bytes, maps, attached)
    cells = (*cells, _words((*row.pins, *row.link_pins)))
    if has_runs:
        average = row.average_ns
        cells = (*cells, info.run_count, "-" if average is None else f"{average:.0f}")
    if row.processes is None:
        return cells
    return (*cells, _words(f"{process.pid}:{process.name}" for process in row.processes))


def _words(words: Iterable[str]) -> str:
    return " ".join(words) or "-"
