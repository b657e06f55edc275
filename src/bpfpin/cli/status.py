"""`bpfpin status`: what is loaded, and what is wrong with it."""

from __future__ import annotations

import os

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.entry import value_text
from bpfpin.cli.failure import sudo_hint
from bpfpin.cli.options import optional_target_options
from bpfpin.errors import ExitCode
from bpfpin.sets.reports import SetReport, StatusReport
from bpfpin.sets.status import status

COLUMNS = ("set", "state", "generation", "device", "hook", "mode", "program", "maps")


@bpfpin_command("status")
@optional_target_options
@click.option("--check", is_flag=True, help="Exit with 10 if something is wrong.")
def command(context: Context, *, target: str | None, check: bool) -> int:
    """Show the pin sets, what is attached where, and what is wrong; changes nothing."""
    as_root = sudo_hint(context.words) if os.geteuid() else "ask who runs this container"
    report = status(target, pin_root=context.pin_root, netns=context.netns, as_root=as_root)
    if context.out.is_json:
        context.out.document(report.to_json())
    else:
        _show(context, report, target)
    return ExitCode.FOUND if check and report.problems else ExitCode.OK


def _show(context: Context, report: StatusReport, target: str | None) -> None:
    if report.sets:
        rows = [row for found in report.sets for row in _rows(found)]
        context.out.table(COLUMNS, rows, right=("generation",))
    else:
        where = f"for {target}" if target else f"below {context.pin_root}"
        context.out.say(f"nothing is loaded {where}; next: bpfpin load --dev {target or 'DEV'}")
    for found in report.sets:
        if found.metadata:
            words = ", ".join(
                f"{name} = {value_text(value)}" for name, value in found.metadata.items()
            )
            context.out.say(f"metadata of {found.set}: {words}")
    for path in (path for found in report.sets for path in found.foreign):
        context.out.say(f"not bpfpin's: {path}")
    for other in report.others:
        name = other.name or "a program"
        mode = f" in {other.mode} mode" if other.mode else ""
        place = f"{other.hook} of {other.device}{mode}"
        context.out.say(f"not bpfpin's: {name} (id {other.id}) at {place}")
    for problem in report.problems:
        context.out.say(f"problem: {problem.text}\n  fix: {problem.fix}")


def _rows(found: SetReport) -> list[tuple[object, ...]]:
    maps = " ".join(f"{held.name}:{held.id or '?'}" for held in found.maps) or "-"
    first = (found.set, found.state.value, found.generation or "-")
    programs = [
        (
            program.device or "-",
            program.hook or "-",
            program.mode or "-",
            f"{program.name}:{program.id or '?'}",
        )
        for program in found.programs
    ] or [("-",) * 4]
    return [(*first, *programs[0], maps), *(("", "", "", *more, "") for more in programs[1:])]
