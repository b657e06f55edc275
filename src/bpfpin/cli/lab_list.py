"""`bpfpin lab list`: the labs that are up."""

from __future__ import annotations

from bpfpin.apps.lab import labs
from bpfpin.cli.context import Context, bpfpin_command


@bpfpin_command("list")
def command(context: Context) -> None:
    """List the labs that are up, with the addresses of both ends."""
    found = labs()
    if context.out.is_json:
        context.out.document({"labs": [lab.to_json() for lab in found]})
        return
    rows = [
        (lab.name, lab.device, " ".join(lab.addresses.host), " ".join(lab.addresses.peer))
        for lab in found
    ]
    if rows:
        context.out.table(("lab", "device", "here", "in the namespace"), rows)
    else:
        context.out.say("no lab is up; make one: bpfpin lab up NAME")
