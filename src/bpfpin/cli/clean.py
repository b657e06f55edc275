"""`bpfpin clean`: remove leftovers of bpfpin that nothing uses."""

from __future__ import annotations

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.formats import Report
from bpfpin.sets.clean import clean
from bpfpin.sets.reports import CleanReport

COLUMNS = ("kind", "path", "reason")


@bpfpin_command("clean")
@click.option("--dry-run", is_flag=True, help="Show what clean would remove, change nothing.")
def command(context: Context, *, dry_run: bool) -> None:
    """Complete or roll back interrupted changes, and remove the sets of deleted devices.

    Nothing else is touched: maps in use stay, and so does everything that bpfpin did not make.
    """
    report = clean(
        pin_root=context.pin_root, lock_timeout_s=context.lock_timeout_s, dry_run=dry_run
    )
    rows = [(entry.kind.value, entry.path, entry.reason) for entry in report.removed]
    table = (lambda out: out.table(COLUMNS, rows)) if rows else None
    context.out.show(Report(report.to_json(), table))
    _say(context, report)


def _say(context: Context, report: CleanReport) -> None:
    for entry in report.left:
        context.out.say(f"left: {entry.path}: {entry.reason}")
    if not report.removed:
        context.out.say(f"nothing to clean below {context.pin_root}")
    elif report.is_planned:
        context.out.say("this was a dry run: nothing was changed")
