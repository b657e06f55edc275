"""What a command writes: data on stdout in the form that was asked for, talk on stderr.

With `-o json` stdout is exactly one document, with `-o ndjson` a document a line; each carries
`"schema": 1`. Text that came from outside (pin names, kernel logs) is escaped before a terminal
sees it.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TextIO

from bpfpin.errors import BpfError

if TYPE_CHECKING:
    from rich.console import Console

TABLE = "table"
JSON = "json"
NDJSON = "ndjson"
SCHEMA = 1
_GAP = "  "  # between two columns of a table


class Terminated(BaseException):
    """SIGTERM came; like `KeyboardInterrupt`, so that everything rolls back on its way out."""


class Color(Enum):
    """When to colour, as it is typed after `--color`."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


def escape(text: str) -> str:
    r"""Return *text* with all that could steer a terminal written out, as `\x1b` or `\u202e`."""
    return text if text.isprintable() else "".join(map(_escape_character, text))


def escape_lines(text: str) -> str:
    """Like `escape`, but line ends stay and tabs become spaces: for text of several lines."""
    return "\n".join(escape(line.expandtabs()) for line in text.split("\n"))


def _escape_character(character: str) -> str:
    code = ord(character)
    if character.isprintable():
        return character
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8, as os.fsdecode() keeps it
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def _plain(value: object) -> object:
    """Say in JSON's words what JSON has no word for."""
    if isinstance(value, bytes | bytearray | memoryview):
        return f"hex:{bytes(value).hex()}"
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def to_json(value: object) -> str:
    r"""Return *value* as one line of JSON; bytes as `hex:0a00`, paths and enums by their value.

    Any reader of JSON takes it: a byte of a text that is no UTF-8 is written `\xff`, a backslash
    that would look like the start of one `\x5c`, a float that is no number as the text `NaN`,
    `Infinity` or `-Infinity`. `map set` takes all of these.
    """
    import json  # noqa: PLC0415 - `bpfpin --version` stays quick

    try:
        text = json.dumps(value, default=_plain, allow_nan=False)
    except ValueError:  # NaN and the infinities, for which JSON has no numbers
        return json.dumps(_strict(value))
    return json.dumps(_strict(value)) if any(mark in text for mark in _NOT_STRICT) else text


# What a surrogate and a text that looks like an escaped byte are in the output of `json`.
_NOT_STRICT = ("\\ud", "\\\\x")


def _strict(value: object) -> object:
    """Return *value* with all texts and numbers as every reader of JSON takes them."""
    from bpfpin.map.form import escaped  # noqa: PLC0415 - as above

    if isinstance(value, str):
        return escaped(value)
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else _INFINITE.get(value, "NaN")
    if isinstance(value, Mapping):
        return {
            escaped(key) if isinstance(key, str) else key: _strict(one)
            for key, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [_strict(one) for one in value]
    return _strict(_plain(value))


_INFINITE = {math.inf: "Infinity", -math.inf: "-Infinity"}


class Output:
    """The two streams of one command, and the form that was asked for (`table`, `json` …)."""

    def __init__(
        self,
        kind: str = TABLE,
        *,
        color: Color = Color.AUTO,
        is_quiet: bool = False,
        is_verbose: bool = False,
    ) -> None:
        self.kind = kind
        self.color = color
        self.is_quiet = is_quiet
        self.is_verbose = is_verbose
        self.has_document = False

    @property
    def is_json(self) -> bool:
        """Whether stdout carries one JSON document."""
        return self.kind == JSON

    @property
    def is_ndjson(self) -> bool:
        """Whether stdout carries a JSON document a line."""
        return self.kind == NDJSON

    @property
    def is_live(self) -> bool:
        """Whether stdout is a terminal that a table may be redrawn on."""
        return self.kind == TABLE and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"

    def document(self, content: Mapping[str, Any]) -> None:
        """Write *content* as one JSON document on a line of its own."""
        self.has_document = True
        self.line(to_json({"schema": SCHEMA, **content}))

    def line(self, text: str = "") -> None:
        """Write a line of data that is safe already; it is seen at once, also in a pipe."""
        self._write(text + "\n")

    def piece(self, text: str) -> None:
        """Write a part of a long document, as it is; whoever begins one also ends it."""
        self.has_document = True
        self._write(text)

    def _write(self, text: str) -> None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise BpfError(f"stdout cannot be written: {error.strerror}") from None

    def text(self, text: str) -> None:
        """Write lines of data, escaped."""
        self.line(escape_lines(text))

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = ()
    ) -> None:
        """Write a table as columns parted by spaces, in a terminal not wider than that.

        The columns named in *right* are numbers and stand to the right. No word and no number is
        broken: cells wrap at spaces, and a column without room goes below its row.
        """
        cells = [[escape(str(cell)) for cell in row] for row in rows]
        to_right = [column in set(right) for column in columns]
        header, *lines = table_lines(columns, cells, to_right, self.width)
        bold = self._is_colored(sys.stdout)
        self.line("\n".join([f"\x1b[1m{header}\x1b[0m" if bold else header, *lines]))

    @property
    def width(self) -> int | None:
        """How many columns lines of data may have: a terminal's; None in a pipe: no limit.

        $BPFPIN_COLUMNS sets it for both. Not $COLUMNS: what reads a pipe wants a row on a line.
        """
        if (asked := os.environ.get("BPFPIN_COLUMNS", "")).isdecimal():
            return int(asked)
        return shutil.get_terminal_size().columns if sys.stdout.isatty() else None

    def console(self) -> Console:
        """Return rich's console on stdout; markup, emoji and highlighting are off."""
        from rich.console import Console  # noqa: PLC0415 - 40 ms, only where a table is drawn

        forced = True if self.color is Color.ALWAYS else None
        return Console(
            markup=False,
            emoji=False,
            highlight=False,
            force_terminal=forced,
            no_color=True if self.color is Color.NEVER else None,
        )

    def say(self, text: str) -> None:
        """Tell the user what happened, on stderr; silent with `-q`."""
        if not self.is_quiet:
            self._talk(text)

    def detail(self, text: str) -> None:
        """Tell on stderr what only `-v` wants to hear."""
        if self.is_verbose:
            self._talk(text)

    def complain(self, text: str, *, hint: str = "") -> None:
        """Write an error on stderr; neither `-q` nor a pipe silences it."""
        self._talk(f"{self._red('bpfpin:')} {escape_lines(text)}", is_escaped=True)
        if hint:
            self._talk(f"hint: {hint}")

    def _talk(self, text: str, *, is_escaped: bool = False) -> None:
        with contextlib.suppress(OSError):  # a full disk: the exit code still says it
            sys.stderr.write((text if is_escaped else escape_lines(text)) + "\n")
            sys.stderr.flush()

    def _red(self, text: str) -> str:
        return f"\x1b[1;31m{text}\x1b[0m" if self._is_colored(sys.stderr) else text

    def _is_colored(self, stream: TextIO) -> bool:
        if self.color is Color.AUTO:
            return stream.isatty() and "NO_COLOR" not in os.environ
        return self.color is Color.ALWAYS


