"""What `check` writes for people: the tables of one object, a line of each of many, the sums."""

from __future__ import annotations

from collections.abc import Iterator

from bpfpin.apps.check.report import (
    CheckedExtern,
    CheckedMap,
    CheckedProgram,
    CheckedRelocation,
    CheckReport,
    Outcome,
    Summary,
    reason_of,
)
from bpfpin.cli.output import Output
from bpfpin.spec import Dialect

MAP_COLUMNS = ("map", "type", "key", "value", "max_entries", "dialect", "pinning", "flags")
PROGRAM_COLUMNS = ("program", "section", "type", "hook", "target", "verifier")
VARIABLE_COLUMNS = ("variable", "section", "type", "value")
EXTERN_COLUMNS = ("extern", "from", "here")
RELOCATION_COLUMNS = ("CO-RE asks for", "here", "first in")
MOST_VARIABLES = 40  # as rows of a table; all of them with -v
MOST_CHARACTERS = 60  # of a value or a type

_VERDICTS = {True: "would load", False: "would not load", None: "read; the kernel was not asked"}


def write_report(out: Output, report: CheckReport) -> None:
    """Write all that is known of one object."""
    out.text(f"{report.path}: {_VERDICTS[report.loads]}")
    if report.sha256:
        ways = ", ".join(report.dialects) or "none"
        out.text(f"license: {report.license or 'none'}; map dialects: {ways}")
        out.detail(f"sha256 {report.sha256}")
    _write_maps(out, report)
    _write_programs(out, report)
    _write_variables(out, report)
    _write_externs(out, report)
    _write_relocations(out, report)
    for feature in report.lacks:
        out.text(f"this kernel lacks: {feature}")
    for program in report.programs:
        if program.log:
            out.text(f"the verifier on {program.name}:\n{program.log.rstrip()}")
    for note in _notes(report):
        out.text(f"note: {note}")


def write_line(out: Output, report: CheckReport) -> None:
    """Write one line about an object."""
    reason = f": {report.reason}" if report.outcome is Outcome.REFUSED else ""
    out.text(f"{report.path}: {_VERDICTS[report.loads]}{reason}")


def write_converted(out: Output, report: CheckReport) -> None:
    """Write the maps of old dialects as C, and nothing else to stdout."""
    out.say(f"{report.path}: {_VERDICTS[report.loads]}")
    if report.converted is not None:
        out.text(report.converted)


def write_summary(out: Output, summary: Summary) -> None:
    """Write how many objects ended how, and why those were refused that were read."""
    counts = [(summary.outcomes[each], each) for each in Outcome]
    parts = [f"{count} {each.value}" for count, each in counts if count or each is Outcome.LOADS]
    out.text(f"{summary.outcomes.total()} objects: {', '.join(parts)}")
    for reason, count in summary.reasons.most_common():
        out.text(f"  {count} {reason}")


def _write_maps(out: Output, report: CheckReport) -> None:
    rows = [row for each in report.maps for row in _map_rows(each, each.name)]
    if rows:
        out.table(MAP_COLUMNS, rows, right=("max_entries",))


def _map_rows(one: CheckedMap, name: str) -> Iterator[tuple[object, ...]]:
    yield (
        name,
        one.type,
        _cut(one.key_type) or f"{one.key_size} bytes",
        _value_type(one),
        one.max_entries,
        one.dialect,
        one.pinning,
        " ".join(one.flags) or "-",
    )
    if one.inner:
        yield from _map_rows(one.inner, f"{name} holds")


def _value_type(one: CheckedMap) -> str:
    """Return the type, but of data sections, whose variables have a table of their own."""
    shown = "" if one.dialect == Dialect.DATA.value else _cut(one.value_type)
    return shown or f"{one.value_size} bytes"


def _write_programs(out: Output, report: CheckReport) -> None:
    rows = [
        (
            *(each.name, each.section, each.type, each.hook or "-", each.attach_to or "-"),
            _verified(each),
        )
        for each in report.programs
    ]
    if rows:
        out.table(PROGRAM_COLUMNS, rows)


def _verified(program: CheckedProgram) -> str:
    word = "accepted" if program.is_verified else "not asked"
    if program.error:
        word = f"refused: {reason_of(program.error)}"
    return f"{word}, left out" if program.optional else word


def _write_variables(out: Output, report: CheckReport) -> None:
    shown = report.variables if out.is_verbose else report.variables[:MOST_VARIABLES]
    if shown:
        rows = [
            (each.name, each.section, _cut(each.type) or f"{each.size} bytes", _value(each.value))
            for each in shown
        ]
        out.table(VARIABLE_COLUMNS, rows)
    if len(report.variables) > len(shown):
        out.text(f"{len(report.variables) - len(shown)} more variables: -v shows them")


def _value(value: object) -> str:
    return "-" if value is None else _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"


def _write_externs(out: Output, report: CheckReport) -> None:
    if report.externs:
        rows = [(each.declaration, each.kind, _found(each)) for each in report.externs]
        out.table(EXTERN_COLUMNS, rows)


def _found(extern: CheckedExtern) -> str:
    return "not there" if extern.error else extern.value


def _write_relocations(out: Output, report: CheckReport) -> None:
    """Write each question once; without `-v` only those that have no answer."""
    found = {each.question: each for each in reversed(report.relocations)}
    shown = [each for each in found.values() if out.is_verbose or each.poisoned]
    if shown:
        rows = [(each.question, _answer(each), each.place) for each in shown]
        out.table(RELOCATION_COLUMNS, rows)
    if len(found) > len(shown):
        places = len(report.relocations)
        out.text(
            f"CO-RE: {places} relocations ask for {len(found)} things; {len(found) - len(shown)}"
            f" {'more ' if shown else ''}have answers, which -v shows"
        )


def _answer(relocation: CheckedRelocation) -> str:
    if relocation.value is None:
        return "not there"
    return (
        f"{relocation.value} (refused if reached)" if relocation.poisoned else str(relocation.value)
    )


def _notes(report: CheckReport) -> Iterator[str]:
    yield from report.notes
    yield from (each.note for each in report.programs if each.note)
    for each in report.programs:
        if each.optional and each.error:
            yield f"{each.name}, which is loaded only by name, is refused: {each.error}"
