"""`bpfpin doctor`: check this host, and show a fix for each failed check."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict

import click

from bpfpin.apps.doctor import HostCheck, doctor
from bpfpin.cli.context import Context, bpfpin_command
from bpfpin.cli.failure import sudo_hint, words_of
from bpfpin.cli.formats import Report
from bpfpin.cli.options import chosen_target, device_option
from bpfpin.cli.output import Output


@bpfpin_command("doctor")
@click.argument("device", metavar="[DEV]", required=False)
@device_option()
def command(context: Context, *, device: str | None, dev: str | None) -> None:
    """Check what this kernel, this user, bpffs and the device DEV allow.

    Each failed check comes with a fix.
    """
    chosen_device = chosen_target(device, dev)
    # Root without a capability runs in a container or a service: sudo would not help.
    as_root = sudo_hint(context.words) if os.geteuid() else "give this root the capabilities"
    checks = doctor(chosen_device, pin_root=context.pin_root, as_root=as_root)
    data = {"checks": [asdict(check) | {"fix": words_of(check.fix)} for check in checks]}
    context.out.show(Report(data, lambda out: _write(out, checks)))


def _write(out: Output, findings: Iterable[HostCheck]) -> None:
    for finding in findings:
        for line in _lines(finding):
            out.text(out.typed(line))


def _lines(check: HostCheck) -> list[str]:
    lines = [f"{'ok' if check.ok else 'NO':<3} {check.name}: {check.text}"]
    if fix := words_of(check.fix):
        lines.append(f"    {'better' if check.ok else 'do'}: {fix}")
    return lines
