"""`bpfpin check`: read and verify objects without attaching or pinning."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from bpfpin.apps.check.check import CheckChoices, check_all, sources_in
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
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.failure import describe
from bpfpin.cli.formats import Report
from bpfpin.cli.options import SIZE, keep_logs, log_file_option, parse_set_words
from bpfpin.cli.output import Output, escape
from bpfpin.errors import ExitCode, VerifierError
from bpfpin.spec import Dialect

MAP_COLUMNS = ("map", "type", "key", "value", "max_entries", "dialect", "pinning", "flags")
PROGRAM_COLUMNS = ("program", "section", "type", "hook", "target", "verifier")
VARIABLE_COLUMNS = ("variable", "section", "type", "value")
EXTERN_COLUMNS = ("extern", "from", "here")
RELOCATION_COLUMNS = ("CO-RE asks for", "here", "first in")
VARIABLES_MAX = 40  # rows of the table; all variables with -v
# So that a row with a long type still fits a terminal.
CHARACTERS_MAX = 60  # of a value or a type
_VERDICTS = {True: "would load", False: "would not load", None: "read; the kernel was not asked"}
Advance = Callable[[CheckReport], CheckReport]


def write_report(out: Output, report: CheckReport) -> None:
    """Write everything about one object."""
    out.text(f"{report.path}: {_VERDICTS[report.loads]}")
    # An object that could not be read has no license, no maps and no hash.
    if report.sha256:
        dialects = ", ".join(report.dialects) or "none"
        out.text(f"license: {report.license or 'none'}; map dialects: {dialects}")
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
    """Write the maps of old dialects as C to stdout, and the verdict to stderr."""
    out.say(f"{report.path}: {_VERDICTS[report.loads]}")
    if report.converted is not None:
        out.text(report.converted)


def write_summary(out: Output, summary: Summary) -> None:
    """Write the number of objects with each outcome, and the reasons of refusals."""
    # In their fixed order; that none would load is worth saying too.
    counts = [(summary.outcomes[outcome], outcome) for outcome in Outcome]
    parts = [
        f"{count} {outcome.value}" for count, outcome in counts if count or outcome is Outcome.LOADS
    ]
    out.text(f"{summary.outcomes.total()} objects: {', '.join(parts)}")
    for reason, count in summary.reasons.most_common():
        out.text(f"  {count} {reason}")


def _write_maps(out: Output, report: CheckReport) -> None:
    rows = [row for map_ in report.maps for row in _map_rows(map_, map_.name)]
    if rows:
        out.table(MAP_COLUMNS, rows, right=("max_entries",))


def _map_rows(map_: CheckedMap, name: str) -> Iterator[tuple[object, ...]]:
    yield (
        name,
        map_.type,
        _cut(map_.key_type) or f"{map_.key_size} bytes",
        _value_type(map_),
        map_.max_entries,
        map_.dialect,
        map_.pinning,
        " ".join(map_.flags) or "-",
    )
    if map_.inner:
        yield from _map_rows(map_.inner, f"{name} holds")


def _value_type(map_: CheckedMap) -> str:
    """Return the type of values; the size for data sections, whose variables have a table."""
    # The type of a data section lists all its variables, which have a table of their own.
    type_ = "" if map_.dialect == Dialect.DATA.value else _cut(map_.value_type)
    return type_ or f"{map_.value_size} bytes"


def _write_programs(out: Output, report: CheckReport) -> None:
    rows = [
        (
            program.name,
            program.section,
            program.type,
            program.hook or "-",
            program.attach_to or "-",
            _verified(program),
        )
        for program in report.programs
    ]
    if rows:
        out.table(PROGRAM_COLUMNS, rows)


def _verified(program: CheckedProgram) -> str:
    word = "accepted" if program.is_verified else "not asked"
    if program.error:
        # One line of the error: the table has no room for a verifier's log.
        word = f"refused: {reason_of(program.error)}"
    return f"{word}, left out" if program.optional else word


def _write_variables(out: Output, report: CheckReport) -> None:
    shown = report.variables if out.is_verbose else report.variables[:VARIABLES_MAX]
    if shown:
        rows = [
            (
                variable.name,
                variable.section,
                _cut(variable.type) or f"{variable.size} bytes",
                _value(variable.value),
            )
            for variable in shown
        ]
        out.table(VARIABLE_COLUMNS, rows)
    if len(report.variables) > len(shown):
        out.text(f"{len(report.variables) - len(shown)} more variables: -v shows them")


def _value(value: object) -> str:
    return "-" if value is None else _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= CHARACTERS_MAX else f"{text[:CHARACTERS_MAX]}…"


def _write_externs(out: Output, report: CheckReport) -> None:
    if report.externs:
        rows = [(extern.declaration, extern.kind, _resolved(extern)) for extern in report.externs]
        out.table(EXTERN_COLUMNS, rows)


def _resolved(extern: CheckedExtern) -> str:
    return "not there" if extern.error else extern.value


def _write_relocations(out: Output, report: CheckReport) -> None:
    """Write each question of CO-RE once; without `-v` only those without an answer."""
    # Reversed: in a dict the last place wins, and here the first one should.
    by_question = {relocation.question: relocation for relocation in reversed(report.relocations)}
    shown = [
        relocation for relocation in by_question.values() if out.is_verbose or relocation.poisoned
    ]
    if shown:
        rows = [
            (relocation.question, _answer(relocation), relocation.place) for relocation in shown
        ]
        out.table(RELOCATION_COLUMNS, rows)
    if len(by_question) > len(shown):
        places = len(report.relocations)
        out.text(
            f"CO-RE: {places} relocations ask for {len(by_question)} things;"
            f" {len(by_question) - len(shown)}"
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
    yield from (program.note for program in report.programs if program.note)
    for program in report.programs:
        if program.optional and program.error:
            # Its refusal does not change the exit status, so it would be overlooked.
            yield f"{program.name}, which is loaded only by name, is refused: {program.error}"


@contextlib.contextmanager
def shown_progress(out: Output, total: int) -> Iterator[Advance]:
    """Show a progress bar of *total* objects on stderr; yield the function that advances it.

    The function returns the report that it is called with. No bar is shown for one object, with
    `-q`, or if stderr is not a terminal.
    """
    # A terminal that says "dumb" cannot move its cursor, which a bar needs.
    is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    # A single object is checked in less time than the modules of the bar take to load.
    if total < 2 or out.is_quiet or not is_terminal:
        yield lambda report: report
        return
    from rich.console import Console  # noqa: PLC0415 - 40 ms, only where a bar is drawn
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    # No markup: a path may have square brackets in it.
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)

        def advance(report: CheckReport) -> CheckReport:
            bar.update(task, advance=1, description=escape(report.path))
            return report

        yield advance


@bpfpin_command("check")
@click.argument("objects", metavar="OBJ…", nargs=-1, required=True)
@click.option(
    "--type", "program_type", metavar="TYPE", help="Type of programs whose section names none."
)
@click.option("--btf", "kernel_btf", metavar="FILE", help="BTF of the kernel for CO-RE.")
@click.option(
    "--set",
    "variables",
    metavar="NAME=VALUE",
    multiple=True,
    callback=lambda _ctx, _parameter, words: parse_set_words(words),
    help="Initial value of a global variable, as in load; repeatable.",
)
@click.option("--convert", is_flag=True, help="Print old map definitions as C for section .maps.")
@click.option(
    "--log-level",
    "log_level",
    type=click.Choice(["1", "2", "4"]),
    callback=lambda _ctx, _parameter, word: int(word or 0),
    help="Log of the verifier: 1: refused paths, 2: all instructions and states, 4: figures.",
)
@click.option(
    "--max-map-memory",
    type=SIZE,
    metavar="SIZE",
    help="Limit of the memory of all maps (default: a quarter of the host's memory).",
)
@log_file_option
def command(
    context: Context,
    *,
    objects: tuple[str, ...],
    kernel_btf: str | None,
    convert: bool,
    log_file: Path | None,
    max_map_memory: int | None,
    **words: Any,
) -> int | None:
    """Read each OBJ and let the kernel verify its programs; attach and pin nothing.

    OBJ is a file, builtin:NAME, or a directory, of which all *.o are checked. Without the privilege
    to load programs the objects are read only. For one object the exit status is that of load; for
    several it is 10 if one of them would not load. Several objects have one line each, with -v all
    details.

    Programs in sections whose names start with ? are loaded by load --prog only. They are verified
    too, but a refusal does not change the exit status.

    CO-RE relocations without an answer in the running kernel's BTF are shown, with -v all
    relocations. --btf FILE replaces the kernel's BTF by raw BTF or an ELF file such as vmlinux.

    --convert prints maps of the two old dialects, struct bpf_map_def and struct bpf_elf_map, as
    definitions for section .maps; comments tell what these cannot express.

    With --log-level the logs of accepted programs are shown too; with -o json they are in the
    document.
    """
    sources = sources_in(objects)
    # The types of --btf are read once for all objects: a kernel has more than 100,000 of them.
    choices = CheckChoices(is_converting=convert, **words).with_types_of(kernel_btf)
    if max_map_memory is not None:
        choices = dataclasses.replace(choices, max_map_memory=max_map_memory)
    with shown_progress(context.out, len(sources)) as advance:
        reports = [advance(report) for report in check_all(sources, choices)]
    # Before anything is shown: it adds the place of the log to the hints of the errors.
    _keep_logs(context.out, reports, log_file)
    context.out.show(
        Report(lambda: _document(reports), lambda out: _write(out, reports, is_converting=convert))
    )
    refused = [report for report in reports if report.error]
    # With one object the command ends as load would, with the exit status of its error. The report
    # is written by then, so the error adds only its message.
    if len(reports) == 1 and refused and refused[0].error:
        raise refused[0].error
    return _complain(context.out, refused)


def _write(out: Output, reports: list[CheckReport], *, is_converting: bool) -> None:
    is_short = len(reports) > 1 and not out.is_verbose
    write = write_converted if is_converting else write_line if is_short else write_report
    for report in reports:
        write(out, report)
    if len(reports) > 1 and not is_converting:
        write_summary(out, Summary.of(reports))


def _keep_logs(out: Output, reports: Iterable[CheckReport], file: Path | None) -> None:
    """Write the logs of all programs, and add their place to the hints of refusals."""
    programs = {
        f"{program.name} of {report.path}": program
        for report in reports
        for program in report.programs
    }
    refusals = [
        (name, program.error)
        for name, program in programs.items()
        if isinstance(program.error, VerifierError)
    ]
    # Only with --log-level: by default the verifier writes no log for what it accepts.
    accepted = {name: program.log for name, program in programs.items() if program.log}
    keep_logs(refusals, out, file, others=accepted)


def _complain(out: Output, refused: list[CheckReport]) -> int | None:
    for report in refused:
        if report.error:
            failure = describe(report.error, words=())
            out.complain(failure.message, hint=failure.hint)
    return ExitCode.FOUND if refused else None


def _document(reports: list[CheckReport]) -> dict[str, object]:
    objects = []
    for report in reports:
        error = describe(report.error, words=()).document() if report.error else {"error": None}
        objects.append({**report.to_json(), **error})
    # A script finds the error of a single object where every other verb has it.
    first = objects[0]["error"] if len(objects) == 1 else None
    summary = {"summary": Summary.of(reports).to_json()}
    return {"objects": objects, **summary, **({"error": first} if first else {})}
