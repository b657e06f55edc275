"""`bpfpin apply`: make what is loaded what state files ask for."""

from __future__ import annotations

from typing import Any

import click

from bpfpin.cli.context import Context, Seconds, bpfpin_command, private_mount_option
from bpfpin.cli.failure import describe
from bpfpin.cli.formats import Report
from bpfpin.sets.apply.apply import apply_state
from bpfpin.sets.apply.model import read_state
from bpfpin.sets.apply.reports import ApplyReport, SetAction, SetOutcome

_DONE = {
    SetAction.UNCHANGED: "unchanged",
    SetAction.LOAD: "loaded",
    SetAction.RELOAD: "reloaded",
    SetAction.MOVE: "moved",
    SetAction.FILL: "filled",
    SetAction.RECOVER: "recovered",
    SetAction.UNLOAD: "unloaded",
}
_PLANNED = {
    SetAction.UNCHANGED: "unchanged",
    SetAction.LOAD: "would be loaded",
    SetAction.RELOAD: "would be reloaded",
    SetAction.MOVE: "would be moved",
    SetAction.FILL: "would be filled",
    SetAction.RECOVER: "would be recovered",
    SetAction.UNLOAD: "would be unloaded",
}


@bpfpin_command("apply")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--check", is_flag=True, help="Change nothing; exit 10 if something would change.")
@click.option("--diff", is_flag=True, help="Show what differs, before anything is done.")
@click.option("--prune", is_flag=True, help="Unload sets of an earlier apply that no FILE has.")
@click.option(
    "--wait",
    "wait_s",
    type=Seconds(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Wait for the lock, and for devices and cgroups that are not there yet.",
)
@private_mount_option
def command(
    context: Context,
    *,
    files: tuple[str, ...],
    check: bool,
    diff: bool,
    prune: bool,
    wait_s: float,
    private_mount: bool,
) -> int:
    """Load, reload and fill sets so that they are what the state files FILE ask for.

    FILE is a file in TOML, or a directory with files *.toml. All files are read and all sets are
    planned before anything is changed; then each set is changed by a transaction of its own. A set
    that fails stays as it was, and the others are changed nevertheless; the exit status is that of
    the first failure. The same command again changes nothing.
    """
    report = apply_state(
        read_state(files),
        check=check,
        prune=prune,
        wait_s=wait_s,
        pin_root=context.pin_root,
        private_mount=private_mount,
        lock_timeout_s=context.lock_timeout_s,
        on_plan=lambda plan: _show_changes(context, plan) if diff else None,
    )
    for outcome in report.sets:
        _say(context, outcome, is_planned=report.is_planned)
    for note in report.notes:
        context.out.say(f"note: {note}")
    context.out.show(Report(lambda: _document(report)))
    return report.exit_code


def _show_changes(context: Context, plan: ApplyReport) -> None:
    """Write what differs; on stdout for people, on stderr beside a document."""
    write = context.out.text if context.out.format.name == "table" else context.out.say
    for outcome in plan.changed:
        write(f"{outcome.set}: {outcome.action.value}")
        for change in outcome.changes:
            write(f"  {change}")


def _say(context: Context, outcome: SetOutcome, *, is_planned: bool) -> None:
    for note in outcome.notes:
        context.out.say(f"note: {outcome.set}: {note}")
    if outcome.error is not None:
        failure = describe(outcome.error, words=context.words)
        context.out.complain(failure.message, hint=failure.hint)
        return
    words = _PLANNED if is_planned else _DONE
    place = f" ({outcome.place})" if outcome.place else ""
    context.out.say(f"{outcome.set}: {words[outcome.action]}{place}")


def _document(report: ApplyReport) -> dict[str, Any]:
    document = report.to_json()
    # The same as of every failure, beside what was done with the sets.
    for outcome in report.failed:
        if outcome.error is not None:
            return document | describe(outcome.error, words=()).document()
    return document
