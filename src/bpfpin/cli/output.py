"""The streams of a command: data on stdout, messages on stderr.

Text from outside (pin names, kernel logs) is escaped before a terminal sees it. The formats of
stdout are in `bpfpin.cli.formats`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, TextIO

from bpfpin.cli.formats import FORMATS, TABLE, OutputFormat, Report
from bpfpin.errors import BpfError

if TYPE_CHECKING:
    from rich.console import Console

_GAP = "  "  # between two columns of a table
# A line to type that names sets, or maps of sets, but not one that is complete (`sudo_hint`).
_LINE = re.compile(
    r"(?<![\w./-])(?<!-m )bpfpin"
    r"(?= (?:(?:action|clean|confirm|doctor|graph|load|stats|status|unload)\b"
    r"|(?:link|map) [a-z]+(?: --?[a-z-]+)* (?!id:|name:|'?/)[^\s/;,]+/))"
)
# The members of a document whose texts have lines to type.
_ADVICE = frozenset({"fix", "hint", "message", "note", "notes"})


class Terminated(BaseException):
    """SIGTERM arrived; like `KeyboardInterrupt` not an `Exception`, so that changes roll back."""


class Color(Enum):
    """The values of `--color`."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


def escape(text: str) -> str:
    r"""Return *text* with control and format characters written as `\x1b` or `\u202e`."""
    # bpffs takes any byte but NUL, `/` and `.` in a name, ESC and newlines too. A terminal would
    # obey them.
    return text if text.isprintable() else "".join(map(_escape_character, text))


def escape_lines(text: str) -> str:
    """Escape text of several lines: line ends stay, tabs become spaces."""
    return "\n".join(escape(line.expandtabs()) for line in text.split("\n"))


def _escape_character(character: str) -> str:
    code = ord(character)
    if character.isprintable():
        return character
    if 0xDC80 <= code <= 0xDCFF:  # os.fsdecode() of a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


