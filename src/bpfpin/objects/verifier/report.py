"""Reads the verifier's log from its end, and builds the error with the cause and the line of C.

The log is prose for people and changes with each kernel (Documentation/bpf/verifier.rst). Only a
few marks are stable: lines of C start with `;`, instructions with their number, and a line
`processed N insns` ends it. From Linux 7.3 on a report follows the telling line of most refusals:
headings (`Reason`, `At`, `Causal path`, `Suggestion`) with indented lines below them
(kernel/bpf/diagnostics.c). Further telling lines may follow the report.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from bpfpin.btf.btf import Btf
from bpfpin.errors import ObjectFileError, SyscallError, VerifierError
from bpfpin.objects.verifier.attempt import printable
from bpfpin.records import dataclass
from bpfpin.spec import LineInfo

WINDOW = 256 << 10  # characters of the log's end that are looked at
LINE_LIMIT = 4096  # the kernel writes at most 1,024 at once
SHOWN_LIMIT = 400  # characters of one line or state in a message
STEPS = 4  # instructions that are kept: the refused one and three before it
_TELLING_LIMIT = 3
_TRAILER = re.compile(r"processed \d+ insns|verification time|stack depth|-- END|max_states")
_STEP = re.compile(r"(\d{1,10}): (\([0-9a-f]{2}\) .*)")
_INSTRUCTION = re.compile(r"\d+: (\([0-9a-f]{2}\)|(frame\d+: )?R\d)")
_STATE = re.compile(
    r"from \d+ to \d+:|(cur|old|caller|callee|frame\d*|last_idx|parent|mark_precise|regs=)\b.*[:=]"
    r"|Func#\d+ .* is safe for any args|Validating |returning from callee|to caller at"
)
# On the line of a jump the verifier goes on with a message or with the state at the target.
_AFTER_JUMP = re.compile(r"(\d+: \([0-9a-f]{2}\) .*? goto pc[+-]\d+) +(?=[a-z0-9])")
_STATE_REGISTERS = re.compile(r"(?:(?:\d+|from \d+ to \d+):)? ?(?:frame(\d+): ?)?(?=R\d+(_\w+)?=)")
_STATE_REGISTER = re.compile(r"\b(R\d{1,2})(?:_\w+)?=")
_COMMENT = re.compile(r"; ?(.*?)(?: ?@ (\S{1,400}):(\d{1,10}))?")
_REPORT = re.compile(r"(Verification failed|Reason):")
_SECTION = re.compile(r"(Verification failed|Reason|At|Causal path|Suggestion):\s*(.*)")
_AT = re.compile(r"(?:\S+ @ )?(\S{1,400}?):(\d{1,10})(?::\d+)?")
_MARKED = re.compile(r"\s*>>> +\d+ \| (.*)")
_REPORT_STEP = re.compile(r" *(>>>)? +(\d{1,10}) \| (\([0-9a-f]{2}\) .*)")
_CALL = "(85) call"
_SCRATCH = frozenset({"R1", "R2", "R3", "R4", "R5"})  # a call clobbers them
_NUMBERED = re.compile(r"\binsn (\d{1,10})\b")
# BPF_LINE_INFO_LINE_NUM of linux/bpf.h; the low 10 bits are the column.
_LINE_SHIFT = 10
_TEXT_LIMIT = 500
_REGISTER = re.compile(r"\b[Rrw](\d)\b")


@dataclass(frozen=True, slots=True)
class VerifierStep:
    """An instruction in the log's words; *index* is its position in slots of eight bytes."""

    index: int
    text: str

    def __str__(self) -> str:
        return f"{self.index}: {self.text}"


@dataclass(frozen=True, slots=True)
class Comment:
    """A line of C in the log; *file* is "" and *line* is 0 if the kernel leaves them out."""

    text: str
    file: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class LogReport:
    """The report of Linux 7.3 and later; missing parts are "", 0 or ().

    The last of *steps* is the refused instruction.
    """

    title: str = ""
    reason: str = ""
    suggestion: str = ""
    file: str = ""
    line: int = 0
    source: str = ""
    steps: tuple[VerifierStep, ...] = ()


@dataclass(frozen=True, slots=True)
class ParsedLog:
    """The parsed end of a log.

    Attributes:
        words: The telling lines, joined, in the form of all kernels.
        steps: The last instructions; the refused one is the last.
        registers: The state of each register before the refused instruction.
        comment: The last line of C.
        report: The report of newer kernels.
        index: The position of the refused instruction; None if the log names none.
    """

    words: str
    steps: tuple[VerifierStep, ...]
    registers: dict[str, str]
    comment: Comment | None
    report: LogReport
    index: int | None

    @property
    def telling_line(self) -> str:
        """Up to three telling lines, which all kernels write; or else the report's reason."""
        return self.words or self.report.reason


