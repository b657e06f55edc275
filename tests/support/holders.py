"""Who else may hold a device: a link of somebody's, or a program put there by netlink."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from bpfpin.attach.netlink import Netlink
from bpfpin.attach.xdp import XdpLink, attach_xdp
from bpfpin.hooks import HeldBy
from bpfpin.objects.programs.program import Program
from bpfpin.pins.pinset import PinSet
from bpfpin.spec import XdpMode
from support.here import Here, holder_of
from support.sets import xdp_program


@contextlib.contextmanager
def their_link(here: Here, mode: XdpMode = XdpMode.NATIVE) -> Iterator[XdpLink]:
    """Attach a program called `theirs` by a link that the test alone holds."""
    with xdp_program("theirs") as theirs, attach_xdp(theirs, here.device, mode=mode) as link:
        yield link


@contextlib.contextmanager
def their_program(here: Here, mode: XdpMode = XdpMode.NATIVE) -> Iterator[Program]:
    """Attach a program called `theirs` without a link; at the end it goes if it is still there."""
    with xdp_program("theirs") as theirs, Netlink() as netlink:
        ifindex = socket.if_nametoindex(here.device)
        netlink.attach_xdp(theirs.fd, ifindex, mode)
        try:
            yield theirs
        finally:
            holder = holder_of(here.device)
            if holder is not None and holder.program_id == theirs.id:
                netlink.detach_xdp(ifindex, mode)


def running(here: Here) -> int:
    """Return the id of the program that runs on the device, 0 for none."""
    holder = holder_of(here.device)
    return 0 if holder is None else holder.program_id


def held(here: Here) -> list[HeldBy]:
    """Return how the hooks of the set are held, as its manifest says."""
    manifest = PinSet.read(here.root, here.device).manifest
    assert manifest is not None
    return [record.held_by for record in manifest.hooks]
