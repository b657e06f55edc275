"""Programs of others on the devices of this network namespace, beside those of our sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bpfpin.attach import netlink_tc
from bpfpin.attach.clsact import HOOKS as CLSACT
from bpfpin.attach.devices import DeviceRow, all_devices
from bpfpin.attach.query import tcx_programs
from bpfpin.attach.tcx import HOOKS as TCX
from bpfpin.errors import BpfError
from bpfpin.objects.programs.program import Program
from bpfpin.spec import Hook


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
    """Return who is attached by XDP, tcx and classic tc and is none of *own*, by program id.

    Only the device *ifindex* is looked at, if that is given. What this user may not ask for is left
    out.
    """
    with_filters = netlink_tc.qdiscs()
    found = [
        one
        for device in all_devices()
        if ifindex in (None, device.ifindex)
        for one in _of_device(device, has_filters=device.ifindex in with_filters)
    ]
    return tuple(dataclasses.replace(one, name=_name(one.id)) for one in found if one.id not in own)


def _of_device(device: DeviceRow, *, has_filters: bool) -> Iterator[OtherProgram]:
    for mode, program_id in device.xdp.items():
        yield OtherProgram(device.name, Hook.XDP.value, program_id, mode=mode.value)
    with suppress(BpfError):  # no privilege, or the device went meanwhile
        for hook in sorted(TCX, key=list(Hook).index):
            for program in tcx_programs(device.ifindex, hook):
                yield OtherProgram(device.name, hook.value, program.program_id)
        for hook in sorted(CLSACT, key=list(Hook).index) if has_filters else ():
            for one in netlink_tc.filters(device.ifindex, hook):
                if one.program_id:
                    yield OtherProgram(device.name, hook.value, one.program_id)


def _name(program_id: int) -> str:
    with suppress(BpfError), Program.from_id(program_id) as program:
        return program.name
    return ""
