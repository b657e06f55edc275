"""Classic tc: programs in filters of the qdisc clsact, for kernels without tcx or beside it.

A filter has no link: it outlives every process, and the kernel replaces its program without
comparing. So the program is read before and after, and who made the qdisc is to be remembered.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from types import TracebackType

from bpfpin.attach import interface as interfaces
from bpfpin.attach import netlink_tc
from bpfpin.attach.netlink_tc import Filter, FilterPlace
from bpfpin.attach.order import require_hook, require_type
from bpfpin.errors import HookBusyError, IdNotFoundError, ProgramChangedError, UsageError
from bpfpin.objects.programs.program import Program
from bpfpin.spec import Hook, choice_of
from bpfpin.syscall.errno_table import InvalidArgumentError
from bpfpin.syscall.fd import Closing
from bpfpin.uapi import ProgramType

HOOKS = frozenset({Hook.TC_INGRESS, Hook.TC_EGRESS})
# Before the priorities that tc(8) takes by itself (49152 and down), after those typed by hand.
PRIORITY = 191


class ClsactFilter(Closing):
    """A filter with direct action that runs one program; *made_qdisc* says whose the qdisc is.

    To be opened again it needs what it was made with, and *program_id*, the program expected there.
    """

    def __init__(self, place: FilterPlace, *, program_id: int, made_qdisc: bool) -> None:
        self._place = place
        self._expected_id = program_id
        self.made_qdisc = made_qdisc

    @property
    def ifindex(self) -> int:
        """The device's index."""
        return self._place.ifindex

    @property
    def hook(self) -> Hook:
        """TC_INGRESS or TC_EGRESS."""
        return self._place.hook

    @property
    def priority(self) -> int:
        """What tc(8) calls `pref`: lower ones run first."""
        return self._place.priority

    @property
    def handle(self) -> int:
        """What tc(8) calls `handle`: unique within the priority."""
        return self._place.handle

    def program_id(self) -> int:
        """Return the id of the program that the filter runs now, 0 if the filter is gone.

        `InterfaceNotFoundError` if the device is gone.
        """
        interfaces.ifindex(self.ifindex)
        found = [one for one in netlink_tc.filters(self.ifindex, self.hook) if self._is_it(one)]
        return found[0].program_id if found else 0

    def update(self, program: Program, expected_old: Program | None = None) -> None:
        """Run *program* from the next packet on, losing none.

        With *expected_old* only if that one runs now, else `ProgramChangedError`; so it is if the
        filter was removed. `InterfaceNotFoundError` if the device is gone.
        """
        running = self.program_id()
        if running == 0 or (expected_old is not None and running != expected_old.id):
            raise self._changed(running)
        try:
            netlink_tc.change_filter(self._place, program.fd, program.name)
        except (IdNotFoundError, InvalidArgumentError):  # the filter, or the qdisc, went just now
            raise self._changed(0) from None
        self._expected_id = program.id
        after = self.program_id()
        if after != program.id:
            raise self._changed(after)

    def detach(self) -> None:
        """Remove the filter, and the qdisc if we made it and nothing is left in it.

        `ProgramChangedError` if another program than ours runs. What is gone is left gone.
        """
        if not interfaces.name_of(self.ifindex):
            return
        running = self.program_id()
        if running not in (0, self._expected_id):
            raise self._changed(running)
        if running:
            netlink_tc.delete_filter(self._place)
        if self.made_qdisc:
            _delete_if_empty(self.ifindex)

    def close(self) -> None:
        """Do nothing: the device holds the filter."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Detach at the end of `with`, as a link does that is not pinned."""
        self.detach()

    def _is_it(self, found: Filter) -> bool:
        return found.place == self._place

    def _changed(self, running: int) -> ProgramChangedError:
        place = f"{self.hook.value} of {interfaces.name_of(self.ifindex)}"
        there = f"runs program id {running}" if running else "is gone"
        return ProgramChangedError(
            f"the filter {self.handle:#x} of priority {self.priority} at {place} {there};"
            f" program id {self._expected_id} was expected",
            holder=f"program id {running}" if running else "",
        )