class Output:
    """The two streams of one command, and the output format that was asked for."""

    def __init__(
        self,
        format_name: str = TABLE,
        *,
        color: Color = Color.AUTO,
        is_quiet: bool = False,
        is_verbose: bool = False,
        place: Mapping[str, str] | None = None,
    ) -> None:
        """Write for a command with the options *place*, which say where its sets are.

        They are put into the lines that messages tell the user to type.
        """
        self._place = place or {}
        # An unknown name may be a format of one verb, such as csv; `check_format` refuses all
        # others.
        self.format: OutputFormat = FORMATS.get(format_name, OutputFormat)(format_name, self)
        self.color = color
        self.is_quiet = is_quiet
        self.is_verbose = is_verbose

    def show(self, report: Report) -> None:
        """Write *report* in the format that was asked for."""
        self.format.show(report)

    def typed(self, text: str) -> str:
        """Return *text* with the place of the sets in each of its lines to type."""
        if not self._place:
            return text
        import shlex  # noqa: PLC0415 - few have another pin root

        def placed(line: re.Match[str]) -> str:
            rest = re.split("[;\n]", text[line.end() :], maxsplit=1)[0]
            options = [
                f"{name} {shlex.quote(value)}"
                for name, value in self._place.items()
                if f" {name} " not in rest
            ]
            return " ".join(["bpfpin", *options])

        return _LINE.sub(placed, text)

    def typed_in(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return *document* with the place of the sets in the lines to type of its advice."""
        return self._in(document) if self._place else document

    def _in(self, value: Any, *, is_advice: bool = False) -> Any:
        if isinstance(value, str):
            return self.typed(value) if is_advice else value
        if isinstance(value, Mapping):
            return {key: self._in(item, is_advice=key in _ADVICE) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._in(item, is_advice=is_advice) for item in value]
        return value

    def fail(self, error: Mapping[str, Any], message: str, *, hint: str = "") -> None:
        """Write a failure: *error* as the format has it, *message* and *hint* to stderr."""
        with contextlib.suppress(BpfError):  # stdout may be what failed
            self.format.fail(self.typed_in(error))
        self.complain(message, hint=hint)

    @property
    def is_live(self) -> bool:
        """Whether stdout is a terminal that text may be redrawn on."""
        return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"

    def line(self, text: str = "") -> None:
        """Write a line of data that is already escaped, and flush it."""
        self._write(text + "\n")

    def piece(self, text: str) -> None:
        """Write a part of a long document unchanged, and flush it."""
        self._write(text)

    def _write(self, text: str) -> None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            # Not a failure: `main` ends quietly when the reader has gone.
            raise
        except OSError as error:
            raise BpfError(f"stdout cannot be written: {error.strerror}") from None

    def text(self, text: str) -> None:
        """Write lines of data, escaped."""
        self.line(escape_lines(text))

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = ()
    ) -> None:
        """Write a table whose columns are separated by spaces; on a terminal it fits the width.

        The columns named in *right* are right-aligned. Words and numbers are never broken: cells
        wrap at spaces, and a column without room goes below its row.
        """
        # Escaped before anything is measured: an escape takes more columns than its character.
        cells = [[escape(str(cell)) for cell in row] for row in rows]
        to_right = [column in set(right) for column in columns]
        header, *lines = table_lines(columns, cells, to_right, self.width)
        bold = self._is_colored(sys.stdout)
        self.line("\n".join([f"\x1b[1m{header}\x1b[0m" if bold else header, *lines]))

    @property
    def width(self) -> int | None:
        """The maximum length of a line of data: that of the terminal; None, no limit, in a pipe.

        $BPFPIN_COLUMNS overrides both. $COLUMNS does not: the reader of a pipe expects one row on
        one line.
        """
        if (asked := os.environ.get("BPFPIN_COLUMNS", "")).isdecimal():
            return int(asked)
        if not sys.stdout.isatty():
            return None
        import shutil  # noqa: PLC0415 - pulls in three compressors; only on terminals

        return shutil.get_terminal_size().columns

    def console(self) -> Console:
        """Return a rich console on stdout, without markup, emoji and highlighting."""
        from rich.console import Console  # noqa: PLC0415 - 40 ms, only where a table is drawn

        # None lets rich look itself, as we do: at the terminal and at NO_COLOR.
        forced = True if self.color is Color.ALWAYS else None
        return Console(
            markup=False,
            emoji=False,
            highlight=False,
            force_terminal=forced,
            no_color=True if self.color is Color.NEVER else None,
        )

    def say(self, text: str) -> None:
        """Write a message to stderr, except with `-q`."""
        if not self.is_quiet:
            self._talk(text)

    def detail(self, text: str) -> None:
        """Write a message to stderr with `-v` only."""
        if self.is_verbose:
            self._talk(text)

    def complain(self, text: str, *, hint: str = "") -> None:
        """Write an error to stderr, also with `-q`."""
        self._talk(f"{self._red('bpfpin:')} {escape_lines(text)}", is_escaped=True)
        if hint:
            self._talk(f"hint: {hint}")

    def _talk(self, text: str, *, is_escaped: bool = False) -> None:
        text = self.typed(text)
        with contextlib.suppress(OSError):  # the disk may be full; the exit code is not lost
            sys.stderr.write((text if is_escaped else escape_lines(text)) + "\n")
            sys.stderr.flush()

    def _red(self, text: str) -> str:
        return f"\x1b[1;31m{text}\x1b[0m" if self._is_colored(sys.stderr) else text

    def _is_colored(self, stream: TextIO) -> bool:
        if self.color is Color.AUTO:
            # An empty variable counts as none: https://no-color.org.
            return stream.isatty() and not os.environ.get("NO_COLOR")
        return self.color is Color.ALWAYS


def table_lines(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    to_right: Sequence[bool],
    width: int | None = None,
) -> list[str]:
    """Return the lines of a table, header first, not longer than *width* if its words fit."""
    # Three steps. First, take out whole columns until the longest words of the others fit.
    least = [max(_longest_word(cell) for cell in column) for column in _columns(columns, rows)]
    kept = list(range(len(columns)))
    while width and len(kept) > 1 and _total(least[n] for n in kept) > width:
        # The first column names the row, so it always keeps its place.
        kept.remove(max(kept[1:], key=lambda number: least[number]))
    # Second, narrow the column with the most room, a character at a time.
    widths = [max(map(len, column)) for column in _columns(columns, rows)]
    while width and _total(widths[n] for n in kept) > width:
        widest = max(kept, key=lambda number: widths[number] - least[number])
        if widths[widest] == least[widest]:
            break  # a word is wider than the terminal
        widths[widest] -= 1
    # Third, the columns without room go below their rows.
    below = [number for number in range(len(columns)) if number not in kept]
    lines = list(_row_lines(columns, kept, widths, to_right))
    for row in rows:
        lines += _row_lines(row, kept, widths, to_right)
        lines += _lines_below(columns, row, below, width)
    return lines


def _columns(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[Sequence[str]]:
    return zip(columns, *rows, strict=True)


def _total(widths: Iterable[int]) -> int:
    column_widths = list(widths)
    return sum(column_widths) + len(_GAP) * (len(column_widths) - 1)


def _longest_word(cell: str) -> int:
    return max(map(len, cell.split()), default=0)


def _row_lines(
    row: Sequence[str], kept: Sequence[int], widths: Sequence[int], to_right: Sequence[bool]
) -> Iterator[str]:
    """Yield the lines of one row: several if a cell is wrapped."""
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
    import textwrap  # noqa: PLC0415 - only for long cells

    return textwrap.wrap(cell, max(width, 1), break_long_words=False, break_on_hyphens=False) or [
        ""
    ]
