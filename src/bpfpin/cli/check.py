"""`bpfpin check`: read and verify objects, attach and pin nothing."""

from __future__ import annotations

import click

from bpfpin.apps.check import CheckedProgram, CheckedRelocation, CheckReport, check_all
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.failure import describe
from bpfpin.cli.output import Output
from bpfpin.errors import ExitCode

MAP_COLUMNS = ("map", "type", "key", "value", "max_entries", "dialect", "pinning")
RELOCATION_COLUMNS = ("CO-RE asks for", "here", "first in")
MOST_RELOCATIONS = 40  # as rows of a table
PROGRAM_COLUMNS = ("program", "section", "type", "hook", "verifier")


@bpfpin_command("check")
@click.argument("objects", metavar="OBJ…", nargs=-1, required=True)
@click.option("--type", "program_type", metavar="TYPE", help="Of programs in free-named sections.")
@click.option("--btf", "kernel_btf", metavar="FILE", help="The kernel's types for CO-RE.")
@click.option("--convert", is_flag=True, help="Print C that defines old maps in section .maps.")
def command(
    context: Context,
    *,
    objects: tuple[str, ...],
    program_type: str | None,
    kernel_btf: str | None,
    convert: bool,
) -> int | None:
    """Read each OBJ, a file or builtin:NAME, and have the kernel verify its programs.

    Nothing is attached or pinned. Without the privilege for the kernel's part the objects are read
    only. The exit code is that of load for one object, and 10 if any of several would not load.

    What CO-RE asks of the running kernel's types is shown with the answers; or of those in --btf
    FILE, which is raw BTF or an ELF file such as vmlinux.

    With --convert it prints what maps of the two old dialects, struct bpf_map_def and struct
    bpf_elf_map, are in the form of today; comments tell what that form cannot say.
    """
    reports = check_all(objects, program_type=program_type, convert=convert, kernel_btf=kernel_btf)
    if context.out.is_json:
        _write_document(context.out, reports)
    else:
        for report in reports:
            write = _write_converted if convert else _write
            write(context.out, report)
    refused = [report for report in reports if report.error]
    if len(reports) == 1 and refused and refused[0].error:
        raise refused[0].error
    return _complain(context.out, refused)


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
    out.document({"objects": objects, **({"error": first} if first else {})})


def _write(out: Output, report: CheckReport) -> None:
    out.text(f"{report.path}: {_verdict(report)}")
    if report.sha256:
        out.detail(f"sha256 {report.sha256}, license {report.license or 'none'}")
    if report.maps:
        rows = [
            (
                each.name,
                each.type,
                each.key_type or f"{each.key_size} bytes",
                each.value_type or f"{each.value_size} bytes",
                each.max_entries,
                each.dialect,
                each.pinning,
            )
            for each in report.maps
        ]
        out.table(MAP_COLUMNS, rows, right=("max_entries",))
    if report.programs:
        programs = [
            (each.name, each.section, each.type, each.hook or "-", _verified(each))
            for each in report.programs
        ]
        out.table(PROGRAM_COLUMNS, programs)
    _write_relocations(out, report)
    for note in (*report.notes, *(each.note for each in report.programs if each.note)):
        out.text(f"note: {note}")


def _write_relocations(out: Output, report: CheckReport) -> None:
    """Write each question once; of very many only those that have no answer."""
    found = {each.question: each for each in reversed(report.relocations)}
    shown = [each for each in found.values() if len(found) <= MOST_RELOCATIONS or each.poisoned]
    if shown:
        rows = [(each.question, _answer(each), each.place) for each in shown]
        out.table(RELOCATION_COLUMNS, rows)
    if len(found) > len(shown):
        out.text(f"CO-RE: {len(found) - len(shown)} more have answers; -o json has all of them")


def _answer(relocation: CheckedRelocation) -> str:
    if relocation.value is None:
        return "not there"
    return (
        f"{relocation.value} (refused if reached)" if relocation.poisoned else str(relocation.value)
    )


def _write_converted(out: Output, report: CheckReport) -> None:
    out.say(f"{report.path}: {_verdict(report)}")
    if report.converted is not None:
        out.text(report.converted)


def _verdict(report: CheckReport) -> str:
    words = {True: "would load", False: "would not load", None: "read; the kernel was not asked"}
    return words[report.loads]


def _verified(program: CheckedProgram) -> str:
    if program.error:
        return "refused"
    return "accepted" if program.is_verified else "not asked"
