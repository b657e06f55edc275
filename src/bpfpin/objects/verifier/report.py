"""The error that says why a program was refused, with the line of C and what to do."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bpfpin.btf.btf import Btf
from bpfpin.errors import ObjectFileError, SyscallError, VerifierError
from bpfpin.objects.verifier.attempt import printable
from bpfpin.objects.verifier.log import ParsedLog, parse
from bpfpin.objects.verifier.table import diagnose
from bpfpin.spec import LineInfo

_LINE_SHIFT = 10
_TEXT_LIMIT = 500
_REGISTER = re.compile(r"\b[Rrw](\d)\b")


# The lines of C that a program's instructions come from, as its object says.


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


_NOWHERE = Places()


def refusal(
    error: SyscallError, log: str, *, program: str, path: str, places: Places = _NOWHERE
) -> VerifierError:
    """Return the error that says why *program* of the object at *path* was refused.

    *places* is what the object knows of its lines of C.
    """
    of = f" of {path}" if path else ""
    parsed = parse(log)
    words = f"{parsed.words}\n{parsed.report.title}\n{parsed.report.reason}"
    found = diagnose(words, places.name)
    place = _place(parsed, places)
    made = VerifierError(
        f"the verifier refused program {program!r}{of}",
        log=log,
        telling_line=parsed.telling_line,
        errno=error.errno or 0,
        target=program,
        hint=parsed.report.suggestion or found.hint,
    )
    made.cause = found.cause
    made.file, made.line, made.source = place.file, place.line, place.text
    made.instructions = tuple(map(str, parsed.steps))
    made.registers = _telling_registers(parsed)
    made.context = tuple(_context(made))
    return made


def _context(error: VerifierError) -> Iterator[str]:
    """Yield what a message shows between what was refused and why."""
    place = f"{error.file}:{error.line}: " if error.line else ""
    if place or error.source:
        yield place + error.source
    yield from (f"  {step}" for step in error.instructions)
    yield "; ".join(f"{name} = {state}" for name, state in error.registers.items())


def _place(parsed: ParsedLog, places: Places) -> Place:
    """Return the line of C: by the kernel's report, the object's line info, the log's comment."""
    report, comment = parsed.report, parsed.comment
    own = None if parsed.index is None else places.at(parsed.index)
    if report.file:
        return Place(report.file, report.line, report.source or (own.text if own else ""))
    if own is not None:
        return own
    return Place(comment.file, comment.line, comment.text) if comment else Place("", 0, "")


def _telling_registers(parsed: ParsedLog) -> dict[str, str]:
    """Return what was known of the registers that the reason names, or else the instruction."""
    last = parsed.steps[-1].text if parsed.steps else ""
    for text in (parsed.words, last):
        named = [f"R{number}" for number in _REGISTER.findall(text)]
        known = {name: parsed.registers[name] for name in named if name in parsed.registers}
        if known:
            return known
    return {}
