"""The lines of C that a program's instructions come from, as its object says."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from bpfpin.btf.btf import Btf
from bpfpin.errors import ObjectFileError
from bpfpin.objects.verifier.attempt import printable
from bpfpin.spec import LineInfo

_LINE_SHIFT = 10
_TEXT_LIMIT = 500


@dataclass(frozen=True, slots=True)
class Place:
    """A line of C: *file* as the compiler was given it, *line* counted from 1, its *text*."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Places:
    """Answers which line of C an instruction comes from; nothing without *types*."""

    def __init__(self, lines: Sequence[LineInfo] = (), types: Btf | None = None) -> None:
        self._lines = lines if types is not None else ()
        self._types = types

    def at(self, index: int) -> Place | None:
        """Return the place of instruction *index*, None if the object does not say it.

        What the compiler made without a line of its own belongs to the line before.
        """
        position = bisect_right(self._lines, index, key=lambda line: line.index)
        for line in reversed(self._lines[:position]):
            number = line.line_column >> _LINE_SHIFT
            if number:
                return Place(
                    self._string(line.file_name_offset), number, self._string(line.line_offset)
                )
        return None

    def name(self, index: int) -> str:
        """Return what to call instruction *index* to people: by its line, or by its number."""
        place = self.at(index)
        return f"line {place.line}" if place else f"instruction {index}"

    def _string(self, offset: int) -> str:
        assert self._types is not None
        try:
            return printable(self._types.string(offset).encode()[:_TEXT_LIMIT]).strip()
        except ObjectFileError:
            return ""
