"""`bpfpin check OBJ…`: what it takes, and how it ends."""

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
from bpfpin.cli.options import SIZE
from bpfpin.cli.output import Output, escape
from bpfpin.cli.verifier_log import keep, log_file_option
from bpfpin.errors import ExitCode, VerifierError
from bpfpin.sets.variables import parse_set_words
from bpfpin.spec import Dialect

MAP_COLUMNS = ("map", "type", "key", "value", "max_entries", "dialect", "pinning", "flags")
PROGRAM_COLUMNS = ("program", "section", "type", "hook", "target", "verifier")
VARIABLE_COLUMNS = ("variable", "section", "type", "value")
EXTERN_COLUMNS = ("extern", "from", "here")
RELOCATION_COLUMNS = ("CO-RE asks for", "here", "first in")
MOST_VARIABLES = 40  # as rows of a table; all of them with -v
MOST_CHARACTERS = 60  # of a value or a type
_VERDICTS = {True: "would load", False: "would not load", None: "read; the kernel was not asked"}
Advance = Callable[[CheckReport], CheckReport]


# What `check` writes for people: the tables of one object, a line of each of many, the sums.


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


# A bar on stderr while many objects are checked; only where a person looks on.
@contextlib.contextmanager
def shown_progress(out: Output, total: int) -> Iterator[Advance]:
    """Show a bar of *total* objects, which what is yielded moves on by the report that it takes.

    There is none for one object, with `-q`, and where stderr is no terminal.
    """
    is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    if total < 2 or out.is_quiet or not is_terminal:
        yield lambda report: report
        return
    from rich.console import Console  # noqa: PLC0415 - 40 ms, only where a bar is drawn
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)

        def advance(report: CheckReport) -> CheckReport:
            bar.update(task, advance=1, description=escape(report.path))
            return report

        yield advance


@bpfpin_command("check")
@click.argument("objects", metavar="OBJ…", nargs=-1, required=True)
@click.option("--type", "program_type", metavar="TYPE", help="Of programs in free-named sections.")
@click.option("--btf", "kernel_btf", metavar="FILE", help="The kernel's types for CO-RE.")
@click.option(
    "--set",
    "variables",
    metavar="NAME=VALUE",
    multiple=True,
    callback=lambda _ctx, _parameter, words: parse_set_words(words),
    help="Let this variable or constant be VALUE, as load does; repeatable.",
)
@click.option("--convert", is_flag=True, help="Print C that defines old maps in section .maps.")
@click.option(
    "--log-level",
    "log_level",
    type=click.Choice(["1", "2", "4"]),
    callback=lambda _ctx, _parameter, word: int(word or 0),
    help="What the verifier's log has: refused paths, all instructions with states, figures.",
)
@click.option(
    "--max-map-memory",
    type=SIZE,
    metavar="SIZE",
    help="Refuse maps that take more (a quarter of the memory).",
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
    """Read each OBJ, a file or builtin:NAME, and have the kernel verify its programs.

    Nothing is attached or pinned. Without the privilege for the kernel's part the objects are read
    only. The exit code is that of load for one object, and 10 if any of several would not load. Of
    a directory all *.o are checked; of several objects each has a line, with -v all that is known.

    Programs in sections whose names start with ? are verified too, but only load --prog would load
    them: that one is refused leaves the exit code as it is.

    What CO-RE asks of the running kernel's types is shown where there is no answer, and all of it
    with -v; or of those in --btf FILE, which is raw BTF or an ELF file such as vmlinux.

    With --convert it prints what maps of the two old dialects, struct bpf_map_def and struct
    bpf_elf_map, are in the form of today; comments tell what that form cannot say.

    With --log-level the log of programs that are accepted is shown too, and with -o json it is in
    the document.
    """
    sources = sources_in(objects)
    choices = CheckChoices(is_converting=convert, **words).with_types_of(kernel_btf)
    if max_map_memory is not None:
        choices = dataclasses.replace(choices, max_map_memory=max_map_memory)
    with shown_progress(context.out, len(sources)) as advance:
        reports = [advance(report) for report in check_all(sources, choices)]
    _keep_logs(context.out, reports, log_file)
    _write(context.out, reports, is_converting=convert)
    refused = [report for report in reports if report.error]
    if len(reports) == 1 and refused and refused[0].error:
        raise refused[0].error
    return _complain(context.out, refused)


def _write(out: Output, reports: list[CheckReport], *, is_converting: bool) -> None:
    if out.is_json:
        _write_document(out, reports)
        return
    is_short = len(reports) > 1 and not out.is_verbose
    write = write_converted if is_converting else write_line if is_short else write_report
    for report in reports:
        write(out, report)
    if len(reports) > 1 and not is_converting:
        write_summary(out, Summary.of(reports))


def _keep_logs(out: Output, reports: Iterable[CheckReport], file: Path | None) -> None:
    """Write the logs of all programs that have one, and say in each refusal where it is."""
    programs = {f"{each.name} of {one.path}": each for one in reports for each in one.programs}
    refusals = [
        (name, each.error)
        for name, each in programs.items()
        if isinstance(each.error, VerifierError)
    ]
    accepted = {name: each.log for name, each in programs.items() if each.log}
    keep(refusals, out, file, others=accepted)


def _complain(out: Output, refused: list[CheckReport]) -> int | None:
    for report in refused:
        if report.error:
            failure = describe(report.error, words=())
            out.complain(failure.message, hint=failure.hint)
    return ExitCode.FOUND if refused else None


def _write_document(out: Output, reports: list[CheckReport]) -> None:
    objects = []
    for report in reports:
        error = describe(report.error, words=()).document() if report.error else {"error": None}
        objects.append({**report.to_json(), **error})
    first = objects[0]["error"] if len(objects) == 1 else None
    summary = {"summary": Summary.of(reports).to_json()}
    out.document({"objects": objects, **summary, **({"error": first} if first else {})})
