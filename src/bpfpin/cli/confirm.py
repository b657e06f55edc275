"""`bpfpin confirm`: keep what a `--confirm` is about to take back."""

from __future__ import annotations

from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.options import optional_target_options
from bpfpin.sets.confirm import confirm


@bpfpin_command("confirm")
@optional_target_options
def command(context: Context, *, target: str | None) -> None:
    """Keep the change of DEV or NAME that is on trial, or the only one there is."""
    report = confirm(
        target,
        netns=context.netns,
        pin_root=context.pin_root,
        lock_timeout_s=context.lock_timeout_s,
    )
    context.out.say(f"confirmed: {report.what} of {report.set or report.device} stays")
    if context.out.is_json:
        context.out.document(report.to_json())