def parse(log: str) -> ParsedLog:
    """Parse the end of *log*. Any text is accepted."""
    before, after = _divided(_lines(log))
    words = _joined(_last_words(before) + _words_after(after))
    report = _report(after)
    steps = tuple(_steps(before))[-STEPS:] or report.steps[-STEPS:]
    numbered = _NUMBERED.search(words)
    index = int(numbered[1]) if numbered else None
    if report.steps or steps:
        index = (report.steps or steps)[-1].index
    return ParsedLog(words, steps, _registers(before), _comment(before), report, index)


def telling_line(log: str) -> str:
    """Return the reason in *log*, "" if there is none.

    These are up to three lines after the last instruction, joined by a semicolon.
    """
    return parse(log).telling_line


def _lines(log: str) -> list[str]:
    lines: list[str] = []
    for line in log[-WINDOW:].split("\n"):
        lines += _AFTER_JUMP.sub(r"\1\n", line[:LINE_LIMIT], count=1).split("\n")
    return lines


def _divided(lines: list[str]) -> tuple[list[str], list[str]]:
    """Return the lines before the report, and those from its beginning on."""
    starts = (number for number, line in enumerate(lines) if _REPORT.match(line.strip()))
    start = next(starts, len(lines))
    return lines[:start], lines[start:]


def _last_words(lines: list[str]) -> list[str]:
    words: list[str] = []
    # From the end: the reason is between the last instruction or state and the figures.
    for line in reversed(lines):
        if not line.strip() or _TRAILER.match(line) or (not words and _STATE.match(line)):
            continue
        if _INSTRUCTION.match(line) or line.startswith(";") or _STATE.match(line):
            return words or [line.strip()[:SHOWN_LIMIT]]
        words.insert(0, line.strip()[:SHOWN_LIMIT])
        if len(words) > _TELLING_LIMIT:
            break
    return words


def _words_after(lines: list[str]) -> list[str]:
    """Return the telling lines behind or between reports: all that is not indented."""
    return [
        line.strip()[:SHOWN_LIMIT]
        for line in lines
        if line.strip() and not (line[0].isspace() or _SECTION.match(line) or _TRAILER.match(line))
    ]


def _joined(words: list[str]) -> str:
    return "; ".join(words[-_TELLING_LIMIT:])


def _steps(lines: list[str]) -> Iterator[VerifierStep]:
    for line in lines:
        match = _STEP.fullmatch(line)
        if match:
            yield VerifierStep(int(match[1]), match[2].partition(" ; ")[0].strip()[:SHOWN_LIMIT])


def _comment(lines: list[str]) -> Comment | None:
    """Return the last line of C with text; code of macros, or without a line (0), has none."""
    for line in reversed(lines):
        match = _COMMENT.fullmatch(line)
        if match and match[1].strip():
            return Comment(match[1].strip()[:SHOWN_LIMIT], match[2] or "", int(match[3] or 0))
    return None


def _registers(lines: list[str]) -> dict[str, str]:
    """Return the state of each register at the end of the log, in the function that it ends in."""
    known: dict[str, str] = {}
    frame = "0"
    for line in lines:
        _, _, behind = line.partition(" ; ")
        step = _STEP.match(line)
        is_whole = step is None
        if step and step[2].startswith(_CALL):
            known = {name: state for name, state in known.items() if name not in _SCRATCH}
        match = _STATE_REGISTERS.match(line if is_whole else behind.lstrip())
        if match is None:
            continue
        # Behind an instruction the verifier prints only the registers that it changed; a line of
        # its own (`from A to B:`) has all of them. Each frame has registers of its own.
        if is_whole or (match[1] or "0") != frame:
            known.clear()
        frame = match[1] or "0"
        known.update(_values(line if is_whole else behind))
    return known


def _values(state: str) -> Iterator[tuple[str, str]]:
    for match in _STATE_REGISTER.finditer(state):
        yield match[1], _value(state, match.end())[:SHOWN_LIMIT]


def _value(state: str, start: int) -> str:
    """Return the text from *start* to the next space outside of brackets."""
    depth = 0
    for at in range(start, len(state)):
        # Bounds stand in parentheses, with spaces between them.
        depth += (state[at] == "(") - (state[at] == ")")
        if state[at] == " " and depth <= 0:
            return state[start:at]
    return state[start:]


def _report(lines: list[str]) -> LogReport:
    sections = _sections(lines)
    at = sections.get("At", [])
    place = _AT.fullmatch(at[0].strip()) if at else None
    source = next((match[1].strip() for line in at if (match := _MARKED.fullmatch(line))), "")
    return LogReport(
        title=_text(sections, "Verification failed"),
        reason=_text(sections, "Reason"),
        suggestion=_text(sections, "Suggestion"),
        file=place[1] if place else "",
        line=int(place[2]) if place else 0,
        source=source if place else "",  # without a place the mark is on an instruction
        steps=tuple(_report_steps(at)),
    )


