"""Recovery for the pins: how a hook is opened again from what its set's manifest says."""

from __future__ import annotations

from collections.abc import Callable

from bpfpin.apps.sets.place import namespace_of
from bpfpin.attach.clsact import ClsactFilter
from bpfpin.attach.netlink_tc import FilterPlace
from bpfpin.attach.xdp_netlink import NetlinkXdp
from bpfpin.objects.link import Attachment
from bpfpin.objects.program import Program
from bpfpin.pins.directory import Directory
from bpfpin.pins.manifest import Held, HookRecord, Place
from bpfpin.pins.recover import Recovery, is_half_done
from bpfpin.pins.targets import Targets, recover_with_others
from bpfpin.pins.transaction import signals_deferred
from bpfpin.spec import Hook, XdpMode
from bpfpin.syscall import netns as namespaces
from bpfpin.syscall.fd import Closing


def recovered(root: Directory, name: str) -> Recovery:
    """Undo or finish what a dead command left of the set and of those that change with it.

    Ctrl-C waits until that is done.
    """
    if not Targets.left_below(root) and not is_half_done(root, name):
        return Recovery.NOTHING
    with signals_deferred():
        return recover_with_others(root, name, reopen)


def reopen(place: Place, record: HookRecord) -> Attachment:
    """Open the hook of *record*, which no link holds, wherever its namespace is."""
    if record.held is Held.FILTER:
        return _There(place, lambda: _filter(place, record))
    return _There(place, lambda: NetlinkXdp(place.ifindex, XdpMode(record.mode)))


def _filter(place: Place, record: HookRecord) -> ClsactFilter:
    """Return the filter with the program that it runs now: whoever asks has compared it."""
    at = FilterPlace(place.ifindex, Hook(record.hook), record.priority, record.handle)
    running = ClsactFilter(at, program_id=0, made_qdisc=False).program_id()
    return ClsactFilter(at, program_id=running, made_qdisc=record.made_qdisc)


class _There(Closing):
    """A hook that may be in another network namespace, which is entered for every look at it."""

    def __init__(self, place: Place, opened: Callable[[], Attachment]) -> None:
        self._place = place
        self._opened = opened

    def program_id(self) -> int:
        with namespaces.enter(namespace_of(self._place)):
            return self._opened().program_id()

    def update(self, program: Program, expected_old: Program | None = None) -> None:
        with namespaces.enter(namespace_of(self._place)):
            self._opened().update(program, expected_old)

    def detach(self) -> None:
        with namespaces.enter(namespace_of(self._place)):
            self._opened().detach()

    def close(self) -> None:
        """Do nothing: the device holds the program."""