def attach_clsact(
    program: Program,
    interface: str | int,
    hook: Hook | str,
    *,
    priority: int | None = None,
    handle: int | None = None,
) -> ClsactFilter:
    """Attach a tc program by a filter of classic tc, as `tc filter add … bpf direct-action` does.

    *interface* is a name or an ifindex of the current network namespace, *hook* TC_INGRESS or
    TC_EGRESS. The qdisc clsact is made where it is missing. Without *handle* it is the program's
    id, if that is free. It stays when this process ends, unless `detach` or the end of a `with`
    detaches it. `HookBusyError` if the hook runs this
    program already, if the handle is taken, or if the qdisc ingress is there, which has no egress.
    """
    hook = choice_of(Hook, hook, what="hook")
    require_hook(hook, HOOKS, "classic tc")
    require_type(program, ProgramType.SCHED_CLS, hook)
    wanted = PRIORITY if priority is None else priority
    _require_number("priority", wanted, 0xFFFF)
    if handle is not None:
        _require_number("handle", handle, 0xFFFFFFFF)
    ifindex = interfaces.ifindex(interface)
    made_qdisc = _ensure_qdisc(ifindex, hook)
    try:
        place = _place(program, FilterPlace(ifindex, hook, wanted, handle or 0))
        netlink_tc.create_filter(place, program.fd, program.name)
    except BaseException:
        if made_qdisc:
            _delete_if_empty(ifindex)
        raise
    return ClsactFilter(place, program_id=program.id, made_qdisc=made_qdisc)


def _require_number(what: str, number: int, highest: int) -> None:
    if not 0 < number <= highest:  # the kernel takes 0 for: choose one
        raise UsageError(f"{what} {number} is not between 1 and {highest}")


def _place(program: Program, wanted: FilterPlace) -> FilterPlace:
    """Return where the filter goes, with a handle: the program's id makes it known beforehand."""
    there = netlink_tc.filters(wanted.ifindex, wanted.hook)
    _require_absent(program, there)
    if wanted.handle:
        return wanted
    taken = {one.place.handle for one in there if one.place.priority == wanted.priority}
    return replace(wanted, handle=_free_handle(program.id, taken))


def _ensure_qdisc(ifindex: int, hook: Hook) -> bool:
    """Make the qdisc clsact unless it is there; return whether it was made."""
    try:
        netlink_tc.create_clsact(ifindex)
    except HookBusyError:
        kind = netlink_tc.qdiscs().get(ifindex, "")
        # The qdisc `ingress` would take a filter for egress, and run it at ingress.
        if kind != netlink_tc.CLSACT and hook is Hook.TC_EGRESS:
            name = interfaces.name_of(ifindex)
            raise HookBusyError(
                f"{name} has the qdisc {kind or 'of another kind'} where clsact would be,"
                " and that one has no egress",
                holder=f"qdisc {kind}",
                hint=f"remove it with all its filters: tc qdisc del dev {name} {kind}"
                if kind
                else "",
            ) from None
        return False
    return True


def _require_absent(program: Program, there: Collection[Filter]) -> None:
    for one in there:
        if one.program_id == program.id:
            place = one.place
            holder = f"filter {place.handle:#x} of priority {place.priority}"
            raise HookBusyError(
                f"{place.hook.value} of {interfaces.name_of(place.ifindex)} runs this program"
                f" already: program id {program.id} in {holder}",
                holder=holder,
            )


def _free_handle(wanted: int, taken: Collection[int]) -> int:
    while wanted in taken:
        wanted += 1
    return wanted


def _delete_if_empty(ifindex: int) -> None:
    """Remove the qdisc clsact; the kernel would remove it with filters in it, so look first."""
    is_ours = netlink_tc.qdiscs().get(ifindex) == netlink_tc.CLSACT
    if is_ours and not any(netlink_tc.filters(ifindex, hook) for hook in HOOKS):
        netlink_tc.delete_clsact(ifindex)
