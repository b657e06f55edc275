"""`bpfpin unload`: detach and unpin what `load` made."""

from __future__ import annotations

import click

from bpfpin.apps.reports import UnloadReport
from bpfpin.apps.undeploy import undeploy
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.target import target_options


@bpfpin_command("unload")
@target_options
@click.option("--keep-maps", is_flag=True, help="Leave the maps for the next load.")
def command(context: Context, *, target: str, keep_maps: bool) -> None:
    """Detach and unpin the set of DEV, or the set NAME.

    What somebody else attached or pinned stays.
    """
    report = undeploy(
        target,
        netns=context.netns,
        pin_root=context.pin_root,
        lock_timeout_s=context.lock_timeout_s,
        keep_maps=keep_maps,
    )
    _say(context, report)
    if context.out.is_json:
        context.out.document(report.to_json())


def _say(context: Context, report: UnloadReport) -> None:
    for note in report.notes:
        context.out.say(f"note: {note}")
    detached = f", detached from {', '.join(report.devices)}" if report.devices else ""
    context.out.say(f"unloaded {report.set}{detached}")
    if report.kept_maps:
        context.out.say(
            f"kept in {report.path}: {', '.join(report.kept_maps)};"
            f" the next load of {report.set} goes on with them"
        )
