"""`bpfpin unload`: detach the programs of a set and unpin its maps."""

from __future__ import annotations

import click

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.formats import Report
from bpfpin.cli.options import optional_target_options
from bpfpin.errors import UsageError
from bpfpin.sets.reports import UnloadReport
from bpfpin.sets.undeploy import undeploy, undeploy_all


@bpfpin_command("unload")
@optional_target_options
@click.option("--keep-maps", is_flag=True, help="Keep the pinned maps for the next load.")
@click.option("--all", "is_all", is_flag=True, help="Unload every set below the pin root.")
def command(context: Context, *, target: str | None, keep_maps: bool, is_all: bool) -> None:
    """Detach the programs and unpin the maps of the set of DEV, or of the set NAME.

    Programs and pins that bpfpin did not make stay.
    """
    if is_all and target is not None:
        raise UsageError(f"two targets, {target!r} and --all: give one of them")
    if is_all:
        _unload_all(context, keep_maps=keep_maps)
        return
    if target is None:
        raise UsageError(
            "no set: give its device or its name", hint="bpfpin status; for all sets: --all"
        )
    report = undeploy(
        target,
        netns=context.netns,
        pin_root=context.pin_root,
        lock_timeout_s=context.lock_timeout_s,
        keep_maps=keep_maps,
    )
    _say(context, report)
    context.out.show(Report(report.to_json()))


def _unload_all(context: Context, *, keep_maps: bool) -> None:
    reports, errors = undeploy_all(
        pin_root=context.pin_root, lock_timeout_s=context.lock_timeout_s, keep_maps=keep_maps
    )
    for report in reports:
        _say(context, report)
    if not reports and not errors:
        context.out.say(f"nothing is loaded below {context.pin_root}")
    # Every set was tried: one that fails must not keep the others loaded. The first error decides
    # the exit status, so the others are written here.
    for error in errors[1:]:
        context.out.say(f"problem: {error.message}")
    if errors:
        raise errors[0]
    sets = [report.to_json() for report in reports]
    context.out.show(Report({"result": "unloaded", "sets": sets}))


def _say(context: Context, report: UnloadReport) -> None:
    for note in report.notes:
        context.out.say(f"note: {note}")
    detached = f", detached from {', '.join(report.devices)}" if report.devices else ""
    context.out.say(f"unloaded {report.set}{detached}")
    if report.kept_maps:
        context.out.say(
            f"kept in {report.path}: {', '.join(report.kept_maps)};"
            f" the next load of {report.set} uses them"
        )
