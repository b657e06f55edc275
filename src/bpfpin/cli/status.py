"""`bpfpin status`: the loaded sets, and problems."""

from __future__ import annotations

import os

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.failure import sudo_hint
from bpfpin.cli.formats import Report, value_text
from bpfpin.cli.options import optional_target_options
from bpfpin.errors import ExitCode
from bpfpin.hints import Placeholder, shell_line
from bpfpin.sets.reports import SetReport, StatusReport
from bpfpin.sets.status import status

COLUMNS = ("set", "state", "generation", "device", "hook", "mode", "program", "maps")


@bpfpin_command("status")
@optional_target_options
@click.option("--check", is_flag=True, help="Exit with status 10 if there is a problem.")
def command(context: Context, *, target: str | None, check: bool) -> int:
    """Show the pin sets, where their programs are attached, and problems with fixes."""
    as_root = (
        sudo_hint(context.words) if os.geteuid() else "ask the administrator of this container"
    )
    report = status(target, pin_root=context.pin_root, netns=context.netns, as_root=as_root)
    context.out.show(Report(report.to_json(), lambda _out: _show(context, report, target)))
    # Without --check a problem is not a failure: a script that only wants the sets gets status 0.
    return ExitCode.FOUND if check and report.problems else ExitCode.OK


def _show(context: Context, report: StatusReport, target: str | None) -> None:
    if report.sets:
        rows = [row for set_report in report.sets for row in _rows(set_report)]
        context.out.table(COLUMNS, rows, right=("generation",))
    else:
        load = shell_line("bpfpin load", dev=target or Placeholder("DEV"))
        where = f"for {target}" if target else f"below {context.pin_root}"
        context.out.say(f"nothing is loaded {where}; next: {load}")
    for set_report in report.sets:
        if set_report.metadata:
            values = ", ".join(
                f"{name} = {value_text(value)}" for name, value in set_report.metadata.items()
            )
            context.out.say(f"metadata of {set_report.set}: {values}")
    for path in (path for set_report in report.sets for path in set_report.foreign):
        context.out.say(f"not bpfpin's: {path}")
    for other in report.others:
        context.out.say(f"not bpfpin's: {other}")
    for problem in report.problems:
        context.out.say(f"problem: {problem.text}\n  fix: {problem.fix}")


def _rows(report: SetReport) -> list[tuple[object, ...]]:
    maps = " ".join(f"{map_.name}:{map_.id or '?'}" for map_ in report.maps) or "-"
    first = (report.set, report.state.value, report.generation or "-")
    # A set without programs, as `unload --keep-maps` leaves it, needs a row too.
    programs = [
        (
            program.place or "-",
            program.hook or "-",
            program.mode or "-",
            f"{program.name}:{program.id or '?'}",
        )
        for program in report.programs
    ] or [("-",) * 4]
    return [(*first, *programs[0], maps), *(("", "", "", *more, "") for more in programs[1:])]
