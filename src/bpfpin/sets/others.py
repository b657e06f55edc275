"""Programs of others on the devices of this network namespace, beside those of our sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from bpfpin.attach.devices import all_devices
from bpfpin.attach.registry import running_on_devices
from bpfpin.errors import BpfError
from bpfpin.objects.programs.program import Program
from bpfpin.records import dataclass


@dataclass(frozen=True)
class OtherProgram:
    """A program that somebody else attached; *name* is "" where it may not be asked for."""

    device: str
    hook: str
    id: int
    name: str = ""
    mode: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the form that `-o json` shows."""
        return dataclasses.asdict(self)


def other_programs(own: Collection[int], *, ifindex: int | None = None) -> tuple[OtherProgram, ...]:
    """Return the programs at hooks of devices that are not among *own*, by program id.

    Only the device *ifindex* is asked, if that is given. Hooks that this user cannot ask are left
    out.
    """
    devices = [device for device in all_devices() if ifindex in (None, device.ifindex)]
    programs: dict[int, list[OtherProgram]] = {device.ifindex: [] for device in devices}
    names = {device.ifindex: device.name for device in devices}
    # This list is an extra of `status`: a user without the right to ask gets the rest of the
    # report.
    with suppress(BpfError):
        for running in running_on_devices(devices):
            if running.program_id not in own:
                other = OtherProgram(
                    names[running.ifindex],
                    running.hook.value,
                    running.program_id,
                    _name(running.program_id),
                    running.mode,
                )
                programs[running.ifindex].append(other)
    return tuple(other for others in programs.values() for other in others)


def _name(program_id: int) -> str:
    # BPF_PROG_GET_FD_BY_ID needs CAP_SYS_ADMIN, unlike the query of a hook.
    with suppress(BpfError), Program.from_id(program_id) as program:
        return program.name
    return ""