def table_lines(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    to_right: Sequence[bool],
    width: int | None = None,
) -> list[str]:
    """Return the lines of a table, its header first, none longer than *width* where words allow."""
    least = [max(_longest_word(cell) for cell in column) for column in _columns(columns, rows)]
    kept = list(range(len(columns)))
    while width and len(kept) > 1 and _total(least[n] for n in kept) > width:
        kept.remove(max(kept[1:], key=lambda number: least[number]))
    widths = [max(map(len, column)) for column in _columns(columns, rows)]
    while width and _total(widths[n] for n in kept) > width:
        widest = max(kept, key=lambda number: widths[number] - least[number])
        if widths[widest] == least[widest]:
            break  # a word that is wider than the terminal
        widths[widest] -= 1
    below = [number for number in range(len(columns)) if number not in kept]
    lines = list(_row_lines(columns, kept, widths, to_right))
    for row in rows:
        lines += _row_lines(row, kept, widths, to_right)
        lines += _lines_below(columns, row, below, width)
    return lines


def _columns(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[Sequence[str]]:
    return zip(columns, *rows, strict=True)


def _total(widths: Iterable[int]) -> int:
    every = list(widths)
    return sum(every) + len(_GAP) * (len(every) - 1)


def _longest_word(cell: str) -> int:
    return max(map(len, cell.split()), default=0)


def _row_lines(
    row: Sequence[str], kept: Sequence[int], widths: Sequence[int], to_right: Sequence[bool]
) -> Iterator[str]:
    """Yield the lines of one row; a cell that is wrapped makes several."""
    wrapped = [_wrapped(row[number], widths[number]) for number in kept]
    for parts in itertools.zip_longest(*wrapped, fillvalue=""):
        padded = [
            part.rjust(widths[number]) if to_right[number] else part.ljust(widths[number])
            for part, number in zip(parts, kept, strict=True)
        ]
        yield _GAP.join(padded).rstrip()


def _lines_below(
    columns: Sequence[str], row: Sequence[str], below: Sequence[int], width: int | None
) -> Iterator[str]:
    for number in below:
        if row[number].strip(" -"):
            start = f"    {columns[number]}: "
            first, *more = _wrapped(row[number], (width or 0) - len(start))
            yield start + first
            yield from (f"      {line}" for line in more)


def _wrapped(cell: str, width: int) -> list[str]:
    if len(cell) <= width:
        return [cell]
    return textwrap.wrap(cell, max(width, 1), break_long_words=False, break_on_hyphens=False) or [
        ""
    ]
