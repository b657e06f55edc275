"""`bpfpin map dump`: all entries of a map."""

from __future__ import annotations

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.entry import value_text
from bpfpin.cli.map.entry import typing_options
from bpfpin.cli.map.rows import KEY_BYTES, write_csv, write_document, write_lines
from bpfpin.cli.output import JSON, NDJSON, TABLE
from bpfpin.maps.dump import Cpus, Dump, Selection, open_dump
from bpfpin.maps.entries import key_bytes
from bpfpin.maps.open import Typing

CSV = "csv"
TO_THE_RIGHT = ("cpu",)
ZEROS = "-"


@bpfpin_command("dump", outputs=(TABLE, JSON, NDJSON, CSV))
@click.argument("map_", metavar="MAP")
@click.option("--per-cpu", is_flag=True, help="A row for each CPU of a per-CPU map.")
@click.option(
    "--where",
    metavar="COND",
    multiple=True,
    help="Only entries like this: 'FIELD>5', >=, <, <=, =, !=, or ~ for a pattern; repeatable.",
)
@click.option("--sort", metavar="[-]FIELD", help="In this order; with - the greatest first.")
@click.option(
    "--top", metavar="N", type=click.IntRange(min=1), help="The first N, of --sort if there is one."
)
@click.option("--raw", is_flag=True, help="Numbers for names, no addresses or times.")
@typing_options()
def command(
    context: Context,
    /,
    *,
    map_: str,
    per_cpu: bool,
    where: tuple[str, ...],
    sort: str | None,
    top: int | None,
    raw: bool,
    **typing: str | None,
) -> None:
    """Print all entries of MAP: a path, id:N or name:NAME.

    FIELD is key, value, a member of the value (rx_packets, inner.b, ports[0]) or of the key
    (key.src). In a per-CPU map the numbers of all CPUs are added up in tables and CSV and where
    they are compared; JSON has the list of them. Other values of several CPUs have a row each.

    With -o ndjson each entry is a document on a line. All but tables are written while the map is
    read, so memory does not grow with it; --sort without --top keeps all entries.
    """
    out = context.out
    cpus = Cpus.LIST if out.is_json or out.is_ndjson else Cpus.TOTAL
    chosen = Selection(where, sort, top, Cpus.EACH if per_cpu else cpus, raw, Typing(**typing))
    with open_dump(map_, chosen) as dump:
        if out.is_json:
            write_document(out, dump.names, dump.batches(), words=context.words)
        elif out.is_ndjson:
            write_lines(out, dump.names, dump.batches())
        elif out.kind == CSV:
            write_csv(out, dump)
        else:
            _table(context, dump)
        if dump.stray_keys:
            out.say(
                f"{dump.stray_keys} of the keys read have padding that is not zero, so that several"
                " may read alike: the program does not clear its keys"
            )


def _table(context: Context, dump: Dump) -> None:
    rows = [row for batch in dump.batches() for row in batch]
    cells = [tuple(map(value_text, row)) for row in rows]
    names = dump.names
    if dump.stray_keys:
        names = (*names, KEY_BYTES)
        cells = [
            (*shown, value_text(key_bytes(row[0]) or ZEROS))
            for shown, row in zip(cells, rows, strict=True)
        ]
    context.out.table(names, cells, right=TO_THE_RIGHT)
    if not rows:
        context.out.say("no entry meets the conditions" if dump.is_filtered else "the map is empty")
