"""`bpfpin map dump`: all entries of a map."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.entry import value_text
from bpfpin.cli.failure import describe
from bpfpin.cli.map.entry import typing_options
from bpfpin.cli.output import JSON, NDJSON, SCHEMA, TABLE, Output, escape, to_json
from bpfpin.map.dump import Cpus, Dump, Selection, open_dump
from bpfpin.map.entries import key_bytes
from bpfpin.map.open import Typing

KEY_BYTES: Final = "key_bytes"
Row = tuple[Any, ...]
_INTEGER: Final = "%d"
_FORMULA: Final = ("=", "+", "-", "@", "'")  # tabs and line ends are written out before
CSV = "csv"
TO_THE_RIGHT = ("cpu",)
ZEROS = "-"


# Rows of a map as JSON, a batch at a time; plain numbers by a template, which is much quicker.


def write_document(
    out: Output, names: Sequence[str], batches: Iterable[Sequence[Row]], *, words: Sequence[str]
) -> None:
    """Write one document with all rows, in pieces; *words* are those that were typed.

    Whatever ends it early closes the document with an "error", and is raised. What fails before the
    first rows has a document to itself, as any failure.
    """
    found = iter(batches)
    first = next(found, None)
    out.piece(f'{{"schema": {SCHEMA}, "entries": [')
    try:
        if first is not None:
            out.piece(", ".join(json_rows(names, first)))
        for batch in found:
            out.piece(", " + ", ".join(json_rows(names, batch)))
    except BrokenPipeError:
        raise
    except BaseException as error:
        told = to_json(describe(error, words=words).document())
        out.piece(f"], {told[1:]}\n")
        raise
    out.piece("]}\n")


def write_lines(out: Output, names: Sequence[str], batches: Iterable[Sequence[Row]]) -> None:
    """Write a document a row, each on a line."""
    head = f'{{"schema": {SCHEMA}, '
    for batch in batches:
        out.piece("".join(f"{head}{row[1:]}\n" for row in json_rows(names, batch)))


def json_rows(names: Sequence[str], batch: Sequence[Row]) -> list[str]:
    """Return each row as a JSON object with these names.

    The rows of a map are alike: where one has an integer, the others have one too, or a name.
    """
    form = _template(names, batch[0])
    flat = _FLAT.get(tuple(isinstance(part, dict) for part in batch[0]))
    if any(key_bytes(row[0]) is not None for row in batch):
        return [to_json(_with_bytes(names, row)) for row in batch]
    if form and flat:
        try:
            return [form % row for row in flat(batch)]
        except TypeError:  # a name among the numbers of an enumeration
            pass
    return [to_json(dict(zip(names, row, strict=True))) for row in batch]


def _with_bytes(names: Sequence[str], row: Row) -> dict[str, Any]:
    """Return the row with the bytes of a key whose padding is not zero."""
    raw = key_bytes(row[0])
    more = {} if raw is None else {KEY_BYTES: raw}
    return {names[0]: row[0], **more, **dict(zip(names[1:], row[1:], strict=True))}


# Rows of numbers, by which of their parts are structures.
_FLAT: Final[dict[tuple[bool, ...], Callable[[Sequence[Row]], Sequence[Row]]]] = {
    (False, False): lambda batch: batch,
    (False, True): lambda batch: [(key, *value.values()) for key, value in batch],
    (True, False): lambda batch: [(*key.values(), value) for key, value in batch],
    (True, True): lambda batch: [(*key.values(), *value.values()) for key, value in batch],
}


def _template(names: Sequence[str], row: Row) -> str | None:
    """Return how rows like this one are formatted, None if there is more in it than integers."""
    parts = [_form(part) for part in row]
    if None in parts:
        return None
    return _object(zip(names, parts, strict=True))


def _form(value: Any) -> str | None:
    if _is_integer(value):
        return _INTEGER
    if isinstance(value, dict) and value and all(map(_is_integer, value.values())):
        return _object((name, _INTEGER) for name in value)
    return None


def _object(members: Iterable[tuple[str, str | None]]) -> str:
    return "{" + ", ".join(f"{_quoted(name)}: {form}" for name, form in members) + "}"


def _quoted(name: str) -> str:
    return to_json(name).replace("%", "%%")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# Rows of a map as CSV: a line each, a column for each member of key and value.
def write_csv(out: Output, dump: Dump) -> None:
    """Write the names of the columns, then all rows, a batch at a time."""
    columns = dump.columns.all()
    out.piece(lines([[cell(column.name) for column in columns]]))
    for batch in dump.batches():
        out.piece(lines([cell(column.of(row)) for column in columns] for row in batch))


def lines(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as lines of CSV; what has a comma or a quote in it is quoted."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def cell(value: Any) -> object:
    """Return text without what could steer a terminal, all else as JSON has it.

    An array is a list in JSON, bytes are `hex:0a00`, times are nanoseconds. Text that a spreadsheet
    would run as a formula is preceded by `'`, and so is text that begins with one: to have the text
    itself, take one leading `'` away. Numbers stay numbers, negative ones too.
    """
    if not isinstance(value, str):
        return value_text(value)
    text = escape(value)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


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
