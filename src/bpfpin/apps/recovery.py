"""Recovery for the pins: how a hook is opened again from what its set's manifest says."""

from __future__ import annotations

from bpfpin.apps.place import namespace_of
from bpfpin.attach.xdp_netlink import NetlinkXdp
from bpfpin.objects.link import Attachment
from bpfpin.objects.program import Program
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import HookRecord, Place
from bpfpin.pins.recover import Recovery, is_half_done, recover
from bpfpin.pins.transaction import signals_deferred
from bpfpin.spec import XdpMode
from bpfpin.syscall import netns as namespaces
from bpfpin.syscall.fd import Closing


def recovered(root: Directory, name: str) -> Recovery:
    """Undo or finish what a dead command left of the set, undisturbed by Ctrl-C."""
    if not is_half_done(root, name):
        return Recovery.NOTHING
    with signals_deferred():
        return recover(root, name, reopen)


def reopen(place: Place, record: HookRecord) -> Attachment:
    """Open the hook of *record*, which no link holds, wherever its namespace is."""
    return _There(place, NetlinkXdp(place.ifindex, XdpMode(record.mode)))


class _There(Closing):
    """A hook in another network namespace, which is entered for every look at it."""

    def __init__(self, place: Place, hook: NetlinkXdp) -> None:
        self._place = place
        self._hook = hook

    def program_id(self) -> int:
        with namespaces.enter(namespace_of(self._place)):
            return self._hook.program_id()

    def update(self, program: Program, expected_old: Program | None = None) -> None:
        with namespaces.enter(namespace_of(self._place)):
            self._hook.update(program, expected_old)

    def detach(self) -> None:
        with namespaces.enter(namespace_of(self._place)):
            self._hook.detach()

    def close(self) -> None:
        self._hook.close()
