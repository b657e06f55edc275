"""`bpfpin doctor`: what is allowed here, and what to do about what is not."""

from __future__ import annotations

import os
from dataclasses import asdict

import click

from bpfpin.apps.doctor import Check, doctor
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.failure import sudo_hint
from bpfpin.cli.options import chosen_target, device_option


@bpfpin_command("doctor")
@click.argument("device", metavar="[DEV]", required=False)
@click.option(
    "--dev", metavar="DEV", help="The device; the same as DEV.", shell_complete=device_option
)
def command(context: Context, *, device: str | None, dev: str | None) -> None:
    """Say what this kernel, this user, bpffs and the device DEV allow.

    What does not work comes with what to do about it.
    """
    wanted = chosen_target(device, dev)
    as_root = sudo_hint(context.words) if os.geteuid() else "give this root the capabilities"
    checks = doctor(wanted, pin_root=context.pin_root, as_root=as_root)
    if context.out.is_json:
        context.out.document({"checks": [asdict(check) for check in checks]})
        return
    for check in checks:
        for line in _lines(check):
            context.out.text(line)


def _lines(check: Check) -> list[str]:
    lines = [f"{'ok' if check.ok else 'NO':<3} {check.name}: {check.text}"]
    if check.fix:
        lines.append(f"    {'better' if check.ok else 'do'}: {check.fix}")
    return lines
