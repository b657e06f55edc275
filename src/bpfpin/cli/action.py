"""`bpfpin action`: show or switch the verdict of a running XDP program."""

from __future__ import annotations

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.formats import Report
from bpfpin.cli.options import chosen_target, complete_sets, device_option
from bpfpin.errors import UsageError
from bpfpin.hints import shell_line
from bpfpin.sets.action import NOT_SET, ActionReport, ActionResult, Switch, show, switch
from bpfpin.uapi import UpdateFlag

_FLAGS = {"any": UpdateFlag.ANY, "noexist": UpdateFlag.NOEXIST, "exist": UpdateFlag.EXIST}
# A day: nobody waits longer for a change to prove itself.
_SECONDS_MAX = 86400


@bpfpin_command("action")
@click.argument("target", metavar="DEV|NAME", required=False, shell_complete=complete_sets)
@click.argument("action", metavar="[ACTION]", required=False)
@device_option()
@click.option("--map", "map_name", metavar="NAME", help="Map that holds the verdict (action).")
@click.option(
    "--flag",
    type=click.Choice(list(_FLAGS)),
    help="noexist: the entry must be new; exist: it must exist (default: any).",
)
@click.option(
    "--force", is_flag=True, help="Allow XDP_TX and XDP_REDIRECT, and to cut your own connection."
)
@click.option(
    "--confirm",
    "confirm_s",
    metavar="SECONDS",
    type=click.IntRange(min=1, max=_SECONDS_MAX),
    help="Undo the change after SECONDS unless `bpfpin confirm` is run before.",
)
def command(
    context: Context,
    *,
    target: str | None,
    action: str | None,
    dev: str | None,
    map_name: str | None,
    flag: str | None,
    force: bool,
    confirm_s: int | None,
) -> None:
    """Show the verdict of the program on DEV, or switch it to ACTION.

    ACTION is a name or a number, such as XDP_PASS, pass or 2; upper and lower case are the same.
    The verdict is in the map `action` of the set, or of the program that runs on DEV, even
    if bpfpin did not load it.
    """
    target, action = _words(target, action, dev)
    if action is None:
        # Options of a switch without a verdict: somebody forgot the verdict, and would take the
        # shown one for the new one.
        if flag or force or confirm_s:
            line = shell_line("bpfpin action", target, "XDP_PASS")
            raise UsageError("no verdict to switch to", hint=line)
        # Shows without the lock: nothing is changed, and a long load need not be awaited.
        report = show(target, map_name=map_name, netns=context.netns, pin_root=context.pin_root)
    else:
        report = switch(
            target,
            action,
            how=Switch(_FLAGS[flag or "any"], force, confirm_s),
            map_name=map_name,
            netns=context.netns,
            pin_root=context.pin_root,
            lock_timeout_s=context.lock_timeout_s,
        )
    _say(context, report)


def _words(target: str | None, action: str | None, dev: str | None) -> tuple[str, str | None]:
    """Return target and verdict; with `--dev` the only argument is the verdict."""
    # In `action --dev eth0 XDP_DROP` the only argument is the verdict, which click gives to
    # *target*.
    if dev and target and action is None and target != dev:
        return dev, target
    chosen = chosen_target(target, dev)
    if not chosen:
        raise UsageError("no target: give a device or a set", hint="bpfpin status")
    return chosen, action


def _say(context: Context, report: ActionReport) -> None:
    out = context.out
    for note in report.notes:
        out.say(f"note: {note}")
    shown = _shown(report)
    whose = report.set or report.device
    is_shown = report.result is ActionResult.SHOWN
    out.show(Report(report.to_json(), (lambda out: out.text(shown)) if is_shown else None))
    if report.result is ActionResult.UNCHANGED:
        out.say(f"unchanged: the verdict of {whose} is already {shown}")
    elif not is_shown:
        out.say(f"switched the verdict of {whose} from {_before(report)} to {shown}")
    if report.result is ActionResult.ON_TRIAL:
        confirm = shell_line("bpfpin confirm", whose)
        out.say(f"it goes back in {report.confirm_s} seconds; to keep it: {confirm}")


def _before(report: ActionReport) -> str:
    if report.before != report.action:
        return report.before or "unset"
    # What the program did before is the same: it is the entry that changes.
    is_unset = report.before is None or report.before_note == NOT_SET
    return "unset" if is_unset else f"{report.before} ({report.before_note})"


def _shown(report: ActionReport) -> str:
    if report.action is None:
        return report.note
    return f"{report.action} ({report.note})" if report.note else report.action
