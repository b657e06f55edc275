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
from bpfpin.apps.check.report import CheckReport, Summary
from bpfpin.cli.check.tables import write_converted, write_line, write_report, write_summary
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.failure import describe
from bpfpin.cli.options import SIZE
from bpfpin.cli.output import Output, escape
from bpfpin.cli.verifier_log import keep, log_file_option
from bpfpin.errors import ExitCode, VerifierError
from bpfpin.sets.variables import parse_set_words

Advance = Callable[[CheckReport], CheckReport]


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
