"""Rows of a map as CSV: a line each, a column for each member of key and value."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, Final

from bpfpin.apps.maps.dump import Dump
from bpfpin.cli.entry import value_text
from bpfpin.cli.output import Output, escape

_FORMULA: Final = ("=", "+", "-", "@", "'")  # tabs and line ends are written out before


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
