"""`bpfpin link list`, `show` and `detach`: what attaches programs, and what holds it."""

from __future__ import annotations

from collections.abc import Iterator

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.formats import Report
from bpfpin.cli.output import Output
from bpfpin.hints import shell_line
from bpfpin.host.links import (
    LinkFilter,
    LinkRow,
    detach_link,
    known_link_types,
    list_links,
    show_link,
)
from bpfpin.host.named import type_word

COLUMNS = ("id", "type", "program", "attached", "set", "pins")


@bpfpin_command("list")
@click.option(
    "--type",
    "types",
    multiple=True,
    metavar="TYPE",
    help="Only links of this type: xdp, tcx, cgroup …; repeatable.",
)
@click.option(
    "--program",
    "programs",
    multiple=True,
    metavar="GLOB|ID",
    help="Only links of programs with this name or id; repeatable.",
)
@click.option("--pinned", is_flag=True, help="Only links with a pin that this user can see.")
@click.option(
    "--users", "with_users", is_flag=True, help="Show the processes that hold each, as -v does."
)
def list_command(
    context: Context,
    *,
    types: tuple[str, ...],
    programs: tuple[str, ...],
    pinned: bool,
    with_users: bool,
) -> None:
    """List the links of this host by id: their programs, where they attach them, their pins.

    Devices of other network namespaces are shown as NAMESPACE@DEVICE. Without CAP_SYS_ADMIN only
    links with a pin that you can open are listed.
    """
    listing = list_links(
        context.pin_root,
        selection=LinkFilter(known_link_types(types), programs, is_pinned=pinned),
        with_processes=with_users or context.out.is_verbose,
    )
    for note in listing.notes:
        context.out.say(f"note: {note}")
    context.out.show(
        Report(
            lambda: {"links": [to_json(row) for row in listing.links]},
            lambda out: _write_table(out, listing.links),
        )
    )


@bpfpin_command("show")
@click.argument("link", metavar="LINK")
def show_command(context: Context, *, link: str) -> None:
    """Show what the kernel reports about LINK: a path, SET/HOOK, or id:N.

    Pins and processes hold a link; when nothing holds it any more, the program is detached.
    """
    row = show_link(link, pin_root=context.pin_root)
    context.out.show(Report(to_json(row), lambda out: _write(out, row)))


@bpfpin_command("detach")
@click.argument("link", metavar="LINK")
@click.option("--force", is_flag=True, help="Detach a link although it belongs to a pin set.")
def detach_command(context: Context, *, link: str, force: bool) -> None:
    """Detach the program of LINK for good: a path, SET/HOOK, or id:N.

    Pins and processes keep the link, but it attaches nothing any more. The link of a pin set is
    refused without --force: bpfpin unload ends the whole set. Links of types such as perf_event and
    tracing cannot be detached, they end with their last holder.
    """
    row = detach_link(link, pin_root=context.pin_root, is_forced=force)
    context.out.show(Report({"result": "detached", "link": to_json(row)}))
    context.out.say(f"detached {_program(row)} from {row.place}: link {row.info.id}")
    if row.set_name:
        context.out.say(f"next: {shell_line('bpfpin status', row.set_name)}")
    for path in () if row.set_name else row.pins:
        context.out.say(f"its pin stays; to remove it: {shell_line('rm', path)}")


def to_json(row: LinkRow) -> dict[str, object]:
    """Return a link as it is in the documents of `link list` and `link show`."""
    info, place, program = row.info, row.place, row.program
    members: dict[str, object] = {
        "id": info.id,
        "type": type_word(info.type),
        "program": {
            "id": program.id,
            "name": program.name,
            "type": type_word(program.type),
        }
        if program
        else None,
        "hook": place.hook,
        "where": place.where,
        "defunct": not info.is_attached,
        "target": _target(row),
        "pins": list(row.pins),
        "set": row.set_name or None,
    }
    # Left out if they were not searched: an empty list would say that there is none.
    if row.processes is not None:
        members["processes"] = [
            {"pid": process.pid, "name": process.name} for process in row.processes
        ]
    return members


def _target(row: LinkRow) -> dict[str, object]:
    """Return the target in the kernel's numbers; members that the type does not have are left out.

    The name of a device or cgroup is that of the walk over the host.
    """
    info, device = row.info, row.place.device
    numbers = {
        "ifindex": info.ifindex,
        "cgroup_id": info.cgroup_id,
        "netns_inode": info.netns_inode,
        "map_id": info.map_id,
    }
    target: dict[str, object] = {key: value for key, value in numbers.items() if value is not None}
    if device is not None:
        target[device.kind.value] = device.name
    return target | dict(row.place.facts or {})


def _write_table(out: Output, rows: tuple[LinkRow, ...]) -> None:
    has_processes = any(row.processes is not None for row in rows)
    columns = (*COLUMNS, "processes") if has_processes else COLUMNS
    out.table(columns, [_cells(row) for row in rows], right=("id",))
    if not rows:
        out.say("no link matches")


def _cells(row: LinkRow) -> tuple[object, ...]:
    cells: tuple[object, ...] = (
        row.info.id,
        type_word(row.info.type),
        _program(row),
        str(row.place),
    )
    cells = (*cells, row.set_name or "-", " ".join(row.pins) or "-")
    if row.processes is None:
        return cells
    return (*cells, " ".join(f"{held.pid}:{held.name}" for held in row.processes) or "-")


def _program(row: LinkRow) -> str:
    if row.program is not None:
        return f"{row.program.id}:{row.program.name}"
    # A link of struct_ops has a map instead of a program.
    return str(row.info.program_id) if row.info.program_id else "-"


def _write(out: Output, row: LinkRow) -> None:
    for name, text in _facts(row):
        out.text(f"{name:<12} {text}")


def _facts(row: LinkRow) -> Iterator[tuple[str, object]]:
    yield "id", row.info.id
    yield "type", type_word(row.info.type)
    kind = f" ({type_word(row.program.type)})" if row.program else ""
    yield "program", f"{_program(row)}{kind}"
    yield "attached", row.place
    yield from _target(row).items()
    # A line each: names in bpffs may have spaces in them.
    for path in row.pins:
        yield "pin", path
    if row.set_name:
        yield "set", row.set_name
    for process in row.processes or ():
        yield "user", f"process {process.pid} ({process.name})"
    if not (row.pins or row.processes):
        yield "note", "no pin and no process in sight holds it"
