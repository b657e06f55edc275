"""`bpfpin map dump`: all entries of a map."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.formats import RECORDS, Report, Row, RowBatches, value_text
from bpfpin.cli.options import typing_options
from bpfpin.cli.output import Output, escape
from bpfpin.map.dump import Cpus, Dump, DumpOptions, key_bytes, open_dump
from bpfpin.map.open import Typing

KEY_BYTES: Final = "key_bytes"
_FORMULA: Final = ("=", "+", "-", "@", "'")  # tabs and line ends are escaped before
CSV = "csv"
# Values stay on the left: they are numbers, names and JSON in one column.
TO_THE_RIGHT = ("cpu",)
# Shown for a key whose padding is zero, when another key's is not.
ZEROS = "-"


def write_csv(out: Output, dump: Dump) -> None:
    """Write a column for each member of key and value: names first, then rows as they are read."""
    columns = dump.columns.all()
    out.piece(lines([[cell(column.name) for column in columns]]))
    for batch in dump.batches():
        out.piece(lines([cell(column.of(row)) for column in columns] for row in batch))


def lines(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as lines of CSV; cells with a comma or a quote are quoted."""
    text = io.StringIO()
    # The csv module would end lines in \r\n (RFC 4180), which other commands take for a character.
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def cell(value: Any) -> object:
    """Return *value* as a cell of CSV: text with escaped control characters, else JSON.

    Arrays are lists in JSON, bytes are `hex:0a00`, times are nanoseconds. Text that a spreadsheet
    would run as a formula, and text that begins with `'`, gets a leading `'`; remove that to get
    the text itself. Numbers stay numbers, negative ones too.
    """
    # Before the test for formulas, so that a negative number stays one.
    if not isinstance(value, str):
        return value_text(value)
    text = escape(value)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


@bpfpin_command("dump", outputs=(*RECORDS, CSV))
@click.argument("map_", metavar="MAP")
@click.option("--per-cpu", is_flag=True, help="One row for each CPU of a per-CPU map.")
@click.option(
    "--where",
    metavar="COND",
    multiple=True,
    help="Only entries that match: 'FIELD>5', >=, <, <=, =, !=, ~ (pattern); repeatable.",
)
@click.option("--sort", metavar="[-]FIELD", help="Sort by FIELD; with - in descending order.")
@click.option(
    "--top",
    metavar="N",
    type=click.IntRange(min=1),
    help="Only the first N entries, after sorting.",
)
@click.option("--raw", is_flag=True, help="Print numbers instead of names, addresses and times.")
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
    (key.src). Numbers of a per-CPU map are summed over the CPUs in tables, CSV and comparisons;
    JSON has a list with the number of each CPU. Other per-CPU values have one row for each CPU.

    With -o ndjson each entry is a document on its own line. All formats but tables are written
    while the map is read, so memory use does not grow with the map; --sort without --top keeps all
    entries in memory.
    """
    with ExitStack() as opened:
        # Opened by the writer that is used: JSON has all CPUs' values, tables and CSV their sum.
        def dump_of(cpus: Cpus) -> Dump:
            cpus = Cpus.EACH if per_cpu else cpus
            options = DumpOptions(where, sort, top, cpus, raw, Typing(**typing))
            return opened.enter_context(_opened(map_, options, context.out))

        context.out.show(
            Report(
                lambda: {"entries": _rows(dump_of(Cpus.LIST))},
                lambda out: _write_table(out, dump_of(Cpus.TOTAL)),
                records=lambda: _rows(dump_of(Cpus.LIST)),
                own={CSV: lambda out: write_csv(out, dump_of(Cpus.TOTAL))},
            )
        )


@contextmanager
def _opened(map_: str, options: DumpOptions, out: Output) -> Iterator[Dump]:
    """Open the dump of a map, and report keys with padding once it is written."""
    with open_dump(map_, options) as dump:
        yield dump
        # Linux 6.18 lets programs use keys on the stack with uninitialised padding: two keys with
        # equal members are then two entries (measured).
        if dump.stray_keys:
            out.say(
                f"{dump.stray_keys} of the keys read have padding that is not zero, so that several"
                " may look alike: the program does not clear its keys"
            )


def _rows(dump: Dump) -> RowBatches:
    return RowBatches((dump.names, _with_key_bytes(dump.names, batch)) for batch in dump.batches())


def _with_key_bytes(names: Sequence[str], batch: Sequence[Row]) -> Sequence[Any]:
    """Return *batch* with a member for the bytes of each key whose padding is not zero."""
    # The usual case keeps its tuples, which are written by a template.
    if all(key_bytes(row[0]) is None for row in batch):
        return batch
    return [
        {names[0]: row[0]}
        | ({} if (raw := key_bytes(row[0])) is None else {KEY_BYTES: raw})
        | dict(zip(names[1:], row[1:], strict=True))
        for row in batch
    ]


def _write_table(out: Output, dump: Dump) -> None:
    # A table needs all rows before the first line, for the widths of its columns.
    rows = [row for batch in dump.batches() for row in batch]
    cells = [tuple(map(value_text, row)) for row in rows]
    names = dump.names
    if dump.stray_keys:
        names = (*names, KEY_BYTES)
        cells = [
            (*shown, value_text(key_bytes(row[0]) or ZEROS))
            for shown, row in zip(cells, rows, strict=True)
        ]
    out.table(names, cells, right=TO_THE_RIGHT)
    if not rows:
        out.say("no entry matches" if dump.is_filtered else "the map is empty")
