"""Reports of verbs, and the output formats that they are written in.

A verb hands a `Report` to `Output.show` and does not know the format. A new format is a class here
and its row in `FORMATS`: the class says which kinds of results it can write, and so which verbs
have it (`DOCUMENT`, `RECORDS` …).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from bpfpin.cli.output import Output
    from bpfpin.map.entries import MapEntry

SCHEMA: Final = 1
TABLE: Final = "table"
JSON: Final = "json"
NDJSON: Final = "ndjson"

_INTEGER: Final = "%d"
# What a surrogate and a text that looks like an escaped byte are in the output of `json`.
_NOT_STRICT: Final = ("\\ud", "\\\\x")
_INFINITE: Final = {math.inf: "Infinity", -math.inf: "-Infinity"}

Row = tuple[Any, ...]
Document = Mapping[str, Any]
# Beginnings that `map set` reads as JSON or as bytes: such a text has to be quoted.
_MARKS: Final = ('"', "{", "[", "hex:")


class ResultKind(Enum):
    """What a verb reports, which decides its formats."""

    TEXT = "text alone"
    DOCUMENT = "one result"
    RECORDS = "many results, which may also be one document"
    STREAM = "results without end"


class Report:
    """The result of a verb: its data, and how it is written for people.

    The parts that a format does not ask for are not made: each may be a function that opens what it
    reads.
    """

    def __init__(
        self,
        data: Document | Callable[[], Document],
        text: Callable[[Output], None] | None = None,
        *,
        records: Callable[[], Iterable[Document]] | None = None,
        own: Mapping[str, Callable[[Output], None]] | None = None,
    ) -> None:
        """Describe a result.

        Args:
            data: The content of the one document, or a function that returns it; its last member
                may be `RowBatches`.
            text: Writes the result for people. None: the verb says all of it on stderr.
            records: Returns the documents of a format with a document a line.
            own: Writers of the formats that only this verb has, by their names.
        """
        self._data = data
        self.text = text
        self.records = records
        self.own = own or {}

    def document(self) -> Document:
        """Return the content of the one document."""
        return self._data() if callable(self._data) else self._data


class RowBatches(Iterable[Document]):
    """Rows with the same members, in batches, written as they are read.

    A batch is the names of the members and the rows, as tuples or as mappings.
    """

    def __init__(self, batches: Iterable[tuple[Sequence[str], Sequence[Any]]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Document]:
        """Yield each row by the names of its members."""
        for names, batch in self._batches:
            for row in batch:
                yield row if isinstance(row, Mapping) else dict(zip(names, row, strict=True))

    def json(self) -> Iterator[list[str]]:
        """Yield the rows of each batch as JSON objects."""
        for names, batch in self._batches:
            yield json_rows(names, batch)


class OutputFormat:
    """An output format: how it writes reports and failures.

    Formats that are not in `FORMATS` belong to one verb, whose report has their writer.

    Attributes:
        writes: The kinds of results that it is a format for.
    """

    writes: ClassVar[frozenset[ResultKind]] = frozenset()

    def __init__(self, name: str, out: Output) -> None:
        self.name = name
        self.out = out

    def show(self, report: Report) -> None:
        """Write *report* to stdout."""
        report.own[self.name](self.out)

    def fail(self, error: Document) -> None:
        """Write the document of a failure; formats for people have none."""


class TextFormat(OutputFormat):
    """Text and tables for people."""

    writes = frozenset(ResultKind)

    def show(self, report: Report) -> None:
        """Write the text of *report*, if it has any on stdout."""
        if report.text:
            report.text(self.out)


class JsonFormat(OutputFormat):
    """One JSON document, also for a failure."""

    writes = frozenset({ResultKind.DOCUMENT, ResultKind.RECORDS})

    def __init__(self, name: str, out: Output) -> None:
        super().__init__(name, out)
        self._is_begun = False
        self._has_open_rows = False

    def show(self, report: Report) -> None:
        """Write the document of *report*; rows as they are read."""
        content = {"schema": SCHEMA, **self.out.typed_in(report.document())}
        # Rows come last in a document, so everything before them is written first and once.
        name, last = list(content.items())[-1]
        if isinstance(last, RowBatches):
            del content[name]
            self._write_rows(f"{to_json(content)[:-1]}, {to_json(name)}: [", last)
        else:
            self._is_begun = True
            self.out.line(to_json(content))

    def _write_rows(self, head: str, rows: RowBatches) -> None:
        """Write a document in pieces.

        A failure before the first batch has a document of its own; a later one closes this one.
        """
        batches = rows.json()
        # Read before the head is written: if the map cannot be read at all, the only document is
        # the error.
        first = next(batches, None)
        self._is_begun = self._has_open_rows = True
        self.out.piece(head)
        if first is not None:
            self.out.piece(", ".join(first))
        for batch in batches:
            self.out.piece(", " + ", ".join(batch))
        self._has_open_rows = False
        self.out.piece("]}\n")

    def fail(self, error: Document) -> None:
        """Write *error* as the document, or into the document whose rows it ended."""
        if self._has_open_rows:
            self._has_open_rows = False
            self.out.piece(f"], {to_json(error)[1:]}\n")
        elif not self._is_begun:
            self.out.line(to_json({"schema": SCHEMA, **error}))


class NdjsonFormat(OutputFormat):
    """A JSON document a line."""

    writes = frozenset({ResultKind.RECORDS, ResultKind.STREAM})

    def show(self, report: Report) -> None:
        """Write the records of *report* as they come."""
        records = report.records() if report.records else [report.document()]
        if not isinstance(records, RowBatches):
            for record in records:
                self.out.line(to_json({"schema": SCHEMA, **record}))
            return
        head = f'{{"schema": {SCHEMA}, '
        for batch in records.json():
            self.out.piece("".join(f"{head}{row[1:]}\n" for row in batch))

    def fail(self, error: Document) -> None:
        """Write *error* as the last line."""
        self.out.line(to_json({"schema": SCHEMA, **error}))


FORMATS: Final[Mapping[str, type[OutputFormat]]] = {
    TABLE: TextFormat,
    JSON: JsonFormat,
    NDJSON: NdjsonFormat,
}


def _formats_for(kind: ResultKind) -> tuple[str, ...]:
    return tuple(name for name, format_ in FORMATS.items() if kind in format_.writes)


# The formats of a verb, by what it reports.
TEXT: Final = _formats_for(ResultKind.TEXT)
DOCUMENT: Final = _formats_for(ResultKind.DOCUMENT)
RECORDS: Final = _formats_for(ResultKind.RECORDS)
STREAM: Final = _formats_for(ResultKind.STREAM)


def to_json(value: object) -> str:
    r"""Return *value* as one line of JSON; bytes as `hex:0a00`, paths and enums by their value.

    Every JSON parser reads it: a byte of a text that is not UTF-8 is written `\xff`, a backslash
    that would look like the start of such a byte `\x5c`, and a float without a number as the text
    `NaN`, `Infinity` or `-Infinity`. `map set` reads all of these.
    """
    import json  # noqa: PLC0415 - not for tables

    try:
        text = json.dumps(value, default=_plain, allow_nan=False)
    except ValueError:  # NaN and the infinities, for which JSON has no numbers
        return json.dumps(_strict(value))
    return json.dumps(_strict(value)) if any(mark in text for mark in _NOT_STRICT) else text


def _plain(value: object) -> object:
    """Return a value that JSON has a type for."""
    if isinstance(value, bytes | bytearray | memoryview):
        return f"hex:{bytes(value).hex()}"
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _strict(value: object) -> object:
    """Return *value* with all texts and numbers in a form that every JSON parser reads."""
    from bpfpin.map.form import escaped  # noqa: PLC0415 - only for such texts and numbers

    if isinstance(value, str):
        return escaped(value)
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else _INFINITE.get(value, "NaN")
    if isinstance(value, Mapping):
        return {
            escaped(key) if isinstance(key, str) else key: _strict(member)
            for key, member in value.items()
        }
    if isinstance(value, list | tuple):
        return [_strict(element) for element in value]
    return _strict(_plain(value))


def json_rows(names: Sequence[str], batch: Sequence[Any]) -> list[str]:
    """Return each row as a JSON object with these names.

    Rows of plain numbers are written by a template, which is several times quicker than `json`. The
    rows of a map are alike: where the first has an integer, the others have an integer or a name.
    """
    if isinstance(batch[0], Mapping):
        return [to_json(row) for row in batch]
    template = _template(names, batch[0])
    flat = _FLAT.get(tuple(isinstance(part, dict) for part in batch[0]))
    if template and flat:
        try:
            return [template % row for row in flat(batch)]
        except TypeError:  # a name among the numbers of an enumeration
            pass
    return [to_json(dict(zip(names, row, strict=True))) for row in batch]


# Rows of numbers, by which of their parts are structures.
_FLAT: Final[dict[tuple[bool, ...], Callable[[Sequence[Row]], Sequence[Row]]]] = {
    (False, False): lambda batch: batch,
    (False, True): lambda batch: [(key, *value.values()) for key, value in batch],
    (True, False): lambda batch: [(*key.values(), value) for key, value in batch],
    (True, True): lambda batch: [(*key.values(), *value.values()) for key, value in batch],
}


def _template(names: Sequence[str], row: Row) -> str | None:
    """Return the format string of rows like *row*; None if they have more than integers."""
    parts = [_part_template(part) for part in row]
    if None in parts:
        return None
    return _object(zip(names, parts, strict=True))


def _part_template(value: Any) -> str | None:
    if _is_integer(value):
        return _INTEGER
    if isinstance(value, dict) and value and all(map(_is_integer, value.values())):
        return _object((name, _INTEGER) for name in value)
    return None


def _object(members: Iterable[tuple[str, str | None]]) -> str:
    return "{" + ", ".join(f"{_quoted(name)}: {template}" for name, template in members) + "}"


def _quoted(name: str) -> str:
    return to_json(name).replace("%", "%%")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def value_text(value: Any) -> str:
    """Return a key or a value as text that `map set` reads: `5`, `hex:0a00`, `PASS`, JSON."""
    if isinstance(value, str) and _is_word(value):
        return value
    text = to_json(value)
    # `hex:0a00` is unambiguous without the quotes of JSON.
    return text[1:-1] if isinstance(value, bytes) else text


def _is_word(text: str) -> bool:
    """Whether `map set` reads *text* as itself, and a terminal shows all of it."""
    from bpfpin.map.form import is_escaped  # noqa: PLC0415 - only for texts of maps

    # Spaces around a word would get lost when it is copied from a table.
    is_plain = bool(text) and text.isprintable() and text.strip() == text
    return is_plain and not text.startswith(_MARKS) and not is_escaped(text)


def value_lines(entry: MapEntry) -> list[str]:
    """Return the value of an entry; one line for each CPU of a per-CPU map."""
    if not entry.is_percpu:
        return [value_text(entry.value)]
    return [f"cpu {cpu}: {value_text(value)}" for cpu, value in entry.by_cpu]
