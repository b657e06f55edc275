"""`bpfpin clean`: remove leftovers that are ours and that nothing uses."""

from __future__ import annotations

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.sets.clean import clean
from bpfpin.sets.reports import CleanReport

COLUMNS = ("kind", "path", "reason")


@bpfpin_command("clean")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, change nothing.")
def command(context: Context, *, dry_run: bool) -> None:
    """Finish or undo what dead commands left, and remove the sets of devices that are gone.

    Nothing else is touched: maps that somebody uses stay, and all that bpfpin did not make.
    """
    report = clean(
        pin_root=context.pin_root, lock_timeout_s=context.lock_timeout_s, dry_run=dry_run
    )
    if context.out.is_json:
        context.out.document(report.to_json())
    elif report.removed:
        rows = [(one.kind.value, one.path, one.reason) for one in report.removed]
        context.out.table(COLUMNS, rows)
    _say(context, report)


def _say(context: Context, report: CleanReport) -> None:
    for one in report.left:
        context.out.say(f"left: {one.path}: {one.reason}")
    if not report.removed:
        context.out.say(f"nothing to clean below {context.pin_root}")
    elif report.is_planned:
        context.out.say("this was a dry run: nothing was changed")
