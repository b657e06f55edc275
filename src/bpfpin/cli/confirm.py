"""`bpfpin confirm`: keep a change that was made with `--confirm`."""

from __future__ import annotations

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.formats import Report
from bpfpin.cli.options import optional_target_options
from bpfpin.sets.confirm import confirm


@bpfpin_command("confirm")
@optional_target_options
def command(context: Context, *, target: str | None) -> None:
    """Keep the change of DEV or NAME that is on trial.

    Without a target the only change on trial is kept.
    """
    report = confirm(
        target,
        netns=context.netns,
        pin_root=context.pin_root,
        lock_timeout_s=context.lock_timeout_s,
    )
    # Names the change: without a target the user gave no name.
    context.out.say(f"confirmed: {report.what} of {report.set or report.device} stays")
    context.out.show(Report(report.to_json()))
