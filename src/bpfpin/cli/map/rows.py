"""Rows of a map as JSON, a batch at a time; plain numbers by a template, which is much quicker."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from bpfpin.cli.entry import value_text
from bpfpin.cli.failure import describe
from bpfpin.cli.output import SCHEMA, Output, escape, to_json
from bpfpin.maps.dump import Dump
from bpfpin.maps.entries import key_bytes

KEY_BYTES: Final = "key_bytes"
Row = tuple[Any, ...]
_INTEGER: Final = "%d"
_FORMULA: Final = ("=", "+", "-", "@", "'")  # tabs and line ends are written out before


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