def _report_steps(at: list[str]) -> Iterator[VerifierStep]:
    """Yield the instructions of the report's `At`, up to the marked one."""
    for line in at:
        match = _REPORT_STEP.fullmatch(line)
        if match:
            yield VerifierStep(int(match[2]), match[3].strip()[:SHOWN_LIMIT])
            if match[1]:
                return


def _sections(lines: list[str]) -> dict[str, list[str]]:
    """Return the lines under each heading of the first report, those on the heading's line first.

    A program that leaks several references gets a report for each.
    """
    sections: dict[str, list[str]] = {}
    name = ""
    for line in lines:
        heading = _SECTION.fullmatch(line)
        if heading:
            name = "" if heading[1] in sections else heading[1]
            if name:
                sections[name] = [heading[2]] if heading[2] else []
        elif name and line.strip() and line[0].isspace():
            sections[name].append(line)
    return sections


def _text(sections: dict[str, list[str]], name: str) -> str:
    return " ".join(line.strip() for line in sections.get(name, []))[: 4 * SHOWN_LIMIT]


@dataclass(frozen=True, slots=True)
class SourceLine:
    """A line of C: *file* as the compiler was given it, *line* counted from 1, its *text*."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class SourceLines:
    """The lines of C of a program's instructions, from the object's line info.

    Without *types*, whose strings hold the text, no line is known.
    """

    def __init__(self, lines: Sequence[LineInfo] = (), types: Btf | None = None) -> None:
        self._lines = lines if types is not None else ()
        self._types = types

    def at(self, index: int) -> SourceLine | None:
        """Return the place of instruction *index*, None if the object does not say it.

        What the compiler made without a line of its own belongs to the line before.
        """
        # The verifier demands line info in the order of the instructions, so it is sorted.
        position = bisect_right(self._lines, index, key=lambda line: line.index)
        for line in reversed(self._lines[:position]):
            number = line.line_column >> _LINE_SHIFT
            if number:
                return SourceLine(
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


_NOWHERE = SourceLines()


def refusal(
    error: SyscallError, log: str, *, program: str, path: str, places: SourceLines = _NOWHERE
) -> VerifierError:
    """Return the error that says why *program* of the object at *path* was refused.

    *places* is what the object knows of its lines of C.
    """
    from bpfpin.objects.verifier.table import diagnose  # noqa: PLC0415  (only for a refused program)

    of = f" of {path}" if path else ""
    parsed = parse(log)
    report = parsed.report
    diagnosis = diagnose(parsed.words, places.name)
    if not diagnosis.cause:
        # The report's words are more general; they help where the telling line is new.
        diagnosis = diagnose(f"{report.title}\n{report.reason}", places.name)
    place = _place(parsed, places)
    made = VerifierError(
        f"the verifier refused program {program!r}{of}",
        log=log,
        telling_line=parsed.telling_line,
        errno=error.errno or 0,
        target=program,
        # Ours first: it names helpers, macros and lines, and the kernel's is general.
        hint=diagnosis.hint or report.suggestion,
    )
    made.reason = "" if report.reason == made.telling_line else report.reason
    made.suggestion = report.suggestion
    made.cause = diagnosis.cause
    made.file, made.line, made.source = place.file, place.line, place.text
    made.instructions = tuple(map(str, parsed.steps))
    made.registers = _telling_registers(parsed)
    made.context = tuple(_context(made))
    return made


def _context(error: VerifierError) -> Iterator[str]:
    """Yield what a message shows between the refusal and its reason."""
    place = f"{error.file}:{error.line}: " if error.line else ""
    if place or error.source:
        yield place + error.source
    yield from (f"  {step}" for step in error.instructions)
    yield "; ".join(f"{name} = {state}" for name, state in error.registers.items())


def _place(parsed: ParsedLog, places: SourceLines) -> SourceLine:
    """Return the line of C from the object's line info, the report or the log's comment."""
    # The object's first: it has the whole path of the file, and the verifier leaves out of its
    # comments a line that it has just printed.
    own = None if parsed.index is None else places.at(parsed.index)
    if own is not None:
        return own
    report, comment = parsed.report, parsed.comment
    if report.file:
        return SourceLine(report.file, report.line, report.source)
    return (
        SourceLine(comment.file, comment.line, comment.text) if comment else SourceLine("", 0, "")
    )


def _telling_registers(parsed: ParsedLog) -> dict[str, str]:
    """Return the states of the registers that the reason names, or else the instruction."""
    last = parsed.steps[-1].text if parsed.steps else ""
    for text in (parsed.words, last):
        named = [f"R{number}" for number in _REGISTER.findall(text)]
        known = {name: parsed.registers[name] for name in named if name in parsed.registers}
        if known:
            return known
    return {}
